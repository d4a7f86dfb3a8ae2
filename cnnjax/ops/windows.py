"""Where the windows of convolutions and of pooling lie on their signals, and what they read there.

Nothing here is about two axes only: signals are (N, *size, C) with one, two or three axes between.
"""

import itertools
from collections.abc import Sequence

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Num

from cnnjax.typing import UsageError

Pair = tuple[int, int]
Sizes = tuple[int, ...]  # one number for each axis
Padding = tuple[Pair, ...]  # low and high for each axis
AXES = (1, 2, 3)


def geometry(
    signals: Sizes,
    kernel: Sizes,
    strides: int | Sizes,
    padding: str | int | Padding,
    dilation: int | Sizes,
    groups: int,
) -> tuple[Sizes, Padding, Sizes]:
    """Strides, explicit padding and dilation for every axis of a convolution whose arguments fit together.

    Args:
      signals, kernel: their shapes, (N, *size, C) and (*k, C / groups, O).

    Raises:
      UsageError: signals and kernel of different or too many axes, a kernel larger than the padded input, channels
        that do not match the groups, strides or dilation below 1, or negative padding.
    """
    axes = common_axes(signals, kernel)
    channels, (fan_in, features) = signals[-1], kernel[-2:]
    if groups < 1 or channels != fan_in * groups or features % groups:
        raise UsageError(
            f"{channels} input channels with {groups} groups need a kernel of {channels}/{groups} input channels "
            f"and a multiple of {groups} output channels, not {fan_in} and {features}."
        )
    strides, dilation = each_axis("strides", strides, axes), each_axis("dilation", dilation, axes)
    return strides, explicit_padding(padding, signals[1:-1], kernel[:-2], strides, dilation), dilation


def common_axes(signals: Sizes, kernel: Sizes) -> int:
    """How many axes lie between the first and the last of the signals, and before the last two of the kernel.

    Raises:
      UsageError: they differ, or are not 1 to 3.
    """
    if len(signals) != len(kernel) or len(signals) - 2 not in AXES:
        raise UsageError(
            f"Signals (batch, *size, channels) and a kernel (*k, channels, channels) have the same {AXES[0]} to "
            f"{AXES[-1]} axes of space, but the shapes are {signals} and {kernel}."
        )
    return len(signals) - 2


def each_axis(name: str, value: int | Sequence[int], axes: int, least: int = 1) -> Sizes:
    """``value`` for every axis; one number stands for all.

    Raises:
      UsageError: values for another number of axes, or one below ``least``.
    """
    values = (value,) * axes if isinstance(value, int) else tuple(value)
    if len(values) != axes:
        raise UsageError(f"The {name} must be one number or {axes}, one for each axis, not {value}.")
    if min(values) < least:
        raise UsageError(f"The {name} must be at least {least}, not {value}.")
    return values


def explicit_padding(
    padding: str | int | Padding, size: Sizes, kernel: Sizes, strides: Sizes, dilation: Sizes | None = None
) -> Padding:
    """``((top, bottom), (left, right))`` for "VALID", "SAME" (as in TensorFlow), a number or pairs.

    Raises:
      UsageError: unknown name, negative padding, a kernel, strides or dilation below 1 or for another number of
        axes, or a dilated kernel larger than the padded input.
    """
    kernel = each_axis("kernel or window", kernel, len(size))
    strides = each_axis("strides", strides, len(size))
    dilation = each_axis("dilation", 1 if dilation is None else dilation, len(size))
    extents = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
    if padding == "SAME":
        totals = [max((-(-n // s) - 1) * s + e - n, 0) for n, e, s in zip(size, extents, strides, strict=True)]
        pads = tuple((total // 2, -(-total // 2)) for total in totals)
    else:
        pads = given_padding(0 if padding == "VALID" else padding, len(size))
    for n, (low, high), extent in zip(size, pads, extents, strict=True):
        if n + low + high < extent:
            raise UsageError(
                f"The kernel covers {extent} pixels but the padded input has n + p = {n} + {low + high} = "
                f"{n + low + high}. Use larger images, more padding or a smaller kernel."
            )
    return pads


def given_padding(padding: str | int | Padding, axes: int, names: str = "'SAME', 'VALID', ") -> Padding:
    """(low, high) for every axis from a number or from pairs.

    Args:
      names: of the paddings that the caller knows by name, for the message.

    Raises:
      UsageError: a name, negative padding, or pairs for another number of axes.
    """
    if isinstance(padding, str):
        raise UsageError(f"Unknown padding {padding!r}. Choices: {names}a number, or {axes} pairs.")
    pads = ((padding, padding),) * axes if isinstance(padding, int) else tuple((low, high) for low, high in padding)
    if len(pads) != axes:
        raise UsageError(f"The padding must be one number or {axes} pairs, one for each axis, not {padding}.")
    if min(itertools.chain(*pads)) < 0:
        raise UsageError(f"Padding must not be negative, but it is {padding}. Cut the images instead.")
    return pads


def output_size(n: int, f: int, p: int, s: int) -> int:
    """floor((n + 2p - f) / s) + 1 (S4:272; the form printed at S4:204 is wrong)."""
    return (n + 2 * p - f) // s + 1


def valid_sizes(size: Sizes, kernel: Sizes, strides: Sizes, dilation: Sizes) -> Sizes:
    """Positions at which a kernel lies wholly inside the (padded) signals, for each axis."""
    return tuple(
        output_size(n, (k - 1) * d + 1, 0, s) for n, k, s, d in zip(size, kernel, strides, dilation, strict=True)
    )


def views(
    images: Num[Array, "n *size c"], size: Sizes, strides: Sizes | None = None, dilation: Sizes | None = None
) -> list[Num[Array, "n *size2 c"]]:
    """For each place in the window, row by row, what lies there when the window stands at every VALID position."""
    strides, dilation = strides or (1,) * len(size), dilation or (1,) * len(size)
    counts = valid_sizes(images.shape[1:-1], size, strides, dilation)
    reads = [
        [slice(place, place + (count - 1) * s + 1, s) for place in range(0, k * d, d)]
        for count, k, s, d in zip(counts, size, strides, dilation, strict=True)
    ]
    return [images[:, *place] for place in itertools.product(*reads)]


def spread(images: Float[Array, "n *size c"], margins: Sequence[tuple[int, int, int]]) -> Float[Array, "n *size2 c"]:
    """Padding every axis (low, high; cuts where negative), with ``interior`` zeros between neighbours."""
    return lax.pad(images, jnp.zeros((), images.dtype), ((0, 0, 0), *margins, (0, 0, 0)))
