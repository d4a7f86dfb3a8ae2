"""Data augmentation: the same pictures, changed at random each time that they are shown.

A mirrored, shifted or tinted bird is still a bird, so the net may be trained on such changed copies and
never sees the same picture twice: "less susceptible to overfitting; improves performance by simulating
examples" (S3:697-733; S4:620-631; S0:888). Compared are mirroring (flip), cropping, scaling, rotation,
shearing, local warping, colour jitter, shifts of the colour channels, AlexNet's PCA colour augmentation,
the two that nearly everybody uses (flip and crop), and all together. Rows 131-138, 287 and 290 of
lectures.csv.

    python -m experiments.augmentation                                       quick, embedded digits
    python -m experiments.augmentation --data=folder:DIR                     quick, for example CIFAR-10
    python -m experiments.augmentation --preset=paper --data=tfds:cifar10    the recipe of He et al. 2015

All of them are part of one program; a condition is which strengths are above 0. What is compared with
no augmentation is the condition of the smallest mean loss on the validation split; the comparison itself
reads the test split.

An augmentation must suit the data. A mirrored digit is no digit, or another one: on digits, flip is one more
condition, for that claim alone, and is neither chosen nor part of "all together". Digits are grey, so of the
colours only brightness and contrast remain. The usual crop moves an image of 32x32 by up to 4 pixels, an eighth
of its side; on smaller images its strength is less in proportion (one pixel of 8). The others are in proportion
already: angles, and shares of the side or of the range of brightness.

Quick trains LeNet-5 on 128 digits, or on other data a small VGG-style net with batch normalisation on 1,024
images at 16x16, for 1,000 steps with 8 seeds: about a minute on two CPU cores for digits, six for CIFAR-10.
Expect on digits a test error of 0.13 without, 0.07 with all together and 0.16 with flip; on CIFAR-10 0.58
without, 0.55 with flip, 0.56 with flip and crop, and again 0.58 with all together, whose test loss of 1.6 is the
smallest by far (4.3 without): so short a training gains in confidence more than in errors. Pilots of 3 and 2
seeds: on digits an effect of 0.06 with a standard deviation of 0.05 over seeds, on CIFAR-10 0.03 with 0.01, so
that 8 seeds have a power of about 0.8 on digits and more on CIFAR-10.

Paper is ResNet-20 on the whole training split for 64,000 steps, as in section 4.2 of He et al. (batches of 128,
learning rate 0.1 divided by 10 at 32,000 and 48,000, weight decay 1e-4 in the loss); it needs an accelerator.
There Zhang et al. 2017 (arXiv:1611.03530) found 85.75 % correct without and 89.31 % with augmentation, for
their Inception on CIFAR-10.
"""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cnnjax import augment, claims, cli
from cnnjax.data import DataConfig, describe
from cnnjax.data.dataset import principal_components
from cnnjax.report import style
from cnnjax.report.figures import Drawing
from cnnjax.sweep import Grid, explicit
from cnnjax.train import Hyper, Spec

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

TITLE = "Data augmentation: which changes to the training pictures lower the test error"
SEEDS = {"smoke": 2, "quick": 8, "paper": 5}
NONE, TOGETHER, FLIP_AND_CROP = "none", "all together", "flip and crop"
SUIT_DIGITS = ("crop", "scale", "rotation", "shear", "warp", "colour_jitter")
NAMES = {
    "flip": "flip (mirroring)", "crop": "cropping", "scale": "scaling", "rotation": "rotation", "shear": "shearing",
    "warp": "local warping", "colour_jitter": "colour jitter", "rgb_shift": "RGB shift", "pca_colour": "PCA colour",
}  # fmt: skip
"""By augmentation: what the figures call it."""

CLAIMS = (
    claims.Claim(
        "chosen-lowers-test-error",
        "With the augmentation chosen on validation, the test error is lower than without.",
        "S3:697-708; S4:620-624",
        "less",
        unit="test error, fraction",
    ),
    claims.Claim(
        "chosen-lowers-test-loss",
        "With the augmentation chosen on validation, the test loss is lower than without.",
        "S3:697-708; S4:620-624",
        "less",
        unit="test loss, per example",
    ),
    claims.Claim(
        "chosen-shrinks-gap",
        "With the augmentation chosen on validation, the test error exceeds the training error by less than without.",
        "S0:770-888; S3:697-707",
        "less",
        unit="test error - training error, fraction",
    ),
    claims.Claim(
        "together-lower-test-error",
        "All augmentations that suit the data together lower the test error.",
        "S3:697-733; S4:620-631",
        "less",
        unit="test error, fraction",
    ),
    claims.Claim(
        "flip-must-suit",
        "Mirroring lowers the test error on pictures of things and raises it on digits: augmentation must suit the "
        "data.",
        "S3:705-708; S4:624",
        "greater",
        unit="test error, fraction: by how much it is lower on pictures, or higher on digits",
    ),
)
METRICS = ("train_error", "valid_loss", "test_error", "test_loss")


def spec(preset: str, data: DataConfig) -> Spec:
    """What all runs share; ``data`` other than digits is made small for ``quick``."""
    digits = data.name == "digits"
    names = (*SUIT_DIGITS, "flip") if digits else tuple(augment.AUGMENTATIONS)
    if preset == "paper":
        return Spec(
            model="resnet20_cifar", data=data, steps=64_000, batch_size=128, evaluate_every=4_000, schedule="step",
            milestones=(0.5, 0.75), augment=names, decayed="all",
        )  # fmt: skip
    if preset == "smoke":
        return Spec(
            model="mlp", model_fields=(("hidden", (8,)),), data=data, steps=3, batch_size=16, train_examples=256,
            augment=names,
        )  # fmt: skip
    if digits:
        return Spec(
            model="lenet5", model_fields=(("padding", "SAME"),), data=data, steps=1_000, batch_size=64,
            augment=names,
        )  # fmt: skip
    small = data.at_size(16)
    fields = (("stages", ((16, 1), (32, 1), (64, 1))), ("norm", "batch"))
    return Spec(model="vgg_small", model_fields=fields, data=small, steps=1_000, batch_size=64, augment=names)


def hyper(preset: str, data: DataConfig) -> Hyper:
    """The numbers that all runs share."""
    if preset == "paper":
        return Hyper(learning_rate=0.1, momentum=0.9, l2=5e-5)
    if data.name == "digits":
        return Hyper(learning_rate=0.1, warmup=0.05, train_size=128)
    return Hyper(learning_rate=0.1, warmup=0.05, train_size=1_024 if preset == "quick" else 0)


def grid(preset: str, data: DataConfig) -> Grid:
    """None, each augmentation alone, flip and crop where both suit, and all that suit together."""
    config = spec(preset, data)
    names = config.augment
    suitable = SUIT_DIGITS if data.name == "digits" else names
    side = min(describe(config.data).image_shape[:2])
    full = dict.fromkeys(names, 1.0) | {"crop": min(1.0, side / 32)}
    singles = ("crop", "flip") if preset == "smoke" else names
    pair = [("flip", "crop")] if "flip" in suitable else []
    sets = [(), *((name,) for name in singles), *pair, suitable]
    return explicit(*({name: full[name] if name in chosen else 0.0 for name in names} for chosen in sets))


def condition(assignment: Mapping[str, Any]) -> str:
    """What a condition is called: "none", an augmentation's name, "flip and crop" or "all together"."""
    used = [name for name in augment.AUGMENTATIONS if assignment.get(name)]
    if len(used) <= 1:
        return used[0] if used else NONE
    return FLIP_AND_CROP if used == ["flip", "crop"] else TOGETHER


def verdict(rows: list[dict]) -> list[claims.Verdict]:
    """Differences from no augmentation, seed by seed."""
    names = list(dict.fromkeys(condition(row["assignment"]) for row in rows))
    flip_suits = any(condition(row["assignment"]) == TOGETHER and row["assignment"]["flip"] for row in rows)
    chosen = chosen_condition(rows, [name for name in names if name != NONE and (flip_suits or name != "flip")])

    def finals(metric: str, name: str) -> dict[int, float]:
        worst = claims.chance(rows) if metric.endswith("_error") else math.nan
        return claims.by_seed([row for row in rows if condition(row["assignment"]) == name], metric, {}, worst)

    def change(metric: str, name: str) -> list[float]:
        return claims.contrast([finals(metric, name)], [finals(metric, NONE)])

    return claims.judge(
        CLAIMS,
        {
            "chosen-lowers-test-error": change("test_error", chosen),
            "chosen-lowers-test-loss": change("test_loss", chosen),
            "chosen-shrinks-gap": claims.contrast(
                [finals("test_error", chosen), finals("train_error", NONE)],
                [finals("train_error", chosen), finals("test_error", NONE)],
            ),
            "together-lower-test-error": change("test_error", TOGETHER),
            "flip-must-suit": [-value if flip_suits else value for value in change("test_error", "flip")],
        },
    )


def chosen_condition(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> str:
    """Of these conditions the one with the smallest validation loss, averaged over seeds; divergence rules one out."""

    def mean(name: str) -> float:
        chosen = [row for row in rows if condition(row["assignment"]) == name]
        losses = claims.by_seed(chosen, "valid_loss", {}, diverged=1e9)
        return float(np.mean(list(losses.values()))) if losses else float("inf")

    return min(names, key=mean)


def draw_changes(figure: "matplotlib.figure.Figure", rows: Sequence[Mapping], measured: Sequence[Mapping]) -> None:
    """Test error and test loss of each condition less those without augmentation, paired by seed."""
    found = _by_condition(rows)
    names = [name for name in found if name != NONE]
    style.resize(figure, 1.2 + 0.42 * len(names))
    axes = figure.subplots(1, 2, sharey=True)
    plain = found.get(NONE, {})
    for ax, (metric, unit) in zip(axes, {"test_error": "fraction", "test_loss": "per example"}.items(), strict=True):
        ax.axvline(0, color=style.FAINT, linewidth=1.2)
        for place, name in enumerate(names):
            changes = [run[metric] - plain[seed][metric] for seed, run in found[name].items() if seed in plain]
            ax.plot(changes, [place + 0.22] * len(changes), "o", color=style.FAINT, alpha=0.45, markersize=3.5)
            mean, low, high = style.intervals([changes])
            colour = style.COLOURS[2] if high[0] < 0 else style.COLOURS[1] if low[0] > 0 else style.COLOURS[0]
            ax.errorbar(mean, [place], xerr=[mean - low, high - mean], fmt="o", color=colour, capsize=3.5)
        ax.set_xlabel(f"change of the {metric.replace('_', ' ')} ({unit})")
        ax.set_title("← better", fontsize=10, color=style.FAINT, loc="left")
        ax.set_title("worse →", fontsize=10, color=style.FAINT, loc="right")
        ax.locator_params(axis="x", nbins=6)
        ax.grid(visible=False, axis="y")
    axes[0].set_yticks(range(len(names)), [NAMES.get(name, name) for name in names])
    axes[0].set_ylim(len(names) - 0.4, -0.6)  # the first on top


def draw_gaps(figure: "matplotlib.figure.Figure", rows: Sequence[Mapping], measured: Sequence[Mapping]) -> None:
    """Training and test error of each condition, joined by a line: the gap."""
    found = _by_condition(rows)
    style.resize(figure, 1.2 + 0.36 * len(found))
    ax = figure.subplots()
    looks: dict[str, dict[str, Any]] = {
        "training error, pictures as they are": {"color": style.COLOURS[0], "marker": "o", "linestyle": ""},
        "test error": {"color": style.COLOURS[1], "marker": "s", "linestyle": ""},
    }
    for place, runs in enumerate(found.values()):
        samples = [[run[metric] for run in runs.values()] for metric in ("train_error", "test_error")]
        means, lows, highs = style.intervals(samples)
        ax.plot(means, [place, place], color="#bbbbbb", linewidth=4, solid_capstyle="butt", zorder=1)
        for mean, low, high, look in zip(means, lows, highs, looks.values(), strict=True):
            ax.errorbar([mean], [place], xerr=[[mean - low], [high - mean]], capsize=3.5, **look)
    ax.set_yticks(range(len(found)), [NAMES.get(name, name) for name in found])
    ax.set_ylim(len(found) - 0.4, -0.6)
    ax.set_xlabel("error (fraction)")
    ax.grid(visible=False, axis="y")
    style.legend(figure, looks, "")


SIDE, COLUMNS = 64, 7  # of the gallery: pixels of a picture, pictures in a row


def draw_gallery(figure: "matplotlib.figure.Figure", rows: Sequence[Mapping], measured: Sequence[Mapping]) -> None:
    """One picture after each augmentation, several times; the same draws at every call."""
    import jax.numpy as jnp

    picture = photograph(SIDE)
    shown = [*((name,) for name in NAMES), tuple(NAMES)]
    changed = augment.transform(
        {"images": jnp.asarray(np.broadcast_to(picture, (len(shown) * COLUMNS, *picture.shape)))},
        gallery_parameters(shown),
        jnp.asarray(colour_basis(picture)),
    )["images"]
    images = np.array(changed).reshape(len(shown), COLUMNS, *picture.shape)
    images[:, 0] = picture
    style.resize(figure, 0.5 + 1.13 * len(shown))
    axes = figure.subplots(len(shown), COLUMNS, squeeze=False)
    for line, (names, row) in enumerate(zip(shown, axes, strict=True)):
        for column, ax in enumerate(row):
            ax.imshow(np.clip(images[line, column], 0, 1), interpolation="none")
            ax.set_xticks([])
            ax.set_yticks([])
            ax.spines[:].set_visible(False)
        label = TOGETHER if len(names) > 1 else NAMES[names[0]]
        row[0].set_ylabel(label, rotation=0, ha="right", va="center", labelpad=10)
    axes[0, 0].set_title("as it is", fontsize=10)
    axes[0, 1].set_title("changed at random", fontsize=10, loc="left")


def gallery_parameters(shown: Sequence[tuple[str, ...]]) -> dict[str, Any]:
    """What is drawn for rows of ``COLUMNS`` pictures, one row for each set of augmentations.

    Crop's pixels are those of a picture of 32x32, so they grow with ``SIDE``.
    """
    import jax
    import jax.numpy as jnp

    drawn = []
    for line, names in enumerate(shown):
        strengths = {name: float(name in names) for name in NAMES}
        drawn.append(augment.draw(jax.random.key(line), COLUMNS, 3, tuple(NAMES), strengths))
    found = {name: jnp.concatenate([each[name] for each in drawn]) for name in NAMES}
    return {**found, "crop": found["crop"] * (SIDE // 32)}


def photograph(side: int) -> np.ndarray:
    """The Summer Palace in Beijing, (side, side, 3) float32 in [0, 1]: a photograph that comes with scikit-learn."""
    from PIL import Image
    from sklearn.datasets import load_sample_image

    square = Image.fromarray(load_sample_image("china.jpg")).crop((20, 0, 447, 427))
    return np.asarray(square.resize((side, side), Image.Resampling.LANCZOS), np.float32) / 255


def colour_basis(picture: np.ndarray) -> np.ndarray:
    """(3, 3): the principal components of a picture's colours, each as long as their standard deviation along it."""
    return principal_components(np.cov(picture.reshape(-1, 3).T, dtype=np.float64)).astype(np.float32)


def _by_condition(rows: Sequence[Mapping]) -> dict[str, dict[int, Mapping[str, float]]]:
    """The metrics of finished runs, by condition (none first, all together last) and seed."""
    found: dict[str, dict[int, Mapping[str, float]]] = {}
    order = [NONE, *NAMES, FLIP_AND_CROP, TOGETHER]
    for row in rows:
        if row["status"] == "done":
            found.setdefault(condition(row["assignment"]), {})[row["seed"]] = row["metrics"]
    return {name: found[name] for name in order if name in found}


FIGURES = (
    Drawing(
        "changes",
        "What each augmentation changes on new pictures",
        draw_changes,
        "Each line is one augmentation: the test error (left) and loss (right) with it less those without any, for the "
        "same seeds. Dots with bars are means and their 95 % intervals, small grey dots single seeds; green is better "
        "than without, orange worse, blue undecided.",
    ),
    Drawing(
        "gallery",
        "One photograph, as the net might see it",
        draw_gallery,
        "Each row is one augmentation at full strength; the first picture is unchanged. The label stays the same. "
        "The shifts of PCA colour are real but small.",
        note="Photograph: danielbuechele, CC BY 2.0, from scikit-learn. Nothing is trained.",
    ),
    Drawing(
        "gaps",
        "The gap between training and test error, with each augmentation",
        draw_gaps,
        "The grey bar is the overfitting: from the error on the training pictures, unchanged, to that on the test "
        "split. Markers are means over seeds, with 95 % intervals.",
    ),
)


if __name__ == "__main__":
    raise SystemExit(cli.main(__name__))
