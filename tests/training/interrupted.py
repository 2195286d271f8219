"""One fit that can be killed: ``python interrupted.py OUT BALANCER STEP [KILL_AT]``.

Prints a digest of everything the fit left behind. With ``KILL_AT`` the process kills itself with
signal 9 after that many updates, in the middle of whatever follows.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent))
from small import net, rows

from polytask.data import JointRows
from polytask.training import Engine, Training, as_balancer, as_step, train

UPDATES = 5  # per epoch


class Watched:
    """A step that calls ``watch(updates so far)`` before each update."""

    def __init__(self, step: Any, watch: Callable[[int], None]) -> None:
        self.step, self.watch, self.calls = step, watch, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.step, name)

    def __call__(self, problem: Any, balancer: Any) -> Any:
        self.watch(self.calls)
        self.calls += 1
        return self.step(problem, balancer)


def fit(
    out: Path | None,
    balancer: str,
    step: str = "plain",
    watch: Callable[[int], None] = lambda updates: None,
    **changes: Any,
) -> dict[str, Any]:
    """All that a run leaves: weights, balancer, history, best score, and what it told."""
    settings = {"epochs": 4, "patience": 4, "checkpoint": 3, "schedule": "cosine", "seed": 7}
    training = Training(lr=0.02, batch=16, accumulation=2, weight_decay=0.01, **settings | changes)
    module, chosen, told = net(3, dropout=0.2), as_balancer(balancer), []
    state = train(
        module,
        rows(UPDATES * 16 + 5, missing=0.3),
        rows(40, seed=1, missing=0.1),
        training,
        step=Watched(as_step(step), watch),
        balancer=chosen,
        mixture=JointRows(),
        engine=Engine(accumulation=training.accumulation, device="cpu"),
        out=out,
        run="one",
        progress=told.append,
    )
    return {
        "weights": module.state_dict(),
        "balancer": chosen.state_dict(),
        "history": [{k: v for k, v in r.items() if k != "seconds"} for r in state.history],
        "best": [state.best_score, state.best_epoch, state.steps],
        "warnings": [record["warning"] for record in told if "warning" in record],
    }


def digest(value: Any) -> str:
    """A hash of every bit of nested tensors and plain values."""
    return hashlib.sha256(repr(_plain(value)).encode()).hexdigest()


def _plain(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return [str(value.dtype), list(value.shape), value.contiguous().numpy().tobytes().hex()]
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value


if __name__ == "__main__":
    torch.set_num_threads(1)
    folder, name, step_name, *when = sys.argv[1:]

    def kill(updates: int) -> None:
        if when and updates == int(when[0]):
            os.kill(os.getpid(), signal.SIGKILL)

    print(json.dumps(digest(fit(Path(folder), name, step_name, kill))))
