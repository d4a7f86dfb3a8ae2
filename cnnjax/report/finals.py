"""Final metrics: of each condition, or as the response to a swept number."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from cnnjax.report import style
from cnnjax.report.curves import Selection
from cnnjax.report.table import Condition, check_finals, heading, label, subject, value_text, without, words
from cnnjax.typing import UsageError

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure


@dataclass(frozen=True)
class Finals:
    """Final metrics of each condition that ``only`` lets through: mean, 95 % interval, each seed a faint dot."""

    metrics: tuple[str, ...] = ("train_error", "test_error")
    title: str | None = None
    only: Selection | None = None


@dataclass(frozen=True)
class Response:
    """Final metrics against a swept number ``x``; other swept values make further panels, as far as ``only`` lets them.

    The axis is logarithmic. Zero means "off" and has no logarithm: it stands at the left, behind a
    break in the axis.
    """

    x: str
    metrics: tuple[str, ...] = ("train_error", "valid_error")
    title: str | None = None
    only: Selection | None = None


def draw_finals(figure: "matplotlib.figure.Figure", spec: Finals, found: Sequence[Condition]) -> None:
    """Draws ``spec`` of these conditions on an empty figure."""
    for metric in spec.metrics:
        check_finals(metric, found)
    names = [_name_with_count(condition) for condition in found]
    style.resize(figure, 1.1 + 0.19 * (len(names) + sum(name.count("\n") + 1 for name in names)))
    axes = figure.subplots(1, len(spec.metrics), sharey=True, squeeze=False)[0]
    for ax, metric in zip(axes, spec.metrics, strict=True):
        for place, condition in enumerate(found):
            _draw_final(ax, place, condition.finals(metric))
        ax.set_xlabel(heading(metric))
        ax.grid(visible=False, axis="y")
    axes[0].set_yticks(range(len(found)), names)
    axes[0].set_ylim(len(found) - 0.4, -0.6)  # the first condition on top
    axes[0].set_ylabel(subject(found))


def _draw_final(ax: "matplotlib.axes.Axes", place: int, values: list[float]) -> None:
    if values:
        # The seeds lie below their mean, spread in a fixed order so that equal values stay visible.
        below = place + np.linspace(0.18, 0.34, len(values))
        ax.plot(values, below, "o", color=style.FAINT, alpha=0.5, markersize=3.5)
        mean, low, high = style.intervals([values])
        ax.errorbar(mean, [place], xerr=[mean - low, high - mean], fmt="o", color=style.COLOURS[0], capsize=3.5)


def _name_with_count(condition: Condition) -> str:
    done, total = len(condition.with_status("done")), len(condition.rows)
    name = style.wrap(condition.label, 32)
    return name if done == total else f"{name}\n({done} of {total} done)"


def draw_response(figure: "matplotlib.figure.Figure", spec: Response, found: Sequence[Condition]) -> None:
    """Draws ``spec`` of these conditions on an empty figure."""
    for metric in spec.metrics:
        check_finals(metric, found)
    panels: dict[str, list[Condition]] = {}
    for condition in sorted(found, key=lambda condition: _swept_number(condition, spec.x)):
        panels.setdefault(label(without(condition.assignment, spec.x)), []).append(condition)
    places = _places([condition.assignment[spec.x] for condition in found])
    looks = style.hues(map(words, spec.metrics))
    axes = style.panels(figure, len(panels))
    for ax, (name, members) in zip(axes, panels.items(), strict=True):
        ax.set_xscale("log")
        ax.update_datalim([(place, 0) for place in places.values()], updatey=False)  # also where all runs diverged
        ax.set_title(style.wrap(name, 40) if len(panels) > 1 else "")
        for metric in spec.metrics:
            _draw_metric(ax, metric, spec.x, members, places, looks[words(metric)])
        _label_x(ax, spec.x, places, room=0.08 * min(len(panels), style.COLUMNS))
    style.label_y(axes, spec.metrics)
    _mark_diverged(dict(zip(axes, panels.values(), strict=True)), spec.x, places)
    style.legend(figure, looks, "")


def _swept_number(condition: Condition, x: str) -> float:
    value = condition.assignment.get(x)
    if not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise UsageError(
            f"Response(x={x!r}) needs a swept number >= 0, but {condition.label!r} has {x}={value!r}. "
            f"Swept here: {', '.join(condition.assignment) or 'nothing'}."
        )
    return value


def _places(numbers: Sequence[float]) -> dict[float, float]:
    """Where each number stands on the log axis; zero stands one step left of the smallest other."""
    positive = sorted({number for number in numbers if number > 0})
    smallest, largest = (positive[0], positive[-1]) if positive else (1.0, 1.0)
    step = (largest / smallest) ** (1 / (len(positive) - 1)) if len(positive) > 1 else 10.0
    zero = {0.0: smallest / step} if 0 in numbers else {}
    return zero | {number: float(number) for number in positive}


def _draw_metric(
    ax: "matplotlib.axes.Axes",
    metric: str,
    x: str,
    members: Sequence[Condition],
    places: Mapping[float, float],
    look: Mapping[str, Any],
) -> None:
    finals = {condition.assignment[x]: condition.finals(metric) for condition in members}
    for number, values in finals.items():
        ax.plot([places[number]] * len(values), values, "o", color=look["color"], alpha=0.3, markersize=3.5)
    positive = [number for number in finals if number > 0]
    means, lows, highs = style.intervals([finals[number] for number in positive])
    ax.plot(positive, means, **look)
    ax.fill_between(positive, lows, highs, color=look["color"], **style.BAND)
    if finals.get(0):  # no line crosses the break in the axis
        mean, low, high = style.intervals([finals[0]])
        ax.errorbar([places[0]], mean, yerr=[mean - low, high - mean], capsize=3.5, **look)


def _label_x(ax: "matplotlib.axes.Axes", x: str, places: Mapping[float, float], room: float) -> None:
    """A tick at each number, named where its name has ``room`` (part of the axis), and the break."""
    at = {number: math.log10(place) for number, place in places.items()}
    room *= max(at.values()) - min(at.values())
    named: list[float] = []
    for number in sorted(places, key=lambda number: number > 0 and at[number] % 1 != 0):  # 0.001 before 0.003
        if all(abs(at[number] - at[other]) >= room for other in named):
            named.append(number)
    ax.set_xticks([places[number] for number in named], [value_text(number) for number in named])
    ax.set_xticks(list(places.values()), [""] * len(places), minor=True)
    ax.set_xlabel(x)
    if 0 in places and len(places) > 1:
        first = min(number for number in places if number > 0)
        style.break_axis(ax, math.sqrt(places[0] * first), (first / places[0]) ** 0.05)


def _mark_diverged(
    panels: Mapping["matplotlib.axes.Axes", Sequence[Condition]], x: str, places: Mapping[float, float]
) -> None:
    counts = [
        (ax, places[condition.assignment[x]], len(condition.with_status("diverged")))
        for ax, members in panels.items()
        for condition in members
    ]
    if any(count for _, _, count in counts):
        low, high = counts[0][0].get_ylim()
        counts[0][0].set_ylim(low, high + 0.1 * (high - low))  # a free strip for the marks
    for ax, place, count in counts:
        if count:
            ax.text(place, 0.99, f"{count} ×", transform=ax.get_xaxis_transform(), ha="center", va="top")
