"""Does a learner keep the promises that every learner makes? For authors of systems.

    from polytask.testing import check_system

    def test_my_system():
        for check in check_system(MySystem, width=8):
            assert check.passed is not False, check

It fits the learner a few times on a tiny suite, so give it small settings.
"""

from __future__ import annotations

import socket
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from datasets import Dataset
from numpy.typing import NDArray

from polytask.catalogue import load_system
from polytask.config import from_dict, to_dict
from polytask.data import Batch, Processor, Suite
from polytask.data.texts import Ragged, Texts
from polytask.errors import InputError

Outputs = Mapping[str, NDArray]


class Check(NamedTuple):
    """One promise: kept (True), broken (False) or not asked (None), and what was seen."""

    name: str
    passed: bool | None
    detail: str


def check_system(system: str | type, *, suite: Suite | None = None, **settings: Any) -> list[Check]:
    """Try every promise of a learner on a tiny suite.

    Args:
        system: id in the catalogue, or a class.
        suite: what it is fitted on; ``mixed_suite()`` unless given. There are ``picture_suite()``
            (arrays), ``photograph_suite()`` (pictures with maps), ``signal_suite()``, and of text
            ``pair_suite()``, ``document_suite()``, ``question_suite()`` and ``search_suite()``.
        settings: constructor arguments that make it tiny; a ``training`` that is not given gets
            two epochs of small batches.
    """
    cls = load_system(system) if isinstance(system, str) else system
    trial = _Trial(cls, suite or mixed_suite(), settings)
    with _watched_network() as reached:
        checks = [_tried(name, promise, trial) for name, promise in _PROMISES.items()]
    detail = f"tried to reach {reached[0]}" if reached else "no connection was tried"
    return [*checks, Check("works offline", not reached, detail)]


def mixed_suite(rows: int = 150) -> Suite:
    """Numbers and categories with gaps; two regressions, three classes, yes/no; missing labels."""
    rng = np.random.default_rng(0)
    size, age = rng.normal(100, 30, rows), rng.integers(0, 80, rows)
    town = rng.choice(["Bonn", "Kiel", "Ulm"], rows)
    price = 3 * size - age + 40 * (town == "Kiel") + rng.normal(0, 10, rows)
    table = {
        "size": pa.array(size, mask=rng.random(rows) < 0.1),
        "age": age,
        "town": pa.array(town, mask=rng.random(rows) < 0.1),
        "price": pa.array(price, mask=rng.random(rows) < 0.3),
        "rent": pa.array(price / 30 + rng.normal(0, 1, rows), mask=rng.random(rows) < 0.3),
        "rooms": pa.array(np.digitize(size, [85, 115]), mask=rng.random(rows) < 0.3),
        "sold": price > 250,
    }
    return Suite.from_table(table, ["price", "rent", "rooms", "sold"], name="mixed")


def picture_suite(rows: int = 60, size: int = 8) -> Suite:
    """Pictures ``[size, size]``: where the bright half is, and how bright (with missing labels)."""
    rng = np.random.default_rng(0)
    picture = rng.random((rows, size, size), dtype=np.float32)
    left = rng.random(rows) < 0.5
    picture[left, :, : size // 2] += 1
    picture[~left, :, size // 2 :] += 1
    bright = picture.mean((1, 2)).astype(np.float64)
    table = {
        "picture": picture,
        "left": left,
        "bright": pa.array(bright, mask=rng.random(rows) < 0.3),
    }
    return Suite.from_table(table, ["left", "bright"], name="pictures")


def photograph_suite(rows: int = 40, size: int = 16) -> Suite:
    """Colour pictures of a disc: its mask and distance (maps), its size, whether it is red."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:size, :size]
    radius = rng.uniform(size / 6, size / 3, (rows, 1, 1))
    centre = rng.uniform(size / 3, 2 * size / 3, (2, rows, 1, 1))
    disc = (y - centre[0]) ** 2 + (x - centre[1]) ** 2 < radius**2
    red = rng.random(rows) < 0.5
    picture = rng.integers(0, 60, (rows, size, size, 3)).astype(np.uint8)
    picture[..., 0] += (160 * (disc & red[:, None, None])).astype(np.uint8)
    picture[..., 2] += (160 * (disc & ~red[:, None, None])).astype(np.uint8)
    gone = rng.random(rows) < 0.2
    far = np.where(disc, 40 / radius, 30.0).astype(np.float32)
    far[:, :1] = np.nan  # no sensor sees all of a picture
    table = {
        "photograph": picture,
        "mask": _arrays(disc.astype(np.uint8), gone),
        "far": far,
        "radius": pa.array(radius.ravel(), mask=rng.random(rows) < 0.2),
        "red": red,
    }
    kinds = {
        "mask": {"kind": "segmentation", "classes": ["ground", "disc"]},
        "far": {"kind": "map", "unit": "m"},
        "radius": {"kind": "regression", "unit": "px"},
        "red": "classification",
    }
    inputs = {"photograph": "picture"}
    return Suite.from_table(table, kinds, inputs=inputs, name="photographs")


def _arrays(maps: NDArray, gone: NDArray[np.bool_]) -> pa.Array:
    """Maps ``[N, H, W]`` as a column, null where they are gone."""
    rows = pa.FixedSizeListArray.from_arrays(pa.array(maps.ravel()), maps.shape[2])
    return pa.FixedSizeListArray.from_arrays(rows, maps.shape[1], mask=pa.array(gone))


def signal_suite(rows: int = 60, samples: int = 48) -> Suite:
    """Two channels: the pitch of the first, whether the second is loud, and how loud."""
    rng = np.random.default_rng(0)
    time = np.arange(samples) / samples
    pitch = rng.integers(0, 3, rows)
    loud = rng.random(rows) < 0.5
    signal = rng.normal(0, 0.1, (rows, samples, 2))
    signal[:, :, 0] += np.sin(2 * np.pi * np.outer(2 + 3 * pitch, time))
    signal[:, :, 1] += np.where(loud, 2.0, 0.5)[:, None] * np.sin(6 * np.pi * time)
    level = np.abs(signal[:, :, 1]).mean(1)
    table = {
        "signal": signal.astype(np.float32),
        "pitch": pitch,
        "loud": pa.array(loud, mask=rng.random(rows) < 0.2),
        "level": pa.array(level, mask=rng.random(rows) < 0.3),
    }
    return Suite.from_table(table, ["pitch", "loud", "level"], name="signals")


_THINGS = {"cat": "animal", "horse": "animal", "oak": "plant", "rose": "plant"}
_DEEDS = ("runs", "sleeps", "waits", "stands")
_PLACES = ("near the river", "behind the barn", "under a tree", "on the old road")


def pair_suite(rows: int = 60) -> Suite:
    """Pairs of sentences: how alike, the same thing or not, how the second relates; with gaps."""
    rng = np.random.default_rng(0)
    a, b = _sentences(rows, rng), _sentences(rows, rng)
    shared = [sum(x == y for x, y in zip(p, q, strict=True)) for p, q in zip(a, b, strict=True)]
    same = [x[0] == y[0] for x, y in zip(a, b, strict=True)]
    kin = [_kin(x, y) for x, y in zip(a, b, strict=True)]
    table = {
        "first": [" ".join(words) for words in a],
        "second": [" ".join(words) for words in b],
        "alike": pa.array([float(n) for n in shared], mask=rng.random(rows) < 0.2),
        "same": pa.array(same, mask=rng.random(rows) < 0.2),
        "relation": np.array(["other", "kin", "same"])[np.add(kin, same, dtype=int)],
    }
    kinds = {"alike": "similarity", "same": "classification", "relation": "classification"}
    return Suite.from_table(table, kinds, inputs={"first": "text", "second": "text"}, name="pairs")


def document_suite(rows: int = 40) -> Suite:
    """Documents of sentences: where a section ends, what each sentence is about; with gaps."""
    rng = np.random.default_rng(0)
    sentences, sections, topics = [], [], []
    for _ in range(rows):
        things = rng.permutation(list(_THINGS))[: rng.integers(2, 4)]
        sizes = rng.integers(2, 4, len(things))
        about = [thing for thing, size in zip(things, sizes, strict=True) for _ in range(size)]
        sentences.append([f"the {t} {' '.join(_sentence(rng)[1:])}" for t in about])
        known = rng.random(2) < 0.9
        ends = [i for i, size in enumerate(sizes) for _ in range(size)]
        sections.append(ends if known[0] else None)
        tags = [_THINGS[t] if rng.random() < 0.8 else None for t in about]
        topics.append(tags if known[1] else None)
    table = {"sentences": sentences, "sections": sections, "topics": topics}
    kinds = {"sections": "boundaries", "topics": "tags"}
    return Suite.from_table(table, kinds, inputs={"sentences": "text"}, name="documents")


def question_suite(rows: int = 60) -> Suite:
    """Of a sentence: where it happens (a span), what is done (words), the sort of thing."""
    rng = np.random.default_rng(0)
    told = _sentences(rows, rng)
    story = [" ".join(words) for words in told]
    tables = {
        "where": {
            "source": {
                "question": ["where is it?"] * rows,
                "context": story,
                "answer": [words[2] for words in told],
            },
            "kind": "span",
        },
        "deed": {
            "source": {
                "question": ["what does it do?"] * rows,
                "context": story,
                "answer": [words[1] for words in told],
            },
            "kind": "generation",
            "tokens": 4,
        },
        "sort": {"text": story, "label": [_THINGS[words[0].split()[1]] for words in told]},
    }
    return Suite.from_tasks(tables, name="questions")


def search_suite(rows: int = 60) -> Suite:
    """Queries with candidates that answer them or not, and pairs of sentences with a score."""
    rng = np.random.default_rng(0)
    told = _sentences(rows, rng)
    others = [[" ".join(w) for w in _sentences(3, rng) if w[0] != mine[0]] for mine in told]
    pairs = pair_suite(rows)
    whole = pa.concat_tables([pairs.table(split) for split in pairs.splits])
    scored = whole.filter(pc.is_valid(whole["alike"]))
    tables = {
        "finds": {
            "query": [words[0] for words in told],
            "positive": [" ".join(words) for words in told],
            "negatives": others,
        },
        "alike": {
            "source": scored,
            "texts": ("first", "second"),
            "target": "alike",
            "kind": "similarity",
            "low": 0.0,
            "high": 3.0,
        },
    }
    return Suite.from_tasks(tables, name="search")


def _sentence(rng: np.random.Generator) -> tuple[str, str, str]:
    thing, deed, place = (str(rng.choice(words)) for words in (list(_THINGS), _DEEDS, _PLACES))
    return f"the {thing}", deed, place


def _sentences(rows: int, rng: np.random.Generator) -> list[tuple[str, str, str]]:
    return [_sentence(rng) for _ in range(rows)]


def _kin(a: tuple[str, ...], b: tuple[str, ...]) -> bool:
    return _THINGS[a[0].split()[1]] == _THINGS[b[0].split()[1]]


@dataclass
class _Trial:
    """A learner's class, what it is tried on, and the fit that most promises start from."""

    cls: Any
    suite: Suite
    settings: dict[str, Any]

    def new(self, seed: int = 0) -> Any:
        learner = self.cls(**self.settings).with_seed(seed)
        if "training" not in self.settings and hasattr(learner, "training"):
            training = replace(learner.training, epochs=2, batch=16)
            learner = replace(learner, training=training)
        return learner

    def outputs(self, seed: int = 0) -> Outputs:
        return self.new(seed).fit(self.suite).predict(self.rows)

    @cached_property
    def fitted(self) -> Any:
        return self.new().fit(self.suite)

    @cached_property
    def first(self) -> Outputs:
        return self.fitted.predict(self.rows)

    @cached_property
    def rows(self) -> pa.Table:
        return self.suite.table("test").select(list(self.suite.inputs))

    @cached_property
    def processor(self) -> Processor:
        learner = self.new()
        return Processor.fit(self.suite, learner.reader(self.suite) if self.reads_text else None)

    @property
    def reads_text(self) -> bool:
        return bool(self.suite.texts) and hasattr(self.cls, "reader")


class _NotAskedError(Exception):
    """A promise that cannot be tried here; the text says why."""


def _tried(name: str, promise: Callable[[_Trial], str], trial: _Trial) -> Check:
    try:
        return Check(name, True, promise(trial))
    except _NotAskedError as reason:
        return Check(name, None, str(reason))
    except Exception as error:  # whatever a learner raises is a promise not kept
        return Check(name, False, f"{type(error).__name__}: {error}".removeprefix("_BrokenError: "))


class _BrokenError(Exception):
    """A promise that was not kept; the text says what was seen."""


def _hold(condition: bool, otherwise: str) -> None:
    if not condition:
        raise _BrokenError(otherwise)


# -- promises: each returns what was seen, or raises -----------------------------------------------


def _builds(trial: _Trial) -> str:
    default = trial.cls()
    again = from_dict(trial.cls, to_dict(default))
    _hold(to_dict(again) == to_dict(default), "its settings do not survive a round trip")
    if not hasattr(default, "build"):
        return "constructed; it has no network"
    # No memory is taken: a network of paper scale need not fit here to be counted.
    if trial.reads_text and hasattr(default, "encoder"):
        default = replace(default, encoder="bert_base")  # weights of the hub need not be here
    with torch.device("meta"):
        size = sum(p.numel() for p in default.build(trial.processor).parameters())
    _hold(size > 0, "the network has no parameters")
    return f"{size:,} parameters"


def _fits(trial: _Trial) -> str:
    _hold(tuple(trial.first) == trial.suite.task_names, f"it predicts {tuple(trial.first)}")
    for name, values in trial.first.items():
        kind = trial.processor.task(name).kind
        if values.dtype == object:
            _hold(len(values) == trial.rows.num_rows, f"{name!r} has {len(values)} answers")
            numbers = [v for v in values if not isinstance(v, str)]
            finite = all(np.isfinite(v).all() for v in numbers)
            _hold(finite, f"{name!r} has predictions that are not finite")
            continue
        classes = 0 if kind.dense else len(getattr(kind, "classes", ()))
        answer: tuple[int, ...] = (classes,) if classes else ()
        if kind.dense:
            answer = trial.processor.encode(trial.suite, "test")[:].targets[name].shape[1:]
        shape = (trial.rows.num_rows, *answer)
        _hold(values.shape == shape, f"{name!r} has shape {values.shape}, not {shape}")
        _hold(bool(np.isfinite(values).all()), f"{name!r} has predictions that are not finite")
        if classes:
            _hold(np.allclose(values.sum(1), 1, atol=1e-5), f"{name!r}: chances do not sum to 1")
    return f"{len(trial.first)} tasks of {trial.rows.num_rows} rows"


def _repeats(trial: _Trial) -> str:
    _same(trial.first, trial.outputs(), "a second fit with the same seed")
    return "two fits agree to the bit"


def _heeds_the_seed(trial: _Trial) -> str:
    other = trial.outputs(seed=1)
    alike = [n for n in other if _equal(other[n], trial.first[n])]
    _hold(len(alike) < len(other), "another seed changes nothing")
    return "another seed, another model"


def _saves(trial: _Trial) -> str:
    with tempfile.TemporaryDirectory() as folder:
        trial.fitted.save_pretrained(f"{folder}/model")
        loaded = trial.cls.from_pretrained(f"{folder}/model")
    _same(trial.first, loaded.predict(trial.rows), "the loaded model")
    return "the loaded model agrees to the bit"


def _answers_one(trial: _Trial) -> str:
    name = trial.suite.task_names[-1]
    _same({name: trial.first[name]}, trial.fitted.predict(trial.rows, [name]), "asked for one task")
    part = trial.fitted.predict(trial.rows.slice(0, 3))
    for task, values in part.items():
        if values.dtype == object:
            near = all(map(_near, values, trial.first[task][:3]))
            _hold(near, f"{task!r}: a row's answer depends on the rows beside it")
            continue
        if trial.processor.task(task).kind.dense and values.dtype.kind == "u":
            same = float((values == trial.first[task][:3]).mean())
            _hold(same > 0.99, f"{task!r}: a picture's classes depend on the pictures beside it")
            continue
        scale = np.abs(trial.first[task]).max()
        near = np.allclose(values, trial.first[task][:3], rtol=0, atol=1e-4 * scale)
        _hold(near, f"{task!r}: a row's answer depends on the rows beside it")
    return "one task alone, and few rows alone, are answered as among others"


def _fits_one(trial: _Trial) -> str:
    name = trial.suite.task_names[0]
    alone = trial.new().fit(trial.suite.only(name)).predict(trial.rows)
    _hold(tuple(alone) == (name,), f"fitted on {name!r} alone it predicts {tuple(alone)}")
    finite = alone[name].dtype == object or bool(np.isfinite(alone[name]).all())
    _hold(finite, f"{name!r} alone: predictions are not finite")
    return f"fitted on {name!r} alone"


def _adds(trial: _Trial) -> str:
    if not hasattr(trial.cls, "add_task"):
        raise _NotAskedError("it has no add_task: fit it again on the larger suite")
    raise _NotAskedError("it has add_task, for which there is no common protocol yet")


def _masks(trial: _Trial) -> str:
    gaps = sum(trial.suite.labels(t, "train").null_count for t in trial.suite.tasks)
    if not gaps:
        raise _NotAskedError("every row of the suite has every label")
    encode = Processor.encode

    def with_other_placeholders(self: Processor, suite: Suite, split: str) -> Batch:
        batch = encode(self, suite, split)
        targets = {}
        for task, values in batch.targets.items():
            if isinstance(values, Ragged | Texts):
                targets[task] = values  # empty where there is no label
                continue
            values = values[:]  # maps are read here
            mask = batch.masks[task].view(-1, *[1] * (values.ndim - 1))
            targets[task] = torch.where(mask, values, _other_placeholder(values))
        return replace(batch, targets=targets)

    with mock.patch.object(Processor, "encode", with_other_placeholders):
        _same(trial.first, trial.outputs(), "with other values where a label is missing, the fit")
    return f"{gaps} missing training labels have no influence"


def _other_placeholder(values: torch.Tensor) -> torch.Tensor:
    return values + 1e6 if values.is_floating_point() else values.max() - values


def _refuses_rows(trial: _Trial) -> str:
    processor = trial.processor
    readable = {**processor.numeric, **processor.arrays, **processor.pictures, **processor.texts}
    name = next(iter(readable))
    at = trial.rows.column_names.index(name)
    wrong = pa.array([7 if name in processor.texts else "many"] * trial.rows.num_rows)
    other = trial.rows.set_column(at, name, wrong)
    asked = [t.name for t in processor.tasks if not t.texts or name in t.texts]
    cases = [
        (lambda: trial.fitted.predict(trial.rows.drop_columns([name]), asked), [name]),
        (lambda: trial.fitted.predict(other), [name]),
        (lambda: trial.fitted.predict(trial.rows, ["no_such_task"]), ["no_such_task"]),
        (lambda: trial.new().predict(trial.rows), ["fit"]),
    ]
    if name in trial.processor.numeric:
        values = pc.cast(trial.rows[name], pa.float64()).to_pylist()
        values[2] = float("inf")
        infinite = trial.rows.set_column(at, name, pa.array(values))
        cases.append((lambda: trial.fitted.predict(infinite), [name, "row 3"]))
    return _refused(cases)


def _refuses_labels(trial: _Trial) -> str:
    target = trial.suite.tasks[0].target
    splits = {}
    for split in trial.suite.splits:
        table = trial.suite.table(split)
        at = table.column_names.index(target)
        empty = pa.nulls(table.num_rows, table.schema.field(target).type)
        splits[split] = Dataset(table.set_column(at, target, empty))
    unlabelled = replace(trial.suite, splits=splits)
    return _refused([(lambda: trial.new().fit(unlabelled), [target])])


def _refused(cases: Sequence[tuple[Callable[[], Any], list[str]]]) -> str:
    for attempt, culprits in cases:
        try:
            attempt()
        except InputError as error:
            sentence = str(error)
        else:
            raise _BrokenError(f"it accepts what it should refuse naming {' and '.join(culprits)}")
        for culprit in culprits:
            _hold(culprit in sentence, f"{sentence!r} does not name {culprit!r}")
        _hold("\n" not in sentence, f"{sentence!r} is more than one sentence")
    return f"{len(cases)} wrong inputs, each refused with a sentence"


_PROMISES: dict[str, Callable[[_Trial], str]] = {
    "builds from defaults": _builds,
    "fits and predicts": _fits,
    "same seed, same result": _repeats,
    "another seed, another result": _heeds_the_seed,
    "saves and loads": _saves,
    "answers one task or row like many": _answers_one,
    "fits one task alone": _fits_one,
    "adds a task": _adds,
    "masks missing labels": _masks,
    "refuses wrong rows": _refuses_rows,
    "refuses a task without labels": _refuses_labels,
}


def _same(first: Outputs, second: Outputs, what: str) -> None:
    for name, values in first.items():
        if values.dtype == object:
            _hold(_equal(values, second[name]), f"{what} differs on {name!r}")
        elif not _equal(values, second[name]):
            gap = np.abs(np.asarray(values) - second[name]).max()
            raise _BrokenError(f"{what} differs on {name!r} by up to {gap:.3g}")


def _equal(a: NDArray, b: NDArray) -> bool:
    if a.dtype == object:  # words, or an array a row
        return all(map(np.array_equal, a, b))
    return np.array_equal(a, b)


def _near(a: Any, b: Any) -> bool:
    return a == b if isinstance(a, str) else np.allclose(a, b, rtol=0, atol=1e-4)


@contextmanager
def _watched_network() -> Iterator[list[str]]:
    """Refuse connections that leave this machine, and list them."""
    reached: list[str] = []
    connect, resolve = socket.socket.connect, socket.getaddrinfo

    def leaves(host: Any) -> bool:
        name = host.decode() if isinstance(host, bytes) else str(host)
        if host is None or name in ("localhost", "::1") or name.startswith("127."):
            return False
        reached.append(name)
        return True

    def watched_connect(self: socket.socket, address: Any) -> Any:
        if isinstance(address, tuple) and leaves(address[0]):  # else a Unix socket
            raise OSError(f"{address[0]} is not to be reached")
        return connect(self, address)

    def watched_resolve(host: Any, *arguments: Any, **keywords: Any) -> Any:
        if leaves(host):
            raise OSError(f"{host} is not to be reached")
        return resolve(host, *arguments, **keywords)

    with (
        mock.patch.object(socket.socket, "connect", watched_connect),
        mock.patch.object(socket, "getaddrinfo", watched_resolve),
    ):
        yield reached
