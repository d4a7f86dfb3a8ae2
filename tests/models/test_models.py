import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import models, tree
from cnnjax.models.lenet import C3_TABLE, DIGIT_CODES, LeNet5Classic, scaled_tanh
from cnnjax.models.resnet import DEPTHS, Block
from cnnjax.nn import Conv, norm_layer
from cnnjax.typing import UsageError

# These compile a network to run it once.
jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})

CIFAR_PARAMETERS = {8: 75_290, 14: 172_506, 20: 269_722, 32: 464_154, 44: 658_586, 56: 853_018, 110: 1_727_962}


def small_resnet(depth=8, shortcut="A", norm="batch", **fields):
    name = f"{'plain' if shortcut == 'none' else 'resnet'}{depth}_cifar"
    return models.create(name, width=4, shortcut=shortcut, norm=norm, **fields), (8, 8, 3)


# One of each family, form and norm, all small: the model and its images' shape.
SMALL = {
    "mlp": lambda: (models.create("mlp", hidden=(8, 6)), (4, 4, 3)),
    "lenet5": lambda: (models.create("lenet5"), (16, 16, 1)),
    "lenet5 same": lambda: (models.create("lenet5", padding="SAME"), (8, 8, 1)),
    "lenet5_classic": lambda: (models.create("lenet5_classic"), (32, 32, 1)),
    "vgg": lambda: (models.create("vgg_small", stages=((4, 1), (6, 2)), dense=(8,)), (8, 8, 3)),
    "vgg batch": lambda: (models.create("vgg_small", stages=((4, 1),), dense=(), norm="batch"), (8, 8, 3)),
    "plain": lambda: small_resnet(14, "none"),
    "residual": lambda: small_resnet(14),
    "projection": lambda: small_resnet(shortcut="B", norm="group"),
    "instance": lambda: small_resnet(norm="instance"),
    "layer": lambda: small_resnet(norm="layer"),
    "none": lambda: small_resnet(norm="none"),
}


def images(count, shape):
    return np.random.default_rng(0).standard_normal((count, *shape)).astype(np.float32)


def filled(model, shape):
    """Variables with He's standard deviation, drawn on the host: initialising takes seconds to compile."""
    rng = np.random.default_rng(1)

    def fill(name, leaf):
        kind = name.rsplit("/", 1)[-1]
        if "kernel" in kind:
            fan_in = math.prod(leaf.shape[-4:-1] if len(leaf.shape) > 3 else leaf.shape[:-1])
            return rng.normal(0, math.sqrt(2 / fan_in), leaf.shape).astype(np.float32)
        center = {"scale": 1, "var": 1, "s2_coefficient": 0.25, "s4_coefficient": 0.25}.get(kind, 0)
        return (center + 0.1 * rng.random(leaf.shape)).astype(np.float32)

    return tree.mask(models.parameter_shapes(model, shape), fill)


def outputs(name, count=2, **fields):
    """Logits and endpoints in evaluation, as shapes."""
    model = models.create(name, **fields)
    shape = models.MODELS[name].image_shape
    return jax.eval_shape(model.apply, models.parameter_shapes(model, shape), jnp.zeros((count, *shape)))


# Counts and shapes


@pytest.mark.parametrize(
    ("name", "fields", "count"),
    [
        ("lenet5", {}, 61_706),  # S4:368-374
        ("lenet5_classic", {}, 60_000),
        ("mlp", {}, 32 * 32 * 3 * 100 + 100 + 100 * 10 + 10),
        ("vgg_small", {}, 550_570),
        *((f"{form}{depth}_cifar", {}, CIFAR_PARAMETERS[depth]) for form in ("plain", "resnet") for depth in DEPTHS),
        ("resnet20_cifar", {"shortcut": "B"}, 269_722 + 2_752),
        ("resnet20_cifar", {"norm": "none"}, 269_722 - (16 * 7 + 32 * 6 + 64 * 6)),  # no scales
    ],
)
def test_parameter_counts(name, fields, count):
    assert models.count_parameters(name, **fields) == count


def test_every_name_has_a_count():
    assert set(models.MODELS) == {"mlp", "lenet5", "lenet5_classic", "vgg_small"} | {
        f"{form}{depth}_cifar" for form in ("plain", "resnet") for depth in CIFAR_PARAMETERS
    }


def test_the_lectures_fully_connected_net():  # S1:1004
    variables = models.parameter_shapes(models.create("mlp", num_classes=26), (16, 16, 1))
    assert tree.count(variables) == 28_326


@pytest.mark.parametrize(
    ("name", "fields", "expected"),
    [
        ("mlp", {"hidden": (7, 5)}, {"hidden1": (2, 7), "hidden2": (2, 5)}),
        (
            "lenet5",
            {},
            {
                "conv1": (2, 28, 28, 6), "pool1": (2, 14, 14, 6), "conv2": (2, 10, 10, 16), "pool2": (2, 5, 5, 16),
                "dense1": (2, 120), "dense2": (2, 84),
            },
        ),
        (
            "lenet5_classic",
            {},
            {
                "c1": (2, 28, 28, 6), "s2": (2, 14, 14, 6), "c3": (2, 10, 10, 16), "s4": (2, 5, 5, 16),
                "c5": (2, 120), "f6": (2, 84),
            },
        ),
        (
            "vgg_small",
            {},
            {"stage1": (2, 16, 16, 32), "stage2": (2, 8, 8, 64), "stage3": (2, 4, 4, 128), "dense1": (2, 128)},
        ),
        (
            "resnet14_cifar",
            {"num_classes": 3},
            {
                "stem": (2, 32, 32, 16), "stage1": (2, 32, 32, 16), "stage2": (2, 16, 16, 32),
                "stage3": (2, 8, 8, 64), "pooled": (2, 64), "logits_map": (2, 8, 8, 3),
            },
        ),
    ],
)  # fmt: skip
def test_shapes_of_logits_and_endpoints(name, fields, expected):
    logits, endpoints = outputs(name, **fields)
    assert logits.shape == (2, fields.get("num_classes", 10))
    assert {key: value.shape for key, value in endpoints.items()} == expected


# What a network computes


@pytest.mark.parametrize("name", SMALL)
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


def test_dropout_acts_in_training_only_where_the_docstring_says():
    model, shape = small_resnet(norm="none")
    variables, x = filled(model, shape), images(2, shape)

    @jit
    def compute(variables, x):
        training = [model.apply(variables, x, True, 0.5, rngs={"dropout": jax.random.key(k)}) for k in (0, 1)]
        return training, model.apply(variables, x)

    ((first, endpoints), (second, _)), (_, without) = compute(variables, x)
    assert np.any(first != second)
    np.testing.assert_array_equal(endpoints["pooled"], without["pooled"])  # before the head, after all else


def test_plain_and_residual_twins_start_from_equal_parameters():
    plain, shape = small_resnet(20, "none")
    residual, _ = small_resnet(20)
    x = jnp.zeros((1, *shape))
    ours, theirs = jit(lambda key: (plain.init(key, x), residual.init(key, x)))(jax.random.key(3))
    assert tree.leaf_digests(ours) == tree.leaf_digests(theirs)
    kernels = ours["params"]["stage3_rest"]["conv1"]["kernel"]
    assert np.all(kernels[0] != kernels[1])  # each of the stacked blocks draws its own
    assert kernels.std() == pytest.approx(math.sqrt(2 / (9 * 16)), rel=0.1)  # He's


def test_the_twins_compute_different_functions():
    plain, shape = small_resnet(8, "none")
    residual, _ = small_resnet(8)
    variables, x = filled(plain, shape), images(2, shape)
    ours, theirs = jit(lambda v, x: (plain.apply(v, x)[0], residual.apply(v, x)[0]))(variables, x)
    assert np.abs(ours - theirs).max() > 0.1


@pytest.mark.parametrize("name", ["mlp", "lenet5 same", "lenet5_classic", "vgg", "projection"])
def test_half_precision_is_finite_with_parameters_in_single(name):
    model, shape = SMALL[name]()
    half, variables, x = model.clone(dtype=jnp.bfloat16), filled(model, shape), images(2, shape)
    assert {leaf.dtype for leaf in jax.tree.leaves(models.parameter_shapes(half, shape))} == {np.dtype("float32")}
    (logits, endpoints), (expected, _) = jit(lambda v, x: (half.apply(v, x), model.apply(v, x)))(variables, x)
    assert {value.dtype for value in endpoints.values()} == {np.dtype(jnp.bfloat16)}
    np.testing.assert_allclose(logits, expected, rtol=0.1, atol=0.2)


# Residual blocks


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


# LeNet-5 as printed


@pytest.fixture(scope="module")
def classic():
    """Endpoints and logits of one image, and which maps of S2 each map of C3 reads."""
    model, shape = SMALL["lenet5_classic"]()
    variables, x = filled(model, shape), images(1, shape)

    @jit
    def compute(variables, x):
        def c3(bias):
            params = {**variables["params"], "s2_bias": bias}
            return model.apply({"params": params}, x)[1]["c3"].sum((0, 1, 2))

        return model.apply(variables, x), jax.jacrev(c3)(variables["params"]["s2_bias"])

    return compute(variables, x)


def test_maps_of_c3_read_only_the_maps_of_the_table(classic):
    _, jacobian = classic
    expected = [[source in maps for source in range(6)] for maps in C3_TABLE]
    np.testing.assert_array_equal(jacobian != 0, expected)


def test_the_table_of_c3_is_the_papers():
    neighbours = [{(first + i) % 6 for i in range(length)} for length in (3, 4) for first in range(6)]
    opposite_pairs = [{0, 1, 3, 4}, {1, 2, 4, 5}, {2, 3, 5, 0}]
    assert [set(maps) for maps in C3_TABLE] == [*neighbours, *opposite_pairs, set(range(6))]


def test_logits_are_distances_to_fixed_codes(classic):
    (logits, endpoints), _ = classic
    columns = zip(*(line.split() for line in DIGIT_CODES.split("\n") if line), strict=True)
    codes = np.array([[1 if pixel == "#" else -1 for row in column for pixel in row] for column in columns])
    assert codes.shape == (10, 84)
    differences = (codes[:, None] != codes).sum(-1)
    assert differences[~np.eye(10, dtype=bool)].min() >= 3  # no two digits look alike
    expected = -0.5 * np.square(np.asarray(endpoints["f6"], np.float64) - codes).sum(-1)
    np.testing.assert_allclose(logits[0], expected, rtol=1e-5)


def test_the_scaled_tanh_fixes_plus_and_minus_one():
    x = jnp.array([-1.0, 0, 1])
    np.testing.assert_allclose(scaled_tanh(x), x, atol=1e-4)


# Refusals


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("resnet55_cifar", {}, "Unknown model 'resnet55_cifar'. Did you mean 'resnet56_cifar'"),
        ("mlp", {"hiden": (3,)}, "Unknown field of model mlp 'hiden'. Did you mean 'hidden'.*Choices: dtype, hidden"),
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
        ("resnet20_cifar", {}, 4),
        ("mlp", {}, 1),
    ],
)
def test_the_smallest_images_work_and_smaller_ones_are_refused(name, fields, smallest):
    model = models.create(name, **fields)
    shape = (smallest, smallest, 1)
    models.check_image_shape(model, shape, name)
    models.parameter_shapes(model, shape)
    if smallest > 1:
        with pytest.raises(UsageError, match=f"{name} needs images of at least {smallest}x{smallest} pixels, not"):
            models.check_image_shape(model, (smallest, smallest - 1, 1), name)


def test_the_printed_lenet_takes_one_size():
    models.check_image_shape(LeNet5Classic(), (32, 32, 1))
    for size, message in ((28, "at least 32x32"), (33, "takes images of 32x32 pixels, not 33x33")):
        with pytest.raises(UsageError, match=message):
            models.check_image_shape(LeNet5Classic(), (size, size, 1))
