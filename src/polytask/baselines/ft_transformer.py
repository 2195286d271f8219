"""FT-Transformer: the single-task tabular transformer; several tasks read one [CLS] token.

Source: Gorishniy et al., "Revisiting Deep Learning Models for Tabular Data", NeurIPS 2021,
    arXiv 2106.11959; 2 blocks as in the MultiTab baselines (arXiv 2511.09970).
Year: 2021
Domain: tables
Parts: tabular, attention, mlp, heads
For: the strongest neural single-task rival on tables
Differs from the paper: GELU instead of ReGLU in the feed-forward part; width and heads are the
    MultiTab baselines', not the paper's tuned ones.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from polytask.data import Processor
from polytask.errors import InputError
from polytask.parts.attention import SelfAttention, TransformerLayer
from polytask.parts.heads import Heads
from polytask.parts.tabular import FeatureTokenizer, TaskTokens
from polytask.training import MultiTaskModule, NeuralLearner, Training


class FTTransformerNet(MultiTaskModule):
    """Feature tokens and one [CLS] token, which all heads read."""

    has_feature = True

    def __init__(self, spec: Processor, config: FTTransformer) -> None:
        super().__init__(spec.tasks)
        e = config.width
        self.tokenizer = FeatureTokenizer(len(spec.numeric), spec.cardinalities, e)
        self.cls = TaskTokens(1, e)
        self.blocks = nn.ModuleList(
            TransformerLayer(
                SelfAttention(e, config.heads, config.attention_dropout),
                e,
                config.ff,
                config.dropout,
            )
            for _ in range(config.blocks)
        )
        self.norm = nn.LayerNorm(e)
        self.heads = Heads({t.name: nn.Linear(e, t.kind.outputs) for t in spec.tasks})

    def represent(self, inputs: dict[str, Tensor], tasks: Iterable[str]) -> Tensor:
        given = inputs["numeric"] if "numeric" in inputs else inputs["categorical"]
        empty = given.new_zeros((given.shape[0], 0))
        features = self.tokenizer(
            inputs.get("numeric", empty.float()), inputs.get("categorical", empty.long())
        )
        x = torch.cat([self.cls(given.shape[0]), features], dim=1)
        for block in self.blocks:
            x = block(x)
        return torch.relu(self.norm(x[:, 0]))

    def answer(self, representation: Tensor, task: str) -> Tensor:
        return self.heads[task](representation)


@dataclass
class FTTransformer(NeuralLearner):
    """Feature tokens and a [CLS] token through transformer blocks; heads read [CLS]."""

    width: int = 64
    blocks: int = 2
    heads: int = 4
    ff: int = 128
    dropout: float = 0.1
    attention_dropout: float = 0.2
    training: Training = field(
        default_factory=lambda: Training(
            lr=1e-3, weight_decay=1e-5, batch=2048, epochs=100, patience=5
        )
    )

    id: ClassVar[str] = "ft_transformer"

    def build(self, spec: Processor) -> FTTransformerNet:
        if spec.arrays:
            raise InputError(
                f"ft_transformer reads tables; column {next(iter(spec.arrays))!r} is an array"
            )
        return FTTransformerNet(spec, self)
