"""Numbers and settings of a sweep that change nothing: "no difference" over these would be false evidence.

Whether a program reads a number is seen in the traced step: what its results do not depend on has no effect, whatever
the reason. Besides, two numbers may come to the same, such as two warm-ups of as many steps. A setting makes another
program; one of a network has no effect where the two programs are the same.
"""

import dataclasses
import hashlib
import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.interpreters import partial_eval

from cnnjax import augment
from cnnjax.analysis.program import kept_trace
from cnnjax.data.catalog import DataConfig, Info
from cnnjax.train import step
from cnnjax.train.spec import Hyper, Spec, build_model, build_task, variable_shapes
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
# Whether a setting has an effect on a run; why it may have none, and what helps.
SETTINGS: dict[str, tuple[Callable[[Spec, Hyper], bool], str, str]] = {
    "milestones": (lambda spec, _: spec.schedule == "step", "the rate drops at no milestone", "Use schedule=step"),
    "patience": (lambda spec, _: spec.schedule == "plateau", "no drop of the rate waits", "Use schedule=plateau"),
    "nesterov": (lambda _, hyper: hyper.momentum > 0, "momentum is 0", "Use momentum=0.9"),
    "warmup_form": (
        lambda spec, hyper: round(hyper.warmup * spec.steps) > 0,
        "no step is of warm-up",
        "Use warmup=0.1",
    ),
    "decayed": (lambda _, hyper: hyper.l2 > 0 or hyper.weight_decay > 0, "nothing decays", "Use l2=0.0001"),
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


def check_settings(groups: Mapping[Spec, Sequence[Hyper]], infos: Mapping[DataConfig, Info]) -> None:
    """Refuses settings that vary over the Specs of a sweep although they change nothing, where nothing else differs.

    Networks are traced only where a field of them varies that leaves the shapes of their parameters as they are.

    Args:
      groups: the Specs of a sweep, each with the numbers of its runs.
      infos: of their data.

    Raises:
      UsageError: naming the setting, the reason and the remedy.
    """
    for name, (has_effect, reason, remedy) in SETTINGS.items():
        for specs in _alike(groups, partial(_without, name)):
            if not any(has_effect(spec, hyper) for spec in specs for hyper in groups[spec]):
                raise UsageError(
                    f"{name} varies but has no effect: {reason}. Runs that differ in it alone would have the same "
                    f"weights. {remedy}, or leave {name} out of the sweep."
                )
    for name in sorted({name for spec in groups for name, _ in spec.model_fields}):
        for specs in _alike(groups, partial(_without_field, name)):
            _check_programs(name, specs, infos[specs[0].data])


def _alike(specs: Iterable[Spec], rest: Callable[[Spec], Any]) -> list[list[Spec]]:
    """The Specs that differ, though the rest of them is the same."""
    found: dict[Any, list[Spec]] = {}
    for spec in specs:
        found.setdefault(rest(spec), []).append(spec)
    return [members for members in found.values() if len(members) > 1]


def _without(name: str, spec: Spec) -> Spec:
    return dataclasses.replace(spec, **{name: getattr(Spec(), name)})


def _without_field(name: str, spec: Spec) -> tuple[Spec, Any]:
    others = tuple(entry for entry in spec.model_fields if entry[0] != name)
    return dataclasses.replace(spec, model_fields=others), len(others) == len(spec.model_fields)


def _check_programs(name: str, specs: Sequence[Spec], info: Info) -> None:
    """Refuses two values of a network's field that make the same training program."""
    by_shapes: dict[str, list[Spec]] = {}
    for spec in specs:
        by_shapes.setdefault(str(variable_shapes(spec, info)), []).append(spec)
    for alike in (members for members in by_shapes.values() if len(members) > 1):
        seen: dict[str, Spec] = {}
        for spec in alike:
            model = build_model(spec, info.num_classes)
            traced = kept_trace(model, info.image_shape)
            forward = _text(traced.jaxpr, traced.constants)
            if "callback" in forward:  # what Python computes in it is in no program
                continue
            twin = seen.setdefault(forward, spec)
            if twin is not spec and _program(spec, info) == _program(twin, info):
                old, new = (dict(each.model_fields)[name] for each in (twin, spec))
                raise UsageError(
                    f"model.{name}={old} and model.{name}={new} make the same program: runs that differ in it alone "
                    "would have the same weights. Use one of them."
                )


def _program(spec: Spec, info: Info) -> list[str]:
    """What initial state and training step compute, as texts; the same for the same programs."""
    return [_text(closed.jaxpr, closed.consts) for closed in _traced(spec, info, jax.grad)]


def _text(program: Any, constants: Sequence[Any]) -> str:
    digests = [hashlib.sha256(np.asarray(constant).tobytes()).hexdigest() for constant in constants]
    return "\n".join([re.sub(r"0x[0-9a-f]+", "", str(program)), *digests])  # addresses differ from trace to trace


def read_numbers(spec: Spec, info: Info) -> frozenset[str]:
    """The fields of ``Hyper`` that a training step's results depend on, from its traced program; computes nothing.

    The gradient is not traced: whatever the objective reads, the gradient does.
    """
    _, step_program = _traced(spec, info, _objective_alone)
    program = step_program.jaxpr
    _, used = partial_eval.dce_jaxpr(program, [True] * len(program.outvars))
    names = [field.name for field in dataclasses.fields(Hyper)]
    return frozenset(name for name, is_used in zip(names, used, strict=False) if is_used)


def _traced(spec: Spec, info: Info, differentiate: Callable[..., Any]) -> tuple[Any, Any]:
    """The programs of the initial state and of a training step, whose first inputs are the fields of ``Hyper``."""
    task, shape = build_task(spec, info), jax.ShapeDtypeStruct
    channels = info.image_shape[-1]
    pool = {
        "images": shape((2, *info.image_shape), jnp.uint8),
        "labels": shape((2,), jnp.int32),
        "mean": shape((channels,), jnp.float32),
        "std": shape((channels,), jnp.float32),
        "colour_basis": shape((channels, channels), jnp.float32),
    }
    hyper = Hyper(**{field.name: shape((), jnp.float32) for field in dataclasses.fields(Hyper)})

    def initial_state(hyper: Hyper, seed: Any, pool: Any) -> Any:
        return step.initial_state(task, spec, hyper, seed, pool)

    def new_state(hyper: Hyper, state: Any, pool: Any, indices: Any, noise: Any) -> Any:
        return step.training_step(task, spec, info, state, hyper, pool, indices, noise, differentiate=differentiate)[0]

    first, state = jax.make_jaxpr(initial_state, return_shape=True)(hyper, shape((), jnp.uint32), pool)
    batch = (pool, shape((2,), jnp.int32), shape((2, 2), jnp.uint32))
    return first, jax.make_jaxpr(new_state)(hyper, state, *batch)


def _objective_alone(objective: Callable[..., Any], has_aux: bool) -> Callable[..., Any]:
    """In place of ``jax.grad``: as many results, which depend on all that the objective reads."""

    def values(params: Any) -> Any:
        value, aux = objective(params)
        return jax.tree_util.tree_map(lambda leaf: leaf * value, params), aux

    return values


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
