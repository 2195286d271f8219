"""The one signal of a suite as channels over time, each window scaled on its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from polytask.data import Batch, Processor, Suite
from polytask.errors import InputError, nearest
from polytask.training import NeuralLearner

Scale = Literal["zscore", "minmax", "none"]
Layout = Literal["LC", "CL"]


@dataclass(frozen=True)
class Signal:
    """Which column is the signal, and how a network reads it.

    Attributes:
        column, channels, samples: the column and the shape of a window.
        layout: ``"LC"`` for arrays [samples, channels], ``"CL"`` for [channels, samples]; an array
            [samples] is one channel in both.
        scale: see ``scaled``.
    """

    column: str
    channels: int
    samples: int
    layout: Layout
    scale: Scale

    @classmethod
    def of(cls, spec: Processor, layout: Layout, scale: Scale) -> Signal:
        """The signal of a suite.

        Raises:
            InputError: an unknown layout or scale, no signal or more inputs than it, arrays that
                have more channels than samples.
        """
        for name, value, kind in (("layout", layout, Layout), ("scale", scale, Scale)):
            if value not in get_args(kind):
                raise InputError(f"{name} is {value!r}{nearest(value, get_args(kind))}")
        signals = {name: a.shape for name, a in spec.arrays.items() if len(a.shape) in (1, 2)}
        others = [name for name in spec.input_names if name not in signals]
        if len(signals) != 1 or others:
            found = ", ".join(repr(name) for name in (*signals, *others))
            raise InputError(
                "a model of signals reads one column of arrays [samples, channels] and nothing "
                f"else; this suite has {found}: exclude what is not the signal"
            )
        ((column, shape),) = signals.items()
        samples, channels = (*shape, 1)[:2] if layout == "LC" or len(shape) == 1 else shape[::-1]
        if channels > samples:
            other = "CL" if layout == "LC" else "LC"
            raise InputError(
                f"column {column!r} read as layout {layout!r} has {channels} channels of {samples} "
                f"samples; set layout={other!r} if it is the other way round"
            )
        return cls(column, channels, samples, layout, scale)

    def __call__(self, inputs: dict[str, Tensor]) -> Tensor:
        """The signals of encoded rows, [B, channels, samples]."""
        return scaled(self._channels_first(inputs), self.scale)

    def check(self, inputs: dict[str, Tensor], where: str = "") -> None:
        """Refuse what the scale has no answer for: with min-max, a channel that does not move."""
        if self.scale != "minmax":
            return
        x = self._channels_first(inputs)
        still = (x.amax(-1) == x.amin(-1)).nonzero()
        if len(still):
            row, channel = still[0].tolist()
            raise InputError(
                f"column {self.column!r}: channel {channel} is constant in row {row + 1}{where}, "
                "which scale='minmax' cannot bring to [0, 1]; drop the row or set scale='zscore'"
            )

    def _channels_first(self, inputs: dict[str, Tensor]) -> Tensor:
        x = inputs[self.column]
        if x.ndim == 2:
            return x.unsqueeze(1)
        return x.transpose(1, 2) if self.layout == "LC" else x


def scaled(x: Tensor, scale: Scale) -> Tensor:
    """Each row and channel of [B, C, L] on its own: z-score, to [0, 1], or as it is.

    A constant channel becomes 0.
    """
    if scale == "zscore":
        centred = x - x.mean(-1, keepdim=True)
        return centred / centred.square().mean(-1, keepdim=True).sqrt().clamp(min=1e-6)
    if scale == "minmax":
        low, high = torch.aminmax(x, dim=-1, keepdim=True)
        return (x - low) / (high - low).clamp(min=1e-6)
    return x


@dataclass
class SignalLearner(NeuralLearner):
    """A network that reads windows of one signal.

    Attributes:
        scale: each window and channel by z-score, to [0, 1] (``"minmax"``, which refuses a
            constant channel), or not at all (``"none"``).
        layout: ``"LC"`` for arrays [samples, channels], ``"CL"`` for [channels, samples].
    """

    scale: Scale = "zscore"
    layout: Layout = "LC"

    def validate(self, suite: Suite) -> None:
        super().validate(suite)
        processor = Processor.fit(suite)
        signal = Signal.of(processor, self.layout, self.scale)
        for split in suite.splits if self.scale == "minmax" else ():
            signal.check(processor.encode(suite, split).inputs, f" of {split}")

    def _decoded(self, batch: Batch, tasks: Sequence[str]) -> dict[str, np.ndarray]:
        Signal.of(self._fitted(), self.layout, self.scale).check(batch.inputs)
        return super()._decoded(batch, tasks)
