"""Executing a plan: in this process, in one pinned process per core, or on one thread per accelerator.

XLA's thread count changes bits, so on a CPU every worker process is pinned to one core before it first
touches JAX's devices: the same command gives the same bits on a laptop and on a large machine.
"""

import contextlib
import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Callable, Sequence
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, NamedTuple

from cnnjax.data.catalog import DataConfig
from cnnjax.data.feed import Mode
from cnnjax.sweep.bundle import run_bundle
from cnnjax.sweep.plan import Bundle
from cnnjax.sweep.store import Row, Store
from cnnjax.train.run import CHECKPOINT_SECONDS, Interrupted
from cnnjax.typing import UsageError

SIGNALS = (signal.SIGINT, signal.SIGTERM)  # stop, and lose nothing


class Job(NamedTuple):
    """A bundle, and what it is to be run under."""

    bundle: Bundle
    signature: dict[str, Any]


class Progress(NamedTuple):
    """One worker's news: steps that a bundle has done, all of them once it is finished."""

    worker: int
    bundle: Bundle
    steps: int
    finished: bool


class Settings(NamedTuple):
    """What is the same for all bundles of a sweep."""

    directory: Path | None
    fingerprints: dict[DataConfig, str]
    feed_mode: Mode = "auto"
    checkpoint_seconds: float = CHECKPOINT_SECONDS
    threads: int = 1


Listener = Callable[[Progress], None]
Failure = tuple[Job, str]  # and why


def in_process(jobs: Sequence[Job], settings: Settings, listen: Listener) -> list[Row]:
    """One bundle after the other, here.

    Raises:
      Interrupted: by Ctrl-C; the bundle's state was saved.
      RuntimeError: a bundle failed; the others were finished first.
    """
    interrupted = threading.Event()
    rows: list[Row] = []
    failures: list[Failure] = []
    with _handling(interrupted):
        for job in jobs:
            try:
                rows += _run(job, settings, 0, listen, interrupted.is_set)
            except Interrupted:
                raise
            except Exception as error:
                failures.append((job, _reason(error)))
    _check(failures, len(jobs))
    return rows


def on_devices(jobs: Sequence[Job], settings: Settings, listen: Listener, devices: Sequence[Any]) -> list[Row]:
    """A thread for each accelerator of this process; each takes the next bundle when it is free.

    Raises:
      Interrupted: by Ctrl-C; the bundles' states were saved.
      RuntimeError: a bundle failed; the others were finished first.
    """
    import jax

    interrupted, lock = threading.Event(), threading.Lock()
    waiting, rows = list(jobs), []
    failures: list[Failure] = []

    def serve(number: int) -> None:
        done: set[Any] = set()
        with jax.default_device(devices[number]):
            while not interrupted.is_set():
                with lock:
                    if not waiting:
                        return
                    job = waiting.pop(_next(waiting, done))
                done.add(job.bundle.spec)
                try:
                    made = _run(job, settings, number, listen, interrupted.is_set)
                except Interrupted:
                    return
                except Exception as error:
                    failures.append((job, _reason(error)))
                    continue
                with lock:
                    rows.extend(made)

    with _handling(interrupted):
        threads = [threading.Thread(target=serve, args=(number,)) for number in range(len(devices))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    if interrupted.is_set():
        raise Interrupted("stopped")
    _check(failures, len(jobs))
    return rows


def in_workers(jobs: Sequence[Job], settings: Settings, listen: Listener, workers: int) -> list[Row]:
    """``workers`` processes of ``settings.threads`` pinned cores each.

    A worker that dies is replaced and its bundle tried once more.

    Raises:
      Interrupted: by Ctrl-C; the workers have saved their states.
      RuntimeError: a bundle failed; the others were finished first.
    """
    context = multiprocessing.get_context("spawn")  # forking a process that has used JAX can hang
    waiting, rows = list(jobs), []
    failures: list[Failure] = []
    attempts: dict[str, int] = {}
    interrupted = threading.Event()
    pool: list[_Worker] = []
    try:
        with _handling(interrupted):
            pool = [_Worker(context, number, settings) for number in range(min(workers, len(jobs)))]
            while (waiting and not interrupted.is_set()) or any(worker.job for worker in pool):
                for worker in pool:
                    if interrupted.is_set():
                        worker.stop.set()
                    elif waiting and worker.job is None:
                        worker.give(waiting.pop(_next(waiting, worker.seen, [w.seen for w in pool])))
                ready = wait([worker.pipe for worker in pool if worker.job], timeout=0.1)
                for index, worker in enumerate(pool):
                    job = worker.job
                    if job is None or worker.pipe not in ready:
                        continue
                    try:
                        kind, content = worker.receive()
                    except (EOFError, OSError):  # the process died: out of memory, or killed
                        worker.close()
                        worker.job = None
                        if interrupted.is_set():
                            continue
                        pool[index] = _Worker(context, worker.number, settings)
                        attempts[job.bundle.bundle_id] = attempts.get(job.bundle.bundle_id, 0) + 1
                        if attempts[job.bundle.bundle_id] < 2:
                            waiting.insert(0, job)
                        else:
                            failures.append((job, "its worker process died twice"))
                        continue
                    if kind == "progress":
                        listen(Progress(worker.number, job.bundle, *content))
                    elif kind == "rows":
                        rows += content
                    elif kind == "error":
                        failures.append((job, content))
    finally:
        for worker in pool:
            worker.close()
    if interrupted.is_set():
        raise Interrupted("stopped")
    _check(failures, len(jobs))
    return rows


class _Worker:
    """A worker process, seen from the parent."""

    def __init__(self, context: Any, number: int, settings: Settings):
        self.number = number
        self.job: Job | None = None
        self.seen: set[Any] = set()  # specs that it has compiled
        self.stop = context.Event()
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, self.stop, number, settings), daemon=True)
        with _held_back():
            self.process.start()
        theirs.close()

    def give(self, job: Job) -> None:
        self.job = job
        self.seen.add(job.bundle.spec)
        self.pipe.send(job)

    def receive(self) -> tuple[str, Any]:
        """The next message: "progress" with news, or how the job ended, which frees the worker."""
        kind, content = self.pipe.recv()
        if kind != "progress":
            self.job = None
        return kind, content

    def close(self) -> None:
        if self.process.is_alive() and self.job is None:
            try:
                self.pipe.send(None)
                self.process.join(5)
            except OSError:
                pass
        if self.process.is_alive():
            self.process.kill()
        self.process.join()
        self.pipe.close()


def _serve(pipe: Any, stop: Any, number: int, settings: Settings) -> None:
    """The life of a worker process: take a job, run it, send its rows, until there are no more."""
    for which in SIGNALS:
        signal.signal(which, signal.SIG_IGN)  # the parent decides, and tells by ``stop``
    pin(number, settings.threads)
    while (job := pipe.recv()) is not None:

        def listen(news: Progress) -> None:
            pipe.send(("progress", (news.steps, news.finished)))

        try:
            pipe.send(("rows", _run(job, settings, number, listen, stop.is_set)))
        except Interrupted:
            pipe.send(("interrupted", None))
        except Exception as error:
            pipe.send(("error", _reason(error)))


def _run(job: Job, settings: Settings, worker: int, listen: Listener, should_stop: Callable[[], bool]) -> list[Row]:
    """One bundle, with its news; at the end one more, ``finished``."""
    bundle = job.bundle
    rows = run_bundle(
        bundle,
        job.signature,
        settings.fingerprints[bundle.spec.data],
        Store(settings.directory) if settings.directory else None,
        worker=worker,
        feed_mode=settings.feed_mode,
        checkpoint_seconds=settings.checkpoint_seconds,
        on_progress=lambda steps: listen(Progress(worker, bundle, steps, False)),
        should_stop=should_stop,
    )
    listen(Progress(worker, bundle, bundle.spec.steps, True))
    return rows


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, UsageError) else "".join(traceback.format_exception(error))


def _check(failures: Sequence[Failure], total: int) -> None:
    """Raises the RuntimeError of a sweep some of whose bundles failed."""
    if failures:
        job, reason = failures[0]
        label = ", ".join(f"{name}={value}" for name, value in job.bundle.points[0].assignment)
        raise RuntimeError(f"{len(failures)} of {total} bundles failed; the first ({label}): {reason}")


def _next(waiting: Sequence[Job], mine: set[Any], all_seen: Sequence[set[Any]] = ()) -> int:
    """Which waiting job to take: of a program compiled here, else of one compiled nowhere, else the first."""
    for wanted in (lambda spec: spec in mine, lambda spec: not any(spec in seen for seen in all_seen)):
        for index, job in enumerate(waiting):
            if wanted(job.bundle.spec):
                return index
    return 0


def pin(number: int, threads: int) -> None:
    """Restricts this process to the cores of worker ``number``, before JAX has looked at them.

    Where the system has no such call (macOS), XLA uses all cores, and signatures say how many.
    """
    if hasattr(os, "sched_setaffinity"):
        available = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {available[(number * threads + i) % len(available)] for i in range(threads)})


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


class _handling:
    """Within this context Ctrl-C and SIGTERM set an event instead of raising; main thread only."""

    def __init__(self, event: threading.Event):
        self.event = event
        self.previous: dict[int, Any] = {}

    def __enter__(self):
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                self.previous[number] = signal.signal(number, lambda *_: self.event.set())
        return self

    def __exit__(self, *exception):
        for number, handler in self.previous.items():
            signal.signal(number, handler)
