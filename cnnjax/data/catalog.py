"""Datasets by name: ``describe`` one before any work is done, then ``load`` it.

Adding a source is one module with ``describe`` and ``load``, and one line in ``SOURCES``.
"""

import dataclasses
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from typing import Any, get_args

import numpy as np
from jaxtyping import Int32, UInt8

from cnnjax.data import digits, encoded, folder, shapes, tfds
from cnnjax.data.dataset import SPLITS, DataConfig, Dataset, Info, OnBadImage, Pictures, Progress, assemble
from cnnjax.image import opened as open_image
from cnnjax.image import permuted
from cnnjax.typing import UsageError, unknown

__all__ = ["SOURCES", "DataConfig", "Dataset", "Info", "Pictures", "Progress", "describe", "load", "pictures"]


@dataclass(frozen=True)
class Source:
    """Where datasets come from.

    Attributes:
      describe: what can be said cheaply, after every check that can be made cheaply.
      load: decodes or generates the arrays.
      argument: what the name must have after a colon; empty where nothing may follow.
      of_files: the images one by one, as they lie in files; None where there are none.
    """

    describe: Callable[[DataConfig], Info]
    load: Callable[[DataConfig, Progress | None], Dataset]
    argument: str = ""
    of_files: Callable[[DataConfig], encoded.Encoded] | None = None


SOURCES = {
    "digits": Source(digits.describe, digits.load),
    "shapes": Source(shapes.describe, shapes.load),
    "folder": Source(folder.describe, folder.load, "DIR", folder.source),
    "tfds": Source(tfds.describe, tfds.load, "NAME", tfds.source),
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
    _check_chosen(config, info.num_classes)
    sizes = _sizes_of(config, identity(config))
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


def pictures(config: DataConfig, split: str, progress: Progress | None = None) -> Pictures:
    """The examples of a split, or of "all", one by one; in files, each at its own size.

    Args:
      config: which dataset; of files, neither their size nor their channels are changed.
      split: ``train``, ``valid`` or ``test``, with the same examples in the same order as ``load`` has, or ``all``.
      progress: called with (done, total) while bad images are looked for, to skip them.

    Raises:
      UsageError: as ``describe``; or see ``encoded.chosen``.
    """
    of_files = _source(config).of_files
    if of_files is None:
        dataset = load(config, progress)
        rows = range(len(dataset.labels)) if split == "all" else range(*dataset.ranges[split])
        return Pictures(
            count=len(rows),
            read=lambda number: (np.asarray(dataset.images[rows[number]]), int(dataset.labels[rows[number]])),
            where=lambda number: f"{config.name}[{rows[number]}]",
            class_names=dataset.info.class_names,
            carved=False,
        )
    whole = of_files(config)
    source, _ = encoded.readable(whole, config, progress)
    examples = encoded.chosen(source, config, split)
    renumbered = {label: label for label in range(len(source.class_names))}
    if config.classes:
        _check_chosen(config, len(source.class_names))
        renumbered = {label: place for place, label in enumerate(config.classes)}
        examples = [example for example in examples if source.label(example) in renumbered]

    def read(number: int) -> tuple[Any, int]:
        data, label = source.read(examples[number])
        return open_image(BytesIO(data)), renumbered[label]

    return Pictures(
        count=len(examples),
        read=read,
        where=lambda number: source.where(examples[number]),
        class_names=tuple(source.class_names[label] for label in renumbered),
        carved=split != "all" and split not in source.counts and not (split == "test" and "valid" in source.counts),
    )


def _check_chosen(config: DataConfig, num_classes: int) -> None:
    chosen = config.classes
    if len(chosen) < 2 or len(set(chosen)) < len(chosen) or not set(chosen) <= set(range(num_classes)):
        raise UsageError(
            f"--data.classes={','.join(map(str, chosen))} must name at least two different classes of {config.name}, "
            f"from 0 to {num_classes - 1}."
        )


def _kept(dataset: Dataset, classes: tuple[int, ...]) -> dict[str, np.ndarray]:
    """The examples of each split that are of these classes."""
    chosen = np.isin(dataset.labels, classes)
    return {split: start + np.flatnonzero(chosen[start:stop]) for split, (start, stop) in dataset.ranges.items()}


def identity(config: DataConfig) -> str:
    """What changes whenever a file of the dataset may have; empty where it comes from no files."""
    of_files = _source(config).of_files
    return of_files(config).identity() if of_files else ""


@lru_cache(maxsize=8)
def _sizes_of(config: DataConfig, identity: str) -> dict[str, int]:
    """Examples of the chosen classes in each split: their labels must be read, once for each state of the files."""
    del identity
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

    chosen = hashlib.sha256(repr(classes).encode()).hexdigest()  # many classes make too long a name
    key = f"{dataset.fingerprint}-classes-{chosen[:16]}"
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

    def fill(images: UInt8[np.ndarray, "n h w c"], labels: Int32[np.ndarray, " n"]) -> str:
        for start in range(0, len(images), 1024):
            images[start : start + 1024] = permuted(dataset.images[start : start + 1024])
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
