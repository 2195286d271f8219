"""Which tokens an answer rests on, from the attention of an encoder with a cls token.

Sources: attention rollout: Abnar & Zuidema, arXiv 2005.00928; attention weighted by its gradient:
Chefer et al., arXiv 2103.15679. A relevance is ``[B, P]``, not negative, and sums to 1 over the P
tokens behind the cls token. It says when, not in which channel: all channels share a token.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def of_attention(weights: Tensor) -> Tensor:
    """What the cls token looks at in one block: its row, mean over heads, without itself.

    Args:
        weights: attention ``[B, heads, 1 + P, 1 + P]``, the cls token first.
    """
    return _shares(weights.mean(1)[:, 0, 1:])


def of_gradient(weights: Tensor, gradient: Tensor) -> Tensor:
    """The same row of relu(attention * gradient), so that only what raises an answer counts.

    Args:
        weights: attention ``[B, heads, 1 + P, 1 + P]``.
        gradient: of the answer's logit at these weights, of the same shape.
    """
    return _shares((weights * gradient).relu().mean(1)[:, 0, 1:])


def of_rollout(weights: Sequence[Tensor]) -> Tensor:
    """Attention through all blocks: the cls row of prod_b (A_b + I) / 2, A_b the mean over heads.

    Args:
        weights: attention ``[B, heads, 1 + P, 1 + P]`` of each block, the first block first.
    """
    product = torch.eye(weights[0].shape[-1], dtype=weights[0].dtype, device=weights[0].device)
    for each in weights:
        product = (each.mean(1) @ product + product) / 2
    return _shares(product[:, 0, 1:])


def _shares(row: Tensor) -> Tensor:
    """Rows that sum to 1; a row of zeros, which prefers no token, becomes uniform."""
    total = row.sum(-1, keepdim=True)
    uniform = torch.full_like(row, 1 / row.shape[-1])
    return torch.where(total > 0, row / total.where(total > 0, 1.0), uniform)


def without(tokens: Tensor, relevance: Tensor, share: float) -> Tensor:
    """The tokens without the most relevant ones: the input of a deletion test.

    Tokens are taken out of the sequence. Setting their samples to a constant would not delete
    anything where a constant is a finding, as in a breathing pause.

    Args:
        tokens: ``[B, 1 + P, width]``, the cls token first; it stays.
        relevance: ``[B, P]``; random numbers delete tokens at random.
        share: of the P tokens, in (0, 1).

    Returns:
        ``[B, 1 + P - round(share * P), width]`` in the old order.
    """
    patches = relevance.shape[1]
    kept = patches - round(share * patches)
    least = relevance.topk(kept, dim=1, largest=False).indices.sort(dim=1).values + 1
    rows = torch.cat([torch.zeros_like(least[:, :1]), least], dim=1)
    return tokens.gather(1, rows.unsqueeze(-1).expand(-1, -1, tokens.shape[-1]))
