"""Low-rank multi-task regression: one shared linear representation, one head per task.

Source: the linear class of Chen et al., ICML 2022, and Wang et al., ICML 2023 (arXiv 2306.02556);
alternating least squares from a spectral start.

    min over B, W of  Σ_t a_t ||y_t - X_t B w_t||² + ridge ||B W||²_F      BᵀB = I

B is identified up to a rotation of its columns, which W turns back.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse.linalg import LinearOperator, cg

from polytask.errors import InputError


def low_rank(
    xs: Sequence[NDArray],
    ys: Sequence[NDArray],
    rank: int,
    *,
    ridge: float = 0.0,
    weights: ArrayLike | None = None,
    iterations: int = 200,
    tolerance: float = 1e-6,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Fit B and W of several linear regressions without intercepts.

    Args:
        xs: inputs of each task, ``[n_t, d]``.
        ys: targets of each task, ``[n_t]``.
        rank: k, at most d and the number of tasks.
        ridge: shrinks every task's coefficients B w_t.
        weights: a_t, ``[T]``; 1 by default: every label counts the same. 1 / n_t makes every
            task count the same.
        iterations, tolerance: rounds at most, and the relative gain of a round that ends it.

    Returns:
        B ``[d, k]`` with orthonormal columns, and W ``[k, T]``.
    """
    tasks, d = len(xs), xs[0].shape[1]
    if not 1 <= rank <= min(d, tasks):
        raise InputError(
            f"rank is {rank}; with {d} inputs and {tasks} tasks it is 1 to at most {min(d, tasks)}"
        )
    a = np.ones(tasks) if weights is None else np.asarray(weights, float)
    gram = np.stack([at * x.T @ x for at, x in zip(a, xs, strict=True)]).astype(float)
    cross = np.stack([at * x.T @ y for at, x, y in zip(a, xs, ys, strict=True)], axis=1)
    square = sum(at * float(y @ y) for at, y in zip(a, ys, strict=True))
    # A trace of ridge keeps a step solvable where labels are fewer than unknowns.
    least = 1e-9 * np.trace(gram.sum(0)) / d
    gram += max(ridge, least) * np.eye(d)
    B = _spectral_start(gram, cross, a * [len(y) for y in ys], rank)
    W = heads_given(B, gram, cross)
    before = np.inf
    for _ in range(iterations):
        B, _ = np.linalg.qr(_basis_given(B, W, gram, cross))
        W = heads_given(B, gram, cross)
        # With the best W the loss is what of ||y||² the heads do not explain.
        loss = square - float((W * (B.T @ cross)).sum())
        if before - loss <= tolerance * square:
            break
        before = loss
    return B, W


def heads_given(B: NDArray, gram: NDArray, cross: NDArray) -> NDArray[np.float64]:
    """The best W ``[k, T]`` for a B: (Bᵀ G_t B) w_t = Bᵀ c_t, for each task."""
    return np.linalg.solve(B.T @ gram @ B, (B.T @ cross).T[:, :, None])[:, :, 0].T


def _basis_given(B: NDArray, W: NDArray, gram: NDArray, cross: NDArray) -> NDArray[np.float64]:
    """A better B ``[d, k]`` for a W: Σ_t G_t B w_t w_tᵀ = Σ_t c_t w_tᵀ, by conjugate gradients.

    They start from the B at hand, so a few of their steps suffice and none makes it worse.
    """

    def product(flat: NDArray) -> NDArray:
        coefficients = flat.reshape(B.shape) @ W
        return ((gram @ coefficients.T[:, :, None])[:, :, 0].T @ W.T).reshape(-1)

    operator = LinearOperator((B.size, B.size), matvec=product, dtype=B.dtype)
    found, _ = cg(operator, (cross @ W.T).reshape(-1), B.reshape(-1), rtol=1e-8, maxiter=30)
    return found.reshape(B.shape)


def _spectral_start(
    gram: NDArray, cross: NDArray, labels: NDArray, rank: int
) -> NDArray[np.float64]:
    """The leading directions of Σ⁻¹ c_t / n_t, each task weighed by the root of its labels."""
    pooled = gram.sum(0) / labels.sum()
    raw = np.linalg.solve(pooled, cross / np.sqrt(np.maximum(labels, 1e-9)))
    return np.linalg.svd(raw, full_matrices=False)[0][:, :rank]
