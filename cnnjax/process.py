"""Which process this is, among all processes of all machines; whether and how another one ended; what it left behind.

What is written whole or not at all is first written under the name that ``partial`` gives. A kill leaves such a file
or directory; its name says whose it was, and ``sweep_up`` removes those of processes that have ended.
"""

import contextlib
import hashlib
import os
import shutil
import socket
import time
import uuid
from functools import cache
from pathlib import Path
from typing import Any

Identity = dict[str, Any]
PARTIAL = ".partial-"
ABANDONED_SECONDS = 86400.0


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
    return directory / f"{PARTIAL}{label}-{owner}-{uuid.uuid4().hex[:8]}"


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
    """Removes from ``directory`` what processes that have ended left half made; of other machines, after a day."""
    for path in directory.glob(f"{PARTIAL}*"):
        with contextlib.suppress(OSError, ValueError):  # just gone, or not of our naming
            if _abandoned(path):
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def _abandoned(path: Path) -> bool:
    machine, pid, started = path.name.split("-")[-4:-1]
    if machine == _machine_digest() and started != "None":
        return _started(int(pid)) != started
    return time.time() - path.stat().st_mtime > ABANDONED_SECONDS


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
