"""Several devices for one bundle of runs, and several processes with devices.

The devices form a mesh with two axes. Along ``run`` they share the members of a bundle: each trains ``lanes`` of them
with the program of one device, so the bits do not depend on how many devices there are. Along ``data`` they share each
batch: every device holds the same parameters and computes the gradient of its part, and the mean of these is the
gradient. That is another program, and its bits are others.

Processes that have joined run the same program on the same mesh. ``data`` goes across processes and ``run`` never does,
so every process has the whole state of every run on devices of its own.
"""

import hashlib
import json
import logging
import os
import pickle
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cnnjax import tree
from cnnjax.data.catalog import Info
from cnnjax.data.feed import DATA, RUN
from cnnjax.nn.norm import BATCH_NORMS
from cnnjax.process import write_atomically
from cnnjax.train import checkpoint
from cnnjax.train.spec import Spec, build_task
from cnnjax.typing import UsageError, unknown

HEARTBEAT_SECONDS = 20  # a process that has been silent for as long is given up, and the others end
JOIN_SECONDS = 300  # for the processes to find each other
KEEP_COMMITS = 4
MESSAGE = 256  # bytes
log = logging.getLogger(__name__)


# The mesh


def check(runs: int, data: int, batch_norm: str, batch_size: int) -> None:
    """Refuses what the devices here cannot share.

    Args:
      runs: devices that share the members of a bundle.
      data: devices that share each batch.
      batch_norm: one of ``nn.norm.BATCH_NORMS``.
      batch_size: examples per step.

    Raises:
      UsageError: naming the number and the remedy.
    """
    for name, value in (("run_devices", runs), ("data_devices", data)):
        if value < 1:
            raise UsageError(f"{name} must be at least 1, not {value}.")
    if batch_norm not in BATCH_NORMS:
        raise unknown("batch_norm", batch_norm, BATCH_NORMS)
    asked, processes = runs * data, jax.process_count()
    if asked == processes == 1:
        return
    product = f"run_devices={runs} times data_devices={data}"
    if data % processes:
        raise UsageError(
            f"data_devices={data} cannot be shared equally by {processes} processes. Use a multiple of {processes}."
        )
    if asked // processes > jax.local_device_count():
        here = f"{processes} processes with {jax.local_device_count()} each" if processes > 1 else jax.device_count()
        raise UsageError(
            f"{product} asks for {asked} devices, but there are {here}. Ask for fewer; on a CPU, "
            f"XLA_FLAGS=--xla_force_host_platform_device_count={asked // processes} makes as many."
        )
    if batch_size % data:
        near = max(batch_size - batch_size % data, data)
        raise UsageError(
            f"batch_size={batch_size} cannot be shared equally by data_devices={data}. "
            f"Use a multiple of {data}, such as {near}, or another number of devices."
        )


def check_network(spec: Spec, info: Info) -> None:
    """Refuses a network that cannot share its batch with other devices, by tracing it; computes nothing.

    Raises:
      UsageError: it has Flax's batch norm, whose running statistics would differ from device to device.
    """
    found: list[str] = []

    def look(call, args, kwargs, context):
        if isinstance(context.module, nn.BatchNorm):
            found.append("/".join(context.module.path))
        return call(*args, **kwargs)

    images = jax.ShapeDtypeStruct((2, *info.image_shape), np.float32)
    with nn.intercept_methods(look):
        jax.eval_shape(build_task(spec, info).init, jax.eval_shape(lambda: jax.random.key(0)), {"images": images})
    if found:
        raise UsageError(
            f"The layer {found[0]} is flax.linen.BatchNorm, which does not know of the devices that share a batch. "
            "Use cnnjax.nn.BatchNorm in its place, or data_devices=1."
        )


def mesh(runs: int, data: int) -> Mesh | None:
    """The first devices as a mesh of ``RUN`` by ``DATA``, of every process as many; None for one device alone."""
    return None if runs * data == jax.process_count() == 1 else _mesh(runs, data)


@cache
def _mesh(runs: int, data: int) -> Mesh:
    processes = jax.process_count()
    each = data // processes
    own = [[d for d in jax.devices() if d.process_index == process][: runs * each] for process in range(processes)]
    blocks = [np.asarray(devices, object).reshape(runs, each) for devices in own]
    return Mesh(np.concatenate(blocks, axis=1), (RUN, DATA))


def group(row: Any) -> Mesh:
    """The devices of one row of a mesh, which share each batch."""
    return Mesh(row, (DATA,))


def on_members(mesh: Mesh, values: Any) -> Any:
    """A tree of arrays with a first axis of members, from the host to where ``joined`` has them."""
    if len(mesh.devices) == 1:
        return place(group(mesh.devices[0]), PartitionSpec(), values)
    return place(mesh, PartitionSpec(RUN), values)


def joined(mesh: Mesh, parts: Sequence[Any]) -> Any:
    """Trees of arrays on the rows of a mesh as one, whose first axis has the members of all; nothing is copied."""
    if len(parts) == 1:
        return parts[0]

    def join(*leaves: jax.Array) -> jax.Array:
        arrays = [shard.data for leaf in leaves for shard in leaf.addressable_shards]
        shape = (sum(leaf.shape[0] for leaf in leaves), *leaves[0].shape[1:])
        return jax.make_array_from_single_device_arrays(shape, NamedSharding(mesh, PartitionSpec(RUN)), arrays)

    return jax.tree_util.tree_map(join, *parts)


def cut(mesh: Mesh, values: Any) -> list[Any]:
    """The inverse of ``joined``: for each row of the mesh its members; arrays on the host stay there."""
    rows = len(mesh.devices)
    if rows == 1:
        return [values]

    def part(leaf: Any, number: int) -> Any:
        members = leaf.shape[0] // rows
        if not isinstance(leaf, jax.Array):
            return leaf[number * members : (number + 1) * members]
        here = {shard.device: shard.data for shard in leaf.addressable_shards}
        row = mesh.devices[number]
        arrays = [here[device] for device in row if device in here]
        if len(row) == 1:
            return arrays[0]
        shape, sharding = (members, *leaf.shape[1:]), NamedSharding(group(row), PartitionSpec())
        return jax.make_array_from_single_device_arrays(shape, sharding, arrays)

    return [jax.tree_util.tree_map(lambda leaf, at=number: part(leaf, at), values) for number in range(rows)]


def place(to: Mesh, spec: PartitionSpec, values: Any) -> Any:
    """A tree of arrays that every process has whole, on the devices of a mesh."""

    def put(value: Any) -> jax.Array:
        array = np.asarray(value)
        return jax.make_array_from_callback(array.shape, NamedSharding(to, spec), lambda index: array[index])

    return jax.tree_util.tree_map(put, values)


def host(values: Any) -> Any:
    """NumPy copies of arrays, whole, from the devices of this process.

    Raises:
      RuntimeError: two devices that should hold the same hold different bits.
    """
    return jax.tree_util.tree_map(_host, values)


def _host(leaf: Any) -> np.ndarray:
    if not isinstance(leaf, jax.Array) or len(leaf.addressable_shards) == 1:
        return np.asarray(leaf)
    whole = np.empty(leaf.shape, leaf.dtype)
    seen: set[str] = set()
    for shard in leaf.addressable_shards:
        part, place_of = np.asarray(shard.data), repr(shard.index)
        if place_of in seen and whole[shard.index].tobytes() != part.tobytes():
            raise RuntimeError(f"{shard.device} holds another state than the devices that share its batch")
        whole[shard.index] = part
        seen.add(place_of)
    return whole


# Processes


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
    if coordinator is not None and not coordinator.rpartition(":")[2].isdigit():
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
        f"process {process()} of {processes()} ends: {reason}\n"
        "Start all processes again: they go on from the last checkpoint.",
        file=sys.stderr,
        flush=True,
    )
    os._exit(1)  # JAX would wait for the others


def processes() -> int:
    """How many have joined."""
    return jax.process_count()


def process() -> int:
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
    word = hashlib.sha256(json.dumps(value, sort_keys=True).encode()).digest()
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
    directory.mkdir(parents=True, exist_ok=True)
    record = {"process": jax.process_index(), "processes": jax.process_count(), "digest": digest}
    own = f"commit-{jax.process_index()}"
    write_atomically(directory / f"{step}.{own}", json.dumps(record))
    agree(digest, f"step {step}")
    mine = sorted(directory.glob(f"*.{own}"), key=lambda path: int(path.name.split(".")[0]))
    for old in mine[:-KEEP_COMMITS]:
        old.unlink(missing_ok=True)


def restored(directory: Path, owner: Mapping[str, Any], like: Any) -> checkpoint.Restored | None:
    """``checkpoint.restore`` by the leading process, for all; of a checkpoint that all who made it have committed.

    One that does not count is removed, and named in the log.
    """

    def find() -> checkpoint.Restored | None:
        while (found := checkpoint.restore(directory, owner, like)) is not None:
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
