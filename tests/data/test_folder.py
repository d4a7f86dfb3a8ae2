import io
import json
import os
import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cnnjax.data import cache, decode, folder
from cnnjax.data.catalog import load, pictures
from cnnjax.data.dataset import DataConfig
from cnnjax.data.encoded import order, split_sizes
from cnnjax.typing import UsageError


@pytest.fixture(autouse=True)
def cache_directory(tmp_path, monkeypatch):
    monkeypatch.setenv("CNNJAX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def save(path: Path, pixels: np.ndarray | Image.Image, **options) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    (pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)).save(path, **options)


def fill(root: Path, counts: dict[str, int], classes: tuple[str, ...] = ("cat", "ant", "bee")) -> Path:
    """Images that tell what they are: red is the split, green the class in sorted order, blue the number."""
    for red, (split, count) in enumerate(counts.items()):
        for green, name in enumerate(sorted(classes)):
            for blue in range(count):
                pixel = np.array([red, green, blue], np.uint8)
                save(root / split / name / f"{blue}.png", np.broadcast_to(pixel, (4, 5, 3)).copy())
    return root


def config(root: Path, **fields) -> DataConfig:
    return DataConfig(f"folder:{root}", **fields)


def identities(dataset, split: str) -> list[tuple[int, ...]]:
    return [tuple(pixel) for pixel in dataset.images[slice(*dataset.ranges[split]), 0, 0].tolist()]


# Layouts and splits


def test_train_and_test_folders(tmp_path):
    root = fill(tmp_path / "data", {"train": 20, "test": 4})
    dataset = folder.load(config(root))
    assert dataset.info == folder.describe(config(root))
    assert dataset.info.class_names == ("ant", "bee", "cat")
    assert dataset.info.sizes == {"train": 54, "valid": 6, "test": 12}
    assert dataset.images.shape == (72, 4, 5, 3)
    np.testing.assert_array_equal(dataset.images, np.broadcast_to(dataset.images[:, :1, :1], dataset.images.shape))
    np.testing.assert_array_equal(dataset.labels, dataset.images[:, 0, 0, 1])
    learned = identities(dataset, "train") + identities(dataset, "valid")
    assert sorted(learned) == [(0, label, number) for label in range(3) for number in range(20)]
    assert sorted(identities(dataset, "test")) == [(1, label, number) for label in range(3) for number in range(4)]


def test_pictures_of_a_split_are_those_of_the_dataset(tmp_path):
    root = fill(tmp_path / "data", {"train": 20, "test": 4})
    dataset = folder.load(config(root))
    for split in ("train", "valid", "test"):
        found = pictures(config(root), split)
        read = [found.read(number) for number in range(found.count)]
        assert [label for _, label in read] == dataset.labels[slice(*dataset.ranges[split])].tolist()
        assert [tuple(np.asarray(image)[0, 0].tolist()) for image, _ in read] == identities(dataset, split)
        assert found.carved == (split == "valid")
    whole = pictures(config(root), "all")
    assert whole.count == len({whole.where(number) for number in range(whole.count)}) == 72
    assert whole.class_names == dataset.info.class_names


def test_pictures_of_some_classes_are_those_of_the_dataset(tmp_path):
    some = config(fill(tmp_path / "data", {"train": 20, "test": 4}), classes=(2, 0))
    dataset = load(some)
    for split in ("train", "valid", "test"):
        found = pictures(some, split)
        read = [found.read(number) for number in range(found.count)]
        assert [label for _, label in read] == dataset.labels[slice(*dataset.ranges[split])].tolist()
        assert [tuple(np.asarray(image)[0, 0].tolist()) for image, _ in read] == identities(dataset, split)
    assert found.class_names == dataset.info.class_names == ("cat", "ant")


def test_classes_are_mixed_in_an_order_that_is_fixed(tmp_path):
    root = fill(tmp_path / "data", {"train": 20, "test": 20})
    dataset = folder.load(config(root))
    moved = folder.load(config(shutil.copytree(root, tmp_path / "moved")))
    assert moved.fingerprint == dataset.fingerprint
    for start, end in dataset.ranges.values():
        changes = np.count_nonzero(np.diff(dataset.labels[start:end]))
        assert changes > (end - start) / 3


@pytest.mark.parametrize("name", ["valid", "val", "validation"])
def test_a_validation_folder_is_used(tmp_path, name):
    root = fill(tmp_path / "data", {"train": 6, name: 3, "test": 2})
    dataset = folder.load(config(root, valid_fraction=0.5))
    assert dataset.info.sizes == {"train": 18, "valid": 9, "test": 6}
    assert [{red for red, *_ in identities(dataset, split)} for split in dataset.ranges] == [{0}, {1}, {2}]


def test_without_a_test_folder_the_validation_folder_is_the_test_split(tmp_path):
    dataset = folder.load(config(fill(tmp_path / "data", {"train": 20, "val": 3})))
    assert dataset.info.sizes == {"train": 54, "valid": 6, "test": 9}
    assert {red for red, *_ in identities(dataset, "valid")} == {0}
    assert {red for red, *_ in identities(dataset, "test")} == {1}


def test_class_folders_alone_are_divided(tmp_path):
    dataset = folder.load(config(fill(tmp_path / "data", {".": 20})))
    assert dataset.info.sizes == {"train": 48, "valid": 6, "test": 6}
    assert len(set(map(tuple, dataset.images[:, 0, 0].tolist()))) == 60


def test_a_class_may_be_called_train(tmp_path):
    dataset = folder.load(config(fill(tmp_path / "data", {".": 10}, ("train", "bus", "tram"))))
    assert dataset.info.class_names == ("bus", "train", "tram")
    assert sum(dataset.info.sizes.values()) == 30


def test_deeper_folders_capitals_and_other_files(tmp_path):
    root = fill(tmp_path / "data", {".": 5}, ("a", "b"))
    save(root / "a" / "images" / "deep.PNG", np.zeros((4, 5, 3), np.uint8))
    (root / "a" / "notes.txt").write_text("no image")
    (root / "a" / "._0.png").write_bytes(b"a resource fork")
    (root / ".thumbnails").mkdir()
    assert sum(folder.load(config(root)).info.sizes.values()) == 11


def test_sizes_of_cifar_10():
    assert split_sizes({"train": 50000, "test": 10000}, DataConfig()) == {
        "train": 45000,
        "valid": 5000,
        "test": 10000,
    }


@pytest.mark.parametrize("counts", [{"train": 7}, {"train": 7, "test": 3}, {"train": 5, "valid": 2, "test": 4}])
def test_order_keeps_the_source_splits_apart(counts):
    found, start = order(counts).tolist(), 0
    for split in ("train", "valid", "test"):
        end = start + counts.get(split, 0)
        assert sorted(found[start:end]) == list(range(start, end))
        start = end
    assert len(found) == start


# Errors


@pytest.mark.parametrize("function", [folder.describe, folder.load])
def test_mistakes_are_named_before_anything_is_decoded(tmp_path, function):
    def message(root: Path, **fields) -> str:
        with pytest.raises(UsageError) as caught:
            function(config(root, **fields))
        return str(caught.value)

    missing = message(tmp_path / "nowhere")
    assert "There is no folder" in missing
    assert "nowhere/train/CLASS/*.png" in missing

    root = fill(tmp_path / "packed" / "data", {"train": 1, "test": 1})
    assert "one class only, 'data'" in message(root.parent)
    assert "no class folders" in message(root / "train" / "ant")

    shutil.move(root / "test" / "bee", root / "test" / "wasp")
    assert "'bee' only in train; 'wasp' only in test" in message(root)

    shutil.move(root / "test" / "wasp", root / "test" / "bee")
    (root / "train" / "ant" / "0.png").unlink()
    assert f"{root}/train/ant has no images" in message(root)

    few = fill(tmp_path / "few", {"train": 2, "test": 1})
    assert "--data.valid_fraction=0.05" in message(few, valid_fraction=0.05)
    assert "--data.valid_fraction=0.95" in message(few, valid_fraction=0.95)


def test_unreadable_images_are_named_and_counted(tmp_path, cache_directory):
    root = fill(tmp_path / "data", {"train": 10, "test": 1})
    for number in range(3, 10):
        (root / "train" / "bee" / f"{number}.png").write_bytes(b"not a picture")
    with pytest.raises(UsageError, match=r"^7 images cannot be read") as caught:
        folder.load(config(root))
    named = [number for number in range(10) if f"bee/{number}.png" in str(caught.value)]
    assert named == [3, 4, 5, 6, 7]
    assert list((cache_directory / "data").iterdir()) == []


def test_a_truncated_image_is_unreadable(tmp_path):
    root = fill(tmp_path / "data", {"train": 10, "test": 1})
    save(root / "train" / "bee" / "x.jpg", np.zeros((4, 5, 3), np.uint8))
    whole = (root / "train" / "bee" / "x.jpg").read_bytes()
    (root / "train" / "bee" / "x.jpg").write_bytes(whole[:-60])
    with pytest.raises(UsageError, match=r"^1 images cannot be read: .*bee/x\.jpg"):
        folder.load(config(root))


BAD = {
    "empty.png": (lambda good: b"", "it is empty, cut short or no image"),
    "text.png": (lambda good: b"<html>not found</html>", "no image of a known format"),
    "cut.png": (lambda good: good[:-20], "truncated"),
    "numbers.png": (lambda good: written(Image.fromarray(np.full((4, 5), np.nan, np.float32)), "tiff"), "floating"),
    "postscript.png": (lambda good: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 5\n%%EndComments\n", "no image"),
    "huge.png": (lambda good: png_of(9500, 9500), "pixels"),
    "vast.png": (lambda good: png_of(60000, 60000), "pixels"),
}


def written(image: Image.Image, kind: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def png_of(width: int, height: int) -> bytes:
    """A picture that says that it is large; its pixels are not there."""
    content = bytearray(written(Image.new("RGB", (8, 8)), "png"))
    content[16:24] = struct.pack(">LL", width, height)
    content[29:33] = struct.pack(">L", zlib.crc32(content[12:29]))
    return bytes(content)


@pytest.fixture
def with_bad_images(tmp_path):
    """A folder of 30 training and 3 test images, and one image of each bad kind."""
    root = fill(tmp_path / "data", {"train": 10, "test": 1})
    good = (root / "train" / "bee" / "0.png").read_bytes()
    for name, (make, _) in BAD.items():
        (root / "train" / "bee" / name).write_bytes(make(good))
    (root / "train" / "ant" / "00.png").symlink_to("nowhere.png")  # the one that describe opens
    os.mkfifo(root / "test" / "cat" / "pipe.png")  # would be waited for
    return root


def test_bad_images_are_named_with_the_reason_or_skipped_counted_and_listed(with_bad_images, tmp_path):
    for name, (_, reason) in BAD.items():
        alone = fill(tmp_path / f"with {name}", {"train": 10, "test": 1})
        shutil.copy(with_bad_images / "train" / "bee" / name, alone / "train" / "bee" / name)
        with pytest.raises(UsageError, match=rf"^1 images cannot be read: .*bee/{name} \(.*{reason}.*bad_image=skip"):
            folder.load(config(alone))
    skipping = config(with_bad_images, on_bad_image="skip")
    dataset = folder.load(skipping)
    assert folder.describe(skipping) == dataset.info
    assert dataset.info.sizes == {"train": 27, "valid": 3, "test": 3}
    reasons = {Path(name).name: why for name, why in dataset.skipped}
    assert reasons.keys() == {*BAD, "00.png", "pipe.png"}
    assert all(reason in reasons[name] for name, (_, reason) in BAD.items())
    assert "no file" in reasons["pipe.png"]
    found = pictures(skipping, "valid")
    own = [tuple(np.asarray(found.read(number)[0])[0, 0].tolist()) for number in range(found.count)]
    assert own == identities(dataset, "valid")


def test_skipping_gives_the_dataset_without_the_bad_images_and_decodes_once(with_bad_images, tmp_path, monkeypatch):
    good = fill(tmp_path / "good", {"train": 10, "test": 1})
    dataset = folder.load(config(with_bad_images, on_bad_image="skip"))
    assert dataset.fingerprint == folder.load(config(good)).fingerprint
    assert folder.load(config(good, on_bad_image="skip")).skipped == ()
    monkeypatch.setattr(decode, "pixels", None)
    again = load(config(with_bad_images, on_bad_image="skip"))
    assert (again.fingerprint, again.skipped) == (dataset.fingerprint, dataset.skipped)


@pytest.mark.parametrize("split", ["train", "valid", "test"])
def test_skipping_may_not_empty_a_class(tmp_path, cache_directory, split):
    root = fill(tmp_path / "data", {"train": 10, "valid": 2, "test": 2})
    for image in sorted((root / split / "bee").iterdir())[1:]:
        image.write_bytes(b"no picture")
    assert min(np.bincount(folder.load(config(root, on_bad_image="skip")).labels)) > 0
    image.with_name("0.png").unlink()
    image.with_name("0.png").symlink_to("nowhere.png")
    for function in (folder.describe, folder.load):
        with pytest.raises(UsageError, match=rf"No image of class 'bee' in the {split} split .*0\.png \(it is no file"):
            function(config(root, on_bad_image="skip"))


def test_a_long_narrow_image_takes_no_memory(tmp_path):
    with pytest.raises(ValueError, match="too long and narrow"):
        decoded(tmp_path, Image.new("L", (60000, 1)), 1, 224)


@pytest.mark.parametrize("number", [0, 5])  # the one that describe opens, and another
def test_images_of_two_sizes_need_image_size(tmp_path, number):
    root = fill(tmp_path / "data", {"train": 10, "test": 1})
    save(root / "train" / "cat" / f"{number}.png", np.zeros((6, 7, 3), np.uint8))
    with pytest.raises(UsageError, match=rf"cat/{number}\.png is 6x7.* 4x5.*|4x5.*cat/{number}\.png 6x7") as caught:
        folder.load(config(root))
    assert "--data.image_size" in str(caught.value)
    assert folder.load(config(root, image_size=4)).info.image_shape == (4, 4, 3)


def test_colour_is_given_up_only_when_asked(tmp_path):
    root = tmp_path / "data"
    for name in ("a", "b"):
        for number in range(10):
            save(root / name / f"{number}.png", np.full((4, 4), number, np.uint8))
    assert folder.load(config(root)).info.image_shape == (4, 4, 1)
    assert folder.load(config(root, channels=3)).info.image_shape == (4, 4, 3)
    save(root / "b" / "5.png", np.full((4, 4, 3), (255, 0, 0), np.uint8))
    assert 76 in folder.load(config(root, channels=1)).images  # 0.299 of 255
    with pytest.raises(UsageError, match=r"b/5\.png has colour"):
        folder.load(config(root))


def test_one_colour_sample_makes_all_colour(tmp_path):
    root = fill(tmp_path / "data", {".": 10}, ("a", "b"))
    save(root / "a" / "0.png", np.full((4, 5), 200, np.uint8))
    dataset = folder.load(config(root))
    assert dataset.info.image_shape == (4, 5, 3)
    assert (dataset.images == 200).all(axis=(1, 2, 3)).sum() == 1


# Decoding


def decoded(tmp_path: Path, image: Image.Image, channels: int, size: int | None = None, **options) -> np.ndarray:
    path = tmp_path / f"image.{options.pop('extension', 'png')}"
    image.save(path, **options)
    with decode.opened(path.read_bytes()) as opened:
        return decode.pixels(opened, channels, size)


def test_modes_become_eight_bits_of_grey_or_colour(tmp_path):
    red, half = (255, 0, 0), 128
    palette = Image.new("P", (2, 2), 1)
    palette.putpalette([0, 0, 0, *red])
    deep = Image.fromarray(np.full((2, 2), 128 * 257, np.uint16))
    cases = [
        (Image.new("RGB", (2, 2), red), {}, red),
        (palette, {}, red),
        (palette, {"transparency": 1}, (255, 255, 255)),
        (Image.new("RGBA", (2, 2), (*red, 255)), {}, red),
        (Image.new("RGBA", (2, 2), (*red, 0)), {}, (255, 255, 255)),
        (Image.new("L", (2, 2), half), {}, (half, half, half)),
        (Image.new("LA", (2, 2), (half, 255)), {}, (half, half, half)),
        (Image.new("1", (2, 2), 1), {}, (255, 255, 255)),
        (deep, {}, (half, half, half)),
        (Image.fromarray(np.full((2, 2), 65535, np.uint16)), {}, (255, 255, 255)),
        (Image.new("CMYK", (2, 2), (0, 255, 255, 0)), {"extension": "jpg", "quality": 100}, red),
    ]
    for image, options, expected in cases:
        pixels = decoded(tmp_path, image, 3, **options)
        assert pixels.shape == (2, 2, 3)
        assert pixels.dtype == np.uint8
        np.testing.assert_allclose(pixels, np.broadcast_to(expected, (2, 2, 3)), atol=2, err_msg=image.mode)
        grey = decoded(tmp_path, image, 1, **options)
        np.testing.assert_allclose(grey[..., 0], np.dot(expected, [0.299, 0.587, 0.114]), atol=2)


@pytest.mark.parametrize(
    ("mode", "grey"), [("1", True), ("L", True), ("LA", True), ("I;16", True), ("P", False), ("RGB", False)]
)
def test_grey_is_what_stores_no_colour(mode, grey):
    assert decode.is_grey(Image.new(mode, (2, 2))) == grey


def test_exif_rotation_is_applied(tmp_path):
    image = Image.fromarray(np.arange(6, dtype=np.uint8).reshape(2, 3) * 40)
    exif = Image.Exif()
    exif[decode.EXIF_ORIENTATION] = 6  # to be shown turned clockwise by a quarter
    path = tmp_path / "turned.png"
    image.save(path, exif=exif)
    with decode.opened(path.read_bytes()) as opened:
        assert decode.upright_size(opened) == (3, 2)
        np.testing.assert_array_equal(decode.pixels(opened, 1)[..., 0], np.rot90(np.asarray(image), -1))


def test_the_first_frame_of_an_animation(tmp_path):
    frames = [Image.new("L", (2, 2), value) for value in (10, 200)]
    pixels = decoded(tmp_path, frames[0], 1, extension="gif", save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(pixels, 10)


def test_resizing_does_not_alias(tmp_path):
    checkers = Image.fromarray((np.indices((64, 64)).sum(axis=0) % 2 * 255).astype(np.uint8))
    np.testing.assert_allclose(decoded(tmp_path, checkers, 1, 8), 127.5, atol=4)


def test_the_shorter_side_is_resized_and_the_centre_kept(tmp_path):
    thirds = np.repeat(np.array([10, 100, 200], np.uint8), 12)[None].repeat(12, axis=0)  # 12 high, 36 wide
    pixels = decoded(tmp_path, Image.fromarray(thirds), 1, 6)
    assert pixels.shape == (6, 6, 1)
    np.testing.assert_array_equal(pixels[:, 1:-1], 100)
    upright = decoded(tmp_path, Image.fromarray(thirds.T), 1, 6)
    np.testing.assert_array_equal(upright, pixels.transpose(1, 0, 2))


# The cache


def entry_of(directory: Path) -> Path:
    (entry,) = (directory / "data").iterdir()
    return entry


def test_the_second_load_is_mapped_and_decodes_nothing(tmp_path, monkeypatch):
    root = fill(tmp_path / "data", {"train": 10, "test": 2})
    first = folder.load(config(root))
    monkeypatch.setattr(decode, "pixels", None)
    second = folder.load(config(root))
    assert isinstance(second.images, np.memmap)
    assert second.fingerprint == first.fingerprint
    np.testing.assert_array_equal(second.images, first.images)
    np.testing.assert_array_equal(second.labels, first.labels)


def flip_a_bit(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 4
    path.write_bytes(data)


@pytest.mark.parametrize(
    "damage",
    [
        lambda entry: flip_a_bit(entry / "images.npy", -1),
        lambda entry: flip_a_bit(entry / "images.npy", 0),
        lambda entry: flip_a_bit(entry / "images.npy", 20),
        lambda entry: flip_a_bit(entry / "labels.npy", -4),
        lambda entry: (entry / "images.npy").write_bytes((entry / "images.npy").read_bytes()[:-7]),
        lambda entry: (entry / "images.npy").write_bytes(b""),
        lambda entry: np.save(entry / "images.npy", np.zeros((36, 4, 5, 1), np.uint8)),
        lambda entry: np.save(entry / "labels.npy", np.zeros(36, np.float64)),
        lambda entry: (entry / "labels.npy").unlink(),
        lambda entry: (entry / "fingerprint.json").write_text('"0'),
        lambda entry: (entry / "fingerprint.json").write_text(json.dumps("0" * 64)),
    ],
)
def test_a_damaged_entry_is_made_again(tmp_path, cache_directory, caplog, damage):
    root = fill(tmp_path / "data", {"train": 10, "test": 2})
    fingerprint = folder.load(config(root)).fingerprint
    damage(entry_of(cache_directory))
    assert folder.load(config(root)).fingerprint == fingerprint
    assert "damaged" in caplog.text
    caplog.clear()
    assert folder.load(config(root)).fingerprint == fingerprint
    assert not caplog.records
    assert entry_of(cache_directory)


def test_whatever_changes_the_arrays_changes_the_entry(tmp_path, cache_directory):
    root = fill(tmp_path / "data", {"train": 10, "test": 2})
    configs = [config(root, **fields) for fields in ({}, {"image_size": 3}, {"channels": 1}, {"valid_fraction": 0.2})]
    assert len({folder.load(each).fingerprint for each in configs}) == 4
    assert len(list((cache_directory / "data").iterdir())) == 4
    save(root / "train" / "ant" / "new.png", np.zeros((4, 5, 3), np.uint8))
    assert sum(folder.load(config(root)).info.sizes.values()) == 37
    before = folder.load(config(root)).fingerprint
    save(root / "train" / "ant" / "new.png", np.full((4, 5, 3), 255, np.uint8))
    assert folder.load(config(root)).fingerprint != before


def test_progress_ends_at_the_total(tmp_path):
    root = fill(tmp_path / "data", {"train": 50, "test": 2})
    calls: list[tuple[int, int]] = []
    folder.load(config(root), lambda done, total: calls.append((done, total)))
    assert calls[-1] == (156, 156)
    assert calls == sorted(calls)
    assert len(calls) > 1
    calls.clear()
    folder.load(config(root), lambda done, total: calls.append((done, total)))
    assert not calls


def test_a_cache_without_room_or_permission(tmp_path, cache_directory, monkeypatch):
    root = fill(tmp_path / "data", {"train": 10, "test": 2})
    usage = type(shutil.disk_usage(tmp_path))(total=10, used=10, free=0)
    with monkeypatch.context() as full:
        full.setattr(shutil, "disk_usage", lambda path: usage)
        with pytest.raises(UsageError, match=r"need .* GB in .*CNNJAX_CACHE"):
            folder.load(config(root))
    assert list((cache_directory / "data").iterdir()) == []
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CNNJAX_CACHE", str(tmp_path / "file"))
    with pytest.raises(UsageError, match=r"cannot be kept in .*CNNJAX_CACHE"):
        folder.load(config(root))


def test_two_writers_do_no_harm(tmp_path):
    shape = (2, 1, 1, 1)

    def slow_writer(images, labels):
        cache.write("key", shape, lambda images, labels: "first")
        return "second"

    cache.write("key", shape, slow_writer)
    assert cache.read("key", shape)[2] == "second"
    assert [path.name for path in (cache.root() / "data").iterdir()] == ["key"]


def test_where_the_cache_is(monkeypatch):
    monkeypatch.setenv("CNNJAX_CACHE", "/a")
    assert cache.root() == Path("/a")
    monkeypatch.delenv("CNNJAX_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/b")
    assert cache.root() == Path("/b/cnnjax")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/c")
    assert cache.root() == Path("/c/.cache/cnnjax")
