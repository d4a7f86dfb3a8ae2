"""The fully connected net on flattened pixels: the lectures' baseline (S3:42-56; S1:993-1033)."""

import math
from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from cnnjax.models import choices
from cnnjax.models.entry import Entry
from cnnjax.models.parts import norm_of
from cnnjax.nn import Dropout, activation, initializer
from cnnjax.typing import Images, Logits, UsageError


class MLP(nn.Module):
    """Dense layers with an activation between them; 256 -> 100 -> 26 has 28,326 parameters (S1:1004).

    Endpoints: ``hidden1``, ``hidden2``, ... after the activation; ``features``, which the head reads, before dropout.

    Attributes:
      hidden: units of each hidden layer.
      num_classes: length of the logits.
      activation, head_activation, kernel_init, dropout_at: see ``models.choices``; all hidden layers are dense.
      norm: of each hidden layer before its activation, in place of its bias; not "instance".
      norm_groups: see ``models.choices``.
      dtype: type of the arithmetic.
    """

    hidden: tuple[int, ...] = (100,)
    num_classes: int = 10
    activation: str = "relu"
    head_activation: str = "identity"
    kernel_init: str = "he"
    norm: str = "none"
    norm_groups: int = choices.added(0)
    dropout_at: str = "dense"
    dtype: Any = jnp.float32

    min_size = 1

    def __post_init__(self):
        if not all(isinstance(units, int) and units >= 1 for units in self.hidden):
            raise UsageError(f"hidden must hold positive whole numbers of units, not {self.hidden}.")
        choices.check(self)
        if self.norm == "instance":
            raise UsageError("norm=instance averages over pixels, which dense layers lack. Use batch, group or layer.")
        if self.norm == "group" and any((self.norm_groups or math.gcd(8, units)) == units for units in self.hidden):
            groups = f" with norm_groups={self.norm_groups}" if self.norm_groups else ""
            raise UsageError(
                f"norm=group{groups} makes groups of single units of hidden={self.hidden}: use more than "
                f"{self.norm_groups or 'eight'}."
            )
        super().__post_init__()

    @property
    def parameter_stages(self) -> dict[str, tuple[str, ...]]:
        """Stages in order, with the prefixes of their parameters: a hidden layer each, or, from ten on, one of all."""
        layers = range(1, len(self.hidden) + 1)
        if len(layers) > 9:  # "dense1" begins "dense10"
            return {"hidden": ("dense", "norm"), "head": ("head",)}
        return {f"hidden{n}": (f"dense{n}", f"norm{n}") for n in layers} | {"head": ("head",)}

    @nn.compact
    def __call__(
        self, images: Images, train: bool = False, dropout_rate: float | Float[Array, ""] = 0.0
    ) -> tuple[Logits, dict[str, Any]]:
        """Images (N, H, W, C) to logits (N, num_classes); dropout after every hidden layer."""
        dense = partial(nn.Dense, kernel_init=initializer(self.kernel_init), dtype=self.dtype)
        x = features = images.reshape(images.shape[0], -1)
        endpoints = {}
        for index, units in enumerate(self.hidden, start=1):
            x = dense(units, use_bias=self.norm == "none", name=f"dense{index}")(x)
            if self.norm != "none":
                x = norm_of(self, units)(name=f"norm{index}")(x, train)
            x = features = endpoints[f"hidden{index}"] = activation(self.activation)(x)
            x = Dropout()(x, dropout_rate, train)
        endpoints["features"] = features
        if self.num_classes == 0:
            return features, endpoints
        return activation(self.head_activation)(dense(self.num_classes, name="head")(x)), endpoints


VARIANTS = {"mlp": Entry(MLP, (32, 32, 3), 1986)}
