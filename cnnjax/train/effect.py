"""Numbers of a sweep that change nothing: "no difference" over these would be false evidence.

Whether a program reads a number is seen in the traced step: what its results do not depend on has no effect, whatever
the reason. Besides, two numbers may come to the same, such as two warm-ups of as many steps.
"""

import dataclasses
import operator
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.interpreters import partial_eval

from cnnjax import augment
from cnnjax.data.catalog import Info
from cnnjax.train import step
from cnnjax.train.spec import Hyper, Spec, build_task
from cnnjax.typing import UsageError

READ = {"learning_rate", "momentum", "warmup", "warmup_factor"}  # by every step; nobody need look
BY_FEED = {"train_size"}  # read by what chooses the examples
# Why a step may not read a number, and what helps.
REASONS = {
    "weight_decay": ("no parameter is decayed: none has more than one axis", "Use decayed=all"),
    "l2": ("no parameter is penalised: none has more than one axis", "Use decayed=all"),
    "dropout": ("the network drops nothing in training", "Use a network that takes dropout_rate and drops units"),
    "label_smoothing": ("the task has no labels", "Use task=classify"),
    "label_noise": ("the task has no labels", "Use task=classify"),
    "auxiliary_weight": ("the network has no auxiliary heads", "Use one that has, such as googlenet with auxiliary"),
    "rate_drop": ("the rate does not drop", "Use schedule=step or schedule=plateau"),
    **{name: (f"augment has no {name}", f"Use augment={name}, beside what it has") for name in augment.AUGMENTATIONS},
}


def check_effects(spec: Spec, hypers: Sequence[Hyper], info: Info) -> None:
    """Refuses numbers that vary over the runs of one program although they change nothing; traces at most one step.

    Raises:
      UsageError: naming the number, the reason and the remedy.
    """
    hypers = list({id(hyper): hyper for hyper in hypers}.values())  # one for all seeds
    varied = {
        field.name for field in dataclasses.fields(Hyper) if len(set(map(operator.attrgetter(field.name), hypers))) > 1
    }
    asked = varied - READ - BY_FEED
    for name in sorted(asked - read_numbers(spec, info) if asked else ()):
        reason, remedy = REASONS[name]
        raise UsageError(
            f"{name} varies but has no effect: {reason}. Runs that differ in it alone would have the same weights. "
            f"{remedy}, or leave {name} out of the sweep."
        )
    for name, come_to in (("warmup", _warm_steps), ("warmup_factor", _start), ("train_size", _examples)):
        if name in varied:
            _check_apart(name, hypers, partial(come_to, spec, info))


def read_numbers(spec: Spec, info: Info) -> frozenset[str]:
    """The fields of ``Hyper`` that a training step's results depend on, from its traced program; computes nothing.

    The gradient is not traced: whatever the objective reads, the gradient does.
    """
    task, shape = build_task(spec, info), jax.ShapeDtypeStruct
    channels = info.image_shape[-1]
    pool = {
        "images": shape((2, *info.image_shape), jnp.uint8),
        "labels": shape((2,), jnp.int32),
        "mean": shape((channels,), jnp.float32),
        "std": shape((channels,), jnp.float32),
        "colour_basis": shape((channels, channels), jnp.float32),
    }
    names = [field.name for field in dataclasses.fields(Hyper)]
    hyper = Hyper(**{name: shape((), jnp.float32) for name in names})
    state = jax.eval_shape(
        lambda hyper, seed, pool: step.initial_state(task, spec, hyper, seed, pool), hyper, shape((), jnp.uint32), pool
    )

    def objective_alone(objective: Callable[..., Any], has_aux: bool) -> Callable[..., Any]:
        def values(params: Any) -> Any:
            value, aux = objective(params)
            return jax.tree_util.tree_map(lambda leaf: leaf * value, params), aux

        return values

    def new_state(hyper: Hyper, *rest: Any) -> Any:
        state, pool, indices, noise = rest
        return step.training_step(task, spec, info, state, hyper, pool, indices, noise, differentiate=objective_alone)[
            0
        ]

    batch = (pool, shape((2,), jnp.int32), shape((2, 2), jnp.uint32))
    program = jax.make_jaxpr(new_state)(hyper, state, *batch).jaxpr
    _, used = partial_eval.dce_jaxpr(program, [True] * len(program.outvars))
    return frozenset(name for name, is_used in zip(names, used, strict=False) if is_used)


def _check_apart(name: str, hypers: Sequence[Hyper], come_to: Callable[[Hyper], Any]) -> None:
    """Refuses two values of a number that come to the same where nothing else differs."""
    seen: dict[Any, Hyper] = {}
    for hyper in hypers:
        others = dataclasses.replace(hyper, **{name: None})
        key = (others, come_to(hyper))
        twin = seen.setdefault(key, hyper)
        old, new = getattr(twin, name), getattr(hyper, name)
        if old != new:
            raise UsageError(
                f"{name}={old} and {name}={new} are the same here ({come_to(hyper)}): runs that differ in it alone "
                "would have the same weights. Use one of them."
            )


def _warm_steps(spec: Spec, info: Info, hyper: Hyper) -> str:
    return f"{int(np.round(np.float32(hyper.warmup) * np.float32(spec.steps)))} steps of warm-up"


def _start(spec: Spec, info: Info, hyper: Hyper) -> str:
    steps = _warm_steps(spec, info, hyper)
    return steps if steps.startswith("0 ") else f"{steps} from {hyper.warmup_factor}"


def _examples(spec: Spec, info: Info, hyper: Hyper) -> str:
    return f"{hyper.train_size or info.sizes['train']} examples"
