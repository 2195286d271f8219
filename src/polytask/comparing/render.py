"""A report as one self-contained HTML page.

Reads the JSON of a `Report` and decides order, scale and shade; `template.html` has the words.
"""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Sequence
from typing import Any

from polytask.comparing.words import (
    MINUS,
    MISSING,
    Json,
    arrow,
    best,
    count,
    date,
    decimals,
    duration,
    gain_range,
    headline,
    number,
    percent,
    ranked,
    score,
    signed,
)

SHARING = {
    "single": "one model per task",
    "joint": "one shared model",
    "separate": "a separate tool per task",
}
STRONGEST = 0.5  # opacity of the strongest shade; the text on it stays readable
CURVES = 4  # lines in one panel; more cannot be told apart
PANELS = 24  # tasks whose learning curves are drawn
POINTS = 50  # of one line


def page(data: Json) -> str:
    """The report as one HTML document: no script, no font, no picture from outside."""
    methods = ranked(data)
    return filled(
        "template.html",
        data=data,
        sharing=SHARING,
        headline=headline(data["verdict"]),
        methods=methods,
        chosen=next((m for m in methods if m["chosen"]), None),
        bars=bars([(m, m["gain"]) for m in methods]),
        own_bars=own_bars(methods),
        scores=score_table(data["suite"]["tasks"], methods),
        details=[detail(task, methods) for task in data["suite"]["tasks"]],
        transfer=transfer(data.get("transfer")),
        conflict=conflict(data.get("conflict")),
        curves=curves(data["suite"]["tasks"], methods),
        cost=cost_plots(methods),
    )


def filled(template: str, **values: Any) -> str:
    """A template of this room with the numbers written as people write them."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("polytask.comparing", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "signed": signed, "percent": percent, "gain_range": gain_range, "number": number,
        "count": count, "duration": duration, "date": date, "arrow": arrow,
    }  # fmt: skip
    return re.sub(r"\n\s+", "\n", environment.get_template(template).render(values))


def bounds(gains: Sequence[Json]) -> tuple[float, float]:
    """Lower and upper end of a scale for gains; 0 is always inside.

    Few seeds make wide intervals and a diverged method a huge loss; neither may squeeze the rest
    to nothing, so an interval adds at most the span of the means, and the scale ends at six times
    the median loss or gain below zero.
    """
    means = [g["mean"] for g in gains if g["mean"] is not None] or [0.0]
    floor = -max(6 * statistics.median(abs(m) for m in means), max(means), 0.1)
    low, high = max(min(0, *means), floor), max(0, *means)
    span = max(high - low, 0.1)
    lows = [g["low"] for g in gains if g["low"] is not None]
    highs = [g["high"] for g in gains if g["high"] is not None]
    low = max(min([low, *lows]), low - span)
    high = min(max([high, *highs]), high + span)
    pad = 0.06 * (high - low or span)
    return low - pad, high + pad


def bars(rows: Sequence[tuple[Json, Json]]) -> Json:
    """Positions in percent of the track's width for each row of method and gain."""
    from matplotlib.ticker import MaxNLocator

    low, high = bounds([gain["test"] for _, gain in rows])

    def place(value: float) -> float:
        return round(100 * (min(max(value, low), high) - low) / (high - low), 2)

    zero = place(0)
    drawn = []
    for method, gain in rows:
        test, validation = gain["test"], gain["validation"]["mean"]
        row: Json = {"method": method, "test": test, "validation": validation, "bar": None}
        if test["mean"] is not None:
            end = place(test["mean"])
            row |= {"bar": (min(zero, end), abs(end - zero)), "cut": test["mean"] < low}
        if test["low"] is not None and test["low"] < test["high"]:  # the reference has no line
            left, right = place(test["low"]), place(test["high"])
            row["whisker"] = (left, round(right - left, 2), test["low"] < low, test["high"] > high)
        if validation is not None:
            row["dot"] = place(validation)
        drawn.append(row)
    ticks = [t for t in MaxNLocator(5).tick_values(low, high) if low <= t <= high]
    labels = [(place(t), f"{t:+g}".replace("-", MINUS) if t else "0") for t in ticks]
    return {"rows": drawn, "zero": zero, "ticks": labels}


def own_bars(methods: list[Json]) -> Json | None:
    """Bars against the same learner task by task, where that says more than the first bars."""
    reference = next((m["learner"] for m in methods if m["reference"]), None)
    rows = [(m, m["vs_own_single"]) for m in methods if m["vs_own_single"]]
    return bars(rows) if any(m["learner"] != reference for m, _ in rows) else None


def shade(value: float | None, strongest: float) -> Json:
    """Class and opacity of a cell: help above zero, hurt below."""
    if value is None or not strongest:
        return {"kind": "", "alpha": 0}
    alpha = round(STRONGEST * min(abs(value) / strongest, 1), 3)
    return {"kind": "help" if value > 0 else "hurt", "alpha": alpha}


def score_table(tasks: list[Json], methods: list[Json]) -> list[Json]:
    """One row per method: score on test, its spread and its change from the reference."""
    reference = next((m for m in methods if m["reference"]), None)
    columns = []
    for task in tasks:
        scores = [score(m, task, task["metric"]) for m in methods]
        means = [s["mean"] for s in scores]
        digits, top = decimals(means), best(means, task["higher_is_better"])
        base = score(reference, task, task["metric"])["mean"] if reference else None
        column: list[Json] = []
        for found in scores:
            change = None
            if base and found["mean"] is not None:
                change = 100 * (found["mean"] - base) / abs(base)
                change = change if task["higher_is_better"] else -change
            column.append({
                "mean": number(found["mean"], digits), "change": change,
                "std": None if found["std"] is None else number(found["std"], digits),
                "best": found["mean"] is not None and found["mean"] == top,
            })  # fmt: skip
        columns.append(column)
    strongest = min(max((abs(c["change"] or 0) for col in columns for c in col), default=0), 10)
    return [
        {
            "method": method,
            "cells": [col[i] | shade(col[i]["change"], strongest) for col in columns],
        }
        for i, method in enumerate(methods)
    ]


def detail(task: Json, methods: list[Json]) -> Json:
    """All metrics of one task, validation beside test."""
    rows, columns = [], [(m, p) for m in task["metrics"] for p in ("validation", "test")]
    digits = {
        metric: decimals([score(m, task, metric)["mean"] for m in methods])
        for metric in task["metrics"]
    }
    for method in methods:
        cells = []
        for metric, part in columns:
            found = score(method, task, metric, part)
            text = number(found["mean"], digits[metric])
            if found["std"] is not None:
                text += f" ± {number(found['std'], digits[metric])}"
            cells.append(text)
        rows.append({"method": method, "cells": cells})
    return {"task": task, "rows": rows}


def heat(
    names: list[str],
    matrix: list[list[float | None]],
    strongest: float,
    std: list[list[float | None]] | None = None,
    digits: int = 1,
    harm: bool = False,
) -> list[Json]:
    """Rows of shaded cells; `harm` says that high values are the bad ones.

    A cell whose value is smaller than its spread over seeds is `unsure` and stays without shade.
    """
    rows = []
    for i, name in enumerate(names):
        cells = []
        for j, value in enumerate(matrix[i]):
            spread = std[i][j] if std else None
            unsure = value is not None and spread is not None and abs(value) < spread
            cell = shade(None if unsure else value, strongest)
            if harm and cell["kind"]:
                cell["kind"] = "hurt"
            if harm:
                text = MISSING if value is None else f"{100 * value:.0f}"
            else:
                text = signed(value, digits)
            spread_text = None if spread is None else number(spread, digits)
            cells.append(cell | {"text": text, "std": spread_text, "unsure": unsure,
                                 "empty": value is None or i == j})  # fmt: skip
        rows.append({"name": name, "cells": cells})
    return rows


def transfer(section: Json | None) -> Json | None:
    """The transfer map as two heat maps on one scale and its two strongest cells in words."""
    if not section:
        return None
    names, pairwise, together = section["tasks"], section["pairwise"], section["together"]
    cells = [
        (value, names[i], names[j])
        for i, row in enumerate(pairwise)
        for j, value in enumerate(row)
        if value is not None
    ]
    strongest = _largest(pairwise)
    helped, harmed = max(cells, default=None), min(cells, default=None)
    spread = section.get("pairwise_std")
    return section | {
        "spread": spread,
        "pairwise": heat(names, pairwise, strongest, spread),
        "together": heat(names, together, strongest) if together else None,
        "helped": helped if helped and helped[0] > 0 else None,
        "harmed": harmed if harmed and harmed[0] < 0 else None,
    }


def _largest(matrix: list[list[float | None]]) -> float:
    """The largest absolute value off the diagonal."""
    cells = [abs(v) for i, row in enumerate(matrix) for j, v in enumerate(row) if v and i != j]
    return max(cells, default=0.0)


def conflict(section: Json | None) -> Json | None:
    """Cosine and conflict rate as heat maps, the rate over epochs as a line."""
    if not section:
        return None
    from polytask.comparing import figures

    names, rates, epochs = section["tasks"], section["conflict_rate"], section.get("per_epoch")
    pairs = [
        (rate, names[i], names[j])
        for i, row in enumerate(rates)
        for j, rate in enumerate(row[:i])
        if rate is not None
    ]
    return section | {
        "cosine": heat(names, section["cosine"], max(0.25, _largest(section["cosine"])), digits=2),
        "conflict_rate": heat(names, rates, max(0.5, _largest(rates)), harm=True),
        "worst": max(pairs, default=None),
        "per_epoch": figures.rate(epochs["epochs"], epochs["rate"], "Conflict rate over epochs")
        if epochs
        else None,
    }


def curves(tasks: list[Json], methods: list[Json]) -> Json | None:
    """One panel per task with the chosen method, the reference and the best of the others."""
    from polytask.comparing import figures

    drawn = [m for m in methods if m["curves"]]
    if not drawn:
        return None
    chosen = [m for m in drawn if m["chosen"]]
    reference = [m for m in drawn if m["reference"] and not m["chosen"]]
    others = [m for m in drawn if not m["chosen"] and not m["reference"]]
    styles = ([0] if chosen else []) + ([1] if reference else [])
    styles += [s for s in range(CURVES) if s not in styles and s > 1]
    shown = list(zip(styles, chosen + reference + others, strict=False))
    panels = []
    for task in tasks[:PANELS]:
        lines = []
        for style, method in shown:
            line = method["curves"]["validation"].get(task["name"])
            if line:
                epochs = method["curves"]["epochs"]
                step = math.ceil(len(epochs) / POINTS)
                parts = (epochs, line["mean"], line["low"], line["high"])
                lines.append(figures.Line(style, *(part[::step] for part in parts)))
        if lines:
            label = f"{task['metric']} of {task['name']} on validation over epochs"
            panels.append({"task": task, "svg": figures.curves(lines, label)})
    more = max(0, len(tasks) - PANELS)
    return {"shown": shown, "left_out": len(drawn) - len(shown), "panels": panels, "more": more}


def cost_plots(methods: list[Json]) -> Json | None:
    """Test gain over training time, drawn for a wide page and for a phone."""
    from polytask.comparing import figures

    points = [
        figures.Point(m["number"], m["cost"]["train_seconds"], test["mean"], test["low"],
                      test["high"], m["chosen"])
        for m in methods
        if (test := m["gain"]["test"])["mean"] is not None and m["cost"]["train_seconds"]
    ]  # fmt: skip
    if not points:
        return None
    scale = bounds([m["gain"]["test"] for m in methods])
    label = "Gain on test over training time; each number is a method of the table"
    return {
        "wide": figures.cost(points, (944, 340), scale, label),
        "narrow": figures.cost(points, (328, 330), scale, label),
        "missing": len(methods) - len(points),
    }
