"""Ways to compute a convolution: the same numbers, and Fourier transforms win for very large filters.

"Option 1: just make the giant convolution matrix. Option 2: use a more optimized implementation. For very large
filters, these use Fourier Transform" (S3:289-297; S0:213-215). Rows 40 to 42 and 319 of lectures.csv.

    python -m experiments.fft_crossover                                       quick, embedded digits
    python -m experiments.fft_crossover --data=folder:DIR                     quick, for example CIFAR-10
    python -m experiments.fft_crossover --preset=paper --data=tfds:cifar10    larger pictures and nets

Two parts:

1. Nothing trained: one layer computed by sliding the kernel (XLA's convolution), as a product of patches (im2col), as
   one product with the whole matrix (small pictures only), by Fourier transforms, and by ``ops.conv``, which chooses
   among them: how far the results differ, and the time of one forward pass on the machine at hand, with kernels of 3x3
   to 63x63 pixels. The ways take turns; time claims are about the ratio to sliding in the same turn.
2. Nets of two layers with filters of 15x15, trained with the giant matrix and with Fourier transforms: rounding apart
   it is the same training, so that the test errors must agree.

Quick times pictures of 64x64 pixels and 8 channels for 12 turns, and trains nets on digits enlarged to 16x16 for 100
steps with 8 seeds: about two minutes on two CPU cores. On other data quick is the same nets on 2,048 pictures for 200
steps. Paper times 128x128 pixels with 32 channels and trains for 5,000 steps; it is meant for an accelerator, where
the crossover may be elsewhere.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from cnnjax import claims, cli
from cnnjax.analysis.timing import seconds_by_turn
from cnnjax.data import DataConfig
from cnnjax.data.catalog import describe
from cnnjax.nn import initializer
from cnnjax.ops.conv import LAYOUT
from cnnjax.ops.correlate import correlate
from cnnjax.ops.forms import by_fft, by_matrix, by_patches
from cnnjax.report import style
from cnnjax.report.figures import Drawing
from cnnjax.report.table import Row
from cnnjax.sweep import Grid, explicit
from cnnjax.train import Hyper, Spec

if TYPE_CHECKING:
    import matplotlib.figure

TITLE = "Convolutions by sliding, by patches, by matrix and by Fourier transform"
SEEDS = {"smoke": 2, "quick": 8, "paper": 5}


def by_sliding(images: jax.Array, kernel: jax.Array) -> jax.Array:
    """XLA's convolution as it is, with padding that keeps the size."""
    return lax.conv_general_dilated(images, kernel, (1, 1), "SAME", dimension_numbers=LAYOUT)


FORMS: dict[str, Callable[..., jax.Array]] = {
    "sliding": by_sliding,
    "patches": by_patches,
    "matrix": by_matrix,
    "Fourier": by_fft,
    "ops.conv": correlate,
}
TRAINED = ("matrix", "Fourier")
KERNELS = (3, 5, 9, 15, 31, 63)
PATCHES_UP_TO = 15  # rows of patches of larger kernels do not fit into memory well
# Preset -> side of the pictures that are timed, channels, turns, and kernels.
TIMED = {"smoke": (16, 2, 2, (3, 15)), "quick": (64, 8, 12, KERNELS), "paper": (128, 32, 20, KERNELS)}
SMALL = (2, 9, 8, 3)  # pictures, rows, columns and channels on which all ways are compared

CLAIMS = (
    claims.Claim(
        "same-result",
        "All ways give the same numbers, for kernels of 1x1 to 9x9.",
        "S3:295-297; S0:213-215",
        claims.EXACT,
        margin=1e-5,
        unit="largest deviation, of the largest output",
    ),
    claims.Claim(
        "fourier-wins-for-large-filters",
        "With the largest kernel the Fourier transform takes less time than sliding.",
        "S3:297",
        "less",
        unit="log2 of time over the sliding kernel's, one forward pass",
    ),
    claims.Claim(
        "sliding-wins-for-small-filters",
        "With a kernel of 3x3 the Fourier transform takes more time than sliding.",
        "S3:297",
        "greater",
        unit="log2 of time over the sliding kernel's, one forward pass",
    ),
    claims.Claim(
        "fourier-hardly-depends-on-the-kernel",
        "From the smallest to the largest kernel the time by Fourier transform grows by a smaller factor than by "
        "sliding.",
        "S3:297",
        "less",
        unit="difference of log2 (time of the largest / time of the smallest kernel)",
    ),
    claims.Claim(
        "same-training",
        "Nets trained by Fourier transform have the test error of those trained with the giant matrix.",
        "S3:295-297",
        "equivalent",
        margin=0.01,
        unit="test error, fraction",
    ),
)
METRICS = ("train_error", "test_error")


class LargeFilters(nn.Module):
    """Two convolutions with large filters and one after the other ReLU, and a head on the mean over all pixels.

    Attributes:
      form: of ``FORMS``.
      side: of the filters.
      width: channels.
      num_classes: length of the logits.
    """

    form: str = "matrix"
    side: int = 15
    width: int = 8
    num_classes: int = 10

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """(N, H, W, C) to (N, num_classes)."""
        x = images
        for layer in (1, 2):
            shape = (self.side, self.side, x.shape[-1], self.width)
            kernel = self.param(f"kernel{layer}", initializer("he"), shape, jnp.float32)
            bias = self.param(f"bias{layer}", nn.initializers.zeros, (self.width,), jnp.float32)
            x = nn.relu(FORMS[self.form](x, kernel) + bias)
        return nn.Dense(self.num_classes)(x.mean((1, 2)))


def spec(preset: str, data: DataConfig) -> Spec:
    """What all runs share; digits are enlarged, and other data made small for ``quick``."""
    classes = describe(data).num_classes
    if preset == "paper":
        return Spec(model=LargeFilters(width=32, num_classes=classes), data=data.at_size(32), steps=5_000)
    if preset == "smoke":
        return Spec(model=LargeFilters(width=2, num_classes=classes), data=data, steps=2, batch_size=8)
    steps = 100 if data.name == "digits" else 200
    return Spec(model=LargeFilters(num_classes=classes), data=data.at_size(16), steps=steps, batch_size=64)


def hyper(preset: str, data: DataConfig) -> Hyper:
    """The numbers that all runs share."""
    return Hyper(learning_rate=0.02, warmup=0.1, train_size=2_048 if preset == "quick" and data.external else 0)


def grid(preset: str, data: DataConfig) -> Grid:
    """Both ways to train."""
    return explicit(*({"model.form": form} for form in TRAINED))


def measure(preset: str, data: DataConfig) -> list[Row]:
    """Deviations of all ways from each other; then times, the ways taking turns."""
    compared = [
        claims.measured({"compared_kernel": side}, 0, deviations(side))
        for side in ((1, 3) if preset == "smoke" else (1, 2, 3, 5, 9))
    ]
    size, channels, turns, sides = TIMED[preset]
    timed = [
        claims.measured({"kernel": side, "pixels": size, "channels": channels}, turn, found)
        for side in sides
        for turn, found in enumerate(times(side, size, channels, turns))
    ]
    return [*compared, *timed]


def deviations(side: int) -> dict[str, float]:
    """Of each way from sliding: the largest, over the largest output."""
    keys = jax.random.split(jax.random.key(0))
    images = jax.random.normal(keys[0], SMALL)
    kernel = jax.random.normal(keys[1], (side, side, SMALL[-1], 4))
    expected = by_sliding(images, kernel)
    scale = jnp.abs(expected).max()
    return {
        name: float(jnp.abs(form(images, kernel) - expected).max() / scale)
        for name, form in FORMS.items()
        if name != "sliding"
    }


def times(side: int, size: int, channels: int, turns: int) -> list[dict[str, float]]:
    """Seconds of one forward pass of two pictures in each way, taking turns; the first turn is dropped."""
    keys = jax.random.split(jax.random.key(0))
    images = jax.random.normal(keys[0], (2, size, size, channels))
    kernel = jax.random.normal(keys[1], (side, side, channels, channels))
    left_out = {"matrix", *(() if side <= PATCHES_UP_TO else ("patches",))}
    passes = {name: partial(jax.jit(form), images, kernel) for name, form in FORMS.items() if name not in left_out}
    return seconds_by_turn(passes, turns)


def verdict(rows: list[dict], measured: list[dict]) -> list[claims.Verdict]:
    """Deviations; times turn by turn; test errors seed by seed."""
    compared = [row["metrics"] for row in measured if "compared_kernel" in row["assignment"]]
    sides = sorted({row["assignment"]["kernel"] for row in measured if "kernel" in row["assignment"]}) or [0]

    def seconds(side: int, form: str) -> dict[int, float]:
        members = [row for row in measured if row["assignment"].get("kernel") == side]
        return {row["seed"]: math.log2(row["metrics"][f"seconds_{form}"]) for row in members}

    def ratio(side: int) -> list[float]:
        return claims.contrast([seconds(side, "Fourier")], [seconds(side, "sliding")])

    def error(form: str) -> dict[int, float]:
        return claims.by_seed(rows, "test_error", {"model.form": form}, diverged=claims.chance(rows))

    first, last = sides[0], sides[-1]
    return claims.judge(
        CLAIMS,
        {
            "same-result": [value for found in compared for value in found.values()],
            "fourier-wins-for-large-filters": ratio(last),
            "sliding-wins-for-small-filters": ratio(first),
            "fourier-hardly-depends-on-the-kernel": claims.contrast(
                [seconds(last, "Fourier"), seconds(first, "sliding")],
                [seconds(first, "Fourier"), seconds(last, "sliding")],
            ),
            "same-training": claims.contrast([error("Fourier")], [error("matrix")]),
        },
    )


def draw_times(figure: "matplotlib.figure.Figure", rows: Sequence[Row], measured: Sequence[Row]) -> None:
    """Time against the side of the kernel; a line for each way."""
    style.resize(figure, 4.2)
    ax = figure.subplots()
    timed = [row for row in measured if "kernel" in row["assignment"]]
    sides = sorted({row["assignment"]["kernel"] for row in timed})
    looks = style.hues(name for name in FORMS if name != "matrix")
    for name, look in looks.items():
        samples: dict[int, list[float]] = {}
        for row in timed:
            if f"seconds_{name}" in row["metrics"]:
                samples.setdefault(row["assignment"]["kernel"], []).append(1e3 * row["metrics"][f"seconds_{name}"])
        middle = {side: sorted(values)[len(values) // 2] for side, values in samples.items()}
        ax.plot(list(middle), list(middle.values()), **look)
    style.named_log_axis(ax, sides, "side of the kernel (pixels)")
    ax.set_yscale("log")
    low, high = ax.get_ylim()
    ticks = [10.0**power for power in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)]
    ax.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    ax.set_ylim(low, high)
    at = timed[0]["assignment"]
    ax.set_ylabel(
        f"one forward pass of 2 pictures (ms)\n{at['pixels']}x{at['pixels']} pixels, {at['channels']} channels"
    )
    style.legend(figure, looks, "way")


def draw_errors(figure: "matplotlib.figure.Figure", rows: Sequence[Row], measured: Sequence[Row]) -> None:
    """Test error of the nets, and the differences by seed."""
    style.resize(figure, 2.9)
    left, right = figure.subplots(1, 2)
    done = [row for row in rows if row["status"] == "done"]
    errors = {form: claims.by_seed(done, "test_error", {"model.form": form}) for form in TRAINED}
    for place, form in enumerate(TRAINED):
        style.dots(left, place, list(errors[form].values()), style.COLOURS[place])
    style.name_rows(left, list(TRAINED), "test error (fraction)")
    left.set_xlim(left=0)
    found = claims.contrast([errors["Fourier"]], [errors["matrix"]])
    style.differences(right, found, CLAIMS[-1].margin, "Fourier less matrix (fraction)")


FIGURES = (
    Drawing(
        "times",
        "Time of one convolution against the size of its kernel",
        draw_times,
        "Medians over turns in which the ways alternate, on the machine at hand.",
        note="Measured, not trained.",
    ),
    Drawing(
        "errors",
        "Nets with filters of 15x15 pixels, trained in both ways",
        draw_errors,
        "Left: large dots are means over seeds with 95 % intervals. Right: differences by seed, in the band of those "
        "that do not matter.",
    ),
)


if __name__ == "__main__":
    raise SystemExit(cli.main(__name__))
