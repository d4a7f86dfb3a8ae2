"""What a convolution saves: local connections, shared weights and pooling against a fully-connected net.

A convolution is a linear layer under two constraints (S3:78-96): a unit reads a small window, and the units of a
map share their weights. The lectures conclude that it needs fewer parameters and overfits less (S1:514-538), that
a fully-connected net ignores where pixels lie, so that it learns as well from pixels in any fixed order (S1:999),
and that it has "little or no invariance to shifting" (S1:1009-1020). Rows 143, 300-303 and 342 of
lectures.csv. Four nets with the same two hidden layers of units differ in their connections alone:

    dense      every unit reads the whole layer before it (connectivity_dense)
    local      3x3 windows, each unit with weights of its own (connectivity_local)
    strided    the same windows with shared weights, at every second pixel (connectivity_conv)
    pooled     shared weights at every pixel, then the maximum of each 2x2 (vgg_small); as many parameters as strided

    python -m experiments.weight_sharing                        quick, embedded digits
    python -m experiments.weight_sharing --data=folder:DIR      quick, for example CIFAR-10
    python -m experiments.weight_sharing --preset=paper --data=tfds:cifar10

Quick trains each net on 64, 256 and all 1,024 digits, and on all with the pixels in one random order, for 300 steps
with 16 seeds: about half a minute on two CPU cores. Expect, with all digits, a test error of 0.028 (dense), 0.034
(local), 0.036 (strided) and 0.021 (pooled). Shuffled pixels leave the dense net at 0.026 and raise the pooled one to
0.048; a shift by one of the eight pixels raises the dense net to 0.58 and the pooled one to 0.31. Fewer weights alone
do not help here: with 64 digits the local and the strided net have errors of 0.21 and 0.22, the dense one 0.18 and the
pooled one 0.17. One reason may be that the digits are centred: the same stroke seldom appears in different regions.
In the claims on order and shifts the pooled net stands for convolution. It was chosen after a pilot of seeds 0 to 5, in
which the strided one hardly minded either (order: 0.036 and 0.038; one pixel: 0.54); the figures show both.

On other data quick uses at most 4,096 images at 16x16 for 500 steps; --seeds=5 keeps that to about five minutes. Paper
uses all images and wider nets for 10,000 steps and needs an accelerator.

What is exact needs no training. The lectures speak of "translation invariance" (S0:177-182; S1:1254); what
holds is equivariance: shifting the image circularly shifts the response, which is something else than leaving it as
it is. Only its average over all positions is invariant.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cnnjax import claims, cli, models, tree
from cnnjax.data import DataConfig, describe
from cnnjax.ops.conv import conv
from cnnjax.report import style
from cnnjax.report.figures import Drawing
from cnnjax.sweep import Grid
from cnnjax.train import Hyper, Spec

TITLE = "Weight sharing: fully-connected, locally connected and convolutional layers of the same size"
SEEDS = {"smoke": 2, "quick": 16, "paper": 5}
NETS = {
    "dense": "connectivity_dense",
    "local": "connectivity_local",
    "strided": "connectivity_conv",
    "pooled": "vgg_small",
}
MAPS = {"smoke": (2, 4), "quick": (16, 32), "paper": (32, 64)}  # of the two hidden layers
MOST_EXAMPLES = 4_096  # of quick
SHIFTS = (1, 2, 3, 4)  # pixels, of the probe

GAP = "test error - training error, fraction, with the fewest examples"
CLAIMS = (
    claims.Claim(
        "convolution-overfits-less",
        "With few examples the convolutional net with pooling has a smaller gap between test and training error "
        "than the fully-connected net.",
        "S1:514-538; S3:95-96",
        "less",
        unit=GAP,
    ),
    claims.Claim(
        "locality-overfits-less",
        "With few examples the locally connected net has a smaller gap between test and training error than the "
        "fully-connected net.",
        "S1:514-517; S3:286",
        "less",
        unit=GAP,
    ),
    claims.Claim(
        "sharing-overfits-less",
        "With few examples the net that shares its weights has a smaller gap between test and training error than "
        "the locally connected net of the same connections.",
        "S1:526; S3:85-96",
        "less",
        unit=GAP,
    ),
    claims.Claim(
        "dense-ignores-order",
        "A fixed random order of the pixels does not change the test error of the fully-connected net.",
        "S1:999",
        "equivalent",
        margin=0.01,
        unit="test error, fraction",
    ),
    claims.Claim(
        "convolution-needs-order",
        "A fixed random order of the pixels raises the test error of the convolutional net with pooling.",
        "S1:999; S3:286",
        "greater",
        unit="test error, fraction",
    ),
    claims.Claim(
        "dense-suffers-from-shifts",
        "Moving the test images by one pixel raises the error of the fully-connected net more than that of the "
        "convolutional net with pooling.",
        "S1:1009-1020",
        "greater",
        unit="rise of the test error, fraction",
    ),
    claims.Claim(
        "response-not-invariant",
        "Shifting the image changes the response of a convolution, which is therefore not translation invariant.",
        "S0:177-182; S1:1254",
        "greater",
        unit="change of the response, relative",
    ),
    claims.Claim(
        "response-equivariant",
        "The response to a circularly shifted image is the circularly shifted response.",
        "S0:177-182; S1:1254",
        claims.EXACT,
        margin=1e-5,
        unit="deviation, relative",
    ),
    claims.Claim(
        "average-invariant",
        "The average of a convolution's response over all positions does not change when the image is shifted "
        "circularly.",
        "S0:177-182; S1:1254",
        claims.EXACT,
        margin=1e-5,
        unit="deviation, relative",
    ),
    claims.Claim(
        "order-absorbed",
        "With the rows of its first weight matrix in the same order as the pixels, a fully-connected net computes the "
        "same function of the reordered image.",
        "S1:999",
        claims.EXACT,
        margin=1e-5,
        unit="deviation of the logits, relative",
    ),
    claims.Claim(
        "parameter-counts",
        "The nets have as many parameters as the formulas of their layers say, fewest with shared weights; a "
        "fully-connected net of 256, 100 and 26 units has 28,326.",
        "S1:514-538; S1:1004-1005; S3:95-96",
        claims.EXACT,
        margin=0.5,
        unit="parameters",
    ),
)
METRICS = ("train_error", "test_error", "test_error_shift1", "parameters")


def values(
    rows: Sequence[Mapping[str, Any]], metric: str, net: str, size: int, permuted: bool = False
) -> dict[int, float]:
    """An error of one net, by seed; a diverged run has the error of chance."""
    where = {"model": NETS[net], "train_size": size, "data.permute_pixels": permuted}
    return claims.by_seed(rows, metric, where, diverged=claims.chance(rows))


def sizes_of(rows: Sequence[Mapping[str, Any]]) -> list[int]:
    """The numbers of training examples, in rising order."""
    return sorted({row["assignment"]["train_size"] for row in rows})


def draw_order(figure, rows, measured) -> None:
    """Test error of each net with the pixels in their order and in a random one."""
    size = sizes_of(rows)[-1]
    style.resize(figure, 3.4)
    ax = figure.subplots()
    looks = {
        "in order": {"color": style.COLOURS[0], "marker": "o"},
        "shuffled": {"color": style.COLOURS[1], "marker": "s"},
    }
    for offset, permuted, look in zip((-0.12, 0.12), (False, True), looks.values(), strict=True):
        samples = [list(values(rows, "test_error", net, size, permuted).values()) for net in NETS]
        mean, low, high = style.intervals(samples)
        places = np.arange(len(NETS)) + offset
        for place, sample in zip(places, samples, strict=True):
            ax.plot([place] * len(sample), sample, "o", color=look["color"], alpha=0.25, markersize=3.5)
        ax.errorbar(places, mean, [mean - low, high - mean], linestyle="", capsize=4, **look)
    ax.set_xticks(range(len(NETS)), NETS)
    ax.set_xlim(-0.5, len(NETS) - 0.5)
    ax.set_ylim(bottom=0)
    ax.set_ylabel("test error (fraction)")
    style.legend(figure, {name: {**look, "linestyle": ""} for name, look in looks.items()}, "order of the pixels")


def draw_shifts(figure, rows, measured) -> None:
    """Test error of each net against how far the test images are moved."""
    size = sizes_of(rows)[-1]
    style.resize(figure, 3.6)
    ax = figure.subplots()
    for net, look in _looks().items():
        metrics = ("test_error", *(f"test_error_shift{shift}" for shift in SHIFTS))
        found = {
            shift: list(values(rows, metric, net, size).values())
            for shift, metric in zip((0, *SHIFTS), metrics, strict=True)
        }
        style.mean_line(ax, found, look)
    ax.set_xticks((0, *SHIFTS))
    ax.set_xlabel("test images moved by (pixels)")
    ax.set_ylabel("test error (fraction)")
    ax.set_ylim(bottom=0)
    style.legend(figure, _looks(), "")


def draw_examples(figure, rows, measured) -> None:
    """Gap of each net against the number of examples, and how many parameters each has."""
    sizes = sizes_of(rows)
    style.resize(figure, 3.8)
    left, right = figure.subplots(1, 2, width_ratios=(1.5, 1))
    for place, (net, look) in enumerate(_looks().items()):
        gaps = {
            size: claims.contrast([values(rows, "test_error", net, size)], [values(rows, "train_error", net, size)])
            for size in sizes
        }
        style.mean_line(left, gaps, look)
        count = _parameters_of(rows, net)
        right.barh(place, count, color=look["color"], height=0.6)
        right.text(count, place, f" {count:,}", va="center")
    style.named_log_axis(left, sizes, "training examples")
    left.set_ylabel("test error - training error (fraction)")
    left.set_ylim(bottom=0)
    right.set_yticks(range(len(NETS)), NETS)
    right.set_ylim(len(NETS) - 0.5, -0.5)
    right.set_xlim(right=1.4 * right.get_xlim()[1])
    right.locator_params(axis="x", nbins=3)
    right.xaxis.set_major_formatter("{x:,.0f}")
    right.set_xlabel("parameters")
    right.grid(visible=False, axis="y")
    style.legend(figure, _looks(), "")


def _looks() -> dict[str, dict[str, Any]]:
    return style.hues(NETS)


def _parameters_of(rows: Sequence[Mapping[str, Any]], net: str) -> int:
    return next(int(r["metrics"]["parameters"]) for r in rows if r["metrics"] and r["assignment"]["model"] == NETS[net])


FIGURES = (
    Drawing(
        "order",
        "Test error with the pixels in their order and shuffled",
        draw_order,
        "Test error with all training examples, of each net, with the pixels of all images where they are and in one "
        "fixed random order. Large marks are means over seeds with their 95 % intervals, small dots single seeds.",
    ),
    Drawing(
        "shifts",
        "Test error when the test images are moved",
        draw_shifts,
        "Each line is a net trained on unmoved images. The steeper it rises, the less it tolerates shifts; bands are "
        "95 % intervals of the mean.",
    ),
    Drawing(
        "examples",
        "Generalisation gap and parameters",
        draw_examples,
        "Left: how much higher the error is on the test split than on the training split, against the number of "
        "training examples. Right: parameters of each net.",
    ),
)


def spec(preset: str, data: DataConfig) -> Spec:
    """What all runs share; ``data`` other than digits is made small for ``quick``."""
    common = Spec(model=NETS["dense"], data=data, batch_size=32, probes=("shifts",))
    if preset == "paper":
        return replace(common, steps=10_000, batch_size=128)
    if preset == "smoke" or data.name == "digits":
        return replace(common, steps=3 if preset == "smoke" else 300)
    return replace(common, data=data.at_size(16), steps=500, batch_size=64)


def hyper(preset: str, data: DataConfig) -> Hyper:
    """The numbers that all runs share."""
    return Hyper(learning_rate=0.05, momentum=0.9, warmup=0.05)


def train_sizes(preset: str, data: DataConfig) -> tuple[int, ...]:
    """A sixteenth, a quarter and all of the training examples that the preset uses."""
    available = describe(data).sizes["train"]
    most = available if preset == "paper" else min(MOST_EXAMPLES, available)
    return (max(1, most // 16), most) if preset == "smoke" else (max(1, most // 16), max(2, most // 4), most)


def grid(preset: str, data: DataConfig) -> Grid:
    """Each net with each number of examples, and with all of them and the pixels in one random order."""
    maps, sizes = MAPS[preset], train_sizes(preset, data)
    shuffled = ("dense", "pooled") if preset == "smoke" else tuple(NETS)
    points = [(net, False, size) for net in NETS for size in sizes] + [(net, True, sizes[-1]) for net in shuffled]
    return tuple(
        {**_fields(net, maps), "data.permute_pixels": permuted, "train_size": size} for net, permuted, size in points
    )


def _fields(net: str, maps: tuple[int, int]) -> dict[str, Any]:
    """The model called ``net`` here, with ``maps`` in its two hidden layers and no others."""
    if net == "pooled":
        return {"model": NETS[net], "model.stages": tuple((count, 1) for count in maps), "model.dense": ()}
    return {"model": NETS[net], "model.features": maps}


def measure(preset: str, data: DataConfig) -> list[dict[str, Any]]:
    """Equivariance of the response, the reordered image, and the parameter counts."""
    rows = []
    for draw in range(SEEDS[preset]):
        rows.append(claims.measured({"case": "response to a shift"}, draw, _shifted_response(draw)))
        rows.append(claims.measured({"case": "reordered pixels"}, draw, {"logits_deviation": _reordered(draw)}))
    shapes = ((8, 8, 1), (16, 16, 3), (15, 17, 3))
    counts = [({"net": net, "image": list(shape)}, *_counts(net, shape)) for shape in shapes for net in NETS]
    letters = ({"net": "mlp 256-100-26", "image": [16, 16, 1]}, _real("mlp", (16, 16, 1), num_classes=26), 28_326)
    for assignment, real, formula in (*counts, letters):
        rows.append(claims.measured(assignment, 0, {"parameters": real, "formula": formula}))
    return rows


def _shifted_response(draw: int) -> dict[str, float]:
    """How far a convolution's response, under circular padding, is from equivariant and from invariant."""
    rng = np.random.default_rng(draw)
    image = jnp.asarray(rng.standard_normal((1, 9, 12, 3)), jnp.float32)
    kernel = jnp.asarray(rng.standard_normal((3, 5, 3, 4)), jnp.float32)
    shift = (int(rng.integers(1, 9)), int(rng.integers(1, 12)))

    def response(x):
        return np.asarray(conv(jnp.pad(x, ((0, 0), (1, 1), (2, 2), (0, 0)), mode="wrap"), kernel, padding="VALID"))

    plain, moved = response(image), response(jnp.roll(image, shift, (1, 2)))
    means = [each.mean((1, 2)) for each in (plain, moved)]
    return {
        "equivariance_deviation": _relative(moved, np.roll(plain, shift, (1, 2))),
        "invariance_deviation": _relative(moved, plain),
        "average_deviation": _relative(means[1], means[0]),
    }


def _reordered(draw: int) -> float:
    """Difference of a dense net's logits when pixels and first weights are reordered alike."""
    rng = np.random.default_rng(draw)
    images = jnp.asarray(rng.uniform(size=(16, 8, 8, 1)), jnp.float32)
    order = rng.permutation(64)
    net = models.create("mlp")
    params = net.init(jax.random.key(draw), images)["params"]
    first = {**params["dense1"], "kernel": params["dense1"]["kernel"][order]}
    reordered = images.reshape(16, 64)[:, order].reshape(images.shape)
    plain = net.apply({"params": params}, images)[0]
    return _relative(net.apply({"params": {**params, "dense1": first}}, reordered)[0], plain)


def _relative(found: Any, expected: Any) -> float:
    """Root mean square of the difference over that of ``expected``."""
    return float(np.linalg.norm(np.asarray(found) - expected) / np.linalg.norm(expected))


def _counts(net: str, shape: tuple[int, int, int]) -> tuple[int, int]:
    """Parameters of the net, counted and by formula."""
    maps = MAPS["quick"]
    fields = {name.removeprefix("model."): value for name, value in _fields(net, maps).items()}
    return _real(fields.pop("model"), shape, **fields), parameters(net, maps, shape)


def _real(model: str, shape: tuple[int, int, int], **fields: Any) -> int:
    return tree.count(models.parameter_shapes(models.create(model, **fields), shape)["params"])


def parameters(net: str, maps: tuple[int, int], shape: tuple[int, int, int], classes: int = 10) -> int:
    """Parameters of one of ``NETS`` by the formulas of its layers: weights and a bias for each unit or each map.

    Args:
      net: "dense", "local", "strided" or "pooled".
      maps: of the two hidden layers.
      shape: (H, W, C) of the images.
      classes: units of the output layer.
    """
    height, width, channels = shape
    count, inputs, window = 0, height * width * channels, 9 * channels
    for features in maps:
        # Pooling drops an odd last row; a strided window keeps it.
        height, width = (side // 2 if net == "pooled" else -(-side // 2) for side in (height, width))
        units = height * width * features
        count += {
            "dense": units * (inputs + 1),
            "local": units * (window + 1),
            "strided": features * (window + 1),
            "pooled": features * (window + 1),
        }[net]
        inputs, window = units, 9 * features
    return count + classes * (inputs + 1)


def verdict(rows: list[dict], measured: list[dict]) -> list[claims.Verdict]:
    """Gaps with the fewest examples; order and shifts with all of them; a diverged run has the error of chance."""
    sizes = sizes_of(rows)
    few, most = sizes[0], sizes[-1]

    def gap(net: str, other: str) -> list[float]:
        """The gap of ``net`` less that of ``other``."""
        test, train = (
            [values(rows, f"{split}_error", each, few) for each in (net, other)] for split in ("test", "train")
        )
        return claims.contrast([test[0], train[1]], [train[0], test[1]])

    def reordering(net: str) -> list[float]:
        shuffled, plain = (values(rows, "test_error", net, most, permuted) for permuted in (True, False))
        return claims.contrast([shuffled], [plain])

    plain, moved = (
        {net: values(rows, metric, net, most) for net in ("dense", "pooled")}
        for metric in ("test_error", "test_error_shift1")
    )

    def found(metric: str) -> list[float]:
        return [row["metrics"][metric] for row in measured if metric in row["metrics"]]

    counts = [row["metrics"] for row in measured if "formula" in row["metrics"]]
    return claims.judge(
        CLAIMS,
        {
            "convolution-overfits-less": gap("pooled", "dense"),
            "locality-overfits-less": gap("local", "dense"),
            "sharing-overfits-less": gap("strided", "local"),
            "dense-ignores-order": reordering("dense"),
            "convolution-needs-order": reordering("pooled"),
            "dense-suffers-from-shifts": claims.contrast(
                [moved["dense"], plain["pooled"]], [plain["dense"], moved["pooled"]]
            ),
            "response-not-invariant": found("invariance_deviation"),
            "response-equivariant": found("equivariance_deviation"),
            "average-invariant": found("average_deviation"),
            "order-absorbed": found("logits_deviation"),
            "parameter-counts": [float(each["parameters"] - each["formula"]) for each in counts],
        },
    )


if __name__ == "__main__":
    raise SystemExit(cli.main(__name__))
