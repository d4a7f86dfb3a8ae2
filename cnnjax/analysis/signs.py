"""Sigmoids of what can not be negative, found in a network's traced program."""

from collections.abc import Sequence
from typing import Any

from cnnjax.analysis.bodies import Scan, called, live, scan
from cnnjax.analysis.program import Path, Program, module_of, tagged_module

# What is never negative whatever it is made of, and what is not where none of its operands is.
POSITIVE = {"exp", "logistic", "abs", "square", "sqrt", "rsqrt", "is_finite"}
KEEPS_SIGN = {
    *("add", "mul", "div", "add_any", "min", "pow", "integer_pow", "pad", "concatenate", "reshape", "squeeze", "name"),
    *("broadcast_in_dim", "transpose", "slice", "rev", "sort", "copy", "convert_element_type", "reduce_sum", "cumsum"),
    *("reduce_max", "reduce_min", "reduce_window_sum", "reduce_window_max", "dynamic_slice", "stop_gradient", "tanh"),
    *("optimization_barrier", "expand_dims", "log1p", "sign", "floor", "round", "max"),
}


def sigmoids_of_positives(program: Program) -> list[tuple[Path, str]]:
    """(module, the module before it) of every sigmoid whose argument is known not to be negative."""
    found: list[tuple[Path, str]] = []
    _run(program.jaxpr.invars, program.equations, [False] * len(program.jaxpr.invars), (), found)
    return list(dict.fromkeys(found))


def _run(
    names: Sequence[Any], equations: list[Any], inputs: Sequence[bool], path: Path, found: list[tuple[Path, str]]
) -> dict[Any, bool]:
    """Which values of a program are known not to be negative."""
    known = dict(zip(names, inputs, strict=True))
    last = path
    for equation in equations:
        here, name = module_of(equation, path), equation.primitive.name
        signs = [_literal(atom) if hasattr(atom, "val") else known.get(atom, False) for atom in equation.invars]
        program = called(equation)
        if program is not None:
            within = _run(program.invars, live(program.eqns, program.outvars), signs, here, found)
            out = [_literal(atom) if hasattr(atom, "val") else within.get(atom, False) for atom in program.outvars]
            known.update(zip(equation.outvars, out, strict=True))
        elif (loop := scan(equation)) is not None:
            known.update(zip(equation.outvars, _scanned(loop, signs, here, found), strict=True))
        else:
            if name == "logistic" and signs[0]:
                found.append((here, "/".join(last)))
            known.update(dict.fromkeys(equation.outvars, _positive(equation, signs)))
        last = tagged_module(equation) or last
    return known


def _scanned(loop: Scan, signs: list[bool], path: Path, found: list[tuple[Path, str]]) -> list[bool]:
    """What a scan puts out; what it carries is positive only if each turn leaves it so."""
    body = loop.body
    equations = live(body.eqns, body.outvars)
    constants, carry, rows = loop.split(signs)
    while True:
        turn: list[tuple[Path, str]] = []
        known = _run(body.invars, equations, [*constants, *carry, *rows], path, turn)
        out = [_literal(atom) if hasattr(atom, "val") else known.get(atom, False) for atom in body.outvars]
        kept = [before and after for before, after in zip(carry, out, strict=False)]
        if kept == carry:
            found += turn
            return out
        carry = kept


def _positive(equation: Any, signs: list[bool]) -> bool:
    name, params = equation.primitive.name, equation.params
    if name in POSITIVE or (name == "max" and any(signs)) or (name == "integer_pow" and params["y"] % 2 == 0):
        return True
    if name == "mul" and equation.invars[0] is equation.invars[1]:
        return True
    if name == "clamp":
        return signs[0]
    if name == "select_n":
        return all(signs[1:])
    return name in KEEPS_SIGN and all(signs)


def _literal(atom: Any) -> bool:
    value = atom.val
    return bool(getattr(value, "size", 1) == 1 and value >= 0)
