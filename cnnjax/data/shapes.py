"""Procedural images of ten shapes: any number, any size, no network, the same bits everywhere.

One filled or hollow shape of random place, size, rotation and colour lies on a shaded background
with strokes and noise. Everything is drawn from raw Philox bits with operations that IEEE 754
rounds exactly, so neither the processor nor the version of NumPy changes a pixel.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Float64, Int32, UInt8

from cnnjax.data.dataset import SPLITS, DataConfig, Dataset, Info, Progress, assemble
from cnnjax.rng import STREAMS
from cnnjax.typing import UsageError

DEFAULT_SIZE, MIN_SIZE = 32, 8
MIN_EXAMPLES = 10
STROKES = 3
DRAWS = 15 + 6 * STROKES  # uniform numbers of one scene
PIXELS_AT_ONCE = 256 * 32 * 32

Plane = Float32[np.ndarray, "n h w"]
Number = Float32[np.ndarray, " n"]


@dataclass(frozen=True)
class Outline:
    """Where the shape of each of n images lies; the image spans -1 to 1, x to the right, y down.

    Attributes:
      label: index into ``SHAPES``.
      x, y: centre.
      radius: of the circle that the shape fits into.
      cosine, sine: of its rotation.
    """

    label: Int32[np.ndarray, " n"]
    x: Number
    y: Number
    radius: Number
    cosine: Number
    sine: Number


def describe(config: DataConfig) -> Info:
    """Constants. The validation and test splits are a quarter of the training split each.

    Raises:
      UsageError: the images are too small to tell shapes apart, or the examples too few.
    """
    size = config.image_size or DEFAULT_SIZE
    if size < MIN_SIZE:
        raise UsageError(f"--data.image_size={size} is too small for shapes: at least {MIN_SIZE} pixels.")
    if config.examples < MIN_EXAMPLES:
        raise UsageError(f"--data.examples={config.examples} is too few for shapes: at least {MIN_EXAMPLES}.")
    held_out = max(MIN_EXAMPLES, config.examples // 4)
    sizes = {"train": config.examples, "valid": held_out, "test": held_out}
    return Info(config.name, (size, size, config.channels or 3), len(SHAPES), sizes, tuple(SHAPES))


def load(config: DataConfig, progress: Progress | None = None) -> Dataset:
    """Draws every image. Image i of a split shows the same scene at any size, difficulty or count."""
    del progress
    info = describe(config)
    drawn = [generate(split, info.sizes[split], info.image_shape, config.difficulty) for split in SPLITS]
    images, labels = (np.concatenate(part) for part in zip(*drawn, strict=True))
    return assemble(info, images, labels)


def generate(
    split: str, count: int, image_shape: tuple[int, int, int], difficulty: float
) -> tuple[UInt8[np.ndarray, "n h w c"], Int32[np.ndarray, " n"]]:
    """The first ``count`` images and labels of a split; the classes take turns.

    Args:
      split: ``train``, ``valid`` or ``test``: disjoint streams of random bits.
      count: number of images.
      image_shape: (S, S, C).
      difficulty: 0 (clean, strong contrast) to 1.
    """
    labels = (np.arange(count) % len(SHAPES)).astype(np.int32)
    scene_bits, noise_bits = _philox(split, purpose=0), _philox(split, purpose=1)
    images = np.empty((count, *image_shape), np.uint8)
    step = max(1, PIXELS_AT_ONCE // (image_shape[0] * image_shape[1]))
    for start in range(0, count, step):
        chunk = slice(start, min(start + step, count))
        uniform = _uniform(scene_bits, chunk.stop - start)
        noise = _noise(noise_bits, chunk.stop - start, image_shape)
        images[chunk] = np.moveaxis(_paint(labels[chunk], uniform, noise, difficulty), 1, -1)
    return images, labels


def coverage(outline: Outline, size: int) -> Plane:
    """The share of each pixel of (n, size, size) that the shape covers, in [0, 1].

    Masks and boxes follow from it: a pixel belongs to the shape where half of it is covered.
    """
    u, v = _local(outline.x, outline.y, outline.cosine, outline.sine, size)
    radius = outline.radius[:, None, None]
    distance = np.empty_like(u)
    for label, shape in enumerate(SHAPES.values()):
        chosen = outline.label == label
        distance[chosen] = shape(u[chosen] / radius[chosen], v[chosen] / radius[chosen])
    return _antialiased(distance * radius, size)


def _paint(
    label: Int32[np.ndarray, " n"],
    uniform: Float32[np.ndarray, "n draws"],
    noise: Float32[np.ndarray, "n c h w"],
    difficulty: float,
) -> UInt8[np.ndarray, "n c h w"]:
    """Background, shading, strokes, shape and noise, in this order; channels first, for speed."""
    channels, size = noise.shape[1:3]
    draw = iter(uniform.T)
    outline = _outline(label, draw)
    contrast = (0.5 - 0.3 * difficulty) + 0.1 * next(draw)
    below = 0.05 + (0.9 - contrast) * next(draw)
    bright = next(draw) < 0.5
    chroma = [[0.24 * (next(draw) - 0.5) for _ in range(3)] for _ in range(2)]
    levels = np.where(bright, below + contrast, below), np.where(bright, below, below + contrast)
    shape, background = (_colour(level, tint, channels) for level, tint in zip(levels, chroma, strict=True))

    x, y = _grid(size)
    slope_x, slope_y = ((next(draw) - 0.5)[:, None, None] for _ in range(2))
    canvas = background + (0.5 * difficulty) * (slope_x * x + slope_y * y)[:, None]
    for _ in range(STROKES):
        stroke, change = _stroke(draw, size, difficulty)
        canvas += (stroke * (contrast * change)[:, None, None])[:, None]
    canvas += coverage(outline, size)[:, None] * (shape - canvas)
    canvas += (0.15 * difficulty) * noise
    return np.round(np.clip(canvas, 0, 1) * 255).astype(np.uint8)


def _outline(label: Int32[np.ndarray, " n"], draw: Iterator[Number]) -> Outline:
    radius = 0.35 + 0.35 * next(draw)
    x, y = ((1 - radius) * (2 * next(draw) - 1) for _ in range(2))
    return Outline(label, x, y, radius, *_turn(next(draw)))


def _stroke(draw: Iterator[Number], size: int, difficulty: float) -> tuple[Plane, Number]:
    """Coverage of a thin bar anywhere, and how far it is darker or lighter, in units of contrast."""
    present = next(draw) < difficulty
    x, y = (2 * next(draw) - 1 for _ in range(2))
    u, v = _local(x, y, *_turn(next(draw)), size)
    length = 0.2 + 0.6 * next(draw)
    bar = np.maximum(np.abs(u) - length[:, None, None], np.abs(v) - max(0.05, 1 / size))
    return _antialiased(bar, size), np.where(present, 2 * next(draw) - 1, 0).astype(np.float32)


def _colour(level: Number, chroma: list[Number], channels: int) -> Float32[np.ndarray, "n c 1 1"]:
    tints = chroma if channels == 3 else [np.zeros_like(level)]
    return np.stack([level + tint for tint in tints], axis=1)[..., None, None]


def _turn(uniform: Number) -> tuple[Number, Number]:
    """Cosine and sine of a share of a full turn."""
    angle = 2 * np.pi * uniform.astype(np.float64)
    return _exact(np.cos(angle)), _exact(np.sin(angle))


def _exact(value: Float64[np.ndarray, "..."]) -> Float32[np.ndarray, "..."]:
    """Rounded so that the last bits of a sine, which differ between processors, do not count."""
    return np.round(value, 6).astype(np.float32)


def _grid(size: int) -> tuple[Float32[np.ndarray, "1 s"], Float32[np.ndarray, "s 1"]]:
    """x and y of the centres of the pixels, from -1 to 1."""
    centres = ((2 * np.arange(size) + 1) / size - 1).astype(np.float32)
    return centres[None, :], centres[:, None]


def _local(x: Number, y: Number, cosine: Number, sine: Number, size: int) -> tuple[Plane, Plane]:
    """The pixels' coordinates along and across a direction, from a centre."""
    grid_x, grid_y = _grid(size)
    right, down = grid_x - x[:, None, None], grid_y - y[:, None, None]
    cosine, sine = cosine[:, None, None], sine[:, None, None]
    return cosine * right + sine * down, cosine * down - sine * right


def _antialiased(distance: Plane, size: int) -> Plane:
    """Coverage from a signed distance: linear over the one pixel that the edge runs through."""
    return np.clip(0.5 - distance * (size / 2), 0, 1)


def _philox(split: str, purpose: int) -> np.random.Philox:
    """The bits of stream ``generate`` for a split: keyed as in ``cnnjax.rng``."""
    return np.random.Philox(key=[0, STREAMS["generate"] << 32 | (2 * SPLITS.index(split) + purpose)])


def _uniform(bits: np.random.Philox, count: int) -> Float32[np.ndarray, "n draws"]:
    """In [0, 1): the upper 24 bits of each word, all that a float32 holds."""
    raw = bits.random_raw(count * DRAWS).reshape(count, DRAWS)
    return (raw >> 40).astype(np.float32) / np.float32(2**24)


def _noise(bits: np.random.Philox, count: int, image_shape: tuple[int, int, int]) -> Float32[np.ndarray, "n c h w"]:
    """Nearly normal, of mean 0 and standard deviation 1: the sum of four uniform bytes."""
    height, width, channels = image_shape
    values = height * width * channels
    words = -(-values // 2)  # whole words, so that image i never shares one with its neighbour
    raw = bits.random_raw(count * words).astype("<u8").view(np.uint8).reshape(count, 4, -1)
    total = raw.sum(axis=1, dtype=np.uint16)[:, :values].astype(np.float32)
    deviation = (4 * (256**2 - 1) / 12) ** 0.5
    return ((total - 4 * 127.5) / deviation).reshape(count, channels, height, width)


def _radius(u: Plane, v: Plane) -> Plane:
    return np.sqrt(u * u + v * v)


def _box(u: Plane, v: Plane, width: float, height: float) -> Plane:
    return np.maximum(np.abs(u) - width, np.abs(v) - height)


def _lines(u: Plane, v: Plane, count: int) -> Float32[np.ndarray, "lines n h w"]:
    """Distance from the centre along each of ``count`` equally spaced directions, the first upwards."""
    angles = 2 * np.pi * np.arange(count) / count
    normals = zip(_exact(np.sin(angles)), _exact(-np.cos(angles)), strict=True)
    return np.stack([a * u + b * v for a, b in normals])


def _bar(u: Plane, v: Plane) -> Plane:
    return _box(u, v, 0.95, 0.3)


def _circle(u: Plane, v: Plane) -> Plane:
    return _radius(u, v) - 0.85


def _crescent(u: Plane, v: Plane) -> Plane:
    return np.maximum(_radius(u, v) - 0.95, 0.75 - _radius(u - 0.45, v))


def _cross(u: Plane, v: Plane) -> Plane:
    return np.minimum(_box(u, v, 0.95, 0.3), _box(u, v, 0.3, 0.95))


def _frame(u: Plane, v: Plane) -> Plane:
    return np.maximum(_box(u, v, 0.7, 0.7), -_box(u, v, 0.35, 0.35))


def _half_disc(u: Plane, v: Plane) -> Plane:
    return np.maximum(_radius(u, v + 0.4) - 0.9, -(v + 0.4))


def _ring(u: Plane, v: Plane) -> Plane:
    radius = _radius(u, v)
    return np.maximum(radius - 0.95, 0.5 - radius)


def _square(u: Plane, v: Plane) -> Plane:
    return _box(u, v, 0.7, 0.7)


def _star(u: Plane, v: Plane) -> Plane:
    """A pentagram: what lies inside at least four of the five lines it is drawn with."""
    return np.partition(_lines(u, v, 5), 3, axis=0)[3] - 0.309


def _triangle(u: Plane, v: Plane) -> Plane:
    return _lines(u, -v, 3).max(axis=0) - 0.5


# Signed distance to the outline, negative inside; every shape fits into the unit circle.
SHAPES: dict[str, Callable[[Plane, Plane], Plane]] = {
    "bar": _bar,
    "circle": _circle,
    "crescent": _crescent,
    "cross": _cross,
    "frame": _frame,
    "half_disc": _half_disc,
    "ring": _ring,
    "square": _square,
    "star": _star,
    "triangle": _triangle,
}
