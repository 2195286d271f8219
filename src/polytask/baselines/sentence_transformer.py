"""Fine-tuning as users of sentence-transformers do it: its trainer, its losses, one encoder.

Source: Sentence-BERT, Reimers & Gurevych, EMNLP 2019 (arXiv 1908.10084); the library's own trainer.
Year: 2019
Domain: text
Parts: sentence_probe, frozen
For: what you would pick otherwise for sentence vectors, similarity and retrieval

| task | data set | loss of the library |
| --- | --- | --- |
| similarity of two texts | (a, b, score in 0..1) | CoSENT, or cosine similarity |
| retrieval | (query, relevant, not relevant) | multiple negatives ranking |
| classes of two texts | (a, b, class) | softmax over (u, v, |u - v|) |
| classes of a text; tags of sentences | (text, class) | all triplets of a batch |
| boundaries of sections | (sentence, next one, ends) | softmax over (u, v, |u - v|) |

Several tasks are several named data sets with a loss each, batches in proportion to their sizes.
After each epoch the answers are read off the vectors (``parts/sentence_probe.py``: cosines, and
linear heads fitted on training rows); the epoch that answers validation rows best is kept. A task
of numbers trains nothing and has its head only.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray

from polytask.config import from_dict, to_dict
from polytask.data import Batch, Processor, Suite
from polytask.data.store import read_folder, write_folder
from polytask.errors import InputError
from polytask.parts.sentence_probe import (
    Probe,
    Vectors,
    check,
    fit_probes,
    from_tensors,
    labelled,
    predicted,
    to_tensors,
)
from polytask.parts.text_encoders import (
    FOLDER,
    as_reader,
    as_text_encoder,
    encoder_folder,
    is_ours,
    quiet,
    training_texts,
)
from polytask.tasks import Classification, Task
from polytask.tasks.text import Boundaries, Retrieval, Similarity, Tagging
from polytask.training import FittedMixin, Training
from polytask.training.learner import saved_settings
from polytask.training.scoring import score

# Ours -> the trainer's.
_SCHEDULES = {"constant": "constant_with_warmup", "linear": "linear", "cosine": "cosine"}


@dataclass
class SentenceTransformers(FittedMixin):
    """One embedding model fine-tuned on all tasks by sentence-transformers, and a head per task.

    Attributes:
        encoder: ``"minilm"``, a hub name or a folder that sentence-transformers opens, or
            ``"bert(...)"`` from random weights.
        max_length: tokens of a text; the rest is cut.
        similarity: loss of similarity tasks.
        sampler: how the data sets of several tasks take turns.
        training: lr, weight_decay, batch, epochs, patience, schedule, warmup, clip, seed, device;
            the trainer knows no other of its settings.
    """

    encoder: str = "minilm"
    max_length: int = 256
    similarity: Literal["cosent", "cosine"] = "cosent"
    sampler: Literal["proportional", "round_robin"] = "proportional"
    training: Training = field(
        default_factory=lambda: Training(lr=2e-5, batch=32, epochs=4, patience=2, schedule="linear")
    )

    id: ClassVar[str] = "sentence_transformer"
    shares: ClassVar[bool] = True
    reads: ClassVar[tuple[str, ...]] = ("text",)

    def validate(self, suite: Suite) -> None:
        super().validate(suite)
        self.training.validate()
        check(suite.tasks, self.id)
        if self.training.schedule not in _SCHEDULES:
            raise InputError(
                f"{self.id}: training.schedule is {' or '.join(_SCHEDULES)}, not "
                f"{self.training.schedule!r}"
            )

    def fit(
        self,
        suite: Suite,
        *,
        out: str | os.PathLike[str] | None = None,
        progress: Callable[[dict[str, Any]], None] = lambda record: None,
    ) -> Self:
        """Fit all tasks of the suite; the trainer keeps nothing, so ``out`` stays empty."""
        self.validate(suite)
        self.processor_ = Processor.fit(suite)
        self.model_ = self._start(suite)
        train, validation = (self.processor_.encode(suite, s) for s in ("train", "validation"))
        self.history_: list[dict[str, Any]] = []
        told = [self._told(task, train) for task in self.processor_.tasks]
        sets = {t.name: s for t, s in zip(self.processor_.tasks, told, strict=True) if s}
        best = _Best(self, train, validation, progress)
        if sets:
            self._train(sets, best)
        else:  # numbers only: nothing but the heads
            best.look(0)
        self.model_.load_state_dict(best.weights)
        self.model_.eval()
        self.probes_ = best.probes
        return self

    def _start(self, suite: Suite) -> Any:
        """The encoder as the library opens it; one from random weights is written for it first."""
        if not is_ours(self.encoder):
            return _opened(encoder_folder(self.encoder), self.max_length, self.training.device)
        reader = as_reader(self.encoder, self.max_length, texts=training_texts(suite))
        torch.manual_seed(self.training.seed)
        with tempfile.TemporaryDirectory() as folder:
            as_text_encoder(self.encoder, reader).save(Path(folder))
            return _opened(folder, self.max_length, self.training.device)

    def _told(self, task: Task, data: Batch) -> dict[str, list[Any]] | None:
        """A task's labelled training rows as a data set of the library; None: it trains nothing."""
        columns, target = labelled(task, data)
        texts = [columns[name] for name in task.texts]
        kind = task.kind
        if isinstance(kind, Similarity) and len(texts) == 2:
            unit = kind.scaled(torch.from_numpy(target)).tolist()
            return {"a": list(texts[0]), "b": list(texts[1]), "score": unit}
        if isinstance(kind, Retrieval):
            return _triples(texts[0], texts[1], target, np.random.default_rng(self.training.seed))
        if isinstance(kind, Boundaries):
            pairs = [
                (a, b, int(end))
                for row, ends in zip(texts[-1], target, strict=True)
                for a, b, end in zip(row, row[1:], ends, strict=False)
            ]
            return dict(zip(("a", "b", "label"), map(list, zip(*pairs, strict=True)), strict=True))
        if isinstance(kind, Tagging):
            known = [
                (text, int(tag))
                for row, tags in zip(texts[-1], target, strict=True)
                for text, tag in zip(row, tags, strict=True)
                if tag >= 0
            ]
            return {"text": [text for text, _ in known], "label": [tag for _, tag in known]}
        if isinstance(kind, Classification) and len(texts) == 2:
            return {"a": list(texts[0]), "b": list(texts[1]), "label": target.tolist()}
        if isinstance(kind, Classification) and len(texts) == 1:
            return {"text": list(texts[0]), "label": target.tolist()}
        return None

    def _loss(self, task: Task, columns: Sequence[str]) -> Any:
        from sentence_transformers.sentence_transformer import losses

        if isinstance(task.kind, Retrieval):
            return losses.MultipleNegativesRankingLoss(self.model_)
        if "score" in columns:
            loss = {"cosent": losses.CoSENTLoss, "cosine": losses.CosineSimilarityLoss}
            return loss[self.similarity](self.model_)
        if "text" in columns:
            return losses.BatchAllTripletLoss(self.model_)
        classes = 2 if isinstance(task.kind, Boundaries) else len(task.kind.classes)  # type: ignore[attr-defined]
        width = self.model_.get_embedding_dimension()
        return losses.SoftmaxLoss(self.model_, width, classes)

    def _train(self, sets: dict[str, dict[str, list[Any]]], best: _Best) -> None:
        from datasets import Dataset
        from sentence_transformers import (
            SentenceTransformerTrainer,
            SentenceTransformerTrainingArguments,
        )
        from transformers import PrinterCallback, TrainerCallback

        class Look(TrainerCallback):  # type: ignore[misc]
            """Validation after each epoch, by our measures; stops as our loop does."""

            def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
                control.should_training_stop = best.look(round(state.epoch) - 1)

        class Trainer(SentenceTransformerTrainer):  # type: ignore[misc]
            """The library's trainer; it writes no model card."""

            def add_model_card_callback(self, default_args_dict: dict[str, Any]) -> None:
                pass

        t = self.training
        losses = {n: self._loss(self.processor_.task(n), list(s)) for n, s in sets.items()}
        with tempfile.TemporaryDirectory() as folder, quiet():
            arguments = SentenceTransformerTrainingArguments(
                output_dir=folder,
                num_train_epochs=t.epochs,
                per_device_train_batch_size=t.batch,
                learning_rate=t.lr,
                weight_decay=t.weight_decay,
                lr_scheduler_type=_SCHEDULES[t.schedule],
                warmup_steps=t.warmup,
                max_grad_norm=t.clip or 0.0,
                adam_beta1=t.betas[0],
                adam_beta2=t.betas[1],
                seed=t.seed,
                data_seed=t.seed,
                multi_dataset_batch_sampler=self.sampler,
                batch_sampler=_sampler,
                use_cpu=self.model_.device.type == "cpu",
                eval_strategy="no",
                save_strategy="no",
                logging_strategy="no",
                report_to="none",
                disable_tqdm=True,
                dataloader_pin_memory=False,
            )
            trainer = Trainer(
                model=self.model_,
                args=arguments,
                train_dataset={n: Dataset.from_dict(s) for n, s in sets.items()},
                loss=losses,
                callbacks=[Look()],
            )
            trainer.remove_callback(PrinterCallback)
            trainer.train()

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors ``[n, d]`` of texts."""
        batch = max(32, self.training.batch)
        found = self.model_.encode(list(texts), batch_size=batch, show_progress_bar=False)
        return np.asarray(found, np.float32)

    def _vectors(self) -> Vectors:
        return Vectors(self.embed, int(self.model_.get_embedding_dimension() or 0))

    def _decoded(self, batch: Batch, tasks: Sequence[str]) -> dict[str, NDArray]:
        return predicted(self.probes_, batch, tasks, self._vectors())

    @property
    def parameters_(self) -> int:
        heads = sum(probe.parameters for probe in self.probes_.values())
        return sum(p.numel() for p in self.model_.parameters()) + heads

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Heads in our form, and the encoder in the library's under ``encoder/``."""
        processor = self._fitted()
        with tempfile.TemporaryDirectory() as files:
            self.model_.save_pretrained(f"{files}/{FOLDER}", create_model_card=False)
            write_folder(
                folder,
                data={
                    "config": {"system": self.id, "settings": to_dict(self)},
                    "processor": processor.to_dict(),
                },
                tensors=to_tensors(self.probes_),
                files=Path(files),
            )

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike[str]) -> Self:
        data, tensors = read_folder(folder)
        learner = from_dict(cls, saved_settings(data, cls.id, folder), where=str(folder))
        learner.processor_ = Processor.from_dict(data["processor"])
        encoder = str(Path(folder) / FOLDER)
        learner.model_ = _opened(encoder, learner.max_length, learner.training.device)
        learner.probes_ = from_tensors(learner.processor_.tasks, tensors)
        return learner

    def with_seed(self, seed: int) -> Self:
        return replace(self, training=replace(self.training, seed=seed))


class _Best:
    """The epoch that answers validation rows best: weights and heads."""

    def __init__(
        self,
        learner: SentenceTransformers,
        train: Batch,
        validation: Batch,
        progress: Callable[[dict[str, Any]], None],
    ) -> None:
        self.learner, self.train, self.validation = learner, train, validation
        self.progress, self.highest, self.stale = progress, -np.inf, 0
        self.weights: dict[str, torch.Tensor] = {}
        self.probes: dict[str, Probe] = {}
        self.started = time.perf_counter()

    def look(self, epoch: int) -> bool:
        """Score one epoch; whether patience is at its end."""
        learner, tasks = self.learner, self.learner.processor_.tasks
        learner.model_.eval()
        vectors = learner._vectors()
        probes = fit_probes(tasks, self.train, self.validation, vectors)
        kinds = {task.name: task.kind for task in tasks}
        scores = score(
            kinds, self.validation, lambda b, names: predicted(probes, b, names, vectors)
        )
        quality = float(np.mean([kinds[name].quality(s) for name, s in scores.items()]))
        seconds, self.started = time.perf_counter() - self.started, time.perf_counter()
        record = {"epoch": epoch, "validation": scores, "score": quality, "seconds": seconds}
        learner.history_.append(record)
        self.progress(record)
        self.stale += 1
        if quality > self.highest:
            self.highest, self.stale, self.probes = quality, 0, probes
            self.weights = {k: v.clone() for k, v in learner.model_.state_dict().items()}
        learner.model_.train()
        return self.stale >= learner.training.patience


def _opened(folder: str, max_length: int, device: str | None) -> Any:
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError:
        raise InputError(
            "package 'sentence-transformers' is not installed; install "
            "polytask[sentence-transformers]"
        ) from None
    try:
        with quiet():
            model = SentenceTransformer(folder, device=device, trust_remote_code=False)
    except (OSError, ValueError):
        raise InputError(
            f"encoder {folder!r} is no model that sentence-transformers can open here; give a "
            "local folder, or a hub name where there is a network"
        ) from None
    model.max_seq_length = min(max_length, model.max_seq_length or max_length)
    return model


def _triples(
    queries: NDArray, lists: NDArray, target: NDArray, rng: np.random.Generator
) -> dict[str, list[str]] | None:
    """(query, relevant, another of its list) for every relevant one; pairs if a list has no other.

    Negatives are drawn once, as data sets of the library are fixed.
    """
    rows: list[tuple[str, str, str | None]] = []
    for query, texts, relevance in zip(queries, lists, target, strict=True):
        others = [t for t, r in zip(texts, relevance, strict=True) if r <= 0]
        for text in (t for t, r in zip(texts, relevance, strict=True) if r > 0):
            other = others[int(rng.integers(len(others)))] if others else None
            rows.append((query, text, other))
    if not rows:
        return None
    anchor, positive, negative = map(list, zip(*rows, strict=True))
    found = {"anchor": anchor, "positive": positive}
    return found if None in negative else {**found, "negative": negative}


def _sampler(dataset: Any, batch_size: int, **how: Any) -> Any:
    """As the library advises: no duplicates among negatives, classes together for triplets."""
    from sentence_transformers.base.sampler import (
        DefaultBatchSampler,
        GroupByLabelBatchSampler,
        NoDuplicatesBatchSampler,
    )
    from torch.utils.data import RandomSampler

    if "anchor" in dataset.column_names:
        return NoDuplicatesBatchSampler(dataset, batch_size, **how)
    if "text" in dataset.column_names and batch_size >= 4 and batch_size % 2 == 0:
        return GroupByLabelBatchSampler(dataset, batch_size, **how)
    order = RandomSampler(dataset, generator=how.get("generator"))
    return DefaultBatchSampler(order, batch_size=batch_size, **how)
