import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax.errors import InvalidRngError

from cnnjax import models
from cnnjax.analysis import multiply_adds
from cnnjax.models.efficientnet import PUBLISHED, coefficients, compound_scaling
from cnnjax.models.mobilenet import InvertedResidual
from cnnjax.models.parts import parts
from cnnjax.typing import UsageError
from tests.fixtures.networks import filled, images, jit, unused, without_gradient

SIZES = (224, 240, 260, 300, 380, 456, 528, 600)
# torchvision's; B2's multiply-adds are those of images of 288x288.
BILLIONS = (0.386, 0.687, 1.088, 1.827, 4.394, 10.266, 19.068, 37.746)
TINY = {"depth_multiplier": 0.25, "width_multiplier": 1 / 16, "num_classes": 5}


def tiny(**fields):
    """Seven narrow blocks, and the shape of small images; two of the blocks have a shortcut."""
    return models.create("efficientnet_b0", **{**TINY, **fields}), (9, 9, 3)


# Counts, shapes and scaling


def test_shapes_are_those_of_the_papers_tables():
    model, x = models.create("efficientnet_b0"), jnp.zeros((2, 224, 224, 3))
    (logits, endpoints), variables = jax.eval_shape(model.init_with_output, jax.random.key(0), x)
    assert logits.shape == (2, 1000)
    assert {key: value.shape[1:] for key, value in endpoints.items()} == {
        "stem": (112, 112, 32), "stage1": (112, 112, 16), "stage2": (56, 56, 24), "stage3": (28, 28, 40),
        "stage4": (14, 14, 80), "stage5": (14, 14, 112), "stage6": (7, 7, 192), "stage7": (7, 7, 320),
        "stage8": (7, 7, 1280), "features": (1280,), "logits_map": (7, 7, 1000),
    }  # fmt: skip
    squeezes = {name: params["squeeze_excite"] for name, params in variables["params"].items() if "_" in name}
    for block, channels in {"stage1_0": 32, "stage2_0": 16, "stage6_1": 192, "stage7_0": 192}.items():
        assert squeezes[block]["reduce"]["kernel"].shape[-1] == channels // 4, block  # of the block's input


@pytest.mark.parametrize("number", [0, 2])  # the larger ones take seconds to trace
@pytest.mark.slow
def test_multiply_adds_are_torchvisions(number):
    size = 288 if number == 2 else SIZES[number]
    count = multiply_adds(models.create(f"efficientnet_b{number}"), (size, size, 3))
    assert count == pytest.approx(BILLIONS[number] * 1e9, rel=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(3))
def test_every_parameter_is_used(number):
    assert unused(models.create(f"efficientnet_b{number}"), (32, 32, 3)) == []


def test_every_parameter_belongs_to_one_stage():
    model, shape = tiny()
    stages = model.parameter_stages
    names = list(stages)
    assert (names[0], names[-1]) == ("stem", "head")
    for module in models.parameter_shapes(model, shape)["params"]:
        assert sum(module.startswith(prefixes) for prefixes in stages.values()) == 1, module


def test_compound_scaling_gives_the_published_networks():
    scaled = [compound_scaling(depth, width, size / 224) for depth, width, size in PUBLISHED]
    assert tuple(network.image_size for network in scaled) == SIZES
    assert [network.stem for network in scaled] == [32, 32, 32, 40, 48, 48, 56, 64]
    assert [network.last for network in scaled] == [1280, 1280, 1408, 1536, 1792, 2048, 2304, 2560]
    assert [sum(stage.blocks for stage in network.stages) for network in scaled] == [16, 23, 23, 26, 32, 39, 45, 55]
    assert [stage.blocks for stage in scaled[7].stages] == [4, 7, 7, 10, 10, 13, 4]
    assert [stage.channels for stage in scaled[7].stages] == [32, 48, 80, 160, 224, 384, 640]
    assert [stage.stride for stage in scaled[7].stages] == [1, 2, 2, 2, 1, 2, 1]
    for number, network in enumerate(scaled):
        model = models.create(f"efficientnet_b{number}")
        assert model.scaled._replace(image_size=network.image_size) == network
        assert models.MODELS[f"efficientnet_b{number}"].image_shape == (SIZES[number], SIZES[number], 3)
        assert (model.epsilon, model.momentum) == ((1e-3, 0.99) if number >= 5 else (1e-5, 0.9))


def test_coefficients_are_the_papers():
    depth, width, resolution = coefficients(1)
    assert (depth, width, resolution) == (1.2, 1.1, 1.15)
    assert depth * width**2 * resolution**2 == pytest.approx(1.92, abs=0.001)  # the paper asks for about 2
    assert coefficients(0) == (1, 1, 1)
    assert coefficients(2, 2, 3, 4) == (4, 9, 16)
    for phi, (depth, _, _) in zip((0, 0.5, 1, 2, 3, 4, 5, 6), PUBLISHED, strict=True):
        assert depth == pytest.approx(coefficients(phi)[0], rel=0.07)  # rounded by hand


# What the network computes


@pytest.mark.slow
def test_every_parameter_has_a_gradient():
    assert without_gradient(*tiny()) == []


def test_evaluation_draws_nothing():
    model, shape = tiny(stochastic_depth=0.5)
    jax.eval_shape(lambda v, x: model.apply(v, x, False, 0.5), models.parameter_shapes(model, shape), images(1, shape))


@pytest.mark.slow
def test_half_precision_is_near_single_for_one_image():
    model, shape = tiny()
    half, variables, x = model.clone(dtype=jnp.bfloat16), filled(model, shape), images(1, shape)
    (logits, endpoints), (expected, single) = jit(lambda v, x: (half.apply(v, x), model.apply(v, x)))(variables, x)
    assert {value.dtype for value in endpoints.values()} == {np.dtype(jnp.bfloat16)}
    np.testing.assert_allclose(logits, expected, rtol=0.1, atol=0.2)
    np.testing.assert_allclose(single["logits_map"].mean((1, 2)), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_the_two_paddings_agree_where_all_sides_are_odd_and_differ_elsewhere():
    half, _ = tiny()
    same = half.clone(padding="SAME")
    variables = filled(half, (33, 33, 3))
    compute = jit(lambda v, x, y: [(half.apply(v, z)[1]["stage2"], same.apply(v, z)[1]["stage2"]) for z in (x, y)])
    odd, even = compute(variables, images(2, (33, 33, 3)), images(2, (32, 32, 3)))  # 33 to 17 to 9
    np.testing.assert_allclose(*odd, rtol=1e-5, atol=1e-5)
    assert np.abs(even[0] - even[1]).max() > 1e-3


# Stochastic depth


def test_an_example_is_skipped_as_a_whole_and_the_expectation_kept():
    made = parts(models.create("efficientnet_b0", norm="none"))
    x = jnp.asarray(images(400, (2, 2, 8)))
    block = InvertedResidual(8, 1, (3, 3), (1, 1), made, stochastic_depth=0.25)

    @jit
    def compute(x):
        variables = block.init(jax.random.key(1), x[:1], False)
        training = block.apply(variables, x, True, rngs={"dropout": jax.random.key(0)})
        return block.apply(variables, x, False) - x, training - x

    kept, dropped = compute(x)
    skipped = np.all(dropped == 0, axis=(1, 2, 3))
    np.testing.assert_allclose(dropped[~skipped], kept[~skipped] / 0.75, rtol=1e-3, atol=1e-5)
    assert abs(skipped.mean() - 0.25) < 4 * np.sqrt(0.25 * 0.75 / 400)


def test_probabilities_rise_linearly_to_the_last_block():
    model, shape = tiny(stochastic_depth=0.7)
    found = []

    def record(call, args, kwargs, context):
        if isinstance(context.module, InvertedResidual) and context.method_name == "__call__":
            found.append(context.module.stochastic_depth)
        return call(*args, **kwargs)

    with nn.intercept_methods(record):
        models.parameter_shapes(model, shape)
    np.testing.assert_allclose(found, np.arange(1, 8) / 10)


@pytest.mark.slow
def test_stochastic_depth_draws_in_training_only_where_it_is_positive():
    for rate in (0.0, 0.5):
        model, shape = tiny(stochastic_depth=rate, norm="none")
        variables, x = models.parameter_shapes(model, shape), jnp.zeros((2, *shape))
        jax.eval_shape(lambda v, x, model=model: model.apply(v, x)[0], variables, x)
        training = lambda v, x, model=model: model.apply(v, x, True)[0]  # noqa: E731
        if rate:
            with pytest.raises(InvalidRngError):
                jax.eval_shape(training, variables, x)
        else:
            jax.eval_shape(training, variables, x)


# Refusals


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"depth_multiplier": 0.0}, "depth_multiplier must be a positive number, not 0.0"),
        ({"depth_multiplier": -1.0}, "depth_multiplier must be a positive number, not -1.0"),
        ({"width_multiplier": -1.0}, "width_multiplier must be a positive number, not -1.0"),
        ({"width_multiplier": 0.06}, "width_multiplier=0.06 leaves zero of the 16 channels .* Use at least 0.0625"),
        ({"padding": "VALID"}, "Unknown padding 'VALID'.* Choices: SAME, half"),
        ({"stochastic_depth": 1.0}, "stochastic_depth=1.0 must be a probability of at least 0 and below 1"),
        ({"stochastic_depth": -0.1}, "stochastic_depth=-0.1 must be a probability"),
        ({"num_classes": -1}, r"num_classes must be a positive whole number, .*, not -1"),
        ({"norm": "bach"}, "Unknown norm 'bach'. Did you mean 'batch'"),
    ],
)
def test_a_bad_field_is_refused(fields, message):
    with pytest.raises(UsageError, match=message):
        models.create("efficientnet_b0", **fields)


def test_a_resolution_without_pixels_is_refused():
    with pytest.raises(UsageError, match="resolution must be a positive number, not 0"):
        compound_scaling(1.0, 1.0, 0.0)


def test_smaller_images_than_the_strides_halve_are_refused():
    model = models.create("efficientnet_b0")
    models.check_image_shape(model, (32, 32, 3), "efficientnet_b0")
    with pytest.raises(UsageError, match="efficientnet_b0 needs images of at least 32x32 pixels, not 31x32"):
        models.check_image_shape(model, (31, 32, 3), "efficientnet_b0")
