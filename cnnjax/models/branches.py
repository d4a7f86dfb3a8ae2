"""Blocks of parallel branches whose outputs are concatenated, as tables describe them (S4:494-522)."""

import math
from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from cnnjax.models.parts import ConvNorm, Parts
from cnnjax.ops.conv import Pair
from cnnjax.ops.pool import average_pool, max_pool


class Layer(NamedTuple):
    """A convolution with its normalisation and activation; padding as in ``parts.ConvNorm``."""

    name: str
    channels: int
    kernel: Pair
    strides: Pair = (1, 1)
    padding: str | None = None


class Branch(NamedTuple):
    """What is done to a block's input, in order.

    Attributes:
      layers: one after another.
      pool: before them: "none"; "max" or "average", 3x3 with stride 1, which keep the sides; or "halve", the
        maximum of 3x3 with stride 2, not padded.
      ends: layers that all read what the others put out; their outputs are concatenated.
    """

    layers: tuple[Layer, ...]
    pool: str = "none"
    ends: tuple[Layer, ...] = ()


class Block(nn.Module):
    """Every branch reads the same map; the outputs are concatenated along the channels, in order.

    Attributes:
      branches: the table.
      parts: the network's factories.
      multiplier: of every layer's channels, see ``scaled``.
      average_padding: whether average pooling counts the zeros around the map.
    """

    branches: tuple[Branch, ...]
    parts: Parts
    multiplier: float = 1.0
    average_padding: bool = True

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"], train: bool) -> Float[Array, "n h2 w2 o"]:
        """Activations (N, H, W, C) to (N, H', W', the branches' channels together)."""

        def apply(layer, y):
            channels = scaled(layer.channels, self.multiplier)
            conv = ConvNorm(channels, layer.kernel, self.parts, layer.strides, padding=layer.padding, name=layer.name)
            return conv(y, train)

        outputs = []
        for branch in self.branches:
            y = _pool(branch.pool, x, self.average_padding)
            for layer in branch.layers:
                y = apply(layer, y)
            outputs += [apply(layer, y) for layer in branch.ends] or [y]
        return jnp.concatenate(outputs, axis=-1)


def _pool(form, x, average_padding):
    if form == "none":
        return x
    if form == "halve":
        return max_pool(x, (3, 3), (2, 2))
    pooled = {"max": max_pool, "average": average_pool}[form](x, (3, 3), (1, 1), 1)
    if form == "average" and not average_padding:
        pooled /= average_pool(jnp.ones((1, *x.shape[1:3], 1), x.dtype), (3, 3), (1, 1), 1)
    return pooled


def auxiliary_pool(x: Float[Array, "n h w c"]) -> Float[Array, "n h2 w2 c"]:
    """The pooling before an auxiliary head: the average of 5x5 with stride 3. Maps below 5x5 stay as they are."""
    return average_pool(x, (5, 5), (3, 3)) if min(x.shape[1:3]) >= 5 else x


def scaled(channels: int, multiplier: float) -> int:
    """Channels times a width multiplier, to the nearest whole number; halves are rounded up."""
    return math.floor(multiplier * channels + 0.5)
