"""Two pictures on one canvas, one task for each: Multi-MNIST and its kin.

Source: Multi-MNIST of Sabour et al. (arXiv 1710.09829) as multi-task papers use it since Sener and
Koltun (arXiv 1810.04650); MultiFashion of Lin et al. (arXiv 1912.12854); both in F-MTL
(arXiv 2211.13723).

    canvas [c, c] = max(left placed at (0, 0), right placed at (c - s, c - s))     items [s, s]

The task ``left`` names the item in the upper left corner, ``right`` the one in the lower right.
"""

from __future__ import annotations

import gzip
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from polytask.data.splits import SPLITS, ColumnSplit
from polytask.data.suite import Suite
from polytask.errors import InputError

TASKS = ("left", "right")
Rows = tuple[int, int, int]  # train, validation, test


@dataclass(frozen=True)
class Items:
    """Labelled pictures: ``images`` [N, s, s] float32 in [0, 1], ``labels`` [N] int64."""

    images: NDArray[np.float32]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, rows: NDArray | slice) -> Items:
        return Items(self.images[rows], self.labels[rows])


def digits() -> Items:
    """The 1,797 handwritten digits of 8 x 8 pixels inside scikit-learn (UCI, CC BY 4.0)."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return Items((bunch.images / 16).astype(np.float32), bunch.target.astype(np.int64))


def idx_items(folder: str | os.PathLike[str], part: str) -> Items:
    """Items from the IDX files of MNIST or Fashion-MNIST; ``part`` is ``train`` or ``t10k``.

    Debian's package dataset-fashion-mnist (MIT licence) holds such a folder.
    """
    found = []
    for name in (f"{part}-images-idx3-ubyte.gz", f"{part}-labels-idx1-ubyte.gz"):
        path = Path(folder) / name
        if not path.is_file():
            raise InputError(f"folder {str(folder)!r} has no file {name!r}")
        found.append(_read_idx(path))
    images, labels = found
    return Items(images.astype(np.float32) / np.float32(255), labels.astype(np.int64))


def _read_idx(path: Path) -> NDArray[np.uint8]:
    """One IDX file of bytes: 0, 0, type 8, dimensions, their sizes (big endian), values."""
    try:
        data = gzip.decompress(path.read_bytes())
        if data[:3] != b"\0\0\x08":
            raise ValueError("it does not hold bytes in IDX form")
        start = 4 + 4 * data[3]
        shape = np.frombuffer(data[4:start], ">u4").astype(int)
        return np.frombuffer(data[start:], np.uint8).reshape(shape)
    except (OSError, EOFError, ValueError, IndexError) as error:
        raise InputError(f"file {str(path)!r} cannot be read: {error}") from None


def overlay(
    items: Items, rows: int, canvas: int, rng: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Random pairs of different items on one canvas.

    Returns:
        pictures [rows, canvas, canvas] and the labels [rows, 2] of left and right.
    """
    side = items.images.shape[1]
    if not side <= canvas <= 2 * side:
        raise InputError(f"canvas is {canvas}; items of {side} pixels need {side} to {2 * side}")
    if len(items) < 2:
        raise InputError(f"a pair needs two items, not {len(items)}")
    left = rng.integers(len(items), size=rows)
    right = (left + rng.integers(1, len(items), size=rows)) % len(items)
    pictures = np.zeros((rows, canvas, canvas), np.float32)
    pictures[:, :side, :side] = items.images[left]
    corner = pictures[:, canvas - side :, canvas - side :]
    np.maximum(corner, items.images[right], out=corner)
    return pictures, np.stack([items.labels[left], items.labels[right]], axis=1)


def with_noise(
    labels: NDArray[np.int64], share: float, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Labels of which exactly a share, at random rows, is replaced by another class at random."""
    if not 0 <= share <= 1:
        raise InputError(f"noise is {share}; it is a share between 0 and 1")
    classes = np.unique(labels)
    wrong = rng.permutation(len(labels))[: round(share * len(labels))]
    code = np.searchsorted(classes, labels[wrong])
    noisy = labels.copy()
    noisy[wrong] = classes[(code + rng.integers(1, len(classes), len(wrong))) % len(classes)]
    return noisy


def overlay_suite(
    name: str,
    sources: Mapping[str, Items],
    rows: Rows,
    *,
    canvas: int,
    noise: float = 0.0,
    seed: int = 0,
    about: str = "",
) -> Suite:
    """A suite of overlaid pairs from items per split.

    Args:
        sources: the items that each of train, validation and test draws its pairs from.
        rows: pictures per split.
        noise: share of wrong labels of task ``right`` in train and validation; test is clean.
        seed: of pairs and noise.
    """
    # Streams of their own, so that suites of different noise hold the same pictures.
    pairs, flips = (np.random.default_rng([seed, stream]) for stream in (0, 1))
    pictures, labels = [], []
    for split, count in zip(SPLITS, rows, strict=True):
        made, truth = overlay(sources[split], count, canvas, pairs)
        if split != "test":
            truth[:, 1] = with_noise(truth[:, 1], noise, flips)
        pictures.append(made)
        labels.append(truth)
    table = pa.table(
        {
            "picture": _as_arrays(np.concatenate(pictures)),
            **dict(zip(TASKS, np.concatenate(labels).T, strict=True)),
            "split": np.repeat(SPLITS, rows),
        }
    )
    notes = []
    if noise:
        notes.append(f"{noise:.0%} of the labels of 'right' are wrong in train and validation")
    return Suite.from_table(
        table,
        dict.fromkeys(TASKS, "classification"),
        name=name,
        split=ColumnSplit("split"),
        notes=notes,
        about=about,
    )


def overlaid_digits(
    rows: Rows = (1500, 500, 4000), noise: float = 0.4, seed: int = 0, canvas: int = 12
) -> Suite:
    """Overlaid pairs of scikit-learn's digits, 12 x 12.

    Training and validation pairs come from the same 900 digits, test pairs from the other 897.
    ``seed`` also deals the digits.
    """
    items = digits()
    order = np.random.default_rng([seed, 2]).permutation(len(items))
    seen, unseen = items[order[:900]], items[order[900:]]
    return overlay_suite(
        "overlaid digits",
        {"train": seen, "validation": seen, "test": unseen},
        rows,
        canvas=canvas,
        noise=noise,
        seed=seed,
        about="pairs of scikit-learn's load_digits (UCI, CC BY 4.0)",
    )


def overlaid_fashion(
    folder: str | os.PathLike[str],
    rows: Rows = (120_000, 10_000, 20_000),
    noise: float = 0.0,
    seed: int = 0,
    canvas: int = 36,
) -> Suite:
    """MultiFashion, 36 x 36: overlaid pairs of Fashion-MNIST from a folder of its IDX files.

    50,000 of the training items make the training pairs, the other 10,000 the validation pairs.
    """
    train, test = idx_items(folder, "train"), idx_items(folder, "t10k")
    cut = len(train) * 5 // 6
    return overlay_suite(
        "overlaid fashion",
        {"train": train[:cut], "validation": train[cut:], "test": test},
        rows,
        canvas=canvas,
        noise=noise,
        seed=seed,
        about="pairs of Fashion-MNIST (Zalando, MIT licence)",
    )


def _as_arrays(values: NDArray) -> pa.Array:
    """``[N, h, w]`` as a fixed-size list column."""
    column = pa.array(values.reshape(-1))
    for size in reversed(values.shape[1:]):
        column = pa.FixedSizeListArray.from_arrays(column, size)
    return column
