"""The gated expert layer against its formula."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from polytask.errors import InputError
from polytask.parts.gated_experts import ConvExperts, Gate, StaticGate, mixed, sparse_softmax

B, N, D, H, W = 3, 4, 8, 5, 6


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def maps() -> Tensor:
    return torch.randn(B, D, H, W)


def test_experts_are_separate_networks() -> None:
    """Each expert, written out as its own four layers on its own weights."""
    experts, x = ConvExperts(N, D), maps()
    first, norm, _, last = experts.layers
    found = experts(x)
    assert found.shape == (B, N, D, H, W)
    for i in range(N):
        mine = slice(i * D, (i + 1) * D)
        own = nn.BatchNorm2d(D)
        own.load_state_dict({"weight": norm.weight[mine], "bias": norm.bias[mine]}, strict=False)
        hidden = F.gelu(own(F.conv2d(x, first.weight[mine])))
        wanted = F.conv2d(hidden, last.weight[mine], last.bias[mine], padding=1)
        torch.testing.assert_close(found[:, i], wanted)


def test_gate_against_the_formula() -> None:
    """The published order of layers: the second 1x1 convolution, then the mean over places."""
    gate, z = Gate(D, H * W, N + 1), maps()
    tokens = z.flatten(2).transpose(1, 2)
    layers = gate.what
    inner = layers[0](tokens)
    inner = F.gelu(F.layer_norm(inner, (D // 4,), layers[1].weight, layers[1].bias))
    what = gate.what_last(inner).mean(1)
    where = (z.flatten(2) * gate.over_places.weight).sum(2) + gate.over_places.bias
    norm, linear = gate.where[0], gate.where[2]
    where = linear(F.gelu(F.layer_norm(where, (D,), norm.weight, norm.bias)))
    logits = F.linear(torch.cat([what, where], 1), gate.last.weight, gate.last.bias)
    torch.testing.assert_close(gate(z), logits.softmax(1))


@pytest.mark.parametrize("topk", [0, 1, 3])
@pytest.mark.parametrize("kind", ["dynamic", "static"])
def test_weights_sum_to_one(kind: str, topk: int) -> None:
    gate = Gate(D, H * W, N + 1, topk) if kind == "dynamic" else StaticGate(N + 1, topk)
    weights = gate(maps())
    assert weights.shape == (B, N + 1) and bool((weights >= 0).all())
    torch.testing.assert_close(weights.sum(1), torch.ones(B))
    assert ((weights > 0).sum(1) == (topk or N + 1)).all()


def test_dynamic_weights_follow_the_sample_and_static_ones_do_not() -> None:
    x = maps()
    dynamic, static = Gate(D, H * W, N)(x), StaticGate(N)(x)
    assert (dynamic[0] - dynamic[1]).abs().max() > 1e-4
    assert torch.equal(static[0], static[1])


def test_sparse_softmax_keeps_the_largest() -> None:
    logits = torch.tensor([[1.0, 3.0, 2.0], [0.0, -1.0, -2.0]])
    wanted = torch.tensor([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
    torch.testing.assert_close(sparse_softmax(logits, 1), wanted)
    two = sparse_softmax(logits, 2)
    torch.testing.assert_close(two[0], torch.tensor([0.0, *torch.tensor([3.0, 2.0]).softmax(0)]))
    torch.testing.assert_close(sparse_softmax(logits), logits.softmax(1))


def test_mixture_is_the_weighted_sum() -> None:
    weights, experts = torch.rand(B, N + 2), torch.randn(B, N, D, H, W)
    one, two = maps(), maps()
    wanted = torch.zeros(B, D, H, W)
    for b in range(B):
        for i in range(N):
            wanted[b] += weights[b, i] * experts[b, i]
        wanted[b] += weights[b, N] * one[b] + weights[b, N + 1] * two[b]
    torch.testing.assert_close(mixed(weights, experts, one, two), wanted)


def test_a_map_from_outside_needs_its_weight() -> None:
    with pytest.raises(ValueError, match="zip"):
        mixed(torch.rand(B, N), torch.randn(B, N, D, H, W), maps())


def test_wrong_numbers_are_refused() -> None:
    with pytest.raises(InputError, match="topk is 6"):
        StaticGate(5, topk=6)
    with pytest.raises(InputError, match="experts must be"):
        ConvExperts(0, D)
