"""Checks of what the fields of a Spec and of many Hypers hold: type, range, and what float32 makes of a number."""

import dataclasses
import math
import operator
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, get_args, get_origin, get_type_hints

import numpy as np

from cnnjax.typing import UsageError, unknown

LARGEST = float(np.finfo(np.float32).max)
SMALLEST = float(np.finfo(np.float32).tiny)  # what lies nearer to 0 is kept in fewer digits, or as 0


def check_fields(config: Any) -> None:
    """Refuses a dataclass with a value that is not of its field's type or range.

    Raises:
      UsageError: naming the field, its value and the remedy.
    """
    hints = get_type_hints(type(config))
    for field in dataclasses.fields(config):
        _check_field(field, getattr(config, field.name), hints[field.name])


def check_finite(values: Mapping[str, Any]) -> None:
    """Refuses a value by name that is, or holds, a number that is not finite.

    Raises:
      UsageError: naming it.
    """
    for name, value in values.items():
        for item in value if isinstance(value, tuple) else (value,):
            if isinstance(item, float) and not math.isfinite(item):
                raise UsageError(f"{name}={value} must be finite.")


def check_numbers(configs: Sequence[Any]) -> None:
    """Refuses dataclasses of numbers, all of one type, that programs cannot hold as they are written.

    Programs compute in float32. What is too large for it would be infinite, what is too small 0, and numbers that it
    does not tell apart would be two conditions with the same weights.

    Raises:
      UsageError: naming the field, its values and the remedy.
    """
    for field in dataclasses.fields(configs[0]) if configs else ():
        column = map(operator.attrgetter(field.name), configs)
        distinct = list({id(value): value for value in column}.values())  # what many runs share is one object
        if not _are_in_order(field, distinct):
            for value in distinct:
                _check_field(field, value, type(field.default))
                _check_float32(field.name, value)
            _check_apart(field.name, distinct)


def _are_in_order(field: dataclasses.Field, values: Sequence[Any]) -> bool:
    """Whether numbers are plainly in order: quick, where the other checks are exact and say what is wrong."""
    kinds = (int,) if isinstance(field.default, int) else (int, float)
    low, high = _range(field)
    if not all(type(value) in kinds and max(low, -LARGEST) <= value <= min(high, LARGEST) for value in values):
        return False
    exact, rounded = np.array(values, np.float64), np.array(values, np.float32)
    kept = (rounded == exact) if kinds == (int,) else (exact == 0) | (np.abs(rounded) >= SMALLEST)
    return bool(kept.all()) and len(set(rounded.tolist())) == len(set(values))


def _check_field(field: dataclasses.Field, value: Any, hint: Any) -> None:
    name = field.name
    if get_origin(hint) is Literal:
        if value not in get_args(hint):
            raise unknown(f"value of {name}", str(value), get_args(hint))
        return
    if isinstance(field.default, bool) or not isinstance(field.default, int | float):
        _check_type(name, value, hint)
        return
    whole = isinstance(field.default, int)
    if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
        raise UsageError(f"{name} must be a {'whole ' if whole else ''}number, not {value!r}.")
    low, high = _range(field)
    if not low <= value <= high:
        reach = f"at least {low}" if high == math.inf else f"from {low} to {high}"
        raise UsageError(f"{name}={value} is out of range: it must be {reach}.")
    check_finite({name: value})


def _range(field: dataclasses.Field) -> tuple[float, float]:
    low, high = field.metadata.get("low"), field.metadata.get("high")
    return -math.inf if low is None else low, math.inf if high is None else high


def _check_type(name: str, value: Any, hint: Any) -> None:
    """Refuses what is not of a field's type: a class, a union of classes or a tuple of one."""
    if get_origin(hint) is tuple:
        (item, *_) = get_args(hint)
        fits = isinstance(value, tuple) and all(isinstance(v, get_origin(item) or item) for v in value)
    else:
        fits = isinstance(value, hint)
    if not fits:
        shown = str(hint).replace("<class '", "").replace("'>", "")
        raise UsageError(f"{name}={value!r} is of the wrong type: it must be {shown}.")


def _check_float32(name: str, value: float) -> None:
    """Refuses a finite number that float32 cannot hold."""
    if abs(value) > LARGEST:
        raise UsageError(f"{name}={value} is more than float32 holds: use at most {LARGEST:.4g}.")
    if value != 0 and abs(value) < SMALLEST:
        raise UsageError(f"{name}={value} is less than float32 holds in full: use 0, or at least {SMALLEST:.4g}.")
    if isinstance(value, int) and int(np.float32(value)) != value:
        raise UsageError(f"{name}={value} is {int(np.float32(value))} in float32. Use that.")


def _check_apart(name: str, values: Iterable[float]) -> None:
    """Refuses different numbers that are one in float32."""
    seen: dict[float, float] = {}
    for value in values:
        other = seen.setdefault(float(np.float32(value)), value)
        if other != value:
            raise UsageError(
                f"{name}={other} and {name}={value} are one number in float32, in which programs compute: two "
                "conditions would have the same weights. Use one of them."
            )
