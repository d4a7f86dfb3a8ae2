"""Operations with one, two and three axes: against the definition and SciPy, and what makes them convolutions."""

from functools import cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from cnnjax.ops import forms
from cnnjax.ops.correlate import convolve, correlate
from cnnjax.ops.kernels import dense, dilated
from cnnjax.ops.windows import Padding, Sizes, explicit_padding, valid_sizes
from cnnjax.typing import UsageError
from tests.fixtures import definition
from tests.fixtures.networks import jit


class Case(NamedTuple):
    size: Sizes
    kernel: Sizes
    strides: Sizes
    padding: str | int | Padding = "SAME"
    dilation: int | Sizes = 1
    groups: int = 1
    channels: tuple[int, int] = (2, 3)

    def arguments(self):
        return self.strides, self.padding, self.dilation, self.groups

    def explicit(self):
        """Strides, padding and dilation, for every axis."""
        dilation = (self.dilation,) * len(self.size) if isinstance(self.dilation, int) else self.dilation
        return self.strides, explicit_padding(self.padding, self.size, self.kernel, self.strides, dilation), dilation

    def shapes(self):
        """Of signals, kernel and output."""
        strides, pads, dilation = self.explicit()
        padded = tuple(n + low + high for n, (low, high) in zip(self.size, pads, strict=True))
        kernel = (*self.kernel, self.channels[0] // self.groups, self.channels[1])
        return (
            (2, *self.size, self.channels[0]),
            kernel,
            (2, *valid_sizes(padded, self.kernel, strides, dilation), self.channels[1]),
        )


CASES = {
    "a signal": Case((7,), (3,), (2,), ((0, 1),), 2),
    "a signal in groups": Case((5,), (2,), (1,), "SAME", 1, 3, (6, 3)),
    "an image": Case((6, 5), (3, 2), (2, 1), ((0, 2), (1, 1)), (1, 2)),
    "an image in groups": Case((4, 5), (3, 3), (1, 2), "VALID", 1, 3, (3, 3)),
    "a volume": Case((5, 4, 3), (2, 2, 3), (2, 1, 1), "VALID", (2, 1, 1)),
    "a volume in groups": Case((3, 4, 3), (2, 3, 2), (1, 1, 2), ((1, 0), (0, 1), (1, 1)), 1, 3, (6, 3)),
}
FORMS = {
    "correlate": correlate,
    "matrix": forms.by_matrix,
    "patches": forms.by_patches,
    "fft": forms.by_fft,
}


@cache
def passes(name, case: Case):
    """A function from (signals, kernel, gradient of the output) to every form's output and both gradients."""

    def function(signals, kernel, grad):
        def each(form):
            out, pull = jax.vjp(lambda x, k: form(x, k, *case.arguments()), signals, kernel)
            return out, *pull(grad)

        return {name: each(form) for name, form in FORMS.items()}

    return jit(function)


def normal(shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def whole_numbers(shape):
    """Of which all sums of products are exact."""
    return arrays(np.int8, shape, elements=st.integers(-4, 4)).map(lambda array: array.astype(np.float32))


@settings(max_examples=30)
@given(st.sampled_from(sorted(CASES)), st.data())
@pytest.mark.slow
def test_all_forms_and_their_gradients_equal_the_definition(name, data):  # S0:213-215; S3:295-300
    case = CASES[name]
    signals, kernel, grad = (data.draw(whole_numbers(shape)) for shape in case.shapes())
    expected = definition.correlate(signals, kernel, *case.explicit(), case.groups, grad)
    for form, actual in passes(name, case)(signals, kernel, grad).items():
        for a, e in zip(actual, expected, strict=True):
            assert a.shape == e.shape
            if form == "fft":
                np.testing.assert_allclose(a, e, atol=2e-6 * max(1, np.abs(e).max()), err_msg=form)
            else:
                np.testing.assert_array_equal(a, e, err_msg=form)


def test_half_precision_is_kept_and_vmap_equals_one_after_the_other():
    case = CASES["a volume in groups"]
    signals, kernel, _ = (normal((2, *shape), seed) for seed, shape in enumerate(case.shapes()))
    expected = [
        definition.correlate(*pair, *case.explicit(), case.groups)[0] for pair in zip(signals, kernel, strict=True)
    ]

    @jit
    def compute(signals, kernel):
        half = [array.astype(jnp.bfloat16) for array in (signals[0], kernel[0])]

        def each(form):
            def alone(x, k):
                return form(x, k, *case.arguments())

            return jax.vmap(alone)(signals, kernel), alone(*half)

        return [each(form) for form in FORMS.values()]

    for lanes, half in compute(signals, kernel):
        np.testing.assert_allclose(lanes, expected, rtol=1e-5, atol=1e-5)
        assert half.dtype == jnp.bfloat16
        np.testing.assert_allclose(half.astype(jnp.float32), expected[0], rtol=0.05, atol=0.05)


@pytest.mark.parametrize("size", [(7,), (6, 5), (4, 5, 3)])
def test_convolution_flips_the_kernel_and_correlation_does_not(size):  # S1:56; S4:209-213
    signal, kernel = normal(size), normal((3, 2, 3)[: len(size)], 1)

    @jit
    def both(signal, kernel):
        arrays = signal[None, ..., None], kernel[..., None, None]
        return [operation(*arrays, padding="VALID") for operation in (correlate, convolve)]

    plain, turned = both(signal, kernel)
    np.testing.assert_allclose(plain[0, ..., 0], scipy.signal.correlate(signal, kernel, "valid"), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(turned[0, ..., 0], scipy.signal.convolve(signal, kernel, "valid"), rtol=1e-5, atol=1e-5)


def test_full_convolution_commutes_and_correlation_does_not():
    @jit
    def both(a, b):
        pairs = (a, b[0][..., None], 2), (b, a[0][..., None], 3)
        return [[operation(x, k, padding=pad) for x, k, pad in pairs] for operation in (convolve, correlate)]

    convolved, (there, back) = both(normal((1, 4, 1)), normal((1, 3, 1), 1))
    np.testing.assert_allclose(*convolved, rtol=1e-5, atol=1e-6)
    assert np.abs(there - back).max() > 0.1
    np.testing.assert_allclose(there, back[:, ::-1], rtol=1e-5, atol=1e-6)


def test_a_symmetric_kernel_hides_the_flip():  # S1:56-104
    image = [[1, 1, 1, 0, 0], [0, 1, 1, 1, 0], [0, 0, 1, 1, 1], [0, 0, 1, 1, 0], [0, 1, 1, 0, 0]]
    image = np.array(image, np.float32)[None, ..., None]
    cross = np.array([[1, 0, 1], [0, 1, 0], [1, 0, 1]], np.float32)[..., None, None]
    for operation in (correlate, convolve):
        response = jit(lambda x, k, o=operation: o(x, k, padding="VALID"))(image, cross)[0, ..., 0]
        np.testing.assert_array_equal(response, [[4, 3, 4], [2, 4, 3], [2, 3, 4]])


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_the_lectures_sizes(axes):  # S4:1240-1297: 16 filters of side 5 on a side of 14
    signals = jax.ShapeDtypeStruct((1, *(14,) * axes, 1), np.float32)
    kernel = jax.ShapeDtypeStruct((*(5,) * axes, 1, 16), np.float32)
    for form in FORMS.values():
        out = jax.eval_shape(lambda x, k, form=form: form(x, k, padding="VALID"), signals, kernel)
        assert out.shape == (1, *(10,) * axes, 16)


def test_without_padding_maps_shrink_and_with_it_they_do_not():  # S1:797-799
    def sides(padding, times=5):
        x, k = (jax.ShapeDtypeStruct(shape, np.float32) for shape in ((1, 16, 16, 1), (3, 3, 1, 1)))
        found = []
        for _ in range(times):
            x = jax.eval_shape(lambda x, k: correlate(x, k, padding=padding), x, k)
            found.append(x.shape[1])
        return found

    assert sides("VALID") == [14, 12, 10, 8, 6]
    assert sides("SAME") == sides(1) == [16] * 5


# What a convolution is


@settings(max_examples=15)
@given(whole_numbers((1, 6, 5, 2)), whole_numbers((3, 2, 2, 3)), st.integers(0, 5), st.integers(0, 4))
def test_shifting_commutes_with_circular_convolution(image, kernel, down, right):  # S0:177-182; S1:1254
    response = circular(image, kernel)
    shifted = circular(np.roll(image, (down, right), (1, 2)), kernel)
    np.testing.assert_array_equal(shifted, np.roll(response, (down, right), (1, 2)))


@jit
def circular(image, kernel):
    return correlate(jnp.pad(image, ((0, 0), (0, 2), (0, 1), (0, 0)), mode="wrap"), kernel, padding="VALID")


def test_the_response_moves_with_the_image_and_is_not_invariant():
    image = np.zeros((1, 6, 5, 2), np.float32)
    image[0, 2, 2] = 1
    kernel = normal((3, 2, 2, 3))
    moved = circular(np.roll(image, 1, 2), kernel) - circular(image, kernel)
    assert np.abs(moved).max() > 0.1


@jit
def rewritten(images, kernel, grouped, square):
    """Pairs that must be equal: an operation, and another one that does it too."""
    same = correlate(images, kernel)
    return {
        "strided = all, then every second": (
            correlate(images, kernel, (2, 2), 1),
            correlate(images, kernel, 1, 1)[:, ::2, ::2],
        ),
        "dilated = with zeros in the kernel": (
            correlate(images, kernel, 1, "VALID", (2, 1)),
            correlate(images, dilated(kernel, (2, 1)), 1, "VALID"),
        ),
        "grouped = block-diagonal": (correlate(images, grouped, groups=2), correlate(images, dense(grouped, 2))),
        "pointwise = dense at every pixel": (correlate(images, kernel[:1, :1]), images @ kernel[0, 0]),
        "dense = a kernel over the whole map": (
            correlate(images, square, padding="VALID").reshape(2, -1),
            images.reshape(2, -1) @ square.reshape(-1, square.shape[-1]),
        ),
        "depthwise = every channel alone": (
            correlate(images, kernel[:, :, :1, :4], groups=4),
            jnp.concatenate(
                [correlate(images[..., c : c + 1], kernel[:, :, :1, c : c + 1]) for c in range(4)], axis=-1
            ),
        ),
        "filters are a bank": (same[..., 1:2], correlate(images, kernel[..., 1:2])),
    }


@settings(max_examples=10)
@given(*map(whole_numbers, [(2, 5, 6, 4), (3, 3, 4, 6), (3, 3, 2, 6), (5, 6, 4, 3)]))
def test_operations_written_as_others(images, kernel, grouped, square):  # S2:658; S3:250-258; S3:537-551; S1:1133-1170
    for name, (one, other) in rewritten(images, kernel, grouped, square).items():
        np.testing.assert_array_equal(one, other, err_msg=name)


def test_two_convolutions_in_a_row_are_one():  # without what is not linear between them, a composition gains nothing
    @jit
    def compute(image, first, second):
        twice = correlate(correlate(image, first, padding="VALID"), second, padding="VALID")
        joint = convolve(first.transpose(2, 0, 1, 3), second, padding=2)  # of the kernels
        return twice, correlate(image, joint.transpose(1, 2, 0, 3), padding="VALID"), joint.shape

    twice, once, shape = compute(normal((1, 7, 7, 1)), normal((3, 3, 1, 2), 1), normal((3, 3, 2, 3), 2))
    assert shape == (1, 5, 5, 3)
    np.testing.assert_allclose(twice, once, rtol=1e-4, atol=1e-5)


def test_groups_divide_the_weights():  # S3:546-551: a 3x3 layer from 256 to 256 channels
    for groups, weights in {1: 589_824, 2: 294_912, 4: 147_456, 32: 18_432}.items():
        kernel = jax.ShapeDtypeStruct((3, 3, 256 // groups, 256), np.float32)
        images = jax.ShapeDtypeStruct((1, 8, 8, 256), np.float32)
        jax.eval_shape(lambda x, k, g=groups: correlate(x, k, groups=g), images, kernel)  # fits
        assert kernel.size == weights


@pytest.mark.parametrize(("size", "kernel"), [((6,), (3,)), ((4, 4), (3, 3)), ((3, 3, 4), (2, 2, 2))])
def test_the_backward_pass_multiplies_by_the_transposed_matrix(size, kernel):  # S2:256-265
    images, weights = normal((1, *size, 2)), normal((*kernel, 2, 3), 1)

    @jit
    def compute(images, weights):
        out, pull = jax.vjp(lambda x: correlate(x, weights, padding="VALID"), images)
        return out, *pull(jnp.cos(out)), forms.matrix(weights, size, padding="VALID")

    out, back, matrix = (np.asarray(array, np.float64) for array in compute(images, weights))
    np.testing.assert_allclose(out.ravel(), images.ravel() @ matrix, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(back.ravel(), matrix @ np.cos(out).ravel(), rtol=1e-5, atol=1e-5)


def test_the_matrix_of_one_axis_is_toeplitz():
    kernel = np.array([1, 2, 3], np.float32)[:, None, None]
    matrix = np.asarray(jit(lambda k: forms.matrix(k, (6,), padding="VALID"))(kernel))
    np.testing.assert_array_equal(matrix.T[0], [1, 2, 3, 0, 0, 0])
    for diagonal in range(-3, 6):
        assert len(set(np.diagonal(matrix.T, diagonal).tolist())) == 1


def test_both_gradients_are_convolutions():  # S3:300; S2:233-252
    image, kernel = normal((1, 5, 6, 1)), normal((3, 2, 1, 1), 1)

    @jit
    def gradients(image, kernel, delta):
        return jax.vjp(lambda x, k: correlate(x, k, padding="VALID"), image, kernel)[1](delta)

    delta = normal((1, 3, 5, 1), 2)
    to_image, to_kernel = gradients(image, kernel, delta)
    x, w, d = image[0, ..., 0], kernel[..., 0, 0], delta[0, ..., 0]
    formula = [[sum(d[i, j] * x[i + m, j + n] for i in range(3) for j in range(5)) for n in range(2)] for m in range(3)]
    np.testing.assert_allclose(to_kernel[..., 0, 0], formula, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(to_kernel[..., 0, 0], scipy.signal.correlate(x, d, "valid"), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(to_image[0, ..., 0], scipy.signal.convolve(d, w, "full"), rtol=1e-5, atol=1e-5)


def test_an_output_depends_on_the_inputs_under_its_kernel_only():  # S4:348-350; S3:63-67
    kernel = jnp.asarray(normal((3, 3, 2, 1)))
    image = jnp.asarray(normal((5, 4, 2), 1))
    jacobian = jit(jax.jacrev(lambda x: correlate(x[None], kernel, padding="VALID")[0, ..., 0]))(image)
    for y, x in np.ndindex(3, 2):
        reads = np.zeros((5, 4, 2), bool)
        reads[y : y + 3, x : x + 3] = True  # 3 · 3 · 2 inputs
        np.testing.assert_array_equal(jacobian[y, x] != 0, reads)


@settings(max_examples=20)
@given(
    arrays(np.int8, (3, 3, 2, 1), elements=st.integers(-9, 9)),
    arrays(np.int8, (1, 3, 3, 2), elements=st.integers(-9, 9)),
)
def test_the_response_is_largest_for_the_patch_like_the_filter(kernel, patch):  # S1:579-587; S1:1231: Cauchy-Schwarz
    kernel, patch = kernel.astype(np.float32), patch.astype(np.float32)
    length = float(np.linalg.norm(patch))
    bound = length * float(np.linalg.norm(kernel))
    assert abs(match(patch, kernel)) <= bound * (1 + 1e-5)
    if np.any(kernel):
        template = (kernel[..., 0] * length / np.linalg.norm(kernel))[None].astype(np.float32)  # of the same length
        np.testing.assert_allclose(match(template, kernel), bound, rtol=1e-5)


@jit
def match(patch, kernel):
    return correlate(patch, kernel, padding="VALID").reshape(())


# Accuracy and refusals


def test_the_accuracy_of_the_fourier_transform():
    signals, kernel = normal((1, 40, 37, 4)), normal((15, 15, 4, 2), 1)
    pads = ((0, 0), (0, 0))
    exact = np.stack(
        [
            sum(
                scipy.signal.correlate(np.float64(signals[0, ..., c]), np.float64(kernel[..., c, o]), "valid")
                for c in range(4)
            )
            for o in range(2)
        ],
        -1,
    )
    found = jit(lambda x, k: forms.by_fft(x, k, 1, pads))(signals, kernel)[0]
    assert np.abs(found - exact).max() < 5e-7 * np.abs(exact).max()


REFUSALS = {
    "a kernel larger than the padded input": (
        ((1, 4, 2), (3, 2, 3)),
        {"padding": 1, "dilation": 3},
        r"covers 7 pixels .* n \+ p = 4 \+ 2 = 6",
    ),
    "other axes": (((1, 4, 2), (3, 3, 2, 3)), {}, r"1 to 3 axes of space.*\(1, 4, 2\) and \(3, 3, 2, 3\)"),
    "four axes": (((1, 4, 4, 4, 4, 2), (1, 1, 1, 1, 2, 3)), {}, "1 to 3 axes"),
    "groups that do not divide": (
        ((1, 4, 3), (2, 1, 3)),
        {"groups": 2},
        "3 input channels with 2 groups .* 3/2 .* not 1 and 3",
    ),
    "no groups": (((1, 4, 3), (2, 3, 3)), {"groups": 0}, "with 0 groups"),
    "negative padding": (((1, 4, 2), (3, 2, 3)), {"padding": -1}, "must not be negative, but it is -1"),
    "padding for other axes": (((1, 4, 2), (3, 2, 3)), {"padding": ((1, 1), (1, 1))}, "one number or 1 pairs"),
    "strides below 1": (((1, 4, 4, 2), (3, 3, 2, 3)), {"strides": (1, 0)}, r"strides must be at least 1, not \(1, 0\)"),
    "strides for other axes": (
        ((1, 4, 2), (3, 2, 3)),
        {"strides": (1, 1)},
        r"strides must be one number or 1, .* not \(1, 1\)",
    ),
    "dilation below 1": (((1, 4, 2), (3, 2, 3)), {"dilation": 0}, "dilation must be at least 1, not 0"),
    "an empty kernel": (((1, 4, 2), (0, 2, 3)), {}, r"kernel or window must be at least 1, not \(0,\)"),
}


@pytest.mark.parametrize(("shapes", "arguments", "message"), REFUSALS.values(), ids=REFUSALS)
def test_refusals_name_the_numbers(shapes, arguments, message):
    signals, kernel = map(np.zeros, shapes)
    for form in (*FORMS.values(), convolve):
        with pytest.raises(UsageError, match=message):
            form(jnp.asarray(signals), jnp.asarray(kernel), **arguments)
