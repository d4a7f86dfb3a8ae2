"""The presets of experiments, by rank, and which directory each has."""

import json
import os
from pathlib import Path

PRESETS = ("smoke", "quick", "paper")  # the later, the more its evidence counts


def directory_of(workdir: Path, experiment: str, preset: str) -> Path:
    """Where an experiment keeps its results: ``WORKDIR/<experiment>``, or its preset's own place beside it.

    Presets do not mix. So where another preset has taken ``<experiment>``, such as a smoke run before the main command,
    this one has ``<experiment>-<preset>``, and keeps it.
    """
    usual, own = workdir / experiment, workdir / f"{experiment}-{preset}"
    return own if os.path.exists(own) or preset_in(usual) not in (None, preset) else usual


def preset_in(directory: Path) -> str | None:
    """The preset of the results in a directory; None where there are none, or none that can be read."""
    try:
        preset = json.loads((directory / "manifest.json").read_text())["preset"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return preset if preset in PRESETS else None


def rank(preset: object) -> int:
    """The more, the more its evidence counts; -1 of what is no preset."""
    return PRESETS.index(str(preset)) if preset in PRESETS else -1
