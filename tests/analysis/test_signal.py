import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import models, tree
from cnnjax.analysis import gradient_norms, layers, responses
from cnnjax.typing import UsageError

LABELS = jnp.array([0, 3, 1])


def images(shape):
    return jnp.asarray(np.random.default_rng(0).standard_normal((3, *shape)), jnp.float32)


def initialised(name, shape, **fields):
    """A model and its variables, He's but drawn on the host: initialising takes seconds to compile."""
    model = models.create(name, **fields)
    rng = np.random.default_rng(1)

    def fill(path, leaf):
        if path.endswith("kernel"):
            deviation = math.sqrt(2 / math.prod(leaf.shape[-4:-1]))
            return jnp.asarray(rng.normal(0, deviation, leaf.shape), jnp.float32)
        return jnp.full(leaf.shape, float(path.endswith(("scale", "var"))))

    return model, tree.mask(models.parameter_shapes(model, shape), fill)


@pytest.fixture(scope="module")
def resnet():
    return initialised("resnet20_cifar", (8, 8, 1), width=4, shortcut="B")


@pytest.mark.slow
def test_gradients_of_an_mlp_by_hand():
    model, variables = initialised("mlp", (2, 2, 1), hidden=(5,), activation="identity", num_classes=4)
    x, params = images((2, 2, 1)), variables["params"]
    flat = np.asarray(x).reshape(3, 4)
    hidden = flat @ params["dense1"]["kernel"]  # biases start at zero
    errors = (jax.nn.softmax(hidden @ params["head"]["kernel"]) - jax.nn.one_hot(LABELS, 4)) / 3
    expected = {"dense1": flat.T @ errors @ params["head"]["kernel"].T, "head": hidden.T @ errors}
    found = gradient_norms(model, variables, x, LABELS)
    assert list(found) == ["dense1", "head"]
    for name, gradient in expected.items():
        assert found[name] == pytest.approx(float(np.linalg.norm(gradient)), rel=1e-4)


@pytest.mark.slow
def test_every_layer_of_a_deep_net_has_a_norm_in_order_of_depth(resnet):
    model, variables = resnet
    found = gradient_norms(model, variables, images((8, 8, 1)), LABELS)
    expected = [f"stage{stage}.{block}.conv{conv}" for stage in (1, 2, 3) for block in range(3) for conv in (1, 2)]
    for stage in (2, 3):
        expected.insert(expected.index(f"stage{stage}.1.conv1"), f"stage{stage}.0.projection")
    assert list(found) == ["stem", *expected, "head"]
    assert all(np.isfinite(norm) and norm > 0 for norm in found.values())
    assert len(set(found.values())) == len(found)  # each block its own


@pytest.mark.parametrize(
    ("name", "fields", "expected"),
    [
        ("lenet5", {}, ["conv1", "conv2", "dense1", "dense2", "head"]),
        ("lenet5_classic", {}, ["c1", "c3", "c5", "f6"]),
        ("vgg_small", {}, ["conv1_1", "conv1_2", "conv2_1", "conv2_2", "conv3_1", "conv3_2", "dense1", "head"]),
        ("mlp", {"hidden": (3,) * 11}, [*(f"dense{index}" for index in range(1, 12)), "head"]),
        ("connectivity_local", {}, ["layer1", "layer2", "head"]),
    ],
)
def test_layers_are_named_in_order_of_depth(name, fields, expected):
    model = models.create(name, **fields)
    assert list(layers(model, models.parameter_shapes(model, (32, 32, 1))["params"], "kernel")) == expected


@pytest.mark.slow
def test_responses_are_those_of_the_layers(resnet):
    model, variables = resnet
    x = images((8, 8, 1))
    found = responses(model, variables, x, train=True)
    assert list(found) == ["stem"] + [f"stage{s}.{b}.conv{c}" for s in (1, 2, 3) for b in range(3) for c in (1, 2)]
    # Normalised by the batch with scale 1: all deviate by 1.
    np.testing.assert_allclose(list(found.values()), 1, atol=0.02)
    scaled = jax.tree.map(lambda leaf: leaf, variables)
    scale = scaled["params"]["stage2_rest"]["norm2"]["scale"]
    scaled["params"]["stage2_rest"]["norm2"]["scale"] = scale.at[1].set(3.0)
    changed = responses(model, scaled, x, train=True)
    assert changed["stage2.2.conv2"] == pytest.approx(3, rel=0.02)
    assert changed["stage2.1.conv2"] == found["stage2.1.conv2"]


@pytest.mark.slow
def test_the_stems_response_in_evaluation_by_hand(resnet):
    model, variables = resnet
    x = images((8, 8, 1))
    kernel = variables["params"]["stem"]["kernel"]
    response = jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    assert responses(model, variables, x)["stem"] == pytest.approx(float(response.std()), rel=1e-3)


def test_a_model_without_responses_is_refused():
    model, variables = initialised("mlp", (2, 2, 1), hidden=(3,))
    with pytest.raises(UsageError, match=r"MLP stores no responses. Use a network such as resnet20_cifar"):
        responses(model, variables, images((2, 2, 1)))
