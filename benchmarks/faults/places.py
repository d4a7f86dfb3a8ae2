"""Results directories that are moved, spoilt or filled while a sweep runs."""

import contextlib
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.faults.disk import _cannot_mount, _fill, _small_disk
from benchmarks.faults.finding import Finding, Place
from benchmarks.faults.killed import finished, in_peace
from benchmarks.faults.processes import Ended, Sweep, ended_afterwards, wait_for

# Long enough that the end of the third bundle is far away when the first one has its rows.
FLAGS = ("--preset=smoke", "--steps=600", "--driver=scan", "--lanes=2", "--checkpoint_seconds=0")
Mend = Callable[[], Path]  # puts right what was spoilt, and says where the results are now


def places(place: Place) -> Finding:
    """The directory moved, exchanged and removed; it or its rows made unwritable; its disk filled; all in training."""
    if reason := _cannot_mount(place):
        return Finding.impossible(reason)
    problems, slowest, codes = [], 0.0, {}
    for workers in (2,) if place.quick else (0, 2):
        expected, _ = in_peace(place, f"peace-{workers}", *FLAGS, f"--workers={workers}")
        for name in list(SPOILT)[:2] if place.quick else SPOILT:
            label = f"{name}, {workers} workers"
            sweep = Sweep(place, place.fresh(f"{name}-{workers}".replace(" ", "-")), *FLAGS, f"--workers={workers}")
            with contextlib.ExitStack() as disks:
                if name == "the disk fills":
                    disks.enter_context(_small_disk(sweep.workdir, kibibytes=16384))
                ended, bundles, mend = _spoilt_in_training(place, sweep, SPOILT[name])
                codes[label], slowest = ended.code, max(slowest, ended.seconds)
                problems += [f"{label}: {problem}" for problem in _badly_ended(ended)]
                if bundles > 2 * max(workers, 1):
                    problems.append(f"{label}: {bundles} bundles were begun after it")
                if name in ("moved", "removed") and sweep.directory.exists():
                    problems.append(f"{label}: the directory was made again")
                where = mend()
                again = Sweep(place, where.parent, *FLAGS, f"--workers={workers}")
                problems += finished(again, expected, label)
    return Finding.of(problems, exit_codes=codes, slowest_end_seconds=round(slowest, 1))


def _spoilt_in_training(
    place: Place, sweep: Sweep, spoil: Callable[[Path], tuple[Mend, Path]]
) -> tuple[Ended, int, Mend]:
    """Starts a sweep, spoils its place when it has its first rows and is in training; how it ended, counted from then.

    Returns:
      How it ended, how many bundles were begun after that moment, and what mends the place.
    """
    process = sweep.start()
    with ended_afterwards(process):
        wait_for(lambda: (sweep.rows() and len(sweep.events("began")) > 1) or not process.runs)
        process.signal(signal.SIGSTOP)
        before = len(sweep.events("began"))
        mend, look = spoil(sweep.directory)
        process.started = time.monotonic()
        process.signal(signal.SIGCONT)
        ended = process.wait(300)
    now = Sweep(place, look.parent)
    return ended, len(now.events("began")) - before, mend


def _badly_ended(ended: Ended) -> list[str]:
    """What is wrong with how a sweep ended that could not go on."""
    problems = [] if ended.code == 1 else [f"exit code {ended.code}"]
    lines = [
        line for line in ended.err.splitlines() if not line.startswith(("checkpoint", "The checkpoint", "The log"))
    ]
    if len(lines) != 1 or "the same command goes on" not in ended.err:
        problems.append(f"it does not end with one line: {ended.err[-500:]!r}")
    return problems


def _moved(directory: Path) -> tuple[Mend, Path]:
    target = directory.parent.with_name(f"{directory.parent.name}-elsewhere") / directory.name
    target.parent.mkdir()
    directory.rename(target)
    return lambda: target, target


def _exchanged(directory: Path) -> tuple[Mend, Path]:
    mend, target = _moved(directory)
    directory.mkdir()
    return mend, target


def _removed(directory: Path) -> tuple[Mend, Path]:
    kept = directory.with_name("kept")
    shutil.copytree(directory, kept)
    shutil.rmtree(directory)

    def mend() -> Path:
        kept.rename(directory)
        return directory

    return mend, directory


def _read_only(directory: Path, folder: str = "") -> tuple[Mend, Path]:
    path = str(directory / folder)
    subprocess.run(["mount", "--bind", path, path], check=True, capture_output=True)
    subprocess.run(["mount", "-o", "remount,bind,ro", path], check=True, capture_output=True)

    def mend() -> Path:
        subprocess.run(["umount", "-l", path], check=True, capture_output=True)
        return directory

    return mend, directory


def _rows_read_only(directory: Path) -> tuple[Mend, Path]:
    return _read_only(directory, "rows")


def _rows_a_file(directory: Path) -> tuple[Mend, Path]:
    rows, kept = directory / "rows", directory / "kept"
    rows.rename(kept)
    rows.write_text("in the way")

    def mend() -> Path:
        rows.unlink()
        kept.rename(rows)
        return directory

    return mend, directory


def _full(directory: Path) -> tuple[Mend, Path]:
    ballast = _fill(directory)

    def mend() -> Path:
        ballast.unlink()
        return directory

    return mend, directory


SPOILT = {
    "removed": _removed,
    "rows are a file": _rows_a_file,
    "moved": _moved,
    "exchanged": _exchanged,
    "read-only": _read_only,
    "rows are read-only": _rows_read_only,
    "the disk fills": _full,
}
