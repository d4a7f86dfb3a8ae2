"""An entry of the worked numbers, and its verdict."""

import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from experiments.worked_numbers.values import same


class Printed(enum.Enum):
    """What stands for a printed value."""

    RIGHT = "the right one"
    NOTHING = "nothing: the lecture asks, or its picture is lost"


AGREES, ERRATUM, STATED, OPEN, DIFFERS = VERDICTS = ("agrees", "erratum", "stated", "open", "differs")


@dataclass(frozen=True)
class Number:
    """One worked number.

    Attributes:
      row: of ``lectures.csv``, which has its statement and lines.
      compute: the value, by this package's code, from the lecture's numbers. Several values are a dict by name.
      right: what it must be.
      printed: what the lecture prints, where that is not ``right``; of several values, those that it prints. A
        function makes it, where it takes computing.
      stated: no computation can tell the fact (the result of a competition); only its arithmetic is done.
      note: what a reader must know besides.
    """

    row: int
    compute: Callable[[], Any]
    right: Any
    printed: Any = Printed.RIGHT
    stated: bool = False
    note: str = ""


@dataclass(frozen=True)
class Outcome:
    """What came of a number.

    Attributes:
      number: the entry.
      computed: its value.
      printed: the lecture's value; None where it prints none.
      verdict: "differs" (computed is not right), "erratum" (printed is not right), "open" (nothing is printed),
        "stated" or "agrees".
    """

    number: Number
    computed: Any
    printed: Any
    verdict: str


def outcome(number: Number) -> Outcome:
    """Computes a number and compares it."""
    computed = number.compute()
    printed = number.printed() if callable(number.printed) else number.printed
    if printed is Printed.RIGHT:
        printed = number.right
    elif printed is Printed.NOTHING:
        printed = None
    return Outcome(number, computed, printed, _verdict(number, computed, printed))


def _verdict(number: Number, computed: Any, printed: Any) -> str:
    if not same(computed, number.right) or not same(number.right, computed):  # all names of both
        return DIFFERS
    if printed is None:
        return OPEN
    if not same(printed, number.right):
        return ERRATUM
    return STATED if number.stated else AGREES
