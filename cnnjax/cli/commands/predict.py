"""The likeliest classes of pictures, with their probabilities.

  cnnjax predict --model=NAME --weights=FILE IMAGE... [--top=5] [--json]

FILE is torchvision's, timm's or Keras's (.pth, .pt, .bin, .safetensors, .npz, a folder with one), an address of the
Hugging Face hub (hf:timm/NAME), or our own, of weights.save or cnnjax convert, which says its network itself. An IMAGE
may be a folder: all images in it. Images are prepared as the weights ask; flags change that. Classes have the names in
our own file, in timm's config.json or in --classes, else their numbers.

examples:
  cnnjax predict --model=resnet50 --weights=resnet50-11ad3fa6.pth cat.jpg
  cnnjax predict --model=efficientnet_b0 --weights=hf:timm/efficientnet_b0.ra_in1k --classes=imagenet.txt pictures/
  cnnjax predict --weights=mine.safetensors --top=1 --json cat.jpg dog.jpg
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from cnnjax.cli import weights_flags
from cnnjax.cli.arguments import Arguments
from cnnjax.strict_json import encode

if TYPE_CHECKING:
    import numpy as np


def define(arguments: Arguments, argv: list[str]) -> None:
    """Defines the flags.

    Raises:
      UsageError: there is no network of that name.
    """
    arguments.add("weights", str, None, "file of the weights, or its hf: address")
    arguments.add("top", int, 5, "number of classes to show for each image", lower_bound=1)
    arguments.add("json", bool, False, "print the classes as JSON")
    weights_flags.define(arguments, argv)


def run(arguments: Arguments) -> None:
    """Prints the classes.

    Raises:
      UsageError: no weights or images are given, they cannot be read or do not fit each other, or the network's output
        for an image is not finite.
    """
    from cnnjax.cli import pretrained
    from cnnjax.cli.bar import bar
    from cnnjax.cli.inference import opened, prepared, probabilities
    from cnnjax.tables import show
    from cnnjax.typing import UsageError

    if not arguments.weights:
        raise UsageError("Give the weights: --weights=FILE or --weights=hf:organisation/repository.")
    paths = _paths(arguments.positional)
    found = pretrained.read(arguments, arguments.weights)
    steps, classes = pretrained.check(found)
    names = found.class_names or tuple(map(str, range(classes)))

    def prepare(number: int) -> "np.ndarray":
        return prepared(str(paths[number]), lambda: (opened(paths[number]), 0), steps)[0]

    with bar(len(paths), "images") as listen:
        shares = probabilities(
            found.model, found.variables, prepare, len(paths), steps.image_shape, listen, lambda n: str(paths[n])
        )
    rows = [
        {"image": str(path), "classes": likeliest(share, names, arguments.top)}
        for path, share in zip(paths, shares, strict=True)
    ]
    if arguments.json:
        print(encode(rows, indent=1))
    else:
        show(_table(rows, names), pretrained.described(steps))


def likeliest(share: "np.ndarray", names: tuple[str, ...], count: int) -> list[dict[str, Any]]:
    """The ``count`` largest probabilities (classes,): ``class``, ``index`` and ``probability`` of each."""
    order = (-share).argsort(kind="stable")[:count].tolist()
    return [{"class": names[index], "index": index, "probability": float(share[index])} for index in order]


def _paths(given: list[str]) -> list[Path]:
    """The images themselves and those in folders; their headers are read, so that a wrong name is told at once."""
    from cnnjax.cli.inference import opened
    from cnnjax.data import layout
    from cnnjax.typing import UsageError

    if not given:
        raise UsageError("Name at least one image, or a folder of images.")
    paths = []
    for path in map(Path, given):
        paths += [path / image for image in layout.images(path, path)] if path.is_dir() else [path]
    for path in paths:
        opened(path).close()
    return paths


def _table(rows: list[dict[str, Any]], names: tuple[str, ...]) -> Any:
    from rich.table import Table

    from cnnjax.tables import cell

    table = Table()
    table.add_column("image", overflow="fold")
    table.add_column("class", overflow="fold")
    table.add_column("probability", justify="right", no_wrap=True)
    for row in rows:
        for place, item in enumerate(row["classes"]):
            last = place == len(row["classes"]) - 1
            image, share = "" if place else row["image"], f"{100 * item['probability']:.2f} %"
            table.add_row(cell(image), cell(_label(item, names)), share, end_section=last)
    return table


def _label(item: dict[str, Any], names: tuple[str, ...]) -> str:
    """The class's name, with its number where several have that name."""
    return item["class"] if names.count(item["class"]) == 1 else f"{item['class']} (class {item['index']})"
