"""What varies: a grid is a tuple of assignments, each a mapping of names to values.

A name is a field of ``Hyper`` ("weight_decay", traced), a field of ``Spec`` ("steps", static), or a
field of the model or the data ("model.width", "data.image_size").
"""

import itertools
from collections.abc import Iterable, Mapping
from typing import Any

from cnnjax.typing import UsageError

Assignment = Mapping[str, Any]
Grid = tuple[Assignment, ...]

NOTHING: Grid = ({},)  # one point at which nothing is assigned


def product(*grids: Grid, **axes: Iterable[Any]) -> Grid:
    """Every combination of the grids' assignments and of the axes' values; the last varies fastest.

    Names with a dot go in a grid of their own: ``product(axis("model.width", [4, 8]), l2=[0, 1e-4])``.

    Raises:
      UsageError: an axis without values, or a name assigned twice.
    """
    factors = [*grids, *(axis(name, values) for name, values in axes.items())]
    return tuple(_merge(combination) for combination in itertools.product(*factors))


def zipped(**axes: Iterable[Any]) -> Grid:
    """The first values of all axes together, then the second ones, and so on.

    Raises:
      UsageError: an axis without values, or axes of different lengths.
    """
    columns = {name: axis(name, values) for name, values in axes.items()}
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        raise UsageError(f"zipped axes must be equally long, not {lengths}. Use product for all combinations.")
    return tuple(_merge(row) for row in zip(*columns.values(), strict=True))


def explicit(*assignments: Assignment) -> Grid:
    """Just these points.

    Raises:
      UsageError: there are none.
    """
    if not assignments:
        raise UsageError("The grid is empty. Give at least one point.")
    return tuple(dict(assignment) for assignment in assignments)


def axis(name: str, values: Iterable[Any]) -> Grid:
    """One assignment for each value of one name.

    Raises:
      UsageError: there are no values, or one is given twice.
    """
    values = list(values)
    if not values:
        raise UsageError(f"The axis {name!r} has no values. Give at least one.")
    repeated = [value for index, value in enumerate(values) if value in values[:index]]
    if repeated:
        raise UsageError(f"The axis {name!r} holds {repeated[0]!r} twice. Name each value once.")
    return tuple({name: value} for value in values)


def _merge(assignments: Iterable[Assignment]) -> Assignment:
    merged: dict[str, Any] = {}
    for assignment in assignments:
        for name in assignment:
            if name in merged:
                raise UsageError(f"{name!r} is assigned twice in one grid. Assign it once.")
        merged.update(assignment)
    return merged
