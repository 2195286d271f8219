"""Prequential evaluation: every row of a stream first tests the model, then teaches it.

    record = prequential(model, led("gradual"), delay=1000)
    record.accuracy, record.kappa_m
    record.windowed("accuracy")                 # one value per window
    record.cumulative("kappa_temporal")         # the same from the first row on

Metrics, from p, the share of right answers (Bifet et al., KDD 2015, "Efficient online evaluation of
big data stream classifiers"):
    kappa = (p - p_chance) / (1 - p_chance),  p_chance = sum_c share of c in y * in the answers
    kappa_m = (p - p_majority) / (1 - p_majority)
    kappa_temporal = (p - p_no_change) / (1 - p_no_change)
p_majority and p_no_change are what the most frequent and the last label *known so far* would have
scored on the same rows; they learn of a label when the model does.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Self

import numpy as np
import psutil

from polytask.data.streams import Drift, Stream
from polytask.errors import InputError, nearest

Metric = Literal["accuracy", "kappa", "kappa_m", "kappa_temporal"]
METRICS: tuple[Metric, ...] = ("accuracy", "kappa", "kappa_m", "kappa_temporal")
Delay = int | np.ndarray | Callable[[np.ndarray], np.ndarray]


@dataclass
class Prequential:
    """What a model did on a stream: counts per window, from which every metric follows.

    Lists have one entry per window. A window's counts add, so the cumulative metrics are those of
    summed counts. JSON takes ``to_dict()``.

    Attributes:
        model: name of the model.
        stream: name of the stream.
        window: rows of a window; the last one may be shorter.
        drifts: known changes of concept.
        rows: rows judged.
        right: answers that were right.
        majority: rows that the most frequent label so far would have got right.
        no_change: rows that the last label would have got right.
        truths: how often each class was right, ``[W][C]``.
        answers: how often each class was answered, ``[W][C]``; an answer that is none of the
            classes (a model may have none yet) counts as wrong and nowhere else.
        seconds: CPU time of the model, predicting and learning, of all threads of the process.
        memory: bytes of the model at the end, by ``memory_source``.
        memory_source: ``"model"``, its own estimate (``nbytes``), or ``"process"``, growth.
    """

    model: str
    stream: str
    window: int
    drifts: tuple[Drift, ...] = ()
    rows: list[int] = field(default_factory=list)
    right: list[int] = field(default_factory=list)
    majority: list[int] = field(default_factory=list)
    no_change: list[int] = field(default_factory=list)
    truths: list[list[int]] = field(default_factory=list)
    answers: list[list[int]] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    memory: int = 0
    memory_source: Literal["model", "process"] = "process"

    @property
    def length(self) -> int:
        """Rows judged so far."""
        return sum(self.rows)

    @property
    def ends(self) -> np.ndarray:
        """Rows seen at the end of each window, ``[W]``."""
        return np.cumsum(self.rows)

    @property
    def accuracy(self) -> float:
        """Of all rows; so are the three kappas."""
        return self._last("accuracy")

    @property
    def kappa(self) -> float:
        return self._last("kappa")

    @property
    def kappa_m(self) -> float:
        return self._last("kappa_m")

    @property
    def kappa_temporal(self) -> float:
        return self._last("kappa_temporal")

    @property
    def rows_per_second(self) -> float:
        """Rows predicted and learned per second of CPU time."""
        spent = sum(self.seconds)
        return self.length / spent if spent > 0 else float("nan")

    def windowed(self, metric: Metric = "accuracy") -> np.ndarray:
        """The metric of each window's rows alone, ``[W]``; NaN where it is not defined."""
        return _values(metric, self._counts())

    def cumulative(self, metric: Metric = "accuracy") -> np.ndarray:
        """The metric of all rows up to the end of each window, ``[W]``."""
        return _values(metric, {name: c.cumsum(axis=0) for name, c in self._counts().items()})

    def between(self, start: int, stop: int, metric: Metric = "accuracy") -> float:
        """The metric over the windows that lie wholly in rows ``start <= t < stop``."""
        inside = (self.ends - self.rows >= start) & (self.ends <= stop)
        if not inside.any():
            raise InputError(
                f"no window of {self.window} rows lies in rows {start} to {stop} of {self.length}"
            )
        counts = {name: c[inside].sum(axis=0, keepdims=True) for name, c in self._counts().items()}
        return float(_values(metric, counts)[0])

    def recovery(self, drift: Drift, *, within: float = 0.02, before: int = 5_000) -> int | None:
        """Rows from the centre of a drift until accuracy is back, or None if it stays away.

        Back means: a window's accuracy is at most ``within`` below that of the ``before`` rows that
        end where the drift begins. Windows are judged from the first that starts at the centre or
        after it, and the answer counts to that window's end.
        """
        begins = drift.position - drift.width // 2
        level = self.between(max(begins - before, 0), begins) - within
        starts, values = self.ends - self.rows, self.windowed()
        back = np.flatnonzero((starts >= drift.position) & (values >= level))
        return int(self.ends[back[0]] - drift.position) if len(back) else None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        return cls(**{**data, "drifts": tuple(Drift(**drift) for drift in data["drifts"])})

    def _last(self, metric: Metric) -> float:
        if not self.rows:
            raise InputError(f"no row of stream {self.stream!r} has been judged yet")
        return float(self.cumulative(metric)[-1])

    def _counts(self) -> dict[str, np.ndarray]:
        names = ("rows", "right", "majority", "no_change", "truths", "answers")
        return {name: np.asarray(getattr(self, name), dtype=np.float64) for name in names}


def _values(metric: str, counts: Mapping[str, np.ndarray]) -> np.ndarray:
    """A metric of each row of counts; counts are ``[W]``, those of classes ``[W, C]``."""
    rows = counts["rows"]
    p = counts["right"] / rows
    match metric:
        case "accuracy":
            return p
        case "kappa":
            other = (counts["truths"] * counts["answers"]).sum(axis=1) / rows**2
        case "kappa_m":
            other = counts["majority"] / rows
        case "kappa_temporal":
            other = counts["no_change"] / rows
        case _:
            raise InputError(f"metric {metric!r} is not known{nearest(metric, METRICS)}")
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(other < 1, (p - other) / (1 - other), np.nan)


def prequential(
    model: Any,
    stream: Stream,
    *,
    delay: Delay = 0,
    window: int = 1000,
    limit: int | None = None,
    resume: Prequential | None = None,
    name: str | None = None,
    progress: Callable[[Prequential], None] = lambda record: None,
) -> Prequential:
    """Test, then train, row after row.

    The label of row t comes after the prediction of row t + delay(t), with the features it had at
    t. Labels that come at the same row come in the order of their rows. A label that would come
    after the end never does.

    Args:
        model: learns incrementally: ``learn_one`` and ``predict_one`` as in river, or the faster
            ``test_then_train`` and ``learn_many`` if it has both. Features are a dict by name for
            ``_one``, an array ``[n, d]`` for the others; labels are codes.
        stream: the rows.
        delay: rows that a label is late: one number, one per row ``[length]``, or a function of
            row numbers. They may differ, so that labels come out of order.
        window: rows of a window, and of one call of the model where it takes many rows.
        limit: judge the first rows only.
        resume: the record of the first rows, to be continued (in place), with the model as it was
            at its end.
        name: of the model in the record; its class by default.
        progress: called with the record after every window.

    Raises:
        InputError: an argument is out of range, the model cannot learn incrementally, or ``resume``
            is of another stream, window or part of a window.
    """
    length = len(stream) if limit is None else limit
    if not 1 <= length <= len(stream):
        raise InputError(f"stream {stream.name!r} has {len(stream)} rows, limit={limit} is outside")
    if window < 1:
        raise InputError(f"a window has at least 1 row, window={window} is not one")
    arrival = _arrivals(delay, stream)
    learner = _Rows(model, stream.features)
    name = name or type(model).__name__
    record = resume or Prequential(name, stream.name, window, stream.drifts)
    start = record.length
    if (record.stream, record.window) != (stream.name, window) or start % window:
        raise InputError(
            f"the record to resume holds {start} rows of stream {record.stream!r} in windows of "
            f"{record.window}; it cannot go on with {stream.name!r} in windows of {window}"
        )
    labels = _Labels(stream, arrival, start)
    process = psutil.Process()
    memory = process.memory_info().rss
    for first in range(start, length, window):
        last = min(first + window, length)
        X, y = stream.rows(first, last)
        arrived = labels.until(first, last, X, y)
        majority, no_change = labels.references(first, last, arrived)
        started = time.process_time()
        answers = learner.answers(first, X, arrived)
        spent = time.process_time() - started
        classes = len(stream.classes)
        known = (answers >= 0) & (answers < classes)
        record.rows.append(last - first)
        record.right.append(int((answers == y).sum()))
        record.majority.append(int((majority == y).sum()))
        record.no_change.append(int((no_change == y).sum()))
        record.truths.append(np.bincount(y, minlength=classes).tolist())
        record.answers.append(np.bincount(answers[known], minlength=classes).tolist())
        record.seconds.append(spent)
        progress(record)
    own = getattr(model, "nbytes", None)
    record.memory_source = "process" if own is None else "model"
    grown = record.memory + process.memory_info().rss - memory
    record.memory = max(int(grown), 0) if own is None else int(own)
    return record


def _arrivals(delay: Delay, stream: Stream) -> Callable[[np.ndarray], np.ndarray]:
    """Row numbers -> the row after whose prediction each label comes."""
    if isinstance(delay, np.ndarray) and delay.shape != (len(stream),):
        raise InputError(
            f"delay has shape {delay.shape}, stream {stream.name!r} has {len(stream)} rows"
        )

    def arrival(t: np.ndarray) -> np.ndarray:
        if callable(delay):
            late = np.asarray(delay(t))
        else:
            late = delay[t] if isinstance(delay, np.ndarray) else np.full(len(t), delay)
        if late.shape != t.shape or late.dtype.kind not in "iu" or (late < 0).any():
            raise InputError(
                "delay is a whole number of rows from 0 on, for every row; "
                f"rows {t[0]} to {t[-1]} got {late!r}"
            )
        return t + late

    arrival(np.arange(min(len(stream), 1)))  # what is wrong for all rows is said before any work
    return arrival


@dataclass(frozen=True)
class _Arrived:
    """Labels that come in a window: when, and whose rows, sorted by arrival and then by row."""

    at: np.ndarray  # [m] row after whose prediction it comes
    row: np.ndarray  # [m]
    X: np.ndarray  # [m, d]
    y: np.ndarray  # [m]

    def __getitem__(self, chosen: Any) -> _Arrived:
        return _Arrived(self.at[chosen], self.row[chosen], self.X[chosen], self.y[chosen])

    def __add__(self, other: _Arrived) -> _Arrived:
        pairs = ((getattr(self, name), getattr(other, name)) for name in ("at", "row", "X", "y"))
        return _Arrived(*map(np.concatenate, pairs))

    def sorted(self) -> _Arrived:
        return self[np.lexsort((self.row, self.at))]


class _Labels:
    """Which labels are still to come, and what the references know from those that came."""

    def __init__(
        self, stream: Stream, arrival: Callable[[np.ndarray], np.ndarray], start: int
    ) -> None:
        self._arrival = arrival
        empty = np.empty(0, dtype=np.int64)
        self._waiting = _Arrived(empty, empty, np.empty((0, len(stream.features))), empty)
        self._seen = np.zeros(len(stream.classes), dtype=np.int64)
        self._newest = 0  # class 0 is the answer while no label is known
        for first in range(0, start, 10_000):  # a resumed record: the labels of the rows before it
            last = min(first + 10_000, start)
            arrived = self.until(first, last, *stream.rows(first, last))
            self.references(first, last, arrived)

    def until(self, first: int, last: int, X: np.ndarray, y: np.ndarray) -> _Arrived:
        """Take in rows ``first <= t < last``; the labels that come after one of them."""
        t = np.arange(first, last)
        waiting = (self._waiting + _Arrived(self._arrival(t), t, X, y)).sorted()
        cut = int(np.searchsorted(waiting.at, last))
        self._waiting = waiting[cut:]
        return waiting[:cut]

    def references(self, first: int, last: int, arrived: _Arrived) -> tuple[np.ndarray, np.ndarray]:
        """What majority and no-change answer at each row, from labels known before it, ``[n]``."""
        known = np.searchsorted(arrived.at, np.arange(first, last))  # labels known before each row
        counts = np.zeros((len(arrived.y) + 1, len(self._seen)), dtype=np.int64)
        counts[np.arange(1, len(counts)), arrived.y] = 1
        counts[0] = self._seen
        counts = counts.cumsum(axis=0)
        newest = np.concatenate([[self._newest], arrived.y])
        self._seen, self._newest = counts[-1], int(newest[-1])
        return counts[known].argmax(axis=1), newest[known]


class _Rows:
    """A model by whichever of its ways takes the most rows in one call."""

    def __init__(self, model: Any, features: tuple[str, ...]) -> None:
        offers = {
            name
            for name in (
                "test_then_train",
                "learn_many",
                "predict_many",
                "learn_one",
                "predict_one",
            )
            if callable(getattr(model, name, None))
        }
        if not ({"test_then_train"} <= offers or {"learn_one", "predict_one"} <= offers):
            raise InputError(
                f"{type(model).__name__} cannot learn from a stream: it needs learn_one and "
                "predict_one, or test_then_train"
            )
        self._model, self._features = model, features
        self._many = {"learn_many", "predict_many", "test_then_train"} <= offers
        self._together = model.test_then_train if "test_then_train" in offers else self._one_by_one

    def answers(self, first: int, X: np.ndarray, arrived: _Arrived) -> np.ndarray:
        """Predict ``X`` row by row, learning each label at its row; codes ``[n]``, -1 for none."""
        n = len(X)
        coming = np.bincount(arrived.at - first, minlength=n)  # labels that come after each row
        taken = np.concatenate([[0], coming.cumsum()])
        # one call takes a run of rows that are followed by one label each, or by none each
        ends = np.flatnonzero((np.diff(coming) != 0) | (coming[:-1] > 1)) + 1
        found = []
        for at, stop in zip([0, *ends], [*ends, n], strict=True):
            paired = slice(taken[at], taken[at] + (stop - at if coming[at] else 0))
            more = slice(paired.stop, taken[stop])  # of a row that several labels follow
            tested, learned = X[at:stop], arrived.X[paired]
            if np.array_equal(arrived.row[paired], np.arange(first + at, first + stop)):
                learned = tested  # the same array: a model may look at each row once
            answers = self._together(tested, learned, arrived.y[paired])
            found.append(np.array([-1 if a is None else a for a in answers], dtype=np.int64))
            if more.stop > more.start:
                self._learn(arrived.X[more], arrived.y[more])
        return np.concatenate(found)

    def _learn(self, X: np.ndarray, y: np.ndarray) -> None:
        if self._many:
            self._model.learn_many(X, y)
            return
        for x, label in zip(X.tolist(), y.tolist(), strict=True):
            self._model.learn_one(dict(zip(self._features, x, strict=True)), label)

    def _one_by_one(self, X: np.ndarray, X_learn: np.ndarray, y_learn: np.ndarray) -> list[Any]:
        model, features, found = self._model, self._features, []
        for i, x in enumerate(X.tolist()):
            found.append(model.predict_one(dict(zip(features, x, strict=True))))
            if i < len(y_learn):
                model.learn_one(
                    dict(zip(features, X_learn[i].tolist(), strict=True)), int(y_learn[i])
                )
        return found
