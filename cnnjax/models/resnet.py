"""The CIFAR networks of He et al. 2015 (arXiv:1512.03385, section 4.2), plain and residual.

6n + 2 layers: a 3x3 convolution, three stages of n blocks of two 3x3 convolutions with width,
2 width and 4 width channels, global average pooling and a dense layer. Strides sit in the first
convolution of stages 2 and 3. Plain and residual are one field, ``shortcut``, so both share every
line and, with option A, every parameter.
"""

from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from cnnjax.nn import Conv, Dropout, norm_layer
from cnnjax.nn.conv import he_normal
from cnnjax.typing import Images, Logits, UsageError

DEPTHS = (8, 14, 20, 32, 44, 56, 110)  # from 20 the paper's; any 6n + 2 can be built
SHORTCUTS = ("none", "A", "B")


class Block(nn.Module):
    """Two 3x3 convolutions, each normalised, and a shortcut: relu(x + F(x)) (S3:593-604).

    ``shortcut``: "none" leaves the plain net; "A" adds the identity, subsampled and padded with
    zero channels where the shape changes; "B" projects with a 1x1 convolution there.
    """

    features: int
    strides: tuple[int, int]
    shortcut: str
    conv: Any
    norm: Any
    act: Any

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"], train: bool) -> Float[Array, "n h2 w2 o"]:
        """Activations (N, H, W, C) to (N, H / stride, W / stride, features)."""
        y = self.conv(self.features, (3, 3), strides=self.strides, name="conv1")(x)
        y = self.act(self.norm(name="norm1")(y, train))
        y = self.conv(self.features, (3, 3), name="conv2")(y)
        y = self.norm(name="norm2")(y, train)
        if self.shortcut == "none":
            return self.act(y)
        if x.shape != y.shape and self.shortcut == "A":
            extra = self.features - x.shape[-1]
            x = x[:, :: self.strides[0], :: self.strides[1]]
            x = jnp.pad(x, ((0, 0), (0, 0), (0, 0), (extra // 2, extra - extra // 2)))
        elif x.shape != y.shape:
            x = self.conv(self.features, (1, 1), strides=self.strides, name="projection")(x)
            x = self.norm(name="projection_norm")(x, train)
        return self.act(x + y)


class CifarResNet(nn.Module):
    """A 6n + 2 layer network for small images, e.g. 32x32; at least 4x4.

    Endpoints: ``stem``, ``stage1``, ``stage2``, ``stage3``, ``pooled``, ``logits_map``.

    Attributes:
      depth: 6n + 2.
      shortcut: "none" (plain), "A" (zero-padded identity) or "B" (projection).
      num_classes: length of the logits.
      width: channels of the first stage; 16 in the paper.
      norm: one of ``nn.NORMS``.
      dtype: type of the arithmetic.
    """

    depth: int
    shortcut: str = "A"
    num_classes: int = 10
    width: int = 16
    norm: str = "batch"
    dtype: Any = jnp.float32

    min_size = 4  # two strides of 2 must leave a pixel for every stage

    def __post_init__(self):
        if self.depth < 8 or (self.depth - 2) % 6:
            raise UsageError(f"depth must be 6n + 2 with n >= 1 (8, 14, 20, 26, ...), not {self.depth}.")
        if self.shortcut not in SHORTCUTS:
            raise UsageError(f"shortcut must be one of {', '.join(SHORTCUTS)}, not {self.shortcut!r}.")
        if self.width < 1:
            raise UsageError(f"width must be at least 1, not {self.width}.")
        super().__post_init__()

    @nn.compact
    def __call__(
        self, images: Images, train: bool = False, dropout_rate: float | Float[Array, ""] = 0.0
    ) -> tuple[Logits, dict[str, Any]]:
        """Images (N, H, W, C) to logits (N, num_classes); dropout before the head."""
        conv = partial(Conv, use_bias=False, dtype=self.dtype)
        norm = norm_layer(self.norm, self.dtype, groups=min(8, self.width))
        block = partial(Block, shortcut=self.shortcut, conv=conv, norm=norm, act=nn.relu)

        x = conv(self.width, (3, 3), name="stem")(images)
        x = nn.relu(norm(name="stem_norm")(x, train))
        endpoints = {"stem": x}
        blocks = (self.depth - 2) // 6
        x = endpoints["stage1"] = _repeat(block(self.width, (1, 1), name="stage1"), blocks, x, train)
        for stage in (2, 3):
            features = self.width * 2 ** (stage - 1)
            x = block(features, (2, 2), name=f"stage{stage}_first")(x, train)
            if blocks > 1:
                x = _repeat(block(features, (1, 1), name=f"stage{stage}_rest"), blocks - 1, x, train)
            endpoints[f"stage{stage}"] = x
        head = nn.Dense(self.num_classes, kernel_init=he_normal, dtype=self.dtype, name="head")
        endpoints["pooled"] = x.mean((1, 2))
        endpoints["logits_map"] = head(x)
        return head(Dropout()(endpoints["pooled"], dropout_rate, train)), endpoints


def _repeat(block, times, x, train):
    """Apply ``times`` equal blocks, each with parameters of its own, stacked along a first axis.

    They are scanned, so that compile time does not grow with depth.
    """
    scan = nn.scan(
        lambda block, x, _: (block(x, train), None),
        variable_axes={"params": 0, "batch_stats": 0},
        split_rngs={"params": True},
        length=times,
    )
    return scan(block, x, None)[0]
