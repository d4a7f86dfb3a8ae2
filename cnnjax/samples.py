"""Samples for claims: from rows to one paired difference for each seed.

A run that diverged is never left out, which would flatter its arm. Where the metric has a value that such a run is
worth (an error: that of chance), it counts with it, and the verdict's note says so. Where it has none (a loss), its
value is nan, so is every difference made of it, and the claim is inconclusive.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from cnnjax import stats
from cnnjax.typing import UsageError, unknown

Row = Mapping[str, Any]


class BySeed(dict[int, float]):
    """A value for each seed, and what the rows say of them.

    Attributes:
      metric: that the values are of; empty where they are computed from it.
      step: of the metric in the rows; see ``stats.step``.
      counted: seeds of diverged runs that are counted with a value.
    """

    metric: str = ""
    step: float = 0.0
    counted: frozenset[int] = frozenset()


class Sample(list[float]):
    """One paired difference for each seed, as ``contrast`` makes them; nan where a run diverged and has no value.

    Attributes:
      step: of the metric; see ``stats.step``.
      counted: seeds in which a diverged run is counted with a value.
    """

    step: float = 0.0
    counted: frozenset[int] = frozenset()


def measured(assignment: Mapping[str, Any], seed: int, metrics: Mapping[str, float]) -> dict[str, Any]:
    """A row of what was found without training, in the form that ``by_seed`` and the figures read."""
    return {"assignment": dict(assignment), "seed": seed, "status": "done", "metrics": dict(metrics)}


def by_seed(rows: Iterable[Row], metric: str, where: Mapping[str, Any], diverged: float = math.nan) -> BySeed:
    """The metric of the one run of each seed that matches ``where``, in seed order.

    Failed runs are left out. Diverged ones are not, for that would flatter an arm that diverges: give the value that
    they are worth where there is one, such as the error of chance. Without one they are nan, which makes a claim
    inconclusive.

    Args:
      rows: ``{"assignment": {...}, "seed": int, "status": "done" | "diverged" | "failed",
        "metrics": {name: float}}``.
      metric: a name in ``metrics``.
      where: values that a row's assignment, or its ``seed``, must have.
      diverged: the value of a diverged run, in the metric's unit.

    Raises:
      UsageError: an unknown axis or metric, two runs of one seed that match, a finished run whose
        metric is not finite, or a ``diverged`` that is infinite.
    """
    if math.isinf(diverged):
        raise UsageError(f"diverged={diverged} must be a finite value, or nan where the metric has none.")
    rows = list(rows)
    axes = {"seed"}.union(*(row["assignment"] for row in rows))
    for axis in where:
        if rows and axis not in axes:
            raise unknown("axis", axis, axes)

    matching: dict[int, Row] = {}
    for row in rows:
        point = {**row["assignment"], "seed": row["seed"]}
        if any(axis not in point or point[axis] != value for axis, value in where.items()):
            continue
        if row["seed"] in matching:
            raise _ambiguous(where, matching[row["seed"]], row)
        matching[row["seed"]] = row

    values = BySeed()
    for seed, row in sorted(matching.items()):
        if row["status"] == "done":
            values[seed] = _metric(row, metric)
        elif row["status"] == "diverged":
            values[seed] = diverged
    if not math.isnan(diverged):
        values.counted = frozenset(seed for seed in values if matching[seed]["status"] == "diverged")
    done = [row["metrics"] for row in rows if row["status"] == "done"]
    values.metric = metric
    values.step = stats.step(found[metric] for found in done if metric in found)
    return values


def chance(rows: Iterable[Row]) -> float:
    """The error of guessing between equally frequent classes: what the error of a diverged run is worth.

    1 where no row says how many classes there are, which only rows of another hand do not.
    """
    return next((1 - 1 / row["classes"] for row in rows if row.get("classes")), 1.0)


def contrast(plus: Sequence[Mapping[int, float]], minus: Sequence[Mapping[int, float]]) -> Sample:
    """Sum of the ``plus`` terms less the ``minus`` terms, for each seed that all have, in seed order.

    Terms come from ``by_seed``. A result that is only floating-point residue of its terms is 0:
    0.1 + 0.5 - 0.2 - 0.4 would otherwise be an effect of -6e-17, significant for want of spread.
    """
    terms = [(1.0, term) for term in plus] + [(-1.0, term) for term in minus]
    seeds = sorted(set.intersection(*(set(term) for _, term in terms))) if terms else []
    sample = Sample()
    for seed in seeds:
        signed = [sign * term[seed] for sign, term in terms]
        residue = stats.ROUNDING * sum(abs(value) for value in signed)
        total = sum(signed)
        sample.append(0.0 if abs(total) <= residue else total)
    from_rows = [term for _, term in terms if isinstance(term, BySeed)]
    sample.counted = frozenset(seeds).intersection(frozenset().union(*(term.counted for term in from_rows)))
    if from_rows:  # the rows of a term alone may by chance show a multiple of the metric's step
        metrics = {term.metric for term in from_rows}
        sample.step = max(stats.step(t.step for t in from_rows if t.metric == metric) for metric in metrics)
    else:
        sample.step = stats.step(value for _, term in terms for value in term.values())
    return sample


def mapped(function: Callable[..., float], *values: Mapping[int, float]) -> BySeed:
    """The function of the values of each seed that all have; nan where one of them is. It need not keep the step."""
    found = BySeed()
    for seed in sorted(set.intersection(*map(set, values))):
        known = [each[seed] for each in values]
        found[seed] = math.nan if any(map(math.isnan, known)) else function(*known)
    found.counted = frozenset().union(*(each.counted for each in values if isinstance(each, BySeed)))
    return found


def paired(
    rows: Iterable[Row],
    metric: str,
    where_a: Mapping[str, Any],
    where_b: Mapping[str, Any],
    diverged: float = math.nan,
) -> Sample:
    """metric(a) - metric(b) for each seed that has both, in seed order; see ``by_seed``."""
    rows = list(rows)
    a, b = (by_seed(rows, metric, where, diverged) for where in (where_a, where_b))
    return contrast([a], [b])


def _metric(row: Row, metric: str) -> float:
    if metric not in row["metrics"]:
        raise unknown("metric", metric, row["metrics"])
    value = float(row["metrics"][metric])
    if not math.isfinite(value):
        raise UsageError(
            f"The finished run {row['assignment']} of seed {row['seed']} has {metric} = {value}; "
            "choose a metric that is finite there, or leave the run out of the rows."
        )
    return value


def _ambiguous(where: Mapping[str, Any], first: Row, second: Row) -> UsageError:
    a, b = first["assignment"], second["assignment"]
    differ = [axis for axis in sorted({*a, *b}) if axis not in a or axis not in b or a[axis] != b[axis]]
    remedy = (
        f"they differ in {', '.join(f'{axis} ({a.get(axis)!r}, {b.get(axis)!r})' for axis in differ)}; "
        "add that to the condition"
        if differ
        else "they have the same assignment; remove one of the rows"
    )
    return UsageError(f"Two runs of seed {first['seed']} match {dict(where)}: {remedy}.")
