"""EfficientNets (Tan and Le 2019, arXiv:1905.11946; S4:588-593): one network, scaled in three directions at once.

A small network found by search (B0) is made deeper, wider and fed larger images. ``coefficients`` are the paper's
three multipliers for a budget of 2^phi, ``compound_scaling`` the network and the image size that they give.
"""

import math
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from cnnjax.models import choices
from cnnjax.models.entry import Entry
from cnnjax.models.mobilenet import InvertedResidual, make_divisible
from cnnjax.models.parts import PADDINGS, ConvNorm, check_multiplier, check_padding, parts, pooled_head
from cnnjax.models.stages import stage_prefixes
from cnnjax.typing import Images, Logits, UsageError

STEM, IMAGE_SIZE = 32, 224


class Stage(NamedTuple):
    """Equal inverted residual blocks, but for the first one's stride.

    Attributes:
      expansion: of ``mobilenet.InvertedResidual``.
      channels: that every block puts out.
      blocks: their number.
      kernel_size: side of the depthwise convolutions' kernels.
      stride: of the first block.
    """

    expansion: int
    channels: int
    blocks: int
    kernel_size: int
    stride: int


# The paper's table 1, whose printed strides of 80 and 112 channels are swapped against the resolutions beside them
# and against the authors' code: 80 channels halve the sides, 112 do not.
B0 = (
    Stage(1, 16, 1, 3, 1),
    Stage(6, 24, 2, 3, 2),
    Stage(6, 40, 2, 5, 2),
    Stage(6, 80, 3, 3, 2),
    Stage(6, 112, 3, 5, 1),
    Stage(6, 192, 4, 5, 2),
    Stage(6, 320, 1, 3, 1),
)


class Scaled(NamedTuple):
    """A scaled network.

    Attributes:
      stem: channels of the first convolution.
      stages: of inverted residual blocks.
      last: channels of the last 1x1 convolution, four times those of the last stage.
      image_size: height and width, in pixels.
    """

    stem: int
    stages: tuple[Stage, ...]
    last: int
    image_size: int


def coefficients(phi: float, alpha: float = 1.2, beta: float = 1.1, gamma: float = 1.15) -> tuple[float, float, float]:
    """Multipliers (depth, width, resolution) = (alpha^phi, beta^phi, gamma^phi) of the paper's equation 3.

    Multiply-adds grow by about (alpha beta² gamma²)^phi, where the paper asks for a base of about 2. The depths of
    B1 to B7 are those of phi = 0.5, 1, 2, ..., 6, rounded by hand; their widths and sizes stray further.
    """
    return alpha**phi, beta**phi, gamma**phi


def compound_scaling(depth: float, width: float, resolution: float = 1.0, stages: tuple[Stage, ...] = B0) -> Scaled:
    """B0, or a network of other ``stages``, with its blocks, channels and image size multiplied.

    Blocks are rounded up, channels to multiples of 8 and the image size, B0's, to the nearest whole number.

    Raises:
      UsageError: a multiplier is not positive, or leaves no channel or no pixel.
    """
    check_multiplier("depth_multiplier", depth)
    check_multiplier("width_multiplier", width, min(stage.channels for stage in stages))
    check_multiplier("resolution", resolution, IMAGE_SIZE)
    grown = tuple(
        stage._replace(channels=make_divisible(stage.channels * width), blocks=math.ceil(stage.blocks * depth))
        for stage in stages
    )
    return Scaled(make_divisible(STEM * width), grown, 4 * grown[-1].channels, round(IMAGE_SIZE * resolution))


class EfficientNet(nn.Module):
    """A 3x3 convolution of stride 2, stages of inverted residual blocks that weigh their channels, and the head.

    As torchvision's ``efficientnet_b0`` to ``b7`` and timm's of the same names, whose weights load. For timm's
    ``tf_efficientnet_b0`` to ``b7``, which hold the authors' weights, set padding="SAME" and epsilon=1e-3.

    Endpoints: ``stem``, ``stage1`` ... ``stage7``, ``stage8`` (the last 1x1 convolution, one after the stages),
    ``features``, ``logits_map``.

    Attributes:
      stages: before they are multiplied, each (expansion, channels, blocks, side of the kernel, stride).
      depth_multiplier: of the number of blocks of every stage, rounded up.
      width_multiplier: of all channels, which are rounded to multiples of 8.
      padding: "half" the kernel on all sides, as in torchvision; or "SAME" as in TensorFlow, which pads less where
        a stride of 2 meets an even side.
      epsilon, momentum: of batch normalisation; torchvision has 1e-3 and 0.99 in B5 to B7.
      stochastic_depth: probability that training skips the last block for an example; that of the others falls
        linearly to 0 at the input (Huang et al. 2016). Blocks without a shortcut are never skipped. Draws from the
        ``dropout`` stream; 0 draws nothing. The paper has 0.2.
      num_classes: length of the logits.
      activation, kernel_init, norm, norm_groups: see ``models.choices``.
      dtype: type of the arithmetic.
    """

    stages: tuple[tuple[int, int, int, int, int], ...] = B0
    depth_multiplier: float = 1.0
    width_multiplier: float = 1.0
    padding: str = "half"
    epsilon: float = 1e-5
    momentum: float = 0.9
    stochastic_depth: float = 0.0
    num_classes: int = 1000
    activation: str = "silu"
    kernel_init: str = "he_fan_out"
    norm: str = "batch"
    norm_groups: int = choices.added(0)
    dtype: Any = jnp.float32

    def __post_init__(self):
        choices.check(self)
        if not self.stages or not all(len(stage) == 5 and min(stage) >= 1 for stage in self.stages):
            raise UsageError(f"stages must hold five positive whole numbers each, not {self.stages}.")
        check_padding(self.padding)
        if not 0 <= self.stochastic_depth < 1:
            raise UsageError(
                f"stochastic_depth={self.stochastic_depth} must be a probability of at least 0 and below 1. "
                "Use 0 to keep every block."
            )
        _ = self.scaled  # refuses bad multipliers
        super().__post_init__()

    @property
    def scaled(self) -> Scaled:
        """The numbers of channels and blocks."""
        return compound_scaling(
            self.depth_multiplier, self.width_multiplier, stages=tuple(Stage(*stage) for stage in self.stages)
        )

    @property
    def min_size(self) -> int:
        """Smallest height and width, in pixels: the product of all strides."""
        return 2 * math.prod(stride for *_, stride in self.stages)

    @property
    def parameter_stages(self) -> dict[str, tuple[str, ...]]:
        """Stages in order, with the prefixes of their parameters."""
        return stage_prefixes(len(self.stages) + 1)

    @nn.compact
    def __call__(
        self, images: Images, train: bool = False, dropout_rate: float | Float[Array, ""] = 0.0
    ) -> tuple[Logits, dict[str, Any]]:
        """Images (N, H, W, C) to logits (N, num_classes); dropout before the head."""
        made, padding = parts(self, epsilon=self.epsilon, momentum=self.momentum), PADDINGS[self.padding]
        scaled = self.scaled
        total, before = sum(stage.blocks for stage in scaled.stages), 0
        x = ConvNorm(scaled.stem, (3, 3), made, (2, 2), padding=padding, name="stem")(images, train)
        endpoints = {"stem": x}
        for number, stage in enumerate(scaled.stages, start=1):
            for index in range(stage.blocks):
                before += 1
                block = InvertedResidual(
                    stage.channels,
                    stage.expansion,
                    kernel_size=(stage.kernel_size, stage.kernel_size),
                    strides=(stage.stride, stage.stride) if index == 0 else (1, 1),
                    parts=made,
                    padding=padding,
                    squeezed=max(1, x.shape[-1] // 4),
                    stochastic_depth=self.stochastic_depth * before / total,
                    name=f"stage{number}_{index}",
                )
                x = block(x, train)
            endpoints[f"stage{number}"] = x
        last = f"stage{len(scaled.stages) + 1}"
        x = endpoints[last] = ConvNorm(scaled.last, (1, 1), made, name=last)(x, train)
        return pooled_head(self, x, endpoints, train, dropout_rate), endpoints


# (depth, width, image size) of B0 to B7, from the authors' code: the paper does not print them.
PUBLISHED = (
    (1.0, 1.0, 224),
    (1.1, 1.0, 240),
    (1.2, 1.1, 260),
    (1.4, 1.2, 300),
    (1.8, 1.4, 380),
    (2.2, 1.6, 456),
    (2.6, 1.8, 528),
    (3.1, 2.0, 600),
)


def _variant(number):
    depth, width, size = PUBLISHED[number]
    batch_norm = {"epsilon": 1e-3, "momentum": 0.99} if number >= 5 else {}
    build = partial(EfficientNet, depth_multiplier=depth, width_multiplier=width, **batch_norm)
    return Entry(build, (size, size, 3), 2019)


VARIANTS = {f"efficientnet_b{number}": _variant(number) for number in range(len(PUBLISHED))}
