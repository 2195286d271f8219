"""R-MTGB: gradient boosting for several tasks that finds those that do not belong with the others.

Source: Emami, Martínez-Muñoz, Hernández-Lobato, "Robust-Multi-Task Gradient Boosting", Expert
    Systems with Applications 2025, 130696, arXiv 2507.11411.
Year: 2025
Domain: tables
Parts: histogram, boosting, estimators
For: tasks of one kind on the same columns (schools, shops, machines), some unlike the rest
Idea: three blocks of trees, one after the other: for all tasks, for two groups of tasks that are
    told apart while boosting, and for each task alone.
Equations: F_r(x) = m(x) + (1 − σ(θ_r))·n(x) + σ(θ_r)·o(x) + t_r(x), σ logistic, one θ_r per task r.
    Every round adds η · tree; with g = −∂L/∂F a tree of m and t_r is fitted to g, of n to
    (1 − σ(θ_r))·g, of o to σ(θ_r)·g, and θ_r ← θ_r + η · Σ_{i in r} g_i·(o_i − n_i) · σ'(θ_r).
    L is ½(y − F)² or the cross-entropy of softmax(F), F: [rows, outputs], θ: [tasks].
Input: numbers and categories, gaps in both.   Output: values, or chances of the classes.

Differs from the paper:
 (1) Trees are found on histograms of at most 255 bins per column; with as many bins as distinct
     values they are the exact ones. Trees may be deeper than stumps.
 (2) θ is drawn from the given seed. Tasks keep their place, whichever rows are predicted; a task
     that was not fitted is answered by m and the mean mixture of n and o.
 (3) Targets of regressions are standardised before boosting (``scale``), because a step of θ grows
     with the square of their unit; ``scale="none"`` is the paper's.
 (4) Each block can stop early on validation rows and keeps its best round.
 (5) Options: Newton leaves Σwg/(Σw²h + λ) for the weight w that a row has in its tree, and a Newton
     step of θ; a penalty on θ and a bound on |θ|. All are off by default.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, softmax
from sklearn.base import ClassifierMixin, RegressorMixin
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets

from polytask.config import from_dict, to_dict
from polytask.data import Batch, Processor, Suite
from polytask.data.store import read_folder, write_folder
from polytask.errors import InputError
from polytask.parts.boosting import CrossEntropy, Floats, Loss, Rows, Scale, Squared, held_out
from polytask.parts.estimators import TaskEstimator
from polytask.parts.histogram import MAX_BINS, Bins, Forest, Grower
from polytask.tasks import Classification
from polytask.training import FittedMixin
from polytask.training.learner import saved_settings

NO_GROUP = 0.5  # below this gap between the groups there is no outlier group: our own rule
_FORESTS = ("shared", "regular", "outlier", "own")


# -- the fitted model -------------------------------------------------------------------------


@dataclass(frozen=True)
class Outliers:
    """Which tasks the second block set apart.

    Attributes:
        scores: ``[tasks]``, σ(±θ) with the sign under which most tasks (of two halves, the one
            with more rows) are near 0; which side the formula calls "outlier" is arbitrary.
        gap: mean score of the tasks above ½ minus mean of the others; 0 without any.
    """

    scores: Floats
    gap: float

    @classmethod
    def of(cls, theta: Floats, rows: NDArray) -> Outliers:
        share = expit(theta)
        high = share > 0.5
        few = (high.sum(), rows[high].sum()) <= ((~high).sum(), rows[~high].sum())
        scores = share if few else 1 - share
        apart = scores > 0.5
        gap = scores[apart].mean() - scores[~apart].mean() if apart.any() else 0.0
        return cls(scores, float(gap))

    @property
    def tasks(self) -> NDArray[np.int64]:
        """The tasks of the outlier group; none where the gap is below ½."""
        return np.flatnonzero(self.scores > 0.5) if self.gap >= NO_GROUP else np.empty(0, np.int64)

    def sentence(self, names: Sequence[Any]) -> str:
        """What was found, for people."""
        if not len(self.tasks):
            return f"no outlier group (gap {self.gap:.2f}, below {NO_GROUP})"
        shown = ", ".join(str(names[i]) for i in self.tasks[:8])
        more = f" and {len(self.tasks) - 8} more" if len(self.tasks) > 8 else ""
        return (
            f"{len(self.tasks)} of {len(names)} tasks do not go with the others: {shown}{more} "
            f"(gap {self.gap:.2f})"
        )


@dataclass(frozen=True)
class Blocks:
    """The fitted model: four forests and the mixture of every task.

    Attributes:
        shared, regular, outlier, own: m, n, o and t.
        theta: ``[rounds of n + 1, tasks]``, θ at the start and after every round.
        rows: ``[tasks]``, training rows.
        losses: loss on the validation rows after every round, by block; empty without any.
    """

    bins: Bins
    eta: float
    shared: Forest
    regular: Forest
    outlier: Forest
    own: Forest
    theta: Floats
    rows: NDArray[np.int64]
    losses: tuple[tuple[float, ...], ...] = ((), (), ())

    def answers(self, X: Floats, tasks: NDArray[np.int64]) -> Floats:
        """F ``[n, outputs]``; a negative task is one that was not fitted."""
        return self.mixed(self.parts(X), tasks)

    def parts(self, X: Floats) -> tuple[Floats, Floats, Floats, Floats]:
        """(rows as trees read them, m, n, o): what all tasks have in common."""
        X = self.bins.readable(X)
        answers = []
        for forest in (self.shared, self.regular, self.outlier):
            answers.append(np.zeros((len(X), self.outputs)))
            forest.add(X, answers[-1], self.eta)
        m, n, o = answers
        return X, m, n, o

    def mixed(
        self, parts: tuple[Floats, Floats, Floats, Floats], tasks: NDArray[np.int64]
    ) -> Floats:
        """F of rows of these tasks, from the common parts."""
        X, m, n, o = parts
        share = self._share(tasks, self.theta[-1])
        out = m + (1 - share) * n + share * o
        self.own.add(X, out, self.eta, tasks)
        return out

    def staged(self, X: Floats, tasks: NDArray[np.int64]) -> Iterator[Floats]:
        """F after every round, block after block."""
        X = self.bins.readable(X)
        out = np.zeros((len(X), self.outputs))
        for j in range(self.shared.rounds):
            self.shared.add(X, out, self.eta, None, j, j + 1)
            yield out.copy()
        n, o, base = np.zeros_like(out), np.zeros_like(out), out
        for j in range(self.regular.rounds):
            self.regular.add(X, n, self.eta, None, j, j + 1)
            self.outlier.add(X, o, self.eta, None, j, j + 1)
            share = self._share(tasks, self.theta[j + 1])
            out = base + (1 - share) * n + share * o
            yield out.copy()
        for j in range(self.own.rounds):
            self.own.add(X, out, self.eta, tasks, j, j + 1)
            yield out.copy()

    def _share(self, tasks: NDArray[np.int64], theta: Floats) -> Floats:
        """σ(θ) of each row's task ``[n, 1]``, the mean over tasks where the task is unknown."""
        share = expit(theta)
        return np.append(share, share.mean())[tasks][:, None]  # task -1 is the last entry

    @property
    def outputs(self) -> int:
        return self.shared.value.shape[1]

    @property
    def outliers(self) -> Outliers:
        if not self.regular.rounds:
            return Outliers(np.zeros(len(self.rows)), 0.0)
        return Outliers.of(self.theta[-1], self.rows)

    @property
    def gains(self) -> dict[str, Floats]:
        """What the splits of every block gained, by column."""
        return {name: getattr(self, name).gains(len(self.bins.edges)) for name in _FORESTS}

    @property
    def parameters(self) -> int:
        """Numbers that were learned: leaf values and θ."""
        leaves = sum(getattr(self, name).leaves for name in _FORESTS)
        return leaves * self.outputs + (self.theta.shape[1] if self.regular.rounds else 0)

    def saved(self) -> tuple[dict[str, Any], dict[str, NDArray]]:
        """(plain data, arrays by name); ``Blocks.loaded`` is the way back."""
        arrays = {"theta": self.theta, "rows": self.rows}
        for name in _FORESTS:
            arrays |= getattr(self, name).arrays(name)
        return {"bins": self.bins.to_dict(), "eta": self.eta, "losses": self.losses}, arrays

    @classmethod
    def loaded(cls, data: dict[str, Any], arrays: dict[str, NDArray]) -> Blocks:
        bins = Bins.from_dict(data["bins"])
        forests = {name: Forest.loaded(arrays, name, bins) for name in _FORESTS}
        losses = tuple(tuple(block) for block in data["losses"])
        return cls(
            bins, data["eta"], **forests, theta=arrays["theta"], rows=arrays["rows"], losses=losses
        )


# -- boosting ------------------------------------------------------------------------------------


@dataclass
class Boosting:
    """The algorithm and its hyper-parameters (defaults: what the paper selected most on real data).

    Attributes:
        n1, n2, n3: rounds of the shared block, the two groups, the tasks' own; 0 switches one off.
        eta: step of every tree and of θ.
        depth: levels of splits in a tree; 1 is the paper's stump.
        newton: leaves by second order, and a Newton step of θ, instead of means and a plain step.
        leaf_l2: λ of the Newton leaves.
        theta_l2: penalty ``½ · theta_l2 · θ²`` of every task.
        theta_clip: bound on |θ|.
        min_leaf: rows that each side of a split must keep.
        max_bins: bins per column.
        patience: rounds without a better validation loss before a block ends; None fits all rounds.
        seed: of θ.
    """

    n1: int = 50
    n2: int = 50
    n3: int = 100
    eta: float = 0.1
    depth: int = 1
    newton: bool = False
    leaf_l2: float = 1.0
    theta_l2: float = 0.0
    theta_clip: float | None = None
    min_leaf: int = 1
    max_bins: int = MAX_BINS
    patience: int | None = None
    seed: int = 0

    def check(self) -> None:
        """Refuse settings that mean nothing."""
        for name, least in (("n1", 0), ("n2", 0), ("n3", 0), ("depth", 1), ("min_leaf", 1)):
            _at_least(name, getattr(self, name), least)
        for name in ("leaf_l2", "theta_l2"):
            _at_least(name, getattr(self, name), 0)
        if not self.eta > 0:
            raise InputError(f"eta is {self.eta}; it must be above 0")
        if self.theta_clip is not None and not self.theta_clip > 0:
            raise InputError(f"theta_clip is {self.theta_clip}; it must be above 0, or None")
        if self.patience is not None:
            _at_least("patience", self.patience, 1)

    def boost(
        self,
        rows: Rows,
        loss: Loss,
        *,
        categorical: Sequence[int] = (),
        validation: Rows | None = None,
        theta: ArrayLike | None = None,
        progress: Callable[[dict[str, Any]], None] = lambda record: None,
    ) -> Blocks:
        """Fit the three blocks one after the other.

        Args:
            rows: training rows, every task with at least one.
            categorical: columns of ``X`` that are codes of categories.
            validation: what ``patience`` looks at.
            theta: θ to start from; ``0.1 · N(0, 1)`` if None, which is enough to tell n from o.
        """
        self.check()
        bins = Bins.fit(rows.X, self.max_bins, categorical)
        leaf_l2 = self.leaf_l2 if self.newton else 0.0
        grower = Grower(bins, rows.X, rows.starts, self.depth, self.min_leaf, leaf_l2)
        fit = _Fit(self, grower, rows, loss, self._watched(bins, validation), progress)
        shared = fit.trees(self.n1, by_task=False)
        regular, outlier, path = fit.groups(theta)
        own = fit.trees(self.n3, by_task=True)
        counts = np.diff(rows.starts)
        losses = tuple(map(tuple, fit.losses))
        return Blocks(bins, self.eta, shared, regular, outlier, own, path, counts, losses)

    def _watched(self, bins: Bins, validation: Rows | None) -> Rows | None:
        if self.patience is None or validation is None or not len(validation.X):
            return None
        return replace(validation, X=bins.readable(validation.X))


def _at_least(name: str, value: float, least: float) -> None:
    if not value >= least:
        raise InputError(f"{name} is {value}; it must be at least {least}")


class _Fit:
    """One run of the algorithm: the rows, and what the model answers on them so far."""

    def __init__(
        self,
        settings: Boosting,
        grower: Grower,
        rows: Rows,
        loss: Loss,
        validation: Rows | None,
        progress: Callable[[dict[str, Any]], None],
    ) -> None:
        self.settings, self.grower, self.rows, self.loss = settings, grower, rows, loss
        self.validation, self.progress = validation, progress
        self.F = np.zeros_like(rows.y)
        self.V = np.zeros_like(validation.y) if validation else np.empty((0, rows.y.shape[1]))
        self.losses: list[list[float]] = []

    def trees(self, rounds: int, *, by_task: bool) -> Forest:
        """Block 1 or 3: plain boosting on all rows, or of every task alone."""
        eta, y, held = self.settings.eta, self.rows.y, self.validation

        def step() -> Forest:
            g = self.loss.gradient(y, self.F)
            h = self.loss.hessian(y, self.F) if self.settings.newton else None
            grown = self.grower.grow(g, self.F, eta, h, by_block=by_task)
            if held:
                grown.add(held.X, self.V, eta, held.tasks if by_task else None)
            return grown

        grown = self._rounds(rounds, step, [self.F, self.V], lambda: self.V)
        return Forest.stacked([self._none(by_task), *grown])

    def groups(self, start: ArrayLike | None = None) -> tuple[Forest, Forest, Floats]:
        """Block 2: (n, o, θ by round)."""
        settings, rows, held = self.settings, self.rows, self.validation
        eta, tasks = settings.eta, len(self.grower.starts) - 1
        drawn = 0.1 * np.random.default_rng(settings.seed).standard_normal(tasks)
        theta = self._bounded(drawn if start is None else np.array(start, np.float64))
        n, o = np.zeros_like(self.F), np.zeros_like(self.F)
        held_n, held_o = np.zeros_like(self.V), np.zeros_like(self.V)
        path = [theta.copy()]

        def step() -> tuple[Forest, Forest]:
            share = expit(theta)
            w = share[rows.tasks][:, None]
            apart = o - n
            F = self.F + n + w * apart
            g = self.loss.gradient(rows.y, F)
            h = self.loss.hessian(rows.y, F) if settings.newton else None
            move = self._theta_step(theta, share, g, h, apart)  # before o and n move
            grown = tuple(
                self.grower.grow(weight * g, part, eta, None if h is None else weight**2 * h)
                for weight, part in ((1 - w, n), (w, o))
            )
            theta[:] = self._bounded(theta + eta * move)
            path.append(theta.copy())
            if held:
                for tree, part in zip(grown, (held_n, held_o), strict=True):
                    tree.add(held.X, part, eta)
            return grown  # type: ignore[return-value]

        def mixed() -> Floats:
            w = expit(theta)[held.tasks][:, None] if held else 0.5
            return self.V + (1 - w) * held_n + w * held_o

        grown = self._rounds(settings.n2, step, [n, o, held_n, held_o, theta], mixed)
        w = expit(theta)[rows.tasks][:, None]
        self.F += (1 - w) * n + w * o
        self.V[:] = mixed()
        regular, outlier = (
            Forest.stacked([self._none(False), *(pair[i] for pair in grown)]) for i in (0, 1)
        )
        return regular, outlier, np.array(path[: len(grown) + 1])

    def _theta_step(
        self, theta: Floats, share: Floats, g: Floats, h: Floats | None, apart: Floats
    ) -> Floats:
        """Downhill direction of θ ``[tasks]``: ``−∂L/∂θ``, over the curvature with Newton.

        ``∂L_r/∂θ_r = −Σ_i g_i·(o_i − n_i) · σ'(θ_r) + l2·θ_r``, curvature (Gauss-Newton)
        ``Σ_i h_i·(o_i − n_i)² · σ'(θ_r)² + l2``.
        """
        first = self.grower.starts[:-1]
        slope, l2 = share * (1 - share), self.settings.theta_l2
        move = np.add.reduceat((g * apart).sum(1), first) * slope - l2 * theta
        if h is not None:
            bend = np.add.reduceat((h * apart**2).sum(1), first) * slope**2 + l2
            move = np.divide(move, bend, out=np.zeros_like(move), where=bend > 1e-12)
        return move

    def _bounded(self, theta: Floats) -> Floats:
        bound = self.settings.theta_clip
        return theta if bound is None else np.clip(theta, -bound, bound)

    def _rounds(
        self,
        rounds: int,
        step: Callable[[], Any],
        state: list[Floats],
        answers: Callable[[], Floats],
    ) -> list[Any]:
        """What up to ``rounds`` steps gave; ``state`` is left as it was after the last one kept."""
        grown: list[Any] = []
        losses: list[float] = []
        self.losses.append(losses)
        best, kept, saved = np.inf, 0, []
        held, patience = self.validation, self.settings.patience
        if held and rounds:
            best, saved = self.loss.value(held.y, answers()), [part.copy() for part in state]
        for j in range(1, rounds + 1):
            grown.append(step())
            record: dict[str, Any] = {"block": len(self.losses), "round": j}
            if held and patience:
                losses.append(self.loss.value(held.y, answers()))
                record["validation_loss"] = losses[-1]
                if losses[-1] < best:
                    best, kept, saved = losses[-1], j, [part.copy() for part in state]
                elif j - kept >= patience:
                    break
            self.progress(record)
        if not saved:
            return grown
        for part, before in zip(state, saved, strict=True):
            part[:] = before
        return grown[:kept]

    def _none(self, by_task: bool) -> Forest:
        blocks = len(self.grower.starts) - 1 if by_task else 1
        return Forest.empty(blocks, self.rows.y.shape[1])


# -- scikit-learn --------------------------------------------------------------------------------


class _Estimator(TaskEstimator):
    """What the regressor and the classifier share.

    Args:
        n1, n2, n3, eta, depth, newton, leaf_l2, theta_l2, theta_clip, min_leaf, max_bins, patience:
            see ``Boosting``.
        scale: targets of a regression are standardised over all rows ("joint"), within each task
            ("task": its level is then no part of what is learned) or not ("none", the paper).
        validation_fraction: rows of every task that ``patience`` looks at; they are not trained on.
        task_column: column of ``X`` (position or name) that holds the task, unless ``task=`` does.
        categorical: columns (positions or names) that are categories; text columns of a data frame
            are categories by themselves.
        random_state: of θ and the validation rows.

    Attributes:
        tasks_: task ids in the order of everything that has one entry per task.
        outlier_scores_: ``[tasks]``, near 1 for tasks that do not go with the others.
        outlier_gap_: between the two groups; below ½ there is no outlier group.
        outlier_tasks_: ids of the outlier group.
        block_importances_: share of the gain by column for ``shared``, ``regular``, ``outlier``,
            ``own``; ``feature_importances_`` is that of all trees.
        validation_loss_: by block, after every round; empty without ``patience``.
    """

    def __init__(
        self,
        n1: int = 50,
        n2: int = 50,
        n3: int = 100,
        eta: float = 0.1,
        depth: int = 1,
        newton: bool = False,
        leaf_l2: float = 1.0,
        theta_l2: float = 0.0,
        theta_clip: float | None = None,
        min_leaf: int = 1,
        max_bins: int = MAX_BINS,
        patience: int | None = None,
        scale: Literal["joint", "task", "none"] = "joint",
        validation_fraction: float = 0.1,
        task_column: int | str | None = None,
        categorical: Sequence[int | str] = (),
        random_state: Any = None,
    ) -> None:
        self.n1 = n1
        self.n2 = n2
        self.n3 = n3
        self.eta = eta
        self.depth = depth
        self.newton = newton
        self.leaf_l2 = leaf_l2
        self.theta_l2 = theta_l2
        self.theta_clip = theta_clip
        self.min_leaf = min_leaf
        self.max_bins = max_bins
        self.patience = patience
        self.scale = scale
        self.validation_fraction = validation_fraction
        self.task_column = task_column
        self.categorical = categorical
        self.random_state = random_state

    def _boost(self, rows: Rows, loss: Loss) -> None:
        names = [f for f in asdict(Boosting()) if f != "seed"]
        draw = np.random.default_rng(check_random_state(self.random_state).randint(2**31 - 1))
        settings = Boosting(**{f: getattr(self, f) for f in names}, seed=int(draw.integers(2**31)))
        settings.check()
        validation = None
        if self.patience is not None:
            rows, validation = held_out(rows, self.validation_fraction, draw)
        self.blocks_ = settings.boost(
            rows, loss, categorical=self._categories, validation=validation
        )

    @property
    def outlier_scores_(self) -> Floats:
        return self.blocks_.outliers.scores

    @property
    def outlier_gap_(self) -> float:
        return self.blocks_.outliers.gap

    @property
    def outlier_tasks_(self) -> NDArray:
        return self.tasks_[self.blocks_.outliers.tasks]

    @property
    def block_importances_(self) -> dict[str, Floats]:
        return {name: _shares(gains) for name, gains in self.blocks_.gains.items()}

    @property
    def feature_importances_(self) -> Floats:
        return _shares(np.sum(list(self.blocks_.gains.values()), axis=0))

    @property
    def validation_loss_(self) -> tuple[tuple[float, ...], ...]:
        return self.blocks_.losses


def _shares(gains: Floats) -> Floats:
    return gains / gains.sum() if gains.sum() > 0 else np.zeros(len(gains))


class RMTGBRegressor(RegressorMixin, _Estimator):
    """R-MTGB for one or more numbers; parameters and attributes as in ``_Estimator``."""

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    def fit(self, X: Any, y: Any, task: ArrayLike | None = None) -> Self:
        """Fit rows ``X [n, columns]``, ``y [n]`` or ``[n, targets]``; ``task [n]`` are any ids.

        Without tasks all rows are one task.
        """
        X, y, tasks = self._read(X, task, fitting=True, y=y, y_numeric=True, multi_output=True)
        self._flat = y.ndim == 1
        rows = Rows.ordered(X, y.reshape(len(X), -1).astype(np.float64), tasks)
        self._scale = Scale.fit(rows, self.scale)
        self._boost(replace(rows, y=self._scale.down(rows.y, rows.tasks)), Squared())
        return self

    def predict(self, X: Any, task: ArrayLike | None = None) -> Floats:
        """``[n]`` or ``[n, targets]``; a task that was not fitted gets m and the mean mixture."""
        X, _, tasks = self._read(X, task, fitting=False)
        return self._in_unit(self.blocks_.answers(X, tasks), tasks)

    def staged_predict(self, X: Any, task: ArrayLike | None = None) -> Iterator[Floats]:
        """The prediction after every round, block after block."""
        X, _, tasks = self._read(X, task, fitting=False)
        return (self._in_unit(F, tasks) for F in self.blocks_.staged(X, tasks))

    def _in_unit(self, answers: Floats, tasks: NDArray[np.int64]) -> Floats:
        values = self._scale.up(answers, tasks)
        return values[:, 0] if self._flat else values


class RMTGBClassifier(ClassifierMixin, _Estimator):
    """R-MTGB for two or more classes; parameters (but ``scale``) and attributes as the base."""

    def fit(self, X: Any, y: Any, task: ArrayLike | None = None) -> Self:
        """Fit rows ``X [n, columns]``, classes ``y [n]``; ``task [n]`` are any ids.

        Without tasks all rows are one task. A task need not have every class.
        """
        X, y, tasks = self._read(X, task, fitting=True, y=y)
        check_classification_targets(y)
        self.classes_, codes = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise InputError(f"y holds only one class, {self.classes_[0]!r}; two are needed")
        self._boost(Rows.ordered(X, np.eye(len(self.classes_))[codes], tasks), CrossEntropy())
        return self

    def predict_proba(self, X: Any, task: ArrayLike | None = None) -> Floats:
        """Chances ``[n, classes]``; a task that was not fitted gets m and the mean mixture."""
        X, _, tasks = self._read(X, task, fitting=False)
        return softmax(self.blocks_.answers(X, tasks), axis=1)

    def staged_predict_proba(self, X: Any, task: ArrayLike | None = None) -> Iterator[Floats]:
        """The chances after every round, block after block."""
        X, _, tasks = self._read(X, task, fitting=False)
        return (softmax(F, axis=1) for F in self.blocks_.staged(X, tasks))

    def predict(self, X: Any, task: ArrayLike | None = None) -> NDArray:
        """The most probable class of every row."""
        best = self.predict_proba(X, task).argmax(1)
        return self.classes_[best]


# -- learner -------------------------------------------------------------------------------------


@dataclass
class RMTGB(FittedMixin, Boosting):
    """R-MTGB as a learner of a suite whose tasks are of one kind.

    Every row is used once for each task it has a label of, so tasks may be groups of rows (a school
    each) or several targets of the same rows. Classes are those of all tasks together.

    Attributes:
        patience: as in ``Boosting``; the suite's validation rows decide.
        scale: targets of regressions are standardised over all tasks ("joint"), within each task
            ("task") or not ("none"). "auto" is joint where the tasks are groups of one target,
            because levels are then part of what is shared, and by task where targets differ,
            because their units do.
    """

    patience: int | None = 20
    scale: Literal["auto", "joint", "task", "none"] = "auto"

    id: ClassVar[str] = "r_mtgb"
    shares: ClassVar[bool] = True

    def fit(
        self,
        suite: Suite,
        *,
        out: str | os.PathLike[str] | None = None,
        progress: Callable[[dict[str, Any]], None] = lambda record: None,
    ) -> Self:
        """Fit all tasks of the suite (``out`` is not used: a fit takes seconds)."""
        self.validate(suite)
        self.processor_ = processor = Processor.fit(suite)
        train, held = (self._rows(processor.encode(suite, s)) for s in ("train", "validation"))
        loss: Loss = CrossEntropy()
        if self._classes(processor) is None:
            loss, self.scale_ = Squared(), Scale.fit(train, self._scaling())
            train, held = (replace(r, y=self.scale_.down(r.y, r.tasks)) for r in (train, held))
        count = len(processor.numeric)
        codes = range(count, count + len(processor.categorical))
        self.history_: list[dict[str, Any]] = []  # rounds are no epochs: see blocks_.losses
        self.blocks_ = self.boost(
            train, loss, categorical=codes, validation=held, progress=progress
        )
        return self

    def validate(self, suite: Suite) -> None:
        """Refuse, before anything is fitted, data and settings that cannot be fitted."""
        super().validate(suite)
        self.check()
        kinds = sorted({t.kind.name for t in suite.tasks})
        if len(kinds) > 1:
            raise InputError(
                "r_mtgb needs tasks of one kind, all regressions or all classifications; this "
                f"suite has {' and '.join(kinds)}"
            )
        types = sorted({str(suite.labels(t, "train").type) for t in suite.tasks})
        if kinds == [Classification.name] and len(types) > 1:
            raise InputError(
                "r_mtgb needs tasks that choose among the same sort of classes; this suite has "
                f"classes of type {' and '.join(types)}"
            )

    def explain(self) -> dict[str, Any]:
        """Which tasks do not go with the others: scores by task, gap, the group, one sentence."""
        processor = self._fitted()
        names = [t.name for t in processor.tasks]
        found = self.blocks_.outliers
        return {
            "scores": dict(zip(names, found.scores.tolist(), strict=True)),
            "gap": found.gap,
            "outliers": [names[i] for i in found.tasks],
            "sentence": found.sentence(names)
            if self.blocks_.regular.rounds
            else "no outlier group: block 2, which would find it, has no trees",
        }

    def with_seed(self, seed: int) -> Self:
        return replace(self, seed=seed)

    @property
    def parameters_(self) -> int:
        return self.blocks_.parameters

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Settings, processor and trees in one folder, atomically, without pickle."""
        processor = self._fitted()
        data, arrays = self.blocks_.saved()
        if self._classes(processor) is None:
            arrays |= {"scale.mean": self.scale_.mean, "scale.std": self.scale_.std}
        write_folder(
            folder,
            data={
                "config": {"system": self.id, "settings": to_dict(self)},
                "processor": processor.to_dict(),
                "blocks": data,
            },
            tensors={name: torch.from_numpy(array) for name, array in arrays.items()},
        )

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike[str]) -> Self:
        data, tensors = read_folder(folder)
        learner = from_dict(cls, saved_settings(data, cls.id, folder), where=str(folder))
        learner.processor_ = Processor.from_dict(data["processor"])
        arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
        if "scale.mean" in arrays:
            learner.scale_ = Scale(arrays.pop("scale.mean"), arrays.pop("scale.std"))
        learner.blocks_ = Blocks.loaded(data["blocks"], arrays)
        return learner

    def _decoded(self, batch: Batch, tasks: Sequence[str]) -> dict[str, NDArray]:
        processor, parts = self._fitted(), self.blocks_.parts(self._matrix(batch))
        classes = self._classes(processor)
        decoded = {}
        for place, task in enumerate(processor.tasks):
            if task.name not in tasks:
                continue
            codes = np.full(len(batch), place)
            answers = self.blocks_.mixed(parts, codes)
            if classes is None:
                decoded[task.name] = self.scale_.up(answers, codes)[:, 0]
            else:
                own = [classes.index(c) for c in task.kind.classes]  # type: ignore[attr-defined]
                decoded[task.name] = softmax(answers[:, own], axis=1)
        return {name: decoded[name] for name in tasks}

    def _rows(self, batch: Batch) -> Rows:
        """The labelled rows of every task, one task under the other."""
        X, classes = self._matrix(batch), self._classes(self.processor_)
        parts, targets, tasks = [], [], []
        for place, task in enumerate(self.processor_.tasks):
            mask = batch.masks[task.name].numpy()
            y = batch.targets[task.name].numpy()[mask]
            if classes is not None:
                own = np.array([classes.index(c) for c in task.kind.classes])  # type: ignore[attr-defined]
                targets.append(np.eye(len(classes))[own[y]])
            else:
                targets.append(y.astype(np.float64)[:, None])
            parts.append(X[mask])
            tasks.append(np.full(len(y), place))
        return Rows(*(np.concatenate(part) for part in (parts, targets, tasks)))

    def _matrix(self, batch: Batch) -> Floats:
        """All inputs side by side; code 0 of a category says missing or never seen."""
        flat = {k: v.numpy().reshape(len(batch), -1) for k, v in batch.inputs.items()}
        if "categorical" in flat:
            codes = flat["categorical"].astype(np.float64)
            flat["categorical"] = np.where(codes == 0, np.nan, codes)
        return np.concatenate([v.astype(np.float64) for v in flat.values()], axis=1)

    def _classes(self, processor: Processor) -> list[Any] | None:
        """The classes of all tasks together; None for regressions."""
        kinds = [t.kind for t in processor.tasks]
        if not isinstance(kinds[0], Classification):
            return None
        return sorted({c for kind in kinds for c in kind.classes})  # type: ignore[attr-defined]

    def _scaling(self) -> Literal["joint", "task", "none"]:
        if self.scale != "auto":
            return self.scale
        return "joint" if len({t.target for t in self.processor_.tasks}) == 1 else "task"
