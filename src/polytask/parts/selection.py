"""Source-task selection: how many labels to buy from which task, for the sake of one target task.

Source: Wang, Chen, Jamieson, Du, "Improved Active Multi-Task Representation Learning via Lasso",
ICML 2023, arXiv 2306.02556; Chen, Du, Jamieson, ICML 2022, for the L2 rule.

Every task has a head in one common feature space: ``W [k, M]`` of the M sources, ``w [k]`` of the
target. With ``n_t`` labels of source t the target's excess risk grows with

    F(ν, n) = Σ_t ν_t² / n_t            for any ν with W ν = w
    F*(n)   = min over ν = wᵀ (W diag(n) Wᵀ)⁻¹ w

For a fixed ν the best n spends in proportion to |ν_t|, and then F = ||ν||₁² / N; so the best ν is
the one of smallest L1 norm, which needs at most k sources. With a price c_t per label the same
holds of the columns divided by √c_t: n_t ∝ |ν_t| / √c_t, and F = (Σ √c_t |ν_t|)² / money.

A plan says what to buy and why, a ledger holds every purchase, and ``keep_labels`` hides what was
not bought, so that any learner can be fitted on the rest; ``plan.weights`` are the shares of a
mixture that draws from each task as often as the plan says.
"""

from __future__ import annotations

import hashlib
import json
import warnings
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import ArrayLike, NDArray

from polytask.data import Batch, Suite
from polytask.errors import InputError, nearest

Norm = Literal["l1", "l2"]
Rule = Literal["l1", "l2", "uniform"]
FAR = 0.3  # a residual above this: the sources say little about the target

_TINY = 1e-9  # relevance below this share of the largest is none


# -- relevance -----------------------------------------------------------------------------------


def relevance(
    W: ArrayLike,
    w: ArrayLike,
    norm: Norm = "l1",
    penalty: float | None = None,
    prices: ArrayLike | None = None,
    max_sources: int | None = None,
    groups: ArrayLike | None = None,
) -> NDArray[np.float64]:
    """How much of each source's head the target's head is made of.

    ``"l2"``: the ν of smallest Σ c_t ν_t² with W ν = w, W⁺ w at equal prices. ``"l1"``: the one of
    smallest Σ √c_t |ν_t| (basis pursuit, a linear program) for penalty 0, else the Lasso
    argmin ½ ||W ν - w||² + λ Σ √c_t |ν_t|, which is for heads that are estimates. If no ν reaches
    w, its nearest point in the span of the sources stands for it.

    Args:
        W: heads of the sources, ``[k, M]``.
        w: head of the target, ``[k]``, or ``[k, c]`` for a target of c outputs, each on its own.
        penalty: λ; None is 0.01 max |Wᵀ w|, a hundredth of what would leave nothing.
        prices: price of a label of each source, ``[M]``.
        max_sources: keep the sources of largest √c_t |ν_t| and solve again on them.
        groups: source that each column belongs to, for sources with several outputs.

    Returns:
        ν ``[M]``, or ``[M, c]``; its sign says whether the source points along or against.

    Raises:
        InputError: shapes that do not match, numbers that are not finite, a price not above 0.
    """
    W, w = _heads(W, w)
    scale = np.sqrt(_per_source(prices, W.shape[1], 1.0, "prices", above=True))
    owner = np.arange(W.shape[1]) if groups is None else np.asarray(groups)
    if max_sources is not None and max_sources < 1:
        raise InputError(f"max_sources is {max_sources}; at least one source must be allowed")
    if penalty is not None and penalty < 0:
        raise InputError(f"penalty is {penalty}; it must not be negative")
    targets = w.reshape(len(w), -1)

    def solved(columns: NDArray[np.bool_]) -> NDArray[np.float64]:
        nu = np.zeros((W.shape[1], targets.shape[1]))
        for j, target in enumerate(targets.T):
            nu[columns, j] = _solve(W[:, columns] / scale[columns], target, norm, penalty)
        return nu / scale[:, None]

    nu = solved(np.ones(W.shape[1], bool))
    if max_sources is not None:
        strength = np.bincount(owner, np.square(scale[:, None] * nu).sum(1))
        if np.count_nonzero(strength) > max_sources:
            nu = solved(np.isin(owner, np.argsort(-strength, kind="stable")[:max_sources]))
    return nu.reshape(W.shape[1], *w.shape[1:])


def held_out_penalty(
    W: ArrayLike, fitted: ArrayLike, held_out: ArrayLike, prices: ArrayLike | None = None
) -> float:
    """The λ whose ν, found for one half of the target's labels, fits the head of the other half.

    Args:
        W: heads of the sources, ``[k, M]``.
        fitted, held_out: heads of the target from two halves of its labels, ``[k]`` or ``[k, c]``.
        prices: of a label of each source, ``[M]``.
    """
    W, fitted = _heads(W, fitted)
    _, held_out = _heads(W, held_out)
    price = _per_source(prices, W.shape[1], 1.0, "prices", above=True)
    largest = float(np.abs((W / np.sqrt(price)).T @ fitted).max())
    grid = largest * np.geomspace(1e-3, 1.0, 13)
    errors = [
        np.square(W @ relevance(W, fitted, penalty=penalty, prices=price) - held_out).sum()
        for penalty in grid
    ]
    return float(grid[int(np.argmin(errors))])


def _solve(V: NDArray, w: NDArray, norm: Norm, penalty: float | None) -> NDArray[np.float64]:
    """The η of one target on columns that are already divided by √price."""
    size = np.linalg.norm(w)
    if size == 0 or not V.any():
        return np.zeros(V.shape[1])
    if norm == "l2":
        return np.linalg.pinv(V, rcond=1e-10) @ w
    if norm != "l1":
        raise InputError(f"norm is {norm!r}; it is 'l1' or 'l2'")
    largest = float(np.abs(V.T @ w).max())
    strength = 0.01 * largest if penalty is None else penalty
    if strength >= largest:
        return np.zeros(V.shape[1])
    return _basis_pursuit(V, w / size) * size if strength == 0 else _lasso(V, w, strength)


def _basis_pursuit(V: NDArray, w: NDArray) -> NDArray[np.float64]:
    from scipy.optimize import linprog

    left, values, _ = np.linalg.svd(V, full_matrices=False)
    span = left[:, values > 1e-10 * values[0]]
    # In coordinates of the span the equations are feasible, and none is superfluous.
    A, b = span.T @ V, span.T @ w
    found = linprog(np.ones(2 * V.shape[1]), A_eq=np.hstack([A, -A]), b_eq=b, method="highs-ds")
    if found.x is None:
        raise InputError(f"basis pursuit found no relevance: {found.message}")
    eta = found.x[: V.shape[1]] - found.x[V.shape[1] :]
    support = np.abs(eta) > _TINY * np.abs(eta).max()
    exact = np.zeros(V.shape[1])
    # A vertex has independent columns: solving for them again wins back the solver's tolerance.
    exact[support] = np.linalg.lstsq(A[:, support], b, rcond=None)[0]
    return exact


def _lasso(V: NDArray, w: NDArray, penalty: float) -> NDArray[np.float64]:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import Lasso

    # scikit-learn divides the squared error by the number of equations, k.
    model = Lasso(penalty / len(w), fit_intercept=False, tol=1e-6, max_iter=10_000)
    with warnings.catch_warnings():
        # With k < M and a small λ the last digits take long, and no plan is different for them.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(V, w).coef_


# -- predicted errors ----------------------------------------------------------------------------


def predicted_error(W: ArrayLike, w: ArrayLike, counts: ArrayLike) -> float:
    """F*(n) = wᵀ (W diag(n) Wᵀ)⁻¹ w of any plan, in units of σ²kd.

    Infinite where the sources that have labels do not span w. For a target of several outputs
    (``w [k, c]``) the sum over them.
    """
    W, w = _heads(W, w)
    S = (W * np.asarray(counts, float)) @ W.T
    solution = np.linalg.pinv(S, rcond=1e-12, hermitian=True) @ w
    if np.linalg.norm(S @ solution - w) > 1e-6 * np.linalg.norm(w):
        return float("inf")
    return float((w * solution).sum())


# -- allocation ----------------------------------------------------------------------------------


def allocate(
    nu: ArrayLike,
    budget: float,
    power: int = 1,
    floor: ArrayLike = 0,
    prices: ArrayLike | None = None,
    fees: ArrayLike | None = None,
    available: ArrayLike | None = None,
    whole: bool = True,
) -> NDArray[Any]:
    """Labels per source: n_t ∝ (√c_t |ν_t|)^q / c_t, between floors and what there is.

    The scale is such that the whole budget is spent: labels c_t n_t, and a_t for each source that
    is opened. What the relevant sources cannot take is dealt evenly over the others that cost no
    fee. Where ν is 0 everywhere, all sources get the same number.

    Args:
        nu: relevance, ``[M]``.
        budget: money, or labels where there are no prices.
        power: q, 1 for L1 and 2 for the older L2 strategy.
        floor: least labels of every source, or of each, ``[M]`` (those already bought, say).
        prices, fees: c_t of a label and a_t of opening a source, ``[M]``; 1 and 0 by default.
        available: labels that each source has, ``[M]``; none is ever drawn twice.
        whole: False gives the numbers before rounding.

    Returns:
        counts ``[M]``. Rounding keeps the cost within the budget, and spends all of it but less
        than one label where prices are equal.

    Raises:
        InputError: a budget that does not pay the floors, a floor above what a source has, a
            negative number, a price not above 0.
    """
    nu = np.asarray(nu, float)
    sources = len(nu)
    price = _per_source(prices, sources, 1.0, "prices", above=True)
    fee = _per_source(fees, sources, 0.0, "fees")
    low = _per_source(floor, sources, 0.0, "floor")
    top = _per_source(available, sources, np.inf, "available", finite=False)
    if not np.isfinite(nu).all():
        raise InputError(f"relevance of source {_first(~np.isfinite(nu))} is not a finite number")
    if not np.isfinite(budget) or budget <= 0:
        raise InputError(f"budget is {budget}; it must be a positive number")
    if (low > top).any():
        t = _first(low > top)
        raise InputError(f"floor is {low[t]:g} labels, but source {t} has only {top[t]:g}")
    weight = (np.sqrt(price) * np.abs(nu)) ** power / price
    if not weight.any():
        weight = np.ones(sources)
    opened = (weight > 0) | (low > 0)
    money = budget - fee[opened].sum()
    if money < price @ low - _TINY * budget:
        raise InputError(
            f"budget {budget:g} does not pay the floors and fees of {np.count_nonzero(opened)} "
            f"sources, {price @ low + fee[opened].sum():g}; raise the budget or lower the floor"
        )
    if whole:
        # A source that is needed gets a label, however little of it: without it F is infinite.
        needed = np.where(weight > 0, np.clip(1, low, top), low)
        low = needed if price @ needed <= money else low
    real = _filled(weight, money, price, low, top)
    rest = ((weight == 0) & (opened | (fee == 0))).astype(float)
    if rest.any() and np.isfinite(real).all() and price @ real < money:
        real = _filled(rest, money, price, real, np.where(rest > 0, top, real))
    return _rounded(real, money, price, top) if whole else real


def _filled(
    weight: NDArray, money: float, price: NDArray, low: NDArray, top: NDArray
) -> NDArray[np.float64]:
    """``clip(s · weight, low, top)`` with the s that costs just the money, or all there is."""
    from scipy.optimize import brentq

    full = np.where(weight > 0, top, low)
    if price @ full <= money:
        return full

    def over(s: float) -> float:
        return float(price @ np.clip(s * weight, low, np.maximum(low, full)) - money)

    upper = 1.0
    while over(upper) < 0:
        upper *= 2
    scale = brentq(over, 0.0, upper, xtol=1e-14 * upper, rtol=1e-14) if over(0.0) < 0 else 0.0
    return np.clip(scale * weight, low, np.maximum(low, full))


def _rounded(real: NDArray, money: float, price: NDArray, top: NDArray) -> NDArray[np.int64]:
    """Whole numbers below, then one more in the order of the largest remainders while it lasts."""
    counts = np.floor(real + _TINY).astype(np.int64)
    left = money - price @ counts
    for t in np.argsort(counts - real, kind="stable"):
        if real[t] > 0 and counts[t] < top[t] and price[t] <= left + _TINY * money:
            counts[t] += 1
            left -= price[t]
    return counts


# -- plan ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Share:
    """What is bought of one source, and why, in words."""

    source: str
    relevance: float
    labels: int
    price: float
    cost: float
    reason: str


@dataclass(frozen=True)
class SourcePlan:
    """What to buy from whom for one target.

    Attributes:
        target: the task that it is for.
        rule: ``"l1"``, ``"l2"`` or ``"uniform"``.
        shares: one per source.
        target_labels: labels that the target has itself.
        residual: ||W ν - w|| / ||w||, what the sources cannot say about the target (0 to 1).
        predicted, equal: F* of this plan and of equal shares for the same money (NaN if unknown).
    """

    target: str
    rule: str
    shares: tuple[Share, ...]
    target_labels: int = 0
    residual: float = float("nan")
    predicted: float = float("nan")
    equal: float = float("nan")

    @property
    def counts(self) -> dict[str, int]:
        """Source -> labels."""
        return {share.source: share.labels for share in self.shares}

    @property
    def cost(self) -> float:
        return sum(share.cost for share in self.shares)

    @property
    def weights(self) -> dict[str, float]:
        """Task -> share of all labels, the target's own among them; sums to 1."""
        labels = {**self.counts, self.target: self.target_labels}
        total = sum(labels.values())
        return {task: count / total for task, count in labels.items()}

    @property
    def warning(self) -> str:
        """A sentence where the sources say little about the target, else ""."""
        if not self.residual > FAR:
            return ""
        return (
            f"target {self.target!r} is {self.residual:.0%} outside of what the sources span: "
            "expect little of them, or add sources nearer to it"
        )

    @property
    def sentence(self) -> str:
        """The plan in one sentence."""
        total = sum(self.counts.values())
        most = sorted((s for s in self.shares if s.relevance), key=lambda s: -s.labels)
        used = [s for s in most if s.labels]
        named = ", ".join(f"{s.source} ({s.labels})" for s in used[:3])
        if self.rule == "uniform" or not used:
            return f"{self.target!r} gets equal shares of its {len(self.shares)} sources: {total}"
        return (
            f"{self.target!r} is made up of {len(used)} of its {len(self.shares)} sources; most of "
            f"its {total} labels are bought from {named}"
        )

    def apply(self, data: Data, seed: int = 0) -> Data:
        """The suite or encoded rows with the labels of this plan, the target's all kept."""
        return keep_labels(data, self.counts, seed)

    def table(self) -> str:
        """The plan as text, the largest purchase first."""
        width = max([6, *(len(s.source) for s in self.shares)])
        lines = [f"{'source':{width}} {'relevance':>9} {'labels':>7} {'cost':>9}  why"]
        for s in sorted(self.shares, key=lambda s: -s.labels):
            lines.append(
                f"{s.source:{width}} {s.relevance:>+9.3f} {s.labels:>7} {s.cost:>9.6g}  {s.reason}"
            )
        total = sum(self.counts.values())
        lines.append(f"{'all':{width}} {'':9} {total:>7} {self.cost:>9.6g}  for {self.target!r}")
        if np.isfinite(self.predicted / self.equal):
            lines.append(
                f"predicted error: {self.predicted / self.equal:.2f} of that of equal shares; "
                f"outside of the sources' span: {self.residual:.0%}"
            )
        return "\n".join([*lines, *([self.warning] if self.warning else [])])

    def to_dict(self) -> dict[str, Any]:
        """Plain data; NaN (not known) is None."""
        figures = {k: getattr(self, k) for k in ("residual", "predicted", "equal")}
        known = {k: v if np.isfinite(v) else None for k, v in figures.items()}
        return {**asdict(self), "shares": [asdict(s) for s in self.shares], **known}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> SourcePlan:
        fields: dict[str, Any] = {k: float("nan") if v is None else v for k, v in data.items()}
        fields["shares"] = tuple(Share(**s) for s in data["shares"])
        return cls(**fields)


def plan_sources(
    target: str,
    heads: Mapping[str, ArrayLike],
    head: ArrayLike,
    budget: float,
    *,
    rule: Rule = "l1",
    penalty: float | None = None,
    floor: int | Mapping[str, int] = 0,
    prices: Mapping[str, float] | None = None,
    fees: Mapping[str, float] | None = None,
    available: Mapping[str, int] | None = None,
    max_sources: int | None = None,
    target_labels: int = 0,
) -> SourcePlan:
    """Relevance, then allocation, then the words for it.

    Opening fees are met by greedy drop: while leaving out a source (and solving again without it)
    lowers the predicted error for the budget, and its loss leaves the target as reachable, it is
    left out.

    Args:
        heads: source -> its head ``[k]`` or ``[k, outputs]``, all in the basis of ``head``.
        head: head of the target.
        floor: least labels of every source, or of each.
        prices, fees, available: per source; 1, 0 and no limit where nothing is said.
        max_sources: buy from so many sources at most, floors aside.
        target_labels: labels of the target, for the plan's weights.
    """
    names = list(heads)
    if not names:
        raise InputError(f"target {target!r} has no source task; rule {rule!r} needs one")
    if rule not in ("l1", "l2", "uniform"):
        raise InputError(f"rule is {rule!r}{nearest(rule, ['l1', 'l2', 'uniform'])}")
    columns = [np.asarray(heads[n], float).reshape(len(np.asarray(heads[n])), -1) for n in names]
    groups = np.repeat(np.arange(len(names)), [c.shape[1] for c in columns])
    W, w = _heads(np.hstack(columns), head)
    price = _named(prices, names, 1.0, "prices")
    fee = _named(fees, names, 0.0, "fees")
    low = _named(floor, names, 0.0, "floor")
    top = _named(available, names, np.inf, "available")
    power = 2 if rule == "l2" else 1

    def solved(closed: NDArray[np.bool_]) -> tuple[NDArray, float]:
        """(ν per source and output, residual) with some sources left out."""
        open_ = ~closed[groups]
        nu = np.zeros((W.shape[1], w.reshape(len(w), -1).shape[1]))
        norm: Norm = "l2" if rule == "l2" else "l1"
        nu[open_] = relevance(
            W[:, open_], w, norm, penalty, price[groups][open_], max_sources, groups[open_]
        ).reshape(int(open_.sum()), -1)
        gap = np.linalg.norm(W @ nu - w.reshape(len(w), -1)) / (np.linalg.norm(w) or 1.0)
        return nu, float(gap) if w.any() else float("nan")

    nu, residual = solved(np.zeros(len(names), bool))
    if fee.any() and rule != "uniform":
        nu, residual = _worth_opening(nu, residual, solved, groups, budget, price, fee, low > 0)
    strength = _by_source(nu, groups)
    shared = np.zeros(len(names)) if rule == "uniform" else strength
    if max_sources is not None and shared.any():
        top = np.where(shared != 0, top, low)  # nothing goes to the others, whatever is left
    counts = allocate(shared, budget, power, low, price, fee, top)
    reachable, predicted, equal = W @ nu, float("nan"), float("nan")
    if strength.any():
        predicted = predicted_error(W, reachable, counts[groups])
        if budget - fee.sum() >= price @ low:
            even = allocate(np.zeros(len(names)), budget, 1, low, price, fee, top)
            equal = predicted_error(W, reachable, even[groups])
    shares = tuple(
        Share(
            name,
            float(strength[t]),
            int(counts[t]),
            float(price[t]),
            float(price[t] * counts[t] + (fee[t] if counts[t] else 0.0)),
            _reason(rule, shared, t, counts, low, top, fee),
        )
        for t, name in enumerate(names)
    )
    return SourcePlan(target, rule, shares, target_labels, residual, predicted, equal)


def _worth_opening(
    nu: NDArray,
    residual: float,
    solved: Any,
    groups: NDArray,
    budget: float,
    price: NDArray,
    fee: NDArray,
    open_anyway: NDArray[np.bool_],
) -> tuple[NDArray, float]:
    """Greedy drop: close sources whose fee buys more as labels of the others.

    Sources with a floor are open anyway; nothing is saved by dropping them.
    """

    def value(nu: NDArray) -> float:
        strength = np.abs(_by_source(nu, groups))
        money = budget - fee[(strength > 0) | open_anyway].sum()
        return float((np.sqrt(price) @ strength) ** 2 / money) if money > 0 else np.inf

    closed = np.zeros(len(fee), bool)
    while True:
        trials = []
        for t in np.flatnonzero((_by_source(nu, groups) != 0) & (fee > 0) & ~open_anyway):
            without = closed | (np.arange(len(fee)) == t)
            if without.all():
                continue
            trial, gap = solved(without)
            if gap <= residual + 0.01 and trial.any():
                trials.append((value(trial), t, trial, gap))
        best = min(trials, key=lambda trial: trial[0], default=None)
        if best is None or best[0] >= value(nu):
            return nu, residual
        _, t, nu, residual = best
        closed[t] = True


def _by_source(nu: NDArray, groups: NDArray) -> NDArray[np.float64]:
    """One number per source: ν itself, or the norm of a source's several numbers."""
    if nu.shape[1] == 1 and len(groups) == groups[-1] + 1:
        return nu[:, 0]
    return np.sqrt(np.bincount(groups, np.square(nu).sum(1)))


def _reason(
    rule: Rule, nu: NDArray, t: int, counts: NDArray, low: NDArray, top: NDArray, fee: NDArray
) -> str:
    if rule == "uniform":
        return "an equal share"
    if not nu.any():
        return "nothing stands out: an equal share"
    if nu[t] == 0:
        if counts[t] == 0:
            return "not needed" + (": its fee buys more elsewhere" if fee[t] else "")
        return "not needed: the floor only" if counts[t] <= low[t] else "what the others could not"
    share = f"{abs(nu[t]) / np.abs(nu).sum():.0%} of the target's make-up"
    side = "" if nu[t] > 0 else ", turned round"
    limit = ": all it has" if counts[t] >= top[t] else ""
    limit = limit or (": no more than the floor" if counts[t] <= low[t] and low[t] else "")
    return share + side + limit


# -- what was bought -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Purchase:
    """Labels of one task bought at one stage."""

    stage: str
    task: str
    labels: int
    price: float
    fee: float

    @property
    def cost(self) -> float:
        return self.labels * self.price + self.fee


@dataclass
class Ledger:
    """Every label that was bought; it refuses what the budget or the pool does not hold.

    Attributes:
        budget: money, or labels where there are no prices.
        prices, fees: of a label, and of a task's first purchase; 1 and 0 where nothing is said.
        available: labels that a task has; no limit where nothing is said.
        purchases: in order.
    """

    budget: float
    prices: Mapping[str, float] = field(default_factory=dict)
    fees: Mapping[str, float] = field(default_factory=dict)
    available: Mapping[str, int] = field(default_factory=dict)
    purchases: list[Purchase] = field(default_factory=list)

    def buy(self, stage: str, task: str, labels: int) -> None:
        """Book labels of a task; its fee comes with the first of them.

        Raises:
            InputError: more than the budget pays or the task has, or a negative number.
        """
        if labels < 0:
            raise InputError(f"stage {stage!r} buys {labels} labels of {task!r}")
        if labels == 0:
            return
        had = self.counts.get(task, 0)
        if had + labels > self.available.get(task, had + labels):
            raise InputError(
                f"task {task!r} has {self.available[task]} labels, of which {had} are bought; "
                f"stage {stage!r} asks for {labels} more"
            )
        fee = 0.0 if had else self.fees.get(task, 0.0)
        entry = Purchase(stage, task, labels, self.prices.get(task, 1.0), fee)
        if entry.cost > self.remaining + _TINY * self.budget:
            raise InputError(
                f"{labels} labels of {task!r} cost {entry.cost:g}, but of the budget of "
                f"{self.budget:g} only {self.remaining:g} is left"
            )
        self.purchases.append(entry)

    @property
    def counts(self) -> dict[str, int]:
        """Task -> labels bought so far."""
        found: dict[str, int] = {}
        for entry in self.purchases:
            found[entry.task] = found.get(entry.task, 0) + entry.labels
        return found

    @property
    def spent(self) -> float:
        return sum(entry.cost for entry in self.purchases)

    @property
    def remaining(self) -> float:
        return self.budget - self.spent

    def table(self) -> str:
        """Labels, tasks and cost of each stage as text."""
        lines = [f"{'stage':14} {'tasks':>6} {'labels':>7} {'cost':>9}"]
        for stage in dict.fromkeys(e.stage for e in self.purchases):
            part = [e for e in self.purchases if e.stage == stage]
            labels, cost = sum(e.labels for e in part), sum(e.cost for e in part)
            lines.append(f"{stage:14} {len(part):>6} {labels:>7} {cost:>9.6g}")
        lines.append(f"{'left':14} {'':6} {'':7} {self.remaining:>9.6g}")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        return {
            **{k: dict(getattr(self, k)) for k in ("prices", "fees", "available")},
            "budget": self.budget,
            "purchases": [asdict(e) for e in self.purchases],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Ledger:
        return cls(**{**data, "purchases": [Purchase(**e) for e in data["purchases"]]})


Data = TypeVar("Data", Suite, Batch)


def keep_labels(data: Data, counts: Mapping[str, int], seed: int = 0) -> Data:
    """A suite (its training rows) or encoded rows with only so many labels of some tasks.

    Which ones is a matter of seed and task alone, and fewer are always among more: a purchase that
    follows keeps what was bought before.

    Raises:
        InputError: a task that is not there, or has fewer labels.
    """
    known = list(data.masks) if isinstance(data, Batch) else list(data.task_names)
    for name in counts:
        if name not in known:
            raise InputError(f"task {name!r} is not among the tasks{nearest(name, known)}")
    if isinstance(data, Batch):
        masks = dict(data.masks)
        for name, count in counts.items():
            kept = _kept(masks[name].numpy(), name, count, seed)
            masks[name] = torch.from_numpy(kept).to(masks[name].device)
        return replace(data, masks=masks)
    return _thinned(data, counts, seed)


def _thinned(suite: Suite, counts: Mapping[str, int], seed: int) -> Suite:
    from datasets import Dataset

    table = suite.table("train")
    for task in suite.tasks:
        if task.name not in counts:
            continue
        there = task.labels(table).is_valid().to_numpy()
        hidden = pa.array(there & ~_kept(there, task.name, counts[task.name], seed))
        column = table.column(task.target)  # tasks by group have it in common
        rest = pc.if_else(hidden, pa.scalar(None, column.type), column)
        table = table.set_column(table.column_names.index(task.target), task.target, rest)
    told = json.dumps([suite.fingerprint, sorted(counts.items()), seed]).encode()
    return replace(
        suite,
        splits={**suite.splits, "train": Dataset(table)},
        fingerprint=hashlib.blake2b(told, digest_size=16).hexdigest(),
    )


def _kept(mask: NDArray, task: str, count: int, seed: int) -> NDArray[np.bool_]:
    rows = np.flatnonzero(mask)
    if not 0 <= count <= len(rows):
        raise InputError(f"task {task!r} has {len(rows)} labels; {count} cannot be kept")
    order = np.random.default_rng([seed, zlib.crc32(task.encode())]).permutation(rows)
    kept = np.zeros(len(mask), bool)
    kept[order[:count]] = True
    return kept


# -- checks --------------------------------------------------------------------------------------


def _heads(W: ArrayLike, w: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    W, w = np.asarray(W, float), np.asarray(w, float)
    if W.ndim != 2 or w.ndim not in (1, 2) or len(w) != len(W) or W.shape[1] == 0:
        raise InputError(
            f"heads W of shape {W.shape} and w of shape {w.shape} do not match: [k, M] and [k]"
        )
    for name, heads in (("W", W), ("w", w)):
        if not np.isfinite(heads).all():
            raise InputError(f"heads {name} hold a value that is not a finite number")
    return W, w


def _per_source(
    values: ArrayLike | None,
    sources: int,
    default: float,
    what: str,
    above: bool = False,
    finite: bool = True,
) -> NDArray[np.float64]:
    given = np.full(sources, default) if values is None else np.asarray(values, float)
    if given.shape not in ((), (sources,)):
        raise InputError(f"{what} has shape {given.shape}; there are {sources} sources")
    given = np.broadcast_to(given, (sources,)).astype(float)
    bad = ~(given > 0 if above else given >= 0) | (finite & ~np.isfinite(given))
    if bad.any():
        t, sign = _first(bad), "positive" if above else "no negative number"
        raise InputError(f"{what} of source {t} is {given[t]:g}; it must be finite and {sign}")
    return given


def _named(
    values: float | Mapping[str, float] | Mapping[str, int] | None,
    names: Sequence[str],
    default: float,
    what: str,
) -> NDArray[np.float64]:
    if values is None or not isinstance(values, Mapping):
        return np.full(len(names), default if values is None else float(values))
    for name, value in values.items():
        if name not in names:
            raise InputError(f"{what} names {name!r}, which is no source{nearest(name, names)}")
        least = "above 0" if what == "prices" else "at least 0"
        if not value >= 0 or (what == "prices" and value == 0):
            raise InputError(f"{what} of source {name!r} is {value}; it must be {least}")
    return np.array([float(values.get(name, default)) for name in names])


def _first(bad: NDArray) -> int:
    return int(np.flatnonzero(bad)[0])
