"""Kinds of text tasks beside classification and regression.

Labels may be lists (a section number per sentence, a relevance per candidate) or text. What a kind
answers per row then varies in length: decoded predictions are object arrays, one entry a row, and
drawn targets are padded with ``blank``.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from polytask.errors import InputError
from polytask.tasks import metrics as m
from polytask.tasks import text_metrics as tm
from polytask.tasks.kinds import Kind, masked_mean

Cell = Any
Texts = Sequence[Any]  # the row's entry of each text column that the task reads


def objects(rows: Sequence[Any]) -> NDArray[np.object_]:
    """One entry a row, also where all have one length."""
    found = np.empty(len(rows), dtype=object)
    found[:] = list(rows)
    return found


class TextKind(Kind):
    """What kinds of text tasks share.

    Attributes:
        blank: pads drawn targets of rows that vary in length.
    """

    text: ClassVar[bool] = True
    blank: ClassVar[float] = -1

    def check(self, cell: Cell, texts: Texts) -> None:
        """Refuse one label that does not fit the texts of its row, in a sentence."""

    def fitted(self, labels: pa.ChunkedArray) -> Self:
        return self

    def answer(self, decoded: NDArray) -> NDArray:
        return decoded


@dataclass(frozen=True)
class Similarity(TextKind):
    """How alike two texts are, from ``low`` to ``high``.

    Head ``[B, 1]`` on the scale where low is 0 and high is 1; loss: squared error there. Metrics:
    Spearman's and Pearson's correlation. Without bounds, those of the training labels.
    """

    low: float | None = None
    high: float | None = None

    name: ClassVar[str] = "similarity"
    metrics: ClassVar[tuple[m.Metric, ...]] = (tm.SPEARMAN, tm.PEARSON)

    @property
    def outputs(self) -> int:
        return 1

    def check(self, cell: Cell, texts: Texts) -> None:
        for bound, beyond in ((self.low, "below"), (self.high, "above")):
            if bound is not None and (cell < bound if beyond == "below" else cell > bound):
                raise InputError(f"score {cell:g} is {beyond} {bound:g}")

    def fitted(self, labels: pa.ChunkedArray) -> Self:
        low = pc.min(labels).as_py() if self.low is None else self.low
        high = pc.max(labels).as_py() if self.high is None else self.high
        return replace(self, low=float(low), high=float(high))

    def encode(self, labels: pa.ChunkedArray) -> tuple[NDArray, NDArray]:
        low, _ = self._bounds
        values = pc.cast(labels, pa.float64(), safe=False).to_numpy()
        mask = ~np.isnan(values)
        return np.where(mask, values, low).astype(np.float32), mask

    @property
    def _bounds(self) -> tuple[float, float]:
        if self.low is None or self.high is None:
            raise InputError("a similarity without bounds must be fitted first")
        return self.low, self.high

    def scaled(self, score: Tensor) -> Tensor:
        """Scores on the scale from 0 to 1."""
        low, high = self._bounds
        return (score - low) / ((high - low) or 1.0)

    def loss(self, output: Tensor, target: Tensor, mask: Tensor) -> Tensor:
        return masked_mean((output.squeeze(-1) - self.scaled(target)).square(), mask)

    def decode(self, output: Tensor) -> NDArray:
        low, high = self._bounds
        return low + output.detach().double().squeeze(-1).cpu().numpy() * (high - low)


@dataclass(frozen=True)
class Span(TextKind):
    """A stretch of the task's last text that answers it.

    A label is the answer's text (its first place in the text counts), or ``{"start", "end"}`` in
    characters. Target and decoded prediction ``[N, 2]``: the first token and one past the last, in
    the tokens of the text without special ones; head ``[B, L, 2]``: scores of each token to be the
    first and the last, minus infinity past the text's end. Loss: cross-entropy of both. Metrics:
    F1 of the tokens, both ends right.
    """

    tokens: int = 30  # the longest answer

    name: ClassVar[str] = "span"
    metrics: ClassVar[tuple[m.Metric, ...]] = (tm.SPAN_F1, tm.SPAN_MATCH)

    @property
    def outputs(self) -> int:
        return 2

    def place(self, cell: Cell, text: str) -> tuple[int, int]:
        """First character of the answer and one past its last."""
        if isinstance(cell, str):
            start = text.find(cell) if cell else -1
            if start < 0:
                raise InputError(f"the answer {_short(cell)!r} does not occur in its text")
            return start, start + len(cell)
        start, end = int(cell["start"]), int(cell["end"])
        if not 0 <= start < end <= len(text):
            raise InputError(
                f"the span {start} to {end} does not lie in its text of {len(text)} characters"
            )
        if cell.get("text") and text[start:end] != cell["text"]:
            raise InputError(
                f"the span {start} to {end} is {_short(text[start:end])!r}, not "
                f"{_short(cell['text'])!r}"
            )
        return start, end

    def check(self, cell: Cell, texts: Texts) -> None:
        self.place(cell, texts[-1])

    def loss(self, output: Tensor, target: Tensor, mask: Tensor) -> Tensor:
        known = mask & (target[:, 0] >= 0)  # -1: the answer was cut off with the text's end
        first = target[:, 0].clamp(min=0, max=output.shape[1] - 1)
        last = (target[:, 1] - 1).clamp(min=0, max=output.shape[1] - 1)
        rows = F.cross_entropy(output[..., 0], first, reduction="none")
        rows = rows + F.cross_entropy(output[..., 1], last, reduction="none")
        return masked_mean(torch.where(known, rows, torch.zeros_like(rows)) / 2, known)

    def decode(self, output: Tensor) -> NDArray:
        """The best span of at most ``tokens`` tokens."""
        first, last = output.detach().float().unbind(-1)
        both = first.unsqueeze(2) + last.unsqueeze(1)
        lawful = torch.ones_like(both, dtype=torch.bool).triu().tril(self.tokens - 1)
        flat = both.masked_fill(~lawful, -math.inf).flatten(1).argmax(1).cpu().numpy()
        length = output.shape[1]
        return np.stack([flat // length, flat % length + 1], axis=1)


@dataclass(frozen=True)
class Generation(TextKind):
    """An answer in words of at most ``tokens`` tokens; a label may be a list of references.

    Drawn target: token ids ``[B, La]`` of the first reference, padded with -1. What the network
    puts out is its own affair; decoded predictions are strings, and they are judged against the
    references as they were written, first by ``metric``.
    """

    metric: Literal["nf1", "em", "rouge", "bleu"] = "nf1"
    tokens: int = 50

    name: ClassVar[str] = "generation"

    def __post_init__(self) -> None:
        if self.metric not in _WORDS:
            raise InputError(f"metric {self.metric!r} is none of {', '.join(_WORDS)}")

    @property
    def metrics(self) -> tuple[m.Metric, ...]:  # type: ignore[override]
        return (_WORDS[self.metric], *(w for n, w in _WORDS.items() if n != self.metric))

    @property
    def outputs(self) -> int:
        raise InputError("an answer in words is not read off a head of fixed width")

    def check(self, cell: Cell, texts: Texts) -> None:
        if not (cell.strip() if isinstance(cell, str) else cell):
            raise InputError("the answer is empty")

    def decode(self, output: Any) -> NDArray:
        return objects(output)

    def quality(self, scores: dict[str, float]) -> float:
        return scores[self.metric] / (100 if self.metric == "bleu" else 1)


_WORDS = {"nf1": tm.NF1, "em": tm.EXACT_MATCH, "rouge": tm.ROUGE, "bleu": tm.BLEU}


class _ListKind(TextKind):
    """A label is a list with an entry for each of several texts."""

    several: ClassVar[bool] = True

    def entries(self, cell: Cell) -> NDArray:
        """One label as numbers, ``blank`` where an entry has none."""
        raise NotImplementedError

    def check(self, cell: Cell, texts: Texts) -> None:
        if len(cell) != len(texts[-1]):
            raise InputError(f"{len(cell)} labels for {len(texts[-1])} texts")

    def encode(self, labels: pa.ChunkedArray) -> tuple[NDArray, NDArray]:
        """Targets as one array a row, empty where there is no label; mask ``[N]``."""
        cells = labels.to_pylist()
        rows = [self.entries([] if cell is None else cell) for cell in cells]
        return objects(rows), np.array([cell is not None for cell in cells])

    def loss(self, output: Tensor, target: Tensor, mask: Tensor) -> Tensor:
        # A batch of several tasks is as wide as its longest row, which may be another task's.
        wider = output.shape[1] - target.shape[1]
        return self.list_loss(output, F.pad(target, (0, wider), value=self.blank), mask)

    def list_loss(self, output: Tensor, target: Tensor, mask: Tensor) -> Tensor:
        """The loss of outputs and targets of the same width."""
        raise NotImplementedError


@dataclass(frozen=True)
class Boundaries(_ListKind):
    """Where the sections of a document end.

    A label is the section number of every sentence. Drawn target ``[B, S]``: 1 where a section ends
    after the sentence, 0 where it goes on, -1 past the end and at the document's last sentence,
    whose end is neither predicted nor counted. Head ``[B, S]``: logits, anything past the end.
    Loss: cross-entropy, the mean over gaps. Decoded: chances of each gap of the document. Metrics
    at 0.5: P_k and WindowDiff per document, F1 of the boundaries.
    """

    name: ClassVar[str] = "boundaries"
    metrics: ClassVar[tuple[m.Metric, ...]] = (tm.PK, tm.WINDOWDIFF, tm.BOUNDARY_F1)

    @property
    def outputs(self) -> int:
        return 1

    def check(self, cell: Cell, texts: Texts) -> None:
        super().check(cell, texts)
        if any(section is None for section in cell):
            raise InputError("a sentence has no section")

    def entries(self, cell: Cell) -> NDArray:
        ends = [int(a != b) for a, b in itertools.pairwise(cell)]
        return np.array([*ends, -1] if len(cell) else [], np.int64)

    def list_loss(self, output: Tensor, target: Tensor, mask: Tensor) -> Tensor:
        known = (target >= 0) & mask.unsqueeze(1)
        logits = torch.where(known, output, torch.zeros_like(output))
        gaps = F.binary_cross_entropy_with_logits(
            logits, target.clamp(min=0).to(logits.dtype), reduction="none"
        )
        return masked_mean(gaps, known)

    def decode(self, output: Tensor) -> NDArray:
        """Chances ``[S]`` a row; a network marks what lies past the end by NaN."""
        chances = torch.sigmoid(output.detach().double()).cpu().numpy()
        return objects([row[~np.isnan(row)] for row in chances])

    def answer(self, decoded: NDArray) -> NDArray:
        """The section number of every sentence."""
        ends = [np.concatenate([[0], row[:-1] > 0.5]) for row in decoded]
        return objects([end.astype(int).cumsum() for end in ends])

    def tally(self, target: NDArray, decoded: NDArray) -> tuple[NDArray, ...]:
        """Gaps: the last sentence's end is none."""
        wanted = [row[:-1] == 1 for row in target]
        given = [row[: len(gaps)] > 0.5 for row, gaps in zip(decoded, wanted, strict=True)]
        return objects(wanted), objects(given)


@dataclass(frozen=True)
class Tagging(_ListKind):
    """One of ``classes`` for each of several texts; null: no label.

    Drawn target ``[B, S]``: positions in ``classes``, -1 for none; head ``[B, S, C]``. Loss:
    cross-entropy, the mean over labelled texts. Decoded: chances ``[S, C]`` a row. Metrics over all
    labelled texts: accuracy, macro F1.
    """

    classes: tuple[Any, ...] = ()

    name: ClassVar[str] = "tags"
    metrics: ClassVar[tuple[m.Metric, ...]] = (m.ACCURACY, m.F1)

    @property
    def outputs(self) -> int:
        return len(self.classes)

    def fitted(self, labels: pa.ChunkedArray) -> Self:
        seen = pc.unique(pc.list_flatten(labels).drop_null()).to_pylist()
        if not seen:
            raise InputError("no text has a class")
        return replace(self, classes=self.classes or tuple(sorted(seen)))

    def entries(self, cell: Cell) -> NDArray:
        places = {name: i for i, name in enumerate(self.classes)}
        for name in cell:
            if name is not None and name not in places:
                raise InputError(f"class {name!r} does not occur in the training labels")
        return np.array([places.get(name, -1) for name in cell], np.int64)

    def list_loss(self, output: Tensor, target: Tensor, mask: Tensor) -> Tensor:
        known = (target >= 0) & mask.unsqueeze(1)
        logits = torch.where(known.unsqueeze(-1), output, torch.zeros_like(output))
        rows = F.cross_entropy(logits.transpose(1, 2), target.clamp(min=0), reduction="none")
        return masked_mean(rows, known)

    def decode(self, output: Tensor) -> NDArray:
        """Chances ``[S, C]`` a row; a network marks what lies past the end by NaN."""
        chances = torch.softmax(output.detach().double(), dim=-1).cpu().numpy()
        return objects([row[~np.isnan(row[:, 0])] for row in chances])

    def answer(self, decoded: NDArray) -> NDArray:
        """The most likely class of every text."""
        return objects([[self.classes[i] for i in row.argmax(1)] for row in decoded])

    def tally(self, target: NDArray, decoded: NDArray) -> tuple[NDArray, ...]:
        """All labelled texts, one under the other."""
        rows = list(zip(target, decoded, strict=True))
        given = [chances[: len(wanted)][wanted >= 0] for wanted, chances in rows]
        return np.concatenate([w[w >= 0] for w in target]), np.concatenate(given)


@dataclass(frozen=True)
class Retrieval(_ListKind):
    """Which of several candidates answer a query: whole relevances, 0 for none.

    Drawn target ``[B, K]``, NaN past the end; head: scores ``[B, K]``, anything past the end. Loss:
    list-wise cross-entropy ``-sum_k p_k log softmax(scores)_k`` with p the relevances brought to a
    sum of 1; queries without a relevant candidate are left out. Decoded: scores ``[K]`` a row.
    Metrics over the candidate lists: nDCG@10, reciprocal rank at 10, average precision, recall at
    10.
    """

    blank: ClassVar[float] = math.nan
    name: ClassVar[str] = "retrieval"
    metrics: ClassVar[tuple[m.Metric, ...]] = (tm.NDCG, tm.MRR, tm.MAP, tm.RECALL)

    @property
    def outputs(self) -> int:
        return 1

    def check(self, cell: Cell, texts: Texts) -> None:
        super().check(cell, texts)
        for relevance in cell:
            if relevance is None or relevance < 0 or relevance != int(relevance):
                raise InputError(f"relevance {relevance!r} is not a whole number of 0 or more")

    def entries(self, cell: Cell) -> NDArray:
        return np.array(cell, np.float32)

    def list_loss(self, output: Tensor, target: Tensor, mask: Tensor) -> Tensor:
        known = ~torch.isnan(target)
        relevance = torch.where(known, target, torch.zeros_like(target))
        total = relevance.sum(1)
        logits = torch.where(known, output, torch.full_like(output, -1e9))
        rows = -(relevance * F.log_softmax(logits, dim=1)).sum(1) / total.clamp(min=1e-9)
        return masked_mean(rows, mask & (total > 0))

    def decode(self, output: Tensor) -> NDArray:
        """Scores ``[K]`` a row; a network marks what lies past the end by NaN."""
        scores = output.detach().double().cpu().numpy()
        return objects([row[~np.isnan(row)] for row in scores])


def _short(text: str) -> str:
    return text if len(text) <= 40 else text[:37] + "..."
