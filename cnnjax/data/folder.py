"""Folders of images, one for each class: ``folder:DIR``.

Either ``DIR/train/CLASS/*`` with ``DIR/test/CLASS/*``, ``DIR/valid/CLASS/*`` or both, or
``DIR/CLASS/*``, which is divided by a fixed permutation. Images may lie deeper in a class's folder.
"""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from cnnjax.data import encoded
from cnnjax.data.dataset import SPLITS, DataConfig, Dataset, Info, Progress
from cnnjax.typing import UsageError

EXTENSIONS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp")
LARGEST_BYTES = 2**28  # of a file that is believed to be one image
SPLIT_FOLDERS = {"train": ("train",), "valid": ("valid", "val", "validation"), "test": ("test",)}


class Files(NamedTuple):
    """The images of a split, not decoded.

    Attributes:
      paths: of the files.
      labels: as indices into ``class_names``.
      class_names: sorted.
    """

    paths: list[Path]
    labels: list[int]
    class_names: tuple[str, ...]


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
      UsageError: no such folder, no images, classes that differ between splits, or images that
        do not fit together.
    """
    return encoded.describe(_encoded(config), config)


def load(config: DataConfig, progress: Progress | None = None) -> Dataset:
    """Decodes all images, or maps them from the cache.

    Raises:
      UsageError: as ``describe``, or images cannot be read.
    """
    return encoded.load(_encoded(config), config, progress)


def files(config: DataConfig, split: str) -> Files:
    """The images of a split, the same and in the same order as in the dataset; or of "all" splits.

    Raises:
      UsageError: no such folder, no images, classes that differ between splits, or a split would be empty.
    """
    found = _listing(Path(config.argument).expanduser())
    every = _encoded_of(found)
    bad = encoded.unreadable(every, config)
    left, counts = encoded.without(every, bad), encoded.counts_without(every, bad)
    chosen = [left[place] for place in encoded.order(counts).tolist()]
    if split != "all":
        sizes = encoded.split_sizes(counts, config)
        start = sum(sizes[before] for before in SPLITS[: SPLITS.index(split)])
        chosen = chosen[start : start + sizes[split]]
    paths = [Path(found.root, found.paths[example]) for example in chosen]
    return Files(paths, [found.labels[example] for example in chosen], found.class_names)


def _encoded(config: DataConfig) -> encoded.Encoded:
    return _encoded_of(_listing(Path(config.argument).expanduser()))


def _encoded_of(found: Listing) -> encoded.Encoded:
    return encoded.Encoded(
        counts=found.counts,
        class_names=found.class_names,
        read=lambda example: (_content(Path(found.root, found.paths[example])), found.labels[example]),
        where=lambda example: os.path.join(found.root, found.paths[example]),
        samples=found.samples,
        channels=None,
        identity=lambda: _identity(found),
    )


def _listing(root: Path) -> Listing:
    if not root.is_dir():
        raise UsageError(f"There is no folder {root}. {_expected(root)}")
    folders = _split_folders(root)
    classes = {split: _subfolders(folder) for split, folder in folders.items()}
    names = classes["train"]
    if len(names) < 2:
        found = f"one class only, {names[0]!r}" if names else "no class folders"
        raise UsageError(f"{folders['train']} has {found}. {_expected(root)}")
    for split, others in classes.items():
        if others != names:
            raise _classes_differ(root, split, names, others)
    paths: list[str] = []
    labels: list[int] = []
    counts: dict[str, int] = {}
    for split, folder in folders.items():
        before = len(paths)
        for label, name in enumerate(names):
            inside = images(root, folder / name)
            paths += inside
            labels += [label] * len(inside)
        counts[split] = len(paths) - before
    samples = [labels.index(label) for label in range(len(names))]
    return Listing(str(root), tuple(names), counts, paths, labels, samples)


def _split_folders(root: Path) -> dict[str, Path]:
    """The folder of each split there is; the root itself where its subfolders are classes.

    A class may be called "train": only a folder with folders in it is a split.
    """
    found = {
        split: root / name
        for split in SPLITS
        for name in SPLIT_FOLDERS[split]
        if (root / name).is_dir() and _subfolders(root / name)
    }
    return found if "train" in found else {"train": root}


def _subfolders(folder: Path) -> list[str]:
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))


def images(root: Path, folder: Path) -> list[str]:
    """The images in a folder and below it as paths relative to the root, sorted.

    Names that begin with a dot are no images.

    Raises:
      UsageError: there are none.
    """
    found = [
        f"{Path(directory).relative_to(root).as_posix()}/{name}"
        for directory, _, names in os.walk(folder)
        for name in names
        if name.lower().endswith(EXTENSIONS) and not name.startswith(".")
    ]
    if not found:
        raise UsageError(f"{folder} has no images; known are {', '.join(EXTENSIONS)}. Add some or remove it.")
    return sorted(found)


def _content(path: Path) -> bytes:
    """The bytes of a file. Waits for no pipe, and reads no more than an image may have."""
    if not path.is_file():
        raise ValueError("it is no file, or a link to none")
    if (size := path.stat().st_size) > LARGEST_BYTES:
        raise ValueError(f"its {size} bytes are more than {LARGEST_BYTES}")
    return path.read_bytes()


def _identity(found: Listing) -> str:
    """Over names, sizes and times of change: the images themselves are not read."""
    digest = hashlib.sha256()
    for path in found.paths:
        try:
            status = os.stat(os.path.join(found.root, path))
            size, changed = status.st_size, status.st_mtime_ns
        except OSError:  # a link to nothing: reading it will say so
            size, changed = -1, -1
        digest.update(f"{path}\0{size}\0{changed}\n".encode())
    return digest.hexdigest()


def _classes_differ(root: Path, split: str, names: list[str], others: list[str]) -> UsageError:
    only_train, only_other = sorted(set(names) - set(others)), sorted(set(others) - set(names))
    differences = [
        f"{', '.join(map(repr, only[:5]))}{' ...' if len(only) > 5 else ''} only in {where}"
        for only, where in ((only_train, "train"), (only_other, split))
        if only
    ]
    return UsageError(
        f"The classes of {root} differ between its splits: {'; '.join(differences)}. "
        "Each split needs the same class folders."
    )


def _expected(root: Path) -> str:
    return f"Expected {root}/train/CLASS/*.png with {root}/test/CLASS/*.png, or {root}/CLASS/*.png."
