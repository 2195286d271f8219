"""The text encoder: what each kind is answered from, what rows without a text do, adapters."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from polytask import Suite
from polytask.baselines.text_encoder import TextEncoderLearner, TextEncoderNet
from polytask.comparing import answers
from polytask.data import Processor
from polytask.errors import InputError
from polytask.lifecycle.export import Session, export
from polytask.testing import check_system, document_suite, pair_suite, question_suite, search_suite
from polytask.training import Training

TINY: dict[str, Any] = {"encoder": "bert(width=16, depth=1, heads=2)", "vocabulary": 200}
ONCE = Training(lr=1e-3, batch=16, epochs=1)


def net(suite: Suite, **settings: Any) -> tuple[TextEncoderNet, Processor]:
    learner = TextEncoderLearner(**{**TINY, **settings})
    spec = Processor.fit(suite, learner.reader(suite))
    torch.manual_seed(0)
    return learner.build(spec).eval(), spec


def test_similarity_apart_is_the_cosine() -> None:
    module, spec = net(pair_suite(), pairs="apart")
    batch = spec.encode(pair_suite(), "train")[0:6]
    answer = module.outputs(batch.inputs, ["alike"])["alike"].squeeze(-1)
    u, v = (module.encoder.embed(batch.inputs[name]) for name in ("first", "second"))
    torch.testing.assert_close(answer, (F.cosine_similarity(u, v) + 1) / 2)


def test_texts_that_tasks_share_are_encoded_once(monkeypatch) -> None:
    module, spec = net(pair_suite())
    calls = []
    run = module.encoder.forward
    monkeypatch.setattr(module.encoder, "forward", lambda s: calls.append(len(s.ids)) or run(s))
    module.losses(spec.encode(pair_suite(), "train")[0:8])
    assert calls == [8]  # three tasks read the same pairs


def test_rows_of_other_tasks_are_not_encoded(monkeypatch) -> None:
    suite = search_suite()
    module, spec = net(suite, pairs="apart")
    batch = spec.encode(suite, "train")
    pairs = int(batch.masks["alike"].sum())
    calls = []
    embed = module.encoder.sequence
    monkeypatch.setattr(module.encoder, "sequence", lambda *a: calls.append(len(a[0])) or embed(*a))
    module.outputs(batch[slice(None)].inputs, ["alike"])
    assert calls == [len(batch), pairs]  # every row has a text, only pairs have a second one


def test_heads_start_as_probes_of_the_encoder_as_it_comes() -> None:
    suite = document_suite()
    barely = Training(lr=1e-9, batch=16, epochs=1)
    losses = {}
    for start in ("probe", "random"):
        learner = TextEncoderLearner(**TINY, start=start, training=barely).fit(suite)  # type: ignore[arg-type]
        (epoch,) = learner.history_
        losses[start] = sum(epoch["loss"].values())
    assert losses["probe"] < 0.9 * losses["random"]


def test_a_batch_of_one_task_trains_that_task_alone() -> None:
    suite = search_suite()
    module, spec = net(suite)
    batch = spec.encode(suite, "train")
    rows = batch.masks["finds"].nonzero().squeeze(1)[:5]
    losses = module.losses(batch.only(["finds"])[rows])
    assert set(losses) == {"finds"} and torch.isfinite(losses["finds"])


def test_spans_never_point_past_the_text() -> None:
    suite = question_suite().only("where")
    module, spec = net(suite)
    batch = spec.encode(suite, "test")
    drawn = batch[slice(None)]
    decoded = module.decode("where", module.outputs(drawn.inputs, ["where"])["where"])
    sizes = (drawn.inputs["text_pair"] >= 0).sum(1).numpy()
    assert (decoded[:, 1] <= sizes).all() and (decoded[:, 0] < decoded[:, 1]).all()


def test_it_learns_sections_and_topics() -> None:
    suite = document_suite(120)
    learner = TextEncoderLearner(**TINY, training=replace(ONCE, epochs=12, patience=12, lr=3e-3))
    scores = learner.fit(suite).score(suite, "test")
    assert scores["topics"]["accuracy"] > 0.9
    assert scores["sections"]["pk"] < 0.2  # no boundary at all: about 0.5


def test_a_task_that_wants_words_is_refused() -> None:
    with pytest.raises(InputError, match="wants an answer in words"):
        TextEncoderLearner(**TINY, training=ONCE).fit(question_suite().only("deed"))


def test_what_is_cut_is_told_per_task() -> None:
    told: list[str] = []
    learner = TextEncoderLearner(**TINY, max_length=8, training=ONCE)
    learner.fit(pair_suite(), progress=lambda r: told.append(r.get("warning", "")))
    cut = [sentence for sentence in told if "longer than the model reads" in sentence]
    assert len(cut) == 3 and cut[0].startswith("task 'alike': ")


def test_promises_on_documents() -> None:
    checks = check_system("text_encoder", suite=document_suite(), **TINY)
    assert [c for c in checks if c.passed is False] == []


def test_a_row_without_a_text_gets_no_answer() -> None:
    suite = search_suite()
    learner = TextEncoderLearner(**TINY, pairs="apart", training=ONCE).fit(suite)
    rows = suite.table("test").select(list(suite.inputs))
    written = answers.table(learner, rows)
    for task, column in (("alike", "text_pair"), ("finds", "texts")):
        assert written[task].is_valid().to_pylist() == rows[column].is_valid().to_pylist()


@pytest.mark.parametrize(
    ("suite", "settings", "on_rows"),
    [
        (pair_suite(), {}, True),
        (pair_suite(), {"pairs": "apart"}, False),
        (document_suite(), {}, False),
        (search_suite(), {"pairs": "apart"}, True),
        (question_suite().only("where", "sort"), {}, True),
    ],
    ids=["pairs", "apart", "documents", "search", "questions"],
)
def test_the_exported_model_answers_alike(suite: Suite, settings, on_rows, tmp_path) -> None:
    learner = TextEncoderLearner(**TINY, **settings, training=ONCE).fit(suite)
    export(learner, tmp_path / "onnx", suite=suite if on_rows else None)
    session = Session(tmp_path / "onnx")
    for task in suite.tasks:
        whole = suite.only(task.name).table("test").select(list(task.texts))
        for rows in (whole, whole.slice(0, 1)):  # other numbers of texts, of other lengths
            ours = learner.predict(rows, [task.name])[task.name]
            theirs = session.predict(rows, [task.name])[task.name]
            if ours.dtype == object and isinstance(ours[0], np.ndarray):
                for a, b in zip(ours, theirs, strict=True):
                    np.testing.assert_allclose(a, b, atol=1e-4)
            elif ours.dtype == object:
                assert ours.tolist() == theirs.tolist()
            else:
                np.testing.assert_allclose(ours, theirs, atol=1e-4)
