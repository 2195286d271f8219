"""Pictures and maps as they lie in a cell of a table: encoded bytes, a path, or numbers."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polytask.errors import InputError

Size = tuple[int, int]

_NPY = b"\x93NUMPY"
_AS_THEY_ARE = {"L", "RGB", "I", "F", "1"}  # PIL's modes that need no conversion


def open_cell(cell: Any, *, indexed: bool = False) -> NDArray:
    """A cell as an array, ``[H, W]``, ``[H, W, C]`` or as it was stored in ``.npy``.

    Args:
        cell: encoded bytes (PNG, JPEG, ``.npy``, ...), a path to such a file, a mapping with
            ``bytes`` or ``path`` (as ``datasets`` writes pictures), or numbers.
        indexed: a palette's numbers are wanted, not its colours (label maps).

    Raises:
        InputError: the cell cannot be read; the sentence names the file if it is one.
    """
    if isinstance(cell, Mapping):
        cell = cell.get("bytes") or cell.get("path")
    if isinstance(cell, str | os.PathLike):
        what = f"file {os.fspath(cell)!r}"
        try:
            cell = Path(cell).read_bytes()
        except OSError as error:
            raise InputError(f"{what} cannot be read: {error.strerror or error}") from None
    elif isinstance(cell, bytes | bytearray | memoryview):
        what = "the picture"
    else:
        return np.asarray(cell)
    if bytes(cell[:6]) == _NPY:
        try:
            return np.load(io.BytesIO(cell), allow_pickle=False)
        except (ValueError, EOFError, OSError) as error:
            raise InputError(f"{what} cannot be read: {error}") from None
    return _decoded(cell, what, indexed)


def _decoded(data: bytes, what: str, indexed: bool) -> NDArray:
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            if indexed and image.mode == "P":
                return np.asarray(image)
            # Cameras write the picture as the sensor lay, and how to turn it beside it.
            turned: Image.Image = image if indexed else ImageOps.exif_transpose(image)
            if turned.mode not in _AS_THEY_ARE and not turned.mode.startswith("I;16"):
                turned = turned.convert("L" if turned.mode == "LA" else "RGB")
            return np.asarray(turned)
    except UnidentifiedImageError:
        raise InputError(f"{what} is not a picture of a known format") from None
    except Image.DecompressionBombError:
        raise InputError(f"{what} has more pixels than a picture may have") from None
    except (OSError, SyntaxError, ValueError) as error:
        raise InputError(f"{what} is damaged or truncated: {error}") from None


def nearest_size(values: NDArray, size: Size) -> NDArray:
    """``[..., H, W]`` brought to a size by taking the nearest pixel; no value is ever mixed."""
    if values.shape[-2:] == size:
        return values
    rows, columns = (
        ((np.arange(new) + 0.5) * old / new).astype(np.int64)
        for new, old in zip(size, values.shape[-2:], strict=True)
    )
    return values[..., rows[:, None], columns]


def picture_size(values: NDArray, size: Size | None) -> NDArray:
    """A picture ``[H, W]`` or ``[H, W, C]`` at a size, smoothed when it shrinks; same type."""
    if values.ndim not in (2, 3):
        raise InputError(f"a picture has 2 or 3 dimensions, this array has {values.ndim}")
    if size is None or values.shape[:2] == size:
        return values
    if values.dtype == np.uint8 and values.shape[2:] in ((), (3,)):
        from PIL import Image

        picture = Image.fromarray(values).resize(size[::-1], Image.Resampling.BILINEAR)
        return np.asarray(picture)
    import torch
    from torch.nn.functional import interpolate

    planes = torch.from_numpy(values.reshape(*values.shape[:2], -1).astype(np.float32))
    planes = planes.permute(2, 0, 1).unsqueeze(0)
    small = interpolate(planes, size, mode="bilinear", antialias=True, align_corners=False)
    numbers = small[0].permute(1, 2, 0).numpy().reshape(*size, *values.shape[2:])
    if values.dtype.kind in "ui":
        numbers = numbers.round()
    return numbers.astype(values.dtype)


def unit_range(values: NDArray) -> NDArray[np.float32]:
    """Brightness in [0, 1]: whole numbers by their type's range, fractions as they are."""
    if values.dtype.kind == "b":
        return values.astype(np.float32)
    if values.dtype.kind in "ui":
        largest = 65_535 if values.dtype.itemsize > 1 else 255
        return values.astype(np.float32) / np.float32(largest)
    return values.astype(np.float32)
