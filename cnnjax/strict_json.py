"""JSON as the standard has it: numbers that are not finite become null, for ``NaN`` and ``Infinity`` are no JSON.

Python writes these two and reads them; most other readers refuse the whole file. All JSON of this project is written
here. What was written with them by others, or earlier, is still read by ``json.loads``.
"""

import functools
import json
import math
from collections.abc import Mapping
from typing import Any


def encode(value: Any, *, indent: int | None = None, sort_keys: bool = False) -> str:
    """The text of a JSON value; NaN and the infinities, of Python's floats, become null.

    Raises:
      TypeError: it holds something that JSON has not.
    """
    encoder = _encoder(indent, sort_keys)
    try:
        return encoder.encode(value)  # most values are finite, and a large sweep has millions of them
    except ValueError:
        return encoder.encode(finite(value))


def finite(value: Any) -> Any:
    """The same value with None for every float that is not finite, and lists for tuples."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def with_nan(numbers: Mapping[str, Any]) -> dict[str, Any]:
    """Numbers by name as they were before they became JSON, for claims and figures: NaN for null."""
    return {name: math.nan if value is None else value for name, value in numbers.items()}


@functools.cache  # ``json.dumps`` would make an encoder for each value
def _encoder(indent: int | None, sort_keys: bool) -> json.JSONEncoder:
    return json.JSONEncoder(indent=indent, sort_keys=sort_keys, allow_nan=False)
