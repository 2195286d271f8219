"""Batch: encoded rows as tensors; the whole training set is just a large one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from polytask.data.lazy import Lazy
from polytask.data.texts import Ragged, Texts

_ROWS = 8192  # rows per forward pass when scoring; changes nothing but memory
_NUMBERS = 1 << 21  # and input numbers, for pictures
# And tokens, padding included. MiniLM on one core takes twice as long with 16 times as many, which
# no cache holds; an accelerator has none to fill and wants the work.
_TOKENS = {"cpu": 1 << 10}
_MANY_TOKENS = 1 << 14


class Rows(Protocol):
    """Encoded rows at rest, which a mixture plans over and an engine draws batches from."""

    @property
    def masks(self) -> dict[str, Tensor]: ...

    @property
    def lengths(self) -> NDArray[np.int64] | None:
        """Tokens per row ``[N]``; None where no input is text."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, rows: Tensor) -> Batch: ...

    def only(self, tasks: Iterable[str]) -> Rows:
        """The same rows with the labels of some tasks."""
        ...

    def turn(self, seed: int, epoch: int) -> Rows:
        """The rows as this epoch sees them."""
        ...


@dataclass(frozen=True)
class Batch:
    """Encoded rows.

    Attributes:
        inputs: name -> tensor with the rows first; ``numeric`` ``[B, n]`` float32, ``categorical``
            ``[B, c]`` int64, one entry ``[B, *shape]`` per array column, and one ``[B, C, H, W]``
            in [0, 1] per picture column. Texts: token ids ``[B, L]`` or ``[B, S, L]``, -1 past the
            end.
        targets: task -> ``[B]``; where the mask is False the value is a placeholder.
            Dense kinds: a map per row. Kinds of text: see ``tasks.text``.
        masks: task -> bool ``[B]``, True where the row has a label.

    Of a whole split, a column of pictures or maps is a ``Lazy``, one of texts a ``Texts``, one of
    lists a ``Ragged``: drawing rows makes it a tensor.
    """

    inputs: dict[str, Tensor]
    targets: dict[str, Tensor]
    masks: dict[str, Tensor]

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values())))

    def __getitem__(self, rows: Tensor | slice) -> Batch:
        return self._map(lambda tensor: tensor[rows])

    def take(self, rows: Tensor) -> Batch:
        """Some rows, in which pictures, maps and texts are still unread."""
        return self._map(lambda t: t.take(rows) if isinstance(t, _AT_REST) else t[rows])

    def turn(self, seed: int, epoch: int) -> Batch:
        return self

    @property
    def lazy(self) -> bool:
        """Whether a column has yet to be read."""
        columns = [*self.inputs.values(), *self.targets.values()]
        return any(isinstance(column, Lazy) for column in columns)

    @property
    def lengths(self) -> NDArray[np.int64] | None:
        columns: list[Any] = list(self.inputs.values())
        texts = [c.lengths for c in columns if isinstance(c, Texts) and c.reader]
        return np.sum(texts, axis=0) if texts else None

    def chunks(self, device: str = "cpu") -> Iterator[Batch]:
        """All rows in order, as many at a time as a forward pass on such a device should hold."""
        lengths = self.lengths
        if lengths is not None:
            for run in budgeted(lengths, tokens_at_once(device)):
                yield self[slice(run.start, run.stop)]
            return
        numbers = sum(
            t.numbers if isinstance(t, Lazy) else t[:1].numel()
            for t in self.inputs.values()
            if not isinstance(t, Texts)
        )
        rows = max(1, min(_ROWS, _NUMBERS // max(1, numbers)))
        for start in range(0, len(self), rows):
            yield self[slice(start, start + rows)]

    def to(self, device: torch.device | str) -> Batch:
        return self._map(lambda tensor: tensor.to(device, non_blocking=True))

    def only(self, tasks: Iterable[str]) -> Batch:
        """The same rows with the labels of some tasks."""
        names = list(tasks)
        return replace(
            self,
            targets={t: self.targets[t] for t in names},
            masks={t: self.masks[t] for t in names},
        )

    def matrix(self) -> NDArray[np.float64]:
        """All inputs side by side ``[B, columns]``: numbers, category codes, arrays flattened."""
        flat = [t[:].numpy().reshape(len(self), -1) for t in self.inputs.values()]
        return np.concatenate(flat, axis=1, dtype=np.float64)

    @property
    def counts(self) -> dict[str, int]:
        """Task -> number of labelled rows."""
        return {task: int(mask.sum()) for task, mask in self.masks.items()}

    def _map(self, change) -> Batch:  # type: ignore[no-untyped-def]
        return Batch(
            {k: change(v) for k, v in self.inputs.items()},
            {k: change(v) for k, v in self.targets.items()},
            {k: change(v) for k, v in self.masks.items()},
        )


@dataclass(frozen=True)
class Views:
    """Encoded rows that every epoch sees anew; a subclass says how in ``__getitem__``.

    What it draws follows from seed, epoch and row alone: a run that resumes sees the same, however
    rows are dealt to processes.
    """

    data: Batch
    seed: int = field(default=0, kw_only=True)
    epoch: int = field(default=0, kw_only=True)

    @property
    def masks(self) -> dict[str, Tensor]:
        return self.data.masks

    @property
    def lengths(self) -> NDArray[np.int64] | None:
        return self.data.lengths

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, rows: Tensor) -> Batch:
        raise NotImplementedError

    def only(self, tasks: Iterable[str]) -> Self:
        return replace(self, data=self.data.only(tasks))

    def turn(self, seed: int, epoch: int) -> Self:
        return replace(self, seed=seed, epoch=epoch)


_AT_REST = (Lazy, Texts, Ragged)


def tokens_at_once(device: str) -> int:
    """Tokens of a forward pass, padding included, that suit a device's caches."""
    return _TOKENS.get(device, _MANY_TOKENS)


def budgeted(lengths: NDArray[np.int64], budget: int, most: int = _ROWS) -> Iterator[range]:
    """Runs of at most ``most`` neighbouring rows, each padded to its longest within the budget.

    A row that is longer alone makes a run of its own.
    """
    start, longest = 0, 0
    for row, length in enumerate(lengths.tolist()):
        grown = max(longest, length, 1)
        if row > start and (grown * (row - start + 1) > budget or row - start == most):
            yield range(start, row)
            start, grown = row, max(length, 1)
        longest = grown
    if start < len(lengths):
        yield range(start, len(lengths))
