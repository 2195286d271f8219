"""Answers: what a fitted learner says of new rows, as a table and as pictures.

Lists (of a document's sections, of a query's candidates) are written as JSON in one cell.

``predictions.csv`` holds one row per input row: the answers to tasks with one value per row, in
their units, and the chance of every class. A task whose answer is a map gets a folder with two
files per row: the values (``.npy``: classes by number, the unit of the task) and a picture of them
(``.png``), both at the size of the picture that was given.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pv
from numpy.typing import NDArray

from polytask.comparing.pictures import as_picture, overlay
from polytask.data.lazy import cells
from polytask.data.pictures import shape
from polytask.errors import InputError
from polytask.tasks import DenseKind, Segmentation, Task
from polytask.tasks.maps import nearest_size, open_cell, picture_size, unit_range

_AT_A_TIME = 16


def table(learner: Any, source: Any, tasks: Sequence[str] | None = None) -> pa.Table:
    """The answers to tasks with one value per row; a chance per class beside the class.

    A row that lacks a text of a task has no answer to it.
    """
    columns: dict[str, pa.Array] = {}
    rows = learner.processor_.table(source)
    for name, decoded in learner.predict(rows, tasks).items():
        task = learner.processor_.task(name)
        asked = [rows[text].is_valid().to_numpy() for text in task.texts]
        gone = ~np.logical_and.reduce(asked) if asked else np.zeros(len(decoded), bool)
        answers = [_cell(answer) for answer in task.kind.answer(decoded).tolist()]
        columns[name] = pa.array(answers, mask=gone)
        classes = () if task.kind.several else getattr(task.kind, "classes", ())
        for i, label in enumerate(classes):
            columns[f"{name}={label}"] = pa.array(decoded[:, i], mask=gone)
    return pa.table(columns)


def _cell(answer: Any) -> Any:
    if not isinstance(answer, np.ndarray | list):
        return answer
    values = answer.tolist() if isinstance(answer, np.ndarray) else answer
    return json.dumps([round(v, 4) if isinstance(v, float) else v for v in values])


def write(
    learner: Any,
    source: Any,
    out: Path,
    tasks: Sequence[str] | None = None,
    progress: Callable[[int, int], None] = lambda done, rows: None,
) -> int:
    """Write the table and the maps of every row into a folder; returns the number of rows."""
    processor = learner.processor_
    named = [t.name for t in processor.tasks] if tasks is None else list(tasks)
    asked = [processor.task(name) for name in named]
    dense = [task for task in asked if task.kind.dense]
    plain = [task.name for task in asked if not task.kind.dense]
    rows = processor.table(source)
    stems = _stems(rows, next(iter(processor.pictures)))
    for task in dense:
        (out / _file(task.name)).mkdir(parents=True, exist_ok=True)
    parts = []
    for start in range(0, rows.num_rows, _AT_A_TIME):
        part = rows.slice(start, _AT_A_TIME)
        names = stems[start : start + part.num_rows]
        cell = cells(part[next(iter(processor.pictures))])
        for task in dense:
            decoded = learner.predict(part, [task.name])[task.name]
            for i, name in enumerate(names):
                _write_map(task, decoded[i], open_cell(cell(i)), out / _file(task.name) / name)
        found = {"picture": pa.array(names)}
        if plain:
            answers = table(learner, part, plain)
            found |= {n: answers[n].combine_chunks() for n in answers.column_names}
        parts.append(pa.table(found))
        progress(min(start + _AT_A_TIME, rows.num_rows), rows.num_rows)
    pv.write_csv(pa.concat_tables(parts), out / "predictions.csv")
    return rows.num_rows


def _write_map(task: Task, decoded: NDArray, picture: NDArray, path: Path) -> None:
    """``path``.npy and ``path``.png at the size of the picture."""
    size = shape(picture)[0]
    if isinstance(task.kind, DenseKind) and task.kind.smooth:
        values = picture_size(decoded.transpose(1, 2, 0), size).transpose(2, 0, 1)
    else:
        values = nearest_size(decoded, size)
    np.save(path.with_name(path.name + ".npy"), values, allow_pickle=False)
    if isinstance(task.kind, Segmentation):
        planes = unit_range(picture)
        planes = planes[None] if planes.ndim == 2 else planes.transpose(2, 0, 1)
        image = overlay(planes, values, task.kind.classes)
    else:
        image = as_picture(task.kind, values)
    image.save(path.with_name(path.name + ".png"))


def _stems(rows: pa.Table, column: str) -> list[str]:
    """A file name per row: that of its picture, or its number."""
    if pa.types.is_string(rows[column].type):
        stems = [Path(path or "").stem for path in rows[column].to_pylist()]
        if len(set(stems)) == len(stems) and all(stems):
            return stems
    width = len(str(rows.num_rows))
    return [f"{row + 1:0{width}d}" for row in range(rows.num_rows)]


def _file(task: str) -> str:
    """A task's name as the name of a folder."""
    name = "".join(sign if sign.isalnum() or sign in "-_ ." else "_" for sign in task).strip(". ")
    if not name:
        raise InputError(f"task {task!r} cannot name a folder")
    return name
