"""Data augmentation: batched, on the device, a pure function of (key, examples, strengths).

Each augmentation has a traced strength in [0, 1]; 0 leaves the examples as they are to the bit, 1 is the usual
recipe. Which ones exist in a program is static (``Spec.augment``); how strong they are is swept. What is random
is drawn apart (``draw``) from what is done with it (``transform``).

The order in which augmentations are named changes nothing. Those that move things are one map, so that images
are interpolated once; flip and crop alone move whole pixels and interpolate nothing. Colour follows:
colour_jitter, rgb_shift, pca_colour. What moves in from outside is 0: black, or a mask's background.
"""

from collections.abc import Callable
from typing import Any

import jax
from jaxtyping import Array, Float, Key

from cnnjax.augment import colour, geometry
from cnnjax.augment.geometry import CROP_PADDING, Strength
from cnnjax.typing import UsageError, unknown

Draw = Callable[[Key[Array, ""], int, int, Strength], Array]

GEOMETRIC: dict[str, Draw] = {
    "flip": geometry.draw_flip,
    "crop": geometry.draw_crop,
    "scale": geometry.draw_scale,
    "rotation": geometry.draw_rotation,
    "shear": geometry.draw_shear,
    "warp": geometry.draw_warp,
}
# Name -> how its parameters are drawn. The place in this table is part of the key: append, never move.
AUGMENTATIONS: dict[str, Draw] = {
    **GEOMETRIC,
    "colour_jitter": colour.draw_colour_jitter,
    "rgb_shift": colour.draw_rgb_shift,
    "pca_colour": colour.draw_pca_colour,
}

__all__ = ["AUGMENTATIONS", "GEOMETRIC", "apply", "check", "draw", "transform"]


def check(names: tuple[str, ...], image_shape: tuple[int, int, int]) -> None:
    """Refuses augmentations that do not exist or cannot be applied to images (H, W, C).

    Raises:
      UsageError: an unknown name, a name given twice, or crop of images that it could move out of sight.
    """
    for name in names:
        if name not in AUGMENTATIONS:
            raise unknown("augmentation", name, AUGMENTATIONS)
    if len(set(names)) < len(names):
        raise UsageError(f"augment={','.join(names)} names one augmentation twice. Name each once.")
    height, width, _ = image_shape
    if "crop" in names and min(height, width) <= CROP_PADDING:
        raise UsageError(
            f"augment=crop moves images by up to {CROP_PADDING} pixels, which leaves nothing of images of "
            f"{height}x{width} pixels. Leave crop out, or use --data.image_size={CROP_PADDING + 1} or more."
        )


def apply(
    key: Key[Array, ""],
    examples: dict[str, Any],
    names: tuple[str, ...],
    strengths: dict[str, Strength],
    colour_basis: Float[Array, "c c"] | None = None,
) -> dict[str, Any]:
    """Examples as ``transform`` takes them, augmented as ``draw`` says."""
    count, channels = examples["images"].shape[0], examples["images"].shape[-1]
    return transform(examples, draw(key, count, channels, names, strengths), colour_basis)


def draw(
    key: Key[Array, ""], count: int, channels: int, names: tuple[str, ...], strengths: dict[str, Strength]
) -> dict[str, Array]:
    """The random parameters of each augmentation called in ``names``, for ``count`` images.

    Each has a key of its own, so that adding an augmentation leaves the draws of the others.
    """
    numbers = {name: number for number, name in enumerate(AUGMENTATIONS)}
    keys = {name: jax.random.fold_in(key, numbers[name]) for name in names}
    return {name: AUGMENTATIONS[name](keys[name], count, channels, strengths[name]) for name in names}


def transform(
    examples: dict[str, Any], parameters: dict[str, Array], colour_basis: Float[Array, "c c"] | None = None
) -> dict[str, Any]:
    """Examples after the augmentations with these parameters; a pure function of its arguments.

    Args:
      examples: "images" (N, H, W, C) in [0, 1] and, where they exist, what moves with them: "masks" (N, H, W)
        whole numbers, "boxes" (N, M, 4) as (y1, x1, y2, x2) and "points" (N, M, 2) as (y, x), in pixels with the
        coordinates of ``cnnjax.augment.geometry``. Anything else is passed on. Masks take the nearest pixel. A box
        becomes the upright one around its moved corners, clipped to the image. Points may come to lie outside.
      parameters: by name, from ``draw``.
      colour_basis: (C, C), as in ``data.Dataset``; needed for pca_colour.

    Raises:
      UsageError: pca_colour without a colour basis.
    """
    if not parameters:
        return examples
    moved = _moved(examples, parameters) if parameters.keys() & GEOMETRIC.keys() else dict(examples)
    images = moved["images"]
    if "colour_jitter" in parameters:
        images = colour.colour_jitter(images, parameters["colour_jitter"])
    if "rgb_shift" in parameters:
        images = colour.rgb_shift(images, parameters["rgb_shift"])
    if "pca_colour" in parameters:
        if colour_basis is None:
            raise UsageError("augment=pca_colour needs colour_basis, the principal components of the training images.")
        images = colour.pca_colour(images, parameters["pca_colour"], colour_basis)
    return {**moved, "images": images}


def _moved(examples, parameters):
    """Images and what belongs to them, after the augmentations that move things."""
    count, height, width, _ = examples["images"].shape
    size, moved = (height, width), dict(examples)
    whole = geometry.compose(parameters, count)
    if parameters.keys() & GEOMETRIC.keys() <= {"flip", "crop"}:
        for name in examples.keys() & {"images", "masks"}:
            moved[name] = geometry.move_whole_pixels(examples[name], parameters.get("flip"), parameters.get("crop"))
    else:
        places = geometry.pixel_sources(whole, size)
        moved["images"] = geometry.bilinear(examples["images"], *places)
        if "masks" in examples:
            moved["masks"] = geometry.nearest(examples["masks"], *places)
    if "points" in examples:
        moved["points"] = geometry.move_points(whole, examples["points"], size)
    if "boxes" in examples:
        moved["boxes"] = geometry.move_boxes(whole, examples["boxes"], size)
    return moved
