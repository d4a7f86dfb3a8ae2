import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax.nn import Dropout

# The smallest is not subnormal: XLA may flush those to zero.
ACTIVATIONS = np.concatenate([[-0.0, 1.2e-38, 3e38], np.random.default_rng(0).standard_normal(3997)]).astype(np.float32)


@jax.jit
def dropped(rate, seed):
    return Dropout().apply({}, jnp.asarray(ACTIVATIONS), rate, True, rngs={"dropout": jax.random.key(seed)})


def bits(array):
    return np.asarray(array).view(np.uint32)


def test_a_traced_rate_of_zero_returns_the_input_to_the_bit():
    np.testing.assert_array_equal(bits(dropped(0.0, 0)), bits(ACTIVATIONS))


def test_a_rate_of_zero_draws_nothing():
    out = Dropout().apply({}, jnp.asarray(ACTIVATIONS), 0.0, True)  # without a key
    np.testing.assert_array_equal(bits(out), bits(ACTIVATIONS))


def test_units_are_zeroed_at_the_rate_and_the_rest_scaled():
    kept = np.asarray(dropped(0.25, 1)) != 0
    np.testing.assert_allclose(dropped(0.25, 1)[kept], ACTIVATIONS[kept] / 0.75, rtol=1e-6)
    deviation = np.sqrt(0.25 * 0.75 / ACTIVATIONS.size)
    assert abs(kept.mean() - 0.75) < 4 * deviation  # so the expectation is the input


def test_evaluation_is_the_identity():
    out = Dropout().apply({}, jnp.asarray(ACTIVATIONS), 0.5, False)
    np.testing.assert_array_equal(bits(out), bits(ACTIVATIONS))


def test_training_needs_a_key():
    with pytest.raises(flax.errors.InvalidRngError):
        Dropout().apply({}, jnp.asarray(ACTIVATIONS), 0.5, True)


def test_rates_side_by_side_equal_one_after_the_other():
    rates = jnp.array([0.0, 0.5, 0.9])
    side_by_side = np.asarray(jax.jit(jax.vmap(dropped, (0, None)))(rates, 3))
    for rate, out in zip(rates, side_by_side, strict=True):
        alone = np.asarray(dropped(rate, 3))
        np.testing.assert_array_equal(out != 0, alone != 0)
        np.testing.assert_allclose(out, alone, rtol=1e-6)
    # A unit that survives a higher rate survives the lower ones: one draw, three thresholds.
    kept = side_by_side != 0
    assert np.all(kept[2] <= kept[1])
