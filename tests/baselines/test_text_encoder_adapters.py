"""text_encoder with an adapter per task on one frozen encoder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from polytask.baselines.text_encoder import TextEncoderLearner, TextEncoderNet
from polytask.data import Suite
from polytask.errors import InputError
from polytask.training import Training

pytest.importorskip("peft")

TINY = "bert(width=16, depth=1, heads=2, dropout=0.0)"
WORDS = ("red", "green", "blue", "warm", "cold", "soft")


@pytest.fixture(scope="module")
def suite() -> Suite:
    rng = np.random.default_rng(0)
    rows = [list(rng.choice(WORDS, 5)) for _ in range(90)]
    table = {
        "review": [" ".join(row) for row in rows],
        "type": ["red" in row for row in rows],  # a name that ModuleDict refuses
        "warm.share": [row.count("warm") / 5 for row in rows],
    }
    kinds = {"type": "classification", "warm.share": "regression"}
    return Suite.from_table(table, kinds, inputs={"review": "text"})


def learner(**fields: Any) -> TextEncoderLearner:
    training = Training(lr=1e-2, batch=16, epochs=3, patience=3)
    settings = {"encoder": TINY, "max_length": 16, "adapters": "lora(rank=4)", **fields}
    return TextEncoderLearner(training=training, **settings)


def test_the_encoder_stays_and_every_task_learns(suite: Suite) -> None:
    model = learner().fit(suite)
    net = model.module_
    assert isinstance(net, TextEncoderNet)
    torch.manual_seed(model.training.seed)
    before = dict(learner().build(model.processor_).named_parameters())
    after = dict(net.named_parameters())
    moved = {name for name in after if not torch.equal(after[name], before[name])}
    assert moved == {name for name in after if "lora_" in name or name.startswith("heads")}
    assert model.score(suite)["type"]["auroc"] > 0.8


def test_a_task_is_answered_the_same_alone_and_beside_others(suite: Suite) -> None:
    """No task's adapter leaks into another's answer."""
    model, rows = learner().fit(suite), suite.table("test")
    both = model.predict(rows)
    for task in suite.task_names:
        np.testing.assert_array_equal(model.predict(rows, [task])[task], both[task])


def test_a_task_s_loss_moves_its_own_adapter_only(suite: Suite) -> None:
    model = learner().fit(suite)
    net = model.module_
    assert isinstance(net, TextEncoderNet)
    assert net.adapters is not None
    net.losses(model.processor_.encode(suite, "train")[:8])["type"].backward()
    assert all(p.grad is not None for p in net.adapters.parameters("type"))
    assert all(p.grad is None for p in net.adapters.parameters("warm.share"))


def test_what_is_loaded_answers_as_what_was_saved(suite: Suite, tmp_path: Path) -> None:
    model, rows = learner().fit(suite), suite.table("test")
    model.save_pretrained(tmp_path / "model")
    loaded = TextEncoderLearner.from_pretrained(tmp_path / "model")
    ours, theirs = model.predict(rows), loaded.predict(rows)
    for task in suite.task_names:
        np.testing.assert_allclose(ours[task], theirs[task], atol=1e-6)
    sizes = {p.name: p.stat().st_size for p in (tmp_path / "model" / "encoder").iterdir()}
    assert "model.safetensors" in sizes
    adapters = sorted(p.name for p in (tmp_path / "model" / "adapters").iterdir())
    assert adapters == ["0", "1", "tasks.json"]


def test_there_is_nothing_to_balance(suite: Suite) -> None:
    with pytest.raises(InputError, match="shares no parameters to balance over"):
        learner(balancer="upgrad", mixture="joint").fit(suite)


def test_a_misspelt_adapter_is_refused_before_work(suite: Suite) -> None:
    with pytest.raises(InputError, match="adapters 'lore' is not known"):
        learner(adapters="lore").fit(suite)
