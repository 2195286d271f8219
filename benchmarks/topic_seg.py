"""Local-context topic segmentation: synthetic articles, then Wikipedia sections with MiniLM.

    PYTHONPATH=src python benchmarks/topic_seg.py     # measures what the record lacks, then judges

Figures are per cent on test documents. P_k is per document unless a column says "joined" (all
documents one after the other, which flatters). The threshold of every method that has one is chosen
on validation for the lowest P_k per document; so is the epoch. A seed changes articles, weights and
batches of the synthetic part, weights and batches of the real one. Every set of losses sees the
same pairs for the same number of epochs.

Real sets: POLYTASK_DATA names their folder; without it the real part is left out, and said so.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from harness import Record, spread, write_claims
from numpy.typing import NDArray
from tables import MissingDataError

from polytask.baselines.texttiling import tiled
from polytask.comparing.claims import Claim
from polytask.data import ColumnSplit, Processor, Suite
from polytask.data.segmented import Articles
from polytask.errors import InputError
from polytask.parts.text_encoders import as_reader, as_text_encoder
from polytask.systems.topic_seg import TopicSeg, best_threshold
from polytask.tasks.text import Boundaries, Tagging
from polytask.tasks.text_metrics import boundary_f1, pk, windowdiff
from polytask.training import Training

COMMAND = "python benchmarks/topic_seg.py"
SEEDS = (0, 1, 2)
ALL = "stp+tc+nsp"
SETS = ("stp", "stp+tc", ALL, "tc", "stp+nsp", "tc+nsp", "nsp")
SIZES = (60, 300)
DOMAINS = ("elements", "animals")
# What a row changes of its setting's learner.
WAYS: dict[str, dict[str, Any]] = {
    **{name: {"losses": tuple(name.split("+"))} for name in SETS},
    "joint": {"joint": True},
    "window 4": {"window": 4},
    "uw": {"balancer": "uw"},
}

# -- what is learned from --------------------------------------------------------------------------


@cache
def articles(train: int, seed: int) -> Suite:
    return Articles(seed=seed).suite(train, validation=40, test=100, seed=seed)


@cache
def wikisections(domain: str) -> Suite:
    """Articles of one domain: sentences with sections and, but for "other", topics.

    75 training articles (all that elements has) are cut at 20 sentences, to keep a fit short on one
    core; validation and test articles are whole.
    """
    rows = _read("seg_wikisections", [("domain", "==", domain)])
    training = [row for row in rows if row["split"] == "train"]
    kept = {
        training[i]["page_id"] for i in np.random.default_rng(0).permutation(len(training))[:75]
    }
    rows = [row for row in rows if row["split"] != "train" or row["page_id"] in kept]
    columns: dict[str, list[Any]] = {n: [] for n in ("sentences", "section", "topic", "split")}
    for row in rows:
        first = 20 if row["split"] == "train" else len(row["sentences"])
        sections = row["section"][:first]
        labels = [row["labels"][number] for number in sections]
        columns["sentences"].append(row["sentences"][:first])
        columns["section"].append(sections)
        columns["topic"].append([None if label == "other" else label for label in labels])
        columns["split"].append(row["split"])
    return _suite(pa.table(columns), domain)


@cache
def choi(split: str, most: int) -> tuple[list[list[str]], list[NDArray[np.bool_]]]:
    """Documents of each group of Choi's set, and their gaps."""
    taken: dict[str, int] = {}
    documents, gaps = [], []
    for row in _read("seg_choi", [("split", "==", split)]):
        taken[row["source"]] = taken.get(row["source"], 0) + 1
        if row["source"] != "manifesto" and taken[row["source"]] <= most:
            documents.append(row["sentences"])
            gaps.append(np.diff(row["section"]) != 0)
    return documents, gaps


def _read(name: str, filters: list[tuple[str, str, str]]) -> list[dict[str, Any]]:
    root = os.environ.get("POLYTASK_DATA")
    if not root:
        raise MissingDataError(f"{name} is not here: POLYTASK_DATA names the folder of all sets")
    return pq.read_table(Path(root) / name / "data.parquet", filters=filters).to_pylist()


def _suite(table: pa.Table, name: str) -> Suite:
    return Suite.from_table(
        table,
        {"section": Boundaries(), "topic": Tagging()},
        inputs={"sentences": "text"},
        split=ColumnSplit("split"),
        name=name,
    )


@dataclass(frozen=True)
class Setting:
    """A suite by seed, and the budget that every row on it gets."""

    suite: Callable[[int], Suite]
    learner: TopicSeg


SMALL = TopicSeg(
    encoder="bert(width=96, depth=1, heads=4)",
    max_length=96,
    stretch=16,
    training=Training(lr=1e-3, batch=4, epochs=10, patience=4, device="cpu", clip=1.0),
)
REAL = TopicSeg(
    encoder="minilm",
    max_length=48,
    layer="none",
    stretch=16,
    training=Training(
        lr=1e-4, batch=2, epochs=2, patience=2, device="cpu", clip=1.0, schedule="linear"
    ),
)
SETTINGS = {
    **{
        f"articles {train}": Setting(
            lambda seed, train=train: articles(train, seed),  # type: ignore[misc]
            replace(SMALL, training=replace(SMALL.training, epochs=epochs)),
        )
        for train, epochs in ((60, 10), (300, 4))
    },
    **{d: Setting(lambda seed, domain=d: wikisections(domain), REAL) for d in DOMAINS},  # type: ignore[misc]
}


# -- one fit ---------------------------------------------------------------------------------------


def figures(wanted: Sequence[NDArray], given: Sequence[NDArray]) -> dict[str, float]:
    """Per cent: P_k per document and joined, WindowDiff, F1 of boundaries."""
    return {
        "pk": 100 * pk(wanted, given),
        "pk joined": 100 * pk(wanted, given, mode="concatenated"),
        "windowdiff": 100 * windowdiff(wanted, given),
        "boundary f1": 100 * boundary_f1(wanted, given),
    }


def held(suite: Suite, split: str) -> tuple[list[list[str]], list[NDArray[np.bool_]]]:
    """Documents of a split, and their gaps."""
    rows = suite.splits[split].data
    sections = rows.column("section").to_pylist()
    return rows.column("sentences").to_pylist(), [np.diff(s) != 0 for s in sections]


def tagged(kind: Tagging, suite: Suite, decoded: NDArray) -> dict[str, float]:
    """Accuracy and macro F1 of topics on test sentences, per cent."""
    target, _ = kind.encode(suite.splits["test"].data.column("topic"))
    return {name: 100 * value for name, value in kind.scores(target, decoded).items()}


def fit(data: str, way: str, seed: int) -> dict[str, Any]:
    """Test figures of one fit; on real data also those of the same model on Choi's documents."""
    setting = SETTINGS[data]
    suite = setting.suite(seed)
    learner = replace(setting.learner, **WAYS[way]).with_seed(seed)
    if "tc" not in learner.losses:
        suite = suite.only("section")
    started = time.perf_counter()
    learner.fit(suite)
    result: dict[str, Any] = {"seconds": time.perf_counter() - started}
    result |= {"tau": learner.threshold_, "epoch": learner.state_.best_epoch}
    documents, wanted = held(suite, "test")
    found = learner.predict({"sentences": documents})
    result |= figures(wanted, [row > 0.5 for row in found["section"]])
    if "topic" in found:
        kind = learner.processor_.task("topic").kind
        assert isinstance(kind, Tagging)
        result |= tagged(kind, suite, found["topic"])
    if data in DOMAINS and way in ("stp", ALL):
        result["choi"] = elsewhere(
            lambda texts: list(learner.predict({"sentences": texts}, ["section"])["section"])
        )
    return result


def elsewhere(chances: Callable[[list[list[str]]], list[NDArray]]) -> dict[str, float]:
    """Figures on Choi's test documents, the threshold from its validation documents."""
    documents, wanted = choi("validation", 1)
    tau = best_threshold(wanted, chances(documents))
    documents, wanted = choi("test", 2)
    return figures(wanted, [row > tau for row in chances(documents)])


# -- rivals ----------------------------------------------------------------------------------------


def nothing(data: str, seed: int) -> dict[str, Any]:
    _, wanted = held(SETTINGS[data].suite(seed), "test")
    return figures(wanted, [np.zeros_like(w) for w in wanted])


def everything(data: str, seed: int) -> dict[str, Any]:
    _, wanted = held(SETTINGS[data].suite(seed), "test")
    return figures(wanted, [np.ones_like(w) for w in wanted])


def chance(data: str, seed: int) -> dict[str, Any]:
    """Boundaries drawn at the rate of the training documents."""
    suite, rng = SETTINGS[data].suite(seed), np.random.default_rng(seed)
    rate = np.concatenate(held(suite, "train")[1]).mean()
    _, wanted = held(suite, "test")
    return figures(wanted, [rng.random(len(w)) < rate for w in wanted])


def texttiling(data: str, seed: int) -> dict[str, Any]:
    documents, wanted = held(SETTINGS[data].suite(seed), "test")
    return figures(wanted, [tiled(texts) for texts in documents])


@cache
def frozen(texts: tuple[str, ...]) -> NDArray[np.float32]:
    """Sentence vectors of MiniLM as it comes ``[n, 384]``, of length 1."""
    reader = as_reader("minilm", REAL.max_length)
    encoder = as_text_encoder("minilm", reader).eval()
    ids = [torch.from_numpy(row).long() for row in reader.ids(list(texts))]
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    found = np.zeros((len(ids), encoder.width), np.float32)
    with torch.inference_mode():
        for start in range(0, len(order), 32):
            part = order[start : start + 32]
            padded = torch.nn.utils.rnn.pad_sequence(
                [ids[i] for i in part], batch_first=True, padding_value=-1
            )
            found[part] = encoder.embed(padded).numpy()
    return found / np.linalg.norm(found, axis=1, keepdims=True).clip(1e-9)


def vectors(documents: Sequence[Sequence[str]]) -> list[NDArray[np.float32]]:
    return [frozen(tuple(texts)) for texts in documents]


def dip(x: NDArray, width: int, depth: bool) -> NDArray[np.float64]:
    """How far the cosine of the means of ``width`` sentences dips at each gap ``[n-1]``.

    With ``depth`` measured from the nearest peaks on both sides, as TextTiling does.
    """
    gaps = range(1, len(x))
    sides = [(x[max(0, g - width) : g].mean(0), x[g : g + width].mean(0)) for g in gaps]
    cosine = np.array([a @ b / (np.linalg.norm(a) * np.linalg.norm(b)) for a, b in sides])
    if not depth:
        return 1 - cosine
    found = np.empty(len(cosine))
    for g, here in enumerate(cosine):
        peaks = []
        for walk in (cosine[g::-1], cosine[g:]):
            falls = np.flatnonzero(np.diff(walk) < 0)
            peaks.append(walk[falls[0]] if len(falls) else walk[-1])
        found[g] = sum(peaks) - 2 * here
    return found


def dips(data: str, seed: int) -> dict[str, Any]:
    """Nothing is trained; window, depth and threshold are chosen on validation."""
    suite = SETTINGS[data].suite(seed)
    texts, wanted = held(suite, "validation")
    before = vectors(texts)
    best: tuple[float, int, bool, float] = (np.inf, 1, False, 0.0)
    for width in (1, 2, 3, 5, 8):
        for depth in (False, True):
            found = [dip(x, width, depth) for x in before]
            tau = best_threshold(wanted, found)
            error = pk(wanted, [row > tau for row in found])
            best = min(best, (error, width, depth, tau))
    _, width, depth, tau = best
    texts, wanted = held(suite, "test")
    result: dict[str, Any] = {"window": width, "depth": depth}
    result |= figures(wanted, [dip(x, width, depth) > tau for x in vectors(texts)])
    result["choi"] = elsewhere(lambda d: [dip(x, width, depth) for x in vectors(d)])
    return result


def probe(data: str, seed: int) -> dict[str, Any]:
    """Logistic regressions on frozen vectors: of neighbours [u; v; |u-v|; u*v], of topics u.

    The strength of their penalties is chosen on validation.
    """
    from sklearn.linear_model import LogisticRegression

    suite = SETTINGS[data].suite(seed)
    kind = Processor.fit(suite).task("topic").kind
    assert isinstance(kind, Tagging)
    parts = {}
    for split in ("train", "validation", "test"):
        documents, gaps = held(suite, split)
        topics, _ = kind.encode(suite.splits[split].data.column("topic"))
        parts[split] = (vectors(documents), gaps, topics)

    def pairs(x: NDArray) -> NDArray:
        u, v = x[:-1], x[1:]
        return np.concatenate([u, v, np.abs(u - v), u * v], axis=1)

    x, gaps, topics = parts["train"]
    known, labels = np.concatenate(x), np.concatenate(topics)
    features, ends = np.concatenate([pairs(d) for d in x]), np.concatenate(gaps)
    x, gaps, topics = parts["validation"]
    best: tuple[float, float, Any] = (np.inf, 0.0, None)
    for strength in (0.1, 1.0, 10.0):
        made = LogisticRegression(C=strength, class_weight="balanced", max_iter=300)
        made.fit(features, ends)
        chances = [made.predict_proba(pairs(d))[:, 1] for d in x]
        tau = best_threshold(gaps, chances)
        error = pk(gaps, [row > tau for row in chances])
        best = min(best, (error, tau, made), key=lambda b: b[0])
    _, tau, ender = best
    seen = np.concatenate(topics)
    tagger = max(
        (
            LogisticRegression(C=c, max_iter=300).fit(known[labels >= 0], labels[labels >= 0])
            for c in (1.0, 10.0, 100.0)
        ),
        key=lambda made: made.score(np.concatenate(x)[seen >= 0], seen[seen >= 0]),
    )
    x, gaps, topics = parts["test"]
    result = figures(gaps, [ender.predict_proba(pairs(d))[:, 1] > tau for d in x])
    seen = np.concatenate(topics)
    right = tagger.predict(np.concatenate(x)[seen >= 0]) == seen[seen >= 0]
    return {**result, "accuracy": 100 * float(right.mean())}


# Rival -> its function, and whether a seed changes it on real data.
RIVALS: dict[str, tuple[Callable[[str, int], dict[str, Any]], bool]] = {
    "no boundary": (nothing, False),
    "all boundaries": (everything, False),
    "random": (chance, True),
    "texttiling": (texttiling, False),
    "dips": (dips, False),
    "probe": (probe, False),
}


# -- time ------------------------------------------------------------------------------------------


def turns(data: str, documents: int = 6, rounds: int = 7) -> dict[str, Any]:
    """Median seconds per document, siamese and cross-encoder taking turns on one thread."""
    setting = SETTINGS[data]
    suite = setting.suite(0)
    texts, _ = held(suite, "test")
    table = {"sentences": texts[:documents]}
    made = {}
    for joint in (False, True):
        learner = replace(setting.learner, joint=joint)
        learner.processor_ = Processor.fit(suite, learner.reader(suite))
        learner.module_ = learner.build(learner.processor_)
        made["joint" if joint else "siamese"] = learner
    taken: dict[str, list[float]] = {name: [] for name in made}
    for turn in range(rounds + 1):
        for name, learner in made.items():
            started = time.perf_counter()
            learner.predict(table, ["section"])
            if turn:  # the first warms up
                taken[name].append((time.perf_counter() - started) / documents)
    ratios = np.array(taken["siamese"]) / np.array(taken["joint"])
    return {
        **{name: float(np.median(seconds)) for name, seconds in taken.items()},
        "ratio": float(np.median(ratios)),
        "sentences": fmean(map(len, texts[:documents])),
    }


# -- the plan --------------------------------------------------------------------------------------


def plan() -> Iterator[tuple[str, str, int]]:
    """Data, way and seed of every fit, those that decide claims first."""

    def rows(data: str, *ways: str) -> Iterator[tuple[str, str, int]]:
        return ((data, way, seed) for seed in SEEDS for way in ways)

    main = ("stp", ALL, "stp+tc", "tc")
    rest = tuple(way for way in SETS if way not in main)
    yield from rows("articles 60", *main, "stp+nsp")
    yield from rows("elements", *main)
    yield from rows("articles 60", "joint", "window 4")
    yield from rows("articles 300", *main, "stp+nsp")
    yield from rows("elements", *rest, "uw")
    yield from rows("articles 60", "tc+nsp", "nsp")
    yield from rows("animals", *main, *rest)
    yield from rows("articles 300", "tc+nsp", "nsp")
    yield from rows("elements", "joint")


def run() -> None:
    """Measure what the record lacks, then judge."""
    torch.set_num_threads(1)
    record = Record("topic_seg")
    missing: set[str] = set()
    for data in SETTINGS:
        for rival, (measure, drawn) in RIVALS.items():
            if data not in DOMAINS and rival in ("dips", "probe"):
                continue  # made-up words say nothing to a pretrained encoder
            for seed in SEEDS if drawn or data not in DOMAINS else SEEDS[:1]:
                settings = {"data": data, "rival": rival, "seed": seed}
                attempt(record, settings, lambda: measure(data, seed), missing)  # noqa: B023
        if data in ("articles 60", "elements"):
            attempt(record, {"data": data, "time": True}, lambda: turns(data), missing)  # noqa: B023
    for data, way, seed in plan():
        settings = {"data": data, "way": way, "seed": seed}
        attempt(record, settings, lambda: fit(data, way, seed), missing)  # noqa: B023
    for sentence in sorted(missing):
        print(f"left out: {sentence}")
    write_claims("topic_seg", claims())


def attempt(
    record: Record,
    settings: Mapping[str, Any],
    measure: Callable[[], dict[str, Any]],
    missing: set[str],
) -> None:
    try:
        record.cell(settings, measure)
    except MissingDataError as error:
        missing.add(str(error))


def claims():
    return []
