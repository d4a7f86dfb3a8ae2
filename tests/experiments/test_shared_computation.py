"""The rule of the experiment on shared computation on made-up rows, and its counts by hand."""

import pytest

from cnnjax import claims
from cnnjax.data import DataConfig
from experiments import shared_computation
from tests.fixtures import fabricated

NAMES = ("test_error", "test_error_size125", "test_error_size150", "test_error_size200")


def rows(without, with_scaling, noise=0.004):
    return fabricated.rows(
        [
            ({"scale": scale}, dict(zip(NAMES, errors, strict=True)))
            for scale, errors in ((0.0, without), (1.0, with_scaling))
        ],
        noise,
    )


def turns(one_pass, all_windows, noise=0.0):
    timed = {"seconds_one_pass": one_pass, "seconds_all_windows": all_windows}
    return fabricated.rows([({"timed_side": 28}, timed)], noise)


@pytest.fixture(scope="module")
def compared():
    measured = shared_computation.measure("smoke", DataConfig())
    return [row for row in measured if "side" in row["assignment"]]


@pytest.mark.parametrize(
    ("without", "with_scaling", "times", "noise", "expected"),
    [
        ((0.05, 0.10, 0.3, 0.6), (0.05, 0.06, 0.1, 0.4), (1.0, 2.0), 0.004, "reproduced"),
        ((0.5, 0.7, 0.3, 0.2), (0.5, 0.9, 0.6, 0.4), (2.0, 1.0), 0.004, "refuted"),
        ((0.3, 0.4, 0.4, 0.3), (0.3, 0.4, 0.4, 0.3), (2.0, 2.0), 0.2, "inconclusive"),
    ],
)
@pytest.mark.slow
def test_rule(without, with_scaling, times, noise, expected, compared):
    measured = [*compared, *turns(*times, noise=noise)]
    found = fabricated.outcomes(shared_computation, rows(without, with_scaling, noise), measured)
    assert {found[name] for name in fabricated.trained(shared_computation)} == {expected}
    assert {found[name] for name in found.keys() - fabricated.trained(shared_computation)} == {"reproduced"}


@pytest.mark.slow
def test_counts_by_hand(compared):  # S4:734-764
    by_side = {row["assignment"]["side"]: row["metrics"] for row in compared}
    conv, dense = 5 * 5 * 3 * 16, 5 * 5 * 16 * 400 + 400 * 400 + 400 * 4  # for each place
    assert by_side[14]["one_pass"] == by_side[14]["all_windows"] == 10**2 * conv + dense
    assert by_side[16]["one_pass"] == 12**2 * conv + 4 * dense
    assert by_side[16]["all_windows"] == 4 * (10**2 * conv + dense)
    assert by_side[16]["scores"] == 2


@pytest.mark.slow
def test_scores_that_differ_are_refuted(compared):
    broken = [claims.measured(row["assignment"], 0, {**row["metrics"], "deviation": 0.1}) for row in compared]
    measured = [*broken, *turns(1.0, 2.0)]
    found = fabricated.outcomes(shared_computation, rows((0.1,) * 4, (0.1,) * 4), measured)
    assert found["same-scores"] == "refuted"
    assert found["any-size"] == "reproduced"
