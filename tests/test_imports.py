"""The house's arrows point down only, and `import polytask` is light."""

from __future__ import annotations

import ast
import os
import statistics
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "polytask"

# Room -> the rooms below it. A file beside the rooms (errors.py) is ground: all may import it, it
# imports no room. `comparing` and `lifecycle` see a learner's protocol, so no system and no part.
BELOW: dict[str, set[str]] = {
    "tasks": set(),
    "data": {"tasks"},
    "training": {"tasks", "data"},
    "parts": {"tasks", "data", "training"},
    "systems": {"tasks", "data", "training", "parts"},
    "baselines": {"tasks", "data", "training", "parts"},
    "lifecycle": {"tasks", "data", "training"},
    "comparing": {"tasks", "data", "training", "lifecycle"},
}
SEPARATE = {"systems", "baselines"}  # within these rooms nothing imports sideways
ROOF = {"__init__", "__main__", "cli", "testing"}  # these import everything, no room imports them

HEAVY = {
    "accelerate",
    "datasets",
    "matplotlib",
    "pandas",
    "pyarrow",
    "scipy",
    "sklearn",
    "torch",
    "torchjd",
    "transformers",
}


def imported(tree: ast.Module, module: str, is_package: bool) -> Iterator[tuple[int, str]]:
    """Yield (line, dotted name) of all that is imported, also in functions and under `if`."""
    package = module.split(".") if is_package else module.split(".")[:-1]
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                yield from ((node.lineno, alias.name) for alias in names)
            case ast.ImportFrom(module=origin, names=names, level=level):
                above = package[: len(package) - level + 1] if level else []
                base = ".".join([*above, *([origin] if origin else [])])
                yield from ((node.lineno, f"{base}.{alias.name}") for alias in names)
            case ast.Call(
                func=ast.Name(id=name) | ast.Attribute(attr=name),
                args=[ast.Constant(value=str(target)), *_],
            ) if name in {"import_module", "__import__"}:
                yield node.lineno, target


def forbidden(importer: list[str], target: list[str]) -> str | None:
    """Say why `importer` may not import `target` (both as path parts under polytask), or None."""
    here, there = importer[0], target[0]
    if here in ROOF:
        return None
    if there in ROOF:
        return "imports the roof"
    if there not in BELOW:
        return None  # ground
    if here not in BELOW:
        return f"is ground and imports {there}"
    if here != there:
        return None if there in BELOW[here] else f"imports {there}, which is not below {here}"
    if here in SEPARATE and importer[1:2] != target[1:2] and importer[1] != "__init__":
        return "imports sideways"
    return None


def violations(root: Path) -> list[str]:
    """Read every file of the package at `root`; return one sentence for each wrong import."""
    found = []
    modules = {
        ".".join(["polytask", *path.relative_to(root).with_suffix("").parts]).removesuffix(
            ".__init__"
        ): path
        for path in root.rglob("*.py")
    }
    for module, path in sorted(modules.items()):
        importer = list(path.relative_to(root).with_suffix("").parts)
        tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
        for line, name in imported(tree, module, path.name == "__init__.py"):
            target = name
            while target and target not in modules:  # from a module's name for a thing in it
                target = target.rpartition(".")[0]
            if not target or target == module:
                continue
            reason = forbidden(importer, target.split(".")[1:] or ["__init__"])
            if reason:
                found.append(f"{path.relative_to(root)}:{line}: {reason} ({name})")
    return found


def test_every_room_has_its_arrows() -> None:
    rooms = {path.parent.name for path in SOURCE.glob("*/__init__.py")}
    assert rooms == set(BELOW), "a new room needs a line in BELOW"


def test_imports_point_down() -> None:
    assert violations(SOURCE) == []


@pytest.mark.parametrize(
    ("path", "line", "reason"),
    [
        ("tasks/kinds.py", "from polytask.data import table", "imports data"),
        ("data/table.py", "from ..training import loop", "imports training"),
        ("training/loop.py", "def run():\n    import polytask.parts.mlp", "imports parts"),
        ("training/loop.py", "from polytask.systems.one import One", "imports systems"),
        ("parts/mlp.py", "from ..systems.one import One", "imports systems"),
        ("parts/mlp.py", "from polytask import baselines", "imports baselines"),
        ("systems/one.py", "from .two import Two", "imports sideways"),
        ("systems/one.py", "from . import two", "imports sideways"),
        ("systems/one.py", "from polytask.systems import Two", "imports sideways"),
        ("systems/giant/net.py", "from ..one import One", "imports sideways"),
        ("systems/one.py", "import polytask.baselines.rival", "imports baselines"),
        ("baselines/rival.py", "from polytask.systems.one import One", "imports systems"),
        ("baselines/rival.py", "from polytask.baselines.other import Other", "imports sideways"),
        ("comparing/report.py", "from polytask.systems.one import One", "imports systems"),
        ("comparing/report.py", "import polytask.parts.mlp as mlp", "imports parts"),
        (
            "lifecycle/saving.py",
            "import importlib\nimportlib.import_module('polytask.systems.one')",
            "imports systems",
        ),
        ("data/table.py", "from polytask.cli import main", "imports the roof"),
        ("data/table.py", "from polytask import compare", "imports the roof"),
        ("data/table.py", "if TYPE_CHECKING:\n    from .. import cli", "imports the roof"),
        ("errors.py", "from polytask.tasks import kinds", "is ground and imports tasks"),
    ],
)
def test_a_planted_violation_is_found(tmp_path: Path, path: str, line: str, reason: str) -> None:
    house(tmp_path)
    (tmp_path / path).write_text(line)
    found = violations(tmp_path)
    assert len(found) == 1, found
    assert found[0].startswith(path)
    assert reason in found[0]


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("__init__.py", "from polytask.comparing.report import Report"),
        ("cli.py", "from polytask.systems import one"),
        ("comparing/report.py", "from ..training import loop\nfrom ..errors import InputError"),
        ("systems/one.py", "from ..parts.mlp import MLP\nimport torch.nn"),
        ("systems/__init__.py", "from polytask.systems.one import One"),
        ("systems/giant/__init__.py", "from .net import Net"),
        ("systems/giant/net.py", "from polytask.systems.giant import layers"),
        ("parts/mlp.py", "from . import other\nfrom polytask.tasks.kinds import Kind"),
        ("data/table.py", "import polytaskless.cli\nfrom datasets import systems"),
    ],
)
def test_a_lawful_import_passes(tmp_path: Path, path: str, line: str) -> None:
    house(tmp_path)
    (tmp_path / path).write_text(line)
    assert violations(tmp_path) == []


def house(root: Path) -> None:
    """Lay out a package with a few empty files in each room."""
    files = (
        "cli errors tasks/kinds data/table training/loop parts/mlp parts/other systems/one "
        "systems/two systems/giant/__init__ systems/giant/net systems/giant/layers "
        "baselines/rival baselines/other comparing/report lifecycle/saving"
    )
    for name in [*files.split(), *(f"{room}/__init__" for room in BELOW), "__init__"]:
        path = root / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def first_import(source: Path) -> tuple[float, set[str]]:
    """Import polytask from `source` in a new interpreter: seconds, and the heavy libraries in."""
    program = f"""
        import sys, time
        start = time.perf_counter()
        import polytask
        seconds = time.perf_counter() - start
        print(seconds, *(name for name in {HEAVY} if name in sys.modules))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        env={**os.environ, "PYTHONPATH": str(source)},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    seconds, *heavy = done.stdout.split()
    return float(seconds), set(heavy)


def test_import_is_light() -> None:
    seconds, heavy = zip(*(first_import(SOURCE.parent) for _ in range(3)), strict=True)
    assert set().union(*heavy) == set()
    assert statistics.median(seconds) < 0.5


def test_a_heavy_import_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "polytask.py").write_text("import time, torch\ntime.sleep(0.6)")
    (tmp_path / "torch.py").touch()
    seconds, heavy = first_import(tmp_path)
    assert heavy == {"torch"}
    assert seconds > 0.5
