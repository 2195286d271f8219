"""Processor: what turns rows into tensors; fitted on the training rows, saved with the weights.

Numbers are median-imputed and standardised; categories become codes with 0 for "missing or never
seen in training"; arrays are standardised by one mean and deviation. Nothing here ever looks at a
validation or test row while fitting.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray

from polytask.data.batch import Batch
from polytask.data.files import read_table
from polytask.data.lazy import Lazy
from polytask.data.pictures import listed, resolved, shape
from polytask.data.suite import Suite, as_numbers, expand_moment
from polytask.data.text_columns import as_text
from polytask.data.texts import Ragged, Reader, Texts, reader_from_dict
from polytask.errors import InputError, nearest
from polytask.tasks import Generation, Span, Task, TextKind
from polytask.tasks.dense import DenseKind
from polytask.tasks.maps import open_cell, picture_size, unit_range
from polytask.tasks.text import objects


@dataclass(frozen=True)
class Numeric:
    """A number column: missing becomes the median, then ``(x - mean) / std``."""

    median: float
    mean: float
    std: float

    def encode(self, name: str, values: pa.ChunkedArray) -> NDArray:
        numbers = pc.cast(as_numbers(name, values, "column"), pa.float64(), safe=False).to_numpy()
        numbers = np.where(np.isnan(numbers), self.median, numbers)
        return ((numbers - self.mean) / self.std).astype(np.float32)


@dataclass(frozen=True)
class Categorical:
    """A category column: codes from 1 in the order of ``values``; 0 is missing or unseen."""

    values: tuple[str, ...]

    @property
    def cardinality(self) -> int:
        """Number of codes, the 0 of unknown values included."""
        return len(self.values) + 1

    def encode(self, name: str, values: pa.ChunkedArray) -> NDArray:
        known = pa.array(self.values, type=pa.string())
        codes = pc.index_in(pc.cast(values, pa.string()), value_set=known, skip_nulls=True)
        return pc.fill_null(codes, -1).to_numpy().astype(np.int64) + 1


@dataclass(frozen=True)
class Array:
    """A column of arrays of one shape, standardised by one mean and deviation."""

    shape: tuple[int, ...]
    mean: float
    std: float

    def encode(self, name: str, values: pa.ChunkedArray) -> NDArray:
        shape, flat = _flat(values)
        if shape != self.shape:
            raise InputError(f"column {name!r} holds arrays of shape {shape}, not {self.shape}")
        numbers = flat.to_numpy(zero_copy_only=False).reshape(len(values), *shape)
        if not np.isfinite(numbers).all():
            row = int(np.flatnonzero(~np.isfinite(numbers).reshape(len(values), -1).all(1))[0])
            raise InputError(f"column {name!r} holds no finite number in data row {row + 1}")
        return ((numbers - self.mean) / self.std).astype(np.float32)


@dataclass(frozen=True)
class PictureColumn:
    """A column of pictures: float32 ``[B, channels, H, W]`` in [0, 1] at one ``size`` (H, W)."""

    size: tuple[int, int]
    channels: int

    def encode(self, name: str, values: pa.ChunkedArray) -> Lazy:
        return Lazy(name, values, self._read, _channels_first)

    def _read(self, cell: Any) -> NDArray:
        values = open_cell(cell)
        channels = shape(values)[1]
        if channels != self.channels:
            raise InputError(f"the picture has {channels} channels, {self.channels} are wanted")
        small = picture_size(values, self.size)
        # Bytes are kept as bytes; they become brightness when a batch is drawn.
        return small if small.dtype == np.uint8 else unit_range(small)


def _channels_first(pictures: torch.Tensor) -> torch.Tensor:
    if pictures.ndim == 3:
        pictures = pictures.unsqueeze(-1)
    unit = pictures.float() / 255 if pictures.dtype == torch.uint8 else pictures
    return unit.permute(0, 3, 1, 2).contiguous()


def _flat(values: pa.ChunkedArray) -> tuple[tuple[int, ...], pa.Array]:
    flat = values.combine_chunks()
    shape = []
    while pa.types.is_fixed_size_list(flat.type):
        shape.append(flat.type.list_size)
        flat = flat.flatten()
    return tuple(shape), flat


@dataclass(frozen=True)
class Processor:
    """Fitted encoders of the inputs and fitted kinds of the tasks.

    This is also the specification a module is built from: ``numeric``, ``cardinalities``,
    ``arrays``, ``pictures``, ``texts`` and ``tasks`` say how wide every input and every head must
    be.

    Attributes:
        texts: text columns, and whether a row has a list of texts there.
        reader: what turns texts into tokens; None where the learner reads none.
    """

    numeric: dict[str, Numeric]
    categorical: dict[str, Categorical]
    arrays: dict[str, Array]
    tasks: tuple[Task, ...]
    pictures: dict[str, PictureColumn] = field(default_factory=dict)
    texts: dict[str, bool] = field(default_factory=dict)
    reader: Reader | None = None

    @classmethod
    def fit(cls, suite: Suite, reader: Reader | None = None) -> Processor:
        train = suite.splits["train"].data
        numeric: dict[str, Numeric] = {}
        categorical: dict[str, Categorical] = {}
        arrays: dict[str, Array] = {}
        pictures = {
            n: PictureColumn(suite.size, c) for n, c in suite.pictures.items() if suite.size
        }
        for name in suite.inputs:
            values = train.column(name)
            if name in pictures or name in suite.texts:
                continue
            if pa.types.is_string(values.type):
                seen = pc.unique(values.drop_null()).to_pylist()
                categorical[name] = Categorical(tuple(sorted(seen)))
            elif pa.types.is_fixed_size_list(values.type):
                shape, flat = _flat(values)
                std = pc.stddev(flat).as_py()
                arrays[name] = Array(shape, pc.mean(flat).as_py(), std or 1.0)
            else:
                # None where the rows of one group have no value: the column is a constant then.
                median = pc.quantile(values, 0.5)[0].as_py() or 0.0
                filled = pc.fill_null(pc.cast(values, pa.float64(), safe=False), median)
                std = pc.stddev(filled).as_py()
                numeric[name] = Numeric(float(median), pc.mean(filled).as_py(), std or 1.0)
        tasks = tuple(replace(t, kind=t.kind.fitted(suite.labels(t, "train"))) for t in suite.tasks)
        return cls(numeric, categorical, arrays, tasks, pictures, dict(suite.texts), reader)

    @property
    def cardinalities(self) -> tuple[int, ...]:
        return tuple(c.cardinality for c in self.categorical.values())

    @property
    def input_names(self) -> tuple[str, ...]:
        return (*self.numeric, *self.categorical, *self.arrays, *self.pictures, *self.texts)

    @property
    def size(self) -> tuple[int, int] | None:
        """(height, width) of all pictures and maps."""
        return next((p.size for p in self.pictures.values()), None)

    def task(self, name: str) -> Task:
        for task in self.tasks:
            if task.name == name:
                return task
        names = [t.name for t in self.tasks]
        raise InputError(f"task {name!r} is not one of this model's tasks{nearest(name, names)}")

    def inputs(self, source: Any, tasks: Sequence[str] | None = None) -> Batch:
        """Encode rows without labels, of anything that ``table`` reads.

        Args:
            tasks: what will be asked of the rows; text columns that only others read may be absent.
        """
        table = self.table(source)
        columns = _derived(table, self.input_names)
        needed = {c for t in self.tasks if tasks is None or t.name in tasks for c in t.texts}
        for name in self.input_names:
            if name in columns:
                continue
            if name in self.texts and name not in needed:
                columns[name] = pa.chunked_array([pa.nulls(table.num_rows)])
                continue
            raise InputError(f"input column {name!r} is missing{nearest(name, table.column_names)}")
        if table.num_rows == 0:
            raise InputError("there are no rows to predict")
        return Batch(self._encode(columns), {}, {})

    def answerable(self, source: Any) -> tuple[str, ...]:
        """Tasks whose text columns are all in a table; every task, if texts are not the matter."""
        if not self.texts:
            return tuple(task.name for task in self.tasks)
        columns = self.table(source).column_names
        found = tuple(task.name for task in self.tasks if set(task.texts) <= set(columns))
        if not found:
            first = next(name for task in self.tasks for name in task.texts if name not in columns)
            raise InputError(f"input column {first!r} is missing{nearest(first, columns)}")
        return found

    def encode(self, suite: Suite, split: str) -> Batch:
        """Encode one split of a suite, labels included."""
        data = suite.splits[split].data
        columns = {name: data.column(name) for name in self.input_names}
        targets: dict[str, Any] = {}
        masks: dict[str, torch.Tensor] = {}
        for task in self.tasks:
            labels = task.labels(data)
            if isinstance(task.kind, DenseKind):
                targets[task.name] = self._maps(task, task.kind, labels)
                masks[task.name] = torch.from_numpy(labels.is_valid().to_numpy().copy())
                continue
            try:
                if isinstance(task.kind, Span | Generation):
                    targets[task.name] = self._in_text(task, data, labels)
                    masks[task.name] = torch.from_numpy(labels.is_valid().to_numpy().copy())
                    continue
                target, mask = task.kind.encode(labels)
            except InputError as error:
                raise InputError(f"{task}, split {split!r}: {error}") from None
            if isinstance(task.kind, TextKind) and target.dtype == object:
                targets[task.name] = Ragged(list(target), task.kind.blank)
            else:
                targets[task.name] = torch.from_numpy(target)
            masks[task.name] = torch.from_numpy(np.ascontiguousarray(mask))
        return Batch(self._encode(columns), targets, masks)

    def _in_text(self, task: Task, data: Any, labels: pa.ChunkedArray) -> Any:
        """Answers that are words: a stretch of the text in tokens ``[N, 2]``, or a text column."""
        cells = labels.to_pylist()
        if isinstance(task.kind, Generation):
            answers = Texts(task.target, [_first(cell) for cell in cells], self.reader)
            answers.strings = objects(cells)
            return answers
        spans = torch.full((len(cells), 2), -1)
        if isinstance(task.kind, Span) and self.reader is not None:
            texts = data.column(task.texts[-1])
            for row, cell in enumerate(cells):
                if cell is not None:
                    text = texts[row].as_py()
                    tokens = self.reader.offsets(text)[: self.reader.limit]
                    start, end = task.kind.place(cell, text)
                    inside = np.flatnonzero((tokens[:, 1] > start) & (tokens[:, 0] < end))
                    whole = len(inside) and tokens[inside[-1], 1] >= end
                    if whole:
                        spans[row] = torch.tensor([inside[0], inside[-1] + 1])
        return spans

    def spans(self, task: Task, positions: NDArray, source: Any) -> NDArray[np.object_]:
        """Tokens ``[N, 2]`` of the task's last text as the words that stand there."""
        texts = self.table(source)[task.texts[-1]].to_pylist()
        found = []
        for text, (first, end) in zip(texts, positions, strict=True):
            tokens = self.reader.offsets(text or "") if self.reader else np.empty((0, 2), np.int64)
            inside = tokens[first:end]
            found.append(text[inside[0, 0] : inside[-1, 1]] if len(inside) else "")
        return objects(found)

    def _maps(self, task: Task, kind: DenseKind, labels: pa.ChunkedArray) -> Any:
        size = self.size
        return Lazy(
            task.target,
            labels,
            lambda cell: kind.read(cell, size),
            lambda stacked: stacked,
            blank=lambda first: np.full_like(first, kind.blank),
        )

    def table(self, source: Any) -> pa.Table:
        """A file, table, data frame or dict as a table, for predictions.

        A model of one picture also takes a picture file, or a folder of them. Paths in a table
        file are seen from its folder.
        """
        if not self.pictures or not isinstance(source, str | os.PathLike):
            return read_table(source)
        found = listed(source, next(iter(self.pictures))) if len(self.pictures) == 1 else None
        if found is not None:
            return found
        rows = read_table(source)
        names = [name for name in self.pictures if name in rows.column_names]
        return resolved(rows, names, Path(source).parent)

    def _encode(self, columns: Mapping[str, pa.ChunkedArray]) -> dict[str, Any]:
        # Filled column by column: the float64 copy that Arrow hands out lives for one column only.
        rows = len(next(iter(columns.values())))
        inputs: dict[str, Any] = {}
        if self.numeric:
            numbers = np.empty((rows, len(self.numeric)), np.float32)
            for i, (name, encoder) in enumerate(self.numeric.items()):
                numbers[:, i] = encoder.encode(name, columns[name])
            inputs["numeric"] = torch.from_numpy(numbers)
        if self.categorical:
            codes = np.empty((rows, len(self.categorical)), np.int64)
            for i, (name, category) in enumerate(self.categorical.items()):
                codes[:, i] = category.encode(name, columns[name])
            inputs["categorical"] = torch.from_numpy(codes)
        for name, array in self.arrays.items():
            inputs[name] = torch.from_numpy(array.encode(name, columns[name]))
        for name, picture in self.pictures.items():
            inputs[name] = picture.encode(name, columns[name])
        for name, several in self.texts.items():
            texts = as_text(name, columns[name]).to_pylist()
            inputs[name] = Texts(name, texts, self.reader, several)
        return inputs

    def to_dict(self) -> dict[str, Any]:
        return {
            "numeric": {k: vars(v) for k, v in self.numeric.items()},
            "categorical": {k: list(v.values) for k, v in self.categorical.items()},
            "arrays": {k: vars(v) for k, v in self.arrays.items()},
            "pictures": {k: vars(v) for k, v in self.pictures.items()},
            "texts": self.texts,
            "reader": self.reader.to_dict() if self.reader else None,
            "tasks": [task.to_dict() for task in self.tasks],
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Processor:
        return cls(
            {k: Numeric(**v) for k, v in data["numeric"].items()},
            {k: Categorical(tuple(v)) for k, v in data["categorical"].items()},
            {k: Array(**{**v, "shape": tuple(v["shape"])}) for k, v in data["arrays"].items()},
            tuple(Task.from_dict(t) for t in data["tasks"]),
            {  # models saved before there were pictures have none
                k: PictureColumn(tuple(v["size"]), v["channels"])
                for k, v in data.get("pictures", {}).items()
            },
            data.get("texts", {}),
            reader_from_dict(data.get("reader")),
        )


def _first(answer: Any) -> str | None:
    return answer[0] if isinstance(answer, list) else answer


def _derived(table: pa.Table, names: tuple[str, ...]) -> dict[str, pa.ChunkedArray]:
    """The table's columns, moments expanded the way the suite expanded them."""
    columns: dict[str, pa.ChunkedArray] = {}
    for name in table.column_names:
        if name not in names and f"{name}.day" in names:
            columns |= expand_moment(name, table[name])
        else:
            columns[name] = table[name]
    return columns
