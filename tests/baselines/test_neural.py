"""The neural baselines: published sizes, what they learn, what they keep."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from polytask.baselines.experts import PLE, STEM, MMoE
from polytask.baselines.ft_transformer import FTTransformer
from polytask.baselines.mlp import SharedMLP
from polytask.data import ColumnSplit, Processor, Suite
from polytask.data.processor import Array, Numeric
from polytask.errors import InputError
from polytask.tasks import Regression, Task
from polytask.training import Training

ALL = [SharedMLP, MMoE, PLE, STEM, FTTransformer]
SHORT = Training(lr=3e-3, batch=64, epochs=2, patience=2, device="cpu")
LONG = replace(SHORT, epochs=25, patience=25)
# Narrow enough to be fast, wide enough to learn the table.
SLIM: dict[type, dict[str, Any]] = {
    SharedMLP: {"hidden": (32, 16), "head": (16,)},
    MMoE: {"hidden": (16,), "head": (16,), "experts": 3},
    PLE: {"hidden": (16,), "head": (16,)},
    STEM: {"hidden": (16,), "head": (16,)},
    FTTransformer: {"width": 16, "ff": 32, "dropout": 0.0, "attention_dropout": 0.0},
}
TASKS = ("price", "weight", "sold")
INPUTS = ("a", "b", "c", "colour")


def spec(tasks: int = 2, numeric: int = 10) -> Processor:
    names = [f"t{i}" for i in range(tasks)]
    numbers = {f"n{i}": Numeric(0.0, 0.0, 1.0) for i in range(numeric)}
    return Processor(numbers, {}, {}, tuple(Task(n, Regression()) for n in names))


def mlp(*widths: int) -> int:
    """Weights and biases of linear layers between these widths."""
    return sum((a + 1) * b for a, b in pairwise(widths))


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        # tokens + trunk [256, 128] + a head [64] per task; T = 2 tasks, d = 10 numbers, e = 16
        (SharedMLP, 320 + mlp(160, 256, 128) + 2 * mlp(128, 64, 1)),
        # 8 experts, a gate without bias per task
        (MMoE, 320 + 8 * mlp(160, 256, 128) + 2 * 160 * 8 + 2 * mlp(128, 64, 1)),
        # 4 shared and 2 own experts per task; a task's gate weighs 6
        (PLE, 320 + 8 * mlp(160, 256, 128) + 2 * 160 * 6 + 2 * mlp(128, 64, 1)),
        # tokens for each task and shared ones; a task's gate weighs all 8
        (STEM, 3 * 320 + 8 * mlp(160, 256, 128) + 2 * 160 * 8 + 2 * mlp(128, 64, 1)),
    ],
)
def test_the_published_sizes(kind: type, expected: int) -> None:
    module = kind().build(spec())
    assert sum(p.numel() for p in module.parameters()) == expected


def test_the_published_transformer_has_two_blocks() -> None:
    module = FTTransformer().build(spec())
    assert len(module.blocks) == 2
    e, ff = 64, 128
    block = 4 * mlp(e, e) + mlp(e, ff, e) + 2 * 2 * e
    tokens = 10 * 2 * e + e
    expected = tokens + 2 * block + 2 * e + 2 * mlp(e, 1)
    assert sum(p.numel() for p in module.parameters()) == expected


@pytest.mark.parametrize("kind", ALL)
def test_every_baseline_learns(kind: type, suite: Suite) -> None:
    scores = kind(**SLIM[kind], training=LONG).fit(suite).score(suite)
    assert scores["price"]["ev"] > 0.9
    assert scores["weight"]["ev"] > 0.9
    assert scores["sold"]["auroc"] > 0.95


@pytest.mark.parametrize("kind", ALL)
def test_what_is_loaded_answers_as_what_was_saved(
    kind: type, suite: Suite, columns: dict[str, Any], tmp_path: Path
) -> None:
    model = kind(**SLIM[kind], training=SHORT).fit(suite)
    model.save_pretrained(tmp_path / "model")
    loaded = kind.from_pretrained(tmp_path / "model")
    rows = {name: columns[name] for name in INPUTS}
    before, after = model.predict(rows), loaded.predict(rows)
    assert set(before) == set(TASKS)
    for task in before:
        np.testing.assert_array_equal(after[task], before[task])
    assert loaded.parameters_ == model.parameters_


@pytest.mark.parametrize("kind", ALL)
def test_a_seed_decides_everything(kind: type, suite: Suite) -> None:
    model = kind(**SLIM[kind], training=SHORT)
    fits = [model.with_seed(s).fit(suite).score(suite) for s in (1, 1, 2)]
    assert fits[0] == fits[1]
    assert fits[0] != fits[2]


@pytest.mark.parametrize("kind", ALL)
def test_one_task_alone_has_fewer_parameters(kind: type, suite: Suite) -> None:
    every, one = (kind(**SLIM[kind], training=SHORT).fit(s) for s in (suite, suite.only("sold")))
    assert set(one.score(suite.only("sold"))) == {"sold"}
    assert one.parameters_ < every.parameters_


@pytest.mark.parametrize("kind", ALL)
def test_missing_labels_are_learned_around(kind: type, columns: dict[str, Any]) -> None:
    columns["price"] = np.where(np.arange(600) % 2, columns["price"], np.nan)
    data = Suite.from_table(columns, list(TASKS), split=ColumnSplit("split"))
    model = kind(**SLIM[kind], training=LONG).fit(data)
    assert model.score(data)["price"]["ev"] > 0.8
    assert np.isfinite(model.predict({n: columns[n] for n in INPUTS})["price"]).all()


@pytest.mark.parametrize(("kind", "isolated"), [(STEM, True), (PLE, True), (MMoE, False)])
def test_whose_experts_a_task_teaches(kind: type, isolated: bool) -> None:
    """One layer: in PLE and STEM a task's loss leaves the other task's own experts alone."""
    module = kind(hidden=(8,)).build(spec())
    module.outputs({"numeric": torch.randn(5, 10)}, ["t0"])["t0"].sum().backward()
    if isolated:
        own = module.mixture.layers[0].task_experts.layers[0].weight.grad.abs().amax((1, 2, 3))
        assert own[0] > 0
        assert own[1] == 0
    else:
        experts = module.mixture.experts.layers[0].weight.grad.abs().amax((0, 2, 3))
        assert experts.min() > 0


def test_stem_keeps_an_embedding_for_each_task() -> None:
    module = STEM(hidden=(8,)).build(spec())
    module.outputs({"numeric": torch.randn(5, 10)}, ["t0"])["t0"].sum().backward()
    own, foreign, shared = (row.tokenizer.weight.grad for row in module.rows)
    assert own.abs().max() > 0
    assert shared.abs().max() > 0
    assert foreign is None or not foreign.any()


def test_all_tasks_of_the_transformer_read_one_token() -> None:
    module = FTTransformer().build(spec(tasks=3)).eval()
    x = {"numeric": torch.randn(4, 10)}
    feature = module.represent(x, [])
    assert feature.shape == (4, 64)
    together = module.outputs(x, ["t0", "t2"])
    torch.testing.assert_close(together["t2"], module.answer(feature, "t2"))
    alone = FTTransformer().build(spec(tasks=1))
    assert len(alone.heads) == 1


@pytest.mark.parametrize("kind", [SharedMLP, MMoE, PLE, STEM])
def test_arrays_are_flattened(kind: type) -> None:
    processor = replace(spec(), arrays={"picture": Array((2, 3), 0.0, 1.0)})
    module = kind(**SLIM[kind]).build(processor)
    inputs = {"numeric": torch.randn(4, 10), "picture": torch.randn(4, 2, 3)}
    assert module.outputs(inputs, ["t1"])["t1"].shape == (4, 1)


def test_the_transformer_refuses_arrays() -> None:
    processor = replace(spec(), arrays={"picture": Array((2, 3), 0.0, 1.0)})
    with pytest.raises(InputError, match="column 'picture' is an array"):
        FTTransformer().build(processor)
