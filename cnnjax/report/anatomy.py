"""A figure of one network's layers in order of depth: parameters, work, memory and receptive field."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cnnjax.report.style import COLOURS, FAINT, WIDTH, foot, settings

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

NAMED = 45  # layers whose names are legible side by side; of more, every second or third is named
NAME_LENGTH = 26
WITHOUT_WORK = 0.002  # layers below this fraction of everything are bars that nobody sees


def figure(analysis: Mapping[str, Any], name: str) -> "matplotlib.figure.Figure":
    """Four panels above each other, one bar or point for each layer.

    Normalisations and the like, whose output is as large as that of the layer before them and which have next to no
    parameters and work, are left out where there are more than ``NAMED`` layers.

    Args:
      analysis: as from ``analysis.Analysis.to_json``.
      name: of the network, for the title.
    """
    from matplotlib.figure import Figure

    with settings():
        layers = _shown(analysis)
        drawn = Figure(figsize=(WIDTH, 9.5), layout="constrained")
        axes = list(drawn.subplots(4, 1, sharex=True, height_ratios=(1, 1, 1, 1.2)))
        _bars(axes[0], [layer["parameters"] for layer in layers], "parameters", COLOURS[0])
        _bars(axes[1], [layer["multiply_adds"] for layer in layers], "multiply-adds", COLOURS[1])
        half = [layer["operations"] / 2 for layer in layers]
        axes[1].plot(range(len(half)), half, "_", color="black", markersize=6, label="half of XLA's operations")
        axes[1].legend(loc="lower right", bbox_to_anchor=(1, 0.97))
        _bars(axes[2], [layer["output_bytes"] for layer in layers], "bytes of output", COLOURS[2])
        _fields(axes[3], layers, analysis["input_shape"])
        _name_layers(axes[3], [layer["name"] + _times(layer) for layer in layers])
        shape = "x".join(map(str, analysis["input_shape"]))
        drawn.suptitle(f"{name} on {shape}", fontsize=12)
        left_out = len(analysis["layers"]) - len(layers)
        foot(drawn, _note(analysis, left_out))
    return drawn


def _shown(analysis: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    layers = analysis["layers"]
    if len(layers) <= NAMED:
        return layers
    totals = {key: max(1, analysis[key]) for key in ("parameters", "multiply_adds")}
    return [
        layer
        for before, layer in zip([{"output": None}, *layers], layers, strict=False)
        if layer["output"] != before["output"] or any(layer[key] > WITHOUT_WORK * totals[key] for key in totals)
    ]


def _bars(ax: "matplotlib.axes.Axes", values: Sequence[float], label: str, colour: str) -> None:
    from matplotlib.ticker import EngFormatter

    ax.bar(range(len(values)), values, color=colour, width=0.8)
    ax.yaxis.set_major_formatter(EngFormatter(sep=""))
    ax.set_ylabel(label)
    ax.grid(visible=False, axis="x")


def _fields(ax: "matplotlib.axes.Axes", layers: Sequence[Mapping[str, Any]], input_shape: Sequence[int]) -> None:
    """Receptive fields of maps, up to where a unit reads the whole image."""
    fields = [layer["field"] for layer in layers]
    known = [(place, max(field["size"])) for place, field in enumerate(fields) if field and not field["whole_image"]]
    whole = [place for place, field in enumerate(fields) if field and field["whole_image"]]
    ax.set_ylabel("receptive field, pixels")
    if known:
        places, sizes = zip(*known, strict=True)
        ax.plot(places, sizes, "o-", color=COLOURS[3], markersize=4)
    if known and len(input_shape) == 3:
        side = max(input_shape[:2])
        ax.axhline(side, color=FAINT, linestyle="--", linewidth=1.2)
        ax.annotate("image", (0, side), xytext=(2, 3), textcoords="offset points", color=FAINT, fontsize=9)
        ax.plot(whole, [side] * len(whole), "s", color=COLOURS[3], markerfacecolor="white", markersize=4,
                label="reads the whole image")  # fmt: skip
        if whole:
            ax.legend(loc="lower right", bbox_to_anchor=(1, 0.97))
        ax.set_ylim(0, None)
    if not known:
        ax.text(0.5, 0.5, "no maps, or every unit reads the whole image", ha="center", transform=ax.transAxes)
        ax.set_yticks([])
    ax.grid(visible=False, axis="x")


def _name_layers(ax: "matplotlib.axes.Axes", names: Sequence[str]) -> None:
    step = max(1, math.ceil(len(names) / NAMED))
    texts = [name if len(name) <= NAME_LENGTH else f"...{name[3 - NAME_LENGTH :]}" for name in names]
    ax.set_xticks(range(0, len(names), step), texts[::step], rotation=90, fontsize=8 if len(names) > 20 else 9)
    ax.set_xlim(-0.7, len(names) - 0.3)
    ax.set_xlabel("layers, in the order of their calls")


def _times(layer: Mapping[str, Any]) -> str:
    return f" x{layer['repeats']}" if layer["repeats"] > 1 else ""


def _note(analysis: Mapping[str, Any], left_out: int) -> str:
    note = (
        f"{analysis['parameters']:,} parameters, {analysis['multiply_adds']:,} multiply-adds of one image. Activations "
        f"of one image: {analysis['inference_bytes'] / 1e6:,.3g} MB at once for inference, "
        f"{analysis['training_bytes'] / 1e6:,.3g} MB kept for the backward pass."
    )
    if left_out:
        note += f" {left_out} layers without much of their own, such as normalisations, are not shown."
    return note
