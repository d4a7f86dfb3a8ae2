"""Worked numbers of deck S1, Convolutional Neural Networks (Halmstad University)."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cnnjax.data import shapes
from cnnjax.models import create, parameter_shapes
from cnnjax.nn import activation
from cnnjax.ops.correlate import convolve, correlate
from cnnjax.ops.filters import FILTERS
from cnnjax.ops.pool import max_pool
from cnnjax.tree import count
from experiments.worked_numbers import layers
from experiments.worked_numbers.layers import Step, correlated
from experiments.worked_numbers.number import Number, Printed
from experiments.worked_numbers.values import matrix

BINARY = matrix("1 1 1 0 0; 0 1 1 1 0; 0 0 1 1 1; 0 0 1 1 0; 0 1 1 0 0")  # S1:71-75
CROSS = matrix("1 0 1; 0 1 0; 1 0 1")  # S1:46-48
IMAGE = matrix("1 0 0 0 0 1; 0 1 0 0 1 0; 0 0 1 1 0 0; 1 0 0 0 1 0; 0 1 0 0 1 0; 0 0 1 0 1 0")  # S1:560-565
DIAGONAL = matrix("1 -1 -1; -1 1 -1; -1 -1 1")  # S1:569-571, Filter 1
VERTICAL = matrix("-1 1 -1; -1 1 -1; -1 1 -1")  # S1:575-577, Filter 2
DIAGONAL_MAP = matrix("3 -1 -3 -1; -3 1 0 -3; -3 -3 0 1; 3 -2 -2 -1")  # S1:658-661
VERTICAL_MAP = matrix("-1 -1 -1 -1; -1 -1 -2 1; -1 -1 -2 1; -1 0 -4 3")  # S1:740-743
PADDED = matrix("""
    0 0 0 0 0 0 0 0; 0 1 0 0 0 0 1 0; 0 0 1 0 0 1 0 0; 0 0 0 1 1 0 0 0;
    0 1 0 0 0 1 0 0; 0 0 1 0 0 1 0 0; 0 0 0 1 0 1 0 0; 0 0 0 0 0 0 0 0
""")  # S1:801-808
CHANNEL = matrix("4 9 2 5 8 3; 5 6 2 4 0 3; 2 4 5 4 5 2; 5 6 5 4 7 8; 5 7 7 9 2 1; 5 8 5 3 8 4")  # S1:867-872
FALLING = matrix("1 0 -1; 1 0 -1; 1 0 -1")  # S1:880-882, Filter 1
LOWER = matrix("0 0 0; 1 1 1; -1 -1 -1")  # S1:888-890, Filter 2
RGB = {
    "red": matrix("""
        0 0 0 0 0 0; 0 156 155 156 158 158; 0 153 154 157 159 159; 0 149 151 155 158 159; 0 146 146 149 153 158;
        0 145 143 143 148 158
    """),  # S1:912-917
    "green": matrix("""
        0 0 0 0 0 0; 0 167 166 167 169 169; 0 164 165 168 170 170; 0 160 162 166 169 170; 0 156 156 159 163 168;
        0 155 153 153 158 168
    """),  # S1:922-927
    "blue": matrix("""
        0 0 0 0 0 0; 0 163 162 163 165 165; 0 160 161 164 166 166; 0 156 158 162 165 166; 0 155 155 158 162 167;
        0 154 152 152 157 167
    """),  # S1:932-937
}
KERNELS = {
    "red": matrix("-1 -1 1; 0 1 -1; 0 1 1"),  # S1:942-944
    "green": matrix("1 0 0; 1 -1 -1; 1 0 -1"),  # S1:952-954
    "blue": matrix("0 1 1; 0 1 0; 1 -1 1"),  # S1:962-964
}
BIAS = 1  # S1:980


def shifts() -> dict[str, int]:
    """By how many columns each way of reading the kernel moves a single pixel; -1 is one to the left."""
    image = np.zeros((1, 5, 5, 1), np.float32)
    image[0, 2, 2] = 1
    moved = {"cross-correlation": correlate, "true convolution": convolve}
    kernel = FILTERS["shift_left"][:, :, None, None]
    rows = {name: np.asarray(layers.compiled(op)(image, kernel))[0, 2, :, 0] for name, op in moved.items()}
    return {name: int(row.argmax()) - 2 for name, row in rows.items()}


def best_places() -> np.ndarray:
    """Row and column of every place where the diagonal filter scores its maximum."""
    scores = correlated(IMAGE, DIAGONAL)
    return np.argwhere(scores == scores.max())


def six_filters() -> str:
    """The shape of the stack of feature maps."""
    return layers.shape_after((6, 6, 1), filters=6, side=3)


def coloured() -> dict[str, Any]:
    """The partial sums of the first output, and the outputs that the visible pixels determine."""
    maps = {name: correlated(RGB[name], KERNELS[name]) for name in RGB}
    return {**{name: each[0, 0] for name, each in maps.items()}, "output": np.sum(list(maps.values()), 0) + BIAS}


def shifted_ink() -> dict[str, Any]:
    """Pixels that change when pictures of 256 pixels shift 2 to the left, and whether as many lose ink as gain it.

    The lecture's picture is lost. Here ten other shapes are shifted; none reaches the frame.
    """
    pictures = shapes.generate("train", 10, (16, 16, 1), 0.0)[0].astype(np.float32)
    corner = pictures[:, :1, :1]
    ink = (np.abs(pictures - corner) > 64).astype(np.float32)
    ink[:, :, :2] = 0
    left = jnp.asarray(FILTERS["shift_left"])[:, :, None, None]
    moved = np.asarray(layers.compiled(lambda x: correlate(correlate(x, left), left))(ink))
    gained, lost = ((change > 0).sum((1, 2, 3)) for change in (moved - ink, ink - moved))
    return {"changed": 77 + 77, "as many each way": bool(gained.min() > 0 and (gained == lost).all())}


def sigmoid_of_relu() -> dict[str, float]:
    """The smallest output, and the steepest slope where z <= 0."""
    z = np.linspace(-8, 8, 17, dtype=np.float32)

    def output(z: jax.Array) -> jax.Array:
        return activation("sigmoid")(activation("relu")(z))

    outputs, slopes = layers.compiled(jax.vmap(jax.value_and_grad(output)))(z)
    return {"smallest": float(outputs.min()), "slope for z <= 0": float(np.abs(np.asarray(slopes)[z <= 0]).max())}


NUMBERS = (
    Number(202, lambda: correlated(BINARY, CROSS), right=matrix("4 3 4; 2 4 3; 2 3 4")),
    Number(203, lambda: correlated(IMAGE, FILTERS["delete"], padding="SAME"), right=np.zeros((6, 6), np.float32)),
    Number(204, lambda: correlated(IMAGE, FILTERS["identity"], padding="SAME"), right=IMAGE),
    Number(
        205,
        shifts,
        right={"cross-correlation": -1, "true convolution": 1},
        printed={"cross-correlation": -1},
        note="columns; the formula of S1:85 is the true convolution: row 380",
    ),
    Number(206, lambda: correlated(IMAGE, DIAGONAL), right=DIAGONAL_MAP),
    Number(
        207, lambda: correlated(IMAGE, DIAGONAL, stride=2), right=matrix("3 -3; -3 0"), printed=Printed.NOTHING
    ),
    Number(
        208,
        lambda: {"score": correlated(IMAGE, DIAGONAL).max(), "places": best_places()},
        right={"score": 3, "places": matrix("0 0; 3 0")},
        note="row and column, from 0",
    ),
    Number(209, lambda: correlated(IMAGE, VERTICAL), right=VERTICAL_MAP),
    Number(210, six_filters, right="4x4x6"),
    Number(
        211,
        lambda: {
            "diagonal": layers.pooled(max_pool, correlated(IMAGE, DIAGONAL)),
            "vertical": layers.pooled(max_pool, correlated(IMAGE, VERTICAL)),
        },
        right={"diagonal": matrix("3 0; 3 1"), "vertical": matrix("-1 1; 0 3")},
        printed=Printed.NOTHING,
    ),
    Number(212, lambda: layers.shape_after((6, 6, 1), 1, 3), right="4x4"),
    Number(
        213,
        lambda: {"padded": correlated(IMAGE, np.ones((1, 1), np.float32), padding=1),
                 "output": layers.shape_after((6, 6, 1), 1, 3, padding=1)},
        right={"padded": PADDED, "output": "6x6"},
        printed={"padded": PADDED},
    ),
    Number(214, lambda: layers.shape_after((32, 32, 3), 10, 5, stride=1, padding=2), right="32x32x10"),
    Number(
        215,
        lambda: {"filter": layers.parameters(3, 1, 5), "layer": layers.parameters(3, 10, 5)},
        right={"filter": 76, "layer": 760},
    ),
    Number(
        216,
        lambda: {
            "shape": layers.shape_after((6, 6, 3), 2, 3),
            "filter 1": correlated(CHANNEL, FALLING),
            "filter 2": correlated(CHANNEL, LOWER),
        },
        right={
            "shape": "4x4x2",
            "filter 1": matrix("2 6 -4 5; 0 4 0 -1; -5 0 3 6; -2 5 0 3"),
            "filter 2": matrix("2 -1 -8 -4; -5 -2 -2 -8; -3 -8 -2 7; 1 7 2 -3"),
        },
        printed={"shape": "4x4x2"},
        note="of the one channel that is visible",
    ),
    Number(
        217,
        coloured,
        right={
            "red": 308, "green": -498, "blue": 164,
            "output": matrix("-25 466 466 475; 295 787 798 812; 291 776 784 800; 293 771 773 782"),
        },
        printed={"red": 308, "green": -498, "blue": 164, "output": matrix("-25 _ _ _; _ _ _ _; _ _ _ _; _ _ _ _")},
    ),
    Number(218, lambda: count(parameter_shapes(create("mlp", num_classes=26), (16, 16, 1))), right=28_326),
    Number(
        219,
        shifted_ink,
        right={"changed": 154, "as many each way": True},
        printed={"changed": 154},
        note="the lecture's picture is lost: ten others, whose ink stays in the frame",
    ),
    Number(
        220,
        lambda: {"ordinary": layers.field_sizes((Step(3),) * 3),
                 "dilations 1 and 2": layers.field_sizes((Step(3), Step(3, dilation=2)))[-1]},
        right={"ordinary": (3, 5, 7), "dilations 1 and 2": 7},
    ),
    Number(221, lambda: layers.shape_after((150, 150, 1), 1, 3), right="148x148"),
    Number(222, lambda: layers.pooled_side(150, 2, 2), right=75, note="the stride, 2, is not said"),
    Number(223, lambda: layers.parameters(channels=16, filters=1, side=1), right=17),
    Number(
        224,
        sigmoid_of_relu,
        right={"smallest": 0.5, "slope for z <= 0": 0},
        printed={"smallest": 0.5},
    ),
)  # fmt: skip
