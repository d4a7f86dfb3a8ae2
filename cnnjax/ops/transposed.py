"""Transposed convolution (also upconvolution, fractionally strided, wrongly deconvolution) with 1 to 3 axes.

Two views give the same numbers (S0:597-657; S3:848-869; S4:975-1013). Stamping: every input value stamps the kernel,
times itself, into the output, ``stride`` apart, and overlapping stamps add up. Gathering: every output sums the
inputs whose stamps reach it, each times the tap that does; this is a convolution of the inputs with zeros between.

Sizes are PyTorch's: (n - 1) stride - low - high + dilation (k - 1) + 1 + output_padding. ``padding`` is what the
convolution in the other direction has, so here it cuts. Several sizes shrink to the same n with a stride above 1;
``output_padding`` tells which one is meant: further rows at the end.
"""

import math

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from cnnjax.ops.conv import LAYOUT, left_to_xla
from cnnjax.ops.correlate import VOLUMES, correlate
from cnnjax.ops.kernels import dilated, flipped
from cnnjax.ops.windows import Padding, Sizes, common_axes, each_axis, given_padding, spread
from cnnjax.typing import UsageError


def conv_transpose(
    images: Float[Array, "n *size c"],
    kernel: Float[Array, "*k ci o"],
    strides: int | Sizes = 1,
    padding: int | Padding = 0,
    output_padding: int | Sizes = 0,
    dilation: int | Sizes = 1,
    groups: int = 1,
) -> Float[Array, "n *size2 o2"]:
    """Transposed convolution: stamped where no two stamps meet, else gathered.

    With both gradients on one CPU core, batch 8, 64 to 32 channels, 32x32 to 64x64 pixels, float32: kernel 2 and
    stride 2 take 5 ms stamped and 6 gathered, kernel 4 and stride 2 take 47 ms stamped and 29 gathered. A convolution
    of the image with zeros between its pixels takes 71 and 360.

    Args:
      images: (N, *size, C).
      kernel: (*k, C, O / groups), stamped as it is.
      strides: distance of neighbouring stamps; one number, or one for each axis.
      padding: pixels cut from all sides, or (low, high) for each axis.
      output_padding: further pixels at the end; one number, or one for each axis.
      dilation: spacing of the kernel's taps; one number, or one for each axis.
      groups: channels are split into this many independent groups.

    Returns:
      (N, *size', O) with size' = (size - 1) stride - low - high + dilation (k - 1) + 1 + output_padding.

    Raises:
      UsageError: images and kernel of different or too many axes, channels that do not match, strides or dilation
        below 1, negative padding, output padding that is neither below the stride nor below the dilation, or an
        output of no pixels.
    """
    steps, spacing, low, size = _geometry(images, kernel, strides, padding, output_padding, dilation, groups)
    if left_to_xla():
        return _left_to_xla(images, kernel, steps, spacing, low, size, groups)
    apart = all(d * (k - 1) < s for k, s, d in zip(kernel.shape, steps, spacing, strict=False))
    view = by_stamping if apart else by_gathering
    return view(images, kernel, strides, padding, output_padding, dilation, groups)


def by_stamping(
    images: Float[Array, "n *size c"],
    kernel: Float[Array, "*k ci o"],
    strides: int | Sizes = 1,
    padding: int | Padding = 0,
    output_padding: int | Sizes = 0,
    dilation: int | Sizes = 1,
    groups: int = 1,
) -> Float[Array, "n *size2 o2"]:
    """All stamps in one matrix product, added where they overlap. As ``conv_transpose``.

    A kernel of r strides (filled up with zeros) is r blocks of one stride each. Block m of the stamp at position y
    lies in row y + m of a grid of blocks, so that overlapping stamps are r shifted sums of whole blocks.
    """
    steps, spacing, low, size = _geometry(images, kernel, strides, padding, output_padding, dilation, groups)
    axes = len(steps)
    blocks = _in_blocks(dilated(kernel, spacing), steps)  # (r, s) for each axis, C, O / groups
    places, (channels, features) = blocks.shape[:-2], blocks.shape[-2:]
    weights = jnp.moveaxis(blocks.reshape(-1, channels, features), 0, 1).reshape(groups, channels // groups, -1)
    rows = images.reshape(-1, groups, channels // groups)
    # One group as a batch of one would miss XLA's fast product, and take twice as long.
    stamps = rows[:, 0] @ weights[0] if groups == 1 else jnp.einsum("pgc,gcq->pgq", rows, weights)
    stamps = stamps.reshape(*images.shape[:-1], groups, *places, features)
    stamps = jnp.moveaxis(stamps, axes + 1, -2)
    for axis in reversed(range(axes)):
        stamps = _overlapped(stamps, axis + 1, 1 + axes + 2 * axis)
    return _interleaved(stamps, steps, low, size)


def by_gathering(
    images: Float[Array, "n *size c"],
    kernel: Float[Array, "*k ci o"],
    strides: int | Sizes = 1,
    padding: int | Padding = 0,
    output_padding: int | Sizes = 0,
    dilation: int | Sizes = 1,
    groups: int = 1,
) -> Float[Array, "n *size2 o2"]:
    """One convolution in which every output gathers what reaches it. As ``conv_transpose``.

    Outputs a stride apart gather through the same taps, every stride-th one of the kernel, in turned order. So the
    s outputs of a stride are channels of one convolution with ceil(k / s) taps, and are then laid side by side
    (sub-pixel convolution; Shi et al. 2016, arXiv:1609.07009). That is the convolution of the images with s - 1
    zeros between their pixels, without the multiplications by zero.
    """
    steps, spacing, low, size = _geometry(images, kernel, strides, padding, output_padding, dilation, groups)
    axes = len(steps)
    # Where the stride is 1 the convolution can be dilated; else the taps of one output are not evenly spaced.
    within = tuple(d if s > 1 else 1 for d, s in zip(spacing, steps, strict=True))
    outside = tuple(1 if s > 1 else d for d, s in zip(spacing, steps, strict=True))
    blocks = _in_blocks(dilated(kernel, within), steps)
    taps, lanes, (channels, features) = blocks.shape[: 2 * axes : 2], blocks.shape[1 : 2 * axes : 2], blocks.shape[-2:]
    # (r of each axis, s of each axis, groups, C / groups, O / groups), then the groups and s behind the channels.
    weights = blocks.transpose(*range(0, 2 * axes, 2), *range(1, 2 * axes, 2), -2, -1)
    weights = weights.reshape(*taps, math.prod(lanes), groups, channels // groups, features)
    weights = jnp.moveaxis(weights, axes, -2).swapaxes(axes, axes + 1)
    weights = weights.reshape(*taps, channels // groups, -1)
    reach = tuple((d * (r - 1), d * (r - 1)) for r, d in zip(taps, outside, strict=True))
    out = correlate(images, flipped(weights), 1, reach, outside, groups)
    out = out.reshape(*out.shape[:-1], groups, *lanes, features)
    return _interleaved(jnp.moveaxis(out, axes + 1, -2), steps, low, size)


def _geometry(images, kernel, strides, padding, output_padding, dilation, groups):
    """Strides, dilation, what is cut at the low end and the output's size, for each axis."""
    axes = common_axes(images.shape, kernel.shape)
    channels, fan_in = images.shape[-1], kernel.shape[-2]
    if groups < 1 or channels != fan_in or channels % groups:
        raise UsageError(
            f"{channels} input channels in {groups} groups need {channels} input channels in the kernel and a number "
            f"of groups that divides them; the kernel has {fan_in}."
        )
    each_axis("kernel", kernel.shape[:-2], axes)
    steps, spacing = each_axis("strides", strides, axes), each_axis("dilation", dilation, axes)
    pads, further = given_padding(padding, axes, ""), each_axis("output padding", output_padding, axes, 0)
    size = []
    for n, k, s, d, (low, high), p in zip(images.shape[1:], kernel.shape, steps, spacing, pads, further, strict=False):
        if p >= max(s, d):
            raise UsageError(
                f"The output padding must be below the stride or the dilation, but {p} >= max({s}, {d}): "
                f"a convolution with these would not shrink the output to {n}."
            )
        size.append((n - 1) * s - low - high + d * (k - 1) + 1 + p)
        if size[-1] < 1:
            raise UsageError(
                f"The output has (n - 1) s - p + d (k - 1) + 1 + output padding = {n - 1} * {s} - {low + high} + "
                f"{d} * {k - 1} + 1 + {p} = {size[-1]} pixels. Use less padding."
            )
    return steps, spacing, [low for low, _ in pads], size


def _left_to_xla(images, kernel, strides, dilation, low, size, groups):
    """One ``conv_general_dilated`` of the images with zeros between their pixels."""
    pads = []
    for n, k, s, d, cut, out in zip(images.shape[1:], kernel.shape, strides, dilation, low, size, strict=False):
        margin = d * (k - 1) - cut
        pads.append((margin, out + d * (k - 1) - ((n - 1) * s + 1) - margin))
    *taps, channels, features = kernel.shape
    whole = jnp.moveaxis(kernel.reshape(*taps, groups, channels // groups, features), -3, -2)
    whole = whole.reshape(*taps, channels // groups, groups * features)
    ones = (1,) * len(taps)
    layout = {1: ("NWC", "WIO", "NWC"), 2: LAYOUT, 3: VOLUMES}[len(taps)]
    return lax.conv_general_dilated(
        images, flipped(whole), ones, pads, strides, dilation, layout, feature_group_count=groups
    )


def _in_blocks(kernel, strides):
    """(r, s) instead of each axis: the kernel filled up with zeros to r = ceil(k / s) blocks of s taps."""
    counts = [-(-k // s) for k, s in zip(kernel.shape, strides, strict=False)]
    ends = [(0, r * s - k) for r, s, k in zip(counts, strides, kernel.shape, strict=False)]
    shape = [side for pair in zip(counts, strides, strict=True) for side in pair]
    return jnp.pad(kernel, (*ends, (0, 0), (0, 0))).reshape(*shape, *kernel.shape[-2:])


def _overlapped(stamps, axis, blocks):
    """Sums the stamps of all positions along ``axis`` into one line of blocks; the axis ``blocks`` goes."""
    count, total = stamps.shape[blocks], 0.0
    for m in range(count):
        margins = [(0, 0)] * (stamps.ndim - 1)
        margins[axis] = (m, count - 1 - m)
        total += jnp.pad(lax.index_in_dim(stamps, m, blocks, keepdims=False), margins)
    return total


def _interleaved(blocks, strides, low, size):
    """(N, *size, O) from (N, a grid of blocks, the pixels of a block, groups, O / groups): laid out and cut."""
    axes = len(strides)
    order = [place for axis in range(axes) for place in (1 + axis, 1 + axes + axis)]
    rows = [n * s for n, s in zip(blocks.shape[1:], strides, strict=False)]
    whole = blocks.transpose(0, *order, -2, -1).reshape(len(blocks), *rows, blocks.shape[-2] * blocks.shape[-1])
    return spread(whole, [(-cut, cut + n - row, 0) for cut, n, row in zip(low, size, rows, strict=True)])
