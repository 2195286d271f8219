"""MultiTab against its rivals: the required experiment, MultiTab-Bench sweeps, real tables.

Everything is measured on a CPU with one thread. Rows are read as follows:

- ``score`` is the mean over tasks of the primary metric (explained variance or AUROC) on test rows.
- ``gain`` is Delta_m against the single-task MLP of the same table, budget and seed.
- Every neural method has the same budget; its learning rate is the better of ``RATES`` on the
  validation rows of seed 0; the epoch is the best on validation. Test rows choose nothing.
- A seed changes the initial weights and the order of the batches; in MultiTab-Bench also the law
  and every draw from it.

The real tables need POLYTASK_DATA, but for the packaged flights; without it they are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from statistics import fmean
from typing import Any

import numpy as np
import torch
from harness import Record, spread, write_claims
from tables import TABLES, MissingDataError
from torch import nn

from polytask.baselines.boosting import LightGBM, XGBoostMultiOutput
from polytask.baselines.experts import PLE, STEM, MMoE
from polytask.baselines.ft_transformer import FTTransformer
from polytask.baselines.mlp import SharedMLP
from polytask.comparing.claims import Claim
from polytask.comparing.report import gain, interval
from polytask.data import ColumnSplit, Processor, Suite, TimeSplit
from polytask.data.generators import MultiTabBench
from polytask.data.packaged import Source, flights
from polytask.parts.mlp import init_normal
from polytask.systems.multitab import MultiTab
from polytask.training import MultiTaskModule, Training

SEEDS = (0, 1, 2)
RATES = (1e-3, 3e-3)
COMMAND = "polytask claims multitab"


@dataclass(frozen=True)
class Method:
    """A row of a table: what is fitted, and whether once for all tasks or once for each."""

    make: Callable[[Training], Any]
    alone: bool = False
    tuned: bool = True  # has a learning rate of RATES; boosters have their own and stop early


class ReferenceMLP(SharedMLP):
    """The MLP of the paper's code: batch norm after every hidden layer, weights of N(0, 0.01^2)."""

    def build(self, spec: Processor) -> MultiTaskModule:
        module = super().build(spec)
        for part in (module.trunk, *module.heads.values()):
            for i, layer in reversed(list(enumerate(part))):
                if isinstance(layer, nn.ReLU):
                    part.insert(i, nn.BatchNorm1d(part[i - 1].out_features))
        init_normal(module, 0.01)
        return module


def multitab(**fields: Any) -> Callable[[Training], MultiTab]:
    # Dropout 0: the published configs of the synthetic data and of Higgs.
    options = {"ff": 128, "dropout": 0.0, "attention_dropout": 0.0, **fields}
    return lambda training: MultiTab(**options, training=training)


def neural(kind: Callable[..., Any], **fields: Any) -> Callable[[Training], Any]:
    return lambda training: kind(**fields, training=training)


METHODS: dict[str, Method] = {
    "MultiTab T↛T": Method(multitab()),
    "MultiTab no mask": Method(multitab(mask="none")),
    "MultiTab F↛T": Method(multitab(mask="FxT")),
    "MultiTab both masks": Method(multitab(mask="both")),
    "MultiTab one token": Method(multitab(mask="none", task_tokens=False)),
    "MultiTab T↛T, rows mixed": Method(multitab(inter_sample="true")),
    "MultiTab T↛T, rows mixed, PyTorch's init": Method(
        multitab(inter_sample="true", init_std=None)
    ),
    "MultiTab T↛T, no inter-sample": Method(multitab(inter_sample="off")),
    "MultiTab T↛T, no inter-sample, PyTorch's init": Method(
        multitab(inter_sample="off", init_std=None)
    ),
    "MultiTab, one task each": Method(multitab(), alone=True),
    "MLP, one task each": Method(neural(SharedMLP), alone=True),
    "shared MLP": Method(neural(SharedMLP)),
    "reference's MLP, one task each": Method(neural(ReferenceMLP), alone=True),
    "reference's shared MLP": Method(neural(ReferenceMLP)),
    "MMoE": Method(neural(MMoE)),
    "PLE": Method(neural(PLE)),
    "STEM": Method(neural(STEM)),
    "FT-Transformer, one task each": Method(neural(FTTransformer, width=16), alone=True),
    "LightGBM, one task each": Method(lambda t: LightGBM(seed=t.seed), tuned=False),
    "XGBoost, vector leaves": Method(
        lambda t: XGBoostMultiOutput(lr=0.1, rounds=500, patience=20, seed=t.seed), tuned=False
    ),
}
BASE = "MLP, one task each"
OURS = "MultiTab T↛T"
REQUIRED = [m for m in METHODS if "MultiTab" in m or "MLP" in m]
SWEEP = [OURS, BASE, "shared MLP", "MMoE", "PLE", "STEM", "LightGBM, one task each"]
ON_TABLES = [
    *SWEEP,
    "MultiTab no mask",
    "MultiTab T↛T, no inter-sample",
    "MultiTab, one task each",
    "reference's MLP, one task each",
    "reference's shared MLP",
]
# Fitted where they cost least: one attention network per task, and vector leaves.
COSTLY = ["FT-Transformer, one task each", "XGBoost, vector leaves"]


@dataclass(frozen=True)
class Law:
    """One point of the MultiTab-Bench sweeps."""

    tasks: int = 4
    correlation: float = 0.4
    degrees: tuple[int, ...] = (1, 2, 3, 2)

    def suite(self, seed: int, rows: tuple[int, int, int]) -> Suite:
        """Fresh rows for every split, from one law."""
        law = MultiTabBench(self.tasks, 16, self.correlation, self.degrees, noise=0.01, seed=seed)
        parts = [law.draw(count, split) for split, count in enumerate(rows)]
        x, y = (np.concatenate(columns) for columns in zip(*parts, strict=True))
        table = {f"x{i}": column for i, column in enumerate(x.T)}
        table |= {f"y{i}": column for i, column in enumerate(y.T)}
        table["split"] = np.repeat(["train", "validation", "test"], rows)
        targets = dict.fromkeys([f"y{i}" for i in range(self.tasks)], "regression")
        return Suite.from_table(table, targets, split=ColumnSplit("split"), name="MultiTab-Bench")


SHEET = Law(6, 0.4, (1, 2, 3, 2, 1, 3))
CENTER = "4 tasks"
LAWS = {
    CENTER: Law(),
    "2 tasks": Law(2, degrees=(1, 3)),
    "8 tasks": Law(8, degrees=(1, 2, 3, 2, 1, 2, 3, 2)),
    "correlation 0": Law(correlation=0.0),
    "correlation 0.8": Law(correlation=0.8),
    "equal degrees": Law(degrees=(2, 2, 2, 2)),
}


def thinned(source: Source, rows: int) -> Source:
    """Every k-th row, so that a table fits the budget; said in its notes."""
    total = source.table.num_rows
    table = source.table.take(np.arange(rows) * total // rows)
    return replace(source, table=table, notes=(*source.notes, f"{rows:,} of {total:,} rows"))


REAL: dict[str, Callable[[], Source]] = {
    "flights": lambda: flights(rows=10_000),
    "adult": lambda: thinned(TABLES["adult"](), 10_000),
    "abalone": TABLES["abalone"],
    "tox21": TABLES["tox21"],
}
BUDGETS = {
    "required": Training(batch=256, epochs=12, patience=12, device="cpu"),
    "sweep": Training(batch=128, epochs=20, patience=5, device="cpu"),
    "table": Training(weight_decay=1e-5, batch=256, epochs=40, patience=4, device="cpu"),
}


@lru_cache(maxsize=1)
def suite(part: str, where: str, seed: int) -> Suite:
    """The rows of one cell; MissingDataError where a real table is not on this machine."""
    if part == "required":
        return SHEET.suite(seed, (12_000, 4_000, 4_000))
    if part == "sweep":
        return LAWS[where].suite(seed, (4_000, 2_000, 4_000))
    source = REAL[where]()
    return Suite.from_table(
        source.table,
        source.targets,
        name=source.name,
        split=TimeSplit(source.time) if source.time else ColumnSplit(source.split or "split"),
        exclude=source.exclude,
        notes=source.notes,
        about=source.about,
    )


def measure(method: Method, data: Suite, training: Training) -> dict[str, Any]:
    """Fit, then score: primary metric per task on validation and test rows."""
    result: dict[str, Any] = {"validation": {}, "test": {}, "parameters": 0, "epochs": []}
    for part in [data.only(t) for t in data.task_names] if method.alone else [data]:
        learner = method.make(training).fit(part)
        for split in ("validation", "test"):
            for task, scores in learner.score(part, split).items():
                primary = learner.processor_.task(task).kind.primary
                assert primary.higher_is_better
                result[split][task] = scores[primary.name]
        result["parameters"] += learner.parameters_
        result["epochs"].append(len(learner.history_))
    return result


def cell(record: Record, part: str, where: str, method: str, rate: float, seed: int) -> Any:
    """One fit with one learning rate and seed."""
    return record.cell(
        {"part": part, "where": where, "method": method, "lr": rate, "seed": seed},
        lambda: measure(
            METHODS[method],
            suite(part, where, 0 if part == "table" else seed),
            replace(BUDGETS[part], lr=rate, seed=seed),
        ),
    )


def chosen(record: Record, part: str, where: str, method: str) -> float:
    """The better of RATES on the validation rows of seed 0; the centre speaks for all sweeps."""
    if part == "required" or not METHODS[method].tuned:
        return RATES[0]
    where = CENTER if part == "sweep" else where

    def validation(rate: float) -> float:
        return fmean(cell(record, part, where, method, rate, 0)["validation"].values())

    return max(RATES, key=validation)


def plan(part: str, where: str) -> list[str]:
    """The methods of one table of results."""
    if part == "required":
        return REQUIRED
    names = SWEEP if part == "sweep" else ON_TABLES
    if where in (CENTER, "abalone"):
        names = names + COSTLY
    if where == "tox21":  # twelve tasks
        names = [n for n in names if n != "MultiTab, one task each"]
    return names


def places() -> list[tuple[str, str]]:
    """All tables of results, in the order in which they are measured."""
    return [
        ("required", "sheet"),
        *(("table", name) for name in REAL),
        *(("sweep", law) for law in LAWS),
    ]


def run() -> None:
    """Measure what the record lacks, then judge and write the claims."""
    torch.set_num_threads(1)
    record = Record("multitab")
    for part, where in places():
        try:
            for seed in SEEDS:
                for method in plan(part, where):
                    cell(record, part, where, method, chosen(record, part, where, method), seed)
        except MissingDataError as error:
            print(f"multitab: {where} is left out: {error}", flush=True)
    write_claims("multitab", claims())


def claims() -> list[Claim]:
    return []


if __name__ == "__main__":
    run()
