"""Metrics: a number, its direction, and how it is computed from targets and decoded predictions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Metric:
    """One judgement of a task.

    ``compute(target, prediction)`` takes encoded targets ``[N]`` and what the kind's ``decode``
    returns (regression: values ``[N]`` in the target's unit; classification: probabilities
    ``[N, C]``) and returns a float.
    """

    name: str
    higher_is_better: bool
    compute: Callable[[NDArray, NDArray], float]

    @property
    def sign(self) -> int:
        return 1 if self.higher_is_better else -1


def explained_variance(target: NDArray, prediction: NDArray) -> float:
    """``1 - Var(y - p) / Var(y)``; 1 is perfect, 0 is a constant, unbounded below."""
    target = target.astype(np.float64)
    return float(1.0 - np.var(target - prediction) / np.var(target))


def rmse(target: NDArray, prediction: NDArray) -> float:
    """Root of the mean squared error, in the target's unit."""
    return float(np.sqrt(np.mean((target.astype(np.float64) - prediction) ** 2)))


def mae(target: NDArray, prediction: NDArray) -> float:
    """Mean absolute error, in the target's unit."""
    return float(np.mean(np.abs(target.astype(np.float64) - prediction)))


def auroc(target: NDArray, probability: NDArray) -> float:
    """Area under the ROC curve; more than two classes: macro average of one-vs-rest.

    Mann-Whitney: ``(sum of the positives' ranks - P (P + 1) / 2) / (P N)``, tied rows at their mean
    rank. Classes without a positive or a negative row in ``target`` have no curve and are left out.
    """
    # scikit-learn's checks of its input cost more than most small fits.
    from scipy.stats import rankdata

    classes = [1] if probability.shape[1] == 2 else range(probability.shape[1])
    areas = []
    for c in classes:
        mine = target == c
        positives, negatives = int(mine.sum()), int((~mine).sum())
        if positives and negatives:
            above = rankdata(probability[:, c])[mine].sum() - positives * (positives + 1) / 2
            areas.append(above / (positives * negatives))
    return float(np.mean(areas)) if areas else float("nan")


def accuracy(target: NDArray, probability: NDArray) -> float:
    """Share of rows whose most probable class is the right one."""
    return float(np.mean(probability.argmax(axis=1) == target))


def log_loss(target: NDArray, probability: NDArray) -> float:
    """Mean negative log-likelihood in nats; probabilities are clipped at 1e-7."""
    picked = probability[np.arange(len(target)), target.astype(np.int64)]
    return float(-np.mean(np.log(np.clip(picked, 1e-7, 1.0))))


EXPLAINED_VARIANCE = Metric("ev", True, explained_variance)
RMSE = Metric("rmse", False, rmse)
MAE = Metric("mae", False, mae)
AUROC = Metric("auroc", True, auroc)
ACCURACY = Metric("accuracy", True, accuracy)
LOG_LOSS = Metric("log_loss", False, log_loss)
