"""A column whose every value is a task: labels by group, splits within groups, what is left out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from polytask.baselines.mlp import SharedMLP
from polytask.data import Processor, RandomSplit, Suite
from polytask.errors import InputError
from polytask.tasks import Task
from polytask.training import Training


def pupils(rows: int = 240) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    school = np.repeat([10, 2, 30], rows // 3)
    age = rng.normal(12, 2, rows)
    return {
        "age": age,
        "school": school,
        "score": age * (1 + (school == 30)) + rng.normal(0, 0.1, rows),
        "passed": rng.random(rows) < 0.5,
    }


def test_each_value_is_a_task_about_its_own_rows() -> None:
    suite = Suite.from_table(pupils(), ["score"], by="school")
    assert suite.task_names == ("school=2", "school=10", "school=30")
    assert suite.inputs == ("age", "passed")
    for split in suite.splits:
        table = suite.table(split)
        whose = np.array(table["school"].to_pylist())
        for task in suite.tasks:
            labelled = suite.labels(task, split).is_valid().to_numpy()
            assert (labelled == (whose == task.where[1])).all()
    given = suite.labels(suite.tasks[0], "train").drop_null().to_pylist()
    column = suite.table("train")["score"].to_numpy()
    assert given == column[np.array(suite.table("train")["school"].to_pylist()) == "2"].tolist()


def test_several_targets_make_a_task_each() -> None:
    suite = Suite.from_table(pupils(), ["score", "passed"], by="school")
    assert suite.task_names[:2] == ("score school=2", "passed school=2")
    assert len(suite.only("passed school=30").tasks) == 1


def test_a_random_split_deals_the_rows_of_each_value() -> None:
    suite = Suite.from_table(pupils(), ["score"], by="school")
    described = suite.describe()
    assert described["split"] == "random rows of each school, seed 0"
    for task in described["tasks"]:
        assert task["labelled"] == {"train": 48, "validation": 16, "test": 16}
    parts = RandomSplit(1, within="g").assign(pa.table({"g": ["a"] * 10 + ["b", "b"] + [None] * 5}))
    assert np.bincount(parts[:10]).tolist() == [6, 2, 2] and not parts[10:12].any()


def test_groups_with_too_few_labels_are_left_out_and_named() -> None:
    table = pupils()
    table["school"] = np.where(np.arange(240) == 7, 99, table["school"])
    suite = Suite.from_table(table, ["score"], by="school")
    assert "school=99" not in suite.task_names and len(suite.tasks) == 3
    assert any("school=99 (1 rows: " in note for note in suite.about["notes"])


def test_rows_without_a_value_belong_to_no_task() -> None:
    table = pupils()
    table["school"] = pa.array(table["school"], mask=np.arange(240) % 10 == 0)
    suite = Suite.from_table(table, ["score"], by="school")
    assert sum(sum(t["labelled"].values()) for t in suite.describe()["tasks"]) == 216
    assert any("24 rows without a value" in note for note in suite.about["notes"])


def test_a_stored_suite_keeps_its_groups(tmp_path: Path) -> None:
    import pandas as pd

    path = tmp_path / "pupils.csv"
    pd.DataFrame(pupils()).to_csv(path, index=False)
    fresh = Suite.from_table(path, ["score"], by="school")
    again = Suite.from_table(path, ["score"], by="school")
    assert fresh.tasks == again.tasks and again.tasks[0].where == ("school", "2")
    assert fresh.fingerprint != Suite.from_table(path, ["score"]).fingerprint


def test_masks_follow_the_groups_and_a_shared_model_learns_them() -> None:
    suite = Suite.from_table(pupils(), ["score"], by="school")
    processor = Processor.fit(suite)
    batch = processor.encode(suite, "train")
    assert batch.counts == {"school=2": 48, "school=10": 48, "school=30": 48}
    assert sum(m.int() for m in batch.masks.values()).max() == 1
    training = Training(epochs=60, batch=32, lr=0.01)
    learner = SharedMLP(hidden=(16,), head=(8,), training=training).fit(suite)
    scores = learner.score(suite)
    assert min(s["ev"] for s in scores.values()) > 0.9
    again = Task.from_dict(processor.tasks[0].to_dict())
    assert again == processor.tasks[0]


@pytest.mark.parametrize(
    ("by", "words"),
    [
        ("shool", ["shool", "school"]),
        ("score", ["score", "target"]),
        ("age", ["age", "type double"]),
    ],
)
def test_wrong_columns_are_refused(by: str, words: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        Suite.from_table(pupils(), ["score"], by=by)
    assert all(word in str(caught.value) for word in words)


def test_one_value_makes_no_tasks() -> None:
    table = pupils() | {"school": [1] * 240}
    with pytest.raises(InputError, match="'school' has 1 value"):
        Suite.from_table(table, ["score"], by="school")


def test_fewer_tasks_are_fewer_rows() -> None:
    table = pupils()
    table["age"] = pa.array(table["age"], mask=np.asarray(table["school"]) == 2)
    suite = Suite.from_table(table, ["score"], by="school")
    alone = suite.only("school=2")
    assert {s: len(d) for s, d in alone.splits.items()} == {
        "train": 48,
        "validation": 16,
        "test": 16,
    }
    assert Processor.fit(alone).numeric["age"].median == 0.0  # this school never says
    assert len(suite.only("school=2", "school=30").splits["train"]) == 96
    assert suite.only(*suite.task_names).splits["train"] is suite.splits["train"]
    wide = Suite.from_table(pupils(), ["score", "passed"])
    assert len(wide.only("score").splits["train"]) == 144


def test_a_split_keeps_the_column_it_was_told_to_deal_within() -> None:
    table = {
        "x": list(range(24)),
        "y": [float(i % 5) for i in range(24)],
        "school": ["a", "b"] * 12,
        "class": ["p", "p", "q", "q"] * 6,
    }
    own = Suite.from_table(table, ["y"], by="school", split=RandomSplit(within="class"))
    assert own.describe()["split"] == "random rows of each class, seed 0"
    assert Suite.from_table(table, ["y"], by="school").describe()["split"] == (
        "random rows of each school, seed 0"
    )
