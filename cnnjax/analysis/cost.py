"""Multiply-adds of a network, counted from its traced program: any Linen module, nothing computed."""

import math
from collections.abc import Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp


def multiply_adds(model: nn.Module, image_shape: tuple[int, int, int]) -> int:
    """Multiply-adds of convolutions and matrix products for one image (H, W, C), in evaluation mode.

    The papers' convention: one multiplication and one addition count as one; biases, activations,
    normalisation and pooling count nothing.
    """
    return sum(repeats * products for repeats, products, _ in _layers(_traced(model, image_shape)))


def activations(model: nn.Module, image_shape: tuple[int, int, int]) -> int:
    """Numbers that convolutions and matrix products put out for one image (H, W, C)."""
    return sum(repeats * outputs for repeats, _, outputs in _layers(_traced(model, image_shape)))


def _traced(model: nn.Module, image_shape: tuple[int, int, int]) -> Any:
    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    return jax.make_jaxpr(model.apply)(variables, images).jaxpr


def _layers(jaxpr: Any) -> Iterator[tuple[int, int, int]]:
    """(how often, multiply-adds, outputs) of every convolution and matrix product in the program."""
    for equation in jaxpr.eqns:
        outputs = math.prod(equation.outvars[0].aval.shape) if equation.outvars else 0
        if equation.primitive.name == "conv_general_dilated":
            kernel = equation.invars[1].aval.shape
            features = kernel[equation.params["dimension_numbers"].rhs_spec[0]]
            yield 1, outputs * math.prod(kernel) // features, outputs
        elif equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            left = equation.invars[0].aval.shape
            yield 1, outputs * math.prod(left[axis] for axis in contracted), outputs
        elif equation.params.get("name") == "conv_as_matrix" and len(equation.invars) == 2:
            # Count the convolution, not its matrix. Inside nn.scan the matrix's constant part is split
            # off into a call of the same name without arguments.
            yield 1, outputs * math.prod(equation.invars[1].aval.shape[:3]), outputs
        else:
            times = equation.params.get("length", 1) if equation.primitive.name == "scan" else 1
            for inner in _inner(equation.params):
                for repeats, products, inner_outputs in _layers(inner):
                    yield times * repeats, products, inner_outputs


def _inner(params: dict[str, Any]) -> list[Any]:
    """The programs inside an equation: bodies of scans, calls and functions with custom derivatives."""
    candidates = [getattr(value, "jaxpr", value) for value in params.values()]
    return [candidate for candidate in candidates if hasattr(candidate, "eqns")]
