"""Pictures and maps of a suite: found in folders, and checked before anything is fitted."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from polytask.data.files import read_table
from polytask.data.lazy import cells
from polytask.errors import InputError, nearest
from polytask.tasks import Task
from polytask.tasks.dense import DenseKind
from polytask.tasks.maps import Size, open_cell

Unreadable = Literal["refuse", "skip"]

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".npy"}
# A column of this name says which rows belong together: no plant or person is in two splits.
GROUPS = ("plant", "plant_id", "video", "scene", "sequence", "subject", "patient", "recording")
_PARTS = {"train": "train", "validation": "validation", "val": "validation", "test": "test"}
_SHOWN = 3


def resolved(table: pa.Table, columns: Sequence[str], base: Path) -> pa.Table:
    """Paths in some columns, made absolute; relative ones are seen from ``base``."""
    for name in columns:
        if pa.types.is_string(table[name].type):
            paths = [
                None if p is None else str((base / p).resolve()) for p in table[name].to_pylist()
            ]
            at = table.column_names.index(name)
            table = table.set_column(at, name, pa.array(paths, pa.string()))
    return table


def stamps(table: pa.Table, columns: Sequence[str]) -> list[Any]:
    """Size and time of every file that some columns name: what a hash of the table must cover."""
    found: list[Any] = []
    for name in columns:
        if pa.types.is_string(table[name].type):
            for path in table[name].drop_null().to_pylist():
                try:
                    status = Path(path).stat()
                    found.append([path, status.st_size, status.st_mtime_ns])
                except OSError:
                    found.append([path, None, None])
    return found


def check(
    table: pa.Table,
    pictures: Sequence[str],
    tasks: Sequence[Task],
    size: Size | None,
    unreadable: Unreadable,
) -> tuple[pa.Table, NDArray[np.bool_], dict[str, int], Size, list[str]]:
    """Read every picture and map once.

    Returns:
        the table, with maps that have no label anywhere as nulls; which rows can be used; picture
        column -> channels; the size all are brought to; notes for people.

    Raises:
        InputError: names row and file of a picture that is missing, damaged, of another number of
            channels or (without ``size``) of another size, and of a map that does not fit its
            picture or holds a value that is no class.
    """
    if unreadable not in ("refuse", "skip"):
        raise InputError(f"unreadable is {unreadable!r}; it may be 'refuse' or 'skip'")
    dense = [task for task in tasks if isinstance(task.kind, DenseKind)]
    if dense and not pictures:
        raise InputError(
            f"{dense[0]} is a map, but no input is a picture: inputs={{'COLUMN': 'picture'}}"
        )
    for name in [*pictures, *(task.target for task in dense)]:
        _check_type(name, table[name].type)
    names = [*pictures, *(task.target for task in dense)]
    columns = {n: (cells(table[n]), table[n].is_valid().to_numpy()) for n in names}

    def look(row: int) -> _Seen:
        return _look(row, columns, pictures, dense)

    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        seen = list(pool.map(look, range(table.num_rows)))
    good = [s for s in seen if not s.error]
    if unreadable == "refuse" or not good:
        for s in seen:
            if s.error:
                raise InputError(s.error + ("" if good else "; no row can be used"))
    channels = {n: good[0].shapes[n][1] for n in pictures}
    wanted = size or good[0].shapes[pictures[0]][0]
    for s in good:
        for name, ((height, width), depth) in s.shapes.items():
            where = f"column {name!r}, data row {s.row + 1}: the picture"
            if depth != channels[name]:
                raise InputError(f"{where} has {depth} channels, the others have {channels[name]}")
            if size is None and (height, width) != wanted:
                raise InputError(
                    f"{where} is {height} x {width}, the first one is {wanted[0]} x {wanted[1]}; "
                    "give size=(height, width) to bring all to one size"
                )
    notes = []
    usable = np.array([not s.error for s in seen])
    if not usable.all():
        errors = [s.error for s in seen if s.error]
        shown = "; ".join(errors[:_SHOWN]) + ("; ..." if len(errors) > _SHOWN else "")
        notes.append(f"{len(errors)} rows are left out: {shown}")
    for task in dense:
        empty = np.array([task.name in s.empty for s in seen])
        if empty.any():
            notes.append(f"{int(empty.sum())} maps of {task.target!r} have no label anywhere")
            at = table.column_names.index(task.target)
            column = _without(table[task.target], empty)
            table = table.set_column(at, task.target, column)
    return table, usable, channels, wanted, notes


class _Seen:
    """What one row's pictures and maps turned out to be."""

    def __init__(self, row: int) -> None:
        self.row = row
        self.error = ""
        self.shapes: dict[str, tuple[Size, int]] = {}
        self.empty: set[str] = set()


def _look(
    row: int, columns: Mapping[str, Any], pictures: Sequence[str], dense: Sequence[Task]
) -> _Seen:
    seen = _Seen(row)
    name = ""
    try:
        for name in pictures:
            cell, valid = columns[name]
            if not valid[row]:
                raise InputError("there is no picture")
            seen.shapes[name] = shape(open_cell(cell(row)))
        for task in dense:
            name = task.target
            cell, valid = columns[name]
            if valid[row]:
                _look_at_map(seen, task, cell(row), seen.shapes[pictures[0]][0])
    except InputError as error:
        seen.error = f"column {name!r}, data row {row + 1}: {error}"
    return seen


def _look_at_map(seen: _Seen, task: Task, cell: Any, wanted: Size) -> None:
    assert isinstance(task.kind, DenseKind)
    values = task.kind.read(cell, None)
    if values.shape[-2:] != wanted:
        height, width = values.shape[-2:]
        raise InputError(
            f"the map is {height} x {width}, its picture {wanted[0]} x {wanted[1]} (height x width)"
        )
    if not task.kind.labelled(values):
        seen.empty.add(task.name)


def shape(values: NDArray) -> tuple[Size, int]:
    """(height, width), channels of a picture ``[H, W]`` or ``[H, W, C]``."""
    if values.ndim == 2:
        return values.shape, 1
    if values.ndim == 3 and values.shape[2] <= 16:
        return values.shape[:2], values.shape[2]
    raise InputError(f"a picture is [height, width, channels], this one has shape {values.shape}")


def _check_type(name: str, kind: pa.DataType) -> None:
    fits = (
        pa.types.is_string,
        pa.types.is_binary,
        pa.types.is_large_binary,
        pa.types.is_struct,
        pa.types.is_fixed_size_list,
    )
    if not any(is_kind(kind) for is_kind in fits):
        raise InputError(
            f"column {name!r} has type {kind}; pictures and maps are files, bytes or arrays"
        )


def _without(column: pa.ChunkedArray, empty: NDArray[np.bool_]) -> pa.ChunkedArray:
    """The column with nulls where a map has no label."""
    rows = np.where(empty, -1, np.arange(len(column)))
    return column.take(pa.array(rows, mask=rows < 0))


# -- folders ---------------------------------------------------------------------------------------


def read_folder(
    folder: Path, targets: Mapping[str, Any], images: str
) -> tuple[pa.Table, list[str]]:
    """A folder of pictures as a table.

    Either ``images/`` (or what ``images`` names), a folder per map and a table file lie in it, or
    these lie in ``train/``, ``validation/`` (or ``val/``) and ``test/``. Files belong together by
    their stems. Of the table file the column that names the pictures is found by its values.

    Returns:
        the table: ``image`` (paths), a column of paths per target that has a folder, the columns of
        the table file, and ``split`` if there are such folders; names of the table file's columns.
    """
    if not folder.is_dir():
        raise InputError(f"{str(folder)!r} is not a folder")
    parts = [p for p in sorted(folder.iterdir()) if p.is_dir() and p.name in _PARTS]
    found = [
        _one_folder(part, targets, images, _PARTS.get(part.name) if parts else None)
        for part in parts or [folder]
    ]
    table = pa.concat_tables([t for t, _ in found], promote_options="permissive")
    own = {"image", *(["split"] if parts else []), *(name for _, names in found for name in names)}
    return table, [n for n in table.column_names if n not in own]


def _one_folder(
    folder: Path, targets: Mapping[str, Any], images: str, split: str | None
) -> tuple[pa.Table, list[str]]:
    pictures = _by_stem(folder / images)
    columns: dict[str, Any] = {"image": [str(path) for path in pictures.values()]}
    maps = []
    for name, spec in targets.items():
        place = folder / (spec.get("folder", name) if isinstance(spec, Mapping) else name)
        if place.is_dir():
            files = _by_stem(place)
            stray = sorted(set(files) - set(pictures))
            if stray:
                raise InputError(f"{str(files[stray[0]])!r} belongs to no picture of that name")
            columns[name] = pa.array(
                [str(files[s]) if s in files else None for s in pictures], pa.string()
            )
            maps.append(name)
    if split:
        columns["split"] = [split] * len(pictures)
    table = pa.table(columns)
    labels = [p for p in sorted(folder.iterdir()) if p.suffix in (".csv", ".tsv", ".parquet")]
    if len(labels) > 1:
        raise InputError(f"folder {str(folder)!r} has {len(labels)} table files; leave one")
    return (_beside(table, pictures, labels[0]) if labels else table), maps


def _by_stem(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        raise InputError(f"there is no folder {str(folder)!r}")
    files = {p.stem: p.resolve() for p in sorted(folder.iterdir()) if p.suffix.lower() in SUFFIXES}
    if not files:
        raise InputError(f"folder {str(folder)!r} holds no picture")
    return files


def _beside(table: pa.Table, pictures: Mapping[str, Path], path: Path) -> pa.Table:
    """The columns of a table file in the order of the pictures, nulls where it has no row."""
    labels = read_table(path)
    stems = list(pictures)
    for name in labels.column_names:
        if not pa.types.is_string(labels[name].type):
            continue
        keys = [None if v is None else Path(v).stem for v in labels[name].to_pylist()]
        known = set(stems) & set(keys)
        if known and len(known) >= 0.5 * len({k for k in keys if k}):
            break
    else:
        raise InputError(f"file {str(path)!r} has no column that names the pictures")
    counts = Counter(keys)
    twice = {key for key in known if counts[key] > 1}
    if twice:
        raise InputError(f"file {str(path)!r} names picture {sorted(twice)[0]!r} more than once")
    lost = sorted(set(filter(None, keys)) - known)
    if lost:
        raise InputError(
            f"file {str(path)!r} names picture {lost[0]!r}, which is not there"
            f"{nearest(lost[0], stems)}"
        )
    position = {key: row for row, key in enumerate(keys)}
    rows = pa.array([position.get(stem) for stem in stems], pa.int64())
    more = labels.drop_columns([name]).take(rows)
    for clash in set(more.column_names) & set(table.column_names):
        raise InputError(f"column {clash!r} of file {str(path)!r} is also the name of a folder")
    return pa.table(
        {**{n: table[n] for n in table.column_names}, **{n: more[n] for n in more.column_names}}
    )


def listed(source: str | os.PathLike[str], column: str) -> pa.Table | None:
    """One picture or a folder of them as a table of paths; None if it is neither."""
    path = Path(source)
    if path.is_dir():
        files = list(_by_stem(path).values())
    elif path.suffix.lower() in SUFFIXES - {".npy"}:
        files = [path]
    else:
        return None
    return pa.table({column: pa.array([str(f) for f in files])})
