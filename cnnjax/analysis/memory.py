"""Memory of a network's activations, from its traced program.

The program's order and arrays are taken as they stand: XLA, which fuses equations and writes in place, may need less.
Parameters are not activations. What only shows an array otherwise (another shape, a part of it, one number repeated)
needs no memory of its own.
"""

import math
from typing import Any

from cnnjax.analysis.bodies import inner, live
from cnnjax.analysis.program import Program

VIEWS = {"reshape", "squeeze", "slice", "broadcast_in_dim", "name", "stop_gradient", "copy", "optimization_barrier"}


def inference_bytes(program: Program) -> int:
    """The most bytes of activations that are alive at once for one pass, the input included."""
    images = program.jaxpr.invars[-1]
    return _bytes(images) + _peak(program.equations, {images}, program.asked, own={images})


def training_bytes(jaxpr: Any) -> int:
    """Bytes that the backward pass keeps of the forward pass; of a program from ``program.trace_backward``."""
    given = {*jaxpr.invars[:-1], *jaxpr.constvars}
    kept = {atom for atom in jaxpr.outvars if not hasattr(atom, "val") and atom not in given}
    return sum(_bytes(atom) for atom in kept)


def _peak(equations: list[Any], varying: set[Any], outputs: list[Any], own: set[Any] | None = None) -> int:
    """The most bytes at once of a program's arrays that depend on ``varying``, its inputs.

    Args:
      equations: in order, all needed.
      varying: inputs that depend on the images.
      outputs: alive to the end.
      own: inputs that may be freed after their last use; the others are somebody else's.
    """
    varying = set(varying)
    root: dict[Any, Any] = {}

    def base(atom: Any) -> Any:
        return root.get(atom, atom)

    last: dict[Any, float] = {}
    for index, equation in enumerate(equations):
        operands = [atom for atom in equation.invars if not hasattr(atom, "val")]
        if varying.isdisjoint(operands):
            continue
        varying.update(equation.outvars)
        if equation.primitive.name in VIEWS:
            root[equation.outvars[0]] = base(operands[0])
        last.update({base(atom): index for atom in [*operands, *equation.outvars]})
    last.update({base(atom): math.inf for atom in outputs if not hasattr(atom, "val")})
    current = peak = 0
    freed_at: dict[float, list[Any]] = {}
    for atom, end in last.items():
        freed_at.setdefault(end, []).append(atom)
    held = set(own or ())
    for index, equation in enumerate(equations):
        made = [
            atom
            for atom in equation.outvars
            if atom in varying and atom not in root and type(atom).__name__ != "DropVar"
        ]
        size = sum(_bytes(atom) for atom in made)
        peak = max(peak, current + max(size, _inside(equation, varying)))
        current += size
        held.update(made)
        for atom in freed_at.get(index, ()):
            if atom in held:
                current -= _bytes(atom)
    return peak


def _inside(equation: Any, varying: set[Any]) -> int:
    """The most bytes at once inside the programs that an equation calls."""
    peaks = [0]
    for program in inner(equation):
        same = len(program.invars) == len(equation.invars)
        operands = equation.invars if same else []
        given = {
            name
            for name, atom in zip(program.invars, operands, strict=False)
            if not hasattr(atom, "val") and atom in varying
        }
        peaks.append(
            _peak(live(program.eqns, program.outvars), given if same else set(program.invars), program.outvars)
        )
    return max(peaks)


def _bytes(atom: Any) -> int:
    shape, dtype = getattr(atom.aval, "shape", ()), getattr(atom.aval, "dtype", None)
    return math.prod(shape) * getattr(dtype, "itemsize", 0)
