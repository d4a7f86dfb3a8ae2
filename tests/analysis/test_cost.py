import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from cnnjax import models
from cnnjax.analysis import activations, multiply_adds


class Layers(nn.Module):
    """Whatever is called on the images."""

    make: object

    @nn.compact
    def __call__(self, images):
        return self.make(images)


def cost(make, image_shape=(8, 6, 3)):
    return multiply_adds(Layers(make), image_shape), activations(Layers(make), image_shape)


# He et al. 2015 and later tables, of convolutions and the dense layer: millions.
@pytest.mark.parametrize(("name", "published"), [("resnet20", 40.55), ("plain56", 125.49), ("resnet110", 252.89)])
def test_cifar_nets_cost_what_is_published(name, published):
    found = multiply_adds(models.create(f"{name}_cifar"), (32, 32, 3))
    assert found / 1e6 == pytest.approx(published, rel=0.01)


@pytest.mark.parametrize("blocks", [1, 2, 9])
def test_cifar_resnets_by_hand(blocks):
    stem, head = 32 * 32 * 27 * 16, 64 * 10
    same = [2 * side**2 * 9 * width**2 for side, width in ((32, 16), (16, 32), (8, 64))]
    strided = [side**2 * 9 * width * (width // 2 + width) for side, width in ((16, 32), (8, 64))]
    expected = stem + head + blocks * same[0] + (blocks - 1) * (same[1] + same[2]) + sum(strided)
    found = multiply_adds(models.create("resnet8_cifar", depth=6 * blocks + 2), (32, 32, 3))
    assert found == expected  # and nothing for the endpoints, such as the head at every pixel


def test_lenet5_by_hand():
    layers = [28 * 28 * 25 * 6, 10 * 10 * 25 * 6 * 16, 400 * 120, 120 * 84, 84 * 10]
    assert multiply_adds(models.create("lenet5"), (32, 32, 1)) == sum(layers) == 416_520
    outputs = [28 * 28 * 6, 10 * 10 * 16, 120, 84, 10]
    assert activations(models.create("lenet5"), (32, 32, 1)) == sum(outputs)


def test_mlp_by_hand():
    model = models.create("mlp", hidden=(100, 50))
    assert multiply_adds(model, (8, 8, 1)) == 64 * 100 + 100 * 50 + 50 * 10
    assert activations(model, (8, 8, 1)) == 160


def test_a_network_with_a_field_that_cannot_be_hashed_is_counted_too():
    class Dense(nn.Module):
        sizes: dict

        @nn.compact
        def __call__(self, images):
            return nn.Dense(self.sizes["hidden"])(images)

    assert multiply_adds(Dense({"hidden": 4}), (3,)) == 12
    with pytest.raises(TypeError):
        hash(Dense({"hidden": jnp.zeros(1)}))
    assert multiply_adds(Dense({"hidden": 4, "unused": jnp.zeros(1)}), (3,)) == 12


@pytest.mark.parametrize(
    ("make", "products", "outputs"),
    [
        (lambda x: nn.Conv(5, (3, 3))(x), 8 * 6 * 9 * 3 * 5, 8 * 6 * 5),
        (lambda x: nn.Conv(5, (3, 3), padding="VALID")(x), 6 * 4 * 9 * 3 * 5, 6 * 4 * 5),
        (lambda x: nn.Conv(5, (1, 1), strides=2)(x), 4 * 3 * 3 * 5, 4 * 3 * 5),
        (lambda x: nn.Conv(6, (3, 3), feature_group_count=3)(x), 8 * 6 * 9 * 1 * 6, 8 * 6 * 6),
        (lambda x: nn.Dense(7)(x.reshape(len(x), -1)), 144 * 7, 7),
        (lambda x: nn.Dense(7)(x), 8 * 6 * 3 * 7, 8 * 6 * 7),
        (lambda x: jnp.einsum("nhwc,nhwd->ncd", x, x), 8 * 6 * 3 * 3, 9),
        (lambda x: jax.jit(nn.relu)(nn.avg_pool(x + 1, (2, 2))) * 3, 0, 0),
        (lambda x: jax.checkpoint(lambda y: y @ jnp.ones((3, 4)))(x), 8 * 6 * 3 * 4, 8 * 6 * 4),
    ],
)
def test_single_layers(make, products, outputs):
    assert cost(make) == (products, outputs)


def test_a_scan_counts_as_often_as_it_runs():
    def scanned(times):
        return lambda x: jax.lax.scan(lambda y, _: (y @ jnp.ones((3, 3)), None), x, None, length=times)[0]

    single = 8 * 6 * 3 * 3
    assert cost(scanned(1)) == (single, 8 * 6 * 3)
    assert cost(scanned(5)) == (5 * single, 5 * 8 * 6 * 3)

    def nested(x):
        return jax.lax.scan(lambda y, _: (scanned(4)(y), None), x, None, length=3)[0]

    assert cost(nested) == (12 * single, 12 * 8 * 6 * 3)


@pytest.mark.parametrize("side", [4, 16])
def test_the_same_layers_cost_in_proportion_to_the_pixels(side):
    """Also where tiny images are convolved by one matrix product, whose own cost is another."""
    large = multiply_adds(models.create("resnet14_cifar", width=8), (32, 32, 3))
    small = multiply_adds(models.create("resnet14_cifar", width=8), (side, side, 3))
    head = 32 * 10
    ratio = (32 // side) ** 2
    assert (large - head) == ratio * (small - head)
