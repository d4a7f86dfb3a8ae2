import jax
import numpy as np
import pytest
from scipy.stats import chisquare

from cnnjax import augment

COUNT, SIZE = 81 * 50, 9


@pytest.fixture(scope="module")
def images():
    """Copies of one image whose pixels are all different, none of them zero, in two channels."""
    image = 1 + np.random.default_rng(0).permutation(SIZE * SIZE * 2).reshape(SIZE, SIZE, 2)
    return np.broadcast_to(image.astype(np.float32), (COUNT, SIZE, SIZE, 2))


@pytest.fixture(scope="module")
def both():
    """flip and crop of the same images; the seed and the strength are traced."""
    names = ("flip", "crop")

    @jax.jit
    def function(seed, images, strength):
        return [augment.AUGMENTATIONS[name](jax.random.key(seed), images, strength) for name in names]

    return lambda seed, images, strength: map(np.asarray, function(seed, images, strength))


def test_strength_zero_returns_the_images_to_the_bit(both, images):
    for out in both(0, images, 0.0):
        np.testing.assert_array_equal(out.view(np.uint32), images.view(np.uint32))


@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_half_of_the_images_are_mirrored_at_full_strength(both, images, strength):
    out, _ = both(1, images, strength)
    mirrored = (out == images[:, :, ::-1]).all((1, 2, 3))
    assert np.all(mirrored | (out == images).all((1, 2, 3)))
    p = strength / 2
    assert abs(mirrored.mean() - p) < 4 * np.sqrt(p * (1 - p) / COUNT)


def test_flipping_twice_with_one_key_changes_nothing(both, images):
    once, _ = both(2, images, 1.0)
    twice, _ = both(2, once, 1.0)
    np.testing.assert_array_equal(twice, images)


@pytest.mark.parametrize(("strength", "reach"), [(1.0, 4), (0.6, 2)])
def test_every_shift_within_reach_is_equally_likely(both, images, strength, reach):
    _, out = both(3, images, strength)
    padded = np.pad(images[0], ((4, 4), (4, 4), (0, 0)))
    counts = []
    for down, right in np.ndindex(2 * reach + 1, 2 * reach + 1):
        top, left = 4 - reach + down, 4 - reach + right
        shifted = padded[top : top + SIZE, left : left + SIZE]
        counts.append((out == shifted).all((1, 2, 3)).sum())
    assert sum(counts) == COUNT  # nothing but these
    assert chisquare(counts).pvalue > 1e-3


def test_equal_keys_give_equal_images_and_other_keys_others(both, images):
    first, again, other = (list(both(seed, images, 1.0)) for seed in (4, 4, 5))
    for a, b, c in zip(first, again, other, strict=True):
        np.testing.assert_array_equal(a, b)
        assert np.any(a != c)


def test_adding_an_augmentation_leaves_the_draws_of_the_others(images):
    key, few = jax.random.key(6), images[:40]

    @jax.jit
    def function(images):
        flip, crop = (augment.apply(key, images, (name,), {name: 1.0}) for name in ("flip", "crop"))
        # Strength 0 of the added one, so that what the other did is seen alone.
        strengths = {"flip": 1.0, "crop": 0.0}
        both = [augment.apply(key, images, names, strengths) for names in (("flip", "crop"), ("crop", "flip"))]
        return flip, crop, *both, augment.apply(key, images, ("flip", "crop"), {"flip": 0.0, "crop": 1.0})

    flip, crop, flip_crop, crop_flip, only_crop = function(few)
    np.testing.assert_array_equal(flip_crop, flip)
    np.testing.assert_array_equal(crop_flip, flip)
    np.testing.assert_array_equal(only_crop, crop)
    assert np.any(flip != few)
    assert np.any(crop != few)
