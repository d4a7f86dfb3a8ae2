"""What is asked for: the command, the number of tasks, and what each of them needs."""

import dataclasses
import importlib.util
import re
import shlex
from pathlib import Path

from cnnjax.typing import UsageError

OURS = ("array", "error", "output", "open-mode", "signal")  # parameters of sbatch that the launcher needs itself


@dataclasses.dataclass(frozen=True)
class Request:
    """One fleet.

    Attributes:
      command: every task runs it, with ``CNNJAX_SHARD`` set to its number.
      tasks: how many.
      name: of the jobs.
      logs: a fresh directory below it holds what this launch writes.
      minutes: that a task may take before it is stopped and queued again; None: no limit.
      cpus: cores of a task; None: the cluster's usual.
      gpus: of a task.
      memory: of a task, in GB; None: the cluster's usual.
      max_parallel: tasks that may run at the same time; 0: all.
      requeues: how often a task that reached its time limit is queued again.
      setup: lines of shell that precede every task.
      partition, account, qos, constraint: of SLURM.
      slurm: further parameters of sbatch.
      address: of a Ray cluster; "" starts one here.
    """

    command: tuple[str, ...]
    tasks: int
    name: str
    logs: Path
    minutes: int | None = None
    cpus: int | None = None
    gpus: int = 0
    memory: float | None = None
    max_parallel: int = 0
    requeues: int = 20
    setup: tuple[str, ...] = ()
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    slurm: tuple[tuple[str, str], ...] = ()
    address: str = ""


def minutes(text: str) -> int:
    """A duration in whole minutes, rounded up: "90", "1:30:00" or "2-00:00:00".

    Raises:
      UsageError: it is none.
    """
    found = re.fullmatch(r"(?:(?:(\d+)-)?(\d+):([0-5]?\d):([0-5]?\d))|(\d+)", text)
    if not found:
        raise UsageError(f"--time={text} is no duration. Give minutes, HH:MM:SS or D-HH:MM:SS.")
    days, hours, rest, seconds, plain = (int(part or 0) for part in found.groups())
    whole = plain + (days * 24 + hours) * 60 + rest + (seconds > 0)
    if whole < 1:
        raise UsageError(f"--time={text} is no time at all. Give at least one minute.")
    return whole


def parameters(pairs: list[str]) -> tuple[tuple[str, str], ...]:
    """The further parameters of sbatch, from "name=value" each.

    Raises:
      UsageError: one has another form, or is the launcher's own.
    """
    found = []
    for pair in pairs:
        name, equals, value = pair.partition("=")
        name = name.lstrip("-").replace("_", "-")
        if not name or not equals:
            raise UsageError(f"--slurm={pair} is not of the form name=value. For example --slurm=reservation=friday.")
        if name in OURS:
            raise UsageError(f"--slurm={pair}: the launcher sets {name} itself. Leave it out.")
        found.append((name, value))
    return tuple(found)


def option(command: tuple[str, ...], name: str) -> str | None:
    """The value of ``--name=value`` or ``--name value`` in a command, or None."""
    for index, argument in enumerate(command):
        if argument.startswith(f"--{name}="):
            return argument.partition("=")[2]
        if argument == f"--{name}" and index + 1 < len(command):
            return command[index + 1]
    return None


def experiment(command: tuple[str, ...]) -> str | None:
    """The module of a command that runs an experiment, ``python -m experiments.NAME``, or None.

    An experiment is a module whose last line calls ``cli.main``.
    """
    if len(command) < 3 or command[1] != "-m" or not Path(command[0]).name.startswith("python"):
        return None
    try:
        found = importlib.util.find_spec(command[2])
    except (ImportError, ValueError):
        return None
    source = Path(found.origin) if found and found.origin else None
    is_one = source is not None and source.suffix == ".py" and "cli.main(__name__" in source.read_text()
    return command[2] if is_one else None


def results(command: tuple[str, ...]) -> Path | None:
    """Where an experiment's command keeps its results, or None for any other command."""
    module = experiment(command)
    return Path(option(command, "workdir") or "runs") / module.rpartition(".")[2] if module else None


def shard(number: int, total: int) -> str:
    """The value of ``CNNJAX_SHARD`` for a task."""
    return f"{number}/{total}"


def prepared(request: Request) -> tuple[str, ...]:
    """The command behind the lines of shell that precede it, for clusters that do not run these themselves."""
    if not request.setup:
        return request.command
    return ("bash", "-c", "\n".join(["set -e", *request.setup, 'exec "$@"']), "bash", *request.command)


def shown(request: Request, number: int) -> str:
    """What a task runs, as one would type it."""
    return f"CNNJAX_SHARD={shard(number, request.tasks)} {shlex.join(request.command)}"
