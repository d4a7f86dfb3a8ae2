"""Dense layers on a flattened map: the end of LeNet-5, AlexNet and VGG.

A dense layer on a flattened map of S x S pixels is a convolution with S x S kernels and no padding, and a dense
layer after it is a 1x1 convolution. So on larger maps the same weights give a map of logits, one for every S x S
window: the network at many places of the image for hardly more than the price of one (S4:736-765).
"""

from functools import partial
from typing import Any

import flax.linen as nn
from jaxtyping import Array, Float

from cnnjax.nn import Dropout, activation, initializer
from cnnjax.ops.conv import patches
from cnnjax.ops.pool import adaptive_average_pool
from cnnjax.typing import Logits, UsageError


def flattened_head(
    model: nn.Module,
    x: Float[Array, "n h w c"],
    endpoints: dict[str, Any],
    train: bool,
    dropout_rate: Any,
    dense: tuple[int, ...],
    *,
    map_size: int = 0,
    initial_bias: float = 0.0,
    drop_inputs: bool = False,
) -> Logits:
    """Hidden dense layers ``dense1``, ``dense2``, ..., and ``head``; call it inside the network's ``__call__``.

    Adds the endpoints ``dense1``, ... (N, units), after the activation; ``features`` (N, units of the last), which
    the head reads, before dropout; and ``logits_map`` (N, H', W', classes): the layers as convolutions, without
    dropout and without padding, where the map is large enough, else the logits as a map of one pixel. Without classes
    it returns the features, and there is no ``logits_map``.

    Args:
      model: its fields say the activations, the initialiser, the classes and the arithmetic.
      x: the last map.
      endpoints: of the network.
      train, dropout_rate: as the network's.
      dense: units of the hidden layers.
      map_size: side of the map that is flattened; maps of other sides are averaged to it (and hardly make sense
        where they are smaller). 0 flattens the map as it is.
      initial_bias: what the hidden layers' biases start at.
      drop_inputs: dropout before every hidden layer, or before the head where there is none; else after every
        hidden layer.
    """
    fields = vars(model)
    act, last = activation(fields["activation"]), activation(fields.get("head_activation", "identity"))
    make = partial(nn.Dense, kernel_init=initializer(fields["kernel_init"]), dtype=fields["dtype"])
    start = nn.initializers.constant(initial_bias)
    hidden = [make(units, bias_init=start, name=f"dense{index}") for index, units in enumerate(dense, start=1)]

    size = (map_size, map_size) if map_size else x.shape[1:3]
    y = features = adaptive_average_pool(x, size).reshape(x.shape[0], -1)
    for layer in hidden:
        if drop_inputs:
            y = Dropout()(y, dropout_rate, train)
        y = features = endpoints[layer.name] = act(layer(y))
        if not drop_inputs:
            y = Dropout()(y, dropout_rate, train)
    if drop_inputs and not hidden:
        y = Dropout()(y, dropout_rate, train)
    endpoints["features"] = features
    if fields["num_classes"] == 0:
        return features
    head = make(fields["num_classes"], name="head")
    logits = last(head(y))

    if x.shape[1] < size[0] or x.shape[2] < size[1]:
        endpoints["logits_map"] = logits[:, None, None]
        return logits
    y = _windows(x, size)
    for layer in hidden:
        y = act(layer(y))
    endpoints["logits_map"] = last(head(y))
    return logits


def dense_stages(count: int) -> dict[str, tuple[str, ...]]:
    """The last ``parameter_stages`` of a network that ends with ``count`` hidden dense layers and a head."""
    return {name: (name,) for name in (*(f"dense{index}" for index in range(1, count + 1)), "head")}


def check_dense(dense: tuple[int, ...], map_size: int) -> None:
    """Refuses numbers of units or of pixels that cannot be.

    Raises:
      UsageError: naming the field.
    """
    if not all(isinstance(units, int) and units >= 1 for units in dense) or len(dense) > 9:
        raise UsageError(f"dense must hold at most nine positive whole numbers of units, not {dense}.")
    if map_size < 0:
        raise UsageError(f"map_size must be a number of pixels, or 0 for the map as it is, not {map_size}.")


def _windows(x, size):
    """(N, H', W', rows·columns·C): every window of a map, flattened."""
    if x.shape[1:3] == tuple(size):
        return x.reshape(x.shape[0], 1, 1, -1)
    return patches(x, tuple(size))
