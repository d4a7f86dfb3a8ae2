"""A metric against the training step, one line per condition."""

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cnnjax.report import style
from cnnjax.report.excerpt import mean
from cnnjax.report.table import Condition, Row, check_metric, label, value_text, without

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

# An assignment's key, or a function of the assignment.
Facet = str | Callable[[Mapping[str, Any]], Any]
Selection = Callable[[Mapping[str, Any]], bool]


@dataclass(frozen=True)
class Curves:
    """A metric against the training step, one line per condition.

    Attributes:
      metric: a name found in the rows' histories.
      title: the figure's title; the metric if None.
      panels: what separates the panels, which share their y axis; one panel if None.
      hue: what the colour and the marker stand for; the condition if None. A number is ordered
        from dark to light.
      only: which assignments are drawn; all if None.
    """

    metric: str = "train_error"
    title: str | None = None
    panels: Facet | None = None
    hue: Facet | None = None
    only: Selection | None = None


@dataclass(frozen=True)
class _Line:
    """One condition of a ``Curves`` figure: where it goes and what it looks like."""

    condition: Condition
    panel: Any
    text: str
    look: dict[str, Any]


def draw(figure: "matplotlib.figure.Figure", spec: Curves, found: Sequence[Condition]) -> None:
    """Draws ``spec`` of these conditions on an empty figure."""
    histories = [entry for condition in found for row in condition.rows for entry in row["history"]]
    check_metric(spec.metric, histories)
    lines, legend_title = _lines(spec, found)
    names = list(dict.fromkeys(line.panel for line in lines))
    axes = dict(zip(names, style.panels(figure, len(names)), strict=True))
    for name, ax in axes.items():
        ax.set_xlabel("training step")
        if spec.panels is not None:
            prefix = f"{_name(spec.panels)} = " if _name(spec.panels) else ""
            ax.set_title(style.wrap(prefix + value_text(name), 40))
    for line in lines:
        _draw_mean(axes[line.panel], spec.metric, line)
    style.label_y(list(axes.values()), [spec.metric])
    for line in lines:
        _draw_diverged(axes[line.panel], spec.metric, line)
    style.legend(figure, {line.text: line.look for line in lines}, legend_title)


def _lines(spec: Curves, found: Sequence[Condition]) -> tuple[list[_Line], str]:
    """The lines and the legend's title.

    Lines of one hue share their colour. Those that panel and hue leave alike differ in shape, and
    then every line is named in full.
    """
    panels = [_facet(spec.panels, condition.assignment) for condition in found]
    rest = [without(condition.assignment, spec.panels) for condition in found]
    hues, hue_name = _hues(spec, found, rest)
    looks = style.hues(hues)
    places = list(zip(panels, hues, strict=True))
    if len(set(places)) == len(places):
        texts = [value_text(hue) for hue in hues]
        shapes: list[dict[str, Any]] = [{}] * len(places)  # the hue's own
    else:
        texts, hue_name = [label(values) for values in rest], ""
        shapes = [style.shape(places[:i].count(place)) for i, place in enumerate(places)]
    return [
        _Line(condition, panel, text, looks[hue] | shape)
        for condition, panel, hue, text, shape in zip(found, panels, hues, texts, shapes, strict=True)
    ], hue_name


def _hues(spec: Curves, found: Sequence[Condition], rest: Sequence[Mapping[str, Any]]) -> tuple[list[Any], str]:
    """The hue of each condition, and what it is called: by default, what the panels leave over."""
    if spec.hue is not None:
        return [_facet(spec.hue, condition.assignment) for condition in found], _name(spec.hue)
    keys = {key for values in rest for key in values}
    if len(keys) != 1:
        return [label(values) for values in rest], ""
    (key,) = keys
    return [_facet(key, values) for values in rest], key  # the value itself, so that numbers are ordered


def _draw_mean(ax: "matplotlib.axes.Axes", metric: str, line: _Line) -> None:
    by_step: dict[int, list[float]] = {}
    for row in line.condition.with_status("done"):
        for step, value in _history(row, metric):
            by_step.setdefault(step, []).append(value)
    steps = sorted(by_step)
    means, lows, highs = style.intervals([by_step[step] for step in steps])
    ax.plot(steps, means, markevery=max(1, len(steps) // 10), **line.look)
    ax.fill_between(steps, lows, highs, color=line.look["color"], **style.BAND)


def _draw_diverged(ax: "matplotlib.axes.Axes", metric: str, line: _Line) -> None:
    # The limits stay: a loss that runs off to infinity must not flatten all the others.
    low, high = ax.get_ylim()
    for row in line.condition.with_status("diverged"):
        points = [(step, value) for step, value in _history(row, metric) if math.isfinite(value)]
        if points:
            steps, values = zip(*points, strict=True)
            end = min(max(values[-1], low), high)
            ax.plot(steps, values, color=line.look["color"], linestyle=":", linewidth=1)
            ax.plot(steps[-1:], [end], color=line.look["color"], marker="x", markersize=8, clip_on=False)
    ax.set_ylim(low, high)


def _history(row: Row, metric: str) -> list[tuple[int, float]]:
    return [(entry["step"], entry[metric]) for entry in row["history"] if entry.get(metric) is not None]


def panel_of(spec: Curves, condition: Condition) -> Any:
    """What tells the panel of a condition from others."""
    return _facet(spec.panels, condition.assignment)


def last_value(spec: Curves, condition: Condition) -> float:
    """Mean over the runs that are done of the last value of the metric; nan where there is none."""
    histories = [_history(row, spec.metric) for row in condition.with_status("done")]
    return mean([history[-1][1] for history in histories if history])


def _facet(facet: Facet | None, assignment: Mapping[str, Any]) -> Any:
    if facet is None:
        return None
    value = assignment.get(facet) if isinstance(facet, str) else facet(assignment)
    return value if isinstance(value, Hashable) else value_text(value)


def _name(facet: Facet) -> str:
    """The key, or the name of the function; a lambda has none."""
    return facet if isinstance(facet, str) else facet.__name__.replace("<lambda>", "")
