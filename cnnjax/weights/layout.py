"""Where a file written by another library keeps the arrays of one of our networks."""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn


@dataclasses.dataclass(frozen=True)
class Layout:
    """The file's module for every module of a network that has arrays.

    The names of the arrays follow from the modules' (see ``convert``): a kernel is the file's ``weight``, a
    normalisation's scale is its ``weight``, a bias its ``bias``, mean and var its ``running_mean`` and
    ``running_var``.

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
    """

    modules: dict[str, str]
    flattened: dict[str, tuple[int, int, int]] = dataclasses.field(default_factory=dict)
    optional: tuple[str, ...] = ()
    convolutions: tuple[str, ...] = ()


# Class of network -> name of the library -> the layout of such a network in that library's files.
Table = dict[type[nn.Module], dict[str, Callable[[Any], Layout]]]
