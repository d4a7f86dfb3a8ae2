import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage

from cnnjax.ops.filters import FILTERS, filtered, gabor
from cnnjax.ops.pool import blur_pool
from cnnjax.typing import UsageError

IMAGES = np.random.default_rng(0).standard_normal((2, 6, 6, 2)).astype(np.float32)


def over(name, images=IMAGES):
    return np.asarray(filtered(jnp.asarray(images), FILTERS[name]))


@pytest.mark.parametrize("name", list(FILTERS))
def test_every_filter_is_scipys_correlation(name):
    expected = [
        [scipy.ndimage.correlate(IMAGES[n, :, :, c], FILTERS[name], mode="constant") for c in range(2)]
        for n in range(2)
    ]
    np.testing.assert_allclose(over(name), np.moveaxis(expected, 1, -1), rtol=1e-4, atol=1e-5)


def test_what_the_lectures_say_of_their_filters():  # S1:385-465
    np.testing.assert_array_equal(over("delete"), 0)
    np.testing.assert_array_equal(over("identity"), IMAGES)
    left = np.zeros_like(IMAGES)
    left[:, :, :-1] = IMAGES[:, :, 1:]
    np.testing.assert_array_equal(over("shift_left"), left)


def test_shifts_undo_each_other():
    inside = np.zeros_like(IMAGES)
    inside[:, 1:-1, 1:-1] = IMAGES[:, 1:-1, 1:-1]
    for there, back in (("left", "right"), ("up", "down")):
        np.testing.assert_array_equal(over(f"shift_{back}", over(f"shift_{there}", inside)), inside)
    down = over("shift_down", inside)
    np.testing.assert_array_equal(down[:, 1:], inside[:, :-1])


def test_the_lectures_vertical_edge():
    """S4:106-117: on a picture that is bright on the left, 30 where the edge is, and 0 elsewhere."""
    picture = np.zeros((1, 6, 6, 1), np.float32)
    picture[:, :, :3] = 10
    found = filtered(jnp.asarray(picture), FILTERS["prewitt_vertical"], "VALID")[0, :, :, 0]
    np.testing.assert_array_equal(found, [[0, 30, 30, 0]] * 4)
    np.testing.assert_array_equal(filtered(jnp.asarray(picture), FILTERS["prewitt_horizontal"], "VALID"), 0)


def test_sums_say_what_becomes_of_an_even_picture():
    kept = {"identity", "sharpen", "box_blur", "binomial_blur"}
    for name, kernel in FILTERS.items():
        expected = 1 if name in kept or name.startswith("shift") else 0
        assert kernel.sum() == pytest.approx(expected, abs=1e-6), name
        assert kernel.shape == (3, 3)
        assert kernel.dtype == np.float32


def test_the_edge_detectors_values():  # S4:106-143
    np.testing.assert_array_equal(FILTERS["prewitt_vertical"], [[1, 0, -1]] * 3)
    np.testing.assert_array_equal(FILTERS["prewitt_horizontal"], [[1, 1, 1], [0, 0, 0], [-1, -1, -1]])
    np.testing.assert_array_equal(FILTERS["sobel_vertical"], [[1, 0, -1], [2, 0, -2], [1, 0, -1]])
    np.testing.assert_array_equal(FILTERS["scharr_vertical"], [[3, 0, -3], [10, 0, -10], [3, 0, -3]])
    np.testing.assert_array_equal(FILTERS["sharpen"], FILTERS["identity"] + FILTERS["edge"])
    np.testing.assert_array_equal(FILTERS["edge"], -FILTERS["laplacian"])


def test_the_binomial_blur_is_that_of_blur_pooling():
    found = blur_pool(jnp.asarray(IMAGES), strides=(1, 1))
    np.testing.assert_allclose(found[:, 1:-1, 1:-1], over("binomial_blur")[:, 1:-1, 1:-1], rtol=1e-4, atol=1e-5)


def test_filters_cannot_be_changed():
    with pytest.raises(ValueError, match="read-only"):
        FILTERS["identity"][0, 0] = 1


def test_a_gabor_function_by_hand():
    found = gabor(5, wavelength=4, orientation=0, sigma=2)
    assert found[2, 2] == 1
    np.testing.assert_allclose(found[2], [-np.exp(-0.5), 0, 1, 0, -np.exp(-0.5)], atol=1e-6)
    np.testing.assert_allclose(found[:, 2], np.exp(-(np.arange(-2, 3) ** 2) / 8), rtol=1e-6)


@pytest.mark.parametrize("size", [5, 6, (4, 7)])
def test_symmetries_of_gabor_functions(size):
    even, odd = (gabor(size, 3.0, 0.7, phase) for phase in (0.0, np.pi / 2))
    np.testing.assert_allclose(even, even[::-1, ::-1], atol=1e-6)
    np.testing.assert_allclose(odd, -odd[::-1, ::-1], atol=1e-6)
    np.testing.assert_allclose(gabor(size, 3.0, -0.7), even[::-1], atol=1e-6)
    np.testing.assert_allclose(gabor(size, 3.0, 0.7 + np.pi), even, atol=1e-6)


def test_a_gabor_function_turns_anticlockwise():
    np.testing.assert_allclose(gabor(7, 4.0, np.pi / 2, 0.3), np.rot90(gabor(7, 4.0, 0.0, 0.3)), atol=1e-6)


def test_aspect_narrows_it_across_the_wave():
    round_, narrow = (gabor(9, 4.0, 0.0, aspect=aspect) for aspect in (1.0, 2.0))
    np.testing.assert_allclose(narrow[4], round_[4])
    np.testing.assert_allclose(narrow[4 + 2, 4], round_[4 + 4, 4], rtol=1e-5)


def test_its_bandwidth_is_one_octave():
    """At half of its largest response the higher frequency is twice the lower one."""
    wavelength, side = 8.0, 65
    kernel = gabor(side, wavelength, 0.0)
    frequency = np.linspace(0, 0.5, 2001)
    x = np.arange(side) - side // 2
    response = abs(np.exp(-2j * np.pi * np.outer(frequency, x)) @ kernel[side // 2])
    high = frequency[response >= response.max() / 2]
    assert high.max() / high.min() == pytest.approx(2, rel=0.02)


@pytest.mark.parametrize("name", ["wavelength", "sigma", "aspect"])
def test_a_gabor_function_needs_positive_lengths(name):
    with pytest.raises(UsageError, match=f"{name}=0.* must be above 0"):
        gabor(5, **{"wavelength": 4.0, "orientation": 0.0, name: 0.0})


def test_an_empty_gabor_function_is_refused():
    with pytest.raises(UsageError, match="0x3 pixels is empty"):
        gabor((0, 3), 4.0, 0.0)
