import numpy as np
import pytest
from sklearn.datasets import load_digits

from cnnjax.data import digits
from cnnjax.data.dataset import DataConfig

# Of 1,797 images: the split and every pixel. Results are stored with it, so it may not change.
FINGERPRINT = "a63f2ecd6"


@pytest.fixture(scope="module")
def dataset():
    return digits.load(DataConfig())


def test_the_split_never_changes(dataset):
    assert dataset.info.sizes == {"train": 1024, "valid": 256, "test": 517}
    assert dataset.fingerprint.startswith(FINGERPRINT)


def test_every_digit_occurs_once_with_its_label(dataset):
    original = load_digits()
    expected = np.floor(original.images * 255 / 16 + 0.5)  # 0..16 to 0..255, halves upwards
    rows = np.column_stack([original.target, expected.reshape(1797, 64)])
    found = np.column_stack([dataset.labels, dataset.images.reshape(1797, 64)])
    np.testing.assert_array_equal(found[np.lexsort(found.T)], rows[np.lexsort(rows.T)])


def test_every_split_holds_every_class(dataset):
    for start, end in dataset.ranges.values():
        assert np.bincount(dataset.labels[start:end], minlength=10).min() > 10


def test_resizing_keeps_order_and_brightness(dataset):
    large = digits.load(DataConfig(image_size=32))
    assert large.images.shape == (1797, 32, 32, 1)
    np.testing.assert_array_equal(large.labels, dataset.labels)
    brightness = [images.mean(axis=(1, 2, 3), dtype=np.float64) for images in (large.images, dataset.images)]
    np.testing.assert_allclose(*brightness, atol=3)


def test_three_channels_are_three_times_the_same(dataset):
    colour = digits.load(DataConfig(channels=3))
    assert colour.info.image_shape == (8, 8, 3)
    np.testing.assert_array_equal(colour.images, np.broadcast_to(dataset.images, colour.images.shape))
