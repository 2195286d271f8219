"""A balancer and a step in somebody else's training loop, on somebody else's ``nn.Module``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn

from polytask.errors import InputError, nearest
from polytask.training.balancers import as_balancer
from polytask.training.gradients import Pass, Problem, StepInfo, accumulate
from polytask.training.sharded import refuse_wrapped
from polytask.training.steps import Plain, Step, as_step

Losses = Mapping[str, Tensor]
Parameters = nn.Module | Iterable[nn.Parameter]


class Balanced:
    """Writes one balanced gradient into ``.grad``, where a loop would call ``loss.backward()``.

        balanced = Balanced("upgrad", shared=model.trunk, private=model.heads)
        for batch in loader:
            balanced.backward({"price": price_loss, "sold": sold_loss})
            optimizer.step()
            optimizer.zero_grad()

    A task without labels in a batch is left out of the losses. Of several processes each brings its
    mean losses of the same tasks, and bare (not DDP) modules; the gradient is that of their mean.

    Args:
        balancer: its text (``"cagrad(c=0.4)"``), a ``Balancer`` or any torchjd object. Learned
            weights (``uw``) are in ``balanced.balancer.parameters()``: give them to the optimiser.
        shared: module or parameters that all tasks use.
        private: module or parameters that belong to single tasks.
        step: ``"plain"``, ``"sam(rho=0.05)"``, ``"flat(rho=2.0)"``.
        tasks: all names; taken from the first batch if left out.
        last_shared: the last shared layer, for ``gradnorm``.

    Raises:
        InputError: wrapped modules, an unknown task, a combination that would be silently wrong,
            or a step that looks twice at losses that are already computed.
    """

    def __init__(
        self,
        balancer: object,
        *,
        shared: Parameters,
        private: Parameters = (),
        step: str | Step = "plain",
        tasks: Sequence[str] | None = None,
        last_shared: Parameters = (),
    ) -> None:
        self.balancer, self.step = as_balancer(balancer), as_step(step)
        if reason := self.step.unlawful(self.balancer, sharded=False):
            raise InputError(reason)
        self.shared, self.private = _parameters(shared), _parameters(private)
        self.last_shared = _parameters(last_shared)
        if self.balancer.needs == "last_layer" and not self.last_shared:
            raise InputError(f"balancer {self.balancer} compares gradients at last_shared=...")
        modules = [m for m in (shared, private) if isinstance(m, nn.Module)]
        self._modules = nn.ModuleList(modules)  # whose statistics second passes must not change
        self._tasks = tuple(tasks) if tasks else ()
        self._last_losses: Tensor | None = None
        self._updates = 0

    def backward(
        self, losses: Losses | Callable[[], Losses], *, feature: Tensor | None = None
    ) -> StepInfo:
        """Add the balanced gradient to ``.grad``.

        Args:
            losses: one scalar per task, or (for the steps ``sam`` and ``flat``, which look again
                at other parameters) a function that computes them.
            feature: the tensor that all heads read, for ``features(...)``.
        """
        if not callable(losses) and not isinstance(self.step, Plain):
            raise InputError(
                f"step {self.step} looks at the losses more than once: give backward() a function "
                "that computes them"
            )
        problem = self._problem(losses, feature)
        if _processes() > 1:  # draws must be the same on all
            self.balancer.draw_from(self._updates)
        self._updates += 1
        # Set aside what is there: it must be neither summed over processes again nor climbed.
        parameters = [*self.shared, *self.private, *self.balancer.parameters()]
        before = [parameter.grad for parameter in parameters]
        for parameter in parameters:
            parameter.grad = None
        info = self.step(problem, self.balancer)
        accumulate(parameters, before)
        return info

    def after(self, losses: Losses | Callable[[], Losses]) -> None:
        """Show the losses of the same batch after the optimiser's step; ``famo`` learns there."""
        if self.balancer.looks_back:
            self.balancer.after(self._problem(losses, None).losses())

    def _problem(self, losses: Losses | Callable[[], Losses], feature: Tensor | None) -> Problem:
        first = losses() if callable(losses) else losses
        if not first:
            raise InputError("there is no loss to balance")
        if self._last_losses is None:
            self._tasks = self._tasks or tuple(first)
            device = next(iter(first.values())).device
            self._last_losses = torch.ones(len(self._tasks), device=device)
            self.balancer.prepare(len(self._tasks))
            self.step.prepare(self.balancer)
            self.balancer.to(device)
        for task in first:
            if task not in self._tasks:
                raise InputError(
                    f"loss {task!r} is not one of the tasks{nearest(task, self._tasks)}; "
                    "name all of them in Balanced(tasks=...)"
                )
        ready, world = [first], _processes()

        def run(part: int, only: str | None) -> Pass:
            found = ready.pop() if ready else losses()  # type: ignore[operator]
            return Pass({n: x / world for n, x in found.items() if only in (None, n)}, feature)

        return Problem(
            run,
            1,
            self._tasks,
            [name for name in self._tasks if name in first],
            self.shared,
            self.private,
            last_shared=self.last_shared,
            reduce=_sum if world > 1 else None,
            last_losses=self._last_losses,
            module=self._modules,
        )


def _parameters(given: Parameters) -> list[nn.Parameter]:
    if isinstance(given, nn.Module):
        refuse_wrapped(given)
        given = given.parameters()
    parameters = [p for p in given if p.requires_grad]
    if any(hasattr(p, "full_tensor") for p in parameters):
        raise InputError(
            "parameters are sharded (FSDP2), which hides their gradients; give them whole"
        )
    return parameters


def _processes() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def _sum(tensors: Sequence[Tensor]) -> None:
    for tensor in tensors:
        dist.all_reduce(tensor)
