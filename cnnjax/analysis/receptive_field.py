"""The part of the picture that one unit of a map reads, from the network's traced program; nothing is computed.

Along each axis, unit i of a map reads the pixels from ``jump * i + low`` to ``jump * i + high``. The program's
equations say how these three numbers pass from map to map, so any Linen module has a receptive field, whatever it
is made of. Where paths meet, the field is the smallest interval that covers both.
"""

import dataclasses
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cnnjax.ops.conv import traced_as_convolutions

Number = int | Fraction


@dataclasses.dataclass(frozen=True)
class Span:
    """Unit i along an axis of a map reads the pixels from ``jump * i + low`` to ``jump * i + high``."""

    jump: Number
    low: Number
    high: Number

    def after(self, jump: Number, low: Number, high: Number) -> "Span":
        """The span of units that read the units ``jump * i + low`` to ``jump * i + high`` of this map."""
        return Span(self.jump * jump, self.low + self.jump * low, self.high + self.jump * high)

    def whole(self, units: int) -> "Span":
        """The span of something that reads all units of this map."""
        return Span(0, self.low, self.jump * (units - 1) + self.high)


@dataclasses.dataclass(frozen=True)
class ReceptiveField:
    """Of the units of one map, in pixels; not cut off at the picture's border.

    Attributes:
      size: rows and columns that one unit reads.
      stride: pixels between neighbouring units; 0 where every unit reads the same.
      start: the first row and column that the first unit reads; negative in the padding.
      whole_image: every unit reads everything, for example after squeeze-and-excitation.
    """

    size: tuple[int, int]
    stride: tuple[int, int]
    start: tuple[int, int]

    @property
    def whole_image(self) -> bool:
        """Whether every unit reads the same pixels, which are then all."""
        return self.stride == (0, 0)


Field = tuple[Span, Span]  # rows, columns; None stands for what does not depend on the picture


def receptive_fields(model: nn.Module, image_shape: tuple[int, int, int]) -> dict[str, ReceptiveField]:
    """The receptive field of every endpoint of ``model`` that is a map, for images (H, W, C).

    Returns:
      endpoint -> field, in order of size; the last is that of the deepest map.
    """
    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    with traced_as_convolutions():
        traced, shapes = jax.make_jaxpr(lambda v, x: model.apply(v, x)[1], return_shape=True)(variables, images)
    start = Span(1, 0, 0)
    inputs: list[Field | None] = [None] * (len(traced.jaxpr.invars) - 1) + [(start, start)]
    fields = jax.tree_util.tree_unflatten(jax.tree_util.tree_structure(shapes), _run(traced.jaxpr, inputs))
    maps = {name: field for name, field in fields.items() if getattr(shapes[name], "ndim", 0) == 4 and field}
    said = {name: _said(field) for name, field in maps.items()}
    return dict(sorted(said.items(), key=lambda item: (item[1].whole_image, item[1].size, item[1].stride)))


def _said(field: Field) -> ReceptiveField:
    rows, columns = field
    return ReceptiveField(
        size=(int(rows.high - rows.low) + 1, int(columns.high - columns.low) + 1),
        stride=(int(rows.jump), int(columns.jump)),
        start=(int(rows.low), int(columns.low)),
    )


def _run(jaxpr: Any, inputs: Sequence[Field | None]) -> list[Field | None]:
    """The fields of a program's outputs, from those of its inputs."""
    known: dict[Any, Field | None] = dict(zip(jaxpr.invars, inputs, strict=True))

    def read(atom: Any) -> Field | None:
        return None if hasattr(atom, "val") else known.get(atom)

    for equation in jaxpr.eqns:
        fields = [read(atom) for atom in equation.invars]
        if any(field is not None for field in fields):
            known.update(zip(equation.outvars, _passed(equation, fields), strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _passed(equation: Any, fields: list[Field | None]) -> list[Field | None]:
    """The fields of an equation's outputs."""
    name, params = equation.primitive.name, equation.params
    if name == "scan":
        return _scanned(equation, fields)
    inner = next((params[key] for key in ("jaxpr", "call_jaxpr", "fun_jaxpr") if key in params), None)
    if inner is not None:
        return _run(getattr(inner, "jaxpr", inner), fields)
    first = fields[0]
    if name in WINDOWS and first is not None and len(equation.invars[0].aval.shape) == 4:
        windows = WINDOWS[name](equation)
        if windows:
            return [(first[0].after(*windows[0]), first[1].after(*windows[1]))]
    if name == "concatenate" and params["dimension"] in (1, 2) and len(equation.outvars[0].aval.shape) == 4:
        return [_bordered(equation, fields)]
    return [_merged(equation, fields, out.aval.shape) for out in equation.outvars]


def _bordered(equation: Any, fields: list[Field | None]) -> Field | None:
    """A map with a border of copies, which say nothing of the units inside: the field of the largest part."""
    axis = equation.params["dimension"]
    sizes = [atom.aval.shape[axis] for atom in equation.invars]
    main = sizes.index(max(sizes))
    field = fields[main]
    if field is None:
        return _merged(equation, fields, equation.outvars[0].aval.shape)
    shifted = list(field)
    shifted[axis - 1] = field[axis - 1].after(1, -sum(sizes[:main]), -sum(sizes[:main]))
    return shifted[0], shifted[1]


def _scanned(equation: Any, fields: list[Field | None]) -> list[Field | None]:
    """A scan's body, as often as it runs; what it reads and writes slice by slice has no map's axes in the rows."""
    params = equation.params
    constants, carried = params["num_consts"], params["num_carry"]
    fixed, carry, rest = fields[:constants], fields[constants : constants + carried], fields[constants + carried :]
    outputs: list[Field | None] = []
    for _ in range(params["length"]):
        found = _run(params["jaxpr"].jaxpr, [*fixed, *carry, *rest])
        carry, outputs = found[:carried], found[carried:]
    return [*carry, *outputs]


def _merged(equation: Any, fields: list[Field | None], shape: tuple[int, ...]) -> Field | None:
    """One field that covers the operands': unit by unit where their maps have the output's sides."""
    aligned, read_whole = [], []
    for atom, field in zip(equation.invars, fields, strict=True):
        if field is None or atom.aval.size == 0:
            continue
        given = atom.aval.shape
        is_map = any(span.jump for span in field)
        if not is_map:
            read_whole.append(field)
        elif len(given) == len(shape) == 4 and given[1:3] == shape[1:3] and _keeps_positions(equation):
            aligned.append(field)
        else:
            sides = given[1:3] if len(given) == 4 else (1, 1)
            read_whole.append((field[0].whole(sides[0]), field[1].whole(sides[1])))
    if read_whole and aligned and len(shape) == 4:  # all units read what any unit of the map reads
        aligned = [(f[0].whole(shape[1]), f[1].whole(shape[2])) for f in aligned]
    return _cover([*aligned, *read_whole])


def _keeps_positions(equation: Any) -> bool:
    """Whether output unit (i, j) reads input units (i, j) only, given that the sides are equal."""
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        (left, _), (batch, _) = params["dimension_numbers"]
        return tuple(left) == (3,) and not batch
    if name in ("rev", "sort", "cumsum", "cumprod", "cummax", "transpose"):
        axes = params.get("dimensions", (params.get("axis"), params.get("dimension")))
        return name != "transpose" and not {1, 2} & set(axes)
    if name == "concatenate":
        return params["dimension"] in (0, 3)
    return True


def _cover(fields: list[Field]) -> Field | None:
    if not fields:
        return None
    spans = []
    for along in zip(*fields, strict=True):
        jump = max(span.jump for span in along)
        spans.append(Span(jump, min(span.low for span in along), max(span.high for span in along)))
    return spans[0], spans[1]


Window = tuple[Number, Number, Number]  # jump, low, high: unit i reads units jump * i + low to jump * i + high


def _conv_windows(equation: Any) -> list[Window] | None:
    params = equation.params
    numbers = params["dimension_numbers"]
    if numbers.lhs_spec[2:] != (1, 2) or numbers.out_spec[2:] != (1, 2):
        return None
    kernel = [equation.invars[1].aval.shape[axis] for axis in numbers.rhs_spec[2:]]
    return [
        (Fraction(s, spread), Fraction(-low, spread), Fraction((k - 1) * d - low, spread))
        for k, s, (low, _), d, spread in zip(
            kernel, params["window_strides"], params["padding"], params["rhs_dilation"], params["lhs_dilation"],
            strict=True,
        )
    ]  # fmt: skip


def _reduce_window_windows(equation: Any) -> list[Window]:
    params = equation.params
    windows: list[Window] = []
    for axis in (1, 2):
        low = -params["padding"][axis][0]
        windows.append((params["window_strides"][axis], low, low + params["window_dimensions"][axis] - 1))
    return windows


def _slice_windows(equation: Any) -> list[Window]:
    steps = equation.params["strides"] or (1,) * 4
    starts = equation.params["start_indices"]
    return [(steps[axis], starts[axis], starts[axis]) for axis in (1, 2)]


def _pad_windows(equation: Any) -> list[Window]:
    """Interior padding puts zeros between units: the unit at a zero reads its neighbours' pixels at most."""
    windows: list[Window] = []
    for low, _, interior in equation.params["padding_config"][1:3]:
        at = Fraction(-low, interior + 1)
        windows.append((Fraction(1, interior + 1), at, at))
    return windows


WINDOWS: dict[str, Callable[[Any], list[Window] | None]] = {
    "conv_general_dilated": _conv_windows,
    "reduce_window_max": _reduce_window_windows,
    "reduce_window_sum": _reduce_window_windows,
    "reduce_window_min": _reduce_window_windows,
    "slice": _slice_windows,
    "pad": _pad_windows,
}
