"""Dataclasses are the truth; YAML files, dotted overrides and short texts are views of them."""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from polytask.errors import InputError, nearest

T = TypeVar("T")


def parse_call(text: str, registry: Mapping[str, Callable[..., T]], what: str) -> T:
    """Build an object from ``name`` or ``name(key=value, ...)``; one positional name may nest.

    ``features(cagrad(c=0.4))`` gives ``registry["features"](registry["cagrad"](c=0.4))``.
    """
    try:
        node = ast.parse(text.strip().replace("-", "_"), mode="eval").body
    except SyntaxError:
        raise InputError(f"{what} {text!r} cannot be read; write name or name(key=value)") from None
    return _build_call(node, text, registry, what)


def _build_call(node: ast.expr, text: str, registry: Mapping[str, Any], what: str) -> Any:
    call = node if isinstance(node, ast.Call) else None
    head = call.func if call else node
    if not isinstance(head, ast.Name):
        raise InputError(f"{what} {text!r} cannot be read; write name or name(key=value)")
    if head.id not in registry:
        raise InputError(f"{what} {head.id!r} is not known{nearest(head.id, registry)}")
    if call is None:
        return registry[head.id]()
    try:
        inner = [_build_call(a, text, registry, what) for a in call.args]
        keywords = {k.arg: ast.literal_eval(k.value) for k in call.keywords if k.arg}
        return registry[head.id](*inner, **keywords)
    except InputError:
        raise
    except (TypeError, ValueError) as error:
        raise InputError(f"{what} {text!r}: {error}") from None


def from_dict(cls: type[T], data: Mapping[str, Any], where: str = "") -> T:
    """Strict: an unknown key is an error with the nearest name; values get the field's type."""
    import cattrs
    from cattrs.gen import make_dict_structure_fn

    converter = cattrs.Converter(forbid_extra_keys=True, detailed_validation=False)
    converter.register_structure_hook_factory(
        dataclasses.is_dataclass,
        lambda kind: _checked(kind, make_dict_structure_fn(kind, converter)),
    )
    # Texts such as "upgrad" and ready objects both stand in these fields; keep what was given.
    converter.register_structure_hook_func(
        lambda t: getattr(t, "__args__", None) is not None and object in t.__args__,
        lambda value, _: value,
    )
    converter.register_structure_hook(float, _number)
    converter.register_structure_hook(int, _whole)
    converter.register_structure_hook(bool, _flag)
    try:
        return converter.structure(data, cls)
    except InputError as error:
        raise InputError(f"{where}: {error}" if where else str(error)) from None
    except Exception as error:
        raise InputError(f"{where + ': ' if where else ''}{error}") from None


def _number(value: Any, _: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InputError(f"{value!r} is not a number")
    return float(value)


def _whole(value: Any, _: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise InputError(f"{value!r} is not a whole number")
    return value


def _flag(value: Any, _: Any) -> bool:
    if not isinstance(value, bool):
        raise InputError(f"{value!r} is neither true nor false")
    return value


def _checked(cls: type, structure: Callable) -> Callable:
    names = [f.name for f in dataclasses.fields(cls) if f.init]

    def hook(value: Any, kind: Any) -> Any:
        if dataclasses.is_dataclass(value):
            return value
        if not isinstance(value, Mapping):
            raise InputError(f"{cls.__name__} needs keys and values, not {value!r}")
        for key in value:
            if key not in names:
                raise InputError(f"{cls.__name__} has no key {key!r}{nearest(key, names)}")
        return structure(value, kind)

    return hook


def to_dict(config: Any) -> dict[str, Any]:
    """The settings as plain data: constructor fields only, objects by their text."""
    out: dict[str, Any] = {}
    for f in dataclasses.fields(config):
        if f.init:
            value = getattr(config, f.name)
            out[f.name] = to_dict(value) if dataclasses.is_dataclass(value) else _plain(value)
    return out


def _plain(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return [_plain(v) for v in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return str(value)


def override(data: dict[str, Any], assignments: Sequence[str]) -> dict[str, Any]:
    """Apply ``training.lr=0.01`` style assignments; values are read as YAML."""
    import yaml

    for text in assignments:
        key, equals, value = text.partition("=")
        if not equals:
            raise InputError(f"override {text!r} is not of the form key=value")
        node = data
        *path, last = key.lstrip("-").split(".")
        for name in path:
            if not isinstance(node.get(name), dict):
                raise InputError(f"override {text!r}: no key {name!r}{nearest(name, node)}")
            node = node[name]
        if last not in node:
            raise InputError(f"override {text!r}: no key {last!r}{nearest(last, node)}")
        node[last] = scalar(yaml.safe_load(value))
    return data


def scalar(value: Any) -> Any:
    """A YAML scalar as people mean it: YAML 1.1 reads 1e-3 as text, here it is the number."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def read_yaml(path: str) -> dict[str, Any]:
    """The keys and values of a YAML file."""
    import yaml

    try:
        data = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"file {path!r} does not exist") from None
    except yaml.YAMLError as error:
        raise InputError(f"file {path!r} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(data, dict):
        raise InputError(f"file {path!r} must hold keys and values")
    return data
