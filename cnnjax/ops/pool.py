"""Pooling over windows. Channels are pooled one by one; there is nothing to learn.

All reduce over shifted strided slices: the gradient of ``maximum`` over slices is about five
times faster on the CPU than the gradient of ``reduce_window``, and compiles to no scatter.
Where several entries share a window's maximum, its gradient is split between them.
"""

import math
from functools import reduce

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from cnnjax.ops.windows import Padding, Pair, explicit_padding, views
from cnnjax.typing import UsageError


def max_pool(
    images: Float[Array, "n h w c"],
    window: Pair = (2, 2),
    strides: Pair | None = None,
    padding: str | int | Padding = "VALID",
) -> Float[Array, "n h2 w2 c"]:
    """The largest value under each window (S2:69-86). Padding never wins.

    Args:
      images: (N, H, W, C).
      window: rows, columns.
      strides: the window by default, so that windows do not overlap.
      padding: as in ``ops.conv.conv``.

    Raises:
      UsageError: window larger than the padded input.
    """
    return reduce(jnp.maximum, _slices(images, window, strides or window, padding, -jnp.inf))


def average_pool(
    images: Float[Array, "n h w c"],
    window: Pair = (2, 2),
    strides: Pair | None = None,
    padding: str | int | Padding = "VALID",
) -> Float[Array, "n h2 w2 c"]:
    """The mean under each window (S3:194-202). Padding counts as zeros.

    Args and errors as for ``max_pool``.
    """
    return reduce(jnp.add, _slices(images, window, strides or window, padding, 0.0)) / (window[0] * window[1])


def blur_pool(images: Float[Array, "n h w c"], window: int = 3, strides: Pair = (2, 2)) -> Float[Array, "n h2 w2 c"]:
    """A binomial low-pass filter, then subsampling (Zhang 2019; S3:204-206).

    Window 3 is (1, 2, 1) / 4 along rows and columns. What is finer than the new grid is blurred away
    instead of being aliased, so that the output changes less when the image is shifted. The border is
    padded with its own pixels, so constant images stay constant.

    Args:
      images: (N, H, W, C).
      window: side of the filter, odd; 1 only subsamples.
      strides: rows, columns.

    Returns:
      (N, ceil(H / stride), ceil(W / stride), C).

    Raises:
      UsageError: the window is even or below 1.
    """
    if window < 1 or window % 2 == 0:
        raise UsageError(f"The window of a blur must be odd and at least 1, not {window}.")
    weights = [math.comb(window - 1, k) / 2 ** (window - 1) for k in range(window)]
    margin = (window // 2, window // 2)
    x = jnp.pad(images, ((0, 0), margin, margin, (0, 0)), mode="edge")
    for size, steps in (((window, 1), (strides[0], 1)), ((1, window), (1, strides[1]))):  # the filter is separable
        x = sum(weight * part for weight, part in zip(weights, _slices(x, size, steps, "VALID", 0.0), strict=True))
    return x


def adaptive_average_pool(images: Float[Array, "n h w c"], size: Pair) -> Float[Array, "n h2 w2 c"]:
    """The means of ``size`` (rows, columns) windows that cover the image, as PyTorch's AdaptiveAvgPool2d.

    Window i of n pixels and m windows reaches from floor(i n / m) to ceil((i + 1) n / m): windows overlap or
    repeat pixels where m does not divide n. Images of that size already stay as they are.
    """
    if images.shape[1:3] == tuple(size):
        return images
    rows, columns = (_adaptive_windows(images.shape[axis + 1], size[axis]) for axis in (0, 1))
    return jnp.einsum("ah,bw,nhwc->nabc", rows.astype(images.dtype), columns.astype(images.dtype), images)


def _adaptive_windows(pixels, windows):
    """(windows, pixels): the weight of each pixel in each window."""
    at, i = np.arange(pixels), np.arange(windows)[:, None]
    inside = (at >= i * pixels // windows) & (at < -(-(i + 1) * pixels // windows))
    return jnp.asarray(inside / inside.sum(1, keepdims=True), jnp.float32)


def ceil_padding(size: Pair, window: Pair, strides: Pair, padding: int = 0) -> Padding:
    """Padding with which the last window may hang over the edge: Caffe's rule, PyTorch's ``ceil_mode``.

    Args:
      size: rows, columns of the images.
      window, strides: of the pooling.
      padding: on all sides, before the overhang is added below and to the right.
    """
    pads = []
    for n, w, s in zip(size, window, strides, strict=True):
        count = -(-(n + 2 * padding - w) // s) + 1
        if (count - 1) * s >= n + padding:  # a window must not start beyond the image
            count -= 1
        pads.append((padding, max((count - 1) * s + w - n - padding, padding)))
    return pads[0], pads[1]


def _slices(images, window, strides, padding, fill):
    """One strided view of the padded images for each place in the window."""
    pads = explicit_padding(padding, images.shape[1:3], window, strides)
    padded = jnp.pad(images, ((0, 0), *pads, (0, 0)), constant_values=fill)
    return views(padded, window, strides)
