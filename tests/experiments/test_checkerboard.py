"""The rule of the checkerboard experiment on made-up rows, and its random layers."""

import numpy as np
import pytest

from cnnjax.data import DataConfig
from experiments import checkerboard
from experiments.checkerboard import BILINEAR, EVEN, NEAREST, UNEVEN
from tests.fixtures import fabricated

RUNS = ("fewer-after-nearest", "fewer-after-bilinear", "fewer-with-even-overlap", "resizing-as-accurate")


def rows(found, noise):
    """``found``: way -> (alternating share, squared error)."""
    return fabricated.rows(
        [
            (dict(checkerboard.where(name)), {"test_checkerboard": share, "test_loss": loss})
            for name, (share, loss) in found.items()
        ],
        noise,
    )


@pytest.fixture(scope="module")
def measured():
    return checkerboard.measure("smoke", DataConfig())


@pytest.mark.parametrize(
    ("found", "noise", "expected"),
    [
        ({UNEVEN: (0.1, 0.2), EVEN: (0.06, 0.2), NEAREST: (0.02, 0.2), BILINEAR: (0.01, 0.2)}, 0.002, "reproduced"),
        ({UNEVEN: (0.1, 0.2), EVEN: (0.2, 0.2), NEAREST: (0.3, 0.4), BILINEAR: (0.2, 0.2)}, 0.002, "refuted"),
        ({UNEVEN: (0.1, 0.2), EVEN: (0.1, 0.2), NEAREST: (0.1, 0.2), BILINEAR: (0.1, 0.2)}, 0.05, "inconclusive"),
    ],
)
@pytest.mark.slow
def test_rule(found, noise, expected, measured):
    verdicts = fabricated.outcomes(checkerboard, rows(found, noise), measured)
    assert [verdicts[name] for name in RUNS] == [expected] * 4
    assert verdicts["uneven-overlap"] == verdicts["resizing-is-flat"] == "reproduced"


def test_an_error_without_any_alternation_has_a_logarithm(measured):
    found = {UNEVEN: (0.1, 0.2), EVEN: (0.1, 0.2), NEAREST: (0.0, 0.2), BILINEAR: (0.0, 0.2)}
    assert fabricated.outcomes(checkerboard, rows(found, 0.0), measured)["fewer-after-nearest"] == "reproduced"


def test_random_layers():
    """A kernel of 3 gives the four outputs of a block 1, 2, 2 and 4 summands, a kernel of 4 four each."""
    found = {name: np.array(checkerboard.random_layers(name, 3)).T for name in (UNEVEN, EVEN, NEAREST)}
    assert np.max(found[NEAREST][0]) < 1e-9
    assert np.min(found[UNEVEN][0]) > 0.05
    np.testing.assert_allclose(found[UNEVEN][1].mean(), 2, atol=0.6)  # log2 of 4 over 1
    assert np.max(found[EVEN][1]) < 0.8
