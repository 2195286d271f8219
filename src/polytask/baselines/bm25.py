"""BM25: candidates ranked by the words that they share with the query; nothing is learned.

Source: Robertson et al., TREC-3, 1994; Lucene's variant by bm25s (Lu, arXiv 2407.03618).
Year: 1994
Domain: text
Parts:
For: the rival that needs no training; retrieval tasks only

    score(q, c) = sum over words w of q: idf(w) tf(w, c) / (tf(w, c) + k1 (1 - b + b |c| / mean))
    idf(w) = log(1 + (N - n(w) + 0.5) / (n(w) + 0.5))       N texts, n(w) of them with w

A row's candidates are ranked among themselves: N, n(w) and the mean of |c| are of its list, so that
an answer does not depend on other rows. ``rank`` searches a whole corpus, whose counts it takes.
"""

from __future__ import annotations

import importlib
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from polytask.config import from_dict, to_dict
from polytask.data import Batch, Processor, Suite
from polytask.data.store import read_folder, write_folder
from polytask.errors import InputError
from polytask.tasks.text import Retrieval, objects
from polytask.training import FittedMixin
from polytask.training.learner import saved_settings


@dataclass
class BM25(FittedMixin):
    """Okapi BM25 in Lucene's form.

    Attributes:
        k1: how fast a repeated word stops counting.
        b: how much long candidates are discounted, 0 to 1.
        stopwords: language whose stop words are left out (``"english"``), or ``"none"``.
    """

    k1: float = 1.2
    b: float = 0.75
    stopwords: str = "english"

    id: ClassVar[str] = "bm25"
    reads: ClassVar[tuple[str, ...]] = ("text",)

    def fit(
        self,
        suite: Suite,
        *,
        out: str | os.PathLike[str] | None = None,
        progress: Callable[[dict[str, Any]], None] = lambda record: None,
    ) -> Self:
        """Remember the tasks; there is nothing to learn."""
        started = time.perf_counter()
        self.validate(suite)
        self.processor_ = Processor.fit(suite)
        self.history_: list[dict[str, Any]] = []
        progress({"epoch": 0, "seconds": time.perf_counter() - started})
        return self

    def validate(self, suite: Suite) -> None:
        super().validate(suite)
        for task in suite.tasks:
            if not isinstance(task.kind, Retrieval):
                raise InputError(
                    f"bm25 ranks candidates: no {task.kind.name} such as {task.name!r}"
                )

    def _decoded(self, batch: Batch, tasks: Sequence[str]) -> dict[str, NDArray]:
        found = {}
        for name in tasks:
            query, candidates = self.processor_.task(name).texts
            queries, lists = (batch.inputs[n].numpy() for n in (query, candidates))
            rows = zip(queries, lists, strict=True)
            found[name] = objects([self.scores(q or "", c or []) for q, c in rows])
        return found

    def scores(self, query: str, candidates: Sequence[str]) -> NDArray[np.float64]:
        """Scores ``[K]`` of a query's candidates, 0 where no word is shared."""
        index, (words,) = self._index(candidates), self._words([query])
        if index is None or not (words := [w for w in words if w in index.vocab_dict]):
            return np.zeros(len(candidates))
        return np.asarray(index.get_scores(words), np.float64)

    def rank(
        self, queries: Sequence[str], corpus: Sequence[str], k: int = 10
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """The best ``k`` texts of a corpus for each query: places and scores, both ``[Q, k]``."""
        index, k = self._index(corpus), min(k, len(corpus))
        if index is None:
            raise InputError("no text of the corpus has a word that counts")
        found = index.retrieve(self._words(queries), k=k, show_progress=False)
        return found.documents.astype(np.int64), found.scores.astype(np.float64)

    def _index(self, texts: Sequence[str]) -> Any:
        words = self._words(texts)
        if not any(words):
            return None
        index = _bm25s().BM25(k1=self.k1, b=self.b, method="lucene")
        index.index(words, show_progress=False)
        return index

    def _words(self, texts: Sequence[str]) -> list[list[str]]:
        stopwords = None if self.stopwords == "none" else self.stopwords
        found: list[list[str]] = _bm25s().tokenize(
            [text or "" for text in texts],
            stopwords=stopwords,
            return_ids=False,
            show_progress=False,
        )
        return found

    @property
    def parameters_(self) -> int:
        return 0

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        config = {"system": self.id, "settings": to_dict(self)}
        write_folder(folder, data={"config": config, "processor": self._fitted().to_dict()})

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike[str]) -> Self:
        data, _ = read_folder(folder)
        learner = from_dict(cls, saved_settings(data, cls.id, folder), where=str(folder))
        learner.processor_ = Processor.from_dict(data["processor"])
        return learner

    def with_seed(self, seed: int) -> Self:
        """Itself: nothing here is drawn."""
        return self


def _bm25s() -> Any:
    try:
        return importlib.import_module("bm25s")
    except ImportError:
        raise InputError("package 'bm25s' is not installed; install polytask[text]") from None
