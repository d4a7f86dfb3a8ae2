"""Every experiment works from its flags to its report, shrunk to a few steps; its other presets plan without error."""

import csv
import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from cnnjax import claims, cli
from cnnjax.cli.evidence import experiments
from cnnjax.cli.presets import PRESETS
from cnnjax.data.catalog import DataConfig
from cnnjax.sweep import plan, points
from cnnjax.sweep.grid import NOTHING

EXPERIMENTS = experiments()
QUICK = ("lrn", "test_time")  # to train the others as well takes minutes
SMOKE = [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in EXPERIMENTS]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three classes of coloured pictures, 16x16."""
    root = tmp_path_factory.mktemp("pictures")
    pixels = np.random.default_rng(0).integers(0, 256, (90, 16, 16, 3), np.uint8)
    for number, picture in enumerate(pixels):
        path = root / "abc"[number % 3] / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(picture).save(path)
    return DataConfig(f"folder:{root}", valid_fraction=0.2)


@pytest.mark.parametrize("name", SMOKE)
def test_smoke(name, tmp_path, capsys):
    module = EXPERIMENTS[name]
    assert cli.main(module, ["--preset=smoke", f"--workdir={tmp_path}", "--workers=0"]) == 0
    assert module.TITLE in " ".join(capsys.readouterr().out.split())
    results = tmp_path / name
    measures = {"measured.json", "measured.csv"} if hasattr(module, "measure") else set()
    assert {path.name for path in results.iterdir()} == {
        "manifest.json", "rows", "log", "results.csv", "verdict.json", "report.html", "figures"
    } | measures  # fmt: skip
    verdict = json.loads((results / "verdict.json").read_text())
    assert set(verdict) == {"experiment", "preset", "claims"}
    assert (verdict["experiment"], verdict["preset"]) == (name, "smoke")
    assert [claim["id"] for claim in verdict["claims"]] == [claim.id for claim in module.CLAIMS]
    assert module.SEEDS["smoke"] < claims.MIN_SEEDS
    exact = {claim.id for claim in module.CLAIMS if claim.test == claims.EXACT}
    for claim in verdict["claims"]:
        assert claim["n"] > 0, claim["id"]
        if claim["id"] in exact:  # nothing is trained, so nothing is too short to decide
            assert claim["verdict"] == "reproduced", claim
    assert len(list((results / "figures").glob("*.png"))) == len(module.FIGURES)
    manifest = json.loads((results / "manifest.json").read_text())
    with (results / "results.csv").open() as file:
        table = list(csv.DictReader(file))
    assert {line["run_id"] for line in table} == set(manifest["runs"])
    assert {line["status"] for line in table} == {"done"}
    for metric in module.METRICS:
        assert any(line[metric] for line in table), metric


def points_of(module, preset, data):
    spec, hyper, grid = (make(preset, data) for make in (module.spec, module.hyper, module.grid))
    assert grid != NOTHING
    if data.name != "digits":
        hyper = dataclasses.replace(hyper, train_size=0)  # the folder is smaller than what people have
    every = points(spec, hyper, grid, range(module.SEEDS[preset]))
    assert len(every) == len(grid) * module.SEEDS[preset]
    assert {point.spec.data.name for point in every} == {data.name}
    return every


@pytest.mark.parametrize(("preset", "data"), [("quick", "digits"), ("paper", "folder")])
@pytest.mark.parametrize("name", EXPERIMENTS)
@pytest.mark.slow
def test_the_other_presets_plan(name, preset, data, folder):
    every = points_of(EXPERIMENTS[name], preset, folder if data == "folder" else DataConfig())
    assert len(plan(every, "cpu").points) == len(every)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_the_quick_preset_has_points_for_own_data(name, folder):
    assert points_of(EXPERIMENTS[name], "quick", folder)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_says_what_a_reader_needs(name):
    module = EXPERIMENTS[name]
    assert f"python -m experiments.{name}" in module.__doc__
    assert "Quick" in module.__doc__
    assert "Paper" in module.__doc__
    assert set(module.SEEDS) == set(PRESETS)
    assert min(module.SEEDS["quick"], module.SEEDS["paper"]) >= claims.MIN_SEEDS
    assert len({claim.id for claim in module.CLAIMS}) == len(module.CLAIMS)
    assert all(claim.source.startswith("S") and claim.statement.endswith(".") for claim in module.CLAIMS)
