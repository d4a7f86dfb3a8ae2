"""What is shown of a sweep too large to show whole, and what is said beside it; results.csv has every run."""

import math
from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from cnnjax.report.table import Condition

# The most that is shown whole, and how many are shown of more.
FIGURE_CONDITIONS, SOME_CONDITIONS = 80, 40  # lines, or rows of dots
PANELS, SOME_PANELS = 12, 6
PANEL_NUMBERS = 40  # values of a swept number
TABLE_CONDITIONS = 400
TERMINAL_CONDITIONS = 100
LISTED_RUNS = 200

Thing = TypeVar("Thing")


def evenly(things: Sequence[Thing], count: int) -> list[Thing]:
    """``count`` of the things at even distances, the first and the last among them; all where there are no more."""
    if len(things) <= count:
        return list(things)
    return [things[round(place * (len(things) - 1) / (count - 1))] for place in range(count)]


def by_value(found: Sequence["Condition"], value: Callable[["Condition"], float]) -> Sequence["Condition"]:
    """Of too many conditions some, at even distances from the lowest to the highest value, in their own order."""
    if len(found) <= FIGURE_CONDITIONS:
        return found
    numbers = [value(condition) for condition in found]
    ranked = sorted(range(len(found)), key=lambda place: (math.isnan(numbers[place]), numbers[place]))
    return [found[place] for place in sorted(evenly(ranked, SOME_CONDITIONS))]


def extremes(found: Sequence["Condition"], metric: str, count: int) -> tuple[Sequence["Condition"], str]:
    """The conditions with the lowest and the highest means of a metric, ``count`` in all, and what is left out."""
    if len(found) <= count:
        return found, ""
    values = [mean(condition.finals(metric)) for condition in found]
    ranked = sorted(range(len(found)), key=lambda place: (math.isnan(values[place]), values[place]))
    chosen = sorted([*ranked[: count // 2], *ranked[-(count - count // 2) :]])
    left_out = len(found) - len(chosen)
    return [found[place] for place in chosen], (
        f"{len(found):,} conditions: shown are those of the {count // 2} lowest and the {count - count // 2} highest "
        f"values of {metric.replace('_', ' ')}; {left_out:,} between them are left out."
    )


def panels(found: Sequence["Condition"], panel: Callable[["Condition"], Hashable]) -> Sequence["Condition"]:
    """The conditions of all panels; of too many panels those of some, at even distances in their order."""
    names = [panel(condition) for condition in found]
    distinct = list(dict.fromkeys(names))
    if len(distinct) <= PANELS:
        return found
    kept = set(evenly(distinct, SOME_PANELS))
    return [condition for condition, name in zip(found, names, strict=True) if name in kept]


def numbers(found: Sequence["Condition"], name: str) -> Sequence["Condition"]:
    """The conditions of at most ``PANEL_NUMBERS`` values of a swept number, at even distances in their order."""
    values = {condition.assignment.get(name) for condition in found}
    if len(values) <= PANEL_NUMBERS or not all(isinstance(value, int | float) for value in values):
        return found
    ordered: list[Any] = sorted(values, key=float)
    kept = set(evenly(ordered, PANEL_NUMBERS))
    return [condition for condition in found if condition.assignment[name] in kept]


def mean(values: Sequence[float]) -> float:
    """Of the values; nan where there are none, or one is not finite."""
    return sum(values) / len(values) if values and all(map(math.isfinite, values)) else math.nan
