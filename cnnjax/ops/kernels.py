"""Kernels (*k, C / groups, O) rewritten, so that a simpler operation does the same with them."""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from cnnjax.ops.windows import Sizes


def flipped(kernel: Float[Array, "*k ci o"]) -> Float[Array, "*k ci o"]:
    """Turned round along every axis: what tells true convolution from cross-correlation (S4:209-213)."""
    return jnp.flip(kernel, range(kernel.ndim - 2))


def dilated(kernel: Float[Array, "*k ci o"], dilation: Sizes) -> Float[Array, "*k2 ci o"]:
    """With dilation - 1 zeros between the taps: does without dilation what the kernel does with it (S1:1133-1152)."""
    between = [(0, 0, d - 1) for d in dilation]
    return lax.pad(kernel, jnp.zeros((), kernel.dtype), (*between, (0, 0, 0), (0, 0, 0)))


def dense(kernel: Float[Array, "*k ci o"], groups: int) -> Float[Array, "*k c o"]:
    """(*k, C, O) from (*k, C / groups, O): does without groups what the kernel does with them (S3:546-551).

    A block-diagonal matrix at every tap: no group's outputs read another group's inputs.
    """
    fan_in, features = kernel.shape[-2:]
    apart = kernel.reshape(*kernel.shape[:-2], 1, fan_in, groups, features // groups)
    own = jnp.eye(groups, dtype=kernel.dtype)[:, None, :, None]
    return (apart * own).reshape(*kernel.shape[:-2], groups * fan_in, features)
