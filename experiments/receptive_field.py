"""Receptive fields: linear growth without dilation, exponential with it, and what of the field really counts.

The receptive field is "the region in the input space that a particular CNN's feature is looking at"; of plain
convolutions it "grows linearly with the number of layers (3x3, 5x5, 7x7)", while dilation lets it grow exponentially
and "the number of parameters grows linearly", "without loss of resolution" (S1:1122-1137; S3:801-819). Without padding
the output shrinks and information at the edges is thrown away (S4:163-165; S1:797-799). Luo et al. 2016
(arXiv:1701.04128) found that the part of the field that matters is smaller, grows like the root of the depth and not
like the depth, and widens in training. Rows 304 to 306, 308 and 340 of lectures.csv.

    python -m experiments.receptive_field                                       quick, embedded digits
    python -m experiments.receptive_field --data=folder:DIR                     quick, for example CIFAR-10
    python -m experiments.receptive_field --preset=paper --data=tfds:cifar10    wider nets, longer runs

Two parts:

1. Computed, nothing trained: sizes of fields by formula, by the network's traced program and by the gradient's
   support; sizes of maps and weights; how often pixels at the border are read; and the effective field of random nets
   of 1 to 16 layers. The effective field is the side of the evenly read square that is as spread out as the squared
   gradient of the middle unit (``analysis.support.effective_side``): k for one layer of kernel k, and about
   sqrt(1 + 8 L) for L layers of 3x3.
2. Nets of three 3x3 layers with and without dilation, each with as many weights, and one of six layers: the effective
   field of the last map before and after training, measured on the test pictures.

Quick enlarges the digits to 20x20, so that fields of up to 15 fit, and trains narrow nets for 150 steps with 8 seeds:
about two minutes on two CPU cores. On other data quick is the same nets on 4,096 pictures at 20x20 for 400 steps.
Paper trains nets of 64 channels on whole pictures for 20,000 steps and needs an accelerator.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from cnnjax import claims, cli, models, tree
from cnnjax.analysis import receptive_fields
from cnnjax.analysis.coverage import border_counts
from cnnjax.analysis.support import effective_side, gradient_energy, gradient_support
from cnnjax.data import DataConfig
from cnnjax.models.dilated import DilatedCNN
from cnnjax.ops.windows import output_size
from cnnjax.report import style
from cnnjax.report.figures import Drawing
from cnnjax.report.table import Row
from cnnjax.sweep import Grid, product
from cnnjax.train import Hyper, Spec

if TYPE_CHECKING:
    import matplotlib.figure

TITLE = "Receptive fields: with and without dilation, in theory and in effect"
SEEDS = {"smoke": 2, "quick": 8, "paper": 5}

PLAIN, DILATED, DEEP = (1, 1, 1), (1, 2, 4), (1,) * 6
NAMES = {PLAIN: "three layers", DILATED: "three layers, dilated 1, 2, 4", DEEP: "six layers"}
DEPTHS = (1, 2, 3, 4, 5)  # of the nets whose fields are computed
RANDOM_DEPTHS = (1, 2, 4, 8, 16)  # of the nets whose effective fields are
SIDE = 40  # pixels: more than the largest of these fields; no border is near

CLAIMS = (
    claims.Claim(
        "linear-without-dilation",
        "L layers of 3x3 see 2 L + 1 pixels, by the network's program and by the support of its gradient.",
        "S1:1131; S3:274-282",
        claims.EXACT,
        margin=1e-9,
        unit="pixels",
    ),
    claims.Claim(
        "exponential-with-dilation",
        "L layers of 3x3 with dilations 1, 2, 4, ... see 2^(L+1) - 1 pixels.",
        "S1:1135-1137; S3:801-819",
        claims.EXACT,
        margin=1e-9,
        unit="pixels",
    ),
    claims.Claim(
        "parameters-linear",
        "Every further layer adds as many weights as the one before it, with dilation and without.",
        "S1:1137",
        claims.EXACT,
        margin=1e-9,
        unit="weights",
    ),
    claims.Claim(
        "dilation-keeps-the-size",
        "The map of a padded dilated stack has the picture's size.",
        "S1:1136; S3:817",
        claims.EXACT,
        margin=1e-9,
        unit="pixels",
    ),
    claims.Claim(
        "without-padding-it-shrinks",
        "Every 3x3 layer without padding takes two pixels off the side, and with zero padding none.",
        "S1:797-799; S4:163-165",
        claims.EXACT,
        margin=1e-9,
        unit="pixels",
    ),
    claims.Claim(
        "without-padding-the-edge-counts-less",
        "Without padding a corner pixel reaches the output of one 3x3 layer by 1 path and a pixel inside by 9; of two "
        "layers, by 1 and by 81.",
        "S4:164-165",
        claims.EXACT,
        margin=1e-9,
        unit="paths",
    ),
    claims.Claim(
        "effective-field-grows-slower",
        "With random weights the effective receptive field grows by a smaller factor, from one layer to sixteen, than "
        "the receptive field, which grows elevenfold.",
        "S1:1129-1131",
        "less",
        unit="difference of log2 (field of 16 layers / field of 1)",
    ),
    claims.Claim(
        "dilation-widens-the-effective-field",
        "After training, the effective field is larger with dilations 1, 2, 4 than without, for as many weights.",
        "S1:1129-1137",
        "greater",
        unit="effective field, pixels",
    ),
    claims.Claim(
        "dilation-beats-depth",
        "After training, three dilated layers have a larger effective field than six plain ones of twice the weights.",
        "S1:1129-1137",
        "greater",
        unit="effective field, pixels",
    ),
    claims.Claim(
        "training-widens-the-field",
        "Training widens the effective field of the six plain layers (Luo et al. 2016).",
        "S1:1124-1131",
        "greater",
        unit="effective field, pixels",
    ),
)
METRICS = ("train_error", "test_error", "test_effective_field")


def spec(preset: str, data: DataConfig) -> Spec:
    """What all runs share; digits are enlarged, and other data made small for ``quick``."""
    shared: dict[str, Any] = {"model": "dilated_cnn", "probes": ("effective_field",)}
    if preset == "paper":
        augment = ("crop",) if data.name == "digits" else ("flip", "crop")  # a mirrored digit is another
        return Spec(
            model_fields=(("norm", "batch"), ("width", 64)), data=data.at_size(32), steps=20_000,
            evaluate_every=1_000, augment=augment, **shared,
        )  # fmt: skip
    if preset == "smoke":
        return Spec(model_fields=(("norm", "batch"), ("width", 4)), data=data, steps=2, batch_size=8, **shared)
    return Spec(
        model_fields=(("norm", "batch"), ("width", 8)), data=data.at_size(20), batch_size=64,
        steps=150 if data.name == "digits" else 400, **shared,
    )  # fmt: skip


def hyper(preset: str, data: DataConfig) -> Hyper:
    """The numbers that all runs share."""
    if preset == "paper":
        return Hyper(learning_rate=0.05, warmup=0.02, l2=2.5e-4)
    return Hyper(learning_rate=0.1, warmup=0.1, train_size=4_096 if preset == "quick" and data.external else 0)


def grid(preset: str, data: DataConfig) -> Grid:
    """The three nets, trained and, with a learning rate of 0, as they start."""
    trained = hyper(preset, data).learning_rate
    return product(**{"model.dilations": list(NAMES), "learning_rate": [0.0, trained]})


def measure(preset: str, data: DataConfig) -> list[Row]:
    """Sizes of fields, maps and counts of both kinds of nets; effective fields of random nets."""
    # As the runs' nets, but random, on pictures of noise: the same for every dataset.
    width, seeds = (4, 3) if preset == "smoke" else (8, 20)
    depths = DEPTHS[: 2 if preset == "smoke" else None]
    fields = [
        claims.measured({"dilated": dilated, "layers": layers}, 0, sizes(dilated, layers))
        for dilated in (False, True)
        for layers in depths
        if not dilated or layers <= 4
    ]
    borders = [
        claims.measured({"border": layers}, 0, {"corner": int(counts[0]) ** 2, "inside": int(counts.max()) ** 2})
        for layers in (1, 2)
        for counts in [border_counts(20, [3] * layers)]
    ]
    random = [
        claims.measured({"random_layers": layers}, seed, {"effective_field": value, "field": 2 * layers + 1})
        for layers in RANDOM_DEPTHS[: 2 if preset == "smoke" else None]
        for seed, value in enumerate(random_fields(layers, width, seeds))
    ]
    return [*fields, *borders, *random]


def sizes(dilated: bool, layers: int) -> dict[str, float]:
    """Of a stack: its field by formula, by its program and by its gradient; weights, and sizes of its maps."""
    dilations = tuple(2**layer if dilated else 1 for layer in range(layers))
    model = DilatedCNN(dilations=dilations, width=2)
    shape = (SIDE, SIDE, 1)
    support = np.flatnonzero(gradient_support(model, shape, f"stage{layers}").any(0))
    shapes = jax.eval_shape(model.init_with_output, jax.random.key(0), jnp.zeros((1, *shape)))[0][1]
    side = SIDE
    for _ in range(layers):
        side = output_size(side, 3, 0, 1)
    return {
        "formula": 2 ** (layers + 1) - 1 if dilated else 2 * layers + 1,
        "field": receptive_fields(model, shape)[f"stage{layers}"].size[0],
        "support": int(support[-1] - support[0]) + 1,
        "parameters": tree.count(models.parameter_shapes(model, shape)["params"]),
        "shrunk_by": SIDE - shapes[f"stage{layers}"].shape[1],
        "shrunk_by_without_padding": SIDE - side,
    }


def random_fields(layers: int, width: int, seeds: int) -> list[float]:
    """The effective field of the last map of plain random nets on pictures of noise, one for each seed."""
    model = DilatedCNN(dilations=(1,) * layers, width=width)
    size = SIDE + 1  # odd: with a pixel in the middle

    def field(seed):
        keys = jax.random.split(jax.random.key(seed))
        images = jax.random.normal(keys[0], (4, size, size, 1))
        variables = model.init(keys[1], images)
        energy = gradient_energy(lambda images: model.apply(variables, images)[1][f"stage{layers}"], images)
        return effective_side(energy.sum(0)[None])[0]

    return [float(value) for value in jax.lax.map(jax.jit(field), jnp.arange(seeds))]


def verdict(rows: list[dict], measured: list[dict]) -> list[claims.Verdict]:
    """Fields by formula, program and gradient; effective fields seed by seed."""
    stacks = [(row["assignment"], row["metrics"]) for row in measured if "dilated" in row["assignment"]]
    borders = [row["metrics"] for row in measured if "border" in row["assignment"]]

    def deviations(dilated: bool) -> list[float]:
        members = [found for at, found in stacks if at["dilated"] == dilated]
        return [found[name] - found["formula"] for found in members for name in ("field", "support")]

    def added(dilated: bool) -> list[float]:
        counts = [found["parameters"] for at, found in stacks if at["dilated"] == dilated]
        return [after - before for before, after in pairwise(counts)]

    def effective(dilations: tuple[int, ...], trained: bool) -> dict[int, float]:
        return claims.by_seed(members(rows, dilations, trained), "test_effective_field", {})

    def growth(metric: str) -> list[dict[int, float]]:
        """log2 of the deepest and of the shallowest random net's, by seed."""
        random = [row for row in measured if "random_layers" in row["assignment"]]
        depths = sorted({row["assignment"]["random_layers"] for row in random})
        return [
            {
                row["seed"]: math.log2(row["metrics"][metric])
                for row in random
                if row["assignment"]["random_layers"] == at
            }
            for at in (max(depths, default=0), min(depths, default=0))
        ]

    (deep, shallow), (deep_field, shallow_field) = growth("effective_field"), growth("field")
    return claims.judge(
        CLAIMS,
        {
            "linear-without-dilation": deviations(False),
            "exponential-with-dilation": deviations(True),
            "parameters-linear": [each - first for first in added(False)[:1] for each in added(False) + added(True)],
            "dilation-keeps-the-size": [found["shrunk_by"] for _, found in stacks],
            "without-padding-it-shrinks": [
                found["shrunk_by_without_padding"] - 2 * at["layers"] for at, found in stacks
            ],
            "without-padding-the-edge-counts-less": [
                found[name] - expected
                for found, inside in zip(borders, (9, 81), strict=False)
                for name, expected in (("corner", 1), ("inside", inside))
            ],
            "effective-field-grows-slower": claims.contrast([deep, shallow_field], [shallow, deep_field]),
            "dilation-widens-the-effective-field": claims.contrast(
                [effective(DILATED, True)], [effective(PLAIN, True)]
            ),
            "dilation-beats-depth": claims.contrast([effective(DILATED, True)], [effective(DEEP, True)]),
            "training-widens-the-field": claims.contrast([effective(DEEP, True)], [effective(DEEP, False)]),
        },
    )


def members(rows: Sequence[Row], dilations: tuple[int, ...], trained: bool) -> list[Row]:
    """The runs of one net, trained or not."""
    return [
        row
        for row in rows
        if tuple(row["assignment"]["model.dilations"]) == dilations
        and (row["assignment"]["learning_rate"] > 0) == trained
    ]


def draw_growth(figure: "matplotlib.figure.Figure", rows: Sequence[Row], measured: Sequence[Row]) -> None:
    """Left: fields against layers, with and without dilation. Right: those of random nets, in theory and in effect."""
    style.resize(figure, 4.2)
    left, right = figure.subplots(1, 2)
    looks = style.hues(("without dilation", "dilations 1, 2, 4, ..."))
    for dilated, look in zip((False, True), looks.values(), strict=True):
        members = [row for row in measured if row["assignment"].get("dilated") == dilated]
        left.plot(
            [row["assignment"]["layers"] for row in members], [row["metrics"]["field"] for row in members], **look
        )
    left.set_xlabel("3x3 layers")
    left.set_ylabel("receptive field (pixels)")
    left.set_ylim(bottom=0)
    left.legend(looks)
    random: dict[int, list[float]] = {}
    for row in measured:
        if "random_layers" in row["assignment"]:
            random.setdefault(row["assignment"]["random_layers"], []).append(row["metrics"]["effective_field"])
    depths = sorted(random)
    lines = style.hues(("field", "effective", "root"))
    right.plot(depths, [2 * layers + 1 for layers in depths], **lines["field"], label="in theory: 2 L + 1")
    style.mean_line(right, random, lines["effective"], label="in effect, random weights")
    right.plot(
        depths,
        [math.sqrt(1 + 8 * layers) for layers in depths],
        color=style.FAINT,
        linestyle=":",
        label="sqrt(1 + 8 L)",
    )
    style.named_log_axis(right, depths, "3x3 layers (L), without dilation")
    right.set_ylabel("field (pixels)")
    right.set_ylim(bottom=0)
    right.legend()


def draw_training(figure: "matplotlib.figure.Figure", rows: Sequence[Row], measured: Sequence[Row]) -> None:
    """The effective fields of the nets before and after training."""
    style.resize(figure, 3.8)
    ax = figure.subplots()
    done = [row for row in rows if row["status"] == "done"]
    names: list[str] = []
    for net, (dilations, name) in enumerate(NAMES.items()):
        for trained in (False, True):
            values = [row["metrics"]["test_effective_field"] for row in members(done, dilations, trained)]
            style.dots(ax, len(names), values, style.COLOURS[net], limits=(1, math.inf))
            names.append(f"{name}, {'trained' if trained else 'at the start'}")
    style.name_rows(ax, names, "effective receptive field of the last map (pixels)")
    ax.set_xlim(left=0)


FIGURES = (
    Drawing(
        "growth",
        "Receptive fields against the number of layers",
        draw_growth,
        "Left: what a unit may read, which the gradient's support confirms. Right: the side of the evenly read square "
        "that is as spread out as the squared gradient of a unit of random nets, with the 95 % interval of its mean.",
        note="Computed, not trained.",
    ),
    Drawing(
        "training",
        "What of the field counts, before and after training",
        draw_training,
        "Large dots are means over seeds with 95 % intervals, small grey ones single seeds. The receptive fields are "
        "7 pixels (three layers), 15 (dilated) and 13 (six layers).",
    ),
)


if __name__ == "__main__":
    raise SystemExit(cli.main(__name__))
