"""Normalisation: none, batch, instance, group and layer against learning rate, batch size and depth.

A normalisation layer subtracts a mean from its input and divides by a standard deviation, so that the next
layer always reads numbers of mean 0 and variance 1. The kinds differ in what they average over: the batch and
all places (batch), the places of one channel of one image (instance), of some channels (group), of all (layer).
The lectures (S3:617-679; rows 294-297 of lectures.csv) say that this allows larger learning rates and fewer steps,
that what comes out does not depend on the mean and variance of what goes in, and that batch normalisation must
remember statistics for the test. Ioffe and Szegedy 2015 (arXiv:1502.03167) raised the rate five-fold and more; Wu and
He 2018 (arXiv:1803.08494) found batch normalisation better than instance normalisation, and worse than group
normalisation with two images in a batch, when its statistics are noise.

    python -m experiments.normalization                           quick, embedded digits
    python -m experiments.normalization --data=folder:DIR         quick, for example CIFAR-10
    python -m experiments.normalization --preset=paper --data=folder:DIR

Quick trains a net of four 3x3 convolutions on digits (8x8), 6,400 images in batches of 32 at a constant rate, with
8 seeds: every kind at seven learning rates, none and batch normalisation at half and twice the depth too, batch and
group normalisation also in batches of 8 and 2. About 3 minutes on two CPU cores. Expect the net to bear a rate of 0.04
without normalisation and about 0.25 with batch or instance normalisation, two thirds of the steps to the same training
error, and test errors of 0.02 throughout: digits are too easy for the kinds to differ much in what they learn. On
other data it is a net of five convolutions on 4,096 images at 16x16, 12,800 images seen, about 6 minutes. Expect on
CIFAR-10 test errors of 0.57 (batch), 0.61 (instance and group) and 0.63 (layer and none), fewer than half as many
steps, but hardly a larger rate (0.02 without and 0.04 with batch normalisation: the nets are still learning, and a
smaller rate serves both); in batches of two, batch normalisation loses its lead, and its remembered statistics differ
from its own. Paper is the same comparison with nets of 3 to 12 convolutions of 64 to 256 channels on the whole
training split, 2.5 million images seen; it needs an accelerator.

A rate counts as stable if it costs at most 0.1 of training error against the best rate of the same kind and seed;
runs that diverge count with the error of chance. The rate at which kinds are compared is the one with the smallest
mean validation error, chosen for each kind and batch size; the comparison itself reads the training history or the
test split. Steps are counted as Ioffe and Szegedy did: until the training error is as good as
what the net without normalisation ends with, to within 0.05.
"""

import dataclasses
import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from cnnjax import claims, cli
from cnnjax.data import DataConfig
from cnnjax.nn import norm_layer
from cnnjax.report import style
from cnnjax.report.figures import Drawing
from cnnjax.report.table import Row, value_text
from cnnjax.sweep import Grid, product, zipped
from cnnjax.sweep.grid import axis
from cnnjax.train import Hyper, Spec

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

TITLE = "Normalisation: none, batch, instance, group, layer"
KINDS = ("none", "batch", "instance", "group", "layer")
SEEDS = {"smoke": 2, "quick": 8, "paper": 5}
TIMES = 5  # Ioffe and Szegedy's factor between the rates with and without
TOLERANCE = 0.1  # training error that a stable rate may cost
CLOSE = 0.05  # training error within which a net is as good as another
GROUPS = 8  # of group normalisation, here as in ``cnnjax.models.vgg``

Stages = tuple[tuple[int, int], ...]

CLAIMS = (
    claims.Claim(
        "larger-rates",
        "With batch normalisation the largest stable learning rate is larger than without.",
        "S3:620-622",
        "greater",
        unit="log10 of the ratio of rates",
    ),
    claims.Claim(
        "five-times-larger-rates",
        f"With batch normalisation the largest stable learning rate is more than {TIMES} times that without.",
        "S3:620-622",
        "greater",
        unit=f"log10 of the ratio of rates, less log10 {TIMES}",
    ),
    claims.Claim(
        "fewer-steps",
        "With batch normalisation fewer steps lead to the training error that the net without it ends with.",
        "S3:620-622",
        "greater",
        unit="log2 of the ratio of steps, without to with",
    ),
    claims.Claim(
        "batch-against-instance",
        "The test error with batch normalisation is not higher than with instance normalisation.",
        "S3:651-677",
        "not_greater",
        margin=0.01,
        unit="test error, fraction",
    ),
    claims.Claim(
        "small-batches",
        "From the largest batches to those of two images, batch normalisation loses against group normalisation.",
        "S3:666-677",
        "greater",
        unit="test error, fraction",
    ),
    claims.Claim(
        "remembered-statistics",
        "The remembered statistics give another test loss than the batches' own, more so in batches of two images.",
        "S3:677",
        "greater",
        unit="absolute difference of test losses, smallest batch less largest",
    ),
    claims.Claim(
        "invariant-output",
        "What a normalisation layer puts out does not depend on the mean and variance of what it normalises.",
        "S3:621",
        claims.EXACT,
        margin=1e-3,
        unit="largest change of an output",
    ),
    claims.Claim(
        "unit-interface",
        "What a normalisation layer puts out has mean 0 and variance 1.",
        "S3:620; S3:631-656",
        claims.EXACT,
        margin=1e-3,
        unit="largest deviation of a mean from 0 or a variance from 1",
    ),
)
METRICS = ("train_error", "valid_error", "test_error", "test_error_batch_statistics")


def spec(preset: str, data: DataConfig) -> Spec:
    """What all runs share; ``data`` other than digits is made small for ``quick``."""
    sized = data if preset == "paper" else data.at_size(8 if data.name == "digits" else 16)
    fraction = data.valid_fraction if preset == "paper" or data.name == "digits" else 0.02  # 1,000 of CIFAR-10
    return Spec(
        model="vgg_small", model_fields=(("dense", ()),), schedule="constant", probes=("batch_statistics",),
        data=dataclasses.replace(sized, valid_fraction=fraction),
        train_examples={"smoke": 32, "quick": 256, "paper": 5_000}[preset],
    )  # fmt: skip


def hyper(preset: str, data: DataConfig) -> Hyper:
    """The numbers that all runs share."""
    real = data.external
    return Hyper(momentum=0.9, train_size=4_096 if real and preset == "quick" else 0)


def grid(preset: str, data: DataConfig) -> Grid:
    """Kinds by rates; none and batch normalisation by depth; batch and group normalisation in smaller batches."""
    if preset == "smoke":
        base = functools.partial(_points, stages=((16, 1),), rates=(0.01,))
        return base(("none", "batch", "instance", "group"), sizes=((8, 3),)) + base(("batch", "group"), sizes=((2, 3),))
    if preset == "paper":
        large = (0.003, 0.006, 0.012, 0.025, 0.05, 0.1, 0.2, 0.4, 0.8)
        nets = tuple(tuple((width, depth) for width in (64, 128, 256)) for depth in (1, 2, 4))
        sizes = ((128, 20_000), (32, 80_000), (8, 320_000), (2, 1_280_000))
        return _all_points(large, nets, sizes, small=(0.0008, 0.0015, *large[:4]))
    if data.name == "digits":
        nets = tuple(tuple((width, depth) for width in (16, 32)) for depth in (1, 2, 4))
        rates = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64)
        return _all_points(rates, nets, ((32, 200), (8, 800), (2, 3_200)), small=(0.0025, 0.005, 0.01))
    points = functools.partial(_points, stages=((16, 1), (16, 2), (32, 2)))
    return (
        points(("none", "batch"), rates=(0.005, 0.01, 0.02, 0.04, 0.08, 0.16), sizes=((32, 400),))
        + points(("instance", "group", "layer"), rates=(0.005, 0.01, 0.02), sizes=((32, 400),))
        + points(("batch", "group"), rates=(0.00125, 0.0025, 0.005), sizes=((2, 6_400),))
    )


def _all_points(
    rates: Sequence[float], stages: Sequence[Stages], sizes: Sequence[tuple[int, int]], small: Sequence[float]
) -> Grid:
    """The middle one of ``stages`` with every kind; ``sizes``: (batch size, steps), the largest batches first."""
    shallow, middle, deep = stages
    return (
        _points(KINDS, middle, rates, sizes[:1])
        + _points(("none", "batch"), shallow, rates, sizes[:1])
        + _points(("none", "batch"), deep, rates[:-2], sizes[:1])
        + _points(("batch", "group"), middle, small, sizes[1:])
    )


def _points(kinds: Sequence[str], stages: Stages, rates: Sequence[float], sizes: Sequence[tuple[int, int]]) -> Grid:
    """Every kind at every rate and batch size; training is evaluated 20 times, if it is that long."""
    batches, steps = zip(*sizes, strict=True)
    every = [max(1, count // 20) for count in steps]
    return product(
        axis("model.norm", kinds),
        axis("model.stages", (stages,)),
        zipped(batch_size=batches, steps=steps, evaluate_every=every),
        learning_rate=rates,
    )


class Runs:
    """The rows by what they were made for. ``main`` ones: the depth that all kinds ran at, the largest batches."""

    def __init__(self, rows: Iterable[Row]):
        self.rows = list(rows)
        self.batches = sorted({row["assignment"]["batch_size"] for row in self.rows})
        self.depths = sorted({depth(row["assignment"]) for row in self.rows})
        everywhere = {depth(row["assignment"]) for row in self.rows if row["assignment"]["model.norm"] == "instance"}
        self.depth = min(everywhere or self.depths)

    def select(self, kind: str, batch: int | None = None, layers: int | None = None) -> list[Row]:
        """The rows of a kind at one batch size and depth; of the main ones by default."""
        batch, layers = batch or self.batches[-1], layers or self.depth
        return [
            row
            for row in self.rows
            if row["assignment"]["model.norm"] == kind
            and row["assignment"]["batch_size"] == batch
            and depth(row["assignment"]) == layers
        ]


def depth(assignment: Mapping[str, Any]) -> int:
    """The number of convolutions of a condition's net."""
    return sum(repeats for _, repeats in assignment["model.stages"])


def rates_of(rows: Iterable[Row]) -> list[float]:
    """The learning rates of these rows, rising."""
    return sorted({row["assignment"]["learning_rate"] for row in rows})


def errors(rows: Sequence[Row], split: str, rate: float, guess: float) -> dict[int, float]:
    """The error on a split at one rate, by seed; a diverged run is worth ``guess``."""
    return claims.by_seed(rows, f"{split}_error", {"learning_rate": rate}, diverged=guess)


def stable_rate(rows: Sequence[Row], guess: float) -> dict[int, float]:
    """By seed, the largest rate whose training error is at most ``TOLERANCE`` above that of the best rate."""
    found = {rate: errors(rows, "train", rate, guess) for rate in rates_of(rows)}
    seeds = set.intersection(*map(set, found.values())) if found else set()
    best = {seed: min(at[seed] for at in found.values()) for seed in seeds}
    return {
        seed: max(rate for rate, at in found.items() if at[seed] <= best[seed] + TOLERANCE) for seed in sorted(seeds)
    }


def chosen_rate(rows: Sequence[Row], guess: float) -> float:
    """The rate with the smallest validation error, averaged over seeds; the smaller one of equals."""

    def mean(rate: float) -> float:
        found = errors(rows, "valid", rate, guess)
        return float(np.mean(list(found.values()))) if found else math.inf

    return min(rates_of(rows), key=mean)


def at_chosen(rows: Sequence[Row], guess: float) -> list[Row]:
    """The runs at the rate chosen for these rows."""
    rate = chosen_rate(rows, guess)
    return [row for row in rows if row["assignment"]["learning_rate"] == rate]


def steps_to(row: Row, target: float) -> int:
    """Steps until an evaluation finds a training error of at most ``target``; all of them if none does."""
    reached = [entry["step"] for entry in row["history"] if entry["train_error"] <= target]
    return min(reached, default=row["assignment"]["steps"])


def verdict(rows: list[dict], measured: list[dict]) -> list[claims.Verdict]:
    """Compares kinds at their chosen rates, largest stable rates, and small against large batches, seed by seed."""
    runs, guess = Runs(rows), claims.chance(rows)
    plain, batch = runs.select("none"), runs.select("batch")

    def test_error(kind: str, size: int) -> dict[int, float]:
        found = runs.select(kind, size)
        return errors(found, "test", chosen_rate(found, guess), guess)

    few, many = runs.batches[0], runs.batches[-1]
    with_batch, without = (
        claims.mapped(math.log10, stable_rate(batch, guess)),
        claims.mapped(math.log10, stable_rate(plain, guess)),
    )
    return claims.judge(
        CLAIMS,
        {
            "larger-rates": claims.contrast([with_batch], [without]),
            "five-times-larger-rates": [
                value - math.log10(TIMES) for value in claims.contrast([with_batch], [without])
            ],
            "fewer-steps": steps_saved(at_chosen(plain, guess), at_chosen(batch, guess)),
            "batch-against-instance": claims.contrast([test_error("batch", many)], [test_error("instance", many)]),
            "small-batches": claims.contrast(
                [test_error("batch", few), test_error("group", many)],
                [test_error("group", few), test_error("batch", many)],
            ),
            "remembered-statistics": claims.contrast(
                [mismatch(at_chosen(runs.select("batch", few), guess))],
                [mismatch(at_chosen(runs.select("batch", many), guess))],
            ),
            "invariant-output": _deviations(measured, "invariance"),
            "unit-interface": _deviations(measured, "mean") + _deviations(measured, "variance"),
        },
    )


def steps_saved(plain: Sequence[Row], other: Sequence[Row]) -> list[float]:
    """By seed: log2 of the steps of ``plain`` over those of ``other`` to within ``CLOSE`` of where ``plain`` ends."""
    others = {row["seed"]: row for row in other if row["status"] != "failed"}
    saved = []
    for row in sorted(plain, key=lambda row: row["seed"]):
        if row["status"] == "diverged" and row["seed"] in others:
            saved.append(math.nan)  # there is no place where it ends
        elif row["status"] == "done" and row["seed"] in others:
            target = row["metrics"]["train_error"] + CLOSE
            saved.append(math.log2(steps_to(row, target) / steps_to(others[row["seed"]], target)))
    return saved


def mismatch(rows: Sequence[Row]) -> dict[int, float]:
    """By seed: how far apart the test losses by remembered and by the batches' own statistics are."""
    remembered = claims.by_seed(rows, "test_loss", {})
    own = claims.by_seed(rows, "test_loss_batch_statistics", {})
    return claims.mapped(lambda remembered, own: abs(own - remembered), remembered, own)


def _deviations(measured: Iterable[Row], metric: str) -> list[float]:
    return [row["metrics"][metric] for row in measured]


def measure(preset: str, data: DataConfig) -> list[dict]:
    """The exact properties of the four layers, for three random inputs each; nothing is trained."""
    return [
        claims.measured({"model.norm": kind}, seed, layer_deviations(kind, seed))
        for kind in KINDS[1:]
        for seed in range(3)
    ]


def layer_deviations(kind: str, seed: int) -> dict[str, float]:
    """How far a layer at its initialisation is from what normalisation promises.

    The input has variance 1 over whatever the layer averages over. Then the layer's epsilon of 1e-5 changes an output
    by half of 1e-5 of itself, and by 2e-5 where the input is halved: far less than the claims' margin.

    Returns:
      ``invariance``: the largest change of an output when every group of numbers that is normalised together is
      multiplied by a factor of its own from 0.5 to 10 and moved by up to 5; ``mean`` and ``variance``: the largest
      deviations of the groups' means from 0 and variances from 1 after the layer.
    """
    generator = np.random.default_rng(seed)
    shape = (6, 5, 5, GROUPS, 4)  # images, rows, columns, groups of channels, channels of a group
    together = {"batch": (0, 1, 2), "instance": (1, 2), "group": (1, 2, 4), "layer": (1, 2, 3, 4)}[kind]
    x = generator.normal(size=shape)
    x = (x - x.mean(together, keepdims=True)) / x.std(together, keepdims=True)
    each = x.mean(together, keepdims=True).shape
    factors = np.exp(generator.uniform(math.log(0.5), math.log(10), each))
    moved = factors * x + generator.uniform(-5, 5, each)
    layer = norm_layer(kind, groups=GROUPS)()

    def normalized(values: np.ndarray) -> np.ndarray:
        images = jnp.asarray(values.reshape(*shape[:3], -1), jnp.float32)
        variables = layer.init(jax.random.key(0), images, False)
        out, _ = layer.apply(variables, images, True, mutable=["batch_stats"])
        return np.asarray(out, np.float64).reshape(shape)

    out = normalized(x)
    return {
        "invariance": float(np.abs(normalized(moved) - out).max()),
        "mean": float(np.abs(out.mean(together)).max()),
        "variance": float(np.abs(out.var(together) - 1).max()),
    }


def draw_rates(figure: "matplotlib.figure.Figure", rows: Sequence[Row], measured: Sequence[Row]) -> None:
    """The training error at the end against the learning rate; a line for each kind."""
    runs, guess = Runs(rows), claims.chance(rows)
    style.resize(figure, 4.2)
    ax = figure.subplots()
    looks = style.hues(kinds_of(rows))
    for kind, look in looks.items():
        members = runs.select(kind)
        style.mean_line(
            ax, {rate: list(errors(members, "train", rate, guess).values()) for rate in rates_of(members)}, look
        )
    style.named_log_axis(ax, rates_of(runs.select("batch")), "learning rate")
    ax.set_ylabel("training error at the end (fraction)")
    ax.set_ylim(-0.03, 1.03)
    style.legend(figure, looks, "normalisation")


def draw_speed(figure: "matplotlib.figure.Figure", rows: Sequence[Row], measured: Sequence[Row]) -> None:
    """The training error against the step, for each kind at its chosen rate."""
    runs, guess = Runs(rows), claims.chance(rows)
    style.resize(figure, 4.2)
    ax = figure.subplots()
    looks = {}
    for kind, look in style.hues(kinds_of(rows)).items():
        members = at_chosen(runs.select(kind), guess)
        found: dict[float, list[float]] = {}
        for row in members:
            for entry in row["history"] if row["status"] == "done" else ():
                found.setdefault(entry["step"], []).append(entry["train_error"])
        looks[f"{kind}, rate {value_text(members[0]['assignment']['learning_rate'])}"] = look
        style.mean_line(ax, found, look, markevery=max(1, len(found) // 10))
    ax.set_xlabel("training step")
    ax.set_ylabel("training error (fraction)")
    ax.set_ylim(-0.03, min(1.03, ax.get_ylim()[1]))
    style.legend(figure, looks, "normalisation, at the rate chosen on validation")


def draw_batches(figure: "matplotlib.figure.Figure", rows: Sequence[Row], measured: Sequence[Row]) -> None:
    """Test error, and the difference between remembered and the batches' own statistics, against the batch size."""
    runs, guess = Runs(rows), claims.chance(rows)
    style.resize(figure, 4.2)
    left, right = figure.subplots(1, 2)
    chosen = {
        kind: {size: at_chosen(runs.select(kind, size), guess) for size in runs.batches} for kind in ("batch", "group")
    }
    looks = {kind: look for kind, look in style.hues(kinds_of(rows)).items() if kind in chosen}
    for kind, look in looks.items():
        found = chosen[kind].items()
        style.mean_line(
            left, {n: list(claims.by_seed(members, "test_error", {}, guess).values()) for n, members in found}, look
        )
        style.mean_line(right, {size: list(mismatch(members).values()) for size, members in found}, look)
    left.set_ylabel("test error (fraction)")
    right.set_ylabel("change of the test loss by own statistics")
    for ax in (left, right):
        style.named_log_axis(ax, runs.batches, "images in a batch")
        ax.set_ylim(bottom=0)
    style.legend(figure, looks, "normalisation")


def draw_depths(figure: "matplotlib.figure.Figure", rows: Sequence[Row], measured: Sequence[Row]) -> None:
    """The largest stable learning rate against the depth, without and with batch normalisation."""
    runs, guess = Runs(rows), claims.chance(rows)
    style.resize(figure, 4.2)
    ax = figure.subplots()
    looks = {kind: look for kind, look in style.hues(kinds_of(rows)).items() if kind in ("none", "batch")}
    for kind, look in looks.items():
        stable = {count: stable_rate(runs.select(kind, layers=count), guess) for count in runs.depths}
        style.mean_line(ax, {count: list(found.values()) for count, found in stable.items()}, look)
    ax.set_xticks(runs.depths)
    ax.set_xlabel("convolutions")
    ax.set_yscale("log")
    rates = rates_of(runs.select("none"))
    ax.set_yticks(rates, [value_text(rate) for rate in rates])
    ax.set_yticks([], minor=True)
    ax.set_ylabel("largest stable learning rate")
    style.legend(figure, looks, "normalisation")


def kinds_of(rows: Iterable[Row]) -> list[str]:
    """The kinds that were run, in the order of ``KINDS``."""
    return [kind for kind in KINDS if any(row["assignment"]["model.norm"] == kind for row in rows)]


FIGURES = (
    Drawing(
        "rates",
        "Which learning rates a net bears",
        draw_rates,
        "The training error that is left at the end of training, against the learning rate. A line that stays low "
        "further to the right belongs to a net that bears larger rates; bands are 95 % intervals over seeds.",
    ),
    Drawing(
        "speed",
        "How fast a net learns",
        draw_speed,
        "The training error during training, for each kind at the learning rate that did best on the validation split.",
    ),
    Drawing(
        "batches",
        "What small batches cost",
        draw_batches,
        "Left: the test error of nets that saw equally many images in batches of different size. Right: how much the "
        "test loss changes when batch normalisation uses the statistics of each batch in place of the remembered ones; "
        "group normalisation remembers none.",
    ),
    Drawing(
        "depths",
        "The largest stable learning rate against depth",
        draw_depths,
        f"The largest rate that costs at most {TOLERANCE:g} of training error against the best one, for nets of "
        "different depth: mean and 95 % interval over seeds.",
    ),
)


if __name__ == "__main__":
    raise SystemExit(cli.main(__name__))
