"""Activation functions by name, so that a network's nonlinearity is a field that a sweep can vary."""

from collections.abc import Callable

import flax.linen as nn
from jaxtyping import Array, Float

from cnnjax.typing import unknown


def identity(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """What a network without a nonlinearity applies: it remains one linear map, whatever its depth."""
    return x


ACTIVATIONS: dict[str, Callable[..., Array]] = {
    "relu": nn.relu,
    "relu6": nn.relu6,  # min(relu(x), 6), as in the MobileNets
    "sigmoid": nn.sigmoid,
    "tanh": nn.tanh,
    "leaky_relu": nn.leaky_relu,  # slope 0.01 below zero
    "elu": nn.elu,
    "gelu": nn.gelu,  # by its tanh approximation
    "silu": nn.silu,
    "identity": identity,
}


def activation(name: str) -> Callable[..., Array]:
    """The elementwise function called ``name`` (S0:24-28).

    Raises:
      UsageError: unknown name.
    """
    if name not in ACTIVATIONS:
        raise unknown("activation", name, ACTIVATIONS)
    return ACTIVATIONS[name]
