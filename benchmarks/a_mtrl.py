"""A-MTRL: what a plan of source labels is worth, at equal budgets.

The law of the paper drawn anew (known and estimated relevance, prices, few sources); the digits of
scikit-learn in eight corruptions, 80 one-vs-rest tasks; schools and multi-target tables. Beside
every plan stand equal shares of the same budget, the target alone and, on real data, everything.

    PYTHONPATH=src python benchmarks/a_mtrl.py       # measures what the record lacks, then judges

Tables: POLYTASK_DATA names their folder; a set that is not there is left out, and said so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch
from harness import Record
from tables import TABLES, MissingDataError, read

from polytask.data import Processor, RandomSplit, Suite
from polytask.data.corruptions import CORRUPTIONS, corrupted_suite
from polytask.data.overlays import digits
from polytask.parts.lowrank import low_rank
from polytask.parts.selection import allocate, held_out_penalty, keep_labels, relevance
from polytask.systems.a_mtrl import AMTRL
from polytask.training import Training

COMMAND = "python benchmarks/a_mtrl.py"
D, K, M, TARGET_LABELS = 20, 4, 40, 500  # the sheet's anchor setting; noise 1
BUDGET, FLOOR = 3000, 10
SEEDS = tuple(range(60))
CURVE_SEEDS, CURVE = SEEDS[:20], (1500, 3000, 6000, 12000)
REAL_SEEDS = (0, 1, 2)
RULES = ("uniform", "l2", "l1")

# -- the paper's law -----------------------------------------------------------------------------


@dataclass(frozen=True)
class World:
    """y = (Bᵀx)ᵀw + noise, a target made of four sources, and a long stream of labels of each."""

    B: np.ndarray
    W: np.ndarray
    w: np.ndarray
    x: np.ndarray
    noise: np.ndarray
    own_x: np.ndarray
    own_y: np.ndarray

    @classmethod
    def drawn(cls, seed: int, rows: int) -> World:
        rng = np.random.default_rng(seed)
        B = np.linalg.qr(rng.normal(size=(D, K)))[0]
        W = rng.normal(size=(K, M))
        W /= np.linalg.norm(W, axis=0)
        w = W[:, rng.choice(M, 4, replace=False)] @ rng.normal(size=4)
        w /= np.linalg.norm(w)
        own_x = rng.normal(size=(TARGET_LABELS, D))
        own_y = own_x @ B @ w + rng.normal(size=TARGET_LABELS)
        x = rng.normal(size=(M, rows, D))
        return cls(B, W, w, x, rng.normal(size=(M, rows)), own_x, own_y)

    def learned(
        self, counts: np.ndarray, first: int = 0, weights: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """(B, W) from so many labels of each source, from label ``first`` on."""
        xs = [self.x[t, first : first + n] for t, n in enumerate(counts)]
        ys = [
            x @ self.B @ self.W[:, t] + self.noise[t, first : first + len(x)]
            for t, x in enumerate(xs)
        ]
        return low_rank(xs, ys, K, weights=weights)

    def head(self, B: np.ndarray, rows: slice = slice(None)) -> np.ndarray:
        return np.linalg.lstsq(self.own_x[rows] @ B, self.own_y[rows], rcond=None)[0]

    def risk(self, counts: np.ndarray, **more: Any) -> float:
        """Excess risk of the target: E (x'(B w - B* w*))², x standard normal."""
        B, _ = self.learned(counts, **more)
        return float(np.square(B @ self.head(B) - self.B @ self.w).sum())

    def estimated(self, explored: int) -> dict[str, np.ndarray]:
        """ν by rule from so many labels of each source, λ chosen on halves of the target's."""
        B, W = self.learned(np.full(M, explored))
        half = TARGET_LABELS // 2
        penalty = held_out_penalty(W, self.head(B, slice(half)), self.head(B, slice(half, None)))
        w = self.head(B)
        return {"l2": relevance(W, w, "l2"), "l1": relevance(W, w, penalty=penalty)}


def known(seed: int) -> dict[str, Any]:
    """The anchor table: W and w are given, the representation is learned."""
    world = World.drawn(seed, rows=BUDGET)
    one, two = relevance(world.W, world.w, penalty=0), relevance(world.W, world.w, "l2")
    result = {}
    plans = {"uniform": (0 * one, 1), "(2,2)": (two, 2), "(2,1)": (two, 1), "(1,1)": (one, 1)}
    for name, (nu, power) in plans.items():
        counts = allocate(nu, BUDGET, power, FLOOR)
        result[name] = {"risk": world.risk(counts), "sources": int((counts > FLOOR).sum())}
        if name in ("(2,2)", "(1,1)"):
            each_task_the_same = world.risk(counts, weights=1 / counts)
            result[name + ", weights 1/n"] = {"risk": each_task_the_same}
    return result


def unknown(seed: int, explored: int, budget: int) -> dict[str, Any]:
    """Explore, estimate, spend the rest: the same budget for every rule."""
    world = World.drawn(seed, rows=budget)
    result = {"uniform": {"risk": world.risk(np.full(M, budget // M)), "sources": M}}
    for rule, nu in world.estimated(explored).items():
        power = 2 if rule == "l2" else 1
        counts = allocate(nu, budget, power, explored)
        result[rule] = {"risk": world.risk(counts), "sources": int((counts > explored).sum())}
        rest = allocate(nu, budget - M * explored, power)
        if (rest > 0).sum() >= K:
            result[rule + ", exploration thrown away"] = {"risk": world.risk(rest, first=explored)}
    return result


def few_sources(seed: int, explored: int = 100, budget: int = 7000) -> dict[str, Any]:
    """k-task selection: only so many sources may be bought from beyond exploration."""
    world = World.drawn(seed, rows=budget)
    B, W = world.learned(np.full(M, explored))
    w = world.head(B)
    result = {}
    for allowed in (1, 2, 3, 4, 8):
        for rule, power in (("l2", 2), ("l1", 1)):
            nu = relevance(W, w, rule, max_sources=allowed)  # type: ignore[arg-type]
            top = np.where(nu != 0, np.inf, explored)
            counts = allocate(nu, budget, power, explored, available=top)
            result[f"{rule}, {allowed}"] = {"risk": world.risk(counts)}
    return result


def priced(seed: int) -> dict[str, Any]:
    """Labels of very different price: equal money, with and without an eye on prices."""
    world = World.drawn(seed, rows=5 * BUDGET)
    prices = np.exp(np.random.default_rng([seed, 1]).uniform(np.log(0.2), np.log(5), M))
    plain, mindful = (relevance(world.W, world.w, penalty=0, prices=p) for p in (None, prices))
    plans = {
        "uniform": np.sqrt(prices),
        "l1, prices ignored": np.sqrt(prices) * plain,  # n ∝ |ν| whatever a label costs
        "l1, spending minds prices": plain,
        "l1, prices in the norm too": mindful,
    }
    result = {}
    for name, nu in plans.items():
        counts = allocate(nu, BUDGET, floor=FLOOR, prices=prices)
        result[name] = {
            "risk": world.risk(counts),
            "sources": int((counts > FLOOR).sum()),
            "spent": float(prices @ counts),
        }
    return result


# -- real tasks ----------------------------------------------------------------------------------

DIGIT_BUDGETS = {"mlp": (4200,), "linear": (2100, 4200, 8400, 16800)}
DIGIT_TARGETS = tuple(f"{way}_{i}" for i, way in enumerate(list(CORRUPTIONS)[1:]))
BUDGETS = {"oes10": (300, 600, 1200, 2400), "school": (1000, 2000, 4000, 8000)}
EVERYTHING = 1e9


@lru_cache(maxsize=1)
def suite_of(data: str, seed: int) -> Suite:
    if data == "digits":
        return corrupted_suite(digits(), seed=seed)
    split = RandomSplit(seed, (0.7, 0.15, 0.15))
    if data == "school":
        frame = read("tab_school/data.parquet").drop(columns="split")
        return Suite.from_table(frame, ["exam_score"], name=data, by="task", split=split)
    source = TABLES[data]()
    return Suite.from_table(
        source.table.drop_columns(["split"]), source.targets, name=data, split=split
    )


LEARNERS = {
    "digits": AMTRL(floor=20, rank=16, training=Training(lr=5e-3, batch=64, epochs=25, patience=6)),
    "school": AMTRL(floor=5, rank=4),
    "oes10": AMTRL(floor=10, rank=4),
}
OWN_LABELS = {"digits": 50, "school": 15, "oes10": 30}


def real(
    data: str, seed: int, target: str, rule: str, budget: float, representation: str = "linear"
) -> dict[str, Any]:
    """Test scores of one target under one rule; ``rule`` "alone" has no sources."""
    suite = suite_of(data, seed)
    way = target.split("_")[0] + "_"
    apart = [
        n for n in suite.task_names if n != target and not (data == "digits" and n.startswith(way))
    ]
    asked = suite.only(target) if rule == "alone" else suite.only(target, *apart)
    asked = keep_labels(asked, {target: OWN_LABELS[data]}, seed)
    learner = replace(
        LEARNERS[data],
        target=target,
        rule="uniform" if rule == "alone" else rule,
        budget=float(budget),
        representation=representation,
        seed=seed,
    ).fit(asked)
    test = learner.processor_.encode(asked, "test")
    mask = test.masks[target].numpy()
    rows = asked.table("test").select(list(asked.inputs)).filter(mask)
    kind = learner.processor_.task(target).kind
    scores = kind.scores(
        test.targets[target].numpy()[mask], learner.predict(rows, [target])[target]
    )
    result: dict[str, Any] = {"scores": scores}
    if rule != "alone":
        plan = learner.plans_[target]
        result["labels"] = sum(plan.counts.values())
        result["sources"] = sum(s.relevance != 0 and s.labels > learner.floor for s in plan.shares)
        if rule != "uniform":
            result["residual"], result["predicted"] = plan.residual, plan.predicted / plan.equal
    return result


def pooled(data: str, seed: int, target: str, budget: int) -> dict[str, Any]:
    """One ridge regression for the target's labels and equal shares of all sources together."""
    from sklearn.linear_model import RidgeCV

    suite = keep_labels(suite_of(data, seed), {target: OWN_LABELS[data]}, seed)
    each = budget // (len(suite.tasks) - 1)
    pool = Processor.fit(suite).encode(suite, "train").counts
    equal = {t: min(each, pool[t]) for t in suite.task_names if t != target}
    bought = keep_labels(suite, equal, seed)
    processor = Processor.fit(bought)
    train, test = (processor.encode(bought, s) for s in ("train", "test"))

    def stacked(batch: Any, tasks: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        x, masks = batch.matrix(), [batch.masks[t].numpy() for t in tasks]
        y = [batch.targets[t].numpy()[m] for t, m in zip(tasks, masks, strict=True)]
        return np.concatenate([x[m] for m in masks]), np.concatenate(y)

    model = RidgeCV(np.geomspace(1e-2, 1e4, 13)).fit(*stacked(train, suite.task_names))
    x, y = stacked(test, [target])
    return {"scores": processor.task(target).kind.scores(y, model.predict(x)), "labels": budget}


def targets_of(data: str) -> tuple[str, ...]:
    if data == "digits":
        return DIGIT_TARGETS
    names = suite_of(data, 0).task_names
    if data == "school":
        # Schools large enough that their test rows say something; every tenth of these.
        train = Processor.fit(suite_of(data, 0)).encode(suite_of(data, 0), "train").counts
        return tuple(n for n in names if train[n] >= 80)[::6][:10]
    return names


Cell = tuple[dict[str, Any], Callable[[], dict[str, Any]]]


def drawn_cells() -> Iterator[Cell]:
    for seed in SEEDS:
        yield {"part": "known", "seed": seed}, partial(known, seed)
        yield {"part": "priced", "seed": seed}, partial(priced, seed)
        for explored, budget in ((30, BUDGET), (100, M * 100 + BUDGET)):
            settings = {"seed": seed, "explored": explored, "budget": budget}
            yield {"part": "unknown", **settings}, partial(unknown, **settings)
    for seed in CURVE_SEEDS:
        yield {"part": "few", "seed": seed}, partial(few_sources, seed)
        for budget in CURVE:
            settings = {"seed": seed, "explored": 30, "budget": budget}
            yield {"part": "curve", **settings}, partial(unknown, **settings)


def real_cells(data: str) -> Iterator[Cell]:
    suite = suite_of(data, 0)  # is it there?
    ways = DIGIT_BUDGETS if data == "digits" else {"linear": BUDGETS[data]}
    targets = targets_of(data)
    for seed in REAL_SEEDS:
        for representation, wanted in ways.items():
            for target in targets:
                common = {"data": data, "seed": seed, "target": target}
                more = {**common, "representation": representation}
                for rule, budget in [
                    ("alone", 1),
                    *((rule, b) for b in wanted for rule in RULES),
                    *([("uniform", EVERYTHING)] if representation == "linear" else []),
                ]:
                    settings = {**more, "rule": rule, "budget": budget}
                    yield settings, partial(real, **settings)
                if data == "school":
                    for budget in wanted:
                        settings = {**common, "budget": budget}
                        yield {**settings, "rule": "pooled"}, partial(pooled, **settings)
    del suite


def run() -> Record:
    """Measure every cell that the record lacks, and say what is left out."""
    torch.set_num_threads(1)
    record = Record("a_mtrl")
    for cells in (drawn_cells, *(partial(real_cells, d) for d in (*BUDGETS, "digits"))):
        try:
            for settings, measure in cells():
                record.cell(settings, measure)
        except MissingDataError as problem:
            print(f"left out: {problem}", flush=True)
    return record


if __name__ == "__main__":
    run()
