"""Gradient boosting: what a user of tables would pick instead of a shared model.

Source: LightGBM, Ke et al., NeurIPS 2017; XGBoost, Chen & Guestrin, KDD 2016 (multi-output trees
    since version 2.0).
Year: 2017
Domain: tables
Parts:
For: the strongest rival on most tables; one model per task, or one of vector leaves
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from polytask.config import from_dict, to_dict
from polytask.data import Batch, Processor, Suite
from polytask.data.store import read_folder, write_folder
from polytask.errors import InputError
from polytask.tasks import Classification, Task
from polytask.training import FittedMixin
from polytask.training.learner import saved_settings


def _require(package: str) -> Any:
    import importlib

    try:
        return importlib.import_module(package)
    except ImportError:
        raise InputError(
            f"package {package!r} is not installed; install polytask[boosting]"
        ) from None


def _labels(batch: Batch, task: Task) -> tuple[NDArray, NDArray]:
    mask = batch.masks[task.name].numpy()
    return mask, batch.targets[task.name].numpy()[mask]


@dataclass
class _Booster(FittedMixin):
    """What both boosters share: encoding, saving as text, seeds."""

    rounds: int = 1000
    lr: float = 0.05
    patience: int = 50
    seed: int = 0
    threads: int = 1

    id: ClassVar[str]

    def fit(
        self,
        suite: Suite,
        *,
        out: str | os.PathLike[str] | None = None,
        progress: Callable[[dict[str, Any]], None] = lambda record: None,
    ) -> Self:
        self.validate(suite)
        self.processor_ = Processor.fit(suite)
        self.history_: list[dict[str, Any]] = []
        train, validation = (self.processor_.encode(suite, s) for s in ("train", "validation"))
        started = time.perf_counter()
        self.models_ = self._fit(train, validation)
        progress({"epoch": 0, "seconds": time.perf_counter() - started})
        return self

    def validate(self, suite: Suite) -> None:
        """Refuse, before anything is fitted, data that cannot be fitted."""
        super().validate(suite)

    def _fit(self, train: Batch, validation: Batch) -> dict[str, str]:
        """Boosters as text (JSON or LightGBM's own), by task or under one name."""
        raise NotImplementedError

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        write_folder(
            folder,
            data={
                "config": {"system": self.id, "settings": to_dict(self)},
                "processor": self._fitted().to_dict(),
                "boosters": self.models_,
            },
            tensors={},
        )

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike[str]) -> Self:
        data, _ = read_folder(folder)
        learner = from_dict(cls, saved_settings(data, cls.id, folder), where=str(folder))
        learner.processor_ = Processor.from_dict(data["processor"])
        learner.models_ = data["boosters"]
        return learner

    def with_seed(self, seed: int) -> Self:
        return replace(self, seed=seed)


@dataclass
class LightGBM(_Booster):
    """One LightGBM model per task, stopped early on validation.

    Attributes:
        rounds, lr, patience: boosting rounds at most, shrinkage, early-stopping rounds.
        leaves: leaves per tree.
    """

    leaves: int = 31

    id: ClassVar[str] = "lightgbm"

    def _fit(self, train: Batch, validation: Batch) -> dict[str, str]:
        lgb = _require("lightgbm")
        names = [str(i) for i in range(train[:1].matrix().shape[1])]
        first = sum(1 for _ in self.processor_.numeric)
        categorical = [str(first + i) for i in range(len(self.processor_.categorical))]
        x, x_validation = train.matrix(), validation.matrix()
        models = {}
        for task in self.processor_.tasks:
            mask, y = _labels(train, task)
            mask_validation, y_validation = _labels(validation, task)
            data = lgb.Dataset(
                x[mask], y, feature_name=names, categorical_feature=categorical, free_raw_data=True
            )
            booster = lgb.train(
                {
                    **self._objective(task),
                    "learning_rate": self.lr,
                    "num_leaves": self.leaves,
                    "seed": self.seed,
                    "bagging_fraction": 0.8,
                    "bagging_freq": 1,
                    "feature_fraction": 0.8,
                    "num_threads": self.threads,
                    "deterministic": True,
                    "verbosity": -1,
                },
                data,
                num_boost_round=self.rounds,
                valid_sets=[data.create_valid(x_validation[mask_validation], y_validation)],
                callbacks=[lgb.early_stopping(self.patience, verbose=False)],
            )
            models[task.name] = booster.model_to_string(num_iteration=booster.best_iteration)
        return models

    def _objective(self, task: Task) -> dict[str, Any]:
        if not isinstance(task.kind, Classification):
            return {"objective": "regression"}
        if task.kind.outputs == 1:
            return {"objective": "binary"}
        return {"objective": "multiclass", "num_class": task.kind.outputs}

    def _decoded(self, batch: Batch, tasks: Sequence[str]) -> dict[str, NDArray]:
        lgb = _require("lightgbm")
        x = batch.matrix()
        decoded = {}
        for name in tasks:
            booster = lgb.Booster(model_str=self.models_[name])
            values = booster.predict(x, num_threads=self.threads)
            kind = self.processor_.task(name).kind
            if isinstance(kind, Classification) and kind.outputs == 1:
                values = np.stack([1 - values, values], axis=1)
            decoded[name] = values
        return decoded

    @property
    def parameters_(self) -> int:
        """Leaf values of all trees: the numbers that were learned."""
        return sum(
            int(line.split("=")[1])
            for text in self.models_.values()
            for line in text.splitlines()
            if line.startswith("num_leaves=")
        )


@dataclass
class XGBoostMultiOutput(_Booster):
    """One XGBoost model with vector leaves for all tasks; needs tasks of one kind, no gaps.

    Attributes:
        depth: depth of the trees.
    """

    depth: int = 6

    id: ClassVar[str] = "xgboost"

    def validate(self, suite: Suite) -> None:
        super().validate(suite)
        fitted = [t.kind.fitted(suite.labels(t, "train")) for t in suite.tasks]
        kinds = {(kind.name, kind.outputs) for kind in fitted}
        if len(kinds) > 1 or next(iter(kinds))[1] != 1:
            raise InputError(
                "xgboost's vector leaves need tasks of one kind, all regressions or all yes/no; "
                f"this suite has {', '.join(sorted(name for name, _ in kinds))}"
            )

    def _fit(self, train: Batch, validation: Batch) -> dict[str, str]:
        xgb = _require("xgboost")
        tasks = self.processor_.tasks
        whole = {
            split: np.logical_and.reduce([b.masks[t.name].numpy() for t in tasks])
            for split, b in (("train", train), ("validation", validation))
        }
        if not (whole["train"].any() and whole["validation"].any()):
            raise InputError("xgboost's vector leaves need rows with labels for every task")

        def matrix(batch: Batch, rows: NDArray) -> Any:
            y = np.stack([self._scaled(t, batch) for t in tasks], axis=1)
            return xgb.DMatrix(batch.matrix()[rows], label=y[rows])

        objective = "reg:squarederror" if not self._yes_no() else "binary:logistic"
        booster = xgb.train(
            {
                "objective": objective,
                "multi_strategy": "multi_output_tree",
                "eta": self.lr,
                "max_depth": self.depth,
                "seed": self.seed,
                "nthread": self.threads,
                "tree_method": "hist",
                "verbosity": 0,
            },
            matrix(train, whole["train"]),
            num_boost_round=self.rounds,
            evals=[(matrix(validation, whole["validation"]), "validation")],
            early_stopping_rounds=self.patience,
            verbose_eval=False,
        )
        best = booster[: booster.best_iteration + 1]
        return {"all": best.save_raw(raw_format="json").decode()}

    def _yes_no(self) -> bool:
        return isinstance(self.processor_.tasks[0].kind, Classification)

    def _scaled(self, task: Task, batch: Batch) -> NDArray:
        y = batch.targets[task.name].numpy().astype(np.float32)
        return y if self._yes_no() else (y - task.kind.mean) / task.kind.std  # type: ignore[attr-defined]

    def _decoded(self, batch: Batch, tasks: Sequence[str]) -> dict[str, NDArray]:
        xgb = _require("xgboost")
        booster = xgb.Booster(model_file=bytearray(self.models_["all"], "utf-8"))
        values = booster.predict(xgb.DMatrix(batch.matrix())).reshape(len(batch), -1)
        decoded = {}
        for i, task in enumerate(self.processor_.tasks):
            if task.name not in tasks:
                continue
            if self._yes_no():
                decoded[task.name] = np.stack([1 - values[:, i], values[:, i]], axis=1)
            else:
                kind: Any = task.kind
                decoded[task.name] = values[:, i].astype(np.float64) * kind.std + kind.mean
        return decoded

    @property
    def parameters_(self) -> int:
        """Leaf values of all trees: leaves times tasks."""
        import json

        trees = json.loads(self.models_["all"])["learner"]["gradient_booster"]["model"]["trees"]
        leaves = sum(sum(1 for child in tree["left_children"] if child == -1) for tree in trees)
        return leaves * len(self.processor_.tasks)
