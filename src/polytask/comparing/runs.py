"""Runs: one fit of one learner with one seed, measured the same way for all, kept on disk.

A run's result is one JSON file named by the hash of everything that decides it (data, tasks,
learner, settings, seed, polytask's own source), so an interrupted comparison resumes and a new
method runs only what is missing. Files are written aside and renamed: two processes may share the
cache.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from polytask.catalogue import catalogue, load_system
from polytask.config import from_dict, override, to_dict
from polytask.data import Suite
from polytask.data.files import cache_dir, cache_written
from polytask.errors import InputError

_LATENCY_ROWS = 1000
_LATENCY_PICTURES = 16


@dataclass(frozen=True)
class Run:
    """One fit.

    Attributes:
        learner: id in the catalogue.
        settings: dotted overrides of the learner's defaults.
        tasks: which tasks of the suite are fitted together.
        seed: of weights, batch order and dropout.
    """

    learner: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    tasks: tuple[str, ...] = ()
    seed: int = 0

    def key(self, suite: Suite) -> str:
        """Name of the result on disk."""
        content = [
            suite.fingerprint,
            self.learner,
            sorted((k, repr(v)) for k, v in self.settings.items()),
            self.tasks,
            self.seed,
            source_digest(),
            plugin_digest(self.learner),
        ]
        return hashlib.blake2b(json.dumps(content).encode(), digest_size=16).hexdigest()

    def build(self) -> Any:
        """The learner, configured and seeded; a wrong setting is refused here, before any fit."""
        cls = load_system(self.learner)
        data = override(to_dict(cls()), self.settings.items())
        return from_dict(cls, data, where=self.learner).with_seed(self.seed)


def execute(run: Run, suite: Suite, threads: int | None = None) -> dict[str, Any]:
    """The run's result, from the cache or by fitting now."""
    path = cache_dir() / "runs" / f"{run.key(suite)}.json"
    found = cached(run, suite)
    if found is not None:
        return found
    if threads:
        import torch

        torch.set_num_threads(threads)
    result = _measure(run, suite)
    with cache_written():
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(f".{path.name}.{os.getpid()}")
        aside.write_text(json.dumps(result))
        aside.replace(path)
    return result


def cached(run: Run, suite: Suite) -> dict[str, Any] | None:
    """The run's result if it is on disk and whole."""
    path = cache_dir() / "runs" / f"{run.key(suite)}.json"
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None


def _measure(run: Run, suite: Suite) -> dict[str, Any]:
    part = suite.only(*run.tasks)
    learner = run.build()
    with _PeakMemory() as memory:
        started = time.perf_counter()
        learner.fit(part)
        seconds = time.perf_counter() - started
    rows = part.table("test")
    timed = _LATENCY_PICTURES if suite.pictures else _LATENCY_ROWS
    rows = rows.take([i % rows.num_rows for i in range(timed)])
    return {
        "validation": learner.score(part, "validation"),
        "test": learner.score(part, "test"),
        "parameters": learner.parameters_,
        "train_seconds": seconds,
        "latency_ms_per_1000_rows": _latency(lambda: learner.predict(rows)) * 1000 / timed,
        "memory_mb": memory.peak / 2**20,
        "history": [
            {k: v for k, v in record.items() if k != "seconds"} for record in learner.history_
        ],
    }


def _latency(predict: Callable[[], Any]) -> float:
    """Milliseconds of a call: median of five after a first, encoding included."""
    predict()
    times = []
    for _ in range(5):
        started = time.perf_counter()
        predict()
        times.append(time.perf_counter() - started)
    return sorted(times)[2] * 1e3


class _PeakMemory:
    """Largest resident memory of this process while inside, in bytes, looked at every 20 ms."""

    def __enter__(self) -> _PeakMemory:
        import psutil

        self._process = psutil.Process()
        self.peak = self._process.memory_info().rss
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._done.wait(0.02):
            self.peak = max(self.peak, self._process.memory_info().rss)

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()


@cache
def source_digest() -> str:
    """Hash of polytask's own source: results of other code are not reused."""
    digest = hashlib.blake2b(digest_size=8)
    root = Path(__file__).parents[1]
    for path in sorted(root.rglob("*.py")):
        if path.parent.name != "comparing" or path.name == "runs.py":
            digest.update(path.read_bytes())
    return digest.hexdigest()


def plugin_digest(learner: str) -> str | None:
    """Hash of the file of a learner that another package brings (None: it is polytask's own)."""
    entry = catalogue().get(learner)
    if entry is None or entry.group != "plug-in":
        return None
    return hashlib.blake2b(Path(inspect.getfile(entry.load())).read_bytes()).hexdigest()


def check(run: Run, suite: Suite) -> str | None:
    """Why a run cannot be made at all (None: it can), found out before anything is fitted."""
    try:
        learner = run.build()
        if hasattr(learner, "validate"):
            learner.validate(suite.only(*run.tasks))
    except InputError as error:
        return str(error)
    return None
