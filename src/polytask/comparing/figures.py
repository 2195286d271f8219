"""Line and scatter plots of a page as inline SVG that takes its colours from the page's CSS.

matplotlib draws with placeholder colours; each becomes a CSS variable, so one drawing serves the
light and the dark page. Text stays text, and names given by a user stand in the HTML around it.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

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


def scatter(
    across: Sequence[float], up: Sequence[float], names: tuple[str, str], label: str, *, equal: bool
) -> str:
    """Points with the line of equal values (on equal scales), or else with the line of zero."""
    figure, axes = canvas(300, 220)
    axes.plot(across, up, "o", markersize=4.6, color=SERIES[0], alpha=0.5, markeredgewidth=0)
    if equal:
        low, high = min(*across, *up), max(*across, *up)
        axes.plot((low, high), (low, high), color=INK, linewidth=1)
    else:
        axes.axhline(0, color=INK, linewidth=1)
    for axis, name in zip((axes.xaxis, axes.yaxis), names, strict=True):
        axis.set_label_text(name, parse_math=False)  # a unit may hold any sign
        axis.set_major_formatter(lambda value, _: f"{value:g}".replace("-", MINUS))
    return as_svg(figure, label)


def signal(
    channels: Sequence[NDArray],
    attention: Sequence[NDArray],
    label: str,
    width: int,
) -> str:
    """Channels over samples, one under the other; below them where a model looked.

    Args:
        channels: values of each channel.
        attention: non-negative curves over the samples from the first on, each drawn in parts of
            its largest value; the i-th has the colour and dashes of series i.
        label: what a screen reader says.
        width: in CSS pixels.
    """
    from matplotlib.figure import Figure

    rows = len(channels) + bool(attention)
    figure = Figure(figsize=(width / 72, (66 * rows + 26) / 72), layout="constrained")
    figure.patch.set_visible(False)
    panels = figure.subplots(rows, 1, sharex=True, squeeze=False)[:, 0]
    samples = len(channels[0])
    for i, (axes, values) in enumerate(zip(panels, channels, strict=False), 1):
        _bare(axes)
        axes.plot(*_envelope(values, width // 2), color=INK, linewidth=0.8)
        axes.set_ylabel(str(i) if len(channels) > 1 else "")
    for i, curve in enumerate(attention):
        axes, style = panels[-1], i % len(SERIES)
        _bare(axes)
        step = math.ceil(len(curve) / width)
        places = np.arange(0, len(curve), step)
        parts = curve[::step] / (curve.max() or 1)
        axes.fill_between(places, parts, color=SERIES[style], alpha=0.14, linewidth=0)
        axes.plot(places, parts, color=SERIES[style], linestyle=DASHES[style], linewidth=1.4)
        axes.set_ylim(0, 1.05)
        axes.set_yticks([])
        axes.set_ylabel("attention")
    panels[-1].set_xlim(0, samples)
    panels[-1].set_xlabel("sample")
    figure.align_ylabels(panels)
    return as_svg(figure, label)


def _envelope(values: NDArray, stretches: int) -> tuple[NDArray, NDArray]:
    """(places, values) of a curve; a long one by the lowest and highest value of each stretch."""
    curve = np.asarray(values, np.float64)
    if len(curve) <= 2 * stretches:
        return np.arange(len(curve)), curve
    starts = np.linspace(0, len(curve), stretches, endpoint=False).astype(int)
    low, high = np.minimum.reduceat(curve, starts), np.maximum.reduceat(curve, starts)
    return np.repeat(starts, 2), np.stack([low, high], 1).ravel()


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
    _bare(axes)
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    return figure, axes


def _bare(axes: Axes) -> None:
    """Nothing but what is drawn, a line below and a faint grid."""
    axes.patch.set_visible(False)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(GRID)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, labelsize=11, labelcolor=MUTED)
    for axis in (axes.xaxis, axes.yaxis):
        axis.label.set(color=MUTED, fontsize=11)


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
