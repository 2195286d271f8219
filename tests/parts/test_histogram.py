"""Histogram trees: equal to exact ones where bins allow, one pass for all blocks, gaps, groups."""

from __future__ import annotations

import importlib
import itertools
import json
import sys

import numpy as np
import pytest
from sklearn.tree import DecisionTreeRegressor

from polytask.errors import InputError
from polytask.parts.histogram import Bins, Forest, Grower


def grown(X, g, starts=None, hessian=None, categorical=(), by_block=False, rate=1.0, **settings):
    """(forest, what it added on the training rows) of one round."""
    starts = [0, len(X)] if starts is None else starts
    g = g.reshape(len(X), -1)
    grower = Grower(Bins.fit(X, categorical=categorical), X, starts, **settings)
    out = np.zeros_like(g)
    return grower.grow(g, out, rate, hessian, by_block=by_block), out


def answers(forest, X, bins=None, **where):
    X = X if bins is None else bins.readable(X)
    out = np.zeros((len(X), forest.value.shape[1]))
    forest.add(X, out, **where)
    return out


def draw(rows=400, columns=5, outputs=1, digits=1):
    rng = np.random.default_rng(7)
    X = rng.normal(size=(rows, columns)).round(digits)
    noise = rng.normal(size=(rows, outputs))
    return X, np.sin(2 * X[:, :1]) + X[:, 1:2] * (X[:, 2:3] > 0) + noise


# -- bins ------------------------------------------------------------------------------------------


def test_few_values_are_cut_midway() -> None:
    X = np.array([[3.0], [1.0], [np.nan], [2.0], [1.0]])
    bins = Bins.fit(X)
    np.testing.assert_array_equal(bins.edges[0], [1.5, 2.5])
    assert bins.transform(X).tolist() == [[2, 0, 3, 1, 0]]  # 3 says missing


def test_many_values_are_cut_into_equal_parts() -> None:
    X = np.random.default_rng(0).normal(size=(10_000, 1))
    bins = Bins.fit(X, max_bins=16)
    counts = np.bincount(bins.transform(X)[0])
    assert len(counts) == 16
    assert counts.min() >= 624 and counts.max() <= 626


def test_a_code_says_which_cuts_a_value_is_above() -> None:
    X = np.random.default_rng(0).exponential(size=(3000, 2))
    bins = Bins.fit(X, max_bins=100)
    for column, cuts, codes in zip(X.T, bins.edges, bins.transform(X), strict=True):
        np.testing.assert_array_equal(codes, np.searchsorted(cuts, column, side="left"))


def test_neighbouring_floats_keep_their_sides() -> None:
    low = 1.0
    high = np.nextafter(low, 2)
    X = np.array([[low], [high]])
    assert Bins.fit(X).transform(X).tolist() == [[0, 1]]


def test_rare_and_unseen_categories_count_as_missing() -> None:
    X = np.array([[5.0]] * 3 + [[7.0]] * 2 + [[9.0]])
    bins = Bins.fit(X, max_bins=2, categorical=[0])
    rows = np.array([[5.0], [7.0], [9.0], [6.0], [np.nan]])
    assert bins.transform(rows).tolist() == [[0, 1, 2, 2, 2]]
    np.testing.assert_array_equal(bins.readable(rows)[:, 0], [0, 1, 2, 2, 2])


def test_bins_go_to_json_and_back() -> None:
    X = draw(digits=6)[0]
    bins = Bins.fit(X, categorical=[1])
    again = Bins.from_dict(json.loads(json.dumps(bins.to_dict())))
    np.testing.assert_array_equal(again.transform(X), bins.transform(X))


@pytest.mark.parametrize("count", [1, 256])
def test_the_number_of_bins_is_bounded(count: int) -> None:
    with pytest.raises(InputError, match=f"max_bins is {count}; it must be from 2 to 255"):
        Bins.fit(np.zeros((3, 1)), count)


# -- trees -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", [1, 2, 5])
@pytest.mark.parametrize("outputs", [1, 3])
def test_with_a_bin_per_value_trees_are_exact(depth: int, outputs: int) -> None:
    X, y = draw(outputs=outputs)
    forest, out = grown(X, y, depth=depth)
    exact = DecisionTreeRegressor(max_depth=depth, random_state=0).fit(X, y)
    np.testing.assert_allclose(out, exact.predict(X).reshape(out.shape), rtol=0, atol=1e-12)
    assert forest.leaves == exact.get_n_leaves()


def test_trees_of_blocks_are_those_of_each_block_alone() -> None:
    X, y = draw()
    starts = [0, 1, 90, 300, 400]
    whole = Bins.fit(X)
    out = np.zeros_like(y)
    together = Grower(whole, X, starts, depth=3).grow(y, out, 1.0, by_block=True)
    assert together.roots.shape == (1, 4)
    for low, high in itertools.pairwise(starts):
        alone = np.zeros((high - low, 1))
        Grower(whole, X[low:high], [0, high - low], depth=3).grow(y[low:high], alone, 1.0)
        np.testing.assert_array_equal(out[low:high], alone)


@pytest.mark.parametrize("depth", [1, 4])
@pytest.mark.parametrize("outputs", [1, 2])
def test_the_update_is_the_prediction(depth: int, outputs: int) -> None:
    """Gaps, a category and blocks: what growing adds is what walking the trees gives."""
    X, y = draw(rows=900, outputs=outputs)
    X[:, 3] = np.arange(900) % 6
    X[np.random.default_rng(1).random(X.shape) < 0.2] = np.nan
    starts, blocks = [0, 300, 900], np.repeat([0, 1], [300, 600])
    bins = Bins.fit(X, categorical=[3])
    grower = Grower(bins, X, starts, depth=depth)
    out = np.zeros_like(y)
    rounds = [grower.grow(y - out, out, 0.3, by_block=True) for _ in range(5)]
    found = answers(Forest.stacked(rounds), X, bins, rate=0.3, blocks=blocks)
    np.testing.assert_allclose(found, out, rtol=0, atol=1e-12)
    mixed = np.random.default_rng(2).permutation(900)
    again = answers(Forest.stacked(rounds), X[mixed], bins, rate=0.3, blocks=blocks[mixed])
    np.testing.assert_array_equal(again, found[mixed])


@pytest.mark.parametrize("outputs", [1, 2])
def test_a_newton_stump_has_the_best_gain_of_all(outputs: int) -> None:
    X, g = draw(rows=60, columns=3, outputs=outputs)
    h = np.random.default_rng(3).uniform(0.1, 2, g.shape)
    forest, out = grown(X, g, hessian=h, leaf_l2=0.5)

    def quality(rows):
        return (g[rows].sum(0) ** 2 / (h[rows].sum(0) + 0.5)).sum()

    gains = {
        (f, cut): quality(X[:, f] <= cut) + quality(X[:, f] > cut) - quality(slice(None))
        for f in range(3)
        for cut in np.unique(X[:, f])[:-1]
    }
    assert forest.gain[0] == pytest.approx(max(gains.values()))
    left = X[:, forest.feature[0]] <= forest.threshold[0]
    for side in (left, ~left):
        leaf = g[side].sum(0) / (h[side].sum(0) + 0.5)
        np.testing.assert_allclose(out[side], np.broadcast_to(leaf, out[side].shape))


def test_unit_hessians_give_means() -> None:
    X, g = draw(outputs=2)
    plain = grown(X, g, depth=3)[1]
    newton = grown(X, g, hessian=np.ones_like(g), depth=3)[1]
    np.testing.assert_allclose(newton, plain, rtol=0, atol=1e-12)


@pytest.mark.parametrize("low", [True, False])
def test_missing_values_go_where_they_belong(low: bool) -> None:
    """They behave like the small values, or like the large ones."""
    x = np.repeat([1.0, 2.0, 3.0, np.nan], 5)
    like_small = (x <= 1) | (np.isnan(x) & low)
    forest, out = grown(x[:, None], np.where(like_small, -1.0, 1.0))
    np.testing.assert_array_equal(out[:, 0], np.where(like_small, -1, 1))
    assert bool(forest.missing_left[0]) is low


def test_missing_values_can_be_told_from_all_others() -> None:
    x = np.repeat([1.0, 2.0, np.nan], 4)
    forest, out = grown(x[:, None], np.isnan(x).astype(float))
    np.testing.assert_array_equal(out[:, 0], np.isnan(x))
    np.testing.assert_array_equal(answers(forest, np.array([[99.0], [np.nan]])), [[0], [1]])


def test_where_none_was_missing_they_follow_the_larger_side() -> None:
    x = np.array([1.0, 2.0, 2.0, 2.0])[:, None]
    forest = grown(x, x[:, 0])[0]
    np.testing.assert_array_equal(answers(forest, np.array([[np.nan]])), [[2.0]])


@pytest.mark.parametrize("hessian", [False, True])
def test_categories_are_parted_in_the_best_of_all_ways(hessian: bool) -> None:
    rng = np.random.default_rng(5)
    x = rng.integers(0, 6, 80).astype(float)
    g = rng.normal(size=6)[x.astype(int)] + 0.3 * rng.normal(size=80)
    h = rng.uniform(0.5, 2, (80, 1)) if hessian else None
    weight = np.ones(80) if h is None else h[:, 0]

    def quality(rows):
        return g[rows].sum() ** 2 / weight[rows].sum()

    every = [
        quality(np.isin(x, some)) + quality(~np.isin(x, some)) - quality(slice(None))
        for size in range(1, 6)
        for some in itertools.combinations(range(6), size)
    ]
    forest, _ = grown(x[:, None], g, hessian=h, categorical=[0])
    assert forest.gain[0] == pytest.approx(max(every))


def test_categories_with_several_outputs() -> None:
    """Every other shop behaves alike in two of three outputs; numbers would need many cuts."""
    shop = np.arange(200) % 10
    g = np.stack([np.zeros(200), np.where(shop % 2, 1.0, -1.0), shop % 2], axis=1)
    _, out = grown(shop[:, None].astype(float), g, categorical=[0])
    np.testing.assert_allclose(out, g, atol=1e-12)


def test_an_unseen_category_follows_the_larger_side() -> None:
    x = np.array([1.0, 2.0, 2.0, 3.0, 3.0])[:, None]
    bins = Bins.fit(x, categorical=[0])
    forest = grown(x, np.array([5.0, 1, 1, 1, 1]), categorical=[0])[0]
    found = answers(forest, np.array([[1.0], [4.0], [np.nan]]), bins)
    np.testing.assert_array_equal(found[:, 0], [5, 1, 1])


def test_every_leaf_keeps_enough_rows() -> None:
    X, y = draw()
    forest, out = grown(X, y, depth=6, min_leaf=40)
    assert np.unique(out, return_counts=True)[1].min() >= 40
    assert forest.leaves > 3
    exact = DecisionTreeRegressor(max_depth=6, min_samples_leaf=40, random_state=0).fit(X, y)
    np.testing.assert_allclose(out[:, 0], exact.predict(X), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "X", [np.ones((6, 2)), np.full((6, 2), np.nan), np.arange(12.0).reshape(6, 2)]
)
def test_nothing_to_split_is_one_leaf(X: np.ndarray) -> None:
    forest, out = grown(X, np.full(6, 2.5), depth=3)
    assert forest.leaves == 1
    np.testing.assert_array_equal(out, np.full((6, 1), 2.5))


def test_deep_trees_end_with_the_rows() -> None:
    X = np.arange(8.0)[:, None]
    y = np.array([3.0, 1, 4, 1, 5, 9, 2, 6])
    forest, out = grown(X, y, depth=50)
    np.testing.assert_array_equal(out[:, 0], y)
    assert forest.leaves == 8


# -- forests ---------------------------------------------------------------------------------------


def test_rounds_can_be_taken_apart() -> None:
    X, y = draw()
    bins = Bins.fit(X)
    grower = Grower(bins, X, [0, 200, 400], depth=2)
    out = np.zeros_like(y)
    rounds = [grower.grow(y - out, out, 0.5, by_block=True) for _ in range(4)]
    forest, blocks = Forest.stacked(rounds), np.repeat([0, 1], 200)
    parts = sum(answers(r, X, blocks=blocks) for r in rounds)
    np.testing.assert_allclose(answers(forest, X, blocks=blocks), parts, atol=1e-12)
    middle = answers(forest, X, blocks=blocks, first=1, last=3)
    np.testing.assert_allclose(
        middle, answers(Forest.stacked(rounds[1:3]), X, blocks=blocks), atol=1e-12
    )


def saved():
    """(arrays, bins) of two rounds with a category."""
    X, y = draw()
    X[:, 1] = np.arange(len(X)) % 7
    bins = Bins.fit(X, categorical=[1])
    grower = Grower(bins, X, [0, len(X)], depth=3)
    out = np.zeros_like(y)
    forest = Forest.stacked([grower.grow(y - out, out, 0.5) for _ in range(2)])
    return forest.arrays("m"), bins, answers(forest, X, bins), X


def test_what_is_loaded_answers_as_what_was_saved() -> None:
    arrays, bins, expected, X = saved()
    again = Forest.loaded(arrays, "m", bins)
    np.testing.assert_array_equal(answers(again, X, bins), expected)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("roots", 10_000),
        ("roots", -1),
        ("left", 0),
        ("left", 10_000),
        ("feature", 5),
        ("subset", 10_000),
        ("subset", -1),
    ],
)
def test_trees_that_would_leave_their_arrays_are_refused(field: str, value: int) -> None:
    """A saved model may come from strangers, and compiled code checks no index."""
    arrays, bins, _, _ = saved()
    inner = arrays["m.feature"] >= 0
    array = arrays[f"m.{field}"].copy()
    at = array >= 0 if field in ("roots", "subset") else inner
    array[np.flatnonzero(at)[:1] if array.ndim == 1 else (0, 0)] = value
    with pytest.raises(InputError, match="saved trees are damaged: m has a node"):
        Forest.loaded({**arrays, f"m.{field}": array}, "m", bins)


def test_arrays_of_another_sort_are_refused() -> None:
    arrays, bins, _, _ = saved()
    with pytest.raises(InputError, match=r"saved trees are damaged: no usable m\.left"):
        Forest.loaded({**arrays, "m.left": arrays["m.left"].astype(float)}, "m", bins)
    with pytest.raises(InputError, match=r"saved trees are damaged: m has a node"):
        Forest.loaded({**arrays, "m.gain": arrays["m.gain"][:-1]}, "m", bins)


def test_rows_of_no_block_stay_as_they_are() -> None:
    X, y = draw()
    forest, out = grown(X, y, [0, 200, 400], by_block=True)
    blocks = np.repeat([-1, 1], 200)
    found = answers(forest, X, blocks=blocks)
    np.testing.assert_array_equal(found[:200], 0)
    np.testing.assert_allclose(found[200:], out[200:], atol=1e-12)


def test_an_empty_forest_adds_nothing() -> None:
    np.testing.assert_array_equal(answers(Forest.empty(1, 2), np.ones((3, 1))), np.zeros((3, 2)))


def test_gains_name_the_column_that_mattered() -> None:
    X, _ = draw()
    forest, _ = grown(X, X[:, 3] ** 2, depth=3)
    assert forest.gains(5).argmax() == 3
    assert forest.gains(5).sum() == pytest.approx(forest.gain.sum())


def test_without_numba_one_sentence_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "numba", None)
    for name in ("compiled", "histogram"):
        monkeypatch.delitem(sys.modules, f"polytask.parts.{name}")
    with pytest.raises(InputError, match=r"'numba' is not installed; install polytask\[trees\]"):
        importlib.import_module("polytask.parts.histogram")
