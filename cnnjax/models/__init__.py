"""Every network by its paper's name: ``create("resnet56_cifar", num_classes=10)``.

``MODELS`` is the one explicit table. A model is a Flax Linen module called as
``model.apply(variables, images, train, dropout_rate)`` that returns ``(logits, endpoints)``.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cnnjax import rng, tree
from cnnjax.memory import remembered
from cnnjax.models import (
    alexnet,
    connectivity,
    dilated,
    efficientnet,
    googlenet,
    imagenet_resnet,
    inception,
    lenet,
    mlp,
    mobilenet,
    neocognitron,
    network_in_network,
    resnet,
    vgg,
    whole_cnn,
)
from cnnjax.models.entry import Entry
from cnnjax.models.stages import regime_stages
from cnnjax.typing import UsageError, unknown

# One line for each file of networks.
MODELS: dict[str, Entry] = {
    **mlp.VARIANTS,
    **lenet.VARIANTS,
    **connectivity.VARIANTS,
    **neocognitron.VARIANTS,
    **whole_cnn.VARIANTS,
    **alexnet.VARIANTS,
    **vgg.VARIANTS,
    **network_in_network.VARIANTS,
    **dilated.VARIANTS,
    **resnet.VARIANTS,
    **imagenet_resnet.VARIANTS,
    **googlenet.VARIANTS,
    **inception.VARIANTS,
    **mobilenet.VARIANTS,
    **efficientnet.VARIANTS,
}


def create(name: str, **overrides: Any) -> nn.Module:
    """The network called ``name``, with some of its fields replaced.

    Raises:
      UsageError: unknown name or field, or a value of the wrong type or range.
    """
    if name not in MODELS:
        raise unknown("model", name, MODELS)
    known = fields(name)
    for field, value in overrides.items():
        if field not in known:
            raise unknown(f"field of model {name}", field, known)
        expected = type(known[field])
        fits = type(value) is expected or (expected is float and type(value) is int)
        if expected in (int, float, str, bool, tuple) and not fits:
            raise UsageError(f"model.{field} must be of type {expected.__name__}, not {value!r}.")
    return MODELS[name].build(**overrides)


def fields(name: str) -> dict[str, Any]:
    """The fields of the model called ``name`` that may be overridden, with their values."""
    model = MODELS[name].build()
    hidden = {"parent", "name"}
    return {f.name: getattr(model, f.name) for f in dataclasses.fields(model) if f.name not in hidden}


def check_image_shape(model: nn.Module, image_shape: tuple[int, int, int], name: str = "") -> None:
    """Refuses images (H, W, C) that the model's arithmetic cannot take.

    Raises:
      UsageError: too small, or not of the one size that the model takes.
    """
    label = name or type(model).__name__
    smallest, largest = getattr(model, "min_size", 1), getattr(model, "max_size", None)
    height, width = image_shape[:2]
    if min(height, width) < smallest:
        raise UsageError(
            f"{label} needs images of at least {smallest}x{smallest} pixels, not {height}x{width}. "
            f"Use --data.image_size={smallest} or larger, or another model."
        )
    if largest and max(height, width) > largest:
        raise UsageError(
            f"{label} takes images of {largest}x{largest} pixels, not {height}x{width}. "
            f"Use --data.image_size={largest}."
        )


def parameter_shapes(model: nn.Module, image_shape: tuple[int, int, int]) -> dict[str, Any]:
    """The variables' shapes for images (H, W, C), without computing any."""
    shapes = _parameter_shapes(model, image_shape)
    return jax.tree_util.tree_map(lambda leaf: leaf, shapes)  # dicts of its own, that may be changed


@remembered(64)
def _parameter_shapes(model: nn.Module, image_shape: tuple[int, int, int]) -> dict[str, Any]:
    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    return jax.eval_shape(model.init, rng.abstract_key(), images)


def count_parameters(name: str, **overrides: Any) -> int:
    """The number of trainable parameters at the published image shape, unless overridden."""
    model = create(name, **overrides)
    return tree.count(parameter_shapes(model, MODELS[name].image_shape)["params"])


def frozen_stages(name_or_model: str | nn.Module, regime: str, **overrides: Any) -> tuple[str, ...]:
    """The stages that ``Spec.frozen`` names for a regime of transfer learning: "head", "late" or "all" train.

    "head" freezes all stages but the head, "late" the first half (rounded down) of those before it, "all" none
    (S4:610-616). ``overrides`` are fields of a network given by name.

    Raises:
      UsageError: an unknown network, field or regime, or a network that does not name its stages.
    """
    model = create(name_or_model, **overrides) if isinstance(name_or_model, str) else name_or_model
    return regime_stages(model, regime)
