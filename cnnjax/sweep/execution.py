"""How a sweep is executed: which processes, which devices, what limits and what is kept."""

import os
from dataclasses import dataclass, field
from typing import NamedTuple

from cnnjax.data.feed import Mode
from cnnjax.sweep.lease import LEASE_SECONDS
from cnnjax.train.program import Driver
from cnnjax.train.run import CHECKPOINT_SECONDS
from cnnjax.typing import UsageError


class Member(NamedTuple):
    """Which part of a fleet of workers this is, ``number`` from 0 ``of`` so many; it begins with its share."""

    number: int = 0
    of: int = 1


def fleet_member() -> Member | None:
    """This process's part of a fleet, from CNNJAX_SHARD=INDEX/COUNT in the environment; None where that is not set.

    Raises:
      UsageError: it is malformed.
    """
    text = os.environ.get("CNNJAX_SHARD")
    if not text:
        return None
    index, _, count = text.partition("/")
    if not (index.isdigit() and count.isdigit() and int(index) < int(count)):
        raise UsageError(f"CNNJAX_SHARD={text!r} must be INDEX/COUNT with 0 <= INDEX < COUNT, such as 0/8.")
    return Member(int(index), int(count))


# The least values of its numbers; their flags have the same.
LOWEST = {
    "workers": 0,
    "threads": 1,
    "checkpoint_seconds": 0.0,
    "lease_seconds": 0.5,
    "time_limit": 0.0,
    "memory_limit": 0,
}


LARGEST = 10**9  # of each of them: 30 years; what the system can wait for ends at 300


@dataclass(frozen=True)
class Execution:
    """How a sweep is executed. Apart from ``driver`` and ``threads``, nothing here changes a result.

    Attributes:
      workers: processes on a CPU, each pinned and supervised; 0 runs in this process. Ignored on accelerators.
      threads: cores of each worker process.
      driver: for every group, in place of the rule.
      feed: "auto", "resident" or "stream".
      checkpoint_seconds: least time between two checkpoints of a bundle.
      keep_checkpoints: keep the last state of every bundle when it is finished.
      mix_signatures: go on in a directory whose rows or checkpoints were made under another execution signature;
        a row whose run passed through several says which.
      lease_seconds: how long a worker may be silent before others take its bundle.
      time_limit: seconds that a worker process may spend on one bundle; 0 is no limit.
      memory_limit: MiB that a worker process may use; 0 is no limit.
      log: writers beside the JSON lines: "tensorboard", "wandb".
      member: the part of a fleet that this process is, where several run the same sweep on one directory; see
        ``fleet_member``. None waits for what others hold, so that all is done in the end.

    Raises:
      UsageError: a number that is none, not finite or too small.
    """

    workers: int = 0
    threads: int = 1
    driver: Driver | None = None
    feed: Mode = "auto"
    checkpoint_seconds: float = CHECKPOINT_SECONDS
    keep_checkpoints: bool = False
    mix_signatures: bool = False
    lease_seconds: float = LEASE_SECONDS
    time_limit: float = 0.0
    memory_limit: int = 0
    log: tuple[str, ...] = ()
    member: Member | None = field(default_factory=fleet_member)

    def __post_init__(self):
        for name, lowest in LOWEST.items():
            value = getattr(self, name)
            whole = isinstance(lowest, int)
            if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
                raise UsageError(f"{name}={value!r} must be a {'whole ' if whole else ''}number.")
            if not lowest <= value <= LARGEST:
                raise UsageError(f"{name}={value} must be from {lowest} to {LARGEST:,}.")

    @property
    def share(self) -> Member:
        """What this process begins with: the whole, where there is no fleet."""
        return self.member or Member()
