"""Runs: measured once, found again by everything that decides them, and safe between processes."""

from __future__ import annotations

import json
import multiprocessing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from polytask.baselines.mlp import SharedMLP
from polytask.comparing import runs
from polytask.comparing.runs import Run, cached, check, execute
from polytask.data import Suite
from polytask.errors import InputError
from polytask.testing import mixed_suite

SETTINGS = {"hidden": [4], "head": [4], "training.epochs": 2, "training.batch": 32}


@pytest.fixture(scope="module")
def suite() -> Suite:
    return mixed_suite()


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("POLYTASK_CACHE", str(tmp_path))
    return tmp_path / "runs"


def forbid_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    def fitted(*_: Any, **__: Any) -> None:
        raise AssertionError("something was fitted")

    monkeypatch.setattr(runs, "_measure", fitted)


def test_a_run_is_a_plain_fit_of_its_tasks(suite: Suite) -> None:
    run = Run("mlp", SETTINGS, ("price", "sold"), seed=3)
    result = execute(run, suite)
    part = suite.only("price", "sold")
    learner = run.build()
    assert learner.training.seed == 3 and learner.hidden == (4,)
    learner.fit(part)
    for split in ("validation", "test"):
        assert result[split] == learner.score(part, split)
    assert result["parameters"] == learner.parameters_
    assert [r["score"] for r in result["history"]] == [r["score"] for r in learner.history_]
    assert result["train_seconds"] > 0 and result["latency_ms_per_1000_rows"] > 0
    assert result["memory_mb"] > 50


def test_a_second_time_is_read_from_disk(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run("mlp", SETTINGS, ("sold",))
    assert cached(run, suite) is None
    result = execute(run, suite)
    forbid_fits(monkeypatch)
    assert execute(run, suite) == result == cached(run, suite)


def test_whatever_decides_a_run_is_in_its_key(
    suite: Suite, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run("mlp", SETTINGS, ("price", "sold"))
    others = [
        run,
        replace(run, learner="ple"),
        replace(run, settings={**SETTINGS, "training.epochs": 3}),
        replace(run, settings={**SETTINGS, "balancer": "uw"}),
        replace(run, tasks=("price",)),
        replace(run, seed=1),
    ]
    keys = [r.key(suite) for r in others]
    keys.append(run.key(replace(suite, fingerprint="of other data")))
    monkeypatch.setattr(runs, "source_digest", lambda: "of other code")
    keys.append(run.key(suite))
    assert len(set(keys)) == len(keys)


def test_the_order_of_settings_is_no_content(suite: Suite) -> None:
    backwards = dict(reversed(SETTINGS.items()))
    assert Run("mlp", SETTINGS, ("sold",)).key(suite) == Run("mlp", backwards, ("sold",)).key(suite)


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b"\xff"])
def test_a_damaged_result_is_measured_again(suite: Suite, own_cache: Path, damage: Any) -> None:
    run = Run("lightgbm", {"rounds": 3}, ("sold",))
    result = execute(run, suite)
    (file,) = own_cache.iterdir()
    file.write_bytes(damage(file.read_bytes()))
    assert cached(run, suite) is None
    assert execute(run, suite)["test"] == result["test"]
    assert json.loads(file.read_text())["test"] == result["test"]


def test_a_run_that_fails_leaves_nothing(
    suite: Suite, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(SharedMLP, "fit", killed)
    with pytest.raises(KeyboardInterrupt):
        execute(Run("mlp", SETTINGS, ("sold",)), suite)
    assert not own_cache.exists() or list(own_cache.iterdir()) == []


@pytest.mark.parametrize(
    ("run", "culprit"),
    [
        (Run("mlp", {"training.epoch": 3}, ("sold",)), "mean 'epochs'"),
        (Run("mlp", {"training.lr": "fast"}, ("sold",)), "training: lr: 'fast' is not a number"),
        (Run("mlp", {"training.lr": -1.0}, ("sold",)), "training.lr must be positive"),
        (Run("mlp", {"balancer": "upgrd"}, ("sold",)), "mean 'upgrad'"),
        (Run("mlp", {}, ("solt",)), "mean 'sold'"),
        (Run("lightgbm", {"training.epochs": 3}, ("sold",)), "'training'"),
        (Run("mpl", {}, ("sold",)), "'mpl'"),
    ],
)
def test_what_no_fit_could_use_is_found_before(
    suite: Suite, run: Run, culprit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    forbid_fits(monkeypatch)
    reason = check(run, suite)
    assert reason is not None and culprit in reason
    with pytest.raises((InputError, AssertionError)):
        execute(run, suite)


def test_nothing_is_wrong_with_a_good_run(suite: Suite) -> None:
    assert check(Run("mlp", SETTINGS, ("sold",)), suite) is None


def test_latency_is_per_1000_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter(range(100))
    monkeypatch.setattr(runs.time, "perf_counter", lambda: next(ticks) * 0.5)
    calls: list[int] = []
    assert runs._latency(lambda: calls.append(1)) == pytest.approx(500.0)
    assert len(calls) == 6, "the first call does not count"


def _execute(barrier: Any, found: Any) -> None:
    barrier.wait()
    found.put(execute(Run("lightgbm", {"rounds": 3}, ("sold",)), mixed_suite())["test"])


@pytest.mark.distributed
def test_two_processes_write_one_cache(own_cache: Path) -> None:
    context = multiprocessing.get_context("fork")
    barrier, found = context.Barrier(2), context.Queue()
    processes = [context.Process(target=_execute, args=(barrier, found)) for _ in range(2)]
    for process in processes:
        process.start()
    results = [found.get(timeout=120) for _ in processes]
    for process in processes:
        process.join(60)
    assert results[0] == results[1]
    (file,) = own_cache.iterdir()
    assert json.loads(file.read_text())["test"] == results[0]
