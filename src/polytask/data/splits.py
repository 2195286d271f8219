"""Splits: how rows are dealt to train, validation and test; small objects with ``assign``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from polytask.errors import InputError, nearest

SPLITS = ("train", "validation", "test")


class Split(Protocol):
    """``assign(table)`` gives each row 0 (train), 1 (validation) or 2 (test) as int8 ``[N]``."""

    def assign(self, table: pa.Table) -> NDArray[np.int8]: ...

    @property
    def uses(self) -> str | None:
        """The column the split is read from; it is not an input."""
        ...

    def __str__(self) -> str: ...


def _cuts(fractions: tuple[float, float, float], rows: int) -> tuple[int, int]:
    if len(fractions) != 3 or min(fractions) <= 0 or abs(sum(fractions) - 1) > 1e-6:
        raise InputError(
            f"split fractions must be three positive numbers summing to 1: {fractions}"
        )
    first = min(max(round(fractions[0] * rows), 1), rows - 2)
    second = min(max(round((fractions[0] + fractions[1]) * rows), first + 1), rows - 1)
    return first, second  # of three rows or more, no part is empty


def _by_rank(rank: NDArray, fractions: tuple[float, float, float]) -> NDArray[np.int8]:
    first, second = _cuts(fractions, len(rank))
    return ((rank >= first).astype(np.int8) + (rank >= second).astype(np.int8)).astype(np.int8)


def _column(table: pa.Table, name: str, what: str) -> pa.ChunkedArray:
    if name not in table.column_names:
        raise InputError(
            f"{what} column {name!r} is not in the table{nearest(name, table.column_names)}"
        )
    values = table[name]
    missing = pc.sum(pc.is_null(values, nan_is_null=True)).as_py()
    if missing:
        raise InputError(f"{what} column {name!r} has {missing} rows without a value")
    return values


@dataclass(frozen=True)
class RandomSplit:
    """Rows are dealt at random; right when rows are independent of each other.

    Attributes:
        within: deal the rows of each value of this column, so that every value is in every split.
    """

    seed: int = 0
    fractions: tuple[float, float, float] = (0.6, 0.2, 0.2)
    within: str | None = None
    uses: None = None

    def assign(self, table: pa.Table) -> NDArray[np.int8]:
        rank = np.random.default_rng(self.seed).permutation(table.num_rows)
        if self.within is None:
            return _by_rank(rank, self.fractions)
        values = pc.fill_null(pc.cast(table[self.within], pa.string()), "")
        groups = values.combine_chunks().dictionary_encode().indices.to_numpy()
        order = np.lexsort((rank, groups))
        parts = np.empty(len(rank), np.int8)
        cuts = np.flatnonzero(np.diff(groups[order])) + 1
        # One or two rows cannot fill three splits: they train.
        for rows in np.split(order, cuts):
            parts[rows] = _by_rank(np.arange(len(rows)), self.fractions) if len(rows) > 2 else 0
        return parts

    def __str__(self) -> str:
        which = f"random rows of each {self.within}" if self.within else "random rows"
        return f"{which}, seed {self.seed}"


@dataclass(frozen=True)
class TimeSplit:
    """The past trains, the future tests: rows are ordered by a column and cut between two values.

    Rows that share a value of the column stay in one split.
    """

    column: str
    fractions: tuple[float, float, float] = (0.6, 0.2, 0.2)

    @property
    def uses(self) -> str:
        return self.column

    def assign(self, table: pa.Table) -> NDArray[np.int8]:
        values = _column(table, self.column, "time")
        # "min" rank puts rows of one moment at one place, so a moment is never cut in two.
        rank = pc.rank(values, "ascending", tiebreaker="min").to_numpy() - 1
        return _by_rank(rank, self.fractions)

    def __str__(self) -> str:
        return f"time-ordered by {self.column}"


@dataclass(frozen=True)
class GroupSplit:
    """All rows of one group (plant, patient, customer) stay in one split."""

    column: str
    seed: int = 0
    fractions: tuple[float, float, float] = (0.6, 0.2, 0.2)

    @property
    def uses(self) -> str:
        return self.column

    def assign(self, table: pa.Table) -> NDArray[np.int8]:
        codes = _column(table, self.column, "group").combine_chunks().dictionary_encode()
        groups = len(codes.dictionary)
        if groups < 3:
            raise InputError(f"group column {self.column!r} has {groups} groups; a split needs 3")
        rank = np.random.default_rng(self.seed).permutation(groups)
        return _by_rank(rank, self.fractions)[codes.indices.to_numpy()]

    def __str__(self) -> str:
        return f"whole groups of {self.column}, seed {self.seed}"


@dataclass(frozen=True)
class ColumnSplit:
    """A column says ``train``, ``validation`` or ``test`` for each row."""

    column: str

    @property
    def uses(self) -> str:
        return self.column

    def assign(self, table: pa.Table) -> NDArray[np.int8]:
        values = pc.cast(_column(table, self.column, "split"), pa.string())
        codes = pc.index_in(values, value_set=pa.array(SPLITS))
        if codes.null_count:
            row = pc.index(pc.is_null(codes), True).as_py()
            raise InputError(
                f"split column {self.column!r} says {values[row].as_py()!r} in data row {row + 1}; "
                f"it may say {', '.join(SPLITS)}"
            )
        return codes.to_numpy().astype(np.int8)

    def __str__(self) -> str:
        return f"given by column {self.column}"


def parse_split(text: str) -> Split:
    """``random``, ``random:SEED``, ``time:COLUMN``, ``group:COLUMN`` or ``column:COLUMN``."""
    kind, _, value = text.partition(":")
    if kind == "random":
        try:
            return RandomSplit(int(value or 0))
        except ValueError:
            raise InputError(
                f"--split random takes a whole number as seed, not {value!r}"
            ) from None
    kinds = {"time": TimeSplit, "group": GroupSplit, "column": ColumnSplit}
    if kind not in kinds or not value:
        raise InputError(
            f"split {text!r} is none of random, random:SEED, time:COLUMN, group:COLUMN, "
            f"column:COLUMN{nearest(kind, ['random', *kinds]) if kind not in kinds else ''}"
        )
    return kinds[kind](value)
