"""MQAN: one network without task parameters answers any text task as a question.

Source: McCann, Keskar, Xiong, Socher, "The Natural Language Decathlon: Multitask Learning as
    Question Answering", arXiv 1806.08730 (2018); released code salesforce/decaNLP.
Year: 2018
Domain: text
Parts: answering, bilstm, pointer
For: many small text tasks of mixed kinds in one small network, other labels without training
Idea: every example is (question, context, answer in words). Context and question are read against
    each other (dual coattention), and each word of the answer is said, copied from the context or
    copied from the question, so that a question may bring along the labels it asks for.
Equations: C_ind, Q_ind = BiLSTM of 400 -> d; Q' = tanh(W Q_ind); A = C_ind Q'ᵀ with a learned
    sentinel before both; S_c, S_q = softmax of A over context and question; C_sum = S_cᵀ C_ind;
    Q_sum = S_q Q'; C_coa = S_q C_sum; Q_coa = S_cᵀ Q_sum; BiLSTM of [C_coa; Q_sum; C_ind; C_emb]
    and of [Q_coa; C_sum; Q_ind; Q_emb]; two post-norm layers and a last BiLSTM per side.
    The decoder and the mixture stand in ``parts.pointer``.
    C: [B, l, d]   Q: [B, m, d]   A: [B, l+1, m+1]   answer tokens: [B, T]
Input: text columns; labels may be missing per task.   Output: chances of classes, scores, spans,
    words.

Differs from the paper:
 (1) One decoding path. The released code answers with scaled embeddings and other encoder layers
     than it trains with; here training and answering are the same function.
 (2) Attention scores are scaled by the head's width; ``scale="width"`` is the released √200.
 (3) Context and question end with ``<eos>``: an answer can stop by copying, and no text is empty.
 (4) Character n-grams are hashed instead of looked up in a trained table; without a file of
     vectors so are words.
 (5) Texts longer than ``limit`` words are cut, not dropped.
 (6) Class probabilities: the likelihoods of the classes' words, brought to a sum of 1. A free
     answer never contains ``<unk>``.
 (7) AdamW without weight decay is Adam. CoVe is left out; ``mqan_encoder`` reads with a pretrained
     encoder instead.
 (8) The token budget of a batch counts the texts' tokens, not max(context, 5 answer).
 (9) W of the coattention starts as the identity (the paper does not say), so that equal words match
     from the first update: look-ups are learned in far fewer updates.
 (10) S2S reads context and question as one text with two BiLSTMs, and its LSTM decodes alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from polytask.data import Processor, Suite
from polytask.data.questions import joined
from polytask.data.words import EOS, INIT, UNKNOWN, Words
from polytask.errors import InputError
from polytask.parts.answering import AnsweringLearner, AnsweringModule, Marks
from polytask.parts.bilstm import BiLSTM
from polytask.parts.pointer import HIDDEN, Generator, Memory, PointerDecoder, PostNormLayer, Scale
from polytask.training import Training


class FrozenVectors(nn.Module):
    """Ids to the vectors their reader keeps ``[.., width]``; words join the table when met."""

    table: Tensor

    def __init__(self, reader: Words) -> None:
        super().__init__()
        self.reader = reader
        self.register_buffer("table", torch.zeros(0, reader.width), persistent=False)

    def forward(self, ids: Tensor) -> Tensor:
        if len(self.table) < self.reader.tokens:
            new = torch.from_numpy(self.reader.vectors(len(self.table)))
            self.table = torch.cat([self.table, new.to(self.table)])
        return self.table[ids.clamp(min=0)]


class Coattention(nn.Module):
    """Context and question read against each other; a sentinel lets a token look at nothing.

    Shapes: context ``[B, l, d]``, question ``[B, m, d]``, masks ``[B, l]`` and ``[B, m]`` ->
    C_coa and Q_sum ``[B, l, d]``, Q_coa and C_sum ``[B, m, d]``.
    """

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.sentinels = nn.Embedding(2, width)
        self.question = nn.Linear(width, width)
        nn.init.eye_(self.question.weight)  # equal words match from the first update
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, context: Tensor, question: Tensor, context_mask: Tensor, question_mask: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        of_context, of_question = self.sentinels.weight.expand(len(context), -1, -1).split(1, 1)
        context = torch.cat([of_context, self.dropout(context)], dim=1)
        question = torch.tanh(self.question(torch.cat([of_question, question], dim=1)))
        seen = [nn.functional.pad(m, (1, 0), value=True) for m in (context_mask, question_mask)]
        affinity = context @ question.transpose(1, 2)
        over_context = affinity.masked_fill(~seen[0].unsqueeze(2), HIDDEN).softmax(1)
        over_question = affinity.masked_fill(~seen[1].unsqueeze(1), HIDDEN).softmax(2)
        context_sum = over_context.transpose(1, 2) @ context
        question_sum = over_question @ question
        context_coa = over_question @ context_sum
        question_coa = over_context.transpose(1, 2) @ question_sum
        parts = (context_coa, question_sum, question_coa, context_sum)
        return tuple(part[:, 1:] for part in parts)  # type: ignore[return-value]


class Side(nn.Module):
    """What one text goes through after it has met the other: BiLSTM, layers, BiLSTM."""

    def __init__(self, inputs: int, config: MQAN) -> None:
        super().__init__()
        width = config.width
        self.compress = BiLSTM(inputs, width)
        self.layers = nn.ModuleList(
            PostNormLayer(width, config.heads, config.hidden, config.dropout, config.scale)
            for _ in range(config.layers)
        )
        self.last = BiLSTM(width, width)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self, x: Tensor, mask: Tensor
    ) -> tuple[Tensor, tuple[Tensor, ...], tuple[Tensor, Tensor]]:
        """States ``[B, L, d]``, the output of each layer, and the last state and cell."""
        x = self.dropout(self.compress(x, mask)[0])
        through = []
        for layer in self.layers:
            x = layer(x, mask.unsqueeze(1))
            through.append(x)
        states, final = self.last(x, mask)
        return self.dropout(states), tuple(through), final


class MQANNet(AnsweringModule):
    """The network of the paper; see the head of this file."""

    def __init__(self, spec: Processor, config: MQAN) -> None:
        reader = spec.reader
        assert isinstance(reader, Words)
        questions = config.questions(spec.tasks, reader)
        super().__init__(spec.tasks, reader, Marks(UNKNOWN, INIT, EOS), questions, 2 * config.limit)
        width = config.width
        self.vectors = FrozenVectors(reader)
        self.projected = nn.Linear(reader.width, width)
        self.answered = nn.Linear(reader.width, width)
        self.dropout = nn.Dropout(config.dropout)
        self.independent = BiLSTM(width, width)
        self.coattention = self.question_side = None
        if config.coattention:
            self.coattention = Coattention(width, config.coattention_dropout)
            self.question_side = Side(4 * width, config)
        self.context_side = Side(4 * width if config.coattention else width, config)
        self.decoder = PointerDecoder(
            width,
            nn.Linear(width, reader.generative),
            torch.arange(reader.generative),
            layers=config.layers,
            heads=config.heads,
            hidden=config.hidden,
            dropout=config.dropout,
            scale=config.scale,
            question_pointer=config.question_pointer,
            generator=config.generator,
        )

    def embed(self, ids: Tensor) -> Tensor:
        return self.dropout(self.answered(self.vectors(ids)))

    def read(self, context: Tensor, question: Tensor) -> Memory:
        if self.coattention is None or self.question_side is None:
            whole = _ended(joined([context, question]))
            mask = whole >= 0
            states, layers, start = self.context_side(self._alone(whole, mask)[1], mask)
            return Memory(states, whole, None, None, layers, start)
        context, question = _ended(context), _ended(question)
        c_mask, q_mask = context >= 0, question >= 0
        c_emb, c_ind = self._alone(context, c_mask)
        q_emb, q_ind = self._alone(question, q_mask)
        c_coa, q_sum, q_coa, c_sum = self.coattention(c_ind, q_ind, c_mask, q_mask)
        c_all = torch.cat([c_coa, q_sum, c_ind, c_emb], dim=2)
        q_all = torch.cat([q_coa, c_sum, q_ind, q_emb], dim=2)
        c_fin, layers, start = self.context_side(c_all, c_mask)
        q_fin, _, _ = self.question_side(q_all, q_mask)
        return Memory(c_fin, context, q_fin, question, layers, start)

    def _alone(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """A text read for itself: embedded, and by the BiLSTM that both texts share."""
        embedded = self.dropout(self.projected(self.vectors(ids)))
        return embedded, self.independent(embedded, mask)[0]


def _ended(ids: Tensor) -> Tensor:
    """Every text with its end mark."""
    return joined([ids, ids.new_full((len(ids), 1), EOS)])


@dataclass
class MQAN(AnsweringLearner):
    """MQAN as a learner; see the head of this file.

    Attributes:
        width: d, of every state (published: 200).
        layers: self-attention layers per side and in the decoder; 0 leaves the LSTMs alone.
        heads, hidden: of these layers.
        coattention: False reads context and question as one text (S2S; with layers: +SAtt). Then
            there is no question to point at: set ``question_pointer=False``.
        question_pointer: False copies from the context only (+CAtt); True is the whole of MQAN.
        generator: "off" can only copy, "only" can only say.
        scale: attention scores by the root of the head's width, or, as released, of the whole.
        generative: the most frequent words, which can be said without copying.
        vectors: file of word vectors, ``word number ...`` per line (GloVe's form); without one,
            words have random vectors of their own.
        word_size, gram_size: length of these vectors, and of the vectors of character n-grams.
        limit: words of a text that are read.
    """

    width: int = 200
    layers: int = 2
    heads: int = 3
    hidden: int = 150
    coattention: bool = True
    question_pointer: bool = True
    generator: Generator = "mixed"
    scale: Scale = "head"
    dropout: float = 0.2
    coattention_dropout: float = 0.3
    generative: int = 50_000
    vectors: str | None = None
    word_size: int = 300
    gram_size: int = 100
    limit: int = 400
    mixture: str | object = "round_robin(tokens=9000)"
    training: Training = field(
        default_factory=lambda: Training(
            lr=0.0025,  # d^-0.5 warmup^-0.5, reached after the warm-up
            schedule="inverse_sqrt(warmup=800)",
            betas=(0.9, 0.98),
            eps=1e-9,
            clip=1.0,
        )
    )

    id: ClassVar[str] = "mqan"

    def validate(self, suite: Suite) -> None:
        if self.width < 2 or self.width % 2:
            raise InputError(f"mqan: width must be even, for two directions, not {self.width}")
        if not 1 <= self.heads <= self.width:
            raise InputError(f"mqan: heads must be 1 to width, not {self.heads}")
        if self.question_pointer and not self.coattention and self.generator != "only":
            raise InputError(
                "mqan: with coattention=False context and question are one text; "
                "set question_pointer=False"
            )
        super().validate(suite)

    def reader(self, suite: Suite) -> Words:
        return Words.fit(
            self.told(suite),
            self.generative,
            always=self.constants(suite),
            limit=self.limit,
            size=self.word_size,
            grams=self.gram_size,
            file=self.vectors,
        )

    def build(self, spec: Processor) -> MQANNet:
        return MQANNet(spec, self)
