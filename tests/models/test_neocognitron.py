import math

import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import models, tree
from cnnjax.models.neocognitron import SCells, c_cells
from cnnjax.nn import initializer
from cnnjax.typing import UsageError
from tests.fixtures.networks import check_evaluation, filled, images, jit, shapes, unused, without_gradient

NAME = "neocognitron"
NEAR = np.outer([1, 2, 1], [1, 2, 1])[:, :, None] / 16 * 9  # of a window of 3x3, with mean 1


def tiny(**fields):
    return models.create(NAME, **{"features": (4, 5), "kernel_size": 3, "num_classes": 3, **fields}), (8, 8, 1)


def middle(patterns, seen, selectivity=0.7, inhibition=1.0):
    """Responses in the middle of images of 3x3 pixels, which the window covers: (N, cells)."""
    cells = SCells(patterns.shape[-1], 3, selectivity, initializer("he"), jnp.float32)
    params = {"kernel": jnp.asarray(patterns), "inhibition": jnp.full(patterns.shape[-1], inhibition)}
    return np.asarray(jit(cells.apply)({"params": params}, seen))[:, 1, 1]


def cosines(patterns, seen):
    """Between what is seen and the patterns, pixels weighted by their nearness: (N, cells)."""
    near = NEAR[..., None]
    norms = np.sqrt((near * patterns**2).sum((0, 1, 2))) * np.sqrt((NEAR * seen**2).sum((1, 2, 3)))[:, None]
    return np.einsum("hwco,nhwc->no", near * patterns, seen) / norms


# Counts and shapes


@pytest.mark.parametrize(
    ("maps", "stages", "side", "channels", "classes"),
    [(24, 3, 5, 1, 10), (24, 3, 5, 3, 26), (6, 2, 3, 2, 4), (5, 1, 7, 1, 2)],
)
def test_the_formula_of_the_parameters(maps, stages, side, channels, classes):
    model = models.create(NAME, features=(maps,) * stages, kernel_size=side, num_classes=classes)
    count = side**2 * maps * (2 * channels + (stages - 1) * maps) + stages * maps + classes * (maps + 1)
    assert tree.count(models.parameter_shapes(model, (16, 16, channels))) == count


@pytest.mark.parametrize(("size", "sides"), [((16, 16), (8, 4, 2)), ((1, 1), (1, 1, 1)), ((30, 30), (15, 8, 4))])
def test_shapes_by_stage(size, sides):
    logits, endpoints = shapes(models.create(NAME), (*size, 1))
    assert logits == (2, 10)
    expected = {f"stage{stage}": (2, side, side, 24) for stage, side in enumerate(sides, start=1)}
    assert endpoints == {**expected, "features": (2, 24), "logits_map": (2, sides[-1], sides[-1], 10)}


# Cells


def test_responses_depend_on_the_cosine_alone_where_the_contrast_is_strong():
    rng = np.random.default_rng(0)
    patterns = rng.random((3, 3, 2, 6), np.float32)
    seen = rng.random((5, 3, 3, 2), np.float32)
    for selectivity in (0.7, 4.0):
        expected = np.maximum((1 + selectivity) * cosines(patterns, seen) - selectivity, 0)
        assert expected.min() < 0.6 * expected.max()
        for contrast in (1e3, 1e5):
            responses = middle(patterns, contrast * seen, selectivity)
            np.testing.assert_allclose(responses, expected, atol=0.01)


def test_a_cell_prefers_its_pattern_and_is_silent_below_its_threshold():
    pattern = np.zeros((3, 3, 1, 1), np.float32)
    pattern[1] = 1  # a row
    row, cross = pattern[None, ..., 0], np.zeros((1, 3, 3, 1), np.float32)
    cross[:, :, 1] = 1  # a column
    (threshold,) = cosines(pattern, cross)[0]
    assert middle(pattern, 1e4 * row) == pytest.approx(1, abs=0.01)
    limit = threshold / (1 - threshold)  # the selectivity whose threshold r / (1 + r) the cosine just reaches
    assert middle(pattern, 1e4 * cross, 1.1 * limit) == 0
    assert middle(pattern, 1e4 * cross, 0.9 * limit) > 0
    assert middle(pattern, 1e4 * cross, 0.9 * limit, inhibition=2.0) == 0


def test_only_the_magnitude_of_a_kernel_counts():
    rng = np.random.default_rng(0)
    patterns, seen = rng.standard_normal((3, 3, 2, 4)), rng.random((2, 3, 3, 2))
    patterns, seen = patterns.astype(np.float32), seen.astype(np.float32)
    np.testing.assert_array_equal(middle(patterns, seen), middle(-patterns, seen))
    assert middle(patterns, seen).max() > 0


def test_a_cell_that_sees_nothing_is_silent():
    np.testing.assert_allclose(
        middle(np.ones((3, 3, 1, 2), np.float32), np.zeros((1, 3, 3, 1), np.float32)), 0, atol=1e-5
    )


def test_complex_cells_respond_to_maps_above_the_mean_and_saturate():
    x, pool = np.zeros((1, 6, 5, 3), np.float32), jit(c_cells)
    np.testing.assert_array_equal(pool(x + 2.0), np.zeros((1, 3, 3, 3)))  # all maps are alike
    x[..., 0] = 1e6
    responses = np.asarray(pool(x))
    np.testing.assert_array_equal(responses[..., 1:], 0)
    np.testing.assert_allclose(responses[..., 0], 2 / 2.1, rtol=1e-3)  # psi((1 + x) / (1 + x / 3) - 1)


def test_complex_cells_tolerate_a_shift_of_one_pixel():
    x, moved = np.zeros((2, 1, 9, 9, 2), np.float32)
    pool = jit(c_cells)
    x[:, 4, 4, 0] = moved[:, 4, 5, 0] = 100.0
    here, there = (np.asarray(pool(y))[0, :, :, 0] for y in (x, moved))
    assert here[2, 2] == here.max()
    assert there[2, 2] == there.max()
    np.testing.assert_allclose(there[2, 2], here[2, 2], atol=0.05)


# The network


def test_darker_and_brighter_pixels_change_places_with_the_sign():
    model, shape = tiny()
    variables, x = filled(model, shape), images(2, shape)
    first = variables["params"]["stage1"]
    swapped = {**variables["params"], "stage1": {**first, "kernel": first["kernel"][:, :, ::-1]}}
    compute = jit(lambda params, x: model.apply({"params": params}, x)[0])
    np.testing.assert_allclose(compute(swapped, -x), compute(variables["params"], x), rtol=1e-4, atol=1e-5)
    assert np.abs(compute(swapped, x) - compute(variables["params"], x)).max() > 1e-3


@pytest.mark.slow
def test_every_parameter_counts():
    assert unused(models.create(NAME), (16, 16, 1)) == []
    assert without_gradient(*tiny()) == []


@pytest.mark.slow
def test_evaluation():
    *_, logits, endpoints = check_evaluation(*tiny())
    np.testing.assert_allclose(endpoints["logits_map"].mean((1, 2)), logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"features": ()}, r"features must hold one to nine positive whole numbers of maps, not \(\)"),
        ({"features": (24, 0)}, r"features must hold one to nine positive whole numbers of maps, not \(24, 0\)"),
        ({"selectivity": 0.0}, "selectivity must be a positive number, such as 0.7, not 0.0"),
        ({"selectivity": math.nan}, "selectivity must be a positive number, such as 0.7, not nan"),
        ({"selectivity": math.inf}, "selectivity must be a positive number, such as 0.7, not inf"),
        ({"kernel_size": 4}, "kernel_size must be odd and at least 1, not 4"),
        ({"num_classes": -1}, r"num_classes must be a positive whole number, .*, not -1"),
        ({"activation": "relu"}, "Unknown field of model neocognitron 'activation'"),
    ],
)
def test_a_bad_field_is_refused(fields, message):
    with pytest.raises(UsageError, match=message):
        models.create(NAME, **fields)
