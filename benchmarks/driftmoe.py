"""DriftMoE against single trees and ensembles, on streams that drift.

Six generated streams with the paper's drifts, and real ones in place of the three of the paper that
cannot be had here. Everyone sees the same rows, predicts each before its label, and is judged by
`polytask.training.prequential`. One process, one thread; CPU time is that of the whole process, so
Java's counts.

    PYTHONPATH=src python benchmarks/driftmoe.py     # measures what the record lacks, then judges

Needs numba, river and, for the rivals, CapyMOA with Java; POLYTASK_DATA names the folder of the
real streams. What is not there is left out, and said so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from harness import Record
from stream_rivals import (
    CONFIDENCE,
    GRACE,
    CapyMOA,
    CapyTrees,
    RiverTrees,
    Straightforward,
    river_model,
)
from tables import MissingDataError, read

from polytask.baselines.hoeffding_tree import HoeffdingTree
from polytask.data.packaged import flights
from polytask.data.streams import Stream, led, rbf, sea
from polytask.errors import InputError
from polytask.systems.driftmoe import DriftMoE
from polytask.training.prequential import METRICS, Prequential, prequential

COMMAND = "python benchmarks/driftmoe.py"
SEEDS = (0, 1, 2)
SHORT, LONG, FULL = 40_000, 100_000, 1_000_000  # of the generated streams
MEMBERS, MANY = 12, 100
DELAY = 1000

# -- streams -------------------------------------------------------------------------------------

GENERATED: dict[str, Callable[[int, int], Stream]] = {
    "LED_a": lambda seed, rows: led("abrupt", length=rows, seed=seed),
    "LED_g": lambda seed, rows: led("gradual", length=rows, seed=seed),
    "SEA_a": lambda seed, rows: sea("abrupt", length=rows, seed=seed),
    "SEA_g": lambda seed, rows: sea("gradual", length=rows, seed=seed),
    "RBF_m": lambda seed, rows: rbf(1e-4, length=rows, seed=seed),
    "RBF_f": lambda seed, rows: rbf(1e-3, length=rows, seed=seed),
    "RBF7": lambda seed, rows: unscaled(rbf(1e-4, length=rows, classes=7, seed=seed)),
}


def unscaled(stream: Stream) -> Stream:
    """In place of CoverType: seven unequal classes, and features from units to ten thousands."""
    scale = 10.0 ** np.linspace(0, 4, len(stream.features))

    def scaled(start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        X, y = stream.rows(start, stop)
        return X * scale, y

    return replace(stream, name="RBF7", read=scaled)


def flights_delayed() -> Stream:
    """In place of Airlines: did a flight arrive late; seven columns of the same sort, by time."""
    table = flights().table.to_pandas().dropna(subset="arr_delay", ignore_index=True)
    table["delayed"] = table["arr_delay"] > 0
    columns = ["carrier", "flight", "origin", "dest", "weekday", "departure", "clock_span"]
    return Stream.from_table(
        table[[*columns, "delayed", "time_hour"]], "delayed", time="time_hour", name="Flights"
    )


def shuttle() -> Stream:
    """Sensors of a space shuttle, normal or not, by their first column, which is time."""
    from river import datasets

    frame = pd.read_csv(datasets.Shuttle().path)
    frame = frame.sort_values("f1", kind="stable", ignore_index=True)
    return Stream.from_table(frame, "anomaly", name="Shuttle")


def catalogued(path: str, target: str, name: str) -> Stream:
    return Stream.from_table(read(path), target, name=name)


REAL: dict[str, Callable[[], Stream]] = {
    "Electricity": partial(catalogued, "drift_elec2/data.parquet", "down", "Electricity"),
    "Flights": flights_delayed,
    "Shuttle": shuttle,
    "Outdoor": partial(catalogued, "drift_outdoor/data.parquet", "object", "Outdoor"),
}
for _name in ("keystroke", "sea", "2cdt", "2cht", "chess", "squares", "rbf_swap"):
    REAL[_name] = partial(catalogued, f"drift_small/{_name}.parquet", "y", _name)


@lru_cache(maxsize=2)
def stream_of(name: str, rows: int, seed: int) -> Stream:
    """A stream of the benchmark; real ones have no seed, and ``rows`` at most."""
    if name in GENERATED:
        return GENERATED[name](seed, rows)
    stream = REAL[name]()
    return stream.head(min(rows, len(stream)))


# -- one learner on one stream -------------------------------------------------------------------


def judged(model: Any, stream: Stream, *, delay: int = 0, label: str = "") -> dict[str, Any]:
    """The record of a model in about 100 windows, with its sums."""
    window = max(len(stream) // 100, 100)
    record = prequential(model, stream, delay=delay, window=window, name=label)
    return told(record)


def told(record: Prequential) -> dict[str, Any]:
    data = record.to_dict()
    data["seconds"] = [round(s, 4) for s in record.seconds]
    metrics = {name: record.cumulative(name)[-1] for name in METRICS}
    return {
        **{name: None if np.isnan(value) else float(value) for name, value in metrics.items()},
        "majority": sum(record.majority) / record.length,
        "no_change": sum(record.no_change) / record.length,
        "rows_per_second": record.rows_per_second,
        "record": data,
    }


def capymoa(
    kind: str, stream: str, rows: int, seed: int, members: int = MEMBERS, delay: int = 0
) -> dict[str, Any]:
    found = stream_of(stream, rows, seed)
    model = CapyMOA(kind, found, members=members, seed=seed)  # type: ignore[arg-type]
    return judged(model, found, delay=delay, label=kind)


def river(kind: str, stream: str, rows: int, seed: int) -> dict[str, Any]:
    found = stream_of(stream, rows, seed)
    model = river_model(kind, found, members=MEMBERS, seed=seed)  # type: ignore[arg-type]
    return judged(model, found, label=f"river {kind}")


def plainly(routing: str, stream: str, rows: int, seed: int) -> dict[str, Any]:
    """DriftMoE written plainly over CapyMOA's trees: learned or random routing, and the oracle."""
    found = stream_of(stream, rows, seed)
    model = Straightforward(
        found, CapyTrees(found, MEMBERS), members=MEMBERS, routing=routing, seed=seed
    )  # type: ignore[arg-type]
    result = judged(model, found, label=f"plain, {routing}")
    share = model.asked / model.asked.sum()
    return {**result, "oracle": model.right_somewhere / len(found), "share": share.tolist()}


OURS: dict[str, dict[str, Any]] = {
    "MoE-Data": {},
    "MoE-Task": {"mode": "task"},
    "MoE-Task, experts": {"mode": "task", "combine": "expert"},
    "random routing": {"routing": "random"},
    "MoE-Data, standardised": {"standardise": True},
    "MoE-Data, class-weighted": {"class_weighted": True},
    **{
        f"MoE-Data, E={e} K={k}": {"experts": e, "top": k}
        for e, k in ((6, 1), (6, 3), (12, 1), (12, 6), (20, 3), (20, 6))
    },
}


def model_of(what: str, stream: Stream, seed: int) -> Any:
    shape: dict[str, Any] = {
        "features": stream.features,
        "nominal": dict(stream.nominal),
        "classes": len(stream.classes),
        "seed": seed,
    }
    if what == "tree":
        return HoeffdingTree(**shape, grace=GRACE, delta=CONFIDENCE)
    return DriftMoE(**shape, **OURS[what])


def ours(what: str, stream: str, rows: int, seed: int, delay: int = 0) -> dict[str, Any]:
    found = stream_of(stream, rows, seed)
    model = model_of(what, found, seed)
    result = judged(model, found, delay=delay, label=what)
    if isinstance(model, DriftMoE):
        result |= {"oracle": model.usage_["oracle"], "share": model.usage_["shares"]}
    return result


# -- speed ---------------------------------------------------------------------------------------


def speed(what: str, stream: str, rows: int, seed: int) -> dict[str, Any]:
    """Rows per second of CPU time, everyone taking turns on the same rows.

    A first round of 2,000 rows warms caches and just-in-time compilers and is not counted; then
    everyone takes ``rows`` rows, 500 at a time.
    """
    found = stream_of(stream, 1_000_000, seed).head(2_000 + rows)
    moe = what == "DriftMoE"
    if moe:
        models = {
            "ours": model_of("MoE-Data", found, seed),
            "plain over river": Straightforward(found, RiverTrees(found, MEMBERS), members=MEMBERS),
            "plain over CapyMOA": Straightforward(
                found, CapyTrees(found, MEMBERS), members=MEMBERS
            ),
        }
    else:
        models = {
            "ours": model_of("tree", found, seed),
            "river": river_model("tree", found, members=1, seed=seed),
            "CapyMOA": CapyMOA("tree", found, seed=seed),
        }
    warm = {
        name: prequential(model, found, window=500, limit=2_000) for name, model in models.items()
    }
    for stop in range(2_500, len(found) + 1, 500):
        for name, model in models.items():
            prequential(model, found, window=500, limit=stop, resume=warm[name])
    return {
        name: {
            "rows_per_second": [500 / s for s in record.seconds[4:]],
            "median": 500 / float(np.median(record.seconds[4:])),
            "accuracy": record.accuracy,
        }
        for name, record in warm.items()
    }


# -- the plan ------------------------------------------------------------------------------------

ENSEMBLES = ("arf", "ozabag", "levbag", "srp")
REQUIRED = ("SEA_a", "LED_a", "RBF_m")  # the sheet's experiment, 40,000 rows
PAPER = ("LED_a", "LED_g", "SEA_a", "SEA_g", "RBF_m", "RBF_f")  # generated as there
CROSS = ("SEA_a", "LED_a", "RBF_m", "Electricity")  # river's own learners, 20,000 rows

Cell = tuple[dict[str, Any], Callable[[], dict[str, Any]]]


def cell(measure: Callable[..., dict[str, Any]], what: str, **settings: Any) -> Cell:
    """Settings and measurement; the first argument of the measure is what it is called by."""
    by = measure.__name__
    return {"by": by, "what": what, **settings}, partial(measure, what, **settings)


def everywhere(measure: Callable[..., dict[str, Any]], names: Iterable[str]) -> Iterator[Cell]:
    """Each learner on each stream, seed by seed."""
    for seed in SEEDS:
        for stream in [*GENERATED, *REAL]:
            for what in names:
                yield cell(measure, what, stream=stream, rows=LONG, seed=seed)


def plan() -> Iterator[Cell]:
    """All cells, those first that most claims rest on."""
    for seed in SEEDS:
        for stream in REQUIRED:
            where = {"stream": stream, "rows": SHORT, "seed": seed}
            for what in ("tree", *list(OURS)[:4]):
                yield cell(ours, what, **where)
            for kind in ("tree", "ozabag", "arf"):
                yield cell(capymoa, kind, **where)
            for routing in ("learned", "random"):
                yield cell(plainly, routing, **where)
    yield from everywhere(ours, ("tree", *list(OURS)[:6]))
    for what in ("tree", "DriftMoE"):
        for stream in ("LED_a", "SEA_a", "RBF_m"):
            yield cell(speed, what, stream=stream, rows=5_000, seed=0)
    yield from everywhere(capymoa, ("tree", *ENSEMBLES))
    for seed in SEEDS:
        for stream in PAPER:
            for what in ("tree", "MoE-Data"):
                yield cell(ours, what, stream=stream, rows=FULL, seed=seed)
        for what in list(OURS)[6:]:
            yield cell(ours, what, stream="LED_g", rows=LONG, seed=seed)
        for stream in ("LED_a", "LED_g"):
            late = {"stream": stream, "rows": LONG, "seed": seed, "delay": DELAY}
            for what in ("tree", "MoE-Data"):
                yield cell(ours, what, **late)
            yield cell(capymoa, "arf", **late)
    for stream in CROSS:
        for kind in ("tree", "arf"):
            yield cell(river, kind, stream=stream, rows=20_000, seed=0)
            yield cell(capymoa, kind, stream=stream, rows=20_000, seed=0)
    for kind in ENSEMBLES:
        for stream in ("LED_g", "SEA_g", "RBF_m", "Electricity"):
            yield cell(capymoa, kind, stream=stream, rows=20_000, seed=0, members=MANY)


def run() -> Record:
    """Measure every cell that the record lacks."""
    torch.set_num_threads(1)
    record = Record("driftmoe")
    absent: set[str] = set()
    for settings, measure in plan():
        if settings["stream"] in absent:
            continue
        try:
            record.cell(settings, measure)
        except (MissingDataError, InputError) as problem:
            absent.add(settings["stream"])
            print(f"{settings['stream']} is left out: {problem}", flush=True)
    return record


if __name__ == "__main__":
    run()
