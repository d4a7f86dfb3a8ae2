"""Gradients on the CPU that plain ``lax.conv_general_dilated`` cannot be trusted with: XLA may abort the process.

Its gradient for one channel, a 5x2 kernel and strides of (3, 2) does so in jaxlib 0.10.2. So these run in a process of
their own, which names the case before it computes it.
"""

import subprocess
import sys

import pytest

PROGRAM = """
import jax, jax.numpy as jnp
from cnnjax.ops.correlate import correlate
from cnnjax.ops.transposed import conv_transpose

# size, kernel, strides, padding, dilation, groups, channels
CASES = [
    ((6, 6), (5, 2), (3, 2), ((2, 2), (1, 1)), (1, 1), 1, 1),
    ((6, 6), (5, 2), (3, 2), ((2, 2), (1, 1)), (1, 1), 1, 12),
    ((9, 10), (5, 2), (3, 2), 2, (2, 1), 2, 4),
    ((8, 11), (2, 5), (2, 3), "SAME", (1, 1), 3, 3),
    ((11,), (5,), (3,), 2, (1,), 1, 1),
    ((9, 9, 9), (5, 2, 3), (3, 2, 2), 1, (1, 1, 1), 1, 1),
]
for size, kernel, strides, padding, dilation, groups, channels in CASES:
    signals, taps = jnp.ones((1, *size, channels)), jnp.ones((*kernel, channels // groups, groups))
    print(size, kernel, strides, padding, dilation, groups, channels, flush=True)
    run = lambda x, k: jnp.square(correlate(x, k, strides, padding, dilation, groups)).sum()
    gradients = jax.jit(jax.grad(run, (0, 1)))(signals, taps)
    assert all(bool(jnp.isfinite(each).all()) for each in gradients)
    stamps = jnp.ones((*kernel, channels, 1))
    back = lambda x, k: jnp.square(conv_transpose(x, k, strides, 0, 0, dilation, groups)).sum()
    gradients = jax.jit(jax.grad(back, (0, 1)))(signals, stamps)
    assert all(bool(jnp.isfinite(each).all()) for each in gradients)
print("end")
"""


@pytest.mark.slow
def test_no_kernel_and_stride_ends_the_process():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=300)
    assert done.stdout.endswith("end\n"), f"{done.stdout.splitlines()[-1:]} {done.stderr[-2000:]}"
