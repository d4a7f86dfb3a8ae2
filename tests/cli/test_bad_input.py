"""Whatever cannot work ends in exit code 2, one clear message and an untouched disk."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.faults.cases import CASES
from cnnjax import cli
from cnnjax.sweep import bundle as bundles
from experiments import degradation

ROOT = Path(__file__).parents[2]


@pytest.fixture
def refused(unchecked, tmp_path, capsys, monkeypatch):
    """``refused(*argv)``: the message with which the smoke preset refuses these arguments."""
    monkeypatch.setattr(bundles, "dataset_of", lambda config: pytest.fail("data were loaded"))

    def call(*argv):
        before = sorted(tmp_path.rglob("*"))
        code = cli.main(degradation, ["--preset=smoke", f"--workdir={tmp_path / 'runs'}", *argv])
        out, err = capsys.readouterr()
        assert code == 2
        assert out == ""
        assert err.startswith("degradation: ")
        assert "Traceback" not in err
        assert sorted(tmp_path.rglob("*")) == before
        return err

    return call


@pytest.mark.parametrize(
    ("argv", "parts"),
    CASES,
    ids=lambda value: " ".join(value) if value[0].startswith(("--", "quick")) else "",
)
@pytest.mark.slow
def test_bad_arguments_are_refused(refused, argv, parts):
    message = refused(*argv)
    for part in parts:
        assert part in message
    assert len(message.strip().splitlines()) <= 2


@pytest.mark.slow
def test_a_place_that_cannot_hold_results_is_refused(refused, tmp_path):
    (tmp_path / "file").write_text("")
    assert "file is not a directory. Use another --workdir" in refused(f"--workdir={tmp_path / 'file'}")
    (tmp_path / "degradation").mkdir()
    (tmp_path / "degradation" / "thesis.tex").write_text("years of work")
    assert "is not empty and holds no manifest" in refused(f"--workdir={tmp_path}")


@pytest.mark.slow
def test_a_place_without_permission_is_refused(refused, tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(os, "link", refuse)
    assert f"Nothing can be written to {tmp_path} (Permission denied). " in refused()
    monkeypatch.undo()
    assert "is too long" in refused(f"--workdir={'/'.join(['x' * 200] * 30)}")
    assert "is too long" in refused(f"--workdir={tmp_path / ('x' * 300)}")


def folder(tmp_path, **pictures):
    """A folder of ``class/number.png``."""
    for name, shapes in pictures.items():
        (tmp_path / "data" / name).mkdir(parents=True)
        for number, shape in enumerate(shapes):
            Image.fromarray(np.zeros(shape, np.uint8)).save(tmp_path / "data" / name / f"{number}.png")
    return f"--data=folder:{tmp_path / 'data'}"


@pytest.mark.parametrize(
    ("pictures", "flags", "parts"),
    [
        ({"cats": [(16, 16, 3)] * 20}, [], ["one class only, 'cats'"]),
        ({"cats": [(16, 16, 3)] * 20, "dogs": []}, [], ["dogs has no images", ".png"]),
        ({"cats": [(16, 16, 3)], "dogs": [(16, 16, 3)]}, [], ["2 training images", "Add images"]),
        ({"cats": [(16, 16, 3)] * 9, "dogs": [(16, 18, 3)] * 9}, [], ["16x16", "16x18", "--data.image_size"]),
        ({"cats": [(3, 3, 3)] * 9, "dogs": [(3, 3, 3)] * 9}, [], ["plain8_cifar", "not 3x3", "--data.image_size=4"]),
        (
            {"cats": [(8, 8, 3)] * 9, "dogs": [(8, 8, 3)] * 9},
            ["--model.num_classes=10"],
            ["2 classes", "num_classes=2"],
        ),
    ],
)
def test_unfit_folders_are_refused(refused, tmp_path, pictures, flags, parts):
    message = refused(folder(tmp_path, **pictures), *flags)
    for part in parts:
        assert part in message


@pytest.mark.slow
def test_the_command_exits_with_2_and_prints_no_traceback(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "experiments.degradation", f"--workdir={tmp_path / 'runs'}", "--sweep=weight_deacy=0,1"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("degradation: Unknown swept name 'weight_deacy'. Did you mean 'weight_decay'?")
    assert list(tmp_path.iterdir()) == []
