"""Mixtures: which rows and which tasks each batch comes from.

A mixture is a pure function of seed, epoch and data, so that a run resumes in mid-epoch by skipping
and every process sees the same plan.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from polytask.config import amounts, parse_call
from polytask.data.batch import Rows, budgeted
from polytask.errors import InputError, nearest


class Draw(NamedTuple):
    """One global batch: row numbers, and the tasks it trains (None: all that have labels)."""

    rows: Tensor
    tasks: tuple[str, ...] | None


class Mixture(Protocol):
    """``draws`` plans one epoch over encoded rows, as batches of ``size`` rows.

    A mixture whose batches train one task each says so: ``alone = True``.
    """

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

    alone: ClassVar[bool] = True

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


@dataclass(frozen=True)
class TokenBatches:
    """Rows of like lengths together, as many as ``budget`` tokens hold, padding included.

    Shuffled rows are sorted by length within pools of 50 batches, cut into batches, and the batches
    are shuffled; every row is seen once an epoch. The batch size is the most rows of a batch.
    """

    budget: int = 4096

    def draws(self, data: Rows, size: int, seed: int, epoch: int) -> Iterator[Draw]:
        generator = _generator(seed, epoch)
        order = torch.randperm(len(data), generator=generator).numpy()
        lengths = _lengths(data)
        runs = []
        for start in range(0, len(order), 50 * size):
            pool = order[start : start + 50 * size]
            pool = pool[np.argsort(lengths[pool], kind="stable")]
            runs += [
                pool[run.start : run.stop] for run in budgeted(lengths[pool], self.budget, size)
            ]
        for i in torch.randperm(len(runs), generator=generator).tolist():
            yield Draw(torch.from_numpy(runs[i]), None)

    def check(self, tasks: Sequence[str]) -> None:
        """Any tasks will do."""
        if self.budget < 1:
            raise InputError(f"mixture tokens: the budget is at least 1 token, not {self.budget}")

    def __str__(self) -> str:
        return f"tokens(budget={self.budget})"


@dataclass(frozen=True)
class RoundRobin:
    """Each batch belongs to one task; tasks take turns in a fixed order.

    With ``rounds``, training begins with a phase of so many rounds over the tasks in ``first``
    alone: anti-curriculum with a hard task first, curriculum with easy ones (McCann et al., arXiv
    1806.08730). An epoch is as many batches as the labelled rows of all tasks fill.

    Attributes:
        consecutive: batches of a task before the next one's turn.
        first: tasks of the first phase, ``"squad"`` or ``"sst, woz"``.
        rounds: length of the first phase, in batches of each of its tasks.
        tokens: the most tokens of a batch, padding included (0: no such bound).
    """

    consecutive: int = 1
    first: str = ""
    rounds: int = 0
    tokens: int = 0

    alone: ClassVar[bool] = True

    def check(self, tasks: Sequence[str]) -> None:
        """Numbers in range; a suite without the tasks of the first phase has no such phase."""
        if self.consecutive < 1 or self.rounds < 0 or self.tokens < 0:
            raise InputError(f"mixture {self}: consecutive is at least 1, the others at least 0")
        if self.rounds and not self._first:
            raise InputError("mixture round_robin: rounds needs tasks in first")

    @property
    def _first(self) -> tuple[str, ...]:
        return _listed(self.first)

    def draws(self, data: Rows, size: int, seed: int, epoch: int) -> Iterator[Draw]:
        generator = _generator(seed, epoch)
        streams = {t: _Stream(data, t, size, self.tokens, generator) for t in data.masks}
        streams = {t: s for t, s in streams.items() if len(s)}
        total = sum(s.batches for s in streams.values())
        early = [t for t in self._first if t in streams]
        jump = self.rounds * len(early)  # batches of the first phase, over all epochs
        turn = epoch * total  # batches before this epoch
        for batch in range(turn, turn + total):
            names = early if batch < jump else list(streams)
            place = batch if batch < jump else (batch - jump) // self.consecutive
            task = names[place % len(names)]
            yield Draw(streams[task].next(), (task,))

    def __str__(self) -> str:
        first = f", first={self.first!r}, rounds={self.rounds}" if self.rounds else ""
        return f"round_robin(consecutive={self.consecutive}{first}, tokens={self.tokens})"


@dataclass(frozen=True)
class Datasets:
    """Batches of one task, every task with a batch size of its own, all shuffled together.

    Each epoch deals the rows of task i into ``floor(n_i / size_i)`` batches (what is left over
    waits for another order), so that a smaller size gives a task more updates per row (CoDiEmb's
    sampler).

    Attributes:
        sizes: ``"stsb=32, nli=64"``; a task it does not name has the fit's batch size.
    """

    sizes: str = ""

    alone: ClassVar[bool] = True

    @property
    def _sizes(self) -> dict[str, int]:
        return {
            t: int(n) for t, n in amounts(_listed(self.sizes), "sizes", above_zero=True).items()
        }

    def check(self, tasks: Sequence[str]) -> None:
        """Sizes are whole numbers above 0; the same text may fit a suite of fewer tasks."""
        _ = self._sizes

    def draws(self, data: Rows, size: int, seed: int, epoch: int) -> Iterator[Draw]:
        generator = _generator(seed, epoch)
        items: list[Draw] = []
        for task, mask in data.masks.items():
            rows = mask.nonzero().squeeze(1)
            order = rows[torch.randperm(len(rows), generator=generator)]
            if len(order):
                items += [Draw(b, (task,)) for b in _full(order, self._sizes.get(task, size))]
        for i in torch.randperm(len(items), generator=generator).tolist():
            yield items[i]

    def __str__(self) -> str:
        return f"datasets(sizes={self.sizes!r})"


class _Stream:
    """Endless batches of one task's rows, shuffled again whenever they run dry."""

    def __init__(
        self, data: Rows, task: str, size: int, tokens: int, generator: torch.Generator
    ) -> None:
        self._rows = data.masks[task].nonzero().squeeze(1)
        self._size, self._tokens, self._generator = size, tokens, generator
        self._lengths = _lengths(data) if tokens else None
        self._left: Iterator[Tensor] = iter(())

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def batches(self) -> int:
        """Batches that hold all rows once, about."""
        if self._lengths is None:
            return max(1, len(self) // self._size)
        padded = float(self._lengths[self._rows.numpy()].sum())
        return max(1, len(self) // self._size, round(padded / self._tokens))

    def next(self) -> Tensor:
        batch = next(self._left, None)
        if batch is None:
            order = self._rows[torch.randperm(len(self), generator=self._generator)]
            self._left = self._cut(order)
            batch = next(self._left)
        return batch

    def _cut(self, order: Tensor) -> Iterator[Tensor]:
        if self._lengths is None:
            return _full(order, self._size)
        lengths = self._lengths[order.numpy()]
        runs = budgeted(lengths, self._tokens, self._size)
        return (order[run.start : run.stop] for run in runs)


def _lengths(data: Rows) -> NDArray[np.int64]:
    if data.lengths is None:
        raise InputError("a mixture that counts tokens needs an input that is text")
    return data.lengths


def _listed(text: str) -> tuple[str, ...]:
    """``"a, b"`` as names."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


MIXTURES = {
    "joint": JointRows,
    "tasks": TaskBatches,
    "patches": Patches,
    "tokens": TokenBatches,
    "round_robin": RoundRobin,
    "datasets": Datasets,
}


def as_mixture(value: str | Mixture) -> Mixture:
    """A mixture from its text (``"tasks(temperature=0.5)"``) or itself."""
    return parse_call(value, MIXTURES, "mixture") if isinstance(value, str) else value
