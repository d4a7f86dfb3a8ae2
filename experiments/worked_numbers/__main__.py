"""Every worked number of the lectures, computed and compared with what they print; and their errata.

  python -m experiments.worked_numbers [ROW or WORD] [--flags]

examples:
  python -m experiments.worked_numbers                  all of them
  python -m experiments.worked_numbers --lecture=S4     those of one deck
  python -m experiments.worked_numbers --errata         what the decks have wrong, and what is right
  python -m experiments.worked_numbers 274              one row
  python -m experiments.worked_numbers sobel            those that speak of it
  python -m experiments.worked_numbers --list           rows, lines and statements

verdicts: agrees; erratum: the lecture prints something else, which is shown; open: it prints no answer; stated: no
computation can tell the fact, and only its arithmetic is done; differs: what is computed is not what is right

exit codes: 0 done, 1 a number differs, 2 bad input, 141 nobody reads
"""

import sys

from experiments.worked_numbers.command import main

if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:], __doc__ or ""))
