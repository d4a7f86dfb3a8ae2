"""The lectures' "whole CNN" (S1:550-554, 1078-1119, 1241): the order of layers that every later network keeps."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from cnnjax.models import choices
from cnnjax.models.entry import Entry
from cnnjax.models.flattened import check_dense, dense_stages, flattened_head
from cnnjax.models.parts import ConvNorm, parts
from cnnjax.ops.pool import max_pool
from cnnjax.typing import Images, Logits, UsageError


class WholeCNN(nn.Module):
    """Convolution, max pooling, convolution, max pooling, flattening, full connection; softmax gives probabilities.

    From the lectures come the order, kernels of 3x3 and six of them in the first layer (S1:773), no padding (150 to
    148 pixels, S1:1256-1258), pooling of 2x2 (150 to 75, S1:1262-1264), ReLU, and images of 16x16 (S1:1005). The
    listing that had the other sizes is lost from their text: the 16 kernels of the second layer are chosen here.

    Parameters: 6 (9 C + 1) + 16 (9 * 6 + 1) + classes (16 h w + 1), where the last map has h x w pixels,
    h = floor((floor((H - 2) / 2) - 2) / 2). On 16x16x1 the sides are 16 - 14 - 7 - 5 - 2, and 60 + 880 + 650 = 1,590
    parameters.

    Endpoints: ``stage1``, ``stage2``, after pooling; ``features`` and ``logits_map`` as ``models.flattened`` says.

    Attributes:
      features: kernels of the two convolutions.
      dense: units of hidden fully connected layers; none in the lectures.
      map_size: side of the map that is flattened, to which others are averaged; 0 is whatever the images leave.
      num_classes: length of the logits.
      kernel_size, activation, kernel_init: see ``models.choices``.
      norm: of each convolution before its activation; "none" is a bias.
      norm_groups: see ``models.choices``.
      dtype: type of the arithmetic.
    """

    features: tuple[int, ...] = (6, 16)
    dense: tuple[int, ...] = ()
    map_size: int = 0
    num_classes: int = 10
    kernel_size: int = 3
    activation: str = "relu"
    kernel_init: str = "he"
    norm: str = "none"
    norm_groups: int = choices.added(0)
    dtype: Any = jnp.float32

    def __post_init__(self):
        choices.check(self)
        check_dense(self.dense, self.map_size)
        if len(self.features) != 2 or not all(isinstance(n, int) and n >= 1 for n in self.features):
            raise UsageError(f"features must hold two positive whole numbers of kernels, not {self.features}.")
        super().__post_init__()

    @property
    def min_size(self) -> int:
        """Smallest height and width, in pixels: two convolutions without padding and two poolings leave one."""
        margin = self.kernel_size - 1
        return 2 * (2 + margin) + margin

    @property
    def parameter_stages(self) -> dict[str, tuple[str, ...]]:
        """Stages in order, with the prefixes of their parameters."""
        return {name: (name,) for name in ("stage1", "stage2")} | dense_stages(len(self.dense))

    @nn.compact
    def __call__(
        self, images: Images, train: bool = False, dropout_rate: float | Float[Array, ""] = 0.0
    ) -> tuple[Logits, dict[str, Any]]:
        """Images (N, H, W, C) to logits (N, num_classes); dropout before the first fully connected layer."""
        kernel = (self.kernel_size, self.kernel_size)
        layer = partial(ConvNorm, kernel_size=kernel, parts=parts(self), padding="VALID")
        endpoints: dict[str, Any] = {}
        x = images
        for stage, features in enumerate(self.features, start=1):
            x = endpoints[f"stage{stage}"] = max_pool(layer(features, name=f"stage{stage}")(x, train))
        logits = flattened_head(
            self, x, endpoints, train, dropout_rate, self.dense, map_size=self.map_size, drop_inputs=True
        )
        return logits, endpoints


VARIANTS = {"whole_cnn": Entry(WholeCNN, (16, 16, 1), 1998)}  # LeNet-5 has the order
