"""A sweep is a run mapped over its arguments: grid -> plan -> execute -> rows.

``run(spec, grid, seeds)`` does it all from Python; the command line does it for experiments.
"""

from cnnjax.sweep.execution import Execution
from cnnjax.sweep.grid import Grid, explicit, product, zipped
from cnnjax.sweep.kept import arrays, outputs, weights_of
from cnnjax.sweep.plan import Plan, Point, plan, points
from cnnjax.sweep.session import run

__all__ = [
    "Execution",
    "Grid",
    "Plan",
    "Point",
    "arrays",
    "explicit",
    "outputs",
    "plan",
    "points",
    "product",
    "run",
    "weights_of",
    "zipped",
]
