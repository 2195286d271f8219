"""A saved model comes back whole, and says what is wrong with it when it cannot."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from polytask.catalogue import catalogue
from polytask.cli import main
from polytask.data import Suite, store
from polytask.errors import InputError
from polytask.testing import mixed_suite
from polytask.training import Training
from polytask.training.saved import load

BUDGET = Training(epochs=1, batch=32)


@pytest.fixture(scope="module")
def suite() -> Suite:
    return mixed_suite()


@pytest.fixture(scope="module")
def saved(suite: Suite, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "model"
    catalogue()["mlp"].load()(hidden=(4,), head=(4,), training=BUDGET).fit(suite).save_pretrained(
        folder
    )
    return folder


@pytest.fixture
def model(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "model"))


@pytest.mark.parametrize("name", ["mlp", "multitab", "lightgbm"])
def test_a_folder_says_which_learner_it_holds(name: str, suite: Suite, tmp_path: Path) -> None:
    cls = catalogue()[name].load()
    learner = cls(**({"rounds": 3} if name == "lightgbm" else {"training": BUDGET})).fit(suite)
    learner.save_pretrained(tmp_path / "model")
    loaded = load(tmp_path / "model")
    assert type(loaded) is cls and loaded == learner
    rows = suite.table("test")
    for task, values in learner.predict(rows).items():
        assert np.array_equal(loaded.predict(rows)[task], values)
    assert loaded.score(suite, "test") == learner.score(suite, "test")


def test_saving_again_replaces_the_model(model: Path, suite: Suite) -> None:
    other = catalogue()["mlp"].load()(hidden=(4,), head=(4,), training=BUDGET).with_seed(5)
    other.fit(suite).save_pretrained(model)
    assert load(model) == other
    assert [p.name for p in model.parent.iterdir()] == ["model"], "nothing stays beside it"


def test_a_folder_of_other_things_is_not_replaced(tmp_path: Path, saved: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="mine' exists and was not written by polytask"):
        load(saved).save_pretrained(tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"


def truncate(name: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        file = folder / name
        file.write_bytes(file.read_bytes()[:-20])

    return damage


def rewrite(name: str, change: Callable[[Any], Any]) -> Callable[[Path], None]:
    """Change a JSON file of the folder and its hash, as another version would have written it."""

    def damage(folder: Path) -> None:
        file, manifest = folder / name, folder / "manifest.json"
        file.write_text(json.dumps(change(json.loads(file.read_text()))))
        if name != "manifest.json":
            content = json.loads(manifest.read_text())
            content["files"][name] = store._hash(file)
            manifest.write_text(json.dumps(content))

    return damage


def newer(folder: Path) -> None:
    rewrite("manifest.json", lambda m: m | {"format": 99})(folder)
    (folder / "config.json").write_text("[]")  # whatever a newer format holds


def forget_processor(folder: Path) -> None:
    (folder / "processor.json").unlink()
    files = json.loads((folder / "manifest.json").read_text())
    files["files"].pop("processor.json")
    (folder / "manifest.json").write_text(json.dumps(files))


DAMAGES: dict[str, tuple[Callable[[Path], Any], list[str]]] = {
    "no folder": (shutil.rmtree, ["does not exist"]),
    "not a model": (lambda f: (f / "manifest.json").unlink(), ["no manifest.json"]),
    "processor lost": (lambda f: (f / "processor.json").unlink(), ["'processor.json'"]),
    "processor never written": (forget_processor, ["no processor"]),
    "config lost": (lambda f: (f / "config.json").unlink(), ["'config.json'"]),
    "weights lost": (lambda f: (f / "weights.safetensors").unlink(), ["weights.safetensors"]),
    "config truncated": (truncate("config.json"), ["config.json' is damaged or truncated"]),
    "processor truncated": (truncate("processor.json"), ["processor.json' is damaged or trunc"]),
    "weights truncated": (truncate("weights.safetensors"), ["weights.safetensors' is damaged"]),
    "manifest truncated": (truncate("manifest.json"), ["manifest.json' is damaged or truncated"]),
    "newer format": (newer, ["newer polytask", "format 99", "upgrade"]),
    "another system": (
        rewrite("config.json", lambda c: c | {"system": "multitap"}),
        ["system 'multitap' is not known", "mean 'multitab'"],
    ),
    "another setting": (
        rewrite("config.json", lambda c: c | {"settings": c["settings"] | {"depth": 3}}),
        ["no key 'depth'"],
    ),
    "a checkpoint": (rewrite("config.json", lambda c: {"state": 1}), ["holds no model"]),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_wrong_with_a_folder_is_said(
    damage: str, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    harm, culprits = DAMAGES[damage]
    harm(model)
    with pytest.raises(InputError) as refused:
        load(model)
    sentence = str(refused.value)
    assert all(c in sentence for c in culprits), sentence
    assert "\n" not in sentence
    if "not known" not in sentence:
        assert str(model) in sentence
    assert main(["predict", str(model), "rows.csv"]) == 2
    assert capsys.readouterr().err == f"polytask: {sentence}\n"
