"""Heads: any column name is a task's name."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from polytask.parts.heads import Heads


@pytest.mark.parametrize("name", ["type", "values", "price.usd", "price%2Eusd", "", "größe in m²"])
def test_any_name_will_do(name: str) -> None:
    head = nn.Linear(2, 1)
    heads = Heads({name: head, "other": nn.Linear(2, 1)})
    assert heads[name] is head
    assert name in heads
    assert "absent" not in heads
    assert len(list(heads.parameters())) == 4


def test_like_names_stay_apart() -> None:
    names = ["a.b", "a%2Eb", "a%252Eb"]
    heads = Heads({name: nn.Linear(1, 1) for name in names})
    assert len({id(heads[name]) for name in names}) == 3


def test_an_absent_task_is_a_key_error() -> None:
    with pytest.raises(KeyError):
        Heads({"a": nn.Linear(1, 1)})["b"]


def test_weights_come_back_by_name() -> None:
    first, second = (Heads({"keys": nn.Linear(2, 1), "a.b": nn.Linear(2, 3)}) for _ in range(2))
    second.load_state_dict(first.state_dict())
    x = torch.randn(4, 2)
    torch.testing.assert_close(second["a.b"](x), first["a.b"](x))
