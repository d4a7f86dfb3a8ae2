"""The last layer of a network by itself, for features that were computed once."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from cnnjax.nn import Dropout, activation, initializer
from cnnjax.typing import Images, Logits


class Head(nn.Module):
    """Dropout and the dense layer ``head``, which draw what they draw in the network that they come from.

    Attributes:
      num_classes: length of the logits.
      dropout: name of the network's dropout in front of the head; empty where there is none.
      head_activation, kernel_init: see ``models.choices``.
      dtype: type of the arithmetic.
    """

    num_classes: int
    dropout: str = ""
    head_activation: str = "identity"
    kernel_init: str = "he"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, features: Images, train: bool = False, dropout_rate: float | Float[Array, ""] = 0.0
    ) -> tuple[Logits, dict[str, Any]]:
        """Features (N, 1, 1, D) to logits (N, num_classes)."""
        x = features.reshape(len(features), -1).astype(self.dtype)
        if self.dropout:
            x = Dropout(name=self.dropout)(x, dropout_rate, train)
        dense = nn.Dense(self.num_classes, kernel_init=initializer(self.kernel_init), dtype=self.dtype, name="head")
        return activation(self.head_activation)(dense(x)), {}
