"""Trains every lawful combination and tells what each update did.

test_distributed.py takes the reference from ``fit`` and runs this file as two processes:
``python two_processes.py OUT`` writes ``OUT.0`` and ``OUT.1``.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent))
from small import InOrder, net, rows

from polytask.data import Batch
from polytask.training import Balanced, Engine, Training, as_balancer, as_step, train

LOSSES = ("sum", "constant(weights=(1.0, 0.5, 2.0))", "uw", "dwa", "si", "famo", "rlw", "stch")
GRAMIAN = ("upgrad", "mgda", "pcgrad", "cagrad", "imtl_g", "aligned_mtl", "nash_mtl", "fairgrad")
JACOBIAN = ("graddrop", "config")
SITES = ("gradnorm", "features(upgrad)", "features(mgda)", "features(pcgrad)")
FLAT = "flat(rho=0.1, adaptive=False)"
COMBINATIONS = [
    *((balancer, "plain") for balancer in (*LOSSES, *GRAMIAN, "gradvac", *JACOBIAN, *SITES)),
    *((balancer, "sam(rho=0.1)") for balancer in ("sum", "uw", "upgrad", "pcgrad", "gradnorm")),
    *((balancer, "sam(rho=0.1)") for balancer in ("features(upgrad)", "graddrop", "config")),
    *((balancer, FLAT) for balancer in ("sum", "uw", *GRAMIAN, *JACOBIAN)),
]
ACCUMULATED = ("sum", "uw", "upgrad", "graddrop", "gradnorm", "features(upgrad)")
RANDOM = ("rlw", "pcgrad", "gradvac", "graddrop")
ALONE = ("sum", "uw", "upgrad", "pcgrad", "features(mgda)")
SHARDED = [
    *((balancer, "plain", 1, True) for balancer in ("sum", "uw", "dwa", "famo", "rlw")),
    *((balancer, "plain", 1, True) for balancer in ("upgrad", "mgda", "pcgrad", "nash_mtl")),
    *((balancer, "plain", 2, True) for balancer in ("sum", "uw", "upgrad")),
]
BATCH, UPDATES = 11, 5


def gappy() -> Batch:
    """Five batches of 11 rows; process 0 gets even positions, process 1 odd ones."""
    data = rows(BATCH * UPDATES, missing=0.3)
    even = torch.arange(BATCH) % 2 == 0
    masks = {t: m.view(UPDATES, BATCH).clone() for t, m in data.masks.items()}
    masks["kind"][1, ~even] = False  # process 1 has no label of one task
    masks["sold"][2] = False  # a task is absent from the whole batch
    for mask in masks.values():
        mask[3, even] = False  # process 0 has no label at all
    for task in ("price", "kind"):  # only one task is left
        masks[task][4] = False
    return Batch(data.inputs, data.targets, {t: m.flatten() for t, m in masks.items()})


class Recording:
    """A step that notes what each update saw and did."""

    def __init__(self, step: Any) -> None:
        self.step = step
        self.seen: list[dict[str, Any]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.step, name)

    def __call__(self, problem: Any, balancer: Any) -> Any:
        before = [p.detach() for p in (*problem.shared, *problem.private)]
        info = self.step(problem, balancer)
        gradients = [p.grad for p in (*problem.shared, *problem.private)]
        self.seen.append(
            {
                "losses": dict(info.losses),
                "weights": dict(info.weights),
                "parameters": [_full(p).clone() for p in before],
                "gradients": [_full(g).clone() for g in gradients],
            }
        )
        return info


def _full(value: torch.Tensor) -> torch.Tensor:
    return value.full_tensor() if hasattr(value, "full_tensor") else value


def fit(
    balancer: str, step: str, parts: int = 1, sharded: bool = False, dropout: float = 0.0
) -> dict[str, Any]:
    """What every update did, and the weights and balancer left at the end."""
    epochs = 3 if balancer == "dwa" else 1  # it weighs by the losses of two epochs
    training = Training(lr=0.05, batch=BATCH, epochs=epochs, patience=epochs, clip=5.0)
    engine = Engine(accumulation=parts, sharded=sharded, device="cpu")
    # Weights of the leading process count, whatever another one starts from.
    module, chosen, recording = (
        net(engine.rank, dropout),
        as_balancer(balancer),
        Recording(as_step(step)),
    )
    train(
        module,
        gappy(),
        rows(20, seed=1),
        training,
        step=recording,
        balancer=chosen,
        mixture=InOrder(),
        engine=engine,
    )
    return {
        "updates": recording.seen,
        "weights": module.state_dict(),
        "balancer": [p.detach().clone() for p in chosen.parameters()],
    }


def fit_alone(balancer: str) -> list[torch.Tensor]:
    """Gradients of a ``Balanced`` over an even share of the rows of each process."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    module, data = net(), rows(24)[int(os.environ.get("RANK", "0")) :: world]
    balanced = Balanced(balancer, shared=module.trunk, private=module.heads)
    for _ in range(2):
        if balanced.balancer.needs == "features":
            feature = module.represent(data.inputs, data.targets)
            balanced.backward(module.losses_at(feature, data), feature=feature)
        else:
            balanced.backward(lambda: module.losses(data))
    return [p.grad for p in module.parameters()]


def main(out: str) -> None:
    torch.set_num_threads(1)
    found: dict[Any, Any] = {}
    jobs: list[Any] = [(*combination, 1, False) for combination in COMBINATIONS]
    jobs += [(balancer, "plain", 2, False) for balancer in ACCUMULATED]
    jobs += [(balancer, "plain", 1, False, 0.3) for balancer in RANDOM]
    for job in [*jobs, *SHARDED]:
        found[job] = fit(*job)
    for balancer in ALONE:
        found["alone", balancer] = fit_alone(balancer)
    rank = Engine(device="cpu").rank
    torch.save(found, f"{out}.{rank}")


if __name__ == "__main__":
    main(sys.argv[1])
