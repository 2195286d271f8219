"""Claims: what a paper says, as a relation between measured numbers.

``benchmarks/<system>.py`` measures and yields them; the record beside it is JSON that tables are
made from. A claim that does not hold stays, with the reason found.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from polytask.errors import InputError, nearest


@dataclass(frozen=True)
class Claim:
    """One row of the claims table.

    Attributes:
        system: id of the system.
        claim: one sentence that can be true or false.
        paper: the paper's figure, as printed there ("" where it gives none).
        measured: our figure with its spread, as text.
        relation: what has to hold between measured numbers, e.g. "F-MGDA > MGDA".
        holds: whether it does.
        seeds: the seeds behind it (at least 3 for anything random).
        command: what reproduces the figure.
        reason: why it does not hold, where it does not.
    """

    system: str
    claim: str
    paper: str
    measured: str
    relation: str
    holds: bool
    seeds: tuple[int, ...]
    command: str
    reason: str = ""


def benchmark_folder() -> Path:
    """The ``benchmarks`` folder of the checkout this package runs from."""
    folder = Path(__file__).resolve().parents[3] / "benchmarks"
    if not (folder / "harness.py").exists():
        raise InputError("claims are measured in a checkout: clone the repository and run there")
    return folder


def claimants() -> list[str]:
    """Systems that have a benchmark."""
    files = benchmark_folder().glob("*.py")
    return sorted(p.stem for p in files if "def claims(" in p.read_text(encoding="utf-8"))


def measure(system: str) -> list[Claim]:
    """Run what the record of a system lacks, then judge its claims."""
    module = _benchmark(system)
    module.run()
    return list(module.claims())


def recorded(systems: Sequence[str]) -> list[Claim]:
    """The claims as they stand in the committed records."""
    found = []
    for system in systems:
        path = benchmark_folder() / "results" / f"{system}.claims.json"
        if not path.exists():
            raise InputError(
                f"system {system!r} has no recorded claims yet; run without --recorded"
            )
        for row in json.loads(path.read_text(encoding="utf-8")):
            found.append(Claim(**{**row, "seeds": tuple(row["seeds"])}))
    return found


def as_rows(claims: Sequence[Claim]) -> list[dict[str, Any]]:
    """Claims as plain data, for JSON."""
    return [asdict(claim) for claim in claims]


def _benchmark(system: str) -> Any:
    folder = benchmark_folder()
    known = claimants()
    if system not in known:
        raise InputError(f"system {system!r} has no benchmark{nearest(system, known)}")
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    spec = importlib.util.spec_from_file_location(f"benchmark_{system}", folder / f"{system}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
