"""Pictures of the filters of a first layer, which have the colours of the images they read (S3:331-419).

from cnnjax.report import figures, filters

figures.save(filters.picture(kernel, "The first layer of AlexNet"), "filters")  # kernel: (11, 11, 3, 96)
"""

import math
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Float32

from cnnjax.report import style
from cnnjax.typing import UsageError

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

WIDER = 1.5  # columns for each row
GAP = 1  # white pixels between filters

Kernel = Float[np.ndarray, "kh kw c o"]


def mosaic(kernel: Kernel, columns: int | None = None) -> Float32[np.ndarray, "h w 3"]:
    """The filters of a kernel side by side, in order, row by row, as an image in [0, 1].

    Each filter is shown as strongly as it can be: 0 is middle grey, and its largest number of either sign black or
    white (or, in colour, none or all of a channel). So strengths cannot be compared, but shapes can.

    Args:
      kernel: (kh, kw, C, O), for C = 1 (grey) or 3 (red, green, blue).
      columns: filters in a row; by default so many that the picture is about half as wide again as high, and, where
        that can be, no row is left unfinished.

    Raises:
      UsageError: other numbers of channels, no filter, or fewer columns than 1.
    """
    height, width, channels, count = kernel.shape
    if channels not in (1, 3):
        raise UsageError(
            f"Filters that read {channels} channels have no colours to be shown in. Take one channel c: "
            "kernel[:, :, c : c + 1]."
        )
    columns = _columns(count) if columns is None else columns
    if count < 1 or columns < 1:
        raise UsageError(f"{count} filters in {columns} columns: there must be at least one of each.")
    rows = -(-count // columns)
    strongest = np.maximum(np.abs(kernel).max((0, 1, 2)), np.finfo(np.float32).tiny)
    shown = np.broadcast_to(0.5 + kernel / (2 * strongest), (height, width, 3, count))
    image = np.ones((rows * (height + GAP) - GAP, columns * (width + GAP) - GAP, 3), np.float32)
    for place in range(count):
        top, left = (place // columns) * (height + GAP), (place % columns) * (width + GAP)
        image[top : top + height, left : left + width] = shown[..., place]
    return image


def _columns(count: int) -> int:
    """The divisor of ``count`` that comes nearest to the wanted shape, unless the picture became a ribbon."""
    wanted = math.sqrt(WIDER * count)
    divisors = [n for n in range(1, count + 1) if count % n == 0 and count <= n * n <= 2 * WIDER * count]
    return min(divisors, key=lambda n: abs(n - wanted), default=math.ceil(wanted))


def show(ax: "matplotlib.axes.Axes", kernel: Kernel, columns: int | None = None) -> None:
    """``mosaic`` on a panel without axes, pixel by pixel."""
    ax.imshow(mosaic(kernel, columns), interpolation="none")
    ax.axis("off")


def picture(kernel: Kernel, title: str = "", columns: int | None = None) -> "matplotlib.figure.Figure":
    """A figure of the filters alone, for ``figures.save``.

    Args and errors as for ``mosaic``.
    """
    from matplotlib.figure import Figure

    height, width, _ = mosaic(kernel, columns).shape
    with style.settings():
        figure = Figure(layout="constrained")
        style.resize(figure, style.WIDTH * height / width + 0.4 * bool(title))
        if title:
            figure.suptitle(title, x=0.01, ha="left", fontsize=13, fontweight="bold")
        show(figure.subplots(), kernel, columns)
    return figure
