"""A Hoeffding tree: what a user of streams would try first.

Source: VFDT, Domingos & Hulten, KDD 2000; adaptive naive Bayes leaves, Holmes et al., PAKDD 2005.
Year: 2000
Domain: streams
Parts: hoeffding, instances
For: one tree per task that grows while instances pass; the yardstick of every stream learner
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from numpy.typing import NDArray

from polytask.parts.hoeffding import TreePool, TreeSettings
from polytask.parts.instances import Schema, StreamLearner


@dataclass
class HoeffdingTree(TreeSettings, StreamLearner):
    """One tree; its settings are those of ``TreeSettings``, its manners those of a stream learner.

    ``HoeffdingTree(smoothing=0, max_share=0.99)`` grows the tree of river's
    ``HoeffdingTreeClassifier``.
    """

    id: ClassVar[str] = "hoeffding_tree"

    def _begin(self, schema: Schema) -> None:
        self.pool_ = TreePool(1, schema.values, max(1, len(schema.classes)), self, self.seed)

    def _add_classes(self, classes: int) -> None:
        self.pool_.add_classes(classes - self.pool_.classes)

    def _add_values(self, values: NDArray) -> None:
        self.pool_.add_values(values)

    def _pass(self, X: NDArray, X_learn: NDArray, y: NDArray) -> NDArray:
        return self.pool_.test_then_train(X, X_learn, y)

    def _probabilities(self, X: NDArray) -> NDArray:
        return self.pool_.predict_proba(X)[:, 0]

    def _state(self) -> dict[str, NDArray]:
        return self.pool_.state()

    def _restore(self, state: dict[str, NDArray]) -> None:
        self.pool_.restore(state)

    @property
    def parameters_(self) -> int:
        """Class weights of all leaves: the numbers that answers are made of."""
        return sum(model.pool_.parameters for model in self.models_.values())
