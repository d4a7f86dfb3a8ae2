"""Other ways to compute ``ops.correlate.correlate``: as one matrix, as a product of patches, by Fourier transform.

All give the same numbers up to rounding, for signals with one, two or three axes, and take and refuse the same
arguments. ``correlate`` itself chooses what is fastest for small kernels; for large ones ``by_fft`` is.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from cnnjax.ops.conv import conv_as_matrix, convolution_matrix, patches
from cnnjax.ops.kernels import dense, dilated
from cnnjax.ops.windows import Padding, Sizes, geometry, spread, valid_sizes


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


def by_fft(
    signals: Float[Array, "n *size c"],
    kernel: Float[Array, "*k ci o"],
    strides: int | Sizes = 1,
    padding: str | int | Padding = "SAME",
    dilation: int | Sizes = 1,
    groups: int = 1,
) -> Float[Array, "n *size2 o"]:
    """By real Fourier transforms, whose cost hardly depends on the size of the kernel (S3:297).

    A product of spectra is a circular convolution. Only the positions at which the kernel lies wholly inside the
    padded signals are kept, and these wrap around nothing, so the transforms need no more room than the padded
    signals; they get the next length that has only small prime factors. Spectra are multiplied and summed over
    channels one frequency at a time. All of the positions between strides are computed and dropped.

    In float32 (bfloat16 is computed in it) the error is about 1e-7 of the largest outputs, also where an output is
    small: unlike the other forms it leaves no exact zeros. Arguments, result and errors as for ``correlate``.
    """
    from scipy.fft import next_fast_len

    strides, pads, dilation = geometry(signals.shape, kernel.shape, strides, padding, dilation, groups)
    axes = len(strides)
    out_type = jnp.result_type(signals, kernel)
    wide = jnp.promote_types(out_type, jnp.float32)
    padded = spread(signals, [(*pad, 0) for pad in pads])
    lengths = [next_fast_len(n, real=True) for n in padded.shape[1:-1]]
    *_, fan_in, features = kernel.shape
    inputs = jnp.moveaxis(padded, -1, 1).astype(wide)  # transforms are along the last axes
    spectra = jnp.fft.rfftn(inputs, lengths, range(-axes, 0))
    weights = jnp.moveaxis(dilated(kernel, dilation), (-2, -1), (0, 1)).astype(wide)
    # Correlating is multiplying by the conjugate.
    responses = jnp.fft.rfftn(weights, lengths, range(-axes, 0)).conj()
    products = jnp.einsum(
        "ngcf,cgof->ngof",
        spectra.reshape(len(signals), groups, fan_in, -1),
        responses.reshape(fan_in, groups, features // groups, -1),
    )
    full = jnp.fft.irfftn(products.reshape(len(signals), features, *spectra.shape[2:]), lengths, range(-axes, 0))
    counts = valid_sizes(padded.shape[1:-1], kernel.shape[:-2], strides, dilation)
    kept = [slice(0, (count - 1) * s + 1, s) for count, s in zip(counts, strides, strict=True)]
    return jnp.moveaxis(full[:, :, *kept], 1, -1).astype(out_type)
