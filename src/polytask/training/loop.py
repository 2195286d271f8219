"""The one training loop. Variation is what is passed in: step, balancer, mixture, engine."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from polytask.data import Batch, Mixture, Rows
from polytask.errors import InputError
from polytask.training.balancers import Balancer
from polytask.training.checkpoint import Checkpoints, moved
from polytask.training.engine import Engine, Groups, Precision
from polytask.training.gradients import (
    Problem,
    StepInfo,
    frozen_statistics,
    replayed_randomness,
    task_gramian,
)
from polytask.training.module import MultiTaskModule
from polytask.training.schedules import as_schedule
from polytask.training.scoring import score
from polytask.training.sharded import load_optimizer, load_weights, whole
from polytask.training.steps import Step
from polytask.training.tracking import Log


@dataclass(frozen=True)
class Training:
    """Budget and optimiser of one fit.

    Attributes:
        lr, weight_decay, betas, eps: of AdamW.
        batch: rows per update over all processes and micro-batches.
        epochs: at most this many; ``patience`` epochs without a better validation score end it.
        schedule: of the learning rate: ``"constant"``, ``"cosine"`` or ``"poly(power=0.9)"`` (to
            zero over all epochs), ``"halving(every=8)"`` (epochs), ``"linear(warmup=0.1)"`` (up
            over a share of all updates, then to zero), ``"inverse_sqrt(warmup=800)"``.
        warmup: updates in which the rate rises linearly from a tenth of what the schedule says.
        decay: ``"matrices"`` spares biases and norms (parameters of one dimension) weight decay.
        clip: largest norm of the whole gradient (None: no clipping).
        accumulation, precision, sharded, device: see ``Engine``.
        probe: measure all task gradients every so many updates, for the log only (0: never).
        checkpoint: updates between checkpoints when an output folder is given (0: every epoch).
        seed: of initial weights, batch order and dropout.
        trackers: names of accelerate trackers beside the JSON lines.
    """

    lr: float = 1e-3
    weight_decay: float = 0.0
    batch: int = 256
    epochs: int = 50
    patience: int = 5
    schedule: str = "constant"
    warmup: int = 0
    decay: Literal["all", "matrices"] = "all"
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    clip: float | None = None
    accumulation: int = 1
    precision: Precision = "no"
    sharded: bool = False
    device: str | None = None
    probe: int = 0
    checkpoint: int = 0
    seed: int = 0
    trackers: tuple[str, ...] = ()

    def validate(self) -> None:
        for name in ("lr", "batch", "epochs", "patience"):
            if getattr(self, name) <= 0:
                raise InputError(f"training.{name} must be positive, not {getattr(self, name)}")
        if self.warmup < 0:
            raise InputError(f"training.warmup must not be negative, but is {self.warmup}")
        as_schedule(self.schedule)


@dataclass
class State:
    """Where a fit stands; saved and restored as a whole."""

    epoch: int = 0
    step_in_epoch: int = 0
    steps: int = 0
    stale: int = 0
    best_score: float = float("-inf")
    best_epoch: int = -1
    best_weights: dict[str, Tensor] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    sums: dict[str, float] = field(default_factory=dict)
    cosine: Tensor | None = None
    conflict: Tensor | None = None
    probes: int = 0


def _silent(record: dict[str, Any]) -> None:
    """Tell nobody."""


def train(
    module: MultiTaskModule,
    data: Rows,
    validation: Batch,
    training: Training,
    *,
    step: Step,
    balancer: Balancer,
    mixture: Mixture,
    engine: Engine,
    out: Path | None = None,
    run: str = "",
    progress: Callable[[dict[str, Any]], None] = _silent,
) -> State:
    """Fit ``module`` in place and leave it with its best weights on validation.

    Returns the final state, with ``history`` (one record per epoch: mean losses, validation scores,
    seconds). With ``out`` set, checkpoints and the log go there, and a run that was stopped goes
    on from its newest whole checkpoint to bit-identical weights; ``run`` names settings and data,
    and a checkpoint of another run is refused.

    Raises:
        InputError: a combination that would be silently wrong, a loss or gradient that is not
            finite, a folder that cannot be written or holds another run.
    """
    training.validate()
    engine.check(step, balancer)
    if engine.sharded and training.probe:
        raise InputError("training.probe needs whole gradients; with training.sharded set it to 0")
    if training.trackers and out is None:
        raise InputError(f"tracker {training.trackers[0]!r} needs an output folder: give out=...")
    live = engine.place(module)
    groups = Groups.of(live)
    balancer.prepare(len(live.terms))
    step.prepare(balancer)
    balancer.to(engine.device)
    learned = [p for p in balancer.parameters() if p.requires_grad]
    decayed = [*groups.shared, *groups.private]
    if training.decay == "matrices":
        learned += [p for p in decayed if p.ndim < 2]
        decayed = [p for p in decayed if p.ndim > 1]
    stepped: list[dict[str, Any]] = [
        {"params": decayed, "weight_decay": training.weight_decay},
        {"params": learned, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(stepped, training.lr, training.betas, training.eps)
    per_epoch = max(1, sum(1 for _ in mixture.draws(data, training.batch, training.seed, 0)))
    schedule, total = as_schedule(training.schedule), per_epoch * training.epochs
    last_losses = torch.ones(len(live.terms), device=engine.device)
    checkpoints = Checkpoints(out / "checkpoints", run) if out else None
    progress = progress if engine.leads else _silent
    state = State()
    if checkpoints:
        saved, warnings = engine.from_lead(checkpoints.latest)
        for sentence in warnings:
            progress({"warning": sentence})
        if saved:
            state = _restore(saved, live, optimizer, balancer, last_losses)

    def save() -> None:
        if checkpoints:
            everything = _everything(state, live, optimizer, balancer, last_losses)
            engine.from_lead(lambda: checkpoints.save(state.steps, everything))

    with Log(training.trackers, out if engine.leads else None, state.steps, state.epoch) as log:
        while state.epoch < training.epochs and state.stale < training.patience:
            live.train()
            started, rows = time.perf_counter(), 0
            seen = data.turn(training.seed, state.epoch)
            draws = mixture.draws(seen, training.batch, training.seed, state.epoch)
            for draw in islice(draws, state.step_in_epoch, None):
                for group in optimizer.param_groups:
                    factor = schedule(state.steps, per_epoch, total)
                    group["lr"] = training.lr * factor * _warmed(training.warmup, state.steps)
                engine.seed(balancer, training.seed, state.steps)
                problem = engine.problem(live, groups, seen, draw, last_losses)
                try:
                    info = step(problem, balancer)
                    norm = engine.clip(groups, training.clip)
                except FloatingPointError as error:
                    raise InputError(
                        f"{error} in update {state.steps + 1}: lower training.lr, set "
                        "training.clip, or look for extreme values in the data"
                    ) from None
                if training.probe and state.steps % training.probe == 0 and info.gramian is None:
                    info.gramian = probe(problem)
                optimizer.step()
                if balancer.looks_back:
                    engine.seed(balancer, training.seed, state.steps)  # the same dropout again
                    balancer.after(problem.losses())
                optimizer.zero_grad()
                state.steps += 1
                state.step_in_epoch += 1
                rows += len(draw.rows)
                _observe(state, info, live.terms)
                if log:
                    rate = rows / (time.perf_counter() - started)
                    log.write(_record(state, info, norm, rate))
                if training.checkpoint and state.steps % training.checkpoint == 0:
                    save()
            balancer.end_epoch()
            engine.send_buffers(live)
            scores = engine.told(evaluate(live, validation, engine))  # one verdict for all
            record = _close_epoch(state, scores, live, time.perf_counter() - started)
            progress(record)
            log.write({"step": state.steps, **record})
            save()
    load_weights(module, state.best_weights or whole(live.state_dict()))
    return state


def probe(problem: Problem) -> Tensor:
    """Gramian ``[m, m]`` of all task gradients of the trunk, for the log; it changes nothing."""
    with replayed_randomness(), frozen_statistics(problem.module):
        return task_gramian(problem)


def evaluate(module: MultiTaskModule, data: Batch, engine: Engine) -> dict[str, dict[str, float]]:
    """Every metric of every task on the rows that have its label."""
    kinds = {name: module.tasks[name].kind for name in data.targets}
    return score(kinds, data, lambda part, names: predict(module, part, names, engine))


def predict(
    module: MultiTaskModule, data: Batch, tasks: Sequence[str], engine: Engine
) -> dict[str, np.ndarray]:
    """Decoded predictions of some tasks for every row, in order.

    Texts are answered in order of their lengths, so that little of a batch is padding.
    """
    module.eval()
    data = replace(data, targets={}, masks={})
    lengths, back = data.lengths, None
    if lengths is not None:
        order = np.argsort(-lengths, kind="stable")
        data, back = data.take(torch.from_numpy(order)), np.argsort(order)
    found: dict[str, list[np.ndarray]] = {task: [] for task in tasks}
    with torch.inference_mode() if not engine.sharded else torch.no_grad(), engine.autocast():
        for chunk in data.chunks(engine.device.type):
            part = chunk.to(engine.device)
            for task, output in module.outputs(part.inputs, tasks).items():
                found[task].append(module.decode(task, output))
    joined = {task: np.concatenate(parts) for task, parts in found.items()}
    return joined if back is None else {task: rows[back] for task, rows in joined.items()}


def mean_primary(scores: dict[str, dict[str, float]], module: MultiTaskModule) -> float:
    """Mean over tasks of what their kinds call quality; higher is better."""
    return float(np.mean([module.tasks[t].kind.quality(s) for t, s in scores.items()]))


def _warmed(warmup: int, steps: int) -> float:
    """0.1 to 1 over ``warmup`` updates."""
    return 1.0 if steps >= warmup else 0.1 + 0.9 * steps / warmup


def _observe(state: State, info: StepInfo, terms: tuple[str, ...]) -> None:
    """Running sums of the epoch: losses, and cosines where gradients were seen."""
    for name, value in info.losses.items():
        state.sums[name] = state.sums.get(name, 0.0) + value
        state.sums[f"n:{name}"] = state.sums.get(f"n:{name}", 0.0) + 1
    if info.gramian is not None and len(info.terms) == len(terms):
        cosine = cosines(info.gramian)
        if state.cosine is None or state.conflict is None:
            state.cosine, state.conflict = torch.zeros_like(cosine), torch.zeros_like(cosine)
        state.cosine += cosine
        state.conflict += (cosine < 0).to(cosine.dtype)
        state.probes += 1


def cosines(product: Tensor) -> Tensor:
    """Pairwise cosines ``[m, m]`` (float64, on the CPU) from a Gramian ``[m, m]``."""
    product = product.detach().double().cpu()
    norms = product.diagonal().clamp(min=1e-30).sqrt()
    return product / norms.outer(norms)


def _record(state: State, info: StepInfo, norm: float, rate: float) -> dict[str, Any]:
    record: dict[str, Any] = {
        "step": state.steps,
        "epoch": state.epoch,
        "loss": info.losses,
        "weight": info.weights,
        "gradient_norm": norm,
        "rows_per_second": round(rate, 1),
    }
    if info.gramian is not None:
        norms = info.gramian.diagonal().clamp(min=0).sqrt().tolist()
        record["task_gradient_norm"] = dict(zip(info.terms, norms, strict=True))
        table = cosines(info.gramian).tolist()
        record["cosine"] = {
            f"{a}|{b}": table[i][j]
            for i, a in enumerate(info.terms)
            for j, b in enumerate(info.terms)
            if i < j
        }
    return record


def _close_epoch(
    state: State, scores: dict[str, dict[str, float]], module: MultiTaskModule, seconds: float
) -> dict[str, Any]:
    """Book the epoch: history, best weights so far, patience."""
    score = mean_primary(scores, module)
    losses = {n: v / state.sums[f"n:{n}"] for n, v in state.sums.items() if not n.startswith("n:")}
    record: dict[str, Any] = {
        "epoch": state.epoch,
        "loss": losses,
        "validation": scores,
        "score": score,
        "seconds": seconds,
    }
    if state.probes and state.cosine is not None and state.conflict is not None:
        record["cosine"] = (state.cosine / state.probes).tolist()
        record["conflict"] = (state.conflict / state.probes).tolist()
    state.history.append(record)
    if score > state.best_score:
        state.best_score, state.best_epoch, state.stale = score, state.epoch, 0
        state.best_weights = {k: whole(v).clone() for k, v in module.state_dict().items()}
    else:
        state.stale += 1
    state.epoch += 1
    state.step_in_epoch, state.sums, state.probes = 0, {}, 0
    state.cosine = state.conflict = None
    return record


def _everything(
    state: State,
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    balancer: Balancer,
    last_losses: Tensor,
) -> dict[str, Any]:
    return {
        "state": vars(state),
        "module": whole(module.state_dict()),
        "optimizer": whole(optimizer.state_dict()),
        "balancer": balancer.state_dict(),
        "last_losses": last_losses,
    }


def _restore(
    saved: dict[str, Any],
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    balancer: Balancer,
    last_losses: Tensor,
) -> State:
    load_weights(module, saved["module"])
    load_optimizer(optimizer, saved["optimizer"])
    balancer.load_state_dict(moved(saved["balancer"], last_losses.device))
    last_losses.copy_(saved["last_losses"])
    return State(**saved["state"])
