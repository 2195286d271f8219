"""CoDiEmb as a learner: what it teaches, what it saves, what it refuses, and fusion.

The losses' own identities are tests of the parts; two processes are in test_codiemb_processes.py.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from polytask.data import Processor, Suite, as_mixture
from polytask.errors import InputError
from polytask.parts.merging import fusion_weights
from polytask.parts.order import pearson, pro, rank_kl
from polytask.systems.codiemb import (
    ORDER,
    CoDiEmb,
    CoDiEmbNet,
    CoSENT,
    Embedded,
    Shuffled,
    Specialised,
    as_objective,
    chosen,
    fuse,
)
from polytask.testing import search_suite
from polytask.training import Engine, Training

TINY = "bert(width=32, depth=2, heads=2, dropout=0.0)"
WORDS = ["the dog runs", "a red fish sleeps in the garden", "the cat", "an oak grows"]


def small(**changes: Any) -> CoDiEmb:
    budget = Training(lr=2e-3, batch=8, epochs=2, patience=2, device="cpu")
    return CoDiEmb(**{"encoder": TINY, "vocabulary": 120, "training": budget} | changes)


@pytest.fixture(scope="module")
def tiny() -> Suite:
    return search_suite()


@pytest.fixture(scope="module")
def fitted(tiny: Suite) -> CoDiEmb:
    return small(query_prompt="Query: ").fit(tiny)


@pytest.fixture(scope="module")
def folder(fitted: CoDiEmb, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("saved") / "model"
    fitted.save_pretrained(place)
    return place


def net(learner: CoDiEmb, suite: Suite) -> CoDiEmbNet:
    return learner.build(Processor.fit(suite, learner.reader(suite)))


# -- what it learns --------------------------------------------------------------------------------


def test_both_sorts_of_task_are_learned(tiny: Suite) -> None:
    """Scores of held-out rows rise above those of the weights it starts from."""
    budget = Training(lr=5e-3, batch=16, epochs=4, patience=4, device="cpu")
    learner = small(training=budget)
    start = replace(learner, training=replace(budget, lr=1e-9, epochs=1)).fit(tiny).score(tiny)
    end = learner.fit(tiny).score(tiny)
    assert end["alike"]["spearman"] > start["alike"]["spearman"] + 0.1
    assert end["finds"]["ndcg@10"] > max(0.9, start["finds"]["ndcg@10"])


def test_answers_are_cosines_of_embeddings(tiny: Suite, fitted: CoDiEmb) -> None:
    kind = fitted.processor_.task("alike").kind
    found = fitted.predict({"text": WORDS[:2], "text_pair": WORDS[2:]}, ["alike"])["alike"]
    a, b = fitted.embed(WORDS[:2]), fitted.embed(WORDS[2:])
    np.testing.assert_allclose(found, kind.low + (a * b).sum(1) * (kind.high - kind.low), atol=1e-5)
    lists = pa.table({"text": WORDS[:2], "texts": [WORDS[1:], WORDS[2:]]})
    scores = fitted.predict(lists, ["finds"])["finds"]
    documents = fitted.embed(WORDS, "document")
    np.testing.assert_allclose(scores[0], documents[1:] @ a[0], atol=1e-5)
    np.testing.assert_allclose(scores[1], documents[2:] @ a[1], atol=1e-5)


def test_search_finds_the_nearest_documents(fitted: CoDiEmb) -> None:
    scores, places = fitted.search(WORDS[:2], WORDS, k=3)
    every = fitted.embed(WORDS[:2]) @ fitted.embed(WORDS, "document").T
    np.testing.assert_array_equal(places, (-every).argsort(1)[:, :3])
    np.testing.assert_allclose(scores, -np.sort(-every, 1)[:, :3], atol=1e-6)
    kept = fitted.search(WORDS[:2], fitted.embed(WORDS, "document"), k=3)
    np.testing.assert_array_equal(kept[1], places)


def test_every_batch_is_of_one_data_set(tiny: Suite) -> None:
    learner = small(mixture="datasets(sizes='alike=5')")
    data = Processor.fit(tiny, learner.reader(tiny)).encode(tiny, "train")
    draws = list(as_mixture(learner.mixture).draws(data, 8, 0, 0))  # type: ignore[arg-type]
    for rows, tasks in draws:
        assert tasks is not None and len(tasks) == 1
        assert bool(data.masks[tasks[0]][rows].all())
    counts = {t: sum(tasks == (t,) for _, tasks in draws) for t in tiny.task_names}
    assert counts == {"finds": data.counts["finds"] // 8, "alike": data.counts["alike"] // 5}
    again = list(as_mixture(learner.mixture).draws(data, 8, 0, 1))  # type: ignore[arg-type]
    assert [tasks for _, tasks in again] != [tasks for _, tasks in draws]


def test_the_similarity_loss_has_the_papers_weights() -> None:
    a, b = (torch.nn.functional.normalize(torch.randn(6, 4), dim=1) for _ in range(2))
    y = torch.tensor([0.0, 0.2, 0.4, 0.4, 0.8, 1.0])
    s = (a * b).sum(1)
    order = 2 * pearson(s, y) + 5 * rank_kl(s, y) + 0.5 * pro(s, y)
    found = Specialised().similarity(Embedded(a, None), Embedded(b, None), y)
    assert found.item() == pytest.approx(order.item(), rel=1e-5)
    inside = Specialised().similarity(Embedded(a, b), Embedded(b, a), y) - order
    expected = torch.nn.functional.cross_entropy((b @ a.T / 0.02)[5:], torch.tensor([5]))
    assert inside.item() == pytest.approx(expected.item(), rel=1e-4)
    low = 0.9 * y  # no pair of the highest gold
    quiet = Specialised().similarity(Embedded(a, b), Embedded(b, a), low)
    alone = Specialised().similarity(Embedded(a, None), Embedded(b, None), low)
    assert quiet.item() == alone.item()


@pytest.mark.parametrize("objective", ["infonce", "cosent"])
def test_naive_objectives_teach_both_alike(tiny: Suite, objective: str) -> None:
    learner = small(objective=objective).fit(tiny)
    assert all(np.isfinite(list(s.values())).all() for s in learner.score(tiny).values())
    assert not as_objective(objective).looks_inside()


def test_cosent_of_retrieval_is_cosent_of_all_pairs() -> None:
    from polytask.parts.order import cosent

    q = torch.nn.functional.normalize(torch.randn(3, 4), dim=1)
    slots = torch.nn.functional.normalize(torch.randn(3, 3, 4), dim=2)
    filled = torch.tensor([[True, True, True], [True, False, True], [True, True, False]])
    objective = CoSENT(positives=2, negatives=1)
    kept = [(n, k) for n in range(3) for k in range(3) if filled[n, k]]
    pairs = [(b, n, k) for b in range(3) for n, k in kept]
    scores = torch.stack([q[b] @ slots[n, k] for b, n, k in pairs])
    gold = torch.tensor([float(b == n and k < 2) for b, n, k in pairs])
    found = objective.retrieval(q, slots, filled)
    assert found.item() == pytest.approx(cosent(scores, gold).item(), rel=1e-5)
    lonely = q[:1].clone().requires_grad_(True)  # one query, and nothing that is wrong for it
    loss = objective.retrieval(lonely, slots[:1], torch.tensor([[True, True, False]]))
    loss.backward()
    assert loss.item() == 0 and lonely.grad is not None and not lonely.grad.any()


# -- slots -----------------------------------------------------------------------------------------


def test_slots_are_filled_by_kind_and_order() -> None:
    nan = float("nan")
    relevance = torch.tensor([[0, 2, 1, 0, 1], [1, 0, nan, nan, nan]])
    at, filled = chosen(relevance, 2, 3)
    assert at[0].tolist() == [1, 2, 0, 3, 0] and filled[0].tolist() == [True] * 4 + [False]
    assert at[1].tolist() == [0, 0, 1, 0, 0]
    assert filled[1].tolist() == [True, False, True, False, False]
    order = torch.tensor([[0.9, 0.8, 0.7, 0.1, 0.2, 0.0]]).expand(2, -1)
    assert chosen(relevance, 2, 3, order)[0][0].tolist() == [4, 2, 3, 0, 0]


def test_empty_slots_have_no_influence(tiny: Suite) -> None:
    """A row's loss is the same among rows with longer lists."""
    learner = small()
    made = net(learner, tiny)
    data = Processor.fit(tiny, learner.reader(tiny)).encode(tiny, "train").only(["finds"])
    batch = data[data.masks["finds"].nonzero().squeeze(1)[:4]]
    wide = replace(
        batch,
        inputs={
            **batch.inputs,
            "texts": torch.nn.functional.pad(batch.inputs["texts"], (0, 3, 0, 5), value=-1),
        },
        targets={"finds": torch.nn.functional.pad(batch.targets["finds"], (0, 5), value=torch.nan)},
    )
    torch.testing.assert_close(made.losses(wide), made.losses(batch))


def test_candidates_come_in_another_order_every_epoch(tiny: Suite) -> None:
    data = Processor.fit(tiny, small().reader(tiny)).encode(tiny, "train")
    rows = data.masks["finds"].nonzero().squeeze(1)[:6]
    first, again, later = (
        Shuffled(data, ("texts",)).turn(0, epoch)[rows].inputs[ORDER] for epoch in (0, 0, 1)
    )
    assert torch.equal(first, again) and not torch.equal(first, later)
    some = Shuffled(data, ("texts",)).turn(0, 0)[rows[1::2]].inputs[ORDER]
    assert torch.equal(some[:, : first.shape[1]], first[1::2, : some.shape[1]])


# -- prompts and pooling ---------------------------------------------------------------------------


def test_a_prompt_is_seen_but_not_pooled(tiny: Suite) -> None:
    learner = small(query_prompt="Query: ")
    made = net(learner, tiny).eval()
    (ids,) = made.encoder.reader.ids(["the dog runs"])
    rows = torch.from_numpy(ids).long().unsqueeze(0)
    prompt = made.query_prompt
    assert len(prompt) > 1
    sequence = made.encoder.sequence(torch.cat([prompt, rows[0]]).unsqueeze(0))
    states = made.encoder(sequence)[0, 1 + len(prompt) :]  # what follows [CLS] and the prompt
    expected = torch.nn.functional.normalize(states.mean(0), dim=0)
    torch.testing.assert_close(made.embed(rows, "query").last[0], expected)
    plain = made.embed(rows, "document").last[0]
    assert not torch.allclose(plain, expected)


def test_the_middle_is_half_way_up(tiny: Suite) -> None:
    made = net(small(), tiny).eval()
    rows = torch.from_numpy(made.encoder.reader.ids(["the dog runs"])[0]).long().unsqueeze(0)
    layers = made.encoder.layers(made.encoder.sequence(rows))
    found = made.embed(rows, "query", middle=True)
    assert len(layers) == 3 and found.middle is not None
    inside = torch.nn.functional.normalize(layers[1][0].mean(0), dim=0)
    torch.testing.assert_close(found.middle[0], inside)
    torch.testing.assert_close(found.last, made.embed(rows, "query").last)


# -- folders ---------------------------------------------------------------------------------------


def test_a_saved_model_opens_in_sentence_transformers(fitted: CoDiEmb, folder: Path) -> None:
    package = pytest.importorskip("sentence_transformers")
    theirs = package.SentenceTransformer(str(folder), device="cpu")
    for role in ("query", "document"):
        found = theirs.encode(WORDS, prompt_name=role)
        np.testing.assert_allclose(found, fitted.embed(WORDS, role), atol=1e-6)
    assert theirs.max_seq_length == fitted.max_length


@pytest.mark.parametrize("pooling", ["mean", "cls", "max"])
def test_a_sentence_transformer_opens_here(tmp_path: Path, pooling: str) -> None:
    package = pytest.importorskip("sentence_transformers")
    from sentence_transformers.sentence_transformer import modules

    encoder = net(small(), search_suite()).encoder
    encoder.reader.tokenizer.save_pretrained(tmp_path / "bert")
    encoder.net.save_pretrained(tmp_path / "bert")
    parts = [
        modules.Transformer(str(tmp_path / "bert"), max_seq_length=12),
        modules.Pooling(encoder.width, pooling),
        modules.Normalize(),
    ]
    theirs = package.SentenceTransformer(modules=parts, device="cpu", prompts={"query": "find: "})
    theirs.save_pretrained(str(tmp_path / "theirs"))
    ours = CoDiEmb.from_sentence_transformers(tmp_path / "theirs")
    assert (ours.max_length, ours.pooling, ours.query_prompt) == (12, pooling, "find: ")
    long = [*WORDS, " ".join(WORDS)]
    for role, prompt in (("query", "query"), ("document", None)):
        found = theirs.encode(long, prompt_name=prompt, normalize_embeddings=True)
        np.testing.assert_allclose(ours.embed(long, role), found, atol=1e-6)  # type: ignore[arg-type]


def test_a_sentence_transformer_is_fitted_further(tiny: Suite, folder: Path) -> None:
    start = CoDiEmb.from_sentence_transformers(folder, training=small().training)
    before = start.embed(WORDS)
    after = start.fit(tiny).embed(WORDS)
    assert np.abs(after - before).max() > 0.01 and start.query_prompt == "Query: "


def test_it_comes_back_as_it_was(fitted: CoDiEmb, folder: Path) -> None:
    back = CoDiEmb.from_pretrained(folder)
    np.testing.assert_array_equal(back.embed(WORDS), fitted.embed(WORDS))
    names = {"modules.json", "1_Pooling/config.json", "encoder/model.safetensors"}
    assert names <= set(json.loads((folder / "manifest.json").read_text())["files"])


def test_other_modules_are_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "modules.json").write_text(
        json.dumps([{"path": "", "type": "sentence_transformers.models.Dense"}])
    )
    with pytest.raises(InputError, match="Dense"):
        CoDiEmb.from_sentence_transformers(tmp_path)
    with pytest.raises(InputError, match=r"modules\.json"):
        CoDiEmb.from_sentence_transformers(tmp_path / "nowhere")


# -- fusion ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def family(fitted: CoDiEmb, folder: Path, tiny: Suite) -> tuple[str, list[Path]]:
    """A base encoder, and two models that were fitted from it."""
    start = str(folder / "encoder")
    places = []
    for name in ("alike", "finds"):
        place = folder.parent / name
        replace(fitted, encoder=start).fit(tiny.only(name)).save_pretrained(place)
        places.append(place)
    return start, places


def test_fused_models_are_models(family: tuple[str, list[Path]], tmp_path: Path) -> None:
    start, places = family
    model = fuse(places, start)
    model.save_pretrained(tmp_path / "fused")
    back = CoDiEmb.from_pretrained(tmp_path / "fused")
    np.testing.assert_array_equal(back.embed(WORDS), model.embed(WORDS))
    parts = [CoDiEmb.from_pretrained(place) for place in places]
    assert all(not np.allclose(part.embed(WORDS), model.embed(WORDS), atol=1e-3) for part in parts)
    origin = CoDiEmb.from_sentence_transformers(places[0], encoder=start).text_encoder_.state_dict()
    states = [part.text_encoder_.state_dict() for part in parts]
    for weights in fusion_weights(states, origin).values():
        assert weights.sum().item() == pytest.approx(1)


def test_a_model_fused_with_itself_is_itself(family: tuple[str, list[Path]]) -> None:
    start, (first, _) = family
    alone = CoDiEmb.from_pretrained(first).embed(WORDS)
    np.testing.assert_array_equal(fuse([first, first], start).embed(WORDS), alone)


def test_a_model_that_is_the_base_counts_for_nothing(family: tuple[str, list[Path]]) -> None:
    start, (first, _) = family
    base = CoDiEmb.from_pretrained(first)
    origin = CoDiEmb.from_sentence_transformers(first, encoder=start)
    base.text_encoder_.load_state_dict(origin.text_encoder_.state_dict())
    place = first.parent / "base"
    base.save_pretrained(place)
    fused = fuse([place, first], start).embed(WORDS)
    np.testing.assert_allclose(fused, CoDiEmb.from_pretrained(first).embed(WORDS), atol=1e-6)


def test_models_of_another_size_are_refused(
    family: tuple[str, list[Path]], tiny: Suite, tmp_path: Path
) -> None:
    start, (first, _) = family
    other = small(encoder="bert(width=16, depth=1, heads=2)").fit(tiny.only("alike"))
    other.save_pretrained(tmp_path / "other")
    with pytest.raises(InputError, match="checkpoint 2"):
        fuse([first, tmp_path / "other"], start)
    with pytest.raises(InputError, match="no model"):
        fuse([], start)


# -- what is refused -------------------------------------------------------------------------------


def scored(**more: Any) -> pa.Table:
    return pa.table(
        {"a": WORDS * 5, "b": WORDS[::-1] * 5, "score": [0.0, 1.0, 2.0, 3.0] * 5, **more}
    )


def test_negatives_have_no_place_in_similarity() -> None:
    table = scored(negatives=[WORDS[:2]] * 20)
    roles = {"a": "text", "b": "text", "negatives": "text"}
    kind = {"kind": "similarity", "texts": ["a", "negatives"]}
    suite = Suite.from_table(table, {"score": kind}, inputs=roles)
    with pytest.raises(InputError, match=r"'score'.*'negatives' holds several.*no place"):
        small().fit(suite)


def test_other_kinds_are_refused() -> None:
    table = scored(same=[True, False] * 10)
    suite = Suite.from_table(table, ["same"], inputs={"a": "text", "b": "text"}, exclude=["score"])
    with pytest.raises(InputError, match=r"'same'.*'classification'"):
        small().fit(suite)


def test_a_query_without_answer_is_refused() -> None:
    rows = {"query": WORDS * 5, "found": [WORDS] * 20, "relevant": [[1, 0, 0, 0]] * 20}
    rows["relevant"][3] = [0, 0, 0, 0]
    split = ["train"] * 12 + ["validation"] * 4 + ["test"] * 4
    suite = Suite.from_table(
        pa.table({**rows, "split": split}),
        {"relevant": "retrieval"},
        inputs={"query": "text", "found": "text"},
        split="column:split",
    )
    with pytest.raises(InputError, match="'relevant', training row 4"):
        small().fit(suite)


def test_what_would_be_another_loss_is_refused(tiny: Suite) -> None:
    with pytest.raises(InputError, match="accumulation"):
        small(training=Training(accumulation=2)).fit(tiny)
    with pytest.raises(InputError, match=r"query_prompt has .* tokens"):
        small(query_prompt="the dog " * 40, max_length=16).fit(tiny)


def test_processes_need_batches_of_one_task(tiny: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    init = Engine.__init__

    def two(self: Engine, *arguments: Any, **named: Any) -> None:
        init(self, *arguments, **named)
        self.world = 2

    monkeypatch.setattr(Engine, "__init__", two)
    with pytest.raises(InputError, match="on 2 processes"):
        small(mixture="joint").validate(tiny)
    small().validate(tiny)


def test_texts_to_embed_are_texts(fitted: CoDiEmb) -> None:
    for texts, culprit in ((["a", " "], "text 2"), ([], "no text")):
        with pytest.raises(InputError, match=culprit):
            fitted.embed(texts)
    with pytest.raises(InputError, match="'passage'"):
        fitted.embed(WORDS, "passage")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="k=5 of 4"):
        fitted.search(WORDS, WORDS, k=5)
    with pytest.raises(InputError, match="not fitted"):
        small().embed(WORDS)


# -- paper scale -----------------------------------------------------------------------------------


def test_paper_scale_is_bert_large() -> None:
    """bge-large-zh-v1.5: BERT-large with 21,128 tokens, without its pooler."""
    suite = search_suite()
    learner = CoDiEmb(encoder="bert_large", pooling="cls", max_length=512, vocabulary=21_128)
    spec = Processor.fit(suite, learner.reader(suite))
    with torch.device("meta"):
        module = learner.build(spec)
    size = sum(p.numel() for p in module.parameters())
    tokens = module.encoder.net.config.vocab_size
    assert module.encoder.width == 1024 and module.encoder.depth == 24
    assert size + (21_128 - tokens) * 1024 == 324_472_832


def test_the_settings_are_the_papers() -> None:
    made = CoDiEmb()
    told = as_objective(made.objective)  # type: ignore[arg-type]
    assert (told.positives, told.negatives) == (2, 4)
    assert (told.temperature, made.training.lr) == (0.02, 5e-5)
    assert as_objective(str(told)) == told
    assert (made.training.batch, made.training.epochs) == (32, 5)
    assert str(as_mixture(made.mixture)) == "datasets(sizes='')"  # type: ignore[arg-type]
