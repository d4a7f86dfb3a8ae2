"""An analysis as tables and lines of text."""

import io
from typing import Any

from cnnjax.tables import show, sides, size, square


def text(found: Any, name: str = "") -> str:
    """Everything that ``analysis.summarize`` found, for people to read; columns are two spaces apart."""
    from cnnjax.console import Console

    stream = io.StringIO()
    show(*parts(found, name or found.model), console=Console(file=stream, markup=False))
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines())


def parts(found: Any, title: str) -> list[Any]:
    """Texts and rich's tables, one below the other, to be printed without markup: a user's names may have brackets."""
    from rich.text import Text

    warnings = ["warnings:", *(f"  {warning}" for warning in found.warnings)] if found.warnings else ["no warnings"]
    return [
        Text.assemble((title, "bold"), f" on {sides(found.input_shape)}"),
        _layer_table(found),
        *([_map_table(found.maps)] if found.maps else []),
        *_memory(found),
        f"dead units: {found.units}",
        *_coverage(found.coverage),
        *_overlaps(found.overlaps),
        *warnings,
    ]


def _layer_table(found: Any) -> Any:
    from rich.table import Table

    table = Table(show_footer=True)
    table.add_column("layer", footer="all", overflow="fold")
    table.add_column("kind", no_wrap=True)
    table.add_column("output", justify="right", no_wrap=True)
    for title, total in (
        ("parameters", found.parameters),
        ("multiply-adds", found.multiply_adds),
        ("operations\n(XLA)", found.operations),
    ):
        table.add_column(title, footer=f"{total:,}", justify="right", no_wrap=True)
    table.add_column("output\nmemory", justify="right", no_wrap=True)
    fields = any(layer.field for layer in found.layers)
    dead = any(layer.dead for layer in found.layers)
    for title in (["receptive\nfield", "stride", "first\npixel"] if fields else []) + (["dead"] if dead else []):
        table.add_column(title, justify="right", no_wrap=True)
    for layer in found.layers:
        table.add_row(
            layer.name, layer.kind + (f" x{layer.repeats}" if layer.repeats > 1 else ""), sides(layer.output),
            f"{layer.parameters:,}", f"{layer.multiply_adds:,}", f"{layer.operations:,}", size(layer.output_bytes),
            *(_field(layer.field) if fields else ()), *([_dead(layer.dead)] if dead else ()),
        )  # fmt: skip
    return table


def _map_table(fields: dict[str, Any]) -> Any:
    from rich.table import Table

    table = Table("endpoint")
    for title in ("receptive field", "stride", "first pixel"):
        table.add_column(title, justify="right")
    for name, field in fields.items():
        table.add_row(name, *_field(field))
    return table


def _field(field: Any) -> tuple[str, str, str]:
    if field is None:
        return "", "", ""
    if field.whole_image:
        return "whole image", "", ""
    return square(field.size), square(field.stride), square(field.start)


def _dead(dead: tuple[int, int] | None) -> str:
    return "" if dead is None else f"{dead[0]} of {dead[1]}"


def _memory(found: Any) -> list[str]:
    lines = [
        f"parameters: {size(4 * found.parameters)} of float32",
        f"activations of one image: {size(found.inference_bytes)} at once for inference, "
        f"{size(found.training_bytes)} kept for the backward pass",
    ]
    if found.batch_size:
        inference, training = (size(found.batch_size * n) for n in (found.inference_bytes, found.training_bytes))
        lines.append(
            f"activations of a batch of {found.batch_size}: {inference} for inference, {training} for training"
        )
    return lines


def _coverage(coverage: Any) -> list[str]:
    """How often the image's pixels are read by the last map."""
    if coverage is None or coverage.field.whole_image:
        return []
    rows, columns = coverage.rows, coverage.columns
    return [
        f"units of the last map ({sides(coverage.sides)}) that read a pixel: {rows[0] * columns[0]} in the corner, "
        f"{rows[len(rows) // 2] * columns[len(columns) // 2]} in the middle"
    ]


def _overlaps(overlaps: dict[str, Any]) -> list[str]:
    """How often transposed convolutions write their outputs, away from the border."""
    lines = []
    for name, found in overlaps.items():
        rows, columns = (sorted(set(counts[len(counts) // 4 : -(len(counts) // 4) or None])) for counts in found)
        least, most = rows[0] * columns[0], rows[-1] * columns[-1]
        times = f"{least} to {most} times" if least < most else f"{least} times each"
        lines.append(f"outputs of the transposed convolution {name} are written {times}, away from the border")
    return lines
