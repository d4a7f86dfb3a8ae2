"""How every command ends, whatever becomes of its output and of the paths that it is given."""

import contextlib
import errno
import os
import sys
from collections.abc import Callable
from typing import Any

from cnnjax.process import print_warnings_plainly
from cnnjax.text import never_fail_to_print, printable, shortened

NOBODY_READS = 141  # what a shell says of a program that SIGPIPE has ended
UNUSABLE = 2
# What is wrong with a path that somebody has named, or with the disk that it lies on; anything else is a fault of ours.
OF_PATHS = (
    *(errno.ENAMETOOLONG, errno.EISDIR, errno.ENOTDIR, errno.ENOENT, errno.EEXIST, errno.ELOOP, errno.EINVAL),
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT),
)


def ended(label: str, command: Callable[[], int]) -> int:
    """Runs a command, and returns its exit code.

    Standard output may go to a program that has ended, such as ``head``: then the code is ``NOBODY_READS``. Letters
    that the terminal does not have are written as escapes. A path that cannot be used is told in one line.

    Args:
      label: what the command is called.
      command: does its work and returns its exit code.
    """
    never_fail_to_print()
    print_warnings_plainly()
    try:
        try:
            code = command()
        except SystemExit as end:  # argparse has printed its help; or rich has met a broken pipe
            if isinstance(end.__context__, BrokenPipeError):
                raise end.__context__ from end
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        except OSError as error:
            if error.errno not in OF_PATHS or error.filename is None:
                raise
            name = os.fsdecode(error.filename) if not isinstance(error.filename, int) else str(error.filename)
            print(
                f"{label}: {printable(shortened(name))}: {error.strerror}. Give another path, or mend this one.",
                file=sys.stderr,
            )
            code = UNUSABLE
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
        return code
    except BrokenPipeError:
        for stream in (sys.stdout, sys.stderr):
            _let_go(stream)
        return NOBODY_READS


def _let_go(stream: Any) -> None:
    """What is left of a stream without a reader is dropped, so that Python does not complain at its end."""
    try:
        stream.flush()
    except BrokenPipeError:
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    except AttributeError:  # closed from the start
        pass
