"""DSE: the loss, the logits, the poolers, and vectors that answer as pairs do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch.nn import functional as F

from polytask.baselines.cross_encoder import CrossEncoder
from polytask.data import Batch, Suite
from polytask.data.pair_generators import SynonymPairs
from polytask.errors import InputError
from polytask.parts.retrieval import Index
from polytask.systems.dse import DSE, Logits, Times, as_logits, pair_keys, taught
from polytask.tasks import Classification, Regression, Similarity
from polytask.testing import check_system
from polytask.training import Training

TINY = "bert(width=16, depth=3, heads=2)"
STILL = "bert(width=16, depth=3, heads=2, dropout=0.0)"
SHORT = Training(lr=3e-3, batch=16, epochs=2, device="cpu")
LAW = SynonymPairs(concepts=12, synonyms=2, length=4, shared=2)


@cache
def suite() -> Suite:
    return LAW.suite(rows=(64, 24, 24))


def made(**settings) -> DSE:
    fixed = {"encoder": TINY, "head": "mlp(hidden=[8])", "top": 2, "max_length": 32}
    return DSE(**{**fixed, "training": SHORT, "teaching": SHORT, **settings})


@cache
def fitted(**settings) -> DSE:
    return made(**settings).fit(suite())


@cache
def teacher() -> CrossEncoder:
    return CrossEncoder(encoder=TINY, max_length=32, training=SHORT).fit(suite())


def batch_of(learner: DSE, rows: int = 24) -> Batch:
    data = learner.processor_.encode(suite(), "train")
    return learner.views(data)[torch.arange(rows)]


# -- the teacher's logits --------------------------------------------------------------------------


def test_two_logits_become_one_without_losing_the_chance() -> None:
    both = torch.randn(50, 2, generator=torch.Generator().manual_seed(0)).double() * 4
    one = as_logits(Classification(classes=("no", "yes")), both.softmax(1).numpy())
    torch.testing.assert_close(one.squeeze(1).double(), both[:, 1] - both[:, 0], atol=1e-5, rtol=0)
    torch.testing.assert_close(
        one.sigmoid().squeeze(1).double(), both.softmax(1)[:, 1], atol=1e-6, rtol=0
    )


@pytest.mark.parametrize(
    "kind",
    [
        Classification(classes=(0, 1)),
        Classification(classes=("a", "b", "c")),
        Regression(mean=3.0, std=2.0),
        Similarity(low=0, high=5),
    ],
)
def test_logits_decode_to_what_they_were_made_of(kind) -> None:
    output = torch.randn(40, kind.outputs, generator=torch.Generator().manual_seed(1)) * 3
    logits = as_logits(kind, kind.decode(output))
    np.testing.assert_allclose(kind.decode(logits), kind.decode(output), atol=1e-6)
    wanted = output - output.mean(1, keepdim=True) if kind.outputs == 3 else output
    torch.testing.assert_close(logits, wanted, atol=1e-5, rtol=0)


def test_certainty_stays_finite() -> None:
    for classes in (2, 3):
        kind = Classification(classes=tuple(range(classes)))
        assert as_logits(kind, np.eye(classes)).isfinite().all()


def test_logits_are_found_by_their_texts_in_any_order() -> None:
    first, second = ["a", "ab", "a", None], ["bc", "c", "b", "x"]
    keys = pair_keys(first, second)
    assert len(set(keys.tolist())) == 4  # a + bc is not ab + c
    logits = Logits.of(keys, torch.arange(4.0).unsqueeze(1))
    turned = torch.tensor([2, 0, 3, 1, 0])
    assert logits.at(keys[turned], "t").squeeze(1).tolist() == turned.tolist()
    with pytest.raises(InputError, match=r"task 't'.*lack 1 of 2"):
        logits.at(torch.cat([keys[:1], pair_keys(["new"], ["pair"])]), "t")


def test_training_rows_carry_their_own_logits() -> None:
    learner = made(teacher=teacher()).fit(suite())
    rows = torch.tensor([5, 0, 17])
    seen = learner.views(learner.processor_.encode(suite(), "train"))[rows]
    table = suite().table("train").take(rows.numpy())
    decoded = teacher().predict(table)
    for task in learner.processor_.tasks:
        wanted = as_logits(task.kind, decoded[task.name])
        torch.testing.assert_close(seen.inputs[taught(task.name)], wanted, atol=1e-5, rtol=0)


# -- the loss --------------------------------------------------------------------------------------


def test_loss_by_the_formula() -> None:
    learner = fitted()
    batch, module = batch_of(learner), learner.module_.eval()
    losses, outputs = module.losses(batch), module.outputs(batch.inputs, batch.targets)
    alike, wanted = outputs["alike"].squeeze(1), batch.inputs[taught("alike")].squeeze(1)
    labels = batch.targets["alike"].float()
    by_hand = 0.5 * F.binary_cross_entropy_with_logits(alike, labels)
    by_hand = by_hand + 0.5 * (alike - wanted).square().mean()
    torch.testing.assert_close(losses["alike"], by_hand)
    overlap, wanted = outputs["overlap"].squeeze(1), batch.inputs[taught("overlap")].squeeze(1)
    by_hand = 0.5 * (overlap - batch.targets["overlap"] / LAW.length).square().mean()
    by_hand = by_hand + 0.5 * (overlap - wanted).square().mean()
    torch.testing.assert_close(losses["overlap"], by_hand)


def test_the_squares_of_three_classes_are_summed() -> None:
    table = {**LAW.draw(40, 0), "split": ["train"] * 20 + ["validation"] * 10 + ["test"] * 10}
    table["third"] = ["abc"[i % 3] for i in range(40)]
    del table["alike"], table["overlap"]
    three = Suite.from_table(
        pa.table(table), ["third"], inputs={"a": "text", "b": "text"}, split="column:split"
    )
    learner = made(distillation=1.0).fit(three)
    batch = learner.views(learner.processor_.encode(three, "train"))[torch.arange(7)]
    module = learner.module_.eval()
    output = module.outputs(batch.inputs, ["third"])["third"]
    apart = (output - batch.inputs[taught("third")]).square().sum(1).mean()
    torch.testing.assert_close(module.losses(batch)["third"], apart)
    some = replace(batch, masks={"third": torch.tensor([True] * 3 + [False] * 4)})
    apart = (output - batch.inputs[taught("third")])[:3].square().sum(1).mean()
    torch.testing.assert_close(module.losses(some)["third"], apart)


def test_without_distillation_the_loss_is_the_kinds_own_and_asks_no_teacher() -> None:
    learner = fitted(distillation=0.0, teacher="nowhere")
    batch, module = batch_of(learner), learner.module_.eval()
    outputs = module.outputs(batch.inputs, batch.targets)
    for name, loss in module.losses(batch).items():
        kind = learner.processor_.task(name).kind
        assert loss == kind.loss(outputs[name], batch.targets[name], batch.masks[name])


def test_with_distillation_alone_labels_do_not_matter() -> None:
    learner = fitted(distillation=1.0)
    batch, module = batch_of(learner), learner.module_.eval()
    other = replace(batch, targets={n: t.flip(0) for n, t in batch.targets.items()})
    assert module.losses(batch) == module.losses(other)


# -- sentence vectors ------------------------------------------------------------------------------


def test_padding_does_not_change_a_vector() -> None:
    learner = fitted()
    module = learner.module_.eval()
    ids = learner.processor_.encode(suite(), "test").inputs["a"][:6]
    wider = F.pad(ids, (0, 5), value=-1)
    torch.testing.assert_close(module.embed(wider), module.embed(ids), rtol=0, atol=1e-6)
    torch.testing.assert_close(module.embed(wider[:1]), module.embed(ids)[:1], rtol=0, atol=1e-6)


@pytest.mark.parametrize("layers", ["concat", "mean"])
@pytest.mark.parametrize("tokens", ["mean", "sqrt", "max", "cls"])
@pytest.mark.parametrize("keep_first", [False, True])
def test_every_pooler_token_by_token(layers, tokens, keep_first) -> None:
    settings = {"layers": layers, "tokens": tokens, "keep_first": keep_first}
    learner = made(distillation=0.0, **settings)
    learner.processor_ = fitted().processor_
    torch.manual_seed(0)
    module = learner.build(learner.processor_).eval()
    ids = learner.processor_.encode(suite(), "test").inputs["a"][:5].clone()
    ids[1, 2:] = -1  # a short sentence among long ones
    sequence = module.encoder.sequence(ids)
    states = module.encoder.layers(sequence)
    got = module.embed(ids)
    assert got.shape == (5, 32 if layers == "concat" else 16)
    for row in range(5):
        length = int(sequence.mask[row].sum())
        top = [layer[row, :length] for layer in states[-2:]]
        both = torch.cat(top, 1) if layers == "concat" else (top[0] + top[1]) / 2
        kept = both if keep_first else both[1:]
        wanted = {
            "mean": kept.mean(0),
            "sqrt": kept.sum(0) / len(kept) ** 0.5,
            "max": kept.amax(0),
            "cls": both[0],
        }[tokens]
        torch.testing.assert_close(got[row], wanted, rtol=0, atol=1e-5)


def test_both_sentences_pass_through_one_encoder() -> None:
    learner = fitted()
    inputs = learner.processor_.encode(suite(), "test").inputs
    ids = inputs["a"][:4]
    both = learner.module_.eval().represent({"a": ids, "b": ids}, ["alike"])
    assert torch.equal(both["a"], both["b"])


def test_a_text_that_is_missing_has_the_vector_zero() -> None:
    module = fitted().module_.eval()
    ids = fitted().processor_.encode(suite(), "test").inputs["a"][:3].clone()
    ids[1] = -1
    rep = module.represent({"a": ids, "b": torch.full_like(ids, -1)}, ["alike"])
    assert not rep["a"][1].any() and not rep["b"].any()
    torch.testing.assert_close(rep["a"][[0, 2]], module.embed(ids[[0, 2]]))


def test_a_projection_sets_the_width() -> None:
    learner = fitted(project=6)
    assert learner.embed(["w001 w002"]).shape == (1, 6)


# -- many candidates -------------------------------------------------------------------------------


def pairs_of(queries: list[str], candidates: list[str]) -> dict[str, list[str]]:
    return {
        "a": [q for q in queries for _ in candidates],
        "b": [c for _ in queries for c in candidates],
    }


QUERIES = LAW.draw(4, seed=5)["a"]
CANDIDATES = LAW.draw(9, seed=6)["b"]


@pytest.mark.parametrize("head", ["mlp(hidden=[8])", "dot", "mlp(hidden=[])"])
def test_kept_vectors_answer_as_pairs_do(head: str) -> None:
    learner = fitted(head=head)
    index = learner.index(CANDIDATES)
    joint = learner.predict(pairs_of(QUERIES, CANDIDATES))
    for task in ("alike", "overlap"):
        scores = learner.scores(QUERIES, index, task)
        wanted = joint[task].reshape(4, 9, *joint[task].shape[1:])
        np.testing.assert_allclose(scores, wanted, atol=1e-6)


def test_every_text_is_encoded_once() -> None:
    learner = fitted()
    embed = learner.module_.embed
    seen: list[int] = []

    def counted(ids: torch.Tensor) -> torch.Tensor:
        seen.append(len(ids))
        return embed(ids)

    learner.module_.embed = counted
    try:
        index = learner.index(CANDIDATES)
        learner.scores(QUERIES, index, "alike")
        assert sum(seen) == len(QUERIES) + len(CANDIDATES)
        learner.search(QUERIES, index, 3, task="alike")
        assert sum(seen) == 2 * len(QUERIES) + len(CANDIDATES)
    finally:
        learner.module_.embed = embed


def test_search_is_the_order_of_the_scores() -> None:
    learner = fitted()
    index = learner.index(CANDIDATES)
    chances = learner.scores(QUERIES, index, "alike")
    for of, column in ((None, 1), ("yes", 1), ("no", 0)):
        hits = learner.search(QUERIES, index, 4, task="alike", of=of)
        order = np.argsort(-chances[..., column], axis=1, kind="stable")[:, :4]
        np.testing.assert_allclose(
            hits.scores, np.take_along_axis(chances[..., column], order, 1), atol=1e-6
        )
    numbers = learner.scores(QUERIES, index, "overlap")
    hits = learner.search(QUERIES, index, 99, task="overlap")
    np.testing.assert_allclose(hits.scores, -np.sort(-numbers, axis=1), atol=1e-5)
    assert hits.rows.shape == (4, 9)


def test_the_teacher_has_the_last_word() -> None:
    learner = fitted()
    index = learner.index(CANDIDATES)
    whole = learner.search(QUERIES, index, 9, task="alike", rescore=9)
    judge = learner.teachers_["alike"]
    table = pa.table(pairs_of(QUERIES, CANDIDATES))
    chances = judge.predict(table, ["alike"])["alike"][:, 1].reshape(4, 9)
    np.testing.assert_allclose(whole.scores, -np.sort(-chances, axis=1), atol=1e-6)
    few = learner.search(QUERIES, index, 2, task="alike", rescore=5)
    mine = learner.search(QUERIES, index, 5, task="alike")
    for query in range(4):
        among = mine.rows[query]
        wanted = among[np.argsort(-chances[query, among], kind="stable")][:2]
        np.testing.assert_array_equal(few.rows[query], wanted)


def test_a_loaded_student_answers_alike_and_asks_who_rescores(tmp_path) -> None:
    learner = fitted()
    index = learner.index(CANDIDATES)
    learner.save_pretrained(tmp_path / "student")
    index.save(tmp_path / "index")
    learner.teachers_["alike"].save_pretrained(tmp_path / "teacher")
    again, kept = DSE.from_pretrained(tmp_path / "student"), Index.load(tmp_path / "index")
    first = learner.search(QUERIES[0], index, 3, task="alike", rescore=6)
    np.testing.assert_array_equal(
        again.scores(QUERIES, kept, "alike"), learner.scores(QUERIES, index, "alike")
    )
    with pytest.raises(InputError, match="say teacher="):
        again.search(QUERIES[0], kept, 3, task="alike", rescore=6)
    second = again.search(
        QUERIES[0], kept, 3, task="alike", rescore=6, teacher=tmp_path / "teacher"
    )
    np.testing.assert_array_equal(first.rows, second.rows)


def test_times_say_when_an_index_is_worth_it() -> None:
    learner = fitted()
    found = learner.times(QUERIES[0], learner.index(CANDIDATES), task="alike", rounds=1)
    assert found.candidates == 9 and min(found) > 0
    assert Times(1000, search=0.5, encode=0.001, pair=0.002).faster == pytest.approx(4)
    assert Times(1000, search=0.5, encode=0.001, pair=0.002).worth == pytest.approx(1 / 1.5)
    assert Times(1, search=0.5, encode=0.001, pair=0.002).worth == float("inf")


def test_an_index_of_other_weights_is_refused() -> None:
    index = fitted().index(CANDIDATES)
    with pytest.raises(InputError, match="another model"):
        fitted(head="dot").search(QUERIES, index, 3, task="alike")


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"task": "like"}, "'like'"),
        ({}, "several tasks"),
        ({"task": "alike", "of": "maybe"}, "'maybe'"),
        ({"task": "overlap", "of": "yes"}, "a number"),
        ({"task": "alike", "k": 5, "rescore": 3}, "rescore=3"),
    ],
)
def test_wrong_searches_are_refused(asked: dict, message: str) -> None:
    learner = fitted()
    with pytest.raises(InputError, match=message):
        learner.search(QUERIES, learner.index(CANDIDATES), **{"k": 2, **asked})


def test_empty_texts_are_not_indexed() -> None:
    with pytest.raises(InputError, match="text 2 of 2 is empty"):
        fitted().index(["w001", "  "])
    with pytest.raises(InputError, match="there is no text"):
        fitted().index([])


# -- teachers --------------------------------------------------------------------------------------


def test_a_teacher_for_each_task_is_trained_on_it_alone() -> None:
    learner = fitted()
    assert set(learner.teachers_) == {"alike", "overlap"}
    for name, one in learner.teachers_.items():
        assert [t.name for t in one.processor_.tasks] == [name]


def test_teachers_from_folders_and_by_task(tmp_path) -> None:
    teacher().save_pretrained(tmp_path / "teacher")
    folder = made(teacher=str(tmp_path / "teacher")).fit(suite())
    ready = made(teacher={"alike": teacher(), "overlap": str(tmp_path / "teacher")}).fit(suite())
    alone = made(teacher=teacher()).fit(suite())
    rows = suite().table("test")
    for name, values in alone.predict(rows).items():
        np.testing.assert_array_equal(folder.predict(rows)[name], values)
        np.testing.assert_array_equal(ready.predict(rows)[name], values)


def test_any_learner_of_texts_may_teach() -> None:
    learner = made(teacher="text_encoder").fit(suite().only("overlap"))
    one = learner.teachers_["overlap"]
    assert (one.id, one.encoder, one.max_length) == ("text_encoder", TINY, 32)


def told(name: str, column: slice | int) -> Callable[[list[str], list[str]], np.ndarray]:
    """The fitted teacher as a function of two lists of texts."""

    def function(first: list[str], second: list[str]) -> np.ndarray:
        return teacher().predict({"a": first, "b": second}, [name])[name][..., column]

    return function


@pytest.mark.parametrize("column", [slice(None), 1])  # chances of both classes, or of the second
def test_a_function_of_two_lists_of_texts_may_teach_and_rescore(tmp_path, column) -> None:
    alone = suite().only("alike")
    function = told("alike", column)
    learner = made(teacher=function).fit(alone, out=tmp_path)
    same = made(teacher=teacher()).fit(alone)
    rows = alone.table("test")
    np.testing.assert_allclose(
        learner.predict(rows)["alike"], same.predict(rows)["alike"], atol=1e-5
    )
    index = same.index(CANDIDATES)
    one, other = (same.search(QUERIES, index, 3, rescore=6, teacher=t) for t in (function, None))
    np.testing.assert_array_equal(one.rows, other.rows)
    again = made(teacher=function).fit(alone, out=tmp_path)  # from the logits that are kept
    np.testing.assert_array_equal(again.predict(rows)["alike"], learner.predict(rows)["alike"])


def test_a_function_may_teach_numbers() -> None:
    alone = suite().only("overlap")
    learner, same = (made(teacher=t).fit(alone) for t in (told("overlap", slice(None)), teacher()))
    rows = alone.table("test")
    np.testing.assert_allclose(
        learner.predict(rows)["overlap"], same.predict(rows)["overlap"], atol=1e-5
    )


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (
            lambda a, b: np.zeros((len(a), 3)),
            r"'alike'.*shape \(64, 3\) for 64 pairs, not \(64, 2\)",
        ),
        (lambda a, b: np.full(len(a), 1.5), "'alike' gave values that are no chances"),
        (lambda a, b: np.full(len(a), np.nan), "'alike' gave values that are no chances"),
    ],
)
def test_what_a_function_gives_is_looked_at(function, message: str) -> None:
    with pytest.raises(InputError, match=message):
        made(teacher=function).fit(suite().only("alike"))


def test_a_teacher_of_other_tasks_is_refused_before_anything_is_fitted() -> None:
    alone = CrossEncoder(encoder=TINY, max_length=32, training=SHORT).fit(suite().only("alike"))
    with pytest.raises(InputError, match="'overlap'"):
        made(teacher=alone).fit(suite())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"teacher": "nobody"}, "'nobody'"),
        ({"teacher": {"alike": "cross_encoder", "overlap": "nowhere"}}, "'nowhere' is neither"),
        ({"teacher": {"alike": "cross_encoder"}}, "'overlap' has no teacher"),
        ({"teacher": CrossEncoder()}, "not fitted"),
        ({"distillation": 1.5}, "distillation is 1.5"),
        ({"top": 4}, "top=4.*3 layers"),
        ({"top": 0}, "top is 0"),
        ({"head": "cosine"}, "'cosine'"),
    ],
)
def test_wrong_settings_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        made(**settings).fit(suite())


def test_a_teacher_of_other_classes_is_refused() -> None:
    table = suite().table("train")
    named = table.set_column(
        table.column_names.index("alike"), "alike", pa.array(["left", "right"] * 32)
    )
    other = Suite.from_table(
        named, ["alike"], inputs={"a": "text", "b": "text"}, exclude=["overlap"]
    )
    wrong = CrossEncoder(encoder=TINY, max_length=32, training=SHORT).fit(other)
    with pytest.raises(InputError, match=r"'alike'.*left"):
        made(teacher=wrong).fit(suite().only("alike"))


def test_what_is_no_pair_is_refused() -> None:
    one = Suite.from_table(
        suite().table("train"), ["alike"], inputs={"a": "text"}, exclude=["b", "overlap"]
    )
    with pytest.raises(InputError, match=r"two text columns.*'alike'"):
        made().fit(one)


def test_a_stopped_run_goes_on_with_the_logits_it_has(tmp_path, monkeypatch) -> None:
    whole = made().fit(suite())
    made().fit(suite(), out=tmp_path)
    monkeypatch.setattr(CrossEncoder, "fit", lambda *args, **kw: pytest.fail("fitted again"))
    again = made().fit(suite(), out=tmp_path)
    rows = suite().table("test")
    for name, values in again.predict(rows).items():
        np.testing.assert_array_equal(values, whole.predict(rows)[name])
    assert set(again.teachers_) == {"alike", "overlap"}
    with pytest.raises(InputError, match="another run"):
        made(distillation=0.3).fit(suite(), out=tmp_path)


# -- as a learner ----------------------------------------------------------------------------------


def test_updates_are_counted_not_micro_batches() -> None:
    """Two micro-batches per update: the same updates, at the same rates."""

    def fit(accumulation: int) -> DSE:
        budget = replace(SHORT, accumulation=accumulation, schedule="linear(warmup=0.25)")
        return made(encoder=STILL, teacher=teacher(), training=budget).fit(suite())

    one, two = fit(1), fit(2)
    assert one.state_.steps == two.state_.steps == 2 * (64 // 16)
    rows = suite().table("test")
    for name, values in one.predict(rows).items():
        np.testing.assert_allclose(two.predict(rows)[name], values, atol=1e-5)


def test_lower_layers_stay_as_they_were() -> None:
    torch.manual_seed(0)
    learner = made(distillation=0.0, frozen=2)
    learner.processor_ = fitted().processor_
    torch.manual_seed(SHORT.seed)
    before = dict(learner.build(learner.processor_).named_parameters())
    after = learner.fit(suite()).module_.named_parameters()
    still = {name for name, p in after if torch.equal(p, before[name])}
    assert still == {n for n in before if "embeddings" in n or "layer.0." in n or "layer.1." in n}


def test_promises() -> None:
    settings = {"encoder": TINY, "top": 2, "head": "mlp(hidden=[8])", "max_length": 32}
    for check in check_system(DSE, suite=suite(), training=SHORT, teaching=SHORT, **settings):
        assert check.passed is not False, check


def test_paper_scale() -> None:
    """BERT-large: vectors of 4,096, features of 16,384, 335 million weights and the head."""
    spec = fitted().processor_
    with torch.device("meta"):
        module = DSE(encoder="bert_large").build(spec)
    head = module.heads["alike"]
    assert module.width == 4096 and head.first.in_features == 16_384
    assert sum(p.numel() for p in head.parameters()) == 16_384 * 512 + 512 + 512 + 1
    assert module.encoder.depth == 24
