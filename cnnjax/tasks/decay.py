"""What l2 and weight decay act on: the weights of a network, by what they are, not by what they are called."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cnnjax import rng, tree
from cnnjax.memory import remembered
from cnnjax.tasks.task import arguments

KERNEL = "kernel"
NO_WEIGHTS = ("bias", "scale")  # of Flax's layers and ours, however many axes they have


def weights(model: nn.Module, image_shape: tuple[int, ...], params: Any) -> Any:
    """True for the parameters of ``model`` that have more than one axis and are neither a bias nor a norm's scale.

    Axes over which blocks are scanned or mapped do not count: the scale of a norm in a scanned block has two axes, and
    is no weight. Flax calls weights "kernel"; a network's author may call them anything.

    Args:
      model: the network.
      image_shape: (H, W, C) of its images.
      params: those that are trained, or their shapes.
    """
    names = tree.names(params)
    leaves = jax.tree_util.tree_leaves(params)
    others = [name for name, leaf in zip(names, leaves, strict=True) if _is_unclear(name, leaf)]
    axes = _own_axes(model, image_shape) if others else {}
    return tree.mask(params, lambda name, leaf: KERNEL in _last(name) or (name in others and axes[name] > 1))


def _is_unclear(name: str, leaf: Any) -> bool:
    return leaf.ndim > 1 and KERNEL not in _last(name) and _last(name) not in NO_WEIGHTS


def _last(name: str) -> str:
    return name.rsplit("/", 1)[-1]


@remembered(256)
def _own_axes(model: nn.Module, image_shape: tuple[int, ...]) -> dict[str, int]:
    """How many axes each parameter has inside its module, by name; the network is traced, and nothing computed."""
    found: dict[str, int] = {}

    def note(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        out, module = call(*args, **kwargs), context.module
        if module.scope is not None:
            for name, leaf in module.variables.get("params", {}).items():
                if hasattr(leaf, "ndim"):
                    found["/".join((*module.path, name))] = leaf.ndim
        return out

    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    with nn.intercept_methods(note):
        jax.eval_shape(lambda key, x: model.init(key, x, **arguments(model, False, 0.0)), rng.abstract_key(), images)
    return found
