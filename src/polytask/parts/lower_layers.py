"""Lower layers of a pretrained encoder that keep their weights.

A frozen layer costs a forward pass only, and frozen embeddings save the optimiser the largest
matrix of a small encoder.
"""

from __future__ import annotations

import re

from torch import nn

from polytask.errors import InputError

_LAYER = re.compile(r"(?:^|\.)(?:layers?|h|block)\.(\d+)\.")


def freeze_lower(net: nn.Module, layers: int) -> None:
    """Freeze the embeddings and the first ``layers`` layers of a transformers encoder.

    Args:
        layers: how many; -1 freezes nothing, 0 the embeddings alone.
    """
    if layers < 0:
        return
    places = {name: _LAYER.search(name) for name, _ in net.named_parameters()}
    depth = 1 + max((int(found[1]) for found in places.values() if found), default=-1)
    if layers > depth:
        raise InputError(f"frozen={layers}, but the encoder has {depth} layers")
    for name, parameter in net.named_parameters():
        found = places[name]
        if int(found[1]) < layers if found else "embed" in name:
            parameter.requires_grad_(False)
