import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax.ops.pool import (
    adaptive_average_pool,
    average_pool,
    blur_pool,
    ceil_padding,
    max_pool,
    max_pool_with_indices,
    max_unpool,
)
from cnnjax.ops.windows import explicit_padding
from cnnjax.typing import UsageError

# window, strides, padding
CASES = [((2, 2), None, "VALID"), ((3, 3), (2, 2), "SAME"), ((2, 3), (1, 2), 1), ((3, 2), (3, 1), ((0, 2), (1, 0)))]


def pool(images, window, strides, padding, fill, reduce):
    """By definition: one window after the other."""
    strides = strides or window
    pads = explicit_padding(padding, images.shape[1:3], window, strides)
    padded = np.pad(images, ((0, 0), *pads, (0, 0)), constant_values=fill)
    tops, lefts = (range(0, padded.shape[a + 1] - window[a] + 1, strides[a]) for a in (0, 1))
    rows = [[reduce(padded[:, t : t + window[0], x : x + window[1]], axis=(1, 2)) for x in lefts] for t in tops]
    return np.moveaxis(np.array(rows), 2, 0)


def test_pooling_equals_the_definition():
    # All negative, so that a padding of zeros would win.
    images = -1 - np.random.default_rng(0).random((2, 7, 6, 3)).astype(np.float32)
    compute = jax.jit(lambda x: [(max_pool(x, *case), average_pool(x, *case)) for case in CASES])
    for case, (largest, mean) in zip(CASES, compute(images), strict=True):
        np.testing.assert_array_equal(largest, pool(images, *case, -np.inf, np.max))
        np.testing.assert_allclose(mean, pool(images, *case, 0, np.mean), rtol=1e-6)


def test_the_lectures_example():  # S2:73-86
    image = jnp.array([[3, 1, 3, 5], [6, 0, 7, 9], [3, 2, 1, 4], [0, 2, 4, 3]], jnp.float32)[None, :, :, None]
    np.testing.assert_array_equal(max_pool(image)[0, :, :, 0], [[6, 9], [3, 4]])
    np.testing.assert_array_equal(average_pool(image)[0, :, :, 0], [[2.5, 6], [1.75, 3]])


def test_the_gradient_goes_to_the_maximum():
    images = np.random.default_rng(0).permutation(2 * 4 * 6 * 2).reshape(2, 4, 6, 2).astype(np.float32)
    tied = np.ones((1, 2, 2, 1), np.float32)
    weights = 1 + np.arange(2 * 2 * 3 * 2, dtype=np.float32).reshape(2, 2, 3, 2)

    def gradients(images, tied):
        distinct = jax.grad(lambda x: (max_pool(x) * weights).sum())(images)
        return distinct, jax.grad(lambda x: max_pool(x).sum())(tied)

    gradient, shared = jax.jit(gradients)(images, tied)
    largest = pool(images, (2, 2), None, "VALID", 0, np.max).repeat(2, axis=1).repeat(2, axis=2)
    expected = np.where(images == largest, weights.repeat(2, axis=1).repeat(2, axis=2), 0)
    np.testing.assert_array_equal(gradient, expected)
    assert shared.sum() == 1  # split among equals, never counted twice
    assert shared.min() > 0


def test_a_window_must_fit_into_the_padded_image():
    with pytest.raises(UsageError, match=r"covers 3 pixels but the padded input has n \+ p = 2"):
        max_pool(jnp.zeros((1, 2, 5, 1)), (3, 3))


@pytest.mark.parametrize("strides", [(1, 1), (2, 2), (2, 3)])
def test_a_blur_weighs_by_distance_and_subsamples(strides):  # S3:204-206
    images = np.random.default_rng(0).random((2, 7, 6, 3)).astype(np.float32)
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    kernel = np.array([[1, 2, 1], [2, 4, 2], [1, 2, 1]]) / 16
    expected = sum(kernel[i, j] * padded[:, i : i + 7, j : j + 6] for i in range(3) for j in range(3))
    out = jax.jit(lambda x: blur_pool(x, strides=strides))(images)
    np.testing.assert_allclose(out, expected[:, :: strides[0], :: strides[1]], rtol=1e-6)


def test_a_blur_keeps_constants_at_every_size_and_window():
    cases = [(side, window) for side in (1, 2, 5) for window in (1, 3, 5)]
    compute = jax.jit(lambda three: [blur_pool(jnp.full((1, side, 4, 1), three), window) for side, window in cases])
    for (side, _), out in zip(cases, compute(3.0), strict=True):
        np.testing.assert_array_equal(out, np.full((1, -(-side // 2), 2, 1), 3.0))


def test_a_blur_removes_the_finest_pattern_that_pooling_aliases():
    stripes = jnp.tile(jnp.array([0.0, 1.0]), 4)[None, None, :, None].repeat(8, axis=1)
    inside = blur_pool(stripes)[:, :, 1:]
    np.testing.assert_array_equal(inside, 0.5)
    np.testing.assert_array_equal(stripes[:, ::2, ::2], 0)  # as if the image were black


@pytest.mark.parametrize("window", [0, 2, -1])
def test_a_blur_needs_a_middle(window):
    with pytest.raises(UsageError, match=f"must be odd and at least 1, not {window}"):
        blur_pool(jnp.zeros((1, 4, 4, 1)), window)


# Pooling to a size, and with the last window hanging over the edge


def weights_of(pixels, windows):
    """(windows, pixels): PyTorch's rule for adaptive pooling."""
    weights = np.zeros((windows, pixels))
    for i in range(windows):
        start, end = math.floor(i * pixels / windows), math.ceil((i + 1) * pixels / windows)
        weights[i, start:end] = 1 / (end - start)
    return weights


ADAPTIVE = [((7, 5), (3, 2)), ((2, 3), (6, 7)), ((6, 4), (3, 2)), ((5, 5), (1, 5))]


def test_adaptive_pooling_and_its_gradient_equal_the_definition():
    draw = np.random.default_rng(0).standard_normal
    images, grads = zip(*((draw((2, *n, 3)), draw((2, *m, 3))) for n, m in ADAPTIVE), strict=True)

    @jax.jit
    def compute(images, grads):
        found = []
        for x, (_, size), grad in zip(images, ADAPTIVE, grads, strict=True):
            out, pull = jax.vjp(lambda x, size=size: adaptive_average_pool(x, size), x)
            found.append((out, *pull(grad)))
        return found

    single = [[jnp.asarray(a, jnp.float32) for a in arrays] for arrays in (images, grads)]
    for (n, m), x, grad, (out, gradient) in zip(ADAPTIVE, images, grads, compute(*single), strict=True):
        rows, columns = (weights_of(*pair) for pair in zip(n, m, strict=True))
        np.testing.assert_allclose(out, np.einsum("ah,bw,nhwc->nabc", rows, columns, x), rtol=1e-5, atol=1e-6)
        expected = np.einsum("ah,bw,nabc->nhwc", rows, columns, grad)
        np.testing.assert_allclose(gradient, expected, rtol=1e-5, atol=1e-6)


def test_adaptive_pooling_of_images_of_that_size_changes_no_bit():
    images = jnp.asarray(np.random.default_rng(0).standard_normal((1, 3, 4, 2)), jnp.float32)
    np.testing.assert_array_equal(adaptive_average_pool(images, (3, 4)), images)


def test_adaptive_pooling_where_the_size_divides_is_pooling():
    images = jnp.asarray(np.random.default_rng(0).standard_normal((1, 6, 4, 2)), jnp.float32)
    expected = average_pool(images, (3, 2))
    np.testing.assert_allclose(adaptive_average_pool(images, (2, 2)), expected, rtol=1e-5, atol=1e-6)


def windows_with_ceil(n, window, stride, padding):
    """The pixels under each window: PyTorch's rule for ``ceil_mode``, in which no window starts beyond the image."""
    count = math.ceil((n + 2 * padding - window) / stride) + 1
    if (count - 1) * stride >= n + padding:
        count -= 1
    starts = [i * stride - padding for i in range(count)]
    return [range(max(start, 0), min(start + window, n)) for start in starts]


def windows_with_padding(n, window, stride, low, high):
    """The pixels under each window that fits into the padded image."""
    starts = range(-low, n + high - window + 1, stride)
    return [range(max(start, 0), min(start + window, n)) for start in starts]


def test_ceil_padding_gives_the_windows_of_ceil_mode():
    for n, window, stride in itertools.product(range(1, 12), range(1, 6), range(1, 6)):
        for padding in range(window // 2 + 1):  # PyTorch refuses more
            if n + 2 * padding >= window:
                (low, high), other = ceil_padding((n, 4), (window, 2), (stride, 2), padding)
                case = (n, window, stride, padding)
                expected = windows_with_ceil(*case)
                assert windows_with_padding(n, window, stride, low, high) == expected, case
                assert all(len(pixels) > 0 for pixels in expected), case
                assert other == ceil_padding((4, 4), (2, 2), (2, 2), padding)[0]


def test_max_pooling_with_the_last_windows_hanging_over():
    images = -1 - np.random.default_rng(0).random((2, 6, 7, 3)).astype(np.float32)  # a padding of zeros would win
    cases = [((3, 3), (2, 2), 0), ((3, 2), (2, 3), 1)]
    compute = jax.jit(lambda x: [max_pool(x, w, s, ceil_padding((6, 7), w, s, p)) for w, s, p in cases])
    for (window, strides, padding), out in zip(cases, compute(images), strict=True):
        rows, columns = (windows_with_ceil(n, w, s, padding) for n, w, s in zip((6, 7), window, strides, strict=True))
        expected = [[images[:, r.start : r.stop, c.start : c.stop].max((1, 2)) for c in columns] for r in rows]
        np.testing.assert_array_equal(out, np.moveaxis(expected, 2, 0))


# Where the maxima were, and back


def first_maxima(images, window, strides, padding):
    """By definition: for every window, the index of its first maximum in the image without padding."""
    strides = strides or window
    pads = explicit_padding(padding, images.shape[1:3], window, strides)
    padded = np.pad(images, ((0, 0), *pads, (0, 0)), constant_values=-np.inf)
    height, width = images.shape[1:3]
    plane = np.pad(np.arange(height * width).reshape(height, width), pads, constant_values=-1)
    tops, lefts = (range(0, padded.shape[a + 1] - window[a] + 1, strides[a]) for a in (0, 1))
    found = np.zeros((len(images), len(tops), len(lefts), images.shape[3]), int)
    for (y, top), (x, left) in itertools.product(enumerate(tops), enumerate(lefts)):
        places = slice(top, top + window[0]), slice(left, left + window[1])
        best = padded[:, *places].reshape(len(images), -1, images.shape[3]).argmax(1)
        found[:, y, x] = plane[places].ravel()[best]
    return found


def test_indices_say_where_the_maxima_were():
    images = -1 - np.random.default_rng(0).integers(0, 4, (2, 7, 6, 3)).astype(np.float32)  # with ties
    half = jnp.asarray(images, jnp.bfloat16)
    values, in_half = jax.jit(
        lambda x, half: (
            [(max_pool(x, *case), max_pool_with_indices(x, *case)) for case in CASES],
            max_pool_with_indices(half),
        )
    )(images, half)
    for case, (largest, (found, indices)) in zip(CASES, values, strict=True):
        np.testing.assert_array_equal(found, largest)
        np.testing.assert_array_equal(indices, first_maxima(images, *case))
    assert in_half[0].dtype == jnp.bfloat16
    np.testing.assert_array_equal(in_half[1], values[0][1][1])


def test_padding_has_no_index_even_where_all_is_minus_infinity():
    images = np.full((1, 2, 2, 1), -np.inf, np.float32)
    values, indices = max_pool_with_indices(jnp.asarray(images), (2, 2), (1, 1), 1)
    np.testing.assert_array_equal(values, np.full((1, 3, 3, 1), -np.inf))
    np.testing.assert_array_equal(indices[0, :, :, 0], [[0, 0, 1], [0, 0, 1], [2, 2, 3]])


def test_unpooling_keeps_the_maxima_and_its_gradients_go_to_them_only():  # S3:302; S3:914-930
    images = np.random.default_rng(0).permutation(2 * 5 * 6 * 2).reshape(2, 5, 6, 2).astype(np.float32)
    tied = np.ones((1, 2, 2, 1), np.float32)
    overlapping = (3, 3), (2, 1)

    @jax.jit
    def compute(images, tied):
        def there(x, *case):
            return max_unpool(*max_pool_with_indices(x, *case), (5, 6))

        def weighted(x, *case):
            return (there(x, *case) * images).sum()

        lanes = jax.vmap(lambda x: there(x[None], *overlapping)[0])(images)
        found = [(there(images, *case), jax.grad(weighted)(images, *case)) for case in (((2, 2),), overlapping)]
        return found, lanes, jax.grad(lambda x: max_pool_with_indices(x)[0].sum())(tied)

    found, lanes, shared = compute(images, tied)
    for case, (back, gradient) in zip((((2, 2), None), overlapping), found, strict=True):
        indices = first_maxima(images, *case, "VALID")
        kept = np.zeros((2, 30, 2), bool)
        for n, c in np.ndindex(2, 2):
            kept[n, np.unique(indices[n, :, :, c]), c] = True
        kept = kept.reshape(images.shape)
        assert kept.sum() < images.size / 2
        np.testing.assert_array_equal(back, np.where(kept, images, 0))
        np.testing.assert_array_equal(gradient, np.where(kept, images, 0))
    np.testing.assert_array_equal(lanes, found[1][0])
    np.testing.assert_array_equal(shared[0, :, :, 0], [[1, 0], [0, 0]])  # the first of equals


def test_unpooling_outside_the_size_is_refused_and_left_out_where_it_cannot_be_seen():
    values = jnp.arange(1.0, 5).reshape(1, 2, 2, 1)
    indices = jnp.array([0, 5, -1, 6], jnp.int32).reshape(values.shape)
    with pytest.raises(UsageError, match=r"H W - 1 = 2 \* 3 - 1 = 5, but they are from -1 to 6"):
        max_unpool(values, indices, (2, 3))
    inside = jax.jit(lambda v, i: max_unpool(v, i, (2, 3)))(values, indices)
    np.testing.assert_array_equal(inside[0, :, :, 0], [[1, 0, 0], [0, 0, 2]])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((0, 2),), r"kernel or window must be at least 1, not \(0, 2\)"),
        (((2, 2), (0, 1)), r"strides must be at least 1, not \(0, 1\)"),
        (((2, 2), None, ((0, 0), (-1, 0))), "Padding must not be negative"),
        (((2, 2), None, 2), "window of 2 would hold only padding: with padding 2 and 2, stride 2 and 5 pixels"),
        (((2, 2), (2, 2), ((0, 3), (0, 0))), "the first window ends before pixel 2 and the last begins at 6"),
    ],
)
def test_windows_that_cannot_be_pooled(arguments, message):
    with pytest.raises(UsageError, match=message):
        max_pool_with_indices(jnp.zeros((1, 5, 5, 1)), *arguments)


def test_unpooling_needs_a_size():
    with pytest.raises(UsageError, match=r"size must be at least 1, not \(0, 4\)"):
        max_unpool(jnp.zeros((1, 2, 2, 1)), jnp.zeros((1, 2, 2, 1), jnp.int32), (0, 4))
