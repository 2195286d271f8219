"""MQAN's answers over any encoder: one network without task parameters, pretrained reading.

Source: decoder and mixture of McCann et al., arXiv 1806.08730 (2018), over a pretrained encoder as
    in stanford-oval/genienlp ("TransformerLSTM").
Year: 2018
Domain: text
Parts: answering, pointer, text_encoders
For: the same as mqan where a pretrained encoder fits: few rows, or language it must know already
Idea: the encoder reads question and context as one pair, so that its own attention does the work of
    coattention; its states on either side are what the two pointers choose among. Answers are
    subwords, so nothing is out of the vocabulary.
Equations: [Q; C] = W encoder(question, context) split by segment; h_0, c_0 = tanh(U mean(C));
    the decoder and the mixture stand in ``parts.pointer``, with p_v = softmax(E V c~_t) over the
    encoder's own token embeddings E.   C: [B, l, d]   Q: [B, m, d]   E: [G, e]
Input: text columns; labels may be missing per task.   Output: chances of classes, scores, spans,
    words.

Differs from the paper:
 (1) The whole encoder side is the pretrained one; coattention, BiLSTMs and frozen word vectors are
     gone. ``mqan`` has them.
 (2) The decoder is the LSTM alone (``layers=0``); the paper's two layers can be had.
 (3) Every token of the encoder can be said, and what is said is scored against its embedding.
 (4) AdamW with a linear schedule, as pretrained encoders are tuned, not the inverse square root.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from polytask.data import Processor, Suite
from polytask.data.questions import joined
from polytask.data.texts import Reader
from polytask.errors import InputError
from polytask.parts.answering import AnsweringLearner, AnsweringModule, Marks
from polytask.parts.pointer import Generator, Memory, PointerDecoder
from polytask.parts.text_encoders import TextLearner, as_reader, as_text_encoder, pool
from polytask.training import Training


class Tied(nn.Module):
    """Scores of tokens by their embeddings: ``[.., d] -> [.., G]``."""

    def __init__(self, width: int, embedding: nn.Embedding) -> None:
        super().__init__()
        self.project = nn.Linear(width, embedding.embedding_dim)
        self.bias = nn.Parameter(torch.zeros(embedding.num_embeddings))
        self._embedding = [embedding]  # in a list: it is the encoder's parameter, not ours

    def forward(self, x: Tensor) -> Tensor:
        return self.project(x) @ self._embedding[0].weight.T + self.bias


class MQANEncoderNet(AnsweringModule):
    """An encoder, and a decoder that says or copies; see the head of this file."""

    def __init__(self, spec: Processor, config: MQANEncoder) -> None:
        encoder = as_text_encoder(config.encoder, spec.reader)
        reader, width = encoder.reader, config.width
        questions = config.questions(spec.tasks, reader)
        super().__init__(spec.tasks, reader, _marks(reader), questions, config.max_length)
        self.encoder = encoder
        embedding = encoder.net.get_input_embeddings()
        self.states = nn.Linear(encoder.width, width)
        self.start = nn.Linear(width, 2 * width)
        self.answered = nn.Linear(embedding.embedding_dim, width)
        self.dropout = nn.Dropout(config.dropout)
        self.decoder = PointerDecoder(
            width,
            Tied(width, embedding),
            torch.arange(embedding.num_embeddings),
            layers=config.layers,
            heads=config.heads,
            hidden=config.hidden,
            dropout=config.dropout,
            question_pointer=config.question_pointer,
            generator=config.generator,
        )

    def embed(self, ids: Tensor) -> Tensor:
        known = self.encoder.net.get_input_embeddings()(ids.clamp(min=0))
        return self.dropout(self.answered(known))

    def read(self, context: Tensor, question: Tensor) -> Memory:
        end = context.new_full((len(context), 1), self.marks.eos)
        pair = self.encoder.sequence(joined([question, end]), joined([context, end]))
        states = self.dropout(self.states(self.encoder(pair)))
        asked, asked_ids = _segment(states, pair.ids, pair.content & ~pair.second)
        read, read_ids = _segment(states, pair.ids, pair.second)
        first = self.start(pool(read, read_ids >= 0)).tanh()
        layers = (read,) * len(self.decoder.layers)
        start = tuple(part.contiguous() for part in first.chunk(2, dim=1))
        return Memory(read, read_ids, asked, asked_ids, layers, (start[0], start[1]))


def _segment(states: Tensor, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """The places in ``mask``, moved to the front: states ``[B, n, d]``, ids -1 past the end."""
    length = max(1, int(mask.sum(1).max()))
    order = (~mask).to(torch.int8).argsort(dim=1, stable=True)[:, :length]
    picked = states.gather(1, order.unsqueeze(2).expand(-1, -1, states.shape[2]))
    return picked, ids.gather(1, order).masked_fill(~mask.gather(1, order), -1)


def _marks(reader: Reader) -> Marks:
    """What stands for no word in a tokenizer: its unknown, first and separating token."""
    tokenizer = getattr(reader, "tokenizer", None)
    names = (("unk_token_id",), ("cls_token_id", "bos_token_id"), ("sep_token_id", "eos_token_id"))
    found = []
    for choices in names:
        ids = [getattr(tokenizer, name, None) for name in choices]
        found.append(next((i for i in ids if i is not None), None))
    if None in found:
        raise InputError("mqan_encoder: the tokenizer has no unknown, first or last token")
    return Marks(*found)  # type: ignore[arg-type]


@dataclass
class MQANEncoder(AnsweringLearner, TextLearner):
    """MQAN over an encoder as a learner; see the head of this file.

    Attributes:
        width: d, of the decoder and of what it reads.
        layers, heads, hidden: of decoder layers before the LSTM; 0 layers: the LSTM alone.
        question_pointer: False copies from the context only.
        generator: "off" can only copy, "only" can only say.
    """

    width: int = 256
    layers: int = 0
    heads: int = 4
    hidden: int = 512
    question_pointer: bool = True
    generator: Generator = "mixed"
    dropout: float = 0.1
    mixture: str | object = "round_robin"
    training: Training = field(
        default_factory=lambda: Training(
            lr=2e-4,
            weight_decay=0.01,
            decay="matrices",
            batch=32,
            epochs=5,
            patience=2,
            schedule="linear(warmup=0.1)",
            clip=1.0,
        )
    )

    id: ClassVar[str] = "mqan_encoder"

    def validate(self, suite: Suite) -> None:
        if not 1 <= self.heads <= self.width:
            raise InputError(f"mqan_encoder: heads must be 1 to width, not {self.heads}")
        super().validate(suite)

    def reader(self, suite: Suite) -> Reader:
        texts = itertools.chain(self.constants(suite), self.told(suite))
        return as_reader(self.encoder, self.max_length, self.vocabulary, texts)

    def build(self, spec: Processor) -> MQANEncoderNet:
        return MQANEncoderNet(spec, self)
