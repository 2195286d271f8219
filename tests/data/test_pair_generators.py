"""The law of the synonym pairs, counted."""

from __future__ import annotations

import numpy as np
import pytest

from polytask.data.pair_generators import SynonymPairs
from polytask.errors import InputError

LAW = SynonymPairs()


def concepts(sentence: str) -> set[int]:
    return {int(word[1:]) // LAW.synonyms for word in sentence.split()[1:]}


def test_labels_say_what_the_sentences_say() -> None:
    drawn = LAW.draw(300, seed=0)
    for a, b, alike, overlap in zip(*drawn.values(), strict=True):
        assert len(concepts(a)) == len(concepts(b)) == LAW.length
        assert len(concepts(a) & concepts(b)) == overlap
        wanted = overlap >= LAW.shared and a.split()[0] == b.split()[0]
        assert (alike == "yes") == wanted == LAW.alike(a, b)


def test_shares_are_those_of_the_law() -> None:
    drawn = LAW.draw(20_000, seed=1)
    assert np.mean(drawn["alike"] == "yes") == pytest.approx(3 / 8, abs=0.02)
    assert np.bincount(drawn["overlap"].astype(int))[1:] / 20_000 == pytest.approx(1 / 6, abs=0.02)
    words = [word for text in drawn["a"] for word in text.split()[1:]]
    assert len(set(words)) == LAW.concepts * LAW.synonyms


def test_flipped_labels_are_flipped_and_nothing_else() -> None:
    true, wrong = LAW.draw(5000, seed=2), LAW.draw(5000, seed=2, flipped=0.15)
    assert true["a"] == wrong["a"] and true["b"] == wrong["b"]
    assert np.mean(true["alike"] != wrong["alike"]) == pytest.approx(0.15, abs=0.02)
    np.testing.assert_array_equal(true["overlap"], wrong["overlap"])


def test_partners_follow_the_same_law() -> None:
    queries, candidates = LAW.partners(10, 200, seed=3)
    assert len(queries) == 10 and len(candidates) == 2000
    mine = [
        LAW.alike(q, candidates[i * 200 + j]) for i, q in enumerate(queries) for j in range(200)
    ]
    assert np.mean(mine) == pytest.approx(3 / 8, abs=0.05)


def test_the_suite_has_clean_test_labels() -> None:
    suite = LAW.suite(rows=(200, 50, 100), flipped=0.5)
    rows = suite.table("test").to_pylist()
    assert len(rows) == 100
    assert all((r["alike"] == "yes") == LAW.alike(r["a"], r["b"]) for r in rows)
    train = suite.table("train").to_pylist()
    assert sum((r["alike"] == "yes") != LAW.alike(r["a"], r["b"]) for r in train) > 50


def test_a_law_that_cannot_be_is_refused() -> None:
    with pytest.raises(InputError, match="concepts is 8"):
        SynonymPairs(concepts=8)
    with pytest.raises(InputError, match="shared is 7"):
        SynonymPairs(shared=7)
