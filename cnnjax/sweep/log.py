"""What workers do, as they do it: one file of JSON lines for each worker, which only it appends to.

``DIR/log/<worker>.jsonl`` holds an object a line: ``time`` (Unix seconds), ``worker``, ``event``, and what belongs to
the event. A line is one write at the end of the file, so a kill tears at most the last one. A log is worth less than a
run: where it cannot be written, one warning is printed and training goes on. After a kill a run goes on from its
checkpoint, or from its start, and repeats evaluations: readers take the last of each step.
"""

import contextlib
import json
import os
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from cnnjax.sweep.store import dumps
from cnnjax.sweep.writers import Event, check_writers, writer
from cnnjax.text import printable

__all__ = ["Event", "Log", "check_writers", "histories", "read", "recent", "writer"]

TAIL_BYTES = 2**18  # of each file, where only the newest events are wanted: some thousand of them


class Log:
    """The log of one worker. Nothing is made on disk before the first event.

    Args:
      directory: of the sweep.
      worker: a name that no other worker has.
      writers: what is told of every event too: names of ``writers.WRITERS``.

    Raises:
      UsageError: no such writer, or its library is not installed.
    """

    def __init__(self, directory: Path, worker: str, writers: Sequence[str] = ()):
        self.path = directory / "log" / f"{worker}.jsonl"
        self.worker = worker
        check_writers(writers)
        self._writers = {name: writer(name, directory) for name in writers}
        self._file: int | None = None
        self._torn = False
        self._warned: set[str] = set()

    def write(self, event: str, **fields: Any) -> None:
        """Appends a line, and tells the writers. Raises nothing: a line may be lost, a run may not."""
        entry: Event = {"time": time.time(), "worker": self.worker, "event": event, **fields}
        try:
            self._append(entry)
        except (OSError, TypeError, ValueError) as error:
            self._warn(str(self.path), error)
        for name, tell in list(self._writers.items()):
            try:
                tell(entry)
            except Exception as error:  # of somebody else's library: whatever it is, the run goes on
                self._warn(name, error)

    def close(self) -> None:
        """Closes the file and the writers; a later event opens the file again."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                os.close(self._file)
            self._file = None
        for name, tell in self._writers.items():
            try:
                tell.close()
            except Exception as error:
                self._warn(name, error)

    def _append(self, entry: Event) -> None:
        line = dumps(entry).replace("\n", "") + "\n"  # line ends inside texts are escaped
        if self._file is None:
            self.path.parent.mkdir(exist_ok=True)  # the sweep's directory itself is there, or it was moved
            self._file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            self._torn = os.fstat(self._file).st_size > 0  # by an earlier worker of this name, perhaps
        content = (b"\n" if self._torn else b"") + line.encode()
        self._torn = True
        self._torn = os.write(self._file, content) < len(content)
        if self._torn:
            raise OSError("the disk is full")

    def _warn(self, what: str, error: Exception) -> None:
        if what not in self._warned:
            self._warned.add(what)
            told = printable(f"The log {what} cannot be written ({error}). Training goes on without it.")
            print(told, file=sys.stderr)


def read(directory: Path) -> Iterator[Event]:
    """The events of all workers, each worker's in their order; lines that a kill or a full disk tore are left out.

    Args:
      directory: of the sweep.
    """
    for path in sorted((directory / "log").glob("*.jsonl")):
        with open(path, "rb") as file:
            yield from _events(file)


def recent(directory: Path, seconds: float) -> list[Event]:
    """The events of the last ``seconds`` or more, oldest first, without reading the files from their beginnings."""
    since = time.time() - seconds
    found: list[Event] = []
    with contextlib.suppress(FileNotFoundError), os.scandir(directory / "log") as entries:
        for entry in entries:
            if entry.name.endswith(".jsonl") and entry.stat().st_mtime >= since:
                found += _tail(Path(entry.path))
    return sorted(found, key=lambda event: event["time"])


def histories(directory: Path) -> dict[str, list[dict[str, Any]]]:
    """The evaluations so far of every run, also of those in training: run id -> records as in its row's history."""
    found: dict[str, dict[int, Event]] = {}
    for event in sorted(read(directory), key=lambda event: event["time"]):
        if event["event"] == "evaluated":
            found.setdefault(event["run"], {})[event["step"]] = event  # the last of each step
    about = ("time", "worker", "event", "bundle", "runs", "run")
    return {
        run: [{name: value for name, value in records[step].items() if name not in about} for step in sorted(records)]
        for run, records in found.items()
    }


def _tail(path: Path) -> list[Event]:
    with contextlib.suppress(OSError), open(path, "rb") as file:
        start = max(0, os.fstat(file.fileno()).st_size - TAIL_BYTES)
        file.seek(start)
        if start:
            file.readline()  # most likely a part of a line
        return list(_events(file))
    return []


def _events(lines: Iterable[bytes]) -> Iterator[Event]:
    for line in lines:
        with contextlib.suppress(ValueError):
            event = json.loads(line)
            if isinstance(event, dict) and {"time", "worker", "event"} <= set(event):
                yield event
