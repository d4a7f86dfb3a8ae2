"""Checkerboards: transposed convolutions write outputs unevenly often; resizing and convolving does not.

"Transposed convolution can lead to checkerboard artifacts"; upsampling to the nearest neighbour or by interpolation
"produces fewer" (S3:840-879; Odena et al. 2016, https://distill.pub/2016/deconv-checkerboard). With a kernel of 3 and
stride 2 every second output gets two summands and the others one; with kernel 4 each gets two. Rows 309 and 344 of
lectures.csv.

    python -m experiments.checkerboard                                       quick, embedded digits
    python -m experiments.checkerboard --data=folder:DIR                     quick, for example CIFAR-10
    python -m experiments.checkerboard --preset=paper --data=tfds:cifar10    wider nets, longer runs

Two parts:

1. Computed, nothing trained: how often outputs are written; what random upsampling layers make of a picture of one
   colour: the share of the result's energy that alternates with period 2; and how unevenly they spread the energy of
   noise over the four places of every 2x2 block of outputs.
2. Autoencoders that are to give back each picture from a map of a quarter of its sides (task=reconstruct), with four
   ways of doubling a map: transposed convolutions of kernel 3 or 4, and resizing to the nearest neighbour or bilinearly
   followed by a 3x3 convolution. The last doubling makes the picture. Measured on the test pictures: the share of the
   squared error that alternates with period 2 (``tasks.reconstruction.checkerboard``), and the error itself.

Quick enlarges the digits to 16x16 and trains nets of 16 channels for 300 steps with 12 seeds (a pilot with 4 wanted 7):
about two minutes on two CPU cores. On other data quick is the same nets on 4,096 pictures at 16x16 for 600 steps. Paper
trains nets of 64 channels on whole pictures for 20,000 steps and needs an accelerator.
"""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from cnnjax import claims, cli
from cnnjax.analysis.coverage import overlap_counts
from cnnjax.data import DataConfig
from cnnjax.models.encoder_decoder import UPSAMPLING, EncoderDecoder
from cnnjax.ops.conv import conv
from cnnjax.ops.transposed import conv_transpose
from cnnjax.report import style
from cnnjax.report.figures import Drawing
from cnnjax.report.table import Row
from cnnjax.sweep import Grid, explicit
from cnnjax.tasks.reconstruction import checkerboard
from cnnjax.train import Hyper, Spec

if TYPE_CHECKING:
    import matplotlib.figure

TITLE = "Checkerboards: ways of upsampling, and the traces that they leave"
SEEDS = {"smoke": 2, "quick": 12, "paper": 5}

# Name -> the way of doubling a map, and the side of its kernel.
WAYS = {
    "transposed, kernel 3": ("transposed", 3),
    "transposed, kernel 4": ("transposed", 4),
    "nearest, then 3x3": ("nearest", 3),
    "bilinear, then 3x3": ("bilinear", 3),
}
UNEVEN, EVEN, NEAREST, BILINEAR = WAYS
COUNTS = {(3, 2): (1, 2), (4, 2): (2, 2), (2, 2): (1, 1), (5, 2): (2, 3)}  # kernel, stride -> fewest and most, inside
FLOOR = 1e-12  # share below which nothing is seen in single precision

CLAIMS = (
    claims.Claim(
        "uneven-overlap",
        "Along an axis, outputs of a transposed convolution with kernel 3 and stride 2 are written once and twice in "
        "turn; with kernel 4, each twice.",
        "S3:866-879; S0:678",
        claims.EXACT,
        margin=1e-9,
        unit="times written",
    ),
    claims.Claim(
        "resizing-is-flat",
        "Whatever the weights, resizing to the nearest neighbour or bilinearly and then convolving makes one colour "
        "of one colour; no part alternates.",
        "S3:840-846",
        claims.EXACT,
        margin=1e-9,
        unit="share of the energy that alternates",
    ),
    claims.Claim(
        "uneven-energy",
        "With random weights and inputs, the mean squares of the four places of every 2x2 block of outputs differ more "
        "after a transposed convolution of kernel 3, up to four times, than of kernel 4.",
        "S3:866-879",
        "greater",
        unit="log2 of the largest over the smallest mean square",
    ),
    claims.Claim(
        "fewer-after-nearest",
        "After training, less of the error alternates with nearest-neighbour upsampling than with transposed "
        "convolutions of kernel 3.",
        "S3:840-846; S3:872-879",
        "less",
        unit="log2 of the share of the squared error that alternates",
    ),
    claims.Claim(
        "fewer-after-bilinear",
        "After training, less of the error alternates with bilinear upsampling than with transposed convolutions of "
        "kernel 3.",
        "S3:843-846; S3:872-879",
        "less",
        unit="log2 of the share of the squared error that alternates",
    ),
    claims.Claim(
        "fewer-with-even-overlap",
        "After training, less of the error alternates with transposed convolutions of kernel 4 than of kernel 3.",
        "S3:866-879",
        "less",
        unit="log2 of the share of the squared error that alternates",
    ),
    claims.Claim(
        "resizing-as-accurate",
        "With nearest-neighbour upsampling the squared error is not higher by more than a tenth than with transposed "
        "convolutions of kernel 3, which have as many weights.",
        "S3:840-846",
        "not_greater",
        margin=math.log2(1.1),
        unit="log2 of the squared error",
    ),
)
METRICS = ("train_loss", "test_loss", "test_checkerboard", "parameters")


def spec(preset: str, data: DataConfig) -> Spec:
    """What all runs share; digits are enlarged, and other data made small for ``quick``."""
    shared: dict[str, Any] = {"task": "reconstruct", "probes": ("checkerboard",)}
    if preset == "paper":
        return Spec(
            model=EncoderDecoder(width=64), data=data.at_size(32), steps=20_000, evaluate_every=1_000, optimizer="adam",
            **shared,
        )  # fmt: skip
    if preset == "smoke":
        return Spec(model=EncoderDecoder(width=2, stages=1), data=data, steps=2, batch_size=8, **shared)
    steps = 300 if data.name == "digits" else 600
    return Spec(
        model=EncoderDecoder(), data=data.at_size(16), steps=steps, batch_size=64, optimizer="adam", **shared
    )  # fmt: skip


def hyper(preset: str, data: DataConfig) -> Hyper:
    """The numbers that all runs share."""
    real = preset == "quick" and data.external
    return Hyper(learning_rate=0.003, warmup=0.05, train_size=4_096 if real else 0)


def grid(preset: str, data: DataConfig) -> Grid:
    """The four ways."""
    return explicit(*({"model.upsampling": way, "model.upsampling_kernel": kernel} for way, kernel in WAYS.values()))


def measure(preset: str, data: DataConfig) -> list[Row]:
    """Times written, and the response of random layers to one colour."""
    counted = [
        claims.measured(
            {"kernel": kernel, "stride": stride}, 0, {"fewest": int(inside.min()), "most": int(inside.max())}
        )
        for kernel, stride in COUNTS
        for inside in [overlap_counts(12, kernel, stride)[kernel:-kernel]]
    ]
    draws = 3 if preset == "smoke" else 30
    random = [
        claims.measured({"way": name}, seed, {"alternating": share, "unevenness": unevenness})
        for name in WAYS
        for seed, (share, unevenness) in enumerate(random_layers(name, draws))
    ]
    return [*counted, *random]


def random_layers(name: str, draws: int, channels: int = 8, side: int = 12) -> list[tuple[float, float]]:
    """Of random layers, away from the border: what alternates of one colour, and the unevenness of noise's energy.

    Returns:
      For each draw the share of the energy that alternates in what the layer makes of one colour, and log2 of the
      largest over the smallest mean square of the four places of a 2x2 block in what it makes of noise.
    """
    way, kernel_side = WAYS[name]
    resize = UPSAMPLING[way]

    def inside(images, kernel):
        if resize is None:
            out = conv_transpose(images, kernel, 2)
        else:
            out = conv(resize(images, (2 * side, 2 * side)), kernel)
        return out[:, 4:, 4:][:, : 2 * side - 8, : 2 * side - 8]

    def draw(seed):
        keys = jax.random.split(jax.random.key(seed), 3)
        kernel = jax.random.normal(keys[0], (kernel_side, kernel_side, channels, channels))
        colour = jnp.broadcast_to(jax.random.normal(keys[1], (channels,)), (1, side, side, channels))
        noise = jax.random.normal(keys[2], (4, side, side, channels))
        out = inside(jnp.concatenate([colour, noise]), kernel)
        flat = out[:1].mean((1, 2), keepdims=True)
        # Of all energy, not only of what varies: of a flat result nothing varies but rounding.
        varying = jnp.square(out[:1] - flat).sum() / jnp.square(out[:1]).sum()
        blocks = jnp.square(out[1:]).reshape(4, side - 4, 2, side - 4, 2, channels).mean((0, 1, 3, 5))
        return checkerboard(out[:1] - flat)[0] * varying, jnp.log2(blocks.max() / blocks.min())

    shares, unevenness = jax.jit(partial(jax.lax.map, draw))(jnp.arange(draws))
    return list(zip(shares.tolist(), unevenness.tolist(), strict=True))


def verdict(rows: list[dict], measured: list[dict]) -> list[claims.Verdict]:
    """Counts; random layers draw by draw; autoencoders seed by seed."""
    counted = [(row["assignment"], row["metrics"]) for row in measured if "kernel" in row["assignment"]]

    def random(metric: str, name: str) -> dict[int, float]:
        return {row["seed"]: row["metrics"][metric] for row in measured if row["assignment"].get("way") == name}

    def log(metric: str, name: str) -> dict[int, float]:
        return claims.mapped(lambda value: math.log2(max(value, FLOOR)), claims.by_seed(rows, metric, where(name)))

    def share(name: str) -> list[float]:
        return claims.contrast([log("test_checkerboard", name)], [log("test_checkerboard", UNEVEN)])

    return claims.judge(
        CLAIMS,
        {
            "uneven-overlap": [
                found[name] - expected
                for at, found in counted
                for name, expected in zip(("fewest", "most"), COUNTS[at["kernel"], at["stride"]], strict=True)
            ],
            "resizing-is-flat": [
                value for name in (NEAREST, BILINEAR) for value in random("alternating", name).values()
            ],
            "uneven-energy": claims.contrast([random("unevenness", UNEVEN)], [random("unevenness", EVEN)]),
            "fewer-after-nearest": share(NEAREST),
            "fewer-after-bilinear": share(BILINEAR),
            "fewer-with-even-overlap": share(EVEN),
            "resizing-as-accurate": claims.contrast([log("test_loss", NEAREST)], [log("test_loss", UNEVEN)]),
        },
    )


def where(name: str) -> Mapping[str, Any]:
    """The condition of one way."""
    way, kernel = WAYS[name]
    return {"model.upsampling": way, "model.upsampling_kernel": kernel}


def draw_random(figure: "matplotlib.figure.Figure", rows: Sequence[Row], measured: Sequence[Row]) -> None:
    """What one random layer of each way makes of one colour."""
    style.resize(figure, 2.9)
    side, channels = 6, 8
    axes = figure.subplots(1, len(WAYS))
    for ax, (name, (way, kernel_side)) in zip(axes, WAYS.items(), strict=True):
        kernel = jax.random.normal(jax.random.key(1), (kernel_side, kernel_side, channels, 1))
        colour, resize = jnp.ones((1, side, side, channels)), UPSAMPLING[way]
        if resize is None:
            out = conv_transpose(colour, kernel, 2, (kernel_side - 2) // 2)
        else:
            out = conv(resize(colour, (2 * side, 2 * side)), kernel, padding=((0, 0), (0, 0)))
        picture = np.asarray(out)[0, 1 : 2 * side - 3, 1 : 2 * side - 3, 0]
        deviation = picture - picture.mean()
        reach = max(float(np.abs(deviation).max()), 1e-3)
        ax.imshow(deviation, cmap="RdBu_r", vmin=-reach, vmax=reach)
        ax.set_title(name)
        ax.set_xticks([])
        ax.set_yticks([])
        ax.grid(visible=False)


def draw_nets(figure: "matplotlib.figure.Figure", rows: Sequence[Row], measured: Sequence[Row]) -> None:
    """The alternating share of the error, and the error, of the autoencoders."""
    style.resize(figure, 3.4)
    done = [row for row in rows if row["status"] == "done"]
    left, right = figure.subplots(1, 2, sharey=True)
    for ax, metric, label in (
        (left, "test_checkerboard", "share of the squared error that alternates"),
        (right, "test_loss", "squared error (variance of pixels = 1)"),
    ):
        for place, name in enumerate(WAYS):
            condition = where(name)
            members = [row for row in done if all(row["assignment"][key] == value for key, value in condition.items())]
            style.dots(ax, place, [row["metrics"][metric] for row in members], style.COLOURS[place], (0, math.inf))
        style.name_rows(ax, list(WAYS), label)
        ax.set_xlim(left=0)
        ax.locator_params(axis="x", nbins=4)  # else the last number of a panel meets the first of the next


FIGURES = (
    Drawing(
        "random",
        "What one random layer makes of one colour",
        draw_random,
        "Deviations from the mean, red above and blue below; each picture has its own scale. Resizing leaves none.",
        note="Computed, not trained.",
    ),
    Drawing(
        "nets",
        "Autoencoders with four ways of upsampling",
        draw_nets,
        "Left: how much of the test pictures' squared error alternates from pixel to pixel. Right: the squared error. "
        "Large dots are means over seeds with 95 % intervals, small grey ones single seeds.",
    ),
)


if __name__ == "__main__":
    raise SystemExit(cli.main(__name__))
