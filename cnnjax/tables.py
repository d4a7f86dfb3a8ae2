"""How tables are printed, and how sizes are written in them."""

from collections.abc import Sequence
from typing import Any

from cnnjax.text import printable

UNBOUNDED = 10_000  # columns of what is no terminal


def show(*parts: Any, console: Any = None) -> None:
    """Prints texts, as they are, and rich's tables: on a terminal with lines, elsewhere as columns two spaces apart.

    A table that is too wide for the terminal loses its vertical lines before it loses letters.

    Args:
      parts: one below the other.
      console: of rich; by default on standard output.
    """
    from rich import box
    from rich.table import Table

    from cnnjax.console import Console

    console = Console() if console is None else console
    if not console.is_terminal:
        console.width = UNBOUNDED
    for part in parts:
        if isinstance(part, Table) and not console.is_terminal:
            part.box = None
        elif isinstance(part, Table) and _width(console, part) > console.width:
            part.box = box.SIMPLE_HEAD
        if isinstance(part, Table) and part.box in (None, box.SIMPLE_HEAD):
            part.show_edge, part.pad_edge, part.padding = False, False, (0, 2 if part.box is None else 1, 0, 0)
        console.print(part, highlight=False, markup=False)


def cell(name: Any, style: str = "") -> Any:
    """A name from outside as text of rich, for a table's cell or title: no markup, and nothing steers the terminal."""
    from rich.text import Text

    return Text(printable(str(name)), style=style)


def _width(console: Any, table: Any) -> int:
    """Columns that a table needs, lines included."""
    return console.measure(table, options=console.options.update(max_width=UNBOUNDED)).maximum


def sides(shape: Sequence[Any]) -> str:
    """A shape as ``32x32x3``."""
    return "x".join(map(str, shape))


def square(lengths: Sequence[Any]) -> str:
    """Rows and columns: one number where they are equal."""
    return str(lengths[0]) if len(set(lengths)) == 1 else sides(lengths)


def size(count: int) -> str:
    """Bytes, as people read them: 1,000 are a kB."""
    number, units = float(count), ["B", "kB", "MB", "GB", "TB"]
    while number >= 1000 and len(units) > 1:
        number, units = number / 1000, units[1:]
    return f"{number:.3g} {units[0]}" if units[0] != "B" else f"{count} B"
