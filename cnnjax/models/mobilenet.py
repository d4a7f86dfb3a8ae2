"""MobileNets: depthwise-separable convolutions (Howard et al. 2017, arXiv:1704.04861; S4:524-580) and inverted
residual blocks (Sandler et al. 2018, arXiv:1801.04381; S4:582).

A depthwise convolution filters every channel by itself; a 1x1 convolution then mixes the channels. Together they
cost 1/c + 1/f² of a full f x f convolution with c output channels (S4:560-572).

Equal blocks are not scanned: on the CPU scanning made them up to a quarter slower to run and little faster to compile.
"""

import math
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from cnnjax.models import choices
from cnnjax.models.entry import Entry
from cnnjax.models.parts import (
    PADDINGS,
    ConvNorm,
    Parts,
    check_multiplier,
    check_padding,
    parts,
    pooled_head,
)
from cnnjax.models.stages import stage_prefixes
from cnnjax.nn import Dropout
from cnnjax.nn.norm import EPSILON
from cnnjax.typing import Images, Logits, UsageError

# Version 1: channels and number of convolutions of each stage. All stages but the first begin with stride 2.
SEPARABLE = ((64, 1), (128, 2), (256, 2), (512, 6), (1024, 2))
# Version 2: expansion, channels, number of blocks, and stride of the first block, of each stage.
INVERTED = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
STEM, LAST = 32, 1280


def make_divisible(channels: float, divisor: int = 8) -> int:
    """The nearest multiple of ``divisor``, but at least one of it and at least 0.9 ``channels``.

    This is how the authors' code, and after it torchvision's and timm's, rounds a multiplied number of channels.
    """
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded if rounded >= 0.9 * channels else rounded + divisor


class SeparableConv(nn.Module):
    """A depthwise 3x3 convolution, then a 1x1 convolution, each with normalisation and activation.

    Children ``depthwise`` and ``pointwise``; ``padding``, of the first, is as in ``parts.ConvNorm``.
    """

    features: int
    strides: tuple[int, int]
    parts: Parts
    padding: str | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"], train: bool) -> Float[Array, "n h2 w2 o"]:
        """Activations (N, H, W, C) to (N, H / stride, W / stride, features), rounded up."""
        channels = x.shape[-1]
        x = ConvNorm(
            channels, (3, 3), self.parts, self.strides, groups=channels, padding=self.padding, name="depthwise"
        )(x, train)
        return ConvNorm(self.features, (1, 1), self.parts, name="pointwise")(x, train)


class SqueezeExcite(nn.Module):
    """Weighs every channel by a number in (0, 1) that depends on all channels' averages (Hu et al. 2018).

    Children ``reduce`` (to ``squeezed`` channels, then the activation) and ``expand`` (back, then the sigmoid).
    """

    squeezed: int
    parts: Parts

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h w c"]:
        """Activations (N, H, W, C) to the same shape."""
        weight = x.mean((1, 2), keepdims=True)
        weight = self.parts.act(self.parts.conv(self.squeezed, (1, 1), use_bias=True, name="reduce")(weight))
        return x * nn.sigmoid(self.parts.conv(x.shape[-1], (1, 1), use_bias=True, name="expand")(weight))


class InvertedResidual(nn.Module):
    """1x1 expansion, depthwise convolution, 1x1 projection without activation; x is added if the shape stays.

    The shortcut connects the narrow ends, hence "inverted" (Sandler et al. 2018, figure 3). Children ``expand``
    (absent where the expansion is 1), ``depthwise``, ``squeeze_excite`` (absent where ``squeezed`` is 0), ``project``.

    Attributes:
      features: output channels.
      expansion: channels between expansion and projection, for one of the input.
      kernel_size, strides: of the depthwise convolution.
      parts: the network's factories.
      padding: of the depthwise convolution, as in ``parts.ConvNorm``.
      squeezed: channels of the squeeze in ``SqueezeExcite``; 0 leaves it out.
      stochastic_depth: probability, for each example, that training skips the block (Huang et al. 2016).
    """

    features: int
    expansion: int
    kernel_size: tuple[int, int]
    strides: tuple[int, int]
    parts: Parts
    padding: str | None = None
    squeezed: int = 0
    stochastic_depth: float = 0.0

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"], train: bool) -> Float[Array, "n h2 w2 o"]:
        """Activations (N, H, W, C) to (N, H / stride, W / stride, features), rounded up."""
        hidden, y = x.shape[-1] * self.expansion, x
        if self.expansion != 1:
            y = ConvNorm(hidden, (1, 1), self.parts, name="expand")(y, train)
        y = ConvNorm(
            hidden, self.kernel_size, self.parts, self.strides, groups=hidden, padding=self.padding, name="depthwise"
        )(y, train)
        if self.squeezed:
            y = SqueezeExcite(self.squeezed, self.parts, name="squeeze_excite")(y)
        y = ConvNorm(self.features, (1, 1), self.parts, act=False, name="project")(y, train)
        if self.strides != (1, 1) or x.shape[-1] != self.features:
            return y
        if train and self.stochastic_depth > 0:  # one draw for the whole of an example
            y *= Dropout()(jnp.ones((len(y), 1, 1, 1), y.dtype), self.stochastic_depth, train)
        return x + y


class MobileNetV1(nn.Module):
    """A 3x3 convolution of stride 2, stages of depthwise-separable convolutions, average pooling, a dense layer.

    As timm's ``mobilenetv1_100``, whose weights load: padding of half the kernel, relu6, epsilon 1e-5. The authors'
    network in TensorFlow, and Keras's, have padding="SAME" and epsilon=1e-3.

    Endpoints: ``stem``, ``stage1`` ... ``stage5``, ``features``, ``logits_map``.

    Attributes:
      width_multiplier: the paper's alpha, of all channels, which are rounded to multiples of 8. The paper's
        resolution multiplier is the images' size.
      separable: False puts a full 3x3 convolution in place of every separable one (the paper, table 4).
      stages: (channels, convolutions) of each stage.
      padding: of the 3x3 convolutions, "half" the kernel on all sides, as in PyTorch; or "SAME" as in TensorFlow, which
        at stride 2 pads an even side by (0, 1).
      epsilon: of batch normalisation, and of the others.
      num_classes: length of the logits.
      activation, kernel_init, norm, norm_groups: see ``models.choices``.
      dtype: type of the arithmetic.
    """

    width_multiplier: float = 1.0
    separable: bool = True
    stages: tuple[tuple[int, int], ...] = SEPARABLE
    padding: str = choices.added("half")
    epsilon: float = choices.added(EPSILON)
    num_classes: int = 1000
    activation: str = "relu6"
    kernel_init: str = "he_fan_out"
    norm: str = "batch"
    norm_groups: int = choices.added(0)
    dtype: Any = jnp.float32

    def __post_init__(self):
        _check(self, [STEM, *(channels for channels, _ in self.stages)])
        super().__post_init__()

    @property
    def min_size(self) -> int:
        """Smallest height and width, in pixels: the stem and all stages but the first halve them."""
        return 2 ** len(self.stages)

    @property
    def parameter_stages(self) -> dict[str, tuple[str, ...]]:
        """Stages in order, with the prefixes of their parameters."""
        return stage_prefixes(len(self.stages))

    @nn.compact
    def __call__(
        self, images: Images, train: bool = False, dropout_rate: float | Float[Array, ""] = 0.0
    ) -> tuple[Logits, dict[str, Any]]:
        """Images (N, H, W, C) to logits (N, num_classes); dropout before the head."""
        made, padding = parts(self, epsilon=self.epsilon), PADDINGS[self.padding]
        stem = make_divisible(STEM * self.width_multiplier)
        x = ConvNorm(stem, (3, 3), made, (2, 2), padding=padding, name="stem")(images, train)
        endpoints = {"stem": x}
        for stage, (channels, count) in enumerate(self.stages, start=1):
            features = make_divisible(channels * self.width_multiplier)
            for index in range(count):
                strides, name = (2, 2) if stage > 1 and index == 0 else (1, 1), f"stage{stage}_{index}"
                if self.separable:
                    x = SeparableConv(features, strides, made, padding, name=name)(x, train)
                else:
                    x = ConvNorm(features, (3, 3), made, strides, padding=padding, name=name)(x, train)
            endpoints[f"stage{stage}"] = x
        return pooled_head(self, x, endpoints, train, dropout_rate), endpoints


class MobileNetV2(nn.Module):
    """A 3x3 convolution of stride 2, stages of inverted residual blocks, a 1x1 convolution, and the head.

    As torchvision's ``mobilenet_v2`` and timm's ``mobilenetv2_100``, whose weights load: padding of half the
    kernel, epsilon 1e-5. The authors' network in TensorFlow, and Keras's, have padding="SAME" and epsilon=1e-3.

    Endpoints: ``stem``, ``stage1`` ... ``stage7``, ``stage8`` (the last 1x1 convolution), ``features``,
    ``logits_map``.

    Attributes:
      width_multiplier: of all channels, which are rounded to multiples of 8; but the last 1x1 convolution never
        has fewer than 1280.
      stages: (expansion, channels, blocks, stride of the first block) of each stage.
      padding: of the 3x3 convolutions, "half" the kernel on all sides, as in PyTorch; or "SAME" as in TensorFlow, which
        at stride 2 pads an even side by (0, 1).
      epsilon: of batch normalisation, and of the others.
      num_classes: length of the logits.
      activation, kernel_init, norm, norm_groups: see ``models.choices``.
      dtype: type of the arithmetic.
    """

    width_multiplier: float = 1.0
    stages: tuple[tuple[int, int, int, int], ...] = INVERTED
    padding: str = choices.added("half")
    epsilon: float = choices.added(EPSILON)
    num_classes: int = 1000
    activation: str = "relu6"
    kernel_init: str = "he_fan_out"
    norm: str = "batch"
    norm_groups: int = choices.added(0)
    dtype: Any = jnp.float32

    def __post_init__(self):
        _check(self, [STEM, *(channels for _, channels, _, _ in self.stages)])
        super().__post_init__()

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
        made, padding = parts(self, epsilon=self.epsilon), PADDINGS[self.padding]
        stem = make_divisible(STEM * self.width_multiplier)
        x = ConvNorm(stem, (3, 3), made, (2, 2), padding=padding, name="stem")(images, train)
        endpoints = {"stem": x}
        for stage, (expansion, channels, count, stride) in enumerate(self.stages, start=1):
            features = make_divisible(channels * self.width_multiplier)
            for index in range(count):
                strides = (stride, stride) if index == 0 else (1, 1)
                name = f"stage{stage}_{index}"
                block = InvertedResidual(features, expansion, (3, 3), strides, made, padding, name=name)
                x = block(x, train)
            endpoints[f"stage{stage}"] = x
        last = make_divisible(LAST * max(1.0, self.width_multiplier))
        x = ConvNorm(last, (1, 1), made, name=f"stage{len(self.stages) + 1}")(x, train)
        endpoints[f"stage{len(self.stages) + 1}"] = x
        return pooled_head(self, x, endpoints, train, dropout_rate), endpoints


def _check(model, channels):
    choices.check(model)
    check_padding(model.padding)
    for numbers in model.stages:
        if min(numbers) < 1:
            raise UsageError(f"stages must hold positive whole numbers, not {numbers}.")
    check_multiplier("width_multiplier", model.width_multiplier, min(channels))


VARIANTS = {
    "mobilenet_v1": Entry(MobileNetV1, (224, 224, 3), 2017),
    "mobilenet_v2": Entry(MobileNetV2, (224, 224, 3), 2018),
}
