"""Whatever cannot work ends in exit code 2, one clear message and an untouched disk."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

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
    [
        # Names
        (["--lerning_rate=0.1"], ["--lerning_rate", "Did you mean '--learning_rate'"]),
        (["--preset=fast"], ["--preset=fast", "smoke|quick|paper"]),
        (["--data=digit"], ["dataset 'digit'", "Did you mean 'digits'"]),
        (["--data=digits:8x8"], ["--data=digits:8x8", "write --data=digits"]),
        (["--data=folder"], ["--data=folder", "write --data=folder:DIR"]),
        (["--data=folder:/no/such/place"], ["/no/such/place", "CLASS"]),
        (["--model=resnet19_cifar"], ["model 'resnet19_cifar'", "Did you mean 'resnet"]),
        (["--model.norm=bach"], ["norm 'bach'", "Did you mean 'batch'"]),
        (["--model.hidden=8"], ["field of model plain8_cifar 'hidden'", "Choices:", "width"]),
        (["--augment=flip,corp"], ["augmentation 'corp'", "Did you mean 'crop'"]),
        (["--optimizer=adm"], ["--optimizer=adm", "sgd|adam"]),
        (["--frozen=stem,stage11"], ["frozen 'stage11'", "Did you mean 'stage1'"]),
        (["--weights=/no/such/file"], ["weights=/no/such/file cannot be read", "Give the path of a file"]),
        (["--driver=fast"], ["--driver=fast", "auto|loop|scan"]),
        (["quick"], ["'quick'", "--name=value"]),
        # Types and ranges
        (["--steps=many"], ["--steps=many"]),
        (["--steps=-5"], ["--steps=-5", "positive integer"]),
        (["--batch_size=0"], ["--batch_size=0", "positive integer"]),
        (["--learning_rate=-0.1"], ["--learning_rate=-0.1", "non-negative"]),
        (["--learning_rate=nan"], ["learning_rate=nan", "at least 0.0"]),
        (["--learning_rate=inf"], ["learning_rate=inf", "must be finite"]),
        (["--momentum=1.5"], ["momentum=1.5", "from 0.0 to 0.9999"]),
        (["--dropout=1"], ["dropout=1.0", "from 0.0 to 0.999"]),
        (["--warmup=2"], ["warmup=2.0", "from 0.0 to 1.0"]),
        (["--seeds=0"], ["--seeds=0", "positive integer"]),
        (["--model.width=0"], ["width", "at least 1, not 0"]),
        (["--model.depth=9"], ["depth", "6n + 2", "not 9"]),
        (["--milestones=0.5,a"], ["milestones", "'a'", "tuple[float, ...]"]),
        (["--data.image_size=0"], ["--data.image_size=0", "at least 1 pixel"]),
        (["--data.channels=2"], ["--data.channels=2", "1 (grey) or 3 (colour)"]),
        (["--data=shapes", "--data.difficulty=7"], ["--data.difficulty=7.0", "between 0 and 1"]),
        (["--lanes=0"], ["--lanes=0", "positive integer"]),
        (["--threads=4096"], ["--threads=4096", "Use at most"]),
        # What does not fit together
        (["--data.image_size=3"], ["plain8_cifar", "at least 4x4 pixels, not 3x3", "--data.image_size=4"]),
        (["--model.num_classes=7"], ["10 classes", "--model.num_classes=10"]),
        (["--model.norm=group", "--model.width=12"], ["8 groups", "12 channels", "Choose a divisor"]),
        (["--model=lenet5", "--model.width=4"], ["field of model lenet5 'width'"]),
        (["--train_size=5000"], ["train_size=5000", "Use at most 1024, or 0 for all"]),
        (["--evaluate_every=10", "--steps=5"], ["evaluate_every=10", "steps=5", "Use at most 5, or 0"]),
        (["--augment=crop,crop"], ["augment=crop,crop", "each once"]),
        (["--milestones=0.75,0.5"], ["milestones=(0.75, 0.5)", "must rise"]),
        (["--lanes=4"], ["--lanes=4", "needs --driver=loop or --driver=scan"]),
        # Sweeps
        (["--sweep=l2"], ["--sweep='l2'", "NAME=VALUE,VALUE"]),
        (["--sweep=l2=0,1e-4,0"], ["'l2' holds 0.0 twice", "each value once"]),
        (["--sweep=l3=0,1"], ["swept name 'l3'", "Did you mean 'l2'"]),
        (["--sweep=l2=0,x"], ["l2", "'x' is not of type float"]),
        (["--sweep=l2=0,1e-4,-1e-4"], ["l2=-0.0001", "at least 0"]),
        (["--sweep=milestones=0.5,0.6"], ["milestones cannot be swept"]),
        (["--sweep=l2=0,1", "--l2=1"], ["l2 is given twice"]),
        (["--sweep=data.image_size=8,2"], ["at least 4x4 pixels, not 2x2"]),
        (["--sweep=model=resnet8_cifar,resnet8_cifr"], ["resnet8_cifr", "Did you mean 'resnet8_cifar'"]),
    ],
    ids=lambda value: " ".join(value) if value[0].startswith(("--", "quick")) else "",
)  # fmt: skip
def test_bad_arguments_are_refused(refused, argv, parts):
    message = refused(*argv)
    for part in parts:
        assert part in message
    assert len(message.strip().splitlines()) <= 2


def test_a_place_that_cannot_hold_results_is_refused(refused, tmp_path):
    (tmp_path / "file").write_text("")
    assert "file is not a directory. Use another --workdir" in refused(f"--workdir={tmp_path / 'file'}")
    (tmp_path / "degradation").mkdir()
    (tmp_path / "degradation" / "thesis.tex").write_text("years of work")
    assert "is not empty and holds no manifest" in refused(f"--workdir={tmp_path}")


def test_a_place_without_permission_is_refused(refused, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert f"No permission to write to {tmp_path}" in refused()


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
