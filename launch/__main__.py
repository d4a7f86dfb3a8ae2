"""``python -m launch``: see ``launch.command``."""

import sys

from launch.command import main

if __name__ == "__main__":
    sys.exit(main())
