"""Disks that are full, read-only or damaged."""

import contextlib
import logging
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.faults import storm
from benchmarks.faults.finding import Finding, Place
from benchmarks.faults.killed import finished, in_peace, newest_checkpoint
from benchmarks.faults.processes import Sweep, ended_afterwards, wait_for
from cnnjax.data import DataConfig, load
from cnnjax.train.program import Driver
from cnnjax.train.run import Interrupted, train
from cnnjax.typing import UsageError

# A full disk


def full_disk(place: Place) -> Finding:
    """A small disk that is full at a save, at a row and at the log; one full from the start; a read-only one."""
    if reason := _cannot_mount(place):
        return Finding.impossible(reason)
    flags = ("--preset=smoke", "--steps=600", "--seeds=2", "--driver=scan", "--lanes=2", "--workers=0")
    often = (*flags, "--checkpoint_seconds=0")
    expected, _ = in_peace(place, "peace", *often)
    problems, codes = [], {}
    cases = {
        "save": (often, "checkpoints", _after_a_checkpoint),
        "everything": (often, ".", _after_a_checkpoint),
        "row": ((*flags, "--checkpoint_seconds=3600"), "rows", _in_training),
        "log": (often, "log", _in_training),
    }
    for name in list(cases)[:2] if place.quick else cases:
        given, where, moment = cases[name]
        sweep = Sweep(place, place.fresh(f"full-{name}"), *given)
        with contextlib.ExitStack() as disks:
            if where == ".":
                disks.enter_context(_small_disk(sweep.workdir, kibibytes=2048))
            else:  # part of a directory that a sweep has opened
                sweep.run(STORM_KILL="replace:manifest:after:1")
                disks.enter_context(_small_disk(sweep.directory / where, kibibytes=2048))
            code, wrong = _filled(sweep, sweep.directory / where, moment)
            codes[name] = code
            if code == 0 and name in ("everything", "row"):
                wrong.append("it ends with 0, though results could not be kept")
            wrong += finished(sweep, expected, "with room again")
            # The place of a disk cannot be removed.
            problems += [f"full at {name}: {each}" for each in wrong if not each.endswith(f": {where} was left behind")]
    problems += _refused_places(place, flags, codes)
    return Finding.of(problems, exit_codes=codes)


def _cannot_mount(place: Place) -> str:
    """Why no small disk can be made here; empty where one can."""
    try:
        with _small_disk(place.fresh("mount"), kibibytes=64):
            return ""
    except (OSError, subprocess.CalledProcessError) as error:
        return f"no file system can be mounted here: {error}"


@contextlib.contextmanager
def _small_disk(path: Path, kibibytes: int, options: str = "") -> Iterator[None]:
    """An empty disk of this size in the place of ``path``."""
    path.mkdir(parents=True, exist_ok=True)
    size = f"size={kibibytes}k{options}"
    subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(path)], check=True, capture_output=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True, capture_output=True)


def _fill(disk: Path) -> Path:
    """Takes all the room there is."""
    ballast = disk / ".ballast"
    with contextlib.suppress(OSError), ballast.open("wb") as file:
        while True:
            os.write(file.fileno(), bytes(4096))
    return ballast


def _in_training(sweep: Sweep) -> bool:
    return bool(sweep.events("began"))


def _after_a_checkpoint(sweep: Sweep) -> bool:
    return newest_checkpoint(sweep) > 0


def _filled(sweep: Sweep, disk: Path, moment: Callable[[Sweep], bool]) -> tuple[int, list[str]]:
    """Runs a sweep whose disk becomes full, and then has room again; its exit code and what is wrong."""
    problems = []
    process = sweep.start()
    with ended_afterwards(process):
        if not wait_for(lambda: moment(sweep) or not process.runs):
            problems.append("the moment to fill the disk did not come")
        process.signal(signal.SIGSTOP)
        kept, ballast = newest_checkpoint(sweep), _fill(disk)
        process.signal(signal.SIGCONT)
        ended = process.wait()
    if ended.code not in (0, 1):
        problems.append(f"exit code {ended.code}: {ended.err[-300:]}")
    if ended.code == 1 and "Traceback" in ended.err and "No space left" not in ended.err:
        problems.append(f"it does not say that the disk is full: {ended.err[-300:]}")
    if ended.code and newest_checkpoint(sweep) < kept:
        problems.append(f"the checkpoint of step {kept} is gone")
    for run, row in sweep.rows().items():
        if row["status"] != "done" or not row["parameters_digest"]:
            problems.append(f"row {run} is not whole")
    ballast.unlink(missing_ok=True)  # a sweep that finished cleans up
    return ended.code, problems


def _refused_places(place: Place, flags: tuple[str, ...], codes: dict[str, int]) -> list[str]:
    """A disk without any room, and a read-only one: refused before the training."""
    problems = []
    for name, kibibytes, options in (("no room", 4, ""), ("read-only", 64, ",ro")):
        sweep = Sweep(place, place.fresh(name.replace(" ", "-")), *flags)
        with _small_disk(sweep.workdir, kibibytes, options):
            if not options:
                _fill(sweep.workdir)
            ended = sweep.run()
        codes[name] = ended.code
        if ended.code != 2 or "Traceback" in ended.err or str(sweep.workdir) not in ended.err:
            problems.append(f"{name}: exit code {ended.code}: {ended.err[-300:]}")
    return problems


# Damaged checkpoints


def damage(place: Place) -> Finding:
    """Every file of a checkpoint deleted, emptied, halved, with flipped bits, or exchanged; then resumed."""
    spec = storm.spec("smoke", DataConfig())
    data, driver, hyper = load(spec.data), Driver("scan", 2), storm.hyper("smoke", spec.data)

    def run(directory: Path, seeds: list[int], stop_after: int | None = None) -> list[str]:
        looks = iter(range(10**6))
        try:
            outcomes = train(
                spec,
                [hyper] * 2,
                seeds,
                data,
                driver,
                checkpoints=directory,
                checkpoint_seconds=0.0,
                chunk_steps=20,
                should_stop=lambda: stop_after is not None and next(looks) >= stop_after,
            )
        except Interrupted:
            return []
        return [outcome.parameters_digest for outcome in outcomes]

    expected = run(place.fresh("peace"), [0, 1])
    mine, other = place.fresh("mine"), place.fresh("other")
    run(mine, [0, 1], stop_after=3)
    run(other, [2, 3], stop_after=3)
    steps = sorted(int(path.name) for path in mine.iterdir() if path.name.isdecimal())
    newest, before = (str(step) for step in (steps[-1], steps[-2]))
    files = sorted(path.relative_to(mine / newest) for path in (mine / newest).rglob("*") if path.is_file())
    heard, log = _Heard(), logging.getLogger("cnnjax")
    log.addHandler(heard)
    log.propagate = False  # every damage is told; nobody needs to read all
    problems: list[str] = []
    counts: dict[str, Any] = {
        "files": len(files),
        "checkpoints": steps,
        "damages": 0,
        "passed_over": 0,
        "refused": 0,
        "harmless": 0,
    }
    directory = place.fresh("damaged")
    for file in files[:: 3 if place.quick else 1]:
        for name, spoil in _SPOILT.items():
            shutil.rmtree(directory, ignore_errors=True)
            shutil.copytree(mine, directory)
            sources = {"swap steps": mine / before, "swap runs": other / newest}
            if not spoil(directory / newest / file, sources.get(name, mine) / file):
                continue
            heard.lines.clear()
            counts["damages"] += 1
            label = f"{name} of {file}"
            try:
                found = run(directory, [0, 1])
            except UsageError as error:
                counts["refused"] += 1
                if str(directory / newest) not in str(error):
                    problems.append(f"{label}: the refusal names no file: {str(error)[:200]}")
                continue
            except Exception as error:  # a crash is a finding, and not the end of the test
                problems.append(f"{label}: {type(error).__name__}: {str(error)[:200]}")
                continue
            told = [line for line in heard.lines if str(directory / newest) in line]
            counts["passed_over" if told else "harmless"] += 1
            if found != expected:
                problems.append(f"{label}: restored silently wrong")
    log.removeHandler(heard)
    log.propagate = True
    return Finding.of(problems, **counts)


class _Heard(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def _delete(file: Path, _: Path) -> bool:
    file.unlink()
    return True


def _empty(file: Path, _: Path) -> bool:
    before = file.stat().st_size
    file.write_bytes(b"")
    return before > 0


def _halve(file: Path, _: Path) -> bool:
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    return len(content) > 1


def _flip(file: Path, _: Path) -> bool:
    """One bit in each tenth of the file."""
    content = bytearray(file.read_bytes())
    for position in np.linspace(0, len(content) - 1, 10).astype(int) if content else ():
        content[position] ^= 4
    file.write_bytes(content)
    return bool(content)


def _exchange(file: Path, source: Path) -> bool:
    """The other's file in this one's place; False where they are the same, or there is none."""
    if not source.is_file() or source.read_bytes() == file.read_bytes():
        return False
    shutil.copyfile(source, file)
    return True


_SPOILT: dict[str, Callable[[Path, Path], bool]] = {
    "delete": _delete,
    "empty": _empty,
    "halve": _halve,
    "flip": _flip,
    "swap steps": _exchange,
    "swap runs": _exchange,
}
