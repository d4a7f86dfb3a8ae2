"""Compound scaling: a larger budget, spent on depth, on width, on resolution, or on all three.

The lectures ask how to fit a net to a platform, and answer: "tune image resolution, depth and layer widths"
(S4:588-593). Tan and Le 2019 (arXiv:1905.11946) scale all three together, depth by 1.2^phi, width by 1.1^phi and
resolution by 1.15^phi, so that the cost grows by about 2^phi, and find that this beats spending the same budget on one
of them (their figure 8 and table 7: 81.1 % top-1 accuracy on ImageNet against 79.0 for depth, 78.9 for width and 79.1
for resolution). Rows 14 and 341 of lectures.csv.

    python -m experiments.compound_scaling                                       quick, procedural shapes
    python -m experiments.compound_scaling --data=folder:DIR                     quick, for example CIFAR-10
    python -m experiments.compound_scaling --preset=paper --data=tfds:cifar10    EfficientNet's own blocks

A small net of EfficientNet's blocks and four of about 4.5 times its cost: *deep*, *wide*, *fine* (the same net on
larger images) and *compound* (phi = 2). The default data are shapes, which are drawn at any size, so that a larger
image really shows more; digits are 8x8 pixels and enlarging them shows nothing new.

Counted, not trained: the parameters of B0 to B7, and that the four nets cost the same.

Quick trains two stages of narrow blocks from 16x16 pixels on for 800 steps with 5 seeds: about four minutes on two CPU
cores. On other data quick is the same on 4,096 pictures. Expect 0.42 test error for base, 0.51 deep, 0.47 wide, 0.08
fine and 0.13 compound: resolution is what tells these shapes apart. Paper trains B0's seven stages at half their width
from 64x64 pixels on for 20,000 steps and needs an accelerator.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cnnjax import claims, cli, models
from cnnjax.analysis import multiply_adds
from cnnjax.data import DataConfig
from cnnjax.models.efficientnet import B0, Stage, coefficients
from cnnjax.report import style
from cnnjax.report.figures import Drawing
from cnnjax.report.table import Row
from cnnjax.sweep import Grid, explicit
from cnnjax.train import Hyper, Spec

if TYPE_CHECKING:
    import matplotlib.figure

TITLE = "Compound scaling: depth, width, resolution, or all three"
DATA = "shapes"
SEEDS = {"smoke": 2, "quick": 5, "paper": 5}

# Expansion, channels, blocks, side of the kernel, stride.
SMALL = (Stage(1, 48, 1, 3, 1), Stage(2, 96, 2, 3, 2))
TINY = (Stage(1, 8, 1, 3, 1),)
PUBLISHED = {  # parameters of B0 to B7
    "b0": 5_288_548, "b1": 7_794_184, "b2": 9_109_994, "b3": 12_233_232,
    "b4": 19_341_616, "b5": 30_389_784, "b6": 43_040_704, "b7": 66_347_960,
}  # fmt: skip
# Multipliers of depth, width and image size. Blocks are whole and channels multiples of eight, so that the cost grows
# in steps; the compound net's is about 4.5 times the base's, and the others' are near to it.
PHI = 2
NETS = ("base", "deep", "wide", "fine", "compound")
SCALES: dict[str, tuple[tuple[float, float, float], ...]] = {
    "smoke": ((1, 1, 1), (2, 1, 1), (1, 2, 1), (1, 1, 2), (2, 2, 2)),
    "quick": ((1, 1, 1), (5.5, 1, 1), (1, 2.2, 1), (1, 1, 2.125), coefficients(PHI)),
    "paper": ((1, 1, 1), (4.5, 1, 1), (1, 2.4, 1), (1, 1, 2.0625), coefficients(PHI)),
}
COST = 0.1  # share by which the costs of the four may differ

CLAIMS = (
    claims.Claim(
        "published-parameters",
        "B0 to B7, scaled from B0's table by their depth and width, have the published numbers of parameters.",
        "S4:588-593",
        claims.EXACT,
        margin=1e-9,
        unit="parameters",
    ),
    claims.Claim(
        "equal-cost",
        "The deep, the wide, the fine and the compound net cost the same multiply-adds, to within a tenth.",
        "S4:588-593",
        claims.EXACT,
        margin=COST,
        unit="difference from the compound net's, as a share of it",
    ),
    claims.Claim(
        "larger-is-better",
        "The compound net has a lower test error than the base net that it was scaled from.",
        "S4:588-593",
        "less",
        unit="test error, fraction",
    ),
    *(
        claims.Claim(
            f"compound-beats-{net}",
            f"Scaled in all three directions, the net has a lower test error than scaled in {what} alone.",
            "S4:588-593",
            "less",
            unit="test error, fraction",
        )
        for net, what in (("deep", "depth"), ("wide", "width"), ("fine", "resolution"))
    ),
)
METRICS = ("train_error", "test_error", "parameters")


def _base(preset: str) -> tuple[tuple[Stage, ...], float, int]:
    """Stages, width and image size of the base net."""
    return {"smoke": (TINY, 0.5, 8), "quick": (SMALL, 0.5, 16), "paper": (B0, 0.5, 64)}[preset]


def spec(preset: str, data: DataConfig) -> Spec:
    """What all runs share."""
    stages, _, _ = _base(preset)
    common: dict[str, Any] = {"model": "efficientnet_b0", "model_fields": (("stages", stages),), "data": data}
    if preset == "paper":
        augment = ("crop",) if data.name == "digits" else ("flip", "crop")  # a mirrored digit is another
        return Spec(**common, steps=20_000, evaluate_every=1_000, augment=augment)
    if preset == "smoke":
        return Spec(**common, steps=2, batch_size=8)
    return Spec(**common, steps=800, batch_size=32)


def hyper(preset: str, data: DataConfig) -> Hyper:
    """The numbers that all runs share."""
    if preset == "paper":
        return Hyper(learning_rate=0.1, warmup=0.05, l2=2e-5)
    real = preset == "quick" and data.external
    return Hyper(learning_rate=0.1, warmup=0.1, train_size=4_096 if real else 0)


def grid(preset: str, data: DataConfig) -> Grid:
    """The base and its four enlargements."""
    return explicit(*(condition(preset, net) for net in NETS))


def condition(preset: str, net: str) -> dict[str, Any]:
    """Depth, width and image size of a net."""
    _, base_width, base_size = _base(preset)
    depth, width, resolution = SCALES[preset][NETS.index(net)]
    return {
        "model.depth_multiplier": float(depth),
        "model.width_multiplier": base_width * width,
        "data.image_size": 2 * round(base_size * resolution / 2),
    }


def net_of(assignment: Mapping[str, Any], rows: Sequence[Row]) -> str:
    """Which of the five nets a condition is, from how it differs from the smallest."""
    axes = ("model.depth_multiplier", "model.width_multiplier", "data.image_size")
    grown = [assignment[axis] > min(row["assignment"][axis] for row in rows) for axis in axes]
    return {0: "base", 3: "compound"}.get(sum(grown)) or ("deep", "wide", "fine")[grown.index(True)]


def cost(preset: str, net: str) -> int:
    """Multiply-adds of a net for one image, with ten classes and three channels."""
    fields = condition(preset, net)
    size = fields.pop("data.image_size")
    given = {name.removeprefix("model."): value for name, value in fields.items()}
    model = models.create("efficientnet_b0", stages=_base(preset)[0], num_classes=10, **given)
    return multiply_adds(model, (size, size, 3))


def measure(preset: str, data: DataConfig) -> list[Row]:
    """Parameters of the published nets (of the first two, for ``smoke``), and the cost of the five."""
    names = list(PUBLISHED)[: 2 if preset == "smoke" else None]
    counted = [
        claims.measured({"published": name}, 0, {"parameters": models.count_parameters(f"efficientnet_{name}")})
        for name in names
    ]
    # What is compared is quick's nets: those of smoke are too narrow to be scaled finely.
    compared = "quick" if preset == "smoke" else preset
    return [*counted, *(claims.measured({"net": net}, 0, {"multiply_adds": cost(compared, net)}) for net in NETS)]


def verdict(rows: list[dict], measured: list[dict]) -> list[claims.Verdict]:
    """The compound net against the others, seed by seed."""
    costs = {
        row["assignment"]["net"]: row["metrics"]["multiply_adds"] for row in measured if "net" in row["assignment"]
    }
    counted = [row for row in measured if "published" in row["assignment"]]

    def error(net: str) -> dict[int, float]:
        members = [row for row in rows if net_of(row["assignment"], rows) == net]
        return claims.by_seed(members, "test_error", {}, diverged=claims.chance(rows))

    return claims.judge(
        CLAIMS,
        {
            "published-parameters": [
                row["metrics"]["parameters"] - PUBLISHED[row["assignment"]["published"]] for row in counted
            ],
            "equal-cost": [costs[net] / costs["compound"] - 1 for net in costs if net != "base"],
            "larger-is-better": claims.contrast([error("compound")], [error("base")]),
            **{
                f"compound-beats-{net}": claims.contrast([error("compound")], [error(net)])
                for net in ("deep", "wide", "fine")
            },
        },
    )


def draw(figure: "matplotlib.figure.Figure", rows: Sequence[Row], measured: Sequence[Row]) -> None:
    """Test error of the five nets, and what they cost."""
    style.resize(figure, 3.8)
    left, right = figure.subplots(1, 2, sharey=True)
    done = [row for row in rows if row["status"] == "done"]
    costs = {
        row["assignment"]["net"]: row["metrics"]["multiply_adds"] for row in measured if "net" in row["assignment"]
    }
    for place, net in enumerate(NETS):
        colour = style.COLOURS[1 if net == "compound" else 0]
        values = [row["metrics"]["test_error"] for row in done if net_of(row["assignment"], rows) == net]
        style.dots(left, place, values, colour)
        right.barh(place, costs[net] / costs["base"], color=colour, height=0.55)
        right.text(costs[net] / costs["base"] + 0.05, place, f"{costs[net] / costs['base']:.2f}", va="center")
    for ax, label in ((left, "test error (fraction)"), (right, "multiply-adds, of the base net's")):
        style.name_rows(ax, NETS, label)
        ax.set_xlim(left=0)


FIGURES = (
    Drawing(
        "nets",
        "One budget, spent in four ways",
        draw,
        "Large dots are means over seeds with 95 % intervals, small grey ones single seeds.",
    ),
)


if __name__ == "__main__":
    raise SystemExit(cli.main(__name__))
