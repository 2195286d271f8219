"""A small problem that the engine's tests share: a module, rows with gaps, a fixed mixture."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from polytask.data import Batch
from polytask.data.mixtures import Draw
from polytask.tasks import Classification, Regression, Task
from polytask.training import MultiTaskModule

TASKS = (
    Task("price", Regression(), "price"),
    Task("kind", Classification(classes=("a", "b", "c")), "kind"),
    Task("sold", Classification(classes=(0, 1)), "sold"),
)


class SmallNet(MultiTaskModule):
    has_feature = True

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__(TASKS)
        self.trunk = nn.Sequential(
            nn.Linear(5, 8), nn.Tanh(), nn.Dropout(dropout), nn.Linear(8, 6), nn.Tanh()
        )
        self.heads = nn.ModuleDict({t.name: nn.Linear(6, t.kind.outputs) for t in TASKS})

    def represent(self, inputs: dict[str, Tensor], tasks: Iterable[str]) -> Tensor:
        return self.trunk(inputs["numeric"])

    def answer(self, representation: Tensor, task: str) -> Tensor:
        return self.heads[task](representation)


def net(seed: int = 0, dropout: float = 0.0) -> SmallNet:
    torch.manual_seed(seed)
    return SmallNet(dropout)


def rows(count: int, seed: int = 0, missing: float = 0.0) -> Batch:
    """Learnable rows; each label is missing with some probability."""
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 5, generator=draw)
    targets = {
        "price": x[:, 0] - x[:, 1] + 0.1 * torch.randn(count, generator=draw),
        "kind": x[:, 1:4].argmax(1),
        "sold": (x[:, 0] + x[:, 4] > 0).long(),
    }
    masks = {t: torch.rand(count, generator=draw) >= missing for t in targets}
    return Batch({"numeric": x}, targets, masks)


@dataclass(frozen=True)
class InOrder:
    """Batches of rows as they stand, so that a test decides what each process gets."""

    def draws(self, data: Batch, size: int, seed: int, epoch: int) -> Iterator[Draw]:
        return (Draw(part, None) for part in torch.arange(len(data)).split(size))
