"""MultiTaskModule: the contract between a network and the loop."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from numpy.typing import NDArray
from torch import Tensor, nn

from polytask.data import Batch
from polytask.errors import InputError
from polytask.tasks import Task


class MultiTaskModule(nn.Module):
    """A network with one head per task.

    A subclass sets ``self.heads`` (an ``nn.ModuleDict`` keyed by task) and implements
    ``represent`` and ``answer``; everything the loop, the balancers and the steps need follows.

    Attributes:
        tasks: the fitted tasks, in order.
        heads: parameters that belong to one task; all other parameters are shared.
        weights: fixed weights of losses by name, of the kind that papers set by hand; a balancer
            sees the weighted losses. A loss that is not named weighs 1.
        has_feature: True if every head reads one shared tensor and nothing else, so that gradients
            may be compared at that tensor (``needs = "features"``).
        no_graph: why the outputs are no fixed graph of operators, and cannot be exported; empty
            where nothing is known against it.
    """

    has_feature = False
    no_graph = ""
    heads: nn.ModuleDict

    def __init__(self, tasks: Sequence[Task]) -> None:
        super().__init__()
        self.tasks = {task.name: task for task in tasks}
        self.weights: dict[str, float] = {}

    def represent(self, inputs: dict[str, Tensor], tasks: Iterable[str]) -> Tensor:
        """What is shared, from encoded inputs; the one shared feature if ``has_feature``."""
        raise NotImplementedError

    def answer(self, representation: Tensor, task: str) -> Tensor:
        """The head's output ``[B, kind.outputs]``."""
        raise NotImplementedError

    def outputs(self, inputs: dict[str, Tensor], tasks: Iterable[str]) -> dict[str, Tensor]:
        names = list(tasks)
        representation = self.represent(inputs, names)
        return {task: self.answer(representation, task) for task in names}

    def decode(self, task: str, output: Any) -> NDArray:
        """What ``outputs`` gives for a task as metrics and users read it."""
        return self.tasks[task].kind.decode(output.float())

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """One scalar per task of the batch (mean over labelled rows), plus any auxiliary terms."""
        return self.losses_at(self.represent(batch.inputs, batch.targets), batch)

    def losses_at(self, representation: Tensor, batch: Batch) -> dict[str, Tensor]:
        """The losses of a batch whose representation is already computed."""
        losses = {}
        for task, target in batch.targets.items():
            output = self.answer(representation, task).float()
            loss = self.tasks[task].kind.loss(output, target, batch.masks[task])
            losses[task] = loss * self.weights.get(task, 1.0)
        return losses

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Same as ``losses``; the entry that wrappers such as FSDP hook into."""
        return self.losses(batch)

    @property
    def terms(self) -> tuple[str, ...]:
        """Names of all losses the module may return, in a fixed order."""
        return tuple(self.tasks)

    def private_parameters(self) -> list[nn.Parameter]:
        return [p for p in self.heads.parameters() if p.requires_grad]

    def shared_parameters(self) -> list[nn.Parameter]:
        private = {id(p) for p in self.heads.parameters()}
        return [p for p in self.parameters() if p.requires_grad and id(p) not in private]

    def last_shared(self) -> list[nn.Parameter]:
        """Parameters of the last shared layer (GradNorm's W): the last weight and what follows."""
        shared = self.shared_parameters()
        if not shared:
            raise InputError(f"{type(self).__name__} shares no parameters")
        last = max((i for i, p in enumerate(shared) if p.ndim > 1), default=0)
        return shared[last:]
