"""Leases: which worker is on which bundle, agreed on by any number of workers on any number of hosts.

A lease is a file ``<bundle>.<number>``. A worker takes a free bundle by making number 1, and the bundle of a worker
that is gone by making the next number; either way by link(2), which only one can do. While it works it touches its
file. Nobody compares clocks of two hosts: a lease has run out when an observer saw no new time on it for
``seconds`` of its own clock, or when its holder is known to have ended. A worker that was frozen and woken finds
the next number there, or its own file removed; it does not hold the lease any more, and writes no row.

What this asks of a shared filesystem: link(2) fails where the name exists, rename(2) is atomic, a file that one host
has closed is seen whole by those that open it afterwards, and a new modification time is seen within half of
``seconds``. Local filesystems, NFS version 3 and later, Lustre and GPFS do this; object stores do not.
"""

import contextlib
import json
import os
import re
import threading
import time
import uuid
from collections.abc import Callable, Collection, Container, Iterator
from pathlib import Path
from typing import Any

from cnnjax import process
from cnnjax.strict_json import encode

LEASE_SECONDS = 60.0
BEATS = 6  # in the time that a lease lasts
NUMBER = re.compile(r"[1-9][0-9]{0,8}")  # of a lease; of other digits there are many


class Lease:
    """A bundle that is this worker's, until it is released or taken over.

    Attributes:
      bundle: its id.
      number: 1, or more where earlier holders were lost.
    """

    def __init__(self, directory: Path, bundle: str, number: int, record: str):
        self.bundle, self.number = bundle, number
        self._directory, self._record = directory, record

    def held(self) -> bool:
        """Whether it is still this worker's."""
        try:
            mine = self._path(self.number).read_text() == self._record
        except OSError:
            return False
        return mine and not self._path(self.number + 1).exists()

    def beat(self) -> None:
        """Says that the holder lives."""
        with contextlib.suppress(OSError):  # taken over, or the filesystem is away for a moment
            os.utime(self._path(self.number))

    @contextlib.contextmanager
    def beating(self, seconds: float) -> Iterator[None]:
        """Beats from a thread, ``BEATS`` times in ``seconds``, within this context."""
        over = threading.Event()

        def run() -> None:
            while not over.wait(seconds / BEATS):
                self.beat()

        thread = threading.Thread(target=run, daemon=True, name=f"lease of {self.bundle}")
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def release(self) -> None:
        """Gives the bundle back. What it was taken for must be done before, or nobody knows."""
        if self.held():
            for number in range(1, self.number + 1):  # from below: an earlier holder never finds itself the last
                with contextlib.suppress(OSError):  # gone, or the disk refuses: others see that the holder has ended
                    self._path(number).unlink()

    def _path(self, number: int) -> Path:
        return self._directory / f"{self.bundle}.{number}"


class Leases:
    """The leases of one directory, as one worker sees them.

    Args:
      directory: made when the first lease is taken, in a directory that is there.
      worker: what this worker is called.
      seconds: how long a lease lasts without a beat.
      clock: seconds that only ever rise; its zero does not matter.
      holder: what is written into a lease about this worker; by default which process it is.
    """

    def __init__(
        self,
        directory: Path,
        worker: str,
        seconds: float = LEASE_SECONDS,
        clock: Callable[[], float] = time.monotonic,
        holder: process.Identity | None = None,
    ):
        self.directory, self.worker, self.seconds = directory, worker, seconds
        self._clock = clock
        self._holder = process.identity() if holder is None else holder
        self._seen: dict[str, tuple[int, float]] = {}  # file -> its time, and when it was first seen to have it
        self._beating: set[str] = set()  # bundles whose holder's time was seen to change
        self._holders: dict[str, tuple[int, dict[str, Any]]] = {}  # file -> its number on the disk, and what it says

    def acquire(self, bundle: str, **about: Any) -> Lease | None:
        """The lease of a bundle, or None where another worker has it.

        The caller then looks whether the bundle is done: its last holder may just have finished it.

        Args:
          bundle: an id without a dot.
          **about: goes into the file, for those who look.
        """
        number = self._last({bundle}).get(bundle, 0)
        if number and not self._run_out(f"{bundle}.{number}"):
            return None
        self.directory.mkdir(exist_ok=True)
        known = {"worker": self.worker, "seconds": self.seconds, "since": time.time(), **self._holder, **about}
        record = encode({**known, "token": uuid.uuid4().hex})
        partial = process.partial(self.directory, "lease")
        try:
            partial.write_text(record)
            os.link(partial, self.directory / f"{bundle}.{number + 1}")
        except FileExistsError:  # another was faster
            return None
        finally:
            partial.unlink(missing_ok=True)
        return Lease(self.directory, bundle, number + 1, record)

    def holders(self) -> dict[str, dict[str, Any]]:
        """What the last lease of every bundle says about its holder, with ``beat``, the time of its last beat."""
        found = {}
        for bundle, number in self._last().items():
            with contextlib.suppress(OSError):  # released in this moment
                path = self.directory / f"{bundle}.{number}"
                found[bundle] = {"worker": "", **_record_of(path), "beat": path.stat().st_mtime}
        return found

    def taken(self) -> set[str]:
        """The bundles that have a lease, run out or not."""
        return set(self._last())

    def run_out(self, bundle: str) -> bool:
        """Whether the bundle's holder is lost; also where there is none."""
        return bool(self.lost([bundle]))

    def lost(self, bundles: Collection[str]) -> list[str]:
        """Those bundles whose holders are lost, or that have none, in their order."""
        last = self._last(bundles)
        return [bundle for bundle in bundles if bundle not in last or self._run_out(f"{bundle}.{last[bundle]}")]

    def lively(self, bundles: Collection[str]) -> list[str]:
        """Those bundles whose holders were seen to beat: it takes a while to know."""
        return [bundle for bundle in bundles if bundle in self._beating]

    def anyone(self) -> bool:
        """Whether any worker, this one too, holds a lease that has not run out."""
        return any(not self._run_out(f"{bundle}.{number}") for bundle, number in self._last().items())

    def clean(self) -> None:
        """Removes what kills have left, and the directory if nothing else is in it."""
        lost = self.lost(self.taken())
        for bundle, number in sorted(self._numbers(), key=lambda entry: entry[1]):
            if bundle in lost:
                (self.directory / f"{bundle}.{number}").unlink(missing_ok=True)
        process.sweep_up(self.directory)
        with contextlib.suppress(OSError):
            self.directory.rmdir()

    def _last(self, bundles: Container[str] | None = None) -> dict[str, int]:
        """The number of the last lease of every bundle, or of those asked for, that has any."""
        last: dict[str, int] = {}
        for bundle, number in self._numbers(bundles):
            last[bundle] = max(number, last.get(bundle, 0))
        return last

    def _numbers(self, bundles: Container[str] | None = None) -> list[tuple[str, int]]:
        """Bundle and number of every lease, or of those of the bundles asked for."""
        try:
            names = os.listdir(self.directory)
        except FileNotFoundError:
            return []
        split = (name.rpartition(".") for name in names if not name.startswith("."))
        wanted = split if bundles is None else (parts for parts in split if parts[0] in bundles)
        return [(bundle, int(number)) for bundle, _, number in wanted if bundle and NUMBER.fullmatch(number)]

    def _run_out(self, name: str) -> bool:
        try:
            about = os.stat(self.directory / name)
            file, holder = self._holders.get(name, (None, {}))
            if file != about.st_ino:  # one that has not been read yet
                holder = _record_of(self.directory / name)
                self._holders[name] = about.st_ino, holder
            if holder and process.gone(holder) and process.gone(_record_of(self.directory / name)):  # numbers come back
                return True
        except OSError:  # released in this moment: the next look tells
            return False
        touched = about.st_mtime_ns
        seen, since = self._seen.get(name, (None, 0.0))
        if touched != seen:
            if seen is not None:
                self._beating.add(name.rpartition(".")[0])
            self._seen[name] = (touched, self._clock())
            return False
        return self._clock() - since >= max(self.seconds, holder.get("seconds", 0.0))


def _record_of(path: Path) -> dict[str, Any]:
    """What a lease says of its holder; nothing where it was damaged, such as by copying half of a directory."""
    with contextlib.suppress(ValueError):
        with open(path, "rb", buffering=0) as file:  # it is short, and there may be thousands
            found = json.loads(file.read())
        return found if isinstance(found, dict) else {}
    return {}
