"""Steps against a literal re-computation of their algorithms."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from polytask.training.balancers import as_balancer
from polytask.training.gradients import Pass, Problem, Statistics, balance, jacobian
from polytask.training.steps import SAM, Plain, TaskFlat, as_step, ascent, moved

TERMS = ("a", "b", "c")
AGGREGATORS = (
    "mgda", "pcgrad", "cagrad(c=0.4)", "imtl_g", "nash_mtl", "fairgrad", "aligned_mtl", "upgrad",
    "dualproj", "gradvac", "config", "graddrop", "excess_mtl", "sum", "dwa",
)  # fmt: skip


class Net(nn.Module):
    def __init__(self, norm: bool = False) -> None:
        super().__init__()
        middle = nn.BatchNorm1d(8) if norm else nn.Tanh()
        self.trunk = nn.Sequential(nn.Linear(5, 8), middle, nn.Linear(8, 6), nn.Tanh())
        self.heads = nn.ModuleDict({t: nn.Linear(6, 1) for t in TERMS})


def make(norm: bool = False) -> tuple[Net, Tensor, Tensor]:
    torch.manual_seed(0)
    return Net(norm), torch.randn(10, 5), torch.randn(3, 10)


def problem(net: Net, x: Tensor, y: Tensor, parts: int = 1) -> Problem:
    pieces = torch.arange(len(x)).tensor_split(parts)

    def run(i: int, only: str | None) -> Pass:
        z = net.trunk(x[pieces[i]])
        return Pass(
            {
                t: ((net.heads[t](z).squeeze(1) - y[k][pieces[i]]) ** 2).sum() / len(x)
                for k, t in enumerate(TERMS)
                if only in (None, t)
            },
            z,
        )

    shared, private = list(net.trunk.parameters()), list(net.heads.parameters())
    return Problem(run, parts, TERMS, TERMS, shared, private, module=net)


def seeded(name: str):  # type: ignore[no-untyped-def]
    balancer = as_balancer(name)
    balancer.prepare(len(TERMS))
    TaskFlat().prepare(balancer)
    balancer.draw_from(4)
    return balancer


def grads(net: nn.Module) -> list[Tensor]:
    return [p.grad.clone() for p in net.parameters()]  # type: ignore[union-attr]


def close(left: Sequence[Tensor], right: Sequence[Tensor], tolerance: float = 1e-5) -> None:
    for a, b in zip(left, right, strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def own_and_shared(net: Net, term: str) -> tuple[list[str], list[str]]:
    names = [n for n, _ in net.named_parameters()]
    return (
        [n for n in names if n.startswith("trunk.")],
        [n for n in names if n.startswith(f"heads.{term}.")],
    )


def at(net: Net, x: Tensor, y: Tensor, term: str, moves: dict[str, Tensor]) -> dict[str, Tensor]:
    """∇L_term at θ + moves, for the trunk and the term's own head, by functional calls."""
    point = {
        n: (p.detach() + moves.get(n, torch.zeros_like(p))).requires_grad_()
        for n, p in net.named_parameters()
    }
    trunk = {n.removeprefix("trunk."): p for n, p in point.items() if n.startswith("trunk.")}
    head = {n.removeprefix(f"heads.{term}."): p for n, p in point.items() if f".{term}." in n}
    out = functional_call(net.heads[term], head, functional_call(net.trunk, trunk, x)).squeeze(1)
    shared, own = own_and_shared(net, term)
    loss = (out - y[TERMS.index(term)]).square().mean()
    found = torch.autograd.grad(loss, [point[n] for n in [*shared, *own]])
    return dict(zip([*shared, *own], found, strict=True))


def algorithm_1(
    net: Net, x: Tensor, y: Tensor, name: str, rho: float, adaptive: bool
) -> dict[str, Tensor]:
    """F-MTL as the paper prints it, one task at a time, with nothing shared between passes."""
    low, high, update = [], [], {}
    for term in TERMS:
        g = at(net, x, y, term, {})
        moves = {}
        for group in own_and_shared(net, term):
            theta = {n: dict(net.named_parameters())[n].detach() for n in group}
            scaled = {n: theta[n] * g[n] if adaptive else g[n] for n in group}
            norm = torch.cat([v.flatten() for v in scaled.values()]).norm()
            for n in group:
                moves[n] = rho * (theta[n] * scaled[n] if adaptive else g[n]) / norm
        raised = at(net, x, y, term, moves)
        shared, own = own_and_shared(net, term)
        low.append(torch.cat([g[n].flatten() for n in shared]))
        high.append(torch.cat([raised[n].flatten() for n in shared]))
        update |= {n: raised[n] for n in own}
    loss, flat = torch.stack(low), torch.stack(high) - torch.stack(low)
    balancer = seeded(name)

    def aggregate(rows: Tensor, by) -> Tensor:  # type: ignore[no-untyped-def]
        told = Statistics(torch.ones(3), [0, 1, 2], gramian=rows @ rows.T, jacobian=rows)
        found = by(told)
        return found if balancer.needs == "jacobian" else found @ rows

    twin = balancer if balancer.needs == "losses" else balancer.twin
    d = aggregate(loss, balancer) + aggregate(flat, twin)
    shared, _ = own_and_shared(net, "a")
    sizes = [dict(net.named_parameters())[n].numel() for n in shared]
    for n, piece in zip(shared, d.split(sizes), strict=True):
        update[n] = piece.view_as(dict(net.named_parameters())[n])
    return update


@pytest.mark.parametrize("name", AGGREGATORS)
@pytest.mark.parametrize("adaptive", [True, False])
def test_f_mtl_is_algorithm_1(name: str, adaptive: bool) -> None:
    net, x, y = make()
    expected = algorithm_1(net, x, y, name, rho=0.3, adaptive=adaptive)
    before = copy.deepcopy(net.state_dict())
    TaskFlat(rho=0.3, adaptive=adaptive)(problem(net, x, y), seeded(name))
    for n, parameter in net.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[n], rtol=2e-3, atol=2e-3)
        assert torch.equal(parameter, before[n])  # bit for bit


@pytest.mark.parametrize("name", ["mgda", "pcgrad", "dwa", "graddrop"])
def test_f_mtl_in_parts_is_f_mtl(name: str) -> None:
    found = []
    for parts in (1, 3):
        net, x, y = make()
        TaskFlat(rho=0.3)(problem(net, x, y, parts), seeded(name))
        found.append(grads(net))
    close(*found)


@pytest.mark.parametrize("name", AGGREGATORS)
@pytest.mark.parametrize("step", [TaskFlat(rho=0.0), SAM(rho=0.0), SAM(rho=0.0, adaptive=True)])
def test_without_radius_a_step_is_the_plain_one(name: str, step: TaskFlat | SAM) -> None:
    found = []
    for each in (Plain(), step):
        net, x, y = make()
        each(problem(net, x, y), seeded(name))
        found.append(grads(net))
    close(*found, 1e-4)


@pytest.mark.parametrize(
    ("name", "linear"),
    [
        ("sum", True),
        ("mean", True),
        ("constant(weights=(1, 2, 3))", True),
        ("pcgrad", False),
        ("mgda", False),
    ],
)
def test_only_for_linear_rules_do_two_aggregations_equal_one(name: str, linear: bool) -> None:
    # Direct: A(g^SAM). Individual, the paper's: A(g) + A(g^flat).
    net, x, y = make()
    TaskFlat(rho=0.3)(problem(net, x, y), seeded(name))
    individual = torch.cat([p.grad.flatten() for p in net.trunk.parameters()])
    rows = []
    for i, term in enumerate(TERMS):
        whole = problem(net, x, y)
        shared, private, _ = jacobian(whole)
        up = ascent(whole.shared, [b[i] for b in shared], 0.3, True)
        own = ascent(whole.private, [b[i] for b in private], 0.3, True)
        with moved(whole.shared, up), moved(whole.private, own):
            raised = jacobian(whole, only=term)[0]
        rows.append(torch.cat([b[0].flatten() for b in raised]))
    stacked = torch.stack(rows)
    weights = seeded(name)(Statistics(torch.ones(3), [0, 1, 2], gramian=stacked @ stacked.T))
    assert torch.allclose(weights @ stacked, individual, atol=1e-5) is linear


def quadratics(*matrices: Tensor, start: Tensor) -> tuple[nn.Parameter, Problem]:
    theta = nn.Parameter(start.clone())
    names = [str(i) for i in range(len(matrices))]

    def run(part: int, only: str | None) -> Pass:
        return Pass(
            {
                n: 0.5 * theta @ a @ theta
                for n, a in zip(names, matrices, strict=True)
                if only in (None, n)
            }
        )

    return theta, Problem(run, 1, names, names, [theta], [])


def test_a_quadratic_has_an_exact_flat_part() -> None:
    start = torch.tensor([1.0, -2.0, 0.5])
    half = torch.randn(2, 3, 3)
    matrices = [h @ h.T for h in half]
    theta, whole = quadratics(*matrices, start=start)
    TaskFlat(rho=0.7, adaptive=False)(whole, as_balancer("sum"))
    expected = torch.zeros(3)
    for a in matrices:
        g = a @ start
        expected += g + 0.7 * a @ g / g.norm()
    torch.testing.assert_close(theta.grad, expected)


def test_losses_that_are_linear_have_no_flat_part() -> None:
    theta = nn.Parameter(torch.tensor([1.0, -2.0]))
    slopes = {"a": torch.tensor([1.0, 3.0]), "b": torch.tensor([-2.0, 1.0])}

    def run(part: int, only: str | None) -> Pass:
        return Pass({n: theta @ s for n, s in slopes.items() if only in (None, n)})

    found = []
    for step in (Plain(), TaskFlat(rho=5.0)):
        theta.grad = None
        step(Problem(run, 1, ("a", "b"), ("a", "b"), [theta], []), as_balancer("mgda"))
        found.append(theta.grad)
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("adaptive", [True, False])
@pytest.mark.parametrize("name", ["sum", "mgda", "uw", "features(upgrad)", "gradnorm"])
def test_sam_is_the_gradient_where_the_balanced_gradient_leads(name: str, adaptive: bool) -> None:
    net, x, y = make()
    there = copy.deepcopy(net)
    for each in (net, there):
        each.last = [each.trunk[2].weight]  # type: ignore[assignment]

    def whole(of: Net) -> Problem:
        made = problem(of, x, y)
        made.last_shared = [of.trunk[2].weight]
        return made

    balance(whole(there), seeded(name))
    g = [p.grad for p in there.parameters()]
    theta = [p.detach().clone() for p in there.parameters()]
    scaled = [t * d if adaptive else d for t, d in zip(theta, g, strict=True)]
    norm = torch.cat([s.flatten() for s in scaled]).norm()
    with torch.no_grad():
        for p, t, s, d in zip(there.parameters(), theta, scaled, g, strict=True):
            p += 0.4 * (t * s if adaptive else d) / norm
    there.zero_grad()
    balance(whole(there), seeded(name))
    SAM(rho=0.4, adaptive=adaptive)(whole(net), seeded(name))
    close(grads(net), grads(there))


def test_sam_leaves_a_balancer_the_state_it_learnt_at_the_parameters() -> None:
    for name in ("dwa", "gradnorm", "famo", "gradvac", "nash_mtl(update_weights_every=3)"):
        states = []
        for step in (Plain(), SAM(rho=0.5)):
            net, x, y = make()
            whole = problem(net, x, y)
            whole.last_shared = [net.trunk[2].weight]
            balancer = seeded(name)
            for _ in range(2):
                net.zero_grad()
                step(whole, balancer)
            states.append(balancer.state_dict())
        assert str(states[0]) == str(states[1]), name


@pytest.mark.parametrize("step", [SAM(rho=0.5), TaskFlat(rho=0.5)])
def test_batch_statistics_are_those_of_the_first_pass(step: SAM | TaskFlat) -> None:
    buffers = []
    for each in (Plain(), step):
        net, x, y = make(norm=True)
        each(problem(net, x, y), seeded("sum"))
        buffers.append(dict(net.named_buffers()))
    assert buffers[1]["trunk.1.num_batches_tracked"] == 1
    assert all(torch.equal(buffers[0][n], buffers[1][n]) for n in buffers[0])


def test_moved_gives_back_every_bit() -> None:
    parameters = [nn.Parameter(torch.randn(50) * 10.0**k) for k in range(-8, 8, 4)]
    before = [p.detach().clone() for p in parameters]
    with moved(parameters, [torch.randn(50) * 0.1 for _ in parameters]):
        assert not torch.equal(parameters[0], before[0])
    assert all(torch.equal(p, b) for p, b in zip(parameters, before, strict=True))
    with pytest.raises(RuntimeError), moved(parameters, [torch.ones(50)] * 4):
        raise RuntimeError
    assert all(torch.equal(p, b) for p, b in zip(parameters, before, strict=True))


def test_what_a_step_cannot_do_lawfully_is_told_with_what_can() -> None:
    flat, sam, plain = TaskFlat(), SAM(), Plain()
    assert "no common feature" in flat.unlawful(as_balancer("features(mgda)"), sharded=False)
    assert "use step plain" in flat.unlawful(as_balancer("mgda"), sharded=True)
    assert "use step plain" in sam.unlawful(as_balancer("sum"), sharded=True)
    assert "gramian or loss balancer" in plain.unlawful(as_balancer("graddrop"), sharded=True)
    for step in (flat, sam, plain):
        assert step.unlawful(as_balancer("mgda"), sharded=False) is None


def test_steps_are_read_from_text() -> None:
    assert as_step("flat(rho=0.5, adaptive=False)") == TaskFlat(0.5, False)
    assert as_step("sam") == SAM()
    assert str(as_step("plain")) == "plain"
