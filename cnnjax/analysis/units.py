"""Dead units at initialisation: channels that are zero everywhere after a ReLU, found by computing a few images."""

from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax

from cnnjax.analysis.bodies import Scan, called, called_values, live, scan
from cnnjax.analysis.program import Path, module_of, switches, tagged_module, trace
from cnnjax.ops.conv import traced_as_convolutions

QUICKLY = {"xla_backend_optimization_level": 0}  # one pass of few images: compiling would take most of the time
Alive = dict[
    tuple[Path, int], jax.Array
]  # (module, which of its ReLUs) -> (..., C), whether a channel is ever positive


def dead_units(
    model: nn.Module,
    input_shape: tuple[int, ...],
    images: int = 8,
    seed: int = 0,
    arguments: Mapping[str, Any] | None = None,
) -> dict[Path, tuple[int, int]]:
    """(dead channels, channels) behind the ReLUs of a fresh network, for images of normally distributed noise.

    A channel is dead if it is zero at every position of every image. A ReLU belongs to the module whose output it
    reads, or else to the one that it stands in; of a scanned block, all repetitions are counted together.

    Args:
      model: any module of one input.
      input_shape: of one input, such as (H, W, C).
      images: how many.
      seed: of the parameters and the images.
      arguments: further arguments of the model's call.

    Raises:
      UsageError: the model cannot take such inputs.
    """
    program = trace(model, input_shape, arguments, batch=images)
    given = {**switches(model, training=False), **(arguments or {})}

    def alive(key: jax.Array) -> Alive:
        keys = jax.random.split(key, 3)
        noise = jax.random.normal(keys[0], (images, *input_shape))
        variables = {name: v for name, v in model.init(keys[1], noise, **given).items() if name != "intermediates"}
        inputs = [*jax.tree_util.tree_leaves((variables, keys[2])), noise]
        known = dict(zip(program.jaxpr.constvars, program.constants, strict=True))
        known.update(zip(program.jaxpr.invars, inputs, strict=True))
        found: Alive = {}
        _evaluate(program.equations, known, {}, (), found)
        return found

    counted: dict[Path, tuple[int, int]] = {}
    with traced_as_convolutions():
        found = jax.jit(alive, compiler_options=QUICKLY)(jax.random.key(seed))
    for (path, _), channels in found.items():
        dead, total = counted.get(path, (0, 0))
        counted[path] = dead + int((~channels).sum()), total + channels.size
    return counted


def _evaluate(equations: list[Any], known: dict[Any, Any], made_by: dict[Any, Path], path: Path, found: Alive) -> None:
    """Computes a program; ``known`` has its inputs and gets all its values, ``made_by`` the modules they come from."""
    for equation in equations:
        here, module = module_of(equation, path), tagged_module(equation)
        values = [_value(atom, known) for atom in equation.invars]
        makers = [None if hasattr(atom, "val") else made_by.get(atom) for atom in equation.invars]
        program = called(equation)
        if program is not None:
            out = _called(equation, program, values, makers, here, found)
        elif (loop := scan(equation)) is not None:
            out = _scanned(loop, values, here, found)
        else:
            params = equation.primitive.get_bind_params(equation.params)
            out = equation.primitive.bind(*values, **params)
            out = out if equation.primitive.multiple_results else [out]
            if _is_relu(equation):
                _note(found, next((maker for maker in makers if maker), here), out[0])
        known.update(zip(equation.outvars, out, strict=True))
        if module is not None:
            made_by.update(dict.fromkeys(equation.outvars, module))


def _value(atom: Any, known: dict[Any, Any]) -> Any:
    return atom.val if hasattr(atom, "val") else known[atom]


def _called(
    equation: Any, program: Any, values: list[Any], makers: Sequence[Path | None], path: Path, found: Alive
) -> list[Any]:
    known = dict(zip(program.invars, values, strict=True))
    made_by = {name: maker for name, maker in zip(program.invars, makers, strict=True) if maker}
    known.update(zip(program.constvars, called_values(equation), strict=True))
    _evaluate(live(program.eqns, program.outvars), known, made_by, path, found)
    return [_value(atom, known) for atom in program.outvars]


def _scanned(loop: Scan, values: list[Any], path: Path, found: Alive) -> list[Any]:
    """A scan whose body also hands out which channels live, one row for each turn."""
    constants, start, rows = loop.split(values)
    body = loop.body

    def turn(carry: list[Any], rows: list[Any]) -> tuple[list[Any], tuple[list[Any], Alive]]:
        known = dict(zip(body.invars, [*constants, *carry, *rows], strict=True))
        known.update(zip(body.constvars, loop.values, strict=True))
        within: Alive = {}
        _evaluate(live(body.eqns, body.outvars), known, {}, path, within)
        out = [_value(atom, known) for atom in body.outvars]
        return out[: loop.carried], (out[loop.carried :], within)

    carry, (out, within) = jax.lax.scan(turn, start, rows, loop.length, loop.reverse)
    for (module, _), alive in within.items():
        _store(found, module, alive)
    return [*carry, *out]


def _is_relu(equation: Any) -> bool:
    if equation.primitive.name != "max":
        return False
    return any(hasattr(atom, "val") and getattr(atom.val, "size", 1) == 1 and atom.val == 0 for atom in equation.invars)


def _note(found: Alive, module: Path, out: jax.Array) -> None:
    _store(found, module, (out > 0).any(tuple(range(out.ndim - 1))))


def _store(found: Alive, module: Path, alive: jax.Array) -> None:
    found[module, sum(path == module for path, _ in found)] = alive
