import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import models, tree
from cnnjax.models.resnet import Block
from cnnjax.nn import Conv, norm_layer
from tests.fixtures.networks import filled, images, jit


def small(depth=8, shortcut="A", norm="batch", **fields):
    """Four channels in the first stage, and the shape of small images."""
    name = f"{'plain' if shortcut == 'none' else 'resnet'}{depth}_cifar"
    return models.create(name, width=4, shortcut=shortcut, norm=norm, **fields), (8, 8, 3)


# Counts and shapes


@pytest.mark.parametrize(
    ("fields", "more"),
    [
        ({"shortcut": "B"}, 2_752),
        ({"norm": "none"}, -(16 * 7 + 32 * 6 + 64 * 6)),  # no scales
    ],
)
def test_parameter_counts(fields, more):
    assert models.count_parameters("resnet20_cifar", **fields) == 269_722 + more


def test_shapes_of_logits_and_endpoints():
    model = models.create("resnet14_cifar", num_classes=3)
    inputs = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
    (logits, endpoints), _ = jax.eval_shape(model.init_with_output, jax.random.key(0), inputs)
    assert logits.shape == (2, 3)
    assert {key: value.shape for key, value in endpoints.items()} == {
        "stem": (2, 32, 32, 16), "stage1": (2, 32, 32, 16), "stage2": (2, 16, 16, 32), "stage3": (2, 8, 8, 64),
        "features": (2, 64), "logits_map": (2, 8, 8, 3),
    }  # fmt: skip


# The twins


@pytest.mark.slow
def test_plain_and_residual_twins_start_from_equal_parameters():
    plain, shape = small(20, "none")
    residual, _ = small(20)
    x = jnp.zeros((1, *shape))
    ours, theirs = jit(lambda key: (plain.init(key, x), residual.init(key, x)))(jax.random.key(3))
    assert tree.leaf_digests(ours) == tree.leaf_digests(theirs)
    kernels = ours["params"]["stage3_rest"]["conv1"]["kernel"]
    assert np.all(kernels[0] != kernels[1])  # each of the stacked blocks draws its own
    assert kernels.std() == pytest.approx(math.sqrt(2 / (9 * 16)), rel=0.1)  # He's


def test_the_twins_compute_different_functions():
    plain, shape = small(8, "none")
    residual, _ = small(8)
    variables, x = filled(plain, shape), images(2, shape)
    ours, theirs = jit(lambda v, x: (plain.apply(v, x)[0], residual.apply(v, x)[0]))(variables, x)
    assert np.abs(ours - theirs).max() > 0.1


# Blocks


def test_a_block_whose_last_scale_is_zero_is_the_identity_only_with_a_shortcut():  # S4:446-454
    x = np.abs(images(2, (4, 4, 4)))
    make = partial(Block, 4, (1, 1), conv=partial(Conv, use_bias=False), norm=norm_layer("batch"), act=jax.nn.relu)

    @jit
    def compute(x):
        variables = make("A").init(jax.random.key(0), x, True)
        variables["params"]["norm2"]["scale"] = jnp.zeros(4)
        return [make(form).apply(variables, x, True, mutable=["batch_stats"])[0] for form in ("A", "none")]

    residual, plain = compute(x)
    np.testing.assert_array_equal(residual, x)
    np.testing.assert_array_equal(plain, 0)


def test_shortcuts_where_the_shape_changes():
    x = np.abs(images(2, (5, 5, 4)))
    make = partial(Block, 7, (2, 2), conv=partial(Conv, use_bias=False), norm=norm_layer("none"), act=jax.nn.relu)

    @jit
    def compute(x):
        variables = make("B").init(jax.random.key(0), x, True)
        params = {**variables["params"], "norm2": {"bias": jnp.zeros(7)}, "conv2": {"kernel": jnp.zeros((3, 3, 7, 7))}}
        padded = make("A").apply({"params": params}, x, True)
        return params["projection"]["kernel"], padded, make("B").apply({"params": params}, x, True)

    kernel, padded, projected = compute(x)
    subsampled = x[:, ::2, ::2]
    np.testing.assert_array_equal(padded, np.pad(subsampled, ((0, 0), (0, 0), (0, 0), (1, 2))))
    np.testing.assert_allclose(projected, np.maximum(subsampled @ np.asarray(kernel)[0, 0], 0), rtol=1e-5, atol=1e-5)


def test_unstacked_blocks_are_in_order_of_depth():
    model, shape = small(32)
    params = filled(model, shape)["params"]
    blocks = model.unstack(params)
    assert set(blocks) == {f"stage{s}.{b}" for s in (1, 2, 3) for b in range(5)} | {"stem", "stem_norm", "head"}
    kernels = {name: blocks[name]["conv1"]["kernel"] for name in ("stage1.3", "stage2.0", "stage2.3")}
    np.testing.assert_array_equal(kernels["stage1.3"], params["stage1"]["conv1"]["kernel"][3])
    np.testing.assert_array_equal(kernels["stage2.0"], params["stage2_first"]["conv1"]["kernel"])
    np.testing.assert_array_equal(kernels["stage2.3"], params["stage2_rest"]["conv1"]["kernel"][2])


# Dropout


@pytest.mark.slow
def test_dropout_acts_in_training_only_where_the_docstring_says():
    model, shape = small(norm="none")
    variables, x = filled(model, shape), images(2, shape)

    @jit
    def compute(variables, x):
        training = [model.apply(variables, x, True, 0.5, rngs={"dropout": jax.random.key(k)}) for k in (0, 1)]
        return training, model.apply(variables, x)

    ((first, endpoints), (second, _)), (_, without) = compute(variables, x)
    assert np.any(first != second)
    np.testing.assert_array_equal(endpoints["features"], without["features"])  # before the head, after all else


@pytest.mark.slow
def test_scanned_blocks_drop_different_units():
    model, shape = small(20, norm="none", dropout_at="all")
    params = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), models.parameter_shapes(model, shape))["params"]
    params["stage1"]["norm1"]["bias"] += 1.0  # a block's inner units are all 1, and dropout makes them 0 or 2

    @jit
    def kept(block):
        """The units that a block of stage 1 keeps: the others add nothing, and this one passes its units on."""
        stage = {**params["stage1"], "conv2": {"kernel": jnp.zeros((3, 3, 3, 4, 4)).at[block, 1, 1].set(jnp.eye(4))}}
        rngs = {"dropout": jax.random.key(0)}
        return model.apply(
            {"params": {**params, "stage1": stage}}, jnp.asarray(images(1, shape)), True, 0.5, rngs=rngs
        )[1]["stage1"]

    first, second = np.asarray(kept(0)), np.asarray(kept(1))
    assert set(np.unique(first)) == set(np.unique(second)) == {0, 2}
    assert np.mean(first != second) > 0.3  # half, where they are drawn apart


# Responses


def test_responses_are_stored_only_where_asked():
    model, shape = small()
    assert set(models.parameter_shapes(model, shape)) == {"params", "batch_stats"}
    x = jax.ShapeDtypeStruct((2, *shape), jnp.float32)
    variables = models.parameter_shapes(model, shape)
    stored = jax.eval_shape(lambda v, x: model.apply(v, x, mutable=["responses"])[1]["responses"], variables, x)
    assert tree.names(stored)[-1] == "stem_response"
    assert len(jax.tree.leaves(stored)) == 7
