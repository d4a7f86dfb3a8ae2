"""What happens to an image before a trained network sees it: part of the weights, in effect."""

import dataclasses
import math
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, UInt8

from cnnjax import image as images
from cnnjax.typing import UsageError, unknown

if TYPE_CHECKING:
    from PIL import Image

INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos")
ORDERS = ("RGB", "BGR")
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """Resize, take the centre (S3:682-695), scale to [0, 1], standardise each channel.

    As torchvision does it with Pillow's images, to the bit, and as images are decoded for training; see
    ``image.centre``.

    Attributes:
      resize: length of the shorter side after resizing, in pixels.
      crop: side of the square that is cut out, in pixels, or (height, width).
      mean, std: of each channel, for values in [0, 1].
      interpolation: one of ``INTERPOLATIONS``.
      channels: their order for the network, "RGB" or "BGR"; ``mean`` and ``std`` are in this order. Networks that come
        from Caffe read BGR.
      squash: both sides become ``resize``, whatever shape the image has.
      permute_pixels: the pixels in one fixed random order, as ``DataConfig.permute_pixels``.
    """

    resize: int = 256
    crop: int | tuple[int, int] = 224
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    interpolation: str = "bilinear"
    squash: bool = False
    channels: str = "RGB"
    permute_pixels: bool = False

    def __post_init__(self):
        if self.channels not in ORDERS:
            raise unknown("order of channels", self.channels, ORDERS)
        if self.interpolation not in INTERPOLATIONS:
            raise unknown("interpolation", self.interpolation, INTERPOLATIONS)
        if min(self._sides) < 1 or min(self._sides) > self.resize:
            raise UsageError(f"crop must lie between 1 and resize={self.resize}, not be {self.crop}.")
        if len(self.mean) != len(self.std) or len(self.mean) not in (1, 3) or not self._are_numbers():
            raise UsageError(
                f"mean={self.mean} and std={self.std} must have a finite number for each of one or three channels, "
                "those of std positive."
            )

    def _are_numbers(self) -> bool:
        return all(map(math.isfinite, (*self.mean, *self.std))) and min(self.std) > 0

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C) of the result."""
        return (*self._sides, len(self.mean))

    @property
    def _sides(self) -> tuple[int, int]:
        return (self.crop, self.crop) if isinstance(self.crop, int) else self.crop

    def apply(self, image: "Image.Image | np.ndarray") -> Float[np.ndarray, "h w c"]:
        """One image of any size to (H, W, C), float32.

        Pillow's images are turned upright as their EXIF tag asks, and brought to eight bits and to the number of
        channels of ``mean``: grey is repeated, CMYK and palettes become RGB, transparent parts white.

        Args:
          image: of Pillow, its pixels not read yet, or uint8 (H, W), (H, W, 1) or (H, W, 3).

        Raises:
          UsageError: an array of another type or shape, a damaged image, or one that cannot be cut to the size.
        """
        pixels = self.pixels(image)
        scaled = (pixels[..., ::-1] if self.channels == "BGR" else pixels).astype(np.float32) / np.float32(255)
        return (scaled - np.array(self.mean, np.float32)) / np.array(self.std, np.float32)

    def pixels(self, image: "Image.Image | np.ndarray") -> UInt8[np.ndarray, "h w c"]:
        """The same before standardisation: what the network looks at, as a picture.

        Raises:
          UsageError: as ``apply``.
        """
        picture = _picture(image)
        try:
            found = images.pixels(picture, len(self.mean), self.resize, self.crop, self.interpolation, self.squash)
        except Exception as error:  # Pillow's are of many types
            name = getattr(picture, "filename", "") or "The image"
            raise UsageError(f"{name} cannot be decoded: {error}") from error
        return images.permuted(found) if self.permute_pixels else found

    @classmethod
    def of(cls, steps: dict[str, Any]) -> "Preprocessing":
        """From a dictionary of its attributes, as JSON gives it back."""
        fields: dict[str, Any] = {k: tuple(value) if isinstance(value, list) else value for k, value in steps.items()}
        return cls(**fields)

    @classmethod
    def of_timm(cls, config: dict[str, Any], label: str = "config.json") -> "Preprocessing":
        """From timm's ``config.json``: its shorter side is crop / crop_pct, rounded down.

        Raises:
          UsageError: it has no ``pretrained_cfg`` with a size; or pads, or crops to a rectangle.
        """
        found = config.get("pretrained_cfg") if isinstance(config, dict) else None
        if not isinstance(found, dict) or len(found.get("input_size") or ()) != 3:
            raise UsageError(f"{label} has no pretrained_cfg with an input_size: it is not of timm.")
        _, height, width = found["input_size"]
        mode = found.get("crop_mode") or "center"
        if height != width or mode not in ("center", "squash"):
            raise UsageError(f"{label} asks for {height}x{width} with crop_mode={mode}; only squares are known here.")
        return cls(
            resize=math.floor(height / (found.get("crop_pct") or 0.875)),
            crop=height,
            mean=tuple(found.get("mean") or IMAGENET_MEAN),
            std=tuple(found.get("std") or IMAGENET_STD),
            interpolation=found.get("interpolation") or "bicubic",
            squash=mode == "squash",
        )


def _picture(image: "Image.Image | np.ndarray") -> "Image.Image":
    """An image of Pillow.

    Raises:
      UsageError: an array of another type or shape.
    """
    from PIL import Image

    if not isinstance(image, np.ndarray):
        return image
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or image.shape[2:] not in ((), (1,), (3,)):
        raise UsageError(
            f"An image must be uint8 of shape (H, W), (H, W, 1) or (H, W, 3), not {image.dtype} {image.shape}."
        )
    return Image.fromarray(image[..., 0] if image.shape[2:] == (1,) else image)
