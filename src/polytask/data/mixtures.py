"""Mixtures: which rows and which tasks each batch comes from.

A mixture is a pure function of seed, epoch and data, so that a run resumes in mid-epoch by skipping
and every process sees the same plan.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from polytask.data.batch import Batch


class Draw(NamedTuple):
    """One global batch: row numbers, and the tasks it trains (None: all that have labels)."""

    rows: Tensor
    tasks: tuple[str, ...] | None


class Mixture(Protocol):
    """``draws`` plans one epoch over encoded rows, as batches of ``size`` rows."""

    def draws(self, data: Batch, size: int, seed: int, epoch: int) -> Iterator[Draw]: ...


def _generator(seed: int, epoch: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed * 1_000_003 + epoch)


def _full(order: Tensor, size: int) -> Iterator[Tensor]:
    """Whole batches only (reshuffling reaches the leftover rows in other epochs)."""
    size = min(size, len(order))
    for start in range(0, len(order) - size + 1, size):
        yield order[start : start + size]


@dataclass(frozen=True)
class JointRows:
    """Shuffled rows; each batch trains every task that has a label in it."""

    def draws(self, data: Batch, size: int, seed: int, epoch: int) -> Iterator[Draw]:
        order = torch.randperm(len(data), generator=_generator(seed, epoch))
        return (Draw(rows, None) for rows in _full(order, size))


@dataclass(frozen=True)
class TaskBatches:
    """Each batch belongs to one task; tasks are drawn with probability ``n_t ** temperature``.

    ``temperature`` 1 is proportional to the labelled rows, 0 is uniform. An epoch is as many
    batches as the labelled rows of all tasks fill.
    """

    temperature: float = 1.0

    def draws(self, data: Batch, size: int, seed: int, epoch: int) -> Iterator[Draw]:
        generator = _generator(seed, epoch)
        rows = {t: mask.nonzero().squeeze(1) for t, mask in data.masks.items()}
        names = list(rows)
        counts = torch.tensor([float(len(rows[t])) for t in names])
        plan = torch.multinomial(
            counts**self.temperature,
            max(1, int(counts.sum()) // size),
            replacement=True,
            generator=generator,
        )
        streams: dict[str, Iterator[Tensor]] = {t: iter(()) for t in names}
        for choice in plan.tolist():
            task = names[choice]
            batch = next(streams[task], None)
            if batch is None:  # this task ran dry: shuffle its rows again
                order = rows[task][torch.randperm(len(rows[task]), generator=generator)]
                streams[task] = _full(order, size)
                batch = next(streams[task])
            yield Draw(batch, (task,))
