"""Batch: encoded rows as tensors; the whole training set is just a large one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """Encoded rows.

    Attributes:
        inputs: name -> tensor with the rows first; ``numeric`` ``[B, n]`` float32, ``categorical``
            ``[B, c]`` int64, and one entry ``[B, *shape]`` per array column.
        targets: task -> ``[B]``; where the mask is False the value is a placeholder.
        masks: task -> bool ``[B]``, True where the row has a label.
    """

    inputs: dict[str, Tensor]
    targets: dict[str, Tensor]
    masks: dict[str, Tensor]

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values())))

    def __getitem__(self, rows: Tensor | slice) -> Batch:
        return self._map(lambda tensor: tensor[rows])

    def to(self, device: torch.device | str) -> Batch:
        return self._map(lambda tensor: tensor.to(device, non_blocking=True))

    def only(self, tasks: Iterable[str]) -> Batch:
        """The same rows with the labels of some tasks."""
        names = list(tasks)
        return replace(
            self,
            targets={t: self.targets[t] for t in names},
            masks={t: self.masks[t] for t in names},
        )

    def matrix(self) -> NDArray[np.float64]:
        """All inputs side by side ``[B, columns]``: numbers, category codes, arrays flattened."""
        flat = [t.numpy().reshape(len(self), -1) for t in self.inputs.values()]
        return np.concatenate(flat, axis=1, dtype=np.float64)

    @property
    def counts(self) -> dict[str, int]:
        """Task -> number of labelled rows."""
        return {task: int(mask.sum()) for task, mask in self.masks.items()}

    def _map(self, change) -> Batch:  # type: ignore[no-untyped-def]
        return Batch(
            {k: change(v) for k, v in self.inputs.items()},
            {k: change(v) for k, v in self.targets.items()},
            {k: change(v) for k, v in self.masks.items()},
        )
