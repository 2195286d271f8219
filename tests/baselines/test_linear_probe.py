"""Linear models on frozen sentence vectors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from polytask.baselines.linear_probe import LinearProbe
from polytask.data import Suite
from polytask.errors import InputError
from polytask.parts.sentence_probe import (
    Probe,
    Vectors,
    cosine,
    from_tensors,
    probe_features,
    to_tensors,
)
from polytask.parts.text_encoders import as_reader, as_text_encoder, embed_texts
from polytask.tasks import Boundaries, Classification, Regression, Similarity, Tagging, Task
from polytask.tasks.text import objects

pytest.importorskip("transformers")

TINY = "bert(width=16, depth=1, heads=2)"
WORDS = ("red", "green", "blue", "warm")


def counted(texts: list[str]) -> NDArray:
    """A vector that counts four words."""
    return np.array([[text.split().count(w) for w in WORDS] for text in texts], np.float32)


def vectors(*columns: Any) -> Vectors:
    made = Vectors(counted, len(WORDS))
    made.add(objects(column) for column in columns)
    return made


def sentences(rows: int, seed: int = 0) -> list[str]:
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, 6)) for _ in range(rows)]


def fitted(kind: Any, texts: dict[str, Any], target: Any) -> tuple[Probe, NDArray]:
    """A probe of 200 rows, chosen on the same rows, and its answers there."""
    task = Task("t", kind, texts=tuple(texts))
    columns = {name: objects(column) for name, column in texts.items()}
    made = vectors(*texts.values())
    rows = (columns, np.asarray(target) if not isinstance(target, list) else objects(target))
    probe = Probe.fit(task, rows, rows, made)
    return probe, probe.predict(columns, made)


def test_numbers_are_ridge_regressions_of_the_vector() -> None:
    texts = sentences(200)
    wanted = counted(texts) @ np.array([3.0, -1.0, 0.5, 0.0]) + 7
    _, found = fitted(Regression(), {"text": texts}, wanted)
    np.testing.assert_allclose(found, wanted, atol=0.02)


def test_classes_are_a_logistic_regression() -> None:
    texts = sentences(200)
    most = counted(texts)[:, :3].argmax(1)
    probe, found = fitted(Classification((0, 1, 2)), {"text": texts}, most)
    assert (found.argmax(1) == most).mean() > 0.9
    np.testing.assert_allclose(found.sum(1), 1)
    assert probe.parameters == 4 * 3 + 3


def test_pairs_read_both_texts_and_how_they_differ() -> None:
    """Two texts are a paraphrase when their words are about as warm."""
    a, b = sentences(300), sentences(300, 1)
    alike = (np.abs(counted(a) - counted(b))[:, 3] <= 1).astype(int)
    _, found = fitted(Classification((0, 1)), {"a": a, "b": b}, alike)
    assert (found.argmax(1) == alike).mean() > 0.95
    u, v = counted(a[:2]), counted(b[:2])
    x = probe_features(u, v)
    assert x.shape == (2, 17)
    np.testing.assert_allclose(x[:, 8:12], u * v)
    np.testing.assert_allclose(x[:, -1], cosine(u, v))


def test_a_similarity_may_be_the_cosine_alone() -> None:
    """Labels are the cosine on another scale: no penalised regression orders the pairs better."""
    a, b = sentences(200), sentences(200, 1)
    wanted = 5 * cosine(counted(a), counted(b))
    probe, found = fitted(Similarity(0.0, 5.0), {"a": a, "b": b}, wanted)
    np.testing.assert_allclose(found, wanted, atol=1e-3)
    assert probe.head is not None
    assert np.count_nonzero(probe.head.weight) == 1


def test_tags_are_read_sentence_by_sentence() -> None:
    documents = [sentences(int(n), int(n)) for n in np.random.default_rng(3).integers(1, 9, 60)]
    tags = [counted(d)[:, :2].argmax(1) for d in documents]
    some = [np.where(np.arange(len(t)) == 1, -1, t) for t in tags]  # the second has no label
    _, found = fitted(Tagging(("red", "green")), {"sentences": documents}, some)
    assert [len(row) for row in found] == [len(d) for d in documents]
    right = np.concatenate([f.argmax(1) == t for f, t in zip(found, tags, strict=True)])
    assert right.mean() > 0.95


def test_boundaries_are_where_neighbours_differ() -> None:
    rng = np.random.default_rng(4)
    documents, ends = [], []
    for _ in range(60):
        colour = rng.integers(3)
        rows, cuts = [], []
        for _ in range(12):
            rows.append(f"{WORDS[colour]} {WORDS[colour]} warm")
            cut = int(rng.random() < 0.2)
            colour = (colour + cut * (1 + rng.integers(2))) % 3
            cuts.append(cut)
        documents.append(rows)
        ends.append(np.array([*cuts[:-1], -1]))
    probe, found = fitted(Boundaries(), {"sentences": documents}, ends)
    scores = probe.task.kind.scores(objects(ends), found)
    assert scores["pk"] < 0.02
    assert all(len(f) == 12 for f in found)


def test_a_missing_text_is_a_vector_of_zeros() -> None:
    made = vectors(["red"], [["red", "green"], None])
    np.testing.assert_array_equal(made(["red", None]), [[1, 0, 0, 0], [0, 0, 0, 0]])
    rows = made.rows(objects([["red", "green"], None]))
    np.testing.assert_array_equal(rows, [[0.5, 0.5, 0, 0], [0, 0, 0, 0]])


def test_every_distinct_text_is_embedded_once() -> None:
    asked: list[str] = []

    def embed(texts: list[str]) -> NDArray:
        asked.extend(texts)
        return counted(texts)

    made = Vectors(embed, len(WORDS))
    made.add([objects(["red", "red", None]), objects([["blue", "red"], None, ["blue"]])])
    made.add([objects(["blue"])])
    assert asked == ["red", "blue"]


def test_probes_survive_as_tensors() -> None:
    texts = sentences(60)
    probe, found = fitted(Regression(), {"text": texts}, counted(texts)[:, 0].astype(float))
    (again,) = from_tensors([probe.task], to_tensors({"t": probe})).values()
    columns = {"text": objects(texts)}
    np.testing.assert_array_equal(again.predict(columns, vectors(texts)), found)


def test_embedding_is_the_same_alone_and_among_longer_texts() -> None:
    texts = ["red", "green blue warm red red", "blue warm", "green " * 40]
    torch.manual_seed(0)
    encoder = as_text_encoder(TINY, as_reader(TINY, 32, texts=texts)).eval()
    embed = torch.inference_mode()(encoder.embed)
    together = embed_texts(texts, encoder.reader, embed, tokens=12)
    alone = torch.cat([embed_texts([text], encoder.reader, embed) for text in texts])
    torch.testing.assert_close(together, alone, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("texts", "sentence"), [([], "there is no text"), (["a", " "], "text 2 of 2 is empty")]
)
def test_nothing_cannot_be_embedded(texts: list[str], sentence: str) -> None:
    encoder = as_text_encoder(TINY, as_reader(TINY, 32, texts=["a"]))
    with pytest.raises(InputError, match=sentence):
        embed_texts(texts, encoder.reader, encoder.embed)


# -- as a learner ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def suite() -> Suite:
    texts, others = sentences(120), sentences(120, 1)
    lists = [sentences(3, 10 + i) for i in range(120)]
    table = {
        "text": texts,
        "other": others,
        "candidates": lists,
        "warmth": counted(texts)[:, 3].astype(float),
        "alike": cosine(counted(texts), counted(others)).astype(float),
        "found": [[int("red" in c) for c in row] for row in lists],
    }
    return Suite.from_table(
        table,
        {
            "warmth": {"kind": "regression", "texts": ["text"]},
            "alike": {"kind": "similarity", "low": 0, "high": 1, "texts": ["text", "other"]},
            "found": {"kind": "retrieval", "texts": ["text", "candidates"]},
        },
        inputs={"text": "text", "other": "text", "candidates": "text"},
    )


def test_what_is_loaded_answers_as_what_was_saved(suite: Suite, tmp_path: Path) -> None:
    model = LinearProbe(encoder=TINY, ridges=(1.0,)).fit(suite)
    model.save_pretrained(tmp_path / "model")
    loaded = LinearProbe.from_pretrained(tmp_path / "model")
    rows = suite.table("test")
    ours, theirs = model.predict(rows), loaded.predict(rows)
    assert set(ours) == {"warmth", "alike", "found"}
    for task in ("warmth", "alike"):
        np.testing.assert_allclose(ours[task], theirs[task], atol=1e-6)
    for a, b in zip(ours["found"], theirs["found"], strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    assert not [p for p in (tmp_path / "model").rglob("*") if p.suffix in (".bin", ".pt", ".pkl")]


def test_every_task_is_scored(suite: Suite) -> None:
    scores = LinearProbe(encoder=TINY).fit(suite).score(suite)
    assert scores["warmth"]["ev"] > 0.3
    assert set(scores) == {"warmth", "alike", "found"}


def test_answers_in_words_are_refused() -> None:
    table = {"text": ["a b", "c d"] * 20, "answer": ["a", "c"] * 20}
    words = Suite.from_table(table, {"answer": {"kind": "generation"}}, inputs={"text": "text"})
    with pytest.raises(InputError, match="no generation such as task 'answer'"):
        LinearProbe(encoder=TINY).fit(words)
