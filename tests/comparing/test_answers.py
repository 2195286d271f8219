"""Predictions as files: a table for answers per row, values and a picture for each map."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from polytask.comparing import answers
from polytask.data import Suite
from polytask.systems.weedsense import WeedSense
from polytask.testing import photograph_suite
from polytask.training import Training


@pytest.fixture(scope="module")
def suite() -> Suite:
    return photograph_suite()


@pytest.fixture(scope="module")
def learner(suite: Suite) -> Any:
    training = Training(epochs=1, batch=8, patience=1)
    return WeedSense(width=0.0625, augment="none", training=training).fit(suite)


def photographs(suite: Suite, folder: Path, size: tuple[int, int]) -> list[str]:
    """Test photographs as files of another size than the model's."""
    table = suite.table("test")["photograph"]
    for i, name in enumerate(("left", "right", "top")):
        values = np.array(table[i].as_py(), np.uint8)
        Image.fromarray(values).resize(size[::-1]).save(folder / f"{name}.png")
    return ["left", "right", "top"]


def test_a_folder_of_photographs_becomes_a_table_and_maps(
    suite: Suite, learner: Any, tmp_path: Path
) -> None:
    given, out = tmp_path / "photos", tmp_path / "out"
    given.mkdir()
    out.mkdir()
    names = photographs(suite, given, (20, 30))
    assert answers.write(learner, given, out) == 3
    table = pd.read_csv(out / "predictions.csv")
    assert list(table["picture"]) == names
    expected = learner.predict(given)
    np.testing.assert_allclose(table["radius"], expected["radius"])
    np.testing.assert_allclose(table["red=True"], expected["red"][:, 1])
    for i, name in enumerate(names):
        classes = np.load(out / "mask" / f"{name}.npy")
        assert classes.shape == (20, 30) and classes.dtype == np.uint8
        # Nearest pixel: the values at the model's size come back.
        rows, columns = ((np.arange(16) + 0.5) * n / 16 for n in (20, 30))
        back = classes[rows.astype(int)][:, columns.astype(int)]
        assert (back == expected["mask"][i]).mean() > 0.9
        assert np.load(out / "far" / f"{name}.npy").dtype == np.float32
        for task in ("mask", "far"):
            with Image.open(out / task / f"{name}.png") as picture:
                assert picture.size == (30, 20)


def test_rows_without_file_names_are_numbered(suite: Suite, learner: Any, tmp_path: Path) -> None:
    rows = suite.table("test").slice(0, 2)
    answers.write(learner, rows, tmp_path, ["mask"])
    assert {p.name for p in (tmp_path / "mask").iterdir()} == {"1.npy", "1.png", "2.npy", "2.png"}
    assert list(pd.read_csv(tmp_path / "predictions.csv")["picture"]) == [1, 2]


def test_answers_per_row_alone_are_a_table(suite: Suite, learner: Any) -> None:
    table = answers.table(learner, suite.table("test"), ["radius", "red"])
    assert table.column_names == ["radius", "red", "red=False", "red=True"]
