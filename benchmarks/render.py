"""Fill the generated tables of README.md and docs/ from what is on record; run nothing.

    python benchmarks/render.py           # write them
    python benchmarks/render.py --check   # exit 1 if one is out of date; name it

A page asks for a table with a pair of comments; whatever stands between them is replaced:

    <!-- table:systems -->          the catalogue, from the headers of the systems' files
    <!-- table:baselines -->        the same of the baselines
    <!-- table:claims:SYSTEM -->    benchmarks/results/SYSTEM.claims.json
    <!-- table:NAME -->             table() of benchmarks/NAME.py, which reads its record only
    <!-- end -->

It also says which system lacks its test, its benchmark or its page.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from polytask.catalogue import Entry, catalogue

ROOT = Path(__file__).resolve().parents[1]
BLOCK = re.compile(r"(<!-- table:(?P<name>[\w:-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
COMPANIONS = ("tests/systems/test_{}.py", "benchmarks/{}.py", "docs/systems/{}.md")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Fill the generated tables of the docs.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if stale")
    check = parser.parse_args(arguments).check
    problems = missing(ROOT)
    for page in pages(ROOT):
        old = page.read_text(encoding="utf-8")
        try:
            new = render(old, page, ROOT)
        except LookupError as error:
            problems.append(f"{page.relative_to(ROOT)}: {error}")
            continue
        if new == old:
            continue
        if check:
            problems.append(f"{page.relative_to(ROOT)} is out of date: run benchmarks/render.py")
        else:
            page.write_text(new, encoding="utf-8")
            print(f"wrote {page.relative_to(ROOT)}")
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


def pages(root: Path) -> list[Path]:
    """Every page that may hold a table."""
    return [root / "README.md", *sorted((root / "docs").rglob("*.md"))]


def missing(root: Path) -> list[str]:
    """A sentence for each file that a system of the catalogue should have beside it."""
    wanted = [pattern.format(e.id) for e in listed("systems") for pattern in COMPANIONS]
    return [f"{path} is missing" for path in wanted if not (root / path).exists()]


def render(text: str, page: Path, root: Path) -> str:
    """The page with every block filled anew; LookupError names a table that nothing provides."""

    def filled(match: re.Match[str]) -> str:
        found = table(match["name"], page, root).strip() or "*Nothing is on record yet.*"
        return f"{match[1]}\n{found}\n\n{match[3]}"

    return BLOCK.sub(filled, text)


def table(name: str, page: Path, root: Path) -> str:
    """One table in Markdown, its links relative to the page."""
    if name in ("systems", "baselines"):
        return learners(listed(name), page, root)
    if name.startswith("claims:"):
        return claims(name.removeprefix("claims:"), root)
    if not (root / "benchmarks" / f"{name}.py").exists():
        raise LookupError(f"no benchmark provides the table {name!r}")
    if str(root / "benchmarks") not in sys.path:
        sys.path.insert(0, str(root / "benchmarks"))
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        raise LookupError(f"benchmarks/{name}.py cannot be imported: {error}") from None
    if not hasattr(module, "table"):
        raise LookupError(f"benchmarks/{name}.py has no table()")
    return str(module.table())


def listed(group: str) -> list[Entry]:
    """The packaged learners of one room; plug-ins of this machine are not ours to list."""
    return [entry for entry in catalogue().values() if entry.group == group]


def learners(entries: Iterable[Entry], page: Path, root: Path) -> str:
    """One row per file of the catalogue; systems have a page each, baselines share one."""
    files: dict[str, list[Entry]] = {}
    for entry in entries:
        files.setdefault(entry.module, []).append(entry)
    rows = []
    for found in files.values():
        first = found[0]
        path = f"docs/systems/{first.id}.md" if first.group == "systems" else "docs/baselines.md"
        link = Path(os.path.relpath(root / path, page.parent)).as_posix()
        ids = ", ".join(f"[`{entry.id}`]({link})" for entry in found)
        rows.append([ids, first.title.rstrip("."), first.use, first.domain, first.year])
    return markdown(["id", "what it is", "for", "domain", "year"], rows)


def claims(system: str, root: Path) -> str:
    """What the paper says beside what was measured; a reason where it does not hold."""
    path = root / "benchmarks" / "results" / f"{system}.claims.json"
    if not path.exists():
        raise LookupError(f"{path.relative_to(root).as_posix()} is not on record")
    rows = []
    for row in json.loads(path.read_text(encoding="utf-8")):
        holds = "yes" if row["holds"] else f"**no**: {row['reason']}" if row["reason"] else "**no**"
        seeds = str(len(row["seeds"]))
        rows.append([row["claim"], row["paper"], row["measured"], row["relation"], holds, seeds])
    return markdown(["claim", "paper", "measured", "has to hold", "holds", "seeds"], rows)


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; a bar or a line break inside a cell would end it."""

    def line(cells: Iterable[str]) -> str:
        return "| " + " | ".join(" ".join(c.replace("|", "\\|").split()) for c in cells) + " |"

    return "\n".join([line(head), line("---" for _ in head), *map(line, rows)])


if __name__ == "__main__":
    sys.exit(main())
