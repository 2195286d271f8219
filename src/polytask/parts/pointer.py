"""Multi-pointer-generator: every word of an answer is said, or copied from one of two texts.

Source: McCann et al., "The Natural Language Decathlon: Multitask Learning as Question Answering",
    2018, section 3; released code salesforce/decaNLP.

    a = decoder layers over the answer so far       h_t = LSTM([a_t; c~_(t-1)], h_(t-1))
    α^C = softmax(C h_t)   c~_t = tanh(W_c [h_t; α^C C])   x_t = [a_t; c~_(t-1)]
    α^Q = softmax(Q h_t)   q~_t = tanh(W_q [h_t; α^Q Q])
    γ = σ(w_1 [h_t; c~_t; x_t])   λ = σ(w_2 [h_t; q~_t; x_t])   p_v = softmax(W_v c~_t)
    p(w) = γ p_v(w) + (1-γ) [λ Σ_{c_i = w} α^C_i + (1-λ) Σ_{q_j = w} α^Q_j]

Shapes: B rows, T answer tokens, l and m tokens of context and question, width d. Ids are -1 past a
text's end. A word that is in neither text nor vocabulary has probability 0.

The parallel pass of training and the step-by-step pass of answering are the same function: it takes
the state that it gave before, and any number of tokens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Scale = Literal["head", "width"]
Generator = Literal["mixed", "off", "only"]

HIDDEN = -1e10  # score of a place that must not be seen: finite, so that no row can become NaN
EPSILON = 1e-10  # inside the logarithm, for words of probability 0


class Memory(NamedTuple):
    """What a decoder reads of B rows.

    Attributes:
        context, question: states ``[B, l, d]`` and ``[B, m, d]``; without a question pointer there
            is no question.
        context_ids, question_ids: their tokens ``[B, l]`` and ``[B, m]``, -1 past the end.
        layers: what each decoder layer attends to ``[B, l, d]``.
        start: the LSTM's first state and cell ``[B, d]``.
    """

    context: Tensor
    context_ids: Tensor
    question: Tensor | None
    question_ids: Tensor | None
    layers: tuple[Tensor, ...]
    start: tuple[Tensor, Tensor]

    def repeat(self, times: int) -> Memory:
        """Every row ``times`` times, copies side by side."""

        def wide(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor.repeat_interleave(times, dim=0)

        context, ids = wide(self.context), wide(self.context_ids)
        assert context is not None and ids is not None
        layers = tuple(layer.repeat_interleave(times, dim=0) for layer in self.layers)
        state, cell = (part.repeat_interleave(times, dim=0) for part in self.start)
        return Memory(
            context, ids, wide(self.question), wide(self.question_ids), layers, (state, cell)
        )


class Mixture(NamedTuple):
    """The distribution of every answer token, in its parts.

    Attributes:
        said: log p_v ``[B, T, G]`` over ``vocabulary``; None if nothing is generated.
        gamma, lambda_: ``[B, T, 1]``.
        context, question: attention ``[B, T, l]`` and ``[B, T, m]``; None if nothing is copied.
        context_ids, question_ids: as in ``Memory``.
        vocabulary: the ids that can be generated ``[G]``, ascending.
    """

    said: Tensor | None
    gamma: Tensor
    lambda_: Tensor
    context: Tensor | None
    context_ids: Tensor
    question: Tensor | None
    question_ids: Tensor | None
    vocabulary: Tensor

    @property
    def _copied(self) -> list[tuple[Tensor, Tensor]]:
        """(probability of copying each place, the ids there), per text."""
        copied = []
        if self.context is not None:
            copied.append(((1 - self.gamma) * self.lambda_ * self.context, self.context_ids))
        if self.question is not None and self.question_ids is not None:
            weight = (1 - self.gamma) * (1 - self.lambda_)
            copied.append((weight * self.question, self.question_ids))
        return copied

    def reachable(self, target: Tensor) -> Tensor:
        """Whether each id ``[B, T]`` has a probability above 0 by construction."""
        _, found = _places(self.vocabulary, target)
        if self.said is None:
            found = torch.zeros_like(found)
        for _, ids in self._copied:
            found = found | (target.unsqueeze(2) == ids.unsqueeze(1)).any(2)
        return found & (target >= 0)

    def probability(self, target: Tensor) -> Tensor:
        """p(w) of one id per token, ``[B, T]``, without the whole distribution."""
        total = torch.zeros_like(self.gamma[..., 0])
        if self.said is not None:
            place, found = _places(self.vocabulary, target)
            said = self.said.gather(2, place.unsqueeze(2)).squeeze(2).exp()
            total = total + self.gamma.squeeze(2) * said * found
        for weight, ids in self._copied:
            same = target.unsqueeze(2) == ids.unsqueeze(1)
            total = total + (weight * same).sum(2)
        return total * (target >= 0)

    def whole(self) -> tuple[Tensor, Tensor]:
        """(p ``[B, T, N]``, the N ids it is over): the vocabulary, then other words of the batch.

        A word that stands at several places has the sum of their attention.
        """
        copied = self._copied
        sources = torch.cat([ids.flatten() for _, ids in copied] or [self.vocabulary[:0]]).unique()
        _, known = _places(self.vocabulary, sources)
        others = sources[~known & (sources >= 0)]
        ids = torch.cat([self.vocabulary, others])
        rows, length, _ = self.gamma.shape
        if self.said is None:
            p = self.gamma.new_zeros(rows, length, len(ids))
        else:
            p = F.pad(self.gamma * self.said.exp(), (0, len(others)))
        for weight, source in copied:
            place, said = _places(self.vocabulary, source)
            other, found = _places(others, source)
            place = torch.where(said, place, other + len(self.vocabulary))
            here = (said | found) & (source >= 0)
            place = place.masked_fill(~here, 0).unsqueeze(1).expand_as(weight)
            p = p.scatter_add(2, place, weight * here.unsqueeze(1))
        return p, ids


class State(NamedTuple):
    """Where a decoder stands after some tokens.

    Attributes:
        own: keys and values of the answer so far, per layer.
        other: keys and values of the context, per layer; they never change.
        recurrent: state, cell and the last c~ of the LSTM, each ``[B, d]``.
    """

    own: tuple[tuple[Tensor, Tensor], ...]
    other: tuple[tuple[Tensor, Tensor], ...]
    recurrent: tuple[Tensor, Tensor, Tensor]

    @property
    def length(self) -> int:
        """Tokens so far."""
        return self.own[0][0].shape[1] if self.own else 0


class SidewaysAttention(nn.Module):
    """Attention of heads side by side, which need not divide the width; no output projection.

    head_k = softmax(Q_k K_kᵀ / s) V_k with s = √(d/heads) (``scale="head"``), or √d as in the
    released code (``"width"``). 200 numbers in 3 heads are 67, 67 and 66 (``chunk``).

    Shapes: x ``[B, T, d]``, mask ``[B or 1, T or 1, S]`` (True = visible) -> ``[B, T, d]``.
    """

    def __init__(self, width: int, heads: int, scale: Scale = "head") -> None:
        super().__init__()
        self.heads = heads
        self.scale = 1 / math.sqrt(width if scale == "width" else width / heads)
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=False)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of what is attended to."""
        return self.key(x), self.value(x)

    def forward(self, x: Tensor, seen: tuple[Tensor, Tensor], mask: Tensor) -> Tensor:
        """Attend from x to what ``project`` gave."""
        parts = zip(
            *(tensor.chunk(self.heads, dim=-1) for tensor in (self.query(x), *seen)), strict=True
        )
        mixed = []
        for query, key, value in parts:
            scores = query @ key.transpose(1, 2) * self.scale
            mixed.append(scores.masked_fill(~mask, HIDDEN).softmax(-1) @ value)
        return torch.cat(mixed, dim=-1)


class PostNormLayer(nn.Module):
    """x = LN(x + attention(x)), [x = LN(x + attention(x, other)),] x = LN(x + W_2 ReLU(W_1 x)).

    Dropout is on every branch. ``crosses``: whether there is another sequence to attend to.
    """

    own: SidewaysAttention
    other: SidewaysAttention | None

    def __init__(
        self,
        width: int,
        heads: int,
        hidden: int,
        dropout: float = 0.2,
        scale: Scale = "head",
        crosses: bool = False,
    ) -> None:
        super().__init__()
        self.own = SidewaysAttention(width, heads, scale)
        self.other = SidewaysAttention(width, heads, scale) if crosses else None
        self.forwards = nn.Sequential(
            nn.Linear(width, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, width)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3 if crosses else 2))
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: Tensor,
        mask: Tensor,
        own: tuple[Tensor, Tensor] | None = None,
        other: tuple[Tensor, Tensor] | None = None,
        other_mask: Tensor | None = None,
    ) -> Tensor:
        """One layer; ``own`` are keys and values of x and what stood before it, if kept."""
        norms = iter(self.norms)
        x = next(norms)(x + self.dropout(self.own(x, own or self.own.project(x), mask)))
        if self.other is not None and other is not None and other_mask is not None:
            x = next(norms)(x + self.dropout(self.other(x, other, other_mask)))
        return next(norms)(x + self.dropout(self.forwards(x)))


class PointerDecoder(nn.Module):
    """Decoder layers, an LSTM with input feeding, two pointers and the mixture.

    Args:
        width: d, of states and of embedded answers.
        say: ``[.., d] -> [.., G]``, the scores of p_v.
        vocabulary: ids that can be generated ``[G]``, ascending.
        layers, heads, hidden: of the decoder layers; 0 layers: the LSTM alone.
        question_pointer: False is λ = 1 (the paper's +CAtt).
        generator: "off" is γ = 0, "only" is γ = 1.
    """

    vocabulary: Tensor

    def __init__(
        self,
        width: int,
        say: nn.Module,
        vocabulary: Tensor,
        *,
        layers: int = 2,
        heads: int = 3,
        hidden: int = 150,
        dropout: float = 0.2,
        scale: Scale = "head",
        question_pointer: bool = True,
        generator: Generator = "mixed",
    ) -> None:
        super().__init__()
        self.width = width
        self.register_buffer("vocabulary", vocabulary, persistent=False)
        self.layers = nn.ModuleList(
            PostNormLayer(width, heads, hidden, dropout, scale, crosses=True) for _ in range(layers)
        )
        self.lstm = nn.LSTMCell(2 * width, width)
        self.context_out = nn.Linear(2 * width, width, bias=False)
        self.generator_switch = nn.Linear(4 * width, 1) if generator == "mixed" else None
        self.generator = generator
        self.say = say if generator != "off" else None
        self.question_out = self.pointer_switch = None
        if question_pointer and generator != "only":
            self.question_out = nn.Linear(2 * width, width, bias=False)
            self.pointer_switch = nn.Linear(4 * width, 1)
        self.dropout = nn.Dropout(dropout)

    def begin(self, memory: Memory) -> State:
        """The state before the first token."""
        state, cell = memory.start
        empty = memory.context.new_empty(len(state), 0, self.width)
        other = []
        for layer, read in zip(self._layers, memory.layers, strict=True):
            assert layer.other is not None
            other.append(layer.other.project(read))
        return State(
            tuple((empty, empty) for _ in self.layers),
            tuple(other),
            (state, cell, torch.zeros_like(state)),
        )

    @property
    def _layers(self) -> list[PostNormLayer]:
        return cast(list[PostNormLayer], list(self.layers))

    def forward(
        self, embedded: Tensor, memory: Memory, state: State | None = None
    ) -> tuple[Mixture, State]:
        """The mixture of every next token, after the embedded tokens ``[B, T, d]``.

        Without a state they are the answer's first; with one they follow those it has seen.
        """
        state = self.begin(memory) if state is None else state
        attended, own = self._attend(embedded, memory, state)
        visible = (memory.context_ids >= 0).unsqueeze(1)
        hidden, cell, fed = state.recurrent
        steps: list[tuple[Tensor, Tensor, Tensor]] = []
        inputs, alphas = [], []
        for a in attended.unbind(1):
            x = torch.cat([a, fed], dim=1)
            hidden, cell = self.lstm(x, (hidden, cell))
            alpha = _attention(hidden.unsqueeze(1), memory.context, visible)
            fed = self._out(self.context_out, hidden, (alpha @ memory.context).squeeze(1))
            steps.append((hidden, cell, fed))
            inputs.append(x)
            alphas.append(alpha)
        h, _, c = (torch.stack(parts, dim=1) for parts in zip(*steps, strict=True))
        mixture = self._mix(h, c, torch.stack(inputs, dim=1), torch.cat(alphas, dim=1), memory)
        return mixture, State(own, state.other, (hidden, cell, fed))

    def _attend(
        self, embedded: Tensor, memory: Memory, state: State
    ) -> tuple[Tensor, tuple[tuple[Tensor, Tensor], ...]]:
        """The decoder layers; also the keys and values of the answer, old and new."""
        past, length = state.length, embedded.shape[1]
        if not self.layers:
            return embedded, ()
        places = torch.arange(past, past + length, device=embedded.device)
        x = self.dropout(embedded + sinusoids(places, self.width).to(embedded.dtype))
        causal = torch.ones(length, past + length, dtype=torch.bool, device=x.device)
        causal = causal.tril(past).unsqueeze(0)
        visible = (memory.context_ids >= 0).unsqueeze(1)
        kept = []
        for layer, before, other in zip(self._layers, state.own, state.other, strict=True):
            now = layer.own.project(x)
            own = tuple(torch.cat(pair, dim=1) for pair in zip(before, now, strict=True))
            x = layer(x, causal, own, other, visible)
            kept.append((own[0], own[1]))
        return x, tuple(kept)

    def _out(self, project: nn.Module, hidden: Tensor, read: Tensor) -> Tensor:
        return self.dropout(torch.tanh(project(torch.cat([hidden, read], dim=-1))))

    def _mix(self, h: Tensor, c: Tensor, x: Tensor, alpha: Tensor, memory: Memory) -> Mixture:
        gamma = h.new_full((*h.shape[:2], 1), float(self.generator == "only"))
        if self.generator_switch is not None:
            gamma = torch.sigmoid(self.generator_switch(torch.cat([h, c, x], dim=-1)))
        lambda_ = torch.ones_like(gamma)
        question = ids = None
        if self.question_out is not None and self.pointer_switch is not None:
            assert memory.question is not None and memory.question_ids is not None
            ids = memory.question_ids
            question = _attention(h, memory.question, (ids >= 0).unsqueeze(1))
            q = self._out(self.question_out, h, question @ memory.question)
            lambda_ = torch.sigmoid(self.pointer_switch(torch.cat([h, q, x], dim=-1)))
        said = None if self.say is None else self.say(c).float().log_softmax(-1)
        # Chances are multiplied and summed: in 32 bits, whatever the network computes in.
        copied = None if self.generator == "only" else alpha.float()
        question = None if question is None else question.float()
        gamma, lambda_ = gamma.float(), lambda_.float()
        return Mixture(
            said, gamma, lambda_, copied, memory.context_ids, question, ids, self.vocabulary
        )


def negative_log_likelihood(mixture: Mixture, target: Tensor, unknown: int) -> Tensor:
    """-log(p + 1e-10) of every token ``[B, T]``, 0 past the end (-1).

    A token that can be neither said nor copied counts as ``unknown``, if that can be said.
    """
    target = torch.where(mixture.reachable(target) | (target < 0), target, unknown)
    loss = -torch.log(mixture.probability(target) + EPSILON)
    return loss * (target >= 0)


def sinusoids(places: Tensor, width: int) -> Tensor:
    """Positions as sines, then cosines, of falling frequencies: ``[n] -> [n, width]``."""
    half = (width + 1) // 2
    steps = torch.arange(half, device=places.device) / max(1, half - 1)
    angles = places.unsqueeze(1) * torch.exp(-math.log(10_000) * steps)
    return torch.cat([angles.sin(), angles.cos()], dim=1)[:, :width]


def greedy(mixture: Mixture, never: Sequence[int] = ()) -> Tensor:
    """The likeliest id of the last token ``[B]``, of all that may be answered."""
    p, ids = mixture.whole()
    barred = torch.isin(ids, torch.tensor(list(never), device=ids.device, dtype=ids.dtype))
    return ids[p[:, -1].masked_fill(barred, -1.0).argmax(1)]


def _attention(query: Tensor, states: Tensor, visible: Tensor) -> Tensor:
    """softmax(query · states): ``[B, T, d]``, ``[B, n, d]``, ``[B, 1, n]`` -> ``[B, T, n]``."""
    scores = query @ states.transpose(1, 2)
    return scores.float().masked_fill(~visible, HIDDEN).softmax(-1).to(query.dtype)


def _places(ids: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """(place of each target in the ascending ids, whether it is there)."""
    if not len(ids):
        return torch.zeros_like(target), torch.zeros_like(target, dtype=torch.bool)
    place = torch.searchsorted(ids, target.contiguous()).clamp(max=len(ids) - 1)
    return place, ids[place] == target
