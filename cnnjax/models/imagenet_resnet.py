"""The ImageNet networks of He et al. 2015 (arXiv:1512.03385, table 1; S2:183-203; S3:557-615; S4:406-436).

A 7x7 convolution and a 3x3 pooling, each of stride 2, stages of residual blocks whose sides halve and whose
channels double from stage to stage, global average pooling and a dense layer. ResNeXt (Xie et al. 2017,
arXiv:1611.05431) groups the 3x3 convolutions of the bottlenecks (S3:546-551). The plain networks are the same
without shortcuts, so that both share every other line and parameter.
"""

from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from cnnjax.models import choices
from cnnjax.models.entry import Entry
from cnnjax.models.parts import ConvNorm, Parts, check_positive, parts, pooled_head
from cnnjax.models.resnet import padded_identity, repeat, sow_response, stack_blocks, unstack_blocks
from cnnjax.models.stages import stage_prefixes
from cnnjax.nn.norm import EPSILON
from cnnjax.ops.conv import Pair
from cnnjax.ops.pool import max_pool
from cnnjax.typing import Images, Logits, UsageError, unknown

FORMS = {
    "block": ("basic", "bottleneck"),
    "shortcut": ("none", "A", "B", "C"),
    "stem": ("imagenet", "cifar"),
    "stride_in": ("3x3", "1x1"),
}
EXPANSION = 4  # a bottleneck's output channels, for one of its stage
STANDARD_WIDTH = 64  # of the first stage; width_per_group is given for it


class Layer(NamedTuple):
    """A convolution of a residual branch: its output channels, the side of its kernel, strides and groups."""

    features: int
    kernel: int
    strides: Pair = (1, 1)
    groups: int = 1


class ResidualBlock(nn.Module):
    """act(x + F(x)), where F is a few convolutions, each normalised (S3:593-604).

    Children ``conv1``, ``conv2``, ... and ``projection``, each with ``conv`` and ``norm``.

    Attributes:
      layers: of F.
      shortcut: "none" leaves F alone. "A" adds x, subsampled and padded with zero channels where the shape
        changes; "B" projects x with a 1x1 convolution there; "C" projects always.
      parts: the network's factories.
    """

    layers: tuple[Layer, ...]
    shortcut: str
    parts: Parts

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"], train: bool, dropout_rate: float = 0.0) -> Float[Array, "n h2 w2 o"]:
        """Activations (N, H, W, C) to (N, H / stride, W / stride, features), rounded up; nothing is dropped."""
        y = x
        for index, (features, kernel, strides, groups) in enumerate(self.layers, start=1):
            y = self.parts.act(y) if index > 1 else y
            layer = ConvNorm(features, (kernel, kernel), self.parts, strides, groups, act=False, name=f"conv{index}")
            y = layer(y, train)
            sow_response(self, f"conv{index}", y)
        changed = x.shape != y.shape
        if self.shortcut == "none":
            return self.parts.act(y)
        if self.shortcut == "C" or (changed and self.shortcut == "B"):
            strides = _total_strides(self.layers)
            x = ConvNorm(y.shape[-1], (1, 1), self.parts, strides, act=False, name="projection")(x, train)
        elif changed:
            x = padded_identity(x, y.shape[-1], _total_strides(self.layers))
        return self.parts.act(x + y)


class ResNet(nn.Module):
    """Stages of residual blocks, or of the same blocks without shortcuts.

    As torchvision's ``resnet18`` ... ``resnet152`` and ``resnext50_32x4d`` and timm's of these names, whose
    weights load: padding of half the kernel on all sides, also at stride 2 (the 7x7 convolution by 3, the pooling and
    3x3 convolutions by 1), epsilon 1e-5. For ``ResNet50``, ``ResNet101`` and ``ResNet152`` of
    keras.applications set stride_in="1x1", conv_bias=True and epsilon=1.001e-5.

    Endpoints: ``stem`` (before the pooling), ``stage1``, ``stage2``, ..., ``features``, ``logits_map``.

    Variables: ``stem``, ``stage1_first``, ``stage1_rest`` (the stage's other blocks), ``stage2_first``, ...,
    ``head``. Equal blocks are scanned: their arrays are stacked along a first axis, in order of depth;
    ``unstack`` takes them apart and ``stack`` puts them together. It stores ``responses`` as ``CifarResNet``
    does, of every convolution of the stem and of the branches.

    Attributes:
      stages: number of blocks of each stage.
      block: "basic" (two 3x3 convolutions) or "bottleneck" (1x1, 3x3, 1x1, with four times the channels at its
        ends).
      shortcut: "none" (plain) or the paper's options "A", "B" and "C"; see ``ResidualBlock``.
      stem: "imagenet", or "cifar" for small images: 3x3 of stride 1, and no pooling.
      stride_in: the convolution of a stage's first bottleneck that has the stride: "3x3" as in torchvision,
        or the first "1x1" as in the paper and in Caffe. Both have the same parameters.
      width: channels of the stem and of the first stage.
      conv_bias: convolutions have biases beside their normalisation's, which makes them idle.
      groups: of the bottlenecks' 3x3 convolutions.
      width_per_group: channels of each group in the first stage, where width is 64; other stages and widths
        have them in proportion.
      num_classes: length of the logits.
      activation, kernel_init, norm, norm_groups, epsilon: see ``models.choices``.
      dtype: type of the arithmetic.
    """

    stages: tuple[int, ...] = (2, 2, 2, 2)
    block: str = "basic"
    shortcut: str = "B"
    stem: str = "imagenet"
    stride_in: str = "3x3"
    width: int = STANDARD_WIDTH
    groups: int = 1
    width_per_group: int = STANDARD_WIDTH
    num_classes: int = 1000
    activation: str = "relu"
    kernel_init: str = "he"
    norm: str = "batch"
    norm_groups: int = choices.added(0)
    epsilon: float = choices.added(EPSILON)
    conv_bias: bool = choices.added(False)
    dtype: Any = jnp.float32

    def __post_init__(self):
        choices.check(self)
        for field, known in FORMS.items():
            if getattr(self, field) not in known:
                raise unknown(field, str(getattr(self, field)), known)
        if not self.stages or not all(isinstance(blocks, int) and blocks > 0 for blocks in self.stages):
            raise UsageError(f"stages must hold positive whole numbers of blocks, not {self.stages}.")
        if self.conv_bias and self.norm == "none":
            raise UsageError("conv_bias=True is for networks with a normalisation; norm=none is a bias already.")
        check_positive(width=self.width, groups=self.groups, width_per_group=self.width_per_group)
        _check_groups(self)
        super().__post_init__()

    @property
    def min_size(self) -> int:
        """Smallest height and width, in pixels: the stem's two strides and those of all stages but the first."""
        return 2 ** (len(self.stages) - 1) * (4 if self.stem == "imagenet" else 1)

    @property
    def parameter_stages(self) -> dict[str, tuple[str, ...]]:
        """Stages in order, with the prefixes of their parameters."""
        return stage_prefixes(len(self.stages))

    @nn.compact
    def __call__(
        self, images: Images, train: bool = False, dropout_rate: float | Float[Array, ""] = 0.0
    ) -> tuple[Logits, dict[str, Any]]:
        """Images (N, H, W, C) to logits (N, num_classes); dropout before the head."""
        made = parts(self, epsilon=self.epsilon, conv_bias=self.conv_bias)
        kernel, strides = ((7, 7), (2, 2)) if self.stem == "imagenet" else ((3, 3), (1, 1))
        x = ConvNorm(self.width, kernel, made, strides, act=False, name="stem")(images, train)
        sow_response(self, "stem", x)
        x = made.act(x)
        endpoints = {"stem": x}
        if self.stem == "imagenet":
            x = max_pool(x, (3, 3), (2, 2), 1)
        block = partial(ResidualBlock, shortcut=self.shortcut, parts=made)
        for stage, blocks in enumerate(self.stages, start=1):
            strides = (1, 1) if stage == 1 else (2, 2)
            x = block(_layers(self, stage, strides), name=f"stage{stage}_first")(x, train)
            if blocks > 1:
                # Scanned always: ResNet-34 and -50 of widths 16 and 64 (batch 8, 64x64 images, two cores, in
                # processor time) take 2 to 9 % less for a training step scanned than unrolled, to the same bits, and
                # 4 to 30 % less to compile; the wide ones need half the memory.
                rest = block(_layers(self, stage, (1, 1)), name=f"stage{stage}_rest")
                x = repeat(rest, blocks - 1, x, train, 0.0)
            endpoints[f"stage{stage}"] = x
        return pooled_head(self, x, endpoints, train, dropout_rate), endpoints

    @staticmethod
    def unstack(collection: dict[str, Any]) -> dict[str, Any]:
        """A collection of this network, such as its parameters, with an entry for each block: ``stage2.0``, ..."""
        return unstack_blocks(collection)

    @staticmethod
    def stack(collection: dict[str, Any]) -> dict[str, Any]:
        """The inverse of ``unstack``."""
        return stack_blocks(collection)


def _layers(model: ResNet, stage: int, strides: Pair) -> tuple[Layer, ...]:
    """The branch of a block, whose stride is ``strides``; stages are counted from 1."""
    channels = model.width * 2 ** (stage - 1)
    if model.block == "basic":
        return Layer(channels, 3, strides), Layer(channels, 3)
    hidden = channels * model.width_per_group // STANDARD_WIDTH * model.groups
    first, second = (strides, (1, 1)) if model.stride_in == "1x1" else ((1, 1), strides)
    return Layer(hidden, 1, first), Layer(hidden, 3, second, model.groups), Layer(channels * EXPANSION, 1)


def _total_strides(layers: tuple[Layer, ...]) -> Pair:
    rows, columns = 1, 1
    for layer in layers:
        rows, columns = rows * layer.strides[0], columns * layer.strides[1]
    return rows, columns


def _check_groups(model: ResNet) -> None:
    if model.block == "basic" and (model.groups, model.width_per_group) != (1, STANDARD_WIDTH):
        raise UsageError(
            f"groups={model.groups} and width_per_group={model.width_per_group} are of bottlenecks, and block=basic "
            "has none. Use block=bottleneck."
        )
    if model.width * model.width_per_group % STANDARD_WIDTH:
        raise UsageError(
            f"width={model.width} and width_per_group={model.width_per_group} give groups of a fractional number of "
            f"channels: their product must be a multiple of {STANDARD_WIDTH}."
        )


# Blocks of each stage, and their form (the paper, table 1).
DEPTHS = {
    18: ((2, 2, 2, 2), "basic"),
    34: ((3, 4, 6, 3), "basic"),
    50: ((3, 4, 6, 3), "bottleneck"),
    101: ((3, 4, 23, 3), "bottleneck"),
    152: ((3, 8, 36, 3), "bottleneck"),
}


def _entry(depth: int, year: int = 2015, **fields: Any) -> Entry:
    stages, block = DEPTHS[depth]
    return Entry(partial(ResNet, stages=stages, block=block, **fields), (224, 224, 3), year)


VARIANTS = {
    **{f"resnet{depth}": _entry(depth) for depth in DEPTHS},
    **{f"plain{depth}": _entry(depth, shortcut="none") for depth in (18, 34)},
    "resnext50_32x4d": _entry(50, 2016, groups=32, width_per_group=4),
}
