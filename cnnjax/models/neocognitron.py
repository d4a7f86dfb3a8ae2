"""A neocognitron that can be trained with labels, after Fukushima 1980 (S3:441-445).

Fukushima's (Biological Cybernetics 36:193-202), kept here:

  - stages of a layer of S-cells, which detect features, and a layer of C-cells, which tolerate their shifts;
  - an S-cell reads a small window of all maps before it, with weights that all cells of its map share;
  - excitation e with weights that are not negative, divided by inhibition: phi((1 + e) / (1 + b h r / (1 + r)) - 1),
    where phi cuts off what is negative, h is the root of the weighted mean of the squares of what the cell reads, b is
    the strength of the inhibition and r the selectivity (the form of his later papers);
  - with the b that his learning rule reaches, an S-cell responds only if the cosine between what it reads and the
    pattern that it prefers exceeds r / (1 + r), and strong responses do not depend on the contrast;
  - a C-cell averages a neighbourhood of S-cells, near ones more, and is inhibited by the mean m of this over all maps:
    psi((1 + x) / (1 + m) - 1), which cuts off what is negative and saturates, psi(y) = y / (alpha + y).

Not Fukushima's:

  - he trained without labels: of the cells of a neighbourhood the one that responds most is reinforced. Here
    gradients of the loss train all weights, and a linear layer, which he did not have, reads out the classes;
  - the network's images, which have negative pixels once they are normalised, are split into brighter and darker
    than the mean. Cells for both came into his later networks; that of 1980 reads the receptors directly;
  - every C-layer halves the sides, where his shrink otherwise: from 16x16 to 10x10, 6x6 and 1x1;
  - the constants: what is trained by gradients dies where the S-cells are too selective. With the selectivity below
    Adam learns (rate 0.01: about 10 % error on the digits after 300 steps of 64), and stochastic gradient descent
    needs a small rate, such as 0.03.
"""

import math
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from cnnjax.models import choices
from cnnjax.models.entry import Entry
from cnnjax.models.parts import pooled_head
from cnnjax.models.stages import stage_prefixes
from cnnjax.nn import initializer
from cnnjax.ops.conv import conv
from cnnjax.ops.pool import blur_pool
from cnnjax.typing import Images, Logits, UsageError

C_WINDOW = 5  # side of the neighbourhood of a C-cell
ALPHA = 0.1  # where a C-cell reaches half of its largest response
TINY = 1e-12  # keeps the gradient of the root finite where a cell reads nothing


class SCells(nn.Module):
    """Feature detectors: r phi((1 + e) / (1 + b h r / (1 + r)) - 1).

    The window of a cell has weights c(v) that fall with the distance v from its middle (a binomial; mean 1). With
    a pattern w >= 0 of n numbers, e = sum of c w u over what it reads, u, and h = sqrt(mean of c u²). With
    b = sqrt(n sum of c w²), e / (b h) is a cosine, and the response is at most 1.

    Parameters: ``kernel`` (k, k, C, features), whose magnitude times sqrt(n / 2) is w, so that w is of the order of
    1 with He's initialiser; ``inhibition`` (features,), whose magnitude multiplies that b and starts at 1.

    Attributes:
      features: maps.
      kernel_size: side k of a cell's window.
      selectivity: r.
      kernel_init: initialiser of the kernel.
      dtype: type of the convolutions; the rest is float32.
    """

    features: int
    kernel_size: int
    selectivity: float
    kernel_init: Any
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h w o"]:
        """Activations (N, H, W, C) that are not negative to (N, H, W, features), not negative."""
        side, channels = self.kernel_size, x.shape[-1]
        kernel = self.param("kernel", self.kernel_init, (side, side, channels, self.features), jnp.float32)
        inhibition = self.param("inhibition", nn.initializers.ones, (self.features,), jnp.float32)
        count = side * side * channels
        near, pattern = jnp.asarray(_nearness(side)), math.sqrt(count / 2) * jnp.abs(kernel)

        excitation = self._sum(x, near * pattern)
        mean_square = self._sum(jnp.square(x), jnp.broadcast_to(near / count, (side, side, channels, 1)))
        strength = jnp.abs(inhibition) * jnp.sqrt(count * (near * jnp.square(pattern)).sum((0, 1, 2)) + TINY)
        shunt = strength * jnp.sqrt(mean_square + TINY) * (self.selectivity / (1 + self.selectivity))
        return (self.selectivity * nn.relu((1 + excitation) / (1 + shunt) - 1)).astype(self.dtype)

    def _sum(self, x, kernel):
        return conv(x.astype(self.dtype), kernel.astype(self.dtype)).astype(jnp.float32)


def c_cells(x: Float[Array, "n h w c"]) -> Float[Array, "n h2 w2 c"]:
    """Weighted averages of 5x5 S-cells at every second row and column, inhibited by all maps' mean, saturating."""
    x = blur_pool(x, C_WINDOW)
    x = nn.relu((1 + x) / (1 + x.mean(-1, keepdims=True)) - 1)
    return x / (ALPHA + x)


class Neocognitron(nn.Module):
    """Stages of S-cells and C-cells, and a linear layer that reads the last stage's averages.

    With F maps in each of S stages, windows of k x k and images of C channels: k² F (2 C + (S - 1) F) + S F
    parameters, and classes (F + 1) of the head. On 16x16x1: 25 * 24 * (2 + 48) + 72 + 250 = 30,322. The 24 maps,
    three stages and windows of 5x5 are the paper's.

    Endpoints: ``stage1``, ``stage2``, ... (the C-cells), ``features``, ``logits_map``.

    Attributes:
      features: maps of each stage.
      kernel_size: side of an S-cell's window, odd.
      selectivity: r of the S-cells: they respond where the cosine exceeds r / (1 + r).
      num_classes: length of the logits.
      kernel_init: see ``models.choices``; of the S-cells only the magnitude counts.
      dtype: type of the arithmetic.
    """

    features: tuple[int, ...] = (24, 24, 24)
    kernel_size: int = 5
    selectivity: float = 0.7
    num_classes: int = 10
    kernel_init: str = "he"
    dtype: Any = jnp.float32

    min_size = 1

    def __post_init__(self):
        choices.check(self)
        if not 1 <= len(self.features) <= 9 or not all(isinstance(n, int) and n >= 1 for n in self.features):
            raise UsageError(f"features must hold one to nine positive whole numbers of maps, not {self.features}.")
        if not (math.isfinite(self.selectivity) and self.selectivity > 0):
            raise UsageError(f"selectivity must be a positive number, such as 0.7, not {self.selectivity}.")
        super().__post_init__()

    @property
    def parameter_stages(self) -> dict[str, tuple[str, ...]]:
        """Stages in order, with the prefixes of their parameters."""
        return stage_prefixes(len(self.features), stem=False)

    @nn.compact
    def __call__(
        self, images: Images, train: bool = False, dropout_rate: float | Float[Array, ""] = 0.0
    ) -> tuple[Logits, dict[str, Any]]:
        """Images (N, H, W, C) to logits (N, num_classes); dropout before the head."""
        endpoints: dict[str, Any] = {}
        x = jnp.concatenate([nn.relu(images), nn.relu(-images)], axis=-1)
        init = initializer(self.kernel_init)
        for stage, maps in enumerate(self.features, start=1):
            cells = SCells(maps, self.kernel_size, self.selectivity, init, self.dtype, name=f"stage{stage}")
            x = endpoints[f"stage{stage}"] = c_cells(cells(x))
        return pooled_head(self, x, endpoints, train, dropout_rate), endpoints


def _nearness(side: int) -> Float[np.ndarray, "side side 1 1"]:
    """Binomial weights of a window, with mean 1."""
    row = np.array([math.comb(side - 1, place) for place in range(side)], np.float32)
    weights = np.outer(row, row)
    return (weights / weights.mean())[:, :, None, None].astype(np.float32)


VARIANTS = {"neocognitron": Entry(Neocognitron, (16, 16, 1), 1980)}
