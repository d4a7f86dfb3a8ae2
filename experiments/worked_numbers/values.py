"""Values of worked numbers: how the lectures' matrices are written, compared and printed."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

BLANK = "_"  # an entry that the lecture leaves open
CLOSE = 1e-5  # relative to the largest entry: what is computed in float32. Whole numbers must be equal
COMMAS = 10_000  # from here on digits are grouped, and fractions dropped; years and small counts are below


@dataclass(frozen=True)
class About:
    """A number printed to a precision: any that rounds to it is the same.

    Attributes:
      value: the number.
      unit: of its last digit: 138 million is ``About(138e6, 1e6)``.
    """

    value: float
    unit: float


def matrix(text: str) -> np.ndarray:
    """``"1 0 -1; 2 _ -2"`` as float32 (rows, columns); blanks become NaN, which is the same as anything."""
    rows = [[math.nan if entry == BLANK else float(entry) for entry in row.split()] for row in text.split(";")]
    return np.array(rows, np.float32)


def same(given: Any, right: Any) -> bool:
    """Whether a value is the right one; ``given`` may leave out keys and entries that the lecture does not print."""
    if isinstance(given, About):
        return math.floor(right / given.unit + 0.5) == round(given.value / given.unit)
    if isinstance(given, Mapping):
        return isinstance(right, Mapping) and all(key in right and same(given[key], right[key]) for key in given)
    if isinstance(given, str | bool) or isinstance(right, str | bool):
        return bool(given == right)
    if isinstance(right, Mapping):
        return False
    a, b = np.asarray(given), np.asarray(right)
    if a.shape != b.shape:
        return False
    if a.dtype.kind == b.dtype.kind == "i":
        return bool((a == b).all())
    a, b = a.astype(np.float64), b.astype(np.float64)
    scale = float(np.abs(b).max(initial=0)) or 1.0
    return bool(np.all(np.isnan(a) | (np.abs(a - b) <= CLOSE * scale)))


def show(value: Any) -> str:
    """In one line: matrices as ``[0 2 0; 2 8 1; 0 1 0]``, several values by their names."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name}: {show(each)}" for name, each in value.items())
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, About):
        return f"about {show(value.value)}"
    if isinstance(value, str):
        return value
    array = np.asarray(value)
    if array.ndim == 0:
        return _number(float(array))
    rows = array if array.ndim == 2 else array.reshape(1, -1)
    return f"[{'; '.join(' '.join(map(_number, row)) for row in rows.tolist())}]"


def plain(value: Any) -> Any:
    """The value as JSON has it; blanks become null."""
    if isinstance(value, Mapping):
        return {name: plain(each) for name, each in value.items()}
    if isinstance(value, About):
        return {"about": plain(value.value), "unit": plain(value.unit)}
    if isinstance(value, str):
        return value
    return _plain_number(np.asarray(value).tolist())


def _plain_number(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain_number(each) for each in value]
    if isinstance(value, float):
        return None if math.isnan(value) else int(value) if value.is_integer() else value
    return value


def _number(value: float) -> str:
    if math.isnan(value):
        return BLANK
    if abs(value) >= COMMAS:
        return f"{round(value):,}"
    whole = abs(value - round(value)) <= CLOSE * abs(value)
    return str(round(value)) if whole else f"{value:.4g}"
