"""Images in other sizes: nearest and bilinear resizing, and image pyramids.

All of it is linear in the image and separable, so it is done as two small matrix products, one along rows and one
along columns: quick on every device, and the gradient is two products more.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from cnnjax.ops.windows import Pair
from cnnjax.typing import UsageError

# Burt and Adelson 1983 (The Laplacian pyramid as a compact image code), section 2, with their a = 3/8: binomial.
PYRAMID_TAPS = (1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16)

Image = Float[Array, "n _ _ c"]  # of any height and width


def nearest(images: Image, size: Pair) -> Image:
    """Every new pixel is the old one that its centre lies in (S3:840-845).

    Pixel i of n covers i to i + 1, so new pixel j of m takes the old one floor((j + 1/2) n / m): PyTorch's
    ``nearest-exact``. (Its ``nearest`` takes floor(j n / m), which moves the picture unless m is a multiple of n.)

    Args:
      images: (N, H, W, C).
      size: rows, columns of the result.

    Raises:
      UsageError: an empty size.
    """
    return _resampled(images, size, lambda n, m: _at((2 * np.arange(m) + 1) * n // (2 * m), n))


def bilinear(images: Image, size: Pair, align_corners: bool = False) -> Image:
    """Every new pixel is the mean of the four nearest old ones, weighted by distance along each axis (S3:840-845).

    The centre of new pixel j of m lies at (j + 1/2) n / m, and the outermost old pixels go on beyond their centres:
    PyTorch's ``align_corners=False``. With ``align_corners`` the centres of the corner pixels stay where they are, and
    new pixel j lies at the old place j (n - 1) / (m - 1). A smaller result only samples: nothing is averaged away
    beforehand, as Pillow and ``weights.Preprocessing`` do.

    Args:
      images: (N, H, W, C).
      size: rows, columns of the result.
      align_corners: see above.

    Raises:
      UsageError: an empty size.
    """

    def weights(n: int, m: int) -> np.ndarray:
        places = np.arange(m) * (n - 1) / max(m - 1, 1) if align_corners else (np.arange(m) + 0.5) * n / m - 0.5
        return np.maximum(0, 1 - np.abs(np.clip(places, 0, n - 1)[:, None] - np.arange(n)))

    return _resampled(images, size, weights)


def gaussian_pyramid(images: Image, levels: int) -> list[Image]:
    """The images, and each level blurred and halved again (S3:176-180; Burt and Adelson 1983): ``levels`` in all.

    Args:
      images: (N, H, W, C).
      levels: from 1; level l has ceil(H / 2^l) rows and ceil(W / 2^l) columns.

    Raises:
      UsageError: fewer levels than 1, or more than halving a side to one pixel gives.
    """
    most = 1 + (max(images.shape[1:3]) - 1).bit_length()
    if not 1 <= levels <= most:
        raise UsageError(
            f"levels={levels}: images of {images.shape[1]}x{images.shape[2]} pixels have 1 to {most} levels, "
            "for the longer side is one pixel then."
        )
    pyramid = [images]
    for _ in range(levels - 1):
        pyramid.append(_resampled(pyramid[-1], _halved(pyramid[-1].shape), _reducing))
    return pyramid


def laplacian_pyramid(images: Image, levels: int) -> list[Image]:
    """What each level of the Gaussian pyramid has and the next one, enlarged, lacks; last the smallest level itself.

    Args and errors as for ``gaussian_pyramid``. ``reconstruct`` gives the images back.
    """
    pyramid = gaussian_pyramid(images, levels)
    details = (fine - _enlarged(coarse, fine.shape[1:3]) for fine, coarse in pairwise(pyramid))
    return [*details, pyramid[-1]]


def reconstruct(pyramid: Sequence[Image]) -> Image:
    """The images of a Laplacian pyramid, of any size: exact up to rounding.

    Raises:
      UsageError: no level, or one that is not half as large as the one before, rounded up.
    """
    if not pyramid:
        raise UsageError("A pyramid needs at least one level.")
    for level, (fine, coarse) in enumerate(pairwise(pyramid)):
        if coarse.shape[1:3] != _halved(fine.shape):
            raise UsageError(
                f"Level {level + 1} of the pyramid is {coarse.shape[1]}x{coarse.shape[2]}, but half of level {level} "
                f"({fine.shape[1]}x{fine.shape[2]}), rounded up, is {_halved(fine.shape)[0]}x{_halved(fine.shape)[1]}."
            )
    images = pyramid[-1]
    for detail in reversed(pyramid[:-1]):
        images = detail + _enlarged(images, detail.shape[1:3])
    return images


def _resampled(images: Image, size: Pair, weights: Callable[[int, int], np.ndarray]) -> Image:
    """Each axis times a matrix: ``weights(n, m)`` (m, n) says what of n old pixels is in each of m new ones."""
    if min(size) < 1:
        raise UsageError(f"size={tuple(size)} must be at least one row and one column.")
    rows, columns = (jnp.asarray(weights(n, m), images.dtype) for n, m in zip(images.shape[1:3], size, strict=True))
    return jnp.einsum("ah,bw,nhwc->nabc", rows, columns, images, precision="highest")


def _enlarged(images: Image, size: Pair) -> Image:
    """Burt and Adelson's EXPAND to twice the size, or one less."""
    return _resampled(images, size, _expanding)


def _halved(shape: Sequence[int]) -> Pair:
    return -(-shape[1] // 2), -(-shape[2] // 2)


def _reducing(n: int, m: int) -> np.ndarray:
    """(m, n): the five taps around every other pixel; the border's pixels are repeated."""
    places = 2 * np.arange(m)[:, None] + np.arange(-2, 3)
    return np.einsum("t,tmn->mn", PYRAMID_TAPS, [_at(column, n) for column in places.T])


def _expanding(n: int, m: int) -> np.ndarray:
    """(m, n): old pixel k stands at new place 2k, and twice the taps are laid on each, for every other one is empty."""
    total = np.zeros((m, n))
    for shift, tap in enumerate(PYRAMID_TAPS, start=-2):
        places = np.arange(m) - shift
        total += 2 * tap * ((places % 2 == 0)[:, None] * _at(places // 2, n))
    return total


def _at(places: np.ndarray, n: int) -> np.ndarray:
    """(m, n): 1 where new pixel j takes old pixel ``places[j]``, or the one at the border nearest to it."""
    return (np.clip(places, 0, n - 1)[:, None] == np.arange(n)).astype(np.float64)
