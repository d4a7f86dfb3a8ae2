"""How every benchmark measures: contestants take turns in the same minutes, and the median counts."""

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cnnjax.strict_json import encode

RESULTS = Path(__file__).parent / "results"


def alternate(contestants: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, dict[str, float]]:
    """Lets every contestant run once per round, in turn.

    Args:
      contestants: name -> a function that does the work once and returns its cost (seconds, or rates).
      rounds: how often.

    Returns:
      name -> median, least and greatest of what was returned.
    """
    measured: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, run in contestants.items():
            measured[name].append(run())
    return {
        name: {"median": statistics.median(values), "min": min(values), "max": max(values)}
        for name, values in measured.items()
    }


def on_one_core(
    work: Callable[..., Any], arguments: tuple[Any, ...], repeats: int = 3, long: float = 1000
) -> tuple[float, Callable[[], float]]:
    """Compiles a function for ``alternate``.

    Args:
      work: of arrays, to be jitted.
      arguments: its arrays.
      repeats: calls of one measurement; one alone where a call takes more than ``long`` milliseconds.

    Returns:
      The seconds of the processor that compiling took, and a function that returns the milliseconds of one call.
    """
    import jax

    started = time.process_time()
    compiled = jax.jit(work).lower(*arguments).compile()
    compiling = time.process_time() - started

    def measure(times: int) -> float:
        started = time.process_time()
        for _ in range(times):
            jax.block_until_ready(compiled(*arguments))
        return 1e3 * (time.process_time() - started) / times

    if measure(1) > long:
        return compiling, lambda: measure(1)
    # Once unmeasured, for memory that another contestant gave back is fetched again.
    return compiling, lambda: measure(1) and measure(repeats)


def with_gradients(forward: Callable[..., Any]) -> Callable[..., Any]:
    """The function, and the gradients of all its arguments from a gradient of its output that equals the output."""
    import jax

    def both(*arguments: Any) -> Any:
        out, pull = jax.vjp(forward, *arguments)
        return out, *pull(out)

    return both


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    import jax

    names = [line.split(":", 1)[1].strip() for line in _cpuinfo() if line.startswith("model name")]
    return {
        "processor": names[0] if names else platform.processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "device": jax.devices()[0].device_kind,
        "python": platform.python_version(),
        "jax": jax.__version__,
    }


def record(name: str, question: str, command: str, ran_on: Mapping[str, Any], results: Any) -> Path:
    """Writes ``results/NAME.json`` and prints it."""
    content = {"question": question, "command": command, "ran_on": ran_on, "results": results}
    text = encode(content, indent=1)
    path = RESULTS / f"{name}.json"
    RESULTS.mkdir(exist_ok=True)
    path.write_text(text + "\n")
    print(text)
    return path


def _cpuinfo() -> list[str]:
    try:
        return Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return []
