"""Augmentations that move things: flip, crop, scale, rotation, shear and local warping, as one map.

Coordinates are (y, x) in pixels and continuous: pixel (i, j) covers the square from (i, j) to
(i + 1, j + 1), its centre is at (i + 0.5, j + 0.5), and the image reaches from (0, 0) to (H, W). All
maps but crop's are about the image's centre c = (H / 2, W / 2). The new image at q shows the old one at

    p = c + M (q - c + d(q)) + t

with a 2x2 matrix M (scale, rotation, shear, flip), an offset t (crop) and a smooth displacement d (warp).
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32, Int, Integer, Key

from cnnjax.typing import Images

CROP_PADDING = 4  # pixels on each side: He et al. 2015, section 4.2
# Cireşan et al. 2010 (arXiv:1003.0358), section 2: scaling by up to 15 to 20 %, rotation or horizontal shear by up
# to 15 degrees.
SCALE_REACH = 0.15
ROTATION_REACH = math.radians(15)
SHEAR_REACH = math.radians(15)
# The form is that of Ronneberger et al. 2015 (U-Net), section 3.1: displacements on a grid of 3x3 points, bicubic in
# between, there normal with a standard deviation of 2 % of the side. Here they are uniform, because a reach below
# 5.46 % of the side cannot fold the image (the displacement's Lipschitz constant stays below 1): each point of the old
# image is then seen at one place of the new, which key points and boxes need.
WARP_KNOTS = 3
WARP_REACH = 0.05
_INVERSION_STEPS = 30  # the error shrinks at least by 0.92 a step, in practice by 0.3 or less

Strength = float | Float[Array, ""]
Points = Float[Array, "n m 2"]
Coordinates = tuple[Float[Array, "n p"], Float[Array, "n p"]]


def draw_flip(key: Key[Array, ""], count: int, channels: int, strength: Strength) -> Bool[Array, " count"]:
    """Which images are mirrored left to right: each with probability strength / 2 (S3:705; S4:624)."""
    return jax.random.uniform(key, (count,)) < 0.5 * strength


def draw_crop(key: Key[Array, ""], count: int, channels: int, strength: Strength) -> Int[Array, "count 2"]:
    """Offsets (down, right) in whole pixels, uniform on [-round(4 strength), round(4 strength)] (S3:724).

    At strength 1: pad by 4 zeros on each side, then crop at a random place.
    """
    reach = jnp.round(CROP_PADDING * jnp.asarray(strength, jnp.float32))
    uniform = jax.random.uniform(key, (count, 2))
    return (jnp.floor(uniform * (2 * reach + 1)) - reach).astype(jnp.int32)


def draw_scale(key: Key[Array, ""], count: int, channels: int, strength: Strength) -> Float[Array, " count"]:
    """Factors that things grow by, uniform on 1 +- 0.15 strength (S3:728; Cireşan et al. 2010)."""
    return 1 + SCALE_REACH * strength * symmetric(key, count)


def draw_rotation(key: Key[Array, ""], count: int, channels: int, strength: Strength) -> Float[Array, " count"]:
    """Angles in radians, anticlockwise, uniform on +- 15 degrees times strength (S4:624; Cireşan et al. 2010)."""
    return ROTATION_REACH * strength * symmetric(key, count)


def draw_shear(key: Key[Array, ""], count: int, channels: int, strength: Strength) -> Float[Array, " count"]:
    """Angles in radians that upright lines lean by, uniform on +- 15 degrees times strength (S4:624)."""
    return SHEAR_REACH * strength * symmetric(key, count)


def draw_warp(key: Key[Array, ""], count: int, channels: int, strength: Strength) -> Float[Array, "count 3 3 2"]:
    """Displacements (y, x) of a grid's points, uniform on +- 0.05 strength of the height and the width (S4:624)."""
    knots = WARP_REACH * strength * symmetric(key, count * WARP_KNOTS**2 * 2)
    return knots.reshape(count, WARP_KNOTS, WARP_KNOTS, 2)


def symmetric(key: Key[Array, ""], count: int) -> Float[Array, " count"]:
    """Uniform on [-1, 1); flat, because XLA on the CPU is slow to compile other draws."""
    return jax.random.uniform(key, (count,), minval=-1.0, maxval=1.0)


class Geometry(NamedTuple):
    """Where each image of a batch shows the old one; see the module's formula.

    Attributes:
      matrix: (N, 2, 2) M, on (y, x).
      offset: (N, 2) t, in pixels.
      knots: (N, 3, 3, 2) displacements at the grid's points as shares of the height and the width, or None.
    """

    matrix: Float[Array, "n 2 2"]
    offset: Float[Array, "n 2"]
    knots: Float[Array, "n 3 3 2"] | None


def compose(parameters: dict[str, Any], count: int) -> Geometry:
    """The one map that does what was drawn.

    In the order of what happens to the picture: flip, crop, shear, rotation, scale, warp. Nothing is lost in
    between: what crop moves out is still there for a rotation to move in again.
    """
    zeros = jnp.zeros(count)
    angle, lean = parameters.get("rotation", zeros), jnp.tan(parameters.get("shear", zeros))
    factor = parameters.get("scale", zeros + 1)
    side = jnp.where(parameters.get("flip", zeros > 0), -1.0, 1.0)
    cos, sin = jnp.cos(angle) / factor, jnp.sin(angle) / factor
    rows = jnp.stack([cos, sin], -1), jnp.stack([-sin - lean * cos, cos - lean * sin], -1) * side[:, None]
    shift = parameters.get("crop", jnp.zeros((count, 2))).astype(jnp.float32)
    offset = jnp.stack([shift[:, 0], shift[:, 1] * side], -1)
    return Geometry(jnp.stack(rows, 1), offset, parameters.get("warp"))


def source(geometry: Geometry, y: Float[Array, "#n p"], x: Float[Array, "#n p"], size: tuple[int, int]) -> Coordinates:
    """The places of the old images, of ``size`` (H, W), that the new ones show at (y, x)."""
    down, right = y - size[0] / 2, x - size[1] / 2
    if geometry.knots is not None:
        more_down, more_right = _displacement(geometry.knots, y, x, size)
        down, right = down + more_down, right + more_right
    (a, b), (c, d) = geometry.matrix.transpose(1, 2, 0)[..., None]
    offset_y, offset_x = geometry.offset.T[..., None]
    return size[0] / 2 + offset_y + (a * down + b * right), size[1] / 2 + offset_x + (c * down + d * right)


def pixel_sources(geometry: Geometry, size: tuple[int, int]) -> Coordinates:
    """``source`` of the centres of all pixels, row by row: (N, H * W) each."""
    y, x = np.mgrid[: size[0], : size[1]].astype(np.float32) + np.float32(0.5)
    return source(geometry, jnp.asarray(y.reshape(1, -1)), jnp.asarray(x.reshape(1, -1)), size)


def move_points(geometry: Geometry, points: Points, size: tuple[int, int]) -> Points:
    """Where points (N, M, 2) of the old images lie in the new ones; some may lie outside.

    The inverse of ``source``: of the matrix in closed form, of the warp as the fixed point of
    q = u - d(q), which exists and is the only one because d is a contraction.
    """
    (a, b), (c, d) = geometry.matrix.transpose(1, 2, 0)[..., None]
    centre = jnp.asarray(size, jnp.float32) / 2
    down, right = jnp.moveaxis(points - centre - geometry.offset[:, None], -1, 0)
    determinant = a * d - b * c
    y, x = (d * down - b * right) / determinant + centre[0], (a * right - c * down) / determinant + centre[1]
    if geometry.knots is None:
        return jnp.stack([y, x], -1)
    knots = geometry.knots

    def closer(_, place):
        more_y, more_x = _displacement(knots, place[0], place[1], size)
        return y - more_y, x - more_x

    return jnp.stack(jax.lax.fori_loop(0, _INVERSION_STEPS, closer, (y, x)), -1)


def move_boxes(geometry: Geometry, boxes: Float[Array, "n m 4"], size: tuple[int, int]) -> Float[Array, "n m 4"]:
    """The upright boxes (y1, x1, y2, x2) around the moved corners of boxes (N, M, 4), clipped to the image.

    A box that has left the image has no area.
    """
    count, many, _ = boxes.shape
    corners = boxes[..., jnp.array([0, 1, 0, 3, 2, 1, 2, 3])].reshape(count, many * 4, 2)
    corners = move_points(geometry, corners, size).reshape(count, many, 4, 2)
    hull = jnp.concatenate([corners.min(2), corners.max(2)], -1)
    return jnp.clip(hull, 0, jnp.asarray([*size, *size], hull.dtype))


def bilinear(images: Images, y: Float[Array, "n p"], x: Float[Array, "n p"]) -> Images:
    """The images at the places (y, x) of their pixels, row by row; 0 where these lie outside of the image.

    Between the centres of four pixels it interpolates; in the half pixel along the edge it continues the
    outermost pixels. This is what Pillow's ``Image.transform`` does.
    """
    top, left = jnp.floor(y - 0.5), jnp.floor(x - 0.5)
    down, right = (y - 0.5 - top)[..., None], (x - 0.5 - left)[..., None]
    above = _take(images, top, left) * (1 - right) + _take(images, top, left + 1) * right
    below = _take(images, top + 1, left) * (1 - right) + _take(images, top + 1, left + 1) * right
    found = above * (1 - down) + below * down
    return jnp.where(_inside(images, y, x)[..., None], found, 0).reshape(images.shape)


def nearest(masks: Integer[Array, "n h w"], y: Float[Array, "n p"], x: Float[Array, "n p"]) -> Integer[Array, "n h w"]:
    """The class of the pixel that each place (y, x) lies in; 0, the background, outside of the image."""
    found = _take(masks[..., None], jnp.floor(y), jnp.floor(x))[..., 0]
    return jnp.where(_inside(masks, y, x), found, 0).reshape(masks.shape)


def move_whole_pixels(values: Array, mirrored: Array | None, shift: Array | None) -> Array:
    """flip, then crop, of images (N, H, W, C) or masks (N, H, W), pixel by pixel; zeros move in."""
    if mirrored is not None:
        values = jnp.where(mirrored.reshape(-1, *[1] * (values.ndim - 1)), values[:, :, ::-1], values)
    if shift is not None:
        pad, size, rest = (CROP_PADDING, CROP_PADDING), values.shape[1:], [0] * (values.ndim - 3)
        padded = jnp.pad(values, ((0, 0), pad, pad, *[(0, 0)] * len(rest)))
        values = jax.vmap(lambda value, at: jax.lax.dynamic_slice(value, (at[0], at[1], *rest), size))(
            padded, CROP_PADDING + shift
        )
    return values


def _displacement(knots: Float[Array, "n 3 3 2"], y: Float[Array, "#n p"], x: Float[Array, "#n p"], size) -> Any:
    """(y, x) displacements in pixels at places (y, x); outside of the image as at its nearest point."""
    rows, columns = _knot_weights(y / size[0]), _knot_weights(x / size[1])
    weights = (rows[..., :, None] * columns[..., None, :]).reshape(*y.shape, WARP_KNOTS**2)
    flat = knots.reshape(len(knots), WARP_KNOTS**2, 2)
    found = jnp.matmul(flat.swapaxes(1, 2), weights.swapaxes(1, 2), precision="highest")
    return found[:, 0] * size[0], found[:, 1] * size[1]


def _knot_weights(place: Float[Array, "#n p"]) -> Float32[Array, "#n p 3"]:
    """Weights of the knots at places of the side from 0 to 1: Keys' cubic kernel, as in Pillow's BICUBIC resize."""
    at = jnp.clip(place, 0, 1)[..., None] * WARP_KNOTS - 0.5
    distance = jnp.abs(at - jnp.arange(WARP_KNOTS))
    inner = (1.5 * distance - 2.5) * distance**2 + 1
    outer = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    weights = jnp.where(distance < 1, inner, jnp.where(distance < 2, outer, 0))
    return weights / weights.sum(-1, keepdims=True)


def _inside(values, y, x):
    return (y >= 0) & (y < values.shape[1]) & (x >= 0) & (x < values.shape[2])


def _take(values, row, column):
    """The pixels (N, P, C) at whole rows and columns (N, P), those outside being the nearest inside."""
    count, height, width, channels = values.shape
    row = jnp.clip(row.astype(jnp.int32), 0, height - 1)
    column = jnp.clip(column.astype(jnp.int32), 0, width - 1)
    first = jnp.arange(count)[:, None] * (height * width)
    # One flat index for the batch: four times as fast on the CPU as a gather of neighbourhoods.
    flat = values.reshape(-1, channels)
    return flat.at[first + row * width + column].get(mode="promise_in_bounds")
