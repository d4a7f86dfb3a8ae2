"""The ledger: every claim of every experiment, the rule that judges it, and its last verdict.

examples:
  python -m experiments                                 every claim, with effect, interval, n and age
  python -m experiments --only=degradation              those of one experiment
  python -m experiments --json                          the same in the form of verdict.json
  python -m experiments --run-missing --plan            how long the missing verdicts may take
  python -m experiments --run-missing --preset=quick    run them; Ctrl-C stops, the same command resumes
  python -m experiments --report                        one HTML page with all verdicts and figures
  python -m experiments --lectures                      how many rows of the lectures work, by kind

exit codes: 0 done, 1 an experiment failed, 2 bad input, 130 interrupted, 141 nobody reads
"""

import sys

from cnnjax.cli.ledger import main

if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:], __doc__ or ""))
