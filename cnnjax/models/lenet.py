"""LeNet-5 (LeCun, Bottou, Bengio and Haffner 1998; S4:368-374): as it is built today, and as printed."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from cnnjax.models import choices
from cnnjax.models.entry import Entry
from cnnjax.models.flattened import check_dense, dense_stages, flattened_head
from cnnjax.models.parts import halved, norm_of
from cnnjax.nn import Conv, Dropout, activation, initializer
from cnnjax.ops.conv import conv
from cnnjax.ops.pool import average_pool
from cnnjax.typing import Images, Logits, UsageError

# Table I of the paper: the S2 maps (0 to 5) that each of the 16 maps of C3 reads.
C3_TABLE = (
    (0, 1, 2), (1, 2, 3), (2, 3, 4), (3, 4, 5), (0, 4, 5), (0, 1, 5),
    (0, 1, 2, 3), (1, 2, 3, 4), (2, 3, 4, 5), (0, 3, 4, 5), (0, 1, 4, 5), (0, 1, 2, 5),
    (0, 1, 3, 4), (1, 2, 4, 5), (0, 2, 3, 5), (0, 1, 2, 3, 4, 5),
)  # fmt: skip

# The fixed output codes are stylised 7x12 pictures of the digits; these are drawn here, not copied.
DIGIT_CODES = """
.#####. ...##.. .#####. .#####. #....## ####### ..####. ####### .#####. .#####.
##...## ..###.. ##...## ##...## #....## ##..... .##.... .....## ##...## ##...##
##...## .####.. .....## .....## #....## ##..... ##..... .....## ##...## ##...##
##...## ...##.. .....## .....## #....## ##..... ##..... ....##. ##...## ##...##
##...## ...##.. ....##. ...###. #....## ######. ######. ....##. .#####. ##...##
##...## ...##.. ...##.. .....## ####### .....## ##...## ...##.. ##...## .######
##...## ...##.. ..##... .....## .....## .....## ##...## ...##.. ##...## .....##
##...## ...##.. .##.... .....## .....## .....## ##...## ..##... ##...## .....##
##...## ...##.. ##..... ##...## .....## ##...## ##...## ..##... ##...## ....##.
.#####. .###### ####### .#####. .....## .#####. .#####. ..##... .#####. .####..
....... ....... ....... ....... ....... ....... ....... ....... ....... .......
....... ....... ....... ....... ....... ....... ....... ....... ....... .......
"""

DENSE = (120, 84)  # units of the hidden dense layers


class LeNet5(nn.Module):
    """conv 5x5 - pool - conv 5x5 - pool - 120 - 84 - classes; 61,706 parameters on 32x32x1.

    Endpoints: ``conv1``, ``pool1``, ``conv2``, ``pool2``; ``dense1``, ``dense2``, ``features`` and ``logits_map`` as
    ``models.flattened`` says.

    Attributes:
      num_classes: length of the logits.
      padding: of the convolutions; "VALID" as in the paper needs images of at least 16x16, "SAME" 4x4.
      pool, activation, kernel_init: see ``models.choices``; averages as in the paper, and tanh as the lectures have
        it. Caffe's example and many others pool maxima: pool="max".
      norm: of each convolution before its activation, in place of its bias.
      norm_groups: see ``models.choices``.
      dropout_at: "dense", or "all": also after both poolings.
      map_size: side of the map that the dense layers read, to which others are averaged: 5 in the paper. 0 is
        whatever the images leave, so that the weights fit images of one size only.
      dtype: type of the arithmetic.
    """

    num_classes: int = 10
    padding: str = "VALID"
    pool: str = choices.added("average")
    activation: str = "tanh"
    kernel_init: str = "xavier"
    norm: str = "none"
    norm_groups: int = choices.added(0)
    dropout_at: str = "dense"
    map_size: int = 0
    dtype: Any = jnp.float32

    def __post_init__(self):
        check_dense(DENSE, self.map_size)
        if self.padding not in ("SAME", "VALID"):
            raise UsageError(f"padding must be SAME or VALID, not {self.padding!r}.")
        choices.check(self)
        super().__post_init__()

    @property
    def min_size(self) -> int:
        """Smallest height and width, in pixels."""
        return 16 if self.padding == "VALID" else 4

    @property
    def parameter_stages(self) -> dict[str, tuple[str, ...]]:
        """Stages in order, with the prefixes of their parameters."""
        return {f"conv{n}": (f"conv{n}", f"norm{n}") for n in (1, 2)} | dense_stages(len(DENSE))

    @nn.compact
    def __call__(
        self, images: Images, train: bool = False, dropout_rate: float | Float[Array, ""] = 0.0
    ) -> tuple[Logits, dict[str, Any]]:
        """Images (N, H, W, C) to logits (N, num_classes); dropout after the two dense layers."""
        act = activation(self.activation)
        endpoints: dict[str, Any] = {}
        x = images
        for index, maps in ((1, 6), (2, 16)):
            x = endpoints[f"conv{index}"] = act(self._conv(index, x, maps, train))
            x = endpoints[f"pool{index}"] = halved(self.pool, x)
            if self.dropout_at == "all":
                x = Dropout()(x, dropout_rate, train)
        logits = flattened_head(self, x, endpoints, train, dropout_rate, DENSE, map_size=self.map_size)
        return logits, endpoints

    def _conv(self, index, x, maps, train):
        bare, init = self.norm == "none", initializer(self.kernel_init)
        layer = partial(Conv, padding=self.padding, use_bias=bare, kernel_init=init, dtype=self.dtype)
        strides = (2, 2) if self.pool == "stride" else (1, 1)
        x = layer(maps, (5, 5), strides=strides, name=f"conv{index}")(x)
        if bare:
            return x
        return norm_of(self, maps)(name=f"norm{index}")(x, train)


def scaled_tanh(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """1.7159 tanh(2x / 3): equals ±1 at ±1, where its curvature is largest (the paper, appendix A)."""
    return 1.7159 * jnp.tanh(x * (2 / 3))


def _uniform_by_fan_in(key, shape, dtype, fan_in):
    """The paper's initialiser: uniform in ±2.4 / fan-in."""
    return nn.initializers.uniform(2 * 2.4 / fan_in)(key, shape, dtype) - jnp.asarray(2.4 / fan_in, dtype)


class LeNet5Classic(nn.Module):
    """LeNet-5 as printed: 60,000 trainable parameters on 32x32x1.

    C1 156, S2 12 (a trainable coefficient and bias per map), C3 1,516 (each map reads some of S2's,
    ``C3_TABLE``), S4 32, C5 48,120, F6 10,164; the output layer's codes are fixed. The logits are
    minus half the squared distance of F6 to each class's code, so that softmax reads them as the
    radial basis units of the paper. There is no layer ``head`` that could be replaced, hence no
    ``parameter_stages``.

    Endpoints: ``c1``, ``s2``, ``c3``, ``s4``, ``c5``, ``f6``.

    Attributes:
      num_classes: ten; the codes are pictures of digits.
      dtype: type of the arithmetic.
    """

    num_classes: int = 10
    dtype: Any = jnp.float32

    min_size = 32
    max_size = 32

    def __post_init__(self):
        if self.num_classes != 10:
            raise UsageError(
                f"lenet5_classic has ten fixed output codes, not num_classes={self.num_classes}. Use lenet5."
            )
        super().__post_init__()

    @nn.compact
    def __call__(
        self, images: Images, train: bool = False, dropout_rate: float | Float[Array, ""] = 0.0
    ) -> tuple[Logits, dict[str, Any]]:
        """Images (N, 32, 32, C) to logits (N, 10); dropout after C5 and F6."""
        channels = images.shape[-1]
        endpoints = {}
        endpoints["c1"] = scaled_tanh(self._dense_conv("c1", images, 6, 25 * channels))
        endpoints["s2"] = self._subsample("s2", endpoints["c1"])
        endpoints["c3"] = scaled_tanh(self._sparse_conv("c3", endpoints["s2"]))
        endpoints["s4"] = self._subsample("s4", endpoints["c3"])
        c5 = scaled_tanh(self._dense_conv("c5", endpoints["s4"], 120, 25 * 16))
        endpoints["c5"] = c5.reshape(images.shape[0], 120)
        x = Dropout()(endpoints["c5"], dropout_rate, train)
        init = partial(_uniform_by_fan_in, fan_in=120)
        endpoints["f6"] = scaled_tanh(nn.Dense(84, kernel_init=init, dtype=self.dtype, name="f6")(x))
        x = Dropout()(endpoints["f6"], dropout_rate, train)
        distances = jnp.square(x[:, None, :] - _codes()).sum(-1)
        return -0.5 * distances, endpoints

    def _dense_conv(self, name, x, features, fan_in):
        init = partial(_uniform_by_fan_in, fan_in=fan_in)
        return Conv(features, (5, 5), padding="VALID", kernel_init=init, dtype=self.dtype, name=name)(x)

    def _sparse_conv(self, name, x):
        """Only the 60 connections of the table are parameters; the rest of the kernel is zero."""
        sources = np.concatenate(C3_TABLE)
        targets = np.repeat(np.arange(16), [len(maps) for maps in C3_TABLE])
        fan_in = jnp.asarray(np.repeat([25 * len(maps) for maps in C3_TABLE], [len(m) for m in C3_TABLE]))
        weights = self.param(f"{name}_kernel", partial(_uniform_by_fan_in, fan_in=fan_in), (5, 5, 60), jnp.float32)
        bias = self.param(f"{name}_bias", nn.initializers.zeros, (16,), jnp.float32)
        kernel = jnp.zeros((5, 5, 6, 16), jnp.float32).at[:, :, sources, targets].set(weights)
        return conv(x.astype(self.dtype), kernel.astype(self.dtype), padding="VALID") + bias.astype(self.dtype)

    def _subsample(self, name, x):
        """Sum of each 2x2 window times one coefficient plus one bias per map, then the activation."""
        shape = (x.shape[-1],)
        scale = self.param(f"{name}_coefficient", nn.initializers.constant(0.25), shape, jnp.float32)
        bias = self.param(f"{name}_bias", nn.initializers.zeros, shape, jnp.float32)
        return scaled_tanh(4 * average_pool(x) * scale.astype(x.dtype) + bias.astype(x.dtype))


def _codes() -> Float[np.ndarray, "10 84"]:
    rows = [line.split() for line in DIGIT_CODES.strip().splitlines()]  # a row of every picture in each line
    pictures = ["".join(picture) for picture in zip(*rows, strict=True)]
    return np.array([[1.0 if pixel == "#" else -1.0 for pixel in picture] for picture in pictures], np.float32)


VARIANTS = {
    "lenet5": Entry(LeNet5, (32, 32, 1), 1998),
    "lenet5_classic": Entry(LeNet5Classic, (32, 32, 1), 1998),
}
