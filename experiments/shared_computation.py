"""One pass over a large picture in place of one for each window: the same scores for fewer multiply-adds.

A network for small windows becomes one for pictures of any size when its fully connected layers are read as
convolutions: "each pointwise part of this layer corresponds to a sliding window", "less computational cost"
(S4:734-764), "efficient sliding by converting FCs into convs", "architecture is (somewhat) invariant to the image size"
(S2:656-681; Sermanet et al. 2013, arXiv:1312.6229). Rows 168, 191, 320, 321 and 329 of lectures.csv.

    python -m experiments.shared_computation                                       quick, embedded digits
    python -m experiments.shared_computation --data=folder:DIR                     quick, for example CIFAR-10
    python -m experiments.shared_computation --preset=paper --data=tfds:cifar10    longer runs

Two parts:

1. Nothing trained: the classic network for windows of 14x14 pixels (a 5x5 convolution with 16 filters, 2x2 pooling,
   two layers of 400 units, 4 classes) on pictures of 14 to 28 pixels: its map of scores against its scores of every
   window, multiply-adds counted, and the times of both on the machine at hand. The honest surprise is how little is
   saved: 1.21 times on 16x16 and 1.33 times on 28x28 pixels, because nearly all the work is in the fully connected
   layers, which windows do not share.
2. Small residual nets with global pooling, trained at one size and tested on pictures enlarged by a quarter, a half
   and to twice the side: they run, but are they "somewhat invariant to the image size"? Trained without and with random
   scaling (by up to 15 %).

Quick trains nets of 8 channels on digits enlarged to 16x16 for 200 steps with 8 seeds: about two minutes on two CPU
cores. On other data quick is the same nets of 16 channels on 4,096 pictures for 600 steps. Paper trains on whole
pictures for 20,000 steps with crops and flips and needs an accelerator.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cnnjax import claims, cli
from cnnjax.analysis import multiply_adds
from cnnjax.analysis.timing import seconds_by_turn
from cnnjax.data import DataConfig
from cnnjax.nn import Conv
from cnnjax.ops.conv import patches
from cnnjax.ops.pool import max_pool
from cnnjax.report import style
from cnnjax.report.figures import Drawing
from cnnjax.report.table import Row
from cnnjax.sweep import Grid, product
from cnnjax.tasks.probes import SIZES
from cnnjax.train import Hyper, Spec

if TYPE_CHECKING:
    import matplotlib.figure

TITLE = "One pass for all windows, and networks on pictures of other sizes"
SEEDS = {"smoke": 2, "quick": 8, "paper": 5}

WINDOW, STRIDE = 14, 2  # of the classic network: its input, and the distance of its windows
SAVED = {16: 1766400 / 1459200, 28: 28262400 / 21273600}  # side -> multiply-adds of all windows over those of one pass

CLAIMS = (
    claims.Claim(
        "same-scores",
        "At every place of its map of scores the network gives what it gives for the window there.",
        "S4:734-764; S2:656-665; S3:760-785",
        claims.EXACT,
        margin=1e-5,
        unit="largest deviation, of the largest score",
    ),
    claims.Claim(
        "fewer-multiply-adds",
        "One pass takes 1.21 times fewer multiply-adds than all windows on 16x16 pixels, and 1.33 times on 28x28.",
        "S4:762-764",
        claims.EXACT,
        margin=1e-9,
        unit="multiply-adds of all windows over those of one pass",
    ),
    claims.Claim(
        "any-size",
        "A picture of n pixels gives floor((n - 14) / 2) + 1 scores along each axis: 1 for 14, 2 for 16 and 8 for 28.",
        "S2:671-681; S4:742-764",
        claims.EXACT,
        margin=1e-9,
        unit="scores along an axis",
    ),
    claims.Claim(
        "one-pass-takes-less-time",
        "On the largest picture one pass takes less time than all windows as one batch.",
        "S4:762-764; S3:783",
        "less",
        unit="log2 of time over that of all windows",
    ),
    claims.Claim(
        "somewhat-invariant",
        "On pictures enlarged by a quarter the test error is higher by less than 0.1.",
        "S2:671",
        "not_greater",
        margin=0.1,
        unit="test error, fraction",
    ),
    claims.Claim(
        "scaling-in-training-helps",
        "On pictures enlarged by a quarter the test error is lower for nets that were trained with random scaling.",
        "S2:671; S3:728",
        "less",
        unit="test error, fraction",
    ),
    claims.Claim(
        "not-wholly-invariant",
        "On pictures of twice the side the test error is higher.",
        "S2:671",
        "greater",
        unit="test error, fraction",
    ),
)
METRICS = ("train_error", "test_error", *(f"test_error_size{size}" for size in SIZES))


class WindowNet(nn.Module):
    """The classic network (S4:734-764): scores (N, 1, 1, 4) of windows of 14x14x3, or a map of them."""

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """(N, H, W, 3) to (N, H', W', 4), the fully connected layers read as convolutions."""
        x = max_pool(nn.relu(Conv(16, (5, 5), padding="VALID")(images)))
        x = nn.relu(Conv(400, (5, 5), padding="VALID")(x))
        x = nn.relu(Conv(400, (1, 1))(x))
        return Conv(4, (1, 1))(x)


def spec(preset: str, data: DataConfig) -> Spec:
    """What all runs share; digits are enlarged, and other data made small for ``quick``."""
    fields = (("width", 8 if data.name == "digits" else 16),)
    if preset == "paper":
        augment = ("crop",) if data.name == "digits" else ("flip", "crop")  # a mirrored digit is another
        return Spec(data=data, steps=20_000, evaluate_every=1_000, augment=(*augment, "scale"), probes=("sizes",))
    if preset == "smoke":
        return Spec(
            model="resnet8_cifar", model_fields=(("width", 2),), data=data, steps=2, batch_size=8, probes=("sizes",),
            augment=("scale",),
        )  # fmt: skip
    return Spec(
        model="resnet8_cifar", model_fields=fields, data=data.at_size(16), batch_size=64, probes=("sizes",),
        steps=200 if data.name == "digits" else 600, augment=("scale",),
    )  # fmt: skip


def hyper(preset: str, data: DataConfig) -> Hyper:
    """The numbers that all runs share."""
    return Hyper(learning_rate=0.1, warmup=0.1, train_size=4_096 if preset == "quick" and data.external else 0)


def grid(preset: str, data: DataConfig) -> Grid:
    """Without and with random scaling in training; every net is tested at all sizes."""
    return product(scale=[0.0, 1.0])


def measure(preset: str, data: DataConfig) -> list[Row]:
    """Scores, multiply-adds and times of one pass and of all windows, by the side of the picture."""
    sides = (14, 16) if preset == "smoke" else (14, 16, 20, 24, 28)
    turns = 2 if preset == "smoke" else 20
    variables = jax.jit(WindowNet().init)(jax.random.key(0), jnp.zeros((1, WINDOW, WINDOW, 3)))
    compared = [claims.measured({"side": side}, 0, compare(variables, side)) for side in sides]
    timed = [
        claims.measured({"timed_side": sides[-1]}, turn, found)
        for turn, found in enumerate(times(variables, sides[-1], turns))
    ]
    return [*compared, *timed]


def windows(images: jax.Array) -> jax.Array:
    """Every window of one picture (1, H, W, 3) as a picture of its own, (H' W', 14, 14, 3)."""
    return patches(images, (WINDOW, WINDOW), (STRIDE, STRIDE)).reshape(-1, WINDOW, WINDOW, images.shape[-1])


def compare(variables: dict, side: int) -> dict[str, float]:
    """One pass against all windows of a picture: scores and multiply-adds."""
    net = WindowNet()
    images = jax.random.normal(jax.random.key(1), (1, side, side, 3))
    scores, each = jax.jit(
        lambda variables, images: (net.apply(variables, images), net.apply(variables, windows(images)))
    )(variables, images)
    return {
        "scores": scores.shape[1],
        "deviation": float(jnp.abs(scores.reshape(each.shape) - each).max() / jnp.abs(each).max()),
        "one_pass": multiply_adds(net, (side, side, 3)),
        "all_windows": len(each) * multiply_adds(net, (WINDOW, WINDOW, 3)),
    }


def times(variables: dict, side: int, turns: int) -> list[dict[str, float]]:
    """Seconds of one pass over 8 pictures and of all their windows, taking turns; the first turn is dropped."""
    images = jax.random.normal(jax.random.key(1), (8, side, side, 3))
    net = WindowNet()
    passes = {
        "one_pass": jax.jit(net.apply),
        "all_windows": jax.jit(lambda variables, images: net.apply(variables, windows(images))),
    }
    calls = {name: partial(forward, variables, images) for name, forward in passes.items()}
    return seconds_by_turn(calls, turns)


def verdict(rows: list[dict], measured: list[dict]) -> list[claims.Verdict]:
    """Scores and counts by size, times by turn, test errors by seed."""
    compared = {row["assignment"]["side"]: row["metrics"] for row in measured if "side" in row["assignment"]}
    timed = [row["metrics"] for row in measured if "timed_side" in row["assignment"]]

    def error(metric: str, scale: float = 0.0) -> dict[int, float]:
        return claims.by_seed(rows, metric, {"scale": scale}, diverged=claims.chance(rows))

    return claims.judge(
        CLAIMS,
        {
            "same-scores": [found["deviation"] for found in compared.values()],
            "fewer-multiply-adds": [
                found["all_windows"] / found["one_pass"] - SAVED[side]
                for side, found in compared.items()
                if side in SAVED
            ],
            "any-size": [found["scores"] - ((side - WINDOW) // STRIDE + 1) for side, found in compared.items()],
            "one-pass-takes-less-time": [
                math.log2(turn["seconds_one_pass"] / turn["seconds_all_windows"]) for turn in timed
            ],
            "somewhat-invariant": claims.contrast([error("test_error_size125")], [error("test_error")]),
            "scaling-in-training-helps": claims.contrast(
                [error("test_error_size125", 1.0)], [error("test_error_size125")]
            ),
            "not-wholly-invariant": claims.contrast([error("test_error_size200")], [error("test_error")]),
        },
    )


def draw_savings(figure: "matplotlib.figure.Figure", rows: Sequence[Row], measured: Sequence[Row]) -> None:
    """Multiply-adds of one pass and of all windows; times of both on the largest picture."""
    style.resize(figure, 3.6)
    left, right = figure.subplots(1, 2, width_ratios=(2, 1))
    compared = [(row["assignment"]["side"], row["metrics"]) for row in measured if "side" in row["assignment"]]
    looks = style.hues(("all windows", "one pass"))
    for (name, look), metric in zip(looks.items(), ("all_windows", "one_pass"), strict=True):
        left.plot([side for side, _ in compared], [found[metric] / 1e6 for _, found in compared], label=name, **look)
    for side, found in compared:
        ratio = found["all_windows"] / found["one_pass"]
        left.annotate(
            f"{ratio:.2f}", (side, found["all_windows"] / 1e6), textcoords="offset points", xytext=(-6, 6), ha="right"
        )
    left.set_xticks([side for side, _ in compared])
    left.set_xlabel("side of the picture (pixels)")
    left.set_ylabel("multiply-adds (millions)")
    left.margins(x=0.1, y=0.12)
    left.set_ylim(bottom=0)
    left.legend(loc="lower right")
    timed = [row for row in measured if "timed_side" in row["assignment"]]
    ratios = [row["metrics"]["seconds_all_windows"] / row["metrics"]["seconds_one_pass"] for row in timed]
    right.plot(np.linspace(-0.2, 0.2, len(ratios)), ratios, "o", color=style.COLOURS[1], alpha=0.4, markersize=4)
    right.plot([0], [np.median(ratios)], "D", color=style.COLOURS[1], markersize=8)
    right.set_xlim(-0.6, 0.6)
    right.set_ylim(bottom=0)
    right.set_xticks([0], [f"{timed[0]['assignment']['timed_side']} pixels"])
    right.set_ylabel("time of all windows / of one pass")


def draw_sizes(figure: "matplotlib.figure.Figure", rows: Sequence[Row], measured: Sequence[Row]) -> None:
    """Test error against the size of the test pictures."""
    style.resize(figure, 3.6)
    ax = figure.subplots()
    looks = style.hues(("without random scaling in training", "with it"))
    for scale, look in zip((0.0, 1.0), looks.values(), strict=True):
        done = [row["metrics"] for row in rows if row["status"] == "done" and row["assignment"]["scale"] == scale]
        samples = {100: [found["test_error"] for found in done]}
        samples |= {size: [found[f"test_error_size{size}"] for found in done] for size in SIZES}
        style.mean_line(ax, samples, look)
    style.legend(figure, looks, "")
    ax.set_xticks(list(samples), [f"{size} %" for size in samples])
    ax.set_xlabel("side of the test pictures, of those trained on")
    ax.set_ylabel("test error (fraction)")
    ax.set_ylim(bottom=0)


FIGURES = (
    Drawing(
        "savings",
        "What one pass saves",
        draw_savings,
        "Left: multiply-adds, with how many times fewer one pass takes. Right: measured times on the machine at hand, "
        "dots for turns and the diamond for their median.",
        note="Computed, not trained.",
    ),
    Drawing(
        "sizes",
        "Nets of one size on pictures of another",
        draw_sizes,
        "The mean over seeds, with its 95 % interval as a band.",
    ),
)


if __name__ == "__main__":
    raise SystemExit(cli.main(__name__))
