"""The rule of the experiment on receptive fields on made-up rows, and its sizes by hand."""

import pytest

from cnnjax.data import DataConfig
from experiments import receptive_field
from experiments.receptive_field import DEEP, DILATED, PLAIN
from tests.fixtures import fabricated


def rows(plain, dilated, deep, deep_before, noise=0.2):
    fields = {(PLAIN, 0.1): plain, (DILATED, 0.1): dilated, (DEEP, 0.1): deep, (DEEP, 0.0): deep_before}
    return fabricated.rows(
        [
            ({"model.dilations": list(dilations), "learning_rate": rate}, {"test_effective_field": field})
            for (dilations, rate), field in fields.items()
        ],
        noise,
    )


@pytest.fixture(scope="module")
def measured():
    return receptive_field.measure("smoke", DataConfig())


RUNS = ("dilation-widens-the-effective-field", "dilation-beats-depth", "training-widens-the-field")


@pytest.mark.parametrize(
    ("fields", "noise", "expected"),
    [((5, 12, 7, 6), 0.2, "reproduced"), ((5, 4, 5, 6), 0.2, "refuted"), ((5, 5, 5, 5), 3.0, "inconclusive")],
)
@pytest.mark.slow
def test_rule(fields, noise, expected, measured):
    found = fabricated.outcomes(receptive_field, rows(*fields, noise=noise), measured)
    assert [found[name] for name in RUNS] == [expected] * 3


def test_a_unit_that_sees_too_much_is_refuted(measured):
    def broken(row):
        metrics = row["metrics"]
        return {**row, "metrics": {**metrics, **({"support": metrics["support"] + 2} if "support" in metrics else {})}}

    found = fabricated.outcomes(receptive_field, rows(5, 12, 7, 6), [broken(row) for row in measured])
    assert found["linear-without-dilation"] == found["exponential-with-dilation"] == "refuted"
    assert found["parameters-linear"] == "reproduced"


def test_sizes_by_hand():
    assert receptive_field.sizes(True, 2) == {
        "formula": 7,
        "field": 7,
        "support": 7,
        "parameters": 2 * (9 + 1) + 2 * (18 + 1) + 10 * 3,
        "shrunk_by": 0,
        "shrunk_by_without_padding": 4,
    }


@pytest.mark.slow
def test_the_effective_field_of_random_nets_is_smaller_than_the_field():
    (field,) = receptive_field.random_fields(4, 8, 1)
    assert 3 < field < 9
