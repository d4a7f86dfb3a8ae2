"""Folders of images, one for each class: ``folder:DIR``.

Either ``DIR/train/CLASS/*`` with ``DIR/test/CLASS/*``, ``DIR/valid/CLASS/*`` or both, or
``DIR/CLASS/*``, which is divided by a fixed permutation. Images may lie deeper in a class's folder.
Which folder is what, ``layout`` decides.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from cnnjax.data import encoded, layout
from cnnjax.data.dataset import DataConfig, Dataset, Info, Progress
from cnnjax.text import printable
from cnnjax.typing import UsageError

LARGEST_BYTES = 2**28  # of a file that is believed to be one image


@dataclass(frozen=True)
class Listing:
    """The images of a folder, in the order train, valid, test, by class, by name.

    Attributes:
      root: the folder.
      class_names: sorted.
      counts: number of images of each split that there is.
      paths: relative to the root.
      labels: as indices into ``class_names``.
      samples: one training image of each class, as an index into ``paths``.
    """

    root: str
    class_names: tuple[str, ...]
    counts: dict[str, int]
    paths: list[str]
    labels: list[int]
    samples: list[int]


def describe(config: DataConfig) -> Info:
    """Scans names, and opens one image of each class unless the configuration says it all.

    Raises:
      UsageError: no such folder, no images, classes that differ between splits, a tree that can be read in
        several ways, or images that do not fit together.
    """
    return encoded.describe(source(config), config)


def load(config: DataConfig, progress: Progress | None = None) -> Dataset:
    """Decodes all images, or maps them from the cache.

    Raises:
      UsageError: as ``describe``, or images cannot be read.
    """
    return encoded.load(source(config), config, progress)


def source(config: DataConfig) -> encoded.Encoded:
    """The images as they lie in the folder.

    Raises:
      UsageError: as ``describe``, but for what the images themselves say.
    """
    found = _listing(Path(config.argument).expanduser())
    return encoded.Encoded(
        counts=found.counts,
        class_names=found.class_names,
        read=lambda example: (_content(Path(found.root, found.paths[example])), found.labels[example]),
        label=lambda example: found.labels[example],
        where=lambda example: os.path.join(found.root, found.paths[example]),
        samples=found.samples,
        channels=None,
        identity=lambda: encoded.identity_of_files(found.root, found.paths),
    )


def _listing(root: Path) -> Listing:
    if not root.is_dir():
        raise UsageError(f"There is no folder {printable(str(root))}. {layout.expected(root)}")
    folders = layout.split_folders(root)
    names = layout.class_names(folders["train"], root)
    for split, folder in folders.items():
        if (others := layout.subfolders(folder)) != names:
            raise _classes_differ(root, split, names, others)
    paths: list[str] = []
    labels: list[int] = []
    counts = dict.fromkeys(folders, 0)
    for split, label, inside in layout.images_of_classes(root, folders, names):
        paths += inside
        labels += [label] * len(inside)
        counts[split] += len(inside)
    samples = [labels.index(label) for label in range(len(names))]
    return Listing(str(root), tuple(names), counts, paths, labels, samples)


def _content(path: Path) -> bytes:
    """The bytes of a file. Waits for no pipe, and reads no more than an image may have."""
    if not path.is_file():
        raise ValueError("it is no file, or a link to none")
    if (size := path.stat().st_size) > LARGEST_BYTES:
        raise ValueError(f"its {size} bytes are more than {LARGEST_BYTES}")
    return path.read_bytes()


def _classes_differ(root: Path, split: str, names: list[str], others: list[str]) -> UsageError:
    only_train, only_other = sorted(set(names) - set(others)), sorted(set(others) - set(names))
    differences = [
        f"{', '.join(map(repr, only[:5]))}{' ...' if len(only) > 5 else ''} only in {where}"
        for only, where in ((only_train, "train"), (only_other, split))
        if only
    ]
    return UsageError(
        f"The classes of {printable(str(root))} differ between its splits: {'; '.join(differences)}. "
        "Each split needs the same class folders."
    )
