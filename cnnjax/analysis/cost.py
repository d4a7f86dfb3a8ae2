"""Multiply-adds of a network, counted from its traced program: any Linen module, nothing computed."""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from cnnjax.ops.conv import traced_as_convolutions


class Product(NamedTuple):
    """A convolution or matrix product of a network.

    Attributes:
      path: names of the modules that it stands in, from the outside in; without the network's own.
      repeats: how often it is done, where a block is scanned.
      multiply_adds: of one time, for one image.
      outputs: numbers that it puts out, likewise.
    """

    path: tuple[str, ...]
    repeats: int
    multiply_adds: int
    outputs: int


def multiply_adds(model: nn.Module, image_shape: tuple[int, int, int]) -> int:
    """Multiply-adds of convolutions and matrix products for one image (H, W, C), in evaluation mode.

    The papers' convention: one multiplication and one addition count as one; biases, activations,
    normalisation and pooling count nothing. Only what the logits need is counted.
    """
    return sum(product.repeats * product.multiply_adds for product in products(model, image_shape))


def activations(model: nn.Module, image_shape: tuple[int, int, int]) -> int:
    """Numbers that convolutions and matrix products put out for one image (H, W, C), on the way to the logits."""
    return sum(product.repeats * product.outputs for product in products(model, image_shape))


def products(model: nn.Module, image_shape: tuple[int, int, int]) -> list[Product]:
    """The convolutions and matrix products that the logits of one image (H, W, C) need, in order."""
    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), images)

    def logits(variables: Any, images: Any) -> Any:
        out = model.apply(variables, images)
        return out[0] if isinstance(out, tuple) else out

    with traced_as_convolutions():
        jaxpr = jax.make_jaxpr(logits)(variables, images).jaxpr
    return list(_products(jaxpr, _live(jaxpr), (), 1))


def _live(jaxpr: Any) -> list[Any]:
    """The equations that the outputs depend on: endpoints that nobody asked for cost nothing."""
    needed = set(jaxpr.outvars)
    live = []
    for equation in reversed(jaxpr.eqns):
        if not needed.isdisjoint(equation.outvars):
            live.append(equation)
            needed.update(atom for atom in equation.invars if not hasattr(atom, "val"))
    return live[::-1]


def _products(jaxpr: Any, equations: list[Any], path: tuple[str, ...], repeats: int) -> Iterator[Product]:
    for equation in equations:
        here = (*path, *_modules(equation))
        outputs = math.prod(equation.outvars[0].aval.shape) if equation.outvars else 0
        if equation.primitive.name == "conv_general_dilated":
            kernel = equation.invars[1].aval.shape
            features = kernel[equation.params["dimension_numbers"].rhs_spec[0]]
            yield Product(here, repeats, outputs * math.prod(kernel) // features, outputs)
        elif equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            left = equation.invars[0].aval.shape
            yield Product(here, repeats, outputs * math.prod(left[axis] for axis in contracted), outputs)
        else:
            times = equation.params.get("length", 1) if equation.primitive.name == "scan" else 1
            for inner in _inner(equation.params):
                yield from _products(inner, _live(inner), here, repeats * times)


def _modules(equation: Any) -> Iterator[str]:
    """The modules that Linen wrote into an equation's name; ``block.method`` and the network itself left out."""
    scopes = str(equation.source_info.name_stack).split("/")
    yield from (scope for index, scope in enumerate(scopes) if scope and "." not in scope and index > 0)


def _inner(params: dict[str, Any]) -> list[Any]:
    """The programs inside an equation: bodies of scans, calls and functions with custom derivatives."""
    candidates = [getattr(value, "jaxpr", value) for value in params.values()]
    return [candidate for candidate in candidates if hasattr(candidate, "eqns")]
