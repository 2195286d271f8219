"""Shared MLP: the plainest way to share, and fitted on one task the plainest way not to.

Source: hard parameter sharing, Caruana, "Multitask Learning", Machine Learning 1997; sizes of the
    MultiTab baselines (arXiv 2511.09970): trunk [256, 128], head [64] per task.
Year: 1997
Domain: tables
Parts: tabular, mlp, heads
For: the baseline beside every other row
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor

from polytask.data import Processor
from polytask.parts.heads import Heads
from polytask.parts.mlp import MLP
from polytask.parts.tabular import FlatRow
from polytask.training import MultiTaskModule, NeuralLearner, Training


class SharedMLPNet(MultiTaskModule):
    """The row as one vector, a trunk for all tasks, a head for each."""

    has_feature = True

    def __init__(self, spec: Processor, config: SharedMLP) -> None:
        super().__init__(spec.tasks)
        shapes = {name: array.shape for name, array in spec.arrays.items()}
        self.row = FlatRow(len(spec.numeric), spec.cardinalities, shapes, config.width)
        self.trunk = MLP(self.row.out_features, config.hidden, dropout=config.dropout)
        self.heads = Heads(
            {
                t.name: MLP(self.trunk.out_features, config.head, t.kind.outputs, config.dropout)
                for t in spec.tasks
            }
        )

    def represent(self, inputs: dict[str, Tensor], tasks: Iterable[str]) -> Tensor:
        return self.trunk(self.row(inputs))

    def answer(self, representation: Tensor, task: str) -> Tensor:
        return self.heads[task](representation)


@dataclass
class SharedMLP(NeuralLearner):
    """One trunk for all tasks and a small head for each.

    Attributes:
        hidden: widths of the shared layers.
        head: widths of each task's own layers.
        width: size of a feature's token.
    """

    hidden: tuple[int, ...] = (256, 128)
    head: tuple[int, ...] = (64,)
    width: int = 16
    dropout: float = 0.0
    training: Training = field(
        default_factory=lambda: Training(
            lr=1e-3, weight_decay=1e-5, batch=2048, epochs=100, patience=5
        )
    )

    id: ClassVar[str] = "mlp"

    def build(self, spec: Processor) -> SharedMLPNet:
        return SharedMLPNet(spec, self)
