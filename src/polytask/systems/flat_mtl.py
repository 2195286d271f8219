"""F-MTL: multi-task learning that seeks task-based flat regions.

Source: Phan et al., "Improving Multi-task Learning via Seeking Task-based Flat Regions",
    arXiv 2211.13723 (2022); ICCV 2025 as "Beyond Losses Reweighting: Empowering MTL via the
    Generalization Perspective".
Year: 2025
Domain: any
Parts: tabular, mlp, heads
For: small or noisy training sets where conflicting tasks overfit; costs 2m gradients per step
Idea: every task looks for the worst point near the current parameters on its own, and any gradient
    aggregator combines the ordinary gradients and the flatness parts separately.
Equations (Algorithm 1): see ``polytask.training.steps.TaskFlat``, which is the step this learner
    uses; it serves every other neural learner too (``step="flat(rho=2.0)"``).
Input: images [C, H, W] or tables; labels may be missing per task.
Output: dict task -> [B, out_t].

Differs from the paper:
 (1) One AdamW instance for trunk and heads (without weight decay: Adam) where the reference keeps
     two Adams; the updates are the same, Adam being element-wise.
 (2) Aggregators keep torchjd's scale: CAGrad is not divided by (1 + c²), MGDA not multiplied by m.
 (3) The image trunk is transformers' ResNet-18, whose stem is the ImageNet one (7x7, stride 2).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from polytask.data import Processor
from polytask.errors import InputError
from polytask.parts.heads import Heads
from polytask.parts.mlp import MLP
from polytask.parts.tabular import FlatRow
from polytask.training import MultiTaskModule, NeuralLearner, Training


class ResNet18(nn.Module):
    """transformers' ResNet-18 on one image column of shape ``[C, H, W]`` -> [B, 512]."""

    out_features = 512

    def __init__(self, column: str, shape: tuple[int, ...]) -> None:
        super().__init__()
        try:
            from transformers import ResNetConfig, ResNetModel
        except ImportError:
            raise InputError("trunk 'resnet18' needs transformers: install polytask[hub]") from None
        self.column = column
        self.net = ResNetModel(
            ResNetConfig(
                num_channels=shape[0],
                embedding_size=64,
                hidden_sizes=[64, 128, 256, 512],
                depths=[2, 2, 2, 2],
                layer_type="basic",
            )
        )

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        image = _with_channels(inputs[self.column])
        return self.net(pixel_values=image).pooler_output.flatten(1)


class SmallConv(nn.Module):
    """Two strided convolutions and a layer, for small pictures on a CPU: -> [B, 128]."""

    out_features = 128

    def __init__(self, column: str, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.column = column
        maps = nn.Sequential(
            nn.Conv2d(shape[0], 16, 5, stride=3, padding=2),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
        )
        width = maps(torch.zeros(1, *shape)).shape[1]
        self.net = nn.Sequential(maps, nn.Linear(width, self.out_features), nn.ReLU())

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        return self.net(_with_channels(inputs[self.column]))


def _with_channels(image: Tensor) -> Tensor:
    return image.unsqueeze(1) if image.ndim == 3 else image


IMAGE_TRUNKS: dict[str, type[ResNet18] | type[SmallConv]] = {
    "resnet18": ResNet18,
    "conv": SmallConv,
}


class FlatNet(MultiTaskModule):
    """A trunk and one linear head per task."""

    has_feature = True

    def __init__(self, spec: Processor, config: FlatMTL) -> None:
        super().__init__(spec.tasks)
        images = {n: a.shape for n, a in spec.arrays.items() if len(a.shape) in (2, 3)}
        trunk = config.trunk
        if trunk == "auto":
            trunk = "resnet18" if images else "mlp"
        if trunk in IMAGE_TRUNKS:
            if len(images) != 1 or len(spec.input_names) != 1:
                raise InputError(f"trunk {trunk!r} reads exactly one image column and nothing else")
            (column, shape), *_ = images.items()
            kind = IMAGE_TRUNKS[trunk]
            self.trunk: nn.Module = kind(column, (1, *shape)[-3:])
            width = kind.out_features
        else:
            shapes = {n: a.shape for n, a in spec.arrays.items()}
            row = FlatRow(len(spec.numeric), spec.cardinalities, shapes, config.width)
            layers = MLP(row.out_features, config.hidden)
            self.trunk, width = nn.Sequential(row, layers), layers.out_features
        self.heads = Heads({t.name: nn.Linear(width, t.kind.outputs) for t in spec.tasks})

    def represent(self, inputs: dict[str, Tensor], tasks: Iterable[str]) -> Tensor:
        return self.trunk(inputs)

    def answer(self, representation: Tensor, task: str) -> Tensor:
        return self.heads[task](representation)


@dataclass
class FlatMTL(NeuralLearner):
    """F-MTL around a gradient aggregator; see the head of this file.

    Attributes:
        trunk: "resnet18" (the paper's, for images), "conv" (small, for a CPU), "mlp", or "auto":
            resnet18 if there is an image column, else mlp.
        hidden, width: layers and token size of the MLP trunk.
        balancer: the aggregator A; the paper wraps MGDA, PCGrad, CAGrad, IMTL-G, Nash, FairGrad.
        step: ρ = 2, adaptive, in nearly all of the paper's runs.
    """

    trunk: Literal["auto", "resnet18", "conv", "mlp"] = "auto"
    hidden: tuple[int, ...] = (256, 128)
    width: int = 16
    balancer: str | object = "cagrad(c=0.4)"
    step: str | object = "flat(rho=2.0, adaptive=True)"
    training: Training = field(
        default_factory=lambda: Training(lr=1e-3, batch=256, epochs=200, patience=200)
    )

    id: ClassVar[str] = "flat_mtl"

    def build(self, spec: Processor) -> FlatNet:
        return FlatNet(spec, self)
