"""Sharded training with FSDP2: every process keeps a slice of each parameter.

``torch.autograd.grad`` sees no gradient of a sharded parameter, so every task makes a backward pass
of its own, whose reduce-scatter sums over processes and leaves each one its slice; the Gramian of
the slices is summed, and the weighted sum of the slices is the update. What needs more than that
(whole gradients, or moved parameters) is refused at start.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from polytask.errors import InputError
from polytask.training.gradients import (
    Balances,
    Blocks,
    Problem,
    Statistics,
    StepInfo,
    by_losses,
    detached,
    told,
)

M = TypeVar("M", bound=nn.Module)


def refuse_wrapped(module: nn.Module) -> None:
    """Raise for a module that DDP or FSDP (either version) has wrapped already."""
    wrappers: tuple[type, ...] = (nn.parallel.DistributedDataParallel,)
    if fsdp := sys.modules.get("torch.distributed.fsdp"):  # slow to import, so only if it is there
        wrappers = (*wrappers, fsdp.FSDPModule, fsdp.FullyShardedDataParallel)
    for part in module.modules():
        if isinstance(part, wrappers):
            raise InputError(
                f"{type(part).__name__} is wrapped for several processes already, which changes or "
                "hides task gradients; give the bare module (training.sharded=True shards it)"
            )


def shard(module: M, device: torch.device, world: int) -> M:
    """A sharded copy; the module itself stays whole, to be filled again after training."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    copied = copy.deepcopy(module)
    mesh = init_device_mesh(device.type, (world,))
    handle = fully_shard(copied, mesh=mesh, reshard_after_forward=True)
    # Losses are shares of one mean, so their gradients are summed (gloo knows no scaled sum).
    handle.set_gradient_divide_factor(1.0)
    handle.set_force_sum_reduction_for_comms(True)
    register_fsdp_forward_method(copied, "outputs")
    return copied


class ShardedProblem(Problem):
    """One update's losses over sharded parameters."""

    def route(self, needs: str) -> Callable[[Problem, Balances], StepInfo]:
        """The two that FSDP2 has; ``Step.unlawful`` refuses the others at start."""
        return by_losses if needs == "losses" else by_backwards

    def reduce_blocks(self, blocks: Blocks) -> None:
        """Every backward has summed over processes already."""


def by_backwards(problem: Problem, balancer: Balances) -> StepInfo:
    """Slices of every task's gradient, their Gramian, and the weighted sum of the slices."""
    parameters = [*problem.shared, *problem.private]
    rows: list[Blocks] = [[] for _ in problem.present]
    seen = []
    for part in problem.passes():
        for i, name in enumerate(problem.present):
            part.losses[name].backward(retain_graph=name != problem.present[-1])
            found = [_slice(p) for p in parameters]
            rows[i] = [a + b for a, b in zip(rows[i], found, strict=True)] if rows[i] else found
        seen.append(detached(part))
    losses = problem.collect(seen)
    shared = len(problem.shared)
    product = torch.stack([torch.stack([_dot(a[:shared], b[:shared]) for b in rows]) for a in rows])
    problem.reduce([product])
    weights = balancer(Statistics(losses, problem.index, gramian=product))
    for k, parameter in enumerate(parameters):
        factors = weights.tolist() if k < shared else [1.0] * len(rows)
        total = sum(w * row[k] for w, row in zip(factors, rows, strict=True))
        parameter.grad = _as_shard(total, parameter)
    return told(problem, losses, weights, product)


def _slice(parameter: nn.Parameter) -> Tensor:
    """This process's slice of the gradient, taken off the parameter."""
    gradient, parameter.grad = parameter.grad, None
    if gradient is None:
        return torch.zeros_like(parameter.to_local())  # type: ignore[attr-defined]
    return gradient.to_local()  # type: ignore[attr-defined]


def _as_shard(value: Tensor, like: Tensor) -> Tensor:
    from torch.distributed.tensor import DTensor

    assert isinstance(like, DTensor)
    return DTensor.from_local(
        value, like.device_mesh, like.placements, shape=like.shape, stride=like.stride()
    )


def _dot(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    return torch.stack([(x * y).sum() for x, y in zip(a, b, strict=True)]).sum()


def whole(value: Any) -> Any:
    """Nested state with every sharded tensor gathered to the CPU; all processes must call it."""
    if hasattr(value, "full_tensor"):
        return value.detach().full_tensor().cpu()
    if isinstance(value, dict):
        return {k: whole(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [whole(v) for v in value]
    return value


def load_weights(module: nn.Module, weights: dict[str, Tensor]) -> None:
    """Whole weights into a module, sharded or not."""
    own = module.state_dict()
    module.load_state_dict({k: sliced(v, own[k]) for k, v in weights.items()})


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Whole optimiser state into an optimiser of sharded parameters or not."""
    optimizer.load_state_dict(state)
    for parameter, held in optimizer.state.items():
        for key, value in held.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                held[key] = sliced(value, parameter)


def sliced(value: Tensor, like: Tensor) -> Tensor:
    """A whole tensor as ``like`` is held."""
    if not hasattr(like, "full_tensor"):
        return value
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements)  # type: ignore[attr-defined]
