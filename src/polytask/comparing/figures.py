"""Line and scatter plots of a report as inline SVG that takes its colours from the page's CSS.

matplotlib draws with placeholder colours; each becomes a CSS variable, so one drawing serves the
light and the dark page. Text stays text, and names given by a user stand in the HTML around it.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, NamedTuple

from polytask.comparing.words import MINUS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, MUTED, GRID, SURFACE = "#010101", "#020202", "#030303", "#040404"
SERIES = ("#050505", "#060606", "#070707", "#080808")  # chosen, reference and two more
VARIABLES = {INK: "ink", MUTED: "muted", GRID: "line", SURFACE: "surface"} | {
    color: f"series-{i}" for i, color in enumerate(SERIES)
}
DASHES = ("-", (0, (5, 3)), "-", (0, (1, 2)))


class Line(NamedTuple):
    """One curve with its band; `style` is an index into SERIES."""

    style: int
    epochs: Sequence[float]
    mean: Sequence[float | None]
    low: Sequence[float | None]
    high: Sequence[float | None]


class Point(NamedTuple):
    """One method in the plane of cost and gain; `number` is its number in the page's tables."""

    number: int
    seconds: float
    mean: float
    low: float | None
    high: float | None
    chosen: bool


def curves(lines: Sequence[Line], label: str) -> str:
    """Score over epochs for one task."""
    figure, axes = canvas(300, 186)
    for line in reversed(lines):  # the first line lies on top
        color = SERIES[line.style]
        if line.style < 2:  # more bands would hide each other
            low, high = _floats(line.low), _floats(line.high)
            axes.fill_between(line.epochs, low, high, color=color, alpha=0.14, linewidth=0)
        axes.plot(
            line.epochs, _floats(line.mean), color=color, linestyle=DASHES[line.style],
            linewidth=2.2 if line.style == 0 else 1.5,
        )  # fmt: skip
    axes.set_xlabel("epoch")
    return as_svg(figure, label)


def rate(epochs: Sequence[float], rates: Sequence[float | None], label: str) -> str:
    """Conflict rate over epochs, in percent."""
    figure, axes = canvas(300, 186)
    axes.plot(epochs, [100 * v for v in _floats(rates)], color=SERIES[0], linewidth=2.2)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("epoch")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g} %")
    return as_svg(figure, label)


def cost(
    points: Sequence[Point], size: tuple[int, int], bounds: tuple[float, float], label: str
) -> str:
    """Gain over training time; each point is the number of a method, the dashed line is 0.

    A mean outside `bounds` is drawn at the edge; `size` is in CSS pixels.
    """
    figure, axes = canvas(*size)
    low, high = bounds
    axes.axhline(0, color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
    for point in sorted(points, key=lambda p: p.chosen):
        y = min(max(point.mean, low), high)
        if point.low is not None and point.high is not None:
            axes.vlines(point.seconds, max(point.low, low), min(point.high, high),
                        color=SERIES[0] if point.chosen else MUTED, linewidth=1.1)  # fmt: skip
        axes.plot(point.seconds, y, "o", markersize=18 if point.chosen else 16,
                  markerfacecolor=SERIES[0] if point.chosen else SURFACE,
                  markeredgecolor=SERIES[0] if point.chosen else INK, clip_on=False)  # fmt: skip
        axes.annotate(str(point.number), (point.seconds, y), ha="center", va="center_baseline",
                      fontsize=10, color=SURFACE if point.chosen else INK)  # fmt: skip
    axes.set_xscale("log")
    axes.set_ylim(low, high)
    seconds = [point.seconds for point in points]
    axes.set_xlim(min(seconds) / 1.4, max(seconds) * 1.4)
    _time_ticks(axes)
    axes.set_xlabel("training time of one run, all tasks")
    axes.yaxis.set_major_formatter(
        lambda value, _: f"{value:+g} %".replace("-", MINUS) if value else "0"
    )
    return as_svg(figure, label)


def _time_ticks(axes: Axes) -> None:
    """Ticks at times people say; a narrow range falls back on plain numbers."""
    from matplotlib.ticker import FixedLocator, NullLocator

    named = {
        0.01: "10 ms", 0.03: "30 ms", 0.1: "0.1 s", 0.3: "0.3 s", 1: "1 s", 3: "3 s", 10: "10 s",
        30: "30 s", 60: "1 min", 180: "3 min", 600: "10 min", 1800: "30 min", 3600: "1 h",
        10800: "3 h", 36000: "10 h", 86400: "1 d",
    }  # fmt: skip
    left, right = axes.get_xlim()
    shown = {x: name for x, name in named.items() if left <= x <= right}
    if len(shown) < 2:
        ends = (left * 1.15, (left * right) ** 0.5, right / 1.15)
        shown = {x: f"{x:.3g} s" for x in ends}
    axes.xaxis.set_major_locator(FixedLocator(list(shown)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(lambda x, _: shown[min(shown, key=lambda s: abs(s - x))])


def canvas(width: int, height: int) -> tuple[Figure, Axes]:
    """A bare figure of the given CSS pixels (72 points an inch, so one point is one pixel)."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(width / 72, height / 72), layout="constrained")
    axes = figure.add_subplot()
    figure.patch.set_visible(False)
    axes.patch.set_visible(False)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(GRID)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, labelsize=11, labelcolor=MUTED)
    axes.xaxis.label.set(color=MUTED, fontsize=11)
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    return figure, axes


def _floats(values: Sequence[float | None]) -> list[float]:
    return [float("nan") if value is None else float(value) for value in values]


def as_svg(figure: Figure, label: str) -> str:
    """The drawing as one `<svg>` element without fonts and colours of its own."""
    import matplotlib

    buffer = io.StringIO()
    salt = f"{label} {figure.get_size_inches()}"  # ids differ between the drawings of a page
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": salt}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    box = re.search(r'viewBox="[^"]+"', svg)
    assert box, "matplotlib writes a viewBox"
    svg = svg[svg.index(">") + 1 :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    svg = re.sub(r" font-family: [^;\"]*;?| transform=\"rotate\(-0 [^\"]*\"", "", svg)
    svg = re.sub(r"(\d+\.\d)\d+(?=[ \"])", r"\1", svg)  # a tenth of a pixel is enough
    svg = re.sub(r"\s*\n\s*", " ", svg).replace("> <", "><").replace("<g/>", "")
    for color, variable in VARIABLES.items():
        svg = svg.replace(color, f"var(--{variable})")
    return f'<svg {box[0]} role="img" aria-label="{escape(label)}">{svg}'
