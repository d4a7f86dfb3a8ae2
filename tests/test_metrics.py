import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import metrics

LOGITS = np.array([[2, 1, 0], [0, 3, 1], [1, 0, 5], [4, 0, 0]], np.float32)
LABELS = np.array([0, 2, 2, 1], np.int32)  # the first and the third are right
LOSSES = np.array([0.5, 2, 0.25, 3], np.float32)

classification = jax.jit(metrics.classification)


def test_sums_weigh_the_examples():
    sums = classification(LOGITS, LABELS, LOSSES, np.array([1, 1, 2, 0.5], np.float32))
    assert {name: float(value) for name, value in sums.items()} == {"loss": 4.5, "error": 1.5, "count": 4.5}
    assert metrics.means(sums) == pytest.approx({"loss": 1, "error": 1 / 3})


def test_padding_counts_nothing_even_where_it_is_not_finite():
    def padded(array, value):
        return np.concatenate([array, np.full((2, *array.shape[1:]), value, array.dtype)])

    weights = np.array([1, 1, 1, 1, 0, 0], np.float32)
    for bad in (np.nan, np.inf):
        sums = classification(padded(LOGITS, bad), padded(LABELS, 7), padded(LOSSES, bad), weights)
        assert sums == classification(LOGITS, LABELS, LOSSES, weights[:4])


def test_a_loss_that_is_not_finite_shows():
    sums = classification(LOGITS, LABELS, np.array([0, np.nan, 0, 0], np.float32), np.ones(4, np.float32))
    assert np.isnan(metrics.means(sums)["loss"])


def test_sums_of_batches_add_to_the_sums_of_all():
    ones = np.ones(4, np.float32)
    total = metrics.zeros()
    for half in (slice(0, 2), slice(2, 4)):
        part = classification(LOGITS[half], LABELS[half], LOSSES[half], ones[half])
        total = jax.tree.map(lambda a, b: a + b, total, part)
    assert total == classification(LOGITS, LABELS, LOSSES, ones)


def test_no_example_has_no_mean():
    assert all(np.isnan(value) for value in metrics.means(metrics.zeros()).values())
    assert list(metrics.means(metrics.zeros())) == ["loss", "error"]


def test_arrays_stay_arrays():
    found = metrics.means({"count": np.float32(4), "kernel": np.array([2.0, 8.0]), "loss": np.float64(2)})
    np.testing.assert_array_equal(found["kernel"], [0.5, 2.0])
    assert type(found["loss"]) is float


INF, NAN = np.inf, np.nan
NO_ANSWER = [[NAN] * 3, [0, NAN, 1], [NAN, 5, 0], [INF, 0, 0], [0, INF, INF], [-INF] * 3]
ANSWERS = [([-INF, 0, 1], 2), ([-INF, 3, -INF], 1), ([3e38, 0, 0], 0)]


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_logits_that_are_not_finite_are_wrong_whatever_the_label(dtype):
    for label in range(3):
        labels, ones = np.full(len(NO_ANSWER), label, np.int32), np.ones(len(NO_ANSWER), np.float32)
        sums = classification(jnp.asarray(NO_ANSWER, dtype), labels, ones, ones)
        assert float(sums["error"]) == len(NO_ANSWER)
    logits, labels = zip(*ANSWERS, strict=True)
    np.testing.assert_array_equal(metrics.predicted(jnp.asarray(logits, dtype)), labels)
    np.testing.assert_array_equal(metrics.answered(jnp.asarray([*NO_ANSWER, *logits])), [False] * 6 + [True] * 3)
