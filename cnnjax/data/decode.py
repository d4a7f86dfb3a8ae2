"""One encoded image to an array of a known shape, with Pillow."""

import io
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import UInt8

from cnnjax.image import centre, pixels, stored_as
from cnnjax.image import opened as open_image

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["from_grey", "is_grey", "opened", "pixels", "resize_all", "upright_size"]

GREY_MODES = ("1", "L", "LA", "La", "I", "I;16", "I;16L", "I;16B")
EXIF_ORIENTATION = 0x0112


@contextmanager
def opened(encoded: bytes) -> Any:
    """The image of an encoded file: the header is read now, the pixels when they are needed."""
    with open_image(io.BytesIO(encoded)) as image:
        yield image


def is_grey(image: "Image.Image") -> bool:
    """Whether the file stores no colour, which Pillow adds to some; its pixels are not read yet.

    A palette counts as colour.
    """
    return image.mode in GREY_MODES or stored_as(image).split(";")[0] == "LA"


def upright_size(image: "Image.Image") -> tuple[int, int]:
    """(height, width) after the rotation that its EXIF tag asks for; reads only the header."""
    width, height = image.size
    return (width, height) if image.getexif().get(EXIF_ORIENTATION, 1) >= 5 else (height, width)


def resize_all(images: UInt8[np.ndarray, "n h w 1"], size: int) -> UInt8[np.ndarray, "n size size 1"]:
    """Grey images resized and centre-cropped as ``pixels`` does."""
    from PIL import Image

    if images.shape[1:3] == (size, size):
        return images
    return np.stack([np.asarray(centre(Image.fromarray(image), size)) for image in images[..., 0]])[..., None]


def from_grey(images: UInt8[np.ndarray, "n h w 1"], channels: int) -> UInt8[np.ndarray, "n h w c"]:
    """The same images with their one channel repeated."""
    return np.repeat(images, channels, axis=-1)
