"""A-MTRL: which source tasks to buy labels from, for the sake of a target task.

Source: Wang, Chen, Jamieson, Du, "Improved Active Multi-Task Representation Learning via Lasso",
    ICML 2023, arXiv 2306.02556; the older rule: Chen, Du, Jamieson, ICML 2022.
Year: 2023
Domain: any
Parts: selection, lowrank, frozen, tabular, mlp
For: many source tasks, a small target task, and a budget for labels or for their price
Idea: a few labels of every source teach a first shared representation and a head for each task; the
    sparse combination of source heads that makes up the target's head says where the rest of the
    budget goes; then everything is learned again from all that was bought.
Equations: ν = argmin ½ ||W ν - w||² + λ Σ √c_t |ν_t|, n_t ∝ |ν_t| / √c_t between what is bought
    already and what there is (rule "l1"); ν = W⁺ w, n_t ∝ ν_t² (rule "l2", of 2022).
    x: [B, d]   φ(x): [B, k]   heads W: [k, M], w: [k]   see ``polytask.parts.selection``.
Input: numbers, categories, pictures; a data set per task or many labels per row.
Output: dict task -> values [N] or probabilities [N, C].

The suite's training labels are the pool that is bought from; a label that was not bought has no
influence. The target's own labels are free, validation labels of the target choose the strength of
its ridge (and the epoch of a network), those of the sources are never looked at.

Differs from the paper:
 (1) Every label weighs the same in the joint fit. Weights 1/n_t, which the paper's joint loss has,
     give a source at its floor of 10 labels the say of one with 1,000 and undo the plan (measured:
     benchmarks/a_mtrl.py).
 (2) Budgets are kept: the paper's max{N |ν_t| / ||ν||₁, floor} overspends by the floors.
 (3) λ is chosen on halves of the target's labels where these are 20 k or more, else it is
     0.01 max |Wᵀw|.
 (4) Heads are ridge regressions on standardised labels, or logistic regressions (one head per class
     where there are more than two), all in one whitened feature space; a task of several outputs
     counts with the norm of its ν. Tasks of both kinds may stand beside each other: their heads are
     compared as they are.
 (5) The linear representation first brings wide inputs to their leading principal directions.
 (6) A network learns its representation with the target among the sources, because the target's
     validation labels choose the epoch; batches are of one task, drawn as often as it has labels.
 (7) The target's last head is not plain least squares: strength of its ridge, and whether it is
     round or has the shape of the sources' heads, are chosen on validation.
 (8) Unsure in the sources, so arguments here: k, sizes of the network, floor, rounds.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from polytask.config import amounts, from_dict, to_dict
from polytask.data import Batch, Processor, Suite, TaskBatches
from polytask.data.store import flatten, read_folder, unflatten, write_folder
from polytask.errors import InputError, nearest
from polytask.parts.frozen import FrozenHead, fit_head
from polytask.parts.lowrank import low_rank
from polytask.parts.mlp import MLP
from polytask.parts.selection import (
    Ledger,
    Rule,
    SourcePlan,
    held_out_penalty,
    keep_labels,
    plan_sources,
)
from polytask.parts.tabular import FlatRow
from polytask.tasks import Classification, Task
from polytask.training import (
    Engine,
    FittedMixin,
    MultiTaskModule,
    Training,
    as_balancer,
    as_step,
    train,
)
from polytask.training.learner import saved_settings

_RIDGES = (0.01, 0.1, 1.0, 10.0, 100.0, 1000.0)  # of the target's head, chosen on validation
_CHUNK = 8192


class FeatureNet(MultiTaskModule):
    """A trunk of k features and a linear head per task, as in both papers."""

    has_feature = True

    def __init__(self, spec: Processor, tasks: Sequence[Task], config: AMTRL) -> None:
        super().__init__(tasks)
        shapes = {name: array.shape for name, array in spec.arrays.items()}
        if config.representation == "cnn":
            self.trunk: nn.Module = _TwoConvolutions(shapes, config.hidden[0], config.rank)
        else:
            row = FlatRow(len(spec.numeric), spec.cardinalities, shapes, width=8)
            self.trunk = nn.Sequential(row, MLP(row.out_features, config.hidden, config.rank))
        # One matrix for all heads: an optimiser's step costs by the number of parameters.
        ends = np.cumsum([0, *(t.kind.outputs for t in tasks)]).tolist()
        self.slices = {t.name: slice(*pair) for t, pair in zip(tasks, pairwise(ends), strict=True)}
        self.heads = nn.ModuleDict({"all": nn.Linear(config.rank, ends[-1])})

    def represent(self, inputs: dict[str, Tensor], tasks: Iterable[str]) -> Tensor:
        return self.trunk(inputs)

    def answer(self, representation: Tensor, task: str) -> Tensor:
        heads: Any = self.heads["all"]
        mine = self.slices[task]
        return F.linear(representation, heads.weight[mine], heads.bias[mine])


class _TwoConvolutions(nn.Module):
    """Two 3x3 convolutions with ReLU and pooling, and a layer to k features."""

    def __init__(self, shapes: Mapping[str, Sequence[int]], maps: int, out: int) -> None:
        super().__init__()
        ((self.column, shape),) = shapes.items()
        channels, *size = (1, *shape)[-3:]
        self.net = nn.Sequential(
            nn.Conv2d(channels, maps, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2, ceil_mode=True),
            nn.Conv2d(maps, 2 * maps, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2, ceil_mode=True),
            nn.Flatten(),
        )
        width = self.net(torch.zeros(1, channels, *size)).shape[1]
        self.net.append(nn.Linear(width, out))

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        picture = inputs[self.column]
        return self.net(picture.unsqueeze(1) if picture.ndim == 3 else picture)


@dataclass
class _Fitted:
    """What one target needs: raw inputs or a trunk, an affine map to features, heads."""

    matrix: NDArray[np.float64]
    offset: NDArray[np.float64]
    heads: dict[str, FrozenHead] = field(default_factory=dict)
    net: FeatureNet | None = None

    def features(self, batch: Batch, processor: Processor) -> NDArray[np.float64]:
        """φ(x) ``[N, k]``, float64; a block of rows at a time, for raw inputs may be wide."""
        rows = Batch(batch.inputs, {}, {})
        return np.concatenate(
            [
                self._raw(rows[slice(s, s + _CHUNK)], processor) @ self.matrix + self.offset
                for s in range(0, len(rows), _CHUNK)
            ]
        )

    def _raw(self, batch: Batch, processor: Processor) -> NDArray[np.float64]:
        if self.net is None:
            return _flat(batch, processor)
        self.net.eval()
        with torch.inference_mode():
            return self.net.represent(batch.inputs, ()).double().numpy()

    def after(self, first: _Fitted) -> _Fitted:
        """This map behind another one, as one map of the raw inputs."""
        offset = first.offset @ self.matrix + self.offset
        return replace(self, matrix=first.matrix @ self.matrix, offset=offset)

    def whiten(self, batch: Batch, processor: Processor) -> None:
        """Change the map so that these rows' features have mean 0 and covariance I."""
        features = self.features(batch, processor)
        mean = features.mean(0)
        values, vectors = np.linalg.eigh(np.cov(features.T, bias=True).reshape(len(mean), -1))
        # A direction that does not vary carries nothing; blown up it would carry rounding.
        keep = values > 1e-8 * max(values.max(), 1e-300)
        unit = vectors[:, keep] / np.sqrt(values[keep])
        self.matrix, self.offset = self.matrix @ unit, (self.offset - mean) @ unit


@dataclass
class AMTRL(FittedMixin):
    """Active choice of source tasks; see the head of this file.

    Attributes:
        target: the task that all is for; "" makes every task the target once, each with a budget,
            a plan and a representation of its own.
        budget: what the sources' labels may cost for one target: labels, or money with ``prices``.
        floor: labels of every source that are bought first, to explore.
        rule: "l1" (2023), "l2" (2022) or "uniform" (no plan: equal shares, and no exploration).
        representation: "linear" (low-rank regression), "mlp" or "cnn" (one picture column).
        rank: k, features of the representation.
        rounds: the budget beyond exploration is spent in so many steps, relevance estimated anew.
        penalty: λ of the Lasso, 0 for basis pursuit; None chooses it.
        prices, fees: "task=price" of a label, and of opening a source; 1 and 0 where none is said.
        max_sources: buy from so many sources beyond their floors (0: as many as the rule says).
        components: inputs of the linear representation at most.
        ridge: of the sources' heads and of the low-rank regression, in standardised units.
        hidden: layers of the MLP; its first is the width of the CNN.
        training: of a network.
        seed: of the labels that are drawn and of initial weights.
    """

    target: str = ""
    budget: float = 3000.0
    floor: int = 10
    rule: Rule = "l1"
    representation: Literal["linear", "mlp", "cnn"] = "linear"
    rank: int = 16
    rounds: int = 1
    penalty: float | None = None
    prices: tuple[str, ...] = ()
    fees: tuple[str, ...] = ()
    max_sources: int = 0
    components: int = 64
    ridge: float = 1.0
    hidden: tuple[int, ...] = (64,)
    training: Training = field(
        default_factory=lambda: Training(lr=3e-3, batch=32, epochs=40, patience=8)
    )
    seed: int = 0

    id: ClassVar[str] = "a_mtrl"
    shares: ClassVar[bool] = True

    def fit(
        self,
        suite: Suite,
        *,
        out: str | os.PathLike[str] | None = None,
        progress: Callable[[dict[str, Any]], None] = lambda record: None,
    ) -> Self:
        """Buy, learn, plan, buy and learn again, for each target."""
        self.validate(suite)
        for text in (*self.prices, *self.fees):
            # No error: a suite of fewer tasks is fitted with the prices of all.
            if (name := text.rpartition("=")[0]) not in suite.task_names:
                known = nearest(name, suite.task_names)
                progress({"warning": f"{text!r} is about no task of this suite{known}"})
        self.processor_ = Processor.fit(suite)
        pool, validation = (self.processor_.encode(suite, s) for s in ("train", "validation"))
        self.history_: list[dict[str, Any]] = []
        self.plans_: dict[str, SourcePlan] = {}
        self.ledgers_: dict[str, Ledger] = {}
        self.models_: dict[str, _Fitted] = {}
        reduced = None
        if self.representation == "linear":
            reduced = self._principal(pool)
            pool, validation = (
                replace(batch, inputs={"x": torch.from_numpy(x)})
                for batch in (pool, validation)
                for x in [reduced.features(batch, self.processor_)]
            )
        for epoch, target in enumerate(self._targets(suite)):
            started = time.perf_counter()
            model = self._fit(target, pool, validation)
            self.models_[target] = model if reduced is None else model.after(reduced)
            seconds = time.perf_counter() - started
            progress({"epoch": epoch, "target": target, "seconds": seconds})
        return self

    def validate(self, suite: Suite) -> None:
        """Refuse, before anything is fitted, data and settings that cannot be fitted."""
        super().validate(suite)
        self.training.validate()
        for name in ("budget", "floor", "rank", "rounds", "components", "ridge"):
            value = getattr(self, name)
            if not (np.isfinite(value) and value > 0):
                raise InputError(f"{name} is {value}; it must be a positive number")
        if self.max_sources < 0:
            raise InputError(f"max_sources is {self.max_sources}; it must not be negative")
        if self.representation == "cnn":
            processor = Processor.fit(suite)
            shapes = [a.shape for a in processor.arrays.values()]
            if len(processor.input_names) != 1 or [len(s) in (2, 3) for s in shapes] != [True]:
                raise InputError(
                    "representation 'cnn' reads exactly one picture column and nothing else"
                )
        names = suite.task_names
        prices, fees = _prices(self.prices, "prices", names), _prices(self.fees, "fees", names)
        has = {
            t.name: len(c) - c.null_count for t in suite.tasks for c in [suite.labels(t, "train")]
        }
        first = self.floor if self.rule != "uniform" else 1
        for target in self._targets(suite):
            sources = [name for name in names if name != target]
            least = sum(first * prices.get(s, 1.0) + fees.get(s, 0.0) for s in sources)
            if self.budget < least:
                raise InputError(
                    f"budget {self.budget:g} does not pay {first} labels of each of the "
                    f"{len(sources)} sources of {target!r}, which cost {least:g}; raise the budget "
                    "or lower the floor"
                )
            for source in sources:
                if has[source] < first:
                    raise InputError(
                        f"floor is {first} labels, but source {source!r} has only {has[source]}"
                    )

    def _targets(self, suite: Suite) -> tuple[str, ...]:
        if not self.target:
            return suite.task_names
        if self.target not in suite.task_names:
            raise InputError(
                f"target {self.target!r} is not a task of suite {suite.name!r}"
                f"{nearest(self.target, suite.task_names)}"
            )
        return (self.target,)

    # -- one target ------------------------------------------------------------------------------

    def _fit(self, target: str, pool: Batch, validation: Batch) -> _Fitted:
        counts = pool.counts
        sources = [t.name for t in self.processor_.tasks if t.name != target]
        held = validation.only([target])[validation.masks[target]]
        if sources:
            ledger = self.ledgers_[target] = Ledger(
                self.budget,
                _prices(self.prices, "prices", sources),
                _prices(self.fees, "fees", sources),
                {s: counts[s] for s in sources},
            )
            self._buy(target, ledger, pool, held)
            pool = keep_labels(pool, {s: ledger.counts.get(s, 0) for s in sources}, self.seed)
        fitted = self._represent(target, pool, held)
        heads = self._heads(sources, fitted, pool)
        own = self._best_head(target, fitted, pool, held, [h.weight for h in heads.values()])
        # With every task a target once, each source is answered where it is the target.
        fitted.heads = {**(heads if self.target else {}), target: own}
        return fitted

    def _buy(self, target: str, ledger: Ledger, pool: Batch, held: Batch) -> None:
        """Stage by stage; the plan of the last stage is the one that is kept."""
        sources = list(ledger.available)
        own = pool.counts[target]
        common: dict[str, Any] = {
            "prices": ledger.prices,
            "fees": ledger.fees,
            "available": ledger.available,
            "target_labels": own,
        }
        if self.rule == "uniform":
            nothing = {source: [0.0] for source in sources}
            plan = plan_sources(target, nothing, [0.0], self.budget, rule="uniform", **common)
            self._purchase("equal shares", plan, ledger)
            return
        for source in sources:
            ledger.buy("explore", source, self.floor)
        explored = ledger.spent
        for number in range(1, self.rounds + 1):
            bought = keep_labels(pool, ledger.counts, self.seed)
            fitted = self._represent(target, bought, held)
            heads = self._heads([target, *sources], fitted, bought)
            columns = {s: heads[s].weight for s in sources}
            plan = plan_sources(
                target,
                columns,
                heads[target].weight,
                explored + (self.budget - explored) * number / self.rounds,
                rule=self.rule,
                penalty=self._penalty(target, columns, fitted, bought),
                floor=ledger.counts,
                max_sources=self.max_sources or None,
                **common,
            )
            self._purchase("exploit" if self.rounds == 1 else f"exploit {number}", plan, ledger)

    def _purchase(self, stage: str, plan: SourcePlan, ledger: Ledger) -> None:
        had = ledger.counts
        for source, labels in plan.counts.items():
            ledger.buy(stage, source, labels - had.get(source, 0))
        self.plans_[plan.target] = plan

    def _penalty(
        self, target: str, columns: Mapping[str, NDArray], fitted: _Fitted, data: Batch
    ) -> float | None:
        """λ as given, or chosen on halves of the target's labels where these are enough."""
        if self.penalty is not None:
            return self.penalty
        own = data.counts[target]
        k = len(next(iter(columns.values())))
        if own < 20 * k:  # halves of fewer labels choose noise: too large a λ, too few sources
            return None
        first = keep_labels(data, {target: own // 2}, self.seed)
        rest = data.masks[target] & ~first.masks[target]
        second = replace(data, masks={**data.masks, target: rest})
        one, other = (self._heads([target], fitted, d)[target].weight for d in (first, second))
        dear = self.ledgers_[target].prices
        prices = [dear.get(s, 1.0) for s, head in columns.items() for _ in head.T]
        return held_out_penalty(np.hstack(list(columns.values())), one, other, prices)

    # -- representation and heads ----------------------------------------------------------------

    def _represent(self, target: str, data: Batch, held: Batch) -> _Fitted:
        """Learn φ from the labels of ``data``; whitened on all its rows, labelled or not."""
        if self.representation != "linear":
            fitted = self._network(data, held)
            fitted.whiten(data, self.processor_)
            return fitted
        x = _flat(data, self.processor_)  # already in principal directions
        fitted = _Fitted(np.eye(x.shape[1]), np.zeros(x.shape[1]))
        xs, ys = [], []
        for task in self.processor_.tasks:
            mask = data.masks[task.name].numpy()
            for column in _columns(task, data.targets[task.name].numpy()[mask]):
                if task.name != target and column.std() > 0:
                    rows = x[mask]
                    xs.append(rows - rows.mean(0))
                    ys.append((column - column.mean()) / column.std())
        if xs:
            basis, _ = low_rank(xs, ys, min(self.rank, x.shape[1], len(xs)), ridge=self.ridge)
            fitted = _Fitted(basis, np.zeros(basis.shape[1]))
            fitted.whiten(data, self.processor_)
        return fitted

    def _principal(self, data: Batch) -> _Fitted:
        """All inputs, centred, or their leading principal directions where they are many."""
        from scipy.linalg import eigh

        rows = Batch(data.inputs, {}, {})
        total: Any = 0.0
        products: Any = 0.0
        for start in range(0, len(rows), _CHUNK):
            x = _flat(rows[slice(start, start + _CHUNK)], self.processor_)
            total, products = total + x.sum(0), products + x.T @ x
        mean = total / len(rows)
        width = len(mean)
        if width <= self.components:
            return _Fitted(np.eye(width), -mean)
        scatter = products - len(rows) * np.outer(mean, mean)
        _, vectors = eigh(scatter, subset_by_index=[width - self.components, width - 1])
        return _Fitted(vectors, -mean @ vectors)

    def _network(self, data: Batch, held: Batch) -> _Fitted:
        tasks = [
            _scaled(t, data.targets[t.name].numpy()[data.masks[t.name].numpy()])
            for t in self.processor_.tasks
            if data.counts[t.name]
        ]
        torch.manual_seed(self.seed)
        net = FeatureNet(self.processor_, tasks, self)
        labelled = torch.stack(list(data.masks.values())).any(0)
        train(
            net,
            data.only(t.name for t in tasks)[labelled],
            held,
            replace(self.training, seed=self.seed),
            step=as_step("plain"),
            balancer=as_balancer("sum"),
            mixture=TaskBatches(),
            engine=Engine(self.training.precision, device=self.training.device),
        )
        return _Fitted(np.eye(self.rank), np.zeros(self.rank), net=net.cpu())

    def _heads(self, names: Sequence[str], fitted: _Fitted, data: Batch) -> dict[str, FrozenHead]:
        features = fitted.features(data, self.processor_)
        heads = {}
        for name in names:
            mask = data.masks[name].numpy()
            y = data.targets[name].numpy()[mask]
            heads[name] = fit_head(self.processor_.task(name), features[mask], y, self.ridge)
        return heads

    def _best_head(
        self, target: str, fitted: _Fitted, data: Batch, held: Batch, sources: list[NDArray]
    ) -> FrozenHead:
        """The target's head with the ridge that does best on its validation labels.

        The ridge is round, or has the shape of the sources' heads: less where they are large.
        """
        task, mask = self.processor_.task(target), data.masks[target].numpy()
        x, y = fitted.features(data, self.processor_)[mask], data.targets[target].numpy()[mask]
        shapes = [np.eye(x.shape[1])]
        if sources:
            heads = np.hstack(sources)
            values, vectors = np.linalg.eigh(heads @ heads.T / heads.shape[1])
            shapes.append((vectors * np.sqrt(values.clip(min=0))) @ vectors.T)
        candidates = []
        for shape in shapes:
            for ridge in _RIDGES:
                head = fit_head(task, x @ shape, y, ridge)
                candidates.append(head._replace(weight=shape @ head.weight))
        unseen = fitted.features(held, self.processor_)
        losses = [head.loss(task, unseen, held.targets[target]) for head in candidates]
        return candidates[int(np.argmin(losses))]

    # -- using it --------------------------------------------------------------------------------

    def _decoded(self, batch: Batch, tasks: Sequence[str]) -> dict[str, NDArray]:
        decoded, features = {}, {}
        for name in tasks:
            model = self.target or name
            if model not in features:
                features[model] = self.models_[model].features(batch, self.processor_)
            head = self.models_[model].heads[name]
            decoded[name] = head.values(self.processor_.task(name), features[model])
        return decoded

    def explain(self) -> dict[str, Any]:
        """Target -> a sentence, the plan (``plan``) and what was spent (``ledger``)."""
        self._fitted()
        return {
            target: {
                "sentence": plan.sentence,
                "plan": plan.to_dict(),
                "ledger": self.ledgers_[target].to_dict(),
            }
            for target, plan in self.plans_.items()
        }

    @property
    def parameters_(self) -> int:
        """Numbers learned for answering: maps to features, networks, heads."""
        total = 0
        for model in self.models_.values():
            total += model.matrix.size + model.offset.size
            total += sum(h.weight.size + h.bias.size for h in model.heads.values())
            if model.net is not None:
                total += sum(p.numel() for p in model.net.trunk.parameters())
        return total

    def with_seed(self, seed: int) -> Self:
        return replace(self, seed=seed)

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        processor = self._fitted()
        models, tensors = flatten({t: _to_tensors(m) for t, m in self.models_.items()})
        write_folder(
            folder,
            data={
                "config": {"system": self.id, "settings": to_dict(self)},
                "processor": processor.to_dict(),
                "models": models,
                "plans": {t: plan.to_dict() for t, plan in self.plans_.items()},
                "ledgers": {t: ledger.to_dict() for t, ledger in self.ledgers_.items()},
            },
            tensors=tensors,
        )

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike[str]) -> Self:
        data, tensors = read_folder(folder)
        learner = from_dict(cls, saved_settings(data, cls.id, folder), where=str(folder))
        learner.processor_ = Processor.from_dict(data["processor"])
        learner.plans_ = {t: SourcePlan.from_dict(p) for t, p in data["plans"].items()}
        learner.ledgers_ = {t: Ledger.from_dict(entry) for t, entry in data["ledgers"].items()}
        stored = unflatten(data["models"], tensors)
        learner.models_ = {t: learner._from_tensors(m) for t, m in stored.items()}
        return learner

    def _from_tensors(self, stored: Mapping[str, Any]) -> _Fitted:
        heads = {
            name: FrozenHead(h["weight"].numpy(), h["bias"].numpy(), h["mean"], h["scale"])
            for name, h in stored["heads"].items()
        }
        fitted = _Fitted(stored["matrix"].numpy(), stored["offset"].numpy(), heads)
        if stored["trunk"]:
            fitted.net = FeatureNet(self.processor_, self.processor_.tasks, self)
            fitted.net.trunk.load_state_dict(stored["trunk"])
        return fitted


def _flat(batch: Batch, processor: Processor) -> NDArray[np.float64]:
    """All inputs side by side: numbers, categories as 0/1 columns, arrays."""
    parts = []
    for name, tensor in batch.inputs.items():
        if name == "categorical":
            for codes, size in zip(tensor.numpy().T, processor.cardinalities, strict=True):
                parts.append(np.eye(size)[codes])
        else:
            parts.append(tensor.numpy().reshape(len(batch), -1).astype(np.float64))
    return np.concatenate(parts, axis=1)


def _columns(task: Task, y: NDArray) -> list[NDArray]:
    """What the linear representation regresses on: the number, or each class against the rest."""
    if not isinstance(task.kind, Classification):
        return [y.astype(np.float64)]
    classes = range(len(task.kind.classes))
    return [(y == c).astype(np.float64) for c in (classes if task.kind.outputs > 1 else [1])]


def _scaled(task: Task, y: NDArray) -> Task:
    """The task with the scale of the labels that were bought, not of the whole pool."""
    if isinstance(task.kind, Classification):
        return task
    kind: Any = task.kind
    kind = replace(kind, mean=float(y.mean()), std=float(y.std()) or 1.0)
    return replace(task, kind=kind)


def _prices(texts: Sequence[str], what: str, names: Sequence[str]) -> dict[str, float]:
    """``("task=2.5", ...)`` as a mapping; names that are not asked for are passed over."""
    found = amounts(texts, what, above_zero=what == "prices")
    return {name: number for name, number in found.items() if name in names}


def _to_tensors(model: _Fitted) -> dict[str, Any]:
    return {
        "matrix": torch.from_numpy(np.ascontiguousarray(model.matrix)),
        "offset": torch.from_numpy(np.ascontiguousarray(model.offset)),
        "trunk": {} if model.net is None else dict(model.net.trunk.state_dict()),
        "heads": {
            name: {
                "weight": torch.from_numpy(np.ascontiguousarray(head.weight)),
                "bias": torch.from_numpy(np.ascontiguousarray(head.bias)),
                "mean": head.mean,
                "scale": head.scale,
            }
            for name, head in model.heads.items()
        },
    }
