"""CoDiEmb: one text encoder for retrieval and similarity, each taught in its own way."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from polytask.data import Batch
from polytask.parts.contrast import gather, in_batch, multi_positive
from polytask.parts.order import cosent, pearson, pro, rank_kl
from polytask.tasks import Retrieval, Similarity, Task
from polytask.training import MultiTaskModule

Role = Literal["query", "document"]
ORDER = "candidate_order"  # name of the input that says which candidates are drawn first


class Embedded(NamedTuple):
    """Unit vectors ``[N, d]`` of the last layer, and of the middle one if it was asked for."""

    last: Tensor
    middle: Tensor | None


class Embedder(Protocol):
    """Encoded rows ``[N, ...]`` to vectors; what stands under the tasks."""

    def __call__(self, rows: Tensor, role: Role, *, middle: bool = False) -> Embedded: ...

    def present(self, rows: Tensor) -> Tensor:
        """bool ``[N]``: True where a row holds anything."""
        ...


@dataclass(frozen=True)
class Objective:
    """What the similarities of each sort of task are taught; see the head of this file.

    Attributes:
        name: ``"codiemb"``; ``"infonce"`` or ``"cosent"`` teach both sorts of task alike.
        temperature: τ of all contrasts.
        order_temperature: T of RankKL, PRO and CoSENT.
        positives, negatives: m and k, slots for candidates of a query.
        middle, pearson, rank_kl, pro: weights of the four similarity terms.
        threshold: pairs of at least this score (of 1) are positives of the mid-layer contrast;
            ``alike`` is the same for ``"infonce"``.
        gather_retrieval, gather_similarity: losses look at the rows of all processes.
    """

    name: Literal["codiemb", "infonce", "cosent"] = "codiemb"
    temperature: float = 0.02
    order_temperature: float = 0.05
    positives: int = 2
    negatives: int = 4
    middle: float = 1.0
    pearson: float = 2.0
    rank_kl: float = 5.0
    pro: float = 0.5
    threshold: float = 1.0
    alike: float = 0.8
    gather_retrieval: bool = True
    gather_similarity: bool = True

    def looks_inside(self) -> bool:
        """Whether similarity has a term at the middle layer."""
        return self.name == "codiemb" and self.middle != 0

    def similarity(self, first: Embedded, second: Embedded, gold: Tensor) -> Tensor:
        """Loss of pairs of texts with gold ``[B]`` in 0..1."""
        parts = [first.last, second.last, gold.unsqueeze(1).to(first.last.dtype)]
        if first.middle is not None and second.middle is not None:
            parts += [first.middle, second.middle]
        if self.gather_similarity:
            # One message: what several processes send each other must come in one order.
            sizes = [part.shape[1] for part in parts]
            parts = list(gather(torch.cat(parts, dim=1)).rows.split(sizes, dim=1))
        a, b, gold = parts[0], parts[1], parts[2].squeeze(1)
        cosine, t = (a * b).sum(1), self.order_temperature
        if self.name == "infonce":
            return in_batch(a, b, temperature=self.temperature, chosen=gold >= self.alike - 1e-6)
        if self.name == "cosent":
            return cosent(cosine, gold, t)
        loss = (
            self.pearson * pearson(cosine, gold)
            + self.rank_kl * rank_kl(cosine, gold, t)
            + self.pro * pro(cosine, gold, t)
        )
        if len(parts) > 3:
            chosen = gold >= self.threshold - 1e-6
            loss = loss + self.middle * in_batch(
                parts[3], parts[4], temperature=self.temperature, chosen=chosen
            )
        return loss

    def retrieval(self, queries: Tensor, slots: Tensor, filled: Tensor) -> Tensor:
        """Loss of queries ``[B, d]``: m positives, then k negatives ``[B, m + k, d]``."""
        m = self.positives
        if self.name == "cosent":
            return self._retrieval_by_order(queries, slots, filled)
        return multi_positive(
            queries,
            slots[:, :m],
            slots[:, m:],
            temperature=self.temperature,
            has_positive=filled[:, :m],
            has_negative=filled[:, m:],
            over_processes=self.gather_retrieval,
        )

    def _retrieval_by_order(self, queries: Tensor, slots: Tensor, filled: Tensor) -> Tensor:
        """CoSENT of every query with every candidate of the batch: 1 for its own positives."""
        n, m = len(queries), self.positives
        sent = torch.cat([slots.flatten(1), filled.to(slots.dtype)], dim=1)
        if self.gather_retrieval:
            sent = torch.cat([queries, sent], dim=1)
            sent = gather(sent).rows
            queries, sent = sent.split([queries.shape[1], sent.shape[1] - queries.shape[1]], 1)
        candidates = sent[:, : slots.shape[1] * slots.shape[2]].unflatten(1, slots.shape[1:])
        kept = sent[:, candidates[0].numel() :] > 0
        scores = torch.einsum("bd,nsd->bns", queries, candidates) / self.order_temperature
        own = torch.eye(len(queries), dtype=torch.bool, device=scores.device).unsqueeze(-1)
        positive = own & (torch.arange(slots.shape[1], device=scores.device) < m) & kept
        negative = kept & ~positive
        # With two grades the double sum of CoSENT falls apart into a product.
        up = (-scores).masked_fill(~positive, float("-inf")).flatten().logsumexp(0)
        down = scores.masked_fill(~negative, float("-inf")).flatten().logsumexp(0)
        return F.softplus(up + down)


class CoDiEmbNet(MultiTaskModule):
    """One embedder, no heads: every task is answered by cosines."""

    def __init__(self, tasks: Iterable[Task], embedder: nn.Module, objective: Objective) -> None:
        super().__init__(tuple(tasks))
        self.embedder, self.objective = embedder, objective
        self.heads = nn.ModuleDict()

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        found = {}
        for name in batch.targets:
            rows = batch.masks[name]
            part = batch.only([name])
            part = part if bool(rows.all()) else part[rows.nonzero().squeeze(1)]
            found[name] = self._loss(self.tasks[name], part) * self.weights.get(name, 1.0)
        return found

    def _loss(self, task: Task, part: Batch) -> Tensor:
        first, second = (part.inputs[column] for column in task.texts)
        target = part.targets[task.name]
        if isinstance(task.kind, Retrieval):
            queries = self.embedder(first, "query").last
            at, filled = chosen(
                target, self.objective.positives, self.objective.negatives, part.inputs.get(ORDER)
            )
            at = at.view(*at.shape, *[1] * (second.ndim - 2)).expand(-1, -1, *second.shape[2:])
            return self.objective.retrieval(queries, self.several(second.gather(1, at), filled), filled)
        assert isinstance(task.kind, Similarity)
        a, b = self.pair(first, second, middle=self.objective.looks_inside())
        return self.objective.similarity(a, b, task.kind.unit(target))

    def pair(self, first: Tensor, second: Tensor, *, middle: bool = False) -> tuple[Embedded, Embedded]:
        """Both sides of pairs, each in the form of a query."""
        return (
            self.embedder(first, "query", middle=middle),
            self.embedder(second, "query", middle=middle),
        )

    def several(self, rows: Tensor, filled: Tensor) -> Tensor:
        """Documents ``[B, K, ...]`` to vectors ``[B, K, d]``, 0 where a slot is not filled."""
        at = filled.flatten().nonzero().squeeze(1)
        found = self.embedder(rows.flatten(0, 1)[at], "document").last
        empty = found.new_zeros((filled.numel(), found.shape[1]))
        return empty.index_copy(0, at, found).view(*filled.shape, -1)

    def outputs(self, inputs: dict[str, Tensor], tasks: Iterable[str]) -> dict[str, Tensor]:
        """Similarity: the cosine ``[B, 1]``; retrieval: cosines ``[B, K]``, NaN past the end."""
        found = {}
        for name in tasks:
            first, second = (inputs[column] for column in self.tasks[name].texts)
            if isinstance(self.tasks[name].kind, Retrieval):
                queries = self.embedder(first, "query").last
                filled = self.embedder.present(second.flatten(0, 1)).view(second.shape[:2])
                cosine = torch.einsum("bd,bkd->bk", queries, self.several(second, filled))
                found[name] = cosine.masked_fill(~filled, float("nan"))
            else:
                a, b = self.pair(first, second)
                found[name] = (a.last * b.last).sum(1, keepdim=True)
        return found


def chosen(
    relevance: Tensor, positives: int, negatives: int, order: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Which candidates fill a query's slots.

    Args:
        relevance: ``[B, K]``, NaN past the end; above 0 is a positive.
        positives, negatives: numbers of slots m and k.
        order: ``[B, K]``, the smallest are taken first; left out, the first.

    Returns:
        Positions ``[B, m + k]`` (0 in empty slots) and bool ``[B, m + k]``, True where filled.
    """
    if order is None:
        order = torch.arange(relevance.shape[1], device=relevance.device).expand_as(relevance)
    parts = []
    for wanted, slots in ((relevance > 0, positives), (relevance <= 0, negatives)):
        keys = order.float().masked_fill(~wanted, float("inf"))
        keys = F.pad(keys, (0, max(0, slots - keys.shape[1])), value=float("inf"))
        least, at = keys.topk(slots, dim=1, largest=False)
        parts.append((at.masked_fill(least.isinf(), 0), ~least.isinf()))
    return torch.cat([p[0] for p in parts], 1), torch.cat([p[1] for p in parts], 1)


@dataclass(frozen=True)
class Shuffled:
    """Rows whose candidates are drawn in another order in every epoch.

    The order of a row follows from seed, epoch and row alone, however rows are dealt to processes.
    """

    data: Batch
    column: str
    seed: int = 0
    epoch: int = 0

    @property
    def masks(self) -> dict[str, Tensor]:
        return self.data.masks

    @property
    def lengths(self) -> NDArray[np.int64] | None:
        return self.data.lengths

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, rows: Tensor) -> Batch:
        batch = self.data[rows]
        count = batch.inputs[self.column].shape[1]
        draw = [
            np.random.default_rng((self.seed, self.epoch, row)).random(count)
            for row in rows.tolist()
        ]
        order = torch.from_numpy(np.stack(draw).astype(np.float32))
        return replace(batch, inputs={**batch.inputs, ORDER: order})

    def only(self, tasks: Iterable[str]) -> Shuffled:
        return replace(self, data=self.data.only(tasks))

    def turn(self, seed: int, epoch: int) -> Shuffled:
        return replace(self, seed=seed, epoch=epoch)
