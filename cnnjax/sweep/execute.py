"""Executing a plan within this process: in its main thread, or on one thread per accelerator."""

import signal
import threading
from collections.abc import Sequence
from typing import Any

from cnnjax.interrupt import SIGNALS
from cnnjax.sweep.execution import Member
from cnnjax.sweep.work import Failure, Job, Listener, Settings, Worker, work
from cnnjax.train.run import Interrupted

STOP_SECONDS = 8.0  # that the others have to save their states in, once asked to stop


def in_process(jobs: Sequence[Job], settings: Settings, listen: Listener) -> None:
    """One bundle after the other, here.

    Raises:
      Interrupted: by Ctrl-C or SIGTERM; the bundle's state was saved.
      RuntimeError: a bundle failed; the others were finished first.
    """
    interrupted = threading.Event()
    failures: list[Failure] = []
    worker = Worker(0, settings.execution.share)
    with handling(interrupted):
        work(jobs, settings, worker, listen, interrupted.is_set, failed=failures.append)
    check(failures, len(jobs))


def on_devices(jobs: Sequence[Job], settings: Settings, listen: Listener, devices: Sequence[Any]) -> None:
    """A thread for each accelerator of this process, each a worker.

    Raises:
      Interrupted: by Ctrl-C or SIGTERM; the bundles' states were saved.
      RuntimeError: a bundle failed; the others were finished first.
    """
    import jax

    interrupted = threading.Event()
    failures: list[Failure] = []
    errors: list[Exception] = []
    unsaved: list[str] = []
    index, count = settings.execution.share

    def serve(number: int) -> None:
        worker = Worker(number, Member(index * len(devices) + number, count * len(devices)))
        try:
            with jax.default_device(devices[number]):
                work(jobs, settings, worker, listen, interrupted.is_set, failed=failures.append)
        except Interrupted as end:
            unsaved.extend([] if end.saved else [str(end)])
        except Exception as error:
            errors.append(error)
            interrupted.set()

    with handling(interrupted):
        threads = [threading.Thread(target=serve, args=(number,), daemon=True) for number in range(len(devices))]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads) and not interrupted.is_set():
            for thread in threads:
                thread.join(0.1)
        for thread in threads:
            thread.join(STOP_SECONDS)
    if errors:
        raise errors[0]
    if interrupted.is_set():
        late = sum(thread.is_alive() for thread in threads)
        unsaved += [f"{late} devices had not come to save in {STOP_SECONDS:.0f} s"] if late else []
        raise stopped(unsaved)
    check(failures, len(jobs))


def stopped(unsaved: Sequence[str]) -> Interrupted:
    """What to raise where several were asked to stop; it says which states were not saved, and why."""
    end = Interrupted("; ".join(["stopped", *unsaved]))
    end.saved = not unsaved
    return end


def check(failures: Sequence[Failure], total: int) -> None:
    """Raises the RuntimeError of a sweep some of whose bundles failed."""
    if failures:
        job, reason = failures[0]
        label = ", ".join(f"{name}={value}" for name, value in job.bundle.points[0].assignment)
        raise RuntimeError(f"{len(failures)} of {total} bundles failed; the first ({label}): {reason}")


class handling:
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
