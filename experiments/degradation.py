"""Deeper plain nets train worse; residual nets do not.

He et al. 2015 (arXiv:1512.03385), in the lectures at S2:205-211, S3:589-615 and S4:406-454 (rows 125, 126 and
281-286 of lectures.csv): a plain net of 56 layers has a higher *training* error than one of 20, so it is
optimisation that fails, and not generalisation; with shortcuts, which add a block's input to its output, the deeper
net is no worse. The lectures' reasons are measured too: how the gradient that reaches the first layer of an untrained
net changes with depth, how large the layers' responses are after training, and that a block whose last weights are
zero is the identity.

    python -m experiments.degradation                                       quick, embedded digits
    python -m experiments.degradation --data=folder:DIR                     quick, for example CIFAR-10
    python -m experiments.degradation --preset=paper --data=tfds:cifar10    the published recipe

Quick trains nets of 8, 20 and 44 layers and width 8 with 5 seeds, and one of 20 layers with projections in its
shortcuts (option B of the paper): on digits (8x8) 200 steps each, 3 to 7 minutes on two CPU cores; on other data
5,120 images at 16x16 for 300 steps, about 13 minutes. On digits also plain nets of 20 layers without normalisation,
initialised in three ways. Expect on digits a training error of 0 for all but the plain net of 44 layers, which stalls
between 0.1 and 0.8; on CIFAR-10 0.56 for 20 and 0.75 for 44 plain layers, 0.40 and 0.43 with shortcuts, which is
too early to say whether the deeper residual net ends worse. Without normalisation, only He's initialisation leaves
the error of chance. Gradients are measured on 64 digits, with nets of width 8: without normalisation, the one that
reaches the first of 56 layers is 1e8 times larger with shortcuts than without. The layers' responses differ little
after so few steps: at 20 layers 1.00 on average with shortcuts and 1.04 without.

Paper is section 4.2: 20 to 110 layers of width 16, batches of 128, 64,000 steps, learning rate 0.1
divided by 10 at 32,000 and 48,000, momentum 0.9, weight decay 1e-4 (in the loss, as lambda / 2, on all
parameters: l2 = 5e-5), crops and flips, 10 % of the training split for validation, and for 110 layers
a tenth of the rate for the first 400 steps. It needs an accelerator.
"""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from cnnjax import analysis, claims, cli, models
from cnnjax.data import DataConfig, load
from cnnjax.models.resnet import Block
from cnnjax.nn import NORMS, Conv, norm_layer
from cnnjax.report import style
from cnnjax.report.figures import Curves, Drawing, Finals
from cnnjax.report.table import Row
from cnnjax.sweep import Grid, explicit
from cnnjax.train import Hyper, Spec

if TYPE_CHECKING:
    import matplotlib.figure

TITLE = "Degradation: plain against residual nets as depth grows"
DEPTHS = {"smoke": (8, 14), "quick": (8, 20, 44), "paper": (20, 32, 44, 56, 110)}
MEASURED_DEPTHS = {"smoke": (8, 14), "quick": (8, 20, 56), "paper": (8, 20, 56, 110)}
SEEDS = {"smoke": 2, "quick": 5, "paper": 5}
FITTED = 0.05
INITIALISATIONS = ("he", "xavier", "gaussian")
SMALLEST = float(np.finfo(np.float32).tiny)  # in place of a gradient of 0, which has no logarithm


def layers(assignment: Mapping[str, Any]) -> int:
    """The depth of a condition's net."""
    return models.fields(assignment["model"])["depth"]


def family(assignment: Mapping[str, Any]) -> str:
    """Plain or residual."""
    return "plain" if models.fields(assignment["model"])["shortcut"] == "none" else "residual"


def as_published(assignment: Mapping[str, Any]) -> bool:
    """Whether it is a net of the main comparison: normalised, He's initialisation, shortcuts without parameters."""
    return not any(name.startswith("model.") for name in assignment)


CLAIMS = (
    claims.Claim(
        "deeper-plain",
        "The deeper plain net has the higher training error.",
        "S2:205-211; S3:589; S4:429-436",
        "greater",
        unit="training error, fraction",
    ),
    claims.Claim(
        "shortcuts-close-the-gap",
        "From shallow to deep, training error rises less for the residual net than for the plain one.",
        "S2:205-211; S3:589",
        "greater",
        unit="training error, fraction",
    ),
    claims.Claim(
        "deeper-residual",
        "The deeper residual net does not have the higher training error.",
        "S3:589-615; S4:429-436",
        "not_greater",
        margin=0.01,
        unit="training error, fraction",
        condition=f"the shallower residual net has fitted its training set (mean error at most {FITTED:g}): before "
        "that, a deeper net may merely be slower",
    ),
    claims.Claim(
        "optimisation-not-overfitting",
        "From shallow to deep, the plain net's training error rises by more than its gap between test and training.",
        "S3:589",
        "greater",
        unit="rise of training error less rise of the gap, fraction",
    ),
    claims.Claim(
        "gradients-change-with-depth",
        "Without normalisation, the first layer's gradient changes more with depth in plain than in residual nets.",
        "S4:409-411; S3:613",
        "greater",
        unit="decades",
    ),
    claims.Claim(
        "shortcuts-carry-gradients",
        "In the deepest net without normalisation, the first layer's gradient is larger with shortcuts than without.",
        "S3:613",
        "greater",
        unit="decades",
    ),
    claims.Claim(
        "smaller-responses",
        "After training, the layers of the shallower residual net respond less than those of the plain net.",
        "S3:614",
        "less",
        unit="standard deviation of the responses",
    ),
    claims.Claim(
        "identity-is-easy",
        "With zero weights in its last layer a residual block is the identity on inputs >= 0, and a plain one gives 0.",
        "S4:446-454; S3:591",
        claims.EXACT,
        margin=1e-6,
        unit="largest deviation of an output",
    ),
)
METRICS = ("train_error", "test_error", "train_loss", "test_response")


def spec(preset: str, data: DataConfig) -> Spec:
    """What all runs share; ``data`` other than digits is made small for ``quick``."""
    probes = ("responses",)
    if preset == "paper":
        augment = ("crop",) if data.name == "digits" else ("flip", "crop")  # a mirrored digit is another
        return Spec(
            data=data, steps=64_000, batch_size=128, evaluate_every=2_000, schedule="step", milestones=(0.5, 0.75),
            warmup_form="constant", augment=augment, decayed="all", probes=probes,
        )  # fmt: skip
    width = (("width", 4 if preset == "smoke" else 8),)
    if preset == "smoke":
        return Spec(model_fields=width, data=data, steps=3, batch_size=16, train_examples=256, probes=probes)
    if data.name == "digits":
        return Spec(model_fields=width, data=data, steps=200, evaluate_every=20, probes=probes)
    small = data.at_size(16)
    return Spec(model_fields=width, data=small, steps=300, evaluate_every=50, probes=probes)


def hyper(preset: str, data: DataConfig) -> Hyper:
    """The numbers that all runs share."""
    if preset == "paper":
        return Hyper(learning_rate=0.1, momentum=0.9, l2=5e-5)
    if preset == "smoke" or data.name == "digits":
        return Hyper(learning_rate=0.1, momentum=0.9, warmup=0.05)
    real = data.external
    return Hyper(learning_rate=0.05, momentum=0.9, warmup=0.2, train_size=5_120 if real else 0)


def grid(preset: str, data: DataConfig) -> Grid:
    """Plain and residual nets at every depth of the preset; then what else is compared at 20 layers."""
    names = [f"{kind}{depth}_cifar" for kind in ("plain", "resnet") for depth in DEPTHS[preset]]
    projections = {"model": "resnet20_cifar", "model.shortcut": "B"}
    if preset == "smoke":
        return explicit(*({"model": name} for name in names))
    if preset == "quick":
        bare = {"model": "plain20_cifar", "model.norm": "none", "learning_rate": 0.02}
        initialised = [{**bare, "model.kernel_init": name} for name in INITIALISATIONS]
        return explicit(
            *({"model": name} for name in names), projections, *(initialised if data.name == "digits" else ())
        )
    warm = {"plain110_cifar": 400 / 64_000, "resnet110_cifar": 400 / 64_000}
    every = [{"model": name} for name in names] + [{**projections, "model": f"resnet{n}_cifar"} for n in (20, 56)]
    return explicit(*({**point, "warmup": warm.get(point["model"], 0.0), "warmup_factor": 0.1} for point in every))


def verdict(rows: list[dict], measured: list[dict]) -> list[claims.Verdict]:
    """Deep against shallow: 56 against 20 layers where both ran, else the deepest against 20 or the shallowest."""
    rows = [row for row in rows if as_published(row["assignment"])]
    depths = sorted({layers(row["assignment"]) for row in rows})
    deep = 56 if 56 in depths else depths[-1]
    shallow = 20 if 20 in depths and deep > 20 else depths[0]
    guess = claims.chance(rows)

    def error(kind: str, depth: int, split: str = "train") -> dict[int, float]:
        return claims.by_seed(rows, f"{split}_error", {"model": f"{kind}{depth}_cifar"}, diverged=guess)

    def response(kind: str) -> dict[int, float]:
        return claims.by_seed(rows, "test_response", {"model": f"{kind}{shallow}_cifar"})

    plain_deep, plain_shallow = error("plain", deep), error("plain", shallow)
    residual_deep, residual_shallow = error("resnet", deep), error("resnet", shallow)
    verdicts = claims.judge(
        CLAIMS,
        {
            "deeper-plain": claims.contrast([plain_deep], [plain_shallow]),
            "shortcuts-close-the-gap": claims.contrast([plain_deep, residual_shallow], [plain_shallow, residual_deep]),
            "deeper-residual": claims.contrast([residual_deep], [residual_shallow]),
            # (train - (test - train)) of the deep net less that of the shallow one
            "optimisation-not-overfitting": claims.contrast(
                [plain_deep, plain_deep, error("plain", shallow, "test")],
                [plain_shallow, plain_shallow, error("plain", deep, "test")],
            ),
            "smaller-responses": claims.contrast([response("resnet")], [response("plain")]),
            **gradient_samples(measured),
            "identity-is-easy": [row["metrics"]["deviation"] for row in measured if "deviation" in row["metrics"]],
        },
    )
    reached = sum(residual_shallow.values()) / len(residual_shallow) if residual_shallow else float("nan")
    if reached <= FITTED:
        return verdicts
    reason = f"the shallower residual net is still at a training error of {reached:.2f}: the budget does not decide"
    return claims.withhold(verdicts, "deeper-residual", reason)


def gradient_samples(measured: Sequence[Row]) -> dict[str, list[float]]:
    """By claim: differences of the first layer's log10 gradient, of nets without normalisation initialised as He's."""
    bare = [
        row
        for row in gradient_rows(measured)
        if row["assignment"]["norm"] == "none" and row["assignment"]["init"] == "he"
    ]
    depths = sorted({row["assignment"]["depth"] for row in bare})
    if not depths:
        return {}

    def first(shortcut: str, depth: int) -> dict[int, float]:
        found = claims.by_seed(bare, "gradient_layer01", {"shortcut": shortcut, "depth": depth})
        return claims.mapped(lambda value: math.log10(max(value, SMALLEST)), found)

    def change(shortcut: str) -> dict[int, float]:
        return claims.mapped(lambda low, high: abs(high - low), first(shortcut, depths[0]), first(shortcut, depths[-1]))

    return {
        "gradients-change-with-depth": claims.contrast([change("none")], [change("A")]),
        "shortcuts-carry-gradients": claims.contrast([first("A", depths[-1])], [first("none", depths[-1])]),
    }


def gradient_rows(measured: Sequence[Row]) -> list[Row]:
    """The measured rows that hold gradients."""
    return [row for row in measured if "gradient_layer01" in row["metrics"]]


def measure(preset: str, data: DataConfig) -> list[dict]:
    """Gradients of untrained nets on digits, whatever the experiment's data, and what blocks of zero weights do."""
    rows = [
        claims.measured({"shortcut": shortcut, "norm": norm}, 0, {"deviation": zero_block_deviation(shortcut, norm)})
        for shortcut in ("none", "A")
        for norm in NORMS
    ]
    cases = [("none", init) for init in INITIALISATIONS] + [("batch", "he")]
    for depth in MEASURED_DEPTHS[preset]:
        for norm, init in cases[:1] if preset == "smoke" else cases:
            rows += initial_gradients(depth, norm, init, seeds=SEEDS[preset])
    return rows


def initial_gradients(depth: int, norm: str, init: str, seeds: int) -> list[dict]:
    """The gradients of a plain and a residual net at equal random parameters, layer by layer, for some seeds."""
    images, labels = some_digits()
    nets = {
        shortcut: models.create(f"{kind}{depth}_cifar", width=8, norm=norm)
        for shortcut, kind in (("none", "plain"), ("A", "resnet"))
    }
    shapes = models.parameter_shapes(nets["A"], (8, 8, 1))  # option A has no parameters of its own
    rows = []
    for seed in range(seeds):
        variables = random_variables(shapes, init, seed)
        for shortcut, net in nets.items():
            norms = analysis.gradient_norms(net, variables, images, labels).values()
            found = {f"gradient_layer{place:02d}": norm for place, norm in enumerate(norms, 1)}
            rows.append(
                claims.measured({"shortcut": shortcut, "norm": norm, "init": init, "depth": depth}, seed, found)
            )
    return rows


def random_variables(shapes: dict[str, Any], init: str, seed: int) -> dict[str, Any]:
    """Variables as at the start of training; NumPy draws them, for compiling that into a program takes seconds."""
    generator = np.random.default_rng(seed)

    def fill(path, leaf):
        name = path[-1].key
        if name != "kernel":
            return jnp.full(leaf.shape, 1.0 if name in ("scale", "var") else 0.0)
        deviation = kernel_deviation(init, leaf.shape[-4:])  # kernels of equal blocks are stacked along a first axis
        return jnp.asarray(generator.normal(0, deviation, leaf.shape), jnp.float32)

    return jax.tree_util.tree_map_with_path(fill, shapes)


def kernel_deviation(init: str, shape: tuple[int, ...]) -> float:
    """The standard deviation that ``cnnjax.nn.initializer(init)`` gives a kernel (..., inputs, outputs)."""
    field = math.prod(shape[:-2])
    into, out_of = field * shape[-2], field * shape[-1]
    return {"he": math.sqrt(2 / into), "xavier": math.sqrt(2 / (into + out_of)), "gaussian": 0.01}[init]


def some_digits() -> tuple[jax.Array, jax.Array]:
    """64 digits (64, 8, 8, 1) of mean 0 and variance 1, and their labels."""
    digits = load(DataConfig())
    images = np.asarray(digits.images[:64], np.float32)
    return jnp.asarray((images - images.mean()) / images.std()), jnp.asarray(digits.labels[:64])


def zero_block_deviation(shortcut: str, norm: str) -> float:
    """How far a block whose second convolution is 0 is from the identity, or, without a shortcut, from giving 0."""
    block = Block(16, (1, 1), shortcut, conv=partial(Conv, use_bias=False), norm=norm_layer(norm), act=jax.nn.relu)
    inputs = jnp.abs(jax.random.normal(jax.random.key(0), (2, 4, 4, 16)))
    variables = block.init(jax.random.key(1), inputs, False)
    kernel = variables["params"]["conv2"]["kernel"]
    params = {**variables["params"], "conv2": {"kernel": jnp.zeros_like(kernel)}}
    out = block.apply({**variables, "params": params}, inputs, False)
    return float(jnp.abs(out - (inputs if shortcut == "A" else 0)).max())


def draw_gradients(figure: "matplotlib.figure.Figure", rows: Sequence[Row], measured: Sequence[Row]) -> None:
    """The gradient's norm against the layer's place; a panel for each normalisation and initialisation."""
    found = gradient_rows(measured)
    cases = list(dict.fromkeys((row["assignment"]["norm"], row["assignment"]["init"]) for row in found))
    depths = sorted({row["assignment"]["depth"] for row in found})
    columns = min(2, len(cases))
    lines = -(-len(cases) // columns)
    style.resize(figure, 0.6 + 3.2 * lines)
    axes = list(figure.subplots(lines, columns, sharey=True, squeeze=False).flat)
    looks: dict[str, dict[str, Any]] = {}
    for shortcut, kind, line, marker in (("none", "plain", "-", "o"), ("A", "residual", "--", "s")):
        for depth, hue in style.hues(depths).items():
            looks[f"{kind}, {depth} layers"] = {"color": hue["color"], "linestyle": line, "marker": marker}
            for ax, case in zip(axes, cases, strict=True):
                condition = {"shortcut": shortcut, "depth": depth, "norm": case[0], "init": case[1]}
                members = [row["metrics"] for row in found if row["assignment"] == condition]
                logs = [[math.log10(max(each[name], SMALLEST)) for each in members] for name in members[0]]
                means, lows, highs = (10.0**found for found in style.intervals(logs))
                places = np.linspace(0, 1, len(means))
                look = {**looks[f"{kind}, {depth} layers"], "markevery": max(1, len(means) // 6)}
                ax.plot(places, means, **look)
                ax.fill_between(places, lows, highs, color=look["color"], **style.BAND)
    for ax, (norm, init) in zip(axes, cases, strict=True):
        names = {"he": "He's initialisation", "xavier": "Xavier's initialisation", "gaussian": "N(0, 0.01²)"}
        ax.set_title(f"{names[init]}, {'batch' if norm == 'batch' else 'no'} normalisation")
        ax.set_xlabel("place of the layer (0: first, 1: last)")
        ax.set_yscale("log")
        ax.set_ylim(max(ax.get_ylim()[0], 1e-16), None)
        ax.yaxis.set_major_formatter(lambda value, _: f"1e{math.log10(value):.0f}")
    for ax in axes[::columns]:
        ax.set_ylabel("norm of the gradient")
    style.legend(figure, looks, "")


def draw_responses(figure: "matplotlib.figure.Figure", rows: Sequence[Row], measured: Sequence[Row]) -> None:
    """The responses' standard deviation against the layer, plain and residual; a panel for each depth."""
    rows = [row for row in rows if row["status"] == "done" and as_published(row["assignment"])]
    depths = sorted({layers(row["assignment"]) for row in rows})
    looks = style.hues(("plain", "residual"))
    columns = min(style.COLUMNS, len(depths))
    style.resize(figure, 0.6 + 3.2 * -(-len(depths) // columns))
    axes = list(figure.subplots(-(-len(depths) // columns), columns, squeeze=False).flat)  # each with its own scale
    for unused in axes[len(depths) :]:
        unused.remove()
    for ax, depth in zip(axes, depths, strict=False):
        for kind, look in looks.items():
            members = [
                row["metrics"]
                for row in rows
                if layers(row["assignment"]) == depth and family(row["assignment"]) == kind
            ]
            names = sorted({name for each in members for name in each if name.startswith("test_response_layer")})
            found = {place: [each[name] for each in members] for place, name in enumerate(names, 1)}
            style.mean_line(ax, found, look, markevery=max(1, len(names) // 8))
        ax.set_title(f"{depth} layers")
        ax.set_xlabel("layer")
    figure.axes[0].set_ylabel("standard deviation of the response")
    style.legend(figure, looks, "")


FIGURES = (
    Curves("train_error", title="Training error", panels=family, hue=layers, only=as_published),
    Drawing(
        "gradients",
        "Before training: the gradient that reaches each layer",
        draw_gradients,
        "The norm of the loss's gradient with respect to each layer's kernel, at random parameters, on 64 digits. In "
        "plain nets without normalisation all gradients shrink as the net gets deeper (lines below 1e-16 are cut off); "
        "shortcuts prevent that. With batch normalisation, the deep plain net's first layers get the largest ones.",
        note=f"Mean and 95 % interval over {SEEDS['quick']} initialisations; nothing is trained.",
    ),
    Drawing(
        "responses",
        "After training: how strongly each layer responds",
        draw_responses,
        "The standard deviation of what each 3x3 layer puts out on the test split, after normalisation, before the "
        "shortcut is added (He et al. 2015, figure 7). Smaller responses mean that a block changes its input less.",
    ),
    Finals(("train_error", "test_error"), title="Errors at the last step", only=as_published),
)


if __name__ == "__main__":
    raise SystemExit(cli.main(__name__))
