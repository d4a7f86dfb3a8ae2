"""Handles against overfitting together: augmentation, dropout, weight decay and normalisation, each on or off.

The lectures treat overfitting (S0:770-986) with augmentation (S0:888; S3:707-708), a penalty on the weights
(S0:892-902) and dropout (S0:904-913), and say of nets with batch normalisation that they need no dropout
(S2:203). Here all 2^4 = 16 combinations run with the same seeds, which is called a full two-level factorial.
The *main effect* of a handle is the mean with it less the mean without it, over all settings of the others.
The *interaction* of two is half of how much more the one does with the other than without it; handles that
each repair the same damage have an interaction of the opposite sign. Rows 142, 287, 288, 289, 290 and 298 of
lectures.csv. (Transfer learning, which the lectures also name, is another experiment.)

    python -m experiments.handles                                       quick, embedded digits
    python -m experiments.handles --data=folder:DIR --seeds=4           quick, for example CIFAR-10
    python -m experiments.handles --preset=paper --data=tfds:cifar10    the whole data set

The strengths of augmentation, dropout and weight decay are traced, so the 16 combinations are two programs, one for
each normalisation. Each handle's strength is fixed beforehand, near the best that it has alone (see ``grid``).
Nothing is chosen from these runs.

Quick trains a VGG-style net with two stages of convolutions on 128 digits for 600 steps, with 12 seeds: about 2
minutes on two CPU cores. Expect a test error near 0.10 without any handle, 0.07 to 0.08 with one, and 0.05 with all
four, where the sum of the four effects would leave 0.01. On other data Quick is a net with three stages on 2,048
images at 16x16 for 1,200 steps, about 7 minutes with 4 seeds; expect on CIFAR-10 0.59 without any, 0.54 to 0.57 with
one and 0.50 with all four, where the sum would reach 0.44. Digits are never mirrored: there, augmentation is a
shift by at most a pixel; on other data it is a shift and mirroring.

Paper is the same factorial with a VGG-style net of 8 layers on the whole training split for 20,000 steps. There
is no publication of it. It needs an accelerator.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from cnnjax import claims, cli, stats
from cnnjax.data import DataConfig
from cnnjax.report import style
from cnnjax.report.figures import Drawing
from cnnjax.sweep import Grid, explicit, product
from cnnjax.train import Hyper, Spec

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

TITLE = "Handles against overfitting: augmentation, dropout, weight decay and normalisation"
# Pilots: on digits (3 seeds) main effects were 0.012 to 0.022 with standard deviations of 0.003 to 0.017. On CIFAR-10
# (2 seeds, some of the combinations) effects were 0.02 to 0.05 with about 0.006: 4 seeds for a power of 0.8.
SEEDS = {"smoke": 2, "quick": 12, "paper": 5}
# A name in an assignment -> the handle. Its value is 0, 0.0 or "none" where the handle is off.
HANDLES = {"crop": "augmentation", "dropout": "dropout", "l2": "weight decay", "model.norm": "normalisation"}
CROP = {"digits": 0.25, "other": 0.5}  # a pixel each way at 8x8, two at 16x16
OTHER_STEPS = 1_200


def _main_effect(name: str, handle: str, source: str) -> claims.Claim:
    return claims.Claim(
        name, f"Over all settings of the others, {handle} lowers the test error.", source, "less",
        unit="test error, fraction",
    )  # fmt: skip


CLAIMS = (
    _main_effect("augmentation-helps", "augmentation", "S0:888; S3:707-708"),
    _main_effect("dropout-helps", "dropout", "S0:904-913"),
    _main_effect("weight-decay-helps", "weight decay", "S0:892-902"),
    _main_effect("normalisation-helps", "batch normalisation", "S3:617-622"),
    claims.Claim(
        "handles-overlap",
        "All four together lower the test error by less than the sum of what each does alone.",
        "S0:770-913; S2:203",
        "greater",
        unit="test error, fraction",
    ),
)
METRICS = ("train_error", "test_error", "gap_loss")


def spec(preset: str, data: DataConfig) -> Spec:
    """What all runs share; ``data`` other than digits gets a larger net and is made small for ``quick``."""
    augment = ("crop",) if data.name == "digits" else ("flip", "crop")  # a mirrored digit is another
    everywhere = ("dropout_at", "all")
    if preset == "paper":
        return Spec(
            model="vgg_small", model_fields=(everywhere,), data=data, steps=20_000, evaluate_every=1_000,
            augment=augment,
        )  # fmt: skip
    steps = {"smoke": 3, "quick": 600 if data.name == "digits" else OTHER_STEPS}[preset]
    if preset == "smoke":
        fields: tuple[tuple[str, Any], ...] = (("dense", (8,)), everywhere, ("stages", ((4, 1),)))
    elif data.name == "digits":
        fields = (("dense", (64,)), everywhere, ("stages", ((16, 1), (32, 1))))
    else:
        fields = (everywhere, ("stages", ((16, 1), (32, 1), (64, 1))))
        data = data.at_size(16)
    return Spec(model="vgg_small", model_fields=fields, data=data, steps=steps, batch_size=64, augment=augment)


def hyper(preset: str, data: DataConfig) -> Hyper:
    """The numbers that all runs share; few examples, so that nets overfit."""
    if preset == "paper":
        return Hyper(learning_rate=0.05, warmup=0.02)
    if data.name == "digits":
        return Hyper(learning_rate=0.05, warmup=0.05, train_size=128)
    return Hyper(learning_rate=0.05, warmup=0.05, train_size=2_048 if preset == "quick" else 0)


def grid(preset: str, data: DataConfig) -> Grid:
    """Every combination of the four handles."""
    if data.name == "digits":
        augmentation = explicit({"crop": 0.0}, {"crop": CROP["digits"]})
    else:
        on = 1.0 if preset == "paper" else CROP["other"]
        augmentation = explicit({"crop": 0.0, "flip": 0.0}, {"crop": on, "flip": 1.0})
    norms = explicit({"model.norm": "none"}, {"model.norm": "batch"})
    dropout = 0.2 if data.name == "digits" else 0.1
    return product(norms, augmentation, dropout=(0.0, dropout), l2=(0.0, 5e-4 if preset == "paper" else 3e-3))


def verdict(rows: list[dict]) -> list[claims.Verdict]:
    """Main effects, and all four together against the sum of each alone, seed by seed."""
    cells = responses(rows, "test_error")
    effects = {seed: stats.factorial_effects(response) for seed, response in cells.items()}
    none, every = (0,) * len(HANDLES), (1,) * len(HANDLES)

    def at(levels: tuple[int, ...], of: Mapping[int, np.ndarray]) -> claims.BySeed:
        found = claims.BySeed({seed: float(response[levels]) for seed, response in of.items()})
        found.counted = frozenset(row["seed"] for row in rows if row["status"] == "diverged")
        return found

    def cell(levels: tuple[int, ...]) -> claims.BySeed:
        return at(levels, cells)

    mains = {name: claims.contrast([at(alone(place), effects)], []) for place, name in enumerate(HANDLES)}

    singles = [cell(alone(place)) for place in range(len(HANDLES))]
    return claims.judge(
        CLAIMS,
        {
            "augmentation-helps": mains["crop"],
            "dropout-helps": mains["dropout"],
            "weight-decay-helps": mains["l2"],
            "normalisation-helps": mains["model.norm"],
            # (all - none) - sum of (single - none)
            "handles-overlap": claims.contrast([cell(every), *[cell(none)] * (len(singles) - 1)], singles),
        },
    )


def alone(*places: int) -> tuple[int, ...]:
    """The levels, or the effect, with just these handles."""
    return tuple(int(place in places) for place in range(len(HANDLES)))


def levels(assignment: Mapping[str, Any]) -> tuple[int, ...]:
    """Which handles are on, as 0 or 1, in the order of ``HANDLES``."""
    return tuple(int(assignment[name] not in (0, "none")) for name in HANDLES)


def responses(rows: Sequence[Mapping[str, Any]], metric: str) -> dict[int, Float[np.ndarray, "2 2 2 2"]]:
    """The metric of the 16 combinations for each seed that has them all; of errors, diverged runs have that of chance.

    Raises:
      UsageError: two runs of one seed have the same handles.
      KeyError: a run does not say which handles it has.
    """
    diverged = claims.chance(rows) if metric.endswith("_error") else math.nan
    wheres = {levels(row["assignment"]): row["assignment"] for row in rows}
    found = {at: claims.by_seed(rows, metric, where, diverged) for at, where in wheres.items()}
    if len(found) < 2 ** len(HANDLES):
        return {}
    complete = sorted(set.intersection(*(set(each) for each in found.values())))
    return {
        seed: np.array([found[at][seed] for at in itertools.product((0, 1), repeat=len(HANDLES))]).reshape(2, 2, 2, 2)
        for seed in complete
    }


def effect_name(at: tuple[int, ...]) -> str:
    """The handles of an effect: ``dropout × weight decay``."""
    return " × ".join(handle for handle, here in zip(HANDLES.values(), at, strict=True) if here)


def draw_effects(
    figure: "matplotlib.figure.Figure", rows: Sequence[Mapping[str, Any]], measured: Sequence[Mapping[str, Any]]
) -> None:
    """Main effects and interactions of two, by the size of their effect on the test error."""
    kinds = dict(zip((1, 2), style.hues(("main effect", "interaction of two")).items(), strict=True))
    metrics = {"test_error": "effect on the test error (fraction)", "gap_loss": "effect on the gap (loss, per example)"}
    found = {
        metric: [
            stats.factorial_effects(response)
            for response in responses(rows, metric).values()
            if np.isfinite(response).all()  # of a loss, that of a diverged run is not
        ]
        for metric in metrics
    }
    names = [at for at in itertools.product((0, 1), repeat=len(HANDLES)) if sum(at) in kinds]
    names.sort(key=lambda at: -abs(sum(float(effects[at]) for effects in found["test_error"])))
    style.resize(figure, 1.2 + 0.36 * len(names))
    axes = figure.subplots(1, len(metrics), sharey=True)
    for ax, (metric, label) in zip(axes, metrics.items(), strict=True):
        ax.axvline(0, color=style.FAINT, linewidth=1)
        for place, at in enumerate(names):
            means, lows, highs = style.intervals([[float(effects[at]) for effects in found[metric]]])
            look = {**kinds[sum(at)][1], "linestyle": ""}
            ax.errorbar(means, [place], xerr=[means - lows, highs - means], capsize=3.5, **look)
        ax.set_xlabel(label)
        ax.grid(visible=False, axis="y")
    axes[0].set_yticks(range(len(names)), [effect_name(at) for at in names])
    axes[0].set_ylim(len(names) - 0.5, -0.5)  # the largest on top
    style.legend(figure, {text: {**look, "linestyle": ""} for text, look in kinds.values()}, "")


def draw_interactions(
    figure: "matplotlib.figure.Figure", rows: Sequence[Mapping[str, Any]], measured: Sequence[Mapping[str, Any]]
) -> None:
    """Test error with and without one handle, a line without and a line with another, for each pair."""
    cells = np.array(list(responses(rows, "test_error").values())).reshape(-1, *(2,) * len(HANDLES))
    pairs = list(itertools.combinations(range(len(HANDLES)), 2))
    handles = list(HANDLES.values())
    looks = style.hues(("the second handle off", "the second handle on"))
    for ax, (first, second) in zip(style.panels(figure, len(pairs)), pairs, strict=True):
        others = tuple(1 + place for place in range(len(HANDLES)) if place not in (first, second))
        means_by_seed = cells.mean(others)  # (seeds, first handle, second handle)
        for level, look in enumerate(looks.values()):
            means, lows, highs = style.intervals([means_by_seed[:, x, level].tolist() for x in (0, 1)])
            at = np.array([0, 1]) + 0.03 * level  # apart, so that the bars stay visible
            ax.errorbar(at, means, yerr=[means - lows, highs - means], capsize=3.5, **look)
        ax.set_title(f"{handles[first]} × {handles[second]}")
        ax.set_xlabel(handles[first])
        ax.set_xticks((0, 1), ("off", "on"))
        ax.set_xlim(-0.3, 1.33)
    for ax in figure.axes[:: style.COLUMNS]:
        ax.set_ylabel("test error (fraction)")
    style.legend(figure, looks, "")


def draw_together(
    figure: "matplotlib.figure.Figure", rows: Sequence[Mapping[str, Any]], measured: Sequence[Mapping[str, Any]]
) -> None:
    """Test error without any handle, with each alone, with all, and what all would reach if their effects added up."""
    cells = list(responses(rows, "test_error").values())
    none, every = (0,) * len(HANDLES), (1,) * len(HANDLES)
    singles = [alone(place) for place in range(len(HANDLES))]
    samples = {"none": [float(each[none]) for each in cells]}
    samples |= {f"{effect_name(at)} alone": [float(each[at]) for each in cells] for at in singles}
    samples["all four"] = [float(each[every]) for each in cells]
    added = [float(sum(each[at] for at in singles) - (len(singles) - 1) * each[none]) for each in cells]
    samples["all four, if their effects added up"] = added
    style.resize(figure, 1.1 + 0.42 * len(samples))
    ax = figure.subplots()
    for place, values in enumerate(samples.values()):
        below = place + np.linspace(0.18, 0.34, len(values))
        ax.plot(values, below, "o", color=style.FAINT, alpha=0.5, markersize=3.5)
        means, lows, highs = style.intervals([values])
        colour, marker = (style.COLOURS[1], "s") if values is added else (style.COLOURS[0], "o")
        ax.errorbar(means, [place], xerr=[means - lows, highs - means], capsize=3.5, fmt=marker, color=colour)
    ax.set_yticks(range(len(samples)), list(samples))
    ax.set_ylim(len(samples) - 0.4, -0.6)  # none on top
    ax.grid(visible=False, axis="y")
    ax.set_xlabel("test error (fraction)")


FIGURES = (
    Drawing(
        "effects",
        "What each handle does, and each pair beyond that",
        draw_effects,
        "Left of 0 the handle lowers the test error (or the gap between validation and training loss). An interaction "
        "to the right of 0 means that the two do less together than their effects add up to.",
    ),
    Drawing(
        "together",
        "Each handle alone, and all together",
        draw_together,
        "Large marks are means over seeds, bars their 95 % intervals, small grey dots single seeds. The square is what "
        "all four would reach if the effects of each alone added up; it may lie below 0, which no error does.",
    ),
    Drawing(
        "interactions",
        "Pairs of handles: test error over all settings of the other two",
        draw_interactions,
        "In each panel the first handle is off at the left and on at the right; one line is without the second "
        "handle, one with it. Parallel lines mean that the two do not interact.",
    ),
)


if __name__ == "__main__":
    raise SystemExit(cli.main(__name__))
