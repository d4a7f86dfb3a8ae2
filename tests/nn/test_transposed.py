import jax
import jax.numpy as jnp
import numpy as np

from cnnjax.nn import ConvTranspose
from cnnjax.ops.transposed import conv_transpose
from tests.fixtures.networks import jit


def test_a_layer_is_the_operation_with_a_bias():
    layer = ConvTranspose(6, (3, 2), (2, 2), ((1, 1), (0, 1)), (1, 0), groups=2, dtype=jnp.bfloat16)
    images = jnp.asarray(np.random.default_rng(0).standard_normal((2, 3, 4, 4)), jnp.float32)

    @jit
    def compute(images):
        variables = layer.init(jax.random.key(0), images)
        params = {**variables["params"], "bias": jnp.arange(6.0)}
        rounded = [array.astype(jnp.bfloat16) for array in (images, params["kernel"])]
        expected = conv_transpose(*rounded, (2, 2), ((1, 1), (0, 1)), (1, 0), 1, 2) + jnp.arange(6, dtype=jnp.bfloat16)
        return variables["params"], layer.apply({"params": params}, images), expected

    params, out, expected = compute(images)
    assert {name: (value.shape, value.dtype) for name, value in params.items()} == {
        "kernel": ((3, 2, 4, 3), np.float32),
        "bias": ((6,), np.float32),
    }
    assert out.dtype == jnp.bfloat16
    assert out.shape == (2, 6, 7, 6)
    np.testing.assert_array_equal(out, expected)


def test_the_variance_doubles_as_hes_does():
    """Of every number that reaches an output: with stride 2 only a quarter of the kernel does."""
    layer = ConvTranspose(64, (4, 4), (2, 2), 1, groups=2)
    shape = jax.ShapeDtypeStruct((1, 6, 6, 32), jnp.float32)
    assert jax.eval_shape(layer.init, jax.random.key(0), shape)["params"]["kernel"].shape == (4, 4, 32, 32)

    @jit
    def compute(key):
        images = jax.random.normal(key, (4, 6, 6, 32))
        return layer.init_with_output(key, images)[0]

    inside = compute(jax.random.key(0))[:, 2:-2, 2:-2]
    np.testing.assert_allclose(inside.var(), 2, rtol=0.15)
