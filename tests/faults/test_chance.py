"""The short form of ``benchmarks.faults --only=false_verdicts``."""

import numpy as np
import pytest
from scipy.stats import binom

from benchmarks.faults.chance import ALLOWED, PICTURES, Cell, differences, false_shares, judged_otherwise
from cnnjax import stats

FAMILIES = 2000


@pytest.mark.parametrize("seeds", [3, 5, 10])
@pytest.mark.parametrize(
    ("test", "margin", "scatter", "mean"),
    [
        ("greater", 0, "ties", 1.0),
        ("greater", 0, "own difficulty", 3.0),
        ("not_greater", 2, "independent", 0.2),
        ("not_greater", 8, "shared difficulty", 3.0),
        ("equivalent", 4, "own difficulty", 1.0),
    ],
)
def test_of_families_of_any_size_at_most_5_percent_have_a_false_reproduction(test, margin, scatter, mean, seeds):
    cell = Cell(test, margin, scatter, mean, seeds)
    found = false_shares(cell, FAMILIES, np.random.default_rng(0)) * FAMILIES
    assert found.max() <= binom.isf(1e-4, FAMILIES, ALLOWED)


def test_the_families_are_judged_as_claims_are():
    cell = Cell("greater", 0, "independent", 1.0, 6)
    found = differences(cell, 30, np.random.default_rng(0)) + np.linspace(0, 9, 30)[:, None, None].round() / PICTURES
    assert judged_otherwise(cell, found) == 0


def test_without_a_step_of_spread_ties_make_false_reproductions():
    """That the simulation can fail: three equal differences are no rarity among small counts."""
    found = differences(Cell("greater", 0, "independent", 1.0, 3), FAMILIES, np.random.default_rng(0))
    p, _ = stats.one_sided(found, 0.0, 1e-9)
    assert (p.min(-1) * p.shape[-1] < 0.05).mean() > 0.07
