"""Arguments of a command: flags of absl, what they are called in help, and errors that name the nearest."""

import contextlib
import math
import textwrap
from collections.abc import Callable, Iterable
from typing import Any

from absl import flags


class _FiniteParser(flags.FloatParser):
    """Numbers that are numbers: ``nan`` lies in no range and out of none."""

    def convert(self, argument: Any) -> float:
        value = super().convert(argument)
        if not math.isfinite(value):
            raise ValueError("it must be a finite number")
        return value


def _define_float(
    name: str,
    default: float | None,
    help: str,
    lower_bound: float | None = None,
    upper_bound: float | None = None,
    **options: Any,
) -> None:
    """As absl's DEFINE_float, for finite numbers."""
    flags.DEFINE(_FiniteParser(lower_bound, upper_bound), name, default, help, **options)


HELP = ("--help", "-h", "-help", "--h")
DEFINE: dict[type, Callable[..., Any]] = {
    bool: flags.DEFINE_boolean,
    int: flags.DEFINE_integer,
    float: _define_float,
    tuple: flags.DEFINE_list,
    str: flags.DEFINE_string,
}


class Arguments:
    """Flags and positional arguments of a subcommand.

    Attributes:
      values: absl's flags.
      names: of the flags, in the order of the help.
      positional: what is left after ``parse``.
    """

    def __init__(self):
        self.values = flags.FlagValues()
        self.values.set_gnu_getopt(True)  # flags may follow positional arguments
        self.names: list[str] = []
        self.positional: list[str] = []

    def add(self, name: str, kind: type, default: Any, help_text: str, **options: Any) -> None:
        """A flag of one type of ``DEFINE``."""
        DEFINE[kind](name, default, help_text, flag_values=self.values, **options)
        self.names.append(name)

    def choice(self, name: str, default: str | None, choices: Iterable[str], help_text: str) -> None:
        """A flag with a few possible values."""
        flags.DEFINE_enum(name, default, list(choices), help_text, flag_values=self.values)
        self.names.append(name)

    def alias(self, name: str, of: str) -> None:
        """Another name of a flag; help does not show it."""
        flags.DEFINE_alias(name, of, flag_values=self.values)

    def parse(self, argv: list[str]) -> None:
        """Reads the arguments after the subcommand's name.

        Raises:
          UsageError: an unknown flag or a value that does not fit.
        """
        self.positional = parsed(self.values, argv, self.names)

    def unflagged(self, argv: list[str]) -> list[str]:
        """What is left beside the flags defined so far: positional arguments, unknown flags and their values."""
        left = argv
        with contextlib.suppress(flags.Error):  # ``parse`` says it
            left = self.values(["", *argv], known_only=True)[1:]
        return [argument for argument in left if not argument.startswith("-")]

    def at_most(self, count: int) -> list[str]:
        """The positional arguments.

        Raises:
          UsageError: there are more than ``count``.
        """
        from cnnjax.typing import UsageError

        if len(self.positional) > count:
            raise UsageError(f"Unexpected argument {self.positional[count]!r}: every setting is a flag, --name=value.")
        return self.positional

    def given(self, prefix: str) -> dict[str, Any]:
        """Name, without the prefix, -> value of every flag given whose name begins with the prefix."""
        return {
            name.removeprefix(prefix): as_static(self.values[name].value)
            for name in self.names
            if name.startswith(prefix) and self.values[name].present
        }

    def __getattr__(self, name: str) -> Any:
        return self.values[name].value


def parsed(values: flags.FlagValues, argv: list[str], names: Iterable[str]) -> list[str]:
    """Gives the flags their values, and returns the other arguments.

    Args:
      values: absl's flags.
      argv: without the program's name.
      names: of the flags that an error may suggest.

    Raises:
      UsageError: an unknown flag or a value that does not fit.
    """
    from cnnjax.typing import UsageError, unknown

    try:
        return list(values(["", *argv])[1:])
    except flags.UnrecognizedFlagError as error:
        raise unknown("flag", f"--{error.flagname}", [f"--{name}" for name in names]) from error
    except flags.Error as error:
        raise UsageError(str(error)) from error


def as_static(value: Any) -> Any:
    """Lists become tuples, of numbers where they hold numbers: specs are hashable."""
    if not isinstance(value, list):
        return value
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return tuple(map(kind, value))
    return tuple(value)


def help_lines(values: flags.FlagValues, names: Iterable[str]) -> list[str]:
    """The flags as help shows them: ``--name   what it is [default]``."""
    lines: list[str] = []
    for name in names:
        flag = values[name]
        default = "" if flag.default in (None, [], False) else f" [{flag.default}]"
        text = " ".join((flag.help or "").removesuffix("repeat this option to specify a list of values").split())
        lines += textwrap.wrap(
            f"{text.rstrip(';')}{default}", 100, initial_indent=f"  --{name:24s} ", subsequent_indent=" " * 29
        )
    return lines
