"""An experiment whose runs start from a network that it trains first."""

import json
from types import ModuleType

import pytest

from cnnjax import claims, cli
from cnnjax.cli import missing
from cnnjax.sweep import explicit
from cnnjax.train import Hyper
from tests.fixtures import tiny


@pytest.fixture
def module():
    made = ModuleType("tiny_transfer", tiny.__doc__)
    made.__dict__.update({key: value for key, value in vars(tiny).items() if not key.startswith("__")})
    made.__file__ = "tiny_transfer.py"
    made.CLAIMS = tiny.CLAIMS[:1]
    made.FIGURES = ()
    made.source = lambda preset, data: (tiny.spec(preset, data), tiny.hyper(preset, data))
    made.grid = lambda preset, data, weights="": explicit({"weights": "", "l2": 0.0}, {"weights": weights, "l2": 0.01})
    made.verdict = lambda rows: claims.judge(
        made.CLAIMS, {made.CLAIMS[0].id: claims.paired(rows, "train_loss", {"l2": 0.01}, {"l2": 0.0})}
    )
    return made


@pytest.fixture
def call(module, tmp_path):
    return lambda *argv: cli.main(module, ["--preset=smoke", "--workers=0", f"--workdir={tmp_path}", *argv])


def rows(directory):
    return [json.loads(path.read_text()) for path in sorted((directory / "rows").iterdir())]


@pytest.mark.slow
def test_the_source_is_trained_once_and_its_weights_are_where_the_runs_start(call, tmp_path, capsys):
    assert call() == 0
    assert "First the network that the runs start from" in capsys.readouterr().out
    (source,) = rows(tmp_path / "tiny_transfer-source")
    found = {row["assignment"]["weights"] for row in rows(tmp_path / "tiny_transfer")}
    assert found == {"", *map(str, (tmp_path / "tiny_transfer-source" / "weights").glob("*.safetensors"))}
    assert len(found) == 2
    first = {
        row["seed"]: row["history"][0]["train_loss"]
        for row in rows(tmp_path / "tiny_transfer")
        if row["assignment"]["weights"]
    }
    assert all(loss < source["history"][0]["train_loss"] for loss in first.values())  # they go on from there

    before = [path.stat().st_mtime_ns for path in (tmp_path / "tiny_transfer-source" / "rows").iterdir()]
    assert call() == 0
    assert "First the network" not in capsys.readouterr().out
    assert [path.stat().st_mtime_ns for path in (tmp_path / "tiny_transfer-source" / "rows").iterdir()] == before


def test_a_plan_trains_nothing(call, tmp_path):
    assert call("--plan") == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_flags_of_the_network_hold_for_the_source_too(call, tmp_path):
    assert call("--model.hidden=4") == 0
    manifest = json.loads((tmp_path / "tiny_transfer-source" / "manifest.json").read_text())
    assert ["hidden", [4]] in manifest["configuration"]["spec"]["model_fields"]


@pytest.mark.slow
def test_another_source_is_refused_and_nothing_is_written(call, module, tmp_path, capsys):
    assert call() == 0
    written = {path: path.read_bytes() for path in tmp_path.rglob("*.json")}
    module.source = lambda preset, data: (tiny.spec(preset, data), Hyper(l2=0.5))
    assert call() == 2
    assert "tiny_transfer-source" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.json")} == written


@pytest.mark.slow
def test_the_data_of_an_experiment_that_names_some(call, module, tmp_path):
    module.DATA = "shapes"
    assert call("--data.examples=64") == 0
    manifest = json.loads((tmp_path / "tiny_transfer" / "manifest.json").read_text())
    assert manifest["configuration"]["spec"]["data"]["name"] == "shapes"
    assert missing.default_data(module) == "shapes"
    assert missing.default_data(tiny) == "digits"
