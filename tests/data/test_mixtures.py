"""Mixtures: every row once, one task per batch, chances by temperature, the same on every call."""

from __future__ import annotations

import pytest
import torch

from polytask.data import Batch, JointRows, Mixture, TaskBatches, as_mixture
from polytask.data.mixtures import Draw
from polytask.errors import InputError


def batch(rows: int, **labelled: int) -> Batch:
    """Rows of which each task has labels for the first so many."""
    masks = {task: torch.arange(rows) < count for task, count in labelled.items()}
    targets = {task: torch.zeros(rows) for task in labelled}
    return Batch({"numeric": torch.randn(rows, 2)}, targets, masks)


def plan(mixture: Mixture, data: Batch, size: int, seed: int = 0, epoch: int = 0) -> list[Draw]:
    return list(mixture.draws(data, size, seed, epoch))


@pytest.mark.parametrize("mixture", [JointRows(), TaskBatches()])
def test_a_plan_depends_on_seed_and_epoch_alone(mixture: Mixture) -> None:
    data = batch(64, a=64, b=20)

    def rows(seed: int, epoch: int) -> list[list[int]]:
        torch.randn(3)  # the global generator plays no part
        return [d.rows.tolist() for d in plan(mixture, data, 8, seed, epoch)]

    assert rows(3, 5) == rows(3, 5)
    assert rows(3, 5) != rows(3, 6)
    assert rows(3, 5) != rows(4, 5)


def test_joint_rows_come_once_in_whole_batches() -> None:
    draws = plan(JointRows(), batch(70, a=70), 16)
    seen = torch.cat([d.rows for d in draws])
    assert [len(d.rows) for d in draws] == [16] * 4
    assert len(seen.unique()) == 64
    assert all(d.tasks is None for d in draws)


def test_leftover_rows_have_their_turn_in_other_epochs() -> None:
    data = batch(20, a=20)
    seen = torch.cat([d.rows for epoch in range(6) for d in plan(JointRows(), data, 16, 0, epoch)])
    assert len(seen.unique()) == 20


@pytest.mark.parametrize("mixture", [JointRows(), TaskBatches()])
def test_fewer_rows_than_a_batch_make_one_small_batch(mixture: Mixture) -> None:
    draws = plan(mixture, batch(5, a=5), 16)
    assert [sorted(d.rows.tolist()) for d in draws] == [[0, 1, 2, 3, 4]]


def test_task_batches_hold_labelled_rows_of_one_task() -> None:
    data = batch(64, a=64, b=20)
    for rows, tasks in plan(TaskBatches(), data, 8):
        assert tasks in (("a",), ("b",))
        assert data.masks[tasks[0]][rows].all()
        assert len(rows.unique()) == 8


@pytest.mark.parametrize(("temperature", "share"), [(1.0, 0.9), (0.0, 0.5), (0.5, 0.75)])
def test_chances_by_temperature(temperature: float, share: float) -> None:
    data = batch(9000, a=9000, b=1000)
    draws = plan(TaskBatches(temperature), data, 2)
    assert len(draws) == 5000
    found = sum(d.tasks == ("a",) for d in draws) / len(draws)
    assert found == pytest.approx(share, abs=0.03)


def test_a_task_sees_all_its_rows_before_any_twice() -> None:
    data = batch(64, a=64, b=32)
    rows = torch.cat([d.rows for d in plan(TaskBatches(0.0), data, 4) if d.tasks == ("b",)])
    assert len(rows) >= 32, "the plan is too short for this test"
    assert len(rows[:32].unique()) == 32


def test_weights_take_the_place_of_counts() -> None:
    data = batch(400, a=400, b=400, c=400, d=0)
    draws = plan(TaskBatches(weights={"a": 3.0, "b": 1.0, "d": 9.0}), data, 4)
    names = [d.tasks[0] for d in draws if d.tasks]
    assert set(names) == {"a", "b"}  # c has no weight, d no label
    assert 0.65 < names.count("a") / len(names) < 0.85


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ({"x": 1.0}, "unknown task 'x'"),
        ({"a": -1.0}, "'a' is -1.0"),
        ({"a": float("nan")}, "'a' is nan"),
        ({"a": 0.0}, "all 0"),
    ],
)
def test_wrong_weights_are_refused(weights: dict[str, float], words: str) -> None:
    with pytest.raises(InputError, match=words):
        TaskBatches(weights=weights).check(["a", "b"])


def test_mixtures_are_read_from_text() -> None:
    assert as_mixture("joint") == JointRows()
    assert as_mixture("tasks(temperature=0.5)") == TaskBatches(0.5)
    weighted = TaskBatches(weights={"a": 2.0})
    assert as_mixture(str(weighted)) == weighted and as_mixture(weighted) is weighted
    with pytest.raises(InputError, match="mixture 'taks' is not known"):
        as_mixture("taks")
