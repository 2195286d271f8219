"""Streams: the same rows however they are read, and the laws of the generators."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

import numpy as np
import pandas as pd
import pytest

from polytask.data.streams import (
    Drift,
    Stream,
    drifting,
    led,
    led_concept,
    quarters,
    rbf,
    sea,
    sea_concept,
)
from polytask.errors import InputError

SEGMENTS = [119, 18, 93, 91, 58, 107, 111, 82, 127, 123]  # a display's segments, read as binary
FRAME = pd.DataFrame(
    {
        "hour": [3, 1, 2],
        "price": [0.5, None, 2.0],
        "town": ["Ulm", "Bonn", "Ulm"],
        "open": [True, False, True],
        "sold": ["yes", "no", "yes"],
    }
)


def whole(stream: Stream, size: int) -> tuple[np.ndarray, np.ndarray]:
    pieces = list(stream.chunks(size))
    return np.concatenate([X for X, _ in pieces]), np.concatenate([y for _, y in pieces])


@pytest.mark.parametrize(
    "make",
    [lambda: led(length=20_000), lambda: sea("gradual", length=20_000), lambda: rbf(length=20_000)],
    ids=["led", "sea", "rbf"],
)
def test_pieces_do_not_change_a_stream(make: Callable[[], Stream]) -> None:
    stream = make()
    X, y = stream.rows(0, len(stream))
    for size in (999, 8192, 20_000):
        for part, expected in zip(whole(make(), size), (X, y), strict=True):
            np.testing.assert_array_equal(part, expected)
    later_X, later_y = make().rows(9_000, 9_100)  # without reading what comes before
    np.testing.assert_array_equal(later_X, X[9_000:9_100])
    np.testing.assert_array_equal(later_y, y[9_000:9_100])
    assert X.dtype == np.float64 and y.dtype == np.int64
    assert X.shape == (20_000, len(stream.features))
    assert set(y) == set(range(len(stream.classes)))


def test_seed_decides_the_stream() -> None:
    for make in (led, sea, rbf):
        X, _ = make(length=200, seed=1).rows(0, 100)
        assert not np.array_equal(X, make(length=200, seed=2).rows(0, 100)[0])


def test_a_reader_may_write_into_its_rows() -> None:
    for stream in (rbf(length=100), Stream.from_arrays(np.zeros((100, 1)), np.arange(100) % 2)):
        X, _ = stream.rows(0, 100)
        X[:] = -1
        assert (stream.rows(0, 100)[0] != -1).all()


def test_half_of_the_rows_are_new_at_the_centre_of_a_drift() -> None:
    drift = Drift(1000, 400)
    np.testing.assert_allclose(
        drift.probability(np.array([800, 1000, 1200])), [0.1192, 0.5, 0.8808], atol=1e-4
    )
    old = Stream.from_arrays(np.zeros((60_000, 1)), np.arange(60_000) % 2)
    new = Stream.from_arrays(np.ones((60_000, 1)), np.arange(60_000) % 2)
    X, _ = drifting([old, new], [Drift(30_000, 20_000)], name="t").rows(0, 60_000)
    assert X[29_000:31_000].mean() == pytest.approx(0.5, abs=0.04)
    assert X[19_000:21_000].mean() == pytest.approx(0.12, abs=0.03)
    assert X[:5_000].mean() < 0.02 and X[-5_000:].mean() > 0.98


def test_a_jump_goes_from_one_row_to_the_next() -> None:
    parts = [Stream.from_arrays(np.full((50, 1), k), np.arange(50) % 2) for k in range(3)]
    X, _ = drifting(parts, [Drift(20), Drift(40)], name="t").rows(0, 50)
    values = X[:, 0]
    assert (values[:18] == 0).all() and (values[22:38] == 1).all() and (values[42:] == 2).all()


def test_drifts_of_the_paper() -> None:
    assert [(d.position, d.width) for d in led().drifts] == [
        (249_975, 50),
        (499_975, 50),
        (749_975, 50),
    ]
    assert [(d.position, d.width) for d in sea("gradual").drifts] == [
        (225_000, 50_000),
        (475_000, 50_000),
        (725_000, 50_000),
    ]
    assert [d.position for d in quarters(40_000, "gradual")] == [9_000, 19_000, 29_000]


@pytest.mark.parametrize("swapped", [0, 1, 3, 5, 7])
def test_led_without_noise_is_read_without_error(swapped: int) -> None:
    X, y = led_concept(swapped, length=2_000, noise=0).rows(0, 2_000)
    shown = np.concatenate([X[:, 7 : 7 + swapped], X[:, swapped:7]], axis=1)  # segments in order
    codes = shown @ (2 ** np.arange(6, -1, -1))
    np.testing.assert_array_equal([SEGMENTS.index(int(c)) for c in codes], y)


def test_led_noise_is_the_share_of_wrong_segments() -> None:
    wrong, _ = led_concept(length=20_000, noise=0.1, seed=3).rows(0, 20_000)
    right, _ = led_concept(length=20_000, noise=0.0, seed=3).rows(0, 20_000)
    assert (wrong != right)[:, :7].mean() == pytest.approx(0.1, abs=0.005)
    assert right[:, 7:].mean() == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize(("function", "threshold"), [(1, 8.0), (2, 9.0), (3, 7.0), (4, 9.5)])
def test_sea_law(function: int, threshold: float) -> None:
    X, y = sea_concept(function, length=20_000, noise=0).rows(0, 20_000)
    np.testing.assert_array_equal(y, X[:, 0] + X[:, 1] > threshold)
    X, y = sea_concept(function, length=20_000, noise=0.1).rows(0, 20_000)
    assert (y != (X[:, 0] + X[:, 1] > threshold)).mean() == pytest.approx(0.1, abs=0.01)


def test_centroids_move_at_their_speed_and_stay_in_the_cube() -> None:
    """One centroid: the mean of many rows around t is its centre at t."""
    stream = rbf(1e-3, length=1_000_000, centroids=1, features=3, classes=1, seed=5)
    means = [stream.rows(t, t + 60)[0].mean(axis=0) for t in range(0, 900_000, 9_000)]
    assert np.min(means) > -0.3 and np.max(means) < 1.3
    still = rbf(0, length=40_000, centroids=1, features=3, classes=1, seed=5)
    early, late = still.rows(0, 10_000)[0].mean(axis=0), still.rows(30_000, 40_000)[0].mean(axis=0)
    np.testing.assert_allclose(early, late, atol=0.02)
    here = stream.rows(0, 100)[0]
    there = rbf(0, length=1_000_000, centroids=1, features=3, classes=1, seed=5).rows(0, 100)[0]
    np.testing.assert_allclose(
        np.linalg.norm(here - there, axis=1), 1e-3 * np.arange(100), atol=1e-9
    )  # the noise is the same, so what is left is the way the centre went


def test_head_keeps_the_drifts_in_it() -> None:
    stream = sea(length=40_000)
    assert len(stream.head(25_000).drifts) == 2
    np.testing.assert_array_equal(stream.head(100).rows(0, 100)[0], stream.rows(0, 100)[0])


def test_table_in_order_of_time() -> None:
    stream = Stream.from_table(FRAME, "sold", time="hour")
    X, y = stream.rows(0, 3)
    assert stream.features == ("price", "town", "open")
    assert stream.classes == ("no", "yes")
    assert stream.nominal == {"town": 2, "open": 2}
    np.testing.assert_array_equal(y, [0, 1, 1])
    np.testing.assert_array_equal(X, [[np.nan, 0, 0], [2.0, 1, 1], [0.5, 1, 1]])


def test_table_in_order_of_rows() -> None:
    stream = Stream.from_table(FRAME, "open", exclude=["sold"])
    assert stream.features == ("hour", "price", "town")
    np.testing.assert_array_equal(stream.rows(0, 3)[1], [1, 0, 1])
    np.testing.assert_array_equal(stream.rows(0, 3)[0][:, 0], [3, 1, 2])


LABELS = np.arange(4) % 2
REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "width": (lambda: Drift(10, 0), "width=0"),
    "position": (lambda: Drift(-1), "position=-1"),
    "outside": (lambda: sea([Drift(k * 60) for k in (1, 2, 3)], length=100), "row 120 is outside"),
    "order": (lambda: sea([Drift(9), Drift(5), Drift(20)], length=100), "follow each other"),
    "count": (lambda: sea([Drift(9)], length=100), "1 drifts lead through 2 concepts"),
    "kind": (lambda: sea("sudden", length=100), "not 'sudden'"),  # type: ignore[arg-type]
    "short": (lambda: sea(length=100), "100 rows is too short for three drifts"),
    "led noise": (lambda: led(length=1000, noise=1.1), "noise"),
    "sea noise": (lambda: sea(length=1000, noise=-0.1), "noise"),
    "nan noise": (lambda: sea(length=1000, noise=float("nan")), "noise"),
    "speed": (lambda: rbf(-1.0), "speed"),
    "classes": (lambda: rbf(classes=0), "at least 1 of classes"),
    "function": (lambda: sea_concept(5, length=10), "not 5"),
    "swapped": (lambda: led_concept(8, length=10), "swapped=8"),
    "no rows": (lambda: sea_concept(length=0), "length=0"),
    "range": (lambda: rbf(length=10).rows(5, 11), "has 10 rows; 5 to 11"),
    "size": (lambda: list(rbf(length=10).chunks(0)), "size=0"),
    "head": (lambda: rbf(length=10).head(11), "its first 11"),
    "other": (lambda: drifting([rbf(), sea()], [Drift(1)], name="t"), "other features or classes"),
    "shapes": (lambda: Stream.from_arrays(np.zeros((3, 1)), LABELS), "(3, 1), (4,)"),
    "empty": (lambda: Stream.from_arrays(np.zeros((0, 1)), LABELS[:0]), "has no rows"),
    "nan label": (lambda: Stream.from_arrays(np.zeros((2, 1)), np.array([0, np.nan])), "row 1"),
    "no label": (
        lambda: Stream.from_arrays(np.zeros((2, 1)), np.array(["a", None], object)),
        "row 1",
    ),
    "names": (lambda: Stream.from_arrays(np.zeros((4, 2)), LABELS, features="a"), "names 1"),
    "nominal": (
        lambda: Stream.from_arrays(np.zeros((4, 1)), LABELS, nominal={"f9": 2}),
        "'f9', which is no feature",
    ),
    "target": (lambda: Stream.from_table(FRAME, "sould"), "'sould' (did you mean 'sold'?)"),
    "time": (lambda: Stream.from_table(FRAME, "sold", time="price"), "'price' has missing"),
    "null": (lambda: Stream.from_table(FRAME, "price"), "no label in row 1"),
    "list": (
        lambda: Stream.from_table({"x": [[1], [2, 3]], "y": [0, 1]}, "y"),
        "'x' holds list",
    ),
    "alone": (lambda: Stream.from_table(FRAME[["sold"]], "sold"), "no column beside 'sold'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_refused_in_one_sentence(case: str) -> None:
    make, words = REFUSED[case]
    with pytest.raises(InputError) as caught:
        make()
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_rows_without_a_label_can_be_left_out() -> None:
    whole = Stream.from_table({"x": [1.0, 2.0, 3.0], "y": ["a", "b", "a"]}, "y")
    gaps = {"x": [1.0, 9.0, 2.0, 3.0], "y": ["a", None, "b", "a"]}
    kept = Stream.from_table(gaps, "y", skip_unlabelled=True)
    for mine, theirs in zip(kept.rows(0, 3), whole.rows(0, 3), strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_a_moment_becomes_day_hour_and_weekday() -> None:
    when = [datetime(2026, 11, 23, 18), datetime(2026, 11, 24, 6)]
    stream = Stream.from_table({"when": when, "y": ["a", "b"]}, "y")
    assert stream.features == ("when.day", "when.hour", "when.weekday")
    np.testing.assert_array_equal(stream.rows(0, 2)[0][:, 1:], [[18, 0], [6, 1]])


def test_row_numbers_of_pandas_are_no_feature() -> None:
    frame = pd.DataFrame({"x": [1.0, 2.0, 3.0], "y": [0, 1, 0]}).iloc[[2, 0, 1]]
    assert Stream.from_table(frame, "y").features == ("x",)
