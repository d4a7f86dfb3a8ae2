"""Datasets by name: ``describe`` one before any work is done, then ``load`` it.

Adding a source is one module with ``describe`` and ``load``, and one line in ``SOURCES``.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import get_args

import numpy as np
from jaxtyping import Int32, UInt8

from cnnjax.data import digits, encoded, folder, shapes, tfds
from cnnjax.data.dataset import SPLITS, DataConfig, Dataset, Info, OnBadImage, Progress, assemble
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
    nobody knows its sizes. For some of the classes all labels are read. To skip bad images, all are decoded once.

    Raises:
      UsageError: the name is unknown, a value is out of range, a folder or a download is missing,
        or the images do not fit together.
    """
    info = _source(config).describe(config)
    if not config.classes:
        return info
    _check_classes(config, info)
    sizes = _sizes_of(config)
    if empty := [split for split in SPLITS if not sizes[split]]:
        raise UsageError(
            f"--data.classes={config.classes} leaves no examples in {', '.join(empty)}. Name more classes."
        )
    names = tuple(info.class_names[label] for label in config.classes)
    return dataclasses.replace(info, num_classes=len(names), sizes=sizes, class_names=names)


def load(config: DataConfig, progress: Progress | None = None) -> Dataset:
    """The decoded dataset: the same arrays, bit for bit, on every call.

    Args:
      config: which dataset, in which form.
      progress: called with (done, total) while images are decoded. Decoded images are kept in
        ``$CNNJAX_CACHE`` (default ``~/.cache/cnnjax``), so this happens once.

    Raises:
      UsageError: as ``describe``, or images cannot be read.
    """
    info = describe(config) if config.classes else None
    dataset = _source(config).load(config, progress)
    skipped = dataset.skipped
    if info:
        dataset = _selected(dataset, info, config.classes)
    if config.permute_pixels:
        dataset = _permuted(dataset)
    return dataclasses.replace(dataset, skipped=skipped)


def _check_classes(config: DataConfig, info: Info) -> None:
    chosen = config.classes
    if len(chosen) < 2 or len(set(chosen)) < len(chosen) or not set(chosen) <= set(range(info.num_classes)):
        raise UsageError(
            f"--data.classes={chosen} must name at least two different classes of {info.name}, "
            f"from 0 to {info.num_classes - 1}."
        )


def _kept(dataset: Dataset, classes: tuple[int, ...]) -> dict[str, np.ndarray]:
    """The examples of each split that are of these classes."""
    chosen = np.isin(dataset.labels, classes)
    return {split: start + np.flatnonzero(chosen[start:stop]) for split, (start, stop) in dataset.ranges.items()}


@lru_cache(maxsize=8)
def _sizes_of(config: DataConfig) -> dict[str, int]:
    """Examples of the chosen classes in each split: their labels must be read."""
    whole = dataclasses.replace(config, classes=(), permute_pixels=False)
    return {split: len(kept) for split, kept in _kept(load(whole), config.classes).items()}


def _selected(dataset: Dataset, info: Info, classes: tuple[int, ...]) -> Dataset:
    """The dataset with the examples of some classes only, labelled by their place in ``classes``."""
    examples = np.concatenate([_kept(dataset, classes)[split] for split in SPLITS])
    renumbered = np.full(dataset.info.num_classes, -1, np.int32)
    renumbered[list(classes)] = np.arange(len(classes))

    def fill(images: UInt8[np.ndarray, "n h w c"], labels: Int32[np.ndarray, " n"]) -> str:
        for start in range(0, len(images), 1024):
            images[start : start + 1024] = dataset.images[examples[start : start + 1024]]
        labels[:] = renumbered[dataset.labels[examples]]
        return assemble(info, images, labels).fingerprint

    key = f"{dataset.fingerprint}-classes-{'-'.join(map(str, classes))}"
    return _derived(dataset, info, len(examples), key, fill)


def _derived(dataset: Dataset, info: Info, count: int, key: str, fill: Callable[..., str]) -> Dataset:
    """A dataset that ``fill`` makes from another: mapped from disk where that one is, for it may not fit memory."""
    if isinstance(dataset.images, np.memmap):
        return encoded.kept(key, info, fill)
    images = np.empty((count, *dataset.images.shape[1:]), np.uint8)
    labels = np.empty(count, np.int32)
    fill(images, labels)
    return assemble(info, images, labels)


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

    return _derived(dataset, dataset.info, len(dataset.labels), f"{dataset.fingerprint}-permuted", fill)


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
        "on_bad_image": (config.on_bad_image in get_args(OnBadImage), " or ".join(get_args(OnBadImage))),
    }
    for field, (satisfied, requirement) in requirements.items():
        if not satisfied:
            raise UsageError(f"--data.{field}={getattr(config, field)} must be {requirement}.")
