"""Heads that begin where a linear probe would end, so that fine-tuning spoils less of an encoder.

Source: Kumar et al., "Fine-Tuning can Distort Pretrained Features and Underperform Out-of-
    Distribution", ICLR 2022 (arXiv 2202.10054): linear probing, then fine-tuning.

With the network as it comes, every head W is fitted alone on what it will read:

    min over W of  mean loss of the task + λ / (2 N) ||W||²,    N: labelled rows

Differs from the paper: λ is fixed, and a head is fitted on at most ``rows`` rows.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from polytask.data import Batch
from polytask.training import MultiTaskModule


class _Seen(NamedTuple):
    """What a task's head reads of some rows, and what it should answer."""

    representation: Any
    target: Tensor
    mask: Tensor


def start_heads(
    module: MultiTaskModule,
    data: Batch,
    device: torch.device,
    *,
    rows: int = 2000,
    ridge: float = 1.0,
    steps: int = 100,
    seed: int = 0,
) -> None:
    """Fit the heads of a fresh module on its training rows, in place; a task may have none.

    Args:
        rows: of a task, drawn at random from the labelled ones where there are more.
        ridge: λ.
        steps: of L-BFGS.
    """
    module.to(device).eval()
    for name in module.tasks:
        head = list(module.heads[name].parameters())
        labelled = data.masks[name].nonzero().squeeze(1).numpy()
        if not head or not len(labelled):
            continue
        chosen = np.random.default_rng(seed).permutation(labelled)[:rows]
        part = data.take(torch.from_numpy(chosen)).only([name])
        _fit(module, name, _seen(module, name, part, device), len(chosen), ridge, steps)


@torch.no_grad()
def _seen(module: MultiTaskModule, name: str, data: Batch, device: torch.device) -> list[_Seen]:
    if data.lengths is not None:  # texts of like length together: less padding
        data = data.take(torch.from_numpy(np.argsort(-data.lengths, kind="stable")))
    found = []
    for chunk in data.chunks(device.type):
        part = chunk.to(device)
        found.append(
            _Seen(module.represent(part.inputs, [name]), part.targets[name], part.masks[name])
        )
    return found


def _fit(
    module: MultiTaskModule, name: str, seen: list[_Seen], rows: int, ridge: float, steps: int
) -> None:
    head, kind = list(module.heads[name].parameters()), module.tasks[name].kind
    optimizer = torch.optim.LBFGS(head, max_iter=steps, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        weights = torch.stack([p.float().square().sum() for p in head if p.ndim > 1])
        parts = [ridge / (2 * rows) * weights.sum()]
        for part in seen:
            output = module.answer(part.representation, name).float()
            parts.append(len(part.mask) / rows * kind.loss(output, part.target, part.mask))
        total = torch.stack(parts).sum()
        total.backward()
        return total

    optimizer.step(loss)
    optimizer.zero_grad(set_to_none=True)
