"""The command line: the only place with flags, and the only one that prints."""

from cnnjax.cli.experiment import main

__all__ = ["main"]
