"""AlexNet (Krizhevsky, Sutskever and Hinton 2012; S4:376-388; S2:132-143; S3:318-419), in its two forms."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from cnnjax.models import choices
from cnnjax.models.entry import Entry
from cnnjax.models.flattened import check_dense, dense_stages, flattened_head
from cnnjax.models.parts import ConvNorm, check_positive, parts, response_norm
from cnnjax.ops.pool import ceil_padding, max_pool
from cnnjax.typing import Images, Logits, UsageError

MAP = 6  # side of the map before the dense layers
WINDOW, STRIDES = (3, 3), (2, 2)  # of pooling


class AlexNet(nn.Module):
    """Five convolutions, two hidden dense layers and the head; 3x3 max pooling with stride 2, so windows overlap.

    ``alexnet`` is the network of 2012, on images of 227x227 pixels (the paper says 224, from which its 55x55 does
    not follow): conv1 11x11 with stride 4, then sides 227 - 55 - 27 - 27 - 13 - 13 - 13 - 13 - 6. It was spread over
    two GPUs that met only in conv3 and in the dense layers, hence the two groups of conv2, conv4 and conv5. Local
    response normalisation follows the activations of conv1 and conv2, before the pooling; the lecture's order
    (S2:138), pooling first, is CaffeNet's and the field ``lrn_after_pool``. Initialised as the paper's section 5
    says: kernels from N(0, 0.01²), biases 1 in conv2, conv4, conv5 and the hidden dense layers, else 0.

    ``alexnet_one_column`` is torchvision's, whose weights load into it, after Krizhevsky 2014 (arXiv:1404.5997):
    fewer channels, no groups, no local response normalisation, padding of 2 around images of 224x224 pixels. Maps
    before the dense layers that are not 6x6 are averaged to it, in both.

    Dropout 0.5 in the paper.

    Endpoints: ``conv1`` ... ``conv5``, after the activation; ``stage1``, ``stage2``, ``stage3``, after the pooling of
    conv1, conv2 and conv5; ``dense1``, ``dense2``, ``features`` and ``logits_map`` as ``models.flattened`` says.

    Attributes:
      features: channels of the five convolutions.
      dense: units of the hidden dense layers.
      groups: of conv2, conv4 and conv5.
      stem_padding: pixels around the images; conv1 itself has no padding.
      ceil_pool: the last windows of pooling may hang over the edge, as in Caffe; else they must fit, as in torchvision.
        On images of 227x227 pixels, and on 224x224 with stem_padding=2, both are the same.
      lrn: whether there is local response normalisation.
      lrn_after_pool: it follows the pooling.
      lrn_size, lrn_alpha, lrn_beta, lrn_k: see ``models.choices``; the paper's.
        CaffeNet has lrn_k=1 and lrn_alpha=2e-5.
      drop_inputs: dropout before each of the hidden dense layers, as torchvision; else after each, as the paper.
      initial_bias: what the biases start at that are 1 in the paper; those of a normalisation start at 0.
      num_classes: length of the logits.
      activation, kernel_init: see ``models.choices``.
      norm: of the convolutions, before their activation; "none" is a bias, as in the paper.
      norm_groups: see ``models.choices``.
      dtype: type of the arithmetic.
    """

    features: tuple[int, ...] = (96, 256, 384, 384, 256)
    dense: tuple[int, ...] = (4096, 4096)
    groups: int = 2
    stem_padding: int = 0
    ceil_pool: bool = choices.added(False)
    lrn: bool = True
    lrn_after_pool: bool = False
    lrn_size: int = choices.added(5)
    lrn_alpha: float = choices.added(1e-4)
    lrn_beta: float = choices.added(0.75)
    lrn_k: float = choices.added(2.0)
    drop_inputs: bool = False
    initial_bias: float = 1.0
    num_classes: int = 1000
    activation: str = "relu"
    kernel_init: str = "gaussian"
    norm: str = "none"
    norm_groups: int = choices.added(0)
    dtype: Any = jnp.float32

    def __post_init__(self):
        choices.check(self)
        check_dense(self.dense, MAP)
        check_positive(groups=self.groups)
        if len(self.features) != 5 or not all(isinstance(n, int) and n >= 1 for n in self.features):
            raise UsageError(f"features must hold five positive whole numbers of channels, not {self.features}.")
        if any(channels % self.groups for channels in self.features):
            raise UsageError(f"groups={self.groups} must divide all of features={self.features}.")
        if self.stem_padding < 0:
            raise UsageError(f"stem_padding must be a number of pixels, at least 0, not {self.stem_padding}.")
        super().__post_init__()

    @property
    def min_size(self) -> int:
        """Smallest height and width, in pixels: they leave 15 - 7 - 7 - 3 - 3 - 3 - 3 - 1."""
        return max(67 - 2 * self.stem_padding, 1)

    @property
    def parameter_stages(self) -> dict[str, tuple[str, ...]]:
        """Stages in order, with the prefixes of their parameters."""
        convolutions = {"stage1": ("conv1",), "stage2": ("conv2",), "stage3": ("conv3", "conv4", "conv5")}
        return convolutions | dense_stages(len(self.dense))

    @nn.compact
    def __call__(
        self, images: Images, train: bool = False, dropout_rate: float | Float[Array, ""] = 0.0
    ) -> tuple[Logits, dict[str, Any]]:
        """Images (N, H, W, C) to logits (N, num_classes)."""
        endpoints: dict[str, Any] = {}
        options = {"strides": (4, 4), "padding": self.stem_padding}
        x = endpoints["conv1"] = self._convolution(1, 11, images, train, **options)
        x = endpoints["stage1"] = self._pool_and_normalize(x)
        x = endpoints["conv2"] = self._convolution(2, 5, x, train, groups=self.groups)
        x = endpoints["stage2"] = self._pool_and_normalize(x)
        for index, groups in ((3, 1), (4, self.groups), (5, self.groups)):
            x = endpoints[f"conv{index}"] = self._convolution(index, 3, x, train, groups=groups)
        x = endpoints["stage3"] = self._pool(x)
        logits = flattened_head(
            self,
            x,
            endpoints,
            train,
            dropout_rate,
            self.dense,
            map_size=MAP,
            initial_bias=self.initial_bias,
            drop_inputs=self.drop_inputs,
        )
        return logits, endpoints

    def _convolution(self, index, side, x, train, **options):
        made = parts(self)
        if self.norm == "none" and index in (2, 4, 5):
            made = made._replace(norm=lambda channels: partial(parts(self).norm(channels), initial=self.initial_bias))
        return ConvNorm(self.features[index - 1], (side, side), made, name=f"conv{index}", **options)(x, train)

    def _pool_and_normalize(self, x):
        """Overlapping max pooling and, where there is one, local response normalisation."""
        normalize = response_norm(self)
        return normalize(self._pool(x)) if self.lrn_after_pool else self._pool(normalize(x))

    def _pool(self, x):
        padding = ceil_padding(x.shape[1:3], WINDOW, STRIDES) if self.ceil_pool else "VALID"
        return max_pool(x, WINDOW, STRIDES, padding)


ONE_COLUMN = {
    "features": (64, 192, 384, 256, 256),
    "groups": 1,
    "stem_padding": 2,
    "lrn": False,
    "drop_inputs": True,
    "initial_bias": 0.0,
    "kernel_init": "he",
}
VARIANTS = {
    "alexnet": Entry(AlexNet, (227, 227, 3), 2012),
    "alexnet_one_column": Entry(partial(AlexNet, **ONE_COLUMN), (224, 224, 3), 2014),
}
