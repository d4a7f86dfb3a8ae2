"""The terminal: rich's console, on which nothing that is printed steers it.

Texts come from files, names and messages of others. Whatever is in them, the terminal gets only the control
characters that rich itself writes, for colours and for lines that are drawn again.
"""

from collections.abc import Iterable
from typing import Any

import rich.console
from rich.segment import Segment

from cnnjax.text import printable_lines


class Console(rich.console.Console):
    r"""As rich's, with escapes such as ``\x1b`` for what would steer the terminal; see ``text.printable``."""

    def render(self, renderable: Any, options: rich.console.ConsoleOptions | None = None) -> Iterable[Segment]:
        """The segments of what is printed: those that steer the terminal are rich's own, the others have escapes."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=printable_lines(segment.text))
