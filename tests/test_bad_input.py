"""What cannot be used is refused before training, in one sentence that names the culprit.

Each case goes through the Python API and, as a CSV file, through ``polytask fit``: exit status 2,
the sentence on stderr, no traceback, and nothing trained.
"""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from polytask.baselines.mlp import SharedMLP
from polytask.cli import main
from polytask.data import Suite, store
from polytask.errors import InputError
from polytask.training import NeuralLearner, Training

ROWS = 60


def homes(**columns: Any) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    table = {
        "size": rng.normal(100, 30, ROWS),
        "town": rng.choice(["Bonn", "Kiel"], ROWS),
        "day": np.arange(ROWS),
        "price": rng.normal(300, 50, ROWS),
        "sold": np.arange(ROWS) % 2 == 0,
    }
    return pd.DataFrame(table | columns)


def some(count: int, value: Any, otherwise: Any) -> list[Any]:
    """``value`` in the last rows, which a time split puts into test."""
    return [otherwise] * (ROWS - count) + [value] * count


def with_row(number: int, value: Any, otherwise: float = 1.0) -> list[Any]:
    """A column of numbers with one thing in data row ``number``."""
    return [otherwise + i for i in range(number - 1)] + [value] + [otherwise] * (ROWS - number)


# name -> (table, arguments of from_table, what the sentence must say)
CASES: dict[str, tuple[Callable[[], pd.DataFrame], dict[str, Any], list[str]]] = {
    "misspelt target": (homes, {"targets": ["prize", "sold"]}, ["'prize'", "mean 'price'"]),
    "target with one value": (
        lambda: homes(price=1.5),
        {},
        ["target 'price' has only one value, 1.5, in split 'train'"],
    ),
    "target with one value in a split": (
        lambda: homes(sold=some(12, True, False)),
        {"split": "time:day"},
        ["target 'sold' has only one value, False, in split 'train'"],
    ),
    "class unseen in training": (
        lambda: homes(town=(["Bonn", "Kiel"] * 24) + ["Rom", "Ulm"] * 6),
        {"targets": ["town", "sold"], "split": "time:day"},
        ["target 'town': class 'Rom' occurs in split 'test' but never in train"],
    ),
    "no labels for a task": (lambda: homes(price=None), {}, ["target 'price' has no label at all"]),
    "no labels in a split": (
        lambda: homes(price=some(12, None, 0.0)).assign(
            price=lambda f: f["price"].where(f["price"].isna(), f["day"] * 1.5)
        ),
        {"split": "time:day"},
        ["target 'price' has no label at all in split 'test'"],
    ),
    "infinite number in an input": (
        lambda: homes(size=with_row(7, np.inf)),
        {},
        ["column 'size' holds an infinite number in data row 7"],
    ),
    "infinite number in a target": (
        lambda: homes(price=with_row(9, -np.inf)),
        {},
        ["target 'price' holds an infinite number in data row 9"],
    ),
    "text in a number column": (
        lambda: homes(size=with_row(33, "many")),
        {},
        ["column 'size' holds text in a number column: 'many' in data row 33"],
    ),
    "text in a number target": (
        lambda: homes(price=with_row(3, "dear")),
        {"targets": {"price": "regression", "sold": None}},
        ["target 'price' holds text in a number column: 'dear' in data row 3"],
    ),
    "no rows": (lambda: homes().head(0), {}, ["has a header but no rows"]),
    "too few rows": (lambda: homes().head(1), {}, ["split"]),
    "no inputs": (
        homes,
        {"exclude": ["size", "town", "day"]},
        ["no input columns left besides the targets"],
    ),
    "misspelt exclusion": (homes, {"exclude": ["dya"]}, ["'dya'", "mean 'day'"]),
    "misspelt time": (homes, {"split": "time:dya"}, ["time column 'dya'", "mean 'day'"]),
    "misspelt split": (homes, {"split": "tiem:day"}, ["split 'tiem:day'", "mean 'time'"]),
    "misspelt kind": (
        homes,
        {"targets": {"price": "regresion", "sold": None}},
        ["target 'price'", "mean 'regression'"],
    ),
}


def one_sentence(text: str, culprits: list[str]) -> None:
    assert all(culprit in text for culprit in culprits), text
    assert "\n" not in text.strip()
    assert "Traceback" not in text and "Error" not in text


@pytest.fixture
def no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    def trained(*_: Any, **__: Any) -> None:
        raise AssertionError("training began")

    monkeypatch.setattr(NeuralLearner, "before_training", trained)


@pytest.mark.parametrize("case", CASES)
def test_in_python(case: str) -> None:
    table, arguments, culprits = CASES[case]
    arguments = {"targets": ["price", "sold"], **arguments}
    columns = {k: v.tolist() for k, v in table().items()}
    source = (
        table()
        if case != "text in a number column"
        else columns | {"size": list(map(str, columns["size"]))}
    )
    if case == "text in a number target":
        source = columns | {"price": list(map(str, columns["price"]))}
    with pytest.raises(InputError) as refused:
        Suite.from_table(source, **arguments)
    one_sentence(str(refused.value), culprits)


@pytest.mark.usefixtures("no_training")
@pytest.mark.parametrize("case", CASES)
def test_on_the_command_line(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table, arguments, culprits = CASES[case]
    table().to_csv(tmp_path / "homes.csv", index=False)
    targets = arguments.get("targets", ["price", "sold"])
    words = ["--targets", ",".join(targets)]
    if isinstance(targets, dict):
        kinds = "".join(f"  {k}: {v or 'classification'}\n" for k, v in targets.items())
        (tmp_path / "kinds.yaml").write_text("targets:\n" + kinds)
        words += ["--kinds", str(tmp_path / "kinds.yaml")]
    if "split" in arguments:
        words += ["--split", arguments["split"]]
    if "exclude" in arguments:
        words += ["--exclude", ",".join(arguments["exclude"])]
    status = main(["fit", "mlp", str(tmp_path / "homes.csv"), *words, "--out", str(tmp_path / "m")])
    assert status == 2
    one_sentence(capsys.readouterr().err, ["polytask: ", *culprits])
    assert not (tmp_path / "m" / "model").exists()


FILES: dict[str, tuple[str | bytes, list[str]]] = {
    "empty file": ("", ["is empty"]),
    "header only": ("size,price,sold\n", ["has a header but no rows"]),
    "wrong delimiter": ("size;price;sold\n1;2;3\n", ["semicolons"]),
    "ragged row": ("size,price,sold\n1,2,3\n1,2\n", ["Row #3", "Expected 3 columns, got 2"]),
    "duplicated column": ("size,size,price\n1,2,3\n", ["column 'size' occurs more than once"]),
    "not UTF-8": ("größe,price\n1,2\n".encode("latin-1"), ["not UTF-8"]),
}


@pytest.mark.parametrize("case", FILES)
def test_files_on_the_command_line(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content, culprits = FILES[case]
    path = tmp_path / "homes.csv"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    status = main(["compare", str(path), "--targets", "price,sold", "--out", str(tmp_path)])
    assert status == 2
    one_sentence(capsys.readouterr().err, culprits)
    assert not (tmp_path / "report.json").exists()


def test_a_missing_number_is_no_error_but_a_note() -> None:
    suite = Suite.from_table(homes(size=with_row(7, np.nan)), ["price", "sold"])
    assert any(note.endswith("size 1") and "missing" in note for note in suite.about["notes"])


def test_a_missing_number_in_an_array_is_refused() -> None:
    pictures = np.zeros((ROWS, 2, 2), np.float32)
    pictures[4, 1, 1] = np.nan
    with pytest.raises(InputError, match="column 'picture' holds an array with a missing or inf"):
        Suite.from_table(dict(homes()) | {"picture": pictures}, ["price", "sold"])


def test_too_little_text_for_a_number_column_is_a_category() -> None:
    column = ["1.5", "x"] * (ROWS // 2)
    suite = Suite.from_table(homes(size=column), ["price", "sold"])
    assert suite.splits["train"].features["size"].dtype == "string"


def test_the_real_command_prints_no_traceback(tmp_path: Path) -> None:
    homes().to_csv(tmp_path / "homes.csv", index=False)
    words = ["-m", "polytask.cli", "compare", "homes.csv", "--targets", "prize,sold"]
    done = subprocess.run(
        [sys.executable, *words], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 2
    one_sentence(done.stderr, ["polytask: target 'prize'", "did you mean 'price'?"])


# -- where results go ------------------------------------------------------------------------------

TINY = ["hidden=[4]", "head=[4]", "training.epochs=1"]


@pytest.fixture
def csv(tmp_path: Path) -> str:
    homes().to_csv(tmp_path / "homes.csv", index=False)
    return str(tmp_path / "homes.csv")


def test_an_output_folder_that_is_a_file(
    csv: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "taken").touch()
    for command in (["fit", "mlp", csv], ["compare", csv]):
        words = ["--targets", "price,sold", "--out", str(tmp_path / "taken")]
        assert main([*command, *words]) == 2
        one_sentence(capsys.readouterr().err, ["output folder", "taken", "File exists"])


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_an_output_folder_without_the_right_to_write(
    csv: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    words = ["--targets", "price,sold", "--out", str(tmp_path / "locked")]
    assert main(["fit", "mlp", csv, *words]) == 2
    one_sentence(capsys.readouterr().err, ["output folder", "locked", "Permission denied"])


def full(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_while_saving_keeps_the_old_model(
    csv: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    words = ["fit", "mlp", csv, "--targets", "price,sold", *TINY, "--out", str(tmp_path / "m")]
    assert main(words) == 0
    before = {p.name: p.read_bytes() for p in (tmp_path / "m" / "model").iterdir()}
    capsys.readouterr()
    monkeypatch.setattr(store.os, "fsync", full)
    assert main(words) == 2
    one_sentence(capsys.readouterr().err, ["No space left on device", str(tmp_path / "m")])
    assert {p.name: p.read_bytes() for p in (tmp_path / "m" / "model").iterdir()} == before


def test_a_cache_that_cannot_be_written(
    csv: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "taken").touch()
    monkeypatch.setenv("POLYTASK_CACHE", str(tmp_path / "taken"))
    assert main(["compare", csv, "--targets", "price,sold", "--out", str(tmp_path)]) == 2
    one_sentence(capsys.readouterr().err, ["cache folder", "taken", "POLYTASK_CACHE"])


# -- settings --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "culprits"),
    [
        ({"balancer": "upgrd"}, ["balancer 'upgrd'", "mean 'upgrad'"]),
        ({"step": "falt(rho=1)"}, ["step 'falt'", "mean 'flat'"]),
        ({"balancer": "upgrad", "mixture": "tasks"}, ["balancer 'upgrad'", "mixture='joint'"]),
        ({"training": Training(lr=0)}, ["training.lr must be positive"]),
        ({"training": Training(accumulation=0)}, ["training.accumulation"]),
        ({"training": Training(precision="fp16")}, ["training.precision 'fp16'"]),  # type: ignore[arg-type]
    ],
)
@pytest.mark.usefixtures("no_training")
def test_settings_that_no_fit_could_use(settings: dict[str, Any], culprits: list[str]) -> None:
    suite = Suite.from_table(homes(), ["price", "sold"])
    with pytest.raises(InputError) as refused:
        SharedMLP(**settings).fit(suite)
    one_sentence(str(refused.value), culprits)
