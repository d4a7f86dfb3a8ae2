"""Locally connected layers: a convolution's connections, but a kernel of its own at every position."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from cnnjax.ops.conv import patches
from cnnjax.ops.windows import Padding, Pair, explicit_padding
from cnnjax.typing import UsageError


def local_conv(
    images: Float[Array, "n h w c"],
    kernels: Float[Array, "h2 w2 kh kw c o"],
    strides: Pair = (1, 1),
    padding: str | int | Padding = "SAME",
) -> Float[Array, "n h2 w2 o"]:
    """2-D cross-correlation with unshared weights (LeCun 1989; S1:514-538).

    With the same kernel at every position it is ``ops.conv.conv``.

    Args:
      images: (N, H, W, C).
      kernels: (H', W', kh, kw, C, O), one kernel for each output position.
      strides: rows, columns.
      padding: as in ``ops.conv.conv``.

    Returns:
      (N, H', W', O).

    Raises:
      UsageError: the kernels are for another number of positions, or larger than the padded input.
    """
    positions, size = kernels.shape[:2], kernels.shape[2:4]
    pads = explicit_padding(padding, images.shape[1:3], size, strides)
    columns = patches(jnp.pad(images, ((0, 0), *pads, (0, 0))), size, strides)
    if columns.shape[1:3] != positions:
        raise UsageError(
            f"Images of {images.shape[1]}x{images.shape[2]} pixels have {columns.shape[1]}x{columns.shape[2]} "
            f"positions, but there are kernels for {positions[0]}x{positions[1]}."
        )
    return jnp.einsum("nxyk,xyko->nxyo", columns, kernels.reshape(*positions, -1, kernels.shape[-1]))
