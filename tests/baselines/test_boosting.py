"""LightGBM per task and XGBoost's vector leaves as learners of a suite."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from polytask.baselines.boosting import LightGBM, XGBoostMultiOutput
from polytask.data import ColumnSplit, Suite
from polytask.errors import InputError

pytest.importorskip("lightgbm")
pytest.importorskip("xgboost")

INPUTS = ("a", "b", "c", "colour")


def light(**fields: Any) -> LightGBM:
    return LightGBM(**{"rounds": 60, "lr": 0.2, "patience": 10, **fields})


def vector(**fields: Any) -> XGBoostMultiOutput:
    return XGBoostMultiOutput(**{"rounds": 60, "lr": 0.2, "patience": 10, "depth": 4, **fields})


@pytest.fixture
def numbers(columns: dict[str, Any]) -> Suite:
    """Regressions only."""
    return Suite.from_table(
        columns, ["price", "weight"], split=ColumnSplit("split"), exclude=["sold"]
    )


def test_lightgbm_learns_tasks_of_every_kind(columns: dict[str, Any]) -> None:
    columns["grade"] = np.digitize(columns["b"], [-0.5, 0.5])
    data = Suite.from_table(columns, ["price", "sold", "grade"], split=ColumnSplit("split"))
    model = light().fit(data)
    scores = model.score(data)
    assert scores["price"]["ev"] > 0.9
    assert scores["sold"]["auroc"] > 0.97
    assert scores["grade"]["auroc"] > 0.95
    answers = model.predict({n: columns[n][:7] for n in (*INPUTS, "weight")})
    assert answers["price"].shape == (7,)
    assert answers["sold"].shape == (7, 2)
    assert answers["grade"].shape == (7, 3)
    np.testing.assert_allclose(answers["grade"].sum(1), 1, rtol=1e-6)


def test_xgboost_learns_regressions_together(numbers: Suite) -> None:
    scores = vector().fit(numbers).score(numbers)
    assert scores["price"]["ev"] > 0.9
    assert scores["weight"]["ev"] > 0.9


def test_xgboost_learns_yes_no_tasks_together(columns: dict[str, Any]) -> None:
    columns["dear"] = columns["price"] > 500
    data = Suite.from_table(
        columns, ["dear", "sold"], split=ColumnSplit("split"), exclude=["price", "weight"]
    )
    scores = vector().fit(data).score(data)
    assert scores["dear"]["auroc"] > 0.95
    assert scores["sold"]["auroc"] > 0.95


def test_xgboost_answers_in_the_unit_of_each_task(numbers: Suite, columns: dict[str, Any]) -> None:
    answers = vector().fit(numbers).predict({n: columns[n] for n in INPUTS})
    assert answers["price"].std() > 500
    assert answers["weight"].std() < 5


def test_xgboost_refuses_tasks_of_mixed_kind(suite: Suite) -> None:
    with pytest.raises(InputError) as refusal:
        vector().fit(suite)
    assert str(refusal.value) == (
        "xgboost's vector leaves need tasks of one kind, all regressions or all yes/no; "
        "this suite has classification, regression"
    )


def test_xgboost_refuses_more_than_two_classes(columns: dict[str, Any]) -> None:
    columns["grade"] = np.digitize(columns["b"], [-0.5, 0.5])
    data = Suite.from_table(columns, ["grade"], split=ColumnSplit("split"))
    with pytest.raises(InputError, match="all regressions or all yes/no"):
        vector().fit(data)


def test_xgboost_uses_whole_rows_only(columns: dict[str, Any]) -> None:
    row = np.arange(600)
    columns["price"] = np.where(row % 2, columns["price"], np.nan)
    data = Suite.from_table(columns, ["price", "weight"], split=ColumnSplit("split"))
    assert vector().fit(data).score(data)["weight"]["ev"] > 0.8
    columns["weight"] = np.where(row % 2, np.nan, columns["weight"])
    never = Suite.from_table(columns, ["price", "weight"], split=ColumnSplit("split"))
    with pytest.raises(InputError, match="rows with labels for every task"):
        vector().fit(never)


def test_lightgbm_uses_every_label_a_task_has(columns: dict[str, Any]) -> None:
    row = np.arange(600)
    columns["price"] = np.where(row % 2, columns["price"], np.nan)
    columns["weight"] = np.where(row % 2, np.nan, columns["weight"])
    data = Suite.from_table(columns, ["price", "weight"], split=ColumnSplit("split"))
    scores = light().fit(data).score(data)
    assert scores["price"]["ev"] > 0.8
    assert scores["weight"]["ev"] > 0.8


def test_categories_are_no_numbers() -> None:
    """30 shops of which every other one makes a profit: no two splits by number tell them apart."""
    rng = np.random.default_rng(1)
    shop = rng.integers(30, size=6000)
    table = {
        "shop": [f"shop {i:02d}" for i in shop],
        "profit": shop % 2 + 0.01 * rng.normal(size=6000),
    }
    data = Suite.from_table(table, ["profit"])
    model = light(rounds=2, lr=1.0, leaves=2).fit(data)
    assert model.score(data)["profit"]["ev"] > 0.9
    unseen = model.predict({"shop": ["shop 99", None]})["profit"]
    assert unseen[0] == unseen[1]


@pytest.mark.parametrize("make", [light, vector])
def test_what_is_loaded_answers_as_what_was_saved(
    make: Any, numbers: Suite, columns: dict[str, Any], tmp_path: Path
) -> None:
    model = make().fit(numbers)
    model.save_pretrained(tmp_path / "model")
    loaded = type(model).from_pretrained(tmp_path / "model")
    rows = {n: columns[n] for n in INPUTS}
    for task in ("price", "weight"):
        one = model.predict(rows, tasks=[task])
        assert set(one) == {task}
        np.testing.assert_array_equal(loaded.predict(rows)[task], one[task])
    assert loaded.parameters_ == model.parameters_ > 0


@pytest.mark.parametrize("make", [light, vector])
def test_parameters_are_the_leaves(make: Any, numbers: Suite) -> None:
    """Two tasks, three rounds at most of two leaves each."""
    small = {"rounds": 3, "patience": 3} | ({"leaves": 2} if make is light else {"depth": 1})
    assert make(**small).fit(numbers).parameters_ == 3 * 2 * 2


@pytest.mark.parametrize("make", [light, vector])
def test_a_seed_decides_everything(make: Any, numbers: Suite) -> None:
    first, again = (make().with_seed(3).fit(numbers).score(numbers) for _ in range(2))
    assert first == again


@pytest.mark.parametrize("make", [light, vector])
def test_an_absent_package_is_named(
    make: Any, numbers: Suite, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = "lightgbm" if make is light else "xgboost"
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match=rf"'{package}' is not installed; .*polytask\[boosting\]"):
        make().fit(numbers)
