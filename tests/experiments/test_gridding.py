"""The rule of the gridding experiment on made-up rows, and what stacks read by hand."""

import pytest

from cnnjax.data import DataConfig
from experiments import gridding
from experiments.gridding import GRIDDED, MIXED
from tests.fixtures import fabricated


def rows(gridded, mixed, noise=0.004):
    names = ("test_roughness_of_noise", "test_roughness", "test_error")
    return fabricated.rows(
        [
            ({"model.dilations": list(dilations)}, dict(zip(names, values, strict=True)))
            for dilations, values in ((GRIDDED, gridded), (MIXED, mixed))
        ],
        noise,
    )


@pytest.fixture(scope="module")
def measured():
    return gridding.measure("smoke", DataConfig())


@pytest.mark.parametrize(
    ("gridded", "mixed", "noise", "expected"),
    [
        ((0.9, 0.5, 0.1), (0.6, 0.4, 0.05), 0.004, "reproduced"),
        ((0.6, 0.4, 0.05), (0.9, 0.5, 0.1), 0.004, "refuted"),
        ((0.6, 0.4, 0.1), (0.6, 0.4, 0.1), 0.2, "inconclusive"),
    ],
)
@pytest.mark.slow
def test_rule(gridded, mixed, noise, expected, measured):
    found = fabricated.outcomes(gridding, rows(gridded, mixed, noise), measured)
    assert {found[name] for name in fabricated.trained(gridding)} == {expected}
    assert {found[name] for name in found.keys() - fabricated.trained(gridding)} == {"reproduced"}


def test_what_stacks_read_by_hand():
    assert gridding.reading((2, 2)) == {
        "field": 9, "read": 5, "read_by_gradient": 5, "shared_with_neighbour": 0, "other_than_the_lectures": 0
    }  # fmt: skip
    assert gridding.reading((1, 2))["shared_with_neighbour"] == 6


def test_a_unit_that_reads_more_is_refuted(measured):
    more = [{**row, "metrics": {**row["metrics"], "read_by_gradient": row["metrics"]["field"]}} for row in measured]
    assert fabricated.outcomes(gridding, rows((1, 1, 1), (1, 1, 1)), more)["coverage"] == "refuted"
