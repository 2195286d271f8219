import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polytask.parts.experts import CGC, PLE, STEM, Experts, Gates, GroupedLinear, MMoE

HIDDEN = (6, 5)


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def expert(experts: Experts, group: int, index: int, x):
    """One expert by hand, x [B, d] -> [B, h]."""
    for layer in experts.layers:
        if isinstance(layer, GroupedLinear):
            x = torch.relu(x @ layer.weight[group, index] + layer.bias[group, index])
    return x


def mix(gates: Gates, group: int, x, experts: list):
    """sum_e softmax(W x)_e E_e, row by row."""
    rows = []
    for b, row in enumerate(x):
        weights = torch.softmax(gates.weight[group].T @ row, 0)
        assert len(weights) == len(experts)
        rows.append(sum(w * e[b] for w, e in zip(weights, experts, strict=True)))
    return torch.stack(rows)


def slow_streams(layer: CGC, streams: list, stem: bool) -> list:
    """One PLE or STEM layer with loops over tasks and experts."""
    *task_inputs, shared_input = streams
    k = layer.task_experts.layers[0].weight.shape[1]
    n_shared = layer.shared_experts.layers[0].weight.shape[1]
    own = [
        [expert(layer.task_experts, t, i, x) for i in range(k)] for t, x in enumerate(task_inputs)
    ]
    shared = [expert(layer.shared_experts, 0, i, shared_input) for i in range(n_shared)]
    everyone = [e for group in own for e in group] + shared
    out = []
    for t, x in enumerate(task_inputs):
        if stem:
            seen = [
                e if u == t else e.detach() for u, group in enumerate(own) for e in group
            ] + shared
            out.append(mix(layer.task_gates, t, x + shared_input, seen))
        else:
            out.append(mix(layer.task_gates, t, x, own[t] + shared))
    if layer.shared_gate is not None:
        out.append(mix(layer.shared_gate, 0, shared_input, everyone))
    return out


def assert_same_values_and_gradients(module, fast, slow):
    """Equal outputs, and equal gradients for every parameter under random output weights."""
    torch.testing.assert_close(fast, slow)
    direction = torch.randn_like(fast)
    for name, parameter in module.named_parameters():
        a, b = (
            torch.autograd.grad((out * direction).sum(), parameter, retain_graph=True)[0]
            for out in (fast, slow)
        )
        torch.testing.assert_close(a, b, msg=lambda text, name=name: f"{name}: {text}")


sizes = {
    "tasks": st.integers(1, 4),
    "shared": st.integers(1, 3),
    "per_task": st.integers(1, 3),
    "layers": st.integers(1, 3),
}


@settings(max_examples=15, deadline=None)
@given(tasks=st.integers(1, 4), experts=st.integers(1, 5))
def test_mmoe_equals_loops(tasks, experts):
    model = MMoE(4, tasks, experts, HIDDEN)
    x = torch.randn(3, 4)
    outs = [expert(model.experts, 0, i, x) for i in range(experts)]
    slow = torch.stack([mix(model.gates, t, x, outs) for t in range(tasks)])
    assert slow.shape == (tasks, 3, model.out_features)
    assert_same_values_and_gradients(model, model(x), slow)


@settings(max_examples=15, deadline=None)
@given(**sizes)
def test_ple_equals_loops(tasks, shared, per_task, layers):
    model = PLE(4, tasks, shared, per_task, HIDDEN, layers)
    x = torch.randn(3, 4)
    streams = [x] * (tasks + 1)
    for layer in model.layers:
        streams = slow_streams(layer, streams, stem=False)
    slow = torch.stack(streams)
    assert slow.shape == (tasks, 3, model.out_features)
    assert_same_values_and_gradients(model, model(x), slow)


@settings(max_examples=15, deadline=None)
@given(**sizes)
def test_stem_equals_loops(tasks, shared, per_task, layers):
    model = STEM(4, tasks, shared, per_task, HIDDEN, layers)
    x = torch.randn(tasks + 1, 3, 4)
    streams = list(x)
    for layer in model.layers:
        streams = slow_streams(layer, streams, stem=True)
    slow = torch.stack(streams)
    assert slow.shape == (tasks, 3, model.out_features)
    assert_same_values_and_gradients(model, model(x), slow)


def test_a_stem_task_hears_every_expert_but_teaches_only_its_own_and_the_shared_ones():
    tasks, task = 3, 1
    model = STEM(4, tasks, shared=2, per_task=2, hidden=HIDDEN)
    x = torch.randn(tasks + 1, 8, 4, requires_grad=True)
    before = model(x)[task]
    before.sum().backward()
    (layer,) = model.layers

    reached = x.grad.abs().sum(dim=(1, 2)) > 0
    assert reached.tolist() == [False, True, False, True]
    for part in layer.task_experts.layers:
        if isinstance(part, GroupedLinear):
            reached = part.weight.grad.abs().sum(dim=(1, 2, 3)) > 0
            assert reached.tolist() == [False, True, False]
    assert all(p.grad.abs().sum() > 0 for p in layer.shared_experts.parameters())
    # Its own gate learns how far to trust each expert, the other tasks' included.
    gate = layer.task_gates.weight.grad.abs().sum(dim=1)
    assert (gate[task] > 0).all() and not gate[[0, 2]].any()

    with torch.no_grad():
        layer.task_experts.layers[0].weight[2] += 1
    assert not torch.allclose(model(x)[task], before)


def test_a_ple_task_ignores_the_experts_of_the_others():
    model = PLE(4, 3, shared=2, per_task=2, hidden=HIDDEN)
    x = torch.randn(8, 4)
    before = model(x)
    with torch.no_grad():
        model.layers[0].task_experts.layers[0].weight[2] += 1
    after = model(x)
    assert torch.equal(after[:2], before[:2])
    assert not torch.allclose(after[2], before[2])


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("kind", [PLE, STEM])
def test_every_parameter_learns(kind, layers):
    """A parameter without gradient would stop a distributed run."""
    model = kind(4, 3, 2, 2, HIDDEN, layers)
    model(torch.randn(4, 8, 4) if kind is STEM else torch.randn(8, 4)).pow(2).sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in model.parameters())


def test_gates_are_distributions():
    weights = Gates(3, 4, 5)(torch.randn(7, 4))
    assert weights.shape == (3, 7, 5)
    assert (weights > 0).all()
    torch.testing.assert_close(weights.sum(-1), torch.ones(3, 7))


def test_paper_sizes_are_the_defaults():
    mmoe, ple = MMoE(512, 7), PLE(512, 7)
    one = 512 * 256 + 256 + 256 * 128 + 128
    assert sum(p.numel() for p in mmoe.parameters()) == 8 * one + 7 * 512 * 8
    assert sum(p.numel() for p in ple.parameters()) == (4 + 7 * 2) * one + 7 * 512 * 6


def test_dropout_acts_in_training_only():
    model, x = MMoE(4, 2, dropout=0.5), torch.randn(3, 4)
    assert not torch.equal(model(x), model(x))
    model.eval()
    assert torch.equal(model(x), model(x))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shared": 0}, "number of experts is 0"),
        ({"per_task": 0}, "number of experts is 0"),
        ({"layers": 0}, "layers is 0"),
        ({"hidden": ()}, "number of layers in hidden is 0"),
    ],
)
def test_impossible_sizes_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        PLE(4, 2, **change)


def test_stem_wants_one_input_per_task_and_a_shared_one():
    with pytest.raises(ValueError, match=r"x holds 3 inputs; STEM needs 4"):
        STEM(4, 3)(torch.randn(3, 8, 4))
