"""BM25 over candidate lists and over a corpus."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from polytask.baselines.bm25 import BM25
from polytask.data import Suite
from polytask.errors import InputError

pytest.importorskip("bm25s")

CORPUS = ["the cat sat on a mat", "cats sit on many mats mats", "dogs run", "a mat for a dog"]


def by_hand(query: list[str], texts: list[list[str]], k1: float, b: float) -> list[float]:
    """The formula of the file's head, word by word."""
    mean = sum(map(len, texts)) / len(texts)
    scores = []
    for text in texts:
        score = 0.0
        for word in query:
            n = sum(word in other for other in texts)
            idf = math.log(1 + (len(texts) - n + 0.5) / (n + 0.5))
            tf = text.count(word)
            score += idf * tf / (tf + k1 * (1 - b + b * len(text) / mean))
        scores.append(score)
    return scores


@pytest.mark.parametrize(("k1", "b"), [(1.2, 0.75), (0.9, 0.4), (2.0, 0.0)])
def test_scores_are_the_formula(k1: float, b: float) -> None:
    texts = [[w for w in t.split() if len(w) > 1] for t in CORPUS]  # words have two letters or more
    found = BM25(k1=k1, b=b, stopwords="none").scores("mats for the cats", CORPUS)
    wanted = by_hand(["mats", "for", "the", "cats"], texts, k1, b)
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


def test_a_corpus_is_ranked_by_the_same_scores() -> None:
    model = BM25()
    places, scores = model.rank(["mat cat", "dogs"], CORPUS, k=2)
    assert places[:, 0].tolist() == [0, 2]
    np.testing.assert_allclose(scores[0, 0], model.scores("mat cat", CORPUS)[0], rtol=1e-6)
    assert model.rank(["dogs"], CORPUS, k=99)[0].shape == (1, 4)


def test_nothing_in_common_scores_nothing() -> None:
    model = BM25()
    assert model.scores("zebra", CORPUS).tolist() == [0, 0, 0, 0]
    assert model.scores("the", ["the", "of a"]).tolist() == [0, 0]  # stop words alone
    assert model.scores("", []).tolist() == []
    with pytest.raises(InputError, match="no text of the corpus"):
        model.rank(["cat"], ["the", ""])


@pytest.fixture
def suite() -> Suite:
    """The relevant candidate repeats a rare word of the query."""
    rng = np.random.default_rng(0)
    words = [f"word{i}" for i in range(60)]
    table: dict[str, list] = {"query": [], "candidates": [], "found": []}
    for _ in range(40):
        candidates = [" ".join(rng.choice(words, 5)) for _ in range(int(rng.integers(2, 6)))]
        right = int(rng.integers(len(candidates)))
        table["query"].append("which " + candidates[right].split()[0])
        table["candidates"].append(candidates)
        table["found"].append([int(i == right) for i in range(len(candidates))])
    kind = {"kind": "retrieval", "texts": ["query", "candidates"]}
    roles = {"query": "text", "candidates": "text"}
    return Suite.from_table(table, {"found": kind}, inputs=roles)


def test_it_answers_lists_and_is_scored(suite: Suite, tmp_path: Path) -> None:
    model = BM25().fit(suite)
    assert model.score(suite)["found"]["mrr@10"] > 0.85
    rows = suite.table("test")
    found = model.predict(rows)["found"]
    assert [len(r) for r in found] == [len(c) for c in rows["candidates"].to_pylist()]
    model.save_pretrained(tmp_path / "model")
    loaded = BM25.from_pretrained(tmp_path / "model").predict(rows)["found"]
    for a, b in zip(found, loaded, strict=True):
        np.testing.assert_array_equal(a, b)


def test_other_tasks_are_refused() -> None:
    table = {"text": ["a b", "c d"] * 20, "label": [0, 1] * 20}
    with pytest.raises(InputError, match="no classification such as 'label'"):
        BM25().fit(Suite.from_table(table, ["label"], inputs={"text": "text"}))
