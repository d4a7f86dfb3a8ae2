"""Transfer learning: how many pictures a new task needs, and which layers should learn it.

The lectures give three regimes for a net that was trained on another task: with few pictures train a new head on
frozen features, with more also the later layers, with many start from the weights and train everything (S2:349-364;
S0:915-986; S1:1185-1224; S4:604-616). They say that this "needs less data and trains faster" than starting from
random weights, and that the lower layers are independent of the task (S1:1224; S4:1152-1160). Rows 118-120, 142,
291-293 of lectures.csv.

    python -m experiments.transfer                                      quick, procedural shapes
    python -m experiments.transfer --data=folder:DIR                    quick, for example CIFAR-10
    python -m experiments.transfer --preset=paper --data=tfds:cifar10   ResNet-20 at its full size

One residual net is trained on the first half of the classes (of the shapes: bars to half discs). Then the other half is
learnt from a few to all of its pictures, in four ways: *scratch*, random weights; *head*, all but a new head frozen;
*late*, the stem and the first stage frozen; *all*, nothing frozen. Frozen layers do not change at all: neither their
weights nor the statistics of their batch normalisation. Where only the head trains, the features are computed once.

There is one source net for all runs, so verdicts are about the transfer from it; seeds vary the target's head, the
choice of pictures and their order. All ways train for the same number of steps, in which *scratch* learns its few
pictures by heart and is far from done with many.

Quick trains ResNet-8 of width 16 on 8,192 shapes of 16x16 pixels for 1,200 steps, then 4 ways, 5 numbers of pictures
and 6 seeds for 100 steps each: about three minutes on two CPU cores. The embedded digits are too few to learn features
from: five of them are a source that teaches little. On other data the same is done with up to 8,192 of its pictures for
the source and 300 steps for the targets. Paper trains ResNet-20 for 20,000 steps on the source and 5,000 on the
targets, with crops and flips, and needs an accelerator.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cnnjax import claims, cli, models
from cnnjax.data import DataConfig, describe
from cnnjax.models.stages import regime_stages
from cnnjax.report import style
from cnnjax.report.figures import Drawing
from cnnjax.report.table import Row
from cnnjax.sweep import Grid
from cnnjax.train import Hyper, Spec

if TYPE_CHECKING:
    import matplotlib.figure

TITLE = "Transfer learning: regimes against the number of pictures"
DATA = "shapes"
SEEDS = {"smoke": 2, "quick": 6, "paper": 5}
WAYS = ("scratch", "head", "late", "all")
LOOK = {
    "scratch": "random weights",
    "head": "head on frozen features",
    "late": "early stages frozen",
    "all": "all from the source's weights",
}

CLAIMS = (
    claims.Claim(
        "needs-less-data",
        "With the fewest pictures, a new head on frozen features has a lower test error than a net from scratch.",
        "S0:915-986; S2:349-355; S1:1185",
        "less",
        unit="test error, fraction",
    ),
    claims.Claim(
        "trains-faster",
        "With all pictures, after a quarter of the steps the net that started from the source's weights has a lower "
        "validation error than the one from random weights.",
        "S0:915-986; S2:349-355",
        "less",
        unit="validation error, fraction",
    ),
    claims.Claim(
        "start-never-hurts",
        "With all pictures, starting from the source's weights does not end in a higher test error than starting from "
        "random ones.",
        "S2:363; S4:599-602",
        "not_greater",
        margin=0.01,
        unit="test error, fraction",
    ),
    claims.Claim(
        "frozen-with-few",
        "With the fewest pictures, training the head alone ends in a lower test error than training all layers.",
        "S2:349-355; S4:610-616",
        "less",
        unit="test error, fraction",
    ),
    claims.Claim(
        "all-with-many",
        "With all pictures, training all layers ends in a lower test error than training the head alone.",
        "S2:349-355; S4:610-616",
        "less",
        unit="test error, fraction",
    ),
    claims.Claim(
        "crossover",
        "The advantage of training all layers over the head alone is larger with all pictures than with the fewest.",
        "S4:610-616",
        "greater",
        unit="difference of test errors, fraction",
    ),
    claims.Claim(
        "early-layers-are-general",
        "With all pictures, freezing the early stages of the other task's net costs less than 0.02 of test error.",
        "S1:1224; S4:1152-1160; S0:932-946",
        "not_greater",
        margin=0.02,
        unit="test error, fraction",
    ),
    claims.Claim(
        "late-layers-are-specific",
        "With all pictures, freezing all stages ends in a higher test error than freezing only the early ones.",
        "S1:1224; S4:1152-1160; S0:932-946",
        "greater",
        unit="test error, fraction",
    ),
)
METRICS = ("train_error", "test_error", "trained_parameters")


def halves(data: DataConfig) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The classes of the source and of the target."""
    count = describe(data).num_classes
    return tuple(range(count // 2)), tuple(range(count // 2, count))


def _network(preset: str, data: DataConfig) -> tuple[str, tuple[tuple[str, Any], ...]]:
    if preset == "paper":
        return "resnet20_cifar", ()
    width = 4 if preset == "smoke" else 8 if data.name == "digits" else 16
    return "resnet8_cifar", (("width", width),)


def _sized(preset: str, data: DataConfig) -> DataConfig:
    """For ``quick``: small pictures, and enough shapes to learn features from."""
    if preset != "quick" or data.name == "digits":
        return data
    return dataclasses.replace(data.at_size(16), examples=max(data.examples, 16_384))


def _half(preset: str, data: DataConfig, which: int) -> DataConfig:
    sized = _sized(preset, data)
    return dataclasses.replace(sized, classes=halves(sized)[which])


def _common(preset: str, data: DataConfig, which: int, steps: int) -> Spec:
    """A run on one half of the classes."""
    model, fields = _network(preset, data)
    augment = () if preset != "paper" else ("crop",) if data.name == "digits" else ("flip", "crop")
    return Spec(
        model=model, model_fields=fields, data=_half(preset, data, which), steps=steps,
        batch_size=8 if preset == "smoke" else 32, evaluate_every=max(1, steps // 4), augment=augment,
        train_examples=1024,
    )  # fmt: skip


def source(preset: str, data: DataConfig) -> tuple[Spec, Hyper]:
    """The net that is transferred: trained on the first half of the classes."""
    quick = 200 if data.name == "digits" else 1_200
    steps = {"smoke": 4, "quick": quick, "paper": 20_000}[preset]
    limited = preset == "quick" and data.external
    return _common(preset, data, 0, steps), Hyper(
        learning_rate=0.1, warmup=0.1, l2=1e-4, train_size=8_192 if limited else 0
    )


def spec(preset: str, data: DataConfig) -> Spec:
    """What all target runs share."""
    quick = 300 if data.external else 100
    return _common(preset, data, 1, {"smoke": 4, "quick": quick, "paper": 5_000}[preset])


def hyper(preset: str, data: DataConfig) -> Hyper:
    """The numbers that all target runs share."""
    return Hyper(learning_rate=0.05, warmup=0.1, l2=1e-4)


def sizes(preset: str, data: DataConfig) -> tuple[int, ...]:
    """Numbers of target pictures, rising; the last is all of them, up to 4,096."""
    limit = min(describe(_half(preset, data, 1)).sizes["train"], 20_000 if preset == "paper" else 4_096)
    if preset == "smoke":
        return 10, limit
    return (*(size for size in (10, 40, 160, 640, 2_560) if size <= 0.6 * limit), limit)


def grid(preset: str, data: DataConfig, weights: str = "") -> Grid:
    """The four ways with each number of pictures; ``weights`` is the source's file."""
    model, fields = _network(preset, data)
    built = models.create(model, **dict(fields))
    starts = [{"frozen": regime_stages(built, way), "weights": weights, "fresh_head": True} for way in WAYS[1:]]
    scratch = {"frozen": (), "weights": "", "fresh_head": False}
    return tuple({**start, "train_size": size} for start in (scratch, *starts) for size in sizes(preset, data))


def way_of(assignment: Mapping[str, Any]) -> str:
    """Which of the four ways a condition is."""
    if not assignment["fresh_head"]:
        return "scratch"
    frozen = len(assignment["frozen"])
    return "all" if not frozen else "head" if frozen > 2 else "late"


def verdict(rows: list[dict]) -> list[claims.Verdict]:
    """Compares the ways seed by seed, with the fewest and with all pictures."""
    counts = sorted({row["assignment"]["train_size"] for row in rows})
    few, many = counts[0], counts[-1]
    early = [_at_a_quarter(row) for row in rows]

    def error(way: str, size: int) -> dict[int, float]:
        members = [row for row in rows if way_of(row["assignment"]) == way]
        return claims.by_seed(members, "test_error", {"train_size": size}, diverged=claims.chance(rows))

    def early_error(way: str) -> dict[int, float]:
        members = [row for row in early if way_of(row["assignment"]) == way]
        return claims.by_seed(members, "valid_error", {"train_size": many}, diverged=claims.chance(rows))

    return claims.judge(
        CLAIMS,
        {
            "needs-less-data": claims.contrast([error("head", few)], [error("scratch", few)]),
            "trains-faster": claims.contrast([early_error("all")], [early_error("scratch")]),
            "start-never-hurts": claims.contrast([error("all", many)], [error("scratch", many)]),
            "frozen-with-few": claims.contrast([error("head", few)], [error("all", few)]),
            "all-with-many": claims.contrast([error("all", many)], [error("head", many)]),
            "crossover": claims.contrast(
                [error("head", many), error("all", few)], [error("all", many), error("head", few)]
            ),
            "early-layers-are-general": claims.contrast([error("late", many)], [error("all", many)]),
            "late-layers-are-specific": claims.contrast([error("head", many)], [error("late", many)]),
        },
    )


def _at_a_quarter(row: Row) -> Row:
    """The row with the validation error of its first evaluation, which is after a quarter of the steps."""
    history = row.get("history") or [{}]
    return {**row, "metrics": {"valid_error": history[0].get("valid_error", math.nan)}}


def draw(figure: "matplotlib.figure.Figure", rows: Sequence[Row], measured: Sequence[Row]) -> None:
    """Test error against the number of pictures, and validation error against the step; a line for each way."""
    style.resize(figure, 4.2)
    left, right = figure.subplots(1, 2)
    done = [row for row in rows if row["status"] == "done"]
    counts = sorted({row["assignment"]["train_size"] for row in done})
    looks = style.hues(LOOK[way] for way in WAYS)
    for way, look in zip(WAYS, looks.values(), strict=True):
        members = [row for row in done if way_of(row["assignment"]) == way]
        samples = {
            count: [row["metrics"]["test_error"] for row in members if row["assignment"]["train_size"] == count]
            for count in counts
        }
        style.mean_line(left, samples, look)
        curves = [row["history"] for row in members if row["assignment"]["train_size"] == counts[-1]]
        by_step: dict[int, list[float]] = {record["step"]: [] for record in curves[0]} if curves else {}
        for curve in curves:
            for record in curve:
                by_step[record["step"]].append(record["valid_error"])
        style.mean_line(right, by_step, look)
    style.named_log_axis(left, counts, "target pictures")
    left.set_ylabel("test error (fraction)")
    right.set_xlabel("step")
    right.set_ylabel("validation error (fraction)")
    for ax in (left, right):
        ax.set_ylim(bottom=0)
    left.set_title("by pictures, after the last step")
    right.set_title(f"by steps, with all {counts[-1]:,} pictures")
    style.legend(figure, looks, "what is trained")


FIGURES = (
    Drawing(
        "transfer",
        "Four ways to learn a new task",
        draw,
        "Means over seeds with 95 % intervals. The source net was trained on the other half of the classes.",
    ),
)


if __name__ == "__main__":
    raise SystemExit(cli.main(__name__))
