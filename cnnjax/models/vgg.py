"""VGG-style nets (Simonyan and Zisserman 2014; S2:145-181): 3x3 convolutions, 2x2 max pooling.

The lectures' rule: every convolution is 3x3, stride 1, SAME; every pooling is 2x2, stride 2; the
sides halve and the channels double from stage to stage (S4:395-401). Kernels and pooling can be
others, to ask what the rule is worth.
"""

from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from cnnjax.models import choices
from cnnjax.models.entry import Entry
from cnnjax.nn import Conv, Dropout, activation, initializer, norm_layer
from cnnjax.ops.pool import average_pool, blur_pool, max_pool
from cnnjax.typing import Images, Logits

# Channels and number of convolutions of each stage; then the dense layers before the head.
SMALL = (((32, 2), (64, 2), (128, 2)), (128,))


class VGG(nn.Module):
    """Stages of convolutions, each ended by pooling, then dense layers with dropout.

    Endpoints: ``stage1``, ``stage2``, ... after pooling; ``dense1``, ...

    Attributes:
      stages: (channels, convolutions) of each stage.
      dense: units of the hidden dense layers.
      num_classes: length of the logits.
      kernel_size, pool, activation, head_activation, kernel_init: see ``models.choices``.
      norm: one of ``nn.NORMS``; "none" as in the paper.
      dropout_at: "dense", or "all": also after the pooling of every stage.
      dtype: type of the arithmetic.
    """

    stages: tuple[tuple[int, int], ...] = SMALL[0]
    dense: tuple[int, ...] = SMALL[1]
    num_classes: int = 10
    kernel_size: int = 3
    pool: str = "max"
    activation: str = "relu"
    head_activation: str = "identity"
    kernel_init: str = "he"
    norm: str = "none"
    dropout_at: str = "dense"
    dtype: Any = jnp.float32

    def __post_init__(self):
        choices.check(self)
        super().__post_init__()

    @property
    def min_size(self) -> int:
        """Smallest height and width, in pixels: every stage halves them."""
        return 2 ** len(self.stages)

    @nn.compact
    def __call__(
        self, images: Images, train: bool = False, dropout_rate: float | Float[Array, ""] = 0.0
    ) -> tuple[Logits, dict[str, Any]]:
        """Images (N, H, W, C) to logits (N, num_classes); dropout after every hidden dense layer."""
        init, act, norm = initializer(self.kernel_init), activation(self.activation), norm_layer(self.norm, self.dtype)
        kernel = (self.kernel_size, self.kernel_size)
        conv = partial(Conv, kernel_size=kernel, use_bias=False, kernel_init=init, dtype=self.dtype)
        dense = partial(nn.Dense, kernel_init=init, dtype=self.dtype)
        endpoints = {}
        x = images
        for stage, (features, repeats) in enumerate(self.stages, start=1):
            for index in range(1, repeats + 1):
                strides = (2, 2) if self.pool == "stride" and index == repeats else (1, 1)
                x = conv(features, strides=strides, name=f"conv{stage}_{index}")(x)
                x = act(norm(name=f"norm{stage}_{index}")(x, train))
            x = endpoints[f"stage{stage}"] = _pool(self.pool, x)
            if self.dropout_at == "all":
                x = Dropout()(x, dropout_rate, train)
        x = x.reshape(x.shape[0], -1)
        for index, units in enumerate(self.dense, start=1):
            x = endpoints[f"dense{index}"] = act(dense(units, name=f"dense{index}")(x))
            x = Dropout()(x, dropout_rate, train)
        return activation(self.head_activation)(dense(self.num_classes, name="head")(x)), endpoints


def _pool(form, x):
    """Sides halved, rounded down; the strided convolutions of "stride" have halved them already."""
    if form == "blur":
        return blur_pool(max_pool(x, strides=(1, 1)))
    return {"max": max_pool, "average": average_pool, "stride": lambda x: x}[form](x)


VARIANTS = {"vgg_small": Entry(VGG, (32, 32, 3), 2014)}
