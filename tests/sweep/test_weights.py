import dataclasses
import os
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from cnnjax import process, sweep, weights
from cnnjax.models.mlp import MLP
from cnnjax.sweep import bundle as bundles
from cnnjax.sweep.plan import plan, points
from cnnjax.sweep.rule import cost
from cnnjax.sweep.session import Session
from cnnjax.train.pretrained import sha256
from cnnjax.train.spec import Hyper
from cnnjax.typing import UsageError
from cnnjax.weights.saved import restore


@pytest.fixture(scope="module")
def keeping(spec):
    return dataclasses.replace(spec, keep_weights=True)


@pytest.fixture(scope="module")
def pretrained(keeping, execution, tmp_path_factory):
    """Two runs whose weights were kept: their directory and rows."""
    directory = tmp_path_factory.mktemp("pretrained")
    return directory, sweep.run(keeping, seeds=range(2), directory=directory, execution=execution)


@pytest.fixture
def source(pretrained, tmp_path):
    """A copy of the first run's weights, which a test may change."""
    kept = sweep.weights_of(pretrained[1][0], pretrained[0])
    for path in (kept, kept.with_suffix(".json")):
        shutil.copy(path, tmp_path / f"source{path.suffix}")
    return tmp_path / "source.safetensors"


def change(path, bias=1, mean=None):
    """Another first bias, or the same arrays for images of another mean; the file stays a good one."""
    found = restore(path)
    found.variables["params"]["head"]["bias"][0] += bias
    steps = found.preprocessing if mean is None else dataclasses.replace(found.preprocessing, mean=(mean,))
    described = {"preprocessing": steps, "image_shape": found.image_shape, **found.fields}
    weights.save(path, found.variables, found.name, **described)


# Kept


def test_every_run_keeps_the_variables_that_its_digest_is_of(pretrained):
    directory, rows = pretrained
    files = [sweep.weights_of(row, directory) for row in rows]
    assert {path.parent for path in files} == {directory / "weights"}
    for row, path in zip(rows, files, strict=True):
        found = restore(path)
        assert row["weights"] == {"file": f"weights/{row['run_id']}.safetensors", "content": sha256(str(path))}
        assert found.model == MLP(hidden=(8,), num_classes=10)
        assert jax.tree.map(np.shape, found.variables) == {
            "params": {"dense1": {"bias": (8,), "kernel": (64, 8)}, "head": {"bias": (10,), "kernel": (8, 10)}}
        }
        assert found.class_names == tuple("0123456789")
        assert (found.preprocessing.resize, found.preprocessing.crop) == (8, 8)
        digits = bundles.dataset_of(bundles.DataConfig())
        np.testing.assert_allclose(found.preprocessing.mean, digits.mean, rtol=1e-6)
        np.testing.assert_allclose(found.preprocessing.std, digits.std, rtol=1e-6)
    assert rows[0]["weights"]["content"] != rows[1]["weights"]["content"]


def test_the_same_run_keeps_the_same_file_and_other_rows_are_as_without(
    pretrained, spec, keeping, execution, timeless, tmp_path
):
    again = sweep.run(keeping, seeds=[0], directory=tmp_path / "again", execution=execution)
    assert again[0]["weights"] == pretrained[1][0]["weights"]
    (plain,) = sweep.run(spec, seeds=[0], execution=execution)
    assert plain["parameters_digest"] == again[0]["parameters_digest"]
    assert plain["metrics"] == again[0]["metrics"]
    with pytest.raises(UsageError, match=r"kept no weights\. Set keep_weights=True"):
        sweep.weights_of(plain, tmp_path)


def test_a_lost_file_is_named(pretrained, tmp_path):
    with pytest.raises(UsageError, match=r"weights/.*\.safetensors is missing"):
        sweep.weights_of(pretrained[1][0], tmp_path)


def test_without_a_directory_there_is_no_place_for_weights(keeping, execution):
    with pytest.raises(UsageError, match="keep_weights=True needs a place"):
        sweep.run(keeping, seeds=[0], execution=execution)


def test_a_row_is_never_without_its_file(keeping, execution, tmp_path, monkeypatch):
    replace = os.replace

    def full(source, target):
        if Path(target).parent.name == "weights" and Path(target).suffix == ".json":
            raise OSError(28, "No space left on device")
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(RuntimeError, match="No space left"):
            sweep.run(keeping, seeds=[0], directory=tmp_path, execution=execution)
    assert not list(tmp_path.glob("rows/*"))
    if not (child := os.fork()):  # a kill in mid-write
        process.partial(tmp_path / "weights", "run.safetensors").write_text("half")
        os._exit(0)
    os.waitpid(child, 0)
    (row,) = sweep.run(keeping, seeds=[0], directory=tmp_path, execution=execution)  # what is left is no hindrance
    assert restore(sweep.weights_of(row, tmp_path)).name == "mlp"
    assert not list((tmp_path / "weights").glob(".*"))


# Transferred from


@pytest.mark.slow
def test_a_run_starts_from_the_weights_of_another(pretrained, spec, execution, source):
    frozen = dataclasses.replace(spec, weights=str(source), frozen=("hidden1",), steps=1, evaluate_every=0)
    rows = sweep.run(frozen, seeds=[0, 1], hyper=Hyper(learning_rate=0.0), execution=execution)
    for row in rows:
        assert row["metrics"]["test_loss"] == pytest.approx(pretrained[1][0]["metrics"]["test_loss"], abs=1e-4)
        assert row["metrics"]["trained_parameters"] == 90
        assert row["spec"]["weights"] == pretrained[1][0]["weights"]["content"]
    assert rows[0]["metrics"] != pretrained[1][1]["metrics"]


@pytest.mark.slow
def test_moved_weights_are_the_same_and_changed_ones_are_refused(spec, execution, source, tmp_path):
    def run(path, seeds):
        tuned = dataclasses.replace(spec, weights=str(path))
        return sweep.run(tuned, seeds=seeds, directory=tmp_path / "sweep", execution=execution)

    (row,) = run(source, [0])
    moved = tmp_path / "moved.safetensors"
    for old in (source, source.with_suffix(".json")):
        old.rename(moved.with_suffix(old.suffix))
    assert run(moved, range(2))[0] == row
    change(moved)
    old, new = row["spec"]["weights"], sha256(str(moved))
    with pytest.raises(UsageError, match=rf"moved\.safetensors has changed .* \({old} before, {new} now\)"):
        run(moved, range(2))
    again = moved.rename(moved.with_stem("again"))
    moved.with_suffix(".json").rename(again.with_suffix(".json"))
    with pytest.raises(UsageError, match="holds results of a different configuration") as error:
        run(again, range(2))
    assert f'there: "weights": "{old}"' in str(error.value)
    assert f'asked: "weights": "{new}"' in str(error.value)
    with pytest.raises(UsageError, match=r"moved\.safetensors cannot be read"):
        run(moved, range(2))


@pytest.mark.parametrize("changes", [{}, {"bias": 0, "mean": 0.5}])
def test_weights_that_change_while_a_sweep_runs_are_refused(spec, execution, source, changes):
    tuned = dataclasses.replace(spec, weights=str(source))
    planned = plan(points(tuned, Hyper(), sweep.product(l2=[0.0]), [0]), "cpu", execution.driver)
    session = Session(planned, execution, None, {"configuration": {}})
    session.check()
    session.start()
    before = (sha256(str(source)), restore(source).preprocessing.mean[0])
    change(source, **changes)
    now = (sha256(str(source)), restore(source).preprocessing.mean[0])
    with pytest.raises(RuntimeError, match=r"source\.safetensors has changed since the sweep started") as error:
        session.execute()
    differ = f"mean: [{before[1]}] before, [{now[1]}] now" if changes else f"{before[0]} before, {now[0]} now"
    assert differ in str(error.value)


@pytest.mark.slow
def test_a_swept_file_that_changed_is_refused_by_name(spec, execution, source, tmp_path):
    arguments = {"seeds": [0], "directory": tmp_path / "sweep", "execution": execution}
    sweep.run(spec, sweep.product(weights=[str(source)]), **arguments)
    change(source)
    with pytest.raises(UsageError, match=r"source\.safetensors has changed since the sweep in .* before, sha256:"):
        sweep.run(spec, sweep.product(weights=[str(source)]), **arguments)


def test_images_are_normalised_as_the_weights_ask_and_the_kept_file_says_so(keeping, execution, source, tmp_path):
    change(source, bias=0, mean=0.5)
    std = restore(source).preprocessing.std
    tuned = dataclasses.replace(keeping, weights=str(source))
    arguments = {"seeds": [0], "directory": tmp_path / "sweep", "execution": execution}
    (row,) = sweep.run(tuned, **arguments)
    expected = {"weights": sha256(str(source)), "mean": [0.5], "std": list(std)}
    assert {name: row["signature"][name] for name in expected} == expected
    kept = restore(sweep.weights_of(row, tmp_path / "sweep")).preprocessing
    assert (kept.mean, kept.std) == ((0.5,), std)
    change(source, bias=0, mean=0.25)
    with pytest.raises(UsageError, match="another execution signature") as error:
        sweep.run(tuned, **{**arguments, "seeds": [0, 1]})
    assert "there: 0.5" in str(error.value)
    assert "asked: 0.25" in str(error.value)


def test_a_program_is_cheap_where_only_the_head_is_computed(spec, source):
    info = bundles.dataset_of(spec.data).info
    head = dataclasses.replace(spec, weights=str(source), frozen=("hidden1",))
    assert cost(head, info) == 8 * 10
    assert cost(dataclasses.replace(head, cache_features=False), info) == cost(spec, info) == 64 * 8 + 8 * 10
