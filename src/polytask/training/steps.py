"""Steps: how one update is made from the losses. Any step works with any lawful balancer."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from polytask.config import parse_call
from polytask.training.balancers import Balancer
from polytask.training.gradients import (
    Problem,
    StepInfo,
    accumulate,
    balance,
    combine,
    frozen_statistics,
    jacobian,
    mix,
    told,
)


class Step(Protocol):
    """``step(problem, balancer)`` leaves one update's gradient in ``.grad``.

    ``prepare(balancer)`` makes room for what the step keeps with it, before training;
    ``unlawful(balancer, sharded)`` says why a combination would be silently wrong and what to use
    instead, or None.
    """

    def __call__(self, problem: Problem, balancer: Balancer) -> StepInfo: ...

    def prepare(self, balancer: Balancer) -> Balancer: ...

    def unlawful(self, balancer: Balancer, *, sharded: bool) -> str | None: ...


@dataclass(frozen=True)
class Plain:
    """One balanced gradient at the current parameters."""

    def __call__(self, problem: Problem, balancer: Balancer) -> StepInfo:
        return balance(problem, balancer)

    def prepare(self, balancer: Balancer) -> Balancer:
        return balancer

    def unlawful(self, balancer: Balancer, *, sharded: bool) -> str | None:
        if sharded and balancer.needs not in ("losses", "gramian"):
            return (
                f"balancer {balancer} needs {balancer.needs}, which sharded (FSDP2) parameters do "
                "not give; use a gramian or loss balancer, or run without sharding"
            )
        return None

    def __str__(self) -> str:
        return "plain"


@dataclass(frozen=True)
class SAM:
    """Sharpness-aware minimisation of the balanced objective (Foret et al., arXiv 2010.01412).

    ε = ρ g/||g|| for the balanced gradient g over all parameters; the update is the balanced
    gradient at θ + ε. ``adaptive`` (ASAM, arXiv 2102.11600): ε = ρ θ²⊙g / ||θ⊙g||.

    At both points the balancer starts from the same running state (and draws the same numbers), and
    keeps what it learnt at θ.
    """

    rho: float = 0.05
    adaptive: bool = False

    def __call__(self, problem: Problem, balancer: Balancer) -> StepInfo:
        balancer.prepare(len(problem.terms))
        before = copy.deepcopy(balancer.state_dict())
        info = balance(problem, balancer)
        parameters = [*problem.shared, *problem.private]
        gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
        moves = ascent(parameters, gradients, self.rho, self.adaptive)
        for parameter in [*parameters, *balancer.parameters()]:
            parameter.grad = None
        after = copy.deepcopy(balancer.state_dict())
        last_losses = problem.last_losses.clone()
        balancer.load_state_dict(before)
        with moved(parameters, moves), frozen_statistics(problem.module):
            balance(problem, balancer)
        balancer.load_state_dict(after)
        problem.last_losses.copy_(last_losses)
        return info

    def prepare(self, balancer: Balancer) -> Balancer:
        return balancer

    def unlawful(self, balancer: Balancer, *, sharded: bool) -> str | None:
        if sharded:
            return "step sam perturbs whole parameters; on sharded (FSDP2) ones use step plain"
        return Plain().unlawful(balancer, sharded=sharded)

    def __str__(self) -> str:
        return f"sam(rho={self.rho}, adaptive={self.adaptive})"


@dataclass(frozen=True)
class TaskFlat:
    """F-MTL, Algorithm 1 (Phan et al., arXiv 2211.13723; ICCV 2025): per-task flat regions.

    For every task i, at the same θ = (θ_sh, θ_i):

        g_i = ∇_sh L_i, h_i = ∇_{θ_i} L_i
        ε_sh^i = ρ g_i/||g_i||, ε_i = ρ h_i/||h_i||          (norm over the whole group)
        adaptive: ε = ρ θ²⊙g / ||θ⊙g||
        g_i^SAM, h_i^SAM = ∇ L_i(θ_sh + ε_sh^i, θ_i + ε_i)
        g_i^flat = g_i^SAM - g_i
        g_sh = A(g_1..g_m) + A(g_1^flat..g_m^flat);  heads follow h_i^SAM

    Costs 2m gradients: one shared forward and m backwards at θ, then m forwards and m backwards at
    m different points, in which normalisation statistics stay frozen.

    With a balancer that needs ``losses`` A is the weighted sum with the weights at θ (F-LS is
    ``sum``); its update is then Σ w_i g_i^SAM.

    Args:
        rho: radius ρ for both groups; the paper's runs use 2 with ``adaptive``, else 0.05.
    """

    rho: float = 2.0
    adaptive: bool = True

    def __call__(self, problem: Problem, balancer: Balancer) -> StepInfo:
        shared, private, losses = jacobian(problem)
        raised_shared = [torch.empty_like(block) for block in shared]
        raised_private = [torch.zeros_like(p) for p in problem.private]
        for i, name in enumerate(problem.present):
            up = ascent(problem.shared, [b[i] for b in shared], self.rho, self.adaptive)
            own = ascent(problem.private, [b[i] for b in private], self.rho, self.adaptive)
            with (
                moved(problem.shared, up),
                moved(problem.private, own),
                frozen_statistics(problem.module),
            ):
                rows, heads, _ = jacobian(problem, only=name)
            for block, row in zip(raised_shared, rows, strict=True):
                block[i] = row[0]
            for total, head in zip(raised_private, heads, strict=True):
                total += head[0]
        first = combine(shared, balancer, problem, losses)
        flat = [high.sub_(low) for high, low in zip(raised_shared, shared, strict=True)]
        if first.weights is not None and balancer.needs == "losses":
            second = mix(flat, first.weights)
        else:
            second = combine(flat, self.prepare(balancer), problem, losses).direction
        accumulate(problem.shared, [a + b for a, b in zip(first.direction, second, strict=True)])
        accumulate(problem.private, raised_private)
        return told(problem, losses, first.weights, first.gramian)

    def prepare(self, balancer: Balancer) -> Balancer:
        """The balancer of the flat parts: running state (Nash-MTL, GradVac) of its own."""
        if balancer.twin is None:
            balancer.twin = copy.deepcopy(balancer)
        return balancer.twin

    def unlawful(self, balancer: Balancer, *, sharded: bool) -> str | None:
        if sharded:
            return "step flat perturbs whole parameters; on sharded (FSDP2) ones use step plain"
        if balancer.needs in ("features", "last_layer"):
            return (
                f"step flat aggregates gradients at m different points, where {balancer} has no "
                "common feature to compare; use a gramian, jacobian or loss balancer"
            )
        return None

    def __str__(self) -> str:
        return f"flat(rho={self.rho}, adaptive={self.adaptive})"


@torch.no_grad()
def ascent(
    parameters: Sequence[Tensor], gradients: Sequence[Tensor], rho: float, adaptive: bool
) -> list[Tensor]:
    """ε of (adaptive) SAM for one group of parameters; the norm runs over the whole group."""
    if adaptive:
        scaled = [p * g for p, g in zip(parameters, gradients, strict=True)]
        scale = rho / (_norm(scaled) + 1e-12)
        return [p * s * scale for p, s in zip(parameters, scaled, strict=True)]
    scale = rho / (_norm(gradients) + 1e-12)
    return [g * scale for g in gradients]


def _norm(tensors: Sequence[Tensor]) -> Tensor:
    if not tensors:
        return torch.zeros(())
    return torch.stack([t.norm() for t in tensors]).norm()


@contextlib.contextmanager
def moved(parameters: Sequence[nn.Parameter], moves: Sequence[Tensor]) -> Iterator[None]:
    """Parameters displaced by ``moves`` inside, bit-identical to before outside."""
    kept = [p.detach().clone() for p in parameters]
    with torch.no_grad():
        for parameter, move in zip(parameters, moves, strict=True):
            parameter.add_(move)
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, value in zip(parameters, kept, strict=True):
                parameter.copy_(value)


STEPS = {"plain": Plain, "sam": SAM, "flat": TaskFlat}


def as_step(value: str | Step) -> Step:
    """A step from its text (``"flat(rho=2.0)"``) or itself."""
    return parse_call(value, STEPS, "step") if isinstance(value, str) else value
