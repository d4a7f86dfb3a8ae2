"""Several devices for one bundle of runs, of one process or of several (``train.peers``).

The devices form a mesh with two axes. Along ``run`` they share the members of a bundle: each trains ``lanes`` of them
with the program of one device, so the bits do not depend on how many devices there are. Along ``data`` they share each
batch: every device holds the same parameters and computes the gradient of its part, and the mean of these is the
gradient. That is another program, and its bits are others.

``data`` goes across processes and ``run`` never does, so every process has the whole state of every run on devices of
its own.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cnnjax import rng
from cnnjax.data.catalog import Info
from cnnjax.data.feed import DATA, RUN
from cnnjax.nn.norm import BATCH_NORMS
from cnnjax.train.spec import Spec, build_task
from cnnjax.typing import UsageError, unknown


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
        jax.eval_shape(build_task(spec, info).init, rng.abstract_key(), {"images": images})
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
