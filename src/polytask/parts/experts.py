"""Experts and gates: several networks, and per task a soft choice among them.

MMoE  Ma et al., KDD 2018: all experts shared, one gate per task.
PLE   Tang et al., RecSys 2020: shared experts and experts per task, in layers.
STEM  Su et al., AAAI 2024 (arXiv 2308.13537): PLE in which each task has its own input and sees
      all experts, but teaches only its own and the shared ones.

Symbols: B rows, T tasks, d input width, h = hidden[-1] expert width, G groups of k experts.
Gates are linear without bias, as in MMoE's g(x) = softmax(W x). All experts of a layer run as one
batched product.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class GroupedLinear(nn.Module):
    """G groups of k Linear layers; starts as PyTorch's Linear does.

    Shapes: one input per layer [G, k, B, in] or per group [G, 1, B, in] -> [G, k, B, out].
    """

    def __init__(self, groups: int, per_group: int, in_features: int, out_features: int) -> None:
        super().__init__()
        bound = in_features**-0.5
        weight = torch.empty(groups, per_group, in_features, out_features)
        bias = torch.empty(groups, per_group, 1, out_features)
        self.weight = nn.Parameter(weight.uniform_(-bound, bound))
        self.bias = nn.Parameter(bias.uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        """Apply every layer to its own or its group's input."""
        return x @ self.weight + self.bias


class Experts(nn.Module):
    """G groups of k equal MLPs, ReLU and dropout after every layer; group g reads input g.

    Shapes: [G, B, d] -> [G, k, B, h].
    """

    def __init__(
        self, groups: int, per_group: int, in_features: int, hidden: Sequence[int], dropout: float
    ) -> None:
        super().__init__()
        for name, value in (("experts", per_group), ("layers in hidden", len(hidden))):
            if value < 1:
                raise ValueError(f"the number of {name} is {value}; it must be at least 1")
        widths = [in_features, *hidden]
        self.layers = nn.Sequential()
        for width, size in zip(widths, hidden, strict=False):
            self.layers.append(GroupedLinear(groups, per_group, width, size))
            self.layers.append(nn.ReLU())
            self.layers.append(nn.Dropout(dropout))

    def forward(self, x: Tensor) -> Tensor:
        """Run every expert on its group's input."""
        return self.layers(x.unsqueeze(1))


class Gates(nn.Module):
    """G gates g(x) = softmax(W_g x), each a distribution over `choices` experts.

    Shapes: [B, d] or [G, B, d] -> [G, B, choices].
    """

    def __init__(self, groups: int, in_features: int, choices: int) -> None:
        super().__init__()
        bound = in_features**-0.5
        weight = torch.empty(groups, in_features, choices)
        self.weight = nn.Parameter(weight.uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        """Return the weights of the experts; they sum to 1 over the last dimension."""
        return (x @ self.weight).softmax(-1)


class MMoE(nn.Module):
    """f_t(x) = sum_e g_t(x)_e E_e(x).

    Args:
        in_features: d.
        n_tasks: T.
        n_experts: Number of shared experts.
        hidden: Widths of an expert's layers.
        dropout: After every layer of an expert.

    Shapes: [B, d] -> [T, B, h].
    """

    def __init__(
        self,
        in_features: int,
        n_tasks: int,
        n_experts: int = 8,
        hidden: Sequence[int] = (256, 128),
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.experts = Experts(1, n_experts, in_features, hidden, dropout)
        self.gates = Gates(n_tasks, in_features, n_experts)
        self.out_features = hidden[-1]

    def forward(self, x: Tensor) -> Tensor:
        """Return each task's mixture of the experts."""
        experts = self.experts(x.unsqueeze(0)).squeeze(0)
        return torch.einsum("tbe,ebh->tbh", self.gates(x), experts)


def _mix_own(gates: Tensor, own: Tensor) -> Tensor:
    """Weigh own experts, gates [T, B, k] and own [T, k, B, h] -> [T, B, h]."""
    # einsum would run T*B tiny products here: 2.4 times slower.
    return (gates.transpose(1, 2).unsqueeze(-1) * own).sum(1)


class CGC(nn.Module):
    """Customized gate control, one layer of PLE.

    Input and output are one stream per task and, last, the shared stream.

    Equations, with S the shared experts' and E_t task t's experts' outputs:
        task t:  sum over (E_t, S) weighted by g_t(x_t)
        shared:  sum over (E_1, ..., E_T, S) weighted by g_s(x_s)

    The last layer of a stack has no shared output, hence no shared gate.

    Shapes: [T+1, B, d] -> [T+1, B, h], or [T, B, h] where `last`.
    """

    def __init__(
        self,
        in_features: int,
        n_tasks: int,
        shared: int,
        per_task: int,
        hidden: Sequence[int],
        dropout: float,
        last: bool,
    ) -> None:
        super().__init__()
        self.shared_experts = Experts(1, shared, in_features, hidden, dropout)
        self.task_experts = Experts(n_tasks, per_task, in_features, hidden, dropout)
        self.task_gates = Gates(n_tasks, in_features, self._choices(n_tasks, shared, per_task))
        everyone = n_tasks * per_task + shared
        self.shared_gate = None if last else Gates(1, in_features, everyone)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer to the streams."""
        own = self.task_experts(x[:-1])
        shared = self.shared_experts(x[-1:]).squeeze(0)
        tasks = self._tasks(x, own, shared)
        if self.shared_gate is None:
            return tasks
        everyone = torch.cat([own.flatten(0, 1), shared])
        mixed = torch.einsum("tbe,ebh->tbh", self.shared_gate(x[-1:]), everyone)
        return torch.cat([tasks, mixed])

    def _choices(self, n_tasks: int, shared: int, per_task: int) -> int:
        """How many experts a task's gate weighs."""
        return per_task + shared

    def _tasks(self, x: Tensor, own: Tensor, shared: Tensor) -> Tensor:
        """Mix own [T, k, B, h] and shared [K, B, h] experts into the tasks' outputs [T, B, h]."""
        per_task = own.shape[1]
        gates = self.task_gates(x[:-1])
        from_own = _mix_own(gates[..., :per_task], own)
        return from_own + torch.einsum("tbe,ebh->tbh", gates[..., per_task:], shared)


class StemLayer(CGC):
    """CGC whose task gates weigh all experts, the other tasks' with stopped gradient.

    Task gates read x_t + x_s, the task's input and the shared one.
    """

    def _choices(self, n_tasks: int, shared: int, per_task: int) -> int:
        return n_tasks * per_task + shared

    def _tasks(self, x: Tensor, own: Tensor, shared: Tensor) -> Tensor:
        n_tasks, per_task = own.shape[:2]
        gates = self.task_gates(x[:-1] + x[-1:])
        on_tasks = gates[..., : n_tasks * per_task].unflatten(-1, (n_tasks, per_task))
        on_own = torch.diagonal(on_tasks, dim1=0, dim2=2).movedim(-1, 0)
        foreign = ~torch.eye(n_tasks, dtype=torch.bool, device=x.device)
        on_others = on_tasks * foreign[:, None, :, None]
        return (
            _mix_own(on_own, own)
            + torch.einsum("tbuk,ukbh->tbh", on_others, own.detach())
            + torch.einsum("tbe,ebh->tbh", gates[..., n_tasks * per_task :], shared)
        )


class _Layered(nn.Module):
    """A stack of CGC layers; see `PLE` and `STEM`."""

    layer: type[CGC]

    def __init__(
        self,
        in_features: int,
        n_tasks: int,
        shared: int = 4,
        per_task: int = 2,
        hidden: Sequence[int] = (256, 128),
        layers: int = 1,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if layers < 1:
            raise ValueError(f"layers is {layers}; it must be at least 1")
        self.n_tasks = n_tasks
        self.layers = nn.Sequential()
        for depth in range(layers):
            width = hidden[-1] if depth else in_features
            last = depth == layers - 1
            self.layers.append(self.layer(width, n_tasks, shared, per_task, hidden, dropout, last))
        self.out_features = hidden[-1]


class PLE(_Layered):
    """Progressive layered extraction: CGC layers on one input.

    The MultiTab reference also hands the last shared stream to the towers; here, as in the paper,
    a tower reads its task's stream only.

    Args:
        in_features: d.
        n_tasks: T.
        shared: Shared experts per layer.
        per_task: Own experts of each task per layer.
        hidden: Widths of an expert's layers.
        layers: Number of CGC layers.
        dropout: After every layer of an expert.

    Shapes: [B, d] -> [T, B, h].
    """

    layer = CGC

    def forward(self, x: Tensor) -> Tensor:
        """Return each task's mixture of its own and the shared experts."""
        return self.layers(x.expand(self.n_tasks + 1, *x.shape))


class STEM(_Layered):
    """Shared and task-specific embeddings: PLE on one input per task and a shared one, last.

    The caller embeds each row T+1 times, with a table per task and a shared table. In one layer
    task t's loss reaches its own and the shared experts, embeddings t and shared, and nothing of
    the other tasks. With more layers it reaches them through the shared stream, as in the paper,
    whose shared gate has no stop-gradient.

    Args: As for `PLE`.

    Shapes: [T+1, B, d] -> [T, B, h].
    """

    layer = StemLayer

    def forward(self, x: Tensor) -> Tensor:
        """Return each task's mixture of all experts."""
        if x.shape[0] != self.n_tasks + 1:
            raise ValueError(
                f"x holds {x.shape[0]} inputs; STEM needs {self.n_tasks + 1}, one per task and, "
                "last, the shared one"
            )
        return self.layers(x)
