"""U-Net: MONAI's, as it comes; one encoder, one decoder, and a 1x1 convolution per task.

Source: Ronneberger, Fischer, Brox, "U-Net", MICCAI 2015, arXiv 1505.04597, in the form of MONAI's
    ``BasicUNet`` (Falk et al., Nature Methods 2019).
Year: 2015
Domain: pictures
Parts: heads
For: the rival beside dense systems: what one would pick from a library for one map or several
Differs from the paper: MONAI pads, normalises and uses leaky ReLU; several tasks share all but the
    last layer; row tasks read the mean of the last features.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from polytask.data import Processor
from polytask.errors import InputError
from polytask.parts.heads import Heads
from polytask.tasks import Picture
from polytask.training import MultiTaskModule, NeuralLearner, Training

_LEAST = 32  # four poolings leave two pixels each way, the fewest that instances can be normed over


class UNetNet(MultiTaskModule):
    """Features ``[B, n, H, W]`` at the picture's size, which all heads read."""

    has_feature = True

    def __init__(self, spec: Processor, config: UNet) -> None:
        super().__init__(spec.tasks)
        try:
            from monai.networks.nets import BasicUNet
        except ImportError:
            raise InputError("package 'monai' is not installed; install polytask[vision]") from None
        ((self.picture, column),) = spec.pictures.items()
        self.residual, last = config.residual, config.features[5]
        self.parts = [last, column.channels]
        # MONAI says a norm is text; its blocks take None for none.
        norm: Any = None if config.norm == "none" else (config.norm, {"affine": True})
        self.trunk = BasicUNet(
            spatial_dims=2,
            in_channels=column.channels,
            features=config.features,
            norm=norm,
        )
        self.trunk.final_conv = nn.Identity()
        self.heads = Heads(
            {
                t.name: nn.Conv2d(last, t.kind.outputs, 1)
                if t.kind.dense
                else nn.Linear(last, t.kind.outputs)
                for t in spec.tasks
            }
        )

    def represent(self, inputs: dict[str, Tensor], tasks: Iterable[str]) -> Tensor:
        """The features, and beside them the picture: ``[B, n + C, H, W]``."""
        picture = inputs[self.picture]
        return torch.cat([self.trunk(picture), picture], dim=1)

    def answer(self, representation: Tensor, task: str) -> Tensor:
        kind, head = self.tasks[task].kind, self.heads[task]
        features, picture = representation.split(self.parts, dim=1)
        if not kind.dense:
            return head(features.mean((2, 3)))
        if self.residual and isinstance(kind, Picture):
            return picture + head(features)
        return head(features)


@dataclass
class UNet(NeuralLearner):
    """MONAI's BasicUNet with a head per task.

    Attributes:
        features: channels of the five levels and of the last features (MONAI's default).
        norm: "none" suits restoration, where brightness is part of the answer.
        residual: pictures are told as differences from the input.
    """

    features: tuple[int, ...] = (32, 32, 64, 128, 256, 32)
    norm: Literal["instance", "batch", "none"] = "instance"
    residual: bool = False
    training: Training = field(
        default_factory=lambda: Training(lr=1e-3, batch=8, epochs=100, patience=20)
    )

    id: ClassVar[str] = "unet"
    reads: ClassVar[tuple[str, ...]] = ("pictures",)

    def build(self, spec: Processor) -> UNetNet:
        if len(spec.pictures) != 1 or len(spec.input_names) != 1:
            raise InputError("unet reads exactly one picture column and nothing else")
        if len(self.features) != 6:
            raise InputError(f"unet: features are six numbers, not {len(self.features)}")
        if self.norm == "instance" and spec.size and min(spec.size) < _LEAST:
            raise InputError(
                f"unet: norm='instance' needs pictures of at least {_LEAST} x {_LEAST}, not "
                f"{spec.size[0]} x {spec.size[1]}; take norm='batch' or 'none'"
            )
        return UNetNet(spec, self)
