import jax
import jax.numpy as jnp
import numpy as np

from cnnjax import losses

RNG = np.random.default_rng(0)
LOGITS = (3 * RNG.standard_normal((6, 5))).astype(np.float32)
LABELS = np.array([0, 1, 2, 3, 4, 0], np.int32)

cross_entropy = jax.jit(losses.cross_entropy)


def test_cross_entropy_of_known_logits():
    logits = np.log(np.array([[0.7, 0.2, 0.1], [0.2, 0.2, 0.6], [1, 1, 1]], np.float32)) + 5  # a shift is nothing
    expected = -np.log([0.7, 0.6, 1 / 3])
    np.testing.assert_allclose(cross_entropy(logits, np.array([0, 2, 1], np.int32)), expected, rtol=1e-5)


def test_label_smoothing_by_definition():
    probabilities = np.exp(LOGITS.astype(np.float64))
    probabilities /= probabilities.sum(1, keepdims=True)
    for smoothing in (0.1, 1.0):
        target = (1 - smoothing) * np.eye(5)[LABELS] + smoothing / 5
        expected = -(target * np.log(probabilities)).sum(1)
        np.testing.assert_allclose(cross_entropy(LOGITS, LABELS, smoothing), expected, rtol=1e-5)


def test_no_smoothing_is_the_plain_loss_to_the_bit():
    @jax.jit
    def plain(logits, labels):
        return -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=-1)[:, 0]

    np.testing.assert_array_equal(cross_entropy(LOGITS, LABELS, 0.0), plain(LOGITS, LABELS))


def test_large_logits_and_half_precision_stay_finite():
    for dtype in (jnp.float32, jnp.bfloat16):
        loss = cross_entropy(jnp.array([[1e4, 0.0], [0.0, 1e4]], dtype), np.array([0, 0], np.int32))
        assert loss.dtype == jnp.float32
        np.testing.assert_allclose(loss, [0, 1e4], rtol=1e-2)


def test_sum_of_squares_skips_what_is_masked():
    tree = {"a": jnp.array([1.0, -2.0]), "b": {"c": jnp.array([[3.0]]), "d": None}}
    assert losses.sum_of_squares(tree) == 14
    assert losses.sum_of_squares({"a": None}) == 0
