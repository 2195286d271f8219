"""Augmentation: random views of training rows, the same for a picture and all of its maps.

Row ``r + j * N`` of ``N`` rows is the j-th view of row r, so that a mixture may draw several views
of one picture at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from polytask.config import parse_call
from polytask.data.batch import Batch, Views
from polytask.errors import InputError
from polytask.tasks import Task
from polytask.tasks.dense import DenseKind, Segmentation
from polytask.tasks.maps import nearest_size

_TRIES = 10


class Augmentation(Protocol):
    """One random view of one row: its pictures ``[C, H, W]`` and its maps by task, jointly."""

    def __call__(
        self,
        pictures: dict[str, Tensor],
        maps: dict[str, Tensor],
        kinds: Mapping[str, DenseKind],
        rng: np.random.Generator,
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]: ...


@dataclass(frozen=True)
class Dense:
    """Scale, crop, mirror, distort: labels that depend on geometry follow, row labels do not.

    Attributes:
        flip: chance of a mirrored picture (normals: x is negated).
        zoom: scale factor, uniform in [1/zoom, zoom] (distances are divided by it).
        crop: size (height, width) of the view, that of the picture if None. What the picture does
            not fill is black, and without label in the maps.
        largest: a crop in which one class of the first segmentation fills more than this share is
            drawn again, up to ten times (1: any crop will do).
        colour: strength of the distortion of brightness, contrast, saturation (factors in 1 ±
            colour) and hue (± a quarter of it, of half the circle); pictures with three channels.
    """

    flip: float = 0.5
    zoom: float = 1.0
    crop: tuple[int, int] | None = None
    largest: float = 1.0
    colour: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.flip <= 1:
            raise InputError(f"augment: flip is a chance, not {self.flip}")
        if self.zoom < 1:
            raise InputError(f"augment: zoom is at least 1, not {self.zoom}")
        if not 0 <= self.colour < 1:
            raise InputError(f"augment: colour is at least 0 and less than 1, not {self.colour}")
        if self.crop is not None and (len(self.crop) != 2 or min(self.crop) < 1):
            raise InputError(f"augment: crop is (height, width), not {self.crop}")

    def __call__(
        self,
        pictures: dict[str, Tensor],
        maps: dict[str, Tensor],
        kinds: Mapping[str, DenseKind],
        rng: np.random.Generator,
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        height, width = next(iter(pictures.values())).shape[-2:]
        crop = self.crop or (height, width)
        factor = rng.uniform(1 / self.zoom, self.zoom) if self.zoom > 1 else 1.0
        size = (max(1, round(height * factor)), max(1, round(width * factor)))
        pictures = {n: _resized(p, size, smooth=True) for n, p in pictures.items()}
        maps = {
            n: kinds[n].zoomed(_resized(v, size, smooth=kinds[n].smooth), factor)
            for n, v in maps.items()
        }
        judged = next((n for n in maps if isinstance(kinds[n], Segmentation)), None)
        for _ in range(_TRIES):
            margins = (max(s - c, 0) for s, c in zip(size, crop, strict=True))
            place = [int(rng.integers(0, margin + 1)) for margin in margins]
            if judged is None or self.largest >= 1:
                break
            view = _window(maps[judged], place, crop, kinds[judged].blank)
            if _largest_share(view, kinds[judged].blank) <= self.largest:
                break
        pictures = {n: _window(p, place, crop, 0.0) for n, p in pictures.items()}
        maps = {n: _window(v, place, crop, kinds[n].blank) for n, v in maps.items()}
        if rng.random() < self.flip:
            pictures = {n: p.flip(-1) for n, p in pictures.items()}
            maps = {n: kinds[n].mirrored(v) for n, v in maps.items()}
        if self.colour:
            pictures = {n: self._distorted(p, rng) for n, p in pictures.items()}
        return pictures, maps

    def _distorted(self, picture: Tensor, rng: np.random.Generator) -> Tensor:
        if len(picture) != 3:
            return picture
        try:
            from kornia import enhance
        except ImportError:
            raise InputError(
                "augment: colour needs package 'kornia'; install polytask[vision]"
            ) from None
        low, high = 1 - self.colour, 1 + self.colour
        picture = enhance.adjust_brightness_accumulative(picture, rng.uniform(low, high))
        picture = enhance.adjust_contrast_with_mean_subtraction(picture, rng.uniform(low, high))
        picture = enhance.adjust_saturation(picture, rng.uniform(low, high))
        turn = rng.uniform(-self.colour, self.colour) * np.pi / 4
        return enhance.adjust_hue(picture, turn).clamp(0, 1)

    def __str__(self) -> str:
        told = ", ".join(f"{k}={v}" for k, v in vars(self).items() if v is not None)
        return f"dense({told})"


def _resized(values: Tensor, size: tuple[int, int], *, smooth: bool) -> Tensor:
    """``[..., H, W]`` at a size; the type stays."""
    if values.shape[-2:] == size:
        return values
    if smooth:
        planes = values.unsqueeze(0)
        return F.interpolate(planes, size, mode="bilinear", antialias=True)[0]
    return torch.from_numpy(nearest_size(values.numpy(), size))


def _window(values: Tensor, place: list[int], crop: tuple[int, int], blank: float) -> Tensor:
    """The crop at a place; what lies below or to the right of the map is blank."""
    (top, left), (height, width) = place, crop
    view = values[..., top : top + height, left : left + width]
    missing = height - view.shape[-2], width - view.shape[-1]
    if any(missing):
        view = F.pad(view, (0, missing[1], 0, missing[0]), value=blank)
    return view


def _largest_share(view: Tensor, blank: float) -> float:
    known = view[view != blank].long()
    return float(known.bincount().max() / known.numel()) if known.numel() else 1.0


AUGMENTATIONS: dict[str, Any] = {"none": lambda: None, "dense": Dense}


def as_augmentation(value: Any) -> Augmentation | None:
    """An augmentation from its text (``"dense(flip=0.5, zoom=2.0)"``) or itself; None for none."""
    return parse_call(value, AUGMENTATIONS, "augment") if isinstance(value, str) else value


@dataclass(frozen=True)
class Augmented(Views):
    """Encoded rows that are seen in random views.

    Attributes:
        pictures: names of the inputs that are pictures.
        tasks: all tasks of the rows.
    """

    augmentation: Augmentation
    pictures: tuple[str, ...]
    tasks: tuple[Task, ...]

    def __getitem__(self, rows: Tensor) -> Batch:
        batch = self.data[rows % len(self.data)]
        kinds = {t.name: t.kind for t in self.tasks if isinstance(t.kind, DenseKind)}
        kinds = {name: kind for name, kind in kinds.items() if name in batch.targets}
        views = []
        for i, row in enumerate(rows.tolist()):
            rng = np.random.default_rng((self.seed, self.epoch, row))
            pictures = {name: batch.inputs[name][i] for name in self.pictures}
            maps = {name: batch.targets[name][i] for name in kinds}
            views.append(self.augmentation(pictures, maps, kinds, rng))
        inputs = {n: torch.stack([pictures[n] for pictures, _ in views]) for n in self.pictures}
        targets = {n: torch.stack([maps[n] for _, maps in views]) for n in kinds}
        return Batch({**batch.inputs, **inputs}, {**batch.targets, **targets}, batch.masks)
