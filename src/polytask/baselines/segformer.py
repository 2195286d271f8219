"""SegFormer with one decode head per task, and plain convolutional heads on any trunk.

Source: Xie et al., "SegFormer: Simple and Efficient Design for Semantic Segmentation with
    Transformers", NeurIPS 2021, arXiv 2105.15203; the encoder is transformers'. Convolutional heads
    on the last map: the multi-task baseline of dense prediction papers (arXiv 2203.07997).
Year: 2021
Domain: pictures
Parts: trunks, dense, heads
For: what one would pick for maps of a picture; the rivals of the dense systems at equal size
Equations (SegFormer): c_i = Linear_i(F_i) at the finest size, F_i the trunk's maps;
    answer = conv1x1(ReLU(BN(conv1x1([c_1..c_4]))))    c_i: [B, width, H/4, W/4]
Differs from the papers: every task has such a head of its own, whatever its kind; row tasks read
    the mean of the trunk's last map. The trunk starts from random weights unless it names a trained
    one, such as "nvidia/mit-b0".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from polytask.data import Processor
from polytask.errors import InputError
from polytask.parts.dense import ConvHead, ConvNorm, PooledHead, resized
from polytask.parts.heads import Heads
from polytask.parts.trunks import DENSE_WEIGHTS, TrunkLearner, as_trunk, only_picture
from polytask.training import MultiTaskModule, Training

AUGMENT = "dense(flip=0.5, zoom=2.0, largest=0.75, colour=0.5)"


class AllMLPHead(nn.Module):
    """Maps of all strides to one: ``[B, channels_i, H/s_i, W/s_i]`` to ``[B, outputs, *size]``."""

    def __init__(
        self, channels: Sequence[int], outputs: int, width: int, dropout: float = 0.1
    ) -> None:
        super().__init__()
        self.projections = nn.ModuleList(nn.Conv2d(c, width, 1) for c in channels)
        self.fuse = ConvNorm(len(channels) * width, width, 1)
        self.dropout = nn.Dropout(dropout)
        self.last = nn.Conv2d(width, outputs, 1)

    def forward(self, maps: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        height, width = max(tuple(m.shape[2:]) for m in maps)
        found = [
            resized(project(m), (height, width))
            for project, m in zip(self.projections, maps, strict=True)
        ]
        return resized(self.last(self.dropout(self.fuse(torch.cat(found, 1)))), size)


class LastMapHead(nn.Module):
    """``ConvHead`` on the trunk's last map, enlarged first."""

    def __init__(self, channels: int, outputs: int, width: int, upsample: int) -> None:
        super().__init__()
        self.upsample = upsample
        self.head = ConvHead(channels, outputs, width)

    def forward(self, maps: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        last = maps[-1]
        fine = (self.upsample * last.shape[2], self.upsample * last.shape[3])
        return self.head(resized(last, fine), size)


class TrunkAndHeads(MultiTaskModule):
    """One trunk; for every task a head that reads its maps, a pooled one for row tasks.

    Args:
        head: makes the head of a dense task from the trunk's channels and its own outputs.
    """

    def __init__(
        self,
        spec: Processor,
        config: SegFormer | ConvHeads,
        head: Callable[[tuple[int, ...], int], nn.Module],
    ) -> None:
        super().__init__(spec.tasks)
        self.column, picture = only_picture(spec, config.id)
        self.trunk = as_trunk(config.trunk, picture, config.taps)
        coarse = max(self.trunk.strides)
        self.picture: tuple[int, int] = picture.size
        self.padded = tuple(side + -side % coarse for side in picture.size)
        self.weights = config.loss_weights(spec.tasks)
        channels = self.trunk.channels
        self.heads = Heads(
            {
                t.name: head(channels, t.kind.outputs)
                if t.kind.dense
                else PooledHead(channels[-1], t.kind.outputs, config.dropout)
                for t in spec.tasks
            }
        )

    def represent(  # type: ignore[override]
        self, inputs: dict[str, Tensor], tasks: Iterable[str]
    ) -> list[Tensor]:
        """The trunk's maps."""
        return self.trunk(inputs[self.column])

    def answer(self, representation: list[Tensor], task: str) -> Tensor:  # type: ignore[override]
        if not self.tasks[task].kind.dense:
            return self.heads[task](representation[-1])
        height, width = self.picture
        return self.heads[task](representation, self.padded)[..., :height, :width]


@dataclass
class SegFormer(TrunkLearner):
    """SegFormer with a head per task; see the head of this file.

    Attributes:
        trunk: a Mix Transformer, "mit_b0" or "mit(widths=..., depths=...)", or any other trunk.
        width: of the heads (256 for B0 and B1, 768 for larger ones).
        dropout: before the last layer.
    """

    trunk: str = "mit_b0"
    width: int = 256
    dropout: float = 0.1
    augment: str | object = AUGMENT
    training: Training = field(
        default_factory=lambda: Training(
            lr=6e-5,
            weight_decay=0.01,
            batch=8,
            epochs=64,
            patience=64,
            schedule="poly(power=1.0)",
            warmup=1500,
        )
    )

    id: ClassVar[str] = "segformer"
    kind_weights: ClassVar[Mapping[str, float]] = DENSE_WEIGHTS

    def build(self, spec: Processor) -> TrunkAndHeads:
        return TrunkAndHeads(
            spec, self, lambda channels, o: AllMLPHead(channels, o, self.width, self.dropout)
        )


@dataclass
class ConvHeads(TrunkLearner):
    """One trunk and a convolutional head per task on its last map.

    Attributes:
        upsample: of the map, before the head's convolutions.
        head: hidden channels of the heads; as many as the map has if 0.
        dropout: before the last layer of row tasks.
    """

    trunk: str = "vit_b16"
    upsample: int = 4
    head: int = 0
    dropout: float = 0.0
    augment: str | object = AUGMENT
    training: Training = field(
        default_factory=lambda: Training(
            lr=2e-5,
            weight_decay=1e-6,
            batch=4,
            epochs=32,
            patience=32,
            schedule="poly(power=0.9)",
            clip=10.0,
        )
    )

    id: ClassVar[str] = "conv_heads"
    kind_weights: ClassVar[Mapping[str, float]] = DENSE_WEIGHTS

    def build(self, spec: Processor) -> TrunkAndHeads:
        if self.upsample < 1:
            raise InputError(f"conv_heads: upsample must be at least 1, not {self.upsample}")
        return TrunkAndHeads(
            spec,
            self,
            lambda channels, o: LastMapHead(
                channels[-1], o, self.head or channels[-1], self.upsample
            ),
        )
