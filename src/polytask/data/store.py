"""Atomic, checked folders of tensors and plain data: no pickle, a version, a hash for each file."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from polytask.errors import InputError

FORMAT = 1
_MANIFEST = "manifest.json"


class DamagedError(InputError):
    """A folder is not what was written: a file is missing, cut short or changed."""


def write_folder(
    folder: str | os.PathLike[str],
    *,
    data: Mapping[str, Any],
    tensors: Mapping[str, Tensor] | None = None,
    files: Path | None = None,
) -> None:
    """Write ``data`` (one JSON file per key) and ``tensors`` (``weights.safetensors``) atomically.

    All that lies in the directory ``files`` is copied beside them, folders and all.

    Everything goes to a folder beside, reaches the disk, and is renamed into place last; what was
    there before survives any failure (disk full, kill) before that rename.
    """
    from safetensors.torch import save_file

    folder = Path(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
    except OSError as error:
        raise InputError(f"cannot write to {str(folder)!r}: {error.strerror}") from None
    try:
        if files:
            shutil.copytree(files, aside, dirs_exist_ok=True)
        for name, value in data.items():
            (aside / f"{name}.json").write_text(json.dumps(value, indent=1))
        if tensors:
            plain = {k: v.detach().contiguous().cpu() for k, v in tensors.items()}
            save_file(plain, aside / "weights.safetensors")
        written = sorted(p for p in aside.rglob("*") if p.is_file())
        hashes = {p.relative_to(aside).as_posix(): _hash(p) for p in written}
        (aside / _MANIFEST).write_text(json.dumps({"format": FORMAT, "files": hashes}, indent=1))
        for path in [*aside.rglob("*"), aside]:
            _sync(path)
        _swap(aside, folder)
        _sync(folder.parent)
    except OSError as error:
        raise InputError(
            f"cannot write {str(folder)!r}: {error.strerror or error}; what was there is untouched"
        ) from None
    except Exception as error:
        if type(error).__name__ == "SafetensorError":  # its own class for I/O errors
            raise InputError(
                f"cannot write {str(folder)!r}: {error}; what was there is untouched"
            ) from None
        raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _swap(aside: Path, folder: Path) -> None:
    if folder.exists():
        if any(folder.iterdir()) and not (folder / _MANIFEST).exists():
            raise InputError(
                f"{str(folder)!r} exists and was not written by polytask; choose another folder"
            )
        old = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-old-"))
        try:
            folder.rename(old / "old")
            try:
                aside.rename(folder)
            except OSError:
                (old / "old").rename(folder)
                raise
        except OSError:
            with contextlib.suppress(OSError):  # never empties it
                old.rmdir()
            raise
        shutil.rmtree(old, ignore_errors=True)
    else:
        aside.rename(folder)


def read_folder(folder: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """(data, tensors) of a folder, every file checked against the manifest."""
    from safetensors.torch import load_file

    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"folder {str(folder)!r} does not exist")
    manifest = _manifest(folder)
    for name, digest in manifest["files"].items():
        path = folder / name
        if not path.exists():
            raise DamagedError(f"{str(folder)!r} lacks its file {name!r}")
        if _hash(path) != digest:
            raise DamagedError(f"file {str(path)!r} is damaged or truncated")
    data: dict[str, Any] = {}
    tensors: dict[str, Tensor] = {}
    for name in manifest["files"]:
        if name == "weights.safetensors":
            tensors = load_file(folder / name)
        elif name.endswith(".json") and "/" not in name:
            data[name.removesuffix(".json")] = json.loads((folder / name).read_text())
    return data, tensors


def _manifest(folder: Path) -> dict[str, Any]:
    path = folder / _MANIFEST
    if not path.exists():
        raise DamagedError(f"{str(folder)!r} has no {_MANIFEST}: it is not a polytask folder")
    try:
        manifest = json.loads(path.read_text())
    except json.JSONDecodeError:
        raise DamagedError(f"file {str(path)!r} is damaged or truncated") from None
    if manifest.get("format", 0) > FORMAT:
        raise InputError(
            f"{str(folder)!r} was written by a newer polytask (format {manifest['format']}, this "
            f"one reads up to {FORMAT}); upgrade polytask"
        )
    return manifest


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()


def flatten(value: Any, prefix: str = "") -> tuple[Any, dict[str, Tensor]]:
    """Nested dicts and lists with tensors -> (plain JSON skeleton, tensors by path)."""
    if isinstance(value, Tensor):
        return {"__tensor__": prefix}, {prefix: value}
    if isinstance(value, Mapping):
        skeleton: list[list[Any]] = []
        tensors: dict[str, Tensor] = {}
        for key, item in value.items():
            inner, found = flatten(item, f"{prefix}/{key}")
            skeleton.append([key, inner])
            tensors |= found
        return {"__dict__": skeleton}, tensors
    if isinstance(value, list | tuple):
        pairs = [flatten(item, f"{prefix}/{i}") for i, item in enumerate(value)]
        tensors = {k: v for _, found in pairs for k, v in found.items()}
        return {"__list__": [inner for inner, _ in pairs]}, tensors
    return value, {}


def unflatten(skeleton: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The inverse of ``flatten`` (tuples come back as lists)."""
    if isinstance(skeleton, dict):
        if "__tensor__" in skeleton:
            return torch.as_tensor(tensors[skeleton["__tensor__"]])
        if "__dict__" in skeleton:
            return {key: unflatten(item, tensors) for key, item in skeleton["__dict__"]}
        return [unflatten(item, tensors) for item in skeleton["__list__"]]
    return skeleton
