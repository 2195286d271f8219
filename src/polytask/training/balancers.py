"""Balancers: how several losses become one update. The formula book.

A balancer declares in ``needs`` what it must be given and answers with weights over the present
terms (``needs="jacobian"``: with a direction). Scalarizers and aggregators come from torchjd; here
are the names, the adapters, and the two methods torchjd lacks (GradNorm, scale-invariant).

m tasks, gradients g_i (rows of J), G = J Jᵀ, direction d, step θ ← θ - η d.

    name         needs     rule                                                   source
    sum          losses    Σ L_i  (equal weights; LS)
    mean         losses    1/m Σ L_i
    constant     losses    Σ w_i L_i
    si           losses    Σ log L_i                                 scale-invariant
    uw           losses    Σ ½ e^{-s_i} L_i + ½ s_i, s learned                    1705.07115
    dwa          losses    w_i = m softmax_i(r_i/T), r_i = L̄_i(t-1)/L̄_i(t-2)       1803.10704
    rlw          losses    w = softmax(N(0, I)) each step                         2111.10603
    imtl_l       losses    Σ e^{s_i} L_i - s_i, s learned                         IMTL, ICLR 2021
    gls          losses    (Π L_i)^{1/m}                              geometric mean
    famo         losses    log-losses weighted by softmax(ξ), ξ learned in hindsight  2306.03792
    stch         losses    smooth Tchebycheff                                     2402.19078
    gradnorm     last_layer  equal gradient norms, slower tasks favoured          1711.02257
    mgda         gramian   min over the simplex of ||Σ α_i g_i||²                 1810.04650
    pcgrad       gramian   project conflicting gradients off each other, sum      2001.06782
    cagrad       gramian   g_0 + c||g_0|| g_w/||g_w||                             2110.14048
    imtl_g       gramian   equal projections on every g_i/||g_i||                 IMTL, ICLR 2021
    nash_mtl     gramian   α > 0 with G α = 1/α                                   2202.01017
    fairgrad     gramian   G α = α^{-1/a}                                         2402.15638
    aligned_mtl  gramian   condition number of G brought to one                   2305.19000
    upgrad       gramian   mean of the g_i projected on the dual cone             2406.16232
    dualproj     gramian   the mean gradient projected on the dual cone           1706.08840 (m > 2)
    gradvac      gramian   raise cosines to a moving target                       2010.05874
    excess_mtl   jacobian  weights from estimated excess risks                    2402.02009
    graddrop     jacobian  keep one sign per coordinate at random                 2010.06808
    config       jacobian  pinv of the unit rows, length Σ g_i·d̂                  2408.11104
    features(X)  features  any gramian balancer X at the shared feature
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torchjd import aggregation as ag
from torchjd import scalarization as sc

from polytask.config import parse_call
from polytask.errors import InputError
from polytask.training.gradients import Statistics, replayed_randomness, seed_generators

Needs = Literal["losses", "features", "last_layer", "gramian", "jacobian"]


class Balancer(nn.Module):
    """Base of all balancers: ``balancer(statistics) -> weights [m]`` (or a direction ``[n]``).

    Attributes:
        needs: the statistic it reads; the loop picks the gradient route from it.
        linear: its weights do not depend on this batch, so no extra pass is needed for them.
        weighs_heads: task heads follow weighted gradients too (aggregators leave heads alone).
        looks_back: wants ``after(losses)`` with the losses of the same batch after the update.
    """

    needs: Needs = "losses"
    linear = False
    looks_back = False
    seed: int | None = None

    def __init__(self) -> None:
        super().__init__()
        self.text = type(self).__name__.lower()
        self.twin: Balancer | None = None  # a second copy with running state of its own

    @property
    def weighs_heads(self) -> bool:
        return self.needs == "losses"

    def prepare(self, terms: int) -> None:
        """Make room for ``terms`` losses; called once before training."""

    def draw_from(self, seed: int) -> None:
        """Let random draws follow from ``seed`` alone, so that every process makes the same."""
        self.seed = seed
        if self.twin is not None:
            self.twin.draw_from(seed + 1)

    def __call__(self, statistics: Statistics) -> Tensor:
        if self.seed is None or self.linear:
            return super().__call__(statistics)
        with replayed_randomness():
            seed_generators(self.seed)
            return super().__call__(statistics)

    def forward(self, statistics: Statistics) -> Tensor:
        raise NotImplementedError

    def after(self, losses: Tensor) -> None:
        """See the losses ``[T]`` of the same batch after the update."""

    def end_epoch(self) -> None:
        """An epoch is over."""

    def __str__(self) -> str:
        return self.text


class Scalarized(Balancer):
    """A torchjd scalarizer f(L): weights are ∂f/∂L_i at the *global* losses.

    Backward of Σ w_i L_i then equals backward of f(L), on any number of processes. Parameters of f
    (uncertainties) receive their own gradient here and are stepped by the model's optimiser.
    """

    def __init__(self, make: Callable[[int], sc.Scalarizer], *, linear: bool = False) -> None:
        super().__init__()
        self._make, self.linear = make, linear
        self.scalarizer: sc.Scalarizer | None = None

    def prepare(self, terms: int) -> None:
        if self.scalarizer is None:
            self.scalarizer = self._make(terms)
            self.looks_back = hasattr(self.scalarizer, "update")

    def forward(self, statistics: Statistics) -> Tensor:
        self.prepare(len(statistics.losses))
        assert self.scalarizer is not None
        with torch.enable_grad():
            losses = statistics.losses.detach().requires_grad_()
            self.scalarizer(losses).backward()
        assert losses.grad is not None
        return losses.grad[statistics.present]

    def after(self, losses: Tensor) -> None:
        self.scalarizer.update(losses)  # type: ignore[union-attr, operator]

    def end_epoch(self) -> None:
        if hasattr(self.scalarizer, "step"):
            self.scalarizer.step()  # type: ignore[union-attr, operator]

    def get_extra_state(self) -> dict[str, Any]:
        return _hidden_state(self.scalarizer)

    def set_extra_state(self, state: dict[str, Any]) -> None:
        if "_optimizer" in state:  # FAMO makes its Adam at the first update
            famo: Any = self.scalarizer
            famo._optimizer = torch.optim.Adam(
                [famo._w], lr=famo.lr, weight_decay=famo.weight_decay
            )
        _restore_hidden(self.scalarizer, state)


class GramianWeighted(Balancer):
    """A torchjd weighting of the Gramian."""

    needs: Needs = "gramian"

    def __init__(self, weighting: nn.Module) -> None:
        super().__init__()
        self.weighting = weighting

    def forward(self, statistics: Statistics) -> Tensor:
        assert statistics.gramian is not None
        return self.weighting(statistics.gramian).to(statistics.gramian.dtype)

    def get_extra_state(self) -> dict[str, Any]:
        return _hidden_state(self.weighting)

    def set_extra_state(self, state: dict[str, Any]) -> None:
        _restore_hidden(self.weighting, state)


class NashMTL(Balancer):
    """torchjd's Nash-MTL fed with a root R of G (R Rᵀ = G): its weights depend on J only through G.

    One solver per number of present tasks, because the solver's state is of fixed size.
    """

    needs: Needs = "gramian"

    def __init__(self, **options: Any) -> None:
        super().__init__()
        ag.NashMTL(n_tasks=2, **options)  # a wrong option or a missing solver is told at once
        self._options = options
        self._solvers: dict[int, Any] = {}

    def forward(self, statistics: Statistics) -> Tensor:
        assert statistics.gramian is not None
        values, vectors = torch.linalg.eigh(statistics.gramian.double())
        root = vectors * values.clamp(min=0).sqrt()
        return self._solver(len(root)).weighting(root).to(statistics.gramian)

    def _solver(self, tasks: int) -> Any:
        if tasks not in self._solvers:
            self._solvers[tasks] = ag.NashMTL(n_tasks=tasks, **self._options)
        return self._solvers[tasks]

    def get_extra_state(self) -> dict[str, Any]:
        return {
            str(m): {"step": s.weighting.step, "alpha": s.weighting.prvs_alpha.tolist()}
            for m, s in self._solvers.items()
        }

    def set_extra_state(self, state: dict[str, Any]) -> None:
        import numpy as np

        for tasks, saved in state.items():
            weighting = self._solver(int(tasks)).weighting
            weighting._init_optim_problem()
            weighting.step = saved["step"]
            weighting.prvs_alpha = np.asarray(saved["alpha"])


class Aggregated(Balancer):
    """A torchjd aggregator that is more than a weighting: it sees J ``[m, n]`` itself."""

    needs: Needs = "jacobian"

    def __init__(self, aggregator: nn.Module) -> None:
        super().__init__()
        self.aggregator = aggregator

    def forward(self, statistics: Statistics) -> Tensor:
        assert statistics.jacobian is not None
        return self.aggregator(statistics.jacobian)

    def get_extra_state(self) -> dict[str, Any]:
        return _hidden_state(getattr(self.aggregator, "weighting", self.aggregator))

    def set_extra_state(self, state: dict[str, Any]) -> None:
        _restore_hidden(getattr(self.aggregator, "weighting", self.aggregator), state)


class AtFeatures(Balancer):
    """A Gramian balancer applied to gradients at the shared feature z instead of the parameters.

    Another, named algorithm (MGDA-UB is ``features(mgda)``): ∂L_i/∂θ = (∂z/∂θ)ᵀ ∂L_i/∂z, so the
    Gramian at z equals that at θ only where ∂z/∂θ has orthonormal rows; it costs one backward pass
    of the trunk instead of T.
    """

    needs: Needs = "features"

    def __init__(self, inner: Balancer | str) -> None:
        super().__init__()
        self.inner = as_balancer(inner)
        if self.inner.needs != "gramian":
            raise InputError(f"features(...) takes a gramian balancer, not {self.inner}")

    def prepare(self, terms: int) -> None:
        self.inner.prepare(terms)

    def forward(self, statistics: Statistics) -> Tensor:
        return self.inner(statistics)


class ScaleInvariant(sc.Scalarizer):
    """Σ log L_i: multiplying a loss by a constant changes nothing."""

    def forward(self, values: Tensor, /) -> Tensor:
        return values.log().sum()


class GradNorm(Balancer):
    """GradNorm (Chen et al., ICML 2018, arXiv 1711.02257): equal gradient norms, paced by progress.

    N_i = w_i ||∇_W L_i||, r_i = (L_i/L_i(0)) / mean_j(L_j/L_j(0)); w is stepped to reduce
    Σ_i |N_i - stopgrad(mean(N) r_i^α)|, then renormalised to Σ w_i = T. W is the last shared layer.

    Args:
        alpha: strength of the pacing; the paper uses 1.5 on NYUv2.
        lr: step size of Adam on w (paper: 0.025).
    """

    needs: Needs = "last_layer"
    weighs_heads = True  # type: ignore[assignment]

    def __init__(self, alpha: float = 1.5, lr: float = 0.025) -> None:
        super().__init__()
        if lr <= 0:
            raise InputError(f"gradnorm needs lr > 0, not {lr}")
        self.alpha, self.lr = alpha, lr
        self.weights = nn.Parameter(torch.empty(0), requires_grad=False)
        self.register_buffer("first", torch.empty(0))

    def prepare(self, terms: int) -> None:
        if len(self.weights) != terms:
            device = self.weights.device
            self.weights.data = torch.ones(terms, device=device)
            self.first = torch.full((terms,), float("nan"), device=device)
            self._optimizer = torch.optim.Adam([self.weights], lr=self.lr)

    def forward(self, statistics: Statistics) -> Tensor:
        assert statistics.gramian is not None
        self.prepare(len(statistics.losses))
        present = statistics.present
        used = self.weights.detach()[present].clone()
        losses = statistics.losses[present]
        fresh = torch.tensor(present)[self.first[present].isnan().cpu()]
        self.first[fresh] = statistics.losses[fresh]
        norms = statistics.gramian.diagonal().clamp(min=0).sqrt()
        ratio = losses / self.first[present]
        pace = ratio / ratio.mean()
        scaled = used * norms
        target = scaled.mean() * pace**self.alpha
        gradient = torch.zeros_like(self.weights)
        gradient[present] = torch.sign(scaled - target) * norms
        self.weights.grad = gradient
        self._optimizer.step()
        self.weights.grad = None
        self.weights.data.clamp_(min=1e-4)
        self.weights.data *= len(self.weights) / self.weights.data.sum()
        return used

    def get_extra_state(self) -> dict[str, Any]:
        return {"optimizer": self._optimizer.state_dict()} if len(self.weights) else {}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        if state:
            self._optimizer.load_state_dict(state["optimizer"])


# -- torchjd keeps some state in plain attributes; exact resume needs it -------------------------


_OF_EVERY_MODULE = frozenset(vars(nn.Module()))


def _hidden_state(thing: Any) -> dict[str, Any]:
    state = {}
    for name, value in vars(thing).items() if thing is not None else ():
        if name in _OF_EVERY_MODULE:
            continue
        if isinstance(value, torch.optim.Optimizer):
            state[name] = value.state_dict()
        elif isinstance(value, Tensor | int | float | bool) or value is None:
            state[name] = value
        elif isinstance(value, list) and all(isinstance(v, Tensor) for v in value):
            state[name] = list(value)
    return {name: value for name, value in state.items() if value is not None}


def _restore_hidden(thing: Any, state: dict[str, Any]) -> None:
    for name, value in state.items():
        current = getattr(thing, name, None)
        if isinstance(current, torch.optim.Optimizer):
            current.load_state_dict(value)
        else:
            setattr(thing, name, value)


# -- names ---------------------------------------------------------------------------------------


def _scalarized(make: Callable[..., sc.Scalarizer], *, sized: bool = False, linear: bool = False):  # type: ignore[no-untyped-def]
    def build(**options: Any) -> Balancer:
        return Scalarized(
            (lambda n: make(n, **options)) if sized else (lambda n: make(**options)), linear=linear
        )

    return build


def _constant(weights: tuple[float, ...]) -> Balancer:
    return Scalarized(lambda n: sc.Constant(torch.tensor(weights)), linear=True)


def _gramian(make: Callable[..., nn.Module]):  # type: ignore[no-untyped-def]
    return lambda **options: GramianWeighted(make(**options))


def _jacobian(make: Callable[..., nn.Module]):  # type: ignore[no-untyped-def]
    return lambda **options: Aggregated(make(**options))


BALANCERS: dict[str, Callable[..., Balancer]] = {
    "sum": _scalarized(sc.Sum, linear=True),
    "mean": _scalarized(sc.Mean, linear=True),
    "constant": _constant,
    "si": _scalarized(ScaleInvariant),
    "uw": _scalarized(sc.UW, sized=True),
    "dwa": _scalarized(sc.DWA),
    "rlw": _scalarized(sc.Random),
    "imtl_l": _scalarized(sc.IMTLL, sized=True),
    "gls": _scalarized(sc.GeometricMean),
    "famo": _scalarized(sc.FAMO, sized=True),
    "stch": _scalarized(lambda mu=0.1, **options: sc.STCH(mu, **options)),
    "gradnorm": GradNorm,
    "mgda": _gramian(ag.MGDAWeighting),
    "pcgrad": _gramian(ag.PCGradWeighting),
    "cagrad": _gramian(lambda c=0.4, **options: ag.CAGradWeighting(c=c, **options)),
    "imtl_g": _gramian(ag.IMTLGWeighting),
    "nash_mtl": NashMTL,
    "fairgrad": _gramian(lambda alpha=1.0, **options: ag.FairGradWeighting(alpha, **options)),
    "aligned_mtl": _gramian(ag.AlignedMTLWeighting),
    "upgrad": _gramian(ag.UPGradWeighting),
    "dualproj": _gramian(ag.DualProjWeighting),
    "gradvac": _gramian(ag.GradVacWeighting),
    "excess_mtl": _jacobian(ag.ExcessMTL),
    "graddrop": _jacobian(ag.GradDrop),
    "config": _jacobian(ag.ConFIG),
    "features": AtFeatures,
}


def as_balancer(value: Any) -> Balancer:
    """A balancer from its text (``"cagrad(c=0.4)"``), a balancer, or any torchjd object.

    torchjd scalarizers and Gramian-based aggregators and weightings keep their cheap route; any
    other aggregator or weighting is given the Jacobian.
    """
    if isinstance(value, Balancer):
        return value
    if isinstance(value, str):
        balancer = parse_call(value, BALANCERS, "balancer")
        balancer.text = value
        return balancer
    if isinstance(value, sc.Scalarizer):
        balancer = Scalarized(lambda n: value)
        balancer.prepare(0)
    elif isinstance(value, ag.GramianWeightedAggregator):
        balancer = GramianWeighted(value.gramian_weighting)
    elif isinstance(value, ag.Aggregator):
        balancer = Aggregated(value)
    elif isinstance(value, ag.Weighting):
        from torchjd.aggregation._weighting_bases import _GramianWeighting

        gram = isinstance(value, _GramianWeighting)
        balancer = GramianWeighted(value) if gram else Aggregated(ag.WeightedAggregator(value))
    else:
        raise InputError(f"{type(value).__name__} is not a balancer, a name or a torchjd object")
    balancer.text = str(value)
    return balancer
