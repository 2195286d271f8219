"""TextTiling: sections where the words change, without any training.

Source: Hearst, "TextTiling: Segmenting Text into Multi-Paragraph Subtopic Passages",
    Computational Linguistics 1997, as nltk has it.
Year: 1997
Domain: text
Parts:
For: the classic rival of topic segmentation; nothing is learned and no weights are needed
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from polytask.config import from_dict, to_dict
from polytask.data import Batch, Processor, Suite
from polytask.data.store import read_folder, write_folder
from polytask.errors import InputError
from polytask.tasks.text import Boundaries, objects
from polytask.training import FittedMixin
from polytask.training.learner import saved_settings


@dataclass
class TextTiling(FittedMixin):
    """nltk's TextTiling, each sentence a paragraph; see the head of this file.

    It says where a section ends, not how sure it is: chances are 0 or 1. Stop words are those of
    scikit-learn, because nltk's are a corpus of their own. nltk counts no paragraph of less than
    100 characters, so after a short sentence there is never a boundary.

    Attributes:
        w: words of a pseudo-sentence.
        k: pseudo-sentences on each side of a gap.
    """

    w: int = 20
    k: int = 10
    seed: int = 0

    id: ClassVar[str] = "texttiling"
    reads: ClassVar[tuple[str, ...]] = ("text",)

    def validate(self, suite: Suite) -> None:
        super().validate(suite)
        for task in suite.tasks:
            if not isinstance(task.kind, Boundaries):
                raise InputError(f"texttiling finds boundaries only; {task} is {task.kind.name}")
        if min(self.w, self.k) < 1:
            raise InputError("texttiling: w and k are at least 1")

    def fit(
        self,
        suite: Suite,
        *,
        out: str | os.PathLike[str] | None = None,
        progress: Callable[[dict[str, Any]], None] = lambda record: None,
    ) -> Self:
        """Look at the columns; there is nothing to learn."""
        started = time.perf_counter()
        self.validate(suite)
        self.processor_ = Processor.fit(suite)
        self.history_: list[dict[str, Any]] = []
        progress({"epoch": 0, "seconds": time.perf_counter() - started})
        return self

    def _decoded(self, batch: Batch, tasks: Sequence[str]) -> dict[str, NDArray]:
        found = {}
        for name in tasks:
            (column,) = self.processor_.task(name).texts
            documents = batch.inputs[column].strings  # type: ignore[attr-defined]
            rows = [tiled([s or "" for s in d or ()], self.w, self.k) for d in documents]
            found[name] = objects([row.astype(float) for row in rows])
        return found

    @property
    def parameters_(self) -> int:
        return 0

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        write_folder(
            folder,
            data={
                "config": {"system": self.id, "settings": to_dict(self)},
                "processor": self._fitted().to_dict(),
            },
            tensors={},
        )

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike[str]) -> Self:
        data, _ = read_folder(folder)
        learner = from_dict(cls, saved_settings(data, cls.id, folder), where=str(folder))
        learner.processor_ = Processor.from_dict(data["processor"])
        return learner

    def with_seed(self, seed: int) -> Self:
        return replace(self, seed=seed)


def tiled(sentences: Sequence[str], w: int = 20, k: int = 10) -> NDArray[np.bool_]:
    """Gaps ``[n-1]`` of a document, True where TextTiling ends a section."""
    try:
        from nltk.tokenize.texttiling import TextTilingTokenizer  # type: ignore[import-untyped]
    except ImportError:
        raise InputError("texttiling needs package 'nltk'; install polytask[text]") from None
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    lines = [" ".join(sentence.split()) for sentence in sentences]
    ends = np.cumsum([len(line) + 2 for line in lines]) - 2
    tokenizer = TextTilingTokenizer(w=w, k=k, stopwords=ENGLISH_STOP_WORDS)
    try:
        parts = tokenizer.tokenize("\n\n".join(lines))
    except (ValueError, ZeroDivisionError):  # too short a document to compare blocks in
        parts = []
    return np.isin(ends[:-1], np.cumsum([len(part) for part in parts]))
