"""Gridding: a stack of equal dilations reads every second pixel, and its neighbours read the others.

"Dilated convolutions have gridding artifacts: neighboring output units are computed from completely separated sets of
input units" (S1:1138-1139). Two layers of 3x3 with dilation 2 read the offsets -4, -2, 0, 2, 4 and nothing between
them; dilations 1, 2, 4 read all of their 15 pixels. Wang et al. 2018 (arXiv:1702.08502) mend it with dilations
without a common divisor, such as 1, 2, 3. Row 307 of lectures.csv.

    python -m experiments.gridding                                       quick, embedded digits
    python -m experiments.gridding --data=folder:DIR                     quick, for example CIFAR-10
    python -m experiments.gridding --preset=paper --data=tfds:cifar10    wider nets, longer runs

Two parts:

1. Computed, nothing trained: which offsets a unit reads, whether it shares any with its neighbour, and the share of
   pixels inside the receptive field that it reads, counted and by the support of the network's gradient.
2. Trained: three 3x3 layers with dilations 2, 2, 2 and with 1, 2, 3, of equal weights and equal receptive field (13
   pixels), on the test pictures: how rough the last map is, and how rough the change of it by noise on the pixels, that
   is the squared difference of neighbouring units over twice the variance (0: smooth; 1: neighbours have nothing in
   common); and the test error. (A pilot with 5 seeds on digits had the map itself slightly smoother with gridding: the
   four interleaved grids of an enlarged picture show nearly the same.)

Quick enlarges the digits to 16x16 and trains narrow nets for 150 steps with 10 seeds: about a minute on two CPU cores.
On other data quick is the same nets on 4,096 pictures at 16x16 for 600 steps. Paper trains nets of 64 channels on
whole pictures for 20,000 steps and needs an accelerator.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cnnjax import claims, cli
from cnnjax.analysis.coverage import tap_counts
from cnnjax.analysis.support import gradient_support
from cnnjax.data import DataConfig
from cnnjax.models.dilated import DilatedCNN
from cnnjax.report import style
from cnnjax.report.figures import Drawing
from cnnjax.report.table import Row
from cnnjax.sweep import Grid, explicit
from cnnjax.train import Hyper, Spec

if TYPE_CHECKING:
    import matplotlib.figure

TITLE = "Gridding: what equal dilations leave unread"
SEEDS = {"smoke": 2, "quick": 10, "paper": 5}

GRIDDED, MIXED = (2, 2, 2), (1, 2, 3)  # trained: the same receptive field
# Dilations -> share of the pixels of the receptive field that a unit reads, along one axis.
STACKS: dict[tuple[int, ...], float] = {
    (2, 2): 5 / 9,
    (1, 2, 4): 1.0,
    GRIDDED: 7 / 13,
    MIXED: 1.0,
    (2, 4): 7 / 13,
}
LECTURE = (-4, -2, 0, 2, 4)  # what two layers of dilation 2 read

CLAIMS = (
    claims.Claim(
        "every-second-pixel",
        "Two 3x3 layers of dilation 2 read the offsets -4, -2, 0, 2 and 4, and none between them.",
        "S1:1138-1139",
        claims.EXACT,
        margin=1e-9,
        unit="offsets that differ",
    ),
    claims.Claim(
        "neighbours-share-nothing",
        "With dilations of 2 throughout, neighbouring units have no input in common; with dilations 1, 2, 4 or 1, 2, 3 "
        "they share all but their ends.",
        "S1:1138-1139",
        claims.EXACT,
        margin=1e-9,
        unit="shared pixels",
    ),
    claims.Claim(
        "coverage",
        "Of its receptive field a unit reads 5 of 9 pixels along each axis with dilations 2, 2, and 7 of 13 with 2, 2, "
        "2; with 1, 2, 4 and 1, 2, 3 it reads all. The support of the gradient agrees.",
        "S1:1135-1139",
        claims.EXACT,
        margin=1e-9,
        unit="share of pixels",
    ),
    claims.Claim(
        "noise-independent",
        "After training, what noise on the pixels changes in the last map has less in common between neighbours with "
        "dilations 2, 2, 2, which read no common pixel, than with 1, 2, 3.",
        "S1:1138-1139",
        "greater",
        unit="roughness (1: nothing in common)",
    ),
    claims.Claim(
        "rougher-maps",
        "After training, neighbouring units of the last map differ more with dilations 2, 2, 2 than with 1, 2, 3.",
        "S1:1138-1139",
        "greater",
        unit="roughness (1: nothing in common)",
    ),
    claims.Claim(
        "higher-error",
        "With dilations 2, 2, 2 the test error is higher than with 1, 2, 3, for the same weights and receptive field.",
        "S1:1138-1139",
        "greater",
        unit="test error, fraction",
    ),
)
METRICS = ("train_error", "test_error", "test_roughness", "test_roughness_of_noise")


def spec(preset: str, data: DataConfig) -> Spec:
    """What all runs share; digits are enlarged, and other data made small for ``quick``."""
    shared: dict[str, Any] = {"model": "dilated_cnn", "probes": ("roughness",)}
    if preset == "paper":
        augment = ("crop",) if data.name == "digits" else ("flip", "crop")  # a mirrored digit is another
        return Spec(
            model_fields=(("norm", "batch"), ("width", 64)), data=data.at_size(32), steps=20_000,
            evaluate_every=1_000, augment=augment, **shared,
        )  # fmt: skip
    if preset == "smoke":
        return Spec(model_fields=(("width", 2),), data=data, steps=2, batch_size=8, **shared)
    return Spec(
        model_fields=(("norm", "batch"), ("width", 16)), data=data.at_size(16), batch_size=64,
        steps=150 if data.name == "digits" else 600, **shared,
    )  # fmt: skip


def hyper(preset: str, data: DataConfig) -> Hyper:
    """The numbers that all runs share."""
    if preset == "paper":
        return Hyper(learning_rate=0.05, warmup=0.02, l2=2.5e-4)
    return Hyper(learning_rate=0.1, warmup=0.1, train_size=4_096 if preset == "quick" and data.external else 0)


def grid(preset: str, data: DataConfig) -> Grid:
    """The two nets."""
    return explicit({"model.dilations": GRIDDED}, {"model.dilations": MIXED})


def measure(preset: str, data: DataConfig) -> list[Row]:
    """What units of each stack read, along one axis."""
    return [claims.measured({"dilations": dilations}, 0, reading(dilations)) for dilations in STACKS]


def reading(dilations: tuple[int, ...]) -> dict[str, float]:
    """Of one unit: pixels from end to end, pixels read, pixels shared with its neighbour; by count and by gradient."""
    taps = tap_counts([3] * len(dilations), dilations)
    read = np.flatnonzero(taps) - len(taps) // 2
    side = len(taps) + 2
    support = gradient_support(DilatedCNN(dilations=dilations, width=2), (side, side, 1), f"stage{len(dilations)}")
    return {
        "field": len(taps),
        "read": len(read),
        "read_by_gradient": int(support.any(0).sum()),
        "shared_with_neighbour": len(np.intersect1d(read, read + 1)),
        "other_than_the_lectures": len(np.setxor1d(read, LECTURE)),
    }


def verdict(rows: list[dict], measured: list[dict]) -> list[claims.Verdict]:
    """Offsets counted; both nets seed by seed."""
    found = {tuple(row["assignment"]["dilations"]): row["metrics"] for row in measured}

    def metric(name: str, dilations: tuple[int, ...], diverged: float = math.nan) -> dict[int, float]:
        return claims.by_seed(members(rows, dilations), name, {}, diverged)

    def shared(dilations: tuple[int, ...]) -> float:
        """Pixels shared with the neighbour, less what a stack without gaps shares."""
        whole = found[dilations]["read"] - 1 if STACKS[dilations] == 1 else 0
        return found[dilations]["shared_with_neighbour"] - whole

    chance = claims.chance(rows)
    return claims.judge(
        CLAIMS,
        {
            "every-second-pixel": [each["other_than_the_lectures"] for at, each in found.items() if at == (2, 2)],
            "neighbours-share-nothing": [shared(dilations) for dilations in found],
            "coverage": [
                each[name] / each["field"] - STACKS[at]
                for at, each in found.items()
                for name in ("read", "read_by_gradient")
            ],
            "noise-independent": claims.contrast(
                [metric("test_roughness_of_noise", GRIDDED)], [metric("test_roughness_of_noise", MIXED)]
            ),
            "rougher-maps": claims.contrast([metric("test_roughness", GRIDDED)], [metric("test_roughness", MIXED)]),
            "higher-error": claims.contrast(
                [metric("test_error", GRIDDED, chance)], [metric("test_error", MIXED, chance)]
            ),
        },
    )


def members(rows: Sequence[Row], dilations: tuple[int, ...]) -> list[Row]:
    """The runs of one net."""
    return [row for row in rows if tuple(row["assignment"]["model.dilations"]) == dilations]


def draw_reading(figure: "matplotlib.figure.Figure", rows: Sequence[Row], measured: Sequence[Row]) -> None:
    """What the unit in the middle of each stack reads, and by how many paths."""
    from matplotlib.colors import LogNorm

    stacks = ((2, 2), GRIDDED, MIXED, (1, 2, 4))
    style.resize(figure, 3.1)
    counts = {stack: tap_counts([3] * len(stack), stack) for stack in stacks}
    largest = max(taps.max() ** 2 for taps in counts.values())
    axes = figure.subplots(1, len(stacks))
    for ax, (stack, taps) in zip(axes, counts.items(), strict=True):
        reach = len(taps) // 2
        plane = np.ma.masked_equal(np.outer(taps, taps), 0)
        ends = (-reach - 0.5, reach + 0.5)
        image = ax.imshow(plane, extent=(*ends, *ends), cmap="viridis_r", norm=LogNorm(1, largest))
        ax.set_facecolor("white")
        ax.set_title("dilations " + ", ".join(map(str, stack)))
        ax.set_xticks((-reach, 0, reach))
        ax.set_yticks((-reach, 0, reach))
        ax.grid(visible=False)
        ax.set_xlabel("offset (pixels)")
    axes[0].set_ylabel("offset (pixels)")
    bar = figure.colorbar(image, ax=list(axes), shrink=0.8)
    bar.set_label("paths")
    ticks = [ticks for ticks in (1, 10, 100) if ticks <= largest]
    bar.set_ticks(ticks, labels=[str(tick) for tick in ticks])
    bar.ax.minorticks_off()


def draw_nets(figure: "matplotlib.figure.Figure", rows: Sequence[Row], measured: Sequence[Row]) -> None:
    """Roughness of the last map, and test error, of both nets."""
    style.resize(figure, 2.9)
    done = [row for row in rows if row["status"] == "done"]
    names = ["dilations 2, 2, 2", "dilations 1, 2, 3"]
    panels = {
        "test_roughness_of_noise": "roughness of what noise changes",
        "test_roughness": "roughness of the last map",
        "test_error": "test error (fraction)",
    }
    for ax, (metric, label) in zip(figure.subplots(1, 3, sharey=True), panels.items(), strict=True):
        for place, dilations in enumerate((GRIDDED, MIXED)):
            values = [row["metrics"][metric] for row in members(done, dilations)]
            style.dots(ax, place, values, style.COLOURS[1 - place], limits=(0, 2))
        style.name_rows(ax, names, label)
        ax.set_xlim(left=0)
        ax.locator_params(axis="x", nbins=4)  # else the last number of a panel meets the first of the next


FIGURES = (
    Drawing(
        "reading",
        "What one unit reads, and by how many paths",
        draw_reading,
        "White pixels are not read. With a common divisor of all dilations the neighbouring unit reads just those.",
        note="Computed, not trained.",
    ),
    Drawing(
        "nets",
        "Two nets of equal weights and equal receptive field",
        draw_nets,
        "Roughness is the squared difference of neighbouring units of the last map over twice its variance: 1 where "
        "neighbours have nothing in common. Large dots are means over seeds with 95 % intervals.",
    ),
)


if __name__ == "__main__":
    raise SystemExit(cli.main(__name__))
