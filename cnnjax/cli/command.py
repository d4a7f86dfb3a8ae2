"""The networks of the package from the shell: what there is, what is in it, and what it says of pictures.

  cnnjax SUBCOMMAND [arguments] [--flags]

{subcommands}
examples:
  cnnjax models 'resnet*'
  cnnjax summary vgg16 --image_size=224
  cnnjax predict --model=resnet50 --weights=resnet50.pth cat.jpg dog.jpg
  cnnjax evaluate --model=resnet50 --weights=resnet50.pth --data=folder:imagenet --split=valid
  cnnjax convert resnet50.pth --model=resnet50 --to=resnet50.safetensors
  cnnjax status runs --follow
  cnnjax compare runs/gridding experiments/results/gridding
  cnnjax rerun experiments/results/gridding 0859

``cnnjax SUBCOMMAND --help`` lists a subcommand's flags. Experiments are run by ``python -m experiments``.

exit codes: 0 done, 1 (compare, rerun) bits differ, 2 bad input (nothing is written), 130 interrupted, 141 nobody reads
"""

import importlib
import sys

from cnnjax import __version__
from cnnjax.cli.arguments import HELP, Arguments, help_lines
from cnnjax.cli.ending import ended
from cnnjax.interrupt import stoppable
from cnnjax.text import printable

SUBCOMMANDS = {
    "models": "every network: year, parameters, multiply-adds, receptive field",
    "summary": "one network, layer by layer",
    "predict": "the likeliest classes of pictures",
    "evaluate": "error and loss of weights on a dataset",
    "status": "how far sweeps are: runs done, running and failed, and when they end",
    "compare": "two sweeps run by run: whether their bits agree, and why not",
    "rerun": "one run again, and whether its bits agree",
    "convert": "weights from torchvision's and timm's files to our format, and back",
}


def main(argv: list[str] | None = None) -> int:
    """Runs a subcommand and returns the exit code: see the top of this file.

    Args:
      argv: arguments without the program's name; ``sys.argv`` by default.
    """
    name, *rest = (sys.argv[1:] if argv is None else argv) or ["--help"]
    label = f"cnnjax {name}" if name in SUBCOMMANDS else "cnnjax"
    return ended(label, lambda: _outcome(label, name, rest))


def _outcome(label: str, name: str, argv: list[str]) -> int:
    """The exit code of a subcommand, for whatever it may raise."""
    try:
        with stoppable():
            return _run(name, argv)
    except ValueError as error:
        from cnnjax.typing import UsageError  # imports JAX, which help does not need

        if not isinstance(error, UsageError):
            raise
        print(f"{label}: {printable(' '.join(str(error).split(chr(10))))}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{label}: stopped.", file=sys.stderr)
        return 130


def _run(name: str, argv: list[str]) -> int:
    if name in HELP:
        listed = "".join(f"  {name:10s} {text}\n" for name, text in SUBCOMMANDS.items())
        print((__doc__ or "").format(subcommands=listed), end="")
        return 0
    if name == "--version":
        print(__version__)
        return 0
    if name not in SUBCOMMANDS:
        from cnnjax.typing import unknown

        raise unknown("subcommand", name, SUBCOMMANDS)
    module, arguments = importlib.import_module(f"cnnjax.cli.commands.{name}"), Arguments()
    settings = [argument for argument in argv if argument not in HELP]
    module.define(arguments, settings)
    if settings == argv:
        arguments.parse(argv)
        return module.run(arguments) or 0
    flags = help_lines(arguments.values, arguments.names)
    print("\n".join([(module.__doc__ or "").strip(), "", "flags, with their defaults in [brackets]:", *flags]))
    return 0
