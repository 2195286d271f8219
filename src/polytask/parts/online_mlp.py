"""A small network that learns while a stream passes: forward row by row, Adam on blocks of rows.

Layers ``sizes = (d, h_1, ..., o)``, ReLU between them, Xavier-uniform weights, zero biases. Loss:
binary cross-entropy with logits, mean over rows and outputs. Adam: Kingma & Ba, ICLR 2015.

Compiled because a stream wants microseconds: a call into torch costs more than one row's work here.
A row's logits are the same bits alone and among others: sums run in the order of the inputs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from polytask.parts.compiled import njit, njit_reordered
from polytask.parts.hoeffding import random_unit

BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-8


class Net(NamedTuple):
    """Weights and optimiser of one network, flat: for each layer W ``[in, out]``, then b."""

    weights: NDArray  # [P] float32
    gradient: NDArray  # [P] scratch
    first: NDArray  # [P] Adam's running mean of gradients
    second: NDArray  # [P] and of their squares
    sizes: NDArray  # [layers + 1]
    steps: NDArray  # [1] updates so far
    random: NDArray  # [1] state of the generator that drops units
    lr: float


@njit
def forward(net, units, dropout):
    """Fill ``units`` = inputs | hidden ... | logits, whose inputs are given.

    dropout: the chance that a hidden unit is silenced; the others are scaled up.
    """
    layers = len(net.sizes) - 1
    live = np.empty(len(units), np.int64)
    w, u = 0, 0
    for k in range(layers):
        inputs, outputs = net.sizes[k], net.sizes[k + 1]
        weights = net.weights[w : w + inputs * outputs]
        bias = net.weights[w + inputs * outputs : w + (inputs + 1) * outputs]
        source, target = units[u : u + inputs], units[u + inputs : u + inputs + outputs]
        for j in range(outputs):
            target[j] = bias[j]
        count = 0
        for i in range(inputs):
            live[count] = i
            count += source[i] != 0
        for n in range(0, count - count % 4, 4):  # four inputs per pass over the outputs
            i1, i2, i3, i4 = live[n], live[n + 1], live[n + 2], live[n + 3]
            r1, r2 = weights[i1 * outputs :], weights[i2 * outputs :]
            r3, r4 = weights[i3 * outputs :], weights[i4 * outputs :]
            a, b, c, d = source[i1], source[i2], source[i3], source[i4]
            for j in range(outputs):
                target[j] = target[j] + a * r1[j] + b * r2[j] + c * r3[j] + d * r4[j]
        for n in range(count - count % 4, count):
            value, row = source[live[n]], weights[live[n] * outputs : (live[n] + 1) * outputs]
            for j in range(outputs):
                target[j] += value * row[j]
        if k < layers - 1:
            for j in range(outputs):
                target[j] = max(target[j], np.float32(0))
                if dropout > 0:
                    kept = random_unit(net.random) >= dropout
                    target[j] = np.float32(target[j] / (1 - dropout)) if kept else np.float32(0)
        w, u = w + (inputs + 1) * outputs, u + inputs


@njit_reordered
def update(net, units, targets, row_weights, dropout):
    """One Adam step on rows whose ``units`` [n, all] ``forward`` has filled.

    targets: [n, o]. row_weights: [n], factors of the rows' losses. dropout: as in ``forward``.
    """
    rows, outputs = targets.shape
    layers = len(net.sizes) - 1
    gradient = net.gradient
    gradient[:] = 0
    scale = np.float32(1 / (1 - dropout))
    widest = 0
    for k in range(1, layers + 1):
        widest = max(widest, net.sizes[k])
    error, below = np.empty(widest, np.float32), np.empty(widest, np.float32)
    for r in range(rows):
        w, u = len(net.weights), units.shape[1] - outputs
        for j in range(outputs):
            chance = 1 / (1 + math.exp(-units[r, u + j]))
            error[j] = (chance - targets[r, j]) * row_weights[r] / (rows * outputs)
        for k in range(layers - 1, -1, -1):
            inputs, width = net.sizes[k], net.sizes[k + 1]
            w, u = w - (inputs + 1) * width, u - inputs
            for j in range(width):
                gradient[w + inputs * width + j] += error[j]
            for i in range(inputs):
                value = units[r, u + i]
                if value == 0:  # silent: no gradient through it, none for its weights
                    if k > 0:
                        below[i] = 0
                    continue
                row = gradient[w + i * width : w + (i + 1) * width]
                for j in range(width):
                    row[j] += value * error[j]
                if k > 0:
                    back = np.float32(0)
                    weights = net.weights[w + i * width : w + (i + 1) * width]
                    for j in range(width):
                        back += weights[j] * error[j]
                    below[i] = back * scale
            error, below = below, error
    net.steps[0] += 1
    step = np.float32(net.lr / (1 - BETA_1 ** net.steps[0]))
    root = np.float32(1 / math.sqrt(1 - BETA_2 ** net.steps[0]))
    first, second, weights = net.first, net.second, net.weights
    b1, b2 = np.float32(BETA_1), np.float32(BETA_2)
    c1, c2 = np.float32(1 - BETA_1), np.float32(1 - BETA_2)
    epsilon = np.float32(EPSILON)
    for p in range(len(weights)):
        g = gradient[p]
        first[p] = b1 * first[p] + c1 * g
        second[p] = b2 * second[p] + c2 * g * g
        weights[p] -= step * first[p] / (np.sqrt(second[p]) * root + epsilon)


@njit
def scaled_inputs(scale, standardise, x, units):
    """The network's inputs of an instance into ``units``: as they are, or as running z-scores.

    scale: [3, d] count, mean and sum of squared gaps. A missing value becomes 0.
    """
    for i in range(len(x)):
        value = 0.0 if x[i] != x[i] else x[i]
        if standardise and x[i] == x[i]:
            spread = math.sqrt(scale[2, i] / max(1.0, scale[0, i] - 1))
            value = (x[i] - scale[1, i]) / spread if spread > 0 else 0.0
        units[i] = np.float32(value)


@njit
def note_scale(scale, x):
    """Take an instance into the running scale."""
    for i in range(len(x)):
        if x[i] == x[i]:
            gap = x[i] - scale[1, i]
            scale[0, i] += 1
            scale[1, i] += gap / scale[0, i]
            scale[2, i] += gap * (x[i] - scale[1, i])


def new_net(sizes: tuple[int, ...], lr: float, seed: int) -> Net:
    """A fresh network."""
    rng = np.random.default_rng(seed)
    parts = []
    for inputs, outputs in pairwise(sizes):
        bound = math.sqrt(6 / (inputs + outputs))
        parts += [rng.uniform(-bound, bound, inputs * outputs), np.zeros(outputs)]
    weights = np.concatenate(parts).astype(np.float32)
    return Net(
        weights,
        gradient=np.zeros_like(weights),
        first=np.zeros_like(weights),
        second=np.zeros_like(weights),
        sizes=np.array(sizes, np.int64),
        steps=np.zeros(1, np.int64),
        random=rng.integers(2**63, size=1).astype(np.uint64),
        lr=lr,
    )


def state(net: Net) -> dict[str, NDArray]:
    """The arrays that decide what the network does next."""
    arrays = {name: value for name, value in net._asdict().items() if name not in _NOT_KEPT}
    return {**arrays, "random": net.random.view(np.int64)}


def restored(arrays: Mapping[str, NDArray], lr: float) -> Net:
    """The network that ``state`` described."""
    random = arrays["random"].view(np.uint64)
    gradient = np.zeros_like(arrays["weights"])
    return Net(**{**arrays, "random": random}, gradient=gradient, lr=lr)


_NOT_KEPT = ("gradient", "lr")


def layers(net: Net) -> list[tuple[NDArray, NDArray]]:
    """(W ``[in, out]``, b) of every layer: views."""
    found, at = [], 0
    for inputs, outputs in pairwise(net.sizes):
        weights = net.weights[at : at + inputs * outputs].reshape(inputs, outputs)
        at += inputs * outputs
        found.append((weights, net.weights[at : at + outputs]))
        at += outputs
    return found


def add_outputs(net: Net, more: int, seed: int) -> Net:
    """The same network with further outputs, drawn as at the start; the others stay as they are."""
    inputs, outputs = (int(size) for size in net.sizes[-2:])
    head = (inputs + 1) * outputs
    bound = math.sqrt(6 / (inputs + outputs + more))
    drawn = np.random.default_rng([seed, outputs]).uniform(-bound, bound, (inputs, more))

    def wider(flat: NDArray, new: NDArray) -> NDArray:
        weights = flat[-head:-outputs].reshape(inputs, outputs)
        weights = np.concatenate([weights, new.astype(np.float32)], axis=1)
        bias = np.concatenate([flat[-outputs:], np.zeros(more, np.float32)])
        return np.concatenate([flat[:-head], weights.ravel(), bias])

    nothing = np.zeros_like(drawn)
    weights = wider(net.weights, drawn)
    return net._replace(
        weights=weights,
        gradient=np.zeros_like(weights),
        first=wider(net.first, nothing),
        second=wider(net.second, nothing),
        sizes=np.array([*net.sizes[:-1], outputs + more], np.int64),
    )
