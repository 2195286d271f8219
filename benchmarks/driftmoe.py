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

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from harness import Record, write_claims
from render import markdown
from stream_rivals import (
    CONFIDENCE,
    GRACE,
    CapyMOA,
    CapyTrees,
    CompiledTrees,
    Experts,
    RiverTrees,
    Straightforward,
    river_model,
)
from tables import MissingDataError, read

from polytask.baselines.hoeffding_tree import HoeffdingTree
from polytask.comparing.claims import Claim
from polytask.comparing.streams import picture
from polytask.comparing.words import signed
from polytask.data.packaged import flights
from polytask.data.streams import Stream, led, rbf, sea
from polytask.errors import InputError
from polytask.systems.driftmoe import DriftMoE
from polytask.systems.routed_forest import RoutedForest
from polytask.training.prequential import METRICS, Prequential, prequential

COMMAND = "python benchmarks/driftmoe.py"
SEEDS = (0, 1, 2)
SHORT, LONG, FULL = 40_000, 100_000, 1_000_000  # of the generated streams
MEMBERS, MANY = 12, 100
DELAY = 1000
PICTURE = Path(__file__).parents[1] / "docs" / "assets" / "streams.svg"

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


def plainly(
    routing: str, stream: str, rows: int, seed: int, trees: str = "CapyMOA"
) -> dict[str, Any]:
    """DriftMoE written plainly: learned or random routing, and the oracle."""
    found = stream_of(stream, rows, seed)
    experts: Experts = {"CapyMOA": CapyTrees, "ours": CompiledTrees}[trees](found, MEMBERS)
    model = Straightforward(found, experts, members=MEMBERS, routing=routing, seed=seed)  # type: ignore[arg-type]
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
    if what == "routed forest":
        return RoutedForest(**shape)
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
LAWS = ("LED_a", "LED_g", "SEA_a", "SEA_g")  # without random parameters: levels can be compared
NINE = (*PAPER, "Electricity", "Flights", "RBF7")  # the last three in place of the paper's
BEHIND = ("RBF_m", "RBF_f", "Electricity", "RBF7")  # where DriftMoE is far behind ARF
SMALL = tuple(name for name in REAL if name not in NINE)
MANY_ON = ("LED_g", "SEA_g", "RBF_m", "Electricity")  # a hundred members, 20,000 rows
CROSS = ("SEA_a", "LED_a", "RBF_m", "Electricity")  # river's own learners, 20,000 rows

Cell = tuple[dict[str, Any], Callable[[], dict[str, Any]]]


def cell(measure: Callable[..., dict[str, Any]], what: str, **settings: Any) -> Cell:
    """Settings and measurement; the first argument of the measure is what it is called by."""
    by = measure.__name__
    return {"by": by, "what": what, **settings}, partial(measure, what, **settings)


def over(
    measure: Callable[..., dict[str, Any]],
    names: Iterable[str],
    streams: Iterable[str],
    seeds: Iterable[int] = SEEDS,
    rows: int = LONG,
    **settings: Any,
) -> Iterator[Cell]:
    """Each learner on each stream, seed by seed."""
    for seed, stream, what in product(seeds, streams, names):
        yield cell(measure, what, stream=stream, rows=rows, seed=seed, **settings)


def plan() -> Iterator[Cell]:
    """All cells, those first that most claims rest on."""
    alone, options, sweep = ["tree", "MoE-Data"], list(OURS)[:3], list(OURS)[6:]
    options += list(OURS)[4:6]
    yield from over(ours, ["tree", *list(OURS)[:4]], REQUIRED, rows=SHORT)
    yield from over(capymoa, ["tree", "ozabag", "arf"], REQUIRED, rows=SHORT)
    yield from over(plainly, ["learned", "random"], REQUIRED, rows=SHORT)
    yield from over(ours, ["tree", *options], NINE)
    yield from over(speed, ["tree", "DriftMoE"], REQUIRED, SEEDS[:1], rows=5_000)
    yield from over(ours, sweep, ["LED_g"])
    yield from over(ours, alone, ["LED_a", "LED_g"], delay=DELAY)
    yield from over(ours, alone, PAPER, SEEDS[:1], rows=FULL)
    yield from over(ours, alone, LAWS, SEEDS[1:], rows=FULL)
    yield from over(ours, ["MoE-Task"], LAWS[:1], SEEDS[:1], rows=FULL)
    yield from over(capymoa, ["tree", "arf", "ozabag"], NINE, SEEDS[:1])
    yield from over(ours, ["routed forest"], REQUIRED, rows=SHORT)
    yield from over(ours, ["routed forest"], NINE)
    for streams in (REQUIRED[:2], BEHIND, NINE):
        yield from over(capymoa, ["arf", "ozabag"], streams, SEEDS[1:])
    yield from over(ours, alone, PAPER, SEEDS[1:], rows=FULL)
    yield from over(capymoa, ["arf"], ["LED_a", "LED_g"], delay=DELAY)
    yield from over(plainly, ["learned"], REQUIRED, rows=SHORT, trees="ours")
    yield from over(ours, ["tree", *options, "routed forest"], SMALL)
    yield from over(capymoa, ["tree", "levbag", "srp"], NINE)
    for learners in (river, capymoa):
        yield from over(learners, ["tree", "arf"], CROSS, SEEDS[:1], rows=20_000)
    yield from over(capymoa, ["arf", "ozabag"], SMALL)
    yield from over(capymoa, ENSEMBLES, MANY_ON, SEEDS[:1], rows=20_000, members=MANY)


def run() -> Record:
    """Measure every cell that the record lacks."""
    torch.set_num_threads(1)
    record = Record("driftmoe")
    absent: set[str] = set()
    for settings, measure in plan():
        if {settings["stream"], settings["by"]} & absent:
            continue
        try:
            record.cell(settings, measure)
        except (MissingDataError, InputError, ImportError) as problem:
            missing = settings["by" if isinstance(problem, ImportError) else "stream"]
            absent.add(missing)
            print(f"{missing} is left out: {problem}", flush=True)
    return record


# -- what is said of it --------------------------------------------------------------------------

Result = Mapping[str, Any]
STANDINS = {"Electricity": "Electricity", "Airlines": "Flights", "CoverType": "RBF7"}
# Accuracy of MoE-Data and its rivals in the paper; the ensembles have 100 members there.
PRINTED = {
    "LED_a": {"MoE-Data": 73.77, "MoE-Task": 71.11, "arf": 73.9, "srp": 74.0, "levbag": 73.8,
              "ozabag": 69.2},
    "LED_g": {"MoE-Data": 73.11, "MoE-Task": 70.82, "arf": 73.0, "srp": 73.2, "levbag": 73.1,
              "ozabag": 69.2},
    "SEA_a": {"MoE-Data": 89.09, "MoE-Task": 88.04, "arf": 89.6, "srp": 87.3, "levbag": 88.1,
              "ozabag": 86.6},
    "SEA_g": {"MoE-Data": 88.74, "MoE-Task": 87.76, "arf": 89.3, "srp": 86.9, "levbag": 88.7,
              "ozabag": 86.6},
    "RBF_m": {"MoE-Data": 79.89, "MoE-Task": 88.65, "arf": 92.0, "srp": 90.5, "levbag": 90.9,
              "ozabag": 82.7},
    "RBF_f": {"MoE-Data": 61.90, "MoE-Task": 75.45, "arf": 86.3, "srp": 82.6, "levbag": 84.4,
              "ozabag": 66.4},
    "Electricity": {"MoE-Data": 83.76, "MoE-Task": 68.73, "arf": 90.0, "srp": 89.6,
                    "levbag": 89.1, "ozabag": 82.6},
    "Airlines": {"MoE-Data": 70.33, "MoE-Task": 60.92, "arf": 64.5, "srp": 68.5, "levbag": 63.5,
                 "ozabag": 65.0},
    "CoverType": {"MoE-Data": 81.28, "MoE-Task": 58.28, "arf": 94.7, "srp": 95.2, "levbag": 93.3,
                  "ozabag": 84.4},
}  # fmt: skip
NAMES = {
    "tree": "Hoeffding tree",
    "routed forest": "Routed forest",
    "arf": "ARF",
    "srp": "SRP",
    "levbag": "LevBag",
    "ozabag": "OzaBag",
}


def accuracy(result: Result) -> float:
    return 100 * float(result["accuracy"])


def steady(result: Result) -> float:
    """Rows per second of CPU time in the median window: what warms up is left out."""
    record = Prequential.from_dict(result["record"])
    return float(np.median(np.divide(record.rows, record.seconds)))


class Evidence:
    """The record, read by learner and stream; values are keyed by seed, so that pairs are pairs."""

    def __init__(self, record: Record) -> None:
        self.record = record

    def of(
        self,
        what: str,
        stream: str,
        rows: int = LONG,
        measure: Callable[[Result], Any] = accuracy,
        by: str | None = None,
        **settings: Any,
    ) -> dict[int, Any]:
        by = by or ("ours" if what in (*OURS, "tree", "routed forest") else "capymoa")
        asked = {"members": None, "delay": None, "trees": None, **settings}
        cells = self.record.select(by=by, what=what, stream=stream, rows=rows, **asked)
        return {c["settings"]["seed"]: measure(c["result"]) for c in cells}


class Gap(NamedTuple):
    """Points that a learner is ahead of another, over the seeds that both have."""

    seeds: tuple[int, ...]
    first: np.ndarray
    second: np.ndarray

    @property
    def mean(self) -> float:
        return float((self.first - self.second).mean())

    def __str__(self) -> str:
        return f"{self.first.mean():.2f} against {self.second.mean():.2f} ({signed(self.mean)})"


def gap(first: Mapping[int, float], second: Mapping[int, float]) -> Gap | None:
    """None if fewer than three seeds have both."""
    seeds = tuple(sorted(first.keys() & second.keys()))
    if len(seeds) < 3:
        return None
    return Gap(seeds, np.array([first[s] for s in seeds]), np.array([second[s] for s in seeds]))


def claims() -> list[Claim]:
    """The sheet's required relations, the paper's table as relations, and what was asked of speed.

    A claim whose cells are not on record is left out.
    """
    evidence = Evidence(Record("driftmoe"))
    found = [
        *required(evidence),
        *printed(evidence),
        *levels(evidence),
        *options(evidence),
        *speeds(evidence),
        *agreements(evidence),
    ]
    return [claim for claim in found if claim is not None]


def judge(
    sentence: str,
    relation: str,
    gaps: Mapping[str, Gap | None],
    holds: Callable[[str, Gap], bool],
    *,
    show: Callable[[Gap], str] = str,
    paper: str = "",
    reason: str = "",
) -> Claim | None:
    """One claim over several streams: true if it is true of each."""
    if not gaps or any(g is None for g in gaps.values()):
        return None
    known = {stream: g for stream, g in gaps.items() if g is not None}
    failed = [stream for stream, g in known.items() if not holds(stream, g)]
    return Claim(
        system="driftmoe",
        claim=sentence,
        paper=paper,
        measured="; ".join(f"{stream}: {show(g)}" for stream, g in known.items()),
        relation=relation,
        holds=not failed,
        seeds=next(iter(known.values())).seeds,
        command=COMMAND,
        reason=f"not on {', '.join(failed)}. {reason}".strip() if failed else "",
    )


def required(evidence: Evidence) -> Iterator[Claim | None]:
    """The sheet's relations, on 40,000 rows with jumps at about 10,000, 20,000 and 30,000."""

    def gaps(first: str, second: str, streams: Sequence[str] = REQUIRED) -> dict[str, Gap | None]:
        return {
            s: gap(evidence.of(first, s, SHORT), evidence.of(second, s, SHORT)) for s in streams
        }

    yield judge(
        "MoE-Data is ahead of a single Hoeffding tree",
        "by 0.5 points or more on each",
        gaps("MoE-Data", "tree"),
        lambda _, g: g.mean >= 0.5,
        paper="86.1 / 85.4, 67.4 / 65.5, 78.8 / 77.1 (one seed of the reference)",
        reason=REASONS["tree"],
    )
    least = {"SEA_a": 1, "LED_a": 5, "RBF_m": 5}
    yield judge(
        "the learned router is ahead of routing at random",
        "by 1 point on SEA, by 5 on LED and RBF",
        gaps("MoE-Data", "random routing"),
        lambda stream, g: g.mean >= least[stream],
        paper="86.1 / 85.0, 67.4 / 53.6, 78.8 / 68.5 (one seed of the reference)",
        reason=REASONS["random"],
    )
    yield judge(
        "MoE-Data stays behind ARF on moving centroids",
        "MoE-Data < ARF",
        gaps("MoE-Data", "arf", ["RBF_m"]),
        lambda _, g: g.mean < 0,
        paper="78.8 / 89.0 (one seed of the reference)",
    )
    yield judge(
        "MoE-Task is ahead of MoE-Data on moving centroids",
        "MoE-Task > MoE-Data",
        gaps("MoE-Task", "MoE-Data", ["RBF_m"]),
        lambda _, g: g.mean > 0,
        paper="85.2 / 78.8 (one seed of the reference)",
    )
    yield judge(
        "after a jump MoE-Data is back within 2 points of its level as soon as the tree",
        "rows until back, mean of 3 jumps: MoE-Data <= tree",
        {
            s: gap(
                evidence.of("MoE-Data", s, SHORT, recovered),
                evidence.of("tree", s, SHORT, recovered),
            )
            for s in ("SEA_a", "LED_a")
        },
        lambda _, g: g.mean <= 0,
        reason=REASONS["recovery"],
    )
    shares = {s: evidence.of("MoE-Data", s, SHORT, top_share) for s in REQUIRED}
    yield judge(
        "the router does not collapse: no expert answers nearly all rows",
        "share of the busiest expert within 0.15 and 0.6, every seed",
        {s: gap(of, dict.fromkeys(of, 0.0)) for s, of in shares.items()},
        lambda _, g: bool((g.first >= 0.15).all() and (g.first <= 0.6).all()),
        show=lambda g: f"{g.first.min():.2f} to {g.first.max():.2f}",
        reason=REASONS["share"],
    )


def recovered(result: Result) -> float:
    """Mean rows until back after each drift; 10,000, until the next one, where it stays away."""
    record = Prequential.from_dict(result["record"])
    rows = [record.recovery(drift, before=2_000) for drift in record.drifts]
    return float(np.mean([10_000 if r is None else min(r, 10_000) for r in rows]))


def top_share(result: Result) -> float:
    return float(max(result["share"]))


def printed(evidence: Evidence) -> Iterator[Claim | None]:
    """The paper's table, one claim per rival: ahead, behind or level on the same streams."""
    for rival in ("arf", "srp", "levbag", "ozabag", "MoE-Task"):
        there = {STANDINS.get(s, s): row["MoE-Data"] - row[rival] for s, row in PRINTED.items()}
        all_gaps = {s: gap(evidence.of("MoE-Data", s), evidence.of(rival, s)) for s in there}
        gaps = {s: g for s, g in all_gaps.items() if g}  # those with three seeds on record
        name = NAMES.get(rival, rival)

        def same(stream: str, g: Gap, there: Mapping[str, float] = there) -> bool:
            return abs(g.mean) <= 1 if abs(there[stream]) <= 1 else g.mean * there[stream] > 0

        yield judge(
            f"MoE-Data against {name}: ahead, behind or level as in the paper "
            f"({len(gaps)} of 9 streams on record)",
            "same sign; within 1 point where the paper's gap is",
            gaps,
            lambda stream, g, there=there: (  # type: ignore[misc]
                abs(g.mean) <= 1 if abs(there[stream]) <= 1 else g.mean * there[stream] > 0
            ),
            show=lambda g: signed(g.mean),
            paper=", ".join(
                f"{s} {signed(d)}" for s, d in zip(PRINTED, there.values(), strict=True)
            ),
            reason=REASONS[rival],
        )


def levels(evidence: Evidence) -> Iterator[Claim | None]:
    """What a million rows and the ablation say."""
    full = {s: evidence.of("MoE-Data", s, FULL) for s in LAWS}
    yield judge(
        "accuracy at a million rows is the paper's",
        "within 0.5 points on each",
        {s: gap(of, dict.fromkeys(of, PRINTED[s]["MoE-Data"])) for s, of in full.items()},
        lambda _, g: abs(g.mean) <= 0.5,
        paper="73.77, 73.11, 89.09, 88.74",
        reason=REASONS["level"],
    )
    yield judge(
        "at a million rows MoE-Data is ahead of the single tree",
        "MoE-Data > tree on each",
        {s: gap(evidence.of("MoE-Data", s, FULL), evidence.of("tree", s, FULL)) for s in LAWS},
        lambda _, g: g.mean > 0,
        reason=REASONS["full"],
    )
    base = evidence.of("MoE-Data", "LED_g")
    swept = {
        what.removeprefix("MoE-Data, "): gap(evidence.of(what, "LED_g"), base)
        for what in OURS
        if "E=" in what
    }
    yield judge(
        "numbers of experts and of trained experts hardly matter (LED_g)",
        "every setting within 1 point of E=12 K=3",
        swept,
        lambda _, g: abs(g.mean) <= 1,
        paper="72.6 to 73.3",
        reason=REASONS["ablation"],
    )


def options(evidence: Evidence) -> Iterator[Claim | None]:
    """What the options are for."""
    yield judge(
        "standardised inputs help the router where features have unlike scales",
        "ahead of raw inputs on RBF7",
        {
            "RBF7": gap(
                evidence.of("MoE-Data, standardised", "RBF7"), evidence.of("MoE-Data", "RBF7")
            )
        },
        lambda _, g: g.mean > 0,
        reason=REASONS["scale"],
    )
    yield judge(
        "a real combination of experts is ahead of the router alone (MoE-Task)",
        "combine='expert' > combine='router' on each",
        {
            s: gap(evidence.of("MoE-Task, experts", s), evidence.of("MoE-Task", s))
            for s in (*PAPER, "Electricity", "Flights")
        },
        lambda _, g: g.mean > 0,
        reason=REASONS["combine"],
    )


def speeds(evidence: Evidence) -> Iterator[Claim | None]:
    """Ratios of rows per second, taking turns in one process."""
    for what, rival, factor in (
        ("DriftMoE", "plain over river", 10),
        ("DriftMoE", "plain over CapyMOA", 1),
        ("tree", "river", 20),
        ("tree", "CapyMOA", 1),
    ):
        rows = evidence.record.select(by="speed", what=what)
        if len(rows) < 3:
            continue
        ratios = {
            row["settings"]["stream"]: row["result"]["ours"]["median"]
            / row["result"][rival]["median"]
            for row in rows
        }
        slow = [s for s, ratio in ratios.items() if ratio < factor]
        other = f"the same {rival}" if what == "DriftMoE" else f"{rival}'s from Python"
        yield Claim(
            system="driftmoe",
            claim=f"{what} takes at least {factor} times the rows per second of {other}",
            paper="",
            measured=", ".join(f"{s} {ratio:.1f}x" for s, ratio in ratios.items()),
            relation=f"ratio of medians >= {factor} on each stream",
            holds=not slow,
            seeds=(0,),
            command=COMMAND,
            reason=f"not on {', '.join(slow)}. {REASONS['speed']}".strip() if slow else "",
        )


def agreements(evidence: Evidence) -> Iterator[Claim | None]:
    """Independent implementations agree."""
    yield judge(
        "our Hoeffding tree does as well as CapyMOA's with the same settings",
        "within 0.5 points on each",
        {
            s: gap(evidence.of("tree", s), evidence.of("tree", s, by="capymoa"))
            for s in (*PAPER, "Electricity", "Flights")
        },
        lambda _, g: abs(g.mean) <= 0.5,
        reason=REASONS["same tree"],
    )
    for trees, whose in (("ours", "the same trees"), (None, "CapyMOA's trees")):
        yield judge(
            f"the compiled MoE-Data does as well as one written plainly over {whose}",
            "within 1 point on each",
            {
                s: gap(
                    evidence.of("MoE-Data", s, SHORT),
                    evidence.of("learned", s, SHORT, by="plainly", trees=trees),
                )
                for s in REQUIRED
            },
            lambda _, g: abs(g.mean) <= 1,
            reason=REASONS["other trees"] if trees is None else "",
        )


# Why a claim does not hold, where it does not: found out, not guessed.
REASONS: dict[str, str] = defaultdict(
    str,
    {
        "arf": "At 100,000 rows the experts, each of which learns a quarter of them, are young: at "
        "a million MoE-Data has 88.9 on SEA_a, the paper 89.1.",
        "ozabag": "Flights is not the paper's Airlines, and the two are level there. On "
        "Electricity MoE-Data has 80.7 here and 83.8 in the paper; why is not known.",
        "MoE-Task": "The reference drops units of the router also while it predicts, ours only "
        "while it learns: the likely reason, not tested, why MoE-Task is better here (LED_a at a "
        "million rows: 72.3, paper 71.1). There MoE-Data is 0.7 ahead, at 100,000 rows the two are "
        "level.",
        "level": "Between the jumps it is at the best rate there is (73.6 to 74.0; Bayes 74). What "
        "is missing is lost in the 50,000 rows after each jump; why is not known. It is not the "
        "stream: on 200,000 rows of MOA's own generator MoE-Data has 72.4, on ours 72.6.",
        "ablation": "One expert trained of six leaves too few rows to each: the seeds differ by "
        "1.6 points. All other settings are within 0.6.",
        "combine": "It is where the router alone fails (unequal classes, unlike scales) and costs "
        "where the network is the better classifier (LED, moving centroids).",
        "other trees": "Over our own trees the plain one is within a point, so the router and its "
        "training agree; what differs is the trees, which as single trees agree to half a point.",
    },
)


# -- tables --------------------------------------------------------------------------------------

SHOWN = (
    "tree", "MoE-Data", "MoE-Data, standardised", "MoE-Data, class-weighted", "MoE-Task",
    "MoE-Task, experts", "routed forest", "arf", "srp", "levbag", "ozabag",
)  # fmt: skip


def table() -> str:
    """All tables of the record, in Markdown."""
    evidence = Evidence(Record("driftmoe"))
    return "\n\n".join(
        f"**{title}**\n\n{body}"
        for title, body in (
            (f"Accuracy in percent, {LONG:,} rows or all there are, "
             f"{MEMBERS} trees each, mean ± deviation of seeds", accuracies(evidence)),
            ("The same as κ_temporal in percent, on the streams that are not generated",
             against_no_change(evidence)),
            ("Cost at the same: geometric means over the nine streams; rows per second of CPU time",
             costs(evidence)),
            (f"{SHORT:,} rows with jumps at the quarters", sheet(evidence)),
            ("A million rows", full(evidence)),
            (f"Labels {DELAY:,} rows late, {LONG:,} rows", delayed(evidence)),
            ("Numbers of experts and of trained experts, LED_g", ablation(evidence)),
            ("Rows per second of CPU time, taking turns on the same rows", turns(evidence)),
            ("20,000 rows: river's own learners, and a hundred members", others(evidence)),
        )
        if body
    )  # fmt: skip


def grid(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    body = [row for row in rows if any(cell for cell in row[1:])]
    return markdown(head, body) if body else ""


def mean(values: Mapping[int, float], digits: int = 1) -> str:
    """`73.4 ± 0.1`; without a deviation where the seeds agree or there is one; empty for none."""
    numbers = list(values.values())
    if not numbers:
        return ""
    spread = float(np.std(numbers, ddof=1)) if len(numbers) > 1 else 0.0
    text = f"{np.mean(numbers):.{digits}f}"
    text += f" ± {spread:.{digits}f}" if spread >= 0.5 * 10**-digits else ""
    return text if len(numbers) >= len(SEEDS) else f"{text} ({len(numbers)})"


def accuracies(evidence: Evidence) -> str:
    def references(stream: str) -> list[str]:
        return [
            mean(evidence.of("tree", stream, measure=lambda r, n=name: 100 * r[n]))
            for name in ("majority", "no_change")
        ]

    return grid(
        ["stream", "majority", "no change", *(NAMES.get(w, w) for w in SHOWN)],
        (
            [stream, *references(stream), *(mean(evidence.of(w, stream)) for w in SHOWN)]
            for stream in (*NINE, *SMALL)
        ),
    )


def against_no_change(evidence: Evidence) -> str:
    def kappa(result: Result) -> float:
        value = result["kappa_temporal"]
        return float("nan") if value is None else 100 * float(value)

    return grid(
        ["stream", *(NAMES.get(w, w) for w in SHOWN)],
        (
            [stream, *(mean(evidence.of(w, stream, measure=kappa)) for w in SHOWN)]
            for stream in ("Electricity", "Flights", *SMALL)
        ),
    )


def costs(evidence: Evidence) -> str:
    """Geometric means, for learners that have been on all of the nine streams that ARF has.

    Memory is our learners' own count. What the Java heap grows by is not told apart from what was
    there before, so the others have none.
    """
    streams = [s for s in NINE if evidence.of("arf", s)]

    def over(what: str, measure: Callable[[Result], float]) -> str:
        found = [list(evidence.of(what, s, measure=measure).values()) for s in streams]
        if not found or not all(found):
            return ""
        return f"{np.exp(np.mean([np.mean(np.log(values)) for values in found])):,.0f}"

    def memory(result: Result) -> float:
        return float(result["record"]["memory"]) / 1024

    return grid(
        ["learner", "rows per second", "memory in kB"],
        (
            [NAMES.get(w, w), over(w, steady), over(w, memory) if w not in ENSEMBLES else "–"]
            for w in SHOWN
            if over(w, steady)
        ),
    )


def sheet(evidence: Evidence) -> str:
    shown = ("tree", "MoE-Data", "random routing", "MoE-Task", "MoE-Task, experts", "ozabag", "arf")
    return grid(
        ["stream", *(NAMES.get(w, w) for w in shown), "oracle routing", "busiest expert"],
        (
            [
                stream,
                *(mean(evidence.of(w, stream, SHORT)) for w in shown),
                mean(evidence.of("MoE-Data", stream, SHORT, lambda r: 100 * r["oracle"])),
                mean(evidence.of("MoE-Data", stream, SHORT, top_share), 2),
            ]
            for stream in REQUIRED
        ),
    )


def full(evidence: Evidence) -> str:
    return grid(
        ["stream", "Hoeffding tree", "MoE-Data", "in the paper", "MoE-Task", "in the paper",
         "rows per second, MoE-Data"],
        (
            [
                stream,
                mean(evidence.of("tree", stream, FULL), 2),
                mean(evidence.of("MoE-Data", stream, FULL), 2),
                f"{PRINTED[stream]['MoE-Data']}",
                mean(evidence.of("MoE-Task", stream, FULL), 2),
                f"{PRINTED[stream]['MoE-Task']}",
                mean(evidence.of("MoE-Data", stream, FULL, steady), 0),
            ]
            for stream in PAPER
            if evidence.of("MoE-Data", stream, FULL)
        ),
    )  # fmt: skip


def delayed(evidence: Evidence) -> str:
    shown = ("tree", "MoE-Data", "arf")
    return grid(
        ["stream", *(f"{NAMES.get(w, w)}{late}" for w in shown for late in ("", ", late"))],
        (
            [
                stream,
                *(mean(evidence.of(w, stream, delay=d)) for w in shown for d in (None, DELAY)),
            ]
            for stream in ("LED_a", "LED_g")
        ),
    )


def ablation(evidence: Evidence) -> str:
    swept = ["MoE-Data", *(what for what in OURS if "E=" in what)]
    return grid(
        ["setting", "accuracy"],
        (
            [what.removeprefix("MoE-Data, ").replace("MoE-Data", "E=12 K=3"), mean(
                evidence.of(what, "LED_g"), 2
            )]
            for what in swept
        ),
    )  # fmt: skip


def turns(evidence: Evidence) -> str:
    rows = []
    for cell in evidence.record.select(by="speed"):
        settings, result = cell["settings"], cell["result"]
        rows += [
            [f"{settings['what']}, {settings['stream']}", name, f"{of['median']:,.0f}",
             f"{result['ours']['median'] / of['median']:.1f}"]
            for name, of in result.items()
        ]  # fmt: skip
    return grid(["what", "implementation", "rows per second", "ours is so many times that"], rows)


def others(evidence: Evidence) -> str:
    rows = []
    for stream in dict.fromkeys((*CROSS, "LED_g", "SEA_g")):
        at = {"stream": stream, "rows": 20_000}
        rows.append(
            [
                stream,
                *(mean(evidence.of(w, by=by, **at)) for w in ("tree", "arf")
                  for by in ("river", "capymoa")),
                *(mean(evidence.of(w, members=MANY, **at)) for w in ENSEMBLES),
            ]
        )  # fmt: skip
    head = ["stream", "river tree", "CapyMOA tree", "river ARF", "CapyMOA ARF"]
    return grid([*head, *(f"{NAMES[w]} ({MANY})" for w in ENSEMBLES)], rows)


def draw() -> None:
    """The picture of the docs: what a jump does to each learner (LED_a, one seed)."""
    evidence = Evidence(Record("driftmoe"))
    shown = [
        replace(Prequential.from_dict(result["record"]), model=NAMES.get(what, what))
        for what in ("MoE-Data", "arf", "routed forest", "tree", "ozabag")
        for seed, result in evidence.of(what, "LED_a", measure=dict).items()
        if seed == 0
    ]
    if shown:
        PICTURE.write_text(picture(shown), encoding="utf-8")


if __name__ == "__main__":
    run()
    write_claims("driftmoe", claims())
    draw()
