"""A locally connected layer: what a convolution is without the sharing of weights."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from cnnjax.nn.initializers import he_normal
from cnnjax.ops.local import local_conv
from cnnjax.ops.windows import Padding, Pair, explicit_padding, output_size


class LocallyConnected(nn.Module):
    """Parameters ``kernel`` (H', W', kh, kw, C, features) and ``bias`` (H', W', features), one per unit.

    Attributes:
      features: output channels.
      kernel_size: rows, columns.
      strides: rows, columns.
      padding: "SAME", "VALID", a number, or two pairs.
      kernel_init: initialiser of the kernel of one position, whose fans are a convolution's.
      dtype: type of the arithmetic; parameters are float32.
    """

    features: int
    kernel_size: Pair
    strides: Pair = (1, 1)
    padding: str | int | Padding = "SAME"
    kernel_init: Callable[..., Any] = he_normal
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: Float[Array, "n h w c"]) -> Float[Array, "n h2 w2 o"]:
        """Images (N, H, W, C) to (N, H', W', features)."""
        pads = explicit_padding(self.padding, images.shape[1:3], self.kernel_size, self.strides)
        height, width = (
            output_size(images.shape[axis + 1] + sum(pads[axis]), self.kernel_size[axis], 0, self.strides[axis])
            for axis in (0, 1)
        )
        shape = (height, width, *self.kernel_size, images.shape[-1], self.features)
        kernel = self.param("kernel", self._each_position, shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (height, width, self.features), jnp.float32)
        out = local_conv(images.astype(self.dtype), kernel.astype(self.dtype), self.strides, pads)
        return out + bias.astype(self.dtype)

    def _each_position(self, key, shape, dtype):
        keys = jax.random.split(key, shape[:2])
        return jax.vmap(jax.vmap(lambda key: self.kernel_init(key, shape[2:], dtype)))(keys)
