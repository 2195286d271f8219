"""The command line on a folder of photographs: fit, predict, show, export, compare."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from polytask.cli import main
from polytask.data.plants import PLANT_TARGETS, plants

TINY = ["width=0.0625", "augment=none", "training.epochs=1", "training.batch=8"]


@pytest.fixture(scope="module")
def field(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A YAML file beside a folder of rendered plants."""
    root = tmp_path_factory.mktemp("field")
    rows = plants(count=8, seed=0)
    for part, column in (("images", "image"), ("mask", "mask")):
        (root / "field" / part).mkdir(parents=True)
        for i, values in enumerate(rows[column]):
            Image.fromarray(values).save(root / "field" / part / f"p{i:02d}.png")
    columns = {name: rows[name] for name in ("height", "week", "plant")}
    columns["file"] = [f"p{i:02d}.png" for i in range(len(rows["image"]))]
    pd.DataFrame(columns).to_csv(root / "field" / "labels.csv", index=False)
    told = {"data": "field", "size": [32, 32], "targets": PLANT_TARGETS}
    (root / "field.yaml").write_text(yaml.safe_dump(json.loads(json.dumps(told))))
    return root / "field.yaml"


@pytest.fixture(scope="module")
def model(field: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("model")
    assert main(["fit", "weedsense", str(field), "--out", str(out), *TINY]) == 0
    return out


def test_predict_a_folder_and_one_photograph(
    field: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = field.parent / "field" / "images"
    assert main(["predict", str(model), str(images), "--out", str(tmp_path)]) == 0
    assert "wrote predictions.csv and the maps of 48 pictures" in capsys.readouterr().out
    table = pd.read_csv(tmp_path / "predictions.csv")
    assert list(table["picture"][:2]) == ["p00", "p01"] and "week=5" in table
    assert np.load(tmp_path / "mask" / "p00.npy").shape == (64, 64)
    assert main(["predict", str(model), str(images / "p01.png"), "--tasks", "height"]) == 0
    height = float(capsys.readouterr().out.splitlines()[1])
    assert height == pytest.approx(table["height"][1], rel=1e-4)


def test_maps_need_a_folder(field: Path, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = str(field.parent / "field" / "images" / "p01.png")
    assert main(["predict", str(model), picture]) == 2
    assert "give --out FOLDER" in capsys.readouterr().err


def test_export_answers_the_same(
    field: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnxruntime")
    out = tmp_path / "served"
    assert main(["export", str(model), "--out", str(out), "--tasks", "height,week"]) == 0
    images = str(field.parent / "field" / "images")
    capsys.readouterr()
    answers = []
    for folder in (model, out):
        assert main(["predict", str(folder), images, "--tasks", "height"]) == 0
        answers.append(np.array(capsys.readouterr().out.split()[1:], float))
    np.testing.assert_allclose(*answers, rtol=1e-3)
    assert main(["predict", str(out), images, "--tasks", "mask"]) == 2
    assert "'mask'" in capsys.readouterr().err


def test_show_writes_a_page(field: Path, model: Path, tmp_path: Path) -> None:
    page = tmp_path / "model.html"
    assert main(["show", str(model), str(field), "--examples", "2", "--out", str(page)]) == 0
    text = page.read_text()
    assert "weedsense" in text and "data:image/png" in text


def test_what_does_not_read_pictures_says_so(
    field: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["fit", "mlp", str(field), "--out", str(tmp_path)]) == 2
    assert "mlp reads no pictures, and column 'image' holds them" in capsys.readouterr().err


def test_the_plan_for_pictures(field: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", str(field), "--print-config"]) == 0
    plan = yaml.safe_load(capsys.readouterr().out)["plan"]
    assert plan["learners"] == ["weedsense"] and plan["rivals"] == ["segformer"]
    assert plan["settings"]["training.batch"] == 8
