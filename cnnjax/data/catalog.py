"""Datasets by name: ``describe`` one before any work is done, then ``load`` it.

Adding a source is one module with ``describe`` and ``load``, and one line in ``SOURCES``.
"""

from collections.abc import Callable
from dataclasses import dataclass

from cnnjax.data import digits, folder, shapes, tfds
from cnnjax.data.dataset import DataConfig, Dataset, Info, Progress
from cnnjax.typing import UsageError, unknown

__all__ = ["SOURCES", "DataConfig", "Dataset", "Info", "Progress", "describe", "load"]


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
    return _source(config).load(config, progress)


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
