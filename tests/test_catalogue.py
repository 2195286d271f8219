"""The catalogue is read from headers, without importing a system."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from polytask import catalogue as module
from polytask.catalogue import catalogue, load_system
from polytask.errors import InputError

SOURCE = Path(module.__file__).parent


def test_every_learner_file_is_listed_and_loads() -> None:
    entries = catalogue()
    files = {p.stem for g in ("systems", "baselines") for p in (SOURCE / g).glob("[!_]*.py")}
    assert {e.module.rpartition(".")[2] for e in entries.values()} == files
    for name, entry in entries.items():
        cls = entry.load()
        assert cls.id == name == entry.id
        assert cls.__name__ == entry.attribute


def test_every_header_is_filled_in() -> None:
    for entry in catalogue().values():
        assert entry.title and entry.source and entry.domain and entry.use, entry.id
        assert entry.year.isdigit() and 1990 < int(entry.year) < 2100
        assert all((SOURCE / "parts" / f"{part}.py").exists() for part in entry.parts), entry.id


def test_listing_imports_no_heavy_library() -> None:
    program = (
        "import sys; from polytask.catalogue import catalogue; assert catalogue(); "
        "print([m for m in ('torch', 'pyarrow', 'lightgbm') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"


def test_headers_are_read_with_continued_lines(tmp_path: Path) -> None:
    path = tmp_path / "two.py"
    path.write_text(
        '"""Two: a title.\n\nSource: Somebody,\n    somewhere: 2020.\nYear: 2020\nParts: a, b\n'
        'Idea: not in the catalogue\nFor: tables\n\nFor more, see elsewhere.\n"""\n'
        'class Two:\n    id: ClassVar[str] = "two"\nclass Hidden:\n    pass\n'
    )
    (entry,) = module._read(path, "systems")
    assert (entry.id, entry.title, entry.attribute) == ("two", "Two: a title.", "Two")
    assert entry.source == "Somebody, somewhere: 2020."
    assert (entry.year, entry.parts, entry.use) == ("2020", ("a", "b"), "tables")


def test_an_unknown_system_has_a_near_name() -> None:
    with pytest.raises(
        InputError, match=r"system 'multitap' is not known \(did you mean 'multitab'"
    ):
        load_system("multitap")
