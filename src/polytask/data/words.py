"""Words: text as lower-cased words, for networks that read frozen vectors and may copy any word.

Words of the training texts are the vocabulary, the most frequent first; the first ``generative`` of
them can be said unprompted. The vocabulary is open: a word met later gets the next id behind it,
so that it can be read (its vector needs no training) and copied.

Source: McCann et al., "The Natural Language Decathlon", 2018, section 4: frozen GloVe vectors
    (300) beside frozen character n-gram vectors (100). Without a file of vectors each word has a
    random one that depends on the word alone.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from polytask.errors import InputError

UNKNOWN, INIT, EOS = range(3)  # ids of what stands for no word; the first entries of a vocabulary
SPECIAL = ("<unk>", "<init>", "<eos>")
# Runs of letters and digits, also across a sign within (don't, 7:30, 3.5, e-mail); or one sign.
_WORD = re.compile(r"\w+(?:[-'’.,:/@]\w+)*|[^\w\s]")
_SPREAD = 0.4  # standard deviation of a random vector's numbers, about that of GloVe 840B's


def split_words(text: str) -> list[str]:
    """Words and signs of a text, lower-cased."""
    return [word.lower() for word in _WORD.findall(text)]


class Words:
    """A reader of words (see ``data.texts``) and the keeper of their vectors.

    Args:
        words: the vocabulary behind ``SPECIAL``, most frequent first.
        generative: how many ids, counted from 0, a network may say without copying.
        limit: words of a text that are read; the rest is cut off.
        size, grams: length of a word's own vector and of its n-gram vector.
        file: vectors as text, ``word number number ...`` per line (the form of GloVe); words that
            are not in it, and all words without it, get random ones.
    """

    def __init__(
        self,
        words: Sequence[str],
        generative: int = 50_000,
        *,
        limit: int = 400,
        size: int = 300,
        grams: int = 100,
        file: str | None = None,
    ) -> None:
        self.words = [*SPECIAL, *words]
        self.known = len(self.words)
        self.generative = min(generative, self.known)
        self.limit, self.size, self.grams, self.file = limit, size, grams, file
        self._ids = {word: i for i, word in enumerate(self.words)}
        self._stored = VectorFile(file, size) if file else None

    @classmethod
    def fit(
        cls,
        texts: Iterable[str],
        generative: int = 50_000,
        *,
        always: Iterable[str] = (),
        most: int = 1_000_000,
        **options: Any,
    ) -> Self:
        """The words of training texts; those of ``always`` come first and can always be said."""
        first = dict.fromkeys(word for text in always for word in split_words(text))
        counts: Counter[str] = Counter()
        for text in texts:
            counts.update(split_words(text))
        rest = sorted(counts.keys() - first.keys(), key=lambda word: (-counts[word], word))
        words = [*first, *rest]
        return cls(words[:most], max(generative, len(SPECIAL) + len(first)), **options)

    @property
    def tokens(self) -> int:
        """Ids in use, words met after training included."""
        return len(self.words)

    @property
    def tokens(self) -> int:
        return len(self)

    @property
    def width(self) -> int:
        """Numbers of a word's vector."""
        return self.size + self.grams

    def ids(self, texts: Sequence[str]) -> list[NDArray[np.int32]]:
        """Ids of the words of each text; a word never met before gets one now."""
        found = []
        for string in texts:
            words = split_words(string)
            for word in words:
                if word not in self._ids:
                    self._ids[word] = len(self.words)
                    self.words.append(word)
            found.append(np.array([self._ids[word] for word in words], np.int32))
        return found

    def offsets(self, text: str) -> NDArray[np.int64]:
        """First character of each word and one past its last, ``[L, 2]``."""
        return np.array([word.span() for word in _WORD.finditer(text)], np.int64).reshape(-1, 2)

    def text(self, ids: Sequence[int] | NDArray) -> str:
        """Words with spaces between; what stands for no word is left out."""
        return " ".join(self.words[i] for i in ids if i >= len(SPECIAL))

    def vectors(self, first: int = 0) -> NDArray[np.float32]:
        """Vectors ``[tokens - first, width]`` of the ids from ``first`` on."""
        rows = np.empty((self.tokens - first, self.width), np.float32)
        for row, word in zip(rows, self.words[first:], strict=True):
            own = self._stored.get(word) if self._stored else None
            row[: self.size] = _random(word, self.size) if own is None else own
            row[self.size :] = _gram_vector(word, self.grams)
        return rows

    def to_dict(self) -> dict[str, Any]:
        """What ``from_dict`` needs; words met after training are forgotten."""
        return {
            "reader": "words",
            "words": self.words[len(SPECIAL) : self.known],
            "generative": self.generative,
            "limit": self.limit,
            "size": self.size,
            "grams": self.grams,
            "file": self.file,
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        return cls(**{name: value for name, value in data.items() if name != "reader"})


class VectorFile:
    """Vectors in a text file, one word per line, read where they are asked for.

    Only the words and their places are kept in memory, so that a file of gigabytes serves.
    """

    def __init__(self, path: str | os.PathLike[str], size: int) -> None:
        self.path, self.size = Path(path), size
        self._places: dict[bytes, int] = {}
        try:
            with self.path.open("rb") as file:
                place = 0
                for line in file:
                    self._places.setdefault(line.split(b" ", 1)[0], place)
                    place += len(line)
        except OSError as error:
            reason = error.strerror or error
            raise InputError(f"vectors: file {str(path)!r} cannot be read: {reason}") from None
        if not self._places:
            raise InputError(f"vectors: file {str(path)!r} is empty")
        self.get(next(iter(self._places)).decode(errors="replace"))  # wrong sizes are told at once

    def get(self, word: str) -> NDArray[np.float32] | None:
        """The word's vector ``[size]``, or None if the file has none."""
        place = self._places.get(word.encode())
        if place is None:
            return None
        with self.path.open("rb") as file:
            file.seek(place)
            cells = file.readline().split()[1:]
        try:
            vector = np.array(cells, np.float32)
        except ValueError:
            vector = np.empty(0, np.float32)
        if vector.shape != (self.size,) or not np.isfinite(vector).all():
            raise InputError(
                f"vectors: the line of {word!r} in {str(self.path)!r} does not hold "
                f"{self.size} numbers"
            )
        return vector


def _random(key: str, size: int) -> NDArray[np.float32]:
    """Numbers that depend on nothing but the key: the same in every version and process."""
    bits = hashlib.shake_128(key.encode()).digest(2 * size)
    unit = np.frombuffer(bits, np.dtype("<i2")) / 2**15
    return (unit * _SPREAD * 3**0.5).astype(np.float32)  # uniform with that standard deviation


@lru_cache(maxsize=1 << 15)
def _gram(gram: str, size: int) -> NDArray[np.float32]:
    return _random(f"n-gram {gram}", size)


def _gram_vector(word: str, size: int) -> NDArray[np.float32]:
    """Sum over the word's 2-, 3- and 4-grams, scaled to the spread of one of them."""
    if not size:
        return np.empty(0, np.float32)
    marked = f"\x02{word}\x03"  # beginning and end are letters too
    found = {
        marked[start : start + length]
        for length, start in itertools.product((2, 3, 4), range(len(marked)))
        if start + length <= len(marked)
    }
    rows = np.stack([_gram(gram, size) for gram in sorted(found)])
    return (rows.sum(axis=0) / len(found) ** 0.5).astype(np.float32)
