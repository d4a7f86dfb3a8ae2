"""The traced program of a network: any Linen module, nothing computed.

While the module is traced, every module that is called leaves two marks in the program: a scope around its equations,
and a name on what it puts out. Both survive inside scans, so the analyses know where they are.
"""

import dataclasses
import inspect
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from cnnjax import rng, tree
from cnnjax.analysis.bodies import inner, live, scan
from cnnjax.memory import remembered
from cnnjax.ops.conv import traced_as_convolutions
from cnnjax.typing import UsageError

Path = tuple[str, ...]
# What modules call the switch between training and evaluation, and its value in training.
SWITCHES = {"train": True, "training": True, "is_training": True, "deterministic": False, "use_running_average": False}
MARK = re.compile(r"cnnjax\[([^\]]*)\]")


@dataclasses.dataclass(frozen=True)
class Call:
    """A module that is called.

    Attributes:
      kind: its class.
      input: shape of the first array that it reads, with the axis of images; empty if there is none.
      output: shape of the first array that it puts out, likewise.
    """

    kind: str
    input: tuple[int, ...]
    output: tuple[int, ...]


class Output(NamedTuple):
    """An array that a network puts out.

    Attributes:
      name: its place, such as ``stage1`` of a dictionary of endpoints; ``output`` where there is only one array.
      shape: with the axis of images.
      asked: whether it is what the network is for; endpoints beside the logits are not.
    """

    name: str
    shape: tuple[int, ...]
    asked: bool


@dataclasses.dataclass(frozen=True)
class Program:
    """What a network does to its input.

    Attributes:
      jaxpr: the program; its last input is the network's, those before are its variables and a random key.
      constants: values of the program's own constants.
      variables: shapes of the variables.
      calls: every module that is called, by path, in order; the network itself, (), first.
      outputs: in the order of the program's.
    """

    jaxpr: Any
    constants: list[Any]
    variables: Mapping[str, Any]
    calls: dict[Path, Call]
    outputs: list[Output]

    @property
    def asked(self) -> list[Any]:
        """The program's outputs that the network is for."""
        return [atom for atom, output in zip(self.jaxpr.outvars, self.outputs, strict=True) if output.asked]

    @property
    def equations(self) -> list[Any]:
        """The equations that those outputs depend on: endpoints that nobody asked for cost nothing."""
        return live(self.jaxpr.eqns, self.asked)


class Step(NamedTuple):
    """An equation that is no call of another program.

    Attributes:
      equation: of the traced program.
      path: the module that it stands in.
      repeats: how often it is done, where a block is scanned.
    """

    equation: Any
    path: Path
    repeats: int


def trace(
    model: nn.Module,
    input_shape: tuple[int, ...],
    arguments: Mapping[str, Any] | None = None,
    batch: int = 1,
    training: bool = False,
) -> Program:
    """The program of ``model`` for inputs of one shape, without the axis of images; in evaluation mode if not told.

    Args:
      model: called with one array (batch, *input_shape) of float32.
      input_shape: such as (H, W, C).
      arguments: further arguments of the call; those that switch between training and evaluation are found.
      batch: inputs at once.
      training: whether in training mode.

    Raises:
      UsageError: the model takes several inputs, cannot take inputs of this shape, or makes an empty map of them.
    """
    _check(model, input_shape, arguments or {})
    recorder = _Recorder(model, input_shape)
    given = {**switches(model, training), **(arguments or {})}
    inputs = jax.ShapeDtypeStruct((batch, *input_shape), jnp.float32)
    key = rng.abstract_key()

    def apply(variables: Any, key: Any, inputs: Any) -> Any:
        out, _ = model.apply(variables, inputs, rngs=_streams(key), mutable=_state(variables), **given)
        return out

    with traced_as_convolutions(), recorder.reporting():
        with nn.intercept_methods(recorder.guard):
            variables = jax.eval_shape(lambda key, inputs: model.init(key, inputs, **given), key, inputs)
        variables = {name: value for name, value in variables.items() if name != "intermediates"}
        with nn.intercept_methods(recorder.mark):
            closed, shapes = jax.make_jaxpr(apply, return_shape=True)(variables, key, inputs)
    return Program(closed.jaxpr, closed.consts, variables, recorder.calls, _outputs(shapes))


@remembered(16)  # a plan goes from network to network, and compares those that differ in a field
def kept_trace(model: nn.Module, input_shape: tuple[int, ...]) -> Program:
    """As ``trace``, in evaluation; remembered, for several questions are asked of each network."""
    return trace(model, input_shape)


def trace_backward(
    model: nn.Module, input_shape: tuple[int, ...], variables: Any, arguments: Mapping[str, Any] | None = None
) -> Any:
    """The program of the forward pass in training mode, for one input, that puts out what the backward pass keeps.

    Raises:
      UsageError: the model cannot be called so.
    """
    given = {**(arguments or {}), **switches(model, training=True)}
    rest = {name: value for name, value in variables.items() if name != "params"}
    inputs = jax.ShapeDtypeStruct((1, *input_shape), jnp.float32)
    key = rng.abstract_key()

    def kept(params: Any, rest: Any, key: Any, inputs: Any) -> Any:
        def apply(params: Any) -> Any:
            streams = _streams(key)
            out, _ = model.apply({**rest, "params": params}, inputs, rngs=streams, mutable=_state(rest), **given)
            leaves, _, asked = _leaves(out)
            return [leaf for leaf, wanted in zip(leaves, asked, strict=True) if wanted]

        return jax.vjp(apply, params)[1]

    recorder = _Recorder(model, input_shape)
    with traced_as_convolutions(), recorder.reporting(), nn.intercept_methods(recorder.guard):
        return jax.make_jaxpr(kept)(variables.get("params", {}), rest, key, inputs).jaxpr


def switches(model: nn.Module, training: bool) -> dict[str, bool]:
    """The arguments of the model's call that switch between training and evaluation."""
    known = inspect.signature(type(model).__call__).parameters
    return {name: value is training for name, value in SWITCHES.items() if name in known}


def module_of(equation: Any, outer: Path) -> Path:
    """The module that an equation stands in; ``outer`` where nothing says so."""
    marks = MARK.findall(str(equation.source_info.name_stack))
    return _path(marks[-1]) if marks else outer


def tagged_module(equation: Any) -> Path | None:
    """The module that puts out what an equation names; None if it names nothing of a module."""
    found = MARK.fullmatch(equation.params["name"]) if equation.primitive.name == "name" else None
    return _path(found.group(1)) if found else None


def steps(equations: list[Any], path: Path = (), repeats: int = 1) -> Iterator[Step]:
    """The equations in order, with those of the programs that they call; a loop of unknown length counts once."""
    for equation in equations:
        here = module_of(equation, path)
        programs = inner(equation)
        times = found.length if (found := scan(equation)) else 1
        for program in programs:
            yield from steps(live(program.eqns, program.outvars), here, repeats * times)
        if not programs:
            yield Step(equation, here, repeats)


def label(path: Path) -> str:
    """How a module is called in reports."""
    return "/".join(path) or "(network)"


def _path(marked: str) -> Path:
    return tuple(marked.split(",")) if marked else ()


def _streams(key: Any) -> dict[str, Any]:
    return {"params": key, "dropout": jax.random.fold_in(key, 1)}


def _state(variables: Any) -> list[str]:
    return [name for name in variables if name != "params"]


def _leaves(out: Any) -> tuple[list[Any], list[str], list[bool]]:
    """Arrays, their names, and which the network is for: all but a dictionary beside one array, such as endpoints."""
    beside = isinstance(out, tuple) and len(out) == 2 and hasattr(out[0], "shape") and isinstance(out[1], Mapping)
    if beside:
        names = ["output", *tree.names(out[1])]
        return jax.tree_util.tree_leaves(out), names, [True] + [False] * (len(names) - 1)
    names = [name or "output" for name in tree.names(out)]
    return jax.tree_util.tree_leaves(out), names, [True] * len(names)


def _outputs(shapes: Any) -> list[Output]:
    return [Output(name, tuple(leaf.shape), asked) for leaf, name, asked in zip(*_leaves(shapes), strict=True)]


def _check(model: nn.Module, input_shape: tuple[int, ...], arguments: Mapping[str, Any]) -> None:
    kind = type(model).__name__
    if not input_shape or not all(isinstance(side, int) and side >= 1 for side in input_shape):
        raise UsageError(f"The shape of one input must be positive whole numbers, such as (224, 224, 3), not "
                         f"{input_shape}.")  # fmt: skip
    if not any("__call__" in vars(each) for each in type(model).__mro__):
        raise UsageError(f"{kind} has no method __call__. Only modules that are called can be analysed.")
    free = [p for p in inspect.signature(model.__call__).parameters.values() if p.kind not in (p.VAR_KEYWORD,)]
    required = [p.name for p in free if p.default is p.empty and p.kind is not p.VAR_POSITIONAL]
    inputs = [name for name in required if name not in SWITCHES and name not in arguments]
    if len(inputs) > 1 or not free:
        raise UsageError(
            f"{kind} takes {len(inputs)} inputs ({', '.join(inputs) or 'none'}), but only modules of one array can be "
            "analysed. Wrap it in a module that takes one array, or give the other arguments."
        )


class _Recorder:
    """Marks the modules that are called in the program, and says where something goes wrong."""

    def __init__(self, model: nn.Module, input_shape: tuple[int, ...]):
        self.calls: dict[Path, Call] = {(): Call(type(model).__name__, (), ())}
        self.label = f"{type(model).__name__} on {'x'.join(map(str, input_shape))}"
        self.place = ""

    def guard(self, call, args, kwargs, context):
        """Refuses empty maps, and remembers the innermost module that raises an error."""
        if context.module.scope is None:  # before it is part of a network, such as __post_init__'s own methods
            return call(*args, **kwargs)
        read = first_array((args, kwargs))
        where = f"{label(context.module.path)} ({type(context.module).__name__})"
        try:
            if read is not None and 0 in read.shape:
                raise UsageError(
                    f"{self.label}: {where} reads a map of {_sides(read)}: what comes before it covers more than "
                    "its input has. Use larger inputs, more padding or smaller windows."
                )
            out = call(*args, **kwargs)
        except Exception:
            self.place = self.place or where
            raise
        made = first_array(out)
        if made is not None and 0 in made.shape:
            raise UsageError(
                f"{self.label}: {where} makes a map of {_sides(made)}: {_too_small(context.module, read)}."
            )
        return out

    def mark(self, call, args, kwargs, context):
        """As ``guard``; also puts the two marks into the program and notes the call."""
        if context.module.scope is None:
            return call(*args, **kwargs)
        path, named = tuple(context.module.path), context.method_name == "__call__"
        mark, read = f"cnnjax[{','.join(path)}]", first_array((args, kwargs))
        if named:  # before what it holds, so that the order is that of the calls
            self.calls.setdefault(path, Call(type(context.module).__name__, (), ()))
        with jax.named_scope(mark):
            out = self.guard(call, args, kwargs, context)
        made = first_array(out)
        if not named or made is None:
            return out
        shapes = (() if read is None else tuple(read.shape), tuple(made.shape))
        self.calls[path] = Call(type(context.module).__name__, *shapes)
        leaves, structure = jax.tree_util.tree_flatten(out)
        tagged = [checkpoint_name(leaf, mark) if leaf is made else leaf for leaf in leaves]
        return jax.tree_util.tree_unflatten(structure, tagged)

    def reporting(self):
        """Inside, whatever a module raises becomes a UsageError that says which module and what."""
        return _Reporting(self)


class _Reporting:
    def __init__(self, recorder: _Recorder):
        self.recorder = recorder

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        if not isinstance(error, Exception) or isinstance(error, UsageError):
            return
        said = (str(error).strip().splitlines() or [""])[0]
        place = f"{self.recorder.place} raised " if self.recorder.place else ""
        raise UsageError(f"{self.recorder.label}: {place}{type(error).__name__}: {said}") from error


def first_array(values: Any) -> Any | None:
    """The first array of floating point numbers among nested values."""
    leaves = jax.tree_util.tree_leaves(values)
    return next((x for x in leaves if hasattr(x, "shape") and jnp.issubdtype(x.dtype, jnp.floating)), None)


def _sides(array: Any) -> str:
    return "x".join(map(str, array.shape[1:]))


def _too_small(module: nn.Module, read: Any | None) -> str:
    kernel = getattr(module, "kernel_size", None)
    if read is None or not kernel:
        return "it has no room in its input"
    sides = kernel if isinstance(kernel, tuple | list) else (kernel,)
    return (
        f"a kernel of {'x'.join(map(str, sides))} with padding {getattr(module, 'padding', 0)} needs n + p >= f, but "
        f"its input has {_sides(read)}; use larger inputs, more padding or a smaller kernel"
    )
