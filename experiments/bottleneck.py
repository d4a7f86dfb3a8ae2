"""The 1x1 bottleneck: ten times fewer multiplications, at what price?

A 5x5 convolution from 28x28x192 to 32 channels takes 120.4 million multiplications. With a 1x1 convolution to 16
channels before it, both together take 12.4 million, and the lectures say that this "doesn't affect negatively the
network performance" (S4:502-511). GoogLeNet (Szegedy et al. 2014, arXiv:1409.4842) has such a
reduction before every 3x3 and 5x5 convolution; the naive block has none. Rows 267 and 310 of lectures.csv.

    python -m experiments.bottleneck                                       quick, embedded digits
    python -m experiments.bottleneck --data=folder:DIR                     quick, for example CIFAR-10
    python -m experiments.bottleneck --preset=paper --data=tfds:cifar10    all nine blocks of GoogLeNet

Two nets of the same blocks and the same output channels: *naive*, and *reduced* with the paper's reductions.

Counted, not trained: the lecture's branch with and without reduction, and the whole of GoogLeNet.

Quick trains blocks 3a and 4b at a quarter of their width on 8x8 digits for 200 steps with 16 seeds: about a minute
on two CPU cores. The narrowest reduction has four channels there. (A pilot at an eighth of the width, where it has two,
on 16x16 pixels: 0.025 test error with reductions and 0.012 without.) On other data quick is the same on 4,096 pictures
at 16x16 for 400 steps. Paper trains all blocks at half their width with flips and crops for 20,000 steps and needs an
accelerator.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import flax.linen as nn
import jax

from cnnjax import claims, cli, models
from cnnjax.analysis import multiply_adds
from cnnjax.data import DataConfig
from cnnjax.models.branches import Block
from cnnjax.models.googlenet import block
from cnnjax.models.parts import parts
from cnnjax.report import style
from cnnjax.report.figures import Drawing
from cnnjax.report.table import Row
from cnnjax.sweep import Grid, product
from cnnjax.train import Hyper, Spec

if TYPE_CHECKING:
    import matplotlib.figure

TITLE = "The 1x1 bottleneck: cost and accuracy of GoogLeNet's blocks with and without"
SEEDS = {"smoke": 2, "quick": 16, "paper": 5}
LECTURE = {False: 120_422_400, True: 12_443_648}  # multiplications without and with reduction
LOOK = {False: "naive", True: "reduced"}

CLAIMS = (
    claims.Claim(
        "lecture-example",
        "A 5x5 convolution from 28x28x192 to 32 channels takes 120,422,400 multiplications, and 12,443,648 with a "
        "bottleneck of 16 channels.",
        "S4:502-511",
        claims.EXACT,
        margin=1e-9,
        unit="multiplications",
    ),
    claims.Claim(
        "ten-times-cheaper",
        "The bottleneck makes this convolution cheaper by a factor of ten, to the nearest whole number.",
        "S4:511",
        claims.EXACT,
        margin=0.5,
        unit="factor less ten",
    ),
    claims.Claim(
        "accuracy-unhurt",
        "With the reductions the test error is the same as without, to within 0.01.",
        "S4:506-511",
        "equivalent",
        margin=0.01,
        unit="test error, fraction",
    ),
)
METRICS = ("train_error", "test_error", "parameters")


def spec(preset: str, data: DataConfig) -> Spec:
    """What all runs share."""
    small = data.name == "digits"
    fields: tuple[tuple[str, Any], ...]
    if preset == "smoke":
        fields = (("blocks", ("3a",)), ("norm", "batch"), ("stem", "small"), ("width_multiplier", 1 / 16))
        return Spec(model="googlenet", model_fields=fields, data=data, steps=2, batch_size=8)
    if preset == "paper":
        fields = (("norm", "batch"), ("stem", "small"), ("width_multiplier", 0.5))
        augment = ("crop",) if small else ("flip", "crop")  # a mirrored digit is another
        return Spec(
            model="googlenet", model_fields=fields, data=data.at_size(32), steps=20_000, evaluate_every=1_000,
            augment=augment,
        )  # fmt: skip
    fields = (("blocks", ("3a", "4b")), ("norm", "batch"), ("stem", "small"), ("width_multiplier", 1 / 4))
    return Spec(
        model="googlenet",
        model_fields=fields,
        data=data if small else data.at_size(16),
        steps=200 if small else 400,
        batch_size=32,
    )


def hyper(preset: str, data: DataConfig) -> Hyper:
    """The numbers that all runs share."""
    if preset == "paper":
        return Hyper(learning_rate=0.1, warmup=0.02, l2=2.5e-4)
    real = preset == "quick" and data.external
    return Hyper(learning_rate=0.05, warmup=0.1, train_size=4_096 if real else 0)


def grid(preset: str, data: DataConfig) -> Grid:
    """The naive blocks and the reduced ones."""
    return product(**{"model.reduction": (False, True)})


class FiveByFive(nn.Module):
    """The lecture's branch: the 5x5 convolution of block 3a, with its reduction or without."""

    reduction: bool

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(N, H, W, C) to (N, H, W, 32)."""
        branch = block("3a", reduction=self.reduction)[2]
        return Block((branch,), parts(models.create("googlenet")))(x, False)


def measure(preset: str, data: DataConfig) -> list[Row]:
    """Multiply-adds of the lecture's branch and of GoogLeNet at 224x224 pixels, naive and reduced."""

    def row(what, reduction, model, image_shape):
        count = multiply_adds(model, image_shape)
        return claims.measured({"counted": what, "reduction": reduction}, 0, {"multiply_adds": count})

    found = [row("branch", reduction, FiveByFive(reduction), (28, 28, 192)) for reduction in LECTURE]
    nets = {reduction: models.create("googlenet", reduction=reduction) for reduction in LECTURE}
    return [*found, *(row("googlenet", reduction, net, (224, 224, 3)) for reduction, net in nets.items())]


def _counts(measured: Sequence[Row], what: str) -> dict[bool, float]:
    """With reduction or without -> multiply-adds."""
    rows = [row for row in measured if row["assignment"]["counted"] == what]
    return {row["assignment"]["reduction"]: row["metrics"]["multiply_adds"] for row in rows}


def verdict(rows: list[dict], measured: list[dict]) -> list[claims.Verdict]:
    """The counts, and reduced less naive, seed by seed."""
    branch = _counts(measured, "branch")
    factors = [branch[False] / branch[True]] if branch else []
    reduced, naive = (
        claims.by_seed(rows, "test_error", {"model.reduction": reduction}, diverged=claims.chance(rows))
        for reduction in (True, False)
    )
    return claims.judge(
        CLAIMS,
        {
            "lecture-example": [count - LECTURE[reduction] for reduction, count in branch.items()],
            "ten-times-cheaper": [factor - 10 for factor in factors],
            "accuracy-unhurt": claims.contrast([reduced], [naive]),
        },
    )


def draw(figure: "matplotlib.figure.Figure", rows: Sequence[Row], measured: Sequence[Row]) -> None:
    """Multiply-adds, test errors, and differences of test errors beside the margin."""
    style.resize(figure, 3.4)
    left, middle, right = figure.subplots(1, 3, width_ratios=(1.5, 1, 1))
    done = [row for row in rows if row["status"] == "done"]
    errors = {
        reduction: {
            row["seed"]: row["metrics"]["test_error"]
            for row in done
            if row["assignment"]["model.reduction"] == reduction
        }
        for reduction in LECTURE
    }
    counts = [_counts(measured, what) for what in ("branch", "googlenet")]
    for place, count in enumerate(counts):
        share = count[True] / count[False]
        left.barh(place, share, color=style.COLOURS[0], height=0.5)
        left.text(share + 0.02, place, f"{count[True] / 1e6:,.1f} M of {count[False] / 1e6:,.1f} M", va="center")
    style.name_rows(left, ("5x5 branch", "GoogLeNet"), "multiply-adds, share")
    left.set_xlim(0, 1)
    for place, reduction in enumerate(errors):
        style.dots(middle, place, list(errors[reduction].values()), style.COLOURS[place])
    style.name_rows(middle, [LOOK[reduction] for reduction in errors], "test error (fraction)")
    middle.set_xlim(left=0)
    differences = claims.contrast([errors[True]], [errors[False]])
    style.differences(right, differences, CLAIMS[-1].margin, "reduced less naive")


FIGURES = (
    Drawing(
        "bottleneck",
        "Blocks with and without 1x1 reductions",
        draw,
        "Bars are counted: what reduced blocks cost of the naive ones. Dots are means over seeds with 95 % intervals, "
        "small grey ones single seeds. On the right are differences of test errors; the band is the margin.",
    ),
)


if __name__ == "__main__":
    raise SystemExit(cli.main(__name__))
