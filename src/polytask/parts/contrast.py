"""Contrastive losses: in-batch InfoNCE, and many positives with hard negatives; over all processes.

Sources: van den Oord et al. (arXiv 1807.03748) for InfoNCE; CoDiEmb (2025) for the positives that
are never each other's negatives.

With s = cosine / τ, queries q_b and the slots of their own texts, positives p_1..p_m and negatives
n_1..n_k, the candidates of positive slot j are those of *every* query of the batch:

    C_j = {p_j^b} ∪ {n_i^b},    CE_bj = -log( exp s(q_b, p_j^b) / Σ_{c in C_j} exp s(q_b, c) )
    L = mean over b of the mean over b's positives j of CE_bj

**Several processes.** Each holds some rows of one batch. ``gather`` brings the rows of all of them
together, and its gradient returns to where a row came from. A loss here is the mean over the
process's own rows; the mean of these over processes, weighed by their numbers of rows, is the loss
of the whole batch, and so are the gradients once they are summed.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F


class Gathered(NamedTuple):
    """Rows of all processes ``[N, ...]``, the own ones from row ``start``."""

    rows: Tensor
    start: int


def gather(rows: Tensor) -> Gathered:
    """The rows ``[B, ...]`` of all processes in the order of their ranks, with gradients.

    Processes may hold different numbers of rows, even none. All of them must call it together, and
    pass backward through it together. One process alone gets its own tensor back.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return Gathered(rows, 0)
    sizes = rows.new_zeros(dist.get_world_size(), dtype=torch.long)
    sizes[dist.get_rank()] = len(rows)
    dist.all_reduce(sizes)
    counts = sizes.tolist()
    return Gathered(_Gather.apply(rows, counts), sum(counts[: dist.get_rank()]))


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, counts: list[int]) -> Tensor:
        ctx.counts = counts
        # One fixed shape for the message: the shares of a batch differ by a row.
        sent = rows.new_zeros((max(counts), *rows.shape[1:]))
        sent[: len(rows)] = rows
        got = [torch.empty_like(sent) for _ in counts]
        dist.all_gather(got, sent)
        return torch.cat([part[:n] for part, n in zip(got, counts, strict=True)])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        total = gradient.contiguous().clone()
        dist.all_reduce(total)
        return total.split(ctx.counts)[dist.get_rank()], None


def multi_positive(
    queries: Tensor,
    positives: Tensor,
    negatives: Tensor,
    *,
    temperature: float,
    has_positive: Tensor | None = None,
    has_negative: Tensor | None = None,
    over_processes: bool = True,
) -> Tensor:
    """The loss at the head of this file.

    Args:
        queries: unit vectors ``[B, d]``.
        positives, negatives: unit vectors ``[B, m, d]`` and ``[B, k, d]``; k may be 0.
        temperature: τ.
        has_positive, has_negative: bool ``[B, m]`` and ``[B, k]``, False where a slot is empty: it
            is nobody's candidate. A query without a positive adds 0. Left out, all are filled.
        over_processes: candidates are those of all processes.
    """
    m, d = positives.shape[1], queries.shape[1]
    slots = torch.cat([positives, negatives], dim=1)
    filled = torch.cat(
        [
            _filled(has_positive, positives),
            _filled(has_negative, negatives),
        ],
        dim=1,
    )
    sent = torch.cat([slots, filled.unsqueeze(-1).to(slots.dtype)], dim=-1)
    every, start = gather(sent) if over_processes else Gathered(sent, 0)
    scores = torch.einsum("bd,nsd->bsn", queries, every[..., :d]) / temperature
    scores = scores.masked_fill(every[..., d].T.unsqueeze(0) == 0, float("-inf"))
    own = torch.arange(len(queries), device=queries.device)
    hit = scores[own, :m, start + own]
    rivals = torch.cat([scores[:, :m], scores[:, m:].flatten(1).unsqueeze(1).expand(-1, m, -1)], 2)
    has = filled[:, :m]
    # An empty slot is -inf itself; it is left out before the subtraction, whose gradient is nan.
    loss = rivals.masked_fill(~has.unsqueeze(-1), 0.0).logsumexp(-1) - hit.masked_fill(~has, 0.0)
    return ((loss * has).sum(1) / has.sum(1).clamp(min=1)).mean()


def in_batch(
    queries: Tensor,
    partners: Tensor,
    *,
    temperature: float,
    chosen: Tensor | None = None,
) -> Tensor:
    """InfoNCE ``[B, d]`` against ``[B, d]``: each row's partner among the partners of all rows.

    ``chosen`` (bool ``[B]``) says which rows ask; all are candidates. The mean over those that ask,
    0 if there are none. It looks at the rows it is given; ``gather`` them first.
    """
    scores = queries @ partners.T / temperature
    own = torch.arange(len(queries), device=queries.device)
    rows = F.cross_entropy(scores, own, reduction="none")
    if chosen is None:
        return rows.mean()
    return (rows * chosen).sum() / chosen.sum().clamp(min=1)


def _filled(mask: Tensor | None, slots: Tensor) -> Tensor:
    return slots.new_ones(slots.shape[:2], dtype=torch.bool) if mask is None else mask
