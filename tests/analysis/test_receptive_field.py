from fractions import Fraction

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import models
from cnnjax.analysis import receptive_fields
from cnnjax.analysis.support import gradient_support
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


def test_what_a_conditional_may_choose_is_read():
    def either(x):
        return jax.lax.cond(jnp.bool_(True), conv(3), lambda x: conv(3)(conv(5)(x)), x)

    assert fields(either) == [(7, 1, -3)]


@pytest.mark.parametrize(
    "layer",
    [
        lambda x: jax.lax.while_loop(lambda y: y.sum() < 9, lambda y: jnp.roll(y, 1, 2), x),
        lambda x: jax.lax.fori_loop(0, x.sum().astype(int), lambda _, y: jnp.roll(y, 1, 1), x),
        lambda x: jax.lax.cond(x.sum() > 0, lambda x: x, lambda x: -x, x),
    ],
    ids=["while", "for", "a choice by the picture"],
)
def test_what_no_program_tells_is_taken_to_read_everything(layer):
    (found,) = receptive_fields(Net((layer,)), (12, 10, 2)).values()
    assert found.whole_image
    assert found.size == (12, 10)


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


def transposed(side, stride, padding="SAME"):
    return lambda x: nn.ConvTranspose(2, (side, side), (stride, stride), padding, use_bias=False)(x)


class Stack(nn.Module):
    """Only the last map comes out."""

    layers: tuple

    @nn.compact
    def __call__(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


def read_by_formula(field, units, pixels):
    """Which rows of pixels each row of units reads."""
    reaches = [field.rows.reach(unit) for unit in range(units)]
    return np.array([[bool(r) and p >= r.low and r.pixels >> (p - r.low) & 1 for p in range(pixels)] for r in reaches])


STACKS = [
    (conv(3), average_pool, conv(5, 2)),
    (conv(3, dilation=2), conv(2, padding="VALID"), average_pool),
    (conv(3, 3, 1, groups=1), conv(4, 1, ((2, 1), (2, 1)))),
    (conv(3, dilation=2), conv(3, dilation=2), conv(3, dilation=2)),  # with holes
    (conv(3, dilation=3, padding="VALID"), conv(2, 2), conv(3, dilation=2)),
    (conv(1, 2), conv(2, 3, "VALID")),  # windows smaller than their strides
    (lambda x: nn.avg_pool(x, (3, 3), (2, 2), "SAME"), transposed(4, 2), conv(3)),
    (conv(3, 2), conv(3, 2, "VALID"), transposed(4, 2), transposed(3, 2, "VALID")),
    (conv(2, 2), transposed(2, 3), conv(2, 2)),  # zeros between the units
    (transposed(5, 3, "VALID"), conv(3, 2, "VALID"), lambda x: x[:, 1::2, 1::2]),
    (lambda x: jnp.concatenate([conv(5)(x), conv(3, dilation=3)(x)], -1), lambda x: conv(1)(x) + conv(3)(x)),
    (conv(3, 2), lambda x: conv(1)(x) + transposed(2, 2)(conv(2, 2)(x))),
]


@pytest.mark.parametrize("layers", STACKS)
@pytest.mark.slow
def test_it_is_where_the_gradient_is_not_zero(layers):
    """S1:1125-1131: exactly the pixels of the formula have a gradient, but at the border, where paths are cut off."""
    pixels, model = 24, Stack(layers)
    shape = (pixels, pixels, 2)
    (field,) = receptive_fields(model, shape).values()
    variables = jax.tree_util.tree_map(lambda leaf: jnp.ones(leaf.shape), models.parameter_shapes(model, shape))
    middle = model.apply(variables, jnp.ones((1, *shape)))[0].shape[1] // 2

    @jax.jit
    def gradients(images):  # of a column of units, whose pixels along the other axis are summed
        return jax.jacrev(lambda images: model.apply(variables, images)[0, :, middle].sum(-1))(images)

    found = np.asarray(gradients(jnp.ones((1, *shape)))[:, 0]).any((2, 3))
    inside = slice(len(found) // 3, -(len(found) // 3))
    assert np.array_equal(found[inside], read_by_formula(field, len(found), pixels)[inside])


@pytest.mark.slow
def test_it_is_where_the_gradient_of_a_maximum_is_not_zero():
    model = Stack((lambda x: max_pool(x, (3, 3), (2, 2), 1), max_pool))
    (field,) = receptive_fields(model, (16, 16, 1)).values()
    # All pixels of a window share its maximum, and padding never wins.
    gradient = jax.grad(lambda images: model.apply({}, images)[0, 2, 2, 0])(jnp.ones((1, 16, 16, 1)))
    assert np.array_equal(np.asarray(gradient)[0, :, :, 0].any(1), read_by_formula(field, 3, 16)[2])


@pytest.mark.parametrize(
    ("name", "overrides", "endpoint"),
    [("lenet5", {"activation": "relu"}, "pool2"), ("plain8_cifar", {"norm": "none", "width": 2}, "stage3")],
)
@pytest.mark.slow
def test_networks_read_what_the_formula_says(name, overrides, endpoint):
    model, shape = models.create(name, **overrides), models.MODELS[name].image_shape
    field = receptive_fields(model, shape)[endpoint]
    support = gradient_support(model, shape, endpoint)
    units = {"pool2": 5, "stage3": 8}[endpoint]
    expected = read_by_formula(field, units, shape[0])[units // 2]
    assert np.array_equal(support, np.outer(expected, expected))


@pytest.mark.parametrize(
    ("dilations", "size"), [((1,), 3), ((1, 1), 5), ((1, 1, 1), 7), ((1, 1, 1, 1), 9), ((1, 2), 7)]
)
def test_worked_numbers_of_the_lectures(dilations, size):
    """S1:1131, S1:1144-1152, S3:274-282."""
    assert fields(*(conv(3, dilation=d) for d in dilations))[-1][0] == size


def test_fractions_of_pixels_after_transposed_convolutions():
    (field,) = receptive_fields(Stack((transposed(4, 2),)), (8, 8, 2)).values()
    assert (field.size, field.stride, field.whole_image) == ((2, 2), (Fraction(1, 2), Fraction(1, 2)), False)


def test_a_border_of_copies_changes_nothing():
    assert fields(blur_pool, lambda x: blur_pool(x, 5)) == [(3, 2, -1), (11, 4, -5)]
