"""Pooling: how a net halves its maps, and how far its answers survive when the picture is moved.

A pooling layer halves the sides of a map of features: it puts one number in the place of each window of
2x2. The lectures say that this makes a net stable against *small* shifts of the picture, "however, if the
image is translated a lot..." it does not (S3:211-236; S1:1055, 1088-1089, 1234-1235), and that a
convolution of stride 2, which computes only every other output, is an alternative to pooling (S3:257).
Rows 299, 315 and 334 of lectures.csv.

    python -m experiments.pooling                                       quick, embedded digits
    python -m experiments.pooling --data=folder:DIR                     quick, for example CIFAR-10
    python -m experiments.pooling --preset=paper --data=tfds:cifar10    a whole data set at its full size

Four nets differ in nothing else: *max* takes the largest number of each window, *average* their mean,
*blur* takes the maximum around every pixel and blurs before it keeps every other one (Zhang 2019), *stride*
gives the convolution stride 2 and pools nothing. After training, the test pictures are moved by 1 to 4 pixels
to the left and to the right, with the border repeated, and the share of pictures whose predicted class changes
is counted.

Quick enlarges the digits from 8x8 to 16x16 pixels, because at 8x8 one pixel is an eighth of the picture and no
longer a small shift. A net of two convolutions is trained for 200 steps with 20 seeds: about a minute on two
CPU cores. (A pilot with 3 seeds: 4 and 5 seeds decide the comparisons of stability with power 0.8, 20 that of the
test errors.) Expect a move by one pixel to change 0.05 of the predictions with blur, 0.07 with max, 0.09 with
average and 0.13 with stride, and one by four pixels 0.71 to 0.87. The test error is 0.025 with max and 0.034 with
stride: within the margin of 0.02, but not by chance.
On other data quick is a wider net on 4,096 pictures at 16x16. Paper trains VGG-style nets of six convolutions
with batch normalisation, crops and flips for 20,000 steps and needs an accelerator.

Without training, the largest number of a window is checked not to depend on where in the window an edge lies:
a shift is forgiven exactly as long as the edge does not leave its window. And the style matrix of a map, products of
channels summed over all positions (S4:1190-1223), is checked to be pooling that forgets places altogether: it stays the
same when the positions are shuffled, and the map does not.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np

from cnnjax import claims, cli
from cnnjax.data import DataConfig
from cnnjax.losses import gram_matrix, squared_error
from cnnjax.ops.conv import conv
from cnnjax.ops.pool import max_pool
from cnnjax.report import style
from cnnjax.report.figures import Drawing, Finals
from cnnjax.report.table import Row
from cnnjax.sweep import Grid, explicit
from cnnjax.train import Hyper, Spec

if TYPE_CHECKING:
    import matplotlib.figure

TITLE = "Pooling: stability to shifts with max, average and blurred pooling and with strided convolution"
SEEDS = {"smoke": 2, "quick": 20, "paper": 5}
POOLS = ("max", "average", "blur", "stride")
SHIFTS = (1, 2, 3, 4)  # pixels, of the probe "shifts"
WINDOWS = (2, 4, 8)
FLOOR = 1e-3  # in place of a share of 0, which has no logarithm

CLAIMS = (
    claims.Claim(
        "max-forgives-shifts-inside-its-window",
        "The maximum over a window stays the same while an edge moves inside the window, and is gone once the "
        "edge has left it.",
        "S3:211-236; S1:1055",
        claims.EXACT,
        margin=1e-6,
        unit="response, where the edge's own is 1",
    ),
    claims.Claim(
        "style-forgets-places",
        "The style matrix of a map, whose entries correlate channels over all positions, is the same after the "
        "positions are shuffled.",
        "S4:1190; S4:1202-1213",
        claims.EXACT,
        margin=1e-5,
        unit="largest change, of the largest entry",
    ),
    claims.Claim(
        "content-knows-places",
        "Of two maps with the same positions in another order, the content cost is not 0: with 100 positions or more "
        "it is within a tenth of that of maps without a common value.",
        "S4:1190-1193",
        claims.EXACT,
        margin=0.1,
        unit="difference of 1 and the squared distance over twice the variance",
    ),
    claims.Claim(
        "strided-as-accurate",
        "With strided convolutions in place of max pooling the test error is not higher.",
        "S3:257",
        "not_greater",
        margin=0.02,
        unit="test error, fraction",
    ),
    claims.Claim(
        "max-more-stable-than-stride",
        "A shift by 1 pixel changes fewer predictions with max pooling than with strided convolutions.",
        "S3:211-236; S3:257",
        "less",
        unit="changed predictions, fraction",
    ),
    claims.Claim(
        "blur-more-stable-than-max",
        "A shift by 1 pixel changes fewer predictions with blurred pooling than with max pooling.",
        "S3:204-236",
        "less",
        unit="changed predictions, fraction",
    ),
    claims.Claim(
        "large-shifts-change-more",
        "With max pooling, a shift by 4 pixels changes more predictions than a shift by 1.",
        "S3:228-236; S1:1088-1089",
        "greater",
        unit="changed predictions, fraction",
    ),
    claims.Claim(
        "advantage-fades",
        "Of the predictions that change with strided convolutions, max pooling leaves a smaller part to change at a "
        "shift by 1 pixel than at one by 4: the gain is for small shifts.",
        "S3:211-236; S1:1234-1235",
        "less",
        unit="difference of log2 (share of max / share of stride)",
    ),
)
METRICS = ("train_error", "test_error", *(f"test_changed_shift{shift}" for shift in SHIFTS))


def spec(preset: str, data: DataConfig) -> Spec:
    """What all runs share; digits are enlarged and other data made small for ``quick``."""
    fields: tuple[tuple[str, Any], ...]
    if preset == "paper":
        augment = ("crop",) if data.name == "digits" else ("flip", "crop")  # a mirrored digit is another
        return Spec(
            model="vgg_small", model_fields=(("norm", "batch"),), data=data, steps=20_000, evaluate_every=1_000,
            augment=augment, probes=("shifts",),
        )  # fmt: skip
    if preset == "smoke":
        fields, data, steps = (("dense", ()), ("stages", ((4, 1),))), data, 3
    else:
        data = data.at_size(16)
        width = 8 if data.name == "digits" else 16
        fields = (("dense", (64,)), ("stages", ((width, 1), (2 * width, 1))))
        steps = 200 if data.name == "digits" else 600
    return Spec(
        model="vgg_small", model_fields=fields, data=data, steps=steps, batch_size=64, train_examples=1024,
        probes=("shifts",),
    )  # fmt: skip


def hyper(preset: str, data: DataConfig) -> Hyper:
    """The numbers that all runs share."""
    if preset == "paper":
        return Hyper(learning_rate=0.05, warmup=0.02, l2=2.5e-4)
    real = preset == "quick" and data.external
    return Hyper(learning_rate=0.05 if data.name == "digits" else 0.02, warmup=0.1, train_size=4_096 if real else 0)


def grid(preset: str, data: DataConfig) -> Grid:
    """The four ways to halve a map."""
    return explicit(*({"model.pool": pool} for pool in (("max", "blur", "stride") if preset == "smoke" else POOLS)))


def measure(preset: str, data: DataConfig) -> list[Row]:
    """The response of windows to an edge that moves by one pixel at a time, from the window's left end to the next."""
    return [
        claims.measured({"window": window, "shift": shift}, 0, found)
        for window in WINDOWS
        for shift, found in enumerate(window_responses(window))
    ] + [claims.measured({"shuffled_side": side}, 0, shuffled(side)) for side in (10, 16, 24)]


def shuffled(side: int, channels: int = 8) -> dict[str, float]:
    """What shuffling the positions of a random map of ``side`` x ``side`` changes.

    ``style``: the largest change of its style matrix, over the largest entry. ``content``: how far the squared distance
    of both maps is from twice the variance of each, over that; independent maps are that far from each other.
    """
    draw = np.random.default_rng(side)
    pixels = draw.standard_normal((side**2, channels)).astype(np.float32)
    maps = [jnp.asarray(each.reshape(1, side, side, channels)) for each in (pixels, draw.permutation(pixels))]
    before, after = (gram_matrix(each) for each in maps)
    distance = float(squared_error(*maps)[0]) / pixels.size
    return {
        "style": float(jnp.abs(after - before).max() / jnp.abs(before).max()),
        "content": distance / (2 * float(pixels.var())) - 1,
    }


def window_responses(window: int) -> list[dict[str, float]]:
    """What one window reports of an edge 0, 1, ... 2 ``window`` - 1 pixels to the right of the window's left end.

    The edge is a step from 0 to 1; a convolution with (-1, 1) answers 1 at the step and 0 elsewhere.
    ``maximum`` is over the window, ``subsampled`` the answer at the window's left end alone, as a
    convolution with the window's stride has it; ``deviation`` is that of the maximum from 1 inside the window
    and from 0 outside.
    """
    places = np.arange(2 * window)
    pixels = np.arange(4 * window + 1)
    # The window is the second one, so that nothing touches the picture's border.
    pictures = (pixels > window + places[:, None]).astype(np.float32)[:, None, :, None]
    edges = conv(jnp.asarray(pictures), jnp.array([-1.0, 1.0]).reshape(1, 2, 1, 1), padding="VALID")
    maxima = np.asarray(max_pool(edges, (1, window)))[:, 0, 1, 0]
    subsampled = np.asarray(edges)[:, 0, window, 0]
    inside = places < window
    return [
        {"maximum": float(maximum), "subsampled": float(alone), "deviation": float(maximum - expected)}
        for maximum, alone, expected in zip(maxima, subsampled, inside, strict=True)
    ]


def verdict(rows: list[dict], measured: list[dict]) -> list[claims.Verdict]:
    """Compares the four ways seed by seed, on the test split; nothing is chosen."""

    def found(kind: str, metric: str) -> list[float]:
        return [row["metrics"][metric] for row in measured if kind in row["assignment"]]

    def changed(pool: str, shift: int) -> dict[int, float]:
        return claims.by_seed(rows, f"test_changed_shift{shift}", {"model.pool": pool}, diverged=1.0)

    def error(pool: str) -> dict[int, float]:
        return claims.by_seed(rows, "test_error", {"model.pool": pool}, diverged=claims.chance(rows))

    def log_changed(pool: str, shift: int) -> dict[int, float]:
        return claims.mapped(lambda share: math.log2(max(share, FLOOR)), changed(pool, shift))

    return claims.judge(
        CLAIMS,
        {
            "max-forgives-shifts-inside-its-window": found("window", "deviation"),
            "style-forgets-places": found("shuffled_side", "style"),
            "content-knows-places": found("shuffled_side", "content"),
            "strided-as-accurate": claims.contrast([error("stride")], [error("max")]),
            "max-more-stable-than-stride": claims.contrast([changed("max", 1)], [changed("stride", 1)]),
            "blur-more-stable-than-max": claims.contrast([changed("blur", 1)], [changed("max", 1)]),
            "large-shifts-change-more": claims.contrast([changed("max", 4)], [changed("max", 1)]),
            "advantage-fades": claims.contrast(
                [log_changed("max", 1), log_changed("stride", 4)], [log_changed("stride", 1), log_changed("max", 4)]
            ),
        },
    )


def draw_shifts(figure: "matplotlib.figure.Figure", rows: Sequence[Row], measured: Sequence[Row]) -> None:
    """The share of changed predictions, and the test error, against the shift; a line for each way."""
    style.resize(figure, 4.2)
    left, right = figure.subplots(1, 2)
    done = [row for row in rows if row["status"] == "done"]
    looks = style.hues(dict.fromkeys(row["assignment"]["model.pool"] for row in rows))
    for ax, metric, first in ((left, "changed", None), (right, "error", "test_error")):
        for place, (pool, look) in enumerate(looks.items()):
            metrics = [row["metrics"] for row in done if row["assignment"]["model.pool"] == pool]
            names = [*([first] if first else []), *(f"test_{metric}_shift{shift}" for shift in SHIFTS)]
            means, lows, highs = style.intervals([[found[name] for found in metrics] for name in names])
            # Side by side, so that intervals of one shift do not hide each other.
            at = [shift + 0.06 * (place - (len(looks) - 1) / 2) for shift in range(0 if first else 1, max(SHIFTS) + 1)]
            ax.errorbar(at, means, yerr=[means - lows, highs - means], capsize=3, **look)
        ax.set_xlabel("shift (pixels)")
        ax.set_ylim(bottom=0)
    left.set_xticks(SHIFTS)
    left.set_ylabel("share of predictions that change (fraction)")
    right.set_ylabel("test error (fraction)")
    style.legend(figure, looks, "how maps are halved")


def draw_windows(figure: "matplotlib.figure.Figure", rows: Sequence[Row], measured: Sequence[Row]) -> None:
    """The response of one window, and of one strided output, against the place of an edge; a panel for each window."""
    measured = [row for row in measured if "window" in row["assignment"]]
    sizes = sorted({row["assignment"]["window"] for row in measured})
    looks = style.hues(("maximum of the window", "strided convolution"))
    for ax, size in zip(style.panels(figure, len(sizes)), sizes, strict=True):
        members = [row for row in measured if row["assignment"]["window"] == size]
        shifts = [row["assignment"]["shift"] for row in members]
        for metric, look in zip(("maximum", "subsampled"), looks.values(), strict=True):
            ax.plot(shifts, [row["metrics"][metric] for row in members], **look)
        ax.axvspan(-0.5, size - 0.5, color=style.FAINT, **style.BAND)
        ax.set_title(f"window of {size} pixels")
        ax.set_xlabel("place of the edge (pixels)")
    figure.axes[0].set_ylabel("response (edge = 1)")
    style.legend(figure, looks, "")


FIGURES = (
    Drawing(
        "shifts",
        "How much a shift of the picture changes",
        draw_shifts,
        "Left: the share of test pictures that get another class when they are moved. Right: the share that is "
        "classified wrongly, unmoved at 0. Lower is more stable.",
    ),
    Finals(("test_error", "test_changed_shift1"), title="Accuracy, and stability to a shift by one pixel"),
    Drawing(
        "windows",
        "Why: the maximum does not say where in its window the edge is",
        draw_windows,
        "The answer of one window (grey) to an edge at each place. The maximum stays as long as the edge is inside; "
        "a strided convolution sees the edge at one place only.",
        note="Computed, not trained.",
    ),
)


if __name__ == "__main__":
    raise SystemExit(cli.main(__name__))
