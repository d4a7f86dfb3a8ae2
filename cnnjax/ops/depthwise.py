"""Depthwise cross-correlation: every channel has a kernel of its own, and nothing is summed over channels.

With one multiplication for each number that is read there is no matrix product to be made of it. So the output is
the sum, over the places in the kernel, of the image shifted by that place times a weight per channel: XLA makes one
loop of that sum, which is 4 to 28 times as fast on the CPU as its own grouped convolution, and 10 to 60 times with
both gradients (benchmarks/grouped_convolution.py). All sums are of float32 at least.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from cnnjax.ops.windows import Padding, Pair, spread, views

# Numbers in one part of the kernel's gradient: 256 KB, which stay in the cache. Four times as many take as long.
PART = 2**16


@partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def depthwise(
    images: Float[Array, "n h w c"], kernel: Float[Array, "kh kw c"], strides: Pair, pads: Padding, dilation: Pair
) -> Float[Array, "n h2 w2 c"]:
    """Each channel of the images correlated with the kernel's same channel.

    Args:
      images: (N, H, W, C).
      kernel: (kh, kw, C).
      strides, dilation: rows, columns.
      pads: explicit.
    """
    wide = jnp.promote_types(images.dtype, jnp.float32)
    read = views(_padded(images, pads), kernel.shape[:2], strides, dilation)
    weights = kernel.astype(wide).reshape(-1, kernel.shape[-1])
    out = sum(view.astype(wide) * weight for view, weight in zip(read, weights, strict=True))
    # The next barrier keeps XLA from putting the whole sum into every loop that reads it.
    return lax.optimization_barrier(jnp.asarray(out, images.dtype))


def _forward(images, kernel, strides, pads, dilation):
    return depthwise(images, kernel, strides, pads, dilation), (images, kernel)


def _backward(strides, pads, dilation, residuals, grad):
    images, kernel = residuals
    return (
        _images_gradient(grad, kernel, images.shape[1:3], strides, pads, dilation),
        _kernel_gradient(_padded(images, pads), grad, kernel.shape[:2], strides, dilation).astype(kernel.dtype),
    )


depthwise.defvjp(_forward, _backward)


def _padded(images, pads):
    # The barrier keeps XLA from padding, and from computing what was before, anew for every place in the kernel.
    return lax.optimization_barrier(spread(images, [(*pad, 0) for pad in pads]))


def _images_gradient(grad, kernel, size, strides, pads, dilation):
    """(N, H, W, C): what each pixel gave to the outputs that read it.

    Padded row y was read through row i of the kernel by output row (y - i dilation) / stride, if that is whole. So
    the rows are computed apart by their remainders modulo the stride, without the zeros between the outputs that a
    transposed convolution multiplies: with stride 2 it takes a third of the time. Columns likewise.
    """
    wide = jnp.promote_types(grad.dtype, jnp.float32)
    weights = kernel.astype(wide)
    # How far the kernel reaches in units of the stride, and the rows (and columns) that have the same remainder.
    reach = [(k - 1) * d // s for k, d, s in zip(kernel.shape, dilation, strides, strict=False)]
    count = [-(-(n + sum(pad)) // s) for n, pad, s in zip(size, pads, strides, strict=True)]
    margins = [(reach[axis], count[axis] - grad.shape[axis + 1], 0) for axis in (0, 1)]
    outputs = lax.optimization_barrier(spread(grad, margins))

    def pixels(row, column):
        """Those at ``row`` and ``column`` modulo the strides."""
        total = jnp.zeros((grad.shape[0], *count, grad.shape[-1]), wide)
        for i, top in _meeting(row, kernel.shape[0], dilation[0], strides[0], reach[0]):
            for j, left in _meeting(column, kernel.shape[1], dilation[1], strides[1], reach[1]):
                view = outputs[:, top : top + count[0], left : left + count[1]]
                total += view.astype(wide) * weights[i, j]
        return total.astype(grad.dtype)

    lines = [jnp.stack([pixels(row, column) for column in range(strides[1])], 3) for row in range(strides[0])]
    rows, columns = (n * s for n, s in zip(count, strides, strict=True))
    padded = jnp.stack(lines, 2).reshape(grad.shape[0], rows, columns, -1)
    inside = [(-low, low + n - total, 0) for (low, _), n, total in zip(pads, size, (rows, columns), strict=True)]
    return lax.optimization_barrier(spread(padded, inside))


def _meeting(remainder, size, dilation, stride, reach):
    """(place in the kernel, where the outputs that it serves begin), of the places with this remainder."""
    reads = [(place, place * dilation) for place in range(size)]
    return [(place, reach - offset // stride) for place, offset in reads if offset % stride == remainder]


def _kernel_gradient(images, grad, size, strides, dilation):
    """(kh, kw, C) from padded images and the output's gradient: sums over all images and positions.

    XLA sums quickly over the leading axes of an array, but slowly over those of an expression. So the products are
    written to memory, for a few rows (or images) at a time, and one place in the kernel at a time: joined into one
    array, they would be written slowly. The rows of the kernel are looped over because 5x5 places written out take
    three times as long to compile.
    """
    wide = jnp.promote_types(grad.dtype, jnp.float32)
    count, height, width, channels = grad.shape
    rows = _divisor(height, PART // (width * channels))
    together = _divisor(count, PART // (height * width * channels))  # 1 where an image has several parts
    reach = (rows - 1) * strides[0] + 1
    columns = (width - 1) * strides[1] + (size[1] - 1) * dilation[1] + 1

    def add(total, part):
        image, row = part // (height // rows) * together, part % (height // rows) * rows
        out = lax.dynamic_slice(grad, (image, row, 0, 0), (together, rows, width, channels)).astype(wide)

        def kernel_row(i):
            start = (image, row * strides[0] + i * dilation[0], 0, 0)
            read = lax.dynamic_slice(images, start, (together, reach, columns, channels)).astype(wide)
            products = [view * out for view in views(read, (1, size[1]), strides, dilation)]
            return jnp.stack([lax.optimization_barrier(product).sum((0, 1, 2)) for product in products])

        return total + lax.map(kernel_row, jnp.arange(size[0])), None

    parts = jnp.arange(count // together * (height // rows))
    return lax.scan(add, jnp.zeros((*size, channels), wide), parts)[0]


def _divisor(number, limit):
    """The largest divisor up to the limit, or 1."""
    return max((d for d in range(1, number + 1) if number % d == 0 and d <= limit), default=1)
