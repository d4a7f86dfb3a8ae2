import numpy as np
import pytest

from cnnjax import analysis, models
from cnnjax.models.dilated import DilatedCNN
from cnnjax.typing import UsageError
from tests.fixtures.networks import check_evaluation, shapes, without_gradient

SHAPE = (8, 8, 2)


def small(**fields):
    return DilatedCNN(**{"dilations": (1, 2), "width": 3, **fields})


def test_every_map_keeps_the_images_size():
    logits, endpoints = shapes(DilatedCNN(), (9, 7, 3))
    assert logits == (2, 10)
    maps = {f"stage{number}": (2, 9, 7, 16) for number in range(1, 5)}
    assert endpoints == {**maps, "features": (2, 16), "logits_map": (2, 9, 7, 10)}


@pytest.mark.parametrize(
    ("dilations", "sides"), [((1, 1, 1, 1), [3, 5, 7, 9]), ((1, 2, 4, 8), [3, 7, 15, 31])]
)  # S1:1131-1137
def test_receptive_fields(dilations, sides):
    fields = analysis.receptive_fields(DilatedCNN(dilations=dilations), (40, 40, 1))
    assert [fields[f"stage{number}"].size for number in range(1, 5)] == [(side, side) for side in sides]
    assert models.count_parameters("dilated_cnn", dilations=dilations) == models.count_parameters("dilated_cnn")


def test_every_parameter_has_a_gradient_and_evaluation_draws_nothing():
    assert without_gradient(small(norm="batch"), SHAPE) == []
    _, _, logits, endpoints = check_evaluation(small(), SHAPE)
    np.testing.assert_allclose(endpoints["logits_map"].mean((1, 2)), logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"dilations": ()}, r"dilations must hold positive whole numbers, not \(\)"),
        ({"dilations": (1, 0)}, r"dilations must hold positive whole numbers, not \(1, 0\)"),
        ({"width": 0}, "width must be a positive whole number, not 0"),
        ({"kernel_size": 2}, "kernel_size must be odd and at least 1, not 2"),
    ],
)
def test_refusals(fields, message):
    with pytest.raises(UsageError, match=message):
        small(**fields)
