"""The Hoeffding tree as a learner of streams and of suites."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from polytask.data.streams import Stream
from polytask.errors import InputError
from polytask.testing import check_system, mixed_suite
from polytask.training.learner import Incremental
from polytask.training.prequential import prequential

pytest.importorskip("numba")
from polytask.baselines.hoeffding_tree import HoeffdingTree


@pytest.fixture
def frame() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    rows = 1500
    table = pd.DataFrame(rng.normal(size=(rows, 3)), columns=["a", "b", "c"])
    table["town"] = rng.choice(["Bonn", "Kiel", "Ulm", None], rows)
    table.loc[rng.random(rows) < 0.1, "b"] = np.nan
    return table


@pytest.fixture
def labels(frame: pd.DataFrame) -> np.ndarray:
    far = (frame["a"] > 0.3) | (frame["town"] == "Kiel")
    return np.where(far, "far", np.where(frame["c"] > 1, "new", "near"))


def tree(**fields: Any) -> HoeffdingTree:
    return HoeffdingTree(**{"grace": 50, "delta": 0.01, "nominal": ["town"], **fields})


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return pa.Table.from_pandas(frame).to_pylist()


def same(one: Any, other: Any) -> None:
    state = other._state()
    for name, array in one._state().items():
        assert np.array_equal(array, state[name], equal_nan=True), name


def test_it_has_the_manners_of_a_stream_learner() -> None:
    assert isinstance(HoeffdingTree(), Incremental)


@pytest.mark.parametrize("known", [{}, {"classes": ["far", "near", "new"]}])
def test_many_at_once_is_one_by_one(frame: Any, labels: Any, known: Any) -> None:
    alone, many, late = tree(**known), tree(**known), tree(**known)
    answers = []
    for x, y in zip(records(frame), labels, strict=True):
        answers.append(alone.predict_one(x))
        alone.learn_one(x, y)
    assert answers == many.test_then_train(frame, frame, labels).tolist()
    late.learn_many(pa.Table.from_pandas(frame), labels)
    same(alone, many)
    same(alone, late)
    assert np.mean(np.array(answers, object) == labels) > 0.8
    x = records(frame)[7]
    chances = alone.predict_proba_one(x)
    assert sum(chances.values()) == pytest.approx(1)
    assert max(chances, key=chances.__getitem__) == alone.predict_one(x)
    assert alone.predict_many(frame)[7] == alone.predict_one(x)
    assert list(chances.values()) == alone.predict_proba_many(frame)[7].tolist()


def test_late_labels_are_learned_when_they_come(frame: Any, labels: Any) -> None:
    X, wait = frame[["a", "b", "c"]].to_numpy(), 100
    loop, many = tree(nominal=None), tree(nominal=None)
    answers = []
    for i in range(wait, len(X)):
        answers.append(loop.predict_one(dict(enumerate(X[i]))))
        loop.learn_one(dict(enumerate(X[i - wait])), labels[i - wait])
    assert answers == many.test_then_train(X[wait:], X[:-wait], labels[:-wait]).tolist()
    same(loop, many)


def test_rows_of_every_form_are_the_same_rows(frame: Any, labels: Any) -> None:
    numbers = frame[["a", "b", "c"]]
    of_frame, of_array = tree(nominal=None), tree(nominal=None, features=["a", "b", "c"])
    of_frame.learn_many(numbers, labels)
    of_array.learn_many(numbers.to_numpy(), labels)
    same(of_frame, of_array)
    assert np.array_equal(
        of_frame.predict_many(numbers[["c", "a", "b"]]), of_array.predict_many(numbers)
    )


def test_a_feature_may_vanish_but_none_appears(frame: Any, labels: Any) -> None:
    model = tree()
    model.learn_many(frame, labels)
    gone = frame.assign(c=np.nan)
    assert np.array_equal(model.predict_many(frame.drop(columns="c")), model.predict_many(gone))
    x = records(frame)[0]
    assert (
        model.predict_one({k: v for k, v in x.items() if k != "c"}) == model.predict_many(gone)[0]
    )
    model.learn_one({"a": 1.0}, "far")
    for attempt in (
        lambda: model.learn_one({**x, "wind": 3.0}, "far"),
        lambda: model.predict_many(frame.assign(wind=1.0)),
    ):
        with pytest.raises(InputError, match="'wind'"):
            attempt()


def test_wrong_rows_are_refused_by_name(frame: Any, labels: Any) -> None:
    model = tree(classes=["far", "near", "new"])
    model.learn_many(frame, labels)
    x = records(frame)[0]
    cases = [
        (lambda: model.learn_one(x, "lost"), "'lost'"),
        (lambda: model.learn_many(frame[:2], ["far", "lost"]), "'lost'"),
        (lambda: model.learn_one({**x, "a": "much"}, "far"), "'a'"),
        (lambda: model.learn_one({**x, "a": np.inf}, "far"), "'a'"),
        (lambda: model.predict_many(frame.assign(a="much")), "'a'"),
        (lambda: model.predict_many(frame.assign(a=np.inf)), "'a'.*row 1"),
        (lambda: model.predict_many(np.zeros((2, 3))), r"\(2, 3\).*4"),
        (lambda: model.predict_many(frame[[]]), "none of the features"),
        (lambda: model.learn_many(frame[:3], labels[:2]), "3 rows.*2 labels"),
        (lambda: tree().learn_one(x, None), "missing"),
        (lambda: tree().predict_many(frame), "no class"),
        (lambda: tree(nominal=["twon"]).learn_one(x, "far"), "'twon'.*'town'"),
        (lambda: tree(classes=["far", "far"]).learn_one(x, "far"), "twice"),
        (
            lambda: (
                tree(nominal=None).learn_one({"a": 1.0, **dict.fromkeys("bc")}, 1)
                or tree().save_pretrained("nowhere")
            ),
            "not fitted",
        ),
    ]
    for attempt, sentence in cases:
        with pytest.raises(InputError, match=sentence):
            attempt()


def test_before_the_first_label_nothing_is_known() -> None:
    model = HoeffdingTree()
    assert model.predict_one({"a": 1.0}) is None
    assert model.predict_proba_one({"a": 1.0}) == {}
    assert HoeffdingTree(classes=[3, 5], features=1).predict_many(np.zeros((2, 1))).tolist() == [
        3,
        3,
    ]


def test_no_label_need_have_come_yet() -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(400, 2))
    y = (X[:, 0] > 0).astype(int)
    model, loop = HoeffdingTree(), HoeffdingTree()
    assert model.test_then_train(X[:50], X[:0], y[:0]).tolist() == [None] * 50
    late = prequential(HoeffdingTree(), Stream.from_arrays(X, y), delay=150, window=100)
    right = 0
    for t, row in enumerate(X):
        right += loop.predict_one(dict(enumerate(row))) == y[t]
        if t >= 150:
            loop.learn_one(dict(enumerate(X[t - 150])), int(y[t - 150]))
    assert sum(late.right) == right


def test_a_new_value_counts_as_missing_until_it_is_learned(frame: Any, labels: Any) -> None:
    model = tree()
    model.learn_many(frame, labels)
    x = records(frame)[0]
    assert model.predict_proba_one({**x, "town": "Jena"}) == model.predict_proba_one(
        {**x, "town": None}
    )
    before = model.schema_.values.tolist()
    model.learn_one({**x, "town": "Jena"}, "far")
    assert model.schema_.values.tolist() == [*before[:3], before[3] + 1]


def test_saved_in_the_middle_it_goes_on_to_the_bit(frame: Any, labels: Any, tmp_path: Path) -> None:
    model = tree()
    model.learn_many(frame[:700], labels[:700])
    model.save_pretrained(tmp_path / "tree")
    loaded = HoeffdingTree.from_pretrained(tmp_path / "tree")
    rest, y = frame[700:], labels[700:]
    assert np.array_equal(
        model.test_then_train(rest, rest, y), loaded.test_then_train(rest, rest, y)
    )
    same(model, loaded)


def test_promises() -> None:
    suite = mixed_suite().only("rooms", "sold")
    checks = check_system(HoeffdingTree, suite=suite, grace=20)
    broken = {check.name: check.detail for check in checks if check.passed is False}
    assert set(broken) == {"another seed, another result"}, (
        broken
    )  # without subspace it draws nothing
    drawn = check_system(HoeffdingTree, suite=suite, grace=20, subspace=1)
    assert [check for check in drawn if check.passed is False] == []


def test_a_regression_is_refused_by_name() -> None:
    with pytest.raises(InputError, match="'price'"):
        HoeffdingTree().fit(mixed_suite())


def test_memory_and_size_are_told() -> None:
    model = HoeffdingTree(grace=20).fit(mixed_suite().only("rooms", "sold"))
    assert model.parameters_ >= 5
    assert model.nbytes > 1000
