"""Photographs with labels, found through POLYTASK_DATA, as suites.

    suite = camvid(size=(90, 120))

A set that is not on this machine raises ``tables.MissingDataError``, whose text says what to set.
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tables import read

from polytask.data import ColumnSplit, Suite

CAMVID_CLASSES = (
    "sky",
    "building",
    "pole",
    "road",
    "pavement",
    "tree",
    "sign",
    "fence",
    "car",
    "pedestrian",
    "bicyclist",
)
_VOID = 11
# sky; ground (road, pavement); everything that stands on it
_COARSE = {0: 0, 3: 1, 4: 1}
_PATCH = (241, 216)  # two rows and three columns of a field photograph of 483 x 648


def camvid(
    size: tuple[int, int] = (90, 120), tasks: tuple[str, ...] = ("objects", "borders", "layout")
) -> Suite:
    """CamVid's street scenes: official split; 11 classes, their borders, three layers.

    ``objects`` segmentation of 11 classes; ``borders`` pixels beside another class; ``layout``
    sky, ground, things. (Dusk or day is no task: the validation part is all day.)
    """
    table = read("img_camvid/data.parquet")
    columns: dict[str, Any] = {name: [] for name in ("objects", "borders", "layout")}
    for data in table["label"]:
        label = np.asarray(Image.open(io.BytesIO(data)))
        columns["objects"].append(_png(np.where(label == _VOID, 255, label)))
        columns["borders"].append(_png(_borders(label)))
        layout = np.full_like(label, 2)
        for fine, coarse in _COARSE.items():
            layout[label == fine] = coarse
        columns["layout"].append(_png(np.where(label == _VOID, 255, layout)))
    kinds: dict[str, Any] = {
        "objects": {"kind": "segmentation", "classes": list(CAMVID_CLASSES)},
        "borders": "edges",
        "layout": {"kind": "segmentation", "classes": ["sky", "ground", "things"]},
    }
    rows = {"image": list(table["image"]), **columns}
    rows["part"] = table["split"].replace({"val": "validation"}).to_numpy()
    aside = [name for name in kinds if name not in tasks]
    return Suite.from_table(
        rows,
        {name: kinds[name] for name in tasks},
        name="camvid",
        inputs={"image": "picture"},
        size=size,
        split=ColumnSplit("part"),
        exclude=aside,
        about="CamVid, 701 frames of four drives (Brostow et al. 2009), the SegNet split",
    )


def cwfid(size: tuple[int, int] = (120, 108), *, held: int = 10) -> Suite:
    """CWFID's carrot field: patches of 60 photographs, whole photographs in one split.

    Six patches a photograph. ``plants``: soil, crop, weed, and no label where something green was
    not annotated; ``cover``: share of the patch that is
    vegetation, in percent; ``weeds``: weeds whose box has its centre in the patch. The official
    test photographs; ``held`` of the 40 training ones, evenly spread, are the validation part.
    """
    table = read("img_cwfid/data.parquet")
    train = np.flatnonzero((table["split"] == "train").to_numpy())
    validation = set(train[np.linspace(0, len(train) - 1, held).astype(int)].tolist())
    rows: dict[str, list[Any]] = {n: [] for n in ("image", "plants", "cover", "weeds", "part")}
    for i, row in table.iterrows():
        photograph = np.asarray(Image.open(io.BytesIO(row["image"])).convert("RGB"))
        plants = np.asarray(Image.open(io.BytesIO(row["crop_weed"])))
        green = np.asarray(Image.open(io.BytesIO(row["vegetation"]))) > 0
        plants = np.where(green & (plants == 0), 255, plants)  # green that nobody named
        centres = [
            ((x0 + x1) / 2, (y0 + y1) / 2)
            for plant in json.loads(row["plants"])
            if plant["type"] == "weed"
            for x0, y0, x1, y1 in [plant["box"]]
        ]
        for top in range(0, photograph.shape[0] - _PATCH[0] + 1, _PATCH[0]):
            for left in range(0, photograph.shape[1] - _PATCH[1] + 1, _PATCH[1]):
                window = np.s_[top : top + _PATCH[0], left : left + _PATCH[1]]
                rows["image"].append(_png(photograph[window]))
                rows["plants"].append(_png(plants[window]))
                rows["cover"].append(100 * float(green[window].mean()))
                inside = [
                    left <= x < left + _PATCH[1] and top <= y < top + _PATCH[0] for x, y in centres
                ]
                rows["weeds"].append(float(sum(inside)))
                part = "validation" if i in validation else row["split"]
                rows["part"].append(part)
    return Suite.from_table(
        rows,
        {
            "plants": {"kind": "segmentation", "classes": ["soil", "crop", "weed"]},
            "cover": {"kind": "regression", "unit": "%"},
            "weeds": {"kind": "regression", "unit": "plants"},
        },
        name="cwfid",
        inputs={"image": "picture"},
        size=size,
        split=ColumnSplit("part"),
        about="CWFID, 60 photographs of a carrot field (Haug and Ostermann 2014), at half size",
    )


def _borders(label: np.ndarray) -> np.ndarray:
    """1 where the pixel to the right or below is of another class; void has no borders."""
    border = np.zeros(label.shape, np.uint8)
    across = (label[:, 1:] != label[:, :-1]) & (label[:, 1:] != _VOID) & (label[:, :-1] != _VOID)
    down = (label[1:] != label[:-1]) & (label[1:] != _VOID) & (label[:-1] != _VOID)
    border[:, :-1] |= across
    border[:-1] |= down
    return np.where(label == _VOID, 255, border).astype(np.uint8)


def _png(values: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(values.astype(np.uint8)).save(file, format="PNG")
    return file.getvalue()


def photographs() -> dict[str, np.ndarray]:
    """scikit-image's natural colour photographs, uint8 ``[H, W, 3]``, by name."""
    import importlib.util

    found = importlib.util.find_spec("skimage")
    if found is None or not found.submodule_search_locations:
        return {}
    place = Path(found.submodule_search_locations[0]) / "data"
    names = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg", "motorcycle_left.png")
    return {
        Path(n).stem: np.asarray(Image.open(place / n).convert("RGB"))
        for n in names
        if (place / n).exists()
    }
