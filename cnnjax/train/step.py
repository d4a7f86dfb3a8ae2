"""One training step and one evaluation, as pure functions: the whole of what a program computes."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Int, Integer, UInt32

from cnnjax import augment, losses, metrics, rng
from cnnjax.data.catalog import Info
from cnnjax.tasks.task import Task
from cnnjax.train import optim
from cnnjax.train.spec import Hyper, Spec
from cnnjax.typing import Labels, Scalar

# A pool of examples on the device: "images" (N, H, W, C) uint8, or float32 features as the network reads them;
# "labels" (N,), "mean" and "std" (C,) and "colour_basis" (C, C) of the training split.
Pool = dict[str, Any]


class State(NamedTuple):
    """Everything that a run carries from step to step.

    Attributes:
      step: steps done.
      params: trainable parameters.
      model_state: the model's other collections, such as ``batch_stats``.
      optimizer: the optimizer's state.
      plateau: the state of divide-on-plateau.
      rate: the learning rate of the next step; kept, or XLA would compile the schedule anew into the
        update of every parameter.
      streams: the roots of the random streams that steps draw from, by name; see ``rng.root``.
      diverged_at: the first step whose loss was not finite, or -1.
    """

    step: Int[Array, ""]
    params: Any
    model_state: Any
    optimizer: Any
    plateau: optim.Plateau
    rate: Float[Array, ""]
    streams: dict[str, UInt32[Array, "2"]]
    diverged_at: Int[Array, ""]


def initial_state(task: Task, spec: Spec, hyper: Hyper, seed: Integer[Array, ""], pool: Pool) -> State:
    """The state before the first step, from the ``init`` stream alone."""
    images = jnp.zeros((1, *pool["images"].shape[1:]), jnp.float32)
    variables = dict(task.init(rng.key(seed, "init"), {"images": images}))
    params = variables.pop("params")
    optimizer = optim.directions(spec, hyper, task.weights).init(params)
    plateau = optim.plateau_init()
    rate = hyper.learning_rate * optim.rate_factor(spec, hyper, jnp.int32(0), plateau)
    streams = {name: rng.root(seed, name) for name in ("augment", "dropout")}
    return State(jnp.int32(0), params, variables, optimizer, plateau, rate, streams, jnp.int32(-1))


def training_step(
    task: Task,
    spec: Spec,
    info: Info,
    state: State,
    hyper: Hyper,
    pool: Pool,
    indices: Int[Array, " batch"],
    noise: UInt32[Array, "batch 2"],
    axis: str | None = None,
    differentiate: Callable[..., Any] = jax.grad,
) -> tuple[State, metrics.Sums]:
    """batch -> augment -> loss -> gradients -> optimizer; returns the new state and the batch's sums.

    Where devices share the batch, each draws random numbers of its own for its part, and what depends on the whole
    batch (loss, gradients, sums) is averaged or added up over them, running statistics in ``nn.norm``: so all devices
    hold the same state.

    Args:
      task, spec, info: static.
      state: before the step.
      hyper: traced scalars.
      pool: examples on the device.
      indices: (batch,) int32 into the pool.
      noise: (batch, 2) uint32, random words that belong to the examples; see ``data.feed``.
      axis: static; the axis of devices, each with an equal part of the batch. None: one device has all of it.
      differentiate: static; in place of ``jax.grad``, for those who only ask what the step reads.
    """
    strengths = {name: getattr(hyper, name) for name in spec.augment}
    key = _key(state, "augment", axis)
    examples = {"images": _unit(pool["images"][indices])}
    examples = augment.apply(key, examples, spec.augment, strengths, pool["colour_basis"])
    batch = {
        "images": _normalize(examples["images"], pool),
        "labels": _noisy_labels(pool["labels"][indices], noise, hyper.label_noise, info.num_classes),
        "weights": jnp.ones(indices.shape, jnp.float32),
    }

    def objective(params):
        variables = {"params": params, **state.model_state}
        loss, auxiliary = task.loss(variables, batch, _key(state, "dropout", axis), hyper)
        penalised = jax.tree_util.tree_map(lambda w, use: w if use else None, params, task.weights(params))
        penalty = hyper.l2 * losses.sum_of_squares(penalised) if jax.tree_util.tree_leaves(penalised) else 0.0
        return loss + penalty, (loss, auxiliary)

    gradients, (loss, (model_state, sums)) = differentiate(objective, has_aux=True)(state.params)
    if axis is not None:
        (gradients, loss), sums = _over_devices((gradients, loss), sums, axis)
    directions, optimizer = optim.directions(spec, hyper, task.weights).update(gradients, state.optimizer, state.params)
    params = jax.tree_util.tree_map(lambda w, d: w - state.rate * d, state.params, directions)
    plateau = state.plateau
    if spec.schedule == "plateau":
        size = jnp.where(hyper.train_size > 0, hyper.train_size, info.sizes["train"])
        epoch_steps = jnp.maximum(1, size.astype(jnp.int32) // spec.batch_size)
        plateau = optim.plateau_update(plateau, loss, epoch_steps, spec.patience, hyper.rate_drop)
    failed = (state.diverged_at < 0) & ~jnp.isfinite(loss)
    diverged_at = jnp.where(failed, state.step, state.diverged_at)
    rate = hyper.learning_rate * optim.rate_factor(spec, hyper, state.step + 1, plateau)
    return State(state.step + 1, params, model_state, optimizer, plateau, rate, state.streams, diverged_at), sums


def evaluation_sums(
    task: Task,
    info: Info,
    state: State,
    hyper: Hyper,
    pool: Pool,
    indices: Int[Array, " batch"],
    noise: UInt32[Array, "batch 2"],
    count: Int[Array, ""],
    noisy: Int[Array, ""],
) -> metrics.Sums:
    """The sums over the first ``count`` of ``indices``, in evaluation mode, without augmentation.

    ``noisy`` 1 keeps the label noise that the run was trained with, 0 takes the true labels.
    """
    batch = {
        "images": network_inputs(pool, indices),
        "labels": _noisy_labels(pool["labels"][indices], noise, hyper.label_noise * noisy, info.num_classes),
        "weights": (jnp.arange(indices.shape[0]) < count).astype(jnp.float32),
    }
    return task.evaluate({"params": state.params, **state.model_state}, batch)


def probe_sums(
    task: Task, state: State, pool: Pool, indices: Int[Array, " batch"], count: Int[Array, ""]
) -> metrics.Sums:
    """The sums of the task's probes over the first ``count`` of ``indices``, with true labels."""
    batch = {
        "images": _unit(pool["images"][indices]),
        "labels": pool["labels"][indices],
        "weights": (jnp.arange(indices.shape[0]) < count).astype(jnp.float32),
    }
    variables = {"params": state.params, **state.model_state}
    assert task.probe is not None  # the Spec names probes of this task
    return task.probe(variables, batch, lambda images: _normalize(images, pool))


def outputs(task: Task, state: State, pool: Pool, indices: Int[Array, " batch"]) -> Float[Array, "batch classes"]:
    """The class probabilities of the examples ``indices``."""
    assert task.outputs is not None
    return task.outputs({"params": state.params, **state.model_state}, {"images": network_inputs(pool, indices)})


def network_inputs(pool: Pool, indices: Int[Array, " batch"]) -> Float[Array, "batch h w c"]:
    """What the network reads of the examples ``indices``, without augmentation."""
    return _normalize(_unit(pool["images"][indices]), pool)


def over_lanes(function: Callable, lanes: int, shared: tuple[int, ...]) -> Callable:
    """``function`` mapped over a leading axis of every argument but the ``shared`` ones.

    One lane is not mapped at all: vmap changes bits and costs time.
    """

    def mapped(*args):
        if lanes == 1:
            single = [a if i in shared else _first(a) for i, a in enumerate(args)]
            return jax.tree_util.tree_map(lambda leaf: leaf[None], function(*single))
        return jax.vmap(function, [None if i in shared else 0 for i in range(len(args))])(*args)

    return mapped


def _key(state: State, stream: str, axis: str | None):
    """The key of a step; of each device along ``axis`` another."""
    key = rng.at_step(state.streams[stream], state.step)
    return key if axis is None else jax.random.fold_in(key, lax.axis_index(axis))


def _over_devices(means, sums, axis: str):
    """The means of what the devices have, whose parts of the batch are equal, and the sums; in a single exchange.

    Where it goes through a network, ten small exchanges take ten times as long as one.
    """
    flat, unflatten = ravel_pytree((means, sums))
    means, sums = unflatten(lax.psum(flat, axis))
    return jax.tree_util.tree_map(lambda total: total / lax.axis_size(axis), means), sums


def _first(value):
    return jax.tree_util.tree_map(lambda leaf: leaf[0], value)


def _unit(images):
    """uint8 to float32 in [0, 1]; features are float32 already."""
    return images.astype(jnp.float32) / 255 if images.dtype == jnp.uint8 else images


def _normalize(images, pool):
    return (images - pool["mean"]) / pool["std"]


def _noisy_labels(labels: Labels, noise: UInt32[Array, "batch 2"], rate: Scalar, num_classes: int) -> Labels:
    """Labels, each replaced by a wrong one with probability ``rate``.

    The two random words belong to the example, so the same labels are wrong in every epoch: the
    first says whether, the second which.
    """
    uniform = (noise[:, 0] >> 8).astype(jnp.float32) * 2**-24
    offset = 1 + (noise[:, 1] % max(num_classes - 1, 1)).astype(jnp.int32)
    return jnp.where(uniform < rate, (labels + offset) % num_classes, labels)
