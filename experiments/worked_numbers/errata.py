"""What the decks have wrong, rows 351 to 381 of ``lectures.csv``: the right value computed, beside the printed one.

A formula is shown wrong by an example; ``as_printed`` has it as a function. tests/experiments/test_errata.py has a
test for each.
"""

import inspect
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cnnjax import losses
from cnnjax.data import DataConfig
from cnnjax.models import MODELS, create
from cnnjax.ops.boxes import iou, non_max_suppression
from cnnjax.ops.correlate import correlate
from cnnjax.ops.lrn import local_response_norm
from cnnjax.ops.pool import max_pool
from cnnjax.ops.transposed import conv_transpose
from cnnjax.train import Hyper, Spec
from cnnjax.train.optim import directions
from experiments import degradation
from experiments.overfitting import noisy_points
from experiments.worked_numbers import as_printed, layers, s0, s1, s2, s4
from experiments.worked_numbers.number import Number
from experiments.worked_numbers.values import About, matrix

# Three boxes around one object, of 10 by 10 pixels, each 1 pixel to the right of the one before.
BOXES = np.array([[0, left, 10, 10 + left] for left in (0, 1, 2)], np.float32)
PROBABILITIES = np.array([0.9, 0.7, 0.8], np.float32)
PREDICTED = np.array([0, 0.1, 0.2, 0.9, 0.9, 0, 1, 0], np.float32)
TRUE = np.array([1, 0.5, 0.5, 0.5, 0.5, 0, 1, 0], np.float32)
FACES = np.zeros((2, 128), np.float32)
FACES[1, 100] = 1  # they differ beyond the twelfth component
SLOPE, STEPS, RATE = 3.0, 20, 0.1
# The printed columns of S2:160-170, as stages of (channels, convolutions); C's 1x1 convolutions begin in stage 4.
COLUMNS: dict[str, dict[str, Any]] = {
    "vgg16_1x1": {"stages": ((64, 2), (128, 2), (256, 2), (512, 3), (512, 3)), "pointwise_from": 4},
    "vgg19": {"stages": ((64, 2), (128, 2), (256, 3), (512, 4), (512, 4))},
}
PICTURE = np.pad(s1.IMAGE, 4)  # with a margin for shifts


@cache
def overlaps() -> np.ndarray:
    """Intersection over union of each of ``BOXES`` with each."""
    return np.asarray(layers.compiled(iou)(BOXES, BOXES))


def kept() -> list[int]:
    """The boxes that non-max suppression keeps of ``BOXES``."""
    indices, meant = layers.compiled(non_max_suppression)(BOXES, PROBABILITIES)
    return [int(index) for index in np.asarray(indices)[np.asarray(meant)]]


def style_descent(rate: float) -> float:
    """The distance from the minimum after ``STEPS`` steps of gradient descent from distance 1."""
    optimizer = directions(Spec(), Hyper(momentum=0.0))

    def cost(image: jax.Array) -> jax.Array:
        return SLOPE / 2 * losses.squared_error(image, jnp.zeros((1, 1))).sum()

    def step(_: int, carried: Any) -> Any:
        image, state = carried
        direction, state = optimizer.update(jax.grad(cost)(image), state, image)
        return image - rate * direction, state

    def descent(image: jax.Array) -> jax.Array:
        return jax.lax.fori_loop(0, STEPS, step, (image, optimizer.init(image)))[0]

    return float(layers.compiled(descent)(np.ones((1, 1), np.float32))[0, 0])


def tconv_cell(row: int, column: int) -> dict[str, Any]:
    """The summands of a cell of the lecture's transposed convolution, one for each input; and the side it comes to."""
    alone = np.diag(s4.SMALL.reshape(-1)).reshape(4, 2, 2, 1)  # an image for each input
    kernel = s4.STAMP[:, :, None, None]
    parts = np.asarray(layers.compiled(partial(conv_transpose, **s4.EXPANSION))(alone, kernel))[:, row, column, 0]
    unpadded = partial(conv_transpose, **{**s4.EXPANSION, "output_padding": 0})
    side = jax.eval_shape(unpadded, alone, kernel).shape[1]
    return {"summands": parts, "cell": parts.sum(), "side without output padding": side}


def first_stage(after: bool) -> float:
    """One pixel and channel of AlexNet's normalisation before or after its pooling, on large activations."""
    images = np.zeros((1, 3, 3, 2), np.float32)
    images[0, 0, 0, 0] = images[0, 2, 2, 1] = 100  # the channels are large in different places
    pool = partial(max_pool, window=(3, 3), strides=(2, 2))

    def stage(x: jax.Array) -> jax.Array:
        return local_response_norm(pool(x)) if after else pool(local_response_norm(x))

    return float(layers.compiled(stage)(images)[0, 0, 0, 0])


def alexnet_order(after: bool) -> dict[str, Any]:
    """The order's name, and what it makes of an example."""
    order = "pooling, normalisation" if after else "normalisation, pooling"
    return {"order": order, "example": first_stage(after)}


def named(part: str) -> str:
    """The networks whose name has this part."""
    return ", ".join(name for name in MODELS if part in name)


def vgg_columns(changed: bool) -> dict[str, int]:
    """Parameters and layers with weights of C and E, complete or as the slide's columns have them."""
    found = {}
    for letter, name in (("C", "vgg16_1x1"), ("E", "vgg19")):
        fields = COLUMNS[name] if changed else {}
        found[letter] = layers.network_parameters(name, **fields)
        found[f"layers of {letter}"] = sum(layers.weighted_layers(name, **fields).values())
    return found


def overfeat_side() -> int:
    """The smallest side of which OverFeat's network makes 2x2 outputs."""
    return next(side for side in range(14, 30) if layers.outputs(s2.OVERFEAT, side) == "2x2")


def shift_and_filter() -> dict[str, bool]:
    """Whether the output of a filter stays the same, or is shifted as well, where the image is shifted by 2."""
    before, after = (layers.correlated(image, s1.DIAGONAL) for image in (PICTURE, np.roll(PICTURE, 2, axis=1)))
    return {"stays": np.array_equal(before, after), "is shifted": np.array_equal(np.roll(before, 2, axis=1), after)}


def unit_inputs() -> tuple[np.ndarray, np.ndarray]:
    """Weights and inputs (10, 16, 16) of whole numbers."""
    places = np.arange(10 * 16 * 16).reshape(10, 16, 16)
    return (places % 7 - 2).astype(np.float32), (places % 5).astype(np.float32)


def unit_sum() -> dict[str, float]:
    """What one unit sums over all maps and positions: a convolution whose kernel covers the map."""
    weights, inputs = (np.moveaxis(array, 0, -1) for array in unit_inputs())
    unit = layers.compiled(partial(correlate, padding="VALID"))
    found = np.asarray(unit(inputs[None], weights[..., None]))
    return {"numbers": found.size, "sum": float(found[0, 0, 0, 0])}


def printed_sum() -> dict[str, float]:
    """What the printed sum gives instead: a table."""
    table = as_printed.summed(*unit_inputs())
    return {"numbers": table.size, "sum": float(table[0, 0])}


def interpolation() -> dict[str, int]:
    """The lowest degree that passes through ten points, and what degree 10 leaves open."""
    x, y = noisy_points(0)
    powers = np.vander(x, 11, increasing=True)
    fits = [powers[:, : n + 1] @ np.linalg.lstsq(powers[:, : n + 1], y, rcond=None)[0] for n in range(11)]
    degree = next(n for n, fit in enumerate(fits) if np.mean((fit - y) ** 2) < s0.FIT)
    return {"lowest degree": degree, "free coefficients of degree 10": 11 - int(np.linalg.matrix_rank(powers))}


ERRATA = (
    Number(
        351,
        lambda: layers.side_after(7, 3, s=2),
        right=3,
        printed=lambda: as_printed.strided_side(7, 3, 0, 2),
        note="n = 7, f = 3, s = 2",
    ),
    Number(
        352,
        lambda: layers.side_after(6, 3, p=1),
        right=6,
        printed=lambda: as_printed.same_side(6, 3, 1),
        note="n = 6, f = 3, p = 1",
    ),
    Number(
        353,
        lambda: overlaps()[0, 0],
        right=1,
        printed=lambda: as_printed.overlap(BOXES[0], BOXES[0]),
        note="identical boxes",
    ),
    Number(
        354,
        kept,
        right=[0],
        printed=lambda: [as_printed.kept_by_overlap(overlaps())],
        note="the box kept, of three with p_c 0.9, 0.7 and 0.8, the second of which lies between the others",
    ),
    Number(
        355,
        lambda: float(layers.compiled(losses.localization)(PREDICTED[None], TRUE[None])[0]),
        right=1 + 0.16 + 0.09 + 0.16 + 0.16,
        printed=lambda: as_printed.localization(PREDICTED, TRUE),
        note="an object that is missed: predicted p_c 0",
    ),
    Number(
        356,
        lambda: {"first": s4.correlated(s4.IMAGE, s4.VERTICAL)[0, 0], "all": s4.correlated(s4.IMAGE, s4.VERTICAL)},
        right={"first": -5, "all": s4.EDGES},
        printed={"first": 3, "all": s4.PRINTED_EDGES},
    ),
    Number(
        357,
        lambda: s4.zeroed_block(np.maximum(s4.ACTIVATIONS, 0)),
        right=matrix("0 0 0 1 2"),
        printed=s4.ACTIVATIONS,
        note="a zeroed block on z = -2 ... 2: by the slide z again, really a = g(z)",
    ),
    Number(
        358,
        lambda: {
            "weights": layers.parameters(channels=128, filters=1, side=1, bias=False),
            "score": as_printed.verification_score(FACES[0], FACES[1], np.ones(128), components=128),
        },
        right={"weights": 128, "score": 1},
        printed=lambda: {"weights": 12, "score": as_printed.verification_score(FACES[0], FACES[1], np.ones(128))},
        note="of two faces that differ in component 101 alone",
    ),
    Number(
        359,
        lambda: jax.eval_shape(losses.gram_matrix, jax.ShapeDtypeStruct((1, 4, 5, 3), jnp.float32)).shape[1:],
        right=(3, 3),
        printed=lambda: as_printed.style_matrix_shape(np.ones((4, 5, 3))),
        note="of activations 4x5x3",
    ),
    Number(
        360,
        lambda: style_descent(RATE),
        right=(1 - RATE * SLOPE) ** STEPS,
        printed=lambda: as_printed.descended(1.0, SLOPE, STEPS),
        note=f"distance from the minimum after {STEPS} steps on J = {SLOPE:g} G^2 / 2, at a rate of {RATE:g}",
    ),
    Number(361, lambda: named("lrn"), right="vgg11_lrn", printed=lambda: named("lru"), note="networks of that name"),
    Number(362, lambda: layers.shape_after((6, 6, 3), filters=2, side=3), right="4x4x2", printed="4x4x3"),
    Number(
        363,
        lambda: tconv_cell(1, 1),
        right={"summands": [2, 0, 3, 2], "cell": 7, "side without output padding": 3},
        printed={"summands": [2, 0], "cell": 2, "side without output padding": 4},
    ),
    Number(
        364,
        lambda: 2 * degradation.hyper("paper", DataConfig()).l2,
        right=1e-4,
        printed=1e-5,
        note="c = lambda / 2 of the paper preset of experiments.degradation",
    ),
    Number(
        365,
        lambda: alexnet_order(create("alexnet").lrn_after_pool),
        right={"order": "normalisation, pooling", "example": 100 / 3**0.75},
        printed=lambda: alexnet_order(True),
    ),
    Number(
        366,
        lambda: MODELS["neocognitron"].year,
        right=1980,
        printed=2012,
        note="the year of a network whose cells rectify; Nair and Hinton 2010 brought ReLU into deep learning",
    ),
    Number(
        367,
        lambda: len(inspect.signature(max_pool).parameters.keys() - {"images", "padding"}),
        right=2,
        printed=4,
        note="window and stride",
    ),
    Number(
        368,
        lambda: vgg_columns(changed=False),
        right={"C": 133_638_952, "layers of C": 16, "E": 143_667_240, "layers of E": 19},
        printed=lambda: vgg_columns(changed=True),
        note="the slide's own counts, 134 and 144 million, are those of the complete columns",
    ),
    Number(369, overfeat_side, right=16, printed=2, note="side of the image with 2x2 outputs"),
    Number(
        370,
        lambda: 69.9 - 66.9,
        right=3.0,
        printed=0,
        note="precision gained over Fast R-CNN; 69.9 is Faster R-CNN's paper's, 73.2 with VOC 2012",
    ),
    Number(371, lambda: 47 / 0.32, right=146.875, printed=About(146, 1)),
    Number(
        372,
        lambda: layers.weighted_layers("vgg16"),
        right={"convolutions": 13, "fully connected": 3},
        printed={"convolutions": 16},
    ),
    Number(373, lambda: MODELS["resnet152"].year, right=2015, printed=2016),
    Number(
        374,
        lambda: 18.2 - 16.4,
        right=1.8,
        printed=0,
        note="points that the ensemble of five is better than one network, which the paper gives 18.2 %",
    ),
    Number(
        375,
        lambda: {"in all": 14e6 / 20e3, "in the challenge": 1.28e6 / 1e3},
        right={"in all": 700, "in the challenge": 1_280},
        printed={"in all": 14e6 / 1e3},
        note="images a class",
    ),
    Number(
        376,
        shift_and_filter,
        right={"stays": False, "is shifted": True},
        printed={"stays": True},
        note="the feature map of a shifted image",
    ),
    Number(377, unit_sum, right={"numbers": 1, "sum": float(np.prod(unit_inputs(), 0).sum())}, printed=printed_sum),
    Number(378, lambda: layers.inputs((16, 16, 10)), right=2_560, printed=160),
    Number(
        379,
        interpolation,
        right={"lowest degree": 9, "free coefficients of degree 10": 1},
        printed={"lowest degree": 10, "free coefficients of degree 10": 0},
    ),
    Number(
        380,
        lambda: s1.shifts()["true convolution"],
        right=1,
        printed=-1,
        note="columns that the formula of S1:85 moves the image by with the kernel of S1:457-459",
    ),
    Number(
        381,
        lambda: layers.side_after(224, 11, s=4),
        right=54,
        printed=lambda: as_printed.unfloored_side(224, 11, 0, 4),
        note="n = 224, f = 11, s = 4",
    ),
)
