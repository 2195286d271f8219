"""A real-time trunk of two paths: shallow and wide for detail, deep and narrow for meaning.

Source: BiSeNetV2 (Yu et al., IJCV 2021, arXiv 2004.02147), whose gather-and-expansion layers are
    universal inverted bottlenecks here (MobileNetV4, Qin et al., ECCV 2024, arXiv 2404.10518), as
    in WeedSense (arXiv 2508.14486).

Sizes below are for ``width=1``; ``H/8`` means ``ceil(H / 8)``, so a picture may have any size.
"""

from __future__ import annotations

import re

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from polytask.errors import InputError
from polytask.parts.dense import ConvNorm, Norm, Normalise, initialise, norm_of

UIB_FORMS = {  # MobileNetV4, figure 4: kernels of the depthwise convolutions, 0 = absent
    "ib": "S0-M3-E0",
    "convnext": "S3-M0-E0",
    "extradw": "S3-M3-E0",
    "ffn": "S0-M0-E0",
}
_FORM = re.compile(r"S(\d+)-M(\d+)-E(\d+)")


def uib_kernels(form: str) -> tuple[int, int, int]:
    """Kernels of start, middle and end from a form's name or its text (``"S0-M3-E0"``)."""
    found = _FORM.fullmatch(UIB_FORMS.get(form.lower(), form))
    kernels = tuple(map(int, found.groups())) if found else ()
    if len(kernels) != 3 or any(k and k % 2 == 0 for k in kernels):
        raise InputError(
            f"uib is {form!r}; it may be {', '.join(UIB_FORMS)} or kernels such as 'S0-M3-E0', "
            "each odd or 0"
        )
    return kernels


class SqueezeExcite(nn.Module):
    """``x * sigmoid(W2 relu(W1 mean(x)))`` per channel; ``[B, C, H, W]`` in and out."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, squeezed, 1),
            nn.ReLU(),
            nn.Conv2d(squeezed, channels, 1),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(x)


class UniversalInvertedBottleneck(nn.Module):
    """MobileNetV4's block in all its forms.

    ``[depthwise start] - 1x1 to expand * C, ReLU - [depthwise middle, ReLU] - squeeze-excite -
    1x1 to outputs - [depthwise end] - gamma``, every convolution with its norm; plus the input
    where stride is 1 and the widths agree. The first depthwise convolution there is, middle before
    start, carries the stride.

    Args:
        form: ``"ib"``, ``"convnext"``, ``"extradw"``, ``"ffn"`` or kernels (``"S0-M3-E0"``).
        expand: width of the middle over the input's, then rounded to a multiple of 8.
        squeeze: width of the squeeze over the middle's (0: no squeeze-excite).
        gamma: initial layer scale (None: no layer scale).
    """

    def __init__(
        self,
        channels: int,
        outputs: int,
        stride: int = 1,
        form: str = "ib",
        expand: float = 6.0,
        squeeze: float = 0.25,
        gamma: float | None = 1e-5,
        norm: Norm = "batch",
    ) -> None:
        super().__init__()
        start, middle, end = uib_kernels(form)
        if stride > 1 and not (start or middle or end):
            raise InputError(f"uib form {form!r} has no depthwise convolution to carry a stride")
        wide = max(8, round(channels * expand / 8) * 8)

        def depthwise(width: int, kernel: int, strided: bool, act: bool) -> ConvNorm:
            step = stride if strided else 1
            return ConvNorm(width, width, kernel, step, width, norm, nn.ReLU if act else None)

        layers: list[nn.Module] = []
        if start:
            layers.append(depthwise(channels, start, not middle, act=False))
        layers.append(ConvNorm(channels, wide, 1, norm=norm))
        if middle:
            layers.append(depthwise(wide, middle, True, act=True))
        if squeeze:
            layers.append(SqueezeExcite(wide, max(1, round(wide * squeeze))))
        layers.append(ConvNorm(wide, outputs, 1, norm=norm, act=None))
        if end:
            layers.append(depthwise(outputs, end, not (start or middle), act=False))
        self.layers = nn.Sequential(*layers)
        self.gamma = None if gamma is None else nn.Parameter(torch.full((outputs,), gamma))
        self.skips = stride == 1 and channels == outputs

    def forward(self, x: Tensor) -> Tensor:
        out = self.layers(x)
        if self.gamma is not None:
            out = self.gamma.view(-1, 1, 1) * out
        return x + out if self.skips else out


class DetailBranch(nn.Sequential):
    """Eight plain 3x3 convolutions: ``[B, 3, H, W] -> [B, 128, H/8, W/8]``."""

    def __init__(self, channels: int, widths: tuple[int, int, int], norm: Norm = "batch") -> None:
        a, b, c = widths
        plan = [(channels, a, 2), (a, a, 1)]
        plan += [(a, b, 2), (b, b, 1), (b, b, 1)]
        plan += [(b, c, 2), (c, c, 1), (c, c, 1)]
        super().__init__(*(ConvNorm(i, o, 3, stride, norm=norm) for i, o, stride in plan))


class Stem(nn.Module):
    """A quarter of the size, by convolution and by pooling: ``-> [B, 16, H/4, W/4]``."""

    def __init__(self, channels: int, width: int, norm: Norm = "batch") -> None:
        super().__init__()
        self.first = ConvNorm(channels, width, 3, 2, norm=norm)
        self.left = nn.Sequential(
            ConvNorm(width, width // 2, 1, norm=norm), ConvNorm(width // 2, width, 3, 2, norm=norm)
        )
        self.right = nn.MaxPool2d(3, 2, 1)
        self.last = ConvNorm(2 * width, width, 3, norm=norm)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.last(torch.cat([self.left(x), self.right(x)], 1))


class ContextEmbedding(nn.Module):
    """``conv3x3(x + conv1x1(norm(mean(x))))``: the whole picture's mean added to every place.

    With batch norm a batch of one picture has no variance here, and torch refuses to train it.
    """

    def __init__(self, width: int, norm: Norm = "batch") -> None:
        super().__init__()
        self.mean = nn.AdaptiveAvgPool2d(1)
        self.norm = norm_of(norm, width)
        self.embed = ConvNorm(width, width, 1, norm=norm)
        self.last = ConvNorm(width, width, 3, norm=norm)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(x + self.embed(self.norm(self.mean(x))))


class GuidedAggregation(nn.Module):
    """Each path gates the other, at its own resolution.

    ``out = conv3x3(left1 * sigmoid(up(right1)) + up(left2 * sigmoid(right2)))`` with
    ``left1 = 1x1(dw3x3(d))``, ``left2 = pool(conv3x3(d))`` at H/32, ``right1 = conv3x3(s)``,
    ``right2 = 1x1(dw3x3(s))``; d is detail ``[B, 128, H/8, W/8]``, s is meaning
    ``[B, 128, H/32, W/32]``, ``up`` takes the nearest pixel.
    """

    def __init__(self, width: int, norm: Norm = "batch") -> None:
        super().__init__()

        def separable() -> nn.Sequential:
            depthwise = ConvNorm(width, width, 3, groups=width, norm=norm, act=None)
            return nn.Sequential(depthwise, nn.Conv2d(width, width, 1, bias=False))

        self.left1, self.right2 = separable(), separable()
        self.left2 = nn.Sequential(
            ConvNorm(width, width, 3, 2, norm=norm, act=None), nn.AvgPool2d(3, 2, 1)
        )
        self.right1 = ConvNorm(width, width, 3, norm=norm, act=None)
        self.last = ConvNorm(width, width, 3, norm=norm)

    def forward(self, detail: Tensor, meaning: Tensor) -> Tensor:
        size = detail.shape[-2:]
        gate = torch.sigmoid(F.interpolate(self.right1(meaning), size))
        coarse = self.left2(detail) * torch.sigmoid(self.right2(meaning))
        return self.last(self.left1(detail) * gate + F.interpolate(coarse, size))


class DualPath(nn.Module):
    """Both paths and their aggregation, as a trunk.

    ``picture [B, C, H, W] in [0, 1] -> [x2, x3, x4, x5, F]``: the stages of the semantic branch at
    H/4, H/8, H/16, H/32 (16, 32, 64, 128 channels) and the aggregated feature F at H/8 (128).

    Args:
        channels: of the picture.
        width: multiplies every number of channels.
        uib: form of the inverted bottlenecks. ``"ffn"``, which cannot carry a stride, leaves the
            blocks that halve the size as they are in ``"ib"``.
        gamma: initial layer scale.
        gamma_on_downsample: also in the blocks that halve the size, which have no skip, so that
            the semantic branch starts almost silent (as the reference does).
    """

    strides = (4, 8, 16, 32, 8)

    def __init__(
        self,
        channels: int = 3,
        width: float = 1.0,
        uib: str = "ib",
        expand: float = 6.0,
        squeeze: float = 0.25,
        gamma: float | None = 1e-5,
        gamma_on_downsample: bool = True,
        norm: Norm = "batch",
    ) -> None:
        super().__init__()

        def scaled(full: int) -> int:
            return max(2, 2 * round(full * width / 2))  # even: the stem halves one of them

        x2, x3, x4, x5 = (scaled(c) for c in (16, 32, 64, 128))
        self.channels: tuple[int, ...] = (x2, x3, x4, x5, x5)
        self.normalise = Normalise.for_channels(channels)
        self.detail = DetailBranch(channels, (scaled(64), scaled(64), x5), norm)
        self.stem = Stem(channels, x2, norm)
        downsample = uib if any(uib_kernels(uib)) else "ib"

        def stage(before: int, after: int, blocks: int) -> nn.Sequential:
            scale = gamma if gamma_on_downsample else None
            first = UniversalInvertedBottleneck(
                before, after, 2, downsample, expand, squeeze, scale, norm
            )
            others = (
                UniversalInvertedBottleneck(after, after, 1, uib, expand, squeeze, gamma, norm)
                for _ in range(blocks - 1)
            )
            return nn.Sequential(first, *others)

        self.stages = nn.ModuleList([stage(x2, x3, 2), stage(x3, x4, 2), stage(x4, x5, 4)])
        self.context = ContextEmbedding(x5, norm)
        self.aggregation = GuidedAggregation(x5, norm)
        self.apply(initialise)

    def forward(self, picture: Tensor) -> list[Tensor]:
        picture = self.normalise(picture)
        features = [self.stem(picture)]
        for stage in self.stages:
            features.append(stage(features[-1]))
        meaning = self.context(features[-1])
        return [*features, self.aggregation(self.detail(picture), meaning)]
