"""Multitask 1-D ViT: sleep stage, breathing disorder and whatever else from one window of signals.

Source: Kazemi et al., "Multimodal Sleep Stage and Sleep Apnea Classification Using Vision
    Transformer: A Multitask Explainable Learning Approach", EMBC 2025, arXiv 2502.17486.
Year: 2025
Domain: signals
Parts: vit, signals, saliency, heads
For: windows of several channels with labels per window; shows which moments an answer rests on
Idea: patches of all channels together become tokens; one transformer and one dense layer serve all
    tasks; the attention of its cls token is the explanation.
Equations: z_0 = [cls; Conv(x)_1; ...; Conv(x)_P] + E (stride = kernel = patch), six pre-norm
    blocks with stochastic depth (``parts.vit``), f = GELU(W LN(z_6)[cls] + b), one linear head per
    task; loss = sum over tasks of weight * cross-entropy, the paper's weights being 1 (stage) and
    2 (disorder).
Input: one array column per window, [L, C] or [C, L]; labels may be missing per task.
Output: dict task -> [B, out_t]. At the paper's size (C = 5, L = 2000) 2.04 M parameters.

Differs from the paper:
 (1) Two texts disagree on the input: 1920 samples, z-score (README), or 2000, min-max (script).
     Both are there: ``scale`` here, rate and method of resampling in ``data.signals``.
 (2) The best epoch is chosen by the mean of the tasks' primary metric on validation rows of other
     subjects. The reference watches a name its model does not log, on the test set.
 (3) Stochastic depth is drawn per row, not per batch. The activation of the dense layer is not
     given: GELU.
 (4) Attention weights are not sent through a second softmax before they are shown.
 (5) Windows are judged one by one, as in the paper; there is no smoothing over the night.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from polytask.config import amounts
from polytask.data import Batch, Processor, Suite
from polytask.errors import InputError, nearest
from polytask.parts import saliency
from polytask.parts.heads import Heads
from polytask.parts.signals import Signal, SignalLearner
from polytask.parts.vit import Encoder, Patches1d, Scaling, Tokens
from polytask.tasks import Classification, Task
from polytask.training import MultiTaskModule, Training

Method = Literal["plain", "gradient", "rollout"]

_EXPLAINED_ROWS = 64  # per pass: the attention of all blocks is kept at once


def focal_loss(
    output: Tensor, target: Tensor, mask: Tensor, alpha: float = 0.25, gamma: float = 2.0
) -> Tensor:
    """Softmax focal loss (Lin et al., arXiv 1708.02002), mean over the K classes and labelled rows.

    -alpha (1 - p_y)^gamma log p_y / K for the class y of a row: the other K - 1 terms are 0. With
    alpha = 1 and gamma = 0 it is cross-entropy / K.

    Shapes: output [B, K] (K > 2) or one logit [B, 1], target [B] of classes, mask [B] -> scalar.
    """
    if output.shape[1] == 1:  # the logits of no and yes are 0 and z
        output = torch.cat([torch.zeros_like(output), output], dim=1)
    entropy = F.cross_entropy(output, target, reduction="none")
    rows = alpha * (1 - (-entropy).exp()) ** gamma * entropy / output.shape[1]
    kept = mask.to(rows.dtype)
    return (rows * kept).sum() / kept.sum().clamp(min=1)


class SleepViTNet(MultiTaskModule):
    """Tokens of a signal, encoder, shared dense layer, one linear head per task."""

    has_feature = True

    def __init__(self, spec: Processor, config: SleepViT) -> None:
        super().__init__(spec.tasks)
        for task in spec.tasks:
            if task.kind.dense:
                raise InputError(f"{task} is a map; sleep_vit answers one value per window")
        self.config = config
        self.signal = Signal.of(spec, config.layout, config.scale)
        patches = Patches1d(self.signal.channels, config.width, config.patch)
        try:
            self.tokens = Tokens(patches, (self.signal.samples,))
        except InputError as error:
            raise InputError(
                f"column {self.signal.column!r}: {error}; set a smaller patch"
            ) from None
        self.encoder = Encoder(
            config.width,
            config.depth,
            config.heads,
            config.ff,
            head_width=config.head_width,
            bias=config.bias,
            dropout=config.dropout,
            survival=config.survival,
            scaling=config.depth_scaling,
        )
        self.dense = nn.Sequential(nn.Linear(config.width, config.dense), nn.GELU())
        self.heads = Heads({t.name: nn.Linear(config.dense, t.kind.outputs) for t in spec.tasks})
        self.weights = amounts(config.weights, "weights")

    def embed(self, inputs: dict[str, Tensor]) -> Tensor:
        """Signals to tokens ``[B, 1 + P, width]``."""
        return self.tokens(self.signal(inputs))

    def read(self, tokens: Tensor) -> Tensor:
        """Tokens, of which some may have been taken out, to the shared feature ``[B, dense]``."""
        return self.dense(self.encoder(tokens)[0][:, 0])

    def represent(self, inputs: dict[str, Tensor], tasks: Iterable[str]) -> Tensor:
        return self.read(self.embed(inputs))

    def answer(self, representation: Tensor, task: str) -> Tensor:
        return self.heads[task](representation)

    def losses_at(self, representation: Tensor, batch: Batch) -> dict[str, Tensor]:
        losses = super().losses_at(representation, batch)
        alpha, gamma = self.config.focal_alpha, self.config.focal_gamma
        for task in losses.keys() & set(self.config.focal):
            output = self.answer(representation, task).float()
            labels = batch.targets[task], batch.masks[task]
            loss = focal_loss(output, *labels, alpha, gamma)
            losses[task] = loss * self.weights.get(task, 1.0)
        return losses

    def relevance(
        self, inputs: dict[str, Tensor], task: str | None, method: Method, block: int
    ) -> Tensor:
        """Share ``[B, P]`` of each token; see ``SleepViT.attention``."""
        tokens, weights = self.encoder.attention(self.embed(inputs))
        if method == "rollout":
            return saliency.of_rollout(weights)
        if method == "plain":
            return saliency.of_attention(weights[block])
        assert task is not None
        output = self.answer(self.dense(tokens[:, 0]), task)
        (gradient,) = torch.autograd.grad(predicted_logit(output, self.tasks[task]), weights[block])
        return saliency.of_gradient(weights[block], gradient)


def predicted_logit(output: Tensor, task: Task) -> Tensor:
    """Sum over rows of the logit of the class that each row is given; of numbers, the output."""
    if isinstance(task.kind, Classification):
        return output.abs().sum() if output.shape[1] == 1 else output.amax(1).sum()
    return output.sum()


@dataclass
class SleepViT(SignalLearner):
    """The paper's transformer; see the head of this file.

    Attributes:
        patch: samples of a token (20 of 64 Hz: 0.31 s).
        width, depth, heads, ff: of the encoder. A head is ``width // heads`` wide (256 / 6 -> 42)
            unless ``head_width`` says otherwise.
        bias: whether queries, keys, values and their output have one.
        survival: survival probability of the last block; ``depth_scaling`` as in ``parts.vit``.
        dense: width of the layer that all heads read.
        scale: ``"zscore"`` as in the paper's README, or ``"minmax"`` as in its script.
        weights: ``TASK=NUMBER`` of the tasks whose loss does not weigh 1; the paper has
            ``("disorder=2.0",)``. Tasks that a suite does not have are passed over, so that the
            same settings fit some of its tasks.
        focal: classification tasks with the focal loss in place of cross-entropy, and its
            ``focal_alpha`` and ``focal_gamma``. Tasks that a suite does not have are passed over.
    """

    patch: int = 20
    width: int = 256
    depth: int = 6
    heads: int = 6
    head_width: int | None = None
    ff: int = 128
    bias: bool = False
    dropout: float = 0.0
    survival: float = 0.7
    depth_scaling: Scaling = "evaluation"
    dense: int = 128
    weights: tuple[str, ...] = ()
    focal: tuple[str, ...] = ()
    focal_alpha: float = 0.25
    focal_gamma: float = 2.0
    training: Training = field(
        default_factory=lambda: Training(
            lr=1e-4, weight_decay=0.004, batch=64, epochs=35, patience=35
        )
    )

    id: ClassVar[str] = "sleep_vit"

    def build(self, spec: Processor) -> SleepViTNet:
        return SleepViTNet(spec, self)

    def validate(self, suite: Suite) -> None:
        super().validate(suite)
        for task in suite.tasks:
            if task.name in self.focal and not isinstance(task.kind, Classification):
                raise InputError(f"{task} is no classification; the focal loss is for classes")

    def attention(
        self,
        inputs: Any,
        task: str | None = None,
        method: Method | None = None,
        block: int = -1,
    ) -> np.ndarray:
        """Where in time an answer comes from: curves ``[N, P * patch]``, one value per sample.

        The P tokens of a window share 1; a token's share is repeated over its samples. Samples
        after the last whole patch have no token. All channels share a token, so this is relevance
        of moments, not of channels.

        Args:
            inputs: rows as for ``predict``.
            task: whose predicted class is explained; without one, what all tasks look at.
            method: ``"plain"``, the cls row of a block's attention, and ``"rollout"``, through all
                blocks, are the same for all tasks; ``"gradient"``, the cls row weighted by the
                gradient of the task's logit, needs a task and is what a task gets by default.
            block: which block, counted from 0 (or from the end, -1); rollout has them all.
        """
        processor = self._fitted()
        method = method or ("gradient" if task is not None else "plain")
        if method not in get_args(Method):
            raise InputError(f"method is {method!r}{nearest(method, get_args(Method))}")
        if (method == "gradient") != (task is not None):
            raise InputError(
                "method 'gradient' explains one task: name it"
                if task is None
                else f"method {method!r} is the same for all tasks: leave task={task!r} out"
            )
        if task is not None:
            processor.task(task)
        if not -self.depth <= block < self.depth:
            raise InputError(f"block is {block}; this model has blocks 0 to {self.depth - 1}")
        batch = processor.inputs(inputs)
        module = self.module_.to(self._engine().device).eval()
        assert isinstance(module, SleepViTNet)
        module.signal.check(batch.inputs)
        device = next(module.parameters()).device
        found = []
        for start in range(0, len(batch), _EXPLAINED_ROWS):
            part = batch[slice(start, start + _EXPLAINED_ROWS)].to(device)
            shares = module.relevance(part.inputs, task, method, block)
            found.append(shares.detach().cpu().numpy())
        return np.concatenate(found).repeat(self.patch, axis=1)
