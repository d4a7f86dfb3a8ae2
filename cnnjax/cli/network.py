"""A network as the command line names it: its name, and flags for its fields."""

from typing import Any

import flax.linen as nn

from cnnjax import models
from cnnjax.cli.arguments import DEFINE, Arguments
from cnnjax.typing import UsageError, unknown

FIELD = "model."  # how the flags of a network's fields begin


def define_fields(arguments: Arguments, name: str, short: bool = False) -> None:
    """Flags ``--model.FIELD`` for the network called ``name``; with ``short`` also ``--FIELD`` where that is free.

    Raises:
      UsageError: there is no such network.
    """
    if name not in models.MODELS:
        raise unknown("model", name, models.MODELS)
    taken = set(arguments.names)
    for field, value in models.fields(name).items():
        nested = isinstance(value, tuple) and any(isinstance(item, tuple) for item in value)
        if type(value) not in DEFINE or nested:
            continue
        shown = ",".join(map(str, value)) if isinstance(value, tuple) else value
        arguments.add(f"{FIELD}{field}", type(value), None, f"field of {name} [{shown}]")
        if short and field not in taken:
            arguments.alias(field, of=f"{FIELD}{field}")


def created(name: str, arguments: Arguments) -> nn.Module:
    """The network with the fields that were given.

    Raises:
      UsageError: a value means nothing.
    """
    return models.create(name, **arguments.given(FIELD))


def image_shape(name: str, model: nn.Module, size: int | None) -> tuple[int, int, int]:
    """(H, W, C) that the network was published with, or with sides of ``size`` pixels.

    Raises:
      UsageError: the network cannot take images of that size.
    """
    height, width, channels = models.MODELS[name].image_shape
    shape = (size or height, size or width, channels)
    try:
        models.check_image_shape(model, shape, name)
    except UsageError as error:
        raise UsageError(str(error).replace("--data.image_size", "--image_size")) from error
    return shape


def values(model: nn.Module, name: str) -> dict[str, Any]:
    """The fields of the network and their values."""
    return {field: getattr(model, field) for field in models.fields(name)}
