"""Overfitting: a large model and few examples; what more data does; and a net that learns noise by heart.

A model overfits where it is right about the examples that it was trained on and wrong about others: the gap
is its test error less its training error. The lectures (S0:770-886) begin with ten points of y = x^2, through
which a polynomial of degree 10 passes exactly and between which it goes astray, and end with a net of 138
million parameters; "you need a lot of data to train a CNN" (S1:1187-1201). Rows 127, 196, 287 and 379 of
lectures.csv.

    python -m experiments.overfitting                                       quick, embedded digits
    python -m experiments.overfitting --data=folder:DIR                     quick, for example CIFAR-10
    python -m experiments.overfitting --preset=paper --data=tfds:cifar10    long runs on a whole data set

Three parts:

1. Ten points, 200 times over: x uniform in [-1, 1], noise of standard deviation 0.1. Degree 10 has 11
   coefficients, so ten points do not even determine it (degree 9 would do); of all exact fits the one with
   the smallest coefficients is taken. Nothing is trained. Expect a median test error of 1e4 against 0.003
   for degree 2, and 0.012 for degree 10 with a small penalty on the coefficients (ridge).
2. Four nets (fully connected with a small and a large hidden layer, LeNet-5, VGG-style), each trained for
   the same number of steps on training sets of several sizes.
3. The VGG-style net trained on random labels (Zhang et al. 2017, arXiv:1611.03530). Label noise here
   replaces labels by a *wrong* one, chosen for each example once and for all; with 10 classes, a rate of
   9/10 therefore makes every label equally likely whatever the picture. Nothing is to be learnt but the labels
   themselves. The training error is counted on these labels, the test error on true ones.

A diverged run counts with the errors of chance. That a larger net has the larger gap, as the lectures suggest, is
put to the test between the fully connected nets.

Quick takes up to 1,024 digits and 600 steps, with 10 seeds: a minute on two CPU cores. Expect, from 64 to 1,024
digits, a test error that falls from 0.16 to 0.02 for the VGG-style net at a training error of 0, and a *smaller*
gap for the larger of the fully connected nets (0.15 against 0.25): this claim is refuted. Other data are made
small, up to 4,096 images at 16x16 and 1,000 steps, about 4 minutes with 6 seeds: on CIFAR-10 the test error of the
VGG-style net falls from 0.72 to 0.54, its training error rises from 0 to 0.01. Random labels are learnt with a
training error of 0 on both. Paper trains wider nets on 1, 10 and 100 % of up to 50,000 images at their full size, for
39,000 steps of 128 (100 epochs of CIFAR-10, as Zhang et al.), and needs an accelerator.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cnnjax import claims, cli
from cnnjax.data import DataConfig, describe
from cnnjax.report import style
from cnnjax.report.figures import Drawing
from cnnjax.sweep import Grid, explicit
from cnnjax.train import Hyper, Spec

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

TITLE = "Overfitting: training and test error against the amount of data and the size of the model"
SEEDS = {"smoke": 2, "quick": 10, "paper": 5}
POLYNOMIAL_DRAWS, POINTS, NOISE, RIDGE = 200, 10, 0.1, 1e-2
FITTED = 0.02
# A pilot: with 256 digits the luck of the labels scatters the test error of the nearest neighbour by 0.03 (standard
# deviation over seeds), so that 10 seeds cannot tell less than this from chance.
AT_CHANCE = 0.03

SMOKE_VGG = {"model": "vgg_small", "model.stages": ((4, 1),), "model.dense": (16,)}
DIGIT_VGG = {"model": "vgg_small", "model.stages": ((16, 1), (32, 1)), "model.dense": (256,)}
PICTURE_VGG = {"model": "vgg_small", "model.stages": ((16, 1), (32, 1), (64, 1)), "model.dense": (512,)}
PAPER_VGG = {"model": "vgg_small", "model.dense": (1024, 1024)}
LENET = {"model": "lenet5", "model.padding": "SAME"}

CLAIMS = (
    claims.Claim(
        "polynomial-fits-exactly",
        "A polynomial of degree 10 passes exactly through 10 noisy points of y = x^2.",
        "S0:772-776",
        claims.EXACT,
        margin=1e-12,
        unit="mean squared error on the 10 points",
    ),
    claims.Claim(
        "polynomial-is-undetermined",
        "So does another polynomial of degree 10, for 10 points do not determine 11 coefficients.",
        "S0:772-776",
        claims.EXACT,
        margin=1e-12,
        unit="mean squared error on the 10 points",
    ),
    claims.Claim(
        "polynomial-overfits",
        "Between the points the polynomial of degree 10 is further from y = x^2 than the one of degree 2.",
        "S0:772-776",
        "greater",
        unit="difference of log10 of the mean squared test error",
    ),
    claims.Claim(
        "polynomial-penalty",
        "A penalty on its coefficients brings the polynomial of degree 10 closer to y = x^2.",
        "S0:772-776; S0:892-902",
        "less",
        unit="difference of log10 of the mean squared test error",
    ),
    claims.Claim(
        "large-net-memorises-few",
        "The VGG-style net, the largest, makes hardly an error on the smallest training set.",
        "S0:770-886",
        "not_greater",
        margin=FITTED,
        unit="training error, fraction",
    ),
    claims.Claim(
        "large-net-overfits-few",
        "On the smallest training set its test error exceeds its training error.",
        "S0:770-886",
        "greater",
        unit="test error - training error, fraction",
    ),
    claims.Claim(
        "more-data-smaller-gap",
        "With the largest training set the gap between test and training error is smaller than with the smallest, "
        "on average over the nets.",
        "S0:770-886; S1:1187-1201",
        "less",
        unit="test error - training error, fraction",
    ),
    claims.Claim(
        "more-data-lower-error",
        "With the largest training set the convolutional nets have a lower test error than with the smallest.",
        "S1:1187-1201",
        "less",
        unit="test error, fraction",
    ),
    claims.Claim(
        "larger-net-larger-gap",
        "On the smallest training set the fully connected net with the larger hidden layer has the larger gap.",
        "S0:770-886",
        "greater",
        unit="test error - training error, fraction",
    ),
    claims.Claim(
        "fits-random-labels",
        "The VGG-style net makes hardly an error on random labels that it was trained with.",
        "S0:770-886",
        "not_greater",
        margin=FITTED,
        unit="training error, fraction",
    ),
    claims.Claim(
        "random-labels-teach-nothing",
        "Trained with random labels, its test error is that of chance.",
        "S0:770-886",
        "equivalent",
        margin=AT_CHANCE,
        unit="test error - error of chance, fraction",
    ),
)
METRICS = ("train_error", "test_error", "parameters")


def spec(preset: str, data: DataConfig) -> Spec:
    """What all runs share; ``data`` other than digits is made small for ``quick``."""
    if preset == "paper":
        return Spec(model="vgg_small", data=data, steps=39_000, batch_size=128, evaluate_every=3_900)
    if preset == "smoke":
        return Spec(model="vgg_small", data=data, steps=3, batch_size=16, train_examples=256)
    if data.name == "digits":
        return Spec(model="vgg_small", data=data, steps=600, batch_size=64, evaluate_every=50)
    small = data.at_size(16)
    return Spec(model="vgg_small", data=small, steps=1_000, batch_size=64, evaluate_every=200)


def hyper(preset: str, data: DataConfig) -> Hyper:
    """The numbers that all runs share."""
    return Hyper(learning_rate=0.05, momentum=0.9, warmup=0.1)


def nets(preset: str, data: DataConfig) -> list[dict[str, Any]]:
    """The nets of a preset, as assignments; the last, VGG-style, has the most parameters."""
    if preset == "smoke":
        return [*_fully_connected(4, 8), SMOKE_VGG]
    if preset == "paper":
        return [*_fully_connected(32, 512), LENET, PAPER_VGG]
    return [*_fully_connected(8, 128), LENET, DIGIT_VGG if data.name == "digits" else PICTURE_VGG]


def _fully_connected(*hidden: int) -> list[dict[str, Any]]:
    return [{"model": "mlp", "model.hidden": (units,)} for units in hidden]


def train_sizes(preset: str, data: DataConfig) -> list[int]:
    """Training-set sizes, rising: fractions of the training split, or of a cap where that is large."""
    available = describe(data).sizes["train"]
    cap, fractions = {
        "smoke": (128, (2, 1)),
        "quick": (1_024, (16, 8, 4, 2, 1)) if data.name == "digits" else (4_096, (16, 4, 1)),
        "paper": (50_000, (100, 10, 1)),
    }[preset]
    return sorted({max(1, min(cap, available) // fraction) for fraction in fractions})


def grid(preset: str, data: DataConfig) -> Grid:
    """Every net with every training-set size, and the VGG-style one with random labels."""
    sizes, made = train_sizes(preset, data), nets(preset, data)
    chance = 1 - 1 / describe(data).num_classes  # the rate of wrong labels at which all are equally likely
    true = [{**net, "train_size": size, "label_noise": 0.0} for net in made for size in sizes]
    return explicit(*true, {**made[-1], "train_size": sizes[len(sizes) // 2], "label_noise": chance})


def measure(preset: str, data: DataConfig) -> list[dict[str, Any]]:
    """The polynomials: each draw of ten points, and each way to fit them, is a row."""
    return [
        claims.measured({"fit": name}, seed, metrics)
        for seed in range(POLYNOMIAL_DRAWS)
        for name, metrics in polynomial_errors(seed).items()
    ]


def polynomial_errors(seed: int) -> dict[str, dict[str, float]]:
    """Mean squared errors of each fit of one draw: at its points, and against y = x^2 all over [-1, 1].

    "another of degree 10" adds to the one with the smallest coefficients a polynomial, of length 1, that
    vanishes at the ten points; it is measured at the points alone.
    """
    x, y = noisy_points(seed)
    places = np.linspace(-1, 1, 201)
    found: dict[str, dict[str, float]] = {}
    for name, coefficients in fits(x, y).items():
        at_points = np.polynomial.polynomial.polyval(x, coefficients)
        between = np.polynomial.polynomial.polyval(places, coefficients)
        test = float(np.mean((between - places**2) ** 2))
        found[name] = {
            "train_mse": float(np.mean((at_points - y) ** 2)), "test_mse": test, "log10_test_mse": float(np.log10(test))
        }  # fmt: skip
    another = fits(x, y)["degree 10"] + np.linalg.svd(_powers(x, 10))[2][-1]
    residual = np.polynomial.polynomial.polyval(x, another) - y
    return {**found, "another of degree 10": {"train_mse": float(np.mean(residual**2))}}


def noisy_points(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Ten points (x, y): x uniform in [-1, 1], y = x^2 and noise."""
    random = np.random.default_rng(seed)
    x = random.uniform(-1, 1, POINTS)
    return x, x**2 + NOISE * random.standard_normal(POINTS)


def fits(x: np.ndarray, y: np.ndarray) -> dict[str, np.ndarray]:
    """Coefficients, the constant's first, by the way of fitting; least squares, of the smallest norm where open."""
    ten, two = _powers(x, 10), _powers(x, 2)
    return {
        "degree 10": np.linalg.lstsq(ten, y, rcond=None)[0],
        "degree 2": np.linalg.lstsq(two, y, rcond=None)[0],
        "degree 10, penalty": np.linalg.solve(ten.T @ ten + RIDGE * np.eye(11), ten.T @ y),
    }


def _powers(x: np.ndarray, degree: int) -> np.ndarray:
    return np.vander(x, degree + 1, increasing=True)


def net(assignment: Mapping[str, Any]) -> str:
    """What the net of a condition is called."""
    if assignment["model"] == "mlp":
        return f"fully connected, {assignment['model.hidden'][0]} hidden units"
    return {"lenet5": "LeNet-5", "vgg_small": "VGG-style"}.get(assignment["model"], assignment["model"])


def nets_of(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The names of the rows' nets: the fully connected ones by their size, then the others."""
    by_name = {net(row["assignment"]): row["assignment"] for row in rows}

    def place(name: str) -> tuple:
        model = by_name[name]["model"]
        return (0, by_name[name]["model.hidden"][0]) if model == "mlp" else (1, model)

    return sorted(by_name, key=place)


def verdict(rows: list[dict], measured: list[dict]) -> list[claims.Verdict]:
    """The largest against the smallest training set, seed by seed; a run that diverged has the errors of chance."""
    chance = max(row["assignment"]["label_noise"] for row in rows)
    sizes = sorted({row["assignment"]["train_size"] for row in rows})
    names = nets_of(rows)
    dense = [name for name in names if name.startswith("fully connected")]
    convolutional = [name for name in names if name not in dense]

    def error(split: str, name: str, size: int, noise: float = 0.0) -> dict[int, float]:
        chosen = [row for row in rows if net(row["assignment"]) == name]
        return claims.by_seed(chosen, f"{split}_error", {"train_size": size, "label_noise": noise}, diverged=chance)

    def gap(name: str, size: int) -> dict[int, float]:
        return claims.mapped(lambda test, train: test - train, error("test", name, size), error("train", name, size))

    def mean_change(value, chosen: Sequence[str]) -> list[float]:
        most, fewest = ([value(name, size) for name in chosen] for size in (sizes[-1], sizes[0]))
        return [total / len(chosen) for total in claims.contrast(most, fewest)]

    random_size = next(row["assignment"]["train_size"] for row in rows if row["assignment"]["label_noise"] == chance)
    at_random = {split: error(split, "VGG-style", random_size, chance) for split in ("train", "test")}

    def polynomial(metric: str, fit: str) -> dict[int, float]:
        return claims.by_seed(measured, metric, {"fit": fit})

    ten = polynomial("log10_test_mse", "degree 10")
    return claims.judge(
        CLAIMS,
        {
            "polynomial-fits-exactly": list(polynomial("train_mse", "degree 10").values()),
            "polynomial-is-undetermined": list(polynomial("train_mse", "another of degree 10").values()),
            "polynomial-overfits": claims.contrast([ten], [polynomial("log10_test_mse", "degree 2")]),
            "polynomial-penalty": claims.contrast([polynomial("log10_test_mse", "degree 10, penalty")], [ten]),
            "large-net-memorises-few": claims.contrast([error("train", "VGG-style", sizes[0])], []),
            "large-net-overfits-few": claims.contrast([gap("VGG-style", sizes[0])], []),
            "more-data-smaller-gap": mean_change(gap, names),
            "more-data-lower-error": mean_change(lambda name, size: error("test", name, size), convolutional),
            "larger-net-larger-gap": claims.contrast([gap(dense[-1], sizes[0])], [gap(dense[0], sizes[0])]),
            "fits-random-labels": claims.contrast([at_random["train"]], []),
            "random-labels-teach-nothing": claims.contrast(
                [at_random["test"]], [dict.fromkeys(at_random["test"], chance)]
            ),
        },
    )


def draw_errors(figure: "matplotlib.figure.Figure", rows: Sequence[Mapping], measured: Sequence[Mapping]) -> None:
    """A panel for each net: training and test error against the number of training examples."""
    names = nets_of(rows)
    columns = 2 if len(names) == 4 else min(len(names), style.COLUMNS)
    lines = -(-len(names) // columns)
    style.resize(figure, 0.6 + 2.7 * lines)
    axes = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
    looks = {"test error": _look(1), "training error": _look(0)}
    for ax, name in zip(axes.flat, names, strict=False):
        chosen = _finals(rows, name)
        count = next((m["parameters"] for values in chosen.values() for m in values), 0)
        ax.set_title(f"{name[0].upper()}{name[1:]}\n{count:,} parameters")
        for text, metric in (("test error", "test_error"), ("training error", "train_error")):
            style.mean_line(ax, {size: [m[metric] for m in values] for size, values in chosen.items()}, looks[text])
    for ax in axes[-1]:
        _name_sizes(ax, rows)
    for ax in axes[:, 0]:
        ax.set_ylabel("error (fraction)")
    axes[0, 0].set_ylim(-0.03, None)
    style.legend(figure, looks, "")


def draw_gap(figure: "matplotlib.figure.Figure", rows: Sequence[Mapping], measured: Sequence[Mapping]) -> None:
    """The gap of each net against the number of training examples."""
    style.resize(figure, 4.2)
    ax = figure.subplots()
    names = nets_of(rows)
    looks = style.hues(names)
    for name in names:
        gaps = {size: [m["test_error"] - m["train_error"] for m in v] for size, v in _finals(rows, name).items()}
        style.mean_line(ax, gaps, looks[name])
    _name_sizes(ax, rows)
    ax.set_ylabel("test error - training error (fraction)")
    ax.axhline(0, color=style.FAINT, linewidth=1)
    style.legend(figure, looks, "")


def draw_random_labels(
    figure: "matplotlib.figure.Figure", rows: Sequence[Mapping], measured: Sequence[Mapping]
) -> None:
    """Training error as training proceeds, with true and with random labels; then both errors at the end."""
    style.resize(figure, 3.6)
    curves, finals = figure.subplots(1, 2, sharey=True)
    chance = max(row["assignment"]["label_noise"] for row in rows)
    size = next(row["assignment"]["train_size"] for row in rows if row["assignment"]["label_noise"] == chance)
    looks = {"true labels": _look(0), "random labels": _look(1)}
    for place, (noise, look) in enumerate(zip((0.0, chance), looks.values(), strict=True)):
        done = [
            row for row in rows if row["status"] == "done" and net(row["assignment"]) == "VGG-style"
            and (row["assignment"]["train_size"], row["assignment"]["label_noise"]) == (size, noise)
        ]  # fmt: skip
        history: dict[int, list[float]] = {}
        for row in done:
            for record in row["history"]:
                history.setdefault(record["step"], []).append(record["train_error"])
        style.mean_line(curves, history, look)
        for at, metric in ((0.0, "train_error"), (1.0, "test_error")):
            mean, low, high = style.intervals([[row["metrics"][metric] for row in done]])
            finals.bar(at + 0.36 * place - 0.18, mean, width=0.32, color=look["color"], alpha=0.85)
            finals.errorbar(at + 0.36 * place - 0.18, mean, yerr=[mean - low, high - mean], color="black", capsize=4)
    curves.set_xlabel("training steps")
    curves.set_ylabel("error (fraction)")
    curves.set_title(f"Training error, {size:,} examples")
    finals.set_xticks([0, 1], ["on its training set", "on the test split"])
    finals.set_title("At the end")
    finals.grid(visible=False, axis="x")
    for ax in (curves, finals):
        ax.axhline(chance, color=style.FAINT, linestyle=":", linewidth=1.5)
    finals.text(-0.42, chance + 0.015, "chance", color=style.FAINT, va="bottom")
    curves.set_ylim(-0.03, 1.03)
    style.legend(figure, looks, "")


def draw_polynomial(figure: "matplotlib.figure.Figure", rows: Sequence[Mapping], measured: Sequence[Mapping]) -> None:
    """One draw of ten points with the curves through them, and the errors of all draws."""
    style.resize(figure, 4.0)
    curves, errors = figure.subplots(1, 2)
    wild = sorted(
        (row["metrics"]["test_mse"], row["seed"]) for row in measured if row["assignment"]["fit"] == "degree 10"
    )
    x, y = noisy_points(wild[len(wild) // 2][1])  # the draw of the median test error
    found = fits(x, y)
    looks = {name: {k: v for k, v in _look(i).items() if k != "marker"} for i, name in enumerate(found)}
    places = np.linspace(-1, 1, 2001)
    curves.plot(places, places**2, color=style.FAINT, linewidth=5, alpha=0.35, label="y = x^2")
    for name, coefficients in found.items():
        curves.plot(places, np.polynomial.polynomial.polyval(places, coefficients), **looks[name])
    curves.plot(x, y, "o", color="black", markersize=6, zorder=5)
    curves.set_ylim(-0.75, 1.75)
    curves.set_xlabel("x")
    curves.set_ylabel("y")
    curves.set_title("Ten points, a typical draw")
    for name, look in looks.items():
        values = np.sort([row["metrics"]["test_mse"] for row in measured if row["assignment"]["fit"] == name])
        errors.plot(values, (np.arange(len(values)) + 0.5) / len(values), **look)
    errors.set_xscale("log")
    low, high = (round(np.log10(limit)) for limit in errors.get_xlim())
    errors.set_xticks([10.0**power for power in range(low, high, 3)], [f"1e{power}" for power in range(low, high, 3)])
    errors.set_xticks([], minor=True)
    errors.set_xlabel("mean squared error against y = x^2")
    errors.set_ylabel("share of draws with at most this error")
    errors.set_title(f"All {len(wild)} draws")
    texts = {"y = x^2": {"color": style.FAINT, "linewidth": 5, "alpha": 0.35}, **looks}
    style.legend(figure, texts, "")


def _finals(rows: Sequence[Mapping], name: str) -> dict[int, list[Mapping[str, float]]]:
    """Of one net with true labels: the metrics of its finished runs by training-set size."""
    found: dict[int, list[Mapping[str, float]]] = {}
    for row in rows:
        here = row["assignment"]
        if row["status"] == "done" and net(here) == name and here["label_noise"] == 0:
            found.setdefault(here["train_size"], []).append(row["metrics"])
    return dict(sorted(found.items()))


def _name_sizes(ax: "matplotlib.axes.Axes", rows: Sequence[Mapping]) -> None:
    sizes = sorted({row["assignment"]["train_size"] for row in rows})
    style.named_log_axis(ax, sizes, "training examples")


def _look(number: int) -> dict[str, Any]:
    return {"color": style.COLOURS[number], **style.shape(number)}


FIGURES = (
    Drawing(
        "errors",
        "Training and test error against the number of training examples",
        draw_errors,
        "One panel for each net. The distance between the two lines is the overfitting; bands are 95 % intervals of "
        "the means over seeds.",
    ),
    Drawing(
        "gap",
        "The gap between test and training error shrinks with more data",
        draw_gap,
        "Each line is one net, averaged over seeds, with the 95 % interval of the mean. At 0 the net would be as "
        "good on new pictures as on those it was trained with.",
    ),
    Drawing(
        "random_labels",
        "The same net learns true labels, and random ones by heart",
        draw_random_labels,
        "Left: the training error as training proceeds. Right: at the end both training sets are learnt, but on new "
        "pictures the net that was trained with random labels only guesses. Intervals are 95 % over seeds.",
    ),
    Drawing(
        "polynomial",
        "Ten points of y = x^2 with noise, fitted by polynomials",
        draw_polynomial,
        "Left: the polynomial of degree 10 passes through all ten points and leaves the picture between them. Right: "
        "the share of draws whose error is at most the one below; a curve further to the left is better.",
        note=f"{POLYNOMIAL_DRAWS} draws of {POINTS} points; least squares, nothing is trained.",
    ),
)


if __name__ == "__main__":
    raise SystemExit(cli.main(__name__))
