"""How every benchmark measures: contestants take turns in the same minutes, and the median counts."""

import json
import os
import platform
import statistics
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

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
    text = json.dumps(content, indent=1)
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
