"""Mixtures: which rows and which tasks each batch comes from.

A mixture is a pure function of seed, epoch and data, so that a run resumes in mid-epoch by skipping
and every process sees the same plan.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from polytask.config import parse_call
from polytask.data.batch import Rows
from polytask.errors import InputError, nearest


class Draw(NamedTuple):
    """One global batch: row numbers, and the tasks it trains (None: all that have labels)."""

    rows: Tensor
    tasks: tuple[str, ...] | None


class Mixture(Protocol):
    """``draws`` plans one epoch over encoded rows, as batches of ``size`` rows."""

    def draws(self, data: Rows, size: int, seed: int, epoch: int) -> Iterator[Draw]: ...

    def check(self, tasks: Sequence[str]) -> None:
        """Refuse, before anything is fitted, a mixture that does not fit these tasks."""
        ...


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

    def draws(self, data: Rows, size: int, seed: int, epoch: int) -> Iterator[Draw]:
        order = torch.randperm(len(data), generator=_generator(seed, epoch))
        return (Draw(rows, None) for rows in _full(order, size))

    def check(self, tasks: Sequence[str]) -> None:
        """Any tasks will do."""

    def __str__(self) -> str:
        return "joint"


@dataclass(frozen=True)
class TaskBatches:
    """Each batch belongs to one task; tasks are drawn with probability ``n_t ** temperature``.

    ``temperature`` 1 is proportional to the labelled rows, 0 is uniform. An epoch is as many
    batches as the labelled rows of all tasks fill.

    Attributes:
        weights: task -> chance (of any scale) in the place of ``n_t ** temperature``: those of a
            plan that says which source tasks are worth what. A task it does not name is not drawn.
    """

    temperature: float = 1.0
    weights: Mapping[str, float] | None = None

    def check(self, tasks: Sequence[str]) -> None:
        """Weights are chances of the suite's tasks, and not all nothing."""
        for task, weight in (self.weights or {}).items():
            if task not in tasks:
                raise InputError(f"mixture weight of unknown task {task!r}{nearest(task, tasks)}")
            if not 0 <= weight < math.inf:
                raise InputError(f"mixture weight of task {task!r} is {weight}, not 0 or more")
        if self.weights is not None and not any(self.weights.values()):
            raise InputError("mixture weights are all 0; no task would be drawn")

    def draws(self, data: Rows, size: int, seed: int, epoch: int) -> Iterator[Draw]:
        generator = _generator(seed, epoch)
        rows = {t: mask.nonzero().squeeze(1) for t, mask in data.masks.items()}
        names = list(rows)
        counts = torch.tensor([float(len(rows[t])) for t in names])
        chances = counts**self.temperature
        if self.weights is not None:
            chances = torch.tensor([float(self.weights.get(t, 0.0)) for t in names])
        chances[counts == 0] = 0.0
        plan = torch.multinomial(
            chances,
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

    def __str__(self) -> str:
        weights = f", weights={dict(self.weights)}" if self.weights is not None else ""
        return f"tasks(temperature={self.temperature}{weights})"


@dataclass(frozen=True)
class Patches:
    """All rows of a batch are views of the same ``images`` rows; an epoch sees every row once.

    Row ``r + j * len(data)`` stands for the j-th view of row r: another random crop, if rows are
    augmented. So a batch of 8 with one image is 8 crops of that image, as Abuolaim et al. (WACV
    2022) train, and an epoch has as many updates as there are images.

    Attributes:
        images: pictures per batch; the batch size is a multiple of it.
    """

    images: int = 1

    def __post_init__(self) -> None:
        if self.images < 1:
            raise InputError(f"mixture patches: images is at least 1, not {self.images}")

    def draws(self, data: Rows, size: int, seed: int, epoch: int) -> Iterator[Draw]:
        if size % self.images:
            raise InputError(
                f"mixture patches: a batch of {size} cannot be shared by {self.images} images alike"
            )
        order = torch.randperm(len(data), generator=_generator(seed, epoch))
        images = min(self.images, len(order))
        view = torch.arange(size // self.images) * len(data)
        for start in range(0, len(order) - images + 1, images):
            yield Draw((order[start : start + images, None] + view).flatten(), None)

    def check(self, tasks: Sequence[str]) -> None:
        """Any tasks will do."""

    def __str__(self) -> str:
        return f"patches(images={self.images})"


MIXTURES = {"joint": JointRows, "tasks": TaskBatches, "patches": Patches}


def as_mixture(value: str | Mixture) -> Mixture:
    """A mixture from its text (``"tasks(temperature=0.5)"``) or itself."""
    return parse_call(value, MIXTURES, "mixture") if isinstance(value, str) else value
