import itertools
import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from cnnjax.ops.conv import conv, convolution_matrix, patches
from cnnjax.ops.forms import by_patches
from cnnjax.ops.windows import explicit_padding, output_size
from cnnjax.typing import UsageError
from tests.fixtures import definition


class Case(NamedTuple):
    size: tuple[int, int]
    kernel: tuple[int, int]
    strides: tuple[int, int] = (1, 1)
    padding: str | int | tuple = "SAME"
    dilation: tuple[int, int] = (1, 1)
    channels: tuple[int, int] = (2, 3)


CASES = {
    "same": Case((5, 6), (3, 3)),
    "even kernel, stride 2": Case((7, 6), (2, 4), (2, 2)),
    "stride leaves pixels unread": Case((8, 9), (3, 2), (3, 4), "VALID"),
    "kernel larger than the image": Case((2, 2), (3, 3)),
    "1x1 projection, stride 2": Case((5, 4), (1, 1), (2, 2)),
    "padding beyond the kernel": Case((4, 3), (2, 1), (1, 2), 2),
    "everything at once": Case((9, 7), (3, 2), (2, 1), ((0, 3), (2, 1)), (2, 3), (3, 1)),
}


def arrays(case: Case, groups: int = 1):
    """Images, kernel and a gradient of the output."""
    draw = np.random.default_rng(0).standard_normal
    c, o = case.channels
    images, kernel = draw((2, *case.size, c)), draw((*case.kernel, c // groups, o))
    grad = draw(correlate(images, np.zeros((*case.kernel, c, o)), case)[0].shape)
    return [a.astype(np.float32) for a in (images, kernel, grad)]


def correlate(images, kernel, case: Case, grad=None):
    """Output and both gradients by definition, in float64."""
    pads = explicit_padding(case.padding, case.size, case.kernel, case.strides, case.dilation)
    return definition.correlate(images, kernel, case.strides, pads, case.dilation, grad=grad)


def passes(case: Case, groups: int = 1):
    """A function from (images, kernel, gradient of the output) to the output and both gradients."""

    def function(images, kernel, grad):
        def forward(images, kernel):
            return conv(images, kernel, case.strides, case.padding, case.dilation, groups)

        out, pull = jax.vjp(forward, images, kernel)
        return out, *pull(grad)

    return function


@pytest.fixture(params=["canonical", "in parts", "matrix"])
def form(request, monkeypatch):
    """Every way of computing, whatever the sizes."""
    monkeypatch.setattr("cnnjax.ops.conv.MATRIX_PIXELS", math.inf if request.param == "matrix" else 0)
    monkeypatch.setattr("cnnjax.ops.conv.LARGE_GRADIENT", 0 if request.param == "in parts" else math.inf)


def assert_close(actual, expected):
    for a, e in zip(actual, expected, strict=True):
        assert a.shape == e.shape
        np.testing.assert_allclose(a, e, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@pytest.mark.slow
def test_output_and_both_gradients_equal_the_definition(case, form):
    images, kernel, grad = arrays(case)
    assert_close(jax.jit(passes(case))(images, kernel, grad), correlate(images, kernel, case, grad))


@pytest.mark.slow
def test_vmap_over_any_of_the_arguments_equals_one_after_the_other(form):
    case, lanes = CASES["everything at once"], 3
    single = arrays(case)
    rng = np.random.default_rng(1)
    stacked = [rng.standard_normal((lanes, *a.shape)).astype(np.float32) for a in single]
    combinations = [axes for axes in itertools.product((None, 0), repeat=3) if any(a == 0 for a in axes)]

    @jax.jit
    def mapped(single, stacked):
        def chosen(axes):
            return [s if axis is None else b for axis, s, b in zip(axes, single, stacked, strict=True)]

        return [jax.vmap(passes(case), axes)(*chosen(axes)) for axes in combinations]

    for axes, actual in zip(combinations, mapped(single, stacked), strict=True):
        for lane in range(lanes):
            chosen = [s if axis is None else b[lane] for axis, s, b in zip(axes, single, stacked, strict=True)]
            assert_close([a[lane] for a in actual], correlate(chosen[0], chosen[1], case, chosen[2]))


def test_inside_a_loop_equals_outside(form):
    case = CASES["everything at once"]
    images, kernel, grad = arrays(case)
    zeros = jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), jax.eval_shape(passes(case), images, kernel, grad))

    @jax.jit
    def looped(times, images, kernel, grad):
        def body(_, total):
            return jax.tree.map(lambda t, p: t + p, total, passes(case)(images, kernel, grad))

        return lax.fori_loop(0, times, body, zeros)

    once = correlate(images, kernel, case, grad)
    assert_close(looped(3, images, kernel, grad), [3 * part for part in once])


def test_in_half_precision_the_kernels_gradient_keeps_its_digits(form):
    case, draw = Case((3, 3), (3, 3)), np.random.default_rng(0).random
    arrays = draw((256, 3, 3, 2)), draw((3, 3, 2, 3)), draw((256, 3, 3, 3))
    rounded = [jnp.asarray(a, jnp.bfloat16) for a in arrays]
    expected = correlate(*(np.asarray(a, np.float64) for a in rounded[:2]), case, np.asarray(rounded[2], np.float64))
    kernel_grad = jax.jit(passes(case))(*rounded)[2]
    assert kernel_grad.dtype == jnp.bfloat16
    np.testing.assert_allclose(kernel_grad.astype(jnp.float32), expected[2], rtol=2**-7)


def test_small_images_take_the_matrix():
    kernel = jnp.zeros((3, 3, 2, 4))
    for size, matrix in ((4, True), (5, False)):
        program = str(jax.make_jaxpr(conv)(jnp.zeros((1, size, size, 2)), kernel))
        assert ("conv_general_dilated" in program) != matrix


@pytest.mark.parametrize(("side", "fourier"), [(31, True), (29, False)])
@pytest.mark.slow
def test_large_kernels_take_fourier_transforms(side, fourier):
    draw = np.random.default_rng(0).standard_normal
    images, kernel = (jnp.asarray(draw(shape), jnp.float32) for shape in ((1, 32, 30, 9), (side, side, 9, 2)))
    program = str(jax.make_jaxpr(conv)(images, kernel))
    assert ("fft" in program) == fourier
    assert ("conv_general_dilated" in program) != fourier
    gradient = jnp.asarray(draw((1, 32, 30, 2)), jnp.float32)

    @partial(jax.jit, static_argnums=0)
    def passes(form, images, kernel, gradient):
        out, pull = jax.vjp(form, images, kernel)
        return out, *pull(gradient)

    for found, expected in zip(*(passes(form, images, kernel, gradient) for form in (conv, by_patches)), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


def test_a_matrix_that_does_not_fit_is_not_made():
    kernel = jnp.zeros((30, 30, 8, 8))
    for side, matrix in ((20, True), (32, False)):
        program = str(jax.make_jaxpr(conv)(jax.ShapeDtypeStruct((1, side, side, 8), np.float32), kernel))
        assert ("conv_general_dilated" in program) != matrix


def test_a_spectrum_that_does_not_fit_is_not_made():
    images, kernel = (
        jax.ShapeDtypeStruct((1, 64, 64, 256), np.float32),
        jax.ShapeDtypeStruct((31, 31, 256, 256), np.float32),
    )
    assert "fft" not in str(jax.make_jaxpr(conv)(images, kernel))


def test_the_lectures_convolution_matrix():  # S2:256-265: a row for each output pixel of 3x3 on 4x4
    kernel = jnp.arange(1.0, 10).reshape(3, 3, 1, 1)
    matrix = convolution_matrix(kernel, (4, 4), (1, 1), ((0, 0), (0, 0)))
    first = [1, 2, 3, 0, 4, 5, 6, 0, 7, 8, 9, 0, 0, 0, 0, 0]
    np.testing.assert_array_equal(matrix.T, [np.roll(first, shift) for shift in (0, 1, 4, 5)])


def test_groups_read_only_their_own_channels():
    case, groups = Case((4, 5), (3, 3), (1, 2), channels=(4, 6)), 2
    images, kernel, grad = arrays(case, groups)
    halves = [
        correlate(images[..., 2 * g : 2 * g + 2], kernel[..., 3 * g : 3 * g + 3], case, grad[..., 3 * g : 3 * g + 3])
        for g in range(groups)
    ]
    expected = [np.concatenate(parts, axis=-1) for parts in zip(*halves, strict=True)]
    assert_close(jax.jit(passes(case, groups))(images, kernel, grad), expected)


@pytest.mark.parametrize(("channels", "fan_in", "features", "groups"), [(3, 2, 4, 1), (4, 4, 4, 2), (4, 2, 3, 2)])
def test_channels_must_match_kernel_and_groups(channels, fan_in, features, groups):
    images, kernel = jnp.zeros((1, 4, 4, channels)), jnp.zeros((3, 3, fan_in, features))
    with pytest.raises(UsageError, match=f"{channels} input channels with {groups} groups .* not {fan_in} and"):
        conv(images, kernel, groups=groups)


def test_a_kernel_must_fit_into_the_padded_image():
    images, kernel = jnp.zeros((1, 4, 9, 1)), jnp.zeros((3, 3, 1, 1))
    with pytest.raises(UsageError, match=r"covers 7 pixels but the padded input has n \+ p = 4 \+ 2 = 6"):
        conv(images, kernel, padding=1, dilation=(3, 1))


@pytest.mark.parametrize(
    ("n", "f", "p", "s", "size"),
    [(7, 3, 0, 1, 5), (7, 3, 0, 2, 3), (7, 3, 1, 1, 7), (227, 11, 0, 4, 55), (32, 5, 2, 1, 32), (7, 3, 0, 3, 2)],
)
def test_output_sizes_of_the_lectures(n, f, p, s, size):  # S2:138; S4:194; S4:272
    assert output_size(n, f, p, s) == size
    images, kernel = (jax.ShapeDtypeStruct(shape, np.float32) for shape in ((1, n, n, 1), (f, f, 1, 1)))
    assert jax.eval_shape(lambda x, k: conv(x, k, (s, s), p), images, kernel).shape == (1, size, size, 1)


def test_patches_are_the_values_under_the_kernel():
    images = np.arange(2 * 6 * 7 * 2, dtype=np.float32).reshape(2, 6, 7, 2)
    columns = jax.jit(lambda x: patches(x, (2, 3), (2, 1), (3, 2)))(images)
    assert columns.shape == (2, 2, 3, 12)
    for y, x in np.ndindex(2, 3):
        window = images[:, 2 * y : 2 * y + 4 : 3, x : x + 5 : 2]
        np.testing.assert_array_equal(columns[:, y, x], window.reshape(2, -1))
