"""What a dataset is: its configuration, its description and its arrays."""

import dataclasses
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float32, Int32, UInt8

SPLITS = ("train", "valid", "test")

# Called with (done, total) examples while images are decoded.
Progress = Callable[[int, int], None]


def _field(default: Any, help: str) -> Any:
    return dataclasses.field(default=default, metadata={"help": help})


@dataclass(frozen=True)
class DataConfig:
    """Which dataset, in which form. Part of the static, hashable description of a run."""

    name: str = _field("digits", "digits, shapes, folder:DIR or tfds:NAME")
    image_size: int | None = _field(
        None, "pixels: the shorter side is resized to it and the centre cut out; images stay as they are without"
    )
    channels: int | None = _field(None, "1 (grey) or 3 (colour); images stay as they are without")
    valid_fraction: float = _field(0.1, "share of the training split kept for validation, where there is none")
    examples: int = _field(4096, "training examples of a procedural dataset (shapes)")
    difficulty: float = _field(0.5, "of a procedural dataset, 0 to 1: noise, clutter and lack of contrast")

    @property
    def argument(self) -> str:
        """What follows the colon of the name: a directory, a name in TFDS, or nothing."""
        return self.name.partition(":")[2]


@dataclass(frozen=True)
class Info:
    """What can be said of a dataset before it is loaded.

    Attributes:
      name: as in ``DataConfig``.
      image_shape: (H, W, C).
      num_classes: labels are 0 to ``num_classes - 1``.
      sizes: number of examples of ``train``, ``valid`` and ``test``.
      class_names: one name for each label.
    """

    name: str
    image_shape: tuple[int, int, int]
    num_classes: int
    sizes: dict[str, int]
    class_names: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Dataset:
    """A decoded dataset; ``images`` may be mapped from disk and larger than memory.

    Attributes:
      info: what was promised before loading.
      images: (N, H, W, C) uint8: training, validation and test examples, in that order.
      labels: (N,) int32.
      ranges: first and last-plus-one index of each split.
      mean: (C,) mean of the training images, in units where 255 is 1.
      std: (C,) standard deviation of the training images in the same units, at least 1/255 so
        that a constant channel can be divided by it.
      fingerprint: SHA-256 of the images, the labels and the ranges.
    """

    info: Info
    images: UInt8[np.ndarray, "n h w c"]
    labels: Int32[np.ndarray, " n"]
    ranges: dict[str, tuple[int, int]]
    mean: Float32[np.ndarray, " c"]
    std: Float32[np.ndarray, " c"]
    fingerprint: str


def assemble(info: Info, images: UInt8[np.ndarray, "n h w c"], labels: Int32[np.ndarray, " n"]) -> Dataset:
    """The dataset of these arrays, which hold the splits in order, with the sizes of ``info``."""
    ends = np.cumsum([info.sizes[split] for split in SPLITS]).tolist()
    ranges = dict(zip(SPLITS, zip([0, *ends[:-1]], ends, strict=True), strict=True))
    mean, std = _statistics(images[slice(*ranges["train"])])
    return Dataset(info, images, labels, ranges, mean, std, _fingerprint(images, labels, ranges))


def _statistics(
    images: UInt8[np.ndarray, "n h w c"],
) -> tuple[Float32[np.ndarray, " c"], Float32[np.ndarray, " c"]]:
    """Mean and standard deviation of each channel, from integer sums: exact, whatever the order."""
    count, height, width, channels = images.shape
    rows = images.reshape(count, -1)
    total, squares = np.zeros((2, rows.shape[1]), np.uint64)
    for start in range(0, count, 1024):  # 1024 * 255^2 fits into 32 bits
        chunk = rows[start : start + 1024].astype(np.uint32)
        total += chunk.sum(axis=0, dtype=np.uint32)
        squares += np.square(chunk, out=chunk).sum(axis=0, dtype=np.uint32)
    pixels = count * height * width
    mean = total.reshape(-1, channels).sum(axis=0) / pixels
    variance = squares.reshape(-1, channels).sum(axis=0) / pixels - mean**2
    std = np.sqrt(np.maximum(variance, 1.0))
    return (mean / 255).astype(np.float32), (std / 255).astype(np.float32)


def _fingerprint(
    images: UInt8[np.ndarray, "n h w c"], labels: Int32[np.ndarray, " n"], ranges: dict[str, tuple[int, int]]
) -> str:
    digest = hashlib.sha256(json.dumps([images.shape, ranges]).encode())
    # The arrays' own memory is hashed: a copy of mapped images might not fit into memory.
    digest.update(np.ascontiguousarray(images).data)
    digest.update(np.ascontiguousarray(labels, dtype="<i4").data)
    return digest.hexdigest()
