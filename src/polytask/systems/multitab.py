"""MultiTab-Net: one tabular transformer for several targets of the same row.

Source: Sinodinos, Wei, Armanfard, "MultiTab: A Scalable Foundation for Multitask Learning on
    Tabular Data", AAAI 2026, arXiv 2511.09970.
Year: 2026
Domain: tables
Parts: tabular, attention, mlp, heads
For: several targets of the same table rows, of mixed kind, with missing labels
Idea: every column becomes a token and every task gets a token of its own; masked attention decides
    which tokens may look at which, and each task's head reads that task's token.
Equations: tokens = [task_1..task_T, f_1..f_d]; block: attention over the n = T + d tokens of a row
    with mask M, softmax(Q Kᵀ/√d_k + M) V, then attention over the rows of the batch on vectors of
    size n·e; y_t = MLP_t(token_t).   tokens: [B, n, e]   M: [n, n]   y_t: [B, out_t]
    T↛T ("TxT"): a task query may not see another task's key. F↛T ("FxT"): features see no task.
Input: numbers and categories; labels may be missing per task.   Output: dict task -> [B, out_t].

Differs from the paper:
 (1) Regression targets are standardised (the reference leaves them raw), so that the sum of losses
     is balanced; predictions are in the target's unit.
 (2) Binary losses are computed on logits, not on sigmoid outputs.
 (3) Encoders are fitted on training rows only; unseen categories have a code of their own.
 (4) The default is ``inter_sample="per_row"``: it is what the reference's rotary variant really
     computes (AliExpress, Higgs, synthetic); only ACS Income mixes rows.
 (5) With ``inter_sample="true"`` evaluation and serving attend to a fixed context of training rows
     instead of whatever shares the batch, so predictions do not depend on batch size or order.
 (6) The mask acts with several task tokens only; ``task_tokens=False`` (one token read by all
     heads) refuses a mask instead of ignoring it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from polytask.data import Batch, Processor
from polytask.errors import InputError
from polytask.parts.attention import (
    InterSample,
    InterSampleMode,
    MaskKind,
    SelfAttention,
    TransformerLayer,
    task_mask,
)
from polytask.parts.heads import Heads
from polytask.parts.mlp import MLP, init_normal
from polytask.parts.tabular import FeatureTokenizer, TaskTokens
from polytask.training import MultiTaskModule, NeuralLearner, Training


class MultiTabNet(MultiTaskModule):
    """Tokens, blocks of inter-feature and inter-sample attention, one head per task."""

    mask: Tensor | None
    context_numeric: Tensor
    context_categorical: Tensor

    def __init__(self, spec: Processor, config: MultiTab) -> None:
        super().__init__(spec.tasks)
        self.tokens_of_own = config.task_tokens
        tokens = len(spec.tasks) if config.task_tokens else 1
        features = len(spec.numeric) + len(spec.cardinalities)
        e = config.width
        self.tokenizer = FeatureTokenizer(len(spec.numeric), spec.cardinalities, e)
        self.task_tokens = TaskTokens(tokens, e)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList()
        for _ in range(config.blocks):
            attention = SelfAttention(e, config.heads, config.attention_dropout)
            self.blocks.append(TransformerLayer(attention, e, config.ff, config.dropout))
            self.blocks.append(
                InterSample(
                    (tokens + features) * e,
                    config.heads,
                    config.ff,
                    config.dropout,
                    config.attention_dropout,
                    config.inter_sample,
                )
            )
        self.heads = Heads(
            {t.name: MLP(e, config.head, t.kind.outputs, config.dropout) for t in spec.tasks}
        )
        if config.init_std is not None:
            init_normal(self, config.init_std)
        mask = task_mask(tokens, features, config.mask)
        self.register_buffer("mask", mask, persistent=False)
        rows = config.context if config.inter_sample == "true" else 0
        # Encoded training rows that every served row attends to; saved with the weights.
        self.register_buffer("context_numeric", torch.zeros(rows, len(spec.numeric)))
        self.register_buffer(
            "context_categorical", torch.zeros(rows, len(spec.cardinalities), dtype=torch.long)
        )

    def set_context(self, inputs: dict[str, Tensor]) -> None:
        """Choose the rows (evenly spaced) that evaluation and serving attend to."""
        for name in ("numeric", "categorical"):
            stored = getattr(self, f"context_{name}")
            if name in inputs and stored.numel():
                rows = torch.linspace(0, len(inputs[name]) - 1, len(stored)).long()
                stored.copy_(inputs[name][rows])

    def represent(self, inputs: dict[str, Tensor], tasks: Iterable[str]) -> Tensor:
        """Task tokens after the last block, ``[B, T, e]`` (``[B, 1, e]`` with a single token)."""
        x = self._tokens(inputs.get("numeric"), inputs.get("categorical"))
        context = None
        if not self.training and len(self.context_numeric):
            context = self._tokens(self.context_numeric, self.context_categorical)
        for layer in self.blocks:
            if isinstance(layer, InterSample):
                through = None if context is None else layer(context)
                x, context = layer(x, context), through
            else:
                x = layer(x, self.mask)
                context = None if context is None else layer(context, self.mask)
        return x[:, : self.task_tokens.weight.shape[0]]

    def answer(self, representation: Tensor, task: str) -> Tensor:
        token = list(self.tasks).index(task) if self.tokens_of_own else 0
        return self.heads[task](representation[:, token])

    def _tokens(self, numeric: Tensor | None, categorical: Tensor | None) -> Tensor:
        given = numeric if numeric is not None else categorical
        assert given is not None
        rows = given.shape[0]
        empty = given.new_zeros((rows, 0))
        features = self.tokenizer(
            empty.float() if numeric is None else numeric,
            empty.long() if categorical is None else categorical,
        )
        return self.dropout(torch.cat([self.task_tokens(rows), features], dim=1))


@dataclass
class MultiTab(NeuralLearner):
    """MultiTab-Net as a learner; see the head of this file.

    Attributes:
        width: token size e (published: 16; 8 for AliExpress).
        blocks, heads, ff, head: published configs use 1, 4, 256 and [64] throughout.
        mask: "TxT" is the paper's recommendation.
        inter_sample: attention over rows: "true", "per_row" (what the published configs of three
            of the four data sets compute) or "off".
        context: rows of the fixed context with ``inter_sample="true"``.
        task_tokens: one token per task; False is the paper's single-token ablation.
        init_std: standard deviation of all initial weights (biases start at 0); None starts each
            layer as PyTorch does, which ``inter_sample="true"`` needs on small data.
    """

    width: int = 16
    blocks: int = 1
    heads: int = 4
    ff: int = 256
    head: tuple[int, ...] = (64,)
    mask: MaskKind = "TxT"
    inter_sample: InterSampleMode = "per_row"
    context: int = 256
    task_tokens: bool = True
    init_std: float | None = 0.01
    dropout: float = 0.2  # ACS Income config; AliExpress and Higgs use 0
    attention_dropout: float = 0.2  # ACS Income and AliExpress configs; Higgs 0
    training: Training = field(
        default_factory=lambda: Training(
            lr=1e-3, weight_decay=1e-5, batch=2048, epochs=100, patience=5
        )
    )

    id: ClassVar[str] = "multitab"

    def build(self, spec: Processor) -> MultiTabNet:
        if spec.arrays:
            raise InputError(
                f"multitab reads tables; column {next(iter(spec.arrays))!r} is an array"
            )
        if not self.task_tokens and self.mask != "none":
            raise InputError(
                "multitab: mask needs task_tokens=True; with one token use mask='none'"
            )
        if self.inter_sample == "true" and self.context < 1:
            raise InputError("multitab: inter_sample='true' needs context >= 1 rows for serving")
        if self.init_std is not None and self.init_std <= 0:
            raise InputError(f"multitab: init_std must be positive or None, not {self.init_std}")
        return MultiTabNet(spec, self)

    def before_training(self, module: MultiTaskModule, data: Batch) -> None:
        assert isinstance(module, MultiTabNet)
        module.set_context(data.inputs)
