"""Segmented documents: pairs of their sentences to learn from, and articles of a known law.

A document is a row with a column of sentences and perhaps two labels: the section number of every
sentence, and the topic of every sentence.
"""

from __future__ import annotations

import copy
import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from polytask.data.batch import Batch
from polytask.data.splits import ColumnSplit
from polytask.data.suite import Suite
from polytask.errors import InputError
from polytask.tasks.text import Boundaries, Tagging

# Inputs of a drawn batch of pairs; a column of a user's table cannot have such a name by accident.
LEFT, RIGHT, PLACES, NEXT = "pairs:left", "pairs:right", "pairs:places", "pairs:next"

_LONGEST = 512  # sentences that are mined at once: pairs grow with their square

# -- sentences -------------------------------------------------------------------------------------

_SENTENCE_END = re.compile(
    r"(?:(?<=[.!?])|(?<=[.!?][\"')\]]))\s+(?=[\"'(\[]?[A-Z0-9])|\n\s*\n"  # or an empty line
)


def sentences_of(text: str) -> list[str]:
    """Sentences of raw text by a plain rule: an end mark, a space, a capital or a digit.

    It parts "Dr. Who" and knows no language but those that end sentences with ``.``, ``!`` or
    ``?``. Scores depend on where sentences end, so split them yourself where they matter.
    """
    return [" ".join(part.split()) for part in _SENTENCE_END.split(text) if part.strip()]


# -- pairs of sentences ----------------------------------------------------------------------------


def mined(
    section: NDArray[np.integer] | None,
    sentences: int,
    rng: np.random.Generator,
    same: float = 0.5,
    reach: int | None = None,
) -> NDArray[np.int64]:
    """Pairs of sentences ``[P, 2]`` of one document, the earlier sentence first.

    All adjacent pairs; ``same`` times as many that share a section without being adjacent; and of
    those in different sections as many as make "same" and "different" equally frequent, as far as
    the document has them. Where sections are unknown, as many pairs that are not adjacent as there
    are adjacent ones.

    Args:
        section: section number of every sentence, None if unknown.
        sentences: of the document.
        rng: draws the pairs that are not adjacent.
        same: pairs of one section per adjacent pair.
        reach: sentences that the two of a pair are apart at most (None: the whole document).
    """
    first = np.arange(max(sentences - 1, 0))
    adjacent = np.stack([first, first + 1], axis=1)
    i, j = np.triu_indices(sentences, k=2)
    if reach is not None:
        near = j - i <= reach
        i, j = i[near], j[near]
    apart = np.stack([i, j], axis=1)
    if section is None:
        return np.concatenate([adjacent, _some(apart, len(adjacent), rng)])
    alike = section[i] == section[j]
    inside = _some(apart[alike], round(same * len(adjacent)), rng)
    ends = int((section[1:] != section[:-1]).sum())
    across = _some(apart[~alike], len(adjacent) - ends + len(inside) - ends, rng)
    return np.concatenate([adjacent, inside, across])


def _some(pairs: NDArray, count: int, rng: np.random.Generator) -> NDArray:
    """As many of them, drawn without replacement, or all."""
    chosen = rng.choice(len(pairs), size=min(max(count, 0), len(pairs)), replace=False)
    return pairs[np.sort(chosen)]


def _stretches(sentences: int, stretch: int, rng: np.random.Generator) -> Iterator[tuple[int, int]]:
    """A document cut into stretches at a random offset; whole if it is not longer than one."""
    if stretch >= sentences:
        yield 0, sentences
        return
    cuts = [0, *range(int(rng.integers(1, stretch + 1)), sentences, stretch), sentences]
    yield from itertools.pairwise(cuts)


def windows(ids: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """What is read left and right of the gaps beside each sentence, ``[..., S, L']`` twice.

    Left of the gap after sentence i: sentences i-width+1 to i; right of the gap before it: i to
    i+width-1; joined without the padding between them, and none from outside of the document. With
    a width of 1 both are the sentences themselves.

    Args:
        ids: token ids ``[..., S, L]`` of documents, -1 past the end of a sentence.
        width: sentences on a side.
    """
    if width == 1:
        return ids, ids
    beyond = (ids < 0).all(-1, keepdim=True)  # past the document's end there is no window either
    sides = []
    for offsets in (range(1 - width, 1), range(width)):
        joined = torch.cat([_shifted(ids, offset) for offset in offsets], dim=-1)
        joined = joined.masked_fill(beyond, -1)
        joined = joined.gather(-1, (joined < 0).to(torch.int8).argsort(dim=-1, stable=True))
        longest = int((joined >= 0).sum(-1).max()) if joined.numel() else 0
        sides.append(joined[..., : max(longest, 1)])
    return sides[0], sides[1]


def _shifted(ids: Tensor, offset: int) -> Tensor:
    """Sentence ``i + offset`` in the place of sentence i; -1 outside of the document."""
    moved = torch.full_like(ids, -1)
    count = ids.shape[-2] - abs(offset)
    if count > 0:
        moved.narrow(-2, max(-offset, 0), count).copy_(ids.narrow(-2, max(offset, 0), count))
    return moved


class Pairs:
    """Documents at rest, seen as pairs of their sentences, which every epoch draws anew.

    A row is one pair or, with ``stretch``, all pairs mined in a stretch of a document, whose
    sentences are then encoded once for all of them. A drawn batch of B rows, each with at most U
    sentences and P pairs:

    * inputs: ``pairs:left`` and, if windows are wider than a sentence, ``pairs:right``
      ``[B, U, L]``: token ids of what is read left and right of a gap; ``pairs:places``
      ``[B, P, 2]``: which two of the U sentences are a pair, -1 past the end; ``pairs:next``
      ``[B, P]``: 1 where the second directly follows the first, else 0.
    * targets of ``boundaries`` ``[B, P]``: 1 where the two are of different sections, 0 where they
      share one, -1 past the end and where that is unknown.
    * targets of ``tags`` ``[B, U]``: the topic of each sentence, -1 where there is none.

    Args:
        data: documents, with the targets of the two tasks.
        column: the input with the sentences.
        boundaries, tags: names of the tasks; None where there is no such task.
        same, reach: see ``mined``.
        window: sentences on each side of a gap.
        stretch: sentences of a row; None: a row is one pair.
        seed, epoch: what the draw follows from.
    """

    def __init__(
        self,
        data: Batch,
        column: str,
        boundaries: str | None = None,
        tags: str | None = None,
        *,
        same: float = 0.5,
        reach: int | None = None,
        window: int = 1,
        stretch: int | None = None,
        seed: int = 0,
        epoch: int = 0,
    ) -> None:
        self.data, self.column, self.boundaries, self.tags = data, column, boundaries, tags
        self.same, self.reach, self.window, self.stretch = same, reach, window, stretch
        self.asked = tuple(data.masks)
        self._counts = [len(texts or ()) for texts in data.inputs[column].strings]  # type: ignore[attr-defined]
        self._labels = {task: self._whole(task) for task in (boundaries, tags) if task}
        if boundaries is not None:
            ends = (self._labels[boundaries] == 1).long()
            self._labels[boundaries] = ends.cumsum(1) - ends  # section numbers
        self._draw(seed, epoch)

    def _draw(self, seed: int, epoch: int) -> None:
        rng = np.random.default_rng((seed, epoch))
        self._rows: list[tuple[int, NDArray[np.int64]]] = []
        for document, count in enumerate(self._counts):
            section = None
            if self.boundaries is not None and self.data.masks[self.boundaries][document]:
                section = self._labels[self.boundaries][document, :count].numpy()
            for start, stop in _stretches(count, self.stretch or _LONGEST, rng):
                part = None if section is None else section[start:stop]
                pairs = mined(part, stop - start, rng, self.same, self.reach) + start
                if self.stretch is None:
                    self._rows += [(document, pair[None]) for pair in pairs]
                elif len(pairs):
                    self._rows.append((document, pairs))
        if not self._rows:
            raise InputError(f"no training row has two sentences in column {self.column!r}")
        self._documents = torch.tensor([document for document, _ in self._rows])

    def _whole(self, task: str) -> Tensor:
        """Labels of all sentences ``[N, S]``, -1 where there is none."""
        labels = self.data.targets[task][:]
        return F.pad(labels, (0, max(0, max(self._counts) - labels.shape[1])), value=-1)

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def masks(self) -> dict[str, Tensor]:
        return {task: self.data.masks[task][self._documents] for task in self.asked}

    @property
    def lengths(self) -> None:
        """Rows are counted, not their tokens: the network sorts sentences by length itself."""
        return None

    def turn(self, seed: int, epoch: int) -> Pairs:
        """Other pairs, from seed and epoch alone."""
        turned = copy.copy(self)
        turned._draw(seed, epoch)
        return turned

    def only(self, tasks: Iterable[str]) -> Pairs:
        """The same pairs with the labels of some tasks."""
        part = copy.copy(self)
        part.asked = tuple(tasks)
        return part

    def __getitem__(self, rows: Tensor) -> Batch:
        documents = self._documents[rows]
        pairs = [self._rows[row][1] for row in rows.tolist()]
        places, local = zip(*(np.unique(p, return_inverse=True) for p in pairs), strict=True)
        local = [inside.reshape(p.shape) for inside, p in zip(local, pairs, strict=True)]
        sentence, pair = _padded(places), _padded(pairs)
        follows = (pair[..., 1] - pair[..., 0] == 1).float()
        inputs = {**self._read(documents, sentence), PLACES: _padded(local), NEXT: follows}
        masks = {task: self.data.masks[task][documents] for task in self.asked}
        targets = {}
        for task in self.asked:
            labels = self._labels[task][documents]
            if task == self.boundaries:
                first, second = (labels.gather(1, pair[..., i].clamp(min=0)) for i in (0, 1))
                unknown = (pair[..., 0] < 0) | ~masks[task][:, None]
                targets[task] = (first != second).long().masked_fill(unknown, -1)
            else:
                topics = labels.gather(1, sentence.clamp(min=0))
                targets[task] = topics.masked_fill(sentence < 0, -1)
        return Batch(inputs, targets, masks)

    def _read(self, documents: Tensor, sentence: Tensor) -> dict[str, Tensor]:
        """Token ids around the sentences of each row; rows of one document share its reading."""
        distinct, which = documents.unique(return_inverse=True)
        sides = windows(self.data.inputs[self.column][distinct], self.window)
        found = {}
        for name, side in zip((LEFT, RIGHT), sides[: 1 if self.window == 1 else 2], strict=False):
            ids = side[which[:, None], sentence.clamp(min=0)]
            found[name] = ids.masked_fill((sentence < 0).unsqueeze(-1), -1)
        return found


def _padded(rows: Sequence[NDArray[np.int64]]) -> Tensor:
    """Arrays of whole numbers ``[n_b, ...]`` as one tensor ``[B, n, ...]``, -1 past the end."""
    parts = [torch.from_numpy(row) for row in rows]
    return torch.nn.utils.rnn.pad_sequence(parts, batch_first=True, padding_value=-1)


# -- articles of a known law -----------------------------------------------------------------------


@dataclass(frozen=True)
class Articles:
    """Synthetic articles: topics are word frequencies, neighbours share a name.

    Every topic is a distribution over ``words`` (Dirichlet); a share ``common`` of all words is
    replaced by common ones, so that one sentence tells little. Topics of an article's sections
    follow a Markov chain without repeats. Sentence t of a section also holds its article's rare
    names t and t + 1, so that adjacent sentences of one section share a name and no others do; the
    chain goes on with fresh names in the next section.

    Attributes:
        topics, words: K, and the words of all topics.
        concentration: of the Dirichlet prior of a topic, and of each row of the Markov chain.
        common: share of the words that are common ones, uniform over ``common_words``.
        names: rare names there are; an article draws its own without repeats.
        seed: of topics and chain; ``draw`` has a seed of its own.
    """

    topics: int = 12
    words: int = 400
    concentration: float = 0.08
    common: float = 0.55
    common_words: int = 60
    names: int = 600
    sections: tuple[int, int] = (4, 8)
    sentences: tuple[int, int] = (3, 12)
    length: tuple[int, int] = (6, 14)
    seed: int = 0

    def __post_init__(self) -> None:
        if self.topics < 2:
            raise InputError(f"articles: topics is at least 2, not {self.topics}")
        if self.names <= self.sections[1] * (self.sentences[1] + 1):
            raise InputError("articles: names are too few for one article")

    def draw(self, articles: int, seed: int) -> dict[str, list[list[Any]]]:
        """Columns ``sentences``, ``section`` (numbers) and ``topic``, one article a row."""
        law, rng = (
            np.random.default_rng((self.seed, 0)),
            np.random.default_rng((self.seed, 1, seed)),
        )
        frequency = law.dirichlet(np.full(self.words, self.concentration), size=self.topics)
        chain = law.dirichlet(np.ones(self.topics), size=self.topics)
        np.fill_diagonal(chain, 0)
        chain /= chain.sum(1, keepdims=True)
        columns: dict[str, list[list[Any]]] = {"sentences": [], "section": [], "topic": []}
        for _ in range(articles):
            names = iter(rng.permutation(self.names))
            topic = int(rng.integers(self.topics))
            texts: list[str] = []
            section: list[int] = []
            topics: list[str] = []
            for number in range(rng.integers(self.sections[0], self.sections[1] + 1)):
                count = int(rng.integers(self.sentences[0], self.sentences[1] + 1))
                known = [next(names)]
                for _ in range(count):
                    known.append(next(names))
                    texts.append(self._sentence(frequency[topic], known[-2:], rng))
                section += [number] * count
                topics += [f"topic {topic:02d}"] * count
                topic = int(rng.choice(self.topics, p=chain[topic]))
            columns["sentences"].append(texts)
            columns["section"].append(section)
            columns["topic"].append(topics)
        return columns

    def _sentence(self, frequency: NDArray, names: Sequence[int], rng: np.random.Generator) -> str:
        size = int(rng.integers(self.length[0], self.length[1] + 1))
        words = rng.choice(self.words, size=size, p=frequency)
        plain = rng.random(size) < self.common
        common = rng.integers(self.common_words, size=size)
        spoken = [_word(int(n)) for n in np.where(plain, common, words + self.common_words)]
        first = self.common_words + self.words
        for name in names:
            spoken.insert(int(rng.integers(len(spoken) + 1)), _word(first + int(name)))
        return " ".join(spoken)

    def suite(
        self, train: int = 600, validation: int = 100, test: int = 200, seed: int = 0
    ) -> Suite:
        """Articles in three splits, with the tasks ``boundary`` and ``topic``."""
        parts = {"train": train, "validation": validation, "test": test}
        drawn = self.draw(sum(parts.values()), seed)
        split = [name for name, count in parts.items() for _ in range(count)]
        return Suite.from_table(
            pa.table({**drawn, "split": split}),
            {"section": Boundaries(), "topic": Tagging()},
            inputs={"sentences": "text"},
            split=ColumnSplit("split"),
            name="articles",
            about=f"synthetic articles of {self.topics} topics, drawn with seed {seed}",
        )


_CONSONANTS, _VOWELS = "bdfgklmnprstvz", "aeiou"


def _word(number: int) -> str:
    """A word of letters that can be spoken, another one for every number."""
    syllables = len(_CONSONANTS) * len(_VOWELS)
    found = ""
    for _ in range(3):
        number, rest = divmod(number, syllables)
        found += _CONSONANTS[rest // len(_VOWELS)] + _VOWELS[rest % len(_VOWELS)]
        if not number:
            break
    return found
