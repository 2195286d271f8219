"""DSE: a cross-attentive pair model distilled into sentence vectors that can be kept.

Source: Barkan et al., "Scalable Attentive Sentence-Pair Modeling via Distilled Sentence Embedding",
    AAAI 2020 (first version 2019).
Year: 2020
Domain: text
Parts: text_encoders, lower_layers, pairs, retrieval, heads
For: scoring a query against very many fixed texts: vectors of these are made once and kept
Idea: a model that reads both sentences of a pair at once (the teacher) is exact and dear; a student
    with tied encoders learns its logits, and a small learned function of two vectors takes the
    place of the attention between the sentences.
Equations: layers H_1..H_D of the student's encoder on one sentence alone, k = 4
    e(x) = mean over tokens but the first of [H_(D-k+1); ..; H_D]             [B, k d]
    s = W_2 relu(W_1 [u; v; u*v; |u-v|] + b_1) + b_2,  u = e(a), v = e(b)     [B, out]
    L = (1 - c) L_task(s, y) + c mean_b sum_j (s_j - t_j)^2,  t = the teacher's logits
    of two classes s and t have one number, t = t_true - t_false, so that sigmoid(t) is the
    teacher's probability.
Input: two text columns per task, token ids [B, L] each; labels may be missing per task.
Output: dict task -> [B, out_t]; an index of candidates answers whole tables of queries.

Differs from the paper:
 (1) AdamW corrects its bias, BertAdam does not; warm-up and decay count updates. (The released code
     counts batches, so that with two of them per update its rate falls half as far as meant.)
 (2) Scores are learned on their kind's scale (a similarity from 0 to 1, a number standardised), by
     both terms, where the paper's STS-B stands on 0 to 5.
 (3) The teacher is asked for its predictions, as any learner is, and its logits follow from them.
     Logits of three or more classes are known but for a constant this way: their mean is 0. So a
     pair classifier of any library may teach.
 (4) Several tasks may share one student, with a head each; a teacher that is trained here is
     trained for each task alone, as in the paper. On a suite of one task this is the paper's.
 (5) The dot head scales u.v by 1/sqrt(d), and learns a factor and a constant.
 (6) Per query the weight of the product is folded into that of v, so nothing but v is kept of a
     candidate; the paper's authors do not say how they cache.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from polytask.catalogue import catalogue, load_system
from polytask.data import Batch, Processor, Rows, Suite
from polytask.data.store import read_folder, write_folder
from polytask.errors import InputError, nearest
from polytask.parts.heads import Heads
from polytask.parts.lower_layers import freeze_lower
from polytask.parts.pairs import as_pair_head
from polytask.parts.retrieval import Index, rescored
from polytask.parts.text_encoders import TextEncoder, TextLearner, as_text_encoder, embed_texts
from polytask.tasks import Classification, Kind, Regression, Similarity, Task
from polytask.tasks.kinds import masked_mean
from polytask.training import MultiTaskModule, Training
from polytask.training.loop import State
from polytask.training.saved import load

_KINDS = (Classification, Regression, Similarity)
_SURE = 30.0  # logits of chances of 0 and 1; float64 tells no more of them


# -- what the teacher knows ------------------------------------------------------------------------


def as_logits(kind: Kind, decoded: NDArray) -> Tensor:
    """Decoded predictions as the output ``[N, outputs]`` that decodes to them.

    Of two classes the log-odds of the second, which is t_true - t_false of a head of two logits; of
    more the log chances less their mean; of numbers their place on the kind's own scale.
    """
    values = torch.from_numpy(np.asarray(decoded, np.float64))
    if isinstance(kind, Classification):
        chances = values.log().clamp(min=-_SURE)
        if kind.outputs == 1:
            return (chances[:, 1:] - chances[:, :1]).clamp(-_SURE, _SURE).float()
        return (chances - chances.mean(1, keepdim=True)).float()
    if isinstance(kind, Regression):
        return ((values - kind.mean) / kind.std).unsqueeze(1).float()
    assert isinstance(kind, Similarity)
    return kind.scaled(values).unsqueeze(1).float()


def pair_keys(first: Sequence[str | None], second: Sequence[str | None]) -> Tensor:
    """A number ``[N]`` int64 for each pair of texts, by which its logits are found again."""
    keys = np.empty(len(first), np.int64)
    for row, pair in enumerate(zip(first, second, strict=True)):
        digest = hashlib.blake2b(json.dumps(pair).encode(), digest_size=8).digest()
        keys[row] = int.from_bytes(digest, "little", signed=True)
    return torch.from_numpy(keys)


@dataclass(frozen=True)
class PairFunction:
    """A function of two lists of texts in a teacher's place: a pair classifier of any library.

    Attributes:
        function: gives values ``[N]`` in the task's unit, or probabilities ``[N, C]`` in the order
            of the task's classes; of two classes the chance of the second ``[N]`` is enough.
        task: with a fitted kind.
    """

    function: Callable[[list[str], list[str]], Any]
    task: Task

    def predict(self, inputs: Any, tasks: Sequence[str]) -> dict[str, NDArray]:
        """As a learner does, for a mapping or a table with the task's two columns."""
        columns = (inputs[name] for name in self.task.texts)
        first, second = (c if isinstance(c, list) else c.to_pylist() for c in columns)
        found = np.asarray(self.function(first, second), np.float64)
        classes = getattr(self.task.kind, "classes", ())
        if len(classes) == 2 and found.ndim == 1:
            found = np.stack([1 - found, found], axis=1)
        wanted = (len(first), len(classes)) if classes else (len(first),)
        if found.shape != wanted:
            raise InputError(
                f"the teacher of {self.task} gave an array of shape {found.shape} for {len(first)} "
                f"pairs, not {wanted}"
            )
        if not np.isfinite(found).all() or (classes and not 0 <= found.min() <= found.max() <= 1):
            what = "chances from 0 to 1" if classes else "finite numbers"
            raise InputError(f"the teacher of {self.task} gave values that are no {what}")
        return {self.task.name: found}


class Logits(NamedTuple):
    """A teacher's logits on the training pairs of a task: ascending keys [n], values [n, o]."""

    keys: Tensor
    values: Tensor

    @classmethod
    def of(cls, keys: Tensor, values: Tensor) -> Self:
        order = keys.argsort()
        return cls(keys[order], values[order])

    def at(self, keys: Tensor, task: str) -> Tensor:
        """The logits of pairs in any order; a pair the teacher never saw is an error."""
        places = torch.searchsorted(self.keys, keys).clamp(max=len(self.keys) - 1)
        strange = int((self.keys[places] != keys).sum())
        if strange:
            raise InputError(
                f"task {task!r}: the teacher's logits lack {strange} of {len(keys)} training pairs;"
                " they were taken from other data"
            )
        return self.values[places]


# -- the student -----------------------------------------------------------------------------------


class Siamese(MultiTaskModule):
    """One encoder for both sentences, pooled over its top layers; a pair head per task."""

    def __init__(self, spec: Processor, config: DSE) -> None:
        super().__init__(spec.tasks)
        self.encoder = config.text_encoder(spec)
        freeze_lower(self.encoder.net, config.frozen)
        self.c = config.distillation
        self.top, self.layers = config.top, config.layers
        self.tokens, self.keep_first = config.tokens, config.keep_first
        if self.top > self.encoder.depth:
            raise InputError(
                f"top={self.top}, but the encoder {config.encoder!r} has {self.encoder.depth} "
                "layers"
            )
        width = self.encoder.width * (self.top if self.layers == "concat" else 1)
        self.projection = nn.Linear(width, config.project) if config.project else nn.Identity()
        self.width = config.project or width
        make = as_pair_head(config.head)
        self.heads = Heads({t.name: make(self.width, t.kind.outputs) for t in spec.tasks})

    def embed(self, ids: Tensor) -> Tensor:
        """Sentence vectors ``[B, width]`` of token ids ``[B, L]`` (-1 past the end)."""
        sequence = self.encoder.sequence(ids)
        top = self.encoder.layers(sequence)[-self.top :]
        states = torch.cat(top, dim=-1) if self.layers == "concat" else torch.stack(top).mean(0)
        if self.tokens == "cls":
            return self.projection(states[:, 0])
        mask = sequence.mask.bool()
        if not self.keep_first:  # [CLS]; models without one begin with the text
            mask = torch.cat([mask[:, :1] & sequence.content[:, :1], mask[:, 1:]], dim=1)
        return self.projection(_over_tokens(states, mask, self.tokens))

    def represent(  # type: ignore[override]
        self, inputs: dict[str, Tensor], tasks: Iterable[str]
    ) -> dict[str, Tensor]:
        """Vectors ``[B, width]`` of each text column that the tasks read; 0 where it is empty."""
        columns = dict.fromkeys(name for task in tasks for name in self.tasks[task].texts)
        return {name: self._column(inputs[name]) for name in columns}

    def _column(self, ids: Tensor) -> Tensor:
        there = (ids >= 0).any(1)
        if torch.compiler.is_exporting() or bool(there.all()):
            return self.embed(ids)
        vectors = ids.new_zeros(len(ids), self.width, dtype=torch.float32)
        if bool(there.any()):
            found = self.embed(ids[there])
            vectors = vectors.to(found.dtype).masked_scatter(there.unsqueeze(1), found)
        return vectors

    def answer(self, representation: dict[str, Tensor], task: str) -> Tensor:  # type: ignore[override]
        first, second = self.tasks[task].texts
        return self.heads[task](representation[first], representation[second])

    def losses_at(  # type: ignore[override]
        self, representation: dict[str, Tensor], batch: Batch
    ) -> dict[str, Tensor]:
        """(1 - c) L_task + c mean_b sum_j (s_j - t_j)^2 of every task of the batch."""
        losses = {}
        for name, target in batch.targets.items():
            mask = batch.masks[name]
            output = self.answer(representation, name).float()
            loss = (1 - self.c) * self.tasks[name].kind.loss(output, target, mask)
            if self.c:
                apart = (output - batch.inputs[taught(name)]).square().sum(1)
                loss = loss + self.c * masked_mean(apart, mask)
            losses[name] = loss * self.weights.get(name, 1.0)
        return losses


def _over_tokens(states: Tensor, mask: Tensor, how: str) -> Tensor:
    """``[B, L, d]`` to ``[B, d]`` over the tokens where the mask is True."""
    weight = mask.unsqueeze(-1)
    if how == "max":
        return states.masked_fill(~weight, -torch.inf).amax(1)
    total, count = (states * weight).sum(1), weight.sum(1).clamp(min=1)
    return total / (count.sqrt() if how == "sqrt" else count)


def taught(task: str) -> str:
    """Name of the input that holds the teacher's logits of a task."""
    return f"teacher of {task}"


# -- the learner -----------------------------------------------------------------------------------


class Hits(NamedTuple):
    """Per query its best candidates: scores ``[Q, k]``, best first, and their rows ``[Q, k]``."""

    scores: NDArray[np.float64]
    rows: NDArray[np.int64]


class Times(NamedTuple):
    """Seconds, for one query and an index of ``candidates``.

    Attributes:
        search: of the query with the whole index, its own encoding included.
        encode: of one candidate, once.
        pair: of the query with one candidate, by the teacher.
    """

    candidates: int
    search: float
    encode: float
    pair: float

    @property
    def faster(self) -> float:
        """How many times as fast a search is as the teacher on every pair."""
        return self.candidates * self.pair / self.search

    @property
    def worth(self) -> float:
        """Queries after which the index has paid for itself; infinite if it never does."""
        saved = self.candidates * self.pair - self.search
        return self.candidates * self.encode / saved if saved > 0 else float("inf")


@dataclass
class DSE(TextLearner):
    """Teacher, its logits, and a student with vectors that can be kept; see this file's head.

    Attributes:
        teacher: what the student learns from: the id of a learner that is trained here first, for
            each task alone, from the student's encoder; a model folder; a fitted learner; a
            function of two lists of texts (``PairFunction``); or a mapping from tasks to these. A
            run that is taken up again knows a function by its name, and a learner by its settings:
            give another teacher another ``out``.
        teaching: budget of a teacher that is trained here.
        distillation: c, the share of the teacher's logits in the loss; 0 needs no teacher.
        layers, top: the ``top`` last layers side by side, or their mean.
        tokens: mean, sum over the root of their number, or maximum over tokens, or the first one.
        keep_first: whether [CLS] counts among the tokens.
        project: width of a linear layer on the vector (0: none).
        head: ``"mlp(hidden=[512])"``, or ``"dot"`` for an index of inner products.
        frozen: lower layers of the encoder that keep their weights, and the embeddings with them; 0
            for these alone, -1 for none. It holds for a teacher that is trained here, too.
    """

    teacher: str | object = "cross_encoder"
    teaching: Training = field(
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
    distillation: float = 0.5
    layers: Literal["concat", "mean"] = "concat"
    top: int = 4
    tokens: Literal["mean", "sqrt", "max", "cls"] = "mean"
    keep_first: bool = False
    project: int = 0
    head: str = "mlp(hidden=[512])"
    frozen: int = -1
    training: Training = field(
        default_factory=lambda: Training(
            lr=2e-5,
            weight_decay=0.01,
            decay="matrices",
            clip=1.0,
            batch=32,
            accumulation=2,
            epochs=5,
            patience=5,
            schedule="linear(warmup=0.1)",
        )
    )

    id: ClassVar[str] = "dse"

    def build(self, spec: Processor) -> Siamese:
        return Siamese(spec, self)

    def text_encoder(self, spec: Processor) -> TextEncoder:
        """The student's encoder before it has learned anything."""
        return as_text_encoder(self.encoder, spec.reader)

    def validate(self, suite: Suite) -> None:
        super().validate(suite)
        self.teaching.validate()
        as_pair_head(self.head)
        if not 0 <= self.distillation <= 1:
            raise InputError(f"distillation is {self.distillation}, not a share from 0 to 1")
        if self.top < 1:
            raise InputError(f"top is {self.top}; at least the last layer must be read")
        for task in suite.tasks:
            if not isinstance(task.kind, _KINDS):
                raise InputError(
                    f"{self.id} answers {', '.join(k.name for k in _KINDS)}; task {task.name!r} "
                    f"is of kind {task.kind.name!r}"
                )
            if len(task.texts) != 2 or any(suite.texts[name] for name in task.texts):
                raise InputError(
                    f"{self.id} reads pairs, two text columns with one text each; task "
                    f"{task.name!r} reads {', '.join(map(repr, task.texts)) or 'none'}"
                )
            if self.distillation:
                self._given(task.name)

    def with_seed(self, seed: int) -> Self:
        return replace(super().with_seed(seed), teaching=replace(self.teaching, seed=seed))

    # -- learning

    def learn(self, module: MultiTaskModule, suite: Suite, **how: Any) -> State:
        self.__dict__.pop("fingerprint_", None)  # of weights that learn now
        self.teachers_: dict[str, Any] = {}
        self.logits_: dict[str, Logits] = {}
        if self.distillation:
            self._teach(suite, how)
        return super().learn(module, suite, **how)

    def _teach(self, suite: Suite, how: Mapping[str, Any]) -> None:
        """Teachers and their logits; those of a run that was stopped are taken up again."""
        out, run = how.get("out"), how.get("run", "")
        for number, task in enumerate(self.processor_.tasks):
            kept = Path(out) / f"teacher-{number}" if out else None
            if kept and (kept / "logits").exists():
                self.logits_[task.name] = _read_logits(kept / "logits", run)
                if (kept / "model").exists():
                    self.teachers_[task.name] = load(kept / "model")
                continue
            teacher = self._teacher(suite, task.name, how["progress"], kept)
            logits = teacher_logits(teacher, suite, task)
            self.teachers_[task.name], self.logits_[task.name] = teacher, logits
            if kept:
                if not isinstance(teacher, PairFunction):
                    teacher.save_pretrained(kept / "model")
                write_folder(
                    kept / "logits",
                    data={"logits": {"task": task.name, "run": run}},
                    tensors=logits._asdict(),
                )

    def _teacher(self, suite: Suite, task: str, progress: Any, out: Path | None) -> Any:
        """A fitted learner that answers the task."""
        given = self._given(task)
        if not isinstance(given, str):
            return _as_teacher(given, self.processor_.task(task))
        if Path(given).is_dir():
            return load(given)
        system = load_system(given)
        alike = {"encoder", "max_length", "vocabulary", "frozen"} & {f.name for f in fields(system)}
        fresh = system(training=self.teaching, **{name: getattr(self, name) for name in alike})
        return fresh.fit(
            suite.only(task),
            out=out / "fit" if out else None,
            progress=lambda record: progress({"stage": f"teacher of {task}", **record}),
        )

    def _given(self, task: str) -> Any:
        """What ``teacher`` says of a task: a learner, a function, a folder, a learner's id."""
        given = self.teacher
        if isinstance(given, Mapping):
            if task not in given:
                raise InputError(f"task {task!r} has no teacher; the mapping must name one")
            given = given[task]
        if isinstance(given, str):
            if not Path(given).is_dir() and given not in catalogue():
                raise InputError(
                    f"teacher {given!r} is neither a model folder nor a learner"
                    f"{nearest(given, catalogue())}"
                )
        elif hasattr(given, "processor_"):
            given.processor_.task(task)
        elif not callable(given):
            raise InputError(f"the teacher of task {task!r} is not fitted yet; call fit(suite)")
        return given

    def views(self, data: Batch) -> Rows:
        """The training rows with the teacher's logits beside them, found by their texts."""
        beside: dict[str, Any] = {}
        for name, logits in self.logits_.items():
            task = self.processor_.task(name)
            mine = data.masks[name]
            first, second = (data.inputs[c].strings[mine.numpy()] for c in task.texts)  # type: ignore[attr-defined]
            values = torch.zeros(len(data), task.kind.outputs)
            values[mine] = logits.at(pair_keys(first, second), name)
            beside[taught(name)] = values
        return super().views(replace(data, inputs={**data.inputs, **beside}))

    # -- many candidates

    def embed(self, texts: Sequence[str]) -> Tensor:
        """Sentence vectors ``[N, width]``, each text encoded once, in order of length."""
        encoder, engine = self.text_encoder_, self._engine()
        module: Any = self.module_.to(engine.device).eval()
        with torch.inference_mode(), engine.autocast():
            return embed_texts(texts, encoder.reader, module.embed, engine.device)

    def index(self, candidates: Sequence[str]) -> Index:
        """Vectors of the candidates, to be searched as often as wanted; ``save`` keeps them."""
        texts = list(candidates)
        return Index(self.embed(texts), texts, self.fingerprint_)

    def scores(self, queries: str | Sequence[str], index: Index, task: str = "") -> NDArray:
        """Predictions of a task for every query with every candidate of an index.

        Queries are the task's first text, candidates its second. Values ``[Q, M]``, or
        probabilities ``[Q, M, C]``, as ``predict`` would give for the pairs.
        """
        one = self._task(task)
        vectors = self.embed(_listed(queries))
        output = self._checked(index).scores(vectors, self._against(one.name))
        decoded = one.kind.decode(output.flatten(0, 1))
        return decoded.reshape(*output.shape[:2], *decoded.shape[1:])

    def search(
        self,
        queries: str | Sequence[str],
        index: Index,
        k: int = 10,
        *,
        task: str = "",
        of: Any = None,
        rescore: int = 0,
        teacher: Any = None,
    ) -> Hits:
        """The k candidates of the highest score, or chance of class ``of`` (by default the last).

        Args:
            rescore: so many candidates of the student are scored again by the teacher, and the best
                k of these are given, with the teacher's scores.
            teacher: who scores again; by default who taught this student.
        """
        asked = _listed(queries)
        one = self._task(task)
        column = _class_of(one.kind, of)
        if 0 < rescore < k:
            raise InputError(f"rescore={rescore} is fewer than the k={k} that are asked for")
        judge = self._judge(one.name, teacher) if rescore else None
        vectors, against = self.embed(asked), self._against(one.name)

        def score(queries: Tensor, candidates: Tensor) -> Tensor:
            return _ranked(one.kind, against(queries, candidates), column)

        found = self._checked(index).search(vectors, max(k, rescore), score)
        if judge is None:
            return Hits(_shown(one.kind, found.scores), found.rows.numpy())

        def again(query: int, rows: Tensor) -> Tensor:
            texts = [index.texts[row] for row in rows.tolist()]
            pairs = dict(zip(one.texts, ([asked[query]] * len(texts), texts), strict=True))
            decoded = judge.predict(pairs, [one.name])[one.name]
            return torch.from_numpy(decoded if column is None else decoded[:, column])

        best = rescored(found, again)
        return Hits(best.scores[:, :k].numpy(), best.rows[:, :k].numpy())

    def times(
        self,
        query: str,
        index: Index,
        *,
        task: str = "",
        teacher: Any = None,
        sample: int = 100,
        rounds: int = 3,
    ) -> Times:
        """What a query costs on this machine with these texts, the teacher's pairs beside it.

        The teacher scores the first ``sample`` candidates; all parts take turns, and the median of
        the rounds counts.
        """
        one = self._task(task)
        judge = self._judge(one.name, teacher)
        some = list(index.texts[:sample])
        pairs = dict(zip(one.texts, ([query] * len(some), some), strict=True))
        parts: dict[str, Callable[[], Any]] = {
            "search": lambda: self.search(query, index, task=one.name),
            "encode": lambda: self.embed(some),
            "pairs": lambda: judge.predict(pairs, [one.name]),
        }
        taken: dict[str, list[float]] = {name: [] for name in parts}
        for _ in range(rounds):
            for name, part in parts.items():
                started = time.perf_counter()
                part()
                taken[name].append(time.perf_counter() - started)
        median = {name: float(np.median(seconds)) for name, seconds in taken.items()}
        each = {name: median[name] / len(some) for name in ("encode", "pairs")}
        return Times(len(index), median["search"], each["encode"], each["pairs"])

    @cached_property
    def fingerprint_(self) -> str:
        """Names the weights that make vectors."""
        digest = hashlib.blake2b(digest_size=16)
        for name, tensor in self.module_.state_dict().items():
            if not name.startswith("heads."):
                digest.update(name.encode())
                digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy())
        return digest.hexdigest()

    def _against(self, task: str) -> Callable[[Tensor, Tensor], Tensor]:
        """Outputs ``[Q, M, outputs]`` of queries and candidates, on the learner's device and back.

        A score of ``parts.retrieval``.
        """
        device = self._engine().device
        head: Any = self.module_.eval().to(device).heads[task]
        return lambda q, c: head.against(q.to(device), c.to(device)).cpu()

    def _checked(self, index: Index) -> Index:
        if index.model != self.fingerprint_:
            raise InputError("the index was made by another model; call index(candidates) anew")
        return index

    def _task(self, name: str) -> Task:
        processor = self._fitted()
        if name:
            return processor.task(name)
        if len(processor.tasks) > 1:
            names = ", ".join(repr(task.name) for task in processor.tasks)
            raise InputError(f"this model has several tasks; say which: task= one of {names}")
        return processor.tasks[0]

    def _judge(self, task: str, teacher: Any) -> Any:
        judge = teacher or getattr(self, "teachers_", {}).get(task)
        if judge is None:
            raise InputError(
                f"nobody can rescore task {task!r}: a loaded model has no teacher, so say teacher="
            )
        judge = load(judge) if isinstance(judge, str | Path) else judge
        judge = _as_teacher(judge, self.processor_.task(task))
        _check_alike(judge, self.processor_.task(task))
        return judge


# -- small things ----------------------------------------------------------------------------------


def teacher_logits(teacher: Any, suite: Suite, task: Task) -> Logits:
    """A fitted learner's logits on the labelled training pairs of a task (with a fitted kind)."""
    _check_alike(teacher, task)
    table = suite.table("train")
    rows = table.filter(task.labels(table).is_valid())
    decoded = teacher.predict(rows, [task.name])[task.name]
    first, second = (rows[name].to_pylist() for name in task.texts)
    return Logits.of(pair_keys(first, second), as_logits(task.kind, decoded))


def _as_teacher(given: Any, task: Task) -> Any:
    """A learner as it is, a function as a ``PairFunction``."""
    return PairFunction(given, task) if callable(given) else given


def _check_alike(teacher: Any, task: Task) -> None:
    """Refuse a teacher of other classes, or of another kind of answer."""
    if isinstance(teacher, PairFunction):
        return  # it is known by what it gives
    theirs, ours = teacher.processor_.task(task.name).kind, task.kind
    classes = [getattr(kind, "classes", ()) for kind in (theirs, ours)]
    if theirs.name != ours.name or classes[0] != classes[1]:
        raise InputError(
            f"task {task.name!r}: the teacher answers {theirs.name} {classes[0] or ''}, the "
            f"student {ours.name} {classes[1] or ''}"
        )


def _read_logits(folder: Path, run: str) -> Logits:
    data, tensors = read_folder(folder)
    if data["logits"]["run"] != run:
        raise InputError(
            f"folder {str(folder)!r} holds logits of another run (other settings or data); choose "
            "another out"
        )
    return Logits(**tensors)


def _listed(queries: str | Sequence[str]) -> list[str]:
    return [queries] if isinstance(queries, str) else list(queries)


def _class_of(kind: Kind, of: Any) -> int | None:
    """Which class a search is for; None where the answer is a number."""
    if not isinstance(kind, Classification):
        if of is not None:
            raise InputError(f"of={of!r} names a class, and the task's answer is a number")
        return None
    if of is not None and of not in kind.classes:
        raise InputError(f"of={of!r} is none of the classes {', '.join(map(repr, kind.classes))}")
    return len(kind.classes) - 1 if of is None else kind.classes.index(of)


def _ranked(kind: Kind, output: Tensor, column: int | None) -> Tensor:
    """Outputs ``[..., o]`` as one number that grows with the answer: a logit, a log chance."""
    if column is None:
        return output.squeeze(-1)
    if kind.outputs == 1:
        return output.squeeze(-1) * (1 if column else -1)
    return output.log_softmax(-1)[..., column]


def _shown(kind: Kind, ranked: Tensor) -> NDArray[np.float64]:
    """What ``_ranked`` made as users read it: chances, or numbers in the task's unit."""
    if not isinstance(kind, Classification):
        return kind.decode(ranked.unsqueeze(-1))
    values = ranked.double()
    return (values.sigmoid() if kind.outputs == 1 else values.exp()).numpy()
