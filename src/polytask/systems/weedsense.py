"""WeedSense: one real-time network for a picture's mask and for what holds of the whole picture.

Source: Sarker, Ahmed, Islam, Rankrape, Gage, "WeedSense: Multi-Task Learning for Weed Segmentation,
    Height Estimation, and Growth Stage Classification", ICCV workshops 2025, arXiv 2508.14486.
Year: 2025
Domain: pictures
Parts: dual_path, trunks, dense, attention, heads
For: maps (species, crop and weed) and numbers or classes (height, week) of the same picture, fast
Idea: a two-path trunk gives one feature; a pixel-shuffle head turns it into each map, and one
    decoder, which all tasks about the whole picture share, turns its mean into their answers.
    Auxiliary heads on the deep path's stages help the maps in training and are then thrown away.
Equations: F = trunk(x) [B, 128, H/8, W/8];   map_t = shuffle8(1x1(3x3(F))) [B, out_t, H, W];
    g = LN-MLP(block(W mean(F))) [B, 512], block a post-norm transformer layer;  y_t = W_t g;
    L = sum_t (L_t(map_t) + 0.4 sum_k L_t(aux_tk(x_k)), k = 2..5) + sum_t L_t(y_t), all weights 1.
Input: one picture column; labels may be missing per task.
Output: dict task -> [B, out_t, H, W] for maps, [B, out_t] for the rest.

Differs from the paper:
 (1) Heights are standardised by mean and deviation of the training labels and answered in their
     unit; the paper's normalisation (unsure: min-max) is in a file that was never published.
 (2) Every map task has a head and auxiliary heads of its own, not the one segmentation alone.
 (3) The best epoch is chosen by all tasks together, not by mIoU alone.
 (4) A batch of one picture is refused with a sentence where batch norm could not train it;
     ``norm="group"`` trains it.
 (5) ``tokens="grid"`` (the growth decoder attends over the places of F instead of their mean) is
     an extension. With the paper's one token all attention weights are 1.
 (6) Under another trunk, whose features are brought to H/8 and summed by a small neck, auxiliary
     heads hang on that trunk's features.
 (7) The picture's sides are made multiples of the coarsest stride by repeating its last row and
     column; what the padding answers is cut off.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn

from polytask.data import Batch, Processor, Suite
from polytask.errors import InputError
from polytask.parts.attention import SelfAttention
from polytask.parts.dense import (
    ConvNorm,
    DeepSupervision,
    Norm,
    PixelShuffleHead,
    initialise,
    padded,
    resized,
)
from polytask.parts.dual_path import DualPath, uib_kernels
from polytask.parts.heads import Heads
from polytask.parts.trunks import TrunkLearner, as_trunk, only_picture
from polytask.tasks import Task
from polytask.training import MultiTaskModule, Training

Tokens = Literal["one", "grid"]


class Seen(NamedTuple):
    """What the trunk saw: its features, F, the growth decoder's vector, the picture's size."""

    features: list[Tensor]
    fused: Tensor
    growth: Tensor | None
    size: tuple[int, int]


class PostNormLayer(nn.Module):
    """``h = LN(x + attention(x))``, then ``LN(h + MLP(h))``; ``[B, L, width]`` in and out."""

    def __init__(self, width: int, heads: int, ff: int, dropout: float) -> None:
        super().__init__()
        self.attention = SelfAttention(width, heads, dropout)
        self.mlp = nn.Sequential(
            nn.Linear(width, ff), nn.GELU(), nn.Dropout(dropout), nn.Linear(ff, width)
        )
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norms[0](x + self.dropout(self.attention(x)))
        return self.norms[1](x + self.dropout(self.mlp(x)))


class GrowthDecoder(nn.Module):
    """What tasks about the whole picture share: ``F [B, C, h, w] -> [B, width]``.

    Args:
        tokens: "one": the mean of F is the only token, so the layer's attention is the identity.
            "grid": every 4x4 places of F (a stride of 32 pixels) are a token with a fixed sine
            position; the layer's answers are averaged.
    """

    def __init__(self, channels: int, width: int, tokens: Tokens, dropout: float = 0.3) -> None:
        super().__init__()
        self.grid = nn.AvgPool2d(4, ceil_mode=True) if tokens == "grid" else None
        self.dropout = nn.Dropout(dropout)
        self.embed = nn.Linear(channels, width)
        self.layer = PostNormLayer(width, 8, 4 * width, dropout=0.1)
        self.mlp = nn.Sequential(
            nn.Linear(width, 2 * width),
            nn.LayerNorm(2 * width),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(2 * width, width),
            nn.LayerNorm(width),
            nn.ReLU(),
        )

    def forward(self, fused: Tensor) -> Tensor:
        if self.grid is None:
            tokens = fused.mean((2, 3)).unsqueeze(1)
        else:
            fused = self.grid(fused)
            tokens = fused.flatten(2).transpose(1, 2)
        tokens = self.embed(self.dropout(tokens))
        if self.grid is not None:
            height, width = fused.shape[-2:]
            tokens = tokens + sine_positions(height, width, tokens.shape[-1]).to(tokens)
        return self.mlp(self.layer(tokens).mean(1))


def sine_positions(height: int, width: int, channels: int) -> Tensor:
    """Fixed positions ``[height * width, channels]``: sines of the row, then of the column."""
    quarter = channels // 4
    rates = torch.exp(torch.arange(quarter) * (-math.log(100.0) / quarter))

    def waves(count: int) -> Tensor:
        angles = torch.arange(count).unsqueeze(1) * rates
        return torch.cat([angles.sin(), angles.cos()], 1)

    rows = waves(height).unsqueeze(1).expand(-1, width, -1)
    columns = waves(width).unsqueeze(0).expand(height, -1, -1)
    return torch.cat([rows, columns], -1).flatten(0, 1)


class Neck(nn.Module):
    """Features of any trunk to one at an eighth: each through 1x1, resized, summed, then 3x3."""

    def __init__(self, channels: Sequence[int], width: int, norm: Norm) -> None:
        super().__init__()
        self.laterals = nn.ModuleList([ConvNorm(c, width, 1, norm=norm) for c in channels])
        self.last = ConvNorm(width, width, 3, norm=norm)

    def forward(self, features: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        maps = [
            resized(lateral(feature), size)
            for lateral, feature in zip(self.laterals, features, strict=True)
        ]
        return self.last(sum(maps[1:], start=maps[0]))


class MapHead(nn.Module):
    """A task's pixel-shuffle head on F, and its auxiliary heads (None: without, or stripped)."""

    def __init__(self, main: PixelShuffleHead, deep: DeepSupervision | None) -> None:
        super().__init__()
        self.main = main
        self.deep = deep

    def forward(self, seen: Seen) -> Tensor:
        return self.main(seen.fused, seen.size)


class RowHead(nn.Linear):
    """A task's own last layer on the growth decoder's vector."""

    def forward(self, seen: Seen) -> Tensor:  # type: ignore[override]
        assert seen.growth is not None
        return super().forward(seen.growth)


class WeedSenseNet(MultiTaskModule):
    """Trunk, growth decoder if a task is about whole pictures, one head per task."""

    def __init__(self, spec: Processor, config: WeedSense) -> None:
        super().__init__(spec.tasks)
        self.weights = config.loss_weights(spec.tasks)
        self.picture, column = only_picture(spec, config.id)
        width = _scaled(128, config.width)
        if config.trunk == "dual_path":
            trunk: Any = DualPath(
                column.channels,
                config.width,
                config.uib,
                config.expand,
                config.squeeze,
                config.layer_scale,
                config.layer_scale_on_downsample,
                config.norm,
            )
            trunk.name = trunk.text = config.trunk
            self.neck = None
            stages = tuple(zip(trunk.channels[:-1], trunk.strides[:-1], strict=True))
        else:
            trunk = as_trunk(config.trunk, column, config.taps)
            self.neck = Neck(trunk.channels, width, config.norm)
            stages = tuple(zip(trunk.channels, trunk.strides, strict=True))
        self.trunk = trunk
        self.multiple = math.lcm(8, *trunk.strides)
        growth = _scaled(512, config.width)
        row_tasks = [t for t in spec.tasks if not t.kind.dense]
        self.growth = GrowthDecoder(width, growth, config.tokens) if row_tasks else None

        def head(task: Task) -> nn.Module:
            outputs = task.kind.outputs
            if not task.kind.dense:
                return RowHead(growth, outputs)
            wide = _scaled(1024, config.width)
            main = PixelShuffleHead(width, outputs, 8, (wide,), norm=config.norm)
            auxiliary = (
                PixelShuffleHead(
                    channels, outputs, u, (width, _scaled(u**2, config.width)), norm=config.norm
                )
                for channels, u in stages
            )
            return MapHead(main, DeepSupervision(auxiliary, config.aux) if config.aux else None)

        self.heads = Heads({t.name: head(t) for t in spec.tasks})
        for own in (self.growth, self.neck, self.heads):  # trunks bring their own weights
            if own is not None:
                own.apply(initialise)

    def represent(self, inputs: dict[str, Tensor], tasks: Iterable[str]) -> Any:
        """What the heads of these tasks read; the growth decoder runs only if one of them does."""
        picture = inputs[self.picture]
        size = (picture.shape[-2], picture.shape[-1])
        picture = padded(picture, self.multiple)
        features = self.trunk(picture)
        if self.neck is None:
            *features, fused = features
        else:
            fused = self.neck(features, (picture.shape[-2] // 8, picture.shape[-1] // 8))
        growth = None
        if self.growth is not None and any(not self.tasks[t].kind.dense for t in tasks):
            growth = self.growth(fused)
        return Seen(features, fused, growth, size)

    def answer(self, representation: Any, task: str) -> Tensor:
        return self.heads[task](representation)

    def losses_at(self, representation: Any, batch: Batch) -> dict[str, Tensor]:
        """One loss per task; a map's auxiliary heads are part of its loss in training."""
        losses = super().losses_at(representation, batch)
        if self.training:
            for task, target in batch.targets.items():
                deep = getattr(self.heads[task], "deep", None)
                if deep is not None:
                    kind, mask = self.tasks[task].kind, batch.masks[task]
                    added = deep(
                        representation.features,
                        representation.size,
                        lambda output, k=kind, t=target, m=mask: k.loss(output, t, m),
                    )
                    losses[task] = losses[task] + self.weights.get(task, 1.0) * added
        return losses


def _scaled(full: int, width: float) -> int:
    return max(8, 8 * round(full * width / 8))  # eight attention heads divide it


@dataclass
class WeedSense(TrunkLearner):
    """WeedSense; see the head of this file. ``WeedSense(width=0.25)`` is a network for a CPU.

    Attributes:
        trunk: "dual_path" (the paper's), or any other text that ``parts.trunks.as_trunk`` reads: a
            model of transformers by hub name or folder, "vit(...)", "mit(...)".
        taps: which maps of another trunk are used; its own choice if empty.
        width: multiplies every width of trunk, heads and growth decoder.
        uib: form of the trunk's blocks: "ib" (S0-M3-E0, which the authors settled on), "convnext",
            "extradw", "ffn", or kernels such as "S3-M5-E0".
        expand, squeeze: widths of a block's middle and of its squeeze-excite, as ratios.
        layer_scale: initial scale of every block's output (None: no scale).
        layer_scale_on_downsample: also where a block halves the size and has no skip, as in the
            reference; the deep path starts almost silent then.
        aux: weight of each auxiliary head's loss (0: no auxiliary heads).
        tokens: "one" (the paper's) or "grid", see ``GrowthDecoder``.
        norm: "batch", or "group" for batches of one picture.
    """

    trunk: str = "dual_path"
    width: float = 1.0
    uib: str = "S0-M3-E0"
    expand: float = 6.0
    squeeze: float = 0.25
    layer_scale: float | None = 1e-5
    layer_scale_on_downsample: bool = True
    aux: float = 0.4
    tokens: Tokens = "one"
    norm: Norm = "batch"
    augment: str | object = "dense(flip=0.5, zoom=2.0)"
    training: Training = field(
        default_factory=lambda: Training(
            lr=2e-4,
            weight_decay=1e-4,
            batch=8,
            epochs=50,
            patience=50,
            schedule="cosine",
            warmup=1500,
            decay="matrices",
            seed=3407,
        )
    )

    id: ClassVar[str] = "weedsense"

    def build(self, spec: Processor) -> WeedSenseNet:
        if self.width <= 0 or self.aux < 0:
            raise InputError("weedsense: width must be above 0, and aux not below")
        uib_kernels(self.uib)
        return WeedSenseNet(spec, self)

    def validate(self, suite: Suite) -> None:
        super().validate(suite)
        if self.norm == "batch" and self.trunk == "dual_path":
            parts = self.training.accumulation * self._engine().world
            if min(self.training.batch, len(suite.splits["train"])) // parts < 2:
                raise InputError(
                    "weedsense: one picture at a time cannot be normalised by batch: raise "
                    "training.batch to at least 2 per process and micro-batch, or set norm='group'"
                )
