"""What every benchmark stands on: a record that resumes, and claims written beside it.

    record = Record("multitab")
    cell = record.cell({"part": "sweep", "tasks": 4, "seed": 0}, lambda: {"ev": ...})
    ...
    write_claims("multitab", claims)

A cell is measured once: its settings are its key, its result is one JSON line in
``results/<name>.jsonl``, written as soon as it is there. Delete a line to measure it again.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from polytask.comparing.claims import Claim, as_rows

RESULTS = Path(__file__).parent / "results"


class Record:
    """The measured cells of one benchmark, by their settings."""

    def __init__(self, name: str) -> None:
        self.path = RESULTS / f"{name}.jsonl"
        self.cells: dict[str, dict[str, Any]] = {}
        if self.path.exists():
            for line in self.path.read_text(encoding="utf-8").splitlines():
                row = json.loads(line)
                self.cells[_key(row["settings"])] = row

    def cell(
        self, settings: Mapping[str, Any], measure: Callable[[], Mapping[str, Any]]
    ) -> dict[str, Any]:
        """The result for these settings, measured now if it is not on record."""
        key = _key(settings)
        if key not in self.cells:
            started = time.perf_counter()
            result = dict(measure())
            row = {
                "settings": dict(settings),
                "result": result,
                "seconds": round(time.perf_counter() - started, 2),
                "machine": machine(),
                "commit": commit(),
            }
            self.path.parent.mkdir(exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            self.cells[key] = row
            print(f"{self.path.stem}: {key} ({row['seconds']} s)", flush=True)
        return self.cells[key]["result"]

    def select(self, **settings: Any) -> list[dict[str, Any]]:
        """All cells whose settings include these, as rows with ``settings`` and ``result``."""
        return [
            row
            for row in self.cells.values()
            if all(row["settings"].get(k) == v for k, v in settings.items())
        ]


def write_claims(system: str, claims: Sequence[Claim]) -> None:
    """Write a system's judged claims beside its record."""
    path = RESULTS / f"{system}.claims.json"
    path.write_text(json.dumps(as_rows(claims), indent=1, ensure_ascii=False) + "\n", "utf-8")


def spread(values: Iterable[float], digits: int = 3) -> str:
    """``mean ± standard deviation (n)`` as text; a single value has no deviation."""
    import numpy as np

    numbers = np.asarray(list(values), dtype=float)
    deviation = f" ± {numbers.std(ddof=1):.{digits}f}" if len(numbers) > 1 else ""
    return f"{numbers.mean():.{digits}f}{deviation} ({len(numbers)})"


def machine() -> str:
    """What ran it: processor kind and cores; figures are ratios for a reason."""
    return f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"


def commit() -> str:
    """The commit the figures were measured at."""
    done = subprocess.run(
        ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip()


def _key(settings: Mapping[str, Any]) -> str:
    return json.dumps(settings, sort_keys=True)
