"""What stands where in a network, what it costs and what may be wrong with it: from its traced program, untrained."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax

from cnnjax import tree
from cnnjax.analysis import cost, memory
from cnnjax.analysis.coverage import gathered_counts
from cnnjax.analysis.layer_warnings import LayerWarning, warnings_of
from cnnjax.analysis.program import Call, Path, Program, label, steps, trace, trace_backward
from cnnjax.analysis.receptive_field import Found, Map, ReceptiveField, fields_of_outputs, fields_on_the_way
from cnnjax.analysis.spans import counts
from cnnjax.analysis.text import text
from cnnjax.analysis.units import dead_units
from cnnjax.typing import UsageError

# Where nobody says, dead units are counted only below these: then it takes about a second.
CHEAP_MULTIPLY_ADDS = 2_000_000
CHEAP_EQUATIONS = 100
# Of a layer's channels, from which on there is a warning. Behind a dense layer about half are dead by chance.
DEAD_FRACTION = 0.75


@dataclasses.dataclass(frozen=True)
class Layer:
    """A module of a network, with what it holds, or several of the same place that are repeated (scanned blocks).

    Attributes:
      name: path in the network, such as ``stage2_first/conv1``.
      kind: the module's class.
      output: shape of what it puts out for one image, without the axis of images; empty if that is no array.
      parameters: trainable numbers.
      multiply_adds: for one image: convolutions and matrix products, one multiplication and addition as one.
      operations: for one image, as XLA counts floating point operations; see ``cost.xla_operations``.
      output_bytes: of what it puts out for one image; of repeated ones, all together.
      repeats: how often it stands in the place.
      field: receptive field of what it puts out, of repeated ones the last; None if that is no map of the image.
      dead: channels behind its ReLUs that are zero everywhere, and all channels; None where not counted.
    """

    name: str
    kind: str
    output: tuple[int, ...]
    parameters: int
    multiply_adds: int
    operations: int
    output_bytes: int
    repeats: int
    field: ReceptiveField | None
    dead: tuple[int, int] | None


@dataclasses.dataclass(frozen=True)
class Coverage:
    """How the units of the last map cover the image (S4:164-165).

    Exact for stacks without padding. With padding, a count at the border may have paths through it, which carry zeros.

    Attributes:
      sides: rows and columns of the last map.
      field: of its units.
      rows: how many rows of units read each row of pixels.
      columns: likewise. A pixel is read by the product of both.
    """

    sides: tuple[int, int]
    field: ReceptiveField
    rows: tuple[int, ...]
    columns: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Analysis:
    """All that ``summarize`` finds; ``report.anatomy.figure`` draws it.

    Attributes:
      model: the network's class.
      input_shape: of one input, such as (H, W, C).
      layers: in the order in which they are called.
      maps: what the network puts out and is a map -> its receptive field.
      coverage: of the last map; None where there is none.
      overlaps: how often each row and each column of the outputs of a transposed convolution is written, by its layer;
        an output is written by the product of both (S3:866-879).
      parameters, multiply_adds, operations: of the whole network; operations also of what stands in no layer.
      inference_bytes: most bytes of activations at once, for one image.
      training_bytes: what the backward pass keeps of one image's forward pass.
      batch_size: images at once, if that was given.
      warnings: what is likely a mistake.
      units: how dead units were counted, or why not.
    """

    model: str
    input_shape: tuple[int, ...]
    layers: tuple[Layer, ...]
    maps: dict[str, ReceptiveField]
    coverage: Coverage | None
    overlaps: dict[str, tuple[tuple[int, ...], tuple[int, ...]]]
    parameters: int
    multiply_adds: int
    operations: int
    inference_bytes: int
    training_bytes: int
    batch_size: int | None
    warnings: tuple[LayerWarning, ...]
    units: str

    def to_json(self) -> dict[str, Any]:
        """The same as plain values: dictionaries, lists, numbers and texts."""
        return _plain(self)

    def text(self, name: str = "") -> str:
        """The same as tables and lines of text, under the network's name."""
        return text(self, name)


def summarize(
    model: nn.Module,
    input_shape: tuple[int, ...],
    depth: int = 2,
    *,
    batch_size: int | None = None,
    units: bool | None = None,
    arguments: Mapping[str, Any] | None = None,
) -> Analysis:
    """Everything that can be said of a module without training it; only dead units need a computation.

    Layers are the modules that have parameters or work, in the order of their calls. Pooling and activations that are
    functions and not modules have no line of their own; what follows shows their effect. The layers' parameters and
    multiply-adds add up to the network's.

    Args:
      model: any Linen module of one array, also one that returns only an array, or nested ones.
      input_shape: of one input, without the axis of images: (H, W, C), or anything that the module takes.
      depth: levels of modules; a deeper one counts with the one that holds it; 0 shows the innermost.
      batch_size: of training, for warnings; memory is for one image, and proportional to it.
      units: whether dead units are counted, which initialises the network and computes eight random images; None is
        where that takes about a second.
      arguments: further arguments of the module's call.

    Raises:
      UsageError: the module takes several inputs, or cannot take inputs of this shape, or a number means nothing.
    """
    if depth < 0 or (batch_size is not None and batch_size < 1):
        raise UsageError(f"depth={depth} must be 0 or more, and batch_size={batch_size} at least 1.")
    program = trace(model, input_shape, arguments)
    found = fields_on_the_way(program)
    products = list(cost.products(program))
    multiply_adds = sum(product.repeats * product.multiply_adds for product in products)
    operations = cost.xla_operations(program)
    dead, said = _units(model, program, multiply_adds, units, arguments)
    backward = trace_backward(model, input_shape, program.variables, arguments)
    return Analysis(
        model=type(model).__name__,
        input_shape=input_shape,
        layers=tuple(_layers(program, found, products, operations, dead, depth)),
        maps=fields_of_outputs(program),
        coverage=_coverage(found.last, input_shape) if found.last else None,
        overlaps=_overlaps(program),
        parameters=tree.count(program.variables.get("params", {})),
        multiply_adds=multiply_adds,
        operations=sum(operations.values()),
        inference_bytes=memory.inference_bytes(program),
        training_bytes=memory.training_bytes(backward),
        batch_size=batch_size,
        warnings=(*warnings_of(program, found, batch_size), *_dying(dead)),
        units=said,
    )


def _layers(
    program: Program,
    found: Found,
    products: list[cost.Product],
    operations: dict[Path, int],
    dead: dict[Path, tuple[int, int]],
    depth: int,
) -> list[Layer]:
    calls, place = program.calls, {path: index for index, path in enumerate(program.calls)}

    def owner(path: Path) -> Path:
        """The module that a path is shown under: the path itself, cut to the depth and to what is called."""
        path = path[:depth] if depth else path
        while path not in calls:
            path = path[:-1]
        return path

    def summed(numbers: list[tuple[Path, int]]) -> dict[Path, int]:
        sums: dict[Path, int] = {}
        for path, number in numbers:
            sums[owner(path)] = sums.get(owner(path), 0) + number
        return sums

    parameters = summed([(path[:-1], count) for path, count in _parameters(program.variables)])
    adds = summed([(product.path, product.repeats * product.multiply_adds) for product in products])
    work = summed(list(operations.items()))
    dying = [summed([(path, both[index]) for path, both in dead.items()]) for index in (0, 1)]
    repeats = _repeats(program)
    layers = []
    for path in sorted({*parameters, *adds}, key=place.__getitem__):
        call = calls[path]
        layers.append(
            Layer(
                name=label(path),
                kind=call.kind,
                output=call.output[1:],
                parameters=parameters.get(path, 0),
                multiply_adds=adds.get(path, 0),
                operations=work.get(path, 0),
                output_bytes=_output_bytes(call) * repeats.get(path, 1),
                repeats=repeats.get(path, 1),
                field=found.modules.get(path),
                dead=(dying[0][path], dying[1][path]) if path in dying[1] else None,
            )
        )
    return layers


def _parameters(variables: Mapping[str, Any]) -> list[tuple[Path, int]]:
    params = variables.get("params", {})
    leaves = jax.tree_util.tree_leaves(params)
    return [(tuple(n.split("/")), math.prod(leaf.shape)) for n, leaf in zip(tree.names(params), leaves, strict=True)]


def _repeats(program: Program) -> dict[Path, int]:
    """How often each module stands in its place, where that is more than once."""
    found: dict[Path, int] = {}
    for step in steps(program.equations):
        if step.repeats > 1:
            for length in range(1, len(step.path) + 1):
                path = step.path[:length]
                found[path] = min(found.get(path, step.repeats), step.repeats)
        else:
            for length in range(1, len(step.path) + 1):
                found[step.path[:length]] = 1
    return found


def _output_bytes(call: Call) -> int:
    return 4 * math.prod(call.output[1:]) if call.output else 0


def _coverage(last: Map, input_shape: tuple[int, ...]) -> Coverage:
    rows, columns = (
        counts(span, units, pixels)
        for span, units, pixels in zip((last.field.rows, last.field.columns), last.sides, input_shape, strict=False)
    )
    return Coverage(last.sides, last.field, rows, columns)


def _overlaps(program: Program) -> dict[str, tuple[tuple[int, ...], tuple[int, ...]]]:
    found = {}
    for step in steps(program.equations):
        params = step.equation.params
        if step.equation.primitive.name != "conv_general_dilated" or set(params["lhs_dilation"]) == {1}:
            continue
        numbers, (images, kernel) = params["dimension_numbers"], (atom.aval.shape for atom in step.equation.invars)
        if len(images) != 4:
            continue
        outputs = step.equation.outvars[0].aval.shape
        rows, columns = (
            gathered_counts(
                images[numbers.lhs_spec[2 + axis]],
                outputs[numbers.out_spec[2 + axis]],
                kernel[numbers.rhs_spec[2 + axis]],
                params["lhs_dilation"][axis],
                params["padding"][axis][0],
                params["rhs_dilation"][axis],
            )
            for axis in (0, 1)
        )
        found[label(step.path)] = tuple(rows.tolist()), tuple(columns.tolist())
    return found


def _units(
    model: nn.Module, program: Program, multiply_adds: int, units: bool | None, arguments: Mapping[str, Any] | None
) -> tuple[dict[Path, tuple[int, int]], str]:
    """Dead units, and what is said of them."""
    shape = program.jaxpr.invars[-1].aval.shape[1:]
    equations = sum(1 for _ in steps(program.equations))
    if units is None and not (multiply_adds <= CHEAP_MULTIPLY_ADDS and equations <= CHEAP_EQUATIONS):
        return {}, f"not counted: it needs a forward pass of {multiply_adds:,} multiply-adds for each of 8 images"
    if units is False:
        return {}, "not counted"
    return dead_units(model, shape, arguments=arguments), "counted with 8 images of noise"


def _dying(dead: dict[Path, tuple[int, int]]) -> list[LayerWarning]:
    return [
        LayerWarning(
            layer=label(path),
            what=f"{count} of {total} channels after the ReLU are zero for each of 8 random images at initialisation",
            why="A channel that is zero for all images has no gradient and does not learn.",
            remedy="Check the initialisation and the biases, or use another activation.",
            source="He et al. 2015, arXiv:1502.01852",
        )
        for path, (count, total) in dead.items()
        if count >= DEAD_FRACTION * total
    ]


def _plain(value: Any) -> Any:
    if isinstance(value, ReceptiveField):
        numbers = {name: [float(n) if n != int(n) else int(n) for n in getattr(value, name)] for name in
                   ("size", "stride", "start")}  # fmt: skip
        return {**numbers, "whole_image": value.whole_image}
    if dataclasses.is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, tuple | list) else value
