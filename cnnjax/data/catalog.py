"""Datasets by name: ``describe`` one before any work is done, then ``load`` it.

Adding a source is one module with ``describe`` and ``load``, and one line in ``SOURCES``.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int32, UInt8

from cnnjax.data import digits, encoded, folder, shapes, tfds
from cnnjax.data.dataset import DataConfig, Dataset, Info, Progress, assemble
from cnnjax.rng import permutation
from cnnjax.typing import UsageError, unknown

__all__ = ["SOURCES", "DataConfig", "Dataset", "Info", "Progress", "describe", "load"]


PIXEL_ORDER = 1  # the number that the permutation of pixels is drawn from, whatever the run's seed


@dataclass(frozen=True)
class Source:
    """Where datasets come from.

    Attributes:
      describe: what can be said cheaply, after every check that can be made cheaply.
      load: decodes or generates the arrays.
      argument: what the name must have after a colon; empty where nothing may follow.
    """

    describe: Callable[[DataConfig], Info]
    load: Callable[[DataConfig, Progress | None], Dataset]
    argument: str = ""


SOURCES = {
    "digits": Source(digits.describe, digits.load),
    "shapes": Source(shapes.describe, shapes.load),
    "folder": Source(folder.describe, folder.load, argument="DIR"),
    "tfds": Source(tfds.describe, tfds.load, argument="NAME"),
}


def describe(config: DataConfig) -> Info:
    """What the dataset will be, without loading it.

    Cheap, except that a dataset of TFDS is downloaded and prepared on its first use: before that
    nobody knows its sizes.

    Raises:
      UsageError: the name is unknown, a value is out of range, a folder or a download is missing,
        or the images do not fit together.
    """
    return _source(config).describe(config)


def load(config: DataConfig, progress: Progress | None = None) -> Dataset:
    """The decoded dataset: the same arrays, bit for bit, on every call.

    Args:
      config: which dataset, in which form.
      progress: called with (done, total) while images are decoded. Decoded images are kept in
        ``$CNNJAX_CACHE`` (default ``~/.cache/cnnjax``), so this happens once.

    Raises:
      UsageError: as ``describe``, or images cannot be read.
    """
    dataset = _source(config).load(config, progress)
    return _permuted(dataset) if config.permute_pixels else dataset


def _permuted(dataset: Dataset) -> Dataset:
    """The dataset with the positions of its pixels permuted, the same for all images.

    Each channel keeps its values, so mean and standard deviation stay. Images that were mapped from
    disk, for they may not fit into memory, are mapped again.
    """
    height, width, channels = dataset.info.image_shape
    order = permutation(PIXEL_ORDER, "generate", 0, height * width)

    def fill(images: UInt8[np.ndarray, "n h w c"], labels: Int32[np.ndarray, " n"]) -> str:
        for start in range(0, len(images), 1024):
            part = dataset.images[start : start + 1024]
            images[start : start + 1024] = part.reshape(len(part), -1, channels)[:, order].reshape(part.shape)
        labels[:] = dataset.labels
        return assemble(dataset.info, images, labels).fingerprint

    if isinstance(dataset.images, np.memmap):
        return encoded.kept(f"{dataset.fingerprint}-permuted", dataset.info, fill)
    images, labels = np.empty_like(dataset.images), np.empty_like(dataset.labels)
    fill(images, labels)
    return assemble(dataset.info, images, labels)


def _source(config: DataConfig) -> Source:
    """The source of a configuration whose values have been checked."""
    kind, colon, argument = config.name.partition(":")
    if kind not in SOURCES:
        raise unknown("dataset", kind, SOURCES)
    source = SOURCES[kind]
    if bool(colon) != bool(source.argument) or bool(argument) != bool(source.argument):
        form = f"{kind}:{source.argument}" if source.argument else kind
        raise UsageError(f"--data={config.name} is incomplete or has too much: write --data={form}.")
    _check(config)
    return source


def _check(config: DataConfig) -> None:
    requirements = {
        "image_size": (config.image_size is None or config.image_size >= 1, "at least 1 pixel"),
        "channels": (config.channels in (None, 1, 3), "1 (grey) or 3 (colour)"),
        "valid_fraction": (0 < config.valid_fraction < 1, "between 0 and 1, both excluded"),
        "examples": (config.examples >= 1, "at least 1"),
        "difficulty": (0 <= config.difficulty <= 1, "between 0 and 1"),
    }
    for field, (satisfied, requirement) in requirements.items():
        if not satisfied:
            raise UsageError(f"--data.{field}={getattr(config, field)} must be {requirement}.")
