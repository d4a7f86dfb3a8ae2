import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import models, tree
from cnnjax.models.choices import POOLS
from cnnjax.models.lenet import C3_TABLE, DIGIT_CODES, LeNet5Classic, scaled_tanh
from cnnjax.models.resnet import DEPTHS, Block
from cnnjax.nn import INITIALIZERS, Conv, norm_layer
from cnnjax.ops.conv import convolution_matrix, explicit_padding
from cnnjax.typing import UsageError
from tests.fixtures.networks import filled, images, jit

CIFAR_PARAMETERS = {8: 75_290, 14: 172_506, 20: 269_722, 32: 464_154, 44: 658_586, 56: 853_018, 110: 1_727_962}


def small_resnet(depth=8, shortcut="A", norm="batch", **fields):
    name = f"{'plain' if shortcut == 'none' else 'resnet'}{depth}_cifar"
    return models.create(name, width=4, shortcut=shortcut, norm=norm, **fields), (8, 8, 3)


def small_vgg(**fields):
    return models.create("vgg_small", stages=((4, 1), (6, 2)), dense=(8,), **fields), (8, 8, 3)


def connectivity(sharing, **fields):
    return models.create(f"connectivity_{sharing}", features=(3, 4), activation="tanh", **fields), (6, 5, 2)


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
    "mlp swapped": lambda: (
        models.create("mlp", hidden=(12, 10), activation="silu", norm="group", head_activation="tanh"),
        (4, 4, 3),
    ),
    "lenet5 swapped": lambda: (
        models.create("lenet5", padding="SAME", activation="elu", norm="group", dropout_at="all"),
        (8, 8, 1),
    ),
    "vgg blur": lambda: small_vgg(pool="blur", kernel_size=5, activation="gelu", dropout_at="all"),
    "vgg stride": lambda: small_vgg(pool="stride", activation="leaky_relu", kernel_size=1),
    "residual swapped": lambda: small_resnet(14, activation="tanh", dropout_at="all"),
    "connectivity_conv": lambda: connectivity("conv"),
    "connectivity_local": lambda: connectivity("local"),
    "connectivity_dense": lambda: connectivity("dense"),
}


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
        ("connectivity_conv", {}, 8 * 10 + 16 * 73 + 10 * 257),
        ("connectivity_local", {}, 512 * 10 + 256 * 73 + 10 * 257),
        ("connectivity_dense", {}, 512 * 257 + 256 * 513 + 10 * 257),
        ("mlp", {"norm": "batch"}, 32 * 32 * 3 * 100 + 2 * 100 + 100 * 10 + 10),
        ("lenet5", {"norm": "batch"}, 61_706 + 6 + 16),
        ("vgg_small", {"pool": "stride"}, 550_570),
        ("vgg_small", {"kernel_size": 1, "pool": "blur"}, 550_570 - 8 * 31_840),
        ("resnet20_cifar", {"shortcut": "B"}, 269_722 + 2_752),
        ("resnet20_cifar", {"norm": "none"}, 269_722 - (16 * 7 + 32 * 6 + 64 * 6)),  # no scales
    ],
)
def test_parameter_counts(name, fields, count):
    assert models.count_parameters(name, **fields) == count


def test_every_name_has_a_count():
    assert set(models.MODELS) == {
        "mlp",
        "lenet5",
        "lenet5_classic",
        "vgg_small",
        *(f"connectivity_{sharing}" for sharing in ("conv", "local", "dense")),
    } | {f"{form}{depth}_cifar" for form in ("plain", "resnet") for depth in CIFAR_PARAMETERS}


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
                "stage3": (2, 8, 8, 64), "features": (2, 64), "logits_map": (2, 8, 8, 3),
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
    np.testing.assert_array_equal(endpoints["features"], without["features"])  # before the head, after all else


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


# Swappable parts


def test_shared_fields_have_one_type():
    kinds = {}
    for name in models.MODELS:
        for field, value in models.fields(name).items():
            assert kinds.setdefault(field, type(value)) is type(value), field


@pytest.mark.parametrize("size", [(16, 16), (9, 11)])
def test_every_pooling_halves_the_sides(size):
    sides = {}
    for pool in POOLS:
        model = models.create("vgg_small", pool=pool)
        variables = models.parameter_shapes(model, (*size, 1))
        _, endpoints = jax.eval_shape(model.apply, variables, jnp.zeros((1, *size, 1)))
        sides[pool] = [endpoints[f"stage{stage}"].shape[1:3] for stage in (1, 2, 3)]
    halved = [tuple(side >> stage for side in size) for stage in (1, 2, 3)]
    assert sides["max"] == sides["average"] == sides["blur"] == halved
    assert sides["stride"] == [tuple(-(-side // 2**stage) for side in size) for stage in (1, 2, 3)]  # rounded up


@pytest.mark.parametrize(
    "name", ["mlp", "lenet5 same", "vgg", "projection", "connectivity_dense", "connectivity_local"]
)
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


def test_scanned_blocks_drop_different_units():
    model, shape = small_resnet(20, norm="none", dropout_at="all")
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
    model, shape = small_resnet()
    assert set(models.parameter_shapes(model, shape)) == {"params", "batch_stats"}
    x = jax.ShapeDtypeStruct((2, *shape), jnp.float32)
    variables = models.parameter_shapes(model, shape)
    stored = jax.eval_shape(lambda v, x: model.apply(v, x, mutable=["responses"])[1]["responses"], variables, x)
    assert tree.names(stored)[-1] == "stem_response"
    assert len(jax.tree.leaves(stored)) == 7


def test_unstacked_blocks_are_in_order_of_depth():
    model, shape = small_resnet(32)
    params = filled(model, shape)["params"]
    blocks = model.unstack(params)
    assert set(blocks) == {f"stage{s}.{b}" for s in (1, 2, 3) for b in range(5)} | {"stem", "stem_norm", "head"}
    kernels = {name: blocks[name]["conv1"]["kernel"] for name in ("stage1.3", "stage2.0", "stage2.3")}
    np.testing.assert_array_equal(kernels["stage1.3"], params["stage1"]["conv1"]["kernel"][3])
    np.testing.assert_array_equal(kernels["stage2.0"], params["stage2_first"]["conv1"]["kernel"])
    np.testing.assert_array_equal(kernels["stage2.3"], params["stage2_rest"]["conv1"]["kernel"][2])


# Connectivity


def test_tied_local_kernels_and_banded_dense_weights_are_the_convolution():
    conv, shape = connectivity("conv")
    variables, x = filled(conv, shape), jnp.asarray(images(2, shape))
    local, dense = ({"head": variables["params"]["head"]} for _ in range(2))
    sides = [(6, 5), (3, 3), (2, 2)]
    for index in (1, 2):
        layer, before, after = variables["params"][f"layer{index}"], sides[index - 1], sides[index]
        pads = explicit_padding("SAME", before, (3, 3), (2, 2))
        matrix = convolution_matrix(jnp.asarray(layer["kernel"]), before, (2, 2), pads)
        bias = np.broadcast_to(layer["bias"], (*after, layer["bias"].size))
        dense[f"layer{index}"] = {"kernel": matrix, "bias": bias.reshape(-1)}
        tied = np.broadcast_to(layer["kernel"], (*after, *layer["kernel"].shape))
        local[f"layer{index}"] = {"kernel": tied, "bias": bias}

    def outputs(sharing, params):
        return connectivity(sharing)[0].apply({"params": params}, x)

    @jit
    def compute(shared, local, dense):
        return outputs("conv", shared), outputs("local", local), outputs("dense", dense)

    (expected, expected_ends), *others = compute(variables["params"], local, dense)
    for logits, endpoints in others:
        np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)
        for name, value in endpoints.items():
            np.testing.assert_allclose(value, expected_ends[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("image_shape", [(16, 16, 1), (7, 9, 3)])
@pytest.mark.parametrize(("features", "k"), [((8, 16), 3), ((3, 5), 5)])
def test_connections_cost_what_the_formulas_say(image_shape, features, k):
    (height, width, channels), (maps1, maps2) = image_shape, features
    units1 = -(-height // 2) * -(-width // 2) * maps1
    units2 = -(-height // 4) * -(-width // 4) * maps2
    expected = {
        "conv": maps1 * (k * k * channels + 1) + maps2 * (k * k * maps1 + 1),
        "local": units1 * (k * k * channels + 1) + units2 * (k * k * maps1 + 1),
        "dense": units1 * (height * width * channels + 1) + units2 * (units1 + 1),
    }
    for sharing, count in expected.items():
        model = models.create(f"connectivity_{sharing}", features=features, kernel_size=k)
        variables = models.parameter_shapes(model, image_shape)
        assert tree.count(variables) == count + 10 * (units2 + 1)
        _, endpoints = jax.eval_shape(model.apply, variables, jnp.zeros((1, *image_shape)))
        assert [endpoint.size for endpoint in endpoints.values()] == [units1, units2]


@pytest.mark.parametrize("name", ["connectivity_local", "vgg blur"])
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
        ("lenet5", {"kernel_init": "glorot"}, "Unknown kernel_init 'glorot'.*gaussian, he, xavier"),
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
        ("connectivity_local", {"kernel_size": 5}, 1),
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
