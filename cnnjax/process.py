"""Which process this is, among all processes of all machines; whether and how another one ended; what it left behind.

A process that is started ``with_this_one``, or whose ``preexec_fn`` is ``ending_with_this_one``, ends when this one has
ended, at whatever moment and for whatever reason.

What is written whole or not at all is first written under the name that ``partial`` gives. A kill leaves such a file
or directory; its name says whose it was, and ``sweep_up`` removes those of processes that have ended.
"""

import contextlib
import ctypes
import hashlib
import logging
import os
import shutil
import signal
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

Identity = dict[str, Any]
PARTIAL = ".partial-"
ORPHAN_SECONDS = 5.0  # that a process has to save its state in when its parent has died
_LOOK_SECONDS = 0.5  # between two looks whether it has
_SET_PARENT_DEATH_SIGNAL = 1  # of prctl(2)
ABANDONED_SECONDS = 3600.0  # that what another machine writes must not change in, by this process's own clock
LABEL_LETTERS = 40  # of what a name begins with: systems know names of 255 bytes


def identity() -> Identity:
    """Host, boot, process namespace, number and start of this process; None for what the system does not tell."""
    return {**_machine(), "pid": os.getpid(), "started": _started(os.getpid())}


def gone(other: Identity) -> bool:
    """Whether that process has certainly ended; False also where it cannot be known from here."""
    here = _machine()
    if here["boot"] is None or any(other.get(name) != value for name, value in here.items()):
        return False
    started = _started(other["pid"])
    return started is None or started != other.get("started")


def end_with(parent: int, grace: float = ORPHAN_SECONDS) -> None:
    """From now on this process does not outlive its parent by more than about ``grace`` seconds, whatever it is doing.

    A thread looks whose child this is. An orphan is another's child at once, also where its parent had died before
    this was called; no number of a process that is used again can mislead it.

    Args:
      parent: its number, which the parent itself has told.
      grace: seconds to save a state in; the process may end by itself meanwhile.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_LOOK_SECONDS)
        time.sleep(grace)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True, name="parent").start()


@contextlib.contextmanager
def with_this_one(grace: float = ORPHAN_SECONDS) -> Iterator[None]:
    """Processes that multiprocessing spawns in this context call ``end_with`` in their first line.

    They import the user's program before they come to their target, which takes seconds: only the command line that
    starts them is early enough.
    """
    from multiprocessing import spawn

    usual = spawn.get_command_line

    def command_line(**about: Any) -> list[Any]:
        *start, program, last = usual(**about)
        where = f"import sys; sys.path[:] = {sys.path!r}"  # of this package, which need not be installed
        return [
            *start,
            f"{where}; from cnnjax import process; process.end_with({os.getpid()}, {grace}); {program}",
            last,
        ]

    spawn.get_command_line = command_line
    try:
        yield
    finally:
        spawn.get_command_line = usual


def ending_with_this_one(number: int = signal.SIGTERM) -> Callable[[], None]:
    """A ``preexec_fn`` for a command, which gets this signal when the thread that has started it is gone.

    Only Linux can do this; elsewhere nothing is done.
    """
    parent = os.getpid()
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None

    def settle() -> None:
        if libc:
            libc.prctl(_SET_PARENT_DEATH_SIGNAL, number)
            if os.getppid() != parent:  # it died before the kernel was asked
                os.kill(os.getpid(), number)

    return settle


def print_warnings_plainly() -> None:
    """From here on, warnings of the log are printed as they are: Python's own way where nobody has configured it.

    Otherwise the first line that a library logs by absl, as Orbax does, would configure it, and put a level and a name
    before everybody's warnings.
    """
    if logging.lastResort is not None and not logging.root.handlers:
        logging.root.addHandler(logging.lastResort)


def oom_kills(groups: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> int:
    """How many processes of this one's control group the kernel has killed for memory; 0 where it does not say.

    Args:
      groups: where control groups are mounted, version 1 or 2.
      own: which of them this process is in.
    """
    for line in (_text(str(own)) or "").splitlines():
        _, controllers, group = line.split(":", 2)
        if controllers == "":
            hierarchy, file = groups, "memory.events"
        elif "memory" in controllers.split(","):
            hierarchy, file = groups / "memory", "memory.oom_control"
        else:
            continue
        for place in (hierarchy / group.lstrip("/"), hierarchy):  # in a container its own group may be the root
            counts = dict(entry.split(" ", 1) for entry in (_text(str(place / file)) or "").splitlines())
            if "oom_kill" in counts:
                return int(counts["oom_kill"])
    return 0


def partial(directory: Path, label: str) -> Path:
    """A path in ``directory`` that no other process uses, for what is not whole yet; hidden, and its owner in it."""
    owner = f"{_machine_digest()}-{os.getpid()}-{_started(os.getpid())}"
    return directory / f"{PARTIAL}{label[:LABEL_LETTERS]}-{owner}-{uuid.uuid4().hex[:8]}"


def write_atomically(path: Path, content: bytes | str) -> None:
    """Replaces a file whole, flushed to the disk, or not at all: no reader, and no kill, finds a part of it.

    Text becomes UTF-8, with an escape for a byte of a file's name that is none.
    """
    unfinished = partial(path.parent, path.name)
    try:
        with open(unfinished, "wb") as file:
            file.write(content if isinstance(content, bytes) else content.encode(errors="backslashreplace"))
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def sweep_up(directory: Path) -> None:
    """Removes from ``directory`` what processes that have ended left half made.

    Of other machines, whose processes cannot be seen and whose clocks may differ: what did not change in
    ``ABANDONED_SECONDS`` between two calls of this process.
    """
    for path in directory.glob(f"{PARTIAL}*"):
        with contextlib.suppress(OSError, ValueError):  # just gone, or not of our naming
            if _abandoned(path):
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def _abandoned(path: Path) -> bool:
    machine, pid, started = path.name.split("-")[-4:-1]
    if machine == _machine_digest() and started != "None":
        return _started(int(pid)) != started
    state, now = _state(path), time.monotonic()
    before, since = _seen.get(path, (None, now))
    if state != before:
        _seen[path] = (state, now)
        return False
    return now - since > ABANDONED_SECONDS


_seen: dict[Path, tuple[Any, float]] = {}  # what others write: how it was, and since when this process has seen it so


def _state(path: Path) -> list[tuple[str, int, int]]:
    """What changes while something is written: name, size and time of a file, or of all in a directory."""
    paths = sorted((path, *path.rglob("*"))) if path.is_dir() else [path]
    abouts = [(each, each.stat()) for each in paths]
    return [(str(each), about.st_size, about.st_mtime_ns) for each, about in abouts]


@cache
def _machine_digest() -> str:
    return hashlib.sha256(repr(sorted(_machine().items())).encode()).hexdigest()[:8]


@cache
def _machine() -> Identity:
    return {
        "host": socket.gethostname(),
        "boot": _text("/proc/sys/kernel/random/boot_id"),
        "namespace": _link("/proc/self/ns/pid"),  # containers on one machine count processes apart
    }


def _started(pid: int) -> str | None:
    """When a process started, in ticks since the boot: numbers of processes are used again."""
    text = _text(f"/proc/{pid}/stat")
    if text is None:
        return None
    fields = text.rpartition(")")[2].split()  # the name before it may hold anything
    return None if fields[0] == "Z" else fields[19]


def _text(path: str) -> str | None:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return None


def _link(path: str) -> str | None:
    try:
        return os.readlink(path)
    except OSError:
        return None
