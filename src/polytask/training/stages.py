"""Stages: several runs of the one loop on the same network, each with rows and rules of its own.

A stage says which rows and labels it sees, what it may change, how losses weigh and what budget it
has. The next stage starts from the best weights of the one before, with a fresh optimiser.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from polytask.data import Batch, Mixture, Rows, Suite
from polytask.errors import InputError
from polytask.training.balancers import Balancer
from polytask.training.engine import Engine
from polytask.training.learner import NeuralLearner
from polytask.training.loop import State, Training, train
from polytask.training.module import MultiTaskModule
from polytask.training.steps import Step


@dataclass(frozen=True)
class Stage:
    """One run of the loop.

    Attributes:
        name: of the folder and of the log entries.
        data, validation: rows and labels that this stage sees; its best epoch is chosen on
            ``validation``.
        training: its budget and optimiser.
        weights: fixed weights of losses, in the place of the module's.
        frozen: parts of the network that keep their weights to the bit. Gradients still pass
            through them.
    """

    name: str
    data: Rows
    validation: Batch
    training: Training
    weights: Mapping[str, float] = field(default_factory=dict)
    frozen: Sequence[nn.Module] = ()


def train_stages(
    module: MultiTaskModule,
    stages: Sequence[Stage],
    *,
    step: Step,
    balancer: Balancer,
    mixture: Mixture,
    engine: Engine,
    out: Path | None = None,
    run: str = "",
    progress: Callable[[dict[str, Any]], None],
) -> dict[str, State]:
    """Run the loop once per stage, each from where the last one ended; the states by stage.

    Arguments are those of ``train``. Every stage has a balancer and a step of its own, and a folder
    of its own under ``out``; a run that was stopped goes on within its stage.
    """
    if not stages:
        raise InputError("there is no stage to train")
    states = {}
    for stage in stages:

        def told(record: dict[str, Any], name: str = stage.name) -> None:
            progress({"stage": name, **record})

        with _frozen(stage.frozen), _weighed(module, stage.weights):
            states[stage.name] = train(
                module,
                stage.data,
                stage.validation,
                stage.training,
                step=copy.deepcopy(step),
                balancer=copy.deepcopy(balancer),
                mixture=mixture,
                engine=engine,
                out=out / stage.name if out else None,
                run=f"{run}-{stage.name}",
                progress=told,
            )
    return states


@contextlib.contextmanager
def _frozen(parts: Sequence[nn.Module]) -> Iterator[None]:
    """No parameter of these parts learns; those that were frozen before stay so."""
    held = [p for part in parts for p in part.parameters() if p.requires_grad]
    for parameter in held:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in held:
            parameter.requires_grad_(True)


@contextlib.contextmanager
def _weighed(module: MultiTaskModule, weights: Mapping[str, float]) -> Iterator[None]:
    before, module.weights = module.weights, dict(weights)
    try:
        yield
    finally:
        module.weights = before


@dataclass
class StagedLearner(NeuralLearner):
    """A neural learner that is trained in stages; a system implements ``build`` and ``stages``.

    ``state_`` is that of the last stage, ``stages_`` has them all.
    """

    def stages(self, module: MultiTaskModule, suite: Suite) -> list[Stage]:
        """What happens to a fresh module, in order; ``processor_`` is fitted.

        It stands in the place of ``before_training``, too.
        """
        raise NotImplementedError

    def learn(self, module: MultiTaskModule, suite: Suite, **how: Any) -> State:
        """Stage by stage; an output folder gets a folder of checkpoints and log for each."""
        self.stages_ = train_stages(module, self.stages(module, suite), **how)
        return list(self.stages_.values())[-1]
