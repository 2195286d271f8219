"""What gradient boosting of several tasks stands on: losses, rows by task, scaled targets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax, softmax

from polytask.errors import InputError, nearest

Floats = NDArray[np.float64]


class Loss(Protocol):
    """What boosting asks of a loss; targets and answers are ``[n, outputs]``."""

    def value(self, y: Floats, answers: Floats) -> float:
        """Mean over rows."""
        ...

    def gradient(self, y: Floats, answers: Floats) -> Floats:
        """Negative gradient of every row's loss."""
        ...

    def hessian(self, y: Floats, answers: Floats) -> Floats:
        """Diagonal of every row's Hessian."""
        ...


class Squared:
    """``½ Σ_k (y_k − F_k)²``."""

    def value(self, y: Floats, answers: Floats) -> float:
        return float(0.5 * np.square(y - answers).sum(1).mean())

    def gradient(self, y: Floats, answers: Floats) -> Floats:
        return y - answers

    def hessian(self, y: Floats, answers: Floats) -> Floats:
        return np.ones_like(answers)


class CrossEntropy:
    """``−Σ_k y_k log softmax(F)_k`` with y one-hot; two columns for two classes."""

    def value(self, y: Floats, answers: Floats) -> float:
        return float(-(y * log_softmax(answers, axis=1)).sum(1).mean())

    def gradient(self, y: Floats, answers: Floats) -> Floats:
        return y - softmax(answers, axis=1)

    def hessian(self, y: Floats, answers: Floats) -> Floats:
        p = softmax(answers, axis=1)
        return p * (1 - p)


@dataclass(frozen=True)
class Rows:
    """Rows that lie task by task.

    Attributes:
        X: ``[n, columns]``, NaN where a value is missing.
        y: ``[n, outputs]``.
        tasks: ``[n]``, ascending from 0.
    """

    X: Floats
    y: Floats
    tasks: NDArray[np.int64]

    @classmethod
    def ordered(cls, X: Floats, y: Floats, tasks: NDArray[np.int64]) -> Rows:
        if (np.diff(tasks) >= 0).all():
            return cls(X, y, tasks)
        order = np.argsort(tasks, kind="stable")
        return cls(X[order], y[order], tasks[order])

    @property
    def starts(self) -> NDArray[np.int64]:
        """First row of each task, and the number of rows."""
        return np.concatenate([[0], np.cumsum(np.bincount(self.tasks))])


@dataclass(frozen=True)
class Scale:
    """Standardisation of regression targets, ``[tasks, outputs]`` each."""

    mean: Floats
    std: Floats

    @classmethod
    def fit(cls, rows: Rows, by: Literal["joint", "task", "none"]) -> Scale:
        """Moments of all rows (the same for every task), of each task's, or none."""
        shape = (len(rows.starts) - 1, rows.y.shape[1])
        if by == "none":
            return cls(np.zeros(shape), np.ones(shape))
        if by == "joint":
            mean, std = rows.y.mean(0), rows.y.std(0)
        elif by == "task":
            parts = np.split(rows.y, rows.starts[1:-1])
            mean, std = (np.array([f(p, axis=0) for p in parts]) for f in (np.mean, np.std))
        else:
            raise InputError(f"scale is {by!r}{nearest(by, ['joint', 'task', 'none'])}")
        std = np.where(std > 0, std, 1.0)
        return cls(np.broadcast_to(mean, shape).copy(), np.broadcast_to(std, shape).copy())

    def down(self, y: Floats, tasks: NDArray[np.int64]) -> Floats:
        return (y - self.mean[tasks]) / self.std[tasks]

    def up(self, answers: Floats, tasks: NDArray[np.int64]) -> Floats:
        """Back in the unit; the mean over tasks serves a task that was not fitted (-1)."""
        mean, std = (np.concatenate([m, m.mean(0, keepdims=True)]) for m in (self.mean, self.std))
        return answers * std[tasks] + mean[tasks]


def held_out(rows: Rows, fraction: float, draw: np.random.Generator) -> tuple[Rows, Rows]:
    """(training, validation) rows; every task keeps at least one training row."""
    if not 0 < fraction < 1:
        raise InputError(f"validation_fraction is {fraction}; it must be between 0 and 1")
    held = np.zeros(len(rows.X), bool)
    for first, last in zip(rows.starts[:-1], rows.starts[1:], strict=True):
        count = min(round(fraction * (last - first)), last - first - 1)
        held[first + draw.permutation(last - first)[:count]] = True
    if not held.any():
        raise InputError(
            f"validation_fraction {fraction} leaves no validation row in any task; "
            "raise it, or set patience=None"
        )
    parts = (Rows(rows.X[m], rows.y[m], rows.tasks[m]) for m in (~held, held))
    return tuple(parts)  # type: ignore[return-value]
