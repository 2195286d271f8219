"""The page of one fitted model: what it is, its scores, and what it says of single rows.

    page = gallery(learner, suite)
    Path("page.html").write_text(page, encoding="utf-8")

All rows of a split go by a few at a time and leave what metrics and plots need of them. Then the
few rows that are shown are predicted once more.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from polytask.catalogue import catalogue
from polytask.comparing import figures, pictures
from polytask.comparing.pictures import Span
from polytask.comparing.render import filled
from polytask.comparing.words import MISSING, Json, count, decimals, number
from polytask.config import to_dict
from polytask.data import Batch, Processor, Suite
from polytask.errors import InputError
from polytask.tasks import (
    Classification,
    DenseKind,
    DenseRegression,
    Kind,
    Regression,
    Segmentation,
    Task,
)
from polytask.tasks.metrics import confusion
from polytask.version import __version__

if TYPE_CHECKING:
    from PIL.Image import Image

_POINTS = 250  # of one scatter plot
_PIXELS = 4000  # kept of all maps for a scatter plot
_PARTS = 24  # tasks with plots of their own
_CLASSES = 24  # rows of a confusion matrix; more cannot be read
_COLUMNS = 6  # inputs named beside an example
_CHANNELS = 8  # curves of one signal
_LONG = 4  # a signal has so many times more samples than channels
_BYTES = 1_500_000  # of all pictures of a page
# Pixels of the longer side and colours of photographs: the first with which all fit is taken.
_FORMS = ((288, None), (288, 256), (224, 256), (176, 256), (136, 256), (104, 256), (80, 256))


def gallery(learner: Any, suite: Suite, *, split: str = "test", examples: int = 8) -> str:
    """The page of a fitted learner as one HTML document that stands alone.

    Args:
        learner: fitted on tasks of the suite.
        suite: where rows and labels come from.
        split: the rows that are scored and shown.
        examples: rows shown with all tasks, evenly spread over the split. Beside them stand, for
            each task whose answer is a map, its best, median and worst row by its own metric.

    Raises:
        InputError: the learner is not fitted, or knows none of the suite's tasks.
    """
    reader = _Reader.of(learner, suite, split)
    seen = [_Seen(task, len(reader)) for task in reader.tasks]
    for rows in reader.chunks():
        for one in seen:
            one.take(rows)
    spread = np.unique(np.linspace(0, len(reader) - 1, min(examples, len(reader))).astype(int))
    extremes = {one.task.name: one.extremes() for one in seen}
    wanted = {int(row) for row in spread}.union(*(found.values() for found in extremes.values()))
    drawer = _Drawer(reader, seen, {row: reader.row(row) for row in sorted(wanted)})
    cards = [drawer.card(int(row)) for row in spread]
    parts = [drawer.part(one, extremes[one.task.name]) for one in seen[:_PARTS]]
    drawer.encode()
    identity = getattr(learner, "id", type(learner).__name__)
    entry = catalogue().get(identity)
    return filled(
        "gallery.html",
        polytask=__version__,
        created=datetime.now(UTC).isoformat(),
        name=identity,
        title=entry.title if entry else "",
        suite=suite,
        split=split,
        rows=len(reader),
        parameters=getattr(learner, "parameters_", None),
        inputs=_inputs(reader.processor),
        tasks=reader.tasks,
        scores=[_score_row(one) for one in seen],
        cards=cards,
        visual=any(card["tasks"] or card["pictures"] or card["signals"] for card in cards),
        parts=parts,
        settings=_flat(to_dict(learner)) if dataclasses.is_dataclass(learner) else {},
    )


# -- what is read --------------------------------------------------------------------------------


class _Rows(NamedTuple):
    """Some rows of a split: where they begin, as a table, encoded, and answered."""

    start: int
    table: pa.Table
    batch: Batch
    decoded: dict[str, NDArray]


@dataclass(frozen=True)
class _Reader:
    """A split with the learner's answers, a few rows at a time."""

    learner: Any
    processor: Processor
    table: pa.Table
    batch: Batch

    @classmethod
    def of(cls, learner: Any, suite: Suite, split: str) -> _Reader:
        processor: Processor | None = getattr(learner, "processor_", None)
        if processor is None:
            raise InputError(f"{getattr(learner, 'id', 'the learner')} is not fitted; fit it first")
        tasks = tuple(t for t in processor.tasks if t.name in suite.task_names)
        if not tasks:
            known = ", ".join(t.name for t in processor.tasks)
            raise InputError(f"suite {suite.name!r} has none of the model's tasks {known}")
        processor = replace(processor, tasks=tasks)
        return cls(learner, processor, suite.table(split), processor.encode(suite, split))

    def __len__(self) -> int:
        return self.table.num_rows

    @property
    def tasks(self) -> tuple[Task, ...]:
        return self.processor.tasks

    def chunks(self) -> Iterator[_Rows]:
        start = 0
        for batch in self.batch.chunks():
            yield self._answered(start, batch)
            start += len(batch)

    def row(self, row: int) -> _Rows:
        return self._answered(row, self.batch[torch.tensor([row])])

    def _answered(self, start: int, batch: Batch) -> _Rows:
        table = self.table.slice(start, len(batch))
        inputs = table.select(list(self.processor.input_names))
        decoded = self.learner.predict(inputs, [task.name for task in self.tasks])
        return _Rows(start, table, batch, decoded)


@dataclass
class _Seen:
    """What is kept of a task while the rows of a split go by.

    Attributes:
        task: a fitted one.
        rows: of the split.
        labelled: rows with a label.
        tallies: of these rows, what the metrics need.
        pairs: for a map of numbers, some pixels as (true, predicted).
        each: for a map, the primary metric row by row; NaN without a label.
    """

    task: Task
    rows: int
    labelled: int = 0
    tallies: list[tuple[NDArray, ...]] = field(default_factory=list)
    pairs: list[NDArray] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.each = np.full(self.rows, np.nan)

    def take(self, rows: _Rows) -> None:
        name, kind = self.task.name, self.task.kind
        places = np.flatnonzero(rows.batch.masks[name].numpy())
        target, decoded = rows.batch.targets[name].numpy(), rows.decoded[name]
        self.labelled += len(places)
        if isinstance(kind, DenseKind):
            told = []
            for i in (int(place) for place in places if kind.labelled(target[place])):
                told.append(kind.tally(target[i : i + 1], decoded[i : i + 1]))
                self.each[rows.start + i] = kind.judge(told[-1:])[kind.primary.name]
                if isinstance(kind, DenseRegression):
                    pixels = np.stack([target[i].ravel(), decoded[i].ravel()])
                    pixels = pixels[:, np.isfinite(pixels).all(0)]
                    self.pairs.append(_thinned(pixels, max(1, _PIXELS // self.rows)))
        else:
            told = [kind.tally(target[places], decoded[places])] if len(places) else []
        if told:
            self.tallies.append(_joined(kind, told))

    @cached_property
    def tally(self) -> tuple[NDArray, ...] | None:
        return _joined(self.task.kind, self.tallies) if self.tallies else None

    @cached_property
    def scores(self) -> dict[str, float]:
        return self.task.kind.judge(self.tallies) if self.tallies else {}

    def extremes(self) -> dict[str, int]:
        """Best, median and worst row by the primary metric; of equal rows the first."""
        known = np.flatnonzero(np.isfinite(self.each))
        order = known[np.argsort(-self.task.kind.primary.sign * self.each[known], kind="stable")]
        if len(order) < 3:
            return {}
        return {name: int(order[i]) for name, i in
                (("best", 0), ("median", len(order) // 2), ("worst", -1))}  # fmt: skip


def _joined(kind: Kind, tallies: Sequence[tuple[NDArray, ...]]) -> tuple[NDArray, ...]:
    return tuple(kind.join(parts) for parts in zip(*tallies, strict=True))


def _thinned(values: NDArray, most: int) -> NDArray:
    """At most so many columns of ``[..., N]``, evenly spread."""
    size = values.shape[-1]
    if size <= most:
        return values
    return values[..., np.linspace(0, size - 1, most).astype(int)]


# -- what is drawn -------------------------------------------------------------------------------


@dataclass
class _Shot:
    """A picture on the page; ``src`` comes when the size of all is settled."""

    image: Image
    alt: str
    caption: str = ""
    src: str = ""


@dataclass
class _Drawer:
    """Rows as cards of pictures and words; tasks as plots.

    Attributes:
        reader, seen: what was read, and kept of every task.
        shown: the rows that are drawn somewhere.
    """

    reader: _Reader
    seen: Sequence[_Seen]
    shown: dict[int, _Rows]
    shots: list[_Shot] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.spans: dict[str, Span] = {}
        self.strongest: dict[str, float] = {}
        for task in (t for t in self.reader.tasks if t.kind.dense):
            name, kind = task.name, task.kind
            known = [r for r in self.shown.values() if r.batch.masks[name][0]]
            targets = [r.batch.targets[name][0].numpy() for r in known]
            self.spans[name] = pictures.span_of(targets)
            self.strongest[name] = pictures.strongest_of(
                pictures.error(kind, target, rows.decoded[name][0])
                for target, rows in zip(targets, known, strict=True)
            )

    def card(self, row: int) -> Json:
        """One row with all that was asked of it."""
        rows = self.shown[row]
        return {
            "row": row,
            "inputs": self._plain_inputs(rows),
            "answers": [_answer(t, rows) for t in self.reader.tasks if not t.kind.dense],
            "pictures": self._pictures(rows),
            "signals": self._signals(rows),
            "tasks": [self._maps(one, row) for one in self.seen if one.task.kind.dense],
        }

    def part(self, one: _Seen, extremes: dict[str, int]) -> Json:
        """All that is shown of one task alone."""
        kind = one.task.kind
        rows = []
        for which, row in extremes.items():
            maps = self._maps(one, row)
            shots = [*self._pictures(self.shown[row]), *maps["shots"]]
            rows.append({"which": which, "row": row, "shots": shots, "score": maps["score"]})
        return {
            "task": one.task,
            "labelled": one.labelled,
            "legend": self._legend(one.task) if kind.dense else None,
            "plots": _plots(one),
            "confusion": _confusion(one),
            "extremes": rows,
        }

    def encode(self) -> None:
        """Settle the finest form in which all pictures fit into the page."""
        for form in _FORMS:
            files = [pictures.as_png(shot.image, *form) for shot in self.shots]
            if sum(map(len, files)) <= _BYTES:
                break
        for shot, file in zip(self.shots, files, strict=True):
            shot.src = pictures.inline(file)

    def _shot(self, image: Image, alt: str, caption: str = "") -> _Shot:
        self.shots.append(_Shot(image, alt, caption))
        return self.shots[-1]

    def _pictures(self, rows: _Rows) -> list[_Shot]:
        return [
            self._shot(_image(picture), f"input {name} of row {rows.start + 1}", name)
            for name, picture in _picture_inputs(self.reader.processor, rows.batch).items()
        ]

    def _maps(self, one: _Seen, row: int) -> Json:
        """Truth, answer and error of one task whose answer is a map."""
        task, kind, rows = one.task, one.task.kind, self.shown[row]
        decoded = rows.decoded[task.name][0]
        of_row = f"{task.name} of row {row + 1}"
        shots = []
        if rows.batch.masks[task.name][0]:
            target = rows.batch.targets[task.name][0].numpy()
            errors = pictures.error(kind, target, decoded)
            picture = self._map(task, target, rows)
            shots = [
                self._shot(picture, f"true {of_row}: {_summary(kind, target)}", "true"),
                self._shot(
                    pictures.error_picture(kind, errors, self.strongest[task.name]),
                    f"error of {of_row}: {kind.primary.name} {_score(one.each[row])}",
                    "error",
                ),
            ]
        answer = self._shot(
            self._map(task, decoded, rows),
            f"predicted {of_row}: {_summary(kind, decoded)}",
            "predicted",
        )
        shots.insert(len(shots) // 2, answer)
        return {"task": task, "shots": shots, "score": _score(one.each[row])}

    def _map(self, task: Task, values: NDArray, rows: _Rows) -> Image:
        if isinstance(task.kind, Segmentation):
            for picture in _picture_inputs(self.reader.processor, rows.batch).values():
                return pictures.overlay(picture, values, task.kind.classes)
        return pictures.as_picture(task.kind, values, self.spans[task.name])

    def _legend(self, task: Task) -> Json:
        kind = task.kind
        legend: Json = {"classes": [], "bars": []}
        if isinstance(kind, Segmentation):
            colours = [*pictures.class_colours(len(kind.classes)), pictures.WRONG]
            labels = [*map(str, kind.classes), "error"]
            legend["classes"] = [
                (f"#{bytes(c).hex()}", label) for c, label in zip(colours, labels, strict=True)
            ]
        fault, most = pictures.fault(kind), self.strongest[task.name]
        ends = {
            False: (task.name, self.spans[task.name], getattr(kind, "unit", "")),
            True: (fault.name, Span(-most if fault.signed else 0, most), fault.unit),
        }
        for of_errors, (words, span, unit) in ends.items():
            if (image := pictures.bar(kind, of_errors)) is not None:
                digits = max(decimals(span) - 1, 0)
                low, high = (number(end, digits if end else 0) for end in span)
                high += unit if unit == "°" else f" {unit}"
                shot = self._shot(image, f"colours from {low} to {high}")
                legend["bars"].append({"shot": shot, "words": words, "low": low, "high": high})
        return legend

    def _plain_inputs(self, rows: _Rows) -> list[tuple[str, str]]:
        names = [*self.reader.processor.numeric, *self.reader.processor.categorical]
        cells = rows.table.select(names[:_COLUMNS]).to_pylist()[0]
        return [(name, _cell(value)) for name, value in cells.items()]

    def _signals(self, rows: _Rows) -> list[Json]:
        drawn = []
        processor = self.reader.processor
        for name, array in processor.arrays.items():
            if not _is_signal(array.shape):
                continue
            values = rows.batch.inputs[name][0].numpy() * array.std + array.mean
            channels = np.atleast_2d(values)
            channels = channels.T if len(channels) > channels.shape[1] else channels
            looked = self._attention(rows)
            label = f"input {name} of row {rows.start + 1}"
            wide, narrow = (
                figures.signal(list(channels[:_CHANNELS]), list(looked.values()), label, width)
                for width in (860, 328)
            )
            more = max(0, len(channels) - _CHANNELS)
            drawn.append({"name": name, "wide": wide, "narrow": narrow, "more": more,
                          "tasks": list(looked)})  # fmt: skip
        return drawn

    def _attention(self, rows: _Rows) -> dict[str, NDArray]:
        """Where a learner that can tell looked, per task."""
        if not hasattr(self.reader.learner, "attention"):
            return {}
        inputs = rows.table.select(list(self.reader.processor.input_names))
        look = self.reader.learner.attention
        return {task.name: look(inputs, task=task.name)[0] for task in self.reader.tasks}


def _picture_inputs(processor: Processor, batch: Batch) -> dict[str, NDArray]:
    """The pictures of a batch's first row, and arrays that are one; three channels at most."""
    found = {}
    for name in processor.pictures:
        channels = batch.inputs[name][0].numpy()
        found[name] = channels[: 3 if len(channels) > 2 else 1]
    for name, array in processor.arrays.items():
        if len(array.shape) == 2 and not _is_signal(array.shape):
            values = batch.inputs[name][0].numpy()
            low, high = values.min(), values.max()
            found[name] = ((values - low) / ((high - low) or 1))[None]
    return found


def _is_signal(shape: tuple[int, ...]) -> bool:
    return len(shape) == 1 or (len(shape) == 2 and max(shape) >= _LONG * min(shape))


def _image(picture: NDArray) -> Image:
    from PIL import Image as Images

    return Images.fromarray(pictures.as_rgb(picture))


# -- words and numbers ---------------------------------------------------------------------------


def _answer(task: Task, rows: _Rows) -> Json:
    """What is said of one row by a task that answers with one value, and what is true."""
    kind, decoded = task.kind, rows.decoded[task.name]
    labelled = bool(rows.batch.masks[task.name][0])
    target = rows.batch.targets[task.name][0].item()
    said: Json = {"task": task.name, "true": None, "chance": None, "right": None}
    if isinstance(kind, Classification):
        said["predicted"] = str(kind.answer(decoded)[0])
        said["chance"] = f"{100 * float(decoded[0].max()):.0f} %"
        if labelled:
            said["true"] = str(kind.classes[int(target)])
            said["right"] = said["true"] == said["predicted"]
    else:
        said["predicted"] = _amount(kind, float(kind.answer(decoded)[0]))
        said["true"] = _amount(kind, float(target)) if labelled else None
    return said


def _amount(kind: Kind, value: float) -> str:
    """A number with its unit, and as many decimals as the labels' spread is worth."""
    digits = max(decimals([getattr(kind, "std", None)]) - 1, 0)
    return f"{number(value, digits)} {getattr(kind, 'unit', '')}".rstrip()


def _summary(kind: Kind, values: NDArray) -> str:
    """A map in a few words, for those who do not see it."""
    if isinstance(kind, Segmentation):
        known = values[values != kind.ignore]
        shares = np.bincount(known.ravel().astype(int), minlength=len(kind.classes))
        largest = sorted(zip(shares, kind.classes, strict=True), key=lambda s: -s[0])[:4]
        return ", ".join(f"{c} {100 * n / max(1, known.size):.0f} %" for n, c in largest if n)
    if isinstance(kind, DenseRegression):
        low, high = pictures.span_of([values])
        return f"{_amount(kind, low)} to {_amount(kind, high)}"
    return kind.name


def _score(value: float, digits: int = 3) -> str:
    """A metric with so many digits in all."""
    if not math.isfinite(value):
        return MISSING
    return number(value, max(decimals([value]) + digits - 4, 0))


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return number(value, decimals([value]))
    return MISSING if value is None else str(value)


def _inputs(processor: Processor) -> list[str]:
    """The inputs in words, sort by sort."""
    words = []
    for name, picture in processor.pictures.items():
        words.append(f"{name}: picture, {picture.size[0]} × {picture.size[1]}")
    for name, array in processor.arrays.items():
        sort = "signal" if _is_signal(array.shape) else "array"
        words.append(f"{name}: {sort}, {' × '.join(map(str, array.shape))}")
    for columns, sort in ((processor.numeric, "number"), (processor.categorical, "category")):
        if columns:
            many = sort if len(columns) == 1 else sort.replace("y", "ie") + "s"
            words.append(f"{len(columns)} {many}")
    return words


def _score_row(one: _Seen) -> Json:
    """Every metric of a task, the one it is judged by first."""
    told = [
        {"metric": metric, "value": _score(one.scores.get(metric.name, math.nan), 4)}
        for metric in one.task.kind.metrics
    ]
    return {"task": one.task, "labelled": one.labelled, "metrics": told}


def _plots(one: _Seen) -> list[str]:
    """Predicted against true, and the difference against predicted, for numbers."""
    kind = one.task.kind
    if isinstance(kind, Regression) and one.tally:
        pairs = np.stack(one.tally).astype(np.float64)
    elif isinstance(kind, DenseRegression) and one.pairs:
        pairs = np.concatenate(one.pairs, axis=1).astype(np.float64)
    else:
        return []
    true, predicted = _thinned(pairs, _POINTS)
    unit = f" in {kind.unit}" if kind.unit else ""
    names = [f"{word}{unit}" for word in ("true", "predicted", "predicted − true")]
    return [
        figures.scatter(
            true, predicted, (names[0], names[1]), f"{one.task.name}: predicted against true",
            equal=True,
        ),
        figures.scatter(
            predicted, predicted - true, (names[1], names[2]),
            f"{one.task.name}: difference against predicted", equal=False,
        ),
    ]  # fmt: skip


def _confusion(one: _Seen) -> Json | None:
    """Rows are what is true, columns what was answered, in percent of the row."""
    kind = one.task.kind
    if one.tally is None or not isinstance(kind, Classification | Segmentation):
        return None
    counts = one.tally[0]
    if isinstance(kind, Classification):
        target, chances = one.tally
        counts = confusion(target, chances.argmax(axis=1), len(kind.classes))
    most = np.sort(np.argsort(-counts.sum(1), kind="stable")[:_CLASSES])
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    union = counts.sum(0) + counts.sum(1) - np.diag(counts)
    rows = []
    for i in most:
        cells = [
            {"text": f"{100 * shares[i, j]:.0f}", "count": number(counts[i, j]),
             "kind": "help" if i == j else "hurt", "alpha": round(0.5 * shares[i, j], 3)}
            for j in most
        ]  # fmt: skip
        iou = number(np.diag(counts)[i] / union[i], 2) if union[i] else MISSING
        rows.append({"name": str(kind.classes[i]), "cells": cells, "iou": iou,
                     "number": count(counts[i].sum())})  # fmt: skip
    return {
        "rows": rows,
        "pixels": isinstance(kind, Segmentation),
        "left_out": len(counts) - len(most),
    }


def _flat(settings: Json, prefix: str = "") -> dict[str, Any]:
    """Nested settings as the command line takes them: ``training.lr``."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
