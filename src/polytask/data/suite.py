"""Suite: the tasks, the examples and how they are split; what is asked, before any model.

One Arrow table per split holds inputs and labels side by side. A row may carry labels for all
tasks or for some: a missing label is a null. Tasks that each come with rows of their own are the
same thing with more nulls, so nothing downstream needs a second form.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from polytask.data import pictures as pictured
from polytask.data import text_columns as texted
from polytask.data.files import cache_dir, cache_written, read_table
from polytask.data.splits import (
    SPLITS,
    ColumnSplit,
    GroupSplit,
    RandomSplit,
    Split,
    parse_split,
)
from polytask.errors import InputError, nearest
from polytask.tasks import (
    KINDS,
    Classification,
    Kind,
    Regression,
    Similarity,
    Task,
    TextKind,
    kind_from_dict,
)

if TYPE_CHECKING:
    from datasets import Dataset

_CACHE_FORMAT = 3
_MAX_CLASSES_OF_NUMBERS = 10  # whole-number targets with more values than this are regressions
_MOSTLY_NUMBERS = 0.9
_HASHED_ROWS = 65_536
_ROLES = ("numeric", "categorical", "picture", "text")
_NUMBERS_BESIDE = (pa.types.is_decimal, pa.types.is_boolean, pa.types.is_null)
_CLASS_TYPES = (pa.types.is_string, pa.types.is_integer, pa.types.is_boolean)  # beside floats
NO_NAME = re.compile(r"|__index_level_\d+__|Unnamed: \d+")  # how pandas writes its row numbers


@dataclass(frozen=True)
class Suite:
    """Tasks + inputs + one data set per split.

    Attributes:
        name: shown in reports.
        tasks: what is predicted, kinds not yet fitted (a learner fits them on ``train``).
        inputs: names of the input columns.
        splits: ``train``, ``validation`` and ``test`` as ``datasets.Dataset``.
        fingerprint: hash of the content and of how it was read; the key of every cache.
        about: source, split and notes, for people.
        pictures: input columns that hold pictures, and their channels.
        size: (height, width) that all pictures and maps are brought to when they are read.
        texts: input columns that hold text, and whether a row has a list of texts there.
    """

    name: str
    tasks: tuple[Task, ...]
    inputs: tuple[str, ...]
    splits: Mapping[str, Dataset]
    fingerprint: str
    about: Mapping[str, Any] = field(default_factory=dict)
    pictures: Mapping[str, int] = field(default_factory=dict)
    size: tuple[int, int] | None = None
    texts: Mapping[str, bool] = field(default_factory=dict)

    @classmethod
    def from_table(
        cls,
        source: Any,
        targets: Sequence[str] | Mapping[str, Any],
        *,
        name: str | None = None,
        split: Split | str | None = None,
        exclude: Iterable[str] | Mapping[str, str] = (),
        inputs: Mapping[str, str] | None = None,
        by: str | None = None,
        size: tuple[int, int] | None = None,
        unreadable: pictured.Unreadable = "refuse",
        folder: str | os.PathLike[str] | None = None,
        notes: Sequence[str] = (),
        about: str = "",
    ) -> Suite:
        """A suite from one table.

        A picture (input) or map (target of a dense kind) is a path, encoded bytes, what
        ``datasets`` writes for an image, or a fixed-size array; all are read once to check them.

        Args:
            source: a file (CSV, TSV, Parquet, Arrow, JSON lines), Arrow table, data frame or dict.
            targets: target columns; a mapping gives a kind to each: ``"regression"``,
                ``{"kind": "regression", "unit": "EUR"}``, a ``Kind``, or None to infer it. Of a
                task about text, ``"texts"`` lists the columns it reads, in order (default: all
                single texts, and the first list of texts if its kind wants one).
            split: a ``Split`` or its text (``time:COLUMN``, ...). By default random 60/20/20; with
                pictures, signals or texts a column ``split`` that says it, else whole groups of a
                column such as ``plant``, ``scene`` or ``subject`` if there is one.
            exclude: columns that are not inputs; a mapping gives the reason of each.
            inputs: read a column as ``"categorical"``, ``"numeric"``, ``"picture"`` or ``"text"``
                (a text a row, or a list of texts). With texts, columns that are not named here
                are no inputs.
            by: a column whose every value is a task of its own (school, patient, carrier): one
                task per target and value, about the rows with that value. It is not an input. A
                random split deals the rows of each value.
            size: (height, width) that all pictures and maps are brought to; those of the pictures
                if they agree.
            unreadable: ``"skip"`` leaves out rows whose picture or map cannot be read, or whose
                text is empty or does not fit its label, and counts them in the notes; ``"refuse"``
                stops at the first.
            folder: where relative paths begin; the folder of the file, or the current one.
        """
        splitter = parse_split(split) if isinstance(split, str) else split
        if splitter is not None and not hasattr(splitter, "assign"):
            raise InputError(f"split is {split!r}; give a split or its text, such as 'random'")
        if by and splitter is None:
            splitter = RandomSplit(within=by)
        elif by and isinstance(splitter, RandomSplit) and not splitter.within:
            splitter = replace(splitter, within=by)
        targets = [targets] if isinstance(targets, str) else targets
        exclude = [exclude] if isinstance(exclude, str) else exclude
        options: dict[str, Any] = {
            "format": _CACHE_FORMAT,
            "targets": _plain_targets(targets),
            "split": splitter and [type(splitter).__name__, str(splitter), *_public(splitter)],
            "exclude": dict(exclude) if isinstance(exclude, Mapping) else sorted(exclude),
            "inputs": dict(inputs or {}),
            "by": by,
            "size": _checked_size(size),
            "unreadable": unreadable,
            "notes": list(notes),
            "about": about,
        }
        is_file = isinstance(source, str | os.PathLike)
        pictures = [name for name, role in (inputs or {}).items() if role == "picture"]
        label = name or (Path(source).stem if is_file else "table")
        options["name"] = label
        if is_file and Path(source).is_file() and not pictures:
            key = _hash_file(Path(source), options)
            folder = cache_dir() / "suites" / key
            if not (folder / "suite.json").exists():
                built = _build(read_table(source), options, splitter, targets)
                with cache_written():
                    _store(built, folder)
            return cls.load(folder)
        table = read_table(source)
        if pictures:
            base = Path(folder or (Path(source).parent if is_file else "."))
            paths = [*pictures, *_dense_columns(targets)]
            table = pictured.resolved(table, [n for n in paths if n in table.column_names], base)
            named = [n for n in paths if n in table.column_names]
            options["files"] = pictured.stamps(table, named)
        built = _build(table, options, splitter, targets)
        return _in_memory(built, _hash_table(table, options))

    @classmethod
    def from_tasks(
        cls,
        sources: Any,
        *,
        name: str | None = None,
        unreadable: pictured.Unreadable = "refuse",
        notes: Sequence[str] = (),
        about: str = "",
    ) -> Suite:
        """A suite of text tasks that each come with a table of their own.

        All texts are put into shared columns, ``text``, ``text_pair`` and ``texts`` (a list), so
        that one network reads them; a task keeps to the rows of its table. A table of ``query``,
        ``positives`` and ``negatives`` is a retrieval task.

        Args:
            sources: a folder of JSON lines, Parquet or CSV files, one per task; or a mapping from
                task to a file or table, or to ``{"source": ..., "texts": (...), "target": ...,
                "kind": ..., "split": ...}`` (or ``"targets"``, several as in ``from_table``).
                Columns with the usual names (``sentence1`` and ``sentence2``, ``label``, ...) need
                not be told, nor a column ``split``; without one, rows are split at random.
            unreadable, notes, about: as of ``from_table``.
        """
        stacked = texted.stack(sources)
        label = name or (Path(sources).name if isinstance(sources, str | os.PathLike) else "texts")
        options = {
            "format": _CACHE_FORMAT,
            "targets": _plain_targets(stacked.targets),
            "exclude": (),
            "inputs": stacked.inputs,
            "by": None,
            "groups": stacked.groups,
            "size": None,
            "unreadable": unreadable,
            "notes": list(notes),
            "about": about,
            "name": label,
        }
        built = _build(stacked.table, options, ColumnSplit("split"), stacked.targets)
        return _in_memory(built, _hash_table(stacked.table, options))

    @classmethod
    def from_folder(
        cls,
        folder: str | os.PathLike[str],
        targets: Sequence[str] | Mapping[str, Any],
        *,
        images: str = "images",
        inputs: Mapping[str, str] | None = None,
        name: str | None = None,
        **options: Any,
    ) -> Suite:
        """A suite from a folder of pictures, folders of maps and a table file of labels.

        ``folder/images`` holds the pictures. A target whose kind is dense has its maps in a folder
        of its own name (or ``{"kind": ..., "folder": NAME}``), one file per picture with the same
        stem. A CSV, TSV or Parquet file beside them holds the other targets; one of its columns
        names the pictures. All of this may lie in ``train/``, ``validation/`` and ``test/``.

        Args:
            images: name of the folder of pictures.
            inputs: columns of the table file that are inputs beside the picture, with their types.
            options: further arguments of ``from_table``.
        """
        items = (
            targets
            if isinstance(targets, Mapping)
            else dict.fromkeys([targets] if isinstance(targets, str) else targets)
        )
        table, columns = pictured.read_folder(Path(folder), items, images)
        exclude = dict.fromkeys(options.pop("exclude", ()))
        asked = {s.get("column", n) if isinstance(s, Mapping) else n for n, s in items.items()}
        aside = [c for c in columns if c not in {*asked, *(inputs or {})}]
        left_out = {**dict.fromkeys(aside, "of the table file, not asked for"), **exclude}
        plain = {n: _without_folder(spec) for n, spec in items.items()}
        return cls.from_table(
            table,
            plain,
            name=name or Path(folder).name,
            inputs={"image": "picture", **(inputs or {})},
            exclude=left_out,
            **options,
        )

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Suite:
        """The suite that was stored in a folder; its tables are mapped, not read into memory."""
        from datasets import Dataset

        folder = Path(folder)
        try:
            meta = json.loads((folder / "suite.json").read_text())
            splits = {s: Dataset.from_file(str(folder / f"{s}.arrow")) for s in SPLITS}
            whole = {s: len(d) for s, d in splits.items()} == meta["rows"]
        except (OSError, ValueError, KeyError):
            whole = False
        if not whole:
            raise InputError(f"stored suite {str(folder)!r} is damaged or truncated; delete it")
        return cls(
            name=meta["name"],
            tasks=tuple(Task.from_dict(t) for t in meta["tasks"]),
            inputs=tuple(meta["inputs"]),
            splits=splits,
            fingerprint=folder.name,
            about=meta["about"],
            pictures=meta["pictures"],
            size=tuple(meta["size"]) if meta["size"] else None,
            texts=meta["texts"],
        )

    def only(self, *names: str) -> Suite:
        """The same inputs with fewer tasks, and the rows these are about (all, but for groups)."""
        known = [t.name for t in self.tasks]
        for name in names:
            if name not in known:
                raise InputError(
                    f"task {name!r} is not in suite {self.name!r}{nearest(name, known)}"
                )
        if not names:
            raise InputError("only() needs at least one task name")
        tasks = tuple(t for t in self.tasks if t.name in names)
        return replace(self, tasks=tasks, splits=_of_groups(tasks, self.splits))

    def table(self, split: str) -> pa.Table:
        """One split as an Arrow table (memory-mapped where the suite came from a file)."""
        if split not in self.splits:
            raise InputError(f"split {split!r} is not in the suite{nearest(split, self.splits)}")
        return self.splits[split].with_format("arrow")[:]

    def labels(self, task: Task, split: str) -> pa.ChunkedArray:
        return task.labels(self.splits[split].data)

    @property
    def task_names(self) -> tuple[str, ...]:
        return tuple(t.name for t in self.tasks)

    def validate(self) -> Suite:
        """Refuse, in one sentence, what would fail or mislead later; returns self."""
        for task in self.tasks:
            for split in SPLITS:
                _check_labels(task, self.labels(task, split), self.labels(task, "train"), split)
        return self

    def describe(self) -> dict[str, Any]:
        """What is asked, as plain data: tasks, kinds, labelled rows per split, notes."""
        tasks = []
        for task in self.tasks:
            labelled = {
                s: len(self.labels(task, s)) - self.labels(task, s).null_count for s in SPLITS
            }
            kind = task.kind.fitted(self.labels(task, "train"))
            tasks.append(
                {
                    "name": task.name,
                    "kind": kind.name,
                    "unit": getattr(kind, "unit", None) or None,
                    "metric": kind.primary.name,
                    "higher_is_better": kind.primary.higher_is_better,
                    "metrics": {m.name: m.higher_is_better for m in kind.metrics},
                    "labelled": labelled,
                    "classes": [str(c) for c in getattr(kind, "classes", ())] or None,
                }
            )
        return {
            "name": self.name,
            "source": self.about.get("source", ""),
            "split": self.about.get("split", ""),
            "inputs": len(self.inputs),
            "size": self.size,
            "rows": {s: len(d) for s, d in self.splits.items()},
            "tasks": tasks,
            "notes": list(self.about.get("notes", ())),
        }


def _of_groups(tasks: Sequence[Task], splits: Mapping[str, Dataset]) -> Mapping[str, Dataset]:
    """The rows that the tasks are about: those of their groups, where all are tasks by group."""
    from datasets import Dataset
    from datasets.table import InMemoryTable

    values: dict[str, list[str]] = {}
    for task in tasks:
        if task.where is None:
            return splits
        values.setdefault(task.where[0], []).append(task.where[1])
    ((column, wanted),) = values.items()  # one column makes the tasks of a suite
    kept = {}
    for split, data in splits.items():
        mine = pc.is_in(data.data.column(column), value_set=pa.array(wanted))
        rows = data.data.table.filter(mine)
        kept[split] = data if len(rows) == len(data) else Dataset(InMemoryTable(rows))
    return kept


@dataclass(frozen=True)
class _Built:
    """A table that passed every check, with its split, not yet stored."""

    name: str
    tasks: tuple[Task, ...]
    inputs: tuple[str, ...]
    table: pa.Table
    parts: np.ndarray
    about: dict[str, Any]
    pictures: dict[str, int]
    size: tuple[int, int] | None
    texts: dict[str, bool]

    def batches(self, part: int) -> Iterable[pa.RecordBatch]:
        """The rows of one split, a block at a time, so that storing never doubles the memory."""
        start = 0
        for batch in self.table.to_batches(max_chunksize=65_536):
            mine = self.parts[start : start + batch.num_rows] == part
            start += batch.num_rows
            yield batch.filter(pa.array(mine))


def _build(table: pa.Table, options: dict, splitter: Split | None, targets: Any) -> _Built:
    if table.num_rows == 0:
        raise InputError(f"{options['name']!r} has a header but no rows")
    notes = list(options["notes"])
    wanted = _target_map(targets, table.column_names)
    excluded = options["exclude"]
    by = options["by"]
    for column in [*excluded, *options["inputs"], *([by] if by else [])]:
        if column not in table.column_names:
            raise InputError(
                f"column {column!r} is not in the table{nearest(column, table.column_names)}"
            )
    if isinstance(excluded, Mapping):
        told = "; ".join(f"{c} ({why})" for c, why in excluded.items())
        notes += [f"columns left out: {told}"] if told else []
    table, texts = _with_texts(table, options["inputs"])
    groups = options.get("groups", {})
    tasks = tuple(
        _task(name, column, kind, table, texts, groups.get(name))
        for name, (column, kind) in wanted.items()
    )
    for task in tasks:
        table = _with_target(table, task)
    if texts:
        usable, more = texted.check_texts(table, tasks, options["unreadable"])
        table = table.filter(pa.array(usable))
        notes += more
    pictures = [n for n, role in options["inputs"].items() if role == "picture"]
    channels: dict[str, int] = {}
    size = options["size"]
    if pictures or any(task.kind.dense for task in tasks):
        table, usable, channels, size, more = pictured.check(
            table, pictures, tasks, size, options["unreadable"]
        )
        table = table.filter(pa.array(usable))
        notes += more
    if splitter is None:
        splitter, more = _default_split(table, [*pictures, *texts])
        notes += more
    parts = splitter.assign(table)
    if by:
        table, tasks, more = _by_group(table, by, tasks, parts)
        notes += more
    notes += texted.leaks(table, tasks, parts)
    aside = {task.target for task in tasks} | set(excluded) | {splitter.uses, by}
    if texts:
        aside |= set(table.column_names) - set(options["inputs"])
    table, inputs, more = _inputs(table, aside, options["inputs"])
    if not inputs:
        raise InputError(f"{options['name']!r} has no input columns left besides the targets")
    grouped = [task.where[0] for task in tasks if task.where]
    kept = list(dict.fromkeys([*(task.target for task in tasks), *grouped]))
    table = table.select([*inputs, *kept])
    for task in tasks:
        _check_task(task, table, parts)
    train = pa.array(parts == 0)
    for name in inputs:
        if table[name].null_count and not pc.any(table[name].filter(train).is_valid()).as_py():
            raise InputError(f"column {name!r} has no value at all in the training rows")
    about = {
        "source": options["about"],
        "split": str(splitter),
        "notes": notes + more,
    }
    return _Built(options["name"], tasks, inputs, table, parts, about, channels, size, texts)


def _with_texts(table: pa.Table, roles: Mapping[str, str]) -> tuple[pa.Table, dict[str, bool]]:
    """The table with its text columns as texts or lists of texts, and which of both they are."""
    texts = {}
    for name in (name for name, role in roles.items() if role == "text"):
        values = texted.as_text(name, table[name])
        table = table.set_column(table.column_names.index(name), name, values)
        texts[name] = pa.types.is_list(values.type)
    return table, texts


def _task(
    name: str,
    column: str,
    given: Any,
    table: pa.Table,
    texts: Mapping[str, bool],
    where: tuple[str, str] | None,
) -> Task:
    """The task, with the text columns it reads."""
    read: tuple[str, ...] = ()
    if isinstance(given, Mapping) and "texts" in given:
        asked = given["texts"]
        read = (asked,) if isinstance(asked, str) else tuple(asked)
        given = {k: v for k, v in given.items() if k != "texts"} or None
    for text in read:
        if text not in texts:
            raise InputError(
                f"target {name!r}: {text!r} is no text column{nearest(text, texts)}; say "
                f"inputs={{{text!r}: 'text'}}"
            )
    kind = _infer_kind(name, table[column], given)
    if not texts and isinstance(kind, TextKind):
        raise InputError(
            f"target {name!r}: kind {kind.name!r} is about text; say inputs={{'COLUMN': 'text'}}"
        )
    try:
        read = read or (texted.default_texts(kind, texts) if texts else ())
    except InputError as error:
        raise InputError(f"target {name!r}: {error}") from None
    return Task(name, kind, column, where, read)


def _default_split(table: pa.Table, lookouts: Sequence[str]) -> tuple[Split, list[str]]:
    """Random rows, unless pictures, signals or texts come with a column that says what belongs."""
    if lookouts or any(pa.types.is_fixed_size_list(f.type) for f in table.schema):
        for name in table.column_names:
            values = table[name]
            if name == "split" and set(pc.unique(values).to_pylist()) == set(SPLITS):
                return ColumnSplit(name), []
        for name in table.column_names:
            named = name.lower() in pictured.GROUPS and table[name].null_count == 0
            if named and pc.count_distinct(table[name]).as_py() >= 3:
                note = f"rows of one {name} stay in one split; --split random mixes them"
                return GroupSplit(name), [note]
    return RandomSplit(), []


def _checked_size(size: Any) -> tuple[int, int] | None:
    if size is None:
        return None
    try:
        height, width = (int(n) for n in size)
    except (TypeError, ValueError):
        height = width = 0
    if height < 1 or width < 1:
        raise InputError(f"size is (height, width) in pixels, not {size!r}")
    return height, width


def _dense_columns(targets: Any) -> list[str]:
    """Columns whose cells may be paths of maps."""
    if not isinstance(targets, Mapping):
        return []
    found = []
    for name, spec in targets.items():
        given = spec.get("kind") if isinstance(spec, Mapping) else spec
        kind = given if isinstance(given, Kind) else KINDS.get(str(given))
        if kind is not None and kind.dense:
            found.append(spec.get("column", name) if isinstance(spec, Mapping) else name)
    return found


def _without_folder(spec: Any) -> Any:
    if not isinstance(spec, Mapping):
        return spec
    return {k: v for k, v in spec.items() if k != "folder"}


def _in_memory(built: _Built, fingerprint: str) -> Suite:
    from datasets import Dataset
    from datasets.table import InMemoryTable

    def dataset(part: int) -> Dataset:
        rows = pa.Table.from_batches(built.batches(part), schema=built.table.schema)
        return Dataset(InMemoryTable(rows.combine_chunks()))

    return Suite(
        built.name,
        built.tasks,
        built.inputs,
        {s: dataset(i) for i, s in enumerate(SPLITS)},
        fingerprint,
        built.about,
        built.pictures,
        built.size,
        built.texts,
    )


def _store(built: _Built, folder: Path) -> None:
    """Write aside, then rename: another process sees a whole suite or none."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
    try:
        for part, split in enumerate(SPLITS):
            with pa.ipc.new_stream(str(aside / f"{split}.arrow"), built.table.schema) as writer:
                for batch in built.batches(part):
                    writer.write_batch(batch)
        meta = {
            "name": built.name,
            "tasks": [task.to_dict() for task in built.tasks],
            "inputs": built.inputs,
            "about": built.about,
            "pictures": built.pictures,
            "size": built.size,
            "texts": built.texts,
            "rows": {s: int((built.parts == i).sum()) for i, s in enumerate(SPLITS)},
        }
        (aside / "suite.json").write_text(json.dumps(meta, indent=1))
        try:
            aside.rename(folder)
        except OSError:
            if not (folder / "suite.json").exists():
                raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _target_map(targets: Any, columns: list[str]) -> dict[str, tuple[str, Any]]:
    """Task name -> (column, kind or None)."""
    items = targets if isinstance(targets, Mapping) else dict.fromkeys(targets)
    if not items:
        raise InputError("no target columns were given")
    wanted = {}
    for name, spec in items.items():
        column = name
        if isinstance(spec, Mapping) and "column" in spec:
            column, spec = spec["column"], {k: v for k, v in spec.items() if k != "column"} or None
        if column not in columns:
            raise InputError(f"target {column!r} is not in the table{nearest(column, columns)}")
        wanted[name] = (column, spec)
    return wanted


def _plain_targets(targets: Any) -> Any:
    def plain(spec: Any) -> Any:
        return spec.to_dict() if isinstance(spec, Kind) else spec

    # Pairs, because the order of targets is the order of tasks; a bare list infers every kind.
    items = targets if isinstance(targets, Mapping) else dict.fromkeys(targets)
    return [[name, plain(spec)] for name, spec in items.items()]


def _infer_kind(name: str, labels: pa.ChunkedArray, given: Any) -> Kind:
    if isinstance(given, Kind):
        return given
    if given is not None and not isinstance(given, str | Mapping):
        raise InputError(f"target {name!r}: {given!r} is no kind{nearest(str(given), KINDS)}")
    spec = {"kind": given} if isinstance(given, str) else dict(given or {})
    if "kind" not in spec:
        spec["kind"] = _natural_kind(name, labels)
    if spec["kind"] not in KINDS:
        raise InputError(
            f"target {name!r}: kind {spec['kind']!r} is not known{nearest(spec['kind'], KINDS)}"
        )
    try:
        return kind_from_dict(spec)
    except InputError as error:
        raise InputError(f"target {name!r}: {error}") from None
    except TypeError:
        raise InputError(f"target {name!r}: {spec} has a key its kind does not take") from None


def _natural_kind(name: str, labels: pa.ChunkedArray) -> str:
    if pa.types.is_floating(labels.type) or pa.types.is_decimal(labels.type):
        return Regression.name
    if pa.types.is_integer(labels.type):
        many = pc.count_distinct(labels).as_py() > _MAX_CLASSES_OF_NUMBERS
        return Regression.name if many else Classification.name
    if pa.types.is_string(labels.type) or pa.types.is_boolean(labels.type):
        return Classification.name
    if pa.types.is_null(labels.type):
        raise InputError(f"target {name!r} has no label at all")
    if pa.types.is_list(labels.type):
        raise InputError(f"target {name!r} holds lists: say its kind (boundaries, tags, retrieval)")
    raise InputError(f"target {name!r} has type {labels.type}, for which no kind is known")


def _with_target(table: pa.Table, task: Task) -> pa.Table:
    """The target as its kind reads it: numbers finite or null, classes without NaN."""
    labels = table[task.target]
    if task.kind.dense or (task.kind.text and not isinstance(task.kind, Similarity)):
        return table
    if isinstance(task.kind, Regression | Similarity):
        labels = as_numbers(task.target, labels, "target")
    elif pa.types.is_floating(labels.type):
        labels = _nan_to_null(labels)
    elif not any(is_kind(labels.type) for is_kind in _CLASS_TYPES):
        raise InputError(
            f"target {task.target!r} has type {labels.type}; "
            "classes are text, numbers or true/false"
        )
    index = table.column_names.index(task.target)
    return table.set_column(index, task.target, labels)


def _by_group(
    table: pa.Table, by: str, tasks: tuple[Task, ...], parts: np.ndarray
) -> tuple[pa.Table, tuple[Task, ...], list[str]]:
    """One task per target and value of a column, and what is said of values that make none."""
    if by in {task.target for task in tasks}:
        raise InputError(f"column {by!r} cannot be a target and name the tasks at once")
    if not any(is_kind(table[by].type) for is_kind in _CLASS_TYPES):
        raise InputError(
            f"column {by!r} has type {table[by].type}; tasks are named by text or whole numbers"
        )
    values = pc.cast(table[by], pa.string())
    table = table.set_column(table.column_names.index(by), by, values)
    counts = {c["values"]: c["counts"] for c in pc.value_counts(values.drop_null()).to_pylist()}
    if len(counts) < 2:
        raise InputError(f"column {by!r} has {len(counts)} value; tasks need two or more")
    found, left_out = [], {}
    for value, task in itertools.product(sorted(counts, key=_natural), tasks):
        name = f"{by}={value}" if len(tasks) == 1 else f"{task.name} {by}={value}"
        task = replace(task, name=name, where=(by, value))
        try:
            _check_task(task, table, parts)
        except InputError as reason:
            left_out[name] = f"{name} ({counts[value]} rows: {reason})"
        else:
            found.append(task)
    if not found:
        raise InputError(f"column {by!r} makes no task: {next(iter(left_out.values()))}")
    notes = [f"one task per value of column {by!r}, which is not an input"]
    if values.null_count:
        notes.append(f"{values.null_count} rows without a value of {by!r} belong to no task")
    if left_out:
        shown = "; ".join(list(left_out.values())[:5]) + ("; ..." if len(left_out) > 5 else "")
        many = f"{len(left_out)} tasks are" if len(left_out) > 1 else "1 task is"
        notes.append(f"{many} left out for want of labels: {shown}")
    return table, tuple(found), notes


def _natural(text: str) -> tuple[bool, float, str]:
    """Numbers by size, then words by letter."""
    try:
        return False, float(text), text
    except ValueError:
        return True, 0.0, text


def _check_task(task: Task, table: pa.Table, parts: np.ndarray) -> None:
    labels = task.labels(table)
    train = labels.filter(pa.array(parts == 0))
    for code, split in enumerate(SPLITS):
        _check_labels(task, labels.filter(pa.array(parts == code)), train, split)


def _check_labels(task: Task, labels: pa.ChunkedArray, train: pa.ChunkedArray, split: str) -> None:
    present = labels.drop_null()
    if len(labels) == 0:
        raise InputError(f"split {split!r} has no rows")
    if len(present) == 0:
        raise InputError(f"{task} has no label at all in split {split!r}")
    if task.kind.dense or task.kind.text:
        return
    values = pc.unique(present)
    if len(values) == 1:
        raise InputError(f"{task} has only one value, {values[0].as_py()!r}, in split {split!r}")
    if isinstance(task.kind, Classification) and split != "train":
        unseen = pc.invert(pc.is_in(values, value_set=pc.unique(train)))
        if pc.any(unseen).as_py():
            value = values.filter(unseen)[0].as_py()
            raise InputError(
                f"{task}: class {value!r} occurs in split {split!r} but never in "
                "train; merge or drop it, or split another way"
            )


def _inputs(
    table: pa.Table, aside: set, roles: Mapping[str, str]
) -> tuple[pa.Table, tuple[str, ...], list[str]]:
    """Check every input column and bring it to a number, a category or a fixed-size array."""
    columns: dict[str, pa.ChunkedArray] = {}
    notes: list[str] = []
    for name in table.column_names:
        values = table[name]
        if name in aside:
            columns[name] = values
            continue
        if NO_NAME.fullmatch(name):
            notes.append(f"column {name!r} is left out: it has no name")
            continue
        role = roles.get(name)
        if role not in (None, *_ROLES):
            raise InputError(
                f"column {name!r}: input type {role!r} is not known{nearest(role, _ROLES)}"
            )
        for key, column in _input_columns(name, values, role, notes).items():
            columns[key] = column
    gaps = {
        n: c.null_count
        for n, c in columns.items()
        if n not in aside and roles.get(n) != "text" and c.null_count
    }
    if gaps:
        counts = ", ".join(f"{name} {count}" for name, count in gaps.items())
        notes.append(
            f"missing values (median of the training rows, or a code of their own): {counts}"
        )
    out = pa.table(columns)
    return out, tuple(n for n in out.column_names if n not in aside), notes


def _input_columns(
    name: str, values: pa.ChunkedArray, role: str | None, notes: list[str]
) -> dict[str, pa.ChunkedArray]:
    kind = values.type
    if role == "numeric":
        return {name: as_numbers(name, values, "column")}
    if role == "categorical":
        return {name: pc.cast(values, pa.string())}
    if role in ("picture", "text"):
        return {name: values}
    if pa.types.is_boolean(kind):
        return {name: pc.cast(values, pa.int8())}
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        numbers = as_numbers(name, values, "column")
        if numbers.null_count == len(numbers):
            notes.append(f"column {name!r} is left out: it has no values")
            return {}
        return {name: numbers}
    if pa.types.is_string(kind):
        _refuse_numbers_with_text(name, values)
        distinct = pc.count_distinct(values).as_py()
        if distinct > 1000 and distinct > 0.5 * len(values):
            notes.append(
                f"column {name!r} is left out: nearly every row has its own text (learners of text "
                f"read it as inputs={{{name!r}: 'text'}})"
            )
            return {}
        return {name: values}
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        notes.append(f"column {name!r} is read as day, hour and weekday")
        return expand_moment(name, values)
    if pa.types.is_fixed_size_list(kind):
        flat = values.combine_chunks()
        while pa.types.is_fixed_size_list(flat.type):
            flat = flat.flatten()
        if not (pa.types.is_floating(flat.type) or pa.types.is_integer(flat.type)):
            raise InputError(f"column {name!r} holds arrays of {flat.type}, not of numbers")
        if flat.null_count or (
            pa.types.is_floating(flat.type) and not pc.all(pc.is_finite(flat)).as_py()
        ):
            raise InputError(f"column {name!r} holds an array with a missing or infinite number")
        return {name: values}
    if pa.types.is_null(kind):
        notes.append(f"column {name!r} is left out: it has no values")
        return {}
    if pa.types.is_binary(kind) or pa.types.is_struct(kind):
        raise InputError(
            f"column {name!r} has type {kind}; if it holds pictures, say so: "
            f"inputs={{{name!r}: 'picture'}}, or exclude it"
        )
    raise InputError(f"column {name!r} has type {kind}, which cannot be an input; exclude it")


def expand_moment(name: str, values: pa.ChunkedArray) -> dict[str, pa.ChunkedArray]:
    """A date or time as numbers: days since 1970 (with fraction), hour, weekday (Monday = 0)."""
    try:
        moment = pc.cast(values, pa.timestamp("s"), safe=False)
    except pa.ArrowException as error:
        raise InputError(f"column {name!r} holds no dates or times: {error}") from None
    return {
        f"{name}.day": pc.divide(pc.cast(pc.cast(moment, pa.int64()), pa.float64()), 86_400.0),
        f"{name}.hour": pc.hour(moment),
        f"{name}.weekday": pc.day_of_week(moment),
    }


def _nan_to_null(values: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.if_else(pc.is_nan(values), pa.scalar(None, values.type), values)


def as_numbers(name: str, values: pa.ChunkedArray, what: str) -> pa.ChunkedArray:
    """Numbers with NaN as null; text or infinity is refused by name."""
    if pa.types.is_string(values.type):
        bad = pc.and_(pc.is_valid(values), pc.invert(_looks_numeric(values)))
        if pc.any(bad).as_py():
            row = pc.index(bad, True).as_py()
            raise InputError(
                f"{what} {name!r} holds text in a number column: {values[row].as_py()!r} in "
                f"data row {row + 1}"
            )
        values = pc.cast(values, pa.float64())
    if any(is_kind(values.type) for is_kind in _NUMBERS_BESIDE):
        values = pc.cast(values, pa.float64())
    if pa.types.is_floating(values.type):
        infinite = pc.is_inf(values)
        if pc.any(infinite).as_py():
            row = pc.index(infinite, True).as_py()
            raise InputError(f"{what} {name!r} holds an infinite number in data row {row + 1}")
        if pc.any(pc.is_nan(values)).as_py():
            values = _nan_to_null(values)
    elif not pa.types.is_integer(values.type):
        raise InputError(f"{what} {name!r} has type {values.type}; a number is needed")
    return values


def _looks_numeric(values: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.match_substring_regex(values, r"^\s*[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?\s*$")


def _refuse_numbers_with_text(name: str, values: pa.ChunkedArray) -> None:
    numeric = _looks_numeric(values)
    share = pc.mean(pc.cast(numeric, pa.float64())).as_py() or 0.0
    if _MOSTLY_NUMBERS <= share < 1.0:
        row = pc.index(numeric, False).as_py()
        raise InputError(
            f"column {name!r} holds text in a number column: {values[row].as_py()!r} in data row "
            f"{row + 1}; mend it, or declare the column categorical"
        )


def _public(value: Any) -> list[Any]:
    return [str(getattr(value, "fractions", "")), str(getattr(value, "seed", ""))]


def _hash_file(path: Path, options: dict) -> str:
    seed = json.dumps(options, sort_keys=True, default=str).encode()
    digest = hashlib.blake2b(seed, digest_size=16)
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


class _HashSink:
    """A file that keeps nothing but a hash of what was written."""

    closed = False

    def __init__(self, seed: bytes) -> None:
        self.digest = hashlib.blake2b(seed, digest_size=16)

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        return len(data)


def _hash_table(table: pa.Table, options: dict) -> str:
    sink = _HashSink(json.dumps(options, sort_keys=True, default=str).encode())
    with pa.ipc.new_stream(pa.PythonFile(sink, mode="w"), table.schema) as writer:
        for start in range(0, table.num_rows, _HASHED_ROWS):
            # However the table came in chunks, equal rows make equal blocks.
            writer.write_table(table.slice(start, _HASHED_ROWS).combine_chunks())
    return sink.digest.hexdigest()
