"""Linear answers on sentence vectors that somebody else made: one small model per task.

    one text        x = u
    two texts       x = [u, v, u * v, |u - v|, cos(u, v)]
    a gap between sentences i and i + 1 of a document       the same of its two sentences
    a sentence of a document, to be tagged                  x = u_i
    a query and its candidates                              nothing is learned: cos(q, c_k)

Numbers and similarities are ridge regressions, classes are logistic regressions, on standardised
columns; their penalty is the best of several on validation rows, and for a similarity also the
cosine alone, brought to scale, may be.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from polytask.data import Batch
from polytask.errors import InputError
from polytask.parts.frozen import FrozenHead, fit_head
from polytask.tasks import Classification, Kind, Regression, Task
from polytask.tasks.text import Boundaries, Retrieval, Similarity, Tagging, objects

Embed = Callable[[list[str]], NDArray]
"""Texts to vectors ``[n, d]``."""

Columns = Mapping[str, NDArray[np.object_]]
"""Text column -> a text per row, or a list of texts; None where there is none."""

RIDGES = (0.1, 1.0, 10.0, 100.0, 1000.0, 10_000.0)
_SHARES = (0.5, 0.75, 1.0, 1.25, 1.5, 2.0)  # predicted boundaries per boundary of training


class Vectors:
    """Vectors of texts, each distinct one made once.

    Args:
        embed: makes them.
        dimension: of a vector; that of a missing text is 0.
    """

    def __init__(self, embed: Embed, dimension: int) -> None:
        self._embed, self._known = embed, {"": np.zeros(dimension, np.float32)}

    def add(self, columns: Iterable[NDArray[np.object_]]) -> None:
        """Embed what is new in some columns, all at once."""
        texts = dict.fromkeys(t for column in columns for cell in column for t in _texts(cell))
        new = [text for text in texts if text not in self._known]
        if new:
            self._known |= zip(new, np.asarray(self._embed(new), np.float32), strict=True)

    def __call__(self, texts: Sequence[str | None]) -> NDArray[np.float32]:
        """Vectors ``[n, d]``."""
        return np.stack([self._known[text or ""] for text in texts])

    def rows(self, column: NDArray[np.object_]) -> NDArray[np.float32]:
        """One vector a row ``[n, d]``: of its text, or the mean of its texts."""
        return np.stack([self(_texts(cell) or [""]).mean(0) for cell in column])


def _texts(cell: Any) -> list[str]:
    if cell is None or isinstance(cell, str):
        return [cell] if cell else []
    return [text for text in cell if text]


def probe_features(u: NDArray, v: NDArray) -> NDArray:
    """``[n, d]`` twice -> ``[n, 4 d + 1]``."""
    return np.concatenate([u, v, u * v, np.abs(u - v), cosine(u, v)[:, None]], axis=1)


def cosine(u: NDArray, v: NDArray) -> NDArray:
    """Of vectors ``[..., d]``; 0 where one of them is 0."""
    sizes = np.linalg.norm(u, axis=-1) * np.linalg.norm(v, axis=-1)
    return (u * v).sum(-1) / np.maximum(sizes, 1e-12)


def check(tasks: Iterable[Task], who: str) -> None:
    """Refuse tasks that no linear model of sentence vectors answers."""
    for task in tasks:
        if not isinstance(task.kind, Classification | Regression | _LEARNED | Retrieval):
            raise InputError(
                f"{who} answers from one vector per text: no {task.kind.name} such as task "
                f"{task.name!r}"
            )


_LEARNED = Similarity | Boundaries | Tagging


@dataclass(frozen=True)
class Probe:
    """One task's fitted answer; ``head`` is None where nothing is learned (retrieval)."""

    task: Task
    head: FrozenHead | None

    @classmethod
    def fit(
        cls,
        task: Task,
        train: tuple[Columns, NDArray],
        validation: tuple[Columns, NDArray],
        vectors: Vectors,
        ridges: Sequence[float] = RIDGES,
    ) -> Probe:
        """Fit on labelled rows; ``train`` and ``validation`` are columns and targets of them."""
        if isinstance(task.kind, Retrieval):
            return cls(task, None)
        x, _ = _features(task, train[0], vectors)
        y = _flat(task, train[1])
        known = y >= 0 if isinstance(task.kind, Boundaries | Tagging) else np.ones(len(y), bool)
        kind = _head_kind(task)
        mean, std = x[known].mean(0), x[known].std(0)
        std[std == 0] = 1.0
        scaled, unit = (x[known] - mean) / std, Task(task.name, kind)
        x_validation, counts = _features(task, validation[0], vectors)
        best, highest = None, -np.inf
        heads = [fit_head(unit, scaled, y[known], ridge) for ridge in ridges]
        if isinstance(task.kind, Similarity) and len(task.texts) == 2:
            heads.append(_last_alone(unit, scaled, y[known]))
        for fitted in heads:
            weight = np.asarray(fitted.weight, np.float64) / std[:, None]  # as it will be saved
            head = fitted._replace(weight=weight, bias=fitted.bias - mean @ weight)
            for candidate in _shifted(task, head, x, y):
                decoded = cls(task, candidate)._decoded(x_validation, counts)
                quality = task.kind.quality(task.kind.scores(validation[1], decoded))
                if best is None or quality > highest:
                    best, highest = candidate, quality
        return cls(task, best)

    def predict(self, columns: Columns, vectors: Vectors) -> NDArray:
        """Decoded predictions of all rows."""
        if self.head is None:
            query, candidates = (columns[name] for name in self.task.texts)
            pairs = zip(vectors.rows(query), candidates, strict=True)
            scores = [(cosine(q, vectors(texts or [""])), len(texts or ())) for q, texts in pairs]
            return objects([row[:size] for row, size in scores])
        return self._decoded(*_features(self.task, columns, vectors))

    def _decoded(self, x: NDArray, counts: NDArray) -> NDArray:
        assert self.head is not None
        values = self.head.values(Task("", _head_kind(self.task)), x)
        kind = self.task.kind
        if isinstance(kind, Boundaries):
            # The last sentence's end is no gap, but the answer has a place for it.
            return objects([row[:, 1] for row in np.split(values, np.cumsum(counts)[:-1])])
        if isinstance(kind, Tagging):
            return objects(np.split(values, np.cumsum(counts)[:-1]))
        return values

    @property
    def parameters(self) -> int:
        """Numbers that were learned."""
        return 0 if self.head is None else self.head.weight.size + self.head.bias.size


def labelled(task: Task, data: Batch) -> tuple[Columns, NDArray]:
    """The text columns that a task reads and its targets, of the rows with its label."""
    rows = data.masks[task.name].nonzero().squeeze(1)
    columns = {name: data.inputs[name].numpy()[rows.numpy()] for name in task.texts}
    return columns, data.targets[task.name].numpy()[rows.numpy()]


def fit_probes(
    tasks: Iterable[Task],
    train: Batch,
    validation: Batch,
    vectors: Vectors,
    ridges: Sequence[float] = RIDGES,
) -> dict[str, Probe]:
    """Every task's answer, fitted on training rows, chosen on validation rows."""
    told = {task: (labelled(task, train), labelled(task, validation)) for task in tasks}
    learned = {t: rows for t, rows in told.items() if not isinstance(t.kind, Retrieval)}
    vectors.add(c for both in learned.values() for columns, _ in both for c in columns.values())
    return {t.name: Probe.fit(t, *both, vectors, ridges) for t, both in told.items()}


def predicted(
    probes: Mapping[str, Probe], batch: Batch, tasks: Iterable[str], vectors: Vectors
) -> dict[str, NDArray]:
    """Decoded predictions of some tasks for every row of a batch."""
    wanted = {name: probes[name] for name in tasks}
    columns = {n: batch.inputs[n].numpy() for p in wanted.values() for n in p.task.texts}
    vectors.add(columns.values())
    return {name: probe.predict(columns, vectors) for name, probe in wanted.items()}


def to_tensors(probes: Mapping[str, Probe]) -> dict[str, Tensor]:
    """What was learned, for ``write_folder``; tasks by their place."""
    return {
        f"{i}/{key}": torch.from_numpy(np.array(value, np.float64))
        for i, probe in enumerate(probes.values())
        if probe.head is not None
        for key, value in probe.head._asdict().items()
    }


def from_tensors(tasks: Iterable[Task], tensors: Mapping[str, Tensor]) -> dict[str, Probe]:
    """The inverse of ``to_tensors``."""
    probes = {}
    for i, task in enumerate(tasks):
        own = {k: tensors[f"{i}/{k}"].numpy() for k in FrozenHead._fields if f"{i}/{k}" in tensors}
        if own:
            mean, scale = float(own["mean"]), float(own["scale"])
            head = FrozenHead(own["weight"], own["bias"], mean, scale)
        probes[task.name] = Probe(task, head if own else None)
    return probes


def _features(task: Task, columns: Columns, vectors: Vectors) -> tuple[NDArray, NDArray]:
    """What a task's linear model reads ``[m, k]``, and how many of these rows a row has."""
    cells = [columns[name] for name in task.texts]
    if isinstance(task.kind, Boundaries | Tagging):
        documents = [vectors(row or [""])[: len(row or ())] for row in cells[-1]]
        counts = np.array([len(d) for d in documents])
        if isinstance(task.kind, Boundaries):
            documents = [probe_features(d, np.roll(d, -1, axis=0)) for d in documents]
        return np.concatenate(documents), counts
    u = [vectors.rows(column) for column in cells]
    x = probe_features(u[0], u[1]) if len(u) == 2 else np.concatenate(u, axis=1)
    return x, np.ones(len(x), int)


def _flat(task: Task, target: NDArray) -> NDArray:
    return np.concatenate(target) if isinstance(task.kind, Boundaries | Tagging) else target


def _head_kind(task: Task) -> Kind:
    if isinstance(task.kind, Boundaries):
        return Classification((0, 1))
    return Classification(task.kind.classes) if isinstance(task.kind, Tagging) else task.kind


def _last_alone(task: Task, x: NDArray, y: NDArray) -> FrozenHead:
    """A head that reads the last column, the cosine, and nothing else."""
    head = fit_head(task, x[:, -1:], y, 0.0)
    weight = np.zeros((x.shape[1], 1))
    weight[-1] = head.weight[0]
    return head._replace(weight=weight)


def _shifted(task: Task, head: FrozenHead, x: NDArray, y: NDArray) -> list[FrozenHead]:
    """The head as it is; of boundaries also with constants that predict other numbers of them.

    Ends of sections are rare, so that few chances pass 0.5, where boundaries are judged.
    """
    if not isinstance(task.kind, Boundaries):
        return [head]
    logits = np.sort((x @ head.weight + head.bias)[y >= 0, 0])
    wanted = np.clip((np.array(_SHARES) * (y == 1).sum()).astype(int), 1, len(logits))
    return [head, *(head._replace(bias=head.bias - logits[-n]) for n in wanted)]
