"""Sentence pairs drawn from a known law, where a learned pair function is needed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from polytask.data.suite import Suite
from polytask.errors import InputError


@dataclass(frozen=True)
class SynonymPairs:
    """Two short sentences about concepts that go by several names, each glad or sad.

    A sentence is a mood and ``length`` different concepts in random order, each by one of its
    ``synonyms``. The number of concepts that both name is uniform over 1 to ``length``; the moods
    agree with chance 3/4. The pair is ``alike`` if it shares at least ``shared`` concepts and the
    mood agrees, at the defaults 3/8 of all pairs: no sum of similarities of the two sentences tells
    that, for one word can turn the answer.

    Attributes:
        concepts, synonyms: size of the vocabulary, ``concepts * synonyms + 2`` words.
    """

    concepts: int = 40
    synonyms: int = 3
    length: int = 6
    shared: int = 4

    def __post_init__(self) -> None:
        if self.concepts < 2 * self.length:
            raise InputError(
                f"concepts is {self.concepts}; two sentences of {self.length} need "
                f"{2 * self.length}"
            )
        if not 1 <= self.shared <= self.length:
            raise InputError(f"shared is {self.shared}, not within 1 to {self.length}")

    def draw(self, rows: int, seed: int, flipped: float = 0.0) -> dict[str, Any]:
        """Columns ``a``, ``b`` (texts), ``alike`` (yes or no), ``overlap`` (shared concepts).

        A share ``flipped`` of the labels ``alike`` is turned round; ``overlap`` is always true.
        """
        rng = np.random.default_rng(seed)
        a, b, overlap, agree = self._pairs(rows, 1, rng)
        alike = (overlap >= self.shared) & agree
        wrong = rng.random(rows) < flipped
        return {
            "a": a,
            "b": b,
            "alike": np.where(alike ^ wrong, "yes", "no"),
            "overlap": overlap.astype(np.float64),
        }

    def partners(self, queries: int, each: int, seed: int) -> tuple[list[str], list[str]]:
        """Queries, and ``each`` partners of every query one after the other."""
        a, b, _, _ = self._pairs(queries, each, np.random.default_rng(seed))
        return a, b

    def alike(self, a: str, b: str) -> bool:
        """What the law says of two sentences."""
        (mood, *first), (other, *second) = a.split(), b.split()
        concepts = [{int(word[1:]) // self.synonyms for word in words} for words in (first, second)]
        return mood == other and len(concepts[0] & concepts[1]) >= self.shared

    def _pairs(
        self, queries: int, each: int, rng: np.random.Generator
    ) -> tuple[list[str], list[str], np.ndarray, np.ndarray]:
        """Sentences a ``[queries]`` and b ``[queries * each]``; overlap and agreement of pairs."""
        order = rng.permuted(np.tile(np.arange(self.concepts), (queries, 1)), axis=1)
        moods, rows = rng.integers(0, 2, queries), queries * each
        first, others = np.split(np.repeat(order, each, axis=0), [self.length], axis=1)
        named = np.concatenate([rng.permuted(first, axis=1), rng.permuted(others, axis=1)], axis=1)
        overlap, agree = rng.integers(1, self.length + 1, rows), rng.random(rows) < 0.75
        # The second sentence takes the last ``overlap`` concepts of the first, then others.
        starts = self.length - overlap
        second = np.take_along_axis(named, starts[:, None] + np.arange(self.length), axis=1)
        theirs = np.where(agree, np.repeat(moods, each), 1 - np.repeat(moods, each))
        a = self._sentences(order[:, : self.length], moods, rng)
        return a, self._sentences(second, theirs, rng), overlap, agree

    def _sentences(
        self, concepts: np.ndarray, moods: np.ndarray, rng: np.random.Generator
    ) -> list[str]:
        words = rng.permuted(concepts, axis=1) * self.synonyms
        words += rng.integers(0, self.synonyms, words.shape)
        return [
            f"{('sad', 'glad')[mood]} " + " ".join(f"w{word:03d}" for word in row)
            for mood, row in zip(moods, words, strict=True)
        ]

    def suite(
        self, rows: tuple[int, int, int] = (3000, 500, 3000), flipped: float = 0.15, seed: int = 0
    ) -> Suite:
        """Tasks ``alike`` (classes) and ``overlap`` (similarity); the test labels are all true."""
        table: dict[str, list[Any]] = {}
        seeds = np.random.SeedSequence(seed).generate_state(3)
        for i, (split, count) in enumerate(zip(("train", "validation", "test"), rows, strict=True)):
            columns = self.draw(count, int(seeds[i]), 0.0 if split == "test" else flipped)
            for name, values in columns.items():
                table.setdefault(name, []).extend(values)
            table.setdefault("split", []).extend([split] * count)
        return Suite.from_table(
            pa.table(table),
            {
                "alike": "classification",
                "overlap": {"kind": "similarity", "low": 0, "high": self.length},
            },
            inputs={"a": "text", "b": "text"},
            split="column:split",
            name="synonyms",
        )
