"""Metrics: a number, its direction, and how it is computed from targets and decoded predictions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Metric:
    """One judgement of a task.

    ``compute`` takes what the kind's ``tally`` gives. For values per row that is
    ``(target, prediction)``: encoded targets ``[N]`` and what ``decode`` returns (regression:
    values ``[N]`` in the target's unit; classification: probabilities ``[N, C]``).
    """

    name: str
    higher_is_better: bool
    compute: Callable[..., float]

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


def confusion(target: NDArray, predicted: NDArray, classes: int) -> NDArray[np.int64]:
    """Counts ``[C, C]``: rows are what is true, columns what was answered."""
    pairs = target.astype(np.int64).ravel() * classes + predicted.astype(np.int64).ravel()
    return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)


def f1(target: NDArray, probability: NDArray) -> float:
    """Mean over classes of ``2 TP / (2 TP + FP + FN)``; a class nobody names is left out."""
    return mean_f1(confusion(target, probability.argmax(axis=1), probability.shape[1]))


def mean_f1(counts: NDArray) -> float:
    """Macro F1 of a confusion matrix ``[C, C]``; a class in no row and no column is left out."""
    hit, either = np.diag(counts), counts.sum(0) + counts.sum(1)
    return float(np.mean(2 * hit[either > 0] / either[either > 0]))


def kappa(target: NDArray, probability: NDArray) -> float:
    """Cohen's kappa ``(p_o - p_e) / (1 - p_e)``: agreement beyond that of independent answers."""
    counts = confusion(target, probability.argmax(axis=1), probability.shape[1]).astype(float)
    rows = counts.sum()
    expected = (counts.sum(0) * counts.sum(1)).sum() / rows**2
    observed = np.trace(counts) / rows
    return float((observed - expected) / (1 - expected)) if expected < 1 else 0.0


EXPLAINED_VARIANCE = Metric("ev", True, explained_variance)
RMSE = Metric("rmse", False, rmse)
MAE = Metric("mae", False, mae)
AUROC = Metric("auroc", True, auroc)
ACCURACY = Metric("accuracy", True, accuracy)
LOG_LOSS = Metric("log_loss", False, log_loss)
F1 = Metric("f1", True, f1)
KAPPA = Metric("kappa", True, kappa)

# -- dense metrics: of sums over pixels, as the dense kinds tally them -----------------------------

ANGLES = np.linspace(0, 180, 721)  # bins of a quarter degree: 11.25, 22.5 and 30 are edges


def mean_iou(counts: NDArray) -> float:
    """Mean over classes of ``TP / (TP + FP + FN)``; a class in no row and no column is left out."""
    hit = np.diag(counts)
    union = counts.sum(0) + counts.sum(1) - hit
    return float(np.mean(hit[union > 0] / union[union > 0]))


def pixel_accuracy(counts: NDArray) -> float:
    """Share of labelled pixels whose class is right."""
    return float(np.trace(counts) / counts.sum())


def mean_recall(counts: NDArray) -> float:
    """Mean over classes of the share of their pixels that is found."""
    true = counts.sum(1)
    return float(np.mean(np.diag(counts)[true > 0] / true[true > 0]))


def _map_rmse(sums: NDArray) -> float:
    return float(np.sqrt(sums[2] / sums[0]))


def _map_mae(sums: NDArray) -> float:
    return float(sums[3] / sums[0])


def _map_explained(sums: NDArray) -> float:
    n, error, squared, _, y, y_squared = sums
    return float(1 - (squared / n - (error / n) ** 2) / (y_squared / n - (y / n) ** 2))


def _mean_angle(histogram: NDArray, sums: NDArray) -> float:
    return float(sums[1] / sums[0])


def _median_angle(histogram: NDArray, sums: NDArray) -> float:
    """Interpolated within its quarter of a degree."""
    return float(np.interp(0.5 * sums[0], np.concatenate([[0], histogram.cumsum()]), ANGLES))


def _within(degrees: float) -> Callable[[NDArray, NDArray], float]:
    bins = round(degrees / (ANGLES[1] - ANGLES[0]))
    return lambda histogram, sums: float(histogram[:bins].sum() / sums[0])


def _best_f(beta_squared: float) -> Callable[[NDArray], float]:
    """Largest F over thresholds from ``[4, T]``: right and all of the named, right and all of true.

    ``F = (1 + β²) P R / (β² P + R)``
    """

    def compute(counts: NDArray) -> float:
        named_right, named, true_found, true = counts
        precision, recall = named_right / named.clip(1), true_found / true.clip(1)
        down = (beta_squared * precision + recall).clip(1e-12)
        return float(((1 + beta_squared) * precision * recall / down).max())

    return compute


MEAN_IOU = Metric("miou", True, mean_iou)
MEAN_F1 = Metric("mf1", True, mean_f1)
PIXEL_ACCURACY = Metric("pixel_accuracy", True, pixel_accuracy)
MEAN_RECALL = Metric("mean_accuracy", True, mean_recall)
MAP_RMSE = Metric("rmse", False, _map_rmse)
MAP_MAE = Metric("mae", False, _map_mae)
MAP_EXPLAINED = Metric("ev", True, _map_explained)
MEAN_ANGLE = Metric("mean_angle", False, _mean_angle)
MEDIAN_ANGLE = Metric("median_angle", False, _median_angle)
WITHIN_11 = Metric("within_11", True, _within(11.25))
WITHIN_22 = Metric("within_22", True, _within(22.5))
WITHIN_30 = Metric("within_30", True, _within(30.0))
ODS_F = Metric("ods_f", True, _best_f(1.0))
MAX_F = Metric("max_f", True, _best_f(0.3))
PSNR = Metric("psnr", True, lambda psnr, ssim, error: float(psnr.mean()))
SSIM = Metric("ssim", True, lambda psnr, ssim, error: float(ssim.mean()))
PICTURE_MAE = Metric("picture_mae", False, lambda psnr, ssim, error: float(error.mean()))
