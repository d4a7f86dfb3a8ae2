"""The rule of the experiment on local response normalisation on made-up rows."""

import numpy as np
import pytest

from cnnjax.data import DataConfig
from experiments import lrn


def fabricated(without, with_lrn, noise=0.004, seeds=16):
    random = np.random.default_rng(0)
    return [
        {
            "assignment": {"model.lrn": arm},
            "seed": seed,
            "status": "done",
            "metrics": {"test_error": error + noise * random.standard_normal()},
        }
        for arm, error in ((False, without), (True, with_lrn))
        for seed in range(seeds)
    ]


@pytest.fixture(scope="module")
def measured():
    return lrn.measure("smoke", DataConfig())


@pytest.mark.parametrize(
    ("without", "with_lrn", "noise", "expected"),
    [
        (0.030, 0.031, 0.004, "reproduced"),
        (0.030, 0.060, 0.004, "refuted"),
        (0.060, 0.030, 0.004, "refuted"),
        (0.030, 0.031, 0.050, "inconclusive"),
    ],
)
@pytest.mark.slow
def test_rule(without, with_lrn, noise, expected, measured):
    found = {verdict.id: verdict.verdict for verdict in lrn.verdict(fabricated(without, with_lrn, noise), measured)}
    assert found["does-not-help-much"] == expected
    assert found["no-parameters"] == found["formula"] == "reproduced"


def test_a_diverged_run_counts_with_the_error_of_chance(measured):
    rows = fabricated(0.1, 0.1, noise=0.0, seeds=4)
    rows[-1].update(status="diverged", classes=10, metrics={})
    found = {verdict.id: verdict for verdict in lrn.verdict(rows, measured)}
    assert found["does-not-help-much"].effect == pytest.approx((0.9 - 0.1) / 4)


def test_the_formula_by_hand():
    ones = np.full((1, 1, 1, 9), 10.0)
    shares = [float(lrn._by_formula(ones, channel)[0, 0, 0]) / 10 for channel in (0, 4)]
    assert shares == pytest.approx([(2 + 0.01 * 3) ** -0.75, (2 + 0.01 * 5) ** -0.75])


def test_another_formula_is_refuted(measured):
    broken = [{**row, "metrics": {"parameters": 1, "deviation": 0.1}} for row in measured]
    found = {verdict.id: verdict.verdict for verdict in lrn.verdict(fabricated(0.1, 0.1), broken)}
    assert found["no-parameters"] == found["formula"] == "refuted"
