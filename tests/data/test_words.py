"""Words: the open vocabulary, what may be said, and vectors that need no training."""

import numpy as np
import pytest

from polytask.data.texts import Texts, reader_from_dict
from polytask.data.words import EOS, INIT, SPECIAL, UNKNOWN, Words, split_words
from polytask.errors import InputError

TEXTS = ["The cat saw the dog.", "the dog ran"]


def test_words_and_signs_are_split_and_lowered():
    assert split_words("Don't eat 3.5 pies at 7:30, OK?") == [
        *("don't", "eat", "3.5", "pies", "at", "7:30", ",", "ok", "?")
    ]


def test_the_most_frequent_words_come_first():
    words = Words.fit(TEXTS)
    assert words.words[: len(SPECIAL)] == list(SPECIAL) == ["<unk>", "<init>", "<eos>"]
    assert (UNKNOWN, INIT, EOS) == (0, 1, 2)
    assert words.words[3:5] == ["the", "dog"]  # three times, twice


def test_words_that_must_be_said_can_be_said():
    words = Words.fit(TEXTS, generative=4, always=["yes or no?"])
    assert words.words[3:7] == ["yes", "or", "no", "?"]
    assert words.generative == 7


def test_the_vocabulary_is_capped():
    words = Words.fit(TEXTS, most=2)
    assert words.words[3:] == ["the", "dog"]
    assert words.generative == 5


def test_a_word_never_seen_gets_an_id_of_its_own_and_comes_back():
    words = Words.fit(TEXTS)
    before = words.tokens
    (ids,) = words.ids(["the zebra saw the zebra"])
    assert ids[1] == ids[4] == before and words.tokens == before + 1
    assert words.text(ids) == "the zebra saw the zebra"
    assert words.generative == before  # it can be copied, not said


def test_marks_are_not_shown():
    words = Words.fit(TEXTS)
    assert words.text([INIT, 3, UNKNOWN, 4, EOS]) == "the dog"


def test_words_know_where_they_stand():
    text = "Don't, İstanbul ran."  # a letter whose small form has two characters
    places = Words.fit(TEXTS).offsets(text)
    assert [text[a:b] for a, b in places] == ["Don't", ",", "İstanbul", "ran", "."]
    assert Words.fit(TEXTS).offsets("").shape == (0, 2)


def test_columns_are_cut_at_the_limit():
    column = Texts("text", [*TEXTS, None], Words.fit(TEXTS, limit=2))
    assert column.lengths.tolist() == [2, 2, 0] and column.cut.tolist() == [4, 1, 0]


def test_a_vector_depends_on_the_word_alone():
    one, other = Words.fit(TEXTS), Words.fit(["zebra dog"])
    other.ids(["cat"])
    vectors = {w: one.vectors()[one.words.index(w)] for w in ("dog", "cat")}
    for word, vector in vectors.items():
        np.testing.assert_array_equal(vector, other.vectors()[other.words.index(word)])
    assert not np.array_equal(vectors["dog"], vectors["cat"])


def test_vectors_have_the_spread_of_word_vectors():
    words = Words.fit([" ".join(f"word{i}" for i in range(200))])
    own, grams = np.split(words.vectors(), [300], axis=1)
    assert own.std() == pytest.approx(0.4, rel=0.05)
    assert grams.std() == pytest.approx(0.4, rel=0.2)
    assert abs(own.mean()) < 0.01


def test_words_that_look_alike_have_like_ngram_vectors():
    words = Words.fit(["walking walked zzzyx"])
    walking, walked, other = (
        words.vectors()[words.words.index(w), 300:] for w in ("walking", "walked", "zzzyx")
    )
    assert walking @ walked > 2 * abs(walking @ other)


def test_vectors_of_new_words_only():
    words = Words.fit(TEXTS, size=6, grams=4)
    known = words.tokens
    words.ids(["a zebra"])
    np.testing.assert_array_equal(words.vectors(known), words.vectors()[known:])
    assert words.vectors(known).shape == (2, 10)


def test_no_ngrams_at_all():
    assert Words.fit(TEXTS, size=5, grams=0).vectors().shape == (9, 5)


def test_it_survives_plain_data_without_the_words_met_later():
    words = Words.fit(TEXTS, generative=5, limit=9, size=6, grams=4)
    before = words.to_dict()
    words.ids(["zebra"])
    again = reader_from_dict(words.to_dict())
    assert again.to_dict() == before
    assert again.words == words.words[:-1]
    np.testing.assert_array_equal(again.vectors(), words.vectors()[:-1])


@pytest.fixture
def glove(tmp_path):
    path = tmp_path / "vectors.txt"
    path.write_text("dog 1 2 3\nzebra 0.5 -1 4\nzebra 9 9 9\n", encoding="utf-8")
    return str(path)


def test_vectors_from_a_file(glove):
    words = Words.fit(TEXTS, size=3, grams=0, file=glove)
    words.ids(["zebra"])  # also for words met later
    found = dict(zip(words.words, words.vectors(), strict=True))
    np.testing.assert_array_equal(found["dog"], [1, 2, 3])
    np.testing.assert_array_equal(found["zebra"], np.float32([0.5, -1, 4]))
    plain = Words.fit(TEXTS, size=3, grams=0)
    np.testing.assert_array_equal(found["cat"], plain.vectors()[plain.words.index("cat")])


def test_files_of_vectors_that_do_not_fit_are_refused(glove, tmp_path):
    with pytest.raises(InputError, match=r"'dog'.*does not hold 4 numbers"):
        Words.fit(TEXTS, size=4, file=glove)
    with pytest.raises(InputError, match=r"nowhere.txt' cannot be read"):
        Words.fit(TEXTS, file=str(tmp_path / "nowhere.txt"))
    (tmp_path / "empty.txt").write_text("")
    with pytest.raises(InputError, match="is empty"):
        Words.fit(TEXTS, file=str(tmp_path / "empty.txt"))
