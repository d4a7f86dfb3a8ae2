import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax.nn import ACTIVATIONS, INITIALIZERS, LocallyConnected, activation, initializer
from cnnjax.typing import UsageError

DEFINITIONS = {
    "relu": lambda x: max(x, 0.0),
    "relu6": lambda x: min(max(x, 0.0), 6.0),
    "sigmoid": lambda x: 1 / (1 + math.exp(-x)),
    "tanh": math.tanh,
    "leaky_relu": lambda x: x if x > 0 else 0.01 * x,
    "elu": lambda x: x if x > 0 else math.expm1(x),
    "gelu": lambda x: x * 0.5 * (1 + math.erf(x / math.sqrt(2))),
    "silu": lambda x: x / (1 + math.exp(-x)),
    "identity": lambda x: x,
}


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.slow
def test_an_activation_is_what_it_is_called(name):
    x = np.array([-3.0, -0.5, 0.0, 0.7, 2.0, 6.5], np.float32)
    expected = [DEFINITIONS[name](float(value)) for value in x]
    np.testing.assert_allclose(activation(name)(jnp.asarray(x)), expected, atol=1e-3)  # gelu is an approximation


@pytest.mark.parametrize(
    ("name", "deviation"),
    [
        ("he", math.sqrt(2 / (9 * 20))),
        ("he_fan_out", math.sqrt(2 / (9 * 30))),
        ("xavier", math.sqrt(2 / (9 * 20 + 9 * 30))),
        ("gaussian", 0.01),
    ],
)
def test_an_initialiser_has_its_standard_deviation(name, deviation):
    kernel = initializer(name)(jax.random.key(0), (3, 3, 20, 30), jnp.float32)
    assert float(kernel.std()) == pytest.approx(deviation, rel=0.03)
    assert abs(float(kernel.mean())) < 4 * deviation / math.sqrt(kernel.size)
    assert (np.abs(kernel).max() <= math.sqrt(3) * deviation) == (name == "xavier")  # uniform; the others have tails


def test_an_unknown_name_is_refused_with_the_nearest():
    assert set(INITIALIZERS) == {"he", "he_fan_out", "xavier", "gaussian"}
    with pytest.raises(UsageError, match=r"Unknown activation 'rleu'. Did you mean 'relu'"):
        activation("rleu")
    with pytest.raises(UsageError, match=r"Unknown kernel_init 'xaver'. Did you mean 'xavier'"):
        initializer("xaver")


def test_every_position_of_a_local_layer_draws_a_kernel_with_a_convolutions_fans():
    layer = LocallyConnected(40, (3, 3), strides=(2, 2))
    init = jax.jit(layer.init, compiler_options={"xla_backend_optimization_level": 0})
    params = init(jax.random.key(0), jnp.zeros((1, 5, 4, 6)))["params"]
    assert params["kernel"].shape == (3, 2, 3, 3, 6, 40)
    assert params["bias"].shape == (3, 2, 40)
    np.testing.assert_allclose(params["kernel"].std((2, 3, 4, 5)), math.sqrt(2 / (9 * 6)), rtol=0.1)
    kernels = np.asarray(params["kernel"]).reshape(6, -1)
    assert np.abs(np.corrcoef(kernels) - np.eye(6)).max() < 0.1
