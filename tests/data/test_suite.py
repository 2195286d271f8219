"""Suites: what is inferred, described, cached and hashed, and how parts of them are taken."""

from __future__ import annotations

import multiprocessing
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from datasets import Dataset

from polytask.data import GroupSplit, RandomSplit, Suite, TimeSplit
from polytask.data import suite as module
from polytask.errors import InputError
from polytask.tasks import Classification, Regression

ROWS = 60
TARGETS = ["price", "rooms", "sold", "town"]


def columns(rows: int = ROWS) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    return {
        "id": [f"row {i}" for i in range(rows)],
        "size": rng.normal(100, 30, rows),
        "balcony": rng.random(rows) < 0.5,
        "listed": [datetime(2024, 1, 1) + timedelta(hours=7 * i) for i in range(rows)],
        "price": pa.array(rng.normal(300, 50, rows), mask=np.arange(rows) % 5 == 0),
        "rooms": np.arange(rows) % 4 + 1,
        "floor": np.arange(rows) % 20,
        "sold": np.arange(rows) % 3 == 0,
        "town": ["Bonn", "Kiel"] * (rows // 2),
    }


@pytest.fixture
def csv(tmp_path: Path) -> Path:
    path = tmp_path / "homes.csv"
    given = {k: v.to_pandas() if isinstance(v, pa.Array) else v for k, v in columns().items()}
    pd.DataFrame(given).to_csv(path, index=False)
    return path


def frame(suite: Suite) -> pd.DataFrame:
    """All splits as one frame, in the order of the splits."""
    return pa.concat_tables(suite.table(s) for s in suite.splits).to_pandas()


# -- what is inferred ------------------------------------------------------------------------------


def test_kinds_by_type() -> None:
    suite = Suite.from_table(columns(), [*TARGETS, "floor"])
    kinds = {t.name: t.kind.name for t in suite.tasks}
    assert kinds == {
        "price": "regression",
        "rooms": "classification",
        "sold": "classification",
        "town": "classification",
        "floor": "regression",  # more values than classes
    }


def test_kinds_by_order() -> None:
    targets = {
        "price": {"unit": "EUR"},
        "rooms": "regression",
        "floor": {"kind": "classification"},
        "sold": Regression("chance"),
        "where": {"column": "town"},
        "dear": {"column": "price", "kind": "regression", "unit": "kEUR"},
    }
    suite = Suite.from_table(columns(200), targets)
    assert {t.name: (t.kind, t.target) for t in suite.tasks} == {
        "price": (Regression("EUR"), "price"),
        "rooms": (Regression(), "rooms"),
        "floor": (Classification(), "floor"),
        "sold": (Regression("chance"), "sold"),
        "where": (Classification(), "town"),
        "dear": (Regression("kEUR"), "price"),
    }


def test_inputs_are_all_columns_that_are_not_set_aside() -> None:
    suite = Suite.from_table(columns(), ["price"], split="time:listed", exclude=["id", "floor"])
    assert suite.inputs == ("size", "balcony", "rooms", "sold", "town")


def test_a_single_name_is_one_target_and_one_exclusion() -> None:
    suite = Suite.from_table(columns(), "price", exclude="id")
    assert suite.task_names == ("price",)
    assert "id" not in suite.inputs and "floor" in suite.inputs


def test_a_reason_for_leaving_out_is_noted() -> None:
    suite = Suite.from_table(columns(), "price", exclude={"floor": "unknown before the sale"})
    assert "columns left out: floor (unknown before the sale)" in suite.about["notes"]


def test_notes_tell_what_was_done_to_columns() -> None:
    table = columns(2000)
    table["size"][3] = np.nan
    table |= {"empty": [None] * 2000, "Unnamed: 0": range(2000)}
    notes = " | ".join(Suite.from_table(table, "price").about["notes"])
    assert "missing values (median of the training rows, or a code of their own): size 1" in notes
    assert "'listed' is read as day, hour and weekday" in notes
    assert "'id' is left out: nearly every row has its own text" in notes
    assert "'empty' is left out: it has no values" in notes
    assert "'Unnamed: 0' is left out: it has no name" in notes


def test_row_numbers_of_pandas_are_no_input(tmp_path: Path) -> None:
    whole = pd.DataFrame({k: v for k, v in columns().items() if k != "price"})
    assert "__index_level_0__" not in Suite.from_table(whole[whole["floor"] > 2], "rooms").inputs
    whole.to_csv(tmp_path / "t.csv")
    assert "" not in Suite.from_table(tmp_path / "t.csv", "rooms").inputs


def test_a_moment_becomes_day_hour_and_weekday() -> None:
    suite = Suite.from_table(columns(), "price")
    found = frame(suite).sort_values("listed.day")
    expected = pd.Series(columns()["listed"])
    assert found["listed.hour"].tolist() == expected.dt.hour.tolist()
    assert found["listed.weekday"].tolist() == expected.dt.day_of_week.tolist()
    days = (expected - pd.Timestamp(0)) / pd.Timedelta(days=1)
    assert found["listed.day"].to_numpy() == pytest.approx(days.to_numpy())


def test_input_types_can_be_told() -> None:
    table = columns() | {"zip": np.arange(ROWS) % 3 + 50_000, "text": ["1.5", "-2"] * (ROWS // 2)}
    suite = Suite.from_table(table, "price", inputs={"zip": "categorical", "text": "numeric"})
    features = suite.splits["train"].features
    assert features["zip"].dtype == "string"
    assert features["text"].dtype == "float64"


@pytest.mark.parametrize("source", ["dict", "pandas", "arrow", "datasets"])
def test_every_form_of_a_table_makes_the_same_suite(source: str) -> None:
    table = pa.table(
        {k: v if isinstance(v, pa.Array) else pa.array(v) for k, v in columns().items()}
    )
    forms = {
        "dict": columns,
        "pandas": table.to_pandas,
        "arrow": lambda: table,
        "datasets": lambda: Dataset(table),
    }
    suite = Suite.from_table(forms[source](), TARGETS)
    expected = Suite.from_table(table, TARGETS)
    assert suite.tasks == expected.tasks and suite.inputs == expected.inputs
    pd.testing.assert_frame_equal(frame(suite), frame(expected))


# -- rows and splits -------------------------------------------------------------------------------


@pytest.mark.parametrize("split", [RandomSplit(3), TimeSplit("floor"), GroupSplit("floor")])
def test_every_row_is_in_one_split_with_its_own_labels(split: Any) -> None:
    table = {**columns(), "key": np.arange(ROWS)}
    suite = Suite.from_table(table, TARGETS, split=split)
    found = frame(suite).sort_values("key", ignore_index=True)
    assert found["key"].tolist() == list(range(ROWS))
    prices = pd.Series(table["price"].to_pylist(), dtype=float)
    pd.testing.assert_series_equal(found["price"], prices, check_names=False)
    assert found["town"].tolist() == table["town"]


def test_only_keeps_rows_inputs_and_order() -> None:
    suite = Suite.from_table(columns(), TARGETS)
    part = suite.only("sold", "price")
    assert part.task_names == ("price", "sold")
    assert part.inputs == suite.inputs and part.splits is suite.splits
    assert suite.task_names == tuple(TARGETS), "the suite itself is as it was"
    with pytest.raises(InputError, match=r"task 'solt' is not in suite .*did you mean 'sold'"):
        suite.only("solt")
    with pytest.raises(InputError, match="at least one"):
        suite.only()


def test_description_counts_labels_by_a_second_route() -> None:
    suite = Suite.from_table(
        columns(), {"price": {"unit": "EUR"}, "rooms": None}, about="invented", notes=["a note"]
    )
    about = suite.describe()
    assert about["name"] == "table" and about["source"] == "invented"
    assert about["split"] == "random rows, seed 0"
    assert about["rows"] == {"train": 36, "validation": 12, "test": 12}
    assert about["inputs"] == len(suite.inputs)
    assert about["notes"][0] == "a note"
    price, rooms = about["tasks"]
    assert price["labelled"] == {
        s: int(suite.table(s).to_pandas()["price"].count()) for s in suite.splits
    }
    assert (price["kind"], price["unit"], price["metric"]) == ("regression", "EUR", "ev")
    assert price["classes"] is None
    assert rooms["classes"] == ["1", "2", "3", "4"] and rooms["unit"] is None
    assert rooms["metrics"] == {
        "auroc": True,
        "accuracy": True,
        "log_loss": False,
        "f1": True,
        "kappa": True,
    }


def test_an_unknown_split_is_named() -> None:
    with pytest.raises(InputError, match=r"split 'tets' .*did you mean 'test'"):
        Suite.from_table(columns(), "price").table("tets")


# -- the fingerprint and the cache -----------------------------------------------------------------


def test_the_fingerprint_is_that_of_content_and_options() -> None:
    table = pa.table(
        {k: v if isinstance(v, pa.Array) else pa.array(v) for k, v in columns().items()}
    )

    def mark(source: pa.Table = table, targets: Any = ("price",), **options: Any) -> str:
        return Suite.from_table(source, targets, **options).fingerprint

    assert mark() == mark()
    chunks = pa.concat_tables([table.slice(0, 7), table.slice(7)])
    assert mark() == mark(chunks), "how a table is chunked is no content"
    changed = table.set_column(1, "size", pa.array([1.0, *table["size"].to_pylist()[1:]]))
    marks = [
        mark(),
        mark(changed),
        mark(table.rename_columns(["ident", *table.column_names[1:]])),
        mark(targets=["price", "sold"]),
        mark(targets={"price": {"unit": "EUR"}}),
        mark(split="random:1"),
        mark(split=RandomSplit(0, (0.5, 0.25, 0.25))),
        mark(split="group:floor"),
        mark(split="time:floor"),
        mark(exclude=["floor"]),
        mark(inputs={"floor": "categorical"}),
        mark(name="homes"),
    ]
    assert len(set(marks)) == len(marks)


def test_a_second_load_equals_the_first_and_reads_nothing(
    csv: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Suite.from_table(csv, TARGETS)

    def unwanted(*_: object) -> None:
        raise AssertionError("the file was read again")

    monkeypatch.setattr(module, "read_table", unwanted)
    second = Suite.from_table(csv, TARGETS)
    assert (second.tasks, second.inputs, second.fingerprint, second.about) == (
        first.tasks,
        first.inputs,
        first.fingerprint,
        first.about,
    )
    pd.testing.assert_frame_equal(frame(second), frame(first))
    with pytest.raises(AssertionError, match="read again"):
        Suite.from_table(csv, TARGETS, split="random:1")


def test_a_changed_file_is_another_suite(csv: Path) -> None:
    first = Suite.from_table(csv, TARGETS)
    csv.write_text(csv.read_text().replace("row 0", "row zero"))
    assert Suite.from_table(csv, TARGETS).fingerprint != first.fingerprint


def test_a_cached_file_equals_the_table_in_memory(csv: Path) -> None:
    stored, memory = Suite.from_table(csv, TARGETS), Suite.from_table(pd.read_csv(csv), TARGETS)
    assert stored.tasks == memory.tasks
    assert frame(stored)["price"].tolist() == pytest.approx(frame(memory)["price"], nan_ok=True)


@pytest.mark.parametrize("name", ["suite.json", "train.arrow"])
def test_a_damaged_cache_is_named(csv: Path, name: str) -> None:
    fingerprint = Suite.from_table(csv, TARGETS, name=f"damaged {name}").fingerprint
    file = module.cache_dir() / "suites" / fingerprint / name
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(InputError, match=f"{fingerprint}' is damaged or truncated"):
        Suite.from_table(csv, TARGETS, name=f"damaged {name}")


def _load(path: str, barrier: Any, found: Any) -> None:
    barrier.wait()
    suite = Suite.from_table(path, TARGETS, name="raced")
    found.put((suite.fingerprint, suite.splits["train"].num_rows))


@pytest.mark.distributed
def test_two_processes_store_one_suite(csv: Path) -> None:
    context = multiprocessing.get_context("fork")
    barrier, found = context.Barrier(2), context.Queue()
    processes = [context.Process(target=_load, args=(str(csv), barrier, found)) for _ in range(2)]
    for process in processes:
        process.start()
    results = [found.get(timeout=60) for _ in processes]
    for process in processes:
        process.join(60)
    assert results[0] == results[1]
    assert [p.exitcode for p in processes] == [0, 0]
    left = [p.name for p in (module.cache_dir() / "suites").iterdir() if p.name.startswith(".")]
    assert left == [], "nothing half-written stays behind"
