"""Small filters: chains of 3x3 convolutions in place of one large filter, and nets of growing depth.

Two 3x3 convolutions in a row see 5x5 pixels, three see 7x7: as much as one 5x5 or 7x7 filter, with fewer
weights and a nonlinearity after each. The lectures give "small convolutional kernels: only 3x3" and
"increased depth" as the developments of VGG (S3:519-532; S4:386-401). Simonyan and Zisserman 2014
(arXiv:1409.1556) count 27 C^2 weights against 49 C^2 for C channels, and report a top-1 error on ImageNet
that falls from 29.6 % for their net A (11 layers with weights) to 25.5 % for E (19 layers). Row 312 of
lectures.csv.

    python -m experiments.small_filters                                       quick, embedded digits
    python -m experiments.small_filters --data=folder:DIR                     quick, for example CIFAR-10
    python -m experiments.small_filters --preset=paper --data=tfds:cifar10    the nets A to E at full width

Three parts:

1. Counted from the networks themselves, nothing trained: weights, multiply-adds, and the receptive field, which is
   the part of the picture that one output depends on: where its gradient by the picture is not zero.
2. Nets of two stages that differ in the filters of each stage: one 7x7 or three 3x3, one 5x5 or two 3x3. All
   filters keep the size of the map, and 2x2 max pooling ends each stage.
3. Nets of three stages with the numbers of convolutions that the paper's nets have in their first three, where they
   differ most: A 1, 1, 2; B 2, 2, 2; D 2, 2, 3; E 2, 2, 4. (C, which differs from D by 1x1 filters, is left out.)

All nets have batch normalisation. The paper did without it, but had to start its deeper nets from the weights of
the trained net A; from He et al.'s random weights and without normalisation, a pilot's net E on digits reached
training errors of 0.01, 0.29 and 0.87 with three seeds (A: 0.00 to 0.02), which says how hard it is to train and
nothing about depth. The learning rate rises over the first tenth of the run.

Quick enlarges the digits to 16x16, so that a 7x7 filter does not cover the whole map, and trains narrow nets (8
channels in the first stage) for 150 steps with 10 seeds: about a minute on two CPU cores. (A pilot with 4 seeds:
standard deviations of the differences 0.002 and 0.006, so 10 seeds place them below the margin of 0.01 with power
0.9.) Expect nearly all nets to fit the training split, test errors of 0.024 to 0.027 for all four chains, and of
0.019 (A) to 0.022 (E): digits are too easy for depth to help.

On other data quick is the same nets on 4,096 pictures at 16x16 for 600 steps. Paper trains nets of the published
widths, all five stages for part 3, with crops and flips for 20,000 steps at 32x32 and needs an accelerator.
"""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from cnnjax import claims, cli, models
from cnnjax.analysis import multiply_adds
from cnnjax.data import DataConfig
from cnnjax.report import style
from cnnjax.report.figures import Drawing
from cnnjax.report.table import Row
from cnnjax.sweep import Grid, explicit
from cnnjax.train import Hyper, Spec

if TYPE_CHECKING:
    import matplotlib.figure

TITLE = "Small filters: chains of 3x3 convolutions against large ones, and depth"
SEEDS = {"smoke": 2, "quick": 10, "paper": 5}

# Side of the kernel, convolutions in a row -> side of the receptive field. Pairs share it.
CHAINS = {(7, 1): 7, (3, 3): 7, (5, 1): 5, (3, 2): 5}
# Convolutions of each stage (Simonyan and Zisserman 2014, table 1).
DEPTHS = {"A": (1, 1, 2, 2, 2), "B": (2, 2, 2, 2, 2), "D": (2, 2, 3, 3, 3), "E": (2, 2, 4, 4, 4)}
CHANNELS = (4, 16)  # of the nets that are counted

CLAIMS = (
    claims.Claim(
        "same-receptive-field",
        "Three 3x3 convolutions see exactly as much of the picture as one of 7x7, and two as much as one of 5x5.",
        "S3:519-532",
        claims.EXACT,
        margin=1e-9,
        unit="pixels",
    ),
    claims.Claim(
        "fewer-weights",
        "For C channels three 3x3 convolutions have 27 C^2 weights where one of 7x7 has 49 C^2, and two 18 C^2 where "
        "one of 5x5 has 25 C^2; multiply-adds per pixel are the same numbers.",
        "S3:519-532; S4:386-401",
        claims.EXACT,
        margin=1e-9,
        unit="weights, or multiply-adds per pixel, over C^2",
    ),
    claims.Claim(
        "three-small-not-worse",
        "With three 3x3 convolutions in place of one of 7x7 the test error is not higher.",
        "S3:519-532; S4:386-401",
        "not_greater",
        margin=0.01,
        unit="test error, fraction",
    ),
    claims.Claim(
        "two-small-not-worse",
        "With two 3x3 convolutions in place of one of 5x5 the test error is not higher.",
        "S3:519-532; S4:386-401",
        "not_greater",
        margin=0.01,
        unit="test error, fraction",
    ),
    claims.Claim(
        "deeper-is-better",
        "The test error of the deep net E is lower than that of the shallow net A.",
        "S3:519-532",
        "less",
        unit="test error, fraction",
    ),
)
METRICS = ("train_error", "test_error", "parameters")


def spec(preset: str, data: DataConfig) -> Spec:
    """What all runs share; digits are enlarged, and other data made small for ``quick``."""
    if preset == "paper":
        augment = ("crop",) if data.name == "digits" else ("flip", "crop")  # a mirrored digit is another
        large = data.at_size(32)  # five stages halve it five times
        return Spec(
            model="vgg_small", model_fields=(("dense", (512,)), ("norm", "batch")), data=large, steps=20_000,
            evaluate_every=1_000, augment=augment,
        )  # fmt: skip
    if preset == "smoke":
        return Spec(model="vgg_small", model_fields=(("dense", ()),), data=data, steps=2, batch_size=8)
    small = data.at_size(16)
    digits = data.name == "digits"
    return Spec(
        model="vgg_small", model_fields=(("dense", (32 if digits else 64,)), ("norm", "batch")), data=small,
        steps=150 if digits else 600, batch_size=64,
    )  # fmt: skip


def hyper(preset: str, data: DataConfig) -> Hyper:
    """The numbers that all runs share."""
    if preset == "paper":
        return Hyper(learning_rate=0.05, warmup=0.02, l2=2.5e-4)
    real = preset == "quick" and data.external
    return Hyper(learning_rate=0.05 if data.name == "digits" else 0.02, warmup=0.1, train_size=4_096 if real else 0)


def grid(preset: str, data: DataConfig) -> Grid:
    """The four chains, in every stage of a small net; then the nets of growing depth."""
    nets: Mapping[str, tuple[int, ...]]
    widths: tuple[int, ...]  # of part 3; part 2 has the first two
    if preset == "smoke":
        widths, nets = (2,), {"A": (1,), "E": (4,)}
    elif preset == "paper":
        widths, nets = (64, 128, 256, 512, 512), DEPTHS
    else:
        widths, nets = (8, 16, 32), {name: repeats[:3] for name, repeats in DEPTHS.items()}
    chains = [
        {"model.kernel_size": side, "model.stages": tuple((width, times) for width in widths[:2])}
        for side, times in CHAINS
    ]
    depths = [{"model.stages": tuple(zip(widths, repeats, strict=True))} for repeats in nets.values()]
    return explicit(*chains, *depths)


def chain(assignment: Mapping[str, Any]) -> tuple[int, int] | None:
    """(side of the kernel, convolutions in a row) of a condition of part 2, None for one of part 3."""
    if "model.kernel_size" not in assignment:
        return None
    return assignment["model.kernel_size"], assignment["model.stages"][0][1]


def depth(assignment: Mapping[str, Any]) -> int:
    """The number of convolutions of a condition's net."""
    return sum(times for _, times in assignment["model.stages"])


def measure(preset: str, data: DataConfig) -> list[Row]:
    """The receptive field of each chain; its weights and multiply-adds, from networks of several widths."""
    fields = [
        claims.measured({"kernel": side, "convolutions": times}, 0, {"receptive_field": receptive_field(side, times)})
        for side, times in CHAINS
    ]
    costs = [
        claims.measured({"kernel": side, "convolutions": times, "channels": channels}, 0, cost(side, times, channels))
        for side, times in CHAINS
        for channels in CHANNELS
    ]
    return [*fields, *costs]


def cost(side: int, times: int, channels: int, size: int = 16) -> dict[str, float]:
    """What ``times`` convolutions with kernels of this side take, from C channels to C, in units of C^2.

    ``weights`` are without biases; ``multiply_adds`` are for each pixel of a picture of ``size``.
    """
    model = models.create("vgg_small", stages=((channels, times),), dense=(), kernel_size=side)
    shape = (size, size, channels)
    shapes = models.parameter_shapes(model, shape)["params"]
    weights = sum(math.prod(shapes[f"conv1_{place}"]["kernel"].shape) for place in range(1, times + 1))
    head = math.prod(shapes["head"]["kernel"].shape)  # as many multiply-adds as weights
    return {
        "weights": weights / channels**2,
        "multiply_adds": (multiply_adds(model, shape) - head) / (size**2 * channels**2),
    }


def receptive_field(side: int, times: int, size: int = 16) -> int:
    """The side of the square of pixels on which a unit in the middle of a picture of ``size`` depends.

    All weights are 1 and there is no ReLU, so that no path from a pixel to the unit is cancelled or shut off.
    Stride 2 in the last convolution stands for the pooling, which would widen the field by a pixel.
    """
    model = models.create(
        "vgg_small", stages=((1, times),), dense=(), kernel_size=side, pool="stride", activation="identity"
    )
    image_shape = (size, size, 1)
    ones = jax.tree_util.tree_map(lambda leaf: jnp.ones(leaf.shape), models.parameter_shapes(model, image_shape))

    def unit(images):
        stage = model.apply(ones, images)[1]["stage1"]
        return stage[0, size // 4, size // 4, 0]

    paths = np.asarray(jax.jit(jax.grad(unit))(jnp.ones((1, *image_shape))))[0, :, :, 0]
    rows, columns = (np.flatnonzero(paths.any(axis)) for axis in (1, 0))
    return int(max(np.ptp(rows), np.ptp(columns))) + 1


def verdict(rows: list[dict], measured: list[dict]) -> list[claims.Verdict]:
    """Chains of equal receptive field, and the deepest net against the shallowest, seed by seed."""
    counted = [(_kind(row), row["metrics"]) for row in measured]

    def error(side: int, times: int) -> dict[int, float]:
        members = [row for row in rows if chain(row["assignment"]) == (side, times)]
        return claims.by_seed(members, "test_error", {}, diverged=claims.chance(rows))

    deepening = [row for row in rows if chain(row["assignment"]) is None]
    depths = sorted({depth(row["assignment"]) for row in deepening})

    def error_at(convolutions: int) -> dict[int, float]:
        members = [row for row in deepening if depth(row["assignment"]) == convolutions]
        return claims.by_seed(members, "test_error", {}, diverged=claims.chance(rows))

    return claims.judge(
        CLAIMS,
        {
            "same-receptive-field": [
                found["receptive_field"] - CHAINS[kind] for kind, found in counted if "receptive_field" in found
            ],
            "fewer-weights": [
                found[name] - side**2 * times
                for (side, times), found in counted
                for name in ("weights", "multiply_adds")
                if name in found
            ],
            "three-small-not-worse": claims.contrast([error(3, 3)], [error(7, 1)]),
            "two-small-not-worse": claims.contrast([error(3, 2)], [error(5, 1)]),
            "deeper-is-better": claims.contrast([error_at(depths[-1])], [error_at(depths[0])]) if depths else [],
        },
    )


def _kind(row: Row) -> tuple[int, int]:
    return row["assignment"]["kernel"], row["assignment"]["convolutions"]


def draw_chains(figure: "matplotlib.figure.Figure", rows: Sequence[Row], measured: Sequence[Row]) -> None:
    """Test error and weights of each chain."""
    style.resize(figure, 3.6)
    errors, costs = figure.subplots(1, 2, sharey=True)
    names = {kind: f"{('one', 'two', 'three')[kind[1] - 1]} {kind[0]}x{kind[0]}" for kind in CHAINS}
    done = [row for row in rows if row["status"] == "done"]
    for place, kind in enumerate(names):
        colour = style.COLOURS[kind[0] == 3]
        members = [row["metrics"]["test_error"] for row in done if chain(row["assignment"]) == kind]
        style.dots(errors, place, members, colour)
        counted = [row["metrics"] for row in measured if _kind(row) == kind and "weights" in row["metrics"]]
        weights = counted[0]["weights"]
        costs.barh(place, weights, color=colour, height=0.55)
        costs.text(weights + 1, place, f"{weights:g} C²", va="center")
    for ax, text in ((errors, "test error (fraction)"), (costs, "weights over C²")):
        style.name_rows(ax, list(names.values()), text)
        ax.set_xlim(left=0)
    costs.set_xlim(0, 60)


def draw_depths(figure: "matplotlib.figure.Figure", rows: Sequence[Row], measured: Sequence[Row]) -> None:
    """Training and test error against the number of convolutions of part 3."""
    style.resize(figure, 3.8)
    ax = figure.subplots()
    done = [row for row in rows if row["status"] == "done" and chain(row["assignment"]) is None]
    depths = sorted({depth(row["assignment"]) for row in done})
    for metric, look in style.hues(("train_error", "test_error")).items():
        samples = [[row["metrics"][metric] for row in done if depth(row["assignment"]) == each] for each in depths]
        for each, values in zip(depths, samples, strict=True):
            ax.plot([each] * len(values), values, "o", color=look["color"], alpha=0.3, markersize=3.5)
        means, lows, highs = np.clip(style.intervals(samples), 0, 1)
        label = {"train_error": "training", "test_error": "test"}[metric]
        ax.errorbar(depths, means, yerr=[means - lows, highs - means], capsize=3.5, label=label, **look)
    by_depth = {sum(repeats[:3]): name for name, repeats in DEPTHS.items()}
    by_depth |= {sum(repeats): name for name, repeats in DEPTHS.items() if sum(repeats) not in by_depth}
    ax.set_xticks(depths, [f"{each} ({by_depth[each]})" if each in by_depth else str(each) for each in depths])
    ax.set_xlabel("convolutions (net)")
    ax.set_ylabel("error (fraction)")
    ax.set_ylim(bottom=-0.003)
    ax.legend()


FIGURES = (
    Drawing(
        "chains",
        "One large filter, or a chain of small ones that sees as much",
        draw_chains,
        "Large dots are means over seeds with 95 % intervals, small grey ones single seeds. Right: what a chain costs, "
        "for C channels.",
    ),
    Drawing(
        "depths",
        "Error against depth",
        draw_depths,
        "Means over seeds with 95 % intervals; faint dots are single seeds. A to E are the patterns of the VGG paper's "
        "nets.",
    ),
)


if __name__ == "__main__":
    raise SystemExit(cli.main(__name__))
