"""The index against a full sort, block borders and folders included."""

from __future__ import annotations

import json

import pytest
import torch

from polytask.errors import InputError
from polytask.parts import retrieval
from polytask.parts.pairs import PairHead
from polytask.parts.retrieval import Found, Index, rescored


def vectors(rows: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, 5, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(params=[3, 7, 1000])
def block(request, monkeypatch) -> int:
    monkeypatch.setattr(retrieval, "_BLOCK", request.param)
    return request.param


@pytest.mark.parametrize("k", [1, 4, 20, 99])
def test_search_equals_a_full_sort(block: int, k: int) -> None:
    candidates, queries = vectors(20), vectors(6, seed=1)
    found = Index(candidates).search(queries, k)
    wanted = (queries @ candidates.T).sort(dim=1, descending=True)
    assert torch.equal(found.rows, wanted.indices[:, :k])
    torch.testing.assert_close(found.scores, wanted.values[:, :k])
    assert found.rows.shape == (6, min(k, 20))


def test_any_score_may_search(block: int) -> None:
    torch.manual_seed(0)
    head = PairHead(5, 1, (8,))
    candidates, queries = vectors(20), vectors(3, seed=1)

    def score(q: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        return head.against(q, c).squeeze(-1)

    index = Index(candidates)
    joint = head(queries[:, None], candidates[None]).squeeze(-1)
    torch.testing.assert_close(index.scores(queries, score), joint, rtol=0, atol=1e-6)
    assert torch.equal(index.search(queries, 1, score).rows.squeeze(1), joint.argmax(1))


def test_half_precision_keeps_the_order_of_distant_scores() -> None:
    candidates = torch.arange(1.0, 9.0).unsqueeze(1).expand(-1, 5) / 8
    found = Index(candidates.half()).search(torch.ones(1, 5), 8)
    assert found.rows.tolist() == [[7, 6, 5, 4, 3, 2, 1, 0]]
    assert found.scores.dtype == torch.float32


def test_a_second_look_orders_anew_within_what_was_found() -> None:
    found = Found(torch.tensor([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0]]), torch.tensor([[4, 0, 2]] * 2))
    asked = []

    def judge(query: int, rows: torch.Tensor) -> torch.Tensor:
        asked.append((query, rows.tolist()))
        return rows.float() if query else -rows.float()

    again = rescored(found, judge)
    assert asked == [(0, [4, 0, 2]), (1, [4, 0, 2])]
    assert again.rows.tolist() == [[0, 2, 4], [4, 2, 0]]
    assert again.scores.tolist() == [[0, -2, -4], [4, 2, 0]]


def test_saved_and_loaded(tmp_path) -> None:
    index = Index(vectors(4).half(), ["a", "b", "c", "d"], model="m")
    index.save(tmp_path / "index")
    again = Index.load(tmp_path / "index")
    assert torch.equal(again.vectors, index.vectors) and again.vectors.dtype == torch.float16
    assert (again.texts, again.model) == (("a", "b", "c", "d"), "m")
    assert {p.suffix for p in (tmp_path / "index").iterdir()} == {".json", ".safetensors"}


def test_what_is_no_index_is_refused(tmp_path) -> None:
    retrieval.write_folder(tmp_path / "other", data={"config": {}})
    with pytest.raises(InputError, match="holds no index"):
        Index.load(tmp_path / "other")
    Index(vectors(4)).save(tmp_path / "index")
    damaged = tmp_path / "index" / "index.json"
    damaged.write_text(json.dumps({"model": "x", "texts": []}))
    with pytest.raises(InputError, match="damaged"):
        Index.load(tmp_path / "index")


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(InputError, match=r"vectors \[M, d\]"):
        Index(torch.ones(3))
    with pytest.raises(InputError, match="2 texts"):
        Index(vectors(3), ["a", "b"])
    with pytest.raises(InputError, match=r"\[Q, 5\]"):
        Index(vectors(3)).search(torch.ones(1, 4), 1)
    with pytest.raises(InputError, match="k is 0"):
        Index(vectors(3)).search(torch.ones(1, 5), 0)
