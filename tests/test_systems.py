"""Every learner of the catalogue keeps its promises, and a learner that breaks one is caught."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from polytask import catalogue as catalogue_module
from polytask.baselines.mlp import SharedMLP, SharedMLPNet
from polytask.catalogue import catalogue, load_system
from polytask.comparing.runs import Run, plugin_digest
from polytask.data import Batch, Processor
from polytask.testing import (
    check_system,
    document_suite,
    mixed_suite,
    pair_suite,
    photograph_suite,
    picture_suite,
    search_suite,
    signal_suite,
)

TEXT: dict[str, Any] = {"encoder": "bert(width=16, depth=1, heads=2)", "vocabulary": 200}
SMALL: dict[str, dict[str, Any]] = {
    "mlp": {"hidden": (16,), "head": (8,)},
    "mmoe": {"hidden": (16,), "head": (8,), "experts": 2},
    "ple": {"hidden": (16,), "head": (8,), "shared": 1, "per_task": 1},
    "stem": {"hidden": (16,), "head": (8,), "shared": 1, "per_task": 1},
    "ft_transformer": {"width": 8, "blocks": 1, "heads": 2, "ff": 8},
    "multitab": {"width": 8, "ff": 8, "heads": 2, "head": (8,)},
    "flat_mtl": {"hidden": (16,)},
    "r_mtgb": {"n1": 4, "n2": 4, "n3": 4},
    "a_mtrl": {"budget": 60.0, "floor": 8},
    "driftmoe": {"experts": 3, "hidden": (8,), "top": 1},
    "hoeffding_tree": {"grace": 10},
    "routed_forest": {"experts": 3, "hidden": (8,)},
    "weedsense": {"width": 0.0625},
    "taskexpert": {"trunk": "vit(width=16, depth=2, heads=2, patch=4)", "width": 8, "experts": 2},
    "segformer": {"trunk": "mit(widths=(8, 16, 24, 32), depths=(1, 1, 1, 1))", "width": 16},
    "conv_heads": {"trunk": "vit(width=16, depth=2, heads=2, patch=4)"},
    "dual_pixel": {"width": 4, "pools": 2, "augment": "dense(flip=0.0, crop=(8, 8))"},
    "unet": {"features": (4, 4, 8, 8, 8, 4)},
    "sleep_vit": {"patch": 6, "width": 16, "depth": 2, "heads": 2, "ff": 16, "dense": 8},
    "cnn1d": {},
    "mqan": {
        "width": 16,
        "layers": 1,
        "heads": 2,
        "hidden": 16,
        "word_size": 20,
        "gram_size": 10,
        "mixture": "round_robin",
    },
    "mqan_encoder": {**TEXT, "width": 16},
    "topic_seg": TEXT,
    "dse": {**TEXT, "top": 1},
    "codiemb": TEXT,
    "text_encoder": TEXT,
    "cross_encoder": TEXT,
    "linear_probe": {"encoder": TEXT["encoder"], "ridges": (1.0,)},
    "sentence_transformer": {"encoder": TEXT["encoder"]},
    "bm25": {},
    "texttiling": {},
    "lightgbm": {"rounds": 5},
    "xgboost": {"rounds": 5},
}
# Promise that a learner does not make -> why.
EXCEPTIONS = {
    ("xgboost", "another seed, another result"): "it draws nothing: no rows or columns are sampled",
    ("hoeffding_tree", "another seed, another result"): "it draws nothing unless told to",
    ("bm25", "another seed, another result"): "it draws nothing",
    ("linear_probe", "another seed, another result"): "it draws nothing",
    ("texttiling", "another seed, another result"): "it draws nothing",
}
# Promises that a learner's suite cannot try -> why.
NOT_TRIED = {
    ("bm25", "masks missing labels"): "it learns nothing, and a list without a label is no list"
}
# What a learner reads, if not tables.
SUITES = {
    "weedsense": photograph_suite,
    "taskexpert": photograph_suite,
    "segformer": photograph_suite,
    "conv_heads": photograph_suite,
    "dual_pixel": photograph_suite,
    "unet": partial(photograph_suite, size=32),
    "sleep_vit": signal_suite,
    "cnn1d": signal_suite,
    **dict.fromkeys(
        (
            "mqan",
            "mqan_encoder",
            "dse",
            "text_encoder",
            "cross_encoder",
            "linear_probe",
            "sentence_transformer",
        ),
        pair_suite,
    ),
    **dict.fromkeys(("topic_seg", "texttiling"), document_suite),
    **dict.fromkeys(("codiemb", "bm25"), search_suite),
}
# Learner that cannot have the whole mixed suite -> the tasks it can, and why.
FEWER_TASKS = {
    "xgboost": (("price", "rent"), "vector leaves need tasks of one kind"),
    "r_mtgb": (("price", "rent"), "tasks share trees and so need one kind"),
    "driftmoe": (("rooms", "sold"), "streams are classified"),
    "hoeffding_tree": (("rooms", "sold"), "streams are classified"),
    "routed_forest": (("rooms", "sold"), "streams are classified"),
    "bm25": (("finds",), "it ranks"),
    "texttiling": (("sections",), "it finds boundaries"),
}


def test_every_learner_has_small_settings() -> None:
    assert set(SMALL) == set(catalogue()), "a new learner needs a line in SMALL"


@pytest.mark.parametrize("name", sorted(SMALL))
def test_promises(name: str) -> None:
    suite = SUITES.get(name, mixed_suite)()
    if name in FEWER_TASKS:
        suite = suite.only(*FEWER_TASKS[name][0])
    checks = check_system(name, suite=suite, **SMALL[name])
    broken = {c.name: c.detail for c in checks if c.passed is False}
    excused = {promise for learner, promise in EXCEPTIONS if learner == name}
    assert set(broken) == excused, broken
    not_tried = {promise for learner, promise in NOT_TRIED if learner == name}
    assert {c.name for c in checks if c.passed is None} == {"adds a task"} | not_tried


@pytest.mark.parametrize("name", ["mlp", "flat_mtl"])
def test_promises_with_pictures(name: str) -> None:
    small = {**SMALL[name], **({"trunk": "mlp"} if name == "flat_mtl" else {})}
    broken = [c for c in check_system(name, suite=picture_suite(), **small) if c.passed is False]
    assert broken == []


# -- planted faults --------------------------------------------------------------------------------


@dataclass
class Faulty(SharedMLP):
    hidden: tuple[int, ...] = (8,)
    head: tuple[int, ...] = (8,)


class IgnoresSeed(Faulty):
    def with_seed(self, seed: int) -> Any:
        return self


class DrawsElsewhere(Faulty):
    def build(self, spec: Processor) -> SharedMLPNet:
        torch.seed()
        return super().build(spec)


class ForgetsProcessor(Faulty):
    @classmethod
    def from_pretrained(cls, folder: Any) -> Any:
        learner = super().from_pretrained(folder)
        columns = {k: replace(n, mean=0.0) for k, n in learner.processor_.numeric.items()}
        learner.processor_ = replace(learner.processor_, numeric=columns)
        return learner


class MasklessNet(SharedMLPNet):
    def losses_at(self, representation: torch.Tensor, batch: Batch) -> dict[str, torch.Tensor]:
        everywhere = {task: torch.ones_like(mask) for task, mask in batch.masks.items()}
        return super().losses_at(representation, replace(batch, masks=everywhere))


class Maskless(Faulty):
    def build(self, spec: Processor) -> SharedMLPNet:
        return MasklessNet(spec, self)


class LooksAround(Faulty):
    def _decoded(self, batch: Batch, tasks: Any) -> dict[str, np.ndarray]:
        found = super()._decoded(batch, tasks)
        return {k: v if v.ndim > 1 else v - v.mean() for k, v in found.items()}


class PredictsAllTasks(Faulty):
    def predict(self, inputs: Any, tasks: Any = None) -> dict[str, np.ndarray]:
        return {**super().predict(inputs), "bonus": np.zeros(len(inputs))}


class RaisesKeyError(Faulty):
    def predict(self, inputs: Any, tasks: Any = None) -> dict[str, np.ndarray]:
        for name in ("size", "age", "town"):
            inputs.column(name)
        return super().predict(inputs, tasks)


class AcceptsAnything(Faulty):
    def predict(self, inputs: Any, tasks: Any = None) -> dict[str, np.ndarray]:
        known = None if tasks is None else [t for t in tasks if t != "no_such_task"]
        return super().predict(inputs, known)


class FitsBlindly(Faulty):
    def fit(self, suite: Any, **keywords: Any) -> Any:
        try:
            return super().fit(suite, **keywords)
        except ValueError:
            return self


class PhonesHome(Faulty):
    def fit(self, suite: Any, **keywords: Any) -> Any:
        with suppress(OSError):
            socket.create_connection(("192.0.2.1", 80), timeout=0.1)
        return super().fit(suite, **keywords)


class NeedsAnArgument(Faulty):
    def __init__(self, **settings: Any) -> None:
        if not settings:
            raise TypeError("hidden is missing")
        super().__init__(**settings)


@pytest.mark.parametrize(
    ("fault", "promise"),
    [
        (IgnoresSeed, "another seed, another result"),
        (DrawsElsewhere, "same seed, same result"),
        (ForgetsProcessor, "saves and loads"),
        (Maskless, "masks missing labels"),
        (LooksAround, "answers one task or row like many"),
        (PredictsAllTasks, "fits and predicts"),
        (RaisesKeyError, "refuses wrong rows"),
        (AcceptsAnything, "refuses wrong rows"),
        (FitsBlindly, "refuses a task without labels"),
        (PhonesHome, "works offline"),
        (NeedsAnArgument, "builds from defaults"),
    ],
)
def test_a_planted_fault_is_caught(fault: type, promise: str) -> None:
    broken = {c.name: c.detail for c in check_system(fault, hidden=(8,)) if c.passed is False}
    assert promise in broken


def test_what_cannot_be_asked_says_why() -> None:
    suite = mixed_suite().only("sold")
    not_asked = {c.name: c.detail for c in check_system(Faulty, suite=suite) if c.passed is None}
    assert set(not_asked) == {"adds a task", "masks missing labels"}
    assert "every label" in not_asked["masks missing labels"]


# -- plug-ins --------------------------------------------------------------------------------------

PLUG_IN = """
from dataclasses import dataclass
from typing import ClassVar
from polytask.baselines.mlp import SharedMLP

@dataclass
class Mine(SharedMLP):
    hidden: tuple[int, ...] = (8,)
    id: ClassVar[str] = "mine"
"""


@pytest.fixture
def plug_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Another package whose metadata names a system."""
    file = tmp_path / "my_package.py"
    file.write_text(PLUG_IN)
    point = EntryPoint("mine", "my_package:Mine", "polytask.systems")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(catalogue_module, "entry_points", lambda group: EntryPoints([point]))
    catalogue.cache_clear()
    yield file
    sys.modules.pop("my_package", None)
    catalogue.cache_clear()


def test_a_plug_in_is_a_system_like_others(plug_in: Path, tmp_path: Path) -> None:
    entry = catalogue()["mine"]
    assert (entry.group, entry.module, entry.attribute) == ("plug-in", "my_package", "Mine")
    assert [c for c in check_system("mine", head=(8,)) if c.passed is False] == []
    from polytask.training.saved import load

    suite = mixed_suite()
    learner = load_system("mine")(training=replace(SharedMLP().training, epochs=1)).fit(suite)
    learner.save_pretrained(tmp_path / "model")
    assert type(load(tmp_path / "model")).__name__ == "Mine"


def test_a_plug_in_cannot_take_a_packaged_name(
    plug_in: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    point = EntryPoint("mlp", "my_package:Mine", "polytask.systems")
    monkeypatch.setattr(catalogue_module, "entry_points", lambda group: EntryPoints([point]))
    catalogue.cache_clear()
    assert catalogue()["mlp"].group == "baselines"


def test_changed_plug_in_code_makes_other_runs(plug_in: Path) -> None:
    suite, run = mixed_suite(), Run("mine", tasks=("price",))
    before = run.key(suite)
    assert plugin_digest("mlp") is None
    plug_in.write_text(PLUG_IN.replace("(8,)", "(9,)"))
    assert run.key(suite) != before
