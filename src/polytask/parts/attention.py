"""Pre-norm attention over the tokens of a row and over the rows of a batch.

Source: MultiTab (arXiv 2511.09970), which follows SAINT (arXiv 2106.01342).
"""

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MaskKind = Literal["none", "TxT", "FxT", "both"]
InterSampleMode = Literal["true", "per_row", "off"]


def task_mask(n_tasks: int, n_features: int, kind: MaskKind) -> Tensor | None:
    """Which token may look at which, for the sequence [task_1..task_T, feature_1..feature_d].

    "TxT": a task does not see the other tasks (T(T-1) pairs forbidden). "FxT": features do not
    see tasks (d*T pairs). "both": both. A task always sees itself and all features.

    Returns:
        Boolean [T+d, T+d], True = visible, rows are queries and columns keys; None for "none".
    """
    if kind not in get_args(MaskKind):
        raise ValueError(f"kind is {kind!r}; it must be one of {', '.join(get_args(MaskKind))}")
    if kind == "none":
        return None
    mask = torch.ones(n_tasks + n_features, n_tasks + n_features, dtype=torch.bool)
    if kind in ("TxT", "both"):
        mask[:n_tasks, :n_tasks] = torch.eye(n_tasks, dtype=torch.bool)
    if kind in ("FxT", "both"):
        mask[n_tasks:, :n_tasks] = False
    return mask


class SelfAttention(nn.Module):
    """Multi-head attention A V, A = softmax(Q K^T / sqrt(width / heads)), of a sequence to itself.

    With a `context` of C vectors, position i attends to the context and to itself and to nothing
    else, so its output does not depend on the rest of the sequence.

    Args:
        width: Size of a vector.
        heads: Number of heads; divides width.
        dropout: Probability of dropping an attention weight in training.

    Shapes: x [..., L, width], mask [L, L] (True = visible), context [..., C, width]
        -> [..., L, width].
    """

    def __init__(self, width: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} does not divide into {heads} heads")
        self.heads, self.dropout = heads, dropout
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.output = nn.Linear(width, width)

    def forward(
        self, x: Tensor, mask: Tensor | None = None, context: Tensor | None = None
    ) -> Tensor:
        """Attend within x, or, with a context, from each position to the context and itself."""
        query, key, value = (self._split(part(x)) for part in (self.query, self.key, self.value))
        dropout = self.dropout if self.training else 0.0
        if context is None:
            mixed = F.scaled_dot_product_attention(query, key, value, mask, dropout_p=dropout)
        elif mask is not None:
            raise ValueError("mask and context are both given; attention takes only one of them")
        else:
            # Own key beside the context's, not in it: costs L*C, where a mask would cost L*(C+L).
            shared = self._split(self.key(context)), self._split(self.value(context))
            own_score = (query * key).sum(-1, keepdim=True)
            scores = torch.cat([query @ shared[0].transpose(-2, -1), own_score], dim=-1)
            weights = (scores * query.shape[-1] ** -0.5).softmax(-1)
            weights = F.dropout(weights, dropout, training=self.training)
            mixed = weights[..., :-1] @ shared[1] + weights[..., -1:] * value
        return self.output(mixed.transpose(-3, -2).flatten(-2))

    def _split(self, x: Tensor) -> Tensor:
        """[..., L, width] -> [..., heads, L, width / heads]."""
        return x.unflatten(-1, (self.heads, -1)).transpose(-3, -2)


class OwnAttention(nn.Module):
    """Attention in which every position sees only itself: Linear after Linear.

    The softmax over one key is 1, so the values pass unchanged, and query and key (which would
    never receive a gradient) do not exist.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.value = nn.Linear(width, width)
        self.output = nn.Linear(width, width)

    def forward(
        self, x: Tensor, mask: Tensor | None = None, context: Tensor | None = None
    ) -> Tensor:
        """Transform each position on its own, [..., width] -> [..., width]."""
        if mask is not None or context is not None:
            raise ValueError("positions that see only themselves take neither mask nor context")
        return self.output(self.value(x))


class TransformerLayer(nn.Module):
    """Pre-norm layer: h = x + Drop(attention(LN(x))), then h + MLP(LN(h)).

    MLP = Linear(width, ff) - GELU - Dropout - Linear(ff, width). The two dropouts have the same
    probability; the attention module has its own.

    Shapes: as the attention's, [..., L, width] -> [..., L, width].
    """

    def __init__(self, attention: nn.Module, width: int, ff: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = attention
        self.dropout = nn.Dropout(dropout)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, ff), nn.GELU(), nn.Dropout(dropout), nn.Linear(ff, width)
        )

    def forward(
        self, x: Tensor, mask: Tensor | None = None, context: Tensor | None = None
    ) -> Tensor:
        """Apply the layer; mask and context are the attention's."""
        if context is not None:
            context = self.attention_norm(context)
        x = x + self.dropout(self.attention(self.attention_norm(x), mask, context))
        return x + self.mlp(self.mlp_norm(x))


class InterSample(nn.Module):
    """A transformer layer over rows: each row's n tokens of size e become one vector of n*e.

    Modes:
        "true": the rows of the batch attend to each other, so a prediction depends on the batch.
            With a `context` (rows at this layer's input, e.g. a fixed sample of the training
            set), each row attends to the context and to itself: batch-independent, for serving.
        "per_row": every row sees only itself. This is what the reference's rotary layer does by
            accident (it reads the batch as sequence length 1); its dead query and key
            projections are left out.
        "off": no layer; the input comes back and there are no parameters.

    In a stack, the context of block l+1 is the context's own output of block l in mode "true".

    Args:
        width: n*e, the size of a row's flattened tokens.
        heads, ff, dropout, attention_dropout: As in `TransformerLayer` and `SelfAttention`.
        mode: One of the above.

    Shapes: x [B, n, e], context [C, n, e] -> [B, n, e].
    """

    def __init__(
        self,
        width: int,
        heads: int,
        ff: int,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        mode: InterSampleMode = "true",
    ) -> None:
        super().__init__()
        if mode not in get_args(InterSampleMode):
            modes = ", ".join(get_args(InterSampleMode))
            raise ValueError(f"mode is {mode!r}; it must be one of {modes}")
        self.mode = mode
        if mode == "true":
            attention = SelfAttention(width, heads, attention_dropout)
            self.layer: nn.Module | None = TransformerLayer(attention, width, ff, dropout)
        elif mode == "per_row":
            self.layer = TransformerLayer(OwnAttention(width), width, ff, dropout)
        else:
            self.layer = None

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Mix rows as the mode says; only mode "true" takes a context."""
        if context is not None and self.mode != "true":
            raise ValueError(f"inter-sample mode {self.mode!r} takes no context; only 'true' does")
        if self.layer is None:
            return x
        if context is not None:
            context = context.flatten(1).unsqueeze(0)
        rows = self.layer(x.flatten(1).unsqueeze(0), context=context)
        return rows.squeeze(0).view_as(x)
