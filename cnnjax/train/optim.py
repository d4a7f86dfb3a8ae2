"""Optimizers and learning-rate schedules whose rates are all traced.

A schedule is a unit multiplier of the learning rate; optax's own schedules take the rate itself and
some branch on it in Python, which fails on a traced value.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from cnnjax.tasks.task import everything
from cnnjax.train.spec import Hyper, Spec
from cnnjax.typing import Scalar


def directions(spec: Spec, hyper: Hyper, decayed: Callable[[Any], Any] = everything) -> optax.GradientTransformation:
    """Gradients to the direction that the learning rate multiplies.

    Momentum as in He et al. 2015 (velocity = momentum velocity + gradient), or Adam's ratio; then
    decoupled weight decay (Loshchilov and Hutter 2019) adds ``weight_decay * w`` where ``decayed(params)`` is True.
    """
    if spec.optimizer == "adam":
        first = optax.scale_by_adam(b1=hyper.momentum, nesterov=spec.nesterov)
    else:
        first = optax.trace(decay=hyper.momentum, nesterov=spec.nesterov)
    return optax.chain(first, optax.add_decayed_weights(hyper.weight_decay, decayed))


class Plateau(NamedTuple):
    """State of divide-on-plateau (S2:200): the training loss of the epoch so far, and the best so far."""

    scale: Float[Array, ""]
    best: Float[Array, ""]
    bad_epochs: Int[Array, ""]
    loss: Float[Array, ""]
    count: Int[Array, ""]


def plateau_init() -> Plateau:
    """The state before the first step."""
    zero = jnp.int32(0)
    return Plateau(jnp.float32(1), jnp.float32(jnp.inf), zero, jnp.float32(0), zero)


def plateau_update(state: Plateau, loss: Scalar, epoch_steps: Int[Array, ""], patience: int, drop: Scalar) -> Plateau:
    """Once an epoch: multiply the scale by ``drop`` after ``patience`` epochs without a better mean loss."""
    total, count = state.loss + loss, state.count + 1
    ended = count == epoch_steps
    mean = total / count
    better = mean < state.best
    bad = jnp.where(better, 0, state.bad_epochs + 1)
    dropped = bad >= patience
    return Plateau(
        scale=jnp.where(ended & dropped, state.scale * drop, state.scale),
        best=jnp.where(ended & better, mean, state.best),
        bad_epochs=jnp.where(ended, jnp.where(dropped, 0, bad), state.bad_epochs),
        loss=jnp.where(ended, 0.0, total),
        count=jnp.where(ended, 0, count),
    )


def rate_factor(spec: Spec, hyper: Hyper, step: Int[Array, ""], plateau: Plateau) -> Scalar:
    """What the learning rate is multiplied with at ``step`` (0-based), in [0, 1].

    Warm-up covers the first ``round(warmup * steps)`` steps: "linear" rises from ``warmup_factor`` to 1,
    "constant" stays at ``warmup_factor`` (He et al. 2015 use 0.1 of the rate for 110 layers).
    The cosine falls from 1 to 0 over what follows the warm-up; milestones count from the start.
    """
    warm_steps = jnp.round(hyper.warmup * spec.steps)  # in float32, 0.6 * 25 is more than 15
    warming = step < warm_steps
    rise = (step + 1) / jnp.maximum(warm_steps, 1) if spec.warmup_form == "linear" else 0.0
    warm = jnp.where(warming, hyper.warmup_factor + (1 - hyper.warmup_factor) * jnp.minimum(rise, 1.0), 1.0)
    if spec.schedule == "constant":
        return warm
    if spec.schedule == "plateau":
        return warm * plateau.scale
    if spec.schedule == "step":
        passed = sum((step >= m * spec.steps).astype(jnp.float32) for m in spec.milestones)
        return warm * jnp.asarray(hyper.rate_drop, jnp.float32) ** passed
    progress = (step - warm_steps) / jnp.maximum(spec.steps - warm_steps, 1)
    return warm * jnp.where(warming, 1.0, 0.5 * (1 + jnp.cos(jnp.pi * progress)))
