"""Where a file written by another library keeps the arrays of one of our networks."""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn


@dataclasses.dataclass(frozen=True)
class Layout:
    """The file's module for every module of a network that has arrays.

    The names of the arrays follow from the modules' and the ``style`` (see ``leaves``).

    Attributes:
      modules: our path, with the names of ``unstack`` where blocks are scanned, to the file's module:
        ``{"stage1.0/conv1/conv": "layer1.0.conv1"}``. Without normalisation (``norm="none"``) a convolution and
        its norm are one module of the file, which has weight and bias.
      flattened: our path of a dense layer that reads a flattened map, to the map's (H, W, C). The file flattens
        it as (C, H, W).
      optional: prefixes of the file's keys that are not read if they are there, such as auxiliary heads which
        the network lacks.
      convolutions: our paths of dense layers that the file has as convolutions: 1x1, or of the flattened map's
        sides. Only ``export`` needs to know; ``convert`` sees it in the array.
      style: of the keys and axes, "torch" or "keras".
      depthwise: our paths of convolutions whose kernels Keras has as (H, W, C, 1).
      unscaled: normalisations have no scale in the file; ours is one.
      fields: of the network, which no array shows, and which it must have to compute what the library's does.
    """

    modules: dict[str, str]
    flattened: dict[str, tuple[int, int, int]] = dataclasses.field(default_factory=dict)
    optional: tuple[str, ...] = ()
    convolutions: tuple[str, ...] = ()
    style: str = "torch"
    depthwise: tuple[str, ...] = ()
    unscaled: bool = False
    fields: dict[str, Any] = dataclasses.field(default_factory=dict)


# Class of network -> name of the library -> the layout of such a network in that library's files.
Table = dict[type[nn.Module], dict[str, Callable[[Any], Layout]]]
