"""Kinds: the sort of answer a task wants, with its loss, its metrics and its decoding.

A kind is a small frozen value. ``fitted`` returns a copy that has learned what it must from the
training labels alone (classes, scale); everything else needs a fitted kind. Kinds know nothing of
models or data sets, and go to and from JSON, because they travel with the weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from polytask.errors import InputError
from polytask.tasks import metrics as m


class Kind:
    """What every kind offers; the first metric is the primary one.

    Attributes:
        dense: the answer is a map over the picture (see ``tasks.dense``), not a value per row.
        text: labels are of text (see ``tasks.text``): lists, words, scores of pairs.
        several: the task reads a column with several texts per row.
    """

    name: ClassVar[str]
    metrics: ClassVar[tuple[m.Metric, ...]]
    dense: ClassVar[bool] = False
    text: ClassVar[bool] = False
    several: ClassVar[bool] = False

    @property
    def outputs(self) -> int:
        """Width of the head that answers this kind."""
        raise NotImplementedError

    def fitted(self, labels: pa.ChunkedArray) -> Self:
        """A copy that has learned classes or scale from training labels (nulls are ignored)."""
        raise NotImplementedError

    def encode(self, labels: pa.ChunkedArray) -> tuple[NDArray, NDArray]:
        """Labels to (targets ``[N]``, mask ``[N]`` that is True where a label exists)."""
        raise NotImplementedError

    def loss(self, output: Tensor, target: Tensor, mask: Tensor) -> Tensor:
        """Mean loss over the labelled rows: output ``[B, outputs]``, target and mask ``[B]``."""
        raise NotImplementedError

    def decode(self, output: Tensor) -> NDArray:
        """Model output to what metrics and users read."""
        raise NotImplementedError

    def answer(self, decoded: NDArray) -> NDArray:
        """Decoded prediction to the single value a table of predictions shows."""
        raise NotImplementedError

    def to_dict(self) -> dict[str, Any]:
        return {"kind": self.name, **asdict(self)}  # type: ignore[call-overload]

    @property
    def primary(self) -> m.Metric:
        return self.metrics[0]

    def tally(self, target: NDArray, decoded: NDArray) -> tuple[NDArray, ...]:
        """What the metrics need of some rows, so that no more than this is kept of many."""
        return target, decoded

    def judge(self, tallies: Sequence[tuple[NDArray, ...]]) -> dict[str, float]:
        """Every metric over the rows of all tallies."""
        told = [self.join(parts) for parts in zip(*tallies, strict=True)]
        return {metric.name: metric.compute(*told) for metric in self.metrics}

    @staticmethod
    def join(parts: Sequence[NDArray]) -> NDArray:
        """One entry of several tallies as one: rows follow each other."""
        return np.concatenate(parts)

    def scores(self, target: NDArray, decoded: NDArray) -> dict[str, float]:
        return self.judge([self.tally(target, decoded)])

    def quality(self, scores: dict[str, float]) -> float:
        """What the choice of an epoch goes by, higher is better, of the size of 1 for all kinds."""
        return self.primary.sign * scores[self.primary.name]


def masked_mean(per_row: Tensor, mask: Tensor) -> Tensor:
    """Mean of the values that are not masked; 0 if there are none."""
    # Indexing would make shapes depend on data; a weighted sum keeps torch.compile and DDP happy.
    weight = mask.to(per_row.dtype)
    return (per_row * weight).sum() / weight.sum().clamp(min=1.0)


@dataclass(frozen=True)
class Regression(Kind):
    """A number, learned on the standardised scale and answered in its ``unit``.

    Loss: squared error of ``(y - mean) / std`` with mean and std of the training labels, so that
    the sum over tasks is balanced. Metrics: explained variance, RMSE and MAE in the unit.
    """

    unit: str = ""
    mean: float = 0.0
    std: float = 1.0

    name: ClassVar[str] = "regression"
    metrics: ClassVar[tuple[m.Metric, ...]] = (m.EXPLAINED_VARIANCE, m.RMSE, m.MAE)

    @property
    def outputs(self) -> int:
        return 1

    def fitted(self, labels: pa.ChunkedArray) -> Self:
        values = pc.cast(labels, pa.float64(), safe=False)
        std = pc.stddev(values).as_py()
        return replace(self, mean=pc.mean(values).as_py(), std=std if std else 1.0)

    def encode(self, labels: pa.ChunkedArray) -> tuple[NDArray, NDArray]:
        values = pc.cast(labels, pa.float64(), safe=False).to_numpy()
        mask = ~np.isnan(values)
        return np.where(mask, values, self.mean).astype(np.float32), mask

    def loss(self, output: Tensor, target: Tensor, mask: Tensor) -> Tensor:
        scaled = (target - self.mean) / self.std
        return masked_mean((output.squeeze(-1) - scaled).square(), mask)

    def decode(self, output: Tensor) -> NDArray:
        return output.detach().double().squeeze(-1).cpu().numpy() * self.std + self.mean

    def answer(self, decoded: NDArray) -> NDArray:
        return decoded


@dataclass(frozen=True)
class Classification(Kind):
    """One of ``classes``: one logit and binary cross-entropy for two, softmax for more.

    Metrics: AUROC (macro one-vs-rest for more than two classes), accuracy, log loss, macro F1,
    Cohen's kappa.
    """

    classes: tuple[Any, ...] = ()

    name: ClassVar[str] = "classification"
    metrics: ClassVar[tuple[m.Metric, ...]] = (m.AUROC, m.ACCURACY, m.LOG_LOSS, m.F1, m.KAPPA)

    @property
    def outputs(self) -> int:
        return 1 if len(self.classes) == 2 else len(self.classes)

    def fitted(self, labels: pa.ChunkedArray) -> Self:
        seen = pc.unique(labels.drop_null()).to_pylist()
        return replace(self, classes=tuple(sorted(seen)))

    def encode(self, labels: pa.ChunkedArray) -> tuple[NDArray, NDArray]:
        try:
            known = pa.array(self.classes, type=labels.type)
        except pa.ArrowException:
            shown = ", ".join(map(repr, self.classes[:5]))
            raise InputError(
                f"labels of type {labels.type} cannot be the classes {shown}"
            ) from None
        codes = pc.index_in(labels, value_set=known, skip_nulls=True)
        unseen = pc.and_(pc.is_valid(labels), pc.is_null(codes))
        if pc.any(unseen).as_py():
            value = labels[pc.index(unseen, True).as_py()].as_py()
            raise InputError(f"class {value!r} does not occur in the training labels")
        targets = pc.fill_null(codes, -1).to_numpy().astype(np.int64)
        return targets.clip(min=0), targets >= 0

    def loss(self, output: Tensor, target: Tensor, mask: Tensor) -> Tensor:
        if self.outputs == 1:
            rows = F.binary_cross_entropy_with_logits(
                output.squeeze(-1), target.to(output.dtype), reduction="none"
            )
        else:
            rows = F.cross_entropy(output, target, reduction="none")
        return masked_mean(rows, mask)

    def decode(self, output: Tensor) -> NDArray:
        output = output.detach().double()
        if self.outputs == 1:
            positive = torch.sigmoid(output)
            return torch.cat([1 - positive, positive], dim=-1).cpu().numpy()
        return torch.softmax(output, dim=-1).cpu().numpy()

    def answer(self, decoded: NDArray) -> NDArray:
        return np.asarray(self.classes, dtype=object)[decoded.argmax(axis=1)]
