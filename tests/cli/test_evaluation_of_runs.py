"""Weights that a sweep kept, evaluated from the shell: the numbers are those of the run's row, to the digit."""

import json

import numpy as np
import pytest
from PIL import Image

from cnnjax import weights
from cnnjax.cli.command import main
from cnnjax.data import DataConfig
from cnnjax.sweep import Execution, run, weights_of
from cnnjax.train import Hyper, Spec
from cnnjax.train.program import Driver
from tests.fixtures.command import refused

__all__ = ["refused"]


def folder(root, splits, sizes, mode="RGB", seed=0):
    """Random pictures of three classes, which differ a little in brightness, for each split."""
    rng = np.random.default_rng(seed)
    for split, count in splits.items():
        for label, name in enumerate(("ant", "bee", "cat")):
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                height, width = sizes[number % len(sizes)]
                pixels = rng.integers(40 * label, 176 + 40 * label, (height, width, 3), np.uint8)
                Image.fromarray(pixels).convert(mode).save(root / split / name / f"{number}.png")
    return root


def trained(directory, **fields):
    """One run, and the file of its weights."""
    spec = Spec(
        model="mlp", model_fields=(("hidden", (4,)),), data=DataConfig(**fields), steps=3, batch_size=8,
        keep_weights=True,
    )  # fmt: skip
    (row,) = run(spec, ({},), [0], Hyper(learning_rate=0.05), directory=directory,
                 execution=Execution(driver=Driver("scan", 1)))  # fmt: skip
    return row, weights_of(row, directory)


@pytest.fixture
def evaluated(capsys, unchecked):
    """``evaluated(*argv)``: the numbers, and what was said beside them."""

    def call(*argv):
        assert main(["evaluate", "--json", *map(str, argv)]) == 0
        out, err = capsys.readouterr()
        return json.loads(out), err

    return call


@pytest.fixture(autouse=True)
def cache_directory(tmp_path, monkeypatch):
    monkeypatch.setenv("CNNJAX_CACHE", str(tmp_path / "cache"))


SMALL_AND_LARGE = [(9, 12), (13, 7), (40, 23), (3, 5), (8, 8)]  # around a size of 8
CASES = {
    "of many shapes, shuffled": (SMALL_AND_LARGE, {"image_size": 8, "permute_pixels": True}),
    "grey, as they are, not square": ([(6, 9)], {"channels": 1}),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.slow
def test_the_numbers_of_a_folder_are_the_row_s(tmp_path, evaluated, name):
    sizes, fields = CASES[name]
    root = folder(tmp_path / "data", {"train": 20, "val": 7, "test": 10}, sizes)
    row, path = trained(tmp_path / "runs", name=f"folder:{root}", **fields)
    for split in ("valid", "test"):
        found, said = evaluated(f"--weights={path}", f"--data=folder:{root}", f"--split={split}")
        assert found["count"] == {"valid": 21, "test": 30}[split]
        assert found["top1_error"] == pytest.approx(row["metrics"][f"{split}_error"], abs=1e-7)
        assert found["cross_entropy"] == pytest.approx(row["metrics"][f"{split}_loss"], rel=1e-5)
        assert said == ""


@pytest.mark.slow
def test_the_numbers_of_a_part_of_a_folder_are_the_row_s(tmp_path, evaluated, refused):
    root = folder(tmp_path / "data", {".": 20}, SMALL_AND_LARGE)
    fields = {"image_size": 6, "valid_fraction": 0.3, "classes": (2, 0)}
    row, path = trained(tmp_path / "runs", name=f"folder:{root}", **fields)
    argv = [f"--weights={path}", f"--data=folder:{root}"]
    assert "--data.classes" in refused("evaluate", *argv)
    for split in ("valid", "test"):
        found, said = evaluated(*argv, f"--split={split}", "--data.classes=2,0", "--data.valid_fraction=0.3")
        assert found["top1_error"] == pytest.approx(row["metrics"][f"{split}_error"], abs=1e-7)
        assert found["cross_entropy"] == pytest.approx(row["metrics"][f"{split}_loss"], rel=1e-5)
        assert f"has no {split} split: these are the images that training keeps for it" in said


@pytest.mark.slow
def test_the_numbers_of_shapes_are_the_row_s(tmp_path, evaluated):
    row, path = trained(tmp_path / "runs", name="shapes", image_size=12, channels=1, examples=80, difficulty=0.25)
    found, said = evaluated(f"--weights={path}", "--data=shapes", "--data.examples=80", "--data.difficulty=0.25")
    assert found["count"] == 20
    assert found["top1_error"] == pytest.approx(row["metrics"]["test_error"], abs=1e-7)
    assert found["cross_entropy"] == pytest.approx(row["metrics"]["test_loss"], rel=1e-5)
    assert said == ""


@pytest.mark.slow
def test_a_validation_folder_that_serves_as_the_test_split_is_not_read_as_training_pictures(
    tmp_path, evaluated, refused
):
    root = folder(tmp_path / "data", {"train": 20, "val": 7}, SMALL_AND_LARGE)
    row, path = trained(tmp_path / "runs", name=f"folder:{root}", image_size=6)
    argv = [f"--weights={path}", f"--data=folder:{root}"]
    assert "Give --split=test for its validation split" in refused("evaluate", *argv, "--split=valid")
    found, said = evaluated(*argv, "--split=test")
    assert (found["count"], said) == (21, "")
    assert found["top1_error"] == pytest.approx(row["metrics"]["test_error"], abs=1e-7)
    alone, _ = evaluated(f"--weights={path}", f"--data=folder:{root}/val", "--split=all")
    assert alone["cross_entropy"] == pytest.approx(found["cross_entropy"], rel=1e-6)


@pytest.mark.slow
def test_every_kept_file_says_how_its_images_were_prepared(tmp_path):
    root = folder(tmp_path / "data", {".": 20}, [(6, 9)])
    _, path = trained(tmp_path / "runs", name=f"folder:{root}", permute_pixels=True)
    steps = weights.restore(path).preprocessing
    assert (steps.image_shape, steps.resize, steps.permute_pixels) == ((6, 9, 3), 6, True)
