"""Gated expert layer for feature maps: shared experts, a gate per reader, experts from outside.

Equations, for one reader (a task) and one sample:
    E_i = e_i(x), i = 1..N                the shared experts       x, E_i: [D, h, w]
    g = softmax over N + R of gate(z)     one number per expert    z: [D, h, w]   g: [N + R]
    F = Σ_i g_i E_i + Σ_r g_{N+r} M_r     M_r: maps from outside, such as a task's memory
With top-k the softmax goes over the k largest entries, the others are 0.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from polytask.errors import InputError


class ConvExperts(nn.Module):
    """N networks side by side, each 1x1 convolution - batch norm - GELU - 3x3 convolution.

    Shapes: ``[B, D, h, w] -> [B, N, D, h, w]``.
    """

    def __init__(self, experts: int, channels: int) -> None:
        super().__init__()
        if experts < 1:
            raise InputError(f"experts must be at least 1, not {experts}")
        self.experts = experts
        # N networks of equal shape are one network with N groups: the first layer reads one input.
        self.layers = nn.Sequential(
            nn.Conv2d(channels, experts * channels, 1, bias=False),
            nn.BatchNorm2d(experts * channels),
            nn.GELU(),
            nn.Conv2d(experts * channels, experts * channels, 3, padding=1, groups=experts),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Every expert's map."""
        return self.layers(x).unflatten(1, (self.experts, -1))


class Gate(nn.Module):
    """Weights of the experts for every sample, from its own map: ``[B, D, h, w] -> [B, K]``.

    Two summaries of the map, [D/4] each, side by side, and one linear layer to K logits:
        mean over places of  conv1x1(GELU(LN(conv1x1(z))))      what is there
        linear(GELU(LN(linear over the h w places of z)))       where it is

    Args:
        channels: D, at least 4.
        places: h w; the gate reads maps of this many cells only.
        choices: K.
        topk: how many weights are not 0; all if 0.
    """

    def __init__(self, channels: int, places: int, choices: int, topk: int = 0) -> None:
        super().__init__()
        quarter = channels // 4
        self.topk = _checked(topk, choices)
        self.what = nn.Sequential(nn.Linear(channels, quarter), nn.LayerNorm(quarter), nn.GELU())
        self.what_last = nn.Linear(quarter, quarter)
        self.over_places = nn.Linear(places, 1)
        self.where = nn.Sequential(nn.LayerNorm(channels), nn.GELU(), nn.Linear(channels, quarter))
        self.last = nn.Linear(2 * quarter, choices)

    def forward(self, z: Tensor) -> Tensor:
        """Weights ``[B, K]`` that are not negative and sum to 1."""
        flat = z.flatten(2)
        # The last layer is linear, so it may come after the mean, where it costs next to nothing.
        what = self.what_last(self.what(flat.transpose(1, 2)).mean(1))
        where = self.where(self.over_places(flat).squeeze(2))
        return sparse_softmax(self.last(torch.cat([what, where], dim=1)), self.topk)


class StaticGate(nn.Module):
    """Weights that are learned once and are the same for every sample: ``[B, ...] -> [B, K]``."""

    def __init__(self, choices: int, topk: int = 0) -> None:
        super().__init__()
        self.topk = _checked(topk, choices)
        self.logits = nn.Parameter(torch.zeros(choices))

    def forward(self, z: Tensor) -> Tensor:
        """Weights ``[B, K]`` that are not negative and sum to 1."""
        return sparse_softmax(self.logits, self.topk).expand(z.shape[0], -1)


def sparse_softmax(logits: Tensor, topk: int = 0) -> Tensor:
    """Softmax over the last axis, or over its ``topk`` largest entries with 0 elsewhere."""
    if topk:
        kept, places = logits.topk(topk, dim=-1)
        logits = torch.full_like(logits, -torch.inf).scatter(-1, places, kept)
    return logits.softmax(-1)


def mixed(weights: Tensor, experts: Tensor, *outside: Tensor) -> Tensor:
    """F ``[B, D, h, w]``: weights ``[B, N + R]``, experts ``[B, N, D, h, w]``, R maps like F."""
    inner = experts.shape[1]
    total = torch.einsum("bn,bnchw->bchw", weights[:, :inner], experts)
    for weight, extra in zip(weights[:, inner:].unbind(1), outside, strict=True):
        total = total + weight[:, None, None, None] * extra
    return total


def _checked(topk: int, choices: int) -> int:
    if not 0 <= topk <= choices:
        raise InputError(f"topk is {topk}; it must be 0 (all) to {choices}, the number of experts")
    return topk
