"""What becomes of a task: its states, by SLURM's names on every cluster, and which of them are worth another try."""

import signal
from pathlib import Path
from typing import NamedTuple, Protocol

from launch.task import INTERRUPTED, NOT_FOUND, Outcome

PENDING, RUNNING, COMPLETED, FAILED = "PENDING", "RUNNING", "COMPLETED", "FAILED"
CANCELLED, OUT_OF_MEMORY, TIMEOUT, NODE_FAIL = "CANCELLED", "OUT_OF_MEMORY", "TIMEOUT", "NODE_FAIL"
KILLED = "KILLED"  # by a signal that is not known to come from the cluster
LOST = "LOST"  # gone without a word

# Accidents of the machine: the same command may well succeed. A command that failed by itself would fail again.
ACCIDENTS = (OUT_OF_MEMORY, TIMEOUT, NODE_FAIL, KILLED, LOST, "PREEMPTED", "BOOT_FAIL", "DEADLINE")
MEANINGS = {
    OUT_OF_MEMORY: "killed for memory; give it more: --memory",
    TIMEOUT: "reached its time limit too often; give it more: --time",
    NODE_FAIL: "its machine failed",
    CANCELLED: "cancelled",
    LOST: "ended without saying how",
    "PREEMPTED": "had to make room",
    "BOOT_FAIL": "its machine did not start",
    "DEADLINE": "could not end before its deadline",
}


class State(NamedTuple):
    """Of one task, now.

    Attributes:
      name: one of those above, or another word of the scheduler for a task that has not ended.
      detail: in words: why it waits, how it ended.
      log: what it printed.
    """

    name: str
    detail: str = ""
    log: Path | None = None

    @property
    def ended(self) -> bool:
        """Whether it will not change."""
        return self.name in (COMPLETED, FAILED, CANCELLED, *ACCIDENTS)

    @property
    def failed(self) -> bool:
        """Whether it ended, but not well."""
        return self.ended and self.name != COMPLETED


class Cluster(Protocol):
    """Where tasks run."""

    label: str

    def submit(self, numbers: list[int]) -> None:
        """Starts these members of the fleet, or queues them."""

    def states(self) -> dict[int, State]:
        """Of every task that was submitted, its last one."""

    def cancel(self) -> None:
        """Ends every task that has not ended; each has time to save its state."""

    def close(self) -> None:
        """Lets go of the cluster."""


def of_outcome(outcome: Outcome, log: Path | None) -> State:
    """The state of a task whose command ended."""
    if outcome.code == 0:
        return State(COMPLETED, log=log)
    if outcome.out_of_memory:
        return State(OUT_OF_MEMORY, MEANINGS[OUT_OF_MEMORY], log)
    if outcome.code < 0:
        return State(KILLED, f"ended by {signal.Signals(-outcome.code).name}", log)
    if outcome.code == INTERRUPTED:
        return State(KILLED, "stopped by a signal, its state is saved", log)
    if outcome.code == NOT_FOUND:
        return State(FAILED, "the command was not found there (exit code 127)", log)
    return State(FAILED, f"exit code {outcome.code}", log)


def of_error(trace: str, log: Path | None) -> State:
    """The state of a task that submitit ended with an exception."""
    last = trace.strip().splitlines()[-1] if trace.strip() else ""
    if "timed-out" in last:
        return State(TIMEOUT, MEANINGS[TIMEOUT], log)
    if "requeue" in trace:  # the cluster does not let jobs queue themselves again; the launcher does it
        return State(LOST, f"stopped, and could not be queued again ({last})", log)
    return State(FAILED, last, log)
