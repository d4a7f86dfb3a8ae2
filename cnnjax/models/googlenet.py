"""GoogLeNet (Szegedy et al. 2014, arXiv:1409.4842; S4:494-522, S2:340): nine blocks of parallel branches.

A block looks at its input through kernels of three sizes and a pooling at once. 1x1 convolutions before the
larger kernels reduce the channels that these read: a 5x5 convolution from 192 to 32 channels on 28x28 pixels
costs 120.4 million multiplications, and 12.4 million after a reduction to 16 channels (S4:502-511).
"""

from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from cnnjax.models import choices
from cnnjax.models.branches import Block, Branch, Layer, auxiliary_pool, scaled
from cnnjax.models.entry import Entry
from cnnjax.models.parts import ConvNorm, Parts, check_multiplier, parts, pooled_head, response_norm
from cnnjax.nn import Dropout, initializer
from cnnjax.ops.pool import adaptive_average_pool, ceil_padding, max_pool
from cnnjax.typing import Images, Logits, UsageError, unknown

# The paper's table 1. Channels of 1x1; 3x3 reduce, 3x3; 5x5 reduce, 5x5; pool proj.
INCEPTION = {
    "3a": (64, 96, 128, 16, 32, 32),
    "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64),
    "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}
AUXILIARY_AFTER = {"4a": "auxiliary1", "4d": "auxiliary2"}
AUXILIARY_POOLS = ("windows", "adaptive")
STEMS = ("imagenet", "small")


def block(name: str, large_kernel: int = 5, reduction: bool = True) -> tuple[Branch, ...]:
    """The branches of the block called ``name``; layers are named as the columns of the paper's table."""
    ones, reduce3, threes, reduce5, fives, project = INCEPTION[name]
    large = (large_kernel, large_kernel)
    before3 = (Layer("reduce3x3", reduce3, (1, 1)),) if reduction else ()
    before5 = (Layer("reduce5x5", reduce5, (1, 1)),) if reduction else ()
    return (
        Branch((Layer("conv1x1", ones, (1, 1)),)),
        Branch((*before3, Layer("conv3x3", threes, (3, 3)))),
        Branch((*before5, Layer("conv5x5", fives, large))),
        Branch((Layer("project", project, (1, 1)),), pool="max"),
    )


class AuxiliaryHead(nn.Module):
    """A classifier on a map in the middle of the network (the paper, section 5).

    Average pooling to 4x4, a 1x1 convolution with 128 channels, a dense layer of 1024 units, dropout, a dense
    layer: children ``conv``, ``dense``, ``head``.

    Attributes:
      num_classes, activation: as the network's.
      parts: the network's factories.
      pool: see ``GoogLeNet.auxiliary_pool``.
      multiplier: of the channels and the hidden units.
      kernel_init: initialiser of the dense layers.
      dtype: type of the arithmetic.
    """

    num_classes: int
    parts: Parts
    pool: str
    multiplier: float
    kernel_init: Any
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"], train: bool, dropout_rate: float | Float[Array, ""]) -> Logits:
        """Activations (N, H, W, C) to logits (N, num_classes)."""
        dense = partial(nn.Dense, kernel_init=self.kernel_init, dtype=self.dtype)
        if self.pool == "windows":
            x = auxiliary_pool(x)
        x = adaptive_average_pool(x, (4, 4))
        x = ConvNorm(scaled(128, self.multiplier), (1, 1), self.parts, name="conv")(x, train)
        x = x.reshape(x.shape[0], -1)
        x = self.parts.act(dense(scaled(1024, self.multiplier), name="dense")(x))
        return dense(self.num_classes, name="head")(Dropout()(x, dropout_rate, train))


class GoogLeNet(nn.Module):
    """The paper's network, and torchvision's.

    ``googlenet`` is table 1 as printed, without normalisation by batch; the constants of the two local response
    normalisations, which the paper does not print, are those of Krizhevsky et al. 2012. ``googlenet_bn`` is
    torchvision's GoogLeNet, whose weights load into it: batch norm (epsilon 1e-3) after every convolution, no local
    response normalisation, 3x3 kernels in place of 5x5, a 2x2 window in the last max pooling. The first convolution,
    7x7 with stride 2, is padded by 3 on all sides, and windows of max pooling may hang over the edge: both as in Caffe.

    Dropout acts before the head, 0.4 in the paper and 0.2 in torchvision, and in the auxiliary heads, 0.7 in both;
    here all have the one rate that is passed in. Torchvision's weights were trained on images scaled to [-1, 1],
    mean 0.5 and standard deviation 0.5 in every channel; its ``transform_input`` rescales so images that were
    normalised with ImageNet's means. This network reads its images as they are.

    Endpoints: ``stem``, ``stage1`` (the last of 3a and 3b), ``stage2`` (of 4a to 4e), ``stage3`` (of 5a and 5b),
    before the pooling that follows; ``inception3a`` and so on for every block; ``features``, ``logits_map``; with
    ``auxiliary`` the logits ``auxiliary1`` (after 4a) and ``auxiliary2`` (after 4d), also in evaluation. They never
    change the logits.

    Attributes:
      num_classes: length of the logits.
      auxiliary: whether there are auxiliary heads, for training (``Hyper.auxiliary_weight``); after 4a and 4d, as far
        as they are among the ``blocks``.
      blocks: which of the nine there are, in order; a pooling stands wherever their digit changes.
      stem: "imagenet" for large images, to an eighth of their sides; or "small", not the paper's, for images like
        CIFAR's: its last 3x3 convolution alone, which keeps the sides.
      reduction: False leaves out the 1x1 convolutions before the 3x3 and 5x5 ones: the naive block, whose output
        has the same channels because the projection after its pooling stays.
      large_kernel: side of the kernels that are 5x5 in the paper, odd.
      lrn: local response normalisation after the first pooling and before the second.
      lrn_size, lrn_alpha, lrn_beta, lrn_k: see ``models.choices``; BVLC's GoogLeNet
        in Caffe has lrn_k=1 and lrn_alpha=2e-5.
      last_pool: side of the window of the last max pooling; 3 in the paper.
      auxiliary_pool: "windows" of 5x5 with stride 3, as in the paper, where the map has them, and then, wherever that
        is not 4x4, as "adaptive": to 4x4 whatever the map, as in torchvision.
      width_multiplier: of the channels of every layer but the heads' last, rounded to the nearest whole number, halves
        up.
      activation, kernel_init, norm, norm_groups: see ``models.choices``.
      dtype: type of the arithmetic.
    """

    num_classes: int = 1000
    auxiliary: bool = False
    blocks: tuple[str, ...] = tuple(INCEPTION)
    stem: str = "imagenet"
    reduction: bool = True
    large_kernel: int = 5
    lrn: bool = True
    lrn_size: int = choices.added(5)
    lrn_alpha: float = choices.added(1e-4)
    lrn_beta: float = choices.added(0.75)
    lrn_k: float = choices.added(2.0)
    last_pool: int = 3
    auxiliary_pool: str = "windows"
    width_multiplier: float = 1.0
    activation: str = "relu"
    kernel_init: str = "he"
    norm: str = "none"
    norm_groups: int = choices.added(0)
    dtype: Any = jnp.float32

    def __post_init__(self):
        choices.check(self)
        check_multiplier("width_multiplier", self.width_multiplier, min(min(row) for row in INCEPTION.values()))
        if self.auxiliary_pool not in AUXILIARY_POOLS:
            raise unknown("auxiliary_pool", self.auxiliary_pool, AUXILIARY_POOLS)
        if self.stem not in STEMS:
            raise unknown("stem", self.stem, STEMS)
        self._check_blocks()
        if self.large_kernel < 1 or self.large_kernel % 2 == 0:
            raise UsageError(f"large_kernel must be odd and at least 1, not {self.large_kernel}.")
        if self.last_pool not in (2, 3):
            raise UsageError(f"last_pool must be 2 or 3, not {self.last_pool}.")
        super().__post_init__()

    def _check_blocks(self):
        for name in self.blocks:
            if name not in INCEPTION:
                raise unknown("block", name, INCEPTION)
        if not self.blocks or list(self.blocks) != sorted(set(self.blocks)):
            raise UsageError(f"blocks must name some of {', '.join(INCEPTION)}, in this order, not {self.blocks}.")
        if self.auxiliary and not set(AUXILIARY_AFTER) & set(self.blocks):
            raise UsageError(
                f"auxiliary=True needs a block that an auxiliary head follows ({', '.join(AUXILIARY_AFTER)}), "
                f"but blocks={self.blocks}."
            )

    @property
    def min_size(self) -> int:
        """Smallest height and width, in pixels: a pooling whose window is 3x3 needs a map of 2x2."""
        windows = [side for side in self._pools().values() if side == 3]
        if self.stem == "small":
            return 2 ** len(windows)
        return 2 ** (len(windows) + 3) - 1

    def _pools(self) -> dict[str, int]:
        """Name of a block -> side of the window of the pooling before it."""
        pairs = zip(self.blocks, self.blocks[1:], strict=False)
        return {after: self.last_pool if after[0] == "5" else 3 for before, after in pairs if before[0] != after[0]}

    @property
    def parameter_stages(self) -> dict[str, tuple[str, ...]]:
        """Stages from input to head, each with the prefixes of its parameters' names."""
        digits = sorted({name[0] for name in self.blocks})
        blocks = {f"stage{int(digit) - 2}": (f"inception{digit}",) for digit in digits}
        auxiliary = {"auxiliary": ("auxiliary",)} if self.auxiliary else {}
        return {"stem": ("conv",), **blocks, **auxiliary, "head": ("head",)}

    @nn.compact
    def __call__(
        self, images: Images, train: bool = False, dropout_rate: float | Float[Array, ""] = 0.0
    ) -> tuple[Logits, dict[str, Any]]:
        """Images (N, H, W, C) to logits (N, num_classes); dropout before every head."""
        factories = parts(self, epsilon=1e-3)
        auxiliary_head = partial(
            AuxiliaryHead, self.num_classes, factories, self.auxiliary_pool, self.width_multiplier,
            initializer(self.kernel_init), self.dtype,
        )  # fmt: skip
        x = self._stem(factories, images, train)
        endpoints, pools = {"stem": x}, self._pools()
        for name in self.blocks:
            if name in pools:
                x = _ceil_pool(x, pools[name])
            branches = block(name, self.large_kernel, self.reduction)
            x = Block(branches, factories, self.width_multiplier, name=f"inception{name}")(x, train)
            endpoints[f"inception{name}"] = endpoints[f"stage{int(name[0]) - 2}"] = x
            if self.auxiliary and name in AUXILIARY_AFTER:
                head = auxiliary_head(name=AUXILIARY_AFTER[name])
                endpoints[AUXILIARY_AFTER[name]] = head(x, train, dropout_rate)
        return pooled_head(self, x, endpoints, train, dropout_rate), endpoints

    def _stem(self, factories, x, train):
        """192 channels, on maps of the images' sides or an eighth of them."""
        normalize = response_norm(self)
        layer = partial(ConvNorm, parts=factories)
        narrow, wide = scaled(64, self.width_multiplier), scaled(192, self.width_multiplier)
        if self.stem == "small":
            return layer(wide, (3, 3), name="conv2")(x, train)
        x = layer(narrow, (7, 7), strides=(2, 2), name="conv1")(x, train)
        x = normalize(_ceil_pool(x, 3))
        x = layer(narrow, (1, 1), name="conv2_reduce")(x, train)
        x = layer(wide, (3, 3), name="conv2")(x, train)
        return _ceil_pool(normalize(x), 3)


def _ceil_pool(x, side):
    """The maximum with stride 2, whose last window may hang over the edge."""
    window = (side, side)
    return max_pool(x, window, (2, 2), ceil_padding(x.shape[1:3], window, (2, 2)))


TORCHVISION = {"norm": "batch", "large_kernel": 3, "lrn": False, "last_pool": 2, "auxiliary_pool": "adaptive"}
VARIANTS = {
    "googlenet": Entry(GoogLeNet, (224, 224, 3), 2014),
    "googlenet_bn": Entry(partial(GoogLeNet, **TORCHVISION), (224, 224, 3), 2015),
}
