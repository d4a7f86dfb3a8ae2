import dataclasses
import json
import os
import signal
from pathlib import Path

import pytest

from cnnjax.data.catalog import DataConfig
from cnnjax.sweep import bundle as bundles
from cnnjax.sweep import product, run
from cnnjax.sweep.execution import Execution
from cnnjax.sweep.plan import plan, points
from cnnjax.sweep.session import Session
from cnnjax.train.program import Driver, program
from cnnjax.train.run import Interrupted
from cnnjax.train.spec import Hyper, digest
from cnnjax.typing import UsageError

GRID = product(l2=[0.0, 0.01], dropout=[0.0, 0.3])
NAN = {"learning_rate": 1e30}


@pytest.fixture(scope="module")
def rows(spec, execution):
    """Four points with three seeds, kept in memory."""
    return run(spec, GRID, range(3), execution=execution)


def times(directory):
    return {path.name: path.stat().st_mtime_ns for path in (Path(directory) / "rows").iterdir()}


@pytest.fixture
def no_training(monkeypatch):
    """Called, it fails the test where a bundle is trained from then on."""

    def forbid():
        monkeypatch.setattr(bundles, "train", lambda *args, **options: pytest.fail("a bundle was trained"))

    return forbid


def test_a_row_for_every_point_in_the_grids_order(rows, spec):
    assert [(row["assignment"], row["seed"]) for row in rows] == [(point, seed) for point in GRID for seed in range(3)]
    assert all(row["hyper"]["l2"] == row["assignment"]["l2"] for row in rows)
    assert len({row["run_id"] for row in rows}) == len({row["parameters_digest"] for row in rows}) == 12
    first = rows[0]
    assert (first["status"], first["error"], first["diverged_step"]) == ("done", None, None)
    assert first["spec"]["model_fields"] == [["hidden", [8]]]
    assert first["signature_digest"] == digest(first["signature"])
    assert (first["signature"]["driver"], first["signature"]["lanes"]) == ("scan", 2)
    assert first["signature"]["threads"] == bundles.threads_here()
    assert len({row["program"] for row in rows}) == 1
    assert [record["step"] for record in first["history"]] == [6, 12]
    assert json.dumps(rows)


@pytest.mark.parametrize("index", [0, 4, 11])
def test_a_point_run_alone_gives_the_row_of_the_sweep(rows, spec, execution, timeless, index):
    expected = rows[index]
    numbers = Hyper(**expected["assignment"])
    (alone,) = run(spec, seeds=[expected["seed"]], hyper=numbers, execution=execution)
    assert alone["assignment"] == {}
    assert timeless([{**alone, "assignment": expected["assignment"]}]) == timeless([expected])


def test_a_point_that_diverges_changes_no_other(rows, spec, execution, timeless):
    found = run(spec, (NAN, *GRID[:2]), range(3), execution=execution)
    assert [row["status"] for row in found] == ["diverged"] * 3 + ["done"] * 6
    assert timeless(found[3:]) == timeless(rows[:6])


def test_the_order_of_the_grid_and_the_seeds_changes_nothing(rows, spec, execution, timeless):
    found = run(spec, tuple(reversed(GRID)), [2, 0, 1], execution=execution)
    by_run = {row["run_id"]: row for row in found}
    assert timeless([by_run[row["run_id"]] for row in rows]) == timeless(rows)


# A directory


def test_rows_on_disk_are_those_in_memory_and_a_second_call_trains_nothing(
    rows, spec, execution, timeless, tmp_path, no_training
):
    found = run(spec, GRID, range(3), directory=tmp_path / "sweep", execution=execution)
    assert timeless(found) == timeless(rows)
    assert {path.name for path in (tmp_path / "sweep").iterdir()} == {"manifest.json", "rows", "log"}
    before = times(tmp_path / "sweep")
    no_training()
    assert run(spec, GRID, range(3), directory=tmp_path / "sweep", execution=execution) == found
    assert times(tmp_path / "sweep") == before


def test_a_sweep_that_grows_trains_what_is_new(rows, spec, execution, timeless, tmp_path):
    run(spec, GRID[:3], range(2), directory=tmp_path, execution=execution)
    before = times(tmp_path)
    created = json.loads((tmp_path / "manifest.json").read_text())["created"]
    found = run(spec, GRID, range(3), directory=tmp_path, execution=execution)
    assert timeless(found) == timeless(rows)
    assert len(before) == 6
    assert times(tmp_path).items() >= before.items()
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["created"] == created
    assert set(manifest["runs"]) == {row["run_id"] for row in rows}


def test_a_missing_row_is_made_again(rows, spec, execution, timeless, tmp_path):
    run(spec, GRID, range(3), directory=tmp_path, execution=execution)
    before = times(tmp_path)
    lost = f"{rows[7]['run_id']}.json"
    (tmp_path / "rows" / lost).unlink()
    assert timeless(run(spec, GRID, range(3), directory=tmp_path, execution=execution)) == timeless(rows)
    assert {name: when for name, when in times(tmp_path).items() if name != lost}.items() <= before.items()


def test_the_manifest_says_what_the_results_belong_to(rows, spec, execution, tmp_path):
    run(spec, GRID, range(3), directory=tmp_path, execution=execution)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["runs"] == {row["run_id"]: row["signature_digest"] for row in rows}
    assert manifest["signatures"] == {rows[0]["signature_digest"]: rows[0]["signature"]}
    assert manifest["programs"] == 1
    assert manifest["data"] == {"digits": rows[0]["data"]}
    assert manifest["configuration"]["seeds"] == [0, 1, 2]
    assert manifest["configuration"]["grid"] == list(GRID)
    assert {"python", "jax", "jaxlib", "flax", "numpy"} <= set(manifest["versions"])
    assert manifest["device"]["platform"] == "cpu"
    assert manifest["command"]


def test_a_sweep_interrupted_and_repeated_is_the_uninterrupted_one(rows, spec, execution, timeless, tmp_path):
    planned = plan(points(spec, Hyper(), GRID, range(3)), "cpu", execution.driver)
    interrupted, seen = Session(planned, execution, tmp_path, {"configuration": {}}), []

    def stop(news):
        seen.append(news)
        if len(seen) == 4:  # in the second bundle
            os.kill(os.getpid(), signal.SIGINT)

    interrupted.check()
    interrupted.start()
    with pytest.raises(Interrupted, match="stopped at step 6 of 12"):
        interrupted.execute(stop)
    assert len(times(tmp_path)) == 2
    assert len(interrupted.pending()) == 5
    assert timeless(run(spec, GRID, range(3), directory=tmp_path, execution=execution)) == timeless(rows)
    assert not (tmp_path / "checkpoints").exists()


def test_a_state_of_another_signature_is_continued_only_on_demand_and_marked(rows, spec, execution, tmp_path):
    def session(threads, mix=False):
        planned = plan(points(spec, Hyper(), GRID[:1], range(2)), "cpu", execution.driver)
        mixing = dataclasses.replace(execution, mix_signatures=mix)
        made = Session(planned, mixing, tmp_path, {"configuration": {}})
        made.signatures = {key: {**old, "threads": threads} for key, old in made.signatures.items()}
        made.check()
        made.start()
        return made

    with pytest.raises(Interrupted):
        session(1).execute(lambda news: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(UsageError, match="holds checkpoints made under another execution signature") as error:
        session(2)
    assert 'there: "threads": 1' in str(error.value)
    assert 'asked: "threads": 2' in str(error.value)
    steps, mixed = [], session(2, mix=True)
    mixed.execute(lambda news: steps.append(news.steps))
    assert steps == [12, 12]
    found = mixed.rows()
    assert [row["signature"]["threads"] for row in found] == [2, 2]
    assert [row["earlier_signatures"] for row in found] == [
        [digest({**row["signature"], "threads": 1})] for row in found
    ]
    assert [row["parameters_digest"] for row in found] == [row["parameters_digest"] for row in rows[:2]]


def test_the_last_states_are_kept_on_demand(rows, spec, execution, tmp_path):
    keeping = dataclasses.replace(execution, keep_checkpoints=True)
    run(spec, GRID[:1], range(2), directory=tmp_path, execution=keeping)
    (state,) = (tmp_path / "checkpoints").glob("*/*")
    assert state.name == str(spec.steps)
    run(spec, GRID[:1], range(2), directory=tmp_path, execution=keeping)
    assert state.exists()


def test_a_second_bundle_and_a_second_sweep_compile_nothing(rows, spec, execution):
    dataset = bundles.dataset_of(DataConfig())
    compiled = program(spec, dataset.info, execution.driver)
    before = compiled.compilations()
    run(spec, product(momentum=[0.1, 0.2]), range(4), execution=execution)
    assert compiled.compilations() == before > 0


# Refusals


def test_another_configuration_is_refused_and_nothing_is_touched(spec, execution, tmp_path, no_training):
    run(spec, GRID, range(3), directory=tmp_path, execution=execution)
    no_training()
    before = (tmp_path / "manifest.json").read_bytes(), times(tmp_path)
    for changed in (dataclasses.replace(spec, steps=13), dataclasses.replace(spec, batch_size=8)):
        with pytest.raises(UsageError, match="holds results of a different configuration"):
            run(changed, GRID, range(3), directory=tmp_path, execution=execution)
    with pytest.raises(UsageError, match=r"has the seeds 0 to 2; asked: 0 to 1\..*--seeds=3"):
        run(spec, GRID, range(2), directory=tmp_path, execution=execution)
    assert ((tmp_path / "manifest.json").read_bytes(), times(tmp_path)) == before


def test_another_driver_is_refused_unless_asked_for(rows, spec, execution, tmp_path):
    run(spec, GRID[:1], range(1), directory=tmp_path, execution=execution)
    before = times(tmp_path)
    other = Execution(driver=Driver("loop", 2))
    with pytest.raises(UsageError, match=r"another execution signature") as error:
        run(spec, GRID[:1], range(2), directory=tmp_path, execution=other)
    assert 'there: "driver": "scan"' in str(error.value)
    assert times(tmp_path) == before
    mixed = run(spec, GRID[:1], range(2), directory=tmp_path, execution=dataclasses.replace(other, mix_signatures=True))
    assert [row["signature"]["driver"] for row in mixed] == ["scan", "loop"]
    assert mixed[1]["metrics"] == pytest.approx(rows[1]["metrics"], rel=1e-3)
    assert mixed[1]["signature_digest"] != rows[1]["signature_digest"]


def test_changed_data_are_refused(spec, execution, tmp_path, monkeypatch):
    run(spec, GRID[:1], range(1), directory=tmp_path, execution=execution)
    changed = dataclasses.replace(bundles.dataset_of(DataConfig()), fingerprint="f" * 64)
    monkeypatch.setattr(bundles, "dataset_of", lambda config: changed)
    before = (tmp_path / "manifest.json").read_bytes(), times(tmp_path)
    with pytest.raises(UsageError, match="different configuration") as error:
        run(spec, GRID[:1], range(2), directory=tmp_path, execution=execution)
    assert f'asked: "digits": "{"f" * 64}"' in str(error.value)
    assert ((tmp_path / "manifest.json").read_bytes(), times(tmp_path)) == before


def test_one_bad_point_stops_the_sweep_before_anything_is_made(spec, execution, tmp_path, no_training):
    no_training()
    for grid in ((*GRID, {"l2": -1.0}), (*GRID, {"no_such": 1})):
        with pytest.raises(UsageError):
            run(spec, grid, range(3), directory=tmp_path / "sweep", execution=execution)
    assert list(tmp_path.iterdir()) == []


def test_two_forms_of_one_dataset_keep_their_fingerprints_apart(spec, execution, tmp_path):
    grid = product(**{"data.image_size": [8, 16]})

    def session():
        made = Session(plan(points(spec, Hyper(), grid, [0]), "cpu"), execution, tmp_path, {"configuration": {}})
        made.check()
        made.start()
        return made

    data = session().store.manifest["data"]
    assert set(data) == {"digits image_size=8", "digits image_size=16"}
    assert len(set(data.values())) == 2
    assert session().store.manifest["data"] == data
