"""The CIFAR networks of He et al. 2015 (arXiv:1512.03385, section 4.2), plain and residual.

6n + 2 layers: a 3x3 convolution, three stages of n blocks of two 3x3 convolutions with width,
2 width and 4 width channels, global average pooling and a dense layer. Strides sit in the first
convolution of stages 2 and 3. Plain and residual are one field, ``shortcut``, so both share every
line and, with option A, every parameter.
"""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from cnnjax.models import choices
from cnnjax.models.entry import Entry
from cnnjax.models.parts import norm_of, pooled_head
from cnnjax.models.stages import stage_prefixes
from cnnjax.nn import Conv, Dropout, activation, initializer
from cnnjax.typing import Images, Logits, UsageError

DEPTHS = (8, 14, 20, 32, 44, 56, 110, 1202)  # from 20 the paper's; any 6n + 2 can be built
SHORTCUTS = ("none", "A", "B")


class Block(nn.Module):
    """Two 3x3 convolutions, each normalised, and a shortcut: relu(x + F(x)) (S3:593-604).

    ``shortcut``: "none" leaves the plain net; "A" adds the identity, subsampled and padded with
    zero channels where the shape changes; "B" projects with a 1x1 convolution there. The 3x3 convolutions are padded
    by one pixel on all sides, also at stride 2, where their windows stand around the pixels that the shortcut reads.
    Dropout between the two convolutions as in Wide ResNets (Zagoruyko and Komodakis 2016), where its rate is not 0.
    """

    features: int
    strides: tuple[int, int]
    shortcut: str
    conv: Any
    norm: Any
    act: Any

    @nn.compact
    def __call__(
        self, x: Float[Array, "n h w c"], train: bool, dropout_rate: float | Float[Array, ""] = 0.0
    ) -> Float[Array, "n h2 w2 o"]:
        """Activations (N, H, W, C) to (N, H / stride, W / stride, features)."""
        # Not SAME, which at stride 2 on even sides pads (0, 1): one pixel beside what the shortcut reads.
        y = self.conv(self.features, (3, 3), strides=self.strides, padding=1, name="conv1")(x)
        y = self.norm(name="norm1")(y, train)
        sow_response(self, "conv1", y)
        y = Dropout()(self.act(y), dropout_rate, train)
        y = self.conv(self.features, (3, 3), name="conv2")(y)
        y = self.norm(name="norm2")(y, train)
        sow_response(self, "conv2", y)
        if self.shortcut == "none":
            return self.act(y)
        if x.shape != y.shape and self.shortcut == "A":
            x = padded_identity(x, self.features, self.strides)
        elif x.shape != y.shape:
            x = self.conv(self.features, (1, 1), strides=self.strides, name="projection")(x)
            x = self.norm(name="projection_norm")(x, train)
        return self.act(x + y)


class CifarResNet(nn.Module):
    """A 6n + 2 layer network for small images, e.g. 32x32; at least 4x4.

    As the published networks in PyTorch: 3x3 convolutions are padded by one pixel on all sides, at either stride;
    epsilon 1e-5; batch normalisation keeps the unbiased variance.

    Endpoints: ``stem``, ``stage1``, ``stage2``, ``stage3``, ``features``, ``logits_map``.

    Variables: ``stem``, ``stage1`` (all its blocks), ``stage2_first``, ``stage2_rest`` (its other blocks),
    ``stage3_first``, ``stage3_rest``, ``head``. Equal blocks are scanned: their arrays are stacked along
    a first axis, in order of depth, and ``unstack`` takes them apart.

    Where the collection ``responses`` is mutable, each 3x3 layer stores there the standard deviation of its
    response, after normalisation and before activation and addition (the paper, figure 7), as
    ``stem_response`` and, in the blocks, ``conv1_response`` and ``conv2_response``.

    Attributes:
      depth: 6n + 2.
      shortcut: "none" (plain), "A" (zero-padded identity) or "B" (projection).
      num_classes: length of the logits.
      width: channels of the first stage; 16 in the paper.
      activation, kernel_init, norm, norm_groups: see ``models.choices``.
      dropout_at: "dense" (before the head), or "all": also between the two convolutions of every block.
      unbiased_variance: the running variance of batch norm is the unbiased one, as in PyTorch; the biased one, as in
        TensorFlow and Flax, is less by the factor (n - 1) / n, where n numbers of a channel are normalised together.
      dtype: type of the arithmetic.
    """

    depth: int
    shortcut: str = "A"
    num_classes: int = 10
    width: int = 16
    activation: str = "relu"
    kernel_init: str = "he"
    norm: str = "batch"
    norm_groups: int = choices.added(0)
    dropout_at: str = "dense"
    unbiased_variance: bool = choices.added(True)
    dtype: Any = jnp.float32

    min_size = 4  # two strides of 2 must leave a pixel for every stage

    def __post_init__(self):
        if self.depth < 8 or (self.depth - 2) % 6:
            raise UsageError(f"depth must be 6n + 2 with n >= 1 (8, 14, 20, 26, ...), not {self.depth}.")
        if self.shortcut not in SHORTCUTS:
            raise UsageError(f"shortcut must be one of {', '.join(SHORTCUTS)}, not {self.shortcut!r}.")
        if self.width < 1:
            raise UsageError(f"width must be at least 1, not {self.width}.")
        choices.check(self)
        super().__post_init__()

    @nn.compact
    def __call__(
        self, images: Images, train: bool = False, dropout_rate: float | Float[Array, ""] = 0.0
    ) -> tuple[Logits, dict[str, Any]]:
        """Images (N, H, W, C) to logits (N, num_classes); dropout before the head."""
        init, act = initializer(self.kernel_init), activation(self.activation)
        conv = partial(Conv, use_bias=False, kernel_init=init, dtype=self.dtype)
        norm = partial(norm_of, self, unbiased=self.unbiased_variance)

        def block(features, strides, name):
            return Block(features, strides, self.shortcut, conv, norm(features), act, name=name)

        inner_rate = dropout_rate if self.dropout_at == "all" else 0.0

        x = conv(self.width, (3, 3), name="stem")(images)
        x = norm(self.width)(name="stem_norm")(x, train)
        sow_response(self, "stem", x)
        endpoints = {"stem": act(x)}
        x = endpoints["stem"]
        blocks = (self.depth - 2) // 6
        x = endpoints["stage1"] = repeat(block(self.width, (1, 1), name="stage1"), blocks, x, train, inner_rate)
        for stage in (2, 3):
            features = self.width * 2 ** (stage - 1)
            x = block(features, (2, 2), name=f"stage{stage}_first")(x, train, inner_rate)
            if blocks > 1:
                rest = block(features, (1, 1), name=f"stage{stage}_rest")
                x = repeat(rest, blocks - 1, x, train, inner_rate)
            endpoints[f"stage{stage}"] = x
        return pooled_head(self, x, endpoints, train, dropout_rate), endpoints

    @property
    def parameter_stages(self) -> dict[str, tuple[str, ...]]:
        """Stages in order, with the prefixes of their parameters."""
        return stage_prefixes(3)

    @staticmethod
    def unstack(collection: dict[str, Any]) -> dict[str, Any]:
        """A collection of this network, such as its parameters, with an entry for each block: ``stage2.0``, ...

        Every leaf of a scanned block must have the axis of blocks first: take lanes apart before.
        """
        return unstack_blocks(collection, scanned_whole=("stage1",))

    @staticmethod
    def stack(collection: dict[str, Any]) -> dict[str, Any]:
        """The inverse of ``unstack``."""
        return stack_blocks(collection, scanned_whole=("stage1",))


def unstack_blocks(collection: dict[str, Any], scanned_whole: tuple[str, ...] = ()) -> dict[str, Any]:
    """A collection with an entry for each block in place of ``stage2_first`` and the stacked ``stage2_rest``.

    The stages ``scanned_whole`` have no first block of their own: all their blocks are stacked.
    """
    single: dict[str, Any] = {}
    for name, value in collection.items():
        stage, _, part = name.partition("_")
        if name in scanned_whole or part == "rest":
            before = 1 if part == "rest" else 0
            for index in range(len(jax.tree_util.tree_leaves(value)[0])):
                single[f"{stage}.{before + index}"] = jax.tree_util.tree_map(lambda leaf, i=index: leaf[i], value)
        else:
            single[f"{stage}.0" if part == "first" else name] = value
    return single


def stack_blocks(collection: dict[str, Any], scanned_whole: tuple[str, ...] = ()) -> dict[str, Any]:
    """The inverse of ``unstack_blocks``, for arrays of NumPy or JAX."""
    stacked: dict[str, Any] = {}
    scanned: dict[str, dict[int, Any]] = {}
    for name, value in collection.items():
        stage, dot, index = name.partition(".")
        if dot and stage in scanned_whole:
            scanned.setdefault(stage, {})[int(index)] = value
        elif dot and index != "0":
            scanned.setdefault(f"{stage}_rest", {})[int(index)] = value
        else:
            stacked[f"{stage}_first" if dot else name] = value
    for name, blocks in scanned.items():
        stacked[name] = jax.tree_util.tree_map(_stack, *(blocks[index] for index in sorted(blocks)))
    return stacked


def _stack(*leaves):
    return (np if isinstance(leaves[0], np.ndarray) else jnp).stack(leaves)


def padded_identity(x: Float[Array, "n h w c"], features: int, strides: tuple[int, int]) -> Float[Array, "n h2 w2 o"]:
    """Option A of the paper: every ``strides``-th pixel, with as many channels of zeros before as behind."""
    extra = features - x.shape[-1]
    x = x[:, :: strides[0], :: strides[1]]
    return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (extra // 2, extra - extra // 2)))


def repeat(block, times, x, train, dropout_rate):
    """Apply ``times`` equal blocks, each with parameters of its own, stacked along a first axis.

    They are scanned, so that compile time does not grow with depth.
    """
    drops = not isinstance(dropout_rate, float) or dropout_rate > 0
    scan = nn.scan(
        lambda block, x, _: (block(x, train, dropout_rate), None),
        # There are none to check, and checking traces the block once more; but doing so draws a random number.
        check_constancy_invariants=drops or block.is_initializing(),
        variable_axes={"params": 0, "batch_stats": 0, "responses": 0},
        split_rngs={"params": True, **({"dropout": True} if drops else {})},
        length=times,
    )
    return scan(block, x, None)[0]


def sow_response(module, layer, response):
    """Stores the standard deviation of a layer's response, where somebody asks for it."""
    if module.is_mutable_collection("responses") and not module.is_initializing():
        deviation = jnp.std(response.astype(jnp.float32))
        module.sow("responses", f"{layer}_response", deviation, init_fn=lambda: None, reduce_fn=lambda _, new: new)


VARIANTS = {
    f"{name}{depth}_cifar": Entry(partial(CifarResNet, depth=depth, shortcut=shortcut), (32, 32, 3), 2015)
    for name, shortcut in (("plain", "none"), ("resnet", "A"))
    for depth in DEPTHS
}
