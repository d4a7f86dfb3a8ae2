"""``python -m cnnjax`` is the command ``cnnjax``."""

from cnnjax.cli.command import main

if __name__ == "__main__":
    raise SystemExit(main())
