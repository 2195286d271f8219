"""From several losses to one update: the four lawful routes.

Every route computes the *same* update on one process, on many, and with gradient accumulation,
because each part of a global batch contributes its share of the global mean loss, statistics are
summed over parts before a balancer sees them, and only then one direction is formed. (Balancing
each part on its own and averaging the results is another algorithm.)

    needs          what the balancer sees               passes over the trunk
    losses         losses [T]                           1 forward, 1 backward
    features       Gramian at the shared feature        1 forward, 1 backward
    last_layer     Gramian at the last shared layer     1 forward, 1 backward
    gramian        Gramian of the shared parameters     1 forward, T backward
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

import torch
from torch import Tensor, nn

from polytask.errors import InputError

Blocks = list[Tensor]


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
        reduce: sums tensors in place over processes.
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
        reduce: Callable[[Sequence[Tensor]], None] = lambda tensors: None,
        last_losses: Tensor | None = None,
        module: nn.Module | None = None,
    ) -> None:
        self.run, self.parts = run, parts
        self.terms, self.present = tuple(terms), tuple(present)
        self.shared, self.private = list(shared), list(private)
        self.last_shared = list(last_shared)
        self.reduce, self.module = reduce, module
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

    # -- how gradients are taken; sharded training replaces these three -------------------------

    def gradients(
        self, loss: Tensor, parameters: Sequence[nn.Parameter], *, retain: bool
    ) -> list[Tensor | None]:
        if not loss.requires_grad:
            return [None] * len(parameters)
        return list(torch.autograd.grad(loss, parameters, retain_graph=retain, allow_unused=True))

    def reduce_blocks(self, blocks: Blocks) -> None:
        self.reduce(blocks)

    def reduce_gramian(self, gramian: Tensor) -> None:
        """Gradients are whole on every process, so their Gramian is too."""

    def route(self, needs: str) -> Callable[[Problem, Callable], StepInfo]:
        """How gradients are balanced here; sharded training has routes of its own."""
        return ROUTES[needs]


def detached(part: Pass) -> dict[str, Tensor]:
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
    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=devices):
        yield


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


def gramian(blocks: Blocks, problem: Problem) -> Tensor:
    """``J Jᵀ`` ``[m, m]``, block by block, so that J is never copied into one matrix."""
    size = len(blocks[0])
    total = blocks[0].new_zeros((size, size))
    for block in blocks:
        rows = block.reshape(size, -1)
        total += rows @ rows.T
    problem.reduce_gramian(total)
    return total


def combine(blocks: Blocks, balancer: Callable, problem: Problem, losses: Tensor) -> Combined:
    """Aggregate gradient blocks into one direction with a gradient balancer."""
    product = gramian(blocks, problem)
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
    direction: Blocks
    weights: Tensor | None
    gramian: Tensor


# -- the routes: each leaves the update in `.grad` -----------------------------------------------


def balance(problem: Problem, balancer: Callable) -> StepInfo:
    """Write one balanced gradient into ``.grad`` of every parameter (added to what is there)."""
    return problem.route(balancer.needs)(problem, balancer)


def by_losses(problem: Problem, balancer: Callable) -> StepInfo:
    """Weights from loss values, then one backward pass of the weighted sum."""
    if problem.parts == 1 or balancer.linear:
        seen, parts = [], []
        for part in problem.passes():
            seen.append(detached(part))
            if balancer.linear:  # weights do not depend on the losses: no graph needs to wait
                fixed = balancer(Statistics(problem.last_losses, problem.index))
                _backward(problem, part, fixed)
            else:
                parts.append(part)
        losses = problem.collect(seen)
        weights = fixed if balancer.linear else balancer(Statistics(losses, problem.index))
        for part in parts:
            _backward(problem, part, weights)
    else:
        losses = problem.losses()
        weights = balancer(Statistics(losses, problem.index))
        for part in problem.passes():
            _backward(problem, part, weights)
    _reduce_grads(problem)
    return told(problem, losses, weights)


def by_site(problem: Problem, balancer: Callable) -> StepInfo:
    """Weights from gradients at one place (feature or last layer), then one trunk backward.

    With d = sum w_i g_i taken at the feature z, the trunk's gradient is (dz/dθ)ᵀ d: the Gramian of
    ∂L_i/∂z stands for that of ∂L_i/∂θ (an upper bound up to the norm of dz/dθ, as in MGDA-UB).
    """
    at_feature = balancer.needs == "features"
    m = len(problem.present)
    total = torch.zeros((m, m), device=problem.last_losses.device)
    sums: Blocks = [p.new_zeros((m, *p.shape)) for p in problem.last_shared]
    seen, kept = [], []
    guard = contextlib.nullcontext() if problem.parts == 1 else replayed_randomness()
    freeze = contextlib.nullcontext() if problem.parts == 1 else frozen_statistics(problem.module)
    with guard, freeze:
        for part in problem.passes():
            seen.append(detached(part))
            if not part.losses:  # this part has no label at all
                continue
            if at_feature and part.feature is None:
                raise InputError(
                    "this model has no single shared feature; use the balancer without "
                    "'features(...)'"
                )
            site = [part.feature] if at_feature else problem.last_shared
            rows = _site_rows(problem, part, site)
            if at_feature:
                flat = rows[0].flatten(1)
                total += flat @ flat.T
            else:
                for block, row in zip(sums, rows, strict=True):
                    block += row
            if problem.parts == 1:
                kept.append(part)
    if at_feature:
        problem.reduce([total])
    else:
        problem.reduce(sums)
        total = sum(b.flatten(1) @ b.flatten(1).T for b in sums)
    losses = problem.collect(seen)
    weights = balancer(Statistics(losses, problem.index, gramian=total))
    for part in kept or problem.passes():
        if balancer.weighs_heads:
            _backward(problem, part, weights)
        else:
            _backward(problem, part, weights, heads_weight=1.0)
    _reduce_grads(problem)
    return told(problem, losses, weights, total)


def by_jacobian(problem: Problem, balancer: Callable) -> StepInfo:
    """All T gradients of the trunk, aggregated; every head follows its own task's gradient."""
    shared, private, losses = jacobian(problem)
    result = combine(shared, balancer, problem, losses)
    add_grads(problem.shared, result.direction)
    weigh = result.weights if balancer.weighs_heads else None
    add_grads(
        problem.private, [b.sum(0) for b in private] if weigh is None else mix(private, weigh)
    )
    return told(problem, losses, result.weights, result.gramian)


ROUTES: dict[str, Callable[[Problem, Callable], StepInfo]] = {
    "losses": by_losses,
    "features": by_site,
    "last_layer": by_site,
    "gramian": by_jacobian,
    "jacobian": by_jacobian,
}


def add_grads(parameters: Sequence[nn.Parameter], gradients: Sequence[Tensor]) -> None:
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient


def _site_rows(problem: Problem, part: Pass, site: Sequence[Tensor]) -> Blocks:
    """Gradients of each present loss at the site, ``[m, *shape]`` each; the graph is kept."""
    rows = [t.new_zeros((len(problem.present), *t.shape)) for t in site]
    for i, name in enumerate(problem.present):
        if name in part.losses:
            found = torch.autograd.grad(
                part.losses[name], site, retain_graph=True, allow_unused=True
            )
            for row, gradient in zip(rows, found, strict=True):
                if gradient is not None:
                    row[i] = gradient
    return rows


def _backward(
    problem: Problem, part: Pass, weights: Tensor, heads_weight: float | None = None
) -> None:
    """Backward of the weighted sum; ``heads_weight`` 1 gives the heads their own gradients."""
    pairs = [
        (weights[i], part.losses[name])
        for i, name in enumerate(problem.present)
        if name in part.losses
    ]
    if not pairs:
        return
    weighted = torch.stack([w.detach().to(loss.device) * loss for w, loss in pairs]).sum()
    if heads_weight is None:
        weighted.backward()
        return
    plain = torch.stack([loss for _, loss in pairs]).sum()
    if problem.private:
        own = problem.gradients(plain, problem.private, retain=True)
        _accumulate(problem.private, own)
    _accumulate(problem.shared, problem.gradients(weighted, problem.shared, retain=False))


def _accumulate(parameters: Sequence[nn.Parameter], found: Sequence[Tensor | None]) -> None:
    for parameter, gradient in zip(parameters, found, strict=True):
        if gradient is not None:
            parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient


def _reduce_grads(problem: Problem) -> None:
    parameters = [*problem.shared, *problem.private]
    for parameter in parameters:  # every process must bring the same list to the sum
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    problem.reduce_blocks([p.grad for p in parameters])


def told(
    problem: Problem, losses: Tensor, weights: Tensor | None, product: Tensor | None = None
) -> StepInfo:
    values = losses.tolist()
    shown = {} if weights is None else dict(zip(problem.present, weights.tolist(), strict=True))
    return StepInfo(
        {name: values[problem.terms.index(name)] for name in problem.present},
        shown,
        problem.present,
        product,
    )
