"""Checkpoints: everything a fit needs to go on as if it had never stopped."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from polytask.data.store import DamagedError, flatten, read_folder, unflatten, write_folder
from polytask.errors import InputError

_KEEP = 2


class Checkpoints:
    """A folder of numbered checkpoints of one run; the newest two are kept.

    Args:
        folder: belongs to the checkpoints alone.
        run: names settings and data; a checkpoint of another run is refused.
    """

    def __init__(self, folder: str | Path, run: str = "") -> None:
        self.folder, self.run = Path(folder), run

    def save(self, number: int, state: Mapping[str, Any]) -> None:
        skeleton, tensors = flatten(state)
        write_folder(
            self.folder / f"{number:09d}",
            data={"state": skeleton, "run": self.run},
            tensors=_unshared(tensors),
        )
        whole = self._numbered()[-_KEEP:]
        for path in self.folder.iterdir():
            if path not in whole:  # older ones, and what a killed process left half written
                shutil.rmtree(path, ignore_errors=True)

    def latest(self) -> tuple[dict[str, Any] | None, list[str]]:
        """The newest whole state (None if there is none) and a sentence per damaged one."""
        damaged: dict[Path, DamagedError] = {}
        for path in reversed(self._numbered()):
            try:
                data, tensors = read_folder(path)
            except DamagedError as error:
                damaged[path] = error
                continue
            if data["run"] != self.run:
                raise InputError(
                    f"{str(self.folder.parent)!r} holds a run with other settings or data; give "
                    "another output folder, or delete this one to start anew"
                )
            for bad in damaged:  # else they would stand before newer whole ones
                shutil.rmtree(bad)
            told = [f"{e}; the checkpoint before it is used" for e in damaged.values()]
            return unflatten(data["state"], tensors), told
        if damaged:
            newest = next(iter(damaged.values()))
            raise InputError(
                f"no whole checkpoint is left: {newest}; delete {str(self.folder)!r} to start anew"
            )
        return None, []

    def _numbered(self) -> list[Path]:
        if not self.folder.is_dir():
            return []
        return sorted(p for p in self.folder.iterdir() if p.name.isdigit())


def _unshared(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    # safetensors refuses two names for one memory (tied weights, best == current).
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


def moved(state: Any, device: torch.device) -> Any:
    """Nested state with every tensor on a device (``load_state_dict`` moves only parameters)."""
    if isinstance(state, torch.Tensor):
        return state.to(device)
    if isinstance(state, Mapping):
        return {k: moved(v, device) for k, v in state.items()}
    if isinstance(state, list | tuple):
        return [moved(v, device) for v in state]
    return state
