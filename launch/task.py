"""One task, on the machine that runs it: the command as a child, the signals it gets, and how it ended.

This file is imported on every machine before the command starts: it needs no more than the standard library. (submitit,
where it runs a task, is there already.)

Signals. A cluster that wants its machine back sends SIGUSR2 (submitit's sign of a near time limit or preemption):
the child gets SIGTERM, saves its state and leaves, and the task is queued again. SIGTERM itself is passed on as well:
who cancels a job loses at most what the child does not save. The child ignores SIGUSR2, which SLURM sends to every
process of a job. Should this process be killed, the kernel sends the child SIGTERM. A task on the machine of the
launcher ends when that has ended.
"""

import contextlib
import dataclasses
import fcntl
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, NamedTuple

from cnnjax.process import ORPHAN_SECONDS, Identity, ending_with_this_one, gone, oom_kills

INTERRUPTED = 130  # exit code of a command that was stopped and saved its state
NOT_FOUND = 127  # as in a shell
LOOK_SECONDS = 1.0  # between two looks whether the launcher is there


class Outcome(NamedTuple):
    """How a command ended.

    Attributes:
      code: its exit code; -n where signal n ended it.
      out_of_memory: the kernel killed a process of the task for memory.
    """

    code: int
    out_of_memory: bool


@dataclasses.dataclass(frozen=True)
class Task:
    """A member of the fleet; called where it is to run.

    Attributes:
      command: what it runs.
      shard: ``CNNJAX_SHARD`` for it: number/total.
      directory: in which it runs.
      grace: seconds that the command has to save its state.
      cores: to keep to, where the cluster does not see to it.
      launcher: which process the task ends with; None: with none.
    """

    command: tuple[str, ...]
    shard: str
    directory: str
    grace: float
    cores: int | None = None
    launcher: Identity | None = None

    def __call__(self) -> Outcome:
        """Runs the command until it ends.

        Raises:
          SystemExit: it was stopped by a signal to this process, or because the launcher is gone; then no result is
            written, for it may start again.
        """
        stopped: list[int] = []
        with claimed(self.cores):
            try:
                child = _Child(self.command, self.directory, {"CNNJAX_SHARD": self.shard})
            except OSError as error:
                print(f"launch: {self.command[0]} cannot be started: {error.strerror}", file=sys.stderr, flush=True)
                return Outcome(NOT_FOUND, False)
            _children.append(child)

            def pass_on(number: int, frame: Any) -> None:
                stopped.append(number)
                child.signal(signal.SIGTERM)

            before = signal.signal(signal.SIGTERM, pass_on)
            try:
                outcome = child.wait(self._is_left)
            except KeyboardInterrupt:  # Ray's way to cancel a task
                child.stop(self.grace)
                raise
            finally:
                _children.remove(child)
                signal.signal(signal.SIGTERM, before)
        if self._is_left():
            raise SystemExit(INTERRUPTED)
        if stopped and outcome.code:
            print(f"launch: stopped by SIGTERM; the command ended with {outcome.code}", file=sys.stderr, flush=True)
            raise SystemExit(INTERRUPTED)
        return outcome

    def _is_left(self) -> bool:
        """Whether the launcher has ended, or what it has started this process by."""
        if self.launcher is None:
            return False
        return gone(self.launcher) or os.environ.get("SUBMITIT_LOCAL_JOB_ID") not in (None, str(os.getppid()))

    def checkpoint(self) -> Any:
        """submitit's question on SIGUSR2: stops the child, which saves its state; the same task is to run again."""
        from submitit.helpers import DelayedSubmission

        for number in (signal.SIGUSR1, signal.SIGUSR2):  # one is enough; a second would come in between
            signal.signal(number, signal.SIG_IGN)
        for child in _children:
            child.stop(self.grace)
        return DelayedSubmission(self)


class _Child:
    """The command as a process in a session of its own."""

    def __init__(self, command: tuple[str, ...], directory: str, extra: dict[str, str]):
        end_too = ending_with_this_one()

        def settle() -> None:  # between fork and exec, in a process with one thread
            for number in (signal.SIGUSR1, signal.SIGUSR2):
                signal.signal(number, signal.SIG_IGN)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGHUP})
            end_too()

        self.kills = oom_kills()
        self.process = subprocess.Popen(
            command, cwd=directory, env={**os.environ, **extra}, start_new_session=True, preexec_fn=settle
        )

    def wait(self, is_left: Callable[[], bool] = lambda: False) -> Outcome:
        # Not Popen.wait: it holds a lock, and a signal's handler that comes in between must be able to wait as well.
        looked = 0.0
        while not self.ended():
            if time.monotonic() - looked > LOOK_SECONDS:
                looked = time.monotonic()
                if is_left():
                    self.stop(ORPHAN_SECONDS)
            time.sleep(0.1)
        code = self.process.wait()
        return Outcome(code, bool(code) and oom_kills() > self.kills)

    def ended(self) -> bool:
        return os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def signal(self, number: int) -> None:
        if not self.ended():
            os.kill(self.process.pid, number)

    def stop(self, grace: float) -> None:
        """SIGTERM, and after ``grace`` seconds SIGKILL to it and all it started; it stays for ``wait`` to see."""
        self.signal(signal.SIGTERM)
        deadline = time.monotonic() + grace
        while not self.ended() and time.monotonic() < deadline:
            time.sleep(0.05)
        if not self.ended():
            print(f"launch: the command did not leave within {grace:.0f} s; killed", file=sys.stderr, flush=True)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)


_children: list[_Child] = []  # of this process: one, while its task runs


@contextlib.contextmanager
def claimed(count: int | None):
    """Within, this process and what it starts keep to ``count`` cores that no other task of this user has.

    Locks on files say whose a core is; the kernel drops them with the process. Where too few are free, or the system
    cannot pin processes, all are used.
    """
    if not count or not hasattr(os, "sched_setaffinity"):
        yield
        return
    folder = Path(tempfile.gettempdir()) / f"cnnjax-cores-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    before = os.sched_getaffinity(0)
    mine: dict[int, IO[bytes]] = {}
    try:
        for core in sorted(before):
            if len(mine) < count and (lock := _lock(folder / str(core))):
                mine[core] = lock
        if len(mine) == count:
            os.sched_setaffinity(0, mine)
        yield
    finally:
        os.sched_setaffinity(0, before)
        for lock in mine.values():
            lock.close()


def _lock(path: Path) -> IO[bytes] | None:
    file = path.open("ab")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return file
    except OSError:
        file.close()
        return None
