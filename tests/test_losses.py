import jax
import jax.numpy as jnp
import numpy as np
import pytest

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


INF = np.inf


@pytest.mark.parametrize("smoothing", [0.0, 1.0])
@pytest.mark.parametrize("name", losses.LOSSES)
@pytest.mark.slow
def test_a_class_that_is_ruled_out_costs_nothing_where_its_target_is_nothing(name, smoothing):
    """Also where the smoothing is traced, in each lane of a vmap; the gradient is finite too."""
    loss = losses.LOSSES[name]
    logits = jnp.array([[-INF, 0.0, 1.0], [-INF, 2.0, -INF]])
    labels = jnp.array([2, 1])
    others = {"softmax": [0, -np.log1p(np.exp(-2))], "sigmoid": [np.log(2), 0]}[name]
    plain = [np.log1p(np.exp(-1)) + others[0], np.log1p(np.exp(-2)) + others[1]]

    def of(smoothing):
        return loss(logits, labels, smoothing)

    gradient = jax.grad(lambda logits, smoothing: loss(logits, labels, smoothing).sum())
    found = jax.jit(jax.vmap(of))(jnp.array([smoothing, 0.0]))
    np.testing.assert_allclose(found[1], plain, rtol=1e-6, atol=1e-7)
    if smoothing == 0:
        np.testing.assert_array_equal(found[0], found[1])
    else:
        np.testing.assert_array_equal(found[0], INF)  # its target is a third
    slopes = jax.jit(jax.vmap(gradient, (None, 0)))(logits, jnp.array([0.0, 0.0]))
    finite = np.exp([[-INF, 0, 1], [-INF, 2, -INF]])
    if name == "softmax":
        expected = finite / finite.sum(1, keepdims=True) - np.eye(3)[[2, 1]]
    else:
        expected = finite / (1 + finite) - np.eye(3)[[2, 1]]
    np.testing.assert_allclose(slopes[0], expected, atol=1e-6)


@pytest.mark.parametrize("name", losses.LOSSES)
def test_a_label_that_is_ruled_out_costs_infinity_and_what_is_not_a_number_stays_so(name):
    loss = losses.LOSSES[name]
    labels = jnp.array([0])
    assert loss(jnp.array([[-INF, 0.0, 1.0]]), labels)[0] == INF
    for smoothing in (0.0, 0.1, 1.0):
        for bad in ([np.nan, 0.0, 1.0], [0.0, np.nan, 1.0], [np.nan] * 3):
            assert np.isnan(loss(jnp.array([bad]), labels, smoothing)[0])


def test_an_infinite_logit_answers_for_its_class_alone():
    found = losses.binary_cross_entropy(jnp.array([[INF, -INF], [INF, 0.0]]), jnp.array([0, 1]))
    np.testing.assert_array_equal(found, [0, INF])


def test_the_distance_of_what_is_not_a_number_is_none():
    assert np.isnan(losses.distance(jnp.array([[np.nan, 0.0]]), jnp.zeros((1, 2)))[0])


OBJECT = np.array([1, 0.5, 0.4, 0.2, 0.3, 0, 1, 0], np.float32)  # p_c, b_x, b_y, b_h, b_w and three classes (S4:687)


def test_squared_error_and_distance_of_two_boxes_and_of_two_circles():  # S2:484-487; S0:273-286
    boxes = jnp.asarray([[1.0, 2, 3, 4], [5, 6, 7, 8]])
    others = jnp.asarray([[2.0, 4, 5, 8], [5, 6, 7, 8]])
    np.testing.assert_allclose(losses.squared_error(boxes, others), [25, 0])
    np.testing.assert_allclose(losses.distance(boxes, others), [5, 0])
    gradient = jax.grad(lambda boxes: losses.distance(boxes, others).sum())(boxes)
    np.testing.assert_allclose(gradient, [[-0.2, -0.4, -0.4, -0.8], [0, 0, 0, 0]], rtol=1e-6)
    circle, other = jnp.asarray([[3.0, 4, 2]]), jnp.asarray([[3.0, 5, 4]])  # centre and radius
    np.testing.assert_allclose(losses.squared_error(circle, other), [5])


def test_softmax_is_a_distribution_and_knows_differences_only():  # S1:1104
    logits = np.random.default_rng(0).normal(0, 3, (5, 4)).astype(np.float32)
    found = jax.nn.softmax(jnp.asarray(logits))
    exponentials = np.exp(logits.astype(np.float64))
    np.testing.assert_allclose(found, exponentials / exponentials.sum(1, keepdims=True), rtol=1e-5)
    np.testing.assert_allclose(found.sum(1), 1, rtol=1e-6)
    labels = jnp.asarray([0, 1, 2, 3, 0])
    shifted = jnp.asarray(logits + 1000)
    np.testing.assert_allclose(jax.nn.softmax(shifted), found, rtol=1e-3)
    plain, moved = (losses.cross_entropy(each, labels) for each in (jnp.asarray(logits), shifted))
    np.testing.assert_allclose(moved, plain, atol=1e-3)
    np.testing.assert_allclose(
        plain, -np.log(np.take_along_axis(np.asarray(found), labels[:, None], 1)[:, 0]), rtol=1e-4
    )


def test_localization_counts_everything_where_an_object_is_and_p_c_alone_where_none_is():  # S4:699-701
    targets = np.stack([OBJECT, np.full(8, np.nan, np.float32)])
    targets[1, 0] = 0
    outputs = np.random.default_rng(0).uniform(0, 1, (2, 8)).astype(np.float32)
    value, gradient = jax.jit(jax.value_and_grad(lambda o, t: losses.localization(o, t).sum()))(outputs, targets)
    expected = np.array([((outputs[0] - OBJECT) ** 2).sum(), outputs[1, 0] ** 2])
    np.testing.assert_allclose(losses.localization(jnp.asarray(outputs), jnp.asarray(targets)), expected, rtol=1e-5)
    np.testing.assert_allclose(value, expected.sum(), rtol=1e-5)
    np.testing.assert_allclose(gradient[0], 2 * (outputs[0] - OBJECT), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(gradient[1], [2 * outputs[1, 0], *[0] * 7], rtol=1e-5)


def test_localization_asks_for_the_true_object_and_not_for_the_predicted_one():
    """S4:701 prints the prediction: then saying "no object" where there is one would cost 1 and hide the rest."""
    outputs = np.zeros((2, 8), np.float32)
    outputs[1, 0] = 1  # an object is seen where none is
    targets = np.stack([OBJECT, np.zeros(8, np.float32)])
    outputs[1, 1:] = 3  # no matter what box it has
    found = losses.localization(jnp.asarray(outputs), jnp.asarray(targets))
    np.testing.assert_allclose(found, [(OBJECT**2).sum(), 1], rtol=1e-6)


ACTIVATIONS = np.random.default_rng(3).standard_normal((2, 3, 4, 5)).astype(np.float32)


def test_a_gram_matrix_by_definition():  # S4:1223
    found = np.asarray(losses.gram_matrix(jnp.asarray(ACTIVATIONS)))
    expected = np.zeros((2, 5, 5))
    for n, i, j, k, other in np.ndindex(2, 3, 4, 5, 5):
        expected[n, k, other] += float(ACTIVATIONS[n, i, j, k]) * float(ACTIVATIONS[n, i, j, other])
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(found, found.swapaxes(1, 2))
    assert np.linalg.eigvalsh(found.astype(np.float64)).min() > -1e-5
    assert found.shape == (2, 5, 5)  # n_c x n_c, not h_c x n_c (S4:1219)


def test_shuffled_pixels_keep_the_style_and_lose_the_content():  # S4:1190, 1202-1213
    pixels = ACTIVATIONS.reshape(2, 12, 5)
    shuffled = jnp.asarray(pixels[:, np.random.default_rng(4).permutation(12)].reshape(ACTIVATIONS.shape))
    original = jnp.asarray(ACTIVATIONS)
    styles = [losses.gram_matrix(each) for each in (shuffled, original)]
    np.testing.assert_allclose(*styles, rtol=1e-4, atol=1e-5)
    content = losses.squared_error(shuffled, original) / 2
    np.testing.assert_allclose(content, ((shuffled - original) ** 2).sum((1, 2, 3)) / 2, rtol=1e-5)
    assert np.all(content > 10)
