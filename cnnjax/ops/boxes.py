"""Boxes (y1, x1, y2, x2): their overlap, and which of many overlapping ones to keep.

Coordinates are continuous, as in ``augment.geometry``: y down, x to the right, (y1, x1) the upper left corner. A box
whose second corner does not lie below and to the right of its first has no area.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from cnnjax.typing import UsageError


def area(boxes: Float[Array, "*many 4"]) -> Float[Array, "*many"]:
    """Height times width of each box."""
    _check(boxes)
    return jnp.maximum(boxes[..., 2] - boxes[..., 0], 0) * jnp.maximum(boxes[..., 3] - boxes[..., 1], 0)


def iou(boxes: Float[Array, "a 4"], others: Float[Array, "b 4"]) -> Float[Array, "a b"]:
    """Intersection over union of every box with every other: area shared / area covered (S4:811-825).

    The area covered is the sum of both areas less the shared one, which the slide forgets (S4:816). 1 for identical
    boxes, 0 for those that share nothing, also where neither has an area.

    Args:
      boxes: (A, 4).
      others: (B, 4).

    Returns:
      (A, B), in [0, 1].

    Raises:
      UsageError: boxes of another shape.
    """
    _check(boxes, 2)
    _check(others, 2)
    first = jnp.maximum(boxes[:, None, :2], others[None, :, :2])
    last = jnp.minimum(boxes[:, None, 2:], others[None, :, 2:])
    shared = area(jnp.concatenate([first, last], -1))
    covered = area(boxes)[:, None] + area(others) - shared
    return jnp.where(covered > 0, shared / jnp.where(covered > 0, covered, 1), 0)


def non_max_suppression(
    boxes: Float[Array, "n 4"],
    scores: Float[Array, " n"],
    overlap: float = 0.5,
    score: float = 0.6,
    limit: int | None = None,
    classes: Int[Array, " n"] | None = None,
) -> tuple[Int[Array, " limit"], Bool[Array, " limit"]]:
    """Of boxes around the same object, the one of the highest score (S4:829-856).

    Boxes of at most ``score`` are dropped. Then, again and again, the best of the remaining boxes is kept, and those
    are dropped that overlap it by ``overlap`` or more. Of equal scores the box of the lower index is the better one.
    Sizes are fixed, so this may be compiled and mapped over a batch.

    Args:
      boxes: (N, 4).
      scores: (N,), such as the probability p_c of an object.
      overlap: intersection over union from which two boxes are taken for one object, above 0.
      score: what a score must exceed.
      limit: at most so many boxes are kept, a fixed number; N by default.
      classes: (N,): only boxes of the same class suppress each other (S4:912-915); all are of one without.

    Returns:
      Indices (limit,) of the boxes kept, best first, and which of these are meant: the rest are -1.

    Raises:
      UsageError: shapes that do not fit, an overlap outside of 0 to 1, or a limit below 1.
    """
    _check(boxes, 2)
    count = len(boxes)
    for name, array in {"scores": scores, "classes": classes}.items():
        if array is not None and array.shape != (count,):
            raise UsageError(f"{count} boxes need {name} of shape ({count},), not {array.shape}.")
    limit = count if limit is None else limit
    if count < 1 or limit < 1:
        raise UsageError(f"limit={limit} of {count} boxes: there must be at least one box, and room for one.")
    if not 0 < overlap <= 1:
        raise UsageError(f"overlap={overlap} must lie above 0 and be at most 1: it is an intersection over union.")
    return _suppressed(boxes, scores, overlap, score, limit, classes)


@partial(jax.jit, static_argnames="limit")
def _suppressed(boxes, scores, overlap, score, limit, classes):
    def keep(alive, _):
        best = jnp.argmax(jnp.where(alive, scores, -jnp.inf))  # the first of equals
        found = alive[best]
        rivals = iou(boxes[best][None], boxes)[0] >= overlap
        if classes is not None:
            rivals &= classes == classes[best]
        # A box without area overlaps nothing, itself included.
        alive &= ~rivals & (jnp.arange(len(boxes)) != best)
        return alive, (jnp.where(found, best, -1), found)

    _, (indices, found) = jax.lax.scan(keep, scores > score, length=limit)
    return indices, found


def _check(boxes: Array, axes: int | None = None) -> None:
    if boxes.ndim < 1 or boxes.shape[-1] != 4 or (axes and boxes.ndim != axes):
        form = "(A, 4)" if axes else "(..., 4)"
        raise UsageError(f"Boxes must be of shape {form}: y1, x1, y2, x2 each, not {boxes.shape}.")
