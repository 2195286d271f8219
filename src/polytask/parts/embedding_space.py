"""What a space of embeddings looks like: do vectors spread, or huddle in few directions?

The measures of CoDiEmb (2025): token cosines, rank, entropy of the singular values, condition
number; effective rank after Roy and Vetterli (EUSIPCO 2007).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from polytask.errors import InputError


@dataclass(frozen=True)
class Space:
    """Measures of one matrix of embeddings ``[N, d]``, singular values σ, p = σ/Σσ.

    Attributes:
        rank: σ above the largest times max(N, d) times the precision.
        entropy: -Σ p log p / log(min(N, d)), from 0 (one direction) to 1 (all alike).
        effective_rank: exp(-Σ p log p), in directions.
        condition: largest σ over the smallest; infinite where that is nothing but rounding.
    """

    rank: int
    entropy: float
    effective_rank: float
    condition: float


def describe(embeddings: Tensor) -> Space:
    """The measures of embeddings ``[N, d]``, as they are (neither centred nor normalised)."""
    if embeddings.ndim != 2 or min(embeddings.shape) < 2:
        raise InputError(
            f"a space is described by at least two embeddings [N, d], not {tuple(embeddings.shape)}"
        )
    sigma = torch.linalg.svdvals(embeddings.double())
    if not sigma[0] > 0:
        raise InputError("all embeddings are zero; they have no directions")
    precision = torch.finfo(embeddings.dtype).eps
    used = sigma[sigma > sigma[0] * max(embeddings.shape) * precision]
    p = used / used.sum()
    entropy = float(-(p * p.log()).sum())
    return Space(
        rank=len(used),
        entropy=entropy / float(torch.log(torch.tensor(float(len(sigma))))),
        effective_rank=float(torch.exp(torch.tensor(entropy))),
        condition=float(sigma[0] / sigma[-1]) if sigma[-1] > sigma[0] * precision else float("inf"),
    )


def token_cosine(states: Tensor, mask: Tensor) -> Tensor:
    """Mean cosine between different tokens of a text: states ``[B, L, d]``, mask ``[B, L]`` -> [B].

    Near 1, tokens have become alike and a mean over them says little; nan for fewer than two.
    """
    unit = torch.nn.functional.normalize(states.double(), dim=-1) * mask.unsqueeze(-1)
    n = mask.sum(1).double()
    # Σ_{i≠j} u_i·u_j = |Σ u_i|² - n
    return (unit.sum(1).square().sum(-1) - n) / (n * (n - 1))
