"""The rule of the experiment on ways to compute convolutions on made-up rows, and that the ways agree."""

import pytest

from cnnjax import claims
from experiments import fft_crossover
from tests.fixtures import fabricated

TIMES = ("fourier-wins-for-large-filters", "sliding-wins-for-small-filters", "fourier-hardly-depends-on-the-kernel")


def rows(matrix, fourier, noise=0.002):
    return fabricated.rows(
        [({"model.form": "matrix"}, {"test_error": matrix}), ({"model.form": "Fourier"}, {"test_error": fourier})],
        noise,
    )


def turns(small, large, noise=0.0, turns=8):
    """``small``, ``large``: (seconds of sliding, of Fourier) with the smallest and the largest kernel."""
    timed = fabricated.rows(
        [
            ({"kernel": side}, {"seconds_sliding": sliding, "seconds_Fourier": fourier})
            for side, (sliding, fourier) in ((3, small), (63, large))
        ],
        noise,
        turns,
    )
    return [*timed, claims.measured({"compared_kernel": 3}, 0, {"patches": 1e-7, "Fourier": 2e-7})]


@pytest.mark.parametrize(
    ("small", "large", "noise", "expected"),
    [
        ((1.0, 4.0), (50.0, 5.0), 0.1, "reproduced"),
        ((4.0, 1.0), (5.0, 50.0), 0.1, "refuted"),
        ((5.0, 5.0), (5.0, 5.0), 1.0, "inconclusive"),
    ],
)
def test_rule_of_times(small, large, noise, expected):
    found = fabricated.outcomes(fft_crossover, rows(0.1, 0.1), turns(small, large, noise))
    assert [found[name] for name in TIMES] == [expected] * 3
    assert found["same-result"] == "reproduced"


@pytest.mark.parametrize(
    ("matrix", "fourier", "noise", "expected"),
    [(0.1, 0.1, 0.002, "reproduced"), (0.1, 0.2, 0.002, "refuted"), (0.1, 0.1, 0.05, "inconclusive")],
)
def test_rule_of_training(matrix, fourier, noise, expected):
    found = fabricated.outcomes(fft_crossover, rows(matrix, fourier, noise), turns((1.0, 4.0), (50.0, 5.0)))
    assert found["same-training"] == expected


def test_another_result_is_refuted():
    broken = [claims.measured({"compared_kernel": 3}, 0, {"patches": 0.1})]
    assert fabricated.outcomes(fft_crossover, rows(0.1, 0.1), broken)["same-result"] == "refuted"


@pytest.mark.parametrize("side", [2, 9])
@pytest.mark.slow
def test_all_ways_agree(side):
    found = fft_crossover.deviations(side)
    assert set(found) == {"patches", "matrix", "Fourier", "ops.conv"}
    assert max(found.values()) < 1e-5
