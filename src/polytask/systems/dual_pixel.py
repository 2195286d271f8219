"""MDP: deblur one photograph, and learn better by telling what each half of the lens saw.

Source: Abuolaim, Afifi, Brown, "Improving Single-Image Defocus Deblurring: How Dual-Pixel Images
    Help Through Multi-Task Learning", WACV 2022, arXiv 2108.05251.
Year: 2022
Domain: pictures
Parts: heads
For: restoring pictures whose training set has cheap helper views and few sharp targets
Idea: dual-pixel views come free with every shot; a network that must also tell them from the
    blurred picture learns defocus, so it deblurs better. One encoder; a decoder per picture; half
    way up, every decoder reads what all of them have found.
Equations: C, S, L, R: blurred, sharp, left, right [B, 3, H, W] in [0, 1]; * marks labels.
    m = [e_2, u_L, u_R, u_S]: level 2 of the encoder and the early halves of the decoders; the late
    half of each reads m and e_1.   m: [B, 2(1+D)w, H/2, W/2]
    loss = a mean(S - S*)² + b (mean(L - L*)² + mean(R - R*)²)/2
         + c mean(C - (L+R)/2)² + d mean((L-R) - (L*-R*))²
    Phase 1, rows with views: (a, b, c, d) = (0, 1, 0.2, 0.2), decoders of other tasks frozen at
    their random start, yet part of m. Phase 2, rows with other labels: (1, 0.2, 0.2, 0.2).
Input: one picture; labels may be missing per row and task.
Output: dict task -> [B, out_t, H, W] (row tasks: [B, out_t]).

With C = (L* + R*)/2 the terms of the views are not independent: L_LR = L_C + L_D/4.

Differs from the paper:
 (1) Phase 1 has no loss on S, as the paper's objective says; the released code trains the frozen
     decoder to answer its input there, which is ``copy=1.0`` (unsure which gave the figures).
 (2) Views and sharp picture are tasks like any other: with ``suite.only("sharp")`` the network has
     one decoder and one phase. Tasks of other kinds are answered as well, maps by a decoder that
     takes part in the exchange, row tasks from the pooled features.
 (3) L_C looks at all rows, for it needs no label; L_D at rows that have both views.
 (4) The best epoch is chosen on validation, not by the lowest training loss.
 (5) Weights are decayed only if asked: AdamW without decay is the paper's Adam. Initial weights are
     He-normal, not truncated at two deviations.
 (6) The trap of the reference is watched: the convolution before the last has as many channels as
     the picture and a ReLU, and where one is never positive a colour is lost for good.
     ``rectify=False`` (default) leaves that ReLU out; ``rectify=True`` is the published layer.
     Either way an answer with a constant channel raises a warning in training.
 (7) ``residual=True`` (not the default) adds the input's logits before the last sigmoid.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor, nn
from torch.nn import functional as F

from polytask.data import Batch, Processor, Suite, as_augmentation, as_mixture
from polytask.data.mixtures import Patches
from polytask.errors import InputError
from polytask.parts.heads import Heads
from polytask.tasks import Kind, Picture, Task
from polytask.tasks.maps import open_cell, unit_range
from polytask.training import MultiTaskModule, Training
from polytask.training.stages import Stage, StagedLearner

_WATCHED = {20, 100, 500}  # passes after which constant channels are looked for
_EDGE = 0.02  # black and white have finite logits: those of 0.02 and 0.98
# Rotation of the picture -> motion views that L and R then are (directions in steps of 45 degrees).
_MOTION = {0: (6, 2), 45: (5, 1), 90: (4, 0), 135: (3, 7)}


def conv(inputs: int, outputs: int) -> nn.Sequential:
    """3x3, same size, ReLU."""
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU())


class Up(nn.Module):
    """Twice the size: nearest neighbour, then 2x2 padded at the bottom and on the right, ReLU."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(F.interpolate(x, scale_factor=2), (0, 1, 0, 1))).relu()


class Encoder(nn.Module):
    """Levels e_1..e_K of width w, 2w, .., each followed by max pooling; the last has one conv."""

    def __init__(self, channels: int, widths: Sequence[int]) -> None:
        super().__init__()
        self.levels = nn.ModuleList()
        for i, width in enumerate(widths):
            again = [conv(width, width)] if i < len(widths) - 1 else []
            self.levels.append(nn.Sequential(conv(channels, width), *again))
            channels = width

    def forward(self, x: Tensor) -> tuple[list[Tensor], Tensor]:
        """Levels, fine to coarse, and the last one pooled: z ``[B, w 2^(K-1), H/2^K, W/2^K]``."""
        levels = []
        for level in self.levels:
            levels.append(level(x))
            x = F.max_pool2d(levels[-1], 2)
        return levels, x


class EarlyHalf(nn.Module):
    """A decoder from z up to half of the picture's size: u ``[B, 2w, H/2, W/2]``."""

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        deepest = widths[-1]
        self.lift = nn.Sequential(conv(deepest, 2 * deepest), Up(2 * deepest, deepest))
        self.levels = nn.ModuleList()
        for i in range(len(widths) - 1, 1, -1):
            width = widths[i]
            again = [conv(width, width)] if i < len(widths) - 1 else []
            self.levels.append(
                nn.Sequential(conv(2 * width, width), *again, Up(width, widths[i - 1]))
            )

    def forward(self, levels: Sequence[Tensor], z: Tensor) -> Tensor:
        u = self.lift(z)
        for skip, level in zip(reversed(levels[2:]), self.levels, strict=True):
            u = level(torch.cat([skip, u], dim=1))
        return u


class LateHalf(nn.Module):
    """A decoder from the exchange m to the answer at the picture's size."""

    def __init__(self, exchanged: int, width: int, kind: Kind, rectify: bool) -> None:
        super().__init__()
        self.lift = nn.Sequential(
            conv(exchanged, 2 * width), conv(2 * width, 2 * width), Up(2 * width, width)
        )
        self.merge = nn.Sequential(conv(2 * width, width), conv(width, width))
        outputs = kind.outputs
        between: list[nn.Module] = []
        if isinstance(kind, Picture):
            between = [nn.Conv2d(width, outputs, 3, padding=1)]
            between += [nn.ReLU()] if rectify else []
            width = outputs
        self.last = nn.Sequential(*between, nn.Conv2d(width, outputs, 1))

    def forward(self, m: Tensor, finest: Tensor) -> Tensor:
        """What the kind reads; of pictures, the logits of their brightness."""
        return self.last(self.merge(torch.cat([finest, self.lift(m)], dim=1)))


class Halfway(NamedTuple):
    """What all decoders share: the picture, e_1, the exchange m and z, of the padded picture."""

    picture: Tensor
    finest: Tensor
    exchange: Tensor
    deepest: Tensor


class DualPixelNet(MultiTaskModule):
    """Encoder, early halves (shared, for all read them), and late halves as the heads.

    Attributes:
        sides: names of the left and right view, if both are asked.
    """

    def __init__(self, spec: Processor, config: DualPixel) -> None:
        super().__init__(spec.tasks)
        ((self.picture, column),) = spec.pictures.items()
        widths = [config.width * 2**i for i in range(config.pools)]
        dense = [t for t in spec.tasks if t.kind.dense]
        self.stride, self.residual = 2**config.pools, config.residual
        self.sides = config.sides if set(config.sides) <= {t.name for t in dense} else None
        self.encoder = Encoder(column.channels, widths)
        self.early = Heads({t.name: EarlyHalf(widths) for t in dense})
        exchanged = 2 * config.width * (1 + len(dense))
        self.heads = Heads(
            {
                t.name: LateHalf(exchanged, config.width, t.kind, config.rectify)
                if t.kind.dense
                else nn.Linear(widths[-1], t.kind.outputs)
                for t in spec.tasks
            }
        )
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        if config.residual:  # the first answer is the input: no first step away from noise
            for task in dense:
                if isinstance(task.kind, Picture):
                    last = cast(LateHalf, self.heads[task.name]).last
                    nn.init.zeros_(cast(nn.Conv2d, last[-1]).weight)
        self._passes = 0

    def represent(self, inputs: dict[str, Tensor], tasks: Iterable[str]) -> Halfway:  # type: ignore[override]
        """Everything up to the exchange, the picture padded at top and left to whole strides."""
        picture = inputs[self.picture]
        self._passes += self.training
        top, left = (-side % self.stride for side in picture.shape[-2:])
        padded = F.pad(picture, (left, 0, top, 0))
        # Channels last: convolutions of few channels are half as fast again on a CPU.
        levels, z = self.encoder(padded.contiguous(memory_format=torch.channels_last))
        found = [early(levels, z) for early in self.early.values()]
        return Halfway(picture, levels[0], torch.cat([levels[1], *found], dim=1), z)

    def answer(self, representation: Halfway, task: str) -> Tensor:  # type: ignore[override]
        """The late half of one decoder; the others are not run."""
        head, kind = self.heads[task], self.tasks[task].kind
        if not kind.dense:
            return head(representation.deepest.mean((2, 3)))
        picture = representation.picture
        height, width = picture.shape[-2:]
        answer = head(representation.exchange, representation.finest)[..., -height:, -width:]
        if not isinstance(kind, Picture):
            return answer
        if self.training and self._passes in _WATCHED:
            _warn_if_constant(task, answer, self._passes)
        if self.residual:
            answer = answer + torch.logit(picture, eps=_EDGE)
        return answer.sigmoid()

    def losses_at(self, representation: Halfway, batch: Batch) -> dict[str, Tensor]:  # type: ignore[override]
        """Per task, and for two views how they add up (L_C) and differ (L_D); all weighted."""
        outputs = {t: self.answer(representation, t).float() for t in batch.targets}
        losses = {
            t: self.tasks[t].kind.loss(output, batch.targets[t], batch.masks[t])
            for t, output in outputs.items()
        }
        if self.sides and set(self.sides) <= set(outputs):
            (left, right), picture = (outputs[t] for t in self.sides), batch.inputs[self.picture]
            losses[self._sum] = aggregate_loss(left, right, picture)
            true_left, true_right = (batch.targets[t] for t in self.sides)
            both = torch.stack([batch.masks[t] for t in self.sides]).all(0)
            losses[self._difference] = difference_loss(left, right, true_left, true_right, both)
        for task in self._copies:
            copied = self.answer(representation, task).float()
            losses[f"{task} as input"] = (copied - batch.inputs[self.picture]).square().mean()
        return {name: loss * self.weights.get(name, 1.0) for name, loss in losses.items()}

    @property
    def terms(self) -> tuple[str, ...]:
        views = (self._sum, self._difference) if self.sides else ()
        return (*self.tasks, *views, *(f"{task} as input" for task in self._copies))

    @property
    def _sum(self) -> str:
        return "+".join(self.sides or ())

    @property
    def _difference(self) -> str:
        return "-".join(self.sides or ())

    @property
    def _copies(self) -> list[str]:
        return [t for t in self.tasks if self.weights.get(f"{t} as input")]


def aggregate_loss(left: Tensor, right: Tensor, combined: Tensor) -> Tensor:
    """L_C, mean (C - (L+R)/2)²: both halves of the lens together are the lens."""
    return (combined - (left + right) / 2).square().mean()


def difference_loss(
    left: Tensor, right: Tensor, true_left: Tensor, true_right: Tensor, mask: Tensor
) -> Tensor:
    """L_D, mean ((L-R) - (L*-R*))² over labelled pixels of the rows in ``mask`` ``[B]``."""
    true = true_left - true_right
    valid = torch.isfinite(true) & mask.view(-1, 1, 1, 1)
    error = (left - right - torch.where(valid, true, torch.zeros_like(true))).square()
    return torch.where(valid, error, torch.zeros_like(error)).sum() / valid.sum().clamp(min=1)


def constant_channels(pictures: Tensor) -> list[int]:
    """Channels of ``[B, C, H, W]`` that have one value in all pixels of all rows."""
    flat = pictures.detach().transpose(0, 1).flatten(1)
    spread = flat.amax(1) - flat.amin(1)
    return (spread < 1e-6).nonzero().flatten().tolist()


def _warn_if_constant(task: str, pictures: Tensor, passes: int) -> None:
    if channels := constant_channels(pictures):
        warnings.warn(
            f"dual_pixel: {task!r} answers one constant in channel {', '.join(map(str, channels))} "
            f"after {passes} passes; use rectify=False, training.warmup, a lower training.lr or "
            "another seed",
            stacklevel=2,
        )


@dataclass(frozen=True)
class Pretraining:
    """What phase 1, the synthesis of views, has of its own; all else is as in ``training``.

    Attributes:
        weights: of L_LR, L_C and L_D.
        copy: weight of a loss that has the frozen decoders answer their input; the released code
            has 1, the paper none.
    """

    lr: float = 3e-4
    epochs: int = 60
    weights: tuple[float, ...] = (1.0, 0.2, 0.2)
    copy: float = 0.0


@dataclass
class DualPixel(StagedLearner):
    """MDP as a learner; see the head of this file.

    Attributes:
        width: channels of the finest level (published: 64); doubled at every level.
        pools: levels of the encoder (published: 4), at least 2.
        left, right: names of the tasks that are the two views.
        pretraining: phase 1; None leaves it out.
        weights: of L_S, L_LR, L_C and L_D in phase 2; L_S stands for every task but the views.
        residual: pictures are told as changes of the input: the logits of its brightness are added
            before the last sigmoid. The paper does not (False); small networks and short budgets
            need it, for without it they first have to learn to copy.
        rectify: the published ReLU on the last three channels (see "Differs from the paper").
        mixture, augment: 8 crops of 512x512 of one picture per update.
        training: of phase 2.
    """

    width: int = 64
    pools: int = 4
    left: str = "left"
    right: str = "right"
    pretraining: Pretraining | None = field(default_factory=Pretraining)
    weights: tuple[float, ...] = (1.0, 0.2, 0.2, 0.2)
    residual: bool = False
    rectify: bool = False
    mixture: str | object = "patches"
    augment: str | object = "dense(flip=0.0, crop=(512, 512))"
    training: Training = field(
        default_factory=lambda: Training(
            lr=6e-4, batch=8, epochs=80, patience=80, schedule="halving(every=8)"
        )
    )

    id: ClassVar[str] = "dual_pixel"
    reads: ClassVar[tuple[str, ...]] = ("pictures",)

    @property
    def sides(self) -> tuple[str, str]:
        return self.left, self.right

    def validate(self, suite: Suite) -> None:
        super().validate(suite)
        if isinstance(as_mixture(self.mixture), Patches) and not as_augmentation(self.augment):  # type: ignore[arg-type]
            raise InputError(
                "dual_pixel: mixture 'patches' takes many crops of one picture; give augment="
                "'dense(flip=0.0, crop=(height, width))' or mixture='joint'"
            )

    def build(self, spec: Processor) -> DualPixelNet:
        if len(spec.pictures) != 1 or len(spec.input_names) != 1:
            raise InputError("dual_pixel reads exactly one picture column and nothing else")
        if self.pools < 2 or self.width < 1:
            raise InputError("dual_pixel: pools is at least 2 and width at least 1")
        if len(self.weights) != 4 or (self.pretraining and len(self.pretraining.weights) != 3):
            raise InputError("dual_pixel: there are 4 weights, and 3 in pretraining")
        ((name, column),) = spec.pictures.items()
        for task in spec.tasks:
            if task.name in self.sides:
                _check_view(task, name, column.channels)
        return DualPixelNet(spec, self)

    def stages(self, module: MultiTaskModule, suite: Suite) -> list[Stage]:
        """Views on all rows that have them, then everything on the rows with other labels."""
        assert isinstance(module, DualPixelNet)
        others = [t for t in module.tasks if not module.sides or t not in module.sides]
        found = []
        if module.sides and (self.pretraining or not others):
            phase, training = self.pretraining or Pretraining(), self.training
            if others:
                training = replace(
                    training, lr=phase.lr, epochs=phase.epochs, patience=phase.epochs
                )
            weights = self._weights(module, (1.0, *phase.weights), copy=phase.copy)
            frozen = [part[t] for t in others for part in (module.early, module.heads) if t in part]
            rows, seen = (
                self._labelled(suite, split, module.sides).only(module.sides)
                for split in ("train", "validation")
            )
            found.append(Stage("views", self.views(rows), seen, training, weights, frozen))
        if others:
            rows = self._labelled(suite, "train", others)
            seen = self.processor_.encode(suite, "validation")
            weights = self._weights(module, self.weights)
            found.append(Stage("all", self.views(rows), seen, self.training, weights))
        return found

    def _labelled(self, suite: Suite, split: str, tasks: Sequence[str]) -> Batch:
        """Rows of a split with a label for one of some tasks."""
        data = self.processor_.encode(suite, split)
        rows = torch.stack([data.masks[t] for t in tasks]).any(0).nonzero().squeeze(1)
        return data.take(rows)

    def _weights(
        self, module: DualPixelNet, given: Sequence[float], copy: float = 0.0
    ) -> dict[str, float]:
        """Weights of the module's losses from (S, LR, C, D); L_LR is half of each view's loss."""
        s, both, sums, differences = given
        weights = dict.fromkeys(module.tasks, s)
        if module.sides:
            weights |= dict.fromkeys(module.sides, both / 2)
            weights |= {"+".join(module.sides): sums, "-".join(module.sides): differences}
        pictures = [t.name for t in module.tasks.values() if isinstance(t.kind, Picture)]
        return weights | {f"{t} as input": copy for t in pictures if copy and t not in self.sides}

    def restore(self, picture: Any, tasks: Sequence[str] | None = None) -> dict[str, NDArray]:
        """One picture at its own size, whatever size it was trained at: task -> ``[C, H, W]``.

        Args:
            picture: ``[H, W, C]``, a path or encoded bytes.
            tasks: all by default; the late halves of others are not run.
        """
        names = self._names(tasks)
        ((column, spec),) = self.processor_.pictures.items()
        values = unit_range(open_cell(picture))
        values = values[..., None] if values.ndim == 2 else values
        if values.ndim != 3 or values.shape[2] != spec.channels:
            raise InputError(
                f"a picture is [height, width, {spec.channels}], this one has shape {values.shape}"
            )
        planes = torch.from_numpy(np.ascontiguousarray(values.transpose(2, 0, 1))[None])
        batch = Batch({column: planes}, {}, {})
        return {task: found[0] for task, found in self._decoded(batch, names).items()}

    def motion_views(self, picture: Any) -> NDArray[np.float32]:
        """Eight views that move about the picture (NIMAT), ``[8, C, H, W]``, 45 degrees apart.

        The picture is laid on a square canvas, turned by 0, 45, 90 and 135 degrees, and the two
        views of each are turned back.
        """
        self._names(self.sides)
        values = unit_range(open_cell(picture))
        height, width = values.shape[:2]
        side = math.ceil(math.hypot(height, width))
        top, left = (side - height) // 2, (side - width) // 2
        around = [(top, side - height - top), (left, side - width - left)]
        canvas = np.pad(values, [*around, *[(0, 0)] * (values.ndim - 2)], mode="edge")
        seen: dict[int, NDArray] = {}
        for angle, places in _MOTION.items():
            views = self.restore(_turned(canvas, angle, (0, 1)), self.sides)
            for place, name in zip(places, self.sides, strict=True):
                back = _turned(views[name], -angle, (1, 2))
                seen[place] = back[:, top : top + height, left : left + width]
        return np.stack([seen[place] for place in range(8)])


def _turned(values: NDArray, angle: float, axes: tuple[int, int]) -> NDArray[np.float32]:
    """Turned about the centre; what comes in at the corners repeats the border."""
    turned = ndimage.rotate(values, angle, axes, reshape=False, order=1, mode="nearest")
    return turned.clip(0, 1).astype(np.float32)


def _check_view(task: Task, column: str, channels: int) -> None:
    if not isinstance(task.kind, Picture) or task.kind.channels != channels:
        raise InputError(
            f"{task} is a view of column {column!r} and so a picture of {channels} channels"
        )
