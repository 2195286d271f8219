"""Folders of tensors and data: written whole or not at all, refused when they are not whole."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from polytask.data import store
from polytask.data.store import flatten, read_folder, unflatten, write_folder
from polytask.errors import InputError


def write(folder: Path, value: float = 1.0) -> None:
    write_folder(folder, data={"config": {"value": value}}, tensors={"w": torch.full((3,), value)})


def scraps(folder: Path) -> list[str]:
    return [p.name for p in folder.parent.iterdir() if p.name.startswith(".")]


def test_what_is_written_is_read(tmp_path: Path) -> None:
    write(tmp_path / "deep" / "model", 2.5)
    data, tensors = read_folder(tmp_path / "deep" / "model")
    assert data == {"config": {"value": 2.5}}
    assert tensors["w"].tolist() == [2.5] * 3


def test_a_folder_of_ours_is_replaced(tmp_path: Path) -> None:
    write(tmp_path / "model", 1.0)
    write(tmp_path / "model", 2.0)
    assert read_folder(tmp_path / "model")[0]["config"]["value"] == 2.0
    assert scraps(tmp_path / "model") == []


def test_a_folder_of_somebody_else_is_not(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="was not written by polytask"):
        write(tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize("name", ["weights.safetensors", "config.json", "manifest.json"])
def test_a_cut_file_is_named(tmp_path: Path, name: str) -> None:
    write(tmp_path / "model")
    path = tmp_path / "model" / name
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(InputError, match=f"{name}.* is damaged or truncated"):
        read_folder(tmp_path / "model")


@pytest.mark.parametrize("name", ["weights.safetensors", "config.json"])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    write(tmp_path / "model")
    (tmp_path / "model" / name).unlink()
    with pytest.raises(InputError, match=f"lacks its file '{name}'"):
        read_folder(tmp_path / "model")


def test_a_folder_without_manifest_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "model")
    (tmp_path / "model" / "manifest.json").unlink()
    with pytest.raises(InputError, match=r"has no manifest\.json: it is not a polytask folder"):
        read_folder(tmp_path / "model")


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"'.*nowhere' does not exist"):
        read_folder(tmp_path / "nowhere")


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "model")
    manifest = tmp_path / "model" / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"format": 7}))
    with pytest.raises(InputError, match=r"newer polytask \(format 7.*upgrade polytask"):
        read_folder(tmp_path / "model")


@pytest.mark.parametrize("where", ["save_file", "write_text", "fsync", "rename"])
def test_a_full_disk_leaves_the_old_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    import safetensors.torch

    write(tmp_path / "model", 1.0)

    def full(*args: Any, **options: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        owner: Any = {"save_file": safetensors.torch, "fsync": store.os}.get(where, Path)
        patch.setattr(owner, where, full)
        with pytest.raises(InputError, match="No space left on device; what was there is untouch"):
            write(tmp_path / "model", 2.0)
    assert read_folder(tmp_path / "model")[0]["config"]["value"] == 1.0
    assert scraps(tmp_path / "model") == []


def test_a_real_limit_on_file_size(tmp_path: Path) -> None:
    """The kernel refuses the write; safetensors reports it in a class of its own."""
    import resource
    import signal

    write(tmp_path / "model", 1.0)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limit[1]))
    try:
        with pytest.raises(InputError, match="what was there is untouched"):
            write_folder(tmp_path / "model", data={}, tensors={"w": torch.zeros(100_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, handler)
    assert read_folder(tmp_path / "model")[0]["config"]["value"] == 1.0
    assert scraps(tmp_path / "model") == []


def test_a_parent_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot write to '.*model'"):
        write(tmp_path / "file" / "model")


PLAIN = st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.text(max_size=5)
NUMBERS = st.floats(allow_nan=False)
TENSORS = st.lists(NUMBERS, max_size=3).map(lambda x: torch.tensor(x, dtype=torch.float64))
NESTED = st.recursive(
    PLAIN | NUMBERS | TENSORS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(NESTED)
def test_nested_state_survives_json(value: Any) -> None:
    skeleton, tensors = flatten(value)
    found = unflatten(json.loads(json.dumps(skeleton)), tensors)
    assert _plain(found) == _plain(value)


def test_numbers_as_keys_survive() -> None:
    skeleton, tensors = flatten({"state": {0: {"step": torch.tensor(3.0)}, 1: {}}})
    found = unflatten(json.loads(json.dumps(skeleton)), tensors)
    assert list(found["state"]) == [0, 1] and found["state"][0]["step"] == 3


def _plain(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return ["tensor", value.tolist()]
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, list) else value
