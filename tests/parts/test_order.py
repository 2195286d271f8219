"""Order losses: the identities of their formulas."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from polytask.parts.order import cosent, pearson, pro, rank_kl

Y = torch.tensor([0.0, 0.2, 0.2, 0.6, 0.8, 1.0], dtype=torch.float64)


def test_pearson_sees_lines_only() -> None:
    assert pearson(3 * Y - 7, Y).item() == pytest.approx(0)
    assert pearson(-0.1 * Y + 2, Y).item() == pytest.approx(2)
    s = torch.randn(6, dtype=torch.float64)
    expected = 1 - torch.corrcoef(torch.stack([s, Y]))[0, 1]
    assert pearson(s, Y).item() == pytest.approx(expected.item())


@pytest.mark.parametrize("loss", [pearson, rank_kl, pro, cosent])
def test_equal_gold_teaches_nothing(loss) -> None:  # type: ignore[no-untyped-def]
    s = torch.randn(6, requires_grad=True)
    value = loss(s, torch.full((6,), 0.2))
    value.backward()
    assert value.item() == 0 and s.grad is not None and not s.grad.any()


@pytest.mark.parametrize("loss", [pearson, rank_kl, pro, cosent])
def test_equal_scores_have_a_gradient(loss) -> None:  # type: ignore[no-untyped-def]
    s = torch.zeros(6, dtype=torch.float64, requires_grad=True)
    loss(s, Y).backward()
    assert s.grad is not None and bool(s.grad.isfinite().all())


@pytest.mark.parametrize("loss", [pearson, rank_kl, pro, cosent])
def test_following_the_gradient_brings_the_order(loss) -> None:  # type: ignore[no-untyped-def]
    torch.manual_seed(0)
    s = (0.1 * torch.randn(6, dtype=torch.float64)).requires_grad_(True)
    optimizer = torch.optim.Adam([s], lr=0.02)
    for _ in range(200):
        optimizer.zero_grad()
        loss(s, Y).backward()
        optimizer.step()
    assert torch.corrcoef(torch.stack([s.detach(), Y]))[0, 1] > 0.7


def test_rank_kl_looks_at_ranks_only() -> None:
    s = torch.randn(6, dtype=torch.float64)
    assert rank_kl(s, Y).item() == pytest.approx(rank_kl(s, 5 * Y**3 + 1).item())
    assert rank_kl(s, Y).item() != pytest.approx(rank_kl(s, -Y).item())


def test_rank_kl_is_the_formula_and_ties_share_a_target() -> None:
    s = torch.randn(6, dtype=torch.float64)
    rank = torch.tensor([5, 3.5, 3.5, 2, 1, 0], dtype=torch.float64)
    p = ((5 - rank) / 5 / 0.05).softmax(0)
    assert p[1] == p[2]
    expected = (p * (p.log() - (s / 0.05).log_softmax(0))).sum() / 6
    assert rank_kl(s, Y).item() == pytest.approx(expected.item())
    assert rank_kl(((5 - rank) / 5), Y).item() == pytest.approx(0)


def test_pro_of_two_is_the_logistic_loss() -> None:
    s, y = torch.tensor([0.3, 0.5]), torch.tensor([0.8, 0.2])
    expected = F.softplus(-(s[0] - s[1]) / 0.05 * (y[0] - y[1]))
    assert pro(s, y).item() == pytest.approx(expected.item(), rel=1e-5)
    assert pro(s.flip(0), y.flip(0)).item() == pytest.approx(expected.item(), rel=1e-5)


def test_pro_is_the_formula() -> None:
    s = torch.randn(6, dtype=torch.float64) / 10
    order = Y.argsort(descending=True, stable=True)
    s_, y_, terms = s[order] / 0.05, Y[order], []
    for k in range(5):
        tail = [j for j in range(k + 1, 6) if y_[k] - y_[j] > 1e-8]
        if tail:
            w = torch.stack([y_[k] - y_[j] for j in tail])
            logits = torch.cat([(s_[k] * w.max()).view(1), s_[tail] * w])
            terms.append(-logits.log_softmax(0)[0])
    assert pro(s, Y).item() == pytest.approx(torch.stack(terms).mean().item())


def test_cosent_is_the_formula() -> None:
    s = torch.randn(6, dtype=torch.float64)
    total = sum(
        float(((s[j] - s[i]) / 0.05).exp()) for i in range(6) for j in range(6) if Y[i] > Y[j]
    )
    expected = torch.tensor(1 + total, dtype=torch.float64).log()
    assert cosent(s, Y).item() == pytest.approx(expected.item())


def test_cosent_agrees_with_sentence_transformers() -> None:
    losses = pytest.importorskip("sentence_transformers.sentence_transformer.losses")
    given = [torch.randn(6, 4), torch.randn(6, 4)]
    theirs = losses.CoSENTLoss(torch.nn.Identity(), scale=20.0)  # type: ignore[arg-type]
    expected = theirs.compute_loss_from_embeddings(given, Y.float())
    found = cosent(F.cosine_similarity(*given), Y.float())
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
