"""Small pictures spoiled in eight ways, and one-vs-rest tasks for every way and class.

Source: the protocol of MNIST-C (Mu and Gilmer, arXiv 1906.02337) in active multi-task
representation learning (arXiv 2306.02556): each corruption x class is a binary task of its own.
The corruptions are written here for pictures of any small size; they are not those of MNIST-C.

Pictures are ``[N, s, s]`` float32 in [0, 1], and so are corrupted ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy import ndimage

from polytask.data.overlays import Items
from polytask.data.splits import SPLITS, ColumnSplit
from polytask.data.suite import Suite
from polytask.errors import InputError, nearest

Pictures = NDArray[np.float32]
Corruption = Callable[[Pictures, np.random.Generator], Pictures]


def identity(pictures: Pictures, rng: np.random.Generator) -> Pictures:
    """As they are."""
    return pictures


def shift(pictures: Pictures, rng: np.random.Generator) -> Pictures:
    """An eighth of the side to the right and down."""
    step = max(1, pictures.shape[1] // 8)
    moved = np.zeros_like(pictures)
    moved[:, step:, step:] = pictures[:, :-step, :-step]
    return moved


def rotate(pictures: Pictures, rng: np.random.Generator) -> Pictures:
    """30 degrees about the centre."""
    return ndimage.rotate(pictures, 30, axes=(1, 2), reshape=False, order=1)


def blur(pictures: Pictures, rng: np.random.Generator) -> Pictures:
    """A Gaussian of a tenth of the side."""
    width = 0.1 * pictures.shape[1]
    return ndimage.gaussian_filter(pictures, (0, width, width))


def invert(pictures: Pictures, rng: np.random.Generator) -> Pictures:
    """Black for white."""
    return 1 - pictures


def noise(pictures: Pictures, rng: np.random.Generator) -> Pictures:
    """Normal noise of standard deviation 0.25, cut off at black and white."""
    return pictures + rng.normal(0, 0.25, pictures.shape).astype(np.float32)


def occlude(pictures: Pictures, rng: np.random.Generator) -> Pictures:
    """A grey square of three eighths of the side, at a place of its own in every picture."""
    side = pictures.shape[1]
    size = max(1, 3 * side // 8)
    row, column = rng.integers(0, side - size + 1, (2, len(pictures), 1))
    inside = np.arange(side)
    high, wide = ((inside >= corner) & (inside < corner + size) for corner in (row, column))
    return np.where(high[:, :, None] & wide[:, None, :], np.float32(0.5), pictures)


def contrast(pictures: Pictures, rng: np.random.Generator) -> Pictures:
    """A third of the contrast, about each picture's mean."""
    mean = pictures.mean((1, 2), keepdims=True)
    return mean + (pictures - mean) / 3


def pixelate(pictures: Pictures, rng: np.random.Generator) -> Pictures:
    """Blocks of a quarter of the side, each of one grey."""
    side = pictures.shape[1]
    block = np.arange(side) // max(1, side // 4)
    same = (block[:, None] == block[None]).astype(np.float32)
    average = same / same.sum(1, keepdims=True)
    return average @ pictures @ average.T


CORRUPTIONS: dict[str, Corruption] = {
    made.__name__: made
    for made in (identity, shift, rotate, blur, invert, noise, occlude, contrast, pixelate)
}


def corrupt(pictures: Pictures, name: str, seed: int = 0) -> Pictures:
    """The pictures spoiled in one way; equal seeds give equal pictures."""
    if name not in CORRUPTIONS:
        raise InputError(f"corruption {name!r} is not known{nearest(name, CORRUPTIONS)}")
    rng = np.random.default_rng([seed, list(CORRUPTIONS).index(name)])
    return CORRUPTIONS[name](pictures, rng).clip(0, 1).astype(np.float32)


def corrupted_suite(
    items: Items,
    corruptions: Sequence[str] = tuple(CORRUPTIONS)[1:],
    *,
    fractions: tuple[float, float, float] = (0.6, 0.2, 0.2),
    seed: int = 0,
    name: str = "corrupted pictures",
    about: str = "",
) -> Suite:
    """A suite of tasks ``<corruption>_<class>``: is it this class, seen in this way?

    Every picture stands in the table once in each way, with labels for the tasks of that way and
    nulls for all others. All ways of a picture are in one split.

    Args:
        corruptions: names out of ``CORRUPTIONS``.
        fractions: of the pictures, for train, validation and test.
        seed: of the split and of the corruptions.
    """
    order = np.random.default_rng([seed, len(CORRUPTIONS)]).permutation(len(items))
    cuts = np.round(np.cumsum(fractions)[:2] * len(items)).astype(int)
    part = np.empty(len(items), dtype=object)
    for split, rows in zip(SPLITS, np.split(order, cuts), strict=True):
        part[rows] = split
    classes = np.unique(items.labels)
    spoiled = np.concatenate([corrupt(items.images, way, seed) for way in corruptions])
    table: dict[str, Any] = {"picture": spoiled}
    labels = np.tile(items.labels, len(corruptions))
    ways = np.repeat(np.arange(len(corruptions)), len(items))
    for w, way in enumerate(corruptions):
        for c in classes:
            table[f"{way}_{c}"] = pa.array(labels == c, mask=ways != w)
    targets = dict.fromkeys(list(table)[1:], "classification")
    table["split"] = np.tile(part, len(corruptions))
    return Suite.from_table(table, targets, name=name, split=ColumnSplit("split"), about=about)
