"""A sweep on a small disk that is full when its rows are to be written; it needs the right to mount one."""

import shutil
import subprocess

import pytest

from benchmarks.faults import disk
from benchmarks.faults.finding import Place
from cnnjax.sweep import Execution, product, run
from cnnjax.train import Spec
from cnnjax.train.program import Driver
from cnnjax.typing import UsageError


@pytest.fixture
def small_disk(tmp_path):
    path = tmp_path / "disk"
    try:
        with disk._small_disk(path, kibibytes=256):
            yield path
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no file system can be mounted here: {error}")


@pytest.mark.slow
def test_a_full_disk_stops_the_sweep_and_room_lets_it_go_on(small_disk):
    spec = Spec(model="mlp", model_fields=(("hidden", (8,)),), steps=12, batch_size=16, evaluate_every=6)

    def sweep(directory):
        return run(
            spec, product(l2=[0.0, 0.01]), [0, 1], directory=directory, execution=Execution(driver=Driver("scan", 2))
        )

    expected = {row["run_id"]: row["parameters_digest"] for row in sweep(None)}
    ballast = disk._fill(small_disk)
    with pytest.raises(UsageError, match=r"written to .* \(No space left on device\)"):
        sweep(small_disk / "storm")
    ballast.unlink()

    sweep(small_disk / "storm")
    shutil.rmtree(small_disk / "storm" / "rows")  # to be written again
    with disk._small_disk(small_disk / "storm" / "rows", kibibytes=8):
        ballast = disk._fill(small_disk / "storm" / "rows")
        with pytest.raises((RuntimeError, UsageError), match="No space left on device"):
            sweep(small_disk / "storm")
        ballast.unlink()
    found = {row["run_id"]: row["parameters_digest"] for row in sweep(small_disk / "storm")}
    assert found == expected


def test_where_nothing_can_be_mounted_it_is_said(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise subprocess.CalledProcessError(32, "mount")

    monkeypatch.setattr(disk.subprocess, "run", refuse)
    found = disk.full_disk(Place(tmp_path, tmp_path, quick=True))
    assert found.passed is None
    assert "mount" in found.problems[0]
