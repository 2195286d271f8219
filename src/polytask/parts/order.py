"""Losses that look at the order of a batch's similarities, not at each pair alone.

All take scores s ``[N]`` (cosines, or what orders pairs) and gold scores y ``[N]``; rows where
``y`` says nothing (equal gold throughout) teach nothing, and the loss is then 0.

Sources: Pearson, RankKL and PRO as CoDiEmb (2025) uses them, PRO after Song et al.
(arXiv 2306.17492); CoSENT after Su (2022), as sentence-transformers has it.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def pearson(scores: Tensor, gold: Tensor) -> Tensor:
    """``1 - corr(s, y)`` with population moments: 0 for any rising line, 2 for a falling one."""
    s, y = scores - scores.mean(), gold - gold.mean()
    size = (s.square().sum() * y.square().sum()).clamp(min=1e-20).sqrt()
    return (1 - (s * y).sum() / size) * (gold != gold[0]).any()


def rank_kl(scores: Tensor, gold: Tensor, temperature: float = 0.05) -> Tensor:
    """KL of the order that is to be from the order that is, divided by N.

    r_i = rank of y_i, falling, from 0, ties sharing their mean; g_i = (N - 1 - r_i)/(N - 1);
    KL( softmax(g/T) || softmax(s/T) ) / N. So nothing but the order of y counts.
    """
    n = len(gold)
    if n < 2:
        return scores.sum() * 0
    above = (gold.unsqueeze(0) > gold.unsqueeze(1)).sum(1)
    level = (gold.unsqueeze(0) == gold.unsqueeze(1)).sum(1)
    rank = above + (level - 1).to(scores.dtype) / 2
    target = ((n - 1 - rank) / (n - 1) / temperature).log_softmax(0)
    loss = F.kl_div((scores / temperature).log_softmax(0), target, reduction="sum", log_target=True)
    return loss / n * (gold != gold[0]).any()


def pro(scores: Tensor, gold: Tensor, temperature: float = 0.05) -> Tensor:
    """Preference ranking: each row against all rows below it, weighed by how far below.

    With s' = s/T, for every k that has rows below it (y_k - y_j > 1e-8):
    w_j = y_k - y_j, w_k = max_j w_j, term_k = -log( exp(s'_k w_k) / (exp(s'_k w_k) +
    Σ_j exp(s'_j w_j)) ); the mean over these k. Two rows: log(1 + exp(-(s'_1 - s'_2)(y_1 - y_2))).
    """
    s = scores / temperature
    gap = gold.unsqueeze(1) - gold.unsqueeze(0)
    below = gap > 1e-8
    own = s * gap.amax(1)
    others = (s.unsqueeze(0) * gap).masked_fill(~below, float("-inf"))
    terms = torch.cat([own.unsqueeze(1), others], dim=1).logsumexp(1) - own
    has = below.any(1)
    return (terms * has).sum() / has.sum().clamp(min=1)


def cosent(scores: Tensor, gold: Tensor, temperature: float = 0.05) -> Tensor:
    """``log(1 + Σ_{y_i > y_j} exp((s_j - s_i)/T))`` over all pairs of rows that gold orders."""
    s = scores / temperature
    wrong = (s.unsqueeze(0) - s.unsqueeze(1)).masked_fill(
        gold.unsqueeze(1) <= gold.unsqueeze(0), float("-inf")
    )
    return torch.cat([s.new_zeros(1), wrong.flatten()]).logsumexp(0)
