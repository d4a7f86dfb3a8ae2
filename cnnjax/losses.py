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


def binary_cross_entropy(logits: Logits, labels: Labels, label_smoothing: float | Scalar = 0.0) -> Float[Array, " n"]:
    """Each class as a yes or no of its own: the sum over classes of -log sigmoid(±logit) (S1:1270-1278).

    The target is 1 for the labelled class and 0 for the others, smoothed as in ``cross_entropy``.
    """
    logits = logits.astype(jnp.float32)
    classes = logits.shape[-1]
    targets = (1.0 - label_smoothing) * jax.nn.one_hot(labels, classes) + label_smoothing / classes
    return -(targets * jax.nn.log_sigmoid(logits) + (1 - targets) * jax.nn.log_sigmoid(-logits)).sum(-1)


LOSSES = {"softmax": cross_entropy, "sigmoid": binary_cross_entropy}


def sum_of_squares(parameters) -> Scalar:
    """Σ w² over every array of the tree: the penalty of L + c Σ w² (S0:895-902)."""
    return sum((jnp.sum(jnp.square(leaf)) for leaf in jax.tree_util.tree_leaves(parameters)), jnp.float32(0))
