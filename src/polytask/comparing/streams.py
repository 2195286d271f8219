"""What stream learners did, side by side: accuracy over the rows as a picture, sums as a table.

    Path("led.svg").write_text(picture([tree, forest]), "utf-8")
    print(table([tree, forest]))

Both take records of `polytask.training.prequential`. The picture is one SVG file that follows the
light or dark setting of whoever looks at it; known drifts are marked, as wide as they are.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from polytask.comparing.figures import INK, MUTED, SERIES, as_svg, canvas
from polytask.comparing.words import MISSING, count, number
from polytask.errors import InputError
from polytask.training.prequential import METRICS, Metric, Prequential

# The report's colours, and two more.
_COLORS = (*SERIES, "#090909", "#0b0b0b")
_LIGHT = ("#0a6a68", "#c0641f", "#6c5bb5", "#1b2026", "#b03060", "#4a7a1e")
_DARK = ("#63c7bf", "#ec9a5b", "#a99bea", "#e7e5df", "#f08bb0", "#a5d070")
_PAGE = {
    "ink": ("#1b2026", "#e7e5df"),
    "muted": ("#5c646d", "#9ea6ab"),
    "line": ("#d8d5ce", "#3a4248"),
}
_NAMES = {
    "accuracy": "accuracy",
    "kappa": "κ",
    "kappa_m": "κ against majority",
    "kappa_temporal": "κ against no change",
}


def picture(
    records: Sequence[Prequential],
    metric: Metric = "accuracy",
    *,
    size: tuple[int, int] = (720, 300),
    title: str = "",
) -> str:
    """A metric window by window, one line per record, as the text of an SVG file.

    Args:
        records: at most six, of one stream.
        metric: what is drawn.
        size: in CSS pixels.
        title: what a screen reader says; stream and metric by default.

    Raises:
        InputError: there is none or are too many records, or they are of several streams.
    """
    _check(records)
    if len(records) > len(_COLORS):
        raise InputError(
            f"a picture shows {len(_COLORS)} records at most, {len(records)} are given"
        )
    figure, axes = canvas(*size)
    for drift in records[0].drifts:
        left = drift.position - drift.width / 2
        axes.axvspan(left, left + drift.width, color=MUTED, alpha=0.2, linewidth=0)
        axes.axvline(drift.position, color=MUTED, linewidth=0.9, linestyle=(0, (3, 3)))
    for color, record in zip(_COLORS, records, strict=False):
        middle = record.ends - np.asarray(record.rows) / 2
        values = record.windowed(metric)
        axes.plot(middle, values, color=color, linewidth=1.5, label=record.model)
    axes.set_xlim(0, max(record.length for record in records))
    axes.xaxis.set_major_formatter(lambda value, _: count(value).replace(" ", "") if value else "0")
    if metric == "accuracy":
        axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:g} %")
    axes.set_xlabel("rows")
    axes.set_ylabel(_NAMES[metric], color=MUTED, fontsize=11)
    legend = figure.legend(
        loc="outside upper left", ncols=3, frameon=False, fontsize=11, labelcolor=INK,
        handlelength=1.4, columnspacing=1.6,
    )  # fmt: skip
    for text in legend.get_texts():
        text.set_parse_math(False)  # a name is a name, whatever signs are in it
    return _standing_alone(as_svg(figure, title or f"{_NAMES[metric]} on {records[0].stream}"))


def table(records: Sequence[Prequential]) -> str:
    """One row per record in Markdown, then what majority and no-change would have scored.

    Metrics are in percent. A memory with ``~`` is the growth of the process, not the model's own.

    Raises:
        InputError: there is no record, or they are of several streams.
    """
    _check(records)
    head = ["model", "accuracy", "κ", "κ_M", "κ_T", "rows per second", "memory"]
    body = [
        [
            record.model,
            *(_percent(getattr(record, metric)) for metric in METRICS),
            number(record.rows_per_second),
            f"{'~' * (record.memory_source == 'process')}{record.memory / 2**20:.1f} MB",
        ]
        for record in records
    ]
    first = records[0]
    for name, right in (("majority so far", first.majority), ("no change", first.no_change)):
        share = sum(right) / first.length
        body.append([name, _percent(share), *[MISSING] * 5])
    rows = [head, *body]
    wide = [max(len(row[i]) for row in rows) for i in range(len(head))]
    lines = [
        f"| {row[0]:<{wide[0]}} | "
        + " | ".join(f"{cell:>{w}}" for cell, w in zip(row[1:], wide[1:], strict=True))
        + " |"
        for row in rows
    ]
    rule = f"| {'-' * wide[0]} | " + " | ".join("-" * (w - 1) + ":" for w in wide[1:]) + " |"
    return "\n".join([lines[0], rule, *lines[1:]])


def _check(records: Sequence[Prequential]) -> None:
    if not records:
        raise InputError("there is no record to show")
    for record in records:
        if record.stream != records[0].stream:
            raise InputError(
                f"records of one stream are compared, not of {records[0].stream!r} and "
                f"{record.stream!r}"
            )
        if not record.rows:
            raise InputError(f"the record of {record.model!r} holds no row yet")


def _percent(value: float) -> str:
    return MISSING if np.isnan(value) else f"{100 * value:.2f}"


def _standing_alone(svg: str) -> str:
    """The drawing with the colours that a page would give it, for light and dark."""
    for i, color in enumerate(_COLORS):
        svg = svg.replace(color, f"var(--series-{i})")

    def colors(dark: bool) -> str:
        series = _DARK if dark else _LIGHT
        chosen = {name: pair[dark] for name, pair in _PAGE.items()}
        chosen |= {f"series-{i}": value for i, value in enumerate(series)}
        return "".join(f"--{name}:{value};" for name, value in chosen.items())

    style = (
        f"<style>svg{{{colors(False)}font-family:system-ui,sans-serif}}"
        f"@media(prefers-color-scheme:dark){{svg{{{colors(True)}}}}}</style>"
    )
    spaces = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    opened, rest = svg.split(">", 1)
    return f"{opened} {spaces}>{style}{rest}\n"
