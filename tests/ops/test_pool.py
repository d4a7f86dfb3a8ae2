import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax.ops.conv import explicit_padding
from cnnjax.ops.pool import average_pool, blur_pool, max_pool
from cnnjax.typing import UsageError

# window, strides, padding
CASES = [((2, 2), None, "VALID"), ((3, 3), (2, 2), "SAME"), ((2, 3), (1, 2), 1), ((3, 2), (3, 1), ((0, 2), (1, 0)))]


def pool(images, window, strides, padding, fill, reduce):
    """By definition: one window after the other."""
    strides = strides or window
    pads = explicit_padding(padding, images.shape[1:3], window, strides)
    padded = np.pad(images, ((0, 0), *pads, (0, 0)), constant_values=fill)
    tops, lefts = (range(0, padded.shape[a + 1] - window[a] + 1, strides[a]) for a in (0, 1))
    rows = [[reduce(padded[:, t : t + window[0], x : x + window[1]], axis=(1, 2)) for x in lefts] for t in tops]
    return np.moveaxis(np.array(rows), 2, 0)


def test_pooling_equals_the_definition():
    # All negative, so that a padding of zeros would win.
    images = -1 - np.random.default_rng(0).random((2, 7, 6, 3)).astype(np.float32)
    compute = jax.jit(lambda x: [(max_pool(x, *case), average_pool(x, *case)) for case in CASES])
    for case, (largest, mean) in zip(CASES, compute(images), strict=True):
        np.testing.assert_array_equal(largest, pool(images, *case, -np.inf, np.max))
        np.testing.assert_allclose(mean, pool(images, *case, 0, np.mean), rtol=1e-6)


def test_the_lectures_example():  # S2:73-86
    image = jnp.array([[3, 1, 3, 5], [6, 0, 7, 9], [3, 2, 1, 4], [0, 2, 4, 3]], jnp.float32)[None, :, :, None]
    np.testing.assert_array_equal(max_pool(image)[0, :, :, 0], [[6, 9], [3, 4]])
    np.testing.assert_array_equal(average_pool(image)[0, :, :, 0], [[2.5, 6], [1.75, 3]])


def test_the_gradient_goes_to_the_maximum():
    images = np.random.default_rng(0).permutation(2 * 4 * 6 * 2).reshape(2, 4, 6, 2).astype(np.float32)
    tied = np.ones((1, 2, 2, 1), np.float32)
    weights = 1 + np.arange(2 * 2 * 3 * 2, dtype=np.float32).reshape(2, 2, 3, 2)

    def gradients(images, tied):
        distinct = jax.grad(lambda x: (max_pool(x) * weights).sum())(images)
        return distinct, jax.grad(lambda x: max_pool(x).sum())(tied)

    gradient, shared = jax.jit(gradients)(images, tied)
    largest = pool(images, (2, 2), None, "VALID", 0, np.max).repeat(2, axis=1).repeat(2, axis=2)
    expected = np.where(images == largest, weights.repeat(2, axis=1).repeat(2, axis=2), 0)
    np.testing.assert_array_equal(gradient, expected)
    assert shared.sum() == 1  # split among equals, never counted twice
    assert shared.min() > 0


def test_a_window_must_fit_into_the_padded_image():
    with pytest.raises(UsageError, match=r"covers 3 pixels but the padded input has n \+ p = 2"):
        max_pool(jnp.zeros((1, 2, 5, 1)), (3, 3))


@pytest.mark.parametrize("strides", [(1, 1), (2, 2), (2, 3)])
def test_a_blur_weighs_by_distance_and_subsamples(strides):  # S3:204-206
    images = np.random.default_rng(0).random((2, 7, 6, 3)).astype(np.float32)
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    kernel = np.array([[1, 2, 1], [2, 4, 2], [1, 2, 1]]) / 16
    expected = sum(kernel[i, j] * padded[:, i : i + 7, j : j + 6] for i in range(3) for j in range(3))
    out = jax.jit(lambda x: blur_pool(x, strides=strides))(images)
    np.testing.assert_allclose(out, expected[:, :: strides[0], :: strides[1]], rtol=1e-6)


def test_a_blur_keeps_constants_at_every_size_and_window():
    cases = [(side, window) for side in (1, 2, 5) for window in (1, 3, 5)]
    compute = jax.jit(lambda three: [blur_pool(jnp.full((1, side, 4, 1), three), window) for side, window in cases])
    for (side, _), out in zip(cases, compute(3.0), strict=True):
        np.testing.assert_array_equal(out, np.full((1, -(-side // 2), 2, 1), 3.0))


def test_a_blur_removes_the_finest_pattern_that_pooling_aliases():
    stripes = jnp.tile(jnp.array([0.0, 1.0]), 4)[None, None, :, None].repeat(8, axis=1)
    inside = blur_pool(stripes)[:, :, 1:]
    np.testing.assert_array_equal(inside, 0.5)
    np.testing.assert_array_equal(stripes[:, ::2, ::2], 0)  # as if the image were black


@pytest.mark.parametrize("window", [0, 2, -1])
def test_a_blur_needs_a_middle(window):
    with pytest.raises(UsageError, match=f"must be odd and at least 1, not {window}"):
        blur_pool(jnp.zeros((1, 4, 4, 1)), window)
