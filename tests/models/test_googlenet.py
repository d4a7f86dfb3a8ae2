import math
from functools import cache

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import analysis, models, tree
from cnnjax.models.branches import Block, scaled
from cnnjax.models.googlenet import INCEPTION, AuxiliaryHead, block
from cnnjax.models.parts import parts
from cnnjax.nn import INITIALIZERS, initializer
from cnnjax.typing import UsageError
from tests.fixtures.networks import filled, images, jit, unused, without_gradient

# Channels that each block reads, and its map's side at 224 pixels: the paper's table 1.
READS = {"3a": (192, 28), "3b": (256, 28), "4a": (480, 14), "4b": (512, 14), "4c": (512, 14), "4d": (512, 14),
         "4e": (528, 14), "5a": (832, 7), "5b": (832, 7)}  # fmt: skip
AUXILIARY = {"auxiliary1": 512, "auxiliary2": 528}  # channels that they read


def small(name="googlenet", **fields):
    """Every layer, one channel at least; the smallest images that make no window of pooling hang over by two."""
    model = models.create(name, width_multiplier=1 / 16, num_classes=5, **fields)
    return model, (model.min_size + 1, model.min_size + 1, 3)


def block_sizes(reduction, large=5):
    """Numbers in the kernels of every block, one output channel's first, and the biases, from the table alone."""
    kernels, biases = {}, 0
    for name, (ones, reduce3, threes, reduce5, fives, project) in INCEPTION.items():
        reads = READS[name][0]
        if reduction:
            before = reads * (reduce3 + reduce5) + 9 * reduce3 * threes + large**2 * reduce5 * fives
            biases += reduce3 + reduce5
        else:
            before = reads * (9 * threes + large**2 * fives)
        kernels[name] = before + reads * (ones + project)
        biases += ones + threes + fives + project
    return kernels, biases


@cache
def published(name, **fields):
    """The network at 224x224 pixels and two images as shapes: the variables, the logits and endpoints."""
    model = models.create(name, **fields)
    inputs = jax.ShapeDtypeStruct((2, 224, 224, 3), jnp.float32)
    outputs, variables = jax.eval_shape(model.init_with_output, jax.random.key(0), inputs)
    return model, variables, outputs


# Counts


@pytest.mark.parametrize(
    ("name", "without", "count"), [("googlenet", 6_998_552, 13_378_280), ("googlenet_bn", 6_624_904, 13_004_888)]
)
@pytest.mark.slow
def test_parameter_counts(name, without, count):
    params = published(name, auxiliary=True)[1]["params"]
    assert tree.count(params) == count
    assert tree.count({key: value for key, value in params.items() if key not in AUXILIARY}) == without


@pytest.mark.parametrize("reduction", [True, False])
@pytest.mark.slow
def test_parameters_and_multiply_adds_follow_from_the_table(reduction):
    kernels, biases = block_sizes(reduction)
    stem = {112: 49 * 3 * 64, 56: 64 * 64 + 9 * 64 * 192}
    count = sum(kernels.values()) + sum(stem.values()) + 1024 * 1000 + biases + 64 + 64 + 192 + 1000
    model, variables, _ = published("googlenet", reduction=reduction)
    assert tree.count(variables["params"]) == count
    products = sum(READS[name][1] ** 2 * size for name, size in kernels.items())
    products += sum(side**2 * size for side, size in stem.items()) + 1024 * 1000
    assert analysis.multiply_adds(model, (224, 224, 3)) == products
    assert products == (1_582_671_872 if reduction else 4_426_547_200)


def test_multiply_adds_are_torchvisions():
    network = models.create("googlenet_bn", auxiliary=True)
    assert analysis.multiply_adds(network, (224, 224, 3)) == pytest.approx(1.498e9, rel=0.01)


@pytest.mark.parametrize(("reduction", "expected"), [(True, 12_443_648), (False, 120_422_400)])
def test_the_lectures_five_by_five_branch(reduction, expected):  # S4:507-509
    class FiveByFive(nn.Module):
        @nn.compact
        def __call__(self, x):
            branch = block("3a", reduction=reduction)[2]
            return Block((branch,), parts(models.create("googlenet")))(x, False)

    assert analysis.multiply_adds(FiveByFive(), (28, 28, 192)) == expected


# Shapes


@pytest.mark.parametrize("name", ["googlenet", "googlenet_bn"])
def test_shapes_are_those_of_the_papers_table(name):
    _, variables, (logits, endpoints) = published(name, auxiliary=True)
    assert logits.shape == (2, 1000)
    outputs = {"3a": 256, "3b": 480, "4a": 512, "4b": 512, "4c": 512, "4d": 528, "4e": 832, "5a": 832, "5b": 1024}
    expected = {f"inception{at}": (2, READS[at][1], READS[at][1], channels) for at, channels in outputs.items()}
    expected |= {
        "stem": (2, 28, 28, 192), "stage1": (2, 28, 28, 480), "stage2": (2, 14, 14, 832), "stage3": (2, 7, 7, 1024),
        "features": (2, 1024), "logits_map": (2, 7, 7, 1000), "auxiliary1": (2, 1000), "auxiliary2": (2, 1000),
    }  # fmt: skip
    assert {key: value.shape for key, value in endpoints.items()} == expected
    kernels = {at: variables["params"][at]["conv"]["kernel"].shape[2:] for at in ("conv1", "conv2_reduce", "conv2")}
    assert kernels == {"conv1": (3, 64), "conv2_reduce": (64, 64), "conv2": (64, 192)}
    sizes = {at: variables["params"][at]["conv"]["conv"]["kernel"].shape[2] for at in AUXILIARY}
    assert sizes == AUXILIARY


@pytest.mark.parametrize(
    ("name", "fields", "smallest"),
    [
        ("googlenet", {"auxiliary": True}, 31),
        ("googlenet_bn", {"auxiliary": True}, 15),
        ("googlenet", {"blocks": ("3b", "4a")}, 15),
        ("googlenet", {"stem": "small"}, 4),
        ("googlenet_bn", {"stem": "small", "blocks": ("4a", "5b")}, 1),
    ],
)
@pytest.mark.slow
def test_the_smallest_image(name, fields, smallest):
    model = models.create(name, **fields)
    assert model.min_size == smallest
    models.parameter_shapes(model, (smallest, smallest, 3))
    if smallest == 1:
        return
    with pytest.raises(UsageError, match=f"at least {smallest}x{smallest} pixels"):
        models.check_image_shape(model, (smallest, smallest - 1, 3), name)
    with pytest.raises(UsageError, match="larger images"):
        models.parameter_shapes(model, (smallest, smallest - 1, 3))


def test_every_parameter_is_of_one_stage():
    model, variables, _ = published("googlenet", auxiliary=True)
    stages = model.parameter_stages
    assert list(stages) == ["stem", "stage1", "stage2", "stage3", "auxiliary", "head"]
    for name in variables["params"]:
        assert sum(name.startswith(prefixes) for prefixes in stages.values()) == 1, name
    del stages["auxiliary"]
    assert models.create("googlenet").parameter_stages == stages


def test_some_of_the_blocks_behind_the_small_stem():
    model = models.create("googlenet", stem="small", blocks=("3a", "4b", "4d"), auxiliary=True, num_classes=10)
    inputs = jax.ShapeDtypeStruct((2, 16, 16, 3), jnp.float32)
    (logits, endpoints), variables = jax.eval_shape(model.init_with_output, jax.random.key(0), inputs)
    assert logits.shape == (2, 10)
    assert set(variables["params"]) == {"conv2", "inception3a", "inception4b", "inception4d", "auxiliary2", "head"}
    found = {key: value.shape[1:] for key, value in endpoints.items() if key.startswith("st")}
    assert found == {"stem": (16, 16, 192), "stage1": (16, 16, 256), "stage2": (8, 8, 528)}
    assert list(model.parameter_stages) == ["stem", "stage1", "stage2", "auxiliary", "head"]


# What it computes


@pytest.mark.slow
@pytest.mark.parametrize("name", ["googlenet", "googlenet_bn"])
def test_the_logits_use_every_parameter_but_the_auxiliary_heads(name):
    model, shape = small(name, auxiliary=True)
    names = tree.names(models.parameter_shapes(model, shape))
    expected = [each for each in names if each.split("/")[1] in AUXILIARY]
    assert unused(model, shape) == expected
    assert len(expected) == (12 if name == "googlenet" else 18)


# Two blocks with an auxiliary head and a pooling between them: more of the same only take time to compile.
TWO = {"auxiliary": True, "blocks": ("4d", "5b")}


@pytest.mark.slow
def test_every_parameter_has_a_gradient():
    model, shape = small(**TWO, activation="elu")
    found = without_gradient(model, shape)
    assert {name.split("/")[0] for name in found} == {"auxiliary2"}
    assert len(found) == 6


@pytest.mark.slow
def test_evaluation_draws_nothing_and_half_precision_is_finite():
    model, shape = small(**TWO)
    variables, x = filled(model, shape), images(3, shape)

    @jit
    def compute(variables, x):  # without a key
        half = model.clone(dtype=jnp.bfloat16).apply(variables, x[:1], False, 0.5)
        return model.apply(variables, x), half

    (logits, endpoints), (alone, half_ends) = compute(variables, x)
    np.testing.assert_allclose(endpoints["logits_map"].mean((1, 2)), logits, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(np.asarray(alone, np.float32), logits[:1], rtol=0.1, atol=0.1 * np.abs(logits).max())
    assert {value.dtype for value in half_ends.values()} == {np.dtype(jnp.bfloat16)}
    assert np.all(np.isfinite(np.asarray(half_ends["auxiliary2"], np.float32)))


@pytest.mark.slow
def test_auxiliary_heads_drop_units_and_leave_the_logits_alone():
    model, shape = small("googlenet_bn", **TWO, activation="elu")
    variables, x = filled(model, shape), images(3, shape)
    bare = {
        key: {name: value for name, value in collection.items() if name not in AUXILIARY}
        for key, collection in variables.items()
    }

    @jit
    def train(variables, bare, rate):
        options = {"mutable": ["batch_stats"], "rngs": {"dropout": jax.random.key(0)}}
        with_heads = model.apply(variables, jnp.asarray(x), True, rate, **options)[0]
        return with_heads, model.clone(auxiliary=False).apply(bare, jnp.asarray(x), True, rate, **options)[0]

    (dropped, dropped_ends), (same, same_ends) = train(variables, bare, 0.5)
    (kept, kept_ends), _ = train(variables, bare, 0.0)
    np.testing.assert_allclose(dropped, same, rtol=1e-5, atol=1e-5)
    assert np.any(dropped != kept)
    assert set(dropped_ends) - set(same_ends) == {"auxiliary2"}
    assert kept_ends["auxiliary2"].shape == (3, 5)
    assert np.any(dropped_ends["auxiliary2"] != kept_ends["auxiliary2"])


def test_the_papers_auxiliary_head_pools_windows():
    model = models.create("googlenet", width_multiplier=1 / 16)
    head = AuxiliaryHead(7, parts(model), "windows", 1 / 16, initializer("he"), jnp.float32)
    x = jnp.asarray(images(2, (14, 14, 6)))
    shapes = jax.eval_shape(lambda key, x: head.init(key, x, False, 0.0), jax.random.key(0), x)["params"]
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: rng.standard_normal(leaf.shape).astype(np.float32), shapes)
    rows = np.stack([x[:, 3 * i : 3 * i + 5].mean(1) for i in range(4)], 1)
    pooled = np.stack([rows[:, :, 3 * i : 3 * i + 5].mean(2) for i in range(4)], 2)
    conv, dense, last = params["conv"], params["dense"], params["head"]
    hidden = np.maximum(pooled @ conv["conv"]["kernel"][0, 0] + conv["norm"]["bias"], 0).reshape(2, -1)
    hidden = np.maximum(hidden @ dense["kernel"] + dense["bias"], 0)
    expected = hidden @ last["kernel"] + last["bias"]
    actual = jit(lambda params, x: head.apply({"params": params}, x, False, 0.0))(params, x)
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-3)
    assert (dense["kernel"].shape, last["kernel"].shape) == ((4 * 4 * 8, 64), (64, 7))


def test_every_kernel_is_drawn_by_the_named_initialiser(monkeypatch):
    drawn = []
    monkeypatch.setitem(
        INITIALIZERS, "gaussian", lambda key, shape, dtype: drawn.append(shape) or jnp.zeros(shape, dtype)
    )
    model, shape = small(auxiliary=True, kernel_init="gaussian")
    variables = models.parameter_shapes(model, shape)
    leaves = zip(tree.names(variables), jax.tree.leaves(variables), strict=True)
    kernels = [leaf.shape for path, leaf in leaves if path.endswith("kernel")]
    again = variables["params"]["head"]["kernel"].shape  # called twice, and Flax compares the shapes
    assert sorted(drawn) == sorted([*kernels, again])
    assert models.create("googlenet").kernel_init == "he"


# Fields


def test_channels_are_rounded_to_the_nearest_number():
    assert [scaled(24, factor) for factor in (1.0, 1 / 16, 0.06, 0.0625 - 1e-6)] == [24, 2, 1, 1]
    shapes = models.parameter_shapes(models.create("googlenet", width_multiplier=0.5), (32, 32, 3))["params"]
    layers = shapes["inception4b"]
    kernels = {name: layer["conv"]["kernel"].shape for name, layer in layers.items()}
    assert kernels == {
        "conv1x1": (1, 1, 256, 80), "reduce3x3": (1, 1, 256, 56), "conv3x3": (3, 3, 56, 112),
        "reduce5x5": (1, 1, 256, 12), "conv5x5": (5, 5, 12, 32), "project": (1, 1, 256, 32),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"width_multiplier": 0.0}, "width_multiplier must be a positive number, not 0.0"),
        ({"width_multiplier": math.nan}, "width_multiplier must be a positive number, not nan"),
        ({"width_multiplier": 0.05}, "width_multiplier=0.05 leaves zero of the 16 channels"),
        ({"large_kernel": 4}, "large_kernel must be odd and at least 1, not 4"),
        ({"last_pool": 4}, "last_pool must be 2 or 3, not 4"),
        ({"auxiliary_pool": "adaptiv"}, "Did you mean 'adaptive'"),
        ({"norm": "bach"}, "Unknown norm 'bach'"),
        ({"stem": "smal"}, "Did you mean 'small'"),
        ({"blocks": ()}, "blocks must name some of 3a, 3b"),
        ({"blocks": ("4a", "3a")}, "in this order, not"),
        ({"blocks": ("3c",)}, "Unknown block '3c'"),
        ({"blocks": ("3a", "5a"), "auxiliary": True}, r"needs a block that an auxiliary head follows \(4a, 4d\)"),
    ],
)
def test_bad_fields_are_refused(fields, message):
    with pytest.raises(UsageError, match=message):
        models.create("googlenet", **fields)
