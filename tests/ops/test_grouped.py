"""Grouped and depthwise convolutions against XLA's own, which are slow on the CPU but right."""

import re
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from cnnjax.ops import depthwise
from cnnjax.ops.conv import LAYOUT, conv
from cnnjax.ops.windows import Padding, Pair, explicit_padding
from tests.fixtures.networks import jit


class Case(NamedTuple):
    size: Pair
    kernel: Pair
    channels: Pair
    groups: int
    strides: Pair = (1, 1)
    padding: str | int | Padding = "SAME"
    dilation: Pair = (1, 1)


CASES = {
    "depthwise": Case((5, 6), (3, 3), (4, 4), 4),
    "depthwise, stride 2": Case((7, 6), (5, 3), (4, 4), 4, (2, 2), 2),
    "three outputs for each channel": Case((5, 4), (3, 2), (2, 6), 2, (2, 1)),
    "depthwise, everything at once": Case((9, 7), (3, 2), (3, 3), 3, (2, 3), ((0, 3), (2, 1)), (3, 2)),
    "depthwise, padding beyond the kernel": Case((4, 3), (2, 1), (3, 3), 3, (1, 2), 2),
    "depthwise, pixels unread": Case((8, 9), (2, 2), (3, 3), 3, (3, 4), "VALID"),
    "two groups": Case((4, 5), (3, 3), (32, 6), 2, (1, 2)),
    "groups joined into one block": Case((4, 5), (3, 3), (8, 12), 4),
    "groups joined into blocks": Case((4, 3), (3, 1), (48, 12), 6, (1, 1), ((1, 0), (0, 2)), (2, 1)),
}


def arrays(case: Case, lanes: int = 1):
    """Images, kernel and a gradient of the output, each for every lane."""
    draw = np.random.default_rng(0).standard_normal
    channels, features = case.channels
    images = draw((lanes, 4, *case.size, channels))
    kernel = draw((lanes, *case.kernel, channels // case.groups, features))
    grad = draw((lanes, *jax.eval_shape(lambda x, k: ours(case, x, k), images[0], kernel[0]).shape))
    return [a.astype(np.float32) for a in (images, kernel, grad)]


def ours(case: Case, images, kernel):
    return conv(images, kernel, case.strides, case.padding, case.dilation, case.groups)


def xla(case: Case, images, kernel):
    pads = explicit_padding(case.padding, case.size, case.kernel, case.strides, case.dilation)
    return lax.conv_general_dilated(
        images, kernel, case.strides, pads, (1, 1), case.dilation, LAYOUT, feature_group_count=case.groups
    )


def passes(form, case: Case):
    """A function from (images, kernel, gradient of the output) to the output and both gradients."""

    def function(images, kernel, grad):
        out, pull = jax.vjp(lambda x, k: form(case, x, k), images, kernel)
        return out, *pull(grad)

    return function


def assert_close(actual, expected):
    for a, e in zip(actual, expected, strict=True):
        assert a.shape == e.shape
        np.testing.assert_allclose(a, e, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@pytest.mark.slow
def test_output_and_both_gradients_equal_xlas(case):
    single = [a[0] for a in arrays(case)]
    actual, expected = jit(lambda *args: [passes(form, case)(*args) for form in (ours, xla)])(*single)
    assert_close(actual, expected)


@pytest.mark.parametrize("part", [1, 50, 200])
@pytest.mark.slow
def test_a_depthwise_kernels_gradient_is_the_sum_of_its_parts(part, monkeypatch):
    monkeypatch.setattr(depthwise, "PART", part)  # single rows, several rows, several images
    case = Case((6, 6), (3, 2), (4, 4), 4, (1, 2))
    single = [a[0] for a in arrays(case)]
    actual, expected = jit(lambda *args: [passes(form, case)(*args) for form in (ours, xla)])(*single)
    assert_close(actual, expected)


@pytest.mark.parametrize("name", ["depthwise, everything at once", "groups joined into blocks"])
@pytest.mark.slow
def test_vmap_over_images_or_kernels_equals_one_after_the_other(name):
    case, lanes = CASES[name], 2
    stacked = arrays(case, lanes)
    single = [a[0] for a in stacked]
    combinations = [(0, None, 0), (None, 0, 0), (0, 0, 0)]

    def chosen(axes):
        return [s if axis is None else b for axis, s, b in zip(axes, single, stacked, strict=True)]

    @jit
    def mapped(*args):
        return [jax.vmap(passes(ours, case), axes)(*a) for axes, a in zip(combinations, args, strict=True)]

    once = jit(passes(xla, case))
    for axes, actual in zip(combinations, mapped(*map(chosen, combinations)), strict=True):
        for lane in range(lanes):
            args = [a if axis is None else a[lane] for axis, a in zip(axes, chosen(axes), strict=True)]
            assert_close([a[lane] for a in actual], once(*args))


def test_no_grouped_convolution_is_left_to_xla():
    for case in CASES.values():
        program = str(jax.make_jaxpr(passes(ours, case))(*(a[0] for a in arrays(case))))
        assert set(re.findall(r"group_count=(\d+)", program)) <= {"1"}


def test_in_half_precision_a_depthwise_kernels_gradient_keeps_its_digits():
    case, draw = Case((3, 3), (3, 3), (2, 2), 2), np.random.default_rng(0).random
    values = draw((256, 3, 3, 2)), draw((3, 3, 1, 2)), draw((256, 3, 3, 2))
    rounded = [jnp.asarray(a, jnp.bfloat16) for a in values]
    wide = [a.astype(jnp.float32) for a in rounded]
    actual, expected = jit(lambda a, b: (passes(ours, case)(*a), passes(xla, case)(*b)))(rounded, wide)
    for a, e in zip(actual, expected, strict=True):
        assert a.dtype == jnp.bfloat16
        np.testing.assert_allclose(a.astype(jnp.float32), e, rtol=2**-7)
