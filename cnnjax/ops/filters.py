"""Filters made by hand: the classic ones of image processing, and Gabor's.

The lectures print delete, identity, shift left (S1:385-465), the edge detectors called Prewitt's here (S4:106-125),
Sobel's and Scharr's (S4:130-143). Of sharpen, edge and strong edge they show the results, and the masks are lost from
their text (S1:360-372): the ones here are the usual.
"""

import math
from types import MappingProxyType

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32

from cnnjax.ops.conv import conv
from cnnjax.ops.windows import Padding, Pair
from cnnjax.typing import UsageError

# The envelope's standard deviation in wavelengths at which the filter's half-height band is one octave wide:
# sqrt(ln 2 / 2) / pi * (2 + 1) / (2 - 1), that of cells of the visual cortex (Daugman 1985).
OCTAVE = math.sqrt(math.log(2) / 2) / math.pi * 3


def _filter(*rows: tuple[float, ...], divisor: float = 1) -> Float32[np.ndarray, "kh kw"]:
    made = np.array(rows, np.float32) / np.float32(divisor)
    made.setflags(write=False)
    return made


def _edges(name: str, *weights: float) -> dict[str, Float32[np.ndarray, "3 3"]]:
    """Detectors of edges, positive where it is bright on the left, or above; the weights are those along the edge."""
    vertical = _filter(*((weight, 0, -weight) for weight in weights))
    horizontal = _filter(weights, (0, 0, 0), tuple(-weight for weight in weights))
    return {f"{name}_vertical": vertical, f"{name}_horizontal": horizontal}


FILTERS = MappingProxyType(
    {
        "identity": _filter((0, 0, 0), (0, 1, 0), (0, 0, 0)),
        "delete": _filter((0, 0, 0), (0, 0, 0), (0, 0, 0)),
        # Each pixel takes the value of its right neighbour, so the picture moves to the left.
        "shift_left": _filter((0, 0, 0), (0, 0, 1), (0, 0, 0)),
        "shift_right": _filter((0, 0, 0), (1, 0, 0), (0, 0, 0)),
        "shift_up": _filter((0, 0, 0), (0, 0, 0), (0, 1, 0)),
        "shift_down": _filter((0, 1, 0), (0, 0, 0), (0, 0, 0)),
        "sharpen": _filter((0, -1, 0), (-1, 5, -1), (0, -1, 0)),  # identity + edge
        "edge": _filter((0, -1, 0), (-1, 4, -1), (0, -1, 0)),
        "strong_edge": _filter((-1, -1, -1), (-1, 8, -1), (-1, -1, -1)),
        # The sum of both second differences; S0:622-624 has its negative, which is "edge" here.
        "laplacian": _filter((0, 1, 0), (1, -4, 1), (0, 1, 0)),
        "box_blur": _filter((1, 1, 1), (1, 1, 1), (1, 1, 1), divisor=9),
        "binomial_blur": _filter((1, 2, 1), (2, 4, 2), (1, 2, 1), divisor=16),  # S3:204-206
        **_edges("prewitt", 1, 1, 1),
        **_edges("sobel", 1, 2, 1),
        **_edges("scharr", 3, 10, 3),
    }
)


def filtered(
    images: Float[Array, "n h w c"], kernel: Float[np.ndarray | Array, "kh kw"], padding: str | int | Padding = "SAME"
) -> Float[Array, "n h2 w2 c"]:
    """One filter laid over every channel by itself: cross-correlation, so the kernel is not flipped.

    Args:
      images: (N, H, W, C).
      kernel: (kh, kw), such as ``FILTERS["sobel_vertical"]``.
      padding: as in ``ops.conv.conv``; zeros move in.

    Raises:
      UsageError: as ``conv``.
    """
    channels = images.shape[-1]
    repeated = jnp.broadcast_to(jnp.asarray(kernel, images.dtype)[:, :, None, None], (*kernel.shape, 1, channels))
    return conv(images, repeated, padding=padding, groups=channels)


def gabor(
    size: int | Pair,
    wavelength: float,
    orientation: float,
    phase: float = 0.0,
    sigma: float | None = None,
    aspect: float = 1.0,
) -> Float32[np.ndarray, "kh kw"]:
    """A Gabor function, a wave under a Gaussian: what fits Hubel and Wiesel's oriented cells (S3:415-436).

    exp(-(u² + aspect² v²) / (2 sigma²)) cos(2 pi u / wavelength + phase), where (u, v) are the pixels' coordinates
    along the wave and across it, from the middle of the filter.

    Args:
      size: side of the filter in pixels, or rows and columns.
      wavelength: of the wave, in pixels; below 2 the pixels are too few to show it.
      orientation: of the direction in which the wave goes, in radians, anticlockwise from the right: 0 makes upright
        stripes.
      phase: in radians; 0 is even (a line), ±pi/2 odd (an edge).
      sigma: standard deviation of the Gaussian along the wave, in pixels; by default that of one octave's bandwidth,
        0.56 wavelengths.
      aspect: how many times narrower the Gaussian is across the wave.

    Returns:
      (rows, columns); its peak is 1 and its sum in general not 0.

    Raises:
      UsageError: a size below 1, or a length or aspect that is not above 0.
    """
    rows, columns = (size, size) if isinstance(size, int) else size
    sigma = OCTAVE * wavelength if sigma is None else sigma
    if min(rows, columns) < 1:
        raise UsageError(f"A filter of {rows}x{columns} pixels is empty. Use a size of at least 1.")
    for name, value in {"wavelength": wavelength, "sigma": sigma, "aspect": aspect}.items():
        if not (value > 0 and math.isfinite(value)):
            raise UsageError(f"{name}={value} of a Gabor function must be above 0.")
    y, x = np.mgrid[:rows, :columns]
    found = wave((rows - 1) / 2 - y, x - (columns - 1) / 2, wavelength, orientation, phase, sigma, aspect)
    return found.astype(np.float32)


def wave(up, right, wavelength, orientation, phase, sigma, aspect) -> np.ndarray:
    """The Gabor function at places relative to its centre; all arguments are arrays or numbers that broadcast."""
    along = np.cos(orientation) * right + np.sin(orientation) * up
    across = np.cos(orientation) * up - np.sin(orientation) * right
    envelope = np.exp(-(along**2 + (aspect * across) ** 2) / (2 * sigma**2))
    return envelope * np.cos(2 * np.pi * along / wavelength + phase)
