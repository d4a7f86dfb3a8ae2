"""How far sweeps are: runs done, running and failed, who works on what, and when all will be done.

  cnnjax status DIR [DIR...] [--follow] [--json]

DIR is the directory of a sweep, or a folder of several, such as runs. It is read, never written, so any machine that
sees it can ask. A worker renews its lease all the time; one whose lease is stale is lost, and the next worker takes its
runs over. (Its age is told by the clock of this machine; the workers compare no clocks.) The end is forecast from the
seconds of the runs that are done. Rows are looked at, not checked to the bit: cnnjax compare reads them whole.

With --follow the table is renewed until all is done; where the output is no terminal, a line is printed when something
has changed.

examples:
  cnnjax status runs
  cnnjax status runs/degradation --follow
  cnnjax status runs/degradation --json
"""

import dataclasses
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cnnjax.cli.arguments import Arguments
from cnnjax.strict_json import encode
from cnnjax.text import printable

if TYPE_CHECKING:
    from cnnjax.cli.sweep_status import Observer, Status, Working

LOOK_SECONDS = 2.0
SHOWN = 8  # workers and failures of a sweep on the screen; JSON has all


def define(arguments: Arguments, argv: list[str]) -> None:
    """Defines the flags."""
    arguments.add("follow", bool, False, "renew until all is done")
    arguments.add("json", bool, False, "print everything as JSON")


def run(arguments: Arguments) -> None:
    """Prints how far the sweeps are.

    Raises:
      UsageError: no directory is named, or one holds no sweep.
    """
    from cnnjax.cli.sweep_status import Observer, sweeps
    from cnnjax.typing import UsageError

    if not arguments.positional:
        raise UsageError("Name the directory of a sweep, or a folder of several, such as runs.")
    if arguments.follow and arguments.json:
        raise UsageError("--follow and --json exclude each other. Leave out one.")
    found = {path: None for name in arguments.positional for path in sweeps(Path(name))}
    observers = [Observer(path) for path in found]
    if arguments.follow:
        _follow(observers)
    elif arguments.json:
        print(encode([as_json(observer.look()) for observer in observers], indent=1))
    else:
        from cnnjax.tables import show

        show(*parts([observer.look() for observer in observers]))


def as_json(status: "Status") -> dict[str, Any]:
    """The status as JSON values."""
    counts = {"waiting": status.waiting, "running": status.running, "images_per_second": status.images_per_second}
    return {**dataclasses.asdict(status), **counts}


def parts(statuses: list["Status"]) -> list[Any]:
    """A table of the sweeps, and below it who works on what, and what is wrong."""
    from rich.table import Table
    from rich.text import Text

    table = Table()
    table.add_column("sweep", no_wrap=True)
    for title in ("runs", "done", "diverged", "failed", "running", "waiting", "runs/min", "images/s", "left, about"):
        table.add_column(title, justify="right", no_wrap=True)
    for status in statuses:
        counts = (status.total, status.done, status.diverged, len(status.failed), status.running, status.waiting)
        table.add_row(
            Text(status.directory), *(f"{count:,}" for count in counts), f"{status.per_minute:.1f}",
            f"{status.images_per_second:,.0f}" if status.running else "", _left(status),
        )  # fmt: skip
    lines: list[Any] = [table]
    for status in statuses:
        told = _details(status)
        if told and len(statuses) > 1:
            lines.append(Text(f"\n{status.directory}", style="bold"))
        lines += told
    return lines


def _details(status: "Status") -> list[Any]:
    from rich.text import Text

    lines: list[Any] = [
        Text(_worker_line(each), style="" if each.live else "yellow") for each in status.working[:SHOWN]
    ]
    if len(status.working) > SHOWN:
        lines.append(f"and {len(status.working) - SHOWN} more bundles; --json has all.")
    for run, reason in list(status.failed.items())[:SHOWN]:
        lines.append(Text(f"failed {run}: {_last_line(reason)}", style="red"))
    if len(status.failed) > SHOWN:
        lines.append(f"and {len(status.failed) - SHOWN} more failures; --json has all.")
    lines += [Text(f"Code: {status.code}.")] if status.code else []
    return lines + [Text(problem, style="red") for problem in status.problems]


def _worker_line(each: "Working") -> str:
    more = f" and {len(each.runs) - 1} more" if len(each.runs) > 1 else ""
    place = "" if each.host in ("", each.worker.rpartition("-")[0].rpartition("-")[0]) else f" on {each.host}"
    if not each.live:
        return (
            f"lost    {each.runs[0]}{more}: {each.worker}{place} is silent since {_clock(each.silent)}; the next "
            "worker goes on from the last checkpoint."
        )
    step = "starting" if each.step is None else f"step {each.step:,} of {each.steps:,}"
    rate = "" if each.images_per_second is None else f", {each.images_per_second:,.0f} images/s"
    return f"running {each.runs[0]}{more}: {step}{rate}; {each.worker}{place} since {_clock(time.time() - each.since)}"


def _left(status: "Status") -> str:
    if status.seconds_left is not None and not status.over:
        return _clock(status.seconds_left)
    if status.work_left and not status.over:
        return f"{_clock(status.work_left)} of a worker"
    return ""


def _clock(seconds: float) -> str:
    """``4 s``, ``3 min``, ``2 h 05 min`` or ``3 d 4 h``."""
    whole = max(0, int(seconds))
    if whole < 120:
        return f"{whole} s"
    if whole < 7200:
        return f"{whole // 60} min"
    if whole < 172800:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def _last_line(reason: str) -> str:
    return (reason.strip().splitlines() or [""])[-1]


def _follow(observers: list["Observer"]) -> None:
    from rich.live import Live

    from cnnjax.console import Console

    console = Console()
    if not console.is_terminal:
        _follow_lines(observers)
        return
    with Live(console=console, auto_refresh=False) as live:
        while True:
            statuses = [observer.look() for observer in observers]
            live.update(_group(parts(statuses)), refresh=True)
            if all(status.over for status in statuses):
                return
            time.sleep(LOOK_SECONDS)


def _follow_lines(observers: list["Observer"]) -> None:
    last: dict[str, str] = {}
    while True:
        statuses = [observer.look() for observer in observers]
        for status in statuses:
            line = _line(status)
            if last.get(status.directory) != line:
                last[status.directory] = line
                print(f"{time.strftime('%H:%M:%S')} {printable(line)}", flush=True)
        if all(status.over for status in statuses):
            return
        time.sleep(LOOK_SECONDS)


def _line(status: "Status") -> str:
    counts = {
        "diverged": status.diverged, "failed": len(status.failed), "running": status.running,
        "waiting": status.waiting, "damaged": len(status.damaged),
    }  # fmt: skip
    told = "".join(f", {count} {name}" for name, count in counts.items() if count)
    return f"{status.directory}: {status.done} of {status.total} done{told}"


def _group(lines: list[Any]) -> Any:
    from rich.console import Group

    return Group(*lines)
