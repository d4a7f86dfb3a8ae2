"""A stack of dilated convolutions: the receptive field grows, the map keeps its size (Yu and Koltun 2015).

arXiv:1511.07122. With kernels of 3x3 and dilations 1, 2, 4, ... one layer sees 3x3 pixels, two 7x7, three 15x15, and
L see 2^(L+1) - 1; undilated, L layers see 2 L + 1. Weights are as many either way (S1:1131-1139; S3:795-826).
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from cnnjax.models import choices
from cnnjax.models.entry import Entry
from cnnjax.models.parts import ConvNorm, check_positive, parts, pooled_head
from cnnjax.typing import Images, Logits, UsageError


class DilatedCNN(nn.Module):
    """Convolutions of stride 1 that keep the map's size, and a head on the mean over all pixels.

    A dilation of 1 everywhere is the plain network of as many weights.

    Endpoints: ``stage1``, ``stage2``, ..., the map after each convolution; ``features`` and ``logits_map`` as
    ``models.parts.pooled_head`` says.

    Attributes:
      dilations: of each convolution: the spacing of its taps. Equal ones above 1, or ones with a common divisor,
        leave pixels unread (gridding; ``analysis.coverage.tap_counts``).
      width: channels of every map.
      num_classes: length of the logits.
      kernel_size, activation, kernel_init, norm, norm_groups: see ``models.choices``.
      dtype: type of the arithmetic.
    """

    dilations: tuple[int, ...] = (1, 2, 4, 8)
    width: int = 16
    num_classes: int = 10
    kernel_size: int = 3
    activation: str = "relu"
    kernel_init: str = "he"
    norm: str = "none"
    norm_groups: int = choices.added(0)
    dtype: Any = jnp.float32

    def __post_init__(self):
        choices.check(self)
        check_positive(width=self.width)
        if not self.dilations or not all(isinstance(each, int) and each >= 1 for each in self.dilations):
            raise UsageError(f"dilations must hold positive whole numbers, not {self.dilations}.")
        super().__post_init__()

    @property
    def parameter_stages(self) -> dict[str, tuple[str, ...]]:
        """Stages in order, with the prefixes of their parameters."""
        numbers = range(1, len(self.dilations) + 1)
        return {**{f"stage{number}": (f"stage{number}_",) for number in numbers}, "head": ("head",)}

    @nn.compact
    def __call__(
        self, images: Images, train: bool = False, dropout_rate: float | Float[Array, ""] = 0.0
    ) -> tuple[Logits, dict[str, Any]]:
        """Images (N, H, W, C) to logits (N, num_classes); dropout before the head."""
        endpoints: dict[str, Any] = {}
        layer = parts(self)
        x = images
        for number, dilation in enumerate(self.dilations, start=1):
            margin = dilation * (self.kernel_size // 2)
            x = endpoints[f"stage{number}"] = ConvNorm(
                self.width,
                (self.kernel_size, self.kernel_size),
                layer,
                padding=margin,
                dilation=(dilation, dilation),
                name=f"stage{number}_layer",
            )(x, train)
        return pooled_head(self, x, endpoints, train, dropout_rate), endpoints


VARIANTS = {"dilated_cnn": Entry(DilatedCNN, (32, 32, 3), 2015)}
