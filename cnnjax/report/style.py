"""How figures look: sizes, colours, the grid of panels, the legend and the note below.

Colours are those of Okabe and Ito (2008), chosen to survive colour blindness, or viridis where the
hue is a number; markers and line styles repeat what the colour says.
"""

import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import numpy as np

from cnnjax.report.table import heading, summary, unit, value_text

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

WIDTH = 9.0  # inches: 900 px at 100 dots per inch
COLUMNS = 3  # panels side by side
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "os^DvPX*"
LINES = ("-", "--", "-.", ":")
FAINT = "#767676"
BAND: dict[str, Any] = {"alpha": 0.12, "linewidth": 0}

SETTINGS = {
    "font.size": 11,
    "axes.titlesize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "axes.axisbelow": True,
    "lines.linewidth": 1.8,
    "lines.markersize": 5.5,
    "legend.frameon": False,
    "text.parse_math": False,  # a "$" in a name is a dollar
    "svg.hashsalt": "cnnjax",  # without it, the ids of an SVG file are random
    "svg.fonttype": "path",
}


def settings() -> AbstractContextManager[None]:
    """The settings of every figure, whatever the user's matplotlibrc says."""
    import matplotlib.style

    return matplotlib.style.context(["default", SETTINGS])


def panels(figure: "matplotlib.figure.Figure", count: int) -> list["matplotlib.axes.Axes"]:
    """``count`` panels with a shared y axis, at most ``COLUMNS`` to a row."""
    columns = min(count, COLUMNS)
    lines = -(-count // columns)
    resize(figure, 0.6 + 3.2 * lines)
    axes = list(figure.subplots(lines, columns, sharey=True, squeeze=False).flat)
    for unused in axes[count:]:
        unused.remove()
    return axes[:count]


def hues(values: Iterable[Any]) -> dict[Any, dict[str, Any]]:
    """Colour, marker and line style of each distinct value; numbers are ordered from dark to light."""
    import matplotlib

    distinct = list(dict.fromkeys(values))
    colours: Sequence[Any] = COLOURS
    if len(distinct) > 1 and all(isinstance(v, int | float) and not isinstance(v, bool) for v in distinct):
        distinct.sort()
        # Short of viridis' yellow end, which fades on white.
        colours = list(matplotlib.colormaps["viridis"](np.linspace(0, 0.8, len(distinct))))
    return {value: {"color": colours[i % len(colours)], **shape(i)} for i, value in enumerate(distinct)}


def shape(place: int) -> dict[str, Any]:
    """Marker and line style of the ``place``-th of several lines."""
    return {"marker": MARKERS[place % len(MARKERS)], "linestyle": LINES[place % len(LINES)]}


def wrap(text: str, width: int) -> str:
    """``text`` broken into lines of at most ``width`` characters."""
    return textwrap.fill(text, width)


def legend(figure: "matplotlib.figure.Figure", styles: Mapping[str, Mapping[str, Any]], title: str) -> None:
    """One entry per text, in as many columns as fit; ``foot`` puts it in its place."""
    from matplotlib.lines import Line2D

    if len(styles) < 2:
        return
    texts = [wrap(text, 60) for text in styles]
    longest = max(len(line) for text in texts for line in text.splitlines())
    handles = [Line2D([], [], label=text, **style) for text, style in zip(texts, styles.values(), strict=True)]
    columns = max(1, min(len(styles), 100 // (longest + 8)))
    figure.legend(handles=handles, loc="lower center", ncols=columns, title=title or None)


def resize(figure: "matplotlib.figure.Figure", height: float) -> None:
    """Makes the figure ``height`` inches high."""
    figure.set_size_inches(WIDTH, height)


def foot(figure: "matplotlib.figure.Figure", note: str) -> None:
    """Makes room below the panels for the legend and, below that, the note."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    note = wrap(note, 120)
    note_height = 0.06 + 0.17 * (note.count("\n") + 1)
    renderer = FigureCanvasAgg(figure).get_renderer()
    legend_height = sum(0.06 + each.get_window_extent(renderer).height / figure.dpi for each in figure.legends)
    resize(figure, figure.get_figheight() + note_height + legend_height)
    total = figure.get_figheight()
    figure.text(0.01, 0.05 / total, note, fontsize=9, color="#555555", va="bottom", ha="left")
    for each in figure.legends:
        each.set_in_layout(False)
        each.set_bbox_to_anchor((0.5, note_height / total), transform=figure.transFigure)
    bottom = (note_height + legend_height) / total
    figure.set_layout_engine("constrained", rect=(0, bottom, 1, 1 - bottom))


def break_axis(ax: "matplotlib.axes.Axes", x: float, width: float) -> None:
    """Cuts a log x axis at ``x``, from ``x / width`` to ``x * width``, with the usual two slashes."""
    at_the_axis: dict[str, Any] = {"transform": ax.get_xaxis_transform(), "clip_on": False}
    cut = [x / width, x * width]
    slash = [(-0.5, -1), (0.5, 1)]
    ax.plot(cut, [0, 0], color="white", linewidth=3, **at_the_axis)
    ax.plot(cut, [0, 0], color="black", linestyle="", marker=slash, markersize=9, **at_the_axis)


def intervals(samples: Sequence[list[float]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean, low and high of each sample; nan, which matplotlib leaves out, where there is none."""
    found = [summary(values) for values in samples]
    columns = [(each.mean, each.low, each.high) if each else (math.nan,) * 3 for each in found]
    means, lows, highs = np.array(columns).reshape(-1, 3).T
    return means, lows, highs


def dots(
    ax: "matplotlib.axes.Axes",
    place: float,
    values: list[float],
    colour: str,
    limits: tuple[float, float] = (0, 1),
) -> None:
    """In a row at ``place`` of the y axis: a mean with its interval, and below it a faint dot for each value.

    The interval is cut at ``limits``, by default those of a fraction.
    """
    if values:
        ax.plot(values, place + np.linspace(0.18, 0.34, len(values)), "o", color=FAINT, alpha=0.5, markersize=3.5)
        mean, low, high = np.clip(intervals([values]), *limits)
        ax.errorbar(mean, [place], xerr=[mean - low, high - mean], fmt="o", color=colour, capsize=3.5)


def name_rows(ax: "matplotlib.axes.Axes", names: Sequence[str], label: str) -> None:
    """Rows from above to below at 0, 1, ... of the y axis, such as those of ``dots``, and the x axis's label."""
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(len(names) - 0.4, -0.6)
    ax.set_xlabel(label)
    ax.grid(visible=False, axis="y")


def differences(ax: "matplotlib.axes.Axes", values: Sequence[float], margin: float, label: str) -> None:
    """Paired differences as faint dots, their mean with its interval above them, and the margin as a band."""
    ax.axvspan(-margin, margin, color=COLOURS[2], **BAND)
    ax.plot(values, np.linspace(0.2, 0.6, len(values)), "o", color=FAINT, alpha=0.6, markersize=4)
    mean, low, high = intervals([list(values)])
    ax.errorbar(mean, [0], xerr=[mean - low, high - mean], fmt="D", color=COLOURS[1], capsize=4)
    ax.set_ylim(0.9, -0.4)
    ax.set_yticks([])
    ax.set_xlabel(label)
    ax.grid(visible=False, axis="y")


def mean_line(
    ax: "matplotlib.axes.Axes", samples: Mapping[Any, list[float]], look: Mapping[str, Any], **options: Any
) -> None:
    """The means of samples against their places, rising, and their 95 % intervals as a band.

    ``look`` is one of ``hues``; ``options`` are for the line alone.
    """
    places = sorted(samples)
    means, lows, highs = intervals([samples[place] for place in places])
    ax.plot(places, means, **look, **options)
    ax.fill_between(places, lows, highs, color=look["color"], **BAND)


def named_log_axis(ax: "matplotlib.axes.Axes", places: Sequence[float], label: str) -> None:
    """A logarithmic x axis on which just these places are named."""
    ax.set_xscale("log")
    ax.set_xticks(places, [f"{place:,}" if isinstance(place, int) else value_text(place) for place in places])
    ax.set_xticks([], minor=True)
    ax.set_xlabel(label)


def label_y(axes: Sequence["matplotlib.axes.Axes"], metrics: Sequence[str]) -> None:
    """Labels the first panel of each row; fractions stay in [0, 1] even where intervals leave it."""
    units = {unit(metric) for metric in metrics}
    text = heading(metrics[0]) if len(metrics) == 1 else f"final value ({', '.join(sorted(units))})"
    for ax in axes[::COLUMNS]:
        ax.set_ylabel(text)
    if units == {"fraction"}:
        low, high = axes[0].get_ylim()
        axes[0].set_ylim(max(low, -0.03), min(high, 1.03))
