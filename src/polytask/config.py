"""Dataclasses are the truth; YAML files, dotted overrides and short texts are views of them."""

from __future__ import annotations

import ast
import dataclasses
import math
import re
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path
from types import FunctionType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from polytask.errors import InputError, nearest

T = TypeVar("T")


def parse_call(text: str, registry: Mapping[str, Callable[..., T]], what: str) -> T:
    """Build an object from ``name`` or ``name(key=value, ...)``; one positional name may nest.

    ``features(cagrad(c=0.4))`` gives ``registry["features"](registry["cagrad"](c=0.4))``.
    """
    # "imtl-g" is a name, 1e-3 is a number.
    plain = re.sub(r"(?<=[A-Za-z])-(?=[A-Za-z])", "_", text.strip())
    try:
        node = ast.parse(plain, mode="eval").body
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

    converter = cattrs.Converter(detailed_validation=False)
    converter.register_structure_hook_factory(
        dataclasses.is_dataclass, lambda kind: _fields_of(kind, converter)
    )
    converter.register_structure_hook_func(
        lambda kind: get_origin(kind) is tuple,
        lambda value, kind: tuple(converter.structure(v, get_args(kind)[0]) for v in _list(value)),
    )
    converter.register_structure_hook_func(lambda kind: get_origin(kind) is Literal, _choice)
    # Texts such as "upgrad" and ready objects both stand in these fields; keep what was given.
    converter.register_structure_hook_func(
        lambda kind: object in get_args(kind), lambda value, _: value
    )
    converter.register_structure_hook(float, _number)
    converter.register_structure_hook(int, _whole)
    converter.register_structure_hook(bool, _flag)
    try:
        return converter.structure(data, cls)
    except InputError as error:
        raise InputError(f"{where}: {error}" if where else str(error)) from None


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


def _list(value: Any) -> list[Any] | tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise InputError(f"{value!r} is not a list such as [a, b]")
    return value


def _choice(value: Any, kind: Any) -> Any:
    options = get_args(kind)
    if isinstance(value, bool) and value not in options:
        value = str(value).lower()  # YAML's true where "true" is one of several words
    if value not in options:
        raise InputError(f"{value!r} is not one of {', '.join(map(repr, options))}")
    return value


def _fields_of(cls: type, converter: Any) -> Callable[[Any, Any], Any]:
    names = [f.name for f in dataclasses.fields(cls) if f.init]
    types = get_type_hints(cls)

    def structure(value: Any, _: Any) -> Any:
        if dataclasses.is_dataclass(value):
            return value
        if not isinstance(value, Mapping):
            raise InputError(f"{cls.__name__} needs keys and values, not {value!r}")
        given = {}
        for key, item in value.items():
            if key not in names:
                raise InputError(f"{cls.__name__} has no key {key!r}{nearest(key, names)}")
            try:
                given[key] = converter.structure(item, types[key])
            except InputError as error:
                raise InputError(f"{key}: {error}") from None
        return cls(**given)

    return structure


def to_dict(config: Any) -> dict[str, Any]:
    """The settings as plain data: constructor fields only, objects by their text.

    A function is told by its name: its text is another in every process.
    """
    out: dict[str, Any] = {}
    for f in dataclasses.fields(config):
        if f.init:
            value = getattr(config, f.name)
            nested = dataclasses.is_dataclass(value) and type(value).__str__ is object.__str__
            out[f.name] = to_dict(value) if nested else _plain(value)
    return out


def _plain(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return [_plain(v) for v in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, FunctionType):
        return f"{value.__module__}.{value.__qualname__}"
    return str(value)


def override(data: dict[str, Any], settings: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Apply dotted settings such as ``("training.lr", 0.01)``; an unknown one is an error."""
    for key, value in settings:
        node: Any = data
        for name in (names := key.split(".")):
            if not isinstance(node, dict) or name not in node:
                known = node if isinstance(node, dict) else ()
                raise InputError(f"setting {key!r}: no key {name!r}{nearest(name, known)}")
            parent, node = node, node[name]
        parent[names[-1]] = value
    return data


def assignment(text: str) -> tuple[str, Any]:
    """``key=value`` as (key, value read as YAML)."""
    key, equals, value = text.partition("=")
    if not equals:
        raise InputError(f"setting {text!r} is not of the form key=value")
    return key, parse_yaml(value, f"the value of {text!r}")


def amounts(texts: Iterable[str], what: str, *, above_zero: bool = False) -> dict[str, float]:
    """``("task=2.5", ...)`` as a mapping from names to numbers of at least 0, or above it."""
    found = {}
    for text in texts:
        name, equals, value = text.rpartition("=")
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not name or not equals or not math.isfinite(number):
            raise InputError(f"{what}: {text!r} is not of the form task=number")
        if number < 0 or (above_zero and number == 0):
            raise InputError(f"{what}: {text!r} must be {'above' if above_zero else 'at least'} 0")
        found[name] = number
    return found


def read_yaml(path: str) -> dict[str, Any]:
    """The keys and values of a YAML file."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"file {path!r} does not exist") from None
    except UnicodeDecodeError:
        raise InputError(f"file {path!r} is not UTF-8 text") from None
    data = parse_yaml(text, f"file {path!r}")
    if not isinstance(data, dict):
        raise InputError(f"file {path!r} must hold keys and values")
    return data


def parse_yaml(text: str, what: str) -> Any:
    """YAML as people mean it (1.2): ``1e-3`` is a number, ``off`` and ``no`` are words."""
    import yaml

    try:
        return yaml.load(text, _yaml_loader())
    except yaml.YAMLError as error:
        raise InputError(f"{what} is not YAML: {' '.join(str(error).split())}") from None


@cache
def _yaml_loader() -> Any:
    import yaml

    class Loader(yaml.SafeLoader):
        pass

    Loader.yaml_implicit_resolvers = {
        sign: [(tag, pattern) for tag, pattern in resolvers if tag not in _SCALARS]
        for sign, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    for tag, (pattern, signs) in _SCALARS.items():
        Loader.add_implicit_resolver(tag, re.compile(pattern), list(signs))
    return Loader


# Tag -> (pattern, signs it begins with), where YAML 1.2 differs from PyYAML's 1.1.
_SCALARS = {
    "tag:yaml.org,2002:bool": (r"^(true|True|TRUE|false|False|FALSE)$", "tTfF"),
    "tag:yaml.org,2002:float": (
        r"^[-+]?((\.\d+|\d+(\.\d*)?)([eE][-+]?\d+)?|\.(inf|Inf|INF))$|^\.(nan|NaN|NAN)$",
        "-+.0123456789",
    ),
}
