"""Rendered plants: photographs with an exact mask, a height and an age, and nobody's copyright.

    photographs = plants(count=200, seed=0)
    suite = Suite.from_table(photographs, PLANT_TARGETS, split="group:plant", size=(64, 64))

A plant of one of four species stands on textured soil and is photographed from the side once a
week. It grows ``rate * (week + 1)`` cm, more or less; its leaves grow in number with the weeks and
in size with its vigour. So species is colour and shape of the leaf, height is the length of the
stem, and the week is told by the leaves. Light and soil differ from photograph to photograph.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polytask.errors import InputError

WEEKS = 6
_CM_PER_PICTURE = 96.0  # what the camera sees from top to bottom
_STONES = 6

Pixels = NDArray[np.float32]


@dataclass(frozen=True)
class Species:
    """How one species looks and grows.

    Attributes:
        rate: cm per week.
        leaf: length and half width of a grown leaf in cm.
        tip: where the leaf is widest, as a share of its length.
        angle: of the leaves over the horizontal, in degrees.
        leaves: new ones per week.
        colour: of a leaf in plain light, red, green and blue in [0, 1].
    """

    name: str
    rate: float
    leaf: tuple[float, float]
    tip: float
    angle: float
    leaves: float
    colour: tuple[float, float, float]


SPECIES = (
    Species("rosette", 3.0, (22.0, 7.0), 0.6, 20.0, 2.0, (0.32, 0.58, 0.22)),
    Species("broadleaf", 7.0, (20.0, 9.0), 0.4, 35.0, 1.5, (0.20, 0.50, 0.18)),
    Species("lanceleaf", 10.0, (24.0, 4.5), 0.3, 50.0, 2.5, (0.42, 0.62, 0.30)),
    Species("grass", 14.0, (36.0, 2.6), 0.2, 65.0, 1.2, (0.30, 0.60, 0.38)),
)

PLANT_TARGETS: dict[str, Any] = {
    "mask": {"kind": "segmentation", "classes": ["soil", *(s.name for s in SPECIES)]},
    "height": {"kind": "regression", "unit": "cm"},
    "week": {"kind": "classification"},
}


def plants(count: int = 167, seed: int = 0, size: int = 64) -> dict[str, Any]:
    """``count`` plants, each photographed in six weeks: N = 6 * count rows.

    Args:
        count: number of plants; their species take turns.
        seed: equal seeds give equal photographs.
        size: of the photographs, in pixels.

    Returns:
        Columns ``image`` uint8 ``[N, size, size, 3]``, ``mask`` uint8 ``[N, size, size]`` (0 soil,
        then the species in the order of ``SPECIES``), ``height`` in cm, ``week`` 0..5, and
        ``plant``, by which to split: photographs of one plant are no strangers.
    """
    if count < 1 or size < 16:
        raise InputError(f"plants needs a count from 1 and a size from 16, not {count} and {size}")
    rows = count * WEEKS
    image = np.empty((rows, size, size, 3), np.uint8)
    mask = np.empty((rows, size, size), np.uint8)
    height = np.empty(rows)
    week = np.tile(np.arange(WEEKS), count)
    plant = np.repeat(np.arange(count), WEEKS)
    for one in range(count):
        rng = np.random.default_rng([seed, one])
        kind = one % len(SPECIES)
        vigour = rng.normal(1.0, 0.12)
        for w in range(WEEKS):
            row = one * WEEKS + w
            grown = SPECIES[kind].rate * (w + 1) * vigour + rng.normal(0, 1.0)
            height[row] = np.clip(grown, 1.5, 0.92 * _CM_PER_PICTURE)
            image[row], mask[row] = _photograph(rng, kind, height[row], w, vigour, size)
    return {"image": image, "mask": mask, "height": height, "week": week, "plant": plant}


def _photograph(
    rng: np.random.Generator, kind: int, height: float, week: int, vigour: float, size: int
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Picture ``[size, size, 3]`` and mask ``[size, size]`` of one plant in one week."""
    species = SPECIES[kind]
    scale = size / _CM_PER_PICTURE
    y, x = np.mgrid[:size, :size].astype(np.float32) + 0.5
    picture = _soil(rng, x, y)
    mask = np.zeros((size, size), np.uint8)
    foot = np.array([size * rng.uniform(0.4, 0.6), size * 0.96])
    top = foot + np.array([rng.normal(0, 0.06), -1.0]) * height * scale
    colour = np.array(species.colour) * rng.uniform(0.85, 1.15, 3)

    def paint(inside: NDArray[np.bool_], shade: Pixels, tint: NDArray) -> None:
        picture[inside] = (shade[..., None] * tint)[inside]
        mask[inside] = kind + 1

    along, across, length = _local(x, y, foot, top)
    thickness = max(0.7, 1.2 * scale * np.sqrt(height / 20))
    paint((np.abs(across) < thickness) & (along > 0) & (along < length), 0.8 + 0 * x, 0.8 * colour)

    leaves = max(2, round(2 + species.leaves * week + rng.uniform(-0.5, 0.5)))
    grown = 0.45 + 0.55 * (week + 1) / WEEKS  # leaves of young plants are small
    for i in range(leaves):
        at = 0.12 + 0.85 * (i + 0.5 + rng.uniform(-0.2, 0.2)) / leaves
        base = foot + at * (top - foot)
        side = 1.0 if i % 2 else -1.0
        angle = np.deg2rad(species.angle + rng.normal(0, 8))
        reach = species.leaf[0] * grown * vigour * (1.15 - 0.5 * at) * rng.uniform(0.9, 1.1) * scale
        end = base + reach * np.array([side * np.cos(angle), -np.sin(angle)])
        along, across, length = _local(x, y, base, end)
        u = np.clip(along / length, 1e-6, 1 - 1e-6)
        # A beta curve, 1 at its widest: 0 < tip < 1 moves the widest place along the leaf.
        a = 1.2 * species.tip / (1 - species.tip)
        profile = (u / species.tip) ** a * ((1 - u) / (1 - species.tip)) ** 1.2
        half = np.maximum(species.leaf[1] * grown * scale * profile, 0.35)
        inside = (along > 0) & (along < length) & (np.abs(across) < half)
        vein = np.exp(-((across / (0.25 * half + 0.3)) ** 2))
        paint(inside, (0.85 + 0.25 * vein + 0.1 * (across * side < 0)).astype(np.float32), colour)

    light = rng.uniform(0.7, 1.25) * (1 + rng.uniform(-0.25, 0.25) * (x / size - 0.5))
    picture = picture * light[..., None] + rng.normal(0, 0.02, picture.shape)
    return (np.clip(picture, 0, 1) * 255).round().astype(np.uint8), mask


def _soil(rng: np.random.Generator, x: Pixels, y: Pixels) -> Pixels:
    """Brown noise of three grains, and stones, some of them mossy; ``[size, size, 3]``."""
    size = len(x)
    grains = [_smooth_noise(rng, size, cells) / (i + 1) for i, cells in enumerate((4, 10, 28))]
    grain = np.sum(grains, axis=0)
    brown = np.array([0.42, 0.31, 0.22]) * rng.uniform(0.8, 1.2, 3)
    picture = brown * (1 + 0.35 * grain[..., None])
    for _ in range(rng.poisson(_STONES)):
        centre, radius = rng.uniform(0, size, 2), size * rng.uniform(0.015, 0.05)
        stretch = rng.uniform(0.6, 1.6)
        inside = ((x - centre[0]) / stretch) ** 2 + ((y - centre[1]) * stretch) ** 2 < radius**2
        green = rng.uniform(0.0, 0.15)
        picture[inside] = rng.uniform(0.35, 0.6) * np.array([1.0 - green, 1.0, 0.9 - green])
    return picture.astype(np.float32)


def _smooth_noise(rng: np.random.Generator, size: int, cells: int) -> Pixels:
    """Noise of so many cells across, interpolated linearly; ``[size, size]``."""
    knots = rng.normal(0, 1, (cells + 1, cells + 1))
    place = np.linspace(0, cells, size, endpoint=False)
    i, f = place.astype(int), place % 1
    rows = knots[i] * (1 - f)[:, None] + knots[i + 1] * f[:, None]
    return (rows[:, i] * (1 - f) + rows[:, i + 1] * f).astype(np.float32)


def _local(x: Pixels, y: Pixels, base: NDArray, end: NDArray) -> tuple[Pixels, Pixels, float]:
    """Coordinates along and across the line from base to end, and its length, in pixels."""
    length = max(float(np.hypot(*(end - base))), 1e-3)
    ux, uy = (end - base) / length
    dx, dy = x - base[0], y - base[1]
    return dx * ux + dy * uy, dy * ux - dx * uy, length
