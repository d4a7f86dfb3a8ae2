"""Metrics as (sum, count) pairs, which add over batches, devices and processes; divided once, on the host."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from cnnjax.typing import Labels, Logits

Sums = dict[str, Any]  # name -> weighted sum; "count" -> sum of the weights


def answered(scores: Float[Array, "*n classes"]) -> Bool[Array, "*n"]:
    """Whether logits or probabilities say anything: their largest is finite. A class at -inf is just ruled out."""
    return jnp.isfinite(jnp.max(scores, -1))


def predicted(scores: Float[Array, "*n classes"]) -> Int[Array, "*n"]:
    """The likeliest class by logits or probabilities, or -1, which is no class, where they say nothing.

    ``argmax`` alone calls the first NaN the largest: a broken network would be right wherever the label is 0.
    """
    return jnp.where(answered(scores), jnp.argmax(scores, -1), -1)


def classification(logits: Logits, labels: Labels, losses: Float[Array, " n"], weights: Float[Array, " n"]) -> Sums:
    """Sums of the loss and of the errors (``predicted`` is not the label) over weighted examples.

    Examples of weight 0 are padding: they count nothing, even where they are not finite.
    """
    wrong = (predicted(logits) != labels).astype(jnp.float32)
    return {
        "loss": weighted_sum(losses, weights),
        "error": jnp.sum(wrong * weights),
        "count": jnp.sum(weights),
    }


def weighted_sum(values: Float[Array, " n"], weights: Float[Array, " n"]) -> Float[Array, ""]:
    """The sum of values times weights; a value of weight 0 counts nothing, even where it is not finite."""
    return jnp.sum(jnp.where(weights > 0, values * weights, 0))


def zeros() -> Sums:
    """The sums of no example."""
    return {name: jnp.float32(0) for name in ("loss", "error", "count")}


def means(sums: Sums) -> dict[str, Any]:
    """Sums from the device to means on the host: a float each, or an array; a count of 0 gives NaN."""
    count = float(sums["count"])

    def mean(value):
        total = np.asarray(value) if np.ndim(value) else float(value)
        return total / count if count else total * float("nan")

    return {name: mean(value) for name, value in sums.items() if name != "count"}
