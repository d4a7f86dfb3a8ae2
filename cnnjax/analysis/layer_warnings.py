"""What is likely a mistake in a network, from its traced program; each with the numbers, a remedy and its source."""

import dataclasses
from collections import Counter
from typing import Any

from cnnjax.analysis.cut import cut
from cnnjax.analysis.program import Path, Program, Step, label, steps
from cnnjax.analysis.receptive_field import Found, ReceptiveField
from cnnjax.analysis.signs import sigmoids_of_positives
from cnnjax.analysis.unread import Unread, unread_maps


@dataclasses.dataclass(frozen=True)
class LayerWarning:
    """Something to look at.

    Attributes:
      layer: path of the module, or "(network)".
      what: is the case, with its numbers.
      why: it matters.
      remedy: what helps.
      source: lines of the lectures, or a paper.
    """

    layer: str
    what: str
    why: str
    remedy: str
    source: str

    def __str__(self) -> str:
        return f"{self.layer}: {self.what}. {self.why} {self.remedy} ({self.source})"


def warnings_of(program: Program, found: Found, batch_size: int | None = None) -> list[LayerWarning]:
    """All warnings that need no computation, for batches of ``batch_size`` in training."""
    convolutions = [step for step in steps(program.equations) if step.equation.primitive.name == "conv_general_dilated"]
    pools = [step for step in steps(program.equations) if step.equation.primitive.name.startswith("reduce_window")]
    warnings = [
        *_saturated(program),
        *(warning for step in [*convolutions, *pools] for warning in _shifted(step)),
        *(_lost(unread) for unread in unread_maps(program)),
        *(warning for step in convolutions for warning in _checkered(step)),
        *_gridded(convolutions, found),
        *_narrow(program, found),
        *_cut(program),
        *(_single(program) if batch_size == 1 else []),
    ]
    return list(dict.fromkeys(warnings))


def _saturated(program: Program) -> list[LayerWarning]:
    return [
        LayerWarning(
            layer=label(path),
            what=f"a sigmoid is taken of values that are never negative{f' (after {before})' if before else ''}",
            why="So it is never below 0.5, and a threshold of 0.5 puts everything into one class.",
            remedy="Leave out the ReLU before the sigmoid.",
            source="S1:1270-1278",
        )
        for path, before in sigmoids_of_positives(program)
    ]


def _shifted(step: Step) -> list[LayerWarning]:
    """Windows of an even side with one more zero at one end than at the other."""
    params, name = step.equation.params, step.equation.primitive.name
    if name == "conv_general_dilated":
        numbers, kernel = params["dimension_numbers"], step.equation.invars[1].aval.shape
        sides = [
            (kernel[axis] - 1) * d + 1 for axis, d in zip(numbers.rhs_spec[2:], params["rhs_dilation"], strict=True)
        ]
        pads, strides, spread = params["padding"], params["window_strides"], params["lhs_dilation"]
    else:
        sides, pads = list(params["window_dimensions"][1:-1]), params["padding"][1:-1]
        strides, spread = params["window_strides"][1:-1], params["base_dilation"][1:-1]
    regular = set(strides) == {1} and set(spread) == {1}
    shifted = [side for side, (low, high) in zip(sides, pads, strict=True) if side % 2 == 0 and low + high == side - 1]
    if not shifted or not regular:
        return []
    pads_text = " and ".join(f"{low} before, {high} behind" for low, high in dict.fromkeys(pads))
    return [
        LayerWarning(
            layer=label(step.path),
            what=f"windows of {'x'.join(map(str, sides))} with SAME padding ({pads_text}) shift the map by half a "
            "pixel",
            why="p = (f - 1) / 2 is a whole number only for odd f.",
            remedy="Use an odd kernel.",
            source="S4:181-183",
        )
    ]


def _lost(unread: Unread) -> LayerWarning:
    """Real rows or columns that no window reads."""
    counts = []
    for axis, name in enumerate(("rows", "columns")):
        if unread.lines[axis]:
            n, p, f, s = unread.sides[axis], unread.padding[axis], unread.window[axis], unread.strides[axis]
            rest = f"n + 2p - f = {n} + {p} - {f} = {n + p - f} leaves {(n + p - f) % s} when divided by the stride {s}"
            gaps = f"windows of {f} every {s} leave gaps"
            counts.append(f"{unread.lines[axis]} of {n} {name} are read by nothing: {gaps if f < s else rest}")
    where = "what comes after it: " if unread.after else ""
    return LayerWarning(
        layer=label(unread.layer),
        what=f"{where}{'; '.join(dict.fromkeys(counts))}",
        why="What stands there has no influence on the output.",
        remedy="Choose size, padding and stride so that the division leaves nothing, and windows no smaller than their "
        "stride.",
        source="S1:814-816, S4:272",
    )


def _checkered(step: Step) -> list[LayerWarning]:
    """Transposed convolutions that write some of their outputs more often than others."""
    params = step.equation.params
    kernel = [step.equation.invars[1].aval.shape[axis] for axis in params["dimension_numbers"].rhs_spec[2:]]
    for k, d, s in zip(kernel, params["rhs_dilation"], params["lhs_dilation"], strict=True):
        written = Counter(tap * d % s for tap in range(k))
        times = {written.get(place, 0) for place in range(s)}
        if len(times) > 1:
            return [
                LayerWarning(
                    layer=label(step.path),
                    what=f"a transposed convolution with a kernel of {k} and stride {s} writes its outputs "
                    f"{min(times)} to {max(times)} times by turns",
                    why="The uneven sums show as a checkerboard.",
                    remedy=f"Use a kernel that is a multiple of the stride, such as {(k // s + 1) * s}, or resize and "
                    "convolve.",
                    source="S3:866-879",
                )
            ]
    return []


def _gridded(convolutions: list[Step], found: Found) -> list[LayerWarning]:
    """A last map whose units skip pixels inside their receptive field, behind dilated kernels."""
    dilated = [step for step in convolutions if max(step.equation.params["rhs_dilation"]) > 1]
    field = _last_field(found)
    if not dilated or field is None or not (field.rows.holes or field.columns.holes):
        return []
    spans = [span for span in (field.rows, field.columns) if span.holes]
    rates = [max(step.equation.params["rhs_dilation"]) for step in dilated]
    return [
        LayerWarning(
            layer=label(dilated[-1].path),
            what=f"dilations {', '.join(map(str, rates))} leave {spans[0].holes} of the {spans[0].extent} pixels "
            "across the receptive field of the last map unread",
            why="Neighbouring units read separate pixels (gridding).",
            remedy="Use dilations without a common divisor, such as 1, 2, 4, or end with a layer without dilation.",
            source="S1:1138-1139; Wang et al. 2018, arXiv:1702.08502",
        )
    ]


def _narrow(program: Program, found: Found) -> list[LayerWarning]:
    """Units that see a part of the image only, and that nothing but an average puts together."""
    maps = [
        output for output in program.outputs if output.asked and len(output.shape) == 4 and max(output.shape[1:3]) > 1
    ]
    image = program.jaxpr.invars[-1].aval.shape[1:3]
    if maps:
        field, how = _last_field(found), "the network puts out a map"
    elif found.joined and found.last and found.joined.field == found.last.field:
        field, how = found.joined.field, "only an average or maximum over the map puts them together"
    else:
        return []
    if field is None or field.whole_image or all(side >= n for side, n in zip(field.size, image, strict=True)):
        return []
    return [
        LayerWarning(
            layer="(network)",
            what=f"a unit of the last map reads {field.size[0]}x{field.size[1]} of {image[0]}x{image[1]} pixels, and "
            f"{how}",
            why="No unit sees the relations between parts of the image that are farther apart.",
            remedy="Use more layers, strides, pooling or dilations, or smaller images.",
            source="S1:1122-1131, S3:170-174",
        )
    ]


def _cut(program: Program) -> list[LayerWarning]:
    """Layers that put out their bias, whatever they read."""
    found = cut(program)
    if not found.layers:
        return []
    several = f" and {len(found.layers) - 1} more" if len(found.layers) > 1 else ""
    lost = ", and no other path leads around it: the output does not depend on the image" if found.whole else ""
    return [
        LayerWarning(
            layer=label(found.layers[0]) + several,
            what=f"a value less the mean of nothing but itself is 0{lost}",
            why="Normalised by itself, a map of one pixel, or a group of one value, becomes the bias alone.",
            remedy="Use larger images or fewer strides, or batch, layer or group normalisation of several channels.",
            source="S3:651-679",
        )
    ]


def _last_field(found: Found) -> ReceptiveField | None:
    return found.last.field if found.last else None


def _single(program: Program) -> list[LayerWarning]:
    """Batch normalisation of batches of one."""
    owners: dict[Path, None] = {}
    for path, call in program.calls.items():
        stats: Any = program.variables.get("batch_stats", {})
        for name in path:
            stats = stats.get(name, {}) if hasattr(stats, "get") else {}
        if call.input and stats and all(hasattr(leaf, "shape") for leaf in stats.values()):
            owners[path] = None
    single = [path for path in owners if max(program.calls[path].input[1:-1], default=1) == 1]
    several = [path for path in owners if path not in single]
    texts = (
        (single, "its statistics are of one value per channel, which is its own mean: it puts out its bias alone"),
        (several, "its statistics are of one image's pixels, {} per channel, as in instance normalisation"),
    )
    return [
        LayerWarning(
            layer=label(paths[0]) + (f" and {len(paths) - 1} more" if len(paths) > 1 else ""),
            what="batch normalisation in training with batches of 1: "
            + text.format("x".join(map(str, program.calls[paths[0]].input[1:-1]))),
            why="Training and evaluation then normalise differently.",
            remedy="Use larger batches, or group or layer normalisation.",
            source="S3:666-690",
        )
        for paths, text in texts
        if paths
    ]
