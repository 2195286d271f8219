"""One encoder for five text tasks against five: quality, weights, latency, training time.

    python benchmarks/one_encoder.py        measure what the record lacks and judge the claims

Question types (TREC), opinions (SST-2), sentence similarity (STS benchmark), sections of Wikipedia
articles and answers to questions (TREC QA), a few hundred texts each (POLYTASK_DATA; the first rows
of a seeded shuffle of the official splits). Every fit starts from the same MiniLM and has the same
passes over its rows, batch and learning rate; the epoch is chosen on validation rows.

    separate     five encoders, each fine-tuned on its task
    joint        one encoder, a head per task; equal weights, or balanced (uw, upgrad), or with
                 heads that begin at random and not as probes
    lora         one frozen encoder, low-rank adapters and a head per task
    linear_probe, sentence_transformer, bm25        what users pick instead

``costs`` asks all five answers for the same rows: weights in bytes, and the seconds of one pass in
turns within one process, on one thread, in processor seconds; also of the exported network in ONNX
Runtime.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy as np
import pandas as pd
import torch
from harness import Record, spread, write_claims
from tables import MissingDataError, read

from polytask.baselines.bm25 import BM25
from polytask.baselines.linear_probe import LinearProbe
from polytask.baselines.sentence_transformer import SentenceTransformers
from polytask.baselines.text_encoder import TextEncoderLearner
from polytask.comparing.claims import Claim
from polytask.data import Processor, Suite
from polytask.lifecycle.export import Session, export
from polytask.training import Training

SEEDS = (0, 1, 2)
TASKS = ("question_type", "opinion", "similarity", "sections", "answers")
TITLES = ("question type", "opinion", "similarity", "sections", "answers")
LENGTH, TURNS = 48, 7
COMMAND = "python benchmarks/one_encoder.py"
TRAINING = Training(
    lr=5e-5, batch=8, epochs=2, patience=2, weight_decay=0.01, clip=1.0, schedule="linear"
)
# LoRA's paper trains adapters at rates about ten times those of whole encoders.
LORA = {"adapters": "lora(rank=8)", "lr": 5e-4}
JOINT: dict[str, dict[str, Any]] = {
    "joint": {},
    "lora": LORA,
    "joint, uw": {"balancer": "uw"},
    "joint, upgrad": {"balancer": "upgrad"},
    "joint, random heads": {"start": "random"},
}


def run() -> Record:
    """Measure what the record lacks; the cells that decide the claims come first."""
    torch.set_num_threads(1)
    record = Record("one_encoder")
    try:
        suite()
    except MissingDataError as problem:
        print(problem, flush=True)
        return record
    record.cell({"part": "costs"}, costs)
    record.cell({"part": "quality", "method": "bm25", "seed": 0}, partial(rival, BM25(), "answers"))
    probe = LinearProbe(max_length=LENGTH)
    record.cell({"part": "quality", "method": "linear_probe", "seed": 0}, partial(rival, probe))
    for seed in SEEDS:
        cell = {"part": "quality", "method": "joint", "seed": seed}
        record.cell(cell, partial(together, seed, **JOINT["joint"]))
        for task in TASKS:
            cell = {"part": "quality", "method": "separate", "task": task, "seed": seed}
            record.cell(cell, partial(fitted, learner(seed), suite().only(task)))
    for method in ("lora", "sentence_transformer", *list(JOINT)[2:]):
        for seed in SEEDS:
            cell = {"part": "quality", "method": method, "seed": seed}
            if method in JOINT:
                record.cell(cell, partial(together, seed, **JOINT[method]))
            else:
                other = SentenceTransformers(max_length=LENGTH, training=TRAINING).with_seed(seed)
                record.cell(cell, partial(rival, other))
    record.cell({"part": "onnx"}, onnx)
    return record


# -- data ------------------------------------------------------------------------------------------


@cache
def suite() -> Suite:
    """All five tasks in one suite; the rows are the same for every seed."""
    return Suite.from_tasks(
        {
            "question_type": labelled("trec"),
            "opinion": labelled("sst2"),
            "similarity": {
                "source": similarity(),
                "texts": ("sentence1", "sentence2"),
                "target": "score",
                "kind": "similarity",
                "low": 0,
                "high": 5,
            },
            "sections": {
                "source": sections(),
                "texts": ("sentences",),
                "target": "section",
                "kind": "boundaries",
            },
            "answers": {
                "source": answers(),
                "texts": ("question", "candidates"),
                "target": "relevance",
                "kind": "retrieval",
            },
        },
        name="five text tasks",
    )


def some(frame: pd.DataFrame, train: int, held: int) -> pd.DataFrame:
    """The first rows of every split in a seeded order; TREC lends training rows for validation."""
    frame = frame.sample(frac=1, random_state=0).reset_index(drop=True)
    split = frame["split"].replace({"dev": "validation"})
    if not (split == "validation").any():
        split[split[split == "train"].index[train : train + held]] = "validation"
    frame = frame.assign(split=split)
    sizes = {"train": train, "validation": held, "test": 2 * held}
    return pd.concat([frame[frame["split"] == s].head(n) for s, n in sizes.items()])


def labelled(name: str) -> dict[str, Any]:
    frame = some(read(f"text_sentences/{name}.parquet"), 200, 60)
    return {
        "source": frame[["text", "label_name", "split"]],
        "texts": ("text",),
        "target": "label_name",
        "kind": "classification",
    }


def similarity() -> pd.DataFrame:
    frame = read("pairs_stsb/data.parquet").query("lang == 'en'")
    return some(frame, 150, 50)[["sentence1", "sentence2", "score", "split"]]


def sections() -> pd.DataFrame:
    """The first ten sentences of articles that have two sections there."""
    frame = read("seg_wikisections/data.parquet").query("domain != 'geography'")
    frame = pd.DataFrame(
        {
            "sentences": [[str(s) for s in row[:10]] for row in frame["sentences"]],
            "section": [[int(s) for s in row[:10]] for row in frame["section"]],
            "split": frame["split"].tolist(),
        }
    )
    two = frame["section"].map(lambda row: len(set(row)) > 1)
    return some(frame[two], 40, 15)


def answers() -> pd.DataFrame:
    """Questions with up to six candidates, of both sorts, a relevant one among them."""
    rows = []
    for _, group in read("rank_trecqa/data.parquet").groupby("question_id", sort=False):
        right, wrong = group[group["label"] == 1].head(2), group[group["label"] == 0]
        if len(right) and len(wrong):
            shown = pd.concat([right, wrong.head(6 - len(right))]).sample(frac=1, random_state=0)
            first = group.iloc[0]
            texts, labels = shown["answer"].tolist(), shown["label"].tolist()
            rows.append((first["question"], texts, labels, first["split"]))
    frame = pd.DataFrame(rows, columns=["question", "candidates", "relevance", "split"])
    return some(frame, 60, 20)


# -- quality ---------------------------------------------------------------------------------------


def learner(seed: int, lr: float = TRAINING.lr, **settings: Any) -> TextEncoderLearner:
    training = Training(**{**vars(TRAINING), "lr": lr, "seed": seed})
    return TextEncoderLearner(
        max_length=LENGTH, pairs="apart", mixture="joint", training=training, **settings
    )


def together(seed: int, **settings: Any) -> dict[str, Any]:
    return fitted(learner(seed, **settings), suite())


def rival(other: Any, *tasks: str) -> dict[str, Any]:
    return fitted(other, suite().only(*tasks) if tasks else suite())


def fitted(model: Any, rows: Suite) -> dict[str, Any]:
    """Test scores of every task, and the processor seconds of the fit."""
    started = time.process_time()
    model = model.fit(rows)
    seconds = time.process_time() - started
    return {"scores": model.score(rows), "seconds": seconds}


# -- costs -----------------------------------------------------------------------------------------


def built(rows: Suite, **settings: Any) -> TextEncoderLearner:
    """A learner as if fitted: what an answer costs does not depend on what was learned."""
    model = learner(0, **settings)
    model.processor_ = Processor.fit(rows, model.reader(rows))
    torch.manual_seed(0)
    model.module_ = model.build(model.processor_).eval()
    return model


def asked(rows: int) -> dict[str, list[Any]]:
    """Rows with a text, another to compare, and a document of ten sentences: all five answers."""
    test = suite().table("test")
    columns = {n: [v for v in test[n].to_pylist() if v] for n in ("text", "text_pair", "texts")}
    documents = [row for row in columns["texts"] if len(row) == 10]
    return {"text": columns["text"][:rows], "text_pair": columns["text_pair"][:rows]} | {
        "texts": documents[:rows]
    }


def costs() -> dict[str, Any]:
    """Bytes of weights, and seconds until all five answers are there."""
    whole = built(suite())
    single = {task: built(suite().only(task)) for task in TASKS}
    lora = built(suite(), adapters=LORA["adapters"])
    table = asked(8)

    def one_by_one() -> None:
        for task, model in single.items():
            model.predict(table, [task])

    sides = {
        "separate": one_by_one,
        "joint": partial(whole.predict, table, TASKS),
        "lora": partial(lora.predict, table, TASKS),
    }
    weights = {
        "separate": sum(bytes_of(model) for model in single.values()),
        "joint": bytes_of(whole),
        "lora": bytes_of(lora),
    }
    return {"seconds": in_turns(sides), "bytes": weights}


def onnx() -> dict[str, Any]:
    """PyTorch against the exported network, from encoded rows to raw outputs."""
    whole = built(suite())
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        told = export(whole, f"{folder}/model")
        session = Session(f"{folder}/model", threads=1)
        for rows in (1, 8):
            inputs = whole.processor_.inputs(asked(rows))[:].inputs
            arrays = {name: tensor.numpy() for name, tensor in inputs.items()}

            def in_torch(inputs: Mapping[str, Any] = inputs) -> None:
                with torch.inference_mode():
                    whole.module_.outputs(dict(inputs), TASKS)

            sides = {"torch": in_torch, "onnx": partial(session.run, arrays)}
            found[str(rows)] = in_turns(sides)
    return {"seconds": found, "error": max(told["errors"].values())}


def bytes_of(model: TextEncoderLearner) -> int:
    return sum(p.numel() * p.element_size() for p in model.module_.parameters())


def in_turns(sides: Mapping[str, Callable[[], Any]]) -> dict[str, float]:
    """Median processor seconds of each side; the first turn warms up."""
    taken: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(TURNS + 1):
        for name, once in sides.items():
            started = time.process_time()
            once()
            if turn:
                taken[name].append(time.process_time() - started)
    return {name: statistics.median(values) for name, values in taken.items()}


# -- what the record says --------------------------------------------------------------------------


def scores(record: Record, method: str) -> dict[int, dict[str, float]]:
    """Seed -> task -> primary metric on test, higher is better; whole seeds only."""
    found: dict[int, dict[str, float]] = {}
    for cell in record.select(part="quality", method=method):
        for task, told in cell["result"]["scores"].items():
            metric, sign = PRIMARY[task]
            found.setdefault(cell["settings"]["seed"], {})[task] = sign * told[metric]
    return {seed: row for seed, row in found.items() if len(row) == len(TASKS)}


PRIMARY = {
    "question_type": ("auroc", 1),
    "opinion": ("auroc", 1),
    "similarity": ("spearman", 1),
    "sections": ("pk", -1),
    "answers": ("ndcg@10", 1),
}


def gains(record: Record, method: str) -> dict[int, float]:
    """Mean over tasks of the gain over separate encoders of the same seed, in per cent."""
    alone = scores(record, "separate")
    return {
        seed: 100 * float(np.mean([(row[t] - alone[seed][t]) / abs(alone[seed][t]) for t in row]))
        for seed, row in scores(record, method).items()
        if seed in alone
    }


def claims() -> list[Claim]:
    """One encoder: no worse on average, five times smaller, faster where answers are shared."""
    record, found = Record("one_encoder"), []

    def claim(text: str, measured: str, relation: str, holds: bool, seeds: Any, why: str) -> None:
        reason = "" if holds else why
        told = tuple(seeds)
        found.append(
            Claim("one_encoder", text, "", measured, relation, holds, told, COMMAND, reason)
        )

    for method, most in (("joint", 2.0), ("lora", 2.0)):
        if told := gains(record, method):
            mean = statistics.mean(told.values())
            name = "encoder for all tasks" if method == "joint" else "frozen encoder with adapters"
            claim(
                f"One {name} loses at most {most:g} % on average against five encoders",
                f"{spread(told.values(), 1)} %",
                f">= -{most:g} %",
                mean >= -most,
                sorted(told),
                "worst task: " + worst(record, method),
            )
    ours = gains(record, "joint")
    for rival, name in (
        ("sentence_transformer", "the trainer of sentence-transformers"),
        ("linear_probe", "linear probes of the frozen encoder"),
    ):
        theirs = gains(record, rival)
        if len(ours) >= len(SEEDS) and theirs:
            claim(
                f"One encoder for all tasks is ahead of {name}, mean over tasks",
                f"{spread(ours.values(), 1)} % against {spread(theirs.values(), 1)} %",
                "gain of one encoder > gain of the rival",
                statistics.mean(ours.values()) > statistics.mean(theirs.values()),
                sorted(ours),
                "",
            )
    for cell in record.select(part="costs"):
        result = cell["result"]
        smaller = result["bytes"]["separate"] / result["bytes"]["joint"]
        faster = result["seconds"]["separate"] / result["seconds"]["joint"]
        slower = result["seconds"]["lora"] / result["seconds"]["separate"]
        claim("Its weights are a fifth", f"1/{smaller:.2f}", "<= 1/4.5", smaller >= 4.5, (0,), "")
        claim(
            "All five answers for the same texts come sooner, as each text is encoded once",
            f"{faster:.2f}x",
            "> 1.5x",
            faster > 1.5,
            (0,),
            "",
        )
        claim(
            "Adapters cost at most a third more time than separate encoders",
            f"{slower:.2f}x",
            "<= 1.33x",
            slower <= 1.33,
            (0,),
            "the low-rank products are small and many; folded into the weights they would be free",
        )
    write_claims("one_encoder", found)
    return found


def worst(record: Record, method: str) -> str:
    """The task that loses most against its own encoder."""
    alone, told = scores(record, "separate"), scores(record, method)
    seeds = [seed for seed in told if seed in alone]
    lost = {t: float(np.mean([told[s][t] - alone[s][t] for s in seeds])) for t in TASKS}
    task = min(lost, key=lambda t: lost[t])
    return f"{TITLES[TASKS.index(task)]} ({PRIMARY[task][0]} {lost[task]:+.3f})"


METHODS = (
    "separate",
    "joint",
    "joint, uw",
    "joint, upgrad",
    "joint, random heads",
    "lora",
    "sentence_transformer",
    "linear_probe",
    "bm25",
)


def table() -> str:
    """Quality per method and task, then what each costs."""
    record = Record("one_encoder")
    head = [f"{title}, {PRIMARY[task][0]}" for task, title in zip(TASKS, TITLES, strict=True)]
    lines = [
        f"| method | {' | '.join(head)} | gain over separate, % | training, s of a core |",
        "|---|" + "---|" * (len(TASKS) + 2),
    ]
    for method in METHODS:
        cells = record.select(part="quality", method=method)
        if not cells:
            continue
        row = []
        for task in TASKS:
            metric, _ = PRIMARY[task]
            told = [
                c["result"]["scores"][task][metric] for c in cells if task in c["result"]["scores"]
            ]
            row.append(spread(told) if len(told) > 1 else f"{told[0]:.3f}" if told else "")
        gain = gains(record, method) if method != "separate" else {}
        shown = (
            spread(gain.values(), 1)
            if len(gain) > 1
            else "".join(f"{g:.1f}" for g in gain.values())
        )
        seconds: dict[int, float] = {}
        for cell in cells:
            seed = cell["settings"]["seed"]
            seconds[seed] = seconds.get(seed, 0.0) + cell["result"]["seconds"]
        middle = statistics.median(seconds.values())
        lines.append(f"| {method} | {' | '.join(row)} | {shown} | {middle:,.0f} |")
    for cell in record.select(part="costs"):
        result = cell["result"]
        lines += [
            "",
            "| all five answers for eight rows | weights, MB | time / separate |",
            "|---|---|---|",
        ]
        for side, size in result["bytes"].items():
            ratio = result["seconds"][side] / result["seconds"]["separate"]
            lines.append(f"| {side} | {size / 1e6:,.0f} | {ratio:.2f} |")
    for cell in record.select(part="onnx"):
        result = cell["result"]
        lines += ["", "| exported, all five answers | PyTorch / ONNX Runtime |", "|---|---|"]
        for rows, seconds_ in result["seconds"].items():
            lines.append(f"| {rows} rows | {seconds_['torch'] / seconds_['onnx']:.2f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    run()
    for judged in claims():
        print(judged)
