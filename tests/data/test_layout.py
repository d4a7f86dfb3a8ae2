"""Trees of folders: what is a split, what a class, what an image, and what is refused because it may be several."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cnnjax.data import describe, layout, load
from cnnjax.data.dataset import DataConfig
from cnnjax.image import EXTENSIONS, FORMATS
from cnnjax.typing import UsageError


@pytest.fixture(autouse=True)
def cache_directory(tmp_path, monkeypatch):
    monkeypatch.setenv("CNNJAX_CACHE", str(tmp_path / "cache"))


def tree(root: Path, *folders: str, images: int = 8) -> Path:
    """Folders with images in them; each image has its own colour."""
    for folder in folders:
        (root / folder).mkdir(parents=True, exist_ok=True)
        for number in range(images):
            colour = [len(folder), number, len(list(root.rglob("*"))) % 256]
            Image.fromarray(np.full((2, 2, 3), colour, np.uint8)).save(root / folder / f"{number}.png")
    return root


def config(root: Path) -> DataConfig:
    return DataConfig(f"folder:{root}")


def refused(root: Path) -> str:
    with pytest.raises(UsageError) as caught:
        describe(config(root))
    return str(caught.value)


@pytest.mark.parametrize(
    ("train", "valid", "test"),
    [("Training", "dev", "Testing"), ("TRAIN", "Val", "Test"), ("train", "validation", "eval"), ("train", "", "TEST")],
)
def test_splits_have_their_usual_names_in_any_case(tmp_path, train, valid, test):
    splits = [name for name in (train, valid, test) if name]
    root = tree(tmp_path / "data", *(f"{name}/{label}" for name in splits for label in ("cat", "dog")))
    found = describe(config(root))
    assert found.class_names == ("cat", "dog")
    assert found.sizes["test"] == 16
    assert found.sizes["train"] + (0 if valid else found.sizes["valid"]) == 16


AMBIGUOUS = {
    "flat": (("train", "test"), "no class folders in 'test' and 'train'", "a folder, {root}/test/CLASS/*.png"),
    "unlabelled": (("train/cat", "train/dog", "test"), "no class folders in 'test'", "without labels, move them out"),
    "twice": (("train/cat", "train/dog", "val/cat", "val/dog", "validation/cat", "validation/dog"),
              "'val' and 'validation' are the same split", "Keep one"),
    "two cases": (("train/cat", "train/dog", "Train/cat", "Train/dog"), "'Train' and 'train' are", "Keep one"),
    "a class with folders": (("train/day", "train/night", "bus", "tram"), "may be splits, and 'bus' and 'tram' not",
                             "If 'train' is a class, move all classes into {root}/train"),
    "two classes": (("train", "test", "bus"), "'test' and 'train' may be splits, and 'bus' not", "move 'bus' out"),
    "unlabelled beside classes": (("cat", "dog", "test"), "'test' may be splits", "move 'cat' and 'dog' out"),
    "more": (("train/cat", "train/dog", "test/cat", "test/dog", "extra/cat"), "and 'extra' not", "move 'extra' out"),
    "no train": (("val/cat", "val/dog", "test/cat", "test/dog"), "there is no train", "--data=folder:{root}/test --s"),
    "in one another": (("train/train/cat", "train/train/dog", "train/test/cat"), "a split lies in a split",
                       "--data=folder:{root}/train"),
    "classes first": (("cat/train", "cat/test", "dog/train", "dog/test"), "splits lie within a class",
                      "{root}/train/cat/*.png"),
    "years": (("train2017/cat", "train2017/dog", "val2017/cat", "val2017/dog"), "these sound like splits", "'train'"),
    "sets": (("training_set/cat", "training_set/dog", "test_set/cat"), "these sound like splits", "'train'"),
    "capitals": (("trainA/cat", "trainB/cat", "testA/cat", "testB/cat"), "these sound like splits", "'train'"),
    "one word": (("trainimages/cat", "testimages/cat"), "these sound like splits", "'train'"),
    "other words": (("seg_train/cat", "seg_test/cat"), "these sound like splits", "Call them 'train', 'valid' and"),
}  # fmt: skip


@pytest.mark.parametrize("name", AMBIGUOUS)
def test_what_can_be_read_in_two_ways_is_refused_with_what_was_seen(tmp_path, name):
    folders, reason, remedy = AMBIGUOUS[name]
    root = tree(tmp_path / "data", *folders, images=1)
    message = refused(root)
    assert reason in message
    assert remedy.format(root=root) in message
    assert {repr(part) for folder in folders for part in folder.split("/")} & set(message.split())


def test_remedies_of_a_split_s_name_as_a_class_work(tmp_path):
    root = tree(tmp_path / "data", "train/day", "train/night", "bus/x", "tram/x")
    assert "move all classes into" in refused(root)
    (root / "train").rename(root / "inner")
    (root / "train").mkdir()
    for name, moved in (("inner", "train"), ("bus", "bus"), ("tram", "tram")):
        (root / name).rename(root / "train" / moved)
    assert describe(config(root)).class_names == ("bus", "train", "tram")


def test_a_folder_in_between_is_pointed_out(tmp_path):
    root = tree(tmp_path / "data", "inner/cat", "inner/dog", images=1)
    assert f"Did you mean --data=folder:{root}/inner?" in refused(root)


def test_folders_without_images_beside_the_splits_are_passed_over(tmp_path):
    root = tree(tmp_path / "data", "train/cat", "train/dog", "test/cat", "test/dog")
    (root / "annotations" / "deep").mkdir(parents=True)
    (root / "annotations" / "deep" / "train.json").write_text("{}")
    assert describe(config(root)).sizes["test"] == 16


HIDDEN = (".ipynb_checkpoints", "@eaDir", "__MACOSX", ".AppleDouble", "#recycle", "$RECYCLE.BIN")


def test_what_systems_and_tools_leave_behind_is_no_data(tmp_path):
    root = tree(tmp_path / "data", "train/cat", "train/dog", "test/cat", "test/dog")
    before = load(config(root))
    for place in (root, root / "train", root / "test" / "cat", root / "train" / "cat" / "deep"):
        tree(place, *HIDDEN, *(f"{name}/cat" for name in HIDDEN), images=1)
        for name in ("._0.png", ".0.jpg", "Thumbs.db", ".DS_Store"):
            (place / name).write_bytes(b"no picture")
    assert load(config(root)).fingerprint == before.fingerprint


def test_every_extension_of_a_format_that_is_read_counts(tmp_path):
    Image.init()
    known = {extension for extension, name in Image.registered_extensions().items() if name in FORMATS}
    assert known == set(EXTENSIONS)
    root = tmp_path / "data"
    for name in ("cat", "dog"):
        (root / name).mkdir(parents=True)
        for number, extension in enumerate(sorted(known - {".pfm", ".apng"})):
            grey = Image.new("1" if extension == ".pbm" else "L", (2, 2), number)
            grey.save(root / name / f"{number}{extension.upper()}")
    found = load(DataConfig(f"folder:{root}", channels=1, valid_fraction=0.2))
    assert len(found.labels) == 2 * len(known - {".pfm", ".apng"})


# Links


def test_links_to_folders_and_images_are_followed(tmp_path):
    pool = tree(tmp_path / "pool", "a", "b", "c")
    root = tmp_path / "data"
    (root / "dog").mkdir(parents=True)
    (root / "cat").symlink_to(pool / "a")
    (root / "dog" / "deeper").symlink_to(pool / "b")
    for image in (pool / "c").iterdir():
        (root / "dog" / f"linked-{image.name}").symlink_to(image)
    found = load(config(root))
    assert len(found.labels) == 24
    assert np.bincount(found.labels).tolist() == [8, 16]
    whole = tmp_path / "link"
    whole.symlink_to(root)
    assert load(config(whole)).fingerprint == found.fingerprint


def test_loops_end_and_a_folder_is_read_once(tmp_path):
    root = tree(tmp_path / "data", "cat", "cat/more", "dog")
    before = load(config(root))
    (root / "cat" / "loop").symlink_to(root / "cat")
    (root / "cat" / "more" / "up").symlink_to("..")
    (root / "cat" / "again").symlink_to("more")
    (root / "dog" / "itself").symlink_to("itself")
    (root / "dog" / "nowhere").symlink_to("missing")
    after = load(config(root))
    assert len(after.labels) == len(before.labels) == 24
    assert [Path(path).name for path in layout.images(root / "dog", root / "dog")] == [f"{n}.png" for n in range(8)]


@pytest.mark.parametrize(
    ("link", "to"),
    [("test/cat", "train/cat"), ("train/cat/copy", "train/dog"), ("test", "train"), ("train/cat/all", "."),
     ("train/cat/all", "train")],
)  # fmt: skip
def test_one_folder_under_two_names_is_refused(tmp_path, link, to):
    root = tree(tmp_path / "data", "train/cat", "train/dog")
    if link.startswith("test/"):
        tree(root, "test/dog")
    (root / link).symlink_to(root / to)
    message = refused(root)
    assert "are one folder" in message
    assert "Remove the link" in message


def test_a_folder_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    root = tree(tmp_path / "data", "cat", "dog", "dog/locked")
    scandir = os.scandir

    def refusing(path):
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    assert "dog/locked cannot be read: Permission denied. Make it readable" in refused(root)
