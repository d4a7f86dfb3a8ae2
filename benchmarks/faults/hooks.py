"""A process that ends itself at a chosen place: inside a save, a rename, the writing of a row.

A kill from outside hits such a place rarely. ``STORM_KILL=CALL:PART:WHEN:NUMBER`` ends the process with SIGKILL
``before`` or ``after`` the NUMBER-th call of ``os.CALL`` on a path that holds PART, in whatever process of the sweep
comes to it. ``STORM_ODDS=P:SECONDS:SEED`` ends it with probability P for each row that it writes, up to SECONDS
later.
"""

import os
import random
import signal
import threading
import time
from typing import Any

CALLS = ("link", "replace", "rename", "fsync", "mkdir", "unlink")


def install() -> None:
    """Does what the environment says."""
    if chosen := os.environ.get("STORM_KILL"):
        call, part, when, number = chosen.split(":")
        _end_at(call, part, when, int(number))
    if odds := os.environ.get("STORM_ODDS"):
        probability, seconds, seed = odds.split(":")
        _end_by_chance(float(probability), float(seconds), random.Random(f"{seed} {os.getpid()} {time.time_ns()}"))


def _end() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _end_at(call: str, part: str, when: str, number: int) -> None:
    real = getattr(os, call)
    lock, calls = threading.Lock(), [0]

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        meant = any(part in _path_of(argument) for argument in args)
        with lock:
            calls[0] += meant
            now = meant and calls[0] == number
        if now and when == "before":
            _end()
        found = real(*args, **kwargs)
        if now:
            _end()
        return found

    setattr(os, call, wrapped)


def _end_by_chance(probability: float, seconds: float, random_: random.Random) -> None:
    real = os.link

    def link(source: Any, target: Any, **kwargs: Any) -> None:
        if "/rows/" in str(target) and random_.random() < probability:
            delay = random_.uniform(0, seconds)
            timer = threading.Timer(delay, _end)
            timer.daemon = True
            timer.start()
        real(source, target, **kwargs)

    os.link = link  # type: ignore[assignment]


def _path_of(argument: Any) -> str:
    """The path that an argument stands for, also where it is the number of an open file."""
    if isinstance(argument, int) and not isinstance(argument, bool):
        try:
            return os.readlink(f"/proc/self/fd/{argument}")
        except OSError:
            return ""
    return os.fsdecode(argument) if isinstance(argument, str | bytes | os.PathLike) else ""
