"""The docs do what they say: their Python runs, their commands parse, their links lead somewhere.

A page is read as its reader works through it: in an empty folder that holds my.csv and new.csv of
examples/houses.py, from the top, every block after the other in one session.

- A `python` block is run, unless `<!-- no-run -->` stands above it.
- A block with `title="FILE"` is written to that file instead.
- The `polytask` lines of a `console` block are run where `<!-- run -->` stands above it; all others
  must at least be read by the command line.

So that this takes seconds, a comparison that does not say otherwise has one neural learner, two
seeds and two epochs here.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import re
import runpy
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from markdown.extensions.toc import slugify

from polytask.catalogue import catalogue
from polytask.cli import _parser, main
from polytask.comparing import compare

ROOT = Path(__file__).parents[1]
PAGES = {p.relative_to(ROOT).as_posix(): p for p in sorted((ROOT / "docs").rglob("*.md"))}
PAGES["README.md"] = ROOT / "README.md"
EXAMPLES = ("compare_csv", "fit_predict", "own_learner")

FENCE = re.compile(
    r"(?:^ *<!-- (?P<tag>run|no-run) -->\n)?"
    r"^(?P<indent> *)```(?P<language>\w*)(?: title=\"(?P<title>[^\"]+)\")?\n"
    r"(?P<code>.*?)^(?P=indent)```$",
    re.DOTALL | re.MULTILINE,
)
LINK = re.compile(r"(?<!\!)\[[^\]]*\]\((?P<target>[^)\s]+)\)|!\[[^\]]*\]\((?P<image>[^)\s]+)\)")


class Block(NamedTuple):
    """A fenced block of a page and the line it begins at."""

    tag: str | None
    language: str
    title: str | None
    code: str
    line: int

    @property
    def commands(self) -> list[list[str]]:
        """The words of each `polytask` line of a console block."""
        lines = [x.removeprefix("$ ") for x in self.code.splitlines() if x.startswith("$ polytask")]
        return [shlex.split(line)[1:] for line in lines] if self.language == "console" else []


def blocks(text: str) -> list[Block]:
    found = []
    for match in FENCE.finditer(text):
        line = text.count("\n", 0, match.start("code")) + 1
        lines = match["code"].splitlines(keepends=True)
        code = "".join(x.removeprefix(match["indent"]) for x in lines)
        found.append(Block(match["tag"], match["language"], match["title"], code, line))
    return found


def prose(text: str) -> str:
    """The page without its code: the same number of lines, the fenced ones empty."""
    return FENCE.sub(lambda match: "\n" * match[0].count("\n"), text)


def runs(block: Block) -> bool:
    return (block.language == "python" and block.tag != "no-run") or block.tag == "run"


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A reader's folder with the two tables of the docs, and a budget that takes seconds."""
    spec = importlib.util.spec_from_file_location("houses", ROOT / "examples" / "houses.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.write(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "1")  # fits run in this process: no workers to start
    budget = {"training.batch": 64, "training.epochs": 2, "training.patience": 2}
    small = dataclasses.make_dataclass(
        "Plan",
        [
            ("learners", tuple, ("mlp",)),
            ("balancers", tuple, ("uw",)),
            ("seeds", tuple, (0, 1)),
        ],
        bases=(compare.Plan,),
        frozen=True,
    )
    monkeypatch.setattr(compare, "budget", lambda suite: dict(budget))
    monkeypatch.setattr(compare, "Plan", small)
    return tmp_path


@pytest.mark.parametrize(
    "name", [n for n, p in PAGES.items() if any(map(runs, blocks(p.read_text())))]
)
def test_a_page_runs(name: str, desk: Path) -> None:
    session: dict[str, object] = {"__name__": "__main__"}
    for block in blocks(PAGES[name].read_text(encoding="utf-8")):
        if block.title:
            (desk / block.title).write_text(block.code, encoding="utf-8")
        elif block.language == "python" and runs(block):
            source = "\n" * (block.line - 1) + block.code
            exec(compile(source, name, "exec", dont_inherit=True), session)
        elif block.tag == "run":
            for words in block.commands:
                assert main(words) == 0, f"{name}:{block.line}: polytask {shlex.join(words)}"


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_runs(name: str, desk: Path) -> None:
    runpy.run_path(str(ROOT / "examples" / f"{name}.py"), run_name="__main__")


@pytest.mark.parametrize("name", PAGES)
def test_commands_are_read_by_the_command_line(name: str) -> None:
    for block in blocks(PAGES[name].read_text(encoding="utf-8")):
        for words in block.commands:
            _, rest = _parser().parse_known_args(words)
            assert all("=" in word and not word.startswith("-") for word in rest), (
                f"{name}:{block.line}: polytask does not know {rest}"
            )


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_somewhere(name: str) -> None:
    page = PAGES[name]
    for match in LINK.finditer(prose(page.read_text(encoding="utf-8"))):
        target = match["target"] or match["image"]
        if target.startswith(("https://", "http://", "mailto:")):
            continue
        path, _, heading = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{name} links to {target}"
        assert not heading or heading in headings(file), f"{name} links to {target}"


def headings(page: Path) -> set[str]:
    lines = prose(page.read_text(encoding="utf-8")).splitlines()
    return {slugify(re.sub(r"^#+ ", "", x), "-") for x in lines if re.match(r"#+ ", x)}


def commands() -> dict[str, argparse.ArgumentParser]:
    (action,) = (a for a in _parser()._actions if isinstance(a, argparse._SubParsersAction))
    return dict(action.choices)


@pytest.mark.parametrize("command", commands())
def test_every_option_is_on_the_command_lines_page(command: str) -> None:
    text = PAGES["docs/cli.md"].read_text(encoding="utf-8")
    section = re.search(rf"^## polytask {command}$(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    assert section, f"docs/cli.md has no section on {command}"
    for action in commands()[command]._actions:
        wanted = (
            action.option_strings[-1] if action.option_strings else (action.metavar or action.dest)
        )
        if wanted != "--help":
            assert f"`{wanted}" in section[1] or f"`{str(wanted).upper()}`" in section[1], wanted


def test_every_learner_is_in_the_docs() -> None:
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES.values())
    packaged = [e.id for e in catalogue().values() if e.group in ("systems", "baselines")]
    assert [name for name in packaged if f"`{name}`" not in text] == []


@pytest.mark.parametrize(
    "path", [*PAGES.values(), *(ROOT / "examples").glob("*.py")], ids=lambda p: p.name
)
def test_no_path_of_one_machine(path: Path) -> None:
    assert not re.search(
        r"(?<![\w.])/(home|root|tmp|work|Users)/", path.read_text(encoding="utf-8")
    )


def test_a_block_is_read_as_the_page_means_it() -> None:
    text = (
        "text\n<!-- no-run -->\n```python\nx = 1\n```\n\n"
        '    ```yaml title="a.yaml"\n    k: 1\n    ```\n\n'
        "<!-- run -->\n```console\n$ polytask systems --json\n[]\n$ ls\n```\n"
        "```python\ny = 2\n```\n"
    )
    hidden, file, console, shown = blocks(text)
    assert not runs(hidden)
    assert hidden.line == 4
    assert (file.title, file.code) == ("a.yaml", "k: 1\n")
    assert runs(console)
    assert console.commands == [["systems", "--json"]]
    assert runs(shown)
    assert shown.code == "y = 2\n"
    assert "y = 2" not in prose(text)
