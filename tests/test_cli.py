"""The command line: the whole way on a file, what it prints, and its exit status."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.csv as arrow_csv
import pytest
import yaml

from polytask import cli
from polytask.baselines.mlp import SharedMLP
from polytask.catalogue import catalogue
from polytask.cli import main
from polytask.comparing import compare as comparing
from polytask.comparing.report import Report
from polytask.config import from_dict, to_dict
from polytask.testing import mixed_suite
from polytask.training.saved import load

TINY = ["hidden=[8]", "head=[4]", "training.epochs=2", "training.batch=32", "training.lr=0.02"]
TARGETS = ["--targets", "price,rooms,sold"]


@pytest.fixture(scope="module")
def homes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    suite = mixed_suite()
    path = tmp_path_factory.mktemp("data") / "homes.csv"
    frame = pd.concat([suite.table(s).to_pandas() for s in suite.splits])
    frame["rooms"] = frame["rooms"].astype("Int64")
    frame.drop(columns="rent").to_csv(path, index=False)
    return path


@pytest.fixture(scope="module")
def model(homes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("fitted")
    assert main(["fit", "mlp", str(homes), *TARGETS, *TINY, "--out", str(out)]) == 0
    return out


def refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The sentence with which a command ends."""
    assert main(words) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("polytask: ") and captured.err.count("\n") == 1
    return captured.err


# -- compare ---------------------------------------------------------------------------------------


def test_compare_a_file(
    homes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["compare", str(homes), *TARGETS, "--learners", "mlp", "--balancers", "uw", *TINY]
    words += ["--rivals", "", "--seeds", "0,1", "--no-transfer", "--jobs", "1"]
    words += ["--out", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", ["polytask", *words])
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert "price: regression, judged by ev" in printed
    assert "rooms: classification of 0, 1, 2, judged by auroc" in printed
    assert "note: missing values" in printed
    assert "fits, " in printed, "progress is told"
    data = Report.from_json(tmp_path / "out" / "report.json").data
    assert [m["name"] for m in data["methods"]] == [
        "mlp · one model per task",
        "mlp · equal weights",
        "mlp · uw",
    ]
    assert data["verdict"]["method"] in printed
    assert data["settings"]["command"].startswith("polytask compare")
    assert data["settings"]["seeds"] == [0, 1]
    assert data["methods"][0]["settings"]["training.epochs"] == 2
    assert data["transfer"] is None
    page = (tmp_path / "out" / "report.html").read_text()
    assert "<html" in page and data["verdict"]["method"] in page


def test_the_plan_can_be_seen_first(
    homes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["compare", str(homes), *TARGETS, "training.lr=1e-2", "--tune", "hidden=[8],[16, 8]"]
    words += ["--balancers", "cagrad(c=0.4),uw", "--out", str(tmp_path / "out"), "--print-config"]
    assert main(words) == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    assert [t["name"] for t in printed["suite"]["tasks"]] == ["price", "rooms", "sold"]
    assert printed["plan"]["balancers"] == ["cagrad(c=0.4)", "uw"]
    assert printed["plan"]["tuning"] == {"hidden": [[8], [16, 8]]}
    assert printed["plan"]["settings"]["training.lr"] == 0.01
    assert printed["plan"]["settings"]["training.patience"] == 4
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "culprits"),
    [
        (["--learners", "mlpp"], ["system 'mlpp'", "mean 'mlp'"]),
        (["--learners", "lightgbm"], ["lightgbm", "rivals"]),
        (["--balancers", "upgrd"], ["balancer 'upgrd'", "mean 'upgrad'"]),
        (["--seeds", "one"], ["--seeds", "'one'"]),
        (["--tune", "training.lr"], ["--tune 'training.lr'", "key=a,b"]),
        (["training.epoch=1"], ["'training.epoch'", "mean 'epochs'"]),
        (["--split", "tiem:day"], ["'tiem:day'", "mean 'time'"]),
    ],
)
def test_a_wrong_plan(
    words: list[str],
    culprits: list[str],
    homes: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["compare", str(homes), *TARGETS, *words, "--out", str(tmp_path), "--jobs", "1"]
    sentence = refused(words, capsys)
    assert all(c in sentence for c in culprits), sentence


def test_ctrl_c_says_how_to_go_on(
    homes: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def stopped(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(comparing, "execute", stopped)
    words = ["compare", str(homes), *TARGETS, "--jobs", "1", "--out", str(tmp_path)]
    assert main(words) == 130
    assert "call again to go on" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


# -- suites ----------------------------------------------------------------------------------------


def write_suite(folder: Path, homes: Path, **keys: Any) -> str:
    (folder / "homes.csv").write_bytes(homes.read_bytes())
    (folder / "suite.yaml").write_text(
        yaml.safe_dump({"data": "homes.csv", **keys}, sort_keys=False)
    )
    return str(folder / "suite.yaml")


def test_a_suite_file(homes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_suite(
        tmp_path,
        homes,
        name="my homes",
        targets={"price": {"unit": "EUR"}, "big": {"column": "rooms", "kind": "regression"}},
        split="random:3",
        exclude={"sold": "known too late"},
        inputs={"age": "categorical"},
        about="invented",
        notes=["a first try"],
    )
    assert main(["compare", path, "--print-config"]) == 0
    suite = yaml.safe_load(capsys.readouterr().out)["suite"]
    assert (suite["name"], suite["source"]) == ("my homes", "invented")
    assert suite["split"] == "random rows, seed 3"
    assert [(t["name"], t["kind"], t["unit"]) for t in suite["tasks"]] == [
        ("price", "regression", "EUR"),
        ("big", "regression", None),
    ]
    assert suite["inputs"] == 3
    assert suite["notes"][0] == "a first try"
    assert "columns left out: sold (known too late)" in suite["notes"]


def test_words_go_over_the_suite_file(
    homes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_suite(tmp_path, homes, targets={"price": {"unit": "EUR"}, "sold": None})
    words = ["--targets", "price,rooms", "--split", "random:5", "--exclude", "age,town"]
    assert main(["compare", path, *words, "--print-config"]) == 0
    suite = yaml.safe_load(capsys.readouterr().out)["suite"]
    assert [(t["name"], t["unit"]) for t in suite["tasks"]] == [("price", "EUR"), ("rooms", None)]
    assert suite["split"] == "random rows, seed 5" and suite["inputs"] == 2


@pytest.mark.parametrize(
    ("keys", "culprits"),
    [
        ({"target": ["price"]}, ["suite.yaml'", "key 'target'", "mean 'targets'"]),
        ({"targets": "price"}, ["suite.yaml'", "targets is 'price'", "a list or keys and values"]),
        ({"targets": ["price"], "split": {"time": "x"}}, ["split is", "must be text"]),
        ({"targets": ["price"], "notes": "one"}, ["notes is 'one'", "a list"]),
        ({"targets": {"price": {"kind": "regresion"}}}, ["'regresion'", "mean 'regression'"]),
        ({"targets": {"price": 3}}, ["target 'price'", "3 is no kind"]),
        ({"targets": ["price"], "inputs": {"age": "number"}}, ["'age'", "mean 'numeric'"]),
        ({}, ["name the target columns"]),
    ],
)
def test_a_wrong_suite_file(
    keys: dict[str, Any],
    culprits: list[str],
    homes: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    sentence = refused(["compare", write_suite(tmp_path, homes, **keys)], capsys)
    assert all(c in sentence for c in culprits), sentence


# -- fit and predict -------------------------------------------------------------------------------


def test_fit_writes_a_model_that_python_reads(
    model: Path, homes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    learner = load(model / "model")
    assert (learner.hidden, learner.head, learner.training.epochs) == ((8,), (4,), 2)
    assert [t.name for t in learner.processor_.tasks] == ["price", "rooms", "sold"]
    assert (model / "run").is_dir()


def test_predictions_are_those_of_python(
    model: Path, homes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = tmp_path / "rows.csv"
    pd.read_csv(homes).drop(columns=["price", "rooms", "sold"]).head(20).to_csv(rows, index=False)
    out = tmp_path / "made" / "answers.csv"
    assert main(["predict", str(model), str(rows), "--out", str(out)]) == 0
    found = arrow_csv.read_csv(out).to_pydict()
    expected = load(model / "model").predict(rows)
    assert np.array(found["price"]) == pytest.approx(expected["price"])
    for i, label in enumerate(["0", "1", "2"]):
        assert np.array(found[f"rooms={label}"]) == pytest.approx(expected["rooms"][:, i])
    assert found["rooms"] == expected["rooms"].argmax(1).tolist()
    assert found["sold"] == (expected["sold"][:, 1] > 0.5).tolist()
    assert np.array(found["sold=True"]) == pytest.approx(expected["sold"][:, 1])
    capsys.readouterr()
    assert main(["predict", str(model / "model"), str(rows), "--tasks", "sold"]) == 0
    printed = capsys.readouterr().out
    assert printed.splitlines()[0] == '"sold","sold=False","sold=True"'
    assert len(printed.splitlines()) == 21


@pytest.mark.parametrize(
    ("words", "culprits"),
    [
        (["--tasks", "prize"], ["task 'prize'", "mean 'price'"]),
        (["--out", "rows.csv/answers.csv"], ["cannot be written"]),
    ],
)
def test_predictions_refused(
    words: list[str],
    culprits: list[str],
    model: Path,
    homes: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("rows.csv").write_bytes(homes.read_bytes())
    sentence = refused(["predict", str(model), "rows.csv", *words], capsys)
    assert all(c in sentence for c in culprits), sentence


def test_a_row_file_without_an_input_column(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "rows.csv").write_text("size,town\n100,Bonn\n")
    sentence = refused(["predict", str(model), str(tmp_path / "rows.csv")], capsys)
    assert "input column 'age' is missing" in sentence


def test_settings_printed_can_be_fed_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fit", "multitab", "--print-config", "training.lr=5e-4", "inter_sample=off"]) == 0
    printed = capsys.readouterr().out
    (tmp_path / "c.yaml").write_text(printed)
    words = ["fit", "multitab", "--config", str(tmp_path / "c.yaml"), "--print-config"]
    assert main(words) == 0
    assert capsys.readouterr().out == printed
    assert main([*words, "training.lr=1"]) == 0
    changed = yaml.safe_load(capsys.readouterr().out)
    assert changed["training"]["lr"] == 1 and changed["inter_sample"] == "off"


def test_a_settings_file_may_say_only_what_differs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "c.yaml").write_text("training:\n  lr: 1e-4\nhidden: [3]\n")
    assert main(["fit", "mlp", "--config", str(tmp_path / "c.yaml"), "--print-config"]) == 0
    found = from_dict(SharedMLP, yaml.safe_load(capsys.readouterr().out))
    expected = to_dict(SharedMLP(hidden=(3,)))
    expected["training"]["lr"] = 1e-4
    assert to_dict(found) == expected, "the system's own defaults stay"


@pytest.mark.parametrize(
    ("words", "culprits"),
    [
        (["multitap", "x.csv", "--out", "m"], ["system 'multitap'", "mean 'multitab'"]),
        (["mlp", "x.csv", "--out", "m", "hiden=[3]"], ["'hiden'", "mean 'hidden'"]),
        (["mlp", "x.csv", "--out", "m", "hidden=3"], ["mlp: hidden: 3 is not a list"]),
        (["mlp", "x.csv", "--out", "m", "--targets", "a"], ["'x.csv' does not exist"]),
        (["mlp", "x.csv", "--out", "m", "--config", "c.yaml"], ["c.yaml: ", "mean 'epochs'"]),
        (["mlp", "--out", "m"], ["fit needs a table file"]),
        (["mlp", "x.csv"], ["fit needs --out"]),
    ],
)
def test_a_wrong_fit(
    words: list[str],
    culprits: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("c.yaml").write_text("training: {epoch: 3}\n")
    sentence = refused(["fit", *words], capsys)
    assert all(c in sentence for c in culprits), sentence


def test_fit_of_a_booster(homes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["fit", "lightgbm", str(homes), *TARGETS, "rounds=5", "--out", str(tmp_path)]
    assert main(words) == 0
    assert "sold: auroc" in capsys.readouterr().out
    assert load(tmp_path / "model").rounds == 5


# -- the rest --------------------------------------------------------------------------------------


def test_systems_as_json_and_as_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["systems", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [r["id"] for r in rows] == list(catalogue())
    assert {r["id"]: r["year"] for r in rows}["multitab"] == "2026"
    assert main(["systems"]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in catalogue())


@pytest.mark.parametrize(
    ("words", "culprit"),
    [
        (["compare", "x.csv", "--colour"], "--colour"),
        (["systems", "lr=1"], "lr=1"),
        ([], "COMMAND"),
        (["compair"], "compair"),
        (["compare", "x.csv", "--jobs", "many"], "--jobs"),
    ],
)
def test_words_that_are_no_arguments(
    words: list[str], culprit: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    assert culprit in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("a,b", ["a", "b"]),
        (" a , b ,", ["a", "b"]),
        (
            "cagrad(c=0.4),features(mgda(x=1, y=2)),uw",
            ["cagrad(c=0.4)", "features(mgda(x=1, y=2))", "uw"],
        ),
        ("[1, 2],[3]", ["[1, 2]", "[3]"]),
        ("", []),
    ],
)
def test_names_keep_their_brackets(text: str, names: list[str]) -> None:
    assert cli._names(text) == names


def test_an_operating_system_error_names_its_file(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing() -> None:
        raise PermissionError(13, "Permission denied", "secret.json")

    monkeypatch.setattr("polytask.catalogue.catalogue", failing)
    assert refused(["systems"], capsys) == "polytask: Permission denied: secret.json\n"


# -- stream ----------------------------------------------------------------------------------------


def test_a_stream_is_tested_then_learned(
    homes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("numba")
    from polytask.baselines.hoeffding_tree import HoeffdingTree
    from polytask.training.prequential import Prequential

    words = ["stream", str(homes), "--target", "sold", "--exclude", "price,rooms", "--window", "30"]
    learners = ["--learners", "hoeffding_tree,driftmoe", "--out", str(tmp_path)]
    assert main([*words, *learners]) == 0
    assert "| hoeffding_tree" in capsys.readouterr().out
    told = [Prequential.from_dict(r) for r in json.loads((tmp_path / "stream.json").read_text())]
    assert [(r.model, r.length, r.window) for r in told] == [
        ("hoeffding_tree", 150, 30),
        ("driftmoe", 150, 30),
    ]
    frame = pd.read_csv(homes)
    tree, right = HoeffdingTree(features=("size", "age", "town"), nominal=["town"]), 0
    for x, y in zip(frame[["size", "age", "town"]].to_dict("records"), frame["sold"], strict=True):
        x = {k: None if pd.isna(v) else v for k, v in x.items()}
        right += tree.predict_one(x) == y
        tree.learn_one(x, y)
    assert sum(told[0].right) == pytest.approx(right, abs=1)  # it knows classes from the start
    assert (tmp_path / "stream.svg").read_text().startswith("<svg")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--target", "sold", "--learners", "mlp"], "mlp does not learn row by row"),
        (["--target", "solde"], "no column 'solde' (did you mean 'sold'?)"),
        (["--target", "sold", "--time", "when"], "no column 'when'"),
    ],
)
def test_a_wrong_stream(
    homes: Path, capsys: pytest.CaptureFixture[str], words: list[str], sentence: str
) -> None:
    assert sentence in refused(["stream", str(homes), *words], capsys)
