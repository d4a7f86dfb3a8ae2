"""The worked numbers of the lectures, computed: rows 193-280 of ``lectures.csv``, and its errata, rows 351-381.

Every entry computes its value from the lecture's own numbers with this package's code, and holds what is right and
what the lecture prints. ``python -m experiments.worked_numbers`` says of each whether they agree.

- ``s0`` to ``s4``: the numbers, one module for each deck (a row of two decks stands with the first it cites);
- ``errata``: what the decks have wrong; ``as_printed``: their wrong formulas, as functions;
- ``number``: what an entry is, and its verdict; ``values``: how values are compared and printed;
- ``layers``: shapes, parameters and receptive fields of single layers and small stacks of them;
- ``command``: the table.
"""
