"""TaskExpert against its equations and the identities that must hold."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from polytask.data import Processor, Suite
from polytask.data.scenes import CLASSES, Scenes
from polytask.errors import InputError
from polytask.parts.dense import resized
from polytask.systems.taskexpert import Grid, TaskExpert, TaskExpertNet
from polytask.tasks import Task
from polytask.tasks.dense import DenseRegression, Edges, Normals, Saliency, Segmentation
from polytask.training import Training

SMALL: dict[str, Any] = {
    "trunk": "vit(width=16, depth=2, heads=2, patch=4, drop_path=0.0)",
    "width": 8,
    "experts": 3,
    "upsample": 2,
    "augment": "none",
}
TASKS: dict[str, Any] = {
    "segmentation": {"kind": "segmentation", "classes": list(CLASSES)},
    "depth": {"kind": "map", "unit": "m"},
    "normals": "normals",
    "edges": "edges",
    "hue": "classification",
    "share": {"kind": "regression", "unit": "%"},
}


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@cache
def suite() -> Suite:
    """Maps and row labels of tiny scenes; some labels, and some pixels of others, are missing."""
    table = dict(Scenes(size=16, cool=0.5).draw(40))
    table["share"] = 100 * (table["segmentation"] > 0).mean((1, 2))
    rng = np.random.default_rng(0)
    for name, blank in (("segmentation", 255), ("depth", np.nan), ("edges", 255)):
        table[name][rng.random(40) < 0.2] = blank
        table[name][:, :3] = blank
    table["normals"][rng.random(40) < 0.2] = np.nan
    for name in ("hue", "share"):
        table[name] = pa.array(table[name], mask=rng.random(40) < 0.2)
    return Suite.from_table(table, TASKS, inputs={"image": "picture"}, name="scenes")


@cache
def spec() -> Processor:
    return Processor.fit(suite())


def net(**settings: Any) -> TaskExpertNet:
    return TaskExpert(**{**SMALL, **settings}).build(spec())


def pictures(rows: int = 3) -> dict[str, Tensor]:
    return {"image": torch.rand(rows, 3, 16, 16)}


# -- the equations, by a second route --------------------------------------------------------------


def by_hand(column: Any, representation: Tensor, write: str) -> Tensor:
    """Read and write of every tap, one sample and one expert at a time."""
    memories = []
    for sample in representation:  # [L, 1 + N, D, h, w]
        memory = sample[0, 0] + column.embedding
        for tap, (gate, phi) in enumerate(zip(column.gates, column.writes, strict=True)):
            g = gate((sample[tap, 0] + memory)[None])[0]
            read = g[-1] * memory
            for i, weight in enumerate(g[:-1]):
                read = read + weight * sample[tap, 1 + i]
            written = phi(read[None])[0]
            memory = memory + written if write == "residual" else written
        memories.append(memory)
    return torch.stack(memories)


@pytest.mark.parametrize("write", ["residual", "overwrite"])
def test_read_and_write(write: str) -> None:
    module = net(write=write).eval()
    representation = module.represent(pictures(), ["depth"])
    assert representation.shape == (3, 2, 1 + 3, 8, 4, 4)
    column = module.heads["depth"]
    memory, weights = column.walk(representation)
    torch.testing.assert_close(memory, by_hand(column, representation, write))
    torch.testing.assert_close(weights.sum(2), torch.ones(3, 2))
    assert weights.shape == (3, 2, 3 + 1)
    up = resized(memory, (8, 8))
    torch.testing.assert_close(module.answer(representation, "depth"), column.head(up, (16, 16)))


def test_representation_is_features_and_experts() -> None:
    module = net().eval()
    batch = pictures()
    representation = module.represent(batch, [])
    for tap, tapped in enumerate(module.trunk(batch["image"])):
        feature = module.projections[tap](tapped)
        torch.testing.assert_close(representation[:, tap, 0], feature)
        torch.testing.assert_close(representation[:, tap, 1:], module.experts[tap](feature))


def test_without_memory_only_the_last_tap_is_read() -> None:
    module = net(memory=False).eval()
    representation = module.represent(pictures(), [])
    assert representation.shape[1] == 1 and len(module.experts) == 1
    column = module.heads["edges"]
    memory, weights = column.walk(representation)
    assert weights.shape == (3, 1, 3)
    read = (weights[:, 0, :, None, None, None] * representation[:, 0, 1:]).sum(1)
    torch.testing.assert_close(memory, column.writes[0](read))


# -- identities ------------------------------------------------------------------------------------


@pytest.mark.parametrize("gates", ["dynamic", "static"])
@pytest.mark.parametrize("topk", [0, 2])
def test_gates_sum_to_one(gates: str, topk: int) -> None:
    module = net(gates=gates, topk=topk).eval()
    for weights in module.gate_weights(pictures(), list(TASKS)).values():
        assert weights.shape == (3, 2, 4) and bool((weights >= 0).all())
        torch.testing.assert_close(weights.sum(2), torch.ones(3, 2))
        if topk:
            assert ((weights > 0).sum(2) == topk).all()


def forced(module: TaskExpertNet, task: str, logits: list[float]) -> Any:
    """The column of a task whose gates give the same weights at every tap."""
    column = module.heads[task]
    for gate in column.gates:
        gate.logits.data = torch.tensor(logits)
    return column


def test_memory_passes_through_when_only_it_is_read_and_nothing_is_written() -> None:
    module = net(gates="static").eval()
    column = forced(module, "depth", [-torch.inf] * 3 + [0.0])
    for write in column.writes:
        nn.init.zeros_(write[1].weight)  # the norm's gain; GELU(0) = 0
    representation = module.represent(pictures(), [])
    memory, _ = column.walk(representation)
    assert torch.equal(memory, representation[:, 0, 0] + column.embedding)


def test_one_expert_without_memory_is_a_plain_shared_decoder() -> None:
    """Gate [1, 0], M = F: the head reads the last tap's expert and nothing else."""
    module = net(gates="static", experts=1, write="overwrite").eval()
    column = forced(module, "depth", [0.0, -torch.inf])
    column.writes = nn.ModuleList(nn.Identity() for _ in column.writes)
    batch = pictures()
    last = module.experts[-1](module.projections[-1](module.trunk(batch["image"])[-1]))[:, 0]
    plain = column.head(resized(last, (8, 8)), (16, 16))
    torch.testing.assert_close(module.outputs(batch, ["depth"])["depth"], plain)


def test_experts_have_no_order() -> None:
    module, batch = net().eval(), pictures()
    before = module.outputs(batch, list(TASKS))
    order = torch.tensor([2, 0, 1])
    channels = (8 * order[:, None] + torch.arange(8)).flatten()
    for experts in module.experts:
        first, norm, _, last = experts.layers
        for values in (first.weight, norm.weight, norm.bias, last.weight, last.bias):
            values.data = values.data[channels]
    slots = torch.cat([order, torch.tensor([3])])
    for task in TASKS:
        for gate in module.heads[task].gates:
            gate.last.weight.data = gate.last.weight.data[slots]
            gate.last.bias.data = gate.last.bias.data[slots]
    after = module.outputs(batch, list(TASKS))
    for task in TASKS:
        torch.testing.assert_close(after[task], before[task])


def test_a_sample_does_not_depend_on_its_batch_mates() -> None:
    module, batch = net().eval(), pictures(4)
    together = module.outputs(batch, list(TASKS))
    for row in range(4):
        alone = module.outputs({"image": batch["image"][row : row + 1]}, list(TASKS))
        for task in TASKS:
            torch.testing.assert_close(alone[task][0], together[task][row])


def test_one_task_at_a_time_is_the_same_to_the_bit() -> None:
    module, batch = net().eval(), pictures()
    together = module.outputs(batch, list(TASKS))
    for task in TASKS:
        assert torch.equal(module.outputs(batch, [task])[task], together[task])


def test_a_task_that_is_not_asked_for_is_not_computed() -> None:
    module = net().eval()
    ran: list[str] = []
    for task in TASKS:
        for part in (*module.heads[task].gates, module.heads[task].head):
            part.register_forward_hook(lambda *_, task=task: ran.append(task))
    module.outputs(pictures(), ["normals"])
    assert set(ran) == {"normals"} and len(ran) == 3


def test_gates_differ_by_picture_unless_static() -> None:
    dynamic = net().eval().gate_weights(pictures(), ["depth"])["depth"]
    assert (dynamic[0] - dynamic[1]).abs().max() > 1e-5
    static = net(gates="static").eval().gate_weights(pictures(), ["depth"])["depth"]
    assert torch.equal(static[0], static[1])


# -- losses ----------------------------------------------------------------------------------------

ALL = torch.tensor([True, True])


def test_edge_loss_at_one_half_is_half_the_cross_entropy() -> None:
    output, target = torch.randn(2, 1, 4, 5), torch.randint(0, 2, (2, 4, 5)).float()
    plain = F.binary_cross_entropy_with_logits(output[:, 0], target)
    torch.testing.assert_close(Edges(weight=0.5).loss(output, target, ALL), 0.5 * plain)


def test_normals_loss_does_not_see_the_length_of_the_prediction() -> None:
    output, target = torch.randn(2, 3, 4, 5), F.normalize(torch.randn(2, 3, 4, 5), dim=1)
    scale = torch.rand(2, 1, 4, 5) + 0.1
    loss = Normals().loss
    torch.testing.assert_close(loss(output * scale, target, ALL), loss(output, target, ALL))


@pytest.mark.parametrize(
    ("kind", "target"),
    [
        (Segmentation(classes=("a", "b")), torch.full((2, 4, 5), 255)),
        (DenseRegression(), torch.full((2, 4, 5), torch.nan)),
        (Normals(), torch.full((2, 3, 4, 5), torch.nan)),
        (Edges(), torch.full((2, 4, 5), torch.nan)),
        (Saliency(), torch.full((2, 4, 5), torch.nan)),
    ],
)
def test_labels_that_are_all_ignored_cost_nothing(kind: Any, target: Tensor) -> None:
    output = torch.randn(2, kind.outputs, 4, 5, requires_grad=True)
    loss = kind.loss(output, target, ALL)
    (gradient,) = torch.autograd.grad(loss, output)
    assert loss.item() == 0 and bool(torch.isfinite(gradient).all())


def test_parts_are_a_segmentation_that_can_weigh_two() -> None:
    assert TaskExpert(weights=("parts=2",)).loss_weights(pascal().tasks) == {
        "semseg": 1.0,
        "parts": 2.0,
        "saliency": 5.0,
        "normals": 10.0,
        "edges": 50.0,
    }


def test_losses_have_the_frameworks_weights() -> None:
    usual = net().weights
    assert usual == {
        "segmentation": 1.0,
        "depth": 1.0,
        "normals": 10.0,
        "edges": 50.0,
        "hue": 1.0,
        "share": 1.0,
    }
    assert net(weights=("edges=7", "hue=0.5")).weights == {**usual, "edges": 7.0, "hue": 0.5}
    assert net(weights=("parts=2",)).weights == usual  # of a suite of other tasks
    for text, told in (
        ("edges=-1", "-1"),
        ("edges=0", "above 0"),
        ("edges", "task=number"),
    ):
        with pytest.raises(InputError, match=told):
            net(weights=(text,))


# -- scale, trunks, learner ------------------------------------------------------------------------


def pascal() -> Any:
    """What a module needs to know of PASCAL-Context at 512 x 512."""
    tasks = {
        "semseg": Segmentation(classes=tuple(range(21))),
        "parts": Segmentation(classes=tuple(range(7))),
        "saliency": Saliency(),
        "normals": Normals(),
        "edges": Edges(),
    }
    return SimpleNamespace(
        pictures={"image": SimpleNamespace(size=(512, 512), channels=3)},
        tasks=tuple(Task(name, kind) for name, kind in tasks.items()),
        numeric={},
        categorical={},
        arrays={},
    )


def test_paper_scale() -> None:
    """ViT-L/16, taps 6, 12, 18, 24, D = 768, N = 5, five tasks; sizes counted by hand."""
    d, n, places, quarter = 768, 5, 32 * 32, 192
    with torch.device("meta"):
        module = TaskExpert().build(pascal())
    conv3, norm = 9 * d * d, 2 * d
    expert = d * d + norm + conv3 + d
    gate = (d * quarter + 3 * quarter) + (quarter * quarter + quarter) + (places + 1)
    gate += 2 * d + (d * quarter + quarter) + (2 * quarter * (n + 1) + n + 1)
    column = d + 4 * (gate + conv3 + norm) + (conv3 + norm)
    outputs = {"semseg": 21, "parts": 7, "saliency": 2, "normals": 3, "edges": 1}
    for task, width in outputs.items():
        width = module.tasks[task].kind.outputs  # saliency may be one logit
        assert count(module.heads[task]) == column + d * width + width
    assert count(module.experts) == 4 * n * expert
    assert count(module.projections) == 4 * (1024 * d + d)
    answers = module.outputs({"image": torch.zeros(1, 3, 512, 512, device="meta")}, list(outputs))
    assert all(answer.shape[2:] == (512, 512) for answer in answers.values())


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_grid() -> None:
    assert Grid.of((30, 45), (16, 16)) == Grid((30, 45), 16, (2, 3))
    pyramid = Grid.of((90, 120), (4, 8, 16, 32))  # padded to 96 x 128
    assert pyramid == Grid((90, 120), 8, (12, 16)) and pyramid.padded == (96, 128)
    assert Grid.of((32, 32), (4, 4)).cells == (8, 8)


@pytest.mark.parametrize(
    "trunk",
    [
        "mit(widths=(8, 8, 16, 16), depths=(1, 1, 1, 1), heads=(1, 1, 2, 2))",
        "dual_path(width=0.25)",
        "vit(width=16, depth=3, heads=2, patch=6)",
    ],
)
def test_any_trunk(trunk: str) -> None:
    """Sizes that are no whole number of cells included."""
    module = net(trunk=trunk).eval()
    answers = module.outputs(pictures(), list(TASKS))
    shapes = {task: tuple(answer.shape) for task, answer in answers.items()}
    assert shapes == {
        "segmentation": (3, 5, 16, 16),
        "depth": (3, 1, 16, 16),
        "normals": (3, 3, 16, 16),
        "edges": (3, 1, 16, 16),
        "hue": (3, 1),
        "share": (3, 1),
    }


def test_a_local_trunk_is_saved_with_the_model(tmp_path: Path) -> None:
    """The folder it came from may go."""
    transformers = pytest.importorskip("transformers")
    sizes = {"embedding_size": 8, "hidden_sizes": [8, 12, 16, 20], "depths": [1, 1, 1, 1]}
    config = transformers.ResNetConfig(layer_type="basic", **sizes)
    transformers.ResNetModel(config).save_pretrained(tmp_path / "trunk")
    training = Training(lr=1e-3, batch=8, epochs=1)
    learner = TaskExpert(**{**SMALL, "trunk": str(tmp_path / "trunk")}, training=training)
    learner.fit(suite())
    rows = suite().table("test").select(["image"])
    before = learner.predict(rows)
    learner.save_pretrained(tmp_path / "model")
    shutil.rmtree(tmp_path / "trunk")
    again = TaskExpert.from_pretrained(tmp_path / "model")
    assert again.trunk == learner.trunk
    for task, values in again.predict(rows).items():
        assert np.array_equal(values, before[task])


def test_it_learns_and_shows_its_gates() -> None:
    """Better than the constant answers on every map, after a few seconds."""
    table = Scenes(size=16).draw(120)
    tasks = {name: TASKS[name] for name in ("segmentation", "depth", "normals", "edges")}
    scenes = Suite.from_table(
        table, tasks, inputs={"image": "picture"}, exclude=["hue"], name="scenes"
    )
    training = Training(lr=3e-3, batch=8, epochs=10, patience=10)
    learner = TaskExpert(**SMALL, training=training).fit(scenes)
    scores = learner.score(scenes)
    assert scores["depth"]["ev"] > 0.3 and scores["segmentation"]["pixel_accuracy"] > 0.75
    rows = scenes.table("test").select(["image"])
    weights = learner.gate_weights(rows, ["depth", "edges"])
    assert {k: v.shape for k, v in weights.items()} == {
        "depth": (rows.num_rows, 2, 4),
        "edges": (rows.num_rows, 2, 4),
    }
    np.testing.assert_allclose(weights["depth"].sum(2), 1, rtol=1e-5)


def test_wrong_settings_are_refused() -> None:
    for wrong, told in (
        ({"width": 2}, "width"),
        ({"upsample": 0}, "upsample"),
        ({"topk": 9}, "topk is 9"),
        ({"memory": False, "write": "overwrite"}, "memory=False"),
    ):
        with pytest.raises(InputError, match=told):
            net(**wrong)
    training = Training(batch=1)
    with pytest.raises(InputError, match="batch norm"):
        net(trunk="vit(width=16, depth=2, heads=2, patch=16)", training=training)
    with pytest.raises(InputError, match="taskexpert reads one picture"):
        TaskExpert(**SMALL).build(replace(spec(), pictures={}))
