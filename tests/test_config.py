"""Settings: dataclass, YAML and dotted words say the same; what is wrong is named."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml

from polytask.baselines.mlp import SharedMLP
from polytask.config import (
    assignment,
    from_dict,
    override,
    parse_call,
    parse_yaml,
    read_yaml,
    to_dict,
)
from polytask.errors import InputError, nearest


@dataclass
class Budget:
    lr: float = 0.1
    epochs: int = 3
    clip: float | None = None
    names: tuple[str, ...] = ()


@dataclass
class Model:
    hidden: tuple[int, ...] = (8, 4)
    mode: Literal["off", "true", "rows"] = "rows"
    fast: bool = False
    balancer: str | object = "sum"
    budget: Budget = field(default_factory=Budget)
    made: int = field(default=0, init=False)


def test_a_round_trip() -> None:
    model = Model((3,), "off", True, "cagrad(c=0.4)", Budget(1e-5, 9, 2.5, ("a",)))
    assert from_dict(Model, to_dict(model)) == model
    assert from_dict(Model, yaml.safe_load(yaml.safe_dump(to_dict(model)))) == model
    assert from_dict(Model, {}) == Model()
    assert "made" not in to_dict(model)


def test_values_take_the_type_of_their_field() -> None:
    model = from_dict(Model, {"hidden": [1, 2], "budget": {"lr": 1, "clip": None}})
    assert model.hidden == (1, 2)
    assert isinstance(model.budget.lr, float)
    assert from_dict(Model, {"mode": True}).mode == "true", "YAML's true is the word in a choice"
    ready = object()
    assert from_dict(Model, {"balancer": ready}).balancer is ready


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        ({"hiden": [1]}, "Model has no key 'hiden' (did you mean 'hidden'?)"),
        ({"budget": {"epoch": 1}}, "budget: Budget has no key 'epoch' (did you mean 'epochs'?)"),
        ({"made": 1}, "Model has no key 'made'"),
        ({"budget": {"lr": "fast"}}, "budget: lr: 'fast' is not a number"),
        ({"budget": {"lr": True}}, "budget: lr: True is not a number"),
        ({"budget": {"epochs": 1.5}}, "budget: epochs: 1.5 is not a whole number"),
        ({"budget": {"names": "abc"}}, "budget: names: 'abc' is not a list"),
        ({"budget": 3}, "budget: Budget needs keys and values, not 3"),
        ({"hidden": 8}, "hidden: 8 is not a list"),
        ({"hidden": [8, "x"]}, "hidden: 'x' is not a whole number"),
        ({"fast": "yes"}, "fast: 'yes' is neither true nor false"),
        ({"mode": "row"}, "mode: 'row' is not one of 'off', 'true', 'rows'"),
    ],
)
def test_a_wrong_setting_is_named(data: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError) as refused:
        from_dict(Model, data, where="model.yaml")
    assert str(refused.value).startswith(f"model.yaml: {sentence}")


def test_dotted_settings() -> None:
    words = ["budget.lr=1e-3", "hidden=[5, 6]", "mode=off", "balancer=cagrad(c=0.4)", "fast=true"]
    words += ["budget.clip=null", "budget.names=[a, b]"]
    model = from_dict(Model, override(to_dict(Model()), map(assignment, words)))
    assert model == Model((5, 6), "off", True, "cagrad(c=0.4)", Budget(1e-3, 3, None, ("a", "b")))


@pytest.mark.parametrize(
    ("word", "sentence"),
    [
        ("budget.epoch=3", "setting 'budget.epoch': no key 'epoch' (did you mean 'epochs'?)"),
        ("bugdet.epochs=3", "no key 'bugdet' (did you mean 'budget'?)"),
        ("mode.fast=3", "no key 'fast'"),
        ("epochs", "setting 'epochs' is not of the form key=value"),
        ("mode=[", "the value of 'mode=[' is not YAML"),
    ],
)
def test_a_wrong_dotted_setting_is_named(word: str, sentence: str) -> None:
    with pytest.raises(InputError) as refused:
        override(to_dict(Model()), [assignment(word)])
    assert sentence in str(refused.value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3),
        ("2E5", 2e5),
        ("-.5", -0.5),
        ("1.", 1.0),
        ("3", 3),
        (".inf", float("inf")),
        ("off", "off"),
        ("no", "no"),
        ("true", True),
        ("null", None),
        ("'1e-3'", "1e-3"),
        ("time:when", "time:when"),
        ("1.2.3", "1.2.3"),
        ("e5", "e5"),
    ],
)
def test_yaml_as_people_mean_it(text: str, value: object) -> None:
    found = parse_yaml(text, "it")
    assert found == value and type(found) is type(value)


def test_other_users_of_yaml_keep_theirs() -> None:
    parse_yaml("off", "it")
    assert yaml.safe_load("off") is False


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"a: [1", "is not YAML"),
        (b"- 1\n- 2", "must hold keys and values"),
        (b"", "must hold keys and values"),
        (b"a: \xe9", "is not UTF-8"),
        (None, "does not exist"),
    ],
)
def test_a_file_that_is_no_settings(tmp_path: Path, content: bytes | None, sentence: str) -> None:
    path = tmp_path / "settings.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=sentence) as refused:
        read_yaml(str(path))
    assert "settings.yaml" in str(refused.value) and "\n" not in str(refused.value)


def test_a_real_system_goes_through_yaml() -> None:
    learner = SharedMLP(hidden=(3, 2), balancer="gradnorm(alpha=1.5)")
    path_free = parse_yaml(yaml.safe_dump(to_dict(learner)), "it")
    assert from_dict(SharedMLP, path_free) == learner


# -- short texts that build objects ----------------------------------------------------------------


@dataclass
class Plain:
    rho: float = 1.0
    name: str = ""


@dataclass
class Wrapped:
    inner: Plain
    scale: float = 1.0


REGISTRY = {"plain": Plain, "im_g": Plain, "wrapped": Wrapped}


@pytest.mark.parametrize(
    ("text", "built"),
    [
        ("plain", Plain()),
        ("plain()", Plain()),
        (" plain(rho=0.5) ", Plain(0.5)),
        ("plain(rho=1e-3)", Plain(1e-3)),
        ("plain(rho=-2)", Plain(-2)),
        ("im-g(name='x')", Plain(name="x")),
        ("wrapped(plain(rho=2), scale=3)", Wrapped(Plain(2), 3)),
        ("wrapped(im-g)", Wrapped(Plain())),
    ],
)
def test_calls(text: str, built: object) -> None:
    assert parse_call(text, REGISTRY, "thing") == built


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("plane", "thing 'plane' is not known (did you mean 'plain'?)"),
        ("wrapped(plane)", "thing 'plane' is not known"),
        ("plain(rho=", "cannot be read"),
        ("a.b", "cannot be read"),
        ("plain(roh=1)", "'roh'"),
        ("plain(rho=open('x'))", "plain(rho=open('x'))"),
    ],
)
def test_a_wrong_call_is_named(text: str, sentence: str) -> None:
    with pytest.raises(InputError) as refused:
        parse_call(text, REGISTRY, "thing")
    assert sentence in str(refused.value)


def test_nearest() -> None:
    assert nearest("prize", ["price", "rooms"]) == " (did you mean 'price'?)"
    assert nearest("zzz", ["price", "rooms"]) == " (known: price, rooms)"
    assert nearest("zzz", map(str, range(20))).endswith("10, 11, ...)")
    assert nearest("zzz", []) == ""
