"""Probes of a trained network: how sharp each task's loss is, how often tasks pull apart.

Source: F-MTL (Phan et al., arXiv 2211.13723), Sec. 5 and figure 3. A probe looks and leaves: the
weights, normalisation statistics and ``.grad`` are afterwards what they were. The module answers
in the mode it is in, so call ``module.eval()`` before to keep dropout out.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from polytask.data import Batch
from polytask.training import MultiTaskModule
from polytask.training.gradients import frozen_statistics
from polytask.training.steps import ascent, moved


def task_gradients(module: MultiTaskModule, batch: Batch) -> dict[str, list[Tensor]]:
    """Gradient of every labelled task in the shared parameters, as one tensor per parameter."""
    labelled = [task for task, count in batch.counts.items() if count]
    shared = module.shared_parameters()
    with frozen_statistics(module):
        losses = module.losses(batch.only(labelled))
    return {
        task: list(
            torch.autograd.grad(
                losses[task], shared, retain_graph=True, allow_unused=True, materialize_grads=True
            )
        )
        for task in labelled
    }


def sharpness(
    module: MultiTaskModule, batch: Batch, rho: float = 0.5, *, adaptive: bool = False
) -> dict[str, float]:
    """How much each task's loss rises where it rises fastest.

    S_i = L_i(θ_sh + ε_i, θ_i) − L_i(θ_sh, θ_i),  ε_i = ρ g_i/||g_i||,  g_i = ∇_{θ_sh} L_i

    ``adaptive``: ε_i = ρ θ²⊙g_i / ||θ⊙g_i||. All on the rows given; tasks without a label there
    are left out.
    """
    shared = module.shared_parameters()
    found = {}
    for task, gradients in task_gradients(module, batch).items():
        part = batch.only([task])
        with torch.no_grad(), frozen_statistics(module):
            here = module.losses(part)[task]
            with moved(shared, ascent(shared, gradients, rho, adaptive)):
                found[task] = float(module.losses(part)[task] - here)
    return found


def conflict_rate(module: MultiTaskModule, batches: Iterable[Batch]) -> Tensor:
    """Share of batches in which two tasks' shared gradients conflict, g_i·g_j < 0.

    Returns:
        ``[T, T]`` float64 in the order of ``module.tasks``; NaN on the diagonal and where two tasks
        never have labels in one batch.
    """
    names = list(module.tasks)
    conflicts = torch.zeros(len(names), len(names), dtype=torch.float64)
    seen = torch.zeros_like(conflicts)
    for batch in batches:
        gradients = task_gradients(module, batch)
        flat = torch.stack([torch.cat([g.flatten() for g in gs]) for gs in gradients.values()])
        rows = torch.tensor([names.index(task) for task in gradients])
        at = (rows.unsqueeze(1), rows.unsqueeze(0))
        conflicts[at] += ((flat @ flat.T) < 0).double().cpu()
        seen[at] += 1
    rate = conflicts / seen
    return rate.fill_diagonal_(float("nan"))
