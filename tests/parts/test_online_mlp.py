"""The compiled network learns as torch's would."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

pytest.importorskip("numba")
from polytask.parts.online_mlp import add_outputs, forward, layers, new_net, update

SIZES = (6, 16, 8, 4)


def units_of(X: np.ndarray) -> np.ndarray:
    units = np.zeros((len(X), sum(SIZES)), np.float32)
    units[:, : SIZES[0]] = X
    return units


@pytest.mark.parametrize("rows", [1, 32])
def test_weights_are_torchs_after_some_steps(rows: int) -> None:
    rng = np.random.default_rng(0)
    net = new_net(SIZES, 1e-2, seed=3)
    linear = [nn.Linear(i, o) for i, o in pairwise(SIZES)]
    for layer, (weights, bias) in zip(linear, layers(net), strict=True):
        layer.weight.data = torch.from_numpy(weights.T.copy())
        layer.bias.data = torch.from_numpy(bias.copy())
    model = nn.Sequential(linear[0], nn.ReLU(), linear[1], nn.ReLU(), linear[2])
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(20):
        X = rng.normal(size=(rows, SIZES[0])).astype(np.float32)
        mask = (rng.random((rows, SIZES[-1])) < 0.4).astype(np.float32)
        factor = rng.uniform(0.5, 2, rows).astype(np.float32)
        units = units_of(X)
        for row in units:
            forward(net, row, 0.0)
        logits = model(torch.from_numpy(X))
        np.testing.assert_allclose(units[:, -SIZES[-1] :], logits.detach(), rtol=1e-3, atol=1e-5)
        loss = nn.functional.binary_cross_entropy_with_logits(
            logits, torch.from_numpy(mask), weight=torch.from_numpy(factor)[:, None]
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        update(net, units, mask, factor, 0.0)
    for layer, (weights, bias) in zip(linear, layers(net), strict=True):
        np.testing.assert_allclose(weights, layer.weight.detach().T, atol=1e-5)
        np.testing.assert_allclose(bias, layer.bias.detach(), atol=1e-5)


def test_dropped_units_have_no_part_in_an_update() -> None:
    net = new_net(SIZES, 1e-2, seed=1)
    units = units_of(np.ones((1, SIZES[0])))
    forward(net, units[0], 0.5)
    silent = np.flatnonzero(units[0, SIZES[0] : SIZES[0] + SIZES[1]] == 0)
    assert 0 < len(silent) < SIZES[1]
    update(net, units, np.ones((1, SIZES[-1]), np.float32), np.ones(1, np.float32), 0.5)
    first = net.gradient[: SIZES[0] * SIZES[1]].reshape(SIZES[0], SIZES[1])
    assert (first[:, silent] == 0).all()
    assert (first != 0).any()


def test_dropout_keeps_the_mean() -> None:
    net = new_net((4, 2000, 1), 1e-2, seed=0)
    plain, dropped = (np.ones(2005, np.float32) for _ in range(2))
    forward(net, plain, 0.0)
    forward(net, dropped, 0.2)
    kept = dropped[4:2004] > 0
    np.testing.assert_allclose(dropped[4:2004][kept], plain[4:2004][kept] / 0.8, rtol=1e-6)
    assert dropped[4:2004].mean() == pytest.approx(plain[4:2004].mean(), rel=0.1)


def test_further_outputs_leave_the_others_alone() -> None:
    net = new_net(SIZES, 1e-2, seed=0)
    wide = add_outputs(net, 2, seed=0)
    x = np.random.default_rng(0).normal(size=SIZES[0])
    narrow, wider = np.zeros(sum(SIZES), np.float32), np.zeros(sum(SIZES) + 2, np.float32)
    narrow[: SIZES[0]] = wider[: SIZES[0]] = x
    forward(net, narrow, 0.0)
    forward(wide, wider, 0.0)
    np.testing.assert_allclose(wider[:-2], narrow, rtol=1e-6)
    assert (wider[-2:] != 0).all()
