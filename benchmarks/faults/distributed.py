"""One data-parallel run over several processes on loopback: one is killed, the leading one is killed, one is frozen."""

import shutil
import signal
import socket
import time
from pathlib import Path

from benchmarks.faults.finding import Finding, Place
from benchmarks.faults.processes import Ended, Process, Sweep, differences, ended_afterwards, wait_for

LIMIT = 60.0  # seconds in which the others must have ended
STEPS = {True: 400, False: 1200}  # quick or not; saved at every look
WAYS = (("kill one", 1, signal.SIGKILL), ("kill the leader", 0, signal.SIGKILL), ("freeze one", 1, signal.SIGSTOP))


def joined(place: Place) -> Finding:
    """The others end with an exit code other than 0, and all started again give the rows of a run left in peace."""
    problems: list[str] = []
    slowest = 0.0
    counts = (2,) if place.quick else (2, 4)
    for count in counts:
        peace = _sweep(place, f"{count}-in-peace", place.quick)
        codes = [ended.code for ended in _finish(peace, count)]
        problems += [f"{count} processes left in peace ended with {codes}"] if any(codes) else []
        for name, victim, which in WAYS:
            sweep = _sweep(place, f"{count}-{name.replace(' ', '-')}", place.quick)
            found, seconds = _disturbed(sweep, count, victim, which)
            found += differences(peace.rows(), sweep.rows())
            problems += [f"{count} processes, {name}: {problem}" for problem in found]
            slowest = max(slowest, seconds)
    return Finding.of(problems, processes=list(counts), ways=[name for name, *_ in WAYS], slowest_end=round(slowest, 1))


def _disturbed(sweep: Sweep, count: int, victim: int, which: int) -> tuple[list[str], float]:
    """What is wrong when one of ``count`` processes gets a signal in mid-run, and how long the slowest other took."""
    problems: list[str] = []
    processes = _start(sweep, count)
    with ended_afterwards(*processes):
        if not wait_for(lambda: len(_saved(sweep)) == 2, LIMIT * 4):
            return ["no checkpoint was written"], 0.0
        processes[victim].signal(which, group=False)
        began = time.monotonic()
        for number, process in enumerate(processes):
            if number != victim:
                try:
                    code = process.wait(LIMIT).code
                except TimeoutError:
                    code = 0
                problems += [] if code else [f"process {number} ended with 0, or not within {LIMIT:.0f} s"]
        seconds = time.monotonic() - began
    saved = _saved(sweep)
    if rest := sorted(saved[-1].parent.glob(f"{saved[-1].name}.commit-*")) if saved else []:
        rest[0].unlink()  # as if one had died before it committed: the one before counts
    ended = _finish(sweep, count)
    problems += [f"process {n} ended with {e.code}: {e.err[-300:]}" for n, e in enumerate(ended) if e.code]
    if rest and "has not committed it" not in ended[0].err:
        problems.append("a checkpoint without the commit of one process was taken")
    return problems, seconds


def _sweep(place: Place, name: str, quick: bool) -> Sweep:
    workdir = place.fresh(name)
    shutil.rmtree(workdir, ignore_errors=True)
    flags = ("--preset=smoke", "--seeds=1", "--l2=0", f"--steps={STEPS[quick]}", "--evaluate_every=200")
    return Sweep(place, workdir, *flags, "--checkpoint_seconds=0")


def _start(sweep: Sweep, count: int) -> list[Process]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    joining = (f"--coordinator=127.0.0.1:{port}", f"--processes={count}")
    return [sweep.start(*joining, f"--process={number}") for number in range(count)]


def _finish(sweep: Sweep, count: int) -> list[Ended]:
    processes = _start(sweep, count)
    with ended_afterwards(*processes):
        return [process.wait() for process in processes]


def _saved(sweep: Sweep) -> list[Path]:
    """The checkpoints of the run, oldest first."""
    found = [path for path in (sweep.directory / "checkpoints").glob("*/*") if path.name.isdecimal()]
    return sorted(found, key=lambda path: int(path.name))
