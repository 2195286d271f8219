"""Write the made-up table that the docs use: my.csv, and new.csv with two houses to predict.

    python examples/houses.py

Price, rooms and sold hang on the same hidden things (size, state), so there is something to share.
A house that is still on the market has no answer yet in `sold`: that label is missing, not "no".
"""

from __future__ import annotations

import csv
from datetime import date, timedelta
from pathlib import Path

import numpy as np

DISTRICTS = {"centre": 1.5, "harbour": 1.2, "north": 1.0, "south": 0.8}


def houses(rows: int = 300, seed: int = 0) -> dict[str, list[object]]:
    """Columns by name; the targets are price (EUR), rooms and sold."""
    draw = np.random.default_rng(seed)
    area = draw.uniform(35, 160, rows)
    state = draw.normal(size=rows)
    built = (1985 + 15 * state + draw.normal(0, 10, rows)).round()
    district = draw.choice(list(DISTRICTS), rows)
    level = np.array([DISTRICTS[d] for d in district])
    price = 2000 * area * level * np.exp(0.15 * state + draw.normal(0, 0.1, rows))
    rooms = np.clip((area / 30 + draw.normal(0, 0.4, rows)).round(), 1, 5)
    sold = state + draw.normal(0, 0.7, rows) > 0
    days = np.sort(draw.integers(0, 700, rows)).tolist()  # on the market since
    open_yet = draw.random(rows) < 0.1
    return {
        "area": area.round(1).tolist(),
        "built": built.astype(int).tolist(),
        "district": district.tolist(),
        "day": [(date(2024, 1, 1) + timedelta(days=d)).isoformat() for d in days],
        "price": price.round(-2).astype(int).tolist(),
        "rooms": rooms.astype(int).tolist(),
        "sold": ["" if o else "yes" if s else "no" for s, o in zip(sold, open_yet, strict=True)],
    }


def write(folder: Path) -> None:
    """my.csv with every column, and new.csv with the inputs of two houses."""
    table = houses()
    inputs = ("area", "built", "district", "day")
    _write(folder / "my.csv", table)
    _write(folder / "new.csv", {name: table[name][:2] for name in inputs})


def _write(path: Path, table: dict[str, list[object]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(table)
        writer.writerows(zip(*table.values(), strict=True))


if __name__ == "__main__":
    write(Path())
    print("wrote my.csv and new.csv")
