"""One network, layer by layer: output, parameters, work, memory, receptive field, and what may be wrong with it.

  cnnjax summary NAME [--input=H,W,C | --image_size=PIXELS] [--depth=LEVELS] [--json] [--figure=FILE.png]
                      [--batch_size=N] [--units] [--FIELD=VALUE ...]

NAME is a network of this package, or MODULE:NAME of a Linen module of your own: a class, an object, or a function that
returns one; MODULE is found from the current directory. FIELD is a field of the network; ``cnnjax summary NAME --help``
lists them. Where a field is called like one of the first flags, as ``depth`` is, write --model.FIELD.

Nothing is trained, and nothing computed but a few random images to count dead units, channels that are zero everywhere:
where that takes about a second, or --units asks for it. A multiplication with its addition counts as one multiply-add;
XLA counts both, and additions, activations and pooling, but not what is multiplied by padding. Memory is of the program
as it is written; XLA may need less.

examples:
  cnnjax summary lenet5
  cnnjax summary vgg16 --image_size=64 --num_classes=10 --norm=batch
  cnnjax summary resnet20_cifar --depth=1 --model.depth=56 --figure=resnet56.png
  cnnjax summary mine.networks:Small --input=28,28,1 --width=32 --units
"""

from typing import Any

from cnnjax.cli.arguments import Arguments
from cnnjax.strict_json import encode


def define(arguments: Arguments, argv: list[str]) -> None:
    """Defines the flags; those of the network's fields where it is named.

    Raises:
      UsageError: there is no network of that name.
    """
    arguments.add("input", str, None, "shape of one input, such as 224,224,3; by default as published")
    arguments.add("image_size", int, None, "height and width of the image in pixels; by default as published",
                  lower_bound=1)  # fmt: skip
    arguments.add("depth", int, 2, "levels of modules to show; deeper ones count with those that hold them; 0 is all",
                  lower_bound=0)  # fmt: skip
    arguments.add("batch_size", int, None, "images at once, for memory and warnings", lower_bound=1)
    arguments.add("units", bool, None, "count dead units at initialisation; by default where that is quick")
    arguments.add("json", bool, False, "print everything as JSON")
    arguments.add("figure", str, None, "write a figure of the layers to this file")
    if names := arguments.unflagged(argv):
        from cnnjax import models
        from cnnjax.cli.network import define_fields

        known = (name for name in names if name in models.MODELS or ":" in name)
        define_fields(arguments, next(known, names[0]), short=True, own=True)


def run(arguments: Arguments) -> None:
    """Prints the tables or the JSON, and writes the figure.

    Raises:
      UsageError: no network is named, or it cannot take such images.
    """
    from cnnjax import analysis
    from cnnjax.cli.network import created, input_shape
    from cnnjax.typing import UsageError

    if not arguments.at_most(1):
        raise UsageError("Name a network, such as lenet5; cnnjax models lists all.")
    name = arguments.positional[0]
    model = created(name, arguments)
    shape = input_shape(name, model, arguments.input, arguments.image_size)
    found = analysis.summarize(model, shape, arguments.depth, batch_size=arguments.batch_size, units=arguments.units)
    if arguments.figure:
        _draw(found, name, arguments.figure)
    if arguments.json:
        print(encode({"name": name, **found.to_json()}, indent=1))
    else:
        _show(found, name, model)


def _draw(found: Any, name: str, path: str) -> None:
    from cnnjax.report.anatomy import figure
    from cnnjax.typing import UsageError

    try:
        figure(found.to_json(), name).savefig(path, dpi=100)
    except (OSError, ValueError) as error:
        raise UsageError(f"--figure={path} cannot be written: {error}") from error


def _show(found: Any, name: str, model: Any) -> None:
    from cnnjax.analysis.text import parts
    from cnnjax.cli.network import values
    from cnnjax.console import Console
    from cnnjax.tables import show

    show(*parts(found, name), console=Console(markup=False))
    print("fields:")
    print("\n".join(f"  {field} = {getattr(value, '__name__', value)}" for field, value in values(model).items()))
