"""Rows to tables: conditions, their summaries, the CSV file and the tables of the terminal.

A row is one finished run, as the store keeps it: a dict with ``assignment`` (the swept values),
``seed``, ``status`` (``done``, ``diverged`` or ``failed``), ``metrics`` and ``history``. A
*condition* is one distinct assignment; its runs differ by seed alone. Only runs that are done
enter a mean: a diverged or failed run is counted beside it, never averaged into it.
"""

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cnnjax import stats
from cnnjax.process import write_atomically
from cnnjax.report import excerpt
from cnnjax.strict_json import encode
from cnnjax.text import printable
from cnnjax.typing import UsageError, unknown

if TYPE_CHECKING:
    import rich.table

Row = Mapping[str, Any]

UNITS = {"error": "fraction", "accuracy": "fraction", "iou": "fraction", "loss": "mean per example"}
FORMULA = ("=", "+", "-", "@")  # what a spreadsheet takes for the start of one
VERDICT_STYLES = {"reproduced": ("✓", "green"), "refuted": ("✗", "red"), "inconclusive": ("?", "yellow")}


@dataclass(frozen=True)
class Condition:
    """The runs that share one assignment of the swept values, in the order of their seeds."""

    assignment: Mapping[str, Any]
    rows: tuple[Row, ...]

    @property
    def label(self) -> str:
        """The name a table or a legend gives it."""
        return label(self.assignment)

    def with_status(self, status: str) -> list[Row]:
        """The runs that ended as ``done``, ``diverged`` or ``failed``."""
        return [row for row in self.rows if row["status"] == status]

    def finals(self, metric: str) -> list[float]:
        """The final values of ``metric`` over the runs that are done, in the order of their seeds."""
        return [value for row in self.with_status("done") if (value := row["metrics"].get(metric)) is not None]


@dataclass(frozen=True)
class Record:
    """One line of the summary table; a metric that no finished run has is None."""

    label: str
    metrics: Mapping[str, stats.Summary | None]
    done: int
    diverged: int
    failed: int

    @property
    def runs(self) -> str:
        """How the runs ended, in words: ``4 done, 1 diverged``."""
        counts = {"done": self.done, "diverged": self.diverged, "failed": self.failed}
        return ", ".join(f"{count} {status}" for status, count in counts.items() if count or status == "done")


def conditions(rows: Iterable[Row]) -> list[Condition]:
    """Groups runs by what was swept, in the order in which the conditions first appear.

    Raises:
      UsageError: two runs of one condition have the same seed. They would count as two
        independent observations, as happens where rows of two execution signatures are mixed.
    """
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(encode(row["assignment"], sort_keys=True), []).append(row)
    for group in groups.values():
        _check_seeds(group)
    return [
        Condition(group[0]["assignment"], tuple(sorted(group, key=lambda row: row["seed"])))
        for group in groups.values()
    ]


def _check_seeds(group: Sequence[Row]) -> None:
    seen: dict[int, Row] = {}
    for row in group:
        first = seen.setdefault(row["seed"], row)
        if first is not row:
            digests = f"{first['signature_digest']} and {row['signature_digest']}"
            raise UsageError(
                f"Condition {label(row['assignment'])!r} has seed {row['seed']} twice: runs "
                f"{first['run_id']} and {row['run_id']}, of signatures {digests}. "
                "Keep the rows of one signature."
            )


def label(assignment: Mapping[str, Any]) -> str:
    """The name of an assignment: ``model=plain20, l2=0.0001``, or the value alone if it is the only one."""
    if len(assignment) == 1:
        return value_text(next(iter(assignment.values())))
    return ", ".join(f"{key}={value_text(value)}" for key, value in assignment.items()) or "all runs"


def without(assignment: Mapping[str, Any], key: Any) -> dict[str, Any]:
    """The assignment's other values."""
    return {name: value for name, value in assignment.items() if name != key}


def value_text(value: Any) -> str:
    """A swept value as people write it; distinct values never read the same."""
    if isinstance(value, float):
        short = f"{value:g}"
        return short if float(short) == value else repr(value)
    return value if isinstance(value, str) else encode(value)


def subject(found: Sequence[Condition]) -> str:
    """What the labels of these conditions are values of: the one swept name, or "condition"."""
    keys = {key for condition in found for key in condition.assignment}
    return keys.pop() if len(keys) == 1 else "condition"


def unit(metric: str) -> str:
    """The unit of a metric, by the last word of its name; empty if it has none."""
    return UNITS.get(metric.rsplit("_", 1)[-1], "")


def words(metric: str) -> str:
    """A metric's name in prose."""
    return metric.replace("_", " ")


def heading(metric: str) -> str:
    """A metric with its unit: ``train error (fraction)``."""
    return f"{words(metric)} ({unit(metric)})" if unit(metric) else words(metric)


def check_metric(metric: str, records: Iterable[Mapping[str, Any]]) -> None:
    """Raises a ``UsageError`` if there are records, but none with this metric."""
    names = {name for record in records for name in record}
    if names and metric not in names:
        raise unknown("metric", metric, names)


def check_finals(metric: str, found: Iterable[Condition]) -> None:
    """Raises a ``UsageError`` if some runs are done, but none of them has this metric."""
    check_metric(metric, [row["metrics"] for each in found for row in each.with_status("done")])


def summary_table(rows: Iterable[Row], metrics: Sequence[str]) -> list[Record]:
    """The summary of each metric over the finished runs of each condition.

    Raises:
      UsageError: no finished run has one of the metrics, though there are finished runs.
    """
    return records(conditions(rows), metrics)


def records(found: Sequence[Condition], metrics: Sequence[str]) -> list[Record]:
    """``summary_table`` of conditions."""
    for metric in metrics:
        check_finals(metric, found)
    return [
        Record(
            condition.label,
            {metric: summary(condition.finals(metric)) for metric in metrics},
            *(len(condition.with_status(status)) for status in ("done", "diverged", "failed")),
        )
        for condition in found
    ]


def summary(values: Sequence[float]) -> stats.Summary | None:
    """The values' summary: None without values, nan where one of them is not finite."""
    if not all(map(math.isfinite, values)):
        return stats.Summary(math.nan, math.nan, len(values), math.nan, math.nan)
    return stats.summarize(values) if values else None


def cell(metric: str, found: stats.Summary | None) -> str:
    """``0.123 ± 0.004 (5)``: mean, half-width of the 95 % interval, number of seeds.

    Fractions have three decimals; other metrics too, unless they are very large or very small.
    One seed has no interval and no half-width.
    """
    if found is None:
        return "–"
    in_decimals = unit(metric) == "fraction" or _has_three_decimals(found.mean)
    style = ".3f" if in_decimals else ".2e"
    half_width = (found.high - found.low) / 2
    spread = f" ± {half_width:{style}}" if math.isfinite(half_width) else ""
    return f"{found.mean:{style}}{spread} ({found.n})"


def _has_three_decimals(number: float) -> bool:
    """Whether three decimals suit the number, neither all zeros nor a tail behind five digits."""
    return number == 0 or 1e-3 <= abs(number) < 1e4


CELL_MEANING = "Cells: mean ± half-width of its 95 % interval (number of seeds), over the runs that are done."


def render(rows: Sequence[Row], metrics: Sequence[str]) -> "rich.table.Table":
    """The summary table for the terminal; of many conditions, the extremes."""
    from rich.table import Table
    from rich.text import Text

    found = conditions(rows)
    shown, note = excerpt.extremes(found, metrics[0], excerpt.TERMINAL_CONDITIONS) if metrics else (found, "")
    table = Table(caption=f"{CELL_MEANING} {note}".strip())
    table.add_column(Text(subject(found)), overflow="fold")
    for metric in metrics:
        table.add_column(Text(heading(metric)), justify="right")
    table.add_column("runs")
    for record in records(shown, metrics):
        cells = [cell(metric, record.metrics[metric]) for metric in metrics]
        # Text, not str: a label such as "kernel=[3]" is no markup.
        table.add_row(Text(record.label), *cells, record.runs)
    return table


def render_verdicts(verdicts: Iterable[Any]) -> "rich.table.Table":
    """The verdicts (``cnnjax.claims.Verdict``) for the terminal: word and sign beside the colour."""
    from rich.table import Table
    from rich.text import Text

    table = Table(show_lines=True)
    for name in ("verdict", "claim", "effect [95 % interval]", "seeds"):
        table.add_column(name)
    for verdict in verdicts:
        sign, colour = VERDICT_STYLES[verdict.verdict]
        table.add_row(
            Text(f"{sign} {verdict.verdict}", style=colour),
            Text(f"{verdict.statement} ({verdict.source})"),
            effect_text(verdict),
            seeds_text(verdict),
        )
    return table


def effect_text(verdict: Any) -> str:
    """``+0.213 [+0.101, +0.325] training error, fraction``; a dash where nothing was measured."""
    if not math.isfinite(verdict.effect):
        return "–"
    style = "+.3f" if _has_three_decimals(verdict.effect) else "+.2e"
    low, high = verdict.interval
    interval = f" [{low:{style}}, {high:{style}}]" if math.isfinite(low) else ""
    return f"{verdict.effect:{style}}{interval} {verdict.unit}".rstrip()


def seeds_text(verdict: Any) -> str:
    """``5``, or ``5, about 12 needed`` where the verdict is open and the number can be estimated."""
    if verdict.verdict == "inconclusive" and verdict.seeds_to_decide:
        return f"{verdict.n}, about {verdict.seeds_to_decide} needed"
    return str(verdict.n)


def write_results_csv(path: str | Path, rows: Iterable[Row]) -> None:
    """Writes one line per run, whatever its status.

    Lines are ordered by swept values and seed, and columns by name, so the bytes do not depend on
    the order in which the runs ended. Numbers are written in full (they read back to the same
    float); an absent value is empty.
    """
    rows = list(rows)
    swept = sorted({key for row in rows for key in row["assignment"]})
    metrics = sorted({key for row in rows for key in row["metrics"]})
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    tail = ["run_id", "signature_digest", "parameters_digest"]
    writer.writerow(map(csv_text, [*swept, "seed", "status", "diverged_step", *metrics, *tail]))
    for row in sorted(rows, key=lambda row: _position(row, swept)):
        values = [row["assignment"].get(key) for key in swept]
        values += [row["seed"], row["status"], row.get("diverged_step")]
        values += [row["metrics"].get(metric) for metric in metrics]
        values += [row.get(name) for name in tail]
        writer.writerow(map(csv_text, values))
    write_atomically(Path(path), file.getvalue())


def _position(row: Row, swept: Sequence[str]) -> list[tuple[bool, float, str]]:
    """A key that sorts numbers as numbers, before everything else."""
    values = [*(row["assignment"].get(key) for key in swept), row["seed"], row.get("run_id", "")]
    return [
        (False, float(value), "") if isinstance(value, int | float) else (True, 0.0, csv_text(value))
        for value in values
    ]


def csv_text(value: Any) -> str:
    """A value as results.csv has it: text on one line, everything else as JSON, nothing for None.

    Text that a spreadsheet would compute as a formula has an apostrophe before it, which makes it text there too.
    """
    if value is None:
        return ""
    if isinstance(value, str):
        text = printable(value)
        return f"'{text}" if text.startswith(FORMULA) else text
    return encode(value, sort_keys=True)
