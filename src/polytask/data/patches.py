"""Patches: a mixture whose batches are random crops of one picture."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from polytask.data.batch import Rows
from polytask.data.mixtures import Draw
from polytask.errors import InputError


@dataclass(frozen=True)
class Patches:
    """All rows of a batch are views of the same ``images`` rows; an epoch sees every row once.

    Row ``r + j * len(data)`` stands for the j-th view of row r: another random crop, if rows are
    augmented. So a batch of 8 with one image is 8 crops of that image, as Abuolaim et al. (WACV
    2022) train, and an epoch has as many updates as there are images.

    Attributes:
        images: pictures per batch; the batch size is a multiple of it.
    """

    images: int = 1

    def __post_init__(self) -> None:
        if self.images < 1:
            raise InputError(f"mixture patches: images is at least 1, not {self.images}")

    def draws(self, data: Rows, size: int, seed: int, epoch: int) -> Iterator[Draw]:
        if size % self.images:
            raise InputError(
                f"mixture patches: a batch of {size} cannot be shared by {self.images} images alike"
            )
        generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
        order = torch.randperm(len(data), generator=generator)
        images = min(self.images, len(order))
        view = torch.arange(size // self.images) * len(data)
        for start in range(0, len(order) - images + 1, images):
            yield Draw((order[start : start + images, None] + view).flatten(), None)

    def check(self, tasks: Sequence[str]) -> None:
        """Any tasks will do."""

    def __str__(self) -> str:
        return f"patches(images={self.images})"
