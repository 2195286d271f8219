"""Pairs: what two sentence vectors tell together, and heads that read it.

Source: h = [u; v; u*v; |u-v|] with a small MLP: Barkan et al., "Scalable Attentive Sentence-Pair
Modeling via Distilled Sentence Embedding", AAAI 2020; [u; v; |u-v|]: InferSent (Conneau et al.,
EMNLP 2017) and Sentence-BERT (Reimers & Gurevych, EMNLP 2019).

A head here answers in two ways that agree: ``head(u, v)`` for rows of pairs, and
``head.against(queries, candidates)`` for every query with every candidate.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from polytask.config import parse_call
from polytask.errors import InputError, nearest
from polytask.parts.mlp import MLP

PAIR_FEATURES = {
    "u": lambda u, v: u,
    "v": lambda u, v: v,
    "u*v": torch.mul,
    "|u-v|": lambda u, v: (u - v).abs(),
}
ALL = tuple(PAIR_FEATURES)


def pair_features(u: Tensor, v: Tensor, parts: Sequence[str] = ALL) -> Tensor:
    """h(u, v): the named parts side by side.

    Args:
        u, v: ``[..., d]``; leading dimensions of 1 are repeated.
        parts: some of ``u``, ``v``, ``u*v``, ``|u-v|``, in the order wanted.

    Returns:
        ``[..., len(parts) * d]``.
    """
    u, v = torch.broadcast_tensors(u, v)
    return torch.cat([PAIR_FEATURES[part](u, v) for part in parts], dim=-1)


class PairHead(nn.Module):
    """An MLP on the features of a pair: ``MLP(h(u, v))``.

    Against many candidates its first layer is split, one weight ``[hidden, d]`` per part:

        W h = (W_v + W_p diag(u)) v + W_d |u - v| + W_u u

    The bracket is one matrix per query, so a candidate costs two products of size hidden x d and
    nothing of it but v has to be kept.

    Args:
        width: d of both vectors.
        outputs: width of the answer.
        hidden: layers between; none makes the head linear.
        parts: which features it reads, see ``pair_features``.

    Shapes: u, v ``[..., d]`` -> ``[..., outputs]``.
    """

    def __init__(
        self, width: int, outputs: int, hidden: Sequence[int] = (512,), parts: Sequence[str] = ALL
    ) -> None:
        super().__init__()
        for part in parts:
            if part not in PAIR_FEATURES:
                raise InputError(f"pair feature {part!r} is not known{nearest(part, ALL)}")
        if not parts or len(set(parts)) < len(parts):
            raise InputError(f"pair features {tuple(parts)} must be some of {ALL}, each once")
        self.width, self.parts = width, tuple(parts)
        widths = (*hidden, outputs)
        self.first = nn.Linear(len(self.parts) * width, widths[0])
        rest = [nn.ReLU(), MLP(widths[0], widths[1:-1], outputs)] if hidden else []
        self.rest = nn.Sequential(*rest)

    def forward(self, u: Tensor, v: Tensor) -> Tensor:
        return self.rest(self.first(pair_features(u, v, self.parts)))

    def against(self, queries: Tensor, candidates: Tensor) -> Tensor:
        """Queries ``[Q, d]`` with candidates ``[M, d]`` -> ``[Q, M, outputs]``."""
        return torch.stack([self.rest(self._first(u, candidates)) for u in queries])

    def _first(self, u: Tensor, candidates: Tensor) -> Tensor:
        """The first layer of one query with every candidate ``[M, hidden]``."""
        split = self.first.weight.split(self.width, dim=1)
        weight = dict(zip(self.parts, split, strict=True))
        constant = self.first.bias
        if "u" in weight:
            constant = constant + weight["u"] @ u
        out = constant.expand(len(candidates), -1)
        if folded := [w for w in (weight.get("v"), _scaled(weight.get("u*v"), u)) if w is not None]:
            out = torch.addmm(out, candidates, sum(folded[1:], folded[0]).T)
        if "|u-v|" in weight:
            out = torch.addmm(out, (candidates - u).abs_(), weight["|u-v|"].T)
        return out


def _scaled(weight: Tensor | None, u: Tensor) -> Tensor | None:
    """W diag(u)."""
    return None if weight is None else weight * u


class DotHead(nn.Module):
    """A function of the inner product alone: ``MLP(u . v / sqrt(d))``.

    Without ``hidden`` layers each output is ``a * (u . v) / sqrt(d) + b``, so candidates may stand
    in any index of inner products. The scale keeps the first scores near 1 at any width.

    Shapes: u, v ``[..., d]`` -> ``[..., outputs]``.
    """

    def __init__(self, width: int, outputs: int, hidden: Sequence[int] = ()) -> None:
        super().__init__()
        self.width = width
        self.layers: nn.Module = MLP(1, hidden, outputs)
        if not hidden:
            self.layers = line = nn.Linear(1, outputs)
            nn.init.ones_(line.weight)
            nn.init.zeros_(line.bias)

    def forward(self, u: Tensor, v: Tensor) -> Tensor:
        return self._answer((u * v).sum(-1))

    def against(self, queries: Tensor, candidates: Tensor) -> Tensor:
        """Queries ``[Q, d]`` with candidates ``[M, d]`` -> ``[Q, M, outputs]``."""
        return self._answer(queries @ candidates.T)

    def _answer(self, product: Tensor) -> Tensor:
        return self.layers(product.unsqueeze(-1) / self.width**0.5)


PairHeads = Callable[[int, int], PairHead | DotHead]  # width, outputs -> a head


def _mlp(hidden: Sequence[int] = (512,), parts: Sequence[str] = ALL) -> PairHeads:
    return partial(PairHead, hidden=hidden, parts=parts)


def _dot(hidden: Sequence[int] = ()) -> PairHeads:
    return partial(DotHead, hidden=hidden)


def as_pair_head(text: str) -> PairHeads:
    """What makes heads: ``"mlp"``, ``"mlp(hidden=[512], parts=['u*v', '|u-v|'])"``, ``"dot"``."""
    return parse_call(text, {"mlp": _mlp, "dot": _dot}, "head")
