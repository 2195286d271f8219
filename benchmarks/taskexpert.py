"""TaskExpert on scenes under two lights and on CamVid's streets: what experts and memory bring.

    python benchmarks/taskexpert.py            # measure what the record lacks, judge the claims
    python benchmarks/taskexpert.py scenes     # one part: scenes, streets, cost, rate

Budgets are small: 1,000 scenes of 32 x 32 pixels and 375 updates, 367 street pictures at 72 x 96
and 180 updates, against the paper's 40,000. All learners of a part have the same pictures, updates
and schedule; the learning rate is chosen per network, the epoch per fit, both on validation.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from harness import Record, spread, write_claims
from pictures import camvid
from tables import MissingDataError

from polytask.baselines.segformer import ConvHeads, SegFormer
from polytask.comparing.claims import Claim
from polytask.data import ColumnSplit, Processor, Suite
from polytask.data.scenes import CLASSES, Scenes
from polytask.systems.taskexpert import TaskExpert
from polytask.tasks import Task
from polytask.tasks.dense import Edges, Normals, Saliency, Segmentation
from polytask.training import Training
from polytask.training.scoring import score

NAME = "taskexpert"
COMMAND = "python benchmarks/taskexpert.py"
SEEDS = (0, 1, 2)
ROWS = {"train": 1000, "validation": 100, "test": 300}
TASKS: dict[str, Any] = {
    "segmentation": {"kind": "segmentation", "classes": list(CLASSES)},
    "depth": {"kind": "map", "unit": "m"},
    "normals": "normals",
    "edges": "edges",
}
STREETS = ("objects", "borders", "layout")
RATES = (1e-3, 3e-3)
SCENES_TRAINING = Training(
    lr=1e-3,
    weight_decay=1e-6,
    batch=8,
    epochs=3,
    patience=3,
    schedule="poly(power=0.9)",
    warmup=50,
    clip=10.0,
)
STREETS_TRAINING = replace(SCENES_TRAINING, epochs=4, patience=4)
SIZE = (72, 96)


# -- what is compared ----------------------------------------------------------------------------


def learners(part: str) -> dict[str, Any]:
    """Every way to fit all tasks at once, by the name it has in the record."""
    scenes = part == "scenes"
    vit = f"vit(width=64, depth=4, heads=4, patch={4 if scenes else 8}, drop_path=0.0)"
    mit = "mit(widths=(32, 48, 80, 96), depths=(1, 1, 1, 1), heads=(1, 2, 4, 4), drop_path=0.0)"
    training = SCENES_TRAINING if scenes else STREETS_TRAINING
    augment = "none" if scenes else "dense(flip=0.5, zoom=1.5, largest=0.75, colour=0.25)"
    common: dict[str, Any] = {"training": training, "augment": augment}
    ours = TaskExpert(trunk=vit, width=32, experts=4, upsample=2, **common)
    tasks = TASKS if scenes else STREETS
    return {
        "taskexpert": ours,
        "static": replace(ours, gates="static"),
        "no_memory": replace(ours, memory=False),
        "conv_heads": ConvHeads(trunk=vit, upsample=2, **common),
        "segformer": SegFormer(trunk=mit, width=64, **common),
        "equal": replace(ours, weights=tuple(f"{task}=1" for task in tasks)),
        "uw": replace(ours, balancer="uw"),
        "upgrad": replace(ours, balancer="features(upgrad)"),
        "overwrite": replace(ours, write="overwrite"),
        "top2": replace(ours, topk=2),
    }


@lru_cache(maxsize=1)
def scenes(seed: int) -> tuple[Suite, np.ndarray]:
    """The scenes of a seed, and the light of each test row."""
    drawn = Scenes(seed=seed).draw(sum(ROWS.values()))
    part = np.repeat(list(ROWS), list(ROWS.values()))
    suite = Suite.from_table(
        {**drawn, "part": part},
        TASKS,
        inputs={"image": "picture"},
        split=ColumnSplit("part"),
        exclude=["hue"],
        name="scenes",
    )
    return suite, drawn["hue"][part == "test"]


@lru_cache(maxsize=1)
def streets() -> Suite:
    return camvid(size=SIZE, tasks=STREETS)


RATED = ("taskexpert", "conv_heads", "segformer")


def rate(way: str) -> float:
    """The learning rate that was best on validation in two epochs of other scenes."""
    network = way if way in RATED else "taskexpert"
    cells = Record(NAME).select(part="rate", way=network)
    best = max(cells, key=lambda row: row["result"]["validation"], default=None)
    return best["settings"]["lr"] if best else SCENES_TRAINING.lr


def rated(way: str, lr: float) -> dict[str, Any]:
    learner = learners("scenes")[way]
    training = replace(learner.training, lr=lr, epochs=2, patience=2, seed=99)
    learner = replace(learner, training=training).fit(scenes(99)[0])
    return {"validation": learner.state_.best_score}


# -- one fit -------------------------------------------------------------------------------------


def fit(part: str, way: str, seed: int, only: str = "") -> dict[str, Any]:
    """Test scores, of all rows and of each light's, and what the gates do."""
    if part == "scenes":
        suite, hue = scenes(seed)
    else:
        suite, hue = streets(), None
    suite = suite.only(only) if only else suite
    learner = learners(part)[way]
    training = replace(learner.training, lr=rate(way), seed=seed)
    learner = replace(learner, training=training)
    started = time.process_time()
    learner.fit(suite)
    result: dict[str, Any] = {
        "cpu_seconds": round(time.process_time() - started, 1),
        "lr": training.lr,
        "updates": learner.state_.steps,
        "parameters": learner.parameters_,
        "epoch": learner.state_.best_epoch,
        "validation": learner.state_.best_score,
        "test": learner.score(suite),
    }
    if hue is not None:
        result["lights"] = {light: of_rows(learner, suite, hue == light) for light in set(hue)}
    if way in ("taskexpert", "static", "top2") and not only:
        result["gates"] = gates(learner, suite, hue)
    return result


def of_rows(learner: Any, suite: Suite, chosen: np.ndarray) -> dict[str, dict[str, float]]:
    """Every metric on some rows of the test part."""
    processor = learner.processor_
    kinds = {task.name: task.kind for task in processor.tasks}
    rows = processor.encode(suite, "test").take(torch.from_numpy(np.flatnonzero(chosen)))
    return score(kinds, rows, lambda batch: learner._decoded(batch, tuple(kinds)))


def gates(learner: TaskExpert, suite: Suite, hue: np.ndarray | None) -> dict[str, Any]:
    """Total variation of gate weights, and their means per task, tap (and light)."""
    rows = suite.table("test").select(["image"])
    weights = learner.gate_weights(rows)
    names = list(weights)
    pairs = [
        variation(weights[a], weights[b]).mean()
        for i, a in enumerate(names)
        for b in names[i + 1 :]
    ]
    found: dict[str, Any] = {
        "between_tasks": float(np.mean(pairs)),
        "mean": {task: values.mean(0).tolist() for task, values in weights.items()},
        "within_task": {  # of pictures around their mean
            task: float(variation(values, values.mean(0)).mean())
            for task, values in weights.items()
        },
    }
    if hue is not None:
        lights = {
            light: {task: values[hue == light].mean(0) for task, values in weights.items()}
            for light in ("warm", "cool")
        }
        found["between_lights"] = {
            task: variation(lights["warm"][task], lights["cool"][task]).tolist() for task in names
        }
        found["lights"] = {
            light: {task: mean.tolist() for task, mean in means.items()}
            for light, means in lights.items()
        }
    return found


def variation(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Half the L1 distance of two distributions, over the last axis."""
    return 0.5 * np.abs(p - q).sum(-1)


# -- cost ----------------------------------------------------------------------------------------


def cost(rounds: int = 40) -> dict[str, float]:
    """Median milliseconds of forward passes of one picture, all taking turns."""
    suite, _ = scenes(0)
    spec, ways = Processor.fit(suite), learners("scenes")
    torch.manual_seed(0)
    module = ways["taskexpert"].build(spec).eval()
    alone = [ways["taskexpert"].build(Processor.fit(suite.only(t))).eval() for t in TASKS]
    image = {"image": torch.rand(1, 3, 32, 32)}
    names = list(TASKS)
    with torch.inference_mode():
        shared = module.represent(image, names)
        runs: dict[str, Callable[[], Any]] = {
            "trunk": lambda: module.trunk(image["image"]),
            "all": lambda: module.outputs(image, names),
            "but_one": lambda: module.outputs(image, names[:-1]),
            "one_walk": lambda: module.heads[names[-1]].walk(shared),
            "alone": lambda: [m.outputs(image, list(m.tasks)) for m in alone],
        }
        taken: dict[str, list[float]] = {name: [] for name in runs}
        for turn in range(rounds + 5):
            for name, run in runs.items():
                started = time.process_time()
                run()
                if turn >= 5:
                    taken[name].append(1000 * (time.process_time() - started))
    return {name: statistics.median(values) for name, values in taken.items()}


def paper_scale() -> dict[str, float]:
    """Multiply-adds (10^9) at the paper's scale, counted without computing anything."""
    from torch.utils.flop_counter import FlopCounterMode

    kinds = {
        "semseg": Segmentation(classes=tuple(range(21))),
        "parts": Segmentation(classes=tuple(range(7))),
        "saliency": Saliency(),
        "normals": Normals(),
        "edges": Edges(),
    }
    spec: Any = SimpleNamespace(
        pictures={"image": SimpleNamespace(size=(512, 512), channels=3)},
        tasks=tuple(Task(name, kind) for name, kind in kinds.items()),
        numeric={},
        categorical={},
        arrays={},
    )
    with torch.device("meta"):
        module = TaskExpert().build(spec).eval()
        image = torch.zeros(1, 3, 512, 512)

    def count(run: Callable[[], Any]) -> float:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            run()
        return counter.get_total_flops() / 2e9

    shared = module.represent({"image": image}, [])
    names = list(kinds)
    return {
        "trunk": count(lambda: module.trunk(image)),
        "all": count(lambda: module.outputs({"image": image}, names)),
        "but_one": count(lambda: module.outputs({"image": image}, names[:-1])),
        "one_walk": count(lambda: module.heads["edges"].walk(shared)),
        "parameters": sum(p.numel() for p in module.parameters()) / 1e9,
    }


# -- the plan ------------------------------------------------------------------------------------

DECISIVE = ("taskexpert", "static", "conv_heads", "no_memory", "segformer")
BESIDE = ("equal", "uw", "upgrad", "overwrite", "top2")
ON_STREETS = ("taskexpert", "conv_heads", "segformer", "static", "uw", "equal")


def plan() -> list[dict[str, Any]]:
    """All cells, those that decide claims first."""
    cells: list[dict[str, Any]] = [
        {"part": "rate", "way": way, "lr": lr} for way in RATED for lr in RATES
    ]
    cells += [{"part": "paper_scale"}, {"part": "cost"}]
    for seed in SEEDS:
        cells += [{"part": "scenes", "way": w, "seed": seed} for w in DECISIVE]
    for seed in SEEDS:
        cells += [{"part": "scenes", "way": "taskexpert", "seed": seed, "only": t} for t in TASKS]
    for way in ON_STREETS[:3]:
        cells += [{"part": "streets", "way": way, "seed": seed} for seed in SEEDS]
    for task in STREETS:
        cells += [
            {"part": "streets", "way": "taskexpert", "seed": seed, "only": task} for seed in SEEDS
        ]
    for way in BESIDE[:3]:
        cells += [{"part": "scenes", "way": way, "seed": seed} for seed in SEEDS]
    for way in ON_STREETS[3:]:
        cells += [{"part": "streets", "way": way, "seed": seed} for seed in SEEDS]
    for way in BESIDE[3:]:
        cells += [{"part": "scenes", "way": way, "seed": seed} for seed in SEEDS]
    return cells


def run(parts: Sequence[str] = ()) -> None:
    torch.set_num_threads(1)
    record = Record(NAME)
    for cell in plan():
        if parts and cell["part"] not in parts:
            continue
        try:
            record.cell(cell, lambda cell=cell: measured(cell))
        except MissingDataError as missing:
            print(f"{missing}; nothing of this part is measured")


def measured(cell: Mapping[str, Any]) -> dict[str, Any]:
    if cell["part"] == "paper_scale":
        return paper_scale()
    if cell["part"] == "cost":
        return cost()
    if cell["part"] == "rate":
        return rated(cell["way"], cell["lr"])
    return fit(cell["part"], cell["way"], cell["seed"], cell.get("only", ""))


# -- what the record says ------------------------------------------------------------------------

# Task -> its primary metric, and whether more of it is better.
PRIMARY = {
    "segmentation": ("miou", True),
    "depth": ("rmse", False),
    "normals": ("mean_angle", False),
    "edges": ("ods_f", True),
    "objects": ("miou", True),
    "borders": ("ods_f", True),
    "layout": ("miou", True),
}
NAMES = {
    "taskexpert": "TaskExpert",
    "static": "TaskExpert, static gates",
    "no_memory": "TaskExpert, no memory (last tap only)",
    "conv_heads": "shared trunk, convolutional heads",
    "segformer": "SegFormer, a head per task",
    "equal": "TaskExpert, all losses weigh 1",
    "uw": "TaskExpert, uncertainty weighting",
    "upgrad": "TaskExpert, UPGrad at the feature",
    "overwrite": "TaskExpert, memory overwritten",
    "top2": "TaskExpert, top-2 gates",
}
TITLES = {
    "scenes": "Scenes, 32 x 32, 1,000 pictures and 375 updates",
    "streets": "CamVid, 72 x 96, 367 pictures and 180 updates",
}


class Evidence:
    """The cells of the record, and the figures that claims and tables need of them."""

    def __init__(self, record: Record) -> None:
        self.record = record

    def of(self, part: str, way: str, only: str = "") -> dict[int, dict[str, Any]]:
        """Seed -> result of one way; joint fits unless ``only`` names a task."""
        rows = self.record.select(part=part, way=way)
        mine = [row for row in rows if row["settings"].get("only", "") == only]
        return {row["settings"]["seed"]: row["result"] for row in mine}

    def value(self, result: Mapping[str, Any], task: str, light: str = "") -> float:
        scores = result["lights"][light] if light else result["test"]
        return scores[task][PRIMARY[task][0]]

    def gain(self, part: str, way: str, over: str = "alone", light: str = "") -> dict[int, float]:
        """Δm in percent per seed: mean over tasks of the relative gain of their primary metrics.

        ``over`` is another way, or "alone": the same network fitted on each task alone.
        """
        tasks = TASKS if part == "scenes" else STREETS
        others = {
            task: self.of(part, "taskexpert", task) if over == "alone" else self.of(part, over)
            for task in tasks
        }
        found = {}
        for seed, result in self.of(part, way).items():
            if all(seed in theirs for theirs in others.values()):
                parts = []
                for task in tasks:
                    was = self.value(others[task][seed], task, light)
                    sign = 1 if PRIMARY[task][1] else -1
                    parts.append(sign * (self.value(result, task, light) - was) / was)
                found[seed] = 100 * float(np.mean(parts))
        return found

    def cell(self, part: str) -> dict[str, Any]:
        found = self.record.select(part=part)
        return found[0]["result"] if found else {}


def claims() -> list[Claim]:
    """Every claim that the record has three seeds for, judged and written beside it."""
    e = Evidence(Record(NAME))
    found = [*on_gains(e), *on_gates(e), *on_cost(e)]
    write_claims(NAME, found)
    return found


def said(
    claim: str, paper: str, measured: str, relation: str, holds: bool, seeds: Sequence[int]
) -> Claim:
    reason = "" if holds else REASONS.get(claim, LEVEL if "loss weights" in claim else "")
    return Claim(NAME, claim, paper, measured, relation, bool(holds), tuple(seeds), COMMAND, reason)


def better(values: Mapping[int, float]) -> tuple[str, bool]:
    """Mean with spread, seeds above 0, and whether the mean is above its standard error."""
    numbers = list(values.values())
    above = sum(v > 0 for v in numbers)
    error = float(np.std(numbers, ddof=1)) / len(numbers) ** 0.5
    text = f"{spread(numbers, 1)} %, above 0 in {above} of {len(numbers)}"
    return text, float(np.mean(numbers)) > error


def on_gains(e: Evidence) -> Iterator[Claim]:
    ablation = "each step of the ablation improves (values not known)"
    rivals = {
        "static": ("gates that read the picture beat gates that do not", ablation),
        "no_memory": ("memory over four depths beats the last depth alone", ablation),
        "conv_heads": ("experts and memory beat plain heads on the same trunk", ablation),
        "segformer": ("TaskExpert beats SegFormer of equal size", ""),
        "alone": ("all tasks in one network beat one network per task", ""),
    }
    for part, place in (("scenes", "scenes"), ("streets", "CamVid")):
        for other, (sentence, paper) in rivals.items():
            gains = e.gain(part, "taskexpert", other)
            if len(gains) >= 3:
                text, holds = better(gains)
                over = "the tasks alone" if other == "alone" else NAMES[other]
                relation = f"mean relative gain over {over} > its standard error"
                yield said(f"{sentence}: {place}", paper, text, relation, holds, tuple(gains))
        for other in ("uw", "upgrad", "equal"):
            gains = e.gain(part, other, "taskexpert")
            if len(gains) >= 3:
                text, holds = better(gains)
                yield said(
                    f"{NAMES[other]} beats the published loss weights: {place}",
                    "",
                    text,
                    "mean relative gain over the published weights > its standard error",
                    holds,
                    tuple(gains),
                )
    lights = {light: e.gain("scenes", "taskexpert", "static", light) for light in ("cool", "warm")}
    if len(lights["cool"]) >= 3:
        wider = {s: lights["cool"][s] - lights["warm"][s] for s in lights["cool"]}
        text = "; ".join(f"{light} {spread(g.values(), 1)} %" for light, g in lights.items())
        text += f"; difference {better(wider)[0]}"
        yield said(
            "dynamic gates gain most where the light turns the cue: scenes",
            "",
            text,
            "gain over static gates in cool light (three in ten pictures) - in warm light > its "
            "standard error",
            better(wider)[1],
            tuple(wider),
        )


def on_gates(e: Evidence) -> Iterator[Claim]:
    for part, place in (("scenes", "scenes"), ("streets", "CamVid")):
        cells = e.of(part, "taskexpert")
        if len(cells) >= 3:
            apart = [cell["gates"]["between_tasks"] for cell in cells.values()]
            yield said(
                f"tasks mix the experts differently: {place}",
                "",
                f"total variation {spread(apart, 2)}",
                "mean over pairs of tasks, taps and pictures > 0.1",
                np.mean(apart) > 0.1,
                tuple(cells),
            )
    cells = e.of("scenes", "taskexpert")
    if len(cells) >= 3:
        most = {
            seed: max((max(taps), task) for task, taps in cell["gates"]["between_lights"].items())
            for seed, cell in cells.items()
        }
        named = ", ".join(f"{task} {value:.2f}" for value, task in most.values())
        yield said(
            "gates follow the light for at least one task: scenes",
            "",
            f"largest total variation between mean gates of the lights, per seed: {named}",
            "> 0.1 in every seed",
            min(value for value, _ in most.values()) > 0.1,
            tuple(cells),
        )


def on_cost(e: Evidence) -> Iterator[Claim]:
    if scale := e.cell("paper_scale"):
        mixing = scale["one_walk"] / scale["trunk"]
        whole = (scale["all"] - scale["but_one"]) / scale["trunk"]
        yield said(
            "one more task costs less than 15 % of the trunk, its head aside: ViT-L/16, 512 x 512",
            "cost grows slowly with the number of tasks",
            f"{100 * mixing:.1f} % of the trunk's multiply-adds; with its head {100 * whole:.1f} %",
            "gates, reads and writes of one task < 0.15 of the trunk",
            mixing < 0.15,
            (0,),
        )
    if taken := e.cell("cost"):
        more = (taken["all"] - taken["but_one"]) / taken["trunk"]
        mixing = taken["one_walk"] / taken["trunk"]
        yield said(
            "one more task costs less than 15 % of the trunk: the small network of the scenes",
            "",
            f"{100 * more:.0f} % of the trunk's time, {100 * mixing:.0f} % without the head",
            "(all tasks - all but one) / trunk < 0.15, one picture, one core",
            more < 0.15,
            (0,),
        )
        yield said(
            "one pass for four tasks is faster than four networks: scenes",
            "",
            f"{taken['alone'] / taken['all']:.2f}x",
            "time of four single-task networks / time of the joint one > 1",
            taken["alone"] > taken["all"],
            (0,),
        )


# Why a claim does not hold, where it does not.
LEVEL = (
    "level, within the spread over seeds; why was not looked into. Equal weights do as well as the "
    "published ones, so the losses need no weighing here"
)
REASONS = {
    "dynamic gates gain most where the light turns the cue: scenes": "so it is with two seeds "
    "(10.7 and 8.4 % in cool light, 2.9 and 1.6 % in warm); with the third the static network "
    "reads the slopes in cool light as well (6.8 degrees; 11.9 and 12.0 with the others)",
    "all tasks in one network beat one network per task: scenes": "level: normals gain, classes "
    "and edges lose; four networks have three times the parameters and four times the updates",
    "all tasks in one network beat one network per task: CamVid": "level: objects -1.6 %, borders "
    "+2.1 %, layout +0.3 %; three networks have 2.4 times the parameters, three times the updates",
    "one more task costs less than 15 % of the trunk: the small network of the scenes": "the trunk "
    "has four blocks here, not 24, so the same parts weigh more (37 % of its multiply-adds, 19 % "
    "without the head), and a pass of one small picture is mostly the start of operations",
}


# -- tables and pictures -------------------------------------------------------------------------


def table() -> str:
    """The record as Markdown."""
    e = Evidence(Record(NAME))
    parts = [table_of(e, part) for part in ("scenes", "streets")]
    return "\n\n".join(text for text in [*parts, table_of_cost(e)] if text)


def table_of(e: Evidence, part: str) -> str:
    tasks = TASKS if part == "scenes" else STREETS
    head = ["", "parameters", "Δm %"]
    head += [f"{t}, {PRIMARY[t][0]} {'↑' if PRIMARY[t][1] else '↓'}" for t in tasks]
    rows = []
    alone = {task: e.of(part, "taskexpert", task) for task in tasks}
    if all(alone.values()):
        size = sum(next(iter(cells.values()))["parameters"] for cells in alone.values())
        shown = [spread((e.value(r, t) for r in alone[t].values()), 3) for t in tasks]
        rows.append(["one network per task", f"{size / 1000:,.0f}k", "0", *shown])
    for way in NAMES:
        cells = e.of(part, way)
        if cells:
            size = next(iter(cells.values()))["parameters"]
            gains = e.gain(part, way)
            shown = [spread((e.value(r, t) for r in cells.values()), 3) for t in tasks]
            gain = spread(gains.values(), 1) if gains else ""
            rows.append([NAMES[way], f"{size / 1000:,.0f}k", gain, *shown])
    return lines_of(TITLES[part], head, rows) if rows else ""


def table_of_cost(e: Evidence) -> str:
    small, large = e.cell("cost"), e.cell("paper_scale")
    if not small or not large:
        return ""
    names = {
        "trunk": "the trunk alone",
        "but_one": "all tasks but one",
        "all": "all tasks",
        "one_walk": "gates, reads and writes of one task",
        "alone": "the same tasks, one network each",
    }
    rows = [
        [
            name,
            f"{small[key] / small['trunk']:.2f}",
            f"{large[key] / large['trunk']:.2f}" if key in large else "",
        ]
        for key, name in names.items()
    ]
    head = ["", "scenes, time of one picture", "ViT-L/16 at 512 x 512, multiply-adds"]
    about = f"the trunk = 1 ({small['trunk']:.1f} ms; {large['trunk']:.0f} billion)"
    return lines_of(f"Cost of a forward pass, {about}", head, rows)


def lines_of(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    shown = ["| " + " | ".join(row) + " |" for row in [head, *rows]]
    return "\n".join([f"**{title}**", "", shown[0], "|" + "---|" * len(head), *shown[1:]])


def picture(path: str) -> None:
    """Mean gate weights of each task at each tap, in both lights (first seed on record)."""
    from matplotlib.figure import Figure

    cells = Evidence(Record(NAME)).of("scenes", "taskexpert")
    found = cells[min(cells)]["gates"]["lights"]
    tasks = list(TASKS)
    taps, choices = np.shape(found["warm"][tasks[0]])
    figure = Figure(figsize=(9.5, 2.9), layout="constrained")
    panels = figure.subplots(1, 3)
    warm, cool = (np.array([found[light][t] for t in tasks]) for light in ("warm", "cool"))
    drawn = [("warm light", warm), ("cool light", cool), ("cool - warm", cool - warm)]
    slots = [*(str(i + 1) for i in range(choices - 1)), "m"]
    for axes, (title, values) in zip(panels, drawn, strict=True):
        last = title == "cool - warm"
        limits = {"cmap": "PuOr", "vmin": -0.3, "vmax": 0.3} if last else {"vmin": 0, "vmax": 0.7}
        image = axes.imshow(values.reshape(len(tasks), -1), aspect="auto", **limits)
        for tap in range(taps):
            axes.text((tap + 0.5) * choices - 0.5, -0.6, f"tap {tap + 1}", ha="center", fontsize=7)
            if tap:
                axes.axvline(tap * choices - 0.5, color="white", linewidth=2)
        axes.set_xticks(range(taps * choices), slots * taps, fontsize=6)
        axes.set_yticks(range(len(tasks)), tasks if axes is panels[0] else [""] * len(tasks))
        axes.set_title(title, fontsize=10, pad=16)
        figure.colorbar(image, ax=axes, shrink=0.8)
    figure.supxlabel("weights of the experts (1 to 4) and of the task's memory (m)", fontsize=8)
    figure.savefig(path, dpi=130)


def examples(path: str, rows: int = 4) -> None:
    """Test scenes with labels and what a model fitted for this picture answers."""
    from matplotlib.figure import Figure

    suite, hue = scenes(0)
    learner = learners("scenes")["taskexpert"]
    training = replace(learner.training, lr=rate("taskexpert"))
    learner = replace(learner, training=training).fit(suite)
    chosen = [*np.flatnonzero(hue == "warm")[: rows // 2], *np.flatnonzero(hue == "cool")]
    chosen = chosen[:rows]
    test = suite.table("test").take(chosen)
    answers = learner.predict(test.select(["image"]))
    batch = learner.processor_.encode(suite, "test")[torch.tensor(chosen)]
    figure = Figure(figsize=(9, 1.05 * rows), layout="constrained")
    panels = figure.subplots(rows, 1 + 2 * len(TASKS))
    for i, line in enumerate(panels):
        maps = [batch.inputs["image"][i].permute(1, 2, 0).numpy()]
        for task in TASKS:
            maps += [batch.targets[task][i].numpy(), answers[task][i]]
        names = ["picture", *(f"{t}\n{end}" for t in TASKS for end in ("label", "answer"))]
        for axes, name, values in zip(line, names, maps, strict=True):
            limits = {"vmin": 0.6, "vmax": 2.6} if name.startswith("depth") else {}
            if name.startswith("segm"):
                limits = {"vmin": 0, "vmax": 4, "cmap": "tab10"}
            if name.startswith("normals"):
                values = (values.transpose(1, 2, 0) + 1) / 2
            axes.imshow(values.clip(0, None), **limits)
            axes.set_axis_off()
            if i == 0:
                axes.set_title(name, fontsize=7)
    figure.savefig(path, dpi=130)


if __name__ == "__main__":
    run(sys.argv[1:])
    for claim in claims():
        print("holds" if claim.holds else "FAILS", claim.claim, claim.measured, sep=" | ")
