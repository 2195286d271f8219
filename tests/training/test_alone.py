"""Balancers and steps on a bare module give what torchjd and the papers' formulas give by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchjd import aggregation as ag
from torchjd import scalarization as sc
from torchjd.autojac import jac_to_grad, mtl_backward

from polytask.errors import InputError
from polytask.training import Balanced


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.trunk = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3), nn.Tanh())
        self.heads = nn.ModuleDict({t: nn.Linear(3, 1) for t in "abc"})


X = torch.randn(16, 4, generator=torch.Generator().manual_seed(1))
Y = torch.randn(16, 3, generator=torch.Generator().manual_seed(2))


def losses_of(net: Net) -> dict[str, Tensor]:
    z = net.trunk(X)
    return {t: (h(z)[:, 0] - Y[:, i]).square().mean() for i, (t, h) in enumerate(net.heads.items())}


def grads(net: Net) -> list[Tensor]:
    return [torch.zeros_like(p) if p.grad is None else p.grad for p in net.parameters()]


def balanced(net: Net, balancer: Any, **options: Any) -> Balanced:
    return Balanced(balancer, shared=net.trunk, private=net.heads, **options)


AGGREGATORS: list[tuple[Any, Callable[[], ag.Aggregator]]] = [
    ("upgrad", ag.UPGrad),
    ("mgda", ag.MGDA),
    ("imtl_g", ag.IMTLG),
    ("aligned_mtl", ag.AlignedMTL),
    ("cagrad(c=0.4)", lambda: ag.CAGrad(c=0.4)),
    (ag.UPGrad(), ag.UPGrad),
    (ag.UPGradWeighting(), ag.UPGrad),
    (ag.TrimmedMean(1), lambda: ag.TrimmedMean(1)),
]


@pytest.mark.parametrize(
    ("balancer", "make"),
    AGGREGATORS,
    ids=lambda x: "" if callable(x) and not isinstance(x, nn.Module) else str(x),
)
def test_the_gradient_is_that_of_torchjd(balancer: Any, make: Callable[[], Any]) -> None:
    mine, other = Net(), Net()
    balanced(mine, balancer).backward(losses_of(mine))

    z = other.trunk(X)
    losses = [(h(z)[:, 0] - Y[:, i]).square().mean() for i, h in enumerate(other.heads.values())]
    mtl_backward(losses, features=z)
    jac_to_grad(list(other.trunk.parameters()), make())
    torch.testing.assert_close(grads(mine), grads(other), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("scalarizer", [sc.GeometricMean(), sc.STCH(0.1), sc.Mean()], ids=str)
def test_a_scalarizer_is_its_own_backward(scalarizer: sc.Scalarizer) -> None:
    mine, other = Net(), Net()
    balanced(mine, scalarizer).backward(losses_of(mine))
    scalarizer(torch.stack(list(losses_of(other).values()))).backward()
    torch.testing.assert_close(grads(mine), grads(other), rtol=1e-4, atol=1e-6)


def test_features_compare_gradients_at_the_feature() -> None:
    mine, other = Net(), Net()
    z = mine.trunk(X)
    losses = {
        t: (h(z)[:, 0] - Y[:, i]).square().mean() for i, (t, h) in enumerate(mine.heads.items())
    }
    balanced(mine, "features(mgda)").backward(losses, feature=z)

    z = other.trunk(X)
    rows = []
    for i, head in enumerate(other.heads.values()):
        loss = (head(z)[:, 0] - Y[:, i]).square().mean()
        (row,) = torch.autograd.grad(loss, z, retain_graph=True)
        rows.append(row.flatten())
        loss.backward(inputs=list(head.parameters()), retain_graph=True)
    z.backward(ag.MGDA()(torch.stack(rows)).view_as(z))
    torch.testing.assert_close(grads(mine), grads(other), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("adaptive", [False, True])
def test_the_flat_step_is_algorithm_1(adaptive: bool) -> None:
    mine, rho = Net(), 0.3
    step = f"flat(rho={rho}, adaptive={adaptive})"
    balanced(mine, "upgrad", step=step).backward(lambda: losses_of(mine))

    def gradient(net: Net, task: str) -> tuple[list[Tensor], list[Tensor]]:
        heads, trunk = list(net.heads[task].parameters()), list(net.trunk.parameters())
        found = list(torch.autograd.grad(losses_of(net)[task], [*trunk, *heads]))
        return found[: len(trunk)], found[len(trunk) :]

    def climb(parameters: list[Tensor], slope: list[Tensor]) -> None:
        scaled = [p * g if adaptive else g for p, g in zip(parameters, slope, strict=True)]
        norm = torch.cat([s.flatten() for s in scaled]).norm()
        with torch.no_grad():
            for p, s in zip(parameters, scaled, strict=True):
                p += rho * (p * s if adaptive else s) / norm

    low, high, expected = [], [], {}
    for task in "abc":
        shared, own = gradient(Net(), task)
        low.append(torch.cat([g.flatten() for g in shared]))
        raised = Net()
        climb(list(raised.trunk.parameters()), shared)
        climb(list(raised.heads[task].parameters()), own)
        shared, own = gradient(raised, task)
        high.append(torch.cat([g.flatten() for g in shared]))
        expected[task] = own
    low_rows, high_rows = torch.stack(low), torch.stack(high)
    direction = ag.UPGrad()(low_rows) + ag.UPGrad()(high_rows - low_rows)
    trunk = torch.cat([p.grad.flatten() for p in mine.trunk.parameters() if p.grad is not None])
    torch.testing.assert_close(trunk, direction, rtol=1e-3, atol=1e-5)
    for task, own in expected.items():
        found = [p.grad for p in mine.heads[task].parameters()]
        torch.testing.assert_close(found, own, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("step", ["plain", "sam(rho=0.3)", "flat(rho=0.3)"])
@pytest.mark.parametrize("balancer", ["sum", "uw", "upgrad"])
def test_gradients_add_up(balancer: str, step: str) -> None:
    net, other = Net(), Net()
    balanced(net, balancer, step=step).backward(lambda: losses_of(net))
    twice = balanced(other, balancer, step=step)
    for _ in range(2):
        twice.backward(lambda: losses_of(other))
    torch.testing.assert_close([2 * g for g in grads(net)], grads(other))


def test_a_learned_balancer_learns_beside_the_model() -> None:
    net = Net()
    both = balanced(net, "uw", tasks="abc")
    both.backward({"a": losses_of(net)["a"]})  # the others have no labels yet
    (weights,) = both.balancer.parameters()
    assert weights.grad is not None and weights.grad[0] != 0 and not weights.grad[1:].any()


def test_famo_learns_from_the_losses_after_the_update() -> None:
    net = Net()
    both = balanced(net, "famo")
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    weights = []
    for _ in range(3):
        weights.append(both.backward(losses_of(net)).weights)
        optimizer.step()
        optimizer.zero_grad()
        both.after(losses_of(net))
    assert weights[2]["a"] / weights[2]["b"] != pytest.approx(
        weights[0]["a"] / weights[0]["b"], rel=1e-3
    )


def test_an_absent_task_changes_nothing_of_its_own() -> None:
    net = Net()
    both = balanced(net, "upgrad", tasks="abc")
    both.backward({t: x for t, x in losses_of(net).items() if t != "b"})
    assert all(not g.any() for g in grads(net)[-4:-2])


def test_a_step_that_looks_twice_needs_a_function() -> None:
    with pytest.raises(InputError, match=r"step flat.* more than once: give backward\(\) a func"):
        balanced(Net(), "upgrad", step="flat(rho=0.1)").backward(losses_of(Net()))


def test_an_unlawful_pair_is_refused() -> None:
    with pytest.raises(InputError, match="no common feature"):
        balanced(Net(), "features(mgda)", step="flat(rho=0.1)")


def test_an_unknown_task_is_named() -> None:
    net = Net()
    both = balanced(net, "upgrad", tasks="ab")
    with pytest.raises(InputError, match="loss 'c' is not one of the tasks"):
        both.backward(losses_of(net))


def test_gradnorm_needs_its_layer() -> None:
    with pytest.raises(InputError, match="compares gradients at last_shared="):
        balanced(Net(), "gradnorm")
    net = Net()
    info = balanced(net, "gradnorm", last_shared=net.trunk[2]).backward(losses_of(net))
    assert set(info.weights) == set("abc")


def test_a_loss_that_is_not_finite_is_named() -> None:
    net = Net()
    with pytest.raises(FloatingPointError, match="the loss of 'b' is nan"):
        balanced(net, "upgrad").backward(losses_of(net) | {"b": torch.tensor(float("nan"))})
