"""What a dataset is: its configuration, its description and its arrays."""

import dataclasses
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float32, Float64, Int32, UInt8

from cnnjax.strict_json import encode

SPLITS = ("train", "valid", "test")

# Called with (done, total) examples while images are decoded.
Progress = Callable[[int, int], None]

OnBadImage = Literal["stop", "skip"]


def _field(default: Any, help: str, **metadata: Any) -> Any:
    return dataclasses.field(default=default, metadata={"help": help, **metadata})


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
    classes: tuple[int, ...] = _field((), "only examples of these classes, numbered anew in this order; all without")
    permute_pixels: bool = _field(False, "the pixels of all images in one fixed random order: no neighbours remain")
    # Runs of a dataset without bad images keep the names that they had before there was this field.
    on_bad_image: OnBadImage = _field(
        "stop", "an image that cannot be decoded: stop and name it, or skip it and list it", silent=True
    )

    def at_size(self, side: int) -> "DataConfig":
        """The same with images of ``side`` pixels, unless another size was asked for."""
        return dataclasses.replace(self, image_size=self.image_size or side)

    @property
    def external(self) -> bool:
        """Whether it comes from a folder or a download, as large as it may be there, and not from the project."""
        return bool(self.argument)

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
      images: (N, H, W, C) uint8: training, validation and test examples, in that order. Or float32: features of
        images, (N, 1, 1, D), which are not scaled by 1/255.
      labels: (N,) int32.
      ranges: first and last-plus-one index of each split.
      mean: (C,) mean of the training images, in units where 255 is 1.
      std: (C,) standard deviation of the training images in the same units, at least 1/255 so
        that a constant channel can be divided by it.
      colour_basis: (C, C) principal components of the training images' pixels, in the same units: column i is
        the i-th eigenvector of the channels' covariance times the square root of its eigenvalue, largest
        first; its largest entry is positive. ``colour_basis @ colour_basis.T`` is the covariance. Features have
        no colours, and a basis of shape (0, 0).
      fingerprint: SHA-256 of the images, the labels and the ranges.
      skipped: what each image left out is called, and why it was; see ``DataConfig.on_bad_image``.
    """

    info: Info
    images: UInt8[np.ndarray, "n h w c"] | Float32[np.ndarray, "n h w c"]
    labels: Int32[np.ndarray, " n"]
    ranges: dict[str, tuple[int, int]]
    mean: Float32[np.ndarray, " c"]
    std: Float32[np.ndarray, " c"]
    colour_basis: Float32[np.ndarray, "colours colours"]
    fingerprint: str
    skipped: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Pictures:
    """The examples of a split as their source has them: neither resized nor decoded before they are asked for.

    Attributes:
      count: how many.
      read: number -> the image, of Pillow or an array (H, W, C), and its label; called from several threads.
      where: number -> what to call it in an error.
      class_names: one for each label.
      carved: whether they are a share of the source's training split, which has no such split itself.
    """

    count: int
    read: Callable[[int], tuple[Any, int]]
    where: Callable[[int], str]
    class_names: tuple[str, ...]
    carved: bool


def assemble(info: Info, images: UInt8[np.ndarray, "n h w c"], labels: Int32[np.ndarray, " n"]) -> Dataset:
    """The dataset of these arrays, which hold the splits in order, with the sizes of ``info``."""
    ends = np.cumsum([info.sizes[split] for split in SPLITS]).tolist()
    ranges = dict(zip(SPLITS, zip([0, *ends[:-1]], ends, strict=True), strict=True))
    mean, std, basis = _statistics(images[slice(*ranges["train"])])
    return Dataset(info, images, labels, ranges, mean, std, basis, _fingerprint(images, labels, ranges))


def _statistics(
    images: UInt8[np.ndarray, "n h w c"],
) -> tuple[Float32[np.ndarray, " c"], Float32[np.ndarray, " c"], Float32[np.ndarray, "c c"]]:
    """Mean, standard deviation and colour basis of the channels, from integer sums: exact, whatever the order."""
    count, height, width, channels = images.shape
    rows = images.reshape(count, -1)
    total = np.zeros(rows.shape[1], np.uint64)
    # Of each value times the one ``lag`` further on, which is another channel or, where not needed, another pixel.
    products = np.zeros((channels, rows.shape[1]), np.uint64)
    for start in range(0, count, 1024):  # 1024 * 255^2 fits into 32 bits
        chunk = rows[start : start + 1024].astype(np.uint32)
        total += chunk.sum(axis=0, dtype=np.uint32)
        for lag in range(channels):
            stop = rows.shape[1] - lag
            products[lag, :stop] += (chunk[:, :stop] * chunk[:, lag:]).sum(axis=0, dtype=np.uint32)
    pixels = count * height * width
    mean = total.reshape(-1, channels).sum(axis=0) / pixels
    by_lag = products.reshape(channels, -1, channels).sum(axis=1) / pixels
    first, second = np.indices((channels, channels))
    covariance = by_lag[abs(first - second), np.minimum(first, second)] - np.outer(mean, mean)
    std = np.sqrt(np.maximum(covariance.diagonal(), 1.0))
    scaled = [array.astype(np.float32) for array in (mean / 255, std / 255, principal_components(covariance) / 255)]
    return scaled[0], scaled[1], scaled[2]


def principal_components(covariance: Float64[np.ndarray, "c c"]) -> Float64[np.ndarray, "c c"]:
    """Eigenvectors of a covariance (C, C) times the roots of their eigenvalues, as columns, the largest first."""
    values, vectors = np.linalg.eigh(covariance)
    columns = (vectors * np.sqrt(np.maximum(values, 0)))[:, ::-1]
    largest = np.take_along_axis(columns, np.abs(columns).argmax(axis=0)[None], axis=0)
    return columns * np.where(largest < 0, -1, 1)


def _fingerprint(
    images: UInt8[np.ndarray, "n h w c"], labels: Int32[np.ndarray, " n"], ranges: dict[str, tuple[int, int]]
) -> str:
    digest = hashlib.sha256(encode([images.shape, ranges]).encode())
    # The arrays' own memory is hashed: a copy of mapped images might not fit into memory.
    digest.update(np.ascontiguousarray(images).data)
    digest.update(np.ascontiguousarray(labels, dtype="<i4").data)
    return digest.hexdigest()
