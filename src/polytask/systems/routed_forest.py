"""A routed forest: DriftMoE's idea with what a drifting stream needs to keep up.

Source: this project; router and mask from DriftMoE (arXiv 2507.18464), Poisson weights from
    leveraging bagging (Bifet et al., ECML-PKDD 2010), features drawn per leaf from adaptive random
    forests (Gomes et al., Machine Learning 2017).
Year: 2026
Domain: streams
Parts: hoeffding, online_mlp, instances
For: drifting classification streams where accuracy counts and DriftMoE stays behind a forest
Idea: as in DriftMoE a small network learns, from a mask of who was right, which trees to trust for
    an instance. Four things are added: all trees answer, each with a weight; the router's trunk
    also learns the label, so that the network is one more expert; trees are made to differ; a tree
    that has lost its touch is replaced by a fresh one.
Equations: (s, z) = R(x), the input standardised as the stream passes; P_e(·|x) of tree e, and
    P_{E+1} = softmax(z). Weight w_e = σ(s_e)^g a_e^h with a_e the running accuracy of expert e; the
    answer is arg max Σ_e w_e P_e. Loss: BCE of (σ(s), σ(z)) against (mask, one-hot of y), one Adam
    step on a few instances. Every tree learns (x, y) with weight k ~ Poisson(λ). Every ``check``
    instances the worst tree is replaced if a_e < â_e − drop·sd, â_e its best so far,
    sd² = (a_e(1 − a_e) + â_e(1 − â_e)) / 2·memory.
    x: [d]   s: [E + 1]   z: [C]   R: d -> 128 -> 64 -> E + 1 + C with ReLU.
Input: numbers and nominal values, one labelled instance after another.   Output: one class.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from polytask.errors import InputError
from polytask.parts import online_mlp
from polytask.parts.compiled import njit
from polytask.parts.hoeffding import (
    TreePool,
    TreeSettings,
    find_leaf,
    has_room,
    largest,
    learn,
    plant,
    probabilities,
    random_unit,
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
    """The settings as the compiled code takes them."""

    top: int
    poisson: float
    gate: float
    skill: float
    network: bool
    memory: int
    check: int
    drop: float


class Notes(NamedTuple):
    """What is remembered beside trees and network; the last expert is the network."""

    units: NDArray  # [B, d + hidden + outputs] float32, as ``forward`` fills them
    target: NDArray  # [B, E + 1 + C] float32: who was right, then the label
    weight: NDArray  # [B] float32, ones
    filled: NDArray  # [1] instances noted since the network's last update
    scale: NDArray  # [3, d] running scale of the inputs
    accuracy: NDArray  # [E + 1] running accuracy
    age: NDArray  # [E + 1] instances since the expert began
    best: NDArray  # [E] the highest accuracy that a check has seen
    counts: NDArray  # [2] instances learned, trees replaced
    random: NDArray  # [1] state of the generator of the Poisson weights


@njit
def _poisson(random, mean):
    """A Poisson number, by inversion."""
    chance, number = math.exp(-mean), 0
    left = random_unit(random) - chance
    while left > 0 and number < 100:
        number += 1
        chance *= mean / number
        left -= chance
    return number


@njit
def _consult(forest, rules, net, notes, options, x, units, chances, answers, vote):
    """Ask everyone: chances [E + 1, C], answers [E + 1], the weighted vote [C]; the winner."""
    experts, classes = chances.shape
    scaled_inputs(notes.scale, True, x, units)
    forward(net, units, 0.0)
    outputs = units[len(units) - experts - classes :]
    for e in range(experts - 1):
        leaf = find_leaf(forest, e, x, 0.0)
        answers[e] = probabilities(forest, rules, leaf, x, chances[e])
    logits, own = outputs[experts:], chances[experts - 1]
    best = largest(logits)
    answers[experts - 1] = best
    total = 0.0
    for c in range(classes):
        own[c] = math.exp(logits[c] - logits[best])
        total += own[c]
    for c in range(classes):
        own[c] /= total
        vote[c] = 0.0
    for e in range(experts if options.network else experts - 1):
        gate = (1 / (1 + math.exp(-outputs[e]))) ** options.gate
        skill = notes.accuracy[e] if notes.age[e] > 0 else 1 / classes
        weight = gate * skill**options.skill
        for c in range(classes):
            vote[c] += weight * chances[e, c]
    total = 0.0
    for c in range(classes):
        total += vote[c]
    for c in range(classes):
        vote[c] = vote[c] / total if total > 0 else 1 / classes
    return largest(vote)


@njit
def _mark(notes, options, y, chances, answers, target):
    """Who is right, or the best of those who are not; accuracies; the label after it."""
    experts, classes = chances.shape
    asked = experts if options.network else experts - 1
    right, best = 0, 0
    for e in range(experts):
        hit = answers[e] == y
        target[e] = 1 if hit else 0
        right += hit and e < asked
        if e < asked and chances[e, y] > chances[best, y]:
            best = e
        notes.age[e] += 1
        notes.accuracy[e] += (hit - notes.accuracy[e]) / min(notes.age[e], options.memory)
    if right == 0:
        target[best] = 1
    for c in range(classes):
        target[experts + c] = 1 if c == y else 0


@njit
def _teach(forest, rules, notes, options, x, y, outputs, scores):
    """Trees learn with Poisson weights: all, or those that the router ranks highest."""
    trees = len(forest.roots)
    for e in range(trees):
        rank = 0
        for other in range(trees):
            rank += outputs[other] > outputs[e] or (outputs[other] == outputs[e] and other < e)
        if rank < options.top:
            weight = _poisson(notes.random, options.poisson) if options.poisson > 0 else 1
            if weight > 0:
                learn(forest, rules, e, x, y, float(weight), scores)


@njit
def _replace(forest, notes, options):
    """A fresh tree for the worst one, if it is well below its own best."""
    worst = 0
    for e in range(len(notes.best)):
        if notes.accuracy[e] < notes.accuracy[worst]:
            worst = e
    for e in range(len(notes.best)):
        if notes.age[e] < options.memory:
            continue
        now, best = notes.accuracy[e], notes.best[e]
        spread = math.sqrt((now * (1 - now) + best * (1 - best)) / (2 * options.memory))
        if e == worst and now < best - options.drop * spread:
            plant(forest, e)
            notes.accuracy[e], notes.best[e], notes.age[e] = 0.0, 0.0, 0
            notes.counts[1] += 1
        else:
            notes.best[e] = max(now, best)


@njit
def _pass(forest, rules, net, notes, options, X, X_learn, y, same, labels, start):
    """Label and learn rows from ``start`` on; returns the row at which trees ran short of room."""
    end, experts = max(len(X), len(X_learn)), len(notes.accuracy)
    classes = notes.target.shape[1] - experts
    asked = np.empty(notes.units.shape[1], np.float32)
    chances, answers = np.empty((experts, classes)), np.empty(experts, np.int64)
    vote, scores = np.empty(classes), np.empty(classes)
    for i in range(start, end):
        if i < len(X_learn) and not has_room(forest):
            return i
        model = (forest, rules, net, notes, options)
        if i < len(X):
            labels[i] = _consult(*model, X[i], asked, chances, answers, vote)
        if i >= len(X_learn):
            continue
        at = notes.filled[0]
        units, target = notes.units[at], notes.target[at]
        if same:
            units[:] = asked
        else:
            _consult(*model, X_learn[i], units, chances, answers, vote)
        outputs = units[len(units) - len(target) :]
        _mark(notes, options, y[i], chances, answers, target)
        _teach(forest, rules, notes, options, X_learn[i], y[i], outputs, scores)
        note_scale(notes.scale, X_learn[i])
        notes.filled[0] = (at + 1) % len(notes.weight)
        if notes.filled[0] == 0:
            update(net, notes.units, notes.target, notes.weight, 0.0)
        notes.counts[0] += 1
        if options.check > 0 and notes.counts[0] % options.check == 0:
            _replace(forest, notes, options)
    return end


@njit
def _vote_rows(forest, rules, net, notes, options, X, out):
    experts, classes = len(notes.accuracy), out.shape[1]
    units = np.empty(notes.units.shape[1], np.float32)
    chances, answers = np.empty((experts, classes)), np.empty(experts, np.int64)
    for i in range(len(X)):
        _consult(forest, rules, net, notes, options, X[i], units, chances, answers, out[i])


@dataclass
class RoutedForest(StreamLearner):
    """Trees and a network that vote, each with a weight for the instance at hand.

    Attributes:
        experts: number of trees.
        top: trees that learn an instance, those that the router ranks highest; all unless given.
            Fewer keep what they know when a concept comes back, and adapt later when it does not.
        poisson: λ, the mean weight of an instance for a tree; 0 for a weight of one.
        subspace: share of the features that a leaf observes.
        gate: power g of the router's say in the vote; 0 leaves it out.
        skill: power h of the running accuracy.
        network: whether the network's own answer takes part.
        hidden, lr, batch: the network's hidden layers, Adam's step size, instances per update.
        memory: instances that a running accuracy looks back on.
        check: instances between two looks for a tree to replace; 0 for none.
        drop: standard deviations below its best at which a tree is replaced.
        tree: how trees grow; memory is bounded with ``tree.max_leaves``.
    """

    experts: int = 12
    top: int | None = None
    poisson: float = 6.0
    subspace: float = 0.8
    gate: float = 4.0
    skill: float = 4.0
    network: bool = True
    hidden: tuple[int, ...] = (128, 64)
    lr: float = 5e-3
    batch: int = 8
    memory: int = 200
    check: int = 100
    drop: float = 3.0
    tree: TreeSettings = field(default_factory=lambda: TreeSettings(grace=50, delta=0.01))

    id: ClassVar[str] = "routed_forest"

    def _begin(self, schema: Schema) -> None:
        self._check()
        classes, width = max(1, len(schema.classes)), len(schema.features)
        drawn = max(1, round(self.subspace * width))
        tree = replace(self.tree, subspace=drawn if drawn < width else 0)
        sizes = (width, *self.hidden, self.experts + 1 + classes)
        self.net_: Net = new_net(sizes, self.lr, self.seed)
        self.pool_ = TreePool(self.experts, schema.values, classes, tree, self.seed)
        self.notes_ = Notes(
            units=np.zeros((self.batch, sum(sizes)), np.float32),
            target=np.zeros((self.batch, sizes[-1]), np.float32),
            weight=np.ones(self.batch, np.float32),
            filled=np.zeros(1, np.int64),
            scale=np.zeros((3, width)),
            accuracy=np.zeros(self.experts + 1),
            age=np.zeros(self.experts + 1, np.int64),
            best=np.zeros(self.experts),
            counts=np.zeros(2, np.int64),
            random=np.random.default_rng([self.seed, 1]).integers(2**63, size=1).astype(np.uint64),
        )
        self.options_ = Options(
            top=self.top or self.experts,
            poisson=self.poisson,
            gate=self.gate,
            skill=self.skill,
            network=self.network,
            memory=self.memory,
            check=self.check,
            drop=self.drop,
        )

    def _check(self) -> None:
        self.tree.check()
        if self.top is not None and not 1 <= self.top <= self.experts:
            raise InputError(
                f"top is {self.top!r}; it must lie between 1 and experts, {self.experts!r}"
            )
        if not 0 < self.subspace <= 1:
            raise InputError(f"subspace is {self.subspace!r}; it must be above 0 and at most 1")
        if not self.lr > 0:
            raise InputError(f"lr is {self.lr!r}; it must be above 0")
        least = {"experts": 1, "batch": 1, "memory": 1, "check": 0}
        for name in (*least, "poisson", "gate", "skill", "drop"):
            if not getattr(self, name) >= least.get(name, 0):
                value = getattr(self, name)
                raise InputError(f"{name} is {value!r}; it must be at least {least.get(name, 0)}")

    def _add_classes(self, classes: int) -> None:
        known = self.notes_.target.shape[1] - len(self.notes_.accuracy)
        if (more := classes - known) <= 0:
            return
        self.net_ = add_outputs(self.net_, more, self.seed)
        self.pool_.add_classes(more)
        wider = [(0, 0), (0, more)]
        self.notes_ = self.notes_._replace(
            units=np.pad(self.notes_.units, wider), target=np.pad(self.notes_.target, wider)
        )

    def _add_values(self, values: NDArray) -> None:
        self.pool_.add_values(values)

    def _pass(self, X: NDArray, X_learn: NDArray, y: NDArray) -> NDArray:
        labels, done, end = np.empty(len(X), np.int64), 0, max(len(X), len(X_learn))
        same, pool = X is X_learn, self.pool_
        while done < end:
            model = (pool.forest, pool.rules, self.net_, self.notes_, self.options_)
            done = _pass(*model, X, X_learn, y, same, labels, done)
            if done < end:
                pool.make_room()
        return labels

    def _probabilities(self, X: NDArray) -> NDArray:
        out = np.empty((len(X), self.pool_.classes))
        pool = self.pool_
        _vote_rows(pool.forest, pool.rules, self.net_, self.notes_, self.options_, X, out)
        return out

    @property
    def usage_(self) -> dict[str, Any]:
        """Running accuracy and age of the trees and, last, of the network; trees replaced."""
        return {
            "accuracy": self.notes_.accuracy.tolist(),
            "age": self.notes_.age.tolist(),
            "replaced": int(self.notes_.counts[1]),
        }

    def _state(self) -> dict[str, NDArray]:
        notes = {**self.notes_._asdict(), "random": self.notes_.random.view(np.int64)}
        parts = {
            "trees": self.pool_.state(),
            "router": online_mlp.state(self.net_),
            "notes": notes,
        }
        return joined(parts)

    def _restore(self, state: dict[str, NDArray]) -> None:
        parts = parted(state)
        parts["notes"]["random"] = parts["notes"]["random"].view(np.uint64)
        self.pool_.restore(parts["trees"])
        self.net_ = online_mlp.restored(parts["router"], self.lr)
        self.notes_ = Notes(**parts["notes"])

    @property
    def parameters_(self) -> int:
        """Weights of the networks and class weights of all leaves."""
        models = self.models_.values()
        return sum(len(model.net_.weights) + model.pool_.parameters for model in models)
