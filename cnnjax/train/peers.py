"""Several processes, on one host or many, that train one bundle together.

Processes that have joined run the same program on one mesh (``train.shard``). The first one leads: it decides what
depends on clocks, and writes. Alone, a process leads, and what is here costs nothing.
"""

import hashlib
import json
import logging
import os
import pickle
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import jax
import numpy as np

from cnnjax import tree
from cnnjax.process import write_atomically
from cnnjax.strict_json import encode
from cnnjax.text import printable
from cnnjax.train import checkpoint
from cnnjax.typing import UsageError

HEARTBEAT_SECONDS = 20  # a process that has been silent for as long is given up, and the others end
JOIN_SECONDS = 300  # for the processes to find each other
KEEP_COMMITS = 4
MESSAGE = 256  # bytes
log = logging.getLogger(__name__)


def join(coordinator: str | None = None, processes: int | None = None, process: int | None = None) -> None:
    """Makes this process one of several that train together; before JAX has looked at its devices.

    Args:
      coordinator: host:port on which the first process listens. None where the cluster says it itself, as SLURM,
        Cloud TPU and Open MPI do; then the others are None, too.
      processes: how many there are.
      process: which one this is, from 0; the first one leads.

    Raises:
      UsageError: the numbers make no sense, or the others are not found.
    """
    given = [value is not None for value in (coordinator, processes, process)]
    if any(given) and not all(given):
        raise UsageError("coordinator, processes and process belong together: give all of them, or none under SLURM.")
    if processes is not None and process is not None and not 0 <= process < processes:
        raise UsageError(f"process={process} must be from 0 to {processes - 1}, for there are processes={processes}.")
    if coordinator is not None and not coordinator.rpartition(":")[2].isdecimal():
        raise UsageError(f"coordinator={coordinator!r} must be HOST:PORT, such as 10.0.0.1:1234.")
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    try:
        jax.distributed.initialize(
            coordinator,
            processes,
            process,
            initialization_timeout=JOIN_SECONDS,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
        )
    except (ValueError, RuntimeError) as error:
        where = coordinator or "a coordinator that the cluster names"
        reason = str(error).splitlines()[0]
        raise UsageError(f"The processes did not find each other by {where}: {reason}") from error


def leave() -> None:
    """Ends what ``join`` began. All processes leave together."""
    if jax.distributed.is_initialized():
        jax.distributed.shutdown()


@contextmanager
def together() -> Iterator[None]:
    """Around what the processes compute together: when another one is gone, this one ends too, and says so.

    It could do nothing else: it would wait for the other, and what it was computing is no failure of its own.
    """
    try:
        yield
    except (jax.errors.JaxRuntimeError, ValueError) as error:  # Gloo's errors come as either
        other = "Gloo" in str(error) or isinstance(error, jax.errors.JaxRuntimeError)
        if jax.process_count() > 1 and other and "RESOURCE_EXHAUSTED" not in str(error):
            abandon(f"another process is gone ({str(error).splitlines()[0][:200]})")
        raise


def abandon(reason: str) -> NoReturn:
    """Ends this process at once, and by that the others: they cannot go on without it, nor it without them."""
    print(
        f"process {index()} of {count()} ends: {printable(reason)}\n"
        "Start all processes again: they go on from the last checkpoint.",
        file=sys.stderr,
        flush=True,
    )
    os._exit(1)  # JAX would wait for the others


def count() -> int:
    """How many have joined."""
    return jax.process_count()


def index() -> int:
    """Which of them this is."""
    return jax.process_index()


def leads() -> bool:
    """Whether this process decides and writes for all that have joined; alone it does."""
    return jax.process_index() == 0


def told(value: Any) -> Any:
    """What the leading process has for ``value``, in every process. All call it, in the same order."""
    if jax.process_count() == 1:
        return value
    from jax.experimental import multihost_utils

    content = pickle.dumps(value) if leads() else b""
    first = len(content).to_bytes(8, "big") + content  # most fit into one message of fixed length
    sent = bytes(multihost_utils.broadcast_one_to_all(np.frombuffer(first[:MESSAGE].ljust(MESSAGE), np.uint8)))
    length = int.from_bytes(sent[:8], "big")
    if 8 + length > MESSAGE:
        rest = np.frombuffer(first[MESSAGE:], np.uint8) if leads() else np.zeros(8 + length - MESSAGE, np.uint8)
        sent += bytes(multihost_utils.broadcast_one_to_all(rest))
    return pickle.loads(sent[8 : 8 + length])


def any_of(question: Callable[[], bool]) -> Callable[[], bool]:
    """Asks the question in every process: the answer is yes if that of one is. All call it, in the same order."""
    if jax.process_count() == 1:
        return question
    return lambda: any(_gathered(question()))


def agree(value: Any, when: str) -> None:
    """Makes sure that all processes have the same JSON value.

    Raises:
      RuntimeError: they have not.
    """
    if jax.process_count() == 1:
        return
    word = hashlib.sha256(encode(value, sort_keys=True).encode()).digest()
    others = _gathered(np.frombuffer(word, np.uint8))
    different = [process for process, other in enumerate(others) if other.tobytes() != others[0].tobytes()]
    if different:
        raise RuntimeError(f"process {different[0]} holds another state than process 0 after {when}")


def _gathered(value: Any) -> np.ndarray:
    """The value of every process, along a first axis."""
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.process_allgather(np.asarray(value)))


# Checkpoints of several processes


def commit(directory: Path, step: int, arrays: Any) -> None:
    """Says that this process has the state of a step; returns when all have said so, and of the same bits.

    Each writes ``<step>.commit-<process>`` before the leading process writes the state. A checkpoint without the
    commits of all, or whose digests differ, does not count; see ``restored``. Alone it does nothing.

    Args:
      directory: of the bundle's checkpoints, shared by all processes.
      step: steps done.
      arrays: NumPy copies of the state here.

    Raises:
      RuntimeError: the processes hold different states.
    """
    if jax.process_count() == 1:
        return
    digest = tree.digest(arrays)
    checkpoint.make(directory)
    record = {"process": jax.process_index(), "processes": jax.process_count(), "digest": digest}
    own = f"commit-{jax.process_index()}"
    write_atomically(directory / f"{step}.{own}", encode(record))
    agree(digest, f"step {step}")
    mine = sorted(directory.glob(f"*.{own}"), key=lambda path: int(path.name.split(".")[0]))
    for old in mine[:-KEEP_COMMITS]:
        old.unlink(missing_ok=True)


def restored(
    directory: Path, owner: Mapping[str, Any], like: Any, mix_signatures: bool = False
) -> checkpoint.Restored | None:
    """``checkpoint.restore`` by the leading process, for all; of a checkpoint that all who made it have committed.

    One that does not count is removed, and named in the log.
    """

    def find() -> checkpoint.Restored | None:
        while (found := checkpoint.restore(directory, owner, like, mix_signatures)) is not None:
            step = found.extra["step"]
            reason = _uncommitted(directory, step, found.arrays, found.extra["sharing"]["processes"])
            if reason is None:
                return found._replace(arrays=jax.device_get(found.arrays)) if jax.process_count() > 1 else found
            log.warning("checkpoint %s passed over: %s", directory / str(step), reason)
            shutil.rmtree(directory / str(step))
        return None

    return told(find() if leads() else None)


def check_sharing(there: Mapping[str, Any], here: Mapping[str, Any], mix: bool) -> None:
    """Refuses to go on from a state that other devices have made, unless ``mix``: its bits would be those of neither.

    Raises:
      UsageError: naming both.
    """
    if not mix and there != here:
        old, new = (", ".join(f"{name}={value}" for name, value in each.items()) for each in (there, here))
        raise UsageError(
            f"The checkpoint was made by other devices ({old}) than these ({new}): the bits would be those of neither. "
            "Use as many devices as before, another --workdir, or --mix_signatures to go on and mark the rows."
        )


def _uncommitted(directory: Path, step: int, arrays: Any, processes: int) -> str | None:
    """Why the checkpoint of a step, saved by several processes, does not count; None where it does."""
    expected = tree.digest(arrays)
    for process in range(processes) if processes > 1 else ():
        try:
            record = json.loads((directory / f"{step}.commit-{process}").read_text())
            if record != {"process": process, "processes": processes, "digest": expected}:
                return f"process {process} of {processes} committed another state"
        except (OSError, ValueError):
            return f"process {process} of {processes} has not committed it"
    return None
