"""Flags of the subcommands that read weights. ``pretrained`` reads what they say; this file imports fast, for help."""

from cnnjax.cli.arguments import Arguments


def define(arguments: Arguments, argv: list[str]) -> None:
    """Flags for the network with its fields, for the classes and for the preprocessing.

    Raises:
      UsageError: there is no network of the name that ``argv`` has.
    """
    arguments.add("model", str, None, "name of the network; our own files say it themselves")
    arguments.add("classes", str, None, "file with the name of a class in each line, in the order of the outputs")
    arguments.add("resize", int, None, "shorter side of the resized image in pixels, in place of what the weights ask",
                  lower_bound=1)  # fmt: skip
    arguments.add("crop", int, None, "side of the square that is cut out of it", lower_bound=1)
    arguments.add("mean", tuple, None, "subtracted from each channel's values in [0, 1], such as 0.485,0.456,0.406")
    arguments.add("std", tuple, None, "that they are divided by")
    arguments.add("interpolation", str, None, "of the resizing: nearest, bilinear, bicubic or lanczos")
    arguments.add(
        "channels", str, None, "order in which the network reads them, RGB or BGR; mean and std are in this order"
    )
    arguments.add(
        "check_architecture", bool, True, "refuse a file whose name or configuration says another architecture"
    )
    arguments.unflagged(argv)
    if arguments.model is not None:
        from cnnjax.cli.network import define_fields

        define_fields(arguments, arguments.model)
