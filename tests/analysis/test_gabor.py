import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import models
from cnnjax.analysis import gabor
from cnnjax.ops import filters
from cnnjax.typing import UsageError
from tests.fixtures.networks import jit

SIDE = 7
COLOURS = np.array([[0.2, -0.9, 0.4], [1.0, 1.0, 1.0]], np.float32)


def kernel_of(functions, colours=COLOURS[:1]):
    """(kh, kw, 3, O): each function (kh, kw) in its colour."""
    pairs = zip(functions, np.resize(colours, (len(functions), 3)), strict=True)
    return jnp.asarray(np.stack([function[..., None] * colour for function, colour in pairs], -1), jnp.float32)


@pytest.fixture(scope="module")
def entries():
    """Of the dictionary, some at random: their parameters, phases, and the functions."""
    rng = np.random.default_rng(0)
    words = gabor.dictionary(SIDE, SIDE)
    wide = words.parameters[words.parameters[:, 0] < SIDE]  # of longer ones several have almost the same functions
    chosen, phases = wide[rng.integers(len(wide), size=16)], rng.uniform(-3, 3, 16)
    y, x = np.mgrid[:SIDE, :SIDE]
    functions = [
        filters.wave(3 + down - y, x - 3 - right, wavelength, angle, phase, sigma, 1.0)
        for (wavelength, sigma, angle, down, right), phase in zip(chosen, phases, strict=True)
    ]
    return chosen, phases, functions


@pytest.fixture(scope="module")
def found(entries):
    return gabor.fit(kernel_of(entries[2], COLOURS))


def test_a_function_of_the_dictionary_is_found_exactly(entries, found):
    chosen, phases, functions = entries
    np.testing.assert_allclose(found.r2, 1, atol=1e-5)
    np.testing.assert_allclose(found.filters, kernel_of(functions, COLOURS), atol=2e-3)
    colours = COLOURS / np.linalg.norm(COLOURS, axis=1, keepdims=True)
    colours[0] *= -1  # the largest weight is positive
    np.testing.assert_allclose(found.colour.T, np.resize(colours, (16, 3)), atol=1e-3)
    for place, (wavelength, sigma, angle, down, right) in enumerate(chosen):
        if found.wavelength[place] == pytest.approx(wavelength) and found.sigma[place] == pytest.approx(sigma):
            assert found.orientation[place] == pytest.approx(angle, abs=1e-5)
            np.testing.assert_allclose(found.centre[place], [down, right], atol=1e-5)
            turned = phases[place] + (np.pi if place % 2 == 0 else 0)
            assert np.cos(found.phase[place] - turned) == pytest.approx(1, abs=1e-3)
    assert np.mean(np.isclose(found.wavelength, chosen[:, 0])) > 0.7


def test_the_parameters_describe_the_function_that_was_fitted(found):
    """Built again from wavelength, width, orientation, phase, place and colour, it is the same up to its strength."""
    y, x = np.mgrid[:SIDE, :SIDE]
    for place in range(16):
        down, right = np.asarray(found.centre[place])
        again = filters.wave(
            3 + down - y, x - 3 - right, *(float(part[place]) for part in (found.wavelength, found.orientation)),
            float(found.phase[place]), float(found.sigma[place]), 1.0,
        )[..., None] * np.asarray(found.colour)[:, place]  # fmt: skip
        fitted = np.asarray(found.filters[..., place])
        cosine = (again * fitted).sum() / np.linalg.norm(again) / np.linalg.norm(fitted)
        assert cosine == pytest.approx(1, abs=1e-3)


def test_off_the_grid_little_is_lost_and_noise_is_far_below():
    rng = np.random.default_rng(1)
    functions = [filters.gabor(SIDE, rng.uniform(3, 10), rng.uniform(0, np.pi), rng.uniform(-3, 3)) for _ in range(16)]
    r2 = np.asarray(gabor.fit(kernel_of(functions)).r2)
    assert r2.min() > 0.88
    assert r2.mean() > 0.95
    level = gabor.noise((SIDE, SIDE, 3))
    assert level == pytest.approx(0.118, abs=0.002)
    drawn = jnp.asarray(rng.standard_normal((SIDE, SIDE, 3, 16)), jnp.float32)
    assert gabor.fit(drawn).r2.mean() == pytest.approx(level, abs=0.02)


def test_strength_and_sign_are_of_no_matter_and_noise_lowers_the_fit(entries):
    pure = kernel_of(entries[2])
    noise = jnp.asarray(np.random.default_rng(2).standard_normal(pure.shape), jnp.float32)
    noise *= jnp.sqrt(jnp.square(pure).sum((0, 1, 2)) / jnp.square(noise).sum((0, 1, 2)))
    half = gabor.fit(-5 * (pure + noise)).r2
    assert np.all((half > 0.4) & (half < 0.75))
    np.testing.assert_allclose(gabor.fit(pure + noise).r2, half, rtol=1e-4)


def test_the_fit_is_the_best_projection_of_the_dictionary():
    """Against the definition: for every entry, the largest singular value of the filter's projection."""
    kernel = np.random.default_rng(3).standard_normal((SIDE, SIDE, 3, 2)).astype(np.float32)
    words = gabor.dictionary(SIDE, SIDE)
    np.testing.assert_allclose(
        np.einsum("dpk,dqk->dpq", words.basis, words.basis), np.broadcast_to(np.eye(2), (len(words.basis), 2, 2)),
        atol=1e-5,
    )  # fmt: skip
    projected = np.einsum("dpk,kco->odpc", words.basis, kernel.reshape(SIDE * SIDE, 3, 2))
    best = np.linalg.svd(projected, compute_uv=False)[..., 0].max(1) ** 2
    np.testing.assert_allclose(gabor.fit(jnp.asarray(kernel)).r2, best / (kernel**2).sum((0, 1, 2)), rtol=1e-4)


@pytest.mark.slow
def test_a_filter_of_zeros_has_no_fit_and_no_nan():
    kernel = jnp.zeros((SIDE, SIDE, 3, 2))
    assert not np.any(gabor.fit(kernel).r2)
    assert not np.any(gabor.orientation_selectivity(kernel))
    assert np.all(np.isfinite(gabor.colour_share(kernel)))


def test_orientation_selectivity_tells_gratings_from_blobs_and_noise():
    y, x = np.mgrid[:SIDE, :SIDE] - 3
    grating, blob = np.cos(2 * np.pi * (x + y) / 4), np.exp(-(x**2 + y**2) / 4)
    cross = np.cos(2 * np.pi * x / 3.5) + np.cos(2 * np.pi * y / 3.5)
    selectivity = jit(gabor.orientation_selectivity)
    found = np.asarray(selectivity(kernel_of([grating, grating[::-1], blob, cross, grating])))
    assert found[0] > 0.75
    np.testing.assert_allclose(found[2:4], 0, atol=1e-3)
    np.testing.assert_allclose(found[[1, 4]], found[0], rtol=1e-4)
    noise = selectivity(jnp.asarray(np.random.default_rng(4).standard_normal((SIDE, SIDE, 3, 64)), jnp.float32))
    assert 0.05 < noise.mean() < 0.12


@pytest.mark.slow
def test_orientation_selectivity_is_a_mean_of_directions_over_the_spectrum():
    kernel = np.random.default_rng(5).standard_normal((3, 5, 2, 3)).astype(np.float32)
    power = (abs(np.fft.fft2(kernel, (6, 10), (0, 1))) ** 2).sum(2)
    up, right = np.meshgrid(np.fft.fftfreq(6), np.fft.fftfreq(10), indexing="ij")
    power[(np.hypot(up, right) > 0.5) | (np.hypot(up, right) == 0)] = 0
    expected = abs((power * np.exp(2j * np.arctan2(up, right))[..., None]).sum((0, 1))) / power.sum((0, 1))
    np.testing.assert_allclose(gabor.orientation_selectivity(jnp.asarray(kernel)), expected, rtol=1e-4)


@pytest.mark.slow
def test_colour_share_of_grey_of_pure_colour_and_of_noise():
    pattern = np.random.default_rng(6).standard_normal((4, 4))
    colours = np.array([[1, 1, 1], [1, -1, 0], [1, 0, 0]], np.float32)
    np.testing.assert_allclose(gabor.colour_share(kernel_of([pattern] * 3, colours)), [0, 1, 2 / 3], atol=1e-5)
    assert gabor.colour_share(jnp.asarray(pattern, jnp.float32)[..., None, None]) == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize(
    ("name", "fields", "layer"),
    [
        ("vgg_small", {"kernel_size": 7}, ("conv1_1", "kernel")),
        ("alexnet", {}, ("conv1", "conv", "kernel")),
        ("resnet20_cifar", {}, ("stem", "kernel")),
    ],
)
def test_the_first_kernel_of_a_network(name, fields, layer):
    model = models.create(name, **fields)
    shapes = models.parameter_shapes(model, models.MODELS[name].image_shape)

    def both(variables):
        expected = variables["params"]
        for part in layer:
            expected = expected[part]
        return gabor.first_kernel(model, variables), expected

    traced = jax.make_jaxpr(both)(shapes)  # nothing is computed
    assert traced.jaxpr.outvars[0] is traced.jaxpr.outvars[1]


def test_refusals():
    with pytest.raises(UsageError, match="MLP has no convolution"):
        gabor.first_kernel(models.create("mlp"), {"params": {"dense1": {"kernel": jnp.zeros((3, 2))}}})
    for function in (gabor.fit, gabor.orientation_selectivity):
        with pytest.raises(UsageError, match="Filters of 2x7 pixels are too small"):
            function(jnp.zeros((2, 7, 3, 1)))
    with pytest.raises(UsageError, match="1x1 pixels"):
        gabor.noise((1, 1, 3))


def test_it_compiles():
    kernel = jnp.asarray(np.random.default_rng(3).standard_normal((SIDE, SIDE, 3, 2)), jnp.float32)
    np.testing.assert_allclose(jax.jit(lambda k: gabor.fit(k).r2)(kernel), gabor.fit(kernel).r2, rtol=1e-5)
