"""Initialisers of kernels by name. All have mean zero; they differ in what the standard deviation is."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn

from cnnjax.typing import unknown

# He et al. 2015 (arXiv:1502.01852), equation 10, fan-in form: standard deviation sqrt(2 / fan_in).
he_normal = nn.initializers.variance_scaling(2.0, "fan_in", "normal")

INITIALIZERS: dict[str, Callable[..., Any]] = {
    "he": he_normal,
    # The same paper's backward case, sqrt(2 / fan_out): what torchvision draws for its residual and mobile nets.
    "he_fan_out": nn.initializers.variance_scaling(2.0, "fan_out", "normal"),
    # Glorot and Bengio 2010, equation 16: uniform in ±sqrt(6 / (fan_in + fan_out)).
    "xavier": nn.initializers.xavier_uniform(),
    # Krizhevsky et al. 2012, section 5: N(0, 0.01²) whatever the layer's size.
    "gaussian": nn.initializers.normal(0.01),
}


def initializer(name: str) -> Callable[..., Any]:
    """The Flax initialiser ``(key, shape, dtype) -> kernel`` called ``name``.

    Raises:
      UsageError: unknown name.
    """
    if name not in INITIALIZERS:
        raise unknown("kernel_init", name, INITIALIZERS)
    return INITIALIZERS[name]
