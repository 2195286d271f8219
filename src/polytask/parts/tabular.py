"""Tokens for tables: one vector per feature and one per task.

Source: FT-Transformer (arXiv 2106.11959, Sec. 3.3) for the feature tokens, MultiTab
(arXiv 2511.09970) for the task tokens.
"""

from collections.abc import Mapping, Sequence
from math import prod

import torch
from torch import Tensor, nn

from polytask.parts.mlp import init_normal


class FeatureTokenizer(nn.Module):
    """Turn a row of numbers and category codes into one token per column.

    Equations: numerical feature j gives x_j * w_j + b_j, categorical feature j gives E_j[code].

    All categorical tables lie in one embedding, table after table, so that a row is one look-up.
    A code outside its table is an unseen category and reads entry 0, "unknown".

    Args:
        n_numeric: Number of numerical columns; may be 0.
        cardinalities: Entries of each categorical table, the unknown entry 0 included.
        width: Size of a token.
        bias: Whether numerical tokens have the offset b_j.
        init_std: Standard deviation of normal initial weights (biases 0); by default weights and
            biases start as those of PyTorch's Linear(1, width) and Embedding.

    Shapes: numeric [B, n_numeric] float, categorical [B, n_categorical] long
        -> [B, n_numeric + n_categorical, width], numerical features first.
    """

    offsets: Tensor
    sizes: Tensor

    def __init__(
        self,
        n_numeric: int,
        cardinalities: Sequence[int],
        width: int,
        bias: bool = True,
        init_std: float | None = None,
    ) -> None:
        super().__init__()
        for column, size in enumerate(cardinalities):
            if size < 1:
                raise ValueError(f"cardinalities[{column}] is {size}; it must be at least 1")
        self.n_numeric = n_numeric
        self.n_tokens = n_numeric + len(cardinalities)
        self.weight = nn.Parameter(torch.empty(n_numeric, width).uniform_(-1, 1))
        self.bias = nn.Parameter(torch.empty(n_numeric, width).uniform_(-1, 1)) if bias else None
        self.embedding = nn.Embedding(sum(cardinalities), width)
        sizes = torch.tensor(cardinalities, dtype=torch.long)
        # Both follow from the constructor, so they travel with the module but not in its weights.
        self.register_buffer("sizes", sizes, persistent=False)
        self.register_buffer("offsets", sizes.cumsum(0) - sizes, persistent=False)
        if init_std is not None:
            init_normal(self, init_std)

    def forward(self, numeric: Tensor, categorical: Tensor) -> Tensor:
        """Return the tokens [B, n_tokens, width] of a batch of rows."""
        # A single column would broadcast over all features without an error.
        for name, given, expected in (
            ("numeric", numeric.shape[-1], self.n_numeric),
            ("categorical", categorical.shape[-1], len(self.sizes)),
        ):
            if given != expected:
                raise ValueError(f"{name} has {given} columns; the tokenizer expects {expected}")
        numbers = numeric.unsqueeze(-1) * self.weight
        if self.bias is not None:
            numbers = numbers + self.bias
        known = (categorical >= 0) & (categorical < self.sizes)
        categories = self.embedding(categorical.where(known, 0) + self.offsets)
        return torch.cat([numbers, categories], dim=-2)


class TaskTokens(nn.Module):
    """One learned vector per task, the same for every row.

    The paper writes it as a Linear(1, width) applied to the constant 1, which is a vector w + b;
    here it is that one vector.

    Shapes: batch size B -> [B, n_tasks, width].
    """

    def __init__(self, n_tasks: int, width: int, init_std: float = 0.01) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n_tasks, width).normal_(std=init_std))

    def forward(self, batch_size: int) -> Tensor:
        """Return the task tokens for `batch_size` rows (a view; no memory per row)."""
        return self.weight.expand(batch_size, -1, -1)


class FlatRow(nn.Module):
    """Everything a row holds as one vector: feature tokens side by side, arrays flattened.

    Args:
        n_numeric, cardinalities, width: As for `FeatureTokenizer`.
        arrays: Name and shape of each array input.

    Shapes: encoded inputs by name -> [B, out_features].
    """

    def __init__(
        self,
        n_numeric: int,
        cardinalities: Sequence[int],
        arrays: Mapping[str, Sequence[int]],
        width: int,
    ) -> None:
        super().__init__()
        self.tokenizer = FeatureTokenizer(n_numeric, cardinalities, width)
        self.arrays = tuple(arrays)
        columns = n_numeric + len(cardinalities)
        self.out_features = columns * width + sum(prod(shape) for shape in arrays.values())

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Return one vector per row."""
        parts = [inputs[name].flatten(1) for name in self.arrays]
        numeric, categorical = inputs.get("numeric"), inputs.get("categorical")
        given = numeric if numeric is not None else categorical
        if given is not None:
            empty = given.new_zeros((given.shape[0], 0))
            tokens = self.tokenizer(
                empty.float() if numeric is None else numeric,
                empty.long() if categorical is None else categorical,
            )
            parts.append(tokens.flatten(1))
        return torch.cat(parts, dim=1)
