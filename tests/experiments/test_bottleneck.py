"""The rule of the experiment on 1x1 bottlenecks on made-up rows, and its counts."""

import numpy as np
import pytest

from cnnjax.data import DataConfig
from experiments import bottleneck


def fabricated(naive, reduced, noise=0.004, seeds=16):
    random = np.random.default_rng(0)
    return [
        {
            "assignment": {"model.reduction": reduction},
            "seed": seed,
            "status": "done",
            "metrics": {"test_error": error + noise * random.standard_normal()},
        }
        for reduction, error in ((False, naive), (True, reduced))
        for seed in range(seeds)
    ]


@pytest.fixture(scope="module")
def measured():
    return bottleneck.measure("smoke", DataConfig())


def verdicts(rows, measured):
    return {verdict.id: verdict.verdict for verdict in bottleneck.verdict(rows, measured)}


@pytest.mark.parametrize(
    ("naive", "reduced", "noise", "expected"),
    [
        (0.030, 0.031, 0.004, "reproduced"),
        (0.030, 0.060, 0.004, "refuted"),
        (0.060, 0.030, 0.004, "refuted"),
        (0.030, 0.031, 0.050, "inconclusive"),
    ],
)
def test_rule(naive, reduced, noise, expected, measured):
    found = verdicts(fabricated(naive, reduced, noise), measured)
    assert found == {
        "lecture-example": "reproduced",
        "ten-times-cheaper": "reproduced",
        "accuracy-unhurt": expected,
    }


def test_the_counts_are_the_lectures(measured):
    branch = bottleneck._counts(measured, "branch")
    # 1x1 to 16 channels and 5x5 from these, against 5x5 at once; S4:507-509
    assert branch == {False: 784 * 25 * 192 * 32, True: 784 * 192 * 16 + 784 * 25 * 16 * 32}
    assert branch[False] / branch[True] == pytest.approx(9.68, abs=0.005)


def test_other_counts_are_refuted(measured):
    doubled = [
        {**row, "metrics": {"multiply_adds": row["metrics"]["multiply_adds"] * (1 + row["assignment"]["reduction"])}}
        for row in measured
    ]
    found = verdicts(fabricated(0.1, 0.1), doubled)
    assert found["lecture-example"] == found["ten-times-cheaper"] == "refuted"
