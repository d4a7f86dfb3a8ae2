"""One encoded image to an array of a known shape, with Pillow."""

import contextlib
import io
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import UInt8

from cnnjax.image import LARGEST_PIXELS, plain
from cnnjax.image import opened as open_image

if TYPE_CHECKING:
    from PIL import Image

GREY_MODES = ("1", "L", "LA", "La", "I", "I;16", "I;16L", "I;16B")
EXIF_ORIENTATION = 0x0112
LARGE_PIXELS = 2**24  # images with more are decoded one at a time, however many threads there are
_large = threading.Lock()


@contextmanager
def opened(encoded: bytes) -> Any:
    """The image of an encoded file: the header is read now, the pixels when they are needed."""
    with open_image(io.BytesIO(encoded)) as image:
        yield image


def is_grey(image: "Image.Image") -> bool:
    """Whether the file stores no colour. A palette counts as colour."""
    return image.mode in GREY_MODES


def upright_size(image: "Image.Image") -> tuple[int, int]:
    """(height, width) after the rotation that its EXIF tag asks for; reads only the header."""
    width, height = image.size
    return (width, height) if image.getexif().get(EXIF_ORIENTATION, 1) >= 5 else (height, width)


def pixels(image: "Image.Image", channels: int, size: int | None = None) -> UInt8[np.ndarray, "h w c"]:
    """The upright image as (H, W, C), resized and centre-cropped to a square if a size is given.

    Sixteen bits become eight; transparent parts show white; of an animation, the first frame.

    Args:
      image: of any mode.
      channels: 1 or 3.
      size: height and width of the result in pixels, or None.

    Raises:
      Exception: of many types, Pillow's for a damaged file.
    """
    with _large if image.width * image.height > LARGE_PIXELS else contextlib.nullcontext():
        image = plain(image, channels)
        if size is not None:
            image = _resize(image, size)
    return np.asarray(image).reshape(image.height, image.width, channels)


def resize_all(images: UInt8[np.ndarray, "n h w 1"], size: int) -> UInt8[np.ndarray, "n size size 1"]:
    """Grey images resized and centre-cropped as ``pixels`` does."""
    from PIL import Image

    if images.shape[1:3] == (size, size):
        return images
    return np.stack([np.asarray(_resize(Image.fromarray(image), size)) for image in images[..., 0]])[..., None]


def from_grey(images: UInt8[np.ndarray, "n h w 1"], channels: int) -> UInt8[np.ndarray, "n h w c"]:
    """The same images with their one channel repeated."""
    return np.repeat(images, channels, axis=-1)


def _resize(image: "Image.Image", size: int) -> "Image.Image":
    """The shorter side becomes ``size``; Pillow's filters widen when shrinking, so nothing aliases."""
    from PIL import Image

    if image.size == (size, size):
        return image
    scale = size / min(image.size)
    width, height = (max(size, round(side * scale)) for side in image.size)
    if width * height > LARGEST_PIXELS:
        raise ValueError(f"{image.width} x {image.height} pixels are too long and narrow for a square of its centre")
    left, top = (width - size) // 2, (height - size) // 2
    image = image.resize((width, height), Image.Resampling.BILINEAR)
    return image.crop((left, top, left + size, top + size))
