"""The part of the picture that one unit of a map reads, from the network's traced program; nothing is computed.

Along each axis, unit i of a map reads the same pixels as unit 0, moved by i strides. The program's equations say how
these pixels pass from map to map, so any Linen module has a receptive field, whatever it is made of. Where paths meet,
the field has the pixels of both. Where the program moves pixels in
a way that is not followed (gathered rows, resizing by a matrix), every unit is taken to read all of them.
"""

import dataclasses
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import flax.linen as nn

from cnnjax.analysis.bodies import Scan, branches, called, inner, live, scan
from cnnjax.analysis.program import Path, Program, tagged_module, trace
from cnnjax.analysis.spans import Reach, Span, Window, cover


@dataclasses.dataclass(frozen=True)
class ReceptiveField:
    """Of the units of one map, in pixels; not cut off at the picture's border."""

    rows: Span
    columns: Span

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns that one unit reads; where units differ, the one that reads most."""
        return self.rows.extent, self.columns.extent

    @property
    def stride(self) -> tuple[int | Fraction, int | Fraction]:
        """Pixels between neighbouring units; a fraction after transposed convolutions, 0 where all read the same."""
        return self.rows.stride, self.columns.stride

    @property
    def start(self) -> tuple[int, int]:
        """The first row and column that the first unit reads; negative in the padding."""
        rows, columns = (next(reach.low for reach in span.phases if reach) for span in (self.rows, self.columns))
        return rows, columns

    @property
    def whole_image(self) -> bool:
        """Whether every unit reads the same pixels, which are then all; for example after squeeze-and-excitation."""
        return self.stride == (0, 0)


Field = tuple[Span, Span]  # rows, columns; None stands for what does not depend on the picture


@dataclasses.dataclass(frozen=True)
class Map:
    """A map in a network: its rows and columns, and the field of its units."""

    sides: tuple[int, int]
    field: ReceptiveField


@dataclasses.dataclass
class Found:
    """What is found on the way through a program.

    Attributes:
      modules: the field of what each module puts out; of a scanned block, of its last repetition.
      last: the last map of more than one unit.
      joined: the last map whose units all went into one number each channel, such as before global pooling.
    """

    modules: dict[Path, ReceptiveField] = dataclasses.field(default_factory=dict)
    last: Map | None = None
    joined: Map | None = None


def receptive_fields(model: nn.Module, image_shape: tuple[int, int, int]) -> dict[str, ReceptiveField]:
    """The receptive field of everything that ``model`` puts out and that is a map, for images (H, W, C).

    Returns:
      endpoint -> field, in order of size; the last is that of the deepest map.
    """
    return fields_of_outputs(trace(model, image_shape))


def fields_of_outputs(program: Program) -> dict[str, ReceptiveField]:
    """As ``receptive_fields``, of a traced network."""
    fields = _run(program.jaxpr.invars, program.jaxpr.eqns, program.jaxpr.outvars, _image(program), Found())
    said = {
        output.name: ReceptiveField(*field)
        for output, field in zip(program.outputs, fields, strict=True)
        if len(output.shape) == 4 and field
    }
    return dict(sorted(said.items(), key=lambda item: (item[1].whole_image, item[1].size, item[1].stride)))


def fields_on_the_way(program: Program) -> Found:
    """The fields of modules and maps that the network's outputs depend on."""
    found = Found()
    _run(program.jaxpr.invars, program.equations, program.asked, _image(program), found)
    return found


def _image(program: Program) -> list[Field | None]:
    pixel, shape = Span(1, (Reach(0, 1),)), program.jaxpr.invars[-1].aval.shape
    return [None] * (len(program.jaxpr.invars) - 1) + [(pixel, pixel) if len(shape) == 4 else None]


def _run(
    names: Sequence[Any], equations: Sequence[Any], outputs: Sequence[Any], inputs: Sequence[Field | None], found: Found
) -> list[Field | None]:
    """The fields of a program's outputs, from those of its inputs."""
    known: dict[Any, Field | None] = dict(zip(names, inputs, strict=True))

    def read(atom: Any) -> Field | None:
        return None if hasattr(atom, "val") else known.get(atom)

    for equation in equations:
        fields = [read(atom) for atom in equation.invars]
        if any(field is not None for field in fields):
            passed = _passed(equation, fields, found)
            known.update(zip(equation.outvars, passed, strict=True))
            _note(equation, fields, passed, found)
    return [read(atom) for atom in outputs]


def _note(equation: Any, fields: list[Field | None], passed: list[Field | None], found: Found) -> None:
    """Keeps what is asked for of one equation."""
    module = tagged_module(equation)
    if module is not None and passed[0]:
        found.modules[module] = ReceptiveField(*passed[0])
    for atom, field in zip(equation.outvars, passed, strict=True):
        if field and is_map(atom):
            found.last = Map(atom.aval.shape[1:3], ReceptiveField(*field))
    if fields[0] and is_map(equation.invars[0]) and _joins(equation):
        found.joined = Map(equation.invars[0].aval.shape[1:3], ReceptiveField(*fields[0]))


def is_map(atom: Any) -> bool:
    """Whether a value is a map (N, H, W, C) of more than one unit."""
    shape = getattr(atom.aval, "shape", ())
    return len(shape) == 4 and shape[1:3] != (1, 1)


def _joins(equation: Any) -> bool:
    """Whether all units of a map go into one number each channel, with the same weight."""
    name, params = equation.primitive.name, equation.params
    if name.startswith("reduce_window"):
        return params["window_dimensions"][1:3] == equation.invars[0].aval.shape[1:3]
    return name.startswith("reduce_") and {1, 2} <= set(params.get("axes", ()))


def _passed(equation: Any, fields: list[Field | None], found: Found) -> list[Field | None]:
    """The fields of an equation's outputs."""
    name, params = equation.primitive.name, equation.params
    loop = scan(equation)
    if loop is not None:
        return _scanned(loop, fields, found)
    program = called(equation)
    if program is not None:
        return _ran(program, fields, found)
    if branches(equation):
        return _one_of(equation, fields, found)
    first = fields[0]
    if name in WINDOWS and first is not None and len(equation.invars[0].aval.shape) == 4:
        windows = WINDOWS[name](equation)
        if windows:
            return [(first[0].after(windows[0]), first[1].after(windows[1]))]
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
    before = -sum(sizes[:main])
    shifted[axis - 1] = field[axis - 1].after(Window(1, before))
    return shifted[0], shifted[1]


def _ran(program: Any, fields: list[Field | None], found: Found) -> list[Field | None]:
    return _run(program.invars, live(program.eqns, program.outvars), program.outvars, fields, found)


def _scanned(loop: Scan, fields: list[Field | None], found: Found) -> list[Field | None]:
    """A scan's body, as often as it runs; what it reads and writes slice by slice has no map's axes in the rows."""
    constants, carry, rows = loop.split(fields)
    outputs: list[Field | None] = []
    for _ in range(loop.length):
        passed = _ran(loop.body, [*constants, *carry, *rows], found)
        carry, outputs = passed[: loop.carried], passed[loop.carried :]
    return [*carry, *outputs]


def _one_of(equation: Any, fields: list[Field | None], found: Found) -> list[Field | None]:
    """What any branch of a conditional reads; and all units, where the choice between them depends on the picture."""
    if fields[0] is not None:
        return [_merged(equation, fields, out.aval.shape) for out in equation.outvars]
    by_branch = [_ran(branch, fields[1:], found) for branch in branches(equation)]
    return [_cover([field for field in several if field]) for several in zip(*by_branch, strict=True)]


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
            read_whole.append((field[0].all_units(sides[0]), field[1].all_units(sides[1])))
    if read_whole and aligned and len(shape) == 4:  # all units read what any unit of the map reads
        aligned = [(f[0].all_units(shape[1]), f[1].all_units(shape[2])) for f in aligned]
    return _cover([*aligned, *read_whole])


def _keeps_positions(equation: Any) -> bool:
    """Whether output unit (i, j) reads input units (i, j) only, given that the sides are equal."""
    name, params = equation.primitive.name, equation.params
    if inner(equation):  # such as the body of a loop that runs nobody knows how often
        return False
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
    rows, columns = zip(*fields, strict=True)
    return cover(rows), cover(columns)


def _conv_windows(equation: Any) -> list[Window] | None:
    params = equation.params
    numbers = params["dimension_numbers"]
    if numbers.lhs_spec[2:] != (1, 2) or numbers.out_spec[2:] != (1, 2):
        return None
    return [
        _window(
            stride=params["window_strides"][axis],
            low=-params["padding"][axis][0],
            taps=equation.invars[1].aval.shape[numbers.rhs_spec[2 + axis]],
            step=params["rhs_dilation"][axis],
            spread=params["lhs_dilation"][axis],
        )
        for axis in (0, 1)
    ]


def _reduce_window_windows(equation: Any) -> list[Window]:
    params = equation.params
    return [
        _window(
            stride=params["window_strides"][axis],
            low=-params["padding"][axis][0],
            taps=params["window_dimensions"][axis],
            step=params["window_dilation"][axis],
            spread=params["base_dilation"][axis],
        )
        for axis in (1, 2)
    ]


def _slice_windows(equation: Any) -> list[Window]:
    steps = equation.params["strides"] or (1,) * 4
    return [_window(stride=steps[axis], low=equation.params["start_indices"][axis]) for axis in (1, 2)]


def _pad_windows(equation: Any) -> list[Window]:
    """Interior padding puts zeros between units, which read nothing."""
    padding = equation.params["padding_config"][1:3]
    return [_window(stride=1, low=-low, spread=interior + 1) for low, _, interior in padding]


def _window(**numbers: Any) -> Window:
    """Of numbers that may be NumPy's."""
    return Window(**{name: int(number) for name, number in numbers.items()})


WINDOWS: dict[str, Callable[[Any], list[Window] | None]] = {
    "conv_general_dilated": _conv_windows,
    "reduce_window_max": _reduce_window_windows,
    "reduce_window_sum": _reduce_window_windows,
    "reduce_window_min": _reduce_window_windows,
    "slice": _slice_windows,
    "pad": _pad_windows,
}
