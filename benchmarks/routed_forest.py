"""The routed forest on DriftMoE's streams: does it close the gap to ARF, and what does it cost?

Its cells lie in DriftMoE's record, beside those of everyone it is compared with.

    PYTHONPATH=src python benchmarks/routed_forest.py     # measures what the record lacks, judges
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import driftmoe
import numpy as np
from driftmoe import BEHIND, LONG, NINE, REQUIRED, SHORT, Evidence, Gap, Result, gap, judge, steady
from harness import Record, write_claims

from polytask.comparing.claims import Claim

NAME = "routed forest"
REASONS = {"behind": "", "cost": "", "data": ""}


def run() -> Record:
    return driftmoe.run()


def claims() -> list[Claim]:
    """What issue and design ask of it; streams without three seeds of both are left out."""
    evidence = Evidence(Record("driftmoe"))

    def gaps(
        rival: str,
        places: Mapping[str, int],
        measure: Callable[[Result], float] = driftmoe.accuracy,
    ) -> dict[str, Gap | None]:
        found = {
            f"{stream} ({rows // 1000}k)": gap(
                evidence.of(NAME, stream, rows, measure), evidence.of(rival, stream, rows, measure)
            )
            for stream, rows in places.items()
        }
        return {stream: g for stream, g in found.items() if g}

    behind = dict.fromkeys(BEHIND, LONG)
    everywhere = {**dict.fromkeys(REQUIRED, SHORT), **behind}
    judged = [
        judge(
            "it closes DriftMoE's gap to ARF where that is widest",
            "at most 1 point behind ARF on each, 12 members each",
            gaps("arf", behind),
            lambda _, g: g.mean >= -1,
            reason=REASONS["behind"],
        ),
        judge(
            "at half of ARF's cost or less",
            "rows per second of CPU time: at least twice ARF's on each",
            gaps("arf", everywhere, steady),
            lambda _, g: bool(np.median(g.first) >= 2 * np.median(g.second)),
            show=lambda g: (
                f"{np.median(g.first):,.0f} against {np.median(g.second):,.0f} "
                f"({np.median(g.first) / np.median(g.second):.1f}x)"
            ),
            reason=REASONS["cost"],
        ),
        judge(
            "it is ahead of MoE-Data",
            "by more than 0 on each",
            gaps("MoE-Data", dict.fromkeys(NINE, LONG)),
            lambda _, g: g.mean > 0,
            reason=REASONS["data"],
        ),
    ]
    return [
        replace(claim, system="routed_forest", command="python benchmarks/routed_forest.py")
        for claim in judged
        if claim is not None
    ]


def table() -> str:
    return driftmoe.accuracies(Evidence(Record("driftmoe")))


if __name__ == "__main__":
    run()
    write_claims("routed_forest", claims())
