"""Kinds of text tasks: losses against their formulas, decoding, metrics, what is refused."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch.nn import functional as F

from polytask.errors import InputError
from polytask.tasks import (
    Boundaries,
    Generation,
    Retrieval,
    Similarity,
    Span,
    Tagging,
    kind_from_dict,
)
from polytask.tasks import text_metrics as tm
from polytask.tasks.text import objects

NAN = float("nan")


def column(cells: list) -> pa.ChunkedArray:
    return pa.chunked_array([pa.array(cells)])


@pytest.mark.parametrize(
    "kind",
    [
        Similarity(0.0, 5.0),
        Span(tokens=7),
        Generation("rouge", 9),
        Boundaries(),
        Tagging(("a",)),
        Retrieval(),
    ],
)
def test_kinds_go_through_json(kind) -> None:
    assert kind_from_dict(kind.to_dict()) == kind


def test_similarity_is_learned_on_the_unit_scale() -> None:
    kind = Similarity().fitted(column([1.0, 5.0, None, 3.0]))
    assert (kind.low, kind.high) == (1.0, 5.0)
    target, mask = kind.encode(column([1.0, 3.0, None]))
    assert mask.tolist() == [True, True, False]
    output = torch.tensor([[0.25], [0.5], [9.0]])
    loss = kind.loss(output, torch.from_numpy(target), torch.from_numpy(mask))
    assert loss.item() == pytest.approx(0.25**2 / 2)
    assert kind.decode(output).tolist() == [2.0, 3.0, 37.0]


def test_similarity_of_constant_answers_orders_nothing() -> None:
    assert tm.spearman(np.array([1.0, 2, 3]), np.ones(3)) == 0.0
    assert tm.spearman(np.array([1.0, 2, 3]), np.array([1.0, 4, 9])) == pytest.approx(1)


def test_span_loss_is_cross_entropy_of_both_ends() -> None:
    torch.manual_seed(0)
    output = torch.randn(3, 6, 2)
    target = torch.tensor([[1, 3], [0, 1], [-1, -1]])  # the third answer was cut off
    loss = Span().loss(output, target, torch.tensor([True, False, True]))
    ends = [F.cross_entropy(output[:1, :, i], torch.tensor([w])) for i, w in enumerate((1, 2))]
    torch.testing.assert_close(loss, sum(ends) / 2)


def test_the_best_lawful_span_is_found() -> None:
    torch.manual_seed(1)
    output = torch.randn(20, 7, 2)
    found = Span(tokens=3).decode(output)
    for row, (start, end) in zip(output.tolist(), found, strict=True):
        spans = [(s, e) for s in range(7) for e in range(s + 1, min(s + 3, 7) + 1)]
        best = max(spans, key=lambda span: row[span[0]][0] + row[span[1] - 1][1])
        assert (start, end) == best


def test_span_metrics() -> None:
    target, span = np.array([[1, 4], [2, 3]]), np.array([[2, 5], [2, 3]])
    assert tm.span_f1(target, span) == pytest.approx((2 * 2 / 6 + 1) / 2)
    assert tm.span_match(target, span) == 0.5


def test_words_are_judged_as_squad_judges_them() -> None:
    assert tm.normalised("The  Cat, a dog!") == "cat dog"
    assert tm.word_f1("the black cat", "a cat") == pytest.approx(2 / 3)
    assert tm.word_f1("", "the") == 1.0
    target = objects([["Oslo", "Bergen"], "Rome"])
    answer = objects(["bergen.", "Paris"])
    assert tm.exact_match(target, answer) == 0.5 and tm.nf1(target, answer) == 0.5


def test_generation_is_judged_by_the_metric_it_names() -> None:
    assert Generation("bleu").primary.name == "bleu"
    assert Generation("bleu").quality({"bleu": 30.0}) == 0.3
    assert {m.name for m in Generation().metrics} == {"nf1", "em", "rouge", "bleu"}
    with pytest.raises(InputError, match="metric 'accuracy' is none of"):
        Generation("accuracy")  # type: ignore[arg-type]


def test_boundaries_know_gaps_not_the_end() -> None:
    kind = Boundaries()
    target, mask = kind.encode(column([[0, 0, 1, 2], None, [3]]))
    assert [row.tolist() for row in target] == [[0, 1, 1, -1], [], [-1]]
    assert mask.tolist() == [True, False, True]
    output = torch.tensor([[-3.0, 3.0, -3.0, 50.0, NAN]], requires_grad=True)
    padded = torch.tensor([[0, 1, 1, -1, -1]])
    loss = kind.loss(output, padded, torch.tensor([True]))
    wanted = F.binary_cross_entropy_with_logits(output[0, :3].detach(), padded[0, :3].float())
    torch.testing.assert_close(loss.detach(), wanted)
    loss.backward()
    assert output.grad is not None and torch.isfinite(output.grad).all()
    decoded = kind.decode(output)
    assert len(decoded[0]) == 4
    assert kind.answer(decoded)[0].tolist() == [0, 0, 1, 1]
    (gaps, given) = kind.tally(target[:1], decoded)
    assert gaps[0].tolist() == [False, True, True] and given[0].tolist() == [False, True, False]


def test_perfect_boundaries_score_perfectly() -> None:
    kind = Boundaries()
    target, _ = kind.encode(column([[0, 0, 1, 1, 2], [0, 1]]))
    decoded = objects([np.array([0, 1, 0, 1, 0.0]), np.array([1, 0.0])])
    assert kind.scores(target, decoded) == {"pk": 0.0, "windowdiff": 0.0, "boundary_f1": 1.0}
    assert kind.quality({"pk": 0.3}) == -0.3


def test_tags_leave_out_what_has_no_class() -> None:
    kind = Tagging().fitted(column([["b", None], ["a"]]))
    assert kind.classes == ("a", "b")
    target, _ = kind.encode(column([["b", None], ["a"]]))
    assert [row.tolist() for row in target] == [[1, -1], [0]]
    torch.manual_seed(0)
    output = torch.randn(2, 2, 2)
    padded = torch.tensor([[1, -1], [0, -1]])
    loss = kind.loss(output, padded, torch.tensor([True, True]))
    torch.testing.assert_close(loss, F.cross_entropy(output[:, 0], torch.tensor([1, 0])))
    output[1, 1] = NAN
    decoded = kind.decode(output)
    assert [len(row) for row in decoded] == [2, 1]
    judged, chances = kind.tally(target, decoded)
    assert judged.tolist() == [1, 0] and chances.shape == (2, 2)
    with pytest.raises(InputError, match="class 'c' does not occur"):
        kind.encode(column([["c"]]))


def test_retrieval_loss_is_list_wise() -> None:
    scores = torch.tensor([[1.0, 2.0, 0.5], [0.3, NAN, NAN], [5.0, 1.0, NAN]], requires_grad=True)
    target = torch.tensor([[1.0, 0.0, 1.0], [0.0, NAN, NAN], [0.0, 1.0, NAN]])
    loss = Retrieval().loss(scores, target, torch.tensor([True, True, True]))
    logs = [F.log_softmax(scores.detach()[0], 0), F.log_softmax(scores.detach()[2, :2], 0)]
    wanted = (-(logs[0][0] + logs[0][2]) / 2 - logs[1][1]) / 2  # the second has nothing relevant
    torch.testing.assert_close(loss.detach(), wanted)
    loss.backward()
    assert scores.grad is not None and torch.isfinite(scores.grad).all()


@pytest.mark.parametrize(
    ("kind", "target"),
    [(Boundaries(), [[1, -1]]), (Tagging(("a", "b")), [[1, 0]]), (Retrieval(), [[1.0, 0.0]])],
    ids=["boundaries", "tags", "retrieval"],
)
def test_rows_of_another_task_may_be_longer(kind, target) -> None:
    torch.manual_seed(0)
    output = torch.randn(1, 3, 2) if isinstance(kind, Tagging) else torch.randn(1, 3)
    mask = torch.tensor([True])
    wanted = kind.loss(output[:, :2], torch.tensor(target), mask)
    wide = torch.cat([output[:, :2], torch.full_like(output[:, :1], NAN)], dim=1)
    torch.testing.assert_close(kind.loss(wide, torch.tensor(target), mask), wanted)


def test_rankings_agree_with_the_formulas() -> None:
    rng = np.random.default_rng(0)
    target = objects([rng.integers(0, 3, n).astype(float) for n in (5, 12, 1, 30)])
    scores = objects([rng.random(len(row)) for row in target])
    found = Retrieval().scores(target, scores)
    ndcg, mrr = [], []
    for relevance, score in zip(target, scores, strict=True):
        if not relevance.any():
            continue
        ranked, best = relevance[np.argsort(-score)][:10], np.sort(relevance)[::-1][:10]
        discount = 1 / np.log2(np.arange(2, 12))
        ndcg.append((ranked * discount[: len(ranked)]).sum() / (best * discount[: len(best)]).sum())
        hits = np.flatnonzero(ranked > 0)
        mrr.append(1 / (hits[0] + 1) if len(hits) else 0.0)
    assert found["ndcg@10"] == pytest.approx(np.mean(ndcg))
    assert found["mrr@10"] == pytest.approx(np.mean(mrr))


def test_a_query_without_a_relevant_candidate_says_nothing() -> None:
    target, scores = objects([np.zeros(3), np.array([1.0, 0])]), objects([np.ones(3), np.arange(2)])
    assert Retrieval().scores(target, scores)["mrr@10"] == 0.5
    assert math.isnan(tm.ranking("nDCG@10")(target[:1], scores[:1]))
