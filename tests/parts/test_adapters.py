"""Low-rank adapters per task on one frozen network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from polytask.errors import InputError
from polytask.parts.adapters import LoRA, TaskAdapters, as_adapters

pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")

TASKS = ("train", "tone.de")  # names that no ModuleDict would take


def network(seed: int = 0) -> Any:
    torch.manual_seed(seed)
    config = transformers.BertConfig(
        vocab_size=50,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    return transformers.BertModel(config).eval()


def answers(model: Any) -> Tensor:
    return model(input_ids=torch.arange(12).view(2, 6)).last_hidden_state


def trained(rank: int = 2, layers: str = "all-linear") -> TaskAdapters:
    """Adapters that differ from task to task and from nothing."""
    adapters = TaskAdapters(network(), TASKS, LoRA(rank=rank, layers=layers))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in adapters.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return adapters


def test_a_fresh_adapter_changes_nothing() -> None:
    plain = answers(network())
    adapters = TaskAdapters(network(), TASKS, LoRA())
    for task in TASKS:
        with adapters.of(task) as adapted:
            torch.testing.assert_close(answers(adapted), plain, rtol=0, atol=0)


def test_an_adapter_is_the_paper_s_equation() -> None:
    """h = W x + b + (alpha / r) B A x, on one layer and by hand."""
    torch.manual_seed(0)
    layer = nn.Linear(5, 4)
    net = nn.Sequential(layer)
    weight, bias = layer.weight.detach().clone(), layer.bias.detach().clone()
    adapters = TaskAdapters(net, ["a"], LoRA(rank=2, alpha=6.0, layers="0"))
    a, b = adapters.parameters("a")
    torch.nn.init.normal_(b)
    x = torch.randn(3, 5)
    with adapters.of("a") as adapted:
        found = adapted.forward(x)
    torch.testing.assert_close(found, x @ weight.T + bias + 6.0 / 2 * x @ a.T @ b.T)


def test_tasks_have_adapters_of_their_own_and_off_has_none() -> None:
    adapters = trained()
    told = {}
    for task in TASKS:
        with adapters.of(task) as adapted:
            told[task] = answers(adapted)
    assert not torch.allclose(told[TASKS[0]], told[TASKS[1]], atol=1e-3)
    with adapters.off() as plain:
        torch.testing.assert_close(answers(plain), answers(network()), rtol=0, atol=0)
    with adapters.of(TASKS[1]), adapters.of(TASKS[0]) as inner:
        torch.testing.assert_close(answers(inner), told[TASKS[0]], rtol=0, atol=0)


def test_one_update_trains_the_adapters_of_all_its_tasks_and_nothing_else() -> None:
    adapters = trained()
    loss = torch.zeros(())
    for task in TASKS:
        with adapters.of(task) as adapted:
            loss = loss + answers(adapted).square().sum()
    loss.backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in adapters.parameters())
    mine = {id(p) for p in adapters.parameters()}
    others = [p for p in adapters.network.parameters() if id(p) not in mine]
    assert others
    assert not any(p.requires_grad or p.grad is not None for p in others)


def test_a_task_s_gradient_stays_in_its_adapter() -> None:
    adapters = trained()
    with adapters.of(TASKS[1]) as adapted:
        answers(adapted).square().sum().backward()
    assert all(p.grad is None for p in adapters.parameters(TASKS[0]))
    assert all(p.grad is not None for p in adapters.parameters(TASKS[1]))


def test_layers_decide_the_number_of_parameters() -> None:
    """Per layer and task r (d + k): query and value 16 -> 16; all: + key, output, 16 <-> 32."""
    few = trained(rank=2, layers="query,value")
    assert sum(p.numel() for p in few.parameters(TASKS[0])) == 2 * 2 * 2 * (16 + 16)
    every = trained(rank=2)
    assert sum(p.numel() for p in every.parameters(TASKS[0])) == 2 * 2 * (4 * 32 + 2 * 48)


def test_what_is_loaded_answers_as_what_was_saved(tmp_path: Path) -> None:
    adapters = trained()
    adapters.save(tmp_path / "adapters")
    other = TaskAdapters(network(), TASKS[::-1], LoRA(rank=2))  # tasks in another order
    other.load(tmp_path / "adapters")
    for task in TASKS:
        with adapters.of(task) as ours, other.of(task) as theirs:
            torch.testing.assert_close(answers(ours), answers(theirs), rtol=0, atol=0)
    assert not [p for p in tmp_path.rglob("*") if p.suffix in (".bin", ".pt", ".pkl")]


def test_peft_opens_what_was_saved_and_transformers_the_base(tmp_path: Path) -> None:
    from peft import PeftModel

    adapters = trained()
    adapters.save(tmp_path / "adapters")
    owner: Any = adapters.network
    owner.save_pretrained(tmp_path / "base", state_dict=adapters.base_state())
    base, notes = transformers.BertModel.from_pretrained(
        tmp_path / "base", output_loading_info=True
    )
    assert not notes["missing_keys"]
    assert not notes["unexpected_keys"]
    torch.testing.assert_close(answers(base.eval()), answers(network()), rtol=0, atol=0)
    theirs = PeftModel.from_pretrained(base, str(tmp_path / "adapters" / "1")).eval()
    with adapters.of(TASKS[1]) as ours:
        torch.testing.assert_close(answers(ours), answers(theirs))


def test_an_adapter_of_another_rank_is_refused(tmp_path: Path) -> None:
    trained(rank=2).save(tmp_path / "adapters")
    with pytest.raises(InputError, match=r"'train'.* of other layers or another rank"):
        trained(rank=3).load(tmp_path / "adapters")
    with pytest.raises(InputError, match="no adapter of task 'news'"):
        TaskAdapters(network(), ["news"], LoRA(rank=2)).load(tmp_path / "adapters")
    with pytest.raises(InputError, match="holds no adapters"):
        trained().load(tmp_path)


def test_text_becomes_adapters_and_back() -> None:
    assert as_adapters("none") is None
    given = LoRA(rank=4, layers="query,value")
    assert as_adapters("lora(rank=4, layers='query,value')") == given
    assert as_adapters(str(given)) == given


@pytest.mark.parametrize(
    ("attempt", "sentence"),
    [
        (lambda: as_adapters("lora(rank=0)"), "rank is at least 1"),
        (lambda: as_adapters("lora(dropout=1)"), "dropout is at least 0"),
        (lambda: as_adapters("prefix"), "'prefix' is not known"),
        (lambda: trained(layers="q_proj"), "layers='q_proj' are not in BertModel.*query, value"),
        (lambda: trained().of("tone").__enter__(), "task 'tone' has no adapter"),
    ],
)
def test_bad_input_is_refused(attempt: object, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        attempt()  # type: ignore[operator]
