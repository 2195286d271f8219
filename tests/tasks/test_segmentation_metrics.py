"""P_k and WindowDiff are those of nltk and segeval, and know what they must not count."""

from __future__ import annotations

import warnings
from decimal import Decimal

import numpy as np
import pytest
from numpy.typing import NDArray

from polytask.errors import InputError
from polytask.tasks.text import Boundaries, objects
from polytask.tasks.text_metrics import boundary_f1, pk, window, windowdiff

nltk = pytest.importorskip("nltk.metrics.segmentation")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    segeval = pytest.importorskip("segeval")


def gaps(rng: np.random.Generator, sentences: int, rate: float = 0.2) -> NDArray[np.bool_]:
    """Gaps of a random document, at least one of them a boundary."""
    drawn = rng.random(sentences - 1) < rate
    drawn[rng.integers(sentences - 1)] = True
    return drawn


def text(document: NDArray[np.bool_]) -> str:
    return "".join("01"[int(g)] for g in document)


def masses(document: NDArray[np.bool_]) -> tuple[int, ...]:
    """Sentences of each section."""
    ends = [*(np.flatnonzero(document) + 1).tolist(), len(document) + 1]
    return tuple(b - a for a, b in zip([0, *ends], ends, strict=False))


@pytest.mark.parametrize("seed", range(20))
def test_equals_nltk_with_the_same_k(seed: int) -> None:
    rng = np.random.default_rng(seed)
    sentences = int(rng.integers(8, 60))
    reference, guess = gaps(rng, sentences), gaps(rng, sentences, rng.uniform(0.05, 0.6))
    for k in (1, 2, 3, 5):
        assert pk([reference], [guess], k=k) == pytest.approx(
            nltk.pk(text(reference), text(guess), k=k)
        )
        assert windowdiff([reference], [guess], k=k) == pytest.approx(
            nltk.windowdiff(text(reference), text(guess), k=k)
        )


@pytest.mark.parametrize("seed", range(20))
def test_equals_segeval_with_the_same_k(seed: int) -> None:
    rng = np.random.default_rng(100 + seed)
    sentences = int(rng.integers(8, 60))
    reference, guess = gaps(rng, sentences), gaps(rng, sentences, rng.uniform(0.05, 0.6))
    for k in (2, 3, 5):
        theirs = [
            measure(masses(guess), masses(reference), window_size=k)
            for measure in (segeval.pk, segeval.window_diff)
        ]
        assert all(isinstance(value, Decimal) for value in theirs)
        ours = [measure([reference], [guess], k=k) for measure in (pk, windowdiff)]
        assert ours == pytest.approx([float(value) for value in theirs])


def test_perfect_guess_has_no_error() -> None:
    rng = np.random.default_rng(0)
    documents = [gaps(rng, n) for n in (2, 9, 30)]
    for mode in ("per_document", "concatenated"):
        assert pk(documents, documents, mode=mode) == 0
        assert windowdiff(documents, documents, mode=mode) == 0
    assert boundary_f1(documents, documents) == 1


def test_automatic_window_is_rounded_to_even() -> None:
    document = np.zeros(23, bool)  # 24 sentences
    document[[5, 11, 17]] = True  # 4 sections: (24 - 4) / 8 = 2.5
    assert window(document) == 2
    document = np.zeros(27, bool)
    document[[6, 13, 20]] = True  # (28 - 4) / 8 = 3
    assert window(document) == 3
    document = np.zeros(31, bool)
    document[[6, 13, 20]] = True  # (32 - 4) / 8 = 3.5
    assert window(document) == 4
    assert window(np.ones(5, bool)) == 1  # never 0


def test_automatic_window_is_the_references() -> None:
    rng = np.random.default_rng(3)
    reference, guess = gaps(rng, 40, 0.1), gaps(rng, 40, 0.5)
    assert pk([reference], [guess]) == pk([reference], [guess], k=window(reference))


@pytest.mark.parametrize("seed", range(10))
def test_concatenation_flatters(seed: int) -> None:
    """Windows over the ends of documents are all right: the same errors, more windows."""
    rng = np.random.default_rng(seed)
    references, guesses = ([gaps(rng, 25) for _ in range(6)] for _ in range(2))
    each, joined = (pk(references, guesses, mode=m, k=4) for m in ("per_document", "concatenated"))
    assert 0 < joined < each


def test_concatenated_window_is_of_the_whole() -> None:
    """k = (N - S) / 2S over all documents, as the paper's evaluation is said to have it."""
    reference = np.array([0, 1, 0], bool)  # 4 sentences, 2 sections; twice: (8 - 4) / 8 = 0.5
    guess = np.array([0, 0, 1], bool)
    joined = pk([reference, reference], [guess, guess], mode="concatenated")
    by_hand = np.concatenate([reference, [True], reference]), np.concatenate([guess, [True], guess])
    assert joined == pk([by_hand[0]], [by_hand[1]], k=1) == pytest.approx(4 / 7)


def test_by_hand() -> None:
    reference, guess = np.array([0, 0, 1, 0, 0], bool), np.array([0, 1, 0, 0, 0], bool)
    # Windows of 2 gaps: (00, 01) differ, (01, 10) agree, (10, 00) differ, (00, 00) agree.
    assert pk([reference], [guess], k=2) == 0.5
    assert boundary_f1([reference], [guess]) == 0
    both = np.array([0, 1, 1, 0, 0], bool)
    # P_k does not see the second boundary of a window, WindowDiff does.
    assert pk([reference], [both], k=2) == 0.25
    assert windowdiff([reference], [both], k=2) == 0.5
    assert boundary_f1([reference], [both]) == pytest.approx(2 / 3)


def test_unknown_mode_is_refused() -> None:
    with pytest.raises(InputError, match="mode is 'per_document' or 'concatenated'"):
        pk([np.array([True])], [np.array([True])], mode="joined")  # type: ignore[arg-type]


def test_end_of_the_document_is_neither_predicted_nor_counted() -> None:
    kind = Boundaries()
    target = objects([kind.entries([0, 0, 1, 1]), kind.entries([3])])
    assert [row.tolist() for row in target] == [[0, 1, 0, -1], [-1]]
    sure_of_the_end = objects([np.array([0.1, 0.9, 0.1, 0.99]), np.array([0.99])])
    silent_there = objects([np.array([0.1, 0.9, 0.1]), np.array([])])
    for decoded in (sure_of_the_end, silent_there):
        wanted, given = kind.tally(target, decoded)
        assert [len(row) for row in wanted] == [len(row) for row in given] == [3, 0]
        scores = kind.scores(target, decoded)
        assert scores == {"pk": 0.0, "windowdiff": 0.0, "boundary_f1": 1.0}


def test_document_of_one_sentence_says_nothing() -> None:
    one, other = np.array([], bool), np.array([0, 1, 0], bool)
    assert pk([one, other], [one, other]) == 0
    assert np.isnan(pk([one], [one]))
