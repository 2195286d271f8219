"""Texts per second: our loop and encoder against sentence-transformers and transformers' Trainer.

    python benchmarks/text_speed.py         measure what the record lacks and judge the claims

All sides have the same MiniLM weights, texts, batches of 32, AdamW, linear schedule, clipping at 1
and one thread. They take turns in one process, in an order that rotates, and are timed in processor
seconds, so that a busy machine does not weigh in; a figure is the median over rounds of the ratio
to the peer in the same round. A run of training goes from strings to trained weights: tokenizing is
in it, loading the encoder is not. Texts are questions (TREC), reviews (SST-2) and sentences of
Wikipedia (POLYTASK_DATA), one of each in turn; pairs are of the STS benchmark.

    classes      mean of states -> 6 classes, cross-entropy              peer: transformers
    pairs        similarity of two vectors, squared error                peer: sentence-transformers
    encode       texts -> vectors                                        peer: sentence-transformers
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
import torch
from harness import Record, write_claims
from tables import read

from polytask.baselines.text_encoder import TextEncoderLearner
from polytask.comparing.claims import Claim
from polytask.data import Processor, Suite, as_mixture
from polytask.data.batch import budgeted
from polytask.parts.text_encoders import as_reader, as_text_encoder, embed_texts, encoder_folder
from polytask.training import Training
from polytask.training.balancers import as_balancer
from polytask.training.steps import as_step

ROUNDS, ROWS, PAIRS, ENCODED, BATCH, LONGEST = 6, 96, 64, 240, 32, 128
WITHIN = 1.05
COMMAND = "python benchmarks/text_speed.py"
Side = Callable[[], Callable[[], Any]]  # gets ready untimed; what it returns is timed


def run() -> Record:
    """Measure what the record lacks, one round at a time."""
    torch.set_num_threads(1)
    record = Record("text_speed")
    record.cell({"part": "padding"}, padding)
    record.cell({"part": "agreement"}, agreement)
    for turn in range(ROUNDS):
        for part in PARTS:
            record.cell({"part": part, "round": turn}, partial(measured, PARTS[part], turn))
    return record


def measured(sides: Mapping[str, Side], turn: int) -> dict[str, Any]:
    """Processor seconds of every side, in an order that depends on the round."""
    names = list(sides)
    order = [names[(i + turn) % len(names)] for i in range(len(names))]
    seconds = {}
    for name in order:
        ready = sides[name]()
        started = time.process_time()
        ready()
        seconds[name] = time.process_time() - started
    return {"seconds": {name: seconds[name] for name in names}, "tokens": tokens_of(sides)}


# -- what is read ----------------------------------------------------------------------------------


@cache
def texts(count: int) -> list[str]:
    """A question, a review, a sentence of Wikipedia, and again."""
    trec, sst2 = (read(f"text_sentences/{n}.parquet")["text"].tolist() for n in ("trec", "sst2"))
    pages = read("seg_wikisections/data.parquet")["sentences"]
    wiki = [sentence for page in pages[:20] for sentence in page]
    return [text for row in zip(trec, sst2, wiki, strict=False) for text in row][:count]


@cache
def pairs() -> tuple[list[str], list[str], list[float]]:
    rows = read("pairs_stsb/data.parquet").query("lang == 'en' and split == 'train'")
    rows = rows.iloc[:: len(rows) // PAIRS].head(PAIRS)
    return rows["sentence1"].tolist(), rows["sentence2"].tolist(), rows["score"].tolist()


def labels(count: int) -> list[int]:
    return [i % 6 for i in range(count)]


@cache
def reader() -> Any:
    return as_reader("minilm", LONGEST)


def tokens_of(sides: Mapping[str, Side]) -> int:
    """Tokens that one run of any side reads, special ones included."""
    a, b, _ = pairs()
    read_ = {"classes": texts(ROWS), "pairs": [*a, *b], "encode": texts(ENCODED)}
    told = next((read_[part] for part, own in PARTS.items() if own is sides and part in read_), [])
    return sum(min(len(ids) + 2, LONGEST) for ids in reader().ids(told)) if told else 0


# -- training --------------------------------------------------------------------------------------

OURS = Training(lr=2e-5, batch=BATCH, epochs=1, patience=1, schedule="linear(warmup=0.0)", clip=1.0)


def ours(suite: Callable[[], Suite], mixture: str = "joint", **settings: Any) -> Callable[[], Any]:
    """Our learner's own way from a suite's strings to trained weights."""
    learner = TextEncoderLearner(
        encoder="minilm",
        max_length=LONGEST,
        training=OURS,
        mixture=mixture,
        dropout=0.0,
        start="random",  # as the peers' heads: equal work
        **settings,
    )
    rows = suite()
    learner.processor_ = Processor.fit(rows, reader())
    module = learner.build(learner.processor_)
    return lambda: learner.learn(
        module,
        rows,
        step=as_step("plain"),
        balancer=as_balancer("sum"),
        mixture=as_mixture(mixture),
        engine=learner._engine(),
        progress=lambda record: None,
    )


@cache
def classes_suite() -> Suite:
    """All rows train; the few that are validated are of the same kind."""
    few = 6
    table = {
        "text": [*texts(ROWS), *texts(few), *texts(few)],
        "label": [*labels(ROWS), *labels(few), *labels(few)],
        "split": ["train"] * ROWS + ["validation"] * few + ["test"] * few,
    }
    kind = {"label": "classification"}
    return Suite.from_table(table, kind, inputs={"text": "text"}, split="column:split")


@cache
def pairs_suite() -> Suite:
    a, b, score = pairs()
    few = 6
    table = {
        "a": [*a, *a[:few], *a[:few]],
        "b": [*b, *b[:few], *b[:few]],
        "score": [*score, *score[:few], *score[:few]],
        "split": ["train"] * len(a) + ["validation"] * few + ["test"] * few,
    }
    kind = {"score": {"kind": "similarity", "low": 0, "high": 5}}
    roles = {"a": "text", "b": "text"}
    return Suite.from_table(table, kind, inputs=roles, split="column:split")


def trainer() -> Callable[[], Any]:
    """The Trainer of transformers on the same network: tokenize, pad batch by batch, train."""
    from datasets import Dataset
    from transformers import AutoModel, AutoTokenizer, DataCollatorWithPadding, Trainer
    from transformers import TrainingArguments as Arguments

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = AutoModel.from_pretrained(
                encoder_folder("minilm"), add_pooling_layer=False
            )
            self.head = torch.nn.Linear(self.encoder.config.hidden_size, 6)

        def forward(self, input_ids: Any, attention_mask: Any, labels: Any) -> dict[str, Any]:
            states = self.encoder(input_ids, attention_mask).last_hidden_state
            weight = attention_mask.unsqueeze(-1).to(states.dtype)
            output = self.head((states * weight).sum(1) / weight.sum(1))
            return {"loss": torch.nn.functional.cross_entropy(output, labels), "logits": output}

    tokenizer = AutoTokenizer.from_pretrained(encoder_folder("minilm"))
    net = Net()

    def whole() -> None:
        rows = Dataset.from_dict({"text": texts(ROWS), "labels": labels(ROWS)})
        found = tokenizer(rows["text"][:], truncation=True, max_length=LONGEST)
        rows = Dataset.from_dict({**found, "labels": labels(ROWS)})
        with tempfile.TemporaryDirectory() as folder:
            arguments = Arguments(output_dir=folder, **_arguments())
            collate = DataCollatorWithPadding(tokenizer)
            _silent(Trainer(net, arguments, collate, rows)).train()

    return whole


def sentence_trainer() -> Callable[[], Any]:
    """The trainer of sentence-transformers with its cosine similarity loss."""
    from datasets import Dataset
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.sentence_transformer.losses import CosineSimilarityLoss

    model = SentenceTransformer(encoder_folder("minilm"), device="cpu")
    model.max_seq_length = LONGEST
    a, b, score = pairs()

    class Trainer(SentenceTransformerTrainer):  # type: ignore[misc]
        def add_model_card_callback(self, default_args_dict: dict[str, Any]) -> None:
            """No model card: it is not training."""

    def whole() -> None:
        rows = Dataset.from_dict({"a": a, "b": b, "score": [s / 5 for s in score]})
        with tempfile.TemporaryDirectory() as folder:
            arguments = SentenceTransformerTrainingArguments(output_dir=folder, **_arguments())
            loss = CosineSimilarityLoss(model)
            _silent(Trainer(model, arguments, rows, loss=loss)).train()

    return whole


def _arguments() -> dict[str, Any]:
    return {
        "num_train_epochs": 1,
        "per_device_train_batch_size": BATCH,
        "learning_rate": OURS.lr,
        "max_grad_norm": 1.0,
        "use_cpu": True,
        "save_strategy": "no",
        "logging_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }


def _silent(trainer: Any) -> Any:
    from transformers import PrinterCallback

    trainer.remove_callback(PrinterCallback)
    return trainer


# -- encoding --------------------------------------------------------------------------------------


@cache
def encoder() -> Any:
    return as_text_encoder("minilm", reader()).eval()


def encode(tokens: int) -> Callable[[], Any]:
    model = encoder()

    def once() -> None:
        with torch.inference_mode():
            embed_texts(texts(ENCODED), model.reader, model.embed, tokens=tokens)

    return once


def encode_unsorted() -> Callable[[], Any]:
    """Rows as they come, 32 at a time."""
    from polytask.data.texts import Texts

    net = encoder()

    def whole() -> None:
        column = Texts("text", texts(ENCODED), reader())
        with torch.inference_mode():
            for start in range(0, len(column), BATCH):
                net.embed(column[slice(start, start + BATCH)])

    return whole


@cache
def other_library() -> Any:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(encoder_folder("minilm"), device="cpu")
    model.max_seq_length = LONGEST
    return model


def encode_theirs() -> Callable[[], Any]:
    model = other_library()
    return lambda: model.encode(texts(ENCODED), batch_size=BATCH, show_progress_bar=False)


PARTS: dict[str, Mapping[str, Side]] = {
    "encode": {
        "ours": partial(encode, 1024),
        "ours, 4,096 tokens a batch": partial(encode, 4096),
        "ours, unsorted, 32 texts a batch": encode_unsorted,
        "peer": encode_theirs,
    },
    "classes": {
        "ours": partial(ours, classes_suite),
        "ours, token budget": partial(ours, classes_suite, "tokens(budget=1024)"),
        "peer": trainer,
    },
    "pairs": {
        "ours": partial(ours, pairs_suite, pairs="apart"),
        "peer": sentence_trainer,
    },
}


def agreement() -> dict[str, Any]:
    """Largest difference of the vectors, ours brought to length 1 as the other library does."""
    model = encoder()
    with torch.inference_mode():
        vectors = embed_texts(texts(ENCODED), model.reader, model.embed).numpy()
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    theirs = other_library().encode(texts(ENCODED), batch_size=BATCH, show_progress_bar=False)
    return {"difference": float(np.abs(vectors - theirs).max())}


def padding() -> dict[str, Any]:
    """Share of all places of a batch that hold no token."""
    lengths = np.array([min(len(i) + 2, LONGEST) for i in reader().ids(texts(3000))])
    suite = {"text": texts(3000), "label": labels(3000)}
    rows = Suite.from_table(suite, {"label": "classification"}, inputs={"text": "text"})
    data = Processor.fit(rows, reader()).encode(rows, "train")
    drawn = np.asarray(data.lengths) + 2
    found = {
        "encoding in file order, 32 a batch": [
            lengths[i : i + BATCH] for i in range(0, len(lengths), BATCH)
        ],
        "encoding sorted by length, 1,024 tokens": [
            np.sort(lengths)[::-1][r.start : r.stop]
            for r in budgeted(np.sort(lengths)[::-1].copy(), 1024)
        ],
    }
    for mixture in ("joint", "tokens(budget=1024)"):
        draws = as_mixture(mixture).draws(data, BATCH if mixture == "joint" else 512, 0, 0)
        name = "random batches of 32" if mixture == "joint" else "token budget of 1,024"
        found[f"training, {name}"] = [drawn[draw.rows.numpy()] for draw in draws]
    return {
        name: float(1 - sum(b.sum() for b in batches) / sum(len(b) * b.max() for b in batches))
        for name, batches in found.items()
    }


# -- what the record says --------------------------------------------------------------------------


def ratios(record: Record, part: str, side: str) -> list[float]:
    """Seconds of a side over those of its peer, round by round; the first round warms up."""
    cells = [c["result"]["seconds"] for c in record.select(part=part) if c["settings"]["round"]]
    return [seconds[side] / seconds["peer"] for seconds in cells]


def claims() -> list[Claim]:
    """Training within 5 % of the peers, encoding at least as fast."""
    record, found = run(), []
    asked = (
        ("classes", "Training a classifier takes at most 5 % longer than transformers", WITHIN),
        ("pairs", "Training on pairs takes at most 5 % longer than sentence-transformers", WITHIN),
        ("encode", "Length-sorted encoding is no slower than sentence-transformers", 1.0),
    )
    for part, text, most in asked:
        told = ratios(record, part, "ours")
        if not told:
            continue
        middle = statistics.median(told)
        found.append(
            Claim(
                "text_speed",
                text,
                "",
                f"{middle:.2f} of its time ({min(told):.2f} to {max(told):.2f})",
                f"<= {most:g}",
                middle <= most,
                tuple(range(1, ROUNDS)),
                COMMAND,
                "",
            )
        )
    write_claims("text_speed", found)
    return found


def table() -> str:
    """Both halves of the record as Markdown."""
    record = Record("text_speed")
    lines = [
        "| what | side | time / peer's, median (range) | a core's tokens/s or texts/s | peer's |",
        "|---|---|---|---|---|",
    ]
    titles = {
        "classes": "training, classes; peer: transformers' Trainer",
        "pairs": "training, pairs; peer: sentence-transformers",
        "encode": "encoding; peer: sentence-transformers",
    }
    for part, title in titles.items():
        cells = [c["result"] for c in record.select(part=part) if c["settings"]["round"]]
        for side in cells[0]["seconds"] if cells else ():
            if side == "peer":
                continue
            told = ratios(record, part, side)
            amount = [ENCODED if part == "encode" else c["tokens"] for c in cells]
            unit = "texts/s" if part == "encode" else "tokens/s"
            speed = [
                statistics.median(a / c["seconds"][who] for a, c in zip(amount, cells, strict=True))
                for who in (side, "peer")
            ]
            lines.append(
                f"| {title} | {side} | {statistics.median(told):.2f} ({min(told):.2f} to "
                f"{max(told):.2f}) | {speed[0]:,.0f} {unit} | {speed[1]:,.0f} |"
            )
    for cell in record.select(part="padding"):
        lines += ["", "| batches | padding |", "|---|---|"]
        lines += [f"| {name} | {100 * share:.0f} % |" for name, share in cell["result"].items()]
    return "\n".join(lines)


if __name__ == "__main__":
    for judged in claims():
        print(judged)
