"""DriftMoE does what its sheet says, in its order, and nothing else."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from polytask.errors import InputError
from polytask.testing import check_system, mixed_suite

pytest.importorskip("numba")
from polytask.baselines.hoeffding_tree import HoeffdingTree
from polytask.parts.foreign_trees import ForeignTrees, RiverTrees
from polytask.parts.hoeffding import TreeSettings
from polytask.parts.online_mlp import layers
from polytask.systems.driftmoe import DriftMoE

MODES: list[dict[str, Any]] = [
    {},
    {"mode": "task"},
    {"mode": "task", "combine": "expert"},
    {"standardise": True, "class_weighted": True},
    {"routing": "random"},
]


@pytest.fixture(scope="module")
def stream() -> tuple[NDArray, NDArray]:
    """Three classes in ten blobs that move."""
    rng = np.random.default_rng(0)
    rows = 3000
    X, centres = rng.normal(size=(rows, 5)), rng.normal(size=(10, 5))
    drift = np.linspace(0, 1, rows)[:, None, None] * rng.normal(size=(10, 5))
    y = ((X[:, None] - centres - drift) ** 2).sum(-1).argmin(1) % 3
    return X, y.astype(np.int64)


def moe(**fields: Any) -> DriftMoE:
    return DriftMoE(**{"classes": 3, "features": 5, "hidden": (16, 8), **fields})


def same(one: DriftMoE, other: DriftMoE) -> None:
    state = other._state()
    for name, array in one._state().items():
        assert np.array_equal(array, state[name], equal_nan=True), name


def trees_of(model: DriftMoE) -> list[tuple[Any, ...]]:
    """What each tree has seen: class weights at all its nodes, in order."""
    forest, found = model.pool_.forest, []
    for tree, root in enumerate(forest.roots):
        below, seen = [int(root)], []
        while below:
            node = forest.nodes[below.pop()]
            seen.append(float(node["weight"]))
            below += range(node["first"], node["first"] + node["width"])
        found.append((*seen, *model.pool_.predict_proba(np.zeros((1, 5)))[0, tree]))
    return found


def test_defaults_are_the_papers() -> None:
    model = DriftMoE(features=24, classes=10)
    model.predict_many(np.zeros((1, 24)))
    sizes = [(24, 256), (256, 128), (128, 12)]
    assert [weights.shape for weights, _ in layers(model.net_)] == sizes
    assert len(model.net_.weights) == sum((i + 1) * o for i, o in sizes) == 40_844
    assert (model.top, model.lr, model.notes_.units.shape[0]) == (3, 2e-3, 256)
    assert (model.tree.grace, model.tree.delta, model.tree.leaf) == (50, 1e-7, "adaptive")
    for (weights, bias), (inputs, outputs) in zip(layers(model.net_), sizes, strict=True):
        bound = np.sqrt(6 / (inputs + outputs))
        assert 0.95 * bound < np.abs(weights).max() <= bound
        assert (bias == 0).all()


@pytest.mark.parametrize("fields", MODES)
def test_many_at_once_is_one_by_one(stream: Any, fields: Any) -> None:
    X, y = (part[:1500] for part in stream)
    alone, many = moe(**fields), moe(**fields)
    answers = []
    for x, label in zip(X, y.tolist(), strict=True):
        answers.append(alone.predict_one(dict(enumerate(x))))
        alone.learn_one(dict(enumerate(x)), label)
    assert answers == many.test_then_train(X, X, y).tolist()
    same(alone, many)
    pieces = moe(**fields)
    pieces.learn_many(X[:701], y[:701])
    pieces.learn_many(X[701:], y[701:])
    same(alone, pieces)
    assert many.predict_many(X).tolist() == many.predict_proba_many(X).argmax(1).tolist()
    np.testing.assert_allclose(many.predict_proba_many(X).sum(1), 1)


@pytest.mark.parametrize("fields", MODES[:3])
def test_late_labels_as_in_a_loop(stream: Any, fields: Any) -> None:
    X, y = (part[:900] for part in stream)
    loop, many, wait = moe(**fields), moe(**fields), 300
    answers = []
    for i in range(wait, len(X)):
        answers.append(loop.predict_one(dict(enumerate(X[i]))))
        loop.learn_one(dict(enumerate(X[i - wait])), int(y[i - wait]))
    assert answers == many.test_then_train(X[wait:], X[:-wait], y[:-wait]).tolist()
    same(loop, many)


@pytest.mark.parametrize("fields", MODES)
def test_an_answer_does_not_know_its_label(stream: Any, fields: Any) -> None:
    X, y = (part[:600] for part in stream)
    other = y.copy()
    other[500] = (y[500] + 1) % 3
    first, second = moe(**fields), moe(**fields)
    a, b = first.test_then_train(X, X, y), second.test_then_train(X, X, other)
    assert (a[:501] == b[:501]).all()
    with pytest.raises(AssertionError):
        same(first, second)


def test_the_mask_says_who_was_right(stream: Any) -> None:
    X, y = stream
    model = moe(experts=5, batch=4000)
    model.learn_many(X[:400], y[:400])
    someone = nobody = 0
    for x, label in zip(X[400:1000], y[400:1000].tolist(), strict=True):
        answers = model.pool_.predict_proba(x[None])[0]
        model.learn_one(dict(enumerate(x)), label)
        mask = model.notes_.mask[model.notes_.filled[0] - 1]
        right = answers.argmax(1) == label
        if right.any():
            someone += 1
            assert mask.tolist() == right.tolist()
        else:
            nobody += 1
            assert mask.tolist() == np.eye(5)[answers[:, label].argmax()].tolist()
    assert someone > 50 and nobody > 5
    assert model.notes_.right[0] >= someone


def test_in_task_mode_the_mask_is_the_label(stream: Any) -> None:
    X, y = stream
    model = moe(mode="task", batch=500)
    model.learn_many(X[:400], y[:400])
    assert np.array_equal(model.notes_.mask[:400], np.eye(3)[y[:400]])


def test_just_the_k_highest_learn(stream: Any) -> None:
    X, y = stream
    model = moe(experts=6, top=2)
    model.learn_many(X[:100], y[:100])
    for x, label in zip(X[100:160], y[100:160].tolist(), strict=True):
        before, ranked = trees_of(model), model.route_many(x[None])[0].argsort()[::-1]
        model.learn_one(dict(enumerate(x)), label)
        changed = {
            e for e, (a, b) in enumerate(zip(before, trees_of(model), strict=True)) if a != b
        }
        assert changed == set(ranked[:2].tolist())


def test_the_router_moves_when_its_block_is_full(stream: Any) -> None:
    X, y = stream
    model = moe()
    moved = []
    for i in range(600):
        before = model.net_.weights.copy() if i else None
        model.learn_one(dict(enumerate(X[i])), int(y[i]))
        if before is not None and not np.array_equal(before, model.net_.weights):
            moved.append(i + 1)
    assert moved == [256, 512]
    assert model.net_.steps[0] == 2


def test_a_single_expert_is_a_tree_and_so_are_all_that_learn_all(stream: Any) -> None:
    X, y = stream
    grows = {"grace": 50, "delta": 0.1}
    tree = HoeffdingTree(classes=3, **grows)
    answers = tree.test_then_train(X, X, y)
    assert tree.pool_.forest.leaves[0] > 1
    one = moe(experts=1, top=1, tree=TreeSettings(**grows))
    all_alike = moe(experts=4, top=4, tree=TreeSettings(**grows))
    assert np.array_equal(one.test_then_train(X, X, y), answers)
    assert repr(one.pool_.structure()) == repr(tree.pool_.structure())
    assert np.array_equal(all_alike.test_then_train(X, X, y), answers)
    assert len({repr(all_alike.pool_.structure(e)) for e in range(4)}) == 1


def test_only_the_combination_asks_the_trees(stream: Any) -> None:
    X, y = stream
    router, both = moe(mode="task"), moe(mode="task", combine="expert")
    router.learn_many(X[:1000], y[:1000])
    both.learn_many(X[:1000], y[:1000])
    same(router, both)
    logits = np.log(router.route_many(X))  # softmax keeps the order and the gaps
    assert np.array_equal(router.predict_many(X), logits.argmax(1))
    yes = both.pool_.predict_proba(X)[:, :, 1]
    units = both._ask(X)[0].astype(float)
    expected = yes / (1 + np.exp(-units))
    np.testing.assert_allclose(
        both.predict_proba_many(X), expected / expected.sum(1, keepdims=True)
    )
    assert not np.array_equal(router.predict_many(X), both.predict_many(X))


def test_asking_changes_nothing(stream: Any) -> None:
    X, y = stream
    for fields in MODES:
        model = moe(**fields)
        model.learn_many(X[:300], y[:300])
        before = copy.deepcopy(model._state())
        first = model.predict_proba_many(X)
        assert np.array_equal(first, model.predict_proba_many(X))
        for name, array in model._state().items():
            assert np.array_equal(array, before[name], equal_nan=True), name


def test_standardised_inputs_do_not_depend_on_units(stream: Any) -> None:
    X, y = stream
    scaled = X * [1, 1024, 1, 2**-10, 1]  # powers of two: no rounding
    plain, huge = moe(standardise=True), moe(standardise=True)
    plain.learn_many(X, y)
    huge.learn_many(scaled, y)
    assert np.array_equal(plain.net_.weights, huge.net_.weights)
    raw, other = moe(), moe()
    raw.learn_many(X, y)
    other.learn_many(scaled, y)
    assert not np.array_equal(raw.net_.weights, other.net_.weights)


def test_class_weights_are_inverse_to_frequency(stream: Any) -> None:
    X, y = stream
    model = moe(class_weighted=True, batch=4000)
    model.learn_many(X[:500], y[:500])
    counts = np.cumsum(np.eye(3)[y[:500]], axis=0)[np.arange(500), y[:500]]
    expected = np.arange(1, 501) / (3 * counts)
    np.testing.assert_allclose(model.notes_.weight[:500], expected, rtol=1e-6)


@pytest.mark.parametrize("fields", MODES)
def test_saved_in_the_middle_it_goes_on_to_the_bit(
    stream: Any, fields: Any, tmp_path: Path
) -> None:
    X, y = stream
    model = moe(**fields)
    model.learn_many(X[:1100], y[:1100])
    model.save_pretrained(tmp_path / "moe")
    loaded = DriftMoE.from_pretrained(tmp_path / "moe")
    rest = X[1100:]
    answers = model.test_then_train(rest, rest, y[1100:])
    assert np.array_equal(answers, loaded.test_then_train(rest, rest, y[1100:]))
    same(model, loaded)


@pytest.mark.parametrize("mode", ["data", "task"])
def test_classes_may_appear_on_the_way(stream: Any, mode: Any) -> None:
    X, y = stream
    y = np.where(np.arange(len(y)) < 1000, y % 2, y)
    model = moe(mode=mode, classes=None)
    answers = model.test_then_train(X, X, y)
    assert set(model.classes_) == {0, 1, 2}
    assert set(answers[1:1000].tolist()) == {0, 1}
    assert np.mean(answers[2000:] == y[2000:]) > 0.6
    assert model.predict_proba_many(X).shape == (len(X), 3)
    assert model.pool_.trees == (12 if mode == "data" else 3)


def test_memory_is_bounded_by_the_leaves(stream: Any) -> None:
    X, y = stream
    bounded, free = (moe(tree=TreeSettings(grace=20, delta=0.1, max_leaves=n)) for n in (3, None))
    for model in (bounded, free):
        model.learn_many(X, y)
    assert bounded.pool_.forest.leaves.max() <= 3 < free.pool_.forest.leaves.max()
    assert bounded.pool_.forest.used[0] < free.pool_.forest.used[0]


def test_it_tells_who_answers(stream: Any) -> None:
    X, y = stream
    model = moe()
    model.learn_many(X, y)
    usage = model.usage_
    assert sum(usage["shares"]) == pytest.approx(1)
    accuracy = np.mean(model.predict_many(X) == y)
    assert accuracy < usage["oracle"] <= 1
    shares = model.route_many(X[:50])
    np.testing.assert_allclose(shares.sum(1), 1)
    gaps = np.diff(np.log(shares), axis=1) * model.temperature
    np.testing.assert_allclose(
        gaps, np.diff(model._ask(X[:50])[0].astype(float), axis=1), atol=1e-6
    )


@pytest.mark.parametrize("fields", MODES[:3])
def test_rivers_trees_in_the_place_of_ours(stream: Any, fields: Any) -> None:
    pytest.importorskip("river")
    X, y = (part[:700] for part in stream)
    as_river = TreeSettings(grace=50, smoothing=0, max_share=0.99)
    ours = moe(experts=4, tree=as_river, **fields)
    theirs = moe(experts=4, pool=RiverTrees(grace=50), **fields)
    a, b = (model.test_then_train(X, X, y) for model in (ours, theirs))
    assert np.mean(a == b) > 0.97  # river breaks the ties of first counts otherwise
    np.testing.assert_allclose(ours.net_.weights, theirs.net_.weights, atol=0.05)
    with pytest.raises(InputError, match="pool"):
        theirs.save_pretrained("nowhere")
    with pytest.raises(InputError, match="classes"):
        moe(classes=None, pool=RiverTrees()).learn_many(X, y)


def test_moas_trees_answer_in_the_same_shape(stream: Any) -> None:
    pytest.importorskip("capymoa")
    from polytask.parts.foreign_trees import CapyMOATrees

    X, y = (part[:300] for part in stream)
    model = moe(experts=3, pool=CapyMOATrees())
    answers = model.test_then_train(X, X, y)
    assert np.mean(answers[100:] == y[100:]) > 0.45
    assert model.predict_proba_many(X).shape == (300, 3)


def test_a_pool_of_ones_own(stream: Any) -> None:
    class Counts(ForeignTrees):
        """Trees without a test: class counts."""

        def _tree(self) -> Any:
            return np.zeros(self.classes)

        def _instance(self, x: NDArray, label: int | None) -> None:
            return None

        def _votes(self, tree: Any, instance: Any, out: NDArray) -> None:
            out[:] = tree

        def _train(self, tree: Any, instance: Any, label: int) -> None:
            tree[label] += 1

    X, y = stream
    model = moe(experts=2, top=2, pool=Counts())
    model.learn_many(X, y)
    expected = np.bincount(y) / len(y)
    np.testing.assert_allclose(model.predict_proba_many(X[:2]), [expected, expected])


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"top": 13}, "top.*12"),
        ({"top": 0}, "top"),
        ({"dropout": 1.0}, "dropout"),
        ({"lr": 0.0}, "lr"),
        ({"temperature": 0.0}, "temperature"),
        ({"batch": 0}, "batch"),
        ({"combine": "expert"}, "combine"),
        ({"tree": TreeSettings(grace=0)}, "grace"),
    ],
)
def test_settings_that_cannot_be_are_refused(fields: Any, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        moe(**fields).learn_one(dict(enumerate(range(5))), 0)


@pytest.mark.parametrize("fields", MODES[:3])
def test_promises(fields: Any) -> None:
    suite = mixed_suite().only("rooms", "sold")
    checks = check_system(
        DriftMoE,
        suite=suite,
        hidden=(8,),
        experts=4,
        batch=8,
        tree=TreeSettings(grace=20),
        **fields,
    )
    assert [check for check in checks if check.passed is False] == []


def test_a_regression_is_refused_by_name() -> None:
    with pytest.raises(InputError, match="'price'"):
        DriftMoE().fit(mixed_suite())


def test_learned_routing_beats_chance() -> None:
    rng = np.random.default_rng(3)
    rows = 12_000
    X, regime = rng.normal(size=(rows, 4)), np.arange(rows) // 3000 % 2
    y = np.where(regime == 0, X[:, 0] + X[:, 1] > 0, X[:, 0] - X[:, 1] > 0).astype(np.int64)
    by_chance, learned = DriftMoE(routing="random"), DriftMoE()
    accuracy = [np.mean(model.test_then_train(X, X, y) == y) for model in (by_chance, learned)]
    assert accuracy[1] > accuracy[0] + 0.01
