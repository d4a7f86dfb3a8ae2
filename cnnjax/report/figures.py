"""Rows to figures: what happened during training, where it ended, and how it answers a swept number.

An experiment lists specs (``FIGURES = [Curves("train_error"), Finals(("test_error",))]``) and
``draw`` turns each into a matplotlib figure; a ``Drawing`` brings its own function. Every mean is over
the runs that are done and carries its 95 % interval; a run that diverged is drawn apart and counted in
the note below the figure. The bytes of a saved figure depend on the rows and the version of matplotlib
alone.
"""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cnnjax.process import write_atomically
from cnnjax.report import curves, excerpt, finals, style
from cnnjax.report.curves import Curves
from cnnjax.report.finals import Finals, Response
from cnnjax.report.table import Condition, Row, conditions, label, without, words
from cnnjax.typing import UsageError

if TYPE_CHECKING:
    import matplotlib.figure

__all__ = [
    "Curves", "Drawing", "FigureSpec", "Finals", "Response", "draw", "explanation", "name", "note", "save", "title",
]  # fmt: skip


@dataclass(frozen=True)
class Drawing:
    """A figure that only one experiment has, drawn by a function of its own.

    Attributes:
      name: part of the file's name: lower case, no spaces.
      title: the figure's title.
      draw: called with (figure, rows of the runs, measured rows); draws on the empty figure.
      explanation: how to read it, in a sentence or two.
      note: the line below it; says over how many seeds the means are by default.
    """

    name: str
    title: str
    draw: Callable[["matplotlib.figure.Figure", Sequence[Row], Sequence[Row]], None]
    explanation: str
    note: str | None = None


FigureSpec = Curves | Finals | Response | Drawing
PNG_DPI = 200  # 1,800 px wide: for dense screens and print


def draw(spec: FigureSpec, rows: Sequence[Row], measured: Sequence[Row] = ()) -> "matplotlib.figure.Figure":
    """Draws one figure of these rows, without pyplot and whatever the user's matplotlibrc says.

    Args:
      spec: what to draw.
      rows: of the runs.
      measured: what was found without training; only a ``Drawing`` reads it.

    Raises:
      UsageError: there are no rows, the metric is in no history, or ``Response.x`` is not a
        swept number >= 0.
    """
    from matplotlib.figure import Figure

    if not rows:
        raise UsageError(f"There is no finished run to draw {title(spec)!r} of. Run the experiment first.")
    rows = _selected(spec, rows)
    every = conditions(rows)
    found = _shown(spec, every)
    with style.settings():
        figure = Figure(layout="constrained")
        figure.suptitle(style.wrap(title(spec), 80), x=0.01, ha="left", fontsize=13, fontweight="bold")
        match spec:
            case Curves():
                curves.draw(figure, spec, found)
            case Finals():
                finals.draw_finals(figure, spec, found)
            case Response():
                finals.draw_response(figure, spec, found)
            case Drawing():
                spec.draw(figure, rows, measured)
        style.foot(figure, _note(spec, rows, every, found))
    return figure


def name(spec: FigureSpec) -> str:
    """What the figure's file is called, after its number."""
    return spec.name if isinstance(spec, Drawing) else type(spec).__name__.lower()


def _selected(spec: FigureSpec, rows: Sequence[Row]) -> Sequence[Row]:
    """The rows that the figure is of."""
    if isinstance(spec, Drawing) or spec.only is None:
        return rows
    return [row for row in rows if spec.only(row["assignment"])]


def _shown(spec: FigureSpec, found: Sequence[Condition]) -> Sequence[Condition]:
    """The conditions that are drawn: all, unless they are too many to see."""
    match spec:
        case Curves():
            kept = excerpt.panels(found, lambda condition: curves.panel_of(spec, condition))
            return excerpt.by_value(kept, lambda each: curves.last_value(spec, each))
        case Finals():
            metric = spec.metrics[0]
            return excerpt.by_value(found, lambda each: excerpt.mean(each.finals(metric)))
        case Response():
            kept = excerpt.panels(found, lambda condition: label(without(condition.assignment, spec.x)))
            return excerpt.numbers(kept, spec.x)
    return found


def save(figure: "matplotlib.figure.Figure", stem: str | Path) -> tuple[Path, Path]:
    """Writes ``<stem>.png`` and ``<stem>.svg``, without a date: the same figure gives the same bytes."""
    png, svg = Path(f"{stem}.png"), Path(f"{stem}.svg")
    _save(figure, png, {"Software": None})
    _save(figure, svg, {"Date": None, "Creator": None})
    return png, svg


def _save(figure: "matplotlib.figure.Figure", path: Path, metadata: dict[str, None]) -> None:
    content = io.BytesIO()
    with style.settings():
        figure.savefig(content, format=path.suffix[1:], dpi=PNG_DPI, metadata=metadata)
    write_atomically(path, content.getvalue())


def title(spec: FigureSpec) -> str:
    """The title that the spec gives, or one made of its metrics."""
    if spec.title is not None:
        return spec.title
    if isinstance(spec, Curves):
        return f"{words(spec.metric).capitalize()} during training"
    metrics = ", ".join(map(words, spec.metrics)).capitalize()
    return f"{metrics} against {spec.x}" if isinstance(spec, Response) else f"{metrics} at the last step"


def note(spec: FigureSpec, rows: Sequence[Row]) -> str:
    """The line below the figure: what is averaged, and how many runs are not."""
    rows = _selected(spec, rows)
    every = conditions(rows)
    return _note(spec, rows, every, _shown(spec, every))


def _note(spec: FigureSpec, rows: Sequence[Row], every: Sequence[Condition], shown: Sequence[Condition]) -> str:
    """The note, from the rows that are selected, all their conditions, and those of them that are drawn."""
    if isinstance(spec, Drawing) and spec.note is not None:
        return spec.note
    seeds = sorted({len(condition.with_status("done")) for condition in every})
    if seeds[-1] == 0:
        text = "No run is done"
    elif seeds[-1] == 1:
        text = "One seed per condition, so no intervals"
    else:
        text = f"Mean and 95 % interval over {'–'.join(map(str, dict.fromkeys((seeds[0], seeds[-1]))))} seeds"
    diverged = sum(row["status"] == "diverged" for row in rows)
    failed = sum(row["status"] == "failed" for row in rows)
    if diverged:
        drawn = {Curves: " (dotted, up to the ×)", Response: " (× at the top)"}.get(type(spec), "")
        text += f"; {diverged} of {len(rows)} runs diverged{drawn}"
    if failed:
        text += f"; {failed} of {len(rows)} runs failed"
    if len(shown) < len(every):
        text += f"; {len(shown)} of {len(every):,} conditions are drawn, evenly chosen; results.csv has all"
    return text + "."


def explanation(spec: FigureSpec) -> str:
    """How to read the figure, for someone who sees one of its kind for the first time."""
    match spec:
        case Drawing():
            return spec.explanation
        case Curves():
            return (
                f"Each line is the {words(spec.metric)} of one condition as training proceeds, averaged over "
                "seeds; the band is the 95 % interval of that mean."
            )
        case Finals():
            return (
                "Large dots are means over seeds at the last training step, bars their 95 % intervals, "
                "small grey dots single seeds."
            )
        case Response():
            return (
                f"Final metrics for each value of {spec.x}, on a logarithmic axis with 0 (off) apart at the "
                "left. Lines are means over seeds, bands and bars their 95 % intervals, faint dots single "
                "seeds."
            )
