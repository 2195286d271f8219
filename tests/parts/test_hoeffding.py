"""Hoeffding trees: the same trees as river's, and what pools add to them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from polytask.errors import InputError

pytest.importorskip("numba")
from polytask.parts.hoeffding import NONE, TreePool, TreeSettings

RIVER = {"smoothing": 0.0, "max_share": 0.99}
LEAVES = {"majority": "mc", "naive_bayes": "nb", "adaptive": "nba"}


def in_order(y: NDArray) -> NDArray:
    """Classes numbered as they appear, as river orders them: ties then go to the same class."""
    seen = {label: code for code, label in enumerate(dict.fromkeys(y.tolist()))}
    return np.array([seen[label] for label in y.tolist()])


def numbers(rows: int, seed: int = 0) -> tuple[NDArray, NDArray]:
    """Two classes, ten blobs."""
    rng = np.random.default_rng(seed)
    X, centres = rng.normal(size=(rows, 5)), rng.normal(size=(10, 5))
    nearest = ((X[:, None] - centres) ** 2).sum(-1).argmin(1)
    return X, in_order(nearest % 2)


def mixed(rows: int, seed: int = 0) -> tuple[NDArray, NDArray]:
    """Two classes from numbers and from nominal values (features 3 and 4), with noise."""
    rng = np.random.default_rng(seed)
    X = np.column_stack([rng.normal(size=(rows, 3)), rng.integers(0, 4, rows)])
    X = np.column_stack([X, rng.integers(0, 3, rows)])
    y = (X[:, 0] > 0) ^ (X[:, 3] % 2 == 0) ^ (rng.random(rows) < 0.1)
    return X, in_order(y.astype(np.int64))


def digits(rows: int) -> tuple[NDArray, NDArray]:
    """LED-like: ten classes, seven noisy segments, three that mean nothing; all nominal."""
    rng = np.random.default_rng(1)
    y, segments = rng.integers(0, 10, rows), rng.integers(0, 2, (10, 7))
    X = np.column_stack(
        [segments[y] ^ (rng.random((rows, 7)) < 0.05), rng.integers(0, 2, (rows, 3))]
    )
    return X.astype(float), in_order(y)


def pool_for(X: NDArray, nominal: Any = (), classes: int = 2, trees: int = 1, **fields: Any) -> Any:
    values = [int(X[:, f].max()) + 1 if f in nominal else 0 for f in range(X.shape[1])]
    return TreePool(trees, np.array(values), classes, TreeSettings(**fields))


def rivers(X: NDArray, y: NDArray, nominal: Any, **fields: Any) -> tuple[NDArray, list[Any]]:
    """Test-then-train predictions and structure of river's tree."""
    from river.tree import HoeffdingTreeClassifier

    tree = HoeffdingTreeClassifier(nominal_attributes=list(nominal), **fields)
    labels = np.zeros(len(X), np.int64)
    for i, (x, label) in enumerate(zip(X.tolist(), y.tolist(), strict=True)):
        row = dict(enumerate(x))
        labels[i] = tree.predict_one(row) or 0
        tree.learn_one(row, label)
    found: list[Any] = []

    def walk(node: Any) -> None:
        children = getattr(node, "children", ())
        kind = type(node).__name__
        if not children:
            found.append((node.depth, "leaf", -1, np.nan))
        elif kind == "NumericBinaryBranch":
            found.append((node.depth, "<=", node.feature, node.threshold))
        elif kind == "NominalBinaryBranch":
            found.append((node.depth, "==", node.feature, node.value))
        else:
            found.append((node.depth, "each", node.feature, -1))
        for child in children:
            walk(child)

    walk(tree._root)
    return labels, found


@pytest.mark.parametrize("leaf", LEAVES)
@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("stream", [numbers, mixed])
def test_the_tree_is_rivers_tree(stream: Any, binary: bool, leaf: Any) -> None:
    pytest.importorskip("river")
    X, y = stream(6000)
    nominal = (3, 4) if stream is mixed else ()
    pool = pool_for(X, nominal, grace=50, delta=1e-3, leaf=leaf, binary=binary, **RIVER)
    labels = pool.test_then_train(X, X, y)
    theirs, structure = rivers(
        X,
        y,
        nominal,
        grace_period=50,
        delta=1e-3,
        leaf_prediction=LEAVES[leaf],
        binary_split=binary,
    )
    assert np.array_equal(labels, theirs)
    ours = pool.structure()
    assert [node[:3] for node in ours] == [node[:3] for node in structure]
    assert len(ours) > 10
    gap = np.array([a[3] - b[3] for a, b in zip(ours, structure, strict=True)])
    assert np.nanmax(np.abs(gap)) < 1e-9


@pytest.mark.parametrize("binary", [True, False])
def test_ten_classes_of_nominal_values_as_river(binary: bool) -> None:
    pytest.importorskip("river")
    X, y = digits(4000)
    nominal = range(X.shape[1])
    fields = {"grace": 100, "delta": 0.5, "tau": 0.3, "binary": binary, "leaf": "naive_bayes"}
    pool = pool_for(X, nominal, 10, **fields, **RIVER)
    labels = pool.test_then_train(X, X, y)
    theirs, structure = rivers(
        X,
        y,
        nominal,
        grace_period=100,
        delta=0.5,
        tau=0.3,
        binary_split=binary,
        leaf_prediction="nb",
    )
    assert [node[:3] for node in pool.structure()] == [node[:3] for node in structure]
    assert len(structure) > 10
    # Small counts tie; the rounding of a sum, in whatever order, then decides.
    assert np.mean(labels != theirs) < 0.002
    assert (labels[2000:] == theirs[2000:]).all()


def test_before_anything_is_learned_chances_are_uniform() -> None:
    pool = pool_for(np.zeros((1, 2)), classes=4)
    assert np.array_equal(pool.predict_proba(np.zeros((1, 2))), np.full((1, 1, 4), 0.25))


def test_a_pool_is_its_trees() -> None:
    X, y = numbers(3000)
    weights = np.random.default_rng(0).poisson(1, (len(X), 3)).astype(float)
    pool = pool_for(X, trees=3, grace=50)
    pool.learn(X, y, weights)
    for tree in range(3):
        alone = pool_for(X, grace=50)
        alone.learn(X, y, weights[:, tree : tree + 1])
        assert repr(alone.structure()) == repr(pool.structure(tree))
        assert np.array_equal(alone.predict_proba(X)[:, 0], pool.predict_proba(X)[:, tree])


def test_a_missing_value_is_skipped_and_goes_with_the_many() -> None:
    X, y = numbers(4000)
    y = (X[:, 0] > 1).astype(np.int64)
    gaps = X.copy()
    gaps[::7, 1] = np.nan
    pool = pool_for(X, grace=50)
    pool.learn(gaps, y)
    assert pool.structure()[0][1:3] == ("<=", 0)
    blank = np.full((1, 5), np.nan)
    below = np.full((1, 5), np.nan)
    below[0, 0] = -1.0  # where most instances went
    assert np.array_equal(pool.predict_proba(blank), pool.predict_proba(below))
    assert pool.predict_proba(blank)[0, 0, 0] > 0.9


def test_leaves_and_depth_are_bounded() -> None:
    X, y = numbers(8000)
    free = pool_for(X, grace=50, delta=0.1)
    free.learn(X, y)
    assert int(free.forest.leaves[0]) > 12
    few = pool_for(X, grace=50, delta=0.1, max_leaves=5)
    few.learn(X, y)
    assert few.forest.leaves[0] == 5 == sum(node[1] == "leaf" for node in few.structure())
    assert few.nbytes < free.nbytes
    flat = pool_for(X, grace=50, delta=0.1, max_depth=2)
    flat.learn(X, y)
    assert max(node[0] for node in flat.structure()) == 2
    nodes = flat.forest.nodes
    assert set(nodes["slot"][nodes["depth"] == 2]) == {NONE}


def test_a_subspace_is_drawn_for_every_leaf() -> None:
    X, y = numbers(3000)
    pool = pool_for(X, trees=8, grace=50, subspace=2)
    pool.learn(X, y)
    slots = pool.forest.nodes["slot"][: pool.forest.used[0]]
    drawn = {tuple(row) for row in pool.forest.chosen[slots[slots >= 0]].tolist()}
    assert all(0 <= a < b < 5 for a, b in drawn)
    assert len(drawn) > 5
    firsts = {pool.structure(tree)[0][2] for tree in range(8)}
    assert len(firsts) > 1


def test_classes_that_come_later_change_nothing_that_was() -> None:
    X, y = digits(3000)
    late, early = pool_for(X, classes=2, grace=50), pool_for(X, classes=10, grace=50)
    first = y < 2
    late.learn(X[first], y[first])
    late.add_classes(8)
    early.learn(X[first], y[first])
    for pool in (late, early):
        pool.learn(X, y)
    assert np.array_equal(late.predict_proba(X), early.predict_proba(X))


@pytest.mark.parametrize("smoothing", [0.0, 1.0])
def test_values_that_come_later_get_their_branch(smoothing: float) -> None:
    X, y = mixed(6000)
    few = X[:, 3] < 2
    fields: Any = {"grace": 50, "delta": 0.1, "smoothing": smoothing}
    late = TreePool(1, np.array([0, 0, 0, 2, 3]), 2, TreeSettings(**fields))
    late.learn(X[few], y[few])
    assert any(node[1] == "each" and node[2] == 3 for node in late.structure())
    late.add_values(np.array([0, 0, 0, 4, 3]))
    late.learn(X, y)
    accuracy = (late.predict_proba(X)[:, 0].argmax(1) == y).mean()
    assert accuracy > 0.78  # chance is 0.5, the noise leaves 0.9
    used = late.forest.nodes[: late.forest.used[0]]
    assert set(used["width"][used["test"] == 3][used["feature"][used["test"] == 3] == 3]) == {4}


def test_a_stored_pool_goes_on_to_the_bit() -> None:
    X, y = mixed(4000)
    pool = pool_for(X, (3, 4), grace=50, subspace=3, trees=2)
    pool.learn(X[:2000], y[:2000])
    other = pool_for(X, (3, 4), grace=50, subspace=3, trees=2)
    other.restore({name: array.copy() for name, array in pool.state().items()})
    for one in (pool, other):
        one.learn(X[2000:], y[2000:])
    for name, array in pool.state().items():
        assert np.array_equal(array, other.state()[name], equal_nan=True), name


@pytest.mark.parametrize(
    ("fields", "culprit"),
    [
        ({"grace": 0}, "grace"),
        ({"delta": 0.0}, "delta"),
        ({"delta": 1.0}, "delta"),
        ({"leaf": "mean"}, "leaf"),
        ({"candidates": 0}, "candidates"),
        ({"smoothing": -1.0}, "smoothing"),
        ({"max_depth": 0}, "max_depth"),
        ({"max_leaves": 0}, "max_leaves"),
        ({"subspace": 3}, "subspace"),
    ],
)
def test_settings_that_cannot_be_are_refused(fields: Any, culprit: str) -> None:
    with pytest.raises(InputError, match=culprit):
        pool_for(np.zeros((1, 2)), **fields)
