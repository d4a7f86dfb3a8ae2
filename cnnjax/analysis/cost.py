"""Work of a network, counted from its traced program: multiply-adds as papers count them, and XLA's own count."""

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax

from cnnjax.analysis.program import Path, Program, Step, kept_trace, steps
from cnnjax.memory import remembered

# Equations that XLA counts per number: its count of one shape holds for all, in proportion.
ELEMENTWISE = {
    *("add", "sub", "mul", "div", "max", "min", "neg", "exp", "log", "log1p", "expm1", "tanh", "logistic", "sqrt"),
    *("rsqrt", "integer_pow", "pow", "square", "abs", "sign", "floor", "erf", "select_n", "convert_element_type"),
    *("eq", "ne", "lt", "le", "gt", "ge", "and", "or", "not", "is_finite", "add_any"),
}
# Those that only move numbers, which are no work to XLA.
MOVES = {
    *("name", "slice", "reshape", "squeeze", "broadcast_in_dim", "concatenate", "transpose", "rev", "copy", "pad"),
    *("stop_gradient", "optimization_barrier", "iota"),
}
SAMPLE = 8  # numbers for which an elementwise equation is counted


class Product(NamedTuple):
    """A convolution or matrix product of a network.

    Attributes:
      path: names of the modules that it stands in, from the outside in; without the network's own.
      repeats: how often it is done, where a block is scanned.
      multiply_adds: of one time, for one image.
      outputs: numbers that it puts out, likewise.
    """

    path: Path
    repeats: int
    multiply_adds: int
    outputs: int


def multiply_adds(model: nn.Module, image_shape: tuple[int, ...]) -> int:
    """Multiply-adds of convolutions and matrix products for one image (H, W, C), in evaluation mode.

    The papers' convention: one multiplication and one addition count as one; biases, activations,
    normalisation and pooling count nothing. Only what the logits need is counted.
    """
    return _totals(model, image_shape)[0]


def activations(model: nn.Module, image_shape: tuple[int, ...]) -> int:
    """Numbers that convolutions and matrix products put out for one image (H, W, C), on the way to the logits."""
    return _totals(model, image_shape)[1]


@remembered(256)
def _totals(model: nn.Module, image_shape: tuple[int, ...]) -> tuple[int, int]:
    """Multiply-adds and outputs: a plan asks for both."""
    found = list(products(kept_trace(model, image_shape)))
    return sum(p.repeats * p.multiply_adds for p in found), sum(p.repeats * p.outputs for p in found)


def products(program: Program) -> Iterator[Product]:
    """The convolutions and matrix products that a network's outputs need, in order."""
    for step in steps(program.equations):
        count = _multiply_adds(step.equation)
        if count is not None:
            yield Product(step.path, step.repeats, count, math.prod(step.equation.outvars[0].aval.shape))


def _multiply_adds(equation: Any) -> int | None:
    name, outputs = equation.primitive.name, equation.outvars
    if name == "conv_general_dilated":
        kernel = equation.invars[1].aval.shape
        numbers = equation.params["dimension_numbers"]
        features = kernel[numbers.rhs_spec[0]]
        places = outputs[0].aval.shape
        if set(equation.params["lhs_dilation"]) != {1}:  # transposed: every input is multiplied by the whole kernel
            images = equation.invars[0].aval.shape
            places = (images[numbers.lhs_spec[0]], features, *(images[axis] for axis in numbers.lhs_spec[2:]))
        return math.prod(places) * math.prod(kernel) // features
    if name == "dot_general":
        (contracted, _), _ = equation.params["dimension_numbers"]
        left = equation.invars[0].aval.shape
        return math.prod(outputs[0].aval.shape) * math.prod(left[axis] for axis in contracted)
    return None


def xla_operations(program: Program) -> dict[Path, int]:
    """Floating point operations as XLA counts them, module by module; what stands in an inner one is not counted again.

    The count is ``jax.stages.Lowered.cost_analysis`` of the module's equations before XLA optimises them. It differs
    from twice the multiply-adds: additions of biases, activations, normalisation and pooling count, and
    multiplications by the zeros of the padding do not. Exponentials and the like count apart, and not here.
    """
    known: dict[Any, float] = {}
    found: dict[Path, float] = {}
    for step in steps(program.equations):
        found[step.path] = found.get(step.path, 0) + step.repeats * _operations(step, known)
    return {path: round(count) for path, count in found.items()}


def _operations(step: Step, known: dict[Any, float]) -> float:
    """XLA's count of one equation; it is asked once for each kind and shape."""
    equation, primitive = step.equation, step.equation.primitive
    if primitive.name in MOVES:
        return 0.0
    shapes = [(atom.aval.shape, atom.aval.dtype) for atom in equation.invars]
    scale = 1.0
    if primitive.name in ELEMENTWISE:  # scalars stay scalars
        scale = math.prod(equation.outvars[0].aval.shape) / SAMPLE
        shapes = [((SAMPLE,) if shape else (), dtype) for shape, dtype in shapes]
        if not any(shape for shape, _ in shapes):
            scale = 1.0
    key = primitive.name, str(shapes), _settings(equation.params)
    if key not in known:
        operands = [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in shapes]
        lowered = jax.jit(lambda *values: primitive.bind(*values, **equation.params)).lower(*operands)
        known[key] = (lowered.cost_analysis() or {}).get("flops", 0.0)
    return scale * known[key]


def _settings(params: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in sorted(params.items()))
