"""The routed forest votes, learns and renews itself as its file says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from polytask.errors import InputError
from polytask.testing import check_system, mixed_suite

pytest.importorskip("numba")
from polytask.baselines.hoeffding_tree import HoeffdingTree
from polytask.parts.hoeffding import TreeSettings
from polytask.systems.routed_forest import RoutedForest

KINDS: list[dict[str, Any]] = [{}, {"top": 2}, {"network": False, "poisson": 0.0}]


@pytest.fixture(scope="module")
def stream() -> tuple[NDArray, NDArray]:
    """Two classes; what decides between them changes in the middle."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(4000, 4))
    first = X[:, 0] + X[:, 1] > 0
    second = X[:, 0] - X[:, 1] < 0
    return X, np.where(np.arange(4000) < 2000, first, second).astype(np.int64)


def forest(**fields: Any) -> RoutedForest:
    return RoutedForest(**{"classes": 2, "features": 4, "hidden": (16, 8), "experts": 5, **fields})


def same(one: Any, other: Any) -> None:
    state = other._state()
    for name, array in one._state().items():
        assert np.array_equal(array, state[name], equal_nan=True), name


@pytest.mark.parametrize("fields", KINDS)
def test_many_at_once_is_one_by_one(stream: Any, fields: Any) -> None:
    X, y = (part[:700] for part in stream)
    alone, many, pieces = forest(**fields), forest(**fields), forest(**fields)
    answers = []
    for x, label in zip(X, y.tolist(), strict=True):
        answers.append(alone.predict_one(dict(enumerate(x))))
        alone.learn_one(dict(enumerate(x)), label)
    assert answers == many.test_then_train(X, X, y).tolist()
    pieces.learn_many(X[:333], y[:333])
    pieces.learn_many(X[333:], y[333:])
    same(alone, many)
    same(alone, pieces)
    chances = many.predict_proba_many(X)
    np.testing.assert_allclose(chances.sum(1), 1)
    assert np.array_equal(chances.argmax(1), many.predict_many(X))


def test_late_labels_as_in_a_loop(stream: Any) -> None:
    X, y = (part[:600] for part in stream)
    loop, many, wait = forest(), forest(), 100
    answers = []
    for i in range(wait, len(X)):
        answers.append(loop.predict_one(dict(enumerate(X[i]))))
        loop.learn_one(dict(enumerate(X[i - wait])), int(y[i - wait]))
    assert answers == many.test_then_train(X[wait:], X[:-wait], y[:-wait]).tolist()
    same(loop, many)


def test_an_answer_does_not_know_its_label(stream: Any) -> None:
    X, y = (part[:400] for part in stream)
    other = y.copy()
    other[300] = 1 - y[300]
    a, b = (forest().test_then_train(X, X, labels) for labels in (y, other))
    assert (a[:301] == b[:301]).all()


def test_the_vote_is_the_formula(stream: Any) -> None:
    X, y = stream
    model = forest(batch=1)
    model.learn_many(X[:500], y[:500])
    x = X[500:501]
    trees = model.pool_.predict_proba(x)[0]
    notes = model.notes_
    vote = model.predict_proba_many(x)[0]
    # The network's outputs for x: those that learning from it notes down.
    accuracy = notes.accuracy.copy()
    model.learn_one(dict(enumerate(x[0])), int(y[500]))
    outputs = notes.units[0, -(5 + 1 + 2) :].astype(float)
    own = np.exp(outputs[6:] - outputs[6:].max())
    chances = np.vstack([trees, own / own.sum()])
    weights = (1 / (1 + np.exp(-outputs[:6]))) ** 4 * accuracy**4
    expected = weights @ chances
    np.testing.assert_allclose(vote, expected / expected.sum(), rtol=1e-6)
    hits = chances.argmax(1) == y[500]
    target = notes.target[0]
    assert hits.any()
    assert target[:6].tolist() == hits.tolist()
    assert target[6:].tolist() == np.eye(2)[y[500]].tolist()
    np.testing.assert_allclose(notes.accuracy, accuracy + (hits - accuracy) / 200, rtol=1e-12)


def test_without_additions_a_lone_expert_is_a_tree(stream: Any) -> None:
    X, y = stream
    lone = forest(
        experts=1, poisson=0, subspace=1.0, network=False, check=0, tree=TreeSettings(grace=50)
    )
    tree = HoeffdingTree(classes=2, grace=50)
    assert np.array_equal(lone.test_then_train(X, X, y), tree.test_then_train(X, X, y))


def test_trees_differ_and_weights_are_poisson(stream: Any) -> None:
    X, y = stream
    model = forest(check=0, poisson=3.0)
    model.learn_many(X, y)
    roots = model.pool_.forest.roots
    weights = model.pool_.forest.nodes["weight"][roots]
    assert len(set(weights.tolist())) == 5
    np.testing.assert_allclose(weights / len(X), 3, rtol=0.1)


def test_the_routers_choice_learns(stream: Any) -> None:
    X, y = stream
    model = forest(top=2, poisson=0, check=0)
    model.learn_many(X[:900], y[:900])
    roots = model.pool_.forest.roots
    assert model.pool_.forest.nodes["weight"][roots].sum() == 2 * 900


def test_a_tree_that_lost_its_touch_is_replaced(stream: Any) -> None:
    X, y = stream
    model, lasting = forest(), forest(check=0)
    answers, stale = (m.test_then_train(X, X, y) for m in (model, lasting))
    assert lasting.usage_["replaced"] == 0
    assert model.usage_["replaced"] > 0
    assert min(model.usage_["age"]) < 2000 <= max(lasting.usage_["age"])
    before = forest()
    before.learn_many(X[:2000], y[:2000])
    assert before.usage_["replaced"] <= 1
    late = slice(2500, None)
    assert np.mean(answers[late] == y[late]) > np.mean(stale[late] == y[late])


def test_replaced_trees_give_their_memory_back() -> None:
    rng = np.random.default_rng(1)
    X = rng.normal(size=(30_000, 3))
    y = ((X[:, 0] > 0) ^ (np.arange(30_000) // 1000 % 2 == 1)).astype(np.int64)
    model = forest(features=3, tree=TreeSettings(grace=20, delta=0.1))
    model.learn_many(X[:10_000], y[:10_000])
    early = model.nbytes
    model.learn_many(X[10_000:], y[10_000:])
    assert model.usage_["replaced"] > 20
    assert model.nbytes <= 2 * early
    arrays = model.pool_.forest
    slots = arrays.nodes["slot"]
    reached = []
    below = arrays.roots.tolist()
    while below:
        node = below.pop()
        reached.append(node)
        below += range(
            arrays.nodes["first"][node], arrays.nodes["first"][node] + arrays.nodes["width"][node]
        )
    held = [int(slots[node]) for node in reached if slots[node] >= 0]
    free = arrays.free[: arrays.used[1]].tolist()
    assert sorted(held + free) == list(range(len(arrays.free)))


@pytest.mark.parametrize("fields", KINDS)
def test_saved_in_the_middle_it_goes_on_to_the_bit(
    stream: Any, fields: Any, tmp_path: Path
) -> None:
    X, y = stream
    model = forest(**fields)
    model.learn_many(X[:1503], y[:1503])
    model.save_pretrained(tmp_path / "forest")
    loaded = RoutedForest.from_pretrained(tmp_path / "forest")
    rest = X[1503:]
    answers = model.test_then_train(rest, rest, y[1503:])
    assert np.array_equal(answers, loaded.test_then_train(rest, rest, y[1503:]))
    same(model, loaded)


def test_classes_may_appear_on_the_way(stream: Any) -> None:
    X, y = stream
    y = np.where((np.arange(len(y)) > 1000) & (X[:, 2] > 0.5), 2, y)
    model = forest(classes=None)
    answers = model.test_then_train(X, X, y)
    assert sorted(model.classes_) == [0, 1, 2]
    assert np.mean(answers[3000:] == y[3000:]) > 0.7


@pytest.mark.parametrize(
    ("fields", "culprit"),
    [
        ({"top": 6}, "top"),
        ({"experts": 0}, "experts"),
        ({"subspace": 0.0}, "subspace"),
        ({"poisson": -1.0}, "poisson"),
        ({"memory": 0}, "memory"),
        ({"check": -1}, "check"),
        ({"lr": 0.0}, "lr"),
        ({"tree": TreeSettings(delta=2.0)}, "delta"),
    ],
)
def test_settings_that_cannot_be_are_refused(fields: Any, culprit: str) -> None:
    with pytest.raises(InputError, match=culprit):
        forest(**fields).learn_one(dict(enumerate(range(4))), 0)


def test_promises() -> None:
    suite = mixed_suite().only("rooms", "sold")
    settings: dict[str, Any] = {"hidden": (8,), "experts": 4, "tree": TreeSettings(grace=20)}
    checks = check_system(RoutedForest, suite=suite, **settings)
    assert [check for check in checks if check.passed is False] == []
