"""How a sweep is executed: which processes, which devices, what limits and what is kept."""

import os
import re
from dataclasses import dataclass, field
from typing import Any, NamedTuple, get_args

from cnnjax.data.feed import Mode
from cnnjax.sweep.lease import LEASE_SECONDS
from cnnjax.train.program import Driver
from cnnjax.train.run import CHECKPOINT_SECONDS
from cnnjax.typing import UsageError, unknown

FORMS = ("auto", "loop", "scan")  # of a driver; "auto" is the rule's


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
    parts = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text)  # other digits than these make no number, or another
    if not (parts and int(parts[1]) < int(parts[2])):
        raise UsageError(f"CNNJAX_SHARD={text!r} must be INDEX/COUNT with 0 <= INDEX < COUNT, such as 0/8.")
    return Member(int(parts[1]), int(parts[2]))


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
      UsageError: a value of another kind, or out of its bounds.
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

    def __post_init__(self) -> None:
        for name, lowest in LOWEST.items():
            value = getattr(self, name)
            whole = isinstance(lowest, int)
            if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
                raise UsageError(f"{name}={value!r} must be a {'whole ' if whole else ''}number.")
            if not lowest <= value <= LARGEST:
                raise UsageError(f"{name}={value} must be from {lowest} to {LARGEST:,}.")
        for name in ("keep_checkpoints", "mix_signatures"):
            if type(value := getattr(self, name)) is not bool:
                raise UsageError(f"{name}={value!r} must be True or False.")
        if self.feed not in get_args(Mode):
            raise unknown("feed", str(self.feed), get_args(Mode))
        if not (isinstance(self.log, tuple) and all(isinstance(writer, str) for writer in self.log)):
            raise UsageError(f"log={self.log!r} must be a tuple of names, such as ('tensorboard',).")
        if self.driver is not None:
            _check_driver(self.driver)
        if self.member is not None:
            _check_member(self.member)

    @property
    def share(self) -> Member:
        """What this process begins with: the whole, where there is no fleet."""
        return self.member or Member()


def _check_driver(driver: Any) -> None:
    if not isinstance(driver, Driver):
        raise UsageError(f"driver={driver!r} must be a Driver, such as Driver('scan', lanes=4).")
    if driver.form not in FORMS:
        raise unknown("form of a driver", str(driver.form), FORMS)
    for name in ("lanes", "runs", "data"):
        if type(value := getattr(driver, name)) is not int or value < 1:
            raise UsageError(f"driver.{name}={value!r} must be a whole number, at least 1.")


def _check_member(member: Any) -> None:
    parts = tuple(member) if isinstance(member, tuple) else ()
    if not (len(parts) == 2 and all(type(part) is int for part in parts) and 0 <= parts[0] < parts[1]):
        raise UsageError(f"member={member!r} must be Member(number, of) with 0 <= number < of.")
