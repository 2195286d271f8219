"""Retrieval: an index of candidate vectors, searched exactly, and a second look at what it finds.

The index holds vectors and knows no model. What it is searched with is any score of queries and
candidates: the inner product, or the ``against`` of a head in ``parts.pairs``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Self

import torch
from torch import Tensor

from polytask.data.store import read_folder, write_folder
from polytask.errors import InputError

_BLOCK = 512  # candidates scored at a time: what a head makes of them stays near the processor

Score = Callable[[Tensor, Tensor], Tensor]  # queries [Q, d], candidates [m, d] -> [Q, m]


def inner_product(queries: Tensor, candidates: Tensor) -> Tensor:
    """``[Q, d]``, ``[m, d]`` -> ``[Q, m]``."""
    return queries @ candidates.T


class Found(NamedTuple):
    """Per query the best candidates, best first: their scores ``[Q, k]`` and rows ``[Q, k]``."""

    scores: Tensor
    rows: Tensor


class Index:
    """Vectors of candidates, encoded once and searched as often as wanted.

    Args:
        vectors: ``[M, d]``; float16 halves the memory, scores are taken in float32 either way.
        texts: what was encoded, one text per vector, for those who show or rescore what is found.
        model: names the weights that made the vectors, so that no others are searched with.
    """

    def __init__(self, vectors: Tensor, texts: Sequence[str] = (), model: str = "") -> None:
        if vectors.ndim != 2 or not len(vectors):
            raise InputError(f"an index needs vectors [M, d], not {list(vectors.shape)}")
        if texts and len(texts) != len(vectors):
            raise InputError(f"an index of {len(vectors)} vectors got {len(texts)} texts")
        self.vectors, self.texts, self.model = vectors, tuple(texts), model

    def __len__(self) -> int:
        return len(self.vectors)

    @torch.inference_mode()
    def scores(self, queries: Tensor, score: Score = inner_product) -> Tensor:
        """Every query with every candidate: queries ``[Q, d]`` -> ``[Q, M]``.

        A score of several outputs gives ``[Q, M, outputs]``.
        """
        return torch.cat([part for _, part in self._blocks(queries, score)], dim=1)

    @torch.inference_mode()
    def search(self, queries: Tensor, k: int, score: Score = inner_product) -> Found:
        """The k candidates of the highest score for each query (all, if there are fewer).

        Memory is that of one block of scores, so many queries at once are fine.
        """
        if k < 1:
            raise InputError(f"k is {k}; at least 1 candidate must be asked for")
        best = Found(queries.new_empty(len(queries), 0), queries.new_empty(len(queries), 0).long())
        for start, part in self._blocks(queries, score):
            rows = torch.arange(start, start + part.shape[1]).expand_as(part)
            both = Found(torch.cat([best.scores, part], 1), torch.cat([best.rows, rows], 1))
            best = _top(both, k)
        return best

    def _blocks(self, queries: Tensor, score: Score) -> Iterator[tuple[int, Tensor]]:
        if queries.ndim != 2 or queries.shape[1] != self.vectors.shape[1]:
            raise InputError(
                f"queries of shape {list(queries.shape)} cannot search vectors of "
                f"{self.vectors.shape[1]} numbers; give [Q, {self.vectors.shape[1]}]"
            )
        for start in range(0, len(self), _BLOCK):
            block = self.vectors[start : start + _BLOCK].to(queries.dtype)
            yield start, score(queries, block)

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Vectors and texts in one folder; no pickle."""
        data = {"index": {"model": self.model, "texts": list(self.texts)}}
        write_folder(folder, data=data, tensors={"vectors": self.vectors})

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Self:
        data, tensors = read_folder(folder)
        if "index" not in data or "vectors" not in tensors:
            raise InputError(f"folder {str(folder)!r} holds no index")
        return cls(tensors["vectors"], data["index"]["texts"], data["index"]["model"])


def rescored(found: Found, judge: Callable[[int, Tensor], Tensor]) -> Found:
    """What a cheap score found, in the order of a dear one.

    Args:
        found: candidates per query.
        judge: ``judge(query, rows [n]) -> scores [n]``, asked once for each query.
    """
    scores = torch.stack([judge(i, rows) for i, rows in enumerate(found.rows)])
    return _top(Found(scores, found.rows), found.rows.shape[1])


def _top(found: Found, k: int) -> Found:
    scores, at = found.scores.topk(min(k, found.scores.shape[1]), dim=1)
    return Found(scores, found.rows.gather(1, at))
