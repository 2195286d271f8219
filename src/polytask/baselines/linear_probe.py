"""Linear probes: an encoder that stays as it is, and a small linear model per task on its vectors.

Source: linear evaluation of sentence vectors as in SentEval, Conneau & Kiela, LREC 2018 (arXiv
    1803.05449), with its pair features.
Year: 2018
Domain: text
Parts: sentence_probe, frozen, text_encoders
For: the rival that costs seconds; what fine-tuning must beat
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray

from polytask.config import from_dict, to_dict
from polytask.data import Batch, Processor, Suite
from polytask.data.store import read_folder, write_folder
from polytask.data.texts import Reader
from polytask.errors import InputError
from polytask.parts.sentence_probe import (
    RIDGES,
    Vectors,
    check,
    fit_probes,
    from_tensors,
    predicted,
    to_tensors,
)
from polytask.parts.text_encoders import (
    FOLDER,
    Pooling,
    TextEncoder,
    as_reader,
    as_text_encoder,
    embed_texts,
    training_texts,
)
from polytask.training import FittedMixin
from polytask.training.learner import saved_settings


@dataclass
class LinearProbe(FittedMixin):
    """Logistic and ridge regressions on the vectors of a frozen encoder; cosines for retrieval.

    Attributes:
        encoder: what ``as_text_encoder`` reads; random weights are a poor choice here.
        max_length: tokens of a text; the rest is cut.
        pooling: of the encoder's states.
        ridges: penalties of which validation rows choose.
    """

    encoder: str = "minilm"
    max_length: int = 256
    pooling: Pooling = "mean"
    ridges: tuple[float, ...] = RIDGES

    id: ClassVar[str] = "linear_probe"
    reads: ClassVar[tuple[str, ...]] = ("text",)

    def validate(self, suite: Suite) -> None:
        super().validate(suite)
        check(suite.tasks, self.id)
        if not self.ridges or min(self.ridges) <= 0:
            raise InputError(f"{self.id}: ridges are numbers above 0, not {self.ridges}")

    def fit(
        self,
        suite: Suite,
        *,
        out: str | os.PathLike[str] | None = None,
        progress: Callable[[dict[str, Any]], None] = lambda record: None,
    ) -> Self:
        """Embed every text once, then fit the linear models."""
        self.validate(suite)
        started = time.perf_counter()
        self.processor_ = Processor.fit(suite)
        texts = training_texts(suite)
        torch.manual_seed(0)  # of random weights, if it has them
        self.encoder_ = _frozen(self.encoder, as_reader(self.encoder, self.max_length, texts=texts))
        train, validation = (self.processor_.encode(suite, s) for s in ("train", "validation"))
        tasks = self.processor_.tasks
        self.probes_ = fit_probes(tasks, train, validation, self._vectors(), self.ridges)
        self.history_: list[dict[str, Any]] = []
        progress({"epoch": 0, "seconds": time.perf_counter() - started})
        return self

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors ``[n, d]`` of texts."""
        encoder = self.encoder_
        device = next(encoder.parameters()).device
        with torch.inference_mode():
            embed = partial(encoder.embed, pooling=self.pooling)
            return embed_texts(texts, encoder.reader, embed, device).numpy()

    def _vectors(self) -> Vectors:
        return Vectors(self.embed, self.encoder_.width)

    def _decoded(self, batch: Batch, tasks: Sequence[str]) -> dict[str, NDArray]:
        return predicted(self.probes_, batch, tasks, self._vectors())

    @property
    def parameters_(self) -> int:
        """What was learned: the heads."""
        return sum(probe.parameters for probe in self.probes_.values())

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """The linear models, and the encoder as transformers saves it under ``encoder/``."""
        processor = self._fitted()
        with tempfile.TemporaryDirectory() as aside:
            self.encoder_.save(Path(aside) / FOLDER)
            write_folder(
                folder,
                data={
                    "config": {"system": self.id, "settings": to_dict(self)},
                    "processor": processor.to_dict(),
                },
                tensors=to_tensors(self.probes_),
                files=Path(aside),
            )

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike[str]) -> Self:
        data, tensors = read_folder(folder)
        learner = from_dict(cls, saved_settings(data, cls.id, folder), where=str(folder))
        learner.processor_ = Processor.from_dict(data["processor"])
        place = str(Path(folder) / FOLDER)
        learner.encoder_ = _frozen(place, as_reader(place, learner.max_length))
        learner.probes_ = from_tensors(learner.processor_.tasks, tensors)
        return learner

    def with_seed(self, seed: int) -> Self:
        """Itself: nothing here is drawn."""
        return self


def _frozen(place: str, reader: Reader) -> TextEncoder:
    return as_text_encoder(place, reader).eval().requires_grad_(False)
