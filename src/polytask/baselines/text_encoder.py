"""Text encoder: one pretrained encoder for every task of a text suite, with a head per task.

Source: Devlin et al., "BERT", NAACL 2019; pairs apart: Reimers & Gurevych, "Sentence-BERT", EMNLP
    2019; adapters: Hu et al., "LoRA", ICLR 2022; heads at first: Kumar et al., ICLR 2022.
Year: 2019
Domain: text
Parts: adapters, heads, pairs, probe_start, text_encoders
For: the plain way to share a pretrained encoder among text tasks of any kind; start here

What users of transformers do first: fine-tune an encoder, here one for all tasks. A text, or a pair
as one sequence ``[CLS] a [SEP] b [SEP]``, is pooled to h ``[B, d]``; a head is W dropout(h) + b.

| kind | answer from |
| --- | --- |
| classification, regression, similarity | h |
| similarity with ``pairs="apart"`` | (cos(u, v) + 1) / 2 |
| span | every state of the last text: first and last token |
| tags | the vector u_i of each text, encoded alone |
| boundaries | [u_i; u_i+1; abs(u_i - u_i+1)] of neighbours |
| retrieval | ``scale`` cos(query, candidate), each encoded alone |
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from polytask.data import Batch, Processor, Suite
from polytask.errors import InputError
from polytask.parts.adapters import TaskAdapters, as_adapters
from polytask.parts.heads import Heads
from polytask.parts.pairs import pair_features
from polytask.parts.probe_start import start_heads
from polytask.parts.text_encoders import FOLDER, Pooling, TextLearner, as_text_encoder, pool
from polytask.tasks import Boundaries, Generation, Retrieval, Similarity, Span, Tagging, Task
from polytask.training import MultiTaskModule, Training

Found = dict[tuple[Any, ...], Tensor]


@dataclass
class TextEncoderLearner(TextLearner):
    """One encoder for every task of a text suite; see the head of this file.

    Attributes:
        pooling: of the states of a sequence.
        pairs: two texts in one sequence (``"together"``), or each alone (``"apart"``: their vectors
            can be kept): then heads read [u; v; u v; abs(u - v)], and similarity is the cosine.
        dropout: before the heads.
        start: heads are first fitted on the encoder as it comes (``"probe"``, see
            ``parts.probe_start``), or begin at random as transformers' do.
        scale: of cosines in the loss of retrieval.
        adapters: ``"lora(rank=8)"`` keeps the encoder as it is and gives each task low-rank
            corrections of its own (see ``parts.adapters``); ``"none"`` trains the whole encoder.
    """

    pooling: Pooling = "mean"
    pairs: Literal["together", "apart"] = "together"
    dropout: float = 0.1
    start: Literal["probe", "random"] = "probe"
    scale: float = 20.0
    adapters: str = "none"
    training: Training = field(
        default_factory=lambda: Training(
            lr=5e-5,
            batch=32,
            epochs=3,
            patience=3,
            weight_decay=0.01,
            decay="matrices",
            schedule="linear(warmup=0.1)",
            clip=1.0,
        )
    )
    mixture: str | object = "tasks"

    id: ClassVar[str] = "text_encoder"

    def build(self, spec: Processor) -> TextEncoderNet:
        return TextEncoderNet(spec, self)

    def validate(self, suite: Suite) -> None:
        super().validate(suite)
        as_adapters(self.adapters)

    def before_training(self, module: MultiTaskModule, data: Batch) -> None:
        if self.start == "probe":
            start_heads(module, data, self._engine().device, seed=self.training.seed)

    def save_beside(self, folder: Path) -> None:
        adapters = self._net.adapters
        if adapters is None:
            super().save_beside(folder)
        else:
            self.text_encoder_.save(folder / FOLDER, adapters.base_state())
            adapters.save(folder / "adapters")

    def load_beside(self, folder: Path) -> None:
        if self._net.adapters is not None:
            self._net.adapters.load(folder / "adapters")

    @property
    def _net(self) -> TextEncoderNet:
        assert isinstance(self.module_, TextEncoderNet)
        return self.module_


class TextEncoderNet(MultiTaskModule):
    """The network; ``represent`` encodes every text that the asked tasks read, once."""

    def __init__(self, spec: Processor, settings: TextEncoderLearner) -> None:
        super().__init__(spec.tasks)
        self.encoder = as_text_encoder(settings.encoder, spec.reader)
        self.pooling, self.apart = settings.pooling, settings.pairs == "apart"
        self.scale = settings.scale
        self.dropout = nn.Dropout(settings.dropout)
        lora = as_adapters(settings.adapters)
        names = [task.name for task in spec.tasks]
        self.adapters = TaskAdapters(self.encoder.net, names, lora) if lora else None
        self.heads = Heads()
        for task in spec.tasks:
            if isinstance(task.kind, Generation):
                raise InputError(
                    f"text_encoder writes no text, and {task} wants an answer in words"
                )
            if len(task.texts) > 2:
                raise InputError(f"text_encoder reads one text or two, and {task} has {task.texts}")
            self.heads[task.name] = self._head(task)

    def _head(self, task: Task) -> nn.Module:
        if isinstance(task.kind, Retrieval) or self._by_cosine(task):
            return nn.Identity()
        vectors = 3 if isinstance(task.kind, Boundaries) else 4 if self._parted(task) else 1
        return nn.Linear(vectors * self.encoder.width, task.kind.outputs)

    def _parted(self, task: Task) -> bool:
        """Whether the task's two texts are encoded apart."""
        return self.apart and len(task.texts) == 2 and not isinstance(task.kind, Span)

    def _by_cosine(self, task: Task) -> bool:
        return isinstance(task.kind, Similarity) and self._parted(task)

    def represent(self, inputs: dict[str, Tensor], tasks: Iterable[str]) -> Any:
        """What the tasks read, by columns: vectors ``[B, d]`` or ``[B, S, d]``, states of spans.

        Without adapters that is shared; with them each task has an encoder of its own.
        """
        every: dict[str, Found] = {}
        for task in map(self.tasks.__getitem__, tasks):
            found = every.setdefault(task.name if self.adapters else "", {})
            with self.adapters.of(task.name) if self.adapters else nullcontext():
                self._encode(inputs, task, found)
        return every

    def _encode(self, inputs: dict[str, Tensor], task: Task, found: Found) -> None:
        if isinstance(task.kind, Span):
            if ("states", *task.texts) not in found:
                found["states", *task.texts] = self._states(inputs, task.texts)
        elif task.kind.several or self._parted(task):
            for name in task.texts:
                self._vectors(inputs, (name,), found)
        else:
            self._vectors(inputs, task.texts, found)

    def private_parameters(self) -> list[nn.Parameter]:
        return super().private_parameters() + (self.adapters.parameters() if self.adapters else [])

    def shared_parameters(self) -> list[nn.Parameter]:
        return [] if self.adapters else super().shared_parameters()

    def last_shared(self) -> list[nn.Parameter]:
        return [] if self.adapters else super().last_shared()

    def _vectors(self, inputs: dict[str, Tensor], names: tuple[str, ...], found: Found) -> None:
        """Pooled states of the rows that have the text; other rows get zeros."""
        if names in found:
            return
        ids = inputs[names[0]]
        if ids.ndim == 3:
            found[names], found["there", *names] = self.encoder.embed_each(ids, self.pooling)
            return
        there = (ids >= 0).any(1)
        texts = [inputs[name] for name in names]
        some = not torch.compiler.is_exporting() and not there.all()
        if some and not there.any():
            found[names] = torch.zeros(len(ids), self.encoder.width, device=ids.device)
            return
        sequence = self.encoder.sequence(*(text[there] for text in texts) if some else texts)
        vectors = pool(self.encoder(sequence), sequence.mask, self.pooling)
        if some:
            blank = vectors.new_zeros(len(ids), self.encoder.width)
            vectors = blank.index_put((there,), vectors)
        found[names] = vectors

    def _states(self, inputs: dict[str, Tensor], names: tuple[str, ...]) -> Tensor:
        """States of the last text's tokens ``[B, L, d]``; NaN past its end."""
        ids = inputs[names[-1]]
        sequence = self.encoder.sequence(*(inputs[name] for name in names))
        states = self.encoder(sequence)
        mine = sequence.second if len(names) == 2 else sequence.content
        first = mine.long().argmax(1, keepdim=True)
        place = torch.arange(ids.shape[1], device=ids.device)
        kept = place < mine.sum(1, keepdim=True)
        at = (first + place).clamp(max=states.shape[1] - 1)
        aligned = states.gather(1, at.unsqueeze(-1).expand(-1, -1, states.shape[-1]))
        return aligned.masked_fill(~kept.unsqueeze(-1), torch.nan)

    def answer(self, representation: Any, task: str) -> Tensor:
        about, head = self.tasks[task], self.heads[task]
        found: Found = representation[task if self.adapters else ""]
        if isinstance(about.kind, Span):
            states = found["states", *about.texts]
            kept = ~torch.isnan(states[..., :1])
            scores = head(self.dropout(torch.where(kept, states, 0.0)))
            return scores.masked_fill(~kept, torch.finfo(scores.dtype).min)
        if isinstance(about.kind, Retrieval):
            query, candidates = (found[name,] for name in about.texts)
            scores = self.scale * F.cosine_similarity(query.unsqueeze(1), candidates, dim=-1)
            return scores.masked_fill(~found["there", about.texts[1]], torch.nan)
        if isinstance(about.kind, Tagging | Boundaries):
            vectors, there = found[about.texts], found["there", *about.texts]
            if isinstance(about.kind, Tagging):
                scores = head(self.dropout(vectors))
                return scores.masked_fill(~there.unsqueeze(-1), torch.nan)
            after = torch.cat([vectors[:, 1:], torch.zeros_like(vectors[:, :1])], dim=1)
            pairs = torch.cat([vectors, after, (vectors - after).abs()], dim=-1)
            return head(self.dropout(pairs)).squeeze(-1).masked_fill(~there, torch.nan)
        if not self._parted(about):
            return head(self.dropout(found[about.texts]))
        u, v = (found[name,] for name in about.texts)
        if self._by_cosine(about):
            return (F.cosine_similarity(u, v, dim=-1).unsqueeze(-1) + 1) / 2
        return head(self.dropout(pair_features(u, v)))
