"""The table of worked numbers and errata: what is printed, what comes out, and whether they agree."""

import difflib
import re
import sys
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from cnnjax.cli.arguments import HELP, Arguments, help_lines
from cnnjax.cli.ending import ended
from cnnjax.strict_json import encode
from experiments import lectures
from experiments.lectures import Row

if TYPE_CHECKING:
    from experiments.worked_numbers.number import Number, Outcome

DECKS = ("S0", "S1", "S2", "S3", "S4")
STYLES = {"agrees": "green", "stated": "default", "open": "cyan", "erratum": "yellow", "differs": "bold red"}


def main(argv: list[str], description: str) -> int:
    """Does what the arguments ask (see ``--help``): 0, 1 if a number is not what it must be, 2 for bad input."""
    return ended("experiments.worked_numbers", lambda: _outcome(argv, description))


def _outcome(argv: list[str], description: str) -> int:
    from cnnjax.typing import UsageError

    arguments = _arguments()
    if any(argument in HELP for argument in argv):
        print(description.strip(), "", "flags:", *help_lines(arguments.values, arguments.names), sep="\n")
        return 0
    try:
        arguments.parse(argv)
        rows = chosen(arguments.lecture, arguments.errata, *arguments.at_most(1))
    except UsageError as error:
        print(f"experiments.worked_numbers: {error}", file=sys.stderr)
        return 2
    if arguments.list:
        for row in rows:
            print(f"{row.row}  {row.lines}  {row.statement}")
        return 0
    return _report(rows, arguments.json)


def _arguments() -> Arguments:
    arguments = Arguments()
    arguments.add("lecture", str, None, "numbers of one deck alone: S0, S1, S2, S3 or S4")
    arguments.add("errata", bool, False, "the errata alone, rows 351 to 381")
    arguments.add("list", bool, False, "rows, lines and statements; compute nothing")
    arguments.add("json", bool, False, "a list of objects instead of the table")
    return arguments


def chosen(lecture: str | None = None, errata: bool = False, what: str | None = None) -> list[Row]:
    """The rows of ``lectures.csv`` that the arguments name.

    Args:
      lecture: a deck, "S4".
      errata: errata alone.
      what: a row's number, or a word of statements.

    Raises:
      UsageError: an unknown deck, or nothing is left.
    """
    from cnnjax.typing import UsageError, unknown

    if lecture is not None and lecture.upper() not in DECKS:
        raise unknown("lecture", lecture, DECKS)
    kinds = ("erratum",) if errata else ("number", "erratum")
    rows = [row for row in lectures.read() if row.kind in kinds]
    if lecture is not None:
        rows = [row for row in rows if lecture.upper() in row.lecture.split(";")]
    if what is None:
        return rows
    if what.isdecimal():
        found = [row for row in rows if row.row == int(what)]
    else:
        found = [row for row in rows if what.lower() in row.statement.lower()]
    if not found:
        raise UsageError(f"No row matches {what!r}.{_hint(what, rows)} Use --list to see the rows that can be named.")
    return found


def _hint(what: str, rows: Iterable[Row]) -> str:
    if what.isdecimal():
        return " Worked numbers are rows 193 to 280, errata 351 to 381, fewer with --lecture or --errata."
    words = {word.lower() for row in rows for word in re.findall(r"[\w-]{3,}", row.statement)}
    near = difflib.get_close_matches(what.lower(), sorted(words), n=1)
    return f" Did you mean {near[0]!r}?" if near else ""


def numbers() -> dict[int, "Number"]:
    """Every worked number and erratum by its row, in order."""
    from experiments.worked_numbers import errata, s0, s1, s2, s3, s4

    found = [number for deck in (s0, s1, s2, s3, s4) for number in deck.NUMBERS] + list(errata.ERRATA)
    return {number.row: number for number in sorted(found, key=lambda number: number.row)}


def _report(rows: list[Row], as_json: bool) -> int:
    """Computes the rows and prints them."""
    from experiments.worked_numbers.number import DIFFERS, VERDICTS, outcome

    known = numbers()
    outcomes = [(row, outcome(known[row.row])) for row in rows]
    count = Counter(found.verdict for _, found in outcomes)
    if as_json:
        print(encode([entry(row, found) for row, found in outcomes], indent=1))
    else:
        from cnnjax.tables import show as show_table

        summary = ", ".join(f"{count[verdict]} {verdict}" for verdict in VERDICTS if count[verdict])
        show_table(_table(outcomes), f"{len(outcomes)} computed: {summary}.")
    return 1 if count[DIFFERS] else 0


def entry(row: Row, found: "Outcome") -> dict[str, Any]:
    """A row in the form of ``--json``."""
    from experiments.worked_numbers.values import plain

    return {
        "row": row.row,
        "kind": row.kind,
        "lines": row.lines,
        "statement": row.statement,
        "computed": plain(found.computed),
        "right": plain(found.number.right),
        "printed": None if found.printed is None else plain(found.printed),
        "verdict": found.verdict,
        "note": found.number.note,
    }


def _table(outcomes: Iterable[tuple[Row, "Outcome"]]) -> Any:
    from rich.table import Table
    from rich.text import Text

    from experiments.worked_numbers.number import DIFFERS, ERRATUM
    from experiments.worked_numbers.values import show

    table = Table(show_lines=True)
    for name in ("row", "lines", "statement", "computed", "verdict", "note"):
        table.add_column(name, no_wrap=name in ("row", "verdict"))
    for row, found in outcomes:
        verdict = found.verdict
        if verdict == ERRATUM:
            computed = f"{show(found.computed)} (printed: {show(found.printed) or 'none'})"
        elif verdict == DIFFERS:
            computed = f"{show(found.computed)} (right: {show(found.number.right)})"
        else:
            computed = show(found.computed)
        cells = str(row.row), row.lines, row.statement, computed
        table.add_row(*map(Text, cells), Text(verdict, style=STYLES[verdict]), Text(found.number.note))
    return table
