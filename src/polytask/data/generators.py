"""Tables drawn from a known law."""

import numbers
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np


@dataclass(frozen=True)
class MultiTabBench:
    """MultiTab-Bench: T regressions on the same inputs with chosen relatedness and difficulty.

    Source: arXiv 2511.09970. Equations:
        U  T orthonormal rows in R^D                P = Q L Q^T, the wanted correlations
        W = Q L^(1/2) Q^T U, hence W W^T = P        x ~ N(0, I_D), z = W x, corr(z_i, z_j) = P_ij
        y_i = sum_{k=1}^{degree_i} z_i^k + noise_i * eps_i,  eps ~ N(0, 1)

    W depends on `seed` alone; every draw has fresh x and noise, so use one object and one draw
    per split.

    Args:
        tasks: T.
        inputs: D, at least T.
        correlation: P_ij for i != j, within [-1/(T-1), 1], or all of P, [T, T].
        degrees: Degree of each task's polynomial, whole numbers from 1.
        noise: Standard deviation of the noise, for all tasks or one per task.
        seed: Seed of W.

    Raises:
        ValueError: An argument is out of its range.
    """

    tasks: int = 7
    inputs: int = 32
    correlation: float | Sequence[Sequence[float]] = 0.4
    degrees: Sequence[int] = (1, 3, 2, 3, 4, 2, 3)
    noise: float | Sequence[float] = 0.01
    seed: int = 0

    def __post_init__(self) -> None:
        # Tuples make the object comparable and hashable whatever the caller's containers were.
        for name in ("correlation", "degrees", "noise"):
            object.__setattr__(self, name, _plain(getattr(self, name)))
        if self.tasks < 1:
            raise ValueError(f"tasks is {self.tasks}; it must be at least 1")
        if self.inputs < self.tasks:
            raise ValueError(
                f"inputs is {self.inputs}; it must be at least the number of tasks, {self.tasks}"
            )
        _check_degrees(self.degrees, self.tasks)
        _check_noise(self.noise, self.tasks)
        _check_correlation(self.correlation, self.tasks)

    @cached_property
    def correlations(self) -> np.ndarray:
        """P, [T, T] float64."""
        matrix = np.full((self.tasks, self.tasks), self.correlation, dtype=np.float64)
        np.fill_diagonal(matrix, 1)
        return matrix

    @cached_property
    def directions(self) -> np.ndarray:
        """U, [T, D] float64 with orthonormal rows."""
        draw = self._rng(0).standard_normal((self.inputs, self.tasks))
        q, r = np.linalg.qr(draw)
        # QR with a positive diagonal is Gram-Schmidt, whose result is uniform over directions.
        return (q * np.sign(np.diag(r))).T

    @cached_property
    def weights(self) -> np.ndarray:
        """W, [T, D] float64 with W W^T = P."""
        values, vectors = np.linalg.eigh(self.correlations)
        # Q is not unique (with one p, T-1 eigenvalues are equal) and would tie W to a LAPACK
        # build. Q L^(1/2) Q^T is unique, and Q^T U is drawn from the same law as U.
        return (vectors * np.sqrt(values.clip(min=0))) @ vectors.T @ self.directions

    def draw(self, rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Draw rows; equal seeds give equal rows, different seeds independent ones.

        Returns:
            x [rows, D] and y [rows, T], float32.
        """
        rng = self._rng(1, seed)
        x = rng.standard_normal((rows, self.inputs), dtype=np.float32)
        z = x @ self.weights.T.astype(np.float32)
        y = np.asarray(self.noise, np.float32) * rng.standard_normal(z.shape, dtype=np.float32)
        power = np.ones_like(z)
        for k in range(1, max(self.degrees) + 1):
            power *= z
            y += power * (np.asarray(self.degrees) >= k)
        return x, y

    def _rng(self, *key: int) -> np.random.Generator:
        return np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=key))


def _plain(value: object) -> object:
    """Turn arrays and lists into nested tuples; leave numbers as they are."""
    if isinstance(value, np.ndarray):
        value = value.tolist()
    return tuple(map(_plain, value)) if isinstance(value, list | tuple) else value


def _check_degrees(degrees: Sequence[int], tasks: int) -> None:
    if len(degrees) != tasks:
        raise ValueError(f"degrees has {len(degrees)} entries; it needs {tasks}, one per task")
    for task, degree in enumerate(degrees):
        if not isinstance(degree, numbers.Integral) or degree < 1:
            raise ValueError(f"degrees[{task}] is {degree}; it must be a whole number from 1")


def _check_noise(noise: float | Sequence[float], tasks: int) -> None:
    if np.shape(noise) not in ((), (tasks,)):
        raise ValueError(f"noise has shape {np.shape(noise)}; it must be one number or {tasks}")
    if not np.all(np.isfinite(noise)) or np.min(noise) < 0:
        raise ValueError(f"noise is {noise}; it must be finite and not negative")


def _check_correlation(correlation: float | Sequence[Sequence[float]], tasks: int) -> None:
    if not isinstance(correlation, Sequence):
        lowest = -1 / (tasks - 1) if tasks > 1 else -1.0
        if not lowest <= correlation <= 1:
            raise ValueError(
                f"correlation is {correlation}; with {tasks} tasks it must lie between "
                f"{lowest:.4g} and 1"
            )
        return
    matrix = np.asarray(correlation, dtype=np.float64)
    if matrix.shape != (tasks, tasks):
        raise ValueError(
            f"correlation has shape {matrix.shape}; it must be one number or {tasks} x {tasks}"
        )
    if not np.isfinite(matrix).all():
        raise ValueError("correlation holds a value that is not a finite number")
    if not np.allclose(matrix, matrix.T, rtol=0, atol=1e-8):
        raise ValueError("correlation is not symmetric")
    if not np.allclose(np.diag(matrix), 1, rtol=0, atol=1e-8):
        raise ValueError("correlation does not have 1 everywhere on its diagonal")
    smallest = np.linalg.eigvalsh(matrix)[0]
    if smallest < -1e-8:
        raise ValueError(
            f"correlation is not positive semi-definite; its smallest eigenvalue is {smallest:.3g}"
        )
