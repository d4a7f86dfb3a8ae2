"""Worked numbers of deck S3, Lecture 9, Convolutional networks."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from cnnjax.analysis.coverage import overlap_counts
from cnnjax.ops.filters import FILTERS
from cnnjax.ops.windows import spread
from experiments.worked_numbers import layers
from experiments.worked_numbers.layers import Step
from experiments.worked_numbers.number import Number, Printed
from experiments.worked_numbers.values import About, matrix

LETTERS = "abcdefghi"  # S3:804-806, the taps of a 3x3 kernel
MASK = ("a 0 b 0 c", "0 0 0 0 0", "d 0 e 0 f", "0 0 0 0 0", "g 0 h 0 i")  # S3:811-815
IMAGE, KERNEL = matrix("1 1; 2 3"), matrix("1 2; 3 4")  # S3:861-867


def dilated() -> dict[str, Any]:
    """The mask of a 3x3 kernel with one zero between its taps, its weights, and what one unit reads."""
    taps = np.arange(1.0, 10, dtype=np.float32).reshape(1, 3, 3, 1)
    mask = np.asarray(spread(jnp.asarray(taps), [(0, 0, 1), (0, 0, 1)]))[0, :, :, 0].astype(int)
    rows = {f"row {index}": " ".join(f"0{LETTERS}"[tap] for tap in row) for index, row in enumerate(mask)}
    return {
        **rows,
        "weights": layers.parameters(1, 1, 3, bias=False),
        "field": layers.field_sizes((Step(3, dilation=2),)),
    }


def first_layer() -> dict[str, int]:
    """Units and weights of AlexNet's first convolution."""
    kernel = layers.network_shapes("alexnet")["conv1"]["conv"]["kernel"]
    return {"units": kernel.shape[-1], "weights": kernel.size}


NUMBERS = (
    Number(242, lambda: layers.inputs((256, 256, 3)), right=196_608, printed=About(197e3, 1e3)),
    Number(
        243,
        lambda: {
            "filter": layers.parameters(3, 1, 3, bias=False),
            "layer": layers.parameters(3, 96, 3, bias=False),
            "with biases": layers.parameters(3, 96, 3),
        },
        right={"filter": 27, "layer": 2_592, "with biases": 2_688},
        printed={"filter": 27, "layer": 2_592},
        note="the answers b and d of the quiz",
    ),
    Number(
        244,
        lambda: {"kernel": 16 * FILTERS["binomial_blur"], "sum": FILTERS["binomial_blur"].sum()},
        right={"kernel": matrix("1 2 1; 2 4 2; 1 2 1"), "sum": 1},
    ),
    Number(
        245,
        lambda: {"one network's errors that the ensemble avoids": 1 - 16.4 / 18.2},
        right={"one network's errors that the ensemble avoids": 0.098901},
        stated=True,
        note="18.2 %, of one network, is the paper's: row 374",
    ),
    Number(246, lambda: round(3.57, 1), right=3.6, stated=True, note="3.57 % is the paper's, of an ensemble"),
    Number(247, first_layer, right={"units": 96, "weights": 34_848}, printed={"units": 96}),
    Number(
        248,
        lambda: {"images a class": 14e6 / 20e3, "in the challenge": 1.2e6 / 1e3},
        right={"images a class": 700, "in the challenge": 1_200},
        stated=True,
    ),
    Number(
        249,
        dilated,
        right={**{f"row {index}": row for index, row in enumerate(MASK)}, "weights": 9, "field": [5]},
    ),
    Number(
        250,
        lambda: {f"stride {stride}": layers.transposed(IMAGE, KERNEL, strides=stride) for stride in (1, 2)},
        right={
            "stride 1": matrix("1 3 2; 5 14 10; 6 17 12"),
            "stride 2": matrix("1 2 1 2; 3 4 3 4; 2 4 3 6; 6 8 9 12"),
        },
        printed=Printed.NOTHING,
    ),
    Number(
        278,
        lambda: {f"kernel {kernel}": overlap_counts(6, kernel, stride=2)[2:-2] for kernel in (3, 4)},
        right={"kernel 3": [2, 1, 2, 1, 2, 1, 2, 1, 2], "kernel 4": [2] * 10},
        printed=Printed.NOTHING,
        note="along one axis, stride 2, away from the ends",
    ),
)
