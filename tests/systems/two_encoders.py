"""What CoDiEmb's losses and updates are, on this process or on the two that share them.

test_codiemb_processes.py takes the reference from ``everything`` and runs this file as two
processes: ``python two_encoders.py OUT`` writes ``OUT.0`` and ``OUT.1``.
"""

from __future__ import annotations

import copy
import os
import sys
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from polytask.data import as_mixture
from polytask.data.two_views import SEEN, TwoViews, two_views
from polytask.systems.codiemb import (
    OBJECTIVES,
    CoDiEmb,
    Embedded,
    EmbeddingNet,
    Objective,
    Shuffled,
    as_objective,
)
from polytask.tasks import Retrieval, Similarity, Task
from polytask.testing import search_suite
from polytask.training import Engine, Training, as_balancer, as_step, train

ROWS = 11  # an odd number: the processes hold 6 and 5


class Layers(EmbeddingNet):
    """Vectors in the place of texts: two layers, the first of which is the middle."""

    def __init__(self, tasks: tuple[Task, ...], objective: Objective) -> None:
        super().__init__(tasks, objective)
        self.first, self.last = nn.Linear(SEEN + 1, 32), nn.Linear(32, 16)

    def embed(self, rows: Tensor, role: str, *, middle: bool = False) -> Embedded:
        hidden = torch.tanh(self.first(rows))
        inside = F.normalize(hidden, dim=-1) if middle else None
        return Embedded(F.normalize(self.last(hidden), dim=-1), inside)

    def present(self, rows: Tensor) -> Tensor:
        return torch.ones(len(rows), dtype=torch.bool)


def data() -> TwoViews:
    return two_views(rows=(44, 11, 11), seed=0)


def net(objective: str) -> Layers:
    torch.manual_seed(0)
    tasks = (
        Task("similarity", Similarity(0.0, 1.0), texts=("text", "text_pair")),
        Task("retrieval", Retrieval(), texts=("text", "texts")),
    )
    return Layers(tasks, as_objective(objective))


def everything() -> dict[str, Any]:
    """Losses and gradients of one batch, and weights after some updates, per objective."""
    found: dict[str, Any] = {}
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    parts = data()
    rows = parts.train
    rows.inputs["texts"][50, 3:] = 0
    rows.targets["retrieval"][50, 1:] = torch.tensor([0.0, 0, float("nan"), float("nan"), 0])
    for objective in OBJECTIVES:
        made = net(objective)
        for task in made.tasks:
            batch = rows[rows.masks[task].nonzero().squeeze(1)[:ROWS]].only([task])
            batch = batch[torch.arange(rank, ROWS, world)]
            loss = made.losses(batch)[task] * len(batch) / ROWS
            gradients = torch.autograd.grad(loss, list(made.parameters()))
            engine = Engine(device="cpu")
            engine.reduce([value := loss.detach().clone(), *gradients])
            found[objective, task] = (value, [g.clone() for g in gradients])
        state = train(
            made,
            Shuffled(rows, ("texts",)),
            parts.validation,
            Training(lr=1e-2, batch=ROWS, epochs=2, device="cpu"),
            step=as_step("plain"),
            balancer=as_balancer("sum"),
            mixture=as_mixture("tasks"),
            engine=Engine(device="cpu"),
        )
        losses = [record["loss"] for record in state.history]
        found[objective, "fit"] = (losses, copy.deepcopy(made.state_dict()))
    found["learner"] = learned()
    return found


def learned() -> tuple[list[dict[str, float]], dict[str, Tensor]]:
    """Losses and weights of the learner itself, on texts; batches of 7 rows."""
    learner = CoDiEmb(
        encoder="bert(width=16, depth=2, heads=2, dropout=0.0)",
        vocabulary=120,
        training=Training(lr=1e-3, batch=7, epochs=1, device="cpu"),
    ).fit(search_suite())
    return [record["loss"] for record in learner.history_], learner.module_.state_dict()


if __name__ == "__main__":
    torch.set_num_threads(1)
    Engine(device="cpu")  # starts the process group
    torch.save(everything(), f"{sys.argv[1]}.{os.environ['RANK']}")
    torch.distributed.destroy_process_group()
