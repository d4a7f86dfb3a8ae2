"""Cross-correlation by Fourier transform, which wins for large kernels (S3:297)."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from cnnjax.ops.kernels import dilated
from cnnjax.ops.windows import Padding, Sizes, geometry, spread, valid_sizes


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
