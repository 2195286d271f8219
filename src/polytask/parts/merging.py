"""Merging checkpoints of one architecture: soups, and fusion weighed by how far each has moved.

Sources: model soups (Wortsman et al., arXiv 2203.05482); delta-guided fusion as in CoDiEmb (2025).

For every tensor p, checkpoints θ_1..θ_R of the same base θ_0:

    d_r = mean |θ_r - θ_0| over the tensor,    θ = Σ_r w_r(d) θ_r,    Σ_r w_r = 1

How d becomes w is a rule: a small frozen object, ``rule(d [R, ...]) -> w [R, ...]``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from polytask.config import parse_call
from polytask.errors import InputError

Weights = Mapping[str, Tensor]


class Rule(Protocol):
    """Weights that sum to 1 over the first dimension, from deviations of the same shape.

    ``fine``: deviations are ``|θ_r - θ_0|`` of each element, not of the whole tensor.
    """

    fine: ClassVar[bool]

    def __call__(self, deviations: Tensor, /) -> Tensor: ...


@dataclass(frozen=True)
class Delta:
    """``d_r / Σ d``: who moved a tensor most knows most about it; uniform if nobody moved it."""

    fine: ClassVar[bool] = False

    def __call__(self, deviations: Tensor) -> Tensor:
        return _shares(deviations)


@dataclass(frozen=True)
class Elementwise(Delta):
    """``Delta`` of every single element."""

    fine: ClassVar[bool] = True


@dataclass(frozen=True)
class Inverse:
    """``(1/d_r) / Σ 1/d``: who moved least counts most; who did not move at all takes all."""

    fine: ClassVar[bool] = False

    def __call__(self, deviations: Tensor) -> Tensor:
        least = deviations.amin(0, keepdim=True)
        ratio = least / deviations  # in (0, 1], and 0/0 where nothing moved
        return _shares(torch.where(deviations == 0, 1.0, ratio))


@dataclass(frozen=True)
class Softmax:
    """``softmax(beta * d_r / mean d)``; ``beta=0`` is the uniform soup."""

    beta: float = 1.0
    fine: ClassVar[bool] = False

    def __call__(self, deviations: Tensor) -> Tensor:
        mean = deviations.mean(0, keepdim=True).clamp(min=torch.finfo(deviations.dtype).tiny)
        return (self.beta * deviations / mean).softmax(0)

    def __str__(self) -> str:
        return f"softmax(beta={self.beta})"


@dataclass(frozen=True)
class Uniform:
    """``1/R``: the uniform soup."""

    fine: ClassVar[bool] = False

    def __call__(self, deviations: Tensor) -> Tensor:
        return torch.full_like(deviations, 1 / len(deviations))


RULES: dict[str, Callable[..., Rule]] = {
    "delta": Delta,
    "inverse": Inverse,
    "softmax": Softmax,
    "elementwise": Elementwise,
    "uniform": Uniform,
}


def merge(
    checkpoints: Sequence[Weights], base: Weights, rule: str | Rule = "delta"
) -> dict[str, Tensor]:
    """One checkpoint of several, tensor by tensor, in the type of the first.

    Raises:
        InputError: no checkpoint, other names or shapes than the base's, counters that differ.
    """
    check(checkpoints, base)
    weigh = parse_call(rule, RULES, "fusion") if isinstance(rule, str) else rule
    return {name: _merged(name, [c[name] for c in checkpoints], base[name], weigh) for name in base}


def fusion_weights(
    checkpoints: Sequence[Weights], base: Weights, rule: str | Rule = "delta"
) -> dict[str, Tensor]:
    """The weights of the checkpoints per tensor: ``[R]``, or ``[R, *shape]`` of a fine rule."""
    check(checkpoints, base)
    weigh = parse_call(rule, RULES, "fusion") if isinstance(rule, str) else rule
    return {
        name: weigh(_deviations([c[name] for c in checkpoints], tensor, weigh))
        for name, tensor in base.items()
        if tensor.is_floating_point()
    }


def uniform_soup(checkpoints: Sequence[Weights]) -> dict[str, Tensor]:
    """The plain mean of all checkpoints."""
    if not checkpoints:
        raise InputError("there is no checkpoint to merge")
    return merge(checkpoints, checkpoints[0], Uniform())


def greedy_soup(
    checkpoints: Sequence[Weights], score: Callable[[dict[str, Tensor]], float]
) -> dict[str, Tensor]:
    """Best first, a checkpoint joins the mean if the mean does not get worse.

    ``score`` (higher is better) looks at validation data; it is asked at most 2R times.
    """
    if not checkpoints:
        raise InputError("there is no checkpoint to merge")
    alone = [score(dict(checkpoint)) for checkpoint in checkpoints]
    first, *others = sorted(range(len(alone)), key=lambda i: -alone[i])
    members, soup, best = [checkpoints[first]], dict(checkpoints[first]), alone[first]
    for i in others:
        mixed = uniform_soup([*members, checkpoints[i]])
        if (reached := score(mixed)) >= best:
            members, soup, best = [*members, checkpoints[i]], mixed, reached
    return soup


def check(checkpoints: Sequence[Weights], base: Weights) -> None:
    """Refuse checkpoints that are not of the base's architecture."""
    if not checkpoints:
        raise InputError("there is no checkpoint to merge")
    for i, checkpoint in enumerate(checkpoints, 1):
        if odd := sorted(set(base) ^ set(checkpoint)):
            raise InputError(f"checkpoint {i} and the base do not share the tensor {odd[0]!r}")
        for name, tensor in base.items():
            if checkpoint[name].shape != tensor.shape:
                raise InputError(
                    f"checkpoint {i}: tensor {name!r} has shape {tuple(checkpoint[name].shape)}, "
                    f"the base's has {tuple(tensor.shape)}"
                )


def _merged(name: str, tensors: list[Tensor], base: Tensor, weigh: Rule) -> Tensor:
    first = tensors[0]
    if not first.is_floating_point():
        if any(not torch.equal(first, other) for other in tensors):
            raise InputError(f"tensor {name!r} holds whole numbers that differ; it has no mean")
        return first.clone()
    weights = weigh(_deviations(tensors, base, weigh)).to(torch.float64)
    weights = weights.reshape(len(tensors), *weights.shape[1:] or [1] * first.ndim)
    # θ_1 + Σ w_r (θ_r - θ_1): equal tensors come out to the bit.
    mixed = first.double()
    for weight, other in zip(weights[1:], tensors[1:], strict=True):
        mixed = mixed + weight * (other.double() - first.double())
    return mixed.to(first.dtype)


def _deviations(tensors: list[Tensor], base: Tensor, weigh: Rule) -> Tensor:
    """``[R]``, or ``[R, *shape]`` of a fine rule, float64."""
    moved = torch.stack([(t.double() - base.double()).abs() for t in tensors])
    return moved if weigh.fine else moved.reshape(len(moved), -1).mean(1)


def _shares(parts: Tensor) -> Tensor:
    total = parts.sum(0, keepdim=True)
    even = torch.full_like(parts, 1 / len(parts))
    return torch.where(total > 0, parts / total.clamp(min=torch.finfo(parts.dtype).tiny), even)
