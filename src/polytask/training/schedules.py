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


@dataclass(frozen=True)
class Linear:
    """From 0 to 1 over the share ``warmup`` of all updates, then straight down to 0."""

    warmup: float = 0.1

    def __post_init__(self) -> None:
        if not 0 <= self.warmup < 1:
            raise InputError(f"schedule linear: warmup is a share below 1, not {self.warmup}")

    def __call__(self, steps: int, per_epoch: int, total: int) -> float:
        rise = self.warmup * total
        if steps < rise:
            return (steps + 1) / (rise + 1)
        return max(0.0, (total - steps) / max(1.0, total - rise))


@dataclass(frozen=True)
class InverseSqrt:
    """``min(i / w, sqrt(w / i))`` at update i: up over w updates, then down (arXiv 1706.03762)."""

    warmup: int = 800

    def __post_init__(self) -> None:
        if self.warmup < 1:
            raise InputError(f"schedule inverse_sqrt: warmup is at least 1, not {self.warmup}")

    def __call__(self, steps: int, per_epoch: int, total: int) -> float:
        i = steps + 1
        return min(i / self.warmup, math.sqrt(self.warmup / i))


SCHEDULES: dict[str, Callable[..., Schedule]] = {
    "constant": Constant,
    "cosine": Cosine,
    "poly": Poly,
    "halving": Halving,
    "linear": Linear,
    "inverse_sqrt": InverseSqrt,
}


def as_schedule(text: str) -> Schedule:
    """A schedule from its text: ``"cosine"``, ``"poly(power=0.9)"``, ``"halving(every=8)"``."""
    return parse_call(text, SCHEDULES, "training.schedule")
