"""Learners of streams: instances as rows of numbers, and what every such learner shares.

An instance is a mapping (river's manner) or a row of an array, data frame or Arrow table. Numbers
stay as they are, a nominal value becomes its code, a missing one NaN. Names are learned from the
first instances unless they are given; classes and nominal values may grow while the stream passes.
"""

from __future__ import annotations

import math
import numbers
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray

from polytask.config import from_dict, to_dict
from polytask.data import Batch, Processor, Suite
from polytask.data.files import read_table
from polytask.data.store import read_folder, write_folder
from polytask.errors import InputError, nearest
from polytask.tasks import Classification, Task
from polytask.training import FittedMixin
from polytask.training.learner import saved_settings


@dataclass
class Schema:
    """Names of the features, codes of nominal values, classes.

    Attributes:
        features: in the order of the row's numbers.
        nominal: feature -> value -> code.
        classes: in the order of their codes.
        closed: whether the classes were given, so that another is an error.
    """

    features: tuple[Any, ...]
    nominal: dict[Any, dict[Any, int]]
    classes: list[Any] = field(default_factory=list)
    closed: bool = False

    def __post_init__(self) -> None:
        self._codes = {label: code for code, label in enumerate(self.classes)}
        self._known = set(self.features)
        for name in self.nominal:
            if name not in self._known:
                raise InputError(f"nominal feature {name!r}{nearest(name, self.features)}")
        if len(self._codes) < len(self.classes) or len(self._known) < len(self.features):
            raise InputError("a class or feature is named twice")

    @property
    def values(self) -> NDArray:
        """Number of values of every nominal feature, 0 for a numeric one."""
        return np.array(
            [max(1, len(self.nominal[f])) if f in self.nominal else 0 for f in self.features],
            np.int32,
        )

    def row(self, x: Mapping[Any, Any], *, grow: bool) -> NDArray:
        """One instance as ``[F]``; with ``grow`` a nominal value that is new gets a code."""
        row = np.empty(len(self.features))
        found = 0
        for i, name in enumerate(self.features):
            value = x.get(name)
            found += name in x
            if value is None:
                row[i] = math.nan
            elif name in self.nominal:
                row[i] = self._code(name, value, grow)
            else:
                try:
                    row[i] = value
                except (TypeError, ValueError):
                    raise InputError(
                        f"feature {name!r} is {value!r}, not a number; is it nominal?"
                    ) from None
                if math.isinf(row[i]):
                    raise InputError(f"feature {name!r} is {value!r}, which is not finite")
        if found < len(x):
            self._refuse(x)
        return row

    def _code(self, name: Any, value: Any, grow: bool) -> float:
        if isinstance(value, float) and math.isnan(value):
            return math.nan
        codes = self.nominal[name]
        value = value.item() if isinstance(value, np.generic) else value
        if grow and value not in codes:
            codes[value] = len(codes)
        return codes.get(value, math.nan)

    def _refuse(self, names: Iterable[Any]) -> None:
        for name in names:
            if name not in self._known:
                raise InputError(
                    f"feature {name!r} was not there when the stream began"
                    f"{nearest(name, self.features)}"
                )

    def matrix(self, X: Any) -> NDArray:
        """Rows as ``[n, F]``; a nominal value without a code counts as missing."""
        if isinstance(X, np.ndarray):
            if X.ndim != 2 or X.shape[1] != len(self.features):
                raise InputError(
                    f"rows have shape {X.shape}; this stream has {len(self.features)} features"
                )
            columns: Mapping[Any, Any] = {f: X[:, i] for i, f in enumerate(self.features)}
            if self.holds(X):
                return np.ascontiguousarray(X, np.float64)
            rows = len(X)
        else:
            table = read_table(X)
            columns, rows = {n: table[n] for n in table.column_names}, table.num_rows
            self._refuse(columns)
            if not any(name in columns for name in self.features):
                raise InputError(f"the rows hold none of the features{nearest('', self.features)}")
        out = np.full((rows, len(self.features)), np.nan)
        for i, name in enumerate(self.features):
            if name in columns:
                codes = self.nominal.get(name)
                column = columns[name]
                out[:, i] = _numbers(name, column) if codes is None else _coded(column, codes)
        _finite(self.features, out)
        return out

    def holds(self, X: NDArray) -> bool:
        """Whether an array holds nothing but finite numbers, codes where a feature is nominal."""
        if not np.issubdtype(X.dtype, np.number) or np.isinf(X).any():
            return False
        for i, name in enumerate(self.features):
            codes = self.nominal.get(name)
            if codes is not None:
                column = X[:, i]
                inside = (column >= 0) & (column < len(codes)) & (column == np.floor(column))
                if (
                    list(codes) != list(range(len(codes)))
                    or not (inside | (column != column)).all()
                ):
                    return False
        return True

    def learn_values(self, X: Any) -> None:
        """Give codes to the nominal values of these rows that have none."""
        for i, name in enumerate(self.features):
            if name in self.nominal:
                column = X[:, i] if isinstance(X, np.ndarray) else _column(X, name)
                for value in _distinct(column):
                    if value not in self.nominal[name]:
                        self.nominal[name][value] = len(self.nominal[name])

    def code(self, label: Any) -> int:
        """The code of a class; one that is new gets the next, unless the classes were given."""
        label = label.item() if isinstance(label, np.generic) else label
        if label not in self._codes:
            if self.closed:
                shown = ", ".join(map(repr, self.classes[:12]))
                raise InputError(f"label {label!r} is not one of the classes {shown}")
            if label is None or label != label:
                raise InputError("a label is missing; learn from labelled instances only")
            self._codes[label] = len(self.classes)
            self.classes.append(label)
        return self._codes[label]

    def codes(self, y: Any) -> NDArray:
        """Codes ``[n]`` of labels."""
        distinct, back = np.unique(_labels(y), return_inverse=True)
        return np.array([self.code(label) for label in distinct], np.int64)[back.reshape(-1)]

    def known(self, y: Any) -> int:
        """How many labels at the beginning of ``y`` are of classes known by now."""
        labels = _labels(y)
        distinct, first = np.unique(labels, return_index=True)
        pairs = zip(distinct.tolist(), first.tolist(), strict=True)
        return min((at for label, at in pairs if label not in self._codes), default=len(labels))

    def to_dict(self) -> dict[str, Any]:
        nominal = [[name, list(codes)] for name, codes in self.nominal.items()]
        plain = {"features": list(self.features), "nominal": nominal}
        return {**plain, "classes": self.classes, "closed": self.closed}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        nominal = {name: {v: i for i, v in enumerate(vs)} for name, vs in data["nominal"]}
        return cls(tuple(data["features"]), nominal, list(data["classes"]), data["closed"])


def _labels(y: Any) -> NDArray:
    if isinstance(y, pa.ChunkedArray | pa.Array):
        y = y.to_pylist()
    return np.asarray(y).reshape(-1)


def _column(X: Any, name: Any) -> Any:
    table = read_table(X)
    return table[name] if name in table.column_names else pa.chunked_array([[]], pa.string())


def _distinct(column: Any) -> list[Any]:
    """Values of a column in the order they first appear, missing ones left out."""
    values = column if isinstance(column, pa.ChunkedArray) else pa.array(column)
    return [v for v in pc.unique(values).to_pylist() if v is not None and v == v]


def _numbers(name: Any, column: Any) -> NDArray:
    try:
        if isinstance(column, pa.ChunkedArray):
            column = pc.cast(column, pa.float64(), safe=False).to_numpy()
        return np.asarray(column, np.float64)
    except (pa.ArrowException, TypeError, ValueError):
        raise InputError(f"feature {name!r} holds values that are not numbers") from None


def _coded(column: Any, codes: Mapping[Any, int]) -> NDArray:
    values = column if isinstance(column, pa.ChunkedArray) else pa.array(column)
    spread = pc.dictionary_encode(values)
    spread = spread.combine_chunks() if isinstance(spread, pa.ChunkedArray) else spread
    table = np.array([codes.get(v, math.nan) for v in spread.dictionary.to_pylist()] + [math.nan])
    at = pc.fill_null(spread.indices, len(table) - 1).to_numpy(zero_copy_only=False)
    return table[at]


def _finite(names: Iterable[Any], X: NDArray) -> None:
    if np.isinf(X.sum()) or np.isinf(X).any():
        row, column = (int(at[0]) for at in np.nonzero(np.isinf(X)))
        raise InputError(f"feature {list(names)[column]!r} is not finite in data row {row + 1}")


@dataclass
class StreamLearner(FittedMixin):
    """Learning and predicting, one by one and many at once; a subclass brings the model.

    As a learner of a suite it passes once over the training rows in their order, with a model for
    each task. A subclass implements ``_begin``, ``_add_classes``, ``_add_values``, ``_pass``,
    ``_probabilities``, ``_state`` and ``_restore``. Rows reach these as ``[n, F]`` float64, labels
    as codes.

    Attributes:
        features: names, or how many; learned from the first instances unless given.
        nominal: names of nominal features, or a mapping to their values or to how many they are
            (then coded from 0). Texts are nominal in any case.
        classes: labels, or how many (then coded from 0); a label that is not among them is
            refused. Unless given they grow.
        seed: of all that is drawn.
    """

    features: object | None = None
    nominal: object | None = None
    classes: object | None = None
    seed: int = 0

    schema_: Schema | None = field(default=None, init=False, repr=False, compare=False)

    def _begin(self, schema: Schema) -> None:
        """Set the model up, for a stream that is about to begin."""
        raise NotImplementedError

    def _add_classes(self, classes: int) -> None:
        """Be ready for so many classes, which may be as many as before."""
        raise NotImplementedError

    def _add_values(self, values: NDArray) -> None:
        raise NotImplementedError

    def _pass(self, X: NDArray, X_learn: NDArray, y: NDArray) -> NDArray:
        """For each i the label's code of X[i], then learn (X_learn[i], y[i]), where they are there.

        ``X_learn is X`` when both are the same rows.
        """
        raise NotImplementedError

    def _probabilities(self, X: NDArray) -> NDArray:
        raise NotImplementedError

    # -- one by one -------------------------------------------------------------------------------

    def learn_one(self, x: Mapping[Any, Any], y: Any) -> None:
        """Learn from one labelled instance."""
        schema = self._schema(x)
        values = schema.values
        row = schema.row(x, grow=True)[None]
        code = np.array([schema.code(y)])
        self._grow(values)
        self._pass(row[:0], row, code)

    def predict_one(self, x: Mapping[Any, Any]) -> Any:
        """The label of one instance; None before anything is known."""
        if (schema := self._told(x)) is None:
            return None
        row = schema.row(x, grow=False)[None]
        return schema.classes[self._pass(row, row[:0], _NO_LABELS)[0]]

    def predict_proba_one(self, x: Mapping[Any, Any]) -> dict[Any, float]:
        """The chance of every class known by now."""
        if (schema := self._told(x)) is None:
            return {}
        chances = self._probabilities(schema.row(x, grow=False)[None])[0]
        return dict(zip(schema.classes, chances.tolist(), strict=True))

    # -- many at once -----------------------------------------------------------------------------

    def learn_many(self, X: Any, y: Any) -> None:
        """Learn from rows in their order; as ``learn_one`` for each."""
        self._run(None, X, y)

    def predict_many(self, X: Any) -> NDArray:
        """Labels ``[n]``."""
        rows = self._able(X).matrix(X)
        return self._named(self._pass(rows, rows[:0], _NO_LABELS))

    def predict_proba_many(self, X: Any) -> NDArray:
        """Chances ``[n, C]`` in the order of ``classes_``."""
        return self._probabilities(self._able(X).matrix(X))

    def test_then_train(self, X: Any, X_learn: Any, y_learn: Any) -> NDArray:
        """For each i: predict row i of X, then learn row i of X_learn if there is one.

        The labels ``[n]`` and the model are those of the loop over ``predict_one`` and
        ``learn_one``, to the bit. With labels that come late X_learn holds earlier rows.
        """
        return self._run(X, X_learn, y_learn)

    @property
    def classes_(self) -> list[Any]:
        """Classes known by now."""
        return list(self.schema_.classes) if self.schema_ else []

    # -- a suite ----------------------------------------------------------------------------------

    def validate(self, suite: Suite) -> None:
        """Refuse, before anything is fitted, a suite that is not of classifications."""
        super().validate(suite)
        for task in suite.tasks:
            if not isinstance(task.kind, Classification):
                raise InputError(f"task {task.name!r} is a {task.kind.name}; {self.id} classifies")

    def fit(
        self,
        suite: Suite,
        *,
        out: str | os.PathLike[str] | None = None,
        progress: Callable[[dict[str, Any]], None] = lambda record: None,
    ) -> Self:
        """Pass once over the training rows, with a model for each task."""
        self.validate(suite)
        self.processor_ = Processor.fit(suite)
        self.history_: list[dict[str, Any]] = []
        self.models_: dict[str, Self] = {}
        train = self.processor_.encode(suite, "train")
        rows = train.matrix()
        for task in self.processor_.tasks:
            started = time.perf_counter()
            mask, y = train.masks[task.name].numpy(), train.targets[task.name].numpy()
            model = self._fresh(rows.shape[1], task)
            model.learn_many(rows[mask], y[mask])
            self.models_[task.name] = model
            progress({"epoch": 0, "seconds": time.perf_counter() - started})
        return self

    def _fresh(self, width: int, task: Task) -> Self:
        sizes = self.processor_.cardinalities
        first = len(self.processor_.numeric)
        nominal = {first + i: size for i, size in enumerate(sizes)}
        kind: Any = task.kind
        return replace(self, features=width, nominal=nominal, classes=len(kind.classes))

    def _decoded(self, batch: Batch, tasks: Sequence[str]) -> dict[str, NDArray]:
        rows = batch.matrix()
        return {name: self.models_[name].predict_proba_many(rows) for name in tasks}

    def with_seed(self, seed: int) -> Self:
        return replace(self, seed=seed)

    # -- on disk ----------------------------------------------------------------------------------

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """All there is, in the middle of a stream too; the loaded learner goes on to the bit."""
        if self.schema_ is None:
            self._fitted()
        models = {"": self} if self.schema_ is not None else self.models_
        processor = getattr(self, "processor_", None)
        plain = replace(self, features=None, nominal=None, classes=None)
        write_folder(
            folder,
            data={
                "config": {"system": self.id, "settings": to_dict(plain)},
                "processor": processor.to_dict() if processor else None,
                "streams": {n: m.schema_.to_dict() for n, m in models.items() if m.schema_},
            },
            tensors={
                f"{name}/{key}": torch.from_numpy(np.ascontiguousarray(array))
                for name, model in models.items()
                for key, array in model._state().items()
            },
        )

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike[str]) -> Self:
        data, tensors = read_folder(folder)
        learner = from_dict(cls, saved_settings(data, cls.id, folder), where=str(folder))
        models = {}
        for name, schema in data["streams"].items():
            models[name] = model = learner if name == "" else replace(learner)
            model._start(Schema.from_dict(schema))
            model._restore(
                {
                    key.removeprefix(f"{name}/"): tensor.numpy()
                    for key, tensor in tensors.items()
                    if key.startswith(f"{name}/")
                }
            )
        if data["processor"] is not None:
            learner.processor_ = Processor.from_dict(data["processor"])
            learner.models_, learner.history_ = models, []
        return learner

    def _state(self) -> dict[str, NDArray]:
        """All arrays that decide what happens next."""
        raise NotImplementedError

    def _restore(self, state: dict[str, NDArray]) -> None:
        raise NotImplementedError

    @property
    def nbytes(self) -> int:
        """Bytes of all that is kept, room for growth included."""
        models = getattr(self, "models_", None) or {"": self}
        return sum(array.nbytes for model in models.values() for array in model._state().values())

    # -- within -----------------------------------------------------------------------------------

    def _run(self, X: Any, X_learn: Any, y: Any) -> NDArray:
        """Where the schema grows the rows are cut, so that each is answered by what was known."""
        same = X is X_learn
        schema = self._schema(X_learn)
        test, train = (None if X is None else _Rows(X)), _Rows(X_learn)
        labels = _labels(y)
        if len(labels) != len(train):
            raise InputError(f"there are {len(train)} rows to learn from and {len(labels)} labels")
        if test is not None and len(train) > len(test):
            raise InputError(
                f"{len(train)} rows to learn from are more than {len(test)} to predict"
            )
        found, done = [], 0
        end = len(train) if test is None else len(test)
        while done < end:
            if test is not None and done >= len(train):  # no label is left to learn
                found.append(self._answers(schema, test.matrix(schema, done, end)))
                break
            stop = done + schema.known(labels[done:])
            stop = min(stop, done + _values_known(schema, train, done, stop))
            stop = end if stop >= len(train) else stop
            if stop == done:  # this row brings something new: answer it first
                if test is not None:
                    found.append(self._answers(schema, test.matrix(schema, done, done + 1)))
                before = schema.values
                schema.learn_values(train.part(done, done + 1))
                code = schema.codes(labels[done : done + 1])
                self._grow(before)
                row = train.matrix(schema, done, done + 1)
                self._pass(row[:0], row, code)
                done += 1
                continue
            last = min(stop, len(train))
            rows, codes = train.matrix(schema, done, last), schema.codes(labels[done:last])
            if test is None:
                self._pass(rows[:0], rows, codes)
            else:
                alike = same and last == stop
                asked = rows if alike else test.matrix(schema, done, stop)
                found.append(self._pass(asked, rows, codes))
            done = stop
        return self._named(np.concatenate(found) if found else _NO_LABELS)

    def _answers(self, schema: Schema, rows: NDArray) -> NDArray:
        if not schema.classes:
            return np.full(len(rows), -1)
        return self._pass(rows, rows[:0], _NO_LABELS)

    def _grow(self, before: NDArray) -> None:
        """Make the model as wide as the schema has become."""
        schema = self.schema_
        assert schema is not None
        if not np.array_equal(before, schema.values):
            self._add_values(schema.values)
        self._add_classes(len(schema.classes))

    def _named(self, codes: NDArray) -> NDArray:
        assert self.schema_ is not None
        if (codes < 0).any():  # the first of a stream whose classes nobody named
            names = np.array([*self.schema_.classes, None], object)
        else:
            names = np.asarray(self.schema_.classes)
        return names[codes]

    def _told(self, x: Mapping[Any, Any]) -> Schema | None:
        """The schema, or None while no class is known."""
        if self.schema_ is None and self.classes is None:
            return None
        schema = self._schema(x)
        return schema if schema.classes else None

    def _able(self, X: Any) -> Schema:
        if (schema := self._told(X)) is None:
            raise InputError("no class is known yet; give classes, or learn something first")
        return schema

    def _schema(self, X: Any) -> Schema:
        """The schema; at the first instances it is made of the settings and of what is there."""
        if self.schema_ is None:
            features, nominal = _described(self.features, self.nominal, X)
            given: Any = range(self.classes) if isinstance(self.classes, int) else self.classes
            self._start(Schema(features, nominal, list(given or ()), given is not None))
        assert self.schema_ is not None
        return self.schema_

    def _start(self, schema: Schema) -> None:
        self.schema_ = schema
        self._begin(schema)


def joined(parts: Mapping[str, Mapping[str, NDArray]]) -> dict[str, NDArray]:
    """The states of several parts as one."""
    return {f"{of}.{name}": array for of, part in parts.items() for name, array in part.items()}


def parted(state: Mapping[str, NDArray]) -> dict[str, dict[str, NDArray]]:
    """What ``joined`` put together, copied."""
    parts: dict[str, dict[str, NDArray]] = {}
    for path, array in state.items():
        of, _, name = path.partition(".")
        parts.setdefault(of, {})[name] = np.array(array)
    return parts


_NO_LABELS = np.empty(0, np.int64)


class _Rows:
    """Rows in whatever form they came, by pieces."""

    def __init__(self, source: Any) -> None:
        self.source = source if isinstance(source, np.ndarray) else read_table(source)

    def __len__(self) -> int:
        return len(self.source)

    def part(self, start: int, stop: int) -> Any:
        if isinstance(self.source, np.ndarray):
            return self.source[start:stop]
        return self.source.slice(start, stop - start)

    def matrix(self, schema: Schema, start: int, stop: int) -> NDArray:
        return schema.matrix(self.part(start, stop))


def _values_known(schema: Schema, rows: _Rows, start: int, stop: int) -> int:
    """How many rows from ``start`` on hold no nominal value that is new."""
    known = stop - start
    if isinstance(rows.source, np.ndarray) and schema.holds(rows.part(start, stop)):
        return known
    for i, name in enumerate(schema.features):
        if name not in schema.nominal or known == 0:
            continue
        part = rows.part(start, start + known)
        column = part[:, i] if isinstance(part, np.ndarray) else _column(part, name)
        codes = schema.nominal[name]
        new = [v for v in _distinct(column) if v not in codes]
        if new:
            values = column if isinstance(column, pa.ChunkedArray) else pa.array(column)
            hits = pc.is_in(values, value_set=pa.array(new, values.type))
            known = pc.index(hits, True).as_py()
    return known


def _described(features: Any, nominal: Any, X: Any) -> tuple[tuple[Any, ...], dict[Any, Any]]:
    """Names of the features and the nominal ones among them, given or as they are in X."""
    if isinstance(features, int):
        features = tuple(range(features))
    texts: list[Any] = []
    if isinstance(X, np.ndarray):
        if X.ndim != 2:
            raise InputError(f"rows have shape {X.shape}; give an array of rows and columns")
        features = tuple(range(X.shape[1])) if features is None else tuple(features)
    elif isinstance(X, Mapping) and not any(_is_column(v) for v in X.values()):
        features = tuple(X) if features is None else tuple(features)
        texts = [n for n, v in X.items() if not (v is None or isinstance(v, numbers.Number))]
    else:
        table = read_table(X)
        features = tuple(table.column_names) if features is None else tuple(features)
        texts = [f.name for f in table.schema if pa.types.is_string(f.type)]
    if not features:
        raise InputError("an instance has no features")
    given = nominal if isinstance(nominal, Mapping) else dict.fromkeys(nominal or ())
    known: dict[Any, dict[Any, int]] = {n: {} for n in texts if n in features}
    for name, values in given.items():
        values = range(values) if isinstance(values, int) else values or ()
        known[name] = {v: i for i, v in enumerate(values)}
    return features, known


def _is_column(value: Any) -> bool:
    return isinstance(value, Sequence | np.ndarray) and not isinstance(value, str)
