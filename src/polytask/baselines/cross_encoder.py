"""Cross-encoder: a pretrained encoder that reads both texts at once, with a head per task.

Source: BERT's sentence-pair classifier, Devlin et al., NAACL 2019, Section 4.1.
Year: 2019
Domain: text
Parts: text_encoders, lower_layers, heads
For: the most exact answer about a text or a pair of texts, at one encoder pass for every pair
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from torch import Tensor, nn

from polytask.data import Processor, Suite
from polytask.errors import InputError
from polytask.parts.heads import Heads
from polytask.parts.lower_layers import freeze_lower
from polytask.parts.text_encoders import TextLearner, as_text_encoder, pool
from polytask.tasks import Classification, Regression, Similarity
from polytask.training import MultiTaskModule, Training

_KINDS = (Classification, Regression, Similarity)


class CrossNet(MultiTaskModule):
    """[CLS] a [SEP] b [SEP] through the encoder; per task a dense layer, tanh and an answer."""

    def __init__(self, spec: Processor, config: CrossEncoder) -> None:
        super().__init__(spec.tasks)
        self.encoder = as_text_encoder(config.encoder, spec.reader)
        freeze_lower(self.encoder.net, config.frozen)
        self.pooling = config.pooling
        width = self.encoder.width
        self.heads = Heads(
            {
                task.name: nn.Sequential(
                    nn.Dropout(config.dropout),
                    nn.Linear(width, width),
                    nn.Tanh(),
                    nn.Dropout(config.dropout),
                    nn.Linear(width, task.kind.outputs),
                )
                for task in spec.tasks
            }
        )

    def represent(  # type: ignore[override]
        self, inputs: dict[str, Tensor], tasks: Iterable[str]
    ) -> dict[tuple[str, ...], Tensor]:
        """Pooled states ``[B, d]`` by the columns that were read: one pass for each of these."""
        read = dict.fromkeys(self.tasks[task].texts for task in tasks)
        return {texts: self._pooled(*(inputs[name] for name in texts)) for texts in read}

    def _pooled(self, a: Tensor, b: Tensor | None = None) -> Tensor:
        sequence = self.encoder.sequence(a, b)
        return pool(self.encoder(sequence), sequence.mask, self.pooling)

    def answer(  # type: ignore[override]
        self, representation: dict[tuple[str, ...], Tensor], task: str
    ) -> Tensor:
        return self.heads[task](representation[self.tasks[task].texts])


@dataclass
class CrossEncoder(TextLearner):
    """Fine-tuning on one text or on pairs; the defaults are those DSE's teacher is made with.

    Attributes:
        pooling: what the heads read of the last states, over all tokens of the sequence.
        dropout: before both layers of a head.
        frozen: lower layers of the encoder that keep their weights, and the embeddings with them; 0
            for these alone, -1 for none.
        training: 3 epochs of 64 rows in two micro-batches at 2e-5, warmed up over a tenth.
    """

    pooling: Literal["cls", "mean"] = "cls"
    dropout: float = 0.1
    frozen: int = -1
    training: Training = field(
        default_factory=lambda: Training(
            lr=2e-5,
            weight_decay=0.01,
            decay="matrices",
            clip=1.0,
            batch=64,
            accumulation=2,
            epochs=3,
            patience=3,
            schedule="linear(warmup=0.1)",
        )
    )

    id: ClassVar[str] = "cross_encoder"

    def validate(self, suite: Suite) -> None:
        super().validate(suite)
        for task in suite.tasks:
            if not isinstance(task.kind, _KINDS):
                raise InputError(
                    f"{self.id} answers {', '.join(k.name for k in _KINDS)}; task {task.name!r} "
                    f"is of kind {task.kind.name!r}"
                )
            if len(task.texts) > 2 or any(suite.texts[name] for name in task.texts):
                raise InputError(
                    f"{self.id} reads one text or two in a row; task {task.name!r} reads "
                    f"{', '.join(map(repr, task.texts))}"
                )

    def build(self, spec: Processor) -> CrossNet:
        return CrossNet(spec, self)
