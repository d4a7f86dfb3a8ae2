"""Worked numbers of deck S0, Image Analysis, Lecture 6."""

from typing import Any

import numpy as np

from cnnjax.ops.filters import FILTERS
from cnnjax.ops.resize import bilinear
from experiments.overfitting import POINTS, noisy_points, polynomial_errors
from experiments.worked_numbers import layers
from experiments.worked_numbers.number import Number
from experiments.worked_numbers.values import About, matrix

STRIDED = matrix("""
    0 0 0 0 0 0 0; 0 0 0 0 0 0 0; 0 0 5 10 5 0 0; 0 0 10 10 5 0 0; 0 0 5 5 0 0 0; 0 0 0 0 0 0 0; 0 0 0 0 0 0 0
""")  # S0:394-400
LAPLACIAN = matrix("0 -1 0; -1 4 -1; 0 -1 0")  # S0:622-624
PLUS = matrix("0 1 0; 1 1 1; 0 1 0") / 5  # S0:392; S0:404-406
TENT = matrix("0.25 0.5 0.25; 0.5 1 0.5; 0.25 0.5 0.25")  # S0:678-680
STUFFED = matrix("4 0 2 0 4; 0 0 0 0 0; 6 0 4 0 6; 0 0 0 0 0; 2 0 12 0 2")  # S0:682-686
UPSAMPLED = matrix("4 3 2 3 4; 5 4 3 4 5; 6 5 4 5 6; 4 6 8 6 4; 2 7 12 7 2")  # S0:753-757
SMALL = matrix("4 2 4; 6 4 6; 2 12 2")
DRAWS = 20  # of the ten points
FIT = 1e-12  # mean squared error of a polynomial that passes through the points


def upsampled() -> dict[str, np.ndarray]:
    """The zero-stuffed image filtered, and the bilinear enlargement of the image behind it."""
    enlarged = layers.compiled(lambda x: bilinear(x, (5, 5), align_corners=True))(SMALL[None, :, :, None])
    return {"filtered": layers.correlated(STUFFED, TENT, padding=1), "bilinear": np.asarray(enlarged)[0, :, :, 0]}


def behind() -> dict[str, np.ndarray]:
    """The image without the zeros, and its transposed convolution, which is the enlarged one."""
    small = STUFFED[::2, ::2]
    return {"image": small, "enlarged": layers.transposed(small, TENT, strides=2, padding=1)}


def polynomial() -> dict[str, Any]:
    """What a polynomial of degree 10 makes of ten points, and how much further off it is than one of degree 2."""
    fits = [polynomial_errors(seed) for seed in range(DRAWS)]
    powers = np.vander(noisy_points(0)[0], 11)
    return {
        "coefficients": powers.shape[1],
        "points": POINTS,
        "passes through all": all(fit["degree 10"]["train_mse"] < FIT for fit in fits),
        "further off than degree 2": all(fit["degree 10"]["test_mse"] > fit["degree 2"]["test_mse"] for fit in fits),
    }


def laplacian() -> dict[str, Any]:
    """Its weights and their sum, and so what it makes of an even image."""
    kernel = FILTERS["edge"]
    even = layers.correlated(np.full((3, 3), 7, np.float32), kernel)
    return {"kernel": kernel, "sum": kernel.sum(), "of an even image": even}


NUMBERS = (
    Number(
        193,
        lambda: layers.correlated(STRIDED, PLUS, stride=2),
        right=matrix("0 2 0; 2 8 1; 0 1 0"),
        printed=matrix("0 2 0; 2 8 1; 0 1 _"),
    ),
    Number(194, upsampled, right={"filtered": UPSAMPLED, "bilinear": UPSAMPLED}, note="corners aligned"),
    Number(195, behind, right={"image": SMALL, "enlarged": UPSAMPLED}),
    Number(
        196,
        polynomial,
        right={"coefficients": 11, "points": 10, "passes through all": True, "further off than degree 2": True},
        note=f"{DRAWS} draws of noisy points; experiments.overfitting measures by how much",
    ),
    Number(197, lambda: layers.network_parameters("vgg16"), right=138_357_544, printed=About(138e6, 1e6)),
    Number(
        198,
        lambda: layers.parameters(channels=10, filters=1, side=16, bias=False),
        right=2_560,
        note="the summand's indices are wrong: row 377",
    ),
    Number(
        199,
        lambda: {
            "units": layers.inputs((16, 16, 10)),
            "weights to 100 units": layers.parameters(channels=10, filters=100, side=16, bias=False),
        },
        right={"units": 2_560, "weights to 100 units": 256_000},
        printed={"units": 160},
    ),
    Number(
        200,
        lambda: {"images a class": 14e6 / 20e3, "in the challenge": 1.2e6 / 1e3},
        right={"images a class": 700, "in the challenge": 1_200},
        printed={"images a class": 14e6 / 1e3},
        stated=True,
        note="by S3:470-474: 14 million of 20,000 classes, 1.2 million of 1,000",
    ),
    Number(
        201,
        laplacian,
        right={"kernel": LAPLACIAN, "sum": 0, "of an even image": matrix("0")},
        printed={"kernel": LAPLACIAN},
    ),
)
