"""Normalisation as one injected choice: batch, instance, group, layer or none.

All four standardise activations (subtract a mean, divide by a standard deviation) and then apply
a learned scale and bias per channel; they differ in what the mean is taken over (S3:617-679).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from cnnjax.typing import UsageError, unknown

NORMS = ("batch", "instance", "group", "layer", "none")
BATCH_NORMS = ("synchronised", "local")  # over the whole batch, or over each device's part of it
EPSILON = 1e-5

# The axis of devices that share the batch, and how; set while a program is traced. A network is built from the name
# of its norm alone, and must be the same network on any number of devices.
_shared: ContextVar[tuple[str | None, str]] = ContextVar("shared", default=(None, BATCH_NORMS[0]))


@contextmanager
def shared_batch(axis: str | None, batch_norm: str) -> Iterator[None]:
    """What is traced inside shares its batch with the devices along ``axis`` of a mesh; None: with none.

    ``batch_norm`` is one of ``BATCH_NORMS``: "synchronised" normalises by the statistics of the whole batch, "local"
    by those of each device's part. Running statistics are the same on all devices either way.
    """
    token = _shared.set((axis, batch_norm))
    try:
        yield
    finally:
        _shared.reset(token)


@partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def standardize(
    x: Float[Array, "... c"],
    scale: Float[Array, " c"],
    bias: Float[Array, " c"],
    epsilon: float = EPSILON,
    axis: str | None = None,
):
    """Per-channel standardisation over all other axes; returns (output, mean, variance).

    The backward pass is the closed form of Ioffe and Szegedy 2015, which reads the activations
    twice; automatic differentiation of the same forward pass reads them more often. The mean and
    the variance are for the running statistics only: no gradient flows through them.

    With ``axis``, the name of an axis of devices, each of which holds an equal part of ``x``, mean and variance are
    of all parts. The gradient is then of the sum of what all devices differentiate; for ``scale`` and ``bias`` it is
    this device's share of it, as the gradient of any other parameter is.
    """
    return _standardize_forward(x, scale, bias, epsilon, axis)[0]


def _standardize_forward(x, scale, bias, epsilon, axis):
    axes = tuple(range(x.ndim - 1))
    x32 = x.astype(jnp.float32)
    mean = _over(axis, lax.pmean, x32.mean(axes))
    variance = _over(axis, lax.pmean, jnp.square(x32 - mean).mean(axes))
    inverse = lax.rsqrt(variance + epsilon)
    out = (x32 - mean) * (inverse * scale) + bias
    return (out.astype(x.dtype), mean, variance), (x, scale, mean, inverse)


def _standardize_backward(epsilon, axis, residuals, grads):
    x, scale, mean, inverse = residuals
    grad = grads[0].astype(jnp.float32)
    axes = tuple(range(x.ndim - 1))
    size = x.size // x.shape[-1] * devices_along(axis)
    centred = x.astype(jnp.float32) - mean
    bias_grad = grad.sum(axes)
    scale_grad = (grad * centred).sum(axes) * inverse
    bias_sum, scale_sum = _over(axis, lax.psum, (bias_grad, scale_grad))
    x_grad = (scale * inverse) * (grad - bias_sum / size - centred * (inverse * scale_sum / size))
    return x_grad.astype(x.dtype), scale_grad, bias_grad


standardize.defvjp(_standardize_forward, _standardize_backward)


@partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def standardize_groups(
    x: Float[Array, "n *space c"],
    scale: Float[Array, " c"],
    bias: Float[Array, " c"],
    groups: int,
    epsilon: float = EPSILON,
) -> Float[Array, "n *space c"]:
    """Standardisation of each example's ``groups`` groups of neighbouring channels, over their positions and channels.

    As in ``standardize``, the variance is the mean square of what is left after the mean was subtracted, in float32:
    the difference E[x^2] - E[x]^2 loses all digits where the mean is large beside the spread. The backward pass is
    the closed form (Wu and He 2018 normalise as Ioffe and Szegedy 2015 do, over other axes).
    """
    return _standardize_groups_forward(x, scale, bias, groups, epsilon)[0]


def _standardize_groups_forward(x, scale, bias, groups, epsilon):
    wide = _positions(x)
    mean = _over_groups(wide.mean(1), groups)
    variance = _over_groups(jnp.square(wide - mean).mean(1), groups)
    inverse = lax.rsqrt(variance + epsilon)
    out = (wide - mean) * (inverse * scale) + bias
    return out.reshape(x.shape).astype(x.dtype), (x, scale, mean, inverse)


def _standardize_groups_backward(groups, epsilon, residuals, out_grad):
    x, scale, mean, inverse = residuals
    grad, centred = _positions(out_grad), _positions(x) - mean
    bias_grad = grad.sum(1)  # of each example
    scale_grad = (grad * centred).sum(1) * inverse[:, 0]
    bias_mean, scale_mean = (_over_groups(each * scale, groups) / grad.shape[1] for each in (bias_grad, scale_grad))
    x_grad = inverse * (grad * scale - bias_mean - centred * (inverse * scale_mean))
    return x_grad.reshape(x.shape).astype(x.dtype), scale_grad.sum(0), bias_grad.sum(0)


standardize_groups.defvjp(_standardize_groups_forward, _standardize_groups_backward)


def _positions(x):
    """(N, ..., C) as (N, positions, C) in float32."""
    return x.astype(jnp.float32).reshape(x.shape[0], -1, x.shape[-1])


def _over_groups(means, groups):
    """Means of the channels (N, C) -> those of their groups, for each channel (N, 1, C)."""
    size = means.shape[1] // groups
    return jnp.repeat(means.reshape(-1, groups, size).mean(-1), size, axis=1)[:, None]


def devices_along(axis: str | None) -> int:
    """How many devices an axis has, inside of what is mapped over it; 1 of no axis."""
    return 1 if axis is None else lax.axis_size(axis)


def _over(axis, collective, value):
    """The collective of the devices' values, where there is an axis of devices."""
    return value if axis is None else collective(value, axis)


class BatchNorm(nn.Module):
    """Batch normalisation over batch and space; running statistics in evaluation (S3:666-677).

    State in the collection ``batch_stats``: ``mean`` and ``var`` (C,), as exponential averages
    ``momentum * old + (1 - momentum) * new``. See ``shared_batch`` for batches on several devices.

    Attributes:
      momentum: weight of the old statistics; PyTorch's momentum is one less this.
      epsilon: added to the variance.
      unbiased: the running variance is of n - 1 numbers, as in the paper (Ioffe and Szegedy 2015, algorithm 2)
        and in PyTorch, and not of n, as in Flax. Activations are divided by the biased one either way.
      dtype: type of the arithmetic.
    """

    momentum: float = 0.9
    epsilon: float = EPSILON
    unbiased: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "... c"], train: bool) -> Float[Array, "... c"]:
        """Activations (..., C) to the same shape."""
        channels = (x.shape[-1],)
        scale = self.param("scale", nn.initializers.ones, channels, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, channels, jnp.float32)
        mean = self.variable("batch_stats", "mean", jnp.zeros, channels, jnp.float32)
        var = self.variable("batch_stats", "var", jnp.ones, channels, jnp.float32)
        if not train:
            factor = scale * lax.rsqrt(var.value + self.epsilon)
            return (x * factor + (bias - mean.value * factor)).astype(self.dtype)
        axis, form = (None, "") if self.is_initializing() else _shared.get()
        out, batch_mean, batch_var = standardize(x, scale, bias, self.epsilon, axis if form == "synchronised" else None)
        if form == "local":
            batch_mean, batch_var = _over(axis, lax.pmean, (batch_mean, batch_var))
        if not self.is_initializing():
            if self.unbiased:
                count = x.size // x.shape[-1] * (1 if form == "local" else devices_along(axis))
                batch_var = batch_var * (count / max(count - 1, 1))
            mean.value = self.momentum * mean.value + (1 - self.momentum) * batch_mean
            var.value = self.momentum * var.value + (1 - self.momentum) * batch_var
        return out.astype(self.dtype)


class GroupNorm(nn.Module):
    """Group normalisation (Wu and He 2018), per example; ``groups`` None is one per channel (instance).

    Raises:
      UsageError: the groups do not divide the channels.
    """

    groups: int | None
    epsilon: float = EPSILON
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "n *space c"], train: bool) -> Float[Array, "n *space c"]:
        """Activations (N, ..., C) to the same shape; ``train`` makes no difference."""
        channels = x.shape[-1]
        groups = self.groups or channels
        if channels % groups:
            divisors = ", ".join(str(number) for number in range(1, channels + 1) if channels % number == 0)
            raise UsageError(
                f"{'/'.join(self.path) or 'The layer'}: {groups} groups do not divide {channels} channels. "
                f"Use one of {divisors}."
            )
        return GroupStandardization(groups, self.epsilon, self.dtype, name="group")(x)


class GroupStandardization(nn.Module):
    """What ``GroupNorm`` does, once it knows its groups; holds its ``scale`` and ``bias`` (C,)."""

    groups: int
    epsilon: float
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "n *space c"]) -> Float[Array, "n *space c"]:
        """Activations (N, ..., C) to the same shape."""
        channels = (x.shape[-1],)
        scale = self.param("scale", nn.initializers.ones, channels, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, channels, jnp.float32)
        return standardize_groups(x, scale, bias, self.groups, self.epsilon).astype(self.dtype)


class NoNorm(nn.Module):
    """No normalisation: a bias per channel, so that the convolution before it needs none.

    Attributes:
      initial: what the biases start at.
      dtype: type of the arithmetic.
    """

    initial: float = 0.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "... c"], train: bool) -> Float[Array, "... c"]:
        """Activations (..., C) to the same shape; ``train`` makes no difference."""
        start = nn.initializers.constant(self.initial)
        return x + self.param("bias", start, (x.shape[-1],), jnp.float32).astype(x.dtype)


def norm_layer(
    name: str,
    dtype: Any = jnp.float32,
    groups: int = 8,
    *,
    epsilon: float = EPSILON,
    momentum: float = 0.9,
    unbiased: bool = False,
) -> Callable[..., nn.Module]:
    """The constructor of the normalisation called ``name``; its instances take ``(x, train)``.

    "layer" normalises over space and channels of one example, "group" over space and
    channels / ``groups``, "instance" over space of each channel, "batch" over batch and space.
    ``momentum`` and ``unbiased`` are those of ``BatchNorm``.

    Raises:
      UsageError: unknown name.
    """
    if name not in NORMS:
        raise unknown("norm", name, NORMS)
    if name == "batch":
        return partial(BatchNorm, dtype=dtype, epsilon=epsilon, momentum=momentum, unbiased=unbiased)
    if name == "none":
        return partial(NoNorm, dtype=dtype)
    size = {"instance": None, "group": groups, "layer": 1}[name]
    return partial(GroupNorm, groups=size, epsilon=epsilon, dtype=dtype)
