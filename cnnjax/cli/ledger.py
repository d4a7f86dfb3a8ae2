"""The ledger of claims: what every experiment asserts, the newest verdict on it, and how to fill the gaps.

Exit codes: 0 done, 1 an experiment failed, 2 bad input, 130 interrupted (the same command resumes), 141 nobody reads
what is printed.
"""

import argparse
import datetime
import importlib
import sys
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from cnnjax.cli import evidence, missing
from cnnjax.cli.arguments import HELP
from cnnjax.cli.ending import NOBODY_READS, ended
from cnnjax.cli.evidence import Entry
from cnnjax.cli.presets import PRESETS
from cnnjax.interrupt import stoppable
from cnnjax.report import gallery
from cnnjax.report.gallery import NOT_RUN, RULE_CHANGED
from cnnjax.report.table import VERDICT_STYLES, effect_text
from cnnjax.strict_json import encode
from cnnjax.text import printable, printable_lines
from cnnjax.typing import UsageError, unknown

SIGNATURES = 3  # as many are printed: one for each program
TABLE_WIDTH = 130  # columns from which on a table is easier to read than a list


def main(argv: list[str], description: str) -> int:
    """Does what the arguments ask (see ``--help``) and returns the exit code; 2 for bad input."""
    return ended("experiments", lambda: _outcome(argv, description))


def _outcome(argv: list[str], description: str) -> int:
    parser = _parser(description)
    if any(argument in HELP for argument in argv):
        print(parser.format_help(), end="")  # argparse itself does not mind whether anybody reads it
        return 0
    options = parser.parse_args(argv)
    _check(parser, options)
    try:
        with stoppable():
            return _main(options)
    except UsageError as error:
        print(f"experiments: {printable_lines(str(error))}", file=sys.stderr)
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
    run.add_argument("--preset", choices=PRESETS, help="which recipe [quick]")
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
    code = missing.fill(modules, workdir, options) if options.run_missing else 0
    if options.plan or code in (130, NOBODY_READS):
        return code
    entries = evidence.ledger(workdir, modules)
    if options.json:
        print(encode(entries, indent=1))
    elif options.report is not None:
        written = report(Path(options.report or workdir / "index.html"), entries, modules)
        print(f"Report: {printable(str(written))}")
    else:
        _print(entries, datetime.datetime.now(datetime.UTC))
    return code


def _chosen(only: str | None) -> dict[str, ModuleType]:
    modules = evidence.experiments()
    if only is None:
        return modules
    names = [name.strip() for name in only.split(",")]
    for name in names:
        if name not in modules:
            raise unknown("experiment", name, modules)
    return {name: module for name, module in modules.items() if name in names}


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
    from cnnjax.console import Console

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
        entry["code"],
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
        manifest = evidence.manifest_of(directory) if directory else {}
        exhibits.append(
            gallery.Exhibit(entry, module.TITLE, module.__doc__ or "", tuple(module.FIGURES), manifest, directory)
        )
    return gallery.write(path, exhibits)
