"""Every network: year, parameters, multiply-adds of one image, and the receptive field of the last map.

  cnnjax models [PATTERN] [--json]

PATTERN is a part of the name, or a shell pattern with *, ? or [...]. A multiplication with its addition counts as
one. The receptive field is the side of the square of pixels that one unit of the last map reads, then the distance
between neighbouring units; where squeeze-and-excitation or the like mixes all pixels, it is the whole image. The first
call traces the networks, all of them in about half a minute; later ones read the counts from the cache
(~/.cache/cnnjax, or CNNJAX_CACHE) until the package's source changes.

examples:
  cnnjax models
  cnnjax models vgg
  cnnjax models 'resnet[0-9]*_cifar' --json
"""

import fnmatch
from typing import Any

from cnnjax.cli.arguments import Arguments
from cnnjax.strict_json import encode


def define(arguments: Arguments, argv: list[str]) -> None:
    """Defines the flags."""
    arguments.add("json", bool, False, "print the rows as JSON")


def run(arguments: Arguments) -> None:
    """Prints the table.

    Raises:
      UsageError: no network has such a name.
    """
    from cnnjax.cli.bar import bar
    from cnnjax.cli.census import census

    names = matching(arguments.at_most(1))
    with bar(len(names), "networks") as listen:
        rows = census(names, listen)
    if arguments.json:
        print(encode(rows, indent=1))
    else:
        from cnnjax.tables import show

        show(table_of(rows))


def matching(patterns: list[str]) -> list[str]:
    """The names that the pattern fits, or all without one.

    Raises:
      UsageError: it fits none.
    """
    from cnnjax import models
    from cnnjax.typing import unknown

    if not patterns:
        return list(models.MODELS)
    pattern = patterns[0] if set(patterns[0]) & set("*?[") else f"*{patterns[0]}*"
    names = fnmatch.filter(models.MODELS, pattern)
    if not names:
        raise unknown("model", patterns[0], models.MODELS)
    return names


def table_of(rows: list[dict[str, Any]]) -> Any:
    """The rows of ``census`` as a table of rich."""
    from rich.table import Table

    from cnnjax.tables import sides

    table = Table()
    table.add_column("model", no_wrap=True)
    for title in ("year", "input", "parameters", "multiply-adds", "receptive\nfield"):
        table.add_column(title, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(
            row["name"], str(row["year"]), sides(row["image_shape"]), f"{row['parameters']:,}",
            f"{row['multiply_adds']:,}", _field(row["receptive_field"]),
        )  # fmt: skip
    return table


def _field(field: dict[str, Any] | None) -> str:
    from cnnjax.tables import square

    if field is None:
        return "no map"
    return "whole image" if field["whole_image"] else f"{square(field['size'])} / {square(field['stride'])}"
