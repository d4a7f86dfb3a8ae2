"""Rows and columns of a map that no window of the layers after it reads, from a network's traced program.

Backwards through the program: a window reads the units under its taps, what works unit by unit passes on what is read
of its result, and all else reads everything. A map is left unread where all that read it together leave it so: a
projection that skips every second row beside a convolution that reads them loses nothing.
"""

import dataclasses
from collections.abc import Iterable
from typing import Any

import numpy as np

from cnnjax.analysis.bodies import called, inner, live
from cnnjax.analysis.program import Path, Program, module_of, tagged_module
from cnnjax.analysis.receptive_field import WINDOWS, is_map
from cnnjax.analysis.spans import Window

MIXES = {*WINDOWS, "dot_general", "transpose", "rev", "sort", "cumsum", "cumprod", "cummax", "gather"}
COPIES = ("pad", "concatenate", "slice", "broadcast_in_dim", "reshape")  # their results are parts of other maps
PASSED_ON = "pad"  # besides what keeps a map's sides: padding is nothing that could be lost


@dataclasses.dataclass(frozen=True)
class Unread:
    """A map of which rows or columns are not read.

    Attributes:
      layer: the module whose windows leave them, or if it is the network itself, the module that made the map.
      after: whether ``layer`` made the map.
      sides: rows and columns of the map.
      lines: rows and columns that nothing reads.
      window, strides, padding: of the windows: extent, steps, and what is added at both ends, rows and columns.
    """

    layer: Path
    after: bool
    sides: tuple[int, int]
    lines: tuple[int, int]
    window: tuple[int, int]
    strides: tuple[int, int]
    padding: tuple[int, int]


@dataclasses.dataclass
class _Reading:
    """Which rows and columns of a map are read, and by which windows."""

    rows: np.ndarray
    columns: np.ndarray
    windows: list[tuple[Path, Any]] = dataclasses.field(default_factory=list)

    def add(self, other: "_Reading") -> None:
        self.rows, self.columns = self.rows | other.rows, self.columns | other.columns
        self.windows += other.windows


def unread_maps(program: Program) -> list[Unread]:
    """The maps of a network, its input among them, of which some rows or columns are lost to its outputs."""
    found: list[Unread] = []
    image = program.jaxpr.invars[-1]
    read = _backwards(program.equations, program.asked, {}, (), found)
    if is_map(image) and image in read:
        _report(image, read[image], (), found)
    return list(dict.fromkeys(reversed(found)))


def _backwards(
    equations: list[Any], outputs: Iterable[Any], known: dict[Any, _Reading], path: Path, found: list[Unread]
) -> dict[Any, _Reading]:
    """What is read of every map of a program; ``known`` is what is read of its outputs, all where it says nothing."""
    read = dict(known)
    for atom in outputs:
        if not hasattr(atom, "val") and is_map(atom):
            _add(read, atom, read.pop(atom, None) or _all(atom))
    makers = _makers(equations, path)
    for equation in reversed(equations):
        here = module_of(equation, path)
        for out in equation.outvars:
            if out in read and _is_root(equation, out):
                _report(out, read[out], makers.get(out, here), found)
        for atom, reading in _operands(equation, read, here, found):
            if not hasattr(atom, "val") and is_map(atom):
                _add(read, atom, reading or _all(atom))
    return read


def _operands(
    equation: Any, read: dict[Any, _Reading], path: Path, found: list[Unread]
) -> list[tuple[Any, _Reading | None]]:
    """(operand, what is read of it) of an equation; None is all of it."""
    program = called(equation)
    if program is not None:
        outs = {
            name: read[out]
            for name, out in zip(program.outvars, equation.outvars, strict=True)
            if out in read and not hasattr(name, "val")
        }
        within = _backwards(live(program.eqns, program.outvars), program.outvars, outs, path, found)
        return [(atom, within.get(name)) for atom, name in zip(equation.invars, program.invars, strict=True)]
    for program in inner(equation):  # loops: what their bodies lose; their own operands are read whole
        _backwards(live(program.eqns, program.outvars), program.outvars, {}, path, found)
    name, out = equation.primitive.name, equation.outvars[0]
    first = equation.invars[0] if equation.invars else None
    if name in WINDOWS and name != PASSED_ON and first is not None and not hasattr(first, "val") and is_map(first):
        windows = WINDOWS[name](equation)
        if windows and len(out.aval.shape) == 4:
            units = read.get(out) if name == "slice" else None  # a part of a map is not all read
            reading = _through(first, units or _all(out), windows)
            reading.windows += [(path, equation), *(units.windows if units else [])]
            return [(first, reading), *((atom, None) for atom in equation.invars[1:])]
    if out not in read:
        return [(atom, None) for atom in equation.invars]
    if name == PASSED_ON:
        return [(first, _unpadded(equation, read[out]))]
    if name == "concatenate":
        return list(zip(equation.invars, _parts(equation, read[out]), strict=True))
    keeps = _keeps_units(equation, out)
    return [(atom, _copy(read[out]) if keeps else None) for atom in equation.invars]


def _through(map_: Any, units: _Reading, windows: list[Window]) -> _Reading:
    """What the windows of some units read of a map."""
    lines = []
    for axis, (window, wanted) in enumerate(zip(windows, (units.rows, units.columns), strict=True), start=1):
        first = window.stride * np.flatnonzero(wanted)[:, None] + window.low
        places = (first + window.step * np.arange(window.taps)).ravel()
        places = places[places % window.spread == 0] // window.spread
        read = np.zeros(map_.aval.shape[axis], bool)
        read[places[(places >= 0) & (places < len(read))]] = True
        lines.append(read)
    return _Reading(lines[0], lines[1])


def _unpadded(equation: Any, reading: _Reading) -> _Reading:
    """What is read of a map before it was padded, or cut."""
    lines = []
    for axis, read in ((1, reading.rows), (2, reading.columns)):
        low, _, interior = equation.params["padding_config"][axis]
        places = low + (interior + 1) * np.arange(equation.invars[0].aval.shape[axis])
        inside = (places >= 0) & (places < len(read))
        lines.append(np.where(inside, read[np.clip(places, 0, len(read) - 1)], False))
    return _Reading(lines[0], lines[1], list(reading.windows))


def _parts(equation: Any, reading: _Reading) -> list[_Reading]:
    """What is read of maps that were put together along an axis."""
    axis, start, parts = equation.params["dimension"], 0, []
    for atom in equation.invars:
        end = start + atom.aval.shape[axis]
        part = _copy(reading)
        if axis == 1:
            part.rows = reading.rows[start:end]
        elif axis == 2:
            part.columns = reading.columns[start:end]
        parts.append(part)
        start = end
    return parts


def _makers(equations: list[Any], path: Path) -> dict[Any, Path]:
    """The module that put out each value that is one's output, also after what works unit by unit."""
    makers: dict[Any, Path] = {}
    for equation in equations:
        module = tagged_module(equation)
        operands = [atom for atom in equation.invars if not hasattr(atom, "val")]
        known = [makers[atom] for atom in operands if atom in makers]
        for out in equation.outvars:
            if module is not None:
                makers[out] = module
                makers.setdefault(operands[0], module)
            elif known:
                makers[out] = known[-1]
    return makers


def _is_root(equation: Any, out: Any) -> bool:
    """Whether a map is made here, and not only handed on with the same units."""
    handed_on = called(equation) is not None or equation.primitive.name in COPIES
    return is_map(out) and not handed_on and not _keeps_units(equation, out)


def _keeps_units(equation: Any, out: Any) -> bool:
    """Whether each unit of a map is made of the same units of the operands."""
    if equation.primitive.name in MIXES or inner(equation):
        return False
    maps = [atom for atom in equation.invars if not hasattr(atom, "val") and is_map(atom)]
    return bool(maps) and all(_sides(atom) == _sides(out) for atom in maps)


def _report(map_: Any, reading: _Reading, maker: Path, found: list[Unread]) -> None:
    lines = int((~reading.rows).sum()), int((~reading.columns).sum())
    if lines == (0, 0) or not reading.windows:
        return
    layer = reading.windows[0][0]
    made_by_parent = maker[: len(layer)] == layer and maker != layer
    windows = [_geometry(equation) for path, equation in reading.windows if path == layer]
    starts = [start for window in windows for start in window[0]]
    first = tuple(min(start[axis] for start in starts) for axis in (0, 1))
    last = tuple(max(start[axis] for start in starts) for axis in (0, 1))
    _, strides, padding = windows[0]
    found.append(
        Unread(
            layer=maker if made_by_parent else layer,
            after=made_by_parent,
            sides=_sides(map_),
            lines=lines,
            window=(last[0] - first[0] + 1, last[1] - first[1] + 1),
            strides=strides,
            padding=padding,
        )
    )


def _geometry(equation: Any) -> tuple[list[tuple[int, int]], tuple[int, int], tuple[int, int]]:
    """(first and last place of the first window, steps, padding at both ends) of an equation, rows and columns."""
    rows, columns = WINDOWS[equation.primitive.name](equation)  # type: ignore[misc]
    ends = [(each.low, each.low + (each.taps - 1) * each.step) for each in (rows, columns)]
    padding = equation.params.get("padding", ((0, 0),) * 2)
    pads = [sum(pad) for pad in (padding[1:3] if len(padding) == 4 else padding)]
    return list(zip(*ends, strict=True)), (rows.stride, columns.stride), (pads[0], pads[1])


def _add(read: dict[Any, _Reading], atom: Any, reading: _Reading) -> None:
    if atom in read:
        read[atom].add(reading)
    else:
        read[atom] = reading


def _all(atom: Any) -> _Reading:
    rows, columns = _sides(atom)
    return _Reading(np.ones(rows, bool), np.ones(columns, bool))


def _copy(reading: _Reading) -> _Reading:
    return _Reading(reading.rows, reading.columns, list(reading.windows))


def _sides(atom: Any) -> tuple[int, int]:
    return tuple(atom.aval.shape[1:3])
