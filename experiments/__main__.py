"""The ledger: every claim of every experiment, with its last verdict.

python -m experiments              a table
python -m experiments --json       the same in the form of verdict.json
python -m experiments --lectures   how many rows of the lectures work, by kind
"""

import sys

from cnnjax.cli.ledger import main

if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:], __doc__ or ""))
