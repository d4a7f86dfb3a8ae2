import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance
from scipy.stats import kstest, norm, uniform

from cnnjax import augment
from cnnjax.data.dataset import Info, assemble
from cnnjax.typing import UsageError

COLOURS = ("colour_jitter", "rgb_shift", "pca_colour")
transform = jax.jit(augment.transform)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (4, 9, 7, 3), np.uint8)


def unit(images):
    return images.astype(np.float32) / 255


# What is drawn


@pytest.mark.parametrize("strength", [1.0, 0.5])
def test_the_distributions_of_the_parameters(strength):
    draw = jax.jit(lambda: augment.draw(jax.random.key(0), 3000, 3, COLOURS, dict.fromkeys(COLOURS, strength)))
    values = {name: np.asarray(value) for name, value in draw().items()}
    reach = {"colour_jitter": 0.4 * strength, "rgb_shift": 20 / 255 * strength}
    for name, value in values.items():
        assert value.shape == (3000, 3)
        for column in value.T:
            if name == "pca_colour":
                assert kstest(column, norm(0, 0.1 * strength).cdf).pvalue > 1e-3
            else:
                low = (name == "colour_jitter") - reach[name]
                assert kstest(column, uniform(low, 2 * reach[name]).cdf).pvalue > 1e-3
        assert np.abs(np.corrcoef(value.T) - np.eye(3)).max() < 0.08  # each column has draws of its own


# What is done with it


@pytest.mark.parametrize(
    ("place", "enhance"), list(enumerate([ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color]))
)
@pytest.mark.parametrize("factor", [0.6, 1.0, 1.4])
def test_colour_jitter_is_that_of_pillow(images, place, enhance, factor):
    factors = np.ones((len(images), 3), np.float32)
    factors[:, place] = factor
    out = 255 * transform({"images": unit(images)}, {"colour_jitter": factors})["images"]
    for image, found in zip(images, out, strict=True):
        expected = enhance(Image.fromarray(image)).enhance(factor)
        np.testing.assert_allclose(found, np.asarray(expected, np.float32), atol=1.5)  # Pillow rounds twice


def test_jitter_is_brightness_then_contrast_then_saturation(images):
    factors = np.random.default_rng(1).uniform(0.6, 1.4, (len(images), 3)).astype(np.float32)
    out = transform({"images": unit(images)}, {"colour_jitter": factors})["images"]
    for image, (brightness, contrast, saturation), found in zip(images / 255, factors, out, strict=True):
        image = np.clip(brightness * image, 0, 1)
        grey = image @ [0.299, 0.587, 0.114]
        image = np.clip(grey.mean() + contrast * (image - grey.mean()), 0, 1)
        grey = (image @ [0.299, 0.587, 0.114])[..., None]
        np.testing.assert_allclose(found, np.clip(grey + saturation * (image - grey), 0, 1), atol=1e-5)


def test_rgb_shift_adds_to_each_channel(images):
    offsets = np.random.default_rng(1).uniform(-0.3, 0.3, (len(images), 3)).astype(np.float32)
    out = transform({"images": unit(images)}, {"rgb_shift": offsets})["images"]
    for image, offset, found in zip(images / 255, offsets, out, strict=True):
        np.testing.assert_allclose(found, np.clip(image + offset, 0, 1), atol=1e-6)


def dataset(images):
    sizes = {"train": len(images) - 2, "valid": 1, "test": 1}
    return assemble(Info("x", images.shape[1:], 2, sizes, ("a", "b")), images, np.zeros(len(images), np.int32))


def correlated(channels, count=40):
    random = np.random.default_rng(3)
    mixed = random.normal(size=(count, 5, 6, channels)) @ random.normal(size=(channels, channels))
    return np.clip(128 + 25 * mixed, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_the_colour_basis_is_a_root_of_the_covariance_of_the_training_pixels(channels):
    images = correlated(channels)
    basis = dataset(images).colour_basis
    covariance = np.cov(images[:-2].reshape(-1, channels).T / 255, bias=True).reshape(channels, channels)
    assert basis.dtype == np.float32
    np.testing.assert_allclose(basis @ basis.T, covariance, atol=1e-6)
    squares = basis.T @ basis  # the eigenvalues, the largest first, on the diagonal
    np.testing.assert_allclose(squares, np.diag(np.linalg.eigvalsh(covariance)[::-1]), atol=1e-6)
    assert np.all(basis[np.abs(basis).argmax(0), np.arange(channels)] > 0)
    np.testing.assert_array_equal(basis, dataset(images[[*range(37, -1, -1), 38, 39]]).colour_basis)


def test_the_colour_basis_of_many_images_and_of_one_colour():
    images = np.full((3002, 2, 2, 3), [255, 255, 7], np.uint8)  # more than one chunk, the greatest sums
    np.testing.assert_array_equal(dataset(images).colour_basis, 0)
    images[:1500, :, :, 0] = 0
    np.testing.assert_allclose(dataset(images).colour_basis, [[0.5, 0, 0], [0, 0, 0], [0, 0, 0]], atol=1e-6)


def test_pca_colour_is_the_formula_of_krizhevsky():
    images = correlated(3)
    data = dataset(images)
    multiples = np.random.default_rng(1).normal(0, 1, (len(images), 3)).astype(np.float32)
    out = transform({"images": unit(images)}, {"pca_colour": multiples}, data.colour_basis)["images"]
    values, vectors = np.linalg.eigh(np.cov(images[:-2].reshape(-1, 3).T / 255, bias=True))
    values, vectors = values[::-1], vectors[:, ::-1]
    vectors = vectors * np.sign(vectors[np.abs(vectors).argmax(0), np.arange(3)])
    for image, multiple, found in zip(images / 255, multiples, out, strict=True):
        shift = vectors @ (multiple * values)
        np.testing.assert_allclose(found, np.clip(image + shift, 0, 1), atol=1e-5)
        assert np.abs(shift).max() > 1e-3


# Other images


def test_grey_images_have_brightness_and_contrast_but_no_saturation(images):
    grey = unit(images[..., :1])
    factors = np.ones((len(images), 3), np.float32)
    factors[:, 2] = 0.6
    np.testing.assert_array_equal(transform({"images": grey}, {"colour_jitter": factors})["images"], grey)
    factors[:, :2] = [1.2, 0.7]
    out = transform({"images": grey}, {"colour_jitter": factors})["images"]
    bright = np.clip(1.2 * grey, 0, 1)
    mean = bright.mean((1, 2, 3), keepdims=True)
    np.testing.assert_allclose(out, np.clip(mean + 0.7 * (bright - mean), 0, 1), atol=1e-5)
    shift = np.full((len(images), 1), 2.0, np.float32)
    out = transform({"images": 0.5 * grey}, {"pca_colour": shift}, np.array([[0.25]], np.float32))["images"]
    np.testing.assert_allclose(out, np.clip(0.5 * grey + 2 * 0.25**2, 0, 1), atol=1e-6)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_images_stay_between_0_and_1(channels):
    images = np.random.default_rng(0).integers(0, 2, (8, 5, 5, channels)).astype(np.float32)
    strong = {
        "colour_jitter": np.random.default_rng(1).uniform(0, 3, (8, 3)).astype(np.float32),
        "rgb_shift": np.random.default_rng(2).uniform(-1, 1, (8, channels)).astype(np.float32),
        "pca_colour": np.random.default_rng(3).normal(0, 3, (8, channels)).astype(np.float32),
    }
    for name, value in strong.items():
        out = np.asarray(transform({"images": images}, {name: value}, np.eye(channels, dtype=np.float32))["images"])
        assert out.min() >= 0
        assert out.max() <= 1
        assert np.any(out != images)


def test_pca_colour_without_a_basis_is_refused(images):
    with pytest.raises(UsageError, match="pca_colour needs colour_basis"):
        augment.transform({"images": jnp.asarray(unit(images))}, {"pca_colour": jnp.zeros((4, 3))})
