"""Measures of embedding spaces on spaces that are known."""

from __future__ import annotations

import math

import pytest
import torch

from polytask.errors import InputError
from polytask.parts.embedding_space import describe, token_cosine


def test_an_even_space_uses_every_direction() -> None:
    space = describe(torch.eye(6).repeat(3, 1))
    assert space.rank == 6
    assert space.entropy == pytest.approx(1)
    assert space.effective_rank == pytest.approx(6)
    assert space.condition == pytest.approx(1)


def test_singular_values_say_it_all() -> None:
    torch.manual_seed(0)
    u, _ = torch.linalg.qr(torch.randn(20, 3))
    v, _ = torch.linalg.qr(torch.randn(3, 3))
    space = describe(u @ torch.diag(torch.tensor([4.0, 2.0, 2.0])) @ v)
    entropy = -(0.5 * math.log(0.5) + 2 * 0.25 * math.log(0.25))
    assert space.rank == 3
    assert space.effective_rank == pytest.approx(math.exp(entropy), rel=1e-5)
    assert space.entropy == pytest.approx(entropy / math.log(3), rel=1e-5)
    assert space.condition == pytest.approx(2, rel=1e-5)


def test_one_direction_is_no_space() -> None:
    space = describe(torch.outer(torch.rand(9), torch.rand(4)))
    assert space.rank == 1 and space.entropy == pytest.approx(0, abs=1e-6)
    assert space.effective_rank == pytest.approx(1) and space.condition == math.inf
    for wrong in (torch.zeros(4, 3), torch.rand(5), torch.rand(1, 3)):
        with pytest.raises(InputError):
            describe(wrong)


def test_token_cosine_is_the_mean_over_pairs_of_tokens() -> None:
    states = torch.randn(2, 5, 4)
    mask = torch.tensor([[True] * 5, [True, True, True, False, False]])
    unit = torch.nn.functional.normalize(states, dim=-1)
    expected = [
        (unit[b, :n] @ unit[b, :n].T)[~torch.eye(n, dtype=torch.bool)].mean()
        for b, n in ((0, 5), (1, 3))
    ]
    torch.testing.assert_close(token_cosine(states, mask).float(), torch.stack(expected))
    assert token_cosine(torch.ones(1, 3, 4), mask[1:, :3]).item() == pytest.approx(1)
