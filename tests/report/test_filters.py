import numpy as np
import pytest

from cnnjax.report import figures, filters
from cnnjax.typing import UsageError

KERNEL = np.random.default_rng(0).standard_normal((2, 3, 3, 4)).astype(np.float32)


def test_each_filter_stands_in_its_place_as_strong_as_can_be():
    image = filters.mosaic(KERNEL, columns=3)
    assert image.shape == (2 + 1 + 2, 3 * 3 + 2, 3)
    for place in range(4):
        top, left = place // 3 * 3, place % 3 * 4
        shown, filter_ = image[top : top + 2, left : left + 3], KERNEL[..., place]
        np.testing.assert_allclose(2 * shown - 1, filter_ / abs(filter_).max(), atol=1e-6)
    np.testing.assert_array_equal(image[2], 1)  # between the rows
    np.testing.assert_array_equal(image[3:, 4:], 1)  # where there are no more filters
    np.testing.assert_array_equal(filters.mosaic(64 * KERNEL, 3), image)


def test_one_channel_is_grey_and_zeros_are_middle_grey():
    image = filters.mosaic(KERNEL[:, :, :1])
    np.testing.assert_array_equal(image[..., 0], image[..., 2])
    np.testing.assert_array_equal(filters.mosaic(np.zeros((2, 2, 3, 1), np.float32)), np.full((2, 2, 3), 0.5))


def test_the_96_filters_of_alexnet(tmp_path):  # S3:331-419
    kernel = np.random.default_rng(1).standard_normal((11, 11, 3, 96)).astype(np.float32)
    assert filters.mosaic(kernel).shape == (8 * 12 - 1, 12 * 12 - 1, 3)
    png, _ = figures.save(filters.picture(kernel, "The first layer"), tmp_path / "filters")
    assert png.stat().st_size > 10_000


@pytest.mark.parametrize(
    ("shape", "columns", "message"),
    [
        ((3, 3, 64, 2), None, "read 64 channels have no colours"),
        ((3, 3, 3, 0), None, "0 filters in"),
        ((3, 3, 3, 2), 0, "2 filters in 0 columns"),
    ],
)
def test_what_cannot_be_shown(shape, columns, message):
    with pytest.raises(UsageError, match=message):
        filters.mosaic(np.zeros(shape, np.float32), columns)


@pytest.mark.parametrize(("count", "size"), [(16, (4, 4)), (64, (8, 8)), (7, (2, 4)), (32, (4, 8)), (1, (1, 1))])
def test_rows_are_full_where_they_can_be(count, size):
    rows, columns = size
    assert filters.mosaic(np.ones((1, 1, 1, count), np.float32)).shape == (2 * rows - 1, 2 * columns - 1, 3)
