"""Learner: what fits a suite and predicts any of its tasks; and the neural way to be one."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self, runtime_checkable

import numpy as np
import torch

from polytask.config import from_dict, to_dict
from polytask.data import (
    Augmented,
    Batch,
    Processor,
    Rows,
    Suite,
    as_augmentation,
    as_mixture,
)
from polytask.data.store import read_folder, write_folder
from polytask.data.texts import Reader, Texts
from polytask.errors import InputError
from polytask.tasks import Span, Task
from polytask.training.balancers import as_balancer
from polytask.training.engine import Engine
from polytask.training.loop import State, Training, predict, train
from polytask.training.module import MultiTaskModule
from polytask.training.scoring import score
from polytask.training.steps import as_step


@runtime_checkable
class Learner(Protocol):
    """Anything that fits a suite. Capabilities beside it are protocols of their own."""

    def fit(self, suite: Suite, *, out: Path | None = None) -> Self: ...

    def predict(self, inputs: Any, tasks: Sequence[str] | None = None) -> dict[str, np.ndarray]: ...

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None: ...


@runtime_checkable
class Incremental(Protocol):
    """A learner of a stream, with river's manners: one row at a time, or many in their order.

    A row ``x`` is a mapping from feature names to values; many rows ``X`` are an array ``[N, d]``,
    a data frame or an Arrow table, and ``y`` holds a label for each. A learner may also offer
    ``test_then_train(X, X_learn, y_learn)``, which answers as a loop of ``predict_one(X[i])`` and
    ``learn_one(X_learn[i], y_learn[i])`` would, faster.
    """

    def learn_one(self, x: Mapping[str, Any], y: Any) -> None: ...

    def predict_one(self, x: Mapping[str, Any]) -> Any: ...

    def predict_proba_one(self, x: Mapping[str, Any]) -> dict[Any, float]: ...

    def learn_many(self, X: Any, y: Any) -> None: ...

    def predict_many(self, X: Any) -> np.ndarray: ...

    def predict_proba_many(self, X: Any) -> np.ndarray: ...


@runtime_checkable
class Explains(Protocol):
    """A fitted learner that says what it found out about the tasks, as plain data."""

    def explain(self) -> dict[str, Any]: ...


class FittedMixin:
    """What neural and other learners share once fitted: predicting, scoring, describing.

    A class brings ``id`` (its name in the catalogue), ``processor_`` and
    ``_decoded(batch, tasks)``.

    Attributes:
        shares: whether several tasks of a suite share a model; if not, it is a rival to those.
        reads: what it takes: ``"table"`` (numbers, categories, arrays), ``"pictures"`` (then it
            answers tasks whose answer is a map, too), ``"text"``.
    """

    id: ClassVar[str]
    shares: ClassVar[bool] = False
    reads: ClassVar[tuple[str, ...]] = ("table",)
    processor_: Processor

    def _decoded(self, batch: Batch, tasks: Sequence[str]) -> dict[str, np.ndarray]:
        raise NotImplementedError

    def validate(self, suite: Suite) -> None:
        """Refuse, before anything is fitted, what cannot be fitted."""
        suite.validate()
        for what, columns, role, them in (
            ("pictures", tuple(suite.pictures), "picture", "them"),
            ("text", tuple(suite.texts), "text", "it"),
        ):
            if columns and what not in self.reads:
                raise InputError(
                    f"{self.id} reads no {what}, and column {columns[0]!r} holds {them}; "
                    "'polytask systems' says which learners do"
                )
            if what in self.reads and "table" not in self.reads and not columns:
                raise InputError(
                    f"{self.id} reads {what}, and this suite has none; of a column that holds "
                    f"{them} say inputs={{'COLUMN': {role!r}}}"
                )

    def predict(self, inputs: Any, tasks: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """Predictions per task for rows of a file, table, data frame or dict.

        Regression: values ``[N]`` in the task's unit. Classification: probabilities ``[N, C]`` in
        the order of ``task.kind.classes``. Dense kinds: maps ``[N, H, W]``, or ``[N, C, H, W]`` of
        normals and pictures, at the size the model works at (``processor_.size``). Kinds of text:
        scores ``[N]`` (similarity), words (span, generation), or an array per row (boundaries,
        tags, retrieval). Without ``tasks``, all whose text columns are there; of a row whose cell
        is empty in one of them the answer says nothing.
        """
        processor = self._fitted()
        names = self._names(processor.answerable(inputs) if tasks is None else tasks)
        found = self._decoded(processor.inputs(inputs, names), names)
        for name in names:
            task = processor.task(name)
            if isinstance(task.kind, Span) and found[name].dtype != object:
                found[name] = processor.spans(task, found[name], inputs)
        return found

    def score(self, suite: Suite, split: str = "test") -> dict[str, dict[str, float]]:
        """Every metric of every fitted task on one split."""
        processor, names = self._fitted(), self._names(None)
        kinds = {name: processor.task(name).kind for name in names}
        return score(kinds, processor.encode(suite, split), self._decoded)

    def _fitted(self) -> Processor:
        if getattr(self, "processor_", None) is None:
            raise InputError(f"{self.id} is not fitted yet; call fit(suite) first")
        return self.processor_

    def _names(self, tasks: Sequence[str] | None) -> tuple[str, ...]:
        processor = self._fitted()
        names = tuple(t.name for t in processor.tasks) if tasks is None else tuple(tasks)
        for name in names:
            processor.task(name)
        return names


@dataclass
class NeuralLearner(FittedMixin):
    """A network with shared parts, trained by the one loop.

    A system subclasses this as a dataclass, adds its hyper-parameters, and implements ``build``.

    Attributes:
        training: budget and optimiser.
        balancer: how losses become one update: text such as ``"cagrad(c=0.4)"``, or an object.
        step: how an update is made: ``"plain"``, ``"sam(rho=0.05)"``, ``"flat(rho=2.0)"``.
        mixture: which rows and tasks each batch holds: ``"joint"``, ``"tasks(temperature=0.5)"``,
            or an object.
        augment: random views of training rows: ``"none"``, ``"dense(flip=0.5, zoom=2.0)"`` for
            pictures and their maps, or an object.
    """

    training: Training = field(default_factory=Training)
    balancer: str | object = "sum"
    step: str | object = "plain"
    mixture: str | object = "joint"
    augment: str | object = "none"

    id: ClassVar[str] = "neural"
    shares: ClassVar[bool] = True

    def build(self, spec: Processor) -> MultiTaskModule:
        """The network for fitted inputs and tasks."""
        raise NotImplementedError

    def fit(
        self,
        suite: Suite,
        *,
        out: str | os.PathLike[str] | None = None,
        progress: Callable[[dict[str, Any]], None] = lambda record: None,
    ) -> Self:
        """Fit all tasks of the suite; ``out`` keeps a log and checkpoints to resume from."""
        self.validate(suite)
        self.processor_ = Processor.fit(suite, self.reader(suite))
        torch.manual_seed(self.training.seed)
        module = self.build(self.processor_)
        self.state_: State = self.learn(
            module,
            suite,
            step=as_step(self.step),  # type: ignore[arg-type]
            balancer=as_balancer(self.balancer),
            mixture=as_mixture(self.mixture),  # type: ignore[arg-type]
            engine=self._engine(),
            out=Path(out) if out else None,
            run=self._run(suite) if out else "",
            progress=progress,
        )
        self.module_ = module
        return self

    def learn(self, module: MultiTaskModule, suite: Suite, **how: Any) -> State:
        """Teach a fresh module: one run of the loop, with what ``train`` is told besides."""
        data = self.read(_labelled(self.processor_.encode(suite, "train")))
        validation = self.read(self.processor_.encode(suite, "validation"))
        for sentence in cut_texts(data, self.processor_.tasks):
            how["progress"]({"warning": sentence})
        self.before_training(module, data)
        return train(module, self.views(data), validation, self.training, **how)

    def validate(self, suite: Suite) -> None:
        super().validate(suite)
        self.training.validate()
        mixture = as_mixture(self.mixture)  # type: ignore[arg-type]
        mixture.check(suite.task_names)
        if as_augmentation(self.augment) is not None and not suite.pictures:
            raise InputError(f"augment={str(self.augment)!r} needs an input that is a picture")
        balancer, step = as_balancer(self.balancer), as_step(self.step)  # type: ignore[arg-type]
        self._engine().check(step, balancer)
        alone = len(suite.tasks) > 1 and getattr(mixture, "alone", False)
        if alone and balancer.needs != "losses":
            raise InputError(
                f"balancer {str(self.balancer)!r} weighs the gradients of a batch's tasks, and "
                f"mixture={str(self.mixture)!r} gives every batch one task; take mixture='joint' "
                "or 'tokens', or a balancer of losses"
            )

    def reader(self, suite: Suite) -> Reader | None:
        """What turns the suite's texts into tokens; None for learners that read none."""
        return None

    def read(self, data: Batch) -> Batch:
        """Encoded rows as the network sees them, in training and after."""
        return data

    def views(self, data: Batch) -> Rows:
        """The training rows as the loop sees them: themselves, or in random views."""
        augmentation = as_augmentation(self.augment)
        if augmentation is None:
            return data
        pictures = tuple(self.processor_.pictures)
        return Augmented(data, augmentation, pictures, self.processor_.tasks)

    def before_training(self, module: MultiTaskModule, data: Batch) -> None:
        """Hand a fresh module what it keeps of the training rows (a fixed context, say)."""

    @property
    def history_(self) -> list[dict[str, Any]]:
        return self.state_.history

    @property
    def parameters_(self) -> int:
        return sum(p.numel() for p in self.module_.parameters())

    def _run(self, suite: Suite) -> str:
        """What a checkpoint must agree with: settings and data, but not what is merely logged."""
        told = replace(self.training, trackers=(), checkpoint=0)
        content = [self.id, to_dict(replace(self, training=told)), suite.fingerprint]
        content.append(suite.task_names)
        return hashlib.blake2b(json.dumps(content).encode(), digest_size=16).hexdigest()

    def _engine(self) -> Engine:
        t = self.training
        return Engine(t.precision, t.accumulation, t.sharded, t.device)

    def _decoded(self, batch: Batch, tasks: Sequence[str]) -> dict[str, np.ndarray]:
        engine = Engine(self.training.precision, device=self.training.device)
        return predict(self.module_.to(engine.device), self.read(batch), tasks, engine)

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Config, processor and weights in one folder, atomically; loading needs all three."""
        processor = self._fitted()
        write_folder(
            folder,
            data={
                "config": {"system": self.id, "settings": to_dict(self)},
                "processor": processor.to_dict(),
            },
            tensors=self.module_.state_dict(),
        )

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike[str]) -> Self:
        data, tensors = read_folder(folder)
        learner = from_dict(cls, saved_settings(data, cls.id, folder), where=str(folder))
        learner.processor_ = Processor.from_dict(data["processor"])
        learner.module_ = learner.build(learner.processor_)
        learner.module_.load_state_dict(tensors)
        learner.module_.eval()
        return learner

    def with_seed(self, seed: int) -> Self:
        return replace(self, training=replace(self.training, seed=seed))


def saved_settings(data: dict[str, Any], system: str, folder: Any) -> dict[str, Any]:
    """The constructor settings in a model folder, refused if a part or the system is wrong."""
    for part in ("config", "processor"):
        if part not in data:
            raise InputError(f"model folder {str(folder)!r} has no {part}; it cannot be used")
    if data["config"]["system"] != system:
        raise InputError(
            f"model folder {str(folder)!r} holds a {data['config']['system']}, not a {system}"
        )
    return data["config"]["settings"]


def _labelled(data: Batch) -> Batch:
    """Rows with a label for at least one task; the others cannot teach anything."""
    any_label = torch.stack(list(data.masks.values())).any(0)
    return data if bool(any_label.all()) else data.take(any_label.nonzero().squeeze(1))


def cut_texts(data: Batch, tasks: Sequence[Task]) -> list[str]:
    """A sentence per task whose texts are longer than the network reads."""
    told = []
    for task in tasks:
        columns: list[Any] = [data.inputs.get(name) for name in task.texts]
        mine = (
            data.masks[task.name].numpy() if task.name in data.masks else np.zeros(len(data), bool)
        )
        cuts = [c.cut[mine] for c in columns if isinstance(c, Texts) and c.reader is not None]
        lost = np.sum(cuts, axis=0) if cuts else np.zeros(0)
        if lost.any():
            told.append(
                f"task {task.name!r}: {int((lost > 0).sum()):,} of {len(lost):,} training rows are "
                f"longer than the model reads and lose {int(lost.sum()):,} tokens"
            )
    return told
