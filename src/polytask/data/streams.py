"""Streams: rows that come one after the other, from a table or from a law that drifts.

A `Stream` can be read from any row on, and its rows do not depend on the pieces they are read in:
an evaluation resumes where it stopped, and every learner sees the same rows.

The generators are those of the drift literature, as MOA has them (Bifet et al., JMLR 2010), drawn
block by block. `led`, `sea` and `rbf` take DriftMoE's settings (arXiv 2507.18464) by default.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Literal, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy.special import expit

from polytask.data.files import read_table
from polytask.data.suite import NO_NAME, expand_moment
from polytask.errors import InputError, nearest

Rows = tuple[np.ndarray, np.ndarray]
Draw = Callable[[np.random.Generator, np.ndarray], Rows]


@dataclass(frozen=True)
class Drift:
    """A change of concept.

    Row t is of the new concept with probability 1 / (1 + exp(-4 (t - position) / width)): one half
    at the centre, 0.12 and 0.88 half a width before and after it.

    Attributes:
        position: the row in the middle of the change.
        width: rows it takes; 1 is a jump.

    Raises:
        InputError: the width is below 1, the position below 0.
    """

    position: int
    width: int = 1

    def __post_init__(self) -> None:
        if self.width < 1:
            raise InputError(f"a drift takes at least 1 row, width={self.width} is not one")
        if self.position < 0:
            raise InputError(
                f"a drift lies at a row of the stream, position={self.position} does not"
            )

    def probability(self, t: np.ndarray) -> np.ndarray:
        """Probability of the new concept at rows ``t``."""
        return np.asarray(expit(4.0 * (np.asarray(t) - self.position) / self.width))


@dataclass(frozen=True)
class Stream:
    """Rows in their order, each with the code of its class.

    Attributes:
        name: shown in records.
        features: names of the columns of ``X``.
        classes: names of the classes; ``y`` holds their positions.
        length: number of rows.
        read: ``(start, stop) -> X, y``; what ``rows`` calls once its arguments are checked.
        nominal: feature -> number of its values, for features that hold codes and not quantities.
        drifts: known changes of concept.
        about: origin, law and licence.
    """

    name: str
    features: tuple[str, ...]
    classes: tuple[str, ...]
    length: int
    read: Callable[[int, int], Rows] = field(repr=False, compare=False)
    nominal: Mapping[str, int] = field(default_factory=dict)
    drifts: tuple[Drift, ...] = ()
    about: str = ""

    def __len__(self) -> int:
        return self.length

    def rows(self, start: int, stop: int) -> Rows:
        """``X`` float64 ``[n, d]`` and ``y`` int64 ``[n]`` of rows ``start <= t < stop``."""
        if not 0 <= start <= stop <= self.length:
            raise InputError(
                f"stream {self.name!r} has {self.length} rows; {start} to {stop} cannot be read"
            )
        return self.read(start, stop)

    def chunks(self, size: int, start: int = 0) -> Iterator[Rows]:
        """All rows from ``start`` on, ``size`` at a time; the last piece may be shorter."""
        if size < 1:
            raise InputError(f"a piece of a stream has at least 1 row, size={size} is not one")
        for first in range(start, self.length, size):
            yield self.rows(first, min(first + size, self.length))

    def head(self, length: int) -> Self:
        """The first rows only, with the drifts that lie in them."""
        if not 1 <= length <= self.length:
            raise InputError(
                f"stream {self.name!r} has {self.length} rows; its first {length} cannot be taken"
            )
        kept = tuple(d for d in self.drifts if d.position < length)
        return replace(self, length=length, drifts=kept)

    @classmethod
    def from_arrays(
        cls,
        X: np.ndarray,
        y: np.ndarray,
        *,
        name: str = "arrays",
        features: Sequence[str] | None = None,
        nominal: Mapping[str, int] | None = None,
        drifts: Sequence[Drift] = (),
        about: str = "",
    ) -> Self:
        """A stream of the rows of ``X`` ``[n, d]`` with labels ``y`` ``[n]`` of any kind.

        Classes are the labels' values, sorted. NaN in ``X`` is a missing value.

        Raises:
            InputError: shapes do not agree, there is no row, or a name or drift does not fit.
        """
        X, y = np.asarray(X, dtype=np.float64), np.asarray(y)
        if X.ndim != 2 or y.ndim != 1 or len(X) != len(y):
            raise InputError(
                f"X must be rows by features and y one label per row; they are {X.shape}, {y.shape}"
            )
        if not len(y):
            raise InputError(f"stream {name!r} has no rows")
        missing = y != y if y.dtype.kind == "f" else np.array([label is None for label in y])
        if missing.any():
            raise InputError(f"y has no label in row {int(missing.argmax())}")
        names = tuple(features) if features is not None else _numbered(X.shape[1])
        if len(names) != X.shape[1]:
            raise InputError(f"X has {X.shape[1]} columns, features names {len(names)}")
        values, codes = np.unique(y, return_inverse=True)
        _check(name, len(y), names, nominal or {}, drifts)

        def read(start: int, stop: int) -> Rows:
            return X[start:stop].copy(), codes[start:stop].astype(np.int64)

        classes = tuple(map(str, values.tolist()))
        return cls(name, names, classes, len(y), read, dict(nominal or {}), tuple(drifts), about)

    @classmethod
    def from_table(
        cls,
        source: Any,
        target: str,
        *,
        time: str | None = None,
        exclude: Sequence[str] = (),
        skip_unlabelled: bool = False,
        name: str = "table",
        drifts: Sequence[Drift] = (),
        about: str = "",
    ) -> Self:
        """A stream of the rows of a file, Arrow table, data frame or dict, in row or time order.

        Numbers stay numbers; text and booleans become codes of a nominal feature, in the order in
        which their values appear; a date or time becomes day, hour and weekday. A null is a missing
        value. ``time`` orders the rows (rows of equal time keep their order) and is no feature. A
        row without a label is refused, or left out with ``skip_unlabelled``.

        Raises:
            InputError: a column is not there, not usable, or the target has a null.
        """
        table = read_table(source)
        for column in (target, *([time] if time else []), *exclude):
            if column not in table.column_names:
                raise InputError(
                    f"the table has no column {column!r}{nearest(column, table.column_names)}"
                )
        if time:
            if table[time].null_count:
                raise InputError(f"time column {time!r} has missing values: rows have no order")
            table = table.take(pc.sort_indices(table[time]))  # Arrow's sort is stable
        labels = table[target]
        if labels.null_count:
            row = pc.index(pc.is_null(labels), True).as_py()
            if not skip_unlabelled:
                raise InputError(f"target column {target!r} has no label in row {row}")
            table = table.filter(pc.is_valid(labels))
            labels = table[target]
        aside = {target, time, *exclude}
        names = tuple(c for c in table.column_names if c not in aside and not NO_NAME.fullmatch(c))
        if not names:
            raise InputError(f"the table has no column beside {target!r} to learn from")
        found: dict[str, pa.ChunkedArray] = {}
        for column in names:
            moment = pa.types.is_temporal(table[column].type)
            found |= expand_moment(column, table[column]) if moment else {column: table[column]}
        nominal: dict[str, int] = {}
        columns = [_column(values, column, nominal) for column, values in found.items()]
        return cls.from_arrays(
            np.column_stack(columns),
            labels.to_numpy(),
            name=name,
            features=tuple(found),
            nominal=nominal,
            drifts=drifts,
            about=about,
        )


def _column(values: pa.ChunkedArray, name: str, nominal: dict[str, int]) -> np.ndarray:
    """A column as float64; codes are noted in ``nominal``."""
    kind = values.type
    if pa.types.is_boolean(kind) or pa.types.is_string(kind):
        coded = values.combine_chunks().dictionary_encode()
        nominal[name] = len(coded.dictionary)
        values = pa.chunked_array([coded.indices])
    elif not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        raise InputError(
            f"column {name!r} holds {kind}; a stream takes numbers, text and booleans (or name it "
            "in exclude)"
        )
    return np.asarray(pc.cast(values, pa.float64(), safe=False).to_numpy(), dtype=np.float64)


def _check(
    name: str,
    length: int,
    features: Sequence[str],
    nominal: Mapping[str, int],
    drifts: Sequence[Drift],
) -> None:
    for feature in nominal:
        if feature not in features:
            raise InputError(
                f"nominal names {feature!r}, which is no feature{nearest(feature, features)}"
            )
    for drift in drifts:
        if drift.position >= length:
            raise InputError(
                f"stream {name!r} has {length} rows; a drift at row {drift.position} is outside"
            )


# -- drifting streams ----------------------------------------------------------------------------

BLOCK = 8192  # rows drawn from one state of the random numbers
DriftKind = Literal["abrupt", "gradual"]


def drifting(
    concepts: Sequence[Stream], drifts: Sequence[Drift], *, name: str, seed: int = 0
) -> Stream:
    """One stream that goes over from concept to concept.

    Row t is row t of concept j, where j is the last drift that has reached it: drift j has, with
    its ``probability(t)``, drawn for each row and drift.

    Args:
        concepts: streams of the same features and classes, one more than drifts.
        drifts: when each next concept comes, in their order.
        name: of the new stream.
        seed: decides which rows in the width of a drift are new.

    Raises:
        InputError: counts, columns or positions do not fit.
    """
    first = concepts[0]
    if len(concepts) != len(drifts) + 1:
        raise InputError(f"{len(drifts)} drifts lead through {len(drifts) + 1} concepts, "
                         f"{len(concepts)} are given")  # fmt: skip
    for other in concepts:
        if (other.features, other.classes) != (first.features, first.classes):
            raise InputError(
                f"concept {other.name!r} has other features or classes than {first.name!r}"
            )
    length = min(len(concept) for concept in concepts)
    positions = [drift.position for drift in drifts]
    if positions != sorted(positions):
        raise InputError(f"drifts follow each other, their positions {positions} do not")
    _check(name, length, first.features, {}, drifts)

    def current(rng: np.random.Generator, t: np.ndarray) -> np.ndarray:
        concept = np.zeros(len(t), dtype=np.int64)
        for j, drift in enumerate(drifts):
            concept[rng.random(len(t)) < drift.probability(t)] = j + 1
        return concept

    def block(index: int) -> Rows:
        start = index * BLOCK
        t = np.arange(start, min(start + BLOCK, length))
        rng = np.random.default_rng([seed, _DRIFTS, index])
        concept = current(rng, np.arange(start, start + BLOCK))[: len(t)]
        X, y = np.empty((len(t), len(first.features))), np.empty(len(t), dtype=np.int64)
        for j in np.unique(concept):
            chosen = concept == j
            rows, labels = concepts[j].rows(start, start + len(t))
            X[chosen], y[chosen] = rows[chosen], labels[chosen]
        return X, y

    return replace(first, name=name, length=length, read=_blockwise(block), drifts=tuple(drifts))


def quarters(length: int, kind: DriftKind) -> tuple[Drift, ...]:
    """DriftMoE's three drifts, at the quarters of a stream.

    Of 1,000,000 rows these are ``abrupt``: width 50 at 249975, 499975, 749975; ``gradual``: width
    50000 at 225000, 475000, 725000. The paper's code means the start of each change and gives it
    as its centre; it is the centre here too. A shorter stream drifts in proportion, but an abrupt
    drift always takes 50 rows.
    """
    if kind not in ("abrupt", "gradual"):
        raise InputError(f"drift is 'abrupt' or 'gradual', not {kind!r}")
    width = 50 if kind == "abrupt" else length // 20
    if length < 200:
        raise InputError(f"a stream of {length} rows is too short for three drifts; 200 will do")
    return tuple(Drift(k * length // 4 - width // 2, width) for k in (1, 2, 3))


_SEGMENTS = np.array(
    [[int(c) for c in row] for row in (
        "1110111", "0010010", "1011101", "1011011", "0111010",
        "1101011", "1101111", "1010010", "1111111", "1111011",
    )]
)  # fmt: skip
_IRRELEVANT = 17


def led_concept(swapped: int = 0, *, length: int, noise: float = 0.1, seed: int = 0) -> Stream:
    """Digits on a seven-segment display: 24 binary attributes, 17 of them irrelevant, 10 classes.

    Each segment shows wrongly with probability ``noise``. The first ``swapped`` segments have
    traded places with as many irrelevant attributes.
    """
    _check_share("noise", noise)
    if not 0 <= swapped <= 7:
        raise InputError(f"a display has 7 segments, swapped={swapped} cannot trade places")
    order = np.arange(7 + _IRRELEVANT)
    order[:swapped], order[7 : 7 + swapped] = order[7 : 7 + swapped].copy(), order[:swapped].copy()

    def draw(rng: np.random.Generator, t: np.ndarray) -> Rows:
        y = rng.integers(0, 10, len(t))
        shown = _SEGMENTS[y] ^ (rng.random((len(t), 7)) < noise)
        X = np.column_stack([shown, rng.integers(0, 2, (len(t), _IRRELEVANT))])
        return X[:, order].astype(np.float64), y

    features = _numbered(24)
    return _generated(
        f"led({swapped})", features, 10, length, draw, seed, dict.fromkeys(features, 2)
    )


def led(
    drift: DriftKind | Sequence[Drift] = "abrupt",
    *,
    length: int = 1_000_000,
    noise: float = 0.1,
    seed: int = 0,
) -> Stream:
    """LED with drift: 1, 3, 5, then 7 segments have traded places with irrelevant attributes."""
    concepts = [led_concept(k, length=length, noise=noise, seed=seed) for k in (1, 3, 5, 7)]
    return _with_drift("LED", concepts, drift, seed)


_THRESHOLDS = (8.0, 9.0, 7.0, 9.5)


def sea_concept(function: int = 1, *, length: int, noise: float = 0.1, seed: int = 0) -> Stream:
    """Street & Kim (2001): class 1 where x1 + x2 > theta; x uniform in [0, 10]^3, x3 irrelevant.

    Functions 1 to 4 have theta = 8, 9, 7, 9.5. A label is wrong with probability ``noise``.
    """
    _check_share("noise", noise)
    if function not in (1, 2, 3, 4):
        raise InputError(f"SEA has functions 1 to 4, not {function}")
    threshold = _THRESHOLDS[function - 1]

    def draw(rng: np.random.Generator, t: np.ndarray) -> Rows:
        X = rng.uniform(0, 10, (len(t), 3))
        y = (X[:, 0] + X[:, 1] > threshold) ^ (rng.random(len(t)) < noise)
        return X, y.astype(np.int64)

    return _generated(f"sea({function})", _numbered(3), 2, length, draw, seed)


def sea(
    drift: DriftKind | Sequence[Drift] = "abrupt",
    *,
    length: int = 1_000_000,
    noise: float = 0.1,
    seed: int = 0,
) -> Stream:
    """SEA with drift: functions 1, 2, 4, 1."""
    concepts = [sea_concept(f, length=length, noise=noise, seed=seed) for f in (1, 2, 4, 1)]
    return _with_drift("SEA", concepts, drift, seed)


def rbf(
    speed: float = 1e-4,
    *,
    length: int = 1_000_000,
    classes: int = 2,
    features: int = 10,
    centroids: int = 50,
    seed: int = 0,
) -> Stream:
    """Random RBF with moving centroids: it drifts all the time.

    A centroid has a centre in [0, 1]^d, a class, a spread and a weight, all uniform. A row is drawn
    at a centroid (by weight): centre + |N(0, spread)| in a random direction. Each centre moves
    ``speed`` per row on a straight line and is reflected at the walls of the cube. MOA stops it at
    a wall for the rest of the step; the exact reflection here makes a centre a function of t.
    """
    if not speed >= 0:
        raise InputError(f"speed is a distance per row, it cannot be {speed}")
    for name, value in {"classes": classes, "features": features, "centroids": centroids}.items():
        if value < 1:
            raise InputError(f"random RBF needs at least 1 of {name}, {value} are given")
    model = np.random.default_rng([seed, _MODEL])
    centres = model.random((centroids, features))
    heading = model.normal(size=(centroids, features))
    heading *= speed / np.linalg.norm(heading, axis=1, keepdims=True)
    labels = model.integers(0, classes, centroids)
    spreads, weights = model.random(centroids), model.random(centroids)
    bounds = np.cumsum(weights) / weights.sum()

    def draw(rng: np.random.Generator, t: np.ndarray) -> Rows:
        at = np.searchsorted(bounds, rng.random(len(t)))
        moved = centres[at] + heading[at] * t[:, None]
        centre = 1 - np.abs(1 - moved % 2)
        direction = rng.uniform(-1, 1, (len(t), features))
        direction /= np.linalg.norm(direction, axis=1, keepdims=True)
        X = centre + direction * (rng.normal(size=len(t)) * spreads[at])[:, None]
        return X, labels[at]

    return _generated(f"RBF({speed:g})", _numbered(features), classes, length, draw, seed)


def _with_drift(
    name: str, concepts: Sequence[Stream], drift: DriftKind | Sequence[Drift], seed: int
) -> Stream:
    if isinstance(drift, str):
        name = f"{name}_{drift[:1]}"
        drift = quarters(len(concepts[0]), drift)
    return drifting(concepts, drift, name=name, seed=seed)


_ROWS, _DRIFTS, _MODEL = 0, 1, 2  # what a seed is used for


def _generated(
    name: str,
    features: tuple[str, ...],
    classes: int,
    length: int,
    draw: Draw,
    seed: int,
    nominal: Mapping[str, int] | None = None,
) -> Stream:
    """A stream whose block b is drawn from the seed and b alone."""
    if length < 1:
        raise InputError(f"a stream has at least 1 row, length={length} is not one")

    def block(index: int) -> Rows:
        t = np.arange(index * BLOCK, (index + 1) * BLOCK)
        return draw(np.random.default_rng([seed, _ROWS, index]), t)

    names = tuple(map(str, range(classes)))
    return Stream(name, features, names, length, _blockwise(block), nominal or {})


def _blockwise(block: Callable[[int], Rows]) -> Callable[[int, int], Rows]:
    """Rows cut from blocks; the newest block is kept, for pieces are mostly smaller than it."""
    kept = lru_cache(maxsize=1)(block)

    def read(start: int, stop: int) -> Rows:
        pieces = []
        for index in range(start // BLOCK, -(-stop // BLOCK)):
            X, y = kept(index)
            cut = slice(max(start - index * BLOCK, 0), stop - index * BLOCK)
            pieces.append((X[cut], y[cut]))
        if not pieces:
            X, y = kept(start // BLOCK)
            pieces = [(X[:0], y[:0])]
        # concatenate copies, so that no caller writes into the kept block
        return np.concatenate([X for X, _ in pieces]), np.concatenate([y for _, y in pieces])

    return read


def _numbered(count: int) -> tuple[str, ...]:
    return tuple(f"f{i}" for i in range(count))


def _check_share(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise InputError(f"{name} is a probability, it cannot be {value}")
