"""The result of a comparison: plain JSON as the truth, terminal and HTML as views of it.

Two formulas live here because every number in a report rests on them: `gain` (Delta_m) and
`interval` (its spread over seeds).
"""

from __future__ import annotations

import json
import math
import os
import statistics
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from rich.console import Console

FORMAT = 1
SECTIONS = ("suite", "settings", "verdict", "methods")  # the others may be null or absent
NEAR_ZERO = 0.01


def gain(
    scores: Mapping[str, float | None],
    reference: Mapping[str, float | None],
    directions: Mapping[str, bool],
) -> float | None:
    """Mean relative gain over the reference in percent; positive means better.

    Delta_m = 100/T * sum_i s_i (M_i - S_i) / |S_i|, with s_i = 1 where a higher score is better
    and -1 where a lower one is. Every task counts the same, whatever its unit.

    Args:
        scores: M_i, the score of the method on each of the T tasks.
        reference: S_i, the score of the reference on the same tasks.
        directions: for each task, whether a higher score is better.

    Returns:
        Delta_m, or None where it means nothing: a score is missing or not finite, or a reference
        score is so near 0 that its task alone would decide (see `undefined_gain`).

    Raises:
        ValueError: a task has no score, no reference or no direction, or there is no task.
    """
    if not directions:
        raise ValueError("A gain needs at least one task.")
    for name, given in (("scores", scores), ("reference", reference)):
        if odd := sorted(set(given) ^ set(directions)):
            raise ValueError(f"Task {odd[0]!r} is not in both {name} and directions.")
    if undefined_gain(reference, directions):
        return None
    parts = []
    for task, higher in directions.items():
        score, base = scores[task], reference[task]
        if score is None or base is None or not math.isfinite(score):
            return None
        parts.append((score - base if higher else base - score) / abs(base))
    return 100 * statistics.fmean(parts)


def undefined_gain(
    reference: Mapping[str, float | None], directions: Mapping[str, bool]
) -> str | None:
    """One sentence that says why no gain over this reference is defined, or None if it is.

    Delta_m divides by the reference score. A score with 1 as its best value (explained variance,
    AUROC, accuracy; higher is better) counts as zero below 0.01; an error (lower is better) has
    the unit of its task, so only an error of exactly 0 does.
    """
    for task, higher in directions.items():
        score = reference[task]
        if score is None or not math.isfinite(score):
            return f"The gain is not defined: the reference has no score on {task!r}."
        if abs(score) < NEAR_ZERO if higher else score == 0:
            return (
                f"The gain is not defined: the reference scores {score:.2g} on {task!r}, and a "
                "relative change from a score near 0 would drown all other tasks."
            )
    return None


def interval(values: Sequence[float | None], level: float = 0.95) -> dict[str, Any]:
    """Mean of paired per-seed values and its Student-t interval.

    mean ± t_{(1+level)/2, n-1} * s / sqrt(n), with s the sample standard deviation. Pair first
    (one gain per seed, method and reference run with that same seed), then call this.

    What it covers: the luck of the seeds (initial weights, order of the batches), as far as n
    seeds can show it and if their results are roughly normal. What it does not cover: other data.
    All seeds share one table and one split, so another year, another sample or another split may
    fall outside; and it is the interval of one method, not corrected for having looked at many.

    Args:
        values: one value per seed, in percent or any other unit.
        level: confidence level between 0 and 1.

    Returns:
        `{"mean", "low", "high", "seeds"}`. One value alone has no spread: low and high are None.
        A missing value (None) makes all three None; dropping it would flatter the method.
    """
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, not {level}.")
    seeds = [None if v is None or not math.isfinite(v) else float(v) for v in values]
    known = [v for v in seeds if v is not None]
    if not known or len(known) < len(seeds):
        return {"mean": None, "low": None, "high": None, "seeds": seeds}
    mean = statistics.fmean(known)
    if len(known) == 1:
        return {"mean": mean, "low": None, "high": None, "seeds": seeds}
    from scipy.special import stdtrit  # Student's t quantile; lighter than scipy.stats

    quantile = float(stdtrit(len(known) - 1, (1 + level) / 2))
    half = quantile * statistics.stdev(known) / math.sqrt(len(known))
    return {"mean": mean, "low": mean - half, "high": mean + half, "seeds": seeds}


class Report:
    """One finished comparison.

    Attributes:
        data: the whole report as plain JSON values; what is missing or not finite is None.
    """

    def __init__(self, data: Mapping[str, Any]) -> None:
        """Wrap `data`; arrays and NumPy scalars become lists and numbers.

        Raises:
            ValueError: the data is of a newer format or lacks a section.
        """
        _check(data, "The report")
        self.data: dict[str, Any] = _plain(data)

    @classmethod
    def from_json(cls, path: str | os.PathLike[str]) -> Self:
        """Read a report; a broken file or one of a newer format is refused with one sentence."""
        try:
            data = json.loads(Path(path).read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{path} is not a whole JSON file: {error}.") from None
        _check(data, os.fspath(path))
        return cls(data)

    def to_json(self, path: str | os.PathLike[str]) -> None:
        """Write the report; readers see the old file or the new one, never half of one."""
        text = json.dumps(self.data, indent=1, ensure_ascii=False, allow_nan=False)
        _write(Path(path), text + "\n")

    def to_html(self, path: str | os.PathLike[str]) -> None:
        """Write one HTML file that holds everything it needs and opens without a network."""
        from polytask.comparing import render

        _write(Path(path), render.page(self.data))

    def print(self, console: Console | None = None) -> None:
        """Print the verdict, the methods and the tasks as tables of at most 100 columns."""
        from polytask.comparing import terminal

        terminal.show(self.data, console)

    def _repr_html_(self) -> str:
        """The page in a frame of its own, so that its style and the notebook's stay apart."""
        from html import escape

        from polytask.comparing import render

        return (
            f'<iframe srcdoc="{escape(render.page(self.data))}" title="polytask report" '
            'style="width:100%;height:80vh;border:0"></iframe>'
        )

    def __repr__(self) -> str:
        return f"Report({self.data['suite']['name']!r}: {self.data['verdict']['sentence']})"


def _check(data: Any, source: str) -> None:
    version = data.get("format") if isinstance(data, Mapping) else None
    if not isinstance(version, int):
        raise ValueError(f'{source} is not a polytask report: it has no "format" number.')
    if version > FORMAT:
        raise ValueError(
            f"{source} has format {version}, but this polytask reads up to {FORMAT}: upgrade it."
        )
    if missing := [section for section in SECTIONS if not data.get(section)]:
        raise ValueError(f"{source} is not a whole polytask report: {missing[0]!r} is missing.")


def _plain(value: Any) -> Any:
    """`value` in plain JSON types; JSON has no NaN or infinity, so they become None."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if hasattr(value, "tolist"):  # NumPy arrays and scalars, tensors
        return _plain(value.tolist())
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _write(path: Path, text: str) -> None:
    """Write beside `path` and rename; an error leaves the old file as it was."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with draft.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except OSError as error:
        raise OSError(
            error.errno, f"Cannot write the report: {error.strerror}", str(path)
        ) from None
    finally:
        with suppress(OSError):
            draft.unlink(missing_ok=True)
