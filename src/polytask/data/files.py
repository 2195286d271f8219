"""Reading tables: files of several kinds, data frames and dicts become ``pa.Table``."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from polytask.errors import InputError

_BLOCK = 16 << 20  # column types are read off the first block, so make it a generous one


def cache_dir() -> Path:
    """Where suites and finished runs are kept: ``POLYTASK_CACHE`` or the user's cache folder."""
    root = os.environ.get("POLYTASK_CACHE")
    return Path(root) if root else Path.home() / ".cache" / "polytask"


def read_table(source: Any) -> pa.Table:
    """Any table-like thing as an Arrow table with plain (decoded, flat) columns."""
    if isinstance(source, str | os.PathLike):
        table = _read_file(Path(source))
    elif isinstance(source, pa.Table):
        table = source
    elif isinstance(source, Mapping):
        table = pa.table({k: _to_array(k, v) for k, v in source.items()})
    elif hasattr(source, "with_format"):  # datasets.Dataset
        table = source.with_format("arrow")[:]
    elif hasattr(source, "__arrow_c_stream__"):  # pandas, polars, duckdb ...
        table = pa.table(source)
    else:
        raise InputError(f"cannot read a table from {type(source).__name__}")
    _check_names(table.column_names)
    return _plain(table)


def _to_array(name: str, values: Any) -> Any:
    try:
        return pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise InputError(f"column {name!r}: {error}") from None


def _check_names(names: list[str]) -> None:
    twice = sorted({n for n in names if names.count(n) > 1})
    if twice:
        raise InputError(f"column {twice[0]!r} occurs more than once in the table")


def _plain(table: pa.Table) -> pa.Table:
    for i, field in enumerate(table.schema):
        if pa.types.is_dictionary(field.type):
            table = table.set_column(i, field.name, pc.cast(table[i], field.type.value_type))
        elif pa.types.is_large_string(field.type) or pa.types.is_string_view(field.type):
            table = table.set_column(i, field.name, pc.cast(table[i], pa.string()))
    return table.replace_schema_metadata(None)


def _read_file(path: Path) -> pa.Table:
    if not path.exists():
        raise InputError(f"file {str(path)!r} does not exist")
    if path.is_dir():
        raise InputError(f"{str(path)!r} is a folder, not a table file")
    if path.stat().st_size == 0:
        raise InputError(f"file {str(path)!r} is empty")
    suffix = path.suffix.lower()
    try:
        if suffix in (".csv", ".tsv", ".txt") or path.name.endswith((".csv.gz", ".tsv.gz")):
            return _read_csv(path, "\t" if ".tsv" in path.suffixes else ",")
        if suffix == ".parquet":
            import pyarrow.parquet as pq

            return pq.read_table(path)
        if suffix in (".arrow", ".feather"):
            import pyarrow.feather as feather

            return feather.read_table(path, memory_map=True)
        if suffix in (".json", ".jsonl"):
            import pyarrow.json as pj

            return pj.read_json(path, read_options=pj.ReadOptions(block_size=_BLOCK))
    except (pa.ArrowInvalid, pa.ArrowTypeError, UnicodeDecodeError) as error:
        raise InputError(f"file {str(path)!r} cannot be read: {error}") from None
    raise InputError(
        f"file {str(path)!r} has an ending that is not known "
        "(known: .csv, .tsv, .csv.gz, .parquet, .arrow, .feather, .json, .jsonl)"
    )


def _read_csv(path: Path, delimiter: str) -> pa.Table:
    import pyarrow.csv as pv

    header = _first_line(path)
    if delimiter not in header:
        for other, name in ((";", "semicolons"), ("\t", "tabs"), ("|", "bars"), (",", "commas")):
            if other in header:
                raise InputError(
                    f"file {str(path)!r} is separated by {name}, not by {delimiter!r}: "
                    "save it with commas, or with tabs as .tsv"
                )
    return pv.read_csv(
        path,
        read_options=pv.ReadOptions(block_size=_BLOCK),
        parse_options=pv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
        convert_options=pv.ConvertOptions(
            strings_can_be_null=True, null_values=[*_default_nulls(), "?"]
        ),
    )


def _default_nulls() -> list[str]:
    import pyarrow.csv as pv

    return list(pv.ConvertOptions().null_values)


def _first_line(path: Path) -> str:
    import gzip

    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8", errors="replace") as file:
        return file.readline()
