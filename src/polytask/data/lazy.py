"""Lazy: a column of pictures or maps that is read when rows are drawn."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from polytask.errors import InputError

_KEPT_BYTES = 1 << 30  # decoded rows of one column stay in memory if all of them fit into this


class Lazy:
    """Rows of one column, ``[N, *shape]``; indexing reads and stacks them.

    Args:
        name: of the column, for errors.
        column: the cells.
        read: a cell to an array; all arrays have one shape and type.
        finish: the stacked arrays of a batch to the tensor a network sees.
        blank: what a null is read as; None: a null is refused.
    """

    def __init__(
        self,
        name: str,
        column: pa.ChunkedArray,
        read: Callable[[Any], NDArray],
        finish: Callable[[Tensor], Tensor],
        blank: Callable[[NDArray], NDArray] | None = None,
    ) -> None:
        self.name, self.read, self.finish, self.blank = name, read, finish, blank
        self._cell = cells(column)
        self._null = column.is_null().to_numpy()
        self._rows = np.arange(len(column))
        self._known = np.zeros(len(column), bool)
        if self._null.all():
            raise InputError(f"column {name!r} has no value at all")
        self._first = first = self._checked(int(np.flatnonzero(~self._null)[0]))
        # Shared with every ``take``; no memory is used until a row is written.
        fits = len(column) * first.nbytes <= _KEPT_BYTES
        self._kept = np.empty((len(column), *first.shape), first.dtype) if fits else None

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def numbers(self) -> int:
        """Numbers per row."""
        return self._first.size

    def take(self, rows: Tensor) -> Lazy:
        """The same column with some of its rows, still unread."""
        part = copy.copy(self)
        part._rows = self._rows[rows.numpy()]
        return part

    def __getitem__(self, rows: Tensor | slice) -> Tensor:
        picked = self._rows[rows if isinstance(rows, slice) else rows.numpy()]
        return self.finish(torch.from_numpy(np.stack([self._row(int(row)) for row in picked])))

    def _row(self, row: int) -> NDArray:
        if self._kept is None:
            return self._checked(row)
        if not self._known[row]:
            self._kept[row] = self._checked(row)
            self._known[row] = True
        return self._kept[row]

    def _checked(self, row: int) -> NDArray:
        if self._null[row]:
            if self.blank is None:
                raise InputError(f"column {self.name!r} has no value in data row {row + 1}")
            return self.blank(self._first)
        try:
            values = self.read(self._cell(row))
        except InputError as error:
            raise InputError(f"column {self.name!r}, data row {row + 1}: {error}") from None
        first = getattr(self, "_first", values)
        if values.shape != first.shape:
            raise InputError(
                f"column {self.name!r}, data row {row + 1}: shape {_times(values.shape)} where "
                f"{_times(first.shape)} is wanted"
            )
        return values.astype(first.dtype, copy=False)


def cells(column: pa.ChunkedArray) -> Callable[[int], Any]:
    """Row number -> cell, without a copy for arrays of numbers."""
    if not pa.types.is_fixed_size_list(column.type):
        return lambda row: column[row].as_py()
    flat = column.combine_chunks()
    shape: list[int] = []
    while pa.types.is_fixed_size_list(flat.type):
        shape.append(flat.type.list_size)
        # Unlike flatten(), values keep the place of rows that are null.
        start, length = flat.offset * flat.type.list_size, len(flat) * flat.type.list_size
        flat = flat.values.slice(start, length)
    numbers = flat.to_numpy(zero_copy_only=False).reshape(len(column), *shape)
    return lambda row: numbers[row]


def _times(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))
