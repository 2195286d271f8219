"""TaskExpert: dense prediction with a memorial mixture of experts.

Source: Ye, Xu, "TaskExpert: Dynamically Assembling Multi-Task Representations with Memorial
    Mixture-of-Experts", ICCV 2023, arXiv 2307.15324. No code was published; losses and training
    follow its authors' framework (prismformore/Multi-Task-Transformer), the gate MLoRE's router.
Year: 2023
Domain: pictures
Parts: trunks, vit, gated_experts, dense, heads
For: several maps of one picture (segmentation, depth, normals, edges, saliency) from one trunk,
    where tasks and pictures need different mixtures of its features
Idea: at several depths of the trunk, experts decompose its feature map into parts that all tasks
    share; each task's gate mixes them anew for every picture, and reads one expert more, its own
    memory of the depths before. The last memory is what the task's head sees.
Equations, for task t at tap l:
    E_i = e_i^l(X^l), i = 1..N           experts, shared by the tasks       [D, h, w]
    g = gate_t^l(X^l + M_t^{l-1})        softmax over N + 1, per picture    [N + 1]
    F = Σ_i g_i E_i + g_{N+1} M_t^{l-1}                                     read
    M_t^l = M_t^{l-1} + φ_t^l(F)         φ: 3x3 conv, batch norm, GELU      write
    M_t^0 = X^1 + embedding_t            answer = head_t(M_t^L)
    X^l is the trunk's tapped map, brought to D channels by a 1x1 convolution.
Input: one picture [C, H, W]; labels may be missing per picture and per pixel.
Output: dict task -> [B, outputs, H, W] for maps, [B, outputs] for row tasks (class, number).

Differs from the paper:
 (1) Reconstructed, as nobody has the authors' code: the number and layers of experts, that the
     gate reads the sum of feature and memory, the forms of φ and of M_t^0, and dense gates. Where
     two readings are likely both are settings (``write``, ``topk``).
 (2) AdamW in the place of Adam; the published weight decay of 1e-6 makes them much the same.
 (3) Depth is learned on the standardised scale and answered in its unit, so its weight of 1 does
     not depend on the unit.
 (4) The default trunk starts from random weights; the paper's are ImageNet's, which
     ``trunk="google/vit-large-patch16-384"`` brings where there is a network or a local copy.
 (5) Pictures are padded to whole patches and answers cut to size; the paper pads in advance.
 (6) In the gate the last 1x1 convolution stands after the mean over places: the same function.
 (7) Row tasks, any trunk, any balancer: additions.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from polytask.data import Processor
from polytask.errors import InputError
from polytask.parts.dense import ConvHead, ConvNorm, PooledHead, resized
from polytask.parts.gated_experts import ConvExperts, Gate, StaticGate, mixed
from polytask.parts.heads import Heads
from polytask.parts.trunks import DENSE_WEIGHTS, TrunkLearner, as_trunk, only_picture
from polytask.tasks import Kind
from polytask.training import MultiTaskModule, Training
from polytask.training.engine import Engine


class TaskColumn(nn.Module):
    """All that is one task's own: gates, writes, embedding and head.

    Reads the representation ``[B, L, 1 + N, D, h, w]``: at each of L taps the feature map X and
    the N experts' maps.
    """

    def __init__(self, kind: Kind, taps: int, grid: Grid, config: TaskExpert) -> None:
        super().__init__()
        width, choices = config.width, config.experts + (1 if config.memory else 0)
        self.grid, self.memory, self.write = grid, config.memory, config.write
        self.dense, self.upsample = kind.dense, config.upsample
        self.embedding = nn.Parameter(torch.zeros(width, 1, 1)) if config.memory else None
        if self.embedding is not None:
            nn.init.normal_(self.embedding, std=0.02)
        self.gates = nn.ModuleList(
            Gate(width, grid.places, choices, config.topk)
            if config.gates == "dynamic"
            else StaticGate(choices, config.topk)
            for _ in range(taps)
        )
        self.writes = nn.ModuleList(ConvNorm(width, width, act=nn.GELU) for _ in range(taps))
        self.head = (
            ConvHead(width, kind.outputs, config.head or width)
            if kind.dense
            else PooledHead(width, kind.outputs)
        )

    def forward(self, representation: Tensor) -> Tensor:
        memory, _ = self.walk(representation)
        if not self.dense:
            return self.head(memory)
        fine = resized(memory, (self.upsample * memory.shape[2], self.upsample * memory.shape[3]))
        height, width = self.grid.picture
        return self.head(fine, self.grid.padded)[..., :height, :width]

    def walk(self, representation: Tensor) -> tuple[Tensor, Tensor]:
        """The last memory ``[B, D, h, w]`` and the gates' weights ``[B, L, N + 1]``."""
        weights = []
        memory = None if self.embedding is None else representation[:, 0, 0] + self.embedding
        for tap, (gate, write) in enumerate(zip(self.gates, self.writes, strict=True)):
            feature, experts = representation[:, tap, 0], representation[:, tap, 1:]
            if memory is None:
                weights.append(gate(feature))
                return write(mixed(weights[-1], experts)), torch.stack(weights, 1)
            weights.append(gate(feature + memory))
            found = write(mixed(weights[-1], experts, memory))
            memory = memory + found if self.write == "residual" else found
        assert memory is not None
        return memory, torch.stack(weights, 1)


@dataclass(frozen=True)
class Grid:
    """The common grid of all taps: ``cells`` of ``stride`` pixels over the padded picture."""

    picture: tuple[int, int]
    stride: int
    cells: tuple[int, int]

    @property
    def places(self) -> int:
        return self.cells[0] * self.cells[1]

    @property
    def padded(self) -> tuple[int, int]:
        return self.cells[0] * self.stride, self.cells[1] * self.stride

    @classmethod
    def of(cls, picture: tuple[int, int], strides: tuple[int, ...]) -> Grid:
        """The finest grid of the taps that is no finer than a cell of 8 pixels (a ViT has one)."""
        coarse = max(strides)
        stride = min((s for s in strides if s >= 8), default=coarse)
        height, width = (side + -side % coarse for side in picture)
        return cls((picture[0], picture[1]), stride, (height // stride, width // stride))


class TaskExpertNet(MultiTaskModule):
    """Trunk and experts, which are shared, and a column per task.

    The heads read one shared tensor ``[B, L, 1 + N, D, h, w]``, so a task that is not asked for
    costs nothing.
    """

    has_feature = True

    def __init__(self, spec: Processor, config: TaskExpert) -> None:
        super().__init__(spec.tasks)
        self.column, picture = only_picture(spec, config.id)
        self.trunk = as_trunk(config.trunk, picture, config.taps)
        self.grid = Grid.of(picture.size, self.trunk.strides)
        # Without memory nothing comes from the earlier taps: only the last is read.
        self.used = self.trunk.channels if config.memory else self.trunk.channels[-1:]
        self.projections = nn.ModuleList(nn.Conv2d(c, config.width, 1) for c in self.used)
        self.experts = nn.ModuleList(ConvExperts(config.experts, config.width) for _ in self.used)
        self.heads = Heads(
            {t.name: TaskColumn(t.kind, len(self.used), self.grid, config) for t in spec.tasks}
        )
        self.weights = config.loss_weights(spec.tasks)

    def represent(self, inputs: dict[str, Tensor], tasks: Iterable[str]) -> Tensor:
        """What all tasks read, ``[B, L, 1 + N, D, h, w]``."""
        maps = self.trunk(inputs[self.column])[-len(self.used) :]
        taps = []
        for tapped, project, experts in zip(maps, self.projections, self.experts, strict=True):
            feature = resized(project(tapped), self.grid.cells)
            taps.append(torch.cat([feature[:, None], experts(feature)], 1))
        return torch.stack(taps, 1)

    def answer(self, representation: Tensor, task: str) -> Tensor:
        return self.heads[task](representation)

    def gate_weights(self, inputs: dict[str, Tensor], tasks: Iterable[str]) -> dict[str, Tensor]:
        """Per task ``[B, L, N + 1]``, the memory's weight last."""
        representation = self.represent(inputs, tasks)
        columns = {task: self.heads[task] for task in tasks}
        return {
            task: column.walk(representation)[1]
            for task, column in columns.items()
            if isinstance(column, TaskColumn)
        }


@dataclass
class TaskExpert(TrunkLearner):
    """TaskExpert as a learner; see the head of this file.

    Attributes:
        trunk, taps: ViT-L/16 tapped after blocks 6, 12, 18 and 24; ViT-B/16: 3, 6, 9 and 12.
        width: D of experts and memories (768 for ViT-L, 640 for ViT-B).
        experts: N of each tap.
        gates: "dynamic" (read every picture) or "static" (learned once), an ablation.
        topk: experts with a weight other than 0; all if 0.
        memory: False leaves the memory out, and with it all taps but the last; an ablation.
        write: "residual" adds to the memory, "overwrite" replaces it.
        upsample: of the last memory, before the head's convolutions.
        head: hidden channels of the heads; as wide as the memory if 0.
        weights: of losses, as ``"parts=2.0"``; a task not named has its kind's: segmentation 1,
            saliency 5, edges 50, normals 10, all others 1. (Human parts weigh 2 in the paper.)
    """

    trunk: str = "vit_l16"
    width: int = 768
    experts: int = 5
    gates: Literal["dynamic", "static"] = "dynamic"
    topk: int = 0
    memory: bool = True
    write: Literal["residual", "overwrite"] = "residual"
    upsample: int = 4
    head: int = 0
    augment: str | object = "dense(flip=0.5, zoom=2.0, largest=0.75, colour=0.5)"
    training: Training = field(
        default_factory=lambda: Training(
            lr=2e-5,
            weight_decay=1e-6,
            batch=4,
            epochs=32,  # 40,000 updates on the 4,998 pictures of PASCAL-Context
            patience=32,
            schedule="poly(power=0.9)",
            clip=10.0,
        )
    )

    id: ClassVar[str] = "taskexpert"
    kind_weights: ClassVar[Mapping[str, float]] = DENSE_WEIGHTS

    def build(self, spec: Processor) -> TaskExpertNet:
        if self.width < 4 or self.upsample < 1:
            raise InputError("taskexpert: width must be at least 4, upsample at least 1")
        if not self.memory and self.write != "residual":
            raise InputError("taskexpert: write says how memory is written; memory=False has none")
        module = TaskExpertNet(spec, self)
        if module.grid.places * self.training.batch // self.training.accumulation < 2:
            raise InputError(
                "taskexpert: one picture of one cell at a time has no variance for batch norm; "
                "raise training.batch or the size of the pictures"
            )
        return module

    def gate_weights(
        self, inputs: Any, tasks: Sequence[str] | None = None
    ) -> dict[str, np.ndarray]:
        """What each task reads of each picture: weights ``[rows, taps, N + 1]``, memory last."""
        names, batch = self._names(tasks), self._fitted().inputs(inputs)
        engine = Engine(self.training.precision, device=self.training.device)
        module = self.module_.to(engine.device).eval()
        assert isinstance(module, TaskExpertNet)
        found: dict[str, list[np.ndarray]] = {task: [] for task in names}
        with torch.inference_mode():
            for chunk in batch.chunks():
                weights = module.gate_weights(chunk.to(engine.device).inputs, names)
                for task, values in weights.items():
                    found[task].append(values.cpu().numpy())
        return {task: np.concatenate(parts) for task, parts in found.items()}
