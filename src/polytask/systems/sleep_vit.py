"""Multitask 1-D ViT: sleep stage, breathing disorder and whatever else from one window of signals.

Source: Kazemi et al., "Multimodal Sleep Stage and Sleep Apnea Classification Using Vision
    Transformer: A Multitask Explainable Learning Approach", EMBC 2025, arXiv 2502.17486.
Year: 2025
Domain: signals
Parts: vit, saliency, heads
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

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from polytask.data import Batch, Processor, Suite
from polytask.errors import InputError, nearest
from polytask.parts import saliency
from polytask.parts.heads import Heads
from polytask.parts.vit import Encoder, Patches1d, Scaling, Tokens
from polytask.tasks import Classification, Task
from polytask.training import MultiTaskModule, NeuralLearner, Training

Scale = Literal["zscore", "minmax", "none"]
Layout = Literal["LC", "CL"]
Method = Literal["plain", "gradient", "rollout"]

_EXPLAINED_ROWS = 64  # per pass: the attention of all blocks is kept at once


def channels_first(x: Tensor, layout: Layout) -> Tensor:
    """A batch [B, L], [B, L, C] or [B, C, L] as [B, C, L]."""
    if x.ndim == 2:
        return x.unsqueeze(1)
    return x.transpose(1, 2) if layout == "LC" else x


def scaled(x: Tensor, scale: Scale) -> Tensor:
    """Each row and channel of ``[B, C, L]`` on its own: z-score, to [0, 1], or as it is.

    A constant channel becomes 0.
    """
    if scale == "zscore":
        centred = x - x.mean(-1, keepdim=True)
        return centred / centred.square().mean(-1, keepdim=True).sqrt().clamp(min=1e-6)
    if scale == "minmax":
        low, high = x.amin(-1, keepdim=True), x.amax(-1, keepdim=True)
        return (x - low) / (high - low).clamp(min=1e-6)
    return x


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
            if getattr(task.kind, "dense", False):
                raise InputError(f"{task} is a map; sleep_vit answers one value per window")
        self.config = config
        self.column, channels, length = signal_column(spec, config.layout)
        try:
            self.tokens = Tokens(Patches1d(channels, config.width, config.patch), (length,))
        except InputError as error:
            raise InputError(f"column {self.column!r}: {error}; set a smaller patch") from None
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
        told = parsed_weights(config.weights)
        self.weights = {name: told[name] for name in self.tasks if name in told}

    def embed(self, inputs: dict[str, Tensor]) -> Tensor:
        """Signals to tokens ``[B, 1 + P, width]``."""
        x = channels_first(inputs[self.column], self.config.layout)
        return self.tokens(scaled(x, self.config.scale))

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
            losses[task] = focal_loss(output, *labels, alpha, gamma)
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


def signal_column(spec: Processor, layout: Layout) -> tuple[str, int, int]:
    """Name, channels and samples of the one signal a suite has; InputError if there is another."""
    signals = {name: a.shape for name, a in spec.arrays.items() if len(a.shape) in (1, 2)}
    others = [name for name in spec.input_names if name not in signals]
    if len(signals) != 1 or others:
        found = ", ".join(repr(name) for name in (*signals, *others))
        raise InputError(
            f"sleep_vit reads exactly one column of arrays [samples, channels] and nothing else; "
            f"this suite has {found}: exclude what is not the signal"
        )
    ((name, shape),) = signals.items()
    samples, channels = (*shape, 1)[:2] if layout == "LC" or len(shape) == 1 else shape[::-1]
    if channels > samples:
        other = "CL" if layout == "LC" else "LC"
        raise InputError(
            f"column {name!r} read as layout {layout!r} has {channels} channels of {samples} "
            f"samples; set layout={other!r} if it is the other way round"
        )
    return name, channels, samples


def predicted_logit(output: Tensor, task: Task) -> Tensor:
    """Sum over rows of the logit of the class that each row is given; of numbers, the output."""
    if isinstance(task.kind, Classification):
        return output.abs().sum() if output.shape[1] == 1 else output.amax(1).sum()
    return output.sum()


def parsed_weights(weights: Sequence[str]) -> dict[str, float]:
    """``("disorder=2.0",)`` as a mapping; InputError names what cannot be read."""
    told = {}
    for text in weights:
        task, _, value = text.rpartition("=")
        try:
            told[task] = float(value)
        except ValueError:
            told[task] = -1.0
        if not task or not 0 <= told[task] < float("inf"):
            raise InputError(f"weight {text!r} is not TASK=NUMBER with a number from 0")
    return told


@dataclass
class SleepViT(NeuralLearner):
    """The paper's transformer; see the head of this file.

    Attributes:
        patch: samples of a token (20 of 64 Hz: 0.31 s).
        width, depth, heads, ff: of the encoder. A head is ``width // heads`` wide (256 / 6 -> 42)
            unless ``head_width`` says otherwise.
        bias: whether queries, keys, values and their output have one.
        survival: survival probability of the last block; ``depth_scaling`` as in ``parts.vit``.
        dense: width of the layer that all heads read.
        scale: each window and channel by z-score (README), to [0, 1] (script, which refuses a
            constant channel), or not at all.
        layout: ``"LC"`` for arrays [samples, channels], ``"CL"`` for [channels, samples].
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
    scale: Scale = "zscore"
    layout: Layout = "LC"
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
        for name, allowed in (("scale", Scale), ("layout", Layout)):
            value, known = getattr(self, name), get_args(allowed)
            if value not in known:
                raise InputError(f"{name} is {value!r}{nearest(value, known)}")
        for task in suite.tasks:
            if task.name in self.focal and not isinstance(task.kind, Classification):
                raise InputError(f"{task} is no classification; the focal loss is for classes")
        if self.scale == "minmax":
            processor = Processor.fit(suite)
            for split in suite.splits:
                self._refuse_constant(processor.encode(suite, split), processor, f" of {split}")

    def attention(
        self,
        inputs: Any,
        task: str | None = None,
        method: Method = "plain",
        block: int = -1,
    ) -> np.ndarray:
        """Where in time an answer comes from: curves ``[N, P * patch]``, one value per sample.

        The P tokens of a window share 1; a token's share is repeated over its samples. Samples
        after the last whole patch have no token. All channels share a token, so this is relevance
        of moments, not of channels.

        Args:
            inputs: rows as for ``predict``.
            task: whose predicted class is explained; for ``"gradient"`` alone.
            method: ``"plain"``, the cls row of a block's attention; ``"gradient"``, the same
                weighted by the gradient of the task's logit; ``"rollout"``, through all blocks.
            block: which block, counted from 0 (or from the end, -1); rollout has them all.
        """
        processor = self._fitted()
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
        self._refuse_constant(batch, processor)
        module = self.module_.to(self._engine().device).eval()
        assert isinstance(module, SleepViTNet)
        device = next(module.parameters()).device
        found = []
        for start in range(0, len(batch), _EXPLAINED_ROWS):
            part = batch[slice(start, start + _EXPLAINED_ROWS)].to(device)
            shares = module.relevance(part.inputs, task, method, block)
            found.append(shares.detach().cpu().numpy())
        return np.concatenate(found).repeat(self.patch, axis=1)

    def _decoded(self, batch: Batch, tasks: Sequence[str]) -> dict[str, np.ndarray]:
        self._refuse_constant(batch, self._fitted())
        return super()._decoded(batch, tasks)

    def _refuse_constant(self, batch: Batch, spec: Processor, where: str = "") -> None:
        """Min-max has nothing to say of a channel that does not move."""
        if self.scale != "minmax":
            return
        name, _, _ = signal_column(spec, self.layout)
        x = channels_first(batch.inputs[name], self.layout)
        still = (x.amax(-1) == x.amin(-1)).nonzero()
        if len(still):
            row, channel = still[0].tolist()
            raise InputError(
                f"column {name!r}: channel {channel} is constant in row {row + 1}{where}, which "
                "scale='minmax' cannot bring to [0, 1]; drop the row or set scale='zscore'"
            )
