"""Tables from files, frames and columns: the same rows whatever they came as."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as parquet
import pytest
from datasets import Dataset

from polytask.data import files
from polytask.data.files import cache_dir, read_table
from polytask.errors import InputError

FRAME = pd.DataFrame(
    {
        "count": [3, 1, 2],
        "share": [0.5, None, 2.0],
        "town": ["Ulm", "Köln", None],
        "sold": [True, False, True],
    }
)
ROWS = [
    {"count": 3, "share": 0.5, "town": "Ulm", "sold": True},
    {"count": 1, "share": None, "town": "Köln", "sold": False},
    {"count": 2, "share": 2.0, "town": None, "sold": True},
]


class Stream:
    """What polars, duckdb and others offer: Arrow's C stream and nothing else."""

    def __init__(self, table: pa.Table) -> None:
        self.table = table

    def __arrow_c_stream__(self, requested: object = None) -> object:
        return self.table.__arrow_c_stream__(requested)


def write(folder: Path, kind: str) -> Path:
    path = folder / f"rows.{kind}"
    csv, table = FRAME.to_csv(index=False), pa.table({k: [r[k] for r in ROWS] for k in ROWS[0]})
    match kind:
        case "csv":
            path.write_text(csv, encoding="utf-8")
        case "tsv":
            path.write_text(csv.replace(",", "\t"), encoding="utf-8")
        case "csv.gz":
            path.write_bytes(gzip.compress(csv.encode()))
        case "parquet":
            parquet.write_table(table, path)
        case "arrow" | "feather":
            feather.write_feather(table, path)
        case "jsonl":
            FRAME.to_json(path, orient="records", lines=True, force_ascii=False)
    return path


@pytest.mark.parametrize("kind", ["csv", "tsv", "csv.gz", "parquet", "arrow", "feather", "jsonl"])
def test_files(tmp_path: Path, kind: str) -> None:
    assert read_table(write(tmp_path, kind)).to_pylist() == ROWS
    assert read_table(str(tmp_path / f"rows.{kind}")).to_pylist() == ROWS


@pytest.mark.parametrize(
    "source",
    [
        FRAME,
        {name: [row[name] for row in ROWS] for name in ROWS[0]},
        pa.Table.from_pylist(ROWS),
        Dataset.from_list(ROWS),
        Stream(pa.Table.from_pylist(ROWS)),
    ],
    ids=["pandas", "dict", "arrow", "datasets", "c-stream"],
)
def test_things_in_memory(source: Any) -> None:
    assert read_table(source).to_pylist() == ROWS


def test_a_dataset_keeps_the_order_it_was_put_in() -> None:
    assert read_table(Dataset.from_list(ROWS).select([2, 0]))["count"].to_pylist() == [2, 3]


@pytest.mark.parametrize(
    "column",
    [
        pa.array(["a", "b", "a"]).dictionary_encode(),
        pa.array(["a", "b", "a"], pa.large_string()),
        pa.array(["a", "b", "a"], pa.string_view()),
        pa.DictionaryArray.from_arrays([0, 1, 0], pa.array(["a", "b"], pa.large_string())),
    ],
    ids=["dictionary", "large", "view", "large dictionary"],
)
def test_text_is_plain_text(column: pa.Array) -> None:
    for source in (pa.table({"x": column}), Stream(pa.table({"x": column}))):
        read = read_table(source)["x"]
        assert read.type == pa.string()
        assert read.to_pylist() == ["a", "b", "a"]


def test_categories_of_pandas_are_text() -> None:
    assert read_table(FRAME.astype({"town": "category"}))["town"].type == pa.string()


def test_arrays_of_several_dimensions_keep_their_shape() -> None:
    pictures = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    column = read_table({"picture": pictures})["picture"]
    assert column.type == pa.list_(pa.list_(pa.float32(), 4), 3)
    assert (np.array(column.to_pylist()) == pictures).all()


def test_missing_values_of_a_csv(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("a,b,c\n1,x,?\nNA,,2\n,null,3\n")
    assert read_table(path).to_pydict() == {
        "a": [1, None, None],
        "b": ["x", None, None],
        "c": [None, 2, 3],
    }


def test_a_byte_order_mark_and_quoted_line_breaks_are_read(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text('a,b\n1,"two\nlines"\n', encoding="utf-8-sig")
    assert read_table(path).to_pydict() == {"a": [1], "b": ["two\nlines"]}


def test_types_are_those_of_the_whole_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_BLOCK", 64)
    path = tmp_path / "t.csv"
    path.write_text("a,b\n" + "1,\n" * 60 + "1.5,x\n")
    table = read_table(path)
    assert table["a"].type == pa.float64()
    assert table["b"].to_pylist() == [None] * 60 + ["x"]


CSV = "a,b\n" + "1,x\n" * 9


@pytest.mark.parametrize(
    ("name", "content", "culprits"),
    [
        ("t.csv", "", ["is empty"]),
        ("t.csv", "\n\n", ["cannot be read"]),
        ("t.csv", "a,b,a\n1,2,3\n", ["column 'a' occurs more than once"]),
        ("t.csv", CSV.replace(",", ";"), ["semicolons", "','"]),
        ("t.csv", CSV.replace(",", "\t"), ["tabs", ".tsv"]),
        ("t.csv", CSV.replace(",", "|"), ["bars"]),
        ("t.tsv", CSV, ["commas"]),
        ("t.csv", CSV + "1,x,2\n", ["Row #11", "Expected 2 columns, got 3"]),
        ("t.csv", CSV + "1\n", ["Row #11", "Expected 2 columns, got 1"]),
        ("t.csv", CSV.replace("x", "é").encode("latin-1"), ["not UTF-8"]),
        ("t.csv", (CSV + "1,é\n").encode("latin-1"), ["column 'b' is not UTF-8"]),
        ("t.csv", CSV.encode("utf-16"), ["not UTF-8"]),
        ("t.jsonl", '{"a": "é", "b": 1}'.encode("latin-1"), ["column 'a' is not UTF-8"]),
        ("t.jsonl", '{"a": 1, "b": ["c", "é"]}'.encode("latin-1"), ["column 'b' is not UTF-8"]),
        ("t.csv", bytes(range(128, 256)), ["not UTF-8"]),
        ("t.csv.gz", b"no gzip", ["not a gzip"]),
        ("t.csv.gz", gzip.compress(CSV.encode(), mtime=0)[:20], ["t.csv.gz"]),
        ("t.parquet", b"PAR1 and then nothing PAR1", ["Parquet"]),
        ("t.feather", b"ARROW1 and then nothing", ["Arrow"]),
        ("t.jsonl", '{"a": 1}\n{"a": ', ["JSON"]),
        ("t.xlsx", "a", ["ending that is not known", ".csv"]),
    ],
)
def test_a_file_that_cannot_be_read_is_named(
    tmp_path: Path, name: str, content: str | bytes, culprits: list[str]
) -> None:
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(InputError) as refused:
        read_table(path)
    sentence = str(refused.value)
    assert all(c.lower() in sentence.lower() for c in culprits), sentence
    assert "more than once" in sentence or str(path) in sentence


def test_truncated_parquet(tmp_path: Path) -> None:
    path = write(tmp_path, "parquet")
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(InputError, match=r"rows\.parquet' cannot be read"):
        read_table(path)


@pytest.mark.parametrize(
    ("source", "culprits"),
    [
        ("nowhere.csv", ["'nowhere.csv' does not exist"]),
        (Path(__file__).parent, ["is a folder"]),
        ([1, 2], ["list"]),
        ({"a": [1, 2], "b": [1]}, ["'b' has 1 rows", "'a' has 2"]),
        ({"a": 3.0}, ["'a'"]),
        ({"a": [1, "x"]}, ["'a'"]),
        (pd.DataFrame({"odd": [1, "x"]}), ["DataFrame", "odd"]),
        (pd.DataFrame([[1, 2]], columns=["a", "a"]), ["a"]),
    ],
)
def test_a_thing_that_is_no_table(source: Any, culprits: list[str]) -> None:
    with pytest.raises(InputError) as refused:
        read_table(source)
    assert all(c in str(refused.value) for c in culprits), refused.value


def test_the_cache_is_where_the_environment_says(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("POLYTASK_CACHE", str(tmp_path))
    assert cache_dir() == tmp_path
    monkeypatch.delenv("POLYTASK_CACHE")
    assert cache_dir() == Path.home() / ".cache" / "polytask"
