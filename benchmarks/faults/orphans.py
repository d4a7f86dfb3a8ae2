"""Supervisors that are killed: what they have started must end soon, and the same command must finish the sweep."""

import random
import signal
import time
from pathlib import Path

from benchmarks.faults.finding import Finding, Place
from benchmarks.faults.killed import finished, in_peace
from benchmarks.faults.processes import Process, Sweep, ended_afterwards, wait_for

FLAGS = ("--preset=smoke", "--driver=scan", "--lanes=4", "--checkpoint_seconds=0", "--workers=2")
LIMIT = 10.0  # seconds that a worker may outlive its supervisor


def orphans(place: Place) -> Finding:
    """SIGKILL to the supervisor alone, every second time within a second of its starting a worker."""
    expected, seconds = in_peace(place, "peace", *FLAGS)
    chance, problems = random.Random(0), list[str]()
    lived: list[float] = []  # seconds that something of each killed supervisor did
    kills, early, sweeps = (3 if place.quick else 50), 0, 0
    while len(lived) < kills:
        sweep = Sweep(place, place.fresh(f"orphans-{sweeps}"), *FLAGS)
        sweeps += 1
        while len(lived) < kills:
            process, soon = sweep.start(), len(lived) % 2 == 0
            with ended_afterwards(process):
                if soon:
                    _wait_for_a_worker(process)
                    time.sleep(chance.uniform(0, 1))
                else:
                    time.sleep(chance.uniform(0, seconds))
                if not process.runs:
                    break
                early += soon
                process.signal(signal.SIGKILL, group=False)
                process.popen.wait()
                lived.append(ending_of(process))
        problems += finished(sweep, expected, f"sweep {sweeps}, killed {sweep.starts - 1} times")
    if max(lived) >= LIMIT:
        problems.append(f"a worker outlived its supervisor by {max(lived):.1f} s or more")
    return Finding.of(
        problems,
        kills=len(lived),
        kills_within_a_second_of_starting_a_worker=early,
        sweeps=sweeps,
        kills_that_left_workers=sum(seconds > 0 for seconds in lived),
        longest_life_of_a_worker_afterwards_seconds=round(max(lived), 1),
    )


def _wait_for_a_worker(process: Process) -> None:
    wait_for(lambda: len(members(process)) > 1 or not process.runs)


def ending_of(process: Process) -> float:
    """Seconds that something of a dead process's session lived on; at most somewhat more than the limit."""
    if not members(process):
        return 0.0
    began = time.monotonic()
    wait_for(lambda: not members(process), LIMIT + 1, every=0.05)
    return time.monotonic() - began


def members(process: Process) -> list[int]:
    """What lives of the session that a process leads."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, session = path.read_text().rpartition(")")[2].split()[:4]
        except (OSError, ValueError):  # it has ended in this moment
            continue
        if int(session) == process.popen.pid and state != "Z":
            found.append(int(path.parent.name))
    return found
