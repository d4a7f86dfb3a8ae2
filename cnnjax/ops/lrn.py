"""Local response normalisation (Krizhevsky et al. 2012, section 3.3; S4:388): channels inhibit their neighbours."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from cnnjax.typing import UsageError


def local_response_norm(
    images: Float[Array, "n h w c"], size: int = 5, alpha: float = 1e-4, beta: float = 0.75, k: float = 2.0
) -> Float[Array, "n h w c"]:
    """a / (k + alpha * sum of a^2 over ``size`` adjacent channels)^beta at every pixel.

    The defaults are the paper's. Caffe and PyTorch divide ``alpha`` by ``size`` (and have k = 1 unless told):
    give ``alpha / size`` to equal them.

    Args:
      images: (N, H, W, C).
      size: channels in a window, odd, centred; beyond the first and the last there are zeros.

    Raises:
      UsageError: an even window, or one below 1.
    """
    if size < 1 or size % 2 == 0:
        raise UsageError(f"The window of local response normalisation must be odd and at least 1, not {size}.")
    margin = size // 2
    squares = jnp.pad(jnp.square(images.astype(jnp.float32)), ((0, 0), (0, 0), (0, 0), (margin, margin)))
    total = sum(squares[..., shift : shift + images.shape[-1]] for shift in range(size))
    return (images * (k + alpha * total) ** -beta).astype(images.dtype)
