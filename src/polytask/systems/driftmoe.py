"""DriftMoE: a router and a few Hoeffding trees that learn a drifting stream together.

Source: Aspis, Cajas Ordóñez, Suárez-Cetrulo, Simón Carbajo, "DriftMoE: A Mixture of Experts
    Approach to Handle Concept Drifts", SYNDAiTE workshop at ECML-PKDD 2025, arXiv 2507.18464.
Year: 2025
Domain: streams
Parts: hoeffding, online_mlp, instances
For: endless classification streams whose concept drifts, with labels soon after, in little memory
Idea: a small network, the router, picks for every instance the tree that answers. Once the label
    is there it learns which trees were right, and the trees that it ranked highest learn the label:
    regimes of the data find their experts, with no drift detector and no reset.
Equations (``mode="data"``): s = R(x); ŷ_e = arg max P_e(·|x); the answer is ŷ_e*, e* = arg max s_e.
    Mask m_e = 1[ŷ_e = y]; if nobody is right m_e = 1 for the largest P_e(y). Loss, one Adam step on
    256 instances: BCE(σ(s), m) averaged over instances and experts. The top K of s learn (x, y).
    (``mode="task"``): one binary tree per class, all learn (x, 1[y = c]); m is one-hot of y, a step
    per instance; answer arg max s (``combine="router"``) or arg max σ(s_c) P_c(1|x) ("expert").
    x: [d]   s, m: [E]   P_e: [C]   R: d -> 256 -> 128 -> E with ReLU.
Input: numbers and nominal values, one labelled instance after another.   Output: one class.

Differs from the paper:
 (1) In the reference's task mode dropout also acts while predicting; here it acts in updates only.
     In data mode it never acts, as in the reference, whose stored logits are those of evaluation.
 (2) The reference calls the combination of MoE-Task what is the router's answer alone; that is
     ``combine="router"``. ``combine="expert"`` lets the trees take part.
 (3) Expert answers have one chance per class, not one per expert.
 (4) The temperature 0.8 changes neither the answer nor who learns; ``route_many`` shows with it.
 (5) A missing value is 0 for the router and skipped by the trees. Classes may appear on the way: in
     task mode each brings a tree and an output of the router.
 (6) Off by default: ``standardise`` (the router sees running z-scores), ``class_weighted`` (the
     router's loss weighs classes by the inverse of their frequency so far), bounds on the trees.
"""

from __future__ import annotations

import copy
import math
import os
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from polytask.errors import InputError
from polytask.parts import online_mlp
from polytask.parts.compiled import njit
from polytask.parts.hoeffding import (
    TreePool,
    TreeSettings,
    answer,
    find_leaf,
    has_room,
    largest,
    learn,
    probabilities,
)
from polytask.parts.instances import Schema, StreamLearner, joined, parted
from polytask.parts.online_mlp import (
    Net,
    add_outputs,
    forward,
    new_net,
    note_scale,
    scaled_inputs,
    update,
)


class Options(NamedTuple):
    """DriftMoE's settings as the compiled code takes them."""

    per_class: bool
    vote: bool
    top: int
    dropout: float
    standardise: bool
    class_weighted: bool
    random: bool


class Notes(NamedTuple):
    """What the router has to remember: instances since its last update, and running statistics."""

    units: NDArray  # [B, d + hidden + E] float32, as ``forward`` fills them
    mask: NDArray  # [B, E] float32
    weight: NDArray  # [B] float32
    filled: NDArray  # [1] instances noted since the last update
    scale: NDArray  # [3, d] count, mean and sum of squared gaps of the router's inputs
    seen: NDArray  # [C] instances of every class
    chosen: NDArray  # [E] instances that the expert answered
    right: NDArray  # [1] instances that at least one expert had right


@njit
def _route(net, notes, options, x, units, dropout):
    """Fill ``units`` for one instance; the logits come last."""
    scaled_inputs(notes.scale, options.standardise, x, units)
    forward(net, units, dropout)
    if options.random:  # drawn from what has been seen, so that asking changes nothing
        at = np.uint64(net.random[0]) + np.uint64(notes.seen.sum())
        for e in range(notes.mask.shape[1]):
            at = (at ^ (at >> np.uint64(30)) ^ np.uint64(e)) * np.uint64(0xBF58476D1CE4E5B9)
            units[len(units) - notes.mask.shape[1] + e] = np.float32(at >> np.uint64(40))


@njit
def _chances(forest, rules, options, x, logits, scores):
    """Class chances into scores [C]; the answer."""
    if not options.per_class:
        leaf = find_leaf(forest, largest(logits), x, 0.0)
        return probabilities(forest, rules, leaf, x, scores)
    yes, total = np.empty(2), 0.0
    for c in range(len(scores)):
        scores[c] = 1 / (1 + math.exp(-logits[c]))
        if options.vote:
            probabilities(forest, rules, find_leaf(forest, c, x, 0.0), x, yes)
            scores[c] *= yes[1]
        total += scores[c]
    best = largest(scores) if options.vote else largest(logits)
    for c in range(len(scores)):
        scores[c] = scores[c] / total if total > 0 else 1 / len(scores)
    return best


@njit
def _mark(forest, rules, x, y, mask, scores):
    """Mask [E] of the experts that are right, or of the best one; whether any is right."""
    right = 0
    for e in range(len(mask)):
        label, _ = answer(forest, rules, find_leaf(forest, e, x, 0.0), x, scores)
        mask[e] = 1 if label == y else 0
        right += label == y
    if right == 0:
        best, most = 0, -1.0
        for e in range(len(mask)):
            probabilities(forest, rules, find_leaf(forest, e, x, 0.0), x, scores)
            if scores[y] > most:
                best, most = e, scores[y]
        mask[best] = 1
    return right > 0


@njit
def _note(net, notes, options, x, y):
    """Take the instance noted last into the statistics; an update when the block is full."""
    at = notes.filled[0]
    notes.seen[y] += 1
    share = notes.seen[y] / notes.seen.sum() * len(notes.seen)
    notes.weight[at] = 1 / share if options.class_weighted else 1
    note_scale(notes.scale, x)
    notes.filled[0] = (at + 1) % len(notes.weight)
    if notes.filled[0] == 0 and not options.random:
        update(net, notes.units, notes.mask, notes.weight, options.dropout)


@njit
def _learn(forest, rules, net, notes, options, x, y, scores):
    """One labelled instance; ``notes.units`` holds what the router says of it."""
    units, mask = notes.units[notes.filled[0]], notes.mask[notes.filled[0]]
    logits = units[len(units) - len(mask) :]
    notes.chosen[largest(logits)] += 1
    if options.per_class:
        for c in range(len(mask)):
            mask[c] = 1 if c == y else 0
            learn(forest, rules, c, x, 1 if c == y else 0, 1.0, scores)
    else:
        notes.right[0] += _mark(forest, rules, x, y, mask, scores)
        taken = np.zeros(len(mask), np.bool_)
        for _ in range(options.top):
            best = -1
            for e in range(len(mask)):
                if not taken[e] and (best < 0 or logits[e] > logits[best]):
                    best = e
            taken[best] = True
            learn(forest, rules, best, x, y, 1.0, scores)
    _note(net, notes, options, x, y)


@njit
def _pass(forest, rules, net, notes, options, X, X_learn, y, same, labels, start):
    """Label and learn rows from ``start`` on; returns the row at which trees ran short of room."""
    end = max(len(X), len(X_learn))
    asked = np.empty(notes.units.shape[1], np.float32)
    chances, experts = np.empty(len(notes.seen)), notes.mask.shape[1]
    scores = np.empty(forest.votes.shape[2])  # of a tree: two in task mode
    for i in range(start, end):
        if i < len(X_learn) and not has_room(forest):
            return i
        if i < len(X):
            _route(net, notes, options, X[i], asked, 0.0)
            logits = asked[len(asked) - experts :]
            labels[i] = _chances(forest, rules, options, X[i], logits, chances)
        if i < len(X_learn):
            units = notes.units[notes.filled[0]]
            if same and options.dropout == 0:
                units[:] = asked
            else:
                _route(net, notes, options, X_learn[i], units, options.dropout)
            _learn(forest, rules, net, notes, options, X_learn[i], y[i], scores)
    return end


@njit
def _chance_rows(forest, rules, net, notes, options, X, logits, out):
    units, experts = np.empty(notes.units.shape[1], np.float32), notes.mask.shape[1]
    for i in range(len(X)):
        _route(net, notes, options, X[i], units, 0.0)
        logits[i] = units[len(units) - experts :]
        _chances(forest, rules, options, X[i], logits[i], out[i])


@dataclass
class DriftMoE(StreamLearner):
    """A router over Hoeffding trees. Defaults are the paper's; see the head of the file.

    Attributes:
        mode: ``"data"``: experts of all classes for regimes of the data; ``"task"``: an expert for
            each class.
        combine: the answer in task mode, see above.
        experts: number of trees in data mode.
        top: K, the trees that learn an instance.
        hidden: units of the router's hidden layers.
        dropout: of the router's hidden units in updates of task mode.
        lr: Adam's step size.
        batch: instances per update of the router; 256 in data mode, 1 in task mode unless given.
        temperature: of the shares that ``route_many`` shows.
        standardise: the router sees running z-scores instead of raw numbers.
        class_weighted: the router's loss weighs rare classes up.
        routing: ``"random"`` picks experts by chance and never updates the router: a yardstick.
        tree: how the experts grow; memory is bounded with ``tree.max_leaves``.
        pool: trees of another library (``parts.foreign_trees``) instead; slow, and not saved.
    """

    mode: Literal["data", "task"] = "data"
    combine: Literal["router", "expert"] = "router"
    experts: int = 12
    top: int = 3
    hidden: tuple[int, ...] = (256, 128)
    dropout: float = 0.2
    lr: float = 2e-3
    batch: int | None = None
    temperature: float = 0.8
    standardise: bool = False
    class_weighted: bool = False
    routing: Literal["learned", "random"] = "learned"
    tree: TreeSettings = field(default_factory=lambda: TreeSettings(grace=50))
    pool: object | None = None

    id: ClassVar[str] = "driftmoe"

    def _begin(self, schema: Schema) -> None:
        self._check()
        task, classes = self.mode == "task", max(1, len(schema.classes))
        experts, width = (classes if task else self.experts), len(schema.features)
        batch = self.batch or (1 if task else 256)
        sizes = (width, *self.hidden, experts)
        self.net_: Net = new_net(sizes, self.lr, self.seed)
        self.pool_ = self._pool(experts, schema, 2 if task else classes)
        self.notes_ = Notes(
            units=np.zeros((batch, sum(sizes)), np.float32),
            mask=np.zeros((batch, experts), np.float32),
            weight=np.zeros(batch, np.float32),
            filled=np.zeros(1, np.int64),
            scale=np.zeros((3, width)),
            seen=np.zeros(classes, np.int64),
            chosen=np.zeros(experts, np.int64),
            right=np.zeros(1, np.int64),
        )
        self.options_ = Options(
            per_class=task,
            vote=task and self.combine == "expert",
            top=self.top,
            dropout=self.dropout if task else 0.0,
            standardise=self.standardise,
            class_weighted=self.class_weighted,
            random=self.routing == "random",
        )

    def _pool(self, trees: int, schema: Schema, classes: int) -> Any:
        if self.pool is None:
            return TreePool(trees, schema.values, classes, self.tree, self.seed)
        if not schema.closed:
            raise InputError("trees of another library cannot grow new classes; give classes")
        pool: Any = copy.copy(self.pool)
        pool.begin(trees, schema.values, classes)
        return pool

    def _check(self) -> None:
        self.tree.check()
        if self.mode == "data" and self.combine == "expert":
            raise InputError("combine 'expert' is for mode 'task'; in mode 'data' experts answer")
        if not 1 <= self.top <= self.experts:
            raise InputError(
                f"top is {self.top!r}; it must lie between 1 and experts, {self.experts!r}"
            )
        if not 0 <= self.dropout < 1:
            raise InputError(f"dropout is {self.dropout!r}; it must be at least 0 and below 1")
        for name in ("lr", "temperature"):
            if not getattr(self, name) > 0:
                raise InputError(f"{name} is {getattr(self, name)!r}; it must be above 0")
        if self.batch is not None and self.batch < 1:
            raise InputError(f"batch is {self.batch!r}; it must be at least 1")

    def _add_classes(self, classes: int) -> None:
        if (more := classes - len(self.notes_.seen)) <= 0:
            return
        notes = self.notes_._replace(seen=_padded(self.notes_.seen, more))
        if self.mode == "task":
            self.net_ = add_outputs(self.net_, more, self.seed)
            self.pool_.add_trees(more)
            notes = notes._replace(
                units=_padded(notes.units, more),
                mask=_padded(notes.mask, more),
                chosen=_padded(notes.chosen, more),
            )
        else:
            self.pool_.add_classes(more)
        self.notes_ = notes

    def _add_values(self, values: NDArray) -> None:
        if self.pool is not None:
            raise InputError(
                "trees of another library cannot grow new values; give them in nominal"
            )
        self.pool_.add_values(values)

    def _pass(self, X: NDArray, X_learn: NDArray, y: NDArray) -> NDArray:
        if self.pool is not None:
            return self._pass_outside(X, X_learn, y)
        labels, done, end = np.empty(len(X), np.int64), 0, max(len(X), len(X_learn))
        same, pool = X is X_learn, self.pool_
        while done < end:
            model = (pool.forest, pool.rules, self.net_, self.notes_, self.options_)
            done = _pass(*model, X, X_learn, y, same, labels, done)
            if done < end:
                pool.make_room()
        return labels

    def _probabilities(self, X: NDArray) -> NDArray:
        return self._ask(X)[1]

    def _ask(self, X: NDArray) -> tuple[NDArray, NDArray]:
        """The router's logits ``[n, E]`` and the class chances ``[n, C]``."""
        logits = np.empty((len(X), self.pool_.trees), np.float32)
        out = np.empty((len(X), len(self.notes_.seen)))
        router = (self.net_, self.notes_, self.options_)
        if self.pool is None:
            _chance_rows(self.pool_.forest, self.pool_.rules, *router, X, logits, out)
            return logits, out
        units = np.empty(self.notes_.units.shape[1], np.float32)
        for x, row in zip(X, logits, strict=True):
            _route(*router, x, units, 0.0)
            row[:] = units[-len(row) :]
        answers = self.pool_.predict_proba(X)
        if self.mode == "data":
            return logits, answers[np.arange(len(X)), logits.argmax(axis=1)]
        shares = 1 / (1 + np.exp(-logits.astype(np.float64)))
        shares *= answers[:, :, 1] if self.combine == "expert" else 1
        return logits, shares / shares.sum(axis=1, keepdims=True)

    def _pass_outside(self, X: NDArray, X_learn: NDArray, y: NDArray) -> NDArray:
        """``_pass`` with trees of another library."""
        labels = np.empty(len(X), np.int64)
        net, notes, options, pool = self.net_, self.notes_, self.options_, self.pool_
        for i in range(max(len(X), len(X_learn))):
            if i < len(X):
                labels[i] = self._ask(X[i : i + 1])[1][0].argmax()
            if i >= len(X_learn):
                continue
            x, at = X_learn[i : i + 1], notes.filled[0]
            mask, units = notes.mask[at], notes.units[at]
            _route(net, notes, options, x[0], units, options.dropout)
            ranking = np.argsort(-units[-len(mask) :], kind="stable")
            notes.chosen[ranking[0]] += 1
            if options.per_class:
                mask[:] = np.arange(len(mask)) == y[i]
                for c, only in enumerate(np.eye(len(mask))):
                    pool.learn(x, mask[c : c + 1].astype(np.int64), only[None])
            else:
                answers = pool.predict_proba(x)[0]
                mask[:] = answers.argmax(axis=1) == y[i]
                notes.right[0] += mask.any()
                if not mask.any():
                    mask[answers[:, y[i]].argmax()] = 1
                taught = np.isin(np.arange(len(mask)), ranking[: self.top])
                pool.learn(x, y[i : i + 1], taught[None].astype(np.float64))
            _note(net, notes, options, x[0], y[i])
        return labels

    def route_many(self, X: Any) -> NDArray:
        """The router's shares ``[n, E]``: softmax of its logits over the temperature."""
        logits = self._ask(self._schema(X).matrix(X))[0].astype(np.float64) / self.temperature
        shares = np.exp(logits - logits.max(axis=1, keepdims=True))
        return shares / shares.sum(axis=1, keepdims=True)

    @property
    def usage_(self) -> dict[str, Any]:
        """Share of instances that each expert answered; accuracy of the best possible choice.

        The latter, ``oracle``, is the share of instances that some expert had right (data mode).
        """
        learned = max(1, int(self.notes_.seen.sum()))
        oracle = float(self.notes_.right[0] / learned) if self.mode == "data" else None
        return {"shares": (self.notes_.chosen / learned).tolist(), "oracle": oracle}

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        if self.pool is not None:
            raise InputError("trees of another library cannot be saved; leave out pool")
        super().save_pretrained(folder)

    def _state(self) -> dict[str, NDArray]:
        parts = {
            "trees": self.pool_.state() if self.pool is None else {},
            "router": online_mlp.state(self.net_),
            "notes": self.notes_._asdict(),
        }
        return joined(parts)

    def _restore(self, state: dict[str, NDArray]) -> None:
        parts = parted(state)
        self.pool_.restore(parts["trees"])
        self.net_ = online_mlp.restored(parts["router"], self.lr)
        self.notes_ = Notes(**parts["notes"])

    @property
    def parameters_(self) -> int:
        """Weights of the routers and class weights of all leaves of our own trees."""
        models = self.models_.values()
        routers = sum(len(model.net_.weights) for model in models)
        return routers + sum(m.pool_.parameters for m in models if m.pool is None)


def _padded(array: NDArray, more: int) -> NDArray:
    """Zeros at the end of the last axis."""
    return np.concatenate([array, np.zeros((*array.shape[:-1], more), array.dtype)], axis=-1)
