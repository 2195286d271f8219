"""An exported network answers as the learner does, or is not written at all."""

from __future__ import annotations

import copy
import json
import shutil
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from polytask.catalogue import load_system
from polytask.data import Processor, Suite, store
from polytask.data.plants import PLANT_TARGETS, plants
from polytask.data.scenes import Scenes
from polytask.errors import InputError
from polytask.lifecycle.export import MODEL, Session, export, is_export, load_session
from polytask.parts.heads import Heads
from polytask.testing import mixed_suite, picture_suite
from polytask.training import MultiTaskModule, NeuralLearner, Training

BUDGET = Training(epochs=1, batch=32)


def pair_suite() -> Suite:
    return mixed_suite().only("rent", "rooms")


def signal_suite() -> Suite:
    rng = np.random.default_rng(0)
    signal = rng.normal(size=(60, 24, 3)).astype(np.float32)
    table = {"signal": signal, "stage": np.arange(60) % 3, "level": signal[:, :9, 0].mean(1)}
    return Suite.from_table(table, ["stage", "level"], name="signals")


def scene_suite() -> Suite:
    tasks = {"depth": {"kind": "map", "unit": "m"}, "hue": {"kind": "classification"}}
    table = Scenes(size=16).draw(40)
    chosen = {name: table[name] for name in ("image", *tasks)}
    return Suite.from_table(chosen, tasks, inputs={"image": "picture"}, name="scenes")


def blurred_suite() -> Suite:
    sharp = Scenes(size=16).draw(20)["image"].astype(np.float32)
    views = {"sharp": sharp, "left": np.roll(sharp, 1, 2), "right": np.roll(sharp, -1, 2)}
    table = {"image": (views["left"] + views["right"]) / 2} | views
    tasks = dict.fromkeys(views, "picture")
    return Suite.from_table(table, tasks, inputs={"image": "picture"}, name="blurred")


def plant_suite() -> Suite:
    return Suite.from_table(
        plants(count=6, size=32),
        PLANT_TARGETS,
        inputs={"image": "picture"},
        exclude=["plant"],
        split="group:plant",
        size=(32, 32),
    )


THIN = {"hidden": (4,), "head": (4,)}
VIT = "vit(width=8, depth=1, heads=2, patch=4)"
LEARNERS: dict[str, tuple[str, Callable[[], Suite], dict[str, Any]]] = {
    "mlp": ("mlp", mixed_suite, THIN),
    "mmoe": ("mmoe", pair_suite, THIN | {"experts": 2}),
    "ple": ("ple", pair_suite, THIN | {"shared": 1, "per_task": 1}),
    "stem": ("stem", pair_suite, THIN | {"shared": 1, "per_task": 1}),
    "ft_transformer": ("ft_transformer", pair_suite, {"blocks": 1}),
    "multitab, rows mixed": ("multitab", pair_suite, {"inter_sample": "true", "context": 8}),
    "multitab, rows apart": ("multitab", pair_suite, {"inter_sample": "per_row"}),
    "multitab, columns only": ("multitab", pair_suite, {"inter_sample": "off", "mask": "none"}),
    "flat_mtl, pictures": ("flat_mtl", picture_suite, {"trunk": "conv", "step": "plain"}),
    "sleep_vit": (
        "sleep_vit",
        signal_suite,
        {"patch": 4, "width": 12, "depth": 1, "heads": 2, "ff": 8, "dense": 8},
    ),
    "cnn1d": ("cnn1d", signal_suite, {"widths": (4,), "kernels": (3,)}),
    "weedsense": ("weedsense", plant_suite, {"width": 0.0625, "aux": 0.4}),
    "taskexpert": (
        "taskexpert",
        scene_suite,
        {"trunk": VIT, "width": 4, "experts": 1, "upsample": 2, "augment": "none"},
    ),
    "segformer": ("segformer", scene_suite, {"trunk": VIT, "width": 4, "augment": "none"}),
    "dual_pixel": (
        "dual_pixel",
        blurred_suite,
        {"width": 4, "pools": 2, "pretraining": None, "mixture": "joint", "augment": "none"},
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", LEARNERS)
def test_a_learner_of_the_catalogue_is_exported(name: str, tmp_path: Path) -> None:
    system, suite_of, settings = LEARNERS[name]
    suite = suite_of()
    learner = load_system(system)(**{"training": BUDGET} | settings).fit(suite)
    told = export(learner, tmp_path / "shipped")
    assert set(told["errors"]) == set(suite.task_names)
    assert max(told["errors"].values()) < 1e-4
    session = Session(tmp_path / "shipped")
    for rows in (1, 5, 12):  # 1 and any other number: the graph has no fixed batch
        table = suite.table("train").select(list(suite.inputs)).slice(0, rows)
        answers = session.predict(table)
        for task, expected in learner.predict(table).items():
            assert answers[task].shape == expected.shape
            assert answers[task].dtype == expected.dtype
            close = 1e-4 * max(1.0, np.abs(expected).max())
            # A class map may differ where two classes are equally likely.
            assert np.isclose(answers[task], expected, atol=close, rtol=0).mean() > 0.999


# -- a network small enough to say something about each part ------------------------------------


class TinyNet(MultiTaskModule):
    """Each task reads an input of its own; ``trick`` is done to the last one's."""

    def __init__(self, spec: Processor, trick: str) -> None:
        super().__init__(spec.tasks)
        self.trick = trick
        self.auxiliary = nn.Linear(4, 1000)  # training's own
        self.heads = Heads({t.name: nn.Linear(4, t.kind.outputs) for t in spec.tasks})

    def represent(self, inputs: dict[str, Tensor], tasks: Iterable[str]) -> Any:
        return inputs

    def answer(self, representation: Any, task: str) -> Tensor:
        x = representation[f"of {task}"]
        if task == "relu" and self.trick == "branch" and bool(x.sum() > 0):
            x = -x
        if task == "relu" and self.trick == "operator":
            x = x + torch.linalg.pinv(x.T @ x).sum()
        return self.heads[task](torch.relu(x))

    def losses_at(self, representation: Any, batch: Any) -> dict[str, Tensor]:
        losses = super().losses_at(representation, batch)
        hint = self.auxiliary(representation["of relu"]).square().mean()
        return losses | {"relu": losses["relu"] + hint} if "relu" in losses else losses


@dataclass
class Tiny(NeuralLearner):
    trick: str = ""
    training: Training = BUDGET

    id: ClassVar[str] = "tiny"

    def build(self, spec: Processor) -> TinyNet:
        return TinyNet(spec, self.trick)


@pytest.fixture(scope="module")
def suite() -> Suite:
    """Tasks whose names the exporter would also give to inputs and inner values."""
    rng = np.random.default_rng(0)
    x, y = (rng.normal(size=(80, 4)).astype(np.float32) for _ in range(2))
    table = {"of linear": x, "of relu": y, "linear": x.sum(1), "relu": y[:, 0] > 0}
    return Suite.from_table(table, ["linear", "relu"], name="tiny")


@pytest.fixture(scope="module")
def learner(suite: Suite) -> Tiny:
    return Tiny().fit(suite)


@pytest.fixture(scope="module")
def written(learner: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export") / "shipped"
    export(learner, folder)
    return folder


@pytest.fixture
def folder(written: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(written, tmp_path / "shipped"))


def test_answers_come_in_units_and_classes(written: Path, learner: Tiny, suite: Suite) -> None:
    session = load_session(written)
    assert session.score(suite, "test") == {
        task: pytest.approx(scores, rel=1e-5)
        for task, scores in learner.score(suite, "test").items()
    }
    rows = suite.table("test")
    assert session.predict(rows)["linear"] == pytest.approx(learner.predict(rows)["linear"], 1e-5)
    assert session.processor_.task("relu").kind.classes == (False, True)


def test_the_file_holds_what_answers_and_nothing_that_only_trains(written: Path) -> None:
    graph = onnx.load(written / MODEL).graph
    onnx.checker.check_model(onnx.load(written / MODEL))
    assert [node.name for node in graph.output] == ["linear", "relu"]
    assert {node.name for node in graph.input} == {"of linear", "of relu"}
    weights = sum(int(np.prod(tensor.dims)) for tensor in graph.initializer)
    assert weights == 2 * (4 + 1)
    assert b".py" not in (written / MODEL).read_bytes(), "no code and no path of this machine"
    rows = {node.type.tensor_type.shape.dim[0].dim_param for node in (*graph.input, *graph.output)}
    assert len(rows) == 1 and rows != {""}


def test_the_folder_says_what_was_measured(written: Path) -> None:
    config = json.loads((written / "config.json").read_text())
    assert set(config["errors"]) == {"linear", "relu"}
    assert all(0 <= error < 1e-5 for error in config["errors"].values())
    assert config["versions"]["torch"] == torch.__version__
    assert config["inputs"] == {"of linear": [4], "of relu": [4]}
    assert sorted(path.name for path in written.iterdir()) == sorted(
        ["config.json", "manifest.json", MODEL, "processor.json"]
    )
    assert [path.name for path in written.parent.iterdir()] == ["shipped"], "nothing beside it"
    assert is_export(written) and not is_export(written.parent)


def test_fewer_tasks_need_fewer_inputs(written: Path, suite: Suite) -> None:
    session = Session(written)
    every = session.predict(suite.table("test"))
    x = session.processor_.inputs(suite.table("test")).inputs["of relu"].numpy()
    alone = session.run({"of relu": x}, ["relu"])  # the other task's part is not computed
    assert list(alone) == ["relu"]
    assert np.array_equal(session.predict(suite.table("test"), ["relu"])["relu"], every["relu"])
    with pytest.raises(KeyError, match="of linear"):
        session.run({"of relu": x})


def test_some_tasks_alone_can_be_exported(learner: Tiny, suite: Suite, tmp_path: Path) -> None:
    export(learner, tmp_path / "one", tasks=["relu"])
    session = Session(tmp_path / "one")
    assert list(session.predict(suite.table("test"))) == ["relu"]
    with pytest.raises(InputError, match="task 'linear' is not one of this model's tasks"):
        session.predict(suite.table("test"), ["linear"])


def test_a_task_may_be_named_as_an_input(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    table = {name: rng.normal(size=60) for name in ("a", "b", "numeric")}
    suite = Suite.from_table(table, ["numeric"])
    learner = load_system("mlp")(hidden=(4,), head=(), training=BUDGET).fit(suite)
    assert export(learner, tmp_path / "x")["outputs"] == {"numeric": "numeric:output"}
    rows = suite.table("test")
    answers = Session(tmp_path / "x").predict(rows)["numeric"]
    assert answers == pytest.approx(learner.predict(rows)["numeric"], abs=1e-5)


@pytest.mark.parametrize(
    ("trick", "sentence"),
    [
        ("branch", r"^task 'relu' cannot be exported: .*[Dd]ata-dependent"),
        ("operator", r"^task 'relu' cannot be exported: .*linalg_pinv"),
    ],
)
def test_what_cannot_be_traced_is_named(
    trick: str, sentence: str, suite: Suite, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    learner = Tiny(trick=trick).fit(suite)
    with pytest.raises(InputError, match=sentence) as refused:
        export(learner, tmp_path / "x")
    assert "\n" not in str(refused.value)
    assert capfd.readouterr() == ("", "")
    assert list(tmp_path.iterdir()) == []


def test_a_graph_that_differs_is_not_written(folder: Path, suite: Suite) -> None:
    before = (folder / MODEL).read_bytes()
    learner = Tiny().fit(suite)
    with pytest.raises(InputError, match=r"differs from PyTorch by .*, more than tolerance 1e-12"):
        export(learner, folder, tolerance=1e-12)
    assert (folder / MODEL).read_bytes() == before


def test_a_wrong_graph_is_found(
    learner: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = torch.onnx.export

    def spoilt(*arguments: Any, **settings: Any) -> Any:
        program = real(*arguments, **settings)
        bias = next(v for n, v in program.model.graph.initializers.items() if n.endswith("bias"))
        bias.const_value = type(bias.const_value)(torch.tensor(bias.const_value.numpy() + 0.01))
        return program

    monkeypatch.setattr(torch.onnx, "export", spoilt)
    with pytest.raises(InputError, match="task 'linear': ONNX Runtime differs"):
        export(learner, tmp_path / "x")


# -- int8 ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mixed() -> tuple[Any, Suite]:
    suite = mixed_suite()
    training = Training(lr=1e-2, epochs=30, batch=32, patience=30)
    return load_system("mlp")(hidden=(64, 64), head=(), training=training).fit(suite), suite


def test_int8_is_kept_where_it_holds(mixed: tuple[Any, Suite], tmp_path: Path) -> None:
    learner, suite = mixed
    told = export(learner, tmp_path / "small", int8=True, suite=suite, max_loss=0.02)["int8"]
    small = Session(tmp_path / "small")
    operators = {node.op_type for node in onnx.load(tmp_path / "small" / MODEL).graph.node}
    assert "MatMulInteger" in operators or "DynamicQuantizeMatMul" in operators
    exact = learner.score(suite, "validation")
    for task, scores in small.score(suite, "validation").items():
        primary = small.processor_.task(task).kind.primary.name
        was, now = exact[task][primary], scores[primary]
        assert told[task]["float"] == pytest.approx(was, rel=1e-4)
        assert told[task]["int8"] == pytest.approx(now)
        assert told[task]["loss"] == pytest.approx((was - now) / abs(was), abs=1e-4)
        assert told[task]["loss"] <= 0.02
    price, exact_price = (m.predict(suite.table("test"))["price"] for m in (small, learner))
    assert price == pytest.approx(exact_price, abs=0.1 * exact_price.std())
    assert not np.allclose(price, exact_price, rtol=1e-5), "it is another model"


def test_int8_is_refused_where_it_does_not_hold(mixed: tuple[Any, Suite], tmp_path: Path) -> None:
    learner, suite = copy.deepcopy(mixed)
    last = [m for m in learner.module_.trunk.modules() if isinstance(m, nn.Linear)][-1]
    with torch.no_grad():  # a unit that never fires and takes the whole 8-bit scale
        last.weight[0], last.bias[0] = -1e6, -1e9
    with pytest.raises(
        InputError, match=r"int8 loses more than max_loss 0.01 of .*price 0\."
    ) as no:
        export(learner, tmp_path / "x", int8=True, suite=suite)
    assert "%" in str(no.value)
    assert not (tmp_path / "x").exists()


# -- what is asked wrongly ----------------------------------------------------------------------


def test_what_cannot_be_exported_is_refused(
    learner: Tiny, suite: Suite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(sentence: str, *arguments: Any, **settings: Any) -> None:
        with pytest.raises(InputError, match=sentence):
            export(*arguments, tmp_path / "x", **settings)

    refused("tiny is not fitted yet", Tiny())
    refused("lightgbm cannot be exported to ONNX: only networks can", load_system("lightgbm")())
    refused("task 'reul' is not one .*mean 'relu'", learner, tasks=["reul"])
    refused("tasks is empty", learner, tasks=[])
    refused("int8 needs a suite", learner, int8=True)
    refused("the suite has no column 'linear'", learner, int8=True, suite=mixed_suite())
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    refused(r"onnxscript: install polytask\[export\]", learner)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("system", "settings", "why"),
    [
        ("mqan", {"width": 8, "layers": 0}, "it writes its answers word by word"),
        (
            "topic_seg",
            {"encoder": "bert(width=8, depth=1, heads=1)", "layer": "bilstm"},
            "its BiLSTM reads each text",
        ),
    ],
)
def test_networks_of_no_fixed_graph_say_so(
    system: str, settings: dict[str, Any], why: str, tmp_path: Path
) -> None:
    table = {
        "mqan": {"text": ["warm tea", "cold tea"] * 10, "label": ["yes", "no"] * 10},
        "topic_seg": {"sentences": [["warm tea", "cold ice"]] * 20, "label": [[0, 1]] * 20},
    }[system]
    text, kind = next(iter(table)), "boundaries" if system == "topic_seg" else "classification"
    suite = Suite.from_table(table, {"label": kind}, inputs={text: "text"})
    learner = load_system(system)(training=BUDGET, **settings).fit(suite)
    with pytest.raises(InputError, match=f"^{system} cannot be exported to ONNX: {why}"):
        export(learner, tmp_path / "x")


def test_what_a_session_is_asked_wrongly_is_refused(written: Path, suite: Suite) -> None:
    session = Session(written)
    with pytest.raises(InputError, match=r"task 'reul' is not one .*mean 'relu'"):
        session.predict(suite.table("test"), ["reul"])
    with pytest.raises(InputError, match="input column 'of relu' is missing"):
        session.predict(suite.table("test").select(["of linear"]))
    with pytest.raises(InputError, match="exported model cannot be exported"):
        export(session, written)
    with pytest.raises(InputError, match=r"provider 'CPUExecution' is not there .*mean 'CPUExec"):
        Session(written, providers=["CPUExecution"])


def rewrite(folder: Path, name: str, change: Callable[[bytes], bytes]) -> None:
    """Change a file and its hash, as another version would have written it."""
    (folder / name).write_bytes(change((folder / name).read_bytes()))
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"][name] = store._hash(folder / name)
    (folder / "manifest.json").write_text(json.dumps(manifest))


def newer(config: bytes) -> bytes:
    return json.dumps(json.loads(config) | {"export": 99}).encode()


DAMAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no folder": (shutil.rmtree, "does not exist"),
    "model lost": (lambda f: (f / MODEL).unlink(), "lacks its file 'model.onnx'"),
    "model cut": (
        lambda f: (f / MODEL).write_bytes((f / MODEL).read_bytes()[:-9]),
        "model.onnx' is damaged or truncated",
    ),
    "not ONNX": (lambda f: rewrite(f, MODEL, lambda b: b"x" * 99), "cannot read the model in"),
    "newer": (lambda f: rewrite(f, "config.json", newer), "newer polytask .format 99.*upgrade"),
    "processor lost": (lambda f: (f / "processor.json").unlink(), "lacks its file 'processor"),
    "no export": (lambda f: rewrite(f, "config.json", lambda b: b"{}"), "no exported model"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_wrong_with_a_folder_is_said(damage: str, folder: Path) -> None:
    harm, sentence = DAMAGES[damage]
    harm(folder)
    with pytest.raises(InputError, match=sentence) as refused:
        Session(folder)
    assert str(folder) in str(refused.value) and "\n" not in str(refused.value)


def test_a_saved_learner_is_no_export(learner: Tiny, tmp_path: Path) -> None:
    learner.save_pretrained(tmp_path / "saved")
    assert not is_export(tmp_path / "saved")
    with pytest.raises(InputError, match="holds no exported model"):
        Session(tmp_path / "saved")


def test_a_folder_of_other_things_is_not_replaced(learner: Tiny, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="mine' exists and was not written by polytask"):
        export(learner, tmp_path / "mine")
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
