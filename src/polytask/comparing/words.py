"""Numbers as people write them, and what both views of a report ask of its data."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

Json = dict[str, Any]

MINUS = "\N{MINUS SIGN}"
MISSING = "\N{EN DASH}"


def signed(value: float | None, digits: int = 2) -> str:
    """A change: `+1.20`, `-0.40`, `0.00`."""
    if value is None:
        return MISSING
    text = f"{abs(value):.{digits}f}"
    if float(text) == 0:
        return text
    return ("+" if value > 0 else MINUS) + text


def percent(value: float | None, digits: int = 2) -> str:
    """A gain that is already in percent: `+1.20 %`."""
    return MISSING if value is None else f"{signed(value, digits)} %"


def gain_range(gain: Json | None) -> str:
    """The interval of a gain: `-0.40 to +2.00`; empty if there is none or it is a point."""
    if not gain or gain["low"] is None or gain["low"] == gain["high"]:
        return ""
    return f"{signed(gain['low'])} to {signed(gain['high'])}"


def decimals(values: Iterable[float | None]) -> int:
    """Decimals that give the largest of these values about four digits."""
    largest = max((abs(v) for v in values if v is not None), default=1.0)
    return min(max(3 - math.floor(math.log10(largest)), 0), 4) if largest > 0 else 2


def number(value: float | None, digits: int = 0) -> str:
    """A plain number with thousands apart and a true minus: `24,000`."""
    return MISSING if value is None else f"{value:,.{digits}f}".replace("-", MINUS)


def count(value: float | None) -> str:
    """A large count in short: `61.2 k`, `10.4 M`."""
    if value is None:
        return MISSING
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.3g}"


def duration(seconds: float | None) -> str:
    """A time as people say it: `0.8 s`, `57 s`, `4 min 11 s`, `2 h 5 min`."""
    if seconds is None:
        return MISSING
    if seconds < 10:
        return f"{seconds:.2g} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def date(created: str) -> str:
    """`2026-11-23T14:00:00Z` as `23 November 2026`."""
    try:
        day = datetime.fromisoformat(created)
    except ValueError:
        return created
    return f"{day.day} {day:%B %Y}"


def arrow(higher_is_better: bool) -> str:
    """The direction of a metric: up if higher is better."""
    return "↑" if higher_is_better else "↓"


def ranked(data: Json) -> list[Json]:
    """The methods from best to worst on validation, where the choice was made, with a `number`."""

    def worst_first(method: Json) -> float:
        mean = method["gain"]["validation"]["mean"]
        return -math.inf if mean is None else float(mean)

    methods = sorted(data["methods"], key=worst_first, reverse=True)
    chosen = data["verdict"]["method"]
    return [
        method | {"number": i, "chosen": method["name"] == chosen}
        for i, method in enumerate(methods, 1)
    ]


def score(method: Json, task: Json, metric: str, part: str = "test") -> Json:
    """`{"mean", "std", "seeds"}` of one method on one task; all None where it was not measured."""
    empty: Json = {"mean": None, "std": None, "seeds": []}
    found: Json | None = method["scores"].get(task["name"], {}).get(metric, {}).get(part)
    return found or empty


def best(values: Sequence[float | None], higher_is_better: bool) -> float | None:
    """The best of the values that are there."""
    known = [v for v in values if v is not None]
    if not known:
        return None
    return max(known) if higher_is_better else min(known)


def headline(verdict: Json) -> str:
    """The verdict in a few words."""
    if verdict["share"] is None:
        return "No verdict"
    if not verdict["share"]:
        return "Do not share"
    return "Share one model" if verdict["models"] == 1 else f"Share, in {verdict['models']} models"
