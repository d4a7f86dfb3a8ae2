import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax.analysis.coverage import tap_counts
from cnnjax.analysis.support import effective_side, gradient_energy, gradient_support, roughness
from cnnjax.nn import Conv
from cnnjax.typing import UsageError


class Stack(nn.Module):
    """3x3 convolutions with the given dilations, and the map before them as an endpoint."""

    dilations: tuple[int, ...]

    @nn.compact
    def __call__(self, images):
        x = images
        for dilation in self.dilations:
            x = nn.relu(Conv(2, (3, 3), dilation=(dilation, dilation))(x))
        return x, {"images": images, "mean": x.mean((1, 2))}


@pytest.mark.parametrize("dilations", [(1,), (1, 1), (2, 2), (1, 2, 4), (1, 2, 3)])
@pytest.mark.slow
def test_the_support_is_where_paths_lead(dilations):
    side = 19
    support = gradient_support(Stack(dilations), (side, side, 1))
    taps = tap_counts([3] * len(dilations), dilations) > 0
    margin = (side - len(taps)) // 2
    np.testing.assert_array_equal(support, np.outer(*[np.pad(taps, margin)] * 2))
    assert gradient_support(Stack(dilations), (side, side, 1), "images").sum() == 1


def test_no_map():
    for endpoint, message in (("logits", "no endpoint 'logits'. Choices: images, mean"), ("mean", "not a map")):
        with pytest.raises(UsageError, match=message):
            gradient_support(Stack((1,)), (5, 5, 1), endpoint)


@pytest.mark.slow
def test_the_effective_side_of_squares_and_of_nothing():
    energy = np.zeros((3, 9, 9), np.float32)
    energy[0, 2:7, 2:7] = 0.3
    energy[1, 4, 4] = 7
    side = effective_side(jnp.asarray(energy))
    np.testing.assert_allclose(side[:2], [5, 1], rtol=1e-6)
    assert np.isnan(side[2])


@pytest.mark.slow
def test_the_effective_side_of_random_linear_layers_grows_as_the_root_of_their_number():
    size, channels, layers = 17, 16, 4
    kernels = jax.random.normal(jax.random.key(1), (layers, 3, 3, channels, channels)) / 12
    images = jnp.ones((1, size, size, channels))

    def energy(count):
        def maps(images):
            for kernel in kernels[:count]:
                images = jax.lax.conv_general_dilated(
                    images, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
                )
            return images

        return jax.jit(lambda images: gradient_energy(maps, images))(images)

    for count in (1, 4):  # the variances of independent layers add
        np.testing.assert_allclose(effective_side(energy(count)), np.sqrt(1 + 8 * count), rtol=0.1)


@pytest.mark.slow
def test_the_energy_is_each_images_own():
    draw = np.random.default_rng(0).standard_normal
    images, kernel = (jnp.asarray(draw(shape), jnp.float32) for shape in ((3, 5, 5, 1), (5, 5)))

    def maps(images):  # its middle unit's gradient is 2 kernel^2 image
        return jnp.square(images * kernel[:, :, None]).sum((1, 2), keepdims=True) * jnp.ones((1, 3, 3, 1))

    np.testing.assert_allclose(gradient_energy(maps, images), np.square(2 * kernel**2 * images[..., 0]), rtol=1e-5)


@pytest.mark.slow
def test_roughness_of_known_maps():
    side = 64
    smooth = np.cos(np.pi * (np.arange(side) + 0.5) / side)
    alternating = (-1.0) ** np.arange(side)
    noise = np.random.default_rng(0).standard_normal((side, side))
    ones = np.ones(side)
    maps = np.stack([np.outer(smooth, smooth), np.outer(alternating, alternating), noise, np.outer(ones, ones)])
    found = roughness(jnp.asarray(maps[..., None], jnp.float32))
    np.testing.assert_allclose(found, [0, 2, 1, 0], atol=0.05)
    np.testing.assert_allclose(roughness(jnp.asarray(np.moveaxis(maps, 0, -1)[None], jnp.float32)), found.mean())
