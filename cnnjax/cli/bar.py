"""A bar on the terminal for work that takes a while: how far, how fast, time left. Quiet elsewhere."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

Listener = Callable[..., None]


@contextmanager
def bar(total: int | None, unit: str, console: Any = None) -> Iterator[Listener]:
    """``listen(done, text, total)``: how much of ``total`` is done, what is at work, and a total that is news.

    Args:
      total: number of pieces of work; None where it is not known yet.
      unit: what a piece is called, such as "images".
      console: a rich console; standard error by default, so that standard output holds results only.
    """
    from cnnjax.console import Console

    console = Console(stderr=True) if console is None else console
    if not console.is_terminal:
        yield lambda done, text="", total=None: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn(unit),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        TextColumn("left"),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=total, rate="")

        def listen(done: int, text: str = "", total: int | None = total) -> None:
            speed = progress.tasks[0].speed
            rate = f"{speed:,.1f} {unit}/s" if speed else ""
            progress.update(task, completed=done, total=total, description=text, rate=rate)

        yield listen
