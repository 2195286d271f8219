"""Alternating least squares against closed forms and planted truths."""

from __future__ import annotations

import numpy as np
import pytest

from polytask.errors import InputError
from polytask.parts.lowrank import low_rank


def planted(
    seed: int, rows: int = 60, d: int = 12, k: int = 3, tasks: int = 15, noise: float = 0.1
):
    rng = np.random.default_rng(seed)
    B = np.linalg.qr(rng.normal(size=(d, k)))[0]
    W = rng.normal(size=(k, tasks))
    xs = [rng.normal(size=(rows, d)) for _ in range(tasks)]
    ys = [x @ B @ W[:, t] + noise * rng.normal(size=rows) for t, x in enumerate(xs)]
    return B, W, xs, ys


def projector(B: np.ndarray) -> np.ndarray:
    return B @ B.T


def loss(B: np.ndarray, W: np.ndarray, xs: list, ys: list) -> float:
    return sum(
        float(np.square(y - x @ B @ W[:, t]).sum())
        for t, (x, y) in enumerate(zip(xs, ys, strict=True))
    )


@pytest.mark.parametrize("seed", range(3))
def test_the_planted_subspace_is_found(seed: int) -> None:
    B, W, xs, ys = planted(seed)
    found, heads = low_rank(xs, ys, 3)
    np.testing.assert_allclose(found.T @ found, np.eye(3), atol=1e-12)
    # B is known up to a rotation only, so projectors and coefficients are what is compared.
    assert np.linalg.norm(projector(found) - projector(B)) < 0.1
    np.testing.assert_allclose(found @ heads, B @ W, atol=0.15)
    exact, _ = low_rank(*planted(seed, noise=0.0)[2:], 3, tolerance=0.0)
    np.testing.assert_allclose(projector(exact), projector(B), atol=1e-6)


def test_sharing_beats_each_task_alone_when_labels_are_few() -> None:
    B, W, xs, ys = planted(0, rows=14, noise=0.5)
    found, heads = low_rank(xs, ys, 3)
    alone = np.stack([np.linalg.lstsq(x, y, rcond=None)[0] for x, y in zip(xs, ys, strict=True)], 1)
    assert np.linalg.norm(found @ heads - B @ W) < 0.5 * np.linalg.norm(alone - B @ W)


def test_full_rank_is_each_task_alone() -> None:
    _, _, xs, ys = planted(1, d=5)
    for ridge in (0.0, 3.0):
        B, W = low_rank(xs, ys, 5, ridge=ridge)
        for t, (x, y) in enumerate(zip(xs, ys, strict=True)):
            alone = np.linalg.solve(x.T @ x + ridge * np.eye(5), x.T @ y)
            np.testing.assert_allclose(B @ W[:, t], alone, atol=1e-6)


def test_one_design_for_all_is_the_truncated_svd() -> None:
    """With XᵀX = I the best coefficients of rank k are the leading part of those of full rank."""
    rng = np.random.default_rng(0)
    x = np.linalg.qr(rng.normal(size=(50, 8)))[0]
    y = rng.normal(size=(50, 10))
    B, W = low_rank([x] * 10, list(y.T), 3, tolerance=0.0, iterations=500)
    u, s, v = np.linalg.svd(x.T @ y, full_matrices=False)
    np.testing.assert_allclose(B @ W, (u[:, :3] * s[:3]) @ v[:3], atol=1e-6)


def test_no_small_change_is_better() -> None:
    _, _, xs, ys = planted(2, rows=20, noise=0.5)
    B, W = low_rank(xs, ys, 3, tolerance=0.0)
    best = loss(B, W, xs, ys)
    rng = np.random.default_rng(0)
    for _ in range(50):
        step = 1e-3 * rng.normal(size=B.shape)
        other = 1e-3 * rng.normal(size=W.shape)
        assert loss(B + step, W, xs, ys) > best
        assert loss(B, W + other, xs, ys) > best
        assert loss(B + step, W + other, xs, ys) > best


def test_turned_inputs_turn_the_basis() -> None:
    _, _, xs, ys = planted(3)
    R = np.linalg.qr(np.random.default_rng(1).normal(size=(12, 12)))[0]
    B, W = low_rank(xs, ys, 3)
    turned, heads = low_rank([x @ R for x in xs], ys, 3)
    np.testing.assert_allclose(R @ turned @ heads, B @ W, atol=1e-5)


def test_weights_are_repeated_labels() -> None:
    _, _, xs, ys = planted(4, tasks=6)
    weights = [1, 3, 1, 2, 1, 1]
    B, W = low_rank(xs, ys, 2, weights=weights)
    again, heads = low_rank(
        [np.repeat(x, n, axis=0) for x, n in zip(xs, weights, strict=True)],
        [np.repeat(y, n) for y, n in zip(ys, weights, strict=True)],
        2,
    )
    np.testing.assert_allclose(B @ W, again @ heads, atol=1e-6)


def test_fewer_labels_than_unknowns_is_still_finite() -> None:
    _, _, xs, ys = planted(5, rows=2)
    B, W = low_rank(xs, ys, 3)
    assert np.isfinite(B @ W).all()


def test_a_task_without_labels_changes_nothing() -> None:
    _, _, xs, ys = planted(6)
    B, W = low_rank(xs, ys, 3)
    again, heads = low_rank([*xs, xs[0][:0]], [*ys, ys[0][:0]], 3)
    np.testing.assert_allclose(again @ heads[:, :-1], B @ W, atol=1e-6)
    np.testing.assert_allclose(heads[:, -1], 0, atol=1e-12)


@pytest.mark.parametrize("rank", [0, 16])
def test_an_impossible_rank_is_refused(rank: int) -> None:
    _, _, xs, ys = planted(0)
    with pytest.raises(InputError, match=f"rank is {rank}"):
        low_rank(xs, ys, rank)
