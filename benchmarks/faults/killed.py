"""Sweeps that are killed, interrupted and shared: the table at the end must be that of one left in peace."""

import random
import re
import signal
import time
from pathlib import Path
from typing import Any

from benchmarks.faults.finding import Finding, Place
from benchmarks.faults.processes import Process, Sweep, differences, ended_afterwards

# Where a process ends itself, as ``hooks`` reads it: inside a save, at its rename, and in the writing of a row.
PLACES = (
    "fsync:/checkpoints/:before:3",
    "rename:/checkpoints/:before:1",
    "link:/rows/:before:2",
    "replace:/rows/:after:1",
    "fsync:/checkpoints/:after:9",
    "mkdir:/checkpoints/:after:2",
    "rename:/checkpoints/:after:1",
    "rename:/checkpoints/:before:4",
    "rename:/checkpoints/:after:4",
    "fsync:/rows/:before:2",
    "replace:/rows/:before:3",
    "link:/rows/:after:3",
    "unlink:/rows/:before:1",
    "link:/leases/:after:1",
    "unlink:/leases/:before:1",
    "replace:manifest:before:1",
    "replace:manifest:after:1",
)
LOOK = 50  # steps between two looks of the training loop, which saves at each where it is told to save often
FLAGS = ("--driver=scan", "--lanes=4", "--checkpoint_seconds=0")
PERIODS_LOST = 2  # the one that was trained, and the one whose save was being written


def kill(place: Place) -> Finding:
    """SIGKILL at random moments and at chosen places, and a start after each."""
    preset = "--preset=smoke" if place.quick else "--preset=paper"
    expected, seconds = in_peace(place, "one-worker", preset, *FLAGS, "--workers=1")
    moments = _at_random(place, (preset, *FLAGS, "--workers=1"), expected, seconds, kills=8 if place.quick else 100)
    alone, _ = in_peace(place, "no-worker", preset, *FLAGS, "--workers=0")
    places = _at_places(place, (preset, *FLAGS, "--workers=0"), alone, PLACES[:4] if place.quick else PLACES)
    problems = [*moments.pop("problems"), *places.pop("problems")]
    return Finding.of(problems, runs=len(expected), seconds_in_peace=round(seconds, 1), **moments, **places)


def in_peace(place: Place, name: str, *flags: str, **environment: str) -> tuple[dict[str, dict], float]:
    """The rows of a sweep that nothing happens to, and its seconds with everything compiled.

    Raises:
      RuntimeError: it fails, or gives other rows the second time.
    """
    sweeps = [Sweep(place, place.fresh(f"{name}-{again}"), *flags, environment=environment) for again in range(2)]
    ends = [sweep.run() for sweep in sweeps]
    for ended in ends:
        if ended.code:
            raise RuntimeError(f"the sweep fails by itself: {ended.err[-2000:]}")
    if wrong := differences(sweeps[0].rows(), sweeps[1].rows()):
        raise RuntimeError(f"the sweep does not repeat by itself: {wrong[:3]}")
    return sweeps[0].rows(), ends[1].seconds


def _at_random(
    place: Place, flags: tuple[str, ...], expected: dict[str, dict], seconds: float, kills: int
) -> dict[str, Any]:
    """Kills at uniformly random moments of an execution, every fourth sparing the workers; one sweep after another."""
    chance, problems, lost = random.Random(0), [], []
    done = sweeps = 0
    while done < kills:
        sweep = Sweep(place, place.fresh(f"random-{sweeps}"), *flags)
        sweeps += 1
        while done < kills:
            process = sweep.start()
            with ended_afterwards(process):
                time.sleep(chance.uniform(0, seconds))
                if not process.runs:
                    break
                process.signal(signal.SIGKILL, group=done % 4 != 3)
                process.popen.wait()
            done += 1
            lost.append(steps_lost(sweep))
        problems += finished(sweep, expected, f"sweep {sweeps}, killed {sweep.starts - 1} times")
    if max(lost) > PERIODS_LOST * LOOK:
        problems.append(f"a kill cost {max(lost)} steps")
    return {
        "random_kills": done,
        "random_sweeps": sweeps,
        "most_steps_lost": max(lost),
        "steps_between_checkpoints": LOOK,
        "problems": problems,
    }


def _at_places(
    place: Place, flags: tuple[str, ...], expected: dict[str, dict], chosen: tuple[str, ...]
) -> dict[str, Any]:
    """A sweep for each place at which its process ends itself."""
    problems, hit = [], 0
    for number, where in enumerate(chosen):
        sweep = Sweep(place, place.fresh(f"place-{number}"), *flags)
        ended = sweep.run(STORM_KILL=where)
        if ended.code == -signal.SIGKILL:
            hit += 1
        else:
            problems.append(f"{where} was not reached (exit code {ended.code})")
        problems += finished(sweep, expected, where)
    return {"kills_at_places": hit, "places": len(chosen), "problems": problems}


def finished(sweep: Sweep, expected: dict[str, dict], label: str) -> list[str]:
    """What is wrong with a sweep after one more start, which must finish it."""
    ended = sweep.run()
    problems = [] if ended.code == 0 else [f"exit code {ended.code}: {ended.err[-500:]}"]
    problems += differences(expected, sweep.rows())
    problems += [f"{name} was left behind" for name in sweep.leftovers()]
    return [f"{label}: {problem}" for problem in problems]


def newest_checkpoint(sweep: Sweep) -> int:
    """The step of the newest complete checkpoint there, or 0."""
    names = (path.name for path in (sweep.directory / "checkpoints").glob("*/*"))
    return max((int(name) for name in names if name.isdecimal()), default=0)


def steps_lost(sweep: Sweep) -> int:
    """Steps that the last worker to be killed had said to have done, and that no checkpoint holds."""
    told = sweep.events("began", "evaluated", "done")
    if not told or told[-1]["event"] != "evaluated":
        return 0
    return max(0, int(told[-1]["step"]) - newest_checkpoint(sweep))


# Signals


def interrupt(place: Place) -> Finding:
    """SIGTERM and Ctrl-C at random moments."""
    preset = ("--preset=smoke",) if place.quick else ("--preset=quick", "--steps=2000", "--evaluate_every=500")
    flags = (*preset, *FLAGS[:2], "--checkpoint_seconds=3600")
    kinds = ("--workers=0", "--workers=1")
    expected = {kind: in_peace(place, f"peace{kind}", *flags, kind) for kind in kinds}
    chance, problems, slowest = random.Random(0), [], 0.0
    counts = {"stopped": 0, "stopped_before_training": 0, "too_late": 0}
    resumed = 0
    for number in range(4 if place.quick else 30):
        kind = kinds[number % 2]
        rows, seconds = expected[kind]
        sweep = Sweep(place, place.fresh(f"signal-{number}"), *flags, kind)
        process = sweep.start()
        with ended_afterwards(process):
            time.sleep(chance.uniform(0, seconds))
            # Ctrl-C goes to the whole group, as from a terminal; SIGTERM to the command, as from ``kill``.
            which = signal.SIGINT if number % 4 < 2 else signal.SIGTERM
            sent, ran = time.monotonic(), process.runs
            process.signal(which, group=which == signal.SIGINT)
            try:
                ended = process.wait(60)
            except TimeoutError as error:
                problems.append(str(error))
                continue
        label = f"{which.name} number {number} to {kind}"
        slowest = max(slowest, time.monotonic() - sent)
        if not ran or ended.code == 0 or (sweep.directory / "report.html").exists():
            counts["too_late"] += 1
        elif not sweep.events("began"):
            counts["stopped_before_training"] += 1
        else:
            counts["stopped"] += 1
            problems += [f"{label}: {problem}" for problem in _badly_stopped(sweep, ended.code, ended.err)]
        wrong = finished(sweep, rows, label)
        resumed += not wrong
        problems += wrong
    if slowest > 10:
        problems.append(f"one took {slowest:.1f} s to end")
    return Finding.of(problems, **counts, identical_after_resuming=resumed, slowest_end_seconds=round(slowest, 1))


def _badly_stopped(sweep: Sweep, code: int, err: str) -> list[str]:
    """What is wrong with how a sweep in training ended after a signal."""
    problems = [] if code == 130 else [f"exit code {code}"]
    if "The same command resumes" not in err:
        problems.append(f"it does not say how to resume: {err[-300:]!r}")
    if "Traceback" in err:
        problems.append("a traceback")
    told = re.search(r"stopped at step (\d+) of", err)
    if told and int(told[1]) != newest_checkpoint(sweep):
        problems.append(f"it stopped at step {told[1]}, the checkpoint is of {newest_checkpoint(sweep)}")
    done = [event["bundle"] for event in sweep.events("done")]
    unfinished = [event for event in sweep.events("began") if event["bundle"] not in done]
    if unfinished and not newest_checkpoint(sweep):
        problems.append("the state is not saved")
    return problems


# Many workers


def workers(place: Place) -> Finding:
    """Processes of one fleet, each killed by chance for each row it writes; one more is frozen and woken."""
    seeds, members, odds = (4, 3, 0.3) if place.quick else (67, 8, 0.3)  # with three points: 12 or 201 runs
    flags = ("--preset=smoke", f"--seeds={seeds}", "--driver=scan", "--lanes=1", "--workers=0")
    often = ("--checkpoint_seconds=0", "--lease_seconds=3")
    expected, _ = in_peace(place, "one", *flags, *often)
    sweep, problems = Sweep(place, place.fresh("fleet"), *flags, *often), []

    def start(member: int) -> Process:
        return sweep.start(
            CNNJAX_SHARD=f"{member}/{members + 1}", STORM_ODDS=f"{odds}:0.5:{member}-{sweep.starts}" if member else ""
        )

    sleeper = start(0)
    running = {member: start(member) for member in range(1, members + 1)}
    frozen, kills = None, 0
    with ended_afterwards(sleeper):
        while running:
            time.sleep(0.02)
            frozen = frozen or _frozen_in_training(sweep, sleeper)
            for member, process in list(running.items()):
                if process.runs:
                    continue
                ended = running.pop(member).wait()
                if ended.code == -signal.SIGKILL:
                    kills += 1
                    running[member] = start(member)
                elif ended.code:
                    problems.append(f"member {member} ended with {ended.code}: {ended.err[-300:]}")
        problems += finished(sweep, expected, "the fleet")  # the last bundle, when its lease has run out
        refused = _wake(sweep, sleeper, frozen, problems)
        problems += [f"{problem} after waking" for problem in differences(expected, sweep.rows())]
        problems += [f"{name} was left behind after waking" for name in sweep.leftovers()]
    owners: dict[str, set[str]] = {}
    for event in sweep.events("done"):
        owners.setdefault(event["run"], set()).add(event["worker"])
    return Finding.of(
        problems,
        runs=len(sweep.rows()),
        members=members + 1,
        kills=kills,
        late_writes_refused=refused,
        runs_said_to_be_done_by_two=sum(len(those) > 1 for those in owners.values()),
    )


def _frozen_in_training(sweep: Sweep, process: Process) -> str | None:
    """Stops a process if it is in the middle of a bundle; the bundle."""
    if not process.runs or not _own(sweep, process, "began"):
        return None
    process.signal(signal.SIGSTOP)
    time.sleep(0.05)
    last = _own(sweep, process, "began", "done", "lost")[-1]
    rows = {path.stem for path in (sweep.directory / "rows").glob("*.json")}
    if last["event"] == "began" and not rows & set(last["runs"]):
        return last["bundle"]
    process.signal(signal.SIGCONT)
    return None


def _wake(sweep: Sweep, process: Process, bundle: str | None, problems: list[str]) -> int:
    """Wakes the frozen process, whose bundle another has done; 1 if it finds that out."""
    if bundle is None:
        problems.append("no process could be frozen in the middle of a bundle")
        return 0
    rows = {path: path.read_bytes() for path in (sweep.directory / "rows").glob("*.json")}
    process.signal(signal.SIGCONT)
    ended = process.wait(120)
    if ended.code:
        problems.append(f"the woken process ended with {ended.code}: {ended.err[-300:]}")
    if any(path.read_bytes() != content for path, content in rows.items()):
        problems.append("the woken process changed a row")
    events = [event["event"] for event in _own(sweep, process, "done", "lost") if event["bundle"] == bundle]
    if events != ["lost"]:
        problems.append(f"the woken process says of its bundle: {events}")
    return int(events == ["lost"])


def _own(sweep: Sweep, process: Process, *names: str) -> list[dict[str, Any]]:
    """What the log of one process says."""
    return [event for event in sweep.events(*names) if f"-{process.popen.pid}-" in event["worker"]]


# Two at once


def two_sweeps(place: Place) -> Finding:
    """The same command started twice at the same moment, and many writers of rows."""
    flags = ("--preset=smoke", "--seeds=2", "--driver=scan", "--lanes=2", "--workers=0")
    expected, _ = in_peace(place, "one", *flags)
    problems: list[str] = []
    pairs, shared = (2 if place.quick else 50), 0
    for number in range(pairs):
        sweep = Sweep(place, place.fresh(f"pair-{number}"), *flags)
        both = [sweep.start(), sweep.start()]
        with ended_afterwards(*both):
            ends = [process.wait() for process in both]
        problems += [f"pair {number}: exit code {e.code}: {e.err[-300:]}" for e in ends if e.code]
        problems += [f"pair {number}: {problem}" for problem in differences(expected, sweep.rows())]
        problems += [f"pair {number}: {name} was left behind" for name in sweep.leftovers()]
        owners = [event["run"] for event in sweep.events("done")]
        problems += [f"pair {number}: run {run} was trained twice" for run in set(owners) if owners.count(run) > 1]
        shared += len({event["worker"] for event in sweep.events("done")}) > 1
    writers, rows = (4, 50) if place.quick else (16, 1000)
    good = rows_of_writers(place, writers, rows, problems)
    return Finding.of(
        problems, pairs=pairs, pairs_that_shared_the_work=shared, rows_written=writers * rows, rows_that_parse=good
    )


SHARED = 10**9  # all writers write the rows of the seeds from here on
WRITER = """
import sys
from pathlib import Path
from cnnjax.strict_json import encode
from cnnjax.sweep.store import Store
from cnnjax.train.spec import digest_of_text
store, (writer, rows, shared) = Store(Path(sys.argv[1])), map(int, sys.argv[2:])
spec = {"text": "x" * 2000}
written = encode(spec)
signature = {"spec": digest_of_text(written)}
def write(seed):
    store.write({
        "run_id": digest_of_text(f'{{"hyper": {{}}, "seed": {seed}, "spec": {written}}}'), "seed": seed,
        "assignment": {}, "spec": spec, "hyper": {}, "signature": signature, "history": [],
        "signature_digest": digest_of_text(encode(signature)), "data": "", "parameters_digest": "",
        "metrics": {"loss": seed / 7}, "status": "done", "diverged_step": None,
    })
for number in range(rows):
    write(writer * rows + number)
    write(shared + number)
"""


def rows_of_writers(place: Place, writers: int, rows: int, problems: list[str]) -> int:
    """Rows that can be read after many processes wrote them at once, some of them the same."""
    import sys

    from cnnjax.sweep.store import Store

    directory = place.fresh("written")
    made = [
        Process(
            place.fresh("writers") / str(writer),
            [sys.executable, "-c", WRITER, str(directory), str(writer), str(rows), str(SHARED)],
            {},
        )
        for writer in range(writers)
    ]
    with ended_afterwards(*made):
        problems += [f"a writer ended with {e.code}: {e.err[-300:]}" for e in (p.wait() for p in made) if e.code]
    store, good = Store(directory), 0
    names = [path.stem for path in Path(directory / "rows").glob("*.json")]
    for name in names:
        try:
            good += store.read(name)["seed"] < SHARED
        except ValueError as error:
            problems.append(str(error))
    if len(names) != (writers + 1) * rows:
        problems.append(f"{len(names)} rows in place of {(writers + 1) * rows}")
    return good
