"""Contrastive losses against their formulas; over processes, see test_contrast_processes.py."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from polytask.parts.contrast import gather, in_batch, multi_positive


def units(*shape: int) -> Tensor:
    return F.normalize(torch.randn(*shape, dtype=torch.float64), dim=-1)


def by_hand(q: Tensor, p: Tensor, n: Tensor, t: float, hp: Tensor, hn: Tensor) -> float:
    """The sheet's sum, one query and slot at a time."""
    rows = []
    for b in range(len(q)):
        slots = []
        for j in range(p.shape[1]):
            if not hp[b, j]:
                continue
            candidates = [p[c, j] for c in range(len(q)) if hp[c, j]]
            candidates += [n[c, i] for c in range(len(q)) for i in range(n.shape[1]) if hn[c, i]]
            total = sum(math.exp(float(q[b] @ c) / t) for c in candidates)
            slots.append(math.log(total) - float(q[b] @ p[b, j]) / t)
        rows.append(sum(slots) / max(1, len(slots)))
    return sum(rows) / len(rows)


def test_the_loss_is_the_formula() -> None:
    q, p, n = units(5, 8), units(5, 2, 8), units(5, 3, 8)
    hp, hn = torch.ones(5, 2, dtype=torch.bool), torch.ones(5, 3, dtype=torch.bool)
    assert float(multi_positive(q, p, n, temperature=0.1)) == pytest.approx(
        by_hand(q, p, n, 0.1, hp, hn)
    )


def test_empty_slots_are_nobodys_candidates() -> None:
    q, p, n = units(5, 8), units(5, 2, 8), units(5, 3, 8)
    hp, hn = torch.rand(5, 2) < 0.6, torch.rand(5, 3) < 0.5
    hp[0], hp[1] = True, False  # a query with all positives and one with none
    p.requires_grad_(True)
    loss = multi_positive(q, p, n, temperature=0.1, has_positive=hp, has_negative=hn)
    assert loss.item() == pytest.approx(by_hand(q, p.detach(), n, 0.1, hp, hn))
    loss.backward()
    assert p.grad is not None and bool(p.grad.isfinite().all())
    assert not p.grad[~hp].any() and p.grad[hp].any()


def test_one_positive_without_negatives_is_in_batch_info_nce() -> None:
    q, p = units(6, 8), units(6, 8)
    one = multi_positive(q, p.unsqueeze(1), p.new_zeros(6, 0, 8), temperature=0.05)
    expected = F.cross_entropy(q @ p.T / 0.05, torch.arange(6))
    assert one.item() == pytest.approx(expected.item())
    assert in_batch(q, p, temperature=0.05).item() == pytest.approx(expected.item())


def test_positives_of_a_query_are_not_each_others_negatives() -> None:
    """Moving p_2 of a query leaves the part of p_1, and so the gradient by p_1, as it was."""

    def gradient(second: Tensor) -> Tensor:
        first = start.clone().requires_grad_(True)
        loss = multi_positive(q, torch.stack([first, second], 1), n, temperature=0.1)
        return torch.autograd.grad(loss, first)[0]

    q, start, n = units(4, 8), units(4, 8), units(4, 2, 8)
    torch.testing.assert_close(gradient(units(4, 8)), gradient(units(4, 8)), rtol=0, atol=1e-15)


def test_other_queries_positives_and_all_negatives_push() -> None:
    q, p, n = units(4, 8), units(4, 2, 8), units(4, 2, 8)
    before = multi_positive(q, p, n, temperature=0.1)
    for other in (p, n):
        moved = other.clone()
        moved[1, 0] = q[0]  # what belongs to query 1 is the answer to query 0
        pair = (moved, n) if other is p else (p, moved)
        assert multi_positive(q, *pair, temperature=0.1) > before


def test_only_chosen_rows_ask() -> None:
    q, p = units(6, 8), units(6, 8)
    chosen = torch.tensor([True, False, True, False, False, False])
    rows = F.cross_entropy(q @ p.T / 0.05, torch.arange(6), reduction="none")
    found = in_batch(q, p, temperature=0.05, chosen=chosen)
    assert found.item() == pytest.approx(rows[chosen].mean().item())
    assert in_batch(q, p, temperature=0.05, chosen=~chosen & chosen).item() == 0


def test_one_process_gathers_its_own_tensor() -> None:
    rows = torch.randn(3, 2)
    assert gather(rows).rows is rows and gather(rows).start == 0
