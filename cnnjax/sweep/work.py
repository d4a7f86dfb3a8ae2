"""The life of one worker: take a bundle that nobody has, train it, write its rows, until nothing is left to take.

Workers of one sweep, in however many processes on however many hosts, agree through the results directory alone: rows
say what is done, leases what is being done. Nobody hands out work, so nobody's death stops it.
"""

import errno
import itertools
import os
import random
import time
import traceback
from collections import deque
from collections.abc import Callable, Collection, Container, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cnnjax.data.catalog import DataConfig
from cnnjax.sweep.bundle import LeaseLost, run_bundle
from cnnjax.sweep.execution import Execution, Member
from cnnjax.sweep.lease import Lease, Leases
from cnnjax.sweep.log import Log
from cnnjax.sweep.place import Identity, Unwritable
from cnnjax.sweep.plan import Bundle
from cnnjax.sweep.store import Store
from cnnjax.train.run import Interrupted
from cnnjax.typing import UsageError

LOOK_SECONDS = 0.2  # least time between two looks at what all the others are on
WATCHED = 256  # leases that one worker looks at, at a time: on a shared filesystem each is a question
LOOK_SHARE = 20  # a look is followed by so many times its own length without one
LISTINGS = 50  # the part of a sweep, one in so many, that is met in the hands of others before its rows are listed
UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR)
PROGRESS_SECONDS = 2.0  # between two lines of the log that say how far a bundle is


class Job(NamedTuple):
    """A bundle, and what it is to be run under."""

    bundle: Bundle
    signature: dict[str, Any]


class Progress(NamedTuple):
    """One worker's news: steps that a bundle has done, all of them once it is finished.

    ``elsewhere``: it was another sweep on the same directory that finished it.
    """

    worker: int
    bundle: Bundle
    steps: int
    finished: bool
    elsewhere: bool = False


class Failure(NamedTuple):
    """A bundle that could not be run, and why."""

    job: Job
    reason: str


class Settings(NamedTuple):
    """What is the same for all bundles of a sweep.

    Attributes:
      directory: of the results.
      fingerprints: of the data.
      execution: how they are run.
      failed: the failures of earlier sweeps, by run: these are tried again, and later ones are not. None: those that a
        worker finds when it begins.
      place: of the directory that the sweep has opened. None: whatever is there, made where it is missing.
    """

    directory: Path
    fingerprints: dict[DataConfig, str]
    execution: Execution
    failed: dict[str, Any] | None = None
    place: Identity | None = None


class Worker(NamedTuple):
    """One worker, as it names itself.

    Attributes:
      number: among those of its process or its parent's; goes into rows.
      member: its part of the whole fleet.
    """

    number: int = 0
    member: Member = Member()

    @property
    def name(self) -> str:
        """Unlike every other worker's, and readable."""
        return f"{os.uname().nodename}-{os.getpid()}-{self.number}"


Listener = Callable[[Progress], None]


def work(
    jobs: Sequence[Job],
    settings: Settings,
    worker: Worker,
    listen: Listener = lambda news: None,
    should_stop: Callable[[], bool] = lambda: False,
    *,
    began: Callable[[Bundle], None] = lambda bundle: None,
    failed: Callable[[Failure], None] = lambda failure: None,
    skip: Container[str] = (),
) -> None:
    """Runs what nobody else runs, until every bundle is done, has failed, or, in a fleet, is in others' hands.

    Args:
      jobs: the whole sweep's, in the order of the plan.
      settings: of the sweep.
      worker: this one.
      listen: told of every bundle's progress.
      should_stop: asked after every chunk of steps.
      began: told which bundle is taken.
      failed: told of every bundle that cannot be run; the others are run nevertheless.
      skip: ids of bundles that are not to be tried.

    Raises:
      Interrupted: ``should_stop`` said so; the state was saved.
      Unwritable: results cannot be written any more, or the directory is not where it was.
    """
    store = Store(settings.directory)
    store.hold(settings.place)
    leases = store.leases(worker.name, settings.execution.lease_seconds)
    log = Log(settings.directory, worker.name, settings.execution.log)
    try:
        _Work(jobs, settings, worker, listen, should_stop, store, leases, log).run(began, failed, skip)
    finally:
        log.close()


class _Work:
    """What a worker knows: which bundles wait, which programs it has compiled, which runs are done."""

    def __init__(
        self,
        jobs: Sequence[Job],
        settings: Settings,
        worker: Worker,
        listen: Listener,
        should_stop: Callable[[], bool],
        store: Store,
        leases: Leases,
        log: Log,
    ):
        self.settings, self.worker, self.listen, self.should_stop = settings, worker, listen, should_stop
        self.store, self.leases, self.log = store, leases, log
        self.bundles, self.left = len(jobs), [run for job in jobs for run in job.bundle.runs]
        self.waiting: dict[str, deque[Job]] = {}  # by program, so that each worker compiles few
        first, before = len(jobs) * worker.member.number // worker.member.of, None
        for job in (*jobs[first:], *jobs[:first]):
            if before is None or job.bundle.spec is not before.bundle.spec or job.bundle.driver != before.bundle.driver:
                queue = self.waiting.setdefault(job.bundle.program_id, deque())  # a digest takes its time
            queue.append(job)
            before = job
        self.compiled: set[str] = set()
        self.held: list[Job] = []  # by others
        self.doubtful: list[str] = []  # those of them whose holders have not been seen to live
        self.done: set[str] = set()  # runs, as of the last listing; the others are ``left``
        self.met = 0  # bundles that were asked for since then, and that others had done or taken
        self.taken: set[str] = set()  # bundles, as of the last look
        self.next_look = 0.0
        self.failed_before = store.failures() if settings.failed is None else settings.failed

    def run(self, began: Callable[[Bundle], None], failed: Callable[[Failure], None], skip: Container[str]) -> None:
        while (job := self._next()) is not None:
            bundle = job.bundle
            if bundle.bundle_id in skip:
                continue
            if bundle.bundle_id in self.taken:
                self.held.append(job)
                continue
            if self._over(bundle):
                continue
            with self.store.writing():
                lease = self.leases.acquire(bundle.bundle_id, program=bundle.program_id, runs=bundle.runs)
            if lease is None:
                self.met += 1
                self.held.append(job)
                continue
            try:
                with lease.beating(self.settings.execution.lease_seconds):
                    if not self._is_done(bundle):  # its last holder may have finished it in this moment
                        began(bundle)
                        self.compiled.add(bundle.program_id)
                        self._run(job, lease, failed)
            finally:
                lease.release()

    def _next(self) -> Job | None:
        """A bundle of a program compiled here, else of one that nobody works on, else any; None where none is left."""
        while True:
            if self.should_stop():
                raise Interrupted("stopped")
            self._look()
            if (program := self._program()) is not None:
                return self.waiting[program].popleft()
            began, held = time.monotonic(), len(self.held)
            if (lost := self._lost()) is not None:
                return lost
            if not self.held or (self.settings.execution.member and not self.doubtful):
                return None  # all are done, or, in a fleet, in the hands of workers that live
            if len(self.held) == held or held > WATCHED:
                _wait(_pause(began), self.should_stop)

    def _lost(self) -> Job | None:
        """One of the held bundles whose holder is lost, or has given it back undone.

        They are watched some at a time, first those known to be lost, then those not seen to live.
        """
        held = {job.bundle.bundle_id: job for job in self.held}
        lively = set(self.leases.lively(held))
        self.doubtful = [bundle for bundle in held if bundle not in lively]
        watched = {bundle: held.pop(bundle) for bundle in (self.doubtful or list(held))[:WATCHED]}
        lost = self.leases.lost(watched)
        random.shuffle(lost)  # a thousand that all take the first get in each other's way
        chosen = None
        while lost and chosen is None:
            job = watched.pop(lost.pop())
            chosen = None if self._over(job.bundle) else job
        if chosen is not None:
            self.taken.discard(chosen.bundle.bundle_id)
        self.held = [*map(watched.pop, lost), *held.values(), *watched.values()]
        return chosen

    def _over(self, bundle: Bundle) -> bool:
        """Whether others have done it, or have tried and failed."""
        if self._is_done(bundle):
            self.met += 1
            self._meet(bundle)
            return True
        return self._failed_elsewhere(bundle)

    def _program(self) -> str | None:
        """Whose bundle is next."""
        self.waiting = {program: jobs for program, jobs in self.waiting.items() if jobs}
        mine = next((program for program in self.waiting if program in self.compiled), None)
        if mine is not None or len(self.waiting) <= 1:
            return mine or next(iter(self.waiting), None)
        others = {holder.get("program") for holder in self.leases.holders().values()}
        return next((program for program in self.waiting if program not in others), next(iter(self.waiting)))

    def _look(self) -> None:
        """Lists what others are on, and, after enough of it was met, what they have done.

        Both lists are out of date at once. They spare questions, and decide nothing.
        """
        if self.met and self.waiting and (began := time.monotonic()) >= self.next_look:
            self.taken = self.leases.taken()
            self.next_look = time.monotonic() + _pause(began)
        if self.met * LISTINGS >= self.bundles:
            self.done |= (found := self.store.done(self.left))
            self.left = [run for run in self.left if run not in found]
            self.held = self._undone(self.held)
            self.waiting = {program: deque(self._undone(jobs)) for program, jobs in self.waiting.items()}
            self.met = 0

    def _undone(self, jobs: Collection[Job]) -> list[Job]:
        """Those of the jobs that were not done as of the last listing."""
        done = [self.done.issuperset(job.bundle.runs) for job in jobs]
        for job in itertools.compress(jobs, done):
            self._meet(job.bundle)
        return [job for job, over in zip(jobs, done, strict=True) if not over]

    def _meet(self, bundle: Bundle) -> None:
        """Somebody else did this one."""
        self.listen(Progress(self.worker.number, bundle, bundle.spec.steps, True, elsewhere=True))

    def _is_done(self, bundle: Bundle) -> bool:
        return all(run in self.done or self.store.has(run) for run in bundle.runs)

    def _failed_elsewhere(self, bundle: Bundle) -> bool:
        """Whether another worker has tried it since this one began."""
        return any(self.store.failure(run) not in (None, self.failed_before.get(run)) for run in bundle.runs)

    def _run(self, job: Job, lease: Lease, failed: Callable[[Failure], None]) -> None:
        """One bundle, from its checkpoint or the start to its rows."""
        bundle, settings, runs = job.bundle, self.settings, job.bundle.runs
        self.log.write("began", bundle=bundle.bundle_id, runs=runs, steps=bundle.spec.steps, holder=lease.number)
        tell = _Teller(self, job)
        try:
            rows = run_bundle(
                bundle,
                job.signature,
                settings.fingerprints[bundle.spec.data],
                self.store,
                settings.execution,
                worker=self.worker.number,
                on_progress=tell.progress,
                on_evaluation=tell.evaluation,
                should_stop=lambda: self.should_stop() or not self._is_held(lease),
                may_write=lambda: self._is_held(lease),
            )
        except Unwritable:  # nothing is wrong with the bundle
            raise
        except (Interrupted, LeaseLost):
            if lease.held():
                self.log.write("interrupted", bundle=bundle.bundle_id, runs=runs)
                raise
            self.log.write("lost", bundle=bundle.bundle_id, runs=runs)
            self.held.append(job)  # whoever took it may fail
        except Exception as error:
            reason = explained(error)
            for run in runs:
                self.store.fail(run, reason, worker=self.worker.name)
            self.log.write("failed", bundle=bundle.bundle_id, runs=runs, reason=reason)
            failed(Failure(job, reason))
        else:
            for row in rows:
                about = {name: row[name] for name in ("status", "metrics", "seconds")}
                self.log.write("done", bundle=bundle.bundle_id, runs=runs, run=row["run_id"], **about)
            self.listen(Progress(self.worker.number, bundle, bundle.spec.steps, True))

    def _is_held(self, lease: Lease) -> bool:
        """Whether the bundle is still this worker's; where the whole directory is gone, that is not the question."""
        if held := lease.held():
            return held
        self.store.hold()
        return False


class _Teller:
    """Passes on what a bundle's training says."""

    def __init__(self, owner: _Work, job: Job):
        self.owner, self.bundle = owner, job.bundle
        self.about = {"bundle": job.bundle.bundle_id, "runs": job.bundle.runs}
        self.last: tuple[float, int] | None = None

    def progress(self, step: int) -> None:
        self.owner.listen(Progress(self.owner.worker.number, self.bundle, step, False))
        now = time.monotonic()
        if self.last is None:
            self.last = (now, step)
        elif now - self.last[0] >= PROGRESS_SECONDS:
            images = (step - self.last[1]) * self.bundle.spec.batch_size * len(self.bundle.points)
            rate = images / (now - self.last[0])
            steps = self.bundle.spec.steps
            self.owner.log.write("progress", **self.about, step=step, steps=steps, images_per_second=rate)
            self.last = (now, step)

    def evaluation(self, step: int, records: list[dict[str, Any]]) -> None:
        for point, record in zip(self.bundle.points, records, strict=False):  # lanes beyond them are padding
            self.owner.log.write("evaluated", **self.about, run=point.run_id, **{**record, "step": step})


def explained(error: Exception) -> str:
    """Why a bundle failed, for its report: one line for what the user can mend, else where it happened."""
    text = str(error)
    if isinstance(error, OSError) and error.errno in UNWRITABLE:
        return f"{error.strerror}: {error.filename}. Make room, or change its permissions."
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in text or "out of memory" in text.lower():
        first = text.splitlines()[0] if text else type(error).__name__
        return f"out of memory ({first}). Use a smaller batch_size, fewer lanes, or fewer workers at once."
    return text if isinstance(error, UsageError) else "".join(traceback.format_exception(error))


def _pause(began: float) -> float:
    """Seconds from now to the next look, where this one began then."""
    return max(LOOK_SECONDS, LOOK_SHARE * (time.monotonic() - began))


def _wait(seconds: float, should_stop: Callable[[], bool]) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until and not should_stop():
        time.sleep(LOOK_SECONDS)
