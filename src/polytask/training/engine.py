"""Engine: where training runs. Device, precision and processes, found by accelerate.

Gradients are summed over processes by the routes themselves (see ``gradients``), never by a DDP
wrapper, so one code path serves one process, many, and accumulation. Parameters may be sharded
with FSDP2 (see ``sharded``).

What an update draws at random follows from seed, step and process alone: a run that was stopped
needs no generator state to go on, and balancers draw the same numbers on every process. (Dropout
masks do depend on how a batch is divided; without dropout all divisions give the same update. So do
batch statistics: normalisation over the batch sees one micro-batch of one process.)
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from polytask.data import Rows
from polytask.data.mixtures import Draw
from polytask.errors import InputError
from polytask.training import sharded
from polytask.training.balancers import Balancer
from polytask.training.gradients import Pass, Problem, seed_generators
from polytask.training.module import MultiTaskModule
from polytask.training.steps import Step

Precision = Literal["no", "bf16"]
T = TypeVar("T")


class Groups(NamedTuple):
    """A module's parameters, listed once: walking a module costs more than a small update."""

    shared: list[nn.Parameter]
    private: list[nn.Parameter]
    last_shared: list[nn.Parameter]

    @classmethod
    def of(cls, module: MultiTaskModule) -> Groups:
        return cls(module.shared_parameters(), module.private_parameters(), module.last_shared())


class Engine:
    """Device, precision, processes and accumulation of one fit.

    Args:
        precision: ``"bf16"`` runs forward passes under autocast.
        accumulation: micro-batches per update on each process; the update is that of the whole.
        sharded: shard parameters over processes with FSDP2 (needs a launched process group).
        device: ``"cpu"`` keeps a machine's accelerator out of it.
    """

    def __init__(
        self,
        precision: Precision = "no",
        accumulation: int = 1,
        sharded: bool = False,
        device: str | None = None,
    ) -> None:
        from accelerate import PartialState

        if accumulation < 1:
            raise InputError(f"training.accumulation must be at least 1, not {accumulation}")
        if precision not in ("no", "bf16"):
            raise InputError(
                f"training.precision {precision!r} is not lawful here: several losses share one "
                "gradient scale under fp16; use 'bf16' or 'no'"
            )
        if device not in (None, "cpu"):
            raise InputError(
                f"training.device {device!r} is neither 'cpu' nor empty; choose among accelerators "
                "with CUDA_VISIBLE_DEVICES"
            )
        # Launched without an accelerator, accelerate would see one process unless told "cpu".
        on_cpu = device == "cpu" or not torch.accelerator.is_available()
        state = PartialState(cpu=on_cpu)
        self.device: torch.device = torch.device("cpu") if on_cpu else state.device
        self.rank, self.world = state.process_index, state.num_processes
        self.precision, self.accumulation, self.sharded = precision, accumulation, sharded
        if sharded and self.world == 1:
            raise InputError("training.sharded needs several processes; start them with torchrun")
        if (
            precision == "bf16"
            and self.device.type == "cuda"
            and not torch.cuda.is_bf16_supported()
        ):
            raise InputError("training.precision 'bf16' is not in this device; use 'no'")

    @property
    def leads(self) -> bool:
        """True on the one process that writes files."""
        return self.rank == 0

    def check(self, step: Step, balancer: Balancer) -> None:
        """Refuse a step and balancer that would be silently wrong here."""
        if reason := step.unlawful(balancer, sharded=self.sharded):
            raise InputError(reason)

    def place(self, module: MultiTaskModule) -> MultiTaskModule:
        """The module on its device, equal on every process; a sharded copy of it if asked."""
        sharded.refuse_wrapped(module)
        if self.sharded:
            self._send(module)
            return sharded.shard(module, self.device, self.world)
        module = module.to(self.device)
        self._send(module)
        return module

    def _send(self, module: nn.Module) -> None:
        if self.world > 1:
            with torch.no_grad():
                for tensor in [*module.parameters(), *module.buffers()]:
                    held = tensor.to(self.device)
                    dist.broadcast(held, 0)
                    tensor.copy_(held)

    def send_buffers(self, module: nn.Module) -> None:
        """Running statistics of the leading process everywhere, before anything is scored."""
        if self.world > 1:
            for buffer in module.buffers():
                dist.broadcast(buffer, 0)

    def from_lead(self, make: Callable[[], T]) -> T:
        """What ``make()`` gives on the leading process, on all; its refusal is raised on all."""
        if self.world == 1:
            return make()
        box: list[Any] = [None, None]
        if self.leads:
            try:
                box[0] = make()
            except InputError as error:
                box[1] = str(error)
        dist.broadcast_object_list(box, 0)
        if box[1] is not None:
            raise InputError(box[1])
        return box[0]

    def told(self, value: T) -> T:
        """The leading process's value of what every process has computed."""
        return self.from_lead(lambda: value)

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16")

    def seed(self, balancer: Balancer, seed: int, step: int) -> None:
        """Fix what the next update draws: the module's by process, the balancer's for all."""
        drawn = np.random.SeedSequence((seed, step)).generate_state(1 + self.world)
        balancer.draw_from(int(drawn[0]))
        seed_generators(int(drawn[1 + self.rank]))

    def reduce(self, tensors: Sequence[Tensor]) -> None:
        """Sum tensors in place over processes, as one message per type."""
        if self.world == 1 or not tensors:
            return
        for kind in {(t.dtype, t.device) for t in tensors}:
            group = [t for t in tensors if (t.dtype, t.device) == kind]
            flat = torch.cat([t.reshape(-1) for t in group])
            dist.all_reduce(flat)
            for tensor, value in zip(group, flat.split([t.numel() for t in group]), strict=True):
                tensor.copy_(value.view_as(tensor))

    def problem(
        self,
        module: MultiTaskModule,
        groups: Groups,
        data: Rows,
        draw: Draw,
        last_losses: Tensor,
    ) -> Problem:
        """The update's losses: this process's share of the global batch, in micro-batches."""
        mine = draw.rows[self.rank :: self.world]
        least = len(draw.rows) // self.world  # equal on every process, which sharding needs
        if self.sharded and least == 0:
            raise InputError(f"training.batch is less than the {self.world} processes it shards to")
        asked = data.only(draw.tasks) if draw.tasks else data
        parts = [asked[rows] for rows in mine.tensor_split(max(1, min(self.accumulation, least)))]
        names = list(parts[0].targets)
        local = [torch.stack([part.masks[n] for n in names]).sum(1) for part in parts]
        total = torch.cat([torch.stack(local).sum(0), torch.tensor([len(mine)])]).to(self.device)
        self.reduce([total])
        *everywhere, rows_total = total.tolist()
        labelled = {n: c for n, c in zip(names, everywhere, strict=True) if c}
        if not labelled:
            raise InputError("a batch has no label for any task; drop rows without labels")
        present = [n for n in module.terms if n in labelled or n not in module.tasks]
        counts = [dict(zip(names, c.tolist(), strict=True)) for c in local]

        def run(i: int, only: str | None) -> Pass:
            # Sharded processes must pass through the same layers, with labels of their own or not.
            held = labelled if self.sharded else counts[i]
            wanted = [n for n in names if held.get(n) and only in (None, n)]
            if not wanted:
                return Pass({})
            part = parts[i].only(wanted).to(self.device)
            feature = None
            with self.autocast():
                if module.has_feature and not self.sharded:
                    feature = module.represent(part.inputs, wanted)
                    losses = module.losses_at(feature, part)
                else:
                    losses = module(part)
            share = {n: counts[i][n] / labelled[n] for n in wanted}
            rows = len(part) / rows_total  # auxiliary terms are means over all rows
            return Pass({n: loss * share.get(n, rows) for n, loss in losses.items()}, feature)

        kind = sharded.ShardedProblem if self.sharded else Problem
        return kind(
            run,
            len(parts),
            module.terms,
            present,
            groups.shared,
            groups.private,
            last_shared=groups.last_shared,
            reduce=self.reduce if self.world > 1 else None,
            last_losses=last_losses,
            module=module,
        )

    def clip(self, groups: Groups, limit: float | None) -> float:
        """Norm of the whole gradient before clipping to ``limit`` (None: no clipping)."""
        parameters = [*groups.shared, *groups.private]
        norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        size = float(sharded.whole(norm))
        if not math.isfinite(size):
            raise FloatingPointError(f"the gradient's norm is {size}")
        if limit is not None:
            nn.utils.clip_grads_with_norm_(parameters, limit, norm)
        return size
