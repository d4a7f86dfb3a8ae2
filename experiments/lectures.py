"""Everything five lecture decks contain, row by row, and what in this project shows it working.

``lectures.csv`` holds one line for each architecture, operation, loss, training recipe,
regulariser, task, algorithm, worked number, finding, dataset and erratum of the decks. Its
column ``where`` names the object, claim or test that shows the row working; ``resolve`` checks
that such a name exists. The decks are cited as ``deck:line`` or ``deck:first-last`` of their
text extraction:

- S0: SSY097 Image Analysis, Lecture 6 (Sattler)
- S1: Convolutional Neural Networks, Halmstad University (Aksoy)
- S2: Lecture 8 with a recap of Lecture 7 (2017)
- S3: Lecture 9, Convolutional networks
- S4: handwritten course notes, Convolutional Neural Networks
"""

import ast
import csv
import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from cnnjax.typing import UsageError, unknown

ROOT = Path(__file__).resolve().parent.parent  # of the repository: tests are named relative to it
POINTER_ONLY = "pointer only"


@dataclass(frozen=True)
class Row:
    """One line of ``lectures.csv``.

    Attributes:
      row: 1 to 381.
      lecture: the decks cited, "S4" or "S1;S4".
      lines: the citations, "S4:368-374; S3:447-458".
      kind: architecture, operation, loss, training, regularisation, task, algorithm, number,
        finding, dataset or erratum.
      statement: what the lecture says, in our words; for an erratum also what is right.
      where: what shows it working, in a form that ``resolve`` accepts, or empty.
      note: starts with "pointer only" where the lecture only mentions a thing in passing.
    """

    row: int
    lecture: str
    lines: str
    kind: str
    statement: str
    where: str
    note: str


class Count(NamedTuple):
    """How many rows of a kind work, how many there are, and how many of the others only point."""

    done: int
    total: int
    pointer_only: int


def read() -> list[Row]:
    """The rows of ``lectures.csv``, in order."""
    with Path(__file__).with_name("lectures.csv").open(encoding="utf-8", newline="") as file:
        return [Row(row=int(line.pop("row")), **line) for line in csv.DictReader(file)]


def resolve(where: str) -> None:
    """Checks that every place in ``where``, separated by "; ", exists. It runs none of them.

    A place has one of three forms:

    - ``cnnjax.models.resnet:ResNet``: an object of a module, with dotted attributes;
    - ``experiments.degradation#deeper-plain``: the ``id`` of a claim in a module's ``CLAIMS``;
    - ``tests/ops/test_conv.py::test_sobel``: a test, or ``::TestClass::test_method``; a
      parameter in brackets is ignored.

    Raises:
      UsageError: a place has none of these forms or names nothing.
    """
    for place in where.split("; "):
        if "::" in place:
            _resolve_test(place)
        elif "#" in place:
            _resolve_claim(place)
        elif ":" in place:
            _resolve_object(place)
        else:
            raise UsageError(f"Place {place!r} has no known form; write module:object, experiment#claim or file::test.")


def working(rows: Sequence[Row]) -> dict[str, Count]:
    """The count of each kind, in the order in which the kinds first appear."""
    counts: dict[str, Count] = {}
    for row in rows:
        done, total, pointer_only = counts.get(row.kind, Count(0, 0, 0))
        points = not row.where and row.note.startswith(POINTER_ONLY)
        counts[row.kind] = Count(done + bool(row.where), total + 1, pointer_only + points)
    return counts


def render(rows: Sequence[Row]) -> str:
    """The counts of ``working`` as a table in plain text, with their sum at the end."""
    counts = working(rows)
    total = Count(*(sum(column) for column in zip(*counts.values(), strict=True)))
    lines = [f"{'kind':<16}{'working':>9}{'of':>6}{'pointer only':>15}"]
    for kind, count in [*counts.items(), ("all", total)]:
        lines.append(f"{kind:<16}{count.done:>9}{count.total:>6}{count.pointer_only:>15}")
    return "\n".join(lines)


def _resolve_object(place: str) -> None:
    name, _, path = place.partition(":")
    found: object = _module(name)
    for attribute in path.split("."):
        if not hasattr(found, attribute):
            raise unknown(f"attribute in {place!r}:", attribute, _public(found))
        found = getattr(found, attribute)


def _resolve_claim(place: str) -> None:
    name, _, claim = place.partition("#")
    claims = getattr(_module(name), "CLAIMS", None)
    if claims is None:
        raise UsageError(f"{name} in {place!r} has no tuple CLAIMS; name an experiment that has.")
    ids = [each.id for each in claims]
    if claim not in ids:
        raise unknown(f"claim of {name}:", claim, ids)


def _resolve_test(place: str) -> None:
    path, *classes, test = place.partition("[")[0].split("::")
    if not (ROOT / path).is_file():
        raise UsageError(f"File {path!r} in {place!r} does not exist in the repository; correct the path.")
    scope: ast.Module | ast.ClassDef = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    for name in classes:
        named = {node.name: node for node in scope.body if isinstance(node, ast.ClassDef)}
        if name not in named:
            raise unknown(f"class in {place!r}:", name, named)
        scope = named[name]
    functions = [node.name for node in scope.body if isinstance(node, ast.FunctionDef)]
    tests = [name for name in functions if name.startswith("test")]
    if test not in tests:
        raise unknown(f"test in {place!r}:", test, tests)


def _module(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        # A module that exists and misses one of its own imports is a fault of its own.
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise
        raise UsageError(f"Module {name!r} does not exist; correct its name.") from error


def _public(found: object) -> list[str]:
    return [name for name in dir(found) if not name.startswith("_")]
