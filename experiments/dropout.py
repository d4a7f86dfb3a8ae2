"""Dropout against its rate: in which layers, and with or without batch normalisation.

Dropout switches off a random part of the units for each minibatch (S0:904-913), so that no unit can rely on
another one; what stays is scaled up so that the expectation of every activation is kept, and nothing is dropped
when the net is evaluated. It is one of the lectures' handles against overfitting. Of nets with batch
normalisation they say "no dropout" (S2:203). Rows 130, 144, 289 and 298 of lectures.csv.

    python -m experiments.dropout                                       quick, embedded digits
    python -m experiments.dropout --data=folder:DIR --seeds=6           quick, for example CIFAR-10
    python -m experiments.dropout --preset=paper --data=tfds:cifar10    the net of Srivastava et al. 2014

The rate is one traced axis. Where dropout stands (after the hidden dense layers, or also after every stage of
convolutions) and the normalisation make four programs. A claim about "the best dropout" takes the place and the
rate above 0 with the smallest mean validation error, and then compares on the test split.

Quick trains a VGG-style net with two stages of convolutions on 128 digits for 600 steps, with 14 seeds: about two
and a half minutes on two CPU cores. Expect a test error near 0.09 without dropout and near 0.07 at rates of 0.1 to 0.3
in all layers; with batch normalisation near 0.08 and near 0.06, so that dropout helps such a net too. At 0.5 in all
layers so small a net underfits. On other data Quick is a net with three stages on 2,048 images at 16x16 for 1,200
steps, about 8 minutes with 6 seeds; expect on CIFAR-10 0.58 without and 0.55 with dropout at 0.1 in all layers, and
0.54 and 0.51 with batch normalisation.

Paper is the net of Srivastava et al. 2014, section 6.1.2: convolutions of 96, 128 and 256 maps, 5x5, each
followed by pooling, then two dense layers of 2,048 units. Two things differ: the pooling windows are 2x2 (theirs are
3x3, stride 2), and all layers share one rate (theirs rises from 0.1 at the input to 0.5). They report test errors on
CIFAR-10 of 15.60 % without dropout, 14.32 % with it in the dense layers and 12.61 % with it in all layers. It
needs an accelerator.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from cnnjax import claims, cli, models
from cnnjax.data import DataConfig
from cnnjax.nn import Dropout
from cnnjax.report import style
from cnnjax.report.figures import Drawing
from cnnjax.sweep import Grid, explicit, product
from cnnjax.sweep.grid import axis
from cnnjax.train import Hyper, Spec
from cnnjax.typing import UsageError

if TYPE_CHECKING:
    import matplotlib.figure

TITLE = "Dropout: its rate, its place, and batch normalisation"
RATES = {
    "smoke": (0.0, 0.5),
    "quick": (0.0, 0.1, 0.2, 0.3, 0.5),
    "paper": (0.0, 0.1, 0.25, 0.5),
}
OTHER_RATES = (0.0, 0.1, 0.3, 0.5)  # quick, on data other than digits
# Pilots: on digits (6 seeds), "batch-norm-needs-none" had 0.026 with a standard deviation of 0.017: 14 seeds for a
# power of 0.8. On CIFAR-10 (2 seeds) effects were 0.014 to 0.036 with one of about 0.006: 5 seeds.
SEEDS = {"smoke": 2, "quick": 14, "paper": 5}
PLACES = {"dense": "after the dense layers", "all": "after all layers"}
NORMS = {"none": "without normalisation", "batch": "with batch normalisation"}
OTHER_STEPS = 1_200

CLAIMS = (
    claims.Claim(
        "dropout-shrinks-gap",
        "Without batch normalisation, the best dropout makes the test loss exceed the training loss by less.",
        "S0:904-913",
        "less",
        unit="test loss - training loss, per example",
    ),
    claims.Claim(
        "dropout-improves-test",
        "Without batch normalisation, the best dropout lowers the test error.",
        "S0:904-913",
        "less",
        unit="test error, fraction",
    ),
    claims.Claim(
        "batch-norm-needs-none",
        "With batch normalisation, doing without dropout costs at most 0.01 of test error against the best dropout.",
        "S2:203",
        "not_greater",
        margin=0.01,
        unit="test error, fraction",
    ),
    claims.Claim(
        "less-use-with-batch-norm",
        "The best dropout lowers the test error by less with batch normalisation than without it.",
        "S2:203",
        "greater",
        unit="test error, fraction",
    ),
    claims.Claim(
        "expectation-kept",
        "The mean over all masks of what dropout returns, weighted by their probabilities, is what it was given.",
        "S0:904-913",
        claims.EXACT,
        margin=1e-5,
        unit="largest difference of an activation",
    ),
    claims.Claim(
        "off-at-test",
        "In evaluation a net returns the same whatever its dropout rate.",
        "S0:904-913",
        claims.EXACT,
        margin=1e-9,
        unit="largest difference of a logit",
    ),
)
METRICS = ("train_error", "valid_error", "test_error", "gap_loss")


def spec(preset: str, data: DataConfig) -> Spec:
    """What all runs share; ``data`` other than digits gets a larger net and is made small for ``quick``."""
    if preset == "paper":
        paper = (("dense", (2048, 2048)), ("kernel_size", 5), ("stages", ((96, 1), (128, 1), (256, 1))))
        return Spec(model="vgg_small", model_fields=paper, data=data, steps=40_000, evaluate_every=2_000)
    steps = {"smoke": 3, "quick": 600 if data.name == "digits" else OTHER_STEPS}[preset]
    if preset == "smoke":
        fields: tuple[tuple[str, Any], ...] = (("dense", (8,)), ("stages", ((4, 1),)))
    elif data.name == "digits":
        fields = (("dense", (64,)), ("stages", ((16, 1), (32, 1))))
    else:
        fields = (("stages", ((16, 1), (32, 1), (64, 1))),)
        data = data.at_size(16)
    return Spec(model="vgg_small", model_fields=fields, data=data, steps=steps, batch_size=64)


def grid(preset: str, data: DataConfig) -> Grid:
    """Every rate, in both places, with and without batch normalisation; without dropout, the place is no matter."""
    places = ("dense",) if preset == "smoke" else tuple(PLACES)
    static = product(axis("model.norm", NORMS), axis("model.dropout_at", places))
    rates = OTHER_RATES if preset == "quick" and data.name != "digits" else RATES[preset]
    conditions = product(static, dropout=rates)
    return explicit(*(each for each in conditions if each["dropout"] or each["model.dropout_at"] == "dense"))


def hyper(preset: str, data: DataConfig) -> Hyper:
    """The numbers that all runs share; few examples, so that nets overfit."""
    if preset == "paper":
        return Hyper(learning_rate=0.05, warmup=0.02)
    if data.name == "digits":
        return Hyper(learning_rate=0.05, warmup=0.05, train_size=128)
    return Hyper(learning_rate=0.05, warmup=0.05, train_size=2_048 if preset == "quick" else 0)


def verdict(rows: list[dict], measured: list[dict]) -> list[claims.Verdict]:
    """The best dropout of each normalisation, chosen on validation, against none in the same net."""
    without: dict[tuple[str, str], dict[int, float]] = {}
    best: dict[tuple[str, str], dict[int, float]] = {}
    for norm in NORMS:
        chosen = best_dropout(rows, norm)
        for metric, diverged in (
            ("train_loss", math.nan),
            ("test_loss", math.nan),
            ("test_error", claims.chance(rows)),
        ):
            best[norm, metric] = claims.by_seed(rows, metric, {"model.norm": norm, **chosen}, diverged)
            off = {"model.norm": norm, "model.dropout_at": "dense", "dropout": 0.0}
            without[norm, metric] = claims.by_seed(rows, metric, off, diverged)
    return claims.judge(
        CLAIMS,
        {
            "dropout-shrinks-gap": claims.contrast(
                [best["none", "test_loss"], without["none", "train_loss"]],
                [best["none", "train_loss"], without["none", "test_loss"]],
            ),
            "dropout-improves-test": claims.contrast([best["none", "test_error"]], [without["none", "test_error"]]),
            "batch-norm-needs-none": claims.contrast([without["batch", "test_error"]], [best["batch", "test_error"]]),
            "less-use-with-batch-norm": claims.contrast(
                [best["batch", "test_error"], without["none", "test_error"]],
                [without["batch", "test_error"], best["none", "test_error"]],
            ),
            **{claim.id: deviations(measured, claim.id) for claim in CLAIMS if claim.test == claims.EXACT},
        },
    )


def best_dropout(rows: list[dict], norm: str) -> dict[str, Any]:
    """The place and the rate above 0 of the smallest mean validation error, as a part of an assignment.

    Raises:
      UsageError: no run has a rate above 0.
    """
    candidates = [
        {"model.dropout_at": place, "dropout": rate}
        for place, rate in itertools.product(PLACES, sorted({row["assignment"]["dropout"] for row in rows}))
        if rate > 0
    ]
    if not candidates:
        raise UsageError("No run has a dropout rate above 0, which the claims compare with 0. Sweep one.")

    def error(candidate: Mapping[str, Any]) -> float:
        found = claims.by_seed(rows, "valid_error", {"model.norm": norm, **candidate}, claims.chance(rows))
        return float(np.mean(list(found.values()))) if found else float("inf")

    return min(candidates, key=error)


def deviations(measured: list[dict], claim: str) -> list[float]:
    """How far every computed case of an exact claim is from holding."""
    return [row["metrics"]["deviation"] for row in measured if row["assignment"]["identity"] == claim]


def measure(preset: str, data: DataConfig) -> list[dict]:
    """The identities of the layer and of a net that is evaluated, in seconds."""
    found = {
        "expectation-kept": {rate: mask_difference(rate) for rate in (0.1, 0.25, 0.5, 0.75)},
        "off-at-test": evaluation_differences((0.1, 0.5, 0.9)),
    }
    return [
        claims.measured({"identity": identity, "dropout": rate}, 0, {"deviation": deviation})
        for identity, cases in found.items()
        for rate, deviation in cases.items()
    ]


def mask_difference(rate: float) -> float:
    """How far the expectation of dropout's output is from its input, summed over the 2^4 masks of four units.

    So many draws are made that every mask occurs; one that did not would be missing in the sum.
    """
    units = jnp.array([1.0, -2.0, 0.5, 3.0])
    keys = jax.random.split(jax.random.key(0), 2**14)
    drawn = np.asarray(jax.vmap(lambda key: Dropout().apply({}, units, rate, True, rngs={"dropout": key}))(keys))
    masks, first = np.unique(drawn != 0, axis=0, return_index=True)
    probabilities = np.where(masks, 1 - rate, rate).prod(1)
    return float(np.abs(probabilities @ drawn[first] - units).max())


def evaluation_differences(rates: Sequence[float]) -> dict[float, float]:
    """How far a net's logits in evaluation are, at each rate, from those without dropout."""
    net = models.create("vgg_small", stages=((4, 1),), dense=(8,), norm="batch", dropout_at="all")
    images = jax.random.uniform(jax.random.key(1), (16, 8, 8, 1))
    variables = net.init(jax.random.key(0), images)
    evaluate = jax.jit(lambda rate: net.apply(variables, images, train=False, dropout_rate=rate)[0])
    return {rate: float(jnp.abs(evaluate(rate) - evaluate(0.0)).max()) for rate in rates}


def draw_rates(
    figure: "matplotlib.figure.Figure",
    rows: Sequence[Mapping[str, Any]],
    measured: Sequence[Mapping[str, Any]],
    *,
    metric: str,
    label: str,
) -> None:
    """A final metric against the rate: a panel for each normalisation, a line for each place."""
    looks = style.hues(PLACES.values())
    rates = sorted({row["assignment"]["dropout"] for row in rows})
    done = [row for row in rows if row["status"] == "done"]
    for ax, (norm, title) in zip(panels := style.panels(figure, len(NORMS)), NORMS.items(), strict=True):
        for shift, (place, text) in enumerate(PLACES.items()):
            wheres = [
                {"model.norm": norm, "model.dropout_at": place if rate else "dense", "dropout": rate} for rate in rates
            ]
            samples = [list(claims.by_seed(done, metric, where).values()) for where in wheres]
            means, lows, highs = style.intervals(samples)
            at = np.array(rates) + 0.006 * shift  # apart, so that the bars stay visible
            ax.errorbar(at, means, yerr=[means - lows, highs - means], capsize=3.5, **looks[text])
        ax.set_title(title.capitalize())
        ax.set_xlabel("dropout rate")
    panels[0].set_ylabel(label)
    style.legend(figure, looks, "")


HOW_TO_READ = "Each dot is a mean over seeds, each bar its 95 % interval; a rate of 0 is no dropout."
FIGURES = tuple(
    Drawing(name, f"{title} against the dropout rate", partial(draw_rates, metric=metric, label=label), HOW_TO_READ)
    for name, title, metric, label in (
        ("error", "Test error", "test_error", "test error (fraction)"),
        ("gap", "Validation loss less training loss", "gap_loss", "gap (loss, mean per example)"),
        ("training", "Training error", "train_error", "training error (fraction)"),
    )
)


if __name__ == "__main__":
    raise SystemExit(cli.main(__name__))
