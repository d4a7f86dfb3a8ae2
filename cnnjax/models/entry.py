"""What the table of models says of each name."""

import dataclasses
from collections.abc import Callable

import flax.linen as nn


@dataclasses.dataclass(frozen=True)
class Entry:
    """A named variant.

    Attributes:
      build: makes the module, with some of its fields replaced.
      image_shape: (H, W, C) that it was published with.
      year: of the publication.
    """

    build: Callable[..., nn.Module]
    image_shape: tuple[int, int, int]
    year: int
