"""Engine: where training runs. A thin layer over accelerate: device, precision, processes.

Gradients are summed over processes by the routes themselves (see ``gradients``), never by a DDP
wrapper, so one code path serves one process, many, and accumulation. Parameters may be sharded
with FSDP2 (``sharded=True``); then the module's backward passes do the sum.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn

from polytask.data import Batch
from polytask.data.mixtures import Draw
from polytask.errors import InputError
from polytask.training.balancers import Balancer
from polytask.training.gradients import Blocks, Pass, Problem
from polytask.training.module import MultiTaskModule
from polytask.training.steps import Step

Precision = Literal["no", "bf16"]


class Engine:
    """Device, precision, processes and accumulation of one fit.

    Args:
        precision: ``"bf16"`` runs forward passes under autocast where the device has it.
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
        from accelerate import Accelerator

        if accumulation < 1:
            raise InputError(f"training.accumulation must be at least 1, not {accumulation}")
        if precision not in ("no", "bf16"):
            raise InputError(
                f"training.precision {precision!r} is not lawful here: several losses share one "
                "gradient scale under fp16; use 'bf16' or 'no'"
            )
        self.accelerator = Accelerator(mixed_precision=precision, cpu=device == "cpu")
        self.accumulation, self.sharded = accumulation, sharded
        self.device: torch.device = self.accelerator.device
        self.rank, self.world = self.accelerator.process_index, self.accelerator.num_processes
        if sharded and not dist.is_initialized():
            raise InputError("training.sharded needs several processes; start them with torchrun")

    @property
    def leads(self) -> bool:
        """True on the one process that writes files."""
        return self.rank == 0

    def check(self, step: Step, balancer: Balancer) -> None:
        """Refuse a step and balancer that would be silently wrong here."""
        if reason := step.unlawful(balancer, sharded=self.sharded):
            raise InputError(reason)

    def place(self, module: MultiTaskModule) -> MultiTaskModule:
        """Module on its device, equal on every process, sharded if asked."""
        module = module.to(self.device)
        if self.world > 1:
            with torch.no_grad():
                for tensor in [*module.parameters(), *module.buffers()]:
                    dist.broadcast(tensor, 0)
        if self.sharded:
            from torch.distributed.device_mesh import init_device_mesh
            from torch.distributed.fsdp import fully_shard

            mesh = init_device_mesh(self.device.type, (self.world,))
            fully_shard(module, mesh=mesh, reshard_after_forward=False)
            module.set_gradient_divide_factor(1.0)  # type: ignore[attr-defined]
            module.set_reshard_after_backward(False)  # type: ignore[attr-defined]
        return module

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        return self.accelerator.autocast()

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
        self, module: MultiTaskModule, data: Batch, draw: Draw, last_losses: Tensor
    ) -> Problem:
        """The update's losses: this process's share of the global batch, in micro-batches."""
        mine = draw.rows[self.rank :: self.world]
        parts = []
        for rows in mine.tensor_split(min(self.accumulation, max(1, len(mine)))):
            batch = data[rows]
            parts.append(batch.only(draw.tasks) if draw.tasks else batch)
        local = [part.counts for part in parts]
        names = list(parts[0].targets)
        counts = torch.tensor([[float(c[n]) for n in names] for c in local])
        everywhere = counts.sum(0)
        rows_total = torch.tensor([float(len(mine))])
        if self.world > 1:
            on_device = [everywhere.to(self.device), rows_total.to(self.device)]
            self.reduce(on_device)
            everywhere, rows_total = on_device[0].cpu(), on_device[1].cpu()
        labelled = {n: float(c) for n, c in zip(names, everywhere, strict=True) if c > 0}
        if not labelled:
            raise InputError("a batch has no label for any task; drop rows without labels")
        present = [n for n in module.terms if n in labelled or n not in module.tasks]

        def run(i: int, only: str | None) -> Pass:
            wanted = [n for n in names if local[i][n] and only in (None, n)]
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
            share = {n: local[i][n] / labelled[n] for n in wanted}
            rows = len(part) / float(rows_total)  # auxiliary terms are means over all rows
            return Pass({n: loss * share.get(n, rows) for n, loss in losses.items()}, feature)

        kind = ShardedProblem if self.sharded else Problem
        return kind(
            run,
            len(parts),
            module.terms,
            present,
            module.shared_parameters(),
            module.private_parameters(),
            last_shared=module.last_shared(),
            reduce=self.reduce if self.world > 1 else None,
            last_losses=last_losses,
            module=module,
        )

    def clip(self, parameters: Iterable[nn.Parameter], limit: float | None) -> float:
        """Norm of the whole gradient before clipping to ``limit`` (None: no clipping)."""
        norm = nn.utils.clip_grad_norm_(list(parameters), limit or float("inf"))
        if hasattr(norm, "full_tensor"):
            norm = norm.full_tensor()
        return float(norm)


class ShardedProblem(Problem):
    """FSDP2: autograd.grad would see no shared gradient, so each task makes a backward pass.

    The backward's reduce-scatter already sums over processes; a Gramian of local shards must still
    be summed.
    """

    def gradients(
        self, loss: Tensor, parameters: Sequence[nn.Parameter], *, retain: bool
    ) -> list[Tensor | None]:
        kept = [p.grad for p in parameters]
        for parameter in parameters:
            parameter.grad = None
        loss.backward(retain_graph=retain)
        found = [p.grad for p in parameters]
        for parameter, gradient in zip(parameters, kept, strict=True):
            parameter.grad = gradient
        return found

    def reduce_blocks(self, blocks: Blocks) -> None:
        pass

    def reduce_gramian(self, gramian: Tensor) -> None:
        self.reduce([gramian])
