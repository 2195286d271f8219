"""Stages: each with rows, weights and frozen parts of its own, one after the other."""

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch

from polytask.baselines.mlp import SharedMLPNet
from polytask.data import JointRows, Processor
from polytask.errors import InputError
from polytask.testing import mixed_suite
from polytask.training import Engine, Training, as_balancer, as_step
from polytask.training.stages import Stage, StagedLearner, train_stages


@dataclass
class Taught(StagedLearner):
    """A shared MLP that first learns one task with the head of another frozen."""

    hidden: tuple[int, ...] = (8,)
    head: tuple[int, ...] = (4,)
    width: int = 4
    dropout: float = 0.0

    id: ClassVar[str] = "taught"

    def build(self, spec):
        return SharedMLPNet(spec, self)

    def stages(self, module, suite):
        data = self.processor_.encode(suite, "train")
        validation = self.processor_.encode(suite, "validation")
        first = Stage(
            "rent",
            data.only(["rent"]),
            validation.only(["rent"]),
            self.training,
            weights={"rent": 2.0},
            frozen=[module.heads["price"]],
        )
        return [first, Stage("both", data, validation, self.training)]


def taught(**settings):
    budget = Training(lr=1e-2, batch=16, epochs=3, patience=3, weight_decay=0.1)
    return Taught(training=budget, **settings)


@pytest.fixture(scope="module")
def suite():
    return mixed_suite().only("price", "rent")


def weights(module):
    return {name: p.detach().clone() for name, p in module.named_parameters()}


def run_first(suite, frozen=True, balancer="sum"):
    learner = taught()
    learner.processor_ = Processor.fit(suite)
    torch.manual_seed(0)
    module = learner.build(learner.processor_)
    before = weights(module)
    stage = learner.stages(module, suite)[0]
    if not frozen:
        stage = Stage(stage.name, stage.data, stage.validation, stage.training, stage.weights)
    states = train_stages(
        module,
        [stage],
        step=as_step("plain"),
        balancer=as_balancer(balancer),
        mixture=JointRows(),
        engine=Engine(device="cpu"),
        progress=lambda record: None,
    )
    return module, before, weights(module), states


def test_frozen_parts_stay_to_the_bit_and_the_rest_learns(suite):
    module, before, after, states = run_first(suite)
    frozen = {n for n in before if n.startswith("heads.task:price")}
    assert frozen
    for name in before:
        assert torch.equal(before[name], after[name]) == (name in frozen), name
    assert all(p.requires_grad for p in module.parameters())
    assert list(states) == ["rent"] and set(states["rent"].history[0]["validation"]) == {"rent"}


def test_weights_hold_within_their_stage(suite):
    module, *_, states = run_first(suite)
    assert module.weights == {}
    plain = Stage("rent", *_stage_data(suite), taught().training)
    torch.manual_seed(0)
    alone = taught().build(Processor.fit(suite))
    other = train_stages(
        alone,
        [plain],
        step=as_step("plain"),
        balancer=as_balancer("sum"),
        mixture=JointRows(),
        engine=Engine(device="cpu"),
        progress=lambda record: None,
    )
    first, second = (s["rent"].history[0]["loss"]["rent"] for s in (states, other))
    # AdamW forgets the scale of a loss, so weights agree and the loss told is twice as large.
    assert first == pytest.approx(2 * second, rel=1e-3)


def _stage_data(suite):
    processor = Processor.fit(suite)
    return [processor.encode(suite, split).only(["rent"]) for split in ("train", "validation")]


def test_a_parameter_that_was_frozen_stays_frozen(suite):
    learner = taught()
    learner.processor_ = Processor.fit(suite)
    module = learner.build(learner.processor_)
    held = next(module.heads["price"].parameters())
    held.requires_grad_(False)
    train_stages(
        module,
        learner.stages(module, suite),
        step=as_step("plain"),
        balancer=as_balancer("sum"),
        mixture=JointRows(),
        engine=Engine(device="cpu"),
        progress=lambda record: None,
    )
    assert not held.requires_grad


def test_a_learner_in_stages(suite):
    seen = []
    learner = taught().fit(suite, progress=seen.append)
    assert list(learner.stages_) == ["rent", "both"] and learner.state_ is learner.stages_["both"]
    assert [r["stage"] for r in seen] == ["rent"] * 3 + ["both"] * 3
    assert set(learner.history_[-1]["validation"]) == {"price", "rent"}
    assert set(learner.score(suite)) == {"price", "rent"}


def test_a_run_that_was_stopped_goes_on_in_its_stage(suite, tmp_path):
    whole = taught().fit(suite)

    class StoppedError(Exception):
        """The machine goes down."""

    def stop(record):
        if record.get("stage") == "both" and record["epoch"] == 0:
            raise StoppedError

    with pytest.raises(StoppedError):
        taught().fit(suite, out=tmp_path, progress=stop)
    seen = []
    resumed = taught().fit(suite, out=tmp_path, progress=seen.append)
    assert [r["stage"] for r in seen if "epoch" in r].count("rent") == 0
    for name, values in weights(whole.module_).items():
        assert torch.equal(values, weights(resumed.module_)[name]), name
    assert {p.name for p in tmp_path.iterdir()} == {"rent", "both"}


def test_no_stages_are_refused(suite):
    class Idle(Taught):
        def stages(self, module, suite):
            return []

    with pytest.raises(InputError, match="no stage"):
        Idle(training=Training(epochs=1)).fit(suite)
