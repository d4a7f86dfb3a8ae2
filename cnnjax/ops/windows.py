"""Where the windows of convolutions and of pooling lie on their images, and what they read there."""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from cnnjax.typing import UsageError

Pair = tuple[int, int]
Padding = tuple[Pair, Pair]


def explicit_padding(
    padding: str | int | Padding, size: Pair, kernel: Pair, strides: Pair, dilation: Pair = (1, 1)
) -> Padding:
    """``((top, bottom), (left, right))`` for "VALID", "SAME" (as in TensorFlow), a number or pairs.

    Raises:
      UsageError: unknown name, or a dilated kernel larger than the padded input.
    """
    extents = tuple((k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True))
    if isinstance(padding, int):
        pads: Padding = ((padding, padding), (padding, padding))
    elif padding == "VALID":
        pads = ((0, 0), (0, 0))
    elif padding == "SAME":
        totals = [max((-(-n // s) - 1) * s + e - n, 0) for n, e, s in zip(size, extents, strides, strict=True)]
        pads = ((totals[0] // 2, -(-totals[0] // 2)), (totals[1] // 2, -(-totals[1] // 2)))
    elif isinstance(padding, str):
        raise UsageError(f"Unknown padding {padding!r}. Choices: 'SAME', 'VALID', a number, or two pairs.")
    else:
        pads = padding
    for n, (low, high), extent in zip(size, pads, extents, strict=True):
        if n + low + high < extent:
            raise UsageError(
                f"The kernel covers {extent} pixels but the padded input has n + p = {n} + {low + high} = "
                f"{n + low + high}. Use larger images, more padding or a smaller kernel."
            )
    return pads


def output_size(n: int, f: int, p: int, s: int) -> int:
    """floor((n + 2p - f) / s) + 1 (S4:272; the form printed at S4:204 is wrong)."""
    return (n + 2 * p - f) // s + 1


def views(
    images: Float[Array, "n h w c"], size: Pair, strides: Pair = (1, 1), dilation: Pair = (1, 1)
) -> list[Float[Array, "n h2 w2 c"]]:
    """For each place in the window, row by row, what lies there when the window stands at every VALID position."""
    rows, columns = (output_size(images.shape[a + 1], (size[a] - 1) * dilation[a] + 1, 0, strides[a]) for a in (0, 1))
    return [
        images[:, i : i + (rows - 1) * strides[0] + 1 : strides[0], j : j + (columns - 1) * strides[1] + 1 : strides[1]]
        for i in range(0, size[0] * dilation[0], dilation[0])
        for j in range(0, size[1] * dilation[1], dilation[1])
    ]


def spread(images: Float[Array, "n h w c"], margins: list[tuple[int, int, int]]) -> Float[Array, "n h2 w2 c"]:
    """Pads rows and columns (low, high; cuts where negative), with ``interior`` zeros between neighbours."""
    return lax.pad(images, jnp.zeros((), images.dtype), ((0, 0, 0), *margins, (0, 0, 0)))
