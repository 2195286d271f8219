"""Catalogue: which learners exist, read from their files' headers without importing them."""

from __future__ import annotations

import ast
import importlib
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from polytask.errors import InputError, nearest

_FIELDS = ("source", "year", "domain", "parts", "for")


@dataclass(frozen=True)
class Entry:
    """One learner: its id, where its class is, and what its file's header says."""

    id: str
    title: str
    group: str
    module: str
    attribute: str
    source: str = ""
    year: str = ""
    domain: str = ""
    parts: tuple[str, ...] = ()
    use: str = ""

    def load(self) -> Any:
        """The learner class; heavy imports happen here."""
        return getattr(importlib.import_module(self.module), self.attribute)


@cache
def catalogue() -> dict[str, Entry]:
    """All learners by id: packaged systems and baselines, then plug-ins (``polytask.systems``)."""
    found: dict[str, Entry] = {}
    for group in ("systems", "baselines"):
        for path in sorted((Path(__file__).parent / group).glob("[!_]*.py")):
            for entry in _read(path, group):
                found[entry.id] = entry
    for point in entry_points(group="polytask.systems"):
        module, _, attribute = point.value.partition(":")
        found.setdefault(
            point.name, Entry(point.name, f"plug-in {point.value}", "plug-in", module, attribute)
        )
    return found


def load_system(name: str) -> Any:
    """The learner class of that id."""
    entries = catalogue()
    if name not in entries:
        raise InputError(f"system {name!r} is not known{nearest(name, entries)}")
    return entries[name].load()


def _read(path: Path, group: str) -> list[Entry]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    title, header = _header(ast.get_docstring(tree) or "")
    entries = []
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and (name := _id_of(node)):
            entries.append(
                Entry(
                    id=name,
                    title=title,
                    group=group,
                    module=f"polytask.{group}.{path.stem}",
                    attribute=node.name,
                    source=header["source"],
                    year=header["year"],
                    domain=header["domain"],
                    parts=tuple(p.strip() for p in header["parts"].split(",") if p.strip()),
                    use=header["for"],
                )
            )
    return entries


def _id_of(node: ast.ClassDef) -> str | None:
    """The value of ``id: ClassVar[str] = "..."`` in a class body."""
    for item in node.body:
        if (
            isinstance(item, ast.AnnAssign)
            and isinstance(item.target, ast.Name)
            and item.target.id == "id"
            and isinstance(item.value, ast.Constant)
        ):
            return str(item.value.value)
    return None


def _header(text: str) -> tuple[str, dict[str, str]]:
    """(first line, fields) of a header: ``Key: value``, continued on indented lines."""
    lines = text.splitlines()
    header, current = dict.fromkeys(_FIELDS, ""), ""
    for line in lines[1:]:
        key, colon, value = line.partition(":")
        if colon and not line.startswith(" "):
            current = key.strip().lower()
            if current in header:
                header[current] = value.strip()
        elif line.startswith(" ") and current in header:
            header[current] += " " + line.strip()
        else:
            current = ""
    return (lines[0] if lines else ""), header
