"""Heads that answer with a map, and what goes around them: statistics, padding, supervision.

A dense head takes a feature map ``[B, C, h, w]`` and the size of the answer, and gives
``[B, outputs, H, W]``. Deep supervision hangs more of them on earlier features; they add to their
task's loss in training and take no part in any answer, so an exported network does not hold them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Literal, TypeVar

from torch import Tensor, nn, tensor
from torch.nn import functional as F

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

Norm = Literal["batch", "group"]
M = TypeVar("M", bound=nn.Module)


class Normalise(nn.Module):
    """``(picture - mean) / std`` per channel; a picture ``[B, C, H, W]`` comes in [0, 1].

    The constants are no part of the saved weights.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD
    ) -> None:
        super().__init__()
        self.register_buffer("mean", tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", tensor(std).view(-1, 1, 1), persistent=False)

    @classmethod
    def for_channels(cls, channels: int) -> Normalise:
        """ImageNet's statistics for three channels, one half and one quarter for any other."""
        return cls() if channels == 3 else cls([0.5] * channels, [0.25] * channels)

    def forward(self, picture: Tensor) -> Tensor:
        return (picture - self.mean) / self.std


def norm_of(kind: Norm, channels: int) -> nn.Module:
    """Batch norm, or group norm in groups of eight channels where batches may be of one row."""
    if kind == "batch":
        return nn.BatchNorm2d(channels)
    return nn.GroupNorm(channels // math.gcd(channels, 8), channels)


def initialise(module: nn.Module) -> None:
    """BiSeNet's start, for ``Module.apply``: convolutions by fan-out, linear layers narrow."""
    if isinstance(module, nn.Conv2d):
        fan_out = math.prod(module.kernel_size) * module.out_channels // module.groups
        nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
    elif isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.01)
    else:
        return
    if module.bias is not None:
        nn.init.zeros_(module.bias)


class ConvNorm(nn.Sequential):
    """Convolution without bias, norm, and ReLU unless ``act`` is another module or None.

    ``[B, channels, H, W] -> [B, outputs, ceil(H / stride), ceil(W / stride)]`` for odd kernels.
    """

    def __init__(
        self,
        channels: int,
        outputs: int,
        kernel: int = 3,
        stride: int = 1,
        groups: int = 1,
        norm: Norm = "batch",
        act: Callable[[], nn.Module] | None = nn.ReLU,
    ) -> None:
        conv = nn.Conv2d(channels, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
        super().__init__(conv, norm_of(norm, outputs), *([act()] if act else []))


def padded(picture: Tensor, multiple: int) -> Tensor:
    """The picture with its last row and column repeated until both sides are whole multiples."""
    height, width = picture.shape[-2:]
    below, right = -height % multiple, -width % multiple
    if not (below or right):
        return picture
    return F.pad(picture, (0, right, 0, below), mode="replicate")


def resized(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps ``[B, C, h, w]`` at ``size``, bilinear between pixel centres."""
    if maps.shape[-2:] == size:
        return maps
    return F.interpolate(maps, size, mode="bilinear", align_corners=False)


class PixelShuffleHead(nn.Module):
    """3x3 convolutions, a 1x1 to ``outputs * factor²`` channels, and these laid out as pixels.

    Every cell of the feature map answers for its own ``factor x factor`` pixels. What goes beyond
    ``size`` (the picture was padded to whole cells) is cut off.

    Args:
        channels: of the feature map.
        outputs: channels of the answer.
        factor: stride of the feature map.
        hidden: widths of the 3x3 convolutions, each with norm and ReLU.
        dropout: after the first of them.
    """

    def __init__(
        self,
        channels: int,
        outputs: int,
        factor: int,
        hidden: Sequence[int] = (1024,),
        dropout: float = 0.1,
        norm: Norm = "batch",
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for width in hidden:
            layers.append(ConvNorm(channels, width, norm=norm))
            channels = width
        layers.insert(1, nn.Dropout(dropout))
        layers += [nn.Conv2d(channels, outputs * factor**2, 1), nn.PixelShuffle(factor)]
        self.layers = nn.Sequential(*layers)

    def forward(self, feature: Tensor, size: tuple[int, int]) -> Tensor:
        return self.layers(feature)[..., : size[0], : size[1]]


class ConvHead(nn.Module):
    """3x3 convolution, norm, GELU, 1x1 convolution; the answer is resized to ``size``."""

    def __init__(
        self, channels: int, outputs: int, hidden: int | None = None, norm: Norm = "batch"
    ) -> None:
        super().__init__()
        hidden = hidden or channels
        self.layers = nn.Sequential(
            ConvNorm(channels, hidden, norm=norm, act=nn.GELU), nn.Conv2d(hidden, outputs, 1)
        )

    def forward(self, feature: Tensor, size: tuple[int, int]) -> Tensor:
        return resized(self.layers(feature), size)


class PooledHead(nn.Module):
    """Mean over the map, dropout, one linear layer: ``[B, C, H, W] -> [B, outputs]``."""

    def __init__(self, channels: int, outputs: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(channels, outputs)

    def forward(self, feature: Tensor) -> Tensor:
        return self.linear(self.dropout(feature.mean((2, 3))))


class DeepSupervision(nn.Module):
    """Auxiliary heads on earlier features: ``weight * sum_k loss(head_k(feature_k))``.

    It is called where a task's loss is made, in training mode, and nowhere else; ``stripped``
    takes it out of a network for good.

    Args:
        heads: one per feature, called as ``head(feature, size)``.
        weight: of every head's loss, the main head's being 1.
    """

    def __init__(self, heads: Iterable[nn.Module], weight: float = 0.4) -> None:
        super().__init__()
        self.heads = nn.ModuleList(heads)
        self.weight = weight

    def forward(
        self,
        features: Sequence[Tensor],
        size: tuple[int, int],
        loss: Callable[[Tensor], Tensor],
    ) -> Tensor:
        """What the auxiliary heads add to the loss of their task, a scalar."""
        terms = [
            loss(head(feature, size).float())
            for head, feature in zip(self.heads, features, strict=True)
        ]
        return self.weight * sum(terms[1:], start=terms[0])


def stripped(module: M) -> M:
    """The same module without its auxiliary heads, which only training needs."""
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, DeepSupervision):
                setattr(parent, name, None)
    return module
