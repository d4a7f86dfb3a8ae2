"""VGG-style nets (Simonyan and Zisserman 2014; S2:145-181): 3x3 convolutions, 2x2 max pooling.

The lectures' rule: every convolution is 3x3, stride 1, SAME; every pooling is 2x2, stride 2; the
sides halve and the channels double from stage to stage (S4:395-401).
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from cnnjax.nn import Conv, Dropout, norm_layer
from cnnjax.nn.conv import he_normal
from cnnjax.ops.pool import max_pool
from cnnjax.typing import Images, Logits

# Channels and number of convolutions of each stage; then the dense layers before the head.
SMALL = (((32, 2), (64, 2), (128, 2)), (128,))


class VGG(nn.Module):
    """Stages of 3x3 convolutions, each ended by 2x2 max pooling, then dense layers with dropout.

    Endpoints: ``stage1``, ``stage2``, ... after pooling; ``dense1``, ...

    Attributes:
      stages: (channels, convolutions) of each stage.
      dense: units of the hidden dense layers.
      num_classes: length of the logits.
      norm: one of ``nn.NORMS``; "none" as in the paper.
      dtype: type of the arithmetic.
    """

    stages: tuple[tuple[int, int], ...] = SMALL[0]
    dense: tuple[int, ...] = SMALL[1]
    num_classes: int = 10
    norm: str = "none"
    dtype: Any = jnp.float32

    @property
    def min_size(self) -> int:
        """Smallest height and width, in pixels: every stage halves them."""
        return 2 ** len(self.stages)

    @nn.compact
    def __call__(
        self, images: Images, train: bool = False, dropout_rate: float | Float[Array, ""] = 0.0
    ) -> tuple[Logits, dict[str, Any]]:
        """Images (N, H, W, C) to logits (N, num_classes); dropout after every hidden dense layer."""
        norm = norm_layer(self.norm, self.dtype)
        endpoints = {}
        x = images
        for stage, (features, repeats) in enumerate(self.stages, start=1):
            for index in range(1, repeats + 1):
                name = f"conv{stage}_{index}"
                x = Conv(features, (3, 3), use_bias=False, dtype=self.dtype, name=name)(x)
                x = nn.relu(norm(name=f"norm{stage}_{index}")(x, train))
            x = endpoints[f"stage{stage}"] = max_pool(x)
        x = x.reshape(x.shape[0], -1)
        for index, units in enumerate(self.dense, start=1):
            x = nn.relu(nn.Dense(units, kernel_init=he_normal, dtype=self.dtype, name=f"dense{index}")(x))
            endpoints[f"dense{index}"] = x
            x = Dropout()(x, dropout_rate, train)
        return nn.Dense(self.num_classes, kernel_init=he_normal, dtype=self.dtype, name="head")(x), endpoints
