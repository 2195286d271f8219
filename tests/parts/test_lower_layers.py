"""What is frozen in encoders of several families."""

from __future__ import annotations

import pytest
import torch
from transformers import BertConfig, BertModel, DistilBertConfig, DistilBertModel

from polytask.errors import InputError
from polytask.parts.lower_layers import freeze_lower

SMALL = {"vocab_size": 20, "max_position_embeddings": 8}


def bert() -> torch.nn.Module:
    shape = {"hidden_size": 8, "num_hidden_layers": 3, "num_attention_heads": 2}
    return BertModel(BertConfig(**SMALL, **shape, intermediate_size=8))


def distilbert() -> torch.nn.Module:
    return DistilBertModel(DistilBertConfig(**SMALL, dim=8, n_layers=3, n_heads=2, hidden_dim=8))


def frozen(net: torch.nn.Module) -> set[str]:
    return {name for name, p in net.named_parameters() if not p.requires_grad}


@pytest.mark.parametrize("make", [bert, distilbert])
def test_embeddings_and_the_first_layers(make) -> None:
    for layers in range(4):
        net = make()
        freeze_lower(net, layers)
        wanted = {n for n, _ in net.named_parameters() if n.startswith("embeddings")}
        for layer in range(layers):
            wanted |= {n for n, _ in net.named_parameters() if f"layer.{layer}." in n}
        assert frozen(net) == wanted
        assert wanted


def test_nothing_is_frozen_unless_asked() -> None:
    net = bert()
    freeze_lower(net, -1)
    assert not frozen(net)


def test_more_layers_than_there_are() -> None:
    with pytest.raises(InputError, match="3 layers"):
        freeze_lower(bert(), 4)
