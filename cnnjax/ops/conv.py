"""Cross-correlation whose three passes stay on XLA's fast path, alone, in loops and under vmap.

What a deep-learning layer calls a convolution is a cross-correlation: the kernel is not flipped.

XLA on the CPU sends only *canonical* convolutions (NHWC input, HWIO kernel, NHWC output, positive
padding) to its fast implementation. Outside loops a compiler pass rewrites the others; inside
``scan``, ``while`` and ``map`` it does not, and the two gradients that automatic differentiation
derives are 2 to 5 times slower there. So here both gradients are written out as canonical
convolutions, with explicit transposes and padding.

``vmap`` over both images and kernels (several runs trained side by side) would become a grouped
convolution, which is slower than running the members one after another. The batching rules
below make it a batched matrix product over patches (im2col) instead.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from cnnjax.ops.depthwise import depthwise
from cnnjax.ops.fourier import by_fft
from cnnjax.ops.kernels import dense
from cnnjax.ops.windows import Padding, Pair, Sizes, geometry, output_size, spread, valid_sizes, views

LAYOUT = ("NHWC", "HWIO", "NHWC")
# On the CPU, up to these sizes, one product with the whole convolution matrix beats a convolution
# (benchmarks/convolution.py): few channels, and few pixels for each tap of the kernel.
MATRIX_CHANNELS = 8
MATRIX_PIXELS = 2.6
# From this many input channels times output pixels on, the gradient with respect to the kernel is two to
# three times faster as a sum of small matrix products than as a convolution.
LARGE_GRADIENT = 4096
# On the CPU, groups of fewer channels are joined until they have as many: with zeros between them they cost more
# multiplications, and still less time, because a product of fewer columns leaves the vector units half empty.
GROUP_CHANNELS = 16
# Of a matrix of more numbers than this (64 MB) the making is the cost.
LARGEST_MATRIX = 2**24
# From this many taps of the kernel on, Fourier transforms take a fifth of the time or less (31x31 on 64x64 pixels),
# unless the kernel's spectrum has more complex numbers than this (256 MB).
LARGE_KERNEL = 31 * 31
LARGEST_SPECTRUM = 2**25
_AS_CONVOLUTIONS: ContextVar[bool] = ContextVar("as_convolutions", default=False)


@contextmanager
def traced_as_convolutions() -> Iterator[None]:
    """Inside, every ``conv`` is one ``conv_general_dilated``: what an analysis of the program can read."""
    token = _AS_CONVOLUTIONS.set(True)
    try:
        yield
    finally:
        _AS_CONVOLUTIONS.reset(token)


def conv(
    images: Float[Array, "n h w c"],
    kernel: Float[Array, "kh kw ci o"],
    strides: Sizes = (1, 1),
    padding: str | int | Padding = "SAME",
    dilation: Sizes = (1, 1),
    groups: int = 1,
) -> Float[Array, "n h2 w2 o"]:
    """2-D cross-correlation, NHWC with an HWIO kernel.

    Args:
      images: (N, H, W, C).
      kernel: (kh, kw, C / groups, O).
      strides: rows, columns.
      padding: "SAME", "VALID", one number for all sides, or ((top, bottom), (left, right)).
      dilation: spacing of the kernel's taps; 1 is an ordinary kernel.
      groups: channels are split into this many independent groups.

    Returns:
      (N, H', W', O) with H' = floor((H + top + bottom - dilation (kh - 1) - 1) / stride) + 1.

    Raises:
      UsageError: a kernel larger than the padded input, channels that do not match the groups, strides or dilation
        below 1, or negative padding.
    """
    strides, pads, dilation = geometry(images.shape, kernel.shape, strides, padding, dilation, groups)
    channels, (fan_in, features) = images.shape[-1], kernel.shape[2:]
    if left_to_xla():
        return lax.conv_general_dilated(
            images, kernel, strides, pads, (1, 1), dilation, LAYOUT, feature_group_count=groups
        )
    if groups > 1 and fan_in == 1:
        repeated = images if features == channels else jnp.repeat(images, features // channels, axis=-1)
        return depthwise(repeated, kernel[:, :, 0], strides, pads, dilation)
    if groups > 1:
        return _grouped(images, kernel, strides, pads, dilation, groups)
    if _is_large(images, kernel, pads):
        return by_fft(images, kernel, strides, pads, dilation)
    if _suits_matrix(images, kernel):
        return conv_as_matrix(images, kernel, strides, pads, dilation)
    return _canonical(images, kernel, strides, pads, dilation)


def _is_large(images, kernel, pads):
    frequencies = math.prod(n + sum(pad) for n, pad in zip(images.shape[1:3], pads, strict=True)) // 2
    spectrum = math.prod(kernel.shape[2:]) * frequencies
    return math.prod(kernel.shape[:2]) >= LARGE_KERNEL and spectrum <= LARGEST_SPECTRUM


def _suits_matrix(images, kernel):
    (height, width, channels), (kh, kw, _, features) = images.shape[1:], kernel.shape
    pixels = height * width
    few = channels <= MATRIX_CHANNELS and pixels <= MATRIX_PIXELS * kh * kw
    return few and pixels**2 * channels * features <= LARGEST_MATRIX  # strides and padding left aside


def left_to_xla() -> bool:
    """Whether a convolution stays one ``conv_general_dilated``: other back ends have their own fast gradients."""
    return jax.default_backend() != "cpu" or _AS_CONVOLUTIONS.get()


def convolution_matrix(
    kernel: Float[Array, "*k ci o"], size: Sizes, strides: Sizes, pads: Padding, dilation: Sizes | None = None
) -> Float[Array, "inputs outputs"]:
    """The matrix M (size·C, size'·O) with vec(signals) M = vec(output) (S0:213; S2:256-265), for 1 to 3 axes.

    Args:
      kernel: (*k, C, O).
      size: of the signals, for each axis.
      strides, pads, dilation: as in ``conv``; pads explicit.
    """
    axes = len(size)
    taps = []  # for each axis: 1 where input and output meet under a tap of the kernel
    for n, (low, high), k, s, d in zip(size, pads, kernel.shape, strides, dilation or (1,) * axes, strict=False):
        out = np.arange(output_size(n + low + high, (k - 1) * d + 1, 0, s))
        meeting = s * out[:, None] - low + d * np.arange(k)
        taps.append(jnp.asarray(meeting == np.arange(n)[:, None, None], kernel.dtype))
    inputs, outputs, places = "axu"[:axes], "byv"[:axes], "ijk"[:axes]
    meetings = ",".join(map("".join, zip(inputs, outputs, places, strict=True)))
    matrix = jnp.einsum(f"{meetings},{places}co->{inputs}c{outputs}o", *taps, kernel)
    return matrix.reshape(math.prod(matrix.shape[: axes + 1]), -1)


@partial(jax.jit, static_argnums=(2, 3, 4))
def conv_as_matrix(signals, kernel, strides, pads, dilation):
    """``conv`` as one product with its matrix, which wins where images are hardly larger than the kernel."""
    size = signals.shape[1:-1]
    padded = tuple(n + low + high for n, (low, high) in zip(size, pads, strict=True))
    out = valid_sizes(padded, kernel.shape[:-2], strides, dilation)
    flat = signals.reshape(len(signals), -1) @ convolution_matrix(kernel, size, strides, pads, dilation)
    return flat.reshape(len(signals), *out, kernel.shape[-1])


def _grouped(images, kernel, strides, pads, dilation, groups):
    """One block of neighbouring groups after the other, each an ordinary convolution.

    XLA's own grouped convolution with its gradients takes 4 times as long for two groups, and 100 to 200 times for
    32 (benchmarks/grouped_convolution.py). The blocks are looped over, not written out, so that 32 groups compile
    as quickly as two.
    """
    kh, kw, fan_in, features = kernel.shape
    joined = min(d for d in range(1, groups + 1) if groups % d == 0 and (d * fan_in >= GROUP_CHANNELS or d == groups))
    blocks = groups // joined
    apart = jnp.moveaxis(kernel.reshape(kh, kw, fan_in, blocks, features // blocks), 3, 0)
    kernels = jax.vmap(partial(dense, groups=joined))(apart)
    inputs = jnp.moveaxis(images.reshape(*images.shape[:3], blocks, -1), 3, 0)
    outputs = lax.map(lambda block: _canonical(*block, strides, pads, dilation), (inputs, kernels))
    return jnp.moveaxis(outputs, 0, 3).reshape(*outputs.shape[1:4], features)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _canonical(images, kernel, strides, pads, dilation):
    return _correlate(strides, dilation)(_pad(images, pads), kernel)


def _forward(images, kernel, strides, pads, dilation):
    padded = _pad(images, pads)
    return _correlate(strides, dilation)(padded, kernel), (padded, kernel)


def _backward(strides, pads, dilation, residuals, grad):
    padded, kernel = residuals  # padded again, they would be read and written once more
    size = [n - sum(pad) for n, pad in zip(padded.shape[1:3], pads, strict=True)]
    return (
        _images_gradient(grad, kernel, size, strides, pads, dilation),
        _kernel_gradient(kernel.shape[:2], strides, dilation)(padded, grad),
    )


_canonical.defvjp(_forward, _backward)


def _images_gradient(grad, kernel, size, strides, pads, dilation):
    """Spread the gradient by the stride, pad it, correlate with the flipped, transposed kernel."""
    margins = []
    for axis in (0, 1):
        extent = (kernel.shape[axis] - 1) * dilation[axis] + 1
        low = extent - 1 - pads[axis][0]
        reach = (grad.shape[axis + 1] - 1) * strides[axis] + 1
        margins.append((low, size[axis] + extent - 1 - reach - low, strides[axis] - 1))
    sparse = spread(grad, margins)
    return _correlate((1, 1), dilation)(sparse, jnp.flip(kernel, (0, 1)).transpose(0, 1, 3, 2))


@cache
def _correlate(strides: Pair, dilation: Pair):
    """VALID cross-correlation of padded images (N, H, W, C) with a kernel (kh, kw, C, O)."""

    @jax.custom_batching.custom_vmap
    def correlate(images, kernel):
        # XLA would fold the padding back into the convolution, and takes a naive path where the
        # kernel exceeds the unpadded image: VGG's last stage on 32x32 images is 80 times slower.
        images = lax.optimization_barrier(images)
        return lax.conv_general_dilated(images, kernel, strides, "VALID", (1, 1), dilation, LAYOUT)

    @correlate.def_vmap
    def batched(lanes, in_batched, images, kernel):
        if in_batched == [True, False]:
            out = correlate(images.reshape(-1, *images.shape[2:]), kernel)
            return out.reshape(lanes, -1, *out.shape[1:]), True
        if in_batched == [False, True]:  # one set of images for every member: more output channels
            kh, kw, c, o = kernel.shape[1:]
            out = correlate(images, kernel.transpose(1, 2, 3, 0, 4).reshape(kh, kw, c, lanes * o))
            return jnp.moveaxis(out.reshape(*out.shape[:3], lanes, o), 3, 0), True
        columns = jax.vmap(partial(patches, size=kernel.shape[1:3], strides=strides, dilation=dilation))(images)
        rows = columns.reshape(lanes, -1, columns.shape[-1])
        out = rows @ kernel.reshape(lanes, -1, kernel.shape[-1])
        return out.reshape(*columns.shape[:-1], kernel.shape[-1]), True

    return correlate


@cache
def _kernel_gradient(size: Pair, strides: Pair, dilation: Pair):
    """Gradient (kh, kw, C, O) from padded images (N, H, W, C) and the output's gradient (N, H', W', O)."""

    @jax.custom_batching.custom_vmap
    def kernel_gradient(images, grad):
        if math.prod(grad.shape[1:3]) * images.shape[-1] >= LARGE_GRADIENT:
            return kernel_gradient_in_parts(images, grad)
        # Channels play the batch, the batch plays the channels, the spread gradient is the kernel.
        # Rows and columns that a stride never reached are cut off.
        margins = [
            (
                0,
                (grad.shape[a + 1] - 1) * strides[a] + (size[a] - 1) * dilation[a] + 1 - images.shape[a + 1],
                0,
            )
            for a in (0, 1)
        ]
        used = spread(images, margins)
        sparse = spread(grad, [(0, 0, s - 1) for s in strides])
        out = lax.conv_general_dilated(
            used.transpose(3, 1, 2, 0),
            sparse.transpose(1, 2, 0, 3),
            dilation,
            "VALID",
            dimension_numbers=LAYOUT,
        )
        return out.transpose(1, 2, 0, 3)

    def kernel_gradient_in_parts(images, grad):
        """Patches of two images at a time, which stay in the cache, times their gradients; summed."""
        part = 2 if len(images) % 2 == 0 else 1

        def add(total, pair):
            columns = patches(pair[0], size, strides, dilation)
            columns = columns.reshape(-1, columns.shape[-1])
            rows = pair[1].reshape(-1, grad.shape[-1])
            return total + jnp.matmul(columns.T, rows, preferred_element_type=jnp.float32), None

        parts = [array.reshape(-1, part, *array.shape[1:]) for array in (images, grad)]
        # In float32 also where the arithmetic is bfloat16, whose sums of many parts stand still.
        zeros = jnp.zeros((math.prod(size) * images.shape[-1], grad.shape[-1]), jnp.float32)
        total = lax.scan(add, zeros, parts)[0].astype(grad.dtype)
        return total.reshape(*size, images.shape[-1], grad.shape[-1])

    @kernel_gradient.def_vmap
    def batched(lanes, in_batched, images, grad):
        take = partial(patches, size=size, strides=strides, dilation=dilation)
        columns = jax.vmap(take)(images) if in_batched[0] else take(images)[None]
        columns = columns.reshape(columns.shape[0], -1, columns.shape[-1])
        grads = (grad if in_batched[1] else grad[None]).reshape(lanes if in_batched[1] else 1, -1, grad.shape[-1])
        out = jnp.matmul(columns.transpose(0, 2, 1), grads)
        return out.reshape(lanes, *size, -1, grad.shape[-1]), True

    return kernel_gradient


def patches(
    images: Float[Array, "n *size c"], size: Sizes, strides: Sizes | None = None, dilation: Sizes | None = None
) -> Float[Array, "n *size2 k"]:
    """im2col: the values of all channels under the kernel at every VALID position, taps first, channels last.

    Of two axes the kw columns under the kernel are gathered first, and then its kh rows: kh + kw copies take less
    time than kh·kw, and half as long to compile. A barrier keeps XLA from computing the images anew for each copy.
    """
    ones = (1,) * len(size)
    for axis in reversed(range(len(size))):
        here = [(*ones[:axis], values[axis], *ones[axis + 1 :]) for values in (size, strides or ones, dilation or ones)]
        images = jnp.concatenate(views(lax.optimization_barrier(images), *here), axis=-1)
    return images


def _pad(images, pads):
    return jnp.pad(images, ((0, 0), *pads, (0, 0)))
