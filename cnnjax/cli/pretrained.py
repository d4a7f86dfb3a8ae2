"""Weights as the command line names them: a file, its network, how images are prepared for it, its classes."""

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from cnnjax import models, tree, weights
from cnnjax.cli.arguments import Arguments
from cnnjax.cli.network import FIELD, created
from cnnjax.typing import UsageError
from cnnjax.weights import Preprocessing, timm_config
from cnnjax.weights.detect import fitting
from cnnjax.weights.load import library
from cnnjax.weights.place import local_path
from cnnjax.weights.saved import is_saved

STEPS = ("resize", "crop", "mean", "std")  # without these nothing can be prepared


class Pretrained(NamedTuple):
    """A network with its weights.

    Attributes:
      name: in ``models.MODELS``.
      fields: of the model, those that were replaced.
      model: the network.
      variables: its arrays.
      preprocessing: of the images; None where nothing is known of it.
      problem: why nothing is known.
      class_names: in the order of the logits; empty where they are not known.
      image_shape: (H, W, C) that our own file was saved for; None for other libraries' files.
    """

    name: str
    fields: dict[str, Any]
    model: nn.Module
    variables: dict[str, Any]
    preprocessing: Preprocessing | None
    problem: str
    class_names: tuple[str, ...] = ()
    image_shape: tuple[int, int, int] | None = None


def read(arguments: Arguments, address: str) -> Pretrained:
    """The network and the weights of a file or an ``hf:`` address.

    Raises:
      UsageError: the file cannot be read or is of another network, or flags do not fit it.
    """
    path = local_path(address)
    found = _own(arguments, path) if is_saved(path) else _of_another_library(arguments, address, path)
    names = _class_names(Path(arguments.classes)) if arguments.classes else found.class_names
    return found._replace(class_names=names, preprocessing=_changed(arguments, found.preprocessing))


def check(found: Pretrained) -> tuple[Preprocessing, int]:
    """The preprocessing, and the number of classes.

    Raises:
      UsageError: nothing is known of the preprocessing; its images do not fit the network; or the class names are
        not as many as the classes.
    """
    if found.preprocessing is None:
        raise UsageError(f"{found.problem} Give --{', --'.join(STEPS)}.")
    shape = found.preprocessing.image_shape
    try:
        models.check_image_shape(found.model, shape, found.name)
    except UsageError as error:
        raise UsageError(str(error).replace("--data.image_size", "--crop")) from error
    _check_fit(found, models.parameter_shapes(found.model, shape))
    images = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    classes = jax.eval_shape(lambda v, x: found.model.apply(v, x)[0], found.variables, images).shape[-1]
    if found.class_names and len(found.class_names) != classes:
        raise UsageError(
            f"There are {len(found.class_names)} class names for {classes} classes of {found.name}. "
            "Give one name a line, in the order of the logits, as --classes=FILE."
        )
    return found.preprocessing, classes


def described(steps: Preprocessing) -> str:
    """A line that says how the images were prepared."""
    mean, std = (",".join(f"{number:g}" for number in numbers) for numbers in (steps.mean, steps.std))
    sides = "both sides" if steps.squash else "shorter side"
    return (
        f"Images: {sides} resized to {steps.resize} ({steps.interpolation}), centre of {steps.crop}x{steps.crop}, "
        f"mean {mean}, std {std}{'' if steps.channels == 'RGB' else f', channels {steps.channels}'}."
    )


def _own(arguments: Arguments, path: Path) -> Pretrained:
    saved = weights.restore(path)
    if arguments.model not in (None, saved.name):
        raise UsageError(f"{path} holds weights of {saved.name}, not of --model={arguments.model}. Leave --model out.")
    if changed := arguments.given(FIELD):
        raise UsageError(f"{path} says the fields of its network. Leave --{FIELD}{next(iter(changed))} out.")
    problem = f"{path} was saved without its preprocessing."
    return Pretrained(
        saved.name, saved.fields, saved.model, saved.variables, saved.preprocessing, problem, saved.class_names,
        saved.image_shape,
    )  # fmt: skip


def _of_another_library(arguments: Arguments, address: str, path: Path) -> Pretrained:
    tensors = weights.read(path)
    if arguments.model is None:
        names = fitting(tensors)
        fits = f"; it fits {' or '.join(names[:4])}" if names else ""
        raise UsageError(f"{address} does not say its network. Name it with --model{fits}.")
    model = created(arguments.model, arguments)
    try:
        source = library(tensors, model, path, address, check_architecture=arguments.check_architecture)
        variables = weights.convert(tensors, model, source, label=address)
    except UsageError as error:
        raise UsageError(_as_flags(str(error))) from error
    problem, steps = "", None
    try:
        steps = weights.preprocessing_of(arguments.model, source, path)
    except UsageError as error:
        problem = str(error).partition(" Give it as ")[0]  # which is for Python
    classes = timm_config.class_names(path)
    return Pretrained(arguments.model, arguments.given(FIELD), model, variables, steps, problem, classes)


def _as_flags(error: str) -> str:
    """The error with the remedies of the command line in place of those of Python."""
    error = error.replace(", or head='new' to leave the head out", "").replace(", or head='new' to leave it out", "")
    error = error.replace("check_architecture=False", "--nocheck_architecture")
    error = error.replace("Use dense=()", f"Use --{FIELD}dense=")
    return error.replace("Use num_classes=", f"Use --{FIELD}num_classes=").replace(
        "Give these fields.", f"Give them as --{FIELD}FIELD=VALUE."
    )


def _changed(arguments: Arguments, known: Preprocessing | None) -> Preprocessing | None:
    """The preprocessing with the steps that were given."""
    names = (*STEPS, "interpolation", "channels")
    given = {name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None}
    for name in {"mean", "std"} & set(given):
        try:
            given[name] = tuple(map(float, given[name]))
        except ValueError:
            raise UsageError(f"--{name}={','.join(given[name])} must be numbers, one for each channel.") from None
    if known is None and not set(STEPS) <= set(given):
        return None
    return dataclasses.replace(known or Preprocessing(), **given)


def _class_names(path: Path) -> tuple[str, ...]:
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")  # some editors put a byte order mark before all
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"--classes={path} cannot be read ({error}). Give a text file in UTF-8 with a name in each line."
        ) from None
    return tuple(line.strip() for line in lines if line.strip())


def _check_fit(found: Pretrained, shapes: Any) -> None:
    """Refuses images of another size or other channels than the arrays are for."""
    ours = dict(zip(tree.names(found.variables), jax.tree_util.tree_leaves(found.variables), strict=True))
    for name, leaf in zip(tree.names(shapes), jax.tree_util.tree_leaves(shapes), strict=True):
        if name not in ours or ours[name].shape != leaf.shape:
            size = "x".join(map(str, found.preprocessing.image_shape)) if found.preprocessing else ""
            have = ours[name].shape if name in ours else "missing"
            raise UsageError(
                f"The weights of {found.name} do not fit images of {size}: {name} is {have}, not {leaf.shape}. "
                "Change --crop, --mean and --std to the size and the channels that they were trained with."
            )
