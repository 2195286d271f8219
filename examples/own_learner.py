"""A learner of your own in one class: tasks that share nothing but a few linear directions.

    python examples/houses.py        # makes my.csv
    python examples/own_learner.py

Reduced-rank regression: y_t = w_t · (A x), A [rank, inputs] shared, w_t [rank] of the task. The
class says what is shared and what is not; losses, masks, training, saving and balancers follow.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

import polytask
from polytask.comparing.report import gain
from polytask.data import Processor
from polytask.parts.tabular import FlatRow
from polytask.training import MultiTaskModule, NeuralLearner


class ReducedRankNet(MultiTaskModule):
    has_feature = True  # all heads read one tensor: balancers of the kind features(X) apply

    def __init__(self, spec: Processor, rank: int) -> None:
        super().__init__(spec.tasks)
        self.row = FlatRow(len(spec.numeric), spec.cardinalities, {}, 4)
        self.directions = nn.Linear(self.row.out_features, rank)
        self.heads = nn.ModuleDict({t.name: nn.Linear(rank, t.kind.outputs) for t in spec.tasks})

    def represent(self, inputs: dict[str, Tensor], tasks: Iterable[str]) -> Tensor:
        return self.directions(self.row(inputs))

    def answer(self, representation: Tensor, task: str) -> Tensor:
        return self.heads[task](representation)


@dataclass
class ReducedRank(NeuralLearner):
    """Linear models of all tasks whose weights span ``rank`` directions."""

    rank: int = 3

    id: ClassVar[str] = "reduced_rank"

    def build(self, spec: Processor) -> ReducedRankNet:
        return ReducedRankNet(spec, self.rank)


if __name__ == "__main__":
    suite = polytask.Suite.from_table("my.csv", ["price", "rooms", "sold"])
    learner = ReducedRank(training=polytask.Training(lr=0.01, batch=32, epochs=30))
    joint = learner.fit(suite).score(suite, "test")
    alone = {
        task: learner.fit(suite.only(task)).score(suite.only(task), "test")[task]
        for task in suite.task_names
    }
    metric = {task.name: task.kind.primary for task in suite.tasks}
    shared = {task: scores[metric[task].name] for task, scores in joint.items()}
    single = {task: scores[metric[task].name] for task, scores in alone.items()}
    directions = {task: m.higher_is_better for task, m in metric.items()}
    print(f"gain of sharing on test: {gain(shared, single, directions):+.2f} % (one seed)")
