"""Activation functions: how fast nets with ReLU, tanh and sigmoid learn, and a head that can only say yes.

Between the layers of a net stands a nonlinear function of one number. The lectures list ReLU, max(x, 0),
the logistic sigmoid, 1 / (1 + e^-x), and tanh (S0:24-29), and note that AlexNet was the first to use ReLU
(S2:143). Its paper (Krizhevsky et al. 2012, figure 1) trains a net of four layers on CIFAR-10: with ReLU it
reaches a training error of 25 % six times faster than with tanh. A second part takes up the lectures'
question about the output sigmoid(ReLU(z)), thresholded at 0.5: "all the predictions will be positive"
(S1:1270-1278). Rows 314 and 316 of lectures.csv.

    python -m experiments.activations                                       quick, embedded digits
    python -m experiments.activations --data=folder:DIR                     quick, for example CIFAR-10
    python -m experiments.activations --preset=paper --data=tfds:cifar10    a net like the paper's

Speed is the number of training steps until the training error is first found at or below 25 %. A run that
never gets there, or diverges, counts with the length of the run, so that the differences to slower activations
are, if anything, too small. As in the paper, every activation has a learning rate of its own: the one that
reaches a *validation* error of 25 % in the fewest steps (mean of the logarithm over seeds). ReLU starts from
He et al.'s initial weights, tanh and sigmoid from those of Glorot and Bengio, which were made for them; momentum
is 0.9, the rate constant, and nothing is regularised.

Quick trains a net of four layers on digits for 320 steps with 7 rates and 8 seeds: about 2 minutes on two CPU
cores. (A pilot with 3 seeds: log2 ratio of ReLU to tanh 1.2, standard deviation 0.5: 5 seeds for power 0.8.)
Expect 25 % after about 10 steps with tanh (rate 0.5), 30 with ReLU (0.02) and 210 with the sigmoid (0.2). On
digits, then, tanh is *faster* than ReLU: 25 % is reached within two epochs, where a linear classifier does as
well and saturation has not begun to matter; at that rate tanh then stays at 15 to 20 %, while ReLU goes on to 0.
Expect the head with ReLU to die altogether (test error 0.9, precision 0.10; without ReLU 0.05 and 0.94).
On other data quick is a net twice as wide on 2,048 pictures at 16x16 for 800 steps with 4 rates; a pilot with 2
seeds on CIFAR-10 points the same way, 220 to 280 steps with tanh against 380 to 460 with ReLU. Paper is a net of
three 5x5 convolutions and a dense layer for 20,000 steps and needs an accelerator.

The head is judged as one question for each picture and class, "is this a 3?", with yes at sigmoid >= 0.5. With
ReLU before the sigmoid every answer is yes for any weights whatever, so the share of right ones among them
(the precision) is the share of questions to which the answer is yes (the prevalence): 1 / classes.
"""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from cnnjax import claims, cli, models, rng
from cnnjax.data import DataConfig, describe
from cnnjax.report import style
from cnnjax.report.figures import Drawing
from cnnjax.report.table import Row
from cnnjax.sweep import Grid, explicit, product
from cnnjax.sweep.grid import axis
from cnnjax.train import Hyper, Spec

if TYPE_CHECKING:
    import matplotlib.figure

TITLE = "Activations: training speed with ReLU, tanh and sigmoid, and sigmoid(ReLU) as a head"
TARGET = 0.25  # training error
INITIAL = {"relu": "he", "tanh": "xavier", "sigmoid": "xavier"}
RATES = {
    "smoke": (0.1,),
    "quick": (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0),
    "quick, other data": (0.01, 0.03, 0.1, 0.3),
    "paper": (0.001, 0.003, 0.01, 0.03, 0.1, 0.3),
}
SEEDS = {"smoke": 2, "quick": 8, "paper": 5}
HEADS = ("identity", "relu")
SCALES = (0.01, 0.1, 1.0, 10.0)  # of the arbitrary weights

CLAIMS = (
    claims.Claim(
        "relu-faster-than-tanh",
        "With ReLU the net reaches 25 % training error in fewer steps than with tanh.",
        "S2:143; S0:24-29",
        "less",
        unit="log2 of the ratio of steps (-1: twice as fast, -2.6: six times)",
    ),
    claims.Claim(
        "relu-faster-than-sigmoid",
        "With ReLU the net reaches 25 % training error in fewer steps than with the sigmoid.",
        "S2:143; S0:24-29",
        "less",
        unit="log2 of the ratio of steps (-1: twice as fast, -2.6: six times)",
    ),
    claims.Claim(
        "relu-head-always-says-yes",
        "Whatever the weights, sigmoid(ReLU(z)) is at least 0.5: every answer is yes, and precision is prevalence.",
        "S1:1270-1278",
        claims.EXACT,
        margin=1e-6,
        unit="share of answers",
    ),
    claims.Claim(
        "training-does-not-help-the-relu-head",
        "Trained with ReLU before the sigmoid, the net still answers yes to every question.",
        "S1:1270-1278",
        "equivalent",
        margin=0.01,
        unit="share of yes less 1",
    ),
    claims.Claim(
        "linear-head-is-more-precise",
        "The precision of the trained net is higher without that ReLU.",
        "S1:1270-1278",
        "greater",
        unit="precision, fraction",
    ),
)
METRICS = ("train_error", "test_error", "test_positive", "test_true_positive")


def spec(preset: str, data: DataConfig) -> Spec:
    """What all runs share; ``data`` other than digits gets a wider net and is made small for ``quick``."""
    probes = ("one_vs_rest",)
    fields: tuple[tuple[str, Any], ...]
    if preset == "paper":
        fields = (("dense", ()), ("kernel_size", 5), ("stages", ((32, 1), (32, 1), (64, 1))))
        return Spec(
            model="vgg_small", model_fields=fields, data=data, steps=20_000, batch_size=128, evaluate_every=100,
            schedule="constant", probes=probes,
        )  # fmt: skip
    if preset == "smoke":
        return Spec(
            model="mlp", model_fields=(("hidden", (8,)),), data=data, steps=3, batch_size=16, evaluate_every=1,
            train_examples=64, schedule="constant", probes=probes,
        )  # fmt: skip
    if data.name == "digits":
        fields = (("dense", (32,)), ("stages", ((8, 1), (16, 1))))
        return Spec(
            model="vgg_small", model_fields=fields, data=data, steps=320, batch_size=64, evaluate_every=4,
            train_examples=512, schedule="constant", probes=probes,
        )  # fmt: skip
    small = data.at_size(16)
    fields = (("dense", (64,)), ("stages", ((16, 1), (32, 1))))
    return Spec(
        model="vgg_small", model_fields=fields, data=small, steps=800, batch_size=64, evaluate_every=20,
        train_examples=512, schedule="constant", probes=probes,
    )  # fmt: skip


def hyper(preset: str, data: DataConfig) -> Hyper:
    """The numbers that all runs share."""
    real = preset == "quick" and data.external
    return Hyper(momentum=0.9, train_size=2_048 if real else 0)


def grid(preset: str, data: DataConfig) -> Grid:
    """Every activation at every rate; and the two heads, with ReLU between the layers."""
    activations = explicit(*({"model.activation": name, "model.kernel_init": init} for name, init in INITIAL.items()))
    heads = product(axis("model.head_activation", HEADS), loss=("sigmoid",), learning_rate=(0.05,))
    rates = RATES["quick, other data" if preset == "quick" and data.name != "digits" else preset]
    return (*product(activations, learning_rate=rates), *heads)


def measure(preset: str, data: DataConfig) -> list[Row]:
    """The answers of both heads at arbitrary weights of four sizes, on noise pictures with arbitrary labels."""
    info = describe(data)
    found: list[Row] = []
    for head in HEADS:
        model = models.create("mlp", hidden=(32,), num_classes=info.num_classes, head_activation=head)
        answers = jax.jit(partial(_answers, model, info.image_shape))
        for scale in SCALES:
            for seed in range(3):
                metrics = {name: float(value) for name, value in answers(rng.key(seed, "generate"), scale).items()}
                found.append(claims.measured({"head": head, "scale": scale}, seed, metrics))
    return found


def _answers(model, image_shape, key, scale):
    """Share of yes, its precision, and the prevalence, over 256 pictures and all classes."""
    key_images, key_labels, key_weights = jax.random.split(key, 3)
    images = jax.random.normal(key_images, (256, *image_shape))
    labels = jax.random.randint(key_labels, (256,), 0, model.num_classes)
    leaves, structure = jax.tree_util.tree_flatten(models.parameter_shapes(model, image_shape))
    keys = jax.random.split(key_weights, len(leaves))
    weights = [scale * jax.random.normal(key, leaf.shape) for key, leaf in zip(keys, leaves, strict=True)]
    logits, _ = model.apply(jax.tree_util.tree_unflatten(structure, weights), images)
    yes = jax.nn.sigmoid(logits) >= 0.5
    true = jax.nn.one_hot(labels, model.num_classes) > 0
    return {
        "yes": jnp.mean(yes),
        "precision": jnp.sum(yes & true) / jnp.maximum(jnp.sum(yes), 1),
        "prevalence": jnp.mean(true),
    }


def verdict(rows: list[dict], measured: list[dict]) -> list[claims.Verdict]:
    """Each activation at its own rate against the others, and one head against the other, seed by seed."""
    rates = chosen_rates(rows)
    steps = {name: log2_steps(rows, "train_error", name, rate) for name, rate in rates.items()}
    answers = [row["metrics"] for row in measured if row["assignment"]["head"] == "relu"]
    yes = claims.by_seed(_heads(rows), "test_positive", {"model.head_activation": "relu"})
    return claims.judge(
        CLAIMS,
        {
            "relu-faster-than-tanh": claims.contrast([steps["relu"]], [steps["tanh"]]),
            "relu-faster-than-sigmoid": claims.contrast([steps["relu"]], [steps["sigmoid"]]),
            "relu-head-always-says-yes": [
                *(found["yes"] - 1 for found in answers),
                *(found["precision"] - found["prevalence"] for found in answers),
            ],
            "training-does-not-help-the-relu-head": claims.contrast([yes], [dict.fromkeys(yes, 1.0)]),
            "linear-head-is-more-precise": claims.contrast([precision(rows, "identity")], [precision(rows, "relu")]),
        },
    )


def chosen_rates(rows: Sequence[Row]) -> dict[str, float]:
    """The rate of each activation with the fewest steps to 25 % *validation* error.

    Where none gets there, all are equally slow, and the smallest mean validation error at the end decides.
    """
    chosen = {}
    for name in INITIAL:
        members = [row for row in rows if row["assignment"].get("model.activation") == name]
        rates = sorted({row["assignment"]["learning_rate"] for row in members})

        def slowness(rate: float, name: str = name) -> tuple[float, float]:
            found = log2_steps(rows, "valid_error", name, rate)
            where = {"model.activation": name, "learning_rate": rate}
            errors = claims.by_seed(rows, "valid_error", where, diverged=claims.chance(rows))
            return _mean(found), _mean(errors)

        chosen[name] = min(rates, key=slowness)
    return chosen


def log2_steps(rows: Sequence[Row], metric: str, activation: str, rate: float) -> dict[int, float]:
    """By seed, log2 of the first evaluated step at which the metric is at most 25 %, or of the run's length."""
    where = {"model.activation": activation, "learning_rate": rate}
    members = [row for row in rows if where.items() <= row["assignment"].items() and row["status"] != "failed"]
    length = max((entry["step"] for row in rows for entry in row.get("history", ())), default=1)
    return {row["seed"]: math.log2(_first(row, metric) or length) for row in members}


def _first(row: Row, metric: str) -> int | None:
    return next((entry["step"] for entry in row["history"] if _reached(entry, metric)), None)


def _reached(entry: Mapping[str, float], metric: str) -> bool:
    value = entry.get(metric)
    return value is not None and value <= TARGET


def precision(rows: Sequence[Row], head: str) -> dict[int, float]:
    """By seed, the share of right answers among those of yes; 0 where there is no yes or the run diverged."""
    where = {"model.head_activation": head}
    yes, right = (
        claims.by_seed(_heads(rows), f"test_{name}", where, diverged=0.0) for name in ("positive", "true_positive")
    )
    return claims.mapped(lambda right, yes: right / yes if yes else 0.0, right, yes)


def _heads(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if "model.head_activation" in row["assignment"]]


def _mean(values: Mapping[int, float]) -> float:
    return float(np.mean(list(values.values()))) if values else math.inf


def draw_speed(figure: "matplotlib.figure.Figure", rows: Sequence[Row], measured: Sequence[Row]) -> None:
    """The training error of each activation at its own rate, against the step on a logarithmic axis."""
    style.resize(figure, 4.2)
    ax = figure.subplots()
    rates = chosen_rates(rows)
    looks = style.hues(rates)
    for name, rate in rates.items():
        where = {"model.activation": name, "learning_rate": rate}
        done = [row for row in rows if where.items() <= row["assignment"].items() and row["status"] == "done"]
        steps = [entry["step"] for entry in done[0]["history"]] if done else []
        errors = [[row["history"][place]["train_error"] for row in done] for place in range(len(steps))]
        means, lows, highs = np.clip(style.intervals(errors), 0, 1)
        ax.plot(steps, means, markevery=0.08, **looks[name])
        ax.fill_between(steps, lows, highs, color=looks[name]["color"], **style.BAND)
    ax.axhline(TARGET, color=style.FAINT, linestyle=":")
    ax.text(0.99, TARGET + 0.01, "25 %", transform=ax.get_yaxis_transform(), ha="right", color=style.FAINT)
    ax.set_xscale("log")
    ax.xaxis.set_major_formatter("{x:g}")
    ax.set_ylim(-0.03, 1.03)
    ax.set_xlabel("training step")
    ax.set_ylabel("training error (fraction)")
    style.legend(figure, {f"{name}, rate {rates[name]:g}": look for name, look in looks.items()}, "")


def draw_rates(figure: "matplotlib.figure.Figure", rows: Sequence[Row], measured: Sequence[Row]) -> None:
    """Steps to 25 % training error against the learning rate, both logarithmic; a ring marks the rate chosen."""
    style.resize(figure, 4.2)
    ax = figure.subplots()
    chosen = chosen_rates(rows)
    looks = style.hues(chosen)
    rates = sorted({row["assignment"]["learning_rate"] for row in rows if "model.activation" in row["assignment"]})
    evaluated = {entry["step"] for row in rows for entry in row["history"]}
    first, length = min(evaluated), max(evaluated)
    for name, look in looks.items():
        samples = [list(log2_steps(rows, "train_error", name, rate).values()) for rate in rates]
        # Whatever the interval of few seeds, no run can be found there sooner or later than this.
        means, lows, highs = 2 ** np.clip(style.intervals(samples), math.log2(first), math.log2(length))
        ax.errorbar(rates, means, yerr=[means - lows, highs - means], capsize=3, **look)
        at = rates.index(chosen[name])
        ax.plot(rates[at : at + 1], means[at : at + 1], "o", markersize=15, fillstyle="none", color=look["color"])
    ax.axhline(length, color=style.FAINT, linestyle=":")
    ax.text(0.01, length * 1.12, "length of the run", transform=ax.get_yaxis_transform(), color=style.FAINT)
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_ylim(first / 1.5, 1.7 * length)
    ax.set_xticks(rates, [f"{rate:g}" for rate in rates])
    ax.minorticks_off()
    ax.yaxis.set_major_formatter("{x:g}")
    ax.set_xlabel("learning rate")
    ax.set_ylabel("steps to 25 % training error")
    style.legend(figure, looks, "")


def draw_heads(figure: "matplotlib.figure.Figure", rows: Sequence[Row], measured: Sequence[Row]) -> None:
    """Share of yes and precision of both heads, after training; a dot for each seed."""
    style.resize(figure, 3.4)
    axes = figure.subplots(1, 2, sharey=True)
    names = {"identity": "sigmoid(z)", "relu": "sigmoid(ReLU(z))"}
    done = [row for row in _heads(rows) if row["status"] == "done"]
    shares = {head: claims.by_seed(done, "test_positive", {"model.head_activation": head}) for head in names}
    for ax, title, found in (
        (axes[0], "answered yes", shares),
        (axes[1], "precision: right among the answers of yes", {head: precision(done, head) for head in names}),
    ):
        for place, head in enumerate(names):
            values = list(found[head].values())
            mean, low, high = style.intervals([values])
            ax.plot(np.full(len(values), place + 0.12), values, "o", color=style.FAINT, alpha=0.5, markersize=4)
            ax.errorbar([place], mean, yerr=[mean - low, high - mean], fmt="o", color=style.COLOURS[0], capsize=3.5)
        ax.set_title(title)
        ax.set_xticks(range(len(names)), list(names.values()))
        ax.set_xlim(-0.5, len(names) - 0.5)
        ax.set_ylim(-0.03, 1.06)
    axes[0].set_ylabel("fraction")
    prevalence = float(np.mean([row["metrics"]["prevalence"] for row in measured]))
    axes[0].axhline(prevalence, color=style.FAINT, linestyle=":")
    axes[0].text(0.6, prevalence + 0.02, "true answers of yes", color=style.FAINT)


FIGURES = (
    Drawing(
        "speed",
        "Training error, each activation at the rate that gets it to 25 % soonest",
        draw_speed,
        "The further left a line crosses 25 %, the faster the net learns. Bands are 95 % intervals over seeds.",
    ),
    Drawing(
        "rates",
        "Steps to 25 % training error against the learning rate",
        draw_rates,
        "Means of the logarithm over seeds. A ring marks the rate chosen on the validation split; runs that never "
        "reach 25 % count with their length, the dotted line.",
    ),
    Drawing(
        "heads",
        "A sigmoid after ReLU answers yes to everything",
        draw_heads,
        "One question for each test picture and class. Large dots are means over seeds with 95 % intervals, small grey "
        "ones single seeds.",
    ),
)


if __name__ == "__main__":
    raise SystemExit(cli.main(__name__))
