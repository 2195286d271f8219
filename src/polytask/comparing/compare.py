"""Compare: the same tasks learned apart and together, by the same learner with the same budget.

Beside every shared model stand the same learner fitted task by task (``suite.only(task)``), equal
weights, and what a user would pick instead. Everything is chosen on validation; the test part is
looked at once per finished run and never decides anything.
"""

from __future__ import annotations

import itertools
import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Literal, Self

from polytask.catalogue import load_system
from polytask.comparing.report import Report, gain, interval, undefined_gain
from polytask.comparing.runs import Run, cached, check, execute
from polytask.data import Suite
from polytask.errors import InputError
from polytask.tasks import Task
from polytask.version import __version__

Progress = Callable[[int, int, str], None]

_MAX_PAIRED_TASKS = 12  # 66 pairs; the number of fits grows with the square
_MAX_PROBED_TASKS = 40  # each probe takes a backward pass per task


@dataclass(frozen=True)
class Method:
    """One row of the comparison: a learner, its settings, and which tasks share a model.

    Attributes:
        sharing: "joint": one model for all tasks; "single": the same learner task by task;
            "separate": a learner that never shares, task by task.
    """

    learner: str
    sharing: Literal["single", "joint", "separate"]
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        shared = {None: "one shared model", "sum": "equal weights"}
        how = "one model per task"
        if self.sharing == "joint":
            how = shared.get(self.balancer) or str(self.balancer)
        step = self.settings.get("step", "plain")
        return f"{self.learner} · {how}" + (f" · {step}" if step != "plain" else "")

    @property
    def balancer(self) -> str | None:
        """How task losses are weighed; None where nothing is shared, or not by gradients."""
        return self.settings.get("balancer") if self.sharing == "joint" else None

    def groups(self, tasks: tuple[str, ...]) -> list[tuple[str, ...]]:
        """Which tasks each fit holds."""
        return [tasks] if self.sharing == "joint" else [(t,) for t in tasks]


@dataclass(frozen=True)
class Plan:
    """What is compared with what, and with what budget.

    Attributes:
        learners: learners that share; each is fitted task by task and jointly, the neural ones
            with equal weights. The first one's task-by-task row is the reference.
        balancers: beside equal weights, with the first learner if it is neural.
        steps: beside plain ones, with the first learner, for equal weights and every balancer.
        rivals: learners fitted task by task only (what a user would pick instead).
        seeds: at least 3 for an interval that means something.
        settings: dotted overrides given to every neural learner alike, over ``budget(suite)``.
        tuning: dotted setting -> values; every method chooses its own on validation (first seed).
        transfer: fit every pair of tasks with the first learner; None: if they are not too many.
    """

    learners: tuple[str, ...] = ("mlp", "ple")
    balancers: tuple[str, ...] = ("upgrad", "uw")
    steps: tuple[str, ...] = ()
    rivals: tuple[str, ...] = ("lightgbm",)
    seeds: tuple[int, ...] = (0, 1, 2)
    settings: Mapping[str, Any] = field(default_factory=dict)
    tuning: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    transfer: bool | None = None

    @classmethod
    def suited(cls, suite: Suite, **given: Any) -> Self:
        """The plan for a suite's inputs; what is given stands."""
        if suite.pictures:
            given = {"learners": ("weedsense",), "rivals": ("segformer",), **given}
            given = {"balancers": ("uw",), **given}
        if suite.texts:
            given = {"learners": ("text_encoder",), "rivals": ("linear_probe",), **given}
            given = {"balancers": ("uw",), **given}
        return cls(**given)

    def methods(self) -> list[Method]:
        """All rows, the reference first."""
        rows = []
        plain = {**self.settings, "balancer": "sum", "step": "plain"}
        for i, learner in enumerate(dict.fromkeys(self.learners)):
            if not is_neural(learner):
                rows += [Method(learner, "single"), Method(learner, "joint")]
                continue
            rows.append(Method(learner, "single", plain))
            steps = dict.fromkeys(("plain", *self.steps))
            balancers = dict.fromkeys(("sum", *self.balancers))
            ways = itertools.product(steps, balancers)
            for step, balancer in ways if i == 0 else [("plain", "sum")]:
                rows.append(Method(learner, "joint", {**plain, "balancer": balancer, "step": step}))
        return rows + [Method(rival, "separate") for rival in dict.fromkeys(self.rivals)]


def budget(suite: Suite) -> dict[str, Any]:
    """Training settings that fit the number of rows; the same for every neural learner."""
    rows = len(suite.splits["train"])
    if suite.pictures:
        return {"training.batch": 8, "training.epochs": 30, "training.patience": 6}
    if suite.texts:
        return {"training.batch": 32, "training.epochs": 3, "training.patience": 2}
    batch = 2 ** round(math.log2(min(2048, max(32, rows / 60))))
    return {"training.batch": batch, "training.epochs": 30, "training.patience": 4}


def compare(
    source: Any,
    targets: Sequence[str] | Mapping[str, Any] | None = None,
    *,
    plan: Plan | None = None,
    jobs: int | None = None,
    progress: Progress = lambda done, total, label: None,
    **table: Any,
) -> Report:
    """Should these tasks share one model, and which way of sharing wins?

    Args:
        source: a ``Suite``, or a table as ``Suite.from_table`` takes it with ``targets``.
        plan: what is compared; ``Plan.suited(suite)`` unless given.
        jobs: fits at a time. None leaves it to joblib, so that the same call runs inside
            ``joblib.parallel_config(backend="dask")`` or ``"ray"`` on a cluster; -1 is all cores.
        progress: called with (fits done, fits in all, what is running).
        table: further arguments of ``Suite.from_table`` (``split=...``, ``exclude=...``).
    """
    started = time.perf_counter()
    suite = source if isinstance(source, Suite) else _suite(source, targets, table)
    suite.validate()
    plan = plan or Plan.suited(suite)
    plan = replace(plan, settings={**budget(suite), **plan.settings})
    methods = plan.methods()
    _check(plan, methods, suite)
    board = _Board(suite, plan, jobs, progress)
    chosen = _tune(board, methods)
    board.need([r for m in methods for r in _runs(m, chosen, suite, plan)])
    pairs = _pairs(suite, plan)
    probe = _probe(suite, methods[0], plan)
    first = methods[0]
    pair_settings = chosen[first.name, suite.task_names[:1]]
    pair_runs = [
        Run(first.learner, pair_settings, pair, seed) for pair in pairs for seed in plan.seeds
    ]
    board.need(pair_runs + ([probe] if probe else []))
    board.run()
    return Report(_report(board, methods, chosen, pairs, probe, time.perf_counter() - started))


def _check(plan: Plan, methods: Sequence[Method], suite: Suite) -> None:
    """Refuse, before anything is fitted, what some fit would refuse later."""
    if not plan.learners or not plan.seeds:
        raise InputError("a comparison needs at least one learner and one seed")
    if len(set(plan.seeds)) < len(plan.seeds):
        raise InputError(f"seeds {', '.join(map(str, plan.seeds))}: a seed may occur only once")
    if len(suite.tasks) < 2:
        raise InputError("a comparison needs at least two target columns: sharing needs company")
    for learner in plan.learners:
        if not getattr(load_system(learner), "shares", False):
            raise InputError(f"{learner} does not share a model; name it among the rivals")
    for method in methods:
        for group in method.groups(suite.task_names):
            for point in _grid(plan) if is_neural(method.learner) else [{}]:
                if reason := check(Run(method.learner, {**method.settings, **point}, group), suite):
                    raise InputError(f"method {method.name!r}: {reason}")


def _suite(source: Any, targets: Any, table: dict[str, Any]) -> Suite:
    if targets is None:
        raise InputError("name the target columns: targets=['price', 'sold']")
    return Suite.from_table(source, targets, **table)


class _Board:
    """Runs wanted and runs done."""

    def __init__(self, suite: Suite, plan: Plan, jobs: int | None, progress: Progress) -> None:
        self.suite, self.plan, self.jobs, self.progress = suite, plan, jobs, progress
        self.wanted: dict[str, Run] = {}
        self.results: dict[str, dict[str, Any]] = {}

    def need(self, runs: Sequence[Run]) -> None:
        for run in runs:
            self.wanted.setdefault(run.key(self.suite), run)

    def __getitem__(self, run: Run) -> dict[str, Any]:
        return self.results[run.key(self.suite)]

    def run(self) -> None:
        """Fit what is wanted and not on disk, as many at a time as joblib is told to."""
        from joblib import Parallel, delayed

        total = len(self.wanted)
        missing = {}
        for key, run in self.wanted.items():
            found = self.results.get(key) or cached(run, self.suite)
            if found is None:
                missing[key] = run
            else:
                self.results[key] = found
        self.progress(len(self.results), total, "found on disk")
        if not missing:
            return
        try:
            parallel = Parallel(n_jobs=self.jobs, return_as="generator_unordered")
        except ValueError:  # joblib's pools, Ray's among them, hand over all results at the end
            parallel = Parallel(n_jobs=self.jobs)
        threads = 1 if parallel.n_jobs not in (1, None) else None
        # Long fits first, so that the last ones to end are short.
        order = sorted(missing.items(), key=lambda item: -len(item[1].tasks))
        work = (delayed(_one)(key, run, self.suite, threads) for key, run in order)
        for key, result in parallel(work):
            self.results[key] = result
            self.progress(len(self.results), total, _label(missing[key]))


def _one(key: str, run: Run, suite: Suite, threads: int | None) -> tuple[str, dict[str, Any]]:
    return key, execute(run, suite, threads)


def _label(run: Run) -> str:
    tasks = run.tasks[0] if len(run.tasks) == 1 else f"{len(run.tasks)} tasks"
    return f"{run.learner} on {tasks}, seed {run.seed}"


_Chosen = dict[tuple[str, tuple[str, ...]], dict[str, Any]]


def _tune(board: _Board, methods: list[Method]) -> _Chosen:
    """Settings of every method and group of tasks, chosen on validation with the first seed."""
    grid = _grid(board.plan)
    chosen: _Chosen = {}
    trials: dict[tuple[str, tuple[str, ...]], list[Run]] = {}
    for method in methods:
        tuned = is_neural(method.learner)
        for group in method.groups(board.suite.task_names):
            options = [{**method.settings, **point} for point in grid] if tuned else []
            runs = [Run(method.learner, o, group, board.plan.seeds[0]) for o in options]
            trials[method.name, group] = runs
            chosen[method.name, group] = dict(method.settings)
            if len(runs) > 1:
                board.need(runs)
    if board.wanted:
        board.run()
    for place, runs in trials.items():
        if runs:
            best = runs[0]
            if len(runs) > 1:
                best = max(runs, key=lambda run: _validation(board, run))
            chosen[place] = dict(best.settings)
    return chosen


def _grid(plan: Plan) -> list[dict[str, Any]]:
    """Every combination of the values to choose from; one empty one without tuning."""
    return [
        dict(zip(plan.tuning, values, strict=True))
        for values in itertools.product(*plan.tuning.values())
    ]


def _validation(board: _Board, run: Run) -> float:
    """Mean over tasks of what their kinds call quality, on validation."""
    kinds = {task.name: task.kind for task in board.suite.tasks}
    scores = board[run]["validation"]
    return statistics.fmean(kinds[task].quality(found) for task, found in scores.items())


def _directions(suite: Suite) -> dict[str, tuple[str, bool]]:
    return {t.name: (t.kind.primary.name, t.kind.primary.higher_is_better) for t in suite.tasks}


def _runs(method: Method, chosen: _Chosen, suite: Suite, plan: Plan) -> list[Run]:
    return [
        Run(method.learner, chosen[method.name, group], group, seed)
        for seed in plan.seeds
        for group in method.groups(suite.task_names)
    ]


def _pairs(suite: Suite, plan: Plan) -> list[tuple[str, ...]]:
    names = suite.task_names
    many = len(names) > _MAX_PAIRED_TASKS and plan.transfer is None
    if plan.transfer is False or many or len(names) == 2:  # of two, the joint model is the pair
        return []
    return list(itertools.combinations(names, 2))


def _probe(suite: Suite, first: Method, plan: Plan) -> Run | None:
    """One more equal-weight fit that measures all task gradients now and then; it is not timed."""
    if not is_neural(first.learner) or len(suite.tasks) > _MAX_PROBED_TASKS:
        return None
    settings = {**first.settings, "training.probe": 10}
    return Run(first.learner, settings, suite.task_names, plan.seeds[0])


# -- the report ----------------------------------------------------------------------------------


def _report(
    board: _Board,
    methods: list[Method],
    chosen: _Chosen,
    pairs: list[tuple[str, ...]],
    probe: Run | None,
    seconds: float,
) -> dict[str, Any]:
    suite, plan = board.suite, board.plan
    about = suite.describe()
    about["metrics"] = {t["name"]: t["metrics"] for t in about["tasks"]}
    judged, notes = _judged(board, methods[0], chosen)
    about["notes"] += notes
    for task in about["tasks"]:
        task["metric"], task["higher_is_better"] = judged[task["name"]]
    rows = [_row(board, m, chosen, judged) for m in methods]
    reference = rows[0]
    reference["reference"] = True
    singles = {m.learner: r for m, r in zip(methods, rows, strict=True) if m.sharing == "single"}
    for row in rows:
        row["gain"] = _gains(row, reference, judged, plan)
        own = singles.get(row["learner"])
        joint = row["sharing"] == "joint"
        row["vs_own_single"] = _gains(row, own, judged, plan) if joint and own else None
    return {
        "format": 1,
        "polytask": __version__,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "suite": about,
        "settings": _settings(plan, seconds),
        "verdict": _verdict(rows, reference, plan),
        "methods": rows,
        "transfer": _transfer(board, methods[0], chosen, pairs, rows, judged),
        "conflict": _conflict(board, probe),
    }


_Judged = dict[str, tuple[str, bool]]  # task -> metric, whether higher is better


def _judged(board: _Board, reference: Method, chosen: _Chosen) -> tuple[_Judged, list[str]]:
    """The metric that gains are measured on, by task, and notes where it is not the primary one.

    A relative gain over a score near 0 means nothing. Where the reference scores so on one task,
    all tasks of that kind are judged by their kind's next metric: explained variance gives way to
    RMSE, which is 0 for perfect answers only. What the other methods score plays no part.
    """
    judged, notes = _directions(board.suite), []
    by_kind: dict[str, list[Task]] = {}
    for task in board.suite.tasks:
        by_kind.setdefault(task.kind.name, []).append(task)
    for kind, tasks in by_kind.items():
        options = [judged[tasks[0].name]]
        options += [
            (m.name, m.higher_is_better) for m in tasks[0].kind.metrics if m.name not in options[0]
        ]
        reasons = [_undefined(board, reference, chosen, tasks, *option) for option in options]
        if reasons[0] is None:
            continue
        if None not in reasons:
            notes.append(reasons[0])
            continue
        metric, higher = options[reasons.index(None)]
        judged |= {task.name: (metric, higher) for task in tasks}
        notes.append(
            f"Judged by {metric}: all tasks of kind {kind}. On {options[0][0]}: {reasons[0]}"
        )
    return judged, notes


def _undefined(
    board: _Board, reference: Method, chosen: _Chosen, tasks: list[Task], metric: str, higher: bool
) -> str | None:
    """Why no gain over the reference is defined on a metric of these tasks (None: it is)."""
    groups = reference.groups(board.suite.task_names)
    for seed, task, split in itertools.product(board.plan.seeds, tasks, ("validation", "test")):
        group = next(g for g in groups if task.name in g)
        run = Run(reference.learner, chosen[reference.name, group], group, seed)
        score = board[run][split][task.name][metric]
        if reason := undefined_gain({task.name: score}, {task.name: higher}):
            return f"{reason} (seed {seed}, {split})"
    return None


def _row(board: _Board, method: Method, chosen: _Chosen, judged: _Judged) -> dict[str, Any]:
    suite, plan = board.suite, board.plan
    groups = method.groups(suite.task_names)
    by_seed = []
    for seed in plan.seeds:
        runs = [Run(method.learner, chosen[method.name, g], g, seed) for g in groups]
        by_seed.append([board[r] for r in runs])
    scores: dict[str, Any] = {}
    for task in suite.tasks:
        scores[task.name] = {}
        for metric in task.kind.metrics:
            per_split = {}
            for split in ("validation", "test"):
                values = [
                    next(r[split][task.name][metric.name] for r in found if task.name in r[split])
                    for found in by_seed
                ]
                per_split[split] = {
                    "mean": statistics.fmean(values),
                    "std": statistics.stdev(values) if len(values) > 1 else None,
                    "seeds": values,
                }
            scores[task.name][metric.name] = per_split
    # A row of one group is answered by the model of that group; any other by all models.
    by_group = len(groups) > 1 and all(task.where for task in suite.tasks)
    alone = len({task.where for task in suite.tasks}) if by_group else 1
    return {
        "name": method.name,
        "learner": method.learner,
        "sharing": method.sharing,
        "balancer": method.balancer,
        "reference": False,
        "scores": scores,
        "cost": {
            "models": len(groups),
            "parameters": _total(by_seed[:1], "parameters"),
            "train_seconds": _total(by_seed, "train_seconds"),
            "latency_ms_per_1000_rows": _total(by_seed, "latency_ms_per_1000_rows") / alone,
            "memory_mb": max(r["memory_mb"] for found in by_seed for r in found),
            "fits": len(groups) * len(plan.seeds),
        },
        "settings": _shown_settings(method, chosen, groups),
        "curves": _curves(judged, by_seed),
    }


def _total(by_seed: list[list[dict[str, Any]]], name: str) -> float:
    """Sum over a method's models, mean over seeds."""
    return statistics.fmean(sum(r[name] for r in found) for found in by_seed)


def _shown_settings(
    method: Method, chosen: _Chosen, groups: list[tuple[str, ...]]
) -> dict[str, Any]:
    """Settings all groups agree on, and per task those they do not."""
    found = [chosen[method.name, g] for g in groups]
    shown: dict[str, Any] = {}
    for key in found[0] if found else {}:
        values = [f[key] for f in found]
        if len({repr(v) for v in values}) == 1:
            shown[key] = values[0]
        else:
            shown[key] = {g[0]: v for g, v in zip(groups, values, strict=True)}
    return shown


def _curves(judged: _Judged, by_seed: list[list[dict[str, Any]]]) -> dict[str, Any] | None:
    """The judging metric on validation per epoch: mean and range over the seeds still running."""
    curves = {}
    longest = 0
    for task, (metric, _) in judged.items():
        series = [
            [record["validation"][task][metric] for record in r["history"]]
            for found in by_seed
            for r in found
            if r["history"] and task in r["history"][0].get("validation", {})
        ]
        if not series:
            return None
        length = max(len(s) for s in series)
        longest = max(longest, length)
        columns = [[s[i] for s in series if i < len(s)] for i in range(length)]
        curves[task] = {
            "mean": [statistics.fmean(c) for c in columns],
            "low": [min(c) for c in columns],
            "high": [max(c) for c in columns],
        }
    for curve in curves.values():
        for values in curve.values():
            values.extend([None] * (longest - len(values)))
    return {"epochs": list(range(1, longest + 1)), "validation": curves}


def _gains(
    row: dict[str, Any], base: dict[str, Any], judged: _Judged, plan: Plan
) -> dict[str, Any]:
    """Delta_m per split, paired by seed."""
    directions = {task: higher for task, (_, higher) in judged.items()}

    def scores(of: dict[str, Any], split: str, seed: int) -> dict[str, Any]:
        return {
            task: of["scores"][task][metric][split]["seeds"][seed]
            for task, (metric, _) in judged.items()
        }

    seeds = range(len(plan.seeds))
    return {
        split: interval(
            [gain(scores(row, split, i), scores(base, split, i), directions) for i in seeds]
        )
        for split in ("validation", "test")
    }


def _verdict(rows: list[dict[str, Any]], reference: dict[str, Any], plan: Plan) -> dict[str, Any]:
    """The row with the highest mean gain on validation, and what that says about sharing."""

    def on_validation(row: dict[str, Any]) -> float:
        mean = row["gain"]["validation"]["mean"]
        return float("-inf") if mean is None else mean

    best = max(rows, key=on_validation)
    share = best["sharing"] == "joint"
    others = [r for r in rows if (r["sharing"] == "joint") != share]
    sentence = f"{best['name']} has the highest gain on validation."
    if best["gain"]["validation"]["mean"] is None:
        sentence = "No verdict: no gain is defined on validation, see the notes."
    elif others:
        rival = max(others, key=on_validation)
        ahead = interval(
            [
                None if a is None or b is None else a - b
                for a, b in zip(
                    best["gain"]["validation"]["seeds"],
                    rival["gain"]["validation"]["seeds"],
                    strict=True,
                )
            ]
        )
        what = "the best without sharing" if share else "the best shared model"
        if ahead["mean"] is not None:
            sentence = (
                f"{best['name']} is ahead of {what}, {rival['name']}, by {ahead['mean']:.2f} "
                "points of gain on validation"
            )
            if ahead["low"] is None:
                sentence += ", with one seed and so without a spread."
            elif ahead["low"] <= 0:
                sentence += ", which is within the spread over seeds."
            else:
                sentence += f" (95 % interval {ahead['low']:.2f} to {ahead['high']:.2f})."
    return {
        "method": best["name"],
        "share": share if best["gain"]["validation"]["mean"] is not None else None,
        "sentence": sentence,
        "reference": reference["name"],
        "validation_gain": best["gain"]["validation"],
        "test_gain": best["gain"]["test"],
        "models": best["cost"]["models"],
    }


def _transfer(
    board: _Board,
    first: Method,
    chosen: _Chosen,
    pairs: list[tuple[str, ...]],
    rows: list[dict[str, Any]],
    judged: _Judged,
) -> dict[str, Any] | None:
    """What each task gains or loses by each partner: pair fits against single fits, by seed."""
    suite, plan = board.suite, board.plan
    names = suite.task_names
    if not pairs:
        return None
    settings = chosen[first.name, names[:1]]
    size = len(names)
    mean: list[list[float | None]] = [[None] * size for _ in names]
    std: list[list[float | None]] = [[None] * size for _ in names]
    together: list[list[float | None]] = [[None] * size for _ in names]
    for pair in pairs:
        gains: dict[str, list[float | None]] = {task: [] for task in pair}
        for i, seed in enumerate(plan.seeds):
            found = board[Run(first.learner, settings, pair, seed)]["test"]
            for task in pair:
                metric, higher = judged[task]
                alone = rows[0]["scores"][task][metric]["test"]["seeds"][i]
                gains[task].append(gain({task: found[task][metric]}, {task: alone}, {task: higher}))
        a, b = (names.index(task) for task in pair)
        for row, column, task in ((a, b, pair[0]), (b, a, pair[1])):
            known = [g for g in gains[task] if g is not None]
            if len(known) == len(plan.seeds):
                mean[row][column] = statistics.fmean(known)
                std[row][column] = statistics.stdev(known) if len(known) > 1 else None
        if mean[a][b] is not None and mean[b][a] is not None:
            together[a][b] = together[b][a] = (mean[a][b] + mean[b][a]) / 2  # type: ignore[operator]
    return {
        "learner": first.learner,
        "tasks": list(names),
        "seeds": list(plan.seeds),
        "pairwise": mean,
        "pairwise_std": std,
        "together": together,
    }


def _conflict(board: _Board, probe: Run | None) -> dict[str, Any] | None:
    """Cosines between task gradients and how often they are negative, over the probed fit."""
    history = [r for r in board[probe]["history"] if r.get("cosine")] if probe else []
    if probe is None or not history:
        return None
    size = len(board.suite.task_names)

    def average(name: str) -> list[list[float]]:
        return [
            [statistics.fmean(r[name][i][j] for r in history) for j in range(size)]
            for i in range(size)
        ]

    def off_diagonal(table: list[list[float]]) -> float:
        return statistics.fmean(table[i][j] for i in range(size) for j in range(size) if i != j)

    return {
        "method": f"{probe.learner} · equal weights",
        "tasks": list(board.suite.task_names),
        "cosine": average("cosine"),
        "conflict_rate": average("conflict"),
        "per_epoch": {
            "epochs": [r["epoch"] + 1 for r in history],
            "rate": [off_diagonal(r["conflict"]) for r in history],
        },
    }


def _settings(plan: Plan, seconds: float) -> dict[str, Any]:
    shown = ", ".join(f"{k.removeprefix('training.')} {v}" for k, v in plan.settings.items())
    tuned = "; ".join(
        f"{k} from {', '.join(map(str, v))}" for k, v in plan.tuning.items() if len(v) > 1
    )
    return {
        "seeds": list(plan.seeds),
        "tuning": (
            f"Every neural method chose {tuned} on validation with the first seed."
            if tuned
            else "No method was tuned: every learner runs with its published defaults."
        ),
        "budget": (
            f"Every neural learner had the same budget ({shown}) and kept its best epoch on "
            "validation; boosters stop early on validation."
        ),
        "command": "",
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, Python "
        f"{platform.python_version()}",
        "seconds": seconds,
    }


def is_neural(learner: str) -> bool:
    """Whether a learner takes the budget and balancers of a plan."""
    return hasattr(load_system(learner), "build")
