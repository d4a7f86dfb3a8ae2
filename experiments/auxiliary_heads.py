"""Intermediate outputs: what auxiliary heads tell of a network, and whether they help it.

GoogLeNet has classifiers on maps in the middle of the network, whose losses, times 0.3, are added while it trains
(Szegedy et al. 2014, arXiv:1409.4842, section 5). The lectures say that the "intermediate outputs help to evaluate
performance of the network" (S4:521-522); the paper meant them to carry gradients to the early layers and to
regularise, and later found their effect to be about 0.5 % of error (section 5). Row 343 of lectures.csv.

    python -m experiments.auxiliary_heads                                       quick, embedded digits
    python -m experiments.auxiliary_heads --data=folder:DIR                     quick, for example CIFAR-10
    python -m experiments.auxiliary_heads --preset=paper --data=tfds:cifar10    all nine blocks of GoogLeNet

One net with both auxiliary heads, trained with their losses weighted by 0 (then nothing trains the heads, nor do they
change the rest) and by 0.3, from the same weights, on the same batches. After training the error of every output is
measured on the test pictures.

Quick trains blocks 4a, 4d and 5b at an eighth of their width on 8x8 digits for 300 steps with 10 seeds: about three
minutes on two CPU cores. On other data quick is the same on 4,096 pictures at 16x16. Paper trains all blocks at half
their width with flips and crops for 20,000 steps and needs an accelerator.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from cnnjax import claims, cli
from cnnjax.data import DataConfig
from cnnjax.report import style
from cnnjax.report.figures import Curves, Drawing
from cnnjax.report.table import Row
from cnnjax.sweep import Grid, product
from cnnjax.train import Hyper, Spec

if TYPE_CHECKING:
    import matplotlib.figure

TITLE = "Auxiliary heads: intermediate outputs of GoogLeNet"
SEEDS = {"smoke": 2, "quick": 10, "paper": 5}
WEIGHTS = (0.0, 0.3)
OUTPUTS = {"test_error_auxiliary1": "after 4a", "test_error_auxiliary2": "after 4d", "test_error": "at the end"}

CLAIMS = (
    claims.Claim(
        "intermediate-output-works",
        "The output after block 4a, a third of the way, has less than half of the error of chance.",
        "S4:521-522",
        "less",
        unit="test error less half that of chance, fraction",
    ),
    claims.Claim(
        "deeper-is-better",
        "The output after block 4a has a higher test error than the one at the end.",
        "S4:521-522",
        "greater",
        unit="test error, fraction",
    ),
    claims.Claim(
        "lower-error",
        "With the auxiliary losses the test error at the end is lower than without.",
        "S4:521-522",
        "less",
        unit="test error, fraction",
    ),
    claims.Claim(
        "regularises",
        "With the auxiliary losses the gap between the losses on test and on training pictures is smaller.",
        "S4:521-522",
        "less",
        unit="test loss less training loss, cross-entropy",
    ),
)
METRICS = ("train_error", *OUTPUTS, "train_loss", "test_loss")


def spec(preset: str, data: DataConfig) -> Spec:
    """What all runs share."""
    small = data.name == "digits"
    fields: tuple[tuple[str, Any], ...] = (("auxiliary", True), ("stem", "small"))
    if preset == "smoke":
        fields += (("blocks", ("4a", "4d")), ("width_multiplier", 1 / 16))
        return Spec(
            model="googlenet", model_fields=fields, data=data, steps=2, batch_size=8, train_examples=64,
            probes=("auxiliary",),
        )  # fmt: skip
    if preset == "paper":
        augment = ("crop",) if small else ("flip", "crop")  # a mirrored digit is another
        return Spec(
            model="googlenet", model_fields=(*fields, ("width_multiplier", 0.5)), data=data.at_size(32), steps=20_000,
            evaluate_every=1_000, augment=augment, probes=("auxiliary",), train_examples=10_000,
        )  # fmt: skip
    fields += (("blocks", ("4a", "4d", "5b")), ("width_multiplier", 1 / 8))
    return Spec(
        model="googlenet", model_fields=fields, data=data if small else data.at_size(16), steps=300, evaluate_every=60,
        batch_size=32, train_examples=1_024, probes=("auxiliary",),
    )  # fmt: skip


def hyper(preset: str, data: DataConfig) -> Hyper:
    """The numbers that all runs share; the net has no normalisation by batch, and so takes small steps."""
    if preset == "paper":
        return Hyper(learning_rate=0.01, warmup=0.02, l2=1e-4)
    real = preset == "quick" and data.external
    return Hyper(learning_rate=0.02, warmup=0.1, train_size=4_096 if real else 0)


def grid(preset: str, data: DataConfig) -> Grid:
    """Without and with the auxiliary losses."""
    return product(auxiliary_weight=WEIGHTS)


def verdict(rows: list[dict]) -> list[claims.Verdict]:
    """The outputs of the net that trains all of them, and with less without, seed by seed."""
    chance = claims.chance(rows)

    def found(metric: str, weight: float, diverged: float = chance) -> dict[int, float]:
        return claims.by_seed(rows, metric, {"auxiliary_weight": weight}, diverged=diverged)

    without, with_losses = WEIGHTS
    middle, end = (found(metric, with_losses) for metric in ("test_error_auxiliary1", "test_error"))
    gaps = [found("test_loss", weight, math.nan) for weight in (with_losses, without)]
    trains = [found("train_loss", weight, math.nan) for weight in (with_losses, without)]
    return claims.judge(
        CLAIMS,
        {
            "intermediate-output-works": claims.contrast([middle], [dict.fromkeys(middle, chance / 2)]),
            "deeper-is-better": claims.contrast([middle], [end]),
            "lower-error": claims.contrast([end], [found("test_error", without)]),
            "regularises": claims.contrast([gaps[0], trains[1]], [trains[0], gaps[1]]),
        },
    )


def draw(figure: "matplotlib.figure.Figure", rows: Sequence[Row], measured: Sequence[Row]) -> None:
    """Errors of the outputs, with their losses; and the error and the gap at the end, without and with."""
    style.resize(figure, 3.4)
    axes = figure.subplots(1, 3)
    done = [row for row in rows if row["status"] == "done"]
    metrics = {
        weight: [row["metrics"] for row in done if row["assignment"]["auxiliary_weight"] == weight]
        for weight in WEIGHTS
    }
    for place, metric in enumerate(OUTPUTS):
        style.dots(axes[0], place, [found[metric] for found in metrics[WEIGHTS[1]]], style.COLOURS[1])
    for place, members in enumerate(metrics.values()):
        style.dots(axes[1], place, [found["test_error"] for found in members], style.COLOURS[place])
        gaps = [found["test_loss"] - found["train_loss"] for found in members]
        style.dots(axes[2], place, gaps, style.COLOURS[place], limits=(-math.inf, math.inf))
    weights = [f"weight {weight:g}" for weight in WEIGHTS]
    style.name_rows(axes[0], list(OUTPUTS.values()), "test error (fraction)")
    style.name_rows(axes[1], weights, "test error (fraction)")
    style.name_rows(axes[2], weights, "test loss less training loss")
    for ax, title in zip(axes, ("outputs", "at the end", "gap"), strict=True):
        ax.set_title(title)
        ax.set_xlim(left=min(0, ax.get_xlim()[0]) if title == "gap" else 0)


FIGURES = (
    Drawing(
        "outputs",
        "Intermediate outputs, and what their losses do",
        draw,
        "Large dots are means over seeds with 95 % intervals, small grey ones single seeds. On the left the outputs "
        "of the net whose auxiliary losses have the weight 0.3.",
    ),
    Curves("train_loss", hue="auxiliary_weight", title="Training loss at the end of the net"),
)


if __name__ == "__main__":
    raise SystemExit(cli.main(__name__))
