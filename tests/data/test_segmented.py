"""Pairs have the labels they should, classes are balanced, articles follow their law."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch

from polytask.data import Batch
from polytask.data.segmented import (
    LEFT,
    NEXT,
    PLACES,
    RIGHT,
    Articles,
    Pairs,
    _word,
    mined,
    sentences_of,
    windows,
)
from polytask.data.texts import Ragged, Texts
from polytask.errors import InputError
from polytask.tasks.text_metrics import pk


class Letters:
    """A reader of one token a letter."""

    limit = 100

    def ids(self, texts: list[str]) -> list[np.ndarray]:
        return [np.array([ord(c) for c in text], np.int32) for text in texts]


def batch(documents: list[list[str]], sections: list[Any], topics: list[Any]) -> Batch:
    ends = [
        np.array([*(np.diff(s) != 0).astype(int), -1] if s is not None else [], np.int64)
        for s in sections
    ]
    tags = [np.array(t if t is not None else [], np.int64) for t in topics]
    return Batch(
        {"sentences": Texts("sentences", documents, Letters(), several=True)},  # type: ignore
        {"section": Ragged(ends, -1), "topic": Ragged(tags, -1)},  # type: ignore
        {
            "section": torch.tensor([s is not None for s in sections]),
            "topic": torch.tensor([t is not None for t in topics]),
        },
    )


DOCUMENTS = [["a", "bb", "c", "dd", "e"], ["x", "yy", "z"], ["q"]]
SECTIONS: list[Any] = [[0, 0, 1, 1, 2], [0, 0, 1], [0]]
TOPICS: list[Any] = [[3, 3, 5, -1, 3], [1, 1, 2], [0]]


def words(ids: torch.Tensor) -> list[str]:
    return ["".join(chr(i) for i in row if i >= 0) for row in ids.tolist()]


def pairs(**options: Any) -> Pairs:
    return Pairs(batch(DOCUMENTS, SECTIONS, TOPICS), "sentences", "section", "topic", **options)


def told(drawn: Batch) -> list[tuple[str, str, int, int]]:
    """(first, second, different sections, next) of every pair of a batch."""
    found = []
    for row, places in enumerate(drawn.inputs[PLACES]):
        texts = words(drawn.inputs[LEFT][row])
        for p, (i, j) in enumerate(places.tolist()):
            if i >= 0:
                target = int(drawn.targets["section"][row, p])
                found.append((texts[i], texts[j], target, int(drawn.inputs[NEXT][row, p])))
    return found


# -- mining ----------------------------------------------------------------------------------------


def test_all_adjacent_pairs_are_mined_and_both_classes_are_equally_frequent() -> None:
    section = np.repeat(np.arange(6), 8)
    for seed in range(5):
        found = mined(section, 48, np.random.default_rng(seed))
        assert (found[:, 0] < found[:, 1]).all()
        assert len(np.unique(found, axis=0)) == len(found)
        adjacent = found[:, 1] - found[:, 0] == 1
        assert adjacent.sum() == 47
        alike = section[found[:, 0]] == section[found[:, 1]]
        assert alike.sum() == (~alike).sum() == 42 + round(0.5 * 47)


def test_more_boundaries_than_pairs_to_balance_them_with() -> None:
    section = np.arange(4)  # every sentence a section: no two are alike
    found = mined(section, 4, np.random.default_rng(0))
    assert found.tolist() == [[0, 1], [1, 2], [2, 3]]


def test_reach_bounds_the_distance() -> None:
    section = np.repeat(np.arange(5), 6)
    found = mined(section, 30, np.random.default_rng(0), reach=4)
    assert (found[:, 1] - found[:, 0]).max() <= 4


def test_unknown_sections_give_as_many_pairs_apart_as_adjacent() -> None:
    found = mined(None, 20, np.random.default_rng(0))
    adjacent = found[:, 1] - found[:, 0] == 1
    assert adjacent.sum() == (~adjacent).sum() == 19


@pytest.mark.parametrize("sentences", [0, 1])
def test_no_pairs_in_a_single_sentence(sentences: int) -> None:
    assert mined(np.zeros(sentences, int), sentences, np.random.default_rng(0)).shape == (0, 2)


# -- rows ------------------------------------------------------------------------------------------


def test_labels_of_pairs() -> None:
    rows = pairs()
    found = told(rows[torch.arange(len(rows))])
    section = {
        t: (d, s)
        for d, (ts, ss) in enumerate(zip(DOCUMENTS, SECTIONS, strict=True))
        for t, s in zip(ts, ss, strict=True)
    }
    order = [t for d in DOCUMENTS for t in d]
    for first, second, different, follows in found:
        assert section[first][0] == section[second][0]  # pairs are of one document
        assert different == int(section[first] != section[second])
        assert follows == int(order.index(second) == order.index(first) + 1)
    # The case that keeps STP and NSP from being one label: adjacent, across a boundary.
    assert ("bb", "c", 1, 1) in found
    assert ("a", "bb", 0, 1) in found
    assert {"q"} & {t for pair in found for t in pair[:2]} == set()


def test_topics_of_pairs() -> None:
    rows = pairs()
    drawn = rows[torch.arange(len(rows))]
    topic = {
        t: k for ts, ks in zip(DOCUMENTS, TOPICS, strict=True) for t, k in zip(ts, ks, strict=True)
    }
    for row in range(len(rows)):
        here = words(drawn.inputs[LEFT][row])
        assert drawn.targets["topic"][row].tolist() == [topic[t] for t in here]


def test_every_epoch_draws_anew_and_from_seed_and_epoch_alone() -> None:
    section = np.repeat(np.arange(5), 8).tolist()
    long = [f"s{i}" for i in range(40)]
    rows = Pairs(batch([long], [section], [None]), "sentences", "section")

    def drawn(seed: int, epoch: int) -> list[Any]:
        turned = rows.turn(seed, epoch)
        return told(turned.only(["section"])[torch.arange(len(turned))])

    assert drawn(0, 1) == drawn(0, 1)
    assert drawn(0, 1) != drawn(0, 2)
    assert drawn(0, 1) != drawn(1, 1)


def test_stretches_cover_documents_and_share_sentences() -> None:
    section = np.repeat(np.arange(4), 5).tolist()
    document = [chr(97 + i) for i in range(20)]
    rows = Pairs(batch([document], [section], [None]), "sentences", "section", stretch=6)
    for epoch in range(4):
        turned = rows.turn(0, epoch)
        drawn = turned.only(["section"])[torch.arange(len(turned))]
        seen = [t for row in drawn.inputs[LEFT] for t in words(row) if t]
        assert set(seen) <= set(document)
        assert len(seen) == len(set(seen)) >= 18  # a stretch of one sentence has no pair
        for row in drawn.inputs[LEFT]:
            texts = [t for t in words(row) if t]
            assert len(texts) <= 6
        assert all(second > first for first, second, _, _ in told(drawn))


def test_a_long_document_is_mined_in_parts() -> None:
    data = batch([["s"] * 5000], [np.repeat(np.arange(500), 10).tolist()], [None])
    rows = Pairs(data, "sentences", "section")
    assert 2.5 * 5000 < len(rows) < 3 * 5000
    assert max(int(pair[0, 1] - pair[0, 0]) for _, pair in rows._rows) < 512


def test_padding_of_a_batch() -> None:
    rows = pairs(stretch=5)
    drawn = rows[torch.arange(len(rows))]
    places, target = drawn.inputs[PLACES], drawn.targets["section"]
    assert len(drawn) == 2  # the document of one sentence has no pair
    assert ((places[..., 0] < 0) == (target < 0)).all()
    empty = (drawn.inputs[LEFT] < 0).all(-1)
    assert empty.any() and (drawn.targets["topic"][empty] == -1).all()


def test_unlabelled_documents_are_masked() -> None:
    data = batch([DOCUMENTS[1], DOCUMENTS[0]], [SECTIONS[1], None], [None, TOPICS[0]])
    rows = Pairs(data, "sentences", "section", "topic")
    drawn = rows[torch.arange(len(rows))]
    unlabelled = ~drawn.masks["section"]
    assert unlabelled.any() and (drawn.targets["section"][unlabelled] == -1).all()
    assert (drawn.targets["section"][~unlabelled] >= 0).all()
    assert (drawn.targets["topic"][~drawn.masks["topic"]] == -1).all()
    assert {m: len(v) for m, v in rows.masks.items()} == {"section": len(rows), "topic": len(rows)}


def test_some_tasks_only_see_the_same_pairs() -> None:
    rows = pairs().turn(3, 1)
    part = rows.only(["topic"])
    every = torch.arange(len(rows))
    assert set(part.masks) == set(part[every].targets) == {"topic"}
    assert torch.equal(part[every].inputs[PLACES], rows[every].inputs[PLACES])
    assert torch.equal(part[every].inputs[LEFT], rows[every].inputs[LEFT])


def test_documents_of_single_sentences_are_refused() -> None:
    with pytest.raises(InputError, match="two sentences in column 'sentences'"):
        Pairs(batch([["a"], ["b"]], [[0], [0]], [None, None]), "sentences", "section")


# -- windows ---------------------------------------------------------------------------------------


def test_windows_join_neighbours_of_the_document_only() -> None:
    ids = Texts("s", DOCUMENTS[:2], Letters(), several=True)[:]  # type: ignore[arg-type]
    left, right = windows(ids, 2)
    assert words(left[0]) == ["a", "abb", "bbc", "cdd", "dde"]
    assert words(right[0]) == ["abb", "bbc", "cdd", "dde", "e"]
    assert words(left[1]) == ["x", "xyy", "yyz", "", ""]  # past the end there is nothing
    assert words(right[1]) == ["xyy", "yyz", "z", "", ""]
    left, right = windows(ids, 9)
    assert words(left[1])[:3] == ["x", "xyy", "xyyz"]
    assert words(right[1])[:3] == ["xyyz", "yyz", "z"]


def test_window_of_one_is_the_sentence_itself() -> None:
    ids = Texts("s", DOCUMENTS, Letters(), several=True)[:]  # type: ignore[arg-type]
    left, right = windows(ids, 1)
    assert left is ids and right is ids
    assert RIGHT not in pairs()[torch.arange(2)].inputs


def test_pairs_see_their_windows() -> None:
    rows = pairs(window=2)
    drawn = rows[torch.arange(len(rows))]
    sides = [words(drawn.inputs[side].flatten(0, 1)) for side in (LEFT, RIGHT)]
    assert {"a", "abb", "bbc", "dde"} <= set(sides[0])
    assert {"abb", "bbc", "e"} <= set(sides[1])


# -- sentences and articles ------------------------------------------------------------------------


def test_sentences_of_raw_text() -> None:
    text = 'One is here. Two (is) 3.5 here! "Three?" Yes.\n\nA heading\n\nMore of it, e.g. this.\n'
    assert sentences_of(text) == [
        "One is here.",
        "Two (is) 3.5 here!",
        '"Three?"',
        "Yes.",
        "A heading",
        "More of it, e.g. this.",
    ]
    assert sentences_of("  \n") == []


def test_articles_follow_their_law() -> None:
    drawn = Articles().draw(60, seed=0)
    for texts, section, topic in zip(*drawn.values(), strict=True):
        assert len(texts) == len(section) == len(topic)
        numbers, counts = np.unique(section, return_counts=True)
        assert 4 <= len(numbers) <= 8 and counts.min() >= 3 and counts.max() <= 12
        tops = dict(zip(section, topic, strict=True))
        assert all(tops[s] != tops[s + 1] for s in numbers[:-1])  # no topic follows itself
        assert all(6 + 2 <= len(text.split()) <= 14 + 2 for text in texts)


def test_neighbours_of_a_section_share_a_name_and_no_others_do() -> None:
    law = Articles()
    first = law.common_words + law.words
    every = {_word(first + name) for name in range(law.names)}
    drawn = law.draw(20, seed=1)
    for texts, section in zip(drawn["sentences"], drawn["section"], strict=True):
        names = [every & set(text.split()) for text in texts]
        assert all(len(found) == 2 for found in names)
        for i, j in itertools.combinations(range(len(texts)), 2):
            chained = j == i + 1 and section[i] == section[j]
            assert len(names[i] & names[j]) == int(chained)


def test_articles_are_reproducible_and_topics_belong_to_the_law() -> None:
    assert Articles().draw(3, seed=5) == Articles().draw(3, seed=5)
    assert Articles().draw(3, seed=5) != Articles().draw(3, seed=6)


def test_reference_points_of_the_articles() -> None:
    """No boundary is better than guessing at the true rate, which is better than all of them."""
    rng = np.random.default_rng(0)
    wanted = [np.diff(section) != 0 for section in Articles().draw(200, seed=0)["section"]]
    rate = np.concatenate(wanted).mean()
    none, guess, every = (
        pk(wanted, given)
        for given in (
            [np.zeros_like(w) for w in wanted],
            [rng.random(len(w)) < rate for w in wanted],
            [np.ones_like(w) for w in wanted],
        )
    )
    assert 0.35 < none < guess < 0.5 < every < 0.65


@pytest.mark.parametrize(
    ("options", "sentence"),
    [({"topics": 1}, "topics is at least 2"), ({"names": 50}, "names are too few")],
)
def test_bad_laws_are_refused(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        Articles(**options)
