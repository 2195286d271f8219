"""Hoeffding trees: classification trees that grow while a stream passes; pools of them, compiled.

Source: Domingos & Hulten, "Mining High-Speed Data Streams" (VFDT), KDD 2000; naive Bayes at the
leaves, taken when it has been right more often: Holmes, Kirkby & Pfahringer, PAKDD 2005; Gaussian
observers: Pfahringer, Holmes & Kirkby, PAKDD 2008. Conventions are those of MOA and river.

A leaf keeps, per class, a Gaussian of every numeric feature and the counts of every nominal value.
After ``grace`` instances it asks each feature for its best test (information gain G, in bits) and
splits when the best beats the second by more than the Hoeffding bound

    G_1 − G_2 > ε   or   ε < τ,     ε = sqrt(R² ln(1/δ) / 2n),   R = log2(max(2, classes seen)).

"No split" is a candidate too; it wins only where no test leaves two branches of a size, and then
the leaf's observers start afresh, which is what MOA and river do in effect.

All trees of a pool live in one set of arrays (``Forest``), so that one compiled call predicts with
or trains all of them. Nodes are rows; the children of a node are neighbours. Only leaves hold
observers, in *slots* that a leaf takes at its first instance and gives back when it splits. Missing
values are NaN: observers and naive Bayes skip them, a test sends them to its heavier branch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from polytask.errors import InputError
from polytask.parts.compiled import njit

# What a node tests: nothing (a leaf), x ≤ at, x = at, or the value itself with a branch for each.
LEAF, NUMERIC, EQUAL, MULTIWAY = 0, 1, 2, 3
NODE = np.dtype(
    [
        ("test", np.int32),
        ("feature", np.int32),
        ("first", np.int32),  # the first child; the others follow it
        ("width", np.int32),  # number of children
        ("slot", np.int32),  # the leaf's observers, or PENDING, or NONE
        ("depth", np.int32),
        ("at", np.float64),
        ("weight", np.float64),  # instances that came by
        ("majority", np.float64),  # weight that the majority class got right at this leaf
        ("bayes", np.float64),  # weight that naive Bayes got right
        ("tried", np.float64),  # the leaf's weight at its last attempt to split
    ],
    align=True,
)
PENDING, NONE = -1, -2

# What is kept of a numeric feature and class. LOW and HIGH are the extremes; the log density is
# SHIFT − (x − MEAN)² SLOPE, both 0 while there is no variance.
WEIGHT, MEAN, SQUARES, LOW, HIGH, SLOPE, SHIFT = range(7)
# And of a nominal value and class: COUNT and its logarithm. Each feature has a first row of totals.
COUNT, LOG = range(2)

_HALF_LOG_TAU = 0.5 * math.log(math.tau)
_LEAF_PREDICTIONS = ("majority", "naive_bayes", "adaptive")


class Forest(NamedTuple):
    """The arrays of a pool: E trees, N nodes, S slots, F features, C classes."""

    nodes: NDArray  # [N] of NODE
    votes: NDArray  # [N, 2, C] weight of each class and its logarithm
    numeric: NDArray  # [S, numeric features, 7, C]
    nominal: NDArray  # [S, rows of totals and values, 2, C]
    chosen: NDArray  # [S, m] the features that a leaf observes
    free: NDArray  # [S] stack of free slots
    roots: NDArray  # [E]
    leaves: NDArray  # [E] number of leaves
    place: NDArray  # [F] position among the numeric features, or row of the totals
    values: NDArray  # [F] number of nominal values, 0 for a numeric feature
    used: NDArray  # [3] nodes in use, free slots, the most children that a split may bring
    random: NDArray  # [1] state of the generator that draws features


class Rules(NamedTuple):
    """``TreeSettings`` as the compiled code takes them."""

    grace: float
    log_delta: float
    tau: float
    candidates: int
    min_fraction: float
    max_share: float
    max_depth: int
    max_leaves: int
    binary: bool
    leaf: int
    smoothing: float


@dataclass
class TreeSettings:
    """How a Hoeffding tree grows. Defaults are those of MOA.

    Attributes:
        grace: instances that a leaf sees between two attempts to split.
        delta: one minus the confidence that the best test is the best.
        tau: below this Hoeffding bound a tie is broken.
        leaf: a leaf answers with its majority class, naive Bayes, or whichever has been right more
            often there.
        candidates: thresholds tried per numeric feature, evenly between its extremes.
        binary: nominal features are split in two only, never into a branch per value.
        min_fraction: at least two branches must hold more than this share of the instances.
        max_share: a leaf whose majority class exceeds this share is not split (river: 0.99).
        smoothing: added to every nominal count in naive Bayes (MOA: 1; river: 0, which skips a
            value that a class has not shown yet).
        max_depth: leaves at this depth keep class counts only and answer with the majority.
        max_leaves: a split that would exceed it is not made; leaves go on learning. This bounds
            the memory of a tree.
        subspace: features, drawn anew for every leaf, that a leaf observes; 0 for all.
    """

    grace: int = 200
    delta: float = 1e-7
    tau: float = 0.05
    leaf: Literal["majority", "naive_bayes", "adaptive"] = "adaptive"
    candidates: int = 10
    binary: bool = False
    min_fraction: float = 0.01
    max_share: float = 1.0
    smoothing: float = 1.0
    max_depth: int | None = None
    max_leaves: int | None = None
    subspace: int = 0

    def check(self) -> None:
        """Refuse settings that no tree can grow with."""
        for name, least in (("grace", 1), ("candidates", 1), ("subspace", 0), ("smoothing", 0)):
            if not getattr(self, name) >= least:
                raise InputError(f"{name} is {getattr(self, name)!r}; it must be at least {least}")
        if not 0 < self.delta < 1:
            raise InputError(f"delta is {self.delta!r}; it must lie between 0 and 1")
        if self.leaf not in _LEAF_PREDICTIONS:
            raise InputError(f"leaf is {self.leaf!r}; choose one of {', '.join(_LEAF_PREDICTIONS)}")
        for name in ("max_depth", "max_leaves"):
            bound = getattr(self, name)
            if bound is not None and bound < 1:
                raise InputError(f"{name} is {bound!r}; it must be at least 1")

    @property
    def rules(self) -> Rules:
        return Rules(
            float(self.grace),
            math.log(1 / self.delta),
            float(self.tau),
            int(self.candidates),
            float(self.min_fraction),
            float(self.max_share),
            self.max_depth or 2**31 - 1,
            self.max_leaves or 2**31 - 1,
            bool(self.binary),
            _LEAF_PREDICTIONS.index(self.leaf),
            float(self.smoothing),
        )


# -- compiled: answering ---------------------------------------------------------------------------


@njit
def _heaviest(nodes, first, width):
    best = first
    for child in range(first + 1, first + width):
        if nodes[child].weight > nodes[best].weight:
            best = child
    return best


@njit
def find_leaf(forest, tree, x, w):
    """The leaf that x falls into; a training weight w > 0 is noted along the way."""
    nodes = forest.nodes
    i = forest.roots[tree]
    while True:
        node = nodes[i]
        if w > 0:
            node.weight += w
        if node.test == LEAF:
            return i
        value = x[node.feature]
        if value != value:
            i = _heaviest(nodes, node.first, node.width)
        elif node.test == NUMERIC:
            i = node.first + (0 if value <= node.at else 1)
        elif node.test == EQUAL:
            i = node.first + (0 if value == node.at else 1)
        else:
            child = node.first + int(value)
            # A value that never came this way has an empty leaf: learn there, answer elsewhere.
            known = value < node.width and (w > 0 or nodes[child].weight > 0)
            i = child if known else _heaviest(nodes, node.first, node.width)


@njit
def largest(values):
    """Index of the largest value; the first of several."""
    best = 0
    for c in range(1, values.shape[0]):
        if values[c] > values[best]:
            best = c
    return best


@njit
def _total(weights):
    total = 0.0
    for c in range(weights.shape[0]):
        total += weights[c]
    return total


@njit
def naive_bayes(forest, leaf, x, scores):
    """Log of prior times likelihood of every class, not normalised, and the class of the largest.

    scores: [C], written.
    """
    classes = scores.shape[0]
    for c in range(classes):
        scores[c] = forest.votes[leaf, LOG, c]
    slot = forest.nodes[leaf].slot
    if slot >= 0:
        for j in range(forest.chosen.shape[1]):
            f = forest.chosen[slot, j]
            value = x[f]
            if value != value:
                continue
            if forest.values[f] == 0:
                seen = forest.numeric[slot, forest.place[f]]
                for c in range(classes):
                    gap = value - seen[MEAN, c]
                    scores[c] += seen[SHIFT, c] - gap * gap * seen[SLOPE, c]
            else:
                totals = forest.nominal[slot, forest.place[f], LOG]
                counts = forest.nominal[slot, forest.place[f] + 1 + int(value), LOG]
                for c in range(classes):
                    scores[c] += counts[c] - totals[c] if counts[c] > -np.inf else 0.0
    return largest(scores)


@njit
def answer(forest, rules, leaf, x, scores):
    """The leaf's class. scores [C] become log-chances up to a constant (True), or weights."""
    node = forest.nodes[leaf]
    bayes = rules.leaf == 1 or (rules.leaf == 2 and node.bayes >= node.majority)
    if bayes and node.slot >= 0:
        return naive_bayes(forest, leaf, x, scores), True
    for c in range(scores.shape[0]):
        scores[c] = forest.votes[leaf, COUNT, c]
    return largest(scores), False


@njit
def probabilities(forest, rules, leaf, x, scores):
    """Class probabilities at a leaf into scores [C]; uniform where nothing was learned."""
    label, logs = answer(forest, rules, leaf, x, scores)
    if logs:
        most = scores[label]
        for c in range(scores.shape[0]):
            scores[c] = math.exp(scores[c] - most) if most > -np.inf else 1.0
    total = _total(scores)
    for c in range(scores.shape[0]):
        scores[c] = scores[c] / total if total > 0 else 1 / scores.shape[0]
    return label


# -- compiled: splitting ---------------------------------------------------------------------------


@njit
def _entropy(weights):
    """Entropy in bits of a class distribution, and its total."""
    parts, total = 0.0, 0.0
    for c in range(weights.shape[0]):
        if weights[c] > 0:
            parts -= weights[c] * math.log2(weights[c])
            total += weights[c]
    return ((parts + total * math.log2(total)) / total if total > 0 else 0.0), total


@njit
def _gain(before, branches, min_fraction):
    """Information gain of class distributions ``branches`` [K, C]; −inf with too few branches."""
    after, total = 0.0, 0.0
    for k in range(branches.shape[0]):
        entropy, weight = _entropy(branches[k])
        after += weight * entropy
        total += weight
    large = 0
    for k in range(branches.shape[0]):
        if _total(branches[k]) > min_fraction * total:
            large += 1
    return before - after / total if large >= 2 else -np.inf


@njit
def _cut(seen, at, branches):
    """Class weights left and right of a threshold, by the Gaussian of every class."""
    for c in range(branches.shape[1]):
        weight = seen[WEIGHT, c]
        if weight == 0 or at < seen[LOW, c]:
            left = 0.0
        elif at >= seen[HIGH, c]:
            left = weight
        elif seen[SLOPE, c] > 0:
            left = weight * (0.5 * (1 + math.erf((at - seen[MEAN, c]) * math.sqrt(seen[SLOPE, c]))))
        else:
            left = 0.0
        branches[0, c] = left
        branches[1, c] = weight - left


@njit
def _best_threshold(seen, before, rules, branches):
    low, high = np.inf, -np.inf
    for c in range(branches.shape[1]):
        low, high = min(low, seen[LOW, c]), max(high, seen[HIGH, c])
    best, at = -np.inf, np.nan
    step = (high - low) / (rules.candidates + 1.0)
    for i in range(rules.candidates):
        threshold = low + step * (i + 1)
        if low < threshold < high:
            _cut(seen, threshold, branches)
            gain = _gain(before, branches, rules.min_fraction)
            if gain > best:
                best, at = gain, threshold
    return best, at


@njit
def _pick(counts, value, branches):
    """Class weights with this value of a nominal feature and without it."""
    for c in range(branches.shape[1]):
        rest = 0.0
        for v in range(1, counts.shape[0]):
            if v - 1 != value:
                rest += counts[v, COUNT, c]
        branches[0, c] = counts[value + 1, COUNT, c]
        branches[1, c] = rest


@njit
def _best_value(counts, before, rules, branches):
    """(gain, value) of the best nominal test; the value is −1 for a branch per value."""
    best, at = -np.inf, np.nan
    if not rules.binary:
        best, at = _gain(before, counts[1:, COUNT], rules.min_fraction), -1.0
    for value in range(counts.shape[0] - 1):
        if _total(counts[value + 1, COUNT]) > 0:
            _pick(counts, value, branches)
            gain = _gain(before, branches, rules.min_fraction)
            if gain > best:
                best, at = gain, float(value)
    return best, at


@njit
def _observed(forest, slot, f):
    """A nominal feature's counts [1 + values, 2, C] at a leaf, totals first."""
    return forest.nominal[slot, forest.place[f] : forest.place[f] + 1 + forest.values[f]]


@njit
def _try_to_split(forest, rules, tree, leaf):
    node, weights = forest.nodes[leaf], forest.votes[leaf, COUNT]
    seen = 0
    for c in range(weights.shape[0]):
        seen += weights[c] > 0
    if seen < 2:
        return
    total = _total(weights)
    if weights[largest(weights)] / total > rules.max_share:
        clear_slot(forest, rules, node.slot)
        return
    before, _ = _entropy(weights)
    branches = np.empty((2, weights.shape[0]))
    # Two candidates to begin with would be one too many: the first is "no split", the second none.
    best, second, feature, at = -np.inf, -np.inf, -1, np.nan
    for j in range(forest.chosen.shape[1]):
        f = forest.chosen[node.slot, j]
        if forest.values[f] == 0:
            observed = forest.numeric[node.slot, forest.place[f]]
            gain, where = _best_threshold(observed, before, rules, branches)
        else:
            gain, where = _best_value(_observed(forest, node.slot, f), before, rules, branches)
        if gain >= best and gain > -np.inf:
            second, best, feature, at = best, gain, f, where
        elif gain > second:
            second = gain
    bound = math.sqrt(math.log2(max(2, seen)) ** 2 * rules.log_delta / (2 * total))
    if best - second > bound or bound < rules.tau:
        if feature < 0:
            clear_slot(forest, rules, node.slot)
        else:
            _split(forest, rules, tree, leaf, feature, at)


@njit
def _split(forest, rules, tree, leaf, feature, at):
    node = forest.nodes[leaf]
    slot, first = node.slot, forest.used[0]
    classes = forest.votes.shape[2]
    if forest.values[feature] > 0 and at < 0:
        test, width = MULTIWAY, int(forest.values[feature])
    else:
        test, width = (EQUAL if forest.values[feature] > 0 else NUMERIC), 2
    branches = np.empty((width, classes))
    if test == NUMERIC:
        _cut(forest.numeric[slot, forest.place[feature]], at, branches)
    elif test == EQUAL:
        _pick(_observed(forest, slot, feature), int(at), branches)
    else:
        counts = _observed(forest, slot, feature)
        for v in range(width):
            for c in range(classes):
                branches[v, c] = counts[v + 1, COUNT, c]
    if forest.leaves[tree] + width - 1 > rules.max_leaves:
        return
    forest.used[0] += width
    forest.leaves[tree] += width - 1
    for k in range(width):
        child = forest.nodes[first + k]
        weight = _total(branches[k])
        child.test, child.feature, child.first, child.width = LEAF, -1, -1, 0
        child.depth = node.depth + 1
        child.slot = PENDING if child.depth < rules.max_depth else NONE
        child.at, child.majority, child.bayes = np.nan, 0.0, 0.0
        child.weight = child.tried = weight
        for c in range(classes):
            forest.votes[first + k, COUNT, c] = branches[k, c]
            forest.votes[first + k, LOG, c] = math.log(branches[k, c])
    node.test, node.feature, node.at = test, feature, at
    node.first, node.width, node.slot = first, width, NONE
    _give_slot(forest, slot)


# -- compiled: learning ----------------------------------------------------------------------------


@njit
def random_unit(state):
    """A uniform number in [0, 1) (splitmix64, Steele et al., OOPSLA 2014); state [1] moves on."""
    state[0] += np.uint64(0x9E3779B97F4A7C15)
    z = state[0]
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return float((z ^ (z >> np.uint64(31))) >> np.uint64(11)) * 2.0**-53


@njit
def clear_slot(forest, rules, slot):
    """Observers that have seen nothing."""
    for f in range(forest.values.shape[0]):
        for c in range(forest.votes.shape[2]):
            if forest.values[f] == 0:
                seen = forest.numeric[slot, forest.place[f]]
                for k in range(seen.shape[0]):
                    seen[k, c] = 0.0
                seen[LOW, c], seen[HIGH, c] = np.inf, -np.inf
            else:
                counts = _observed(forest, slot, f)
                for v in range(counts.shape[0]):
                    counts[v, COUNT, c] = 0.0
                    counts[v, LOG, c] = math.log(rules.smoothing)
                counts[0, LOG, c] = math.log(rules.smoothing * forest.values[f])


@njit
def _give_slot(forest, slot):
    if slot >= 0:
        forest.free[forest.used[1]] = slot
        forest.used[1] += 1


@njit
def _take_slot(forest, rules):
    forest.used[1] -= 1
    slot = forest.free[forest.used[1]]
    clear_slot(forest, rules, slot)
    features, drawn = forest.values.shape[0], forest.chosen.shape[1]
    # Selection sampling (Knuth, TAOCP 3.4.2 S): in order, and without scratch.
    taken = 0
    for f in range(features):
        rest = features - f
        if rest == drawn - taken or random_unit(forest.random) * rest < drawn - taken:
            forest.chosen[slot, taken] = f
            taken += 1
            if taken == drawn:
                break
    return slot


@njit
def _observe(forest, rules, slot, x, y, w):
    for j in range(forest.chosen.shape[1]):
        f = forest.chosen[slot, j]
        value = x[f]
        if value != value:
            continue
        if forest.values[f] == 0:
            seen = forest.numeric[slot, forest.place[f]]
            mean = seen[MEAN, y]
            seen[WEIGHT, y] += w
            seen[MEAN, y] += (w / seen[WEIGHT, y]) * (value - mean)
            seen[SQUARES, y] += w * (value - mean) * (value - seen[MEAN, y])
            seen[LOW, y] = min(seen[LOW, y], value)
            seen[HIGH, y] = max(seen[HIGH, y], value)
            if seen[WEIGHT, y] > 1 and seen[SQUARES, y] > 0:
                variance = seen[SQUARES, y] / (seen[WEIGHT, y] - 1)
                seen[SLOPE, y] = 0.5 / variance
                seen[SHIFT, y] = -_HALF_LOG_TAU - 0.5 * math.log(variance)
        else:
            counts = _observed(forest, slot, f)
            value_row = counts[int(value) + 1]
            counts[0, COUNT, y] += w
            value_row[COUNT, y] += w
            total = counts[0, COUNT, y] + rules.smoothing * forest.values[f]
            counts[0, LOG, y] = math.log(total)
            value_row[LOG, y] = math.log(value_row[COUNT, y] + rules.smoothing)


@njit
def learn(forest, rules, tree, x, y, w, scores):
    """Train one tree on (x, y) with weight w. scores [C] is scratch. Room must be there."""
    leaf = find_leaf(forest, tree, x, w)
    node, weights = forest.nodes[leaf], forest.votes[leaf, COUNT]
    if node.slot == PENDING:
        node.slot = _take_slot(forest, rules)
    if node.slot >= 0 and rules.leaf == 2:
        empty = _total(weights) == 0
        if empty or largest(weights) == y:
            node.majority += w
        if not empty and naive_bayes(forest, leaf, x, scores) == y:
            node.bayes += w
    weights[y] += w
    forest.votes[leaf, LOG, y] = math.log(weights[y])
    if node.slot >= 0:
        _observe(forest, rules, node.slot, x, y, w)
        total = _total(weights)
        if total - node.tried >= rules.grace and forest.leaves[tree] < rules.max_leaves:
            node.tried = total
            _try_to_split(forest, rules, tree, leaf)


@njit
def has_room(forest):
    """Whether every tree may split, and take a slot, at the next instance."""
    trees = forest.roots.shape[0]
    needed = trees * (forest.used[2] + 1)  # a block of children, or another root
    return forest.used[0] + needed <= len(forest.nodes) and forest.used[1] >= trees


@njit
def plant(forest, tree):
    """A fresh tree in the place of one, whose slots are given back; its nodes wait for ``tidy``."""
    below = [forest.roots[tree]]
    while len(below) > 0:
        node = forest.nodes[below.pop()]
        _give_slot(forest, node.slot)
        for k in range(node.width):
            below.append(node.first + k)
    forest.roots[tree] = forest.used[0]
    forest.leaves[tree] = 1
    forest.used[0] += 1


@njit
def _tidy(forest, nodes, votes):
    """Copy the nodes that belong to a tree to fresh arrays; how many they are."""
    used = 0
    for tree in range(len(forest.roots)):
        at = used
        nodes[used], votes[used] = (
            forest.nodes[forest.roots[tree]],
            forest.votes[forest.roots[tree]],
        )
        forest.roots[tree] = used
        used += 1
        while at < used:
            first = nodes[at].first
            if nodes[at].width > 0:
                nodes[at].first = used
            for k in range(nodes[at].width):
                nodes[used], votes[used] = forest.nodes[first + k], forest.votes[first + k]
                used += 1
            at += 1
    return used


@njit
def _probability_rows(forest, rules, X, out):
    for i in range(len(X)):
        for tree in range(len(forest.roots)):
            leaf = find_leaf(forest, tree, X[i], 0.0)
            probabilities(forest, rules, leaf, X[i], out[i, tree])


@njit
def _pass(forest, rules, X, X_learn, y, weights, labels, start):
    """From row ``start`` on: the first tree's label of X[i], then learn (X_learn[i], y[i]).

    Returns the row at which room ran short, or the number of rows.
    """
    scores, end = np.empty(forest.votes.shape[2]), max(len(X), len(X_learn))
    for i in range(start, end):
        if i < len(X_learn) and not has_room(forest):
            return i
        if i < len(X):
            leaf = find_leaf(forest, 0, X[i], 0.0)
            labels[i] = probabilities(forest, rules, leaf, X[i], scores)
        if i < len(X_learn):
            for tree in range(weights.shape[1]):
                if weights[i, tree] > 0:
                    learn(forest, rules, tree, X_learn[i], y[i], weights[i, tree], scores)
    return end


# -- the pool --------------------------------------------------------------------------------------


class TreePool:
    """E Hoeffding trees over the same features and classes.

    Args:
        trees: how many.
        values: number of values of every nominal feature, 0 for a numeric one; ``[F]``.
        classes: number of classes.
        settings: how the trees grow.
        seed: of the features drawn per leaf (``settings.subspace``).
    """

    def __init__(
        self, trees: int, values: NDArray, classes: int, settings: TreeSettings, seed: int = 0
    ) -> None:
        settings.check()
        if settings.subspace > len(values):
            raise InputError(f"subspace is {settings.subspace}; there are {len(values)} features")
        self.settings, self.rules = settings, settings.rules
        values = np.asarray(values, np.int32)
        place, numeric, rows = _places(values)
        nodes, slots = 16 * trees, 4 * trees
        self.forest = Forest(
            nodes=_fresh_nodes(nodes),
            votes=_fresh_votes(nodes, classes),
            numeric=np.zeros((slots, numeric, 7, classes)),
            nominal=np.zeros((slots, rows, 2, classes)),
            chosen=np.zeros((slots, settings.subspace or len(values)), np.int32),
            free=np.arange(slots, dtype=np.int32),
            roots=np.arange(trees, dtype=np.int32),
            leaves=np.ones(trees, np.int64),
            place=place,
            values=values,
            used=np.array([trees, slots, max(2, values.max(initial=0))], np.int64),
            random=np.array([seed], np.uint64),
        )

    @property
    def trees(self) -> int:
        return len(self.forest.roots)

    @property
    def classes(self) -> int:
        return self.forest.votes.shape[2]

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays, the room kept for growth included."""
        return sum(array.nbytes for array in self.forest)

    @property
    def parameters(self) -> int:
        """Class weights of all leaves: the numbers that answers are made of."""
        return int(self.forest.leaves.sum()) * self.classes

    def predict_proba(self, X: NDArray) -> NDArray:
        """Class probabilities of every tree, ``[n, E, C]``, for rows ``[n, F]``."""
        out = np.empty((len(X), self.trees, self.classes))
        _probability_rows(self.forest, self.rules, X, out)
        return out

    def learn(self, X: NDArray, y: NDArray, weights: NDArray | None = None) -> None:
        """Train on rows ``[n, F]``, classes ``[n]``; a weight of 0 in ``[n, E]`` spares a tree."""
        self.test_then_train(X[:0], X, y, weights)

    def test_then_train(
        self, X: NDArray, X_learn: NDArray, y: NDArray, weights: NDArray | None = None
    ) -> NDArray:
        """For each i: the first tree's label of X[i], then learn (X_learn[i], y[i]); ``[n]``.

        There may be fewer rows of either. ``weights`` as in ``learn``.
        """
        if weights is None:
            weights = np.ones((len(X_learn), self.trees))
        labels, done, end = np.empty(len(X), np.int64), 0, max(len(X), len(X_learn))
        while done < end:
            done = _pass(self.forest, self.rules, X, X_learn, y, weights, labels, done)
            if done < end:
                self.make_room()
        return labels

    def make_room(self, for_nodes: int = 0) -> None:
        """Twice the nodes or slots, whichever are short for another instance."""
        forest = self.forest
        nodes, slots = len(forest.nodes), len(forest.free)
        used, unused, most = forest.used
        needed = max(for_nodes, self.trees * (int(most) + 1))
        if used + needed > nodes:
            kept, votes = _fresh_nodes(nodes), _fresh_votes(nodes, self.classes)
            used = forest.used[0] = _tidy(forest, kept, votes)
            forest = forest._replace(nodes=kept, votes=votes)
        if 2 * (used + needed) > nodes:
            more = max(nodes, needed)
            forest = forest._replace(
                nodes=np.concatenate([forest.nodes, _fresh_nodes(more)]),
                votes=np.concatenate([forest.votes, _fresh_votes(more, self.classes)]),
            )
        if unused < self.trees:
            new = np.arange(slots, 2 * slots, dtype=np.int32)
            forest = forest._replace(
                numeric=np.concatenate([forest.numeric, np.zeros_like(forest.numeric)]),
                nominal=np.concatenate([forest.nominal, np.zeros_like(forest.nominal)]),
                chosen=np.concatenate([forest.chosen, np.zeros_like(forest.chosen)]),
                free=np.concatenate([forest.free[:unused], new, forest.free[unused:]]),
            )
            forest.used[1] += slots
        self.forest = forest

    def add_trees(self, more: int) -> None:
        """Further trees that have seen nothing."""
        self.make_room(more)
        forest, first = self.forest, int(self.forest.used[0])
        roots = np.arange(first, first + more, dtype=np.int32)
        forest.used[0] += more
        self.forest = forest._replace(
            roots=np.concatenate([forest.roots, roots]),
            leaves=np.concatenate([forest.leaves, np.ones(more, np.int64)]),
        )

    def add_classes(self, more: int) -> None:
        """Room for classes that were not known before; what was learned stays."""
        if more <= 0:
            return
        forest = self.forest

        def wider(array: NDArray) -> NDArray:
            return np.concatenate([array, np.zeros((*array.shape[:-1], more))], axis=-1)

        old = self.classes
        votes, numeric, nominal = (wider(a) for a in (forest.votes, forest.numeric, forest.nominal))
        votes[:, LOG, old:] = -np.inf
        numeric[:, :, LOW, old:], numeric[:, :, HIGH, old:] = np.inf, -np.inf
        self.forest = forest._replace(votes=votes, numeric=numeric, nominal=nominal)
        self._smooth(np.arange(old, old + more))

    def add_values(self, values: NDArray) -> None:
        """Room for nominal values that were not known before; ``values [F]`` are the new numbers.

        A test with a branch per value gets a branch for each of them.
        """
        old, place = self.forest, self.forest.place
        values = np.asarray(values, np.int32)
        new_place, _, rows = _places(values)
        nominal = np.zeros((len(old.free), rows, 2, self.classes))
        if self.settings.smoothing == 0:
            nominal[:, :, LOG] = -np.inf
        else:
            nominal[:, :, LOG] = math.log(self.settings.smoothing)
        for f in np.flatnonzero(old.values):
            kept = 1 + old.values[f]
            moved = old.nominal[:, place[f] : place[f] + kept]
            nominal[:, new_place[f] : new_place[f] + kept] = moved
        most = max(2, int(values.max(initial=0)))
        used = np.array([*old.used[:2], most], np.int64)
        self.forest = old._replace(nominal=nominal, values=values, place=new_place, used=used)
        self._smooth(np.arange(self.classes))
        for node in np.flatnonzero(old.nodes["test"][: old.used[0]] == MULTIWAY):
            if values[old.nodes["feature"][node]] > old.nodes["width"][node]:
                self._move_children(int(node))

    def _smooth(self, classes: NDArray) -> None:
        """Logarithms of the counts of these classes, anew, where smoothing depends on the room."""
        forest, smoothing = self.forest, self.settings.smoothing
        with np.errstate(divide="ignore"):
            nominal = forest.nominal
            nominal[:, :, LOG, classes] = np.log(nominal[:, :, COUNT, classes] + smoothing)
            for f in np.flatnonzero(forest.values):
                totals = nominal[:, forest.place[f]]
                room = smoothing * forest.values[f]
                totals[:, LOG, classes] = np.log(totals[:, COUNT, classes] + room)

    def _move_children(self, node: int) -> None:
        """A wider block of children at the end of the nodes, for a branch per value."""
        width = int(self.forest.values[self.forest.nodes["feature"][node]])
        self.make_room(width)
        forest, first = self.forest, int(self.forest.used[0])
        nodes, votes = forest.nodes, forest.votes
        old, kept = int(nodes["first"][node]), int(nodes["width"][node])
        fresh = nodes[first : first + width]
        fresh["depth"] = nodes["depth"][node] + 1
        fresh["slot"] = PENDING if fresh["depth"][0] < self.rules.max_depth else NONE
        fresh[:kept] = nodes[old : old + kept]
        votes[first : first + kept] = votes[old : old + kept]
        nodes[old : old + kept] = _fresh_nodes(kept)
        nodes["first"][node], nodes["width"][node] = first, width
        forest.leaves[self._tree_of(node)] += width - kept
        forest.used[0] += width

    def _tree_of(self, node: int) -> int:
        nodes = self.forest.nodes
        for tree, root in enumerate(self.forest.roots):
            below = [int(root)]
            while below:
                at = below.pop()
                if at == node:
                    return tree
                below.extend(nodes["first"][at] + k for k in range(nodes["width"][at]))
        raise AssertionError(f"node {node} belongs to no tree")

    def structure(self, tree: int = 0) -> list[tuple[int, str, int, float]]:
        """The tests of a tree from the root down, left first: (depth, test, feature, at).

        ``test`` is one of ``leaf``, ``<=``, ``==``, ``each``.
        """
        names = ("leaf", "<=", "==", "each")
        nodes, found = self.forest.nodes, []
        below = [int(self.forest.roots[tree])]
        while below:
            node = nodes[below.pop()]
            at = float(node["at"])
            found.append((int(node["depth"]), names[node["test"]], int(node["feature"]), at))
            below.extend(int(node["first"]) + k for k in range(node["width"] - 1, -1, -1))
        return found

    def state(self) -> dict[str, NDArray]:
        """All arrays; nodes as bytes."""
        arrays = self.forest._asdict()
        arrays["nodes"] = self.forest.nodes.view(np.uint8).reshape(-1, NODE.itemsize)
        arrays["random"] = self.forest.random.view(np.int64)
        return arrays

    def restore(self, state: dict[str, NDArray]) -> None:
        """Go on from what ``state`` gave."""
        arrays = {name: np.array(state[name]) for name in Forest._fields}
        arrays["nodes"] = arrays["nodes"].reshape(-1).view(NODE)
        arrays["random"] = arrays["random"].view(np.uint64)
        self.forest = Forest(**arrays)


def _places(values: NDArray) -> tuple[NDArray, int, int]:
    """Place of every feature among the numeric ones or among the nominal rows; sizes of both."""
    place, numeric, rows = np.zeros(len(values), np.int32), 0, 0
    for f, number in enumerate(values):
        if number == 0:
            place[f], numeric = numeric, numeric + 1
        else:
            place[f], rows = rows, rows + 1 + number
    return place, numeric, rows


def _fresh_nodes(count: int) -> NDArray:
    nodes = np.zeros(count, NODE)
    nodes["feature"] = nodes["first"] = -1
    nodes["slot"] = PENDING
    nodes["at"] = np.nan
    return nodes


def _fresh_votes(count: int, classes: int) -> NDArray:
    votes = np.zeros((count, 2, classes))
    votes[:, LOG] = -np.inf
    return votes
