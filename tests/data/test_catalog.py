import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from cnnjax.data.catalog import SOURCES, DataConfig, describe, load
from cnnjax.data.dataset import SPLITS, Info, assemble
from cnnjax.typing import UsageError

EMBEDDED = [
    DataConfig("digits"),
    DataConfig("digits", image_size=12, channels=3),
    DataConfig("shapes", examples=50),
    DataConfig("shapes", examples=50, image_size=9, channels=1),
]


def info(train: int, valid: int, test: int, channels: int = 2) -> Info:
    return Info("x", (3, 4, channels), 2, {"train": train, "valid": valid, "test": test}, ("a", "b"))


def arrays(count: int, channels: int = 2) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (count, 3, 4, channels), dtype=np.uint8)
    return images, random.integers(0, 2, count, dtype=np.int32)


@pytest.mark.parametrize("config", EMBEDDED, ids=str)
def test_load_keeps_what_describe_promised(config):
    promised, dataset = describe(config), load(config)
    count = sum(promised.sizes.values())
    assert dataset.info == promised
    assert dataset.images.shape == (count, *promised.image_shape)
    assert (dataset.images.dtype, dataset.labels.dtype) == (np.uint8, np.int32)
    assert set(dataset.labels.tolist()) == set(range(promised.num_classes))
    assert len(promised.class_names) == promised.num_classes
    assert load(config).fingerprint == dataset.fingerprint


def test_describe_of_embedded_data_imports_nothing_slow():
    script = (
        "import sys; from cnnjax.data.catalog import *;"
        "describe(DataConfig('digits')); describe(DataConfig('shapes'));"
        "print([m for m in ('sklearn', 'scipy', 'PIL', 'tensorflow_datasets') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    # JAX may import SciPy for itself.
    assert done.stdout.strip() in ("[]", "['scipy']")


def test_ranges_follow_the_sizes():
    dataset = assemble(info(5, 2, 4), *arrays(11))
    assert dataset.ranges == {"train": (0, 5), "valid": (5, 7), "test": (7, 11)}
    assert tuple(dataset.ranges) == SPLITS


@pytest.mark.parametrize("train", [1, 1500])  # 1,500 needs more than one chunk
def test_statistics_are_those_of_the_training_images(train):
    images, labels = arrays(train + 20)
    dataset = assemble(info(train, 10, 10), images, labels)
    pixels = images[:train] / 255
    np.testing.assert_allclose(dataset.mean, pixels.mean(axis=(0, 1, 2)), rtol=1e-6)
    np.testing.assert_allclose(dataset.std, pixels.std(axis=(0, 1, 2)), rtol=1e-5)
    assert dataset.mean.dtype == dataset.std.dtype == np.float32


def test_brightest_pixels_do_not_overflow_the_sums():
    dataset = assemble(info(3000, 1, 1), np.full((3002, 3, 4, 2), 255, np.uint8), np.zeros(3002, np.int32))
    np.testing.assert_array_equal(dataset.mean, 1)


def test_a_constant_channel_can_be_normalised():
    dataset = assemble(info(4, 1, 1), np.full((6, 3, 4, 2), 7, np.uint8), np.zeros(6, np.int32))
    np.testing.assert_allclose(dataset.std, 1 / 255)


def test_fingerprint_covers_pixels_labels_shapes_and_ranges():
    images, labels = arrays(10)
    pixel, label = images.copy(), labels.copy()
    pixel[3, 1, 2, 0] ^= 1
    label[9] ^= 1
    turned = replace(info(6, 2, 2), image_shape=(4, 3, 2))
    prints = [
        assemble(info(6, 2, 2), images, labels).fingerprint,
        assemble(info(6, 2, 2), pixel, labels).fingerprint,
        assemble(info(6, 2, 2), images, label).fingerprint,
        assemble(info(5, 3, 2), images, labels).fingerprint,
        assemble(turned, images.reshape(10, 4, 3, 2), labels).fingerprint,
    ]
    assert len(set(prints)) == len(prints)
    assert assemble(info(6, 2, 2), images.copy(), labels.copy()).fingerprint == prints[0]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("digit", "Did you mean 'digits'"),
        ("shape", "Did you mean 'shapes'"),
        ("tdfs:cifar10", "Did you mean 'tfds'"),
        ("", "Unknown dataset"),
        ("folder", "write --data=folder:DIR"),
        ("folder:", "write --data=folder:DIR"),
        ("tfds", "write --data=tfds:NAME"),
        ("digits:8", "write --data=digits"),
        ("digits:", "write --data=digits"),
    ],
)
def test_a_wrong_name_names_the_right_one(name, message):
    for function in (describe, load):
        with pytest.raises(UsageError, match=message):
            function(DataConfig(name))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("image_size", 0),
        ("image_size", -8),
        ("channels", 2),
        ("channels", 0),
        ("valid_fraction", 0.0),
        ("valid_fraction", 1.0),
        ("valid_fraction", float("nan")),
        ("examples", 0),
        ("examples", -1),
        ("difficulty", -0.1),
        ("difficulty", 1.1),
    ],
)
@pytest.mark.parametrize("name", ["digits", "shapes", "folder:/nowhere", "tfds:mnist"])
def test_a_value_out_of_range_is_named_whatever_the_source(name, field, value):
    with pytest.raises(UsageError, match=rf"--data\.{field}={value} must be"):
        describe(DataConfig(name, **{field: value}))


def test_config_is_hashable_and_splits_its_name():
    assert len({DataConfig(), DataConfig(), DataConfig(examples=1)}) == 2
    assert DataConfig("tfds:mnist:3.0.1").argument == "mnist:3.0.1"
    assert DataConfig("digits").argument == ""
    assert set(SOURCES) == {"digits", "shapes", "folder", "tfds"}


# Permuted pixels


def flat(images: np.ndarray) -> np.ndarray:
    return images.reshape(len(images), -1, images.shape[-1])


def is_one_permutation(before: np.ndarray, after: np.ndarray) -> bool:
    """Whether the positions, each taken as its values over all images and channels, are the same in another order."""
    positions = [{flat(images)[:, i].tobytes() for i in range(images[0, ..., 0].size)} for images in (before, after)]
    return positions[0] == positions[1] and not np.array_equal(before, after)


def test_permuted_pixels_move_together_in_all_images_and_change_nothing_else():
    config = DataConfig("shapes", examples=30, image_size=9)
    plain, permuted = load(config), load(replace(config, permute_pixels=True))
    assert is_one_permutation(plain.images, permuted.images)
    assert describe(replace(config, permute_pixels=True)) == plain.info == permuted.info
    assert permuted.ranges == plain.ranges
    for field in ("labels", "mean", "std"):
        np.testing.assert_array_equal(getattr(permuted, field), getattr(plain, field))
    assert permuted.fingerprint != plain.fingerprint
    assert permuted.fingerprint == load(replace(config, permute_pixels=True)).fingerprint
    columns = flat(permuted.images).swapaxes(0, 1)
    origins = [np.flatnonzero((flat(plain.images) == column[:, None]).all((0, 2)))[0] for column in columns]
    assert np.mean(np.abs(np.diff(origins)) == 1) < 0.1  # few keep a neighbour


@pytest.mark.parametrize("name", ["digits", "shapes"])
def test_some_classes_keep_their_images_and_are_numbered_anew(name):
    config = DataConfig(name, examples=60)
    whole, some = load(config), load(replace(config, classes=(7, 2, 4)))
    assert some.info == describe(replace(config, classes=(7, 2, 4)))
    assert some.info.class_names == tuple(whole.info.class_names[label] for label in (7, 2, 4))
    for split, (start, stop) in some.ranges.items():
        first, last = whole.ranges[split]
        chosen = first + np.flatnonzero(np.isin(whole.labels[first:last], (7, 2, 4)))
        np.testing.assert_array_equal(some.images[start:stop], whole.images[chosen])
        np.testing.assert_array_equal(np.array([7, 2, 4])[some.labels[start:stop]], whole.labels[chosen])
        assert some.info.sizes[split] == stop - start == len(chosen)
    assert some.fingerprint not in (whole.fingerprint, load(replace(config, classes=(2, 7, 4))).fingerprint)


@pytest.mark.parametrize("classes", [(3,), (1, 1), (0, 10), (-1, 2)])
def test_classes_that_are_none_are_refused(classes):
    with pytest.raises(UsageError, match="at least two different classes of digits, from 0 to 9"):
        describe(DataConfig("digits", classes=classes))


def test_mapped_images_are_permuted_on_disk_once(tmp_path, monkeypatch):
    monkeypatch.setenv("CNNJAX_CACHE", str(tmp_path / "cache"))
    random = np.random.default_rng(0)
    for number in range(20):
        (tmp_path / "images" / "ab"[number % 2]).mkdir(parents=True, exist_ok=True)
        pixels = random.integers(0, 256, (4, 5, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / "ab"[number % 2] / f"{number}.png")
    config = DataConfig(f"folder:{tmp_path / 'images'}")
    plain, permuted = load(config), load(replace(config, permute_pixels=True))
    assert isinstance(permuted.images, np.memmap)
    assert is_one_permutation(plain.images, permuted.images)
    np.testing.assert_array_equal(permuted.mean, plain.mean)
    (entry,) = (tmp_path / "cache" / "data").glob("*-permuted")
    written = (entry / "images.npy").stat().st_mtime_ns
    assert load(replace(config, permute_pixels=True)).fingerprint == permuted.fingerprint
    assert (entry / "images.npy").stat().st_mtime_ns == written
    assert load(config).fingerprint == plain.fingerprint  # the images themselves are as they were


def test_a_size_holds_where_no_other_was_asked_for():
    assert DataConfig("folder:x").at_size(16) == DataConfig("folder:x", image_size=16)
    assert DataConfig("folder:x", image_size=32).at_size(16) == DataConfig("folder:x", image_size=32)
