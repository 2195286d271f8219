"""Hoeffding trees of other libraries as pools: to compare with, or because one has them already.

A pool answers ``predict_proba(X) -> [n, E, C]`` and learns with ``learn(X, y, weights [n, E])``,
like ``hoeffding.TreePool``; these do so one call per tree and instance, and are slow for it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polytask.errors import InputError


@dataclass
class ForeignTrees:
    """A pool of trees of another library. ``begin`` sets it up for a stream.

    Attributes:
        grace: instances between two attempts to split.
        delta: one minus the confidence of a split.
    """

    grace: int = 50
    delta: float = 1e-7

    def begin(self, trees: int, values: NDArray, classes: int) -> None:
        """Fresh trees; ``values [F]`` is the number of values of nominal features, else 0."""
        self.values, self.classes = values, classes
        self.members = [self._tree() for _ in range(trees)]

    @property
    def trees(self) -> int:
        return len(self.members)

    def predict_proba(self, X: NDArray) -> NDArray:
        """Class chances ``[n, E, C]``; uniform where a tree knows nothing."""
        out = np.zeros((len(X), self.trees, self.classes))
        for i, x in enumerate(X):
            instance = self._instance(x, None)
            for e, tree in enumerate(self.members):
                self._votes(tree, instance, out[i, e])
        totals = out.sum(axis=2, keepdims=True)
        return np.where(totals > 0, out / np.where(totals > 0, totals, 1), 1 / self.classes)

    def learn(self, X: NDArray, y: NDArray, weights: NDArray) -> None:
        """Train each tree on the rows whose weight for it is not 0."""
        for x, label, row in zip(X, y.tolist(), weights, strict=True):
            instance = self._instance(x, label)
            for e in np.flatnonzero(row):
                self._train(self.members[e], instance, label)

    def _tree(self) -> Any:
        raise NotImplementedError

    def _instance(self, x: NDArray, label: int | None) -> Any:
        raise NotImplementedError

    def _votes(self, tree: Any, instance: Any, out: NDArray) -> None:
        raise NotImplementedError

    def _train(self, tree: Any, instance: Any, label: int) -> None:
        raise NotImplementedError


class RiverTrees(ForeignTrees):
    """``HoeffdingTreeClassifier`` of river."""

    def _tree(self) -> Any:
        try:
            from river.tree import HoeffdingTreeClassifier
        except ImportError:
            raise InputError("package 'river' is not installed; install river") from None
        nominal = np.flatnonzero(self.values).tolist()
        return HoeffdingTreeClassifier(
            grace_period=self.grace, delta=self.delta, nominal_attributes=nominal
        )

    def _instance(self, x: NDArray, label: int | None) -> dict[int, float]:
        return {i: value for i, value in enumerate(x.tolist()) if not math.isnan(value)}

    def _votes(self, tree: Any, instance: dict[int, float], out: NDArray) -> None:
        for label, chance in tree.predict_proba_one(instance).items():
            out[label] = chance

    def _train(self, tree: Any, instance: dict[int, float], label: int) -> None:
        tree.learn_one(instance, label)


class CapyMOATrees(ForeignTrees):
    """``HoeffdingTree`` of CapyMOA: MOA's, in Java, which must be there."""

    def begin(self, trees: int, values: NDArray, classes: int) -> None:
        try:
            from capymoa.stream import Schema
        except ImportError:
            raise InputError("package 'capymoa' is not installed; install capymoa") from None
        names = [f"x{i}" for i in range(len(values))]
        nominal = {n: [str(v) for v in range(k)] for n, k in zip(names, values, strict=True) if k}
        labels = [str(c) for c in range(classes)]
        self.schema = Schema.from_custom(
            [*names, "class"],
            values_for_nominal_features=nominal,
            values_for_class_label=labels,
            target_attribute_name="class",
        )
        super().begin(trees, values, classes)

    def _tree(self) -> Any:
        from capymoa.classifier import HoeffdingTree

        return HoeffdingTree(self.schema, grace_period=self.grace, confidence=self.delta)

    def _instance(self, x: NDArray, label: int | None) -> Any:
        from capymoa.instance import Instance, LabeledInstance

        if label is None:
            return Instance.from_array(self.schema, x)
        return LabeledInstance.from_array(self.schema, x, label)

    def _votes(self, tree: Any, instance: Any, out: NDArray) -> None:
        votes = np.asarray(tree.predict_proba(instance), float)
        out[: len(votes)] = votes

    def _train(self, tree: Any, instance: Any, label: int) -> None:
        tree.train(instance)
