"""Predictions of dense tasks as pictures: class overlays, maps in colour, errors.

    as_picture(kind, decoded).save("depth.png")
    overlay(picture, class_map, kind.classes).save("weeds.png")

Colours can be told apart by colour-blind eyes: classes follow Okabe and Ito (2008), sequences are
viridis and inferno, signed values run from blue over white to red. Grey is a pixel without a label.
"""

from __future__ import annotations

import io
from base64 import b64encode
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from polytask.errors import InputError
from polytask.tasks import (
    DenseRegression,
    Edges,
    Kind,
    Normals,
    Picture,
    Saliency,
    Segmentation,
)

if TYPE_CHECKING:
    from PIL.Image import Image

# Sand for what is usually the ground, then the colours of Okabe and Ito.
_CLASSES = ("c8b59a", "009e73", "d55e00", "56b4e9", "f0e442", "0072b2", "cc79a7", "e69f00")
_NO_LABEL = (119, 119, 119)
_RIGHT, WRONG = (236, 234, 228), (68, 1, 84)
_LUMA = np.array([0.299, 0.587, 0.114])
_COVER = 0.65  # of a class colour over the picture


class Span(NamedTuple):
    """The values at the two ends of a colour scale; what lies beyond has the end's colour."""

    low: float
    high: float


class Fault(NamedTuple):
    """How the error of a kind is shown: its name, whether it has a sign, and its unit."""

    name: str
    signed: bool
    unit: str


def class_colours(number: int) -> NDArray[np.uint8]:
    """A colour ``[number, 3]`` per class; more than eight come back lighter, then darker."""
    base = np.array([list(bytes.fromhex(c)) for c in _CLASSES], np.float64)
    shades = np.concatenate([base, 0.45 * base + 0.55 * 255, 0.55 * base])
    return shades[np.arange(number) % len(shades)].round().astype(np.uint8)


def as_rgb(picture: ArrayLike) -> NDArray[np.uint8]:
    """A picture as bytes ``[H, W, 3]``.

    Args:
        picture: floats in [0, 1] ``[C, H, W]`` as a batch holds them, or bytes ``[H, W, C]``, with
            one or three channels; or one channel ``[H, W]``.

    Raises:
        InputError: there are other than one or three channels.
    """
    values = np.asarray(picture)
    if values.ndim == 2:
        values = values[..., None]
    elif values.dtype != np.uint8:
        values = values.transpose(1, 2, 0)
    if values.ndim != 3 or values.shape[-1] not in (1, 3):
        raise InputError(f"a picture of shape {np.shape(picture)} has neither 1 nor 3 channels")
    if values.dtype != np.uint8:
        values = (np.clip(np.nan_to_num(values), 0, 1) * 255).round().astype(np.uint8)
    return np.broadcast_to(values, (*values.shape[:2], 3))


def overlay(picture: ArrayLike, class_map: ArrayLike, classes: Sequence[Any]) -> Image:
    """A picture in grey, tinted with the colours of its classes; of the picture's size.

    Args:
        picture: as ``as_rgb`` takes it.
        class_map: class index ``[H', W']``; other values than the classes' leave the picture bare.
        classes: of the task, in order.
    """
    from PIL import Image as Images

    base = as_rgb(picture) @ _LUMA  # a tint over colours would be another colour
    height, width = base.shape
    labels = Images.fromarray(_codes(class_map, len(classes)))
    codes = np.asarray(labels.resize((width, height), Images.Resampling.NEAREST))
    tint = np.vstack([class_colours(len(classes)), np.zeros((256 - len(classes), 3), np.uint8)])
    cover = np.where(codes < len(classes), _COVER, 0.0)[..., None]
    mixed = base[..., None] * (1 - cover) + tint[codes] * cover
    return Images.fromarray(mixed.round().astype(np.uint8))


def as_picture(kind: Kind, decoded: ArrayLike, span: Span | None = None) -> Image:
    """One decoded prediction (or one target) of a dense kind as a picture.

    A class map keeps its class indices, as a picture with a palette. Normals are
    ``(n + 1) / 2`` as red, green, blue.

    Args:
        kind: the task's kind.
        decoded: one row of what ``kind.decode`` gives, without the row axis.
        span: of the colours of a map of numbers; from its lowest to its highest by default.

    Raises:
        InputError: the kind answers no map.
    """
    from PIL import Image as Images

    values = np.asarray(decoded)
    match kind:
        case Segmentation():
            return _indexed(_codes(values, len(kind.classes)), class_colours(len(kind.classes)))
        case DenseRegression():
            return _coloured(values, span or span_of([values]), "viridis")
        case Normals():
            shown = (np.nan_to_num(values) + 1) / 2
            shown[:, ~np.isfinite(values).all(0)] = np.array(_NO_LABEL)[:, None] / 255
            return Images.fromarray(as_rgb(shown))
        case Edges() | Saliency():
            return _coloured(values, Span(0, 1), "gray")
        case Picture():
            return Images.fromarray(as_rgb(values.astype(np.float64)))
    raise InputError(f"the kind {kind.name!r} answers no map that could be drawn")


def fault(kind: Kind) -> Fault:
    """What ``error`` measures for this kind."""
    match kind:
        case Segmentation():
            return Fault("wrong class", False, "")
        case DenseRegression():
            return Fault("predicted − true", True, kind.unit)
        case Normals():
            return Fault("angle", False, "°")
        case Edges() | Saliency():
            return Fault("predicted − true", True, "")
        case Picture():
            return Fault("absolute difference", False, "")
    raise InputError(f"the kind {kind.name!r} answers no map whose error could be drawn")


def error(kind: Kind, target: ArrayLike, decoded: ArrayLike) -> NDArray[np.float64]:
    """The error of one row pixel by pixel ``[H, W]``, NaN where there is no label.

    1 where a class is wrong and 0 where it is right; predicted minus true in the unit, and for
    probabilities; degrees between two normals; the absolute difference of two pictures, mean over
    their channels.
    """
    true, shown = np.asarray(target, np.float64), np.asarray(decoded, np.float64)
    match kind:
        case Segmentation():
            return np.where(true == kind.ignore, np.nan, true != shown)
        case DenseRegression() | Edges() | Saliency():
            return shown - true
        case Normals():
            return np.degrees(np.arccos(np.clip((true * shown).sum(0), -1, 1)))
        case Picture():
            return np.abs(shown - true).mean(0)
    raise InputError(f"the kind {kind.name!r} answers no map whose error could be drawn")


def error_picture(kind: Kind, errors: ArrayLike, strongest: float) -> Image:
    """What ``error`` gave as a picture; ``strongest`` has the strongest colour."""
    if isinstance(kind, Segmentation):
        codes = np.where(np.isnan(errors), 2, np.nan_to_num(errors)).astype(np.uint8)
        return _indexed(codes, np.array([_RIGHT, WRONG], np.uint8))
    if fault(kind).signed:
        return _coloured(np.asarray(errors), Span(-strongest, strongest), "RdBu_r")
    return _coloured(np.asarray(errors), Span(0, strongest), "inferno")


def bar(kind: Kind, of_errors: bool = False) -> Image | None:
    """The colours of a map, or of its errors, from low to high; None where a legend has words."""
    if isinstance(kind, Segmentation) or (not of_errors and not isinstance(kind, DenseRegression)):
        return None
    steps = np.linspace(-1, 1, 128)[None]
    if of_errors:
        return error_picture(kind, steps if fault(kind).signed else (steps + 1) / 2, 1.0)
    return _coloured(steps, Span(-1, 1), "viridis")


def span_of(maps: Iterable[ArrayLike]) -> Span:
    """From the lowest to the highest number of some maps; labels that are missing do not count."""
    known = [finite for values in maps if (finite := _finite(values)).size]
    if not known:
        return Span(0.0, 1.0)
    return Span(float(min(v.min() for v in known)), float(max(v.max() for v in known)))


def strongest_of(errors: Iterable[ArrayLike]) -> float:
    """A size that all but a fiftieth of the erring pixels stay below; 1 if nothing errs."""
    sizes = np.concatenate([np.zeros(0), *(np.abs(_finite(values)) for values in errors)])
    sizes = sizes[sizes > 0]
    return float(np.quantile(sizes, 0.98)) if sizes.size else 1.0


def as_png(image: Image, side: int | None = None, colours: int | None = None) -> bytes:
    """A PNG file whose longer side has at most ``side`` pixels.

    Maps are made smaller without mixing their classes or colours; photographs may be brought to a
    number of ``colours``.
    """
    from PIL import Image as Images

    if side and max(image.size) > side:
        scale = side / max(image.size)
        width, height = (max(1, round(n * scale)) for n in image.size)
        way = Images.Resampling.NEAREST if image.mode == "P" else Images.Resampling.LANCZOS
        image = image.resize((width, height), way)
    if colours and image.mode == "RGB":
        image = image.quantize(colours, Images.Quantize.FASTOCTREE)
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def inline(png: bytes) -> str:
    """A PNG file as the address of a picture in a page that stands alone."""
    return "data:image/png;base64," + b64encode(png).decode("ascii")


def _codes(class_map: ArrayLike, classes: int) -> NDArray[np.uint8]:
    """Class indices, 255 for whatever is no class."""
    values = np.asarray(class_map)
    with np.errstate(invalid="ignore"):
        return np.where((values >= 0) & (values < classes), values, 255).astype(np.uint8)


def _indexed(codes: NDArray[np.uint8], colours: NDArray[np.uint8]) -> Image:
    """A picture with a palette; a code beyond the colours is a pixel without a label."""
    from PIL import Image as Images

    image = Images.fromarray(codes, "L")
    palette = np.tile(np.array(_NO_LABEL, np.uint8), (256, 1))
    palette[: len(colours)] = colours
    image.putpalette(palette.tobytes())
    return image


def _coloured(values: NDArray, span: Span, name: str) -> Image:
    """Numbers in the 255 steps of a colour map; what is not finite is a pixel without a label."""
    import matplotlib

    width = span.high - span.low
    with np.errstate(invalid="ignore"):
        steps = np.clip((values - span.low) / (width or 1.0), 0, 1) * 254
    codes = np.where(np.isfinite(values), steps.round(), 255).astype(np.uint8)
    colours = matplotlib.colormaps[name](np.linspace(0, 1, 255))[:, :3]
    return _indexed(codes, (colours * 255).round().astype(np.uint8))


def _finite(values: ArrayLike) -> NDArray[np.float64]:
    numbers = np.asarray(values, np.float64)
    return numbers[np.isfinite(numbers)]
