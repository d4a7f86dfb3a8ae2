from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from cnnjax import models, tree
from cnnjax.analysis import layers, multiply_adds
from cnnjax.models import imagenet_resnet
from cnnjax.models.imagenet_resnet import DEPTHS, Layer, ResidualBlock
from cnnjax.models.parts import parts
from cnnjax.models.resnet import Block, CifarResNet
from cnnjax.nn import Conv, norm_layer
from cnnjax.ops.pool import max_pool
from cnnjax.typing import UsageError
from tests.fixtures.networks import filled, images, jit, unused, without_gradient

SHAPE = (224, 224, 3)
SMALL = (12, 12, 3)


def tiny(name="resnet18", **fields):
    """A short and narrow network for small images, and their shape."""
    known = {"stages": (2, 2), "width": 8, "stem": "cifar", "num_classes": 5}
    return models.create(name, **{**known, **fields}), (6, 6, 3)


TINY = {
    "basic": lambda: tiny(),
    "plain": lambda: tiny("plain18", stages=(2,)),
    "all projected": lambda: tiny(shortcut="C", norm="group", stages=(2,)),
    "padded bottleneck": lambda: tiny("resnet50", shortcut="A", stages=(1, 1), norm="none"),
    "grouped": lambda: tiny("resnext50_32x4d", groups=4, width_per_group=16, stride_in="1x1", activation="elu"),
    "large images": lambda: (tiny(stages=(1,), stem="imagenet")[0], SMALL),
}


# Counts and shapes


@pytest.mark.parametrize(
    ("name", "fields", "count"),
    [
        ("resnet50", {"stride_in": "1x1"}, 25_557_032),
        ("resnet18", {"shortcut": "A"}, 11_515_688),
        ("resnet18", {"stem": "cifar", "num_classes": 10}, 11_173_962),
        ("resnet1202_cifar", {"shortcut": "B"}, 19_421_274 + 2_752),
        ("resnet110_cifar", {"shortcut": "B"}, 1_727_962 + 2_752),
    ],
)
@pytest.mark.slow
def test_parameter_counts(name, fields, count):
    assert models.count_parameters(name, **fields) == count


def test_every_depth_is_a_variant():
    assert {name for name in models.MODELS if isinstance(models.create(name), imagenet_resnet.ResNet)} == {
        *(f"resnet{depth}" for depth in DEPTHS),
        "plain18",
        "plain34",
        "resnext50_32x4d",
    }


@pytest.mark.parametrize(
    ("name", "shape", "millions"),
    [
        ("resnet18", SHAPE, 1814),
        ("resnet34", SHAPE, 3664),
        ("resnet50", SHAPE, 4089),
        ("resnet101", SHAPE, 7801),
        ("resnet152", SHAPE, 11514),
        ("resnext50_32x4d", SHAPE, 4230),
        ("plain18", SHAPE, 1814 - (28**2 * 64 * 128 + 14**2 * 128 * 256 + 7**2 * 256 * 512) / 1e6),
        ("resnet110_cifar", (32, 32, 3), 252.89),
    ],
)
@pytest.mark.slow
def test_multiply_adds(name, shape, millions):
    assert multiply_adds(models.create(name), shape) == pytest.approx(millions * 1e6, rel=2e-3)


@pytest.mark.parametrize("name", ["plain18", "resnet50"])
def test_stages_have_the_papers_shapes(name):  # table 1
    model = models.create(name)
    channels = [64, 128, 256, 512] if model.block == "basic" else [256, 512, 1024, 2048]
    expected = {f"stage{i + 1}": (56 >> i, 56 >> i, channels[i]) for i in range(4)}
    logits, endpoints = jax.eval_shape(model.apply, models.parameter_shapes(model, SHAPE), jnp.zeros((2, *SHAPE)))
    assert logits.shape == (2, 1000)
    assert {key: value.shape[1:] for key, value in endpoints.items()} == {
        "stem": (112, 112, 64),
        **expected,
        "features": (channels[-1],),
        "logits_map": (7, 7, 1000),
    }


def names_and_shapes(model, shape=(32, 32, 3)):
    variables = models.parameter_shapes(model, shape)
    return {
        name: leaf.shape for name, leaf in zip(tree.names(variables), jax.tree_util.tree_leaves(variables), strict=True)
    }


def test_plain_is_residual_less_the_projections_and_option_a_is_plain():
    residual, padded = (names_and_shapes(models.create("resnet18", shortcut=form)) for form in ("B", "A"))
    plain = names_and_shapes(models.create("plain18"))
    assert plain == padded
    assert plain == {name: shape for name, shape in residual.items() if "projection" not in name}
    assert len(residual) == len(plain) + 3 * 5


@pytest.mark.slow
def test_where_the_stride_is_changes_no_parameter():
    ours, theirs = (models.create("resnet50", stride_in=place) for place in ("3x3", "1x1"))
    assert names_and_shapes(ours) == names_and_shapes(theirs)


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "plain18", "resnet8_cifar", "plain1202_cifar"])
@pytest.mark.slow
def test_every_parameter_is_used(name):  # one of each kind
    assert unused(models.create(name), (32, 32, 3)) == []


# What the networks compute


@pytest.mark.slow
@pytest.mark.parametrize("name", TINY)
def test_every_parameter_has_a_gradient(name):
    assert without_gradient(*TINY[name]()) == []


@pytest.mark.parametrize("name", ["grouped", "large images"])
@pytest.mark.slow
def test_evaluation_draws_nothing_and_takes_one_image(name):
    model, shape = TINY[name]()
    variables, x = filled(model, shape), images(3, shape)

    @jit
    def compute(variables, x):
        return model.apply(variables, x), model.apply(variables, x, False, 0.5)[0], model.apply(variables, x[:1])[0]

    (logits, endpoints), again, one = compute(variables, x)
    np.testing.assert_array_equal(logits, again)
    np.testing.assert_allclose(one, logits[:1], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(endpoints["logits_map"].mean((1, 2)), logits, rtol=1e-4, atol=1e-4)


def test_dropout_acts_before_the_head_in_training():
    model, shape = tiny(norm="none", stages=(1,))
    variables, x = filled(model, shape), images(2, shape)

    @jit
    def compute(variables, x):
        training = [model.apply(variables, x, True, 0.5, rngs={"dropout": jax.random.key(k)}) for k in (0, 1)]
        return training, model.apply(variables, x)

    ((first, endpoints), (second, _)), (_, without) = compute(variables, x)
    assert np.any(first != second)
    np.testing.assert_array_equal(endpoints["features"], without["features"])


def test_half_precision_is_near_single():
    model, shape = TINY["large images"]()
    half, variables, x = model.clone(dtype=jnp.bfloat16), filled(model, shape), images(2, shape)
    (logits, endpoints), (expected, _) = jit(lambda v, x: (half.apply(v, x), model.apply(v, x)))(variables, x)
    assert {value.dtype for value in endpoints.values()} == {np.dtype(jnp.bfloat16)}
    np.testing.assert_allclose(logits, expected, rtol=0.1, atol=0.05 * np.abs(expected).max())


def imagenet_block(model, stage, strides):
    return ResidualBlock(imagenet_resnet._layers(model, stage, strides), model.shortcut, parts(model))


def cifar_block(model, stage, strides):
    conv = partial(Conv, use_bias=False)
    return Block(model.width * 2 ** (stage - 1), strides, model.shortcut, conv, norm_layer("batch"), nn.relu)


@pytest.mark.parametrize(
    ("model", "stages", "make"),
    [
        (tiny(stages=(3, 2))[0], (3, 2), imagenet_block),
        (CifarResNet(depth=14, width=4), (2, 2, 2), cifar_block),
        (CifarResNet(depth=20, width=4, shortcut="B"), (3, 3, 3), cifar_block),
    ],
)
@pytest.mark.slow
def test_scanned_blocks_are_the_same_blocks_one_after_the_other(model, stages, make):
    shape = (6, 6, 3)
    variables, x = filled(model, shape), images(2, shape)
    single = {collection: model.unstack(value) for collection, value in variables.items()}

    @jit
    def compute(variables, single, x):
        logits, endpoints = model.apply(variables, x)
        y = endpoints["stem"]
        for stage, blocks in enumerate(stages, start=1):
            for index in range(blocks):
                block = make(model, stage, (2, 2) if stage > 1 and index == 0 else (1, 1))
                mine = {kind: value[f"stage{stage}.{index}"] for kind, value in single.items()}
                y = block.apply(mine, y, False)
        head = single["params"]["head"]
        return logits, y.mean((1, 2)) @ head["kernel"] + head["bias"]

    scanned, unrolled = compute(variables, single, x)
    np.testing.assert_allclose(scanned, unrolled, rtol=1e-4, atol=1e-4 * np.abs(scanned).max())


@pytest.mark.parametrize("library", [np, jnp])
@pytest.mark.parametrize(
    ("model", "shape"),
    [
        tiny("resnet50"),
        tiny(stages=(1, 3)),
        (CifarResNet(depth=8, width=4), (4, 4, 3)),
        (CifarResNet(depth=20, width=4, shortcut="B"), (4, 4, 3)),
    ],
)
@pytest.mark.slow
def test_stack_is_the_inverse_of_unstack(model, shape, library):
    for collection in filled(model, shape).values():
        arrays = jax.tree.map(library.asarray, collection)
        single = model.unstack(arrays)
        assert not any("_first" in name or "_rest" in name for name in single)
        again = model.stack(single)
        assert {type(leaf) for leaf in jax.tree.leaves(again)} == {type(leaf) for leaf in jax.tree.leaves(arrays)}
        assert tree.leaf_digests(again) == tree.leaf_digests(arrays)


def test_blocks_are_stacked_by_their_numbers_also_from_ten_on():
    single = {f"stage1.{index}": {"kernel": np.full(2, index)} for index in (11, 0, 10, 2, 1, *range(3, 10))}
    stacked = imagenet_resnet.ResNet.stack(single)
    np.testing.assert_array_equal(stacked["stage1_rest"]["kernel"][:, 0], np.arange(1, 12))


# Residual blocks


@pytest.mark.parametrize("block", ["basic", "bottleneck"])
def test_a_block_whose_last_scale_is_zero_is_the_identity_only_with_a_shortcut(block):  # S4:446-454
    channels = {"basic": 8, "bottleneck": 32}[block]
    x = jnp.asarray(np.abs(images(2, (4, 4, channels))))
    model = models.create("resnet18", block=block, width=8)
    branch = imagenet_resnet._layers(model, 1, (1, 1))
    last = f"conv{len(branch)}"

    @jit
    def compute(x):
        blocks = {form: ResidualBlock(branch, form, parts(model)) for form in ("A", "B", "none")}
        variables = blocks["A"].init(jax.random.key(0), x, True)
        variables["params"][last]["norm"]["scale"] = jnp.zeros(channels)
        return {form: each.apply(variables, x, True, mutable=["batch_stats"])[0] for form, each in blocks.items()}

    found = compute(x)
    np.testing.assert_array_equal(found["A"], x)
    np.testing.assert_array_equal(found["B"], x)
    np.testing.assert_array_equal(found["none"], 0)


def test_shortcuts_where_the_shape_changes():
    x = jnp.asarray(np.abs(images(2, (5, 5, 4))))
    made = parts(models.create("resnet18", norm="none"))
    branch = (Layer(7, 3, (2, 2)), Layer(7, 3))

    @jit
    def compute(x):
        projecting = ResidualBlock(branch, "B", made)
        params = projecting.init(jax.random.key(0), x, True)["params"]
        params["conv2"] = jax.tree.map(jnp.zeros_like, params["conv2"])
        padded = ResidualBlock(branch, "A", made).apply({"params": params}, x, True)
        return params["projection"]["conv"]["kernel"], padded, projecting.apply({"params": params}, x, True)

    kernel, padded, projected = compute(x)
    subsampled = x[:, ::2, ::2]
    np.testing.assert_array_equal(padded, np.pad(subsampled, ((0, 0), (0, 0), (0, 0), (1, 2))))
    np.testing.assert_allclose(projected, np.maximum(subsampled @ np.asarray(kernel)[0, 0], 0), rtol=1e-5, atol=1e-5)


def test_the_stride_is_in_the_convolution_that_is_named():
    strides = {}
    for place in ("3x3", "1x1"):
        model = models.create("resnet50", stride_in=place)
        strides[place] = [layer.strides for layer in imagenet_resnet._layers(model, 2, (2, 2))]
    assert strides == {"3x3": [(1, 1), (2, 2), (1, 1)], "1x1": [(2, 2), (1, 1), (1, 1)]}


def test_bottlenecks_are_grouped_in_proportion():  # Xie et al. 2017, table 1
    model = models.create("resnext50_32x4d")
    found = [imagenet_resnet._layers(model, stage, (1, 1)) for stage in (1, 2, 3, 4)]
    assert [[layer.features for layer in branch] for branch in found] == [
        [128, 128, 256],
        [256, 256, 512],
        [512, 512, 1024],
        [1024, 1024, 2048],
    ]
    assert {tuple(layer.groups for layer in branch) for branch in found} == {(1, 32, 1)}


def test_the_stem_pools_after_its_endpoint():
    model, shape = tiny(stages=(1,), stem="imagenet", shortcut="A", norm="none")[0], SMALL
    variables, x = filled(model, shape), images(2, shape)
    variables["params"]["stage1_first"]["conv2"]["conv"]["kernel"] *= 0
    variables["params"]["stage1_first"]["conv2"]["norm"]["bias"] *= 0
    _, endpoints = jit(model.apply)(variables, x)
    assert endpoints["stem"].shape == (2, 6, 6, 8)
    expected = max_pool(endpoints["stem"], (3, 3), (2, 2), 1)
    np.testing.assert_array_equal(endpoints["stage1"], expected)  # the branch is zero


def test_every_convolution_of_the_stem_and_the_branches_stores_its_response():
    model, shape = tiny("resnet50", stages=(3, 2))
    variables, x = models.parameter_shapes(model, shape), jnp.zeros((2, *shape))

    def stored(variables, x):
        _, found = model.apply(variables, x, mutable=["responses"])
        names[:] = layers(model, found["responses"], "response")

    names: list[str] = []
    jax.eval_shape(stored, variables, x)
    branches = [f"stage{s}.{b}.conv{c}" for s, blocks in ((1, 3), (2, 2)) for b in range(blocks) for c in (1, 2, 3)]
    assert names == ["stem", *branches]


# Refusals


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("resnet19", {}, "Unknown model 'resnet19'. Did you mean"),
        ("resnet18", {"stages": (2, 0, 2)}, r"stages must hold positive whole numbers of blocks, not \(2, 0, 2\)"),
        ("resnet18", {"stages": ()}, r"stages must hold positive whole numbers of blocks, not \(\)"),
        ("resnet18", {"stages": ("2",)}, "stages must hold positive whole numbers of blocks, not"),
        ("resnet18", {"block": "bottle"}, "Unknown block 'bottle'. Did you mean 'bottleneck'"),
        ("resnet18", {"shortcut": "D"}, "Unknown shortcut 'D'.*Choices: A, B, C, none"),
        ("resnet18", {"stem": "cifar10"}, "Unknown stem 'cifar10'. Did you mean 'cifar'"),
        ("resnet50", {"stride_in": "2x2"}, "Unknown stride_in '2x2'.*Choices: 1x1, 3x3"),
        ("resnet18", {"width": 0}, "width must be a positive whole number, not 0"),
        ("resnet50", {"groups": 0}, "groups must be a positive whole number, not 0"),
        ("resnet50", {"width_per_group": -4}, "width_per_group must be a positive whole number, not -4"),
        ("resnet18", {"num_classes": -1}, r"num_classes must be a positive whole number, .*, not -1"),
        ("resnet18", {"groups": 2}, "groups=2 and width_per_group=64 are of bottlenecks, and block=basic has none"),
        (
            "resnext50_32x4d",
            {"width": 24},
            "width=24 and width_per_group=4 give groups of a fractional number of channels.* multiple of 64",
        ),
        ("resnet18", {"norm": "bach"}, "Unknown norm 'bach'. Did you mean 'batch'"),
        ("resnet1202_cifar", {"depth": 1200}, r"depth must be 6n \+ 2 .* not 1200"),
    ],
)
def test_a_bad_name_or_value_is_refused(name, fields, message, unchecked):
    with pytest.raises(UsageError, match=message):
        models.create(name, **fields)


@pytest.mark.parametrize(
    ("name", "fields", "smallest"), [("resnet18", {}, 32), ("resnet50", {"stem": "cifar"}, 8), ("plain34", {}, 32)]
)
@pytest.mark.slow
def test_the_smallest_images_work_and_smaller_ones_are_refused(name, fields, smallest):
    model = models.create(name, **fields)
    models.check_image_shape(model, (smallest, smallest, 3), name)
    shape = (smallest, smallest, 3)
    _, endpoints = jax.eval_shape(model.apply, models.parameter_shapes(model, shape), jnp.zeros((1, *shape)))
    assert endpoints["logits_map"].shape == (1, 1, 1, 1000)
    with pytest.raises(UsageError, match=f"{name} needs images of at least {smallest}x{smallest} pixels, not"):
        models.check_image_shape(model, (smallest, smallest - 1, 3), name)
