"""CoDiEmb on two processes: the same losses, gradients and updates as on one."""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

FILE = Path(__file__).parent / "two_encoders.py"
_spec = importlib.util.spec_from_file_location("two_encoders", FILE)
assert _spec is not None and _spec.loader is not None
jobs = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(jobs)

pytestmark = pytest.mark.distributed


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> list[dict[Any, Any]]:
    """What each of two gloo processes found; one pair serves all tests of this file."""
    out = tmp_path_factory.mktemp("pair") / "found"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    running = [
        subprocess.Popen(
            [sys.executable, FILE, out],
            env={**os.environ, **where, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    try:
        told = [process.communicate(timeout=240)[1] for process in running]
    finally:
        for process in running:
            process.kill()
    assert [p.returncode for p in running] == [0, 0], "\n".join(t[-3000:] for t in told)
    return [torch.load(f"{out}.{rank}") for rank in (0, 1)]


@pytest.fixture(scope="module")
def alone() -> dict[Any, Any]:
    return jobs.everything()


@pytest.mark.parametrize("objective", jobs.OBJECTIVES)
@pytest.mark.parametrize("task", ["similarity", "retrieval"])
def test_a_gathered_loss_and_its_gradient(pair: Any, alone: Any, objective: str, task: str) -> None:
    expected = alone[objective, task]
    assert expected[0] > 0 and all(bool(g.any()) for g in expected[1])
    for found in pair:
        torch.testing.assert_close(found[objective, task], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("objective", jobs.OBJECTIVES)
def test_updates_are_those_of_one_process(pair: Any, alone: Any, objective: str) -> None:
    losses, weights = alone[objective, "fit"]
    first, second = (found[objective, "fit"] for found in pair)
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    torch.testing.assert_close(first[0], losses, rtol=2e-3, atol=1e-4)
    torch.testing.assert_close(first[1], weights, rtol=2e-2, atol=2e-3)
    start = jobs.net(objective).state_dict()
    assert all(not torch.equal(start[name], weight) for name, weight in weights.items())
