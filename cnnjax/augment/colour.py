"""Augmentations of colour: jitter of brightness, contrast and saturation, shifts of channels, AlexNet's PCA.

Each leaves images (N, H, W, C) in [0, 1], by clipping, and changes an image as a whole.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from cnnjax.augment.geometry import Strength, symmetric
from cnnjax.typing import Images

# The recipe of Gross and Wilber 2016 (fb.resnet.torch) for ImageNet: 0.4 each.
JITTER_REACH = 0.4
RGB_SHIFT_REACH = 20 / 255  # the default of Albumentations' RGBShift (Buslaev et al. 2020)
PCA_STD = 0.1  # Krizhevsky et al. 2012, section 4.1
_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as Pillow's "L"


def draw_colour_jitter(key: Key[Array, ""], count: int, channels: int, strength: Strength) -> Float[Array, "count 3"]:
    """Factors of brightness, contrast and saturation, uniform on 1 +- 0.4 strength (S3:733)."""
    return 1 + JITTER_REACH * strength * symmetric(key, count * 3).reshape(count, 3)


def draw_rgb_shift(
    key: Key[Array, ""], count: int, channels: int, strength: Strength
) -> Float[Array, "count {channels}"]:
    """What is added to each channel, uniform on +- 20/255 strength (S4:627-629)."""
    return RGB_SHIFT_REACH * strength * symmetric(key, count * channels).reshape(count, channels)


def draw_pca_colour(
    key: Key[Array, ""], count: int, channels: int, strength: Strength
) -> Float[Array, "count {channels}"]:
    """Multiples of the principal components, normal with a standard deviation of 0.1 strength (S4:630-631)."""
    return PCA_STD * strength * jax.random.normal(key, (count * channels,)).reshape(count, channels)


def colour_jitter(images: Images, factors: Float[Array, "n 3"]) -> Images:
    """Brightness, then contrast, then saturation, each a mixture x f + y (1 - f), clipped to [0, 1].

    y is black for brightness, the image's mean grey for contrast and the pixel's grey for saturation. A grey
    image has no saturation to change. An image of neither 1 nor 3 channels has the mean of its channels as grey.
    """
    brightness, contrast, saturation = (factor[:, None, None, None] for factor in factors.T)
    images = jnp.clip(images * brightness, 0, 1)
    # Written so that a factor of 1 leaves every bit as it is.
    mean = _grey(images).mean((1, 2), keepdims=True)
    images = jnp.clip(images * contrast + mean * (1 - contrast), 0, 1)
    if images.shape[-1] == 1:
        return images
    return jnp.clip(images * saturation + _grey(images) * (1 - saturation), 0, 1)


def rgb_shift(images: Images, offsets: Float[Array, "n c"]) -> Images:
    """Adds an offset to each channel of each image."""
    return jnp.clip(images + offsets[:, None, None], 0, 1)


def pca_colour(images: Images, multiples: Float[Array, "n c"], basis: Float[Array, "c c"]) -> Images:
    """Adds sum_i a_i lambda_i p_i to every pixel of an image (Krizhevsky et al. 2012, section 4.1; S4:630-631).

    p_i and lambda_i are the eigenvectors and eigenvalues of the channels' covariance, in units where an image
    reaches from 0 to 1 (the formula is not the same in other units).

    Args:
      images: (N, H, W, C).
      multiples: (N, C), the a_i.
      basis: (C, C), whose columns are sqrt(lambda_i) p_i.
    """
    roots = jnp.sqrt((basis**2).sum(0))
    return rgb_shift(images, (basis * (multiples * roots)[:, None]).sum(-1))


def _grey(images):
    """(N, H, W, 1)."""
    weights = _LUMA if images.shape[-1] == 3 else [1 / images.shape[-1]] * images.shape[-1]
    return sum(images[..., i : i + 1] * weight for i, weight in enumerate(weights))
