"""A sweep over a folder with images that cannot be read, and one whose images change between two starts."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cnnjax.data import DataConfig, describe, load
from cnnjax.sweep import Execution, run
from cnnjax.train import Spec
from cnnjax.train.program import Driver
from cnnjax.typing import UsageError


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("CNNJAX_CACHE", str(tmp_path / "cache"))
    for label, name in enumerate(("cats", "dogs")):
        (tmp_path / "data" / name).mkdir(parents=True)
        for number in range(20):
            image = np.full((8, 8, 3), (label * 99, number, 0), np.uint8)
            Image.fromarray(image).save(tmp_path / "data" / name / f"{number:02d}.png")
    return tmp_path / "data"


def sweep(folder, directory, **fields):
    spec = Spec(
        model="mlp",
        model_fields=(("hidden", (4,)),),
        data=DataConfig(f"folder:{folder}", **fields),
        steps=2,
        batch_size=8,
    )
    return run(spec, seeds=[0, 1], directory=directory, execution=Execution(driver=Driver("scan", 1)))


@pytest.mark.slow
def test_skipped_images_are_counted_and_listed_and_change_no_row_of_the_others(folder, tmp_path, caplog):
    expected = sweep(folder, None)
    (folder / "cats" / "empty.png").write_bytes(b"")
    (folder / "dogs" / "text.png").write_text("<html>not found</html>")
    with pytest.raises(UsageError, match=r"2 images cannot be read: .*empty\.png .*text\.png .*on_bad_image=skip"):
        sweep(folder, tmp_path / "runs")
    assert not (tmp_path / "runs").exists()
    rows = sweep(folder, tmp_path / "runs", on_bad_image="skip")
    assert [row["parameters_digest"] for row in rows] == [row["parameters_digest"] for row in expected]
    (listed,) = json.loads((tmp_path / "runs" / "manifest.json").read_text())["skipped"].values()
    assert [(name.rpartition("/")[2], "no image" in reason) for name, reason in listed] == [
        ("empty.png", True),
        ("text.png", True),
    ]
    assert "2 images of folder:" in caplog.text


@pytest.mark.slow
def test_runs_of_data_without_bad_images_have_the_names_that_they_had(folder):
    stopping, skipping = (sweep(folder, None, on_bad_image=choice)[0] for choice in ("stop", "skip"))
    assert "on_bad_image" not in stopping["spec"]["data"]
    assert skipping["spec"]["data"]["on_bad_image"] == "skip"
    assert stopping["run_id"] != skipping["run_id"]
    assert stopping["parameters_digest"] == skipping["parameters_digest"]


@pytest.mark.slow
def test_data_that_change_between_two_starts_are_refused(folder, tmp_path):
    sweep(folder, tmp_path / "runs")
    image, before = folder / "cats" / "07.png", (folder / "cats" / "07.png").read_bytes()
    (next((tmp_path / "runs" / "rows").iterdir())).unlink()  # something is left to do
    image.write_bytes((folder / "cats" / "08.png").read_bytes())
    with pytest.raises(UsageError, match=r"different configuration:(?s:.*)folder:"):
        sweep(folder, tmp_path / "runs")
    image.write_bytes(before)
    assert len(sweep(folder, tmp_path / "runs")) == 2


def exchange(one, other):
    """Two files change places as by ``cp -p`` or ``rsync -a``: sizes and times of change stay with the names."""
    contents, times = [path.read_bytes() for path in (one, other)], [path.stat() for path in (one, other)]
    assert len(contents[0]) == len(contents[1])
    for path, content, status in zip((one, other), reversed(contents), times, strict=True):
        path.write_bytes(content)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.slow
def test_files_exchanged_with_size_and_time_kept_are_noticed(folder, tmp_path):
    one, other = folder / "cats" / "07.png", folder / "dogs" / "08.png"
    times = [path.stat().st_mtime_ns for path in (one, other)]
    before = sweep(folder, tmp_path / "runs")
    exchange(one, other)
    assert [path.stat().st_mtime_ns for path in (one, other)] == times
    (next((tmp_path / "runs" / "rows").iterdir())).unlink()
    with pytest.raises(UsageError, match=r"different configuration:(?s:.*)folder:"):
        sweep(folder, tmp_path / "runs")
    assert sweep(folder, None)[0]["data"] != before[0]["data"]
    exchange(one, other)
    assert [row["data"] for row in sweep(folder, tmp_path / "runs")] == [row["data"] for row in before]


@pytest.mark.parametrize("swap", ["files", "folders"])
def test_files_and_folders_that_are_renamed_are_noticed(folder, swap):
    """Not even the contents of a file are written: its inode tells."""
    pairs = {"files": ("cats/07.png", "dogs/08.png"), "folders": ("cats", "dogs")}
    one, other = (folder / name for name in pairs[swap])
    for path in folder.rglob("*.png"):
        os.utime(path, ns=(0, 0))
    before = load(DataConfig(f"folder:{folder}")).fingerprint
    one.rename(folder.parent / "aside")
    other.rename(one)
    (folder.parent / "aside").rename(other)
    assert load(DataConfig(f"folder:{folder}")).fingerprint != before


def test_a_copy_elsewhere_is_the_same_dataset_and_an_untouched_folder_is_not_read_again(folder, tmp_path, monkeypatch):
    plain, full = DataConfig(f"folder:{folder}"), DataConfig(f"folder:{folder}", image_size=8, channels=3)
    before = load(full).fingerprint
    shutil.copytree(folder, tmp_path / "copy")
    assert load(DataConfig(f"folder:{tmp_path / 'copy'}")).fingerprint == load(plain).fingerprint == before
    monkeypatch.setattr(Path, "read_bytes", None)
    assert load(full).fingerprint == before


def test_classes_of_files_that_change_are_counted_anew(folder):
    config = DataConfig(f"folder:{folder}", classes=(1, 0))
    assert sum(describe(config).sizes.values()) == 40
    (folder / "cats" / "07.png").unlink()
    assert sum(describe(config).sizes.values()) == 39
    assert sum(load(config).info.sizes.values()) == 39
