"""Reading tables: files of several kinds, data frames and dicts become ``pa.Table``."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from polytask.errors import InputError

_BLOCK = 16 << 20  # a JSON row must fit in one block, so make it a generous one


def cache_dir() -> Path:
    """Where suites and finished runs are kept: ``POLYTASK_CACHE`` or the user's cache folder."""
    root = os.environ.get("POLYTASK_CACHE")
    return Path(root) if root else Path.home() / ".cache" / "polytask"


@contextmanager
def cache_written() -> Iterator[None]:
    """A failure to write the cache, as one sentence."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"cache folder {str(cache_dir())!r} cannot be written: {error.strerror or error}; "
            "set POLYTASK_CACHE to another"
        ) from None


def read_table(source: Any) -> pa.Table:
    """Any table-like thing as an Arrow table with plain (decoded, flat) columns."""
    if isinstance(source, str | os.PathLike):
        table = _read_file(Path(source))
    elif isinstance(source, pa.Table):
        table = source
    elif isinstance(source, Mapping):
        table = _from_columns({name: _to_array(name, v) for name, v in source.items()})
    elif hasattr(source, "with_format"):  # datasets.Dataset
        table = source.with_format("arrow")[:]
    elif hasattr(source, "__arrow_c_stream__"):  # pandas, polars, duckdb ...
        try:
            table = pa.table(source)
        except (pa.ArrowException, ValueError, TypeError) as error:
            reason = "; ".join(map(str, error.args))
            raise InputError(f"the {type(source).__name__} cannot be read: {reason}") from None
    else:
        raise InputError(f"cannot read a table from {type(source).__name__}")
    _check_names(table.column_names)
    return _plain(table)


def _from_columns(columns: dict[str, pa.Array]) -> pa.Table:
    lengths = {name: len(values) for name, values in columns.items()}
    for name, length in lengths.items():
        first, rows = next(iter(lengths.items()))
        if length != rows:
            raise InputError(f"column {name!r} has {length} rows, column {first!r} has {rows}")
    return pa.table(columns)


def _to_array(name: str, values: Any) -> Any:
    try:
        if isinstance(values, np.ndarray) and values.ndim > 1:
            column = pa.array(values.reshape(-1))
            for size in reversed(values.shape[1:]):
                column = pa.FixedSizeListArray.from_arrays(column, size)
            return column
        if isinstance(values, Sequence) and values and hasattr(values[0], "tobitmap"):
            return pa.array([as_png(picture) for picture in values])  # pictures of PIL
        return pa.array(values)
    except (pa.ArrowException, TypeError) as error:
        raise InputError(f"column {name!r}: {error}") from None


def as_png(picture: Any) -> bytes:
    """A picture of PIL as the bytes of a PNG file."""
    file = io.BytesIO()
    picture.save(file, format="PNG")
    return file.getvalue()


def _check_names(names: list[str]) -> None:
    twice = sorted({n for n in names if names.count(n) > 1})
    if twice:
        raise InputError(f"column {twice[0]!r} occurs more than once in the table")


def _plain(table: pa.Table) -> pa.Table:
    for i, field in enumerate(table.schema):
        kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
        if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
            kind = pa.string()
        if kind != field.type:
            table = table.set_column(i, field.name, pc.cast(table[i], kind))
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
            return _read_json(path)
    except UnicodeDecodeError:
        raise InputError(f"file {str(path)!r} is not UTF-8 text; save it as UTF-8") from None
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"file {str(path)!r} cannot be read: {reason}") from None
    except (pa.ArrowException, EOFError) as error:
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

    options = {
        "parse_options": pv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
        "convert_options": pv.ConvertOptions(
            strings_can_be_null=True, null_values=[*_default_nulls(), "?"]
        ),
    }
    try:  # block by block: reading all at once holds nearly three times the table
        with pv.open_csv(path, pv.ReadOptions(block_size=_BLOCK), **options) as reader:
            table = reader.read_all()
    except (
        pa.ArrowInvalid
    ):  # a column's type shows later, or an error: without threads it has a row
        table = pv.read_csv(path, pv.ReadOptions(block_size=_BLOCK, use_threads=False), **options)
    for field in table.schema:
        if pa.types.is_binary(field.type):  # what Arrow makes of text it cannot decode
            raise _not_utf8(path, field.name)
    return table


def _read_json(path: Path) -> pa.Table:
    import pyarrow.json as pj

    table = pj.read_json(path, read_options=pj.ReadOptions(block_size=_BLOCK))
    for name in table.column_names:
        try:  # Arrow keeps the bytes of a JSON string as they are
            table[name].validate(full=True)
        except pa.ArrowInvalid:
            raise _not_utf8(path, name) from None
    return table


def _not_utf8(path: Path, column: str) -> InputError:
    return InputError(f"file {str(path)!r}, column {column!r} is not UTF-8 text; save it as UTF-8")


def _default_nulls() -> list[str]:
    import pyarrow.csv as pv

    return list(pv.ConvertOptions().null_values)


def _first_line(path: Path) -> str:
    import gzip

    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rb") as file:
        return file.readline().decode("utf-8")
