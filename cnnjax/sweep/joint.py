"""A sweep by several processes that share each batch: the first leads, the others follow.

The leading process does what any worker does (``sweep.work``): it takes a bundle that nobody has, and writes rows,
leases and logs. Before it trains a bundle it tells the others, and all train it together. Nothing else is agreed on.

When one process dies, is killed or frozen, the others end too, with an exit code other than 0: JAX tells them within
``peers.HEARTBEAT_SECONDS`` or somewhat more; whoever has finished no steps for ``stall_seconds`` gives up by itself.
Started again, all go on from the last checkpoint that all have committed.
"""

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from cnnjax.sweep.bundle import run_bundle
from cnnjax.sweep.execute import handling
from cnnjax.sweep.place import Unwritable
from cnnjax.sweep.plan import Bundle
from cnnjax.sweep.store import Store
from cnnjax.sweep.work import Failure, Job, Listener, Progress, Settings, Worker, explained, work
from cnnjax.train import peers
from cnnjax.train.run import Interrupted

STALL_SECONDS = 900.0  # more than compiling the largest network takes


class Order(NamedTuple):
    """What the leading process tells the others.

    Attributes:
      job: to be run now; None is the end.
      settings: of the sweep.
      interrupted: at the end: whether there is something left to resume.
    """

    job: Job | None = None
    settings: Settings | None = None
    interrupted: bool = False


def jointly(jobs: Sequence[Job], settings: Settings, listen: Listener, stall_seconds: float = STALL_SECONDS) -> None:
    """Runs a sweep's bundles with the processes that ``follow``; called by the one that leads, in ``leading``.

    A bundle that fails ends all processes, for nobody knows where the others are then. Bundles that failed before
    come last.

    Args:
      jobs: the whole sweep's.
      settings: of the sweep.
      listen: told of every bundle's progress.
      stall_seconds: without news from a bundle after which this process gives up.

    Raises:
      Interrupted: by Ctrl-C or SIGTERM in any process; the bundle's state was saved.
    """
    settings = settings._replace(directory=settings.directory.resolve())
    failed = Store(settings.directory).failures()
    jobs = sorted(jobs, key=lambda job: any(run in failed for run in job.bundle.runs))
    interrupted = threading.Event()
    by_id = {job.bundle.bundle_id: job for job in jobs}

    def began(bundle: Bundle) -> None:
        watch.news()
        peers.told(Order(by_id[bundle.bundle_id], settings))

    def heard(news: Progress) -> None:
        watch.over() if news.finished else watch.news()
        listen(news)

    def give_up(failure: Failure) -> None:
        peers.abandon(failure.reason.strip().splitlines()[-1])

    worker = Worker(0, settings.execution.share)
    with handling(interrupted), Watch(stall_seconds) as watch:
        try:
            work(jobs, settings, worker, heard, interrupted.is_set, began=began, failed=give_up)
        except Unwritable as error:
            peers.abandon(str(error))


def follow(stall_seconds: float = STALL_SECONDS) -> None:
    """Does what the leading process says, until it says that nothing is left; called by all others.

    Args:
      stall_seconds: as in ``jointly``.

    Raises:
      Interrupted: the leading process was asked to stop, or this one; the bundle's state was saved.
    """
    interrupted = threading.Event()
    with handling(interrupted), Watch(stall_seconds) as watch:
        while (order := peers.told(None)).job is not None:
            watch.news()
            try:
                _follow(order.job, order.settings, watch, interrupted)
            except Interrupted:  # all have saved; the leading process says how to go on
                pass
            except Exception as error:
                peers.abandon(explained(error).strip().splitlines()[-1])
            watch.over()
    if order.interrupted:
        raise Interrupted("stopped")


@contextmanager
def leading() -> Iterator[None]:
    """Around all that the leading process does, once the others ``follow``; lets them go at the end."""
    try:
        yield
    except BaseException as error:
        peers.told(Order(interrupted=isinstance(error, Interrupted)))
        raise
    peers.told(Order())


class Watch:
    """Ends the process when a bundle in training gives no news for ``seconds``. A context."""

    def __init__(self, seconds: float):
        self.seconds = seconds
        self._last: float | None = None  # None while no bundle is in training
        self._left = threading.Event()

    def news(self) -> None:
        """The training goes on."""
        self._last = time.monotonic()

    def over(self) -> None:
        """Nothing is in training now, and the next bundle may be long in coming."""
        self._last = None

    def __enter__(self) -> "Watch":
        threading.Thread(target=self._look, daemon=True, name="watch").start()
        return self

    def __exit__(self, *_: object) -> None:
        self._left.set()

    def _look(self) -> None:
        while not self._left.wait(min(1.0, self.seconds / 4)):
            last = self._last
            if last is not None and time.monotonic() - last > self.seconds:
                peers.abandon(
                    f"no steps were finished for {self.seconds:.0f} s; another process may be gone or frozen."
                )


def _follow(job: Job, settings: Any, watch: Watch, interrupted: threading.Event) -> None:
    """The part of a process that does not lead in one bundle: it trains, and writes nothing but its commits."""
    run_bundle(
        job.bundle,
        job.signature,
        settings.fingerprints[job.bundle.spec.data],
        Store(settings.directory),
        settings.execution,
        on_progress=lambda steps: watch.news(),
        on_evaluation=lambda step, records: watch.news(),
        should_stop=interrupted.is_set,
    )
