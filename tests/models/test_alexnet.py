import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import models, tree
from cnnjax.analysis import multiply_adds, receptive_fields
from cnnjax.ops.lrn import local_response_norm
from cnnjax.ops.pool import max_pool
from cnnjax.typing import UsageError
from tests.fixtures.networks import check_evaluation, filled, images, jit, shapes, unused, without_gradient

NAMES = ("alexnet", "alexnet_one_column")


def tiny(name="alexnet", **fields):
    """Narrow, on the smallest images."""
    fields = {"features": (4, 6, 6, 4, 4), "dense": (6, 5), "num_classes": 3, **fields}
    model = models.create(name, **fields)
    return model, (model.min_size, model.min_size, 3)


# Counts and shapes


def test_parameters_of_every_layer():  # of 60,965,224
    params = models.parameter_shapes(models.create("alexnet"), (227, 227, 3))["params"]
    assert {name: tree.count(layer) for name, layer in params.items()} == {
        "conv1": 34_944, "conv2": 307_456, "conv3": 885_120, "conv4": 663_936, "conv5": 442_624,
        "dense1": 37_752_832, "dense2": 16_781_312, "head": 4_097_000,
    }  # fmt: skip
    assert models.count_parameters("alexnet", groups=1) == 62_378_344  # as if there had been one GPU


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("alexnet", 724),  # Sze et al. 2017 (arXiv:1703.09039), table 2
        ("alexnet_one_column", 714),  # torchvision's table of weights
    ],
)
def test_multiply_adds_are_the_published(name, millions):
    assert multiply_adds(models.create(name), models.MODELS[name].image_shape) == pytest.approx(
        millions * 1e6, rel=0.01
    )


@pytest.mark.parametrize(
    ("name", "size", "channels"),
    [("alexnet", 227, (96, 256, 384, 384, 256)), ("alexnet_one_column", 224, (64, 192, 384, 256, 256))],
)
def test_shapes_by_stage(name, size, channels):  # S4:376-388
    logits, endpoints = shapes(models.create(name), (size, size, 3))
    assert logits == (2, 1000)
    sides = {"conv1": 55, "stage1": 27, "conv2": 27, "stage2": 13, "conv3": 13, "conv4": 13, "conv5": 13, "stage3": 6}
    of = {"conv1": 0, "stage1": 0, "conv2": 1, "stage2": 1, "conv3": 2, "conv4": 3, "conv5": 4, "stage3": 4}
    expected = {at: (2, side, side, channels[of[at]]) for at, side in sides.items()}
    dense = {"dense1": (2, 4096), "dense2": (2, 4096), "features": (2, 4096), "logits_map": (2, 1, 1, 1000)}
    assert endpoints == {**expected, **dense}


def test_larger_images_have_a_map_of_logits():
    logits, endpoints = shapes(models.create("alexnet", num_classes=7), (291, 259, 3))
    assert (logits, endpoints["logits_map"]) == ((2, 7), (2, 3, 2, 7))


def test_a_unit_of_the_last_map_reads_195_pixels():
    field = receptive_fields(models.create("alexnet", features=(2,) * 5, dense=()), (227, 227, 3))["stage3"]
    assert (field.size, field.stride) == ((195, 195), (32, 32))


# What it computes


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_is_used(name):
    assert unused(models.create(name), (67, 67, 3)) == []


@pytest.mark.slow
def test_every_parameter_has_a_gradient():
    assert without_gradient(*tiny(activation="elu")) == []


@pytest.mark.slow
def test_evaluation():
    *_, logits, endpoints = check_evaluation(*tiny("alexnet_one_column", norm="batch"))
    np.testing.assert_allclose(endpoints["logits_map"][:, 0, 0], logits, rtol=1e-5)


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.slow
def test_normalisation_stands_before_the_pooling_or_after(after):
    model, shape = tiny(lrn_after_pool=after)
    variables, x = filled(model, shape), 10 * images(1, shape)

    @jit
    def compute(variables, x):
        ends = model.apply(variables, x)[1]
        return ends["conv1"], ends["stage1"]

    before, stage = compute(variables, x)
    layers = [local_response_norm, lambda x: max_pool(x, (3, 3), (2, 2))]
    first, second = layers[::-1] if after else layers
    np.testing.assert_allclose(stage, second(first(before)), rtol=1e-4, atol=1e-5)
    assert np.abs(stage - first(second(before))).max() > 0.1


def test_the_groups_meet_in_the_third_convolution():
    """Without local response normalisation, which runs over all channels."""
    model, shape = tiny(lrn=False, features=(4, 4, 4, 4, 4), activation="identity")
    params, x = filled(model, shape)["params"], jnp.asarray(images(1, shape))

    def maps(bias, params):
        conv1 = {**params["conv1"], "norm": {"bias": bias}}
        ends = model.apply({"params": {**params, "conv1": conv1}}, x)[1]
        return {name: ends[name].sum((0, 1, 2)) for name in ("conv2", "conv3")}

    reads = jit(jax.jacrev(maps))(jnp.ones(4), params)
    np.testing.assert_array_equal(reads["conv2"] != 0, np.kron(np.eye(2), np.ones((2, 2))))
    assert np.all(reads["conv3"] != 0)


@pytest.mark.slow
def test_it_starts_as_the_paper_says():
    model, shape = tiny(features=(24, 24, 24, 24, 24), dense=(50, 50))
    params = jit(model.init)(jax.random.key(0), jnp.zeros((1, *shape)))["params"]
    for name, leaf in zip(tree.names(params), jax.tree.leaves(params), strict=True):
        if name.endswith("kernel"):
            assert leaf.std() == pytest.approx(0.01, rel=5 / math.sqrt(2 * leaf.size)), name
        else:
            layer = name.partition("/")[0]
            np.testing.assert_array_equal(leaf, layer in ("conv2", "conv4", "conv5", "dense1", "dense2"), err_msg=name)


@pytest.mark.parametrize(("name", "norm"), [("alexnet_one_column", "none"), ("alexnet", "batch")])
def test_other_biases_start_at_zero(name, norm):
    model, shape = tiny(name, norm=norm)

    @jit
    def biases(key):
        params = model.init(key, jnp.zeros((1, *shape)))["params"]
        return [params[f"conv{index}"]["norm"]["bias"] for index in range(1, 6)]

    assert not np.any(np.concatenate(biases(jax.random.key(0))))


# Refusals


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"features": (96, 256)}, r"features must hold five positive whole numbers of channels, not \(96, 256\)"),
        ({"features": (96, 256, 384, 384, 0)}, "features must hold five positive whole numbers of channels"),
        ({"groups": 0}, "groups must be a positive whole number, not 0"),
        ({"groups": 3}, r"groups=3 must divide all of features=\(96, 256"),
        ({"stem_padding": -1}, "stem_padding must be a number of pixels, at least 0, not -1"),
        ({"dense": (4096, 0)}, r"dense must hold at most nine positive whole numbers of units, not \(4096, 0\)"),
        ({"num_classes": -1}, r"num_classes must be a positive whole number, .*, not -1"),
        ({"lnr": False}, "Unknown field of model alexnet 'lnr'. Did you mean 'lrn'"),
    ],
)
def test_a_bad_field_is_refused(fields, message):
    with pytest.raises(UsageError, match=message):
        models.create("alexnet", **fields)


@pytest.mark.parametrize(("padding", "smallest"), [(0, 67), (2, 63), (40, 1)])
def test_the_smallest_image(padding, smallest):
    model, shape = tiny(stem_padding=padding)
    models.parameter_shapes(model, shape)
    assert model.min_size == smallest
    if smallest > 1:
        with pytest.raises(UsageError, match=f"alexnet needs images of at least {smallest}x{smallest} pixels"):
            models.check_image_shape(model, (smallest, smallest - 1, 3), "alexnet")
        with pytest.raises(UsageError, match="larger images"):
            models.parameter_shapes(model, (smallest, smallest - 1, 3))
