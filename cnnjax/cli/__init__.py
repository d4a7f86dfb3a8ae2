"""The command line: the only place with flags, and the only one that prints."""

from types import ModuleType


def main(experiment: ModuleType | str, argv: list[str] | None = None) -> int:
    """Runs an experiment with the command line's arguments; see ``cnnjax.cli.experiment``."""
    from cnnjax.cli.experiment import main as run  # takes a second, which ``cnnjax --help`` does not need

    return run(experiment, argv)
