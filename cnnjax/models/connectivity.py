"""What local connections and shared weights are worth, each by itself (LeCun 1989; S1:514-538; S3:78-96).

Three networks of the same layers of units. A unit of a hidden layer reads all units of the layer
before it ("dense"), or a window of them with weights of its own ("local"), or the same window with
weights that it shares with all units of its map ("conv").
"""

from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from cnnjax.models import choices
from cnnjax.models.entry import Entry
from cnnjax.nn import Conv, Dropout, LocallyConnected, activation, initializer
from cnnjax.typing import Images, Logits, UsageError


class ConnectivityNet(nn.Module):
    """Two hidden layers, each halving the sides, and a dense head.

    Their kernels have stride 2 and SAME padding, which on even sides is (0, 1); the lectures say none.

    Images of H x W x C pixels give U1 = ceil(H / 2) ceil(W / 2) F1 units and
    U2 = ceil(H / 4) ceil(W / 4) F2 units, whatever the connections. Weights and biases of the hidden
    layers, with kernels of k x k:

      conv:   F1 (k² C + 1) + F2 (k² F1 + 1)
      local:  U1 (k² C + 1) + U2 (k² F1 + 1)
      dense:  U1 (H W C + 1) + U2 (U1 + 1)

    The head adds classes (U2 + 1). On 16x16x1 that is 3,818, 18,570 and 201,482 parameters.

    Endpoints: ``layer1``, ``layer2`` as (N, rows, columns, maps), after the activation; ``features``, the second
    layer's units, which the head reads, before dropout.

    Attributes:
      sharing: "conv", "local" or "dense".
      features: maps F1, F2 of the two hidden layers.
      kernel_size, activation, kernel_init: see ``models.choices``; "dense" has no kernels.
      num_classes: length of the logits.
      dtype: type of the arithmetic.
    """

    sharing: str = "conv"
    features: tuple[int, ...] = (8, 16)
    kernel_size: int = 3
    num_classes: int = 10
    activation: str = "relu"
    kernel_init: str = "he"
    dtype: Any = jnp.float32

    min_size = 1

    def __post_init__(self):
        choices.check(self)
        if len(self.features) != 2 or not all(isinstance(maps, int) and maps >= 1 for maps in self.features):
            raise UsageError(f"features must hold two positive whole numbers of maps, not {self.features}.")
        super().__post_init__()

    @property
    def parameter_stages(self) -> dict[str, tuple[str, ...]]:
        """Stages in order, with the prefixes of their parameters."""
        return {name: (name,) for name in ("layer1", "layer2", "head")}

    @nn.compact
    def __call__(
        self, images: Images, train: bool = False, dropout_rate: float | Float[Array, ""] = 0.0
    ) -> tuple[Logits, dict[str, Any]]:
        """Images (N, H, W, C) to logits (N, num_classes); dropout before the head."""
        endpoints: dict[str, Any] = {}
        x = images
        for index, maps in enumerate(self.features, start=1):
            x = endpoints[f"layer{index}"] = activation(self.activation)(self._layer(f"layer{index}", x, maps))
        endpoints["features"] = x.reshape(x.shape[0], -1)
        if self.num_classes == 0:
            return endpoints["features"], endpoints
        x = Dropout()(endpoints["features"], dropout_rate, train)
        init = initializer(self.kernel_init)
        return nn.Dense(self.num_classes, kernel_init=init, dtype=self.dtype, name="head")(x), endpoints

    def _layer(self, name, x, maps):
        """The next layer's units, before their activation."""
        options = {"kernel_init": initializer(self.kernel_init), "dtype": self.dtype, "name": name}
        if self.sharing == "dense":
            count, height, width, _ = x.shape
            shape = (-(-height // 2), -(-width // 2), maps)
            units = nn.Dense(shape[0] * shape[1] * shape[2], **options)(x.reshape(count, -1))
            return units.reshape(count, *shape)
        layer = Conv if self.sharing == "conv" else LocallyConnected
        return layer(maps, (self.kernel_size, self.kernel_size), strides=(2, 2), **options)(x)


VARIANTS = {
    f"connectivity_{sharing}": Entry(partial(ConnectivityNet, sharing=sharing), (16, 16, 1), 1989)
    for sharing in choices.CHOICES["sharing"]
}
