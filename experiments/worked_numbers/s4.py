"""Worked numbers of deck S4, handwritten course notes."""

import inspect
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cnnjax import losses
from cnnjax.analysis import multiply_adds
from cnnjax.models.resnet import Block
from cnnjax.nn import Conv, norm_layer
from cnnjax.ops.boxes import non_max_suppression
from cnnjax.ops.filters import FILTERS
from experiments.bottleneck import FiveByFive
from experiments.separable import costs
from experiments.worked_numbers import as_printed, layers
from experiments.worked_numbers.layers import correlated, pooled_side, shape_after, side_after
from experiments.worked_numbers.number import Number, Printed
from experiments.worked_numbers.values import About, matrix

IMAGE = matrix("3 0 1 2 7 4; 1 5 8 9 3 1; 2 7 2 5 1 3; 0 1 3 1 7 8; 4 2 1 6 2 8; 2 4 5 2 3 9")  # S4:24-29
VERTICAL = matrix("1 0 -1; 1 0 -1; 1 0 -1")  # S4:33-35
HORIZONTAL = matrix("1 1 1; 0 0 0; -1 -1 -1")  # S4:118-120
EDGES = matrix("-5 -4 0 8; -10 -2 2 3; 0 -2 -4 -7; -3 -2 -3 -16")
PRINTED_EDGES = matrix("1 0 -1 8; -5 -4 0 8; -10 -2 2 3; 0 -2 4 -7; -3 -2 -3 -16")  # S4:39-43
STEP = np.tile(np.array([10, 10, 10, 0, 0, 0], np.float32), (6, 1))  # S4:65-70; mirrored at S4:85-90
SAME = ((6, 1), (6, 3), (7, 5))  # n and f of rows 259 and 352
STRIDED = ((7, 3, 0, 2), (227, 11, 0, 4))  # n, f, p and s of rows 261 and 351
ACTIVATIONS = matrix("-2 -1 0 1 2")
SMALL = matrix("2 1; 3 2")  # S4:981-982
STAMP = matrix("1 2 1; 2 0 1; 0 2 1")  # S4:986-988
EXPANDED = matrix("0 4 0 1; 10 7 6 3; 0 7 0 2; 6 3 4 2")  # S4:1008-1011
EXPANSION = {"strides": 2, "padding": 1, "output_padding": 1}  # S4:1001-1003; the last is not printed
TARGET = ("p_c", "b_x", "b_y", "b_h", "b_w", "c_1", "c_2", "c_3")  # S4:687


def rows(text: str) -> np.ndarray:
    """Four equal rows."""
    return matrix("; ".join([text] * 4))


def zeroed_block(x: np.ndarray) -> np.ndarray:
    """What a residual block without normalisation, its weights and biases all 0, makes of one pixel's channels."""
    block, pixel = residual_block(x.shape[-1]), x[None, None]
    zeros = jax.tree_util.tree_map(lambda leaf: np.zeros(leaf.shape, np.float32), variables_of(block, pixel.shape))
    return np.asarray(layers.compiled(lambda v, x: block.apply(v, x, False))(zeros, pixel))[0, 0]


def residual_block(features: int) -> Block:
    """Without normalisation; it projects its input where the channels change."""
    return Block(features, (1, 1), "B", conv=partial(Conv, use_bias=False), norm=norm_layer("none"), act=jax.nn.relu)


def variables_of(block: Block, shape: tuple[int, ...]) -> Any:
    """The shapes of a block's variables for inputs of this shape."""
    return jax.eval_shape(lambda x: block.init(jax.random.key(0), x, False), jax.ShapeDtypeStruct(shape, jnp.float32))


def projection() -> int:
    """Weights of the shortcut of a block from 128 to 256 channels."""
    return int(variables_of(residual_block(256), (1, 2, 2, 128))["params"]["projection"]["kernel"].size)


def five_by_five() -> dict[str, float]:
    """Multiplications of the 5x5 branch of the inception block, without and with its bottleneck."""
    without, reduced = (multiply_adds(FiveByFive(reduction), (28, 28, 192)) for reduction in (False, True))
    return {"without": without, "with": reduced, "times fewer": without / reduced}


def separable() -> dict[str, float]:
    """Multiplications of the lecture's convolution, full and in its two steps."""
    found = costs(0)
    return {**{kind: found[kind] for kind in ("full", "depthwise", "pointwise")}, "both steps": found["separable"]}


def target() -> dict[str, Any]:
    """The length of a target, and the loss of an image without object, however wrong all but its p_c is."""
    background = np.array([[0] + [np.nan] * 7], np.float32)
    answer = np.arange(8, dtype=np.float32)[None]
    loss = layers.compiled(losses.localization)(answer, background)
    return {"numbers": len(TARGET), "loss of background": float(loss[0])}


def grid_target(anchors: int = 1) -> str:
    """What a 1x1 convolution on a map of 3x3 cells gives, with a target for each anchor."""
    return shape_after((3, 3, 64), filters=anchors * len(TARGET), side=1)


def thresholds() -> dict[str, float]:
    """What ``non_max_suppression`` takes unless told."""
    defaults = inspect.signature(non_max_suppression).parameters
    return {"p_c": defaults["score"].default, "overlap": defaults["overlap"].default}


NUMBERS = (
    Number(
        251,
        lambda: {"64x64": layers.inputs((64, 64, 3)), "1000x1000": layers.inputs((1000, 1000, 3))},
        right={"64x64": 12_288, "1000x1000": 3_000_000},
    ),
    Number(252, lambda: correlated(IMAGE, VERTICAL), right=EDGES, printed=PRINTED_EDGES, note="row 356"),
    Number(253, lambda: correlated(STEP, VERTICAL), right=rows("0 30 30 0")),
    Number(254, lambda: correlated(STEP[:, ::-1], VERTICAL), right=rows("0 -30 -30 0")),
    Number(
        255,
        lambda: {"vertical": FILTERS["prewitt_vertical"], "transposed": FILTERS["prewitt_vertical"].T,
                 "horizontal": FILTERS["prewitt_horizontal"]},
        right={"vertical": VERTICAL, "transposed": HORIZONTAL, "horizontal": HORIZONTAL},
    ),
    Number(
        256,
        lambda: {"kernel": FILTERS["sobel_vertical"], "on the step": correlated(STEP, FILTERS["sobel_vertical"])},
        right={"kernel": matrix("1 0 -1; 2 0 -2; 1 0 -1"), "on the step": rows("0 40 40 0")},
        printed={"kernel": matrix("1 0 -1; 2 0 -2; 1 0 -1")},
    ),
    Number(
        257,
        lambda: {"kernel": FILTERS["scharr_vertical"], "on the step": correlated(STEP, FILTERS["scharr_vertical"])},
        right={"kernel": matrix("3 0 -3; 10 0 -10; 3 0 -3"), "on the step": rows("0 160 160 0")},
        printed={"kernel": matrix("3 0 -3; 10 0 -10; 3 0 -3")},
    ),
    Number(
        258,
        lambda: {"no padding": side_after(6, 3), "padded image": side_after(6, 1, p=1)},
        right={"no padding": 6 - 3 + 1, "padded image": 8},
    ),
    Number(
        259,
        lambda: {f"n={n} f={f}": side_after(n, f, p=(f - 1) // 2) for n, f in SAME},
        right={f"n={n} f={f}": n for n, f in SAME},
        printed=lambda: {f"n={n} f={f}": as_printed.same_side(n, f, (f - 1) // 2) for n, f in SAME},
        note="row 352",
    ),
    Number(260, lambda: side_after(7, 3, s=2), right=3, printed=Printed.NOTHING, note="see row 351 for the formula"),
    Number(
        261,
        lambda: {f"n={n} f={f} s={s}": side_after(n, f, p, s) for n, f, p, s in STRIDED},
        right={"n=7 f=3 s=2": 3, "n=227 f=11 s=4": 55},
        printed=lambda: {f"n={n} f={f} s={s}": as_printed.strided_side(n, f, p, s) for n, f, p, s in STRIDED},
        note="row 351",
    ),
    Number(262, lambda: shape_after((6, 6, 3), filters=2, side=3), right="4x4x2", note="the symbol is wrong: row 362"),
    Number(
        263,
        lambda: {"filter": layers.parameters(3, 1, 3), "layer": layers.parameters(3, 10, 3)},
        right={"filter": 28, "layer": 280},
    ),
    Number(
        264,
        lambda: {"n=7 f=3 s=2": pooled_side(7, 3, 2), "n=5 f=2 s=2": pooled_side(5, 2, 2)},
        right={"n=7 f=3 s=2": (7 - 3) // 2 + 1, "n=5 f=2 s=2": (5 - 2) // 2 + 1},
    ),
    Number(
        265,
        lambda: zeroed_block(ACTIVATIONS),
        right=np.maximum(ACTIVATIONS, 0),
        printed=ACTIVATIONS,
        note="the identity is printed for z, which may be negative: row 357",
    ),
    Number(266, projection, right=256 * 128),
    Number(
        267,
        five_by_five,
        right={"without": 120_422_400, "with": 12_443_648, "times fewer": 9.677419},
        printed={"without": About(120e6, 1e6), "with": About(12.4e6, 1e5)},
    ),
    Number(268, separable, right={"full": 2_160, "depthwise": 432, "pointwise": 240, "both steps": 672}),
    Number(
        269,
        lambda: {"counted": costs(0)["ratio"], "1/n_c + 1/f^2": costs(0)["formula"]},
        right={"counted": 672 / 2160, "1/n_c + 1/f^2": 1 / 5 + 1 / 9},
        note="n_c is the number of output filters",
    ),
    Number(270, target, right={"numbers": 8, "loss of background": 0}, printed={"numbers": 8}),
    Number(271, grid_target, right="3x3x8"),
    Number(
        272,
        lambda: {f"{anchors} anchors": grid_target(anchors) for anchors in (2, 5)},
        right={"2 anchors": "3x3x16", "5 anchors": "3x3x40"},
    ),
    Number(273, thresholds, right={"p_c": 0.6, "overlap": 0.5}, note="what counts as correct, 0.5, is a convention"),
    Number(
        274,
        lambda: layers.transposed(SMALL, STAMP, **EXPANSION),
        right=EXPANDED,
        note="needs an output padding of 1: row 363",
    ),
    Number(
        275,
        lambda: {"image": shape_after((14, 14, 3), 16, 5), "signal": shape_after((14, 1), 16, 5)},
        right={"image": "10x10x16", "signal": "10x16"},
    ),
    Number(276, lambda: shape_after((14, 14, 14, 1), 16, 5), right="10x10x10x16"),
    Number(
        277,
        lambda: layers.inputs((100, 100, 3)),
        right=30_000,
        printed=Printed.NOTHING,
        note="only the sides are printed",
    ),
    Number(
        280,
        lambda: {name: layers.network_parameters(name) for name in ("lenet5_classic", "lenet5", "alexnet")},
        right={"lenet5_classic": 60_000, "lenet5": 61_706, "alexnet": 60_965_224},
        printed={"lenet5_classic": About(60e3, 1e4), "lenet5": About(60e3, 1e4), "alexnet": About(60e6, 1e7)},
    ),
)  # fmt: skip
