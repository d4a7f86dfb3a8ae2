"""Data augmentation: batched, on the device, a pure function of (key, images, strength).

Each takes images (N, H, W, C) in [0, 1] and a traced strength in [0, 1]; strength 0 returns them
to the bit, strength 1 is the usual recipe. Which ones exist in a program is static
(``Spec.augment``); how strong they are is swept.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from cnnjax.typing import Images

CROP_PADDING = 4  # pixels on each side: He et al. 2015, section 4.2

Strength = float | Float[Array, ""]


def flip(key: Key[Array, ""], images: Images, strength: Strength) -> Images:
    """Mirrors each image left to right with probability strength / 2 (S3:705; S4:624)."""
    mirrored = jax.random.uniform(key, (images.shape[0], 1, 1, 1)) < 0.5 * strength
    return jnp.where(mirrored, images[:, :, ::-1], images)


def crop(key: Key[Array, ""], images: Images, strength: Strength) -> Images:
    """Shifts each image by up to 4 strength pixels each way, zeros moving in (S3:724).

    At strength 1: pad by 4, then crop at a uniformly random place. Between 0 and 1 the whole
    number of pixels is uniform on [-round(4 strength), round(4 strength)].
    """
    reach = jnp.round(CROP_PADDING * jnp.asarray(strength, jnp.float32))
    uniform = jax.random.uniform(key, (images.shape[0], 2))
    shift = jnp.floor(uniform * (2 * reach + 1)) - reach
    start = CROP_PADDING + shift.astype(jnp.int32)
    pad = (CROP_PADDING, CROP_PADDING)
    padded = jnp.pad(images, ((0, 0), pad, pad, (0, 0)))
    size = images.shape[1:]
    return jax.vmap(lambda image, at: jax.lax.dynamic_slice(image, (at[0], at[1], 0), size))(padded, start)


AUGMENTATIONS: dict[str, Callable[[Key[Array, ""], Images, Strength], Images]] = {"flip": flip, "crop": crop}


def apply(key: Key[Array, ""], images: Images, names: tuple[str, ...], strengths: dict[str, Strength]) -> Images:
    """The augmentations called ``names``, in that order, each with a key and a strength of its own."""
    for name in names:
        # The key depends on the augmentation, not on its place: adding one leaves the others' draws.
        own = jax.random.fold_in(key, list(AUGMENTATIONS).index(name))
        images = AUGMENTATIONS[name](own, images, strengths[name])
    return images
