"""The four tasks of the question suite: exact answers, and where their words stand."""

import pytest

from polytask.data.question_suite import CLOSED_WORDS, TASKS, question_suite
from polytask.data.words import Words, split_words
from polytask.errors import InputError

ROWS = (60, 20, 30)


@pytest.fixture(scope="module")
def suite():
    return question_suite(ROWS, seed=1)


def rows(suite, task, split):
    """(context, question, answer) of a task's rows."""
    table = suite.only(task).table(split)
    columns = ("text_pair", "text", task)
    return list(zip(*(table[c].to_pylist() for c in columns), strict=True))


def opened(texts):
    return {word for text in texts for word in split_words(text)} - set(CLOSED_WORDS)


def test_every_task_has_rows_of_its_own(suite):
    assert suite.task_names == TASKS
    for task in TASKS:
        assert [len(rows(suite, task, s)) for s in ("train", "validation", "test")] == list(ROWS)


def test_open_words_of_a_split_are_in_no_other(suite):
    found = {
        split: opened(t for task in TASKS for row in rows(suite, task, split) for t in row)
        for split in ("train", "validation", "test")
    }
    assert all(found.values())
    assert not found["train"] & found["test"] and not found["train"] & found["validation"]
    assert not found["validation"] & found["test"]


def test_the_rules(suite):
    for context, question, answer in rows(suite, "lookup", "test"):
        words = context.split()
        assert dict(zip(words[::2], words[1::2], strict=True))[question] == answer
    for context, question, answer in rows(suite, "choice", "test"):
        _, first, _, second = question.split()
        assert answer == (first if "left" in context.split() else second)
    pairs = set()
    for context, _, answer in rows(suite, "mapping", "train") + rows(suite, "mapping", "test"):
        pairs |= set(zip(context.split(), answer.split(), strict=True))
    assert len({a for a, _ in pairs}) == len({b for _, b in pairs}) == len(pairs) == 20
    for context, question, answer in rows(suite, "query", "test"):
        _, shown, _, known, _, value = question.split()
        assert answer == f"select {shown} if {known} = {value}"
        assert {shown, known} < set(context.split()) and value not in context.split()


def test_translations_stand_in_no_input(suite):
    inputs = {
        word
        for task in TASKS
        for c, q, _ in rows(suite, task, "train")
        for word in (c + " " + q).split()
    }
    answers = {w for _, _, a in rows(suite, "mapping", "train") for w in a.split()}
    assert not inputs & answers


def test_the_closed_words_are_the_most_frequent():
    suite = question_suite((1500, 8, 8))
    texts = [t for task in TASKS for row in rows(suite, task, "train") for t in row]
    words = Words.fit(texts, generative=3 + len(CLOSED_WORDS))
    assert set(words.words[3 : words.generative]) == set(CLOSED_WORDS)


def test_a_tasks_rows_do_not_depend_on_the_others(suite):
    alone = question_suite(ROWS, ["query"], seed=1)
    assert rows(alone, "query", "train") == rows(suite, "query", "train")


def test_seeds_make_the_suite():
    assert question_suite(ROWS).fingerprint == question_suite(ROWS).fingerprint
    assert question_suite(ROWS).fingerprint != question_suite(ROWS, seed=1).fingerprint


def test_bad_arguments_are_refused():
    with pytest.raises(InputError, match="no task 'lokup'"):
        question_suite(ROWS, ["lokup"])
    with pytest.raises(InputError, match="needs 8 open words, not 3"):
        question_suite(ROWS, words=(100, 100, 3))
