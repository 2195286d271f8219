"""The decathlon's own metrics, and the sum of ten that ranks a model.

Source: McCann et al., "The Natural Language Decathlon: Multitask Learning as Question Answering",
    2018, section 3. nF1, exact match, ROUGE and BLEU are in ``text_metrics``.

All metrics are shares from 0 to 1; only ``deca_score`` counts in hundreds.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from polytask.errors import InputError
from polytask.tasks.text_metrics import normalised

UNANSWERABLE = "unanswerable"


def corpus_f1(references: Sequence[str], answers: Sequence[str]) -> float:
    """The cF1 of relation extraction: F1 of exact matches over the whole corpus.

    Precision counts answers that are not "unanswerable", recall references that are not; so saying
    "unanswerable" rightly earns nothing, and wrongly costs recall. An answer matches if it is the
    same set of normalised words.
    """
    pairs = [
        (frozenset(normalised(r).split()), frozenset(normalised(a).split()))
        for r, a in zip(references, answers, strict=True)
    ]
    nothing = frozenset({UNANSWERABLE})
    right = sum(r == a != nothing for r, a in pairs)
    wanted, given = (sum(pair[i] != nothing for pair in pairs) for i in (0, 1))
    return 2 * right / (wanted + given) if wanted + given else 0.0


def dialogue_changes(text: str) -> tuple[dict[str, str], frozenset[str]]:
    """``"food: thai, area: north; phone, address"`` as (slot -> value, requests).

    Either part may be missing; ``"None"`` is neither.
    """
    goals, _, requests = text.lower().partition(";")
    slots: dict[str, str] = {}
    asked = [part.strip() for part in requests.split(",")]
    for part in goals.split(","):
        slot, colon, value = (piece.strip() for piece in part.partition(":"))
        if colon:
            slots[slot] = value
        else:
            asked.append(slot)
    return slots, frozenset(request for request in asked if request not in ("", "none"))


def joint_goals(
    references: Sequence[str], answers: Sequence[str], dialogues: Sequence[object]
) -> tuple[float, float]:
    """The dsEM of dialogue state: (joint goal, requests), shares of turns that are wholly right.

    Every answer tells what changes in its turn; the state after a turn is all changes of its
    dialogue so far. A wrong change thus spoils every later turn, until it is overwritten.

    Args:
        references, answers: one per turn, turns in their order (see ``dialogue_changes``).
        dialogues: which dialogue each turn belongs to.
    """
    wanted: dict[object, dict[str, str]] = {}
    given: dict[object, dict[str, str]] = {}
    goals = requests = 0
    for reference, answer, dialogue in zip(references, answers, dialogues, strict=True):
        (changed, asked), (said, guessed) = map(dialogue_changes, (reference, answer))
        wanted.setdefault(dialogue, {}).update(changed)
        given.setdefault(dialogue, {}).update(said)
        goals += wanted[dialogue] == given[dialogue]
        requests += asked == guessed
    turns = max(1, len(references))
    return goals / turns, requests / turns


class Query(NamedTuple):
    """A WikiSQL query: the column asked for, its aggregation, and the conditions."""

    column: str
    aggregation: str
    conditions: frozenset[tuple[str, str, str]]


_AGGREGATIONS = ("max", "min", "count", "sum", "avg")
_OPERATORS = ("=", ">", "<")


def parse_query(text: str, columns: Sequence[str]) -> Query | None:
    """``"select max price from table where size > 3"`` as a query; None if it is no such query.

    Column names may hold several words, ``and`` or operators; the longest that fits is taken.
    """
    names = sorted((_spaced(column) for column in columns), key=len, reverse=True)
    rest = _spaced(text)
    if not rest.startswith("select "):
        return None
    rest = rest.removeprefix("select ")
    said = re.match(rf"({'|'.join(_AGGREGATIONS)})(?: \( | )", rest)
    aggregation = said[1] if said and not _starting(names, rest) else ""
    rest = rest[said.end() :] if said and aggregation else rest
    column = _starting(names, rest)
    if column is None:
        return None
    rest = rest[len(column) :].strip().removeprefix(") ").removeprefix("from table").strip()
    conditions = set()
    while rest:
        rest = re.sub(r"^(where|and) ", "", rest)
        name = _starting(names, rest)
        if name is None:
            return None
        operator, _, rest = rest[len(name) :].strip().partition(" ")
        if operator not in _OPERATORS or not rest:
            return None
        # A value ends where another condition begins, for it may hold the word "and" itself.
        ends = [m.start() for m in re.finditer(" and ", rest) if _condition(names, rest[m.end() :])]
        value, rest = (rest[: ends[0]], rest[ends[0] + 1 :]) if ends else (rest, "")
        conditions.add((name, operator, value))
    return Query(column, aggregation, frozenset(conditions))


def logical_form(
    references: Sequence[str], answers: Sequence[str], columns: Sequence[Sequence[str]]
) -> float:
    """The lfEM of semantic parsing: share of queries equal in column, aggregation and conditions.

    Args:
        references, answers: queries as text, in any order of conditions.
        columns: the names of the columns of each query's table.

    Raises:
        InputError: a reference that is no query over its columns.
    """
    right = 0
    rows = zip(references, answers, columns, strict=True)
    for row, (reference, answer, names) in enumerate(rows):
        wanted = parse_query(reference, names)
        if wanted is None:
            raise InputError(f"reference {row + 1} is no query over its columns: {reference!r}")
        right += wanted == parse_query(answer, names)
    return right / max(1, len(references))


def deca_score(shares: Mapping[str, float]) -> float:
    """The decaScore: the plain sum of ten metrics, each 0 to 100, without weights."""
    if len(shares) != 10:
        raise InputError(f"a decaScore sums ten metrics, not {len(shares)}")
    for name, share in shares.items():
        if not 0 <= share <= 1:
            raise InputError(f"metric of {name!r} is {share}; a decaScore sums shares from 0 to 1")
    return 100 * sum(shares.values())


def _spaced(text: str) -> str:
    """Lower case, single spaces, operators and brackets as words of their own."""
    return " ".join(re.sub(r"([=<>()])", r" \1 ", text.lower()).split())


def _starting(names: Sequence[str], text: str) -> str | None:
    return next((n for n in names if text == n or text.startswith(f"{n} ")), None)


def _condition(names: Sequence[str], text: str) -> bool:
    name = _starting(names, text)
    return name is not None and text[len(name) :].strip()[:1] in _OPERATORS
