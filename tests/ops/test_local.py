import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax.ops.conv import conv
from cnnjax.ops.local import local_conv
from cnnjax.ops.windows import explicit_padding
from cnnjax.typing import UsageError

CASES = [((3, 3), (2, 2), "SAME"), ((2, 3), (1, 2), "VALID"), ((3, 1), (2, 1), 1)]


def random(*shape):
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize(("size", "strides", "padding"), CASES)
def test_equal_kernels_make_a_convolution(size, strides, padding):
    images, kernel = random(2, 5, 6, 3), random(*size, 3, 4)

    @jax.jit
    def both(images, kernel):
        shared = conv(images, kernel, strides, padding)
        tied = jnp.broadcast_to(kernel, (*shared.shape[1:3], *kernel.shape))
        return shared, local_conv(images, tied, strides, padding)

    shared, local = both(images, kernel)
    np.testing.assert_allclose(local, shared, rtol=1e-5, atol=1e-5)


def test_each_position_reads_its_window_with_its_own_kernel():
    images, kernels = random(2, 5, 4, 3), random(3, 2, 3, 3, 3, 4)
    pads = explicit_padding("SAME", (5, 4), (3, 3), (2, 2))
    padded = np.pad(images, ((0, 0), *pads, (0, 0)))
    out = jax.jit(lambda x, k: local_conv(x, k, (2, 2)))(images, kernels)
    for row in range(3):
        for column in range(2):
            window = padded[:, 2 * row : 2 * row + 3, 2 * column : 2 * column + 3]
            expected = np.einsum("nijc,ijco->no", window, kernels[row, column])
            np.testing.assert_allclose(out[:, row, column], expected, rtol=1e-4, atol=1e-5)


def test_kernels_for_other_positions_are_refused():
    with pytest.raises(UsageError, match="have 3x2 positions, but there are kernels for 2x2"):
        local_conv(jnp.zeros((1, 5, 4, 1)), jnp.zeros((2, 2, 3, 3, 1, 1)), (2, 2))
