"""Metrics against scikit-learn, and where they have no value."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as reference

from polytask.tasks import metrics

calm = settings(deadline=None, derandomize=True, max_examples=30)
seeds = st.integers(0, 10_000)


def numbers(seed: int, rows: int = 40) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    target = rng.normal(5, 3, rows).astype(np.float32)
    return target, target + rng.normal(0, 2, rows)


def chances(seed: int, classes: int, rows: int = 60) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    target = np.concatenate([np.arange(classes), rng.integers(0, classes, rows - classes)])
    return target, rng.dirichlet(np.ones(classes), rows)


@calm
@given(seeds)
def test_regression_against_sklearn(seed: int) -> None:
    target, predicted = numbers(seed)
    expected = reference.explained_variance_score(target.astype(float), predicted)
    assert metrics.explained_variance(target, predicted) == pytest.approx(expected)
    expected = reference.root_mean_squared_error(target, predicted)
    assert metrics.rmse(target, predicted) == pytest.approx(expected)
    expected = reference.mean_absolute_error(target, predicted)
    assert metrics.mae(target, predicted) == pytest.approx(expected)


@calm
@given(seeds, st.integers(2, 5))
def test_classification_against_sklearn(seed: int, classes: int) -> None:
    target, given_chances = chances(seed, classes)
    score = given_chances[:, 1] if classes == 2 else given_chances
    expected = reference.roc_auc_score(target, score, multi_class="ovr")
    assert metrics.auroc(target, given_chances) == pytest.approx(expected)
    expected = reference.accuracy_score(target, given_chances.argmax(1))
    assert metrics.accuracy(target, given_chances) == pytest.approx(expected)
    expected = reference.log_loss(target, given_chances, labels=range(classes))
    assert metrics.log_loss(target, given_chances) == pytest.approx(expected, rel=1e-5)


def test_explained_variance_forgives_a_shift_and_errors_do_not() -> None:
    target, predicted = numbers(0)
    shifted = predicted + 100
    value = metrics.explained_variance(target, shifted)
    assert value == pytest.approx(metrics.explained_variance(target, predicted))
    assert metrics.rmse(target, shifted) > 90


def test_auroc_leaves_out_a_class_without_a_curve() -> None:
    target, given_chances = np.array([0, 1, 0, 1]), np.random.default_rng(0).dirichlet([1] * 3, 4)
    per_class = [reference.roc_auc_score(target == c, given_chances[:, c]) for c in (0, 1)]
    assert metrics.auroc(target, given_chances) == pytest.approx(np.mean(per_class))
    assert math.isnan(metrics.auroc(np.zeros(4, int), given_chances))


def test_log_loss_of_a_certain_mistake_is_finite() -> None:
    assert metrics.log_loss(np.array([0]), np.array([[0.0, 1.0]])) == pytest.approx(-np.log(1e-7))


@pytest.mark.parametrize("name", ["EXPLAINED_VARIANCE", "AUROC", "ACCURACY"])
def test_better_is_higher(name: str) -> None:
    metric = getattr(metrics, name)
    assert metric.higher_is_better and metric.sign == 1


@pytest.mark.parametrize("name", ["RMSE", "MAE", "LOG_LOSS"])
def test_better_is_lower(name: str) -> None:
    metric = getattr(metrics, name)
    assert not metric.higher_is_better and metric.sign == -1


@pytest.mark.parametrize("classes", [2, 7])
@pytest.mark.parametrize("rows", [5, 300])
def test_area_under_the_curve_is_scikit_learns_ties_included(rows: int, classes: int) -> None:
    rng = np.random.default_rng(rows + classes)
    target = rng.permutation(np.arange(rows) % classes)
    chances = rng.dirichlet(np.ones(classes), rows).round(2)
    curves = [1] if classes == 2 else [c for c in range(classes) if 0 < (target == c).sum() < rows]
    slow = np.mean([reference.roc_auc_score(target == c, chances[:, c]) for c in curves])
    assert metrics.auroc(target, chances) == pytest.approx(slow, abs=1e-12)
