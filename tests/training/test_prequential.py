"""Test-then-train: order, delays, metrics by their identities, resuming."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from polytask.data.streams import Drift, Stream, rbf, sea
from polytask.errors import InputError
from polytask.training.prequential import METRICS, Prequential, prequential


class Majority:
    """The most frequent label so far, the lowest of several; 0 before any."""

    def __init__(self) -> None:
        self.seen: Counter[int] = Counter()

    def learn_one(self, x: Mapping[str, float], y: int) -> None:
        self.seen[y] += 1

    def predict_one(self, x: Mapping[str, float]) -> int:
        return min(self.seen, key=lambda c: (-self.seen[c], c), default=0)


class NoChange:
    """The last label."""

    last = 0

    def learn_one(self, x: Mapping[str, float], y: int) -> None:
        self.last = y

    def predict_one(self, x: Mapping[str, float]) -> int:
        return self.last


class Diary:
    """Writes down what it is asked and told; column f0 of a stream made by `counted` is the row."""

    def __init__(self) -> None:
        self.events: list[tuple[str, int]] = []

    def learn_one(self, x: Mapping[str, float], y: int) -> None:
        self.events.append(("learn", int(x["f0"])))

    def predict_one(self, x: Mapping[str, float]) -> None:
        self.events.append(("predict", int(x["f0"])))


class Fast(Diary):
    """The same with the ways that take many rows."""

    def learn_many(self, X: np.ndarray, y: np.ndarray) -> None:
        self.events += [("learn", int(x)) for x in X[:, 0]]

    def test_then_train(self, X: np.ndarray, X_learn: np.ndarray, y: np.ndarray) -> np.ndarray:
        assert len(X_learn) == len(y) <= len(X)
        for i, x in enumerate(X[:, 0]):
            self.events.append(("predict", int(x)))
            self.events += [("learn", int(row)) for row in X_learn[i : i + 1, 0]]
        return np.zeros(len(X), dtype=np.int64)


class Centroids:
    """Nearest class mean: a model that learns, in few lines."""

    def __init__(self) -> None:
        self.sums: dict[int, np.ndarray] = {}
        self.counts: Counter[int] = Counter()

    def learn_one(self, x: Mapping[str, float], y: int) -> None:
        self.sums[y] = self.sums.get(y, 0) + np.array(list(x.values()))
        self.counts[y] += 1

    def predict_one(self, x: Mapping[str, float]) -> int | None:
        row = np.array(list(x.values()))
        far = {c: float(((s / self.counts[c] - row) ** 2).sum()) for c, s in self.sums.items()}
        return min(far, key=lambda c: far[c], default=None)


def counted(length: int) -> Stream:
    return Stream.from_arrays(np.arange(length, dtype=float)[:, None], np.arange(length) % 3)


def expected(length: int, delay: Callable[[int], int]) -> list[tuple[str, int]]:
    events = []
    for t in range(length):
        events.append(("predict", t))
        events += [("learn", i) for i in range(t + 1) if i + delay(i) == t]
    return events


DELAYS: dict[str, tuple[Any, Callable[[int], int]]] = {
    "none": (0, lambda t: 0),
    "one": (1, lambda t: 1),
    "longer than a window": (25, lambda t: 25),
    "beyond the end": (1000, lambda t: 1000),
    "out of order": (np.array([9, 0, 7, 3] * 10), lambda t: [9, 0, 7, 3][t % 4]),
    "by function": (lambda t: (t * 7) % 13, lambda t: (t * 7) % 13),
}


@pytest.mark.parametrize("model", [Diary, Fast])
@pytest.mark.parametrize("case", DELAYS)
@pytest.mark.parametrize("window", [1, 10, 100])
def test_labels_come_when_they_come(model: type[Diary], case: str, window: int) -> None:
    delay, by_row = DELAYS[case]
    diary = model()
    prequential(diary, counted(40), delay=delay, window=window)
    assert diary.events == expected(40, by_row)


def test_delay_zero_is_no_delay() -> None:
    stream = sea(length=3000)
    plain = prequential(Centroids(), stream)
    for nothing in (np.zeros(3000, dtype=int), lambda t: t * 0):
        late = prequential(Centroids(), stream, delay=nothing)
        assert (late.right, late.answers) == (plain.right, plain.answers)


def test_rows_whose_labels_come_at_once_are_one_array() -> None:
    class Looks(Fast):
        same: list[bool]

        def test_then_train(self, X: np.ndarray, X_learn: np.ndarray, y: np.ndarray) -> np.ndarray:
            self.same = [*getattr(self, "same", []), X is X_learn]
            return super().test_then_train(X, X_learn, y)

    for delay, expected_same in ((0, True), (1, False)):
        model = Looks()
        prequential(model, counted(20), delay=delay, window=10)
        assert set(model.same) == {expected_same}


def test_an_answer_does_not_depend_on_its_label() -> None:
    X, y = sea(length=600).rows(0, 600)
    for changed in (0, 300, 599):
        other = y.copy()
        other[changed] = 1 - other[changed]
        kept = []
        for labels in (y, other):
            record = prequential(Centroids(), Stream.from_arrays(X, labels), window=1)
            kept.append(record.answers[: changed + 1])
        assert kept[0] == kept[1]


@pytest.mark.parametrize("delay", [0, 7, np.array([5, 1, 0] * 1000)], ids=["0", "7", "mixed"])
@pytest.mark.parametrize("window", [100, 3000])
def test_reference_predictors_have_kappa_zero(delay: Any, window: int) -> None:
    """MOA's definition: the references are predictors of the same stream, so they score zero."""
    stream = sea(length=3000, seed=2)
    majority = prequential(Majority(), stream, delay=delay, window=window)
    assert majority.kappa_m == 0 and np.all(majority.windowed("kappa_m") == 0)
    last = prequential(NoChange(), stream, delay=delay, window=window)
    assert last.kappa_temporal == 0 and np.all(last.windowed("kappa_temporal") == 0)
    assert majority.right == majority.majority and last.right == last.no_change


def test_a_perfect_model_scores_one() -> None:
    class Perfect(Majority):
        def predict_one(self, x: Mapping[str, float]) -> int:
            return int(x["f0"]) % 3

    record = prequential(Perfect(), counted(50))
    assert [record.accuracy, record.kappa, record.kappa_m, record.kappa_temporal] == [1, 1, 1, 1]


def test_kappa_is_cohens() -> None:
    from sklearn.metrics import cohen_kappa_score

    stream, kept = sea(length=2000), []

    class Kept(Centroids):
        def predict_one(self, x: Mapping[str, float]) -> int:
            kept.append(super().predict_one(x) or 0)
            return kept[-1]

    record = prequential(Kept(), stream)
    y = stream.rows(0, 2000)[1]
    assert record.kappa == pytest.approx(cohen_kappa_score(y, kept), abs=1e-12)
    assert record.windowed("kappa")[1] == pytest.approx(cohen_kappa_score(y[1000:], kept[1000:]))
    assert record.accuracy == np.mean(y == kept)


@pytest.mark.parametrize("metric", METRICS)
def test_window_and_cumulative_agree_on_the_full_window(metric: Any) -> None:
    stream = sea(length=2500)
    one = prequential(Centroids(), stream, window=2500)
    many = prequential(Centroids(), stream, window=300)
    assert one.windowed(metric)[0] == one.cumulative(metric)[0] == many.cumulative(metric)[-1]
    assert many.cumulative(metric)[0] == many.windowed(metric)[0]
    assert many.between(0, 2500, metric) == many.cumulative(metric)[-1]
    assert len(many.ends) == 9 and many.ends[-1] == 2500 == many.length


def test_a_kappa_without_a_scale_is_not_a_number() -> None:
    record = prequential(Majority(), Stream.from_arrays(np.zeros((9, 1)), np.zeros(9)))
    assert record.accuracy == 1 and np.isnan(record.kappa_m) and np.isnan(record.kappa)


def test_an_answer_that_is_no_class_is_wrong() -> None:
    record = prequential(Diary(), counted(9))
    assert record.right == [0] and record.answers == [[0, 0, 0]]


@pytest.mark.parametrize("delay", [0, 700, np.array([900, 0, 3] * 1000)], ids=["0", "700", "mixed"])
def test_resumed_is_the_same(delay: Any) -> None:
    stream = sea(length=3000)
    straight = prequential(Centroids(), stream, delay=delay, window=500)
    model = Centroids()
    record = prequential(model, stream, delay=delay, window=500, limit=1000)
    record = Prequential.from_dict(json.loads(json.dumps(record.to_dict())))
    record = prequential(model, stream, delay=delay, window=500, resume=record)
    for name in ("rows", "right", "majority", "no_change", "truths", "answers", "drifts"):
        assert getattr(record, name) == getattr(straight, name), name


def test_recovery_is_counted_from_the_centre_of_a_drift() -> None:
    rows, drift = [100] * 100, Drift(5000, 200)
    right = [90] * 50 + [50] * 7 + [87] + [89] * 42
    record = Prequential("m", "s", 100, (drift,), rows, right)
    empty = [[0, 0]] * 100
    record.majority = record.no_change = [0] * 100
    record.truths = record.answers = empty
    assert record.recovery(drift) == 900  # windows at 5000..5600 are low, 5700 is 3 points low
    assert record.recovery(drift, within=0.04) == 800
    assert record.recovery(drift, within=-0.05) is None
    assert record.between(4900, 5100) == pytest.approx(0.7)


def test_cost_is_recorded() -> None:
    class Sized(Majority):
        nbytes = 1234

    seen: list[int] = []
    record = prequential(
        Sized(), sea(length=2500), limit=1500, progress=lambda r: seen.append(r.length)
    )
    assert seen == [1000, 1500] and record.model == "Sized"
    assert record.memory == 1234 and record.memory_source == "model"
    assert record.rows_per_second > 0 and len(record.seconds) == 2
    assert prequential(Majority(), rbf(length=10), name="m").memory_source == "process"


def test_rivers_models_plug_in() -> None:
    naive_bayes = pytest.importorskip("river.naive_bayes")
    record = prequential(naive_bayes.GaussianNB(), sea(length=3000), delay=10)
    assert record.accuracy > 0.8


LATE: Any = np.array([0, -1, 0])
REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "model": (lambda: prequential(object(), counted(3)), "object cannot learn from a stream"),
    "limit": (lambda: prequential(Majority(), counted(3), limit=4), "limit=4"),
    "window": (lambda: prequential(Majority(), counted(3), window=0), "window=0"),
    "delay": (lambda: prequential(Majority(), counted(3), delay=-1), "delay"),
    "one delay": (lambda: prequential(Majority(), counted(3), delay=LATE), "delay"),
    "half": (lambda: prequential(Majority(), counted(3), delay=0.5), "delay"),  # type: ignore[arg-type]
    "delays": (lambda: prequential(Majority(), counted(4), delay=LATE), "shape (3,)"),
    "metric": (
        lambda: prequential(Majority(), counted(3)).windowed("kapa"),  # type: ignore[arg-type]
        "'kapa' is not known (did you mean 'kappa'?)",
    ),
    "resume": (
        lambda: prequential(Majority(), counted(3), resume=prequential(Majority(), rbf(length=5))),
        "holds 5 rows of stream 'RBF(0.0001)'",
    ),
    "between": (lambda: prequential(Majority(), counted(30)).between(0, 9), "rows 0 to 9 of 30"),
    "nothing": (lambda: Prequential("m", "s", 10).accuracy, "no row of stream 's'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_refused_in_one_sentence(case: str) -> None:
    make, words = REFUSED[case]
    with pytest.raises(InputError) as caught:
        make()
    assert words in str(caught.value)
