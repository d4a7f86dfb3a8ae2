"""Pooling over windows. Channels are pooled one by one; there is nothing to learn.

All reduce over shifted strided slices: the gradient of ``maximum`` over slices is about five
times faster on the CPU than the gradient of ``reduce_window``, and compiles to no scatter.
Where several entries share a window's maximum, its gradient is split between them.
"""

import math
from functools import reduce

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int32

from cnnjax.ops.windows import Padding, Pair, each_axis, explicit_padding, views
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


def max_pool_with_indices(
    images: Float[Array, "n h w c"],
    window: Pair = (2, 2),
    strides: Pair | None = None,
    padding: str | int | Padding = "VALID",
) -> tuple[Float[Array, "n h2 w2 c"], Int32[Array, "n h2 w2 c"]]:
    """``max_pool``, and where each maximum was (SegNet; S3:914-930).

    The first of equal maxima wins, and the whole gradient goes there (S3:302). NaN is larger than every number.

    Args:
      images: (N, H, W, C).
      window, strides, padding: as for ``max_pool``.

    Returns:
      The values and their indices, row · W + column of the images without padding, as PyTorch's; both
      (N, H', W', C).

    Raises:
      UsageError: window larger than the padded input, or so much padding that a window holds nothing else.
    """
    steps = strides or window
    pads = explicit_padding(padding, images.shape[1:3], window, steps)
    _every_window_reads(images.shape[1:3], window, steps, pads)
    plane = jnp.arange(math.prod(images.shape[1:3]), dtype=jnp.int32).reshape(1, *images.shape[1:3], 1)
    places = views(lax.pad(plane, -1, ((0, 0, 0), *((*pad, 0) for pad in pads), (0, 0, 0))), window, steps)
    parts = _slices(images, window, steps, padding, -jnp.inf)
    largest, at = parts[0], jnp.broadcast_to(places[0], parts[0].shape)
    for part, place in zip(parts[1:], places[1:], strict=True):
        # An index below 0 is padding's, which even minus infinity beats.
        better = (place >= 0) & ((part > largest) | jnp.isnan(part) | (at < 0))
        largest, at = jnp.where(better, part, largest), jnp.where(better, place, at)
    return largest, at


def max_unpool(
    values: Float[Array, "n h w c"], indices: Int32[Array, "n h w c"], size: Pair
) -> Float[Array, "n h2 w2 c"]:
    """Puts values back where ``max_pool_with_indices`` took them from, among zeros (SegNet; S3:914-930).

    An index that occurs twice in a plane, as windows that overlap give it, is written once: with one of its values.

    Args:
      values: (N, h, w, C).
      indices: row · W + column of each value.
      size: H, W of the result.

    Returns:
      (N, H, W, C).

    Raises:
      UsageError: a size below 1, or indices outside it. Traced indices cannot be looked at, and are left out there.
    """
    height, width = each_axis("size", size, 2)
    if not isinstance(indices, jax.core.Tracer) and indices.size:
        low, high = int(indices.min()), int(indices.max())
        if low < 0 or high >= height * width:
            raise UsageError(
                f"Indices must be from 0 to H W - 1 = {height} * {width} - 1 = {height * width - 1}, but they are "
                f"from {low} to {high}. Give the size of the images that were pooled."
            )
    count, *_, channels = values.shape
    planes = jnp.zeros((count, height * width, channels), values.dtype)
    at = jnp.arange(count)[:, None, None, None], indices, jnp.arange(channels)
    planes = planes.at[at].set(values, mode="drop", wrap_negative_indices=False)
    return planes.reshape(count, height, width, channels)


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


def _every_window_reads(size, window, strides, pads):
    """Raises where a window would hold nothing but padding."""
    for n, w, s, (low, high) in zip(size, window, strides, pads, strict=True):
        last = (n + low + high - w) // s * s - low
        if low >= w or last >= n:
            raise UsageError(
                f"A window of {w} would hold only padding: with padding {low} and {high}, stride {s} and {n} pixels "
                f"the first window ends before pixel {w - low} and the last begins at {last}. Use less padding."
            )


def _slices(images, window, strides, padding, fill):
    """One strided view of the padded images for each place in the window."""
    pads = explicit_padding(padding, images.shape[1:3], window, strides)
    padded = jnp.pad(images, ((0, 0), *pads, (0, 0)), constant_values=fill)
    return views(padded, window, strides)
