"""One image of any kind, as Pillow opens it, to an upright grey or colour image of eight bits."""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL import Image


def plain(image: "Image.Image", channels: int) -> "Image.Image":
    """The upright image in mode L (one channel) or RGB (three).

    Sixteen bits become eight; transparent parts show white; of an animation, the first frame.

    Raises:
      Exception: of many types, Pillow's for a damaged file.
    """
    from PIL import ImageOps

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
