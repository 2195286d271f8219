"""Compare: real fits once, then its decisions with planted scores."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from polytask.comparing import compare as module
from polytask.comparing import runs
from polytask.comparing.compare import Method, Plan, budget, compare
from polytask.comparing.report import Report
from polytask.comparing.runs import Run, execute
from polytask.data import Suite
from polytask.errors import InputError
from polytask.tasks.metrics import RMSE
from polytask.testing import mixed_suite

TASKS = ("price", "rooms", "sold")
SEEDS = (0, 1)
SETTINGS = {"hidden": [8], "head": [4]}
SETTINGS |= {"training.epochs": 3, "training.batch": 16, "training.lr": 0.02}
PLAN = Plan(("mlp", "ple"), ("uw",), (), ("lightgbm",), SEEDS, SETTINGS)


@pytest.fixture(scope="module")
def suite() -> Suite:
    return mixed_suite().only(*TASKS)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(autouse=True)
def own_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POLYTASK_CACHE", str(cache))


@pytest.fixture(scope="module")
def report(suite: Suite, cache: Path) -> Report:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("POLYTASK_CACHE", str(cache))
        return compare(suite, plan=PLAN, jobs=1)


@pytest.fixture
def fitted(monkeypatch: pytest.MonkeyPatch) -> list[Run]:
    """The runs that are really fitted from here on."""
    found: list[Run] = []
    measure = runs._measure

    def counted(run: Run, suite: Suite) -> dict[str, Any]:
        found.append(run)
        return measure(run, suite)

    monkeypatch.setattr(runs, "_measure", counted)
    return found


def row(report: Report, name: str) -> dict[str, Any]:
    (found,) = [m for m in report.data["methods"] if m["name"] == name]
    return found


# -- real fits -------------------------------------------------------------------------------------


def test_the_report_is_whole(report: Report, suite: Suite, tmp_path: Path) -> None:
    data = report.data
    assert list(data) == [
        "format",
        "polytask",
        "created",
        "suite",
        "settings",
        "verdict",
        "methods",
        "transfer",
        "conflict",
    ]
    assert [m["name"] for m in data["methods"]] == [
        "mlp · one model per task",
        "mlp · equal weights",
        "mlp · uw",
        "ple · one model per task",
        "ple · equal weights",
        "lightgbm · one model per task",
    ]
    assert [m["sharing"] for m in data["methods"]] == [
        "single",
        "joint",
        "joint",
        "single",
        "joint",
        "separate",
    ]
    assert [m["reference"] for m in data["methods"]] == [True] + [False] * 5
    assert [m["cost"]["models"] for m in data["methods"]] == [3, 1, 1, 3, 1, 3]
    assert [m["cost"]["fits"] for m in data["methods"]] == [6, 2, 2, 6, 2, 6]
    for method in data["methods"]:
        assert all(method["cost"][k] > 0 for k in method["cost"])
        assert (method["vs_own_single"] is None) == (method["sharing"] != "joint")
        assert list(method["scores"]) == list(TASKS)
        for task, metrics in method["scores"].items():
            about = next(t for t in data["suite"]["tasks"] if t["name"] == task)
            assert list(metrics) == list(about["metrics"])
            for splits in metrics.values():
                for spread in splits.values():
                    assert spread["mean"] == pytest.approx(statistics.fmean(spread["seeds"]))
                    assert len(spread["seeds"]) == len(SEEDS)
    assert data["suite"]["rows"] == suite.describe()["rows"]
    assert data["settings"]["seeds"] == list(SEEDS)
    report.to_json(tmp_path / "report.json")
    report.to_html(tmp_path / "report.html")
    assert Report.from_json(tmp_path / "report.json").data == data


def test_rows_are_fits_of_the_parts_they_name(report: Report, suite: Suite) -> None:
    single, joint = row(report, "ple · one model per task"), row(report, "ple · equal weights")
    for i, seed in enumerate(SEEDS):
        together = Run("ple", {**SETTINGS, "balancer": "sum"}, TASKS, seed).build().fit(suite)
        assert (
            joint["scores"]["price"]["ev"]["test"]["seeds"][i]
            == (together.score(suite, "test")["price"]["ev"])
        )
        alone = Run("ple", SETTINGS, ("price",), seed).build().fit(suite.only("price"))
        assert (
            single["scores"]["price"]["ev"]["test"]["seeds"][i]
            == (alone.score(suite.only("price"), "test")["price"]["ev"])
        )


def test_gains_by_a_second_route(report: Report) -> None:
    reference = row(report, "mlp · one model per task")
    primary = {"price": "ev", "rooms": "auroc", "sold": "auroc"}

    def table(method: Mapping[str, Any], split: str) -> np.ndarray:
        return np.array([method["scores"][t][m][split]["seeds"] for t, m in primary.items()])

    for method in report.data["methods"]:
        for split in ("validation", "test"):
            base = table(reference, split)
            assert (np.abs(base) > 0.01).all(), "these fits are too short to mean anything"
            gains = 100 * ((table(method, split) - base) / np.abs(base)).mean(0)
            found = method["gain"][split]
            assert found["seeds"] == pytest.approx(gains), "paired: seed with the same seed"
            assert found["mean"] == pytest.approx(gains.mean())
            if method is not reference:
                low, high = stats.t.interval(0.95, 1, gains.mean(), stats.sem(gains))
                assert (found["low"], found["high"]) == (pytest.approx(low), pytest.approx(high))
    assert reference["gain"]["test"]["seeds"] == [0.0, 0.0]


def test_own_single_is_the_same_learner(report: Report) -> None:
    joint, single = row(report, "ple · equal weights"), row(report, "ple · one model per task")
    task, metric = "sold", "auroc"
    a, b = (m["scores"][task][metric]["test"]["seeds"][0] for m in (joint, single))
    others = [
        (joint["scores"][t][m]["test"]["seeds"][0], single["scores"][t][m]["test"]["seeds"][0])
        for t, m in (("price", "ev"), ("rooms", "auroc"))
    ]
    expected = 100 * statistics.fmean((x - y) / abs(y) for x, y in [(a, b), *others])
    assert joint["vs_own_single"]["test"]["seeds"][0] == pytest.approx(expected)


def test_the_transfer_map_is_pairs_against_singles(report: Report, suite: Suite) -> None:
    transfer = report.data["transfer"]
    assert (transfer["learner"], transfer["tasks"]) == ("mlp", list(TASKS))
    single = row(report, "mlp · one model per task")
    gains = []
    for i, seed in enumerate(SEEDS):
        pair = execute(Run("mlp", SETTINGS, ("price", "sold"), seed), suite)["test"]
        alone = single["scores"]["sold"]["auroc"]["test"]["seeds"][i]
        gains.append(100 * (pair["sold"]["auroc"] - alone) / alone)
    assert transfer["pairwise"][2][0] == pytest.approx(statistics.fmean(gains))
    assert transfer["pairwise_std"][2][0] == pytest.approx(statistics.stdev(gains))
    for i in range(3):
        assert transfer["pairwise"][i][i] is None and transfer["together"][i][i] is None
        for j in range(3):
            assert transfer["together"][i][j] == transfer["together"][j][i]
            if i != j:
                both = (transfer["pairwise"][i][j], transfer["pairwise"][j][i])
                assert transfer["together"][i][j] == pytest.approx(statistics.fmean(both))


def test_the_conflict_picture(report: Report) -> None:
    conflict = report.data["conflict"]
    cosine, rate = np.array(conflict["cosine"]), np.array(conflict["conflict_rate"])
    assert conflict["tasks"] == list(TASKS)
    assert np.allclose(cosine, cosine.T) and np.allclose(np.diag(cosine), 1)
    assert np.allclose(rate, rate.T) and ((rate >= 0) & (rate <= 1)).all()
    epochs, rates = (conflict["per_epoch"][k] for k in ("epochs", "rate"))
    assert len(epochs) == len(rates) > 0 and set(epochs) <= {1, 2, 3}


def test_curves_follow_the_epochs(report: Report) -> None:
    curves = row(report, "mlp · equal weights")["curves"]
    assert curves["epochs"] == [1, 2, 3]
    for task in TASKS:
        low, mean, high = (np.array(curves["validation"][task][k]) for k in ("low", "mean", "high"))
        assert ((low <= mean + 1e-12) & (mean <= high + 1e-12)).all()
    assert row(report, "lightgbm · one model per task")["curves"] is None


# -- what is fitted again, and what is not ---------------------------------------------------------


def test_nothing_is_fitted_twice(report: Report, suite: Suite, fitted: list[Run]) -> None:
    again = compare(suite, plan=PLAN, jobs=1).data
    assert fitted == []
    assert again["methods"] == report.data["methods"]
    assert again["verdict"] == report.data["verdict"]


def test_another_method_fits_only_what_is_missing(
    report: Report, suite: Suite, fitted: list[Run]
) -> None:
    more = Plan(("mlp", "ple"), ("uw", "dwa"), (), ("lightgbm",), SEEDS, SETTINGS)
    compare(suite, plan=more, jobs=1)
    assert {(r.settings["balancer"], r.tasks, r.seed) for r in fitted} == {
        ("dwa", TASKS, seed) for seed in SEEDS
    }


def test_changed_settings_or_data_are_fitted_anew(
    report: Report, suite: Suite, fitted: list[Run]
) -> None:
    small = Plan(("mlp",), (), (), (), (0,), {**SETTINGS, "training.epochs": 1}, {}, False)
    compare(suite, plan=small, jobs=1)
    assert len(fitted) == 3 + 1 + 1, "singles, joint and probe"
    fitted.clear()
    compare(mixed_suite(149).only(*TASKS), plan=small, jobs=1)
    assert len(fitted) == 5


def test_a_stopped_comparison_goes_on(
    suite: Suite, fitted: list[Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POLYTASK_CACHE", str(tmp_path))
    plan = Plan(("mlp",), ("uw",), (), (), (0,), SETTINGS)
    measure = runs._measure

    def interrupted(run: Run, suite: Suite) -> dict[str, Any]:
        if len(fitted) == 4:
            raise KeyboardInterrupt
        return measure(run, suite)

    with monkeypatch.context() as patch:
        patch.setattr(runs, "_measure", interrupted)
        with pytest.raises(KeyboardInterrupt):
            compare(suite, plan=plan, jobs=1)
    done = list(fitted)
    assert len(done) == 4
    seen: list[tuple[int, int]] = []
    compare(suite, plan=plan, jobs=1, progress=lambda n, total, _: seen.append((n, total)))
    total = 3 + 2 + 3 + 1  # singles, joint, pairs, probe
    assert len(fitted) == total
    assert not set(map(repr, done)) & set(map(repr, fitted[4:]))
    assert seen[0] == (4, total) and seen[-1] == (total, total)


# -- decisions, with planted scores ----------------------------------------------------------------

Scores = Callable[[Run, str, str], float]  # run, task, split -> primary score


def plant(monkeypatch: pytest.MonkeyPatch, scores: Scores) -> list[Run]:
    """Runs whose scores are as told; nothing is fitted."""
    made: list[Run] = []

    def planted(run: Run, suite: Suite, threads: int | None = None) -> dict[str, Any]:
        made.append(run)
        found: dict[str, Any] = {"history": [], "memory_mb": 1.0, "parameters": 10}
        found |= {"train_seconds": 1.0, "latency_ms_per_1000_rows": 1.0}
        for split in ("validation", "test"):
            found[split] = {
                t.name: {m.name: scores(run, t.name, split) for m in t.kind.metrics}
                for t in suite.only(*run.tasks).tasks
            }
        return found

    monkeypatch.setattr(module, "execute", planted)
    monkeypatch.setattr(module, "cached", lambda run, suite: None)
    return made


def way(run: Run) -> str:
    return str(run.settings.get("balancer", "")) if len(run.tasks) == 3 else "apart"


def test_the_winner_is_chosen_on_validation_alone(
    suite: Suite, monkeypatch: pytest.MonkeyPatch
) -> None:
    validation = {"apart": 0.5, "sum": 0.6, "uw": 0.7, "": 0.5}
    plant(
        monkeypatch,
        lambda run, task, split: (
            validation[way(run)] if split == "validation" else 1.2 - validation[way(run)]
        ),
    )
    verdict = compare(suite, plan=PLAN, jobs=1).data["verdict"]
    assert verdict["method"] == "mlp · uw" and verdict["share"] is True
    assert verdict["validation_gain"]["mean"] == pytest.approx(100 * (0.7 - 0.5) / 0.5)
    assert verdict["test_gain"]["mean"] == pytest.approx(100 * (0.5 - 0.7) / 0.7)
    assert verdict["sentence"].startswith("mlp · uw is ahead of the best without sharing, ")
    assert verdict["models"] == 1


def test_do_not_share(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    def scores(run: Run, task: str, split: str) -> float:
        boosted = 0.2 if run.learner == "lightgbm" else 0.0
        return 0.6 + boosted - 0.1 * (len(run.tasks) > 1)

    plant(monkeypatch, scores)
    verdict = compare(suite, plan=PLAN, jobs=1).data["verdict"]
    assert verdict["share"] is False
    assert verdict["method"] == "lightgbm · one model per task"
    assert verdict["sentence"].startswith("lightgbm · one model per task is ahead of the best sh")
    assert verdict["models"] == 3


def test_a_lead_within_the_spread_is_called_that(
    suite: Suite, monkeypatch: pytest.MonkeyPatch
) -> None:
    def scores(run: Run, task: str, split: str) -> float:
        return 0.6 + (0.05 if way(run) == "sum" and run.seed == 0 else 0.0)

    plant(monkeypatch, scores)
    sentence = compare(suite, plan=PLAN, jobs=1).data["verdict"]["sentence"]
    assert "within the spread over seeds" in sentence


def test_lower_is_better_where_the_metric_says_so(
    suite: Suite, monkeypatch: pytest.MonkeyPatch
) -> None:
    directions = dict.fromkeys(TASKS, ("rmse", False))
    monkeypatch.setattr(module, "_directions", lambda suite: directions)

    def planted(run: Run, suite: Suite, threads: int | None = None) -> dict[str, Any]:
        value = 4.0 if way(run) == "sum" else 5.0
        metrics = ("rmse", "ev", "mae", "auroc", "accuracy", "log_loss", "f1", "kappa")
        parts = {t: dict.fromkeys(metrics, value) for t in run.tasks}
        costs = dict.fromkeys(
            ("parameters", "train_seconds", "latency_ms_per_1000_rows", "memory_mb"), 1.0
        )
        return {"validation": parts, "test": parts, "history": [], **costs}

    monkeypatch.setattr(module, "execute", planted)
    monkeypatch.setattr(module, "cached", lambda run, suite: None)
    for task in suite.tasks:
        monkeypatch.setattr(type(task.kind), "metrics", (RMSE,))
    verdict = compare(suite, plan=PLAN, jobs=1).data["verdict"]
    assert "equal weights" in verdict["method"]
    assert verdict["test_gain"]["mean"] == pytest.approx(20.0)


def test_tuning_is_by_validation_with_the_first_seed(
    suite: Suite, monkeypatch: pytest.MonkeyPatch
) -> None:
    def scores(run: Run, task: str, split: str) -> float:
        lr = run.settings.get("training.lr")
        best = 0.1 if task == "price" and len(run.tasks) == 1 else 0.01
        good = lr == best
        return 0.6 if (split == "validation") == good else 0.5

    made = plant(monkeypatch, scores)
    plan = Plan(
        ("mlp",), (), (), ("lightgbm",), SEEDS, SETTINGS, {"training.lr": [0.01, 0.1]}, False
    )
    data = compare(suite, plan=plan, jobs=1).data
    shown = {m["name"]: m["settings"].get("training.lr") for m in data["methods"]}
    assert shown["mlp · equal weights"] == 0.01
    assert shown["mlp · one model per task"] == {"price": 0.1, "rooms": 0.01, "sold": 0.01}
    assert shown["lightgbm · one model per task"] is None
    losers = [r for r in made if r.settings.get("training.lr") == 0.1 and len(r.tasks) == 3]
    assert [r.seed for r in losers] == [0], "what lost is not fitted with the other seeds"
    assert "training.lr from 0.01, 0.1" in data["settings"]["tuning"]


def test_an_undefined_gain_is_said_not_invented(
    suite: Suite, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch, lambda run, task, split: 0.0 if task == "price" else 0.7)
    data = compare(suite, plan=PLAN, jobs=1).data
    assert all(m["gain"]["test"]["mean"] is None for m in data["methods"])
    assert any("not defined" in note and "'price'" in note for note in data["suite"]["notes"])
    assert data["verdict"]["sentence"].startswith("No verdict")
    assert data["verdict"]["share"] is None
    assert json.dumps(data, allow_nan=False)


def test_a_reference_near_zero_is_judged_by_the_next_metric(
    suite: Suite, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = {"ev": 0.002, "rmse": 5.0}

    def planted(run: Run, suite: Suite, threads: int | None = None) -> dict[str, Any]:
        better = 0.8 if way(run) == "sum" else 1.0
        scores = {
            "mae": 4.0,
            "auroc": 0.7,
            "accuracy": 0.7,
            "log_loss": 0.5,
            "f1": 0.6,
            "kappa": 0.4,
        }
        parts = {t: {**scores, "ev": fake["ev"], "rmse": fake["rmse"] * better} for t in run.tasks}
        costs = ("parameters", "train_seconds", "latency_ms_per_1000_rows", "memory_mb")
        return {"validation": parts, "test": parts, "history": [], **dict.fromkeys(costs, 1.0)}

    monkeypatch.setattr(module, "execute", planted)
    monkeypatch.setattr(module, "cached", lambda run, suite: None)
    data = compare(suite, plan=PLAN, jobs=1).data
    judged = {t["name"]: (t["metric"], t["higher_is_better"]) for t in data["suite"]["tasks"]}
    assert judged == {"price": ("rmse", False), "rooms": ("auroc", True), "sold": ("auroc", True)}
    assert "equal weights" in data["verdict"]["method"] and data["verdict"]["share"]
    assert data["verdict"]["test_gain"]["mean"] == pytest.approx(100 * 0.2 / 3)
    assert any("Judged by rmse" in n and "'price'" in n for n in data["suite"]["notes"])


def test_a_row_of_a_group_is_answered_by_one_model(monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, lambda run, task, split: 0.5)
    rng = np.random.default_rng(0)
    table = {"x": rng.normal(size=90), "y": rng.normal(size=90), "g": np.repeat([1, 2, 3], 30)}
    groups = Suite.from_table(table, ["y"], by="g")
    rows = compare(groups, plan=replace(PLAN, transfer=False), jobs=1).data["methods"]
    costs = {m["name"]: m["cost"] for m in rows}
    apart = costs["mlp · one model per task"]
    assert (apart["models"], apart["latency_ms_per_1000_rows"]) == (3, 1.0)
    assert costs["mlp · equal weights"]["latency_ms_per_1000_rows"] == 1.0


# -- plans -----------------------------------------------------------------------------------------


def test_the_rows_of_a_plan() -> None:
    plan = Plan(("mlp", "ple", "mlp"), ("uw", "sum"), ("sam(rho=0.1)",), ("lightgbm",))
    assert [m.name for m in plan.methods()] == [
        "mlp · one model per task",
        "mlp · equal weights",
        "mlp · uw",
        "mlp · equal weights · sam(rho=0.1)",
        "mlp · uw · sam(rho=0.1)",
        "ple · one model per task",
        "ple · equal weights",
        "lightgbm · one model per task",
    ]
    assert Method("mlp", "single").groups(("a", "b")) == [("a",), ("b",)]
    assert Method("mlp", "joint").groups(("a", "b")) == [("a", "b")]


def test_two_tasks_are_their_own_pair(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, lambda run, task, split: 0.5 + 0.1 * len(run.tasks))
    data = compare(suite.only("price", "sold"), plan=PLAN, jobs=1).data
    assert data["transfer"] is None
    assert data["verdict"]["share"] is True
    assert math.isclose(data["verdict"]["test_gain"]["mean"], 100 / 6)


def test_a_table_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    made = plant(monkeypatch, lambda run, task, split: 0.5)
    rng = np.random.default_rng(0)
    table = {"x": rng.normal(size=90), "a": rng.normal(size=90), "b": rng.normal(size=90)}
    data = compare(table, targets=["a", "b"], split="random:1", name="mine", jobs=1).data
    assert data["suite"]["name"] == "mine" and "seed 1" in data["suite"]["split"]
    assert {r.seed for r in made} == {0, 1, 2}
    assert all(r.settings["training.epochs"] == 30 for r in made if r.learner != "lightgbm")


def test_the_budget_follows_the_rows() -> None:
    small, large = budget(mixed_suite(150)), budget(mixed_suite(20_000))
    assert (small["training.batch"], large["training.batch"]) == (32, 256)


@pytest.mark.parametrize(
    ("plan", "culprits"),
    [
        (Plan(settings={"training.epoch": 1}), ["'mlp · one model per task'", "mean 'epochs'"]),
        (Plan(settings={"training.lr": -1}), ["training.lr must be positive"]),
        (Plan(tuning={"training.lrr": [1, 2]}, settings=SETTINGS), ["'training.lrr'", "mean 'lr'"]),
        (Plan(tuning={"training.lr": [1, "x"]}, settings=SETTINGS), ["lr: 'x' is not a number"]),
        (Plan(balancers=("upgrd",), settings=SETTINGS), ["'mlp · upgrd'", "mean 'upgrad'"]),
        (Plan(steps=("falt",), settings=SETTINGS), ["step 'falt'", "mean 'flat'"]),
        (Plan(learners=("mlpp",), settings=SETTINGS), ["system 'mlpp'", "mean 'mlp'"]),
        (Plan(rivals=("lightgmb",), settings=SETTINGS), ["'lightgmb'", "mean 'lightgbm'"]),
        (Plan(learners=("lightgbm",), settings=SETTINGS), ["lightgbm does not share a model"]),
        (Plan(learners=()), ["at least one learner"]),
        (Plan(seeds=()), ["one seed"]),
        (Plan(seeds=(0, 0, 0), settings=SETTINGS), ["seeds 0, 0, 0", "only once"]),
    ],
)
def test_a_wrong_plan_is_refused_before_any_fit(
    plan: Plan, culprits: list[str], suite: Suite, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = plant(monkeypatch, lambda run, task, split: 0.5)
    with pytest.raises(InputError) as refused:
        compare(suite, plan=plan, jobs=1)
    assert all(c in str(refused.value) for c in culprits), refused.value
    assert made == []


def test_one_task_and_no_targets_are_refused(suite: Suite) -> None:
    with pytest.raises(InputError, match="at least two target columns"):
        compare(suite.only("price"), plan=PLAN)
    with pytest.raises(InputError, match="name the target columns"):
        compare({"a": [1, 2]})


# -- the same call elsewhere -----------------------------------------------------------------------

FEW = Plan(("mlp",), (), (), (), (0,), {**SETTINGS, "training.epochs": 1}, {}, False)


@pytest.mark.distributed
def test_several_processes_find_the_same(
    suite: Suite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POLYTASK_CACHE", str(tmp_path / "one"))
    alone = compare(suite, plan=FEW, jobs=1).data
    monkeypatch.setenv("POLYTASK_CACHE", str(tmp_path / "two"))
    together = compare(suite, plan=FEW, jobs=2).data
    for a, b in zip(alone["methods"], together["methods"], strict=True):
        assert a["scores"] == b["scores"]


@pytest.mark.distributed
def test_the_same_call_on_a_dask_cluster(
    suite: Suite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    distributed = pytest.importorskip("distributed")
    import joblib

    alone = compare(suite, plan=FEW, jobs=1).data
    monkeypatch.setenv("POLYTASK_CACHE", str(tmp_path))
    with (
        distributed.LocalCluster(
            n_workers=1, threads_per_worker=1, dashboard_address=None, processes=True
        ) as cluster,
        distributed.Client(cluster),
        joblib.parallel_config(backend="dask"),
    ):
        elsewhere = compare(suite, plan=FEW).data
    for a, b in zip(alone["methods"], elsewhere["methods"], strict=True):
        assert a["scores"] == b["scores"]
    assert len(list((tmp_path / "runs").iterdir())) == 5, "the workers kept the runs"
