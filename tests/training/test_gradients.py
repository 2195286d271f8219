"""Every route to an update equals the slow, obvious one."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchjd import aggregation as ag
from torchjd import autojac

from polytask.errors import InputError
from polytask.training.balancers import BALANCERS, Balancer, as_balancer
from polytask.training.factored import Factored
from polytask.training.gradients import (
    Pass,
    Problem,
    balance,
    frozen_statistics,
    gramian,
    jacobian,
    replayed_randomness,
    task_gramian,
)

TERMS = ("a", "b", "c")
NAMES = ["constant(weights=(1, 2, 3))" if n == "constant" else n for n in BALANCERS]
NAMES[NAMES.index("features")] = "features(mgda)"


class Net(nn.Module):
    """A trunk with every common kind of layer, one linear head per term."""

    def __init__(self, terms: Sequence[str] = TERMS) -> None:
        super().__init__()
        self.trunk = nn.Sequential(
            nn.Linear(20, 16), nn.ReLU(), nn.LayerNorm(16), nn.Linear(16, 12, bias=False), nn.Tanh()
        )
        self.heads = nn.ModuleDict({t: nn.Linear(12, 1) for t in terms})


def make(rows: int = 12) -> tuple[Net, Tensor, Tensor]:
    torch.manual_seed(0)
    return Net(), torch.randn(rows, 20), torch.randn(3, rows)


def problem(
    net: Net,
    x: Tensor,
    y: Tensor,
    *,
    parts: int = 1,
    slow: bool = False,
    missing: dict[str, Tensor] | None = None,
) -> Problem:
    """The mean losses of a batch in some parts; ``missing[term]`` marks rows without a label."""
    there = {t: torch.ones(len(x), dtype=torch.bool) for t in TERMS}
    there |= {t: ~gone for t, gone in (missing or {}).items()}
    pieces = torch.arange(len(x)).tensor_split(parts)

    def run(i: int, only: str | None) -> Pass:
        z = net.trunk(x[pieces[i]])
        losses = {}
        for k, term in enumerate(TERMS):
            mask = there[term][pieces[i]]
            if only in (None, term) and mask.any():
                error = (net.heads[term](z).squeeze(1) - y[k][pieces[i]]) ** 2
                losses[term] = (k + 1) * error[mask].sum() / there[term].sum()
        return Pass(losses, z if losses else None)

    return Problem(
        run,
        parts,
        TERMS,
        [t for t in TERMS if there[t].any()],
        list(net.trunk.parameters()),
        list(net.heads.parameters()),
        last_shared=[net.trunk[3].weight],
        reduce=(lambda tensors: None) if slow else None,
        module=net,
    )


def seeded(name: str) -> Balancer:
    balancer = as_balancer(name)
    balancer.draw_from(7)
    return balancer


def grads(net: nn.Module) -> dict[str, Tensor]:
    return {
        n: torch.zeros_like(p) if p.grad is None else p.grad.clone()
        for n, p in net.named_parameters()
    }


def same(left: dict[str, Tensor], right: dict[str, Tensor], tolerance: float = 1e-4) -> None:
    assert left.keys() == right.keys()
    assert any(g.abs().max() > 0 for g in left.values())
    for name in left:
        torch.testing.assert_close(left[name], right[name], rtol=tolerance, atol=tolerance)


def updated(name: str, **how: object) -> dict[str, Tensor]:
    net, x, y = make()
    balance(problem(net, x, y, **how), seeded(name))  # type: ignore[arg-type]
    return grads(net)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("how", [{"slow": True}, {"parts": 3}, {"parts": 3, "slow": True}])
def test_the_update_is_the_same_whole_in_parts_and_formed(name: str, how: dict) -> None:
    same(updated(name), updated(name, **how))


@pytest.mark.parametrize("name", NAMES)
def test_a_term_without_labels_is_as_if_it_were_not_there(name: str) -> None:
    if name.startswith("constant"):
        pytest.skip("has one weight per term by definition")
    net, x, y = make()
    gone = {"b": torch.ones(len(x), dtype=torch.bool)}
    info = balance(problem(net, x, y, missing=gone), seeded(name))
    assert set(info.losses) == {"a", "c"}
    assert net.heads["b"].weight.grad is None or not net.heads["b"].weight.grad.any()
    assert all(g.isfinite().all() for g in grads(net).values())


@pytest.mark.parametrize("name", NAMES)
def test_parts_that_lack_a_term_add_up(name: str) -> None:
    net, x, y = make()
    missing = {
        "a": torch.arange(12) < 5,
        "c": torch.arange(12) >= 3,
    }  # in 4 parts: some lack a or c
    whole, split = copy.deepcopy(net), copy.deepcopy(net)
    balance(problem(whole, x, y, missing=missing), seeded(name))
    balance(problem(split, x, y, missing=missing, parts=4), seeded(name))
    same(grads(whole), grads(split))


AGGREGATORS: dict[str, Callable[[], ag.Aggregator]] = {
    "mgda": ag.MGDA,
    "pcgrad": ag.PCGrad,
    "cagrad(c=0.4)": lambda: ag.CAGrad(0.4),
    "imtl_g": ag.IMTLG,
    "fairgrad(alpha=2.0)": lambda: ag.FairGrad(2.0),
    "aligned_mtl": ag.AlignedMTL,
    "upgrad": ag.UPGrad,
    "dualproj": ag.DualProj,
    "gradvac": ag.GradVac,
    "config": ag.ConFIG,
    "excess_mtl": ag.ExcessMTL,
    "graddrop": ag.GradDrop,
}


@pytest.mark.parametrize("name", AGGREGATORS)
def test_the_update_is_that_of_torchjd_by_hand(name: str) -> None:
    net, x, y = make()
    by_hand = copy.deepcopy(net)
    torch.manual_seed(5)
    balance(problem(net, x, y), as_balancer(name))
    part = problem(by_hand, x, y).run(0, None)
    autojac.mtl_backward(list(part.losses.values()), features=part.feature)
    torch.manual_seed(5)
    autojac.jac_to_grad(by_hand.trunk.parameters(), AGGREGATORS[name]())
    same(grads(net), grads(by_hand), 2e-3)


@pytest.mark.parametrize(
    ("name", "objective"),
    [
        ("sum", lambda v: v.sum()),
        ("mean", lambda v: v.mean()),
        ("constant(weights=(1, 2, 3))", lambda v: v[0] + 2 * v[1] + 3 * v[2]),
        ("si", lambda v: v.log().sum()),
        ("uw", lambda v: v.sum() / 2),
        ("dwa", lambda v: v.sum()),
        ("imtl_l", lambda v: v.sum()),
        ("gls", lambda v: v.prod() ** (1 / 3)),
        ("famo", lambda v: v.log().sum() / (1 / v).sum().detach()),
        ("stch(mu=0.5)", lambda v: 0.5 * torch.logsumexp(v / 3 / 0.5, 0)),
    ],
)
def test_a_loss_balancer_is_the_backward_pass_of_its_formula(
    name: str, objective: Callable[[Tensor], Tensor]
) -> None:
    net, x, y = make()
    by_hand = copy.deepcopy(net)
    balance(problem(net, x, y), seeded(name))
    objective(torch.stack(list(problem(by_hand, x, y).run(0, None).losses.values()))).backward()
    same(grads(net), grads(by_hand))


def test_an_update_is_added_to_what_is_in_grad() -> None:
    for name in ("sum", "mgda", "graddrop", "features(mgda)", "gradnorm"):
        net, x, y = make()
        balance(problem(net, x, y), seeded(name))
        once = grads(net)
        net.zero_grad()
        for parameter in net.parameters():
            parameter.grad = torch.ones_like(parameter)
        balance(problem(net, x, y), seeded(name))
        same({n: g + 1 for n, g in once.items()}, grads(net))


# -- gradients as factors ------------------------------------------------------------------------


class Tied(nn.Module):
    """One weight in two places, one in a penalty, one product with the bias used again."""

    def __init__(self) -> None:
        super().__init__()
        self.shared, self.tied = nn.Linear(30, 30), nn.Linear(30, 30, bias=False)
        self.bias = nn.Parameter(torch.randn(30))

    def forward(self, x: Tensor) -> Tensor:
        z = F.relu(self.shared(x), inplace=True)
        z = self.tied(F.linear(z, self.tied.weight, self.bias)) * self.bias
        return self.shared(z) + self.tied.weight.square().sum()


class Turned(nn.Module):
    """Products whose weight is not transposed, or scaled, or transposed once for two uses."""

    def __init__(self) -> None:
        super().__init__()
        self.w, self.v = nn.Parameter(torch.randn(30, 30)), nn.Parameter(torch.randn(30, 30))
        self.b = nn.Parameter(torch.randn(30))

    def forward(self, x: Tensor) -> Tensor:
        turned = self.v.T
        return torch.addmm(self.b, x @ self.w, turned, alpha=2) @ turned


def nets() -> dict[str, tuple[nn.Module, Tensor]]:
    rows, sequences = torch.randn(9, 30), torch.randn(3, 4, 30)
    mlp = nn.Sequential(nn.Linear(30, 40), nn.ReLU(), nn.Linear(40, 6))
    normed = nn.Sequential(nn.Linear(30, 40), nn.LayerNorm(40), nn.Linear(40, 6, bias=False))
    attention = nn.TransformerEncoderLayer(30, 3, 40, dropout=0.0, batch_first=True)
    image = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(27, 5))
    words = nn.Sequential(nn.Embedding(10, 30), nn.Linear(30, 4))
    return {
        "mlp": (mlp, rows),
        "more rows than inputs": (nn.Linear(5, 40), torch.randn(9, 5)),
        "sequences": (normed, sequences),
        "turned sequences": (nn.Linear(30, 7), sequences.transpose(0, 1)),
        "attention": (attention, sequences),
        "convolution": (image, torch.randn(6, 2, 5, 5)),
        "embedding": (words, torch.randint(10, (8,))),
        "tied": (Tied(), rows),
        "turned": (Turned(), rows),
        "recurrent": (nn.LSTMCell(30, 10), rows),
    }


def three_losses(net: nn.Module, x: Tensor) -> list[Tensor]:
    out = net(x)
    out = out[0] if isinstance(out, tuple) else out
    return [out.square().mean(), out.flatten()[:9].sin().sum(), out.amax()]


@pytest.mark.parametrize("kind", nets())
def test_factors_hold_the_gradients_that_autograd_forms(kind: str) -> None:
    torch.manual_seed(1)
    net, x = nets()[kind]
    parameters = list(net.parameters())
    rows = [
        torch.autograd.grad(loss, parameters, retain_graph=True) for loss in three_losses(net, x)
    ]
    formed = torch.stack([torch.cat([g.flatten() for g in row]) for row in rows])
    factored = Factored(three_losses(net, x), parameters)
    torch.testing.assert_close(factored.gramian(), formed @ formed.T, rtol=1e-4, atol=1e-4)
    weights = torch.tensor([0.5, -1.0, 2.0])
    mixed = torch.cat([g.flatten() for g in factored.mix(weights)])
    torch.testing.assert_close(mixed, weights @ formed, rtol=1e-4, atol=1e-4)


def test_linear_layers_are_kept_as_factors_in_this_torch() -> None:
    net, x, y = make()
    losses = problem(net, x, y).run(0, None).losses
    kept = Factored(list(losses.values()), list(net.trunk.parameters())).entries
    kinds = [isinstance(entry, tuple) for entry in kept]
    assert kinds == [True, False, False, False, True]  # weight, bias, norm, norm, weight
    delta = kept[0][1]  # type: ignore[index]
    assert delta.shape == (3, 12, 16)


def test_under_autocast_the_gramian_is_the_formed_one() -> None:
    net, x, y = make()
    with torch.autocast("cpu", torch.bfloat16):
        fast = task_gramian(problem(net, x, y))
        slow = task_gramian(problem(net, x, y, slow=True))
    torch.testing.assert_close(fast, slow, rtol=2e-2, atol=1e-2)


def test_a_parameter_or_a_loss_without_a_graph_has_gradients_of_zero() -> None:
    used, unused = nn.Linear(30, 3), nn.Linear(3, 3)
    factored = Factored(
        [used(torch.randn(2, 30)).sum(), torch.tensor(1.0)], [*used.parameters(), unused.weight]
    )
    assert factored.gramian()[1].eq(0).all() and factored.gramian()[0, 0] > 0
    assert factored.mix(torch.ones(2))[2].eq(0).all()


def test_the_logged_gramian_is_that_of_the_jacobian_and_leaves_no_gradient() -> None:
    net, x, y = make()
    found = task_gramian(problem(net, x, y))
    slow = problem(net, x, y, slow=True)
    torch.testing.assert_close(found, gramian(jacobian(slow)[0]), rtol=1e-4, atol=1e-5)
    assert all(p.grad is None for p in net.parameters())


# -- the feature route ---------------------------------------------------------------------------


def test_the_feature_route_weighs_by_gradients_at_the_feature() -> None:
    net, x, y = make()
    info = balance(problem(net, x, y), seeded("features(upgrad)"))
    part = problem(net, x, y).run(0, None)
    rows = torch.stack(
        [
            torch.autograd.grad(loss, part.feature, retain_graph=True)[0].flatten()
            for loss in part.losses.values()
        ]
    )
    weights = ag.UPGradWeighting()(rows @ rows.T / (rows @ rows.T).trace())
    torch.testing.assert_close(torch.tensor(list(info.weights.values())), weights)
    by_hand = copy.deepcopy(net)
    by_hand.zero_grad()
    losses = list(problem(by_hand, x, y).run(0, None).losses.values())
    expected = torch.autograd.grad(
        sum(w * loss for w, loss in zip(weights, losses, strict=True)),
        list(by_hand.trunk.parameters()),
    )
    for parameter, gradient in zip(net.trunk.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)
    for term, head in net.heads.items():
        own = torch.autograd.grad(
            problem(net, x, y).run(0, None).losses[term], list(head.parameters())
        )
        torch.testing.assert_close(head.weight.grad, own[0])


def test_one_row_through_one_layer_makes_the_feature_route_exact() -> None:
    # z = W x has ∂z/∂W with orthogonal rows of one length, so both Gramians are multiples.
    for inner in ("mgda", "upgrad", "cagrad", "imtl_g"):
        nets = []
        for name in (inner, f"features({inner})"):
            net, x, y = make(rows=1)
            net.trunk = nn.Sequential(nn.Linear(20, 12, bias=False), *[nn.Identity()] * 3)
            net.trunk[3] = nn.Identity()
            net.trunk[3].weight = net.trunk[0].weight
            torch.manual_seed(3)
            nn.init.normal_(net.trunk[0].weight)
            balance(problem(net, x, y), seeded(name))
            nets.append(grads(net))
        same(*nets)


def test_the_feature_route_refuses_what_it_cannot_see() -> None:
    net, x, y = make()
    whole = problem(net, x, y)
    run = whole.run
    whole.run = lambda part, only: Pass(run(part, only).losses)
    with pytest.raises(InputError, match="no single shared feature"):
        balance(whole, seeded("features(mgda)"))

    def aside(part: int, only: str | None) -> Pass:
        found = run(part, only)
        return Pass({**found.losses, "b": net.trunk[0].weight.square().sum()}, found.feature)

    whole.run = aside
    with pytest.raises(InputError, match="'b' does not read the shared feature"):
        balance(whole, seeded("features(mgda)"))


# -- small things --------------------------------------------------------------------------------


def test_a_parameter_is_shared_or_private() -> None:
    net, x, y = make()
    good = problem(net, x, y)
    with pytest.raises(InputError, match="overlap"):
        Problem(good.run, 1, TERMS, TERMS, good.shared, [*good.private, good.shared[0]])


def test_a_model_that_shares_nothing_is_told() -> None:
    net, x, y = make()
    apart = problem(net, x, y)
    apart.shared = []
    for name in ("mgda", "graddrop", "features(mgda)", "gradnorm"):
        with pytest.raises(InputError, match="shares no parameters"):
            balance(apart, as_balancer(name))


def test_frozen_statistics_leaves_every_buffer_alone() -> None:
    norm = nn.BatchNorm1d(4)
    before = copy.deepcopy(norm.state_dict())
    with frozen_statistics(norm):
        used = norm(torch.randn(8, 4) + 3)
    assert used.mean().abs() < 1e-5  # the batch's own statistics were used
    assert all(torch.equal(v, before[k]) for k, v in norm.state_dict().items())
    norm(torch.randn(8, 4))
    assert norm.num_batches_tracked == 1


def test_replayed_randomness_is_drawn_again() -> None:
    with replayed_randomness():
        first = torch.rand(3)
    assert torch.equal(first, torch.rand(3))


def test_in_parts_dropout_draws_the_same_masks_twice() -> None:
    for name in ("uw", "features(mgda)", "gradnorm"):
        net, x, y = make()
        net.trunk[1] = nn.Dropout(0.5)
        seen: list[Tensor] = []
        net.trunk[1].register_forward_hook(lambda m, i, o, seen=seen: seen.append(o != 0))
        balance(problem(net, x, y, parts=2), seeded(name))
        assert len(seen) == 4
        assert torch.equal(seen[0], seen[2]) and torch.equal(seen[1], seen[3])
