"""Depthwise-separable convolutions: what they cost, what they take, and what they lose.

A depthwise-separable convolution filters every channel by itself and then mixes the channels with a 1x1
convolution. The lectures count 2,160 multiplications for a 3x3 convolution from 6x6x3 to 4x4x5, and 432 + 240 = 672
for the separable one, in general the fraction 1/n_c + 1/f^2 for n_c output channels and f x f filters
(S4:526-571), which is what makes MobileNets cheap (S4:524-580). Howard et al. 2017 (arXiv:1704.04861, table 4)
report the price on ImageNet: 70.6 % top-1 accuracy against 71.7 % for full convolutions, at an eighth of the cost.
Row 311 of lectures.csv.

    python -m experiments.separable                                      quick, embedded digits
    python -m experiments.separable --data=folder:DIR                    quick, for example CIFAR-10
    python -m experiments.separable --preset=paper --data=tfds:cifar10   MobileNet v1's thirteen convolutions

Three nets of the form of MobileNet v1: *full* convolutions; *separable* ones with the same channels; *wide*, separable
with so many more channels that it costs as many multiply-adds as the full net.

Counted, not trained: the lecture's example and the ratio, from traced layers of several sizes. Timed on this machine:
one layer of each kind, taking turns; the multiply-adds of a depthwise convolution are few, but each number that it
loads is used nine times only, so that the time falls less than the count.

Quick enlarges the digits to 16x16 and trains a stem of 16 channels and three stages for 200 steps with 10 seeds: less
than a minute on two CPU cores. Expect 0.024 test error for full, 0.051 for separable and 0.031 for wide, and on
CIFAR-10 separable convolutions to lose by 0.06, and at equal cost by 0.03. On other data quick is the same nets on
4,096 pictures at 16x16 for 600 steps. Paper trains whole MobileNets at a quarter of their width with flips and crops
for 20,000 steps and needs an accelerator.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cnnjax import claims, cli
from cnnjax.analysis import multiply_adds
from cnnjax.analysis.timing import seconds_by_turn
from cnnjax.data import DataConfig
from cnnjax.models.mobilenet import SEPARABLE
from cnnjax.nn import Conv
from cnnjax.report import style
from cnnjax.report.figures import Drawing
from cnnjax.report.table import Row
from cnnjax.sweep import Grid, explicit
from cnnjax.train import Hyper, Spec

if TYPE_CHECKING:
    import matplotlib.figure

TITLE = "Depthwise-separable convolutions: count, time and accuracy"
SEEDS = {"smoke": 2, "quick": 10, "paper": 5}

# (side, input channels, output channels, side of the filter, padding); the first is the lecture's example.
LAYERS = ((6, 3, 5, 3, "VALID"), (8, 16, 16, 3, "SAME"), (8, 16, 64, 3, "SAME"), (8, 8, 32, 5, "SAME"))
EXAMPLE = {"full": 2160, "depthwise": 432, "pointwise": 240}
TIMED = {"smoke": (8, 8, 3), "quick": (32, 64, 15), "paper": (56, 128, 15)}  # side, channels, rounds
STAGES = ((16, 1), (32, 2), (64, 2))
NETS: dict[str, dict[str, Any]] = {
    "full": {"model.separable": False, "model.width_multiplier": 0.5},
    "separable": {"model.separable": True, "model.width_multiplier": 0.5},
    "wide": {"model.separable": True, "model.width_multiplier": 1.25},
}
# The paper's net at a quarter of its width; 0.75 then costs as much as full convolutions at 0.25.
PAPER_WIDTHS = {"full": 0.25, "separable": 0.25, "wide": 0.75}

CLAIMS = (
    claims.Claim(
        "lecture-example",
        "From 6x6x3 to 4x4x5 with 3x3 filters a convolution takes 2,160 multiplications; a depthwise-separable one "
        "takes 432 for the depthwise and 240 for the 1x1 step.",
        "S4:526-562",
        claims.EXACT,
        margin=1e-9,
        unit="multiplications",
    ),
    claims.Claim(
        "cost-ratio",
        "A depthwise-separable convolution costs the fraction 1/n_c + 1/f^2 of a full one.",
        "S4:564-571",
        claims.EXACT,
        margin=1e-12,
        unit="share of the full convolution's multiplications",
    ),
    claims.Claim(
        "takes-less-time",
        "A depthwise-separable convolution also takes less time than a full one, on the machine at hand.",
        "S4:524-571",
        "less",
        unit="log2 of time over the full convolution's, one forward pass",
    ),
    claims.Claim(
        "small-price",
        "With separable convolutions in place of full ones of as many channels the test error rises by less than 0.02.",
        "S4:526-580",
        "not_greater",
        margin=0.02,
        unit="test error, fraction",
    ),
    claims.Claim(
        "not-worse-at-equal-cost",
        "A separable net so wide that it costs as much as the full one has a test error that is not higher.",
        "S4:526-580",
        "not_greater",
        margin=0.01,
        unit="test error, fraction",
    ),
)
METRICS = ("train_error", "test_error", "parameters")


def spec(preset: str, data: DataConfig) -> Spec:
    """What all runs share."""
    if preset == "paper":
        augment = ("crop",) if data.name == "digits" else ("flip", "crop")  # a mirrored digit is another
        return Spec(
            model="mobilenet_v1", model_fields=(("stages", SEPARABLE),), data=data.at_size(32), steps=20_000,
            evaluate_every=1_000, augment=augment,
        )  # fmt: skip
    if preset == "smoke":
        return Spec(model="mobilenet_v1", model_fields=(("stages", ((8, 1),)),), data=data, steps=2, batch_size=8)
    steps = 200 if data.name == "digits" else 600
    return Spec(
        model="mobilenet_v1", model_fields=(("stages", STAGES),), data=data.at_size(16), steps=steps, batch_size=64
    )


def hyper(preset: str, data: DataConfig) -> Hyper:
    """The numbers that all runs share."""
    if preset == "paper":
        return Hyper(learning_rate=0.1, warmup=0.02, l2=2e-5)
    real = preset == "quick" and data.external
    return Hyper(learning_rate=0.05, warmup=0.1, train_size=4_096 if real else 0)


def grid(preset: str, data: DataConfig) -> Grid:
    """The three nets."""
    if preset == "smoke":
        return explicit(
            *({**net, "model.width_multiplier": 0.25 * (1 + (name == "wide"))} for name, net in NETS.items())
        )
    if preset == "paper":
        return explicit(*({**net, "model.width_multiplier": PAPER_WIDTHS[name]} for name, net in NETS.items()))
    return explicit(*NETS.values())


def name_of(assignment: Mapping[str, Any], rows: Sequence[Row]) -> str:
    """Which of the three nets a condition is: the wider one of the separable ones is "wide"."""
    if not assignment["model.separable"]:
        return "full"
    widths = [row["assignment"]["model.width_multiplier"] for row in rows]
    narrow = assignment["model.width_multiplier"] == min(widths)
    return "separable" if narrow else "wide"


class Layer(nn.Module):
    """One convolution, full or depthwise-separable, without biases; the logits are its whole map.

    Attributes:
      features: output channels.
      side: of the filter.
      padding: of the full or depthwise convolution.
      kind: "full", "depthwise" (without the 1x1 step), "pointwise" (the 1x1 step alone) or "separable".
    """

    features: int
    side: int
    padding: str
    kind: str

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(N, H, W, C) to (N, H', W', features), or C channels after a depthwise convolution alone."""
        channels, window = x.shape[-1], (self.side, self.side)
        if self.kind == "full":
            return Conv(self.features, window, padding=self.padding, use_bias=False)(x)
        if self.kind != "pointwise":
            x = Conv(channels, window, padding=self.padding, groups=channels, use_bias=False)(x)
        return x if self.kind == "depthwise" else Conv(self.features, (1, 1), use_bias=False)(x)


def measure(preset: str, data: DataConfig) -> list[Row]:
    """Multiplications of the layers, counted; then the time of one layer of each kind."""
    counted = [
        claims.measured({"layer": index, "channels": features, "filter": filter_side}, 0, costs(index))
        for index, (_, _, features, filter_side, _) in enumerate(LAYERS)
    ]
    side, channels, rounds = TIMED[preset]
    timed = [
        claims.measured({"timed_side": side, "channels": channels}, turn, found)
        for turn, found in enumerate(times(side, channels, rounds))
    ]
    return [*counted, *timed]


def costs(index: int) -> dict[str, float]:
    """Multiplications of each kind of a layer of ``LAYERS``, and the separable share by the lecture's formula."""
    side, channels, features, filter_side, padding = LAYERS[index]
    after = side if padding == "SAME" else side - filter_side + 1
    found = {
        kind: multiply_adds(Layer(features, filter_side, padding, kind), (at, at, channels))
        for kind, at in (("full", side), ("depthwise", side), ("pointwise", after), ("separable", side))
    }
    return {**found, "ratio": found["separable"] / found["full"], "formula": 1 / features + 1 / filter_side**2}


def times(side: int, channels: int, rounds: int, images: int = 8) -> list[dict[str, float]]:
    """Seconds of one forward pass of a full and a separable 3x3 layer, taking turns; the first turn is dropped."""
    pictures = jnp.ones((images, side, side, channels))
    passes: dict[str, Callable[[], Any]] = {}
    for kind in ("full", "separable"):
        layer = Layer(channels, 3, "SAME", kind)
        passes[kind] = partial(jax.jit(layer.apply), layer.init(jax.random.key(0), pictures), pictures)
    return seconds_by_turn(passes, rounds)


def verdict(rows: list[dict], measured: list[dict]) -> list[claims.Verdict]:
    """Counts and times by layer, test errors by seed."""
    counted = [row for row in measured if "layer" in row["assignment"]]
    timed = [row["metrics"] for row in measured if "layer" not in row["assignment"]]
    lecture = [row["metrics"] for row in counted if row["assignment"]["layer"] == 0]

    def error(net: str) -> dict[int, float]:
        members = [row for row in rows if name_of(row["assignment"], rows) == net]
        return claims.by_seed(members, "test_error", {}, diverged=claims.chance(rows))

    return claims.judge(
        CLAIMS,
        {
            "lecture-example": [found[kind] - count for found in lecture for kind, count in EXAMPLE.items()],
            "cost-ratio": [row["metrics"]["ratio"] - row["metrics"]["formula"] for row in counted],
            "takes-less-time": [math.log2(turn["seconds_separable"] / turn["seconds_full"]) for turn in timed],
            "small-price": claims.contrast([error("separable")], [error("full")]),
            "not-worse-at-equal-cost": claims.contrast([error("wide")], [error("full")]),
        },
    )


def draw_cost(figure: "matplotlib.figure.Figure", rows: Sequence[Row], measured: Sequence[Row]) -> None:
    """The share of a full convolution's multiplications, counted, and of its time, measured."""
    style.resize(figure, 3.6)
    ax = figure.subplots()
    counted = [row for row in measured if "layer" in row["assignment"]]
    labels = []
    for place, row in enumerate(counted):
        at = row["assignment"]
        ax.barh(place, row["metrics"]["ratio"], color=style.COLOURS[0], height=0.55)
        ax.text(row["metrics"]["ratio"] + 0.01, place, f"{row['metrics']['ratio']:.3f}", va="center")
        labels.append(f"count: {at['channels']} channels, {at['filter']}x{at['filter']}")
    timed = [row for row in measured if "layer" not in row["assignment"]]
    ratios = [row["metrics"]["seconds_separable"] / row["metrics"]["seconds_full"] for row in timed]
    ax.plot(ratios, [len(counted)] * len(ratios), "o", color=style.COLOURS[1], alpha=0.35, markersize=4)
    ax.plot(sorted(ratios)[len(ratios) // 2], len(counted), "D", color=style.COLOURS[1], markersize=8)
    at = timed[0]["assignment"]
    labels.append(f"time: {at['channels']} channels, 3x3, {at['timed_side']}x{at['timed_side']} pixels")
    style.name_rows(ax, labels, "share of a full convolution's")
    ax.set_xlim(left=0)


def draw_errors(figure: "matplotlib.figure.Figure", rows: Sequence[Row], measured: Sequence[Row]) -> None:
    """Test error of the three nets."""
    style.resize(figure, 3.4)
    ax = figure.subplots()
    done = [row for row in rows if row["status"] == "done"]
    for place, net in enumerate(NETS):
        values = [row["metrics"]["test_error"] for row in done if name_of(row["assignment"], rows) == net]
        style.dots(ax, place, values, style.COLOURS[place])
    names = ("full", "separable, as many channels", "separable, as many multiply-adds")
    style.name_rows(ax, names, "test error (fraction)")
    ax.set_xlim(left=0)


FIGURES = (
    Drawing(
        "cost",
        "What a depthwise-separable convolution costs, of a full one",
        draw_cost,
        "Bars are counted multiplications. Dots are measured times of single forward passes on the machine at hand, "
        "the diamond their median.",
        note="Computed, not trained.",
    ),
    Drawing(
        "errors",
        "Test error with full and with separable convolutions",
        draw_errors,
        "Large dots are means over seeds with 95 % intervals, small grey ones single seeds.",
    ),
)


if __name__ == "__main__":
    raise SystemExit(cli.main(__name__))
