"""A network as the command line names it: its name, and flags for its fields."""

import dataclasses
import functools
import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flax.linen as nn

from cnnjax import models
from cnnjax.cli.arguments import DEFINE, Arguments
from cnnjax.typing import UsageError, unknown

FIELD = "model."  # how the flags of a network's fields begin


def define_fields(arguments: Arguments, name: str, short: bool = False, own: bool = False) -> None:
    """Flags ``--model.FIELD`` for the network called ``name``; with ``short`` also ``--FIELD`` where that is free.

    With ``own``, the name may also be ``module:name`` of the user's.

    Raises:
      UsageError: there is no such network.
    """
    if name not in models.MODELS and not (own and ":" in name):
        raise unknown("model", name, models.MODELS)
    taken = set(arguments.names)
    for field, (kind, value) in _fields(name).items():
        nested = isinstance(value, tuple) and any(isinstance(item, tuple) for item in value)
        if kind not in DEFINE or nested:
            continue
        shown = ",".join(map(str, value)) if isinstance(value, tuple) else value
        default = "" if value is None else f" [{shown}]"
        arguments.add(f"{FIELD}{field}", kind, None, f"field of {name}{default}")
        if short and field not in taken:
            arguments.alias(field, of=f"{FIELD}{field}")


def created(name: str, arguments: Arguments) -> nn.Module:
    """The network with the fields that were given.

    Raises:
      UsageError: a value means nothing.
    """
    if ":" not in name:
        return models.create(name, **arguments.given(FIELD))
    found, given = users_own(name), arguments.given(FIELD)
    try:
        model = found.clone(**given) if isinstance(found, nn.Module) else found(**given)
    except UsageError:
        raise
    except Exception as error:  # whatever a user's constructor raises
        raise UsageError(f"{name} cannot be made with {given or 'its defaults'}: {error}") from error
    if not isinstance(model, nn.Module):
        raise UsageError(f"{name} makes a {type(model).__name__}, not a module of flax.linen.")
    return model


@functools.cache
def users_own(name: str) -> nn.Module | Callable[..., Any]:
    """What ``module:name`` stands for: a Linen module, or something that makes one when called.

    Raises:
      UsageError: it cannot be imported, or is neither.
    """
    module, _, attribute = name.partition(":")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        found = functools.reduce(getattr, attribute.split("."), importlib.import_module(module))
    except Exception as error:  # a user's file may raise anything
        raise UsageError(
            f"{name} cannot be imported: {type(error).__name__}: {error}. Write MODULE:NAME, with MODULE as in "
            f"'import {module or 'MODULE'}' from the current directory."
        ) from error
    if not isinstance(found, nn.Module) and not callable(found):
        raise UsageError(f"{name} is of type {type(found).__name__}, not a module of flax.linen or what makes one.")
    return found


def _fields(name: str) -> dict[str, tuple[type, Any]]:
    """Field -> its type and its value; of a user's class without a default, the type that is annotated."""
    if ":" not in name:
        return {field: (type(value), value) for field, value in models.fields(name).items()}
    found = users_own(name)
    if not dataclasses.is_dataclass(found):
        return {}
    fields: dict[str, tuple[type, Any]] = {}
    for field in dataclasses.fields(found):
        if field.name in ("parent", "name") or not field.init:
            continue
        value = getattr(found, field.name, None)
        named = {kind.__name__: kind for kind in DEFINE}
        annotated = field.type if isinstance(field.type, type) else named.get(str(field.type).split("[")[0])
        fields[field.name] = (type(value) if value is not None else annotated or object, value)
    return fields


def input_shape(name: str, model: nn.Module, shape: str | None, size: int | None) -> tuple[int, ...]:
    """The shape of one input: as given, with sides of ``size`` pixels, or as the network was published.

    Raises:
      UsageError: both are given, the shape is none, or the network cannot take it.
    """
    if shape is not None and size is not None:
        raise UsageError(f"--input={shape} and --image_size={size} both give the size. Leave out one.")
    if shape is None and ":" not in name:
        return image_shape(name, model, size)
    if size is not None:
        return size, size, 3
    if shape is None:
        raise UsageError(f"--input is needed for {name}: the shape of one input, such as --input=224,224,3.")
    try:
        given = tuple(int(side) for side in shape.split(","))
    except ValueError:
        raise UsageError(f"--input={shape} must be whole numbers, such as --input=224,224,3.") from None
    if ":" in name:
        return given
    if len(given) != 3:
        raise UsageError(f"--input={shape} must be height, width and channels, such as --input=224,224,3.")
    _check(model, (given[0], given[1], given[2]), name)
    return given


def image_shape(name: str, model: nn.Module, size: int | None) -> tuple[int, int, int]:
    """(H, W, C) that the network was published with, or with sides of ``size`` pixels.

    Raises:
      UsageError: the network cannot take images of that size.
    """
    height, width, channels = models.MODELS[name].image_shape
    shape = (size or height, size or width, channels)
    _check(model, shape, name)
    return shape


def _check(model: nn.Module, shape: tuple[int, int, int], name: str) -> None:
    try:
        models.check_image_shape(model, shape, name)
    except UsageError as error:
        raise UsageError(str(error).replace("--data.image_size", "--image_size")) from error


def values(model: nn.Module) -> dict[str, Any]:
    """The fields of the network and their values."""
    hidden = {"parent", "name"}
    return {field.name: getattr(model, field.name) for field in dataclasses.fields(model) if field.name not in hidden}
