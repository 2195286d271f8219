"""Export: a fitted network as one ONNX file for all its tasks, and a session that answers them.

    export(learner, "shipped")                 # compared with PyTorch before it is written
    Session("shipped").predict("new.csv")      # the learner's answers, in the same units

The folder holds ``model.onnx`` (inputs as ``Processor.inputs`` encodes them, the raw output of each
task, any number of rows), ``processor.json`` and ``config.json``. Answers are decoded by the kinds,
so a session needs torch beside onnxruntime, but neither the system's code nor its weights.
"""

from __future__ import annotations

import importlib
import logging
import os
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from polytask.data import Batch, Processor, Suite, store
from polytask.errors import InputError, nearest
from polytask.training.learner import FittedMixin, NeuralLearner
from polytask.training.module import MultiTaskModule
from polytask.version import __version__

FORMAT = 1
MODEL = "model.onnx"
CHECKED = (1, 3, 8)  # batch sizes at which ONNX Runtime is compared with PyTorch


def export(
    learner: Any,
    folder: str | os.PathLike[str],
    *,
    tasks: Sequence[str] | None = None,
    tolerance: float = 1e-4,
    int8: bool = False,
    max_loss: float = 0.01,
    suite: Suite | None = None,
) -> dict[str, Any]:
    """Write a fitted network to a folder that a ``Session`` serves.

    Heads that ``outputs`` does not reach, because they only train, are not in the file. It is kept
    only if it agrees with PyTorch: for each task and 1, 3 and 8 rows the largest difference must
    be at most ``tolerance`` times the largest output.

    Args:
        learner: a fitted learner that is a network.
        folder: where to write, atomically; an older export there is replaced.
        tasks: what the file answers; all tasks unless given.
        tolerance: the relative error allowed.
        int8: matrix products in 8 bits (weights beforehand, inputs as they come), if every task
            keeps its primary metric on the validation split of ``suite``.
        max_loss: the part of the float model's primary metric that a task may lose to ``int8``.
        suite: whose validation rows are compared on; rows drawn at random unless given.

    Returns:
        What ``config.json`` holds: inputs, outputs, the errors found, versions.

    Raises:
        InputError: a package is missing, the learner is not fitted or no network, a task is
            unknown, the network cannot be traced, or the result is not accurate enough. What was
            in the folder is untouched then.
    """
    if not isinstance(learner, NeuralLearner):
        name = getattr(learner, "id", type(learner).__name__)
        raise InputError(f"{name} cannot be exported to ONNX: only networks can")
    if type(learner).read is not NeuralLearner.read:
        raise InputError(f"{learner.id} cannot be exported to ONNX: it rewrites rows beforehand")
    names = learner._names(tasks)
    if learner.module_.no_graph:
        raise InputError(f"{learner.id} cannot be exported to ONNX: {learner.module_.no_graph}")
    if not names:
        raise InputError("tasks is empty; name at least one task to export")
    processor = replace(learner.processor_, tasks=tuple(map(learner.processor_.task, names)))
    if int8:
        _judged(processor, suite)
    for package in ("onnx", "onnxscript", "onnxruntime"):
        _package(package)
    inputs = _sample(processor, max(CHECKED), suite)
    net = _Answers(learner.module_.cpu().eval(), names)
    config: dict[str, Any] = {
        "export": FORMAT,
        "learner": learner.id,
        "inputs": {
            name: ["any"] * (tensor.ndim - 1) if name in processor.texts else [*tensor.shape[1:]]
            for name, tensor in inputs.items()
        },
        "outputs": {task: f"{task}:output" if task in inputs else task for task in names},
        "versions": {"polytask": __version__}
        | {name: _package(name).__version__ for name in ("torch", "onnx", "onnxruntime")},
    }
    data = {"config": config, "processor": processor.to_dict()}
    with tempfile.TemporaryDirectory() as scratch:
        exact, small = Path(scratch) / "exact", Path(scratch) / "small"
        made = _convert(net, inputs, list(config["outputs"].values()), exact)
        store.write_folder(exact / "folder", data=data, files=made)
        session = Session(exact / "folder")
        config["errors"] = _errors(net, session, inputs)
        for task, error in config["errors"].items():
            if not error <= tolerance:
                raise InputError(
                    f"task {task!r}: ONNX Runtime differs from PyTorch by {error:.1e} of the "
                    f"largest output, more than tolerance {tolerance:g}; not exported"
                )
        if int8 and suite is not None:
            made = _quantise(made, small)
            store.write_folder(small / "folder", data=data, files=made)
            config["int8"] = _losses(session, Session(small / "folder"), suite, max_loss)
        store.write_folder(folder, data=data, files=made)
    return config


class Session(FittedMixin):
    """All tasks of an exported network in one session of ONNX Runtime.

    ``predict`` and ``score`` answer as the learner's do. The whole graph is computed in one call.
    Fewer tasks are computed in a session of their own, which is cut out of the graph when these
    tasks are first asked for (the runtime itself would compute all of them every time), and which
    holds its own copy of the weights it needs.

    Args:
        folder: what ``export`` wrote.
        threads: of the runtime; as it chooses unless given.
        providers: where the runtime computes, in order of preference.
    """

    id: ClassVar[str] = "exported model"
    shares: ClassVar[bool] = True

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        threads: int | None = None,
        providers: Sequence[str] = ("CPUExecutionProvider",),
    ) -> None:
        data, _ = store.read_folder(folder)
        self.folder = Path(folder)
        self.config = data.get("config", {})
        if "export" not in self.config or not is_export(folder) or "processor" not in data:
            raise InputError(f"folder {str(folder)!r} holds no exported model")
        if self.config["export"] > FORMAT:
            raise InputError(
                f"{str(folder)!r} was exported by a newer polytask (format "
                f"{self.config['export']}, this one reads up to {FORMAT}); upgrade polytask"
            )
        self.processor_ = Processor.from_dict(data["processor"])
        self._threads, self._providers = threads, tuple(providers)
        self._sessions = {frozenset(self._names(None)): self._open(self.folder / MODEL)}

    def run(
        self, inputs: Mapping[str, NDArray], tasks: Sequence[str] | None = None
    ) -> dict[str, NDArray]:
        """Raw outputs ``[B, ...]`` of encoded inputs ``[B, ...]``: the network alone."""
        names = self._names(tasks)
        session = self._session(names)
        given = {node.name: inputs[node.name] for node in session.get_inputs()}
        outputs = session.run([self.config["outputs"][name] for name in names], given)
        return dict(zip(names, outputs, strict=True))

    def _decoded(self, batch: Batch, tasks: Sequence[str]) -> dict[str, NDArray]:
        parts: dict[str, list[NDArray]] = {task: [] for task in tasks}
        for rows in replace(batch, targets={}, masks={}).chunks():
            for task, output in self.run(_arrays(rows.inputs), tasks).items():
                kind = self.processor_.task(task).kind
                parts[task].append(kind.decode(torch.from_numpy(output)))
        return {task: np.concatenate(part) for task, part in parts.items()}

    def _session(self, tasks: Sequence[str]) -> Any:
        asked = frozenset(tasks)
        if asked not in self._sessions:
            whole = _package("onnx").load(self.folder / MODEL)
            part = (
                _package("onnx.utils")
                .Extractor(whole)
                .extract_model(
                    [node.name for node in whole.graph.input],
                    [self.config["outputs"][task] for task in asked],
                )
            )
            read = {name for node in part.graph.node for name in node.input}
            for node in [node for node in part.graph.input if node.name not in read]:
                part.graph.input.remove(node)
            self._sessions[asked] = self._open(part.SerializeToString())
        return self._sessions[asked]

    def _open(self, model: Path | bytes) -> Any:
        runtime = _package("onnxruntime")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = self._threads or 0  # 0: the runtime chooses
        known = runtime.get_available_providers()
        for provider in self._providers:
            if provider not in known:
                raise InputError(f"provider {provider!r} is not there{nearest(provider, known)}")
        try:
            return runtime.InferenceSession(model, options, providers=list(self._providers))
        except Exception as error:  # the runtime's exceptions have no common class
            raise InputError(
                f"onnxruntime {runtime.__version__} cannot read the model in "
                f"{str(self.folder)!r}: {_first_line(error)}"
            ) from None


def load_session(folder: str | os.PathLike[str]) -> Session:
    """The session of an exported folder, as ``load`` gives the learner of a saved one."""
    return Session(folder)


def is_export(folder: str | os.PathLike[str]) -> bool:
    """Whether a folder is an export and not a saved learner; opens no file."""
    return (Path(folder) / MODEL).is_file()


class _Answers(nn.Module):
    """The network as a function of its encoded inputs: one raw output per task, in order."""

    def __init__(self, module: MultiTaskModule, tasks: Sequence[str]) -> None:
        super().__init__()
        self.module, self.tasks = module, tuple(tasks)

    def forward(self, inputs: dict[str, Tensor]) -> tuple[Tensor, ...]:
        outputs = self.module.outputs(inputs, self.tasks)
        return tuple(outputs[task].float() for task in self.tasks)


def _sample(processor: Processor, rows: int, suite: Suite | None) -> dict[str, Tensor]:
    """Encoded rows: of the suite's validation split, or drawn at random."""
    if suite is not None:
        read = {name for task in processor.tasks for name in task.texts}
        given = suite.table("validation")
        table = given.take(np.arange(rows) % len(given))
        for name in read:  # a row may lack a text; where each task has rows of its own, all do
            texts = given[name].drop_null()
            at = table.column_names.index(name)
            table = table.set_column(at, name, texts.take(np.arange(rows) % len(texts)))
        drawn = processor.inputs(table, [task.name for task in processor.tasks])[:].inputs
        return {k: v for k, v in drawn.items() if k not in processor.texts or k in read}
    generator = torch.Generator().manual_seed(0)
    inputs: dict[str, Tensor] = {}
    if processor.numeric:
        inputs["numeric"] = torch.randn(rows, len(processor.numeric), generator=generator)
    if processor.categorical:
        codes = [torch.randint(n, (rows,), generator=generator) for n in processor.cardinalities]
        inputs["categorical"] = torch.stack(codes, dim=1)
    for name, array in processor.arrays.items():
        inputs[name] = torch.randn(rows, *array.shape, generator=generator)
    for name, picture in processor.pictures.items():
        inputs[name] = torch.rand(rows, picture.channels, *picture.size, generator=generator)
    for name, several in processor.texts.items():
        if processor.reader is not None and any(name in t.texts for t in processor.tasks):
            shape = (rows, 3, 16) if several else (rows, 16)
            ids = torch.randint(processor.reader.tokens, shape, generator=generator)
            ids[1::2, ..., 4:] = -1  # texts differ in length
            inputs[name] = ids
    return inputs


def _convert(
    net: _Answers, inputs: dict[str, Tensor], outputs: Sequence[str], scratch: Path
) -> Path:
    """A directory with the ONNX graph of a network and what belongs to it."""
    with _quiet():
        try:
            program = torch.onnx.export(
                _traced(net, inputs),
                input_names=list(inputs),
                output_names=outputs,
                dynamo=True,
                verbose=False,
            )
        except Exception as error:  # tracing runs the network's own code: anything may come
            raise InputError(_blame(net, inputs, error)) from error
        assert program is not None
        passes = _package("onnx_ir.passes.common")
        # An inner value may carry the name of a task; inputs and outputs keep theirs.
        passes.NameFixPass()(program.model)
        # The exporter notes the lines of code that each node came from, paths and all.
        passes.ClearMetadataAndDocStringPass()(program.model)
        made = scratch / "made"
        made.mkdir(parents=True)
        program.save(made / MODEL)
    return made


def _traced(net: nn.Module, inputs: dict[str, Tensor]) -> torch.export.ExportedProgram:
    rows = torch.export.Dim("rows")
    dynamic = ({name: {0: rows, **_lengths(name, tensor)} for name, tensor in inputs.items()},)
    try:
        return torch.export.export(net, (inputs,), dynamic_shapes=dynamic)
    except Exception:
        # ``len(tensor)`` is a constant to the plain tracer; the strict one reads the code itself.
        return torch.export.export(net, (inputs,), dynamic_shapes=dynamic, strict=True)


def _lengths(name: str, tensor: Tensor) -> dict[int, Any]:
    """Dimensions of a text input that vary: tokens, and texts where a row has several."""
    if name == "categorical" or tensor.is_floating_point():
        return {}
    return dict.fromkeys(range(1, tensor.ndim), torch.export.Dim.AUTO)  # up to the model's reach


def _blame(net: _Answers, inputs: dict[str, Tensor], error: Exception) -> str:
    """Which task cannot be exported, or all of them, and why."""

    def fails(task: str) -> bool:
        try:
            torch.onnx.export(_traced(_Answers(net.module, [task]), inputs), verbose=False)
        except Exception:
            return True
        return False

    failing = [task for task in net.tasks if fails(task)]
    whose = f"task {failing[0]!r}" if len(failing) == 1 else "the network"
    return f"{whose} cannot be exported: {_first_line(_root(error))}"


def _errors(net: _Answers, session: Session, inputs: dict[str, Tensor]) -> dict[str, float]:
    """Task -> largest difference between the runtime and PyTorch, over the largest output."""
    difference = dict.fromkeys(net.tasks, 0.0)
    largest = dict.fromkeys(net.tasks, 0.0)
    for rows in CHECKED:
        part = {name: _part(name, tensor, rows) for name, tensor in inputs.items()}
        answers = session.run(_arrays(part), net.tasks)
        with torch.inference_mode():
            for task, output in zip(net.tasks, net(part), strict=True):
                expected = output.numpy()
                if answers[task].shape != expected.shape:
                    raise InputError(
                        f"task {task!r}: {rows} rows give {answers[task].shape} in ONNX Runtime "
                        f"and {expected.shape} in PyTorch; not exported"
                    )
                # Past a text's end both say NaN; anywhere else it must not be.
                same = np.isnan(answers[task]) & np.isnan(expected)
                found = np.where(same, 0, np.abs(answers[task] - expected)).max(initial=0)
                difference[task] = float(np.maximum(difference[task], found))  # keeps NaN
                largest[task] = float(
                    np.fmax(largest[task], np.abs(expected[~same]).max(initial=0))
                )
    return {task: difference[task] / (largest[task] or 1.0) for task in net.tasks}


def _part(name: str, tensor: Tensor, rows: int) -> Tensor:
    """Some rows; of texts, other numbers of tokens with other numbers of rows."""
    if not _lengths(name, tensor):
        return tensor[:rows]
    return tensor[:rows, ..., : max(1, tensor.shape[-1] - rows)]


def _judged(processor: Processor, suite: Suite | None) -> None:
    """Refuse 8 bits where nothing says what they lose."""
    if suite is None:
        raise InputError("int8 needs a suite: its loss is measured on the validation split")
    columns = suite.table("validation").column_names
    for task in processor.tasks:
        if task.target not in columns:
            raise InputError(
                f"int8 is judged by every task, but the suite has no column {task.target!r}"
                f"{nearest(task.target, columns)}"
            )


def _quantise(made: Path, scratch: Path) -> Path:
    """Matrix products in 8 bits; convolutions stay, the runtime's 8-bit ones are slower."""
    quantisation = _package("onnxruntime.quantization")
    small = scratch / "made"
    small.mkdir(parents=True)
    with _quiet():
        quantisation.quantize_dynamic(made / MODEL, small / MODEL, op_types_to_quantize=["MatMul"])
    return small


def _losses(
    exact: Session, small: Session, suite: Suite, max_loss: float
) -> dict[str, dict[str, float]]:
    """Task -> primary metric on validation of both models and the relative loss, if bearable."""
    before, after = (session.score(suite, "validation") for session in (exact, small))
    losses = {}
    for task in exact.processor_.tasks:
        metric = task.kind.primary
        was, now = before[task.name][metric.name], after[task.name][metric.name]
        loss = metric.sign * (was - now) / (abs(was) or 1.0)
        losses[task.name] = {"float": was, "int8": now, "loss": loss}
    refused = [
        f"{task} {found['float']:.4g} -> {found['int8']:.4g} ({found['loss']:+.1%})"
        for task, found in losses.items()
        if not found["loss"] <= max_loss
    ]
    if refused:
        raise InputError(
            f"int8 loses more than max_loss {max_loss:g} of {'; '.join(refused)}; not exported"
        )
    return losses


def _arrays(tensors: Mapping[str, Tensor]) -> dict[str, NDArray]:
    return {name: tensor.numpy() for name, tensor in tensors.items()}


def _package(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        package = name.partition(".")[0]
        raise InputError(f"export needs {package}: install polytask[export]") from None


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the many remarks of the exporter and the quantiser, which concern their authors."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stderr(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def _root(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]
