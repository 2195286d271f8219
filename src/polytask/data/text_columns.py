"""Text in a suite: its columns, checks of texts against labels, one table of many tasks."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from polytask.data.files import read_table
from polytask.data.splits import SPLITS, ColumnSplit, RandomSplit, Split, parse_split
from polytask.errors import InputError, nearest
from polytask.tasks import Kind, Retrieval, Similarity, Task, TextKind

TEXT, PAIR, SEVERAL = "text", "text_pair", "texts"  # columns of a suite of many tables
TASK = "task"  # says which table a row came from
_BROKEN = "\N{REPLACEMENT CHARACTER}"

# What a table's columns are called where nobody says what they are.
_NAMES: tuple[tuple[str, ...], ...] = (
    ("sentence1", "sentence2"),
    ("premise", "hypothesis"),
    ("text_a", "text_b"),
    ("text", "text_pair"),
    ("question", "context"),
    ("question", "answer"),
    ("sentences",),
    ("sentence",),
    ("text",),
)
_TARGETS = ("label", "labels", "score", "answer", "sections", "section")
_FILES = (".jsonl", ".json", ".parquet", ".csv", ".tsv")


def as_text(name: str, values: pa.ChunkedArray) -> pa.ChunkedArray:
    """A column of texts, or of lists of texts."""
    kind = values.type
    if pa.types.is_null(kind) or pa.types.is_string(kind):
        return pc.cast(values, pa.string())
    listed = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    if listed and str(kind.value_type) in ("string", "large_string"):
        return pc.cast(values, pa.list_(pa.string()))
    raise InputError(f"column {name!r} has type {kind}, not text or lists of text")


def default_texts(kind: Kind, texts: Mapping[str, bool]) -> tuple[str, ...]:
    """The text columns a task reads unless it is told: single texts, and lists if its kind does."""
    lists = [name for name, several in texts.items() if several]
    single = [name for name, several in texts.items() if not several]
    if not kind.several:
        return tuple(single)
    if not lists:
        raise InputError(f"kind {kind.name!r} needs a column with a list of texts")
    return (*single[:1], lists[0]) if isinstance(kind, Retrieval) else (lists[0],)


def check_texts(
    table: pa.Table,
    tasks: Sequence[Task],
    unreadable: Literal["refuse", "skip"],
) -> tuple[np.ndarray, list[str]]:
    """(rows that can be used ``[N]``, notes): texts say something, and labels fit them.

    Raises:
        InputError: the first row that cannot be used, unless they are skipped.
    """
    usable = np.ones(table.num_rows, bool)
    notes: list[str] = []
    told: dict[str, int] = {}
    columns = {name: table[name].to_pylist() for task in tasks for name in task.texts}
    for task in tasks:
        cells = task.labels(table).to_pylist()
        texts = [columns[name] for name in task.texts]
        first = _first_row(table, task)
        for row in np.flatnonzero(task.labels(table).is_valid().to_numpy()):
            here = [column[row] for column in texts]
            try:
                _check_row(task, cells[row], here)
            except InputError as error:
                if unreadable == "refuse":
                    raise InputError(
                        f"{_named(task)}, data row {row - first + 1}: {error}; mend it, or leave "
                        "such rows out with unreadable='skip'"
                    ) from None
                usable[row] = False
                told[task.name] = told.get(task.name, 0) + 1
    for name, count in told.items():
        notes.append(f"task {name!r}: {count} rows are left out, their text or label is unusable")
    broken = sum(_broken(text) for column in columns.values() for text in column)
    if broken:
        notes.append(
            f"{broken} texts hold the sign U+FFFD: their file has another encoding than UTF-8"
        )
    return usable, notes


def _first_row(table: pa.Table, task: Task) -> int:
    """Where the task's own table begins, if this is a table of several."""
    if task.where is None or task.where[0] != TASK:
        return 0
    return int(pc.index(table[TASK], task.where[1]).as_py())


def _named(task: Task) -> str:
    return f"task {task.name!r}" if task.where and task.where[0] == TASK else str(task)


def _check_row(task: Task, cell: Any, texts: list[Any]) -> None:
    for name, text in zip(task.texts, texts, strict=True):
        blank = "has no text" if text is None else "is empty" if not len(text) else ""
        if isinstance(text, str) and not text.strip():
            blank = "is empty"
        elif isinstance(text, list) and not all(t and t.strip() for t in text):
            blank = blank or "holds an empty text"
        if blank:
            raise InputError(f"column {name!r} {blank}")
    if isinstance(task.kind, TextKind):
        task.kind.check(cell, texts)


def _broken(text: Any) -> bool:
    if isinstance(text, list):
        return any(map(_broken, text))
    return text is not None and _BROKEN in text


def leaks(table: pa.Table, tasks: Sequence[Task], parts: np.ndarray) -> list[str]:
    """A note for each task whose held-out rows have texts that stand in its training rows too."""
    notes = []
    for task in tasks:
        if not task.texts:
            continue
        read = task.texts[:1] if isinstance(task.kind, Retrieval) else task.texts
        mine = task.labels(table).is_valid().to_numpy()
        columns = [table[name].to_pylist() for name in read]
        keys = [_key(row, task.kind) for row in zip(*columns, strict=True)]
        seen = {keys[row] for row in np.flatnonzero(mine & (parts == 0))}
        for code, split in list(enumerate(SPLITS))[1:]:
            held = np.flatnonzero(mine & (parts == code))
            twice = sum(keys[row] in seen for row in held)
            if twice:
                notes.append(
                    f"leak: of task {task.name!r}, {twice} of {len(held)} {split} rows have the "
                    "same text as a training row"
                )
    return notes


def _key(texts: tuple[Any, ...], kind: Kind) -> tuple[str, ...]:
    flat = ["\n".join(t) if isinstance(t, list) else t or "" for t in texts]
    words = [" ".join(text.lower().split()) for text in flat]
    return tuple(sorted(words) if isinstance(kind, Similarity) else words)


# -- a table per task ------------------------------------------------------------------------------


class Stacked(NamedTuple):
    """The tables of several tasks as one: what ``Suite.from_table`` is told of it."""

    table: pa.Table
    targets: dict[str, Any]
    inputs: dict[str, str]
    groups: dict[str, tuple[str, str]]


def stack(sources: Any) -> Stacked:
    """One table of the tables of many tasks; see ``Suite.from_tasks``."""
    tables: list[pa.Table] = []
    targets: dict[str, Any] = {}
    groups: dict[str, tuple[str, str]] = {}
    for name, given in _specs(sources).items():
        if name in (TEXT, PAIR, SEVERAL, TASK, "split"):
            raise InputError(f"task {name!r} needs another name: the suite uses this one")
        try:
            table, found = _one(name, dict(given))
        except InputError as error:
            raise InputError(f"task {name!r}: {error}") from None
        again = sorted(set(found) & set(targets))
        if again:
            raise InputError(f"task {again[0]!r} is named twice")
        tables.append(table)
        targets |= found
        groups |= dict.fromkeys(found, (TASK, name))
    whole = pa.concat_tables(tables, promote_options="default")
    inputs = {n: "text" for n in (TEXT, PAIR, SEVERAL) if n in whole.column_names}
    return Stacked(whole, targets, inputs, groups)


def _specs(sources: Any) -> dict[str, dict[str, Any]]:
    if isinstance(sources, str | os.PathLike):
        folder = Path(sources)
        found = sorted(p for p in folder.glob("*") if p.suffix.lower() in _FILES)
        if not found:
            raise InputError(
                f"folder {str(folder)!r} holds no file of a task ({', '.join(_FILES)})"
            )
        return {path.stem: {"source": path} for path in found}
    if not isinstance(sources, Mapping) or not sources:
        raise InputError("tasks are a folder, or a mapping from names to files or tables")
    return {
        name: dict(given) if isinstance(given, Mapping) and "source" in given else {"source": given}
        for name, given in sources.items()
    }


def _one(name: str, spec: dict[str, Any]) -> tuple[pa.Table, dict[str, Any]]:
    """A task's table in shared columns, and its targets."""
    table = read_table(spec.pop("source"))
    split = spec.pop("split", None)
    table, asked = _triples(table, name, spec) or _asked(table, name, spec)
    columns = table.column_names
    read = asked.pop("texts")
    for column in read:
        if column not in columns:
            raise InputError(
                f"text column {column!r} is not in its table{nearest(column, columns)}"
            )
    texts = {column: as_text(column, table[column]) for column in read}
    single = [v for v in texts.values() if pa.types.is_string(v.type)]
    several = [v for v in texts.values() if not pa.types.is_string(v.type)]
    if len(single) > 2 or len(several) > 1:
        raise InputError("a task reads at most two texts and one list of texts")
    out = dict(zip((TEXT, PAIR), single, strict=False)) | dict(
        zip((SEVERAL,), several, strict=False)
    )
    targets = {}
    for target, given in asked["targets"].items():
        column = given.pop("column", target) if isinstance(given, dict) else target
        if column not in columns:
            raise InputError(f"target {column!r} is not in its table{nearest(column, columns)}")
        key = name if len(asked["targets"]) == 1 else target
        out[key] = table[column]
        names = [n for n in (TEXT, PAIR, SEVERAL) if n in out]
        kind = given if isinstance(given, dict) else {"kind": given} if given is not None else {}
        targets[key] = {**kind, "texts": names}
    out[TASK] = pa.array([name] * table.num_rows)
    parts = _splitter(split, table).assign(table)
    out["split"] = pa.array([SPLITS[part] for part in parts])
    return pa.table(out), targets


def _splitter(split: Split | str | None, table: pa.Table) -> Split:
    if split is None and "split" in table.column_names:
        return ColumnSplit("split")
    if split is None:
        return RandomSplit()
    if isinstance(split, str):
        return ColumnSplit(split) if split in table.column_names else parse_split(split)
    return split


def _asked(table: pa.Table, name: str, spec: dict[str, Any]) -> tuple[pa.Table, dict[str, Any]]:
    """Text columns and targets, as told or by their usual names."""
    texts = spec.pop("texts", None)
    if texts is None:
        texts = next((n for n in _NAMES if set(n) <= set(table.column_names)), None)
        if texts is None:
            raise InputError(
                f"say which columns hold its text: texts=[...] of {table.column_names}"
            )
    texts = (texts,) if isinstance(texts, str) else tuple(texts)
    targets = spec.pop("targets", None)
    if targets is None:
        usual = [t for t in _TARGETS if t in table.column_names and t not in texts]
        target = spec.pop("target", None) or (usual[0] if usual else None)
        if target is None:
            raise InputError(f"say which column is its target: target=... of {table.column_names}")
        kind = spec.pop("kind", None)
        kind = kind.to_dict() if isinstance(kind, Kind) else {"kind": kind} if kind else {}
        if not kind and target == "score" and len(texts) == 2:
            kind = {"kind": "similarity"}
        if not kind and target in ("section", "sections"):
            kind = {"kind": "boundaries"}
        targets = {target: {"column": target, **kind, **spec}}
    elif spec:
        raise InputError(f"key {next(iter(spec))!r} is not known beside targets")
    if not isinstance(targets, Mapping):
        targets = dict.fromkeys([targets] if isinstance(targets, str) else targets)
    plain = {n: t.to_dict() if isinstance(t, Kind) else t for n, t in targets.items()}
    return table, {
        "texts": texts,
        "targets": {n: dict(t) if isinstance(t, Mapping) else t for n, t in plain.items()},
    }


def _triples(
    table: pa.Table, name: str, spec: dict[str, Any]
) -> tuple[pa.Table, dict[str, Any]] | None:
    """A table of query, positives and negatives as candidates with relevances."""
    columns = table.column_names
    good = next((c for c in ("positives", "positive") if c in columns), None)
    if good is None or "texts" in spec or "query" not in columns:
        return None
    bad = next((c for c in ("negatives", "negative") if c in columns), None)
    positives = [_listed(cell) for cell in table[good].to_pylist()]
    negatives = [_listed(c) for c in table[bad].to_pylist()] if bad else [[] for _ in positives]
    candidates = [p + n for p, n in zip(positives, negatives, strict=True)]
    relevance = [[1] * len(p) + [0] * len(n) for p, n in zip(positives, negatives, strict=True)]
    for row, found in enumerate(positives):
        if not found:
            raise InputError(f"column {good!r} is empty in data row {row + 1}")
    made = {"query": table["query"], "candidates": pa.array(candidates, pa.list_(pa.string()))}
    made["relevance"] = pa.array(relevance, pa.list_(pa.int64()))
    if "split" in columns:
        made["split"] = table["split"]
    kind = spec.pop("kind", None) or Retrieval.name
    if kind != Retrieval.name:
        raise InputError(f"query, positives and negatives are of kind 'retrieval', not {kind!r}")
    return pa.table(made), {
        "texts": ("query", "candidates"),
        "targets": {"relevance": {"kind": kind}},
    }


def _listed(cell: Any) -> list[str]:
    return [] if cell is None else [cell] if isinstance(cell, str) else list(cell)
