"""Balancers: how several losses become one update. The formula book.

A balancer declares in ``needs`` what it must be given and answers with weights over the present
terms (``needs="jacobian"``: with a direction). Scalarizers and aggregators come from torchjd; here
are the names, the adapters, the two methods torchjd lacks (GradNorm, scale-invariant), and the
bargaining equation of Nash-MTL.

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
    config       gramian   pinv of the unit rows, length Σ g_i·d̂                  2408.11104
    excess_mtl   jacobian  weights from estimated excess risks                    2402.02009
    graddrop     jacobian  keep one sign per coordinate at random                 2010.06808
    features(X)  features  any gramian balancer X at the shared feature
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torchjd import aggregation as ag
from torchjd import scalarization as sc
from torchjd.aggregation._weighting_bases import _GramianWeighting

from polytask.config import parse_call
from polytask.errors import InputError
from polytask.training.gradients import Statistics, replayed_randomness, seed_generators

Needs = Literal["losses", "features", "last_layer", "gramian", "jacobian"]


class Balancer(nn.Module):
    """Base of all balancers: ``balancer(statistics) -> weights [m]`` (or a direction ``[n]``).

    Its ``state_dict`` holds all of its running state.

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
        if self.seed is None:
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

    # torchjd keeps running state in plain attributes and in buffers that come and go.

    def get_extra_state(self) -> dict[str, Any]:
        return {"attributes": _attributes(self)}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        _restore(self, state["attributes"])

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
        for path, module in _of_torchjd(self):
            for name in module._buffers:
                saved = state_dict.get(f"{prefix}{path}.{name}")
                module._buffers[name] = None if saved is None else torch.empty_like(saved)
        super()._load_from_state_dict(state_dict, prefix, *rest)


class Scalarized(Balancer):
    """A torchjd scalarizer f(L): weights are ∂f/∂L_i at the *global* losses.

    Backward of Σ w_i L_i then equals backward of f(L), on any number of processes. Parameters of f
    (uncertainties) receive their own gradient here and are stepped by the model's optimiser; those
    of a term without labels rest.

    Args:
        make: ``make(terms)`` gives the scalarizer.
        linear: see ``Balancer``.
        positive: it takes logarithms of losses; a loss of zero counts as 1e-12.
    """

    def __init__(
        self,
        make: Callable[[int], sc.Scalarizer],
        *,
        linear: bool = False,
        positive: bool = False,
    ) -> None:
        super().__init__()
        self._make, self.linear, self.positive = make, linear, positive
        self.scalarizer: sc.Scalarizer | None = None

    def prepare(self, terms: int) -> None:
        if self.scalarizer is None:
            self.scalarizer = self._make(terms)
            self.looks_back = hasattr(self.scalarizer, "update")

    def forward(self, statistics: Statistics) -> Tensor:
        self.prepare(len(statistics.losses))
        scalarizer = self.scalarizer
        assert scalarizer is not None
        losses = statistics.losses.detach().clone()
        if self.positive:
            if bool((losses < 0).any()):
                raise InputError(f"balancer {self} takes logarithms of losses; one is negative")
            losses.clamp_(min=1e-12)
        with torch.enable_grad():
            losses.requires_grad_()
            scalarizer(losses).backward()
        assert losses.grad is not None
        absent = [i for i in range(len(losses)) if i not in statistics.present]
        for parameter in scalarizer.parameters():
            if absent and parameter.grad is not None and parameter.shape == losses.shape:
                parameter.grad[absent] = 0
        return losses.grad[statistics.present]

    def after(self, losses: Tensor) -> None:
        self.scalarizer.update(losses)  # type: ignore[union-attr, operator]

    def end_epoch(self) -> None:
        if hasattr(self.scalarizer, "step"):
            self.scalarizer.step()  # type: ignore[union-attr, operator]

    def set_extra_state(self, state: dict[str, Any]) -> None:
        if isinstance(self.scalarizer, sc.FAMO):  # it makes its Adam at the first update
            famo: Any = self.scalarizer
            options = {"lr": famo.lr, "weight_decay": famo.weight_decay}
            famo._optimizer = torch.optim.Adam([famo._w], **options)
        super().set_extra_state(state)


class Constant(Balancer):
    """Σ w_i L_i with fixed weights, one per term."""

    linear = True
    weights: Tensor

    def __init__(self, weights: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("weights", torch.as_tensor(weights, dtype=torch.float32))

    def prepare(self, terms: int) -> None:
        if len(self.weights) != terms:
            raise InputError(
                f"balancer constant has {len(self.weights)} weights for {terms} losses"
            )

    def forward(self, statistics: Statistics) -> Tensor:
        self.prepare(len(statistics.losses))
        return self.weights[statistics.present].to(statistics.losses)


class GramianWeighted(Balancer):
    """A torchjd weighting of the Gramian, solved on the CPU.

    Args:
        weighting: ``weighting(G) -> weights``.
        scale: degree of homogeneity h, w(tG) = t^h w(G). The rule is then given G at unit trace,
            for torchjd takes gradients with Σ||g_i||² < 1e-4 for zero (CAGrad, UPGrad, DualProj)
            and solves FairGrad from a start of a fixed size. None: G as it is.
        zero_rows: whether the rule can answer to a gradient of zero; if not, its weight is 0.
    """

    needs: Needs = "gramian"

    def __init__(
        self, weighting: nn.Module, *, scale: float | None = None, zero_rows: bool = True
    ) -> None:
        super().__init__()
        self.weighting, self.scale, self.zero_rows = weighting, scale, zero_rows

    def forward(self, statistics: Statistics) -> Tensor:
        gramian, rows = _seen(statistics, self.zero_rows)
        weights = torch.zeros(len(statistics.present), dtype=gramian.dtype)
        if len(rows):
            size = float(gramian.trace()) if self.scale is not None else 1.0
            power = size ** (self.scale or 0.0) if size else 1.0
            weights[rows] = self.weighting(gramian / (size or 1.0)).to(gramian.dtype) * power
        return weights.to(statistics.losses.device)


def _seen(statistics: Statistics, zero_rows: bool) -> tuple[Tensor, Tensor]:
    """The Gramian on the CPU, of all terms or of those with a gradient, and their positions."""
    assert statistics.gramian is not None
    gramian = statistics.gramian.detach().cpu()
    if not bool(gramian.isfinite().all()):
        raise InputError("task gradients hold inf or NaN; lower training.lr or check the losses")
    alive = gramian.diagonal() > 0
    if zero_rows:  # squares may underflow where inner products do not: PCGrad divides by them
        return gramian * alive.outer(alive), torch.arange(len(gramian))
    rows = alive.nonzero().squeeze(1)
    return gramian[rows][:, rows], rows


def _root(gramian: Tensor) -> Tensor:
    """R ``[m, m]`` with R Rᵀ = G, free of the rounding noise of G; float64."""
    values, vectors = torch.linalg.eigh(gramian.double())
    noise = values.max() * len(values) * torch.finfo(gramian.dtype).eps
    return vectors * torch.where(values > noise, values, 0.0).sqrt()


class Rooted(Balancer):
    """A torchjd aggregator A that turns with its rows, A(J Q) = A(J) Q: it needs G alone.

    It is given a root R of G, and its direction d = Rᵀ w is solved for the weights w. Besides the
    cost this saves ConFIG, whose float32 pseudo-inverse of J ``[m, n]`` cuts off all of J once
    n · eps > 1 (n > 8 million).
    """

    needs: Needs = "gramian"

    def __init__(self, aggregator: ag.Aggregator) -> None:
        super().__init__()
        self.aggregator = aggregator

    def forward(self, statistics: Statistics) -> Tensor:
        gramian, _ = _seen(statistics, zero_rows=True)
        root = _root(gramian)
        direction = self.aggregator(root.to(gramian.dtype)).double()
        weights = torch.linalg.pinv(root.T, rtol=torch.finfo(gramian.dtype).eps) @ direction
        return weights.to(statistics.losses)


class NashMTL(Balancer):
    """Nash-MTL (Navon et al., ICML 2022, arXiv 2202.01017): α > 0 with G α = 1/α.

    α is the minimum of the self-concordant ½ αᵀGα - Σ log α_i, found by damped Newton steps on the
    cosines of G (torchjd's sequence of convex programs stops short of it for gradients of unlike
    norm, and needs a solver without wheels for Python 3.13). A gradient of zero has no say.

    Args:
        max_norm: largest norm of the direction (0: no limit).
        update_weights_every: updates between two bargains; α is kept between them.
    """

    needs: Needs = "gramian"

    def __init__(self, max_norm: float = 1.0, update_weights_every: int = 1) -> None:
        super().__init__()
        if max_norm < 0 or update_weights_every < 1:
            raise InputError("nash_mtl needs max_norm >= 0 and update_weights_every >= 1")
        self.max_norm, self.every = max_norm, update_weights_every
        self._steps = 0
        self._alpha: Tensor | None = None  # of the last bargain, per term

    def forward(self, statistics: Statistics) -> Tensor:
        gramian, rows = _seen(statistics, zero_rows=False)
        if len(rows) and (self._alpha is None or self._steps % self.every == 0):
            self._alpha = torch.ones(len(statistics.losses), dtype=torch.float64)
            at = torch.tensor(statistics.present)[rows]
            self._alpha[at] = _bargain(gramian.double(), torch.finfo(gramian.dtype).eps)
        self._steps += 1
        weights = torch.zeros(len(statistics.present), dtype=torch.float64)
        if self._alpha is not None:
            weights[rows] = self._alpha[statistics.present][rows]
        norm = float((weights[rows] @ gramian.double() @ weights[rows]).clamp(min=0).sqrt())
        if self.max_norm and norm > self.max_norm:
            weights *= self.max_norm / norm
        return weights.to(statistics.losses)


def _bargain(gramian: Tensor, rounding: float) -> Tensor:
    """α > 0 with G α = 1/α, for G ``[m, m]`` with a positive diagonal, in float64."""
    norms = gramian.diagonal().sqrt()
    # The ridge bounds α where gradients cancel and no solution exists.
    cosines = gramian / norms.outer(norms) + rounding * len(norms) * torch.eye(len(norms))
    alpha = torch.full_like(norms, len(norms) ** -0.5)
    for _ in range(100):
        slope = cosines @ alpha - 1 / alpha
        step = torch.linalg.solve(cosines + torch.diag(alpha**-2), slope)
        decrement = float((slope @ step).clamp(min=0).sqrt())
        alpha = alpha - step / (1 + decrement)
        if decrement < 1e-9:
            break
    return alpha / norms


class Aggregated(Balancer):
    """A torchjd aggregator that is more than a weighting: it sees J ``[m, n]`` itself."""

    needs: Needs = "jacobian"

    def __init__(self, aggregator: nn.Module) -> None:
        super().__init__()
        self.aggregator = aggregator

    def forward(self, statistics: Statistics) -> Tensor:
        assert statistics.jacobian is not None
        return self.aggregator(statistics.jacobian)


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
    weighs_heads = True
    first: Tensor

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
        first = torch.where(self.first[present].isnan(), losses, self.first[present])
        self.first[present] = first
        norms = statistics.gramian.diagonal().clamp(min=0).sqrt()
        ratio = losses / first.clamp(min=1e-12)
        pace = ratio / ratio.mean().clamp(min=1e-12)
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


# -- state that torchjd keeps in plain attributes; exact resume needs it -------------------------


_OF_EVERY_MODULE = frozenset(vars(nn.Module()))


def _of_torchjd(balancer: Balancer) -> Iterator[tuple[str, nn.Module]]:
    """The torchjd modules inside, by path; balancers inside look after themselves."""
    for name, child in balancer.named_children():
        if not isinstance(child, Balancer):
            yield from child.named_modules(prefix=name)


def _attributes(balancer: Balancer) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for path, module in [("", balancer), *_of_torchjd(balancer)]:
        for name, value in vars(module).items():
            running = name.startswith("_") and name not in _OF_EVERY_MODULE
            if running and (packed := _packed(value)) is not None:
                found.setdefault(path, {})[name] = packed
    return found


def _restore(balancer: Balancer, found: dict[str, dict[str, Any]]) -> None:
    modules = {"": balancer, **dict(_of_torchjd(balancer))}
    for path, attributes in found.items():
        for name, packed in attributes.items():
            current = getattr(modules[path], name, None)
            value = _unpacked(packed)
            if isinstance(current, torch.optim.Optimizer) and value is not None:
                current.load_state_dict(value)
            else:
                setattr(modules[path], name, value)


def _packed(value: Any) -> list[Any] | None:
    """``[kind, plain value]`` of what can be state, None of all else (functions, modules)."""
    if value is None or isinstance(value, Tensor | bool | int | float | str):
        return ["as is", value]
    if isinstance(value, torch.optim.Optimizer):
        return ["as is", value.state_dict()]
    if isinstance(value, torch.dtype | torch.device):
        return [type(value).__name__, str(value)]
    if isinstance(value, list | tuple):
        items = [_packed(item) for item in value]
        return None if None in items else [type(value).__name__, items]
    return None


def _unpacked(packed: Sequence[Any]) -> Any:
    kind, value = packed
    if kind == "as is":
        return value
    if kind == "dtype":
        return getattr(torch, value.removeprefix("torch."))
    if kind == "device":
        return torch.device(value)
    items = [_unpacked(item) for item in value]
    return tuple(items) if kind == "tuple" else items


# -- names ---------------------------------------------------------------------------------------


def _scalarized(  # type: ignore[no-untyped-def]
    make: Callable[..., sc.Scalarizer], *, sized: bool = False, **kind: bool
):
    def build(**options: Any) -> Balancer:
        make(*([1] if sized else []), **options)  # a wrong option is told at once
        return Scalarized(
            (lambda n: make(n, **options)) if sized else (lambda n: make(**options)), **kind
        )

    return build


def _gramian(make: Callable[..., nn.Module], *, zero_rows: bool = True, scale: float | None = None):  # type: ignore[no-untyped-def]
    return lambda **options: GramianWeighted(make(**options), scale=scale, zero_rows=zero_rows)


def _fairgrad(alpha: float = 1.0, **options: Any) -> Balancer:
    if alpha <= 0:
        raise InputError(f"fairgrad needs alpha > 0, not {alpha}; alpha 0 is 'sum'")
    weighting = ag.FairGradWeighting(alpha, **options)
    return GramianWeighted(weighting, scale=-alpha / (1 + alpha), zero_rows=False)


BALANCERS: dict[str, Callable[..., Balancer]] = {
    "sum": _scalarized(sc.Sum, linear=True),
    "mean": _scalarized(sc.Mean, linear=True),
    "constant": Constant,
    "si": _scalarized(ScaleInvariant, positive=True),
    "uw": _scalarized(sc.UW, sized=True),
    "dwa": _scalarized(sc.DWA),
    "rlw": _scalarized(sc.Random, linear=True),
    "imtl_l": _scalarized(sc.IMTLL, sized=True),
    "gls": _scalarized(sc.GeometricMean, positive=True),
    "famo": _scalarized(sc.FAMO, sized=True),
    "stch": _scalarized(lambda mu=0.1, **options: sc.STCH(mu, **options)),
    "gradnorm": GradNorm,
    "mgda": _gramian(ag.MGDAWeighting),
    "pcgrad": _gramian(ag.PCGradWeighting),
    "cagrad": _gramian(lambda c=0.4, **options: ag.CAGradWeighting(c=c, **options), scale=0.0),
    "imtl_g": _gramian(ag.IMTLGWeighting),
    "nash_mtl": NashMTL,
    "fairgrad": _fairgrad,
    "aligned_mtl": _gramian(ag.AlignedMTLWeighting),
    "upgrad": _gramian(ag.UPGradWeighting, scale=0.0),
    "dualproj": _gramian(ag.DualProjWeighting, scale=0.0),
    "gradvac": _gramian(ag.GradVacWeighting),
    "config": lambda **options: Rooted(ag.ConFIG(**options)),
    "excess_mtl": lambda **options: Aggregated(ag.ExcessMTL(**options)),
    "graddrop": lambda **options: Aggregated(ag.GradDrop(**options)),
    "features": AtFeatures,
}


def as_balancer(value: Any) -> Balancer:
    """A balancer from its text (``"cagrad(c=0.4)"``), a balancer, or any torchjd object.

    torchjd scalarizers, and aggregators and weightings that read the Gramian only, keep their cheap
    route; any other aggregator or weighting is given the Jacobian. MoDo and SDMGrad weigh two
    independent batches per step, which one update does not have.
    """
    if isinstance(value, Balancer):
        return value
    if isinstance(value, str):
        balancer = parse_call(value, BALANCERS, "balancer")
    elif isinstance(value, sc.Scalarizer):
        balancer = Scalarized(lambda n: value)
        balancer.prepare(0)
    elif isinstance(value, ag.Aggregator):
        balancer = _from_aggregator(value)
    elif isinstance(value, ag.Weighting):
        balancer = _from_weighting(value)
    else:
        raise InputError(f"{type(value).__name__} is not a balancer, a name or a torchjd object")
    balancer.text = str(value) if not isinstance(value, ag.Weighting) else type(value).__name__
    return balancer


def _from_aggregator(value: ag.Aggregator) -> Balancer:
    if isinstance(value, ag.GramianWeightedAggregator):
        return GramianWeighted(value.gramian_weighting)
    if isinstance(value, ag.NashMTL):
        return NashMTL(value.max_norm, value.update_weights_every)
    if isinstance(value, ag.ConFIG):
        return Rooted(value)
    if isinstance(value, ag.WeightedAggregator) and isinstance(value.weighting, _COUNTS_ROWS):
        return GramianWeighted(value.weighting)
    return Aggregated(value)


_COUNTS_ROWS = (ag.MeanWeighting, ag.SumWeighting, ag.ConstantWeighting, ag.RandomWeighting)


def _from_weighting(value: Any) -> Balancer:
    if isinstance(value, ag.MoDoWeighting | ag.SDMGradWeighting):
        raise InputError(
            f"{type(value).__name__} weighs the gradients of two independent batches against each "
            "other; one update has one batch: use mgda, or cagrad"
        )
    inner = value
    while isinstance(inner, ag.CRMOGMWeighting):
        inner = inner.weighting
    if isinstance(inner, (_GramianWeighting, *_COUNTS_ROWS)):
        return GramianWeighted(value)
    return Aggregated(ag.WeightedAggregator(value))
