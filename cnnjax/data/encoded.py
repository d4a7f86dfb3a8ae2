"""From encoded images to a dataset: the one path that every reader of real images goes through.

A reader says what there is (``Encoded``); here it is divided into splits, decoded, and cached.
"""

import dataclasses
import hashlib
import logging
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Int, Int32, UInt8

from cnnjax.data import cache, decode
from cnnjax.data.dataset import SPLITS, DataConfig, Dataset, Info, Progress, assemble
from cnnjax.rng import permutation
from cnnjax.strict_json import encode
from cnnjax.text import printable
from cnnjax.typing import UsageError

# Where a source has training examples only, this share of them becomes the test split.
TEST_FRACTION = 0.1
# The layout of a cache entry and everything that decides its pixels, except Pillow's version.
FORMAT = 2
CHUNK = 64  # images per task of the thread pool
T = TypeVar("T")


@dataclass(frozen=True)
class Encoded:
    """A dataset of encoded images, numbered from 0: all of ``train``, then ``valid``, then ``test``.

    Attributes:
      counts: number of examples of each split that the source has; ``train`` at least.
      class_names: one for each label.
      read: the encoded image and the label of an example; called from several threads.
      label: the label alone, also of an image that cannot be read.
      where: what to call an example in an error.
      samples: examples from which ``describe`` learns shape and channels.
      channels: 1 or 3 where the source declares it, None where the samples decide.
      identity: a digest that changes whenever an encoded image or a label may have.
    """

    counts: dict[str, int]
    class_names: tuple[str, ...]
    read: Callable[[int], tuple[bytes, int]]
    label: Callable[[int], int]
    where: Callable[[int], str]
    samples: Sequence[int]
    channels: int | None
    identity: Callable[[], str]


def describe(encoded: Encoded, config: DataConfig) -> Info:
    """Name, shape, classes and sizes, from the headers of a few images.

    Raises:
      UsageError: a split would be empty, a sample cannot be read, or the samples differ in size
        and no ``image_size`` is given.
    """
    encoded, _ = readable(encoded, config)
    sizes = split_sizes(encoded.counts, config)
    channels = config.channels or encoded.channels
    if channels and config.image_size:
        shape = (config.image_size, config.image_size, channels)
    else:
        shape = _sampled_shape(encoded, config, channels)
    return Info(config.name, shape, len(encoded.class_names), sizes, encoded.class_names)


def load(encoded: Encoded, config: DataConfig, progress: Progress | None = None) -> Dataset:
    """Decodes all images once, and maps them from the cache ever after.

    Raises:
      UsageError: as ``describe``, or images cannot be read or do not fit together.
    """
    encoded, skipped = readable(encoded, config, progress)
    config = dataclasses.replace(config, on_bad_image="stop")  # none is left
    info = describe(encoded, config)

    def fill(images: UInt8[np.ndarray, "n h w c"], labels: Int32[np.ndarray, " n"]) -> str:
        _decode_all(encoded, config, images, labels, progress)
        return assemble(info, images, labels).fingerprint

    return dataclasses.replace(kept(_key(encoded, config, info), info, fill), skipped=skipped)


def identity_of_files(root: str | Path, names: Iterable[str]) -> str:
    """A digest of files' names, sizes, times and inodes: the files themselves are not read.

    Whoever exchanges a file can keep its size and its time of change, as ``cp -p``, rsync and unzip do; not the time
    when its entry in the filesystem changed, nor its number there. Copied elsewhere, the same files have another one.
    """
    digest = hashlib.sha256()
    for name in names:
        try:
            status = os.stat(os.path.join(root, name))
            numbers = (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
        except OSError:  # a link to nothing: reading it will say so
            numbers = (-1, -1, -1, -1)
        digest.update(b"%s\0%d\0%d\0%d\0%d\n" % (os.fsencode(name), *numbers))
    return digest.hexdigest()


def kept(key: str, info: Info, fill: Callable[[UInt8[np.ndarray, "n h w c"], Int32[np.ndarray, " n"]], str]) -> Dataset:
    """The dataset mapped from the cache's entry ``key``, which is made by ``fill`` where it is missing or damaged.

    Raises:
      UsageError: as ``cache.write``, or whatever ``fill`` raises.
    """
    if dataset := _cached(key, info):
        return dataset
    cache.write(key, _shape(info), fill)
    if dataset := _cached(key, info):
        return dataset
    raise OSError(f"The cache in {cache.root()} does not give back what was written to it.")


def readable(
    encoded: Encoded, config: DataConfig, progress: Progress | None = None
) -> tuple[Encoded, tuple[tuple[str, str], ...]]:
    """The examples without those whose image cannot be decoded, where they are to be skipped; and these, with why."""
    bad = unreadable(encoded, config, progress)
    if not bad:
        return encoded, ()
    left = without(encoded, bad)
    samples = [left.index(example) for example in encoded.samples if example not in bad]
    fewer = Encoded(
        counts=counts_without(encoded, bad),
        class_names=encoded.class_names,
        read=lambda example: encoded.read(left[example]),
        label=lambda example: encoded.label(left[example]),
        where=lambda example: encoded.where(left[example]),
        samples=samples or [0],
        channels=encoded.channels,
        identity=lambda: _digest(encoded.identity(), sorted(bad)),
    )
    return fewer, tuple((encoded.where(example), reason) for example, reason in bad.items())


def unreadable(encoded: Encoded, config: DataConfig, progress: Progress | None = None) -> dict[int, str]:
    """The examples to be skipped, and why. Every image is decoded to find them; the list is kept in the cache."""
    import PIL

    if config.on_bad_image != "skip":
        return {}
    key = _digest("bad", FORMAT, PIL.__version__, config.image_size, encoded.identity())
    bad = cache.read_list(key)
    if bad is None:
        bad = _bad(encoded, config.image_size, progress)
        cache.write_list(key, bad)
    return dict(bad)


def without(encoded: Encoded, bad: Collection[int]) -> list[int]:
    """The examples but the bad ones."""
    return [example for example in range(sum(encoded.counts.values())) if example not in bad]


def counts_without(encoded: Encoded, bad: Iterable[int]) -> dict[str, int]:
    """The number of examples of each split but the bad ones."""
    counts, start = {}, 0
    for split in (split for split in SPLITS if split in encoded.counts):
        stop = start + encoded.counts[split]
        counts[split] = stop - start - sum(start <= example < stop for example in bad)
        start = stop
    return counts


def _bad(encoded: Encoded, size: int | None, progress: Progress | None) -> list[tuple[int, str]]:
    """The examples whose image cannot be decoded, and why.

    Raises:
      UsageError: without them a class would have no examples in a split.
    """
    total = sum(encoded.counts.values())

    def check(start: int) -> list[tuple[int, int, str | None]]:
        found: list[tuple[int, int, str | None]] = []
        for example in range(start, min(start + CHUNK, total)):
            try:
                data, label = encoded.read(example)
                with decode.opened(data) as image:
                    decode.pixels(image, 3, size)
                found.append((example, label, None))
            except UsageError:
                raise
            except Exception as error:  # Pillow raises many types
                found.append((example, encoded.label(example), str(error)))
        return found

    checked = [entry for found in _by_chunks(check, total, progress) for entry in found]
    _check_classes_left(encoded, checked)
    return [(example, reason) for example, _, reason in checked if reason is not None]


def _check_classes_left(encoded: Encoded, checked: list[tuple[int, int, str | None]]) -> None:
    """Refuses to skip all images that a class has in a split; given (example, label, why it is bad or None) of all."""
    start = 0
    for split, count in ((split, encoded.counts[split]) for split in SPLITS if split in encoded.counts):
        part = checked[start : start + count]
        start += count
        left = {label for _, label, reason in part if reason is None}
        for example, label, reason in part:
            if label not in left:
                raise UsageError(
                    f"No image of class {encoded.class_names[label]!r} in the {split} split can be read, such as "
                    f"{printable(encoded.where(example))} ({reason}): on_bad_image=skip would leave it empty. Replace "
                    "the images, or remove the class."
                )


def chosen(encoded: Encoded, config: DataConfig, split: str) -> list[int]:
    """The examples of a split, the same and in the same order as in the dataset; or of "all" splits.

    Raises:
      UsageError: a split would be empty, or the one asked for is the validation split of a source whose own
        validation split serves as its test split: it would be a part of the training split.
    """
    if split == "valid" and "valid" in encoded.counts and "test" not in encoded.counts:
        raise UsageError(
            f"{config.name} has no test split, so its validation split serves as one, and what training keeps for "
            "validation is a part of train. Give --split=test for its validation split, or --split=train."
        )
    examples = order(encoded.counts).tolist()
    if split == "all":
        return examples
    sizes = split_sizes(encoded.counts, config)
    start = sum(sizes[before] for before in SPLITS[: SPLITS.index(split)])
    return examples[start : start + sizes[split]]


def split_sizes(counts: dict[str, int], config: DataConfig) -> dict[str, int]:
    """The number of examples of each split, given those that the source has.

    Without a validation split, ``valid_fraction`` is taken from the training split (CIFAR-10:
    45,000 and 5,000). Without a test split, the validation split serves as one; without either,
    the training split gives up a tenth. Fractions are of the original training split.

    Raises:
      UsageError: a split would be empty.
    """
    total = counts["train"]
    held_out = counts.get("test") or counts.get("valid")
    test = held_out or round(total * TEST_FRACTION)
    own_valid = counts.get("valid") if counts.get("test") else None
    valid = own_valid or round(total * config.valid_fraction)
    train = total - (0 if own_valid else valid) - (0 if held_out else test)
    sizes = {"train": train, "valid": valid, "test": test}
    if min(sizes.values()) < 1:
        raise UsageError(
            f"--data={config.name} has {total} training images; with --data.valid_fraction="
            f"{config.valid_fraction} its splits would be {sizes}. Add images or change the fraction."
        )
    return sizes


def order(counts: dict[str, int]) -> Int[np.ndarray, " n"]:
    """Which example comes where: each of the source's splits in a fixed order, mixing the classes.

    What is carved from the training split is its end, so the result is train, valid, test.
    """
    parts, start = [], 0
    for split in SPLITS:
        count = counts.get(split, 0)
        parts.append(start + permutation(0, "split", 0, count))
        start += count
    return np.concatenate(parts)


def _sampled_shape(encoded: Encoded, config: DataConfig, channels: int | None) -> tuple[int, int, int]:
    seen = []
    for example in encoded.samples:
        try:
            with decode.opened(encoded.read(example)[0]) as image:
                seen.append((decode.upright_size(image), decode.is_grey(image)))
        except UsageError:
            raise
        except Exception as error:  # Pillow raises many types
            raise _unreadable([(encoded.where(example), error)]) from None
    channels = channels or (1 if all(grey for _, grey in seen) else 3)
    if config.image_size:
        return config.image_size, config.image_size, channels
    for example, (size, _) in zip(encoded.samples, seen, strict=True):
        if size != seen[0][0]:
            raise _sizes_differ(encoded.where(encoded.samples[0]), seen[0][0], encoded.where(example), size)
    return *seen[0][0], channels


def _cached(key: str, info: Info) -> Dataset | None:
    """The cached dataset, if every bit is what it was when written."""
    if not cache.exists(key):
        return None
    if stored := cache.read(key, _shape(info)):
        images, labels, fingerprint = stored
        dataset = assemble(info, images, labels)
        if dataset.fingerprint == fingerprint:
            return dataset
    logging.getLogger(__name__).warning("Cached arrays of %s are damaged: decoding again.", info.name)
    return None


def _shape(info: Info) -> tuple[int, int, int, int]:
    return sum(info.sizes.values()), *info.image_shape


def _key(encoded: Encoded, config: DataConfig, info: Info) -> str:
    import PIL

    parts = [FORMAT, PIL.__version__, info.sizes, info.image_shape, config.image_size, config.channels]
    return _digest(*parts, encoded.identity())


def _digest(*parts: Any) -> str:
    return hashlib.sha256(encode(parts).encode()).hexdigest()


def _decode_all(
    encoded: Encoded,
    config: DataConfig,
    images: UInt8[np.ndarray, "n h w c"],
    labels: Int32[np.ndarray, " n"],
    progress: Progress | None,
) -> None:
    examples = order(encoded.counts).tolist()
    shape = images.shape[1:]

    def decode_chunk(start: int) -> list[tuple[str, Exception]]:
        failures: list[tuple[str, Exception]] = []
        for row in range(start, min(start + CHUNK, len(examples))):
            example = examples[row]
            try:
                data, labels[row] = encoded.read(example)
                images[row] = _decode_one(data, shape, config, encoded.where(example))
            except UsageError:
                raise
            except Exception as error:  # Pillow raises many types
                failures.append((encoded.where(example), error))
        return failures

    unreadable = [each for failures in _by_chunks(decode_chunk, len(examples), progress) for each in failures]
    if unreadable:
        raise _unreadable(sorted(unreadable, key=lambda failure: failure[0]))


def _by_chunks(work: Callable[[int], list[T]], total: int, progress: Progress | None) -> Iterator[list[T]]:
    """What ``work`` returns for the first example of each chunk of ``total``, in threads."""
    starts = range(0, total, CHUNK)
    with ThreadPoolExecutor(min(32, os.cpu_count() or 1)) as pool:
        for start, found in zip(starts, pool.map(work, starts), strict=True):
            yield found
            if progress:
                progress(min(start + CHUNK, total), total)


def _decode_one(data: bytes, shape: tuple[int, ...], config: DataConfig, name: str) -> UInt8[np.ndarray, "h w c"]:
    """The image as (H, W, C) of this shape. Colour is given up only where it was asked for."""
    with decode.opened(data) as image:
        if shape[2] == 1 and config.channels is None and not decode.is_grey(image):
            raise UsageError(
                f"{name} has colour where other images are grey. Set --data.channels=3 or --data.channels=1."
            )
        pixels = decode.pixels(image, shape[2], config.image_size)
    if pixels.shape != shape:
        raise _sizes_differ(name, pixels.shape[:2], "others", shape[:2])
    return pixels


def _sizes_differ(one: str, size: Sequence[int], other: str, other_size: Sequence[int]) -> UsageError:
    return UsageError(
        f"Images differ in size: {one} is {size[0]}x{size[1]} (height x width), {other} "
        f"{other_size[0]}x{other_size[1]}. Set --data.image_size."
    )


def _unreadable(failures: list[tuple[str, Exception]]) -> UsageError:
    named = "; ".join(f"{printable(name)} ({error})" for name, error in failures[:5])
    more = ", ..." if len(failures) > 5 else ""
    remedy = "Replace or remove them, or set --data.on_bad_image=skip."
    return UsageError(f"{len(failures)} images cannot be read: {named}{more}. {remedy}")
