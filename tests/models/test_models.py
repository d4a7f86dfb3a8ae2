"""What the networks have in common; every family has a file of its own beside this one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import models, tree
from cnnjax.nn import INITIALIZERS
from cnnjax.typing import UsageError
from tests.fixtures.networks import filled, images, jit


def create(name, **fields):
    """A small one of a family, and its images' shape."""
    family = name.partition("_")[0].rstrip("0123456789")
    narrow, shape = {
        "mlp": ({"hidden": (8, 6)}, (4, 4, 3)),
        "lenet": ({}, (16, 16, 1) if fields.get("padding") != "SAME" else (8, 8, 1)),
        "vgg": ({"stages": ((4, 1), (6, 2)), "dense": (8,)}, (8, 8, 3)),
        "resnet": ({"width": 4}, (8, 8, 3)),
        "plain": ({"width": 4}, (8, 8, 3)),
        "connectivity": ({"features": (3, 4), "activation": "tanh"}, (6, 5, 2)),
    }[family]
    return models.create(name, **{**narrow, **fields}), shape


# One of each form and norm.
SMALL = {
    "mlp": lambda: create("mlp"),
    "lenet5": lambda: create("lenet5"),
    "lenet5 same": lambda: create("lenet5", padding="SAME"),
    "lenet5_classic": lambda: (models.create("lenet5_classic"), (32, 32, 1)),
    "vgg": lambda: create("vgg_small"),
    "vgg batch": lambda: create("vgg_small", stages=((4, 1),), dense=(), norm="batch"),
    "plain": lambda: create("plain8_cifar"),
    "residual": lambda: create("resnet14_cifar"),
    "projection": lambda: create("resnet8_cifar", shortcut="B", norm="group"),
    "instance": lambda: create("resnet8_cifar", norm="instance"),
    "layer": lambda: create("resnet8_cifar", norm="layer"),
    "none": lambda: create("resnet8_cifar", norm="none"),
    "mlp swapped": lambda: create("mlp", hidden=(12, 10), activation="silu", norm="group", head_activation="tanh"),
    "lenet5 swapped": lambda: create("lenet5", padding="SAME", activation="elu", norm="group", dropout_at="all"),
    "vgg blur": lambda: create("vgg_small", pool="blur", kernel_size=5, activation="gelu", dropout_at="all"),
    "vgg stride": lambda: create("vgg_small", pool="stride", activation="leaky_relu", kernel_size=1),
    "residual swapped": lambda: create("resnet8_cifar", activation="tanh", dropout_at="all"),
    "connectivity_conv": lambda: create("connectivity_conv"),
    "connectivity_local": lambda: create("connectivity_local"),
    "connectivity_dense": lambda: create("connectivity_dense"),
}


@pytest.mark.parametrize(
    ("name", "fields", "expected"),
    [
        ("mlp", {"hidden": (7, 5)}, {"hidden1": (2, 7), "hidden2": (2, 5), "features": (2, 5)}),
        (
            "vgg_small",
            {},
            {
                "stage1": (2, 16, 16, 32), "stage2": (2, 8, 8, 64), "stage3": (2, 4, 4, 128), "dense1": (2, 128),
                "features": (2, 128), "logits_map": (2, 1, 1, 10),
            },
        ),
    ],
)  # fmt: skip
def test_shapes_of_logits_and_endpoints(name, fields, expected):
    model = models.create(name, **fields)
    inputs = jax.ShapeDtypeStruct((2, *models.MODELS[name].image_shape), jnp.float32)
    (logits, endpoints), _ = jax.eval_shape(model.init_with_output, jax.random.key(0), inputs)
    assert logits.shape == (2, 10)
    assert {key: value.shape for key, value in endpoints.items()} == expected


# What a network computes


SLOW = ("instance", "layer", "lenet5 swapped", "residual swapped")  # their kinds are among the others


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] if n in SLOW else []) for n in SMALL])
def test_every_parameter_has_a_gradient_and_evaluation_draws_nothing(name):
    model, shape = SMALL[name]()
    variables, x = filled(model, shape), images(6, shape)
    state = [collection for collection in variables if collection != "params"]

    @jit
    def compute(variables, x):
        def loss(params):
            rngs = {"dropout": jax.random.key(0)}
            (logits, _), _ = model.apply({**variables, "params": params}, x, True, 0.1, mutable=state, rngs=rngs)
            return -jax.nn.log_softmax(logits)[jnp.arange(6), jnp.arange(6)].mean()

        evaluations = [model.apply(variables, x, False, rate) for rate in (0.0, 0.5)]  # without a key
        return jax.grad(loss)(variables["params"]), evaluations, model.apply(variables, x[:1])[0]

    gradients, ((logits, endpoints), (again, _)), one = compute(variables, x)
    for path, gradient in zip(tree.names(gradients), jax.tree.leaves(gradients), strict=True):
        stacked = path.startswith("stage") and gradient.ndim in (2, 5)  # equal blocks, along the first axis
        blocks = gradient if stacked else gradient[None]
        assert np.all(np.isfinite(blocks)), path
        assert all(np.any(block) for block in blocks), path
    np.testing.assert_array_equal(logits, again)
    # The statistics of evaluation are no batch's: an image alone gets what it gets among others.
    np.testing.assert_allclose(one, logits[:1], rtol=1e-4, atol=1e-4)
    if "logits_map" in endpoints:
        np.testing.assert_allclose(endpoints["logits_map"].mean((1, 2)), logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["mlp", "lenet5 same", "lenet5_classic", "vgg", "projection"])
@pytest.mark.slow
def test_half_precision_is_finite_with_parameters_in_single(name):
    model, shape = SMALL[name]()
    half, variables, x = model.clone(dtype=jnp.bfloat16), filled(model, shape), images(2, shape)
    assert {leaf.dtype for leaf in jax.tree.leaves(models.parameter_shapes(half, shape))} == {np.dtype("float32")}
    (logits, endpoints), (expected, _) = jit(lambda v, x: (half.apply(v, x), model.apply(v, x)))(variables, x)
    assert {value.dtype for value in endpoints.values()} == {np.dtype(jnp.bfloat16)}
    np.testing.assert_allclose(logits, expected, rtol=0.1, atol=0.2)


@pytest.mark.parametrize("name", ["connectivity_local", "vgg blur"])
@pytest.mark.slow
def test_networks_side_by_side_have_the_gradients_of_each_alone(name):
    model, shape = SMALL[name]()
    ours = filled(model, shape)["params"]
    members = [ours, jax.tree.map(lambda leaf: leaf * 0.5, ours)]
    x = jnp.asarray(images(2, shape))

    def gradient(params, x):
        return jax.grad(lambda p: jnp.square(model.apply({"params": p}, x)[0]).sum())(params)

    lanes = jax.tree.map(lambda *leaves: jnp.stack(leaves), *members)
    inputs = jnp.stack([x, x[::-1]])
    together = jit(jax.vmap(gradient))(lanes, inputs)
    alone = jit(lambda members: [gradient(p, y) for p, y in zip(members, (x, x[::-1]), strict=True)])(members)
    for lane, expected in enumerate(alone):
        jax.tree.map(
            lambda a, e, lane=lane: np.testing.assert_allclose(a[lane], e, rtol=1e-3, atol=1e-4), together, expected
        )


# Swappable parts


def test_shared_fields_have_one_type():
    kinds = {}
    for name in models.MODELS:
        for field, value in models.fields(name).items():
            assert kinds.setdefault(field, type(value)) is type(value), field
        assert {"num_classes", "dtype"} <= set(models.fields(name)), name


@pytest.mark.parametrize(
    "name", ["mlp", "lenet5 same", "vgg", "projection", "connectivity_dense", "connectivity_local"]
)
@pytest.mark.slow
def test_all_kernels_are_initialised_as_asked(name, monkeypatch):
    monkeypatch.setitem(INITIALIZERS, "gaussian", jax.nn.initializers.constant(7.0))
    model, shape = SMALL[name]()
    params = jit(model.clone(kernel_init="gaussian").init)(jax.random.key(0), jnp.zeros((1, *shape)))["params"]
    for path, leaf in zip(tree.names(params), jax.tree.leaves(params), strict=True):
        assert np.all(leaf == 7) == path.endswith("kernel"), path


def test_an_activation_and_a_head_activation_are_applied_where_they_are_named():
    model, shape = SMALL["mlp"]()
    variables, x = filled(model, shape), jnp.asarray(images(3, shape))
    params = variables["params"]
    expected = x.reshape(3, -1)
    for layer in ("dense1", "dense2", "head"):
        expected = expected @ params[layer]["kernel"] + params[layer]["bias"]
    linear = model.clone(activation="identity")
    np.testing.assert_allclose(linear.apply(variables, x)[0], expected, rtol=1e-4, atol=1e-5)
    rectified = linear.clone(head_activation="relu").apply(variables, x)[0]
    np.testing.assert_allclose(rectified, np.maximum(expected, 0), rtol=1e-4, atol=1e-5)
    assert np.all(jax.nn.sigmoid(rectified) >= 0.5)  # S1:1270-1278


@pytest.mark.parametrize("name", ["lenet5 same", "vgg", "none"])
@pytest.mark.slow
def test_dropout_everywhere_acts_on_the_convolutions_too(name):
    model, shape = SMALL[name]()
    variables, x = filled(model, shape), jnp.asarray(images(2, shape))
    last = {"lenet5 same": "conv2", "vgg": "stage2", "none": "stage3"}[name]

    @jit
    def compute(variables, rate):
        rngs = {"dropout": jax.random.key(0)}
        dense, everywhere = (
            model.clone(dropout_at=place).apply(variables, x, True, rate, rngs=rngs)[1][last]
            for place in ("dense", "all")
        )
        return dense, everywhere, model.apply(variables, x)[1][last]

    dense, everywhere, without = compute(variables, 0.5)
    np.testing.assert_array_equal(dense, without)
    assert np.any(everywhere != without)
    np.testing.assert_array_equal(compute(variables, 0.0)[1], without)


# Refusals


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("resnet55_cifar", {}, "Unknown model 'resnet55_cifar'. Did you mean 'resnet56_cifar'"),
        (
            "mlp",
            {"hiden": (3,)},
            "Unknown field of model mlp 'hiden'. Did you mean 'hidden'.*Choices: .*dtype, .*hidden",
        ),
        ("mlp", {"hidden": 3}, "model.hidden must be of type tuple, not 3"),
        ("mlp", {"hidden": (3, 0)}, r"hidden must hold positive whole numbers of units, not \(3, 0\)"),
        ("mlp", {"hidden": ("3",)}, "hidden must hold positive whole numbers of units, not"),
        ("lenet5", {"num_classes": "10"}, "model.num_classes must be of type int, not '10'"),
        ("lenet5", {"num_classes": True}, "model.num_classes must be of type int, not True"),
        ("lenet5", {"padding": "FULL"}, "padding must be SAME or VALID, not 'FULL'"),
        ("lenet5_classic", {"num_classes": 26}, "ten fixed output codes, not num_classes=26. Use lenet5"),
        ("resnet20_cifar", {"depth": 19}, r"depth must be 6n \+ 2 .* not 19"),
        ("resnet20_cifar", {"depth": 2}, r"depth must be 6n \+ 2 .* not 2"),
        ("resnet20_cifar", {"shortcut": "C"}, "shortcut must be one of none, A, B, not 'C'"),
        ("mlp", {"activation": "rleu"}, "Unknown activation 'rleu'. Did you mean 'relu'"),
        ("mlp", {"head_activation": "softmax"}, "Unknown head_activation 'softmax'"),
        ("mlp", {"norm": "instance"}, "norm=instance averages over pixels, which dense layers lack"),
        ("mlp", {"norm": "group", "hidden": (100, 8)}, r"norm=group makes groups of single units of hidden=\(100, 8\)"),
        ("lenet5", {"kernel_init": "glorot"}, "Unknown kernel_init 'glorot'.*gaussian, he, .*xavier"),
        ("lenet5", {"num_classes": -1}, r"num_classes must be a positive whole number, .*, not -1"),
        ("mlp", {"num_classes": -1}, r"num_classes must be a positive whole number, .*, not -1"),
        ("lenet5", {"norm": "bach"}, "Unknown norm 'bach'. Did you mean 'batch'"),
        ("resnet20_cifar", {"dropout_at": "al"}, "Unknown dropout_at 'al'. Did you mean 'all'"),
        ("vgg_small", {"pool": "strided"}, "Unknown pool 'strided'. Did you mean 'stride'"),
        ("vgg_small", {"kernel_size": 4}, "kernel_size must be odd and at least 1, not 4"),
        ("connectivity_conv", {"kernel_size": -1}, "kernel_size must be odd and at least 1, not -1"),
        ("connectivity_conv", {"sharing": "locl"}, "Unknown sharing 'locl'. Did you mean 'local'"),
        ("connectivity_local", {"features": (8,)}, r"features must hold two positive whole numbers.* \(8,\)"),
        ("connectivity_dense", {"features": (8, 0)}, r"features must hold two positive whole numbers.* \(8, 0\)"),
        ("resnet20_cifar", {"width": 0}, "width must be at least 1, not 0"),
    ],
)
def test_a_bad_name_or_value_is_refused(name, fields, message, unchecked):
    with pytest.raises(UsageError, match=message):
        models.create(name, **fields)


@pytest.mark.parametrize(
    ("name", "fields", "smallest"),
    [
        ("lenet5", {}, 16),
        ("lenet5", {"padding": "SAME"}, 4),
        ("vgg_small", {}, 8),
        ("vgg_small", {"pool": "blur", "kernel_size": 5}, 8),
        ("vgg_small", {"pool": "stride"}, 8),
        ("vgg16_bn", {}, 32),
        ("network_in_network", {}, 4),
        ("neocognitron", {}, 1),
        ("connectivity_local", {"kernel_size": 5}, 1),
        ("resnet20_cifar", {}, 4),
        ("mlp", {}, 1),
    ],
)
@pytest.mark.slow
def test_the_smallest_images_work_and_smaller_ones_are_refused(name, fields, smallest):
    model = models.create(name, **fields)
    shape = (smallest, smallest, 1)
    models.check_image_shape(model, shape, name)
    models.parameter_shapes(model, shape)
    if smallest > 1:
        with pytest.raises(UsageError, match=f"{name} needs images of at least {smallest}x{smallest} pixels, not"):
            models.check_image_shape(model, (smallest, smallest - 1, 1), name)
