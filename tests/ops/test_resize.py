from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage

from cnnjax.augment import geometry
from cnnjax.ops import resize
from cnnjax.ops.pool import blur_pool, max_pool
from cnnjax.typing import UsageError
from tests.fixtures.networks import jit

IMAGES = np.random.default_rng(0).standard_normal((2, 4, 5, 3)).astype(np.float32)
SIZES = [(8, 10), (4, 5), (7, 3), (1, 1)]


def places(n, m, align_corners=False):
    """Where the centres of m new pixels lie among n old ones, whose centres are at 0, 1, ... n - 1."""
    return np.linspace(0, n - 1, m) if align_corners and m > 1 else (np.arange(m) + 0.5) * n / m - 0.5


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("align_corners", [False, True])
def test_bilinear_is_scipys_linear_interpolation(size, align_corners):
    rows, columns = (places(n, m, align_corners) for n, m in zip((4, 5), size, strict=True))
    if align_corners and size == (1, 1):
        rows = columns = np.zeros(1)  # the upper left corner, as PyTorch
    at = np.meshgrid(rows, columns, indexing="ij")
    expected = np.empty((2, *size, 3))
    for index in np.ndindex(2, 3):
        plane = IMAGES[index[0], :, :, index[1]].astype(np.float64)
        expected[index[0], :, :, index[1]] = scipy.ndimage.map_coordinates(plane, at, order=1, mode="nearest")
    found = resize.bilinear(jnp.asarray(IMAGES), size, align_corners)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_bilinear_is_the_sampling_of_the_augmentations():
    y, x = np.meshgrid(places(4, 4) + 0.5, places(5, 5) + 0.5, indexing="ij")
    y, x = (np.broadcast_to((p / 2 + 0.3).reshape(1, -1), (2, 20)).astype(np.float32) for p in (y, x))
    sampled = jit(geometry.bilinear)(IMAGES, y, x)
    rows, columns = (np.maximum(0, 1 - abs(np.clip(p - 0.5, 0, n - 1)[:, None] - np.arange(n))) for p, n in (
        (y[0].reshape(4, 5)[:, 0], 4), (x[0].reshape(4, 5)[0], 5)))  # fmt: skip
    np.testing.assert_allclose(sampled, np.einsum("ah,bw,nhwc->nabc", rows, columns, IMAGES), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", SIZES)
def test_nearest_takes_the_pixel_under_the_new_centre(size):
    rows, columns = (np.floor((np.arange(m) + 0.5) * n / m).astype(int) for n, m in zip((4, 5), size, strict=True))
    found = resize.nearest(jnp.asarray(IMAGES), size)
    np.testing.assert_array_equal(found, IMAGES[:, rows][:, :, columns])


def test_twice_the_size_by_nearest_repeats_every_pixel():
    found = resize.nearest(jnp.asarray(IMAGES), (8, 10))
    np.testing.assert_array_equal(found, IMAGES.repeat(2, 1).repeat(2, 2))


def test_twice_the_size_by_bilinear_weighs_three_to_one():
    """By hand: between two pixels, 3/4 of the nearer and 1/4 of the farther one; the border repeats itself."""
    found = resize.bilinear(jnp.asarray([[0.0, 4.0]]).reshape(1, 1, 2, 1), (1, 4)).ravel()
    np.testing.assert_allclose(found, [0, 1, 3, 4])
    np.testing.assert_allclose(
        resize.bilinear(jnp.asarray([[0.0, 3.0]]).reshape(1, 1, 2, 1), (1, 4), True).ravel(), [0, 1, 2, 3], atol=1e-6
    )


@pytest.mark.parametrize("form", [resize.nearest, resize.bilinear])
def test_the_gradient_is_the_transposed_map(form):
    """<A x, y> = <x, A^T y>, under jit and vmap."""
    x, y = jnp.asarray(IMAGES), jnp.asarray(np.random.default_rng(1).standard_normal((2, 7, 3, 3)), jnp.float32)

    @jit
    def both(x, y):
        pull = jax.vmap(jax.grad(lambda x, y: jnp.vdot(form(x[None], (7, 3))[0], y)))(x, y)
        return jnp.vdot(form(x, (7, 3)), y), jnp.vdot(x, pull)

    np.testing.assert_allclose(*both(x, y), rtol=1e-5)


@pytest.mark.parametrize("form", [resize.nearest, resize.bilinear])
def test_an_empty_size_is_refused(form):
    with pytest.raises(UsageError, match=r"size=\(0, 3\) must be at least one row"):
        form(jnp.asarray(IMAGES), (0, 3))


def test_lower_and_raise_the_resolution():
    """S0:346-356: max pooling takes the resolution away, and no way to enlarge brings it back."""
    images = jnp.asarray(IMAGES[:, :, :4])
    small = max_pool(images)
    assert small.shape == (2, 2, 2, 3)
    large = resize.nearest(small, (4, 4))
    assert large.shape == images.shape
    assert np.all(large >= images)  # every pixel has become the largest of its window
    assert np.mean(large == images) == 1 / 4  # which one in four was already
    np.testing.assert_array_equal(max_pool(large), small)  # nothing more is lost the second time


def test_a_gaussian_pyramid_by_definition():
    """Burt and Adelson 1983: each level is the one before, blurred by (1, 4, 6, 4, 1) / 16 and taken at even places."""
    pyramid = resize.gaussian_pyramid(jnp.asarray(IMAGES), 3)
    taps = np.array([1, 4, 6, 4, 1]) / 16
    for fine, coarse in pairwise(pyramid):
        blurred = np.asarray(fine, np.float64)
        for axis in (1, 2):
            blurred = scipy.ndimage.convolve1d(blurred, taps, axis, mode="nearest")
        np.testing.assert_allclose(coarse, blurred[:, ::2, ::2], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(pyramid[1], blur_pool(jnp.asarray(IMAGES), 5), rtol=1e-5, atol=1e-6)
    assert [level.shape[1:3] for level in pyramid] == [(4, 5), (2, 3), (1, 2)]


def test_enlarging_by_definition():
    """EXPAND of Burt and Adelson: zeros between the pixels, then four times the blur."""
    coarse = np.random.default_rng(2).standard_normal((1, 3, 3, 1))
    spread = np.zeros((10, 10))  # with the border's pixels repeated, one to each side
    spread[::2, ::2] = np.pad(coarse[0, :, :, 0], 1, mode="edge")
    taps = np.array([1, 4, 6, 4, 1]) / 16
    expected = 4 * scipy.ndimage.convolve1d(scipy.ndimage.convolve1d(spread, taps, 0), taps, 1)[2:8, 2:8]
    pyramid = [jnp.zeros((1, 6, 6, 1)), jnp.asarray(coarse, jnp.float32)]
    np.testing.assert_allclose(resize.reconstruct(pyramid)[0, :, :, 0], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("height", "width", "levels"), [(1, 1, 1), (1, 7, 4), (6, 9, 3), (8, 8, 4)])
def test_a_laplacian_pyramid_gives_the_images_back(height, width, levels):
    images = np.random.default_rng(height * width).uniform(-1, 1, (1, height, width, 2)).astype(np.float32)
    pyramid, found = jit(lambda x: ((made := resize.laplacian_pyramid(x, levels)), resize.reconstruct(made)))(images)
    assert len(pyramid) == levels
    np.testing.assert_allclose(found, images, atol=1e-6)


def test_a_constant_image_has_no_details():
    pyramid = resize.laplacian_pyramid(jnp.full((1, 5, 6, 1), 0.7), 4)
    for detail in pyramid[:-1]:
        np.testing.assert_allclose(detail, 0, atol=1e-6)
    np.testing.assert_allclose(pyramid[-1], 0.7, rtol=1e-6)


def test_pyramids_that_cannot_be():
    with pytest.raises(UsageError, match="levels=5: images of 4x5 pixels have 1 to 4 levels"):
        resize.gaussian_pyramid(jnp.asarray(IMAGES), 5)
    with pytest.raises(UsageError, match="levels=0"):
        resize.laplacian_pyramid(jnp.asarray(IMAGES), 0)
    with pytest.raises(UsageError, match=r"Level 1 of the pyramid is 2x2, but half of level 0 \(4x5\).* is 2x3"):
        resize.reconstruct([jnp.zeros((1, 4, 5, 1)), jnp.zeros((1, 2, 2, 1))])
    with pytest.raises(UsageError, match="at least one level"):
        resize.reconstruct([])
