"""cnnjax: ablations of convolutional networks, executable, exact and fast.

An ablation is a pure function of (static spec, traced hyperparameters, seed); a sweep is that
function mapped over its arguments; a finding is a statistical test on the rows that come out.

Start at ``cnnjax.sweep`` to run one, at ``cnnjax.models`` for the networks, and at
``experiments/`` for the findings.
"""

__version__ = "0.1.0"
