"""How often pixels are read and written: counts of paths through stacks of windows, along one axis.

Nothing here depends on weights. Every count is the response of windows of ones, so along two axes it is the product
of the counts along each: ``numpy.outer(counts, counts)``.
"""

from collections.abc import Sequence

import numpy as np

from cnnjax.ops.windows import output_size
from cnnjax.typing import UsageError

Counts = np.ndarray  # (length,) int64


def overlap_counts(size: int, kernel: int, stride: int, padding: int = 0, output_padding: int = 0) -> Counts:
    """How often each output of a transposed convolution is written (Odena et al. 2016; S3:866-879).

    Kernel 3 and stride 2 give 1, 1, 2, 1, 2, ..., 1, 1: every second output gets twice as many summands, a
    checkerboard along two axes. Away from the border the counts are even where the stride divides the kernel.

    Args:
      size: inputs.
      kernel, stride: of the convolution.
      padding: outputs cut off at both ends.
      output_padding: outputs added at the high end.

    Returns:
      ((size - 1) stride + kernel - 2 padding + output_padding,).

    Raises:
      UsageError: a number below 1, an output padding not below the stride, or nothing is left.
    """
    _check(size=size, kernel=kernel, stride=stride)
    if not 0 <= output_padding < stride:
        raise UsageError(f"output_padding={output_padding} must be from 0 to stride - 1 = {stride - 1}.")
    length = (size - 1) * stride + kernel - 2 * padding + output_padding
    if padding < 0 or length < 1:
        raise UsageError(
            f"(n - 1) s + k - 2 p + output padding = ({size} - 1) {stride} + {kernel} - 2 * {padding} + "
            f"{output_padding} = {length} outputs are left. Use a padding from 0 on that leaves some."
        )
    written = np.zeros(max(length + padding, (size - 1) * stride + kernel), np.int64)
    for start in range(0, size * stride, stride):
        written[start : start + kernel] += 1
    return written[padding : padding + length]


def gathered_counts(inputs: int, outputs: int, kernel: int, spread: int, low: int, dilation: int = 1) -> Counts:
    """How many inputs each output of a convolution reads, whose inputs stand ``spread`` apart with zeros between them.

    That is a transposed convolution of stride ``spread`` as its program has it.

    Args:
      inputs, outputs: their numbers.
      kernel, dilation: of the convolution, whose stride is 1.
      low: zeros before the first input; negative where inputs are cut off.

    Returns:
      (outputs,).
    """
    places = np.arange(outputs)[:, None] + dilation * np.arange(kernel) - low
    return ((places % spread == 0) & (places >= 0) & (places <= (inputs - 1) * spread)).sum(1)


def tap_counts(kernels: Sequence[int], dilations: Sequence[int] | None = None) -> Counts:
    """By how many paths the unit in the middle reads each pixel of its receptive field, without strides.

    Two layers of kernel 3 and dilation 2 give 1 0 2 0 3 0 2 0 1: every second pixel is not read at all, and the
    neighbouring unit reads just those (gridding; Wang et al. 2018, arXiv:1702.08502; S1:1138-1139).

    Args:
      kernels: side of each layer's kernel, from the first layer on.
      dilations: spacing of each layer's taps; 1 everywhere by default.

    Returns:
      (1 + Σ (kernel - 1) dilation,): one count for each pixel from one end of the receptive field to the other.

    Raises:
      UsageError: a number below 1, or not one dilation for each kernel.
    """
    counts = np.ones(1, np.int64)
    for kernel, dilation in _pairs("dilations", kernels, dilations):
        counts = np.convolve(counts, _taps(kernel, dilation))
    return counts


def border_counts(
    size: int, kernels: Sequence[int], strides: Sequence[int] | None = None, dilations: Sequence[int] | None = None
) -> Counts:
    """By how many paths each pixel reaches the outputs of a stack without padding (S4:164-165).

    One layer of kernel 3 on 6 pixels gives 1 2 3 3 2 1: the border counts least, and in a corner of a picture a
    pixel is read once where one in the middle is read nine times.

    Args:
      size: pixels.
      kernels, strides, dilations: of each layer, from the first on; strides and dilations are 1 by default.

    Returns:
      (size,).

    Raises:
      UsageError: a number below 1, lists of different lengths, or a kernel larger than what reaches it.
    """
    _check(size=size)
    layers = list(zip(_pairs("strides", kernels, strides), _pairs("dilations", kernels, dilations), strict=True))
    sizes = [size]
    for number, ((kernel, stride), (_, dilation)) in enumerate(layers, start=1):
        extent = (kernel - 1) * dilation + 1
        if extent > sizes[-1]:
            raise UsageError(
                f"The kernel of layer {number} covers (k - 1) d + 1 = ({kernel} - 1) {dilation} + 1 = {extent} pixels, "
                f"but only {sizes[-1]} reach it. Use more pixels or fewer layers."
            )
        sizes.append(output_size(sizes[-1], extent, 0, stride))
    counts = np.ones(sizes.pop(), np.int64)
    for ((kernel, stride), (_, dilation)), reached in zip(reversed(layers), reversed(sizes), strict=True):
        spread = np.zeros((len(counts) - 1) * stride + 1, np.int64)
        spread[::stride] = counts
        spread = np.convolve(spread, _taps(kernel, dilation))
        counts = np.pad(spread, (0, reached - len(spread)))
    return counts


def _taps(kernel, dilation):
    taps = np.zeros((kernel - 1) * dilation + 1, np.int64)
    taps[::dilation] = 1
    return taps


def _pairs(name, kernels, others):
    others = [1] * len(kernels) if others is None else list(others)
    if len(others) != len(kernels):
        raise UsageError(f"{len(kernels)} kernels need as many {name}, not {len(others)}.")
    for kernel, other in zip(kernels, others, strict=True):
        _check(kernel=kernel, **{name: other})
    return list(zip(kernels, others, strict=True))


def _check(**numbers):
    for name, number in numbers.items():
        if number < 1:
            raise UsageError(f"{name} must be at least 1, not {number}.")
