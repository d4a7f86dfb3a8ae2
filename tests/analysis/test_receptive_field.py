import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import models
from cnnjax.analysis import receptive_fields
from cnnjax.nn import Conv
from cnnjax.ops.pool import average_pool, blur_pool, max_pool


class Net(nn.Module):
    """Layers one after the other, each map an endpoint."""

    layers: tuple

    @nn.compact
    def __call__(self, images):
        endpoints, x = {}, images
        for index, layer in enumerate(self.layers):
            x = endpoints[f"map{index}"] = layer(x)
        return x.mean((1, 2)), endpoints


def conv(side, stride=1, padding="SAME", dilation=1, groups=1):
    return lambda x: Conv(
        2 * groups, (side, side), (stride, stride), padding, (dilation, dilation), groups, use_bias=False
    )(x)


def fields(*layers, shape=(64, 64, 2)):
    return [(f.size[0], f.stride[0], f.start[0]) for f in receptive_fields(Net(layers), shape).values()]


def test_a_chain_by_hand():
    assert fields(conv(3), conv(3), conv(3)) == [(3, 1, -1), (5, 1, -2), (7, 1, -3)]  # S3:519-532
    assert fields(conv(3, 2, 1), conv(3, 2, 1)) == [(3, 2, -1), (7, 4, -3)]
    assert fields(conv(3, padding="VALID"), max_pool, conv(3, padding="VALID")) == [(3, 1, 0), (4, 2, 0), (8, 2, 0)]


@pytest.mark.parametrize(("dilations", "size"), [((1, 2, 4), 15), ((1, 2, 4, 8), 31)])  # S3:795-826
def test_dilated_convolutions_grow_exponentially(dilations, size):
    assert fields(*(conv(3, dilation=d) for d in dilations))[-1][0] == size


def test_branches_that_meet_have_the_larger_field():
    def block(x):
        return jnp.concatenate([conv(1)(x), conv(5)(x), max_pool(x, (3, 3), (1, 1), 1)], -1)

    assert fields(block) == [(5, 1, -2)]
    assert fields(lambda x: x + conv(3)(conv(3)(x))) == [(5, 1, -2)]


def test_flax_layers_and_transposed_convolutions():
    assert fields(lambda x: nn.max_pool(nn.Conv(2, (5, 5))(x), (3, 3), (2, 2))) == [(7, 2, -2)]
    assert fields(lambda x: nn.Conv(2, (4, 4), (2, 2), ((1, 1), (1, 1)))(x)) == [(4, 2, -1)]


def test_a_unit_that_reads_a_global_average_reads_the_whole_image():
    def squeeze_and_excite(x):
        return x * nn.sigmoid(x.mean((1, 2), keepdims=True))

    (found,) = receptive_fields(Net((squeeze_and_excite,)), (12, 10, 2)).values()
    assert found.whole_image
    assert found.size == (12, 10)


@pytest.mark.parametrize(
    ("name", "endpoint", "size", "stride"),
    [
        ("lenet5", "conv1", 5, 1), ("lenet5", "pool1", 6, 2), ("lenet5", "conv2", 14, 2), ("lenet5", "pool2", 16, 4),
        ("resnet20_cifar", "stage3", 3 + 12 + 2 + 20 + 4 + 40, 4),
        ("resnet56_cifar", "stage1", 3 + 36, 1),
    ],
)  # fmt: skip
def test_networks(name, endpoint, size, stride):
    found = receptive_fields(models.create(name), models.MODELS[name].image_shape)[endpoint]
    assert (found.size, found.stride) == ((size, size), (stride, stride))


@pytest.mark.parametrize(
    "layers",
    [
        (conv(3), max_pool, conv(5, 2)),
        (conv(3, dilation=2), conv(2, padding="VALID"), average_pool),
        (conv(3, 3, 1, groups=1), conv(4, 1, ((2, 1), (2, 1)))),
        (lambda x: max_pool(x, (3, 3), (2, 2), 1), conv(3)),
    ],
)
def test_it_is_where_the_gradient_is_not_zero(layers):
    shape = (40, 40, 2)
    model = Net(layers)
    found = list(receptive_fields(model, shape).values())[-1]
    variables = jax.tree_util.tree_map(lambda leaf: jnp.ones(leaf.shape), models.parameter_shapes(model, shape))
    last = f"map{len(layers) - 1}"
    at = 4

    def paths(images):  # soft, so that every pixel of a maximum counts
        return model.apply(variables, images)[1][last][0, at, at, 0]

    constant = jnp.ones((1, *shape))  # all pixels of a window share its maximum
    read = np.asarray(jax.grad(paths)(constant))[0].any((1, 2)).nonzero()[0]
    start = found.start[0] + at * found.stride[0]
    assert (read.min(), read.max()) == (start, start + found.size[0] - 1)


def test_a_border_of_copies_changes_nothing():
    assert fields(blur_pool, lambda x: blur_pool(x, 5)) == [(3, 2, -1), (11, 4, -5)]
