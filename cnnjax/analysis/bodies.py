"""The programs inside a program's equations, and which of an equation's operands and results are which of theirs.

Only what every version of JAX says of an equation is read: its name, its operands, its results, the programs among its
parameters, and a scan's length and direction.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

# These hold a program too, but of single numbers: how two are combined.
COMBINING = ("reduce", "scatter", "select_and")
# These do not call their programs once with their own operands.
BRANCHES, LOOPS = "cond", ("scan", "while")


class Scan(NamedTuple):
    """A scan: its body reads constants, what it carries and rows; it puts out what it carries and rows.

    Attributes:
      body: the program of one turn.
      values: of the body's ``constvars``.
      constants: how many of the operands are the same in every turn; they come first.
      carried: how many operands after those, and how many of the first results, pass from turn to turn.
      length: number of turns.
      reverse: whether the last rows come first.
    """

    body: Any
    values: Sequence[Any]
    constants: int
    carried: int
    length: int
    reverse: bool

    def split(self, operands: Sequence[Any]) -> tuple[list[Any], list[Any], list[Any]]:
        """Constants, what is carried into the first turn, and rows, of one thing for each operand."""
        carried = self.constants + self.carried
        return list(operands[: self.constants]), list(operands[self.constants : carried]), list(operands[carried:])


def scan(equation: Any) -> Scan | None:
    """How a scan binds its body; None for other equations."""
    if equation.primitive.name != "scan":
        return None
    (body,), (values,) = inner(equation), _values(equation)
    # Rows have an axis more outside than inside. What the parameters say of this is another thing in each version.
    rows = sum(_rank(outer) > _rank(name) for outer, name in zip(equation.invars, body.invars, strict=True))
    carried = sum(_rank(outer) == _rank(name) for outer, name in zip(equation.outvars, body.outvars, strict=True))
    length, reverse = equation.params["length"], equation.params["reverse"]
    return Scan(body, values, len(equation.invars) - rows - carried, carried, length, reverse)


def branches(equation: Any) -> list[Any]:
    """The programs of which a conditional runs one, on all of its operands but the first; none elsewhere."""
    return inner(equation) if equation.primitive.name == BRANCHES else []


def called(equation: Any) -> Any | None:
    """The one program that an equation calls once with its own operands; None for scans, loops and branches."""
    programs = inner(equation)
    if len(programs) == 1 and equation.primitive.name not in (BRANCHES, *LOOPS):
        return programs[0] if len(programs[0].invars) == len(equation.invars) else None
    return None


def called_values(equation: Any) -> Sequence[Any]:
    """The values of the ``constvars`` of the program that an equation calls."""
    return _values(equation)[0]


def inner(equation: Any) -> list[Any]:
    """The programs that an equation calls: bodies of scans, functions with custom derivatives, compiled functions."""
    return [getattr(program, "jaxpr", program) for program in _programs(equation)]


def live(equations: list[Any], outputs: list[Any]) -> list[Any]:
    """The equations that the outputs depend on."""
    needed = {atom for atom in outputs if not hasattr(atom, "val")}
    found = []
    for equation in reversed(equations):
        if not needed.isdisjoint(equation.outvars):
            found.append(equation)
            needed.update(atom for atom in equation.invars if not hasattr(atom, "val"))
    return found[::-1]


def _programs(equation: Any) -> list[Any]:
    """As the equation holds them: with their constants, or in a wrapper that has these."""
    if equation.primitive.name.startswith(COMBINING):
        return []
    values = [v for value in equation.params.values() for v in (value if isinstance(value, tuple) else (value,))]
    return [value for value in values if hasattr(getattr(value, "jaxpr", value), "eqns")]


def _values(equation: Any) -> list[Sequence[Any]]:
    return [getattr(program, "consts", ()) for program in _programs(equation)]


def _rank(atom: Any) -> int:
    return len(getattr(atom.aval, "shape", ()))
