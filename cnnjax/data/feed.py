"""Which examples each step sees, and how they reach the device.

The order of examples is a function of (seed, epoch) alone. Position p of a run's endless stream is
example ``p % size`` of epoch ``p // size``; step s takes positions ``s * batch`` to
``(s + 1) * batch``. So every epoch shows each example once, no batch is ever short, and there
is no iterator state beyond the step number.

A *resident* dataset lies on the device whole, and a step gathers its batch by index. A *streamed*
one stays on the host, and each chunk of steps brings along just the examples it needs. Both hand
the same program a pool of examples and indices into it, so both give the same bits.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from jaxtyping import Int, UInt32

from cnnjax import rng
from cnnjax.data.dataset import Dataset
from cnnjax.typing import UsageError

Mode = Literal["auto", "resident", "stream"]
RESIDENT_BYTES = 4 * 2**30  # a fixed rule: larger datasets are streamed
EVALUATION_BATCH = 256
EVALUATION_CHUNK = 16  # batches


class Chunk(NamedTuple):
    """Batches of a few steps, or of a part of an evaluation.

    Attributes:
      pool: examples, as ``train.step.Pool``.
      indices: (length, lanes, batch) int32 into the pool.
      noise: (length, lanes, batch, 2) uint32: random words of each example and seed, for label noise.
      counts: (length, lanes) int32: how many examples of each batch are meant.
      length: how many entries of the first axis are meant; the rest is padding.
    """

    pool: dict[str, Any]
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
    ):
        if mode not in ("auto", "resident", "stream"):
            raise UsageError(f"Unknown feed {mode!r}. Choices: auto, resident, stream.")
        self.dataset, self.seeds, self.batch_size, self.max_steps = dataset, seeds, batch_size, max_steps
        self.total = dataset.info.sizes["train"]
        self.sizes = [size or self.total for size in train_sizes]
        resident = mode == "resident" or (mode == "auto" and dataset.images.nbytes <= RESIDENT_BYTES)
        self._resident = _resident_pool(dataset, jax.config.jax_default_device) if resident else None

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

    def split(self, name: str, limit: int | None = None) -> Iterator[Chunk]:
        """The examples of a split, in order; "train" is each lane's own subset, at most ``limit``."""
        start, stop = self.dataset.ranges[name]
        lanes = [np.arange(start, stop)] * len(self.seeds)
        if name == "train":
            lanes = [subset(s, n, self.total)[:limit] for s, n in zip(self.seeds, self.sizes, strict=True)]
        longest = max(len(lane) for lane in lanes)
        padded = np.stack([np.resize(lane, longest) for lane in lanes], axis=1)
        lengths = np.array([len(lane) for lane in lanes])

        def indices(first: int) -> tuple[np.ndarray, np.ndarray]:
            part = padded[first : first + EVALUATION_CHUNK * EVALUATION_BATCH]
            batches = -(-len(part) // EVALUATION_BATCH)
            part = np.resize(part, (batches * EVALUATION_BATCH, len(lanes)))
            starts = first + EVALUATION_BATCH * np.arange(batches)[:, None]
            counts = np.clip(lengths - starts, 0, EVALUATION_BATCH)
            return part.reshape(batches, EVALUATION_BATCH, len(lanes)).transpose(0, 2, 1), counts

        firsts = range(0, longest, EVALUATION_CHUNK * EVALUATION_BATCH)
        return self._pooled(list(firsts), indices, EVALUATION_CHUNK)

    def _pooled(self, entries: Sequence[Any], indices: Callable[[Any], Any], length: int) -> Iterator[Chunk]:
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
            local = np.arange(numbers.size, dtype=np.int32).reshape(numbers.shape)
            return Chunk(_pool(self.dataset, numbers.ravel()), local, noise, counts, meant)

        if self._resident is not None:
            yield from map(build, entries)
            return
        import grain  # 1.2 s to import, and only streams need it

        ahead = grain.ReadOptions(num_threads=2, prefetch_buffer_size=2)
        yield from grain.MapDataset.source(list(entries)).map(build).to_iter_dataset(ahead)


@lru_cache(maxsize=64)
def _noise(seed: int, total: int) -> UInt32[np.ndarray, "total 2"]:
    """Two random words for each training example, which depend on its number and the seed alone."""
    words = rng.bits(seed, "label_noise", 0, total)
    return np.stack([words & 0xFFFFFFFF, words >> 32], axis=-1).astype(np.uint32)


@lru_cache(maxsize=16)  # two datasets on each of eight devices
def _resident_pool(dataset: Dataset, device: Any) -> dict[str, Any]:
    """The whole dataset on the default device, here ``device``; kept, so that bundles share it."""
    return jax.device_put(_pool(dataset, np.arange(len(dataset.labels), dtype=np.int32)))


def _pool(dataset: Dataset, numbers: Int[np.ndarray, " n"]) -> dict[str, Any]:
    return {
        "images": dataset.images[numbers],
        "labels": dataset.labels[numbers],
        "mean": dataset.mean,
        "std": dataset.std,
        "colour_basis": dataset.colour_basis,
    }
