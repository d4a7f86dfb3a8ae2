"""Network in Network (Lin, Chen and Yan 2014, arXiv:1312.4400; S4:471-491): 1x1 convolutions and no dense layers."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from cnnjax.models import choices
from cnnjax.models.entry import Entry
from cnnjax.models.parts import ConvNorm, parts
from cnnjax.models.stages import stage_prefixes
from cnnjax.nn import Dropout, activation, initializer
from cnnjax.ops.pool import average_pool, ceil_padding, max_pool
from cnnjax.typing import Images, Logits, UsageError

# Side of the kernel and channels of the first convolution of each stage, then channels of its 1x1 convolutions.
CIFAR = ((5, 192, 160, 96), (5, 192, 192, 192), (3, 192, 192))
CIFAR_POOLS = ("max", "average")
POOLS = ("max", "average")
WINDOW, STRIDES = (3, 3), (2, 2)


class NetworkInNetwork(nn.Module):
    """Stages of one convolution and 1x1 convolutions: a small dense net that slides over the image (S4:471-491).

    The authors' network for CIFAR-10 in Caffe, 966,986 parameters on 32x32x3. Every stage but the last ends in
    pooling, 3x3 with stride 2, whose windows may hang over the edge (the rule of Caffe and of cuda-convnet; an average
    is of the pixels there are); dropout, 0.5 in Caffe, follows. The last 1x1 convolution has a channel for each class;
    the logits are the averages of these channels over the image.

    The authors published three: for CIFAR-10 in Caffe, with maxima after the first stage and averages after the second,
    which is the default; the paper's in cuda-convnet, of the same layers, and the one for ImageNet in Caffe, both with
    maxima after all stages: pools=("max",).

    A 1x1 convolution is a dense layer at every pixel, so the last one is the dense layer ``head`` of the other
    networks, with kernel (channels, classes) and bias. But between it and the logits stand ``head_activation`` and
    the average: only where that is "identity" are the logits the head of ``features``.

    Endpoints: ``stage1``, ``stage2``, ... after pooling; ``features``, the average over pixels of what the head
    reads; ``logits_map`` (N, H', W', classes), whose averages over pixels are the logits.

    Attributes:
      stages: of each, the side of its first kernel and the channels of its convolutions, all but the first 1x1.
      pools: "max" or "average" after the first stage, the second, ...; the last one also after all further stages.
      num_classes: length of the logits.
      activation, kernel_init, norm, norm_groups: see ``models.choices``.
      head_activation: of the head at every pixel, before the average; ReLU in Caffe.
      dtype: type of the arithmetic.
    """

    stages: tuple[tuple[int, ...], ...] = CIFAR
    pools: tuple[str, ...] = choices.added(CIFAR_POOLS)
    num_classes: int = 10
    activation: str = "relu"
    head_activation: str = "relu"
    kernel_init: str = "he"
    norm: str = "none"
    norm_groups: int = choices.added(0)
    dtype: Any = jnp.float32

    def __post_init__(self):
        choices.check(self)
        if not 1 <= len(self.stages) <= 9 or not all(map(_is_stage, self.stages)):
            raise UsageError(
                "stages must hold one to nine stages (side of the kernel, channels, channels, ...) of positive "
                f"whole numbers, not {self.stages}."
            )
        if any(side % 2 == 0 for side, *_ in self.stages):
            raise UsageError(f"The first number in each of stages is the side of a kernel and odd, not {self.stages}.")
        if not self.pools or any(pool not in POOLS for pool in self.pools):
            raise UsageError(f"pools must hold one or more of {' and '.join(POOLS)}, not {self.pools}.")
        if self.pools != CIFAR_POOLS and len(self.pools) >= max(len(self.stages), 2):
            raise UsageError(
                f"pools={self.pools} has more than the {len(self.stages) - 1} poolings between "
                f"{len(self.stages)} stages. Leave the last out."
            )
        super().__post_init__()

    @property
    def min_size(self) -> int:
        """Smallest height and width, in pixels: pooling halves them, rounded up, from at least two."""
        return 2 ** (len(self.stages) - 1)

    @property
    def parameter_stages(self) -> dict[str, tuple[str, ...]]:
        """Stages in order, with the prefixes of their parameters."""
        return stage_prefixes(len(self.stages), stem=False)

    @nn.compact
    def __call__(
        self, images: Images, train: bool = False, dropout_rate: float | Float[Array, ""] = 0.0
    ) -> tuple[Logits, dict[str, Any]]:
        """Images (N, H, W, C) to logits (N, num_classes); dropout after every pooling."""
        made = parts(self)
        endpoints: dict[str, Any] = {}
        x = images
        for stage, (side, *channels) in enumerate(self.stages, start=1):
            for index, features in enumerate(channels):
                kernel = (1, 1) if index else (side, side)
                x = ConvNorm(features, kernel, made, name=f"stage{stage}.{index}")(x, train)
            if stage < len(self.stages):
                x = _pool(x, average=self.pools[min(stage, len(self.pools)) - 1] == "average")
            endpoints[f"stage{stage}"] = x
            if stage < len(self.stages):
                x = Dropout()(x, dropout_rate, train)
        endpoints["features"] = x.mean((1, 2))
        if self.num_classes == 0:
            return endpoints["features"], endpoints
        init = initializer(self.kernel_init)
        head = nn.Dense(self.num_classes, kernel_init=init, dtype=self.dtype, name="head")
        endpoints["logits_map"] = activation(self.head_activation)(head(x))
        return endpoints["logits_map"].mean((1, 2)), endpoints


def _is_stage(stage):
    return isinstance(stage, tuple) and len(stage) > 1 and all(isinstance(n, int) and n >= 1 for n in stage)


def _pool(x, average):
    """3x3 windows with stride 2 that may hang over the edge."""
    padding = ceil_padding(x.shape[1:3], WINDOW, STRIDES)
    if not average:
        return max_pool(x, WINDOW, STRIDES, padding)
    present = average_pool(jnp.ones((1, *x.shape[1:3], 1), x.dtype), WINDOW, STRIDES, padding)
    return average_pool(x, WINDOW, STRIDES, padding) / present


VARIANTS = {"network_in_network": Entry(NetworkInNetwork, (32, 32, 3), 2014)}
