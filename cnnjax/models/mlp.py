"""The fully connected net on flattened pixels: the lectures' baseline (S3:42-56; S1:993-1033)."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from cnnjax.nn import Dropout
from cnnjax.nn.conv import he_normal
from cnnjax.typing import Images, Logits, UsageError


class MLP(nn.Module):
    """Dense layers with ReLU between them; 256 -> 100 -> 26 has 28,326 parameters (S1:1004).

    Endpoints: ``hidden1``, ``hidden2``, ... after the activation.

    Attributes:
      hidden: units of each hidden layer.
      num_classes: length of the logits.
      dtype: type of the arithmetic.
    """

    hidden: tuple[int, ...] = (100,)
    num_classes: int = 10
    dtype: Any = jnp.float32

    min_size = 1

    def __post_init__(self):
        if not all(isinstance(units, int) and units >= 1 for units in self.hidden):
            raise UsageError(f"hidden must hold positive whole numbers of units, not {self.hidden}.")
        super().__post_init__()

    @nn.compact
    def __call__(
        self, images: Images, train: bool = False, dropout_rate: float | Float[Array, ""] = 0.0
    ) -> tuple[Logits, dict[str, Any]]:
        """Images (N, H, W, C) to logits (N, num_classes); dropout after every hidden layer."""
        x = images.reshape(images.shape[0], -1)
        endpoints = {}
        for index, units in enumerate(self.hidden, start=1):
            x = nn.relu(nn.Dense(units, kernel_init=he_normal, dtype=self.dtype, name=f"dense{index}")(x))
            endpoints[f"hidden{index}"] = x
            x = Dropout()(x, dropout_rate, train)
        return nn.Dense(self.num_classes, kernel_init=he_normal, dtype=self.dtype, name="head")(x), endpoints
