"""Tasks on a Ray cluster: an existing one by its address, or one of this machine that ends with the launcher.

The working directory and the results must be at the same place on every machine, as everywhere else.
"""

import os
import socket
import time
from pathlib import Path
from typing import Any

from cnnjax.typing import UsageError
from launch.request import Request, prepared, shard
from launch.states import (
    CANCELLED,
    FAILED,
    LOST,
    MEANINGS,
    NODE_FAIL,
    OUT_OF_MEMORY,
    PENDING,
    RUNNING,
    State,
    of_outcome,
)
from launch.task import Outcome, Task

GRACE = 30.0  # seconds that a command has to save its state when it is cancelled


def check_installed() -> None:
    """Refuses to go on without the library.

    Raises:
      UsageError: Ray is not installed.
    """
    try:
        import ray  # noqa: F401
    except ImportError as error:
        raise UsageError("--cluster=ray needs Ray, which is not installed. Run: pip install -e '.[ray]'") from error


def run_task(task: Task, log: str) -> Outcome:
    """What a worker of Ray runs: the task, with its output in a file rather than on the launcher's terminal."""
    with open(log, "ab", buffering=0) as file:
        before = os.dup(1), os.dup(2)
        try:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
            Path(f"{log}.running").touch()
            return task()
        finally:
            for kept, number in zip(before, (1, 2), strict=True):
                os.dup2(kept, number)
                os.close(kept)


def _check_listening(address: str) -> None:
    """Refuses HOST:PORT where nobody listens; Ray itself would try for minutes.

    Raises:
      UsageError: nobody does.
    """
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdecimal():  # "auto", a name of Ray's, or none
        return
    try:
        socket.create_connection((host, int(port)), timeout=5.0).close()
    except OSError as error:
        raise UsageError(
            f"--address={address}: no Ray cluster answers there ({error}). Start one: ray start --head."
        ) from error


class Ray:
    """Remote tasks of Ray; they end with this process."""

    label = "Ray"

    def __init__(self, request: Request):
        import ray

        self.request, self.ray = request, ray
        _check_listening(request.address)
        try:
            ray.init(
                address=request.address or "local",
                log_to_driver=False,
                logging_level="ERROR",
                include_dashboard=False if not request.address else None,
            )
        except (ConnectionError, ValueError, RuntimeError) as error:
            said = str(error).strip().splitlines()[0]
            raise UsageError(f"--address={request.address}: no Ray cluster answers there ({said}).") from error
        self._check_resources()
        self._references: dict[int, Any] = {}
        self._known: dict[int, State] = {}
        self._cancelled: set[int] = set()
        self._waiting: list[int] = []

    def _check_resources(self) -> None:
        """Refuses a task that no node could ever run: Ray would wait for ever."""
        wanted = {"CPU": self.request.cpus or 1, "GPU": self.request.gpus, "memory": self._bytes()}
        nodes = [node["Resources"] for node in self.ray.nodes() if node["Alive"]]
        if not any(all(node.get(name, 0) >= amount for name, amount in wanted.items()) for node in nodes):
            self.close()
            found = "; ".join(f"{node.get('CPU', 0):.0f} CPUs, {node.get('GPU', 0):.0f} GPUs" for node in nodes)
            raise UsageError(
                f"--cluster=ray: no node has {wanted['CPU']} CPUs, {wanted['GPU']} GPUs and "
                f"{self.request.memory or 0} GB for a task. The nodes have: {found}."
            )

    def _bytes(self) -> int:
        return round((self.request.memory or 0) * 2**30)

    def submit(self, numbers: list[int]) -> None:
        """Starts these members, or queues them."""
        self._waiting += numbers
        self._fill()

    def _fill(self) -> None:
        """Gives Ray what may run now; Ray itself knows which of these have a place."""
        limit = self.request.max_parallel or self.request.tasks
        open_tasks = [number for number in self._references if number not in self._known]
        count = max(0, limit - len(open_tasks))
        numbers, self._waiting = self._waiting[:count], self._waiting[count:]
        cpus = self.request.cpus or 1
        remote = self.ray.remote(run_task).options(
            num_cpus=cpus, num_gpus=self.request.gpus, memory=self._bytes() or None, max_retries=0
        )
        for number in numbers:
            name = shard(number, self.request.tasks)
            task = Task(prepared(self.request), name, os.getcwd(), GRACE, cpus)
            self._known.pop(number, None)
            self._marker(number).unlink(missing_ok=True)
            self._references[number] = remote.remote(task, str(self._log(number)))

    def _log(self, number: int) -> Path:
        return self.request.logs / f"ray_{number}_log.out"

    def _marker(self, number: int) -> Path:
        return Path(f"{self._log(number)}.running")

    def states(self) -> dict[int, State]:
        """Of every task that was submitted, its last one."""
        references = {reference: number for number, reference in self._references.items() if number not in self._known}
        if references:
            ready, _ = self.ray.wait(list(references), num_returns=len(references), timeout=0)
            self._known.update({references[reference]: self._ended(references[reference]) for reference in ready})
        self._fill()
        found = dict(self._known)
        for number in self._references.keys() - self._known.keys():
            found[number] = State(RUNNING if self._marker(number).exists() else PENDING, log=self._log(number))
        return {**found, **{number: State(PENDING) for number in self._waiting}}

    def _ended(self, number: int) -> State:
        """How a task that Ray calls ready came to its end."""
        errors, log = self.ray.exceptions, self._log(number)
        self._marker(number).unlink(missing_ok=True)
        try:
            return of_outcome(Outcome(*self.ray.get(self._references[number])), log)
        except errors.TaskCancelledError:
            return State(CANCELLED, MEANINGS[CANCELLED], log)
        except errors.OutOfMemoryError:  # Ray's own watch over a node's memory
            return State(OUT_OF_MEMORY, MEANINGS[OUT_OF_MEMORY], log)
        except errors.NodeDiedError:
            return State(NODE_FAIL, MEANINGS[NODE_FAIL], log)
        except (errors.WorkerCrashedError, errors.RaySystemError, errors.ObjectLostError) as error:
            if number in self._cancelled:
                return State(CANCELLED, MEANINGS[CANCELLED], log)
            return State(LOST, f"its process is gone: {str(error).splitlines()[0]}", log)
        except errors.RayTaskError as error:
            if number in self._cancelled:
                return State(CANCELLED, MEANINGS[CANCELLED], log)
            return State(FAILED, str(error).strip().splitlines()[-1], log)

    def cancel(self) -> None:
        """Ends every task and waits: the commands save their states."""
        self._waiting = []
        for number, state in self.states().items():
            if not state.ended:
                self._cancelled.add(number)
                self.ray.cancel(self._references[number], force=False)
        deadline = time.monotonic() + GRACE + 5
        while time.monotonic() < deadline and not all(state.ended for state in self.states().values()):
            time.sleep(0.2)

    def close(self) -> None:
        """Ends what this process holds of Ray."""
        self.ray.shutdown()

    def ids(self) -> list[str]:
        """Ray's tasks have no names that a user could act on."""
        return []
