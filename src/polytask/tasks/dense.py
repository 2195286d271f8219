"""Dense kinds: the answer is a map over the picture, with a loss and metrics per pixel.

Shapes: a head's output is ``[B, outputs, H, W]``; targets are as each kind says. A pixel without a
label is left out of losses and metrics; so is the whole map of a row without one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from polytask.errors import InputError
from polytask.tasks import metrics as m
from polytask.tasks.kinds import Kind
from polytask.tasks.maps import Size, nearest_size, open_cell, picture_size, unit_range

_SAMPLED_MAPS = 256  # training maps from which a scale is learned
_THRESHOLDS = np.linspace(0.05, 0.95, 19)
_SHOWN = 8


class DenseKind(Kind):
    """What dense kinds share.

    Attributes:
        blank: what stands in a pixel that has no label.
        smooth: neighbouring pixels may be mixed when the map changes its size.
    """

    dense: ClassVar[bool] = True
    smooth: ClassVar[bool] = False
    blank: ClassVar[float] = math.nan

    def read(self, cell: Any, size: Size | None) -> NDArray:
        """One label as the loss reads it, at ``size`` (None: as it is).

        Raises:
            InputError: the cell is no such map.
        """
        values = open_cell(cell, indexed=True)
        if values.ndim == 3 and values.shape[0] == 1:
            values = values[0]
        if values.ndim != 2:
            raise InputError(f"a map is [height, width], this one has shape {values.shape}")
        return nearest_size(values, size) if size else values

    def labelled(self, values: NDArray) -> bool:
        """Whether a map that was read has a label anywhere."""
        return bool(np.isfinite(values).any())

    def mirrored(self, values: Tensor) -> Tensor:
        """The map of the picture mirrored left to right, ``[..., H, W]``."""
        return values.flip(-1)

    def zoomed(self, values: Tensor, factor: float) -> Tensor:
        """What the labels become when the camera zooms in by ``factor`` (their place apart)."""
        return values

    def fitted(self, labels: pa.ChunkedArray) -> Self:
        return self

    def answer(self, decoded: NDArray) -> NDArray:
        return decoded

    @staticmethod
    def join(parts: Sequence[NDArray]) -> NDArray:
        """Counts and sums over pixels add up."""
        return np.sum(parts, axis=0)

    def _maps(self, labels: pa.ChunkedArray) -> list[NDArray]:
        """Some training maps, evenly spread over the rows that have one."""
        rows = np.flatnonzero(labels.is_valid().to_numpy())
        picked = rows[np.linspace(0, len(rows) - 1, min(len(rows), _SAMPLED_MAPS)).astype(int)]
        return [self.read(labels[int(row)].as_py(), None) for row in picked]


def _pixel_mean(values: Tensor, valid: Tensor) -> Tensor:
    """Mean of ``values`` over valid pixels; 0, with gradients of 0, where there are none.

    ``torch.where`` before any arithmetic: a NaN times 0 would be NaN again.
    """
    kept = torch.where(valid, values, torch.zeros_like(values))
    return kept.sum() / valid.sum().clamp(min=1)


def _rows(mask: Tensor, like: Tensor) -> Tensor:
    """A mask of rows ``[B]`` over pixels ``[B, H, W]``."""
    return mask.view(-1, *[1] * (like.ndim - 1)).expand_as(like)


@dataclass(frozen=True)
class Segmentation(DenseKind):
    """A class for every pixel: target ``[B, H, W]`` (whole numbers), head ``[B, C, H, W]``.

    A label map holds the position of the class in ``classes``; ``ignore`` is no label. Loss: mean
    cross-entropy over labelled pixels. Metrics from the confusion matrix over all pixels of all
    rows: mean IoU and F1 (classes that nobody names are left out), share of right pixels, mean
    recall.
    """

    classes: tuple[Any, ...] = ()
    ignore: int = 255

    name: ClassVar[str] = "segmentation"
    metrics: ClassVar[tuple[m.Metric, ...]] = (
        m.MEAN_IOU,
        m.MEAN_F1,
        m.PIXEL_ACCURACY,
        m.MEAN_RECALL,
    )

    @property
    def outputs(self) -> int:
        return len(self.classes)

    @property
    def blank(self) -> float:  # type: ignore[override]
        return self.ignore

    def fitted(self, labels: pa.ChunkedArray) -> Self:
        """Classes that were not given are numbered as the training maps number them."""
        if self.classes:
            return self
        seen = {int(v) for values in self._maps(labels) for v in np.unique(values)}
        most = max(seen - {self.ignore}, default=-1)
        return replace(self, classes=tuple(str(i) for i in range(most + 1)))

    def read(self, cell: Any, size: Size | None) -> NDArray:
        values = super().read(cell, size)
        if values.dtype.kind not in "bui":
            raise InputError(f"a label map holds whole numbers, this one {values.dtype}")
        if self.classes:
            wrong = values[(values != self.ignore) & ((values < 0) | (values >= self.outputs))]
            if wrong.size:
                found = np.unique(wrong)
                shown = ", ".join(map(str, found[:_SHOWN])) + (
                    ", ..." if len(found) > _SHOWN else ""
                )
                raise InputError(
                    f"the label map holds {shown}; {len(self.classes)} classes are numbered 0 to "
                    f"{len(self.classes) - 1}, and {self.ignore} is no label"
                )
        small = 0 <= self.ignore < 256 and self.outputs <= 256  # an eighth of the memory
        return values.astype(np.uint8 if small else np.int64)

    def labelled(self, values: NDArray) -> bool:
        return bool((values != self.ignore).any())

    def loss(self, output: Tensor, target: Tensor, mask: Tensor) -> Tensor:
        valid = (target != self.ignore) & _rows(mask, target)
        classes = torch.where(valid, target, torch.zeros_like(target)).long()
        return _pixel_mean(F.cross_entropy(output, classes, reduction="none"), valid)

    def decode(self, output: Tensor) -> NDArray:
        """Class map ``[N, H, W]``, uint8 for up to 256 classes."""
        kind = torch.uint8 if self.outputs <= 256 else torch.int32
        return output.detach().argmax(1).to(kind).cpu().numpy()

    def tally(self, target: NDArray, decoded: NDArray) -> tuple[NDArray, ...]:
        valid = target != self.ignore
        return (m.confusion(target[valid], decoded[valid], self.outputs),)


@dataclass(frozen=True)
class DenseRegression(DenseKind):
    """A number for every pixel in its ``unit``: target ``[B, H, W]``, head ``[B, 1, H, W]``.

    Learned on the standardised scale; NaN is no label. Loss: mean absolute error of
    ``(y - mean) / std`` over labelled pixels. Metrics over all pixels of all rows: RMSE, MAE in
    the unit, explained variance.

    Attributes:
        distance: values are distances to the camera: zooming in by f divides them by f.
        missing: a value that stands for "no label" in the files (0 in many depth maps).
    """

    unit: str = ""
    distance: bool = False
    missing: float | None = None
    mean: float = 0.0
    std: float = 1.0

    name: ClassVar[str] = "map"
    metrics: ClassVar[tuple[m.Metric, ...]] = (m.MAP_RMSE, m.MAP_MAE, m.MAP_EXPLAINED)

    @property
    def outputs(self) -> int:
        return 1

    def fitted(self, labels: pa.ChunkedArray) -> Self:
        values = np.concatenate([v[np.isfinite(v)] for v in self._maps(labels)])
        std = float(values.std()) if values.size else 0.0
        return replace(self, mean=float(values.mean()) if values.size else 0.0, std=std or 1.0)

    def read(self, cell: Any, size: Size | None) -> NDArray:
        values = super().read(cell, size).astype(np.float32)
        if self.missing is not None:
            values = np.where(values == self.missing, np.float32(np.nan), values)
        return values

    def zoomed(self, values: Tensor, factor: float) -> Tensor:
        return values / factor if self.distance else values

    def loss(self, output: Tensor, target: Tensor, mask: Tensor) -> Tensor:
        valid = torch.isfinite(target) & _rows(mask, target)
        known = torch.where(valid, target, torch.full_like(target, self.mean))
        return _pixel_mean((output.squeeze(1) - (known - self.mean) / self.std).abs(), valid)

    def decode(self, output: Tensor) -> NDArray:
        """Values ``[N, H, W]`` float32 in the unit."""
        return (output.detach().squeeze(1) * self.std + self.mean).float().cpu().numpy()

    def tally(self, target: NDArray, decoded: NDArray) -> tuple[NDArray, ...]:
        valid = np.isfinite(target)
        y, error = target[valid].astype(np.float64), (target - decoded)[valid].astype(np.float64)
        y = y - self.mean  # variances from sums of squares need numbers near 0
        return (
            np.array(
                [y.size, error.sum(), (error**2).sum(), np.abs(error).sum(), y.sum(), (y**2).sum()]
            ),
        )

    def quality(self, scores: dict[str, float]) -> float:
        return scores[m.MAP_EXPLAINED.name]


@dataclass(frozen=True)
class Normals(DenseKind):
    """Surface normals: target ``[B, 3, H, W]`` of length 1, head ``[B, 3, H, W]`` of any length.

    x points right, so mirroring the picture negates x. A vector that is zero or not finite is no
    label. Loss: L1 distance, summed over the three channels, between the target and the prediction
    brought to length 1; mean over labelled pixels. Metrics in degrees: mean and median angle, and
    the shares of pixels within 11.25, 22.5 and 30.
    """

    name: ClassVar[str] = "normals"
    metrics: ClassVar[tuple[m.Metric, ...]] = (
        m.MEAN_ANGLE,
        m.MEDIAN_ANGLE,
        m.WITHIN_11,
        m.WITHIN_22,
        m.WITHIN_30,
    )

    @property
    def outputs(self) -> int:
        return 3

    def read(self, cell: Any, size: Size | None) -> NDArray:
        """From ``[3, H, W]`` or ``[H, W, 3]``; of an 8-bit picture 0..255 is -1..1."""
        values = open_cell(cell)
        if values.ndim != 3 or 3 not in (values.shape[0], values.shape[2]):
            raise InputError(f"normals are [3, height, width], these have shape {values.shape}")
        if values.shape[0] != 3:
            values = values.transpose(2, 0, 1)
        if values.dtype == np.uint8:
            blank = (values == 0).all(0) | (values == 255).all(0)
            values = np.where(blank, 0.0, values.astype(np.float32) / 127.5 - 1)
        values = values.astype(np.float32)
        length = np.linalg.norm(values, axis=0)
        known = np.isfinite(length) & (length > 1e-6)
        values = np.where(known, values / np.where(known, length, 1), np.float32(np.nan))
        return nearest_size(values, size) if size else values

    def mirrored(self, values: Tensor) -> Tensor:
        sign = torch.tensor([-1.0, 1.0, 1.0], dtype=values.dtype, device=values.device)
        return values.flip(-1) * sign.view(3, 1, 1)

    def loss(self, output: Tensor, target: Tensor, mask: Tensor) -> Tensor:
        valid = torch.isfinite(target).all(1)
        valid = valid & _rows(mask, valid)
        known = torch.where(valid.unsqueeze(1), target, torch.zeros_like(target))
        distance = (F.normalize(output, dim=1) - known).abs().sum(1)
        return _pixel_mean(distance, valid)

    def decode(self, output: Tensor) -> NDArray:
        """Unit vectors ``[N, 3, H, W]`` float32."""
        return F.normalize(output.detach().float(), dim=1).cpu().numpy()

    def tally(self, target: NDArray, decoded: NDArray) -> tuple[NDArray, ...]:
        valid = np.isfinite(target).all(1)
        cosine = (np.nan_to_num(target) * decoded).sum(1)[valid]
        angle = np.degrees(np.arccos(cosine.clip(-1, 1)))
        return np.histogram(angle, m.ANGLES)[0], np.array([angle.size, angle.sum(dtype=float)])

    def quality(self, scores: dict[str, float]) -> float:
        return 1 - scores[m.MEAN_ANGLE.name] / 90


class _Binary(DenseKind):
    """A yes or no for every pixel: target 0, 1 or NaN ``[B, H, W]``, head: logits [B, 1, H, W]."""

    @property
    def outputs(self) -> int:
        return 1

    def read(self, cell: Any, size: Size | None) -> NDArray:
        """0 is no, 255 is no label unless the map holds only 0 and 255, all else is yes."""
        values = super().read(cell, size)
        if values.dtype.kind == "b":
            return values.astype(np.float32)
        found = np.unique(values[np.isfinite(values)])
        if set(found) <= {0, 255} and 255 in found:
            return (values == 255).astype(np.float32)
        if not set(found) <= {0, 1, 255}:
            shown = ", ".join(f"{v:g}" for v in found[:_SHOWN])
            raise InputError(f"a map of yes and no holds 0, 1 and 255, this one {shown}")
        blank = (values == 255) | ~np.isfinite(values)
        return np.where(blank, np.float32(np.nan), values.astype(np.float32))

    def decode(self, output: Tensor) -> NDArray:
        """Chances ``[N, H, W]`` float32."""
        return torch.sigmoid(output.detach().float()).squeeze(1).cpu().numpy()

    def _parts(self, output: Tensor, target: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
        valid = torch.isfinite(target) & _rows(mask, target)
        return output.squeeze(1), torch.where(valid, target, torch.zeros_like(target)), valid


@dataclass(frozen=True)
class Edges(_Binary):
    """Boundaries: ``(1 - w) BCE(pos_weight = w / (1 - w))``, mean over labelled pixels.

    Metric: F at the one threshold that is best for the whole set (ODS). A pixel counts as found if
    the other map has one within 0.75 % of the diagonal. The usual benchmark thins predictions and
    matches pixels one to one instead, so its numbers are not these.
    """

    weight: float = 0.95

    name: ClassVar[str] = "edges"
    metrics: ClassVar[tuple[m.Metric, ...]] = (m.ODS_F,)

    def __post_init__(self) -> None:
        if not 0 < self.weight < 1:
            raise InputError(f"weight of edges is between 0 and 1, not {self.weight}")

    def loss(self, output: Tensor, target: Tensor, mask: Tensor) -> Tensor:
        logit, known, valid = self._parts(output, target, mask)
        positive = torch.tensor(self.weight / (1 - self.weight), device=logit.device)
        bce = F.binary_cross_entropy_with_logits(
            logit, known, pos_weight=positive, reduction="none"
        )
        return (1 - self.weight) * _pixel_mean(bce, valid)

    def tally(self, target: NDArray, decoded: NDArray) -> tuple[NDArray, ...]:
        from scipy.ndimage import maximum_filter

        radius = max(1, round(0.0075 * math.hypot(*target.shape[-2:])))
        y, x = np.ogrid[-radius : radius + 1, -radius : radius + 1]
        near = (y**2 + x**2 <= radius**2)[None]
        valid, true = np.isfinite(target), np.nan_to_num(target) > 0
        chance = np.where(valid, decoded, 0)
        about = maximum_filter(true, footprint=near)[valid]
        reached = maximum_filter(chance, footprint=near)[true]
        chance = chance[valid]
        counts = [
            [(about & (chance >= t)).sum(), (chance >= t).sum(), (reached >= t).sum(), true.sum()]
            for t in _THRESHOLDS
        ]
        return (np.array(counts, dtype=float).T,)


@dataclass(frozen=True)
class Saliency(_Binary):
    """What stands out: two-class cross-entropy, classes weighed by the other's share of the batch.

    Metric: F with β² = 0.3 at the best of 19 thresholds, from counts over the whole set.
    """

    name: ClassVar[str] = "saliency"
    metrics: ClassVar[tuple[m.Metric, ...]] = (m.MAX_F,)

    def loss(self, output: Tensor, target: Tensor, mask: Tensor) -> Tensor:
        logit, known, valid = self._parts(output, target, mask)
        negatives = _pixel_mean(1 - known, valid)
        weight = torch.where(known > 0.5, negatives, 1 - negatives)
        bce = F.binary_cross_entropy_with_logits(logit, known, reduction="none") * weight
        # As cross_entropy(weight=...) means: over the sum of the weights, not of the pixels.
        kept = torch.where(valid, weight, torch.zeros_like(weight)).sum()
        total = torch.where(valid, bce, torch.zeros_like(bce)).sum()
        return total / kept.clamp(min=1e-6)

    def tally(self, target: NDArray, decoded: NDArray) -> tuple[NDArray, ...]:
        valid = np.isfinite(target)
        true, chance = target[valid] > 0, decoded[valid]
        counts = [[(true & (chance >= t)).sum(), (chance >= t).sum()] for t in _THRESHOLDS]
        both, named = np.array(counts, dtype=float).T
        return (np.stack([both, named, both, np.full_like(both, true.sum())]),)


@dataclass(frozen=True)
class Picture(DenseKind):
    """Another picture: target and head ``[B, 3, H, W]`` in [0, 1].

    Loss: mean squared error over pixels and channels. Metrics, means over pictures: PSNR in dB,
    SSIM (Gaussian window of 11, as kornia has it), mean absolute error.
    """

    channels: int = 3

    name: ClassVar[str] = "picture"
    smooth: ClassVar[bool] = True
    metrics: ClassVar[tuple[m.Metric, ...]] = (m.PSNR, m.SSIM, m.PICTURE_MAE)

    @property
    def outputs(self) -> int:
        return self.channels

    def read(self, cell: Any, size: Size | None) -> NDArray:
        values = unit_range(picture_size(open_cell(cell), size))
        values = values[None] if values.ndim == 2 else values.transpose(2, 0, 1)
        if len(values) != self.channels:
            raise InputError(f"a picture of {self.channels} channels is wanted, not {len(values)}")
        return values

    def loss(self, output: Tensor, target: Tensor, mask: Tensor) -> Tensor:
        valid = torch.isfinite(target) & _rows(mask, target)
        known = torch.where(valid, target, torch.zeros_like(target))
        return _pixel_mean((output - known).square(), valid)

    def decode(self, output: Tensor) -> NDArray:
        """Pictures ``[N, channels, H, W]`` float32, cut to [0, 1]."""
        return output.detach().float().clamp(0, 1).cpu().numpy()

    def tally(self, target: NDArray, decoded: NDArray) -> tuple[NDArray, ...]:
        try:
            from kornia.metrics import ssim
        except ImportError:
            raise InputError(
                "package 'kornia' is not installed; install polytask[vision]"
            ) from None
        axes = (1, 2, 3)
        squared = ((target - decoded) ** 2).mean(axes, dtype=np.float64)
        psnr = -10 * np.log10(squared.clip(1e-10))
        alike = ssim(torch.from_numpy(target), torch.from_numpy(decoded), 11).mean(axes).numpy()
        return psnr, alike, np.abs(target - decoded).mean(axes)

    @staticmethod
    def join(parts: Sequence[NDArray]) -> NDArray:
        return np.concatenate(parts)

    def quality(self, scores: dict[str, float]) -> float:
        return scores[m.PSNR.name] / 40
