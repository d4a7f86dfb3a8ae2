"""Transposed convolution in both views: against the definition, as the backward pass, and the lectures' examples."""

from functools import cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from cnnjax.ops.conv import traced_as_convolutions
from cnnjax.ops.correlate import correlate
from cnnjax.ops.transposed import by_gathering, by_stamping, conv_transpose
from cnnjax.ops.windows import Padding, Sizes, spread
from cnnjax.typing import UsageError
from tests.fixtures.networks import jit


class Case(NamedTuple):
    size: Sizes
    kernel: Sizes
    strides: Sizes
    padding: int | Padding = 0
    output_padding: int | Sizes = 0
    dilation: int | Sizes = 1
    groups: int = 1
    channels: tuple[int, int] = (2, 3)  # in, out / groups

    def shapes(self):
        channels, features = self.channels
        return (2, *self.size, channels), (*self.kernel, channels, features)


CASES = {
    "no overlap": Case((3, 4), (2, 2), (2, 2)),
    "overlap": Case((3, 2), (4, 3), (2, 2), 1, (0, 1)),
    "stride beyond the kernel": Case((3, 2), (1, 2), (2, 3), 0, (1, 2)),
    "dilated": Case((3, 4), (3, 2), (1, 2), ((1, 0), (0, 2)), (1, 2), (2, 3)),
    "groups": Case((2, 3), (3, 3), (2, 1), 1, 0, 1, 2, (4, 3)),
    "more padding than the kernel": Case((5, 6), (1, 2), (1, 2), ((1, 1), (3, 2))),
    "a signal": Case((4,), (5,), (3,), ((2, 1),), 1, 1, 2, (4, 2)),
    "a volume": Case((2, 3, 2), (3, 2, 2), (2, 1, 2), 1, 0, (1, 2, 1)),
}


def each_axis(value, axes):
    return (value,) * axes if isinstance(value, int) else value


def definition(images, kernel, case: Case):
    """Stamps in float64, one after the other."""
    axes = len(case.size)
    dilation, further = each_axis(case.dilation, axes), each_axis(case.output_padding, axes)
    pads = case.padding if isinstance(case.padding, tuple) else ((case.padding,) * 2,) * axes
    sides = zip(case.size, case.strides, dilation, case.kernel, strict=True)
    reach = [(n - 1) * s + d * (k - 1) + 1 for n, s, d, k in sides]
    fan_in, features = case.channels[0] // case.groups, case.channels[1]
    whole = np.zeros((2, *(n + p for n, p in zip(reach, further, strict=True)), case.groups * features))
    for position in np.ndindex(*case.size):
        for tap in np.ndindex(*case.kernel):
            at = [p * s + t * d for p, s, t, d in zip(position, case.strides, tap, dilation, strict=True)]
            for g in range(case.groups):
                reads, writes = slice(g * fan_in, (g + 1) * fan_in), slice(g * features, (g + 1) * features)
                whole[:, *at, writes] += images[:, *position, reads].astype(np.float64) @ kernel[tap][reads]
    return whole[:, *(slice(low, n - high) for n, (low, high) in zip(whole.shape[1:], pads, strict=False))]


VIEWS = {"the faster": conv_transpose, "stamping": by_stamping, "gathering": by_gathering}


@cache
def passes(name):
    """Both views of a case with their gradients, the one that is chosen, and one convolution of XLA."""
    case = CASES[name]

    def function(images, kernel, weights):
        def each(view):
            out, pull = jax.vjp(lambda x, k: view(x, k, *case[2:7]), images, kernel)
            return out, *pull(weights)

        chosen = conv_transpose(images, kernel, *case[2:7])
        with traced_as_convolutions():
            left = conv_transpose(images, kernel, *case[2:7])
        return {
            "stamping": each(by_stamping),
            "gathering": each(by_gathering),
            "chosen": [chosen],
            "left to XLA": [left],
        }

    return jit(function)


def whole_numbers(shape):
    """Of which all sums of products are exact."""
    return arrays(np.int8, shape, elements=st.integers(-4, 4)).map(lambda array: array.astype(np.float32))


@settings(max_examples=25)
@given(st.sampled_from(sorted(CASES)), st.data())
@pytest.mark.slow
def test_gathering_is_stamping_is_the_definition(name, data):  # S0:597-657; S3:848-869
    case = CASES[name]
    images, kernel = (data.draw(whole_numbers(shape)) for shape in case.shapes())
    expected = definition(images, kernel, case)
    weights = np.random.default_rng(0).integers(-4, 5, expected.shape).astype(np.float32)
    found = passes(name)(images, kernel, weights)
    # The operation is linear in both: a gradient's product with its argument is the output's with the weights.
    total = (expected * weights).sum()
    for view, (out, *gradients) in found.items():
        assert out.shape == expected.shape
        np.testing.assert_array_equal(out, expected, err_msg=view)
        for gradient, argument, other in zip(gradients, (images, kernel), found["stamping"][1:], strict=False):
            assert (np.float64(gradient) * argument).sum() == total
            np.testing.assert_array_equal(gradient, other, err_msg=view)


def test_half_precision_is_kept_and_vmap_equals_one_after_the_other():
    case = CASES["overlap"]
    images, kernels = (
        np.random.default_rng(seed).standard_normal((2, *shape)).astype(np.float32)
        for seed, shape in enumerate(case.shapes())
    )
    expected = [definition(*pair, case) for pair in zip(images, kernels, strict=True)]

    @jit
    def compute(images, kernels):
        half = [array[0].astype(jnp.bfloat16) for array in (images, kernels)]

        def each(view):
            def alone(x, k):
                return view(x, k, *case[2:7])

            return jax.vmap(alone)(images, kernels), alone(*half)

        return [each(view) for view in (by_stamping, by_gathering)]

    for lanes, half in compute(images, kernels):
        np.testing.assert_allclose(lanes, expected, rtol=1e-5, atol=1e-5)
        assert half.dtype == jnp.bfloat16
        np.testing.assert_allclose(half.astype(jnp.float32), expected[0], rtol=0.05, atol=0.05)


@pytest.mark.parametrize(
    ("side", "kernel", "stride", "padding"), [(7, 3, 2, 1), (8, 3, 2, 1), (6, 4, 2, 1), (5, 3, 1, 0)]
)
@pytest.mark.slow
def test_it_is_the_backward_pass_of_a_convolution(side, kernel, stride, padding):
    """Output padding tells which of the sizes that shrink to the same one was meant: 7 and 8 both become 4."""
    rng = np.random.default_rng(0)
    images = rng.standard_normal((1, side, side, 2)).astype(np.float32)
    weights = rng.standard_normal((kernel, kernel, 2, 3)).astype(np.float32)

    @jit
    def both(images, weights):
        out, pull = jax.vjp(lambda x: correlate(x, weights, stride, padding), images)
        further = side - ((out.shape[1] - 1) * stride - 2 * padding + kernel)
        grad = jnp.cos(out)
        return *pull(grad), conv_transpose(grad, weights.swapaxes(2, 3), stride, padding, further)

    back, transposed = both(images, weights)
    np.testing.assert_allclose(transposed, back, rtol=1e-5, atol=1e-5)


def stamped(image, kernel, **arguments):
    image, kernel = jnp.array(image, jnp.float32)[None, ..., None], jnp.array(kernel, jnp.float32)[..., None, None]
    found = [
        jit(lambda x, k, v=view: v(x, k, **arguments))(image, kernel)[0, ..., 0] for view in (by_stamping, by_gathering)
    ]
    np.testing.assert_array_equal(*found)
    return found[0]


@pytest.mark.slow
def test_the_example_with_padding():  # S4:979-1013, whose 4x4 result needs one more row and column than p = 1 leaves
    image, kernel = [[2, 1], [3, 2]], [[1, 2, 1], [2, 0, 1], [0, 2, 1]]
    full = [[2, 4, 3, 2, 1], [4, 0, 4, 0, 1], [3, 10, 7, 6, 3], [6, 0, 7, 0, 2], [0, 6, 3, 4, 2]]
    np.testing.assert_array_equal(stamped(image, kernel, strides=2), full)
    np.testing.assert_array_equal(stamped(image, kernel, strides=2, padding=1), np.array(full)[1:4, 1:4])
    result = [[0, 4, 0, 1], [10, 7, 6, 3], [0, 7, 0, 2], [6, 3, 4, 2]]
    np.testing.assert_array_equal(stamped(image, kernel, strides=2, padding=1, output_padding=1), result)


def test_the_example_of_two_by_two():  # S3:861-869
    image, kernel = [[1, 1], [2, 3]], [[1, 2], [3, 4]]
    np.testing.assert_array_equal(stamped(image, kernel), [[1, 3, 2], [5, 14, 10], [6, 17, 12]])
    expected = [[1, 2, 1, 2], [3, 4, 3, 4], [2, 4, 3, 6], [6, 8, 9, 12]]
    np.testing.assert_array_equal(stamped(image, kernel, strides=2), expected)


def test_zeros_between_pixels_and_a_filter_double_the_resolution():  # S0:660-766
    image, kernel = [[4, 2, 4], [6, 4, 6], [2, 12, 2]], np.outer([1, 2, 1], [1, 2, 1]) / 4
    expected = [[4, 3, 2, 3, 4], [5, 4, 3, 4, 5], [6, 5, 4, 5, 6], [4, 6, 8, 6, 4], [2, 7, 12, 7, 2]]
    np.testing.assert_array_equal(stamped(image, kernel, strides=2, padding=1), expected)
    sparse = spread(jnp.array(image, jnp.float32)[None, ..., None], [(0, 0, 1)] * 2)
    np.testing.assert_array_equal(correlate(sparse, jnp.array(kernel)[..., None, None])[0, ..., 0], expected)


def test_stamping_a_laplacian_is_filtering_with_it():  # S0:610-657; the kernel is symmetric, so turning it is nothing
    image = np.random.default_rng(0).integers(-9, 10, (5, 5)).astype(np.float32)
    laplacian = np.array([[0, -1, 0], [-1, 4, -1], [0, -1, 0]], np.float32)
    filtered = correlate(jnp.array(image)[None, ..., None], jnp.array(laplacian)[..., None, None])
    np.testing.assert_array_equal(stamped(image, laplacian, padding=1), filtered[0, ..., 0])


REFUSALS = {
    "output padding as large as the stride": (
        {"strides": 2, "output_padding": 2},
        r"output padding must be below .* 2 >= max\(2, 1\)",
    ),
    "output padding below 0": ({"output_padding": -1}, "output padding must be at least 0, not -1"),
    "nothing left": (
        {"padding": 4},
        r"\(n - 1\) s - p \+ d \(k - 1\) \+ 1 \+ output padding = 2 \* 1 - 8 \+ 1 \* 2 \+ 1 \+ 0 = -3",
    ),
    "negative padding": ({"padding": -1}, "must not be negative, but it is -1"),
    "groups that do not divide": ({"groups": 3}, "4 input channels in 3 groups"),
    "strides below 1": ({"strides": (2, 0)}, r"strides must be at least 1, not \(2, 0\)"),
    "strides for other axes": ({"strides": (2, 2, 2)}, r"strides must be one number or 2, .* not \(2, 2, 2\)"),
    "other channels": ({"kernel": (3, 3, 2, 5)}, "4 input channels in 1 groups .* the kernel has 2"),
    "other axes": ({"kernel": (3, 4, 5)}, "1 to 3 axes of space"),
    "an empty kernel": ({"kernel": (3, 0, 4, 5)}, r"kernel must be at least 1, not \(3, 0\)"),
}


@pytest.mark.parametrize(("arguments", "message"), REFUSALS.values(), ids=REFUSALS)
def test_refusals_name_the_numbers(arguments, message):
    kernel = jnp.asarray(np.zeros(arguments.get("kernel", (3, 3, 4, 5))))
    rest = {name: value for name, value in arguments.items() if name != "kernel"}
    for view in VIEWS.values():
        with pytest.raises(UsageError, match=message):
            view(jnp.asarray(np.zeros((1, 3, 3, 4))), kernel, **rest)


def test_padding_has_no_names(unchecked):
    with pytest.raises(UsageError, match=r"Unknown padding 'SAME'.* a number, or 2 pairs"):
        conv_transpose(jnp.zeros((1, 3, 3, 4)), jnp.zeros((3, 3, 4, 5)), padding="SAME")
