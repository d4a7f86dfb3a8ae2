"""Worked numbers of deck S2, Lecture 8 with a recap of Lecture 7 (2017)."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cnnjax.ops.conv import convolution_matrix
from cnnjax.ops.pool import average_pool, max_pool
from experiments.worked_numbers import layers
from experiments.worked_numbers.layers import Step, side_after
from experiments.worked_numbers.number import Number
from experiments.worked_numbers.values import About, matrix

SLICE = matrix("3 1 3 5; 6 0 7 9; 3 2 1 4; 0 2 4 3")  # S2:73-76
SCORES = (0.02, 0.2, 0.42, 0.31, 0.8)  # S2:605-613, of box locations 0 to 4
# S2:258: the rows of C for a 3x3 kernel on a 4x4 image.
ROWS = (
    "w00 w01 w02 0 w10 w11 w12 0 w20 w21 w22 0 0 0 0 0",
    "0 w00 w01 w02 0 w10 w11 w12 0 w20 w21 w22 0 0 0 0",
    "0 0 0 0 w00 w01 w02 0 w10 w11 w12 0 w20 w21 w22 0",
    "0 0 0 0 0 w00 w01 w02 0 w10 w11 w12 0 w20 w21 w22",
)
CONFIGURATIONS = {"A": "vgg11", "A-LRN": "vgg11_lrn", "B": "vgg13", "C": "vgg16_1x1", "D": "vgg16", "E": "vgg19"}
MILLIONS = {"A": 133, "A-LRN": 133, "B": 133, "C": 134, "D": 138, "E": 144}  # S2:180
# OverFeat's network of the slide, as its drawing has it: 14x14, 10x10, 5x5, 1x1, and two layers of 1x1.
OVERFEAT = (Step(5), Step(2, features=0, stride=2), Step(5), Step(1), Step(1))
HOURS = {"R-CNN": 84, "Fast R-CNN": 9.5}  # S2:952
SECONDS = {"R-CNN": 47, "Fast R-CNN": 0.32}  # S2:954, without region proposals
WITH_PROPOSALS = {"R-CNN": 50, "Fast R-CNN": 2, "Faster R-CNN": 0.2}  # S2:987
PRECISION = {"R-CNN": 66.0, "Fast R-CNN": 66.9}  # S2:956


def convolution_of_4x4(kernel: jax.Array) -> jax.Array:
    """The matrix of a kernel on 4x4 images, a column for each output."""
    return convolution_matrix(kernel, (4, 4), (1, 1), ((0, 0), (0, 0)))


def convolution_rows() -> dict[str, str]:
    """The rows of the convolution matrix, by the weight that stands in each place."""
    kernel = np.arange(1.0, 10, dtype=np.float32).reshape(3, 3, 1, 1)
    weights = np.asarray(layers.compiled(convolution_of_4x4)(kernel)).T.astype(int)
    names = ["0", *(f"w{tap // 3}{tap % 3}" for tap in range(9))]
    return {f"row {index}": " ".join(names[weight] for weight in row) for index, row in enumerate(weights)}


def formula_holds() -> dict[str, int]:
    """Settings that divide evenly, and in how many of them (N + 2P - F) / S + 1 is the side that comes out."""
    settings = [
        (n, f, p, s)
        for n in (7, 8) for f in (1, 3, 5) for p in (0, 1, 2) for s in (1, 2, 3) if (n + 2 * p - f) % s == 0
    ]  # fmt: skip
    right = sum(side_after(n, f, p, s) == (n + 2 * p - f) / s + 1 for n, f, p, s in settings)
    return {"settings": len(settings), "right": right}


def common_settings() -> dict[str, int]:
    """The side of 32x32 images after each of the settings."""
    settings = ((3, 1, 1), (5, 1, 2), (5, 2, 2), (1, 1, 0))
    return {f"F={f} S={s} P={p}": side_after(32, f, p, s) for f, s, p in settings}


def matrix_sizes() -> dict[str, Any]:
    """Of the same matrix: what it takes and gives."""
    inputs, outputs = jax.eval_shape(convolution_of_4x4, jax.ShapeDtypeStruct((3, 3, 1, 1), jnp.float32)).shape
    return {"inputs": inputs, "outputs": outputs, "reshaped": layers.shape_after((4, 4, 1), 1, 3)}


def million_parameters() -> dict[str, int]:
    """Of VGG's configurations, to the nearest million."""
    return {letter: round(layers.network_parameters(name) / 1e6) for letter, name in CONFIGURATIONS.items()}


NUMBERS = (
    Number(
        225,
        lambda: {**formula_holds(), "depth for K = 7": layers.shape_after((8, 8, 3), 7, 3).split("x")[-1]},
        right={"settings": 33, "right": 33, "depth for K = 7": "7"},
        note="where it does not divide, the side is rounded down: row 381",
    ),
    Number(
        226,
        common_settings,
        right={"F=3 S=1 P=1": 32, "F=5 S=1 P=2": 32, "F=5 S=2 P=2": 16, "F=1 S=1 P=0": 32},
        note="sides of 32x32 images",
    ),
    Number(
        227,
        lambda: {"weights": layers.parameters(3, 10, 5, bias=False),
                 "biases": layers.parameters(3, 10, 5) - layers.parameters(3, 10, 5, bias=False)},
        right={"weights": 5 * 5 * 3 * 10, "biases": 10},
        note="F = 5, D = 3, K = 10",
    ),
    Number(
        228,
        lambda: {"max": layers.pooled(max_pool, SLICE), "average": layers.pooled(average_pool, SLICE)},
        right={"max": matrix("6 9; 3 4"), "average": matrix("2.5 6; 1.75 3")},
        printed={"max": matrix("6 9; 3 4")},
    ),
    Number(
        229,
        lambda: {"F=2 S=2 on 4": layers.pooled_side(4, 2, 2), "F=3 S=2 on 55": layers.pooled_side(55, 3, 2)},
        right={"F=2 S=2 on 4": (4 - 2) / 2 + 1, "F=3 S=2 on 55": (55 - 3) / 2 + 1},
    ),
    Number(230, lambda: side_after(227, 11, 0, 4), right=55),
    Number(
        231,
        lambda: {"points less": 11.2 - 7.3, "share of the errors gone": 1 - 7.3 / 11.2},
        right={"points less": 3.9, "share of the errors gone": 0.348214},
        stated=True,
        note="the errors are those of a competition",
    ),
    Number(232, million_parameters, right=MILLIONS),
    Number(
        233,
        lambda: {"layers": sum(layers.weighted_layers("resnet152").values())},
        right={"layers": 152},
        stated=True,
        note="the layers are counted; 16, 27, 11 and 12 % are results of competitions",
    ),
    Number(234, convolution_rows, right={f"row {index}": row for index, row in enumerate(ROWS)}),
    Number(235, matrix_sizes, right={"inputs": 16, "outputs": 4, "reshaped": "2x2"}),
    Number(
        236,
        lambda: {"classes": 60_000 // 6_000, "training and test": 50_000 + 10_000},
        right={"classes": 10, "training and test": 60_000},
        stated=True,
        note="the data set is not read",
    ),
    Number(237, lambda: int(jnp.argmax(jnp.array(SCORES))), right=4),
    Number(
        238,
        lambda: {f"{side}x{side}": layers.outputs(OVERFEAT, side) for side in (14, 16, 28)},
        right={"14x14": "1x1", "16x16": "2x2", "28x28": "8x8"},
        printed={"14x14": "1x1", "2x2": "2x2"},
    ),
    Number(
        239,
        lambda: {"training": HOURS["R-CNN"] / HOURS["Fast R-CNN"], "test": SECONDS["R-CNN"] / SECONDS["Fast R-CNN"],
                 "precision gained": PRECISION["Fast R-CNN"] - PRECISION["R-CNN"]},
        right={"training": 8.842105, "test": 146.875, "precision gained": 0.9},
        printed={"training": About(8.8, 0.1), "test": About(146, 1)},
        note="cut off, not rounded: row 371",
    ),
    Number(240, lambda: WITH_PROPOSALS["R-CNN"] / WITH_PROPOSALS["Fast R-CNN"], right=25),
    Number(
        241,
        lambda: {"test": WITH_PROPOSALS["R-CNN"] / WITH_PROPOSALS["Faster R-CNN"],
                 "precision gained over Fast R-CNN": 69.9 - PRECISION["Fast R-CNN"]},
        right={"test": 250, "precision gained over Fast R-CNN": 3.0},
        printed={"test": 250, "precision gained over Fast R-CNN": 0},
        stated=True,
        note="69.9 is what Faster R-CNN's own paper reports for the same data",
    ),
    Number(279, lambda: (np.zeros((2, 4)).size, np.zeros((4, 4)).size), right=(8, 16)),
)  # fmt: skip
