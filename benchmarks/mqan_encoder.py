"""MQAN over MiniLM: five real text tasks asked as questions, against heads on the same encoder.

The tasks are those of ``benchmarks/mqan.py`` with 300 training rows each. Each task alone, and all
jointly in turns; beside them the same encoder fine-tuned jointly with a head per task (which cannot
answer the dialogue task in words), and logistic regression on its frozen embeddings. All fine-tuned
rows have the same number of updates per task and the same batch.

    PYTHONPATH=src python benchmarks/mqan_encoder.py

POLYTASK_DATA names the folder of the real sets.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from harness import Record, write_claims
from mqan import (
    LABELS,
    METRICS,
    PROMPTS,
    REAL,
    SEEDS,
    Cell,
    Evidence,
    figures,
    mean,
    on_real,
    real,
    real_cells,
    real_table,
    rival_cells,
    said,
)
from tables import MissingDataError

from polytask.baselines.text_encoder import TextEncoderLearner
from polytask.comparing.claims import Claim
from polytask.systems.mqan_encoder import MQANEncoder
from polytask.training import Training

HEADS = REAL[:4]  # what can be read off a head
ROWS = (300, 100, 500)  # of each task, per split


def budget(seed: int, lr: float) -> Training:
    return Training(
        lr=lr,
        weight_decay=0.01,
        decay="matrices",
        batch=16,
        epochs=4,
        patience=4,
        schedule="linear(warmup=0.1)",
        clip=1.0,
        precision="bf16",
        seed=seed,
        device="cpu",
    )


def answering(seed: int, **changes: Any) -> MQANEncoder:
    given = {"mixture": "round_robin", **changes}
    return MQANEncoder(
        max_length=96,
        prompts=PROMPTS,  # type: ignore[arg-type]
        labels=LABELS,  # type: ignore[arg-type]
        training=budget(seed, MQANEncoder().training.lr),
        **given,
    )


def heads(seed: int) -> dict[str, Any]:
    """The encoder with a head per task; its learning rate is its own default."""
    suite = real(ROWS).only(*HEADS)
    learner = TextEncoderLearner(
        max_length=96,
        mixture="round_robin",
        training=budget(seed, TextEncoderLearner().training.lr),
    ).fit(suite)
    scores = learner.score(suite)
    return {
        "test": {task: 100 * scores[task][METRICS[task][0]] for task in scores},
        "updates": learner.state_.steps,
    }


def head_cells() -> Iterator[Cell]:
    for seed in SEEDS:
        yield {"suite": "real", "row": "heads, joint", "seed": seed}, partial(heads, seed)


def run() -> Record:
    """Measure every cell that the record lacks; the first seed of every row comes first."""
    torch.set_num_threads(1)
    record = Record("mqan_encoder")
    try:
        real(ROWS)
    except MissingDataError as problem:
        print(f"the real tasks are left out: {problem}", flush=True)
        return record
    plan = [*real_cells(answering, ROWS, joint=["joint"]), *head_cells(), *rival_cells(ROWS)]
    for settings, measure in sorted(plan, key=lambda cell: cell[0]["seed"]):
        record.cell(settings, measure)
    return record


def on_heads(e: Evidence) -> Iterator[Claim]:
    """Against what a user of transformers does first."""
    ours = e.whole("real", "joint", HEADS)
    theirs = e.whole("real", "heads, joint", HEADS)
    seeds = ours.keys() & theirs.keys()
    if len(seeds) >= 3:
        gap = float(np.mean([mean(ours, t) - mean(theirs, t) for t in HEADS]))
        yield said(
            "mqan_encoder",
            "answers in words keep up with a head per task on the same encoder, both joint",
            "",
            f"words {figures(ours, HEADS)}; heads {figures(theirs, HEADS)}; mean {gap:+.1f}",
            "mean of words >= mean of heads - 1",
            gap >= -1,
            seeds,
        )


def claims() -> list[Claim]:
    """Every claim that the record has figures for, judged and written beside it."""
    e = Evidence(Record("mqan_encoder"))
    found = [*on_real("mqan_encoder", e), *on_heads(e)]
    write_claims("mqan_encoder", found)
    return found


def table() -> str:
    """The record as Markdown."""
    titles = {
        "single": "answers in words, a network per task",
        "joint": "answers in words, joint (round robin, equal)",
        "heads, joint": "a head per task on MiniLM, joint",
        "linear probe": "frozen MiniLM, logistic regression",
        "majority": "most frequent class",
    }
    return "\n".join(real_table(Evidence(Record("mqan_encoder")), titles))


if __name__ == "__main__":
    run()
    for claim in claims():
        print(f"{'holds' if claim.holds else 'FAILS'}: {claim.claim}: {claim.measured}")
