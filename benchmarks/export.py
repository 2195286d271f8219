"""Exported networks: ONNX Runtime against PyTorch, one task against all, 8 bits against 32.

    python benchmarks/export.py             measure what the record lacks and judge the claims

Times are ratios of passes that take turns in one process, on one thread, from encoded rows to raw
outputs, in processor seconds: a busy machine does not weigh in. The networks of ``time`` have their
published sizes (WeedSense: 128 x 128 pictures, 17 species) and are untrained. Losses are of
networks fitted on Adult (POLYTASK_DATA): the primary metric of the 8-bit copy on test rows against
the float one's.
"""

from __future__ import annotations

import math
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from harness import Record, spread, write_claims
from multitab import thinned
from tables import TABLES, MissingDataError

from polytask.catalogue import load_system
from polytask.comparing.claims import Claim
from polytask.data import Processor
from polytask.data.processor import Array, Categorical, Numeric, PictureColumn
from polytask.lifecycle.export import MODEL, Session, export
from polytask.tasks import Classification, Regression, Segmentation, Task
from polytask.training import Training

SEEDS = (0, 1, 2)
LEARNERS = ("mlp", "ft_transformer", "multitab")
MAX_LOSS = 0.01
COMMAND = "python benchmarks/export.py"

_NUMBER, _CHOICE = Regression("cm", 50.0, 30.0), Classification(tuple(range(11)))
_ROW = Processor(
    {f"x{i}": Numeric(0.0, 0.0, 1.0) for i in range(10)},
    {f"c{i}": Categorical(tuple("abcdefgh")) for i in range(6)},
    {},
    (Task("height", _NUMBER), Task("week", _CHOICE), Task("weight", _NUMBER)),
)
_NIGHT = Processor(
    {},
    {},
    {"signal": Array((2000, 5), 0.0, 1.0)},
    (Task("stage", Classification(tuple(range(5)))), Task("disorder", _CHOICE)),
)
_PLANT = Processor(
    {},
    {},
    {},
    (Task("mask", Segmentation(tuple(f"s{i}" for i in range(17)))), *_ROW.tasks[:2]),
    {"image": PictureColumn((128, 128), 3)},
)
NETWORKS: dict[str, tuple[str, dict[str, Any], Processor, tuple[int, ...]]] = {
    "mlp": ("mlp", {}, _ROW, (1, 8, 256)),
    "multitab": ("multitab", {}, _ROW, (1, 8, 256)),
    "sleep_vit": ("sleep_vit", {}, _NIGHT, (1, 8)),
    "weedsense": ("weedsense", {"aux": 0.0}, _PLANT, (1, 8)),
}


def run() -> Record:
    """Measure what the record lacks."""
    torch.set_num_threads(1)
    record = Record("export")
    for name, (_, _, _, batches) in NETWORKS.items():
        for batch in batches:
            settings = {"part": "time", "network": name, "batch": batch}
            record.cell(settings, partial(times, name, batch))
    for seed in SEEDS:
        for name in LEARNERS:
            try:
                settings = {"part": "int8", "data": "adult", "learner": name, "seed": seed}
                record.cell(settings, partial(losses, name, seed))
            except MissingDataError as problem:
                print(problem, flush=True)
    return record


def times(network: str, batch: int) -> dict[str, Any]:
    """Seconds per pass, medians: PyTorch, the session, its first task alone, its 8-bit copies."""
    system, settings, spec, _ = NETWORKS[network]
    learner = load_system(system)(**settings)
    torch.manual_seed(0)
    learner.processor_, learner.module_ = spec, learner.build(spec).eval()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "float"
        told = export(learner, folder)
        session = Session(folder, threads=1)
        inputs = rows_of(told["inputs"], spec, batch)
        arrays = {name: tensor.numpy() for name, tensor in inputs.items()}
        names = [task.name for task in spec.tasks]

        def in_torch() -> None:
            with torch.inference_mode():
                learner.module_.outputs(inputs, names)

        passes: dict[str, Callable[[], Any]] = {
            "torch": in_torch,
            "onnx": partial(session.run, arrays),
            "one task": partial(session.run, arrays, names[:1]),
        }
        for kind in ("MatMul", "Conv"):
            if small := in_integers(folder / MODEL, kind):
                passes[f"int8 {kind}"] = partial(small.run, None, arrays)
        seconds = in_turns(passes, rounds=max(9, 100 // batch))
    return {
        "seconds": seconds,
        "error": max(told["errors"].values()),
        "speedup": seconds["torch"] / seconds["onnx"],
    }


def rows_of(shapes: Mapping[str, Sequence[int]], spec: Processor, rows: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(1)
    return {
        name: torch.randint(spec.cardinalities[0], (rows, *shape), generator=generator)
        if name == "categorical"
        else torch.rand(rows, *shape, generator=generator)
        for name, shape in shapes.items()
    }


def in_integers(model: Path, operator: str) -> Any:
    """A session of the model with one sort of operator in 8 bits; None if it has none of them."""
    import onnx
    import onnxruntime
    from onnxruntime.quantization import quantize_dynamic

    small = model.with_name(f"{operator}.onnx")
    quantize_dynamic(model, small, op_types_to_quantize=[operator])
    if not any("Integer" in node.op_type for node in onnx.load(small).graph.node):
        return None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(small, options, providers=["CPUExecutionProvider"])


def in_turns(passes: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    taken: dict[str, list[float]] = {name: [] for name in passes}
    for turn in range(rounds + 1):
        for name, once in passes.items():
            started = time.process_time()
            once()
            if turn:  # the first warms up
                taken[name].append(time.process_time() - started)
    return {name: statistics.median(values) for name, values in taken.items()}


def losses(name: str, seed: int) -> dict[str, Any]:
    """Each task's primary metric on test, float and 8 bits, and the sizes of the files."""
    suite = thinned(TABLES["adult"](), 6_000).suite()
    training = Training(lr=3e-3, batch=256, epochs=8, patience=8, seed=seed)
    learner = load_system(name)(training=training).fit(suite)
    with tempfile.TemporaryDirectory() as scratch:
        exact, small = Path(scratch) / "float", Path(scratch) / "int8"
        export(learner, exact)
        export(learner, small, int8=True, max_loss=math.inf, suite=suite)
        scores = [Session(folder).score(suite, "test") for folder in (exact, small)]
        sizes = [(folder / MODEL).stat().st_size for folder in (exact, small)]
    found = {}
    for task in learner.processor_.tasks:
        metric = task.kind.primary
        was, now = (score[task.name][metric.name] for score in scores)
        loss = metric.sign * (was - now) / abs(was)
        found[task.name] = {"metric": metric.name, "float": was, "int8": now, "loss": loss}
    return {"tasks": found, "bytes": sizes}


def claims() -> list[Claim]:
    """What the record says of exporting at all, and of 8 bits."""
    record, found = run(), []

    def claim(
        text: str, measured: str, relation: str, holds: bool, reason: str, seeds: tuple[int, ...]
    ) -> None:
        why = "" if holds else reason
        found.append(Claim("export", text, "", measured, relation, holds, seeds, COMMAND, why))

    cells = record.select(part="time")
    ratios = [cell["result"]["speedup"] for cell in cells]
    claim(
        "One session is faster than PyTorch, every network and batch",
        f"{min(ratios):.2f}x to {max(ratios):.2f}x",
        "> 1x",
        min(ratios) > 1,
        "; ".join(
            f"{c['settings']['network']} at batch {c['settings']['batch']}: "
            f"{c['result']['speedup']:.2f}x"
            for c in cells
            if c["result"]["speedup"] <= 1
        ),
        (0,),  # a time, not a score: medians over turns stand for its spread
    )
    for name in LEARNERS:
        cells = record.select(part="int8", learner=name)
        if not cells:
            continue
        worst = [max(t["loss"] for t in cell["result"]["tasks"].values()) for cell in cells]
        claim(
            f"{name} in 8 bits loses at most 1 % of any task's primary metric, Adult, test",
            f"{spread([100 * w for w in worst], 2)} % of the worst task",
            "<= 1 %",
            max(worst) <= MAX_LOSS,
            "worst: "
            + max((t["loss"], n) for c in cells for n, t in c["result"]["tasks"].items())[1],
            SEEDS,
        )
    write_claims("export", found)
    return found


def table() -> str:
    """Both halves of the record as Markdown."""
    record = Record("export")
    lines = [
        "| network | rows | PyTorch / ONNX Runtime | all tasks / one task | float / int8 matrix "
        "products | float / int8 convolutions |",
        "|---|---|---|---|---|---|",
    ]
    for cell in record.select(part="time"):
        s, told = cell["result"]["seconds"], cell["settings"]
        shown = [s["torch"] / s["onnx"], s["onnx"] / s["one task"]]
        shown += [s["onnx"] / s.get(f"int8 {k}", math.nan) for k in ("MatMul", "Conv")]
        values = " | ".join("" if math.isnan(r) else f"{r:.2f}" for r in shown)
        lines.append(f"| `{told['network']}` | {told['batch']} | {values} |")
    lines += [
        "",
        "| learner, Adult | worst task's loss in 8 bits, % (seeds) | file, 8 bits / float |",
        "|---|---|---|",
    ]
    for name in LEARNERS:
        cells = record.select(part="int8", learner=name)
        if cells:
            worst = [100 * max(t["loss"] for t in c["result"]["tasks"].values()) for c in cells]
            whole, small = cells[0]["result"]["bytes"]
            lines.append(f"| `{name}` | {spread(worst, 2)} | {small / whole:.2f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    for judged in claims():
        print(judged)
