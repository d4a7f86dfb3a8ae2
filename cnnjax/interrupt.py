"""Ctrl-C and SIGTERM as one exception, so that either leaves nothing half-written."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import NoReturn

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(KeyboardInterrupt):
    """By Ctrl-C or SIGTERM; no Exception, for libraries catch these where this has to pass.

    Not KeyboardInterrupt itself: where that passes through ``exec`` of a text, as in importing a module with
    dataclasses, ``python -m`` ends by SIGINT, whatever exit code the program then chooses.
    """


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """Within this context Ctrl-C and SIGTERM raise ``Stopped``; outside the main thread it does nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> NoReturn:
        raise Stopped

    before = {number: signal.signal(number, stop) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
