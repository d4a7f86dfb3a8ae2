import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import models, tree
from cnnjax.models.encoder_decoder import EncoderDecoder
from cnnjax.typing import UsageError
from tests.fixtures.networks import shapes, without_gradient

SHAPE = (8, 12, 2)


@pytest.mark.parametrize(
    ("upsampling", "kernel"), [("transposed", 3), ("transposed", 4), ("nearest", 3), ("bilinear", 5)]
)
@pytest.mark.slow
def test_shapes_parameters_and_gradients(upsampling, kernel):
    model = EncoderDecoder(width=3, upsampling=upsampling, upsampling_kernel=kernel)
    output, endpoints = shapes(model, SHAPE)
    assert output == (2, *SHAPE)
    assert endpoints == {"down1": (2, 4, 6, 3), "down2": (2, 2, 3, 6), "up1": (2, 4, 6, 3), "up2": (2, *SHAPE)}
    down = 9 * 2 * 3 + 9 * 3 * 6 + 2 * (3 + 6)  # no biases: each has a normalisation behind it
    up = kernel**2 * (6 * 3 + 3 * 2) + 2 * 3 + 2
    assert tree.count(models.parameter_shapes(model, SHAPE)["params"]) == down + up
    if kernel != 5:
        assert without_gradient(model, SHAPE) == []


def test_other_features():
    assert shapes(EncoderDecoder(width=2, stages=1, features=5), SHAPE)[0] == (2, 8, 12, 5)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"upsampling": "neares"}, "Unknown upsampling 'neares'. Did you mean 'nearest'"),
        ({"stages": 0}, "stages must be a positive whole number, not 0"),
        ({"features": -1}, "features must be a number of channels, or 0 for the images', not -1"),
        ({"upsampling_kernel": 1}, "upsampling_kernel=1 leaves outputs that nothing is written to"),
        ({"upsampling": "nearest"}, "upsampling_kernel=4 is even"),
    ],
)
def test_refusals(fields, message):
    with pytest.raises(UsageError, match=message):
        EncoderDecoder(**fields)


def test_sides_that_do_not_divide():
    with pytest.raises(UsageError, match=r"8x10 pixels cannot be halved stages=2 times.*multiples of 4"):
        jax.eval_shape(EncoderDecoder().init, jax.random.key(0), jnp.zeros((1, 8, 10, 1)))


@pytest.mark.slow
def test_resizing_leaves_no_checkerboard_of_one_colour_and_a_kernel_of_three_does():
    def alternating(**fields):
        model = EncoderDecoder(width=4, stages=1, norm="none", **fields)
        images = jnp.ones((1, 16, 16, 1))
        output = model.apply(model.init(jax.random.key(0), images), images)[0][0, 6:10, 6:10, 0]
        return float(np.ptp(output) / np.abs(output).max())

    assert alternating(upsampling="nearest", upsampling_kernel=3) < 1e-5
    assert alternating(upsampling_kernel=3) > 0.1
