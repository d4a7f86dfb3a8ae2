"""Inception v3 (Szegedy et al. 2015, arXiv:1512.00567; S4:494-522): large kernels made of small ones.

Two 3x3 convolutions stand for a 5x5 one, and 7x1 after 1x7 for 7x7. The blocks' names are those of the authors'
program: ``mixed5b`` to ``mixed5d`` are the paper's figure 5, ``mixed6b`` to ``mixed6e`` its figure 6, ``mixed7b``
and ``mixed7c`` its figure 7; ``mixed6a`` and ``mixed7a`` halve the sides (figure 10).
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from cnnjax.models import choices
from cnnjax.models.branches import Block, Branch, Layer, auxiliary_pool, scaled
from cnnjax.models.entry import Entry
from cnnjax.models.parts import ConvNorm, Parts, check_multiplier, parts, pooled_head
from cnnjax.nn import initializer
from cnnjax.ops.pool import adaptive_average_pool, max_pool
from cnnjax.typing import Images, Logits

HALVE = ((2, 2), "VALID")  # strides and padding

# Layers before the blocks; a 3x3 max pooling with stride 2 follows the third and the last.
STEM = (
    Layer("conv1a", 32, (3, 3), *HALVE),
    Layer("conv2a", 32, (3, 3), padding="VALID"),
    Layer("conv2b", 64, (3, 3)),
    Layer("conv3b", 80, (1, 1)),
    Layer("conv4a", 192, (3, 3), padding="VALID"),
)


def mixed5(project: int) -> tuple[Branch, ...]:
    """5x5, and two 3x3 in its place."""
    return (
        Branch((Layer("branch1x1", 64, (1, 1)),)),
        Branch((Layer("branch5x5_1", 48, (1, 1)), Layer("branch5x5_2", 64, (5, 5)))),
        Branch(
            (
                Layer("branch3x3dbl_1", 64, (1, 1)),
                Layer("branch3x3dbl_2", 96, (3, 3)),
                Layer("branch3x3dbl_3", 96, (3, 3)),
            )
        ),
        Branch((Layer("branch_pool", project, (1, 1)),), pool="average"),
    )


def mixed6(inner: int) -> tuple[Branch, ...]:
    """Rows and columns of 7 pixels, once and twice."""
    return (
        Branch((Layer("branch1x1", 192, (1, 1)),)),
        Branch(
            (
                Layer("branch7x7_1", inner, (1, 1)),
                Layer("branch7x7_2", inner, (1, 7)),
                Layer("branch7x7_3", 192, (7, 1)),
            )
        ),
        Branch(
            (
                Layer("branch7x7dbl_1", inner, (1, 1)),
                Layer("branch7x7dbl_2", inner, (7, 1)),
                Layer("branch7x7dbl_3", inner, (1, 7)),
                Layer("branch7x7dbl_4", inner, (7, 1)),
                Layer("branch7x7dbl_5", 192, (1, 7)),
            )
        ),
        Branch((Layer("branch_pool", 192, (1, 1)),), pool="average"),
    )


MIXED6A = (
    Branch((Layer("branch3x3", 384, (3, 3), *HALVE),)),
    Branch(
        (
            Layer("branch3x3dbl_1", 64, (1, 1)),
            Layer("branch3x3dbl_2", 96, (3, 3)),
            Layer("branch3x3dbl_3", 96, (3, 3), *HALVE),
        )
    ),
    Branch((), pool="halve"),
)
MIXED7A = (
    Branch((Layer("branch3x3_1", 192, (1, 1)), Layer("branch3x3_2", 320, (3, 3), *HALVE))),
    Branch(
        (
            Layer("branch7x7x3_1", 192, (1, 1)),
            Layer("branch7x7x3_2", 192, (1, 7)),
            Layer("branch7x7x3_3", 192, (7, 1)),
            Layer("branch7x7x3_4", 192, (3, 3), *HALVE),
        )
    ),
    Branch((), pool="halve"),
)
# On the coarsest map 1x3 and 3x1 lie side by side.
MIXED7 = (
    Branch((Layer("branch1x1", 320, (1, 1)),)),
    Branch(
        (Layer("branch3x3_1", 384, (1, 1)),),
        ends=(Layer("branch3x3_2a", 384, (1, 3)), Layer("branch3x3_2b", 384, (3, 1))),
    ),
    Branch(
        (Layer("branch3x3dbl_1", 448, (1, 1)), Layer("branch3x3dbl_2", 384, (3, 3))),
        ends=(Layer("branch3x3dbl_3a", 384, (1, 3)), Layer("branch3x3dbl_3b", 384, (3, 1))),
    ),
    Branch((Layer("branch_pool", 192, (1, 1)),), pool="average"),
)
BLOCKS = {
    "5b": mixed5(32),
    "5c": mixed5(64),
    "5d": mixed5(64),
    "6a": MIXED6A,
    "6b": mixed6(128),
    "6c": mixed6(160),
    "6d": mixed6(160),
    "6e": mixed6(192),
    "7a": MIXED7A,
    "7b": MIXED7,
    "7c": MIXED7,
}
NARROWEST = 32
STAGE_ENDS = {"5d": "stage1", "6e": "stage2", "7c": "stage3"}


class AuxiliaryHead(nn.Module):
    """A classifier on the last map of the second stage: children ``conv0``, ``conv1``, ``head``.

    Average pooling of 5x5 with stride 3, a 1x1 convolution with 128 channels, a 5x5 one with 768, which is not
    padded, global average pooling, a dense layer. There is no dropout, as in torchvision.
    """

    num_classes: int
    parts: Parts
    multiplier: float
    kernel_init: Any
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"], train: bool) -> Logits:
        """Activations (N, H, W, C) to logits (N, num_classes)."""
        x = auxiliary_pool(x)
        x = adaptive_average_pool(x, (max(x.shape[1], 5), max(x.shape[2], 5)))
        x = ConvNorm(scaled(128, self.multiplier), (1, 1), self.parts, name="conv0")(x, train)
        x = ConvNorm(scaled(768, self.multiplier), (5, 5), self.parts, padding="VALID", name="conv1")(x, train)
        head = nn.Dense(self.num_classes, kernel_init=self.kernel_init, dtype=self.dtype, name="head")
        return head(x.mean((1, 2)))


class InceptionV3(nn.Module):
    """torchvision's Inception v3, whose weights load into it, as do timm's; batch norm with epsilon 1e-3.

    Dropout acts before the head (0.2 in the authors' program, 0.5 in torchvision). Both libraries' weights were
    trained on images scaled to [-1, 1], mean 0.5 and standard deviation 0.5 in every channel; torchvision's
    ``transform_input`` rescales so images that were normalised with ImageNet's means. This network reads its images
    as they are.

    Whatever has stride 2, convolution or pooling, is not padded ("VALID"), as in the authors' network in TensorFlow, in
    torchvision's and in Keras's.

    Endpoints: ``stem``, ``stage1`` (5d), ``stage2`` (6e), ``stage3`` (7c); ``mixed5b`` and so on for every block;
    ``features``, ``logits_map``; with ``auxiliary`` the logits ``auxiliary1`` (after 6e), also in evaluation. That
    head never changes the network's logits.

    Attributes:
      num_classes: length of the logits.
      auxiliary: whether there is an auxiliary head, for training (``Hyper.auxiliary_weight``). Torchvision's needs
        images of 299x299; here it takes smaller ones, whose maps are brought to the 5x5 pixels that it reads by
        adaptive average pooling.
      width_multiplier: of the channels of every layer but the heads' last, rounded to the nearest whole number, halves
        up.
      average_padding: whether the blocks' average pooling counts the zeros around a map, as in torchvision; without,
        it averages the pixels that there are, as in Keras.
      activation, kernel_init, norm, norm_groups: see ``models.choices``.
      dtype: type of the arithmetic.
    """

    num_classes: int = 1000
    auxiliary: bool = False
    width_multiplier: float = 1.0
    activation: str = "relu"
    kernel_init: str = "he"
    norm: str = "batch"
    norm_groups: int = choices.added(0)
    average_padding: bool = choices.added(True)
    dtype: Any = jnp.float32

    min_size = 75  # what is not padded and halves the sides must leave a pixel for the last stage

    def __post_init__(self):
        choices.check(self)
        check_multiplier("width_multiplier", self.width_multiplier, NARROWEST)
        super().__post_init__()

    @property
    def parameter_stages(self) -> dict[str, tuple[str, ...]]:
        """Stages from input to head, each with the prefixes of its parameters' names."""
        blocks = {f"stage{stage}": (f"mixed{stage + 4}",) for stage in (1, 2, 3)}
        auxiliary = {"auxiliary": ("auxiliary",)} if self.auxiliary else {}
        return {"stem": ("conv",), **blocks, **auxiliary, "head": ("head",)}

    @nn.compact
    def __call__(
        self, images: Images, train: bool = False, dropout_rate: float | Float[Array, ""] = 0.0
    ) -> tuple[Logits, dict[str, Any]]:
        """Images (N, H, W, C) to logits (N, num_classes); dropout before the head."""
        factories = parts(self, epsilon=1e-3)
        x = images
        for layer in STEM:
            channels = scaled(layer.channels, self.width_multiplier)
            conv = ConvNorm(channels, layer.kernel, factories, layer.strides, padding=layer.padding, name=layer.name)
            x = conv(x, train)
            if layer.name in ("conv2b", "conv4a"):
                x = max_pool(x, (3, 3), (2, 2))
        endpoints = {"stem": x}
        for name, branches in BLOCKS.items():
            block = Block(branches, factories, self.width_multiplier, self.average_padding, name=f"mixed{name}")
            x = block(x, train)
            endpoints[f"mixed{name}"] = x
            if name in STAGE_ENDS:
                endpoints[STAGE_ENDS[name]] = x
            if name == "6e" and self.auxiliary:
                init = initializer(self.kernel_init)
                head = AuxiliaryHead(
                    self.num_classes, factories, self.width_multiplier, init, self.dtype, name="auxiliary1"
                )
                endpoints["auxiliary1"] = head(x, train)
        return pooled_head(self, x, endpoints, train, dropout_rate), endpoints


VARIANTS = {"inception_v3": Entry(InceptionV3, (299, 299, 3), 2015)}
