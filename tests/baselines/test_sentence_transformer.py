"""Fine-tuning by the trainer of sentence-transformers as a learner of a suite."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from polytask.baselines.sentence_transformer import SentenceTransformers
from polytask.data import Suite
from polytask.errors import InputError
from polytask.parts.text_encoders import as_reader, as_text_encoder
from polytask.training import Training

pytest.importorskip("sentence_transformers")

TINY = "bert(width=16, depth=1, heads=2, dropout=0.0)"
WORDS = ("red", "green", "blue", "warm", "cold", "soft")


def sentence(rng: np.random.Generator, first: str | None = None) -> str:
    words = list(rng.choice(WORDS, 4))
    return " ".join([first or words[0], *words[1:]])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny encoder with random weights, as transformers saves it."""
    place = tmp_path_factory.mktemp("encoder")
    torch.manual_seed(0)
    as_text_encoder(TINY, as_reader(TINY, 32, texts=[" ".join(WORDS)])).save(place)
    return str(place)


@pytest.fixture(scope="module")
def suite() -> Suite:
    """Classes, similarity, retrieval, tags and boundaries; the first word says it all."""
    rng = np.random.default_rng(0)
    rows = 72
    colours = rng.integers(3, size=rows)
    others = rng.integers(3, size=rows)
    documents, tags, sections = [], [], []
    for _ in range(rows):
        inside = rng.integers(3, size=5)
        documents.append([sentence(rng, WORDS[c]) for c in inside])
        tags.append([WORDS[c] for c in inside])
        sections.append(np.cumsum(np.r_[0, np.diff(inside) != 0]).tolist())
    table = {
        "a": [sentence(rng, WORDS[c]) for c in colours],
        "b": [sentence(rng, WORDS[c]) for c in others],
        "sentences": documents,
        "colour": [WORDS[c] for c in colours],
        "alike": (4.0 * (colours == others)).tolist(),
        "same": (colours == others).tolist(),
        "found": [[int(t == WORDS[c]) for t in row] for c, row in zip(colours, tags, strict=True)],
        "tags": tags,
        "section": sections,
        "length": rng.normal(size=rows),
    }
    pair = ["a", "b"]
    kinds = {
        "colour": {"kind": "classification", "texts": ["a"]},
        "alike": {"kind": "similarity", "low": 0, "high": 4, "texts": pair},
        "same": {"kind": "classification", "texts": pair},
        "found": {"kind": "retrieval", "texts": ["a", "sentences"]},
        "tags": {"kind": "tags", "texts": ["sentences"]},
        "section": {"kind": "boundaries", "texts": ["sentences"]},
        "length": {"kind": "regression", "texts": ["a"]},
    }
    roles = {"a": "text", "b": "text", "sentences": "text"}
    return Suite.from_table(table, kinds, inputs=roles)


def learner(folder: str, **fields: Any) -> SentenceTransformers:
    training = Training(lr=3e-3, batch=8, epochs=2, patience=2, schedule="linear", device="cpu")
    return SentenceTransformers(encoder=folder, max_length=16, training=training, **fields)


def test_every_kind_of_task_is_tuned_and_saved(suite: Suite, folder: str, tmp_path: Path) -> None:
    model = learner(folder).fit(suite)
    assert len(model.history_) == 2
    scores = model.score(suite)
    assert set(scores) == set(suite.task_names)
    assert scores["colour"]["auroc"] > 0.8
    rows = suite.table("test")
    model.save_pretrained(tmp_path / "model")
    loaded = SentenceTransformers.from_pretrained(tmp_path / "model")
    ours, theirs = model.predict(rows), loaded.predict(rows)
    for task in suite.task_names:
        for a, b in zip(ours[task], theirs[task], strict=True):
            np.testing.assert_allclose(a, b, atol=1e-5)
    assert not [p for p in (tmp_path / "model").rglob("*") if p.suffix in (".bin", ".pt", ".pkl")]


def test_training_finds_what_the_untrained_encoder_does_not(suite: Suite, folder: str) -> None:
    """Retrieval is by cosine alone: no head can make up for an encoder that was not trained."""
    found = suite.only("found")
    model = learner(folder)
    model.training = replace(model.training, epochs=4, patience=4)
    best = max(record["score"] for record in model.fit(found).history_)
    model.training = replace(model.training, lr=1e-9)
    assert best > model.fit(found).history_[0]["score"] + 0.05


def test_a_seed_decides_everything(suite: Suite, folder: str) -> None:
    pairs, rows = suite.only("alike"), suite.table("test")
    first, again, other = (
        learner(folder).with_seed(seed).fit(pairs).predict(rows)["alike"] for seed in (3, 3, 4)
    )
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_numbers_have_a_head_only(suite: Suite, folder: str) -> None:
    model = learner(folder).fit(suite.only("length"))
    assert len(model.history_) == 1
    assert model.predict(suite.table("test"))["length"].shape == (suite.table("test").num_rows,)


def test_schedules_that_the_trainer_lacks_are_refused(suite: Suite, folder: str) -> None:
    model = learner(folder)
    model.training = replace(model.training, schedule="halving(every=2)")
    with pytest.raises(InputError, match="constant or linear or cosine, not 'halving"):
        model.fit(suite)


def test_an_encoder_that_cannot_be_opened_is_refused_in_one_sentence(
    suite: Suite, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="no model that sentence-transformers can open here"):
        SentenceTransformers(encoder=str(tmp_path / "nothing")).fit(suite)
