import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax.ops.lrn import local_response_norm
from cnnjax.typing import UsageError

# Size, alpha, beta, k: the paper's, and such that the sum counts; the last window is wider than the channels.
CASES = [(5, 1e-4, 0.75, 2.0), (1, 0.5, 1.0, 1.0), (3, 0.7, 0.75, 2.0), (9, 0.3, 0.5, 1.5)]


def definition(a, size, alpha, beta, k, grad):
    """Output, and the gradient of its inner product with ``grad``, in float64: one channel after the other."""
    out, gradient = np.zeros(a.shape), np.zeros(a.shape)
    channels = a.shape[-1]
    for i in range(channels):
        window = range(max(0, i - size // 2), min(channels, i + size // 2 + 1))
        base = k + alpha * sum(a[..., j] ** 2 for j in window)
        out[..., i] = a[..., i] / base**beta
        gradient[..., i] += grad[..., i] / base**beta
        for j in window:
            slope = -beta * base ** (-beta - 1) * 2 * alpha * a[..., j]
            gradient[..., j] += grad[..., i] * a[..., i] * slope
    return out, gradient


def test_output_and_gradient_equal_the_definition():
    draw = np.random.default_rng(0).standard_normal
    images, grad = 3 * draw((2, 3, 2, 7)), draw((2, 3, 2, 7))

    @jax.jit
    def compute(images, grad):
        def one(case):
            out, pull = jax.vjp(lambda x: local_response_norm(x, *case), images)
            return out, *pull(grad)

        return [one(case) for case in CASES]

    found = compute(images.astype(np.float32), grad.astype(np.float32))
    for case, (out, gradient) in zip(CASES, found, strict=True):
        expected, expected_gradient = definition(images, *case, grad)
        np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-6, err_msg=str(case))
        np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-4, atol=1e-5, err_msg=str(case))


def test_the_defaults_are_the_papers():  # Krizhevsky et al. 2012, section 3.3
    images = 30 * np.random.default_rng(0).standard_normal((1, 2, 2, 6))
    expected, _ = definition(images, 5, 1e-4, 0.75, 2.0, images)
    np.testing.assert_allclose(local_response_norm(jnp.asarray(images, jnp.float32)), expected, rtol=1e-5)


def test_a_channel_is_inhibited_by_its_neighbours_only():
    images = jnp.zeros((1, 1, 1, 7)).at[..., 3].set(1.0)
    alone = local_response_norm(images, 3, 1.0)
    for other, inhibited in ((2, True), (4, True), (1, False), (5, False)):
        beside = local_response_norm(images.at[..., other].set(2.0), 3, 1.0)
        assert bool(beside[0, 0, 0, 3] < alone[0, 0, 0, 3]) == inhibited


def test_in_half_precision_the_sum_is_of_single_precision():
    images = jnp.full((1, 1, 1, 5), 200.0, jnp.float16)  # 200 squared is nearly beyond float16, and its sum is
    out = local_response_norm(images)
    assert out.dtype == jnp.float16
    np.testing.assert_allclose(out[0, 0, 0, 2], 200 / (2 + 1e-4 * 5 * 200**2) ** 0.75, rtol=2e-3)


@pytest.mark.parametrize("size", [0, 4, -1])
def test_a_window_needs_a_middle(size):
    with pytest.raises(UsageError, match=f"local response normalisation must be odd and at least 1, not {size}"):
        local_response_norm(jnp.zeros((1, 1, 1, 4)), size)
