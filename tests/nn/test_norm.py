from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax.nn.norm import EPSILON, BatchNorm, norm_layer, standardize, standardize_groups
from cnnjax.typing import UsageError
from tests.fixtures.networks import jit

SHAPE = (3, 4, 2, 6)  # images, rows, columns, channels


@pytest.fixture(scope="module")
def x():
    return (5 + 3 * np.random.default_rng(0).standard_normal(SHAPE)).astype(np.float32)


@pytest.fixture(scope="module")
def affine():
    rng = np.random.default_rng(1)
    return rng.uniform(0.5, 2, 6).astype(np.float32), rng.standard_normal(6).astype(np.float32)


def by_definition(x, scale, bias, axes, groups=6, epsilon=EPSILON):
    """Standardised over ``axes`` of (images, rows, columns, groups, channels of a group), in float64."""
    grouped = np.asarray(x, np.float64).reshape(*x.shape[:3], groups, -1)
    mean, variance = grouped.mean(axes, keepdims=True), grouped.var(axes, keepdims=True)
    return ((grouped - mean) / np.sqrt(variance + epsilon)).reshape(x.shape) * scale + bias


def test_standardize_has_the_gradients_of_the_plain_formula(x, affine):
    weights = np.random.default_rng(2).standard_normal(SHAPE).astype(np.float32)

    def plain(x, scale, bias):
        mean, variance = x.mean((0, 1, 2)), x.var((0, 1, 2))
        return (x - mean) / jnp.sqrt(variance + EPSILON) * scale + bias, mean, variance

    def outputs_and_gradients(x, scale, bias):
        results = []
        for function in (standardize, plain):
            out, pull, statistics = jax.vjp(
                lambda *args, f=function: (f(*args)[0], f(*args)[1:]), x, scale, bias, has_aux=True
            )
            results.append((out, *statistics, *pull(weights)))
        return results

    ours, expected = jax.jit(outputs_and_gradients)(x, *affine)
    for a, e in zip(ours, expected, strict=True):
        np.testing.assert_allclose(a, e, rtol=1e-4, atol=1e-5)


def test_no_gradient_flows_through_the_running_statistics(x, affine):
    gradient = jax.jit(jax.grad(lambda x: sum(part.sum() for part in standardize(x, *affine)[1:])))
    assert not np.any(gradient(x))


def test_batch_norm_standardises_and_keeps_running_statistics(x, affine):
    scale, bias = affine
    layer = BatchNorm(momentum=0.8)
    old = {"mean": np.full(6, 2, np.float32), "var": np.full(6, 3, np.float32)}

    @jax.jit
    def apply(x, scale, bias, old):
        variables = {"params": {"scale": scale, "bias": bias}, "batch_stats": old}
        trained, state = layer.apply(variables, x, True, mutable=["batch_stats"])
        unit, _ = layer.apply({**layer.init(jax.random.key(0), x, True)}, x, True, mutable=["batch_stats"])
        return trained, unit, state["batch_stats"], layer.apply(variables, x, False)

    trained, unit, new, evaluated = apply(x, scale, bias, old)
    np.testing.assert_allclose(trained, by_definition(x, scale, bias, (0, 1, 2, 4)), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(unit.mean((0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(unit.var((0, 1, 2)), 1, rtol=1e-5)
    np.testing.assert_allclose(new["mean"], 0.8 * 2 + 0.2 * x.mean((0, 1, 2)), rtol=1e-5)
    np.testing.assert_allclose(new["var"], 0.8 * 3 + 0.2 * x.var((0, 1, 2)), rtol=1e-5)
    # Evaluation takes the statistics it is given, whatever the batch.
    np.testing.assert_allclose(evaluated, (x - 2) / np.sqrt(3 + EPSILON) * scale + bias, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("unbiased", "momentum", "epsilon"), [(True, 0.9, 1e-3), (True, 0.0, 2.0), (False, 0.25, 1e-3)]
)
def test_epsilon_momentum_and_the_unbiased_variance(x, affine, unbiased, momentum, epsilon):
    scale, bias = affine
    layer = norm_layer("batch", epsilon=epsilon, momentum=momentum, unbiased=unbiased)()
    old = {"mean": np.full(6, 2, np.float32), "var": np.full(6, 3, np.float32)}

    @jit
    def apply(x, scale, bias, old):
        variables = {"params": {"scale": scale, "bias": bias}, "batch_stats": old}
        trained, state = layer.apply(variables, x, True, mutable=["batch_stats"])
        return trained, state["batch_stats"], layer.apply(variables, x, False)

    trained, new, evaluated = apply(x, scale, bias, old)
    # Activations are divided by the root of the biased variance either way.
    expected = by_definition(x, scale, bias, (0, 1, 2, 4), epsilon=epsilon)
    np.testing.assert_allclose(trained, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(evaluated, (x - 2) / np.sqrt(3 + epsilon) * scale + bias, rtol=1e-5, atol=1e-5)
    variance = x.astype(np.float64).var((0, 1, 2), ddof=int(unbiased))  # of 24 numbers, so 4 % apart
    np.testing.assert_allclose(new["mean"], momentum * 2 + (1 - momentum) * x.mean((0, 1, 2)), rtol=1e-5)
    np.testing.assert_allclose(new["var"], momentum * 3 + (1 - momentum) * variance, rtol=1e-5)


def test_the_unbiased_variance_of_one_number_is_finite():
    layer = BatchNorm(unbiased=True)
    x = jnp.ones((1, 1, 1, 2))
    _, state = layer.apply(layer.init(jax.random.key(0), x, True), x, True, mutable=["batch_stats"])
    np.testing.assert_allclose(state["batch_stats"]["var"], 0.9)


def test_initialising_leaves_the_running_statistics_alone(x):
    state = BatchNorm().init(jax.random.key(0), jnp.asarray(x), True)["batch_stats"]
    np.testing.assert_array_equal(state["mean"], 0)
    np.testing.assert_array_equal(state["var"], 1)


def test_per_example_norms_by_definition_and_without_memory(x, affine):
    scale, bias = affine
    layers = {name: norm_layer(name, groups=3) for name in ("instance", "group", "layer", "none")}

    @jax.jit
    def apply(x, scale, bias):
        params = {"group": {"scale": scale, "bias": bias}}
        out = {name: layers[name]().apply({"params": params}, x, True) for name in ("instance", "group", "layer")}
        out["none"] = layers["none"]().apply({"params": {"bias": bias}}, x, True)
        return out

    out = apply(x, scale, bias)
    for name, groups in {"instance": 6, "group": 3, "layer": 1}.items():
        expected = by_definition(x, scale, bias, (1, 2, 4), groups)
        np.testing.assert_allclose(out[name], expected, rtol=1e-4, atol=1e-5, err_msg=name)
    np.testing.assert_array_equal(out["none"], x + bias)


@pytest.mark.parametrize(("name", "groups"), [("instance", 6), ("group", 3), ("layer", 1)])
def test_epsilon_of_a_per_example_norm(x, affine, name, groups):
    params = dict(zip(("scale", "bias"), affine, strict=True))
    layer = norm_layer(name, groups=3, epsilon=4.0, momentum=0.5, unbiased=True)()  # no statistics to update
    out = jit(lambda x: layer.apply({"params": {"group": params}}, x, True))(x)
    np.testing.assert_allclose(out, by_definition(x, *affine, (1, 2, 4), groups, 4.0), rtol=1e-4, atol=1e-5)


def test_biases_in_place_of_a_norm_start_where_they_are_told(x):
    for initial, layer in ((0.0, norm_layer("none")()), (0.5, norm_layer("none")(initial=0.5))):
        variables = layer.init(jax.random.key(0), jnp.asarray(x), True)
        np.testing.assert_array_equal(variables["params"]["bias"], np.full(6, initial))


@pytest.mark.parametrize("name", ["batch", "instance", "group", "layer"])
def test_an_affine_rescaling_of_the_input_changes_nothing(x, name):  # S3:621
    layer = norm_layer(name, groups=2)()

    @jax.jit
    def both(x):
        variables = layer.init(jax.random.key(0), x, True)
        return [layer.apply(variables, y, True, mutable=["batch_stats"])[0] for y in (x, 7 * x - 20)]

    before, after = both(100 * x)  # so that epsilon is nothing beside the variance
    np.testing.assert_allclose(after, before, atol=1e-4)


def test_the_arithmetic_type_is_the_output_type(x):
    for name in ("batch", "group", "none"):
        layer = norm_layer(name, jnp.bfloat16, groups=2)()
        out = jax.eval_shape(
            lambda x, layer=layer: layer.init_with_output(jax.random.key(0), x, True)[0], x.astype(jnp.bfloat16)
        )
        assert out.dtype == jnp.bfloat16


def test_groups_must_divide_the_channels(x):
    with pytest.raises(UsageError, match="4 groups do not divide 6 channels"):
        norm_layer("group", groups=4)().init(jax.random.key(0), jnp.asarray(x), True)


def test_an_unknown_norm_names_the_nearest():
    with pytest.raises(UsageError, match=r"Unknown norm 'bach'. Did you mean 'batch'"):
        norm_layer("bach")


@pytest.mark.parametrize("groups", [1, 3, 6])
@pytest.mark.parametrize("mean", [0, 1000])
def test_the_gradients_of_groups_are_those_of_the_definition(x, affine, groups, mean):
    weights = np.random.default_rng(2).standard_normal(SHAPE).astype(np.float32)

    def objective(function, x, scale, bias):
        return (function(x, scale, bias) * weights).sum()

    def defined(x, scale, bias):
        grouped = x.reshape(*SHAPE[:3], groups, -1)
        centred = grouped - grouped.mean((1, 2, 4), keepdims=True)
        return (centred / jnp.sqrt(jnp.square(centred).mean((1, 2, 4), keepdims=True) + EPSILON)).reshape(
            SHAPE
        ) * scale + bias

    def gradients(x, scale, bias):
        functions = (lambda *args: standardize_groups(*args, groups), defined)
        return [jax.grad(partial(objective, each), argnums=(0, 1, 2))(x, scale, bias) for each in functions]

    ours, expected = jit(gradients)(x + mean, *affine)
    for a, e in zip(ours, expected, strict=True):
        np.testing.assert_allclose(a, e, rtol=1e-4, atol=1e-5 + 2e-6 * mean)
