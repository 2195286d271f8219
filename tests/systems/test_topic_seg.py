"""Local-context topic segmentation: the identities of its sheet, its options, its promises."""

from __future__ import annotations

import itertools
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from polytask.data import Batch, Processor, Suite
from polytask.data.segmented import LEFT, NEXT, PLACES, Articles
from polytask.errors import InputError
from polytask.lifecycle.export import Session, export
from polytask.parts.text_encoders import TextEncoder
from polytask.systems.topic_seg import (
    NSP,
    AtBestThreshold,
    Section,
    TopicNet,
    TopicSeg,
    best_threshold,
    neighbours,
    sections,
)
from polytask.tasks.text import objects
from polytask.tasks.text_metrics import pk
from polytask.testing import document_suite
from polytask.training import Training

TINY: dict[str, Any] = {"encoder": "bert(width=16, depth=1, heads=2)", "max_length": 40}
SHORT = Training(lr=3e-3, batch=8, epochs=1, patience=1, device="cpu")
SETS = [s for n in (1, 2, 3) for s in itertools.combinations(("stp", "tc", "nsp"), n)]


@cache
def articles() -> Suite:
    return Articles(topics=4, words=60, names=120).suite(train=6, validation=3, test=3)


@cache
def tokens() -> Processor:
    learner = TopicSeg(**TINY)
    return Processor.fit(articles(), learner.reader(articles()))


def net(seed: int = 0, **options: Any) -> TopicNet:
    """A network from random weights, in evaluation mode."""
    torch.manual_seed(seed)
    return TopicSeg(**{**TINY, **options}).build(tokens()).eval()


def pairs(**options: Any) -> Batch:
    """A training batch of pairs."""
    learner = TopicSeg(**{**TINY, **options})
    learner.processor_ = tokens()
    rows = learner.views(tokens().encode(articles(), "train"))
    return rows[torch.arange(0, len(rows), max(1, len(rows) // 12))[:12]]


def documents() -> Batch:
    data = tokens().encode(articles(), "train")
    return data[torch.arange(3)]


def swapped(batch: Batch) -> Batch:
    """The same pairs, second sentence first."""
    return replace(batch, inputs={**batch.inputs, PLACES: batch.inputs[PLACES].flip(-1)})


# -- identities of the sheet -----------------------------------------------------------------------


def test_swapping_a_pair_leaves_the_difference_and_the_topics() -> None:
    module, batch = net(), pairs()
    one, other = (module.represent(b.inputs, ()) for b in (batch, swapped(batch)))
    f, g = module.features(one), module.features(other)
    d = module.encoder.width
    assert torch.equal(f[..., 2 * d :], g[..., 2 * d :])
    assert torch.equal(f[..., :d], g[..., d : 2 * d])
    assert not torch.equal(f[..., :d], g[..., :d])
    topics = [module.answer(x, "topic") for x in (one, other)]
    assert torch.equal(topics[0].nan_to_num(7), topics[1].nan_to_num(7))
    # NSP knows the order: [u; v] is among the features.
    assert not torch.allclose(module._follows(one), module._follows(other))


def test_product_is_a_further_feature() -> None:
    module, batch = net(product=True), pairs()
    x = module.represent(batch.inputs, ())
    d = module.encoder.width
    assert module.features(x).shape[-1] == 4 * d
    assert torch.equal(module.features(x)[..., 3 * d :], x.first * x.second)


@pytest.mark.parametrize("layer", ["transformer", "bilstm", "none"])
@pytest.mark.parametrize("pooling", ["mean", "cls", "max"])
def test_padding_changes_no_vector(layer: str, pooling: str) -> None:
    module = net(layer=layer, pooling=pooling)
    ids = documents().inputs["sentences"][:1, :5]
    there = (ids >= 0).any(-1)
    wide = F.pad(ids, (0, 9), value=-1)
    alone = torch.cat([module.embed(ids[:, i : i + 1], there[:, i : i + 1]) for i in range(5)], 1)
    for given in (ids, wide):
        torch.testing.assert_close(module.embed(given, there), alone, atol=2e-6, rtol=2e-5)


def test_both_sides_are_read_by_the_same_weights() -> None:
    module = net()
    encoders = [m for m in module.modules() if isinstance(m, TextEncoder)]
    assert encoders == [module.encoder]
    x = module.represent(documents().inputs, ())
    # Sentence i + 1 is the second of pair i and the first of pair i + 1: one vector.
    both = x.pairs[:, :-1] & x.pairs[:, 1:]
    assert both.sum() > 10
    assert torch.equal(x.second[:, :-1][both], x.first[:, 1:][both])


def test_sentences_do_not_see_each_other_before_pooling() -> None:
    batch = documents()
    ids = batch.inputs["sentences"].clone()
    other = ids.clone()
    other[:, 1] = ids[:, 3]  # another second sentence
    for joint in (False, True):
        module = net(joint=joint)
        one, two = (module.represent({"sentences": i}, ()).first[:, 0] for i in (ids, other))
        assert torch.allclose(one, two, atol=1e-6) != joint


def test_a_step_on_stp_moves_topics_but_not_their_head() -> None:
    module, batch = net(), pairs()
    before = module.outputs(batch.inputs, ["topic"])["topic"].detach()
    head = [p.clone() for p in module.heads["topic"].parameters()]
    optimiser = torch.optim.SGD(module.parameters(), lr=0.5)
    module.losses(batch)["section"].backward()
    optimiser.step()
    after = module.outputs(batch.inputs, ["topic"])["topic"].detach()
    assert not torch.allclose(before.nan_to_num(), after.nan_to_num())
    for old, new in zip(head, module.heads["topic"].parameters(), strict=True):
        assert torch.equal(old, new)


def test_losses_are_those_of_the_paper() -> None:
    """Recomputed pair by pair, from vectors of sentences that were encoded one at a time."""
    a, b, c = 2.0, 0.5, 3.0
    module, batch = net(weights=(a, b, c)), pairs()
    found = module.losses(batch)
    stp, tc, nsp = [], [], []
    for row in range(len(batch)):
        u, v = (
            module.embed(batch.inputs[LEFT][row : row + 1, i : i + 1], torch.tensor([[True]]))[0]
            for i in batch.inputs[PLACES][row, 0].tolist()
        )
        f = torch.cat([u, v, (u - v).abs()], -1)
        different = torch.sigmoid(module.heads["section"](f)).item()
        follows = torch.sigmoid(module.heads[NSP](f)).item()
        stp.append(-np.log(different if batch.targets["section"][row, 0] else 1 - different))
        nsp.append(-np.log(follows if batch.inputs[NEXT][row, 0] else 1 - follows))
        for side, vector in enumerate((u, v)):
            log_p = torch.log_softmax(module.heads["topic"](vector), -1)[0]
            tc.append(-log_p[batch.targets["topic"][row, side]].item())
    assert found["section"].item() == pytest.approx(a * np.mean(stp), rel=1e-4)
    assert found["topic"].item() == pytest.approx(b * np.mean(tc), rel=1e-4)
    assert found[NSP].item() == pytest.approx(c * np.mean(nsp), rel=1e-4)


@pytest.mark.parametrize(
    "options", [{}, {"window": 3}, {"joint": True}, {"joint": True, "window": 2}]
)
def test_pairs_in_training_are_answered_as_neighbours_in_documents(options: dict[str, Any]) -> None:
    module = net(**options)
    learner = TopicSeg(**TINY, **options, stretch=1000, same=0)
    learner.processor_ = tokens()
    data = tokens().encode(articles(), "train")
    rows = learner.views(data)
    batch, whole = rows[torch.arange(3)], data[torch.arange(3)]
    pair = module.outputs(batch.inputs, ["section"])["section"]
    gaps = module.outputs(whole.inputs, ["section"])["section"]
    target, wanted = batch.targets["section"], whole.targets["section"]
    for row in range(3):
        count = int((wanted[row] >= 0).sum())
        torch.testing.assert_close(pair[row, :count], gaps[row, :count], atol=1e-5, rtol=1e-4)
        assert torch.equal(target[row, :count], wanted[row, :count])
        assert gaps[row, count:].isnan().all()  # the document's last sentence ends nothing


# -- inference -------------------------------------------------------------------------------------


@pytest.mark.parametrize("joint", [False, True])
def test_each_sentence_is_encoded_once(joint: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    forward = TextEncoder.forward

    def counted(self: TextEncoder, sequence: Any) -> torch.Tensor:
        seen.append(len(sequence.ids))
        return forward(self, sequence)

    monkeypatch.setattr(TextEncoder, "forward", counted)
    net(joint=joint).outputs(documents().inputs, ["section", "topic"])
    sentences = int((documents().inputs["sentences"] >= 0).any(-1).sum())
    assert sum(seen) == (sentences - 3 if joint else sentences)  # of three documents


@pytest.mark.parametrize("layer", ["transformer", "bilstm"])
@pytest.mark.parametrize("joint", [False, True])
def test_a_document_of_one_sentence(joint: bool, layer: str) -> None:
    module = net(joint=joint, layer=layer)
    ids = documents().inputs["sentences"][:2].clone()
    ids[1, 1:] = -1
    found = module.outputs({"sentences": ids}, ["section", "topic"])
    chances = module.tasks["section"].kind.decode(found["section"].detach())
    topics = module.tasks["topic"].kind.decode(found["topic"].detach())
    assert [len(row) for row in chances] == [int((ids[0] >= 0).any(-1).sum()) - 1, 0]
    assert topics[1].shape == (1, 4)
    alone = module.outputs({"sentences": ids[1:]}, ["topic"])["topic"]  # no pair at all
    torch.testing.assert_close(alone[0, 0], found["topic"][1, 0], atol=1e-6, rtol=1e-5)


def test_neighbours_of_documents() -> None:
    there = torch.tensor([[True, True, True], [True, False, False]])
    assert neighbours(there).tolist() == [
        [[0, 1], [1, 2], [-1, -1]],
        [[-1, -1], [-1, -1], [-1, -1]],
    ]


def test_boundaries_without_stp_are_told_by_nsp_or_by_topics() -> None:
    by_nsp = net(losses=("tc", "nsp"))
    x = by_nsp.represent(documents().inputs, ())
    logits = by_nsp.answer(x, "section")
    assert torch.equal(logits[x.pairs], -by_nsp._follows(x)[x.pairs])
    by_topic = net(losses=("tc",))
    x = by_topic.represent(documents().inputs, ())
    chances = by_topic.answer(x, "section").sigmoid()
    p = by_topic.answer(x, "topic").softmax(-1)
    for gap in range(3):  # chance that two independent draws of topics differ
        differ = 1 - (p[0, gap] * p[0, gap + 1]).sum()
        assert chances[0, gap].item() == pytest.approx(differ.item(), abs=1e-5)


# -- thresholds and sections -----------------------------------------------------------------------


def test_best_threshold_has_the_least_error() -> None:
    rng = np.random.default_rng(0)
    wanted = objects([rng.random(40) < 0.15 for _ in range(12)])
    chances = objects([np.clip(0.3 * w + rng.random(40) * 0.6, 0, 1) for w in wanted])
    tau = best_threshold(wanted, chances)
    error = pk(wanted, [row > tau for row in chances])
    tried = [pk(wanted, [row > t for row in chances]) for t in np.linspace(0.01, 0.99, 99)]
    assert error <= min(tried) + 0.01
    assert error < pk(wanted, [row > 0.5 for row in chances])
    kind = AtBestThreshold()
    target = objects([np.append(w.astype(int), -1) for w in wanted])
    assert kind.scores(target, chances)["pk"] == error


def test_best_threshold_where_there_is_nothing_to_choose() -> None:
    assert best_threshold([np.array([], bool)], [np.array([])]) == 0.5
    assert best_threshold([np.zeros(3, bool)], [np.array([0.1, 0.2, 0.3])]) == 0.5


def test_fixed_threshold_moves_logits() -> None:
    half, low = net(threshold=0.5), net(threshold=0.2)
    a, b = (m.outputs(documents().inputs, ["section"])["section"] for m in (half, low))
    there = ~a.isnan()
    assert torch.equal(a[there].sigmoid() > 0.2, b[there].sigmoid() > 0.5)
    assert not torch.equal(a[there] > 0, b[there] > 0)


def test_sections_of_a_document() -> None:
    chances = np.array([0.1, 0.9, 0.2, 0.7, 0.6, 0.1])
    assert sections(chances) == [(0, 2, None), (2, 4, None), (4, 5, None), (5, 7, None)]
    # The shortest section goes first, at its weaker end.
    assert sections(chances, minimum=2) == [(0, 2, None), (2, 4, None), (4, 7, None)]
    assert sections(chances, minimum=3) == [(0, 4, None), (4, 7, None)]
    assert sections(chances, minimum=9) == [(0, 7, None)]
    assert sections(np.array([])) == [(0, 1, None)]


def test_topic_of_a_section_is_the_argmax_of_summed_logarithms() -> None:
    topics = np.array([[0.6, 0.4], [0.6, 0.4], [0.01, 0.99], [0.2, 0.8]])
    # Most sentences of the first section say 0, but the third all but excludes it.
    assert sections(np.array([0.0, 0.0, 0.9]), topics) == [(0, 3, 1), (3, 4, 1)]
    assert sections(np.array([0.0, 0.0, 0.9]), topics, merge=True) == [(0, 4, 1)]
    assert sections(np.array([0.0, 0.9, 0.0]), topics, merge=True) == [(0, 2, 0), (2, 4, 1)]


# -- the learner -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fitted() -> TopicSeg:
    training = replace(SHORT, epochs=6, patience=6, batch=4)
    return TopicSeg(**TINY, stretch=12, training=training).fit(articles())


def test_it_learns(fitted: TopicSeg) -> None:
    wanted = [np.diff(s) != 0 for s in articles().splits["train"].data["section"].to_pylist()]
    nothing = pk(wanted, [np.zeros_like(w) for w in wanted])
    scores = fitted.score(articles(), "train")
    assert scores["section"]["pk"] < 0.8 * nothing
    assert scores["topic"]["accuracy"] > 0.5
    assert set(fitted.history_[0]["loss"]) == {"section", "topic", NSP}


def test_threshold_is_that_of_validation_and_is_saved(fitted: TopicSeg, tmp_path: Path) -> None:
    rows = articles().splits["validation"].data
    wanted = [np.diff(s) != 0 for s in rows["section"].to_pylist()]
    shifted = fitted.predict({"sentences": rows["sentences"].to_pylist()}, ["section"])["section"]
    tau = fitted.threshold_
    odds = [row / (1 - row) * tau / (1 - tau) for row in shifted]
    raw = objects([o / (1 + o) for o in odds])
    best = pk(wanted, [row > best_threshold(wanted, raw) for row in raw])
    assert fitted.score(articles(), "validation")["section"]["pk"] == pytest.approx(best)
    fitted.save_pretrained(tmp_path / "model")
    again = TopicSeg.from_pretrained(tmp_path / "model")
    assert again.threshold_ == tau
    assert again.score(articles()) == fitted.score(articles())


def test_segment_tells_sections_with_topics(fitted: TopicSeg) -> None:
    texts = articles().splits["test"].data["sentences"].to_pylist()
    found = fitted.segment(texts)
    chances = fitted.predict({"sentences": texts})["section"]
    for document, parts, row in zip(texts, found, chances, strict=True):
        assert parts[0].start == 0 and parts[-1].end == len(document)
        assert all(a.end == b.start for a, b in itertools.pairwise(parts))
        assert [p.end - 1 for p in parts[:-1]] == np.flatnonzero(row > 0.5).tolist()
        assert {p.topic for p in parts} <= {f"topic 0{i}" for i in range(4)}
    longer = fitted.segment(texts, minimum=4, merge=True)
    assert all(p.end - p.start >= 4 for parts in longer for p in parts)


def test_segment_of_raw_text_splits_it_first(fitted: TopicSeg) -> None:
    text = "Babe bi bo. Bu da! De di?"
    assert fitted.segment([text]) == fitted.segment([["Babe bi bo.", "Bu da!", "De di?"]])
    assert isinstance(fitted.segment([text])[0][0], Section)
    with pytest.raises(InputError, match="takes a list of documents"):
        fitted.segment(text)
    with pytest.raises(InputError, match="document 2 has a sentence without text"):
        fitted.segment([["One."], ["One.", " "]])
    with pytest.raises(InputError, match="document 1 has no sentence"):
        fitted.segment([[]])


@pytest.mark.parametrize("losses", SETS)
def test_every_set_of_losses(losses: tuple[str, ...]) -> None:
    suite = articles() if "tc" in losses else articles().only("section")
    learner = TopicSeg(**TINY, losses=losses, stretch=16, training=SHORT).fit(suite)
    names = {"stp": "section", "tc": "topic", "nsp": NSP}
    assert set(learner.history_[0]["loss"]) == {names[term] for term in losses}
    assert learner.module_.terms == tuple(names[t] for t in ("stp", "tc", "nsp") if t in losses)
    assert 0 <= learner.score(suite)["section"]["pk"] <= 1


@pytest.mark.parametrize("options", [{"layer": "bilstm"}, {"joint": True}, {"window": 2}])
def test_variants_fit(options: dict[str, Any]) -> None:
    learner = TopicSeg(**TINY, **options, stretch=8, training=SHORT).fit(document_suite(20))
    assert learner.history_


@pytest.mark.parametrize("balancer", ["uw", "pcgrad", "gradnorm"])
def test_any_balancer_sees_all_three_terms(balancer: str) -> None:
    learner = TopicSeg(**TINY, balancer=balancer, stretch=8, training=SHORT).fit(document_suite(20))
    assert len(learner.history_[0]["loss"]) == 3


def test_heads_are_private_and_the_last_shared_layer_serves_all() -> None:
    module = net()
    assert len(module.private_parameters()) == 6
    module.losses(pairs())[NSP].backward()
    assert all(p.grad is not None for p in module.last_shared())
    assert all(p.grad is None for t in module.tasks for p in module.heads[t].parameters())


def test_suites_with_one_task() -> None:
    suite = document_suite(20)
    where = TopicSeg(**TINY, stretch=8, training=SHORT).fit(suite.only("sections"))
    assert where.module_.terms == ("sections", NSP)
    assert all(p.topic is None for p in where.segment([["the cat runs", "the oak waits"]])[0])
    what = TopicSeg(**TINY, losses=("tc",), training=SHORT).fit(suite.only("topics"))
    assert what.module_.terms == ("topics",)
    with pytest.raises(InputError, match="sections need a task of boundaries"):
        what.segment([["the cat runs"]])


def test_documents_may_lack_labels() -> None:
    table = articles().splits["train"].data.to_pydict()
    table = {name: list(table[name]) for name in ("sentences", "section", "topic")}
    table["section"][0] = table["topic"][1] = None
    table["topic"][2] = [None] * len(table["topic"][2])
    table["split"] = ["train", "train", "train", "train", "validation", "test"]
    suite = Suite.from_table(
        table,
        {"section": "boundaries", "topic": "tags"},
        inputs={"sentences": "text"},
        split="column:split",
    )
    learner = TopicSeg(**TINY, training=replace(SHORT, batch=64)).fit(suite)
    assert np.isfinite(list(learner.history_[0]["loss"].values())).all()


def test_paper_scale_has_the_parameters_it_should() -> None:
    with torch.device("meta"):
        module = TopicSeg(encoder="bert_base").build(tokens())
    words = tokens().reader.tokens  # type: ignore[union-attr]
    bert_base = 108_891_648 + (words - 30_522) * 768  # without the pooling layer
    layer, pairs, topics = 7_087_872, 2 * (3 * 768 + 1), 4 * 768 + 4
    assert sum(p.numel() for p in module.parameters()) == bert_base + layer + pairs + topics


# -- bad input -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_exported_model_answers_alike(tmp_path: Path) -> None:
    suite = document_suite(20)
    model = TopicSeg(**TINY, training=SHORT).fit(suite)
    export(model, tmp_path / "onnx", suite=suite)
    rows = suite.table("test").select(["sentences"])
    served = Session(tmp_path / "onnx").predict(rows)
    for task, expected in model.predict(rows).items():
        for theirs, ours in zip(served[task], expected, strict=True):
            np.testing.assert_allclose(theirs, ours, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"losses": ("stp", "ntp")}, "losses are of stp, tc, nsp, not 'ntp'"),
        ({"losses": ("stp",)}, "without 'tc' among the losses task 'topics' is not learned"),
        ({"losses": ()}, "without 'tc' among the losses"),
        ({"weights": (1.0, 1.0)}, "weights are three numbers"),
        ({"weights": (1.0, -1.0, 1.0)}, "weights are three numbers of 0 or more"),
        ({"threshold": 1.5}, "threshold lies between 0 and 1, not at 1.5"),
        ({"window": 0}, "window is at least 1, not 0"),
        ({"stretch": 1}, "stretch is at least 2, not 1"),
        ({"reach": 1}, "reach is at least 2, not 1"),
        ({"same": -0.5}, "same is at least 0"),
    ],
)
def test_bad_settings_are_refused(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        TopicSeg(**TINY, **options).fit(document_suite(20))


def test_bad_suites_are_refused() -> None:
    table: dict[str, Any] = {"s": [["a b", "c d"]] * 8, "x": [[0, 1]] * 8}
    suite = Suite.from_table(table, {"x": "boundaries"}, inputs={"s": "text"})
    with pytest.raises(InputError, match="none of the losses tc has a task"):
        TopicSeg(**TINY, losses=("tc",)).fit(suite)
    table = {"s": [["a b", "c d"]] * 8, "x": [[0, 1]] * 8, "y": [[0, 0]] * 8}
    suite = Suite.from_table(table, {"x": "boundaries", "y": "boundaries"}, inputs={"s": "text"})
    with pytest.raises(InputError, match="one task of boundaries, not 'x' and 'y'"):
        TopicSeg(**TINY).fit(suite)
    table = {"s": ["a b"] * 60, "x": [0, 1, 1] * 20}
    suite = Suite.from_table(table, {"x": "classification"}, inputs={"s": "text"})
    with pytest.raises(InputError, match="learns boundaries and tags"):
        TopicSeg(**TINY).fit(suite)
