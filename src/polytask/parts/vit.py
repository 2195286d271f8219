"""Vision transformer of signals and pictures: patches, tokens, and a pre-norm encoder with taps.

Sources: Dosovitskiy et al., "An Image is Worth 16x16 Words", arXiv 2010.11929; stochastic depth:
Huang et al., arXiv 1603.09382.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polytask.errors import InputError

Scaling = Literal["training", "evaluation"]


class Patches1d(nn.Conv1d):
    """Signal into patch tokens: one linear map of ``patch`` samples of all channels together.

    Samples after the last whole patch are dropped.

    Shapes: [B, channels, L] -> [B, L // patch, width].
    """

    resize = "linear"

    def __init__(self, channels: int, width: int, patch: int) -> None:
        super().__init__(channels, width, patch, stride=patch)

    def grid(self, *size: int) -> tuple[int, ...]:
        """Patches along each axis of an input of this size; InputError if there is not one."""
        return _grid(size, self.kernel_size, "a signal", "samples")

    def forward(self, x: Tensor) -> Tensor:
        """Cut and embed."""
        return super().forward(x).transpose(1, 2)


class Patches2d(nn.Conv2d):
    """Picture into patch tokens, row by row: one linear map of ``patch x patch`` pixels.

    Pixels after the last whole patch are dropped.

    Shapes: [B, channels, H, W] -> [B, (H // patch) * (W // patch), width].
    """

    resize = "bicubic"

    def __init__(self, channels: int, width: int, patch: int) -> None:
        super().__init__(channels, width, patch, stride=patch)

    def grid(self, *size: int) -> tuple[int, ...]:
        """Patches along each axis of an input of this size; InputError if there is not one."""
        return _grid(size, self.kernel_size, "a picture", "pixels")

    def forward(self, x: Tensor) -> Tensor:
        """Cut and embed."""
        return super().forward(x).flatten(2).transpose(1, 2)


def _grid(size: Sequence[int], patch: Sequence[int], what: str, unit: str) -> tuple[int, ...]:
    if any(s < p for s, p in zip(size, patch, strict=True)):
        told, cut = (" x ".join(map(str, each)) for each in (size, patch))
        raise InputError(f"{what} of {told} {unit} is shorter than a patch of {cut}")
    return tuple(s // p for s, p in zip(size, patch, strict=True))


class Tokens(nn.Module):
    """Patch tokens behind a learned cls token, plus learned positions: z_0 = [cls; patches] + E.

    An input of another size than ``size`` has the positions of its patches resized, linearly in one
    dimension and bicubically in two.

    Args:
        patches: ``Patches1d`` or ``Patches2d``.
        size: The usual size of an input: (L,) or (H, W).

    Shapes: [B, channels, *size] -> [B, 1 + P, width].
    """

    def __init__(self, patches: Patches1d | Patches2d, size: Sequence[int]) -> None:
        super().__init__()
        self.patches, self.size = patches, patches.grid(*size)
        width = patches.out_channels
        self.cls = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(torch.zeros(1, 1 + math.prod(self.size), width))
        nn.init.trunc_normal_(self.cls, std=0.02)
        nn.init.trunc_normal_(self.positions, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens of a batch of signals or pictures."""
        positions = self.positions_of(self.patches.grid(*x.shape[2:]))
        patches = self.patches(x)
        return torch.cat([self.cls.expand(x.shape[0], -1, -1), patches], dim=1) + positions

    def positions_of(self, grid: Sequence[int]) -> Tensor:
        """Positions ``[1, 1 + P, width]`` of a grid of patches, that of the cls token first."""
        if tuple(grid) == self.size:
            return self.positions
        cls, patches = self.positions[:, :1], self.positions[:, 1:]
        plane = patches.transpose(1, 2).unflatten(2, self.size)
        plane = F.interpolate(plane, size=tuple(grid), mode=self.patches.resize)
        return torch.cat([cls, plane.flatten(2).transpose(1, 2)], dim=1)


class HeadedAttention(nn.Module):
    """Self-attention whose heads have a width of their own: heads * head_width need not be width.

    A_h = softmax(x W_q^h (x W_k^h)^T / sqrt(head_width)); output = sum_h A_h x W_v^h W_o^h.

    Args:
        width: Size of a token.
        heads: Number of heads.
        head_width: Size of a head; ``width // heads`` if None (256 / 6 -> 42, inner width 252).
        bias: Whether the four projections have one.

    Shapes: [B, L, width] -> [B, L, width].
    """

    def __init__(
        self, width: int, heads: int, head_width: int | None = None, bias: bool = True
    ) -> None:
        super().__init__()
        if heads < 1 or (head_width is None and heads > width):
            raise InputError(f"a width of {width} does not give {heads} heads")
        self.heads, self.head_width = heads, head_width or width // heads
        inner = self.heads * self.head_width
        self.query = nn.Linear(width, inner, bias)
        self.key = nn.Linear(width, inner, bias)
        self.value = nn.Linear(width, inner, bias)
        self.output = nn.Linear(inner, width, bias)

    def forward(self, x: Tensor) -> Tensor:
        """Attend within each sequence."""
        query, key, value = (self._split(part(x)) for part in (self.query, self.key, self.value))
        return self._joined(F.scaled_dot_product_attention(query, key, value))

    def with_weights(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The same and the weights ``[B, heads, L, L]`` it goes through, for gradients at them."""
        query, key, value = (self._split(part(x)) for part in (self.query, self.key, self.value))
        weights = (query @ key.transpose(-2, -1) * self.head_width**-0.5).softmax(-1)
        return self._joined(weights @ value), weights

    def _split(self, x: Tensor) -> Tensor:
        """[B, L, heads * head_width] -> [B, heads, L, head_width]."""
        return x.unflatten(-1, (self.heads, self.head_width)).transpose(1, 2)

    def _joined(self, mixed: Tensor) -> Tensor:
        return self.output(mixed.transpose(1, 2).flatten(2))


class StochasticDepth(nn.Module):
    """A residual branch that in training is kept with probability ``survival``, drawn per row.

    Args:
        survival: Probability p of the branch.
        scaling: Where the expectation is set right. "training" (timm, torchvision): a kept branch
            is divided by p. "evaluation" (Huang et al., tensorflow-addons): in evaluation the
            branch is multiplied by p, so p = 0 makes a block the identity.

    Shapes: [B, ...] -> the same.
    """

    def __init__(self, survival: float = 1.0, scaling: Scaling = "training") -> None:
        super().__init__()
        if not 0 <= survival <= 1 or scaling not in get_args(Scaling):
            raise InputError(
                f"stochastic depth has a survival in [0, 1] and scales in 'training' or "
                f"'evaluation', not {survival} and {scaling!r}"
            )
        self.survival, self.scaling = survival, scaling

    def forward(self, branch: Tensor) -> Tensor:
        """Keep, drop or scale the branch."""
        if self.survival == 1:
            return branch
        if not self.training:
            return branch * self.survival if self.scaling == "evaluation" else branch
        shape = (len(branch),) + (1,) * (branch.ndim - 1)
        kept = branch.new_empty(shape).bernoulli_(self.survival)
        if self.scaling == "training" and self.survival:
            kept = kept / self.survival
        return branch * kept

    def extra_repr(self) -> str:
        return f"survival={self.survival:g}, scaling={self.scaling!r}"


class Block(nn.Module):
    """Pre-norm block: x = x + SD(attention(LN(x))), then x + SD(MLP(LN(x))).

    MLP = Linear(width, ff) - GELU - Dropout - Linear(ff, width).
    """

    def __init__(
        self, attention: HeadedAttention, width: int, ff: int, dropout: float, keep: StochasticDepth
    ) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width, eps=1e-6)
        self.attention = attention
        self.mlp_norm = nn.LayerNorm(width, eps=1e-6)
        self.mlp = nn.Sequential(
            nn.Linear(width, ff), nn.GELU(), nn.Dropout(dropout), nn.Linear(ff, width)
        )
        self.keep = keep

    def forward(self, x: Tensor) -> Tensor:
        """[B, L, width] -> [B, L, width]."""
        return self._after(x, self.attention(self.attention_norm(x)))

    def with_weights(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The same and the attention weights ``[B, heads, L, L]``."""
        attended, weights = self.attention.with_weights(self.attention_norm(x))
        return self._after(x, attended), weights

    def _after(self, x: Tensor, attended: Tensor) -> Tensor:
        x = x + self.keep(attended)
        return x + self.keep(self.mlp(self.mlp_norm(x)))


class Encoder(nn.Module):
    """A stack of pre-norm blocks with a final LayerNorm.

    Weights are Xavier-uniform, biases 0.

    Args:
        width, depth, heads: Size of a token, number of blocks and of heads.
        ff: Hidden width of a block's MLP; 4 * width if None.
        head_width, bias: Of ``HeadedAttention``.
        dropout: In the MLP.
        survival: Survival probability of the last block; it falls linearly from 1 at the first.
            A drop path of 0.15 is a survival of 0.85.
        scaling: See ``StochasticDepth``.
    """

    def __init__(
        self,
        width: int,
        depth: int,
        heads: int,
        ff: int | None = None,
        *,
        head_width: int | None = None,
        bias: bool = True,
        dropout: float = 0.0,
        survival: float = 1.0,
        scaling: Scaling = "training",
    ) -> None:
        super().__init__()
        self.width = width
        survivals = [1 - (1 - survival) * i / max(1, depth - 1) for i in range(depth)]
        self.blocks = nn.ModuleList(
            Block(
                HeadedAttention(width, heads, head_width, bias),
                width,
                ff or 4 * width,
                dropout,
                StochasticDepth(p, scaling),
            )
            for p in survivals
        )
        self.norm = nn.LayerNorm(width, eps=1e-6)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, tokens: Tensor, taps: Sequence[int] | None = None) -> list[Tensor]:
        """Tokens ``[B, L, width]`` after the blocks named in ``taps`` (from 1), in that order.

        The last block's come after the final norm, the others as they are. Without taps: the last
        block's alone. Blocks after the deepest tap are not run.
        """
        depth = len(self.blocks)
        taps = (depth,) if taps is None else tuple(taps)
        if not taps or not all(1 <= tap <= depth for tap in taps):
            raise InputError(f"taps {taps} do not name blocks 1 to {depth}")
        found = {}
        for number, block in enumerate(self.blocks[: max(taps)], start=1):
            tokens = block(tokens)
            if number in taps:
                found[number] = tokens if number < depth else self.norm(tokens)
        return [found[tap] for tap in taps]

    def attention(self, tokens: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The final tokens ``[B, L, width]``, and each block's attention ``[B, heads, L, L]``.

        The tokens are computed through these weights, so ``torch.autograd.grad`` of anything that
        follows gives gradients at them.
        """
        weights = []
        for block in self.blocks:
            assert isinstance(block, Block)
            tokens, attended = block.with_weights(tokens)
            weights.append(attended)
        return self.norm(tokens), weights
