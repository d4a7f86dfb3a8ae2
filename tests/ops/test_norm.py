import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax.nn.norm import norm_layer
from cnnjax.ops import norm
from cnnjax.typing import UsageError
from tests.fixtures.networks import jit

X = (5 + 3 * np.random.default_rng(0).standard_normal((3, 4, 2, 6))).astype(np.float32)
SCALE = np.random.default_rng(1).uniform(0.5, 2, 6).astype(np.float32)
BIAS = np.random.default_rng(2).standard_normal(6).astype(np.float32)
FORMS = {
    "batch": norm.batch_norm,
    "instance": norm.instance_norm,
    "group": lambda x, *rest: norm.group_norm(x, 3, *rest),
    "layer": norm.layer_norm,
}
AXES = {"batch": (0, 1, 2, 4), "instance": (1, 2, 4), "group": (1, 2, 4), "layer": (1, 2, 4)}
GROUPS = {"batch": 6, "instance": 6, "group": 3, "layer": 1}


@jit
def everything(x, scale, bias):
    """Each form, the layer of ``nn`` of the same name, and the form of a rescaled input, which is of no matter."""
    found = {}
    for name, form in FORMS.items():
        layer = norm_layer(name, groups=3)()
        params = {"scale": scale, "bias": bias}
        variables = layer.init(jax.random.key(0), x, True)
        variables = {**variables, "params": params if name == "batch" else {"group": params}}
        by_layer = layer.apply(variables, x, True, mutable=["batch_stats"])[0]
        rescaled = form(7e2 * x - 2e3)
        found[name] = (form(x, scale, bias), by_layer, form(100 * x), rescaled)
    return found


@pytest.fixture(scope="module")
def results():
    return everything(X, SCALE, BIAS)


@pytest.mark.parametrize("name", FORMS)
def test_by_definition_and_as_the_layers(results, name):
    form, layer, _, _ = results[name]
    grouped = X.astype(np.float64).reshape(3, 4, 2, GROUPS[name], -1)
    mean, variance = (f(AXES[name], keepdims=True) for f in (grouped.mean, grouped.var))
    expected = ((grouped - mean) / np.sqrt(variance + norm.EPSILON)).reshape(X.shape) * SCALE + BIAS
    np.testing.assert_allclose(form, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(layer, form, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("name", FORMS)
def test_mean_zero_variance_one_whatever_the_input(results, name):  # S3:617-622
    *_, plain, rescaled = results[name]
    grouped = np.asarray(plain).reshape(3, 4, 2, GROUPS[name], -1)
    np.testing.assert_allclose(grouped.mean(AXES[name]), 0, atol=1e-5)
    np.testing.assert_allclose(grouped.var(AXES[name]), 1, rtol=1e-5)
    np.testing.assert_allclose(rescaled, plain, atol=2e-5)


@pytest.mark.slow
def test_one_axis_or_three_and_the_type_stay():
    x = jnp.asarray(X.reshape(3, 8, 6))
    np.testing.assert_allclose(norm.instance_norm(x), norm.instance_norm(jnp.asarray(X)).reshape(3, 8, 6), atol=1e-6)
    assert jax.eval_shape(norm.layer_norm, jax.ShapeDtypeStruct((2, 4, 6), jnp.bfloat16)).dtype == jnp.bfloat16


def test_a_constant_input_becomes_zero_and_not_nan():
    np.testing.assert_array_equal(norm.batch_norm(jnp.full((2, 3, 2), 4.0)), 0)


def test_groups_must_divide_the_channels():
    for groups in (4, 0):
        with pytest.raises(UsageError, match=f"{groups} groups do not divide 6 channels"):
            norm.group_norm(jnp.asarray(X), groups)


@pytest.mark.parametrize("mean", [0, 1, 100, 1000, 10_000])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.slow
def test_a_large_mean_costs_no_more_than_the_inputs_own_digits(mean, dtype):
    spread = 1 if dtype == jnp.float32 else max(1, mean // 100)  # of less, bfloat16 holds nothing beside the mean
    x = jnp.asarray(mean + spread * np.random.default_rng(3).standard_normal((2, 8, 8, 6)), dtype)
    exact = np.asarray(x.astype(jnp.float32), np.float64)

    @jit
    def both(x):
        found = {}
        for name, form in FORMS.items():
            layer = norm_layer(name, groups=3)()
            variables = layer.init(jax.random.key(0), x, True)
            found[name] = form(x), layer.apply(variables, x, True, mutable=["batch_stats"])[0]
        return found

    # Values near the mean are known to mean * 6e-8, and the mean, a sum of 128 to 512 of them, to some times that. By
    # E[x^2] - E[x]^2 the variance alone would be off by mean^2 * 6e-8: by 0.06 at 1,000, by 6 at 10,000.
    reach = max(3e-6, 6e-7 * mean) if dtype == jnp.float32 else 2e-2
    for name, (form, layer) in both(x).items():
        grouped = exact.reshape(2, 8, 8, GROUPS[name], -1)
        average, variance = (f(AXES[name], keepdims=True) for f in (grouped.mean, grouped.var))
        expected = ((grouped - average) / np.sqrt(variance + norm.EPSILON)).reshape(x.shape)
        for out in (form, layer):
            np.testing.assert_allclose(np.asarray(out, np.float64), expected, rtol=0, atol=reach, err_msg=name)
