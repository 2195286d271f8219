"""Trunks: whatever turns a picture into feature maps, built from a short text.

    as_trunk("vit_l16", picture)                     the vision transformer of parts/vit.py
    as_trunk("vit(width=96, depth=4, heads=4, patch=4)", picture)
    as_trunk("dual_path", picture)                   the two-branch network of parts/dual_path.py
    as_trunk("mit_b0", picture)                      SegFormer's encoder, from transformers
    as_trunk("facebook/dinov2-base", picture)        a transformers model, by hub name or folder

A trunk pads a picture on the right and below to whole cells of its coarsest map, so cell (i, j) of
a map of stride s stands for the pixels from (i s, j s) on.
"""

from __future__ import annotations

import copy
import inspect
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

import torch
from torch import Tensor, nn

from polytask.config import amounts, parse_call
from polytask.data import Processor
from polytask.errors import InputError
from polytask.parts.dense import IMAGENET_MEAN, IMAGENET_STD, Normalise, padded
from polytask.parts.dual_path import DualPath
from polytask.parts.vit import Encoder, Patches2d, Tokens
from polytask.tasks import Task
from polytask.training import NeuralLearner

# Loss weights by kind in the framework of InvPT, TaskPrompter and TaskExpert.
DENSE_WEIGHTS = {"segmentation": 1.0, "saliency": 5.0, "edges": 50.0, "normals": 10.0, "map": 1.0}

_PROBE = 224  # pixels; whole cells of patches of 14 and 16 and of strides up to 32


class Picture(Protocol):
    """What a trunk must know of the pictures it reads (``PictureColumn`` of a processor)."""

    @property
    def size(self) -> tuple[int, int]: ...

    @property
    def channels(self) -> int: ...


class Trunk(Protocol):
    """The contract: a picture ``[B, C, H, W]`` in [0, 1] to a list of feature maps.

    Attributes:
        channels, strides: of the maps, in their order (fine to coarse, or by depth).
    """

    channels: tuple[int, ...]
    strides: tuple[int, ...]

    def __call__(self, picture: Tensor) -> list[Tensor]: ...


class VisionTransformer(nn.Module):
    """The 2-D ViT with taps: every map has the stride ``patch`` and ``width`` channels.

    Source: Dosovitskiy et al., arXiv 2010.11929. The cls token takes part in attention and is left
    out of the maps; the last block's map comes after the final norm.

    Args:
        width, depth, heads, patch: of the encoder; the presets vit_l16 and vit_b16 set them.
        taps: blocks whose tokens are given out, from 1; four at equal distances if empty.
        drop_path: chance of the last block to be skipped in training, rising linearly from 0.
    """

    def __init__(
        self,
        picture: Picture,
        taps: Sequence[int] = (),
        *,
        width: int = 768,
        depth: int = 12,
        heads: int = 12,
        patch: int = 16,
        drop_path: float = 0.15,  # the sheet's framework
    ) -> None:
        super().__init__()
        self.taps = tuple(taps) or spaced(depth)
        self.channels, self.strides = (width,) * len(self.taps), (patch,) * len(self.taps)
        self.patch = patch
        self.normalise = Normalise.for_channels(picture.channels)
        size = [side + -side % patch for side in picture.size]
        self.tokens = Tokens(Patches2d(picture.channels, width, patch), size)
        self.encoder = Encoder(width, depth, heads, survival=1 - drop_path)
        if not all(1 <= tap <= depth for tap in self.taps):
            raise InputError(f"taps {list(self.taps)} do not name blocks 1 to {depth} of the trunk")

    def forward(self, picture: Tensor) -> list[Tensor]:
        """Maps ``[B, width, H / patch, W / patch]`` after the tapped blocks."""
        picture = padded(self.normalise(picture), self.patch)
        grid = [side // self.patch for side in picture.shape[-2:]]
        tapped = self.encoder(self.tokens(picture), self.taps)
        return [tokens[:, 1:].transpose(1, 2).unflatten(2, grid) for tokens in tapped]


def spaced(depth: int) -> tuple[int, ...]:
    """Four blocks at equal distances, the last among them: (6, 12, 18, 24) of 24."""
    taps = min(4, depth)
    return tuple(depth * (i + 1) // taps for i in range(taps))


class PaddedTrunk(nn.Module):
    """A trunk that takes any size, on pictures padded to whole cells of its coarsest map."""

    def __init__(self, net: Any) -> None:
        super().__init__()
        self.net = net
        self.channels: tuple[int, ...] = net.channels
        self.strides: tuple[int, ...] = net.strides

    def forward(self, picture: Tensor) -> list[Tensor]:
        """Maps ``[B, channels, H / stride, W / stride]`` of the padded picture."""
        return self.net(padded(picture, max(self.strides)))


class TransformersTrunk(nn.Module):
    """A picture model of transformers; its maps are its stages, or four of its equal blocks.

    Args:
        net: the model.
        taps: places in the list of maps that transformers gives out, from 0 (of a ViT the
            embedding, then the blocks).
        strides, channels: of the tapped maps.
        mean, std: what the weights expect pictures to be standardised by.
    """

    def __init__(
        self,
        net: nn.Module,
        taps: Sequence[int],
        channels: Sequence[int],
        strides: Sequence[int],
        mean: Sequence[float],
        std: Sequence[float],
    ) -> None:
        super().__init__()
        self.net, self.taps = net, tuple(taps)
        self.channels, self.strides = tuple(channels), tuple(strides)
        self.normalise = Normalise(mean, std)

    def forward(self, picture: Tensor) -> list[Tensor]:
        """The tapped maps ``[B, channels, H / stride, W / stride]``."""
        found = _maps(self.net, padded(self.normalise(picture), max(self.strides)))
        return [found[tap] for tap in self.taps]


def as_trunk(text: str, picture: Picture, taps: Sequence[int] = ()) -> Any:
    """A trunk from its text: one of ours with arguments, or a transformers model.

    Args:
        text: see the head of this file. A local folder, or a hub name where there is a network,
            comes with its weights (safetensors only; code that comes with a model is not run).
        picture: size and channels of the pictures.
        taps: which maps are given out; the trunk's own choice if empty.

    Raises:
        InputError: nothing goes by that name, or it does not fit the pictures.
    """
    ours = _ours(picture, taps)
    if text.startswith("{"):
        trunk = _described(json.loads(text), picture)
    elif text.partition("(")[0].strip() in ours:
        trunk = parse_call(text, ours, "trunk")
        trunk.name = trunk.text = text
    else:
        trunk = _pretrained(text, picture, taps, list(ours))
    return trunk


@dataclass
class TrunkLearner(NeuralLearner):
    """A learner of pictures on any trunk; its module keeps that as ``module.trunk``.

    Attributes:
        trunk: what ``as_trunk`` reads.
        taps: which maps of the trunk are used; its own choice if empty.
        weights: of losses, as ``"task=2.0"``; a task not named has its kind's, which is 1 if
            ``kind_weights`` says nothing of it.
    """

    trunk: str = "vit_b16"
    taps: tuple[int, ...] = ()
    weights: tuple[str, ...] = ()

    reads: ClassVar[tuple[str, ...]] = ("pictures",)
    kind_weights: ClassVar[Mapping[str, float]] = {}

    def loss_weights(self, tasks: Iterable[Task]) -> dict[str, float]:
        """What every task's loss is multiplied by, before a balancer sees it."""
        found = {task.name: self.kind_weights.get(task.kind.name, 1.0) for task in tasks}
        for task, weight in amounts(self.weights, "weights", above_zero=True).items():
            if task in found:  # the same settings fit a suite of fewer tasks
                found[task] = weight
        return found

    def save_pretrained(self, folder: Any) -> None:
        """As every learner; the trunk's architecture is written out, so no hub is asked later."""
        self._fitted()
        whole = copy.copy(self)
        whole.trunk = self.module_.trunk.text  # type: ignore[union-attr, assignment]
        super(TrunkLearner, whole).save_pretrained(folder)

    @classmethod
    def from_pretrained(cls, folder: Any) -> Self:
        learner = super().from_pretrained(folder)
        learner.trunk = learner.module_.trunk.name  # type: ignore[union-attr, assignment]
        return learner


def only_picture(spec: Processor, system: str) -> tuple[str, Any]:
    """Name and column of the one picture that is all a system reads."""
    others = [*spec.numeric, *spec.categorical, *spec.arrays]
    if len(spec.pictures) != 1 or others:
        names = ", ".join(map(repr, [*spec.pictures, *others]))
        raise InputError(f"{system} reads one picture and nothing else; the inputs are {names}")
    return next(iter(spec.pictures.items()))


def _ours(picture: Picture, taps: Sequence[int]) -> dict[str, Callable[..., Any]]:
    vit = partial(VisionTransformer, picture, taps)
    return {
        "vit": vit,
        "vit_l16": partial(vit, width=1024, depth=24, heads=16),
        "vit_b16": vit,
        "mit": partial(_mit, picture, taps),
        "mit_b0": partial(_mit, picture, taps),
        "dual_path": partial(_dual_path, picture, taps),
    }


def _mit(
    picture: Picture,
    taps: Sequence[int],
    widths: Sequence[int] = (32, 64, 160, 256),
    depths: Sequence[int] = (2, 2, 2, 2),
    heads: Sequence[int] = (1, 2, 5, 8),
    drop_path: float = 0.1,
) -> nn.Module:
    """SegFormer's Mix Transformer of transformers from random weights; B0 by default."""
    try:
        from transformers import SegformerConfig
    except ImportError:
        raise InputError("trunk 'mit' needs transformers: install polytask[hub]") from None
    config = SegformerConfig(
        num_channels=picture.channels,
        hidden_sizes=list(widths),
        depths=list(depths),
        num_attention_heads=list(heads),
        drop_path_rate=drop_path,
    )
    mean, std = _usual_statistics(picture.channels)
    return _assembled(config, {"name": "mit", "taps": list(taps), "mean": mean, "std": std}, None)


def _dual_path(picture: Picture, taps: Sequence[int], **settings: Any) -> nn.Module:
    if taps:
        raise InputError("trunk 'dual_path' has no taps to choose from: leave taps empty")
    return PaddedTrunk(DualPath(picture.channels, **settings))


# -- transformers ----------------------------------------------------------------------------------


def _pretrained(name: str, picture: Picture, taps: Sequence[int], ours: list[str]) -> nn.Module:
    """A model of transformers with its weights."""
    try:
        from transformers import AutoConfig
    except ImportError:
        raise InputError(f"trunk {name!r} needs transformers: install polytask[hub]") from None
    try:
        config = AutoConfig.from_pretrained(name)
    except (OSError, ValueError) as error:
        if (Path(name) / "config.json").exists():
            raise InputError(f"trunk {name!r}: {_first_sentence(error)}") from None
        raise InputError(
            f"trunk {name!r} is neither one of {', '.join(ours)} nor a model that transformers can "
            "open here; give a local folder, or a hub name where there is a network"
        ) from None
    if getattr(config, "num_channels", 3) != picture.channels:
        raise InputError(
            f"trunk {name!r} reads pictures of {getattr(config, 'num_channels', 3)} channels; "
            f"these have {picture.channels}"
        )
    mean, std = _statistics(name, picture.channels)
    about = {"name": name, "taps": list(taps), "mean": mean, "std": std}
    return _assembled(config, about, name)


def _described(about: dict[str, Any], picture: Picture) -> nn.Module:
    """The architecture that a trunk's ``text`` tells, without weights."""
    from transformers import AutoConfig

    about = dict(about)
    config = AutoConfig.for_model(**about.pop("config"))
    if getattr(config, "num_channels", 3) != picture.channels:
        raise InputError(f"this trunk does not read pictures of {picture.channels} channels")
    return _assembled(config, about, None)


def _assembled(config: Any, about: dict[str, Any], weights: str | None) -> nn.Module:
    """Choose taps by shapes seen on the meta device, then build and load what is needed."""
    kind, name = _class_of(config), about["name"]
    try:
        if hasattr(config, "out_indices"):
            config.out_indices = list(range(len(config.stage_names)))
        with torch.device("meta"):
            shapes = [m.shape for m in _maps(_made(kind, config).eval(), _blank(config))]
    except (AttributeError, NotImplementedError, RuntimeError, TypeError, ValueError) as error:
        raise InputError(
            f"trunk {name!r} ({config.model_type}) gives no feature maps of pictures: "
            f"{_first_sentence(error)}"
        ) from None
    strides = [round(_PROBE / shape[-1]) for shape in shapes]
    taps = tuple(about["taps"]) or _stages(strides)
    if not all(0 <= tap < len(shapes) for tap in taps):
        raise InputError(f"taps {list(taps)} do not name maps 0 to {len(shapes) - 1} of {name!r}")
    places = taps
    if hasattr(config, "out_indices"):
        config.out_indices, places = list(taps), tuple(range(len(taps)))
    net = _made(kind, config) if weights is None else _loaded(kind, config, weights)
    channels, strides = [shapes[t][1] for t in taps], [strides[t] for t in taps]
    trunk: Any = TransformersTrunk(net, places, channels, strides, about["mean"], about["std"])
    told = {k: v for k, v in config.to_diff_dict().items() if k not in _LEFT_OUT}
    trunk.name = name
    trunk.text = json.dumps({**about, "taps": taps, "config": told})
    return trunk


# Of a configuration these say nothing about the architecture.
_LEFT_OUT = (
    "id2label",
    "label2id",
    "architectures",
    "transformers_version",
    "dtype",
    "torch_dtype",
)


def _stages(strides: Sequence[int]) -> tuple[int, ...]:
    """The last map of each stride, or four of equal ones."""
    ends = [list(run)[-1] for _, run in groupby(range(len(strides)), key=strides.__getitem__)]
    return tuple(ends[-4:]) if len(ends) > 1 else spaced(len(strides) - 1)


def _class_of(config: Any) -> Any:
    from transformers import MODEL_FOR_BACKBONE_MAPPING, MODEL_MAPPING

    for mapping in (MODEL_FOR_BACKBONE_MAPPING, MODEL_MAPPING):
        if type(config) in mapping:
            return mapping[type(config)]
    raise InputError(f"transformers has no plain model of type {config.model_type!r}")


def _made(kind: Any, config: Any) -> Any:
    pooled = "add_pooling_layer" in inspect.signature(kind.__init__).parameters
    return kind(config, add_pooling_layer=False) if pooled else kind(config)


def _loaded(kind: Any, config: Any, name: str) -> Any:
    pooled = "add_pooling_layer" in inspect.signature(kind.__init__).parameters
    options = {"add_pooling_layer": False} if pooled else {}
    try:
        return kind.from_pretrained(
            name, config=config, use_safetensors=True, dtype=torch.float32, **options
        )
    except OSError as error:
        raise InputError(f"trunk {name!r}: {_first_sentence(error)}") from None


def _blank(config: Any) -> Tensor:
    return torch.zeros(1, getattr(config, "num_channels", 3), _PROBE, _PROBE)


def _maps(net: Any, picture: Tensor) -> list[Tensor]:
    """All maps ``[B, C, h, w]`` a model gives out; tokens are laid out, without leading extras."""
    options: dict[str, Any] = {"output_hidden_states": True}
    if "interpolate_pos_encoding" in inspect.signature(net.forward).parameters:
        options["interpolate_pos_encoding"] = True
    found = net(picture, **options)
    if "feature_maps" in found:
        return list(found.feature_maps)
    maps = list(found.hidden_states)
    if found.last_hidden_state.ndim == maps[-1].ndim:
        maps[-1] = found.last_hidden_state  # after the final norm
    if maps[0].ndim == 3:
        grid = [side // net.config.patch_size for side in picture.shape[-2:]]
        extras = maps[0].shape[1] - grid[0] * grid[1]
        maps = [m[:, extras:].transpose(1, 2).unflatten(2, grid) for m in maps]
    return maps


def _statistics(name: str, channels: int) -> tuple[list[float], list[float]]:
    """Mean and deviation in the model's preprocessor, ImageNet's if it has none."""
    from transformers.image_processing_base import ImageProcessingMixin

    try:
        said, _ = ImageProcessingMixin.get_image_processor_dict(name)
    except OSError:
        said = {}
    mean, std = said.get("image_mean"), said.get("image_std")
    if mean is None or std is None or len(mean) != channels:
        return _usual_statistics(channels)
    return list(mean), list(std)


def _usual_statistics(channels: int) -> tuple[list[float], list[float]]:
    if channels == 3:
        return list(IMAGENET_MEAN), list(IMAGENET_STD)
    return [0.5] * channels, [0.25] * channels


def _first_sentence(error: Exception) -> str:
    return " ".join(str(error).split()).partition(". ")[0]
