from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage
from scipy.stats import chisquare, kstest

from cnnjax import augment
from cnnjax.augment import geometry

COUNT, FEW, SIZE = 4000, 12, (64, 80)
NAMES = tuple(augment.GEOMETRIC)
UNIFORM = {  # name -> centre and reach, as published
    "scale": (1.0, 0.15),
    "rotation": (0.0, np.pi / 12),
    "shear": (0.0, np.pi / 12),
    "warp": (0.0, 0.05),
}
CASES = [("flip",), ("crop",), ("scale",), ("rotation",), ("shear",), ("warp",), NAMES[:-1], NAMES]
IDS = [",".join(case) for case in CASES]


@jax.jit
def drawn(seed, strength):
    return augment.draw(jax.random.key(seed), COUNT, 3, NAMES, dict.fromkeys(NAMES, strength))


transform = jax.jit(augment.transform)


@partial(jax.jit, static_argnums=(2,))
def located(parameters, points, size):
    """Where points of old images lie in the new ones, and where these places come from."""
    whole = geometry.compose(parameters, len(points))
    moved = geometry.move_points(whole, points, size)
    return moved, jnp.stack(geometry.source(whole, moved[..., 0], moved[..., 1], size), -1)


def parameters(names, seed=0, strength=1.0):
    return {name: np.asarray(value[:FEW]) for name, value in drawn(seed, strength).items() if name in names}


BOX = np.array([20, 28, 41, 50], np.float32)


@pytest.fixture(scope="module")
def examples():
    """Images whose channels are noise, a spot at the point, and the box filled; the mask is 7 in the box, else 1 to 6.

    The same for every test, so that each combination of augmentations is compiled once.
    """
    random = np.random.default_rng(1)
    points = random.uniform([[20, 25]], [[44, 55]], (FEW, 1, 2)).astype(np.float32)
    y, x = np.mgrid[: SIZE[0], : SIZE[1]] + 0.5
    squares = (y - points[..., :1]) ** 2 + (x - points[..., 1:]) ** 2
    spots = np.where(squares < 25, np.exp(-squares / 2), 0)
    box = np.broadcast_to((y > BOX[0]) & (y < BOX[2]) & (x > BOX[1]) & (x < BOX[3]), spots.shape)
    masks = random.integers(1, 7, spots.shape, np.int32)
    return {
        "images": np.stack([random.random(spots.shape), spots, box], -1).astype(np.float32),
        "masks": np.where(box, np.int32(7), masks),
        "points": points,
        "boxes": np.tile(BOX, (FEW, 1, 1)),
        "labels": np.arange(FEW),
    }


# What is drawn


@pytest.mark.parametrize("strength", [1.0, 0.5])
def test_parameters_are_uniform_on_their_ranges(strength):
    draws = drawn(0, strength)
    for name, (centre, reach) in UNIFORM.items():
        values, reach = np.asarray(draws[name]), strength * reach
        assert values.shape == ((COUNT, 3, 3, 2) if name == "warp" else (COUNT,))
        assert kstest(values.ravel(), "uniform", (centre - reach, 2 * reach)).pvalue > 1e-3
        assert np.abs(values - centre).max() <= reach + 1e-6


@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_half_of_the_images_are_mirrored_at_full_strength(strength):
    p = strength / 2
    assert abs(np.mean(drawn(1, strength)["flip"]) - p) < 4 * np.sqrt(p * (1 - p) / COUNT)


@pytest.mark.parametrize(("strength", "reach"), [(1.0, 4), (0.6, 2)])
def test_every_shift_within_reach_is_equally_likely(strength, reach):
    shifts = np.asarray(drawn(3, strength)["crop"])
    side = 2 * reach + 1
    assert np.abs(shifts).max() == reach
    assert chisquare(np.bincount((shifts + reach) @ [side, 1], minlength=side * side)).pvalue > 1e-3


def test_the_draws_of_flip_and_crop_are_those_of_the_first_release():
    @jax.jit
    def first_release(key):
        flip = jax.random.uniform(jax.random.fold_in(key, 0), (COUNT, 1, 1, 1)) < 0.5
        return flip.ravel(), jnp.floor(jax.random.uniform(jax.random.fold_in(key, 1), (COUNT, 2)) * 9) - 4

    flip, crop = first_release(jax.random.key(5))
    np.testing.assert_array_equal(drawn(5, 1.0)["flip"], flip)
    np.testing.assert_array_equal(drawn(5, 1.0)["crop"], crop)


# What is done with it, against NumPy, Pillow and SciPy


def matrices(values):
    """3x3 matrices on (x, y, 1) that take the pictures' points to their new places, step by step."""
    height, width = SIZE
    for i in range(len(next(iter(values.values())))):
        own = {name: value[i] for name, value in values.items()}
        angle, lean, factor = own.get("rotation", 0), np.tan(own.get("shear", 0)), own.get("scale", 1)
        down, right = own.get("crop", (0, 0))
        steps = [
            [[-1 if own.get("flip", False) else 1, 0, 0], [0, 1, 0], [0, 0, 1]],
            [[1, 0, -right], [0, 1, -down], [0, 0, 1]],
            [[1, lean, 0], [0, 1, 0], [0, 0, 1]],
            [[np.cos(angle), np.sin(angle), 0], [-np.sin(angle), np.cos(angle), 0], [0, 0, 1]],
            [[factor, 0, 0], [0, factor, 0], [0, 0, 1]],
        ]
        whole = np.eye(3)
        for step in steps:
            whole = np.array(step, float) @ whole
        centre = np.array([[1, 0, width / 2], [0, 1, height / 2], [0, 0, 1]])
        yield centre @ whole @ np.linalg.inv(centre)


def sources(values):
    """(y, x) of the old image at each pixel's centre of the new ones, with Pillow's bicubic between the knots."""
    height, width = SIZE
    y, x = np.mgrid[:height, :width] + 0.5
    for i, matrix in enumerate(matrices(values)):
        down, right = (
            np.asarray(Image.fromarray(values["warp"][i, ..., axis]).resize((width, height), Image.Resampling.BICUBIC))
            if "warp" in values
            else 0
            for axis in (0, 1)
        )
        place = np.stack([x + right * width, y + down * height, np.ones_like(x)])
        at_x, at_y, _ = np.einsum("ij,jyx->iyx", np.linalg.inv(matrix), place)
        yield at_y, at_x


def decided(at_y, at_x):
    """Where rounding cannot decide whether a place is inside of the image, or in which pixel."""
    return (np.abs(at_y - np.round(at_y)) > 1e-3) & (np.abs(at_x - np.round(at_x)) > 1e-3)


@pytest.mark.parametrize("names", CASES, ids=IDS)
@pytest.mark.slow
def test_images_and_masks_are_sampled_at_the_places_that_numpy_finds(examples, names):
    values = parameters(names)
    out = transform(examples, values)
    for i, (at_y, at_x) in enumerate(sources(values)):
        sure = decided(at_y, at_x)
        assert sure.mean() > 0.98
        inside = (at_y >= 0) & (at_y < SIZE[0]) & (at_x >= 0) & (at_x < SIZE[1])
        image, mask = examples["images"][i, ..., 0], examples["masks"][i]
        expected = ndimage.map_coordinates(image, [at_y - 0.5, at_x - 0.5], order=1, mode="nearest")
        np.testing.assert_allclose(out["images"][i, ..., 0][sure], (expected * inside)[sure], atol=1e-4)
        row, column = np.clip(at_y, 0, SIZE[0] - 1).astype(int), np.clip(at_x, 0, SIZE[1] - 1).astype(int)
        np.testing.assert_array_equal(out["masks"][i][sure], (mask[row, column] * inside)[sure])


@pytest.mark.parametrize("names", CASES[:5] + CASES[6:7], ids=IDS[:5] + IDS[6:7])
def test_images_are_those_of_pillow(examples, names):
    values = parameters(names, seed=1)
    out = np.asarray(transform(examples, values)["images"])
    for i, (matrix, place) in enumerate(zip(matrices(values), sources(values), strict=True)):
        image, coefficients = Image.fromarray(examples["images"][i, ..., 0]), np.linalg.inv(matrix)[:2].ravel()
        method = Image.Transform.AFFINE
        expected = np.asarray(image.transform(image.size, method, coefficients, Image.Resampling.BILINEAR))
        sure = decided(*place)
        np.testing.assert_allclose(out[i, ..., 0][sure], expected[sure], atol=1e-4)


def test_a_turn_is_anticlockwise_a_lean_moves_the_lower_half_right_and_a_factor_enlarges():
    quarter = {"rotation": np.array([np.pi / 2], np.float32)}
    image = np.random.default_rng(0).random((1, 5, 5, 1), np.float32)
    np.testing.assert_allclose(transform({"images": image}, quarter)["images"][0], np.rot90(image[0]), atol=1e-5)
    points = np.array([[[10.0, 10.0], [14.0, 10.0]]], np.float32)
    moved, _ = located({"shear": np.array([np.pi / 4], np.float32)}, points, (20, 20))
    np.testing.assert_allclose(moved[0], [[10, 10], [14, 14]], atol=1e-5)
    moved, _ = located({"scale": np.array([1.5], np.float32)}, points, (20, 20))
    np.testing.assert_allclose(moved[0], [[10, 10], [16, 10]], atol=1e-5)


# Masks, boxes and points follow the image


@pytest.mark.parametrize("names", CASES, ids=IDS)
def test_points_boxes_and_masks_follow_the_image(examples, names):
    out = {name: np.asarray(value) for name, value in transform(examples, parameters(names, seed=3)).items()}
    np.testing.assert_array_equal(out["labels"], examples["labels"])
    # The spot's centre of mass; a warp also bends the spot, which is some pixels wide.
    y, x = np.mgrid[: SIZE[0], : SIZE[1]] + 0.5
    spots = out["images"][..., 1] / out["images"][..., 1].sum((1, 2), keepdims=True)
    centres = np.stack([(spots * y).sum((1, 2)), (spots * x).sum((1, 2))], -1)
    np.testing.assert_allclose(out["points"][:, 0], centres, atol=0.25 if "warp" in names else 0.05)
    assert np.abs(centres - examples["points"][:, 0]).max() > 0.5  # they have moved
    filled, boxed = out["images"][..., 2], out["masks"] == 7
    clear = (filled < 1e-6) | (filled > 1 - 1e-6)
    assert clear.mean() > 0.9
    np.testing.assert_array_equal(boxed[clear], filled[clear] > 0.5)
    for mask, (moved,) in zip(boxed, out["boxes"], strict=True):
        rows, columns = np.nonzero(mask)
        # The mask has whole pixels, and the edges of a warped box are curved.
        found = [rows.min(), columns.min(), rows.max() + 1, columns.max() + 1]
        np.testing.assert_allclose(moved, found, atol=2.0 if "warp" in names else 1.01)
    assert np.abs(out["boxes"][:, 0] - BOX).max() > 0.5


def test_boxes_are_clipped_to_the_image():
    boxes = np.array([[[0, 0, 6, 5], [0, 7, 2, 9]]], np.float32)
    images = np.ones((1, 10, 12, 1), np.float32)
    out = transform({"images": images, "boxes": boxes}, {"crop": np.array([[3, -4]])})
    np.testing.assert_array_equal(out["boxes"], [[[0, 4, 3, 9], [0, 11, 0, 12]]])


@pytest.mark.parametrize("names", [NAMES[:-1], NAMES], ids=IDS[-2:])
def test_moved_points_come_from_where_they_were_even_outside_of_the_image(names):
    points = np.random.default_rng(0).uniform(-20, 100, (FEW, 100, 2)).astype(np.float32)
    values = parameters(names)
    if "warp" in values:  # the strongest there is
        values["warp"] = np.float32(0.05) * np.sign(values["warp"])
    moved, back = located(values, points, SIZE)
    np.testing.assert_allclose(back, points, atol=1e-3)
    assert np.abs(moved - points).max() > 2


def test_the_strongest_warp_does_not_fold_the_image():
    """Its Jacobian, at any knots within reach, is below 1 in the maximum norm: a contraction."""
    place = np.linspace(0, 1, 4001)
    weights = np.asarray(jax.jit(geometry._knot_weights)(place[None].astype(np.float32)))[0].astype(float)
    slopes = np.gradient(weights, place, axis=0)
    size, slope = np.abs(weights).sum(1), np.abs(slopes).sum(1)
    worst = (slope[:, None] * size + size[:, None] * slope).max()
    assert 0.85 < worst * geometry.WARP_REACH < 1
    np.testing.assert_allclose(weights.sum(1), 1, atol=1e-6)


# Flip and crop alone move whole pixels


@pytest.mark.parametrize("names", [("flip",), ("crop",), ("flip", "crop")])
def test_flip_and_crop_move_whole_pixels(examples, names):
    values = parameters(names)
    out = transform(examples, values)
    mirrored = values.get("flip", np.zeros(FEW, bool))
    shifts = values.get("crop", np.zeros((FEW, 2), int))
    for i in range(FEW):
        for name in ("images", "masks"):
            old = examples[name][i][:, ::-1] if mirrored[i] else examples[name][i]
            padded = np.pad(old, ((4, 4), (4, 4), *[(0, 0)] * (old.ndim - 2)))
            top, left = 4 + shifts[i]
            np.testing.assert_array_equal(out[name][i], padded[top : top + SIZE[0], left : left + SIZE[1]])


def test_interpolation_that_is_switched_off_leaves_flip_and_crop_exact(examples):
    values, off = parameters(("flip", "crop")), parameters(NAMES[2:], strength=0.0)
    exact, sampled = transform(examples, values), transform(examples, values | off)
    for name in ("images", "masks"):
        np.testing.assert_array_equal(sampled[name], exact[name])


@pytest.mark.parametrize("size", [(1, 1), (2, 7)])
def test_an_image_of_any_size_is_sampled(size):
    images = np.full((FEW, *size, 1), 0.25, np.float32)
    out = np.asarray(transform({"images": images}, parameters(("rotation", "warp")))["images"])
    assert out.shape == images.shape
    assert np.all(np.isclose(out, 0.25) | (out == 0))
