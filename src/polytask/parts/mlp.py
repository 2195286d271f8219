"""Multi-layer perceptron and the small-normal initialisation of tabular networks."""

from collections.abc import Callable, Sequence

import torch
from torch import nn


class MLP(nn.Sequential):
    """(Linear - activation - dropout) per hidden width, then an optional output Linear.

    Args:
        in_features: Width of the input's last dimension.
        hidden: Width of each hidden layer, in order; may be empty.
        out_features: Width of the final Linear; without it the last hidden layer is the output.
        dropout: Probability of dropping a hidden unit in training.
        activation: Makes the activation module of each hidden layer.

    Shapes: [..., in_features] -> [..., self.out_features].
    """

    def __init__(
        self,
        in_features: int,
        hidden: Sequence[int],
        out_features: int | None = None,
        dropout: float = 0.0,
        activation: Callable[[], nn.Module] = nn.ReLU,
    ) -> None:
        layers: list[nn.Module] = []
        width = in_features
        for size in hidden:
            layers += [nn.Linear(width, size), activation(), nn.Dropout(dropout)]
            width = size
        if out_features is not None:
            layers.append(nn.Linear(width, out_features))
            width = out_features
        super().__init__(*layers)
        self.out_features = width


@torch.no_grad()
def init_normal(module: nn.Module, std: float = 0.01) -> None:
    """Draw every weight of `module` from N(0, std^2) and set every bias to 0.

    Weights are the parameters with two or more dimensions; gains of normalisation layers have
    one and keep their 1. Source: MultiTab (arXiv 2511.09970), which uses std = 0.01 everywhere.
    """
    for name, parameter in module.named_parameters():
        if name.endswith("bias"):
            parameter.zero_()
        elif parameter.dim() > 1:
            parameter.normal_(std=std)
