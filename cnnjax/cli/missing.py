"""Filling the ledger: which experiments lack a verdict, what they may cost, and running them."""

import argparse
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import jax

from cnnjax.cli import evidence, experiment
from cnnjax.cli.ending import NOBODY_READS
from cnnjax.cli.experiment import default_data
from cnnjax.cli.presets import directory_of
from cnnjax.cli.source import source_session, trained
from cnnjax.data.catalog import DataConfig, describe
from cnnjax.report import page
from cnnjax.report.gallery import NOT_RUN
from cnnjax.sweep import plan, points, rule
from cnnjax.sweep.bundle import threads_here
from cnnjax.sweep.execution import Execution
from cnnjax.sweep.session import Session
from cnnjax.text import printable_lines
from cnnjax.typing import UsageError

# Added to the forecast for each training program that a worker compiles: between the 3 s of a small net and
# the 10 s of a deep one on a core of a 2020s server.
COMPILE_SECONDS = 6.0


class Forecast(NamedTuple):
    """What an experiment lacks and may cost.

    Attributes:
      name: of the experiment.
      why: it is run; empty where its verdict stands.
      runs: to do.
      programs: to compile for them.
      seconds: that they may take, all workers together at work.
      measured: seconds that the finished runs took, summed over workers.
      refusal: why it cannot be run, or empty.
    """

    name: str
    why: str
    runs: int = 0
    programs: int = 0
    seconds: float = 0.0
    measured: float = 0.0
    refusal: str = ""


def fill(modules: Mapping[str, ModuleType], workdir: Path, options: argparse.Namespace) -> int:
    """Prints the forecast and runs what is missing; returns the exit code."""
    if options.data:
        describe(DataConfig(options.data))  # wrong for one experiment is wrong for all
    forecasts = sorted(
        (forecast(name, module, workdir, options) for name, module in modules.items()),
        key=lambda found: (found.seconds, found.name),
    )
    _print_forecasts(forecasts, options)
    due = [found.name for found in forecasts if found.why and not found.refusal]
    failed = [found.name for found in forecasts if found.refusal]
    for place, name in enumerate([] if options.plan else due, 1):
        print(f"\n[{place} of {len(due)}] {name}", flush=True)
        code = _run(modules[name], _arguments(options))
        if code in (130, NOBODY_READS):
            return code
        failed += [name] if code else []
    if failed:
        print(f"experiments: {'could not be run' if options.plan else 'failed'}: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def _run(module: ModuleType, argv: list[str]) -> int:
    """The exit code of an experiment; whatever it raises, the next one is to have its turn."""
    try:
        return experiment.main(module, argv)
    except Exception:
        traceback.print_exc()
        return 1


def _arguments(options: argparse.Namespace) -> list[str]:
    """The experiment's flags that say what was asked here."""
    given = {name: getattr(options, name) for name in ("workdir", "preset", "seeds", "data", "workers")}
    return [f"--{name}={value}" for name, value in given.items() if value is not None]


def forecast(name: str, module: ModuleType, workdir: Path, options: argparse.Namespace) -> Forecast:
    """What the experiment lacks in ``workdir`` and may cost; ``options`` are those of the command line."""
    directory = directory_of(workdir, name, options.preset or "quick")
    measured = _measured_seconds(directory)
    why = _why(name, module, directory, options)
    if not why:
        return Forecast(name, why, measured=measured)
    try:
        session = _session(name, module, directory, options)
        session.check()
    except UsageError as error:
        lines = str(error).splitlines()  # the first says what is wrong, the last what helps; between them, details
        return Forecast(name, why, measured=measured, refusal=" ".join(dict.fromkeys((lines[0], lines[-1]))))
    except Exception as error:  # its own command shows where; the others are to have their turn
        return Forecast(name, why, measured=measured, refusal=f"{type(error).__name__}: {error}")
    platform, pending = jax.default_backend(), session.pending()
    workers = max(1, session.execution.workers) if platform == "cpu" else jax.device_count()
    programs = len({(bundle.spec, bundle.driver) for bundle in pending})
    training = sum(rule.forecast_seconds(platform, b.spec, b.image_cost) * b.driver.members for b in pending)
    rounds = -(-programs // workers)  # a worker keeps to the programs that it has compiled
    return Forecast(
        name,
        why,
        runs=len(session.plan.points) - len(session.done()),
        programs=programs,
        seconds=training / workers + COMPILE_SECONDS * rounds,
        measured=measured,
    )


def _why(name: str, module: ModuleType, directory: Path, options: argparse.Namespace) -> str:
    """Why the verdict in ``directory`` does not do; empty if it does."""
    path = directory / "verdict.json"
    if not path.exists():
        return "no verdict"
    entry = evidence.entry_of(name, module, path)
    configuration = evidence.manifest_of(directory).get("configuration", {})
    preset = options.preset or "quick"
    if entry["preset"] != preset:
        return f"preset {entry['preset']}"
    if any(claim["verdict"] == NOT_RUN for claim in entry["claims"]):
        return "new claims"
    if not all(claim["current"] for claim in entry["claims"]):
        return "rules changed"
    data = configuration.get("spec", {}).get("data", {}).get("name")
    if data not in (None, options.data or default_data(module)):
        return f"data {data}"
    if options.seeds and len(configuration.get("seeds", ())) < options.seeds:
        return "fewer seeds"
    return ""


def _session(name: str, module: ModuleType, directory: Path, options: argparse.Namespace) -> Session:
    """The sweep as the experiment's own command would plan it."""
    preset, data = options.preset or "quick", DataConfig(options.data or default_data(module))
    workers = threads_here() if options.workers is None else options.workers
    spec, hyper, grid = (make(preset, data) for make in (module.spec, module.hyper, module.grid))
    if hasattr(module, "source"):
        source = source_session(name, module, preset, data, {}, Execution(workers=workers), directory)
        grid = module.grid(preset, data, trained(source))
    seeds = range(options.seeds or module.SEEDS[preset])
    planned = plan(points(spec, hyper, grid, seeds), jax.default_backend())
    description = {"experiment": name, "preset": preset, "configuration": {"preset": preset}}
    return Session(planned, Execution(workers=workers), directory, description)


def _measured_seconds(directory: Path) -> float:
    rows = [evidence.read(path) for path in sorted((directory / "rows").glob("*.json"))]
    return sum(row["seconds"] or 0.0 for row in rows) + page.compile_seconds(rows)


def _print_forecasts(forecasts: Sequence[Forecast], options: argparse.Namespace) -> None:
    from rich.table import Table
    from rich.text import Text

    from cnnjax.console import Console

    table = Table(show_footer=True)
    total = sum(found.seconds for found in forecasts)
    measured = sum(found.measured for found in forecasts)
    runs, programs = sum(found.runs for found in forecasts), sum(found.programs for found in forecasts)
    table.add_column("experiment", footer="all")
    table.add_column("runs because of")
    for title, footer in (
        ("runs to do", str(runs)),
        ("programs", str(programs)),
        ("minutes, about", _minutes(total)),
        ("measured, core minutes", _minutes(measured)),
    ):
        table.add_column(title, footer=footer, justify="right")
    for found in forecasts:
        state = f"{found.why}; refused, see below" if found.refusal else found.why or "– (up to date)"
        table.add_row(
            found.name, Text(state), str(found.runs), str(found.programs), _minutes(found.seconds),
            _minutes(found.measured),
        )  # fmt: skip
    console = Console()
    if not console.is_terminal:
        console.width = max(console.width, 100)
    console.print(table)
    if runs:
        print(
            f"About {_minutes(total)} minutes, with {COMPILE_SECONDS:g} s to compile each program; a forecast, within "
            "a factor of three. Measured is what finished runs took, summed over workers."
        )
    for found in forecasts:
        if found.refusal:
            print(f"{found.name}: {printable_lines(str(found.refusal))}", file=sys.stderr)


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.1f}"
