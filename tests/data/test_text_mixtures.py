"""Mixtures for texts: token budgets, turns and phases, a batch size per task."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from polytask.data import Batch
from polytask.data.batch import budgeted
from polytask.data.mixtures import as_mixture
from polytask.data.texts import Subwords, Texts
from polytask.errors import InputError


@pytest.fixture(scope="module")
def rows() -> Batch:
    rng = np.random.default_rng(0)
    reader = Subwords.learned(["w"], 64, 10)
    texts = Texts("a", [" ".join(["w"] * n) for n in rng.integers(1, 40, 90)], reader)
    task = torch.arange(90) // 30
    masks = {name: task == i for i, name in enumerate(("qa", "nli", "sst"))}
    return Batch({"a": texts}, {n: torch.zeros(90) for n in masks}, masks)  # type: ignore[dict-item]


def test_budgeted_runs_hold_their_budget() -> None:
    lengths = np.random.default_rng(1).integers(1, 50, 200)
    runs = list(budgeted(lengths, 120, 8))
    assert [i for run in runs for i in run] == list(range(200))
    for run in runs:
        padded = lengths[run.start : run.stop].max() * len(run)
        assert len(run) == 1 or (padded <= 120 and len(run) <= 8)


def test_token_batches_see_every_row_once_and_waste_little(rows: Batch) -> None:
    draws = list(as_mixture("tokens(budget=200)").draws(rows, 32, 0, 0))
    seen = torch.cat([draw.rows for draw in draws])
    assert sorted(seen.tolist()) == list(range(90))
    lengths = rows.lengths
    assert lengths is not None
    padded = sum(lengths[d.rows].max() * len(d.rows) for d in draws)
    assert padded < 1.25 * lengths.sum()
    other = list(as_mixture("tokens(budget=200)").draws(rows, 32, 0, 1))
    assert [d.rows.tolist() for d in other] != [d.rows.tolist() for d in draws]


def test_tasks_take_turns(rows: Batch) -> None:
    draws = list(as_mixture("round_robin()").draws(rows, 10, 0, 0))
    assert [d.tasks for d in draws] == [("qa",), ("nli",), ("sst",)] * 3
    assert all(rows.masks[d.tasks[0]][d.rows].all() for d in draws if d.tasks)
    twice = list(as_mixture("round_robin(consecutive=2)").draws(rows, 10, 0, 0))
    assert [d.tasks[0] for d in twice if d.tasks][:6] == ["qa", "qa", "nli", "nli", "sst", "sst"]


def test_the_first_phase_ends_after_its_rounds_over_epochs(rows: Batch) -> None:
    mixture = as_mixture("round_robin(first='nli, sst', rounds=6)")
    names = [d.tasks[0] for e in range(3) for d in mixture.draws(rows, 10, 0, e) if d.tasks]
    assert names[:12] == ["nli", "sst"] * 6
    assert names[12:18] == ["qa", "nli", "sst"] * 2
    alone = rows.only(["qa"])  # a suite without the first tasks has no such phase
    assert {d.tasks for d in mixture.draws(alone, 10, 0, 0)} == {("qa",)}


def test_turns_within_a_token_budget(rows: Batch) -> None:
    lengths = rows.lengths
    assert lengths is not None
    for draw in as_mixture("round_robin(tokens=100)").draws(rows, 32, 0, 0):
        assert lengths[draw.rows].max() * len(draw.rows) <= 100


def test_every_task_may_have_its_batch_size(rows: Batch) -> None:
    mixture = as_mixture("datasets(sizes='nli=4, sst=7')")
    draws = list(mixture.draws(rows, 10, 0, 0))
    counts = Counter((d.tasks[0], len(d.rows)) for d in draws if d.tasks)
    assert counts == {("qa", 10): 3, ("nli", 4): 7, ("sst", 7): 4}
    order = [d.tasks for d in draws]
    assert order != sorted(order) and order != [d.tasks for d in mixture.draws(rows, 10, 0, 1)]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("round_robin(consecutive=0)", "consecutive is at least 1"),
        ("round_robin(rounds=3)", "rounds needs tasks in first"),
        ("tokens(budget=0)", "at least 1 token"),
        ("datasets(sizes='nli')", "task=number"),
    ],
)
def test_wrong_mixtures_are_refused(text: str, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        as_mixture(text).check(("nli",))


def test_a_budget_of_tokens_needs_text() -> None:
    batch = Batch({"numeric": torch.zeros(4, 1)}, {"y": torch.zeros(4)}, {"y": torch.ones(4) > 0})
    with pytest.raises(InputError, match="needs an input that is text"):
        list(as_mixture("tokens(budget=9)").draws(batch, 2, 0, 0))
