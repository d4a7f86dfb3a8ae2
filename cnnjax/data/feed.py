"""Which examples each step sees, and how they reach the device.

The order of examples is a function of (seed, epoch) alone. Position p of a run's endless stream is
example ``p % size`` of epoch ``p // size``; step s takes positions ``s * batch`` to
``(s + 1) * batch``. So every epoch shows each example once, no batch is ever short, and there
is no iterator state beyond the step number.

A *resident* dataset lies on the device whole, and a step gathers its batch by index. A *streamed*
one stays on the host, and each chunk of steps brings along just the examples it needs. Both hand
the same program a pool of examples and indices into it, so both give the same bits.

Where several devices work on one bundle, each has a pool of its own: all examples of a resident dataset, or those that
it needs itself of a streamed one. A process puts together the pools of its own devices alone.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Int, UInt32

from cnnjax import rng
from cnnjax.data.dataset import Dataset
from cnnjax.typing import UsageError

Mode = Literal["auto", "resident", "stream"]
RESIDENT_BYTES = 4 * 2**30  # a fixed rule: larger datasets are streamed
EVALUATION_BATCH = 256
EVALUATION_CHUNK = 16  # batches
RUN, DATA = "run", "data"  # the axes of a mesh of devices: these share the runs of a bundle, or each batch


class Chunk(NamedTuple):
    """Batches of a few steps, or of a part of an evaluation.

    Attributes:
      pool: examples, as ``train.step.Pool``. For a mesh of devices one for each of its rows; where devices share a
        batch, it has a first axis with what each of them has.
      indices: (length, lanes, batch) int32 into the pool.
      noise: (length, lanes, batch, 2) uint32: random words of each example and seed, for label noise.
      counts: (length, lanes) int32: how many examples of each batch are meant.
      length: how many entries of the first axis are meant; the rest is padding.
    """

    pool: Any
    indices: Int[np.ndarray, "length lanes batch"]
    noise: UInt32[np.ndarray, "length lanes batch 2"]
    counts: Int[np.ndarray, "length lanes"]
    length: int


def batch_indices(
    seed: int, first_step: int, steps: int, batch_size: int, size: int, total: int
) -> Int[np.ndarray, "steps batch"]:
    """Numbers of the training examples that steps ``first_step`` onwards see.

    Args:
      seed: of the run.
      first_step: number of the first step, from 0.
      steps: how many steps.
      batch_size: examples per step.
      size: examples in the run's subset of the training split.
      total: examples in the training split.
    """
    position, end = first_step * batch_size, (first_step + steps) * batch_size
    parts = []
    while position < end:
        epoch, offset = divmod(position, size)
        part = _epoch_order(seed, epoch, size, total)[offset : offset + end - position]
        parts.append(part)
        position += len(part)
    return np.concatenate(parts).reshape(steps, batch_size)


def subset(seed: int, size: int, total: int) -> Int[np.ndarray, " size"]:
    """The ``size`` training examples that a run of this seed sees; larger sizes hold the smaller ones."""
    return np.arange(total) if size == total else rng.permutation(seed, "subset", 0, total)[:size]


@lru_cache(maxsize=64)
def _epoch_order(seed: int, epoch: int, size: int, total: int) -> Int[np.ndarray, " size"]:
    return subset(seed, size, total)[rng.permutation(seed, "shuffle", epoch, size)]


class Feed:
    """The examples of a bundle of runs, which may differ in seed and in training-set size.

    Args:
      dataset: decoded examples.
      mode: "resident", "stream", or "auto": resident up to ``RESIDENT_BYTES``.
      seeds: one per lane.
      train_sizes: training examples of each lane; 0 is all.
      batch_size: examples per step.
      max_steps: length of the index array of a chunk; fixed, so that every chunk is one program.
      mesh: the devices, ``RUN`` by ``DATA``, that share the lanes and each batch; None is the default device.

    Raises:
      UsageError: unknown mode.
    """

    def __init__(
        self,
        dataset: Dataset,
        mode: Mode,
        seeds: Sequence[int],
        train_sizes: Sequence[int],
        batch_size: int,
        max_steps: int,
        mesh: Mesh | None = None,
    ):
        if mode not in ("auto", "resident", "stream"):
            raise UsageError(f"Unknown feed {mode!r}. Choices: auto, resident, stream.")
        self.dataset, self.seeds, self.batch_size, self.max_steps = dataset, seeds, batch_size, max_steps
        self.total = dataset.info.sizes["train"]
        self.sizes = [size or self.total for size in train_sizes]
        resident = mode == "resident" or (mode == "auto" and dataset.images.nbytes <= RESIDENT_BYTES)
        self._mesh = mesh
        self._resident = _resident_pool(dataset, mesh or jax.config.jax_default_device) if resident else None

    def chunks(self, schedule: Sequence[tuple[int, int]]) -> Iterator[Chunk]:
        """The batches of each (first step, steps) of the schedule."""

        def indices(entry: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
            lanes = [
                batch_indices(seed, *entry, self.batch_size, size, self.total)
                for seed, size in zip(self.seeds, self.sizes, strict=True)
            ]
            stacked = np.stack(lanes, axis=1)
            return stacked, np.full(stacked.shape[:2], self.batch_size)

        return self._pooled(schedule, indices, self.max_steps)

    def split(self, name: str, limit: int | None = None, whole: bool = False) -> Iterator[Chunk]:
        """The examples of a split, in order; "train" is each lane's own subset, at most ``limit``.

        With ``whole`` the devices that share a batch get all of its examples, and not each its part.
        """
        start, stop = self.dataset.ranges[name]
        lanes = [np.arange(start, stop)] * len(self.seeds)
        if name == "train":
            lanes = [subset(s, n, self.total)[:limit] for s, n in zip(self.seeds, self.sizes, strict=True)]
        longest = max(len(lane) for lane in lanes)
        padded = np.stack([np.resize(lane, longest) for lane in lanes], axis=1)
        lengths = np.array([len(lane) for lane in lanes])
        sharing = self._mesh.shape[DATA] if self._mesh else 1
        size = -(-EVALUATION_BATCH // sharing) * sharing  # equal parts

        def indices(first: int) -> tuple[np.ndarray, np.ndarray]:
            part = padded[first : first + EVALUATION_CHUNK * size]
            batches = -(-len(part) // size)
            part = np.resize(part, (batches * size, len(lanes)))
            starts = first + size * np.arange(batches)[:, None]
            counts = np.clip(lengths - starts, 0, size)
            return part.reshape(batches, size, len(lanes)).transpose(0, 2, 1), counts

        firsts = range(0, longest, EVALUATION_CHUNK * size)
        return self._pooled(list(firsts), indices, EVALUATION_CHUNK, whole)

    def _pooled(
        self, entries: Sequence[Any], indices: Callable[[Any], Any], length: int, whole: bool = False
    ) -> Iterator[Chunk]:
        """A chunk for each entry; those of a streamed dataset are put together ahead, in threads."""

        def build(entry: Any) -> Chunk:
            numbers, counts = indices(entry)
            meant = len(numbers)
            numbers = np.resize(numbers, (length, *numbers.shape[1:])).astype(np.int32)
            counts = np.resize(counts, (length, *counts.shape[1:])).astype(np.int32)
            words = [_noise(seed, self.total) for seed in self.seeds]
            # Only training examples have noise; the numbers of others wrap around and are not used.
            noise = np.stack([w[numbers[:, lane] % self.total] for lane, w in enumerate(words)], axis=1)
            if self._resident is not None:
                return Chunk(self._resident, numbers, noise, counts, meant)
            pool, local = self._streamed_pool(numbers, whole)
            return Chunk(pool, local, noise, counts, meant)

        if self._resident is not None:
            yield from map(build, entries)
            return
        import grain  # 1.2 s to import, and only streams need it

        ahead = grain.ReadOptions(num_threads=2, prefetch_buffer_size=2)
        yield from grain.MapDataset.source(list(entries)).map(build).to_iter_dataset(ahead)

    def _streamed_pool(self, numbers: Int[np.ndarray, "length lanes batch"], whole: bool):
        """Just the examples of these numbers, and the numbers of each in its device's pool."""
        if self._mesh is None:
            local = np.arange(numbers.size, dtype=np.int32).reshape(numbers.shape)
            return _pool(self.dataset, numbers.ravel()), local
        runs, data = self._mesh.shape[RUN], 1 if whole else self._mesh.shape[DATA]
        length, lanes, batch = numbers.shape[0], numbers.shape[1] // runs, numbers.shape[2] // data
        own = np.arange(length * lanes * batch, dtype=np.int32).reshape(length, lanes, batch)

        @lru_cache
        def pool(run: int, part: int) -> dict[str, Any]:
            mine = numbers[:, run * lanes : (run + 1) * lanes, part * batch : (part + 1) * batch]
            return _pool(self.dataset, mine.ravel())

        pools = _on_each(self._mesh, lambda run, part: pool(run, 0 if whole else part))
        return pools, np.tile(own, (1, runs, data))


@lru_cache(maxsize=64)
def _noise(seed: int, total: int) -> UInt32[np.ndarray, "total 2"]:
    """Two random words for each training example, which depend on its number and the seed alone."""
    words = rng.bits(seed, "label_noise", 0, total)
    return np.stack([words & 0xFFFFFFFF, words >> 32], axis=-1).astype(np.uint32)


@lru_cache(maxsize=16)  # two datasets on each of eight devices
def _resident_pool(dataset: Dataset, place: Any) -> Any:
    """The whole dataset on the default device, here ``place``, or on each of a mesh; kept, so that bundles share it."""
    pool = _pool(dataset, np.arange(len(dataset.labels), dtype=np.int32))
    return _on_each(place, lambda run, part: pool) if isinstance(place, Mesh) else jax.device_put(pool)


def _on_each(mesh: Mesh, pool: Callable[[int, int], dict[str, Any]]) -> list[dict[str, Any]]:
    """The pools of a mesh, from that of each device by its place (run, data); asked for the devices here only."""

    def of_row(run: int, row: np.ndarray) -> dict[str, Any]:
        if len(row) == 1:
            return jax.device_put(pool(run, 0), row[0])
        here = [
            jax.device_put({name: np.asarray(value)[None] for name, value in pool(run, part).items()}, device)
            for part, device in enumerate(row)
            if device.process_index == jax.process_index()
        ]
        sharding = NamedSharding(Mesh(row, (DATA,)), PartitionSpec(DATA))
        return {
            name: jax.make_array_from_single_device_arrays(
                (len(row), *here[0][name].shape[1:]), sharding, [each[name] for each in here]
            )
            for name in here[0]
        }

    return [of_row(run, row) for run, row in enumerate(mesh.devices)]


def _pool(dataset: Dataset, numbers: Int[np.ndarray, " n"]) -> dict[str, Any]:
    return {
        "images": dataset.images[numbers],
        "labels": dataset.labels[numbers],
        "mean": dataset.mean,
        "std": dataset.std,
        "colour_basis": dataset.colour_basis,
    }
