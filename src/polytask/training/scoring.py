"""Scoring: every metric of every task, over rows that need not fit into memory at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from numpy.typing import NDArray

from polytask.data import Batch
from polytask.tasks import Kind

Answer = Callable[[Batch], Mapping[str, NDArray]]


def score(kinds: Mapping[str, Kind], data: Batch, answer: Answer) -> dict[str, dict[str, float]]:
    """Every metric of every task on the rows that have its label.

    ``answer`` gives decoded predictions for a batch. Of pictures, a few are read, answered and
    counted at a time; a table is answered at once.
    """
    tallies: dict[str, list[tuple[NDArray, ...]]] = {name: [] for name in kinds}
    for part in data.chunks() if data.lazy else [data]:
        for name, decoded in answer(part).items():
            mask = part.masks[name].numpy()
            if mask.any():
                target = part.targets[name].numpy()[mask]
                tallies[name].append(kinds[name].tally(target, decoded[mask]))
    return {name: kinds[name].judge(parts) for name, parts in tallies.items()}
