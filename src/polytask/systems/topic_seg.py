"""Local-context topic segmentation: two neighbouring sentences say where a section ends.

Source: Lee, Han, Baek, Song, "Topic Segmentation Model Focusing on Local Context", 2023,
    arXiv 2301.01935.
Year: 2023
Domain: text
Parts: text_encoders, bilstm, pairs, heads
For: documents that fall into sections, whose ends and topics are wanted, long ones too
Idea: each sentence is encoded alone and once; a pair of neighbours then decides whether a section
    ends between them. The same vectors name each sentence's topic and tell whether one sentence
    directly follows another; the three tasks correct one another.
Equations: u, v: sentences i and j, encoded alone by the same weights, a layer over their token
    states, pooled.   u, v: [B, d]   f = [u; v; |u-v|]: [B, 3d]
    STP  P(different sections) = sigmoid(W_1 f)        NSP  P(j follows i) = sigmoid(W_2 f)
    TC   P(topic of i) = softmax(W_3 u), of j = softmax(W_3 v)
    L = a L_STP + b L_TC + c L_NSP, each a mean cross-entropy.
    A section ends after i where P(different) of (i, i+1) > tau; its topic is the argmax of the
    summed log P(topic) of its sentences.
Input: a column of sentences per document; labels may be missing per document, topics per sentence.
Output: boundaries: logits [B, S]; tags: [B, S, K].

Differs from the paper (much of which is not in print; "(unsure)" in our notes):
 (1) Two-way softmaxes are sigmoids of the difference of their logits: one row of weights, not two.
 (2) The layer over token states is a transformer layer with mean pooling over all tokens that are
     not padding; ``layer`` offers a BiLSTM or none.
 (3) Pairs are mined as ``polytask.data.segmented.mined`` says, with both STP classes equally
     frequent. A row is a pair, as in the paper, or with ``stretch`` all pairs of some consecutive
     sentences, which are then encoded once for all of their pairs.
 (4) tau is chosen on validation for the lowest P_k, each epoch is judged at its own best tau, and
     P_k is per document: the released evaluation is said to join all documents first, which makes
     every document's end a boundary that was found.
 (5) Without STP among the losses, boundaries are told by NSP (the second does not follow) or else
     by TC (chance that the two topics differ), so that all seven sets of losses can segment.
 (6) ``joint`` reads both sentences in one sequence, and ``window`` several sentences on each side:
     the rivals that the paper argues against, with the same heads. In ``joint`` u and v are the
     means over the tokens of either sentence, and a sentence's topic is read off the mean of its
     vectors in the pairs it belongs to.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from polytask.data import Batch, Processor, Rows, Suite
from polytask.data.segmented import LEFT, NEXT, PLACES, RIGHT, Pairs, sentences_of, windows
from polytask.errors import InputError
from polytask.parts.bilstm import BiLSTM
from polytask.parts.heads import Heads
from polytask.parts.pairs import pair_features
from polytask.parts.text_encoders import TextEncoder, TextLearner, as_text_encoder, pool
from polytask.tasks import Task
from polytask.tasks.text import Boundaries, Tagging, objects
from polytask.tasks.text_metrics import pk
from polytask.training import MultiTaskModule, Training
from polytask.training.loop import State, predict

NSP = "next sentence"
TERMS = ("stp", "tc", "nsp")
Layer = Literal["transformer", "bilstm", "none"]
_TOGETHER = 32  # sentences of like length per forward pass: less padding, the same result


class SentenceLayer(nn.Module):
    """Over the token states of one sentence, ``[N, L, d]`` -> ``[N, L, d]``; same for all sides."""

    def __init__(self, kind: Layer, width: int, dropout: float) -> None:
        super().__init__()
        self.kind = kind
        if kind == "transformer":
            heads = math.gcd(width, max(1, width // 64))
            self.net: nn.Module = nn.TransformerEncoderLayer(
                width, heads, 4 * width, dropout, activation="gelu", batch_first=True
            )
        elif kind == "bilstm":
            self.net = BiLSTM(width, width)

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        if self.kind == "transformer":
            return self.net(states, src_key_padding_mask=~mask)
        if self.kind == "bilstm":
            return self.net(states, mask)[0]
        return states


class Vectors(NamedTuple):
    """What all heads read.

    Attributes:
        first, second: u and v of each pair ``[B, P, d]``.
        pairs: which pairs there are ``[B, P]``.
        sentence: the vector of each sentence ``[B, U, d]``.
        sentences: which sentences there are ``[B, U]``.
        places: the sentences of each pair ``[B, P, 2]``.
    """

    first: Tensor
    second: Tensor
    pairs: Tensor
    sentence: Tensor
    sentences: Tensor
    places: Tensor


class TopicNet(MultiTaskModule):
    """Encoder, sentence layer, and the heads of STP (or none), TC and NSP.

    Attributes:
        boundaries, tags: names of the two tasks, None where there is no such task.
        taught: of ``stp``, ``tc``, ``nsp`` those that have a loss.
        offset: logit of tau; subtracted from the logits of boundaries.
    """

    offset: Tensor

    def __init__(self, spec: Processor, config: TopicSeg, encoder: TextEncoder) -> None:
        super().__init__(spec.tasks)
        self.boundaries, self.tags = named(spec.tasks)
        self.taught = taught(config.losses, self.boundaries, self.tags)
        (self.column,) = spec.input_names
        self.joint, self.window, self.product = config.joint, config.window, config.product
        self.encoder = encoder
        width = encoder.width
        self.layer = SentenceLayer(config.layer, width, config.dropout)
        if config.layer == "bilstm":
            self.no_graph = "its BiLSTM reads each text to its own end"
        self.pooling = config.pooling
        self.dropout = nn.Dropout(config.dropout)
        features = (4 if config.product else 3) * width
        self.heads = Heads()
        if self.boundaries and "stp" in self.taught:
            self.heads[self.boundaries] = nn.Linear(features, 1)
        if self.tags:
            self.heads[self.tags] = nn.Linear(width, self.tasks[self.tags].kind.outputs)
        if "nsp" in self.taught:
            self.heads[NSP] = nn.Linear(features, 1)
        a, b, c = config.weights
        names = {self.boundaries: a, self.tags: b, NSP: c}
        self.weights = {name: weight for name, weight in names.items() if name}
        tau = 0.5 if config.threshold is None else config.threshold
        self.register_buffer("offset", torch.logit(torch.tensor(tau)))
        if self.boundaries and config.threshold is None:
            task = self.tasks[self.boundaries]
            self.tasks[self.boundaries] = replace(task, kind=AtBestThreshold())

    @property
    def terms(self) -> tuple[str, ...]:
        names = {"stp": self.boundaries, "tc": self.tags, "nsp": NSP}
        return tuple(str(names[term]) for term in self.taught)

    # -- vectors -----------------------------------------------------------------------------------

    def represent(self, inputs: dict[str, Tensor], tasks: Iterable[str]) -> Vectors:  # type: ignore[override]
        """Vectors of all sentences and pairs; of whole documents, the pairs are the neighbours."""
        if PLACES in inputs:
            left, right, places = inputs[LEFT], inputs.get(RIGHT), inputs[PLACES]
        else:
            ids = inputs[self.column]
            left, both = windows(ids, self.window)
            right = None if self.window == 1 else both
            places = neighbours(present(ids))
        sentences, pairs = present(left), places[..., 0] >= 0
        if self.joint:
            first, second, sentence = self._jointly(left, left if right is None else right, places)
        else:
            u = self.embed(left, sentences)
            v = u if right is None else self.embed(right, sentences)
            first, second = (_gathered(x, places[..., side]) for side, x in enumerate((u, v)))
            sentence = u if right is None else (u + v) / 2
        return Vectors(first, second, pairs, sentence, sentences, places)

    def embed(self, ids: Tensor, there: Tensor) -> Tensor:
        """Each sentence alone: ids ``[B, U, L]`` -> ``[B, U, d]``, 0 where ``there`` is False."""
        return _spread(ids, there, self._alone, self.encoder.width)

    def _alone(self, ids: Tensor) -> Tensor:
        sequence = self.encoder.sequence(ids)
        states = self.layer(self.encoder(sequence), sequence.mask)
        return pool(states, sequence.mask, self.pooling)

    def _jointly(self, left: Tensor, right: Tensor, places: Tensor) -> tuple[Tensor, ...]:
        """The same from both sides of each pair in one sequence."""
        known = places[..., 0] >= 0
        a, b = (_gathered(x, places[..., side]) for side, x in enumerate((left, right)))
        cut, width = a.shape[-1], self.encoder.width
        pairs = _spread(torch.cat([a, b], -1), known, lambda ids: self._pair(ids, cut), 2 * width)
        first, second = pairs.unflatten(-1, (2, -1)).unbind(-2)
        # A sentence is the mean of itself in its pairs; alone in its document, it is encoded alone.
        index, weight = places.clamp(min=0), known.unsqueeze(-1).to(first.dtype)
        total = first.new_zeros(*left.shape[:2], first.shape[-1])
        count = first.new_zeros(*left.shape[:2], 1)
        for side, vectors in enumerate((first, second)):
            where = index[..., side, None]
            total = total.scatter_add(1, where.expand_as(vectors), vectors * weight)
            count = count.scatter_add(1, where, weight)
        lonely = present(left) & (count[..., 0] == 0)
        if bool(lonely.any()):
            total = total + self.embed(left, lonely)
        return first, second, total / count.clamp(min=1)

    def _pair(self, ids: Tensor, cut: int) -> Tensor:
        sequence = self.encoder.sequence(ids[:, :cut], ids[:, cut:])
        states = self.layer(self.encoder(sequence), sequence.mask)
        sides = (sequence.content & ~sequence.second, sequence.content & sequence.second)
        return torch.cat([pool(states, side, self.pooling) for side in sides], dim=-1)

    # -- heads -------------------------------------------------------------------------------------

    def features(self, x: Vectors) -> Tensor:
        """F = [u; v; |u-v|] ``[B, P, 3d]``, with ``product`` also u*v."""
        parts = ("u", "v", "|u-v|", *(["u*v"] if self.product else []))
        return pair_features(x.first, x.second, parts)

    def answer(self, representation: Vectors, task: str) -> Tensor:  # type: ignore[override]
        """Logits of "different sections" ``[B, P]``, of topics ``[B, U, K]``; NaN where none is."""
        x = representation
        if task == self.tags:
            topics = self.heads[task](self.dropout(x.sentence))
            return topics.masked_fill(~x.sentences.unsqueeze(-1), math.nan)
        if "stp" in self.taught:
            different = self.heads[task](self.dropout(self.features(x))).squeeze(-1)
        elif "nsp" in self.taught:
            different = -self._follows(x)
        else:
            different = self._differ(x)
        return (different - self.offset).masked_fill(~x.pairs, math.nan)

    def _follows(self, x: Vectors) -> Tensor:
        return self.heads[NSP](self.dropout(self.features(x))).squeeze(-1)

    def _differ(self, x: Vectors) -> Tensor:
        """Logit of the chance that a pair's topics differ."""
        log_p = F.log_softmax(self.heads[str(self.tags)](x.sentence), dim=-1)
        one, other = (_gathered(log_p, x.places[..., side]) for side in (0, 1))
        same = torch.logsumexp(one + other, dim=-1).exp().clamp(1e-6, 1 - 1e-6)
        return torch.logit(1 - same)

    def losses_at(self, representation: Vectors, batch: Batch) -> dict[str, Tensor]:  # type: ignore[override]
        """STP and TC where the batch asks for them, NSP where it says what follows what."""
        asked = {task: batch.targets[task] for task in self.terms if task in batch.targets}
        losses = {}
        for task, target in asked.items():
            output = self.answer(representation, task).float()
            losses[task] = self.tasks[task].kind.loss(output, target, batch.masks[task])
        if "nsp" in self.taught and NEXT in batch.inputs:
            known = representation.pairs
            logits = self._follows(representation).float()[known]
            losses[NSP] = F.binary_cross_entropy_with_logits(logits, batch.inputs[NEXT][known])
        return {name: loss * self.weights.get(name, 1.0) for name, loss in losses.items()}


def present(ids: Tensor) -> Tensor:
    """Sentences that are there ``[B, S]``; one without tokens is, if another comes after it."""
    return (ids >= 0).any(-1).flip(-1).cumsum(-1).flip(-1) > 0


def neighbours(present: Tensor) -> Tensor:
    """Sentences that are there ``[B, S]`` -> places ``[B, S, 2]`` of (i, i+1), -1 where none is."""
    first = torch.arange(present.shape[1], device=present.device).expand_as(present)
    follows = F.pad(present[:, 1:], (0, 1)) & present
    return torch.stack([first, first + 1], -1).masked_fill(~follows.unsqueeze(-1), -1)


def _gathered(values: Tensor, index: Tensor) -> Tensor:
    """``values[b, index[b, p]]``: ``[B, U, d]`` and ``[B, P]`` -> ``[B, P, d]``; -1 takes any."""
    where = index.clamp(min=0).unsqueeze(-1).expand(*index.shape, values.shape[-1])
    return values.gather(1, where)


def _spread(ids: Tensor, there: Tensor, encode: Callable[[Tensor], Tensor], width: int) -> Tensor:
    """``encode`` the rows ``[N, L]`` that are there, some of like length at a time."""
    if torch.compiler.is_exporting():  # a graph's shapes do not follow its values
        found = encode(ids.flatten(0, 1)).unflatten(0, ids.shape[:2])
        return found * there.unsqueeze(-1)
    rows = ids[there]
    if not len(rows):
        return torch.zeros(*there.shape, width, device=ids.device)
    order = (rows >= 0).sum(1).argsort(stable=True)
    found = torch.cat([encode(rows[part]) for part in order.split(_TOGETHER)])
    spread = found.new_zeros(*there.shape, width)
    spread[there] = found[order.argsort()]
    return spread


# -- thresholds ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class AtBestThreshold(Boundaries):
    """Boundaries judged at the threshold that suits them best: what an epoch is chosen by."""

    def tally(self, target: NDArray, decoded: NDArray) -> tuple[NDArray, ...]:
        return objects([row[:-1] == 1 for row in target]), decoded

    def judge(self, tallies: Sequence[tuple[NDArray, ...]]) -> dict[str, float]:
        wanted, chances = (self.join(parts) for parts in zip(*tallies, strict=True))
        tau = best_threshold(wanted, chances)
        given = objects([row > tau for row in chances])
        return {metric.name: metric.compute(wanted, given) for metric in self.metrics}


def best_threshold(wanted: Iterable[NDArray], chances: Iterable[NDArray], tried: int = 40) -> float:
    """The threshold of least P_k (per document) among quantiles of all chances.

    Args:
        wanted: gaps of each document, True where a section ends.
        chances: chance of each gap.
        tried: quantiles, from that of twice the true rate of boundaries to that of a quarter of it.
    """
    wanted, chances = list(wanted), list(chances)
    everything = np.concatenate(chances)
    rate = float(np.mean(np.concatenate(wanted))) if len(everything) else 0.0
    if not 0 < rate < 1:
        return 0.5
    shares = np.linspace(max(0.0, 1 - 2 * rate), 1 - rate / 4, tried)
    found = np.unique(np.quantile(everything, shares)).clip(1e-6, 1 - 1e-6)
    errors = [pk(wanted, [row > tau for row in chances]) for tau in found]
    return float(found[int(np.argmin(errors))])


# -- sections --------------------------------------------------------------------------------------


class Section(NamedTuple):
    """Sentences ``start`` to ``end`` (one past the last) of a document, and their topic."""

    start: int
    end: int
    topic: Any = None


def sections(
    chances: NDArray[np.floating],
    topics: NDArray[np.floating] | None = None,
    *,
    minimum: int = 1,
    merge: bool = False,
) -> list[tuple[int, int, int | None]]:
    """(start, end, topic) of every section of a document of n sentences.

    Args:
        chances: of a boundary after each sentence but the last ``[n-1]``; one above 0.5 is one.
        topics: chances of the topics of each sentence ``[n, K]``; the topic of a section is the
            argmax of the sum of their logarithms.
        minimum: sentences of a section at least: the weaker end of the shortest section goes until
            all have as many (or the document is one section).
        merge: drop boundaries between sections of one topic.
    """
    ends = [int(i) + 1 for i in np.flatnonzero(chances > 0.5)]

    def bounds() -> list[tuple[int, int]]:
        return list(zip([0, *ends], [*ends, len(chances) + 1], strict=True))

    def topic(start: int, end: int) -> int | None:
        if topics is None:
            return None
        return int(np.log(topics[start:end].clip(1e-12)).sum(0).argmax())

    while ends:
        start, end = min(bounds(), key=lambda b: b[1] - b[0])
        if end - start >= minimum:
            break
        ends.remove(min((e for e in (start, end) if e in ends), key=lambda e: chances[e - 1]))
    while merge and topics is not None:
        found = [(end, topic(start, end)) for start, end in bounds()]
        alike = [e for (e, t), (_, u) in itertools.pairwise(found) if t == u]
        if not alike:
            break
        ends.remove(min(alike, key=lambda e: chances[e - 1]))
    return [(start, end, topic(start, end)) for start, end in bounds()]


# -- the learner -----------------------------------------------------------------------------------


def named(tasks: Sequence[Task]) -> tuple[str | None, str | None]:
    """Names of the task of boundaries and of that of tags."""
    found: dict[type, str] = {}
    for task in tasks:
        kind = next((k for k in (Boundaries, Tagging) if isinstance(task.kind, k)), None)
        if kind is None:
            raise InputError(f"topic_seg learns boundaries and tags; {task} is {task.kind.name}")
        if kind in found:
            raise InputError(
                f"topic_seg learns one task of {kind.name}, not {found[kind]!r} and {task.name!r}"
            )
        found[kind] = task.name
    return found.get(Boundaries), found.get(Tagging)


def taught(losses: Sequence[str], boundaries: str | None, tags: str | None) -> tuple[str, ...]:
    """Which of the losses these tasks have."""
    for loss in losses:
        if loss not in TERMS:
            raise InputError(f"topic_seg: losses are of {', '.join(TERMS)}, not {loss!r}")
    if tags and "tc" not in losses:
        raise InputError(
            f"topic_seg: without 'tc' among the losses task {tags!r} is not learned; leave it out"
        )
    there = {"stp": boundaries, "tc": tags, "nsp": True}
    found = tuple(term for term in TERMS if term in losses and there[term])
    if not found:
        raise InputError(f"topic_seg: none of the losses {', '.join(losses)} has a task")
    return found


@dataclass
class TopicSeg(TextLearner):
    """Siamese topic segmentation as a learner; see the head of this file.

    Attributes:
        encoder: the paper's is of BERT's or RoBERTa's base size (which one: unsure); without a
            network, a folder, "minilm", or one of random weights.
        max_length: tokens of a sentence.
        losses: any of "stp", "tc", "nsp". Those whose task the suite does not ask are left out.
        weights: of L_STP, L_TC and L_NSP (1 each: unsure); or give a balancer.
        layer: over token states, before pooling.
        pooling: of token states.
        product: u*v as a further feature of pairs.
        joint: both sentences in one sequence (cross-encoder).
        window: sentences on each side of a gap.
        same, reach: how pairs that are not adjacent are drawn, see ``mined``.
        stretch: sentences of a training row; None: a row is one pair.
        threshold: tau; None: that of the lowest P_k on validation.
        dropout: in the layer and before the heads.
        training: ``batch`` counts pairs, or stretches.
    """

    encoder: str = "google-bert/bert-base-uncased"
    max_length: int = 128
    losses: tuple[str, ...] = TERMS
    weights: tuple[float, ...] = (1.0, 1.0, 1.0)
    layer: Layer = "transformer"
    pooling: Literal["mean", "cls", "max"] = "mean"
    product: bool = False
    joint: bool = False
    window: int = 1
    same: float = 0.5
    reach: int | None = None
    stretch: int | None = None
    threshold: float | None = None
    dropout: float = 0.1
    training: Training = field(
        default_factory=lambda: Training(lr=2e-5, weight_decay=0.01, batch=32, epochs=4, patience=4)
    )

    id: ClassVar[str] = "topic_seg"

    def validate(self, suite: Suite) -> None:
        super().validate(suite)
        boundaries, tags = named(suite.tasks)
        taught(self.losses, boundaries, tags)
        if NSP in suite.task_names:
            raise InputError(f"topic_seg: {NSP!r} is the name of its own loss; rename that task")
        several = [name for name, many in suite.texts.items() if many]
        if len(several) != 1 or len(suite.inputs) != 1:
            raise InputError("topic_seg reads one column of sentences and nothing else")
        if len(self.weights) != 3 or min(self.weights) < 0:
            raise InputError(
                "topic_seg: weights are three numbers of 0 or more, of STP, TC and NSP"
            )
        if self.threshold is not None and not 0 < self.threshold < 1:
            raise InputError(f"topic_seg: threshold lies between 0 and 1, not at {self.threshold}")
        for name, least in (("window", 1), ("stretch", 2), ("reach", 2)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise InputError(f"topic_seg: {name} is at least {least}, not {value}")
        if self.same < 0:
            raise InputError(f"topic_seg: same is at least 0, not {self.same}")

    def build(self, spec: Processor) -> TopicNet:
        return TopicNet(spec, self, as_text_encoder(self.encoder, spec.reader))

    def views(self, data: Batch) -> Rows:
        """The training documents as pairs of their sentences."""
        boundaries, tags = named(self.processor_.tasks)
        return Pairs(
            data,
            self.processor_.input_names[0],
            boundaries,
            tags,
            same=self.same,
            reach=self.reach,
            window=self.window,
            stretch=self.stretch,
            seed=self.training.seed,
        )

    def learn(self, module: MultiTaskModule, suite: Suite, **how: Any) -> State:
        state = super().learn(module, suite, **how)
        assert isinstance(module, TopicNet)
        if module.boundaries and self.threshold is None:
            self._tune(module, self.processor_.encode(suite, "validation"))
        return state

    def _tune(self, module: TopicNet, validation: Batch) -> None:
        """Set tau to where P_k on validation is lowest."""
        task = str(module.boundaries)
        engine = self._engine()
        chances = predict(module.to(engine.device), validation, (task,), engine)[task]
        mask = validation.masks[task].numpy()
        wanted, given = AtBestThreshold().tally(
            validation.targets[task].numpy()[mask], chances[mask]
        )
        tau = best_threshold(wanted, given)
        module.offset.copy_(torch.logit(torch.tensor(tau)))

    @property
    def threshold_(self) -> float:
        """Tau: P(different sections) above it is a boundary."""
        return float(torch.sigmoid(self.module_.get_buffer("offset")))

    def segment(
        self,
        documents: Sequence[str | Sequence[str]],
        *,
        minimum: int = 1,
        merge: bool = False,
    ) -> list[list[Section]]:
        """The sections of documents, each a list of sentences.

        A document given as raw text is split by the plain rule of ``sentences_of``. The other
        arguments are those of ``sections``.
        """
        boundaries, tags = named(self._fitted().tasks)
        if boundaries is None:
            raise InputError(
                "this topic_seg learned topics only; sections need a task of boundaries"
            )
        if isinstance(documents, str):
            raise InputError("segment takes a list of documents; put this one into a list")
        split = [sentences_of(d) if isinstance(d, str) else list(d) for d in documents]
        for number, texts in enumerate(split, 1):
            if not texts:
                raise InputError(f"document {number} has no sentence")
            if not all(text and text.strip() for text in texts):
                raise InputError(f"document {number} has a sentence without text")
        found = self.predict({self.processor_.input_names[0]: split})
        classes = self.processor_.task(tags).kind.classes if tags else ()  # type: ignore[attr-defined]
        rows = []
        for row in range(len(split)):
            topics = found[tags][row] if tags else None
            parts = sections(found[boundaries][row], topics, minimum=minimum, merge=merge)
            rows.append([Section(a, b, None if t is None else classes[t]) for a, b, t in parts])
        return rows
