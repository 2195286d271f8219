"""The gradients of several losses, kept as factors where that is cheaper than forming them.

A weight used as ``y = a Wᵀ + b`` has the gradients ∂L_i/∂W = δ_iᵀ a with δ_i = ∂L_i/∂y. The rows
``a [R, in]`` are the same for every loss and only ``δ_i [R, out]`` differ, so

    <∂L_i/∂W, ∂L_j/∂W> = <δ_i, (a aᵀ) δ_j>        Σ w_i ∂L_i/∂W = (Σ w_i δ_i)ᵀ a

and neither the m gradients of W nor a second backward pass is needed. Forming them would cost
``in / R`` times more; this is the ghost norm of per-example clipping (Li et al., arXiv 2110.05679)
between losses instead of examples. It is exact: what the autograd graph does not show to be such a
product (convolutions, embeddings, norms, long sequences with R > in) is formed one by one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge

_ROWS = {"AddmmBackward0": "_saved_mat1", "MmBackward0": "_saved_self"}  # where autograd keeps a


class Factored:
    """Gradients of m losses with respect to shared parameters.

    Args:
        losses: m scalars of one graph, which is freed.
        shared: parameters whose gradients are told apart by loss.
        private: parameters whose gradients are only summed, in ``private_sums``.
    """

    def __init__(
        self,
        losses: Sequence[Tensor],
        shared: Sequence[nn.Parameter],
        private: Sequence[nn.Parameter] = (),
    ) -> None:
        self.shared = list(shared)
        products, rows, biases = _products(losses, self.shared)
        nodes = list(dict.fromkeys(n for found in [*products, *biases] for n in found))
        formed = [i for i in range(len(self.shared)) if not (products[i] or biases[i])]
        edges = [GradientEdge(node, 0) for node in nodes]
        sought: list[Any] = [*edges, *(self.shared[i] for i in formed), *private]
        columns: list[Tensor | None] = [None] * (len(edges) + len(formed))
        self.private_sums: list[Tensor | None] = [None] * len(private)
        for i, loss in enumerate(losses):
            if not loss.requires_grad:
                continue
            last = i + 1 == len(losses)
            found = torch.autograd.grad(loss, sought, retain_graph=not last, allow_unused=True)
            for k, gradient in enumerate(found[: len(columns)]):
                if gradient is not None:
                    column = columns[k]
                    if column is None:
                        column = columns[k] = gradient.new_zeros((len(losses), *gradient.shape))
                    column[i] = gradient
            for k, gradient in enumerate(found[len(columns) :]):
                if gradient is not None:
                    old = self.private_sums[k]
                    self.private_sums[k] = gradient if old is None else old + gradient
        at = dict(zip(nodes, columns[: len(nodes)], strict=True))
        self.size = len(losses)
        # One entry per parameter: its m gradients, or the factors (a [R, in], δ [m, R, out]).
        self.entries: list[Tensor | tuple[Tensor, Tensor] | None] = [None] * len(self.shared)
        for i, column in zip(formed, columns[len(nodes) :], strict=True):
            self.entries[i] = column
        for i, used in enumerate(products):
            if pairs := [(rows[n], at[n]) for n in used if at[n] is not None]:
                self.entries[i] = (
                    _joined([a for a, _ in pairs], 0),
                    _joined([d for _, d in pairs], 1),
                )
        for i, used in enumerate(biases):
            if deltas := [at[n] for n in used if at[n] is not None]:
                self.entries[i] = _joined(deltas, 1).sum(1)

    def gramian(self) -> Tensor:
        """Inner products of the m gradients over all shared parameters ``[m, m]``."""
        total = self.shared[0].new_zeros((self.size, self.size))
        for entry in self.entries:
            if isinstance(entry, tuple):
                rows, delta = entry
                between = (rows @ rows.T).expand(self.size, -1, -1)  # bmm: matmul would copy δ
                total += delta.flatten(1) @ torch.bmm(between, delta).flatten(1).T
            elif entry is not None:
                total += entry.flatten(1) @ entry.flatten(1).T
        return (total + total.T) / 2

    def mix(self, weights: Tensor) -> list[Tensor]:
        """``Σ w_i g_i`` for every shared parameter."""
        mixed = []
        for parameter, entry in zip(self.shared, self.entries, strict=True):
            if isinstance(entry, tuple):
                rows, delta = entry
                mixed.append(torch.tensordot(weights.to(delta.dtype), delta, dims=1).T @ rows)
            elif entry is not None:
                mixed.append(torch.tensordot(weights.to(entry.dtype), entry, dims=1))
            else:
                mixed.append(torch.zeros_like(parameter))
        return mixed


def _joined(tensors: Sequence[Tensor], dim: int) -> Tensor:
    return tensors[0] if len(tensors) == 1 else torch.cat(list(tensors), dim)


def _products(
    losses: Iterable[Tensor], shared: Sequence[nn.Parameter]
) -> tuple[list[list[Any]], dict[Any, Tensor], list[list[Any]]]:
    """Where the graph uses parameters in matrix products and in no other way.

    Returns:
        per parameter the products it is the weight of, the rows ``a [R, in]`` of these products,
        and per parameter the products it is the bias of; empty lists for all other parameters.
    """
    parents = _parents(losses)
    leaves = {
        id(node.variable): node for node in parents if type(node).__name__ == "AccumulateGrad"
    }
    products: list[list[Any]] = [[] for _ in shared]
    biases: list[list[Any]] = [[] for _ in shared]
    rows: dict[Any, Tensor] = {}
    for i, parameter in enumerate(shared):
        leaf = leaves.get(id(parameter))
        uses = parents[leaf] if leaf is not None else []
        if parameter.ndim == 2:
            weighing = [_weighing(use, parents) for use in uses]
            found = [node for nodes in weighing for node in nodes]
            if uses and all(weighing):
                saved = {node: getattr(node, _ROWS[node.name()]) for node in found}
                if sum(len(a) for a in saved.values()) <= parameter.shape[1]:
                    products[i] = found
                    rows |= saved
    weighed = set(rows)
    for i, parameter in enumerate(shared):
        leaf = leaves.get(id(parameter))
        uses = parents[leaf] if leaf is not None else []
        if (
            parameter.ndim == 1
            and uses
            and all(
                n in weighed and position == 0 and n.name() == "AddmmBackward0"
                for n, position in uses
            )
        ):
            biases[i] = [n for n, _ in uses]
    return products, rows, biases


def _parents(losses: Iterable[Tensor]) -> dict[Any, list[tuple[Any, int]]]:
    """Every node of the graph with the (node, position) pairs that use it."""
    parents: dict[Any, list[tuple[Any, int]]] = defaultdict(list)
    stack = [loss.grad_fn for loss in losses if loss.grad_fn is not None]
    seen = set(stack)
    while stack:
        node = stack.pop()
        for position, (child, _) in enumerate(node.next_functions):
            if child is None:
                continue
            parents[child].append((node, position))
            if child not in seen:
                seen.add(child)
                stack.append(child)
    return parents


def _weighing(use: tuple[Any, int], parents: dict[Any, list[tuple[Any, int]]]) -> list[Any]:
    """The products ``a Wᵀ (+ b)`` behind one use of W; empty if it is anything else."""
    turned, _ = use
    if turned.name() != "TBackward0":
        return []
    nodes = []
    for node, position in parents[turned]:
        kind = node.name(), position
        added = kind == ("AddmmBackward0", 2) and node._saved_alpha == node._saved_beta == 1
        if not added and kind != ("MmBackward0", 1):
            return []
        nodes.append(node)
    return nodes
