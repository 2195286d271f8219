"""1-D convolutions: the plain network for windows of signals.

Source: fully convolutional network, Wang et al., "Time Series Classification from Scratch with
    Deep Neural Networks", arXiv 1611.06455: blocks of convolution, batch norm and ReLU, a mean over
    time, a linear layer per task. Strides are added, which a long window needs.
Year: 2017
Domain: signals
Parts: signals, heads
For: the baseline beside every model of signals
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor, nn

from polytask.data import Processor, Suite
from polytask.errors import InputError
from polytask.parts.heads import Heads
from polytask.parts.signals import Signal, SignalLearner
from polytask.training import MultiTaskModule, Training


class CNN1dNet(MultiTaskModule):
    """Convolutions over time for all tasks, a linear head for each."""

    has_feature = True

    def __init__(self, spec: Processor, config: CNN1d) -> None:
        super().__init__(spec.tasks)
        self.signal = Signal.of(spec, config.layout, config.scale)
        layers: list[nn.Module] = []
        width = self.signal.channels
        for out, kernel in zip(config.widths, config.kernels, strict=True):
            padding = kernel // 2
            layers += [
                nn.Conv1d(width, out, kernel, stride=config.stride, padding=padding, bias=False),
                nn.BatchNorm1d(out),
                nn.ReLU(),
            ]
            width = out
        self.trunk = nn.Sequential(*layers)
        self.heads = Heads({t.name: nn.Linear(width, t.kind.outputs) for t in spec.tasks})

    def represent(self, inputs: dict[str, Tensor], tasks: Iterable[str]) -> Tensor:
        return self.trunk(self.signal(inputs)).mean(-1)

    def answer(self, representation: Tensor, task: str) -> Tensor:
        return self.heads[task](representation)


@dataclass
class CNN1d(SignalLearner):
    """Convolutions with batch norm, a mean over time, a linear head per task.

    Attributes:
        widths, kernels: of each convolution, in order.
        stride: of each convolution.
    """

    widths: tuple[int, ...] = (128, 256, 128)
    kernels: tuple[int, ...] = (8, 5, 3)
    stride: int = 2
    training: Training = field(
        default_factory=lambda: Training(lr=1e-3, batch=64, epochs=50, patience=10)
    )

    id: ClassVar[str] = "cnn1d"

    def validate(self, suite: Suite) -> None:
        super().validate(suite)
        if len(self.widths) != len(self.kernels) or not self.widths:
            raise InputError(
                f"widths and kernels name the same convolutions, but there are {len(self.widths)} "
                f"and {len(self.kernels)}"
            )

    def build(self, spec: Processor) -> CNN1dNet:
        return CNN1dNet(spec, self)
