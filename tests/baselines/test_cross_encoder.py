"""The cross-encoder: what it reads, what it refuses, and the promises of every learner."""

from __future__ import annotations

from functools import cache

import numpy as np
import pyarrow as pa
import pytest
import torch

from polytask.baselines.cross_encoder import CrossEncoder
from polytask.data import Suite
from polytask.data.pair_generators import SynonymPairs
from polytask.errors import InputError
from polytask.testing import check_system
from polytask.training import Training

TINY = "bert(width=16, depth=2, heads=2, dropout=0.0)"
SHORT = Training(lr=3e-3, batch=16, epochs=2, device="cpu")
LAW = SynonymPairs(concepts=12, synonyms=2, length=4, shared=2)


@cache
def suite() -> Suite:
    return LAW.suite(rows=(64, 24, 24))


@cache
def fitted() -> CrossEncoder:
    return CrossEncoder(encoder=TINY, max_length=32, training=SHORT).fit(suite())


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_promises(pooling: str) -> None:
    settings = {"encoder": TINY, "max_length": 32, "pooling": pooling, "training": SHORT}
    for check in check_system(CrossEncoder, suite=suite(), **settings):
        assert check.passed is not False, check


def test_a_pair_is_one_sequence_read_once_for_all_tasks() -> None:
    learner = fitted()
    module = learner.module_.eval()
    inputs = learner.processor_.encode(suite(), "test").inputs
    a, b = inputs["a"][:5], inputs["b"][:5]
    passes: list[torch.Tensor] = []
    hook = module.encoder.register_forward_hook(
        lambda _, args, out: passes.append(args[0].ids)  # type: ignore[func-returns-value]
    )
    module.outputs({"a": a, "b": b}, ["alike", "overlap"])
    hook.remove()
    (ids,) = passes
    reader = learner.processor_.reader
    cls, sep = reader.tokenizer.cls_token_id, reader.tokenizer.sep_token_id
    for row in range(5):
        first, second = (x[row][x[row] >= 0].tolist() for x in (a, b))
        assert ids[row].tolist()[: len(first) + len(second) + 3] == [
            cls, *first, sep, *second, sep,
        ]  # fmt: skip


def test_the_first_text_looks_at_the_second() -> None:
    """Another second sentence moves the answer in another way for another first sentence."""
    first, second = LAW.draw(2, 0)["a"], LAW.draw(2, 1)["b"]
    rows = {"a": [a for a in first for _ in second], "b": second * 2}
    moved = np.diff(fitted().predict(rows)["overlap"].reshape(2, 2), axis=1)
    assert abs(moved[0] - moved[1]) > 1e-6


def test_single_texts_are_read_too() -> None:
    texts = LAW.draw(240, 0)["a"]
    glad = ["yes" if text.startswith("glad") else "no" for text in texts]
    single = Suite.from_table({"a": texts, "glad": glad}, ["glad"], inputs={"a": "text"})
    training = Training(lr=5e-3, batch=16, epochs=8, patience=8, device="cpu")
    learner = CrossEncoder(encoder=TINY, max_length=32, pooling="mean", training=training)
    assert learner.fit(single).score(single)["glad"]["accuracy"] > 0.9


def test_more_than_two_texts_are_refused() -> None:
    table = suite().table("train").append_column("c", suite().table("train")["a"])
    roles = dict.fromkeys("abc", "text")
    three = Suite.from_table(table, ["alike"], inputs=roles, exclude=["overlap"])
    with pytest.raises(InputError, match="'alike' reads 'a', 'b', 'c'"):
        CrossEncoder(encoder=TINY, training=SHORT).fit(three)


def test_other_kinds_are_refused() -> None:
    table = suite().table("train").append_column("word", pa.array(["w001"] * 64))
    spans = {"word": {"kind": "generation"}}
    words = Suite.from_table(
        table, spans, inputs={"a": "text", "b": "text"}, exclude=["alike", "overlap"]
    )
    with pytest.raises(InputError, match="'word' is of kind 'generation'"):
        CrossEncoder(encoder=TINY, training=SHORT).fit(words)
