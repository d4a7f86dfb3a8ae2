"""A transposed convolution layer on ``ops.transposed``, as the decoders of segmentation networks use it."""

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from cnnjax.ops.transposed import conv_transpose
from cnnjax.ops.windows import Padding, Pair


class ConvTranspose(nn.Module):
    """Transposed convolution, NHWC, parameters ``kernel`` (kh, kw, C, features / groups) and ``bias``.

    A side of n pixels becomes (n - 1) stride - low - high + dilation (k - 1) + 1 + output_padding.

    Attributes:
      features: output channels.
      kernel_size: rows, columns.
      strides: rows, columns; 2 doubles the resolution.
      padding: pixels cut: a number, or two pairs.
      output_padding: further rows, columns at the end.
      dilation: spacing of the kernel's taps.
      groups: independent groups of channels.
      use_bias: add one number per output channel.
      kernel_init: initialiser; by default He's, with the number of inputs that reach an output on average, which is
        kh kw C / (groups times the strides).
      dtype: type of the arithmetic; parameters are float32.
    """

    features: int
    kernel_size: Pair
    strides: Pair = (2, 2)
    padding: int | Padding = 0
    output_padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1
    use_bias: bool = True
    kernel_init: Callable[..., Any] | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: Float[Array, "n h w c"]) -> Float[Array, "n h2 w2 o"]:
        """Images (N, H, W, C) to (N, H', W', features)."""
        # Flax takes kh kw C for the inputs of an output.
        he = nn.initializers.variance_scaling(2.0 * self.groups * math.prod(self.strides), "fan_in", "normal")
        shape = (*self.kernel_size, images.shape[-1], self.features // self.groups)
        kernel = self.param("kernel", self.kernel_init or he, shape, jnp.float32)
        out = conv_transpose(
            images.astype(self.dtype),
            kernel.astype(self.dtype),
            self.strides,
            self.padding,
            self.output_padding,
            self.dilation,
            self.groups,
        )
        if self.use_bias:
            out += self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32).astype(self.dtype)
        return out
