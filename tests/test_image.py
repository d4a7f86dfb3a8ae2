"""Every kind of pixels is read right or refused, and one rule resizes for training and for serving."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cnnjax import image
from cnnjax.data import decode
from cnnjax.weights import Preprocessing
from tests.fixtures import raw_images as raw
from tests.fixtures.raw_images import png, tiff


def read(content: bytes, channels: int) -> np.ndarray:
    with image.opened(io.BytesIO(content)) as picture:
        return image.pixels(picture, channels)


def row(*values, dtype=np.uint16) -> np.ndarray:
    return np.array([values], dtype).reshape(1, len(values), -1)


DEEP = row(0, 1000, 32768, 65535)
DEEP_COLOURS = row([0, 1000, 65535], [32768, 32896, 128], [65535, 65535, 65535], [40000, 0, 0])
ALPHAS = row(65535, 0, 32768, 65535)
PALETTE = bytes([255, 0, 0, 0, 255, 0, 0, 0, 255, 9, 9, 9])
RED, WHITE, HALF_BLUE, DARK = [255, 0, 0], [255] * 3, [127, 127, 255], [9, 9, 9]
PGM = b"P5 4 1 1000\n" + np.array([0, 10, 500, 1000], ">u2").tobytes()

# What is in the file -> the grey values or colours that it stands for, by the formats' specifications.
RIGHT = {
    "1 bit": (png(row(0, 1, 1, 0), 1, raw.GREY), [0, 255, 255, 0]),
    "1 bit, black transparent": (png(row(0, 1, 1, 0), 1, raw.GREY, (0,)), [255, 255, 255, 255]),
    "2 bits": (png(row(0, 1, 2, 3), 2, raw.GREY), [0, 85, 170, 255]),
    "2 bits, one value transparent": (png(row(0, 1, 2, 3), 2, raw.GREY, (2,)), [0, 85, 255, 255]),
    "4 bits, one value transparent": (png(row(0, 5, 10, 15), 4, raw.GREY, (5,)), [0, 255, 170, 255]),
    "8 bits, one value transparent": (png(row(0, 5, 10, 15), 8, raw.GREY, (5,)), [0, 255, 10, 15]),
    "16 bits": (png(DEEP, 16, raw.GREY), [0, 4, 128, 255]),
    "16 bits, one value transparent": (png(DEEP, 16, raw.GREY, (1000,)), [0, 255, 128, 255]),
    "16 bits, of a key that 8 bits could hold": (
        png(row(0, 128, 32896, 65535), 16, raw.GREY, (128,)), [0, 255, 128, 255],
    ),
    "16 bits with alpha": (png(np.dstack([DEEP, ALPHAS]), 16, raw.GREY_ALPHA), [0, 255, 192, 255]),
    "8 bits with alpha": (png(row([40, 255], [40, 0], [40, 128], [0, 255]), 8, raw.GREY_ALPHA), [40, 255, 147, 0]),
    "16 bits of colour": (png(DEEP_COLOURS, 16, raw.COLOUR), [[0, 3, 255], [128, 128, 0], WHITE, [156, 0, 0]]),
    "16 bits of colour with alpha": (
        png(np.dstack([DEEP_COLOURS, ALPHAS]), 16, raw.COLOUR_ALPHA), [[0, 3, 255], WHITE, WHITE, [156, 0, 0]],
    ),
    "8 bits of colour, one transparent": (
        png(row([0, 1, 2], [3, 4, 5], [5, 5, 5]), 8, raw.COLOUR, (3, 4, 5)), [[0, 1, 2], WHITE, [5, 5, 5]],
    ),
    "palette with alphas": (
        png(row(0, 1, 2, 3), 2, raw.PALETTE, (255, 0, 128), PALETTE), [RED, WHITE, HALF_BLUE, DARK],
    ),
    "TIFF, 16 bits": (tiff(DEEP, raw.BLACK_IS_ZERO), [0, 4, 128, 255]),
    "TIFF, 16 bits, white is zero": (tiff(DEEP, raw.WHITE_IS_ZERO), [255, 251, 127, 0]),
    "TIFF, 8 bits, white is zero": (tiff(row(0, 5, 10, 255, dtype=np.uint8), raw.WHITE_IS_ZERO), [255, 250, 245, 0]),
    "TIFF, 8 bits with alpha": (
        tiff(row([40, 255], [40, 0], [40, 128], dtype=np.uint8), raw.BLACK_IS_ZERO, extra=2), [40, 255, 147],
    ),
    "TIFF, 16 bits of colour": (tiff(DEEP_COLOURS, raw.RGB), [[0, 3, 255], [128, 128, 0], WHITE, [156, 0, 0]]),
    "TIFF, CMYK": (
        tiff(row([0, 0, 0, 0], [255, 0, 0, 0], [0, 0, 0, 255], [0, 255, 0, 128], dtype=np.uint8), raw.CMYK),
        [WHITE, [0, 255, 255], [0, 0, 0], [127, 0, 127]],
    ),
    "TIFF, YCbCr": (tiff(row([255, 128, 128], [76, 85, 255], dtype=np.uint8), raw.YCBCR), [WHITE, [254, 0, 0]]),
    "TIFF, Lab": (  # lightness 53.2, a 80, b 67 are the red of sRGB
        tiff(row([255, 0, 0], [0, 0, 0], [136, 80, 67], dtype=np.uint8), raw.LAB), [WHITE, [0, 0, 0], [255, 0, 0]],
    ),
    "PGM of 16 bits, up to 1000": (PGM, [0, 3, 128, 255]),
    "PGM up to 15": (b"P5 4 1 15\n" + bytes([0, 5, 10, 15]), [0, 85, 170, 255]),
    "PPM of 16 bits": (b"P6 2 1 65535\n" + DEEP_COLOURS[:, :2].astype(">u2").tobytes(), [[0, 4, 255], [128, 128, 0]]),
    "PBM": (b"P4 4 1\n" + bytes([0b01100000]), [255, 0, 0, 255]),
}  # fmt: skip


@pytest.mark.parametrize("name", RIGHT)
def test_a_kind_of_pixels_is_read_right(name):
    content, expected = RIGHT[name]
    colours = np.array([expected] if np.ndim(expected) == 2 else [np.repeat(np.array(expected)[:, None], 3, -1)])
    tolerance = 12 if "Lab" in name else 1  # of Lab, the reference white is converted as well
    np.testing.assert_allclose(read(content, 3), colours, atol=tolerance)
    np.testing.assert_allclose(read(content, 1)[..., 0], colours @ [0.299, 0.587, 0.114], atol=tolerance + 1)
    with image.opened(io.BytesIO(content)) as picture:
        assert decode.is_grey(picture) == (np.ndim(expected) == 1)


INTEGERS = np.array([0, 100, 255, 70000]).reshape(1, 4, 1)
REFUSED = {
    "32 bits": (tiff(INTEGERS.astype(np.uint32), raw.BLACK_IS_ZERO), "integers of 32 bits"),
    "32 bits with a sign": (tiff(INTEGERS.astype(np.int32), raw.BLACK_IS_ZERO, raw.SIGNED), "integers with a sign"),
    "16 bits with a sign": (tiff(row(-5, 0, 9, dtype=np.int16), raw.BLACK_IS_ZERO, raw.SIGNED), "with a sign"),
    "8 bits with a sign": (tiff(row(-5, 0, 9, dtype=np.int8), raw.BLACK_IS_ZERO, raw.SIGNED), "with a sign"),
    "floating point": (tiff(row(0, 0.5, 1, dtype=np.float32), raw.BLACK_IS_ZERO, raw.FLOAT), "floating-point"),
    "floating point of PFM": (b"Pf 4 1 -1.0\n" + np.array([0, 0.5, 1, 2], "<f4").tobytes(), "floating-point"),
    "16 bits of colour, one transparent": (png(DEEP_COLOURS, 16, raw.COLOUR, (255, 255, 255)), "one of them is transp"),
    "8 bits in 16": (png(row(0, 100, 255), 16, raw.GREY), "between 0 and 255 of 65535, and all would be black"),
    "TIFF, 16 bits with alpha": (tiff(np.dstack([DEEP, ALPHAS]), raw.BLACK_IS_ZERO, extra=2), "kind of pixels"),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("channels", [1, 3])
def test_pixels_of_an_unknown_range_are_refused_with_a_remedy(name, channels):
    content, reason = REFUSED[name]
    with pytest.raises(ValueError, match=reason) as caught:
        read(content, channels)
    assert "kind of pixels" in reason or "save it with" in str(caught.value)


def test_a_black_image_of_16_bits_is_black():
    assert (read(png(np.zeros((2, 2, 1), np.uint16), 16, raw.GREY), 1) == 0).all()
    assert (read(png(np.full((2, 2, 1), 7), 16, raw.GREY), 1) == 0).all()


def test_an_image_of_16_bits_is_turned_upright():
    exif, buffer = Image.Exif(), io.BytesIO()
    exif[decode.EXIF_ORIENTATION] = 6
    Image.fromarray(np.array([[0, 25700, 65535]], np.uint16)).save(buffer, "png", exif=exif)
    assert read(buffer.getvalue(), 1)[..., 0].tolist() == [[0], [100], [255]]


# Sizes


def noise(height: int, width: int, *channels: int) -> np.ndarray:
    return np.random.default_rng(height * 1000 + width).integers(0, 256, (height, width, *channels), np.uint8)


def encoded(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "png")
    return buffer.getvalue()


def by_the_rule(pixels: np.ndarray, size: int) -> np.ndarray:
    """torchvision's Resize and CenterCrop, written out: int(size * long / short); int(round((long - size) / 2))."""
    height, width = pixels.shape[:2]
    longer = int(size * max(height, width) / min(height, width))
    resized = (size, longer) if width <= height else (longer, size)
    result = np.asarray(Image.fromarray(pixels).resize(resized, Image.Resampling.BILINEAR))
    top, left = round((resized[1] - size) / 2.0), round((resized[0] - size) / 2.0)
    return result[top : top + size, left : left + size]


@settings(max_examples=30)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 24), st.sampled_from([1, 3]), st.sampled_from([(), (3,)]))
def test_training_and_serving_see_the_same_pixels(height, width, size, channels, stored):
    content = encoded(noise(height, width, *stored))
    with decode.opened(content) as picture:
        trained = decode.pixels(picture, channels, size)
    with image.opened(io.BytesIO(content)) as picture:
        served = Preprocessing(size, size, (0.0,) * channels, (1.0,) * channels).pixels(picture)
    np.testing.assert_array_equal(trained, served)
    if channels == (*stored, 1)[0]:
        expected = by_the_rule(noise(height, width, *stored), size)
        np.testing.assert_array_equal(trained, expected.reshape(trained.shape))


@pytest.mark.parametrize(("width", "height", "size", "longer"), [(640, 480, 224, 298), (640, 427, 224, 335)])
def test_photographs(width, height, size, longer):
    assert int(size * width / height) == longer
    pixels = noise(height, width, 3)
    with decode.opened(encoded(pixels)) as picture:
        np.testing.assert_array_equal(decode.pixels(picture, 3, size), by_the_rule(pixels, size))


def test_no_two_images_of_a_size_are_permuted_differently():
    pixels = noise(5, 7, 3)
    stacked = image.permuted(np.stack([pixels, pixels[::-1]]))
    np.testing.assert_array_equal(stacked[0], image.permuted(pixels))
    assert (stacked[0] != pixels).any()
    np.testing.assert_array_equal(*(np.sort(each.reshape(35, 3), axis=0) for each in (stacked[0], pixels)))
