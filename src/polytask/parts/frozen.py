"""Linear heads on frozen features, fitted in closed form or by logistic regression."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from polytask.tasks import Classification, Task


class FrozenHead(NamedTuple):
    """A task's answer on features f ``[N, k]``: logits f w + b, or (f w + b) scale + mean.

    Attributes:
        weight, bias: ``[k, outputs]`` and ``[outputs]``; for a number in units of ``scale``.
        mean, scale: of the labels that a regression was fitted on.
    """

    weight: NDArray[np.float64]
    bias: NDArray[np.float64]
    mean: float = 0.0
    scale: float = 1.0

    def values(self, task: Task, features: NDArray) -> NDArray:
        """Values ``[N]`` in the task's unit, or probabilities ``[N, C]``."""
        answer = features @ self.weight + self.bias
        if isinstance(task.kind, Classification):
            return task.kind.decode(torch.from_numpy(answer))
        return answer[:, 0] * self.scale + self.mean

    def loss(self, task: Task, features: NDArray, target: Tensor) -> float:
        """Cross-entropy, or squared error in the task's unit; every row is labelled."""
        if isinstance(task.kind, Classification):
            output = torch.from_numpy(features @ self.weight + self.bias)
            everywhere = torch.ones(len(target), dtype=torch.bool)
            return float(task.kind.loss(output, target, everywhere))
        return float(np.square(self.values(task, features) - target.numpy()).mean())


def fit_head(task: Task, features: NDArray, y: NDArray, ridge: float) -> FrozenHead:
    """Ridge regression of standardised labels, or a logistic regression of the same penalty.

    Labels of one value only say nothing about the features: the weights are 0, and the constant
    answers alone.

    Args:
        task: with a fitted kind (its classes; not its scale).
        features: of the labelled rows, ``[n, k]``.
        y: encoded labels, ``[n]``.
        ridge: λ of Σ (loss of a row) + λ/2 ||w||², for squared error without the halves.
    """
    if isinstance(task.kind, Classification):
        return _logistic(task.kind, features, y, ridge)
    k = features.shape[1]
    mean, scale = (float(y.mean()), float(y.std())) if len(y) else (0.0, 0.0)
    if scale == 0:
        return FrozenHead(np.zeros((k, 1)), np.zeros(1), mean)
    centre = features.mean(0)
    x = features - centre
    weight = np.linalg.solve(x.T @ x + ridge * np.eye(k), x.T @ ((y - mean) / scale))[:, None]
    return FrozenHead(weight, -centre @ weight, mean, scale)


def _logistic(kind: Classification, features: NDArray, y: NDArray, ridge: float) -> FrozenHead:
    from sklearn.linear_model import LogisticRegression

    counts = np.bincount(y, minlength=len(kind.classes))
    seen = np.flatnonzero(counts)
    # Of a class without a label nothing is known but that it is rare: half a label.
    chance = np.log(np.maximum(counts, 0.5))
    weight = np.zeros((features.shape[1], kind.outputs))
    if len(seen) < 2:
        return FrozenHead(weight, chance if kind.outputs > 1 else chance[1:] - chance[:1])
    # Newton's Hessian has a row per weight; where these are many, L-BFGS finds the same minimum.
    solver = "newton-cholesky" if features.shape[1] * kind.outputs <= 1000 else "lbfgs"
    model = LogisticRegression(C=1 / ridge, solver=solver, max_iter=1000).fit(features, y)
    slopes, constants = model.coef_.T, model.intercept_
    if kind.outputs == 1:
        return FrozenHead(slopes, constants)
    if len(seen) == 2:  # one logit stands for the difference of two
        slopes = np.hstack([-slopes, slopes]) / 2
        constants = np.concatenate([-constants, constants]) / 2
    bias = chance - chance.max()
    weight[:, seen], bias[seen] = slopes, constants
    return FrozenHead(weight, bias)
