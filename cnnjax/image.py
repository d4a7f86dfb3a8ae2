"""One image of any kind, as Pillow opens it, to an upright grey or colour image of eight bits."""

import warnings
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL import Image


# Pillow goes by a file's content, not its name, and would hand some of its other formats to programs beside it.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
LARGEST_PIXELS = 89_478_485  # of one image: Pillow's own bound, beyond which it only warns at first


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
        raise ValueError(f"it is empty, cut short or no image of a known format ({', '.join(FORMATS)})") from None


def plain(image: "Image.Image", channels: int) -> "Image.Image":
    """The upright image in mode L (one channel) or RGB (three).

    Sixteen bits become eight; transparent parts show white; of an animation, the first frame.

    Raises:
      Exception: of many types, Pillow's for a damaged file.
    """
    from PIL import ImageOps

    if image.width * image.height > LARGEST_PIXELS:
        raise ValueError(f"{image.width} x {image.height} pixels are more than {LARGEST_PIXELS}: make it smaller")
    if image.mode == "F":  # in what range is not known, and some may be no numbers
        raise ValueError("its pixels are floating-point numbers: save it with 8 or 16 bits")
    image = _opaque(_eight_bits(ImageOps.exif_transpose(image)))
    return image.convert("L" if channels == 1 else "RGB")


def _eight_bits(image: "Image.Image") -> "Image.Image":
    from PIL import Image

    if not image.mode.startswith("I"):
        return image
    return Image.fromarray(np.round(np.clip(np.asarray(image), 0, 65535) / 257).astype(np.uint8))


def _opaque(image: "Image.Image") -> "Image.Image":
    from PIL import Image

    if not image.has_transparency_data:
        return image
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
