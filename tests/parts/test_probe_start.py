"""A head starts as the penalised regression of its task on what the fresh network gives it."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from polytask.data import Batch
from polytask.parts.heads import Heads
from polytask.parts.probe_start import start_heads
from polytask.tasks import Classification, Regression, Task
from polytask.training import MultiTaskModule

CPU = torch.device("cpu")


class Fixed(MultiTaskModule):
    """A frozen layer, and linear heads."""

    def __init__(self, *tasks: Task) -> None:
        super().__init__(tasks)
        self.below = nn.Linear(5, 4)
        self.heads = Heads({t.name: nn.Linear(4, t.kind.outputs) for t in tasks})

    def represent(self, inputs: dict[str, Tensor], tasks: Iterable[str]) -> Tensor:
        return torch.tanh(self.below(inputs["x"]))

    def answer(self, representation: Tensor, task: str) -> Tensor:
        return self.heads[task](representation)


def colour() -> Task:
    return Task("colour", Classification(("blue", "green", "red")))


def batch(rows: int = 300) -> Batch:
    x = torch.randn(rows, 5)
    target = (x @ torch.randn(5, 3) + 0.5 * torch.randn(rows, 3)).argmax(1)
    return Batch({"x": x}, {"colour": target}, {"colour": torch.rand(rows) < 0.8})


@pytest.mark.parametrize("ridge", [1.0, 30.0])
def test_it_is_the_penalised_logistic_regression_of_labelled_rows(ridge: float) -> None:
    torch.manual_seed(0)
    module, data = Fixed(colour()), batch()
    start_heads(module, data, CPU, ridge=ridge)
    with torch.no_grad():
        features = torch.tanh(module.below(data.inputs["x"])).double().numpy()
        found = module.outputs(data.inputs, ["colour"])["colour"].softmax(1).numpy()
    known = data.masks["colour"].numpy()
    peer = LogisticRegression(C=1 / ridge, max_iter=5000, tol=1e-8)
    peer.fit(features[known], data.targets["colour"].numpy()[known])
    np.testing.assert_allclose(found, peer.predict_proba(features), atol=2e-3)


def test_rows_without_a_label_say_nothing() -> None:
    torch.manual_seed(0)
    module, data = Fixed(colour()), batch()
    other = Fixed(colour())
    other.load_state_dict(module.state_dict())
    start_heads(module, data, CPU)
    data.inputs["x"][~data.masks["colour"]] = 100.0
    start_heads(other, data, CPU)
    assert torch.equal(module.heads["colour"].weight, other.heads["colour"].weight)


def test_the_rest_of_the_network_stays_as_it_is() -> None:
    torch.manual_seed(0)
    module, data = Fixed(colour()), batch()
    before = {name: tensor.clone() for name, tensor in module.below.state_dict().items()}
    start_heads(module, data, CPU)
    assert all(torch.equal(before[n], t) for n, t in module.below.state_dict().items())
    assert all(parameter.grad is None for parameter in module.parameters())


def test_at_most_so_many_rows_are_read_drawn_by_seed() -> None:
    torch.manual_seed(0)
    data, heads = batch(), []
    module = Fixed(colour())
    for seed in (0, 0, 1):
        made = Fixed(colour())
        made.load_state_dict(module.state_dict())
        start_heads(made, data, CPU, rows=40, seed=seed)
        heads.append(made.heads["colour"].weight)
    assert torch.equal(heads[0], heads[1])
    assert not torch.allclose(heads[0], heads[2], atol=1e-2)


def test_a_head_of_another_kind_and_a_task_without_labels() -> None:
    torch.manual_seed(0)
    size = Task("size", Regression().fitted(np.arange(10.0)))
    data = batch()
    truth = 3 * torch.tanh(data.inputs["x"][:, 0])
    everywhere = torch.ones(len(truth), dtype=torch.bool)
    data = Batch(
        data.inputs,
        {**data.targets, "size": truth},
        {"colour": torch.zeros_like(everywhere), "size": everywhere},
    )
    module = Fixed(colour(), size)
    untaught = module.heads["colour"].weight.clone()
    before = module.losses(data)["size"].item()
    start_heads(module, data, CPU)
    assert torch.equal(module.heads["colour"].weight, untaught)
    assert module.losses(data)["size"].item() < 0.5 * before
