"""Questions: the prompts of every kind, a user's own line, and answers as words."""

import numpy as np
import pytest
import torch

from polytask.data import Suite
from polytask.data.questions import (
    LABELS,
    LEVELS,
    PROMPTS,
    Question,
    Wording,
    check_questions,
    joined,
    padded,
    told_lines,
    wording,
)
from polytask.data.words import Words
from polytask.errors import InputError
from polytask.tasks import Classification, Generation, Regression, Similarity, Span, Task

PLAIN = Wording({}, {})
ONE, TWO = ("text",), ("text", "text_pair")


def task(kind, texts=ONE, name="mood") -> Task:
    return Task(name, kind, texts=texts)


def asked(asked_task: Task, texts: dict[str, str], told: Wording = PLAIN) -> tuple[str, str]:
    """Context and question of one row, in words again."""
    reader = Words([])
    inputs = {name: padded(reader.ids([text])) for name, text in texts.items()}
    question = Question.of(asked_task, reader, told)
    return tuple(reader.text(ids[0][ids[0] >= 0]) for ids in question.cast(inputs, 100))


CLASSES = Classification(("bad", "good", "so_so"))


@pytest.mark.parametrize(
    ("kind", "texts", "context", "question"),
    [
        (CLASSES, ONE, "it rains", "is this bad , good or so so ?"),
        (Classification((False, True)), ONE, "it rains", "is this no or yes ?"),
        (
            Classification(("no", "yes")),
            TWO,
            'premise : " it rains "',
            'hypothesis : " we stay " - - no or yes ?',
        ),
        (
            Similarity(0, 5),
            TWO,
            "it rains",
            'on a scale from 0 to 10 , how similar is it to " we stay " ?',
        ),
        (Regression(), ONE, "it rains", "on a scale from 0 to 10 , how high is mood ?"),
        (Span(), TWO, "we stay", "it rains"),
        (Span(), ONE, "it rains", "what is the mood ?"),
        (Generation(), TWO, "we stay", "it rains"),
        (Generation(), ONE, "it rains", "what is the mood ?"),
    ],
)
def test_every_kind_has_a_question(kind, texts, context, question):
    rows = dict(zip(texts, ("It rains", "We stay"), strict=False))
    assert asked(task(kind, texts), rows) == (context, question)


def test_a_users_prompt_is_one_line():
    told = Wording({"mood": "Is this review {classes}?"}, {"mood": {"bad": "awful"}})
    assert asked(task(CLASSES), {"text": "It rains"}, told) == (
        "it rains",
        "is this review awful , good or so so ?",
    )


def test_columns_that_the_prompt_names_are_not_the_context():
    told = Wording({"mood": "Does {text} rhyme with {text_pair}?"}, {})
    rows = {"text": "rain", "text_pair": "again"}
    assert asked(task(CLASSES, TWO), rows, told) == ("", "does rain rhyme with again ?")


def test_a_prompt_of_two_lines_gives_the_context_first():
    told = Wording({"mood": 'Poem: "{text}"\nWhat {task} has it, {{in a word}}?'}, {})
    context, question = asked(task(CLASSES), {"text": "Rain"}, told)
    assert (context, question) == ('poem : " rain "', "what mood has it , { in a word } ?")


@pytest.mark.parametrize(
    ("prompt", "said"),
    [("Is {titel}?", "{titel} is no text column"), ("Is {text", "prompt of task 'mood'")],
)
def test_prompts_that_do_not_fit_are_refused(prompt, said):
    with pytest.raises(InputError, match=said):
        Wording({"mood": prompt}, {}).templates(task(CLASSES))


def test_labels_of_unknown_classes_are_refused():
    with pytest.raises(InputError, match=r"it has no class 'godo'.*good"):
        Wording({}, {"mood": {"godo": "fine"}}).words(task(CLASSES))


def test_settings_survive_plain_text():
    lines = told_lines({"mood": "Is this {classes}: a, b?"})
    called = told_lines({"mood": {"0": "bad", "1": "very good"}})
    assert lines == ("mood: Is this {classes}: a, b?",)
    assert called == ("mood: 0=bad; 1=very good",)
    assert told_lines(lines) == lines
    told = wording(lines, called, ["mood"])
    assert told.prompts == {"mood": "Is this {classes}: a, b?"}
    assert told.labels == {"mood": {"0": "bad", "1": "very good"}}


def test_settings_of_unknown_tasks_are_refused_but_for_registered_ones(monkeypatch):
    monkeypatch.setitem(PROMPTS, "elsewhere", "What?")
    wording(("elsewhere: What?",), (), ["mood"])
    with pytest.raises(InputError, match=r"prompts: task 'mod' is not known.*mood"):
        wording(("mod: What?",), (), ["mood"])
    with pytest.raises(InputError, match=r"labels: 'mood: bad' is not of the form"):
        wording((), ("mood: bad",), ["mood"])
    with pytest.raises(InputError, match=r"prompts: 'What\?' is not of the form"):
        wording(("What?",), (), ["mood"])


def test_the_registries_begin_empty():
    assert PROMPTS == {} and LABELS == {}


def test_classes_are_answered_by_their_words():
    reader = Words([])
    question = Question.of(task(CLASSES), reader, PLAIN)
    answers = question.answers({}, torch.tensor([2, 0]))
    assert [reader.text(row[row >= 0]) for row in answers] == ["so so", "bad"]


def test_class_outputs_are_logits():
    likelihood = torch.tensor([[-1.0, -3.0]])
    two = Question.of(task(Classification((0, 1))), Words([]), PLAIN)
    kind = two.task.kind
    np.testing.assert_allclose(
        kind.decode(two.output(likelihood)), likelihood.double().softmax(1).numpy(), rtol=1e-6
    )
    three = torch.tensor([[-1.0, -3.0, -2.0]])
    assert Question.of(task(CLASSES), Words([]), PLAIN).output(three).equal(three)


@pytest.mark.parametrize("kind", [Similarity(0, 5), Regression(mean=2.5, std=1.0)])
def test_a_sure_level_gives_back_its_score(kind):
    question = Question.of(task(kind, TWO), Words([]), PLAIN)
    scores = torch.tensor([0.0, 1.0, 2.5, 4.5, 5.0])
    chosen = question.answers({}, scores)
    likelihood = torch.stack(
        [torch.where((question.choices == row).all(1), 0.0, -1e4) for row in chosen]
    )
    found = kind.decode(question.output(likelihood))
    np.testing.assert_allclose(found, scores, atol=0.25 + 1e-6)  # half a level
    assert (np.diff(found) > 0).all()


def test_between_two_levels_the_expected_one_is_answered():
    question = Question.of(task(Similarity(0, 1), TWO), Words([]), PLAIN)
    likelihood = torch.full((1, LEVELS), -1e4)
    likelihood[0, 3] = likelihood[0, 4] = 0.0
    assert question.output(likelihood).item() == pytest.approx(0.35)


def test_a_span_is_answered_by_its_words():
    reader = Words([])
    question = Question.of(task(Span()), reader, PLAIN)
    text = padded(reader.ids(["we meet at half past six", "come at noon"]))
    target = torch.tensor([[3, 6], [2, 3]])
    answers = question.answers({"text": text}, target)
    words = [reader.text(row[row >= 0]) for row in answers]
    assert words == ["half past six", "noon"]
    lost = question.answers({"text": text}, torch.tensor([[-1, -1], [2, 3]]))
    assert (lost[0] < 0).all() and reader.text(lost[1][lost[1] >= 0]) == "noon"


def test_free_answers_are_cut_at_the_kinds_length():
    question = Question.of(task(Generation(tokens=2)), Words([]), PLAIN)
    target = torch.tensor([[5, 6, 7], [5, -1, -1]])
    assert question.answers({}, target).tolist() == [[5, 6], [5, -1]]


def test_joined_texts_keep_their_order_and_lose_their_gaps():
    left = torch.tensor([[1, 2, -1], [3, -1, -1], [-1, -1, -1]])
    right = torch.tensor([[4, -1], [5, 6], [-1, -1]])
    assert joined([left, right]).tolist() == [[1, 2, 4], [3, 5, 6], [-1, -1, -1]]


def test_questions_are_cut_at_the_limit():
    reader = Words([])
    question = Question.of(task(CLASSES), reader, PLAIN)
    context, asked_ids = question.cast({"text": padded(reader.ids(["a b c d"]))}, 3)
    assert context.shape == asked_ids.shape == (1, 3)


def test_kinds_that_no_words_answer_are_refused():
    table = {
        "sentences": [["a b", "c d"]] * 30,
        "sections": [[0, 1]] * 30,
    }
    kind = {"sections": "boundaries"}
    suite = Suite.from_table(table, kind, inputs={"sentences": "text"})
    with pytest.raises(InputError, match=r"task 'sections'.*boundaries.*cannot be put in words"):
        check_questions(suite, PLAIN)
