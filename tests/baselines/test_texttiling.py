"""TextTiling ends sections where words change, as nltk does, and keeps a learner's promises."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from polytask.baselines.texttiling import TextTiling, tiled
from polytask.data import Suite
from polytask.data.segmented import Articles
from polytask.errors import InputError

pytest.importorskip("nltk")

_WORDS = {
    "sea": ["harbour", "sailors", "anchor", "vessel", "tide", "captain", "voyage", "mast"],
    "bread": ["flour", "oven", "yeast", "dough", "baker", "crust", "kneading", "loaf"],
}


def passage(topic: str, sentences: int, rng: np.random.Generator) -> list[str]:
    return [" ".join(rng.choice(_WORDS[topic], 20)) + "." for _ in range(sentences)]


def suite() -> Suite:
    return Articles(length=(20, 30)).suite(train=4, validation=2, test=3).only("section")


@pytest.mark.parametrize("seed", range(3))
def test_words_that_change_end_a_section(seed: int) -> None:
    """nltk places a boundary at the paragraph nearest to it, which may be one off."""
    rng = np.random.default_rng(seed)
    found = tiled([*passage("sea", 14, rng), *passage("bread", 14, rng)], w=20, k=4)
    assert np.abs(np.flatnonzero(found) - 13).min() <= 1


def test_gaps_are_those_of_nltk() -> None:
    from nltk.tokenize.texttiling import TextTilingTokenizer
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    (texts,) = Articles(length=(20, 30)).draw(1, seed=3)["sentences"]
    parts = TextTilingTokenizer(stopwords=ENGLISH_STOP_WORDS).tokenize("\n\n".join(texts))
    theirs = np.cumsum([len(part.split("\n\n")) - part.startswith("\n\n") for part in parts])[:-1]
    assert len(parts) > 1
    assert (np.flatnonzero(tiled(texts)) + 1).tolist() == theirs.tolist()


@pytest.mark.parametrize("texts", [[], ["One."], ["One.", "Two."]])
def test_too_short_a_document_has_no_boundary(texts: list[str]) -> None:
    assert tiled(texts).tolist() == [False] * max(0, len(texts) - 1)


def test_learner_scores_predicts_and_comes_back(tmp_path: Path) -> None:
    data = suite()
    learner = TextTiling(w=20, k=4).fit(data)
    scores = learner.score(data)["section"]
    assert set(scores) == {"pk", "windowdiff", "boundary_f1"}
    documents = {"sentences": data.splits["test"].data["sentences"].to_pylist()}
    found = learner.predict(documents)["section"]
    assert [len(row) for row in found] == [len(d) - 1 for d in documents["sentences"]]
    assert all(set(np.unique(row)) <= {0.0, 1.0} for row in found)
    learner.save_pretrained(tmp_path / "model")
    again = TextTiling.from_pretrained(tmp_path / "model")
    assert again.w == 20 and again.k == 4
    for one, other in zip(again.predict(documents)["section"], found, strict=True):
        assert np.array_equal(one, other)


def test_what_it_cannot_do_is_refused() -> None:
    data = Articles().suite(train=4, validation=2, test=2)
    with pytest.raises(InputError, match="finds boundaries only"):
        TextTiling().fit(data)
    with pytest.raises(InputError, match="w and k are at least 1"):
        TextTiling(w=0).fit(data.only("section"))
