"""One image of any kind, as Pillow opens it, to an upright grey or colour image of eight bits, and to a network's size.

Training and serving both go through ``pixels``, so that a network sees the same numbers in both.
"""

import contextlib
import threading
import warnings
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import UInt8

from cnnjax.rng import permutation

if TYPE_CHECKING:
    from PIL import Image


# Pillow goes by a file's content, not its name, and would hand some of its other formats to programs beside it.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
EXTENSIONS = (
    *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".gif", ".webp", ".tif", ".tiff"),
    *(".pbm", ".pgm", ".ppm", ".pnm", ".pfm"),
)  # of files of these formats
LARGEST_PIXELS = 89_478_485  # of one image: Pillow's own bound, beyond which it only warns at first
LARGE_PIXELS = 2**24  # images with more are decoded one at a time, however many threads there are
PIXEL_ORDER = 1  # the number that the permutation of pixels is drawn from, whatever the run's seed
SAMPLE_FORMAT, PHOTOMETRIC = 339, 262  # tags of TIFF
SIGNED, WHITE_IS_ZERO = 2, 0  # their values
_large = threading.Lock()


def opened(file: Path | BytesIO) -> "Image.Image":
    """The image of a file: the header is read now, the pixels when they are needed.

    Raises:
      Exception: of many types, Pillow's for a damaged file; the message says what is wrong with it.
    """
    from PIL import Image

    warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # ``plain`` refuses what it warns of
    try:
        return Image.open(file, formats=FORMATS)
    except Image.UnidentifiedImageError:
        raise ValueError(
            f"it is empty, cut short or no image of a known format and kind of pixels ({', '.join(FORMATS)})"
        ) from None


def pixels(
    image: "Image.Image",
    channels: int,
    resize: int | None = None,
    crop: int | tuple[int, int] | None = None,
    interpolation: str = "bilinear",
    squash: bool = False,
) -> UInt8[np.ndarray, "h w c"]:
    """The upright image as (H, W, C), resized and cut out of its centre if a size is given; see ``plain``.

    Args:
      image: of any mode.
      channels: 1 or 3.
      resize: length of the shorter side after resizing, in pixels; None leaves the image as it is.
      crop: side of the square, or (height, width), that is cut out of the resized image; by default ``resize``.
      interpolation: nearest, bilinear, bicubic or lanczos.
      squash: both sides become ``resize``, whatever shape the image has.

    Raises:
      Exception: of many types, Pillow's for a damaged file.
    """
    with _large if image.width * image.height > LARGE_PIXELS else contextlib.nullcontext():
        image = plain(image, channels)
        if resize is not None:
            image = centre(image, resize, crop, interpolation, squash)
        return np.asarray(image).reshape(image.height, image.width, channels)


def centre(
    image: "Image.Image",
    resize: int,
    crop: int | tuple[int, int] | None = None,
    interpolation: str = "bilinear",
    squash: bool = False,
) -> "Image.Image":
    """The image resized, and the centre of it; the arguments are those of ``pixels``.

    As torchvision's ``Resize`` and ``CenterCrop`` do it with Pillow's images, to the bit: the longer side is rounded
    down, the crop's corner to the nearest whole pixel (halves to even), and filters widen when shrinking, so that
    nothing aliases.

    Raises:
      ValueError: the resized image would fill the memory, or is smaller than what is to be cut out.
    """
    from PIL import Image

    width, height = image.size
    longer = int(resize * max(width, height) / min(width, height))
    size = (resize, resize) if squash else (resize, longer) if width <= height else (longer, resize)
    if size[0] * size[1] > LARGEST_PIXELS:
        raise ValueError(f"{width} x {height} pixels are too long and narrow for the centre of it")
    down, across = (crop, crop) if isinstance(crop, int) else crop or (resize, resize)
    if down > size[1] or across > size[0]:
        raise ValueError(
            f"{width} x {height} pixels become {size[0]} x {size[1]}, of which no {across} x {down} can be cut out"
        )
    if image.size != size:
        image = image.resize(size, Image.Resampling[interpolation.upper()])
    left, top = round((size[0] - across) / 2), round((size[1] - down) / 2)
    return image.crop((left, top, left + across, top + down))


def permuted(images: UInt8[np.ndarray, "*n h w c"]) -> UInt8[np.ndarray, "*n h w c"]:
    """The images with the positions of their pixels permuted, in one order for all images of a size."""
    *count, height, width, channels = images.shape
    order = permutation(PIXEL_ORDER, "generate", 0, height * width)
    return images.reshape(*count, height * width, channels)[..., order, :].reshape(images.shape)


def stored_as(image: "Image.Image") -> str:
    """The form of the pixels in the file, such as ``LA;16B``, in Pillow's words; empty once they have been read."""
    tiles = getattr(image, "tile", None)
    arguments = tiles[0].args if tiles else ""
    return str(arguments[0] if isinstance(arguments, tuple) and arguments else arguments or "")


def plain(image: "Image.Image", channels: int) -> "Image.Image":
    """The upright image in mode L (one channel) or RGB (three).

    Sixteen bits become eight, to the nearest of grey images, and colours lose their lower eight; transparent parts
    show white; of an animation, the first frame.

    Raises:
      ValueError: it is too large, or in what range its values lie is not known.
      Exception: of many types, Pillow's for a damaged file.
    """
    from PIL import ImageOps

    if image.width * image.height > LARGEST_PIXELS:
        raise ValueError(f"{image.width} x {image.height} pixels are more than {LARGEST_PIXELS}: make it smaller")
    stored, tags = stored_as(image), getattr(image, "tag_v2", {})
    _check_range(image, stored, tags)
    key = _transparent_value(image, stored)
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        image = _eight_bits(image, key, tags.get(PHOTOMETRIC) == WHITE_IS_ZERO)
    elif image.has_transparency_data:
        image = _opaque(image, key)
    if image.mode == "LAB":  # becomes grey by way of its colours only
        image = image.convert("RGB")
    return image.convert("L" if channels == 1 else "RGB")


def _check_range(image: "Image.Image", stored: str, tags) -> None:
    """Refuses values of which nobody knows what is black and what is white."""
    if image.mode == "F":  # and some may be no numbers
        raise ValueError("its pixels are floating-point numbers: save it with 8 or 16 bits")
    if SIGNED in tags.get(SAMPLE_FORMAT, ()):
        raise ValueError("its pixels are integers with a sign: save it with 8 or 16 bits without one")
    if image.mode == "I" and image.format not in ("PNG", "PPM"):  # of these two, Pillow has scaled them to 16 bits
        raise ValueError("its pixels are integers of 32 bits: save it with 8 or 16 bits")
    if isinstance(image.info.get("transparency"), tuple) and ";16" in stored:
        raise ValueError("its colours have 16 bits, and one of them is transparent: save it with 8 bits, or with alpha")


def _transparent_value(image: "Image.Image", stored: str) -> object:
    """What of ``info["transparency"]`` fits the pixels as they are read: Pillow widens grey of 2 and 4 bits to 8."""
    key = image.info.get("transparency")
    bits = {"L;2": 2, "L;4": 4}.get(stored)
    return key * 255 // (2**bits - 1) if bits and isinstance(key, int) else key


def _eight_bits(image: "Image.Image", key: object, white_is_zero: bool) -> "Image.Image":
    """Grey of 16 bits as grey of 8: value 257 n is n; the transparent value is white."""
    from PIL import Image

    values = np.asarray(image).astype(np.uint32)
    brightness = 65535 - values if white_is_zero else values
    lowest, highest = int(brightness.min()), int(brightness.max())
    if lowest != highest and highest < 256:
        raise ValueError(
            f"its values of 16 bits lie between {lowest} and {highest} of 65535, and all would be black: save it "
            "with 8 bits"
        )
    grey = ((brightness + 128) // 257).astype(np.uint8)
    return Image.fromarray(np.where(values == key, 255, grey).astype(np.uint8) if isinstance(key, int) else grey)


def _opaque(image: "Image.Image", key: object) -> "Image.Image":
    from PIL import Image

    if key is not None:
        image.info["transparency"] = key
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
