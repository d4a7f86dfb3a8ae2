import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import models, tree
from cnnjax.analysis import multiply_adds
from cnnjax.typing import UsageError
from tests.fixtures.networks import check_evaluation, filled, images, jit, shapes, unused, without_gradient

NAME = "network_in_network"


def tiny(**fields):
    """Three short and narrow stages on images whose poolings hang over the edge."""
    fields = {"stages": ((5, 4, 3), (3, 5, 4), (3, 4)), "num_classes": 3, "activation": "elu", **fields}
    return models.create(NAME, **fields), (6, 6, 3)


def test_parameters_and_multiply_adds_follow_from_the_layers():
    reads, parameters, products = 3, 0, 0
    stages = (((5, 192), (1, 160), (1, 96)), ((5, 192), (1, 192), (1, 192)), ((3, 192), (1, 192), (1, 10)))
    for side, layers in zip((32, 16, 8), stages, strict=True):
        for kernel, channels in layers:
            parameters += (kernel**2 * reads + 1) * channels
            products += side**2 * kernel**2 * reads * channels
            reads = channels
    assert models.count_parameters(NAME) == parameters == 966_986
    assert multiply_adds(models.create(NAME), (32, 32, 3)) == products == 222_486_528


@pytest.mark.parametrize(("size", "sides"), [((32, 32), (16, 8)), ((33, 20), ((16, 10), (8, 5))), ((4, 5), (2, 1))])
def test_shapes_by_stage(size, sides):
    first, second = ((side, side) if isinstance(side, int) else side for side in sides)
    logits, endpoints = shapes(models.create(NAME), (*size, 3))
    assert logits == (2, 10)
    assert endpoints == {
        "stage1": (2, *first, 96), "stage2": (2, *second, 192), "stage3": (2, *second, 192), "features": (2, 192),
        "logits_map": (2, *second, 10),
    }  # fmt: skip


@pytest.mark.slow
def test_every_parameter_counts():
    assert unused(models.create(NAME), (32, 32, 3)) == []
    assert without_gradient(*tiny(head_activation="identity")) == []


@pytest.mark.slow
def test_evaluation():
    *_, logits, endpoints = check_evaluation(*tiny(norm="batch"))
    np.testing.assert_allclose(endpoints["logits_map"].mean((1, 2)), logits, rtol=1e-4, atol=1e-5)
    assert endpoints["logits_map"].min() >= 0
    assert logits.min() >= 0


def test_a_linear_head_reads_the_features():
    model, shape = tiny(head_activation="identity")
    variables, x = filled(model, shape), images(2, shape)
    logits, endpoints = jit(lambda v, x: model.apply(v, x))(variables, x)
    head = variables["params"]["head"]
    np.testing.assert_allclose(endpoints["features"] @ head["kernel"] + head["bias"], logits, rtol=1e-4, atol=1e-5)


def test_a_stage_is_a_small_dense_net_at_every_pixel():  # S4:471-491
    model = models.create(NAME, stages=((1, 5, 4),), num_classes=3, head_activation="identity")
    variables, x = filled(model, (3, 4, 2)), images(2, (3, 4, 2))
    ends = jit(lambda v, x: model.apply(v, x)[1])(variables, x)
    y = x
    for name in ("stage1.0", "stage1.1"):
        layer = variables["params"][name]
        y = np.maximum(y @ layer["conv"]["kernel"][0, 0] + layer["norm"]["bias"], 0)
    np.testing.assert_allclose(ends["stage1"], y, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("fields", "reductions"),
    [({}, (np.max, np.mean, np.mean)), ({"pools": ("max",)}, (np.max,) * 3)],
    ids=["for CIFAR-10 in Caffe", "for ImageNet, and the paper's"],
)
def test_windows_that_hang_over_the_edge_pool_the_pixels_there_are(fields, reductions):
    """The last convolution of a stage copies its input, so the stages show the poolings."""
    model = models.create(NAME, stages=((1, 1),) * 4, num_classes=1, activation="identity", **fields)
    x = images(1, (15, 14, 1))
    shape = models.parameter_shapes(model, x.shape[1:])["params"]
    params = tree.mask(shape, lambda name, leaf: (np.ones if "kernel" in name else np.zeros)(leaf.shape, np.float32))
    ends = jit(lambda params, x: model.apply({"params": params}, x)[1])(params, x)
    expected = x
    for stage, reduce in zip(("stage1", "stage2", "stage3"), reductions, strict=True):
        rows, columns = (range(0, side - 1, 2) for side in expected.shape[1:3])  # Caffe: ceil((side - 3) / 2) + 1
        pooled = np.zeros((1, len(rows), len(columns), 1), np.float32)
        for (i, row), (j, column) in itertools.product(enumerate(rows), enumerate(columns)):
            pooled[0, i, j, 0] = reduce(expected[0, row : row + 3, column : column + 3])
        np.testing.assert_allclose(ends[stage], pooled, rtol=1e-5)
        expected = pooled


@pytest.mark.slow
def test_dropout_follows_the_poolings():
    model, shape = tiny()
    variables, x = filled(model, shape), jnp.asarray(images(2, shape))

    @jit
    def compute(variables, x):
        rngs = {"dropout": jax.random.key(0)}
        return model.apply(variables, x, True, 0.5, rngs=rngs)[1], model.apply(variables, x)[1]

    dropped, kept = compute(variables, x)
    np.testing.assert_array_equal(dropped["stage1"], kept["stage1"])
    assert np.any(dropped["stage2"] != kept["stage2"])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"stages": ()}, r"stages must hold one to nine stages \(side of the kernel, channels, .*not \(\)"),
        ({"stages": ((5,),)}, "stages must hold one to nine stages"),
        ({"stages": ((5, 0),)}, "stages must hold one to nine stages"),
        ({"stages": ((5, "4"),)}, "stages must hold one to nine stages"),
        ({"stages": (5, 4)}, "stages must hold one to nine stages"),
        ({"stages": ((4, 8),)}, r"the side of a kernel and odd, not \(\(4, 8\),\)"),
        ({"pools": ()}, r"pools must hold one or more of max and average, not \(\)"),
        ({"pools": ("max", "mean")}, r"pools must hold one or more of max and average, not \('max', 'mean'\)"),
        ({"pools": ("max",) * 3}, r"more than the 2 poolings between 3 stages. Leave the last out"),
        ({"num_classes": -1}, r"num_classes must be a positive whole number, .*, not -1"),
        ({"head_activation": "rleu"}, "Unknown head_activation 'rleu'. Did you mean 'relu'"),
    ],
)
def test_a_bad_field_is_refused(fields, message, unchecked):
    with pytest.raises(UsageError, match=message):
        models.create(NAME, **fields)
