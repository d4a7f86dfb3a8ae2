"""Losses, one number per example."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from cnnjax.typing import Labels, Logits, Scalar


def cross_entropy(logits: Logits, labels: Labels, label_smoothing: float | Scalar = 0.0) -> Float[Array, " n"]:
    """-log softmax(logits) at the label (S1:1104; S4:359), natural logarithm.

    With label smoothing s (Szegedy et al. 2016) the target is (1 - s) at the label plus s / classes
    everywhere; s may be traced, and 0 gives the plain loss to the bit. A class whose logit is -inf has probability 0:
    that costs nothing where the target is 0 too, and is infinite elsewhere.
    """
    log_probabilities = jax.nn.log_softmax(logits.astype(jnp.float32))
    at_label = jnp.take_along_axis(log_probabilities, labels[:, None], axis=-1)[:, 0]
    plain, everywhere = 1.0 - label_smoothing, log_probabilities.mean(-1)
    return -(plain * _where_used(plain, at_label) + label_smoothing * _where_used(label_smoothing, everywhere))


def binary_cross_entropy(logits: Logits, labels: Labels, label_smoothing: float | Scalar = 0.0) -> Float[Array, " n"]:
    """Each class as a yes or no of its own: the sum over classes of -log sigmoid(±logit) (S1:1270-1278).

    The target is 1 for the labelled class and 0 for the others, smoothed as in ``cross_entropy``. Infinite logits that
    answer as the target does cost nothing.
    """
    logits = logits.astype(jnp.float32)
    classes = logits.shape[-1]
    targets = (1.0 - label_smoothing) * jax.nn.one_hot(labels, classes) + label_smoothing / classes
    yes, no = jax.nn.log_sigmoid(logits), jax.nn.log_sigmoid(-logits)
    return -(targets * _where_used(targets, yes) + (1 - targets) * _where_used(1 - targets, no)).sum(-1)


def _where_used(weights, values):
    """Values where their weight is not 0, and else 0: 0 times infinity would be NaN, in the gradient too."""
    return jnp.where(weights != 0, values, 0)


def squared_error(outputs: Float[Array, "n *rest"], targets: Float[Array, "n *rest"]) -> Float[Array, " n"]:
    """The sum of an example's squared differences, such as those of a circle's centre and radius (S0:273-286)."""
    difference = outputs.astype(jnp.float32) - targets.astype(jnp.float32)
    return jnp.square(difference).reshape(len(difference), -1).sum(-1)


def distance(outputs: Float[Array, "n *rest"], targets: Float[Array, "n *rest"]) -> Float[Array, " n"]:
    """The root of ``squared_error``, such as the L2 distance of two boxes' x, y, width and height (S2:484-487).

    Its gradient has length 1 wherever the two differ, and is 0 where they agree, where the root has none.
    """
    squared = squared_error(outputs, targets)
    return jnp.where(squared == 0, 0, jnp.sqrt(jnp.where(squared == 0, 1, squared)))  # NaN stays


def localization(outputs: Float[Array, "n numbers"], targets: Float[Array, "n numbers"]) -> Float[Array, " n"]:
    """The squared error of all numbers where there is an object, of p_c alone where there is none (S4:687-701).

    An example's numbers are p_c, b_x, b_y, b_h, b_w and the classes, in the lecture 8. Where its true p_c is 0 the
    other targets mean nothing, and may be anything, even nan. What counts is the *true* p_c: the slide (S4:701)
    branches on the predicted one, with which a net that always says "no object" would have nothing else to learn.

    Args:
      outputs: (N, K), predicted.
      targets: (N, K), whose first number is 1 (object) or 0 (none).
    """
    counts = (targets[:, :1] > 0.5) | (jnp.arange(targets.shape[1]) == 0)
    return squared_error(jnp.where(counts, outputs, 0), jnp.where(counts, targets, 0))


def gram_matrix(activations: Float[Array, "n h w c"]) -> Float[Array, "n c c"]:
    """The style of each image: G_kl = sum over positions of a_k a_l (S4:1223), not normalised and not centred.

    n_c x n_c, symmetric and positive semi-definite. (The slide has h_c x n_c, S4:1219.) It does not know where
    anything is: shuffling the positions changes nothing.
    """
    wide = activations.astype(jnp.float32)
    return jnp.einsum("nhwk,nhwl->nkl", wide, wide, precision="highest")


LOSSES = {"softmax": cross_entropy, "sigmoid": binary_cross_entropy}


def sum_of_squares(parameters) -> Scalar:
    """Σ w² over every array of the tree: the penalty of L + c Σ w² (S0:895-902)."""
    return sum((jnp.sum(jnp.square(leaf)) for leaf in jax.tree_util.tree_leaves(parameters)), jnp.float32(0))
