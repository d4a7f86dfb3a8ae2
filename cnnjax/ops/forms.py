"""Other ways to compute ``ops.correlate.correlate``: as one matrix, as a product of patches, by Fourier transform.

All give the same numbers up to rounding, for signals with one, two or three axes, and take and refuse the same
arguments. ``correlate`` itself chooses what is fastest; for large kernels that is ``by_fft``.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from cnnjax.ops.conv import conv_as_matrix, convolution_matrix, patches
from cnnjax.ops.fourier import by_fft
from cnnjax.ops.kernels import dense
from cnnjax.ops.windows import Padding, Sizes, geometry, spread

__all__ = ["by_fft", "by_matrix", "by_patches", "matrix"]


def matrix(
    kernel: Float[Array, "*k ci o"],
    size: Sizes,
    strides: int | Sizes = 1,
    padding: str | int | Padding = "SAME",
    dilation: int | Sizes = 1,
    groups: int = 1,
) -> Float[Array, "inputs outputs"]:
    """The matrix M with vec(signals) M = vec(correlate(signals, kernel)) (S0:213-215; S2:256-265).

    Its transpose is the lectures' C, with a row for each output. For one channel and one axis it is Toeplitz: the
    same number along each diagonal. The backward pass multiplies by the transpose of the forward pass's matrix.

    Args:
      kernel: (*k, C / groups, O).
      size: of the signals, for each axis.
      strides, padding, dilation, groups: as for ``correlate``.

    Returns:
      (size · C, size' · O), mostly zeros.

    Raises:
      UsageError: as ``correlate``.
    """
    shape = (1, *size, kernel.shape[-2] * groups)
    steps, pads, spacing = geometry(shape, kernel.shape, strides, padding, dilation, groups)
    return convolution_matrix(dense(kernel, groups), size, steps, pads, spacing)


def by_matrix(
    signals: Float[Array, "n *size c"],
    kernel: Float[Array, "*k ci o"],
    strides: int | Sizes = 1,
    padding: str | int | Padding = "SAME",
    dilation: int | Sizes = 1,
    groups: int = 1,
) -> Float[Array, "n *size2 o"]:
    """One product with the whole ``matrix``. Arguments, result and errors as for ``correlate``."""
    strides, pads, dilation = geometry(signals.shape, kernel.shape, strides, padding, dilation, groups)
    return conv_as_matrix(signals, dense(kernel, groups), strides, pads, dilation)


def by_patches(
    signals: Float[Array, "n *size c"],
    kernel: Float[Array, "*k ci o"],
    strides: int | Sizes = 1,
    padding: str | int | Padding = "SAME",
    dilation: int | Sizes = 1,
    groups: int = 1,
) -> Float[Array, "n *size2 o"]:
    """im2col: what lies under the kernel, as rows, times the kernel as a matrix (S3:297).

    Arguments, result and errors as for ``correlate``. The rows hold every value as often as the kernel has taps.
    """
    strides, pads, dilation = geometry(signals.shape, kernel.shape, strides, padding, dilation, groups)
    *size, fan_in, features = kernel.shape
    rows = patches(spread(signals, [(*pad, 0) for pad in pads]), tuple(size), strides, dilation)
    if groups == 1:
        return rows @ kernel.reshape(-1, features)
    apart = rows.reshape(*rows.shape[:-1], -1, groups, fan_in)
    out = jnp.einsum("...tgc,tcgo->...go", apart, kernel.reshape(-1, fan_in, groups, features // groups))
    return out.reshape(*rows.shape[:-1], features)
