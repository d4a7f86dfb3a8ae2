"""The ledger of claims: what every experiment asserts, and the newest verdict on it."""

import argparse
import importlib
import json
import pkgutil
from pathlib import Path
from types import ModuleType
from typing import Any


def main(argv: list[str], description: str) -> int:
    """Prints the ledger, as a table or as JSON, or the state of the lectures' rows; returns the exit code."""
    parser = argparse.ArgumentParser(
        "python -m experiments", description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--lectures", action="store_true", help="print how many rows of the lectures work")
    parser.add_argument("--workdir", default="runs", help="where experiments wrote their results")
    options = parser.parse_args(argv)
    if options.lectures:
        lectures = importlib.import_module("experiments.lectures")
        print(lectures.render(lectures.read()))
        return 0
    found = ledger(Path(options.workdir))
    if options.json:
        print(json.dumps(found, indent=1))
    else:
        _print(found)
    return 0


def experiments() -> dict[str, ModuleType]:
    """Every module of ``experiments`` that makes claims, by name."""
    package = importlib.import_module("experiments")
    names = sorted(module.name for module in pkgutil.iter_modules(package.__path__) if module.name != "__main__")
    modules = {name: importlib.import_module(f"experiments.{name}") for name in names}
    return {name: module for name, module in modules.items() if hasattr(module, "CLAIMS")}


def ledger(workdir: Path) -> list[dict[str, Any]]:
    """One entry in the form of ``verdict.json`` for each experiment.

    The verdicts are those in ``workdir``, else the committed ones in ``experiments/results``; claims without
    any have the verdict "not run".
    """
    entries = []
    for name, module in experiments().items():
        committed = Path(str(module.__file__)).parent / "results"
        for place in (workdir / name, committed / name):
            path = place / "verdict.json"
            if path.exists():
                entries.append({**json.loads(path.read_text()), "from": str(path)})
                break
        else:
            unknown = [
                {"id": c.id, "statement": c.statement, "source": c.source, "rule": c.rule, "verdict": "not run",
                 "effect": None, "interval": [None, None], "n": 0}
                for c in module.CLAIMS
            ]  # fmt: skip
            entries.append({"experiment": name, "preset": None, "claims": unknown, "from": None})
    return entries


def _print(entries: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("experiment", "claim", "source", "preset", "verdict", "effect [95 % interval]", "n", show_lines=True)
    for entry in entries:
        for claim in entry["claims"]:
            low, high = claim["interval"]
            effect = "" if claim["effect"] is None else f"{claim['effect']:+.3g}"
            interval = "" if low is None else f" [{low:+.3g}, {high:+.3g}]"
            table.add_row(
                entry["experiment"], claim["statement"], claim["source"], entry["preset"] or "", claim["verdict"],
                effect + interval, str(claim["n"]),
            )  # fmt: skip
    Console().print(table)
