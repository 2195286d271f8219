"""Pair features and heads: one formula, two routes."""

from __future__ import annotations

import pytest
import torch

from polytask.errors import InputError
from polytask.parts.pairs import ALL, DotHead, PairHead, as_pair_head, pair_features

WIDTH = 6


def vectors(rows: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, WIDTH, generator=torch.Generator().manual_seed(seed)).double()


def test_features_by_hand() -> None:
    u, v = torch.tensor([[1.0, -2.0]]), torch.tensor([[3.0, 4.0]])
    assert pair_features(u, v).tolist() == [[1, -2, 3, 4, 3, -8, 2, 6]]
    assert pair_features(u, v, ("u", "v", "|u-v|")).tolist() == [[1, -2, 3, 4, 2, 6]]
    assert pair_features(u, v, ("|u-v|", "u")).tolist() == [[2, 6, 1, -2]]


def test_a_sentence_with_itself() -> None:
    u = vectors(4)
    wanted = torch.cat([u, u, u.square(), torch.zeros_like(u)], 1)
    assert torch.equal(pair_features(u, u), wanted)


def test_one_sentence_with_many() -> None:
    u, v = vectors(1), vectors(5, seed=1)
    repeated = pair_features(u.expand(5, -1), v)
    assert torch.equal(pair_features(u, v), repeated)
    assert pair_features(v[:, None], vectors(3)[None]).shape == (5, 3, 4 * WIDTH)


@pytest.mark.parametrize("parts", [ALL, ("u", "v", "|u-v|"), ("u*v",), ("|u-v|",), ("u", "v")])
@pytest.mark.parametrize("hidden", [(8,), (8, 5), ()])
def test_the_split_first_layer_equals_the_full_one(parts, hidden) -> None:
    torch.manual_seed(0)
    head = PairHead(WIDTH, 3, hidden, parts).double()
    queries, candidates = vectors(4), vectors(7, seed=1)
    joint = head(queries[:, None].expand(-1, 7, -1), candidates[None].expand(4, -1, -1))
    torch.testing.assert_close(head.against(queries, candidates), joint, rtol=0, atol=1e-12)


@pytest.mark.parametrize("hidden", [(), (5,)])
def test_dot_head_against_many_equals_pair_by_pair(hidden) -> None:
    torch.manual_seed(0)
    head = DotHead(WIDTH, 2, hidden).double()
    queries, candidates = vectors(4), vectors(7, seed=1)
    joint = head(queries[:, None], candidates[None])
    torch.testing.assert_close(head.against(queries, candidates), joint, rtol=0, atol=1e-12)


def test_the_plain_dot_head_starts_as_the_scaled_inner_product() -> None:
    u, v = vectors(3), vectors(3, seed=1)
    wanted = (u * v).sum(1, keepdim=True) / WIDTH**0.5
    torch.testing.assert_close(DotHead(WIDTH, 1).double()(u, v), wanted)


def test_paper_scale() -> None:
    """BERT-large: four layers of 1024 side by side, 16,384 features, 512 hidden units."""
    with torch.device("meta"):
        head = PairHead(4096, 1)
    assert head.first.in_features == 16_384
    assert sum(p.numel() for p in head.parameters()) == 16_384 * 512 + 512 + 512 + 1


def test_wrong_features_are_refused() -> None:
    with pytest.raises(InputError, match="'u-v'"):
        PairHead(WIDTH, 1, parts=("u", "u-v"))
    with pytest.raises(InputError, match="each once"):
        PairHead(WIDTH, 1, parts=("u", "u"))


def test_heads_by_their_text() -> None:
    assert as_pair_head("mlp")(WIDTH, 3).first.out_features == 512
    head = as_pair_head("mlp(hidden=[8, 4], parts=['u*v'])")(WIDTH, 3)
    assert isinstance(head, PairHead) and (head.parts, head.first.out_features) == (("u*v",), 8)
    assert isinstance(as_pair_head("dot")(WIDTH, 1), DotHead)
    with pytest.raises(InputError, match="'cosine'"):
        as_pair_head("cosine")
