"""The generated tables: filled between their marks, found stale, and honest about what is not."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def render(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """benchmarks/render.py, looking at a small house of its own in which nothing is missing."""
    spec = importlib.util.spec_from_file_location("render", ROOT / "benchmarks" / "render.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path / "benchmarks"))
    for path in module.missing(tmp_path):
        file = tmp_path / path.removesuffix(" is missing")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    (tmp_path / "README.md").touch()
    (tmp_path / "benchmarks" / "results").mkdir()
    return module


def page(root: Path, name: str, table: str) -> Path:
    path = root / name
    path.write_text(f"before\n\n<!-- table:{table} -->\nlast year's table\n<!-- end -->\n\nafter\n")
    return path


def test_a_block_is_filled_and_then_up_to_date(render: ModuleType, tmp_path: Path) -> None:
    readme = page(tmp_path, "README.md", "systems")
    deep = page(tmp_path, "docs/systems/multitab.md", "systems")
    assert render.main(["--check"]) == 1
    assert "last year's table" in readme.read_text()
    assert render.main([]) == 0
    assert render.main(["--check"]) == 0
    text = readme.read_text()
    assert text.startswith("before\n")
    assert text.endswith("<!-- end -->\n\nafter\n")
    assert "last year's table" not in text
    assert "[`multitab`](docs/systems/multitab.md)" in text
    assert "[`flat_mtl`](flat_mtl.md)" in deep.read_text()


def test_a_stale_page_is_named(
    render: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page(tmp_path, "README.md", "baselines")
    assert render.main(["--check"]) == 1
    assert "README.md is out of date" in capsys.readouterr().err


def test_claims_show_what_does_not_hold(render: ModuleType, tmp_path: Path) -> None:
    row = {
        "system": "s", "claim": "a | b", "paper": "1.2", "measured": "0.9 ± 0.1 (3)",
        "relation": "a > b", "holds": False, "seeds": [0, 1, 2], "command": "c", "reason": "why",
    }  # fmt: skip
    rows = [row, {**row, "claim": "second", "holds": True, "reason": ""}]
    (tmp_path / "benchmarks" / "results" / "s.claims.json").write_text(json.dumps(rows))
    lines = render.table("claims:s", tmp_path / "README.md", tmp_path).splitlines()
    assert lines[2] == r"| a \| b | 1.2 | 0.9 ± 0.1 (3) | a > b | **no**: why | 3 |"
    assert lines[3] == "| second | 1.2 | 0.9 ± 0.1 (3) | a > b | yes | 3 |"


def test_a_benchmark_brings_its_own_table(render: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "benchmarks" / "of_test_render.py").write_text("def table():\n    return '| x |'\n")
    readme = page(tmp_path, "README.md", "of_test_render")
    assert render.main([]) == 0
    assert "\n| x |\n" in readme.read_text()


@pytest.mark.parametrize("name", ["nothing", "claims:nothing"])
def test_a_table_that_nothing_provides_is_an_error(
    render: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    readme = page(tmp_path, "README.md", name)
    assert render.main([]) == 1
    assert "nothing" in capsys.readouterr().err
    assert "last year's table" in readme.read_text()


@pytest.mark.parametrize(
    "path", ["tests/systems/test_multitab.py", "benchmarks/flat_mtl.py", "docs/systems/multitab.md"]
)
def test_a_missing_companion_is_named(
    render: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], path: str
) -> None:
    assert render.main(["--check"]) == 0
    (tmp_path / path).unlink()
    assert render.main(["--check"]) == 1
    assert f"{path} is missing" in capsys.readouterr().err


def test_a_record_that_is_empty_is_said_to_be(render: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "benchmarks" / "empty_record.py").write_text("def table():\n    return ''\n")
    readme = page(tmp_path, "README.md", "empty_record")
    assert render.main([]) == 0
    assert "*Nothing is on record yet.*" in readme.read_text()
