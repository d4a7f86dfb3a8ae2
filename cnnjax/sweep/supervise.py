"""Worker processes on this machine, and their supervisor, who replaces those that die, hang or take too much.

XLA's thread count changes bits, so on a CPU every worker process is pinned to cores of its own before it first
touches JAX's devices: the same command gives the same bits on a laptop and on a large machine. The workers choose
their bundles themselves (see ``sweep.work``); the supervisor only watches.
"""

import contextlib
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
from collections.abc import Container, Sequence
from multiprocessing.connection import wait
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

from cnnjax.interrupt import SIGNALS
from cnnjax.process import oom_kills, print_warnings_plainly, with_this_one
from cnnjax.sweep.execute import STOP_SECONDS, check, handling, stopped
from cnnjax.sweep.execution import Member
from cnnjax.sweep.place import Unwritable
from cnnjax.sweep.plan import Bundle
from cnnjax.sweep.store import Store
from cnnjax.sweep.work import Failure, Job, Listener, Progress, Settings, Worker, explained, work
from cnnjax.train.run import Interrupted
from cnnjax.typing import UsageError

ATTEMPTS = 2  # processes that a bundle may take with it
UNGUARDED = 77  # exit code of a worker process whose program does not ask whether it is imported
LOOK_SECONDS = 0.5  # between two looks at the workers' memory, time and leases


def in_workers(jobs: Sequence[Job], settings: Settings, listen: Listener, workers: int) -> None:
    """``workers`` processes, each pinned to its own cores.

    A worker that dies, is silent for longer than its lease lasts, or passes the memory limit, is replaced, and its
    bundle tried once more, from its last checkpoint. One that spends the time limit on a bundle is replaced, and the
    bundle has failed.

    Raises:
      UsageError: the program, which the workers import, calls this without being asked, or is no file.
      Interrupted: by Ctrl-C or SIGTERM; the workers have saved their states.
      Unwritable: results cannot be written any more; the workers have saved what they could.
      RuntimeError: a bundle failed, after the others were finished; or workers die before they begin.
    """
    end_if_imported()
    _check_program(jobs)
    interrupted = threading.Event()
    with handling(interrupted):
        supervisor = _Supervisor(jobs, settings, listen, min(workers, len(jobs)))
        try:
            supervisor.run(interrupted)
        finally:
            supervisor.close()
    if supervisor.unwritable:
        raise Unwritable(supervisor.unwritable)
    if interrupted.is_set():
        raise stopped(supervisor.unsaved)
    check(supervisor.failures, len(jobs))


def end_if_imported() -> None:
    """Ends a worker process that imports the user's program and is told there to start a sweep."""
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        sys.stdout.flush()
        os._exit(UNGUARDED)


def _check_program(jobs: Sequence[Job]) -> None:
    """Refuses a network that no worker can import."""
    program = sys.modules["__main__"]
    if getattr(program, "__file__", None) or getattr(program, "__spec__", None):
        return
    for job in jobs:
        if (kind := type(job.bundle.spec.model)).__module__ == "__main__":
            raise UsageError(
                f"Worker processes cannot import {kind.__name__}: it was made in a session, not in a file. Put it into "
                "a file, or use workers=0."
            )


class _Supervisor:
    """The worker processes, and what is known of their bundles."""

    def __init__(self, jobs: Sequence[Job], settings: Settings, listen: Listener, workers: int):
        self.jobs, self.settings, self.listen, self.count = jobs, settings, listen, workers
        self.context = multiprocessing.get_context("spawn")  # forking a process that has used JAX can hang
        self.store = Store(settings.directory)
        self.store.hold(settings.place)
        self.leases = self.store.leases("supervisor", settings.execution.lease_seconds)
        self.by_bundle = {job.bundle.bundle_id: job for job in jobs}
        self.failures: list[Failure] = []
        self.deaths: dict[str, int] = {}
        self.begun: set[str] = set()  # bundles
        self.unsaved: list[str] = []  # why states could not be saved, when asked to stop
        self.unwritable = ""  # why nothing more can be written; then all stop
        self.idle_deaths = 0
        self.workers = [self._start(number) for number in range(workers)]

    def run(self, interrupted: threading.Event) -> None:
        """Until every worker has ended, or was told to and had time to save."""
        looked, asked = time.monotonic(), None
        while alive := [worker for worker in self.workers if not worker.ended]:
            if (interrupted.is_set() or self.unwritable) and asked is None:
                asked = time.monotonic()
                for worker in alive:
                    worker.stop.set()
            if asked is not None and time.monotonic() - asked > STOP_SECONDS:
                self.unsaved.append(f"{len(alive)} workers had not come to save in {STOP_SECONDS:.0f} s")
                return
            ready = wait([worker.pipe for worker in alive], timeout=0.1)
            for worker in alive:
                if worker.pipe in ready:
                    self._hear(worker, stopping=asked is not None)
            if asked is None and time.monotonic() - looked > LOOK_SECONDS:
                looked = time.monotonic()
                for worker in alive:
                    self._look(worker)

    def close(self) -> None:
        for worker in self.workers:
            worker.close()

    def _start(self, number: int) -> "_Worker":
        skip = {failure.job.bundle.bundle_id for failure in self.failures}
        return _Worker(self.context, number, self.count, self.jobs, self.settings, skip)

    def _hear(self, worker: "_Worker", stopping: bool) -> None:
        kind: str = "died"
        content: Any = None
        with contextlib.suppress(EOFError, OSError):
            kind, content = worker.pipe.recv()
        if kind == "died":
            worker.process.join()
            if not worker.ended and not stopping:
                self._replace(worker)
            worker.ended = True
        elif kind == "began":
            worker.bundle, worker.since = content, time.monotonic()
            self.begun.add(content)
        elif kind == "progress":
            news = Progress(worker.number, self.by_bundle[content[0]].bundle, *content[1:])
            if not (news.elsewhere and content[0] in self.begun):  # what one of ours finished is no news to another
                self.listen(news)
        elif kind == "failed":
            bundle, reason = content
            self.failures.append(Failure(self.by_bundle[bundle], reason))
        elif kind == "unsaved":
            self.unsaved.append(content)
        elif kind == "unwritable":
            self.unwritable = self.unwritable or content
        elif kind == "crashed":
            worker.fatal = content
        elif kind == "ended":
            worker.ended = True

    def _look(self, worker: "_Worker") -> None:
        """Ends a worker that takes too much: memory, time, or silence."""
        if worker.bundle is None or worker.fatal or worker.ended:
            return
        settings, seconds = self.settings, time.monotonic() - worker.since
        used = memory_of(worker.process.pid or 0)
        if settings.execution.memory_limit and used > settings.execution.memory_limit:
            worker.fatal = f"killed for memory: it used {used:.0f} MiB of the {settings.execution.memory_limit} allowed"
        elif settings.execution.time_limit and seconds > settings.execution.time_limit:
            worker.fatal = f"killed after {seconds:.0f} s: the time limit is {settings.execution.time_limit:.0f} s"
            worker.may_retry = False
        elif self._is_silent(worker.bundle, seconds):
            worker.fatal = f"killed: it was silent for {settings.execution.lease_seconds:.0f} s"
        if worker.fatal:
            worker.process.kill()  # also where it is frozen

    def _is_silent(self, bundle: str, seconds: float) -> bool:
        """Whether the lease of a bundle that was taken long ago has run out, though its process is there."""
        if seconds < self.settings.execution.lease_seconds:
            return False
        return bundle in self.leases.holders() and self.leases.run_out(bundle)

    def _replace(self, worker: "_Worker") -> None:
        """A new process in the place of one that died."""
        if worker.process.exitcode == UNGUARDED:
            raise UsageError(
                "The worker processes import your program, and it starts the sweep again there. Put what it does under "
                "`if __name__ == '__main__':`, or use workers=0."
            )
        if worker.bundle is None:
            self.idle_deaths += 1
            if self.idle_deaths > ATTEMPTS * self.count:
                raise RuntimeError(f"worker processes die before they begin: {worker.death()}")
        else:
            self._count_death(worker, self.by_bundle[worker.bundle])
        self.workers[self.workers.index(worker)] = self._start(worker.number)
        worker.close()

    def _count_death(self, worker: "_Worker", job: Job) -> None:
        bundle = job.bundle.bundle_id
        self.deaths[bundle] = self.deaths.get(bundle, 0) + 1
        if worker.may_retry and self.deaths[bundle] < ATTEMPTS:
            return
        times = f" ({self.deaths[bundle]} times)" if worker.may_retry else ""
        reason = f"its worker process was {worker.death()}{times}"
        for run in job.bundle.runs:
            if not self.store.has(run):
                self.store.fail(run, reason, worker=f"{os.uname().nodename}-{worker.process.pid}")
        self.failures.append(Failure(job, reason))


class _Worker:
    """A worker process, seen from its supervisor.

    Attributes:
      bundle: the id of the one it is on.
      since: when it began that.
      fatal: why it was killed by its supervisor; empty if it was not.
      may_retry: whether another process may try its bundle when this one dies.
      ended: whether it has said that it ends, or has.
    """

    def __init__(
        self, context: Any, number: int, count: int, jobs: Sequence[Job], settings: Settings, skip: Container[str]
    ):
        self.number = number
        self.bundle: str | None = None
        self.since, self.fatal, self.may_retry, self.ended = time.monotonic(), "", True, False
        self.stop = context.Event()
        self.kills = oom_kills()
        self.pipe, theirs = context.Pipe()
        index, shares = settings.execution.share
        member = Member(index * count + number, shares * count)
        task = _packed((jobs, settings, skip))
        args = (theirs, self.stop, Worker(number, member))
        self.process = context.Process(target=_serve, args=args, daemon=True)
        with _held_back(), with_this_one():
            self.process.start()
        theirs.close()
        # It comes to read this after seconds of imports, or never: neither may keep the supervisor.
        self._telling = threading.Thread(target=self._tell, args=(task,), daemon=True, name=f"task of worker {number}")
        self._telling.start()

    def _tell(self, task: memoryview) -> None:
        with contextlib.suppress(OSError):  # it has died
            self.pipe.send_bytes(task)

    def death(self) -> str:
        """How the process ended."""
        code = self.process.exitcode
        if self.fatal:
            return self.fatal
        if code == -signal.SIGKILL:
            kernel = oom_kills() > self.kills
            return "killed for memory by the kernel" if kernel else "killed (signal 9), by hand or for memory"
        if code is not None and code < 0:
            return f"ended by {signal.Signals(-code).name}"
        return f"ended by itself, exit code {code}"

    def close(self) -> None:
        if self.ended:
            self.process.join(5)
        if self.process.is_alive():
            self.process.kill()
        self.process.join()
        self._telling.join()
        self.pipe.close()


def _packed(task: Any) -> memoryview:
    """A task as ``Connection.recv`` reads it."""
    try:
        return ForkingPickler.dumps(task)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise UsageError(
            f"Worker processes cannot be given the sweep ({error}). Define the network and what its fields hold at the "
            "top of a module, or use workers=0."
        ) from error


def _serve(pipe: Any, stop: Any, worker: Worker) -> None:
    """The life of a worker process."""
    print_warnings_plainly()
    for which in SIGNALS:
        signal.signal(which, signal.SIG_IGN)  # the supervisor decides, and tells by ``stop``
    jobs, settings, skip = pipe.recv()
    pin(worker.number, settings.execution.threads)
    supervisor = multiprocessing.parent_process()
    assert supervisor is not None

    def tell(kind: str, content: Any = None) -> None:
        with contextlib.suppress(BrokenPipeError):  # the supervisor was killed: save, and end
            pipe.send((kind, content))

    def listen(news: Progress) -> None:
        tell("progress", (news.bundle.bundle_id, news.steps, news.finished, news.elsewhere))

    def began(bundle: Bundle) -> None:
        tell("began", bundle.bundle_id)

    def failed(failure: Failure) -> None:
        tell("failed", (failure.job.bundle.bundle_id, failure.reason))

    def should_stop() -> bool:
        return stop.is_set() or os.getppid() != supervisor.pid  # an orphan has a few seconds: see ``process.end_with``

    try:
        work(jobs, settings, worker, listen, should_stop, began=began, failed=failed, skip=skip)
    except Interrupted as end:
        if not end.saved:
            tell("unsaved", str(end))
    except Unwritable as error:
        tell("unwritable", str(error))
    except Exception as error:
        tell("crashed", explained(error))
        raise
    tell("ended")


def pin(number: int, threads: int) -> None:
    """Restricts this process to the cores of worker ``number``, before JAX has looked at them.

    Where the system has no such call (macOS), XLA uses all cores, and signatures say how many.
    """
    if hasattr(os, "sched_setaffinity"):
        available = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {available[(number * threads + i) % len(available)] for i in range(threads)})


def memory_of(pid: int) -> float:
    """MiB that a process has in memory; 0 where the system does not say."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


@contextlib.contextmanager
def _held_back():
    """A process started in this context is not stopped by signals to the whole group before it ignores them."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
