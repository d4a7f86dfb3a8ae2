"""Dropout whose rate may be traced: ``flax.linen.Dropout`` branches on it in Python."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


class Dropout(nn.Module):
    """Each activation is zeroed with probability ``rate`` and the rest scaled by 1 / (1 - rate).

    Srivastava et al. 2014; S0:904-913. The expectation is kept, so nothing happens in evaluation.
    Rate 0 returns the input to the bit. Draws from the ``dropout`` stream.
    """

    @nn.compact
    def __call__(
        self, activations: Float[Array, "..."], rate: float | Float[Array, ""], train: bool
    ) -> Float[Array, "..."]:
        """Activations of any shape; rate in [0, 1), a number or a traced scalar."""
        if not train or (isinstance(rate, int | float) and rate == 0):
            return activations
        keep = 1.0 - jnp.asarray(rate, jnp.float32)
        # Uniform draws lie in [0, 1), so with keep = 1 every unit is kept.
        kept = jax.random.uniform(self.make_rng("dropout"), activations.shape) < keep
        return jnp.where(kept, activations / keep.astype(activations.dtype), 0)
