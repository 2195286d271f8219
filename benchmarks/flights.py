"""The main job's own record: `polytask compare flights`, as the demo runs it and on all rows.

    polytask compare flights --out demo                    # what `make demo` runs
    python benchmarks/flights.py demo/report.json demo     # keep it as the record of that name

`table()` renders what is on record for docs/flights.md.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from harness import RESULTS

TITLES = {
    "demo": "The demo: 20,000 rows",
    "full": "All 336,776 rows",
    "carriers": "Carriers as tasks: the arrival delay of each, 20,000 rows",
}
MOST = 8  # tasks that have a column of their own


def path(name: str) -> Path:
    return RESULTS / f"flights.{name}.report.json"


def table() -> str:
    """The records in Markdown: the verdict, the methods, the primary score of every task."""
    return "\n\n".join(
        _one(title, json.loads(path(name).read_text(encoding="utf-8")))
        for name, title in TITLES.items()
        if path(name).exists()
    )


def _one(title: str, report: dict[str, Any]) -> str:
    tasks = [(t["name"], t["metric"]) for t in report["suite"]["tasks"]]
    tasks = tasks if len(tasks) <= MOST else []
    settings, verdict = report["settings"], report["verdict"]
    head = ["method", "gain, validation", "gain, test (95 % interval)", "models", "training"]
    head += [f"{name} ({metric})" for name, metric in tasks]
    lines = [
        f"### {title}",
        "",
        f"`{settings['command']}`, {settings['seconds']:.0f} s on {settings['machine']}, "
        f"seeds {', '.join(map(str, settings['seeds']))}. {settings['budget']}",
        "",
        f"**{'Share' if verdict['share'] else 'Do not share'}.** {verdict['sentence']}",
        "",
        "| " + " | ".join(head) + " |",
        "| --- |" + " ---: |" * (len(head) - 1),
    ]
    ranked = sorted(report["methods"], key=lambda m: -(m["gain"]["validation"]["mean"] or 0.0))
    for method in ranked:
        row = [
            method["name"] + (" (chosen)" if method["name"] == verdict["method"] else ""),
            _percent(method["gain"]["validation"], interval=False),
            "reference" if method["reference"] else _percent(method["gain"]["test"]),
            str(method["cost"]["models"]),
            f"{method['cost']['train_seconds']:.0f} s",
        ]
        for name, metric in tasks:
            score = method["scores"][name][metric]["test"]
            row.append(f"{score['mean']:.3f} ± {score['std']:.3f}")
        lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines)


def _percent(gain: dict[str, Any], *, interval: bool = True) -> str:
    if gain["mean"] is None:
        return "not defined"
    text = f"{gain['mean']:+.2f} %"
    if interval and gain["low"] is not None:
        text += f" ({gain['low']:+.2f} to {gain['high']:+.2f})"
    return text


if __name__ == "__main__":
    source, name = sys.argv[1:]
    if name not in TITLES:
        sys.exit(f"{name} is none of {', '.join(TITLES)}")
    path(name).write_text(Path(source).read_text(encoding="utf-8"), encoding="utf-8")
