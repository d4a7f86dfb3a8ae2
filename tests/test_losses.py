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


def test_binary_cross_entropy_is_a_yes_or_no_for_each_class():
    """softplus(0) = ln 2 for each class at logit 0; the labelled one counts -log sigmoid(z)."""
    loss = losses.binary_cross_entropy(jnp.array([[0.0, 0.0, 0.0], [2.0, -1.0, 0.0]]), jnp.array([0, 0]))
    expected = [3 * np.log(2), np.log1p(np.exp(-2)) + np.log1p(np.exp(-1)) + np.log(2)]
    np.testing.assert_allclose(loss, expected, rtol=1e-6)


def test_smoothed_binary_targets():
    """Smoothing 0.3 over 3 classes: 0.8 for the labelled class and 0.1 for the others."""
    z = np.array([1.5, -0.5, 0.25])
    targets = np.array([0.8, 0.1, 0.1])
    sigmoid = 1 / (1 + np.exp(-z))
    expected = -(targets * np.log(sigmoid) + (1 - targets) * np.log(1 - sigmoid)).sum()
    found = losses.binary_cross_entropy(jnp.array([z], jnp.float32), jnp.array([0]), 0.3)
    np.testing.assert_allclose(found, [expected], rtol=1e-5)
