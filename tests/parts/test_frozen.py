"""Frozen heads against closed forms, and with labels that say little."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from polytask.parts.frozen import fit_head
from polytask.tasks import Classification, Regression, Task

X = np.random.default_rng(0).normal(size=(200, 3))
NUMBER = Task("y", Regression(), "y")
YES_NO = Task("y", Classification((False, True)), "y")
FOUR = Task("y", Classification(("a", "b", "c", "d")), "y")


def test_a_number_is_a_ridge_regression_in_its_unit() -> None:
    y = 50 + 7 * (X @ [1.0, -2.0, 0.5]) + np.random.default_rng(1).normal(size=200)
    exact = np.linalg.lstsq(np.c_[X, np.ones(200)], y, rcond=None)[0]
    head = fit_head(NUMBER, X, y, ridge=1e-9)
    np.testing.assert_allclose(head.values(NUMBER, X), np.c_[X, np.ones(200)] @ exact, atol=1e-6)
    assert head.loss(NUMBER, X, torch.from_numpy(y)) < 1.2
    small = fit_head(NUMBER, X, y, ridge=1e9)
    np.testing.assert_allclose(small.values(NUMBER, X), y.mean(), atol=1e-4)
    # Weights are in standardised units, so tasks of different units can be compared.
    other = fit_head(NUMBER, X, 1000 * y - 3, ridge=1.0)
    np.testing.assert_allclose(other.weight, fit_head(NUMBER, X, y, ridge=1.0).weight, atol=1e-9)


def test_yes_and_no_is_the_logistic_regression_of_that_penalty() -> None:
    logit = X @ [2.0, 0.0, -1.0] + 0.5
    y = (np.random.default_rng(1).random(200) < 1 / (1 + np.exp(-logit))).astype(np.int64)
    head = fit_head(YES_NO, X, y, ridge=2.0)
    chances = head.values(YES_NO, X)
    np.testing.assert_allclose(chances.sum(1), 1)
    # The gradient of Σ loss + ridge/2 ||w||² vanishes.
    np.testing.assert_allclose(X.T @ (chances[:, 1] - y) + 2.0 * head.weight[:, 0], 0, atol=0.02)
    assert (chances[:, 1] - y).sum() == pytest.approx(0, abs=0.02)
    assert head.loss(YES_NO, X, torch.from_numpy(y)) < 0.55


@pytest.mark.parametrize("classes", [(1,), (0, 2), (0, 1, 3), (0, 1, 2, 3)])
def test_classes_without_a_label_stay_unlikely(classes: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    y = rng.choice(classes, 200)
    y[: len(classes)] = classes
    chances = fit_head(FOUR, X + 2 * (y[:, None] == [0, 1, 2]), y, 1.0).values(FOUR, X)
    assert chances.shape == (200, 4)
    np.testing.assert_allclose(chances.sum(1), 1)
    absent = [c for c in range(4) if c not in classes]
    assert (chances[:, absent] < 0.05).all()


def test_labels_of_one_value_answer_with_the_constant() -> None:
    head = fit_head(NUMBER, X, np.full(200, 4.0), 1.0)
    assert not head.weight.any()
    np.testing.assert_array_equal(head.values(NUMBER, X), 4.0)
    never = fit_head(YES_NO, X, np.zeros(200, np.int64), 1.0)
    assert not never.weight.any()
    assert (never.values(YES_NO, X)[:, 1] < 0.01).all()
    nothing = fit_head(YES_NO, X[:0], np.zeros(0, np.int64), 1.0)
    np.testing.assert_allclose(nothing.values(YES_NO, X), 0.5)
