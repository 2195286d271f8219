"""What DriftMoE is measured against: CapyMOA's and river's learners, and itself written plainly.

CapyMOA runs MOA inside this process through JPype; `CapyMOA` gives it our rows and the manners of
a stream learner. `Straightforward` is DriftMoE as its sheet describes it, one row at a time, over
any trees and with a torch router: the peer of the compiled one, and the carrier of two references
(routing at random, and an oracle that routes every row right if any expert is).
"""

from __future__ import annotations

import gc
import os
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal, Protocol

import numpy as np
import torch

from polytask.data.streams import Stream
from polytask.parts.hoeffding import TreePool, TreeSettings

GRACE, CONFIDENCE = 50, 1e-7  # of DriftMoE's experts, and of the single tree beside them
Kind = Literal["tree", "ozabag", "levbag", "arf", "srp"]


def start_java() -> None:
    """One JVM of one thread, so that CPU seconds and cores are comparable."""
    os.environ.setdefault(
        "CAPYMOA_JVM_ARGS", "-Xmx2g -Xss10M -XX:+UseSerialGC -XX:ActiveProcessorCount=1"
    )
    import capymoa  # noqa: F401


class CapyMOA:
    """A CapyMOA learner on rows of arrays. A tree has the settings of DriftMoE's experts.

    Ensembles keep CapyMOA's own settings (base trees too) but for their number of members.
    """

    def __init__(self, kind: Kind, stream: Stream, *, members: int = 12, seed: int = 0) -> None:
        start_java()
        from capymoa import classifier as offered
        from capymoa.stream import Schema
        from com.yahoo.labs.samoa.instances import DenseInstance
        from java.lang import Runtime
        from jpype import JArray, JDouble
        from moa.core import InstanceExample, Utils

        self._runtime = Runtime.getRuntime()
        self._empty = self._heap()
        self._schema = Schema.from_custom(
            list(stream.features),
            {f: [str(v) for v in range(n)] for f, n in stream.nominal.items()},
            [str(c) for c in range(len(stream.classes))],
            dataset_name=stream.name,
            target_type="categorical",
        )
        self._header = self._schema.get_moa_header()
        self._java = (DenseInstance, InstanceExample, JArray(JDouble))
        self._best = Utils.maxIndex
        settings: dict[str, Any] = {"schema": self._schema, "random_seed": seed + 1}
        match kind:
            case "tree":
                made = offered.HoeffdingTree(**settings, grace_period=GRACE, confidence=CONFIDENCE)
            case "ozabag":
                made = offered.OnlineBagging(**settings, ensemble_size=members)
            case "levbag":
                made = offered.LeveragingBagging(**settings, ensemble_size=members)
            case "arf":
                made = offered.AdaptiveRandomForestClassifier(**settings, ensemble_size=members)
            case "srp":
                made = offered.StreamingRandomPatches(**settings, ensemble_size=members)
        self._learner = made.moa_learner
        self._classes = len(stream.classes)

    def test_then_train(self, X: np.ndarray, X_learn: np.ndarray, y: np.ndarray) -> np.ndarray:
        found = np.empty(len(X), dtype=np.int64)
        learn, votes = self._learner.trainOnInstance, self._learner.getVotesForInstance
        for i, x in enumerate(X):
            found[i] = self._best(votes(self._instance(x)))
            if i < len(y):
                learn(self._instance(X_learn[i], y[i]))
        return found

    def learn_many(self, X: np.ndarray, y: np.ndarray) -> None:
        for x, label in zip(X, y, strict=True):
            self._learner.trainOnInstance(self._instance(x, label))

    def probabilities(self, x: np.ndarray) -> np.ndarray:
        """Of one row, ``[C]``; uniform while there are no votes."""
        votes = np.zeros(self._classes)
        given = np.asarray(self._learner.getVotesForInstance(self._instance(x)))
        votes[: len(given)] = given[: self._classes]
        total = votes.sum()
        return votes / total if total > 0 else np.full(self._classes, 1 / self._classes)

    @property
    def nbytes(self) -> int:
        """Growth of the live Java heap since this learner was made."""
        return max(self._heap() - self._empty, 0)

    def _instance(self, x: np.ndarray, label: int | None = None) -> Any:
        dense, example, array = self._java
        values = array(np.append(x, 0.0))
        row = dense(1.0, values)
        row.setDataset(self._header)
        if label is not None:
            row.setClassValue(float(label))
        return example(row)

    def _heap(self) -> int:
        gc.collect()  # lets go of Java objects that only Python still held
        self._runtime.gc()
        return int(self._runtime.totalMemory() - self._runtime.freeMemory())


def river_model(kind: Literal["tree", "arf"], stream: Stream, *, members: int, seed: int) -> Any:
    """The same learner in river."""
    from river import forest, tree

    nominal = list(stream.nominal)
    if kind == "tree":
        return tree.HoeffdingTreeClassifier(
            grace_period=GRACE, delta=CONFIDENCE, nominal_attributes=nominal
        )
    return forest.ARFClassifier(n_models=members, seed=seed, nominal_attributes=nominal)


# -- DriftMoE, plainly ---------------------------------------------------------------------------


class Experts(Protocol):
    """A pool of trees, asked and taught one row at a time."""

    def probabilities(self, x: np.ndarray) -> np.ndarray:
        """Of every expert, ``[E, C]``."""

    def learn(self, x: np.ndarray, y: int, chosen: Sequence[int]) -> None: ...


class RiverTrees:
    def __init__(self, stream: Stream, members: int) -> None:
        self._trees = [river_model("tree", stream, members=1, seed=0) for _ in range(members)]
        self._features, self._classes = stream.features, len(stream.classes)

    def probabilities(self, x: np.ndarray) -> np.ndarray:
        row = self._row(x)
        found = np.zeros((len(self._trees), self._classes))
        for votes, tree in zip(found, self._trees, strict=True):
            given: Mapping[int, float] = tree.predict_proba_one(row)
            for label, value in given.items():
                votes[label] = value
            if not given:
                votes[:] = 1 / self._classes
        return found

    def learn(self, x: np.ndarray, y: int, chosen: Sequence[int]) -> None:
        row = self._row(x)
        for e in chosen:
            self._trees[e].learn_one(row, y)

    def _row(self, x: np.ndarray) -> dict[str, float]:
        return dict(zip(self._features, x.tolist(), strict=True))


class CapyTrees:
    def __init__(self, stream: Stream, members: int) -> None:
        self._trees = [CapyMOA("tree", stream, seed=e) for e in range(members)]

    def probabilities(self, x: np.ndarray) -> np.ndarray:
        return np.array([tree.probabilities(x) for tree in self._trees])

    def learn(self, x: np.ndarray, y: int, chosen: Sequence[int]) -> None:
        for e in chosen:
            self._trees[e].learn_many(x[None], np.array([y]))


class CompiledTrees:
    """Our pool, asked and taught one row at a time."""

    def __init__(self, stream: Stream, members: int) -> None:
        values = np.array([stream.nominal.get(f, 0) for f in stream.features], np.int32)
        settings = TreeSettings(grace=GRACE, delta=CONFIDENCE)
        self._pool = TreePool(members, values, len(stream.classes), settings, 0)

    def probabilities(self, x: np.ndarray) -> np.ndarray:
        return self._pool.predict_proba(x[None])[0]

    def learn(self, x: np.ndarray, y: int, chosen: Sequence[int]) -> None:
        weights = np.zeros((1, self._pool.trees))
        weights[0, chosen] = 1
        self._pool.learn(x[None], np.array([y]), weights)


class Straightforward:
    """MoE-Data by the sheet, without any thought of speed.

    Attributes:
        right_somewhere: rows so far that at least one expert had right: what an oracle that routes
            would score.
        asked: how often each expert gave the answer.
    """

    def __init__(
        self,
        stream: Stream,
        experts: Experts,
        *,
        members: int = 12,
        trained: int = 3,
        batch: int = 256,
        routing: Literal["learned", "random"] = "learned",
        seed: int = 0,
    ) -> None:
        torch.manual_seed(seed)
        width = (len(stream.features), 256, 128, members)
        layers: list[torch.nn.Module] = []
        for inputs, outputs in pairwise(width):
            layer = torch.nn.Linear(inputs, outputs)
            torch.nn.init.xavier_uniform_(layer.weight)
            torch.nn.init.zeros_(layer.bias)
            layers += [layer, torch.nn.ReLU()]
        self._router = torch.nn.Sequential(*layers[:-1])
        self._optimizer = torch.optim.Adam(self._router.parameters(), lr=2e-3)
        self._experts, self._routing = experts, routing
        self._trained, self._batch = trained, batch
        self._rng = np.random.default_rng(seed)
        self._stored: list[tuple[np.ndarray, np.ndarray]] = []
        self._last: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None
        self.right_somewhere = 0
        self.asked = np.zeros(members, dtype=np.int64)

    def test_then_train(self, X: np.ndarray, X_learn: np.ndarray, y: np.ndarray) -> np.ndarray:
        found = np.empty(len(X), dtype=np.int64)
        for i, x in enumerate(X):
            logits, votes = self._look(x)
            expert = int(logits.argmax())
            self.asked[expert] += 1
            found[i] = votes[expert].argmax()
            if i < len(y):
                self._learn(X_learn[i], int(y[i]))
        return found

    def learn_many(self, X: np.ndarray, y: np.ndarray) -> None:
        for x, label in zip(X, y, strict=True):
            self._learn(x, int(label))

    def _look(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Logits ``[E]`` and probabilities ``[E, C]``; kept, for a label often comes at once."""
        if self._last is None or not np.array_equal(self._last[0], x):
            if self._routing == "random":
                logits = self._rng.random(len(self.asked))
            else:
                with torch.no_grad():
                    logits = self._router(torch.from_numpy(x.astype(np.float32))).numpy()
            self._last = x, logits, self._experts.probabilities(x)
        return self._last[1], self._last[2]

    def _learn(self, x: np.ndarray, y: int) -> None:
        logits, votes = self._look(x)
        mask = (votes.argmax(axis=1) == y).astype(np.float32)
        if mask.any():
            self.right_somewhere += 1
        else:
            mask[votes[:, y].argmax()] = 1
        self._experts.learn(x, y, np.argsort(-logits, kind="stable")[: self._trained].tolist())
        self._last = None
        if self._routing == "learned":
            self._stored.append((x.astype(np.float32), mask))
            if len(self._stored) == self._batch:
                self._update()

    def _update(self) -> None:
        X, masks = (torch.from_numpy(np.array(part)) for part in zip(*self._stored, strict=True))
        loss = torch.nn.functional.binary_cross_entropy_with_logits(self._router(X), masks)
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()
        self._stored = []
