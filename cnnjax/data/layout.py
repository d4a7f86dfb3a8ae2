"""Which folders of a dataset are its splits and its classes, and which images lie in them.

A tree that can be read in two ways is refused: silently, a split would become a class, or a class be left out.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path

from cnnjax.data.dataset import SPLITS
from cnnjax.image import EXTENSIONS
from cnnjax.text import printable
from cnnjax.typing import UsageError

# In any case, upper or lower.
SPLIT_NAMES = {
    "train": ("train", "training"),
    "valid": ("valid", "val", "validation", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
ALL_SPLIT_NAMES = "|".join(name for names in SPLIT_NAMES.values() for name in names)
SPLIT_WORD = re.compile(f"({ALL_SPLIT_NAMES})(s|set|data|images|imgs)?")  # also trainset and testimages
# What systems and tools leave in folders, with copies and thumbnails in it, beside all that begins with a dot.
NOT_DATA = {"__macosx", "@eadir", "#recycle", "@recycle", "$recycle.bin", "system volume information", "lost+found"}
SHOWN = 8  # folders in an error


def split_folders(root: Path) -> dict[str, Path]:
    """The folder of each split there is, in the order of ``SPLITS``; ``train`` is the root where it holds the classes.

    A class may be called "train", if it holds images and no folders.

    Raises:
      UsageError: the tree can be read in several ways, or lacks the training split.
    """
    names = subfolders(root)
    split_of = {name: split for name in names if (split := _split(name))}
    others = [name for name in names if name not in split_of]
    if not split_of:
        if len(names) > 1 and all(_sounds_like_split(name) for name in names):
            raise _ambiguous(root, names, "these sound like splits", f"Call them {_listed(SPLITS)}")
        return {"train": root}
    nested = {name: bool(subfolders(root / name)) for name in split_of}
    if others and list(split_of.values()) == ["train"] and not any(nested.values()):
        return {"train": root}
    _check_splits(root, names, split_of, [name for name in others if next(_walk(root / name, root, {}), None)], nested)
    found = {split: name for name, split in split_of.items()}
    return {split: root / found[split] for split in SPLITS if split in found}


def _check_splits(
    root: Path, names: list[str], split_of: dict[str, str], others: list[str], nested: dict[str, bool]
) -> None:
    """Refuses what is more than one folder for each split, with the classes in it.

    Args:
      root, names: the folder, and the folders in it.
      split_of: the split that a folder's name says.
      others: the folders with images whose name says no split.
      nested: whether there are folders in a split's folder.
    """
    for split in SPLITS:
        if len(same := [name for name in split_of if split_of[name] == split]) > 1:
            raise _ambiguous(root, names, f"{_listed(same)} are the same split", "Keep one, and move the rest out")
    if others:
        first = next(iter(split_of))
        raise _ambiguous(
            root, names, f"of these {_listed(split_of)} may be splits, and {_listed(others)} not",
            f"If {first!r} is a class, move all classes into {root}/train; if a split, move {_listed(others)} out",
        )  # fmt: skip
    if flat := [name for name in split_of if not nested[name]]:
        raise _ambiguous(
            root, names, f"there are no class folders in {_listed(flat)}",
            f"Put the images of each class into a folder, {root / flat[0]}/CLASS/*.png; without labels, move them out",
        )  # fmt: skip
    if "train" not in split_of.values():
        raise _ambiguous(
            root, names, "there is no train",
            f"Call one of them train; to evaluate on one, give --data=folder:{root / names[0]} --split=all",
        )  # fmt: skip


def class_names(folder: Path, root: Path) -> list[str]:
    """The names of the classes, the folders in that of a split.

    Raises:
      UsageError: they are fewer than two, or names of splits.
    """
    names = subfolders(folder)
    if len(names) < 2:
        found = f"one class only, {names[0]!r}" if names else "no class folders"
        within = folder / names[0] if names else folder
        hint = f" Did you mean --data=folder:{within}?" if names and len(subfolders(within)) > 1 else ""
        raise UsageError(f"{printable(str(folder))} has {found}. {expected(root)}{hint}")
    if all(_split(name) for name in names):
        raise _ambiguous(
            folder, names, "a split lies in a split", f"Give --data=folder:{folder}, or move the classes up"
        )
    return names


def images_of_classes(root: Path, folders: dict[str, Path], names: list[str]) -> Iterator[tuple[str, int, list[str]]]:
    """(split, label, sorted paths relative to the root) of each class in each split.

    Raises:
      UsageError: there are none, one folder is reached as two, or splits lie within a class.
    """
    seen = {_identity(folder): (folder, folder) for folder in (root, *folders.values())}
    for split, folder in folders.items():
        for label, name in enumerate(names):
            inside = folder / name
            within = {_split(each) for each in subfolders(inside)} - {None}
            if len(within) > 1:
                raise _ambiguous(
                    inside, subfolders(inside), "splits lie within a class",
                    f"Put the classes into the splits: {root}/train/{name}/*.png",
                )  # fmt: skip
            yield split, label, images(root, inside, seen)


def images(root: Path, folder: Path, seen: dict[tuple[int, int], tuple[Path, Path]] | None = None) -> list[str]:
    """The images in a folder and below it as paths relative to the root, sorted.

    Names that begin with a dot and ``NOT_DATA`` are passed over. Links to folders are followed; a folder is read once.

    Args:
      root: what the paths are relative to.
      folder: where to look.
      seen: (device, inode) -> path of a folder and the ``folder`` it was reached from; is added to.

    Raises:
      UsageError: there are none, or a folder was reached from another ``folder`` before.
    """
    if found := sorted(_walk(folder, folder, {} if seen is None else seen)):
        return [Path(path).relative_to(root).as_posix() for path in found]
    raise UsageError(
        f"{printable(str(folder))} has no images; known are {', '.join(EXTENSIONS)}. Add some or remove it."
    )


def _walk(folder: Path, owner: Path, seen: dict[tuple[int, int], tuple[Path, Path]]) -> Iterator[str]:
    """The paths of the images in a folder and below it."""
    before, belongs = seen.setdefault(_identity(folder), (folder, owner))
    if belongs != owner:
        raise UsageError(
            f"{printable(str(folder))} and {printable(str(before))} are one folder: its images would be read twice, "
            "under two names. Remove the link."
        )
    if before != folder:
        return
    entries = _entries(folder)
    yield from (entry.path for entry in entries if entry.name.lower().endswith(EXTENSIONS) and not _is_folder(entry))
    for entry in entries:
        if _is_folder(entry):
            yield from _walk(Path(entry.path), owner, seen)


def subfolders(folder: Path) -> list[str]:
    """The names of the folders in a folder, sorted; links to folders count, and what is no data does not."""
    return [entry.name for entry in _entries(folder) if _is_folder(entry)]


def expected(root: Path | str) -> str:
    """What a folder must look like."""
    root = printable(str(root))
    return f"Expected {root}/train/CLASS/*.png with {root}/test/CLASS/*.png, or {root}/CLASS/*.png."


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """What is in a folder, by name, without what is no data."""
    try:
        with os.scandir(folder) as entries:
            return sorted(
                (entry for entry in entries if entry.name[0] != "." and entry.name.lower() not in NOT_DATA),
                key=lambda entry: entry.name,
            )
    except OSError as error:
        raise UsageError(
            f"{printable(str(folder))} cannot be read: {error.strerror}. Make it readable, or move it out."
        ) from None


def _is_folder(entry: os.DirEntry[str]) -> bool:
    return os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir()


def _identity(folder: Path) -> tuple[int, int]:
    status = os.stat(folder)
    return status.st_dev, status.st_ino


def _split(name: str) -> str | None:
    """The split that a folder of this name is; None for a class."""
    return next((split for split, names in SPLIT_NAMES.items() if name.lower() in names), None)


def _sounds_like_split(name: str) -> bool:
    """Whether one of its words is a split's, as in ``seg_train``, ``val2017`` and ``trainA``."""
    apart = re.sub("(?<=[a-z])(?=[A-Z])", " ", name)
    return any(SPLIT_WORD.fullmatch(word) for word in re.split("[^a-z]+", apart.lower()))


def _ambiguous(root: Path, names: list[str], reason: str, remedy: str) -> UsageError:
    seen = [f"{name!r} ({_content(root / name)})" for name in names[:SHOWN]]
    more = [f"{len(names) - SHOWN} more"] if len(names) > SHOWN else []
    return UsageError(
        f"{printable(str(root))} has {_listed([*seen, *more], quoted=False)}: {reason}. {remedy}. {expected(root)}"
    )


def _content(folder: Path) -> str:
    if count := len(subfolders(folder)):
        return f"{count} folder{'s' if count > 1 else ''} in it"
    return "images" if next(_walk(folder, folder, {}), None) else "no images"


def _listed(names, quoted: bool = True) -> str:
    """``'a', 'b' and 'c'``."""
    shown = [repr(name) if quoted else name for name in names]
    return " and ".join([part for part in (", ".join(shown[:-1]), shown[-1]) if part])
