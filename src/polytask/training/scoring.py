"""Scoring: every metric of every task, over rows that need not fit into memory at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from numpy.typing import NDArray

from polytask.data import Batch
from polytask.tasks import Kind

Answer = Callable[[Batch, Sequence[str]], Mapping[str, NDArray]]


def score(kinds: Mapping[str, Kind], data: Batch, answer: Answer) -> dict[str, dict[str, float]]:
    """Every metric of every task on the rows that have its label.

    ``answer`` gives decoded predictions of some tasks for a batch. Of pictures, a few are read,
    answered and counted at a time; a table is answered at once.
    """
    tallies: dict[str, list[tuple[NDArray, ...]]] = {name: [] for name in kinds}
    for whole in data.chunks() if data.lazy else [data]:
        for part, names in _asked(whole, tuple(kinds)):
            for name, decoded in answer(part, names).items():
                mask = part.masks[name].numpy()
                if mask.any():
                    target = part.targets[name].numpy()[mask]
                    tallies[name].append(kinds[name].tally(target, decoded[mask]))
    return {name: kinds[name].judge(parts) for name, parts in tallies.items()}


def _asked(data: Batch, names: tuple[str, ...]) -> Iterator[tuple[Batch, tuple[str, ...]]]:
    """What is answered together: all rows, or each task's own where no row is of two tasks."""
    counts = [int(data.masks[name].sum()) for name in names]
    if len(names) == 1 or sum(counts) > len(data):
        yield data, names
        return
    for name in names:
        rows = data.masks[name].nonzero().squeeze(1)
        if len(rows):
            yield data.only([name]).take(rows), (name,)
