"""Handwritten digits, 8x8 pixels: real images without a network.

The test set of "Optical Recognition of Handwritten Digits" (Alpaydin and Kaynak, UCI, 1998), as
shipped with scikit-learn.
"""

import gzip
import importlib.util
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from cnnjax.data.dataset import DataConfig, Dataset, Info, Progress, assemble
from cnnjax.data.decode import from_grey, resize_all
from cnnjax.rng import permutation

SIZES = {"train": 1024, "valid": 256, "test": 517}
PIXELS = 8
LEVELS = 16  # values are 0 to 16, the number of ink pixels in a 4x4 cell


def describe(config: DataConfig) -> Info:
    """Constants: scikit-learn is not imported."""
    size = config.image_size or PIXELS
    names = tuple(str(digit) for digit in range(10))
    return Info(config.name, (size, size, config.channels or 1), 10, dict(SIZES), names)


def load(config: DataConfig, progress: Progress | None = None) -> Dataset:
    """All 1,797 digits in a fixed order that belongs to no class or writer."""
    del progress
    values, labels = _read()
    order = permutation(0, "split", 0, len(labels))
    images = np.round(values[order] * (255 / LEVELS)).astype(np.uint8)[..., None]
    info = describe(config)
    images = from_grey(resize_all(images, info.image_shape[0]), info.image_shape[2])
    return assemble(info, images, labels[order].astype(np.int32))


def _read() -> tuple[UInt8[np.ndarray, "n 8 8"], UInt8[np.ndarray, " n"]]:
    """Values from 0 to 16, and labels.

    Importing scikit-learn takes 0.7 s in every worker process, so its data file is read without it
    where it lies in its usual place.
    """
    package = importlib.util.find_spec("sklearn")
    places = package.submodule_search_locations if package else None
    file = Path(places[0]) / "datasets" / "data" / "digits.csv.gz" if places else None
    if file and file.exists():
        with gzip.open(file, "rt") as lines:
            table = np.loadtxt(lines, delimiter=",", dtype=np.uint8)
    else:
        from sklearn.datasets import load_digits

        digits = load_digits()
        table = np.column_stack([digits.data, digits.target]).astype(np.uint8)
    return table[:, :-1].reshape(-1, PIXELS, PIXELS), table[:, -1]
