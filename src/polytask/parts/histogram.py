"""Histogram trees: bins fitted once, then regression trees found in one pass over the rows each.

A column is cut into at most 255 bins; a tree is found from sums of gradients per bin instead of
from sorted values (Ke et al., LightGBM, NeurIPS 2017). What is particular here:

- Rows lie task by task. One call grows one tree for each block of rows, so a round that gives every
  task a tree of its own is one pass over the rows, whatever the number of tasks.
- A tree may answer several outputs at once: the gradient is ``[rows, outputs]``, a leaf a vector.
- The boosting update ``F += rate · leaf`` happens while rows are dealt to the leaves; no tree is
  walked for a training row.

Split gain: ``Σ_k G_L²/(H_L + λ) + G_R²/(H_R + λ) − G²/(H + λ)`` over outputs k, with G the sum of
the (negative) gradients and H the sum of the Hessians. Without Hessians H is the number of rows:
the gain is then the reduction of the squared error, and a leaf the mean of its rows' gradients.

Missing values go to the side that gains more, or with the larger child where a node has none.
Categories are sorted by their leaf value for the output that differs most between them, and cut
like numbers (exact for one output: Fisher, "On grouping for maximum homogeneity", 1958).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from polytask.errors import InputError
from polytask.parts.compiled import njit

MAX_BINS = 255  # and one code for a missing value: a uint8
_SAMPLE = 200_000  # rows that quantiles are taken from
_BLOCK = 4096  # rows that are binned together
_CHUNK = 256  # rows that walk through the trees together


@dataclass(frozen=True)
class Bins:
    """Where the columns are cut; fitted on training rows.

    Attributes:
        edges: per column, ascending: of a number the cuts (bin ``b`` holds
            ``edges[b-1] < x <= edges[b]``), of a category its values (bin ``b`` is ``edges[b]``).
        categorical: ``[columns]``, True for a category.
    """

    edges: tuple[NDArray[np.float64], ...]
    categorical: NDArray[np.bool_]

    @classmethod
    def fit(cls, X: NDArray, max_bins: int = MAX_BINS, categorical: Sequence[int] = ()) -> Bins:
        """Cuts for rows ``X [n, columns]`` (NaN is missing).

        A number with at most ``max_bins`` distinct values is cut midway between them, so that trees
        equal exact ones; otherwise between quantiles of (up to) 200,000 evenly spaced rows. Of a
        category the ``max_bins`` most frequent values have a bin, the others count as missing.
        """
        if not 2 <= max_bins <= MAX_BINS:
            raise InputError(f"max_bins is {max_bins}; it must be from 2 to {MAX_BINS}")
        rows = X[:: -(-len(X) // _SAMPLE)]
        marked = np.zeros(X.shape[1], bool)
        marked[list(categorical)] = True
        edges = []
        for column, is_category in zip(rows.T, marked, strict=True):
            values, counts = np.unique(column[~np.isnan(column)], return_counts=True)
            if is_category:
                common = np.argsort(-counts, kind="stable")[:max_bins]
                edges.append(np.sort(values[common]))
            else:
                edges.append(_cuts(values, counts, max_bins))
        return cls(tuple(edges), marked)

    @property
    def counts(self) -> NDArray[np.int64]:
        """Bins per column; the code of a missing value equals this count."""
        lengths = np.array([len(e) for e in self.edges], np.int64)
        return lengths + ~self.categorical

    def transform(self, X: NDArray) -> NDArray[np.uint8]:
        """Codes ``[columns, n]``, column by column in memory."""
        codes = np.empty(X.shape[::-1], np.uint8)
        missing = self.counts
        for low in range(0, len(X), _BLOCK):  # rows that lie by row stay in the cache
            some = slice(low, low + _BLOCK)
            for j, (cuts, is_category) in enumerate(zip(self.edges, self.categorical, strict=True)):
                _code_column(X[some, j], cuts, is_category, missing[j], codes[j, some])
        return codes

    def readable(self, X: NDArray) -> NDArray[np.float64]:
        """Rows as trees read them: categories by their code, numbers as they are."""
        X = np.require(X, np.float64, ["C", "W"])  # one sort of array is compiled for
        if self.categorical.any():
            X = X.copy()
            for j in np.flatnonzero(self.categorical):
                codes = np.empty(len(X), np.uint8)
                _code_column(X[:, j].copy(), self.edges[j], True, self.counts[j], codes)
                X[:, j] = codes
        return X

    def to_dict(self) -> dict[str, Any]:
        return {
            "edges": [e.tolist() for e in self.edges],
            "categorical": self.categorical.tolist(),
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Bins:
        edges = tuple(np.array(e, np.float64) for e in data["edges"])
        return cls(edges, np.array(data["categorical"], bool))


def _cuts(values: NDArray, counts: NDArray, max_bins: int) -> NDArray[np.float64]:
    """Cuts between distinct ascending values, into bins of about equally many rows."""
    below = np.arange(len(values) - 1)
    if len(values) > max_bins:
        share = np.cumsum(counts)[:-1] * (max_bins / counts.sum())
        below = np.flatnonzero(np.diff(np.floor(share), prepend=0.0))[: max_bins - 1]
    low, high = values[below], values[below + 1]
    middle = low + (high - low) / 2
    return np.where(middle < high, middle, low)  # rounding must not let `high` fall to the left


@dataclass(frozen=True)
class Forest:
    """Trees as flat arrays: ``roots[round, block]`` is the first node of a tree.

    The children of node ``i`` are ``left[i]`` and ``left[i] + 1``; a leaf has ``feature[i] == -1``.

    Attributes:
        roots: ``[rounds, blocks]``.
        feature, threshold, missing_left, left: ``[nodes]``; ``x <= threshold`` goes left.
        subset: ``[nodes]``, of a split by category the row of ``subsets``, else -1.
        subsets: ``[m, 256]``, True for the codes that go left.
        value: ``[nodes, outputs]``, rate not included.
        gain: ``[nodes]``, what the split gained.
    """

    roots: NDArray[np.int32]
    feature: NDArray[np.int32]
    threshold: NDArray[np.float64]
    missing_left: NDArray[np.bool_]
    left: NDArray[np.int32]
    subset: NDArray[np.int32]
    subsets: NDArray[np.bool_]
    value: NDArray[np.float64]
    gain: NDArray[np.float64]

    @classmethod
    def empty(cls, blocks: int, outputs: int) -> Forest:
        """No rounds yet."""
        whole, real, flag = np.int32, np.float64, np.bool_
        return cls(
            np.empty((0, blocks), whole),
            np.empty(0, whole),
            np.empty(0, real),
            np.empty(0, flag),
            np.empty(0, whole),
            np.empty(0, whole),
            np.empty((0, 256), flag),
            np.empty((0, outputs), real),
            np.empty(0, real),
        )

    @classmethod
    def stacked(cls, rounds: Sequence[Forest]) -> Forest:
        """Several forests over the same blocks, one after the other."""
        node = np.cumsum([0, *(len(f.feature) for f in rounds)])
        row = np.cumsum([0, *(len(f.subsets) for f in rounds)])
        moved = {
            "roots": [f.roots + n for f, n in zip(rounds, node, strict=False)],
            "left": [f.left + n for f, n in zip(rounds, node, strict=False)],
            "subset": [
                np.where(f.subset < 0, -1, f.subset + r) for f, r in zip(rounds, row, strict=False)
            ],
        }
        arrays = {}
        for field in fields(cls):
            parts = moved.get(field.name) or [getattr(f, field.name) for f in rounds]
            arrays[field.name] = np.concatenate(parts).astype(parts[0].dtype, copy=False)
        for name in moved:
            arrays[name] = arrays[name].astype(np.int32)
        return cls(**arrays)

    @property
    def rounds(self) -> int:
        return len(self.roots)

    @property
    def leaves(self) -> int:
        return int(np.count_nonzero(self.feature < 0))

    def add(
        self,
        X: NDArray[np.float64],
        out: NDArray[np.float64],
        rate: float = 1.0,
        blocks: NDArray[np.int64] | None = None,
        first: int = 0,
        last: int | None = None,
    ) -> None:
        """``out [n, outputs] += rate ·`` the trees of rounds ``first`` to ``last``.

        Args:
            X: rows ``[n, columns]`` as ``Bins.readable`` gives them.
            blocks: which block's trees a row goes through (block 0 by default); a row of a
                negative block goes through none.
        """
        roots = self.roots[first:last]
        if not roots.size or not len(X):
            return
        if blocks is None:
            order, starts = np.arange(len(X)), np.array([0, len(X)])
        else:
            order = np.argsort(blocks, kind="stable")
            starts = np.searchsorted(blocks, np.arange(roots.shape[1] + 1), sorter=order)
        _add_trees(
            X, order, starts, roots, self.feature, self.threshold, self.missing_left, self.left,
            self.subset, self.subsets, self.value, float(rate), out,
        )  # fmt: skip

    def gains(self, columns: int) -> NDArray[np.float64]:
        """What the splits gained, by column ``[columns]``."""
        inner = self.feature >= 0
        gains = np.bincount(self.feature[inner], self.gain[inner], minlength=columns)
        return gains.astype(np.float64)

    def arrays(self, name: str) -> dict[str, NDArray]:
        """Every field as ``name.field``, for saving."""
        return {f"{name}.{f.name}": getattr(self, f.name) for f in fields(self)}

    @classmethod
    def loaded(cls, arrays: Mapping[str, NDArray], name: str, bins: Bins) -> Forest:
        """What ``arrays`` gave; refused if walking it could leave the arrays or never end."""
        empty = cls.empty(1, 1)
        found = {}
        for field in fields(cls):
            array, like = arrays.get(f"{name}.{field.name}"), getattr(empty, field.name)
            if array is None or array.dtype != like.dtype or array.ndim != like.ndim:
                raise InputError(f"saved trees are damaged: no usable {name}.{field.name}")
            found[field.name] = np.ascontiguousarray(array)
        forest = cls(**found)
        if not forest._is_sound(bins):
            raise InputError(f"saved trees are damaged: {name} has a node that leads nowhere")
        return forest

    def _is_sound(self, bins: Bins) -> bool:
        nodes, columns = len(self.feature), len(bins.edges)
        per_node = (
            self.threshold,
            self.missing_left,
            self.left,
            self.subset,
            self.value,
            self.gain,
        )
        if any(len(array) != nodes for array in per_node) or self.subsets.shape[1] != 256:
            return False
        inner = np.flatnonzero(self.feature >= 0)
        left, feature, subset = self.left[inner], self.feature[inner], self.subset[inner]
        return bool(
            ((self.roots >= 0) & (self.roots < nodes)).all()
            and ((left > inner) & (left < nodes - 1)).all()  # children come later: no way back
            and (feature < columns).all()
            and ((subset >= 0) == bins.categorical[np.minimum(feature, columns - 1)]).all()
            and (subset < len(self.subsets)).all()
        )


class Grower:
    """Grows trees on one set of binned rows that lie block by block.

    Attributes:
        starts: ``[blocks + 1]``, the first row of each block and the number of rows.
        depth: levels of splits; 1 is a stump.
        min_leaf: rows that each side of a split must keep.
        leaf_l2: λ, added to the Hessians (or row counts) of every leaf.
    """

    def __init__(
        self,
        bins: Bins,
        X: NDArray,
        starts: ArrayLike,
        depth: int = 1,
        min_leaf: int = 1,
        leaf_l2: float = 0.0,
    ) -> None:
        self.bins, self.depth, self.min_leaf = bins, depth, min_leaf
        self.leaf_l2 = float(leaf_l2)  # an int would be compiled for once more
        self.starts = np.asarray(starts, np.int64)
        self.codes = bins.transform(X)
        self.missing = bins.counts
        self.offsets = np.concatenate([[0], np.cumsum(self.missing + 1)])
        self.order = np.empty(self.codes.shape[1], np.uint32)

    def grow(
        self,
        gradient: NDArray[np.float64],
        out: NDArray[np.float64],
        rate: float,
        hessian: NDArray[np.float64] | None = None,
        *,
        by_block: bool = False,
    ) -> Forest:
        """One tree on all rows, or one per block; adds ``rate · leaf`` to ``out`` in place.

        Args:
            gradient: negative gradients ``[n, outputs]``, C-contiguous.
            out: ``[n, outputs]``, the model's answers on the training rows.
            hessian: ``[n, outputs]`` for leaves ``Σg/(Σh + λ)``; means of the gradients without.
        """
        starts = self.starts if by_block else self.starts[[0, -1]]
        outputs = gradient.shape[1]
        stats = gradient if hessian is None else np.concatenate([gradient, hessian], axis=1)
        most = np.minimum(2 ** (min(self.depth, 30) + 1) - 1, 2 * np.diff(starts) - 1)
        nodes = int(np.maximum(most, 1).sum())
        any_category = bool(self.bins.categorical.any())
        roots = np.empty(len(starts) - 1, np.int32)
        feature = np.full(nodes, -1, np.int32)
        code = np.zeros(nodes, np.int32)
        missing_left = np.zeros(nodes, np.bool_)
        left = np.zeros(nodes, np.int32)
        subsets = np.zeros((nodes if any_category else 0, 256), np.bool_)
        value = np.zeros((nodes, outputs))
        gain = np.zeros(nodes)
        used = _grow_trees(
            self.codes, self.offsets, self.missing, self.bins.categorical, starts, self.order,
            stats.reshape(-1), outputs, self.depth, self.min_leaf, self.leaf_l2, float(rate), out,
            roots, feature, code, missing_left, left, subsets, value, gain,
        )  # fmt: skip
        feature, code, left = feature[:used], code[:used], left[:used]
        by_category = (feature >= 0) & self.bins.categorical[feature]
        subset = np.full(used, -1, np.int32)
        subset[by_category] = np.arange(np.count_nonzero(by_category))
        return Forest(
            roots[None],
            feature,
            self._thresholds(feature, code, by_category),
            missing_left[:used],
            left,
            subset,
            subsets[:used][by_category] if any_category else subsets,
            value[:used],
            gain[:used],
        )

    def _thresholds(
        self, feature: NDArray, code: NDArray, by_category: NDArray
    ) -> NDArray[np.float64]:
        """Cuts in the unit of the column; a split of all values from missing ones has no end."""
        thresholds = np.zeros(len(feature))
        for i in np.flatnonzero((feature >= 0) & ~by_category):
            cuts = self.bins.edges[feature[i]]
            thresholds[i] = cuts[code[i]] if code[i] < len(cuts) else np.inf
        return thresholds


# -- compiled ------------------------------------------------------------------------------------


@njit
def _code_column(x, edges, is_category, missing, out):
    for i in range(len(x)):
        v = x[i]
        if np.isnan(v):
            out[i] = missing
            continue
        at, left = 0, len(edges)  # how many edges are below v: halving without a branch
        while left > 0:
            half = (left + 1) >> 1
            at += half * (edges[at + half - 1] < v)
            left -= half
        if is_category and (at == len(edges) or edges[at] != v):
            at = missing
        out[i] = at


@njit
def _add_trees(
    X, order, starts, roots, feature, threshold, missing_left, left, subset, subsets, value, rate,
    out,
):  # fmt: skip
    """Rows in chunks that stay in the cache, column by column, so that stumps run in vectors."""
    outputs = value.shape[1]
    chunk = np.empty((X.shape[1], _CHUNK))
    sums = np.empty((outputs, _CHUNK))
    for t in range(len(starts) - 1):
        for low in range(starts[t], starts[t + 1], _CHUNK):
            rows = order[low : min(low + _CHUNK, starts[t + 1])]
            m = len(rows)
            for i in range(m):
                for f in range(X.shape[1]):
                    chunk[f, i] = X[rows[i], f]
            sums[:, :m] = 0.0
            for j in range(roots.shape[0]):
                root = roots[j, t]
                f, child = feature[root], left[root]
                if f >= 0 and subset[root] < 0 and feature[child] < 0 and feature[child + 1] < 0:
                    x, cut = chunk[f, :m], threshold[root]
                    for k in range(outputs):
                        a, b, part = value[child, k], value[child + 1, k], sums[k, :m]
                        if missing_left[root]:
                            for i in range(m):
                                part[i] += b if x[i] > cut else a
                        else:
                            for i in range(m):
                                part[i] += a if x[i] <= cut else b
                    continue
                for i in range(m):
                    node = root
                    while feature[node] >= 0:
                        v = chunk[feature[node], i]
                        if subset[node] >= 0:
                            goes_left = subsets[subset[node], np.int64(v)]
                        else:
                            goes_left = (v <= threshold[node]) | (np.isnan(v) & missing_left[node])
                        node = left[node] + (not goes_left)
                    for k in range(outputs):
                        sums[k, i] += value[node, k]
            for i in range(m):
                for k in range(outputs):
                    out[rows[i], k] += rate * sums[k, i]


@njit
def _fill_root(hist, codes, offsets, stats, width, low, high):
    """Sums of the statistics per bin, the row count last; rows ``low`` to ``high`` in order."""
    hist[:] = 0.0
    for f in range(codes.shape[0]):
        part = hist[offsets[f] : offsets[f + 1]].reshape(-1)
        _fill(part, codes[f, low:high], stats[low * width : high * width], width)


@njit
def _fill_node(hist, codes, offsets, stats, width, rows, gathered, seen):
    """The same for some rows, whose statistics and codes are gathered first."""
    hist[:] = 0.0
    seen = seen[: len(rows)]
    for i in range(len(rows)):
        for s in range(width):
            gathered[i * width + s] = stats[np.int64(rows[i]) * width + s]
    for f in range(codes.shape[0]):
        column = codes[f]
        for i in range(len(rows)):
            seen[i] = column[rows[i]]
        _fill(hist[offsets[f] : offsets[f + 1]].reshape(-1), seen, gathered, width)


@njit
def _fill(part, column, stats, width):
    """One column. The usual widths are written out, because a short inner loop costs more.

    Where bins are few, neighbouring rows share one, and every sum would wait for the one before:
    four tallies take turns.
    """
    few = len(part) <= 32 * (width + 1) and len(column) >= 64
    tally = np.zeros(4 * len(part)) if few else part
    turn, size = np.uint64(3 if few else 0), np.uint64(len(part))
    one, two, three, four = np.uint64(1), np.uint64(2), np.uint64(3), np.uint64(4)
    if width == 1:
        for i in range(len(column)):
            at = (np.uint64(i) & turn) * size + np.uint64(column[i]) * two
            tally[at] += stats[i]
            tally[at + one] += 1.0
    elif width == 2:
        for i in range(len(column)):
            at = (np.uint64(i) & turn) * size + np.uint64(column[i]) * three
            tally[at] += stats[2 * i]
            tally[at + one] += stats[2 * i + 1]
            tally[at + two] += 1.0
    elif width == 4:
        for i in range(len(column)):
            at = (np.uint64(i) & turn) * size + np.uint64(column[i]) * np.uint64(5)
            tally[at] += stats[4 * i]
            tally[at + one] += stats[4 * i + 1]
            tally[at + two] += stats[4 * i + 2]
            tally[at + three] += stats[4 * i + 3]
            tally[at + four] += 1.0
    else:
        for i in range(len(column)):
            at = (i & np.int64(turn)) * len(part) + np.int64(column[i]) * (width + 1)
            for s in range(width):
                tally[at + s] += stats[i * width + s]
            tally[at + width] += 1.0
    if few:
        for t in range(4):
            for b in range(len(part)):
                part[b] += tally[t * len(part) + b]


@njit
def _quality(sums, outputs, l2):
    """``Σ_k G_k²/(H_k + λ)`` of one side."""
    width = len(sums) - 1
    total = 0.0
    for k in range(outputs):
        below = (sums[outputs + k] if width > outputs else sums[width]) + l2
        if below > 1e-12:
            total += sums[k] * sums[k] / below
    return total


@njit
def _set_leaf(sums, outputs, l2, value):
    width = len(sums) - 1
    for k in range(outputs):
        below = (sums[outputs + k] if width > outputs else sums[width]) + l2
        value[k] = sums[k] / below if below > 1e-12 else 0.0


@njit
def _try(side, total, other, outputs, l2, min_leaf, floor):
    """Gain of a split that leaves ``side`` of ``total`` on one side; -1 where it is not lawful."""
    width = len(total) - 1
    if side[width] < min_leaf or total[width] - side[width] < min_leaf:
        return -1.0
    for s in range(width + 1):
        other[s] = total[s] - side[s]
    return _quality(side, outputs, l2) + _quality(other, outputs, l2) - floor


@njit
def _best_split(
    hist, offsets, missing, categorical, total, outputs, l2, min_leaf, best_side, best_subset
):
    """(gain, column, code, missing goes left) of the best split; the column is -1 without one."""
    width = len(total) - 1
    floor = _quality(total, outputs, l2)
    best, best_f, best_code, best_missing = 1e-12 * floor, -1, 0, False
    side, other, with_missing = np.empty(width + 1), np.empty(width + 1), np.empty(width + 1)
    for f in range(len(missing)):
        part = hist[offsets[f] : offsets[f + 1]]
        if categorical[f]:
            gain, side_sums, chosen = _best_subset(part, total, outputs, l2, min_leaf, floor)
            if gain > best:
                best, best_f, best_missing = gain, f, chosen[missing[f]]
                best_side[:] = side_sums
                best_subset[:] = False
                best_subset[: len(chosen)] = chosen
            continue
        absent = part[missing[f]]
        if width == 1 and absent[1] == 0.0:  # what most splits are: the general case, unrolled
            gain, b = _best_cut(part[: missing[f]], total[0], total[1], l2, min_leaf, floor)
            if gain > best:
                best, best_f, best_code = gain, f, b
                best_side[:] = 0.0
                for c in range(b + 1):
                    best_side += part[c]
                best_missing = best_side[1] >= total[1] - best_side[1]
            continue
        side[:] = 0.0
        for b in range(missing[f]):
            if part[b, width] == 0.0:
                continue
            for s in range(width + 1):
                side[s] += part[b, s]
            gain = _try(side, total, other, outputs, l2, min_leaf, floor)
            if gain > best:
                best, best_f, best_code = gain, f, b
                best_missing = absent[width] == 0.0 and side[width] >= total[width] - side[width]
                best_side[:] = side
            if absent[width] > 0.0:
                for s in range(width + 1):
                    with_missing[s] = side[s] + absent[s]
                gain = _try(with_missing, total, other, outputs, l2, min_leaf, floor)
                if gain > best:
                    best, best_f, best_code, best_missing = gain, f, b, True
                    best_side[:] = with_missing
    return best, best_f, best_code, best_missing


@njit
def _best_cut(part, total, rows, l2, min_leaf, floor):
    """(gain, last bin of the left side) for one output, no Hessian and nothing missing."""
    best, at = -1.0, 0
    g, n = 0.0, 0.0
    for b in range(len(part)):
        if part[b, 1] == 0.0:
            continue
        g += part[b, 0]
        n += part[b, 1]
        m = rows - n
        if n < min_leaf:
            continue
        if m < min_leaf or m == 0.0:
            break
        gain = g * g / (n + l2) + (total - g) * (total - g) / (m + l2) - floor
        if gain > best:
            best, at = gain, b
    return best, at


@njit
def _best_subset(part, total, outputs, l2, min_leaf, floor):
    """Categories sorted by leaf value and cut once: (gain, sums of the left side, codes left)."""
    width = len(total) - 1
    present = np.flatnonzero(part[:, width] > 0.0)
    best, best_side, best_cut = -1.0, np.zeros(width + 1), 0
    leaf = np.empty(outputs)
    leaves = np.empty((len(present), outputs))
    spread = np.zeros(outputs)
    for i in range(len(present)):
        _set_leaf(part[present[i]], outputs, l2, leaf)
        leaves[i] = leaf
        spread += leaf * part[present[i], :outputs]
    ranked = present[np.argsort(leaves[:, np.argmax(spread)], kind="mergesort")]
    side, other = np.zeros(width + 1), np.empty(width + 1)
    for i in range(len(ranked) - 1):
        side += part[ranked[i]]
        gain = _try(side, total, other, outputs, l2, min_leaf, floor)
        if gain > best:
            best, best_cut = gain, i + 1
            best_side[:] = side
    # What this node has not seen goes with the larger side.
    larger = best_side[width] >= total[width] - best_side[width]
    chosen = np.full(len(part), larger)
    chosen[ranked[:best_cut]] = True
    chosen[ranked[best_cut:]] = False
    return best, best_side, chosen


@njit
def _grow_trees(
    codes, offsets, missing, categorical, starts, order, stats, outputs, depth, min_leaf, l2, rate,
    out, roots, feature, code, missing_left, left, subsets, value, gain,
):  # fmt: skip
    """Grow one tree per block, depth first; returns how many nodes there are.

    Of two children the smaller one's histogram is summed, the other's is what remains of the
    parent's. Depth first, never more than ``depth + 1`` histograms are alive.
    """
    blocks = len(starts) - 1
    width = len(stats) // codes.shape[1]
    longest = 0
    for t in range(blocks):
        longest = max(longest, starts[t + 1] - starts[t])
    slots = min(depth, longest) + 1
    hists = np.empty((slots, offsets[-1], width + 1))
    gathered = np.empty(longest * width if depth > 1 else 0)
    spare = np.empty(longest if depth > 1 else 0, np.uint32)
    seen = np.empty(longest if depth > 1 else 0, np.uint8)
    side, rest = np.empty(width + 1), np.empty(width + 1)
    subset = np.zeros(256, np.bool_)
    all_left = np.zeros(256, np.bool_)
    stack = np.empty((slots + 1, 5), np.int64)  # node, low, high, level, slot
    totals = np.empty((slots + 1, width + 1))
    free = np.empty(slots, np.int64)
    used = 0
    for t in range(blocks):
        roots[t] = used
        low, high = starts[t], starts[t + 1]
        for s in range(slots):
            free[s] = s
        free_count = slots - 1
        _fill_root(hists[free_count], codes, offsets, stats, width, low, high)
        totals[0] = 0.0
        for b in range(offsets[1]):
            for s in range(width + 1):
                totals[0, s] += hists[free_count, b, s]
        _set_leaf(totals[0], outputs, l2, value[used])
        stack[0, 0], stack[0, 1], stack[0, 2], stack[0, 3] = used, low, high, 0
        stack[0, 4] = free_count
        used += 1
        height = 1
        while height > 0:
            height -= 1
            node, low, high, level, slot = stack[height]
            total = totals[height].copy()
            hist = hists[slot]
            found, f, b, to_left = _best_split(
                hist, offsets, missing, categorical, total, outputs, l2, min_leaf, side, subset
            )
            if f < 0:  # a leaf
                free[free_count] = slot
                free_count += 1
                for i in range(low, high):
                    row = i if level == 0 else np.int64(order[i])
                    for k in range(outputs):
                        out[row, k] += rate * value[node, k]
                continue
            for s in range(width + 1):
                rest[s] = total[s] - side[s]
            feature[node], code[node], missing_left[node] = f, b, to_left
            gain[node], left[node] = found, used
            _set_leaf(side, outputs, l2, value[used])
            _set_leaf(rest, outputs, l2, value[used + 1])
            if categorical[f]:
                all_left[:] = subset
                subsets[node] = subset
            else:
                all_left[:] = False
                all_left[: b + 1] = True
                all_left[missing[f]] = to_left
            column = codes[f]
            child = used
            used += 2
            if level + 1 == depth:  # the children are leaves
                free[free_count] = slot
                free_count += 1
                for i in range(low, high):
                    row = i if level == 0 else np.int64(order[i])
                    leaf = child if all_left[column[row]] else child + 1
                    for k in range(outputs):
                        out[row, k] += rate * value[leaf, k]
                continue
            if level == 0:
                for i in range(low, high):
                    order[i] = i
            middle, others = low, 0
            for i in range(low, high):  # both sides keep the order of their rows
                row = order[i]
                if all_left[column[row]]:
                    order[middle] = row
                    middle += 1
                else:
                    spare[others] = row
                    others += 1
            order[middle:high] = spare[:others]
            free_count -= 1
            small = free[free_count]
            left_is_small = middle - low < high - middle
            rows = order[low:middle] if left_is_small else order[middle:high]
            _fill_node(hists[small], codes, offsets, stats, width, rows, gathered, seen)
            all_bins, some_bins = hist.reshape(-1), hists[small].reshape(-1)
            for b in range(len(all_bins)):
                all_bins[b] -= some_bins[b]
            for right in range(2):
                stack[height, 0] = child + right
                stack[height, 1] = middle if right else low
                stack[height, 2] = high if right else middle
                stack[height, 3] = level + 1
                stack[height, 4] = slot if (right == 1) == left_is_small else small
                totals[height] = rest if right else side
                height += 1
    return used
