"""Decoded datasets on disk, mapped into memory.

An entry is a directory named by its key, written under another name and renamed when complete, so
that a reader never sees half of one and two writers do no harm.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from jaxtyping import Int32, UInt8

from cnnjax.strict_json import encode
from cnnjax.typing import UsageError


def root() -> Path:
    """``$CNNJAX_CACHE``, else ``cnnjax`` in the user's cache directory."""
    if chosen := os.environ.get("CNNJAX_CACHE"):
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cnnjax"


def exists(key: str) -> bool:
    """Whether there is an entry, damaged or not."""
    return _entry(key).exists()


def read(
    key: str, shape: tuple[int, int, int, int]
) -> tuple[UInt8[np.ndarray, "n h w c"], Int32[np.ndarray, " n"], str] | None:
    """The mapped images, the labels and the fingerprint they had when written.

    None where there is no such entry, or one that is visibly damaged. Flipped bits are the
    caller's to find, by computing the fingerprint again.
    """
    entry = _entry(key)
    try:
        images = np.load(entry / "images.npy", mmap_mode="r")
        labels = np.load(entry / "labels.npy")
        fingerprint = json.loads((entry / "fingerprint.json").read_text())
    except Exception:  # NumPy raises many types for a damaged header
        return None
    whole = (images.shape, images.dtype) == (shape, np.uint8)
    whole = whole and (labels.shape, labels.dtype) == (shape[:1], np.int32)
    return (images, labels, str(fingerprint)) if whole else None


def write(
    key: str,
    shape: tuple[int, int, int, int],
    fill: Callable[[UInt8[np.ndarray, "n h w c"], Int32[np.ndarray, " n"]], str],
) -> None:
    """Makes an entry, in place of any that was there.

    Args:
      key: the entry's name.
      shape: (N, H, W, C) of the images.
      fill: given the images and labels to be filled, fills them and returns their fingerprint.

    Raises:
      UsageError: the directory cannot be written or its disk is too full.
    """
    with _new_directory(_entry(key).parent, needed=int(np.prod(shape))) as new:
        images = np.lib.format.open_memmap(new / "images.npy", "w+", np.uint8, shape)
        labels = np.zeros(shape[0], np.int32)
        fingerprint = fill(images, labels)
        images.flush()
        np.save(new / "labels.npy", labels)
        (new / "fingerprint.json").write_text(encode(fingerprint))
        _replace(_entry(key), new)


def read_list(key: str) -> list[tuple[int, str]] | None:
    """What ``write_list`` kept, or None where there is nothing whole."""
    try:
        return [(int(number), str(text)) for number, text in json.loads(_list(key).read_text())]
    except (OSError, ValueError, TypeError):
        return None


def write_list(key: str, found: list[tuple[int, str]]) -> None:
    """Keeps numbered remarks on a dataset.

    Raises:
      UsageError: the directory cannot be written.
    """
    with _new_directory(_list(key).parent, needed=2**20) as new:
        (new / "list.json").write_text(encode(found))
        (new / "list.json").replace(_list(key))


def _list(key: str) -> Path:
    return root() / "data" / f"{key}.json"


def _entry(key: str) -> Path:
    return root() / "data" / key


@contextmanager
def _new_directory(parent: Path, needed: int) -> Iterator[Path]:
    """A directory that is gone afterwards, unless it was renamed."""
    remedy = "Set the environment variable CNNJAX_CACHE to a directory with room."
    try:
        parent.mkdir(parents=True, exist_ok=True)
        new = Path(tempfile.mkdtemp(prefix="incomplete.", dir=parent))
    except OSError as error:
        raise UsageError(f"Decoded images cannot be kept in {parent}: {error.strerror}. {remedy}") from None
    try:
        # Asked beforehand, because writing mapped memory to a full disk kills the process.
        free = shutil.disk_usage(new).free
        if free < needed:
            raise UsageError(
                f"Decoded images need {needed / 1e9:.1f} GB in {parent}, which has {free / 1e9:.1f}. {remedy}"
            )
        yield new
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _replace(entry: Path, new: Path) -> None:
    old = new.with_name(new.name + ".old")
    if entry.exists():
        entry.rename(old)
    try:
        new.rename(entry)
    except OSError:
        # Another process wrote the same entry meanwhile: the same bytes, so it may stay.
        if not entry.exists():
            raise
    shutil.rmtree(old, ignore_errors=True)
