"""At test time: averaging the outputs of several nets, and of several views of each image.

Two of the lectures' tips for winning competitions (S4:646-654; S2:151-153). Ensembling: train several nets
independently, which here differ in their first weights and the order of their examples, and average their OUTPUTS,
the class probabilities. Multi-crop: classify shifted (and mirrored) views of a test image and average. Neither
averages weights, nor errors: the mean of the members' errors is what one net can expect, whatever their number.
Rows 140, 141, 317 and 318 of lectures.csv.

    python -m experiments.test_time                        quick, embedded digits
    python -m experiments.test_time --data=folder:DIR      quick, for example CIFAR-10
    python -m experiments.test_time --preset=paper --data=tfds:cifar10

Quick trains LeNet-5 on all 1,024 digits for 600 steps with 64 seeds, with and without random shifts in training:
about a minute on two CPU cores. Expect a test error near 0.031 for one net, 0.015 for four and 0.012 for eight, which
is close to a + b / members. Five views lower a single net's error from 0.031 to 0.016 if it was trained with shifts;
if it was not, it has never seen a moved digit, and they raise it from 0.026 to 0.3. On other data it is a small
VGG-style net on all images at 16x16, and the views are ten: five shifts and their mirror images; --seeds=16 keeps that
to about four minutes. Paper is ResNet-20 for 20,000 steps and needs an accelerator.

Ensembles are made of disjoint groups of seeds, so that each group is an independent sample. Every net sees the same
training images: were they drawn anew for each seed, an ensemble would also have seen more of them. A run that
diverged is in no ensemble, as anyone would leave it out.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cnnjax import claims, cli, metrics, models
from cnnjax.augment import CROP_PADDING
from cnnjax.data import DataConfig, describe
from cnnjax.report import style
from cnnjax.report.figures import Drawing
from cnnjax.sweep import Grid, outputs, product
from cnnjax.train import Hyper, Spec

TITLE = "Test time: averages over nets and over views of the image"
SEEDS = {"smoke": 2, "quick": 64, "paper": 24}
MEMBERS = (8, 4, 2)  # sizes of the ensembles that are judged: the largest with enough groups

CLAIMS = (
    claims.Claim(
        "ensemble-beats-its-members",
        "The average of the outputs of several nets (8, or fewer where there are fewer than 3 such groups) has a lower "
        "test error than its members have on average.",
        "S4:648-650; S2:151-153",
        "less",
        unit="test error, fraction",
    ),
    claims.Claim(
        "more-members-help",
        "That ensemble has a lower test error than its two halves have on average.",
        "S4:648-650; S2:151-153",
        "less",
        unit="test error, fraction",
    ),
    claims.Claim(
        "views-beat-the-centre",
        "For nets trained with random shifts, the average over all views of a test image (five shifts; ten with mirror "
        "images, except for digits) has a lower test error than the unmoved view alone.",
        "S4:652-654",
        "less",
        unit="test error, fraction",
    ),
    claims.Claim(
        "weights-do-not-average",
        "A net whose weights are the average of those of a net and of its twin, with the same hidden units in another "
        "order, gives other classes than both.",
        "S4:648-650",
        "greater",
        unit="share of images with another class",
    ),
    claims.Claim(
        "outputs-do-average",
        "The average of the outputs of a net and of its twin, with the same hidden units in another order, is the "
        "output of each.",
        "S4:648-650",
        claims.EXACT,
        margin=1e-5,
        unit="largest difference of a probability",
    ),
)
METRICS = ("test_error", "test_error_crops5", "test_loss", "test_loss_crops5")


def spec(preset: str, data: DataConfig) -> Spec:
    """What all runs share; ``data`` other than digits gets a larger net and mirror images."""
    digits = data.name == "digits"  # a mirrored digit is another
    augment = ("crop",) if digits else ("flip", "crop")
    probes = ("crops",) if digits else ("crops", "mirrored_crops")
    common = Spec(data=data, batch_size=64, augment=augment, probes=probes, keep_outputs=True)
    if preset == "paper":
        return replace(common, steps=20_000, batch_size=128)
    steps = {"smoke": 3, "quick": 600}[preset]
    if digits:
        return replace(common, model="lenet5", model_fields=(("padding", "SAME"),), steps=steps)
    fields = (("stages", ((16, 1), (32, 1), (64, 1))),)
    small = data.at_size(16)
    return replace(common, model="vgg_small", model_fields=fields, data=small, steps=steps)


def hyper(preset: str, data: DataConfig) -> Hyper:
    """The numbers that all runs share."""
    return Hyper(learning_rate=0.1 if preset == "paper" or data.name == "digits" else 0.05, warmup=0.05)


def grid(preset: str, data: DataConfig) -> Grid:
    """Without random shifts in training, and with those that the views have at most."""
    side = min(describe(spec(preset, data).data).image_shape[:2])
    reach = max(1, side // 8)
    return product(crop=(0.0, min(1.0, reach / CROP_PADDING)))


def measure(preset: str, data: DataConfig) -> list[dict[str, Any]]:
    """A net and its twin: what the averages of their outputs and of their weights compute."""
    return [claims.measured({"average of": "a net and its twin"}, seed, _twins(seed)) for seed in range(SEEDS[preset])]


def _twins(seed: int) -> dict[str, float]:
    """A dense net of the digits' size at its initialisation, and one whose hidden units are in another order."""
    rng = np.random.default_rng(seed)
    images = jnp.asarray(rng.uniform(size=(256, 8, 8, 1)), jnp.float32)
    net = models.create("mlp")
    params = net.init(jax.random.key(seed), images)["params"]
    order = rng.permutation(params["dense1"]["bias"].size)
    twin = {
        "dense1": {"kernel": params["dense1"]["kernel"][:, order], "bias": params["dense1"]["bias"][order]},
        "head": {**params["head"], "kernel": params["head"]["kernel"][order]},
    }
    mean = jax.tree_util.tree_map(lambda a, b: (a + b) / 2, params, twin)
    one, other, merged = (
        np.asarray(jax.nn.softmax(net.apply({"params": each}, images)[0])) for each in (params, twin, mean)
    )
    return {
        "outputs_deviation": float(np.abs((one + other) / 2 - one).max()),
        "changed_by_averaging_weights": float(np.mean(merged.argmax(-1) != one.argmax(-1))),
    }


Member = tuple[np.ndarray, np.ndarray]  # class probabilities (N, classes), labels (N,)


def members(rows: Sequence[Mapping[str, Any]], crop: float) -> list[Member]:
    """The outputs of the finished runs of one strength, in the order of their seeds."""
    done = [row for row in rows if row["status"] == "done" and row["assignment"]["crop"] == crop]
    return [outputs(dict(row)) for row in sorted(done, key=lambda row: row["seed"])]


def scores(group: Sequence[Member]) -> tuple[float, float]:
    """Test error and loss of the average of the group's outputs."""
    mean = np.mean([probabilities for probabilities, _ in group], axis=0)
    labels = group[0][1]
    right = np.maximum(mean[np.arange(len(labels)), labels], 2.0**-25)  # below what a stored probability can be
    return float(np.mean(metrics.predicted(jnp.asarray(mean)) != labels)), float(-np.log(right).mean())


def groups(nets: Sequence[Member], size: int) -> list[Sequence[Member]]:
    """Disjoint groups of ``size`` nets; those left over are in none."""
    return [nets[at : at + size] for at in range(0, len(nets) - size + 1, size)]


def judged_size(count: int) -> int:
    """Members of the ensembles that are judged, of ``count`` nets in all."""
    return next((size for size in MEMBERS if count // size >= claims.MIN_SEEDS), MEMBERS[-1])


def against_parts(nets: Sequence[Member], size: int, parts: int) -> list[float]:
    """Of each disjoint group: its error less the mean error of its ``parts`` equal parts."""
    return [
        scores(group)[0] - float(np.mean([scores(part)[0] for part in groups(group, size // parts)]))
        for group in groups(nets, size)
    ]


def views(rows: Sequence[Mapping[str, Any]]) -> str:
    """The metric of the most views that were measured."""
    ten = "test_error_crops10"
    return ten if any(ten in row["metrics"] for row in rows) else "test_error_crops5"


def strengths(rows: Sequence[Mapping[str, Any]]) -> list[float]:
    """Strengths of the random shifts in training, in rising order."""
    return sorted({row["assignment"]["crop"] for row in rows})


def verdict(rows: list[dict], measured: list[dict]) -> list[claims.Verdict]:
    """Each disjoint group against its members and halves; several views against one, run by run."""
    shifted = {"crop": strengths(rows)[-1]}
    nets = members(rows, shifted["crop"])
    size = judged_size(len(nets))
    whole = all(row["status"] != "diverged" for row in rows if row["assignment"]["crop"] == shifted["crop"])

    def ensembles(parts: int) -> list[float]:
        return against_parts(nets, size, parts) if whole else [math.nan]  # of the nets that are left it would flatter

    return claims.judge(
        CLAIMS,
        {
            "ensemble-beats-its-members": ensembles(size),
            "more-members-help": ensembles(2),
            "views-beat-the-centre": claims.contrast(
                [claims.by_seed(rows, views(rows), shifted)], [claims.by_seed(rows, "test_error", shifted)]
            ),
            "weights-do-not-average": [row["metrics"]["changed_by_averaging_weights"] for row in measured],
            "outputs-do-average": [row["metrics"]["outputs_deviation"] for row in measured],
        },
    )


def draw_members(figure, rows, measured) -> None:
    """Test error and loss of an ensemble against the number of its members."""
    nets = members(rows, strengths(rows)[-1])
    enough = min(claims.MIN_SEEDS, len(nets) // 2)  # groups that an interval is drawn of
    sizes = [2**power for power in range(8) if len(nets) // 2**power >= max(1, enough)]
    found = {size: np.array([scores(group) for group in groups(nets, size)]) for size in sizes}
    looks = {
        "average of the outputs": {"color": style.COLOURS[0], "marker": "o"},
        "mean of single nets": {"color": style.FAINT, "linestyle": "--"},
        "a + b / members, fitted": {"color": style.COLOURS[1], "linestyle": ":"},
    }
    mean_look, member_look, fit_look = looks.values()
    style.resize(figure, 3.8)
    for column, (ax, name) in enumerate(
        zip(figure.subplots(1, 2), ("test error (fraction)", "test loss (mean per example)"), strict=True)
    ):
        samples = [found[size][:, column].tolist() for size in sizes]
        for size, sample in zip(sizes, samples, strict=True):
            ax.plot([size] * len(sample), sample, "o", color=mean_look["color"], alpha=0.2, markersize=3.5)
        mean, low, high = style.intervals(samples)
        ax.errorbar(sizes, mean, [mean - low, high - mean], capsize=4, **mean_look)
        ax.axhline(mean[0], **member_look)
        if len(sizes) > 2:
            slope, start = np.polyfit(1 / np.array(sizes), mean, 1)
            fine = np.geomspace(1, sizes[-1], 100)
            ax.plot(fine, start + slope / fine, **fit_look)
        ax.set_xscale("log", base=2)
        ax.set_xticks(sizes, [str(size) for size in sizes])
        ax.set_xlabel("members of the ensemble")
        ax.set_ylabel(name)
    style.legend(figure, looks, "")


def draw_views(figure, rows, measured) -> None:
    """Test error of one view and of several, without and with random shifts in training."""
    metrics = {"centre": "test_error", "5 shifts": "test_error_crops5"}
    if views(rows).endswith("10"):
        metrics["5 shifts and mirrored"] = "test_error_crops10"
    looks = {name: {**look, "linestyle": ""} for name, look in style.hues(metrics).items()}
    titles = ("Trained on unmoved images", "Trained with random shifts")
    style.resize(figure, 3.6)
    axes = figure.subplots(1, len(strengths(rows)), squeeze=False)[0]
    done = [row for row in rows if row["status"] == "done"]
    for ax, crop, title in zip(axes, strengths(rows), titles, strict=False):
        for place, (name, metric) in enumerate(metrics.items()):
            sample = list(claims.by_seed(done, metric, {"crop": crop}).values())
            mean, low, high = style.intervals([sample])
            around = place + np.linspace(-0.2, 0.2, len(sample))
            ax.plot(around, sample, "o", color=looks[name]["color"], alpha=0.25, markersize=3.5)
            ax.errorbar([place], mean, [mean - low, high - mean], capsize=6, **looks[name])
        ax.set_title(title)
        ax.set_xticks(range(len(metrics)), metrics)
        ax.set_xlim(-0.5, len(metrics) - 0.5)
        ax.set_ylim(bottom=0)
        ax.set_ylabel("test error (fraction)")


FIGURES = (
    Drawing(
        "members",
        "Error and loss of an ensemble against the number of its members",
        draw_members,
        "Error and loss of the average of the outputs of 1, 2, 4, ... nets trained with random shifts. Large marks are "
        "means over disjoint groups of seeds with their 95 % intervals, small dots single groups; the dashed line is "
        "the mean over single nets, which averaging errors in place of outputs would give.",
        note="Mean and 95 % interval over disjoint groups of seeds.",
    ),
    Drawing(
        "views",
        "One view of the test image and the average over several",
        draw_views,
        "Test error of single nets when they see each test image once, or shifted in several ways, their outputs "
        "averaged. The panels have scales of their own. Large marks are means over seeds with their 95 % intervals, "
        "small dots single seeds.",
    ),
)


if __name__ == "__main__":
    raise SystemExit(cli.main(__name__))
