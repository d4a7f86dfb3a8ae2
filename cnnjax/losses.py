"""Losses, one number per example."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from cnnjax.typing import Labels, Logits, Scalar


def cross_entropy(logits: Logits, labels: Labels, label_smoothing: float | Scalar = 0.0) -> Float[Array, " n"]:
    """-log softmax(logits) at the label (S1:1104; S4:359), natural logarithm.

    With label smoothing s (Szegedy et al. 2016) the target is (1 - s) at the label plus s / classes
    everywhere; s may be traced, and 0 gives the plain loss to the bit.
    """
    log_probabilities = jax.nn.log_softmax(logits.astype(jnp.float32))
    at_label = jnp.take_along_axis(log_probabilities, labels[:, None], axis=-1)[:, 0]
    return -((1.0 - label_smoothing) * at_label + label_smoothing * log_probabilities.mean(-1))


def sum_of_squares(parameters) -> Scalar:
    """Σ w² over every array of the tree: the penalty of L + c Σ w² (S0:895-902)."""
    return sum((jnp.sum(jnp.square(leaf)) for leaf in jax.tree_util.tree_leaves(parameters)), jnp.float32(0))
