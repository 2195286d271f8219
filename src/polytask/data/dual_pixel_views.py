"""Dual-pixel views: what the left and the right half of a lens make of a scene out of focus.

Source: the imaging model of Abuolaim, Afifi, Brown, "Improving Single-Image Defocus Deblurring",
    WACV 2022, arXiv 2108.05251: each pixel of a dual-pixel sensor has two halves, which see the
    scene through one half of the aperture each.

A point out of focus becomes a disc of radius ``|r|`` pixels in the ordinary picture, the left half
of that disc in one view and the right half in the other. The sign of r says on which side of the
focal plane the point lies: halves are swapped for r < 0. So ``combined = (left + right) / 2``
exactly, and ``left - right`` tells signed defocus.

Pictures are ``[H, W, C]``; brightness is float64 in [0, 1] unless it says uint8.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy import ndimage

from polytask.data.files import as_png
from polytask.data.splits import ColumnSplit
from polytask.data.suite import Suite
from polytask.errors import InputError

Picture = NDArray[Any]

RADII = (-4, -3, -2, 2, 3, 4)


class Capture(NamedTuple):
    """One dual-pixel photograph: the two views, and the picture that an ordinary camera gives."""

    combined: Picture
    left: Picture
    right: Picture


def half_discs(radius: int) -> tuple[NDArray, NDArray]:
    """Blur kernels ``[2|r| + 1, 2|r| + 1]`` of the left and right view, each of sum 1.

    Pixels with ``x² + y² <= r²``; each half of the disc has half of the centre column.
    """
    reach = np.arange(-abs(radius), abs(radius) + 1)
    disc = (reach[:, None] ** 2 + reach[None] ** 2 <= radius**2).astype(float)
    left = disc * (np.where(reach < 0, 1.0, 0.0) + np.where(reach == 0, 0.5, 0.0))
    left /= left.sum()
    right = left[:, ::-1].copy()
    return (left, right) if radius >= 0 else (right, left)


def photograph(sharp: Picture, radius: NDArray[np.integer]) -> Capture:
    """A sharp picture as a dual-pixel sensor sees it.

    Every depth (all pixels of one signed radius) is a layer. Layers are blurred apart and laid over
    each other, the far ones (largest r) first; what a blurred near layer lets through shows the far
    ones. Where depth is constant this is convolution with the half discs.

    Args:
        sharp: all in focus ``[H, W, C]`` (or ``[H, W]``) in [0, 1].
        radius: signed blur radius of every pixel ``[H, W]``, whole numbers; 0 is in focus.

    Raises:
        InputError: picture and depth differ in size, or depth is not in whole numbers.
    """
    sharp, radius = np.asarray(sharp, float), np.asarray(radius)
    if sharp.shape[:2] != radius.shape:
        raise InputError(f"the picture is {sharp.shape[:2]}, its blur radii {radius.shape}")
    if radius.dtype.kind not in "iu":
        raise InputError(f"blur radii are whole numbers of pixels, not {radius.dtype}")
    planes = sharp.reshape(*radius.shape, -1)
    layers = [(int(r), (radius == r)[..., None].astype(float)) for r in np.unique(radius)[::-1]]
    views = []
    for side in (0, 1):
        seen, cover = np.zeros_like(planes), np.zeros((*radius.shape, 1))
        for r, inside in layers:
            kernel = half_discs(r)[side][..., None]
            opaque = _blurred(inside, kernel)
            seen = _blurred(inside * planes, kernel) + (1 - opaque) * seen
            cover = opaque + (1 - opaque) * cover
        views.append((seen / cover.clip(1e-6)).reshape(sharp.shape).clip(0, 1))
    left, right = views
    return Capture((left + right) / 2, left, right)


def _blurred(planes: NDArray, kernel: NDArray) -> NDArray:
    return ndimage.convolve(planes, kernel, mode="reflect")


def as_bytes(capture: Capture) -> Capture:
    """The capture in 8 bits, such that ``2 * combined == left + right`` still holds exactly."""
    combined = np.rint(capture.combined * 255).astype(np.int64)
    half = np.rint((capture.left - capture.right) * 127.5).astype(np.int64)
    half = half.clip(-np.minimum(combined, 255 - combined), np.minimum(combined, 255 - combined))
    parts = (combined, combined + half, combined - half)
    return Capture(*(part.astype(np.uint8) for part in parts))


# -- scenes ----------------------------------------------------------------------------------------


def textured(rng: np.random.Generator, size: int, channels: int = 3) -> Picture:
    """A random scene ``[size, size, channels]``: smooth and fine texture, hard-edged shapes."""
    coarse = ndimage.gaussian_filter(
        rng.normal(size=(size, size, channels)), (4, 4, 0), mode="wrap"
    )
    fine = ndimage.gaussian_filter(rng.normal(size=(size, size, 1)), (0.7, 0.7, 0), mode="wrap")
    scene = (
        rng.uniform(0.2, 0.8, channels) + 0.06 * coarse / coarse.std() + 0.02 * fine / fine.std()
    )
    y, x = np.mgrid[:size, :size]
    for _ in range(rng.integers(4, 9)):
        centre, half = rng.uniform(0, size, 2), rng.uniform(size / 16, size / 4, 2)
        turn = rng.uniform(0, np.pi)
        u = (x - centre[0]) * np.cos(turn) + (y - centre[1]) * np.sin(turn)
        v = (y - centre[1]) * np.cos(turn) - (x - centre[0]) * np.sin(turn)
        u, v = u / half[0], v / half[1]
        inside = (u**2 + v**2 < 1) if rng.random() < 0.5 else np.maximum(abs(u), abs(v)) < 1
        colour = rng.uniform(0, 1, channels)
        if rng.random() < 0.3:  # stripes
            colour = colour + 0.5 * (np.floor(4 * u) % 2)[inside][:, None] - 0.25
        scene[inside] = colour
    return scene.clip(0, 1)


def two_layers(
    rng: np.random.Generator, size: tuple[int, int], radii: Sequence[int] = RADII
) -> NDArray[np.int64]:
    """Blur radii ``[H, W]``: the two sides of a random line, each at a depth of its own."""
    height, width = size
    turn = rng.uniform(0, 2 * np.pi)
    y, x = np.mgrid[:height, :width]
    place = rng.uniform(0.25, 0.75, 2)
    side = (x - place[0] * width) * np.cos(turn) + (y - place[1] * height) * np.sin(turn) > 0
    one, other = rng.choice(radii, 2, replace=False)
    return np.where(side, one, other)


# -- suites ----------------------------------------------------------------------------------------


class Example(NamedTuple):
    """A row of a suite, all in 8 bits; ``sharp`` is None where only the views are known."""

    capture: Capture
    sharp: Picture | None
    split: str


def capture_suite(examples: Iterable[Example], *, name: str, about: str = "") -> Suite:
    """Rows ``blurred`` -> ``sharp``, ``left``, ``right``; sharp is null where only views are given.

    A row without a sharp picture is what a dual-pixel camera gives for nothing; a sharp picture of
    the same scene takes a second shot through a small aperture.
    """
    rows = [
        {
            "blurred": _png(example.capture.combined),
            "sharp": None if example.sharp is None else _png(example.sharp),
            "left": _png(example.capture.left),
            "right": _png(example.capture.right),
            "split": example.split,
        }
        for example in examples
    ]
    return Suite.from_table(
        pa.Table.from_pylist(rows),
        dict.fromkeys(("sharp", "left", "right"), "picture"),
        inputs={"blurred": "picture"},
        split=ColumnSplit("split"),
        name=name,
        about=about,
    )


def scene_suite(
    *,
    views_only: int = 1000,
    pairs: int = 150,
    validation: int = 60,
    test: int = 200,
    size: int = 32,
    radii: Sequence[int] = RADII,
    seed: int = 0,
) -> Suite:
    """Random two-layer scenes: the check of the paper's claims that fits on a laptop.

    Args:
        views_only: training scenes without a sharp picture.
        pairs: training scenes with one; fewer pairs are the first of more pairs.
        size: height and width.
    """
    plan = [
        ("train", views_only, False),
        ("validation", validation, True),
        ("test", test, True),
        ("train", pairs, True),
    ]
    examples = []
    for part, (split, count, paired) in enumerate(plan):
        for i in range(count):
            rng = np.random.default_rng((seed, part, i))
            scene = textured(rng, size)
            capture = as_bytes(photograph(scene, two_layers(rng, (size, size), radii)))
            sharp = np.rint(scene * 255).astype(np.uint8) if paired else None
            examples.append(Example(capture, sharp, split))
    return capture_suite(
        examples, name="dual-pixel scenes", about="random two-layer scenes, signed half-disc blur"
    )


def _png(picture: Picture) -> bytes:
    from PIL import Image

    return as_png(Image.fromarray(picture))
