"""Stages: each with rows, weights and frozen parts of its own, one after the other."""

from dataclasses import dataclass, replace
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


def fresh(suite):
    """An untrained module and the stages it is to go through."""
    learner = taught()
    learner.processor_ = Processor.fit(suite)
    torch.manual_seed(0)
    module = learner.build(learner.processor_)
    return module, learner.stages(module, suite)


def run(module, stages):
    return train_stages(
        module,
        stages,
        step=as_step("plain"),
        balancer=as_balancer("sum"),
        mixture=JointRows(),
        engine=Engine(device="cpu"),
        progress=lambda record: None,
    )


def test_frozen_parts_stay_to_the_bit_and_the_rest_learns(suite):
    module, stages = fresh(suite)
    before = weights(module)
    states = run(module, stages[:1])
    frozen = {n for n in before if n.startswith("heads.task:price")}
    assert frozen
    for name, value in weights(module).items():
        assert torch.equal(before[name], value) == (name in frozen), name
    assert all(p.requires_grad for p in module.parameters())
    assert list(states) == ["rent"] and set(states["rent"].history[0]["validation"]) == {"rent"}


def test_weights_hold_within_their_stage(suite):
    told = []
    for given in ({"rent": 2.0}, {}):
        module, stages = fresh(suite)
        states = run(module, [replace(stages[0], weights=given)])
        told.append(states["rent"].history[0]["loss"]["rent"])
        assert module.weights == {}
    # AdamW forgets the scale of a loss, so both learn alike and one tells twice the loss.
    assert told[0] == pytest.approx(2 * told[1], rel=1e-3)


def test_a_parameter_that_was_frozen_stays_frozen(suite):
    module, stages = fresh(suite)
    held = next(module.heads["price"].parameters())
    held.requires_grad_(False)
    run(module, stages)
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
