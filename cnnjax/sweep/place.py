"""The directory of a sweep: whether all of it can be written, and whether it is still the one that was opened.

While a sweep runs, its directory may be moved, removed, or lose its room. Nothing is then written anywhere else: the
sweep stops with one line, and the same command goes on when that is mended.
"""

import contextlib
import os
import stat
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from cnnjax import process
from cnnjax.text import shortened
from cnnjax.typing import UsageError

FOLDERS = ("rows", "leases", "failed", "checkpoints", "weights", "log", "figures", "tensorboard", "wandb")
FILES = ("manifest.json", "results.csv", "verdict.json", "report.html", "measured.json")
PROBE_BYTES = 4096  # a row is about as long
LONGEST = 3600  # bytes of a directory's name: systems know paths of 4,096, and a sweep adds to it
LONGEST_PART = 255  # bytes of what is between two slashes

Identity = tuple[int, int]  # device and number of a directory


class Unwritable(RuntimeError):
    """Results cannot be written any more. The sweep stops; what is finished is kept, and the same command goes on."""


class Place:
    """A directory that is there, held by its number: no other gets that number while this object lives.

    Args:
      directory: which.
      identity: that it must have, where another process of this machine has opened it; None takes what is there.

    Raises:
      Unwritable: it is not there, or it is another one.
    """

    def __init__(self, directory: Path, identity: Identity | None = None):
        self.directory = directory
        try:
            handle = os.open(directory, getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY)
        except OSError:
            self._gone()
        weakref.finalize(self, os.close, handle)
        self.identity = _identity(os.fstat(handle))
        if identity not in (None, self.identity):
            self._gone()

    def check(self) -> None:
        """Refuses to go on where the directory was moved or removed, also if there is another one in its place.

        Raises:
          Unwritable: it was.
        """
        try:
            there = _identity(os.stat(self.directory))
        except OSError:
            there = None
        if there != self.identity:
            self._gone()

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Around what writes into the directory.

        Raises:
          Unwritable: the directory is not there any more, or the disk refuses.
        """
        self.check()
        try:
            yield
        except OSError as error:
            self.check()
            raise Unwritable(
                f"{_named(error, self.directory)} cannot be written ({error.strerror or error}), so the sweep stops. "
                "Finished runs are kept. Make room, or change its permissions; the same command goes on."
            ) from error

    def _gone(self) -> NoReturn:
        raise Unwritable(
            f"{self.directory} was moved or removed while the sweep ran, so it stops; nothing is written elsewhere. "
            "Move it back, or name its new place; the same command goes on."
        )


def check_name(directory: Path) -> None:
    """Refuses a directory that no file system can hold, before anything looks into it.

    Raises:
      UsageError: its name, or a part of it, is too long.
    """
    if len(os.fsencode(directory)) > LONGEST or any(len(os.fsencode(part)) > LONGEST_PART for part in directory.parts):
        raise UsageError(f"The name {shortened(str(directory))} is too long. Use another --workdir.")


def probe(directory: Path) -> None:
    """Tries in a directory, and in each folder of a sweep that it has, all that a sweep does; leaves nothing there.

    Args:
      directory: of the results; where it is not there yet, the nearest above it that is.

    Raises:
      UsageError: something cannot be done, or stands in the way; names it.
    """
    try:
        existing = directory
        while not existing.exists():
            existing = existing.parent
        if existing == directory:
            _refuse_obstacles(directory)
        for folder in (existing, *(existing / name for name in FOLDERS if existing == directory)):
            if folder == existing or folder.exists():
                _try_all(folder)
    except OSError as error:
        raise UsageError(
            f"Nothing can be written to {shortened(str(directory))} ({error.strerror or error}). Use another --workdir."
        ) from error


def _refuse_obstacles(directory: Path) -> None:
    """A folder in the place of a file, or a file in the place of a folder."""
    for name, is_right, right in (
        *((name, stat.S_ISREG, "file") for name in FILES),
        *((name, stat.S_ISDIR, "directory") for name in FOLDERS),
    ):
        path = directory / name
        if path.exists() and not is_right(path.stat().st_mode):
            raise UsageError(f"{path} is in the way: it must be a {right}. Remove it, or use another --workdir.")


def _try_all(folder: Path) -> None:
    """Permissions are not all that counts, so each kind of change is tried."""
    if not folder.is_dir():
        raise UsageError(f"{folder} is not a directory. Use another --workdir.")
    first, second = process.partial(folder, "probe"), process.partial(folder, "probe")
    try:
        with open(first, "wb") as file:
            file.write(bytes(PROBE_BYTES))
        os.link(first, second)
        first.unlink()
        os.replace(second, first)
        first.unlink()
        first.mkdir()
        first.rmdir()
    except OSError as error:
        with contextlib.suppress(OSError):
            first.unlink(missing_ok=True)
            second.unlink(missing_ok=True)
        raise UsageError(
            f"Nothing can be written to {folder} ({error.strerror}). Make room, change its permissions, or use another "
            "--workdir."
        ) from error


def _identity(about: os.stat_result) -> Identity:
    return about.st_dev, about.st_ino


def _named(error: OSError, directory: Path) -> str:
    """Which file of the directory an error is about."""
    if not isinstance(error.filename, str | os.PathLike):
        return str(directory)
    path = Path(error.filename)
    return str(path.parent if path.name.startswith(process.PARTIAL) else path)
