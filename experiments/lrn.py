"""Local response normalisation: does it help?

AlexNet divides every activation by a power of the summed squares of its neighbours in the channel direction
(Krizhevsky et al. 2012, section 3.3); the lectures add that this "doesn't help much" (S4:388). Simonyan and
Zisserman 2014 (arXiv:1409.1556) compared their net A with and without it, A-LRN: 29.7 and 29.6 % top-1 error on
ImageNet, and left it out of all others. Row 313 of lectures.csv.

    python -m experiments.lrn                                       quick, embedded digits
    python -m experiments.lrn --data=folder:DIR                     quick, for example CIFAR-10
    python -m experiments.lrn --preset=paper --data=tfds:cifar10    the net A at its full width, for 32x32

The same comparison, scaled down: nets with the convolutions of A, with and without local response normalisation after
the first of them, from the same weights, on the same batches.

Quick enlarges the digits to 16x16 and trains the first three stages of A at an eighth of its width for 150 steps with
16 seeds: less than a minute on two CPU cores. On other data quick is the same net, twice as wide, on 4,096 pictures at
16x16 for 600 steps. Paper trains all five stages with crops and flips for 20,000 steps and needs an accelerator.

Without training, it is checked that the two nets have the same parameters, and that the layer is what its formula says.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import jax.numpy as jnp
import numpy as np

from cnnjax import claims, cli, models
from cnnjax.data import DataConfig
from cnnjax.models.vgg import CHANNELS, CONVOLUTIONS
from cnnjax.ops.lrn import local_response_norm
from cnnjax.report import style
from cnnjax.report.figures import Curves, Drawing
from cnnjax.report.table import Row
from cnnjax.sweep import Grid, product
from cnnjax.train import Hyper, Spec

if TYPE_CHECKING:
    import matplotlib.figure

TITLE = "Local response normalisation: VGG's net A with and without it"
SEEDS = {"smoke": 2, "quick": 16, "paper": 5}

CLAIMS = (
    claims.Claim(
        "no-parameters",
        "Local response normalisation has no parameters: A and A-LRN have 132,863,336 each.",
        "S2:166-181; S4:388",
        claims.EXACT,
        margin=1e-9,
        unit="parameters",
    ),
    claims.Claim(
        "formula",
        "Each activation a becomes a / (2 + 0.0001 sum of a^2 over five neighbouring channels)^0.75.",
        "S4:388",
        claims.EXACT,
        margin=1e-5,
        unit="share of the activation",
    ),
    claims.Claim(
        "does-not-help-much",
        "With local response normalisation the test error is the same to within 0.01.",
        "S4:388",
        "equivalent",
        margin=0.01,
        unit="test error, fraction",
    ),
)
METRICS = ("train_error", "test_error", "test_loss")


def spec(preset: str, data: DataConfig) -> Spec:
    """What all runs share; digits are enlarged, and other data made small for ``quick``."""
    if preset == "smoke":
        fields = (("dense", ()), ("stages", ((4, 1),)))
        return Spec(model="vgg_small", model_fields=fields, data=data, steps=2, batch_size=8)
    small = data.name == "digits"
    stages = tuple(zip(CHANNELS, CONVOLUTIONS[11], strict=True))
    if preset == "paper":
        augment = ("crop",) if small else ("flip", "crop")  # a mirrored digit is another
        return Spec(
            model="vgg_small", model_fields=(("dense", (512, 512)), ("stages", stages)), data=data.at_size(32),
            steps=20_000, evaluate_every=1_000, augment=augment,
        )  # fmt: skip
    narrow = tuple((channels // (8 if small else 4), count) for channels, count in stages[:3])
    steps = 150 if small else 600
    return Spec(
        model="vgg_small", model_fields=(("dense", (64,)), ("stages", narrow)), data=data.at_size(16), steps=steps,
        batch_size=64, evaluate_every=steps // 5,
    )  # fmt: skip


def hyper(preset: str, data: DataConfig) -> Hyper:
    """The numbers that all runs share."""
    if preset == "paper":
        return Hyper(learning_rate=0.01, warmup=0.02, l2=2.5e-4, dropout=0.5)
    real = preset == "quick" and data.external
    return Hyper(learning_rate=0.05 if data.name == "digits" else 0.02, warmup=0.1, train_size=4_096 if real else 0)


def grid(preset: str, data: DataConfig) -> Grid:
    """A, and A-LRN."""
    return product(**{"model.lrn": (False, True)})


def measure(preset: str, data: DataConfig) -> list[Row]:
    """The parameters of the published nets, and the layer against its formula, channel by channel."""
    counts = [
        claims.measured({"net": name}, 0, {"parameters": models.count_parameters(name)})
        for name in ("vgg11", "vgg11_lrn")
    ]
    activations = 20 * np.random.default_rng(0).standard_normal((2, 3, 3, 9))
    found = np.asarray(local_response_norm(jnp.asarray(activations, jnp.float32)))
    deviations = [
        claims.measured({"channel": channel}, 0, {"deviation": float(np.abs(found[..., channel] / divided - 1).max())})
        for channel in range(9)
        for divided in [_by_formula(activations, channel)]
    ]
    return [*counts, *deviations]


def _by_formula(activations: np.ndarray, channel: int) -> np.ndarray:
    """One channel, divided by a power of what it and two neighbours on either side sum up to."""
    near = activations[..., max(0, channel - 2) : channel + 3]
    return activations[..., channel] / (2 + 1e-4 * (near**2).sum(-1)) ** 0.75


def verdict(rows: list[dict], measured: list[dict]) -> list[claims.Verdict]:
    """With less without, seed by seed."""
    with_lrn, without = (
        claims.by_seed(rows, "test_error", {"model.lrn": lrn}, diverged=claims.chance(rows)) for lrn in (True, False)
    )
    return claims.judge(
        CLAIMS,
        {
            "no-parameters": [
                row["metrics"]["parameters"] - 132_863_336 for row in measured if "net" in row["assignment"]
            ],
            "formula": [row["metrics"]["deviation"] for row in measured if "channel" in row["assignment"]],
            "does-not-help-much": claims.contrast([with_lrn], [without]),
        },
    )


def draw(figure: "matplotlib.figure.Figure", rows: Sequence[Row], measured: Sequence[Row]) -> None:
    """Test error with and without, and their differences seed by seed beside the margin."""
    style.resize(figure, 3.4)
    left, right = figure.subplots(1, 2, width_ratios=(1, 1))
    done = [row for row in rows if row["status"] == "done"]
    errors = {
        lrn: {row["seed"]: row["metrics"]["test_error"] for row in done if row["assignment"]["model.lrn"] == lrn}
        for lrn in (False, True)
    }
    for place, lrn in enumerate(errors):
        style.dots(left, place, list(errors[lrn].values()), style.COLOURS[place])
    style.name_rows(left, ("A", "A-LRN"), "test error (fraction)")
    left.set_xlim(left=0)
    differences = claims.contrast([errors[True]], [errors[False]])
    style.differences(right, differences, CLAIMS[-1].margin, "A-LRN less A (fraction)")


FIGURES = (
    Drawing(
        "errors",
        "Test error with and without local response normalisation",
        draw,
        "Means over seeds with 95 % intervals; small grey dots are single seeds. On the right are differences of test "
        "errors; the band is the margin.",
    ),
    Curves("train_loss", hue="model.lrn", title="Training loss"),
)


if __name__ == "__main__":
    raise SystemExit(cli.main(__name__))
