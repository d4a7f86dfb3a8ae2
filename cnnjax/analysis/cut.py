"""Where a network loses its image: values of which a mean over nothing but themselves is subtracted.

Instance normalisation of a map of one pixel, group normalisation with a group of one value, and batch normalisation in
training of one such image put out their bias, whatever they read: x - mean(x) is 0 where the mean is of x alone. They
are found in the traced program, whatever module they stand in; nothing is computed.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import flax.linen as nn

from cnnjax.analysis.bodies import called, called_values, live, scan
from cnnjax.analysis.program import Path, Program, kept_trace, module_of, trace
from cnnjax.memory import remembered

# Whose result is 0 where any operand is, and where the first or all of them are.
ANY = {"mul", "dot_general", "conv_general_dilated"}
FIRST = {"div", "rem"}
ALL = {
    *("neg", "abs", "sign", "sqrt", "square", "integer_pow", "tanh", "convert_element_type", "reduce_sum", "transpose"),
    *("reduce_max", "reduce_min", "reduce_window_sum", "reduce_window_max", "broadcast_in_dim", "reshape", "squeeze"),
    *("slice", "rev", "pad", "concatenate", "max", "min", "add", "sub", "add_any", "name", "copy", "expand_dims"),
    *("stop_gradient", "optimization_barrier", "cumsum", "sin", "expm1", "log1p", "floor", "ceil", "round", "erf"),
}
# Which put out the same numbers in the same order, where they put out as many.
SAME = {
    *("reshape", "squeeze", "expand_dims", "broadcast_in_dim", "name", "copy", "stop_gradient"),
    *("reduce_sum", "reduce_max", "reduce_min", "convert_element_type"),
}


@dataclasses.dataclass(frozen=True)
class Value:
    """What is known of an array.

    Attributes:
      reads: whether it may depend on the image.
      zero: whether it is 0, whatever the image.
      numbers: equal for two arrays that hold the same numbers in the same order.
    """

    reads: bool
    zero: bool
    numbers: Any


@dataclasses.dataclass(frozen=True)
class Cut:
    """Where a network loses its image.

    Attributes:
      layers: the modules that put out what does not depend on what they read.
      whole: whether nothing that the network is for depends on the image.
    """

    layers: tuple[Path, ...]
    whole: bool


def cut(program: Program) -> Cut:
    """Where a traced network loses its image."""
    names, layers = program.jaxpr.invars, dict[Path, None]()
    inputs = [Value(name is names[-1], False, name) for name in names]
    constants = zip(program.jaxpr.constvars, program.constants, strict=True)
    known = dict(zip(names, inputs, strict=True)) | {name: _constant(value) for name, value in constants}
    outputs = _run(known, program.equations, program.asked, (), layers)
    return Cut(tuple(layers), bool(layers) and not any(value.reads for value in outputs))


def cut_in_training(model: nn.Module, image_shape: tuple[int, ...], batch_size: int) -> Cut:
    """Where a network loses its images (H, W, C) in training with batches of a size."""
    return _cut_in_training(model, image_shape, min(batch_size, 2))


@remembered(256)
def _cut_in_training(model: nn.Module, image_shape: tuple[int, ...], images: int) -> Cut:
    found = cut(kept_trace(model, image_shape))  # in evaluation, which has been traced for the cost
    if found.layers or images == 1:
        found = cut(trace(model, image_shape, batch=images, training=True))
    return found


def _run(
    known: dict[Any, Value], equations: Sequence[Any], outputs: Sequence[Any], path: Path, layers: dict[Path, None]
) -> list[Value]:
    """What is known of a program's outputs, from what is known of its inputs and constants."""

    def read(atom: Any) -> Value:
        return _constant(atom.val) if hasattr(atom, "val") else known[atom]

    for equation in equations:
        here, values = module_of(equation, path), [read(atom) for atom in equation.invars]
        inner = called(equation)
        if inner is not None:
            found = _run(_within(inner, values, called_values(equation)), _live(inner), inner.outvars, here, layers)
        elif equation.primitive.name == "scan":
            found = _scanned(equation, values, here, layers)
        else:
            found = [_passed(equation, values, name) for name in equation.outvars]
            if found[0].zero and not values[0].zero and equation.primitive.name == "sub" and values[0].reads:
                layers[here] = None
        known.update(zip(equation.outvars, found, strict=True))
    return [read(atom) for atom in outputs]


def _passed(equation: Any, values: Sequence[Value], name: Any) -> Value:
    """What is known of a result of an equation that calls no program, or one that is not looked into."""
    kind, zeros = equation.primitive.name, [value.zero for value in values]
    first = values[0] if values else Value(False, False, name)
    same = len(values) == 2 and kind == "sub" and values[0].numbers == values[1].numbers
    zero = same or (
        (kind in ANY and any(zeros))
        or (kind in FIRST and zeros[0])
        or (kind in ALL and all(zeros) and bool(zeros) and equation.params.get("y", 1) > 0)
        or (kind == "select_n" and all(zeros[1:]))
    )
    if zero:
        return Value(False, True, name)
    if kind in ("add", "sub", "add_any") and zeros[-1]:
        return first
    if kind in ("add", "add_any") and zeros[0]:
        return values[1]
    if values and kind in SAME and _as_many(equation.invars[0], name):
        return dataclasses.replace(first, zero=False)
    if kind in ("mul", "div") and values[1].numbers == 1:  # such as the count of a mean over one
        return first
    if kind == "optimization_barrier":
        return values[equation.outvars.index(name)]
    return Value(any(value.reads for value in values), False, name)


def _scanned(equation: Any, values: list[Value], path: Path, layers: dict[Path, None]) -> list[Value]:
    """What a scan puts out. Each turn reads what the one before put out; the first ones say where it ends."""
    found = scan(equation)
    assert found is not None
    constants, carry, rows = found.split(values)
    out: list[Value] = []
    for _ in range(min(found.length, 4)):
        inputs = [dataclasses.replace(value, numbers=object()) for value in (*constants, *carry, *rows)]
        out = _run(_within(found.body, inputs, found.values), _live(found.body), found.body.outvars, path, layers)
        carry = out[: found.carried]
    return [Value(value.reads, value.zero, name) for value, name in zip(out, equation.outvars, strict=True)]


def _within(body: Any, values: Sequence[Value], constants: Sequence[Any]) -> dict[Any, Value]:
    """What is known inside a called program."""
    known = dict(zip(body.constvars, map(_constant, constants), strict=False))
    return known | dict(zip(body.invars, values, strict=True))


def _live(body: Any) -> list[Any]:
    return live(body.eqns, body.outvars)


def _constant(value: Any) -> Value:
    """Of a number, which is known, or an array, which is some array."""
    if getattr(value, "size", 1) != 1 or not hasattr(value, "__float__"):
        return Value(False, False, object())
    number = float(value)
    return Value(False, number == 0, number)


def _as_many(before: Any, after: Any) -> bool:
    """Whether there are as many numbers, in no fewer digits."""
    sizes, bits = ([getattr(atom.aval, name) for atom in (before, after)] for name in ("size", "dtype"))
    return sizes[0] == sizes[1] and getattr(bits[0], "itemsize", 0) <= getattr(bits[1], "itemsize", 0)
