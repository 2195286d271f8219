"""MMoE, PLE and STEM: soft sharing through experts and gates.

Source: MMoE, Ma et al., KDD 2018; PLE, Tang et al., RecSys 2020; STEM, Su et al., AAAI 2024
    (arXiv 2308.13537). Sizes of the MultiTab baselines (arXiv 2511.09970).
Year: 2018
Domain: tables
Parts: tabular, experts, mlp, heads
For: rivals that decide by a gate how much each task shares
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from polytask.data import Processor
from polytask.parts import experts
from polytask.parts.heads import Heads
from polytask.parts.mlp import MLP
from polytask.parts.tabular import FlatRow
from polytask.training import MultiTaskModule, NeuralLearner, Training


class ExpertNet(MultiTaskModule):
    """Rows, embedded once or once per task, through a mixture of experts to one tower per task."""

    def __init__(
        self,
        spec: Processor,
        width: int,
        head: tuple[int, ...],
        dropout: float,
        mixture: Callable[[int, int], experts.MMoE | experts.PLE | experts.STEM],
        embeddings: int = 1,
    ) -> None:
        super().__init__(spec.tasks)
        shapes = {name: array.shape for name, array in spec.arrays.items()}
        rows = [
            FlatRow(len(spec.numeric), spec.cardinalities, shapes, width) for _ in range(embeddings)
        ]
        self.rows = nn.ModuleList(rows)
        self.mixture = mixture(rows[0].out_features, len(spec.tasks))
        self.heads = Heads(
            {
                t.name: MLP(self.mixture.out_features, head, t.kind.outputs, dropout)
                for t in spec.tasks
            }
        )

    def represent(self, inputs: dict[str, Tensor], tasks: Iterable[str]) -> Tensor:
        """``[T, B, h]``: every task's mixture of the experts."""
        rows = [row(inputs) for row in self.rows]
        return self.mixture(torch.stack(rows) if len(rows) > 1 else rows[0])

    def answer(self, representation: Tensor, task: str) -> Tensor:
        return self.heads[task](representation[list(self.tasks).index(task)])


@dataclass
class _ExpertLearner(NeuralLearner):
    hidden: tuple[int, ...] = (256, 128)
    head: tuple[int, ...] = (64,)
    width: int = 16
    dropout: float = 0.0
    training: Training = field(
        default_factory=lambda: Training(
            lr=1e-3, weight_decay=1e-5, batch=2048, epochs=100, patience=5
        )
    )


@dataclass
class MMoE(_ExpertLearner):
    """Shared experts, one softmax gate per task."""

    experts: int = 8

    id: ClassVar[str] = "mmoe"

    def build(self, spec: Processor) -> ExpertNet:
        def mixture(width: int, tasks: int) -> experts.MMoE:
            return experts.MMoE(width, tasks, self.experts, self.hidden, self.dropout)

        return ExpertNet(spec, self.width, self.head, self.dropout, mixture)


@dataclass
class PLE(_ExpertLearner):
    """Shared experts and experts of each task, in layers."""

    shared: int = 4
    per_task: int = 2
    layers: int = 1

    id: ClassVar[str] = "ple"

    def build(self, spec: Processor) -> ExpertNet:
        def mixture(width: int, tasks: int) -> experts.PLE:
            return experts.PLE(
                width, tasks, self.shared, self.per_task, self.hidden, self.layers, self.dropout
            )

        return ExpertNet(spec, self.width, self.head, self.dropout, mixture)


@dataclass
class STEM(_ExpertLearner):
    """PLE with an embedding table per task and no gradient into other tasks' experts."""

    shared: int = 4
    per_task: int = 2
    layers: int = 1

    id: ClassVar[str] = "stem"

    def build(self, spec: Processor) -> ExpertNet:
        def mixture(width: int, tasks: int) -> experts.STEM:
            return experts.STEM(
                width, tasks, self.shared, self.per_task, self.hidden, self.layers, self.dropout
            )

        return ExpertNet(
            spec, self.width, self.head, self.dropout, mixture, embeddings=len(spec.tasks) + 1
        )
