"""A convolution layer on ``ops.conv``: fast in loops and under vmap, which ``flax.linen.Conv`` is not."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from cnnjax.nn.initializers import he_normal
from cnnjax.ops.conv import conv
from cnnjax.ops.windows import Padding, Pair


class Conv(nn.Module):
    """2-D cross-correlation, NHWC, parameters ``kernel`` (kh, kw, C / groups, features) and ``bias``.

    Attributes:
      features: output channels.
      kernel_size: rows, columns.
      strides: rows, columns.
      padding: "SAME", "VALID", a number, or two pairs.
      dilation: spacing of the kernel's taps.
      groups: independent groups of channels.
      use_bias: add one number per output channel.
      kernel_init: initialiser; He's by default.
      dtype: type of the arithmetic; parameters are float32.
    """

    features: int
    kernel_size: Pair
    strides: Pair = (1, 1)
    padding: str | int | Padding = "SAME"
    dilation: Pair = (1, 1)
    groups: int = 1
    use_bias: bool = True
    kernel_init: Callable[..., Any] = he_normal
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: Float[Array, "n h w c"]) -> Float[Array, "n h2 w2 o"]:
        """Images (N, H, W, C) to (N, H', W', features)."""
        shape = (*self.kernel_size, images.shape[-1] // self.groups, self.features)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        out = conv(
            images.astype(self.dtype),
            kernel.astype(self.dtype),
            self.strides,
            self.padding,
            self.dilation,
            self.groups,
        )
        if self.use_bias:
            out += self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32).astype(self.dtype)
        return out
