import jax
import numpy as np
import pytest

from cnnjax import models, tree
from cnnjax.analysis import multiply_adds, receptive_fields
from cnnjax.models.choices import POOLS
from cnnjax.ops.lrn import local_response_norm
from cnnjax.typing import UsageError
from tests.fixtures.networks import check_evaluation, filled, images, jit, shapes, unused, without_gradient

# Parameters of the convolutions alone, and their number: the columns of the paper's table 1.
CONVOLUTIONS = {
    "vgg11": (9_220_480, 8),
    "vgg11_lrn": (9_220_480, 8),
    "vgg13": (9_404_992, 10),
    "vgg16_1x1": (9_996_096, 13),
    "vgg16": (14_714_688, 13),
    "vgg19": (20_024_384, 16),
}


def tiny(name="vgg11", **fields):
    """Two stages, narrow, with the published network's other fields; the last map is 3x3."""
    fields = {"stages": ((4, 1), (6, 2)), "dense": (6, 5), "map_size": 2, "num_classes": 3, **fields}
    return models.create(name, **fields), (12, 12, 3)


def params_of(name, **fields):
    return models.parameter_shapes(models.create(name, **fields), (224, 224, 3))["params"]


# Counts and shapes


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions_are_the_papers(name):
    params = params_of(name)
    layers = {key: layer for key, layer in params.items() if key.startswith(("conv", "norm"))}
    count, number = CONVOLUTIONS[name]
    assert tree.count(layers) == count
    assert sum(key.startswith("conv") for key in layers) == number
    assert sum("kernel" in layer for layer in params.values()) == int("".join(filter(str.isdigit, name[:5])))
    sides = {key: layer["kernel"].shape[0] for key, layer in params.items() if key.startswith("conv")}
    ones = {"conv3_3", "conv4_3", "conv5_3"} if name == "vgg16_1x1" else set()
    assert sides == {key: 1 if key in ones else 3 for key in sides}


@pytest.mark.parametrize(
    ("fields", "count"),
    [
        ({"pool": "stride"}, 550_570),
        ({"kernel_size": 1, "pool": "blur"}, 550_570 - 8 * 31_840),
        ({"norm": "batch"}, 550_570 + 2 * (32 + 64 + 128)),
        ({"norm": "batch", "conv_bias": True}, 550_570 + 4 * (32 + 64 + 128)),
        ({"lrn": True}, 550_570),
    ],
)
def test_parameter_counts(fields, count):
    assert models.count_parameters("vgg_small", **fields) == count


@pytest.mark.parametrize(("name", "billions"), [("vgg11", 7.61), ("vgg13", 11.31), ("vgg16", 15.47), ("vgg19", 19.63)])
@pytest.mark.parametrize("norm", ["", "_bn"])
@pytest.mark.slow
def test_multiply_adds_are_torchvisions(name, norm, billions):
    assert multiply_adds(models.create(name + norm), (224, 224, 3)) == pytest.approx(billions * 1e9, rel=0.01)


def test_shapes_by_stage():  # S4:395-401
    logits, endpoints = shapes(models.create("vgg16"), (224, 224, 3))
    assert logits == (2, 1000)
    assert endpoints == {
        "stage1": (2, 112, 112, 64), "stage2": (2, 56, 56, 128), "stage3": (2, 28, 28, 256), "stage4": (2, 14, 14, 512),
        "stage5": (2, 7, 7, 512), "dense1": (2, 4096), "dense2": (2, 4096), "features": (2, 4096),
        "logits_map": (2, 1, 1, 1000),
    }  # fmt: skip


@pytest.mark.parametrize(("size", "shape"), [((256, 320), (2, 4)), ((224, 192), (1, 1)), ((32, 32), (1, 1))])
def test_other_images_have_a_map_of_logits(size, shape):
    logits, endpoints = shapes(models.create("vgg11_bn", num_classes=7), (*size, 1))
    assert (logits, endpoints["logits_map"]) == ((2, 7), (2, *shape, 7))


def test_a_unit_of_the_last_map_reads_212_pixels():
    stages = tuple((2, count) for count in (2, 2, 3, 3, 3))
    field = receptive_fields(models.create("vgg16", stages=stages, dense=()), (224, 224, 3))["stage5"]
    assert (field.size, field.stride) == ((212, 212), (32, 32))


@pytest.mark.parametrize("size", [(16, 16), (9, 11)])
def test_every_pooling_halves_the_sides(size):
    sides = {}
    for pool in POOLS:
        _, endpoints = shapes(models.create("vgg_small", pool=pool), (*size, 1))
        sides[pool] = [endpoints[f"stage{stage}"][1:3] for stage in (1, 2, 3)]
    halved = [tuple(side >> stage for side in size) for stage in (1, 2, 3)]
    assert sides["max"] == sides["average"] == sides["blur"] == halved
    assert sides["stride"] == [tuple(-(-side // 2**stage) for side in size) for stage in (1, 2, 3)]  # rounded up


# What it computes


@pytest.mark.parametrize("name", ["vgg16_1x1", "vgg13_bn"])
def test_every_parameter_is_used(name):
    assert unused(models.create(name), (32, 32, 3)) == []


@pytest.mark.parametrize(("name", "fields"), [("vgg11_bn", {}), ("vgg16_1x1", {"pointwise_from": 2, "dense": ()})])
@pytest.mark.slow
def test_every_parameter_has_a_gradient(name, fields):
    assert without_gradient(*tiny(name, activation="elu", **fields)) == []


@pytest.mark.slow
def test_evaluation():
    *_, endpoints = check_evaluation(*tiny("vgg11_bn"))
    assert endpoints["logits_map"].shape == (3, 2, 2, 3)


def test_local_response_normalisation_follows_the_first_activation():
    model, shape = tiny("vgg11_lrn", stages=((4, 1),), dense=())
    variables, x = filled(model, shape), 30 * images(2, shape)

    @jit
    def compute(variables, x):
        without = model.clone(lrn=False).apply(variables, x)[1]["stage1"]
        before = model.clone(lrn=False, pool="stride").apply(variables, x)[1]["stage1"]  # nothing is pooled
        after = model.clone(pool="stride").apply(variables, x)[1]["stage1"]
        return without, model.apply(variables, x)[1]["stage1"], before, after

    without, pooled, before, after = compute(variables, x)
    np.testing.assert_allclose(after, local_response_norm(before), rtol=1e-4)
    assert np.abs(pooled - without).max() > 0.1


def test_batch_norm_makes_the_biases_beside_it_idle_in_training():
    model, shape = tiny("vgg11_bn", stages=((4, 1),), dense=())
    variables, x = filled(model, shape), images(4, shape)

    @jit
    def compute(variables, x):
        def train(params):
            return model.apply({**variables, "params": params}, x, True, mutable=["batch_stats"])[0][0]

        conv = variables["params"]["conv1_1"]
        moved = {**variables["params"], "conv1_1": {**conv, "bias": conv["bias"] + 1}}
        return train(variables["params"]), train(moved), model.apply({**variables, "params": moved}, x)[0]

    logits, moved, evaluated = compute(variables, x)
    np.testing.assert_allclose(moved, logits, rtol=1e-3, atol=1e-4)
    assert np.abs(evaluated - jax.jit(model.apply)(variables, x)[0]).max() > 0.1  # its running mean is another's


# Refusals


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"stages": ()}, r"stages must hold pairs of positive whole numbers \(channels, convolutions\), not \(\)"),
        ({"stages": ((64, 1), (128, 0))}, r"stages must hold pairs .*, not \(\(64, 1\), \(128, 0\)\)"),
        ({"stages": (64, 128)}, r"stages must hold pairs .*, not \(64, 128\)"),
        ({"pointwise_from": 6}, "pointwise_from must be a stage, 1 to 5, or 0 for none, not 6"),
        ({"pointwise_from": -1}, "pointwise_from must be a stage, 1 to 5, or 0 for none, not -1"),
        ({"conv_bias": True}, "conv_bias=True is for networks with a normalisation; norm=none is a bias already"),
        ({"dense": (0,)}, r"dense must hold at most nine positive whole numbers of units, not \(0,\)"),
        ({"map_size": -7}, "map_size must be a number of pixels, or 0 for the map as it is, not -7"),
        ({"num_classes": -1}, r"num_classes must be a positive whole number, .*, not -1"),
    ],
)
def test_a_bad_field_is_refused(fields, message, unchecked):
    with pytest.raises(UsageError, match=message):
        models.create("vgg16", **fields)
