"""Handwritten digits, 8x8 pixels: real images without a network.

The test set of "Optical Recognition of Handwritten Digits" (Alpaydin and Kaynak, UCI, 1998), as
shipped with scikit-learn.
"""

import numpy as np

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
    from sklearn.datasets import load_digits

    digits = load_digits()
    order = permutation(0, "split", 0, len(digits.target))
    images = np.round(digits.images[order] * (255 / LEVELS)).astype(np.uint8)[..., None]
    info = describe(config)
    images = from_grey(resize_all(images, info.image_shape[0]), info.image_shape[2])
    return assemble(info, images, digits.target[order].astype(np.int32))
