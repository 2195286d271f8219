"""The loop: what stops it, what it refuses, what precision and devices change."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from polytask.errors import InputError
from polytask.training import Engine, Training, as_balancer, as_step, train

HERE = Path(__file__).parent
_spec = importlib.util.spec_from_file_location("small", HERE / "small.py")
assert _spec is not None and _spec.loader is not None
small = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(small)


def fit(
    balancer: str = "sum",
    step: str = "plain",
    module: Any = None,
    data: Any = None,
    **settings: Any,
) -> Any:
    training = Training(**{"lr": 0.02, "batch": 16, "epochs": 3} | settings)
    return train(
        module or small.net(),
        data or small.rows(80, missing=0.2),
        small.rows(60, seed=1),
        training,
        step=as_step(step),
        balancer=as_balancer(balancer),
        mixture=small.InOrder(),
        engine=Engine(training.precision, training.accumulation, device="cpu"),
    )


@pytest.mark.parametrize("balancer", ["sum", "uw", "upgrad", "graddrop", "features(upgrad)"])
def test_a_loss_that_is_not_finite_stops_the_run(balancer: str) -> None:
    data = small.rows(80)
    data.targets["price"][40] = float("nan")  # in the third batch
    with pytest.raises(InputError, match=r"the loss of 'price' is nan in update 3: lower train"):
        fit(balancer, data=data)


def test_a_gradient_that_is_not_finite_stops_the_run() -> None:
    module = small.net()
    module.trunk[0].weight.register_hook(lambda g: g * float("inf"))
    with pytest.raises(InputError, match=r"the gradient's norm is .* in update 1"):
        fit("uw", module=module)


@pytest.mark.parametrize(
    "balancer", ["sum", "uw", "gradnorm", "features(upgrad)", "upgrad", "graddrop"]
)
@pytest.mark.parametrize("step", ["plain", "sam(rho=0.05)", "flat(rho=0.1)"])
def test_bf16_learns_on_every_route(balancer: str, step: str) -> None:
    if as_step(step).unlawful(as_balancer(balancer), sharded=False):
        return
    module = small.net()
    half, full = fit(balancer, step, module, precision="bf16"), fit(balancer, step)
    assert all(p.dtype == torch.float32 and p.isfinite().all() for p in module.parameters())
    losses = [[record["loss"]["price"] for record in s.history] for s in (half, full)]
    assert losses[0][-1] < losses[0][0]
    assert losses[0] == pytest.approx(losses[1], rel=0.1) and losses[0] != losses[1]


def test_precisions_may_alternate_in_one_process() -> None:
    assert [Engine(p, device="cpu").precision for p in ("no", "bf16", "no")] == ["no", "bf16", "no"]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"precision": "fp16"}, "'fp16' is not lawful here.* use 'bf16' or 'no'"),
        ({"accumulation": 0}, "accumulation must be at least 1, not 0"),
        ({"device": "cuda:1"}, "'cuda:1' is neither 'cpu' nor empty"),
        ({"sharded": True}, "needs several processes; start them with torchrun"),
    ],
)
def test_an_engine_refuses(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        Engine(**options)


@pytest.mark.parametrize(
    ("balancer", "step"),
    [
        *((balancer, "plain") for balancer in ("graddrop", "gradnorm", "features(upgrad)")),
        *(("upgrad", step) for step in ("sam(rho=0.1)", "flat(rho=0.1)")),
    ],
)
def test_what_sharding_cannot_do_is_refused(balancer: str, step: str) -> None:
    reason = as_step(step).unlawful(as_balancer(balancer), sharded=True)
    assert reason is not None and "use" in reason and "FSDP2" in reason


def test_a_wrapped_module_is_refused(tmp_path: Path) -> None:
    import torch.distributed as dist

    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'x'}", rank=0, world_size=1)
    try:
        module = small.net()
        module.trunk = nn.parallel.DistributedDataParallel(module.trunk)
        with pytest.raises(InputError, match=r"DistributedDataParallel is wrapped .* bare module"):
            fit("upgrad", module=module)
    finally:
        dist.destroy_process_group()


def test_every_update_has_its_own_dropout_and_every_run_the_same() -> None:
    once, again = (fit(module=small.net(dropout=0.5)).history for _ in range(2))
    assert [r["loss"] for r in once] == [r["loss"] for r in again]
    engine, balancer = Engine(device="cpu"), as_balancer("rlw")
    engine.seed(balancer, 0, 1)
    first = torch.rand(2)
    engine.seed(balancer, 0, 2)
    second = torch.rand(2)
    engine.seed(balancer, 0, 1)
    assert torch.equal(torch.rand(2), first) and not torch.equal(first, second)
