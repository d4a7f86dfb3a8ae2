import numpy as np
import pytest

from cnnjax.data import shapes
from cnnjax.data.dataset import DataConfig
from cnnjax.typing import UsageError

# Results are stored with it, so it may not change, on any machine.
FINGERPRINT = "8fb08424a9195e66"

LENS = (  # of two discs of radius 0.95 and 0.75, 0.45 apart
    0.95**2 * np.arccos((0.45**2 + 0.95**2 - 0.75**2) / (2 * 0.45 * 0.95))
    + 0.75**2 * np.arccos((0.45**2 + 0.75**2 - 0.95**2) / (2 * 0.45 * 0.75))
    - 0.5 * np.sqrt((-0.45 + 1.7) * (0.45 + 0.2) * (0.45 - 0.2) * (0.45 + 1.7))
)
AREAS = {  # in units of the squared radius
    "bar": 1.9 * 0.6,
    "circle": np.pi * 0.85**2,
    "crescent": np.pi * 0.95**2 - LENS,
    "cross": 2 * 1.9 * 0.6 - 0.6**2,
    "frame": 1.4**2 - 0.7**2,
    "half_disc": np.pi * 0.9**2 / 2,
    "ring": np.pi * (0.95**2 - 0.5**2),
    "square": 1.4**2,
    "star": 5 * np.sin(np.pi / 5) * np.cos(2 * np.pi / 5) / np.cos(np.pi / 5),
    "triangle": 3 * np.sqrt(3) / 4,
}


def outline(name: str, x: float = 0, y: float = 0, radius: float = 1, turn: float = 0) -> shapes.Outline:
    values = x, y, radius, np.cos(turn), np.sin(turn)
    label = np.array([list(shapes.SHAPES).index(name)], np.int32)
    return shapes.Outline(label, *(np.array([value], np.float32) for value in values))


def test_the_pixels_never_change():
    assert shapes.load(DataConfig("shapes", examples=300)).fingerprint.startswith(FINGERPRINT)


@pytest.mark.parametrize("name", shapes.SHAPES)
@pytest.mark.parametrize("turn", [0, 0.4])
def test_coverage_adds_up_to_the_area(name, turn):
    covered = shapes.coverage(outline(name, 0.1, -0.2, 0.75, turn), 200)
    assert covered.mean() * 4 == pytest.approx(AREAS[name] * 0.75**2, rel=5e-3)


@pytest.mark.parametrize("name", shapes.SHAPES)
def test_shapes_fit_into_the_unit_circle(name):
    covered = shapes.coverage(outline(name), 101)[0]
    y, x = np.mgrid[-50:51, -50:51] / 50.5
    assert covered[np.hypot(x, y) > 1.04].max() == 0
    assert covered.max() == 1


@pytest.mark.parametrize("name", shapes.SHAPES)
def test_a_quarter_turn_turns_the_image(name):
    upright = shapes.coverage(outline(name, radius=0.8), 32)[0]
    turned = shapes.coverage(outline(name, radius=0.8, turn=np.pi / 2), 32)[0]
    np.testing.assert_allclose(turned, np.rot90(upright, -1), atol=1e-4)


def test_place_is_x_to_the_right_and_y_down():
    covered = shapes.coverage(outline("circle", x=0.5, y=-0.25, radius=0.3), 64)[0]
    rows, columns = np.nonzero(covered > 0.5)
    centre = np.mean([rows, columns], axis=1) + 0.5
    np.testing.assert_allclose(centre, [(1 - 0.25) * 32, (1 + 0.5) * 32], atol=0.1)


def test_names_look_like_what_they_say():
    def at(name: str, x: float, y: float) -> float:
        return float(shapes.coverage(outline(name), 100)[0, round(50 + 50 * y), round(50 + 50 * x)])

    assert [at(name, 0, 0) for name in ("ring", "frame", "circle", "square", "cross", "star")] == [
        0,
        0,
        1,
        1,
        1,
        1,
    ]
    assert (at("triangle", 0, -0.8), at("triangle", 0, 0.8)) == (1, 0)
    assert (at("star", 0, -0.8), at("star", 0, 0.8)) == (1, 0)
    assert (at("bar", 0.8, 0), at("bar", 0, 0.8)) == (1, 0)
    assert (at("cross", 0.8, 0), at("cross", 0.6, 0.6)) == (1, 0)
    assert (at("half_disc", 0, 0.2), at("half_disc", 0, -0.6)) == (1, 0)
    assert (at("crescent", -0.7, 0), at("crescent", 0.4, 0)) == (1, 0)


@pytest.mark.parametrize("shape", [(32, 32, 3), (9, 9, 1), (40, 40, 1)])
def test_more_examples_only_add_examples(shape):
    few, many = (shapes.generate("train", count, shape, 0.7) for count in (33, 700))
    np.testing.assert_array_equal(few[0], many[0][:33])
    np.testing.assert_array_equal(few[1], many[1][:33])


def test_another_size_or_difficulty_shows_the_same_scene():
    small, large = (shapes.generate("test", 40, (size, size, 1), 0.0)[0] for size in (16, 64))
    shrunk = large.reshape(40, 16, 4, 16, 4).mean(axis=(2, 4))
    assert np.abs(shrunk - small[..., 0]).mean() < 3
    hard = shapes.generate("test", 40, (64, 64, 1), 0.3)[0]
    correlation = [np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in zip(large, hard, strict=True)]
    assert np.mean(correlation) > 0.8


def test_difficulty_hides_the_shape():
    """The share of an image's variance that a clean drawing of its shape explains."""
    clean = shapes.generate("train", 200, (32, 32, 1), 0.0)[0].reshape(200, -1)
    explained = []
    for difficulty in (0.0, 0.5, 1.0):
        images = shapes.generate("train", 200, (32, 32, 1), difficulty)[0].reshape(200, -1)
        pairs = zip(clean, images, strict=True)
        explained.append(np.mean([np.corrcoef(a, b)[0, 1] ** 2 for a, b in pairs]))
    assert explained[0] == pytest.approx(1)
    assert explained[0] > explained[1] + 0.2 > explained[2] + 0.4


def test_splits_are_disjoint_and_balanced():
    dataset = shapes.load(DataConfig("shapes", examples=200))
    assert dataset.info.sizes == {"train": 200, "valid": 50, "test": 50}
    assert len(np.unique(dataset.images.reshape(300, -1), axis=0)) == 300
    for start, end in dataset.ranges.values():
        counts = np.bincount(dataset.labels[start:end])
        np.testing.assert_array_equal(counts, (end - start) // 10)


def test_grey_images_keep_the_contrast_of_colour():
    colour = shapes.generate("train", 100, (32, 32, 3), 0.0)[0].mean(axis=-1)
    grey = shapes.generate("train", 100, (32, 32, 1), 0.0)[0][..., 0]
    np.testing.assert_allclose(np.ptp(colour, axis=(1, 2)), np.ptp(grey, axis=(1, 2)), atol=45)
    assert np.ptp(grey, axis=(1, 2)).min() > 0.45 * 255


def test_noise_is_standard():
    noise = shapes._noise(shapes._philox("train", purpose=1), 50, (15, 15, 3))
    assert noise.shape == (50, 3, 15, 15)
    assert noise.mean() == pytest.approx(0, abs=0.02)
    assert noise.std() == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize(("field", "value"), [("image_size", 7), ("examples", 9)])
def test_too_little_is_refused(field, value):
    with pytest.raises(UsageError, match=f"--data.{field}={value} is too"):
        shapes.describe(DataConfig("shapes", **{field: value}))
