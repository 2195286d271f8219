"""One small table of mixed kinds, and suites of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from polytask.data import ColumnSplit, Suite


@pytest.fixture
def columns() -> dict[str, Any]:
    """600 rows: numbers and a category; two regressions and a yes/no of them."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(600, 3))
    colour = rng.choice(["red", "green", "blue"], 600)
    return {
        "a": x[:, 0],
        "b": x[:, 1],
        "c": x[:, 2],
        "colour": colour,
        "price": 1000 * (x[:, 0] + (colour == "red")),
        "weight": x[:, 0] - x[:, 1],
        "sold": np.where(x[:, 2] > 0, "yes", "no"),
        "split": np.repeat(["train", "validation", "test"], [300, 150, 150]),
    }


@pytest.fixture
def suite(columns: dict[str, Any]) -> Suite:
    return Suite.from_table(columns, ["price", "weight", "sold"], split=ColumnSplit("split"))
