"""One process, two processes, accumulation and sharding must give the same updates."""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

HERE = Path(__file__).parent
_spec = importlib.util.spec_from_file_location("two_processes", HERE / "two_processes.py")
assert _spec is not None and _spec.loader is not None
jobs = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(jobs)

pytestmark = pytest.mark.distributed


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@pytest.fixture(scope="module", autouse=True)
def launched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, list[Any]]]:
    """Two gloo processes at work while this one makes the references."""
    out = tmp_path_factory.mktemp("pair") / "found"
    where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2"}
    running = [
        subprocess.Popen(
            [sys.executable, HERE / "two_processes.py", out],
            env={**os.environ, **where, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    yield out, running
    for process in running:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def pair(launched: tuple[Path, list[Any]]) -> list[dict[Any, Any]]:
    """What the two processes did, one record each; one pair serves all tests of this file."""
    out, running = launched
    told = [process.communicate(timeout=240)[1] for process in running]
    assert [p.returncode for p in running] == [0, 0], "\n".join(t[-3000:] for t in told)
    return [torch.load(f"{out}.{rank}") for rank in (0, 1)]


@pytest.fixture(scope="module")
def alone() -> Any:
    """What one process without accumulation does, trained once per combination."""
    known: dict[Any, Any] = {}

    def reference(balancer: str, step: str) -> dict[str, Any]:
        if (balancer, step) not in known:
            known[balancer, step] = jobs.fit(balancer, step)
        return known[balancer, step]

    return reference


def assert_same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert len(found["updates"]) == len(expected["updates"]) >= jobs.UPDATES
    for i, (one, other) in enumerate(zip(found["updates"], expected["updates"], strict=True)):
        for what in ("losses", "weights", "parameters", "gradients"):
            where = f"{what} of update {i}: ".__add__
            torch.testing.assert_close(one[what], other[what], rtol=2e-4, atol=2e-5, msg=where)
    torch.testing.assert_close(found["weights"], expected["weights"], rtol=2e-4, atol=2e-5)
    torch.testing.assert_close(found["balancer"], expected["balancer"], rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize(("balancer", "step"), jobs.COMBINATIONS)
def test_accumulation_updates_as_one_batch_does(alone: Any, balancer: str, step: str) -> None:
    for parts in (2, 4) if step == "plain" else (2,):
        assert_same(jobs.fit(balancer, step, parts), alone(balancer, step))


@pytest.mark.parametrize(("balancer", "step"), jobs.COMBINATIONS)
def test_two_processes_update_as_one_does(pair: Any, alone: Any, balancer: str, step: str) -> None:
    first, second = (found[balancer, step, 1, False] for found in pair)
    assert_same(first, alone(balancer, step))
    # Across processes nothing may differ at all, or they drift apart.
    torch.testing.assert_close(first, second, rtol=0, atol=0)


@pytest.mark.parametrize("balancer", jobs.ACCUMULATED)
def test_two_processes_with_accumulation(pair: Any, alone: Any, balancer: str) -> None:
    assert_same(pair[0][balancer, "plain", 2, False], alone(balancer, "plain"))


@pytest.mark.parametrize("job", jobs.SHARDED, ids=lambda job: f"{job[0]}-{job[2]}")
def test_sharded_processes_update_as_one_does(pair: Any, alone: Any, job: Any) -> None:
    first, second = (found[job] for found in pair)
    assert_same(first, alone(job[0], "plain"))
    torch.testing.assert_close(first, second, rtol=0, atol=0)


@pytest.mark.parametrize("balancer", jobs.RANDOM)
def test_random_balancers_draw_the_same_beside_dropout(pair: Any, balancer: str) -> None:
    first, second = (found[balancer, "plain", 1, False, 0.3] for found in pair)
    torch.testing.assert_close(first, second, rtol=0, atol=0)


@pytest.mark.parametrize("balancer", jobs.ALONE)
def test_a_balancer_alone_sees_all_processes(pair: Any, balancer: str) -> None:
    first, second = (found["alone", balancer] for found in pair)
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    if balancer != "pcgrad":  # alone in one process, draws come from torch's own generator
        torch.testing.assert_close(first, jobs.fit_alone(balancer), rtol=2e-4, atol=2e-5)


def test_the_problem_is_hard_enough(alone: Any) -> None:
    """The cases the other tests are about do occur, and weights do move."""
    data, half = jobs.gappy(), torch.arange(jobs.BATCH) % 2 == 0
    batches = [{t: m.view(jobs.UPDATES, -1)[i] for t, m in data.masks.items()} for i in range(5)]
    assert not batches[1]["kind"][~half].any() and batches[1]["kind"][half].any()
    assert not batches[2]["sold"].any()
    assert not any(m[half].any() for m in batches[3].values())
    for name in ("uw", "dwa", "famo", "rlw", "upgrad", "gradnorm", "nash_mtl"):
        weights = [u["weights"] for u in alone(name, "plain")["updates"]]
        assert weights[-1] != weights[0]
