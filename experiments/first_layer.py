"""The first layer: whether training turns noise into oriented and coloured filters.

The filters of a first layer read the picture itself, so they can be looked at as small pictures. The lectures show the
96 filters of AlexNet (S3:331-419), and beside them what Hubel and Wiesel found in the visual cortex in 1959, to which
oriented filters are "a good fit" (S3:424-436); and they start new nets from the weights of old ones (S4:599-603), which
presumes that a first layer is of use whatever the task. Rows 83, 188 and 335 of lectures.csv.

    python -m experiments.first_layer                                       quick, procedural shapes in colour
    python -m experiments.first_layer --data=folder:DIR                     quick, for example CIFAR-10
    python -m experiments.first_layer --preset=paper --data=tfds:cifar10    64 filters, an accelerator's training

A net with 7x7 filters is trained, and its first layer compared with the noise that it started from, seed by seed: the
initial filters are those of a run of one step at a learning rate of 0. Of each filter the share of its sum of squares
is taken that the best Gabor function explains (a wave under a Gaussian, of any orientation, place, width and phase, in
one colour; see ``cnnjax.analysis.gabor``): of white noise of this size 0.12. And, from 0 to 1, how much one orientation
prevails in its spectrum. The second is needed beside the first, for a blob is a Gabor function too, but not oriented:
in a pilot with other initial weights, three nets that stayed at the error of chance had smooth filters with an R² of
0.65, no more oriented than noise (0.07). Drawn and not judged is the part of each filter that a grey picture does not
see, its colour share: 2/3 in noise. What is left of the initial noise is coloured too, so on the shapes, whose colours
say nothing, a filter of some colour is one that has learnt little.

Quick trains a net of two convolutions on shapes of 20x20 pixels for 800 steps with 6 seeds: about two minutes on two
CPU cores. (A pilot with 4 seeds: differences 0.52 and 0.20 with standard deviations 0.04 and 0.05.) Expect R² to rise
from 0.11 to 0.63 and orientation selectivity from 0.09 to 0.30; the colour share falls from 0.67 to 0.16. On other data
quick is the same on pictures of 20x20 pixels: a pilot with 3 seeds on CIFAR-10 ends at 0.63, 0.41 and 0.42, with edges
and blobs, many of them coloured.
Paper trains 64 filters in a net of three convolutions for 20,000 steps with crops and flips, and needs an accelerator.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np

from cnnjax import claims, cli
from cnnjax.analysis import gabor
from cnnjax.data import DataConfig
from cnnjax.report import filters, style
from cnnjax.report.figures import Drawing
from cnnjax.report.table import Row
from cnnjax.sweep import Grid, arrays, explicit
from cnnjax.train import Hyper, Spec

if TYPE_CHECKING:
    import matplotlib.figure

TITLE = "The first layer: Gabor functions, orientation and colour, before and after training"
DATA = "shapes"
SEEDS = {"smoke": 2, "quick": 6, "paper": 5}
RATE = 0.05
WHEN = {False: "before training", True: "after training"}

CLAIMS = (
    claims.Claim(
        "closer-to-gabor",
        "A Gabor function explains more of a trained filter of the first layer than of an initial one.",
        "S4:603; S3:415-436",
        "greater",
        unit="R², fraction",
    ),
    claims.Claim(
        "oriented",
        "Trained filters of the first layer have more of one orientation than initial ones.",
        "S4:603; S3:415-436",
        "greater",
        unit="orientation selectivity, fraction",
    ),
)
METRICS = ("test_gabor_r2", "test_orientation_selectivity", "test_colour_share", "train_error", "test_error")


def spec(preset: str, data: DataConfig) -> Spec:
    """What all runs share but their number of steps: that of the trained ones."""
    fields: dict[str, Any] = {"kernel_size": 7, "norm": "batch", "kernel_init": "xavier"}
    if preset == "paper":
        fields |= {"stages": ((64, 1), (128, 1), (256, 1)), "dense": ()}
        augment = ("crop",) if data.name == "digits" else ("flip", "crop")  # a mirrored digit is another
        return Spec(
            model="vgg_small", model_fields=tuple(fields.items()), data=data, augment=augment, probes=("first_layer",),
        )  # fmt: skip
    smoke = preset == "smoke"
    fields |= {"stages": ((4, 1),) if smoke else ((16, 1), (16, 1)), "dense": ()}
    return Spec(
        model="vgg_small", model_fields=tuple(fields.items()), data=_sized(preset, data), train_examples=1024,
        batch_size=8 if smoke else 64, probes=("first_layer",),
    )  # fmt: skip


def _sized(preset: str, data: DataConfig) -> DataConfig:
    """Small pictures; few shapes for ``smoke``."""
    if preset != "smoke":
        return data.at_size(20)
    return replace(data.at_size(12), examples=64) if data.name == "shapes" else data


def hyper(preset: str, data: DataConfig) -> Hyper:
    """The numbers that all runs share."""
    return Hyper(warmup=0.05, l2=2e-3)


def grid(preset: str, data: DataConfig) -> Grid:
    """The filters as they are drawn, and after training."""
    steps = {"smoke": 1, "quick": 800, "paper": 20_000}[preset]
    return explicit({"learning_rate": 0.0, "steps": 1}, {"learning_rate": RATE, "steps": steps})


def trained(row: Row) -> bool:
    """Whether a run learns anything."""
    return row["assignment"]["learning_rate"] > 0


def verdict(rows: list[dict]) -> list[claims.Verdict]:
    """Trained less initial filters, seed by seed."""

    def change(metric: str) -> list[float]:
        after, before = ([row for row in rows if trained(row) == when] for when in (True, False))
        return claims.contrast([claims.by_seed(after, metric, {})], [claims.by_seed(before, metric, {})])

    metrics = {"closer-to-gabor": "test_gabor_r2", "oriented": "test_orientation_selectivity"}
    return claims.judge(CLAIMS, {claim: change(metric) for claim, metric in metrics.items()})


def kernels(rows: Sequence[Row]) -> dict[bool, dict[int, np.ndarray]]:
    """The first layer's kernels (kh, kw, C, O) of finished runs: whether trained -> seed -> kernel."""
    found: dict[bool, dict[int, np.ndarray]] = {False: {}, True: {}}
    for row in rows:
        if row["status"] == "done":
            found[trained(row)][row["seed"]] = arrays(row)["kernel"]
    return found


def draw_filters(figure: "matplotlib.figure.Figure", rows: Sequence[Row], measured: Sequence[Row]) -> None:
    """The filters of the first seed that has both, before and after."""
    found = kernels(rows)
    seeds = sorted(set(found[False]) & set(found[True]))
    style.resize(figure, 3.6)
    for ax, when in zip(figure.subplots(1, 2), (False, True), strict=True):
        ax.axis("off")
        if seeds:
            kernel = found[when][seeds[0]]
            filters.show(ax, kernel)
            ax.set_title(f"{WHEN[when]}: R² {float(gabor.fit(jnp.asarray(kernel)).r2.mean()):.2f} on average")


def draw_fits(figure: "matplotlib.figure.Figure", rows: Sequence[Row], measured: Sequence[Row]) -> None:
    """Left: which share of the filters has at most some R². Right: each filter's orientation and colour."""
    style.resize(figure, 4.2)
    left, right = figure.subplots(1, 2)
    looks = style.hues(WHEN.values())
    shape: tuple[int, ...] = ()
    for members, look in zip(kernels(rows).values(), looks.values(), strict=True):
        if not members:
            continue
        joined = jnp.concatenate([jnp.asarray(members[seed]) for seed in sorted(members)], -1)
        shape = joined.shape
        r2 = np.sort(np.asarray(gabor.fit(joined).r2))
        left.step([0, *r2, 1], [0, *np.arange(1, len(r2) + 1) / len(r2), 1], where="post", **{**look, "marker": ""})
        dots = {**look, "linestyle": "", "markersize": 4, "alpha": 0.7}
        right.plot(gabor.orientation_selectivity(joined), gabor.colour_share(joined), **dots)
    if shape:
        level = gabor.noise(shape)
        left.axvline(level, color=style.FAINT, linestyle=":")
        left.text(level + 0.05, 0.5, "white noise (dotted)", color=style.FAINT, rotation=90, va="center")
    left.set_xlabel("R² of the best Gabor function (fraction)")
    left.set_ylabel("share of the filters up to it (fraction)")
    right.set_xlabel("orientation selectivity (fraction)")
    right.set_ylabel("colour share: 0 grey, 1 all colour (fraction)")
    for ax in (left, right):
        ax.set_xlim(0, 1)
        ax.set_ylim(0, 1.02)
    style.legend(figure, looks, "")


FIGURES = (
    Drawing(
        "filters",
        "The filters of the first layer",
        draw_filters,
        "Each small square is one filter, at the same place before and after training. Middle grey is 0; every filter "
        "is shown as strongly as it can be.",
        note="One seed.",
    ),
    Drawing(
        "fits",
        "How like Gabor functions, how oriented and how coloured",
        draw_fits,
        "Left: the share of the filters, of all seeds, that a Gabor function explains up to a given part; the dotted "
        "line is the mean for white noise. Right: every filter as a dot, oriented ones at the right, grey ones below.",
        note="Every filter of every seed.",
    ),
)


if __name__ == "__main__":
    raise SystemExit(cli.main(__name__))
