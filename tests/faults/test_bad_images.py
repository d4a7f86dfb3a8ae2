"""A sweep over a folder with images that cannot be read, and one whose images change between two starts."""

import json

import numpy as np
import pytest
from PIL import Image

from cnnjax.data import DataConfig
from cnnjax.sweep import Execution, bundle, run
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
    bundle.dataset_of.cache_clear()  # as in another process
    spec = Spec(
        model="mlp",
        model_fields=(("hidden", (4,)),),
        data=DataConfig(f"folder:{folder}", **fields),
        steps=2,
        batch_size=8,
    )
    return run(spec, seeds=[0, 1], directory=directory, execution=Execution(driver=Driver("scan", 1)))


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


def test_runs_of_data_without_bad_images_have_the_names_that_they_had(folder):
    stopping, skipping = (sweep(folder, None, on_bad_image=choice)[0] for choice in ("stop", "skip"))
    assert "on_bad_image" not in stopping["spec"]["data"]
    assert skipping["spec"]["data"]["on_bad_image"] == "skip"
    assert stopping["run_id"] != skipping["run_id"]
    assert stopping["parameters_digest"] == skipping["parameters_digest"]


def test_data_that_change_between_two_starts_are_refused(folder, tmp_path):
    sweep(folder, tmp_path / "runs")
    image, before = folder / "cats" / "07.png", (folder / "cats" / "07.png").read_bytes()
    (next((tmp_path / "runs" / "rows").iterdir())).unlink()  # something is left to do
    image.write_bytes((folder / "cats" / "08.png").read_bytes())
    with pytest.raises(UsageError, match=r"different configuration:(?s:.*)folder:"):
        sweep(folder, tmp_path / "runs")
    image.write_bytes(before)
    assert len(sweep(folder, tmp_path / "runs")) == 2
