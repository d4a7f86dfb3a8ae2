"""Tasks through submitit: as a job array of SLURM, or as processes here.

submitit pickles a ``Task`` into the folder of logs, starts ``python -m submitit.core._submit`` for each, and that
writes what the task returned beside it. How a task is comes from that file first, and from the scheduler otherwise.
"""

import contextlib
import os
import pickle
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cnnjax.process import identity
from cnnjax.typing import UsageError
from launch import slurm
from launch.request import Request, prepared, shard
from launch.states import (
    CANCELLED,
    COMPLETED,
    FAILED,
    KILLED,
    LOST,
    MEANINGS,
    OUT_OF_MEMORY,
    PENDING,
    RUNNING,
    TIMEOUT,
    State,
    of_error,
    of_outcome,
)
from launch.task import Outcome, Task

NOTICE = 90  # seconds before its time limit at which a task is told
GRACE = 60.0  # seconds of them that the command has to save its state
PATIENCE = 60.0  # seconds for a result to appear on a network's filesystem after the job has ended
NO_LIMIT = 60 * 24 * 3650  # minutes
DEFAULT_MINUTES = 60  # of a job of SLURM: short ones find a place sooner, and a stopped task goes on where it was


def check_installed(cluster: str) -> None:
    """Refuses to go on without the library.

    Its first import is here, and told to leave this process's logging alone: else it closes the handlers of others.

    Raises:
      UsageError: submitit is not installed.
    """
    before = os.environ.get("SUBMITIT_LOG_LEVEL")
    os.environ["SUBMITIT_LOG_LEVEL"] = "NOCONFIG"
    try:
        import submitit  # noqa: F401
    except ImportError as error:
        raise UsageError(
            f"--cluster={cluster} needs submitit, which is not installed. Run: pip install -e '.[slurm]'"
        ) from error
    finally:
        os.environ.pop("SUBMITIT_LOG_LEVEL")
        os.environ.update({} if before is None else {"SUBMITIT_LOG_LEVEL": before})


class _Submitted:
    """What is common to both: tasks by number, and the files that they leave."""

    ends_with_launcher = False

    def __init__(self, request: Request, executor: Any):
        self.request, self.executor = request, executor
        self.jobs: dict[int, Any] = {}
        self._known: dict[int, State] = {}

    def tasks(self, numbers: list[int], cores: int | None = None) -> list[Task]:
        where = os.getcwd()
        command, total = self.command(), self.request.tasks
        launcher = identity() if self.ends_with_launcher else None
        return [Task(command, shard(number, total), where, self.grace, cores, launcher) for number in numbers]

    def command(self) -> tuple[str, ...]:
        """What a task runs."""
        return self.request.command

    @property
    def grace(self) -> float:
        return min(GRACE, self.notice * GRACE / NOTICE)

    @property
    def notice(self) -> int:
        """Seconds before the time limit: at most half of it."""
        return min(NOTICE, (self.request.minutes or NO_LIMIT) * 30)

    def started(self, numbers: list[int], jobs: list[Any]) -> None:
        for number, job in zip(numbers, jobs, strict=True):
            self.jobs[number] = job
            self._known.pop(number, None)

    def states(self) -> dict[int, State]:
        """Of every task that was submitted, its last one."""
        found = {number: self._known.get(number) or self.left(job) for number, job in self.jobs.items()}
        found = {**found, **self.asked([number for number, state in found.items() if state is None])}
        self._known.update({number: state for number, state in found.items() if state and state.ended})
        return {number: state for number, state in found.items() if state}

    def left(self, job: Any) -> State | None:
        """The state of a task that wrote how it ended, or None."""
        path, log = Path(job.paths.result_pickle), Path(job.paths.stdout)
        with contextlib.suppress(OSError):
            os.listdir(path.parent)  # a network's filesystem looks anew
        try:
            kind, content = pickle.loads(path.read_bytes())
        except (OSError, EOFError, pickle.UnpicklingError):  # not there, or not whole yet
            return None
        return of_outcome(Outcome(*content), log) if kind == "success" else of_error(str(content), log)

    def asked(self, numbers: list[int]) -> dict[int, State]:
        """The states of tasks that have written nothing."""
        raise NotImplementedError

    def close(self) -> None:
        """Nothing is held."""


class Slurm(_Submitted):
    """A job array of SLURM; it goes on when this process ends."""

    label = "SLURM"

    def __init__(self, request: Request):
        super().__init__(request, _slurm_executor(request, self.__class__, checked=True))
        self._gone_since: dict[str, float] = {}

    @classmethod
    def script(cls, request: Request) -> str:
        """The text that sbatch would get; needs no SLURM."""
        executor = _slurm_executor(request, cls, checked=False)
        if request.tasks > 1:
            executor.parameters["map_count"] = request.tasks
        return executor._make_submission_file_text(executor._submitit_command_str, "")

    def submit(self, numbers: list[int]) -> None:
        """Starts these members, or queues them."""
        self.started(numbers, self.executor.submit_array(self.tasks(numbers)))

    def asked(self, numbers: list[int]) -> dict[int, State]:
        """The states of tasks that have written nothing."""
        if not numbers:
            return {}
        try:
            reported = slurm.states(self.jobs[number].job_id for number in numbers)
        except ConnectionError as error:
            return {number: State("UNKNOWN", str(error)) for number in numbers}
        return {number: self._state(self.jobs[number], reported) for number in numbers}

    def _state(self, job: Any, reported: dict[str, tuple[str, str]]) -> State:
        name, reason = reported.get(job.job_id, (LOST, ""))
        log = Path(job.paths.stdout)
        if name in (COMPLETED, LOST):  # its result may be on its way
            since = self._gone_since.setdefault(job.job_id, time.monotonic())
            if time.monotonic() - since < PATIENCE:
                return State("COMPLETING", log=log)
            return State(LOST, MEANINGS[LOST], log)
        self._gone_since.pop(job.job_id, None)
        if name == FAILED and _killed_for_memory(log):
            name = OUT_OF_MEMORY  # SLURM says it of the step only
        if name == FAILED and reason == "NonZeroExitCode":
            return State(KILLED, "its process ended before the command", log)
        return State(name, MEANINGS.get(name, reason), log)

    def cancel(self) -> None:
        """Ends every task that has not ended; each has time to save its state."""
        slurm.cancel([self.jobs[number].job_id for number, state in self.states().items() if not state.ended])

    def ids(self) -> list[str]:
        """Of the jobs, one for an array."""
        return sorted({job.job_id.partition("_")[0] for job in self.jobs.values()})


class Local(_Submitted):
    """Processes on this machine, each with cores of its own; they end with this one."""

    label = "this machine"
    ends_with_launcher = True

    def __init__(self, request: Request):
        import submitit

        super().__init__(request, submitit.LocalExecutor(request.logs, max_num_timeout=request.requeues))
        self.executor.update_parameters(
            timeout_min=request.minutes or NO_LIMIT,
            gpus_per_node=request.gpus,
            signal_delay_s=self.notice,
            stderr_to_stdout=True,
        )
        self._cancelled: set[int] = set()
        self._waiting: list[int] = []
        self._places: dict[int, int] = {}  # of tasks: those that run at the same time have different ones

    def submit(self, numbers: list[int]) -> None:
        """Starts these members, or queues them."""
        self._waiting += numbers
        self._fill()

    def _fill(self) -> None:
        """Starts what may run now."""
        here = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        at_once = min(self.request.tasks, self.request.max_parallel or self.request.tasks)
        cores, gpus = self.request.cpus or max(1, here // at_once), self.request.gpus
        taken = {self._places[number] for number, job in self.jobs.items() if not job.done()}
        for place in sorted(set(range(at_once)) - taken)[: len(self._waiting)]:
            number = self._waiting.pop(0)
            self._places[number] = place
            self.executor.update_parameters(visible_gpus=list(range(place * gpus, (place + 1) * gpus)))
            with _left_alone():
                self.started([number], self.executor.submit_array(self.tasks([number], cores)))

    def states(self) -> dict[int, State]:
        """Of every task that was submitted, its last one."""
        self._fill()
        return {**super().states(), **{number: State(PENDING) for number in self._waiting}}

    def command(self) -> tuple[str, ...]:
        """What a task runs."""
        return prepared(self.request)

    def asked(self, numbers: list[int]) -> dict[int, State]:
        """The states of tasks that have written nothing."""
        return {number: self._state(number, self.jobs[number]) for number in numbers}

    def _state(self, number: int, job: Any) -> State:
        log = Path(job.paths.stdout)
        if not job.done():
            return State(RUNNING, log=log)
        if (written := self.left(job)) is not None:  # between the two looks
            return written
        if number in self._cancelled:
            return State(CANCELLED, MEANINGS[CANCELLED], log)
        if self.request.minutes and "requeued job" in _tail(log).lower():
            return State(TIMEOUT, MEANINGS[TIMEOUT], log)
        return State(KILLED, "its process ended before the command", log)

    def cancel(self) -> None:
        """Ends every task that has not ended; each has time to save its state."""
        self._waiting = []
        for number, state in self.states().items():
            if not state.ended:
                self._cancelled.add(number)
                os.kill(int(self.jobs[number].job_id), signal.SIGTERM)  # passed on to the command

    def ids(self) -> list[str]:
        """Of the processes."""
        return [job.job_id for job in self.jobs.values()]


def _slurm_executor(request: Request, kind: type[_Submitted], checked: bool) -> Any:
    """submitit's executor with what the request says; one that is not checked is made without SLURM as well."""
    import submitit

    class Unchecked(submitit.SlurmExecutor):
        @classmethod
        def affinity(cls) -> int:
            return 1

    executor = (submitit.SlurmExecutor if checked else Unchecked)(request.logs, max_num_timeout=request.requeues)
    limit = request.minutes or DEFAULT_MINUTES
    cpus = request.cpus or 1
    given = {
        "job_name": request.name,
        "time": limit,
        "cpus_per_task": cpus,
        "gpus_per_node": request.gpus or None,
        "mem": f"{round(request.memory * 1024)}M" if request.memory else None,
        "partition": request.partition,
        "account": request.account,
        "qos": request.qos,
        "constraint": request.constraint,
        "setup": list(request.setup) or None,
    }
    extra: dict[str, Any] = {"requeue": True}
    extra |= {name: True if value in ("", "true") else value for name, value in request.slurm}
    executor.update_parameters(
        **{name: value for name, value in given.items() if value is not None},
        nodes=1,
        ntasks_per_node=1,
        array_parallelism=request.max_parallel or request.tasks,
        signal_delay_s=min(NOTICE, limit * 30),
        stderr_to_stdout=True,
        additional_parameters=extra,
        srun_args=[f"--cpus-per-task={cpus}"],  # srun no longer takes it from the job
    )
    return executor


@contextlib.contextmanager
def _left_alone() -> Iterator[None]:
    """Processes started within do not get the terminal's signals: Ctrl-C is the launcher's to act on."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _tail(path: Path, size: int = 4096) -> str:
    """The end of a log."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - size))
            return file.read().decode(errors="replace")
    except OSError:
        return ""


def _killed_for_memory(log: Path) -> bool:
    """Whether slurmstepd or srun wrote so at the end of a job's log."""
    text = _tail(log).lower()
    return "oom-kill event" in text or "oom_kill event" in text or "task 0: out of memory" in text
