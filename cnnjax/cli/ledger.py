"""The ledger of claims: what every experiment asserts, the newest verdict on it, and how to fill the gaps.

Evidence is a folder with a ``verdict.json``: those of the workdir, and the committed ones in
``experiments/results`` where the workdir has none of that name. One experiment may have several, such as
``degradation`` and ``degradation-cifar10``; its ``verdict.json`` says whose it is.

Exit codes: 0 done, 1 an experiment failed, 2 bad input, 130 interrupted (the same command resumes).
"""

import argparse
import datetime
import importlib
import json
import pkgutil
import sys
import textwrap
import traceback
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import jax

from cnnjax.cli import experiment
from cnnjax.data.catalog import DataConfig, describe
from cnnjax.report import gallery, page
from cnnjax.report.gallery import NOT_RUN, RULE_CHANGED
from cnnjax.report.table import VERDICT_STYLES, effect_text
from cnnjax.sweep import plan, points, rule
from cnnjax.sweep.bundle import threads_here
from cnnjax.sweep.session import Execution, Session
from cnnjax.typing import UsageError, unknown

Entry = dict[str, Any]

SIGNATURES = 3  # as many are printed: one for each program
TABLE_WIDTH = 130  # columns from which on a table is easier to read than a list

# Added to the forecast for each training program that a worker compiles: between the 3 s of a small net and
# the 10 s of a deep one on a core of a 2020s server.
COMPILE_SECONDS = 6.0


def main(argv: list[str], description: str) -> int:
    """Does what the arguments ask (see ``--help``) and returns the exit code; 2 for bad input."""
    parser = _parser(description)
    options = parser.parse_args(argv)
    _check(parser, options)
    try:
        return _main(options)
    except UsageError as error:
        print(f"experiments: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("experiments: stopped. The same command resumes.", file=sys.stderr)
        return 130


def _parser(description: str) -> argparse.ArgumentParser:
    summary, _, examples = description.partition("\n\n")
    parser = argparse.ArgumentParser(
        "python -m experiments",
        description=summary,
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--workdir", default="runs", metavar="DIR", help="where experiments write their results [runs]")
    add("--only", metavar="A,B", help="these experiments alone")
    add("--json", action="store_true", help="print the ledger in the form of verdict.json")
    add("--lectures", action="store_true", help="print how many rows of the lectures work")
    add(
        "--report", nargs="?", const="", metavar="PATH",
        help="write all verdicts and figures to one HTML page [WORKDIR/index.html]",
    )  # fmt: skip
    run = parser.add_argument_group(
        "filling the ledger",
        "Only the workdir counts: what experiments/results holds does not keep an experiment from running.",
    )
    run.add_argument(
        "--run-missing", action="store_true",
        help="run every experiment whose verdict in the workdir is missing, of another preset, data or fewer seeds, or "
        "was made by other rules; the cheapest first, after a forecast",
    )  # fmt: skip
    run.add_argument("--plan", action="store_true", help="print the forecast, and stop")
    run.add_argument("--preset", choices=experiment.PRESETS, help="which recipe [quick]")
    run.add_argument("--seeds", type=_positive, metavar="N", help="number of seeds [the preset's]")
    run.add_argument("--data", metavar="NAME", help="digits, shapes, folder:DIR or tfds:NAME [digits]")
    run.add_argument("--workers", type=_natural, metavar="N", help="processes on a CPU; 0 is none [one for each core]")
    return parser


def _natural(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 0 on")
    return int(text)


def _positive(text: str) -> int:
    if (number := _natural(text)) < 1:
        raise argparse.ArgumentTypeError(f"{number} is less than 1")
    return number


def _check(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Refuses flags that contradict each other or would do nothing."""
    alone = [name for name in ("json", "lectures", "run_missing") if getattr(options, name)]
    if options.report is not None and alone != ["run_missing"]:
        alone.append("report")
    if len(alone) > 1:
        parser.error(" and ".join(f"--{name.replace('_', '-')}" for name in alone) + " do not go together")
    for name in ("plan", "preset", "seeds", "data", "workers"):
        value = getattr(options, name)
        given = value is not None and value is not False
        if given and not options.run_missing:
            parser.error(f"--{name} needs --run-missing")


def _main(options: argparse.Namespace) -> int:
    if options.lectures:
        lectures = importlib.import_module("experiments.lectures")
        print(lectures.render(lectures.read()))
        return 0
    modules, workdir = _chosen(options.only), Path(options.workdir)
    code = _fill(modules, workdir, options) if options.run_missing else 0
    if options.plan or code == 130:
        return code
    entries = ledger(workdir, modules)
    if options.json:
        print(json.dumps(entries, indent=1))
    elif options.report is not None:
        print(f"Report: {report(Path(options.report or workdir / 'index.html'), entries, modules)}")
    else:
        _print(entries, datetime.datetime.now(datetime.UTC))
    return code


def experiments() -> dict[str, ModuleType]:
    """Every module of ``experiments`` that makes claims, by name."""
    package = importlib.import_module("experiments")
    names = sorted(module.name for module in pkgutil.iter_modules(package.__path__) if module.name != "__main__")
    modules = {name: importlib.import_module(f"experiments.{name}") for name in names}
    return {name: module for name, module in modules.items() if hasattr(module, "CLAIMS")}


def _chosen(only: str | None) -> dict[str, ModuleType]:
    modules = experiments()
    if only is None:
        return modules
    names = [name.strip() for name in only.split(",")]
    for name in names:
        if name not in modules:
            raise unknown("experiment", name, modules)
    return {name: module for name, module in modules.items() if name in names}


# --------------------------------------------------------------------------------------- Evidence


def ledger(workdir: Path, modules: Mapping[str, ModuleType] | None = None) -> list[Entry]:
    """One entry in the form of ``verdict.json`` for each evidence, experiment by experiment.

    Beside the keys of ``verdict.json`` an entry has ``name`` (of the folder), ``created`` (when the runs
    started, ISO 8601), ``signatures`` (digests), ``data`` (names) and ``from`` (the file). A claim has
    ``current``: whether the code still holds the statement, rule and unit that were judged. Claims without
    a verdict are "not run"; verdicts on claims that the code no longer has are left out.

    Args:
      workdir: its verdicts go before the committed ones of the same folder name.
      modules: the experiments; all by default.

    Raises:
      UsageError: a file is damaged.
    """
    modules = experiments() if modules is None else modules
    committed = dict.fromkeys(Path(str(module.__file__)).parent / "results" for module in modules.values())
    found = _evidence([*committed, workdir])
    entries = []
    for name, module in modules.items():
        own = {folder: path for (owner, folder), path in found.items() if owner == name}
        entries += [_entry(name, module, own[folder]) for folder in sorted(own, key=lambda f: (f != name, f))]
        if not own:
            entries.append(_entry(name, module, None))
    return entries


def _evidence(places: Sequence[Path]) -> dict[tuple[str, str], Path]:
    """(experiment, folder name) -> its ``verdict.json``; later places go before earlier ones."""
    paths = [path for place in places for path in sorted(place.glob("*/verdict.json"))]
    return {(str(_verdict(path)["experiment"]), path.parent.name): path for path in paths}


def _entry(name: str, module: ModuleType, path: Path | None) -> Entry:
    verdict = _verdict(path) if path else {"preset": None, "claims": []}
    manifest = _manifest(path.parent) if path else {}
    judged = {claim["id"]: claim for claim in verdict["claims"]}
    return {
        "experiment": name,
        "preset": verdict["preset"],
        "claims": [_claim(claim, judged.get(claim.id)) for claim in module.CLAIMS],
        "name": path.parent.name if path else name,
        "created": manifest.get("created"),
        "signatures": sorted(manifest.get("signatures", {})),
        "data": sorted(manifest.get("data", {})),
        "from": str(path) if path else None,
    }


def _claim(claim: Any, judged: Mapping[str, Any] | None) -> Entry:
    """A claim of the code with the verdict on it."""
    asserted = {name: getattr(claim, name) for name in ("id", "statement", "source", "rule", "unit")}
    blank = {"verdict": NOT_RUN, "effect": None, "interval": [None, None], "n": 0, "seeds_to_decide": None, "note": ""}
    if judged is None:
        return {**asserted, **blank, "current": True}
    shown = {**asserted, **blank, **judged}
    return {**shown, "current": all(shown[name] == asserted[name] for name in ("statement", "rule", "unit"))}


def _verdict(path: Path) -> dict[str, Any]:
    found = _read(path)
    if not {"experiment", "preset", "claims"} <= set(found):
        raise UsageError(f"{path} is no verdict of an experiment. Remove it, or run the experiment again.")
    return found


def _manifest(directory: Path) -> dict[str, Any]:
    path = directory / "manifest.json"
    return _read(path) if path.exists() else {}


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
        if not isinstance(found, dict):
            raise ValueError("it is no JSON object")
        return found
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read ({error}). Remove it, or run the experiment again.") from error


# --------------------------------------------------------------------------------------- Printing


def age(created: str | None, now: datetime.datetime) -> str:
    """The time since ``created`` in its largest whole unit: ``3 hours``; empty where it is not known."""
    if created is None:
        return ""
    minutes = (now - datetime.datetime.fromisoformat(created)).total_seconds() / 60
    for unit, length in (("day", 24 * 60), ("hour", 60), ("minute", 1)):
        if (count := int(minutes // length)) >= 1:
            return f"{count} {unit}{'s' * (count != 1)}"
    return "less than a minute"


def _print(entries: Sequence[Entry], now: datetime.datetime) -> None:
    """A table where the terminal is wide, else a list; lines are whole where the output is no terminal."""
    from rich.console import Console

    console = Console(highlight=False, emoji=False)
    width = console.width if console.is_terminal else sys.maxsize
    for entry in entries:
        print()
        _wrap(console, heading(entry, now), width, style="bold")
        if TABLE_WIDTH <= width < sys.maxsize:
            console.print(_table(entry))
        else:
            _print_list(console, entry, width)
    print()
    _wrap(console, summary(entries), width)


def heading(entry: Entry, now: datetime.datetime) -> str:
    """An evidence in one line: name, preset, data, age and signatures."""
    if entry["from"] is None:
        return f"{entry['name']}: not run"
    signatures, old, path = entry["signatures"], age(entry["created"], now), Path(entry["from"])
    shown = ", ".join(signatures[:SIGNATURES]) or "unknown"
    more = f" and {len(signatures) - SIGNATURES} more (see --json)" if len(signatures) > SIGNATURES else ""
    facts = [
        f"preset {entry['preset']}",
        f"data {', '.join(entry['data'])}" if entry["data"] else "",
        f"{old} old" if old else "age unknown",
        f"signature{'s' * (len(signatures) != 1)} {shown}{more}",
        str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path),
    ]
    return f"{entry['name']}: {'; '.join(fact for fact in facts if fact)}"


def _facts(claim: Entry) -> dict[str, str]:
    """What is said of a claim beside its statement and verdict; what is empty is left out."""
    ran = claim["verdict"] != NOT_RUN
    notes = [claim["note"], "" if claim["current"] else RULE_CHANGED]
    found = {
        "source": claim["source"],
        "effect": effect_text(gallery.attributes(claim)) if ran else "",
        "n": f"{claim['n']} {'cases' if gallery.is_exact(claim) else 'seeds'}" if ran else "",
        "rule": claim["rule"],
        "note": "; ".join(note for note in notes if note),
    }
    return {name: text for name, text in found.items() if text}


def _style(verdict: str) -> str:
    return VERDICT_STYLES[verdict][1] if verdict in VERDICT_STYLES else "dim"


def _print_list(console: Any, entry: Entry, width: int) -> None:
    for claim in entry["claims"]:
        first = f"  {gallery.verdict_text(claim)}: {claim['statement']}"
        _wrap(console, first, width, indent=4, style=_style(claim["verdict"]))
        for name, text in _facts(claim).items():
            _wrap(console, f"    {name:6s}  {text}", width, indent=12)


def _wrap(console: Any, text: str, width: int, indent: int = 0, style: str = "none") -> None:
    for line in textwrap.wrap(text, width, subsequent_indent=" " * indent, break_on_hyphens=False):
        console.print(line, style=style, markup=False, soft_wrap=True)


def _table(entry: Entry) -> Any:
    from rich.table import Table
    from rich.text import Text

    table = Table(show_lines=True, expand=True)
    for name, share in (("verdict", None), ("claim and source", 4), ("rule", 5), ("effect [95 % interval]", 4)):
        table.add_column(name, ratio=share, width=None if share else 15)
    for claim in entry["claims"]:
        facts = _facts(claim)
        result = [facts.get("effect", ""), f"n = {facts['n']}" if "n" in facts else "", facts.get("note", "")]
        table.add_row(
            Text(gallery.verdict_text(claim), style=_style(claim["verdict"])),
            Text(f"{claim['statement']} ({claim['source']})"),
            Text(claim["rule"]),
            Text("\n".join(line for line in result if line)),
        )
    return table


def summary(entries: Sequence[Entry]) -> str:
    """How many claims had each verdict, and in how many experiments."""
    found = [(entry["experiment"], claim["verdict"]) for entry in entries for claim in entry["claims"]]
    names = list(dict.fromkeys(entry["experiment"] for entry in entries))
    count = Counter(verdict for _, verdict in found)
    within = Counter(verdict for _, verdict in set(found))
    parts = [
        f"{count[v]} {v}" + (f" (in {gallery.plural(within[v], 'experiment')})" if count[v] else "")
        for v in gallery.SIGNS
    ]
    total = f"{gallery.plural(len(names), 'experiment')}, {gallery.plural(len(found), 'claim')}"
    text = f"{total}: {', '.join(parts)}."
    changed = sum(not claim["current"] for entry in entries for claim in entry["claims"])
    return f"{text} {changed} were judged by a rule that has changed since." if changed else text


# ---------------------------------------------------------------------------------------- Gallery


def report(path: Path, entries: Sequence[Entry], modules: Mapping[str, ModuleType]) -> Path:
    """Writes the page of all evidence.

    Raises:
      UsageError: a manifest is damaged, or the page cannot be written.
    """
    exhibits = []
    for entry in entries:
        module, directory = modules[entry["experiment"]], Path(entry["from"]).parent if entry["from"] else None
        manifest = _manifest(directory) if directory else {}
        exhibits.append(
            gallery.Exhibit(entry, module.TITLE, module.__doc__ or "", tuple(module.FIGURES), manifest, directory)
        )
    return gallery.write(path, exhibits)


# ---------------------------------------------------------------------------------------- Filling


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


def _fill(modules: Mapping[str, ModuleType], workdir: Path, options: argparse.Namespace) -> int:
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
        if code == 130:
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
    directory = workdir / name
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
    training = sum(rule.forecast_seconds(platform, b.spec, b.image_cost) * b.driver.lanes for b in pending)
    rounds = -(-programs // workers)  # a worker keeps to the programs that it has compiled
    return Forecast(
        name,
        why,
        runs=sum(len(bundle.points) for bundle in pending),
        programs=programs,
        seconds=training / workers + COMPILE_SECONDS * rounds,
        measured=measured,
    )


def _why(name: str, module: ModuleType, directory: Path, options: argparse.Namespace) -> str:
    """Why the verdict in ``directory`` does not do; empty if it does."""
    path = directory / "verdict.json"
    if not path.exists():
        return "no verdict"
    entry, configuration = _entry(name, module, path), _manifest(directory).get("configuration", {})
    preset = options.preset or "quick"
    if entry["preset"] != preset:
        return f"preset {entry['preset']}"
    if any(claim["verdict"] == NOT_RUN for claim in entry["claims"]):
        return "new claims"
    if not all(claim["current"] for claim in entry["claims"]):
        return "rules changed"
    data = configuration.get("spec", {}).get("data", {}).get("name")
    if data not in (None, options.data or "digits"):
        return f"data {data}"
    if options.seeds and len(configuration.get("seeds", ())) < options.seeds:
        return "fewer seeds"
    return ""


def _session(name: str, module: ModuleType, directory: Path, options: argparse.Namespace) -> Session:
    """The sweep as the experiment's own command would plan it."""
    preset, data = options.preset or "quick", DataConfig(options.data or "digits")
    spec, hyper, grid = (make(preset, data) for make in (module.spec, module.hyper, module.grid))
    seeds = range(options.seeds or module.SEEDS[preset])
    planned = plan(points(spec, hyper, grid, seeds), jax.default_backend())
    workers = threads_here() if options.workers is None else options.workers
    description = {"experiment": name, "preset": preset, "configuration": {"preset": preset}}
    return Session(planned, Execution(workers=workers), directory, description)


def _measured_seconds(directory: Path) -> float:
    rows = [_read(path) for path in sorted((directory / "rows").glob("*.json"))]
    return sum(row["seconds"] or 0.0 for row in rows) + page.compile_seconds(rows)


def _print_forecasts(forecasts: Sequence[Forecast], options: argparse.Namespace) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

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
            print(f"{found.name}: {found.refusal}", file=sys.stderr)


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.1f}"
