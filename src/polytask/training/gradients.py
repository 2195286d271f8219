"""From several losses to one update: the four lawful routes.

Every route computes the *same* update on one process, on many, and with gradient accumulation,
because each part of a global batch contributes its share of the global mean loss, statistics are
summed over parts before a balancer sees them, and only then one direction is formed. (Balancing
each part on its own and averaging the results is another algorithm.)

    needs          what the balancer sees               passes over the trunk
    losses         losses [T]                           1 forward, 1 backward
    features       Gramian at the shared feature        1 forward, 1 backward
    last_layer     Gramian at the last shared layer     1 forward, 1 backward
    gramian        Gramian of the shared parameters     1 forward, T backward, see ``factored``
    jacobian       the T x n matrix itself              1 forward, T backward

With accumulation the first three run every part twice: once for the statistic, once for the update
(random state is replayed, so dropout sees the same masks).

Shapes: m tasks present, shared parameters as blocks ``[m, *parameter.shape]``.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from polytask.errors import InputError
from polytask.training.factored import Factored

Blocks = list[Tensor]


class Balances(Protocol):
    """What a route asks of a balancer; see ``balancers.Balancer``."""

    needs: Literal["losses", "features", "last_layer", "gramian", "jacobian"]
    linear: bool

    def __call__(self, statistics: Statistics, /) -> Tensor: ...


@dataclass
class Statistics:
    """What a balancer may look at; it reads the one it declared in ``needs``.

    Attributes:
        losses: global mean losses ``[T]``; a term absent from this batch keeps its last value.
        present: positions of the ``m`` terms that have labels in this batch.
        gramian: inner products of the present terms' gradients ``[m, m]``.
        jacobian: the present terms' gradients ``[m, n]``.
    """

    losses: Tensor
    present: list[int]
    gramian: Tensor | None = None
    jacobian: Tensor | None = None


@dataclass
class StepInfo:
    """What a step tells the log: per-term losses, weights and geometry (over ``terms``)."""

    losses: dict[str, float]
    weights: dict[str, float] = field(default_factory=dict)
    terms: tuple[str, ...] = ()
    gramian: Tensor | None = None


@dataclass
class Pass:
    """The losses of one part, each scaled to its share of the global mean."""

    losses: dict[str, Tensor]
    feature: Tensor | None = None


class Problem:
    """One update's losses: the parts (micro-batches) this process holds of a global batch.

    Args:
        run: ``run(part, only)`` gives the ``Pass`` of one part (``only`` restricts it to a term).
        parts: how many parts this process holds.
        terms: names of all losses in a fixed order; ``present`` those with labels in this batch.
        shared, private: parameters of the trunk and of the heads.
        reduce: sums tensors in place over processes; left out, this process holds all of the batch.
        last_losses: ``[T]`` memory of each term's last value, for terms without labels.
        module: whose normalisation statistics are frozen in second passes.
    """

    def __init__(
        self,
        run: Callable[[int, str | None], Pass],
        parts: int,
        terms: Sequence[str],
        present: Sequence[str],
        shared: Sequence[nn.Parameter],
        private: Sequence[nn.Parameter],
        *,
        last_shared: Sequence[nn.Parameter] = (),
        reduce: Callable[[Sequence[Tensor]], None] | None = None,
        last_losses: Tensor | None = None,
        module: nn.Module | None = None,
    ) -> None:
        self.run, self.parts = run, parts
        self.terms, self.present = tuple(terms), tuple(present)
        self.shared, self.private = list(shared), list(private)
        self.last_shared = list(last_shared)
        self.module = module
        self.reduce = reduce or (lambda tensors: None)
        # One graph then tells every gradient of the global batch.
        self.whole = parts == 1 and reduce is None
        self.last_losses = torch.ones(len(self.terms)) if last_losses is None else last_losses
        self.index = [self.terms.index(name) for name in self.present]
        overlap = {id(p) for p in self.shared} & {id(p) for p in self.private}
        if overlap:
            raise InputError("shared and task parameters overlap: a parameter is one or the other")

    def passes(self, only: str | None = None) -> Iterator[Pass]:
        for part in range(self.parts):
            yield self.run(part, only)

    def losses(self) -> Tensor:
        """Global losses ``[T]`` without gradients; normalisation statistics stay as they are."""
        with torch.no_grad(), frozen_statistics(self.module), replayed_randomness():
            return self.collect([detached(p) for p in self.passes()])

    def collect(self, passes: Sequence[Mapping[str, Tensor]]) -> Tensor:
        """Sum the parts of each loss over this process and over all; remember them."""
        found = torch.zeros(len(self.present), device=self.last_losses.device)
        for part in passes:
            for i, name in enumerate(self.present):
                if name in part:
                    found[i] += part[name]
        self.reduce([found])
        for name, value in zip(self.present, found.tolist(), strict=True):
            if not math.isfinite(value):
                raise FloatingPointError(f"the loss of {name!r} is {value}")
        self.last_losses[self.index] = found
        return self.last_losses.clone()

    # -- how gradients are taken; sharded training replaces the last two -------------------------

    def gradients(
        self, loss: Tensor, parameters: Sequence[nn.Parameter], *, retain: bool
    ) -> list[Tensor | None]:
        if not loss.requires_grad:
            return [None] * len(parameters)
        return list(torch.autograd.grad(loss, parameters, retain_graph=retain, allow_unused=True))

    def reduce_blocks(self, blocks: Blocks) -> None:
        self.reduce(blocks)

    def route(self, needs: str) -> Callable[[Problem, Balances], StepInfo]:
        """How gradients are balanced here; sharded training has routes of its own."""
        return ROUTES[needs]


def detached(part: Pass) -> dict[str, Tensor]:
    """The part's losses without their graph."""
    return {name: loss.detach() for name, loss in part.losses.items()}


@contextlib.contextmanager
def frozen_statistics(module: nn.Module | None) -> Iterator[None]:
    """Batch normalisation uses the batch but leaves its running statistics untouched."""
    norms = [
        layer
        for layer in (module.modules() if module is not None else ())
        if isinstance(layer, nn.modules.batchnorm._BatchNorm) and layer.track_running_stats
    ]
    for layer in norms:
        layer.track_running_stats = False
    try:
        yield
    finally:
        for layer in norms:
            layer.track_running_stats = True


@contextlib.contextmanager
def replayed_randomness() -> Iterator[None]:
    """Random state afterwards is what it was before: the next pass draws the same numbers."""
    generators = [torch.default_generator]
    if torch.cuda.is_initialized():
        generators.append(torch.cuda.default_generators[torch.cuda.current_device()])
    states = [generator.get_state() for generator in generators]
    try:
        yield
    finally:
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)


def seed_generators(seed: int) -> None:
    """Seed torch's generators as ``torch.manual_seed`` does, without its 0.2 ms on a bare CPU."""
    if torch.accelerator.is_available():
        torch.manual_seed(seed)
    else:
        torch.default_generator.manual_seed(seed)


# -- the statistics ------------------------------------------------------------------------------


def jacobian(problem: Problem, only: str | None = None) -> tuple[Blocks, Blocks, Tensor]:
    """Global gradients of every present term (or of one) at the current parameters.

    Returns:
        blocks ``[m, *shape]`` per shared parameter, blocks per private parameter, losses ``[T]``.
    """
    names = (only,) if only else problem.present
    parameters = [*problem.shared, *problem.private]
    blocks = [p.new_zeros((len(names), *p.shape)) for p in parameters]
    seen = []
    for part in problem.passes(only):
        left = [name for name in names if name in part.losses]
        for name in left:
            found = problem.gradients(part.losses[name], parameters, retain=name != left[-1])
            for block, gradient in zip(blocks, found, strict=True):
                if gradient is not None:
                    block[names.index(name)] += gradient
        seen.append(detached(part))
    problem.reduce_blocks(blocks)
    losses = problem.last_losses.clone() if only else problem.collect(seen)
    return blocks[: len(problem.shared)], blocks[len(problem.shared) :], losses


def gramian(blocks: Blocks) -> Tensor:
    """``J Jᵀ`` ``[m, m]``, block by block, so that J is never copied into one matrix."""
    size = len(blocks[0])
    total = blocks[0].new_zeros((size, size))
    for block in blocks:
        rows = block.reshape(size, -1)
        total += rows @ rows.T
    return total


def task_gramian(problem: Problem) -> Tensor:
    """``[m, m]`` at the current parameters, for a log; ``.grad`` stays as it is."""
    if problem.whole:
        return _factored(problem, problem.run(0, None), ()).gramian()
    return gramian(jacobian(problem)[0])


def _factored(problem: Problem, part: Pass, private: Sequence[nn.Parameter]) -> Factored:
    nothing = torch.zeros(())
    losses = [part.losses.get(name, nothing) for name in problem.present]
    return Factored(losses, problem.shared, private)


def combine(blocks: Blocks, balancer: Balances, problem: Problem, losses: Tensor) -> Combined:
    """Aggregate gradient blocks into one direction with a gradient balancer."""
    product = gramian(blocks)
    statistics = Statistics(losses, problem.index, gramian=product)
    if balancer.needs == "jacobian":
        statistics.jacobian = torch.cat([b.flatten(1) for b in blocks], dim=1)
        direction = balancer(statistics).split([b[0].numel() for b in blocks])
        parts = [d.reshape(b.shape[1:]) for d, b in zip(direction, blocks, strict=True)]
        return Combined(parts, None, product)
    weights = balancer(statistics)
    return Combined(mix(blocks, weights), weights, product)


def mix(blocks: Blocks, weights: Tensor) -> Blocks:
    """``Σ w_i g_i`` for every block ``[m, *shape]``."""
    return [torch.tensordot(weights.to(b.dtype), b, dims=1) for b in blocks]


@dataclass
class Combined:
    """One direction from many gradients, its weights where it has them, and what was weighed."""

    direction: Blocks
    weights: Tensor | None
    gramian: Tensor


# -- the routes: each leaves the update in `.grad` -----------------------------------------------


def balance(problem: Problem, balancer: Balances) -> StepInfo:
    """Write one balanced gradient into ``.grad`` of every parameter (added to what is there)."""
    if not problem.shared and balancer.needs != "losses":
        raise InputError("this model shares no parameters to balance over; use balancer 'sum'")
    return problem.route(balancer.needs)(problem, balancer)


def by_losses(problem: Problem, balancer: Balances) -> StepInfo:
    """Weights from loss values, then one backward pass of the weighted sum."""
    if balancer.linear:  # weights do not depend on the losses: no part has to wait for them
        weights = balancer(Statistics(problem.last_losses, problem.index))
        seen = []
        for part in problem.passes():
            _backward(problem, part, weights)
            seen.append(detached(part))
        losses = problem.collect(seen)
    else:
        kept = list(problem.passes()) if problem.parts == 1 else []
        losses = problem.collect([detached(p) for p in kept]) if kept else problem.losses()
        weights = balancer(Statistics(losses, problem.index))
        for part in kept or problem.passes():
            _backward(problem, part, weights)
    _reduce_grads(problem)
    return told(problem, losses, weights)


def by_features(problem: Problem, balancer: Balances) -> StepInfo:
    """Weights from the gradients at the shared feature z, then one pass over the trunk from there.

    With d = Σ w_i ∂L_i/∂z the trunk's gradient is (∂z/∂θ)ᵀ d, so the heads are passed once per
    term (which gives them their own gradients too) and the trunk once.
    """
    product = torch.zeros((len(problem.present),) * 2, device=problem.last_losses.device)
    seen, kept = [], []
    with _first_look(problem):
        for part in problem.passes():
            rows, heads = _at_feature(problem, part)
            product += rows.flatten(1) @ rows.flatten(1).T
            seen.append(detached(part))
            if problem.parts == 1:
                kept.append((part, rows, heads))
    problem.reduce([product])
    losses = problem.collect(seen)
    weights = balancer(Statistics(losses, problem.index, gramian=product))
    for part, rows, heads in kept or ((p, *_at_feature(problem, p)) for p in problem.passes()):
        accumulate(problem.private, heads)
        if part.feature is not None and part.feature.requires_grad:
            direction = mix([rows], weights)[0].to(part.feature.dtype)
            found = torch.autograd.grad(part.feature, problem.shared, direction, allow_unused=True)
            accumulate(problem.shared, found)
    _reduce_grads(problem)
    return told(problem, losses, weights, product)


def by_last_layer(problem: Problem, balancer: Balances) -> StepInfo:
    """Weights from the gradients of the last shared layer, then one backward pass."""
    m = len(problem.present)
    blocks: Blocks = [p.new_zeros((m, *p.shape)) for p in problem.last_shared]
    seen, kept = [], []
    with _first_look(problem):
        for part in problem.passes():
            for i, name in enumerate(problem.present):
                if name in part.losses:
                    found = problem.gradients(part.losses[name], problem.last_shared, retain=True)
                    for block, gradient in zip(blocks, found, strict=True):
                        if gradient is not None:
                            block[i] += gradient
            seen.append(detached(part))
            if problem.parts == 1:
                kept.append(part)
    problem.reduce_blocks(blocks)
    product = gramian(blocks)
    losses = problem.collect(seen)
    weights = balancer(Statistics(losses, problem.index, gramian=product))
    for part in kept or problem.passes():
        _backward(problem, part, weights)
    _reduce_grads(problem)
    return told(problem, losses, weights, product)


def by_gramian(problem: Problem, balancer: Balances) -> StepInfo:
    """T gradients of the trunk, kept as factors where one graph holds them all."""
    if not problem.whole:
        return by_jacobian(problem, balancer)
    part = problem.run(0, None)
    losses = problem.collect([detached(part)])
    gradients = _factored(problem, part, problem.private)
    product = gradients.gramian()
    weights = balancer(Statistics(losses, problem.index, gramian=product))
    accumulate(problem.shared, gradients.mix(weights))
    accumulate(problem.private, gradients.private_sums)
    _reduce_grads(problem)  # nothing to sum, but zeros for absent terms as on every other route
    return told(problem, losses, weights, product)


def by_jacobian(problem: Problem, balancer: Balances) -> StepInfo:
    """All T gradients of the trunk, aggregated; every head follows its own task's gradient."""
    shared, private, losses = jacobian(problem)
    result = combine(shared, balancer, problem, losses)
    accumulate(problem.shared, result.direction)
    accumulate(problem.private, [b.sum(0) for b in private])
    return told(problem, losses, result.weights, result.gramian)


ROUTES: dict[str, Callable[[Problem, Balances], StepInfo]] = {
    "losses": by_losses,
    "features": by_features,
    "last_layer": by_last_layer,
    "gramian": by_gramian,
    "jacobian": by_jacobian,
}


@contextlib.contextmanager
def _first_look(problem: Problem) -> Iterator[None]:
    """A pass that only measures: with several parts each is run again for the update."""
    if problem.parts == 1:
        yield
    else:
        with replayed_randomness(), frozen_statistics(problem.module):
            yield


def _at_feature(problem: Problem, part: Pass) -> tuple[Tensor, list[Tensor | None]]:
    """Each term's gradient at the feature ``[m, *z]``, and the heads' own, from one head pass each.

    A part without labels has no feature and gives one row of nothing.
    """
    heads: list[Tensor | None] = [None] * len(problem.private)
    if not part.losses:
        return torch.zeros((len(problem.present), 1), device=problem.last_losses.device), heads
    if part.feature is None:
        raise InputError(
            "this model has no single shared feature; use the balancer without 'features(...)'"
        )
    shape = (len(problem.present), *part.feature.shape)
    rows = torch.zeros(shape, device=part.feature.device)  # float32, also under autocast
    for i, name in enumerate(problem.present):
        if name not in part.losses:
            continue
        row, *own = torch.autograd.grad(
            part.losses[name],
            [part.feature, *problem.private],
            retain_graph=True,
            allow_unused=True,
        )
        if row is None:
            raise InputError(
                f"loss {name!r} does not read the shared feature; use the balancer without "
                "'features(...)'"
            )
        rows[i] = row
        heads = [_plus(old, new) for old, new in zip(heads, own, strict=True)]
    return rows, heads


def _backward(problem: Problem, part: Pass, weights: Tensor) -> None:
    """Backward of the weighted sum of the part's losses."""
    pairs = [
        (part.losses[name], weights[i].to(part.losses[name]))
        for i, name in enumerate(problem.present)
        if name in part.losses and part.losses[name].requires_grad
    ]
    if pairs:
        torch.autograd.backward([loss for loss, _ in pairs], [w.detach() for _, w in pairs])


def _plus(old: Tensor | None, new: Tensor | None) -> Tensor | None:
    return new if old is None else old if new is None else old + new


def accumulate(parameters: Sequence[nn.Parameter], found: Sequence[Tensor | None]) -> None:
    """Add gradients to ``.grad``; None where there is none."""
    for parameter, gradient in zip(parameters, found, strict=True):
        parameter.grad = _plus(parameter.grad, gradient)


def _reduce_grads(problem: Problem) -> None:
    parameters = [*problem.shared, *problem.private]
    for parameter in parameters:  # every process must bring the same list to the sum
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    problem.reduce_blocks([p.grad for p in parameters if p.grad is not None])


def told(
    problem: Problem, losses: Tensor, weights: Tensor | None, product: Tensor | None = None
) -> StepInfo:
    """The record of a step from what its route found."""
    values = losses.tolist()
    shown = {} if weights is None else dict(zip(problem.present, weights.tolist(), strict=True))
    return StepInfo(
        {name: values[problem.terms.index(name)] for name in problem.present},
        shown,
        problem.present,
        product,
    )
