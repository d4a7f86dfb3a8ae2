"""VGG (Simonyan and Zisserman 2014, arXiv:1409.1556; S2:145-181; S3:499-528): 3x3 convolutions, 2x2 max pooling.

The lectures' rule: every convolution is 3x3, stride 1, SAME; every pooling is 2x2, stride 2; the
sides halve and the channels double from stage to stage (S4:395-401). Kernels and pooling can be
others, to ask what the rule is worth.

``vgg11``, ``vgg11_lrn``, ``vgg13``, ``vgg16_1x1``, ``vgg16`` and ``vgg19`` are the configurations A, A-LRN, B, C, D
and E of the paper's table 1. (The lecture's copy, S2:166, lacks a 1x1 convolution in C and a 3x3 one in E.)
``vgg11_bn`` and so on have batch norm beside the convolutions' biases, which it makes idle, as torchvision's.
"""

from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from cnnjax.models import choices
from cnnjax.models.entry import Entry
from cnnjax.models.flattened import check_dense, dense_stages, flattened_head
from cnnjax.models.parts import halved, norm_of, response_norm
from cnnjax.nn import Conv, Dropout, activation, initializer
from cnnjax.typing import Images, Logits, UsageError

# Channels and number of convolutions of each stage; then the dense layers before the head.
SMALL = (((32, 2), (64, 2), (128, 2)), (128,))
# The paper's: channels of the stages, and by the number of layers the convolutions in each.
CHANNELS = (64, 128, 256, 512, 512)
CONVOLUTIONS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}


class VGG(nn.Module):
    """Stages of convolutions, each ended by pooling, then dense layers with dropout.

    The published networks are as torchvision's, whose weights load: images whose last map is not 7x7 are averaged
    to it. timm's weights load too; on maps larger than 7x7 its networks give something else, for they average what
    the second dense layer says of all windows.

    The paper starts configuration A from N(0, 0.01²) and the others from A's trained layers. Here all start from
    ``kernel_init``.

    Endpoints: ``stage1``, ``stage2``, ... after pooling; ``dense1``, ..., ``features`` and ``logits_map`` as
    ``models.flattened`` says.

    Attributes:
      stages: (channels, convolutions) of each stage.
      dense: units of the hidden dense layers.
      num_classes: length of the logits.
      kernel_size, pool, activation, head_activation, kernel_init: see ``models.choices``.
      norm: one of ``nn.NORMS``; "none" as in the paper.
      norm_groups: see ``models.choices``.
      dropout_at: "dense", or "all": also after the pooling of every stage.
      map_size: side of the map before the dense layers, 7 in the paper, to which others are averaged; 0 is
        whatever the images leave.
      pointwise_from: from this stage on the last convolution is 1x1 (configuration C: 3); 0 is none.
      lrn: local response normalisation after the first activation (configuration A-LRN).
      lrn_size, lrn_alpha, lrn_beta, lrn_k: see ``models.choices``; those of Krizhevsky et al. 2012,
        as the paper says.
      conv_bias: convolutions have biases beside their normalisation's.
      unbiased_variance: the running variance of batch norm is the unbiased one.
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
    norm_groups: int = choices.added(0)
    dropout_at: str = "dense"
    map_size: int = 0
    pointwise_from: int = 0
    lrn: bool = False
    lrn_size: int = choices.added(5)
    lrn_alpha: float = choices.added(1e-4)
    lrn_beta: float = choices.added(0.75)
    lrn_k: float = choices.added(2.0)
    conv_bias: bool = False
    unbiased_variance: bool = False
    dtype: Any = jnp.float32

    def __post_init__(self):
        choices.check(self)
        check_dense(self.dense, self.map_size)
        if not self.stages or not all(map(_is_stage, self.stages)):
            raise UsageError(
                f"stages must hold pairs of positive whole numbers (channels, convolutions), not {self.stages}."
            )
        count = len(self.stages)
        if not 0 <= self.pointwise_from <= count:
            raise UsageError(f"pointwise_from must be a stage, 1 to {count}, or 0 for none, not {self.pointwise_from}.")
        if self.conv_bias and self.norm == "none":
            raise UsageError("conv_bias=True is for networks with a normalisation; norm=none is a bias already.")
        super().__post_init__()

    @property
    def min_size(self) -> int:
        """Smallest height and width, in pixels: every stage halves them."""
        return 2 ** len(self.stages)

    @property
    def parameter_stages(self) -> dict[str, tuple[str, ...]]:
        """Stages in order, with the prefixes of their parameters."""
        numbers = range(1, len(self.stages) + 1)
        return {f"stage{n}": (f"conv{n}_", f"norm{n}_") for n in numbers} | dense_stages(len(self.dense))

    @nn.compact
    def __call__(
        self, images: Images, train: bool = False, dropout_rate: float | Float[Array, ""] = 0.0
    ) -> tuple[Logits, dict[str, Any]]:
        """Images (N, H, W, C) to logits (N, num_classes); dropout after every hidden dense layer."""
        endpoints: dict[str, Any] = {}
        x = images
        for stage, (features, repeats) in enumerate(self.stages, start=1):
            for index in range(1, repeats + 1):
                x = self._convolution(stage, index, features, x, train)
            x = endpoints[f"stage{stage}"] = halved(self.pool, x)
            if self.dropout_at == "all":
                x = Dropout()(x, dropout_rate, train)
        return flattened_head(self, x, endpoints, train, dropout_rate, self.dense, map_size=self.map_size), endpoints

    def _convolution(self, stage, index, features, x, train):
        """Convolution, normalisation and activation; local response normalisation after the first of all."""
        last = index == self.stages[stage - 1][1]
        side = 1 if last and 0 < self.pointwise_from <= stage else self.kernel_size
        strides = (2, 2) if last and self.pool == "stride" else (1, 1)
        layer = partial(Conv, use_bias=self.conv_bias, kernel_init=initializer(self.kernel_init), dtype=self.dtype)
        norm = norm_of(self, features, unbiased=self.unbiased_variance)
        x = layer(features, (side, side), strides=strides, name=f"conv{stage}_{index}")(x)
        x = activation(self.activation)(norm(name=f"norm{stage}_{index}")(x, train))
        return response_norm(self)(x) if (stage, index) == (1, 1) else x


def _is_stage(stage):
    return isinstance(stage, tuple) and len(stage) == 2 and all(isinstance(n, int) and n >= 1 for n in stage)


def _published(depth: int, **fields: Any) -> Entry:
    stages = tuple(zip(CHANNELS, CONVOLUTIONS[depth], strict=True))
    build = partial(VGG, stages=stages, dense=(4096, 4096), map_size=7, num_classes=1000, **fields)
    return Entry(build, (224, 224, 3), 2014)


VARIANTS = {
    "vgg_small": Entry(VGG, (32, 32, 3), 2014),
    **{f"vgg{depth}": _published(depth) for depth in CONVOLUTIONS},
    **{
        f"vgg{depth}_bn": _published(depth, norm="batch", conv_bias=True, unbiased_variance=True)
        for depth in CONVOLUTIONS
    },
    "vgg11_lrn": _published(11, lrn=True),
    "vgg16_1x1": _published(16, pointwise_from=3),
}
