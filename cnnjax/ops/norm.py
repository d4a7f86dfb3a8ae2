"""Normalisations by their definition: subtract a mean, divide by a standard deviation (S3:617-679).

They differ in what the mean and the deviation are taken over. The layers of ``nn.norm``, which have parameters,
running statistics and a faster gradient, compute the same. (The slide's formula, S3:634, lacks epsilon, scale and
bias.)
"""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from cnnjax.typing import UsageError

EPSILON = 1e-5
Activations = Float[Array, "n *space c"]
Vector = Float[Array, " c"]


def batch_norm(
    x: Activations, scale: Vector | None = None, bias: Vector | None = None, epsilon: float = EPSILON
) -> Activations:
    """Each channel standardised over the whole batch and all positions (Ioffe and Szegedy 2015; S3:666-677).

    That is how it is in training; afterwards the mean and the variance of training are used: ``nn.BatchNorm``.

    Args:
      x: (N, ..., C).
      scale, bias: (C,), applied afterwards; 1 and 0 by default.
      epsilon: added to the variance.
    """
    return _affine(_standardized(x, tuple(range(x.ndim - 1)), epsilon), scale, bias).astype(x.dtype)


def instance_norm(
    x: Activations, scale: Vector | None = None, bias: Vector | None = None, epsilon: float = EPSILON
) -> Activations:
    """Each channel of each example standardised over its positions (Ulyanov et al. 2016; S3:651-664).

    Arguments as for ``batch_norm``.
    """
    return group_norm(x, x.shape[-1], scale, bias, epsilon)


def layer_norm(
    x: Activations, scale: Vector | None = None, bias: Vector | None = None, epsilon: float = EPSILON
) -> Activations:
    """Each example standardised over all positions and channels (Ba et al. 2016), the affine part per channel.

    (Transformers standardise over the channels of each position by itself.) Arguments as for ``batch_norm``.
    """
    return group_norm(x, 1, scale, bias, epsilon)


def group_norm(
    x: Activations, groups: int, scale: Vector | None = None, bias: Vector | None = None, epsilon: float = EPSILON
) -> Activations:
    """Each example's neighbouring channels standardised together, in ``groups`` groups (Wu and He 2018).

    Arguments as for ``batch_norm``.

    Raises:
      UsageError: the groups do not divide the channels.
    """
    channels = x.shape[-1]
    if groups < 1 or channels % groups:
        raise UsageError(f"{groups} groups do not divide {channels} channels. Choose a divisor.")
    grouped = x.reshape(*x.shape[:-1], groups, channels // groups)
    axes = (*range(1, x.ndim - 1), x.ndim)  # all but the example and the group
    return _affine(_standardized(grouped, axes, epsilon).reshape(x.shape), scale, bias).astype(x.dtype)


def _standardized(x, axes, epsilon):
    """Mean 0 and variance variance / (variance + epsilon) over the axes, in float32."""
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    centred = wide - wide.mean(axes, keepdims=True)
    return centred * lax.rsqrt(jnp.square(centred).mean(axes, keepdims=True) + epsilon)


def _affine(x, scale, bias):
    scaled = x if scale is None else x * scale
    return scaled if bias is None else scaled + bias
