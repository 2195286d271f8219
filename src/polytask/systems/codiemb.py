"""CoDiEmb: one text encoder for retrieval and similarity, each taught in its own way.

Source: "CoDiEmb: A Collaborative yet Distinct Framework for Unified Representation Learning in
    Information Retrieval and Semantic Textual Similarity" (2025).
Year: 2025
Domain: text
Parts: text_encoders, contrast, order, merging
For: one embedding model that both searches and scores how alike two texts are
Idea: retrieval asks for a few right answers among many, similarity for a fine order of all pairs.
    One encoder without heads learns both, in batches of one data set each; retrieval by a contrast,
    similarity by losses that look at the order of the batch.
Equations: s = cosine of the pooled, normalised last states; y = gold in 0..1; N pairs in the batch.
    L_retrieval: see ``parts.contrast``: slot j's positives of all queries and all hard negatives
        are the candidates of positive j; temperature tau.
    L_similarity = MidNCE + 2 (1 - corr(s, y)) + 5 KL(softmax(g/T) || softmax(s/T))/N + 0.5 PRO
        (``parts.order``); g in [0, 1] is the rank of y; MidNCE is in-batch InfoNCE at the middle
        layer for pairs of the highest gold.
    Fusion of checkpoints of one base: see ``parts.merging``.
Input: two texts with a score (``similarity``), or a query and candidates with relevances
    (``retrieval``).
Output: similarity: cosine [B, 1] as a score of 0..1; retrieval: cosines [B, K]; ``embed``: unit
    vectors [N, d].

Differs from the paper:
 (1) An empty slot of a query with few positives or negatives is masked. The reference repeats
     positives and fills negatives with the word "nothing", against which it then really trains.
     A query's loss is the mean over the positives it has.
 (2) Over several processes similarity batches are gathered, too (``gather_similarity``), so that
     one process and many take the same updates; the paper's order losses are per device.
 (3) Accumulation is refused: it would divide the batch that both losses look at.
 (4) The map from deviations to weights in fusion is not published; the default is each checkpoint's
     share of the deviation, and other maps are there to choose from on validation data.
 (5) Prompts are settings, not found out from the name of the model; they are cut into tokens apart
     from the text. Without one, the mean takes special tokens in, as sentence-transformers does.
 (6) A similarity takes exactly one scored pair a row. Negatives beside it are refused; in the
     reference they are ignored or, scored, ruin the model.
 (7) The score of a pair is its cosine as it is: 0 is the lowest score, and a negative cosine falls
     below it.
 (8) The default encoder is MiniLM at hand without a network, not MiniCPM, E5 or BGE.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, Self, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from polytask.config import parse_call
from polytask.data import Batch, Processor, Rows, Suite, as_mixture
from polytask.data.batch import Views
from polytask.data.mixtures import Datasets, TaskBatches
from polytask.errors import InputError
from polytask.parts.contrast import gather, in_batch, multi_positive
from polytask.parts.merging import Rule, merge
from polytask.parts.order import cosent, pearson, pro, rank_kl
from polytask.parts.text_encoders import (
    FOLDER,
    Pooling,
    TextLearner,
    as_reader,
    as_text_encoder,
    embed_texts,
    pool,
)
from polytask.tasks import Retrieval, Similarity, Task
from polytask.training import MultiTaskModule, Training

Role = Literal["query", "document"]
ORDER = "candidate_order"  # name of the input that says which candidates are drawn first


class Embedded(NamedTuple):
    """Unit vectors ``[N, d]`` of the last layer, and of the middle one if it was asked for."""

    last: Tensor
    middle: Tensor | None


@dataclass(frozen=True)
class Objective:
    """What similarities are taught: a loss of scored pairs, and one of queries.

    Attributes:
        temperature: τ of all contrasts.
        positives, negatives: m and k, slots for candidates of a query.
        gather_retrieval, gather_similarity: losses look at the rows of all processes.
    """

    temperature: float = 0.02
    positives: int = 2
    negatives: int = 4
    gather_retrieval: bool = True
    gather_similarity: bool = True

    name: ClassVar[str]

    def __str__(self) -> str:
        return f"{self.name}({', '.join(f'{k}={v!r}' for k, v in asdict(self).items())})"

    def looks_inside(self) -> bool:
        """Whether similarity has a term at the middle layer."""
        return False

    def similarity(self, first: Embedded, second: Embedded, gold: Tensor) -> Tensor:
        """Loss of pairs of texts with gold ``[B]`` in 0..1."""
        parts = [first.last, second.last, gold.unsqueeze(1).to(first.last.dtype)]
        if first.middle is not None and second.middle is not None:
            parts += [first.middle, second.middle]
        if self.gather_similarity:
            # One message: what several processes send each other must come in one order.
            sizes = [part.shape[1] for part in parts]
            parts = list(gather(torch.cat(parts, dim=1)).rows.split(sizes, dim=1))
        a, b, gold, *middle = parts
        inside = middle or (None, None)
        return self.pairs(Embedded(a, inside[0]), Embedded(b, inside[1]), gold.squeeze(1))

    def pairs(self, first: Embedded, second: Embedded, gold: Tensor) -> Tensor:
        """The loss of similarity on all rows that it looks at."""
        raise NotImplementedError

    def retrieval(self, queries: Tensor, slots: Tensor, filled: Tensor) -> Tensor:
        """Loss of queries ``[B, d]``: m positives, then k negatives ``[B, m + k, d]``."""
        m = self.positives
        return multi_positive(
            queries,
            slots[:, :m],
            slots[:, m:],
            temperature=self.temperature,
            has_positive=filled[:, :m],
            has_negative=filled[:, m:],
            over_processes=self.gather_retrieval,
        )


@dataclass(frozen=True)
class Specialised(Objective):
    """The paper's: retrieval by a contrast, similarity by the order of the batch.

    Attributes:
        order_temperature: T of RankKL and PRO.
        middle, pearson, rank_kl, pro: weights of the four similarity terms.
        threshold: pairs of at least this score (of 1) are positives of the mid-layer contrast.
    """

    order_temperature: float = 0.05
    middle: float = 1.0
    pearson: float = 2.0
    rank_kl: float = 5.0
    pro: float = 0.5
    threshold: float = 1.0

    name: ClassVar[str] = "codiemb"

    def looks_inside(self) -> bool:
        return self.middle != 0

    def pairs(self, first: Embedded, second: Embedded, gold: Tensor) -> Tensor:
        cosine, t = (first.last * second.last).sum(1), self.order_temperature
        loss = (
            self.pearson * pearson(cosine, gold)
            + self.rank_kl * rank_kl(cosine, gold, t)
            + self.pro * pro(cosine, gold, t)
        )
        if first.middle is not None and second.middle is not None:
            alike = gold >= self.threshold - 1e-6
            inside = in_batch(
                first.middle, second.middle, temperature=self.temperature, chosen=alike
            )
            loss = loss + self.middle * inside
        return loss


@dataclass(frozen=True)
class InfoNCE(Objective):
    """Both sorts of task by contrast, to compare with.

    Attributes:
        alike: pairs of at least this score (of 1) are each other's positives.
    """

    alike: float = 0.8

    name: ClassVar[str] = "infonce"

    def pairs(self, first: Embedded, second: Embedded, gold: Tensor) -> Tensor:
        chosen = gold >= self.alike - 1e-6
        return in_batch(first.last, second.last, temperature=self.temperature, chosen=chosen)


@dataclass(frozen=True)
class CoSENT(Objective):
    """Both sorts of task by the order of cosines, to compare with; ``temperature`` is CoSENT's."""

    temperature: float = 0.05

    name: ClassVar[str] = "cosent"

    def pairs(self, first: Embedded, second: Embedded, gold: Tensor) -> Tensor:
        return cosent((first.last * second.last).sum(1), gold, self.temperature)

    def retrieval(self, queries: Tensor, slots: Tensor, filled: Tensor) -> Tensor:
        """Every query with every candidate of the batch: gold is 1 for its own positives."""
        m, width = slots.shape[1:]
        sent = torch.cat([queries, slots.flatten(1), filled.to(slots.dtype)], dim=1)
        if self.gather_retrieval:
            sent = gather(sent).rows
        queries, flat, kept = sent.split([width, m * width, m], dim=1)
        scores = torch.einsum("bd,nsd->bns", queries, flat.unflatten(1, (m, width)))
        scores, kept = scores / self.temperature, kept > 0
        own = torch.eye(len(queries), dtype=torch.bool, device=scores.device).unsqueeze(-1)
        positive = own & kept & (torch.arange(m, device=scores.device) < self.positives)
        negative = kept & ~positive
        # With two grades the double sum of CoSENT falls apart into a product. Not minus infinity:
        # a single query without negatives would get a gradient of nan.
        up = (-scores).masked_fill(~positive, -1e9).flatten().logsumexp(0)
        down = scores.masked_fill(~negative, -1e9).flatten().logsumexp(0)
        return F.softplus(up + down)


OBJECTIVES: dict[str, Callable[..., Objective]] = {
    "codiemb": Specialised,
    "infonce": InfoNCE,
    "cosent": CoSENT,
}


def as_objective(value: str | Objective) -> Objective:
    """An objective from its text (``"codiemb(positives=4)"``) or itself."""
    return parse_call(value, OBJECTIVES, "objective") if isinstance(value, str) else value


class EmbeddingNet(MultiTaskModule):
    """No heads: every task is answered by cosines of what ``embed`` gives."""

    def __init__(self, tasks: Sequence[Task], objective: Objective) -> None:
        super().__init__(tasks)
        self.objective = objective
        self.heads = nn.ModuleDict()

    def embed(self, rows: Tensor, role: Role, *, middle: bool = False) -> Embedded:
        """Encoded rows ``[N, ...]`` to unit vectors."""
        raise NotImplementedError

    def present(self, rows: Tensor) -> Tensor:
        """Which encoded rows hold anything: bool ``[N]``."""
        raise NotImplementedError

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
            queries = self.embed(first, "query").last
            at, filled = chosen(
                target, self.objective.positives, self.objective.negatives, part.inputs.get(ORDER)
            )
            at = at.view(*at.shape, *[1] * (second.ndim - 2)).expand(-1, -1, *second.shape[2:])
            slots = self.several(second.gather(1, at), filled)
            with _exact(slots):
                return self.objective.retrieval(queries, slots, filled)
        assert isinstance(task.kind, Similarity)
        a, b = self.pair(first, second, middle=self.objective.looks_inside())
        with _exact(a.last):
            return self.objective.similarity(a, b, task.kind.scaled(target))

    def pair(
        self, first: Tensor, second: Tensor, *, middle: bool = False
    ) -> tuple[Embedded, Embedded]:
        """Both sides of pairs, each in the form of a query."""
        return (
            self.embed(first, "query", middle=middle),
            self.embed(second, "query", middle=middle),
        )

    def several(self, rows: Tensor, filled: Tensor) -> Tensor:
        """Documents ``[B, K, ...]`` to vectors ``[B, K, d]``, 0 where a slot is not filled."""
        at = filled.flatten().nonzero().squeeze(1)
        found = self.embed(rows.flatten(0, 1)[at], "document").last
        empty = found.new_zeros((filled.numel(), found.shape[1]))
        return empty.index_copy(0, at, found).view(*filled.shape, -1)

    def outputs(self, inputs: dict[str, Tensor], tasks: Iterable[str]) -> dict[str, Tensor]:
        """Similarity: the cosine ``[B, 1]``; retrieval: cosines ``[B, K]``, NaN past the end."""
        found = {}
        for name in tasks:
            first, second = (inputs[column] for column in self.tasks[name].texts)
            if isinstance(self.tasks[name].kind, Retrieval):
                queries = self.embed(first, "query").last
                filled = self.present(second.flatten(0, 1)).view(second.shape[:2])
                cosine = (queries.unsqueeze(1) * self.several(second, filled)).sum(-1)
                found[name] = cosine.masked_fill(~filled, float("nan"))
            else:
                a, b = self.pair(first, second)
                found[name] = (a.last * b.last).sum(1, keepdim=True)
        return found


def _exact(vectors: Tensor) -> torch.autocast:
    """No autocast: a cosine over a temperature of 0.02 needs more than the 8 bits of bfloat16."""
    return torch.autocast(vectors.device.type, enabled=False)


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
    order = order[:, : relevance.shape[1]]  # drawn for the longest of all lists
    parts = []
    for wanted, slots in ((relevance > 0, positives), (relevance <= 0, negatives)):
        keys = order.float().masked_fill(~wanted, float("inf"))
        keys = F.pad(keys, (0, max(0, slots - keys.shape[1])), value=float("inf"))
        least, at = keys.topk(slots, dim=1, largest=False)
        parts.append((at.masked_fill(least.isinf(), 0), ~least.isinf()))
    return torch.cat([p[0] for p in parts], 1), torch.cat([p[1] for p in parts], 1)


@dataclass(frozen=True)
class Shuffled(Views):
    """Rows whose candidates, in some columns, are drawn in another order in every epoch."""

    columns: tuple[str, ...]

    def __getitem__(self, rows: Tensor) -> Batch:
        batch = self.data[rows]
        count = max(batch.inputs[column].shape[1] for column in self.columns)
        drawn = np.empty((len(rows), count), np.float32)
        for i, row in enumerate(rows.tolist()):
            drawn[i] = np.random.default_rng((self.seed, self.epoch, row)).random(count)
        return replace(batch, inputs={**batch.inputs, ORDER: torch.from_numpy(drawn)})


class CoDiEmbNet(EmbeddingNet):
    """A text encoder, pooled and normalised."""

    query_prompt: Tensor
    document_prompt: Tensor

    def __init__(self, spec: Processor, config: CoDiEmb) -> None:
        super().__init__(spec.tasks, as_objective(config.objective))  # type: ignore[arg-type]
        self.encoder = as_text_encoder(config.encoder, spec.reader)
        self.pooling, self.pool_prompt = config.pooling, config.pool_prompt
        reader = self.encoder.reader
        for name in ("query_prompt", "document_prompt"):
            (ids,) = reader.ids([getattr(config, name)])
            if len(ids) >= reader.limit:
                raise InputError(
                    f"codiemb: {name} has {len(ids)} tokens, which leaves no room for text in "
                    f"max_length={config.max_length}"
                )
            self.register_buffer(name, torch.from_numpy(ids).long(), persistent=False)

    def embed(self, rows: Tensor, role: Role, *, middle: bool = False) -> Embedded:
        """Token ids ``[N, L]`` to unit vectors; -1 past the end of a text."""
        prompt = self.query_prompt if role == "query" else self.document_prompt
        sequence = self.encoder.sequence(torch.cat([prompt.expand(len(rows), -1), rows], dim=1))
        pooled = sequence.mask
        if len(prompt) and not self.pool_prompt:
            pooled = pooled & (sequence.content.cumsum(1) > len(prompt))
        if not middle:
            return Embedded(self._unit(self.encoder(sequence), pooled), None)
        layers = self.encoder.layers(sequence)
        inside = layers[len(layers) // 2]
        return Embedded(self._unit(layers[-1], pooled), self._unit(inside, pooled))

    def _unit(self, states: Tensor, mask: Tensor) -> Tensor:
        return F.normalize(pool(states.float(), mask, self.pooling), dim=-1)

    def present(self, rows: Tensor) -> Tensor:
        return (rows >= 0).any(1)


@dataclass
class CoDiEmb(TextLearner):
    """CoDiEmb as a learner; see the head of this file.

    Attributes:
        encoder: the paper's are MiniCPM-Embedding, multilingual-e5-large-instruct and
            bge-large-zh-v1.5; any other will do (see ``parts.text_encoders``).
        pooling: "mean" (E5, MiniCPM) or "cls" (BGE); "max" and "last" for others.
        query_prompt, document_prompt: put before texts that ask, and before those that are found;
            both sides of a similarity ask. The paper's: "Instruction: ... Query: ", and nothing.
        pool_prompt: whether a mean takes in the prompt's tokens (the paper's does not).
        objective: what the tasks are taught: ``"codiemb()"`` with the paper's weights, or
            ``"infonce()"`` and ``"cosent()"``, which teach both sorts alike.
        mixture: batches of one data set each; say sizes per task as
            ``"datasets(sizes='stsb=32, questions=64')"``, smaller ones get more updates a row.
        training: the paper's for encoders of BERT's size: lr, epochs, schedule, 32 pairs a batch
            (64 queries).
    """

    pooling: Pooling = "mean"
    query_prompt: str = ""
    document_prompt: str = ""
    pool_prompt: bool = False
    objective: str | object = "codiemb()"
    mixture: str | object = "datasets()"
    training: Training = field(
        default_factory=lambda: Training(
            lr=5e-5, batch=32, epochs=5, schedule="linear(warmup=0.03)", patience=5
        )
    )

    id: ClassVar[str] = "codiemb"

    def validate(self, suite: Suite) -> None:
        super().validate(suite)
        as_objective(self.objective)  # type: ignore[arg-type]
        for task in suite.tasks:
            _check_task(task, suite)
        if self.training.accumulation > 1:
            raise InputError(
                "codiemb: training.accumulation would divide the batch that its losses look at; "
                "use smaller batches, or more processes"
            )
        mixture, world = as_mixture(self.mixture), self._engine().world  # type: ignore[arg-type]
        if world > 1 and not isinstance(mixture, Datasets | TaskBatches):
            raise InputError(
                f"codiemb: on {world} processes each batch is of one task, so that all have rows "
                "of it to gather: use mixture 'datasets(...)' or 'tasks(...)'"
            )

    def build(self, spec: Processor) -> CoDiEmbNet:
        return CoDiEmbNet(spec, self)

    def views(self, data: Batch) -> Rows:
        """The rows, with the candidates of each query in another order in every epoch."""
        tasks = [t for t in self.processor_.tasks if isinstance(t.kind, Retrieval)]
        columns = tuple(dict.fromkeys(task.texts[1] for task in tasks))
        return Shuffled(data, columns) if columns else data

    def embed(self, texts: Sequence[str], role: Role = "query") -> NDArray[np.float32]:
        """Unit vectors ``[N, d]`` of texts that ask, or of texts that are to be found."""
        if role not in get_args(Role):
            raise InputError(f"role {role!r} is neither 'query' nor 'document'")
        encoder, engine = self.text_encoder_, self._engine()
        module = self.module_.to(engine.device).eval()
        assert isinstance(module, CoDiEmbNet)
        with torch.inference_mode(), engine.autocast():
            found = embed_texts(
                texts, encoder.reader, lambda ids: module.embed(ids, role).last, engine.device
            )
        return found.numpy()

    def search(
        self,
        queries: Sequence[str],
        documents: Sequence[str] | NDArray[np.float32],
        k: int = 10,
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Cosines and positions ``[Q, k]`` of the best documents of every query, best first.

        Documents are texts, or their vectors ``embed(texts, "document")``, which may be kept.
        """
        if not isinstance(documents, np.ndarray):
            documents = self.embed(documents, "document")
        if not 1 <= k <= len(documents):
            raise InputError(f"k={k} of {len(documents)} documents cannot be found")
        scores = self.embed(queries) @ documents.T
        best = np.argpartition(-scores, k - 1, axis=1)[:, :k]
        ranked = np.take_along_axis(scores, best, 1).argsort(axis=1, kind="stable")[:, ::-1]
        best = np.take_along_axis(best, ranked, 1)
        return np.take_along_axis(scores, best, 1), best

    def save_beside(self, folder: Path) -> None:
        """What makes the folder a SentenceTransformer, too."""
        super().save_beside(folder)
        own = "sentence_transformers.models"
        modules = [("Transformer", FOLDER), ("Pooling", "1_Pooling"), ("Normalize", "2_Normalize")]
        listed = [
            {"idx": i, "name": str(i), "path": path, "type": f"{own}.{kind}"}
            for i, (kind, path) in enumerate(modules)
        ]
        pooling = {f"pooling_mode_{_POOLINGS[self.pooling]}": True}
        width = self.text_encoder_.width
        for name, content in {
            "modules.json": listed,
            f"{FOLDER}/sentence_bert_config.json": {"max_seq_length": self.text_encoder_.longest},
            "1_Pooling/config.json": {
                "word_embedding_dimension": width,
                **{f"pooling_mode_{mode}": False for mode in _POOLINGS.values()},
                **pooling,
                "include_prompt": self.pool_prompt,
            },
            "2_Normalize/config.json": {},
            "config_sentence_transformers.json": {
                "prompts": {"query": self.query_prompt, "document": self.document_prompt},
                "similarity_fn_name": "cosine",
            },
        }.items():
            path = folder / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(json.dumps(content, indent=1), "utf-8")

    @classmethod
    def from_sentence_transformers(cls, folder: str | os.PathLike[str], **settings: Any) -> Self:
        """A SentenceTransformer's folder, ready to ``embed``, ``search``, and to be fitted.

        Raises:
            InputError: a module in it is none of Transformer, Pooling and Normalize.
        """
        root = Path(folder)
        found: dict[str, str] = {}
        for module in _json(root / "modules.json", folder):
            kind = module["type"].rpartition(".")[2]
            if kind not in ("Transformer", "Pooling", "Normalize"):
                raise InputError(
                    f"{str(folder)!r} has a module {kind}, which codiemb does not have"
                )
            found[kind] = module["path"]
        for kind in ("Transformer", "Pooling"):
            if kind not in found:
                raise InputError(f"{str(folder)!r} has no module {kind}")
        place = root / found["Transformer"]
        pooling = _json(root / found["Pooling"] / "config.json", folder)
        told = _json(place / "sentence_bert_config.json", folder, {}).get("max_seq_length")
        read = _json(place / "tokenizer_config.json", folder, {}).get("model_max_length")
        prompts = _json(root / "config_sentence_transformers.json", folder, {}).get("prompts") or {}
        known = {
            "encoder": str(place),
            "max_length": int(min(told or read or _LONG, _LONG)),
            "pooling": _pooling(pooling, folder),
            "pool_prompt": pooling.get("include_prompt", True),
            "query_prompt": prompts.get("query") or "",
            "document_prompt": prompts.get("document") or "",
        }
        learner = cls(**{**known, **settings})
        reader = as_reader(learner.encoder, learner.max_length)
        learner.processor_ = Processor({}, {}, {}, (), reader=reader)
        learner.module_ = learner.build(learner.processor_).eval()
        return learner


def fuse(
    models: Sequence[str | os.PathLike[str]],
    base: str | os.PathLike[str],
    rule: str | Rule = "delta",
) -> CoDiEmb:
    """Fitted models of one base as one model, weighed per tensor; see ``parts.merging``.

    Args:
        models: folders of saved models; tasks and settings of the first are kept.
        base: what all were fitted from: an encoder as in ``CoDiEmb.encoder``.
        rule: ``"delta"``, ``"inverse"``, ``"softmax(beta=1.0)"``, ``"elementwise"``,
            ``"uniform"``.
    """
    if not models:
        raise InputError("there is no model to fuse")
    fitted = [CoDiEmb.from_pretrained(folder) for folder in models]
    first = fitted[0]
    start = as_text_encoder(str(base), as_reader(str(base), first.max_length))
    merged = merge([model.text_encoder_.state_dict() for model in fitted], start.state_dict(), rule)
    first.text_encoder_.load_state_dict(merged)
    return first


_LONG = 1 << 15  # where a tokenizer knows no end, the network's own applies
_POOLINGS = {
    "mean": "mean_tokens",
    "cls": "cls_token",
    "max": "max_tokens",
    "last": "lasttoken",
}


def _pooling(config: Mapping[str, Any], folder: Any) -> str:
    """Its name here, from a pooling's configuration of any age."""
    modes = [name for name, theirs in _POOLINGS.items() if config.get(f"pooling_mode_{theirs}")]
    new = config.get("pooling_mode")
    if new:
        modes = [n for n, theirs in _POOLINGS.items() if new in (theirs, theirs.split("_")[0])]
    if len(modes) != 1:
        raise InputError(f"{str(folder)!r} pools in a way that codiemb does not have")
    return modes[0]


def _json(path: Path, folder: Any, otherwise: Any = None) -> Any:
    try:
        return json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        if otherwise is not None:
            return otherwise
        raise InputError(
            f"{str(folder)!r} has no {path.name}: it is no SentenceTransformer's folder"
        ) from None
    except json.JSONDecodeError:
        raise InputError(f"file {str(path)!r} is damaged or truncated") from None


def _check_task(task: Task, suite: Suite) -> None:
    if isinstance(task.kind, Similarity):
        lists = [name for name in task.texts if suite.texts[name]]
        if lists or len(task.texts) != 2:
            what = f"column {lists[0]!r} holds several" if lists else f"reads {len(task.texts)}"
            raise InputError(
                f"{task}: a similarity is one scored pair of texts a row, but it {what}; negatives "
                "have no place in it"
            )
    elif isinstance(task.kind, Retrieval):
        labels = suite.labels(task, "train").to_pylist()
        for row, relevance in enumerate(labels):
            if relevance is not None and not any(relevance):
                raise InputError(
                    f"{task}, training row {row + 1}: the query has no relevant candidate, so that "
                    "nothing can be learned from it"
                )
    else:
        raise InputError(
            f"{task} is of kind {task.kind.name!r}; codiemb has no heads and answers similarity "
            "and retrieval (texts of one class can be each other's relevant candidates)"
        )
