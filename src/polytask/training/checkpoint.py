"""Checkpoints: everything a fit needs to go on as if it had never stopped."""

from __future__ import annotations

import random
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from polytask.data.store import flatten, read_folder, unflatten, write_folder
from polytask.errors import InputError

_KEEP = 2


class Checkpoints:
    """A folder of numbered checkpoints; the newest two are kept, damaged ones are passed over."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def save(self, number: int, state: Mapping[str, Any]) -> None:
        skeleton, tensors = flatten(state)
        write_folder(
            self.folder / f"{number:09d}", data={"state": skeleton}, tensors=_unshared(tensors)
        )
        for old in self._numbered()[:-_KEEP]:
            shutil.rmtree(old, ignore_errors=True)

    def latest(self) -> tuple[dict[str, Any] | None, list[str]]:
        """The newest whole state (None if there is none) and a sentence per damaged one."""
        problems = []
        for path in reversed(self._numbered()):
            try:
                data, tensors = read_folder(path)
                return unflatten(data["state"], tensors), problems
            except InputError as error:
                problems.append(f"{error}; the checkpoint before it is used")
        if problems:
            raise InputError(f"no whole checkpoint is left in {str(self.folder)!r}: {problems[0]}")
        return None, problems

    def _numbered(self) -> list[Path]:
        if not self.folder.is_dir():
            return []
        return sorted(p for p in self.folder.iterdir() if p.name.isdigit())


def _unshared(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    # safetensors refuses two names for one memory (tied weights, best == current).
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


def random_state() -> dict[str, Any]:
    """The state of every generator a fit draws from."""
    version, numbers, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state()
    state: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        "python": [version, list(numbers), gauss],
        "numpy": [name, keys.tolist(), position, has_gauss, cached],
    }
    if torch.cuda.is_initialized():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def restore_random_state(state: Mapping[str, Any]) -> None:
    torch.set_rng_state(state["torch"])
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    np.random.set_state(tuple(state["numpy"]))
    if "cuda" in state:
        torch.cuda.set_rng_state_all(state["cuda"])
