"""One network, layer by layer: output, parameters, multiply-adds of one image, receptive field.

  cnnjax summary NAME [--image_size=PIXELS] [--depth=LEVELS] [--FIELD=VALUE ...]

FIELD is a field of the network; ``cnnjax summary NAME --help`` lists them. Where a field is called like one of the
first flags, as ``depth`` is, write --model.FIELD. A layer that is called like an endpoint shows the endpoint's
receptive field; a table of its own has all endpoints that are maps.

examples:
  cnnjax summary lenet5
  cnnjax summary vgg16 --image_size=64 --num_classes=10 --norm=batch
  cnnjax summary resnet20_cifar --depth=1 --model.depth=56
"""

from typing import Any

from cnnjax.cli.arguments import Arguments


def define(arguments: Arguments, argv: list[str]) -> None:
    """Defines the flags; those of the network's fields where it is named.

    Raises:
      UsageError: there is no network of that name.
    """
    arguments.add("image_size", int, None, "height and width of the image in pixels; by default as published",
                  lower_bound=1)  # fmt: skip
    arguments.add("depth", int, 2, "levels of modules to show; deeper ones count with those that hold them; 0 is all",
                  lower_bound=0)  # fmt: skip
    if names := arguments.unflagged(argv):
        from cnnjax import models
        from cnnjax.cli.network import define_fields

        define_fields(arguments, next((name for name in names if name in models.MODELS), names[0]), short=True)


def run(arguments: Arguments) -> None:
    """Prints the tables.

    Raises:
      UsageError: no network is named, or it cannot take such images.
    """
    from cnnjax import analysis
    from cnnjax.cli.network import created, image_shape
    from cnnjax.cli.tables import show, sides
    from cnnjax.typing import UsageError

    if not arguments.at_most(1):
        raise UsageError("Name a network, such as lenet5; cnnjax models lists all.")
    name = arguments.positional[0]
    model = created(name, arguments)
    shape = image_shape(name, model, arguments.image_size)
    layers = analysis.summary(model, shape, arguments.depth)
    fields = analysis.receptive_fields(model, shape)
    tables = [_layer_table(layers, fields), *([_map_table(fields)] if fields else [])]
    show(f"[bold]{name}[/bold] on {sides(shape)}", *tables)
    print(_fields_text(name, model))


def _layer_table(layers: list[Any], fields: dict[str, Any]) -> Any:
    from rich.table import Table

    from cnnjax.cli.tables import sides

    table = Table(show_footer=True)
    totals = {name: sum(getattr(layer, name) for layer in layers) for name in ("parameters", "multiply_adds")}
    table.add_column("layer", footer="all", overflow="fold")
    table.add_column("kind", no_wrap=True)
    table.add_column("output", justify="right", no_wrap=True)
    table.add_column("parameters", footer=f"{totals['parameters']:,}", justify="right", no_wrap=True)
    table.add_column("multiply-adds", footer=f"{totals['multiply_adds']:,}", justify="right", no_wrap=True)
    shown = any(layer.name in fields for layer in layers)
    if shown:
        table.add_column("receptive\nfield", justify="right", no_wrap=True)
    for layer in layers:
        field = fields.get(layer.name)
        table.add_row(
            layer.name, layer.kind, sides(layer.output), f"{layer.parameters:,}", f"{layer.multiply_adds:,}",
            *([_size(field) if field else ""] if shown else []),
        )  # fmt: skip
    return table


def _map_table(fields: dict[str, Any]) -> Any:
    from rich.table import Table

    from cnnjax.cli.tables import square

    table = Table("endpoint")
    for title in ("receptive field", "stride", "first pixel"):
        table.add_column(title, justify="right")
    for name, field in fields.items():
        stride, start = ("", "") if field.whole_image else (square(field.stride), square(field.start))
        table.add_row(name, _size(field), stride, start)
    return table


def _size(field: Any) -> str:
    from cnnjax.cli.tables import square

    return "whole image" if field.whole_image else square(field.size)


def _fields_text(name: str, model: Any) -> str:
    from cnnjax.cli.network import values

    shown = (f"  {field} = {getattr(value, '__name__', value)}" for field, value in values(model, name).items())
    return "\n".join(["fields:", *shown])
