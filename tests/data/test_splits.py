"""Splits: every row in one part, time in order, groups whole, and the same on every call."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polytask.data import ColumnSplit, GroupSplit, RandomSplit, Split, TimeSplit
from polytask.data.splits import parse_split
from polytask.errors import InputError

calm = settings(deadline=None, derandomize=True, max_examples=50)
values = st.lists(st.integers(0, 30), min_size=3, max_size=80)


def table(numbers: list[int]) -> pa.Table:
    return pa.table({"t": numbers, "x": range(len(numbers))})


@calm
@given(st.integers(3, 500), st.integers(0, 99))
def test_random_shares_are_as_asked_and_none_is_empty(rows: int, seed: int) -> None:
    split = RandomSplit(seed, (0.7, 0.1, 0.2))
    parts = split.assign(table([0] * rows))
    counts = np.bincount(parts, minlength=3)
    assert counts.sum() == rows and counts.min() >= 1
    assert np.abs(counts - rows * np.array([0.7, 0.1, 0.2])).max() <= 1.5
    assert (parts == split.assign(table([0] * rows))).all()


def test_another_seed_deals_other_rows() -> None:
    rows = table([0] * 100)
    assert (RandomSplit(0).assign(rows) != RandomSplit(1).assign(rows)).any()


@calm
@given(values)
def test_time_never_goes_back_and_ties_stay_together(moments: list[int]) -> None:
    parts = TimeSplit("t").assign(table(moments))
    when = np.array(moments)
    for earlier, later in ((0, 1), (1, 2), (0, 2)):
        if (parts == earlier).any() and (parts == later).any():
            assert when[parts == earlier].max() < when[parts == later].min()
    assert all(len(set(parts[when == moment])) == 1 for moment in set(moments))


def test_time_shares() -> None:
    moments = np.random.default_rng(0).permutation(100)
    parts = TimeSplit("t").assign(table(moments.tolist()))
    assert np.bincount(parts).tolist() == [60, 20, 20]
    assert (parts[moments < 60] == 0).all()


@pytest.mark.parametrize("kind", [pa.timestamp("us"), pa.timestamp("s", "Asia/Tokyo"), pa.date32()])
def test_time_may_be_a_moment_or_a_date(kind: pa.DataType) -> None:
    days = pa.array(range(10), pa.int32()).cast(pa.date32())
    column = days.cast(pa.timestamp("s")).cast(kind) if pa.types.is_timestamp(kind) else days
    parts = TimeSplit("t").assign(pa.table({"t": column}))
    assert parts.tolist() == [0] * 6 + [1] * 2 + [2] * 2


@calm
@given(values.filter(lambda v: len(set(v)) >= 3), st.integers(0, 9))
def test_groups_stay_whole_and_no_part_is_empty(groups: list[int], seed: int) -> None:
    parts = GroupSplit("t", seed).assign(table(groups))
    where = np.array(groups)
    assert all(len(set(parts[where == group])) == 1 for group in set(groups))
    assert set(parts) == {0, 1, 2}


def test_a_column_says_it() -> None:
    rows = pa.table({"part": ["test", "train", "validation", "train"]})
    assert ColumnSplit("part").assign(rows).tolist() == [2, 0, 1, 0]


@pytest.mark.parametrize(
    ("text", "split"),
    [
        ("random", RandomSplit()),
        ("random:7", RandomSplit(7)),
        ("time:when", TimeSplit("when")),
        ("time:a:b", TimeSplit("a:b")),
        ("group:plant", GroupSplit("plant")),
        ("column:part", ColumnSplit("part")),
    ],
)
def test_texts(text: str, split: Split) -> None:
    assert parse_split(text) == split
    assert split.uses == getattr(split, "column", None)


@pytest.mark.parametrize(
    ("split", "culprit"),
    [
        (lambda t: parse_split("tiem:t"), "did you mean 'time'"),
        (lambda t: parse_split("time"), "time:COLUMN"),
        (lambda t: parse_split("random:x"), "'x'"),
        (lambda t: TimeSplit("when").assign(t), "time column 'when'"),
        (lambda t: TimeSplit("gap").assign(t), "'gap' has 1 rows without a value"),
        (lambda t: TimeSplit("nan").assign(t), "'nan' has 1 rows without a value"),
        (lambda t: GroupSplit("two").assign(t), "'two' has 2 groups"),
        (lambda t: ColumnSplit("part").assign(t), "'tset' in data row 3"),
        (lambda t: RandomSplit(0, (0.5, 0.2, 0.2)).assign(t), "summing to 1"),
        (lambda t: RandomSplit(0, (1.0, 0.0, 0.0)).assign(t), "positive"),
    ],
)
def test_refused(split, culprit: str) -> None:  # type: ignore[no-untyped-def]
    rows = pa.table(
        {
            "t": [1, 2, 3, 4],
            "gap": [1, None, 3, 4],
            "nan": [1.0, 2.0, float("nan"), 4.0],
            "two": ["a", "b", "a", "b"],
            "part": ["train", "validation", "tset", "test"],
        }
    )
    with pytest.raises(InputError, match=culprit.replace("(", r"\(")):
        split(rows)
