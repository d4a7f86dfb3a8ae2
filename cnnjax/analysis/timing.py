"""What functions cost in time on the machine at hand, measured side by side."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import jax


def seconds_by_turn(functions: Mapping[str, Callable[[], Any]], turns: int) -> list[dict[str, float]]:
    """Calls every function once per turn, in order, so that slow minutes of the machine hit all alike.

    A first turn, in which they compile, is dropped.

    Args:
      functions: name -> without arguments, returning arrays.
      turns: at least 1.

    Returns:
      For each turn ``seconds_<name>`` of one call.
    """
    found = []
    for _ in range(turns + 1):
        turn = {}
        for name, function in functions.items():
            started = time.perf_counter()
            jax.block_until_ready(function())
            turn[f"seconds_{name}"] = time.perf_counter() - started
        found.append(turn)
    return found[1:]
