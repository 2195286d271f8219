"""Low-rank adapters: one frozen network, and for every task a small correction of its layers.

Source: LoRA, Hu et al., ICLR 2022 (arXiv 2106.09685), Eq. 3; the layers are those of peft.

    h = W x + (α / r) B A x     x: [.., d]   W: [k, d] frozen   A: [r, d]   B: [k, r], 0 at first

A network with T adapters answers as T fine-tuned networks would, from one set of large weights.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from polytask.config import parse_call
from polytask.errors import InputError, nearest


@dataclass(frozen=True)
class LoRA:
    """What the adapters of a network look like.

    Attributes:
        rank: r, the width between A and B.
        alpha: α; B A is scaled by α / r.
        dropout: on what an adapter reads.
        layers: names of the linear layers that are adapted, such as ``"query,value"`` (the paper's
            choice); ``"all-linear"`` takes all but the pooler, which no task reads.
    """

    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    layers: str = "all-linear"

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise InputError(f"lora: rank is at least 1, not {self.rank}")
        if not 0 <= self.dropout < 1:
            raise InputError(f"lora: dropout is at least 0 and below 1, not {self.dropout}")

    def __str__(self) -> str:
        return f"lora({', '.join(f'{k}={v!r}' for k, v in asdict(self).items())})"


ADAPTERS = {"lora": LoRA}


def as_adapters(value: str | LoRA | None) -> LoRA | None:
    """Adapters from their text (``"lora(rank=8)"``, ``"none"``) or themselves."""
    if value is None or value == "none":
        return None
    return parse_call(value, ADAPTERS, "adapters") if isinstance(value, str) else value


class TaskAdapters:
    """The adapters of a network, one per task, which ``of(task)`` switches.

    The network is changed in place: its own parameters are frozen, and its linear layers are
    wrapped. It stays the owner of all parameters, so that they move, train and are saved with it.
    """

    def __init__(self, network: nn.Module, tasks: Sequence[str], lora: LoRA) -> None:
        from peft import LoraConfig, inject_adapter_in_model
        from peft.tuners.lora import LoraLayer

        wanted = [name.strip() for name in lora.layers.split(",")]
        self.network = network
        # A task may be called anything, an adapter may not: peft keeps them in a ModuleDict.
        self._names = {task: f"task{i}" for i, task in enumerate(tasks)}
        self._config = LoraConfig(
            r=lora.rank,
            lora_alpha=lora.alpha,  # type: ignore[arg-type]  # peft divides it, any number will do
            lora_dropout=lora.dropout,
            target_modules="all-linear" if wanted == ["all-linear"] else wanted,
            exclude_modules=r"(.*\.)?pooler\..*",
        )
        with warnings.catch_warnings():  # of a second adapter, and of a network without a pooler
            warnings.simplefilter("ignore")
            for name in self._names.values():
                try:
                    inject_adapter_in_model(self._config, network, name)
                except ValueError as error:
                    raise InputError(
                        f"lora: layers={lora.layers!r} are not in {type(network).__name__}, whose "
                        f"linear layers are {', '.join(_linear(network))}"
                    ) from error
        self._layers = [m for m in network.modules() if isinstance(m, LoraLayer)]
        network.requires_grad_(False)
        for parameter in self.parameters():
            parameter.requires_grad_(True)

    @contextmanager
    def of(self, task: str) -> Iterator[nn.Module]:
        """The network as it is for one task, while this lasts."""
        if task not in self._names:
            raise InputError(f"task {task!r} has no adapter{nearest(task, self._names)}")
        # peft makes only the active adapter trainable; a joint update trains those of all tasks.
        trained = [(p, p.requires_grad) for p in self.parameters()]
        before = [layer.active_adapters for layer in self._layers]
        try:
            self._activate([[self._names[task]]] * len(self._layers), trained)
            yield self.network
        finally:
            self._activate(before, trained)

    @contextmanager
    def off(self) -> Iterator[nn.Module]:
        """The network without adapters, while this lasts."""
        before = [layer.active_adapters for layer in self._layers]
        trained = [(p, p.requires_grad) for p in self.parameters()]
        try:
            self._activate([[]] * len(self._layers), trained)
            yield self.network
        finally:
            self._activate(before, trained)

    def _activate(self, names: list[list[str]], trained: list[tuple[nn.Parameter, bool]]) -> None:
        for layer, active in zip(self._layers, names, strict=True):
            layer.set_adapter(active)
        for parameter, flag in trained:
            parameter.requires_grad_(flag)

    def parameters(self, *tasks: str) -> list[nn.Parameter]:
        """The parameters of some tasks' adapters; of all, if none is named."""
        names = {self._names[t] for t in tasks or self._names}
        return [
            parameter
            for layer in self._layers
            for part in layer.adapter_layer_names
            for name, module in getattr(layer, part).items()
            if name in names
            for parameter in (module.parameters() if isinstance(module, nn.Module) else [module])
        ]

    def base_state(self) -> dict[str, Tensor]:
        """The frozen network's tensors by the names they had before there were adapters.

        ``network.save_pretrained(folder, state_dict=adapters.base_state())`` writes the plain
        network, which transformers opens.
        """
        own = {
            name: tensor
            for name, tensor in self.network.state_dict().items()
            if not any(f".{part}." in name for part in _ADAPTED)
        }
        return {name.replace(".base_layer.", "."): tensor for name, tensor in own.items()}

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write each adapter in peft's own form: ``PeftModel.from_pretrained(base, folder/0)``.

        ``tasks.json`` says which folder is whose; all tensors are safetensors.
        """
        from peft import get_peft_model_state_dict
        from safetensors.torch import save_file

        Path(folder).mkdir(parents=True, exist_ok=True)
        for i, name in enumerate(self._names.values()):
            state = get_peft_model_state_dict(
                self.network, adapter_name=name, save_embedding_layers=False
            )
            part = Path(folder) / str(i)
            part.mkdir(exist_ok=True)
            plain = {f"{_PEFT}{k}": v.detach().cpu().contiguous() for k, v in state.items()}
            save_file(plain, part / "adapter_model.safetensors", {"format": "pt"})
            self._config.save_pretrained(str(part))
        (Path(folder) / "tasks.json").write_text(json.dumps(list(self._names)))

    def load(self, folder: str | os.PathLike[str]) -> None:
        """Take over the adapters that ``save`` wrote for the same tasks, layers and rank."""
        from safetensors.torch import load_file

        try:
            tasks = json.loads((Path(folder) / "tasks.json").read_text())
        except (OSError, ValueError):
            raise InputError(f"folder {str(folder)!r} holds no adapters (tasks.json)") from None
        for task, name in self._names.items():
            if task not in tasks:
                raise InputError(f"folder {str(folder)!r} has no adapter of task {task!r}")
            file = Path(folder) / str(tasks.index(task)) / "adapter_model.safetensors"
            state = {_placed(k, name): v for k, v in load_file(file).items()}
            own = dict(self.network.named_parameters())
            mine = {k for k in own if f".{name}." in k}
            if mine != set(state) or any(own[k].shape != state[k].shape for k in state):
                raise InputError(
                    f"the adapter of task {task!r} in {str(folder)!r} is of other layers or "
                    "another rank than this network's"
                )
            with torch.no_grad():
                for key, tensor in state.items():
                    own[key].copy_(tensor)


_PEFT = "base_model.model."  # how all keys of an adapter file begin
_ADAPTED = ("lora_A", "lora_B", "lora_embedding_A", "lora_embedding_B")


def _linear(network: nn.Module) -> list[str]:
    """Last parts of the names of a network's linear layers."""
    named = network.named_modules()
    return sorted({n.rpartition(".")[2] for n, m in named if isinstance(m, nn.Linear)})


def _placed(key: str, name: str) -> str:
    """The name in the network of a parameter that peft's file calls ``key``."""
    head, dot, last = key.removeprefix(_PEFT).rpartition(".")
    return f"{head}.{name}{dot}{last}"
