"""SegFormer's decoder against its formula, and plain convolutional heads."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from polytask.baselines.segformer import AllMLPHead, ConvHeads, SegFormer
from polytask.data import Processor, Suite
from polytask.data.scenes import CLASSES, Scenes
from polytask.errors import InputError
from polytask.parts.dense import resized

VIT = "vit(width=16, depth=2, heads=2, patch=4, drop_path=0.0)"
MIT = "mit(widths=(8, 8, 16, 16), depths=(1, 1, 1, 1), heads=(1, 1, 2, 2), drop_path=0.0)"
TASKS: dict[str, Any] = {
    "segmentation": {"kind": "segmentation", "classes": list(CLASSES)},
    "depth": {"kind": "map", "unit": "m"},
    "edges": "edges",
    "hue": "classification",
}


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@cache
def spec() -> Processor:
    table = Scenes(size=16, cool=0.5).draw(20)
    made = Suite.from_table(
        table, TASKS, inputs={"image": "picture"}, exclude=["normals"], name="scenes"
    )
    return Processor.fit(made)


def test_decoder_against_the_formula() -> None:
    head = AllMLPHead((4, 6), 3, width=8).eval()
    maps = [torch.randn(2, 4, 6, 8), torch.randn(2, 6, 3, 4)]
    norm = head.fuse[1]
    norm.running_mean, norm.running_var = torch.randn(8), torch.rand(8) + 0.5
    c1 = F.conv2d(maps[0], head.projections[0].weight, head.projections[0].bias)
    c2 = F.conv2d(maps[1], head.projections[1].weight, head.projections[1].bias)
    c2 = F.interpolate(c2, (6, 8), mode="bilinear")
    fused = F.conv2d(torch.cat([c1, c2], 1), head.fuse[0].weight)
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    shift = norm.bias - norm.running_mean * scale
    fused = (fused * scale.view(-1, 1, 1) + shift.view(-1, 1, 1)).relu()
    wanted = F.interpolate(
        F.conv2d(fused, head.last.weight, head.last.bias), (12, 16), mode="bilinear"
    )
    torch.testing.assert_close(head(maps, (12, 16)), wanted)


def test_encoder_is_mit_b0() -> None:
    """3.3 M parameters (3,319,392 in the published encoder), strides 4 to 32."""
    pytest.importorskip("transformers")
    with torch.device("meta"):
        module = SegFormer().build(spec())
    assert sum(p.numel() for p in module.trunk.parameters()) == 3_319_392
    assert module.trunk.channels == (32, 64, 160, 256) and module.trunk.strides == (4, 8, 16, 32)


@pytest.mark.parametrize("trunk", [MIT, VIT, "vit(width=16, depth=2, heads=2, patch=6)"])
@pytest.mark.parametrize("kind", [SegFormer, ConvHeads])
def test_every_kind_of_task_on_any_trunk(kind: Any, trunk: str) -> None:
    small = {"width": 8} if kind is SegFormer else {"upsample": 2}
    module = kind(trunk=trunk, **small).build(spec()).eval()
    batch = {"image": torch.rand(3, 3, 16, 16)}
    answers = module.outputs(batch, list(TASKS))
    shapes = {task: tuple(answer.shape) for task, answer in answers.items()}
    assert shapes == {
        "segmentation": (3, 5, 16, 16),
        "depth": (3, 1, 16, 16),
        "edges": (3, 1, 16, 16),
        "hue": (3, 1),
    }
    assert module.weights["edges"] == 50.0
    torch.testing.assert_close(
        module.outputs({"image": batch["image"][:1]}, ["depth"])["depth"], answers["depth"][:1]
    )


def test_convolutional_heads_read_the_last_map() -> None:
    module = ConvHeads(trunk=VIT, upsample=2).build(spec()).eval()
    batch = {"image": torch.rand(2, 3, 16, 16)}
    last = module.trunk(batch["image"])[-1]
    wanted = module.heads["depth"].head(resized(last, (8, 8)), (16, 16))
    torch.testing.assert_close(module.outputs(batch, ["depth"])["depth"], wanted)


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(InputError, match="upsample"):
        ConvHeads(trunk=VIT, upsample=0).build(spec())
    with pytest.raises(InputError, match="not of the form task=number"):
        SegFormer(trunk=VIT, weights=("depth",)).build(spec())


def test_weights_of_tasks_that_are_not_there_are_passed_over() -> None:
    module = SegFormer(trunk=VIT, weights=("depth=3.0", "parts=2.0")).build(spec())
    assert module.weights["depth"] == 3 and "parts" not in module.weights
