import pytest
import torch
from torch import nn

from polytask.parts.mlp import MLP, init_normal


def test_an_mlp_is_its_formula():
    torch.manual_seed(0)
    mlp = MLP(3, [5, 4], 2, activation=nn.Tanh)
    first, second, last = (layer for layer in mlp if isinstance(layer, nn.Linear))
    x = torch.randn(7, 3)
    h = torch.tanh(x @ first.weight.T + first.bias)
    h = torch.tanh(h @ second.weight.T + second.bias)
    torch.testing.assert_close(mlp(x), h @ last.weight.T + last.bias)


@pytest.mark.parametrize(
    ("hidden", "out", "width"), [([5, 4], None, 4), ([5, 4], 2, 2), ([], 2, 2), ([], None, 3)]
)
def test_out_features_is_the_width_that_comes_out(hidden, out, width):
    mlp = MLP(3, hidden, out)
    assert mlp.out_features == width
    assert mlp(torch.randn(2, 6, 3)).shape == (2, 6, width)


def test_without_an_output_layer_the_last_hidden_layer_is_activated():
    assert (MLP(3, [50])(torch.randn(20, 3)) >= 0).all()


def test_dropout_acts_in_training_only():
    mlp = MLP(4, [200], dropout=0.5)
    nn.init.ones_(mlp[0].weight)
    x = torch.ones(10, 4)
    assert 0.3 < (mlp(x) == 0).float().mean() < 0.7
    assert (mlp.eval()(x) != 0).all()


def test_init_normal_draws_weights_and_clears_biases_but_keeps_norm_gains():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Embedding(100, 64), nn.Linear(64, 200), nn.LayerNorm(200))
    init_normal(net, 0.01)
    for layer in net[:2]:
        assert layer.weight.std().item() == pytest.approx(0.01, rel=0.05)
        assert layer.weight.mean().abs() < 0.001
    assert not net[1].bias.any()
    assert (net[2].weight == 1).all() and not net[2].bias.any()
