"""Convolutions, transposed convolutions and pooling against torch, with both gradients: all of a small table."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax.ops.correlate import correlate
from cnnjax.ops.pool import max_pool_with_indices, max_unpool
from cnnjax.ops.transposed import conv_transpose
from tests.fixtures.networks import jit

SIZE, KERNEL, CHANNELS, FEATURES = (6, 5, 5), (3, 2, 3), 4, 6
# stride, padding, dilation, groups
TABLE = list(itertools.product((1, 2), (0, 1), (1, 2), (1, 2)))
EVERY = {1: 3, 2: 1, 3: 7}  # all of the table for images, some of it for signals and volumes


def normal(shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def kernel_shape(axes, groups, transposed):
    fans = (CHANNELS, FEATURES // groups) if transposed else (CHANNELS // groups, FEATURES)
    return (*KERNEL[:axes], *fans)


def with_gradients(function, x, k):
    """Output and both gradients of half the sum of its squares."""
    out, pull = jax.vjp(function, x, k)
    return out, *pull(out)


def torchs(torch, call, x, k, transposed):
    """The same of a function of torch, in our layout."""
    x = torch.tensor(np.moveaxis(x, -1, 1).copy(), requires_grad=True)
    order = (-2, -1) if transposed else (-1, -2)
    k = torch.tensor(np.moveaxis(k, order, (0, 1)).copy(), requires_grad=True)
    out = call(x, k)
    (out * out).sum().mul(0.5).backward()
    found = [np.moveaxis(array.detach().numpy(), 1, -1) for array in (out, x.grad)]
    return *found, np.moveaxis(k.grad.numpy(), (0, 1), order)


def assert_close(actual, expected, case):
    for a, e in zip(actual, expected, strict=True):
        assert a.shape == e.shape, case
        np.testing.assert_allclose(a, e, rtol=1e-4, atol=1e-5 * np.abs(e).max(), err_msg=str(case))


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_convolutions(torch, axes):
    x, table = normal((2, *SIZE[:axes], CHANNELS)), TABLE[:: EVERY[axes]]
    kernels = {groups: normal(kernel_shape(axes, groups, False), 1) for groups in (1, 2)}

    @jit
    def compute(x, kernels):
        return [with_gradients(lambda x, k, c=case: correlate(x, k, *c), x, kernels[case[3]]) for case in table]

    theirs = getattr(torch.nn.functional, f"conv{axes}d")
    for case, actual in zip(table, compute(x, kernels), strict=True):
        call = lambda x, k, c=case: theirs(x, k, None, *c)  # noqa: E731
        assert_close(actual, torchs(torch, call, x, kernels[case[3]], False), case)


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_transposed_convolutions(torch, axes):
    x = normal((2, *(n - 2 for n in SIZE[:axes]), CHANNELS))
    kernels = {groups: normal(kernel_shape(axes, groups, True), 1) for groups in (1, 2)}
    # Every output padding that torch allows.
    table = [(s, p, more, d, g) for s, p, d, g in TABLE for more in range(max(s, d))][:: EVERY[axes]]

    @jit
    def compute(x, kernels):
        return [with_gradients(lambda x, k, c=case: conv_transpose(x, k, *c), x, kernels[case[4]]) for case in table]

    theirs = getattr(torch.nn.functional, f"conv_transpose{axes}d")
    for case, actual in zip(table, compute(x, kernels), strict=True):
        stride, padding, more, dilation, groups = case
        call = lambda x, k, c=(stride, padding, more, groups, dilation): theirs(x, k, None, *c)  # noqa: E731
        assert_close(actual, torchs(torch, call, x, kernels[groups], True), case)


# window, stride, padding
POOLING = [(2, 2, 0), (3, 2, 1), (2, 1, 0), (3, 3, 1)]


def test_pooling_and_unpooling(torch):
    """Values, indices and gradients; also of ties, of which both take the first, and of minus infinity and NaN."""
    images = np.random.default_rng(0).integers(0, 4, (2, 7, 6, 3)).astype(np.float32)
    strange = images.copy()
    strange[0, :4, :4], strange[1, 2, 2] = -np.inf, np.nan

    @jit
    def compute(images, strange):
        found = []
        for w, s, p in POOLING:
            values, pull, indices = jax.vjp(
                lambda x, w=w, s=s, p=p: max_pool_with_indices(x, (w, w), (s, s), p), images, has_aux=True
            )
            found.append(
                (
                    values,
                    indices,
                    *pull(values),
                    max_unpool(values, indices, (7, 6)),
                    max_pool_with_indices(strange, (w, w), (s, s), p),
                )
            )
        return found

    functional = torch.nn.functional
    for case, found in zip(POOLING, compute(images, strange), strict=True):
        x = torch.tensor(np.moveaxis(images, -1, 1).copy(), requires_grad=True)
        values, indices = functional.max_pool2d(x, *case, return_indices=True)
        (values * values).sum().mul(0.5).backward()
        back = torch.zeros(2, 3, 42).scatter(2, indices.flatten(2), values.detach().flatten(2)).reshape(2, 3, 7, 6)
        if case[1] >= case[0]:  # torch says no more of windows that overlap
            np.testing.assert_array_equal(functional.max_unpool2d(values, indices, *case, (7, 6)).detach(), back)
        odd = functional.max_pool2d(torch.tensor(np.moveaxis(strange, -1, 1).copy()), *case, return_indices=True)
        theirs = [values.detach(), indices, x.grad, back, *odd]
        for ours, expected in zip(jax.tree.leaves(found), theirs, strict=True):
            np.testing.assert_array_equal(jnp.moveaxis(ours, -1, 1), expected.numpy(), err_msg=str(case))
