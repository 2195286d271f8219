"""Questions: any task of a text suite as (question, context, answer), all three in words.

Source: McCann et al., "The Natural Language Decathlon: Multitask Learning as Question Answering",
    2018, section 2. A prompt says how a task is asked; the default depends on its kind:

    classification   "Is this {classes}?"; of two texts the form of MNLI: context
                     'Premise: "{a}"', question 'Hypothesis: "{b}" -- {classes}?'
    similarity       'On a scale from 0 to 10, how similar is it to "{b}"?'
    regression       "On a scale from 0 to 10, how high is {task}?"
    span, generation of two texts the first is the question; of one, "What is the {task}?"

A user's own is one line: ``PROMPTS["my_task"] = "Is this review {classes}?"``. A prompt of two
lines gives the context first. ``{classes}`` stands for the words of all classes, ``{task}`` for the
task's name, any other field for a text column; columns that the prompt does not name are the
context. ``LABELS["my_task"] = {"0": "negative", "1": "positive"}`` says what classes are called.

Answers to choose from (classes, and levels for scores) are words as well. So a fitted model can be
asked about other classes, in other words, without training. Scores are the expected level under the
chances of all levels, not the likeliest level: that keeps the order between two levels, and a
ranking without ties.
"""

from __future__ import annotations

import string
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from polytask.data.suite import Suite
from polytask.data.texts import Reader
from polytask.errors import InputError, nearest
from polytask.tasks import Classification, Generation, Kind, Regression, Similarity, Span, Task

PROMPTS: dict[str, str] = {}
LABELS: dict[str, dict[str, str]] = {}

LEVELS = 11  # a score is one of the words "0" to "10"
_REACH = 2.5  # a regression's levels reach this many standard deviations from the mean
_ASKED = (Classification, Similarity, Regression, Span, Generation)
_YES_NO = {"True": "yes", "False": "no"}

Lines = tuple[str, ...]


@dataclass(frozen=True)
class Wording:
    """How tasks are asked and classes called; a prompt per task, and words per class and task.

    ``told_lines`` and ``wording`` make settings of it and back.
    """

    prompts: Mapping[str, str]
    labels: Mapping[str, Mapping[str, str]]

    def words(self, task: Task) -> list[str]:
        """The answers to choose from, in the kind's order; none if the answer is free."""
        if isinstance(task.kind, Classification):
            called = self.labels.get(task.name, {})
            names = [str(c) for c in task.kind.classes]
            for name in called:
                if name not in names:
                    raise InputError(
                        f"labels of task {task.name!r}: it has no class {name!r}"
                        f"{nearest(name, names)}"
                    )
            return [called.get(name, _YES_NO.get(name, name.replace("_", " "))) for name in names]
        if isinstance(task.kind, Similarity | Regression):
            return [str(level) for level in range(LEVELS)]
        return []

    def templates(self, task: Task) -> tuple[str, str]:
        """Context and question with fields for text columns; all other fields are filled in."""
        given = self.prompts.get(task.name) or _default(task)
        context, _, question = given.rpartition("\n")
        if not context:
            rest = [t for t in task.texts if f"{{{t}}}" not in question]
            context = " ".join(f"{{{t}}}" for t in rest)
        fixed = {"classes": _listed(self.words(task)), "task": task.name.replace("_", " ")}
        filled = []
        for template in (context, question):
            try:
                pieces = list(string.Formatter().parse(template))
            except ValueError as error:
                raise InputError(f"prompt of task {task.name!r}: {error}") from None
            for _, field, _, _ in pieces:
                if field is not None and field not in (*fixed, *task.texts):
                    raise InputError(
                        f"prompt of task {task.name!r}: {{{field}}} is no text column of the task"
                        f"{nearest(field, [*task.texts, *fixed])}"
                    )
            filled.append("".join(_part(literal, field, fixed) for literal, field, _, _ in pieces))
        return filled[0], filled[1]

    def constants(self, task: Task) -> list[str]:
        """All words that a task brings along beside its texts and labels."""
        pieces = [literal for template in self.templates(task) for literal, _ in _pieces(template)]
        return [*pieces, *self.words(task)]


def told_lines(told: Mapping[str, object] | Sequence[str]) -> Lines:
    """Prompts or labels as settings: ``("task: prompt", ...)``; given so, they stay as they are.

    Labels of a task read ``"task: class=words; class=words"``.
    """
    if not isinstance(told, Mapping):
        return tuple(told)

    def line(value: object) -> str:
        if not isinstance(value, Mapping):
            return str(value)
        for name, words in value.items():
            if ";" in f"{name}{words}" or "=" in str(name):
                raise InputError(f"labels: {name!r}, {words!r}: a class is told without ';' or '='")
        return "; ".join(f"{name}={words}" for name, words in value.items())

    return tuple(f"{task}: {line(value)}" for task, value in told.items())


def wording(prompts: Sequence[str], labels: Sequence[str]) -> Wording:
    """The wording that settings tell; it may speak of tasks that a suite does not have."""
    called = dict(_entry(line, "labels") for line in labels)
    return Wording(
        dict(_entry(line, "prompts") for line in prompts),
        {task: dict(_equation(p, rest) for p in rest.split(";")) for task, rest in called.items()},
    )


@dataclass(frozen=True)
class Question:
    """A task as it is asked, in token ids.

    Attributes:
        context, question: names of text columns, and ids of the words between them.
        choices: ids of the answers to choose from ``[C, La]``, padded with -1; None if free.
    """

    task: Task
    context: tuple[str | Tensor, ...]
    question: tuple[str | Tensor, ...]
    choices: Tensor | None

    @classmethod
    def of(cls, task: Task, reader: Reader, wording: Wording) -> Question:
        """The question of a fitted task, in the tokens of a reader."""

        def read(template: str) -> tuple[str | Tensor, ...]:
            found: list[str | Tensor] = []
            for literal, column in _pieces(template):
                if literal.strip():
                    found.append(torch.from_numpy(reader.ids([literal])[0]).long())
                if column:
                    found.append(column)
            return tuple(found)

        context, question = map(read, wording.templates(task))
        words = wording.words(task)
        ids = reader.ids(words) if words else []
        if len({tuple(row) for row in ids}) < len(ids):
            raise InputError(
                f"task {task.name!r}: two of its answers read the same, {_listed(words)}; give "
                "each class words of its own in labels"
            )
        return cls(task, context, question, padded(ids) if words else None)

    def cast(self, inputs: Mapping[str, Tensor], limit: int) -> tuple[Tensor, Tensor]:
        """Context and question of rows: ids ``[B, l]`` and ``[B, m]``, at most ``limit`` each."""
        rows = len(inputs[self.task.texts[0]])
        device = inputs[self.task.texts[0]].device

        def told(pieces: tuple[str | Tensor, ...]) -> Tensor:
            parts = [
                inputs[p] if isinstance(p, str) else p.to(device).expand(rows, -1) for p in pieces
            ]
            return joined(parts or [torch.full((rows, 0), -1, device=device)])[:, :limit]

        return told(self.context), told(self.question)

    def answers(self, inputs: Mapping[str, Tensor], target: Tensor) -> Tensor:
        """The ids that answer rows ``[B, La]``, padded with -1, from their encoded labels."""
        kind = self.task.kind
        if self.choices is not None:
            return self.choices.to(target.device)[_chosen(kind, target)]
        if isinstance(kind, Span):
            text = inputs[self.task.texts[-1]]
            first, end = target[:, :1], target[:, 1:]
            width = max(1, int((end - first).max()))
            places = first + torch.arange(width, device=text.device)
            inside = (places < end) & (first >= 0)
            ids = text.gather(1, places.clamp(0, text.shape[1] - 1))
            return ids.masked_fill(~inside, -1)
        assert isinstance(kind, Generation)
        return target[:, : kind.tokens]

    def output(self, likelihood: Tensor) -> Tensor:
        """What the kind expects of a head, from the log-likelihoods ``[B, C]`` of the choices."""
        kind = self.task.kind
        if isinstance(kind, Classification):
            return likelihood if kind.outputs > 1 else likelihood[:, 1:] - likelihood[:, :1]
        low, high = (0.0, 1.0) if isinstance(kind, Similarity) else (-_REACH, _REACH)
        levels = torch.linspace(low, high, LEVELS, device=likelihood.device)
        return (likelihood.softmax(1) @ levels).unsqueeze(1)


def check_questions(suite: Suite, wording: Wording) -> None:
    """Refuse, before anything is read, tasks that cannot be asked and prompts that do not fit."""
    for task in suite.tasks:
        if not isinstance(task.kind, _ASKED):
            raise InputError(
                f"task {task.name!r}: a {task.kind.name} answer cannot be put in words; asked are "
                f"{', '.join(kind.name for kind in _ASKED)}"
            )
        if not task.texts:
            raise InputError(f"task {task.name!r} reads no text column")
        several = next((name for name in task.texts if suite.texts[name]), None)
        if several:
            raise InputError(
                f"task {task.name!r}: column {several!r} holds lists of texts, and a question is "
                "about single ones"
            )
        kind = task.kind.fitted(suite.labels(task, "train"))
        wording.templates(Task(task.name, kind, task.target, task.where, task.texts))


def joined(parts: Sequence[Tensor]) -> Tensor:
    """Ids of several texts one after the other, ``[B, L]``, all padding (-1) at the end."""
    ids = torch.cat(list(parts), dim=1)
    order = (ids < 0).to(torch.int8).argsort(dim=1, stable=True)
    longest = int((ids >= 0).sum(1).max()) if ids.numel() else 0
    return ids.gather(1, order)[:, :longest]


def padded(rows: Sequence[NDArray[np.int32]]) -> Tensor:
    """Ids of rows of unequal length as ``[B, L]`` int64, padded with -1."""
    out = torch.full((len(rows), max(map(len, rows), default=0)), -1)
    for line, row in zip(out, rows, strict=True):
        line[: len(row)] = torch.from_numpy(row)
    return out


def _default(task: Task) -> str:
    first, *rest = (f"{{{name}}}" for name in task.texts)
    if isinstance(task.kind, Classification):
        if len(rest) == 1:
            return f'Premise: "{first}"\nHypothesis: "{rest[0]}" -- {{classes}}?'
        return "Is this {classes}?"
    scale = f"On a scale from 0 to {LEVELS - 1}, how"
    if isinstance(task.kind, Similarity) and rest:
        return f'{scale} similar is it to "{rest[-1]}"?'
    if isinstance(task.kind, Similarity | Regression):
        return f"{scale} high is {{task}}?"
    return first if rest else "What is the {task}?"


def _chosen(kind: Kind, target: Tensor) -> Tensor:
    """Which of the choices a label is."""
    if isinstance(kind, Classification):
        return target
    if isinstance(kind, Similarity):
        unit = kind.scaled(target)
    else:
        assert isinstance(kind, Regression)
        unit = ((target - kind.mean) / kind.std + _REACH) / (2 * _REACH)
    return (unit * (LEVELS - 1)).round().long().clamp(0, LEVELS - 1)


def _pieces(template: str) -> Iterator[tuple[str, str | None]]:
    """(literal, column behind it or None), in order."""
    for literal, field, _, _ in string.Formatter().parse(template):
        yield literal, field


def _part(literal: str, field: str | None, fixed: Mapping[str, str]) -> str:
    """A piece of a template, filled in as far as it can be; braces stay escaped."""
    column = f"{{{field}}}" if field and field not in fixed else ""
    return _escaped(literal + fixed.get(field or "", "")) + column


def _escaped(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")


def _listed(words: Sequence[str]) -> str:
    """``a``, ``a or b``, ``a, b or c``."""
    return " or ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _entry(line: str, what: str) -> tuple[str, str]:
    task, colon, rest = line.partition(":")
    if not colon or not rest.strip():
        raise InputError(f"{what}: {line!r} is not of the form 'task: words'")
    return task.strip(), rest.strip()


def _equation(part: str, line: str) -> tuple[str, str]:
    name, equals, words = (piece.strip() for piece in part.partition("="))
    if not equals or not words:
        raise InputError(f"labels: {line!r} is not of the form 'task: class=words; class=words'")
    return name, words
