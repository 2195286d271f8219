"""Schedules: the learning rate over a fit, as a factor of ``training.lr``."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from polytask.config import parse_call
from polytask.errors import InputError


class Schedule(Protocol):
    """The factor after ``steps`` of ``total`` updates, ``per_epoch`` of which make an epoch."""

    def __call__(self, steps: int, per_epoch: int, total: int) -> float: ...


@dataclass(frozen=True)
class Constant:
    """1 throughout."""

    def __call__(self, steps: int, per_epoch: int, total: int) -> float:
        return 1.0


@dataclass(frozen=True)
class Cosine:
    """``(1 + cos(pi s / S)) / 2``: from 1 to 0."""

    def __call__(self, steps: int, per_epoch: int, total: int) -> float:
        return 0.5 * (1 + math.cos(math.pi * steps / total))


@dataclass(frozen=True)
class Poly:
    """``(1 - s / S) ** power``: from 1 to 0."""

    power: float = 0.9

    def __call__(self, steps: int, per_epoch: int, total: int) -> float:
        return max(0.0, 1 - steps / total) ** self.power


@dataclass(frozen=True)
class Halving:
    """Half as much after every so many epochs."""

    every: int = 8

    def __post_init__(self) -> None:
        if self.every < 1:
            raise InputError(f"schedule halving: every is at least 1 epoch, not {self.every}")

    def __call__(self, steps: int, per_epoch: int, total: int) -> float:
        return 0.5 ** (steps // (per_epoch * self.every))


SCHEDULES: dict[str, Callable[..., Schedule]] = {
    "constant": Constant,
    "cosine": Cosine,
    "poly": Poly,
    "halving": Halving,
}


def as_schedule(text: str) -> Schedule:
    """A schedule from its text: ``"cosine"``, ``"poly(power=0.9)"``, ``"halving(every=8)"``."""
    return parse_call(text, SCHEDULES, "training.schedule")
