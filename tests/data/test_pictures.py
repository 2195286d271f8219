"""Suites of pictures: from tables and folders, checked before anything is fitted."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from polytask.data import Processor, Suite
from polytask.data.lazy import Lazy
from polytask.errors import InputError

ROWS, H, W = 12, 10, 14
SEGMENTATION = {"kind": "segmentation", "classes": ["soil", "plant"]}


def arrays() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (ROWS, H, W, 3), dtype=np.uint8)
    return {
        "image": image,
        "mask": (image[..., 1] > 127).astype(np.uint8),
        "height": image.mean((1, 2, 3)) / 4,
        "plant": np.arange(ROWS) // 2,
    }


def encoded(values: np.ndarray, form: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(values).save(file, format=form)
    return file.getvalue()


def suite(table: Any, **options: Any) -> Suite:
    targets = {"mask": SEGMENTATION, "height": {"kind": "regression", "unit": "cm"}}
    return Suite.from_table(table, targets, **{"inputs": {"image": "picture"}, **options})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """images/, mask/ and a CSV that names the pictures."""
    columns = arrays()
    for part in ("images", "mask"):
        (tmp_path / part).mkdir()
    names = [f"field_{i:02d}" for i in range(ROWS)]
    for i, name in enumerate(names):
        Image.fromarray(columns["image"][i]).save(tmp_path / "images" / f"{name}.png")
        Image.fromarray(columns["mask"][i]).save(tmp_path / "mask" / f"{name}.png")
    rows = {"img": [f"{n}.jpg" for n in names], "height": columns["height"]}
    rows |= {"plant": columns["plant"], "camera": "a"}
    pd.DataFrame(rows).to_csv(tmp_path / "labels.csv", index=False)
    return tmp_path


TARGETS = {"mask": SEGMENTATION, "height": {"kind": "regression", "unit": "cm"}}


# -- the same pictures in every form ---------------------------------------------------------------


def _bytes(columns: dict[str, Any]) -> dict[str, Any]:
    return {
        **columns,
        "image": [encoded(v) for v in columns["image"]],
        "mask": [encoded(v) for v in columns["mask"]],
    }


def _structs(columns: dict[str, Any]) -> dict[str, Any]:
    image = [{"bytes": encoded(v), "path": None} for v in columns["image"]]
    return {**columns, "image": image}


def _pil(columns: dict[str, Any]) -> dict[str, Any]:
    return {**columns, "image": [Image.fromarray(v) for v in columns["image"]]}


@pytest.mark.parametrize("form", [dict, _bytes, _structs, _pil])
def test_every_form_gives_the_same_batch(form: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    made = suite(form(arrays()))
    plain = suite(arrays())
    assert made.size == (H, W) and made.pictures == {"image": 3}
    for split in ("train", "test"):
        batch = Processor.fit(made).encode(made, split)[:]
        expected = Processor.fit(plain).encode(plain, split)[:]
        assert torch.equal(batch.inputs["image"], expected.inputs["image"])
        assert torch.equal(batch.targets["mask"], expected.targets["mask"])
    assert batch.inputs["image"].dtype == torch.float32
    assert batch.inputs["image"].min() >= 0 and batch.inputs["image"].max() <= 1


def test_a_folder_gives_the_same_suite(folder: Path) -> None:
    found = Suite.from_folder(folder, TARGETS)
    plain = suite(arrays())
    assert found.inputs == ("image",)
    assert any("camera (of the table file, not asked for)" in n for n in found.about["notes"])
    batch = Processor.fit(found).encode(found, "train")[:]
    expected = Processor.fit(plain).encode(plain, "train")[:]
    assert torch.equal(batch.inputs["image"], expected.inputs["image"])
    assert torch.equal(batch.targets["mask"], expected.targets["mask"])
    assert torch.allclose(batch.targets["height"], expected.targets["height"], atol=1e-4)


def test_folders_of_the_splits(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    root = tmp_path_factory.mktemp("splits")
    for part, rows in (("train", 8), ("val", 2), ("test", 2)):
        for place in ("images", "mask"):
            (root / part / place).mkdir(parents=True)
        for name in sorted(p.name for p in (folder / "images").iterdir())[:rows]:
            for place in ("images", "mask"):
                (folder / place / name).rename(root / part / place / name)
    found = Suite.from_folder(root, {"mask": SEGMENTATION})
    assert {s: len(d) for s, d in found.splits.items()} == {
        "train": 8,
        "validation": 2,
        "test": 2,
    }
    assert found.describe()["split"] == "given by column split"


def test_paths_in_a_csv_begin_at_its_folder(folder: Path) -> None:
    names = [f"field_{i:02d}.png" for i in range(ROWS)]
    rows = {"image": [f"images/{n}" for n in names], "mask": [f"mask/{n}" for n in names]}
    rows["height"] = arrays()["height"].tolist()
    pd.DataFrame(rows).to_csv(folder / "paths.csv", index=False)
    found = suite(str(folder / "paths.csv"))
    assert found.size == (H, W)
    before = found.fingerprint
    assert suite(str(folder / "paths.csv")).fingerprint == before
    Image.fromarray(255 - arrays()["image"][0]).save(folder / "images" / names[0])
    assert suite(str(folder / "paths.csv")).fingerprint != before  # another picture, another suite


# -- reading ---------------------------------------------------------------------------------------


def test_pictures_are_read_when_rows_are_drawn_and_kept() -> None:
    made = suite(_bytes(arrays()))
    data = Processor.fit(made).encode(made, "train")
    column: Any = data.inputs["image"]
    assert isinstance(column, Lazy) and data.lazy
    assert column._known.sum() == 0
    first = data[torch.tensor([1, 3])]
    assert column._known.sum() == 2 and not first.lazy
    assert torch.equal(data[torch.tensor([3])].inputs["image"], first.inputs["image"][1:])
    part = data.take(torch.tensor([3, 1]))
    assert part.lazy and torch.equal(
        part[torch.tensor([1])].inputs["image"][0], first.inputs["image"][0]
    )
    assert sum(len(chunk) for chunk in data.chunks()) == len(data)


def test_parts_of_a_column_share_what_was_read() -> None:
    made = suite(_bytes(arrays()), split="random")
    data = Processor.fit(made).encode(made, "train")
    whole = Processor.fit(made).encode(made, "train")[:].inputs["image"]
    first, second = data.take(torch.tensor([0, 2])), data.take(torch.tensor([2, 1]))
    assert torch.equal(first[:].inputs["image"], whole[[0, 2]])
    assert torch.equal(second[:].inputs["image"], whole[[2, 1]])  # row 2 was read by the first


def test_size_brings_pictures_and_maps_to_one_size() -> None:
    columns = _bytes(arrays())
    big = np.repeat(np.repeat(arrays()["image"][0], 2, 0), 2, 1)
    columns["image"][0] = encoded(big)
    columns["mask"][0] = encoded((big[..., 1] > 127).astype(np.uint8))
    with pytest.raises(InputError, match=r"data row 1: the map is 20 x 28|is 10 x 14, the first"):
        suite(columns)
    made = suite(columns, size=(5, 7), split="random")
    batch = Processor.fit(made).encode(made, "train")[:]
    assert batch.inputs["image"].shape[1:] == (3, 5, 7)
    assert set(batch.targets["mask"].unique().tolist()) <= {0, 1}


def test_grey_pictures_and_16_bits() -> None:
    grey = arrays()["image"][..., 0]
    made = suite({**arrays(), "image": grey.astype(np.uint16) * 257})
    batch = Processor.fit(made).encode(made, "train")[:]
    assert made.pictures == {"image": 1} and batch.inputs["image"].shape[1] == 1
    plain = suite({**arrays(), "image": grey})
    expected = Processor.fit(plain).encode(plain, "train")[:].inputs["image"]
    assert torch.allclose(batch.inputs["image"], expected, atol=1e-6)


def test_a_photograph_is_turned_as_the_camera_says() -> None:
    from polytask.tasks.maps import open_cell

    values = np.zeros((4, 6, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    file = io.BytesIO()
    Image.fromarray(values).save(file, format="JPEG", exif=exif)
    assert open_cell(file.getvalue()).shape == (6, 4, 3)


# -- splits ----------------------------------------------------------------------------------------


def test_rows_of_one_plant_stay_together_by_default() -> None:
    made = suite(arrays())
    assert made.describe()["split"] == "whole groups of plant, seed 0"
    assert made.inputs == ("image",)
    assert any("stay in one split" in note for note in made.about["notes"])
    mixed = suite(arrays(), split="random", exclude=["plant"])
    assert mixed.describe()["split"].startswith("random rows")


def test_signals_too_are_split_by_subject() -> None:
    rng = np.random.default_rng(0)
    table = {
        "signal": rng.random((30, 20, 2), dtype=np.float32),
        "stage": np.tile([0, 1, 2], 10),
        "subject": np.arange(30) // 6,
    }
    made = Suite.from_table(table, {"stage": "classification"})
    assert made.describe()["split"] == "whole groups of subject, seed 0"


# -- what is refused, in one sentence --------------------------------------------------------------


def _spoiled(key: str, row: int, cell: Any) -> dict[str, Any]:
    columns = _bytes(arrays())
    columns[key][row] = cell
    return columns


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        (
            _spoiled("mask", 3, encoded(np.zeros((H, W + 1), np.uint8))),
            "column 'mask', data row 4: the map is 10 x 15, its picture 10 x 14",
        ),
        (
            _spoiled("mask", 2, encoded(np.full((H, W), 9, np.uint8))),
            "column 'mask', data row 3: the label map holds 9; 2 classes are numbered 0 to 1",
        ),
        (
            _spoiled("image", 1, encoded(arrays()["image"][1])[:90]),
            "column 'image', data row 2: the picture is damaged or truncated",
        ),
        (
            _spoiled("image", 1, b"nonsense"),
            "column 'image', data row 2: the picture is not a picture of a known format",
        ),
        (
            _spoiled("image", 5, encoded(arrays()["image"][5][..., 0])),
            "column 'image', data row 6: the picture has 1 channels, the others have 3",
        ),
        (_spoiled("image", 0, None), "column 'image', data row 1: there is no picture"),
    ],
)
def test_bad_pictures_are_named(table: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError) as error:
        suite(table, split="random")
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)


def test_files_that_are_missing_or_damaged_are_named_or_skipped(folder: Path) -> None:
    bad = folder / "images" / "field_04.png"
    bad.write_bytes(bad.read_bytes()[:60])
    with pytest.raises(InputError, match=r"field_04.png' is damaged or truncated"):
        Suite.from_folder(folder, TARGETS)
    found = Suite.from_folder(folder, TARGETS, unreadable="skip", split="random")
    assert sum(len(d) for d in found.splits.values()) == ROWS - 1
    notes = [n for n in found.about["notes"] if n.startswith("1 rows are left out: ")]
    assert len(notes) == 1 and "field_04" in notes[0]
    with pytest.raises(InputError, match="'refuse' or 'skip'"):
        Suite.from_folder(folder, TARGETS, unreadable="never")


def test_a_mask_without_any_label_counts_as_missing() -> None:
    columns = arrays()
    columns["mask"][3] = 255
    made = suite(columns)
    assert "1 maps of 'mask' have no label anywhere" in made.about["notes"]
    labelled = made.describe()["tasks"][0]["labelled"]
    assert sum(labelled.values()) == ROWS - 1
    columns["mask"][:] = 255
    with pytest.raises(InputError, match="target 'mask' has no label at all"):
        suite(columns)


def test_missing_maps_are_masked() -> None:
    columns = _bytes(arrays())
    columns["mask"][0] = None
    made = suite(columns, split="random")
    processor = Processor.fit(made)
    for split in made.splits:
        data = processor.encode(made, split)
        gone = ~data.masks["mask"]
        if gone.any():
            assert (data[:].targets["mask"][gone] == 255).all()
            break
    else:
        pytest.fail("the row without a mask is nowhere")


def test_pictures_must_be_called_so() -> None:
    with pytest.raises(InputError, match=r"inputs=\{'image': 'picture'\}"):
        Suite.from_table(_bytes(arrays()), ["height"], exclude=["mask"])
    with pytest.raises(InputError, match="is a map, but no input is a picture"):
        Suite.from_table(arrays(), {"mask": SEGMENTATION}, exclude=["image"])
    with pytest.raises(InputError, match=r"size is \(height, width\) in pixels, not 'big'"):
        suite(arrays(), size="big")


def test_folders_that_do_not_fit_are_named(folder: Path) -> None:
    with pytest.raises(InputError, match=r"there is no folder .*photos"):
        Suite.from_folder(folder, TARGETS, images="photos")
    (folder / "mask" / "other.png").write_bytes(encoded(np.zeros((H, W), np.uint8)))
    with pytest.raises(InputError, match=r"other.png' belongs to no picture"):
        Suite.from_folder(folder, TARGETS)
    (folder / "mask" / "other.png").unlink()
    labels = pd.read_csv(folder / "labels.csv")
    labels.loc[2, "img"] = "field_2.jpg"
    labels.to_csv(folder / "labels.csv", index=False)
    with pytest.raises(InputError, match=r"names picture 'field_2', which is not there"):
        Suite.from_folder(folder, TARGETS)


def test_prediction_names_the_row_that_cannot_be_read() -> None:
    made = suite(arrays())
    processor = Processor.fit(made)
    grey = {"image": [encoded(arrays()["image"][0]), encoded(arrays()["image"][0][..., 0])]}
    with pytest.raises(InputError, match="'image', data row 2: the picture has 1 channels, 3 are"):
        processor.inputs(grey)[:]
    with pytest.raises(InputError, match="'image' is missing"):
        processor.inputs({"picture": [b""]})
