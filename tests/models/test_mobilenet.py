import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnnjax import models
from cnnjax.analysis import multiply_adds
from cnnjax.models.mobilenet import InvertedResidual, SeparableConv, SqueezeExcite, make_divisible
from cnnjax.models.parts import parts
from cnnjax.typing import UsageError
from tests.fixtures.networks import filled, images, jit, unused, without_gradient

SHAPE = (224, 224, 3)


def tiny(name, **fields):
    """A short and narrow network, and its images' shape."""
    stages = {"mobilenet_v1": ((64, 1), (128, 2)), "mobilenet_v2": ((1, 64, 1, 1), (6, 96, 2, 2))}[name]
    return models.create(name, **{"stages": stages, "width_multiplier": 0.125, "num_classes": 5, **fields}), (8, 8, 3)


TINY = {
    "v1": lambda: tiny("mobilenet_v1"),
    "v1 full": lambda: tiny("mobilenet_v1", separable=False, norm="none"),
    "v2": lambda: tiny("mobilenet_v2", activation="gelu", kernel_init="xavier"),
}


# Counts and shapes


@pytest.mark.parametrize(
    ("name", "fields", "millions"),
    [
        ("mobilenet_v1", {}, 569),  # Howard et al. 2017, tables 4 to 6
        ("mobilenet_v1", {"width_multiplier": 0.5}, 149),
        ("mobilenet_v1", {"width_multiplier": 0.25}, 41),
        ("mobilenet_v1", {"separable": False}, 4866),
        ("mobilenet_v1", {"stages": ((64, 1), (128, 2), (256, 2), (512, 1), (1024, 2))}, 307),
        ("mobilenet_v2", {}, 300.8),
    ],
)
@pytest.mark.slow
def test_multiply_adds_are_the_papers(name, fields, millions):
    assert multiply_adds(models.create(name, **fields), SHAPE) == pytest.approx(millions * 1e6, rel=0.01)


def test_full_convolutions_have_the_papers_parameters():
    assert models.count_parameters("mobilenet_v1", separable=False) == pytest.approx(29.3e6, rel=0.01)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "mobilenet_v1",
            {
                "stem": (112, 112, 32), "stage1": (112, 112, 64), "stage2": (56, 56, 128), "stage3": (28, 28, 256),
                "stage4": (14, 14, 512), "stage5": (7, 7, 1024), "features": (1024,), "logits_map": (7, 7, 1000),
            },
        ),
        (
            "mobilenet_v2",
            {
                "stem": (112, 112, 32), "stage1": (112, 112, 16), "stage2": (56, 56, 24), "stage3": (28, 28, 32),
                "stage4": (14, 14, 64), "stage5": (14, 14, 96), "stage6": (7, 7, 160), "stage7": (7, 7, 320),
                "stage8": (7, 7, 1280), "features": (1280,), "logits_map": (7, 7, 1000),
            },
        ),
    ],
)  # fmt: skip
def test_shapes_are_those_of_the_papers_tables(name, expected):
    model, x = models.create(name), jnp.zeros((2, *SHAPE))
    (logits, endpoints), variables = jax.eval_shape(model.init_with_output, jax.random.key(0), x)
    assert logits.shape == (2, 1000)
    assert {key: value.shape[1:] for key, value in endpoints.items()} == expected
    stages = model.parameter_stages
    names = list(stages)
    assert (names[0], names[-1]) == ("stem", "head")
    for module in variables["params"]:
        assert sum(module.startswith(prefixes) for prefixes in stages.values()) == 1, module


@pytest.mark.parametrize("name", ["mobilenet_v1", "mobilenet_v2"])
@pytest.mark.slow
def test_every_parameter_is_used(name):
    assert unused(models.create(name), (32, 32, 3)) == []


@given(channels=st.floats(0.5, 5000))
def test_channels_are_rounded_to_multiples_of_eight_near_by(channels):
    rounded = make_divisible(channels)
    assert rounded % 8 == 0
    assert rounded >= max(8, 0.9 * channels)
    assert rounded <= max(8, channels + 8)


def test_rounding_never_takes_more_than_a_tenth():
    assert [make_divisible(c) for c in (1, 8, 11.9, 12, 18, 20, 33.6, 90, 1792)] == [8, 8, 16, 16, 24, 24, 32, 88, 1792]


# What the networks compute


@pytest.mark.parametrize("name", TINY)
@pytest.mark.slow
def test_every_parameter_has_a_gradient(name):
    assert without_gradient(*TINY[name]()) == []


@pytest.mark.parametrize("name", ["v1", "v2"])
def test_evaluation_draws_nothing(name):
    model, shape = TINY[name]()
    jax.eval_shape(lambda v, x: model.apply(v, x, False, 0.5), models.parameter_shapes(model, shape), images(1, shape))


@pytest.mark.parametrize("name", ["v1", "v2"])
@pytest.mark.slow
def test_half_precision_is_near_single_for_one_image(name):
    model, shape = TINY[name]()
    half, variables, x = model.clone(dtype=jnp.bfloat16), filled(model, shape), images(1, shape)
    (logits, endpoints), (expected, single) = jit(lambda v, x: (half.apply(v, x), model.apply(v, x)))(variables, x)
    assert {value.dtype for value in endpoints.values()} == {np.dtype(jnp.bfloat16)}
    np.testing.assert_allclose(logits, expected, rtol=0.1, atol=0.2)
    np.testing.assert_allclose(single["logits_map"].mean((1, 2)), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("norm", ["group", "none"])
def test_without_batches_there_is_no_state(norm):
    model, shape = tiny("mobilenet_v2", norm=norm)
    assert set(models.parameter_shapes(model, shape)) == {"params"}


def test_a_separable_convolution_is_a_full_one_whose_kernel_is_a_product():  # S4:540-572
    x = jnp.asarray(images(2, (5, 6, 3)))
    made = parts(models.create("mobilenet_v1", norm="none", activation="identity"))
    block = SeparableConv(4, (2, 2), made)
    variables = filled_block(block, x)
    depthwise, pointwise = (variables["params"][name]["conv"]["kernel"] for name in ("depthwise", "pointwise"))
    bias = [variables["params"][name]["norm"]["bias"] for name in ("depthwise", "pointwise")]
    full = jnp.einsum("hwic,co->hwco", depthwise, pointwise[0, 0])
    expected = jax.lax.conv_general_dilated(
        x, full, (2, 2), ((1, 1), (1, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    expected += bias[0] @ pointwise[0, 0] + bias[1]
    np.testing.assert_allclose(block.apply(variables, x, False), expected, rtol=1e-4, atol=1e-5)


def test_the_lectures_cost_of_a_separable_convolution():  # S4:540-572
    full, separable = (
        models.create("mobilenet_v1", stages=((40, 1),), width_multiplier=1.0, num_classes=1, separable=form)
        for form in (False, True)
    )
    full, separable = (multiply_adds(model, (8, 8, 3)) - 16 * 27 * 32 - 40 for model in (full, separable))
    assert full == 16 * 9 * 32 * 40
    assert separable / full == pytest.approx(1 / 40 + 1 / 9)


def test_an_inverted_block_whose_projection_is_zero_is_the_identity_only_where_the_shape_stays():
    made = parts(models.create("mobilenet_v2", norm="none"))
    x = jnp.asarray(images(2, (4, 4, 8)))
    for features, strides, kept in ((8, (1, 1), True), (8, (2, 2), False), (16, (1, 1), False)):
        block = InvertedResidual(features, 1, (3, 3), strides, made)
        params = filled_block(block, x)["params"]
        params["project"] = jax.tree.map(jnp.zeros_like, params["project"])
        out = jit(lambda params, x, block=block: block.apply({"params": params}, x, False))(params, x)
        assert out.shape == (2, 4 // strides[0], 4 // strides[1], features)
        np.testing.assert_array_equal(out, x if kept else jnp.zeros_like(out))


def test_a_projection_has_no_activation_and_an_expansion_of_one_has_no_convolution():
    made = parts(models.create("mobilenet_v2", norm="none"))
    x = jnp.asarray(images(2, (4, 4, 8)))
    block = InvertedResidual(16, 1, (3, 3), (1, 1), made)
    variables = filled_block(block, x)
    assert set(variables["params"]) == {"depthwise", "project"}
    assert block.apply(variables, x, False).min() < 0


def test_squeeze_and_excitation_weighs_whole_channels():
    made = parts(models.create("efficientnet_b0", norm="none"))
    x = jnp.asarray(images(3, (4, 5, 8)))
    block = SqueezeExcite(2, made)
    variables = filled_block(block, x)
    weights = np.asarray(block.apply(variables, x) / x)
    assert np.all((weights > 0) & (weights < 1))
    np.testing.assert_allclose(weights, np.broadcast_to(weights[:, :1, :1], weights.shape), rtol=1e-4)
    reduce, expand = (variables["params"][name] for name in ("reduce", "expand"))
    hidden = jax.nn.silu(x.mean((1, 2)) @ reduce["kernel"][0, 0] + reduce["bias"])
    expected = jax.nn.sigmoid(hidden @ expand["kernel"][0, 0] + expand["bias"])
    np.testing.assert_allclose(weights[:, 0, 0], expected, rtol=1e-4)


def filled_block(block, x):
    """Random variables of a module that takes (x, train) or (x,)."""
    arguments = () if isinstance(block, SqueezeExcite) else (False,)
    shapes = jax.eval_shape(lambda key, x: block.init(key, x, *arguments), jax.random.key(0), x)
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0, 0.5, leaf.shape), jnp.float32), shapes)


# Refusals


@pytest.mark.parametrize("name", ["mobilenet_v1", "mobilenet_v2"])
@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"width_multiplier": 0.0}, "width_multiplier must be a positive number, not 0.0. 1.0 is the published"),
        ({"width_multiplier": -0.5}, "width_multiplier must be a positive number, not -0.5"),
        ({"width_multiplier": math.nan}, "width_multiplier must be a positive number, not nan"),
        ({"width_multiplier": math.inf}, "width_multiplier must be a positive number, not inf"),
        ({"width_multiplier": 0.03}, "width_multiplier=0.03 leaves zero of the .* channels .* Use at least 0.0"),
        ({"num_classes": -1}, r"num_classes must be a positive whole number, .*, not -1"),
        ({"activation": "relu7"}, "Unknown activation 'relu7'. Did you mean 'relu'"),
    ],
)
def test_a_bad_field_is_refused(name, fields, message):
    with pytest.raises(UsageError, match=message):
        models.create(name, **fields)


@pytest.mark.parametrize(
    ("name", "stages"), [("mobilenet_v1", ((64, 0),)), ("mobilenet_v2", ((6, 24, 2, 2), (0, 24, 2, 2)))]
)
def test_a_stage_of_nothing_is_refused(name, stages):
    with pytest.raises(UsageError, match=r"stages must hold positive whole numbers, not \("):
        models.create(name, stages=stages)


@pytest.mark.parametrize("name", ["mobilenet_v1", "mobilenet_v2"])
def test_smaller_images_than_the_strides_halve_are_refused(name):
    model = models.create(name)
    models.check_image_shape(model, (32, 32, 3), name)
    with pytest.raises(UsageError, match=f"{name} needs images of at least 32x32 pixels, not 32x31"):
        models.check_image_shape(model, (32, 31, 3), name)
