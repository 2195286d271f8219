import math

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad

from polytask.data import Batch
from polytask.parts.probes import conflict_rate, sharpness, task_gradients
from polytask.tasks import Classification, Regression, Task
from polytask.training import MultiTaskModule


class Straight(MultiTaskModule):
    """L_i = a_i·θ with a_i the mean of the batch's rows for task i: gradients by inspection."""

    def __init__(self, theta: list[float], names: tuple[str, ...] = ("a", "b")) -> None:
        super().__init__([Task(name, Regression(), name) for name in names])
        self.theta = nn.Parameter(torch.tensor(theta))
        self.heads = nn.ModuleDict({name: nn.Linear(1, 1) for name in names})

    def losses(self, batch: Batch) -> dict[str, torch.Tensor]:
        return {t: batch.inputs[t].mean(0) @ self.theta for t in batch.targets}


def slopes(**rows: list[float]) -> Batch:
    one = torch.ones(1)
    return Batch(
        {t: torch.tensor([a]) for t, a in rows.items()},
        dict.fromkeys(rows, one),
        dict.fromkeys(rows, one.bool()),
    )


class Net(MultiTaskModule):
    """A trunk with batch normalisation and dropout under two heads of different kind."""

    def __init__(self) -> None:
        super().__init__(
            [Task("y", Regression(), "y"), Task("c", Classification(("n", "y", "z")), "c")]
        )
        self.trunk = nn.Sequential(
            nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(0.2), nn.Linear(6, 5)
        )
        self.heads = nn.ModuleDict({"y": nn.Linear(5, 1), "c": nn.Linear(5, 3)})

    def represent(self, inputs, tasks):
        return self.trunk(inputs["x"])

    def answer(self, representation, task):
        return self.heads[task](representation)


def rows(n: int = 32, labelled: int | None = None) -> Batch:
    g = torch.Generator().manual_seed(1)
    mask = torch.arange(n) < (n if labelled is None else labelled)
    return Batch(
        {"x": torch.randn(n, 4, generator=g)},
        {"y": torch.randn(n, generator=g), "c": torch.randint(3, (n,), generator=g)},
        {"y": torch.ones(n, dtype=torch.bool), "c": mask},
    )


def test_a_straight_loss_rises_by_rho_times_its_slope():
    net = Straight([2.0, -1.0, 0.5])
    batch = slopes(a=[3.0, 0.0, 4.0], b=[0.0, -2.0, 0.0])
    assert sharpness(net, batch, rho=0.5) == pytest.approx({"a": 2.5, "b": 1.0}, rel=1e-5)


def test_adaptive_sharpness_of_a_straight_loss_is_rho_times_the_norm_of_weights_by_slope():
    net = Straight([2.0, -1.0, 0.5])
    batch = slopes(a=[3.0, 0.0, 4.0], b=[0.0, -2.0, 0.0])
    found = sharpness(net, batch, rho=0.5, adaptive=True)
    expected = {"a": 0.5 * math.hypot(6.0, 2.0), "b": 1.0}
    assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("adaptive", [False, True])
def test_sharpness_is_its_formula_by_functional_calls(adaptive):
    net, batch, rho = Net().eval(), rows(labelled=20), 0.3
    names = [n for n, _ in net.named_parameters() if n.startswith("trunk")]
    weights = {n: p.detach() for n, p in net.named_parameters()}

    def loss(trunk, task):
        part = batch.only([task])
        return functional_call(net, {**weights, **trunk}, (part,))[task]

    trunk = {n: weights[n] for n in names}
    for task, found in sharpness(net, batch, rho, adaptive=adaptive).items():
        slope = grad(lambda t, task=task: loss(t, task))(trunk)
        size = {n: trunk[n].abs() if adaptive else torch.ones_like(trunk[n]) for n in names}
        length = math.sqrt(sum(float(((size[n] * slope[n]) ** 2).sum()) for n in names))
        above = {n: trunk[n] + rho * size[n] ** 2 * slope[n] / length for n in names}
        assert found == pytest.approx(float(loss(above, task) - loss(trunk, task)), rel=1e-3)


@pytest.mark.parametrize("training", [False, True])
def test_probes_leave_nothing_behind(training):
    net = Net().train(training)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    sharpness(net, rows())
    conflict_rate(net, [rows()])
    assert net.training is training
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())


def test_a_task_without_labels_is_left_out():
    batch = rows(labelled=0)
    assert set(sharpness(Net().eval(), batch)) == {"y"}
    assert set(task_gradients(Net().eval(), batch)) == {"y"}


def test_gradients_are_those_of_backward():
    net, batch = Net().eval(), rows()
    for task, found in task_gradients(net, batch).items():
        net.zero_grad()
        net.losses(batch.only([task]))[task].backward()
        for gradient, parameter in zip(found, net.trunk.parameters(), strict=True):
            torch.testing.assert_close(gradient, parameter.grad)


def test_conflict_rate_counts_batches_in_which_gradients_oppose():
    net = Straight([1.0, 1.0], names=("a", "b", "c"))
    batches = [
        slopes(a=[1.0, 0.0], b=[-1.0, 5.0], c=[0.0, 1.0]),  # a·b < 0, a·c = 0, b·c > 0
        slopes(a=[1.0, 0.0], b=[1.0, 0.0], c=[-1.0, 0.0]),  # a·b > 0, a·c < 0, b·c < 0
        slopes(a=[1.0, 1.0], b=[-2.0, 1.0]),  # a·b < 0
        slopes(c=[1.0, 1.0]),
    ]
    nan = float("nan")
    expected = torch.tensor([[nan, 2 / 3, 1 / 2], [2 / 3, nan, 1 / 2], [1 / 2, 1 / 2, nan]])
    torch.testing.assert_close(conflict_rate(net, batches), expected.double(), equal_nan=True)


def test_two_tasks_that_never_meet_have_no_rate():
    net = Straight([1.0, 1.0])
    found = conflict_rate(net, [slopes(a=[1.0, 0.0]), slopes(b=[1.0, 0.0])])
    assert found.isnan().all()
