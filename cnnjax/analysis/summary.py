"""What stands where in a network: each layer's output, parameters and multiply-adds, from its traced program."""

import dataclasses
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cnnjax import tree
from cnnjax.analysis.cost import products


@dataclasses.dataclass(frozen=True)
class Layer:
    """A module of a network, or several of the same place that are repeated (scanned blocks).

    Attributes:
      name: path in the network, such as ``stage2_first/conv1``.
      kind: the module's class.
      output: shape of what it puts out for one image, without the axis of images; empty if that is no array.
      parameters: trainable numbers of the module and of all that it holds.
      multiply_adds: for one image, likewise.
    """

    name: str
    kind: str
    output: tuple[int, ...]
    parameters: int
    multiply_adds: int


def summary(model: nn.Module, image_shape: tuple[int, int, int], depth: int = 2) -> list[Layer]:
    """The modules of ``model`` that have parameters, in the order in which they are called, for images (H, W, C).

    A module deeper than ``depth`` counts with the one that holds it; 0 shows the innermost. The layers' parameters
    and multiply-adds add up to the network's.
    """
    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    called = _called(model, variables, images)
    numbers = {tuple(name.split("/")): math.prod(leaf.shape) for name, leaf in _leaves(variables["params"])}
    cost: dict[tuple[str, ...], int] = {}
    for product in products(model, image_shape):
        cost[product.path] = cost.get(product.path, 0) + product.repeats * product.multiply_adds
    shown: dict[tuple[str, ...], Layer] = {}
    owners = {_owner(path[:-1], called, depth) for path in numbers} | {_owner(path, called, depth) for path in cost}
    for path in sorted(owners, key=list(called).index):
        kind, output = called[path]
        shown[path] = Layer(
            name="/".join(path) or "(network)",
            kind=kind,
            output=output,
            parameters=sum(count for leaf, count in numbers.items() if _owner(leaf[:-1], called, depth) == path),
            multiply_adds=sum(count for at, count in cost.items() if _owner(at, called, depth) == path),
        )
    return list(shown.values())


def _leaves(params: Any) -> list[tuple[str, Any]]:
    return list(zip(tree.names(params), jax.tree_util.tree_leaves(params), strict=True))


def _called(model: nn.Module, variables: Any, images: Any) -> dict[tuple[str, ...], tuple[str, tuple[int, ...]]]:
    """(class, output shape) of every module that is called, the network itself first."""
    found: dict[tuple[str, ...], tuple[str, tuple[int, ...]]] = {(): (type(model).__name__, ())}

    def record(call, args, kwargs, context):
        path = tuple(context.module.path)
        if context.method_name == "__call__":  # before what it holds, so that the order is that of the calls
            found.setdefault(path, (type(context.module).__name__, ()))
        out = call(*args, **kwargs)
        first = out[0] if isinstance(out, tuple) and out else out
        if context.method_name == "__call__" and hasattr(first, "shape"):
            found[path] = (type(context.module).__name__, tuple(first.shape[1:]))
        return out

    with nn.intercept_methods(record):
        jax.eval_shape(model.apply, variables, images)
    return found


def _owner(path: tuple[str, ...], called: dict[tuple[str, ...], Any], depth: int) -> tuple[str, ...]:
    """The module that a path is shown under: the path itself, cut to the depth and to what is called."""
    path = path[:depth] if depth else path
    while path not in called:
        path = path[:-1]
    return path
