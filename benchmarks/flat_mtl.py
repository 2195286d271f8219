"""F-MTL: the flat step around every aggregator, against the same aggregator without it.

Overlaid digits with wrong labels are the main experiment; overlaid clothes (MultiFashion, small)
and two real tables show where it carries over. Everything is paired by seed: data, noise, initial
weights and batch order are equal in every row of a seed.

    PYTHONPATH=src python benchmarks/flat_mtl.py     # measures what the record lacks, then judges

Real sets: POLYTASK_DATA names the folder of the tables, POLYTASK_FASHION that of the four IDX files
of Fashion-MNIST (Debian: dataset-fashion-mnist). A set that is not there is left out, and said so.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch
from harness import Record
from tables import TABLES, MissingDataError

from polytask.baselines.boosting import LightGBM
from polytask.data import Batch, ColumnSplit, JointRows, Processor, Suite
from polytask.data.overlays import overlaid_digits, overlaid_fashion
from polytask.parts.probes import conflict_rate, sharpness
from polytask.systems.flat_mtl import FlatMTL
from polytask.training import (
    Balancer,
    Engine,
    MultiTaskModule,
    Problem,
    TaskFlat,
    Training,
    as_balancer,
    as_step,
)
from polytask.training.gradients import (
    StepInfo,
    add_grads,
    combine,
    frozen_statistics,
    jacobian,
    told,
)
from polytask.training.steps import Step, ascent, moved

COMMAND = "python benchmarks/flat_mtl.py"
SEEDS = (0, 1, 2, 3, 4)
FEW = SEEDS[:3]
WRAPPED = ("mgda", "pcgrad", "imtl_g")  # the three of the claim on sharpness and conflicts
SOLVED = ("cagrad", "upgrad", "dualproj", "fairgrad", "nash_mtl")  # a solver at each step: slow
AGGREGATORS = (*WRAPPED, "aligned_mtl", "config", "graddrop", "gradvac", *SOLVED)
FLAT, PAPER, DIRECT = "flat(rho=0.5)", "flat(rho=2.0)", "direct(rho=0.5)"
SAM = "sam(rho=0.5, adaptive=True)"
COSTED = {
    "digits": ["sum", *AGGREGATORS],
    "fashion": ["sum", "mgda", "pcgrad"],
    "tox21": ["sum", "mgda", "pcgrad"],
}
PROBED_EPOCHS, PROBED_ROWS = 5, 2000


@dataclass(frozen=True)
class Direct(TaskFlat):
    """The ablation of tables 5 and 6: one aggregation A(g_1^SAM..g_m^SAM) instead of two."""

    def __call__(self, problem: Problem, balancer: Balancer) -> StepInfo:
        shared, private, losses = jacobian(problem)
        raised = [torch.empty_like(block) for block in shared]
        for i, name in enumerate(problem.present):
            up = ascent(problem.shared, [b[i] for b in shared], self.rho, self.adaptive)
            own = ascent(problem.private, [b[i] for b in private], self.rho, self.adaptive)
            with (
                moved(problem.shared, up),
                moved(problem.private, own),
                frozen_statistics(problem.module),
            ):
                rows, heads, _ = jacobian(problem, only=name)
            for block, row in zip(raised, rows, strict=True):
                block[i] = row[0]
            add_grads(problem.private, [head[0] for head in heads])
        result = combine(raised, balancer, problem, losses)
        add_grads(problem.shared, result.direction)
        return told(problem, losses, result.weights, result.gramian)

    def __str__(self) -> str:
        return f"direct(rho={self.rho})"


def step_of(text: str) -> Step:
    return Direct(rho=0.5) if text == DIRECT else as_step(text)


# -- what is learned from ------------------------------------------------------------------------


@dataclass(frozen=True)
class Setting:
    """A source of suites by seed, and the budget that every row on it gets."""

    suite: Callable[[int], Suite]
    learner: FlatMTL


def learner(trunk: str, hidden: Sequence[int], batch: int, epochs: int) -> FlatMTL:
    """A fixed number of epochs: best weights are those of the best epoch, last those of the end."""
    budget = Training(lr=1e-3, batch=batch, epochs=epochs, patience=epochs, device="cpu")
    return FlatMTL(trunk=trunk, hidden=tuple(hidden), training=budget)  # type: ignore[arg-type]


def fashion(seed: int) -> Suite:
    folder = os.environ.get("POLYTASK_FASHION")
    if not folder:
        raise MissingDataError("Fashion-MNIST is not here: POLYTASK_FASHION names its folder")
    return overlaid_fashion(folder, rows=(2000, 1000, 5000), seed=seed)


def real_table(name: str, seed: int) -> Suite:
    source = TABLES[name]()
    assert source.split is not None
    return Suite.from_table(
        source.table,
        source.targets,
        name=source.name,
        split=ColumnSplit(source.split),
        exclude=source.exclude,
        notes=source.notes,
        about=source.about,
    )


SETTINGS = {
    "digits": Setting(
        lambda seed: overlaid_digits(noise=0.4, seed=seed),
        learner("mlp", (128, 64), batch=128, epochs=100),
    ),
    "digits, less noise": Setting(
        lambda seed: overlaid_digits(noise=0.2, seed=seed),
        learner("mlp", (128, 64), batch=128, epochs=40),
    ),
    "fashion": Setting(fashion, learner("conv", (), batch=128, epochs=25)),
    "adult": Setting(partial(real_table, "adult"), learner("mlp", (128, 64), 1024, epochs=15)),
    "tox21": Setting(partial(real_table, "tox21"), learner("mlp", (128, 64), 512, epochs=20)),
}


@lru_cache(maxsize=2)
def suite_of(data: str, seed: int) -> Suite:
    return SETTINGS[data].suite(seed)


# -- one fit -------------------------------------------------------------------------------------


@dataclass
class Watched(FlatMTL):
    """FlatMTL that also keeps its last weights and probes conflicts in the last epochs."""

    conflicts: list[float] = field(default_factory=list, init=False)
    last: dict[str, torch.Tensor] = field(default_factory=dict, init=False)

    def before_training(self, module: MultiTaskModule, data: Batch) -> None:
        self._module, self._data = module, data

    def watch(self, record: Mapping[str, Any]) -> None:
        left = self.training.epochs - 1 - record["epoch"]
        if left < PROBED_EPOCHS and len(self._module.tasks) > 1:
            draws = JointRows().draws(
                self._data, self.training.batch, self.training.seed, record["epoch"]
            )
            rates = conflict_rate(self._module, (self._data[draw.rows] for draw in draws))
            self.conflicts.append(float(rates.nanmean()))
        if left == 0:
            self.last = {k: v.clone() for k, v in self._module.state_dict().items()}


def fit(data: str, balancer: str, step: str, seed: int, only: str = "") -> dict[str, Any]:
    """Test scores of the best and of the last epoch, sharpness and conflicts."""
    setting, suite = SETTINGS[data], suite_of(data, seed)
    suite = suite.only(only) if only else suite
    made = Watched(**{**vars(setting.learner), "balancer": balancer, "step": step_of(step)})
    made = made.with_seed(seed)
    started = time.perf_counter()
    made.fit(suite, progress=made.watch)
    seconds = time.perf_counter() - started
    rows = made.processor_.encode(suite, "train")[:PROBED_ROWS]
    result: dict[str, Any] = {"seconds": seconds, "validation": made.state_.best_score}
    result["best"] = {"epoch": made.state_.best_epoch, **looked_at(made, suite, rows)}
    made.module_.load_state_dict(made.last)
    result["last"] = looked_at(made, suite, rows)
    if made.conflicts:
        result["conflict"] = float(np.mean(made.conflicts))
    return result


def looked_at(made: FlatMTL, suite: Suite, rows: Batch) -> dict[str, Any]:
    made.module_.eval()
    return {"test": made.score(suite), "sharpness": sharpness(made.module_, rows, rho=0.5)}


def support_vectors(data: str, seed: int) -> dict[str, Any]:
    """What one would pick for small pictures: an RBF machine per task, C chosen on validation."""
    from sklearn.svm import SVC

    suite = suite_of(data, seed)
    processor = Processor.fit(suite)
    parts = {split: processor.encode(suite, split) for split in ("train", "validation", "test")}
    x = {split: part.inputs["picture"].flatten(1).numpy() for split, part in parts.items()}
    scores = {}
    for task in suite.task_names:
        y = {split: part.targets[task].numpy() for split, part in parts.items()}
        machines = [SVC(C=c).fit(x["train"], y["train"]) for c in (0.3, 1.0, 3.0, 10.0)]
        best = max(machines, key=lambda made: made.score(x["validation"], y["validation"]))
        scores[task] = {"accuracy": float(best.score(x["test"], y["test"]))}
    return {"best": {"test": scores}}


def boosted(data: str, seed: int) -> dict[str, Any]:
    """What one would pick for a table: LightGBM per task."""
    suite = suite_of(data, seed)
    return {"best": {"test": LightGBM(seed=seed).fit(suite).score(suite)}}


RIVALS = {"svm": support_vectors, "lightgbm": boosted}


# -- cost ----------------------------------------------------------------------------------------


def cost(data: str, balancers: Sequence[str], rounds: int = 30) -> dict[str, float]:
    """Median seconds of one step (forward, backward, aggregation), all ways taking turns."""
    setting, suite = SETTINGS[data], suite_of(data, 0)
    made, processor = setting.learner, Processor.fit(suite)
    rows, engine = processor.encode(suite, "train"), Engine(device="cpu")
    torch.manual_seed(0)
    module = made.build(processor)
    draw = next(JointRows().draws(rows, made.training.batch, 0, 0))
    losses = torch.ones(len(module.terms))
    ways = [(b, s) for b in balancers for s in ("plain", FLAT)] + [("sum", SAM)]
    ready = {way: (as_step(way[1]), as_balancer(way[0])) for way in ways}
    for step, balancer in ready.values():
        balancer.prepare(len(module.terms))
        step.prepare(balancer)
    taken: dict[tuple[str, str], list[float]] = {way: [] for way in ways}
    for _ in range(rounds):
        for way, (step, balancer) in ready.items():
            started = time.perf_counter()
            step(engine.problem(module, rows, draw, losses), balancer)
            taken[way].append(time.perf_counter() - started)
            module.zero_grad()
    return {f"{b}|{s}": float(np.median(seconds)) for (b, s), seconds in taken.items()}


# -- the plan ------------------------------------------------------------------------------------


def ways(data: str) -> Iterator[tuple[str, str, tuple[int, ...]]]:
    """Balancer, step and seeds of every joint row on a set."""
    if data == "digits":
        for balancer in ("sum", *AGGREGATORS):
            for step in ("plain", FLAT):
                yield balancer, step, SEEDS if balancer in ("sum", *WRAPPED) else FEW
        yield "sum", SAM, SEEDS
        for balancer in WRAPPED:
            yield balancer, DIRECT, FEW
        for balancer in ("mgda", "pcgrad"):
            yield balancer, PAPER, FEW
        for balancer in ("mgda", "pcgrad", "upgrad", "cagrad"):
            yield f"features({balancer})", "plain", FEW
    elif data == "digits, less noise":
        yield "sum", "plain", FEW
        for balancer in WRAPPED:
            for step in ("plain", "flat(rho=1.0)"):
                yield balancer, step, FEW
    else:
        for step in ("plain", FLAT, SAM):
            yield "sum", step, FEW
        for step in ("plain", FLAT, PAPER):
            yield "pcgrad", step, FEW
        for step in ("plain", FLAT):
            yield "mgda", step, FEW


def cells(data: str) -> Iterator[tuple[dict[str, Any], Callable[[], dict[str, Any]]]]:
    """Settings and measurement of every cell on a set, seed by seed."""
    names = suite_of(data, 0).task_names
    rival = "lightgbm" if data in TABLES else "svm"
    for seed in sorted({seed for _, _, seeds in ways(data) for seed in seeds}):
        for balancer, step, seeds in ways(data):
            if seed in seeds:
                joint = {"data": data, "balancer": balancer, "step": step, "seed": seed}
                yield joint, partial(fit, **joint)
        for task in names:
            for step in ("plain", FLAT):
                alone = {"data": data, "balancer": "sum", "step": step, "seed": seed, "only": task}
                yield alone, partial(fit, **alone)
        yield (
            {"data": data, "rival": rival, "seed": seed},
            partial(RIVALS[rival], data, seed),
        )
    if data in COSTED:
        yield {"data": data, "cost": COSTED[data]}, partial(cost, data, COSTED[data])


def run() -> Record:
    """Measure every cell that the record lacks: solvers and the fourth and fifth seed last."""
    torch.set_num_threads(1)
    record, plan = Record("flat_mtl"), []
    for data in SETTINGS:
        try:
            plan += cells(data)
        except MissingDataError as problem:
            print(f"{data} is left out: {problem}", flush=True)
    for settings, measure in sorted(plan, key=lambda cell: urgency(cell[0])):
        record.cell(settings, measure)
    return record


def urgency(settings: Mapping[str, Any]) -> tuple[bool, bool]:
    slow = any(name in settings.get("balancer", "") for name in SOLVED)
    return settings.get("seed", 0) not in FEW, slow


if __name__ == "__main__":
    run()
