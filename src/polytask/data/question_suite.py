"""Four small tasks of question answering that tell apart where a word of an answer comes from.

They need no data and have exact answers. Most words are drawn from an open list of made-up words;
validation and test have lists of their own, so an open word of theirs was never seen in training
and can only be copied.

    task      context                   question                  answer               is
    lookup    k1 v1 k2 v2 k3 v3 k4 v4   k3                        v3                   copied
    choice    filler left filler        pick w1 or w2             w1                   from question
    mapping   m7 m2 m11                 translate                 n3 n18 n5            generated
    query     columns c1 c2 c3          show c2 where c1 is v     select c2 if c1 = v  all of it

In ``choice`` a word of the context says which of the two words of the question is the answer. In
``mapping`` every word has one translation, which stands in no context and no question. In ``query``
columns and value are copied, the rest is generated.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from polytask.data.splits import SPLITS
from polytask.data.suite import Suite
from polytask.errors import InputError
from polytask.tasks import Generation

TASKS = ("lookup", "choice", "mapping", "query")

_SIDES = ("left", "right")
_FILLERS = ("stone", "river", "cloud", "meadow", "lantern", "harbor", "window", "garden")
_PAIRS = 20
_SOURCE = tuple(f"source{i}" for i in range(_PAIRS))
_GOAL = tuple(f"goal{i}" for i in range(_PAIRS))
_ASKING = ("pick", "or", "translate", "columns", "show", "where", "is", "select", "if", "=")
CLOSED_WORDS = (*_SIDES, *_FILLERS, *_SOURCE, *_GOAL, *_ASKING)

Example = tuple[str, str, str]


def question_suite(
    rows: tuple[int, int, int] = (6000, 200, 500),
    tasks: Sequence[str] = TASKS,
    *,
    words: tuple[int, int, int] = (2000, 300, 300),
    seed: int = 0,
) -> Suite:
    """The suite, every task with rows of its own.

    A network whose vocabulary is the ``CLOSED_WORDS`` can say what must be said; they are by far
    the most frequent ones.

    Args:
        rows: rows per task in train, validation and test.
        tasks: which of the four, in this order.
        words: open words of train, validation and test; no word is in two of them.
        seed: of the words, the translation and the rows.
    """
    for task in tasks:
        if task not in TASKS:
            raise InputError(f"question_suite has no task {task!r}; it has {', '.join(TASKS)}")
    if min(words) < 8:
        raise InputError(f"question_suite: a row needs 8 open words, not {min(words)}")
    rng = np.random.default_rng(seed)
    made = _open_words(sum(words), rng)
    opened = np.split(made, np.cumsum(words)[:-1])
    translation = rng.permutation(_PAIRS)
    # Every task has a stream of its own, so that a task's rows do not depend on the others'.
    streams = dict(zip(TASKS, rng.spawn(len(TASKS)), strict=True))
    made_by = {
        "lookup": _lookup,
        "choice": _choice,
        "mapping": lambda rng, _: _mapping(rng, translation),
        "query": _query,
    }
    tables: dict[str, Any] = {}
    for task in tasks:
        stream = streams[task]
        drawn = [
            (*made_by[task](stream, opened[part]), split)
            for part, split in enumerate(SPLITS)
            for _ in range(rows[part])
        ]
        columns = ("context", "question", "answer", "split")
        tables[task] = {
            "source": dict(zip(columns, map(list, zip(*drawn, strict=True)), strict=True)),
            "texts": ("question", "context"),
            "target": "answer",
            "kind": Generation(metric="em", tokens=10),
            "split": "split",
        }
    return Suite.from_tasks(tables, name="questions")


def _open_words(number: int, rng: np.random.Generator) -> np.ndarray:
    """Different words of three syllables, none of them closed."""
    syllables = np.array([c + v for c in "bdfghjklmnprstvz" for v in "aeiou"])
    found: dict[str, None] = {}
    while len(found) < number:
        for letters in syllables[rng.integers(len(syllables), size=(number, 3))]:
            found.setdefault("".join(letters))
    return np.array(list(found)[:number])


def _lookup(rng: np.random.Generator, opened: np.ndarray) -> Example:
    words = rng.choice(opened, 8, replace=False)
    asked = 2 * int(rng.integers(4))
    return " ".join(words), str(words[asked]), str(words[asked + 1])


def _choice(rng: np.random.Generator, opened: np.ndarray) -> Example:
    pair = rng.choice(opened, 2, replace=False)
    side = int(rng.integers(2))
    said = [*rng.choice(_FILLERS, 3), _SIDES[side]]
    return " ".join(rng.permutation(said)), f"pick {pair[0]} or {pair[1]}", str(pair[side])


def _mapping(rng: np.random.Generator, translation: np.ndarray) -> Example:
    picked = rng.integers(_PAIRS, size=3)
    context = " ".join(_SOURCE[i] for i in picked)
    return context, "translate", " ".join(_GOAL[translation[i]] for i in picked)


def _query(rng: np.random.Generator, opened: np.ndarray) -> Example:
    *columns, value = rng.choice(opened, 4, replace=False)
    shown, known = rng.choice(columns, 2, replace=False)
    context = f"columns {' '.join(columns)}"
    question = f"show {shown} where {known} is {value}"
    return context, question, f"select {shown} if {known} = {value}"
